//! How exact matrix products are.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Precision of matrix products of f32 operands, by the names of PyTorch's `torch.set_float32_matmul_precision`.
///
/// The words allow, they do not promise: PyTorch's `high` allows TF32 (operands of eleven significant bits) or two bfloat16 for one f32.
/// Nothing of the kind can be had here; `high` allows f32 sums in another order, which is at least as exact as either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum MatmulPrecision {
    /// f32 throughout: one chain of fused multiply-adds an output, so that sampler and trainer agree to the bit.
    #[default]
    Highest,
    /// f32 throughout, but the blocks' products of a decode step of at most 16 rows are added in fixed parts of K on GPUs. The parts
    /// depend on K alone, but 17 rows, prefill, scoring and training are added in one chain: log-probabilities of sampling and of training
    /// agree up to f32's rounding (6e-6 at worst over 4,000 tokens of the embedded policy), and samples can depend on how many are
    /// decoded together.
    High,
    /// Operands rounded to f16, sums in f32, on cooperative matrices, for every product. Refused where the adapter has none.
    Medium,
}

impl std::fmt::Display for MatmulPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl MatmulPrecision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::Highest, Self::High, Self::Medium];

    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Highest => "highest",
            Self::High => "high",
            Self::Medium => "medium",
        }
    }

    /// Whether it is the default, for settings that are written only where they differ.
    pub fn is_highest(&self) -> bool {
        *self == Self::Highest
    }
}
