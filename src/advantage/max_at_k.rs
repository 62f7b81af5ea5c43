//! max@K, centred: PKPO's sample-leave-one-out form (arXiv 2505.15201).
//!
//! `A_i` is the mean of `max(S)` over the K-subsets S that contain i, less that over the K-subsets that do not:
//! `A = m/(m − K)·(t − mean(t))`, t the max@K transform ([`super::subsets`]). Unbiased and exactly centred; K = 1 gives
//! RLOO. Degenerate: equal rewards, and 0/1 rewards with more than m − K successes, give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, subsets};
use crate::error::Result;

/// Settings of max@K.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaxAtKParams {
    /// Subset size K in 1 … m − 1; half the group where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at_k: Option<usize>,
}

impl MaxAtKParams {
    /// K = m/2.
    pub const DEFAULT: Self = Self { max_at_k: None };

    /// K for a group of `m`.
    pub fn size(&self, m: usize) -> usize {
        self.max_at_k.unwrap_or(m / 2)
    }

    fn factor(&self, m: usize) -> f64 {
        m as f64 / (m - self.size(m)) as f64
    }
}

impl Definition for MaxAtKParams {
    fn summary(&self) -> &'static str {
        "what the best of K gains by a response, centred: leave-one-out max@K (arXiv 2505.15201)"
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
        let factor = self.factor(m);
        Ok(Pass::Curve {
            steps: subsets::steps_of_max_at_k(m, self.size(m))
                .map(|s| factor * s)
                .collect(),
            from: Baseline::Mean,
            eps: None,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

/// Advantages (m,) of one group of finite rewards (m,); the settings fit its size.
pub fn advantages(rewards: &[f64], params: &MaxAtKParams) -> Vec<f64> {
    let m = rewards.len();
    let mut t = subsets::max_at_k(rewards, params.size(m));
    super::centre(&mut t);
    let factor = params.factor(m);
    t.iter_mut().for_each(|a| *a *= factor);
    t
}
