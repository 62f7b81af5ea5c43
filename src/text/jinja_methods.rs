//! Methods of Python's `str`, `list` and `dict` that chat templates call.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::jinja_filters::invalid;
use super::jinja_work::{go_through, look_at, make_items, make_text, make_texts, read_texts};
use super::{jinja_ops, jinja_source};

/// Longest text that padding makes.
const MAX_WIDTH: usize = 1 << 20;

/// The method callback: what minijinja-contrib lacks or does unlike Python, then minijinja-contrib.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    pay(value, method, args)?;
    if method == jinja_source::SLICE {
        return slice(value, args);
    }
    let own = match value.kind() {
        ValueKind::String => string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        ValueKind::Seq | ValueKind::Iterable => sequence(value, method, args)?,
        _ => None,
    };
    jinja_ops::settle(match own {
        Some(value) => value,
        None => pycompat::unknown_method_callback(state, value, method, args)?,
    })
}

/// Pays for what a method will do.
fn pay(value: &Value, method: &str, args: &[Value]) -> Result<(), Error> {
    look_at(value)?;
    for arg in args {
        go_through(arg)?;
    }
    let text = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    let Some(s) = value.as_str() else {
        // These compare with the items.
        if matches!(method, "index" | "count") {
            go_through(value)?;
        }
        return Ok(());
    };
    match method {
        jinja_source::SLICE => make_items(s.len()),
        "strip" | "lstrip" | "rstrip" => read_texts(s.len(), text(0).len()),
        "replace" => {
            make_text(s.len())?;
            make_texts(s.matches(text(0)).count(), text(1).len())
        }
        "join" => {
            let n = args.first().and_then(Value::len).unwrap_or(0);
            make_texts(n, s.len())
        }
        "format" => jinja_ops::format_work(s, args),
        // Places are counted in characters.
        "find" | "rfind" | "index" | "rindex" | "count" => read_texts(s.len(), args.len()),
        "startswith" | "endswith" => read_texts(args.first().and_then(Value::len).unwrap_or(0), s.len()),
        _ => Ok(()),
    }
}

/// Python's white space: Unicode's and four separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `value[start:stop:step]` as Python counts.
fn slice(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (start, stop, step): (Option<i64>, Option<i64>, Option<i64>) = from_args(args)?;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("a slice's step cannot be 0"));
    }
    let items: Vec<Value> = match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        ValueKind::Undefined => return Err(Error::new(ErrorKind::UndefinedError, "a slice")),
        // As for any item that is not there.
        _ => return Ok(Value::UNDEFINED),
    };
    let n = items.len() as i64;
    // Backwards, the ends are the last item and the place before the first.
    let (low, high) = if step < 0 { (-1, n - 1) } else { (0, n) };
    let place = |at: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(low, high);
    let mut at = start.map_or(if step < 0 { high } else { low }, place);
    let stop = stop.map_or(if step < 0 { low } else { high }, place);
    let mut taken = Vec::new();
    while if step < 0 { at > stop } else { at < stop } {
        taken.extend(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned());
        at = at.saturating_add(step);
    }
    Ok(match value.kind() {
        ValueKind::String => taken.iter().filter_map(Value::as_str).collect::<String>().into(),
        _ if value.is_tuple() => Tuple::from(taken).into(),
        _ => taken.into(),
    })
}

fn sequence(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => Ok(Some(value.clone())),
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            match at {
                Some(at) => Ok(Some(at.into())),
                None => Err(invalid(format!("{what:?} is not in the list"))),
            }
        }
        // transformers renders in a sandbox that keeps lists and dicts as they are.
        "append" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort" | "clear" => Err(invalid(
            format!("lists cannot be changed in a chat template (.{method})"),
        )),
        _ => Ok(None),
    }
}

