#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::config::{FloatDtype, MatmulPrecision};
use crate::eval::compare::agree::{read_entries, short_names};
use crate::eval::store::{RunMeta, StoredCompletion, StoredPrompt, VERSION};
use crate::report::Format;
use crate::rollout::Finish;
use crate::text::PromptContent;
use std::path::PathBuf;

/// An evaluation whose rewards are `reward(prompt, sample)`, with (main, held-out) rewards.
fn entry(label: &str, prompts: usize, samples: usize, reward: impl Fn(usize, usize) -> (f64, f64)) -> Entry {
    let meta = serde_json::json!({
        "version": VERSION, "model": "m", "reward_model": "r", "also_reward": "s", "prompts_file": "p",
        "prompts_sha256": "", "num_prompts": prompts, "samples": samples, "seed": 1, "temperature": 1.0,
        "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_completion_length": 4
    });
    let completion = |prompt_index: usize, sample: usize| {
        let (main, also) = reward(prompt_index, sample);
        StoredCompletion {
            prompt_index,
            sample,
            text: String::new(),
            tokens: 2 + sample,
            finish_reason: Finish::Stop,
            reward: main,
            also_reward: Some(also),
        }
    };
    let prompt = |i| {
        StoredPrompt::new(
            i,
            serde_json::Value::Null,
            &PromptContent::Text(format!("prompt {i}")),
        )
    };
    Entry {
        label: label.into(),
        eval: StoredEval {
            meta: serde_json::from_value(meta).unwrap(),
            prompts: (0..prompts).map(prompt).collect(),
            completions: (0..prompts)
                .map(|p| (0..samples).map(|s| completion(p, s)).collect())
                .collect(),
        },
    }
}

fn noise(p: usize, s: usize) -> f64 {
    ((p * 37 + s * 101) % 23) as f64 / 23.0
}

fn plain(label: &str, samples: usize) -> Entry {
    entry(label, 5, samples, |p, s| (noise(p, s), noise(p, s)))
}

fn refused(entries: &[Entry], options: &Options, parts: &[&str]) {
    let error = super::report(entries, options).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} not in {error}");
    }
}

#[test]
fn other_prompts_are_refused_with_the_first_key_that_differs() {
    let (a, mut b) = (plain("a", 4), plain("b", 4));
    b.eval.prompts[3] = StoredPrompt::new(3, serde_json::Value::Null, &PromptContent::Text("x".into()));
    b.eval.prompts[4] = StoredPrompt::new(4, serde_json::Value::Null, &PromptContent::Text("y".into()));
    let (mine, theirs) = (a.eval.prompts[3].key.clone(), b.eval.prompts[3].key.clone());
    refused(
        &[a.clone(), b],
        &Options::default(),
        &["prompt 3 of b", &mine[..12], &theirs[..12]],
    );
    let fewer = entry("fewer", 4, 4, |p, s| (noise(p, s), 0.0));
    let missing = a.eval.prompts[4].key.clone();
    refused(
        &[a, fewer],
        &Options::default(),
        &[
            "a has 5 prompts and fewer has 4",
            "only a has is number 4",
            &missing,
        ],
    );
}

#[test]
fn other_judges_are_refused() {
    let (a, mut b) = (plain("a", 4), plain("b", 4));
    b.eval.meta.reward_adapter = Some("lora".into());
    refused(
        &[a.clone(), b.clone()],
        &Options::default(),
        &["a was judged by r and b by r with lora"],
    );
    // The held-out judge matters only where it is asked for.
    b.eval.meta.reward_adapter = None;
    b.eval.meta.also_reward = Some("t".into());
    let by = |judge| Options {
        judge,
        ..Options::default()
    };
    refused(&[a.clone(), b.clone()], &by(Judge::Also), &["by s", "by t"]);
    let report = super::report(&[a.clone(), b.clone()], &by(Judge::Main)).unwrap();
    assert!(
        report.held_out.is_none() && report.notes[0].contains("second judge"),
        "{:?}",
        report.notes
    );
    b.eval.meta.also_reward = None;
    b.eval
        .completions
        .iter_mut()
        .flatten()
        .for_each(|c| c.also_reward = None);
    refused(
        &[b.clone(), b],
        &by(Judge::Also),
        &["no second reward", "--also-reward"],
    );
}

