//! Element type of what a run computes and keeps for a while.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Element type of values that are kept: activations for the backward pass, keys and values in sampling. Arithmetic is f32 either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum FloatDtype {
    /// As computed.
    #[default]
    Float32,
    /// Rounded to f16, two in a word: half the memory. Values beyond its range become its largest.
    Float16,
}

impl std::fmt::Display for FloatDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FloatDtype {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        }
    }

    /// Whether it is the default, for settings that are written only where they differ.
    pub fn is_float32(&self) -> bool {
        *self == Self::Float32
    }

    /// Whether values are kept as f16.
    pub fn is_half(self) -> bool {
        self == Self::Float16
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}
