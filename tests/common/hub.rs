//! A server in this process that answers as the Hugging Face hub does.

#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Ends of URL paths, each with its file or the status to refuse it with; the longest that fits counts.
pub(crate) type Files = HashMap<String, Result<Vec<u8>, u16>>;

/// Requested paths, each with its token.
pub(crate) type Log = Arc<Mutex<Vec<(String, String)>>>;

/// Serves `files`, all of commit `commit`; returns the address and the log.
pub(crate) fn serve(files: Files, commit: &str) -> (String, Log) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (seen, commit) = (Arc::clone(&log), commit.to_string());
    let address = serve_with(move |asked| {
        seen.lock()
            .unwrap()
            .push((asked.path.clone(), asked.token.clone()));
        // What is on the branch is in its commit.
        let main = asked
            .path
            .replace(&format!("/resolve/{commit}/"), "/resolve/main/");
        let found = files
            .iter()
            .filter(|(end, _)| {
                [&asked.path, &main]
                    .iter()
                    .any(|p| p.ends_with(&format!("/{end}")))
            })
            .max_by_key(|(end, _)| end.len());
        match found.map_or(&Err(404), |(_, file)| file) {
            Ok(body) => {
                // A hub that is asked for a commit answers with it.
                let revision = asked
                    .path
                    .split("/resolve/")
                    .nth(1)
                    .and_then(|r| r.split('/').next());
                let commit = revision.filter(|r| r.len() == 40).unwrap_or(&commit);
                Answer::file(asked, body, commit)
            }
            Err(status) => Answer::status(*status),
        }
    });
    (address, log)
}

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// HEAD or GET.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// What came as bearer token; empty where none did.
    pub(crate) token: String,
    /// The first byte that is asked for.
    pub(crate) from: Option<usize>,
}

/// An answer: what is sent, byte by byte.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Waits before the first byte, and before each byte of the body.
    pub(crate) waits: [Duration; 2],
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::new(status, &[("content-length", "0")], b"")
    }

    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut answer = Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            waits: [Duration::ZERO; 2],
        };
        for (name, value) in headers {
            answer.set(name, value);
        }
        answer
    }

    /// The answer of a well-behaved hub.
    pub(crate) fn file(asked: &Asked, body: &[u8], commit: &str) -> Self {
        let from = asked.from.filter(|from| *from < body.len());
        let part = &body[from.unwrap_or(0)..];
        let mut answer = Self::new(if from.is_some() { 206 } else { 200 }, &[], part);
        answer.set("etag", &format!("\"{}\"", sha256(body)));
        answer.set("x-repo-commit", commit);
        answer.set("content-length", &part.len().to_string());
        if let Some(from) = from {
            let last = body.len() - 1;
            answer.set("content-range", &format!("bytes {from}-{last}/{}", body.len()));
        }
        answer
    }

    /// Sets a header; none of that name where `value` is empty.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| n != name);
        if !value.is_empty() {
            self.headers.push((name.into(), value.into()));
        }
    }

    /// As it is, with a header set.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Serves what `answer` says, each connection in a thread of its own and for one answer; returns the address.
pub(crate) fn serve_with(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            // A client that has seen enough of a file may close first.
            std::thread::spawn(move || drop(converse(stream, &*answer)));
        }
    });
    address
}

fn converse(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else {
        return Ok(());
    };
    let mut words = first.split(' ').map(str::to_string);
    let mut asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..Asked::default()
    };
    for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(token) = line.strip_prefix("authorization: bearer ") {
            asked.token = token.to_string();
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            asked.from = range.split('-').next().and_then(|n| n.parse().ok());
        }
    }
    let answer = answer(&asked);
    std::thread::sleep(answer.waits[0]);
    let mut head = format!("HTTP/1.1 {} So\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "connection: close\r\n\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    if answer.waits[1].is_zero() {
        return stream.write_all(&answer.body);
    }
    for byte in answer.body.chunks(1) {
        std::thread::sleep(answer.waits[1]);
        stream.write_all(byte)?;
    }
    Ok(())
}

/// What the hub says of a repository: its commit and files.
pub(crate) fn listing(commit: &str, names: &[&str]) -> Vec<u8> {
    let siblings: Vec<_> = names
        .iter()
        .map(|n| serde_json::json!({ "rfilename": n }))
        .collect();
    serde_json::json!({ "sha": commit, "siblings": siblings })
        .to_string()
        .into_bytes()
}
