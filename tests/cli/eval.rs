//! `eval` and `compare`: what they write, that an interrupted evaluation ends in the same bytes, and what they refuse.

use super::*;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A directory with tiny models, in which commands run.
struct Place(tempfile::TempDir);

impl Place {
    /// Five prompts that have a true score.
    fn new() -> Self {
        let place = Self(tiny::workplace());
        let prompts = tea_wgpu::demo::held_out(1, 5);
        tea_wgpu::demo::write_prompts(&place.at("prompts.jsonl"), &prompts).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command
            .current_dir(self.0.path())
            .env("HF_HUB_OFFLINE", "1")
            .args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Run {
        finish(&mut self.command(line))
    }

    /// `eval` of the tiny policy with these flags, into `output`.
    fn eval(&self, output: &str, flags: &str) -> Run {
        self.run(&format!("eval {POLICY} --output {output} {flags}"))
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }
}

const POLICY: &str = "--model policy --reward-model reward --also-reward demo-score --prompts prompts.jsonl \
                      --max-completion-length 6 --samples 8";

/// A run that must succeed.
#[track_caller]
fn done(run: Run) -> Run {
    assert_eq!(run.code, 0, "{}", run.err);
    run
}

#[test]
fn an_evaluation_stores_every_completion_and_reports_best_of_n() {
    let place = Place::new();
    let run = done(place.eval("e", "--seed 3"));
    assert!(
        run.out.contains("best of") && run.out.contains("extrapolated"),
        "{}",
        run.out
    );
    let meta = place.json("e/eval.json");
    assert_eq!((&meta["samples"], &meta["num_prompts"]), (&json!(8), &json!(5)));
    assert_eq!(meta["also_reward"], "true-score");
    let lines: Vec<Value> = place
        .read("e/completions.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 40);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(
            (&line["prompt_index"], &line["sample"]),
            (&json!(i / 8), &json!(i % 8))
        );
        assert!((1..=6).contains(&line["tokens"].as_u64().unwrap()));
    }
    // The table is that of the stored rewards.
    let rewards: Vec<f64> = lines.iter().map(|l| l["reward"].as_f64().unwrap()).collect();
    let best = |n: usize| -> f64 {
        let groups = rewards
            .chunks(n)
            .map(|g| g.iter().copied().fold(f64::MIN, f64::max));
        groups.sum::<f64>() / (rewards.len() / n) as f64
    };
    let results = place.json("e/results.json");
    let points = results["judges"][0]["points"].as_array().unwrap();
    let sizes: Vec<u64> = points.iter().map(|p| p["n"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64]);
    for (point, n) in points.iter().zip([1, 2, 4, 8]) {
        assert!((point["grouped"]["mean"].as_f64().unwrap() - best(n)).abs() < 1e-12);
        assert_eq!(point["extrapolated"], Value::Null);
    }
    assert!(points[6]["grouped"].is_null() && points[6]["extrapolated"]["mean"].is_f64());
    let cut = lines.iter().filter(|l| l["finish_reason"] == "length").count();
    assert_eq!(results["truncated"].as_f64().unwrap(), cut as f64 / 40.0);
    // Scores are those of `score`, sample by sample.
    let input: String = lines
        .iter()
        .zip(0..)
        .map(|(l, i)| {
            let prompt: Value =
                serde_json::from_str(place.read("prompts.jsonl").lines().nth(i / 8).unwrap()).unwrap();
            format!(
                "{}\n",
                json!({"id": i, "prompt": prompt["prompt"], "response": l["text"]})
            )
        })
        .collect();
    std::fs::write(place.at("score.jsonl"), input).unwrap();
    let scored = place
        .run("score --reward-model reward --input score.jsonl")
        .lines();
    for (line, scored) in lines.iter().zip(&scored) {
        let (a, b) = (
            line["reward"].as_f64().unwrap(),
            scored["score"].as_f64().unwrap(),
        );
        assert!((a - b).abs() < 1e-5, "{a} against {b}");
    }
    assert!(place.at("e/best_of_n.png").metadata().unwrap().len() > 1000);
    assert!(
        place
            .read("e/best_of_n-also.svg")
            .contains("picked by the first judge")
    );
}