#[test]
fn a_judge_that_was_changed_under_its_name_is_another() {
    let with = |label: &str, field: &str, hash: &str| {
        let mut e = plain(label, 4);
        e.eval.meta.weights_sha256.insert(field.into(), hash.into());
        e
    };
    let (a, b) = (with("a", "reward_model", "aa"), with("b", "reward_model", "bb"));
    let said = "a and b were judged by r, whose weights were changed in between";
    refused(&[a.clone(), b], &Options::default(), &[said]);
    // Unknown, as in older evaluations, is not another.
    super::report(
        &[a.clone(), plain("b", 4), a],
        &Options {
            baseline: 1,
            ..Options::default()
        },
    )
    .unwrap();
    let (a, b) = (with("a", "also_reward", "aa"), with("b", "also_reward", "bb"));
    let report = super::report(&[a, b], &Options::default()).unwrap();
    assert!(report.held_out.is_none() && report.notes[0].contains("second judge"));
}

#[test]
fn other_element_types_are_said() {
    let with = |label: &str, base: Option<&str>, reward: &str| {
        let mut e = plain(label, 4);
        e.eval.meta.base_dtype = base.map(str::to_string);
        e.eval.meta.reward_dtype = Some(reward.into());
        e
    };
    let said = |entries: &[Entry]| {
        super::report(entries, &Options::default())
            .unwrap()
            .notes
            .join("\n")
    };
    let f32s = with("a", Some("f32"), "f32");
    assert_eq!(said(&[f32s.clone(), with("b", Some("f32"), "f32")]), "");
    let base = said(&[f32s.clone(), with("b", Some("q8_0"), "f32")]);
    assert!(
        base.contains("the policy's element type differs (a f32, b q8_0)"),
        "{base}"
    );
    let judge = said(&[f32s.clone(), with("b", Some("f32"), "bf16")]);
    assert!(
        judge.starts_with("the judge's element type differs (a f32, b bf16)"),
        "{judge}"
    );
    let old = said(&[f32s.clone(), with("b", None, "f32")]);
    assert!(old.contains("(a f32, b as stored or unknown)"), "{old}");
    let mut other = with("b", Some("f32"), "f32");
    other.eval.meta.matmul_precision = MatmulPrecision::High;
    let precision = said(&[f32s.clone(), other.clone()]);
    assert!(
        precision.starts_with("--matmul-precision differs (a highest, b high)")
            && precision.lines().count() == 1,
        "{precision}"
    );
    other.eval.meta.matmul_precision = MatmulPrecision::Highest;
    other.eval.meta.kv_cache_dtype = FloatDtype::Float16;
    let cache = said(&[f32s, other]);
    assert!(
        cache.starts_with("--kv-cache-dtype differs (a float32, b float16)") && cache.lines().count() == 1,
        "{cache}"
    );
}

#[test]
fn sizes_divide_every_evaluation() {
    let sizes = |a, b, options: &Options| {
        super::report(&[plain("a", a), plain("b", b)], options)
            .unwrap()
            .comparison
            .sizes()
    };
    assert_eq!(sizes(16, 16, &Options::default()), [1, 2, 4, 8, 16]);
    assert_eq!(sizes(32, 16, &Options::default()), [1, 2, 4, 8, 16]);
    assert_eq!(sizes(12, 16, &Options::default()), [1, 2, 4]);
    let asked = |n: &[usize], estimator| Options {
        sizes: Some(n.to_vec()),
        estimator,
        ..Options::default()
    };
    assert_eq!(
        sizes(12, 24, &asked(&[6, 3, 6, 12], Estimator::Grouped)),
        [3, 6, 12]
    );
    assert_eq!(sizes(12, 24, &asked(&[5, 12], Estimator::Unbiased)), [5, 12]);
    for (n, estimator, why) in [
        (8, Estimator::Grouped, "8 does not divide"),
        (24, Estimator::Grouped, "24 does not divide"),
        (13, Estimator::Unbiased, "choose n up to 12"),
        (0, Estimator::Grouped, "n of at least 1"),
        (0, Estimator::Unbiased, "n of at least 1"),
    ] {
        let entries = [plain("a", 12), plain("b", 24)];
        refused(
            &entries,
            &asked(&[n], estimator),
            &[&format!("--n {n}"), "12 samples", why],
        );
    }
}

