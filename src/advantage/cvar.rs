//! CVaR: the policy gradient of the mean of the upper α share, which is TEA with κ = 0 (the first ablation of TEA,
//! arXiv 2605.10716; Petersen et al. for the objective).
//!
//! With the group's top `k = max(2, ⌈αm⌉)` rewards as tail T and q̂ = min T, `u_i = (r_i − q̂)/α` in the tail and 0 outside,
//! `A_i = u_i − mean(u)`. Degenerate: a tail of equal rewards gives no signal and A = 0.

use serde::{Deserialize, Serialize};

use super::alpha::Alpha;
use super::pass::{Pass, Prefix};
use super::rule::{Definition, Found};
use super::tea::{self, TeaCoefficients};
use super::{GroupContext, RuleOptions};
use crate::error::Result;

/// Settings of CVaR.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CvarParams {
    /// Tail share α in (0, ½].
    pub alpha: Alpha,
}

/// With κ = 0 the tail's deviation does not enter.
const SCALE: f64 = 1.0;

impl CvarParams {
    /// α = 0.2.
    pub const DEFAULT: Self = Self {
        alpha: Alpha::DEFAULT,
    };
}

impl Definition for CvarParams {
    fn summary(&self) -> &'static str {
        "mean of the upper tail: TEA without extrapolation (arXiv 2605.10716)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            alpha: options.alpha.unwrap_or(self.alpha),
        }
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        Ok(Pass::Tail {
            alpha: self.alpha.value(),
            kappa: 0.0,
            min_scale: SCALE,
            prefixes: vec![Prefix {
                size: m,
                k: self.alpha.tail_size(m),
                weight: 1.0,
            }],
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for CvarParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64], params: &CvarParams) -> Vec<f64> {
    let coefficients = TeaCoefficients {
        tail_size: params.alpha.tail_size(rewards.len()),
        kappa: 0.0,
        inv_alpha: 1.0 / params.alpha.value(),
        min_scale: SCALE,
    };
    let mut u = tea::scores(rewards, &coefficients);
    super::centre(&mut u);
    u
}
