//! `sweep` as a user meets it: trained, evaluated and compared unattended, continued, and refused.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/tiny.rs"]
mod tiny;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Two methods, one with its own learning rate, two seeds, checkpoints selected, two judges.
const SWEEP: &str = r#"
baseline = "grpo"
seeds = [1, 2]

[train]
model = "policy"
reward_model = "reward"
prompts = "prompts.jsonl"
num_generations = 4
prompts_per_step = 2
steps = 4
max_completion_length = 8
lora_rank = 4
token_budget = 256
learning_rate = 1e-3
validation_prompts = "prompts.jsonl"
validation_samples = 4
validation_top = 2
validation_steps = 2

[[method]]
advantage = "tea"

[[method]]
advantage = "grpo"
learning_rate = 2e-3

[eval]
prompts = "held-out.jsonl"
samples = 8
also_reward = "reward-two"
"#;

struct Place(tempfile::TempDir);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new(sweep: &str) -> Self {
        let place = Self(tiny::workplace());
        tiny::write_model(
            &place.at("reward-two"),
            tea_wgpu::model::spec::Head::Score,
            3,
            None,
        );
        let held_out = "{\"prompt\": \"add 4 4\"}\n{\"prompt\": \"sort zyx\"}\n{\"prompt\": \"count b\"}\n";
        std::fs::write(place.at("held-out.jsonl"), held_out).unwrap();
        place.write(sweep);
        place
    }

    fn write(&self, sweep: &str) {
        std::fs::write(self.at("sweep.toml"), sweep).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn sweep(&self, flags: &str) -> Ended {
        let done = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
            .current_dir(self.0.path())
            .args("sweep --config sweep.toml --output out".split(' '))
            .args(flags.split_whitespace())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("TEA_MEMORY_LIMIT")
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        Ended {
            code: done.status.code(),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.at(path)).unwrap()).unwrap()
    }

    fn statuses(&self) -> Vec<String> {
        let all = self.json("out/sweep.json");
        let one = |j: &Value| format!("{} {}", j["status"].as_str().unwrap(), j["job"].as_str().unwrap());
        all["jobs"].as_array().unwrap().iter().map(one).collect()
    }
}

impl Ended {
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

#[test]
fn a_sweep_runs_unattended_and_goes_on_where_it_was() {
    let place = Place::new(SWEEP);
    let plan = place.sweep("--dry-run").code(0).stdout;
    assert!(
        plan.contains("tea-seed2") && plan.contains("4 of 4 runs"),
        "{plan}"
    );
    assert!(!place.at("out").exists(), "a dry run writes nothing");
    let first = place.sweep("").code(0).stdout;
    assert!(
        first.contains("− grpo [95%]") && first.contains("reward-two"),
        "{first}"
    );
    for name in ["tea-seed1", "tea-seed2-best", "grpo-seed1", "base"] {
        assert!(
            place.at("out/evals").join(name).join("results.json").is_file(),
            "{name}"
        );
    }
    for name in [
        "table.csv",
        "frontier.png",
        "frontier-best.svg",
        "frontier-also.svg",
        "compare/compare.md",
    ] {
        assert!(place.at("out").join(name).is_file(), "{name}");
    }
    let table = place.json("out/table.json");
    let policies = table["judges"][0]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 5, "base, and last and best of two methods");
    // The table's means are those of the evaluations: n = 1 is the mean of all rewards of both seeds.
    let mean = |name: &str| -> f64 {
        let text =
            std::fs::read_to_string(place.at("out/evals").join(name).join("completions.jsonl")).unwrap();
        let rewards: Vec<f64> = text
            .lines()
            .map(|l| {
                serde_json::from_str::<Value>(l).unwrap()["reward"]
                    .as_f64()
                    .unwrap()
            })
            .collect();
        assert_eq!(rewards.len(), 3 * 8);
        rewards.iter().sum::<f64>() / rewards.len() as f64
    };
    let (row, seeds) = (&policies[1]["rows"][0], [mean("tea-seed1"), mean("tea-seed2")]);
    assert_eq!(policies[1]["method"], "tea");
    assert!((row["mean"]["mean"].as_f64().unwrap() - (seeds[0] + seeds[1]) / 2.0).abs() < 1e-9);
    let gain = row["vs_base"]["difference"]["mean"].as_f64().unwrap();
    assert!((gain - ((seeds[0] + seeds[1]) / 2.0 - mean("base"))).abs() < 1e-9);
    assert!(seeds[0] != seeds[1]);

