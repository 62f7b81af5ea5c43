//! Tests of `hub` against a server in this process.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::collections::HashMap;
use std::net::TcpListener;

use crate::hub::tests::server;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file's contents, or the status to refuse it with.
type Files = HashMap<&'static str, Result<&'static [u8], u16>>;

/// Serves `files` of any repository; returns the address and the log.
fn server(files: Files) -> (String, server::Log) {
    let files = files
        .into_iter()
        .map(|(name, file)| (name.to_string(), file.map(<[u8]>::to_vec)))
        .collect();
    server::serve(files, COMMIT)
}

fn settings(cache: &Path, endpoint: String, offline: bool) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        endpoint: Some(endpoint),
        token: Some("secret".into()),
        offline,
        ..HubSettings::default()
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
        ("owner/model", Some(COMMIT))
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
