//! The rules over many groups at once, on the GPU: this room's settings as the kernels take them.

use super::{GroupContext, Rule, TeaGpdParams, TeaParams, chow};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::group_advantage::{GroupRule, MAX_GROUP, Prefix, Reduced, pareto_shapes, reduce_groups};

impl Rule {
    /// The rule for groups of `m` with everything that depends on sizes alone, in float64, as the GPU reductions take it.
    ///
    /// # Errors
    /// A user error as [`Rule::validate`], or when `m` is above [`MAX_GROUP`].
    pub fn group_rule(&self, m: usize) -> Result<GroupRule> {
        self.validate(m)?;
        check_largest(m)?;
        Ok(match self {
            Self::Tea(params) => tail_rule(params, m, &[(m, 1.0)])?,
            Self::PrefixTea(params) => {
                let terms: Vec<_> = params.plan(m)?.terms().collect();
                tail_rule(&params.tea(), m, &terms)?
            }
            Self::Grpo => GroupRule::Grpo,
            Self::GrpoZ(params) => GroupRule::GrpoZ { eps: params.epsilon },
            Self::BonMaxMean => GroupRule::BonMaxMean,
            Self::BonMaxSecond => GroupRule::BonMaxSecond,
            Self::BonMean(params) => GroupRule::BonMean {
                subset: params.size(m),
                eps: params.epsilon,
            },
            Self::Chow(params) => chow_rule(params.size(m)),
            Self::CatBon(params) => GroupRule::CatBon {
                bon: params.bon.unwrap_or(m as u64),
                eps: params.epsilon,
            },
            Self::Pkpo(params) => GroupRule::Pkpo {
                subset: params.size(m),
            },
            Self::Oracle(params) => GroupRule::Oracle { bon: params.bon },
        })
    }

    /// Advantages (G, m) in f32 of the groups of `m` in `rewards (G, m)`, reduced on the GPU in as few dispatches as the
    /// sizes allow. `context` gives each group's (only Chow's split uses it).
    ///
    /// Against [`Rule::group_with`] in float64: within 1e-4 of each advantage, and 2e-6 of the group's largest where it
    /// is a small difference of large rewards.
    ///
    /// # Errors
    /// A user error as [`Rule::group_rule`]; a reward that is not finite, or 1e16 below its group's best; rewards that
    /// are no whole groups; splits of unequal sizes. Else GPU errors.
    pub fn reduce_groups<'a>(
        &self,
        gpu: &Gpu,
        rewards: &[f64],
        m: usize,
        context: impl Fn(usize) -> GroupContext<'a>,
    ) -> Result<Reduced> {
        let mut rule = self.group_rule(m)?;
        if !rewards.len().is_multiple_of(m) {
            return Err(Error::user(format!(
                "{} rewards are no whole number of groups of {m}",
                rewards.len()
            )));
        }
        let mut split = Vec::new();
        if let Self::Chow(params) = self {
            split = vec![false; rewards.len()];
            for g in 0..rewards.len() / m {
                let chosen = params.selection(m, &context(g))?;
                if g == 0 {
                    rule = chow_rule(chosen.len());
                }
                chosen.iter().for_each(|i| split[g * m + i] = true);
            }
        }
        reduce_groups(gpu, &rule, rewards, m, &split)
    }
}

impl TeaGpdParams {
    /// TEA-GPD for groups of `m`, as [`Rule::group_rule`]; κ_L is tabulated, 128 values a unit of ξ with their slopes.
    ///
    /// # Errors
    /// A user error as [`TeaGpdParams::coefficients`], or when `m` is above [`MAX_GROUP`].
    pub fn group_rule(&self, m: usize) -> Result<GroupRule> {
        let c = self.coefficients(m)?;
        check_largest(m)?;
        Ok(GroupRule::TeaGpd {
            k: c.gaussian.tail_size,
            alpha: self.alpha.value(),
            kappa: c.gaussian.kappa,
            min_scale: self.min_scale,
            weight: c.weight,
            gaussian_skewness: c.gaussian_skewness,
            curve: pareto_shapes().map(|xi| c.curve.coefficient(xi)).collect(),
        })
    }
}

fn check_largest(m: usize) -> Result<()> {
    if m <= MAX_GROUP {
        return Ok(());
    }
    Err(Error::user(format!(
        "a group of {m} is too large for the GPU reductions, which take up to {MAX_GROUP} responses a prompt \
         (--num-generations)"
    )))
}

/// TEA's tail over prefixes of (size, weight).
fn tail_rule(params: &TeaParams, m: usize, terms: &[(usize, f64)]) -> Result<GroupRule> {
    let prefix = |&(size, weight): &(usize, f64)| Prefix {
        size,
        k: params.alpha.tail_size(size),
        weight,
    };
    Ok(GroupRule::Tea {
        alpha: params.alpha.value(),
        kappa: params.coefficients(m)?.kappa,
        min_scale: params.min_scale,
        prefixes: terms.iter().map(prefix).collect(),
    })
}

fn chow_rule(selected: usize) -> GroupRule {
    GroupRule::Chow {
        selected,
        tilt: chow::tilt(selected),
    }
}
