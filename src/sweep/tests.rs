//! What is trained, skipped, resumed and reported, with a worker that only writes files.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use super::report;
use super::run::{State, SweepDir, Target, Worker, state, sweep};
use super::{Run, Sweep};
use crate::error::{Error, Result};
use crate::eval::store::VERSION;
use crate::eval::{Bootstrap, EvalMeta, StoredCompletion, StoredEval, StoredPrompt};
use crate::rollout::Finish;
use crate::text::PromptContent;
use crate::train::checkpoint::TrainerState;

const PROMPTS: usize = 5;
const SAMPLES: usize = 4;

/// Pretends to work; remembers what it was asked.
#[derive(Default)]
struct Fake {
    calls: Vec<String>,
    /// What fails, and with which error.
    fails: BTreeMap<String, fn() -> Error>,
    /// Steps a training gets to before it fails.
    dies_at: Option<u64>,
}

impl Fake {
    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

fn save_step(dir: &Path, step: u64) {
    let at = dir.join(format!("checkpoints/step_{step}"));
    std::fs::create_dir_all(&at).unwrap();
    let state = TrainerState {
        kind: "train".into(),
        step,
        optimizer_steps: step,
        data_position: step,
        seed: 1,
        device: "none".into(),
        best: None,
    };
    std::fs::write(
        at.join("trainer_state.json"),
        serde_json::to_string(&state).unwrap(),
    )
    .unwrap();
}

impl Worker for Fake {
    fn train(&mut self, run: &Run, dir: &Path, resume: bool) -> Result<()> {
        self.calls.push(format!("train {} {resume}", run.name));
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
        save_step(dir, run.config.steps);
        Ok(())
    }

