//! Tokenizers and chat templates: everything that turns text into token ids and back.
//!
//! | module | what it holds |
//! |---|---|
//! | [`tokenizer`] | [`Tokenizer`]: Hugging Face's `tokenizer.json` and its companions |
//! | [`gguf_vocab`] | [`GgufVocab`]: a tokenizer from a GGUF file's metadata |
//! | [`chat`] | [`ChatTemplate`], [`TemplateDate`]: Hugging Face chat templates |
//! | [`fewest`] | [`Encoded`]: the ids of a text, unless it cannot fit |
//! | [`mod@format`] | [`Formatter`]: records → token ids |

pub mod chat;
pub mod fewest;
pub mod format;
pub mod gguf_vocab;
mod jinja;
mod jinja_compile;
mod jinja_filters;
mod jinja_methods;
mod jinja_ops;
mod jinja_source;
mod jinja_work;
pub mod journal;
mod pipeline;
pub mod tokenizer;
mod tokenizer_file;

pub use crate::data::json;
pub use crate::data::{
    GradientRecord, LogprobsInput, LogprobsRecord, Message, PreferenceRecord, PromptContent, PromptRecord,
    ScoreInput, ScoreRecord, SftRecord, TokenRecord, sha256_hex,
};
pub use chat::{ChatTemplate, TemplateDate};
pub use fewest::{Count, Encoded};
pub use format::Formatter;
pub use gguf_vocab::GgufVocab;
pub use tokenizer::{HfFiles, Tokenizer};
