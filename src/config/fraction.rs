//! A share that is kept as it was written.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;

/// A share as a user wrote it: `0.2`, `"0.2"` or `"1/5"` in a file. Whoever computes with it reads the fraction exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Fraction(String);

/// As a settings file has it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number, or a fraction as a string")]
enum Written {
    Text(String),
    Number(f64),
}

impl From<Written> for Fraction {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => Self(text),
            Written::Number(number) => Self(number.to_string()),
        }
    }
}

impl From<&str> for Fraction {
    fn from(text: &str) -> Self {
        Self(text.to_string())
    }
}

impl Deref for Fraction {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
