//! `sft` and `reward` from files to checkpoints: resumption to the bit, settings, held-out values, bad input, memory.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/tiny.rs"]
mod tiny;

use serde_json::{Map, Value};
use std::path::PathBuf;
use std::process::Command;
use tea_wgpu::config::{SupervisedConfig, SupervisedFlags, read_toml};
use tea_wgpu::demo::{Split, generate, write_jsonl};
use tea_wgpu::gpu::{Gpu, GpuOptions};
use tea_wgpu::model::load::Source;
use tea_wgpu::model::peft::read_config;
use tea_wgpu::model::save::write_safetensors;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::model::workspace::Workspace;
use tea_wgpu::tensor::DType;
use tea_wgpu::train::examples::{Demonstration, Example, Pair};
use tea_wgpu::train::run::RunOptions;
use tea_wgpu::train::supervised::{Job, Outcome, adapter_shape, optimizer};
use tea_wgpu::train::{preference, sft};

/// Settings all runs here share: steps of 4 examples, several micro-batches each.
const STEP: &str = "batch_size = 4\nlora_rank = 4\ntoken_budget = 60\nraw = true\nlearning_rate = 1e-2\nwarmup_steps = 1\n\
                    eval_fraction = 0.25\neval_steps = 2\n";

/// A directory with models (`common/tiny.rs`), demonstrations and preferences.
struct Place {
    dir: tempfile::TempDir,
    gpu: Gpu,
}

fn device() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

impl Place {
    fn new() -> Self {
        let dir = tiny::workplace();
        let examples = generate(3, 14, Split::Train);
        let at = |name: &str| dir.path().join(name);
        let sft = examples
            .iter()
            .map(|e| serde_json::json!({"prompt": e.prompt, "response": e.answer}));
        write_jsonl(&at("sft.jsonl"), sft).unwrap();
        let pairs = examples.iter().map(
            |e| serde_json::json!({"prompt": e.prompt, "chosen": e.answer, "rejected": format!("{}?", &e.prompt[..4])}),
        );
        write_jsonl(&at("pairs.jsonl"), pairs).unwrap();
        std::fs::write(at("step.toml"), STEP).unwrap();
        Self { dir, gpu: device() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The usual settings under `more`, in TOML.
    fn config(&self, kind: &str, more: &str) -> SupervisedConfig {
        let mut table: toml::Table = toml::from_str(STEP).unwrap();
        let data = if kind == "sft" { "sft.jsonl" } else { "pairs.jsonl" };
        table.insert("data".into(), self.at(data).display().to_string().into());
        table.insert("model".into(), self.at("policy").display().to_string().into());
        table.extend(toml::from_str::<toml::Table>(more).unwrap());
        let flags: SupervisedFlags = table.try_into().unwrap();
        flags.resolve(&adapter_shape).unwrap()
    }

    /// A run in this process.
    fn run(&self, kind: &str, more: &str, output: &str, resume: bool) -> Outcome {
        let options = RunOptions {
            output: self.at(output),
            resume,
            overwrite: false,
        };
        let config = self.config(kind, more);
        match kind {
            "sft" => sft::train(&self.gpu, config, &options).unwrap(),
            _ => preference::train(&self.gpu, config, &options).unwrap(),
        }
    }

    /// The program with words separated by spaces: exit code, standard output, standard error.
    fn program(&self, line: &str, memory: Option<u64>) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("TEA_MEMORY_LIMIT")
            .env_remove("RUST_LOG");
        if let Some(bytes) = memory {
            command.env("TEA_MEMORY_LIMIT", bytes.to_string());
        }
        let out = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    }

    #[track_caller]
    fn succeeds(&self, line: &str) -> String {
        let (code, stdout, stderr) = self.program(line, None);
        assert_eq!(code, Some(0), "{line}: {stderr}");
        stdout
    }

    #[track_caller]
    fn refused(&self, line: &str, parts: &[&str]) {
        let (code, _, stderr) = self.program(line, None);
        assert_eq!(code, Some(2), "{line}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{line}: no {part:?} in: {stderr}");
        }
    }

