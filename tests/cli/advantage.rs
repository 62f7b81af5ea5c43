//! `advantage`: the golden cases through the command, its input's forms, its refusals. No GPU is used.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use super::*;

/// Runs `advantage` with these flags on JSON lines from standard input.
fn advantage(flags: &str, lines: &str) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
        .arg("advantage")
        .args(flags.split_whitespace())
        .args(["--input", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its flags may close the pipe before it was read.
    drop(child.stdin.take().unwrap().write_all(lines.as_bytes()));
    let done = child.wait_with_output().unwrap();
    Run {
        code: done.status.code().unwrap(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A golden case's flags; `selection` goes into its line.
fn flags_of(case: &Value) -> String {
    let mut flags = format!("--rule {}", case["rule"].as_str().unwrap());
    for (key, flag) in [
        ("alpha", "alpha"),
        ("n", "bon"),
        ("order", "prefix-order"),
        ("prefixes", "prefixes"),
        ("k", "max-at-k"),
        ("beta", "risk-beta"),
        ("quantile", "quantile"),
        ("max_advantage", "max-advantage"),
    ] {
        if let Some(value) = case["params"].get(key) {
            write!(flags, " --{flag} {value}").unwrap();
        }
    }
    flags
}

#[test]
fn golden_cases_through_the_command() {
    let mut cases = Vec::new();
    for file in ["advantages.json", "more_rules.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(file);
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        cases.extend(golden["cases"].as_array().unwrap().clone());
    }
    let mut runs = BTreeMap::<String, Vec<usize>>::new();
    let line = |i: usize| {
        let (rewards, selection) = (&cases[i]["rewards"], &cases[i]["params"]["selection"]);
        json!({"id": i, "rewards": rewards, "selection": selection}).to_string() + "\n"
    };
    let mut refused = 0;
    for (i, case) in cases.iter().enumerate() {
        if case["params"].get("error").is_none() {
            runs.entry(flags_of(case)).or_default().push(i);
        } else if refused < 6 {
            // All of them are refused in the unit tests; here a few, each a process.
            advantage(&flags_of(case), &line(i)).refused(&["standard input:1", "at least", "responses"]);
            refused += 1;
        }
    }
    let mut checked = 0;
    for (flags, members) in &runs {
        let input: String = members.iter().map(|i| line(*i)).collect();
        let lines = advantage(flags, &input).lines();
        assert_eq!(lines.len(), members.len());
        for (got, i) in lines.iter().zip(members) {
            assert_eq!(got["id"], json!(i));
            let (got, want) = (numbers(&got["advantages"]), numbers(&cases[*i]["advantages"]));
            assert_eq!(got.len(), want.len());
            let near = |(g, w): (&f64, &f64)| (g - w).abs() <= 1e-9 * w.abs().max(1.0);
            assert!(got.iter().zip(&want).all(near), "{flags}, case {i}");
            checked += 1;
        }
    }
    assert!(checked > 500 && refused == 6, "{checked} {refused}");
}

#[test]
fn a_line_carries_its_tail_and_its_id() {
    let rewards = "[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]";
    let input = format!(
        "\u{feff}{{\"id\": \"a\", \"rewards\": {rewards}}}\r\n\n{{\"rewards\": {rewards}, \"id\": 7, \"note\": []}}\n{{\"rewards\": {rewards}}}"
    );
    let lines = advantage("--rule tea --alpha 1/5", &input).lines();
    let ids: Vec<&Value> = lines.iter().map(|l| &l["id"]).collect();
    assert_eq!(ids, [&json!("a"), &json!(7), &Value::Null]);
    let tail = &lines[0]["tail"];
    assert_eq!((tail["q"].as_f64(), tail["mu"].as_f64()), (Some(9.0), Some(9.5)));
    assert_eq!(tail["sigma"].as_f64(), Some(0.5));
    let kappa = tail["kappa"].as_f64().unwrap();
    assert!((kappa - 2.555_191_260_032).abs() < 1e-9);
    assert_eq!(tail["predicted_bon"].as_f64(), Some(9.5 + kappa * 0.5));
    // ψ(10) = 5·(1 + κ·(0.25 − 0.25)) = 5, less its mean 0.5.
    let a = numbers(&lines[0]["advantages"]);
    assert!((a[9] - 4.5).abs() < 1e-12 && a[..9].iter().all(|x| (x + 0.5).abs() < 1e-12));
    let flat = advantage("--rule grpo --alpha 0.3 --max-at-k 900", &input).lines();
    assert!(flat[0].get("tail").is_none());
    assert_eq!(numbers(&flat[1]["advantages"])[0], -4.5);
}

#[test]
fn rewards_that_a_rule_does_not_take_are_refused() {
    let good = "{\"rewards\": [0, 1, 1, 0]}\n";
    for (rule, line, part) in [
        (
            "max-rl",
            "[0, 2, -0.5, 1]",
            "the reward of sample 2 is -0.5: the rule max-rl takes rewards of at least 0",
        ),
        (
            "pass-at-k",
            "[0, 2, 1, 1]",
            "the reward of sample 1 is 2: the rule pass-at-k takes rewards of 0 or 1",
        ),
    ] {
        let input = format!("{good}{{\"rewards\": {line}}}\n");
        advantage(&format!("--rule {rule}"), &input).refused(&["standard input:2", part]);
        assert_eq!(advantage(&format!("--rule {rule}"), good).lines().len(), 1);
    }
    let two = "{\"rewards\": [0, 1]}\n";
    advantage("--rule entropic", two).refused(&["--max-advantage"]);
    let capped = advantage("--rule entropic --max-advantage 9", two).lines();
    assert_eq!(numbers(&capped[0]["advantages"]), [-1.0, 9.0]);
}

#[test]
fn advantages_are_scaled_over_their_group_or_the_whole_input() {
    let input = "{\"rewards\": [1, -1]}\n{\"rewards\": [7, 1]}\n{\"rewards\": [5, 5]}\n";
    let of = |scale: &str| -> Vec<f64> {
        let run = advantage(&format!("--rule grpo --scale-advantages {scale}"), input);
        let lines = run.lines();
        lines.iter().flat_map(|l| numbers(&l["advantages"])).collect()
    };
    assert_eq!(of("none"), [1.0, -1.0, 3.0, -3.0, 0.0, 0.0]);
    assert_eq!(of("group"), [1.0, -1.0, 1.0, -1.0, 0.0, 0.0]);
    let rms = (20.0f64 / 6.0).sqrt();
    let near = |(a, b): (&f64, f64)| (a - b / rms).abs() < 1e-15;
    assert!(of("batch").iter().zip([1.0, -1.0, 3.0, -3.0, 0.0, 0.0]).all(near));
    advantage("--rule grpo --scale-advantages all", input).refused(&["none, group, batch"]);
}

#[test]
fn the_help_of_training_names_every_rule() {
    let help = tea(&["train", "--help"]).out;
    for rule in tea_wgpu::advantage::Rule::ALL {
        let named = help.contains(&format!("- {rule}:"));
        assert_eq!(named, rule.trains(), "{rule}: {help}");
    }
    tea(&["train", "--advantage", "best", "--output", "x"]).refused(&["best", "tea", "pkpo"]);
}

#[test]
fn cat_bon_takes_n_only_when_it_is_given() {
    let input = "{\"rewards\": [0, 1, 2, 3, 4, 5, 6, 7]}";
    let plain = advantage("--rule cat-bon", input).lines();
    assert_eq!(plain, advantage("--rule cat-bon --bon 8", input).lines());
    assert_ne!(plain, advantage("--rule cat-bon --bon 128", input).lines());
    let oracle = advantage("--rule oracle", input).lines();
    assert_eq!(oracle, advantage("--rule oracle --bon 128", input).lines());
}

#[test]
fn chows_split_follows_the_seed_or_the_line() {
    let rewards = "[0.5, 1.5, -1, 2, 0.25, 3, 1, 0]";
    let input = format!("{{\"rewards\": {rewards}}}\n").repeat(6);
    let first = advantage("--rule chow", &input).lines();
    assert_eq!(first, advantage("--rule chow --seed 1", &input).lines());
    assert_ne!(first, advantage("--rule chow --seed 2", &input).lines());
    // Each line has its own split.
    assert!(first.iter().any(|l| l["advantages"] != first[0]["advantages"]));
    let fixed = format!("{{\"rewards\": {rewards}, \"selection\": [5, 0]}}\n");
    let one = advantage("--rule chow --seed 1", &fixed).lines();
    assert_eq!(one, advantage("--rule chow --seed 2", &fixed).lines());
    let a = numbers(&one[0]["advantages"]);
    assert!((a[5] - 8.0 * (3.0 - 0.90625)).abs() < 1e-12 && a[0] == 0.0 && a[3] > 0.0);
}

#[test]
fn files_are_read_and_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let input = jsonl(
        dir.path(),
        [
            json!({"id": 1, "rewards": [1, 2, 4]}),
            json!({"id": 2, "rewards": [3, 3, 3]}),
        ],
    );
    let output = dir.path().join("out.jsonl");
    let args = [
        "advantage",
        "--rule",
        "bon-max-second",
        "--input",
        text(&input),
        "--output",
        text(&output),
    ];
    let run = tea(&args);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
    assert!(run.err.contains("1 of 2 groups give no signal"), "{}", run.err);
    let written = std::fs::read_to_string(&output).unwrap();
    assert_eq!(
        written,
        "{\"id\":1,\"advantages\":[0.0,0.0,2.0]}\n{\"id\":2,\"advantages\":[0.0,0.0,0.0]}\n"
    );
    // A bad line leaves the older output alone.
    let input = jsonl(
        dir.path(),
        [json!({"id": 1, "rewards": [1, 2]}), json!({"rewards": [1]})],
    );
    let args = [
        "advantage",
        "--rule",
        "grpo",
        "--input",
        text(&input),
        "--output",
        text(&output),
    ];
    tea(&args).refused(&["in.jsonl:2", "group size is 1"]);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), written);
}

#[test]
fn bad_lines_and_settings_are_refused() {
    let good = "{\"rewards\": [1, 2, 3, 4]}\n";
    for (line, parts) in [
        (
            "{\"rewards\": [1, NaN]}",
            &[":2", "\"rewards\"[1]", "found NaN"][..],
        ),
        ("{\"rewards\": [1, 1e999]}", &[":2"]),
        (
            "{\"rewards\": [1, \"2\"]}",
            &[":2", "\"rewards\"[1]", "finite number"],
        ),
        ("{\"rewards\": [1, null]}", &[":2", "\"rewards\"[1]"]),
        ("{\"rewards\": 3}", &[":2", "\"rewards\" must be a list"]),
        ("{\"reward\": [1, 2]}", &[":2", "missing field \"rewards\""]),
        ("{\"rewards\": []}", &[":2", "group size is 0"]),
        ("{\"rewards\": [1]}", &[":2", "group size is 1"]),
        ("{\"rewards\": [1e308, -1e308]}", &[":2", "overflows"]),
        ("{\"id\": [1], \"rewards\": [1, 2]}", &[":2", "\"id\""]),
        ("[1, 2]", &[":2", "an array"]),
        ("{\"rewards\": [1, 2]", &[":2", "malformed JSON"]),
        ("{\"rewards\": [1, 2], \"selection\": [2]}", &[":2", "index 2"]),
        ("{\"rewards\": [1, 2], \"selection\": [0, 0]}", &[":2", "twice"]),
        ("{\"rewards\": [1, 2], \"selection\": [0, 1]}", &[":2", "2 of 2"]),
        ("{\"rewards\": [1, 2], \"selection\": []}", &[":2", "0 of 2"]),
        (
            "{\"rewards\": [1, 2], \"selection\": [-1]}",
            &[":2", "\"selection\"[0]"],
        ),
        (
            "{\"rewards\": [1, 2], \"selection\": [0.5]}",
            &[":2", "\"selection\"[0]"],
        ),
    ] {
        let run = advantage("--rule chow", &format!("{good}{line}\n"));
        run.refused(&[&["standard input"], parts].concat());
        assert_eq!(run.out, "");
    }
    for (flags, parts) in [
        ("--rule tea --bon 4", &["N = 4", "at least 8", "--bon"][..]),
        ("--rule tea --bon 1", &["--bon"]),
        ("--rule tea --alpha 0.6", &["--alpha", "0.6"]),
        ("--rule prefix-tea", &["group of 4", "at least 11 "]),
        ("--rule prefix-tea --alpha 1/2 --prefixes 3", &["at least 7 "]),
        ("--rule bon-mean --max-at-k 5", &["--max-at-k is 5", "1 to 4"]),
        ("--rule pkpo --max-at-k 1", &["--max-at-k is 1", "2 to 4"]),
        (
            "--rule chow --selection-size 4",
            &["--selection-size is 4", "1 to 3"],
        ),
        ("--rule best", &["best", "prefix-tea", "oracle"]),
        ("", &["--rule"]),
    ] {
        advantage(flags, good).refused(parts);
    }
    advantage("--rule grpo", "\n").refused(&["no records"]);
    tea(&["advantage", "--rule", "grpo", "--input", "nowhere.jsonl"]).refused(&["nowhere.jsonl"]);
}

#[test]
fn gaussian_fallbacks_are_counted() {
    // 64 evenly spread rewards are fitted; 12 have 2 above the threshold; one far above all others has no shape below 1/2.
    let spread: Vec<f64> = (0..64).map(f64::from).collect();
    let mut outlier = spread.clone();
    outlier[7] = 1e6;
    let rows = [&spread[..], &spread[..12], &outlier[..], &[1.0; 64]];
    let input: String = rows
        .iter()
        .map(|r| json!({"rewards": r}).to_string() + "\n")
        .collect();
    let run = advantage("--rule tea-gpd --gpd-shrinkage 0", &input);
    assert_eq!(run.lines().len(), 4);
    assert!(
        run.err.contains("2 of 4 groups fell back to the Gaussian tail"),
        "{}",
        run.err
    );
    assert!(run.err.contains("1 of 4 groups give no signal"), "{}", run.err);
    // Where it stood in, the advantages are TEA's.
    let tea = advantage("--rule tea", &input);
    assert!(!tea.err.contains("fell back"), "{}", tea.err);
    for (i, same) in [(0, false), (1, true), (2, true), (3, true)] {
        assert_eq!(
            run.lines()[i]["advantages"] == tea.lines()[i]["advantages"],
            same,
            "line {i}"
        );
    }
    let fitted = advantage("--rule tea-gpd", &json!({"rewards": spread}).to_string());
    assert!(!fitted.err.contains("fell back"), "{}", fitted.err);
}

/// Ids are names: whatever their size, every digit comes back.
#[test]
fn ids_keep_their_digits() {
    let ids = [
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "340282366920938463463374607431768211457",
        "1.10",
        "123456789.123456789123456789",
        "\"0012\"",
    ];
    let mut lines = String::new();
    for id in ids {
        writeln!(lines, "{{\"id\": {id}, \"rewards\": [1.0, 2.5, 0.0, 4.0]}}").unwrap();
    }
    let run = advantage("--rule grpo", &lines);
    assert_eq!(run.code, 0, "{}", run.err);
    for (line, id) in run.out.lines().zip(ids) {
        assert!(
            line.starts_with(&format!("{{\"id\":{id},\"advantages\":")),
            "{line}"
        );
    }
}
