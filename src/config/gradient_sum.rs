//! In which order a step's gradients are added up.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the gradients of a step's prompts become one. Neither depends on the micro-batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GradientSum {
    /// In a tree where its buffers fit in the free memory, as far as that is known; else ascending.
    #[default]
    Auto,
    /// Each prompt for itself, and the prompts in a binary tree over their place in the step.
    Tree,
    /// One prompt after the other, in one buffer.
    Ascending,
}

impl GradientSum {
    /// Its name as settings write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tree => "tree",
            Self::Ascending => "ascending",
        }
    }
}
