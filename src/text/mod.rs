//! Tokenizers, chat templates, prompts and datasets.
