//! BoN-max second: only the group's best response learns, by its lead, `A_{i*} = r_{i*} − r_second`, others 0 (a
//! baseline of TEA, arXiv 2605.10716).
//!
//! `i* = argmax r`, the lowest index on a tie. Degenerate: two best rewards that are equal, and so equal rewards,
//! give A = 0.

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, argmax, below_maximum};
use crate::error::Result;

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let below = below_maximum(rewards);
    let mut out = vec![0.0; below.len()];
    if let Some(best) = argmax(&below, 0..below.len()) {
        let others = (0..below.len()).filter(|&i| i != best);
        if let Some(second) = argmax(&below, others) {
            out[best] = 0.0 - below[second];
        }
    }
    out
}

/// BoN-max second; it has no settings.
pub(super) struct BonMaxSecond;

impl Definition for BonMaxSecond {
    fn summary(&self) -> &'static str {
        "only the best response: its reward minus the second best (arXiv 2605.10716)"
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Best { second: true })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
