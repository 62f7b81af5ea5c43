//! `--matmul-precision`: it reaches the device in every command that takes it, and moves what it should.

use super::*;

/// `high` is taken by every adapter; a row of 40 is more than it splits. `medium` is close, where the adapter can.
#[test]
fn log_probabilities_are_of_the_precision_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<u64> = (0..40).map(|i| (i * 37 + 11) % 101).collect();
    let input = jsonl(dir.path(), [json!({"tokens": tokens})]);
    let of = |precision| {
        let words = ["logprobs", "--model", "tiny", "--input", text(&input)];
        tea(&[&words[..], &["--matmul-precision", precision]].concat())
    };
    let values = |run: Run| -> Vec<f64> {
        let all = run.lines()[0]["logprobs"].as_array().unwrap().clone();
        all.iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let exact = values(of("highest"));
    let far = |other: &[f64]| {
        assert_eq!((exact.len(), other.len()), (39, 39));
        let off = exact.iter().zip(other).map(|(a, b)| (a - b).abs());
        off.fold(0.0, f64::max)
    };
    assert_eq!(far(&values(of("high"))), 0.0);
    let medium = of("medium");
    if medium.code == 0 {
        let off = far(&values(medium));
        assert!(off > 0.0 && off < 1e-2, "{off}");
    }
    of("tf32").refused(&["tf32", "high"]);
}

/// A command that left the setting aside would succeed where there are no cooperative matrices, and give `highest`'s numbers where there
/// are.
#[test]
fn every_command_takes_the_precision_to_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<u64> = (0..12).map(|i| (i * 37 + 11) % 101).collect();
    let file = |name: &str, row: Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("{row}\n")).unwrap();
        path.to_str().unwrap().to_string()
    };
    let plain = file("tokens.jsonl", json!({"tokens": tokens}));
    let weighted = file(
        "weighted.jsonl",
        json!({"tokens": tokens, "prompt_len": 4, "weight": 1.0}),
    );
    let gradient = format!("{}/gradient.safetensors", text(dir.path()));
    let commands = [
        "generate --model tiny --json --max-completion-length 4 --prompt add".to_string(),
        format!("logprobs --model tiny --input {plain}"),
        format!("score --reward-model tiny-reward --input {plain}"),
        format!("gradient --model tiny --full --input {weighted} --output {gradient}"),
    ];
    // The test binary may run on another driver than the commands it starts (a runner), so that the first command tells whether
    // the adapter can; tests/linear.rs holds what it says against the adapter's report.
    let mut able = None;
    for command in commands {
        let run = |precision| {
            let words = command.split(' ').chain(["--matmul-precision", precision]);
            tea(&words.collect::<Vec<_>>())
        };
        let exact = run("highest");
        assert_eq!(exact.code, 0, "{command}: {}", exact.err);
        let medium = run("medium");
        if *able.get_or_insert(medium.code == 0) {
            assert_eq!(medium.code, 0, "{command}: {}", medium.err);
            assert_ne!(medium.out, exact.out, "{command}");
        } else {
            medium.refused(&["--matmul-precision medium", "use --matmul-precision highest"]);
        }
    }
}
