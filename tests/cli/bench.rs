//! `bench`: its forms, a stored run and its comparison, its refusals. Times are not judged.

use super::*;

fn bench(flags: &str) -> Run {
    let words: Vec<&str> = std::iter::once("bench").chain(flags.split_whitespace()).collect();
    tea(&words)
}

#[test]
fn cases_are_listed_and_filtered() {
    let all = bench("kernels --list");
    assert_eq!(all.code, 0, "{}", all.err);
    let some = bench("kernels --list --quick linear_forward/q8_0 decode1/");
    assert!(some.out.lines().count() > 1);
    assert!(some.out.lines().all(|l| all.out.contains(l)));
    assert!(
        some.out
            .lines()
            .all(|l| l.starts_with("linear_forward/q8_0/smollm2-135m/decode1/"))
    );
    bench("kernels --list nothing_of_this_name").refused(&["nothing_of_this_name", "--list"]);
    bench("kernels --models gpt-9").refused(&["gpt-9", "llama-3.2-1b"]);
    bench("kernels --max-seconds -1").refused(&["--max-seconds"]);
}

#[test]
fn a_run_is_stored_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.json");
    let file = path.to_str().unwrap();
    let what = "kernels --quick rmsnorm_forward decode1/ -r 3 --max-seconds 5";
    let rows = bench(&format!("{what} -o jsonl --save-baseline {file}")).lines();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row["samples"].as_array().unwrap().len(), 3);
    assert!(row["error"].as_f64().unwrap() < 1e-5, "{row}");
    for column in ["value", "GFLOP/s", "GB/s", "% of roofline"] {
        assert!(row[column].as_f64().unwrap() > 0.0, "{column}: {row}");
    }
    let stored: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(stored["rows"][0]["samples"], row["samples"]);
    assert!(stored["header"]["ceiling"]["fma_f32"].as_f64().unwrap() > 0.0);
    let compared = bench(&format!("{what} --compare {file}"));
    assert_eq!(compared.code, 0, "{}", compared.err);
    assert!(
        compared.out.contains("| new/old ") && compared.out.contains("rmsnorm_forward"),
        "{}",
        compared.out
    );
    bench(&format!("{what} --compare {file}.gone")).refused(&["base.json.gone"]);
}

#[test]
fn a_step_of_the_embedded_models_is_measured() {
    let flags = "e2e --model tiny --reward-model tiny-reward --matmul-precision high --num-generations 2 --prompt-length 8 \
                 --max-completion-length 4 -r 1 -o jsonl";
    let rows = bench(flags).lines();
    for phase in [
        "sample",
        "score",
        "reference",
        "forward",
        "backward",
        "optimizer",
        "step",
    ] {
        let test = format!("{phase} 1×2×(8+4)");
        let row = rows.iter().find(|r| r["test"] == test.as_str());
        assert!(row.is_some_and(|r| r["value"].as_f64().unwrap() > 0.0), "{phase}");
    }
    let rules = rows
        .iter()
        .filter(|r| r["test"] == "advantages of 10000 groups of 64");
    assert!(rules.count() > 8, "{rows:?}");
    let refused = "train --model tiny --batch 0";
    bench(refused).refused(&["--batch"]);
    bench("train --model tiny --lora-rank 0").refused(&["--lora-rank"]);
    bench("rollout --model random:gpt-9").refused(&["gpt-9", "smollm2-135m"]);
}
