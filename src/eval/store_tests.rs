#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;

fn meta(prompts: usize, samples: usize, also: bool) -> EvalMeta {
    EvalMeta {
        version: VERSION,
        model: "m".into(),
        adapter: None,
        reward_model: "r".into(),
        reward_adapter: None,
        also_reward: also.then(|| "s".into()),
        also_reward_adapter: None,
        prompts_file: "p.jsonl".into(),
        prompts_sha256: String::new(),
        num_prompts: prompts,
        samples,
        seed: u64::MAX,
        temperature: 0.7,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        max_completion_length: 8,
        raw: false,
        template_date: None,
        matmul_precision: Default::default(),
        kv_cache_dtype: Default::default(),
        base_dtype: None,
        reward_dtype: None,
        also_reward_dtype: None,
        step: None,
        run: None,
        weights_sha256: [("adapter".to_string(), "00ff".to_string())].into(),
    }
}

fn lines<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for row in rows {
        writeln!(text, "{}", serde_json::to_string(&row).unwrap()).unwrap();
    }
    text
}

fn completion(prompt_index: usize, sample: usize) -> StoredCompletion {
    StoredCompletion {
        prompt_index,
        sample,
        text: format!("{prompt_index} {sample}\n"),
        tokens: sample + 1,
        finish_reason: if sample == 0 { Finish::Length } else { Finish::Stop },
        reward: 0.1 + prompt_index as f64 - sample as f64 / 3.0,
        also_reward: Some(sample as f64),
    }
}

/// Writes an evaluation of 3 prompts with 2 samples; `edit` changes the text of its completions.
fn write(dir: &Path, edit: impl Fn(String) -> String) {
    fs::write(
        StoredEval::meta_path(dir),
        serde_json::to_string(&meta(3, 2, true)).unwrap(),
    )
    .unwrap();
    let contents = [
        PromptContent::Text("a".into()),
        PromptContent::Messages(vec![Message::user("b")]),
        PromptContent::Text("c".into()),
    ];
    let prompts = (0..3).map(|i| StoredPrompt::new(i, Value::Null, &contents[i]));
    fs::write(StoredEval::prompts_path(dir), lines(prompts)).unwrap();
    let completions = (0..6).map(|i| completion(i / 2, i % 2));
    fs::write(StoredEval::completions_path(dir), edit(lines(completions))).unwrap();
}

fn refused(dir: &Path, parts: &[&str]) {
    let error = StoredEval::read(dir).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} not in {error}");
    }
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), |text| text);
    let eval = StoredEval::read(dir.path()).unwrap();
    assert_eq!(eval.meta, meta(3, 2, true));
    assert_eq!(
        eval.prompts[1].content(),
        PromptContent::Messages(vec![Message::user("b")])
    );
    assert_eq!(eval.prompts[2].key, PromptContent::Text("c".into()).key());
    assert_eq!(eval.rewards()[2], [2.1, 0.1 + 2.0 - 1.0 / 3.0], "to the bit");
    assert_eq!(eval.also_rewards().unwrap(), [[0.0, 1.0]; 3]);
    assert_eq!((eval.mean_length(), eval.truncated_ratio()), (1.5, 0.5));
    let named = read_rewards(dir.path()).unwrap();
    assert_eq!(
        named[0],
        (PromptContent::Text("a".into()).key(), eval.rewards()[0].clone())
    );
}

#[test]
fn an_evaluation_of_an_older_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), |text| text);
    let path = StoredEval::meta_path(dir.path());
    let mut old: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(old["weights_sha256"]["adapter"], "00ff");
    old.as_object_mut().unwrap().remove("weights_sha256");
    fs::write(&path, old.to_string()).unwrap();
    assert_eq!(StoredEval::read(dir.path()).unwrap().meta.sha256("adapter"), None);
}