    // Half a run and half an evaluation are lost: they come out the same, and nothing else is done again.
    let run = place.at("out/runs/tea-seed2/checkpoints");
    let adapter = bytes(&run.join("step_4"), "adapter_model.safetensors");
    let completions = bytes(&place.at("out/evals/grpo-seed1"), "completions.jsonl");
    std::fs::remove_dir_all(run.join("step_4")).unwrap();
    std::fs::write(
        place.at("out/evals/grpo-seed1/completions.jsonl"),
        &completions[..completions.len() / 2],
    )
    .unwrap();
    let plan = place.sweep("--dry-run").code(0).stdout;
    assert!(
        plan.contains("continues from step 2") && plan.contains("1 of 4 runs"),
        "{plan}"
    );
    let untouched = place.at("out/evals/base/completions.jsonl");
    let before = std::fs::metadata(&untouched).unwrap().modified().unwrap();
    place.sweep("").code(0);
    let trained: Vec<String> = place
        .statuses()
        .into_iter()
        .filter(|s| s.contains(" train "))
        .collect();
    assert_eq!(
        trained,
        [
            "skipped train tea-seed1",
            "done train tea-seed2",
            "skipped train grpo-seed1",
            "skipped train grpo-seed2"
        ]
    );
    let evaluated = |name: &str| place.statuses().iter().any(|s| *s == format!("done eval {name}"));
    assert!(
        evaluated("grpo-seed1") && !evaluated("grpo-seed2"),
        "{:?}",
        place.statuses()
    );
    // The same bits trained again: the evaluation is still of these weights.
    assert!(place.statuses().contains(&"skipped eval tea-seed2".to_string()));
    assert!(bytes(&run.join("step_4"), "adapter_model.safetensors") == adapter);
    assert!(bytes(&place.at("out/evals/grpo-seed1"), "completions.jsonl") == completions);
    assert_eq!(std::fs::metadata(&untouched).unwrap().modified().unwrap(), before);
    let again = place.json("out/table.json");
    assert_eq!(again["judges"][0]["policies"][1]["rows"], policies[1]["rows"]);
    assert_eq!(place.json("out/sweep.json")["types"]["base_dtype"], "f32");

    // One method is trained again at a rate that no evaluation holds: its evaluations are made again, and no others.
    place.write(&SWEEP.replace("learning_rate = 2e-3", "learning_rate = 9e-3"));
    for seed in [1, 2] {
        std::fs::remove_dir_all(place.at(&format!("out/runs/grpo-seed{seed}"))).unwrap();
    }
    let ended = place.sweep("").code(0);
    assert!(
        ended.stderr.contains("evals/grpo-seed1 is evaluated again"),
        "{}",
        ended.stderr
    );
    let done: Vec<String> = place
        .statuses()
        .into_iter()
        .filter(|s| s.starts_with("done"))
        .collect();
    assert_eq!(done.len(), 6, "{done:?}");
    assert!(done.iter().all(|s| s.contains("grpo-seed")), "{done:?}");
    assert!(bytes(&place.at("out/evals/grpo-seed1"), "completions.jsonl") != completions);
    let changed = place.json("out/table.json");
    assert_eq!(
        changed["judges"][0]["policies"][1]["rows"][0]["mean"],
        policies[1]["rows"][0]["mean"]
    );
    assert_ne!(changed["judges"][0]["policies"][3]["rows"], policies[3]["rows"]);
}

