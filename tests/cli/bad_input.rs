//! Wrong files and flags: exit code 2 and a message that says where.

use super::*;

/// `logprobs` of two tokens with a model directory.
fn logprobs(model: &Path) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    tea(&["logprobs", "--model", text(model), "--input", text(&input)])
}

/// `logprobs` of a file's text.
fn logprobs_of(contents: &str) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, contents).unwrap();
    tea(&[
        "logprobs",
        "--model",
        text(&model("mistral")),
        "--input",
        text(&input),
    ])
}

/// Changes a model's config.json.
fn configure(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn missing_and_truncated_weights() {
    let dir = copy("mistral");
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for keep in [bytes.len() - 100, 50, 0] {
        std::fs::write(&weights, &bytes[..keep]).unwrap();
        logprobs(dir.path()).refused(&["model.safetensors", "download it again"]);
    }
    std::fs::remove_file(&weights).unwrap();
    logprobs(dir.path()).refused(&[text(dir.path()), "model.safetensors"]);
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    logprobs(dir.path()).refused(&[text(dir.path()), "config.json"]);
    logprobs(Path::new("./no/such/model")).refused(&["./no/such/model", "llama-1b"]);
}

#[test]
fn weights_of_another_shape_or_type() {
    let dir = copy("mistral");
    configure(dir.path(), |c| c["intermediate_size"] = json!(96));
    logprobs(dir.path()).refused(&["model.safetensors", "gate_proj.weight", "[88, 48]", "[96, 48]"]);

    // The same file with one element type renamed to an integer of the same width.
    let dir = copy("mistral");
    let weights = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    bytes[at + 1] = b'I';
    std::fs::write(&weights, &bytes).unwrap();
    logprobs(dir.path()).refused(&["model.safetensors", "element type I32"]);
}

#[test]
fn weights_that_are_not_finite() {
    let dir = copy("mistral");
    let weights = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // The file's last tensor data: all NaN.
    let end = bytes.len();
    bytes[end - 4 * 48..].copy_from_slice(&f32::NAN.to_le_bytes().repeat(48));
    std::fs::write(&weights, &bytes).unwrap();
    logprobs(dir.path()).refused(&["model.safetensors", "holds NaN (element 0)"]);

    let dir = copy("llama_score");
    fill(dir.path(), &["score.weight"], f32::NAN);
    let input = jsonl(dir.path(), [json!({"id": 1, "tokens": [1, 2]})]);
    let run = tea(&[
        "score",
        "--reward-model",
        text(dir.path()),
        "--input",
        text(&input),
    ]);
    run.refused(&["model.safetensors", "tensor score.weight holds NaN"]);
}

/// The file is named, once, and neither its directory again nor a file that has nothing to do with it.
#[test]
fn damaged_weights_are_told_by_their_file_in_every_command() {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    let place = tiny::workplace();
    fill(&place.path().join("policy"), &[EMBEDDING], f32::NAN);
    std::fs::write(place.path().join("ids.jsonl"), "{\"tokens\": [1, 2, 3]}\n").unwrap();
    std::fs::write(
        place.path().join("texts.jsonl"),
        "{\"prompt\": \"a\", \"response\": \"b\"}\n",
    )
    .unwrap();
    let policy = format!("policy/model.safetensors: tensor {EMBEDDING} holds NaN (element 0)");
    let judge = "reward-nan/model.safetensors: tensor score.weight holds NaN (element 0)";
    const RUN: &str = "--prompts prompts.jsonl --max-completion-length 4";
    const SEARCH: &str = "search --samples 4 --width 2 --budget 15";
    for (line, said) in [
        (
            "logprobs --model policy --input ids.jsonl".to_string(),
            policy.clone(),
        ),
        ("generate --model policy --prompt a".to_string(), policy.clone()),
        (
            format!("eval --model policy --reward-model reward --samples 2 --output e {RUN}"),
            policy.clone(),
        ),
        (
            format!("{SEARCH} --model policy --reward-model reward {RUN}"),
            policy.clone(),
        ),
        (
            format!("train --model policy --reward-model reward --output t {RUN}"),
            policy.clone(),
        ),
        (
            "score --reward-model reward-nan --input texts.jsonl".to_string(),
            judge.to_string(),
        ),
        (
            format!("{SEARCH} --model tiny --reward-model reward-nan {RUN}"),
            judge.to_string(),
        ),
    ] {
        let run = finish(
            Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
                .current_dir(place.path())
                .args(line.split_whitespace()),
        );
        run.refused(&[&said]);
        let place = run.err.split(&said).next().unwrap().lines().last().unwrap();
        assert!(
            ["error: ", "error: --reward-model: "].contains(&place),
            "{}",
            run.err
        );
        assert!(run.out.is_empty(), "{line}: {}", run.out);
    }
}

#[test]
fn unknown_architectures() {
    let dir = copy("mistral");
    configure(dir.path(), |c| {
        c["architectures"] = json!(["GPT2LMHeadModel"]);
        c["model_type"] = json!("gpt2");
    });
    logprobs(dir.path()).refused(&["config.json", "GPT2LMHeadModel"]);
}

#[test]
fn empty_and_malformed_lines() {
    logprobs_of("").refused(&["in.jsonl", "no records"]);
    logprobs_of("\n\n").refused(&["in.jsonl", "no records"]);
    logprobs_of("{\"tokens\": [1, 2]}\n\n{\"tokens\": [1,\n").refused(&["in.jsonl:3", "malformed JSON"]);
    logprobs_of("{\"tokens\": [1, 2]}\n{\"tokens\": \"ab\"}\n").refused(&["in.jsonl:2", "tokens"]);
    logprobs_of("{\"token\": [1]}\n").refused(&["in.jsonl:1", "prompt"]);
    logprobs_of("{\"tokens\": [1, 193]}\n").refused(&["in.jsonl", "record 1", "193", "vocabulary"]);
    let run = tea(&[
        "logprobs",
        "--model",
        text(&model("mistral")),
        "--input",
        "no/such.jsonl",
    ]);
    run.refused(&["no/such.jsonl", "check the path"]);
}

#[test]
fn sequences_that_do_not_fit() {
    let dir = copy("mistral");
    configure(dir.path(), |c| c["max_position_embeddings"] = json!(6));
    let rows = [
        json!({"tokens": [1, 2, 3, 4, 5, 6]}),
        json!({"tokens": [1, 2, 3, 4, 5, 6, 7]}),
    ];
    let input = jsonl(dir.path(), rows);
    let run = tea(&["logprobs", "--model", text(dir.path()), "--input", text(&input)]);
    run.refused(&["in.jsonl", "record 2", "7 tokens", "context"]);
    let fits = jsonl(dir.path(), [json!({"tokens": [1, 2, 3, 4, 5, 6]})]);
    assert_eq!(
        tea(&["logprobs", "--model", text(dir.path()), "--input", text(&fits)])
            .lines()
            .len(),
        1
    );
    let run = tea(&[
        "logprobs",
        "--model",
        text(dir.path()),
        "--input",
        text(&fits),
        "--token-budget",
        "3",
    ]);
    run.refused(&["--token-budget"]);
    let run = tea(&[
        "logprobs",
        "--model",
        text(dir.path()),
        "--input",
        text(&fits),
        "--token-budget",
        "0",
    ]);
    run.refused(&["--token-budget"]);
}

#[test]
fn adapters_of_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    let base = model("mistral");
    let with = |adapter: &Path| {
        tea(&[
            "logprobs",
            "--model",
            text(&base),
            "--input",
            text(&input),
            "--adapter",
            text(adapter),
        ])
    };
    with(&adapter("llama_gqa")).refused(&["another model"]);
    with(dir.path()).refused(&["adapter_config.json", "--adapter"]);
    with(&adapter("llama_score")).refused(&["score head"]);
}

