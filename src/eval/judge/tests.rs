//! The judge against a server of this file that answers, errs, hangs, breaks off and lies.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::eval::store::{EvalMeta, StoredPrompt};
use crate::rollout::Finish;

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    head: String,
    body: Value,
}

impl Seen {
    fn messages(&self) -> &Vec<Value> {
        self.body["messages"].as_array().unwrap()
    }

    /// The side on which the response with this word is shown.
    fn side_with(&self, word: &str) -> &'static str {
        let text = self.messages()[1]["content"].as_str().unwrap();
        let a = text
            .split("<response_A>")
            .nth(1)
            .unwrap()
            .split("</response_A>")
            .next()
            .unwrap();
        if a.contains(word) { "A" } else { "B" }
    }
}

/// What the server does with a request.
enum Act {
    /// A completion with this text.
    Say(String),
    /// A status, more header lines, a body.
    Status(u16, &'static str, String),
    /// These bytes, then the connection is closed.
    Bytes(String),
    /// No answer for this long.
    Hang(Duration),
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// `act` decides by the request's number (from 0) and content.
    fn start(act: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, act) = (seen.clone(), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, act) = (log.clone(), act.clone());
                std::thread::spawn(move || drop(serve(stream, &log, &*act)));
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            model: "judge".into(),
            key: None,
            key_env: "JUDGE_KEY".into(),
            timeout: Duration::from_secs(5),
            retries: 3,
            backoff: Duration::from_millis(1),
        }
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    act: &dyn Fn(usize, &Seen) -> Act,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let seen = Seen {
        head,
        body: serde_json::from_slice(&body).unwrap(),
    };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let whole = |status: u16, more: &str, body: &str| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
            body.len()
        )
    };
    let bytes = match act(number, &seen) {
        Act::Say(text) => whole(
            200,
            "",
            &json!({"choices": [{"message": {"role": "assistant", "content": text}}]}).to_string(),
        ),
        Act::Status(status, more, body) => whole(status, more, &body),
        Act::Bytes(bytes) => bytes,
        Act::Hang(time) => {
            std::thread::sleep(time);
            return Ok(());
        }
    };
    (&stream).write_all(bytes.as_bytes())
}

fn verdict(winner: &str) -> Act {
    Act::Say(json!({"winner": winner, "confidence": 0.75, "reason": "because"}).to_string())
}

/// An evaluation whose best response to prompt i is "WORD i", by reward, among worse ones.
fn eval(word: &str, prompts: usize) -> StoredEval {
    let content = |i: usize| PromptContent::Text(format!("prompt {i}"));
    let completion = |i: usize, s: usize| StoredCompletion {
        prompt_index: i,
        sample: s,
        text: if s == 1 {
            format!("{word} {i}")
        } else {
            format!("other {i} {s}")
        },
        tokens: 3,
        finish_reason: Finish::Stop,
        reward: if s == 1 { 2.0 } else { -(s as f64) },
        also_reward: None,
    };
    let meta: EvalMeta = serde_json::from_value(json!({
        "version": 1, "model": word, "reward_model": "r", "prompts_file": "p", "prompts_sha256": "",
        "num_prompts": prompts, "samples": 3, "seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "max_completion_length": 8
    }))
    .unwrap();
    StoredEval {
        meta,
        prompts: (0..prompts)
            .map(|i| StoredPrompt::new(i, Value::Null, &content(i)))
            .collect(),
        completions: (0..prompts)
            .map(|i| (0..3).map(|s| completion(i, s)).collect())
            .collect(),
    }
}

fn settings(output: Option<&Path>, resume: bool) -> JudgeSettings {
    JudgeSettings {
        n: None,
        seed: 7,
        concurrency: 4,
        output: output.map(Path::to_path_buf),
        resume,
    }
}

