//! Rewards of evaluations, as the diagnostics of reward laws take them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::eval::store::read_rewards;

/// The rewards of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewards {
    /// Its name in tables: the path's last part, or the whole path where two end alike.
    pub label: String,
    /// Where it came from.
    pub path: PathBuf,
    /// Prompts by name with their rewards.
    pub prompts: Vec<(String, Vec<f64>)>,
}

impl Rewards {
    /// Reads evaluation directories or JSONL files of `{"id", "rewards"}`.
    ///
    /// # Errors
    /// As [`read_rewards`]; a reward that is not finite or an evaluation without rewards is a user error.
    pub fn read(paths: &[PathBuf]) -> Result<Vec<Self>> {
        let last = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
        let one = |path: &PathBuf| {
            let prompts = read_rewards(path)?;
            for (name, rewards) in &prompts {
                if let Some((i, r)) = rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
                    return Err(Error::user(format!(
                        "{}: prompt {name}: the reward of sample {i} is {r}; rewards must be finite",
                        path.display()
                    )));
                }
            }
            if prompts.iter().all(|(_, r)| r.is_empty()) {
                return Err(Error::user(format!(
                    "{}: no rewards in this evaluation",
                    path.display()
                )));
            }
            let shared = paths.iter().filter(|p| last(p) == last(path)).count() > 1;
            let label = last(path).filter(|_| !shared);
            Ok(Self {
                label: label.unwrap_or_else(|| path.display().to_string()),
                path: path.clone(),
                prompts,
            })
        };
        paths.iter().map(one).collect()
    }
}
