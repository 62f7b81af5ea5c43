//! Advantage rules: one file a rule, each a pure function from the m rewards of one group to m advantages.
//!
//! The float64 functions here are the twins of the GPU reductions. Rules that take any rewards are shift-invariant: rewards
//! count from the group's maximum or by their differences, so rewards near 1e4 with a spread of 1e-2 are fine. The others
//! name what they take ([`Rewards`]). All are permutation-equivariant up to ties, except Prefix-TEA and Chow, which use the
//! sample index.
//!
//! To add a rule: one file with its formula, paper, settings, degenerate cases and GPU pass ([`mod@pass`]), its `mod`, and
//! one line of the registry below. Help texts, benchmarks and the tests of every rule follow from that line.

#[macro_use]
pub mod rule;

pub mod alpha;
pub mod bon_max_mean;
pub mod bon_max_second;
pub mod bon_mean;
pub mod cat_bon;
pub mod chow;
pub mod cvar;
pub mod entropic;
pub mod grpo;
pub mod grpo_z;
mod last;
pub mod max_at_k;
pub mod max_rl;
pub mod oracle;
pub mod pareto;
pub mod pass;
pub mod pass_at_k;
pub mod pkpo;
pub mod prefix_tea;
pub mod qae;
pub mod records;
mod rewards;
pub mod rloo;
pub mod rs_grpo;
pub mod scale;
pub mod subsets;
pub mod tail;
pub mod tail_rl;
pub mod tea;
pub mod tea_gpd;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::rng::seed_for;

pub use alpha::Alpha;
pub use pass::Pass;
pub use rewards::{Rewards, Units};
pub use rule::RuleOptions;
pub use tail::Tail;

use rule::Definition;

rules! {
    "tea" => Tea(TeaParams) in tea,
    "prefix-tea" => PrefixTea(PrefixTeaParams) in prefix_tea,
    "tea-gpd" => TeaGpd(TeaGpdParams) in tea_gpd,
    "grpo" => Grpo in grpo,
    "grpo-z" => GrpoZ(GrpoZParams) in grpo_z,
    "bon-max-mean" => BonMaxMean in bon_max_mean,
    "bon-max-second" => BonMaxSecond in bon_max_second,
    "bon-mean" => BonMean(BonMeanParams) in bon_mean,
    "chow" => Chow(ChowParams) in chow,
    "cat-bon" => CatBon(CatBonParams) in cat_bon,
    "pkpo" => Pkpo(PkpoParams) in pkpo,
    "max-at-k" => MaxAtK(MaxAtKParams) in max_at_k,
    "tail-rl" => TailRl in tail_rl,
    "rloo" => Rloo in rloo,
    "cvar" => Cvar(CvarParams) in cvar,
    "max-rl" => MaxRl in max_rl,
    "pass-at-k" => PassAtK(PassAtKParams) in pass_at_k,
    "entropic" => Entropic(EntropicParams) in entropic,
    "rs-grpo" => RsGrpo(RsGrpoParams) in rs_grpo,
    "qae" => Qae(QaeParams) in qae,
    "oracle" => Oracle(OracleParams) in oracle,
}

/// What a rule may use of a group besides its rewards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupContext<'a> {
    /// Key of the group's random numbers.
    pub key: [u32; 2],
    /// Chow's selection set, in place of a random one: distinct sample indices, in any order.
    pub selection: Option<&'a [usize]>,
}

impl GroupContext<'_> {
    /// The context of one group of a run: a pure function of the run's seed, the step, and the group's place in it.
    pub fn at(run_seed: u64, step: u64, place: u64) -> Self {
        Self {
            key: seed_for(run_seed, step, place, 0),
            selection: None,
        }
    }
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
    /// For rules that fit the tail's shape: whether the fit failed and the Gaussian tail stood in.
    pub gaussian_tail: Option<bool>,
}

/// Tail statistics of a group with the law's prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TailInfo {
    /// Threshold, mean and standard deviation of the tail.
    #[serde(flatten)]
    pub tail: Tail,
    /// κ(α, N).
    pub kappa: f64,
    /// Predicted expected best of N, μ̂ + κŝ; `None` where κ ≤ 0, or where the tail's 2 samples are more than the share α
    /// ([`Alpha::has_tail`]).
    pub predicted_bon: Option<f64>,
}

impl TailInfo {
    /// The prediction of a Gaussian tail of share `alpha`, fitted to a group of `m`.
    pub fn gaussian(tail: Tail, kappa: f64, alpha: Alpha, m: usize) -> Self {
        Self {
            tail,
            kappa,
            predicted_bon: tail.predicted_best(kappa).filter(|_| alpha.has_tail(m)),
        }
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

/// The population's standard deviation of centred values.
pub(crate) fn deviation(centred: &[f64]) -> f64 {
    libm::sqrt(centred.iter().map(|a| a * a).sum::<f64>() / centred.len() as f64)
}

/// The first of `indices` with the largest value; `None` where there are none.
pub(crate) fn argmax(values: &[f64], indices: impl IntoIterator<Item = usize>) -> Option<usize> {
    indices
        .into_iter()
        .reduce(|best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
pub(crate) mod tests;
