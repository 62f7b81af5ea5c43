//! What is trained, skipped, resumed and reported, with a worker that only writes files.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use super::fake::{Fake, PROMPTS, pair, write_eval};
use super::report;
use super::run::{State, SweepDir, state, sweep};
use super::{Sweep, Types};
use crate::error::Error;
use crate::eval::{Bootstrap, Interval, StoredEval};
use crate::train::checkpoint;

fn plan(dir: &Path, text: &str) -> Sweep {
    let path = dir.join("sweep.toml");
    std::fs::write(&path, text).unwrap();
    Sweep::read(&path).unwrap()
}

const TWO: &str = "baseline = \"grpo\"\nseeds = [1, 2]\n[train]\nsteps = 6\n[[method]]\nadvantage = \"tea\"\n\
                   [[method]]\nadvantage = \"grpo\"\n";

#[test]
fn what_is_finished_is_skipped_and_what_failed_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake {
        dies_at: Some(4),
        ..Fake::default()
    };
    fake.fails
        .insert("tea-seed2".into(), || Error::DeviceLost("gone".into()));
    fake.fails
        .insert("eval grpo-seed1".into(), || Error::user("cannot"));
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    assert_eq!(
        fake.take(),
        [
            "eval base",
            "train tea-seed1 false",
            "eval tea-seed1",
            "train tea-seed2 false",
            "train grpo-seed1 false",
            "eval grpo-seed1",
            "train grpo-seed2 false",
            "eval grpo-seed2"
        ]
    );
    let failed: Vec<&str> = outcome.failed().iter().map(|j| j.job.as_str()).collect();
    assert_eq!(failed, ["train tea-seed2", "eval grpo-seed1"]);
    let text = std::fs::read_to_string(out.root.join("sweep.json")).unwrap();
    assert!(
        text.contains("device lost: gone") && text.contains("\"failed\""),
        "{text}"
    );
    let table = std::fs::read_to_string(out.root.join("table.md")).unwrap();
    assert!(
        table.contains("Failed, and so missing above") && table.contains("train tea-seed2"),
        "{table}"
    );
    assert_eq!(
        state(&out.run("tea-seed2"), &s.methods[0].runs[1]).unwrap(),
        State::Partial(4)
    );

    // The second time: the failed run goes on from its checkpoint, the finished ones are left alone.
    fake.fails.clear();
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    let trained: Vec<String> = fake
        .take()
        .into_iter()
        .filter(|c| c.starts_with("train"))
        .collect();
    assert_eq!(trained, ["train tea-seed2 true"]);
    assert!(outcome.failed().is_empty());
    let statuses: Vec<&str> = outcome.jobs.iter().map(|j| j.status).collect();
    assert_eq!(
        statuses,
        [
            "skipped", "skipped", "done", "done", "skipped", "done", "skipped", "skipped"
        ]
    );
    for name in [
        "table.md",
        "table.csv",
        "table.json",
        "frontier.svg",
        "frontier.png",
        "frontier-also.svg",
    ] {
        assert!(out.root.join(name).is_file(), "{name}");
    }
    assert!(!out.root.join("frontier-best.svg").exists());
}

#[test]
fn ctrl_c_ends_the_sweep_and_other_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake::default();
    fake.fails
        .insert("tea-seed2".into(), || Error::Interrupted("saved".into()));
    let e = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(
        e.exit_code() == 130 && e.to_string().contains("train tea-seed2"),
        "{e}"
    );
    assert_eq!(fake.take().last().unwrap(), "train tea-seed2 false");
    // A changed setting would mix two sweeps: nothing runs.
    let changed = plan(dir.path(), &TWO.replace("steps = 6", "steps = 6\nbeta = 0.5"));
    let e = sweep(&changed, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(e.exit_code() == 2, "{e}");
    for part in ["tea-seed1", "beta = 0.02", "now says 0.5"] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
    assert!(fake.take().is_empty());
    // The base policy is what everything is compared with.
    let mut fake = Fake::default();
    fake.fails.insert("eval base".into(), || Error::user("cannot"));
    let e = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap_err();
    assert!(e.to_string().contains("base policy"), "{e}");
}

