//! GRPO with z-scores: `A_i = (r_i − mean(r)) / (sd_pop(r) + ε)` (arXiv 2402.03300).
//!
//! The standard deviation is the population's (divisor m). Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Settings of GRPO-Z.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoZParams {
    /// ε added to the standard deviation, in reward units.
    pub epsilon: f64,
}

impl GrpoZParams {
    /// ε = 1e-4.
    pub const DEFAULT: Self = Self { epsilon: 1e-4 };

    /// Checks ε.
    ///
    /// # Errors
    /// A user error when ε is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        if self.epsilon >= 0.0 && self.epsilon.is_finite() {
            return Ok(());
        }
        Err(Error::user(format!(
            "the GRPO-Z epsilon is {}: it must be 0 or more",
            self.epsilon
        )))
    }
}

impl Default for GrpoZParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64], params: &GrpoZParams) -> Vec<f64> {
    let mut out = super::below_maximum(rewards);
    if out.iter().all(|&r| r == 0.0) {
        return out;
    }
    super::centre(&mut out);
    let variance = out.iter().map(|a| a * a).sum::<f64>() / out.len() as f64;
    let scale = libm::sqrt(variance) + params.epsilon;
    out.iter_mut().for_each(|a| *a /= scale);
    out
}
