//! Typed, validated run settings; no GPU types.
//!
//! Settings come from defaults, then a TOML file, then flags. They are declared once, in the list (`list.rs`).
//! The resolved settings are written beside a run's results.

mod data_set;
mod float;
mod fraction;
mod gradient_sum;
mod list;
mod memory;
mod optim;
mod paths;
mod precision;
pub mod range;
mod residency;
pub mod resume;
mod setting;
mod supervised;
mod train;

pub use data_set::DataSet;
pub use float::FloatDtype;
pub use fraction::Fraction;
pub use gradient_sum::GradientSum;
pub use list::{SETTINGS, SupervisedConfig, SupervisedFlags, TrainConfig, TrainFlags};
pub use memory::{ActivationMemory, parse_bytes};
pub use optim::Optim;
pub use paths::anchored;
pub use precision::MatmulPrecision;
pub use residency::Residency;
pub use setting::{Given, Setting};
pub use supervised::{AdapterShape, Schedule, TrainOn};
pub use train::{KlEstimator, LossType, ScaleAdvantages};

use crate::error::{Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

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

/// Reads settings from a TOML file. Keys of the list of settings stand in its tables, or outside them.
///
/// # Errors
/// The file is missing, is not TOML, or has a key or value that is not a setting.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_settings(path).map(|(settings, _)| settings)
}

/// As [`read_toml`], with the first setting that stands outside its table.
///
/// # Errors
/// As [`read_toml`].
pub fn read_settings<T: DeserializeOwned>(path: &Path) -> Result<(T, Option<&'static Setting>)> {
    let text = read_text(path, &SETTINGS_FILE)?;
    let read = || {
        let root = DeTable::parse(&text)?;
        let span = root.span();
        let mut flat = DeTable::new();
        let mut outside = None;
        for (key, value) in root.into_inner() {
            match value.get_ref() {
                DeValue::Table(_) if SETTINGS.iter().any(|s| s.table() == **key.get_ref()) => {
                    if let DeValue::Table(inner) = value.into_inner() {
                        for (key, value) in inner {
                            set(&mut flat, key, value)?;
                        }
                    }
                }
                _ => {
                    outside = outside.or(Setting::of(Setting::key(key.get_ref())));
                    set(&mut flat, key, value)?;
                }
            }
        }
        let settings = T::deserialize(toml::Deserializer::from(Spanned::new(span, flat)))?;
        Ok((settings, outside))
    };
    read().map_err(|e: toml::de::Error| {
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

/// Puts a key into settings, by its own name.
fn set<'a>(
    flat: &mut DeTable<'a>,
    key: Spanned<DeString<'a>>,
    value: Spanned<DeValue<'a>>,
) -> std::result::Result<(), toml::de::Error> {
    let (span, name) = (key.span(), Setting::key(key.get_ref()).to_string());
    let twice = format!("{name} stands twice");
    match flat.insert(Spanned::new(span, DeString::Owned(name)), value) {
        None => Ok(()),
        Some(_) => Err(serde::de::Error::custom(twice)),
    }
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
        assert_eq!(alpha, Some("0.25".into()));
    }

    #[test]
    fn keys_stand_in_tables_or_outside_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_settings::<TrainFlags>(&path)
        };
        let (tables, outside) = read("[training]\nsteps = 3\n[validation]\ntop = 4\n").unwrap();
        let (flat, first) = read("validation_top = 4\nsteps = 3\n").unwrap();
        assert_eq!(tables, flat);
        assert_eq!((tables.steps, tables.validation_top), (Some(3), Some(4)));
        assert_eq!(
            (outside.map(|s| s.name), first.map(|s| s.name)),
            (None, Some("steps"))
        );
        for (text, parts) in [
            (
                "[training]\nseed = 1\nstepz = 3\n",
                ["run.toml:3: ", "unknown field"],
            ),
            ("[training]\nsteps = \"x\"\n", ["run.toml:2: ", "expected u64"]),
            (
                "[trainig]\nsteps = 1\n",
                ["run.toml:1: ", "unknown field `trainig`"],
            ),
            (
                "steps = 1\n[training]\nsteps = 1\n",
                ["run.toml", "steps stands twice"],
            ),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }
}
