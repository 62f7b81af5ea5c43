//! JSON as files have it: also Python's `NaN`, `Infinity` and `-Infinity`, which become values that nobody takes for a number.

use serde_json::Value;

use super::row::opaque_json;

/// What is wrong with a JSON text, and where.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Without the place.
    pub(super) what: String,
    /// From 1.
    pub(super) line: usize,
    /// In bytes, from 1; 0 where the line has none.
    pub(super) column: usize,
    /// The text ends before its value does.
    pub(super) is_cut: bool,
}

/// Reads one value.
pub(super) fn parse(text: &str) -> Result<Value, Malformed> {
    let first = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(e) => e,
    };
    let Some(patched) = Patched::new(text) else {
        return Err(malformed(&first, first.line(), first.column()));
    };
    serde_json::from_str(&patched.text).map_err(|e| {
        let (line, column) = patched.place(text, e.line(), e.column());
        malformed(&e, line, column)
    })
}

fn malformed(e: &serde_json::Error, line: usize, column: usize) -> Malformed {
    let message = e.to_string();
    let place = format!(" at line {} column {}", e.line(), e.column());
    Malformed {
        what: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
        line,
        column,
        is_cut: e.is_eof(),
    }
}

/// The names that Python's `json` writes for numbers that JSON has not, the longer before what it ends with.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A text whose numbers that are not finite are replaced.
struct Patched {
    text: String,
    /// For each replacement, where it ends here and there.
    ends: Vec<(usize, usize)>,
}

impl Patched {
    /// `None` where there is nothing to replace.
    fn new(text: &str) -> Option<Self> {
        if !text.contains("NaN") && !text.contains("Infinity") {
            return None;
        }
        let (mut out, mut ends) = (String::with_capacity(text.len() + 64), Vec::new());
        let (mut from, mut at, mut quoted) = (0, 0, false);
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            if quoted {
                match byte {
                    b'\\' => at += 1,
                    b'"' => quoted = false,
                    _ => {}
                }
                at += 1;
                continue;
            }
            let found = match byte {
                b'-' | b'I' | b'N' => NOT_FINITE.iter().find(|name| bytes[at..].starts_with(name.as_bytes())),
                _ => None,
            };
            if let Some(name) = found {
                out.push_str(&text[from..at]);
                out.push_str(&opaque_json(name));
                at += name.len();
                from = at;
                ends.push((out.len(), at));
                continue;
            }
            quoted = byte == b'"';
            at += 1;
        }
        out.push_str(&text[from..]);
        (!ends.is_empty()).then_some(Self { text: out, ends })
    }

    /// Line and column of the original text.
    fn place(&self, original: &str, line: usize, column: usize) -> (usize, usize) {
        let starts = |text: &str| -> Vec<usize> {
            let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(breaks).collect()
        };
        let here = starts(&self.text).get(line.saturating_sub(1)).copied().unwrap_or(0) + column;
        let last = self.ends.iter().rev().find(|(end, _)| *end <= here);
        let there = last.map_or(here, |(end, was)| here - end + was);
        let start = starts(original).get(line.saturating_sub(1)).copied().unwrap_or(0);
        (line, there.saturating_sub(start))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::data::row::shown;

    #[test]
    fn numbers_that_json_has_not_are_read_and_named() {
        let value = parse(r#"{"a": NaN, "b": [1, -Infinity, {"c":Infinity}], "NaN": "Infinity \" NaN"}"#).unwrap();
        assert_eq!(shown(&value["a"]), "NaN");
        assert_eq!(shown(&value["b"][1]), "-Infinity");
        assert_eq!(shown(&value["b"][2]["c"]), "Infinity");
        assert_eq!(value["NaN"], "Infinity \" NaN");
        assert!(parse("NaNs").is_err() && parse("{\"a\": nan}").is_err() && parse("{NaN: 1}").is_err());
    }

    #[test]
    fn faults_keep_their_place() {
        let at = |text: &str| {
            let e = parse(text).unwrap_err();
            (e.line, e.column)
        };
        assert_eq!(at(r#"{"a": 1, "b": }"#), (1, 15));
        assert_eq!(at(r#"{"a": NaN, "b": }"#), (1, 17));
        assert_eq!(at("{\"a\": NaN,\n \"b\": -Infinity, \"c\": }"), (2, 22));
        assert!(parse(r#"{"a": NaN, "b": "#).unwrap_err().is_cut);
    }
}
