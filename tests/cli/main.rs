//! The built binary on the tiny golden models: its numbers against PyTorch's, its messages and exit codes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod adapters;
mod advantage;
mod bad_input;
mod bench;
mod diagnose;
mod diagnose_alignment;
mod eval;
mod generate;
mod judge;
mod links;
mod output;
mod precision;
mod prepare;
mod search;
#[path = "../common/tiny.rs"]
mod tiny;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tea_wgpu::model::store::WeightStore;

/// What a run of the binary left.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// Standard output as JSON lines, after success.
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}", self.err);
        self.out
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    /// The run ended with code 2 and its message holds every one of `parts`.
    fn refused(&self, parts: &[&str]) {
        assert_eq!(self.code, 2, "stdout: {}\nstderr: {}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
    }
}

/// Runs `tea-wgpu` with these words.
fn tea<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Run {
    finish(Command::new(env!("CARGO_BIN_EXE_tea-wgpu")).args(args))
}

fn finish(command: &mut Command) -> Run {
    let done = command.output().unwrap();
    Run {
        code: done.status.code().unwrap(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/models")
        .join(name)
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(model(name).join("golden.json")).unwrap()).unwrap()
}

fn values(name: &str) -> WeightStore {
    WeightStore::open_safetensors(&model(name).join("golden.safetensors")).unwrap()
}

fn adapter(name: &str) -> PathBuf {
    model(name).join(golden(name)["adapter"].as_str().unwrap())
}

/// A copy of a model's own files (without goldens and adapter) in a fresh directory.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        if model(name).join(file).exists() {
            std::fs::copy(model(name).join(file), dir.path().join(file)).unwrap();
        }
    }
    dir
}

/// Gives every element of the named tensors of a model one value.
fn fill(dir: &Path, names: &[&str], value: f32) {
    let path = dir.join("model.safetensors");
    let store = WeightStore::open_safetensors(&path).unwrap();
    let tensor = |name: &str| (name.to_owned(), store.get(name).unwrap().into_owned());
    let mut tensors: Vec<_> = store.names().map(tensor).collect();
    for (_, t) in tensors.iter_mut().filter(|(n, _)| names.contains(&n.as_str())) {
        t.bytes = value.to_le_bytes().repeat(t.elements()).into();
    }
    drop(store);
    tea_wgpu::model::save::write_safetensors(&path, &tensors).unwrap();
}