/// Every file of an evaluation that must not depend on how it came to be.
fn files(place: &Place, dir: &str) -> BTreeMap<&'static str, String> {
    let names = [
        "completions.jsonl",
        "prompts.jsonl",
        "eval.json",
        "results.json",
        "results.csv",
    ];
    names
        .into_iter()
        .map(|name| (name, place.read(&format!("{dir}/{name}"))))
        .collect()
}

#[test]
fn an_interrupted_evaluation_ends_in_the_same_bytes() {
    let place = Place::new();
    done(place.eval("whole", ""));
    let whole = files(&place, "whole");
    // Another batch size gives the same samples and scores.
    done(place.eval("batch", "--rollout-batch 3"));
    assert_eq!(files(&place, "batch"), whole);

    // Killed in the middle: one sequence at a time is slow enough to be caught.
    let slow = format!("eval {POLICY} --output killed --rollout-batch 1");
    let mut child = place
        .command(&slow)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (begun, path) = (Instant::now(), place.at("killed/completions.jsonl"));
    while std::fs::metadata(&path).map_or(0, |m| m.len()) == 0 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be killed"
        );
        assert!(begun.elapsed() < Duration::from_secs(100), "nothing was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.at("killed/results.json").exists());
    let stored = place.read("killed/completions.jsonl");
    assert!(
        stored.len() < whole["completions.jsonl"].len(),
        "it was killed too late"
    );
    place
        .run("compare whole killed")
        .refused(&["of 5 prompts", "--resume"]);
    // And a line torn on top of that.
    std::fs::write(&path, format!("{stored}{{\"prompt_index\":")).unwrap();
    done(place.eval("killed", "--resume"));
    assert_eq!(files(&place, "killed"), whole);
    // A finished one is only reported again.
    done(place.eval("killed", "--resume"));
    assert_eq!(files(&place, "killed"), whole);
}

#[test]
fn what_cannot_be_evaluated_is_refused_before_anything_is_written() {
    let place = Place::new();
    for (flags, parts) in [
        ("--samples 0", &["'0' for '--samples <N>'", "from 1 to"][..]),
        ("--top-p 0", &["--top-p"]),
        ("--temperature -1", &["--temperature"]),
        ("--alpha 0.7", &["--alpha"]),
        ("--prompts none.jsonl", &["none.jsonl"]),
        ("--num-prompts 6", &["--num-prompts 6", "5 prompts"]),
        ("--max-completion-length 500", &["prompts.jsonl", "context"]),
        ("--reward-model none", &["--reward-model", "none"]),
        ("--also-reward policy", &["--also-reward", "score head"]),
        ("--adapter none", &["none"]),
        ("--resume", &["--resume", "no evaluation"]),
        ("--resume --overwrite", &["exclude"]),
        ("--template-date x", &["--template-date"]),
    ] {
        // A flag given again wins.
        let given: Vec<&str> = flags.split_whitespace().collect();
        let mut words: Vec<&str> = POLICY.split_whitespace().collect();
        if let Some(at) = words.iter().position(|w| *w == given[0]) {
            words.drain(at..at + 2);
        }
        let line = format!("eval {} --output bad {flags}", words.join(" "));
        place.run(&line).refused(parts);
        assert!(!place.at("bad").exists(), "{flags}: something was written");
    }
    // Weights that are no numbers are named before anything is written.
    let nan = "eval --model policy --reward-model reward-nan --prompts prompts.jsonl --samples 2 --max-completion-length 4 --output nan";
    place.run(nan).refused(&["NaN", "score.weight"]);
    assert!(!place.at("nan").exists());

    done(place.eval("e", "--num-prompts 2"));
    place.run("compare e e").refused(&["twice"]);
    place
        .eval("e", "--num-prompts 2")
        .refused(&["already holds an evaluation", "--overwrite"]);
    place
        .eval("e", "--num-prompts 2 --resume --seed 9")
        .refused(&["seed = 1", "it is 9"]);
    place
        .eval("e", "--num-prompts 2 --resume --kv-cache-dtype float16")
        .refused(&["kv_cache_dtype = null", "float16"]);
    place.eval("e", "--resume").refused(&["--resume", "prompts"]);
    done(place.eval("e", "--num-prompts 1 --overwrite --kv-cache-dtype float16"));
    assert_eq!(place.json("e/eval.json")["kv_cache_dtype"], "float16");
    assert_eq!(place.read("e/completions.jsonl").lines().count(), 8);
}