    /// Rewards depend on prompt and sample, and grow with the policy: base 0, tea 1 + seed, others 0.5.
    fn evaluate(&mut self, target: &Target, dir: &Path) -> Result<()> {
        self.calls.push(format!("eval {}", target.name));
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
        write_eval(dir, gain, PROMPTS);
        Ok(())
    }
}

fn write_eval(dir: &Path, gain: f64, prompts: usize) {
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
        base_dtype: None,
        reward_dtype: None,
        step: None,
        run: None,
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

fn plan(dir: &Path, text: &str) -> Sweep {
    let path = dir.join("sweep.toml");
    std::fs::write(&path, text).unwrap();
    Sweep::read(&path).unwrap()
}

const TWO: &str = "baseline = \"grpo\"\nseeds = [1, 2]\n[train]\nsteps = 6\n[[method]]\nadvantage = \"tea\"\n\
                   [[method]]\nadvantage = \"grpo\"\n";

#[test]
fn what_is_finished_is_skipped_and_what_failed_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake {
        dies_at: Some(4),
        ..Fake::default()
    };
    fake.fails
        .insert("tea-seed2".into(), || Error::DeviceLost("gone".into()));
    fake.fails
        .insert("eval grpo-seed1".into(), || Error::user("cannot"));
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    assert_eq!(
        fake.take(),
        [
            "eval base",
            "train tea-seed1 false",
            "eval tea-seed1",
            "train tea-seed2 false",
            "train grpo-seed1 false",
            "eval grpo-seed1",
            "train grpo-seed2 false",
            "eval grpo-seed2"
        ]
    );
    let failed: Vec<&str> = outcome.failed().iter().map(|j| j.job.as_str()).collect();
    assert_eq!(failed, ["train tea-seed2", "eval grpo-seed1"]);
    let text = std::fs::read_to_string(out.root.join("sweep.json")).unwrap();
    assert!(
        text.contains("device lost: gone") && text.contains("\"failed\""),
        "{text}"
    );
    let table = std::fs::read_to_string(out.root.join("table.md")).unwrap();
    assert!(
        table.contains("Failed, and so missing above") && table.contains("train tea-seed2"),
        "{table}"
    );
    assert_eq!(
        state(&out.run("tea-seed2"), &s.methods[0].runs[1]).unwrap(),
        State::Partial(4)
    );

    // The second time: the failed run goes on from its checkpoint, the finished ones are left alone.
    fake.fails.clear();
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    let trained: Vec<String> = fake
        .take()
        .into_iter()
        .filter(|c| c.starts_with("train"))
        .collect();
    assert_eq!(trained, ["train tea-seed2 true"]);
    assert!(outcome.failed().is_empty());
    let statuses: Vec<&str> = outcome.jobs.iter().map(|j| j.status).collect();
    assert_eq!(
        statuses,
        [
            "skipped", "done", "done", "done", "skipped", "done", "skipped", "done"
        ]
    );
    for name in [
        "table.md",
        "table.csv",
        "table.json",
        "frontier.svg",
        "frontier.png",
        "frontier-also.svg",
    ] {
        assert!(out.root.join(name).is_file(), "{name}");
    }
    assert!(!out.root.join("frontier-best.svg").exists());
}

#[test]
fn ctrl_c_ends_the_sweep_and_other_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake::default();
    fake.fails
        .insert("tea-seed2".into(), || Error::Interrupted("saved".into()));
    let e = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(
        e.exit_code() == 130 && e.to_string().contains("train tea-seed2"),
        "{e}"
    );
    assert_eq!(fake.take().last().unwrap(), "train tea-seed2 false");
    // A changed setting would mix two sweeps: nothing runs.
    let changed = plan(dir.path(), &TWO.replace("steps = 6", "steps = 6\nbeta = 0.5"));
    let e = sweep(&changed, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(e.exit_code() == 2, "{e}");
    for part in ["tea-seed1", "beta = 0.02", "now says 0.5"] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
    assert!(fake.take().is_empty());
    // The base policy is what everything is compared with.
    let mut fake = Fake::default();
    fake.fails.insert("eval base".into(), || Error::user("cannot"));
    let e = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(e.to_string().contains("base policy"), "{e}");
}

#[test]
fn seeds_are_averaged_before_the_bootstrap_and_methods_are_paired() {
    let dir = tempfile::tempdir().unwrap();
    let select = TWO.replace("steps = 6", "steps = 6\nvalidation_prompts = \"embedded\"");
    let s = plan(dir.path(), &select);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let outcome = sweep(&s, &out, &mut Fake::default(), &Bootstrap::default()).unwrap();
    let r = report::write(&s, &out, &outcome, &Bootstrap::default()).unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    let names: Vec<_> = r.judges[0]
        .policies
        .iter()
        .map(|p| (p.method.as_str(), p.checkpoint))
        .collect();
    assert_eq!(
        names,
        [
            ("base", None),
            ("tea", Some("last")),
            ("tea", Some("best")),
            ("grpo", Some("last")),
            ("grpo", Some("best"))
        ]
    );
    // The largest of 4 samples is 0.3 above the first, which is 0.3 a prompt: mean 0.6 + 0.3.
    let base = &r.judges[0].policies[0];
    close(base.rows[2].mean.mean, 0.9);
    assert!(base.rows[2].vs_base.is_none() && base.rows[2].seed_sd.is_none());
    close(base.mean_length, 3.5);
    let tea = &r.judges[0].policies[1];
    assert_eq!(tea.seeds, [1, 2]);
    let row = &tea.rows[2];
    assert_eq!((row.n, row.seed_means.len()), (4, 2));
    close(row.seed_means[1] - row.seed_means[0], 1.0);
    close(row.seed_sd.unwrap(), 0.5f64.sqrt());
    // Gains of 2 and 3 on every prompt: 2.5 without uncertainty over prompts, where the values themselves have some.
    let versus = row.vs_base.unwrap();
    close(versus.difference.mean, 2.5);
    close(versus.difference.high - versus.difference.low, 0.0);
    assert_eq!(versus.outcome.wins, PROMPTS);
    assert!(row.mean.high - row.mean.low > 0.1);
    close(row.vs_baseline.unwrap().difference.mean, 2.0);
    assert!(
        r.judges[0].policies[3].rows[0].vs_baseline.is_none(),
        "not with itself"
    );
    assert_eq!(tea.train_seconds, Some(3.5));
    // The held-out judge sees what the first one picks: its own worst here.
    let also = &r.judges[1];
    assert_eq!(also.reward, "other");
    close(also.policies[0].rows[2].mean.mean, -0.9);
    let csv = std::fs::read_to_string(out.root.join("table.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 5 * 3, "{csv}");
    assert!(out.root.join("frontier-best.svg").is_file());
    // Evaluations of other prompts cannot be paired.
    write_eval(&out.eval("tea-seed1"), 0.0, PROMPTS - 1);
    let e = report::write(&s, &out, &outcome, &Bootstrap::default()).unwrap_err();
    assert!(
        e.to_string().contains("other prompts") && e.exit_code() == 2,
        "{e}"
    );
}
