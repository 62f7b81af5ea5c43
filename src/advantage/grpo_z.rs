//! GRPO with z-scores: `A_i = (r_i − mean(r)) / (sd_pop(r) + ε)` (arXiv 2402.03300).
//!
//! The standard deviation is the population's (divisor m). Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, Units};
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
    pub(super) fn check(&self) -> Result<()> {
        if self.epsilon >= 0.0 && self.epsilon.is_finite() {
            return Ok(());
        }
        Err(Error::user(format!(
            "the GRPO-Z epsilon is {}: it must be 0 or more",
            self.epsilon
        )))
    }
}

impl Definition for GrpoZParams {
    fn summary(&self) -> &'static str {
        "reward minus mean, over standard deviation + 1e-4 (arXiv 2402.03300)"
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn validate(&self, _: usize) -> Result<()> {
        self.check()
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Centre {
            factor: 1.0,
            eps: Some(self.epsilon),
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
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
    let scale = super::deviation(&out) + params.epsilon;
    out.iter_mut().for_each(|a| *a /= scale);
    out
}
