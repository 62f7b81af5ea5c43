//! An evaluation on disk: what was asked, what was answered, and what every judge made of it.
//!
//! | file | what it holds |
//! |---|---|
//! | `eval.json` | [`EvalMeta`], written first; a resumed evaluation must have the same |
//! | `prompts.jsonl` | one [`StoredPrompt`] a line, in order |
//! | `completions.jsonl` | one [`StoredCompletion`] a line, sorted by prompt, then sample; appended prompt by prompt |
//! | `results.json`, … | what was computed from them |

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use super::meta::{EvalMeta, Judge, RunMeta, VERSION};
pub use super::rewards::{RewardsRecord, read_rewards};
use crate::data::Id;
use crate::error::{Context, Error, Result};
use crate::file::lines::{Lines, Upto};
use crate::file::open::regular;
use crate::rollout::Finish;
use crate::text::{Message, PromptContent};

/// One line of `prompts.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredPrompt {
    /// Its number, from 0.
    pub prompt_index: usize,
    /// What makes it the same prompt as another; see [`PromptContent::key`].
    pub key: String,
    /// Its id in the prompts file, or null.
    #[serde(default, skip_serializing_if = "Id::is_null")]
    pub id: Id,
    /// A text …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// … or a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
}

impl StoredPrompt {
    /// The line of prompt number `prompt_index`.
    pub fn new(prompt_index: usize, id: impl Into<Id>, content: &PromptContent) -> Self {
        let (prompt, messages) = match content {
            PromptContent::Text(text) => (Some(text.clone()), None),
            PromptContent::Messages(turns) => (None, Some(turns.clone())),
        };
        Self {
            prompt_index,
            key: content.key(),
            id: id.into(),
            prompt,
            messages,
        }
    }

    /// What was asked.
    pub fn content(&self) -> PromptContent {
        match &self.messages {
            Some(turns) => PromptContent::Messages(turns.clone()),
            None => PromptContent::Text(self.prompt.clone().unwrap_or_default()),
        }
    }
}

/// One line of `completions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredCompletion {
    /// The prompt's number, from 0.
    pub prompt_index: usize,
    /// The sample's number among those of its prompt, from 0.
    pub sample: usize,
    /// What was written, without special tokens.
    pub text: String,
    /// Its length in tokens, the stop token included.
    pub tokens: usize,
    /// Why it ended.
    pub finish_reason: Finish,
    /// What `--reward-model` made of it.
    pub reward: f64,
    /// What `--also-reward` made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_reward: Option<f64>,
}

/// A whole evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEval {
    /// Its settings.
    pub meta: EvalMeta,
    /// Its prompts (P,).
    pub prompts: Vec<StoredPrompt>,
    /// Its completions `[prompt][sample]`.
    pub completions: Vec<Vec<StoredCompletion>>,
}

/// What an interrupted evaluation left.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// The prompts that are whole.
    pub eval: StoredEval,
    /// The part of `completions.jsonl` that holds them; what follows is to be cut off.
    pub(crate) upto: Upto,
}

impl StoredEval {
    /// `eval.json` of an evaluation.
    pub fn meta_path(dir: &Path) -> PathBuf {
        dir.join("eval.json")
    }

    /// `prompts.jsonl` of an evaluation.
    pub fn prompts_path(dir: &Path) -> PathBuf {
        dir.join("prompts.jsonl")
    }

    /// `completions.jsonl` of an evaluation.
    pub fn completions_path(dir: &Path) -> PathBuf {
        dir.join("completions.jsonl")
    }

    /// Reads a finished evaluation.
    ///
    /// # Errors
    /// A user error when `dir` holds no evaluation, a file is missing, malformed (naming the line) or of another
    /// version, an index is out of order, a reward is not finite, or completions are missing.
    pub fn read(dir: &Path) -> Result<Self> {
        let Partial { eval, .. } = Self::read_partial(dir)?;
        let (have, want) = (eval.completions.len(), eval.meta.num_prompts);
        if have < want {
            return Err(Error::user(format!(
                "{}: completions of {have} of {want} prompts: the evaluation was interrupted; finish it with the same \
                 `tea-wgpu eval` command and --resume",
                Self::completions_path(dir).display()
            )));
        }
        Ok(eval)
    }

    /// Reads what an evaluation has so far: prompts with all their samples. A torn last line and the samples of an
    /// unfinished last prompt are left out.
    ///
    /// # Errors
    /// As [`StoredEval::read`], but for completions that are missing at the end.
    pub fn read_partial(dir: &Path) -> Result<Partial> {
        let meta = EvalMeta::read(dir)?;
        let path = Self::prompts_path(dir);
        let prompts: Vec<StoredPrompt> = read_lines(&path)?.into_iter().map(|(p, _)| p).collect();
        check_prompts(&path, &meta, &prompts)?;
        let path = Self::completions_path(dir);
        let lines: Vec<(StoredCompletion, Upto)> = if path.exists() {
            read_lines(&path)?
        } else {
            Vec::new()
        };
        let mut completions: Vec<Vec<StoredCompletion>> = Vec::with_capacity(meta.num_prompts);
        let (mut upto, mut group) = (Upto::default(), Vec::with_capacity(meta.samples));
        for (i, (line, end)) in lines.into_iter().enumerate() {
            check_completion(&line, i, &meta).context(format!("{}:{}", path.display(), i + 1))?;
            group.push(line);
            if group.len() == meta.samples {
                completions.push(std::mem::take(&mut group));
                upto = end;
            }
        }
        let eval = Self {
            meta,
            prompts,
            completions,
        };
        Ok(Partial { eval, upto })
    }

