//! `search` and `search predict`: budgets, seeds, files, refusals.

use super::*;

/// The smallest schedule: 4 responses from the prompt and from each of 2 states, and what is left.
const SMALL: [&str; 6] = ["--samples", "4", "--width", "2", "--budget", "15"];

fn search<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["search"], SMALL.as_slice(), more].concat()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Everything a line must hold whatever was drawn.
fn line_is_sound(line: &Value) {
    let nodes = line["nodes"].as_array().unwrap();
    let rewards: Vec<Vec<f64>> = nodes.iter().map(|n| numbers(&n["rewards"])).collect();
    let drawn: usize = rewards.iter().map(Vec::len).sum();
    assert_eq!((drawn, &line["budget_used"]), (15, &json!(15)));
    let chosen = line["chosen"].as_u64().unwrap() as usize;
    for (i, (node, rewards)) in nodes.iter().zip(&rewards).enumerate() {
        assert_eq!((&node["node"], i == 0), (&json!(i), node.get("prefix").is_none()));
        let want = if i == chosen {
            15 - 4 * (nodes.len() - 1)
        } else {
            4
        };
        assert_eq!(rewards.len(), want, "{line}");
        let most = nodes[chosen]["predicted"].as_f64().unwrap();
        assert!(node["predicted"].as_f64().unwrap() <= most);
        // The two largest of four rewards are the tail: 2/4 of a normal law lies above its mean.
        let mut first: Vec<f64> = rewards[..4].to_vec();
        first.sort_by(f64::total_cmp);
        let (a, b) = (first[3], first[2]);
        let shrink = 1.0 - 2.0 / std::f64::consts::PI;
        let sigma = ((a - b).powi(2) / 2.0 / shrink).sqrt();
        let mu = (a + b) / 2.0 - sigma * (2.0 / std::f64::consts::PI).sqrt();
        for (name, want) in [("mu", mu), ("sigma", sigma)] {
            let got = node["tail"][name].as_f64().unwrap();
            assert!((got - want).abs() < 1e-9, "{name}: {got} against {want}");
        }
    }
    let best = &line["best"];
    assert_eq!(best["reward"].as_f64().unwrap(), highest(&rewards.concat()));
    let (node, sample) = (best["node"].as_u64().unwrap(), best["sample"].as_u64().unwrap());
    assert_eq!(
        rewards[node as usize][sample as usize],
        best["reward"].as_f64().unwrap()
    );
    if node > 0 {
        let prefix = nodes[node as usize]["prefix"].as_str().unwrap();
        assert!(best["text"].as_str().unwrap().starts_with(prefix), "{line}");
    }
    if let Some(bon) = line.get("best_of_n") {
        let all = numbers(&bon["rewards"]);
        assert_eq!(all.len(), 15);
        assert_eq!(bon["reward"].as_f64().unwrap(), highest(&all));
        // The root's draws are best-of-N's first: 4 of them, more where the rest went to the root, all without a state.
        let root = match (chosen, nodes.len()) {
            (0, states) => 15 - 4 * (states - 1),
            _ => 4,
        };
        assert_eq!((rewards[0].len(), &all[..root]), (root, &rewards[0][..]));
        // Its other draws are its own: a state's responses are drawn anew.
        if nodes.len() > 1 {
            assert_ne!(all[root..], rewards[1..].concat()[..]);
        }
    }
}

#[test]
fn the_embedded_models_are_searched_without_a_model_flag() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let common = ["--num-prompts", "3", "--compare-bon"];
    let args = search(&[common.as_slice(), &["--output", text(&out)]].concat());
    let run = tea(&args);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(
        run.out.contains("best-of-15") && run.out.contains("true score"),
        "{}",
        run.out
    );
    // A tail of two from four rewards at the default share of a fifth is said.
    assert!(run.err.contains("widened to 2"), "{}", run.err);
    let written = std::fs::read_to_string(out.join("search.jsonl")).unwrap();
    let lines: Vec<Value> = written
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    lines.iter().for_each(line_is_sound);
    assert!(lines.iter().all(|l| l["best"]["true_score"].is_number()));
    let results: Value = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    let mean = |f: &dyn Fn(&Value) -> f64| lines.iter().map(f).sum::<f64>() / 3.0;
    let ours = mean(&|l| l["best"]["reward"].as_f64().unwrap());
    let theirs = mean(&|l| l["best_of_n"]["reward"].as_f64().unwrap());
    let got = |path: &str| results.pointer(path).unwrap().as_f64().unwrap();
    assert!((got("/search/reward/mean") - ours).abs() < 1e-12);
    assert!((got("/difference/reward/mean") - (ours - theirs)).abs() < 1e-12);
    assert_eq!(
        (got("/search/responses"), got("/best_of_n/most_responses")),
        (45.0, 15.0)
    );
    assert_eq!(
        std::fs::read_to_string(out.join("results.md")).unwrap().trim(),
        run.out.split("\nWritten").next().unwrap().trim()
    );
    tea(&args).refused(&["already holds a search", "--resume", "--overwrite"]);

    // The same lines on standard output, whatever is decoded together, and without the comparison.
    let json = search(&["--num-prompts", "3", "--json", "--rollout-batch", "5"]);
    let mut again = tea(&json).lines();
    for line in &mut again {
        assert!(line.get("best_of_n").is_none());
    }
    let plain: Vec<Value> = lines
        .iter()
        .map(|l| {
            let mut l = l.clone();
            l.as_object_mut().unwrap().shift_remove("best_of_n");
            l
        })
        .collect();
    // The comparison computes the prompt once more.
    for (line, plain) in again.iter_mut().zip(&plain) {
        let (one, more) = (&mut line["prefill_tokens"], &plain["prefill_tokens"]);
        assert!(one.as_u64().unwrap() < more.as_u64().unwrap(), "{plain}");
        *one = more.clone();
    }
    assert_eq!(again, plain);
    // The root draws what `generate` draws.
    let prompts = jsonl(dir.path(), lines.iter().map(|l| json!({"prompt": l["prompt"]})));
    let generated = tea(&[
        "generate",
        "--model",
        "tiny",
        "--prompts",
        text(&prompts),
        "-n",
        "4",
        "--reward-model",
        "tiny-reward",
        "--max-completion-length",
        "24",
        "--json",
    ])
    .lines();
    for (line, g) in lines.iter().zip(&generated) {
        let rewards: Vec<f64> = g["completions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["reward"].as_f64().unwrap())
            .collect();
        assert_eq!(numbers(&line["nodes"][0]["rewards"])[..4], rewards[..]);
    }
}

