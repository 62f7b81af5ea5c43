//! MaxRL: each reward's lead over the mean, in units of the mean, `A_i = (r_i − mean(r)) / mean(r)` (arXiv 2602.02710).
//!
//! On 0/1 rewards it is the sum of pass@k's gradients over every k, each 1/k, as far as the group tells; [`super::tail_rl`]
//! is the same there. It reads the rewards themselves: they must be at least 0, and 0 must mean nothing achieved. The rarer
//! a success, the larger its advantage, up to m − 1. Degenerate: equal rewards, all 0 among them, give A = 0.

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, Rewards, Units, grpo};
use crate::error::Result;

/// Advantages (m,) of one group of rewards (m,) of at least 0.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    // Terms of one sign, so nothing cancels; the leads come from differences of rewards.
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let mut out = grpo::advantages(rewards);
    if mean > 0.0 {
        out.iter_mut().for_each(|a| *a /= mean);
    }
    out
}

/// MaxRL; it has no settings.
pub(super) struct MaxRl;

impl Definition for MaxRl {
    fn summary(&self) -> &'static str {
        "reward minus mean, over the mean; for rewards of at least 0 (arXiv 2602.02710)"
    }

    fn rewards(&self) -> Rewards {
        Rewards::NotNegative
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Ratio)
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
