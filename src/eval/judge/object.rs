//! JSON objects within a text: found in one pass, whatever the text is.
//!
//! A model puts its verdict after thoughts, into code fences, between braces that mean nothing. To try every brace costs the
//! square of such a text, and a server can send one of megabytes. [`with_key`] reads each byte a few times at most.

use std::collections::VecDeque;
use std::ops::Range;

/// Levels within one object, as `serde_json` reads them.
const DEPTH: usize = 128;

/// What may stand next.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Key,
    KeyOrEnd,
    Colon,
    Value,
    ValueOrEnd,
    CommaOrEnd,
}

/// A bracket that is not closed yet.
struct Open {
    at: usize,
    object: bool,
    /// The object has the key that is looked for.
    has_key: bool,
}

/// Where a text was read to.
enum Read {
    /// After this token.
    To(usize),
    /// No JSON goes on here.
    Failed(usize),
}

/// The places of all complete objects that have `key`, those within others included, in the order of their ends.
pub(super) fn with_key(text: &str, key: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let key = format!("\"{key}\"");
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(brace) = bytes[at..].iter().position(|b| *b == b'{') {
        let brace = at + brace;
        at = brace + 1 + blanks(&bytes[brace + 1..]);
        // An object with a key.
        if bytes.get(at) != Some(&b'"') {
            continue;
        }
        at = object(bytes, brace, at, key.as_bytes(), &mut found);
    }
    found
}

/// Reads an object from its first key's quote at `first`; gives where to look for the next one: after the object, or where
/// it fails.
fn object(bytes: &[u8], brace: usize, first: usize, key: &[u8], found: &mut Vec<Range<usize>>) -> usize {
    let mut open = VecDeque::from([Open {
        at: brace,
        object: true,
        has_key: false,
    }]);
    let (mut at, mut next) = (first, Next::Key);
    // Where the content of the last token begins, if that was a string.
    let mut string = None;
    loop {
        at += blanks(&bytes[at..]);
        let (Some(&byte), Some(top)) = (bytes.get(at), open.back_mut()) else {
            return resume(bytes, string, at);
        };
        let value = matches!(next, Next::Value | Next::ValueOrEnd);
        let ends = match byte {
            b'}' => top.object && matches!(next, Next::KeyOrEnd | Next::CommaOrEnd),
            b']' => !top.object && matches!(next, Next::ValueOrEnd | Next::CommaOrEnd),
            _ => false,
        };
        if ends {
            if top.has_key {
                found.push(top.at..at + 1);
            }
            open.pop_back();
            if open.is_empty() {
                return at + 1;
            }
            (at, next, string) = (at + 1, Next::CommaOrEnd, None);
            continue;
        }
        match byte {
            b'"' if value || matches!(next, Next::Key | Next::KeyOrEnd) => {
                string = Some(at + 1);
                let end = match string_end(bytes, at) {
                    Read::To(end) => end,
                    Read::Failed(end) => return resume(bytes, string, end),
                };
                next = if value { Next::CommaOrEnd } else { Next::Colon };
                top.has_key |= !value && &bytes[at..end] == key;
                at = end;
                continue;
            }
            b':' if next == Next::Colon => (at, next) = (at + 1, Next::Value),
            b',' if next == Next::CommaOrEnd => {
                (at, next) = (at + 1, if top.object { Next::Key } else { Next::Value });
            }
            b'{' | b'[' if value => {
                let object = byte == b'{';
                // What is around more levels than are read is no object for anybody.
                if open.len() == DEPTH {
                    open.pop_front();
                }
                open.push_back(Open {
                    at,
                    object,
                    has_key: false,
                });
                let first = if object { Next::KeyOrEnd } else { Next::ValueOrEnd };
                (at, next) = (at + 1, first);
            }
            _ if value => match scalar(&bytes[at..]) {
                0 => return resume(bytes, string, at),
                length => (at, next) = (at + length, Next::CommaOrEnd),
            },
            _ => return resume(bytes, string, at),
        }
        string = None;
    }
}

/// Where to go on after a failure at `at`. A string before it may have been the text between two: a brace at its end then
/// begins an object, whose first key begins where the string seemed to end. No other brace within a string does.
fn resume(bytes: &[u8], string: Option<usize>, at: usize) -> usize {
    let Some(begin) = string else { return at };
    let blank = |b: &&u8| b" \t\n\r".contains(*b);
    let content = &bytes[begin..at];
    // Blanks, the string's own quote where it has one, blanks.
    let after = content.len() - content.iter().rev().take_while(blank).count();
    let content = content[..after].strip_suffix(b"\"").unwrap_or(&content[..after]);
    let last = content.len() - content.iter().rev().take_while(blank).count();
    match content[..last].last() {
        Some(b'{') => begin + last - 1,
        _ => at,
    }
}

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| b" \t\n\r".contains(b)).count()
}

/// Reads the string whose opening quote is at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Read {
    at += 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Read::To(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u')
                    if bytes.len() >= at + 6 && bytes[at + 2..at + 6].iter().all(u8::is_ascii_hexdigit) =>
                {
                    at += 6;
                }
                _ => return Read::Failed(at),
            },
            Some(0x20..) => at += 1,
            _ => return Read::Failed(at),
        }
    }
}

