//! A sweep's worker that only writes files, for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use super::run::{Target, Work, Worker};
use super::{Run, Types};
use crate::error::{Error, Result};
use crate::eval::store::VERSION;
use crate::eval::{EvalMeta, StoredCompletion, StoredEval, StoredPrompt};
use crate::rollout::Finish;
use crate::text::PromptContent;
use crate::train::checkpoint::{self, TrainerState};
use crate::train::selection::{Best, Criterion};

pub(super) const PROMPTS: usize = 5;
const SAMPLES: usize = 4;

/// Pretends to work; remembers what it was asked.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) calls: Vec<String>,
    /// What fails, and with which error.
    pub(super) fails: BTreeMap<String, fn() -> Error>,
    /// Steps a training gets to before it fails.
    pub(super) dies_at: Option<u64>,
    /// What fits; f32 where nothing is said.
    pub(super) fits: Option<&'static str>,
    /// Element types that work was asked for, `job base/reward`.
    pub(super) types: Vec<String>,
    /// Which step a selecting run's `best` is a copy of, and which it should be.
    pub(super) best: Option<(u64, u64)>,
}

impl Fake {
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

fn save_step(dir: &Path, step: u64) {
    save(dir, &format!("step_{step}"), step, None);
}

fn save(dir: &Path, name: &str, step: u64, best: Option<Best>) {
    let at = dir.join("checkpoints").join(name);
    std::fs::create_dir_all(&at).unwrap();
    let state = TrainerState {
        kind: "train".into(),
        step,
        optimizer_steps: step,
        data_position: step,
        device: "none".into(),
        half_blocks: 0,
        best,
        data: None,
        base: None,
    };
    std::fs::write(
        at.join("trainer_state.json"),
        serde_json::to_string(&state).unwrap(),
    )
    .unwrap();
}

/// Two types by name.
pub(super) fn pair(types: &Types) -> String {
    let name = |t: &Option<String>| t.clone().unwrap_or_else(|| "open".into());
    format!("{}/{}", name(&types.base_dtype), name(&types.reward_dtype))
}

impl Worker for Fake {
    fn settle(&mut self, runs: &[&Run]) -> Result<Types> {
        assert!(runs.iter().all(|r| r.config.base_dtype.is_none()));
        let fits = Some(self.fits.unwrap_or("f32").to_string());
        Ok(Types {
            base_dtype: fits.clone(),
            reward_dtype: fits,
        })
    }

    fn train(&mut self, run: &Run, dir: &Path, resume: bool) -> Result<()> {
        self.calls.push(format!("train {} {resume}", run.name));
        let own = Types {
            base_dtype: run.config.base_dtype.clone(),
            reward_dtype: run.config.reward_dtype.clone(),
        };
        self.types.push(format!("train {} {}", run.name, pair(&own)));
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("config.toml"), run.config.to_toml().unwrap()).unwrap();
        std::fs::write(
            dir.join("metrics.jsonl"),
            "{\"step\":1,\"step_time\":2.0,\"time/validation\":1.5}\n",
        )
        .unwrap();
        if let Some(error) = self.fails.get(&run.name) {
            if let Some(step) = self.dies_at {
                save_step(dir, step);
            }
            return Err(error());
        }
        match self.best {
            Some((kept, best)) => {
                save_step(dir, best);
                save(dir, "best", kept, None);
                save(
                    dir,
                    &format!("step_{}", run.config.steps),
                    run.config.steps,
                    Some(named(best)),
                );
            }
            None => save_step(dir, run.config.steps),
        }
        Ok(())
    }

    /// Rewards depend on prompt and sample, and grow with the policy: base 0, tea 1 + seed, others 0.5.
    fn evaluate(&mut self, target: &Target, dir: &Path) -> Result<Work> {
        self.calls.push(format!("eval {}", target.name));
        self.types
            .push(format!("eval {} {}", target.name, pair(&target.types)));
        if target.name.ends_with("-best")
            && let Some((_, best)) = self.best
        {
            let state = checkpoint::read_state(target.checkpoint.as_ref().unwrap()).unwrap();
            assert_eq!(state.step, best, "a stale copy was to be evaluated");
        }
        let step = target
            .checkpoint
            .as_ref()
            .map(|c| c.file_name().unwrap().to_str().unwrap().to_string());
        assert_eq!(step.is_none(), target.name == "base");
        if let Some(error) = self.fails.get(&format!("eval {}", target.name)) {
            return Err(error());
        }
        let gain = match target.name.split_once("-seed") {
            Some(("tea", seed)) => 1.0 + seed.trim_end_matches("-best").parse::<f64>().unwrap(),
            Some(_) => 0.5,
            None => 0.0,
        };
        if StoredEval::read(dir).is_ok() {
            return Ok(Work::Skipped);
        }
        write_eval(dir, gain, PROMPTS);
        Ok(Work::Done)
    }
}

fn named(step: u64) -> Best {
    Best {
        step,
        score: 1.0,
        criterion: Criterion {
            prompts_sha256: String::new(),
            num_prompts: 1,
            samples: 1,
            top: 1,
            judged: None,
        },
    }
}

/// An evaluation whose rewards are `gain` above those of the base policy.
pub(super) fn write_eval(dir: &Path, gain: f64, prompts: usize) {
    let text = |i: usize| PromptContent::Text(format!("p{i}"));
    let meta = EvalMeta {
        version: VERSION,
        model: "tiny".into(),
        adapter: None,
        reward_model: "judge".into(),
        reward_adapter: None,
        also_reward: Some("other".into()),
        also_reward_adapter: None,
        prompts_file: "held-out".into(),
        prompts_sha256: String::new(),
        num_prompts: prompts,
        samples: SAMPLES,
        seed: 0,
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        max_completion_length: 8,
        raw: false,
        template_date: None,
        matmul_precision: Default::default(),
        kv_cache_dtype: Default::default(),
        base_dtype: None,
        reward_dtype: None,
        also_reward_dtype: None,
        step: None,
        run: None,
        weights_sha256: Default::default(),
    };
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(StoredEval::meta_path(dir), serde_json::to_string(&meta).unwrap()).unwrap();
    let line = |v: &dyn erased::Line| v.line();
    let all: String = (0..prompts)
        .map(|i| line(&StoredPrompt::new(i, serde_json::Value::Null, &text(i))))
        .collect();
    std::fs::write(StoredEval::prompts_path(dir), all).unwrap();
    let mut all = String::new();
    for prompt in 0..prompts {
        for sample in 0..SAMPLES {
            let reward = (prompt * 3 + sample) as f64 * 0.1 + gain;
            all += &line(&StoredCompletion {
                prompt_index: prompt,
                sample,
                text: "x".into(),
                tokens: 2 + sample,
                finish_reason: Finish::Stop,
                reward,
                also_reward: Some(-reward),
            });
        }
    }
    std::fs::write(StoredEval::completions_path(dir), all).unwrap();
}

mod erased {
    /// Anything that is a line of JSON.
    pub(super) trait Line {
        fn line(&self) -> String;
    }

    impl<T: serde::Serialize> Line for T {
        fn line(&self) -> String {
            serde_json::to_string(self).unwrap() + "\n"
        }
    }
}
