//! How a server wants to be asked: what of a usual request it refuses, and what is sent in its
//! place.
//!
//! Servers that speak OpenAI's protocol differ in what they take. A reasoning model of OpenAI's
//! refuses `max_tokens` and a `temperature` of 0; LM Studio refuses a `response_format` of the type
//! `json_object`; a strict server refuses whatever it does not know. Their refusals name the
//! parameter in `param`, in `loc` or in words.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What becomes of a parameter that a request has by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// It is sent.
    #[default]
    Usual,
    /// Its replacement is sent.
    Replaced,
    /// It is left out.
    LeftOut,
}

/// The request's parameters beside the model and the messages, as one server takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manner {
    /// The limit of an answer's tokens; its replacement is `max_completion_tokens`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_tokens: Sent,
    /// The temperature, 0. It has no replacement.
    #[serde(skip_serializing_if = "is_default")]
    pub temperature: Sent,
    /// The form of an answer, any JSON object; its replacement is the answer's JSON schema.
    #[serde(skip_serializing_if = "is_default")]
    pub response_format: Sent,
    /// That the answer comes in one piece. It has no replacement.
    #[serde(skip_serializing_if = "is_default")]
    pub stream: Sent,
    /// The limit in tokens, where it was raised for a model that spent the first one before it
    /// answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raised_to: Option<u32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A parameter that a request can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    MaxTokens,
    Temperature,
    ResponseFormat,
    Stream,
}

impl Parameter {
    const ALL: [Self; 4] = [
        Self::MaxTokens,
        Self::Temperature,
        Self::ResponseFormat,
        Self::Stream,
    ];

    /// Its name, and its replacement's.
    fn names(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::MaxTokens => ("max_tokens", Some("max_completion_tokens")),
            Self::Temperature => ("temperature", None),
            Self::ResponseFormat => ("response_format", Some("response_format of the type json_schema")),
            Self::Stream => ("stream", None),
        }
    }

    /// What is sent for it now, by its key in the request.
    fn key(self, sent: Sent) -> Option<&'static str> {
        match (self, sent) {
            (_, Sent::LeftOut) => None,
            (Self::MaxTokens, Sent::Replaced) => Some("max_completion_tokens"),
            _ => Some(self.names().0),
        }
    }
}

impl Manner {
    /// Whether it is the usual one.
    pub fn is_usual(&self) -> bool {
        is_default(self)
    }

    pub(super) fn sent(&self, parameter: Parameter) -> Sent {
        match parameter {
            Parameter::MaxTokens => self.max_tokens,
            Parameter::Temperature => self.temperature,
            Parameter::ResponseFormat => self.response_format,
            Parameter::Stream => self.stream,
        }
    }

    fn sent_mut(&mut self, parameter: Parameter) -> &mut Sent {
        match parameter {
            Parameter::MaxTokens => &mut self.max_tokens,
            Parameter::Temperature => &mut self.temperature,
            Parameter::ResponseFormat => &mut self.response_format,
            Parameter::Stream => &mut self.stream,
        }
    }

    /// The limit of an answer, where nothing raised `usual`.
    pub(super) fn limit(&self, usual: u32) -> u32 {
        self.raised_to.unwrap_or(usual)
    }

    /// Puts the parameters into a request.
    pub(super) fn fill(&self, request: &mut Value, max_tokens: u32) {
        for parameter in Parameter::ALL {
            let sent = self.sent(parameter);
            let Some(key) = parameter.key(sent) else { continue };
            request[key] = match parameter {
                Parameter::MaxTokens => self.limit(max_tokens).into(),
                Parameter::Temperature => 0.into(),
                Parameter::Stream => false.into(),
                Parameter::ResponseFormat if sent == Sent::Replaced => schema(),
                Parameter::ResponseFormat => json!({"type": "json_object"}),
            };
        }
    }

