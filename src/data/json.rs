//! JSON as Python's `json` module writes and reads it: the one reader for JSON that others wrote.
//!
//! Beyond the standard it takes what `json.loads` takes: `NaN`, `Infinity` and `-Infinity`, numbers
//! beyond the largest float (`1e999` is infinite), repeated keys (the last one counts), and a
//! byte-order mark before the text.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

pub use super::row::shown;

use crate::error::{Context, Error, Result};
use crate::file::limits::NESTING;

/// The key of the object that stands for a number that JSON does not have; see [`python_constant`].
const CONSTANT: &str = "$float";

/// Text that is not JSON, and where it stops being so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was found or is missing.
    pub message: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1; 0 at the end of a line.
    pub column: usize,
}

impl Malformed {
    /// Whether its values are nested deeper than anybody reads.
    #[must_use]
    pub fn is_deep(&self) -> bool {
        self.message == "recursion limit exceeded"
    }

    /// Whether the text ends before its value does.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.message.starts_with("EOF")
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.message, self.line, self.column)
    }
}

/// Reads one JSON value as Python does. `NaN` and the infinities become values that are no number,
/// no string and not null, so that whoever uses one refuses it by its type; [`python_constant`]
/// tells them apart.
///
/// # Errors
/// The text is not JSON for Python either; line and column are the text's own.
pub fn parse_python_json(text: &str) -> Result<Value, Malformed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(e) => e,
    };
    // Only text that the standard refuses is looked through a second time.
    let (standard, replaced) = replace_constants(text);
    if replaced.is_empty() {
        return Err(malformed(&error, &replaced));
    }
    serde_json::from_str(&standard).map_err(|e| malformed(&e, &replaced))
}

/// As [`parse_python_json`], from bytes.
///
/// # Errors
/// As [`parse_python_json`]; the bytes are not UTF-8.
pub fn parse_python_json_bytes(bytes: &[u8]) -> Result<Value, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_python_json(text),
        Err(e) => {
            let before = &bytes[..e.valid_up_to()];
            let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            Err(Malformed {
                message: "the text is not UTF-8".into(),
                line: before.iter().filter(|&&b| b == b'\n').count() + 1,
                column: before.len() - line_start + 1,
            })
        }
    }
}

/// Reads a file that holds one JSON object; `file` begins messages.
///
/// # Errors
/// A user error: not JSON, or not an object.
pub fn parse_object(bytes: &[u8], file: &str) -> Result<Map<String, Value>> {
    if is_lfs_pointer(bytes) {
        return Err(Error::user(LFS_POINTER)).context(file);
    }
    match parse_python_json_bytes(bytes) {
        Ok(Value::Object(map)) if python_constant_of(&map).is_none() => Ok(map),
        Ok(_) => Err(Error::user("not a JSON object")).context(file),
        Err(e) if e.message.starts_with("recursion limit") => Err(NESTING.exceeded(file)),
        Err(e) => Err(Error::user(format!("not valid JSON: {e}"))).context(file),
    }
}

/// What a file of a repository that was cloned without Git LFS is, and the way on.
pub const LFS_POINTER: &str =
    "this is a pointer of Git LFS, not the file: run `git lfs pull` in the repository, or `hf download`";

/// Whether a file is a pointer that Git LFS leaves in place of a large file.
pub fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// "NaN", "Infinity" or "-Infinity" where a value is one of these.
pub fn python_constant(value: &Value) -> Option<&str> {
    python_constant_of(value.as_object()?)
}

fn python_constant_of(map: &Map<String, Value>) -> Option<&str> {
    match map.get(CONSTANT) {
        Some(Value::String(name)) if map.len() == 1 => Some(name),
        _ => None,
    }
}

/// The text with what stands for `NaN` and the infinities in their place, so that it is JSON by the
/// standard.
pub(super) fn standard(text: &str) -> Cow<'_, str> {
    replace_constants(text).0
}

/// A replacement: its line (from 1), the column at which the new text ends, and how much longer it
/// is.
struct Replaced {
    line: usize,
    end: usize,
    longer: isize,
}

/// The text with every constant outside strings replaced by the object that stands for it.
fn replace_constants(text: &str) -> (Cow<'_, str>, Vec<Replaced>) {
    let bytes = text.as_bytes();
    let (mut out, mut replaced) = (String::new(), Vec::new());
    let (mut copied, mut at, mut line, mut line_start) = (0, 0, 1, 0);
    while at < bytes.len() {
        let found = match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'\n' => {
                line += 1;
                at += 1;
                // Columns are counted in the new text.
                line_start = out.len() + (at - copied);
                continue;
            }
            b'N' | b'I' | b'-' | b'0'..=b'9' => constant(&text[at..]),
            _ => None,
        };
        let Some((length, name)) = found else {
            // A number that stays is passed whole, so that the search does not begin again inside
            // it.
            at += number_length(&bytes[at..]).max(1);
            continue;
        };
        let new = format!("{{\"{CONSTANT}\":\"{name}\"}}");
        out.push_str(&text[copied..at]);
        out.push_str(&new);
        at += length;
        copied = at;
        replaced.push(Replaced {
            line,
            end: out.len() - line_start,
            longer: new.len() as isize - length as isize,
        });
    }
    if replaced.is_empty() {
        return (Cow::Borrowed(text), replaced);
    }
    out.push_str(&text[copied..]);
    (Cow::Owned(out), replaced)
}

