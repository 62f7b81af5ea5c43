//! BoN mean: group-normalised max@K (arXiv 2510.23393).
//!
//! `t_i` is the mean, over the K-subsets that contain i, of the subset's maximum ([`super::subsets`]); K = 1 gives r. Then
//! `A_i = (t_i − mean(t)) / (sd_pop(t) + ε)`, as in GRPO-Z. Degenerate: equal rewards, K = m, and 0/1 rewards with more
//! than m − K successes make every t equal: no signal and A = 0.

use serde::{Deserialize, Serialize};

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, GrpoZParams, RuleOptions, Units, grpo_z, subsets};
use crate::error::Result;

/// Settings of BoN mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BonMeanParams {
    /// Subset size K in 1 … m; half the group where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at_k: Option<usize>,
    /// ε added to the standard deviation of t, in reward units.
    pub epsilon: f64,
}

impl BonMeanParams {
    /// K = m/2, ε = 1e-4.
    pub const DEFAULT: Self = Self {
        max_at_k: None,
        epsilon: GrpoZParams::DEFAULT.epsilon,
    };

    /// K for a group of `m`.
    pub fn size(&self, m: usize) -> usize {
        self.max_at_k.unwrap_or(m / 2)
    }

    fn z_score(&self) -> GrpoZParams {
        GrpoZParams {
            epsilon: self.epsilon,
        }
    }
}

impl Definition for BonMeanParams {
    fn summary(&self) -> &'static str {
        "z-scores of the mean best of K with each response (arXiv 2510.23393)"
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            max_at_k: options.max_at_k.or(self.max_at_k),
            ..self
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        subsets::check_size(self.size(m), 1..=m, m)?;
        self.z_score().check()
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        Ok(Pass::Curve {
            steps: subsets::steps_of_max_at_k(m, self.size(m)).collect(),
            from: Baseline::Mean,
            eps: Some(self.epsilon),
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for BonMeanParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Advantages (m,) of one group of finite rewards (m,); the settings fit its size.
pub fn advantages(rewards: &[f64], params: &BonMeanParams) -> Vec<f64> {
    let t = subsets::max_at_k(rewards, params.size(rewards.len()));
    grpo_z::advantages(&t, &params.z_score())
}
