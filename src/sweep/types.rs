//! The element types that a sweep leaves open: settled once, and kept for every run and evaluation.
//!
//! What fits depends on how much memory is free at the moment; methods must not differ by that.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::{Run, Sweep};
use super::run::{SweepDir, Worker};
use crate::config::{TrainConfig, TrainFlags, read_toml};
use crate::error::{Context, Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use crate::tensor::DType;

/// Element types by name; `None` keeps what a file stores, or there is no model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Types {
    /// Of the frozen policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dtype: Option<String>,
    /// Of the judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_dtype: Option<String>,
}

/// The part of `sweep.json` that is read back.
#[derive(Deserialize)]
struct Recorded {
    types: Option<Types>,
}

impl Types {
    /// Those of a run: its own where it names them, else these. Whole-model training is in f32.
    pub fn of(&self, c: &TrainConfig) -> Self {
        let base = if c.full {
            Some("f32".to_string())
        } else {
            self.base_dtype.clone()
        };
        Self {
            base_dtype: c.base_dtype.clone().or(base),
            reward_dtype: c.reward_dtype.clone().or_else(|| self.reward_dtype.clone()),
        }
    }

    /// A run's settings with these types.
    pub fn put_into(&self, run: &Run) -> Run {
        let mut run = run.clone();
        let types = self.of(&run.config);
        run.config.base_dtype = types.base_dtype;
        run.config.reward_dtype = types.reward_dtype;
        run
    }

    /// For each the smaller one: what fits with larger types fits with it.
    ///
    /// # Errors
    /// An unknown type.
    pub fn smaller(self, other: Self) -> Result<Self> {
        let smaller = |a: Option<String>, b: Option<String>| -> Result<Option<String>> {
            let (Some(a), Some(b)) = (a, b) else {
                return Ok(None);
            };
            let size = |name: &str| Ok::<_, Error>(name.parse::<DType>()?.bytes_for(1 << 10));
            Ok(Some(if size(&b)? < size(&a)? { b } else { a }))
        };
        Ok(Self {
            base_dtype: smaller(self.base_dtype, other.base_dtype)?,
            reward_dtype: smaller(self.reward_dtype, other.reward_dtype)?,
        })
    }
}

/// The types of a run that was begun, which it keeps; `None` where it has none yet.
///
/// # Errors
/// Its settings cannot be read.
pub(super) fn begun(dir: &Path) -> Result<Option<Types>> {
    let path = dir.join("config.toml");
    if !path.exists() {
        return Ok(None);
    }
    let flags = read_toml::<TrainFlags>(&path)?;
    let types = Types {
        base_dtype: flags.base_dtype,
        reward_dtype: flags.reward_dtype,
    };
    // A file without either is not one that a training wrote after it had chosen.
    Ok(Some(types).filter(|t| *t != Types::default()))
}

/// The sweep's types: those of `sweep.json`; else those of a run that was begun before they were kept there; else what
/// the device has room for.
///
/// # Errors
/// Files that cannot be read, or no device to ask.
pub(super) fn settle(sweep: &Sweep, output: &SweepDir, worker: &mut dyn Worker) -> Result<Types> {
    let path = output.root.join("sweep.json");
    if path.exists() {
        let text = read_text(&path, &SETTINGS_FILE)?;
        let recorded: Recorded = serde_json::from_str(&text)
            .map_err(Error::user)
            .context(path.display())?;
        // Where none is named nothing could be settled yet, or it comes out the same again.
        if let Some(types) = recorded.types.filter(|t| *t != Types::default()) {
            return Ok(types);
        }
    }
    let open: Vec<&Run> = sweep
        .runs()
        .filter(|r| !r.config.full && (r.config.base_dtype.is_none() || r.config.reward_dtype.is_none()))
        .collect();
    for run in &open {
        if let Some(types) = begun(&output.run(&run.name))? {
            return Ok(types);
        }
    }
    if open.is_empty() {
        return sweep.shared().map(|c| Types::default().of(c));
    }
    worker.settle(&open)
}
