//! What a file may make this program take: one list of named limits, told before memory is taken.
//!
//! The limits are far above what real files need. [`set_file_memory`] (`--max-file-memory`) raises all of them in
//! proportion, except those of depth, which protect the stack.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes that one file may take of memory, unless `--max-file-memory` says otherwise.
pub const FILE_MEMORY: u64 = 8 << 30;

static MEMORY: AtomicU64 = AtomicU64::new(FILE_MEMORY);

/// Sets what one file may take of memory, in bytes. The other limits grow in proportion; none falls below its default.
///
/// Called once, by the command line, before any file is read.
pub fn set_file_memory(bytes: u64) {
    MEMORY.store(bytes, Ordering::Relaxed);
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, whose name in the plural this is.
    Count(&'static str),
    /// Levels of nesting: `--max-file-memory` does not raise these.
    Levels,
}

/// A named limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, as in "a row of a data file".
    pub what: &'static str,
    /// The most, unless `--max-file-memory` raises it.
    pub default: u64,
    /// What is counted.
    pub unit: Unit,
}

impl Limit {
    /// A limit in bytes.
    pub const fn bytes(what: &'static str, default: u64) -> Self {
        Self {
            what,
            default,
            unit: Unit::Bytes,
        }
    }

    /// A limit of how many `things`, a noun in the plural.
    pub const fn count(what: &'static str, default: u64, things: &'static str) -> Self {
        Self {
            what,
            default,
            unit: Unit::Count(things),
        }
    }

    /// A limit of nesting.
    pub const fn levels(what: &'static str, default: u64) -> Self {
        Self {
            what,
            default,
            unit: Unit::Levels,
        }
    }

    /// The most that is taken.
    pub fn most(&self) -> u64 {
        let memory = MEMORY.load(Ordering::Relaxed);
        if self.unit == Unit::Levels || memory <= FILE_MEMORY {
            return self.default;
        }
        let raised = u128::from(self.default) * u128::from(memory) / u128::from(FILE_MEMORY);
        u64::try_from(raised).unwrap_or(u64::MAX)
    }

    /// Checks that `found` is within the limit; `place` is the file, and where in it.
    ///
    /// # Errors
    /// `found` is more: the place, both numbers and what raises the limit.
    pub fn check(&self, place: impl Display, found: impl TryInto<u64>) -> Result<()> {
        match found.try_into() {
            Ok(found) if found <= self.most() => Ok(()),
            Ok(found) => Err(self.error(place, &self.amount(found))),
            Err(_) => Err(self.error(place, "more than can be counted")),
        }
    }

    /// As [`Limit::check`] where it is only known that there is more than the limit.
    pub fn exceeded(&self, place: impl Display) -> Error {
        self.error(place, "more")
    }

    fn error(&self, place: impl Display, found: &str) -> Error {
        let way = match self.unit {
            Unit::Levels => "no real file nests this deep; get it from another source",
            _ => "if the file is meant to be so large, raise the limits with --max-file-memory",
        };
        let (what, most) = (self.what, self.amount(self.most()));
        Error::user(format!(
            "{place}: {what}: {found}, where the limit is {most} ({way})"
        ))
    }

    /// A number of what is counted, in words.
    pub fn amount(&self, n: u64) -> String {
        match self.unit {
            Unit::Bytes => bytes(n),
            Unit::Count(things) => format!("{n} {things}"),
            Unit::Levels => format!("{n} levels"),
        }
    }
}

/// Bytes in words: `512 B`, `64 MiB`, `1.5 GiB`.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1 << 10 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// A file of settings or JSON that is read whole: `config.json`, `config.toml`, `adapter_config.json`, ….
pub const SETTINGS_FILE: Limit = Limit::bytes("size of a settings file", 64 << 20);
/// Nesting of JSON and TOML.
pub const NESTING: Limit = Limit::levels("nesting", 128);

/// The head of an answer of a hub.
pub const HUB_HEADERS: Limit = Limit::bytes("size of the head of an answer", 64 << 10);
/// A hub's list of a repository's files.
pub const HUB_LISTING: Limit = Limit::bytes("size of a list of files", 64 << 20);
/// Files in that list.
pub const HUB_FILES: Limit = Limit::count("files of a repository", 1_000_000, "files");
/// A file beside a model's weights that is downloaded: tokenizer, configuration, index.
pub const HUB_TEXT: Limit = Limit::bytes("size of a file beside the weights", 512 << 20);
/// A file of weights or data that is downloaded.
pub const HUB_FILE: Limit = Limit::bytes("size of a downloaded file", 4 << 40);
/// A stored access token, or what the cache keeps of a branch.
pub const HUB_TOKEN: Limit = Limit::bytes("size of a stored token or reference", 64 << 10);

/// Every limit, in the order of `docs/reference/limits.md`.
pub const ALL: &[&Limit] = &[
    &SETTINGS_FILE,
    &NESTING,
    &HUB_HEADERS,
    &HUB_LISTING,
    &HUB_FILES,
    &HUB_TEXT,
    &HUB_FILE,
    &HUB_TOKEN,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_place_and_both_numbers_are_said() {
        let limit = Limit::bytes("size of a header", 1536);
        assert!(limit.check("a.bin", 1536u32).is_ok());
        let said = limit.check("a.bin", 5u64 << 30).unwrap_err().to_string();
        assert!(
            said.starts_with("a.bin: size of a header: 5 GiB, where the limit is 1.5 KiB"),
            "{said}"
        );
        assert!(said.contains("--max-file-memory"), "{said}");
        let said = limit.check("a.bin", u128::MAX).unwrap_err().to_string();
        assert!(said.contains("more than can be counted"), "{said}");
        let said = NESTING.exceeded("a.json").to_string();
        assert!(
            !said.contains("--max-file-memory") && said.contains("128 levels"),
            "{said}"
        );
    }
}
