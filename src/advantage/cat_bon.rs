//! CAT-BoN: z-scores weighted by best-of-N's density (Compute Aligned Training, arXiv 2604.24957).
//!
//! `p_i` is the fraction of the group strictly below r_i, `ω_i = N·p_i^{N−1}` normalised to mean 1 over the group, and
//! `A_i = ω_i·(r_i − mean(r)) / (sd_pop(r) + ε)`. N is the group size unless it is given. Only the ratios of the ω matter, so they
//! are taken from the largest p, which keeps them from underflowing at large N. Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, GrpoZParams, RuleOptions, Units, grpo_z, subsets};
use crate::error::{Error, Result};

/// Settings of CAT-BoN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatBonParams {
    /// N, at least 1; the group size where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bon: Option<u64>,
    /// ε added to the standard deviation, in reward units.
    pub epsilon: f64,
}

impl CatBonParams {
    /// N = m, ε = 1e-4.
    pub const DEFAULT: Self = Self {
        bon: None,
        epsilon: GrpoZParams::DEFAULT.epsilon,
    };

    fn z_score(&self) -> GrpoZParams {
        GrpoZParams {
            epsilon: self.epsilon,
        }
    }
}

impl Definition for CatBonParams {
    fn summary(&self) -> &'static str {
        "z-scores weighted by best-of-N's density (arXiv 2604.24957)"
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            bon: options.bon.or(self.bon),
            ..self
        }
    }

    fn validate(&self, _: usize) -> Result<()> {
        if self.bon == Some(0) {
            return Err(Error::user(
                "--bon is 0: cat-bon takes N of at least 1 (the default is the group size)",
            ));
        }
        self.z_score().check()
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        Ok(Pass::Cat {
            exponent: (self.bon.unwrap_or(m as u64) - 1) as f64,
            eps: self.epsilon,
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for CatBonParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Weights ω (m,) of mean 1, or all 0 where none of the group lies below another and N > 1.
fn weights(rewards: &[f64], bon: u64) -> Vec<f64> {
    let (m, order) = (rewards.len(), subsets::ascending(rewards));
    // Number of rewards strictly below each.
    let mut below = vec![0_usize; m];
    for i in 1..m {
        let (here, before) = (order[i], order[i - 1]);
        below[here] = if rewards[here] == rewards[before] {
            below[before]
        } else {
            i
        };
    }
    let most = below[order[m - 1]].max(1) as f64;
    let exponent = bon.saturating_sub(1) as f64;
    let mut out: Vec<f64> = below
        .iter()
        .map(|&b| libm::pow(b as f64 / most, exponent))
        .collect();
    let mean = out.iter().sum::<f64>() / m as f64;
    if mean > 0.0 {
        out.iter_mut().for_each(|w| *w /= mean);
    }
    out
}

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64], params: &CatBonParams) -> Vec<f64> {
    let bon = params.bon.unwrap_or(rewards.len() as u64);
    let mut out = grpo_z::advantages(rewards, &params.z_score());
    for (a, w) in out.iter_mut().zip(weights(rewards, bon)) {
        *a *= w;
    }
    out
}
