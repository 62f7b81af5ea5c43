//! The Jinja environment of Hugging Face's chat templates.

use std::fmt::{self, Write as _};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, Value};
use minijinja_contrib::globals;

use super::chat::TemplateDate;
use super::jinja_filters::invalid;
use super::jinja_work::{self as work, Paid, PaidText};
use super::{jinja_filters, jinja_methods, jinja_ops};
use crate::data::json::python_constant;
use crate::error;
use crate::file::limits;

/// An environment with transformers' settings, filters and functions.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Else a debug build would keep the values around an error.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(jinja_methods::call);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("joiner", globals::joiner);
    environment.add_filter("tojson", tojson);
    jinja_filters::add(&mut environment);
    jinja_ops::add(&mut environment);
    environment.set_formatter(|out, _, value| print(out, value));
    environment
}

/// The syntax of transformers' environment.
pub(super) fn syntax() -> error::Result<SyntaxConfig> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(error::Error::internal)
}

fn print(out: &mut Output<'_>, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        work::make_text(text.len())?;
        return out.write_str(text).map_err(Error::from);
    }
    work::go_through(value)?;
    write!(Paid(out), "{}", Printed(value)).map_err(Error::from)
}

/// What a template says about a conversation that it does not take, by `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let refusal = Refusal(work::text_of(message)?);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

/// A value as `{{ … }}` prints it.
struct Printed<'a>(&'a Value);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match float_of(self.0) {
            Some(v) => f.write_str(&python_float(v)),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A value that is a float and no whole number's type.
fn float_of(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Python's `repr` of a float: the shortest digits that name it, with an exponent from 1e16 up and
/// below 1e-4.
fn python_float(v: f64) -> String {
    if v.is_nan() {
        return "nan".to_owned();
    }
    if v.is_infinite() || v == 0.0 || (1e-4..1e16).contains(&v.abs()) {
        return format!("{v:?}");
    }
    let text = format!("{v:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// A JSON value as templates see it.
pub(super) fn from_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => ().into(),
        Json::Bool(b) => (*b).into(),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            (None, None) => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => match python_constant(value) {
            Some(name) => name.parse().unwrap_or(f64::NAN).into(),
            None => Value::from_pairs(fields.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
        },
    }
}

/// `strftime_now(format)` at a fixed date.
pub(super) fn strftime_now(date: TemplateDate) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        if format.len() > MAX_FORMAT {
            return Err(invalid("strftime_now: the format is too long"));
        }
        let mut text = PaidText::default();
        write!(text, "{}", date.date_time().format(format)).map_err(|_| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: the format {format:?} is not supported"),
            )
        })?;
        Ok(text.into_string())
    })
}

/// Longest format of a date, in bytes.
const MAX_FORMAT: usize = 1 << 10;

/// What went wrong while rendering: the conversation's fault where the template says so, else the
/// template's.
pub(super) fn explain(error: &Error, template: &str) -> error::Error {
    if let Some(limit) = work::ended() {
        return limit.exceeded(format_args!(
            "{}: the chat template asks for too much, which is its fault and not the conversation's",
            place(error, template)
        ));
    }
    if detailed(error, TOO_MANY_CALLS) {
        return limits::TEMPLATE_CALLS.exceeded(format_args!(
            "{}: the chat template calls itself without an end",
            place(error, template)
        ));
    }
    error::Error::user(explanation(error, template))
}

/// minijinja's words where macros and loops run too deep in one another.
const TOO_MANY_CALLS: &str = "recursion limit exceeded";
/// minijinja's words where its parser meets too deep a nesting.
const TOO_DEEP: &str = "template exceeds maximum recursion limits";

/// Whether the error or one of its causes is minijinja's with this detail.
fn detailed(error: &Error, detail: &str) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<Error>().and_then(Error::detail) == Some(detail) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Most characters of what a template says that an error repeats.
const MAX_SAID: usize = 1000;

/// A text that may be long, cut.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SAID) {
        Some((at, _)) => {
            let left = text[at..].chars().count();
            format!("{}… ({left} more characters)", &text[..at])
        }
        None => text.to_owned(),
    }
}

