//! Answers of servers.

use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::json;
use tea_wgpu::error::{Error, Result};
use tea_wgpu::eval::judge;

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
    let answer = String::from_utf8_lossy(&bytes).into_owned();
    Ok(judge::parse(&answer).map(drop).map_err(Error::user))
}
