//! JSON Lines: one object a line, with errors that name the file and the line.

use std::path::Path;

use serde_json::{Map, Value};

use super::chat::Message;
use super::dataset::PromptContent;
use crate::error::{Context, Error, Result};

/// A type that one line of an input file becomes.
pub trait Record: Sized {
    /// What a line must look like; ends the message of an empty file.
    const FORM: &'static str;

    /// Reads the record from a line's fields.
    ///
    /// # Errors
    /// A user error that names the field; the reader adds file and line.
    fn from_row(row: &Row) -> Result<Self>;
}

/// Reads a JSONL file. Blank lines are skipped; lines may end in `\r\n`; a byte-order mark is ignored.
///
/// # Errors
/// An I/O error with the path, or a user error `FILE:LINE: …` (lines count from 1) for text that is not UTF-8, malformed
/// JSON, a missing field, a wrong type; a file without records is an error too.
pub fn read_jsonl<R: Record>(path: &Path) -> Result<Vec<R>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    parse_jsonl(&path.display().to_string(), &bytes)
}

/// As [`read_jsonl`], from memory; `name` stands for the path in messages.
///
/// # Errors
/// As [`read_jsonl`], without the I/O.
pub fn parse_jsonl<R: Record>(name: &str, bytes: &[u8]) -> Result<Vec<R>> {
    let numbered = parse_jsonl_numbered(name, bytes)?;
    Ok(numbered.into_iter().map(|(_, record)| record).collect())
}

/// As [`parse_jsonl`], each record with its line number (from 1) for messages about what it says.
///
/// # Errors
/// As [`parse_jsonl`].
pub fn parse_jsonl_numbered<R: Record>(name: &str, bytes: &[u8]) -> Result<Vec<(usize, R)>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut records = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let record = parse_line(line).context(format!("{name}:{}", index + 1))?;
        records.extend(record.map(|record| (index + 1, record)));
    }
    if records.is_empty() {
        return Err(Error::user(format!(
            "{name}: no records in this file. Give one a line: {}",
            R::FORM
        )));
    }
    Ok(records)
}

fn parse_line<R: Record>(line: &[u8]) -> Result<Option<R>> {
    let text = std::str::from_utf8(line).map_err(|e| {
        Error::user(format!(
            "not UTF-8 (byte {} of the line): convert the file to UTF-8",
            e.valid_up_to() + 1
        ))
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => R::from_row(&Row { fields }).map(Some),
        Ok(other) => Err(Error::user(format!(
            "expected a JSON object, found {}: the file must hold one object a line, not one array",
            kind(&other)
        ))),
        Err(e) => {
            let message = e.to_string();
            let place = format!(" at line {} column {}", e.line(), e.column());
            Err(Error::user(format!(
                "malformed JSON at column {}: {}. Each line must be one whole object: {}",
                e.column(),
                message.strip_suffix(&place).unwrap_or(&message),
                R::FORM
            )))
        }
    }
}

/// One line's fields as they are; `None` for a blank line.
///
/// # Errors
/// A user error for text that is not UTF-8 or malformed JSON; the caller adds file and line.
pub fn parse_row(line: &[u8]) -> Result<Option<Row>> {
    parse_line::<Row>(line)
}

impl Record for Row {
    const FORM: &'static str = "{\"field\": …}";

    fn from_row(row: &Row) -> Result<Self> {
        Ok(row.clone())
    }
}

/// The fields of one line.
#[derive(Clone, Debug)]
pub struct Row {
    fields: Map<String, Value>,
}

/// A JSON value's kind, with its article, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn wrong(name: &str, want: &str, found: &Value) -> Error {
    Error::user(format!("\"{name}\" must be {want}, found {}", kind(found)))
}

impl Row {
    /// A row of these fields.
    #[must_use]
    pub fn new(fields: Map<String, Value>) -> Self {
        Self { fields }
    }