#[test]
fn a_failed_run_is_recorded_and_the_rest_goes_on() {
    let broken = "[[method]]\nname = \"broken\"\nprompts = \"nowhere.jsonl\"\n\n[eval]";
    let place = Place::new(
        &SWEEP
            .replace("[eval]", broken)
            .replace("seeds = [1, 2]", "seeds = [5]"),
    );
    let ended = place.sweep("").code(1);
    for part in [
        "1 of 7 jobs failed",
        "train broken-seed5",
        "nowhere.jsonl",
        "sweep.json",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert!(
        ended.stdout.contains("Failed, and so missing above"),
        "{}",
        ended.stdout
    );
    assert!(
        place
            .statuses()
            .contains(&"done eval grpo-seed5-best".to_string())
    );
    // Once the cause is mended the same command does what is missing.
    std::fs::copy(place.at("prompts.jsonl"), place.at("nowhere.jsonl")).unwrap();
    place.sweep("").code(0);
    assert_eq!(
        place.json("out/table.json")["judges"][0]["policies"]
            .as_array()
            .unwrap()
            .len(),
        7
    );
}

#[test]
fn wrong_files_and_changed_settings_are_refused_before_anything_runs() {
    let place = Place::new(SWEEP);
    let refused = |sweep: &str, flags: &str, parts: &[&str]| {
        place.write(sweep);
        let ended = place.sweep(flags).code(2);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    };
    let with = |from: &str, to: &str| SWEEP.replace(from, to);
    refused("methods = 1", "", &["sweep.toml:1", "methods"]);
    refused(
        &with("steps = 4", "stepz = 4"),
        "",
        &["sweep.toml", "[train]", "stepz"],
    );
    refused(
        &with("\"tea\"", "\"best\""),
        "",
        &["sweep.toml", "[[method]] 1", "--advantage best"],
    );
    refused(
        &with("\"grpo\"\nseeds", "\"ppo\"\nseeds"),
        "",
        &["baseline = \"ppo\"", "tea, grpo"],
    );
    refused(
        &with("held-out.jsonl", "nowhere.jsonl"),
        "",
        &["[eval]", "nowhere.jsonl"],
    );
    refused(
        &with("samples = 8", "samples = 8\nnum_prompts = 4"),
        "",
        &["[eval]", "num_prompts 4", "held-out.jsonl", "3 prompts"],
    );
    refused(
        &with("samples = 8", "samples = \"8\""),
        "",
        &["sweep.toml:", "samples"],
    );
    refused(
        &with("reward-two", "nowhere-else"),
        "",
        &["also_reward", "nowhere-else"],
    );
    refused(SWEEP, "--resamples 0", &["--resamples"]);
    for (number, parts) in [
        ("samples = 0", ["[eval]: --samples is 0", "from 1 to"]),
        (
            "samples = 1099511627776",
            ["[eval]: --samples is 1099511627776", "from 1 to"],
        ),
        ("samples = 8\nseed = -1", ["sweep.toml:", "seed = -1"]),
        (
            "samples = 8\nrollout_batch = 9223372036854775807",
            ["[eval]", "--rollout-batch"],
        ),
    ] {
        refused(&with("samples = 8", number), "", &parts);
    }
    let steps = with("steps = 4", "steps = 4294967296");
    refused(&steps, "--dry-run", &["sweep.toml", "--steps is 4294967296"]);
    // Lists of values multiply: what comes out is counted before it is made.
    let list: Vec<String> = (1..=64).map(|n| n.to_string()).collect();
    let grid = ["beta", "epsilon", "min_scale"].map(|key| format!("{key} = [{}]\n", list.join(", ")));
    let grid = with("[[method]]", &format!("[[method]]\n{}", grid.concat()));
    refused(
        &grid,
        "--dry-run",
        &["[[method]] 1", "× min_scale 64 make more than 65536"],
    );
    // What another sweep left is not mixed with this one.
    let run = place.at("out/runs/tea-seed1");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("metrics.jsonl"), "{\"step\":1}\n").unwrap();
    let config = "model = \"policy\"\nreward_model = \"reward\"\nbeta = 0.5\n";
    std::fs::write(run.join("config.toml"), config).unwrap();
    refused(
        SWEEP,
        "",
        &["out/runs/tea-seed1", "the sweep now says", "--output"],
    );
    refused(SWEEP, "--dry-run", &["out/runs/tea-seed1"]);
    assert!(!place.at("out/runs/grpo-seed1").exists());
}