    /// A run's records without times.
    fn metrics(&self, run: &str) -> Vec<Map<String, Value>> {
        let text = String::from_utf8(self.read(&format!("{run}/metrics.jsonl"))).unwrap();
        let line = |l: &str| {
            let mut record: Map<String, Value> = serde_json::from_str(l).unwrap();
            assert!(record.remove("step_time").unwrap().as_f64().unwrap() > 0.0);
            record
        };
        text.lines().map(line).collect()
    }
}

fn number(record: &Map<String, Value>, name: &str) -> f64 {
    let value = record.get(name).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{name} in {record:?}"))
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    let place = Place::new();
    let adapter = "adapter_model.safetensors";
    for (name, kind, more, weights) in [
        ("sft-lora", "sft", "", adapter),
        ("sft-full", "sft", "full = true", "model.safetensors"),
        ("reward-lora", "reward", "", adapter),
        ("reward-head", "reward", "head_only = true", adapter),
        ("reward-full", "reward", "full = true", "model.safetensors"),
    ] {
        let (straight, parts) = (format!("{name}-straight"), format!("{name}-parts"));
        let whole = place.run(kind, &format!("steps = 4\n{more}"), &straight, false);
        place.run(kind, &format!("steps = 2\n{more}"), &parts, false);
        let again = place.run(kind, &format!("steps = 4\n{more}"), &parts, true);
        for file in [weights, "optimizer.safetensors", "trainer_state.json"] {
            let read = |run: &str| place.read(&format!("{run}/checkpoints/step_4/{file}"));
            assert!(read(&straight) == read(&parts), "{name}: {file} differs");
        }
        let before = place.read(&format!("{parts}/checkpoints/step_2/{weights}"));
        let after = place.read(&format!("{parts}/checkpoints/step_4/{weights}"));
        assert!(before != after, "{name}: two steps changed nothing");
        let metrics = place.metrics(&straight);
        assert_eq!(metrics, place.metrics(&parts), "{name}");
        assert_eq!((metrics.len(), whole.held_out), (4, 4), "{name}");
        assert_eq!((&whole.eval, whole.held_out), (&again.eval, again.held_out));
        assert!(number(&metrics[3], "grad_norm") > 0.0 && number(&metrics[0], "loss") > 0.0);
        // One readback after the optimiser's step, whatever the number of micro-batches.
        for record in &metrics {
            assert_eq!(number(record, "host_waits"), 1.0, "{name}: {record:?}");
        }
        // 10 examples are trained on, 4 a step.
        assert_eq!(number(&metrics[3], "epoch"), 1.6);
        // Held-out values in every second record, and at the end.
        for (i, record) in metrics.iter().enumerate() {
            assert_eq!(record.contains_key("eval_loss"), i % 2 == 1, "{name}: {record:?}");
        }
        for (key, value) in &whole.eval {
            assert_eq!(metrics[3][key], *value);
        }
        assert_ne!(metrics[1]["eval_loss"], metrics[3]["eval_loss"], "{name}");
        if kind == "reward" {
            let accuracy = number(&whole.eval, "eval_accuracy");
            assert!((0.0..=1.0).contains(&accuracy) && (accuracy * 8.0).fract() == 0.0);
            // A head of zeros ties: log 2 and half right.
            assert!((number(&metrics[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
            assert_eq!(number(&metrics[0], "accuracy"), 0.5);
        }
    }
}

#[test]
fn a_resumed_run_keeps_its_settings_and_the_last_lines_say_how_it_does() {
    let place = Place::new();
    let usual = "--model policy --config step.toml --seed 5 --lora-alpha 6 --weight-decay 0.1 --matmul-precision high";
    place.succeeds(&format!(
        "sft --data sft.jsonl {usual} --steps 4 --output straight"
    ));
    place.succeeds(&format!("sft --data sft.jsonl {usual} --steps 2 --output parts"));
    let out = place.succeeds("sft --output parts --resume --steps 4");
    let straight = place.read("straight/config.toml");
    assert_eq!(straight, place.read("parts/config.toml"));
    let settings: toml::Table = toml::from_str(std::str::from_utf8(&straight).unwrap()).unwrap();
    for (table, key, value) in [
        ("training", "seed", toml::Value::Integer(5)),
        ("training", "lora_alpha", 6.0.into()),
        ("training", "batch_size", 4.into()),
        ("memory", "base_dtype", "f32".into()),
        ("inputs", "model", "policy".into()),
        ("memory", "matmul_precision", "high".into()),
    ] {
        assert_eq!(settings[table][key], value, "{key}");
    }
    for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let read = |run: &str| place.read(&format!("{run}/checkpoints/step_4/{file}"));
        assert!(read("straight") == read("parts"), "{file}");
    }
    let loss = number(&place.metrics("parts")[3], "eval_loss");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[lines.len() - 2..],
        [
            format!("held-out loss {loss:.4} (4 examples)").as_str(),
            "trained: parts/checkpoints/step_4"
        ]
    );
    // Nothing is left to do, and the same is said.
    assert_eq!(place.succeeds("sft --output parts --resume"), out);
    // Other data, or the same split otherwise: what was held out would be trained on.
    let text = String::from_utf8(place.read("sft.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let write = |name: &str, lines: &[&str]| std::fs::write(place.at(name), lines.join("\n") + "\n").unwrap();
    write(
        "more.jsonl",
        &[&lines[..], &["{\"prompt\": \"add 1 1\", \"response\": \"2\"}"]].concat(),
    );
    write("held.jsonl", &lines[..2]);
    // What was held out, of a file with blank lines, is what it was.
    write(
        "blank.jsonl",
        &lines.iter().flat_map(|l| [*l, ""]).collect::<Vec<_>>(),
    );
    place.succeeds("sft --output parts --resume --data blank.jsonl");
    place.succeeds("sft --output parts --resume --data sft.jsonl");
    let held = &["would be trained on", "14", "training examples"][..];
    // What would not continue the run is refused, with the field and both values.
    for (line, parts) in [
        ("sft --seed 7", &["--resume", "--seed 5, not 7"][..]),
        (
            "sft --matmul-precision highest",
            &["--resume", "--matmul-precision high, not highest"],
        ),
        (
            "sft --data more.jsonl",
            &["--resume", "--data more.jsonl", "would be trained on"],
        ),
        ("sft --eval-fraction 0", held),
        ("sft --eval-data held.jsonl", held),
        ("sft --lora-alpha 8", &["--lora-alpha 6, not 8"]),
        ("sft --lora-rank 2", &["--lora-rank 4, not 2"]),
        ("sft --full", &["--resume", "without --full"]),
        ("sft --batch-size 0", &["--batch-size"]),
        ("reward --data pairs.jsonl", &["checkpoint of `sft`", "`reward`"]),
    ] {
        place.refused(&format!("{line} --output parts --resume --steps 5"), parts);
    }
    assert_eq!(place.metrics("parts").len(), 4);
    assert_eq!(straight, place.read("parts/config.toml"));

    let out = place.succeeds(&format!(
        "reward --data pairs.jsonl {usual} --steps 2 --output reward"
    ));
    let last = &place.metrics("reward")[1];
    let said = format!(
        "held-out accuracy {:.4}, loss {:.4} (4 pairs)\ntrained: reward/checkpoints/step_2\n",
        number(last, "eval_accuracy"),
        number(last, "eval_loss")
    );
    assert_eq!(out, said);
    // The head alone would leave the trained adapter behind.
    place.refused(
        "reward --output reward --resume --steps 3 --head-only",
        &["--resume", "without --head-only"],
    );
    let out = place.succeeds(&format!(
        "reward --data pairs.jsonl {usual} --steps 1 --eval-fraction 0 --output all"
    ));
    assert_eq!(out, "trained: all/checkpoints/step_1\n");
}

/// Conversations of tests/golden/sft_turns.json, against transformers' loss over the tokens that it
/// says are learned.
#[test]
fn the_loss_over_assistant_turns_is_that_of_transformers() {
    let place = Place::new();
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let golden = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/sft_turns.json"
    ));
    let golden: Value = serde_json::from_str(&golden.unwrap()).unwrap();
    for (i, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let model = place.at(&format!("model-{i}"));
        std::fs::create_dir(&model).unwrap();
        for file in [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
        ] {
            std::fs::copy(tiny.join(file), model.join(file)).unwrap();
        }
        let config = std::fs::read_to_string(tiny.join("tokenizer_config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["chat_template"] = case["template"].clone();
        std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
        let conversations = case["conversations"].as_array().unwrap();
        let data = conversations.iter().map(|c| serde_json::json!({ "messages": c }));
        write_jsonl(&place.at("turns.jsonl"), data).unwrap();
        // One pass over everything, in one micro-batch and in several.
        for (train_on, budget) in [("all", 512), ("all", 80), ("last", 512)] {
            let more = format!(
                "train_on = \"{train_on}\"\ntoken_budget = {budget}\nbatch_size = {}\nsteps = 1\nraw = false\nfull = true\n\
                 eval_fraction = 0.0\ndata = {:?}\nmodel = {:?}",
                conversations.len(),
                place.at("turns.jsonl"),
                model,
            );
            let output = format!("{i}-{train_on}-{budget}");
            place.run("sft", &more, &output, false);
            let (ours, theirs) = (&place.metrics(&output)[0], &case[train_on]);
            assert_eq!(ours["num_tokens"], theirs["num_tokens"], "{output}");
            for name in ["loss", "grad_norm"] {
                let (a, b) = (number(ours, name), theirs[name].as_f64().unwrap());
                assert!((a - b).abs() < 1e-4 * b, "{output}: {name} {a}, {b}");
            }
        }
    }
}

#[test]
fn which_turns_are_learned_is_kept_and_said() {
    let place = Place::new();
    let turn = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let talk = |n: usize| {
        let turns = [
            ("user", "a"),
            ("assistant", "bc"),
            ("user", "d"),
            ("assistant", "efg"),
            ("user", "h"),
        ];
        serde_json::json!({"messages": turns[..n].iter().map(|(r, c)| turn(r, c)).collect::<Vec<_>>()})
    };
    write_jsonl(&place.at("talks.jsonl"), [talk(5), talk(1), talk(4)]).unwrap();
    write_jsonl(&place.at("none.jsonl"), [talk(1), talk(1)]).unwrap();
    let usual = "--model policy --batch-size 2 --eval-fraction 0 --lora-rank 2";
    let (code, _, stderr) = place.program(
        &format!("sft --data talks.jsonl {usual} --steps 1 --output all"),
        None,
    );
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains("1 of 3 conversations have no message of the role \"assistant\""),
        "{stderr}"
    );
    let config = |run: &str| String::from_utf8(place.read(&format!("{run}/config.toml"))).unwrap();
    // Two tokens and three, each with the end of its turn.
    assert_eq!(place.metrics("all")[0]["num_tokens"], 2 * (3 + 4));
    assert!(config("all").contains("train_on = \"all\""), "{}", config("all"));
    place.succeeds(&format!(
        "sft --data talks.jsonl {usual} --steps 1 --train-on last --output last"
    ));
    assert_eq!(place.metrics("last")[0]["num_tokens"], 2 * 4);
    place.succeeds("sft --output last --resume --steps 2");
    assert_eq!(place.metrics("last")[1]["num_tokens"], 2 * 4);
    place.refused(
        "sft --output last --resume --steps 3 --train-on all",
        &["--resume", "--train-on"],
    );
    place.refused(
        &format!("sft --data none.jsonl {usual} --output none"),
        &["none.jsonl", "none of 2 conversations", "\"assistant\""],
    );
    place.refused(
        &format!("reward --data pairs.jsonl {usual} --train-on last --output none"),
        &["--train-on", "sft"],
    );
    assert!(!place.at("none").exists());
}

#[test]
fn an_adapter_to_start_from_keeps_its_own_shape() {
    let place = Place::new();
    place.run(
        "sft",
        "steps = 2\nlora_rank = 3\nlora_alpha = 5.0",
        "first",
        false,
    );
    let step = place.at("first/checkpoints/step_2");
    // Elsewhere, as a user would keep it.
    std::fs::rename(&step, place.at("adapter")).unwrap();
    let line = "sft --model policy --data sft.jsonl --adapter adapter --batch-size 4 --save-steps 1 --learning-rate 0";
    place.refused(
        &format!("{line} --lora-rank 8 --output out"),
        &["--lora-rank is 8", "the adapter in adapter has 3"],
    );
    place.refused(
        &format!("{line} --lora-alpha 8 --output out"),
        &["--lora-alpha is 8", "has 5"],
    );
    place.refused(
        "sft --model policy --data sft.jsonl --adapter nowhere --output out",
        &["--adapter", "nowhere", "adapter_config.json"],
    );
    assert!(!place.at("out").exists());
    // The same rank again is no contradiction; a rate of 0 changes no weight.
    place.succeeds(&format!("{line} --steps 1 --lora-rank 3 --output out"));
    let config: SupervisedFlags = read_toml(&place.at("out/config.toml")).unwrap();
    assert_eq!((config.lora_rank, config.lora_alpha), (Some(3), Some(5.0)));
    let written = read_config(&place.at("out/checkpoints/step_1")).unwrap();
    assert_eq!((written.rank(), written.alpha()), (3, 5.0));
    let weights = "adapter_model.safetensors";
    assert!(
        place.read(&format!("adapter/{weights}")) == place.read(&format!("out/checkpoints/step_1/{weights}"))
    );
    // A checkpoint holds all that a resumed run needs.
    std::fs::remove_dir_all(place.at("adapter")).unwrap();
    place.succeeds("sft --output out --resume --steps 2 --learning-rate 0.01");
    assert!(
        place.read(&format!("out/checkpoints/step_1/{weights}"))
            != place.read(&format!("out/checkpoints/step_2/{weights}"))
    );
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    let place = Place::new();
    let good = "{\"prompt\":\"a\",\"response\":\"b\"}\n";
    let pair = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n";
    for (name, text) in [
        ("cut.jsonl", format!("{good}{good}{{\"prompt\":\"a\",\n")),
        (
            "lost.jsonl",
            format!("{pair}\n{{\"prompt\":\"a\",\"chosen\":\"b\"}}\n"),
        ),
        (
            "number.jsonl",
            format!("{good}{{\"prompt\":\"a\",\"response\":7}}\n"),
        ),
        ("empty.jsonl", "\n".into()),
        ("one.jsonl", good.into()),
        ("unknown.toml", "batch_size = 4\nstepz = 3\n".into()),
        ("type.toml", "\nlr_scheduler_type = \"step\"\n".into()),
    ] {
        std::fs::write(place.at(name), text).unwrap();
    }
    for (line, parts) in [
        ("sft --data cut.jsonl", &["cut.jsonl:3", "JSON"][..]),
        ("reward --data lost.jsonl", &["lost.jsonl:3", "\"rejected\""]),
        ("sft --data number.jsonl", &["number.jsonl:2", "\"response\""]),
        ("sft --data one.jsonl --eval-data cut.jsonl", &["cut.jsonl:3"]),
        ("reward --data empty.jsonl", &["empty.jsonl", "no records"]),
        ("sft --data nowhere.jsonl", &["nowhere.jsonl"]),
        (
            "sft --data one.jsonl --max-length 2",
            &["one.jsonl", "all 1 examples", "--max-length"],
        ),
        (
            "sft --data one.jsonl --eval-fraction 1",
            &["'1' for '--eval-fraction", "below 1"],
        ),
        ("sft --data one.jsonl --lora-rank 0", &["--lora-rank"]),
        (
            "sft --data one.jsonl --full --base-dtype f16",
            &["--full", "--base-dtype"],
        ),
        ("sft --data one.jsonl --base-dtype f13", &["--base-dtype", "f13"]),
        ("sft --data one.jsonl --template-date soon", &["--template-date"]),
        ("sft --data one.jsonl --head-only", &["--head-only", "reward"]),
        ("sft --data one.jsonl --resume", &["--resume", "no run"]),
        (
            "sft --data one.jsonl --config unknown.toml",
            &["unknown.toml:2", "stepz"],
        ),
        (
            "sft --data one.jsonl --config type.toml",
            &["type.toml:2", "cosine"],
        ),
        ("sft", &["--data"]),
    ] {
        place.refused(&format!("{line} --model policy --output out"), parts);
        assert!(!place.at("out").exists(), "{line} wrote something");
    }
    place.refused("reward --data pairs.jsonl --output out", &["--model"]);
    place.refused(
        "sft --model reward --data sft.jsonl --output out",
        &["reward model", "--model"],
    );
}

#[test]
fn numbers_out_of_range_are_named_with_their_example_and_nothing_is_saved() {
    let place = Place::new();
    // Finite, and their products are not.
    for model in ["policy", "reward"] {
        let path = place.at(model).join("model.safetensors");
        let store = WeightStore::open_safetensors(&path).unwrap();
        let tensor = |name: &str| (name.to_owned(), store.get(name).unwrap().into_owned());
        let mut tensors: Vec<_> = store.names().map(tensor).collect();
        for (name, t) in &mut tensors {
            let value: f32 = match name.as_str() {
                "model.norm.weight" | "score.weight" => 1e19,
                "model.embed_tokens.weight" => 4e18,
                _ => continue,
            };
            t.bytes = value.to_le_bytes().repeat(t.elements()).into();
        }
        drop(store);
        write_safetensors(&path, &tensors).unwrap();
    }
    // One example, on the third line.
    let write = |name: &str, row: &str| std::fs::write(place.at(name), format!("\n\n{row}\n")).unwrap();
    write("one.jsonl", r#"{"prompt": "add 1 1", "response": "2"}"#);
    write(
        "pair.jsonl",
        r#"{"prompt": "add 1 1", "chosen": "2", "rejected": "3"}"#,
    );
    for (line, parts) in [
        (
            "sft --model policy --data one.jsonl",
            &[
                "one.jsonl:3: the log-probability of a token is",
                "earlier checkpoint",
            ][..],
        ),
        (
            "reward --model reward --data pair.jsonl",
            &["pair.jsonl:3: the score of an answer is", "earlier checkpoint"],
        ),
        (
            "reward --model reward --data pair.jsonl --head-only",
            &["pair.jsonl:3: the score of an answer is", "earlier checkpoint"],
        ),
    ] {
        place.refused(
            &format!("{line} --config step.toml --eval-fraction 0 --steps 2 --output out"),
            parts,
        );
        let saved = std::fs::read_dir(place.at("out/checkpoints")).map_or(0, Iterator::count);
        assert_eq!(saved, 0, "{line} saved something");
        std::fs::remove_dir_all(place.at("out")).unwrap_or_default();
    }
}

#[test]
fn data_is_read_whatever_it_is_stored_in() {
    let place = Place::new();
    let lines = String::from_utf8(place.read("pairs.jsonl")).unwrap();
    let rows: Vec<&str> = lines.lines().collect();
    let gzip = |text: &str| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(["rejected", "chosen", "prompt"]).unwrap();
    for row in &rows {
        let row: Value = serde_json::from_str(row).unwrap();
        let cells = ["rejected", "chosen", "prompt"].map(|name| row[name].as_str().unwrap().to_owned());
        table.write_record(cells).unwrap();
    }
    std::fs::write(place.at("array.gz"), gzip(&format!("[{}]", rows.join(",\n")))).unwrap();
    std::fs::write(place.at("table.csv"), table.into_inner().unwrap()).unwrap();
    std::fs::create_dir_all(place.at("set/helpful")).unwrap();
    std::fs::write(place.at("set/helpful/train.jsonl.gz"), gzip(&lines)).unwrap();
    std::fs::write(place.at("set/helpful/test.jsonl.gz"), gzip(rows[0])).unwrap();
    let run = |command: &str, data: &str, output: &str| {
        let line =
            format!("{command} --config step.toml --model policy --data {data} --steps 1 --output {output}");
        let (code, _, said) = place.program(&line, None);
        assert_eq!(code, Some(0), "{line}: {said}");
        let text = String::from_utf8(place.read(&format!("{output}/metrics.jsonl"))).unwrap();
        let first: Map<String, Value> = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        (number(&first, "loss"), number(&first, "grad_norm"), said)
    };
    let (loss, norm, _) = run("reward", "pairs.jsonl", "lines");
    for (i, data) in ["array.gz", "table.csv", "set", "set:train"]
        .into_iter()
        .enumerate()
    {
        let (l, n, said) = run("reward", data, &format!("other{i}"));
        assert_eq!((l, n), (loss, norm), "{data}: {said}");
    }
    place.refused(
        "reward --config step.toml --model policy --data set:dev --steps 1 --output no",
        &["no split \"dev\"", "test, train"],
    );
    // Parquet, and rows that are of no use.
    let fixture = |name: &str| format!("{}/tests/prepare/{name}", env!("CARGO_MANIFEST_DIR"));
    run("reward", &fixture("ultrafeedback.parquet"), "parquet");
    let hh = r#"{"chosen": "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: r"}"#;
    std::fs::write(place.at("parted.jsonl"), format!("{hh}\n{lines}")).unwrap();
    let (l, n, said) = run("reward", "parted.jsonl", "parted");
    assert_eq!((l, n), (loss, norm));
    assert!(
        said.contains("parted.jsonl: 1 of 15 rows are left out")
            && said.contains("same up to their last turn"),
        "{said}"
    );
}

/// A job's plan against what its parts allocate on a device of their own.
fn compare<E: Example>(place: &Place, source: Source, config: SupervisedConfig) -> u64 {
    let options = RunOptions {
        output: place.at("none"),
        resume: false,
        overwrite: false,
    };
    let gpu = device();
    let mut job = Job::<E>::open(config, source, &options).unwrap();
    job.fit(&gpu).unwrap();
    let plan = job.plan(&gpu.buffer_limits(), Some(DType::F32)).unwrap();
    let model = job.load(&gpu).unwrap();
    let _ws = Workspace::new(&gpu, &model.spec, job.shape().unwrap()).unwrap();
    let _optimizer = optimizer(&job.config, &model, 1).unwrap();
    let _losses = job.losses(&gpu).unwrap();
    let real = gpu.memory();
    for (owner, got) in &real.by_owner {
        assert_eq!(*got, plan.bytes(owner), "{owner}: {plan}\n{real:?}");
    }
    assert_eq!(plan.total(), real.current);
    plan.total()
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_its_plan() {
    let place = Place::new();
    let policy = place.at("policy").display().to_string();
    for more in ["", "full = true", "no_checkpointing = true"] {
        let config = place.config("sft", more);
        compare::<Demonstration>(&place, Source::open_causal(&policy).unwrap(), config);
    }
    for more in ["full = true", "head_only = true"] {
        let config = place.config("reward", more);
        compare::<Pair>(&place, Source::open_with_score(&policy).unwrap(), config);
    }
    let config = place.config("reward", "");
    let total = compare::<Pair>(&place, Source::open_with_score(&policy).unwrap(), config);
    let line = "reward --model policy --data pairs.jsonl --config step.toml --steps 1 --output out";
    let (code, _, stderr) = place.program(line, Some(total - 1));
    assert_eq!(code, Some(2), "{stderr}");
    for part in [
        "weights",
        "adapter",
        "activations",
        "total",
        "Lower --token-budget",
        "--base-dtype",
    ] {
        assert!(stderr.contains(part), "no {part:?} in: {stderr}");
    }
    assert!(!place.at("out").exists());
    assert_eq!(place.program(line, Some(total)).0, Some(0));
}

/// The total of `plan` and the element types it chose.
fn planned(place: &Place, line: &str, memory: Option<u64>) -> (u64, [String; 2]) {
    let (code, stdout, stderr) = place.program(&format!("plan --json {line}"), memory);
    assert_eq!(code, Some(0), "{stderr}");
    let plan: Value = serde_json::from_str(&stdout).unwrap();
    let dtype = |name: &str| plan[name].as_str().unwrap().to_string();
    (
        plan["total"].as_u64().unwrap(),
        [dtype("base_dtype"), dtype("reward_dtype")],
    )
}

#[test]
fn the_default_element_type_is_the_largest_that_fits() {
    let place = Place::new();
    // The embedded models' rows are long enough for blocks of 32, and they are stored in f32.
    let line = "--token-budget 128 --rollout-batch 16 --prompts-per-step 1 --reward-residency resident";
    let mut all: Vec<(u64, [String; 2])> = Vec::new();
    for base in ["f32", "q8_0"] {
        for reward in ["f32", "q8_0"] {
            let flags = format!("{line} --base-dtype {base} --reward-dtype {reward}");
            all.push(planned(&place, &flags, Some(1 << 40)));
        }
    }
    all.sort();
    let best = all.last().unwrap();
    assert_eq!(best.1, ["f32", "f32"]);
    for limit in [best.0, best.0 - 1, all[2].0 - 1, all[0].0, 1000] {
        let fits = all.iter().rev().find(|(total, _)| *total <= limit);
        let want = fits.unwrap_or(&all[0]);
        assert_eq!(planned(&place, line, Some(limit)).0, want.0, "{limit} of {all:?}");
    }
    // What is asked for is taken, fitting or not.
    assert_eq!(
        planned(&place, &format!("{line} --base-dtype bf16"), Some(1000)).1,
        ["bf16", "q8_0"]
    );
    let (code, _, stderr) = place.program(&format!("train {line} --output out"), Some(all[0].0 - 1));
    assert_eq!(code, Some(2), "{stderr}");

    // A run writes its choice down, says that it rounds, and keeps it when there is room again.
    let sft = "sft --model tiny --data sft.jsonl --config step.toml --steps 1 --output run";
    let whole = {
        let options = RunOptions {
            output: place.at("run"),
            resume: false,
            overwrite: false,
        };
        let source = Source::open_causal("tiny").unwrap();
        let job = Job::<Demonstration>::open(place.config("sft", ""), source, &options).unwrap();
        let limits = device().buffer_limits();
        job.plan(&limits, Some(DType::F32)).unwrap().total()
    };
    let (code, _, stderr) = place.program(sft, Some(whole - 1));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("rounded to q8_0"), "{stderr}");
    let dtype = || {
        let config: SupervisedFlags = read_toml(&place.at("run/config.toml")).unwrap();
        config.base_dtype
    };
    assert_eq!(dtype().as_deref(), Some("q8_0"));
    place.succeeds("sft --output run --resume --steps 2");
    assert_eq!(dtype().as_deref(), Some("q8_0"));
    assert!(place.at("run/checkpoints/step_2").exists());
}