/// The index after a string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length and the name of a constant at the beginning of `rest`.
fn constant(rest: &str) -> Option<(usize, &'static str)> {
    for name in ["NaN", "Infinity", "-Infinity"] {
        if rest.starts_with(name) {
            return Some((name.len(), name));
        }
    }
    let length = number_length(rest.as_bytes());
    let value: f64 = rest[..length].parse().ok()?;
    value
        .is_infinite()
        .then_some((length, if value > 0.0 { "Infinity" } else { "-Infinity" }))
}

/// How many bytes at the beginning may belong to a number.
fn number_length(bytes: &[u8]) -> usize {
    let part = |b: &&u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
    if !bytes.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-') {
        return 0;
    }
    bytes.iter().take_while(part).count()
}

fn malformed(error: &serde_json::Error, replaced: &[Replaced]) -> Malformed {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let before = replaced
        .iter()
        .filter(|r| r.line == error.line() && r.end <= error.column());
    let longer: isize = before.map(|r| r.longer).sum();
    Malformed {
        message: text.strip_suffix(&place).unwrap_or(&text).to_string(),
        line: error.line(),
        column: error.column().saturating_add_signed(-longer),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::json;

    #[test]
    fn constants_of_python_are_read_outside_strings_alone() {
        let text = r#"{"a": [0.0, Infinity], "b": -Infinity, "c": NaN, "d": "NaN, \"Infinity\"", "NaN": 1e999, "e": -1e999}"#;
        let value = parse_python_json(text).unwrap();
        let names = |v: &Value| python_constant(v).map(str::to_string);
        assert_eq!(value["a"][0], json!(0.0));
        assert_eq!(names(&value["a"][1]).as_deref(), Some("Infinity"));
        assert_eq!(names(&value["b"]).as_deref(), Some("-Infinity"));
        assert_eq!(names(&value["c"]).as_deref(), Some("NaN"));
        assert_eq!(value["d"], json!("NaN, \"Infinity\""));
        assert_eq!(names(&value["NaN"]).as_deref(), Some("Infinity"));
        assert_eq!(names(&value["e"]).as_deref(), Some("-Infinity"));
        assert!(names(&json!({"$float": "NaN", "b": 1})).is_none());
        assert!(value["c"].as_f64().is_none() && value["c"].as_str().is_none() && !value["c"].is_null());
        assert_eq!(
            (shown(&value["b"]).as_str(), shown(&json!([1])).as_str()),
            ("-Infinity", "[1]")
        );
        assert_eq!(
            names(&parse_python_json(" NaN ").unwrap()).as_deref(),
            Some("NaN")
        );
    }

    #[test]
    fn plain_json_is_what_it_was() {
        let text = "\u{feff}{\"a\": 1, \"b\": -0.5e-3, \"a\": \"ä\\n\", \"big\": 18446744073709551615}";
        let value = parse_python_json(text).unwrap();
        assert_eq!(
            value,
            json!({"a": "ä\n", "b": -0.0005, "big": 18446744073709551615u64})
        );
        assert_eq!(parse_python_json_bytes(b"\xef\xbb\xbf[1]").unwrap(), json!([1]));
    }

    #[test]
    fn errors_stand_where_they_are_in_the_text() {
        for (text, line, column) in [
            ("{\"a\": 1,\n \"b\": x}", 2, 7),
            ("{\"a\": NaN,\n \"b\": Infinity, \"c\": x}", 2, 22),
            ("{\"a\": NaN, \"b\": x, \"c\": Infinity}", 1, 17),
            ("[\"ä\", Infinity, -1e400, x]", 1, 26),
            ("{\"a\": Nan}", 1, 7),
            ("[NaN1]", 1, 5),
            ("[Infinity", 1, 9),
        ] {
            let e = parse_python_json(text).unwrap_err();
            assert_eq!((e.line, e.column), (line, column), "{text}: {e}");
        }
        let e = parse_python_json_bytes(b"{\n \"a\": \"\xff\"}").unwrap_err();
        assert_eq!((e.line, e.column), (2, 8));
        for (bytes, why) in [
            (&b"NaN"[..], "f: not a JSON object"),
            (b"[1]", "f: not a JSON object"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "f: this is a pointer of Git LFS",
            ),
            (b"{", "f: not valid JSON: EOF while parsing an object at line 1"),
        ] {
            let e = parse_object(bytes, "f").unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().starts_with(why), "{e}");
        }
    }
}
