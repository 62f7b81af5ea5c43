//! Pass@k training: what a response means for a random k-subset's success (arXiv 2508.10751).
//!
//! Rewards are 0 or 1. With c successes of m, a k-subset holds none of them with probability `C(m−c, k)/C(m, k) = 1 − ρ`,
//! and its success has the deviation `σ = √(ρ(1 − ρ))`. A response's advantage is the mean success of the subsets that
//! contain it, less ρ, over σ:
//!
//! a success `(1 − ρ)/σ`, a failure `(1 − ρ − C(m−c−1, k−1)/C(m−1, k−1))/σ`.
//!
//! Degenerate: where every k-subset or none holds a success, σ = 0 and A = 0. That is c = 0, c > m − k, and numbers of
//! successes so near to that that 1 − ρ rounds to 0 in float64.

use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, Rewards, RuleOptions, Units, subsets};
use crate::error::Result;

/// Settings of pass@k.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassAtKParams {
    /// Subset size k in 1 … m − 1; half the group where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at_k: Option<usize>,
}

impl PassAtKParams {
    /// k = m/2.
    pub const DEFAULT: Self = Self { max_at_k: None };

    /// k for a group of `m`.
    pub fn size(&self, m: usize) -> usize {
        self.max_at_k.unwrap_or(m / 2)
    }
}

impl Definition for PassAtKParams {
    fn summary(&self) -> &'static str {
        "what a response means for the success of k, standardised; for rewards of 0 and 1 (arXiv 2508.10751)"
    }

    fn rewards(&self) -> Rewards {
        Rewards::ZeroOne
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            max_at_k: options.max_at_k.or(self.max_at_k),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        subsets::check_size(self.size(m), 1..=m - 1, m)
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        let k = self.size(m);
        Ok(Pass::Table((0..=m).map(|c| by_successes(m, c, k)).collect()))
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

/// C(m−c, k)/C(m, k): the share of the k-subsets of m that hold none of c. A product of ratios, so nothing overflows.
fn share_without(m: usize, c: usize, k: usize) -> f64 {
    if m - c < k {
        return 0.0;
    }
    // The same with c and k exchanged: the shorter product.
    let (few, many) = (c.min(k), c.max(k));
    let ratios = (0..few).map(|j| (m - many - j) as f64 / (m - j) as f64);
    ratios.product()
}

/// Advantages of a success and of a failure where c of m succeed.
fn by_successes(m: usize, c: usize, k: usize) -> (f64, f64) {
    let share = share_without(m, c, k);
    let rho = 1.0 - share;
    let miss = 1.0 - rho;
    let sigma = libm::sqrt(rho * miss);
    if sigma == 0.0 {
        return (0.0, 0.0);
    }
    // C(m−c−1, k−1)/C(m−1, k−1): of the subsets around a failure, those without a success.
    let around_failure = share * m as f64 / (m - c) as f64;
    (miss / sigma, (miss - around_failure) / sigma)
}

/// Advantages (m,) of one group of rewards (m,) of 0 or 1; the settings fit its size.
pub fn advantages(rewards: &[f64], params: &PassAtKParams) -> Vec<f64> {
    let m = rewards.len();
    let successes = rewards.iter().filter(|r| **r > 0.0).count();
    let (success, failure) = by_successes(m, successes, params.size(m));
    let one = |r: &f64| if *r > 0.0 { success } else { failure };
    rewards.iter().map(one).collect()
}
