//! Sampling and judging into an evaluation directory, prompt by prompt, so that it can be interrupted anywhere.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::judging::evaluate;
use super::meta::{Difference, EvalMeta};
use super::run::{Draws, Evaluation};
use super::store::{StoredCompletion, StoredEval, StoredPrompt};
use super::weights;
use crate::error::{Error, Result};
use crate::file::lines::Upto;
use crate::file::write::append;
use crate::model::save::write_atomic;
use crate::report::Progress;
use crate::reward::Reward;
use crate::rollout::Finish;
use crate::run::{Dir, interrupt, kinds};
use crate::text::{PromptContent, sha256_hex};

/// Appends to an evaluation directory.
#[derive(Debug)]
pub struct Writer {
    held: Dir,
    file: File,
    eval: StoredEval,
}

impl Writer {
    /// Whether an evaluation may begin (or go on) in a directory; changes nothing.
    ///
    /// # Errors
    /// A user error when it holds one and neither `resume` nor `overwrite` is given, both are, there is nothing to resume, or
    /// what is there is somebody else's.
    pub fn check(held: &Dir, resume: bool, overwrite: bool) -> Result<()> {
        held.check(overwrite)?;
        let dir = held.root();
        let begun = StoredEval::meta_path(dir).exists();
        // Completions are what took the time, also where their eval.json has gone.
        let has_lines = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.len() > 0);
        let used = begun || has_lines(&StoredEval::completions_path(dir));
        match (resume, overwrite) {
            (true, true) => Err(Error::user("--resume and --overwrite exclude each other")),
            (true, false) if !begun => Err(Error::user(format!(
                "--resume: {} holds no evaluation to continue",
                dir.display()
            ))),
            (false, false) if used => Err(Error::user(format!(
                "{} already holds an evaluation; continue it with --resume, replace it with --overwrite, or choose another \
                 --output",
                dir.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Opens an evaluation: a new one, or one begun with the same settings, whose whole prompts are kept. The number of
    /// prompts and their hash in `meta` are filled in.
    ///
    /// # Errors
    /// As [`Writer::check`]; a user error naming the setting that is not the one it was begun with; an I/O error.
    pub fn open(
        dir: &Path,
        mut meta: EvalMeta,
        prompts: Vec<StoredPrompt>,
        (resume, overwrite): (bool, bool),
    ) -> Result<Self> {
        let held = Dir::hold(dir, &kinds::EVAL)?;
        Self::check(&held, resume, overwrite)?;
        let lines = json_lines(&prompts)?;
        meta.num_prompts = prompts.len();
        meta.prompts_sha256 = sha256_hex(&lines);
        let mut eval = StoredEval {
            meta,
            prompts,
            completions: Vec::new(),
        };
        let mut kept = Upto::default();
        if resume {
            let found = StoredEval::read_partial(dir)?;
            check_same(dir, &found.eval.meta, &eval.meta)?;
            (eval, kept) = (found.eval, found.upto);
            held.begin()?;
        } else {
            // eval.json is what makes it an evaluation: the first to go, the last to come. What an evaluation that ended
            // before it left behind goes too.
            held.check(overwrite)?;
            held.clear()?;
            write_atomic(&StoredEval::prompts_path(dir), &lines)?;
            let text = serde_json::to_string_pretty(&eval.meta).map_err(Error::internal)? + "\n";
            write_atomic(&StoredEval::meta_path(dir), text.as_bytes())?;
        }
        let path = StoredEval::completions_path(dir);
        let mut file = append(&path)?;
        kept.keep(&path, &mut file)?;
        Ok(Self { held, file, eval })
    }

    /// Prompts that are done.
    pub fn done(&self) -> usize {
        self.eval.completions.len()
    }

    /// What is stored so far.
    pub fn eval(&self) -> &StoredEval {
        &self.eval
    }

    /// Adds the completions of the next prompts.
    ///
    /// # Errors
    /// An I/O error naming the file (a full disk, say): what was written before it is whole.
    pub fn append(&mut self, evaluation: &Evaluation) -> Result<()> {
        let path = StoredEval::completions_path(self.held.root());
        for group in stored(evaluation, self.done()) {
            // One write a prompt: a crash tears at most the last one.
            let lines = json_lines(&group)?;
            self.file.write_all(&lines).map_err(Error::io(&path))?;
            self.eval.completions.push(group);
        }
        self.file.sync_data().map_err(Error::io(&path))
    }

    /// Samples and judges every prompt that is not done. `rewards` are the judge and, where `meta` has one, the second
    /// judge; `stop` is asked between batches.
    ///
    /// # Errors
    /// As [`evaluate`] and [`Writer::append`]; [`Error::Interrupted`] when `stop` says so.
    pub fn fill(
        &mut self,
        draws: &mut Draws<'_>,
        rewards: &mut [&mut dyn Reward],
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        let contents: Vec<PromptContent> = self.eval.prompts.iter().map(StoredPrompt::content).collect();
        let total = contents.len();
        let mut progress = Progress::new("prompts", self.done() as u64, total as u64);
        let _held = interrupt::hold("finishing the prompts in progress, which are then stored");
        while self.done() < total {
            if stop() {
                progress.finish();
                return Err(Error::Interrupted(format!(
                    "{} holds the completions of {} of {total} prompts; run the same command with --resume to go on",
                    self.held.root().display(),
                    self.done()
                )));
            }
            let next = self.done()..total.min(self.done() + draws.at_once());
            let evaluation = evaluate(draws, &contents, next, rewards)?;
            let mean = evaluation.rewards.first().map_or(0.0, super::run::Judged::mean);
            self.append(&evaluation)?;
            progress.step(self.done() as u64, &[("reward", mean)]);
        }
        progress.finish();
        Ok(())
    }
}

/// The lines of an evaluation whose first prompt is number `first`.
fn stored(evaluation: &Evaluation, first: usize) -> Vec<Vec<StoredCompletion>> {
    let reward = |judge: usize, p: usize, s: usize| evaluation.rewards.get(judge).map(|r| r.values[p][s]);
    let groups = evaluation.responses.iter().enumerate();
    groups
        .map(|(p, group)| {
            let line = |(s, r): (usize, &super::run::Response)| StoredCompletion {
                prompt_index: first + p,
                sample: s,
                text: r.text.clone(),
                tokens: r.tokens,
                finish_reason: if r.truncated { Finish::Length } else { Finish::Stop },
                reward: reward(0, p, s).unwrap_or(f64::NAN),
                also_reward: reward(1, p, s),
            };
            group.iter().enumerate().map(line).collect()
        })
        .collect()
}

fn json_lines<T: Serialize>(rows: &[T]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row).map_err(Error::internal)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Refuses to go on with other settings or other weights.
fn check_same(dir: &Path, begun: &EvalMeta, now: &EvalMeta) -> Result<()> {
    let what = format!("{} was", dir.display());
    if begun.weights_sha256.is_empty() && !now.weights_sha256.is_empty() {
        log::warn!(
            "{what} begun by an older version, which kept no hashes of weights: whether they are still the same is not known"
        );
    }
    match begun.difference(now)? {
        None => Ok(()),
        Some(Difference::Weights { field, name }) => Err(weights::other(&what, field, &name)),
        Some(Difference::Setting(change)) => Err(change.refuse(&what, "--overwrite")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::store;
    use super::*;
    use crate::eval::run::{Judged, Response};
    use serde_json::Value;
    use std::fs;

    fn meta() -> EvalMeta {
        serde_json::from_value(serde_json::json!({
            "version": store::VERSION, "model": "m", "reward_model": "r", "also_reward": "s", "prompts_file": "p",
            "prompts_sha256": "", "num_prompts": 0, "samples": 2, "seed": 1, "temperature": 1.0, "top_p": 1.0,
            "top_k": 0, "min_p": 0.0, "max_completion_length": 4
        }))
        .unwrap()
    }

    fn prompts() -> Vec<StoredPrompt> {
        let prompt = |i: usize| StoredPrompt::new(i, Value::Null, &PromptContent::Text(i.to_string()));
        (0..3).map(prompt).collect()
    }

    /// Two samples for each of `prompts`.
    fn answers(prompts: std::ops::Range<usize>) -> Evaluation {
        let response = |p: usize, s: usize| Response {
            text: format!("{p}/{s}"),
            tokens: s + 1,
            truncated: s == 1,
        };
        let judged = |name: &str, shift: f64| Judged {
            name: name.into(),
            values: prompts
                .clone()
                .map(|p| vec![p as f64 + shift, p as f64 / 3.0])
                .collect(),
        };
        Evaluation {
            responses: prompts
                .clone()
                .map(|p| (0..2).map(|s| response(p, s)).collect())
                .collect(),
            rewards: vec![judged("r", 0.5), judged("s", 0.25)],
        }
    }

    #[test]
    fn a_torn_evaluation_goes_on_to_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut whole = Writer::open(a.path(), meta(), prompts(), (false, false)).unwrap();
        whole.append(&answers(0..3)).unwrap();
        let bytes = fs::read(StoredEval::completions_path(a.path())).unwrap();
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
            drop(Writer::open(b.path(), meta(), prompts(), (false, true)).unwrap());
            fs::write(StoredEval::completions_path(b.path()), &bytes[..cut]).unwrap();
            let mut part = Writer::open(b.path(), meta(), prompts(), (true, false)).unwrap();
            while part.done() < 3 {
                part.append(&answers(part.done()..part.done() + 1)).unwrap();
            }
            assert_eq!(
                fs::read(StoredEval::completions_path(b.path())).unwrap(),
                bytes,
                "cut at {cut}"
            );
            assert_eq!(part.eval(), &StoredEval::read(b.path()).unwrap());
        }
        let eval = StoredEval::read(a.path()).unwrap();
        assert_eq!(eval.rewards()[2], [2.5, 2.0 / 3.0]);
        assert_eq!(eval.also_rewards().unwrap()[1], [1.25, 1.0 / 3.0]);
    }

    #[test]
    fn other_settings_and_used_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |meta: EvalMeta, prompts: Vec<StoredPrompt>, how| {
            Writer::open(dir.path(), meta, prompts, how).map(|w| w.done())
        };
        let refused = |result: Result<usize>, parts: &[&str]| {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in parts {
                assert!(error.to_string().contains(part), "{part:?} not in {error}");
            }
        };
        refused(
            open(meta(), prompts(), (true, false)),
            &["--resume", "no evaluation"],
        );
        open(meta(), prompts(), (false, false)).unwrap();
        refused(
            open(meta(), prompts(), (false, false)),
            &["already holds", "--overwrite"],
        );
        refused(open(meta(), prompts(), (true, true)), &["exclude"]);
        let other = |edit: fn(&mut EvalMeta)| {
            let mut meta = meta();
            edit(&mut meta);
            meta
        };
        refused(
            open(other(|m| m.seed = 2), prompts(), (true, false)),
            &["seed = 1", "is 2"],
        );
        refused(
            open(other(|m| m.adapter = Some("x".into())), prompts(), (true, false)),
            &["adapter = null", "\"x\""],
        );
        let mut fewer = prompts();
        fewer.pop();
        refused(open(meta(), fewer, (true, false)), &["prompts_sha256"]);
        open(
            other(|m| m.prompts_file = "moved".into()),
            prompts(),
            (true, false),
        )
        .unwrap();
        // An element type that was left open then is not chosen now.
        refused(
            open(
                other(|m| m.base_dtype = Some("q8_0".into())),
                prompts(),
                (true, false),
            ),
            &["base_dtype = null", "q8_0"],
        );
        // The adapter was trained again in its place; or moved as it is; or the evaluation is older than hashes.
        let with = |dir: &str, hash: &str| {
            let mut meta = meta();
            meta.adapter = Some(dir.into());
            if !hash.is_empty() {
                meta.weights_sha256.insert("adapter".into(), hash.into());
            }
            meta
        };
        open(with("lora", "aa"), prompts(), (false, true)).unwrap();
        refused(
            open(with("lora", "bb"), prompts(), (true, false)),
            &["other weights of lora (adapter)", "--overwrite"],
        );
        refused(
            open(with("new", "bb"), prompts(), (true, false)),
            &["adapter = \"lora\"", "\"new\""],
        );
        open(with("moved", "aa"), prompts(), (true, false)).unwrap();
        open(with("lora", ""), prompts(), (true, false)).unwrap();
        refused(
            open(with("moved", ""), prompts(), (true, false)),
            &["adapter = \"lora\""],
        );
        open(with("lora", ""), prompts(), (false, true)).unwrap();
        open(with("lora", "aa"), prompts(), (true, false)).unwrap();
        fs::write(dir.path().join("results.json"), "old").unwrap();
        open(other(|m| m.seed = 2), prompts(), (false, true)).unwrap();
        assert!(!dir.path().join("results.json").exists());
    }

    #[test]
    fn completions_without_their_settings_are_not_removed_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let open = |how| Writer::open(dir.path(), meta(), prompts(), how);
        open((false, false)).unwrap().append(&answers(0..3)).unwrap();
        fs::remove_file(StoredEval::meta_path(dir.path())).unwrap();
        let bytes = || fs::read(StoredEval::completions_path(dir.path())).unwrap();
        let before = bytes();
        for how in [(false, false), (true, false)] {
            assert_eq!(open(how).unwrap_err().exit_code(), 2);
            assert_eq!(bytes(), before);
        }
        open((false, true)).unwrap();
        assert!(bytes().is_empty());
    }
}
