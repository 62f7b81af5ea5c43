//! Inputs that are nearly right: bytes, JSON and numbers with the faults that hurt readers.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

/// Numbers at which sizes, signs and types end.
const EDGES: &[i128] = &[
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 53,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    0xffff_ffff_ffff_ffff,
    -(1 << 31),
    -(1 << 63),
];

/// A number at which something ends.
pub(crate) fn edge(u: &mut Unstructured<'_>) -> Result<i128> {
    Ok(*u.choose(EDGES)?)
}

/// Damages bytes in a few places.
pub(crate) fn damage(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=6)? {
        let at = place(u, bytes.len())?;
        match u.int_in_range(0..=9)? {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            2 if at < bytes.len() => bytes[at] = u.arbitrary()?,
            // A size, as four or eight bytes or as a variable-length number.
            3 => lay(bytes, at, &(edge(u)? as u32).to_le_bytes()),
            4 => lay(bytes, at, &(edge(u)? as u64).to_le_bytes()),
            5 => lay(bytes, at, &varint(edge(u)? as u64)),
            6 => {
                let end = place(u, bytes.len())?.max(at).min(at + 4096);
                let piece = bytes[at.min(bytes.len())..end].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let end = place(u, bytes.len())?.max(at).min(at + 64);
                bytes.drain(at..end);
            }
            8 => {
                let piece: Vec<u8> = (0..u.int_in_range(1..=16)?)
                    .map(|_| u.arbitrary())
                    .collect::<Result<_>>()?;
                bytes.splice(at..at, piece);
            }
            _ => {
                let text = u.choose(&[
                    "{", "[", "\"", "\\u", "\0", "\r\n", "1e999", "NaN", "\u{202e}", "{%", "}}",
                ])?;
                bytes.splice(at..at, text.bytes());
            }
        }
    }
    Ok(())
}

/// A place in something: near its beginning or end as often as anywhere.
fn place(u: &mut Unstructured<'_>, len: usize) -> Result<usize> {
    let near = len.min(64);
    Ok(match u.int_in_range(0..=2)? {
        0 => u.int_in_range(0..=near)?,
        1 => len - u.int_in_range(0..=near)?,
        _ => u.int_in_range(0..=len)?,
    })
}

fn lay(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(with) {
        *to = *from;
    }
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// Changes a JSON value in a few places.
pub(crate) fn twist(u: &mut Unstructured<'_>, value: &mut Value) -> Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        twist_once(u, value, 0)?;
    }
    Ok(())
}

fn twist_once(u: &mut Unstructured<'_>, value: &mut Value, depth: usize) -> Result<()> {
    let deeper = depth < 12 && u.ratio(4, 5)?;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = u.choose_index(map.len())?;
            let key = map.keys().nth(at).cloned().unwrap_or_default();
            match u.int_in_range(0..=9)? {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(text(u)?, odd(u, 0)?)),
                2 => {
                    let to = u.choose_index(map.len())?;
                    let to = map.keys().nth(to).cloned().unwrap_or_default();
                    let copy = map[&key].clone();
                    map.insert(to, copy);
                }
                _ => twist_once(u, &mut map[&key], depth + 1)?,
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = u.choose_index(list.len())?;
            match u.int_in_range(0..=9)? {
                0 => drop(list.remove(at)),
                1 => list.insert(at, odd(u, 0)?),
                2 => {
                    let copy = list[at].clone();
                    list.extend(std::iter::repeat_n(copy, u.int_in_range(1..=50)?));
                }
                _ => twist_once(u, &mut list[at], depth + 1)?,
            }
        }
        _ => *value = odd(u, 0)?,
    }
    Ok(())
}

/// Sets a field, where there are fields.
pub(crate) fn put(value: &mut Value, key: &str, to: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), to);
    }
}

/// A value of any kind that a reader may not expect.
pub(crate) fn odd(u: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match u.int_in_range(0..=11)? {
        0 => Value::Null,
        1 => json!(u.arbitrary::<bool>()?),
        2 | 3 => whole(edge(u)?),
        4 => json!(u.choose(&[0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, -1e308])?),
        5..=7 => Value::String(text(u)?),
        8 if depth < 4 => Value::Array(
            (0..u.int_in_range(0..=4)?)
                .map(|_| odd(u, depth + 1))
                .collect::<Result<_>>()?,
        ),
        9 if depth < 4 => Value::Object(
            (0..u.int_in_range(0..=4)?)
                .map(|_| Ok((text(u)?, odd(u, depth + 1)?)))
                .collect::<Result<Map<_, _>>>()?,
        ),
        _ => nested(u.int_in_range(1..=200)?),
    })
}

/// A whole number as JSON holds it, or as a text where it holds none so large.
fn whole(n: i128) -> Value {
    match (u64::try_from(n), i64::try_from(n)) {
        (Ok(n), _) => json!(n),
        (_, Ok(n)) => json!(n),
        _ => json!(n.to_string()),
    }
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

/// A text: a word that readers look for, an ordinary one, or one that hurts.
pub(crate) fn text(u: &mut Unstructured<'_>) -> Result<String> {
    const WORDS: &[&str] = &[
        "",
        " ",
        "a",
        "hello world",
        "<s>",
        "</s>",
        "<|im_end|>",
        "\u{1b}[31m\u{7}",
        "../../etc/passwd",
        "/etc/passwd",
        "\0",
        "\u{202e}abc",
        "é",
        "日本語",
        "\u{fffd}",
        "e\u{301}",
        "🙂",
        "NaN",
        "Infinity",
        "-1",
        "null",
        "prompt",
        "messages",
        "role",
        "content",
        "assistant",
        "user",
        "Regex",
        "String",
        "(a+)+$",
        "(",
        "[",
        "\\",
        ".*",
        "{{ x }}",
        "{% if %}",
        "a\r\nb",
        "\t",
    ];
    Ok(match u.int_in_range(0..=9)? {
        0..=6 => (*u.choose(WORDS)?).to_owned(),
        7 => u.choose(WORDS)?.repeat(u.int_in_range(1..=300)?),
        _ => (0..u.int_in_range(0..=40)?)
            .map(|_| u.arbitrary::<char>())
            .collect::<Result<_>>()?,
    })
}

/// JSON text of a value: sometimes with what Python writes and JSON has not, sometimes damaged.
pub(crate) fn written(u: &mut Unstructured<'_>, value: &Value) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    if u.ratio(1, 8)? {
        damage(u, &mut bytes)?;
    }
    if u.ratio(1, 60)? {
        let levels = u.int_in_range(100..=100_000)?;
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        bytes = deep.into_bytes();
    }
    Ok(bytes)
}
