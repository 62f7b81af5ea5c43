//! Everything that can go wrong with a server.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::json;

use super::fault_server::*;
use super::*;

#[test]
fn faults_are_tried_again() {
    let whole = json!({"choices": [{"message": {"content": "{\"winner\": \"A\"}"}}]}).to_string();
    let server = Server::start(move |n, seen| match n {
        0 => Act::Status(500, "", "oops".into()),
        1 => Act::Status(
            503,
            "",
            json!({"error": {"message": "loading the model"}}).to_string(),
        ),
        2 => Act::Status(429, "Retry-After: 0\r\n", String::new()),
        3 => Act::Hang(Duration::from_millis(1500)),
        // Less than the length it promised.
        4 => Act::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{whole}")),
        5 => Act::Bytes(String::new()),
        6 => Act::Bytes("SSH-2.0-OpenSSH_9.2\r\n".into()),
        7 => Act::Status(200, "", whole[..20].into()),
        8 => Act::Status(200, "", json!({"object": "list", "data": []}).to_string()),
        9 => Act::Status(
            200,
            "",
            json!({"choices": [{"message": {"content": 7}}]}).to_string(),
        ),
        _ => verdict(seen.side_with("good")),
    });
    let endpoint = Endpoint {
        timeout: Duration::from_millis(700),
        retries: 10,
        ..server.endpoint()
    };
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let r = run(&eval("good", 4), &eval("bad", 4), endpoint, &one).unwrap();
    assert_eq!(counts(&r), (4, 0, 0, 0));
    assert_eq!(server.seen().len(), 4 + 10);
    assert!(r.judgements.iter().all(|j| j.asked == 1));
}

#[test]
fn the_server_names_the_wait() {
    let server = Server::start(|n, _| match n {
        0 => Act::Status(429, "Retry-After: 1\r\n", String::new()),
        _ => verdict("A"),
    });
    let begun = Instant::now();
    run(
        &eval("good", 1),
        &eval("bad", 1),
        server.endpoint(),
        &settings(None, false),
    )
    .unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_judge_without_json_mode_is_asked_without_it() {
    let server = Server::start(|_, seen| match seen.body.get("response_format") {
        Some(_) => Act::Status(
            400,
            "",
            json!({"error": "response_format is not supported"}).to_string(),
        ),
        None => verdict("A"),
    });
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let r = run(&eval("good", 5), &eval("bad", 5), server.endpoint(), &one).unwrap();
    assert_eq!((r.invalid, server.seen().len()), (0, 6), "found out once");
    // A question that is refused either way is left out; the others go on.
    let server = Server::start(|_, seen| {
        match seen.messages()[1]["content"]
            .as_str()
            .unwrap()
            .contains("prompt 1\n")
        {
            true => Act::Status(400, "", json!({"error": {"message": "too long"}}).to_string()),
            false => verdict("A"),
        }
    });
    let r = run(&eval("good", 3), &eval("bad", 3), server.endpoint(), &one).unwrap();
    assert_eq!(
        (r.invalid, r.refused, r.judgements[1].winner),
        (0, 1, Winner::Refused)
    );
    assert_eq!(r.win_rate.mean, mean_of_others(&r));
    assert!(
        r.judgements[1].reason.contains("HTTP 400") && r.judgements[1].reason.contains("too long"),
        "{}",
        r.judgements[1].reason
    );
}

/// The win rate over the prompts that were answered.
fn mean_of_others(r: &JudgeResult) -> f64 {
    let asked = r.judgements.iter().filter(|j| j.winner != Winner::Refused);
    let won: Vec<f64> = asked
        .map(|j| f64::from(u8::from(j.winner == Winner::First)))
        .collect();
    won.iter().sum::<f64>() / won.len() as f64
}

#[test]
fn a_refused_question_is_asked_again_at_resume() {
    let dir = tempfile::tempdir().unwrap();
    let mended = Arc::new(AtomicBool::new(false));
    let seen_mended = mended.clone();
    let server = Server::start(move |_, seen| {
        let text = seen.messages()[1]["content"].as_str().unwrap();
        match text.contains("prompt 2\n") && !seen_mended.load(Ordering::SeqCst) {
            true => Act::Status(413, "", json!({"error": {"message": "too long"}}).to_string()),
            false => verdict(seen.side_with("good")),
        }
    });
    let (good, bad) = (eval("good", 4), eval("bad", 4));
    let ask = |resume| {
        run(
            &good,
            &bad,
            server.endpoint(),
            &settings(Some(dir.path()), resume),
        )
        .unwrap()
    };
    let first = ask(false);
    assert_eq!((counts(&first), first.refused), ((3, 0, 0, 0), 1));
    let asked = server.seen().len();
    let again = ask(true);
    assert_eq!(
        (counts(&again), again.refused),
        ((3, 0, 0, 0), 1),
        "still refused"
    );
    assert!(
        server.seen().len() > asked,
        "the refused question was asked again"
    );
    mended.store(true, Ordering::SeqCst);
    let asked = server.seen().len();
    let whole = ask(true);
    assert_eq!((counts(&whole), whole.refused), ((4, 0, 0, 0), 0));
    assert_eq!(server.seen().len(), asked + 1, "and no other one");
    assert_eq!(ask(true).judgements, whole.judgements, "what was answered stays");
    assert_eq!(server.seen().len(), asked + 1);
}

#[test]
fn a_server_that_refuses_everything_ends_the_run_and_leaves_nothing() {
    for status in [301, 401, 402, 403, 404, 405, 406, 410, 415, 451] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("judged");
        let server = Server::start(move |_, _| Act::Status(status, "", "no".into()));
        let result = run(
            &eval("good", 9),
            &eval("bad", 9),
            server.endpoint(),
            &settings(Some(&out), false),
        );
        let words = format!("HTTP {status}");
        refused(
            result,
            &[&words, "--", "0 of 9 prompts are judged; nothing was stored"],
        );
        assert!(server.seen().len() <= 4, "{status}: not tried again");
        assert!(!out.exists(), "{status}");
    }
    // The same refusal of whatever is asked, though one question could be at fault for it.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| {
        Act::Status(
            422,
            "",
            json!({"error": {"message": "no such field"}}).to_string(),
        )
    });
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(Some(dir.path()), false)
    };
    let result = run(&eval("good", 30), &eval("bad", 30), server.endpoint(), &one);
    refused(
        result,
        &[
            "all of 8 questions were refused",
            "HTTP 422",
            "no such field",
            "8 of 30",
            "--resume",
        ],
    );
    assert_eq!(server.seen().len(), 2 * REFUSALS);
}