#[test]
fn an_interrupted_search_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let run = |more: &[&str]| {
        let common = ["--num-prompts", "3", "--compare-bon", "--output", text(&out)];
        tea(&search(&[common.as_slice(), more].concat()))
    };
    run(&["--resume"]).refused(&["--resume", "no search to continue"]);
    assert_eq!(run(&[]).code, 0);
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    let names = ["search.json", "search.jsonl", "results.json", "results.md"];
    let whole = names.map(read);
    let lines = &whole[1];
    let first = lines.iter().position(|b| *b == b'\n').unwrap() + 1;
    // Killed before the first line, between two, within one, and after the last.
    for cut in [0, first, first + 200, lines.len()] {
        std::fs::write(out.join("search.jsonl"), &lines[..cut]).unwrap();
        std::fs::remove_file(out.join("results.json")).unwrap();
        let again = run(&["--resume", "--rollout-batch", "7"]);
        assert_eq!(again.code, 0, "{}", again.err);
        assert_eq!(names.map(read), whole, "cut at {cut}");
    }
    run(&["--resume", "--seed", "2"]).refused(&["seed = 1", "is 2", "--overwrite"]);
    run(&["--resume", "--prefix-tokens", "3"]).refused(&["prefix_tokens = null", "is 3"]);
    run(&["--resume", "--kv-cache-dtype", "float16"]).refused(&["kv_cache_dtype = null", "float16"]);
    let swapped = [&lines[first..], &lines[..first]].concat();
    std::fs::write(out.join("search.jsonl"), swapped).unwrap();
    run(&["--resume"]).refused(&["search.jsonl:1", "prompt 1", "--overwrite"]);
    let replaced = run(&["--overwrite"]);
    assert_eq!(replaced.code, 0, "{}", replaced.err);
    assert_eq!(names.map(read), whole);
    run(&["--resume", "--overwrite"]).refused(&["--overwrite"]);
}

/// Arguments that search the tiny models of a directory.
fn of_files<'a>(policy: &'a str, reward: &'a str, prompts: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let models = ["--model", policy, "--reward-model", reward, "--prompts", prompts];
    let length = ["--max-completion-length", "10"];
    search(&[models.as_slice(), &length, more].concat())
}

#[test]
fn files_are_searched_and_the_settings_count() {
    let dir = tiny::workplace();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (policy, reward, prompts) = (at("policy"), at("reward"), at("prompts.jsonl"));
    let lines = |more: &[&str]| {
        tea(&of_files(
            &policy,
            &reward,
            &prompts,
            &[more, &["--json"]].concat(),
        ))
        .lines()
    };
    let first = lines(&[]);
    assert_eq!(first.len(), 5);
    first.iter().for_each(line_is_sound);
    assert!(first.iter().all(|l| l["best"].get("true_score").is_none()));
    assert_eq!(first, lines(&[]));
    assert_ne!(first, lines(&["--seed", "2"]));
    assert_eq!(first[..2], lines(&["--num-prompts", "2"])[..]);
    let short = lines(&["--prefix-tokens", "1", "--fill-width"]);
    assert!(short.iter().all(|l| l["prefix_tokens"] == 1));
    // Nothing of ten tokens goes on after ten: the budget is the root's, which is best-of-N.
    let ended = lines(&["--prefix-tokens", "10", "--compare-bon"]);
    for line in &ended {
        assert_eq!(
            (line["nodes"].as_array().unwrap().len(), &line["ended"]),
            (1, &json!(2))
        );
        assert_eq!(line["nodes"][0]["rewards"], line["best_of_n"]["rewards"]);
    }
    // A flat reward: no spread, the root wins the tie, every prediction is the reward.
    let flat = tea(&of_files(&policy, &at("reward-flat"), &prompts, &["--json"])).lines();
    assert!(
        flat.iter()
            .all(|l| l["chosen"] == 0 && l["nodes"][0]["predicted"] == 0.0)
    );
    let words = tea(&of_files(&policy, &reward, &prompts, &[]));
    assert!(
        words.out.contains("--- prompt 5: reward") && words.out.contains("SLG search"),
        "{}",
        words.out
    );
}