    /// Replaces a parameter, or leaves it out where it has no replacement or `whole` is set. Says
    /// what was done; nothing where another question has done it since `asked`, the manner of the
    /// refused one.
    pub(super) fn give_up(&mut self, parameter: Parameter, asked: &Self, whole: bool) -> Option<String> {
        let sent = self.sent_mut(parameter);
        if *sent != asked.sent(parameter) {
            return None;
        }
        let (name, replacement) = parameter.names();
        *sent = match (*sent, replacement) {
            (Sent::Usual, Some(_)) if !whole => Sent::Replaced,
            _ => Sent::LeftOut,
        };
        Some(match (*sent, replacement) {
            (Sent::Replaced, Some(replacement)) => format!("{replacement} is sent instead of {name}"),
            _ => format!("{name} is left out"),
        })
    }

    /// What differs from the usual request, in words.
    pub fn differences(&self) -> Vec<String> {
        let mut all: Vec<String> = Parameter::ALL
            .into_iter()
            .filter_map(|parameter| match (self.sent(parameter), parameter.names()) {
                (Sent::Replaced, (name, Some(replacement))) => {
                    Some(format!("with {replacement} instead of {name}"))
                }
                (Sent::LeftOut, (name, _)) => Some(format!("without {name}")),
                _ => None,
            })
            .collect();
        all.extend(self.raised_to.map(|n| format!("with room for {n} tokens")));
        all
    }

    /// The parameters of a request in this manner that a server's refusal is about, each with
    /// whether its replacement is of no use either.
    pub(super) fn refused(&self, body: &Value, text: &str) -> Vec<(Parameter, bool)> {
        let fields = named_fields(body);
        let words = before_lists(&text.to_lowercase()).to_string();
        let about_size = is_about_size(&words);
        let complains = COMPLAINTS.iter().any(|c| words.contains(c));
        Parameter::ALL
            .into_iter()
            .filter_map(|parameter| {
                let key = parameter.key(self.sent(parameter))?;
                let named = fields.iter().any(|f| f == key) || (complains && has_word(&words, key));
                // "max_tokens is too large" is about the question or --max-tokens, not about the
                // parameter.
                if !named || (parameter == Parameter::MaxTokens && about_size) {
                    return None;
                }
                // A schema helps only those who say that they take one.
                let whole = parameter == Parameter::ResponseFormat && !takes_schema(&text.to_lowercase());
                Some((parameter, whole))
            })
            .collect()
    }
}

/// The schema of an answer, for servers that take no other JSON mode.
fn schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "judgement", "strict": true, "schema": {
        "type": "object",
        "properties": {
            "winner": {"type": "string", "enum": ["A", "B", "tie"]},
            "confidence": {"type": "number"},
            "reason": {"type": "string"}
        },
        "required": ["winner", "confidence", "reason"],
        "additionalProperties": false
    }}})
}

/// Words with which servers refuse a parameter or its value.
const COMPLAINTS: [&str; 37] = [
    "not support",
    "n't support",
    "unsupported",
    "only support",
    "unrecognized",
    "unrecognised",
    "not recognized",
    "not recognised",
    "unknown",
    "unexpected",
    "extraneous",
    "extra_forbidden",
    "extra inputs",
    "extra fields",
    "additional properties",
    "not permitted",
    "not allowed",
    "is allowed",
    "are allowed",
    "forbidden",
    "deprecated",
    "no longer",
    "unavailable",
    "not available",
    "not implemented",
    "not enabled",
    "not compatible",
    "incompatible",
    "invalid",
    "must be",
    "must not",
    "cannot be",
    "can't be",
    "failed to generate json",
    "should be",
    "has to be",
    "out of range",
];

/// Words of a refusal that is about how long a question or an answer is.
const SIZES: [&str; 13] = [
    "too large",
    "too long",
    "too many tokens",
    "too high",
    "at most",
    "above max",
    "maximum value",
    "less than or equal",
    "exceed",
    "context length",
    "context window",
    "context size",
    "reduce the length",
];