/// `None` for a method that is not here.
fn string(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value: Value = match method {
        "strip" | "lstrip" | "rstrip" => strip(s, method, args)?.into(),
        "split" | "rsplit" => split(s, method == "rsplit", args)?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            // As many lines as line ends at most.
            make_items(s.matches(is_line_end).count() + 1)?;
            lines(s, keep).into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            if sep.is_empty() {
                return Err(invalid("empty separator"));
            }
            let parts = match method {
                "partition" => s.split_once(sep).map_or([s, "", ""], |(a, b)| [a, sep, b]),
                _ => s.rsplit_once(sep).map_or(["", "", s], |(a, b)| [a, sep, b]),
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            s.strip_prefix(prefix).unwrap_or(s).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            s.strip_suffix(suffix).unwrap_or(s).into()
        }
        "title" => {
            let () = from_args(args)?;
            title(s).into()
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                }
            };
            s.chars().map(swap).collect::<String>().into()
        }
        "casefold" => {
            let () = from_args(args)?;
            s.to_lowercase().replace('ß', "ss").into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => find(s, method, args)?,
        "startswith" | "endswith" if args.len() > 1 => {
            let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let (_, part) = part(s, start, end);
            let matches = |what: &Value| match what.as_str() {
                Some(what) if method == "startswith" => Ok(part.starts_with(what)),
                Some(what) => Ok(part.ends_with(what)),
                None => Err(invalid(format!("{method} takes a string or a tuple of strings"))),
            };
            let found = match what.kind() {
                ValueKind::Seq => {
                    let mut found = false;
                    for what in what.try_iter()? {
                        found |= matches(&what)?;
                    }
                    found
                }
                _ => matches(what)?,
            };
            found.into()
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, value) in values.try_iter()?.enumerate() {
                let Some(text) = value.as_str() else {
                    return Err(invalid(format!(
                        "join: item {i} is of kind {}, not a string",
                        value.kind()
                    )));
                };
                if i > 0 {
                    out.push_str(s);
                }
                out.push_str(text);
            }
            out.into()
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match s.strip_prefix(['-', '+']) {
                Some(digits) => s.split_at(s.len() - digits.len()),
                None => ("", s),
            };
            format!("{sign}{}{digits}", padding(s, width, '0')?).into()
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let pad = padding(s, width, fill.unwrap_or(' '))?;
            let n = pad.chars().count();
            let left = match method {
                "ljust" => 0,
                "rjust" => n,
                _ => n / 2 + (n & width & 1),
            };
            let side = |n: usize| pad.chars().take(n).collect::<String>();
            format!("{}{s}{}", side(left), side(n - left)).into()
        }
        "isdecimal" => {
            let () = from_args(args)?;
            (!s.is_empty()
                && s.chars()
                    .all(|c| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())))
            .into()
        }
        "isspace" => {
            let () = from_args(args)?;
            (!s.is_empty() && s.chars().all(is_space)).into()
        }
        "istitle" => {
            let () = from_args(args)?;
            (s.chars().any(char::is_alphabetic) && title(s) == s).into()
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn strip<'a>(s: &'a str, method: &str, args: &[Value]) -> Result<&'a str, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let matches = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(match method {
        "lstrip" => s.trim_start_matches(matches),
        "rstrip" => s.trim_end_matches(matches),
        _ => s.trim_matches(matches),
    })
}

/// `str.split` and `str.rsplit`; a negative or absent limit is none.
fn split(s: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (sep, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = match sep {
        Some(sep) => Some(sep),
        None => kwargs.get::<Option<&str>>("sep")?,
    };
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let cuts = match sep {
        Some("") => 0,
        Some(sep) => s.matches(sep).count(),
        None => s.matches(is_space).count(),
    };
    make_items(cuts.min(most).saturating_add(1))?;
    let parts: Vec<&str> = match sep {
        Some("") => return Err(invalid("empty separator")),
        Some(sep) if from_right => {
            let mut parts: Vec<&str> = s.rsplitn(most.saturating_add(1), sep).collect();
            parts.reverse();
            parts
        }
        Some(sep) => s.splitn(most.saturating_add(1), sep).collect(),
        None => words(s, most, from_right),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words between white space, and the rest as it is after `most` of them.
fn words(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = s.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = match (parts.len() < most, from_right) {
            (false, _) => None,
            (true, false) => rest.find(is_space).map(|at| rest.split_at(at)),
            (true, true) => rest.rfind(is_space).map(|at| {
                let (before, word) = rest.split_at(at);
                (word.trim_start_matches(is_space), before)
            }),
        };
        let (word, left) = cut.unwrap_or((rest, ""));
        parts.push(word);
        rest = left.trim_matches(is_space);
    }
    if from_right {
        parts.reverse();
    }
    // White space at the far end stays with a rest that is not split.
    if parts.len() > most
        && let Some(last) = if from_right {
            parts.first_mut()
        } else {
            parts.last_mut()
        }
    {
        let at = last.as_ptr().addr() - s.as_ptr().addr();
        *last = if from_right {
            &s[..at + last.len()]
        } else {
            &s[at..]
        };
    }
    parts
}

fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// `str.splitlines`.
fn lines(s: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = s;
    while let Some(at) = rest.find(is_line_end) {
        let width = match &rest[at..] {
            tail if tail.starts_with("\r\n") => 2,
            tail => tail.chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.title`: a letter after anything but a letter is a capital, the others are small.
fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `s[start:end]`, and how many characters come before it.
fn part(s: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    if start.is_none() && end.is_none() {
        return (0, s);
    }
    let n = s.chars().count() as i64;
    let place = |at: i64| (if at < 0 { n.saturating_add(at) } else { at }).clamp(0, n) as usize;
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(n)));
    let byte = |at: usize| s.char_indices().nth(at).map_or(s.len(), |(byte, _)| byte);
    (start, s.get(byte(start)..byte(end)).unwrap_or_default())
}

fn find(s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (before, part) = part(s, start, end);
    if method == "count" {
        return Ok(part.matches(what).count().into());
    }
    let found = if method.starts_with('r') {
        part.rfind(what)
    } else {
        part.find(what)
    };
    match found {
        Some(at) => Ok((before + part[..at].chars().count()).into()),
        None if method.ends_with("find") => Ok((-1).into()),
        None => Err(invalid(format!("{method}: {what:?} is not in the string"))),
    }
}

/// What brings `s` to `width` characters.
fn padding(s: &str, width: usize, fill: char) -> Result<String, Error> {
    if width > MAX_WIDTH {
        return Err(invalid(format!("a text padded to {width} characters")));
    }
    let n = width.saturating_sub(s.chars().count());
    make_texts(n, fill.len_utf8())?;
    Ok(std::iter::repeat_n(fill, n).collect())
}
