//! GRPO without scaling: `A_i = r_i − mean(r)` (arXiv 2402.03300; unscaled as in Dr. GRPO, arXiv 2503.20783).
//!
//! Degenerate: equal rewards give A = 0.

use super::GroupContext;
use super::pass::Pass;
use super::rule::{Definition, Found};
use crate::error::Result;

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let mut out = super::below_maximum(rewards);
    super::centre(&mut out);
    out
}

/// GRPO; it has no settings.
pub(super) struct Grpo;

impl Definition for Grpo {
    fn summary(&self) -> &'static str {
        "reward minus the group's mean (arXiv 2402.03300, unscaled)"
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Centre {
            factor: 1.0,
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