#[test]
fn more_samples_are_compared_at_the_common_sizes() {
    // Twice the samples are the same samples twice: every group of up to 8 is there twice.
    let half = |p: usize, s: usize| (noise(p, s % 8), 0.0);
    let entries = [entry("a", 5, 8, half), entry("b", 5, 16, half)];
    let report = super::report(&entries, &Options::default()).unwrap();
    for row in &report.comparison.methods[1].rows {
        let d = row.difference.unwrap();
        let (low, high) = d.ends().unwrap();
        assert!(d.mean.abs() < 1e-12 && low.abs() < 1e-12 && high.abs() < 1e-12);
        assert_eq!(row.outcome.unwrap().ties, 5);
    }
    assert!(
        report
            .notes
            .iter()
            .any(|n| n.contains("number of samples") && n.contains("b 16"))
    );
}

#[test]
fn a_main_reward_that_rises_while_the_other_falls_is_called_hacking() {
    let with = |label: &str, main: f64, also: f64| {
        entry(label, 5, 8, move |p, s| (noise(p, s) + main, noise(p, s) + also))
    };
    let entries = [
        with("base", 0.0, 0.0),
        with("hacked", 1.0, -1.0),
        with("good", 1.0, 1.0),
        with("worse", -1.0, 0.0),
        with("idle", 0.0, 0.0),
        with("narrow", 1.0, 0.0),
    ];
    let report = super::report(&entries, &Options::default()).unwrap();
    let held = report.held_out.as_ref().unwrap();
    let reading = |label: &str| -> Vec<(usize, &str)> {
        held.verdicts
            .iter()
            .filter(|v| v.label == label)
            .map(|v| (v.n, v.reading))
            .collect()
    };
    let hacking = "reward hacking: the held-out reward falls";
    assert_eq!(reading("hacked"), [(1, hacking), (8, hacking)]);
    assert_eq!(reading("good")[1].1, "both rise");
    assert_eq!(reading("worse")[1].1, "the main reward falls");
    assert_eq!(reading("idle")[0].1, "no clear difference in the main reward");
    assert_eq!(
        reading("narrow")[1].1,
        "the held-out reward does not clearly follow"
    );
    let text = report.render(Format::Md).unwrap();
    for part in [
        hacking,
        "Held-out reward s of the response that r picks",
        "## Win/tie/loss against base",
    ] {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
    // Under the second judge, it chooses and values.
    let options = Options {
        judge: Judge::Also,
        ..Options::default()
    };
    let report = super::report(&entries, &options).unwrap();
    assert!(report.held_out.is_none() && report.comparison.reward == "s");
    assert!(
        (report
            .comparison
            .at("hacked", 8)
            .unwrap()
            .difference
            .unwrap()
            .mean
            + 1.0)
            .abs()
            < 1e-12
    );
}

#[test]
fn runs_show_their_budgets_and_what_is_unmatched() {
    let trained = |label: &str, rule: &str, m: usize| {
        let mut e = plain(label, 8);
        e.eval.meta.step = Some(10);
        e.eval.meta.run = Some(RunMeta {
            dir: "runs/x".into(),
            checkpoint: "best".into(),
            advantage: rule.into(),
            num_generations: m,
            prompts_per_step: 4,
            bon: Some(128),
            alpha: "0.2".into(),
            seed: 1,
        });
        e
    };
    let mut seeded = trained("tea 16", "tea", 16);
    seeded.eval.meta.seed = 2;
    let entries = [plain("base", 8), trained("grpo 64", "grpo", 64), seeded];
    let report = super::report(&entries, &Options::default()).unwrap();
    assert_eq!(report.methods[1].trained_on, Some(2560));
    let said = report.notes.join("\n");
    assert!(
        said.contains("grpo 64 2560, tea 16 640") && said.contains("seed of the samples"),
        "{said}"
    );
    let text = report.render(Format::Md).unwrap();
    let line = text
        .lines()
        .find(|l| l.contains("| grpo ") && l.contains("2560"))
        .unwrap();
    assert!(line.contains("128") && line.contains("64"), "{line}");
    let csv = report.render(Format::Csv).unwrap();
    // Two judges, three methods, four sizes.
    assert_eq!(csv.lines().count(), 1 + 2 * 3 * 4, "{csv}");
    let json: serde_json::Value = serde_json::from_str(&report.render(Format::Json).unwrap()).unwrap();
    assert_eq!(json["methods"][2]["num_generations"], 16);
    assert_eq!(json["comparison"]["baseline"], "base");
    let dir = tempfile::tempdir().unwrap();
    report.write(&dir.path().join("out")).unwrap();
    for name in [
        "compare.md",
        "compare.csv",
        "compare.json",
        "frontier.svg",
        "frontier.png",
        "frontier-held-out.png",
    ] {
        assert!(
            dir.path().join("out").join(name).metadata().unwrap().len() > 200,
            "{name}"
        );
    }
}

/// Directories, models and rewards of other people's evaluations are called what they like.
#[test]
fn no_name_is_markup_in_a_report() {
    const NAME: &str = "=x|<img src=x onerror=alert(1)>`[a](http://b)\u{1b}[31m\u{202e}\n# head";
    let mut odd = plain(NAME, 8);
    odd.eval.meta.model = NAME.into();
    let mut entries = [odd, plain("b", 8)];
    for entry in &mut entries {
        entry.eval.meta.reward_model = NAME.into();
    }
    let report = super::report(&entries, &Options::default()).unwrap();
    let text = report.render(Format::Md).unwrap();
    assert!(text.contains("&lt;img src=x"), "{text}");
    for (part, why) in [
        ("<img", "HTML"),
        ("](http", "a link"),
        ("\u{1b}", "an escape sequence"),
        ("\u{202e}", "a change of direction"),
        ("\n# head", "a heading"),
    ] {
        let found = text
            .match_indices(part)
            .any(|(at, _)| !text[..at].ends_with('\\'));
        assert!(!found, "{why}: {text}");
    }
    let csv = report.render(Format::Csv).unwrap();
    let begins = |start: &str| {
        csv.lines()
            .any(|line| line.split(',').any(|cell| cell.starts_with(start)))
    };
    assert!(!begins("=") && !begins("\"=") && csv.contains("\"'=x|"), "{csv}");
    let json: serde_json::Value = serde_json::from_str(&report.render(Format::Json).unwrap()).unwrap();
    assert_eq!(json["comparison"]["baseline"], NAME);
    let svg = report.frontier().svg().unwrap();
    assert!(!svg.contains('\u{1b}') && !svg.contains("<img"), "{svg}");
}

#[test]
fn labels_are_the_shortest_ends_that_differ() {
    let names = |dirs: &[&str]| short_names(&dirs.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(names(&["runs/a", "runs/b/"]).unwrap(), ["a", "b"]);
    assert_eq!(
        names(&["runs/a/eval", "runs/b/eval", "/x/c"]).unwrap(),
        ["a/eval", "b/eval", "x/c"]
    );
    assert!(names(&["a", "./a"]).unwrap_err().to_string().contains("twice"));
    let error = read_entries(
        &[PathBuf::from("a"), PathBuf::from("b")],
        &[("c".into(), "C".into())],
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("--label c=C") && error.exit_code() == 2,
        "{error}"
    );
    let error = read_entries(
        &[PathBuf::from("a"), PathBuf::from("b")],
        &[("a".into(), "b".into())],
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("two evaluations are labelled b"),
        "{error}"
    );
}
