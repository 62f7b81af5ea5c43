//! Checkpoint selection: which step of a run is kept as `checkpoints/best`.
//!
//! TEA, arXiv 2605.10716, §5: every 25 steps 32 responses are sampled to each of 128 fixed validation prompts, and the
//! checkpoint's score is the mean over prompts of the mean of the 10 best rewards. The samples' random numbers are a function
//! of the run's seed and the prompt alone, so that the scores of a run's steps are paired.

use super::checkpoint::{self, RunDir, TrainerState};
use super::data;
use super::judged::Asked;
use super::rl::{Prompt, Trainer, object};
use crate::config::{TINY, TrainConfig, resume};
use crate::demo::{self, Split};
use crate::error::{Error, Result};
use crate::file::{dirs, open};
use crate::model::save::{AtomicDir, recover};
use crate::reward::{GroupScoring, Reward};
use crate::run::checksums::Depth;
use crate::run::foreign_to_checkpoint;
use crate::text::sha256_hex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// The name of the demo's validation prompts for `--validation-prompts`.
pub const EMBEDDED: &str = "embedded";
/// Seed of the demo's validation prompts: the same for every run, so that runs can be compared.
const EMBEDDED_SEED: u64 = 1;
/// Keeps validation's random numbers apart from training's and evaluation's under the same run seed.
const STREAM: u64 = 0x7a11_da7e;

/// What a score depends on beside the policy: scores of different criteria cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criterion {
    /// SHA-256 of the validation prompts' token ids.
    pub prompts_sha256: String,
    /// Validation prompts.
    pub num_prompts: usize,
    /// Responses sampled for each.
    pub samples: usize,
    /// How many of a prompt's best rewards are averaged.
    pub top: usize,
    /// The other settings that a score depends on, by flag: the judge, how it and the policy are loaded, what it is
    /// asked, how long answers may be. Checkpoints of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<BTreeMap<String, String>>,
}

/// The best checkpoint of a run so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// Its validation score.
    pub score: f64,
    /// How it was scored.
    pub criterion: Criterion,
}

/// The demo's validation tasks, for the embedded policy.
///
/// # Errors
/// Another policy.
pub(super) fn embedded(c: &TrainConfig) -> Result<Vec<demo::Example>> {
    if c.model != TINY {
        return Err(Error::user(format!(
            "--validation-prompts {EMBEDDED} is the demo's set, for --model {TINY}; give a JSONL file of {{\"prompt\": text}} \
             for {}",
            c.model
        )));
    }
    Ok(demo::generate(
        EMBEDDED_SEED,
        c.validation_size,
        Split::Validation,
    ))
}

/// Mean of the `top` largest of a prompt's rewards (of all, where there are fewer).
pub fn top_mean(rewards: &[f64], top: usize) -> f64 {
    let mut sorted = rewards.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted.truncate(top);
    sorted.iter().sum::<f64>() / sorted.len().max(1) as f64
}

/// Scores a run's steps and remembers the best.
pub struct Selection<'a> {
    prompts: &'a [Prompt],
    criterion: Criterion,
    every: u64,
    last: u64,
    best: Option<Best>,
}

impl<'a> Selection<'a> {
    /// Selection for a run that begins, or goes on from `state`; `None` without validation prompts.
    ///
    /// # Errors
    /// The run was selecting by another criterion.
    pub fn new(c: &TrainConfig, prompts: &'a [Prompt], state: Option<&TrainerState>) -> Result<Option<Self>> {
        if prompts.is_empty() {
            return Ok(None);
        }
        let criterion = Criterion {
            prompts_sha256: data::hash(prompts.iter().map(|p| &p.tokens[..])),
            num_prompts: prompts.len(),
            samples: c.validation_samples,
            top: c.validation_top,
            judged: Some(judged(c, prompts)?),
        };
        let best = state.and_then(|s| s.best.clone());
        if let Some(best) = &best {
            best.criterion.check(&criterion)?;
        }
        Ok(Some(Self {
            prompts,
            criterion,
            every: c.validation_steps,
            last: c.steps,
            best,
        }))
    }

    /// The best so far, for the trainer's state.
    pub fn best(&self) -> Option<Best> {
        self.best.clone()
    }

    /// Scores the policy after `step` steps where that is due, adds the result to the step's metrics, and says whether it is
    /// the best so far (of equal scores the first counts).
    ///
    /// # Errors
    /// A reward that is not finite, or a GPU error.
    pub fn validate(
        &mut self,
        step: u64,
        trainer: &mut Trainer<'_>,
        reward: &mut dyn Reward,
        metrics: &mut Map<String, Value>,
    ) -> Result<bool> {
        if !step.is_multiple_of(self.every) && step != self.last {
            return Ok(false);
        }
        let begun = Instant::now();
        let rewards = self.sample(trainer, reward)?;
        let count = rewards.len() as f64;
        let score = rewards
            .iter()
            .map(|r| top_mean(r, self.criterion.top))
            .sum::<f64>()
            / count;
        let mean = rewards.iter().map(|r| top_mean(r, r.len())).sum::<f64>() / count;
        let better = self.best.as_ref().is_none_or(|best| score > best.score);
        if better {
            self.best = Some(Best {
                step,
                score,
                criterion: self.criterion.clone(),
            });
        }
        metrics.extend(object(json!({
            "validation_score": score,
            "validation_reward": mean,
            "validation_best_step": self.best.as_ref().map(|b| b.step),
            "time/validation": begun.elapsed().as_secs_f64(),
        })));
        Ok(better)
    }