/// Writes JSON lines to a file in `dir`.
fn jsonl(dir: &Path, rows: impl IntoIterator<Item = Value>) -> PathBuf {
    let mut text = String::new();
    for row in rows {
        writeln!(text, "{row}").unwrap();
    }
    let path = dir.join("in.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn f32s(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().all(|x| x.is_finite()));
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// `println!` would end these with a panic (code 101), after their work.
#[test]
fn output_that_nobody_reads_is_no_crash() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let hh = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare/hh-rlhf.jsonl");
    let [data, diag] = ["data", "diag"].map(at);
    let commands: [&[&str]; 5] = [
        &["prepare", "--input", text(&hh), "--output", &data],
        &["plan"],
        &["plan", "--json"],
        &[
            "diagnose",
            "synthetic",
            "--replicates",
            "64",
            "--sizes",
            "256",
            "--output",
            &diag,
        ],
        &["devices"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        let done = command.args(args).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{args:?}: {err}");
    }
    for file in ["data/manifest.json", "diag/synthetic.json"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_plan_for_a_device_that_is_not_there_is_refused() {
    tea(&["plan", "--device", "no such device"]).refused(&["--device no such device", "this machine has"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    finish(command.arg("plan").env("TEA_DEVICE", "99")).refused(&["--device 99", "this machine has"]);
}

#[test]
fn logprobs_equal_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama_gqa", "llama_gqa_bf16", "qwen3_qknorm"] {
        let (g, v) = (golden(name), values(name));
        let sequences = g["sequences"].as_array().unwrap();
        let input = jsonl(
            dir.path(),
            sequences
                .iter()
                .enumerate()
                .map(|(i, s)| json!({"id": i, "tokens": s})),
        );
        for (with, key) in [(None, "base/logprobs"), (Some(adapter(name)), "lora/logprobs")] {
            let (input, model) = (text(&input), model(name));
            let mut args = vec![
                "logprobs",
                "--model",
                text(&model),
                "--input",
                input,
                "--token-budget",
                "80",
            ];
            if let Some(adapter) = &with {
                args.extend(["--adapter", text(adapter)]);
            }
            let lines = tea(&args).lines();
            assert_eq!(lines.len(), sequences.len());
            for (i, line) in lines.iter().enumerate() {
                assert_eq!((&line["id"], &line["tokens"]), (&json!(i), &sequences[i]));
            }
            let got: Vec<f32> = lines.iter().flat_map(|l| f32s(&l["logprobs"])).collect();
            let off = max_abs(&got, &v.get(key).unwrap().to_f32());
            assert!(off < 1e-4, "{name} {key}: off by {off}");
        }
    }
}

#[test]
fn a_sequence_of_one_token_has_no_logprobs() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(
        dir.path(),
        [
            json!({"id": "a", "tokens": [7]}),
            json!({"id": "b", "tokens": [7, 8]}),
        ],
    );
    let output = dir.path().join("out.jsonl");
    let model = model("mistral");
    let run = tea(&[
        "logprobs",
        "--model",
        text(&model),
        "--input",
        text(&input),
        "--output",
        text(&output),
    ]);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
    let lines: Vec<Value> = std::fs::read_to_string(output)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0], json!({"id": "a", "tokens": [7], "logprobs": []}));
    assert_eq!(f32s(&lines[1]["logprobs"]).len(), 1);
}

/// Runs `gradient` and compares every tensor and the loss with the golden's.
fn gradients_equal(name: &str, kind: &str, flags: &[&str]) {
    let (dir, g, v) = (tempfile::tempdir().unwrap(), golden(name), values(name));
    let rows = (0..g["sequences"].as_array().unwrap().len())
        .map(|i| json!({"tokens": g["sequences"][i], "prompt_len": g["prompt_lens"][i], "weight": g["weights"][i]}));
    let (input, output) = (jsonl(dir.path(), rows), dir.path().join("gradient.safetensors"));
    let model = model(name);
    let mut args = vec![
        "gradient",
        "--model",
        text(&model),
        "--input",
        text(&input),
        "--output",
        text(&output),
    ];
    args.extend(flags);
    let lines = tea(&args).lines();
    let (loss, want) = (
        lines[0]["loss"].as_f64().unwrap(),
        g["losses"][kind].as_f64().unwrap(),
    );
    assert!(
        (loss - want).abs() < 1e-5 * want.abs(),
        "{name} {kind}: loss {loss}, PyTorch says {want}"
    );
    let got = WeightStore::open_safetensors(&output).unwrap();
    let prefix = format!("{kind}/grad/");
    let wanted: Vec<&str> = v.names().filter_map(|n| n.strip_prefix(&prefix)).collect();
    assert_eq!(got.names().collect::<Vec<_>>(), wanted, "{name} {kind}");
    for tensor in wanted {
        let (a, b) = (
            got.get(tensor).unwrap(),
            v.get(&format!("{prefix}{tensor}")).unwrap(),
        );
        assert_eq!(a.shape, b.shape, "{tensor}");
        let (a, b) = (a.to_f32(), b.to_f32());
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let off = norm(&mut a.iter().zip(&b).map(|(x, y)| x - y)) / norm(&mut b.iter().copied());
        assert!(off < 1e-3, "{name} {kind} {tensor}: relative error {off}");
    }
}

#[test]
fn adapter_gradients_equal_pytorch() {
    for name in ["llama_gqa", "qwen3_qknorm"] {
        gradients_equal(name, "lora", &["--adapter", text(&adapter(name))]);
    }
}

#[test]
fn full_gradients_equal_pytorch() {
    for name in ["llama_tied", "qwen2_bias"] {
        // Several micro-batches: gradients accumulate.
        gradients_equal(name, "full", &["--full", "--token-budget", "80"]);
    }
}

#[test]
fn neighbours_with_one_prompt_share_it_and_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let model = model("mistral");
    let (a, b) = (
        json!({"tokens": [3, 5, 7, 9], "prompt_len": 2, "weight": 0.5}),
        json!({"tokens": [3, 5, 11], "prompt_len": 2, "weight": -2.0}),
    );
    let gradient = |rows: &[&Value]| {
        let output = dir.path().join("g.safetensors");
        let input = jsonl(dir.path(), rows.iter().map(|r| (*r).clone()));
        let run = tea(&[
            "gradient",
            "--model",
            text(&model),
            "--full",
            "--input",
            text(&input),
            "--output",
            text(&output),
        ]);
        let loss = run.lines()[0]["loss"].as_f64().unwrap();
        (
            loss,
            WeightStore::open_safetensors(&output)
                .unwrap()
                .get("lm_head.weight")
                .unwrap()
                .to_f32(),
        )
    };
    let (one, two, both) = (gradient(&[&a]), gradient(&[&b]), gradient(&[&a, &b]));
    assert!((one.0 + two.0 - both.0).abs() < 1e-5);
    let sum: Vec<f32> = one.1.iter().zip(&two.1).map(|(x, y)| x + y).collect();
    assert!(max_abs(&sum, &both.1) < 1e-5);
}

