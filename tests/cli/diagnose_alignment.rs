//! `diagnose alignment` on the embedded models: what it writes, that resuming computes nothing again, and what it refuses.

use super::*;

fn align(dir: &Path, more: &[&str]) -> Run {
    let dir = text(dir);
    let mut args = vec![
        "diagnose",
        "alignment",
        "--num-prompts",
        "2",
        "--samples",
        "12",
        "--group-sizes",
        "6,12",
        "--seeds",
        "2",
        "--rules",
        "tea,grpo,oracle",
        "--output",
        dir,
    ];
    args.extend(more);
    tea(&args)
}

#[test]
fn alignment_is_measured_stored_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a");
    let run = align(&out, &["--json"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let found: Value = serde_json::from_str(&run.out).unwrap();
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 6);
    for cell in cells {
        let cosine = cell["cosine"].as_f64().unwrap();
        let share = 1.0 - cell["no_signal"].as_f64().unwrap();
        assert!(
            (0.0..=1.0).contains(&share) && cell["cosine_with_zeros"].is_number(),
            "{cell}"
        );
        assert!((-1.0..=1.0 + 1e-6).contains(&cosine), "{cell}");
    }
    let own = cells
        .iter()
        .find(|c| c["rule"] == "oracle" && c["m"] == 12)
        .unwrap();
    assert!(
        (own["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-6,
        "the whole pool is the oracle's own: {own}"
    );
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 4, "tea and the oracle against grpo");
    assert!(differences.iter().all(|d| d["with_zeros"]["low"].is_number()));
    for file in [
        "alignment.json",
        "alignment.svg",
        "alignment.png",
        "settings.json",
        "samples.jsonl",
    ] {
        assert!(out.join(file).exists(), "{file}");
    }

    // One Gram matrix and half of the last pool are lost: the same numbers again.
    std::fs::remove_file(out.join("gram/prompt_1.safetensors")).unwrap();
    let samples = std::fs::read(out.join("samples.jsonl")).unwrap();
    std::fs::write(out.join("samples.jsonl"), &samples[..samples.len() - 50]).unwrap();
    let again = align(&out, &["--json", "--resume"]);
    assert_eq!((again.code, &again.out), (0, &run.out), "{}", again.err);
    assert_eq!(std::fs::read(out.join("samples.jsonl")).unwrap(), samples);

    // Other rules from what is there; a device that does not exist shows that none is needed.
    let more = align(
        &out,
        &[
            "--resume",
            "--rules",
            "bon-max-mean",
            "--device",
            "no such device",
        ],
    );
    assert_eq!(more.code, 0, "{}", more.err);
    for words in ["bon-max-mean", "m = 12", "The same with 0 for those groups", "%)"] {
        assert!(more.out.contains(words), "{words} not in {}", more.out);
    }

    align(&out, &[]).refused(&["--resume", "--overwrite"]);
    align(&out, &["--resume", "--matmul-precision", "high"]).refused(&["settings.json", "now it is"]);
    align(&out, &["--resume", "--seed", "2"]).refused(&["settings.json", "now it is"]);
}

#[test]
fn alignment_refuses_what_cannot_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a");
    align(&out, &["--group-sizes", "13"]).refused(&["--group-sizes 13", "--samples (12)"]);
    align(&out, &["--group-sizes", "1"]).refused(&["'1' for '--group-sizes", "from 2 to"]);
    tea(&[
        "diagnose",
        "alignment",
        "--num-prompts",
        "0",
        "--output",
        text(&out),
    ])
    .refused(&["'0' for '--num-prompts <N>'", "from 1 to"]);
    align(&out, &["--model", "no/such/model"]).refused(&["--reward-model"]);
    let few = jsonl(dir.path(), [json!({"prompt": "Sort: b a"})]);
    align(&out, &["--prompts", text(&few)]).refused(&["--num-prompts 2", "1 prompts"]);
    assert!(!out.exists(), "nothing is written before the flags are checked");
}
