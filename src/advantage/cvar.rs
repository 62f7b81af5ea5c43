//! CVaR: the policy gradient of the mean of the upper α share, which is TEA with κ = 0 (the first ablation of TEA,
//! arXiv 2605.10716; Petersen et al. for the objective).
//!
//! With the group's top `k = max(2, ⌈αm⌉)` rewards as tail T and q̂ = min T, `u_i = (r_i − q̂)/α` in the tail and 0 outside,
//! `A_i = u_i − mean(u)`. Degenerate: a tail of equal rewards gives no signal and A = 0.

use serde::{Deserialize, Serialize};

use super::RuleOptions;
use super::alpha::Alpha;
use super::pass::{Pass, Prefix};
use super::tea::{self, TeaCoefficients};

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

    pub(super) fn with(self, options: &RuleOptions) -> Self {
        Self {
            alpha: options.alpha.unwrap_or(self.alpha),
        }
    }

    /// The reduction over groups of `m`.
    pub(super) fn pass(&self, m: usize) -> Pass {
        Pass::Tail {
            alpha: self.alpha.value(),
            kappa: 0.0,
            min_scale: SCALE,
            prefixes: vec![Prefix {
                size: m,
                k: self.alpha.tail_size(m),
                weight: 1.0,
            }],
        }
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