    /// Rewards `[prompt][sample]` of the policy as it is now.
    fn sample(&self, trainer: &mut Trainer<'_>, reward: &mut dyn Reward) -> Result<Vec<Vec<f64>>> {
        let asked = Asked {
            prompts: self.prompts.iter().collect(),
            samples: self.criterion.samples,
            seed: trainer.config.seed ^ STREAM,
            step: 0,
        };
        let scoring = GroupScoring::new(reward, asked.prompts.len());
        Ok(trainer.sample_and_score(&asked, scoring)?.rewards)
    }
}

impl Criterion {
    /// Refuses to go on by another criterion than this one of the best score so far.
    fn check(&self, now: &Self) -> Result<()> {
        if (self.num_prompts, self.samples, self.top) != (now.num_prompts, now.samples, now.top)
            || self.prompts_sha256 != now.prompts_sha256
        {
            return Err(Error::user(format!(
                "--resume: the run selects checkpoints by {} validation prompts × {} responses, top {}, and the settings \
                 now say {} × {}, top {}{}; such scores cannot be compared. Resume with the run's own --validation-… settings",
                self.num_prompts,
                self.samples,
                self.top,
                now.num_prompts,
                now.samples,
                now.top,
                if self.prompts_sha256 == now.prompts_sha256 {
                    ""
                } else {
                    ", of other prompts"
                }
            )));
        }
        let (Some(was), Some(is)) = (&self.judged, &now.judged) else {
            return Ok(());
        };
        let value = |of: &BTreeMap<String, String>, flag: &str| of.get(flag).cloned().unwrap_or_default();
        // A run that is continued from another directory names the same files in full.
        let moved = |was: &Path, is: &Path| was.is_relative() && is.is_absolute() && is.ends_with(was);
        let differs = |flag: &&String| {
            let (was, is) = (value(was, flag), value(is, flag));
            let named = flag.starts_with("--reward-") && !was.is_empty();
            was != is && !(named && moved(Path::new(&was), Path::new(&is)))
        };
        match was.keys().chain(is.keys()).find(differs) {
            None => Ok(()),
            Some(flag) => Err(Error::user(format!(
                "--resume: the best checkpoint so far was scored with {flag} {:?}, and now it is {:?}; such scores cannot be \
                 compared. Resume with the run's own {flag}, or start a run with another --output",
                value(was, flag),
                value(is, flag)
            ))),
        }
    }
}

/// What a validation score depends on beside the policy and the sizes, by flag.
fn judged(c: &TrainConfig, prompts: &[Prompt]) -> Result<BTreeMap<String, String>> {
    let keys: String = prompts.iter().map(|p| p.content.key()).collect();
    let asked = ("--validation-prompts".to_string(), sha256_hex(keys.as_bytes()));
    Ok(resume::scored(c)?.chain([asked]).collect())
}

/// Makes `checkpoints/best` a copy of a step's checkpoint: whole, whatever is removed later.
///
/// # Errors
/// A file cannot be copied; the older copy is then whole.
pub fn keep(run: &RunDir, checkpoint: &Path) -> Result<()> {
    let out = AtomicDir::create(&run.best(), foreign_to_checkpoint)?;
    // What somebody else put there stays there: in the copy nobody would look for it.
    let foreign = foreign_to_checkpoint(checkpoint);
    for entry in std::fs::read_dir(checkpoint).map_err(Error::io(checkpoint))? {
        let from = entry.map_err(Error::io(checkpoint))?.path();
        let name = from.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| !foreign.iter().any(|other| other == name)) else {
            continue;
        };
        let mut file = open::own(&from)?;
        out.write_with(name, |out| std::io::copy(&mut file, out).map(drop))?;
    }
    out.commit()
}

/// Before a run goes on from `state`: makes `checkpoints/best` the one that the state names, where a run that was killed
/// left an older or a later one.
///
/// # Errors
/// A file cannot be read, copied or removed.
pub fn mend(run: &RunDir, state: &TrainerState) -> Result<()> {
    let best = run.best();
    // A damaged copy is none: it is made again.
    let whole = |dir: &Path| dir.exists() && checkpoint::damage(dir, Depth::Sizes).is_none();
    let kept = match whole(&best) {
        true => Some(checkpoint::read_state(&best)?.step),
        false => None,
    };
    let named = state.best.as_ref().map(|b| b.step);
    if kept == named && (kept.is_some() || !best.exists()) {
        return Ok(());
    }
    match named.map(|step| run.step(step)).filter(|dir| whole(dir)) {
        Some(dir) => keep(run, &dir),
        None if named.is_some() => {
            log::warn!(
                "{}: the best checkpoint so far (step {}) is gone; the next better one takes its place",
                run.checkpoints().display(),
                named.unwrap_or(0)
            );
            Ok(())
        }
        None => dirs::discard(&best, &best, foreign_to_checkpoint),
    }
}

/// As [`mend`], for a run that is not going on: by its last checkpoint.
///
/// # Errors
/// As [`mend`].
pub fn mend_run(run: &RunDir) -> Result<()> {
    recover(&run.best(), foreign_to_checkpoint)?;
    match run.latest()? {
        Some(last) => mend(run, &checkpoint::read_state(&last)?),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
