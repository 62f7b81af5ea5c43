//! The registry of advantage rules: names, settings, dispatch.

use clap::builder::PossibleValue;
use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::{
    Alpha, BonMeanParams, CatBonParams, ChowParams, CvarParams, GroupAdvantages, GroupContext, GrpoZParams,
    MaxAtKParams, OracleParams, PkpoParams, PrefixTeaParams, TailInfo, TeaGpdParams, TeaParams, bon_max_mean,
    bon_max_second, bon_mean, cat_bon, check_finite, check_group_size, chow, cvar, grpo, grpo_z, max_at_k,
    oracle, pkpo, prefix_tea, rloo, tail_rl, tea, tea_gpd,
};
use crate::error::Result;

/// An advantage rule with its settings: the registry of rules.
///
/// In TOML and JSON: `{ rule = "tea", alpha = 0.2, bon = 128 }`. On the command line its name, as a `ValueEnum` with
/// default settings; [`Rule::with`] then puts the flags in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Rule {
    /// Tail-extrapolated advantages ([`mod@tea`]).
    Tea(TeaParams),
    /// TEA on nested prefixes, combined to cancel its bias ([`mod@prefix_tea`]).
    PrefixTea(PrefixTeaParams),
    /// TEA with a generalised Pareto tail ([`mod@tea_gpd`]).
    TeaGpd(TeaGpdParams),
    /// Rewards minus their mean ([`mod@grpo`]).
    Grpo,
    /// Z-scores ([`mod@grpo_z`]).
    GrpoZ(GrpoZParams),
    /// The best response against the mean ([`mod@bon_max_mean`]).
    BonMaxMean,
    /// The best response against the second best ([`mod@bon_max_second`]).
    BonMaxSecond,
    /// Z-scores of the max@K transform ([`mod@bon_mean`]).
    BonMean(BonMeanParams),
    /// Best-of-n policy gradient from a split group ([`mod@chow`]).
    Chow(ChowParams),
    /// Z-scores weighted by rank ([`mod@cat_bon`]).
    CatBon(CatBonParams),
    /// What a response adds to the maximum of K ([`mod@pkpo`]).
    Pkpo(PkpoParams),
    /// What the maximum of K gains by a response ([`mod@max_at_k`]).
    MaxAtK(MaxAtKParams),
    /// The sum of max@k over every k ([`mod@tail_rl`]).
    TailRl,
    /// Rewards minus the mean of the others ([`mod@rloo`]).
    Rloo,
    /// TEA with κ = 0: the mean of the upper tail ([`mod@cvar`]).
    Cvar(CvarParams),
    /// The empirical law's own best-of-N gradient, for diagnostics ([`mod@oracle`]).
    Oracle(OracleParams),
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
    /// Prefix-TEA's order p.
    pub prefix_order: Option<usize>,
    /// Prefix-TEA's number of prefixes J.
    pub prefixes: Option<usize>,
    /// Subset size K of max@K.
    pub max_at_k: Option<usize>,
    /// Size of Chow's selection set.
    pub selection_size: Option<usize>,
    /// How many tail samples the Gaussian shape weighs in TEA-GPD's fit.
    pub gpd_shrinkage: Option<f64>,
}

