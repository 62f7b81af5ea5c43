//! `judge` without a server that answers: exit code 2 and what to do.

use super::*;

fn evaluation(dir: &Path, word: &str, prompts: &[&str]) -> PathBuf {
    let dir = dir.join(word);
    std::fs::create_dir_all(&dir).unwrap();
    let meta = json!({
        "version": 1, "model": word, "reward_model": "r", "prompts_file": "p", "prompts_sha256": "",
        "num_prompts": prompts.len(), "samples": 2, "seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "max_completion_length": 8
    });
    std::fs::write(dir.join("eval.json"), meta.to_string()).unwrap();
    let rows = prompts
        .iter()
        .enumerate()
        .map(|(i, p)| json!({"prompt_index": i, "key": p, "prompt": p}));
    std::fs::rename(jsonl(&dir, rows), dir.join("prompts.jsonl")).unwrap();
    let rows = (0..2 * prompts.len()).map(|i| {
        json!({
            "prompt_index": i / 2, "sample": i % 2, "text": format!("{word} {i}"), "tokens": 2, "finish_reason": "stop",
            "reward": i as f64
        })
    });
    std::fs::rename(jsonl(&dir, rows), dir.join("completions.jsonl")).unwrap();
    dir
}

#[test]
fn judge_says_what_to_do_when_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        evaluation(dir.path(), "one", &["a", "b"]),
        evaluation(dir.path(), "two", &["a", "b"]),
    );
    let other = evaluation(dir.path(), "other", &["a", "c"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let down = format!("http://127.0.0.1:{port}");
    let out = dir.path().join("judged");
    let ask = |second: &Path, endpoint: &str, more: &[&str]| {
        let mut args = vec![
            "judge",
            text(&one),
            text(second),
            "--endpoint",
            endpoint,
            "--model",
            "m",
            "--retries",
            "1",
            "--backoff",
            "0.01",
        ];
        args.extend(more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        finish(command.args(args).env("TEST_JUDGE_KEY", "sk-hidden-1234"))
    };
    let run = ask(
        &two,
        &down,
        &["--output", text(&out), "--api-key-env", "TEST_JUDGE_KEY", "-vv"],
    );
    run.refused(&[
        "0 of 2 prompts are judged; nothing was stored",
        "2 tries",
        "/v1/chat/completions",
        "--endpoint",
    ]);
    assert!(!run.err.contains("sk-hidden"), "{}", run.err);
    assert!(!out.exists(), "nothing to resume");
    ask(&two, &down, &["--output", text(&out)]).refused(&["2 tries"]);
    ask(&two, &down, &["--max-tokens", "0"]).refused(&["--max-tokens"]);
    ask(&other, &down, &[]).refused(&["prompt 1", "same"]);
    ask(&two, "127.0.0.1:80", &[]).refused(&["--endpoint", "http://"]);
    ask(&two, "http://u:secret@h", &[]).refused(&["--api-key-env"]);
    let run = ask(&two, &down, &["--api-key-env", "sk-hidden-1234"]);
    run.refused(&["--api-key-env", "name of an environment variable"]);
    assert!(!run.err.contains("sk-hidden"), "{}", run.err);
    ask(&two, &down, &["--n", "3"]).refused(&["--n 3", "2 samples"]);
    ask(&two, &down, &["--timeout", "0"]).refused(&["--timeout"]);
    ask(&two, &down, &["--timeout", "-1"]).refused(&["--timeout"]);
    ask(&two, &down, &["--concurrency", "0"]).refused(&["--concurrency"]);
    ask(dir.path(), &down, &[]).refused(&["eval.json"]);
}

/// A server that refuses every key and repeats it.
fn echo() -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let n = stream.read(&mut head).unwrap_or(0);
            let said = json!({"error": {"message": format!("\u{1b}[31mnot {}", String::from_utf8_lossy(&head[..n]))}});
            let said = said.to_string();
            let answer = format!(
                "HTTP/1.1 401 No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}",
                said.len()
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn no_level_of_the_log_shows_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        evaluation(dir.path(), "one", &["a"]),
        evaluation(dir.path(), "two", &["a"]),
    );
    let url = echo();
    let args = [
        "judge",
        text(&one),
        text(&two),
        "--endpoint",
        &url,
        "--model",
        "m",
        "--api-key-env",
    ];
    for (name, level) in [
        ("OPENAI_API_KEY", "trace"),
        ("ANOTHER_KEY", "trace"),
        ("ANOTHER_KEY", "trace,ureq=trace,ureq_proto=trace,rustls=trace"),
        ("ANOTHER_KEY", "warn"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        let command = command.args(args).arg(name).env(name, "sk-hidden-12345678");
        let run = finish(
            command
                .env("RUST_LOG", level)
                .env("HF_TOKEN", "hf_hidden12345678"),
        );
        run.refused(&["refuses the key", "[key]"]);
        assert!(
            !run.err.contains("hidden") && !run.err.contains('\u{1b}'),
            "{}",
            run.err
        );
    }
}
