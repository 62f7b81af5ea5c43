//! BoN-max mean: only the group's best response learns, `A_{i*} = r_{i*} − mean(r)`, others 0 (a baseline of TEA,
//! arXiv 2605.10716).
//!
//! `i* = argmax r`, the lowest index on a tie. Degenerate: equal rewards give A = 0.

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, argmax, below_maximum};
use crate::error::Result;

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let below = below_maximum(rewards);
    let mean = below.iter().sum::<f64>() / below.len() as f64;
    let mut out = vec![0.0; below.len()];
    if let Some(best) = argmax(&below, 0..below.len()) {
        // Counted from the maximum, the best reward is 0.
        out[best] = 0.0 - mean;
    }
    out
}

/// BoN-max mean; it has no settings.
pub(super) struct BonMaxMean;

impl Definition for BonMaxMean {
    fn summary(&self) -> &'static str {
        "only the best response: its reward minus the mean (arXiv 2605.10716)"
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Best { second: false })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
