//! Tokenizers, chat templates, prompts and datasets: everything that turns text into token ids and back.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tokenizer`] | [`Tokenizer`]: Hugging Face's `tokenizer.json` and its companions |
//! | [`gguf_vocab`] | [`GgufVocab`]: a tokenizer from a GGUF file's metadata |
//! | [`chat`] | [`ChatTemplate`], [`Message`], [`TemplateDate`]: Hugging Face chat templates |
//! | [`json`] | JSON as Python writes it: the reader of everybody else's JSON |
//! | [`jsonl`] | reading JSON Lines with errors that name file and line |
//! | [`dataset`] | the record types of every command's input |
//! | [`key`] | what makes two prompts the same prompt |
//! | [`prepare`] | public preference files → disjoint training, validation and held-out files |
//! | [`mod@format`] | [`Formatter`]: records → token ids |

pub mod chat;
pub mod dataset;
pub mod format;
pub mod gguf_vocab;
mod jinja;
pub mod journal;
pub mod json;
pub mod jsonl;
pub mod key;
pub mod prepare;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message, TemplateDate};
pub use dataset::{
    GradientRecord, LogprobsInput, LogprobsRecord, PreferenceRecord, PromptContent, PromptRecord, ScoreInput,
    ScoreRecord, SftRecord, TokenRecord,
};
pub use format::Formatter;
pub use gguf_vocab::GgufVocab;
pub use jsonl::{parse_jsonl, read_jsonl};
pub use key::sha256_hex;
pub use tokenizer::{HfFiles, Tokenizer};
