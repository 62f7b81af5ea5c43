//! How exact matrix products are.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Precision of matrix products of f32 operands, by the names of PyTorch's `torch.set_float32_matmul_precision`.
///
/// PyTorch's middle word, `high` (TF32: eleven significant bits and f32's range), has no counterpart: what the devices offer
/// here are f16 operands, eleven significant bits in a smaller range, and that is no better than `medium`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum MatmulPrecision {
    /// f32 throughout: one chain of fused multiply-adds an output.
    #[default]
    Highest,
    /// Operands rounded to f16, sums in f32, on cooperative matrices. Refused where the adapter has none.
    Medium,
}

impl std::fmt::Display for MatmulPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl MatmulPrecision {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Highest => "highest",
            Self::Medium => "medium",
        }
    }

    /// Whether it is the default, for settings that are written only where they differ.
    pub fn is_highest(&self) -> bool {
        *self == Self::Highest
    }
}
