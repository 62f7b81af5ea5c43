//! The `id` of a line: echoed as it was written.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;

/// A string or a number, to the last digit, or null.
///
/// [`Value`] reads a number beyond 64 bits as a float and so loses digits; an id is a name, not a
/// quantity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Id(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    Value(Value),
    /// A number that [`Value`] would spell otherwise, as it is spelt.
    Number(String),
}

impl Default for Form {
    fn default() -> Self {
        Self::Value(Value::Null)
    }
}

impl Id {
    /// The id of a line of JSON; its numbers as they are spelt there.
    pub(super) fn of_line(line: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
        }
        if let Ok(line) = serde_json::from_str::<Line<'_>>(line) {
            return Self::of_json(line.id?.get());
        }
        // What Python reads and the standard does not: `NaN` beside the id, a repeated key.
        let line = json::standard(line);
        let fields: HashMap<String, &RawValue> = serde_json::from_str(&line).ok()?;
        Self::of_json(fields.get("id")?.get())
    }

    fn of_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        match &value {
            Value::Number(n) if n.to_string() != text => Some(Self(Form::Number(text.to_string()))),
            _ => Some(value.into()),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Value::Null
    }
}

impl From<Value> for Id {
    fn from(value: Value) -> Self {
        Self(Form::Value(value))
    }
}

impl From<String> for Id {
    fn from(text: String) -> Self {
        Value::String(text).into()
    }
}

impl PartialEq<Value> for Id {
    fn eq(&self, other: &Value) -> bool {
        matches!(&self.0, Form::Value(value) if value == other)
    }
}

/// A string without its quotes; anything else as JSON has it.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Value(Value::String(text)) | Form::Number(text) => f.write_str(text),
            Form::Value(value) => value.fmt(f),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Form::Value(value) => value.serialize(serializer),
            Form::Number(text) => RawValue::from_string(text.clone())
                .map_err(serde::ser::Error::custom)?
                .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::of_json(raw.get()).ok_or_else(|| serde::de::Error::custom("an id that is no JSON"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    const SPELLINGS: [&str; 11] = [
        "7",
        "-3",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "340282366920938463463374607431768211457",
        "1.10",
        "0.1",
        "-0",
        "123456789.123456789123456789",
        r#""007""#,
    ];

    #[test]
    fn every_digit_is_kept() {
        for text in SPELLINGS {
            let id = Id::of_line(&format!(r#"{{"id": {text}, "rewards": [1e5]}}"#)).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), text);
            let read: Id = serde_json::from_str(text).unwrap();
            assert_eq!(read, id);
            assert_eq!(id.to_string(), text.trim_matches('"'));
        }
    }

    #[test]
    fn every_digit_is_kept_beside_what_only_python_reads() {
        let big = "123456789012345678901234567890";
        for line in [
            format!(r#"{{"id": {big}, "score": NaN}}"#),
            format!(r#"{{"score": [1e999, -Infinity], "id": {big}}}"#),
            format!(r#"{{"id": 1, "id": {big}}}"#),
        ] {
            let id = Id::of_line(&line).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), big, "{line}");
        }
    }

    #[test]
    fn none_is_null() {
        for line in ["{}", r#"{"id": null}"#, "no JSON"] {
            assert!(Id::of_line(line).unwrap_or_default().is_null(), "{line}");
        }
        assert_eq!(serde_json::to_string(&Id::default()).unwrap(), "null");
        assert_eq!(Id::from(json!(7)), json!(7));
        assert_ne!(Id::of_line(r#"{"id": 1.10}"#).unwrap(), json!(7));
    }
}