#[test]
fn a_torn_file_keeps_its_whole_prompts() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), |text| text);
    let whole = fs::read(StoredEval::completions_path(dir.path())).unwrap();
    let ends: Vec<usize> = (0..whole.len())
        .filter(|&i| whole[i] == b'\n')
        .map(|i| i + 1)
        .collect();
    for cut in 0..=whole.len() {
        fs::write(StoredEval::completions_path(dir.path()), &whole[..cut]).unwrap();
        let partial = StoredEval::read_partial(dir.path()).unwrap();
        // A line that lacks only its end is whole.
        let prompts = ends.iter().filter(|&&end| end - 1 <= cut).count() / 2;
        let bytes = if prompts == 0 {
            0
        } else {
            ends[2 * prompts - 1].min(cut)
        };
        assert_eq!(
            (partial.eval.completions.len(), partial.upto.bytes),
            (prompts, bytes as u64),
            "cut at {cut}"
        );
    }
    fs::write(
        StoredEval::completions_path(dir.path()),
        &whole[..whole.len() - 1],
    )
    .unwrap();
    StoredEval::read(dir.path()).unwrap();
    fs::write(
        StoredEval::completions_path(dir.path()),
        &whole[..whole.len() - 2],
    )
    .unwrap();
    refused(dir.path(), &["2 of 3 prompts", "--resume"]);
    fs::remove_file(StoredEval::completions_path(dir.path())).unwrap();
    refused(dir.path(), &["0 of 3 prompts"]);
}

#[test]
fn a_damaged_evaluation_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["no evaluation", "eval.json"]);
    let swap = |from: &'static str, to: &'static str| move |text: String| text.replacen(from, to, 1);
    write(
        dir.path(),
        swap(
            "\"prompt_index\":1,\"sample\":0",
            "\"prompt_index\":1,\"sample\":5",
        ),
    );
    refused(dir.path(), &["completions.jsonl:3", "prompt 1, sample 0"]);
    write(dir.path(), swap("\"reward\":0.1", "\"reward\":null"));
    refused(dir.path(), &["completions.jsonl:1", "finite"]);
    write(dir.path(), swap(",\"also_reward\":1.0", ""));
    refused(dir.path(), &["completions.jsonl:2", "lacks"]);
    write(dir.path(), |text| text + "{}\n");
    refused(dir.path(), &["completions.jsonl:7"]);
    write(dir.path(), |text| {
        text.clone() + text.lines().next().unwrap() + "\n"
    });
    refused(dir.path(), &["completions.jsonl:7", "more completions"]);
    write(dir.path(), |text| text);
    fs::write(StoredEval::prompts_path(dir.path()), "").unwrap();
    refused(dir.path(), &["prompts.jsonl", "0 prompts"]);
    // Numbers that something would be allocated by.
    for (from, to, parts) in [
        (
            "\"samples\":2",
            "\"samples\":1099511627776",
            ["eval.json", "--samples is 1099511627776"],
        ),
        (
            "\"samples\":2",
            "\"samples\":18446744073709551615",
            ["eval.json", "--samples is 18446744073709551615"],
        ),
        (
            "\"num_prompts\":3",
            "\"num_prompts\":9223372036854775808",
            ["eval.json", "--num-prompts"],
        ),
        (
            "\"max_completion_length\":8",
            "\"max_completion_length\":4294967296",
            ["eval.json", "--max-completion-length"],
        ),
        (
            "\"temperature\":0.7",
            "\"temperature\":1e38",
            ["eval.json", "--temperature"],
        ),
    ] {
        write(dir.path(), |text| text);
        let path = StoredEval::meta_path(dir.path());
        let meta = serde_json::to_string(&meta(3, 2, true)).unwrap();
        assert!(meta.contains(from), "{meta}");
        fs::write(path, meta.replacen(from, to, 1)).unwrap();
        refused(dir.path(), &parts);
    }
    fs::write(StoredEval::meta_path(dir.path()), "{\"version\":9}").unwrap();
    refused(dir.path(), &["version 9"]);
}

#[test]
fn rewards_are_read_from_jsonl() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.jsonl");
    fs::write(
        &path,
        "{\"id\":\"x\",\"rewards\":[1,2.5]}\n{\"rewards\":[3]}\n{\"id\":7,\"rewards\":[4]}\n",
    )
    .unwrap();
    let named = read_rewards(&path).unwrap();
    let want = [("x", vec![1.0, 2.5]), ("2", vec![3.0]), ("7", vec![4.0])];
    assert_eq!(named, want.map(|(n, r)| (n.to_string(), r)));
    for (bad, what) in [
        ("{\"rewards\":[]}", "at least one"),
        ("{\"rewards\":[1,null]}", "[1]"),
        (
            "{\"rewards\":[1e999]}",
            "\"rewards\"[0] must be a finite number, found Infinity",
        ),
        (
            "{\"rewards\":[NaN]}",
            "\"rewards\"[0] must be a finite number, found NaN",
        ),
        ("{\"id\":1}", "rewards"),
    ] {
        fs::write(&path, bad).unwrap();
        let error = read_rewards(&path).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("r.jsonl:1"),
            "{error}"
        );
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(read_rewards(&dir.path().join("none")).unwrap_err().exit_code(), 2);
}
