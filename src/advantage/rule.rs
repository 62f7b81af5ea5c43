//! What a rule's file says of it (`Definition`), and what the rest of the program asks of a rule.

use clap::builder::PossibleValue;

use super::pass::Pass;
use super::{
    Alpha, GroupAdvantages, GroupContext, Rewards, Rule, Tail, TailInfo, Units, check_finite,
    check_group_size,
};
use crate::error::Result;

/// Makes the registry: one line per rule, `"name" => Variant(Settings) in module`, or `"name" => Variant in module` for
/// a rule without settings, whose module has a unit struct of the variant's name.
macro_rules! rules {
    (@pattern $variant:ident $rule:ident) => { Self::$variant };
    (@pattern $variant:ident $rule:ident $params:ident) => { Self::$variant($rule) };
    (@definition $module:ident $variant:ident $rule:ident) => { &$module::$variant };
    (@definition $module:ident $variant:ident $rule:ident $params:ident) => { $rule };
    (@with $variant:ident $rule:ident $options:ident) => { Self::$variant };
    (@with $variant:ident $rule:ident $options:ident $params:ident) => { Self::$variant($rule.with($options)) };
    ($($name:literal => $variant:ident $(($params:ident))? in $module:ident,)+) => {
        $($(pub use $module::$params;)?)+

        /// An advantage rule with its settings.
        ///
        /// In TOML and JSON: `{ rule = "tea", alpha = 0.2, bon = 128 }`. On the command line its name, as a `ValueEnum`
        /// with default settings; [`Rule::with`] then puts the flags in.
        #[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "rule", rename_all = "kebab-case")]
        pub enum Rule {
            $(
                #[doc = concat!("[`mod@", stringify!($module), "`].")]
                $variant $(($params))?,
            )+
        }

        impl Rule {
            /// Every rule with its default settings, in the order of `--help`.
            pub const ALL: &'static [Self] = &[$(Self::$variant $(($params::DEFAULT))?,)+];

            /// The name on the command line and in files.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name,)+ }
            }

            /// The name of the rule's reduction among benchmarks.
            pub fn op(&self) -> &'static str {
                match self { $(Self::$variant { .. } => concat!("advantage_", $name),)+ }
            }

            /// This rule with the given settings in place of its own; settings it does not know are left aside.
            pub fn with(self, options: &RuleOptions) -> Self {
                match self {
                    $(rules!(@pattern $variant rule $($params)?) => rules!(@with $variant rule options $($params)?),)+
                }
            }

            fn definition(&self) -> &dyn Definition {
                match self {
                    $(rules!(@pattern $variant rule $($params)?) => rules!(@definition $module $variant rule $($params)?),)+
                }
            }
        }
    };
}

/// What a rule's file says of it.
pub(super) trait Definition {
    /// One line for `--help` and the table of rules: formula and paper.
    fn summary(&self) -> &'static str;

    /// Whether `train` offers the rule.
    fn trains(&self) -> bool {
        true
    }

    /// The rewards it takes.
    fn rewards(&self) -> Rewards {
        Rewards::Any
    }

    /// What its advantages are measured in.
    fn units(&self) -> Units {
        Units::Reward
    }

    /// The rule with the given settings in place of its own.
    fn with(self, _: &RuleOptions) -> Self
    where
        Self: Sized,
    {
        self
    }

    /// Refuses settings that do not fit groups of `m`, by the flag's name.
    fn validate(&self, _m: usize) -> Result<()> {
        Ok(())
    }

    /// The reduction over groups of `m`, whose settings fit.
    fn pass(&self, m: usize) -> Result<Pass>;

    /// The selection set of a group of `m`; empty where the rule has none.
    fn selection(&self, _m: usize, _: &GroupContext<'_>) -> Result<Vec<usize>> {
        Ok(Vec::new())
    }

    /// The rule in float64, over a group whose size fits and whose rewards it takes.
    fn group(&self, rewards: &[f64], context: &GroupContext<'_>) -> Result<Found>;
}

/// What a rule finds in a group.
pub(super) struct Found {
    advantages: Vec<f64>,
    tail: Option<TailInfo>,
    gaussian_tail: Option<bool>,
}

impl From<Vec<f64>> for Found {
    fn from(advantages: Vec<f64>) -> Self {
        Self {
            advantages,
            tail: None,
            gaussian_tail: None,
        }
    }
}

impl Found {
    /// Advantages with the Gaussian tail they came from.
    pub(super) fn of_tail(advantages: Vec<f64>, tail: Tail, kappa: f64, alpha: Alpha) -> Self {
        Self {
            tail: Some(TailInfo::gaussian(tail, kappa, alpha, advantages.len())),
            ..advantages.into()
        }
    }