    /// The field, `None` when it is absent or null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|v| !v.is_null())
    }

    /// The field.
    ///
    /// # Errors
    /// A user error when it is absent or null.
    pub fn require(&self, name: &str) -> Result<&Value> {
        self.get(name).ok_or_else(|| {
            Error::user(format!(
                "missing field \"{name}\" (the line has {})",
                self.names()
            ))
        })
    }

    /// The fields' names, for messages.
    pub(crate) fn names(&self) -> String {
        let have: Vec<String> = self.fields.keys().map(|k| format!("\"{k}\"")).collect();
        if have.is_empty() {
            "no fields".to_owned()
        } else {
            have.join(", ")
        }
    }

    /// The fields other than `names`, in file order.
    #[must_use]
    pub fn others(&self, names: &[&str]) -> Map<String, Value> {
        let keep = |(key, value): (&String, &Value)| {
            (!names.contains(&key.as_str())).then(|| (key.clone(), value.clone()))
        };
        self.fields.iter().filter_map(keep).collect()
    }

    /// A text field.
    ///
    /// # Errors
    /// A user error when it is missing or no string.
    pub fn text(&self, name: &str) -> Result<String> {
        match self.require(name)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(name, "a string", other)),
        }
    }

    /// The optional field `id`: a string or a number, echoed unchanged; null when absent.
    ///
    /// # Errors
    /// A user error for any other type.
    pub fn id(&self) -> Result<Value> {
        match self.get("id") {
            None => Ok(Value::Null),
            Some(id @ (Value::String(_) | Value::Number(_))) => Ok(id.clone()),
            Some(other) => Err(wrong("id", "a string or a number", other)),
        }
    }

    /// A field holding token ids, at least one.
    ///
    /// # Errors
    /// A user error when it is missing, empty, or not a list of integers from 0 to 2³² − 1.
    pub fn tokens(&self, name: &str) -> Result<Vec<u32>> {
        let value = self.require(name)?;
        let Value::Array(ids) = value else {
            return Err(wrong(name, "a list of token ids", value));
        };
        if ids.is_empty() {
            return Err(Error::user(format!(
                "\"{name}\" is empty: give at least one token id"
            )));
        }
        let one = |(i, id): (usize, &Value)| {
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::user(format!(
                    "\"{name}\"[{i}] must be a token id (a whole number from 0), found {id}"
                ))
            })
        };
        ids.iter().enumerate().map(one).collect()
    }

    /// A field holding a conversation: a list of `{"role", "content"}`, at least one turn. Other fields of a turn are
    /// ignored, except `tool_calls`, which would be lost silently.
    ///
    /// # Errors
    /// A user error that says which turn is not what it should be.
    pub fn messages(&self, name: &str) -> Result<Vec<Message>> {
        let value = self.require(name)?;
        let Value::Array(turns) = value else {
            return Err(wrong(name, "a list of messages", value));
        };
        if turns.is_empty() {
            return Err(Error::user(format!(
                "\"{name}\" is empty: give at least one message"
            )));
        }
        let one = |(i, turn): (usize, &Value)| message(turn).context(format!("\"{name}\"[{i}]"));
        turns.iter().enumerate().map(one).collect()
    }

    /// A field holding a prompt: a text or a conversation.
    ///
    /// # Errors
    /// As [`Row::text`] and [`Row::messages`].
    pub fn prompt(&self, name: &str) -> Result<PromptContent> {
        match self.require(name)? {
            Value::String(text) => Ok(PromptContent::Text(text.clone())),
            Value::Array(_) => self.messages(name).map(PromptContent::Messages),
            other => Err(wrong(name, "a string or a list of messages", other)),
        }
    }

    /// A field holding a finite number.
    ///
    /// # Errors
    /// A user error when it is missing or no number.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self.require(name)?;
        value
            .as_f64()
            .filter(|x| x.is_finite())
            .ok_or_else(|| wrong(name, "a finite number", value))
    }

    /// A field holding a whole number from 0.
    ///
    /// # Errors
    /// A user error when it is missing or anything else.
    pub fn count(&self, name: &str) -> Result<usize> {
        let value = self.require(name)?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| Error::user(format!("\"{name}\" must be a whole number from 0, found {value}")))
    }
}

fn message(turn: &Value) -> Result<Message> {
    let Value::Object(fields) = turn else {
        return Err(Error::user(format!(
            "a message must be an object with \"role\" and \"content\", found {}",
            kind(turn)
        )));
    };
    let row = Row {
        fields: fields.clone(),
    };
    if row.get("tool_calls").is_some() {
        return Err(Error::user(
            "\"tool_calls\" are not supported: write the call into \"content\" as the model's template would",
        ));
    }
    Ok(Message {
        role: row.text("role")?,
        content: row.text("content")?,
    })
}
