//! Keys, which no line shows, whoever repeats them and in whatever form.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

/// Stands in a line where a key would.
const MASK: &str = "[key]";
/// Shorter values are words ("none", "EMPTY") that people set where a program asks for some key.
const SHORTEST: usize = 8;
/// How often over an address is unescaped when a key is looked for in it.
const ESCAPES: usize = 4;
/// Variables of the environment that hold keys.
const VARIABLES: [&str; 4] = [
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
];
/// Variables that hold addresses, with their passwords.
const ADDRESSES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_ENDPOINT"];

/// The forms of every known key, long ones first.
static FORMS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Masks this key from now on in all that [`masked`] sees.
pub fn keep(key: &str) {
    let key = key.trim();
    if key.len() < SHORTEST {
        return;
    }
    let mut known = FORMS.write().unwrap_or_else(PoisonError::into_inner);
    for form in forms(key) {
        if !known.contains(&form) {
            known.push(form);
        }
    }
    known.sort_by_key(|form| std::cmp::Reverse(form.len()));
}

/// Masks the keys that the environment holds.
pub fn keep_environment() {
    let value = |name: &str| std::env::var(name).ok();
    VARIABLES
        .iter()
        .filter_map(|name| value(name))
        .for_each(|key| keep(&key));
    for name in ADDRESSES {
        for address in [value(name), value(&name.to_lowercase())].into_iter().flatten() {
            if let Some(password) = password_of(&address) {
                keep(password);
                // What the client sends, and a proxy may repeat.
                keep(&String::from_utf8_lossy(&unescaped(password.as_bytes())));
            }
        }
    }
}

/// What stands between a user's name and the host of an address.
fn password_of(address: &str) -> Option<&str> {
    let (login, _) = address.rsplit_once('@')?;
    let login = login.rsplit_once("//").map_or(login, |(_, login)| login);
    login.split_once(':').map(|(_, password)| password)
}

/// The text without any known key.
pub fn masked(text: String) -> String {
    let known = FORMS.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = text;
    for form in known.iter() {
        if text.contains(form.as_str()) {
            text = text.replace(form.as_str(), MASK);
        }
    }
    text
}

/// Where a known key begins before this byte of the text and ends behind it.
pub fn across(text: &str, at: usize) -> Option<Range<usize>> {
    let known = FORMS.read().unwrap_or_else(PoisonError::into_inner);
    let places = known.iter().filter_map(|form| {
        let (form, least) = (form.as_bytes(), at.saturating_sub(form.len() - 1));
        let near = text.as_bytes().get(least..text.len().min(at + form.len() - 1))?;
        let begin = least + near.windows(form.len()).position(|part| part == form)?;
        Some(begin..begin + form.len())
    });
    places.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
}

/// Whether an address holds a key: as it is, or escaped with `%`, a few times over.
pub fn holds(address: &str, key: &str) -> bool {
    if key.is_empty() {
        return false;
    }
    let mut text = address.as_bytes().to_vec();
    for _ in 0..=ESCAPES {
        if text.windows(key.len()).any(|part| part == key.as_bytes()) {
            return true;
        }
        text = unescaped(&text);
    }
    false
}