fn explanation(error: &Error, template: &str) -> String {
    let mut chain = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return format!(
                "the chat template refuses this conversation: {} ({})",
                cut(message),
                place(error, template)
            );
        }
        let _ = write!(chain, ": {cause}");
        source = cause.source();
    }
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), |d| format!("{}: {d}", error.kind()));
    let [detail, chain] = [detail, chain].map(|text| cut(&text));
    if matches!(error.kind(), ErrorKind::TemplateNotFound | ErrorKind::BadInclude) {
        return format!(
            "{}: the chat template asks for another file ({detail}). A chat template stands alone: put one without \
             include, import and extends into chat_template.jinja beside the model",
            place(error, template)
        );
    }
    if matches!(
        error.kind(),
        ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
    ) {
        return format!(
            "{}: the chat template uses what this program's Jinja does not have: {detail}{chain}. Where transformers renders \
             it, this program lacks something. Put another template into chat_template.jinja beside the model",
            place(error, template)
        );
    }
    format!(
        "{}: the chat template fails: {detail}{chain}. The fault is the template's, not the conversation's: mend it, or \
         put another into chat_template.jinja beside the model",
        place(error, template)
    )
}

/// Why a template does not parse.
pub(super) fn explain_syntax(error: &Error, template: &str) -> error::Error {
    if detailed(error, TOO_DEEP) {
        return limits::TEMPLATE_PARSER.exceeded(format_args!(
            "{}: the chat template is nested too deeply",
            place(error, template)
        ));
    }
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    error::Error::user(format!(
        "{}: the chat template does not parse: {}",
        place(error, template),
        cut(&detail)
    ))
}

fn place(error: &Error, template: &str) -> String {
    match error.line() {
        Some(line) => format!("{template}:{line}"),
        None => template.to_owned(),
    }
}

/// Python's `json.dumps` as transformers exposes it to templates.
fn tojson(
    value: Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    separators: Option<Vec<String>>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false);
    let indent = indent
        .or(kwargs.get("indent")?)
        .filter(|indent: &Value| !indent.is_none());
    let indent = match indent {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(n)) if n <= MAX_INDENT => " ".repeat(usize::try_from(n).unwrap_or(0)),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: an indentation of {indent}"),
                ));
            }
        }),
    };
    let separators = separators.or(kwargs.get("separators")?);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson: separators must be a pair",
            ));
        }
    };
    let mut writer = JsonWriter {
        out: PaidText::default(),
        ascii,
        indent,
        sort_keys,
        item,
        key,
    };
    work::go_through(&value)?;
    writer.value(&value, 0)?;
    Ok(writer.out.into_string())
}

/// Widest indentation of JSON, in spaces.
const MAX_INDENT: i64 = 64;

struct JsonWriter {
    out: PaidText,
    ascii: bool,
    indent: Option<String>,
    sort_keys: bool,
    item: String,
    key: String,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null")?,
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" })?,
            ValueKind::Number => {
                let text = float_of(value).map_or_else(|| value.to_string(), python_float);
                self.out.push_str(match text.as_str() {
                    "inf" => "Infinity",
                    "-inf" => "-Infinity",
                    "nan" => "NaN",
                    other => other,
                })?;
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(["[", "]"], items.len(), depth, |w, i| {
                    w.value(&items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(["{", "}"], keys.len(), depth, |w, i| {
                    match keys[i].as_str() {
                        Some(key) => w.string(key)?,
                        None => {
                            // Python quotes None, truth values and numbers as JSON writes them.
                            w.out.push_str("\"")?;
                            w.value(&keys[i], depth + 1)?;
                            w.out.push_str("\"")?;
                        }
                    }
                    let separator = w.key.clone();
                    w.out.push_str(&separator)?;
                    w.value(&value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: a value of kind {other} is not JSON"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        [open, close]: [&str; 2],
        len: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push_str(open)?;
        for i in 0..len {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator)?;
            }
            self.line(depth + 1)?;
            write(self, i)?;
        }
        if len > 0 {
            self.line(depth)?;
        }
        self.out.push_str(close)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            work::make_texts(depth, indent.len())?;
            self.out.push_str(&format!("\n{}", indent.repeat(depth)))?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        self.out.push_str(&out)
    }
}
