//! What rows take of memory: the one count of it, and its limits.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::message::PromptContent;
use super::place::Place;
use crate::error::{Error, Result};
use crate::file::limits::{
    Limit, ROW, ROW_MEMORY, ROWS, TEXT_ROWS, TEXT_ROWS_RATIO, UNPACKED, UNPACKED_RATIO, VALUES, VALUES_RATIO,
};

/// Bytes of an item of a list, where the list has room for as many again.
pub(super) const ITEM: u64 = 64;
/// Bytes of an object without its fields.
pub(super) const OBJECT: u64 = 160;
/// Bytes of a field without its name and value.
pub(super) const FIELD: u64 = 96;
/// Bytes of a text without its characters.
const TEXT: u64 = 24;
/// Bytes of a row without its fields: what the record and its place take.
const RECORD: u64 = 224;
/// Bytes of JSON that take little whatever they say.
const SHORT: usize = 1 << 20;

/// What one row takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    memory: u64,
    data: u64,
}

impl Room {
    /// Takes bytes of memory.
    pub(super) fn take(&mut self, bytes: u64) -> Result<(), Over> {
        self.memory += bytes;
        self.data += 1;
        Over::check(&ROW_MEMORY, self.memory)
    }

    /// Takes a text, before it is made.
    pub(super) fn text(&mut self, length: usize) -> Result<(), Over> {
        let length = length as u64;
        Over::check(&ROW, length)?;
        self.data += length;
        self.take(length)
    }

    /// Bytes of the row's values.
    pub(super) fn data(&self) -> u64 {
        self.data
    }
}

/// A limit that a row exceeds, and what was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Over(&'static Limit, u64);

impl Over {
    fn check(limit: &'static Limit, found: u64) -> Result<(), Self> {
        match found > limit.most() {
            true => Err(Self(limit, found)),
            false => Ok(()),
        }
    }

    /// The error, with the row's place.
    pub(super) fn at(self, place: impl Display) -> Error {
        let Self(limit, found) = self;
        match limit.check(&place, found) {
            // A row is counted up to its limit and no further.
            Err(e) if *limit == ROW => e,
            _ => limit.exceeded(place),
        }
    }
}

/// How much more compressed and encoded files hold than they have bytes. Clones count together: those of one file, or of
/// all files of a directory.
#[derive(Debug, Clone, Default)]
pub struct Expansion(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Bytes of the files so far.
    size: AtomicU64,
    /// Bytes that compressed files and pages unpacked to.
    unpacked: AtomicU64,
    /// Bytes of values.
    data: AtomicU64,
    /// Values of Parquet files.
    values: AtomicU64,
    /// Rows of compressed text.
    rows: AtomicU64,
}

impl Expansion {
    /// More bytes of files.
    pub(super) fn read(&self, bytes: u64) {
        self.0.size.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were packed; refuses what so few bytes do not hold in good faith, as the other counts do.
    pub(super) fn unpacked(&self, place: impl Display, bytes: u64) -> Result<()> {
        self.add(place, &self.0.unpacked, bytes, &UNPACKED, UNPACKED_RATIO)
    }

    /// Counts bytes of values. A dictionary holds a value once that rows have again and again.
    pub(super) fn data(&self, place: impl Display, bytes: u64) -> Result<()> {
        self.add(place, &self.0.data, bytes, &UNPACKED, UNPACKED_RATIO)
    }

    /// Counts values of a Parquet file, null ones among them: their levels are run lengths, which may be any.
    pub(super) fn values(&self, place: impl Display, values: u64) -> Result<()> {
        self.add(place, &self.0.values, values, &VALUES, VALUES_RATIO)
    }

    /// Counts rows of compressed text.
    pub(super) fn rows(&self, place: impl Display, rows: u64) -> Result<()> {
        self.add(place, &self.0.rows, rows, &TEXT_ROWS, TEXT_ROWS_RATIO)
    }

    fn add(
        &self,
        place: impl Display,
        count: &AtomicU64,
        more: u64,
        limit: &Limit,
        ratio: u64,
    ) -> Result<()> {
        let found = count.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        match found > limit.most() && found / ratio > self.0.size.load(Ordering::Relaxed) {
            true => Err(limit.exceeded(place)),
            false => Ok(()),
        }
    }
}

/// Checks what the text of a row of JSON becomes in memory, before it is read.
pub(super) fn json(text: &str) -> Result<(), Over> {
    if text.len() < SHORT {
        return Ok(());
    }
    // serde_json reads the text under one name of its own as JSON, and the name may be spelt with escapes.
    let hidden = text.contains("private::RawValue") || text.contains("\\u");
    let (mut total, mut quoted, mut escaped) = (text.len() as u64, false, false);
    for byte in text.bytes() {
        if quoted && !hidden {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        total += match byte {
            b'"' => {
                quoted = true;
                TEXT
            }
            b'{' => OBJECT,
            b'[' => 2 * ITEM,
            b':' => FIELD,
            b',' => ITEM,
            _ => 0,
        };
    }
    Over::check(&ROW_MEMORY, total)
}

/// Something whose memory can be counted.
pub trait Weight {
    /// About how many bytes it takes.
    fn weight(&self) -> u64;
}

impl Weight for Value {
    fn weight(&self) -> u64 {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::String(text) => TEXT + text.len() as u64,
            Self::Array(items) => items.iter().map(|item| ITEM + item.weight()).sum(),
            Self::Object(fields) => OBJECT + fields.weight(),
        }
    }
}

impl Weight for Map<String, Value> {
    fn weight(&self) -> u64 {
        self.iter()
            .map(|(name, value)| FIELD + name.len() as u64 + value.weight())
            .sum()
    }
}

impl Weight for PromptContent {
    fn weight(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Messages(turns) => turns
                .iter()
                .map(|turn| ITEM + (turn.role.len() + turn.content.len()) as u64)
                .sum(),
        }
    }
}

/// What a command holds of rows.
#[derive(Debug, Default)]
pub struct Held(u64);

impl Held {
    /// Counts one more record, whose contents take `bytes`.
    ///
    /// # Errors
    /// All of them take more than [`ROWS`].
    pub fn add(&mut self, place: Place<'_>, bytes: u64) -> Result<()> {
        self.0 = self.0.saturating_add(RECORD).saturating_add(bytes);
        match self.0 > ROWS.most() {
            true => Err(ROWS.exceeded(place)),
            false => Ok(()),
        }
    }
}
