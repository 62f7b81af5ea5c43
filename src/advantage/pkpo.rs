//! PKPO: max@K with the leave-one-out-minus-one baseline (arXiv 2505.15201, the continuous form).
//!
//! `A_i` is the mean, over the K-subsets S that contain i, of `max(S) − max(S ∖ {i})`: what i adds to a subset. It is not
//! centred further. The paper divides by C(m, K) instead of C(m−1, K−1): a constant factor K/m less.
//!
//! Only subsets whose largest member is i count. With rewards ascending, `A₍₁₎ = 0` and
//! `A₍ᵢ₊₁₎ − A₍ᵢ₎ = C(i, K−1)/C(m−1, K−1)·(r₍ᵢ₊₁₎ − r₍ᵢ₎)`, because the subsets of K − 1 among the i smallest, counted by
//! their largest member, number C(i, K−1). Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, subsets};
use crate::error::Result;

/// Settings of PKPO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PkpoParams {
    /// Subset size K in 2 … m; half the group, and at least 2, where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at_k: Option<usize>,
}

impl PkpoParams {
    /// K = max(2, m/2).
    pub const DEFAULT: Self = Self { max_at_k: None };

    /// K for a group of `m`.
    pub fn size(&self, m: usize) -> usize {
        self.max_at_k.unwrap_or((m / 2).max(2))
    }
}

impl Definition for PkpoParams {
    fn summary(&self) -> &'static str {
        "what a response adds to the best of K with it (arXiv 2505.15201)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            max_at_k: options.max_at_k.or(self.max_at_k),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        subsets::check_size(self.size(m), 2..=m, m)
    }

    /// With l rewards below a gap: the share of the subsets whose K − 1 others are all below.
    fn pass(&self, m: usize) -> Result<Pass> {
        let mut steps = subsets::largest_shares(m, self.size(m));
        steps[0] = 0.0;
        Ok(Pass::Curve {
            steps,
            from: Baseline::Lowest,
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

/// Advantages (m,) of one group of finite rewards (m,); the settings fit its size.
pub fn advantages(rewards: &[f64], params: &PkpoParams) -> Vec<f64> {
    let (m, order) = (rewards.len(), subsets::ascending(rewards));
    let shares = subsets::largest_shares(m, params.size(m));
    let (mut out, mut value) = (vec![0.0; m], 0.0);
    for i in 1..m {
        value += shares[i] * (rewards[order[i]] - rewards[order[i - 1]]);
        out[order[i]] = value;
    }
    out
}
