//! Reading rewards: a JSONL file of `{"id", "rewards"}` or an evaluation directory.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::text::jsonl::{Record, Row, read_jsonl};

/// One prompt's rewards.
struct Rewards {
    id: Value,
    rewards: Vec<f64>,
}

impl Record for Rewards {
    const FORM: &'static str = r#"{"id": "…", "rewards": [0.5, 1.25]}"#;

    fn from_row(row: &Row) -> Result<Self> {
        let Some(values) = row.require("rewards")?.as_array().filter(|v| !v.is_empty()) else {
            return Err(Error::user(
                "\"rewards\" must be a list of at least one finite number",
            ));
        };
        let one = |(i, v): (usize, &Value)| {
            v.as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| Error::user(format!("\"rewards\"[{i}] must be a finite number, found {v}")))
        };
        Ok(Self {
            id: row.id()?,
            rewards: values.iter().enumerate().map(one).collect::<Result<_>>()?,
        })
    }
}

/// A line of an evaluation's completions.
struct Completion {
    prompt: usize,
    reward: f64,
}

impl Record for Completion {
    const FORM: &'static str = r#"{"prompt_index": 0, "sample": 0, "reward": 0.5}"#;

    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            prompt: row.count("prompt_index")?,
            reward: row.number("reward")?,
        })
    }
}

/// `(name, rewards)` of every prompt, in order.
///
/// # Errors
/// As [`read_jsonl`]; a reward that is not a finite number (naming file and line).
pub fn read_rewards(path: &Path) -> Result<Vec<(String, Vec<f64>)>> {
    if path.is_dir() {
        let completions: Vec<Completion> = read_jsonl(&path.join("completions.jsonl"))?;
        let mut groups: Vec<(String, Vec<f64>)> = Vec::new();
        for c in completions {
            let name = c.prompt.to_string();
            match groups.last_mut() {
                Some((last, rewards)) if *last == name => rewards.push(c.reward),
                _ => groups.push((name, vec![c.reward])),
            }
        }
        return Ok(groups);
    }
    let named = |(i, r): (usize, Rewards)| {
        let name = match r.id {
            Value::Null => (i + 1).to_string(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        (name, r.rewards)
    };
    let records: Vec<Rewards> = read_jsonl(path)?;
    Ok(records.into_iter().enumerate().map(named).collect())
}