/// The bytes that a text with `%` escapes stands for. What is no escape stays.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        let pair = (text[at] == b'%').then(|| Some((digit(at + 1)?, digit(at + 2)?)));
        match pair
            .flatten()
            .and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
        {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// A key as lines can show it: plain, escaped, in hexadecimal, in base 64 within other text, as a list of bytes.
fn forms(key: &str) -> Vec<String> {
    let bytes = key.as_bytes();
    let each = |f: &dyn Fn(u8) -> String| bytes.iter().map(|b| f(*b)).collect::<Vec<_>>();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let mut forms = vec![
        key.to_string(),
        key.escape_debug().to_string(),
        key.replace('\\', "\\\\").replace('"', "\\\"").replace('/', "\\/"),
        each(&|b| format!("{b:02x}")).concat(),
        each(&|b| format!("{b:02X}")).concat(),
        each(&|b| format!("{b:02x}")).join(" "),
        each(&|b| format!("{b}")).join(", "),
        each(&|b| format!("0x{b:02x}")).join(", "),
    ];
    for upper in [true, false] {
        forms.push(
            each(&|b| match b {
                b if plain(b) => char::from(b).to_string(),
                b if upper => format!("%{b:02X}"),
                b => format!("%{b:02x}"),
            })
            .concat(),
        );
    }
    for at in 0..3 {
        let text = base64_within(bytes, at);
        forms.push(text.replace('+', "-").replace('/', "_"));
        forms.push(text);
    }
    forms.sort();
    forms.dedup();
    forms
}

/// The digits of base 64 that depend on these bytes alone, where the first is byte `at` of three.
fn base64_within(bytes: &[u8], at: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let skip = (3 - at) % 3;
    bytes[skip..]
        .chunks_exact(3)
        .flat_map(|three| {
            let word = three.iter().fold(0, |word, b| word << 8 | usize::from(*b));
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[word >> shift & 63]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_key_is_shown() {
        keep("sk-Test/Key+1\"x");
        for line in [
            "Authorization: Bearer sk-Test/Key+1\"x",
            "{\"key\": \"sk-Test/Key+1\\\"x\"}",
            "GET /?key=sk-Test%2FKey%2B1%22x&n=1",
            "GET /?key=sk-Test%2fKey%2b1%22x&n=1",
            "73 6b 2d 54 65 73 74 2f 4b 65 79 2b 31 22 78",
            "736b2d546573742f4b65792b312278",
            "[0, 115, 107, 45, 84, 101, 115, 116, 47, 75, 101, 121, 43, 49, 34, 120, 1]",
        ] {
            let said = masked(line.to_string());
            assert!(
                said.contains(MASK) && !said.contains("Test") && !said.contains("73 74"),
                "{said}"
            );
        }
        assert_eq!(masked("sk-Test".into()), "sk-Test");
    }

    #[test]
    fn a_key_within_base_64_is_found_wherever_it_begins() {
        keep("hf_aKeyOfManyLetters");
        for user in ["", "u", "us", "use"] {
            let text = format!("{user}hf_aKeyOfManyLetters!!");
            let whole = base64_within(text.as_bytes(), 0);
            let said = masked(format!("Basic {whole}"));
            assert!(said.contains(MASK), "{user}: {said}");
        }
        assert_eq!(base64_within(b"Man", 0), "TWFu");
    }

    #[test]
    fn a_key_is_found_in_an_address_however_often_it_is_escaped() {
        let key = "sk-Key%2dOf/Letters";
        for address in [
            "http://h/sk-Key%2dOf/Letters/v1",
            "http://h/sk%2dKey%252dOf%2FLetters/v1",
            "http://h/?k=sk%252DKey%25252dOf/%4cetters",
            "http://%73k-Key%252dOf/Letters@h/v1",
        ] {
            assert!(holds(address, key), "{address}");
        }
        for address in [
            "http://h/v1",
            "",
            "%",
            "http://h/%zz%2",
            "http://h/sk-Key%2DOf/Letter",
        ] {
            assert!(!holds(address, key), "{address}");
        }
        assert_eq!(unescaped(b"%41%4g%+1%4"), b"A%4g%+1%4");
    }

    #[test]
    fn words_are_no_keys_and_addresses_have_passwords() {
        keep("EMPTY");
        assert_eq!(masked("EMPTY".into()), "EMPTY");
        assert_eq!(password_of("http://me:pass@host:3128"), Some("pass"));
        assert_eq!(password_of("socks5://me:p@ss@host"), Some("p@ss"));
        assert_eq!(password_of("http://host:3128"), None);
        assert_eq!(password_of("http://me@host:3128"), None);
    }
}
