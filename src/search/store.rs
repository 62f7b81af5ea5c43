//! A search on disk, begun, interrupted and gone on with.
//!
//! | file | what it holds |
//! |---|---|
//! | `search.json` | [`SearchMeta`], written first; a resumed search must have the same |
//! | `search.jsonl` | one [`Line`] a prompt, in order, synced prompt by prompt |
//! | `results.json`, `results.md` | what was computed from them |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::estimate::Predictor;
use super::line::Line;
use crate::advantage::Alpha;
use crate::config::{FloatDtype, MatmulPrecision};
use crate::error::{Context, Error, Result};
use crate::eval::weights;
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read;
use crate::model::save::write_atomic;
use crate::run::{Dir, kinds};
use crate::text::journal;

const META: &str = "search.json";
const LINES: &str = "search.jsonl";
/// Files computed from the lines.
const DERIVED: [&str; 2] = ["results.json", "results.md"];

/// The settings of a search: the contents of `search.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchMeta {
    /// The policy.
    pub model: String,
    /// Its LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// The judge.
    pub reward_model: String,
    /// The judge's LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_adapter: Option<PathBuf>,
    /// Where the prompts came from; `None` for the embedded ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts_file: Option<PathBuf>,
    /// N.
    pub budget: usize,
    /// m.
    pub samples: usize,
    /// K.
    pub width: usize,
    /// The tail share asked for.
    pub alpha: Alpha,
    /// What is predicted of a tail.
    pub predictor: Predictor,
    /// Tokens of a prefix; `None` follows the responses' lengths.
    pub prefix_tokens: Option<usize>,
    /// Whether the ranking is gone down until K states are found.
    pub fill_width: bool,
    /// Whether best-of-N is drawn beside it.
    pub compare_bon: bool,
    /// Seed of the samples.
    pub seed: u64,
    /// Sampling temperature.
    pub temperature: f32,
    /// Top-k filter; 0 is off.
    pub top_k: u32,
    /// Nucleus filter; 1 is off.
    pub top_p: f32,
    /// Min-p filter; 0 is off.
    pub min_p: f32,
    /// Most tokens in a response.
    pub max_completion_length: usize,
    /// Whether chat templates were left aside.
    pub raw: bool,
    /// The date that chat templates saw.
    pub template_date: String,
    /// What matrix products of the policy and the judge rounded.
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_highest")]
    pub matmul_precision: MatmulPrecision,
    /// How sampling stored keys and values.
    #[serde(default, skip_serializing_if = "FloatDtype::is_float32")]
    pub kv_cache_dtype: FloatDtype,
    /// Element type asked for the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dtype: Option<String>,
    /// Element type asked for the judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_dtype: Option<String>,
    /// SHA-256 of the weights that were read from local files, by field; see [`Hashes`](crate::eval::weights::Hashes). Searches
    /// of older versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights_sha256: BTreeMap<String, String>,
    // Last, so that a seed that draws other embedded prompts is what a difference names.
    /// SHA-256 of the prompts as JSON.
    pub prompts_sha256: String,
    /// Number of prompts.
    pub num_prompts: usize,
}

impl SearchMeta {
    /// What the fields that name weights say.
    pub fn named(&self) -> [(&'static str, Option<String>); 4] {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string());
        [
            ("model", Some(self.model.clone())),
            ("adapter", path(&self.adapter)),
            ("reward_model", Some(self.reward_model.clone())),
            ("reward_adapter", path(&self.reward_adapter)),
        ]
    }
}

/// The lines of a search, in a directory or in memory alone.
#[derive(Debug)]
pub struct Store {
    held: Option<Dir>,
    lines: Vec<Line>,
}

impl Store {
    /// Whether a search may begin (or go on) in a directory; changes nothing.
    ///
    /// # Errors
    /// A user error when it holds one and neither `resume` nor `overwrite` is given, there is nothing to resume, or what is
    /// there is somebody else's.
    pub fn check(held: &Dir, resume: bool, overwrite: bool) -> Result<()> {
        held.check(overwrite)?;
        let dir = held.root();
        let begun = dir.join(META).exists();
        if resume && !begun {
            return Err(Error::user(format!(
                "--resume: {} holds no search to continue",
                dir.display()
            )));
        }
        // Lines are what took the time, also where their search.json has gone.
        let has_lines = fs::metadata(dir.join(LINES)).is_ok_and(|m| m.len() > 0);
        let used = begun || has_lines || DERIVED.iter().any(|name| dir.join(name).exists());
        if !resume && !overwrite && used {
            return Err(Error::user(format!(
                "{} already holds a search; continue it with --resume, replace it with --overwrite, or choose another --output",
                dir.display()
            )));
        }
        Ok(())
    }

    /// Begins a search in `dir`, replacing what is there, or goes on with the one begun there with the same settings; a torn
    /// last line is cut off. Without a directory the lines are kept in memory.
    ///
    /// # Errors
    /// A user error naming the setting that is not the one it was begun with, or the line that is not the next prompt's; an
    /// I/O error.
    pub fn open(dir: Option<&Path>, meta: &SearchMeta, resume: bool) -> Result<Self> {
        let mut store = Self {
            held: None,
            lines: Vec::new(),
        };
        let Some(dir) = dir else { return Ok(store) };
        let held = Dir::hold(dir, &kinds::SEARCH)?;
        let path = dir.join(META);
        if resume {
            let bytes = read(&path, &SETTINGS_FILE)?;
            let begun: SearchMeta = serde_json::from_slice(&bytes)
                .map_err(Error::user)
                .context(path.display())?;
            // Where the prompts came from may change as long as they are the same.
            let both = [&begun, meta].map(|m| (m, &m.weights_sha256));
            weights::continues("this search was", both, &["prompts_file"]).context(path.display())?;
            store.lines = recover(&dir.join(LINES), meta.num_prompts)?;
            held.begin()?;
            store.held = Some(held);
            return Ok(store);
        }
        // search.json is what makes it a search: the first to go, the last to come.
        held.clear()?;
        store.held = Some(held);
        let text = serde_json::to_string_pretty(meta).map_err(Error::internal)? + "\n";
        write_atomic(&path, text.as_bytes())?;
        Ok(store)
    }

    /// What is done, in order of the prompts.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether lines are kept in a directory.
    pub fn keeps(&self) -> bool {
        self.held.is_some()
    }

    /// Adds the next prompt's line.
    ///
    /// # Errors
    /// It is not the next one; an I/O error.
    pub fn push(&mut self, line: Line) -> Result<()> {
        if line.prompt_index != self.lines.len() {
            return Err(Error::internal("searches are stored in order"));
        }
        if let Some(held) = &self.held {
            journal::append(&held.root().join(LINES), &line)?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// What an interrupted search of `total` prompts says.
    pub fn interrupted(&self, total: usize) -> String {
        match &self.held {
            Some(held) => format!(
                "{} holds the searches of {} of {total} prompts; run the same command with --resume to go on",
                held.root().display(),
                self.lines.len()
            ),
            None => "nothing is kept without --output".to_string(),
        }
    }
}

fn recover(path: &Path, prompts: usize) -> Result<Vec<Line>> {
    let lines: Vec<Line> = journal::recover(path)?;
    match (0..)
        .zip(&lines)
        .find(|(at, l)| l.prompt_index != *at || *at >= prompts)
    {
        None => Ok(lines),
        Some((at, line)) => Err(Error::user(format!(
            "{}:{}: the search of prompt {}, where that of prompt {at} of {prompts} is expected; begin again with --overwrite",
            path.display(),
            at + 1,
            line.prompt_index
        ))),
    }
}
