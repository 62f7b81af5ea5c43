//! Typed, validated run settings; no GPU types.
//!
//! Settings come from defaults, then a TOML file, then flags; the flags' names with underscores are the file's keys.
//! The resolved settings are written beside a run's results.

mod data_set;
mod float;
mod gradient_sum;
mod memory;
mod optim;
mod paths;
mod precision;
pub mod range;
mod residency;
mod supervised;
mod train;
mod train_flags;

pub use data_set::DataSet;
pub use float::FloatDtype;
pub use gradient_sum::GradientSum;
pub use memory::{ActivationMemory, parse_bytes};
pub use optim::Optim;
pub use paths::Paths;
pub use precision::MatmulPrecision;
pub use residency::Residency;
pub use supervised::{AdapterShape, Schedule, SupervisedConfig, SupervisedFlags, TrainOn};
pub use train::TrainConfig;
pub use train_flags::{KlEstimator, LossType, ScaleAdvantages, TrainFlags};

use crate::error::{Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The embedded policy's name.
pub const TINY: &str = "tiny";

/// The date chat templates see unless a run says otherwise.
pub const TEMPLATE_DATE: &str = "2026-01-01";

/// A variable of the environment; none where it is empty or white space. What is not UTF-8 comes
/// with replacement characters, so that whoever reads it refuses it.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?;
    let text = value.to_string_lossy().trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// `upper`'s settings over `lower`'s: a setting left open above is taken from below.
///
/// # Errors
/// A whole number of 2⁶³ or more; a type that does not serialise to a map (a bug).
pub fn overlay<T: Serialize + DeserializeOwned>(lower: &T, upper: &T) -> Result<T> {
    // TOML and not JSON in between: it leaves out what is open, and it has NaN and infinity, which validation refuses.
    let table = |t: &T| {
        let too_large = |e| {
            range::check_settings(t)
                .err()
                .unwrap_or_else(|| Error::internal(e))
        };
        toml::Table::try_from(t).map_err(too_large)
    };
    let mut merged = table(lower)?;
    merged.extend(table(upper)?);
    merged.try_into().map_err(Error::internal)
}

/// Reads settings from a TOML file.
///
/// # Errors
/// The file is missing, is not TOML, or has a key or value that is not a setting.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path, &SETTINGS_FILE)?;
    toml::from_str(&text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start).min(text.len());
        let before = text.get(..at).unwrap_or("");
        let number = before.matches('\n').count();
        let line = text.lines().nth(number).unwrap_or("").trim();
        Error::user(format!(
            "{}:{}: `{line}`: {}",
            path.display(),
            number + 1,
            e.message()
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_wrong_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        for (line, what) in [
            ("stepz = 1", "unknown field"),
            ("steps = \"x\"", "expected u64"),
            ("loss_type = \"mean\"", "dr_grpo"),
            ("alpha = true", "a number"),
            ("beta = ", "beta"),
        ] {
            std::fs::write(&path, format!("seed = 1\n{line}\n")).unwrap();
            let e = read_toml::<TrainFlags>(&path).unwrap_err();
            let text = e.to_string();
            assert!(
                text.contains("run.toml:2: ") && text.contains(line.trim()),
                "{text}"
            );
            assert!(text.contains(what), "{text}");
            assert_eq!(e.exit_code(), 2);
        }
        std::fs::write(&path, "alpha = 0.25").unwrap();
        let alpha = read_toml::<TrainFlags>(&path).unwrap().alpha;
        assert_eq!(alpha.as_deref(), Some("0.25"));
    }
}
