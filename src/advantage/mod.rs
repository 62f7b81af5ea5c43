//! Advantage rules: one file a rule, each a pure function from the m rewards of one group to m advantages.
//!
//! The float64 functions here are the twins of the GPU reductions. Every rule is shift-invariant (the group's maximum
//! is subtracted first, so rewards near 1e4 with a spread of 1e-2 are fine) and permutation-equivariant.
//!
//! To add a rule: one file with its formula, paper and degenerate cases, and one variant of [`Rule`]; the exhaustive
//! matches below find the rest.

pub mod alpha;
pub mod grpo;
pub mod grpo_z;
pub mod pareto;
pub mod tail;
pub mod tea;
pub mod tea_gpd;

use clap::builder::PossibleValue;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use alpha::Alpha;
pub use grpo_z::GrpoZParams;
pub use tail::Tail;
pub use tea::TeaParams;
pub use tea_gpd::TeaGpdParams;

/// An advantage rule with its settings: the registry of rules.
///
/// In TOML and JSON: `{ rule = "tea", alpha = 0.2, bon = 128 }`. On the command line its name, as a `ValueEnum` with
/// default settings; [`Rule::with`] then puts the flags in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Rule {
    /// Tail-extrapolated advantages ([`mod@tea`]).
    Tea(TeaParams),
    /// Rewards minus their mean ([`mod@grpo`]).
    Grpo,
    /// Z-scores ([`mod@grpo_z`]).
    GrpoZ(GrpoZParams),
}

/// Settings given for any rule; a rule takes those it knows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RuleOptions {
    /// Tail share α.
    pub alpha: Option<Alpha>,
    /// Deployment budget N.
    pub bon: Option<u64>,
    /// Lower bound of the tail's standard deviation.
    pub min_scale: Option<f64>,
}

/// One group's advantages and what the rule saw in it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupAdvantages {
    /// Advantages (m,), in the order of the rewards.
    pub advantages: Vec<f64>,
    /// True when every advantage is 0: the group teaches nothing in this step.
    pub no_signal: bool,
    /// True when all rewards of the group are equal.
    pub zero_std: bool,
    /// The tail statistics, where the rule has a tail.
    pub tail: Option<TailInfo>,
}

/// Tail statistics of a group with the law's prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TailInfo {
    /// Threshold, mean and standard deviation of the tail.
    #[serde(flatten)]
    pub tail: Tail,
    /// κ(α, N).
    pub kappa: f64,
    /// Predicted expected best of N, μ̂ + κŝ; `None` where κ ≤ 0.
    pub predicted_bon: Option<f64>,
}

impl Rule {
    /// Every rule with its default settings, in the order of `--help`.
    pub const ALL: &'static [Self] = &[
        Self::Tea(TeaParams::DEFAULT),
        Self::Grpo,
        Self::GrpoZ(GrpoZParams::DEFAULT),
    ];

    /// The name on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tea(_) => "tea",
            Self::Grpo => "grpo",
            Self::GrpoZ(_) => "grpo-z",
        }
    }

    /// One line for `--help` and the table of rules: formula and paper.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Tea(_) => "tail-extrapolated advantages for best-of-N (arXiv 2605.10716)",
            Self::Grpo => "reward minus the group's mean (arXiv 2402.03300, unscaled)",
            Self::GrpoZ(_) => "reward minus mean, over standard deviation + 1e-4 (arXiv 2402.03300)",
        }
    }

    /// This rule with the given settings in place of its own; settings it does not know are left aside.
    pub fn with(self, options: &RuleOptions) -> Self {
        match self {
            Self::Tea(params) => Self::Tea(TeaParams {
                alpha: options.alpha.unwrap_or(params.alpha),
                bon: options.bon.unwrap_or(params.bon),
                min_scale: options.min_scale.unwrap_or(params.min_scale),
            }),
            Self::Grpo | Self::GrpoZ(_) => self,
        }
    }

    /// Checks the settings for groups of `m` before anything runs.
    ///
    /// # Errors
    /// A user error: m < 2, N < 2, κ ≤ 0 (naming the least N that works), a bad ε or scale.
    pub fn validate(&self, m: usize) -> Result<()> {
        check_group_size(m)?;
        match self {
            Self::Tea(params) => params.coefficients(m).map(|_| ()),
            Self::Grpo => Ok(()),
            Self::GrpoZ(params) => params.validate(),
        }
    }

    /// Advantages (m,) of one group of rewards (m,).
    ///
    /// # Errors
    /// As [`Rule::group`].
    pub fn advantages(&self, rewards: &[f64]) -> Result<Vec<f64>> {
        self.group(rewards).map(|group| group.advantages)
    }

    /// Advantages of one group of rewards (m,) with its diagnostics.
    ///
    /// # Errors
    /// A user error: the settings do not fit ([`Rule::validate`]) or a reward is not finite (naming the sample index).
    pub fn group(&self, rewards: &[f64]) -> Result<GroupAdvantages> {
        self.validate(rewards.len())?;
        check_finite(rewards)?;
        let (advantages, tail) = match self {
            Self::Tea(params) => {
                let (advantages, tail, kappa) = tea::advantages(rewards, params)?;
                let predicted_bon = tail.predicted_best(kappa);
                (
                    advantages,
                    Some(TailInfo {
                        tail,
                        kappa,
                        predicted_bon,
                    }),
                )
            }
            Self::Grpo => (grpo::advantages(rewards), None),
            Self::GrpoZ(params) => (grpo_z::advantages(rewards, params), None),
        };
        Ok(GroupAdvantages {
            no_signal: advantages.iter().all(|&a| a == 0.0),
            zero_std: rewards.iter().all(|&r| r == rewards[0]),
            advantages,
            tail,
        })
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::Tea(TeaParams::DEFAULT)
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl clap::ValueEnum for Rule {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.summary()))
    }
}

/// Refuses groups that no rule can compare.
///
/// # Errors
/// A user error when m < 2.
pub fn check_group_size(m: usize) -> Result<()> {
    if m >= 2 {
        return Ok(());
    }
    Err(Error::user(format!(
        "the group size is {m}: advantages compare responses to one prompt, so --num-generations must be at least 2"
    )))
}

/// Refuses rewards that are NaN, infinite, or so far apart that their difference overflows.
///
/// # Errors
/// A user error naming the sample index.
pub fn check_finite(rewards: &[f64]) -> Result<()> {
    if let Some((i, r)) = rewards.iter().enumerate().find(|(_, r)| !r.is_finite()) {
        return Err(Error::user(format!(
            "the reward of sample {i} is {r}: rewards must be finite; check the reward model's output on this response"
        )));
    }
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match rewards
        .iter()
        .enumerate()
        .find(|(_, r)| (top - *r).powi(2).is_infinite())
    {
        Some((i, r)) => Err(Error::user(format!(
            "the reward of sample {i} is {r} where the group's best is {top}: the spread overflows; rescale the rewards"
        ))),
        None => Ok(()),
    }
}

/// Rewards minus their maximum.
pub(crate) fn below_maximum(rewards: &[f64]) -> Vec<f64> {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    rewards.iter().map(|r| r - top).collect()
}

/// Subtracts the mean; exact zeros stay zeros.
pub(crate) fn centre(values: &mut [f64]) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|v| *v -= mean);
}

#[cfg(test)]
mod tests;
