//! Judgements on disk: `judge.json` (settings) and `judgements.jsonl` (one prompt a line, in the order they were made).

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manner::Manner;
use crate::config::resume;
use crate::error::{Context, Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read;
use crate::model::save::write_atomic;
use crate::run::{Dir, interrupt, kinds};
use crate::text::journal;

/// The settings that decide a judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeMeta {
    /// Version of the question's wording.
    pub version: u32,
    /// The first evaluation's directory.
    pub first: String,
    /// The second one's.
    pub second: String,
    /// Hash of the prompts' keys and of the responses compared.
    pub responses: String,
    /// The best of how many samples is compared.
    pub n: usize,
    /// The judge's model.
    pub model: String,
    /// The judge's address.
    pub endpoint: String,
    /// Seed of the positions.
    pub seed: u64,
    /// Most tokens of the judge's answer.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: u32,
    /// What of a usual request the server refused. A result: resuming begins with it.
    #[serde(default, skip_serializing_if = "Manner::is_usual")]
    pub asked: Manner,
}

/// What judgements had before it could be chosen.
fn default_max_tokens() -> u32 {
    super::MAX_TOKENS
}

/// Who won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The first evaluation's response.
    First,
    /// The second one's.
    Second,
    /// Neither; equal texts are a tie without asking.
    Tie,
    /// The judge gave no valid answer.
    Invalid,
    /// The server refused the question; it is asked again when the judging is resumed.
    Refused,
}

/// One prompt's judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The prompt's number, from 0.
    pub prompt_index: usize,
    /// The prompt's key.
    pub key: String,
    /// Who won, positions mapped back.
    pub winner: Winner,
    /// The judge's confidence in [0, 1].
    pub confidence: Option<f64>,
    /// The judge's reason, or what was wrong with its answer.
    pub reason: String,
    /// Whether the first evaluation's response was shown as A. `None` where nothing was asked.
    pub first_is_a: Option<bool>,
    /// Sample numbers of the compared responses, first and second.
    pub samples: [usize; 2],
    /// Questions asked.
    pub asked: u32,
    /// The judge's last words, where they were not valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// A directory of judgements, or none at all.
pub struct Store {
    held: Option<Dir>,
    done: Vec<Judgement>,
    meta: JudgeMeta,
    /// Whether `judge.json` says what `meta` says. It is written with the first judgement: a run
    /// that could not ask at all leaves nothing.
    written: bool,
}

impl Store {
    /// Starts or resumes in `dir`; without a directory nothing is kept. A torn last line is cut off, refused questions count
    /// as not yet asked.
    ///
    /// # Errors
    /// A user error when there is something and `resume` is not set, the settings differ, or a line is damaged; an I/O error.
    pub fn open(dir: Option<&Path>, meta: JudgeMeta, resume: bool) -> Result<Self> {
        let mut store = Self {
            held: None,
            done: Vec::new(),
            meta,
            written: false,
        };
        let Some(dir) = dir else { return Ok(store) };
        let held = Dir::hold(dir, &kinds::JUDGE)?;
        held.check(false)?;
        let settings = dir.join("judge.json");
        if !settings.exists() {
            let lines = dir.join("judgements.jsonl");
            if lines.symlink_metadata().is_ok() {
                return Err(Error::user(format!(
                    "{}: judgements without their judge.json; use another --output",
                    lines.display()
                )));
            }
            store.held = Some(held);
            return Ok(store);
        }
        if !resume {
            return Err(Error::user(format!(
                "--output {} holds judgements already: give --resume to finish them, or another directory",
                dir.display()
            )));
        }
        let bytes = read(&settings, &SETTINGS_FILE)?;
        let found: JudgeMeta = serde_json::from_slice(&bytes)
            .map_err(Error::user)
            .context(settings.display())?;
        same(&found, &store.meta).context(settings.display())?;
        (store.meta.asked, store.written) = (found.asked, true);
        store.done = answered(journal::recover(&dir.join("judgements.jsonl"))?);
        held.begin()?;
        store.held = Some(held);
        Ok(store)
    }

    /// What was judged, in the order it was.
    pub fn done(&self) -> &[Judgement] {
        &self.done
    }

    /// The settings, and how the server was asked up to the last judgement.
    pub fn meta(&self) -> &JudgeMeta {
        &self.meta
    }

    /// Appends a judgement, which was asked for in this manner.
    ///
    /// # Errors
    /// An I/O error.
    pub fn push(&mut self, judgement: Judgement, asked: Manner) -> Result<()> {
        self.written &= self.meta.asked == asked;
        self.meta.asked = asked;
        if let Some(held) = &self.held {
            // An answer may have cost money.
            let _whole = interrupt::brief();
            let dir = held.root();
            if !self.written {
                held.begin()?;
                let json = serde_json::to_vec_pretty(&self.meta).map_err(Error::internal)?;
                write_atomic(&dir.join("judge.json"), &json)?;
                self.written = true;
            }
            journal::append(&dir.join("judgements.jsonl"), &judgement)?;
        }
        self.done.push(judgement);
        Ok(())
    }
}

/// The last line of every prompt, in order, without those whose question was refused.
fn answered(lines: Vec<Judgement>) -> Vec<Judgement> {
    let last: HashMap<usize, usize> = lines.iter().map(|j| j.prompt_index).zip(0..).collect();
    let keep =
        |(at, j): &(usize, Judgement)| last.get(&j.prompt_index) == Some(at) && j.winner != Winner::Refused;
    lines
        .into_iter()
        .enumerate()
        .filter(keep)
        .map(|(_, j)| j)
        .collect()
}

/// Refuses settings that differ, naming the first. Where the evaluations lie may change: `responses` tells what they hold.
fn same(found: &JudgeMeta, asked: &JudgeMeta) -> Result<()> {
    let mut aside = vec!["asked"];
    if found.responses == asked.responses {
        aside.extend(["first", "second"]);
    }
    resume::same("these judgements were", found, asked, &aside, "another --output")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn evaluations_may_lie_elsewhere_and_hold_nothing_else() {
        let meta = |first: &str, responses: &str| -> JudgeMeta {
            serde_json::from_value(json!({
                "version": 1, "first": first, "second": "b", "responses": responses, "n": 4, "model": "m",
                "endpoint": "http://127.0.0.1:1/v1/chat/completions", "seed": 1
            }))
            .unwrap()
        };
        same(&meta("a", "x"), &meta("../a", "x")).unwrap();
        let error = same(&meta("a", "x"), &meta("../a", "y")).unwrap_err();
        assert!(error.to_string().contains("first = \"a\""), "{error}");
    }
}
