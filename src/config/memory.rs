//! Settings that say how much memory something may take.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Units of a size in bytes: 1024s (KiB, MiB, GiB, TiB) and 1000s (KB, MB, GB, TB).
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// A number of bytes: 1048576, 512MiB, 1.5GB; units in any case.
///
/// # Errors
/// Anything else, or more than 2⁶³ − 1 bytes, the most that settings files hold.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let wrong = || {
        Error::user(format!(
            "{text:?} is not a size; write bytes (1048576) or a number with a unit (512MiB, 1.5GB)"
        ))
    };
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| {
            let cut = text.len().checked_sub(name.len())?;
            let end = text.get(cut..)?;
            end.eq_ignore_ascii_case(name).then_some((&text[..cut], *unit))
        })
        .unwrap_or((text, 1));
    let large = || {
        Error::user(format!(
            "{text:?} is too large: a size is from 0 to {} bytes",
            i64::MAX
        ))
    };
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        let bytes = whole.checked_mul(unit).filter(|b| *b <= i64::MAX as u64);
        return bytes.ok_or_else(large);
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(number) {
        return Err(large());
    }
    let decimal = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.parse::<f64>() {
        Ok(number) if decimal && unit > 1 => match number * (unit as f64) {
            bytes if bytes < i64::MAX as f64 => Ok(bytes as u64),
            _ => Err(large()),
        },
        _ => Err(wrong()),
    }
}

/// What the activations of training passes may take (`--activation-memory`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum ActivationMemory {
    /// What is left of the device's free memory, where that is known.
    Auto,
    /// Bytes.
    Bytes(u64),
}

/// As a settings file has it: a number of bytes, or a text.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a number of bytes, or a size as a string (\"2GiB\", \"auto\")"
)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Written> for ActivationMemory {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for ActivationMemory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        parse_bytes(text).map(Self::Bytes)
    }
}

impl fmt::Display for ActivationMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl From<ActivationMemory> for String {
    fn from(memory: ActivationMemory) -> Self {
        memory.to_string()
    }
}

/// Refuses a budget beside `--no-checkpointing`, which has none.
///
/// # Errors
/// Both are given.
pub(super) fn one_of(memory: Option<ActivationMemory>, no_checkpointing: bool) -> Result<()> {
    match memory {
        Some(memory) if no_checkpointing => Err(Error::user(format!(
            "--activation-memory {memory} and --no-checkpointing exclude each other: without checkpointing every block's \
             activations are kept, whatever they take; leave one out"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("12B", 12),
            ("512MiB", 512 << 20),
            ("2 gib", 2 << 30),
            ("1.5GB", 1_500_000_000),
            ("0.5KiB", 512),
            ("3tb", 3_000_000_000_000),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GiB", "-1", "1.5", "1e9", "infGB", "nan", "2Gi", "2 G", "µB"] {
            let error = parse_bytes(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("512MiB"), "{error}");
        }
        assert_eq!(parse_bytes("9223372036854775807").unwrap(), i64::MAX as u64);
        for text in [
            "9223372036854775808",
            "18446744073709551615",
            "99999999999999999999999",
            "10000000000GB",
            "99999999999TiB",
            "8388608.5TiB",
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let said = error.to_string();
            assert!(said.contains("from 0 to 9223372036854775807 bytes"), "{said}");
        }
    }

    #[test]
    fn a_file_may_give_a_number_or_a_text() {
        #[derive(Deserialize, Serialize)]
        struct File {
            memory: ActivationMemory,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|f| f.memory);
        assert_eq!(read("memory = 4096").unwrap(), ActivationMemory::Bytes(4096));
        assert_eq!(read("memory = \"1KiB\"").unwrap(), ActivationMemory::Bytes(1024));
        assert_eq!(read("memory = \"Auto\"").unwrap(), ActivationMemory::Auto);
        assert!(
            read("memory = \"much\"")
                .unwrap_err()
                .to_string()
                .contains("512MiB")
        );
        assert!(read("memory = true").is_err());
        for memory in [ActivationMemory::Auto, ActivationMemory::Bytes(77)] {
            let text = toml::to_string(&File { memory }).unwrap();
            assert_eq!(read(&text).unwrap(), memory);
        }
    }
}