fn run(
    first: &StoredEval,
    second: &StoredEval,
    endpoint: Endpoint,
    s: &JudgeSettings,
) -> Result<JudgeResult> {
    judge((Path::new("one"), first), (Path::new("two"), second), endpoint, s)
}

fn counts(r: &JudgeResult) -> (usize, usize, usize, usize) {
    (r.wins, r.ties, r.losses, r.invalid)
}

fn refused(result: Result<JudgeResult>, parts: &[&str]) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} not in: {error}");
    }
    error.to_string()
}

#[test]
fn positions_are_random_seeded_and_mapped_back() {
    let server = Server::start(|_, seen| verdict(seen.side_with("good")));
    let (good, bad) = (eval("good", 40), eval("bad", 40));
    let r = run(&good, &bad, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!(counts(&r), (40, 0, 0, 0));
    assert_eq!(
        (r.win_rate.mean, r.win_rate.low, r.confidence),
        (1.0, 1.0, Some(0.75))
    );
    let shown = r.judgements.iter().filter(|j| j.first_is_a == Some(true)).count();
    assert!((10..=30).contains(&shown), "{shown} of 40 first");
    assert!(r.judgements.iter().all(|j| j.samples == [1, 1] && j.asked == 1));
    let swapped = run(&bad, &good, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!(counts(&swapped), (0, 0, 40, 0));
    let positions = |r: &JudgeResult| r.judgements.iter().map(|j| j.first_is_a).collect::<Vec<_>>();
    assert_eq!(
        positions(&r),
        positions(&swapped),
        "the seed decides, not the texts"
    );
    let other = JudgeSettings {
        seed: 8,
        ..settings(None, false)
    };
    let other = run(&good, &bad, server.endpoint(), &other).unwrap();
    assert_ne!(positions(&r), positions(&other));
}

#[test]
fn a_judge_that_always_says_a_shows_as_position_bias() {
    let server = Server::start(|_, _| verdict("A"));
    let r = run(
        &eval("good", 40),
        &eval("bad", 40),
        server.endpoint(),
        &settings(None, false),
    )
    .unwrap();
    assert_eq!(r.first_shown_rate, Some(1.0));
    let shown = r.judgements.iter().filter(|j| j.first_is_a == Some(true)).count();
    assert_eq!(counts(&r), (shown, 0, 40 - shown, 0));
    assert!(r.win_rate.low < 0.5 && r.win_rate.high > 0.5, "{:?}", r.win_rate);
}

#[test]
fn equal_responses_are_a_tie_without_a_question() {
    let server = Server::start(|_, _| verdict("tie"));
    let (one, mut two) = (eval("same", 3), eval("same", 3));
    two.completions[2][1].text = "different".into();
    let r = run(&one, &two, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!((counts(&r), r.equal, server.seen().len()), ((0, 3, 0, 0), 2, 1));
    assert_eq!((r.win_rate.mean, r.first_shown_rate), (0.5, None));
}

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
fn bad_answers_are_asked_for_again_then_recorded_as_invalid() {
    let bad = [
        "I think A is better.",
        "{\"winner\": \"C\"}",
        "{\"winner\": \"A\", \"confidence\": 7}",
        "{\"winner\": [\"A\"]}",
        "{\"winner\": \"A\"",
        "",
    ];
    // The prompt's number picks the bad answer; prompt 6 mends its ways at the third question.
    let server = Server::start(move |_, seen| {
        let text = seen.messages()[1]["content"].as_str().unwrap();
        let prompt: usize = text
            .split("prompt ")
            .nth(1)
            .unwrap()
            .split('\n')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        match bad.get(prompt) {
            Some(text) => Act::Say((*text).to_string()),
            None if seen.messages().len() < 6 => Act::Say("Hm.".into()),
            None => verdict(seen.side_with("good")),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let r = run(
        &eval("good", 7),
        &eval("bad", 7),
        server.endpoint(),
        &settings(Some(dir.path()), false),
    )
    .unwrap();
    assert_eq!(counts(&r), (1, 0, 0, 6));
    assert_eq!(
        (r.win_rate.mean, server.seen().len()),
        (1.0, 7 * 3),
        "invalid ones are left out of the rate"
    );
    for (i, text) in bad.iter().enumerate() {
        let j = &r.judgements[i];
        assert_eq!(
            (j.winner, j.asked, j.raw.as_deref()),
            (Winner::Invalid, 3, Some(*text))
        );
        assert!(!j.reason.is_empty());
    }
    assert_eq!((r.judgements[6].asked, &r.judgements[6].raw), (3, &None));
    // All of them bad: an error rather than an empty table.
    let server = Server::start(|_, _| Act::Say("no".into()));
    let nothing = run(
        &eval("good", 2),
        &eval("bad", 2),
        server.endpoint(),
        &settings(None, false),
    );
    refused(nothing, &["no judgement is valid", "winner"]);
}

#[test]
fn answers_are_found_among_thoughts_and_fences() {
    let answer = |text: &str| parse(text).map(|a| (a.side, a.confidence));
    let fenced =
        "<think>{\"winner\": \"A\"} or {B}?</think>\n```json\n{\"winner\": \" b \", \"confidence\": 1}\n```";
    assert_eq!(answer(fenced), Ok((Side::B, Some(1.0))));
    assert_eq!(answer("{\"winner\": \"TIE\"}"), Ok((Side::Tie, None)));
    assert_eq!(
        answer("{\"winner\": \"A\", \"confidence\": null, \"reason\": null}"),
        Ok((Side::A, None))
    );
    for bad in [
        "{\"Winner\": \"A\"}",
        "{\"winner\": \"A and B\"}",
        "{\"winner\": \"A\", \"reason\": 3}",
        "{\"winner\": null}",
        "{\"winner\": \"B\", \"confidence\": \"high\"}",
    ] {
        assert!(answer(bad).is_err(), "{bad}");
    }
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
    // A question that is refused either way is invalid; the others go on.
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
    assert_eq!((r.invalid, r.judgements[1].winner), (1, Winner::Invalid));
    assert!(
        r.judgements[1].reason.contains("HTTP 400") && r.judgements[1].reason.contains("too long"),
        "{}",
        r.judgements[1].reason
    );
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

#[test]
fn evaluations_that_do_not_match_are_refused() {
    let endpoint = Server::start(|_, _| verdict("A")).endpoint();
    let ask = |first: &StoredEval, second: &StoredEval, n| {
        let s = JudgeSettings {
            n,
            ..settings(None, false)
        };
        run(first, second, endpoint.clone(), &s)
    };
    refused(ask(&eval("a", 2), &eval("b", 3), None), &["2 and 3 prompts"]);
    refused(ask(&eval("a", 2), &eval("b", 2), Some(4)), &["--n 4", "3"]);
    let mut other = eval("b", 2);
    other.prompts[1].key = "x".into();
    refused(ask(&eval("a", 2), &other, None), &["prompt 1", "same"]);
    let mut fewer = eval("b", 2);
    fewer.meta.samples = 2;
    refused(ask(&eval("a", 2), &fewer, None), &["3 and 2 samples", "--n"]);
    // The best of the first sample alone is another response.
    let r = ask(&eval("a", 2), &eval("b", 2), Some(1)).unwrap();
    assert_eq!((r.judgements[0].samples, r.equal), ([0, 0], 2));
}

#[test]
fn addresses_become_completions_pages() {
    for (address, want) in [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/api/v1/", "https://h/api/v1/chat/completions"),
        ("https://h/x/chat/completions", "https://h/x/chat/completions"),
    ] {
        assert_eq!(completions_url(address).unwrap(), want);
    }
    for bad in [
        "",
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://u:p@h/v1",
        "http://h/?key=1",
    ] {
        let error = completions_url(bad).unwrap_err();
        assert!(!error.to_string().contains("u:p"), "{error}");
    }
}
