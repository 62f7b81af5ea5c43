//! Every shape of file, deduplication, splits, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;
use crate::data::{PreferenceRecord, PromptRecord, parse_records as parse_jsonl};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/prepare")
        .join(name)
}

fn options(inputs: &[&str]) -> Options {
    Options {
        inputs: inputs.iter().map(|n| fixture(n)).collect(),
        format: Format::Auto,
        score: ScoreField::FineGrained,
        validation: Share::Count(2),
        held_out: Share::Count(3),
        core: vec![1, 2],
        exclude: Vec::new(),
        disjoint_from: Vec::new(),
        seed: 1,
    }
}

fn files(o: &Options) -> BTreeMap<String, Vec<u8>> {
    prepare(o).unwrap().files.into_iter().collect()
}

fn prompts(bytes: &[u8]) -> BTreeSet<String> {
    let records: Vec<PromptRecord> = parse_jsonl("f", bytes).unwrap();
    records.iter().map(|r| start(&r.prompt)).collect()
}

fn preferences(o: &Options) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for (name, bytes) in files(o) {
        if name.starts_with("preferences") {
            let records: Vec<PreferenceRecord> = parse_jsonl(&name, &bytes).unwrap();
            all.extend(
                records
                    .into_iter()
                    .map(|r| (start(&r.prompt), r.chosen, r.rejected)),
            );
        }
    }
    all.sort();
    all
}

#[test]
fn ultrafeedback_pairs_the_best_with_a_worse_one() {
    let o = options(&["ultrafeedback.jsonl"]);
    let made = prepare(&o).unwrap();
    let c = made.manifest.counts;
    assert_eq!((c.rows, c.prompts, c.duplicate_prompts, c.skipped), (8, 7, 1, 0));
    let pairs = preferences(&o);
    // Six prompts have completions; the first one's come twice, from two rows, with answers of their own.
    assert_eq!(pairs.len(), 7, "{pairs:?}");
    for (_, chosen, rejected) in &pairs {
        assert!(chosen.starts_with("good"), "{chosen}");
        assert!(
            rejected.starts_with("bad") || rejected.starts_with("loud"),
            "{rejected}"
        );
    }
    let overall = Options {
        score: ScoreField::Overall,
        ..o.clone()
    };
    assert!(preferences(&overall).iter().all(|p| p.1.starts_with("loud")));
    // The same bytes again; another seed splits otherwise.
    assert_eq!(files(&o), files(&o));
    assert_ne!(files(&o), files(&Options { seed: 2, ..o }));
}

#[test]
fn parquet_files_give_what_their_jsonl_twins_give() {
    let (json, parquet) = (
        options(&["ultrafeedback.jsonl"]),
        options(&["ultrafeedback.parquet"]),
    );
    let (mut a, mut b) = (files(&json), files(&parquet));
    a.remove("manifest.json");
    b.remove("manifest.json");
    assert_eq!(a, b);
    let o = options(&["binarized.parquet"]);
    let pairs = preferences(&o);
    // One pair is tied: its prompt stays.
    assert_eq!(pairs.len(), 5);
    assert!(pairs.contains(&("Question 2?".into(), "good 2".into(), "bad 2".into())));
    assert_eq!(
        prepare(&o).unwrap().manifest.inputs[0].format,
        Format::Preferences
    );
    // A conversation of one turn and a text are the same prompt.
    let both = prepare(&options(&["binarized.parquet", "ultrafeedback.parquet"])).unwrap();
    assert_eq!(both.manifest.counts.prompts, 7);
    let gzip = Options {
        validation: Share::Count(0),
        held_out: Share::Count(0),
        core: Vec::new(),
        ..options(&["gzip.parquet"])
    };
    assert_eq!(preferences(&gzip).len(), 2);
}

