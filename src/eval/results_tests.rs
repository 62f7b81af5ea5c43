#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::eval::store::{StoredCompletion, StoredPrompt, VERSION};
use crate::rollout::Finish;
use crate::text::PromptContent;

/// An evaluation with these rewards; the second judge sees their negatives.
fn eval(rewards: &[Vec<f64>]) -> StoredEval {
    let samples = rewards[0].len();
    let meta = serde_json::json!({
        "version": VERSION, "model": "m", "reward_model": "r", "also_reward": "s", "prompts_file": "p",
        "prompts_sha256": "", "num_prompts": rewards.len(), "samples": samples, "seed": 1, "temperature": 1.0,
        "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_completion_length": 4
    });
    let completion = |p: usize, s: usize| StoredCompletion {
        prompt_index: p,
        sample: s,
        text: String::new(),
        tokens: 2,
        finish_reason: Finish::Stop,
        reward: rewards[p][s],
        also_reward: Some(-rewards[p][s]),
    };
    let prompt = |i| StoredPrompt::new(i, serde_json::Value::Null, &PromptContent::Text(format!("{i}")));
    StoredEval {
        meta: serde_json::from_value(meta).unwrap(),
        prompts: (0..rewards.len()).map(prompt).collect(),
        completions: (0..rewards.len())
            .map(|p| (0..samples).map(|s| completion(p, s)).collect())
            .collect(),
    }
}

#[test]
fn every_estimator_appears_where_it_is_defined() {
    let rewards: Vec<Vec<f64>> = (0..4)
        .map(|p| (0..12).map(|s| f64::from((p * 5 + s * 7) % 13)).collect())
        .collect();
    let results = Results::of(&eval(&rewards), Alpha::DEFAULT, 50, &Bootstrap::default()).unwrap();
    let main = results.judge(Judge::Main).unwrap();
    let n: Vec<usize> = main.points.iter().map(|p| p.n).collect();
    assert_eq!(n, [1, 2, 4, 8, 12, 24, 48]);
    for p in &main.points {
        assert_eq!(p.grouped.is_some(), 12 % p.n == 0, "{}", p.n);
        assert_eq!(p.unbiased.is_some(), p.n <= 12, "{}", p.n);
        assert_eq!(p.extrapolated.is_some(), p.n > 12, "{}", p.n);
        assert_eq!(p.picked_by_main, None);
    }
    // All of the samples are one group and one subset; one sample is the mean.
    let at = |n: usize| main.points.iter().find(|p| p.n == n).unwrap();
    assert_eq!(at(12).grouped.unwrap().mean, at(12).unbiased.unwrap().mean);
    assert!((at(1).unbiased.unwrap().mean - main.mean).abs() < 1e-12);
    assert!(at(24).extrapolated.unwrap().mean < at(48).extrapolated.unwrap().mean);
    // The second judge loses what the first one picks.
    let also = results.judge(Judge::Also).unwrap();
    let picked = also.points[2].picked_by_main.unwrap();
    assert_eq!(picked.mean, -main.points[2].grouped.unwrap().mean);
    assert!(also.points[2].grouped.unwrap().mean > picked.mean);
}

#[test]
fn results_are_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rewards = vec![vec![0.0, 1.0, 3.0, 2.0], vec![1.0, 1.0, 0.5, 0.25]];
    let half = "1/2".parse().unwrap();
    let results = Results::of(&eval(&rewards), half, 32, &Bootstrap::default()).unwrap();
    results.write(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("results.md")).unwrap();
    assert!(
        text.contains("extrapolated") && text.contains("not measured") && text.contains("2.0 tokens"),
        "{text}"
    );
    let csv = std::fs::read_to_string(dir.path().join("results.csv")).unwrap();
    assert!(
        csv.starts_with("reward,n,estimator,best_of_n,best_of_n_low,best_of_n_high\n"),
        "{csv}"
    );
    // Groups of 2: (1 + 3)/2 and (1 + 0.5)/2.
    assert!(csv.lines().any(|l| l.starts_with("r,2,grouped,1.375,")), "{csv}");
    let written = crate::run::kinds::EVAL.tree.files.iter();
    for name in written.filter(|name| name.starts_with("results") || name.starts_with("best")) {
        assert!(dir.path().join(name).metadata().unwrap().len() > 100, "{name}");
    }
    // One sample has no tail, and nothing beyond it.
    let one = Results::of(
        &eval(&[vec![1.0], vec![2.0]]),
        Alpha::DEFAULT,
        64,
        &Bootstrap::default(),
    )
    .unwrap();
    assert!(one.judges[0].points.iter().all(|p| p.extrapolated.is_none()));
    // A fifth of 5 samples is one of them: a dash in the table and null in the file, though two could be fitted.
    let five = [vec![0.0, 1.0, 3.0, 2.0, 7.0], vec![1.0, 1.0, 0.5, 0.25, 2.0]];
    let few = Results::of(&eval(&five), Alpha::DEFAULT, 64, &Bootstrap::default()).unwrap();
    let text = few.markdown();
    let row = text.lines().find(|l| l.starts_with("|      40 |")).unwrap();
    assert!(row.contains(" – "), "{text}");
    assert!(text.contains("Nothing is extrapolated beyond 5"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&few.json().unwrap()).unwrap();
    assert!(json["judges"][0]["points"][5]["extrapolated"].is_null());
    assert_eq!(json["judges"][0]["points"][5]["n"], 20);
    let six = five.map(|mut g| {
        g.push(0.5);
        g
    });
    let tail = Results::of(&eval(&six), Alpha::DEFAULT, 64, &Bootstrap::default()).unwrap();
    assert!(tail.judges[0].points.last().unwrap().extrapolated.is_some());
}
