//! The demo's commands as a user calls them: what they write, that it is the same every time, and what they refuse.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tea_wgpu::demo::{Preference, SampledGroup, score};

fn tea(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
        .args(args)
        .output()
        .unwrap()
}

/// Runs a command that must succeed; its standard output.
fn done(args: &[&str]) -> String {
    let out = tea(args);
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Every file under a directory, by its path within it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            found.extend(
                files(&path)
                    .into_iter()
                    .map(|(n, bytes)| (format!("{name}/{n}"), bytes)),
            );
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

fn lines<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect()
}

/// A model small enough for a debug build.
const SMALL: [&str; 14] = [
    "--hidden-size",
    "32",
    "--intermediate-size",
    "48",
    "--layers",
    "2",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--head-dim",
    "16",
    "--train",
    "24",
];

#[test]
fn demo_data_writes_the_same_bytes_for_a_seed_and_others_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, seed: &str| {
        let path = dir.path().join(name);
        let mut args = vec![
            "demo-data",
            "--output",
            path.to_str().unwrap(),
            "--seed",
            seed,
            "--noise",
            "0.5",
        ];
        args.extend(SMALL);
        args.extend(["--validation", "12", "--held-out", "12"]);
        done(&args);
        files(&path)
    };
    let a = write("a", "1");
    let names: Vec<&str> = a.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "init/config.json",
            "init/generation_config.json",
            "init/model.safetensors",
            "init/tokenizer.json",
            "init/tokenizer_config.json",
            "preferences-validation.jsonl",
            "preferences.jsonl",
            "prompts-held-out.jsonl",
            "prompts-train.jsonl",
            "prompts-validation.jsonl",
            "sft.jsonl",
            "tea-wgpu.json"
        ]
    );
    assert_eq!(a, write("b", "1"));
    let other = write("c", "2");
    for name in [
        "init/model.safetensors",
        "sft.jsonl",
        "preferences.jsonl",
        "prompts-held-out.jsonl",
    ] {
        assert_ne!(a[name], other[name], "{name}");
    }
    assert_eq!(lines::<Value>(&a["prompts-train.jsonl"]).len(), 24);
    assert_eq!(lines::<Value>(&a["prompts-held-out.jsonl"]).len(), 12);
    let sft: Vec<Value> = lines(&a["sft.jsonl"]);
    let right =
        |v: &&Value| score(v["prompt"].as_str().unwrap(), v["response"].as_str().unwrap()).unwrap() == 1.0;
    let share = sft.iter().filter(right).count();
    assert!((4..=20).contains(&share), "{share} of 24 right at half noise");
    for pair in lines::<Preference>(&a["preferences.jsonl"]) {
        assert!(score(&pair.prompt, &pair.chosen).unwrap() > score(&pair.prompt, &pair.rejected).unwrap());
    }
}

#[test]
fn preferences_come_from_what_the_policy_writes() {
    let dir = tempfile::tempdir().unwrap();
    let sampled = dir.path().join("sampled").to_str().unwrap().to_string();
    done(&[
        "demo-data",
        "--output",
        &sampled,
        "--samples-from",
        "tiny",
        "--train",
        "24",
        "--validation",
        "6",
        "--samples",
        "5",
    ]);
    let found = files(Path::new(&sampled));
    let groups: Vec<SampledGroup> = lines(&found["samples.jsonl"]);
    assert_eq!(groups.len(), 30);
    assert!(groups.iter().all(|g| g.responses.len() == 5));
    // The policy keeps its variety.
    assert!(
        groups
            .iter()
            .filter(|g| g.responses.iter().any(|r| *r != g.responses[0]))
            .count()
            > 20
    );
    let pairs: Vec<Preference> = lines(&found["preferences.jsonl"]);
    let own = |p: &&Preference| {
        groups
            .iter()
            .any(|g| g.prompt == p.prompt && g.responses.contains(&p.rejected))
    };
    let from_samples = pairs.iter().filter(own).count();
    assert!(
        from_samples > 0 && from_samples < pairs.len(),
        "{from_samples} of {}",
        pairs.len()
    );
    for pair in &pairs {
        assert!(score(&pair.prompt, &pair.chosen).unwrap() > score(&pair.prompt, &pair.rejected).unwrap());
    }
}

#[test]
fn settings_out_of_range_name_their_flag() {
    for (flag, value) in [
        ("--noise", "1.5"),
        ("--samples", "0"),
        ("--train", "0"),
        ("--head-dim", "15"),
        ("--kv-heads", "3"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let out = tea(&["demo-data", "--output", path.to_str().unwrap(), flag, value]);
        let message = String::from_utf8_lossy(&out.stderr).replace('_', "-");
        assert_eq!(out.status.code(), Some(2), "{flag}: {message}");
        let named = message.contains(flag)
            || message.contains(flag.trim_start_matches('-'))
            || message.contains("num-key-value-heads");
        assert!(named, "{flag}: {message}");
        assert!(!path.exists(), "{flag}: something was written");
    }
}

/// The embedded policy has room to climb: some samples exactly right, best-of-64 well below the maximum and still rising.
#[test]
fn the_embedded_policy_has_headroom() {
    let text = done(&["demo", "--evaluate-only", "tiny", "--prompts", "60"]);
    let all = text
        .lines()
        .find(|l| l.trim_start_matches(['|', ' ']).starts_with("all"))
        .unwrap();
    let numbers: Vec<f64> = all.split('|').filter_map(|c| c.trim().parse().ok()).collect();
    let [exact, .., bo32, bo64] = numbers[..] else {
        panic!("{all}")
    };
    assert_eq!(numbers.len(), 8, "{all}");
    assert!((0.02..=0.15).contains(&exact), "exactly right: {exact}");
    assert!(
        (0.5..=0.85).contains(&bo64) && bo64 > bo32 + 0.01,
        "bo32 {bo32}, bo64 {bo64}"
    );
}