#[test]
fn an_answer_is_as_long_as_asked_for_and_a_cut_one_says_so() {
    let server = Server::start(|n, _| match n {
        0..3 => Act::Status(
            200,
            "",
            json!({"choices": [{"finish_reason": "length", "message": {"content": "{\"winner\": \"A"}}]})
                .to_string(),
        ),
        _ => verdict("A"),
    });
    let endpoint = Endpoint {
        max_tokens: 77,
        ..server.endpoint()
    };
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let r = run(&eval("good", 2), &eval("bad", 2), endpoint, &one).unwrap();
    assert!(server.seen().iter().all(|s| s.body["max_tokens"] == 77));
    assert_eq!((r.invalid, r.settings.max_tokens), (1, 77));
    let bad = r.judgements.iter().find(|j| j.winner == Winner::Invalid).unwrap();
    assert!(bad.reason.contains("--max-tokens"), "{}", bad.reason);
}

/// The answer of a server that was asked for `body`'s parameters and takes only these.
fn takes(body: &serde_json::Value, known: &[&str], refuse: impl Fn(&str) -> Act) -> Option<Act> {
    let mut keys = body.as_object().unwrap().keys();
    keys.find(|k| !known.contains(&k.as_str())).map(|k| refuse(k))
}

#[test]
fn what_a_server_refuses_is_replaced_once_and_remembered() {
    // As OpenAI's reasoning models refuse.
    let server = Server::start(|_, seen| {
        let known = [
            "model",
            "messages",
            "stream",
            "max_completion_tokens",
            "response_format",
        ];
        takes(&seen.body, &known, |name| {
            let message = match name {
                "max_tokens" => "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                _ => "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
            };
            let error = json!({"error": {"message": message, "param": name, "code": "unsupported_parameter"}});
            Act::Status(400, "", error.to_string())
        })
        .unwrap_or_else(|| verdict(seen.side_with("good")))
    });
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (eval("good", 20), eval("bad", 20));
    let r = run(&good, &bad, server.endpoint(), &settings(Some(dir.path()), false)).unwrap();
    assert_eq!((counts(&r), r.refused), ((20, 0, 0, 0), 0));
    assert!(r.judgements.iter().all(|j| j.asked == 1));
    // Each of four threads may find out each of the two for itself, and none a third time.
    let seen = server.seen();
    assert!((22..=28).contains(&seen.len()), "{}", seen.len());
    assert!(
        seen[12..]
            .iter()
            .all(|s| s.body["max_completion_tokens"] == MAX_TOKENS
                && s.body.get("max_tokens").is_none()
                && s.body.get("temperature").is_none())
    );
    let want = Manner {
        max_tokens: Sent::Replaced,
        temperature: Sent::LeftOut,
        ..Manner::default()
    };
    assert_eq!(r.settings.asked, want);
    let stored = std::fs::read_to_string(dir.path().join("judge.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        stored["asked"],
        json!({"max_tokens": "replaced", "temperature": "left_out"})
    );
    // A resumed run asks so from the beginning.
    let lines = std::fs::read_to_string(dir.path().join("judgements.jsonl")).unwrap();
    let kept: String = lines.lines().take(15).map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.path().join("judgements.jsonl"), kept).unwrap();
    let again = run(&good, &bad, server.endpoint(), &settings(Some(dir.path()), true)).unwrap();
    assert_eq!((again.judgements, again.settings), (r.judgements, r.settings));
    assert_eq!(server.seen().len(), seen.len() + 5);
}

