//! Tests of `hub` against a server in this process.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// A file's contents, or the status to refuse it with.
type Files = HashMap<&'static str, Result<&'static [u8], u16>>;

/// Requested files, each with its token.
type Log = Arc<Mutex<Vec<(String, String)>>>;

/// Serves `files` of any repository; returns the address and the log.
fn server(files: Files) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            let file = first
                .split(' ')
                .nth(1)
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_string();
            let mut token = String::new();
            for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
                if let Some(rest) = line.to_ascii_lowercase().strip_prefix("authorization: bearer ") {
                    token = rest.to_string();
                }
            }
            seen.lock().unwrap().push((file.clone(), token));
            let answer = match files.get(file.as_str()).copied().unwrap_or(Err(404)) {
                Ok(body) => {
                    let head = format!(
                        "HTTP/1.1 206 Partial Content\r\netag: \"{file}\"\r\nx-repo-commit: abc123\r\ncontent-range: bytes \
                         0-{}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len() - 1,
                        body.len(),
                        body.len()
                    );
                    [head.as_bytes(), body].concat()
                }
                Err(code) => format!("HTTP/1.1 {code} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .into_bytes(),
            };
            stream.write_all(&answer).unwrap();
        }
    });
    (address, log)
}

fn settings(cache: &Path, endpoint: String, offline: bool) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        endpoint: Some(endpoint),
        token: Some("secret".into()),
        offline,
    }
}

fn refusal(files: Files) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (address, _) = server(files);
    let error = fetch("owner/model", &settings(dir.path(), address, false)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn downloads_shards_then_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let (address, log) = server(HashMap::from([
        ("config.json", Ok(&b"{}"[..])),
        ("tokenizer.json", Ok(b"tokens")),
        (
            "model.safetensors.index.json",
            Ok(br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#),
        ),
        ("m-1.safetensors", Ok(b"one")),
        ("m-2.safetensors", Ok(b"two")),
    ]));
    let files = fetch("owner/model", &settings(dir.path(), address.clone(), false)).unwrap();
    assert_eq!(
        (files.name().as_str(), files.revision()),
        ("owner/model", Some("abc123"))
    );
    assert_eq!(files.read("m-2.safetensors").unwrap().unwrap(), b"two");
    assert_eq!(files.read("tokenizer.json").unwrap().unwrap(), b"tokens");
    assert_eq!(files.read("chat_template.jinja").unwrap(), None);
    let requests = log.lock().unwrap().len();
    assert!(log.lock().unwrap().iter().all(|(_, token)| token == "secret"));

    // Whole in the cache: neither an offline nor an online call asks the server again.
    fetch("owner/model", &settings(dir.path(), address.clone(), false)).unwrap();
    fetch("owner/model", &settings(dir.path(), address, true)).unwrap();
    assert_eq!(log.lock().unwrap().len(), requests);
}

#[test]
fn gated_missing_and_unreachable_repositories_tell_the_way_by_hand() {
    let gated = refusal(HashMap::from([("config.json", Err(401))]));
    assert!(
        gated.contains("refuses config.json") && gated.contains("HF_TOKEN"),
        "{gated}"
    );
    assert!(
        gated.contains("hf download owner/model --local-dir model"),
        "{gated}"
    );
    let gated = refusal(HashMap::from([
        ("config.json", Ok(&b"{}"[..])),
        ("model.safetensors", Err(403)),
    ]));
    assert!(gated.contains("refuses model.safetensors"), "{gated}");
    let missing = refusal(HashMap::new());
    assert!(missing.contains("no config.json was found"), "{missing}");
    let weightless = refusal(HashMap::from([("config.json", Ok(&b"{}"[..]))]));
    assert!(
        weightless.contains("neither model.safetensors nor"),
        "{weightless}"
    );

    let dir = tempfile::tempdir().unwrap();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = fetch("owner/model", &settings(dir.path(), closed, false))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("could not be downloaded") && error.contains("--local-dir"),
        "{error}"
    );
}

#[test]
fn offline_uses_the_cache_only() {
    let dir = tempfile::tempdir().unwrap();
    let (address, log) = server(HashMap::from([("config.json", Ok(&b"{}"[..]))]));
    let error = fetch("owner/model", &settings(dir.path(), address, true))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("HF_HUB_OFFLINE is set") && error.contains("--local-dir"),
        "{error}"
    );
    assert!(log.lock().unwrap().is_empty());
}

#[test]
fn hub_ids() {
    assert!(is_hub_id("meta-llama/Llama-3.2-1B-Instruct"));
    for bad in [
        "tiny", "a/b/c", "/abs", "./x", "../x", "a/", "/a", "a b/c", "a/..",
    ] {
        assert!(!is_hub_id(bad), "{bad}");
    }
}
