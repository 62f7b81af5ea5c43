//! Data files: one reader for every command and format, and the records that rows become.
//!
//! | module | what it holds |
//! |---|---|
//! | [`input`] | [`Input`]: a file or pipe opened; gzip, zstd and the format are told by the first bytes |
//! | `text` | rows of JSON Lines, of a JSON array, of JSON objects over several lines |
//! | [`json`] | JSON as Python writes it, with `NaN` and `Infinity` |
//! | `csv` | rows of CSV files with a header |
//! | `parquet` | rows of Parquet files, from the wanted columns |
//! | [`row`] | [`Row`]: fields by name and type, with errors that name them |
//! | [`place`] | [`Place`]: where a row is |
//! | [`record`] | [`Record`], [`read_records`]: rows → records, rows left out by reason |
//! | [`dataset`] | the record types of every command's input |
//! | [`listing`] | the files below a directory |
//! | [`message`] | [`Message`], [`PromptContent`] |
//! | `id` | [`Id`]: the name of a row, echoed as it was written |
//! | [`key`] | what makes two prompts the same prompt |
//! | [`weight`] | what rows take of memory, and its limits |
//! | [`prepare`] | public preference files → disjoint training, validation and held-out files |

mod csv;
pub mod dataset;
mod id;
pub mod input;
pub mod json;
pub mod key;
pub mod listing;
pub mod message;
mod parquet;
pub mod place;
pub mod prepare;
pub mod record;
pub mod row;
mod text;
pub mod weight;

pub use dataset::{
    GradientRecord, LogprobsInput, LogprobsRecord, PreferenceRecord, PromptRecord, ScoreInput, ScoreRecord,
    SftRecord, TokenRecord,
};
pub use id::Id;
pub use input::Input;
pub use key::sha256_hex;
pub use message::{ASSISTANT, Message, PromptContent};
pub use place::Place;
pub use record::{Record, Tally, parse_records, read_records};
pub use row::{Row, shown};

#[cfg(test)]
mod tests;