#[test]
fn a_server_that_takes_nothing_but_messages_is_asked_with_nothing_else() {
    let server = Server::start(|_, seen| {
        takes(&seen.body, &["model", "messages"], |name| {
            let detail = json!({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]});
            Act::Status(422, "", detail.to_string())
        })
        .unwrap_or_else(|| verdict("A"))
    });
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let r = run(&eval("good", 6), &eval("bad", 6), server.endpoint(), &one).unwrap();
    // max_tokens, its replacement, response_format, stream, temperature: each is refused once.
    assert_eq!((r.invalid, r.refused, server.seen().len()), (0, 0, 6 + 5));
    assert_eq!(
        r.settings.asked.differences(),
        [
            "without max_tokens",
            "without temperature",
            "without response_format",
            "without stream"
        ]
    );
    // A server between hands the refusal on as a success.
    let server = Server::start(|_, seen| match seen.body.get("temperature") {
        Some(_) => {
            let error = json!({"error": {"code": 400, "message": "temperature is not supported"}});
            Act::Status(200, "", error.to_string())
        }
        None => verdict("A"),
    });
    let r = run(&eval("good", 6), &eval("bad", 6), server.endpoint(), &one).unwrap();
    assert_eq!((r.invalid, server.seen().len()), (0, 7));
    assert_eq!(r.settings.asked.differences(), ["without temperature"]);
    // JSON mode by a schema alone.
    let server = Server::start(|_, seen| match seen.body["response_format"]["type"].as_str() {
        Some("json_schema") => verdict("A"),
        _ => Act::Status(
            400,
            "",
            json!({"error": "'response_format.type' must be 'json_schema' or 'text'"}).to_string(),
        ),
    });
    let r = run(&eval("good", 6), &eval("bad", 6), server.endpoint(), &one).unwrap();
    assert_eq!((r.invalid, server.seen().len()), (0, 7));
    assert_eq!(r.settings.asked.response_format, Sent::Replaced);
}

#[test]
fn a_refusal_of_the_question_is_not_taken_for_one_of_a_parameter() {
    // The limit is named, but the question is too long: nothing is left out, and the server's words
    // are kept.
    let long = "'max_tokens' is too large: 512. This model's maximum context length is 600 tokens";
    let server = Server::start(move |_, _| {
        Act::Status(
            400,
            "",
            json!({"error": {"message": long, "param": "max_tokens"}}).to_string(),
        )
    });
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let error = refused(
        run(&eval("good", 9), &eval("bad", 9), server.endpoint(), &one),
        &[
            "all of 8 questions were refused",
            "HTTP 400",
            long,
            "shorter responses",
        ],
    );
    assert!(!error.contains("--api-key"), "{error}");
    assert_eq!(server.seen().len(), REFUSALS, "nothing else was tried");
    assert!(server.seen().iter().all(|s| s.body["max_tokens"] == MAX_TOKENS));
}

