//! `prepare`: what it writes, and what it refuses.

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/prepare")
        .join(name)
}

#[test]
fn files_and_manifest_appear_together_and_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let (a, b) = (fixture("ultrafeedback.parquet"), fixture("hh-rlhf.jsonl"));
    let base = ["prepare", "--input", text(&a), text(&b), "--output", text(&out)];
    let with = |more: &[&'static str]| {
        tea(&base
            .iter()
            .copied()
            .chain(more.iter().copied())
            .collect::<Vec<_>>())
    };
    let flags = ["--validation", "0.1", "--heldout", "4", "--core", "2,3"];
    let run = with(&flags);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(
        run.out.contains("13 prompts") && run.out.contains("prompts-core3.jsonl"),
        "{}",
        run.out
    );
    assert!(
        run.err.contains("2 rows left out") || run.err.contains("1 rows left out"),
        "{}",
        run.err
    );
    let manifest: Value = serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    for file in manifest["outputs"].as_array().unwrap() {
        let bytes = std::fs::read(out.join(file["file"].as_str().unwrap())).unwrap();
        assert_eq!(file["sha256"], tea_wgpu::text::sha256_hex(&bytes));
    }
    // A used directory is left alone; --overwrite replaces what prepare wrote, and nothing else.
    with(&flags).refused(&["is not empty", "--overwrite"]);
    let again = with(&[&flags[..], &["--overwrite"]].concat());
    assert_eq!(again.code, 0, "{}", again.err);
    let second: Value = serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, second);
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    with(&["--overwrite"]).refused(&["notes.txt", "--output"]);
    assert_eq!(std::fs::read(out.join("notes.txt")).unwrap(), b"mine");
    std::fs::remove_file(out.join("manifest.json")).unwrap();
    with(&["--overwrite"]).refused(&["no manifest.json"]);
}

#[test]
fn what_others_wrote_stays() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let put = |name: &str, contents: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), contents).unwrap();
    };
    let hh = fixture("hh-rlhf.jsonl");
    let run = |output: &str| {
        let output = at(output);
        tea(&[
            "prepare",
            "--input",
            text(&hh),
            "--output",
            text(&output),
            "--overwrite",
        ])
    };
    // A manifest of another program, which names its own files.
    put(
        "site/manifest.json",
        r#"{"inputs": [], "outputs": [{"file": "app.js"}]}"#,
    );
    put("site/app.js", "mine");
    run("site").refused(&["is not empty", "no manifest.json"]);
    assert_eq!(std::fs::read(at("site/app.js")).unwrap(), b"mine");
    // Names that an interrupted prepare would leave.
    for beside in [".tmp-data", ".old-data"] {
        put(&format!("{beside}/notes.txt"), "mine");
        run("data").refused(&[beside, "not written by this program"]);
        assert_eq!(std::fs::read(at(beside).join("notes.txt")).unwrap(), b"mine");
        std::fs::remove_dir_all(at(beside)).unwrap();
        put(&format!("{beside}/prompts-train.jsonl"), "half");
        assert_eq!(run("data").code, 0);
        assert!(!at(beside).exists());
    }
    #[cfg(unix)]
    {
        std::fs::create_dir(at("disk")).unwrap();
        std::os::unix::fs::symlink(at("disk"), at("link")).unwrap();
        assert_eq!(run("link").code, 0);
        assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert!(at("disk/manifest.json").exists());
    }
}

#[test]
fn wrong_flags_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let hh = fixture("hh-rlhf.jsonl");
    let run = |input: &Path, more: &[&str]| {
        let base = ["prepare", "--input", text(input), "--output", text(&out)];
        tea(&base.iter().chain(more).copied().collect::<Vec<_>>())
    };
    run(&hh, &["--validation", "1.5"]).refused(&["--validation", "1.5"]);
    run(&hh, &["--heldout", "x"]).refused(&["--heldout", "\"x\""]);
    for count in ["18446744073709551615", "4294967296"] {
        run(&hh, &["--validation", count]).refused(&["--validation", count, "at most 4294967295"]);
    }
    let most = ["--validation", "4294967295", "--heldout", "4294967295"];
    run(&hh, &most).refused(&["--heldout 4294967295", "different prompts"]);
    run(&hh, &["--heldout", "100"]).refused(&["--heldout 100", "different prompts"]);
    run(&hh, &["--heldout", "2", "--core", "5"]).refused(&["--core 5"]);
    run(&hh, &["--format", "csv"]).refused(&["--format", "csv"]);
    run(&hh, &["--format", "ultrafeedback"]).refused(&["hh-rlhf.jsonl", "no row", "instruction"]);
    run(&hh, &["--disjoint-from", text(&hh)]).refused(&["hh-rlhf.jsonl", "row 1", "--exclude"]);
    run(&hh, &["--exclude", "nowhere.jsonl"]).refused(&["nowhere.jsonl"]);
    run(Path::new("nowhere.parquet"), &[]).refused(&["nowhere.parquet", "check the path"]);
    let torn = dir.path().join("torn.parquet");
    let bytes = std::fs::read(fixture("binarized.parquet")).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    run(&torn, &[]).refused(&["torn.parquet", "Parquet", "download it again"]);
    assert!(!out.exists());
}
