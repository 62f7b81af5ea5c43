//! TailRL: the sum of max@k over every k, which weighs the gaps of the upper tail most (arXiv 2609.02987).
//!
//! With rewards ascending, `ω₍₁₎ = r₍₁₎/m`, `ω₍ᵢ₊₁₎ = ω₍ᵢ₎ + (r₍ᵢ₊₁₎ − r₍ᵢ₎)/(m − i)`, and `A = m·(ω − mean(ω))`. It equals
//! the sum over k = 1 … m − 1 of max@k's centred advantages ([`super::max_at_k`]); no budget and no setting enters. On 0/1
//! rewards it is `(r − mean(r))/mean(r)`. Degenerate: equal rewards give A = 0.

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, subsets};
use crate::error::Result;

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let (m, order) = (rewards.len(), subsets::ascending(rewards));
    let (mut out, mut value) = (vec![0.0; m], 0.0);
    for i in 1..m {
        value += m as f64 / (m - i) as f64 * (rewards[order[i]] - rewards[order[i - 1]]);
        out[order[i]] = value;
    }
    super::centre(&mut out);
    out
}

/// TailRL; it has no settings.
pub(super) struct TailRl;

impl Definition for TailRl {
    fn summary(&self) -> &'static str {
        "the sum of max@k over every k below the group's size (arXiv 2609.02987)"
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        let mut steps: Vec<f64> = (0..m).map(|i| m as f64 / (m - i) as f64).collect();
        steps[0] = 0.0;
        Ok(Pass::Curve {
            steps,
            from: Baseline::Mean,
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards).into())
    }
}
