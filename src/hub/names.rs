//! Names that a hub or a user gives, before they become parts of a path or an address.

/// Whether text is a commit: 40 hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The name of a file's contents: a SHA-256 (64 hexadecimal digits), or the SHA-1 that Git names a file by (40).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(String);

impl Etag {
    /// Reads a header's value, with or without quotes and the mark of a weak one. `None` where it is no hash.
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        let value = value.strip_prefix("W/").unwrap_or(value);
        let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let hash = quoted.unwrap_or(value);
        (matches!(hash.len(), 40 | 64) && is_hex(hash)).then(|| Self(hash.to_ascii_lowercase()))
    }

    /// The digits, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a SHA-256.
    pub fn is_sha256(&self) -> bool {
        self.0.len() == 64
    }
}

/// Whether a name has the form of a hub id, "owner/name".
///
/// Two hyphens or dots in a row are none of it, as on the hub: the cache writes the slash as `--`, so that one
/// repository could otherwise lie in the folder of another.
pub fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['.', '-'])
            && !p.ends_with(['.', '-'])
            && !p.contains("--")
            && !p.contains("..")
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    name.split_once('/')
        .is_some_and(|(owner, rest)| part(owner) && part(rest))
}

/// Longest name of a file, with its directories.
const LONGEST_NAME: usize = 1024;
/// Longest part of a name: what file systems take, less the room for the ending of a temporary file.
const LONGEST_PART: usize = 240;

/// Whether a name is that of a file below a directory: relative, with `/` between plain parts.
///
/// No part is empty, `.` or `..`; there are no backslashes, control characters or marks that turn the direction of text.
pub fn is_plain(name: &str) -> bool {
    name.len() <= LONGEST_NAME && name.split('/').all(is_plain_part)
}

fn is_plain_part(part: &str) -> bool {
    // Windows takes colons for drives and streams, and drops dots and spaces at the end of a name.
    let portable = !cfg!(windows)
        || (!part.contains([':', '*', '?', '"', '<', '>', '|']) && !part.ends_with(['.', ' ']));
    !matches!(part, "" | "." | "..")
        && part.len() <= LONGEST_PART
        && portable
        && !part.chars().any(|c| c == '\\' || c.is_control() || turns(c))
}

/// Whether a character changes the direction of the text around it.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a file or one of its directories is hidden.
pub fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

/// Whether a name is that of a branch, tag or commit.
pub fn is_revision(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || "~^:?*[".contains(c);
    is_plain(name) && !is_hidden(name) && !name.contains("..") && !name.contains(forbidden)
}

/// `text` as a part of an address; slashes stay where `slashes` says so.
pub fn escaped(text: &str, slashes: bool) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, b| {
            match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(b))
                }
                b'/' if slashes => out.push('/'),
                _ => out.push_str(&format!("%{b:02X}")),
            }
            out
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn hub_ids() {
        for good in ["meta-llama/Llama-3.2-1B-Instruct", "a/b", "a_b/c.d-e"] {
            assert!(is_hub_id(good), "{good}");
        }
        for bad in [
            "tiny",
            "a/b/c",
            "/abs",
            "./x",
            "../x",
            "a/",
            "/a",
            "a b/c",
            "a/..",
            "a/b--c",
            "a--b/c",
            "a/b..c",
            "a/-b",
            "a/b.",
            "a/\u{202e}b",
        ] {
            assert!(!is_hub_id(bad), "{bad}");
        }
    }

    #[test]
    fn etags_are_hashes() {
        let (sha1, sha256) = ("0123456789abcdef0123456789ABCDEF01234567", "ab".repeat(32));
        let read = |text: &str| Etag::parse(text).map(|e| e.as_str().to_string());
        for form in [sha1.to_string(), format!("\"{sha1}\""), format!("W/\"{sha1}\"")] {
            assert_eq!(read(&form).unwrap(), sha1.to_ascii_lowercase());
        }
        assert!(Etag::parse(&sha256).unwrap().is_sha256());
        let long = format!("\"{sha256}0\"");
        for bad in [
            "",
            "\"\"",
            "e1",
            "\"..\"",
            "\"/\"",
            "/etc/passwd",
            "../../x",
            "\"",
            &sha1[1..],
            long.as_str(),
            "g123456789abcdef0123456789abcdef01234567",
            "\"0123456789abcdef0123456789abcdef0123456/\"",
            "0123456789abcdef0123456789abcdef0123456\u{e9}",
            "../../../../../../../home/me/.ssh/authorizd",
        ] {
            assert_eq!(Etag::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn file_names_stay_below_their_directory() {
        for good in [
            "a",
            "data/train-00000-of-00001.parquet",
            "a b/ü.jsonl",
            "...a",
            ".gitattributes",
        ] {
            assert!(is_plain(good), "{good}");
        }
        let (long, part) = ("a/".repeat(600) + "a", "a".repeat(300));
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/..",
            "..",
            ".",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "..\\x",
            "a\0b",
            "x\u{1b}[31m",
            "a\nb",
            "a\u{7f}",
            "a\u{85}",
            "a\u{202e}b",
            &long,
            &part,
        ] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_hidden(".ssh/x") && is_hidden("a/.b") && !is_hidden("a.b/c"));
    }

    #[test]
    fn revisions_are_names_of_git() {
        for good in ["main", "refs/convert/parquet", "v1.0", "feature/a-b_c"] {
            assert!(is_revision(good), "{good}");
        }
        for bad in [
            "", "/etc", "../x", "a..b", "a b", "a/.b", "a^", "a\\b", "a\n", "a/",
        ] {
            assert!(!is_revision(bad), "{bad:?}");
        }
    }

    #[test]
    fn addresses_take_any_name() {
        assert_eq!(escaped("a b/ü?#%.json", true), "a%20b/%C3%BC%3F%23%25.json");
        assert_eq!(escaped("refs/convert/parquet", false), "refs%2Fconvert%2Fparquet");
    }
}