#[test]
fn the_wrong_kind_of_model() {
    logprobs(&model("llama_score")).refused(&["llama_score", "reward model", "--model"]);
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    let run = tea(&[
        "score",
        "--reward-model",
        text(&model("mistral")),
        "--input",
        text(&input),
    ]);
    run.refused(&["mistral", "no score head"]);
    logprobs(&adapter("mistral")).refused(&["LoRA adapter", "--adapter"]);
}

#[test]
fn exactly_one_of_adapter_and_full() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(
        dir.path(),
        [json!({"tokens": [1, 2], "prompt_len": 1, "weight": 1})],
    );
    let (model, adapter, output) = (
        model("mistral"),
        adapter("mistral"),
        dir.path().join("g.safetensors"),
    );
    let base = [
        "gradient",
        "--model",
        text(&model),
        "--input",
        text(&input),
        "--output",
        text(&output),
    ];
    let run = |flags: &[&str]| tea(&base.iter().chain(flags).copied().collect::<Vec<_>>());
    run(&[]).refused(&["--adapter", "--full"]);
    run(&["--full", "--adapter", text(&adapter)]).refused(&["--adapter", "--full"]);
    run(&["--full", "--base-dtype", "f16"]).refused(&["--base-dtype", "--full"]);
    run(&["--adapter", text(&adapter), "--base-dtype", "int3"]).refused(&["--base-dtype", "q4_0"]);
    run(&["--adapter", text(&adapter), "--base-dtype", "q4_k"]).refused(&["q4_k", "q8_0"]);
    // Rows of 48 are not whole blocks of 32.
    run(&["--adapter", text(&adapter), "--base-dtype", "q8_0"]).refused(&["multiple of 32"]);
    assert!(!output.exists());
    let bad = jsonl(
        dir.path(),
        [json!({"tokens": [1, 2], "prompt_len": 3, "weight": 1})],
    );
    let run = tea(&[
        "gradient",
        "--model",
        text(&model),
        "--full",
        "--input",
        text(&bad),
        "--output",
        text(&output),
    ]);
    run.refused(&["in.jsonl:1", "prompt_len"]);
    // Weights that are finite and far too large: the first record that has a token to learn is named.
    let huge = copy("mistral");
    fill(huge.path(), &["model.norm.weight"], 1e19);
    fill(
        huge.path(),
        &["model.embed_tokens.weight", "lm_head.weight"],
        2e18,
    );
    let rows = [
        json!({"tokens": [1, 2], "prompt_len": 2, "weight": 1}),
        json!({"tokens": [1, 2], "prompt_len": 1, "weight": 1}),
    ];
    let input = jsonl(huge.path(), rows);
    let run = tea(&[
        "gradient",
        "--model",
        text(huge.path()),
        "--full",
        "--input",
        text(&input),
        "--output",
        text(&output),
    ]);
    run.refused(&["in.jsonl: record 2", "the log-probability of a token is"]);
    assert!(!output.exists());
}

