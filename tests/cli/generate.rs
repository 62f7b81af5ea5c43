//! `generate` against greedy goldens, with a tokenizer of one letter a token.

use super::*;

/// The letter that stands for a token.
fn letter(id: u64) -> char {
    char::from_u32(0x4e00 + id as u32).unwrap()
}

fn spell(ids: &Value) -> String {
    ids.as_array()
        .unwrap()
        .iter()
        .map(|id| letter(id.as_u64().unwrap()))
        .collect()
}

/// Puts a tokenizer with `size` single-letter tokens beside a model.
fn add_tokenizer(dir: &Path, size: u64) {
    let vocab: serde_json::Map<String, Value> =
        (0..size).map(|id| (letter(id).to_string(), json!(id))).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    });
    std::fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
}

fn vocabulary(name: &str) -> u64 {
    let config: Value =
        serde_json::from_slice(&std::fs::read(model(name).join("config.json")).unwrap()).unwrap();
    config["vocab_size"].as_u64().unwrap()
}

/// Greedy decoding equals transformers', up to the model's end tokens, which the goldens ignore.
#[test]
fn greedy_completions_equal_transformers() {
    for name in ["llama_gqa", "qwen2_bias", "qwen3_qknorm"] {
        let (dir, g) = (copy(name), golden(name));
        add_tokenizer(dir.path(), vocabulary(name));
        std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
        let config = dir.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        spec["eos_token_id"] = Value::Null;
        std::fs::write(&config, spec.to_string()).unwrap();
        for (with, key) in [(None, "greedy"), (Some(adapter(name)), "greedy_lora")] {
            for case in g[key].as_array().unwrap() {
                let prompt = spell(&case["prompt"]);
                let mut args = vec![
                    "generate",
                    "--model",
                    text(dir.path()),
                    "--prompt",
                    &prompt,
                    "--raw",
                    "--json",
                ];
                args.extend(["--temperature", "0", "--max-completion-length", "12"]);
                if let Some(adapter) = &with {
                    args.extend(["--adapter", text(adapter)]);
                }
                let line = tea(&args).lines().remove(0);
                let got = &line["completions"][0];
                assert_eq!(got["tokens"], case["tokens"], "{name} {key}");
                assert_eq!(got["text"], spell(&case["tokens"]));
                assert_eq!(got["finish_reason"], "length");
                let want: f32 = f32s(&case["logprobs"]).iter().sum();
                assert!((got["logprob"].as_f64().unwrap() as f32 - want).abs() < 1e-3);
            }
        }
    }
}

#[test]
fn an_end_token_stops_and_is_not_text() {
    let (name, dir) = ("qwen2_bias", copy("qwen2_bias"));
    add_tokenizer(dir.path(), vocabulary(name));
    let case = golden(name)["greedy"][0].clone();
    let tokens: Vec<u64> = serde_json::from_value(case["tokens"].clone()).unwrap();
    // Make the fourth token an end token (or the first place it occurs).
    let stop = tokens.iter().position(|t| *t == tokens[3]).unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        json!({"eos_token_id": [tokens[3]]}).to_string(),
    )
    .unwrap();
    let prompt = spell(&case["prompt"]);
    let args = [
        "generate",
        "--model",
        text(dir.path()),
        "--prompt",
        &prompt,
        "--temperature",
        "0",
        "--json",
    ];
    let got = tea(&args).lines().remove(0)["completions"][0].clone();
    assert_eq!(got["finish_reason"], "stop");
    assert_eq!(got["tokens"], json!(tokens[..=stop]));
    assert_eq!(got["text"], spell(&json!(tokens[..stop])));
}

/// A policy and a reward model that share an alphabet.
fn pair() -> (tempfile::TempDir, tempfile::TempDir) {
    let (policy, judge) = (copy("llama_gqa"), copy("qwen3_score"));
    let size = vocabulary("qwen3_score");
    add_tokenizer(policy.path(), size);
    add_tokenizer(judge.path(), size);
    (policy, judge)
}

#[test]
fn samples_repeat_with_the_seed_and_differ_without() {
    let (policy, _) = pair();
    let prompt = spell(&json!([5, 6, 7]));
    let sample_from = |cache: &str, seed: &str, batch: &str| {
        let mut args = vec![
            "generate",
            "--model",
            text(policy.path()),
            "--prompt",
            &prompt,
            "-n",
            "6",
            "--json",
        ];
        args.extend([
            "--max-completion-length",
            "9",
            "--seed",
            seed,
            "--rollout-batch",
            batch,
            "--kv-cache-dtype",
            cache,
        ]);
        tea(&args).lines().remove(0)["completions"].clone()
    };
    let sample = |seed: &str, batch: &str| sample_from("float32", seed, batch);
    let first = sample("1", "64");
    assert_eq!(first.as_array().unwrap().len(), 6);
    assert_ne!(first[0]["tokens"], first[1]["tokens"]);
    // The same samples, bit for bit, however many are decoded together.
    assert_eq!(first, sample("1", "64"));
    assert_eq!(first, sample("1", "2"));
    assert_ne!(first, sample("2", "64"));
    // A cache in halves gives other log-probabilities, and repeats as well.
    let halves = sample_from("float16", "1", "64");
    assert_ne!(first, halves);
    assert_eq!(halves, sample_from("float16", "1", "2"));
}