#[test]
fn a_shape_is_that_of_a_row_and_null_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.jsonl");
    let of = |text: &str, format: Format| {
        std::fs::write(&path, text).unwrap();
        let o = Options {
            inputs: vec![path.clone()],
            format,
            validation: Share::Count(0),
            held_out: Share::Count(0),
            core: Vec::new(),
            ..options(&[])
        };
        let made = prepare(&o).unwrap().manifest;
        (made.inputs[0].format, made.counts)
    };
    let null = "{\"prompt\": \"q0\", \"chosen\": null, \"rejected\": null}\n";
    let pairs: String = (1..10)
        .map(|i| format!("{{\"prompt\": \"q{i}\", \"chosen\": \"good\", \"rejected\": \"bad\"}}\n"))
        .collect();
    for text in [format!("{null}{pairs}"), format!("{pairs}{null}")] {
        // The row without a pair gives its prompt; where pairs are asked for it is left out.
        let (format, counts) = of(&text, Format::Auto);
        assert_eq!(
            (format, counts.prompts, counts.preferences),
            (Format::Preferences, 10, 9)
        );
        let (_, counts) = of(&text, Format::Preferences);
        assert_eq!((counts.prompts, counts.preferences, counts.skipped), (9, 9, 1));
    }
    // Sets of several shapes, put together; a row of nulls is left out.
    let text = format!(
        "{{\"prompt\": null, \"messages\": null}}\n{pairs}{}\n{}\n",
        r#"{"instruction": "u", "completions": [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1}]}"#,
        r#"{"chosen": "\n\nHuman: h\n\nAssistant: c", "rejected": "\n\nHuman: h\n\nAssistant: r"}"#,
    );
    let (_, counts) = of(&text, Format::Auto);
    assert_eq!((counts.prompts, counts.preferences, counts.skipped), (11, 11, 1));
}

#[test]
fn a_file_of_lines_gives_the_prompts_of_its_parquet_twin() {
    let of = |input: Opened| prompts::of_file(input).unwrap();
    let file = |name: &str| of(Opened::open(&fixture(name)).unwrap());
    let asked = |p: &prompts::Prompts| p.records.iter().map(|r| r.prompt.clone()).collect::<Vec<_>>();
    let parquet = file("binarized.parquet");
    let row = |i: usize, more: &str| {
        format!(
            r#"{{"id": {i}, {more} "messages": [{{"role": "user", "content": "Question {i}?"}}, {{"role": "assistant", "content": "good {i}"}}], "score_chosen": NaN}}"#
        )
    };
    let text: String = (0..6)
        .map(|i| row(i, &format!("\"prompt\": \"Question {i}?\",")) + "\n")
        .collect();
    let lines = of(Opened::of_bytes("f", text.into_bytes()).unwrap());
    assert_eq!(asked(&lines), asked(&parquet));
    // A file made for this program keeps its ids and every row; found data has each prompt once, by its key.
    assert!(!lines.found && parquet.found);
    assert_eq!(lines.records[3].id, json!(3));
    assert_eq!(
        lines.records[3].fields.keys().collect::<Vec<_>>(),
        ["score_chosen"]
    );
    let text = [row(0, ""), row(1, ""), row(0, "")].join("\n");
    let lines = of(Opened::of_bytes("f", text.into_bytes()).unwrap());
    assert_eq!(
        (lines.records.len(), &asked(&lines)[..2]),
        (3, &asked(&parquet)[..2])
    );
    // A public set's shape is found data however it is stored.
    let hh = file("hh-rlhf.jsonl");
    assert!(hh.found);
    assert_eq!((hh.records.len(), hh.tally.missing()), (6, 2));
    let (a, b) = (file("ultrafeedback.jsonl"), file("ultrafeedback.parquet"));
    assert_eq!(a.records, b.records);
}

#[test]
fn hh_dialogues_become_conversations_and_broken_ones_are_counted() {
    let o = options(&["hh-rlhf.jsonl"]);
    let made = prepare(&o).unwrap();
    let input = &made.manifest.inputs[0];
    assert_eq!((input.format, input.rows), (Format::HhRlhf, 8));
    assert_eq!(input.skipped.values().sum::<usize>(), 2, "{:?}", input.skipped);
    assert!(
        input.skipped.keys().any(|k| k.contains("alternate")),
        "{:?}",
        input.skipped
    );
    let pairs = preferences(&o);
    assert_eq!(pairs.len(), 6);
    assert!(
        pairs.contains(&("And 4?".into(), "good 4".into(), "bad 4".into())),
        "{pairs:?}"
    );
    let files = files(&o);
    let all: Vec<u8> = files
        .iter()
        .filter(|f| f.0.starts_with("prompts-t"))
        .flat_map(|f| f.1.clone())
        .collect();
    let records: Vec<PromptRecord> = parse_jsonl("f", &all).unwrap();
    let talk = records.iter().find_map(|r| match &r.prompt {
        PromptContent::Messages(turns) => Some(turns.clone()),
        PromptContent::Text(_) => None,
    });
    let roles: Vec<String> = talk.unwrap().into_iter().map(|t| t.role).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
}

