//! A row's fields, whatever file they are from, with errors that name the field.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::id::Id;
use super::json::{parse_python_json, python_constant};
use super::message::{Message, PromptContent};
use super::weight::{FIELD, Weight};
use crate::error::{Context, Error, Result, warn_once};

/// Most characters of a value in a message.
const SHOWN: usize = 60;

/// The fields of one row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    fields: Map<String, Value>,
    /// The field `id` as it is spelt, where that is known.
    id: Option<Id>,
    /// The columns of the row's file, where it is a table.
    columns: Option<Arc<[String]>>,
    /// The values are texts because the file knows no other type (CSV).
    texts: bool,
}

/// The name that marks a value which JSON cannot hold. No file's own object is taken for one: its names would have to be
/// this one alone.
const MARK: &str = "\0";

/// What stands for a value that JSON cannot hold (bytes that are no text, an interval, a NaN of a table): whoever reads the
/// field learns what it is, and nobody else meets it.
pub(super) fn opaque(what: impl Into<String>) -> Value {
    Value::Object(Map::from_iter([(MARK.to_owned(), Value::String(what.into()))]))
}

/// What a value made by [`opaque`] stands for, or one that JSON has no number for.
fn opaque_kind(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) if fields.len() == 1 => match fields.get(MARK) {
            Some(what) => what.as_str(),
            None => python_constant(value),
        },
        _ => None,
    }
}

/// A JSON value's kind, with its article, for messages.
pub(super) fn kind(value: &Value) -> &str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => opaque_kind(value).unwrap_or("an object"),
    }
}

/// A value as a message shows it: its JSON, cut where it is long.
#[must_use]
pub fn shown(value: &Value) -> String {
    if let Some(kind) = opaque_kind(value) {
        return kind.to_owned();
    }
    let text = match value {
        // The text of a large list or object is not made to be cut.
        Value::Array(items) if items.len() > SHOWN => return format!("an array of {} items", items.len()),
        Value::Object(fields) if fields.len() > SHOWN => return "an object".to_owned(),
        Value::String(text) if text.len() > 4 * SHOWN => {
            format!("\"{}", text.chars().take(SHOWN).collect::<String>())
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn wrong(name: &str, want: &str, found: &Value) -> Error {
    Error::user(format!("\"{name}\" must be {want}, found {}", kind(found)))
}

impl Row {
    /// A row of these fields.
    #[must_use]
    pub fn new(fields: Map<String, Value>) -> Self {
        Self {
            fields,
            ..Self::default()
        }
    }

    /// A row of one JSON object, whose text is `json`.
    pub(super) fn of_json(fields: Map<String, Value>, json: &str) -> Self {
        let id = match fields.get("id") {
            Some(Value::Number(_)) => Id::of_line(json),
            _ => None,
        };
        Self {
            fields,
            id,
            ..Self::default()
        }
    }

    /// A row of a table with these columns.
    pub(super) fn of_table(fields: Map<String, Value>, columns: &Arc<[String]>, texts: bool) -> Self {
        Self {
            fields,
            columns: Some(columns.clone()),
            texts,
            id: None,
        }
    }

    /// About how many bytes its fields take, or those of `names` alone.
    #[must_use]
    pub fn weight(&self, names: Option<&[&str]>) -> u64 {
        let one = |(name, value): (&String, &Value)| FIELD + name.len() as u64 + value.weight();
        match names {
            None => self.fields.iter().map(one).sum(),
            Some(names) => names
                .iter()
                .filter_map(|name| self.fields.get_key_value(*name))
                .map(one)
                .sum(),
        }
    }

    /// The field, `None` when it is absent or null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|v| !v.is_null())
    }

    /// Whether the field is there and null.
    #[must_use]
    pub fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    /// The field.
    ///
    /// # Errors
    /// A user error when it is absent; [`Error::Unusable`] when it is null.
    pub fn require(&self, name: &str) -> Result<&Value> {
        match self.fields.get(name) {
            Some(Value::Null) => Err(Error::unusable(format!("missing field \"{name}\": it is null"))),
            Some(value) => Ok(value),
            None => Err(Error::user(format!(
                "missing field \"{name}\" ({})",
                self.names()
            ))),
        }
    }

    /// What the row or its file has, for messages.
    pub(crate) fn names(&self) -> String {
        let (whose, names): (_, Vec<&str>) = match &self.columns {
            Some(columns) => ("file", columns.iter().map(String::as_str).collect()),
            None => {
                let present = self.fields.iter().filter(|(_, v)| !v.is_null());
                ("line", present.map(|(k, _)| k.as_str()).collect())
            }
        };
        let more = names.len().saturating_sub(SHOWN);
        let mut have: Vec<String> = names.iter().take(SHOWN).map(|k| format!("\"{k}\"")).collect();
        if more > 0 {
            have.push(format!("{more} more"));
        }
        match have.is_empty() {
            true => format!("the {whose} has no fields"),
            false => format!("the {whose} has {}", have.join(", ")),
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
    pub fn id(&self) -> Result<Id> {
        match (self.get("id"), &self.id) {
            (_, Some(id)) => Ok(id.clone()),
            (None, _) => Ok(Id::default()),
            (Some(id @ (Value::String(_) | Value::Number(_))), _) => Ok(id.clone().into()),
            (Some(other), _) => Err(wrong("id", "a string or a number", other)),
        }
    }

    /// A field that holds no text: in a file that knows only texts, what its text says.
    ///
    /// # Errors
    /// As [`Row::require`].
    pub fn typed(&self, name: &str) -> Result<Value> {
        let value = self.require(name)?;
        let read = match value {
            Value::String(text) if self.texts => parse_python_json(text).ok(),
            _ => None,
        };
        Ok(read.unwrap_or_else(|| value.clone()))
    }

    /// A field holding token ids, at least one.
    ///
    /// # Errors
    /// A user error when it is missing, empty, or not a list of integers from 0 to 2³² − 1.
    pub fn tokens(&self, name: &str) -> Result<Vec<u32>> {
        let value = self.typed(name)?;
        let Value::Array(ids) = value else {
            return Err(wrong(name, "a list of token ids", &value));
        };
        if ids.is_empty() {
            return Err(Error::user(format!(
                "\"{name}\" is empty: give at least one token id"
            )));
        }
        let one = |(i, id): (usize, &Value)| {
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                Error::user(format!(
                    "\"{name}\"[{i}] must be a token id (a whole number from 0), found {}",
                    shown(id)
                ))
            })
        };
        ids.iter().enumerate().map(one).collect()
    }

    /// A field holding a conversation: a list of `{"role", "content"}` (or ShareGPT's `{"from", "value"}`), at least one
    /// turn. A turn that calls tools is refused; other fields that a chat template could have written are warned of.
    ///
    /// # Errors
    /// A user error that says which turn is not what it should be.
    pub fn messages(&self, name: &str) -> Result<Vec<Message>> {
        let turns = match self.require(name)? {
            Value::Array(turns) => turns,
            _ if self.texts => match self.typed(name)? {
                Value::Array(turns) => return messages(name, &turns),
                other => return Err(wrong(name, "a list of messages", &other)),
            },
            other => return Err(wrong(name, "a list of messages", other)),
        };
        messages(name, turns)
    }

    /// A field holding a prompt: a text or a conversation.
    ///
    /// # Errors
    /// As [`Row::text`] and [`Row::messages`].
    pub fn prompt(&self, name: &str) -> Result<PromptContent> {
        match self.require(name)? {
            Value::String(text) => Ok(PromptContent::Text(text.clone())),
            Value::Array(turns) => messages(name, turns).map(PromptContent::Messages),
            other => Err(wrong(name, "a string or a list of messages", other)),
        }
    }

    /// A field holding a finite number.
    ///
    /// # Errors
    /// A user error when it is missing or no number.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self.typed(name)?;
        value
            .as_f64()
            .filter(|x| x.is_finite())
            .ok_or_else(|| wrong(name, "a finite number", &value))
    }

    /// A field holding a whole number from 0.
    ///
    /// # Errors
    /// A user error when it is missing or anything else.
    pub fn count(&self, name: &str) -> Result<usize> {
        let value = self.typed(name)?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| {
                Error::user(format!(
                    "\"{name}\" must be a whole number from 0, found {}",
                    shown(&value)
                ))
            })
    }
}