#[test]
fn best_of_n_prints_the_highest_reward() {
    let (policy, judge) = pair();
    let (a, b) = (spell(&json!([5, 6, 7])), spell(&json!([9, 10])));
    let input = jsonl(
        policy.path(),
        [json!({"id": "x", "prompt": a}), json!({"id": "y", "prompt": b})],
    );
    // Only the judge's alphabet can be spelled for it.
    let common = [
        "generate",
        "--model",
        text(policy.path()),
        "--prompts",
        text(&input),
        "--best-of",
        "8",
    ];
    let sizes = [
        "--reward-model",
        text(judge.path()),
        "--max-completion-length",
        "5",
        "--top-k",
        "40",
    ];
    let words: Vec<&str> = common.into_iter().chain(sizes).collect();
    let json: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let lines = tea(&json).lines();
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&json!("x"), &json!("y")));
    let mut best = Vec::new();
    for (line, prompt) in lines.iter().zip([&a, &b]) {
        let all = line["completions"].as_array().unwrap();
        let rewards: Vec<f64> = all.iter().map(|c| c["reward"].as_f64().unwrap()).collect();
        assert_eq!(rewards.len(), 8);
        assert!(rewards.is_sorted_by(|x, y| x >= y) && rewards[0] > rewards[7]);
        best.push(all[0]["text"].as_str().unwrap().to_owned());
        // The reward is what `score` says of the same texts.
        let rows = all
            .iter()
            .map(|c| json!({"prompt": prompt, "response": c["text"]}));
        let scored = jsonl(judge.path(), rows);
        let again = tea(&[
            "score",
            "--reward-model",
            text(judge.path()),
            "--input",
            text(&scored),
        ])
        .lines();
        let again: Vec<f64> = again.iter().map(|l| l["score"].as_f64().unwrap()).collect();
        assert!(rewards.iter().zip(&again).all(|(x, y)| (x - y).abs() < 1e-6));
    }
    let plain = tea(&words);
    assert_eq!(plain.code, 0, "{}", plain.err);
    assert!(best.iter().all(|text| plain.out.contains(text.as_str())));
    assert_eq!(plain.out.matches("--- prompt").count(), 2);
}

#[test]
fn logprobs_of_texts_are_those_of_their_ids() {
    let (policy, _) = pair();
    let (a, b) = (spell(&json!([5, 6, 7])), spell(&json!([9, 10])));
    let input = jsonl(
        policy.path(),
        [
            json!({"id": 1, "prompt": a, "completion": b}),
            json!({"id": 2, "tokens": [5, 6, 7, 9, 10]}),
        ],
    );
    let lines = tea(&[
        "logprobs",
        "--model",
        text(policy.path()),
        "--input",
        text(&input),
    ])
    .lines();
    assert_eq!(lines[0]["tokens"], lines[1]["tokens"]);
    assert_eq!(lines[0]["logprobs"], lines[1]["logprobs"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let (policy, _) = pair();
    // One position more than the context.
    let context: Value =
        serde_json::from_slice(&std::fs::read(policy.path().join("config.json")).unwrap()).unwrap();
    let context = context["max_position_embeddings"].as_u64().unwrap();
    let long: String = (0..=context).map(|_| letter(5)).collect();
    let run = tea(&["generate", "--model", text(policy.path()), "--prompt", &long]);
    run.refused(&[
        "--prompt",
        &format!("{} tokens", context + 1),
        "context",
        "--max-completion-length",
    ]);
}

/// What can only be too long is refused with the same words, and is not tokenised. So is what a template makes of a short
/// prompt.
#[test]
fn a_text_that_cannot_fit_is_refused_before_it_is_tokenised() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(embedded).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
    }
    let rows = dir.path().join("p.jsonl");
    let long = json!({"prompt": "a".repeat(10_000)}).to_string();
    std::fs::write(&rows, format!("{{\"prompt\": \"hi\"}}\n{long}\n")).unwrap();
    let refused = |command: &str, more: &[&str], parts: &[&str]| {
        let line = [&[command, "--model", text(&model)], more].concat();
        tea(&line).refused(parts);
    };
    let least = [
        "p.jsonl: prompt 2: the prompt has at least 193 tokens",
        "128 tokens",
    ];
    refused("generate", &["--prompts", text(&rows), "--raw"], &least);
    refused("generate", &["--prompts", text(&rows)], &least);
    std::fs::write(model.join("chat_template.jinja"), "{{ 'a' * 30000000 }}").unwrap();
    let least = ["--prompt: the prompt has at least 576924 tokens", "128 tokens"];
    refused("generate", &["--prompt", "hi"], &least);
    let rows = dir.path().join("s.jsonl");
    std::fs::write(&rows, long.replace('}', ", \"completion\": \"b\"}")).unwrap();
    let least = ["s.jsonl: record 1 has at least 194 tokens", "128 tokens"];
    refused("logprobs", &["--input", text(&rows)], &least);
    let rows = dir.path().join("r.jsonl");
    std::fs::write(&rows, long.replace('}', ", \"response\": \"b\"}")).unwrap();
    let line = [
        "score",
        "--reward-model",
        "tiny-reward",
        "--raw",
        "--input",
        text(&rows),
    ];
    tea(&line).refused(&["r.jsonl: record 1 has at least 194 tokens", "context"]);
}