#[test]
fn evaluations_of_a_run_are_compared() {
    let place = Place::new();
    let train = "train --model policy --reward-model reward --prompts prompts.jsonl --num-generations 4 --prompts-per-step 2 \
                 --max-completion-length 6 --lora-rank 4 --learning-rate 1e-2 --steps 2 --save-steps 1 --output run";
    done(place.run(train));
    let common = "--also-reward true-score --prompts prompts.jsonl --samples 8";
    done(place.eval("base", "--seed 1"));
    // The policy, its adapter, the judge and the length come from the run.
    done(place.run(&format!("eval --run run {common} --output last --seed 2")));
    let meta = place.json("last/eval.json");
    assert_eq!((&meta["model"], &meta["step"]), (&json!("policy"), &json!(2)));
    assert_eq!(meta["adapter"], "run/checkpoints/step_2");
    assert_eq!(meta["max_completion_length"], 6);
    // A LoRA checkpoint as a model is the same as that checkpoint of the run.
    let first = format!("eval --model run/checkpoints/step_1 --reward-model reward {common} --output first");
    done(place.run(&first));
    done(place.run(&format!(
        "eval --run run --checkpoint step_1 {common} --output again"
    )));
    assert_eq!(
        place.read("first/completions.jsonl"),
        place.read("again/completions.jsonl")
    );
    assert_ne!(
        place.read("first/completions.jsonl"),
        place.read("base/completions.jsonl")
    );
    place
        .run(&format!(
            "eval --run run --checkpoint best {common} --output none"
        ))
        .refused(&["no checkpoint best", "step_1, step_2"]);

    let line = "compare base first last --label last=trained --output out";
    let shown = done(place.run(line));
    for part in [
        "seed of the samples",
        "trained",
        "Held-out reward true-score",
        "Both rewards together",
        "step_2",
    ] {
        assert!(shown.out.contains(part), "{part:?} not in {}", shown.out);
    }
    assert_eq!(shown.out, place.read("out/compare.md"));
    assert!(place.read("out/frontier.svg").contains("trained"));
    assert!(place.at("out/frontier.png").metadata().unwrap().len() > 1000);
    // The same seed, the same intervals; every format holds the same difference.
    let json: Value = serde_json::from_str(&done(place.run(&format!("{line} --format json"))).out).unwrap();
    assert_eq!(json, place.json("out/compare.json"));
    let row = &json["comparison"]["methods"][2]["rows"][3];
    assert_eq!(row["n"], 8);
    let csv = place.read("out/compare.csv");
    let field = row["difference"]["mean"].as_f64().unwrap().to_string();
    let cells = |l: &str| l.split(',').map(str::to_string).collect::<Vec<_>>();
    let found = csv.lines().find(|l| l.starts_with("main,trained,8,")).unwrap();
    assert!(cells(found).contains(&field), "{field} not in {found}");

    place
        .run("compare base last --n 3")
        .refused(&["--n 3", "8 samples", "divide"]);
    place
        .run("compare base last --baseline x")
        .refused(&["--baseline x", "base, last"]);
    place
        .run("compare base run")
        .refused(&["run holds no evaluation"]);
    assert_eq!(place.run("compare base").code, 2);
    done(place.eval("fewer", "--num-prompts 4"));
    place
        .run("compare base fewer")
        .refused(&["base has 5 prompts and fewer has 4"]);
    let edited = place
        .read("last/completions.jsonl")
        .replacen("\"reward\":", "\"reward\":null,\"was\":", 1);
    std::fs::write(place.at("last/completions.jsonl"), edited).unwrap();
    place
        .run("compare base last")
        .refused(&["completions.jsonl:1", "finite"]);
}