#[test]
fn seeds_are_averaged_before_the_bootstrap_and_methods_are_paired() {
    let dir = tempfile::tempdir().unwrap();
    let select = TWO.replace("steps = 6", "steps = 6\nvalidation_prompts = \"embedded\"");
    let s = plan(dir.path(), &select);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let outcome = sweep(&s, &out, &mut Fake::default(), &Bootstrap::default()).unwrap();
    let r = report::write(&s, &out, &outcome, &Bootstrap::default()).unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    let names: Vec<_> = r.judges[0]
        .policies
        .iter()
        .map(|p| (p.method.as_str(), p.checkpoint))
        .collect();
    assert_eq!(
        names,
        [
            ("base", None),
            ("tea", Some("last")),
            ("tea", Some("best")),
            ("grpo", Some("last")),
            ("grpo", Some("best"))
        ]
    );
    // The largest of 4 samples is 0.3 above the first, which is 0.3 a prompt: mean 0.6 + 0.3.
    let base = &r.judges[0].policies[0];
    close(base.rows[2].mean.mean, 0.9);
    assert!(base.rows[2].vs_base.is_none() && base.rows[2].seed_sd.is_none());
    close(base.mean_length, 3.5);
    let tea = &r.judges[0].policies[1];
    assert_eq!(tea.seeds, [1, 2]);
    let row = &tea.rows[2];
    assert_eq!((row.n, row.seed_means.len()), (4, 2));
    close(row.seed_means[1] - row.seed_means[0], 1.0);
    close(row.seed_sd.unwrap(), 0.5f64.sqrt());
    // Gains of 2 and 3 on every prompt: 2.5 without uncertainty over prompts, where the values themselves have some.
    let versus = row.vs_base.unwrap();
    close(versus.difference.mean, 2.5);
    let width = |i: Interval| i.ends().map(|(low, high)| high - low).unwrap();
    close(width(versus.difference), 0.0);
    assert_eq!(versus.outcome.wins, PROMPTS);
    assert!(width(row.mean) > 0.1);
    close(row.vs_baseline.unwrap().difference.mean, 2.0);
    assert!(
        r.judges[0].policies[3].rows[0].vs_baseline.is_none(),
        "not with itself"
    );
    assert_eq!(tea.train_seconds, Some(3.5));
    // The held-out judge sees what the first one picks: its own worst here.
    let also = &r.judges[1];
    assert_eq!(also.reward, "other");
    close(also.policies[0].rows[2].mean.mean, -0.9);
    let csv = std::fs::read_to_string(out.root.join("table.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 5 * 3, "{csv}");
    // Each opponent has its own columns: TEA wins on every prompt over both, the base policy has no opponent.
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let cell = |line: &str, name: &str| -> String {
        let at = header.iter().position(|h| *h == name).unwrap();
        line.split(',').nth(at).unwrap().to_string()
    };
    let line = |start: &str| csv.lines().find(|l| l.starts_with(start)).unwrap();
    let (tea, grpo, base) = (
        line("judge,tea,last"),
        line("judge,grpo,last"),
        line("judge,base"),
    );
    for opponent in ["base", "baseline"] {
        let wins = format!("wins over {opponent}");
        assert_eq!(cell(tea, &wins), PROMPTS.to_string());
        assert_eq!(cell(base, &wins), "");
    }
    assert_eq!(
        (cell(grpo, "wins over base"), cell(grpo, "wins over baseline")),
        (PROMPTS.to_string(), String::new())
    );
    let md = std::fs::read_to_string(out.root.join("table.md")).unwrap();
    assert!(
        md.contains("win/tie/loss against base ") && md.contains("win/tie/loss against grpo "),
        "{md}"
    );
    assert!(out.root.join("frontier-best.svg").is_file());
    // Evaluations of other prompts cannot be paired.
    write_eval(&out.eval("tea-seed1"), 0.0, PROMPTS - 1);
    let e = report::write(&s, &out, &outcome, &Bootstrap::default()).unwrap_err();
    assert!(
        e.to_string().contains("other prompts") && e.exit_code() == 2,
        "{e}"
    );
}

#[test]
fn what_a_failed_run_left_before_is_not_in_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake::default();
    sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    // Two runs are to be trained again: one fails now, and its old evaluation is still there.
    for name in ["tea-seed2", "grpo-seed1"] {
        std::fs::remove_dir_all(out.run(name)).unwrap();
    }
    fake.fails.insert("tea-seed2".into(), || Error::user("cannot"));
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    assert!(StoredEval::read(&out.eval("tea-seed2")).is_ok());
    assert!(!outcome.has_eval("tea-seed2") && outcome.has_eval("tea-seed1"));
    let r = report::write(&s, &out, &outcome, &Bootstrap::default()).unwrap();
    let tea = &r.judges[0].policies[1];
    assert_eq!((&tea.seeds[..], &tea.missing_seeds[..]), (&[1][..], &[2][..]));
    let text = std::fs::read_to_string(out.root.join("table.md")).unwrap();
    assert!(
        text.contains("1 of 2") && text.contains("train tea-seed2: cannot"),
        "{text}"
    );
    let each = std::fs::read_to_string(out.root.join("compare/compare.md")).unwrap();
    assert!(
        each.contains("tea-seed1") && !each.contains("tea-seed2"),
        "{each}"
    );
}

#[test]
fn open_element_types_are_settled_once() {
    let dir = tempfile::tempdir().unwrap();
    let s = plan(dir.path(), TWO);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake {
        fits: Some("bf16"),
        dies_at: Some(4),
        ..Fake::default()
    };
    fake.fails.insert("tea-seed2".into(), || Error::user("cannot"));
    sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    assert!(
        fake.types.iter().all(|t| t.ends_with(" bf16/bf16")),
        "{:?}",
        fake.types
    );
    assert_eq!(fake.types[0], "eval base bf16/bf16");
    // With more memory later, nothing changes: neither for the run that goes on nor for what is new.
    std::fs::remove_dir_all(out.run("grpo-seed2")).unwrap();
    let mut later = Fake::default();
    sweep(&s, &out, &mut later, &Bootstrap::default()).unwrap();
    assert!(
        later.types.iter().all(|t| t.ends_with(" bf16/bf16")),
        "{:?}",
        later.types
    );
    assert!(later.calls.contains(&"train grpo-seed2 false".to_string()));
    // A sweep from before types were kept takes those of a run that it has trained.
    std::fs::write(out.root.join("sweep.json"), "{\"jobs\": []}").unwrap();
    let mut old = Fake::default();
    let outcome = sweep(&s, &out, &mut old, &Bootstrap::default()).unwrap();
    assert_eq!(pair(&outcome.types), "bf16/bf16");
    let text = std::fs::read_to_string(out.root.join("sweep.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["types"]["base_dtype"], "bf16");
    // What the file names is its own; the smaller of two fits where both must.
    let named = plan(
        dir.path(),
        &TWO.replace("steps = 6", "steps = 6\nbase_dtype = \"f16\""),
    );
    let types = outcome.types.of(&named.methods[0].runs[0].config);
    assert_eq!(pair(&types), "f16/bf16");
    let of = |base: &str, reward: Option<&str>| Types {
        base_dtype: Some(base.into()),
        reward_dtype: reward.map(str::to_string),
    };
    let both = of("q8_0", Some("f32")).smaller(of("f32", Some("bf16"))).unwrap();
    assert_eq!(pair(&both), "q8_0/bf16");
    assert_eq!(
        pair(&of("f32", None).smaller(of("bf16", None)).unwrap()),
        "bf16/open"
    );
}

#[test]
fn an_old_copy_of_the_best_checkpoint_is_mended_before_it_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let select = TWO.replace("steps = 6", "steps = 6\nvalidation_prompts = \"embedded\"");
    let s = plan(dir.path(), &select);
    let out = SweepDir {
        root: dir.path().join("out"),
    };
    let mut fake = Fake {
        best: Some((2, 4)),
        ..Fake::default()
    };
    let outcome = sweep(&s, &out, &mut fake, &Bootstrap::default()).unwrap();
    assert!(outcome.failed().is_empty());
    assert!(fake.calls.contains(&"eval grpo-seed2-best".to_string()));
    let best = out.run("tea-seed1").join("checkpoints/best");
    assert_eq!(checkpoint::read_state(&best).unwrap().step, 4);
}