    /// The same, of a rule that fits a tail's shape: whether the Gaussian tail stood in.
    pub(super) fn fell_back(self, fell: bool) -> Self {
        Self {
            gaussian_tail: Some(fell),
            ..self
        }
    }
}

/// Settings given for any rule; a rule takes those it knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, clap::Args)]
pub struct RuleOptions {
    /// Tail share α in (0, 1/2], also as a fraction such as 1/5 (default 0.2; the TEA rules, cvar)
    #[arg(long)]
    pub alpha: Option<Alpha>,
    /// Deployment budget N (default 128; for cat-bon the group size)
    #[arg(long, value_name = "N")]
    pub bon: Option<u64>,
    /// Lower bound of the tail's standard deviation (default 1e-8; the TEA rules)
    #[arg(long)]
    pub min_scale: Option<f64>,
    /// Order p of prefix-tea (default 2)
    #[arg(long, value_name = "P")]
    pub prefix_order: Option<usize>,
    /// Number of prefixes J of prefix-tea, at least the order (default 2)
    #[arg(long, value_name = "J")]
    pub prefixes: Option<usize>,
    /// Subset size K of bon-mean, pkpo, max-at-k and pass-at-k (default: half the group)
    #[arg(long, value_name = "K")]
    pub max_at_k: Option<usize>,
    /// Size of chow's selection set (default: half the group)
    #[arg(long, value_name = "SIZE")]
    pub selection_size: Option<usize>,
    /// How many tail samples the Gaussian shape weighs in tea-gpd's fit (default 20; 0 trusts the fit)
    #[arg(long, value_name = "SAMPLES")]
    pub gpd_shrinkage: Option<f64>,
    /// How much rs-grpo seeks risk, β in 1/reward (default 2)
    #[arg(long, value_name = "BETA")]
    pub risk_beta: Option<f64>,
    /// Quantile of the group that qae counts rewards from (default 0.5: the median)
    #[arg(long, value_name = "SHARE")]
    pub quantile: Option<f64>,
    /// Largest advantage that entropic gives (default: no limit)
    #[arg(long, value_name = "MOST")]
    pub max_advantage: Option<f64>,
}

impl Rule {
    /// One line for `--help` and the table of rules: formula and paper.
    pub fn summary(&self) -> &'static str {
        self.definition().summary()
    }

    /// Whether `train` offers the rule; the oracle is for diagnostics.
    pub fn trains(&self) -> bool {
        self.definition().trains()
    }

    /// The rewards it takes; rules that take any are shift-invariant.
    pub fn rewards(&self) -> Rewards {
        self.definition().rewards()
    }

    /// What its advantages are measured in.
    pub fn units(&self) -> Units {
        self.definition().units()
    }

    /// Checks the settings for groups of `m` before anything runs.
    ///
    /// # Errors
    /// A user error that names the flag: m < 2, N < 2, κ ≤ 0 (naming the least N that works), prefixes that do not fit
    /// (naming the least m), a subset or selection size outside the group, a bad ε or scale.
    pub fn validate(&self, m: usize) -> Result<()> {
        check_group_size(m)?;
        self.definition().validate(m)
    }

    /// Refuses rewards (m,) that the rule cannot compare.
    ///
    /// # Errors
    /// A user error naming the sample: a reward that is not finite, or is none the rule takes ([`Rule::rewards`]).
    pub fn check(&self, rewards: &[f64]) -> Result<()> {
        check_finite(rewards)?;
        self.rewards().check(self.name(), rewards)
    }

    /// The GPU reduction of the rule over groups of `m`, with everything that depends on sizes alone, in float64.
    ///
    /// # Errors
    /// A user error as [`Rule::validate`], or when `m` is above [`MAX_GROUP`](super::pass::MAX_GROUP).
    pub fn pass(&self, m: usize) -> Result<Pass> {
        self.validate(m)?;
        let pass = self.definition().pass(m)?;
        pass.check(m)?;
        Ok(pass)
    }

    /// Chow's selection set of a group of `m`; empty for every other rule.
    ///
    /// # Errors
    /// A user error: the context's selection does not fit the group.
    pub fn selection(&self, m: usize, context: &GroupContext<'_>) -> Result<Vec<usize>> {
        self.definition().selection(m, context)
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
    /// A user error: the settings do not fit ([`Rule::validate`]), a reward is none that the rule takes
    /// ([`Rule::check`], naming the sample index), or the context's selection does not fit the group.
    pub fn group_with(&self, rewards: &[f64], context: &GroupContext<'_>) -> Result<GroupAdvantages> {
        self.validate(rewards.len())?;
        self.check(rewards)?;
        let found = self.definition().group(rewards, context)?;
        Ok(GroupAdvantages {
            no_signal: found.advantages.iter().all(|&a| a == 0.0),
            zero_std: rewards.iter().all(|&r| r == rewards[0]),
            advantages: found.advantages,
            tail: found.tail,
            gaussian_tail: found.gaussian_tail,
        })
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::ALL[0]
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
