//! RLOO: each reward less the mean of the others, `A_i = m/(m − 1)·(r_i − mean(r))` (arXiv 2402.14740).
//!
//! Degenerate: equal rewards give A = 0.

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, grpo};
use crate::error::Result;

/// m/(m − 1).
fn factor(m: usize) -> f64 {
    m as f64 / (m - 1) as f64
}

/// Advantages (m,) of one group of finite rewards (m,), m ≥ 2.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let factor = factor(rewards.len());
    let mut out = grpo::advantages(rewards);
    out.iter_mut().for_each(|a| *a *= factor);
    out
}

/// RLOO; it has no settings.
pub(super) struct Rloo;

impl Definition for Rloo {
    fn summary(&self) -> &'static str {
        "reward minus the mean of the others (arXiv 2402.14740)"
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        Ok(Pass::Centre {
            factor: factor(m),
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