impl Rule {
    /// Every rule with its default settings, in the order of `--help`.
    pub const ALL: &'static [Self] = &[
        Self::Tea(TeaParams::DEFAULT),
        Self::PrefixTea(PrefixTeaParams::DEFAULT),
        Self::TeaGpd(TeaGpdParams::DEFAULT),
        Self::Grpo,
        Self::GrpoZ(GrpoZParams::DEFAULT),
        Self::BonMaxMean,
        Self::BonMaxSecond,
        Self::BonMean(BonMeanParams::DEFAULT),
        Self::Chow(ChowParams::DEFAULT),
        Self::CatBon(CatBonParams::DEFAULT),
        Self::Pkpo(PkpoParams::DEFAULT),
        Self::MaxAtK(MaxAtKParams::DEFAULT),
        Self::TailRl,
        Self::Rloo,
        Self::Cvar(CvarParams::DEFAULT),
        Self::Oracle(OracleParams::DEFAULT),
    ];

    /// The name on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tea(_) => "tea",
            Self::PrefixTea(_) => "prefix-tea",
            Self::TeaGpd(_) => "tea-gpd",
            Self::Grpo => "grpo",
            Self::GrpoZ(_) => "grpo-z",
            Self::BonMaxMean => "bon-max-mean",
            Self::BonMaxSecond => "bon-max-second",
            Self::BonMean(_) => "bon-mean",
            Self::Chow(_) => "chow",
            Self::CatBon(_) => "cat-bon",
            Self::Pkpo(_) => "pkpo",
            Self::MaxAtK(_) => "max-at-k",
            Self::TailRl => "tail-rl",
            Self::Rloo => "rloo",
            Self::Cvar(_) => "cvar",
            Self::Oracle(_) => "oracle",
        }
    }

    /// One line for `--help` and the table of rules: formula and paper.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Tea(_) => "tail-extrapolated advantages for best-of-N (arXiv 2605.10716)",
            Self::PrefixTea(_) => "TEA on nested prefixes, combined to cancel its bias (arXiv 2605.10716)",
            Self::TeaGpd(_) => {
                "TEA with a generalised Pareto tail in place of the Gaussian (docs/tea-gpd.md)"
            }
            Self::Grpo => "reward minus the group's mean (arXiv 2402.03300, unscaled)",
            Self::GrpoZ(_) => "reward minus mean, over standard deviation + 1e-4 (arXiv 2402.03300)",
            Self::BonMaxMean => "only the best response: its reward minus the mean (arXiv 2605.10716)",
            Self::BonMaxSecond => {
                "only the best response: its reward minus the second best (arXiv 2605.10716)"
            }
            Self::BonMean(_) => "z-scores of the mean best of K with each response (arXiv 2510.23393)",
            Self::Chow(_) => "best of a random half, corrected on the other half (arXiv 2412.15287)",
            Self::CatBon(_) => "z-scores weighted by best-of-N's density (arXiv 2604.24957)",
            Self::Pkpo(_) => "what a response adds to the best of K with it (arXiv 2505.15201)",
            Self::MaxAtK(_) => {
                "what the best of K gains by a response, centred: leave-one-out max@K (arXiv 2505.15201)"
            }
            Self::TailRl => "the sum of max@k over every k below the group's size (arXiv 2609.02987)",
            Self::Rloo => "reward minus the mean of the others (arXiv 2402.14740)",
            Self::Cvar(_) => "mean of the upper tail: TEA without extrapolation (arXiv 2605.10716)",
            Self::Oracle(_) => {
                "best-of-N gradient of the group as a whole pool; for diagnostics, not for training (arXiv 2605.10716)"
            }
        }
    }

    /// Whether `train` offers the rule; the oracle is for diagnostics.
    pub fn trains(&self) -> bool {
        !matches!(self, Self::Oracle(_))
    }

    /// This rule with the given settings in place of its own; settings it does not know are left aside.
    pub fn with(self, options: &RuleOptions) -> Self {
        match self {
            Self::Tea(params) => Self::Tea(params.with(options)),
            Self::PrefixTea(params) => Self::PrefixTea(params.with(options)),
            Self::TeaGpd(params) => Self::TeaGpd(params.with(options)),
            Self::Grpo
            | Self::GrpoZ(_)
            | Self::BonMaxMean
            | Self::BonMaxSecond
            | Self::TailRl
            | Self::Rloo => self,
            Self::BonMean(params) => Self::BonMean(params.with(options)),
            Self::Chow(params) => Self::Chow(params.with(options)),
            Self::CatBon(params) => Self::CatBon(params.with(options)),
            Self::Pkpo(params) => Self::Pkpo(params.with(options)),
            Self::MaxAtK(params) => Self::MaxAtK(params.with(options)),
            Self::Cvar(params) => Self::Cvar(params.with(options)),
            Self::Oracle(params) => Self::Oracle(params.with(options)),
        }
    }

    /// Checks the settings for groups of `m` before anything runs.
    ///
    /// # Errors
    /// A user error that names the flag: m < 2, N < 2, κ ≤ 0 (naming the least N that works), prefixes that do not fit
    /// (naming the least m), a subset or selection size outside the group, a bad ε or scale.
    pub fn validate(&self, m: usize) -> Result<()> {
        check_group_size(m)?;
        match self {
            Self::Tea(params) => params.coefficients(m).map(drop),
            Self::PrefixTea(params) => params.validate(m),
            Self::TeaGpd(params) => params.coefficients(m).map(drop),
            Self::Grpo
            | Self::BonMaxMean
            | Self::BonMaxSecond
            | Self::TailRl
            | Self::Rloo
            | Self::Cvar(_) => Ok(()),
            Self::GrpoZ(params) => params.validate(),
            Self::BonMean(params) => params.validate(m),
            Self::Chow(params) => params.validate(m),
            Self::CatBon(params) => params.validate(),
            Self::Pkpo(params) => params.validate(m),
            Self::MaxAtK(params) => params.validate(m),
            Self::Oracle(params) => params.validate(),
        }
    }

    /// The GPU reduction of the rule over groups of `m`, with everything that depends on sizes alone, in float64.
    ///
    /// # Errors
    /// A user error as [`Rule::validate`], or when `m` is above [`MAX_GROUP`](super::pass::MAX_GROUP).
    pub fn pass(&self, m: usize) -> Result<Pass> {
        self.validate(m)?;
        let pass = match self {
            Self::Tea(params) => params.pass(m, [(m, 1.0)])?,
            Self::PrefixTea(params) => params.tea().pass(m, params.plan(m)?.terms())?,
            Self::TeaGpd(params) => params.pass(m)?,
            Self::Grpo => Pass::Centre {
                factor: 1.0,
                eps: None,
            },
            Self::GrpoZ(params) => Pass::Centre {
                factor: 1.0,
                eps: Some(params.epsilon),
            },
            Self::BonMaxMean => Pass::Best { second: false },
            Self::BonMaxSecond => Pass::Best { second: true },
            Self::BonMean(params) => params.pass(m),
            Self::Chow(params) => ChowParams::pass(m, params.size(m)),
            Self::CatBon(params) => params.pass(m),
            Self::Pkpo(params) => params.pass(m),
            Self::MaxAtK(params) => params.pass(m),
            Self::TailRl => tail_rl::pass(m),
            Self::Rloo => rloo::pass(m),
            Self::Cvar(params) => params.pass(m),
            Self::Oracle(params) => params.pass(m),
        };
        pass.check(m)?;
        Ok(pass)
    }

    /// Chow's selection set of a group of `m`; empty for every other rule.
    ///
    /// # Errors
    /// A user error: the context's selection does not fit the group.
    pub fn selection(&self, m: usize, context: &GroupContext<'_>) -> Result<Vec<usize>> {
        match self {
            Self::Chow(params) => params.selection(m, context),
            _ => Ok(Vec::new()),
        }
    }

    /// Advantages (m,) of one group of rewards (m,).
    ///
    /// # Errors
    /// As [`Rule::group`].
    pub fn advantages(&self, rewards: &[f64]) -> Result<Vec<f64>> {
        self.group(rewards).map(|group| group.advantages)
    }

    /// Advantages of one group of rewards (m,) with its diagnostics, under the default [`GroupContext`].
    ///
    /// # Errors
    /// As [`Rule::group_with`].
    pub fn group(&self, rewards: &[f64]) -> Result<GroupAdvantages> {
        self.group_with(rewards, &GroupContext::default())
    }

    /// Advantages of one group of rewards (m,) with its diagnostics; only Chow's split uses the context.
    ///
    /// # Errors
    /// A user error: the settings do not fit ([`Rule::validate`]), a reward is not finite (naming the sample index), or
    /// the context's selection does not fit the group.
    pub fn group_with(&self, rewards: &[f64], context: &GroupContext<'_>) -> Result<GroupAdvantages> {
        self.validate(rewards.len())?;
        check_finite(rewards)?;
        let m = rewards.len();
        let gaussian =
            |(advantages, tail, kappa), alpha| (advantages, Some(TailInfo::gaussian(tail, kappa, alpha, m)));
        let mut gaussian_tail = None;
        let (advantages, tail) = match self {
            Self::Tea(params) => gaussian(tea::advantages(rewards, params)?, params.alpha),
            Self::PrefixTea(params) => gaussian(prefix_tea::advantages(rewards, params)?, params.alpha),
            Self::TeaGpd(params) => {
                let group = tea_gpd::advantages(rewards, params)?;
                gaussian_tail = Some(group.fell_back());
                gaussian((group.advantages, group.tail, group.kappa), params.alpha)
            }
            Self::Grpo => (grpo::advantages(rewards), None),
            Self::GrpoZ(params) => (grpo_z::advantages(rewards, params), None),
            Self::BonMaxMean => (bon_max_mean::advantages(rewards), None),
            Self::BonMaxSecond => (bon_max_second::advantages(rewards), None),
            Self::BonMean(params) => (bon_mean::advantages(rewards, params), None),
            Self::Chow(params) => {
                let selection = params.selection(rewards.len(), context)?;
                (chow::advantages(rewards, &selection), None)
            }
            Self::CatBon(params) => (cat_bon::advantages(rewards, params), None),
            Self::Pkpo(params) => (pkpo::advantages(rewards, params), None),
            Self::MaxAtK(params) => (max_at_k::advantages(rewards, params), None),
            Self::TailRl => (tail_rl::advantages(rewards), None),
            Self::Rloo => (rloo::advantages(rewards), None),
            Self::Cvar(params) => (cvar::advantages(rewards, params), None),
            Self::Oracle(params) => (oracle::advantages(rewards, params), None),
        };
        Ok(GroupAdvantages {
            no_signal: advantages.iter().all(|&a| a == 0.0),
            zero_std: rewards.iter().all(|&r| r == rewards[0]),
            advantages,
            tail,
            gaussian_tail,
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