#[test]
fn results_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    let output = dir.path().join("no/such/place.jsonl");
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
    run.refused(&["no/such"]);
}

#[test]
fn no_adapter_says_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(dir.path(), [json!({"tokens": [1, 2]})]);
    let model = model("mistral");
    for args in [
        &["devices"][..],
        &["logprobs", "--model", text(&model), "--input", text(&input)],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command.args(args).env("WGPU_BACKEND", "vulkan");
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, "/dev/null");
        }
        finish(&mut command).refused(&["no GPU adapter", "mesa-vulkan-drivers"]);
    }
}

#[test]
fn unknown_device_names() {
    for (name, part) in [
        ("no-such-gpu", "no adapter's name contains it"),
        ("99", "no such adapter"),
    ] {
        let run = tea(&["devices", "--device", name]);
        run.refused(&["--device", name, part]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        finish(command.arg("devices").env("TEA_DEVICE", name)).refused(&["--device", name, part]);
    }
}

#[test]
fn limits_of_files_are_raised_by_a_flag() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("wide.csv");
    let (names, cells) = (",x".repeat(600_000), ",1".repeat(600_000));
    std::fs::write(&input, format!("rewards{names}\n\"[1.0, 2.0]\"{cells}\n")).unwrap();
    let advantage = ["advantage", "--rule", "grpo", "--input", text(&input)];
    tea(&advantage).refused(&[
        "wide.csv:1: size of a CSV header: more, where the limit is 1 MiB",
        "--max-file-memory",
    ]);
    let with = |size: &str| tea(&[&advantage[..], &["--max-file-memory", size]].concat());
    assert_eq!(with("16GiB").code, 0);
    with("1KiB").refused(&["the limit is 1 MiB"]);
    with("plenty").refused(&["--max-file-memory", "plenty"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    command.args(advantage);
    assert_eq!(finish(command.env("TEA_MAX_FILE_MEMORY", "16GiB")).code, 0);
    finish(command.env("TEA_MAX_FILE_MEMORY", "-1")).refused(&["TEA_MAX_FILE_MEMORY", "-1"]);
}

#[test]
fn wrong_usage_ends_with_two_and_help_with_zero() {
    tea(&["no-such-command"]).refused(&["no-such-command"]);
    tea(&["logprobs", "--modle", "x"]).refused(&["--modle"]);
    for args in [&["--help"][..], &["--version"], &["generate", "--help"]] {
        assert_eq!(tea(args).code, 0);
    }
}

/// Whether nothing in it acts on a terminal or passes for a line of the program's own.
fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
        && !text.lines().any(|line| line.starts_with("[WARN ] forged"))
}

#[test]
fn text_of_others_is_escaped_in_messages() {
    const NAME: &str = "a\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\n[WARN ] forged";
    let dir = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let missing = dir.path().join(NAME);
    let mut runs = vec![
        // What clap repeats.
        tea(&[NAME]),
        tea(&["logprobs", &format!("--{NAME}")]),
        tea(&["generate", "--max-completion-length", NAME]),
        tea(&["train", "--base-dtype", NAME]),
        // What we repeat.
        tea(&["logprobs", "--model", text(&tiny), "--input", text(&missing)]),
        tea(&["logprobs", "--model", NAME, "--input", text(&missing)]),
        tea(&["devices", "--device", NAME]),
        logprobs_of(&format!("{}\n", json!({NAME: 1}))),
    ];
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "steps = \"\u{1b}[31m\u{202e}\"\nx\u{1b} = 1\n").unwrap();
    runs.push(tea(&[
        "train",
        "--config",
        text(&config),
        "--output",
        text(&missing),
    ]));
    for run in runs {
        assert_eq!(run.code, 2, "{}", run.err);
        assert!(is_plain(&run.err), "{:?}", run.err);
    }
    let mut noisy = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
    noisy.args(["logprobs", "--model", text(&tiny), "--input", text(&missing)]);
    noisy
        .env("RUST_LOG", NAME)
        .env("TEA_DEVICE", NAME)
        .env("TEA_TUNE", NAME);
    let run = finish(&mut noisy);
    assert!(run.code == 2 && is_plain(&run.err), "{:?}", run.err);
}

#[test]
fn a_message_has_an_end() {
    let endless = "x".repeat(100_000);
    let run = tea(&["logprobs", "--model", &endless, "--input", "in.jsonl"]);
    assert!(run.code == 2 && run.err.len() < 10_000, "{}", run.err.len());
    let run = tea(&["generate", "--max-completion-length", &endless]);
    assert!(run.code == 2 && run.err.len() < 10_000, "{}", run.err.len());
    run.refused(&["98,976 more bytes"]);
}