#[test]
fn weights_that_cannot_be_computed_with_are_refused() {
    let (policy, _) = pair();
    let run = || {
        tea(&[
            "generate",
            "--model",
            text(policy.path()),
            "--prompt",
            "一",
            "--temperature",
            "0",
        ])
    };
    // Finite, and their products are not.
    fill(policy.path(), &["model.norm.weight"], 1e19);
    fill(
        policy.path(),
        &["model.embed_tokens.weight", "lm_head.weight"],
        2e18,
    );
    run().refused(&["the log-probability of a drawn token is", "far too large"]);
    for bad in [f32::NAN, f32::INFINITY, 3e38] {
        fill(policy.path(), &["model.norm.weight"], bad);
        run().refused(&["model.safetensors", "tensor model.norm.weight holds"]);
        let (whole, _) = pair();
        std::fs::copy(
            whole.path().join("model.safetensors"),
            policy.path().join("model.safetensors"),
        )
        .unwrap();
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let policy = copy("llama_gqa");
    add_tokenizer(policy.path(), vocabulary("llama_gqa") + 1);
    let run = tea(&["generate", "--model", text(policy.path()), "--prompt", "一"]);
    run.refused(&[
        text(policy.path()),
        "tokenizer and model do not belong together",
        "331",
    ]);
    // Ids need no tokenizer, whatever lies there.
    let input = jsonl(policy.path(), [json!({"tokens": [1, 2]})]);
    assert_eq!(
        tea(&[
            "logprobs",
            "--model",
            text(policy.path()),
            "--input",
            text(&input)
        ])
        .lines()
        .len(),
        1
    );
}

#[test]
fn texts_without_a_tokenizer_are_refused() {
    let run = tea(&["generate", "--model", text(&model("llama_gqa")), "--prompt", "hi"]);
    run.refused(&["llama_gqa", "no tokenizer.json"]);
}

#[test]
fn a_template_date_and_sampling_flags_are_checked() {
    let (policy, _) = pair();
    let base = ["generate", "--model", text(policy.path()), "--prompt", "一"];
    for (flags, part) in [
        (&["--temperature", "-1"][..], "--temperature"),
        (&["--top-p", "0"], "--top-p"),
        (&["-n", "0"], "-n"),
        (&["--max-completion-length", "0"], "--max-completion-length"),
        (&["--template-date", "yesterday"], "--template-date"),
        (&["--best-of", "4"], "--reward-model"),
        (&["--prompts", "f"], "--prompts"),
    ] {
        let words: Vec<&str> = base.iter().chain(flags).copied().collect();
        tea(&words).refused(&[part]);
    }
    // No chat template: messages cannot be read.
    let input = jsonl(
        policy.path(),
        [json!({"messages": [{"role": "user", "content": "一"}]})],
    );
    let run = tea(&[
        "generate",
        "--model",
        text(policy.path()),
        "--prompts",
        text(&input),
    ]);
    run.refused(&["in.jsonl", "prompt 1", "chat template"]);
}

/// SmolLM2-135M from its GGUF file, quantised on the GPU, chooses the tokens that transformers chooses on the dequantised
/// weights. The goldens go on after an end token; a completion here ends with it.
#[test]
fn smollm2_greedy_equals_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gguf = root.join("target/test-data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        gguf.exists(),
        "{} is missing: run `sh tests/fetch-data.sh` and test again",
        gguf.display()
    );
    let bytes = std::fs::read(root.join("tests/golden/smollm2_greedy.json")).unwrap();
    let golden: Value = serde_json::from_slice(&bytes).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), cases.iter().map(|c| json!({"prompt": c["prompt"]})));
    let mut args = vec![
        "generate",
        "--model",
        text(&gguf),
        "--prompts",
        text(&input),
        "--json",
    ];
    args.extend(["--temperature", "0", "--max-completion-length", "32"]);
    let lines = tea(&args).lines();
    assert_eq!(lines.len(), 5);
    let end = golden["eos_token_id"].as_u64().unwrap();
    for (line, case) in lines.iter().zip(cases) {
        let all: Vec<u64> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let n = all.iter().position(|t| *t == end).map_or(all.len(), |at| at + 1);
        let got = &line["completions"][0];
        assert_eq!(got["tokens"], json!(all[..n]), "{}", case["prompt"]);
        let want: f32 = f32s(&case["logprobs"])[..n].iter().sum();
        let logprob = got["logprob"].as_f64().unwrap() as f32;
        // Up to 32 terms of at most 1e-3 each: the weights' products are summed in another order.
        assert!(
            (logprob - want).abs() < 1e-2,
            "{}: {logprob}, transformers {want}",
            case["prompt"]
        );
    }
}
