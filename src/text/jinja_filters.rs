//! Filters and tests that Jinja2 has and minijinja lacks or does otherwise.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::jinja_source;
use super::jinja_work::{make_text, make_texts, text_of};

/// Puts them into an environment.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
    environment.add_filter(jinja_source::ITERABLE, iterable);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("truncate", truncate);
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// As Python's `iter`: an undefined value is empty, None is an error.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// What has a length and items: strings and dicts are sequences too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || (!value.is_none() && value.len().is_some())
}

/// Functions and macros.
fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// What a loop may run over.
fn iterable(value: &Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(invalid("None is not iterable"));
    }
    Ok(value.clone())
}

/// An undefined value has no items; None has no length.
fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        _ if value.is_undefined() => Ok(0),
        Some(n) if !value.is_none() => Ok(n),
        _ => Err(invalid(format!("a value of kind {} has no length", value.kind()))),
    }
}

fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default_value")?);
    let boolean = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    if value.is_undefined() || (boolean && !value.is_true()) {
        Ok(other.unwrap_or_else(|| "".into()))
    } else {
        Ok(value.clone())
    }
}

fn replace(
    value: &Value,
    old: &Value,
    new: &Value,
    count: Option<i64>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let count = count.or(kwargs.get("count")?);
    kwargs.assert_all_used()?;
    let [text, old, new] = [text_of(value)?, text_of(old)?, text_of(new)?];
    make_text(text.len())?;
    make_texts(text.matches(&old).count(), new.len())?;
    Ok(match count.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => text.replacen(&old, &new, n),
        None => text.replace(&old, &new),
    })
}

/// Longest indentation of a line.
const MAX_INDENT: usize = 1 << 10;

/// Indents by a number of spaces or by a string; lines are those of `str.splitlines`.
fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or_else(|| 4.into());
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let text = text_of(value)?;
    let indent = match width.as_str() {
        Some(text) => text.to_owned(),
        None => match width.as_usize() {
            Some(n) if n <= MAX_INDENT => " ".repeat(n),
            _ => return Err(invalid(format!("indent: a width of {width}"))),
        },
    };
    make_text(text.len())?;
    make_texts(text.matches('\n').count() + 1, indent.len())?;
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Python's number syntax: white space around it, underscores between digits.
fn digits(text: &str) -> Option<String> {
    let text = text.trim();
    let bad = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!bad).then(|| text.replace('_', ""))
}

fn parse_int(text: &str, base: u32) -> Option<i64> {
    let text = digits(text)?.to_ascii_lowercase();
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (&text[..1], rest),
        None => ("", text.as_str()),
    };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    digits(text)?.parse().ok()
}

/// `int` gives its default, 0, for what is no number.
fn int(value: &Value, other: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default")?).unwrap_or_else(|| 0.into());
    let base = base.or(kwargs.get("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(invalid(format!("int: base {base}")));
    }
    let whole = |v: f64| (v.abs() < 9e18).then(|| Value::from(v.trunc() as i64));
    let found = match value.kind() {
        ValueKind::Undefined => return Err(invalid("int of an undefined value")),
        ValueKind::Bool => Some(i64::from(value.is_true()).into()),
        ValueKind::Number if value.is_integer() => Some(value.clone()),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(whole),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let exact = parse_int(text, base).map(Value::from);
            exact.or_else(|| parse_float(text).and_then(whole))
        }
        _ => None,
    };
    Ok(found.unwrap_or(other))
}

/// `float` gives its default, 0.0, for what is no number.
fn float(value: &Value, other: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default")?).unwrap_or_else(|| 0.0.into());
    kwargs.assert_all_used()?;
    let found = match value.kind() {
        ValueKind::Undefined => return Err(invalid("float of an undefined value")),
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => parse_float(value.as_str().unwrap_or_default()),
        _ => None,
    };
    Ok(found.map_or(other, Value::from))
}

/// Markupsafe's escapes.
fn escape(value: &Value) -> Result<String, Error> {
    let text = text_of(value)?;
    // The longest escape.
    make_texts(text.matches(['&', '<', '>', '\'', '"']).count(), 5)?;
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// How many runs of letters, digits and underscores.
fn wordcount(value: &Value) -> Result<usize, Error> {
    let text = text_of(value)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    Ok(words.filter(|word| !word.is_empty()).count())
}

/// At most `length` characters, whole words unless `killwords`; up to `leeway` more are left alone.
fn truncate(
    value: &Value,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let length = length.or(kwargs.get("length")?).unwrap_or(255);
    let killwords = killwords.or(kwargs.get("killwords")?).unwrap_or(false);
    let end: String = end.or(kwargs.get("end")?).unwrap_or_else(|| "...".to_owned());
    let leeway = kwargs.get::<Option<usize>>("leeway")?.unwrap_or(5);
    kwargs.assert_all_used()?;
    let text = text_of(value)?;
    make_text(end.len())?;
    let n = end.chars().count();
    if length < n {
        return Err(invalid(format!(
            "truncate: {length} characters have no room for {end:?}"
        )));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length - n).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !killwords => words.to_owned(),
        _ => kept,
    };
    Ok(kept + &end)
}
