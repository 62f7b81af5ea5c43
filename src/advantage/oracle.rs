//! The oracle: what each reward of a pool is worth to the best of N (diagnostics only; TEA, arXiv 2605.10716,
//! gradient alignment).
//!
//! Over a pool of m rewards as the empirical law, drawn with replacement, `O_i = E[max(r_i, M_{N−1})] − E[M_N]` with M_k
//! the maximum of k draws: the advantages whose policy gradient is that of the pool's expected best of N. It needs a pool
//! large against N, so `train` does not offer it.
//!
//! With rewards ascending, neighbours differ by `O₍ᵢ₊₁₎ − O₍ᵢ₎ = (i/m)^{N−1}·(r₍ᵢ₊₁₎ − r₍ᵢ₎)`, and
//! `r₍ₘ₎ − E[M_N] = Σ_i (i/m)^N·(r₍ᵢ₊₁₎ − r₍ᵢ₎)`. Degenerate: equal rewards give 0.

use serde::{Deserialize, Serialize};

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, subsets};
use crate::error::{Error, Result};

/// Settings of the oracle.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OracleParams {
    /// Number of draws N, at least 1.
    pub bon: u64,
}

impl OracleParams {
    /// N = 128.
    pub const DEFAULT: Self = Self { bon: 128 };
}

impl Definition for OracleParams {
    fn summary(&self) -> &'static str {
        "best-of-N gradient of the group as a whole pool; for diagnostics, not for training (arXiv 2605.10716)"
    }

    fn trains(&self) -> bool {
        false
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            bon: options.bon.unwrap_or(self.bon),
        }
    }

    fn validate(&self, _: usize) -> Result<()> {
        if self.bon > 0 {
            return Ok(());
        }
        Err(Error::user("--bon is 0: the oracle draws at least 1 reward"))
    }

    /// With l rewards below a gap: the share of N − 1 draws with replacement that are all below.
    fn pass(&self, m: usize) -> Result<Pass> {
        let others = (self.bon - 1) as f64;
        let mut steps: Vec<f64> = (0..m).map(|l| libm::pow(l as f64 / m as f64, others)).collect();
        steps[0] = 0.0;
        Ok(Pass::Curve {
            steps,
            from: Baseline::Mean,
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for OracleParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// O (m,) of one pool of finite rewards (m,), N ≥ 1.
pub fn advantages(rewards: &[f64], params: &OracleParams) -> Vec<f64> {
    let (m, order) = (rewards.len(), subsets::ascending(rewards));
    let draws = params.bon as f64;
    let below = |i: usize, draws: f64| libm::pow(i as f64 / m as f64, draws);
    let step = |i: usize| rewards[order[i]] - rewards[order[i - 1]];
    // O₍ₘ₎ first, then downwards.
    let mut value: f64 = (1..m).map(|i| below(i, draws) * step(i)).sum();
    let mut out = vec![0.0; m];
    for i in (1..=m).rev() {
        out[order[i - 1]] = value;
        if i > 1 {
            value -= below(i - 1, draws - 1.0) * step(i - 1);
        }
    }
    out
}