    /// `--reward-model`'s rewards `[prompt][sample]`.
    pub fn rewards(&self) -> Vec<Vec<f64>> {
        let group = |g: &Vec<StoredCompletion>| g.iter().map(|c| c.reward).collect();
        self.completions.iter().map(group).collect()
    }

    /// `--also-reward`'s rewards `[prompt][sample]`, where there are any.
    pub fn also_rewards(&self) -> Option<Vec<Vec<f64>>> {
        let group = |g: &Vec<StoredCompletion>| g.iter().map(|c| c.also_reward).collect();
        self.completions.iter().map(group).collect()
    }

    /// One judge's rewards `[prompt][sample]`.
    ///
    /// # Errors
    /// A user error when the evaluation has no second judge; `name` is what it is called.
    pub fn judged(&self, judge: Judge, name: &str) -> Result<Vec<Vec<f64>>> {
        match judge {
            Judge::Main => Ok(self.rewards()),
            Judge::Also => self.also_rewards().ok_or_else(|| {
                Error::user(format!(
                    "{name} has no second reward; evaluate it again with --also-reward"
                ))
            }),
        }
    }

    /// Mean length of the responses in tokens.
    pub fn mean_length(&self) -> f64 {
        self.mean(|c| c.tokens as f64)
    }

    /// Share of responses that the length limit cut off.
    pub fn truncated_ratio(&self) -> f64 {
        self.mean(|c| f64::from(u8::from(c.finish_reason == Finish::Length)))
    }

    fn mean(&self, value: impl Fn(&StoredCompletion) -> f64) -> f64 {
        let all = || self.completions.iter().flatten();
        all().map(value).sum::<f64>() / all().count().max(1) as f64
    }
}

/// Every line of a JSONL file with the file up to its end; a last line that was torn is left out.
fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(T, Upto)>> {
    let mut lines = Lines::new(path, regular(path)?)?;
    let mut out = Vec::new();
    while let Some(line) = lines.next()? {
        let record = line.record().map_err(|e| {
            let hint = if e.to_string().contains("null, expected f64") {
                " (a reward must be a finite number)"
            } else {
                ""
            };
            Error::user(format!("{}:{}: {e}{hint}", path.display(), line.number))
        })?;
        out.extend(record.map(|record| (record, line.upto)));
    }
    Ok(out)
}

fn check_prompts(path: &Path, meta: &EvalMeta, prompts: &[StoredPrompt]) -> Result<()> {
    if prompts.len() != meta.num_prompts {
        return Err(Error::user(format!(
            "{}: {} prompts where eval.json says {}: the file was changed or torn; evaluate again with --overwrite",
            path.display(),
            prompts.len(),
            meta.num_prompts
        )));
    }
    let wrong =
        |(i, p): &(usize, &StoredPrompt)| p.prompt_index != *i || p.prompt.is_some() == p.messages.is_some();
    match prompts.iter().enumerate().find(wrong) {
        Some((i, p)) => Err(Error::user(format!(
            "{}:{}: expected prompt_index {i} with either \"prompt\" or \"messages\", found prompt_index {}",
            path.display(),
            i + 1,
            p.prompt_index
        ))),
        None => Ok(()),
    }
}

/// Line `i` (from 0) must be sample `i % samples` of prompt `i / samples`.
fn check_completion(c: &StoredCompletion, i: usize, meta: &EvalMeta) -> Result<()> {
    let (prompt, sample) = (i / meta.samples, i % meta.samples);
    if prompt >= meta.num_prompts {
        return Err(Error::user(format!(
            "more completions than {} prompts × {} samples",
            meta.num_prompts, meta.samples
        )));
    }
    if (c.prompt_index, c.sample) != (prompt, sample) {
        return Err(Error::user(format!(
            "expected prompt {prompt}, sample {sample}, found prompt {}, sample {}: completions must be sorted and complete",
            c.prompt_index, c.sample
        )));
    }
    let finite = c.reward.is_finite() && c.also_reward.is_none_or(f64::is_finite);
    if !finite {
        return Err(Error::user(format!(
            "the reward of prompt {prompt}, sample {sample} is not finite"
        )));
    }
    if c.also_reward.is_some() != meta.also_reward.is_some() {
        return Err(Error::user(format!(
            "prompt {prompt}, sample {sample} {} an \"also_reward\", against eval.json",
            if c.also_reward.is_some() { "has" } else { "lacks" }
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