#[test]
fn an_evaluation_of_a_run_that_was_trained_again_is_not_continued() {
    let place = Place::new();
    let train = |flags: &str| {
        let line = "train --model policy --reward-model reward --prompts prompts.jsonl --num-generations 4 \
                    --prompts-per-step 2 --max-completion-length 6 --lora-rank 4 --steps 1 --output run";
        done(place.run(&format!("{line} {flags}")));
    };
    let eval = |flags: &str| {
        place.run(&format!(
            "eval --run run --prompts prompts.jsonl --samples 4 --output e {flags}"
        ))
    };
    train("--learning-rate 1e-3");
    done(eval(""));
    let meta = place.json("e/eval.json");
    let sum = Command::new("sha256sum")
        .arg(place.at("run/checkpoints/step_1/adapter_model.safetensors"))
        .output()
        .unwrap();
    let hash = meta["weights_sha256"]["adapter"].as_str().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(hash), "{hash}");
    // The policy and its judge are files too; the types are what was loaded.
    assert!(
        meta["weights_sha256"]["model"].is_string() && meta["weights_sha256"]["reward_model"].is_string()
    );
    assert_eq!(
        (&meta["base_dtype"], &meta["reward_dtype"]),
        (&json!("f32"), &json!("f32"))
    );
    let torn = place.read("e/completions.jsonl");
    let whole = torn.clone();
    std::fs::write(place.at("e/completions.jsonl"), &torn[..torn.len() / 2]).unwrap();
    done(eval("--resume"));
    assert_eq!(place.read("e/completions.jsonl"), whole);
    // Every setting that eval.json holds of the run is the same, and the weights are not.
    train("--learning-rate 5e-3 --overwrite");
    eval("--resume").refused(&[
        "--resume",
        "other weights of run/checkpoints/step_1",
        "--overwrite",
    ]);
    assert_eq!(place.read("e/completions.jsonl"), whole);
    done(eval("--overwrite"));
    assert_ne!(place.json("e/eval.json")["weights_sha256"]["adapter"], hash);
}

/// The same prompts in another order pair by what they say; other prompts are refused by name.
#[test]
fn prompts_in_another_order_are_paired() {
    let place = Place::new();
    let lines = |text: &str| text.lines().map(|l| format!("{l}\n")).collect::<Vec<_>>();
    let prompts = lines(&place.read("prompts.jsonl"));
    let reversed: String = prompts.iter().rev().cloned().collect();
    std::fs::write(place.at("reversed.jsonl"), reversed).unwrap();
    std::fs::write(
        place.at("twice.jsonl"),
        format!("{0}{0}{1}", prompts[0], prompts[1]),
    )
    .unwrap();
    let eval = |prompts: &str, output: &str| {
        let line = format!(
            "eval --model policy --reward-model reward --prompts {prompts} --max-completion-length 6 --samples 4 --output {output}"
        );
        done(place.run(&line));
    };
    eval("prompts.jsonl", "a");
    eval("reversed.jsonl", "b");
    eval("twice.jsonl", "c");
    let compared = done(place.run("compare a b --format json"));
    let json: Value = serde_json::from_str(&compared.out).unwrap();
    assert!(
        json["notes"]
            .to_string()
            .contains("b has the prompts in another order"),
        "{json}"
    );
    // Prompt by prompt: win, tie and loss are those of b's own rewards at the same prompt.
    let best = |dir: &str, at: usize| -> f64 {
        let rewards = place.read(&format!("{dir}/completions.jsonl"));
        let of = rewards.lines().skip(4 * at).take(4);
        let reward = |l: &str| {
            serde_json::from_str::<Value>(l).unwrap()["reward"]
                .as_f64()
                .unwrap()
        };
        of.map(reward).fold(f64::MIN, f64::max)
    };
    let wins = (0..5).filter(|&p| best("b", 4 - p) > best("a", p) + 1e-9).count();
    let row = &json["comparison"]["methods"][1]["rows"][2];
    assert_eq!((&row["n"], &row["outcome"]["wins"]), (&json!(4), &json!(wins)));
    place
        .run("compare a c")
        .refused(&["a has 5 prompts and c has 3", "only a has is number 2"]);
}

/// One prompt has no spread over prompts: no interval is made up, and the reason is said.
#[test]
fn one_prompt_has_no_interval() {
    let place = Place::new();
    let run = done(place.eval("e", "--num-prompts 1"));
    assert!(
        run.out.contains("[n/a]") && run.out.contains("there is one prompt"),
        "{}",
        run.out
    );
    let point = &place.json("e/results.json")["judges"][0]["points"][0]["grouped"];
    assert!(
        point["mean"].is_f64() && point["low"].is_null() && point["high"].is_null(),
        "{point}"
    );
    done(place.eval("f", "--num-prompts 1 --seed 2"));
    let compared = done(place.run("compare e f"));
    assert!(
        compared.out.contains("[n/a]") && compared.out.contains("one prompt"),
        "{}",
        compared.out
    );
    assert!(done(place.run("compare e f --format csv")).code == 0);
}