#[test]
fn a_judge_that_thinks_gets_room_for_its_answer() {
    let cut = |content: serde_json::Value| {
        let choice = json!({"choices": [{"finish_reason": "length", "message": {"content": content, "reasoning_content": "hm"}}]});
        Act::Status(200, "", choice.to_string())
    };
    let server = Server::start(move |n, seen| {
        match seen.body["max_tokens"].as_u64().unwrap() {
        0..2048 if n == 0 => Act::Status(
            400,
            "",
            json!({"error": {"message": "Could not finish the message because max_tokens or model output limit was reached."}})
                .to_string(),
        ),
        0..4096 if n % 2 == 0 => cut(json!(null)),
        0..4096 => cut(json!("<think>\nLet me see.")),
        _ => Act::Status(
            200,
            "",
            json!({"choices": [{"message": {"content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "{\"winner\": \"B\"}"}]},
                {"type": "text", "text": "{\"winner\": "}, {"type": "text", "text": "\"A\"}"}
            ]}}]})
            .to_string(),
        ),
    }
    });
    let endpoint = Endpoint {
        most_tokens: MOST_TOKENS,
        ..server.endpoint()
    };
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    };
    let r = run(&eval("good", 4), &eval("bad", 4), endpoint, &one).unwrap();
    assert_eq!((r.invalid, r.settings.asked.raised_to), (0, Some(8192)));
    assert!(
        r.judgements
            .iter()
            .all(|j| j.asked == 1 && (j.winner == Winner::First) == (j.first_is_a == Some(true)))
    );
    let limits: Vec<u64> = server
        .seen()
        .iter()
        .map(|s| s.body["max_tokens"].as_u64().unwrap())
        .collect();
    assert_eq!(limits, [512, 2048, 8192, 8192, 8192, 8192]);
    // A limit that was asked for is kept, and a run of nothing but thoughts ends early.
    let server = Server::start(move |_, _| cut(json!("")));
    refused(
        run(&eval("good", 30), &eval("bad", 30), server.endpoint(), &one),
        &[
            "all of 8 questions were not answered",
            "all 512 tokens",
            "--max-tokens",
        ],
    );
    assert_eq!(server.seen().len(), REFUSALS);
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // The server fails from the fourth question to the fifth.
    let server = Server::start(|n, seen| match n {
        3..5 => Act::Status(500, "", String::new()),
        _ => verdict(seen.side_with("good")),
    });
    let endpoint = Endpoint {
        retries: 1,
        ..server.endpoint()
    };
    let serial = |resume| JudgeSettings {
        concurrency: 1,
        ..settings(Some(dir.path()), resume)
    };
    let (good, bad) = (eval("good", 6), eval("bad", 6));
    let error = refused(
        run(&good, &bad, endpoint.clone(), &serial(false)),
        &["3 of 6", "--resume", "HTTP 500", &server.url],
    );
    assert!(error.contains("2 tries"), "{error}");
    let path = dir.path().join("judgements.jsonl");
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 3);
    std::fs::write(&path, [&whole[..], b"{\"prompt_index\": 3, \"ke"].concat()).unwrap();

    refused(run(&good, &bad, endpoint.clone(), &serial(false)), &["--resume"]);
    let other = JudgeSettings {
        seed: 9,
        ..serial(true)
    };
    refused(run(&good, &bad, endpoint.clone(), &other), &["seed = 7", "9"]);
    let edited = eval("better", 6);
    refused(
        run(&edited, &bad, endpoint.clone(), &serial(true)),
        &["responses = "],
    );

    let r = run(&good, &bad, endpoint, &serial(true)).unwrap();
    assert_eq!((counts(&r), server.seen().len()), ((6, 0, 0, 0), 3 + 2 + 3));
    let fresh = run(&good, &bad, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!(
        r.judgements, fresh.judgements,
        "resumed and uninterrupted runs agree"
    );
}

