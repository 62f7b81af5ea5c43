//! Rewards by prompt, from an evaluation or from a file of them.

use std::path::Path;

use serde_json::Value;

use super::store::StoredEval;
use crate::data::{Id, Record, Row, read_records, shown};
use crate::error::{Error, Result};

/// A line of a file of rewards: `{"id", "rewards": […]}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardsRecord {
    /// The line's `id`, or null.
    pub id: Id,
    /// At least one finite reward.
    pub rewards: Vec<f64>,
}

impl Record for RewardsRecord {
    const FORM: &'static str = r#"{"id": "…", "rewards": [0.5, 1.25]}"#;
    const COLUMNS: &'static [&'static str] = &["id", "rewards"];

    fn from_row(row: &Row) -> Result<Self> {
        let value = row.typed("rewards")?;
        let Some(values) = value.as_array().filter(|v| !v.is_empty()) else {
            return Err(Error::user(
                "\"rewards\" must be a list of at least one finite number",
            ));
        };
        let number = |(i, v): (usize, &Value)| {
            v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| {
                Error::user(format!(
                    "\"rewards\"[{i}] must be a finite number, found {}",
                    shown(v)
                ))
            })
        };
        Ok(Self {
            id: row.id()?,
            rewards: values.iter().enumerate().map(number).collect::<Result<_>>()?,
        })
    }
}

/// Rewards by prompt, of an evaluation directory (`--reward-model`'s; the name is the prompt's key) or of a file of
/// `{"id", "rewards"}` (the name is the id, or the record's number from 1).
///
/// # Errors
/// As [`StoredEval::read`] and [`read_records`].
pub fn read_rewards(path: &Path) -> Result<Vec<(String, Vec<f64>)>> {
    if path.is_dir() {
        let eval = StoredEval::read(path)?;
        let rewards = eval.rewards();
        return Ok(eval.prompts.into_iter().map(|p| p.key).zip(rewards).collect());
    }
    let records: Vec<RewardsRecord> = read_records(path)?;
    let named = |(i, r): (usize, RewardsRecord)| {
        let name = match r.id.is_null() {
            true => (i + 1).to_string(),
            false => r.id.to_string(),
        };
        (name, r.rewards)
    };
    Ok(records.into_iter().enumerate().map(named).collect())
}
