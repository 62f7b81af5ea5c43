//! `diagnose synthetic`, `laws`, `tails` and `distribution`: tables, files, and what they refuse.

use serde_json::{Value, json};

use super::{Run, tea};

/// A file of rewards: `prompts` prompts named p0, p1, … with `n` rewards each, near normal, the second file's shifted.
fn rewards(path: &std::path::Path, prompts: usize, n: usize, shift: f64) {
    let mut text = String::new();
    let mut state = 88_172_645_463_325_252_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    for p in 0..prompts {
        let rewards: Vec<f64> = (0..n)
            .map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0 + shift)
            .collect();
        text += &format!("{}\n", json!({"id": format!("p{p}"), "rewards": rewards}));
    }
    std::fs::write(path, text).unwrap();
}

fn done(run: &Run) {
    assert_eq!(run.code, 0, "{}", run.err);
}

fn read(path: std::path::PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn synthetic_prints_writes_and_repeats() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let go = |name: &str| {
        tea(&[
            "diagnose",
            "synthetic",
            "--sizes",
            "256",
            "--replicates",
            "200",
            "--output",
            &out(name),
        ])
    };
    let first = go("a");
    done(&first);
    for part in [
        "tea-plug-in",
        "prefix-tea-3",
        "tea-trained",
        "MSE, B = 100000",
        "Table 15",
        "0.015",
    ] {
        assert!(first.out.contains(part), "{part}: {}", first.out);
    }
    done(&go("b"));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    assert_eq!(read(a.join("synthetic.json")), read(b.join("synthetic.json")));
    let found = read(a.join("synthetic.json"));
    // E[ψ·(tanh r, sin r)] at α = 0.1, N = 128, by an independent quadrature.
    assert!(
        (found["truth"][0].as_f64().unwrap() - 0.338_777).abs() < 1e-5,
        "{}",
        found["truth"]
    );
    for plot in [
        "synthetic_bias.svg",
        "synthetic_bias.png",
        "synthetic_mse.svg",
        "synthetic_mse.png",
    ] {
        assert!(a.join(plot).metadata().unwrap().len() > 1000, "{plot}");
    }
    tea(&["diagnose", "synthetic", "--sizes", "40"]).refused(&["--sizes holds 40", "too small"]);
    tea(&["diagnose", "synthetic", "--bon", "4"]).refused(&["N = 4"]);
    tea(&["diagnose", "synthetic", "--replicates", "1"]).refused(&["'1' for '--replicates <", "from 2 to"]);
}

#[test]
fn laws_compare_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = [
        "diagnose",
        "laws",
        "--law",
        "uniform,gumbel",
        "--sizes",
        "64",
        "--draws",
        "6400",
        "--format",
        "csv",
    ];
    let run = tea(&[&args[..], &["--output", out]].concat());
    done(&run);
    assert_eq!(run.out.lines().count(), 1 + 2 * 3, "{}", run.out);
    assert!(run.out.starts_with("law,m,rule,"), "{}", run.out);
    assert_eq!(
        read(dir.path().join("laws.json"))["rows"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert!(dir.path().join("laws_gumbel.svg").exists());
    tea(&[
        "diagnose", "laws", "--draws", "60", "--sizes", "64", "--output", out,
    ])
    .refused(&["--draws 60"]);
    tea(&["diagnose", "laws", "--sizes", "1", "--output", out])
        .refused(&["'1' for '--sizes <M", "from 2 to"]);
}

#[test]
fn tails_and_distribution_of_reward_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    rewards(&dir.path().join("base.jsonl"), 12, 256, 0.0);
    rewards(&dir.path().join("tea.jsonl"), 12, 256, 0.5);
    let (base, tea_file, out) = (path("base.jsonl"), path("tea.jsonl"), path("out"));

    let run = tea(&["diagnose", "tails", &base, &tea_file, "--output", &out]);
    done(&run);
    assert!(
        run.out.contains("base.jsonl") && run.out.contains("normal samples"),
        "{}",
        run.out
    );
    let found = read(dir.path().join("out/tails.json"));
    // Sums of twelve uniforms are near normal: their R² are those of normal samples.
    let median = |key: &str| found["evals"][0][key]["median"].as_f64().unwrap();
    assert!((median("r2") - median("gaussian")).abs() < 0.03, "{found}");
    assert!(dir.path().join("out/tails.svg").exists() && dir.path().join("out/tails.png").exists());

    let run = tea(&[
        "diagnose",
        "distribution",
        &base,
        &tea_file,
        "--points",
        "64",
        "--output",
        &out,
    ]);
    done(&run);
    let found = read(dir.path().join("out/distribution.json"));
    assert_eq!(found["grid"].as_array().unwrap().len(), 64);
    let mean = |i: usize| found["evals"][i]["mean"].as_f64().unwrap();
    assert!((mean(1) - mean(0) - 0.5).abs() < 1e-9);
    assert!(dir.path().join("out/distribution.svg").exists());
}

#[test]
fn bad_reward_files_are_refused_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let out = path("out");
    rewards(&dir.path().join("good.jsonl"), 3, 64, 0.0);
    rewards(&dir.path().join("short.jsonl"), 3, 8, 0.0);
    rewards(&dir.path().join("fewer.jsonl"), 2, 64, 0.0);
    std::fs::write(
        dir.path().join("nan.jsonl"),
        "{\"id\":1,\"rewards\":[0.5,1.0]}\n{\"id\":2,\"rewards\":[0.5,NaN]}\n",
    )
    .unwrap();
    std::fs::write(
        dir.path().join("null.jsonl"),
        "{\"id\":1,\"rewards\":[0.5,null]}\n",
    )
    .unwrap();
    for which in ["tails", "distribution"] {
        let refused = |file: &str, parts: &[&str]| {
            tea(&["diagnose", which, &path(file), "--output", &out]).refused(parts);
        };
        refused("nan.jsonl", &["nan.jsonl:2"]);
        refused("null.jsonl", &["null.jsonl:1", "finite number"]);
        refused("absent.jsonl", &["absent.jsonl"]);
        tea(&["diagnose", which, "--output", &out]).refused(&["EVAL"]);
    }
    tea(&["diagnose", "tails", &path("short.jsonl"), "--output", &out]).refused(&[
        "short.jsonl",
        "p0",
        "at least",
    ]);
    tea(&[
        "diagnose",
        "tails",
        &path("good.jsonl"),
        "--from",
        "0.9",
        "--to",
        "0.8",
        "--output",
        &out,
    ])
    .refused(&["--from"]);
    tea(&[
        "diagnose",
        "distribution",
        &path("good.jsonl"),
        &path("fewer.jsonl"),
        "--output",
        &out,
    ])
    .refused(&["good.jsonl", "fewer.jsonl", "same prompts", "3 and 2"]);
    assert!(
        !dir.path().join("out").exists(),
        "nothing is written for refused input"
    );
}
