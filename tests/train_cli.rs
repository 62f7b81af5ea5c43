//! `train` and `plan` as a user meets them: runs, resumption, and what is said when something is wrong.
//!
//! One process a run, on random models (`common/tiny.rs`); paths are relative to a directory of the test's own.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/hub.rs"]
mod hub;
#[path = "common/tiny.rs"]
mod tiny;

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tea_wgpu::model::store::WeightStore;

const BIN: &str = env!("CARGO_BIN_EXE_tea-wgpu");
/// The step all runs here take: 2 prompts × 4 responses × 8 tokens.
const STEP: &str = "--num-generations 4 --prompts-per-step 2 --max-completion-length 8 --lora-rank 4 --token-budget 256 \
                    --learning-rate 1e-3 --warmup-steps 2";
const MODELS: &str = "--model policy --reward-model reward --prompts prompts.jsonl";
/// Longest wait for a running process to get somewhere.
const PATIENCE: Duration = Duration::from_secs(100);

/// A directory with models, and the program run in it.
struct Place(tempfile::TempDir);

/// How a process ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self(tiny::workplace())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.at(path), text).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.0.path())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("TEA_MEMORY_LIMIT")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs the program with words separated by spaces.
    fn run(&self, line: &str) -> Ended {
        self.command(BIN)
            .args(line.split_whitespace())
            .output()
            .unwrap()
            .into()
    }

    /// `train` on the usual models.
    fn train(&self, line: &str) -> Ended {
        self.run(&format!("train {MODELS} {STEP} {line}"))
    }

    fn start(&self, line: &str) -> Child {
        self.command(BIN)
            .args(format!("train {MODELS} {STEP} {line}").split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn metrics(&self, run: &str) -> Vec<Map<String, Value>> {
        let text = std::fs::read_to_string(self.at(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// The names in `run/checkpoints`, sorted.
    fn checkpoints(&self, run: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(run).join("checkpoints")).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether `generate` takes the adapter.
    fn generates(&self, adapter: &str) {
        let line = format!(
            "generate --model policy --adapter {adapter} --prompt hi --max-completion-length 3 --json"
        );
        let ended = self.run(&line).code(0);
        let value: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert!(!value["completions"][0]["tokens"].as_array().unwrap().is_empty());
    }
}

impl From<Output> for Ended {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            stdout: String::from_utf8_lossy(&o.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        }
        self
    }

    /// Exit code 2 and a message with all of `parts`.
    #[track_caller]
    fn refused(self, parts: &[&str]) -> Self {
        self.code(2).says(parts)
    }
}

/// Waits for `done`, with the process still running.
#[track_caller]
fn wait_for(child: &mut Child, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        assert!(begun.elapsed() < PATIENCE, "the run takes too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A record without wall-clock times, and without how often the host waited, which depends on them.
fn timeless(records: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let measured = |name: &str| name.contains("time") || name.starts_with("host_waits");
    let keep = |r: Map<String, Value>| r.into_iter().filter(|(name, _)| !measured(name)).collect();
    records.into_iter().map(keep).collect()
}

/// Fails unless the directory is a whole adapter checkpoint of `step`.
#[track_caller]
fn whole(dir: &Path, step: u64) {
    let state: Value =
        serde_json::from_slice(&std::fs::read(dir.join("trainer_state.json")).unwrap()).unwrap();
    assert_eq!(state["step"], step);
    for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let store = WeightStore::open_safetensors(&dir.join(file)).unwrap();
        assert!(store.names().count() > 0, "{file}");
    }
    assert!(dir.join("adapter_config.json").is_file() && dir.join("config.toml").is_file());
}

const METRICS: [&str; 26] = [
    "step",
    "reward",
    "reward_std",
    "reward_max",
    "frac_reward_zero_std",
    "frac_groups_no_signal",
    "rewards/reward/mean",
    "rewards/reward/std",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/clipped_ratio",
    "tail/mu",
    "tail/sigma",
    "tail/kappa",
    "loss",
    "kl",
    "entropy",
    "grad_norm",
    "learning_rate",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "clip_ratio/region_mean",
    "mismatch_kl",
    "num_tokens",
    "step_time",
];

#[test]
fn a_run_leaves_metrics_settings_and_a_peft_adapter() {
    let place = Place::new();
    // An absolute path: metrics are named by its last part.
    let reward = place.at("reward");
    let line = format!(
        "train --model policy --reward-model {}/ --prompts prompts.jsonl {STEP} --steps 3 --output out",
        reward.display()
    );
    let ended = place.run(&line).code(0);
    assert!(ended.stdout.contains("step_3"), "{}", ended.stdout);
    let metrics = place.metrics("out");
    assert_eq!(metrics.len(), 3);
    for (i, record) in metrics.iter().enumerate() {
        for name in METRICS {
            let value = record.get(name).and_then(Value::as_f64);
            assert!(
                value.is_some_and(f64::is_finite),
                "{name}: {:?}",
                record.get(name)
            );
        }
        assert_eq!(record["step"], i + 1);
        assert!(record["mismatch_kl"].as_f64().unwrap() < 1e-6);
        assert!(record["mismatch_logp_max"].as_f64().unwrap() < 1e-4);
        assert!(record["entropy"].as_f64().unwrap() > 1.0);
    }
    // The adapter starts as the reference and then leaves it.
    assert_eq!(metrics[0]["kl"], 0.0);
    assert!(metrics[2]["kl"].as_f64().unwrap() > 0.0);
    assert_eq!(place.checkpoints("out"), ["step_3"]);
    let step = place.at("out/checkpoints/step_3");
    whole(&step, 3);
    let config: Value =
        serde_json::from_slice(&std::fs::read(step.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (
            &config["peft_type"],
            &config["task_type"],
            &config["r"],
            &config["lora_alpha"]
        ),
        (&"LORA".into(), &"CAUSAL_LM".into(), &4.into(), &32.into())
    );
    assert_eq!(config["base_model_name_or_path"], "policy");
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    let store = WeightStore::open_safetensors(&step.join("adapter_model.safetensors")).unwrap();
    let b = store
        .get("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight")
        .unwrap();
    assert_eq!(b.shape, [16, 4]);
    assert!(b.to_f32().iter().any(|v| *v != 0.0), "B has moved from zero");
    place.generates("out/checkpoints/step_3");
    // The resolved settings are settings: the same plan follows from them.
    let plan = |line: &str| -> Value {
        let printed = place.run(&format!("plan --json {line}")).code(0).stdout;
        let mut plan: Value = serde_json::from_str(&printed).unwrap();
        // What other processes leave changes between the two.
        plan.as_object_mut().unwrap().remove("free");
        plan
    };
    assert_eq!(
        plan("--config out/config.toml"),
        plan(&format!("{MODELS} {STEP} --steps 3"))
    );
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let place = Place::new();
    let variants = [
        ("lora", "", "adapter_model.safetensors"),
        ("full", "--full --beta 0.1", "model.safetensors"),
        (
            "twice",
            "--num-iterations 2 --beta 0",
            "adapter_model.safetensors",
        ),
        (
            "eight",
            "--optim adamw_8bit --no-checkpointing --dtype float16",
            "adapter_model.safetensors",
        ),
    ];
    for (name, flags, weights) in variants {
        let (straight, parts) = (format!("{name}-straight"), format!("{name}-parts"));
        place
            .train(&format!("{flags} --steps 4 --output {straight}"))
            .code(0);
        place
            .train(&format!("{flags} --steps 2 --save-steps 1 --output {parts}"))
            .code(0);
        // The run's own settings hold; --steps is given anew.
        place
            .run(&format!("train --output {parts} --resume --steps 4"))
            .code(0);
        assert_eq!(
            place.checkpoints(&parts),
            ["step_1", "step_2", "step_3", "step_4"]
        );
        for file in [weights, "optimizer.safetensors"] {
            let read =
                |run: &str| std::fs::read(place.at(run).join("checkpoints/step_4").join(file)).unwrap();
            assert!(read(&straight) == read(&parts), "{name}: {file} differs");
        }
        let metrics = timeless(place.metrics(&straight));
        assert_eq!(metrics, timeless(place.metrics(&parts)), "{name}");
        assert_eq!(metrics.len(), 4);
        assert!(metrics[3]["grad_norm"].as_f64().unwrap() > 0.0);
        let before = std::fs::read(place.at(&parts).join("checkpoints/step_2").join(weights)).unwrap();
        let after = std::fs::read(place.at(&parts).join("checkpoints/step_4").join(weights)).unwrap();
        assert!(before != after, "{name}: two steps changed nothing");
    }
    // A whole model is a model of its own, tokenizer and all.
    let model = "full-parts/checkpoints/step_4";
    place
        .run(&format!(
            "generate --model {model} --prompt hi --max-completion-length 3"
        ))
        .code(0);
    // What would not continue the run is refused, and the run stays as it was.
    place
        .run("train --output lora-parts --resume --steps 5 --seed 7")
        .refused(&["--resume", "--seed 1, not 7"]);
    place
        .run("train --output lora-parts --resume --steps 5 --lora-rank 8")
        .refused(&["lora_A.weight", "resume with the settings"]);
    place
        .run("train --output lora-parts --resume --steps 5 --prompts-per-step 3")
        .refused(&["--resume", "--prompts-per-step 2, not 3"]);
    // What was settled on by the free memory is a setting of the run from then on.
    let settings = std::fs::read_to_string(place.at("lora-parts/config.toml")).unwrap();
    assert!(settings.contains("gradient_sum = \"tree\""), "{settings}");
    place
        .run("train --output lora-parts --resume --steps 5 --gradient-sum ascending")
        .refused(&["--resume", "--gradient-sum tree, not ascending"]);
    place
        .run("train --output lora-parts --resume --steps 5 --matmul-precision high")
        .refused(&["--resume", "--matmul-precision highest, not high"]);
    // Where the adapter has cooperative matrices it is the run that refuses, elsewhere the adapter.
    place
        .run("train --output lora-parts --resume --steps 5 --matmul-precision medium")
        .refused(&["--matmul-precision highest", "medium"]);
    place
        .run("train --output lora-parts --resume --steps 5 --kv-cache-dtype float16")
        .refused(&["--resume", "--kv-cache-dtype float32, not float16"]);
    place
        .run("train --output lora-parts --resume --steps 5 --full")
        .refused(&["--resume", "without --full"]);
    place
        .run("train --output lora-parts --resume --steps 5 --optim adamw_8bit")
        .refused(&["--resume", "--optim adamw, not adamw_8bit"]);
    place
        .run("train --output lora-parts --resume --steps 5 --dtype float16 --kv-cache-dtype float32 --no-checkpointing")
        .refused(&["--resume", "of 0 blocks as f16", "--activation-memory"]);
    place
        .run("train --output eight-parts --resume --steps 5 --dtype float32 --kv-cache-dtype float16")
        .refused(&["--resume", "would keep those of 0", "--dtype"]);
    place
        .run("train --output eight-parts --resume --steps 5 --optim adamw")
        .refused(&["--resume", "--optim adamw_8bit, not adamw"]);
    let size = |run: &str| {
        let file = place.at(run).join("checkpoints/step_4/optimizer.safetensors");
        std::fs::metadata(file).unwrap().len()
    };
    assert!(size("eight-parts") < size("lora-parts"));
    whole(&place.at("lora-parts/checkpoints/step_4"), 4);
    assert_eq!(place.metrics("lora-parts").len(), 4);
}

/// Groups of about 1,200 tokens, each of two pieces: one to six pieces are a micro-batch, by the token budget.
const MANY: &str = "--num-generations 80 --prompts-per-step 3 --max-completion-length 16 --lora-rank 4 \
                    --learning-rate 1e-3 --warmup-steps 2 --rollout-batch 240";

/// Neither what a micro-batch holds nor what is kept of it changes a bit of weights, moments or metrics.
#[test]
fn other_token_budgets_give_the_same_bits() {
    let place = Place::new();
    for (name, flags, weights) in [
        (
            "lora",
            "--num-iterations 2 --beta 0.1",
            "adapter_model.safetensors",
        ),
        ("full", "--full --beta 0.1", "model.safetensors"),
        (
            "half",
            "--dtype float16 --beta 0 --gradient-sum ascending",
            "adapter_model.safetensors",
        ),
    ] {
        let mut first = None;
        for (i, other) in [
            "64 --activation-memory 1GiB",
            "300 --no-checkpointing",
            "2048 --activation-memory auto",
            "100000 --activation-memory 1GiB",
        ]
        .iter()
        .enumerate()
        {
            let run = format!("{name}-{i}");
            let line =
                format!("train {MODELS} {MANY} {flags} --steps 2 --output {run} --token-budget {other}");
            place.run(&line).code(0);
            let read =
                |file: &str| std::fs::read(place.at(&run).join("checkpoints/step_2").join(file)).unwrap();
            let got = (
                read(weights),
                read("optimizer.safetensors"),
                timeless(place.metrics(&run)),
            );
            let want = first.get_or_insert_with(|| got.clone());
            assert!(got.0 == want.0 && got.1 == want.1, "{name}: {other}");
            assert_eq!(got.2, want.2, "{name}: {other}");
        }
    }
}

/// Where the free memory has no room for the tree, a run adds in one buffer.
#[test]
fn the_order_of_sums_follows_the_free_memory() {
    let place = Place::new();
    let plan = |flags: &str, limit: Option<u64>| -> Value {
        let line = format!("plan {MODELS} {STEP} --full --base-dtype f32 --reward-dtype f32 --json {flags}");
        let mut command = place.command(BIN);
        command.args(line.split_whitespace());
        if let Some(bytes) = limit {
            command.env("TEA_MEMORY_LIMIT", bytes.to_string());
        }
        let ended = Ended::from(command.output().unwrap()).code(0);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let gradients = |plan: &Value| plan["bytes"]["gradients"].as_u64().unwrap();
    let tree = plan("", None);
    let ascending = plan("--gradient-sum ascending", None);
    assert_eq!(
        (&tree["gradient_sum"], &ascending["gradient_sum"]),
        (&"tree".into(), &"ascending".into())
    );
    // Two prompts a step: one set more.
    assert_eq!(gradients(&tree), 2 * gradients(&ascending));
    let total = tree["total"].as_u64().unwrap();
    assert_eq!(plan("", Some(total))["gradient_sum"], "tree");
    let short = plan("", Some(total - 1));
    assert_eq!(short["gradient_sum"], "ascending");
    assert_eq!(short["total"], ascending["total"]);
    assert_eq!(plan("--gradient-sum tree", Some(total - 1))["total"], total);
}

/// Every other step of 6 is validated, and the last.
const SELECT: &str = "--validation-prompts validation.jsonl --validation-samples 6 --top 2 --validation-size 3 \
                      --validation-steps 2 --learning-rate 1e-2";

#[test]
fn the_best_checkpoint_by_validation_is_kept_and_survives_a_crash() {
    let place = Place::new();
    place.write(
        "validation.jsonl",
        "{\"prompt\": \"add 3 4\"}\n{\"prompt\": \"sort cab\"}\n{\"prompt\": \"next 1 2 3\"}\n{\"prompt\": \"unused\"}\n",
    );
    let train = |line: &str| {
        let step = STEP.replace("--learning-rate 1e-3", "");
        place
            .run(&format!("train {MODELS} {step} {SELECT} {line}"))
            .code(0)
    };
    train("--steps 7 --save-steps 50 --output straight");
    let metrics = place.metrics("straight");
    let scores: Vec<(u64, f64)> = metrics
        .iter()
        .filter_map(|r| Some((r["step"].as_u64()?, r.get("validation_score")?.as_f64()?)))
        .collect();
    assert_eq!(scores.iter().map(|s| s.0).collect::<Vec<_>>(), [2, 4, 6, 7]);
    let (best, score) = scores
        .iter()
        .copied()
        .fold((0, f64::MIN), |a, b| if b.1 > a.1 { b } else { a });
    assert!(scores.iter().any(|s| s.1 < score), "the steps differ: {scores:?}");
    for record in metrics.iter().filter(|r| r.contains_key("validation_score")) {
        // The mean of the best two of six is above the mean of all.
        assert!(record["validation_score"].as_f64() > record["validation_reward"].as_f64());
        assert!(record["time/validation"].as_f64().unwrap() > 0.0);
    }
    let read = |run: &str, dir: &str, file: &str| {
        std::fs::read(place.at(run).join("checkpoints").join(dir).join(file)).unwrap()
    };
    whole(&place.at("straight/checkpoints/best"), best);
    let state: Value = serde_json::from_slice(&read("straight", "step_7", "trainer_state.json")).unwrap();
    assert_eq!(
        (&state["best"]["step"], &state["best"]["score"]),
        (&best.into(), &score.into())
    );
    assert_eq!(state["best"]["criterion"]["num_prompts"], 3);
    // A copy, so that removing the step's own checkpoint does not break it.
    std::fs::remove_dir_all(place.at(&format!("straight/checkpoints/step_{best}"))).unwrap();
    place.generates("straight/checkpoints/best");

    // Stopped and continued at every place: the same choice, the same bits.
    train("--steps 7 --save-steps 1 --output parts");
    for at in [1, 3, 5] {
        for later in at + 1..=7 {
            let dir = place.at(&format!("parts/checkpoints/step_{later}"));
            std::fs::remove_dir_all(dir).unwrap();
        }
        place.run("train --output parts --resume").code(0);
        assert_eq!(
            timeless(place.metrics("parts")),
            timeless(place.metrics("straight")),
            "{at}"
        );
        for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
            assert!(
                read("parts", "best", file) == read("straight", "best", file),
                "{at}: {file}"
            );
        }
    }
    // What a kill between a checkpoint and its copy leaves is mended: an old copy, or none.
    for torn in ["step_1", ""] {
        let dir = place.at("parts/checkpoints/best");
        std::fs::remove_dir_all(&dir).unwrap();
        if !torn.is_empty() {
            std::fs::rename(place.at("parts/checkpoints").join(torn), &dir).unwrap();
        }
        // An evaluation does not take the old copy, and leaves the run as it is.
        place
            .run(
                "eval --run parts --prompts prompts.jsonl --num-prompts 1 --samples 2 --output e --overwrite",
            )
            .code(0);
        let meta: Value = serde_json::from_slice(&std::fs::read(place.at("e/eval.json")).unwrap()).unwrap();
        assert_eq!(
            (&meta["step"], &meta["run"]["checkpoint"]),
            (&best.into(), &"best".into())
        );
        assert_eq!(dir.exists(), !torn.is_empty());
        place.run("train --output parts --resume").code(0);
        whole(&dir, best);
    }
    place
        .run("train --output parts --resume --steps 8 --top 3")
        .refused(&["--resume", "top 2", "top 3", "--validation-"]);
    place
        .run("train --output parts --resume --steps 8 --reward-model reward-flat")
        .refused(&["--resume", "--reward-model", "\"reward\"", "\"reward-flat\""]);
}

#[test]
fn an_output_directory_is_used_once_unless_told_otherwise() {
    let place = Place::new();
    place
        .train("--output out --resume")
        .refused(&["--resume", "out", "no run"]);
    assert!(!place.at("out").exists());
    place.train("--steps 2 --output out").code(0);
    place
        .train("--output out")
        .refused(&["out already holds a run", "--resume", "--overwrite"]);
    place
        .train("--output out --resume --overwrite")
        .refused(&["--resume", "--overwrite"]);
    // A run that cannot begin does not remove the old one.
    place
        .train("--output out --overwrite --reward-adapter nowhere")
        .refused(&["--reward-model", "nowhere"]);
    whole(&place.at("out/checkpoints/step_2"), 2);
    place.train("--steps 1 --output out --overwrite").code(0);
    assert_eq!(place.checkpoints("out"), ["step_1"]);
    assert_eq!(place.metrics("out").len(), 1);
}

#[test]
fn settings_are_checked_before_anything_runs() {
    let place = Place::new();
    place.write("unknown.toml", "beta = 0.1\nstepz = 3\n");
    place.write("type.toml", "steps = \"many\"\n");
    place.write("rule.toml", "advantage = \"best\"\n");
    place.write("scale.toml", "scale_advantages = \"all\"\n");
    place.write("few.toml", "num_generations = 1\nalpha = 0.25\n");
    place.write("infinite.toml", "beta = inf\n");
    let long = "x".repeat(tiny::CONTEXT);
    place.write("long.jsonl", &format!("{{\"prompt\": \"{long}\"}}\n"));
    let usual = [
        ("--config unknown.toml", &["unknown.toml:2", "stepz"][..]),
        ("--config type.toml", &["type.toml:1", "steps", "u64"]),
        ("--config rule.toml", &["--advantage best", "prefix-tea", "rloo"]),
        ("--config scale.toml", &["scale.toml:1", "group"]),
        ("--config few.toml", &["--num-generations", "1"]),
        ("--config nowhere.toml", &["nowhere.toml"]),
        ("--num-generations 1", &["--num-generations", "at least 2"]),
        ("--alpha 0.7", &["--alpha", "0.7", "0.5"]),
        ("--alpha 0", &["--alpha", "0"]),
        ("--alpha x", &["--alpha", "x"]),
        ("--alpha 0.2 --bon 4", &["N = 4", "kappa", "at least 8", "--bon"]),
        ("--bon 1", &["--bon", "1"]),
        ("--temperature 0.7", &["--temperature", "--allow-biased-sampling"]),
        ("--top-k 5", &["--top-k", "--allow-biased-sampling"]),
        ("--top-p 1.5", &["--top-p", "1.5"]),
        (
            "--advantage best",
            &["--advantage", "best", "prefix-tea", "cat-bon"],
        ),
        ("--advantage oracle", &["--advantage", "oracle", "bon-max-mean"]),
        (
            "--advantage prefix-tea --num-generations 8",
            &["--num-generations", "at least 11 "],
        ),
        (
            "--advantage prefix-tea --prefix-order 3",
            &["--prefixes is 2", "--prefix-order 3"],
        ),
        ("--advantage bon-mean --max-at-k 65", &["--max-at-k is 65"]),
        ("--advantage pkpo --max-at-k 1", &["--max-at-k is 1"]),
        (
            "--advantage chow --selection-size 64",
            &["--selection-size is 64"],
        ),
        (
            "--advantage cat-bon --bon 0",
            &["'0' for '--bon <N>'", "from 1 to"],
        ),
        ("--kl-estimator k9", &["--kl-estimator", "k9"]),
        (
            "--reward-residency gone",
            &["--reward-residency", "gone", "stream"],
        ),
        ("--optim sgd", &["--optim", "sgd", "adamw_8bit"]),
        ("--steps 0", &["--steps"]),
        (
            "--learning-rate nan",
            &["'nan' for '--learning-rate", "from 0 to"],
        ),
        ("--config infinite.toml", &["--beta is inf"]),
        ("--seed 9300000000000000000", &["--seed"]),
        ("--base-dtype f13", &["--base-dtype", "f13"]),
        ("--full --base-dtype q8_0", &["--full", "--base-dtype"]),
        ("--prompts nowhere.jsonl", &["nowhere.jsonl"]),
        ("--reward-model policy-x", &["--reward-model", "policy-x"]),
        ("--template-date soon", &["--template-date"]),
        ("--validation-prompts nowhere.jsonl", &["nowhere.jsonl"]),
        ("--validation-prompts embedded", &["embedded", "tiny", "JSONL"]),
        ("--validation-prompts long.jsonl", &["long.jsonl: prompt 1", "64"]),
        (
            "--validation-samples 4",
            &["--validation-top 10", "--validation-samples 4"],
        ),
        ("--validation-steps 0", &["--validation-steps"]),
        (
            "--activation-memory 1KiB",
            &["--activation-memory 1024", "--token-budget"],
        ),
    ];
    for (flags, parts) in usual {
        // Flags that stand in `flags` are left out of the usual ones: none may be given twice.
        let first = flags.split(' ').next().unwrap();
        let rest = ["--prompts prompts.jsonl", "--reward-model reward"];
        let rest = rest.iter().filter(|r| !r.starts_with(first)).copied();
        let line: Vec<&str> = rest.chain([flags]).collect();
        place
            .run(&format!(
                "plan --model policy --max-completion-length 8 {}",
                line.join(" ")
            ))
            .refused(parts);
    }
    // The same through `train`, which leaves nothing behind.
    for (flags, parts) in [
        ("--alpha 0.7", "--alpha"),
        ("--bon 4", "--bon"),
        ("--config few.toml", "--num-generations"),
    ] {
        place
            .run(&format!("train {MODELS} --output out {flags}"))
            .refused(&[parts]);
        assert!(!place.at("out").exists());
    }
}

/// What `plan` and `train` say to a setting: the same, by a flag and by a file.
#[test]
fn a_plan_refuses_what_training_would_in_the_same_words() {
    let place = Place::new();
    // Counts whose product alone is too large.
    let two = "prompts_per_step = 65536\nnum_generations = 128";
    let settings = [
        ("num_generations = 1", "--num-generations is 1; it must be"),
        ("num_generations = 4097", "from 2 to 4096"),
        ("prompts_per_step = 4294967296", "--prompts-per-step"),
        (two, "--prompts-per-step 65536 × --num-generations 128"),
        ("max_completion_length = 2147483648", "--max-completion-length"),
        ("max_prompt_length = 0", "--max-prompt-length"),
        ("steps = 4611686018427387904", "--steps"),
        ("token_budget = 4294967296", "--token-budget"),
        ("rollout_batch = 1099511627776", "--rollout-batch"),
        ("lora_rank = 65537", "--lora-rank"),
        ("num_iterations = 1025", "--num-iterations"),
        ("save_steps = 0", "--save-steps"),
        ("validation_size = 1099511627776", "--validation-size"),
        ("validation_samples = 65537", "--validation-samples"),
        ("bon = 9007199254740993", "--bon"),
        ("top_k = 4294967295", "--allow-biased-sampling"),
        ("temperature = 1e-300", "0, or a number from 1e-4"),
        ("learning_rate = 1e308", "--learning-rate"),
        ("beta = nan", "--beta is NaN"),
        ("epsilon = inf", "--epsilon is inf"),
        ("lora_alpha = -1.0", "--lora-alpha is -1"),
        ("seed = 9223372036854775808", "seed"),
        ("max_completion_length = 2147483647", "context"),
        // Each is in its range, and one buffer of the run would be larger than any adapter binds.
        (
            "num_iterations = 1024\nprompts_per_step = 16\nnum_generations = 4096\nmax_completion_length = 8",
            "step/sums needs 2147483648 bytes in one binding",
        ),
        (
            "lora_rank = 65536\ntoken_budget = 16384\nnum_generations = 4096\nmax_completion_length = 8",
            "activations/lora needs 4294967296 bytes in one binding",
        ),
        (
            "activation_memory = 1\nmax_completion_length = 8",
            "--activation-memory 1",
        ),
    ];
    for (text, part) in settings {
        place.write("bad.toml", &format!("{text}\n"));
        let flags: Vec<String> = text
            .lines()
            .map(|line| {
                let (key, value) = line.split_once(" = ").unwrap();
                format!("--{}={value}", key.replace('_', "-"))
            })
            .collect();
        for given in ["--config bad.toml".to_string(), flags.join(" ")] {
            let plan = place.run(&format!("plan {MODELS} {given}"));
            let train = place.run(&format!("train {MODELS} --output out {given}"));
            assert_eq!(
                (plan.code, train.code),
                (Some(2), Some(2)),
                "{given}: {}",
                train.stderr
            );
            assert_eq!(plan.stderr, train.stderr, "{given}");
            let named = match given.starts_with("--config") {
                true => part,
                false => flags[0].split('=').next().unwrap(),
            };
            assert!(train.stderr.contains(named), "{given}: {named}: {}", train.stderr);
            assert!(!place.at("out").exists(), "{given}");
        }
    }
    // A run that is too large for the memory is planned, and what `train` says of it is said beside the plan.
    let needs = "this run needs";
    let models = "--base-dtype f32 --reward-dtype f32 --reward-residency resident --max-completion-length 8";
    let run = |line: &str| {
        let mut command = place.command(BIN);
        command
            .args(line.split_whitespace())
            .env("TEA_MEMORY_LIMIT", "1000000");
        Ended::from(command.output().unwrap())
    };
    let plan = run(&format!("plan {MODELS} {models} --json"));
    let train = run(&format!("train {MODELS} {models} --output out"));
    assert_eq!((plan.code, train.code), (Some(0), Some(2)), "{}", train.stderr);
    let said = |ended: &Ended| {
        let from = ended.stderr.find(needs).unwrap();
        let end = ended.stderr[from..].find(" free").unwrap();
        ended.stderr[from..from + end].to_string()
    };
    assert_eq!(said(&plan), said(&train));
    let shown: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(shown["free"], 1_000_000);
}

/// A run that measures kernel variants, with a cache of its own: bits as without, a file that is used, and mended when damaged.
#[test]
fn tuning_keeps_its_choices_and_changes_no_bit() {
    let place = Place::new();
    let cache = place.at("cache");
    let train = |line: &str| -> Ended {
        let mut command = place.command(BIN);
        command
            .env("XDG_CACHE_HOME", &cache)
            .env("TEA_TUNE", "1")
            .env_remove("TEA_VARIANT")
            .env_remove("TEA_LANES");
        let line = format!("train {MODELS} {STEP} --steps 1 {line}");
        command.args(line.split_whitespace()).output().unwrap().into()
    };
    let files = || -> Vec<PathBuf> {
        let found = std::fs::read_dir(cache.join("tea-wgpu/tuned"));
        found.map_or_else(|_| Vec::new(), |all| all.map(|e| e.unwrap().path()).collect())
    };
    let weights = |run: &str| {
        let step = place.at(run).join("checkpoints/step_1");
        std::fs::read(step.join("adapter_model.safetensors")).unwrap()
    };
    train("--no-tune --output plain").code(0);
    assert_eq!(files(), Vec::<PathBuf>::new());
    train("--output tuned").code(0);
    assert!(weights("plain") == weights("tuned"));
    let [file] = &files()[..] else {
        panic!("{:?}", files())
    };
    let choices = || -> usize {
        let table: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        table["choices"].as_array().unwrap().len()
    };
    assert!(choices() > 0);
    std::fs::write(file, "{ \"key\": 3").unwrap();
    train("--output again").code(0);
    assert!(weights("plain") == weights("again") && choices() > 0);
}

#[test]
fn every_setting_parses_and_flags_win_over_the_file() {
    let place = Place::new();
    place.write(
        "run.toml",
        "num_generations = 3\nalpha = 0.25\nkl_estimator = \"k2\"\nloss_type = \"sum\"\ntop_k = 3\n",
    );
    let line = format!(
        "plan --json {MODELS} {STEP} --config run.toml --advantage grpo-z --loss-type grpo --kl-estimator k1 --epsilon 0.3 \
         --optim adamw_8bit --activation-memory 1GiB --beta 0 --allow-biased-sampling --temperature 0.7 --top-p 0.9 --min-p 0.1 --raw \
         --rollout-batch 8 --base-dtype bf16 --reward-dtype f16 --template-date 2025-02-03 --max-grad-norm 0 \
         --matmul-precision medium --gradient-sum tree"
    );
    let half = format!("{line} --kv-cache-dtype float16");
    let plan: Value = serde_json::from_str(&place.run(&line).code(0).stdout).unwrap();
    let rows = plan["bytes"].as_object().unwrap();
    let sum: u64 = rows.values().map(|v| v.as_u64().unwrap()).sum();
    assert!(sum > 0 && plan["total"] == sum);
    let half: Value = serde_json::from_str(&place.run(&half).code(0).stdout).unwrap();
    let cache = |plan: &Value| plan["bytes"]["sampling kv cache"].as_u64().unwrap();
    let saved = cache(&plan) - cache(&half);
    assert!(saved > 0 && saved * 2 <= cache(&plan), "{plan} {half}");
    assert_eq!(
        half["total"].as_u64(),
        plan["total"].as_u64().map(|total| total - saved)
    );
    // bf16 and f32 norms; embedding, 7 matrices a layer.
    let (matrices, norms) = (101 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32), 5 * 16);
    assert_eq!(rows["policy weights"], 2 * matrices + 4 * norms);
    let text = place.run(&line.replace(" --json", "")).code(0).stdout;
    let total = text.lines().position(|l| l.trim_end().ends_with("  total"));
    let formula = text.lines().position(|l| l.contains("formula"));
    assert!(total.is_some() && total < formula, "{text}");
    // The example file is whole.
    let example = format!("{}/examples/train.toml", env!("CARGO_MANIFEST_DIR"));
    place
        .run(&format!(
            "plan {MODELS} --config {example} --max-completion-length 8"
        ))
        .code(0);
}

#[test]
fn no_model_stands_in_for_one_that_was_not_named() {
    let place = Place::new();
    place
        .run("train --model policy --prompts prompts.jsonl --output out")
        .refused(&["policy", "--reward-model", "models/aliases.toml"]);
    place
        .run("train --model policy --reward-model reward --output out")
        .refused(&["--prompts"]);
    // A known policy names its reward model and its prompts, which are on the hub.
    let ended: Ended = place
        .command(BIN)
        .args(["train", "--model", "llama-1b", "--output", "out"])
        .env("HF_HOME", place.at("hf"))
        .output()
        .unwrap()
        .into();
    ended.refused(&[
        "HuggingFaceH4/ultrafeedback_binarized",
        "HF_HUB_OFFLINE",
        "hf download HuggingFaceH4/ultrafeedback_binarized --repo-type dataset",
        "--prompts",
    ]);
    place
        .run("train --model reward --reward-model reward --prompts prompts.jsonl --output out")
        .refused(&["reward model", "--model"]);
    place
        .run("train --model policy --reward-model policy --prompts prompts.jsonl --max-completion-length 8 --output out")
        .refused(&["--reward-model", "score head"]);
    assert!(!place.at("out").exists());
}

const SET: &str = "HuggingFaceH4/ultrafeedback_binarized";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TRAIN_FILE: &str = "data/train_prefs-00000-of-00001.parquet";

/// A hub with tiny models under the names that an alias stands for, and its data set in the shape of the public one.
fn fake_hub(place: &Place) -> String {
    let parquet = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/prepare")
            .join(name);
        std::fs::read(path).unwrap()
    };
    let listed = [
        "README.md",
        TRAIN_FILE,
        "data/train_sft-00000-of-00001.parquet",
        "data/test_prefs-00000-of-00001.parquet",
    ];
    let mut files = hub::Files::from([
        (
            format!("api/datasets/{SET}/revision/main"),
            Ok(hub::listing(COMMIT, &listed)),
        ),
        (TRAIN_FILE.into(), Ok(parquet("binarized.parquet"))),
        (listed[3].into(), Ok(parquet("ultrafeedback.parquet"))),
    ]);
    for (id, dir) in [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "policy"),
        ("Skywork/Skywork-Reward-V2-Llama-3.1-8B", "reward"),
    ] {
        for entry in std::fs::read_dir(place.at(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            files.insert(
                format!("{id}/resolve/main/{name}"),
                Ok(std::fs::read(&path).unwrap()),
            );
        }
    }
    hub::serve(files, COMMIT).0
}

#[test]
fn an_alias_is_all_that_a_run_needs_where_the_hub_answers() {
    let place = Place::new();
    let address = fake_hub(&place);
    let run = |line: &str, endpoint: Option<&str>| -> Ended {
        let mut command = place.command(BIN);
        command
            .args(line.split_whitespace())
            .env("HF_HOME", place.at("hf"));
        if let Some(endpoint) = endpoint {
            command.env("HF_ENDPOINT", endpoint).env_remove("HF_HUB_OFFLINE");
        }
        command.output().unwrap().into()
    };
    let line = format!("train --model smollm2-135m {STEP}");
    run(&format!("{line} --steps 1 --output out"), Some(&address)).code(0);
    let config = || std::fs::read_to_string(place.at("out/config.toml")).unwrap();
    let written = config();
    let set: toml::Table = toml::from_str(&written).unwrap();
    let inputs = &set["inputs"];
    assert_eq!(inputs["prompts"].as_str(), Some(SET));
    assert_eq!(inputs["reward_model"].as_str(), Some("skywork-llama-8b"));
    assert_eq!(inputs["max_prompt_length"].as_integer(), Some(512));
    let recorded = set["prompt_set"].as_table().unwrap();
    assert_eq!(
        (
            recorded["id"].as_str(),
            recorded["revision"].as_str(),
            recorded["split"].as_str()
        ),
        (Some(SET), Some(COMMIT), Some("train_prefs"))
    );
    assert_eq!(
        recorded["files"].as_array().unwrap()[0].as_str(),
        Some(TRAIN_FILE)
    );
    // The file's other columns and repeated prompts are no prompts: six questions.
    let reward = place.metrics("out")[0]["reward"].as_f64().unwrap();
    assert!(reward.is_finite());

    // The branch moves on, and the run goes on with what it began with, from the cache.
    let moved = hub::Files::from([(
        format!("api/datasets/{SET}/revision/main"),
        Ok(hub::listing(
            &COMMIT.replace('0', "f"),
            &["data/train_prefs-00000-of-00002.parquet"],
        )),
    )]);
    let (moved, log) = hub::serve(moved, "moved");
    run("train --output out --resume --steps 2", Some(&moved)).code(0);
    assert!(log.lock().unwrap().is_empty(), "{:?}", log.lock().unwrap());
    assert_eq!(config(), written.replace("steps = 1\n", "steps = 2\n"));
    // The same in one go, offline; from the run's settings; and from a directory that was brought by hand.
    run(&format!("{line} --steps 2 --output straight"), None).code(0);
    run("train --config out/config.toml --output again", None).code(0);
    std::fs::create_dir_all(place.at("brought/data")).unwrap();
    let cached = place.at(&format!(
        "hf/hub/datasets--{}/snapshots/{COMMIT}/{TRAIN_FILE}",
        SET.replace('/', "--")
    ));
    std::fs::copy(&cached, place.at("brought").join(TRAIN_FILE)).unwrap();
    std::fs::copy(
        &cached,
        place.at("brought/data/test_prefs-00000-of-00001.parquet"),
    )
    .unwrap();
    run(
        &format!("{line} --prompts brought --steps 2 --output byhand"),
        None,
    )
    .code(0);
    let expected = timeless(place.metrics("out"));
    for other in ["straight", "again", "byhand"] {
        assert_eq!(timeless(place.metrics(other)), expected, "{other}");
    }
    // Other prompts than the recorded ones are not read from the recorded files.
    run(
        "train --output out --resume --steps 3 --prompts prompts.jsonl",
        None,
    )
    .code(0);
    assert!(!config().contains("prompt_set"), "{}", config());

    // The same names elsewhere. What is no training data has to name its split.
    let generate = "generate --model policy --max-completion-length 2 --json --prompts";
    run(&format!("{generate} {SET}"), Some(&address)).refused(&[
        SET,
        "test_prefs, train_prefs, train_sft",
        "NAME:SPLIT",
    ]);
    let ended = run(&format!("{generate} {SET}:test_prefs"), Some(&address)).code(0);
    // Seven of the eight rows: the last repeats the first.
    assert_eq!(ended.stdout.lines().count(), 7, "{}", ended.stdout);
    run(
        &format!("{line} --prompts nobody/nothing --output other"),
        Some(&address),
    )
    .refused(&[
        "nobody/nothing (no file or directory of that name here)",
        "not found on the hub",
        "--local-dir nothing",
    ]);
    run(&format!("{line} --max-prompt-length 3 --output other"), None)
        .refused(&["all 6 prompts", "--max-prompt-length"]);
    assert!(!place.at("other").exists());
}

#[test]
fn prompts_are_read_with_their_line_numbers() {
    let place = Place::new();
    let long = "x".repeat(tiny::CONTEXT);
    let cases = [
        (String::new(), &["p.jsonl", "no records"][..]),
        (
            "{\"prompt\": \"a\"}\n{\"prompt\": \n".into(),
            &["p.jsonl:2", "JSON"],
        ),
        (
            "{\"prompt\": \"a\"}\n\n{\"text\": \"b\"}\n".into(),
            &["p.jsonl:3", "\"prompt\""],
        ),
        (
            "[{\"prompt\": \"a\"},\n\"b\"]\n".into(),
            &["p.jsonl:2: row 2", "expected a JSON object, found a string"],
        ),
        (
            format!("{{\"prompt\": \"a\"}}\n{{\"prompt\": \"{long}\"}}\n"),
            &[
                "p.jsonl: prompt 2",
                "66 tokens",
                "context",
                "64",
                "--max-completion-length",
            ],
        ),
    ];
    for (text, parts) in cases {
        place.write("p.jsonl", &text);
        let line =
            format!("train --model policy --reward-model reward --prompts p.jsonl {STEP} --output out");
        place.run(&line).refused(parts);
        assert!(!place.at("out").exists());
    }
}

#[test]
fn a_reward_that_is_not_a_number_stops_the_run() {
    let place = Place::new();
    let line = |reward: &str| {
        format!(
            "train --model policy --reward-model {reward} --prompts prompts.jsonl {STEP} --output out --steps 2"
        )
    };
    place
        .run(&line("reward-nan"))
        .refused(&["reward-nan", "NaN", "score.weight"]);
    assert!(!place.at("out").exists());
    // Nothing was written. Rewards that are all equal teach nothing, and say so.
    place.run(&line("reward-flat")).code(0);
    let metrics = place.metrics("out");
    assert_eq!(metrics.len(), 2);
    for record in &metrics {
        assert_eq!(record["frac_groups_no_signal"], 1.0);
        assert_eq!(record["frac_reward_zero_std"], 1.0);
        assert_eq!(
            (&record["reward_std"], &record["grad_norm"]),
            (&0.0.into(), &0.0.into())
        );
    }
    whole(&place.at("out/checkpoints/step_2"), 2);
}

#[test]
fn rewards_that_a_rule_does_not_take_stop_the_run() {
    let place = Place::new();
    let line = format!("train {MODELS} {STEP} --output out --steps 2");
    place.run(&format!("{line} --advantage pass-at-k")).refused(&[
        "prompt ",
        "the reward of sample 0 is",
        "pass-at-k takes rewards of 0 or 1",
    ]);
    // Before anything was updated.
    assert_eq!(
        std::fs::read_to_string(place.at("out/metrics.jsonl")).unwrap(),
        ""
    );
    assert!(!place.at("out/checkpoints/step_1").exists());
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_its_plan() {
    let place = Place::new();
    let limited = |bytes: &str| -> Ended {
        place
            .command(BIN)
            .args(format!("train {MODELS} {STEP} --output out --steps 1").split_whitespace())
            .env("TEA_MEMORY_LIMIT", bytes)
            .output()
            .unwrap()
            .into()
    };
    limited("500000").refused(&[
        "0.5 MiB",
        "policy weights",
        "reward model weights",
        "adapter",
        "kv cache",
        "total",
        "Lower --token-budget",
        "--num-generations",
    ]);
    limited("a lot").refused(&["TEA_MEMORY_LIMIT", "a lot"]);
    assert!(!place.at("out").exists());
    // The least: auto adds gradients in order where the tree's buffers do not fit.
    let plan = place.run(&format!("plan --json {MODELS} {STEP} --gradient-sum ascending"));
    let plan = plan.code(0).stdout;
    let total = serde_json::from_str::<Value>(&plan).unwrap()["total"]
        .as_u64()
        .unwrap();
    limited(&(total - 1).to_string()).refused(&["total"]);
    limited(&total.to_string()).code(0);
}

/// A judge of three blocks, of which two at a time are on the device, says what the whole one says.
#[test]
fn a_streamed_judge_changes_nothing_but_the_memory() {
    const RUN: &str = "--steps 2 --prompts-per-step 1 --num-generations 4 --max-completion-length 8 --base-dtype f32 \
                       --reward-dtype f32";
    let place = Place::new();
    let limited = |line: &str, bytes: u64| -> Ended {
        let mut command = place.command(BIN);
        command.args(line.split_whitespace());
        command.env("TEA_MEMORY_LIMIT", bytes.to_string());
        command.output().unwrap().into()
    };
    let plan = |flags: &str, bytes: u64| -> Value {
        let line = format!("plan --json {RUN} {flags}");
        let mut plan: Value = serde_json::from_str(&limited(&line, bytes).code(0).stdout).unwrap();
        assert_eq!(plan["free"], bytes);
        plan.as_object_mut().unwrap().remove("free");
        plan
    };
    let all = u64::MAX / 2;
    let total = |plan: &Value| plan["total"].as_u64().unwrap();
    let (whole, ring) = (plan("", all), plan("--reward-residency stream", all));
    assert_eq!(
        (&whole["reward_residency"], &ring["reward_residency"]),
        (&"resident".into(), &"stream".into())
    );
    for (owner, bytes) in whole["bytes"].as_object().unwrap() {
        let less = ring["bytes"][owner].as_u64() < bytes.as_u64();
        assert_eq!(less, owner == "reward model weights", "{owner}");
    }
    assert!(ring["plan_over_formula"].as_f64().unwrap() > 1.0);
    // auto streams where the whole judge does not fit, and not before.
    assert_eq!(plan("", total(&whole)), whole);
    assert_eq!(plan("", total(&whole) - 1), ring);
    assert_eq!(plan("--reward-residency resident", 1000), whole);

    limited(&format!("train {RUN} --output whole"), total(&whole)).code(0);
    limited(&format!("train {RUN} --output ring"), total(&ring))
        .code(0)
        .says(&["tiny-reward", "streamed from the host", "--reward-residency"]);
    assert_eq!(timeless(place.metrics("whole")), timeless(place.metrics("ring")));
    let file = "checkpoints/step_2/adapter_model.safetensors";
    let read = |path: String| std::fs::read(place.at(&path)).unwrap();
    assert!(read(format!("whole/{file}")) == read(format!("ring/{file}")));
    limited(
        &format!("train {RUN} --output none --reward-residency resident"),
        total(&ring),
    )
    .refused(&["Lower", "--reward-residency stream"]);

    let draws = "--max-completion-length 6 --seed 3";
    for (command, file) in [
        ("eval --samples 4 --num-prompts 2", "completions.jsonl"),
        (
            "search --budget 12 --samples 4 --width 2 --num-prompts 2",
            "search.jsonl",
        ),
    ] {
        let name = command.split(' ').next().unwrap();
        for residency in ["resident", "stream", "auto"] {
            let line =
                format!("{command} {draws} --reward-residency {residency} --output {name}-{residency}");
            // So little that auto streams.
            let ended = limited(&line, 1 << 20).code(0);
            assert_eq!(
                ended.stderr.contains("streamed from the host"),
                residency == "auto"
            );
        }
        let stored = |residency: &str| read(format!("{name}-{residency}/{file}"));
        assert!(stored("resident") == stored("stream"), "{name}");
        assert!(stored("resident") == stored("auto"), "{name}");
    }
}

/// File sizes are limited to 15 KiB, so that writing fails as on a full disk, in the middle of a checkpoint: after the
/// adapter (12 KiB), in the optimiser's moments (24 KiB).
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_earlier_checkpoints_whole() {
    let place = Place::new();
    place.train("--steps 2 --save-steps 1 --output out").code(0);
    let line = format!("ulimit -f 30; exec {BIN} train --output out --resume --steps 4");
    let ended: Ended = place.command("sh").args(["-c", &line]).output().unwrap().into();
    ended.refused(&[
        "checkpoint of step 3",
        "optimizer.safetensors",
        "free some space",
        "--resume",
    ]);
    assert_eq!(place.checkpoints("out"), ["step_1", "step_2"]);
    whole(&place.at("out/checkpoints/step_2"), 2);
    place.generates("out/checkpoints/step_2");
    // With room again the run goes on from there.
    place.run("train --output out --resume --steps 3").code(0);
    assert_eq!(place.metrics("out").len(), 3);
    whole(&place.at("out/checkpoints/step_3"), 3);
}

/// Sends a signal to the process.
#[cfg(unix)]
#[track_caller]
fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Every signal that asks a process to end, also when all that read its output ended first.
#[cfg(unix)]
#[test]
fn signals_finish_the_step_and_save_it() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let place = Place::new();
        let mut child = place.start("--steps 5000 --save-steps 5000 --output out");
        let metrics = place.at("out/metrics.jsonl");
        wait_for(&mut child, || {
            std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0)
        });
        drop((child.stdout.take(), child.stderr.take()));
        signal(&child, name);
        // Job managers send theirs twice.
        if name != "INT" {
            signal(&child, name);
        }
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{name}");
        let done = place.metrics("out").len() as u64;
        assert_eq!(place.checkpoints("out"), [format!("step_{done}")], "SIG{name}");
        whole(&place.at(&format!("out/checkpoints/step_{done}")), done);
    }
}

/// `nohup` ignores SIGHUP, a script's background job SIGINT: what the parent set stays.
#[cfg(unix)]
#[test]
fn signals_that_the_parent_ignores_stay_ignored() {
    let place = Place::new();
    let line = format!("trap '' HUP INT; exec \"$0\" train {MODELS} {STEP} --steps 5000 --output out");
    let mut child = place
        .command("sh")
        .args(["-c", &line, BIN])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = place.at("out/metrics.jsonl");
    let steps = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    wait_for(&mut child, || steps() > 0);
    for name in ["HUP", "INT", "INT"] {
        signal(&child, name);
    }
    let before = steps();
    wait_for(&mut child, || steps() > before + 3);
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(place.checkpoints("out").contains(&format!("step_{}", steps())));
}

/// A second Ctrl-C does not wait for the step.
#[cfg(unix)]
#[test]
fn a_second_ctrl_c_ends_at_once() {
    let place = Place::new();
    // The embedded models: a step of minutes.
    let line = "train --num-generations 256 --prompts-per-step 256 --steps 2 --output out";
    let mut child = place
        .command(BIN)
        .args(line.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let config = place.at("out/config.toml");
    wait_for(&mut child, || config.exists());
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the first one finishes the step"
    );
    let begun = Instant::now();
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_saves_it() {
    let place = Place::new();
    let mut child = place.start("--steps 5000 --save-steps 5000 --output out");
    let metrics = place.at("out/metrics.jsonl");
    wait_for(&mut child, || {
        std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0)
    });
    signal(&child, "INT");
    let ended: Ended = child.wait_with_output().unwrap().into();
    ended
        .code(130)
        .says(&["interrupted", "out/checkpoints", "--resume"]);
    let done = place.metrics("out").len() as u64;
    assert!((1..5000).contains(&done));
    assert_eq!(place.checkpoints("out"), [format!("step_{done}")]);
    whole(&place.at(&format!("out/checkpoints/step_{done}")), done);
    let last = done + 1;
    place
        .run(&format!("train --output out --resume --steps {last}"))
        .code(0);
    whole(&place.at(&format!("out/checkpoints/step_{last}")), last);
    assert_eq!(place.metrics("out").len() as u64, last);
}

#[test]
fn a_killed_run_leaves_only_whole_checkpoints() {
    let place = Place::new();
    let mut child = place.start("--steps 5000 --save-steps 1 --output out");
    let third = place.at("out/checkpoints/step_3");
    wait_for(&mut child, || third.exists());
    // SIGKILL: nothing can be tidied up.
    child.kill().unwrap();
    child.wait().unwrap();
    let steps: Vec<u64> = place
        .checkpoints("out")
        .iter()
        .filter_map(|n| n.strip_prefix("step_").map(|n| n.parse().unwrap()))
        .collect();
    for step in &steps {
        whole(&place.at(&format!("out/checkpoints/step_{step}")), *step);
    }
    let last = steps.iter().max().unwrap();
    // What a kill in the middle of writing leaves, whether or not this one did: a torn directory and a torn line.
    let torn = place.at(&format!("out/checkpoints/.tmp-step_{}", last + 7));
    std::fs::create_dir_all(&torn).unwrap();
    let adapter = place.at(&format!("out/checkpoints/step_{last}/adapter_model.safetensors"));
    let bytes = std::fs::read(adapter).unwrap();
    std::fs::write(torn.join("adapter_model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    let metrics = place.at("out/metrics.jsonl");
    let mut text = std::fs::read_to_string(&metrics).unwrap();
    text.push_str("{\"step\":99");
    std::fs::write(&metrics, text).unwrap();
    place
        .run(&format!("train --output out --resume --steps {}", last + 1))
        .code(0);
    whole(&place.at(&format!("out/checkpoints/step_{}", last + 1)), last + 1);
    assert!(!torn.exists());
    let numbers: Vec<u64> = place
        .metrics("out")
        .iter()
        .map(|r| r["step"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=last + 1).collect::<Vec<_>>());
}

/// The lock ends with the process, however that ends; its file stays where it was killed.
#[test]
fn one_process_writes_a_run_and_others_are_told_which() {
    let place = Place::new();
    let mut child = place.start("--steps 5000 --save-steps 1 --output out");
    let second = place.at("out/checkpoints/step_2");
    wait_for(&mut child, || second.exists());
    let pid = child.id().to_string();
    for how in ["", "--resume", "--overwrite"] {
        let ended = place.train(&format!("--steps 5000 --output out {how}"));
        ended.refused(&["out is in use", "`tea-wgpu train`", &pid, "another --output"]);
    }
    place
        .run("eval --output out --samples 2 --num-prompts 1")
        .refused(&["out is in use", &pid]);
    // Readers are not kept waiting.
    place.generates("out/checkpoints/step_2");
    child.kill().unwrap();
    child.wait().unwrap();
    let done = place
        .checkpoints("out")
        .iter()
        .filter(|n| n.starts_with("step_"))
        .count();
    place
        .run(&format!("train --output out --resume --steps {}", done + 1))
        .code(0);
    assert!(!place.at("out/.tea-wgpu.lock").exists());
}

#[test]
fn a_run_replaces_nothing_of_somebody_else() {
    let place = Place::new();
    let weights = "project/checkpoints/my-base-model/model.safetensors";
    std::fs::create_dir_all(place.at(weights).parent().unwrap()).unwrap();
    place.write(weights, "weights");
    place.write("project/config.toml", "title = \"a site\"");
    for how in ["", "--overwrite"] {
        place
            .train(&format!("--steps 1 --output project {how}"))
            .refused(&[
                "project",
                "checkpoints/my-base-model",
                "config.toml",
                "another --output",
            ]);
    }
    assert_eq!(std::fs::read_to_string(place.at(weights)).unwrap(), "weights");
    assert_eq!(
        std::fs::read_to_string(place.at("project/config.toml")).unwrap(),
        "title = \"a site\""
    );
    // In a run, too: what is not the run's is named, and the run stays whole.
    place.train("--steps 1 --output out").code(0);
    std::fs::create_dir(place.at("out/checkpoints/merged")).unwrap();
    place.train("--steps 1 --output out --overwrite").refused(&[
        "out",
        "checkpoints/merged",
        "--overwrite would remove",
    ]);
    whole(&place.at("out/checkpoints/step_1"), 1);
    std::fs::remove_dir(place.at("out/checkpoints/merged")).unwrap();
    place.train("--steps 1 --output out --overwrite").code(0);
    // A directory of another command is not a run's.
    place
        .run("eval --output out --samples 2 --num-prompts 1 --overwrite")
        .refused(&["out", "`tea-wgpu train`", "another --output"]);
    // One of a version that wrote no marker is known by its files.
    std::fs::remove_file(place.at("out/tea-wgpu.json")).unwrap();
    place.run("train --output out --resume --steps 2").code(0);
    assert!(place.at("out/tea-wgpu.json").exists());
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_newest_whole_one_taken() {
    let place = Place::new();
    place.train("--steps 3 --save-steps 1 --output run").code(0);
    let copy = |to: &str| {
        let copied = place.command("cp").args(["-r", "run", to]).status().unwrap();
        assert!(copied.success());
    };
    type Harm = fn(&Path);
    let adapter = |dir: &Path| dir.join("adapter_model.safetensors");
    let harms: [(Harm, &str); 6] = [
        (
            |dir| {
                std::fs::remove_dir_all(dir).unwrap();
                std::fs::create_dir(dir).unwrap();
            },
            "is missing",
        ),
        (
            |dir| std::fs::write(dir.join("adapter_model.safetensors"), "").unwrap(),
            "adapter_model.safetensors is empty",
        ),
        (
            |dir| std::fs::remove_file(dir.join("optimizer.safetensors")).unwrap(),
            "optimizer.safetensors is missing",
        ),
        (
            |dir| {
                let at = dir.join("trainer_state.json");
                let text = std::fs::read(&at).unwrap();
                std::fs::write(at, &text[..40]).unwrap();
            },
            "trainer_state.json has 40 bytes",
        ),
        (
            |dir| {
                let at = dir.join("adapter_model.safetensors");
                let mut bytes = std::fs::read(&at).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                std::fs::write(at, bytes).unwrap();
            },
            "adapter_model.safetensors is not what was written",
        ),
        (
            // A version that wrote no checksums.
            |dir| {
                std::fs::remove_file(dir.join("checksums.json")).unwrap();
                std::fs::write(dir.join("optimizer.safetensors"), "cut").unwrap();
            },
            "optimizer.safetensors",
        ),
    ];
    for (i, (harm, what)) in harms.into_iter().enumerate() {
        let run = format!("harm{i}");
        copy(&run);
        harm(&place.at(&format!("{run}/checkpoints/step_3")));
        place
            .run(&format!("train --output {run} --resume --steps 4"))
            .code(0)
            .says(&["step_3 is damaged", what, "continues from step 2"]);
        let [again, first] = [run.as_str(), "run"].map(|run| timeless(place.metrics(run)));
        assert_eq!((again.len(), &again[..3]), (4, &first[..]), "{what}");
        whole(&place.at(&format!("{run}/checkpoints/step_4")), 4);
    }
    // Other readers do not take a damaged one.
    copy("read");
    let damaged = adapter(&place.at("read/checkpoints/step_3"));
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - 4]).unwrap();
    place
        .run("generate --model policy --adapter read/checkpoints/step_3 --prompt hi")
        .refused(&[
            "read/checkpoints/step_3",
            "damaged",
            "adapter_model.safetensors has",
        ]);
    place
        .run("eval --run read --prompts prompts.jsonl --samples 2 --output evaluated")
        .refused(&[
            "read/checkpoints/step_3",
            "damaged",
            "adapter_model.safetensors has",
        ]);
    // With none left the run does not begin again unasked.
    for step in 1..=3 {
        let at = place.at(&format!("read/checkpoints/step_{step}/trainer_state.json"));
        std::fs::write(at, "{").unwrap();
    }
    place.run("train --output read --resume --steps 4").refused(&[
        "no checkpoint is whole",
        "step_3",
        "step_1",
        "--overwrite",
    ]);
    std::fs::remove_dir_all(place.at("read/checkpoints")).unwrap();
    place.run("train --output read --resume --steps 4").refused(&[
        "read records steps",
        "checkpoints are gone",
        "--overwrite",
    ]);
    assert_eq!(place.metrics("read").len(), 3, "nothing was cut");
}

#[test]
fn a_run_continues_on_its_own_base_from_any_directory() {
    let place = Place::new();
    place.train("--steps 1 --output out").code(0);
    for to in ["moved", "worded", "other", "wider"] {
        let copied = place.command("cp").args(["-r", "policy", to]).status().unwrap();
        assert!(copied.success());
    }
    tiny::write_model(
        &place.at("other"),
        tea_wgpu::model::spec::Head::CausalLm,
        77,
        None,
    );
    let edit = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(place.at(file)).unwrap();
        assert!(text.contains(from), "{text}");
        place.write(file, &text.replace(from, to));
    };
    edit("wider/config.json", "10000.0", "20000.0");
    edit(
        "worded/tokenizer_config.json",
        "\"clean_up_tokenization_spaces\": false",
        "\"clean_up_tokenization_spaces\": true",
    );
    for (model, what) in [
        ("other", "weights"),
        ("wider", "rope_"),
        ("worded", "tokenizer or chat template"),
    ] {
        place
            .run(&format!("train --output out --resume --steps 2 --model {model}"))
            .refused(&["--resume", "policy", model, what]);
    }
    // The same files under another name are the same model.
    place
        .run("train --output out --resume --steps 2 --model moved")
        .code(0);
    // Names in a run are meant from where it was started.
    let elsewhere = tempfile::tempdir().unwrap();
    let run = place.at("out").display().to_string();
    let there = |line: &str| -> Ended {
        let mut command = place.command(BIN);
        command.current_dir(elsewhere.path());
        command.args(line.split_whitespace()).output().unwrap().into()
    };
    there(&format!("train --output {run} --resume --steps 3")).code(0);
    whole(&place.at("out/checkpoints/step_3"), 3);
    let prompts = place.at("prompts.jsonl").display().to_string();
    there(&format!(
        "eval --run {run} --checkpoint step_1 --prompts {prompts} --samples 2 --num-prompts 1 --output eval"
    ))
    .code(0);
    // And back again.
    place.run("train --output out --resume --steps 4").code(0);
    assert_eq!(place.metrics("out").len(), 4);
}

#[test]
fn without_an_adapter_the_message_says_how_to_get_one() {
    let place = Place::new();
    let mut command = place.command(BIN);
    command
        .args(format!("train {MODELS} {STEP} --output out").split_whitespace())
        .env("WGPU_BACKEND", "vulkan")
        .env("VK_DRIVER_FILES", "/nonexistent.json")
        .env("VK_ICD_FILENAMES", "/nonexistent.json");
    let ended: Ended = command.output().unwrap().into();
    ended.refused(&["adapter", "install"]);
    let named = place.train("--output out --device voodoo");
    named.refused(&["--device voodoo", "this machine has"]);
    assert!(!place.at("out").exists());
}