/// Whether a refusal is about how long the question or the answer is; `words` in lower case.
pub(super) fn is_about_size(words: &str) -> bool {
    SIZES.iter().any(|s| words.contains(s))
}

/// Whether a refusal says that the model's thoughts took all of the limit, which OpenAI's reasoning
/// models say with status 400.
pub(super) fn is_spent(words: &str) -> bool {
    words.contains("could not finish the message") || words.contains("output limit was reached")
}

/// Whether a refusal of JSON mode asks for a schema.
fn takes_schema(words: &str) -> bool {
    let Some(at) = words.find("json_schema") else {
        return false;
    };
    // "must be 'json_schema' or 'text'" asks for one; "json_schema is not supported" does not.
    let before = &words[..at];
    [
        "must be",
        "only",
        "use ",
        "expected",
        "one of",
        "supported types",
        "allowed",
    ]
    .iter()
    .any(|w| before.contains(w))
}

/// What stands before a list of what would be allowed, where any parameter can be named.
fn before_lists(words: &str) -> &str {
    const LISTS: [&str; 7] = [
        "expected one of",
        ", expected ",
        "supported parameters",
        "allowed parameters",
        "valid parameters",
        "available parameters",
        "supported fields",
    ];
    // "unsupported parameters: …" lists what is refused.
    let within = |at: usize| words[..at].ends_with("un");
    let starts = |list: &&str| {
        let mut found = words.match_indices(*list).map(|(at, _)| at);
        found.find(|at| !within(*at))
    };
    let end = LISTS.iter().filter_map(starts).min();
    &words[..end.unwrap_or(words.len())]
}

/// Whether `word` stands in `text` and not within a longer name.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .any(|(at, _)| !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next()))
}

/// The error within a body: OpenAI's `error`, the first of Gemini's list, or the body itself.
fn error_of(body: &Value) -> &Value {
    let body = body.get(0).unwrap_or(body);
    body.get("error").filter(|e| e.is_object()).unwrap_or(body)
}

/// FastAPI's list of what is wrong, which Mistral has in its `message`.
fn details(body: &Value) -> &[Value] {
    let error = error_of(body);
    error
        .pointer("/message/detail")
        .or_else(|| error.get("detail"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Where an item of such a list says the fault is: `body`, the parameter, what of it.
fn place(detail: &Value) -> Vec<&str> {
    let loc = detail.get("loc").and_then(Value::as_array);
    loc.map_or_else(Vec::new, |loc| loc.iter().filter_map(Value::as_str).collect())
}

/// The parameters that the error's fields name: `param` (OpenAI, Azure) and `loc` (FastAPI,
/// Mistral).
fn named_fields(body: &Value) -> Vec<String> {
    let error = error_of(body);
    let param = error.get("param").and_then(Value::as_str);
    // "response_format.type" is about response_format.
    let param = param.map(|p| p.split(['.', '[']).next().unwrap_or(p).to_string());
    let located = details(body).iter().flat_map(|d| place(d)).map(str::to_string);
    param.into_iter().chain(located).collect()
}

/// What an error's body says, in words: empty for an empty body.
pub(super) fn words(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let error = error_of(&value);
    let listed: Vec<String> = details(&value)
        .iter()
        .map(|d| {
            let what = d.get("msg").and_then(Value::as_str).unwrap_or("refused");
            match place(d) {
                place if place.is_empty() => what.to_string(),
                place => format!("{}: {what}", place.join(".")),
            }
        })
        .collect();
    if !listed.is_empty() {
        return listed.join("; ");
    }
    let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_string);
    let said = text(error.get("message"))
        .or_else(|| text(value.get("error")))
        .or_else(|| text(error.get("detail")))
        .unwrap_or_else(|| body.trim().to_string());
    // OpenRouter hands on what the provider behind it has said.
    match error.pointer("/metadata/raw").and_then(Value::as_str) {
        Some(raw) => format!("{said}: {}", words(raw)),
        None => said,
    }
}

#[cfg(test)]
#[path = "manner_tests.rs"]
mod tests;