#[test]
fn searches_that_cannot_be_are_refused() {
    let dir = tiny::workplace();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (policy, reward, prompts) = (at("policy"), at("reward"), at("prompts.jsonl"));
    tea(&["search", "--budget", "59"]).refused(&["--budget 59", "least budget", "60"]);
    tea(&["search", "--budget", "130", "--width", "5"]).refused(&["120", "150"]);
    tea(&["search", "--budget", "14", "--samples", "5", "--width", "2"]).refused(&["least budget", "15"]);
    tea(&search(&["--temperature", "0"])).refused(&["--temperature"]);
    tea(&search(&["--prefix-tokens", "0"])).refused(&["--prefix-tokens"]);
    tea(&search(&["--alpha", "0.7"])).refused(&["alpha"]);
    tea(&["search", "--budget", "100", "--samples", "3"]).refused(&["--samples"]);
    tea(&search(&["--model", &policy, "--reward-model", &reward])).refused(&["--prompts"]);
    tea(&search(&["--model", &policy, "--prompts", &prompts])).refused(&["--reward-model"]);
    tea(&["search"]).refused(&["--budget"]);
    tea(&of_files(&policy, &at("reward-nan"), &prompts, &[])).refused(&["NaN", "score.weight"]);
    tea(&of_files(&policy, &policy, &prompts, &[])).refused(&["--reward-model"]);
}

/// Rewards of a prompt: the quantiles of a normal law with this mean, shuffled.
fn bell(mean: f64, n: usize) -> Vec<f64> {
    let ranks: Vec<usize> = (0..n).map(|i| (i * 37 + 11) % n).collect();
    ranks
        .iter()
        .map(|r| {
            let p = (*r as f64 + 0.5) / n as f64;
            mean + tea_wgpu::advantage::tail::normal_quantile(p)
        })
        .collect()
}

#[test]
fn stored_rewards_predict_best_of_n() {
    let dir = tempfile::tempdir().unwrap();
    let rows = (0..6).map(|p| json!({"id": format!("p{p}"), "rewards": bell(f64::from(p), 128)}));
    let input = jsonl(dir.path(), rows);
    let out = dir.path().join("predicted");
    let common = ["search", "predict", "--rewards", text(&input), "--first", "64"];
    let run = tea(&[common.as_slice(), &["--output", text(&out)]].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(
        run.out.contains("coverage") && run.out.contains("first 64"),
        "{}",
        run.out
    );
    for file in ["results.json", "results.md", "predicted.svg", "predicted.png"] {
        assert!(out.join(file).exists(), "{file}");
    }
    let printed = tea(&[
        common.as_slice(),
        &["--json", "--ns", "512,32", "--resamples", "50"],
    ]
    .concat());
    let v: Value = serde_json::from_str(&printed.out).unwrap();
    let points = v["points"].as_array().unwrap();
    let ns: Vec<u64> = points.iter().map(|p| p["n"].as_u64().unwrap()).collect();
    assert_eq!((ns.as_slice(), &v["total"]), ([32, 512].as_slice(), &json!(128)));
    let (near, far) = (&points[0], &points[1]);
    // Mean 2.5 over prompts, plus c_32 = 2.070 and c_512 = 3.037.
    for (point, want) in [(near, 2.5 + 2.070), (far, 2.5 + 3.037)] {
        let got = point["predicted"]["mean"].as_f64().unwrap();
        assert!((got - want).abs() < 0.3, "{point}");
    }
    assert!(near["coverage"].as_f64().unwrap() > 0.5 && near["error"]["low"].is_number());
    assert!(far["observed"].is_null() && far["coverage"].is_null());

    let bad = |row: Value, more: &[&str], parts: &[&str]| {
        let input = jsonl(dir.path(), [json!({"rewards": bell(0.0, 32)}), row]);
        tea(&[&["search", "predict", "--rewards", text(&input)], more].concat()).refused(parts);
    };
    bad(
        json!({"rewards": [1.0, null]}),
        &[],
        &["in.jsonl:2", "\"rewards\"[1]"],
    );
    bad(json!({"rewards": []}), &[], &["in.jsonl:2", "rewards"]);
    bad(
        json!({"id": "short", "rewards": [1, 2, 3, 4]}),
        &["--first", "20"],
        &["short", "--first"],
    );
    bad(json!({"rewards": bell(0.0, 32)}), &["--ns", "0"], &["--ns"]);
    bad(
        json!({"rewards": bell(0.0, 32)}),
        &["--resamples", "0"],
        &["--resamples"],
    );
    tea(&["search", "predict", "--rewards", "no/such/file"]).refused(&["no/such/file"]);
}