#[test]
fn parts_are_disjoint_and_cores_nested() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |range: std::ops::Range<usize>| -> String {
        range.map(|i| format!("{{\"prompt\": \"p {i}\"}}\n")).collect()
    };
    let (a, b) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
    std::fs::write(&a, lines(0..600)).unwrap();
    std::fs::write(&b, lines(590..1000)).unwrap();
    let o = Options {
        inputs: vec![a.clone(), b.clone()],
        validation: Share::Fraction(0.1),
        held_out: Share::Count(520),
        core: vec![250, 500],
        ..options(&[])
    };
    let made = files(&o);
    let part = |name: &str| prompts(&made[name]);
    let parts = [
        "prompts-train.jsonl",
        "prompts-validation.jsonl",
        "prompts-held-out.jsonl",
    ]
    .map(part);
    let sizes = parts.iter().map(BTreeSet::len).collect::<Vec<_>>();
    assert_eq!(sizes, [380, 100, 520]);
    let union: BTreeSet<&String> = parts.iter().flatten().collect();
    assert_eq!(union.len(), 1000);
    let (small, large) = (part("prompts-core250.jsonl"), part("prompts-core500.jsonl"));
    assert_eq!((small.len(), large.len()), (250, 500));
    assert!(small.is_subset(&large) && large.is_subset(&parts[2]));
    // The order of the files does not matter, and prompts that are left out do not move the cores' order.
    let turned = Options {
        inputs: vec![b.clone(), a.clone()],
        ..o.clone()
    };
    let again = files(&turned);
    assert_eq!(made["prompts-held-out.jsonl"], again["prompts-held-out.jsonl"]);
    assert_eq!(made["prompts-core250.jsonl"], again["prompts-core250.jsonl"]);
    // The manifest's hashes are the files'.
    let manifest: Value = serde_json::from_slice(&made["manifest.json"]).unwrap();
    assert_eq!(manifest["counts"]["duplicate_prompts"], 10);
    assert_eq!(
        manifest["inputs"][0]["sha256"],
        sha256_hex(&std::fs::read(&a).unwrap())
    );
    let outputs = manifest["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 5);
    for out in outputs {
        let bytes = &made[out["file"].as_str().unwrap()];
        assert_eq!(out["sha256"], sha256_hex(bytes));
    }
    // What another file has is left out, or refused.
    let without = Options {
        inputs: vec![a.clone()],
        exclude: vec![b.clone()],
        held_out: Share::Count(0),
        core: vec![],
        ..o.clone()
    };
    let counts = prepare(&without).unwrap().manifest.counts;
    assert_eq!((counts.excluded, counts.prompts), (10, 590));
    let refused = Options {
        exclude: vec![],
        disjoint_from: vec![b],
        ..without
    };
    let e = prepare(&refused).unwrap_err();
    for part in ["a.jsonl: row 591", "\"p 590\"", "b.jsonl", "--exclude"] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.jsonl");
    let with = |text: &str, change: fn(&mut Options)| {
        std::fs::write(&path, text).unwrap();
        let mut o = Options {
            inputs: vec![path.clone()],
            validation: Share::Count(0),
            held_out: Share::Count(0),
            core: vec![],
            ..options(&[])
        };
        change(&mut o);
        let e = prepare(&o).unwrap_err();
        assert_eq!(e.exit_code(), 2, "{e}");
        e.to_string()
    };
    let none = |_: &mut Options| ();
    let cases = [
        ("", "no rows"),
        ("{\"prompt\": \"a\"}\n{\"prompt\": \n", "f.jsonl:2"),
        ("{\"prompt\": \"a\"}\n\n{\"text\": \"b\"}\n", "row 2"),
        ("{\"prompt\": \"  \"}\n", "prompt is empty"),
        ("{\"text\": \"b\"}\n", "no known shape"),
        (
            "{\"instruction\": 3, \"completions\": []}\n",
            "no row of this file",
        ),
        ("PAR1 and nothing more", "not a Parquet file"),
        (
            "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": 3}\n",
            "row 1",
        ),
    ];
    for (text, part) in cases {
        let said = with(text, none);
        assert!(
            said.contains(part) && said.contains("f.jsonl"),
            "{text:?}: {said}"
        );
    }
    let two = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n";
    let many = with(two, |o| {
        (o.validation, o.held_out) = (Share::Count(2), Share::Fraction(0.5))
    });
    assert!(
        many.contains("--validation 2") && many.contains("2 different prompts"),
        "{many}"
    );
    let core = with(two, |o| (o.held_out, o.core) = (Share::Count(1), vec![2]));
    assert!(core.contains("--core 2") && core.contains("--heldout"), "{core}");
    for text in ["1.5", "-1", "x", "nan"] {
        assert!(text.parse::<Share>().is_err(), "{text}");
    }
    assert_eq!("0.25".parse::<Share>().unwrap(), Share::Fraction(0.25));
    assert_eq!("1".parse::<Share>().unwrap(), Share::Count(1));
}