fn messages(name: &str, turns: &[Value]) -> Result<Vec<Message>> {
    if turns.is_empty() {
        return Err(Error::unusable(format!(
            "\"{name}\" is empty: give at least one message"
        )));
    }
    let one = |(i, turn): (usize, &Value)| message(turn).context(format!("\"{name}\"[{i}]"));
    turns.iter().enumerate().map(one).collect()
}

/// Whether a turn calls tools: an empty list, as many files have in every turn, is no call.
fn calls(field: Option<&Value>) -> bool {
    match field {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => calls.iter().any(|call| !call.is_null()),
        Some(Value::String(text)) => !matches!(text.trim(), "" | "[]" | "null"),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    }
}

/// Fields of a turn that chat templates of transformers write into the text.
const SEEN_BY_TEMPLATES: [&str; 5] = [
    "reasoning_content",
    "reasoning",
    "thinking",
    "name",
    "tool_call_id",
];

fn message(turn: &Value) -> Result<Message> {
    if turn.is_null() {
        return Err(Error::unusable("a message is null"));
    }
    let Value::Object(fields) = turn else {
        return Err(Error::user(format!(
            "a message must be an object with \"role\" and \"content\", found {}",
            kind(turn)
        )));
    };
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) => Err(Error::unusable(format!("missing field \"{name}\": it is null"))),
        Some(other) => Err(wrong(name, "a string", other)),
        None => Err(Error::user(format!(
            "missing field \"{name}\" ({})",
            Row::new(fields.clone()).names()
        ))),
    };
    for field in ["tool_calls", "function_call"] {
        if calls(fields.get(field)) {
            return Err(Error::unusable(format!(
                "\"{field}\" are not supported: write the call into \"content\" as the model's template would"
            )));
        }
    }
    for field in SEEN_BY_TEMPLATES {
        if fields
            .get(field)
            .is_some_and(|v| !v.is_null() && v.as_str() != Some(""))
        {
            warn_once(format!(
                "messages have the field \"{field}\", which is not read: the chat template sees \"role\" and \"content\" alone. \
                 Write what it says into \"content\" as the model's template would"
            ));
        }
    }
    if fields.get("weight").and_then(Value::as_f64) == Some(0.0) {
        warn_once("messages have \"weight\": 0, which is not read: all assistant turns are learned alike");
    }
    let has = |name: &str| fields.get(name).is_some_and(|v| !v.is_null());
    if !has("role") && has("from") {
        return Ok(Message {
            role: sharegpt_role(text("from")?),
            content: text("value")?,
        });
    }
    Ok(Message {
        role: text("role")?,
        content: text("content")?,
    })
}

/// The role that ShareGPT's `from` means.
fn sharegpt_role(from: String) -> String {
    match from.as_str() {
        "human" => "user".to_owned(),
        "gpt" | "chatgpt" | "bing" | "bard" => "assistant".to_owned(),
        _ => from,
    }
}