#[test]
fn scores_equal_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama_score", "qwen3_score"] {
        let (g, v) = (golden(name), values(name));
        let all: Vec<&Value> = ["sequences", "extra_sequences"]
            .iter()
            .flat_map(|k| g[k].as_array().unwrap())
            .collect();
        let pad = &g["pad_token_id"];
        let longest = all.iter().map(|s| s.as_array().unwrap().len()).max().unwrap();
        let padded: Vec<Value> = all
            .iter()
            .map(|s| {
                let mut s = s.as_array().unwrap().clone();
                s.resize(longest, pad.clone());
                Value::Array(s)
            })
            .collect();
        let plain: Vec<Value> = all.iter().map(|s| (*s).clone()).collect();
        for (rows, form) in [(plain, "scores"), (padded, "scores_padded")] {
            let input = jsonl(
                dir.path(),
                rows.into_iter()
                    .enumerate()
                    .map(|(i, s)| json!({"id": i, "tokens": s})),
            );
            for (with, kind) in [(None, "base"), (Some(adapter(name)), "lora")] {
                let model = model(name);
                let mut args = vec!["score", "--reward-model", text(&model), "--input", text(&input)];
                if let Some(adapter) = &with {
                    args.extend(["--adapter", text(adapter)]);
                }
                let lines = tea(&args).lines();
                assert!(lines.iter().enumerate().all(|(i, l)| l["id"] == json!(i)));
                let got: Vec<f32> = lines
                    .iter()
                    .map(|l| l["score"].as_f64().unwrap() as f32)
                    .collect();
                let off = max_abs(&got, &v.get(&format!("{kind}/{form}")).unwrap().to_f32());
                assert!(off < 1e-4, "{name} {kind}/{form}: off by {off}");
            }
        }
    }
}

#[test]
fn devices_lists_what_it_tested() {
    let run = tea(&["devices", "--json"]);
    let all = &run.lines()[0]["adapters"];
    let usable: Vec<&Value> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["usable"] == true)
        .collect();
    assert!(!usable.is_empty(), "{}", run.out);
    for adapter in usable {
        assert!(adapter["kind"].is_string() && adapter["name"].is_string());
        let checks = adapter["self_test"].as_array().unwrap();
        assert!(checks.len() > 20 && checks.iter().all(|c| c["ok"] == true));
        assert!(adapter["variants"].as_array().unwrap().len() >= checks.len());
    }
    // Mesa's device-select layer complains where there is no session.
    let mut bare = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    bare.args(["devices", "--no-self-test"]);
    for name in ["XDG_RUNTIME_DIR", "NODEVICE_SELECT", "WAYLAND_DISPLAY"] {
        bare.env_remove(name);
    }
    let bare = finish(&mut bare);
    assert!(
        bare.code == 0 && !bare.err.contains("XDG_RUNTIME_DIR"),
        "{}",
        bare.err
    );
    let human = tea(&["devices", "--device", "0"]);
    assert_eq!(human.code, 0, "{}", human.err);
    assert!(
        human.out.starts_with("0: ") && human.out.contains("self-test: "),
        "{}",
        human.out
    );
}