#[test]
fn a_server_that_is_down_is_an_error_that_says_so() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let endpoint = Endpoint {
        url: format!("http://127.0.0.1:{port}/v1"),
        retries: 1,
        ..Server::start(|_, _| verdict("A")).endpoint()
    };
    let result = run(
        &eval("good", 9),
        &eval("bad", 9),
        endpoint,
        &settings(None, false),
    );
    refused(
        result,
        &[
            "did not answer after 2 tries",
            "/v1/chat/completions",
            "llama-server",
            "--output",
        ],
    );
    let server = Server::start(|_, _| Act::Status(404, "", "File not found".into()));
    let result = run(
        &eval("good", 9),
        &eval("bad", 9),
        server.endpoint(),
        &settings(None, false),
    );
    refused(result, &["HTTP 404", "--endpoint", "\"judge\""]);
    assert!(
        server.seen().len() <= 4,
        "no retries for a page that is not there"
    );
}

#[test]
fn a_key_among_what_is_stored_is_refused_before_it_is() {
    let client = |url: &str, model: &str| {
        Client::new(Endpoint {
            url: url.into(),
            model: model.into(),
            key: Some("sk-Stored-01234".into()),
            ..Server::start(|_, _| verdict("A")).endpoint()
        })
    };
    assert!(client("http://h/sk-Stored/v1", "m").is_ok());
    for (url, model, flag) in [
        ("http://h/sk-Stored-01234/v1", "m", "--endpoint"),
        ("http://h/sk%2dStored%2D01234/v1", "m", "--endpoint"),
        ("http://h/sk%252dStored-0%2531234", "m", "--endpoint"),
        ("http://h/v1", "m-sk-Stored-01234", "--model"),
    ] {
        let error = client(url, model).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(said.starts_with(flag) && said.contains("JUDGE_KEY"), "{said}");
    }
}

#[test]
fn the_key_is_sent_and_never_shown_or_stored() {
    let key = "sk-very-secret-0123456789";
    let server = Server::start(|n, seen| {
        let sent = seen.head.to_ascii_lowercase();
        assert!(
            sent.contains("authorization: bearer sk-very-secret-0123456789"),
            "{sent}"
        );
        match n {
            0 => verdict("A"),
            _ => Act::Status(
                401,
                "",
                json!({"error": {"message": "bad key sk-very-secret-0123456789"}}).to_string(),
            ),
        }
    });
    let endpoint = Endpoint {
        key: Some(key.into()),
        ..server.endpoint()
    };
    let dir = tempfile::tempdir().unwrap();
    let one = JudgeSettings {
        concurrency: 1,
        ..settings(Some(dir.path()), false)
    };
    let error = refused(
        run(&eval("good", 3), &eval("bad", 3), endpoint.clone(), &one),
        &["refuses the key in JUDGE_KEY", "[key]"],
    );
    assert!(!error.contains(key), "{error}");
    assert_eq!(server.seen().len(), 2, "a refused key is not tried again");
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains(key), "{text}");
    }
    let bare = Endpoint {
        key: None,
        ..endpoint
    };
    let server = Server::start(|_, _| Act::Status(401, "", String::new()));
    let bare = Endpoint {
        url: server.url.clone(),
        ..bare
    };
    refused(
        run(&eval("good", 1), &eval("bad", 1), bare, &settings(None, false)),
        &["wants a key", "JUDGE_KEY", "--api-key-env"],
    );
}

/// One thread, and no patience beyond what a test has.
fn alone() -> JudgeSettings {
    JudgeSettings {
        concurrency: 1,
        ..settings(None, false)
    }
}

