//! Which optimiser.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The optimiser (TRL's `optim`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Optim {
    /// AdamW with f32 moments.
    #[default]
    Adamw,
    /// AdamW with moments of 8 bits an element: a quarter of the memory.
    #[serde(rename = "adamw_8bit")]
    #[value(name = "adamw_8bit")]
    Adamw8bit,
}

impl Optim {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adamw => "adamw",
            Self::Adamw8bit => "adamw_8bit",
        }
    }
}
