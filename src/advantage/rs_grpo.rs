//! RS-GRPO: risk-seeking advantages from exponential utility, `A_i = (e^{βr_i} / mean_j e^{βr_j} − 1) / β`
//! (arXiv 2509.24261).
//!
//! β is in units of 1/reward: near 0 it is GRPO, and the larger it is, the more the group's best alone counts, up to
//! (m − 1)/β. Rewards count from the group's maximum, and `e^y − 1` is taken as such where y is small. Degenerate: equal
//! rewards give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::{Pass, Tilt};
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, Units, below_maximum};
use crate::error::{Error, Result};

/// Settings of RS-GRPO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RsGrpoParams {
    /// β > 0, in 1/reward.
    pub risk_beta: f64,
}

impl RsGrpoParams {
    /// β = 2.
    pub const DEFAULT: Self = Self { risk_beta: 2.0 };
}

impl Definition for RsGrpoParams {
    fn summary(&self) -> &'static str {
        "exponential of the reward over its mean, minus 1: seeks risk as --risk-beta says (arXiv 2509.24261)"
    }

    fn units(&self) -> Units {
        Units::Mixed
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            risk_beta: options.risk_beta.unwrap_or(self.risk_beta),
        }
    }

    fn validate(&self, _: usize) -> Result<()> {
        if self.risk_beta > 0.0 && self.risk_beta.is_finite() {
            return Ok(());
        }
        Err(Error::user(format!(
            "--risk-beta is {}: it must be a positive number such as 2 (near 0 the rule is grpo)",
            self.risk_beta
        )))
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Tilt(Tilt::Fixed { beta: self.risk_beta }))
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for RsGrpoParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Advantages (m,) of one group of finite rewards (m,), β > 0.
pub fn advantages(rewards: &[f64], params: &RsGrpoParams) -> Vec<f64> {
    let beta = params.risk_beta;
    let exponents: Vec<f64> = below_maximum(rewards).iter().map(|x| beta * x).collect();
    let m = exponents.len() as f64;
    let mean = exponents.iter().map(|y| libm::exp(*y)).sum::<f64>() / m;
    // Where most weights are small, their difference from 1 has lost their digits; where most are near 1, they have.
    let weight = if mean < 0.5 { libm::exp } else { libm::expm1 };
    let mut out: Vec<f64> = exponents.into_iter().map(weight).collect();
    super::centre(&mut out);
    out.iter_mut().for_each(|a| *a /= mean * beta);
    out
}
