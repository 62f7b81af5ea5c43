//! Answers of servers.

use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::json;
use tea_wgpu::error::{Error, Result};
use tea_wgpu::eval::judge;
use tea_wgpu::hub::answer::deeds;

use crate::make::{damage, text, twist, written};

/// A judge's words: a verdict, twisted, between other words.
pub(crate) fn judge(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let mut verdict = json!({"winner": "A", "confidence": 0.5, "reason": "shorter"});
    if u.ratio(2, 3)? {
        twist(u, &mut verdict)?;
    }
    let mut bytes = text(u)?.into_bytes();
    for _ in 0..u.int_in_range(1..=3)? {
        bytes.extend(written(u, &verdict)?);
        bytes.extend(text(u)?.bytes());
    }
    if u.ratio(1, 10)? {
        let open = u.choose(&["{", "{\"a\":", "[", "\""])?;
        bytes.extend(open.repeat(u.int_in_range(1..=20_000)?).bytes());
    }
    if u.ratio(1, 4)? {
        damage(u, &mut bytes)?;
    }
    if u.ratio(1, 2)? {
        let answer = String::from_utf8_lossy(&bytes).into_owned();
        return Ok(judge::parse(&answer).map(drop).map_err(Error::user));
    }
    // The whole body, as the server sends it.
    let said = String::from_utf8_lossy(&bytes).into_owned();
    let mut body = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]});
    if u.ratio(1, 2)? {
        twist(u, &mut body)?;
    }
    let body = written(u, &body)?;
    Ok(judge::read_answer(&body).map(drop).map_err(Error::user))
}

const ENDPOINT: &str = "https://hub.example";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub's answer to any question: nothing it says may lead out of the cache, or the token to another host.
pub(crate) fn hub(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let hash = "0123456789abcdef".repeat(4);
    let mut headers: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, usual) in [
        ("x-repo-commit", COMMIT.to_owned()),
        ("etag", format!("\"{hash}\"")),
        ("x-linked-etag", format!("\"{hash}\"")),
        ("x-linked-size", "700".to_owned()),
        ("content-length", "700".to_owned()),
        ("content-range", "bytes 0-0/700".to_owned()),
        ("location", "https://cdn.example/x?sig=1".to_owned()),
    ] {
        if u.ratio(1, 4)? {
            continue;
        }
        let mut value = usual.into_bytes();
        if u.ratio(1, 4)? {
            damage(u, &mut value)?;
        } else if u.ratio(1, 6)? {
            let odd = [
                "/",
                "..",
                "../../x",
                "",
                "-1",
                "18446744073709551616",
                "file:///etc/passwd",
                "//evil",
                "http://[::1",
                "\\\\x",
            ];
            value = u.choose(&odd)?.as_bytes().to_vec();
        }
        headers.push((name, value));
    }
    let mut listing =
        json!({"sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}, {"rfilename": "data/a.parquet"}]});
    twist(u, &mut listing)?;
    let body = written(u, &listing)?;
    let status = *u.choose(&[
        200, 206, 301, 302, 303, 307, 308, 304, 401, 404, 405, 416, 429, 500, 999,
    ])?;
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, &v[..])).collect();
    Ok(deeds(ENDPOINT, status, &headers, &body).map(|done| {
        for deed in done {
            for path in &deed.written {
                let inside = path
                    .components()
                    .all(|c| matches!(c, std::path::Component::Normal(_)));
                assert!(inside && path.is_relative(), "{path:?} is not below the cache");
            }
            if let Some((to, true)) = &deed.asked {
                assert!(
                    to.starts_with(&format!("{ENDPOINT}/")) || to == ENDPOINT,
                    "the token goes to {to}"
                );
            }
        }
    }))
}