/// A reward adapter on a language model: the backbone has no score head, the adapter brings one.
#[test]
fn an_adapter_makes_a_language_model_a_reward_model() {
    let (name, dir) = ("llama_score", copy("llama_score"));
    let config = dir.path().join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    spec["architectures"] = json!(["LlamaForCausalLM"]);
    spec["tie_word_embeddings"] = json!(true);
    std::fs::write(&config, spec.to_string()).unwrap();
    let weights = dir.path().join("model.safetensors");
    let store = WeightStore::open_safetensors(&weights).unwrap();
    let kept = store.names().filter(|n| *n != "score.weight");
    let tensors: Vec<_> = kept
        .map(|n| (n.to_owned(), store.get(n).unwrap().into_owned()))
        .collect();
    drop(store);
    tea_wgpu::model::save::write_safetensors(&weights, &tensors).unwrap();

    let g = golden(name);
    let all = ["sequences", "extra_sequences"]
        .iter()
        .flat_map(|k| g[k].as_array().unwrap());
    let input = jsonl(dir.path(), all.map(|s| json!({"tokens": s})));
    let (adapter, input) = (adapter(name), text(&input));
    let base = ["score", "--reward-model", text(dir.path()), "--input", input];
    tea(&base).refused(&["no score head"]);
    let with: Vec<&str> = base.into_iter().chain(["--adapter", text(&adapter)]).collect();
    let got: Vec<f32> = tea(&with)
        .lines()
        .iter()
        .map(|l| l["score"].as_f64().unwrap() as f32)
        .collect();
    assert!(max_abs(&got, &values(name).get("lora/scores").unwrap().to_f32()) < 1e-4);
}

/// A label that nothing runs would stand over numbers of something else.
#[test]
fn variables_that_make_no_sense_are_refused() {
    let model = model("mistral");
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    let run = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command.args(["logprobs", "--model", text(&model), "--input", text(&input)]);
        finish(command.env(name, value))
    };
    for value in ["Portable", "subgroup-2", "gemv8"] {
        run("TEA_VARIANT", value).refused(&["TEA_VARIANT", value, "portable", "tile-64"]);
    }
    run("TEA_TUNE", "yes").refused(&["TEA_TUNE", "yes", "0", "1"]);
    run("TEA_LANES", "7").refused(&["TEA_LANES", "7"]);
    run("TEA_DEVICE", "no such device").refused(&["no such device"]);
    for (name, value) in [
        ("TEA_VARIANT", "portable"),
        ("TEA_VARIANT", ""),
        ("TEA_TUNE", "0"),
        ("TEA_DEVICE", ""),
    ] {
        let ended = run(name, value);
        assert_eq!(ended.code, 0, "{name}={value}: {}", ended.err);
    }
}

/// Every command opens its judges through one door, by the same names.
#[test]
fn the_true_score_judges_in_every_command() {
    let place = tiny::workplace();
    let example = &tea_wgpu::demo::held_out(1, 1)[0];
    let run = |words: &[&str]| {
        finish(
            Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
                .current_dir(place.path())
                .args(words),
        )
    };
    let chat = json!([
        {"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}
    ]);
    let input = jsonl(
        place.path(),
        [
            json!({"id": 1, "prompt": example.prompt, "response": example.answer}),
            json!({"id": 2, "messages": chat}),
            json!({"id": 3, "prompt": example.prompt, "response": "~"}),
        ],
    );
    let score = ["score", "--reward-model", "true-score", "--input", text(&input)];
    let lines = run(&score).lines();
    assert_eq!(
        (&lines[0]["score"], &lines[1]["score"]),
        (&json!(1.0), &json!(1.0))
    );
    assert!(lines[2]["score"].as_f64().unwrap() < 1.0);
    let adapter: Vec<&str> = score.into_iter().chain(["--adapter", "x"]).collect();
    run(&adapter).refused(&["true-score", "adapter"]);
    let tokens = jsonl(place.path(), [json!({"tokens": [1, 2]})]);
    run(&["score", "--reward-model", "true-score", "--input", text(&tokens)]).refused(&["record 1", "texts"]);

    let generate = |prompt: &str| {
        run(&[
            "generate",
            "--model",
            "policy",
            "--prompt",
            prompt,
            "--best-of",
            "4",
            "--reward-model",
            "demo-score",
            "--max-completion-length",
            "4",
            "--json",
        ])
    };
    let line = &generate(&example.prompt).lines()[0];
    let rewards: Vec<f64> = line["completions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["reward"].as_f64().unwrap())
        .collect();
    assert!(
        rewards.len() == 4 && rewards.is_sorted_by(|a, b| a >= b),
        "{rewards:?}"
    );
    generate("tell me a joke").refused(&["tell me a joke"]);
}
