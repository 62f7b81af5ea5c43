//! A server that answers, errs, hangs, breaks off and lies, and evaluations to be judged.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::eval::store::{EvalMeta, StoredPrompt};
use crate::rollout::Finish;

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: Value,
}

impl Seen {
    pub(super) fn messages(&self) -> &Vec<Value> {
        self.body["messages"].as_array().unwrap()
    }

    /// The side on which the response with this word is shown.
    pub(super) fn side_with(&self, word: &str) -> &'static str {
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
pub(super) enum Act {
    /// A completion with this text.
    Say(String),
    /// A status, more header lines, a body.
    Status(u16, &'static str, String),
    /// These bytes, then the connection is closed.
    Bytes(String),
    /// As `Bytes`, of bytes that are no text.
    Raw(Vec<u8>),
    /// No answer for this long.
    Hang(Duration),
}

pub(super) struct Server {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// `act` decides by the request's number (from 0) and content.
    pub(super) fn start(act: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static) -> Self {
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

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            model: "judge".into(),
            key: None,
            key_env: "JUDGE_KEY".into(),
            timeout: Duration::from_secs(5),
            retries: 3,
            backoff: Duration::from_millis(1),
            max_tokens: MAX_TOKENS,
            most_tokens: MAX_TOKENS,
        }
    }
}

pub(super) fn serve(
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
        Act::Raw(bytes) => return (&stream).write_all(&bytes),
        Act::Hang(time) => {
            std::thread::sleep(time);
            return Ok(());
        }
    };
    (&stream).write_all(bytes.as_bytes())
}

pub(super) fn verdict(winner: &str) -> Act {
    Act::Say(json!({"winner": winner, "confidence": 0.75, "reason": "because"}).to_string())
}

/// An evaluation whose best response to prompt i is "WORD i", by reward, among worse ones.
pub(super) fn eval(word: &str, prompts: usize) -> StoredEval {
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

pub(super) fn settings(output: Option<&Path>, resume: bool) -> JudgeSettings {
    JudgeSettings {
        n: None,
        seed: 7,
        concurrency: 4,
        output: output.map(Path::to_path_buf),
        resume,
    }
}

pub(super) fn run(
    first: &StoredEval,
    second: &StoredEval,
    endpoint: Endpoint,
    s: &JudgeSettings,
) -> Result<JudgeResult> {
    judge((Path::new("one"), first), (Path::new("two"), second), endpoint, s)
}

pub(super) fn counts(r: &JudgeResult) -> (usize, usize, usize, usize) {
    (r.wins, r.ties, r.losses, r.invalid)
}

pub(super) fn refused(result: Result<JudgeResult>, parts: &[&str]) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} not in: {error}");
    }
    error.to_string()
}
