//! A server in this process that answers as the Hugging Face hub does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Ends of URL paths, each with its file or the status to refuse it with; the longest that fits counts.
pub(crate) type Files = HashMap<String, Result<Vec<u8>, u16>>;

/// Requested paths, each with its token.
pub(crate) type Log = Arc<Mutex<Vec<(String, String)>>>;

/// Serves `files`, all of commit `commit`; returns the address and the log.
pub(crate) fn serve(files: Files, commit: &str) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let (seen, commit) = (Arc::clone(&log), commit.to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            let path = first.split(' ').nth(1).unwrap().to_string();
            let mut token = String::new();
            for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
                if let Some(rest) = line.to_ascii_lowercase().strip_prefix("authorization: bearer ") {
                    token = rest.to_string();
                }
            }
            seen.lock().unwrap().push((path.clone(), token));
            let found = files
                .iter()
                .filter(|(end, _)| path.ends_with(&format!("/{end}")))
                .max_by_key(|(end, _)| end.len());
            // A client that has seen enough of a file may close first.
            drop(stream.write_all(&answer(&path, found.map_or(Err(404), |f| f.1.clone()), &commit)));
        }
    });
    (address, log)
}

fn answer(path: &str, file: Result<Vec<u8>, u16>, commit: &str) -> Vec<u8> {
    match file {
        Ok(body) => {
            let etag = path.replace('/', "-");
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: {commit}\r\ncontent-range: bytes \
                 0-{}/{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len().saturating_sub(1),
                body.len(),
                body.len()
            );
            [head.as_bytes(), &body].concat()
        }
        Err(code) => {
            format!("HTTP/1.1 {code} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
        }
    }
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