/// The length of the number, `true`, `false` or `null` that the bytes begin with; 0 for anything else.
fn scalar(bytes: &[u8]) -> usize {
    for word in ["true", "false", "null"] {
        if bytes.starts_with(word.as_bytes()) {
            return word.len();
        }
    }
    let digits = |at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
    let mut at = usize::from(is(0, b"-"));
    match digits(at) {
        0 => return 0,
        n if n > 1 && is(at, b"0") => return 0,
        n => at += n,
    }
    if is(at, b".") {
        match digits(at + 1) {
            0 => return 0,
            n => at += 1 + n,
        }
    }
    if is(at, b"eE") {
        let signed = at + 1 + usize::from(is(at + 1, b"+-"));
        match digits(signed) {
            0 => return 0,
            n => at = signed + n,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::rng::{Stream, seed_for};
    use rand::RngExt;
    use serde::Deserialize;
    use serde_json::Value;

    fn last(text: &str) -> Option<&str> {
        let found = with_key(text, "w");
        found.into_iter().max_by_key(|r| r.start).map(|r| &text[r])
    }

    /// Every brace tried by serde_json: the meaning, at the square of the cost.
    fn slowly(text: &str) -> Option<String> {
        let mut found = None;
        for (at, _) in text.match_indices('{') {
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
            if let Some(Ok(value)) = values.next()
                && value.get("w").is_some()
            {
                found = Some(text[at..at + values.byte_offset()].to_string());
            }
        }
        found
    }

    #[test]
    fn the_last_object_is_found_within_anything() {
        for (text, want) in [
            ("{\"w\":1}", Some("{\"w\":1}")),
            (
                "```json\n{ \"w\" : [1, {\"a\": -1.5e+3}] }\n```",
                Some("{ \"w\" : [1, {\"a\": -1.5e+3}] }"),
            ),
            (
                "set {a, b} then {\"w\": true} and {\"v\": 2}",
                Some("{\"w\": true}"),
            ),
            ("{\"v\": {\"w\": null}}", Some("{\"w\": null}")),
            ("[{\"w\": 1}, {\"w\": 2}]", Some("{\"w\": 2}")),
            ("{\"v\": [{\"w\": 1}, oops", Some("{\"w\": 1}")),
            ("say {\"so and {\"w\": 1}", Some("{\"w\": 1}")),
            ("say \"{\n \"w\": \"é}\"}", Some("{\n \"w\": \"é}\"}")),
            ("{\"é\": é{\"w\": 1}", Some("{\"w\": 1}")),
            ("{\"w\": 01}", None),
            ("{\"w\": \"a\nb\"}", None),
            ("{\"w\": 1", None),
            ("{\"w\" 1}", None),
            ("{'w': 1}", None),
            ("{\"v\": \"{\\\"w\\\": 1}\"}", None),
            ("", None),
        ] {
            assert_eq!(last(text), want, "{text}");
            assert_eq!(slowly(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn random_texts_hold_what_trying_every_brace_finds() {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "\"w\"",
            "\"w\":",
            "{\"w\":1}",
            "1",
            "-2.5e3",
            "true",
            " ",
            "\n",
            "é",
            "\\\"",
            "{\"a\":",
            "{}",
            "x",
        ];
        let mut random = Stream::new(seed_for(1, 2, 3, 4), 5);
        let mut hits = 0;
        for _ in 0..40_000 {
            let n = random.random_range(1..14);
            let text: String = (0..n)
                .map(|_| pieces[random.random_range(0..pieces.len())])
                .collect();
            let found = with_key(&text, "w");
            for range in &found {
                let value = Value::deserialize(&mut serde_json::Deserializer::from_str(&text[range.clone()]));
                assert!(value.unwrap().get("w").is_some(), "{text:?}: {range:?}");
            }
            hits += found.len().min(1);
            let (ours, theirs) = (last(&text), slowly(&text));
            assert_eq!(ours.map(str::to_string), theirs, "{text:?}");
        }
        assert!(hits > 1000, "{hits}");
    }

    #[test]
    fn hostile_texts_cost_their_length() {
        let (n, begun) = (1 << 20, std::time::Instant::now());
        let nested = "{\"a\":".repeat(100) + "1" + &"}".repeat(100);
        for text in [
            "{".repeat(n),
            "{\"a\":".repeat(n / 5),
            "{\"".repeat(n / 2),
            "{\"a\\\"".repeat(n / 5),
            "{ \"".repeat(n / 3),
            "[{".repeat(n / 2),
            "{\"a\":[".repeat(n / 6),
            nested.repeat(n / nested.len()),
            "{\"".to_string() + &" ".repeat(n),
            "{ ".repeat(n / 2),
            "\"{\" ".repeat(n / 4),
            "{\"w\":".repeat(n / 5) + "1" + &"}".repeat(n / 5),
        ] {
            let found = with_key(&text, "w");
            assert!(found.len() <= DEPTH, "{}", found.len());
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