#[test]
fn what_is_compressed_or_has_no_end_is_not_read() {
    let answers = [
        ("Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "gzip"),
        (
            "Content-Encoding: BR\r\nContent-Length: 3\r\n\r\nabc",
            "compressed (BR)",
        ),
        ("Content-Length: 18446744073709551616\r\n\r\n{}", "content-length"),
        (
            "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
            "chunk length",
        ),
    ];
    let mut answers: Vec<(String, &str)> = answers.map(|(a, why)| (a.to_string(), why)).into();
    answers.push((
        format!("Connection: close\r\n\r\n{}", " ".repeat(5 << 20)),
        "more than 4 MiB",
    ));
    answers.push((
        format!("X: {}\r\n\r\n{{}}", "x".repeat(1 << 20)),
        "header is too big",
    ));
    for (answer, why) in answers {
        let server = Server::start(move |_, _| Act::Bytes(format!("HTTP/1.1 200 OK\r\n{answer}")));
        let endpoint = Endpoint {
            retries: 0,
            ..server.endpoint()
        };
        refused(run(&eval("good", 1), &eval("bad", 1), endpoint, &alone()), &[why]);
        assert!(
            server.seen()[0]
                .head
                .to_lowercase()
                .contains("accept-encoding: identity")
        );
    }
    // A few kilobytes that hold more than an answer may have.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 64 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    let server = Server::start(move |_, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ";
        let head = format!("{head}{}\r\n\r\n", bomb.len());
        Act::Raw([head.as_bytes(), &bomb].concat())
    });
    let endpoint = Endpoint {
        retries: 0,
        ..server.endpoint()
    };
    let said = refused(run(&eval("good", 1), &eval("bad", 1), endpoint, &alone()), &[]);
    // Where another crate switches decompression on, what comes out is counted.
    assert!(
        said.contains("more than 4 MiB") || said.contains("compressed"),
        "{said}"
    );
    let server = Server::start(|_, _| {
        let body = json!({"choices": [{"message": {"content": "{\"winner\": \"A\"}"}}]}).to_string();
        Act::Status(200, "Content-Encoding: identity\r\n", body)
    });
    run(&eval("good", 1), &eval("bad", 1), server.endpoint(), &alone()).unwrap();
}

#[test]
fn no_server_names_a_wait_without_end() {
    for seconds in [
        "1000000000000000000",
        "1e308",
        "18446744073709551616",
        "-1",
        "nan",
        "inf",
    ] {
        let head = format!("Retry-After: {seconds}\r\n");
        let head: &'static str = Box::leak(head.into_boxed_str());
        let server = Server::start(move |n, _| match n {
            0 => Act::Status(429, head, String::new()),
            _ => verdict("A"),
        });
        let endpoint = Endpoint {
            timeout: Duration::from_millis(500),
            ..server.endpoint()
        };
        let begun = Instant::now();
        run(&eval("good", 1), &eval("bad", 1), endpoint, &alone()).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{seconds}: {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_server_that_sends_on_is_not_followed() {
    let other = Server::start(|_, _| verdict("A"));
    for status in [301, 302, 303, 307, 308] {
        let head = format!("Location: {}/v1/chat/completions\r\n", other.url);
        let head: &'static str = Box::leak(head.into_boxed_str());
        let server = Server::start(move |_, _| Act::Status(status, head, String::new()));
        let endpoint = Endpoint {
            key: Some("sk-sent-on-1234".into()),
            ..server.endpoint()
        };
        let result = run(&eval("good", 1), &eval("bad", 1), endpoint, &alone());
        let words = format!("HTTP {status}");
        refused(result, &[&words, "sends on to", &other.url, "--endpoint"]);
    }
    assert!(other.seen().is_empty());
}

#[test]
fn a_key_that_the_server_repeats_is_kept_nowhere() {
    const KEY: &str = "sk-repeated-12345678";
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, seen| {
        let text = seen.messages()[1]["content"].as_str().unwrap();
        match text.contains("prompt 1\n") {
            true => Act::Say(format!("I was given {KEY} and will not answer")),
            false => Act::Say(json!({"winner": "A", "reason": format!("Bearer {KEY}")}).to_string()),
        }
    });
    let endpoint = |url: String| Endpoint {
        key: Some(KEY.into()),
        url,
        ..server.endpoint()
    };
    let output = settings(Some(dir.path()), false);
    let r = run(
        &eval("good", 3),
        &eval("bad", 3),
        endpoint(server.url.clone()),
        &output,
    )
    .unwrap();
    assert_eq!((r.wins + r.losses, r.invalid), (2, 1));
    let mut files = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("repeated"), "{text}");
        files += usize::from(text.contains("[key]"));
    }
    assert_eq!(files, 1, "the judgements say that a key was there");
    let within = format!("{}/{KEY}/v1", server.url);
    let said = refused(
        run(&eval("good", 1), &eval("bad", 1), endpoint(within), &alone()),
        &["--endpoint", "JUDGE_KEY"],
    );
    assert!(!said.contains("repeated"), "{said}");
}

#[test]
fn an_answer_of_braces_costs_its_length() {
    let server = Server::start(|_, _| Act::Say("{\"a\":".repeat(100_000)));
    let begun = Instant::now();
    let result = run(&eval("good", 1), &eval("bad", 1), server.endpoint(), &alone());
    refused(result, &["no judgement is valid", "no JSON object"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
