//! TEA: tail-extrapolated advantages (arXiv 2605.10716, §3).
//!
//! With the group's top `k = max(2, ⌈αm⌉)` rewards as tail T, q̂ = min T, μ̂ = mean T, ŝ = population sd of T and
//! κ = κ(α, N), the tail-shaped reward is
//!
//! `ψ(r) = (1/α)·1{r ∈ T}·[(r − q̂) + κ/(2ŝ)·((r − μ̂)² − (q̂ − μ̂)²)]`,
//!
//! the score is its positive part, `u_i = max(ψ(r_i), 0)`, and `A_i = u_i − mean(u)`. ψ is 0 at the threshold, so
//! ties across it change nothing. Degenerate: a tail of equal rewards gives u = 0, no signal and A = 0.

use serde::{Deserialize, Serialize};

use super::alpha::Alpha;
use super::pass::{Pass, Prefix};
use super::rule::{Definition, Found};
use super::tail::{Tail, training_kappa};
use super::{GroupContext, RuleOptions};
use crate::error::{Error, Result};

/// Settings of TEA and of the rules that share its tail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeaParams {
    /// Tail share α in (0, ½].
    pub alpha: Alpha,
    /// Deployment budget N of best-of-N.
    pub bon: u64,
    /// Lower bound of the tail's standard deviation ŝ, in reward units.
    pub min_scale: f64,
}

impl TeaParams {
    /// α = 0.2, N = 128, ŝ ≥ 1e-8.
    pub const DEFAULT: Self = Self {
        alpha: Alpha::DEFAULT,
        bon: 128,
        min_scale: 1e-8,
    };

    /// The numbers of a group of `m` that depend on sizes alone.
    ///
    /// # Errors
    /// A user error when m < 2, N < 2, κ ≤ 0 or `min_scale` is not positive.
    pub fn coefficients(&self, m: usize) -> Result<TeaCoefficients> {
        super::check_group_size(m)?;
        if !(self.min_scale > 0.0 && self.min_scale.is_finite()) {
            return Err(Error::user(format!(
                "--min-scale is {}: it must be a positive number such as 1e-8",
                self.min_scale
            )));
        }
        Ok(TeaCoefficients {
            tail_size: self.alpha.tail_size(m),
            kappa: training_kappa(self.alpha, self.bon)?,
            inv_alpha: 1.0 / self.alpha.value(),
            min_scale: self.min_scale,
        })
    }
}

impl Definition for TeaParams {
    fn summary(&self) -> &'static str {
        "tail-extrapolated advantages for best-of-N (arXiv 2605.10716)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            alpha: options.alpha.unwrap_or(self.alpha),
            bon: options.bon.unwrap_or(self.bon),
            min_scale: options.min_scale.unwrap_or(self.min_scale),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        self.coefficients(m).map(drop)
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        self.tail_pass(m, [(m, 1.0)])
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        let (advantages, tail, kappa) = advantages(rewards, self)?;
        Ok(Found::of_tail(advantages, tail, kappa, self.alpha))
    }
}

impl Default for TeaParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the reduction over a group needs besides the rewards, computed once in float64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeaCoefficients {
    /// k, the number of tail samples.
    pub tail_size: usize,
    /// κ(α, N) > 0.
    pub kappa: f64,
    /// 1/α.
    pub inv_alpha: f64,
    /// Lower bound of ŝ.
    pub min_scale: f64,
}

impl TeaParams {
    /// The reduction over groups of `m`, the tail taken over prefixes of (size, weight).
    ///
    /// # Errors
    /// As [`TeaParams::coefficients`].
    pub(super) fn tail_pass(&self, m: usize, terms: impl IntoIterator<Item = (usize, f64)>) -> Result<Pass> {
        let prefix = |(size, weight)| Prefix {
            size,
            k: self.alpha.tail_size(size),
            weight,
        };
        Ok(Pass::Tail {
            alpha: self.alpha.value(),
            kappa: self.coefficients(m)?.kappa,
            min_scale: self.min_scale,
            prefixes: terms.into_iter().map(prefix).collect(),
        })
    }
}

/// Scores u (m,) of one group of rewards (m,): the positive part of ψ, zero outside the tail.
///
/// Ties at the threshold enter the tail in order of the sample index.
pub fn scores(rewards: &[f64], c: &TeaCoefficients) -> Vec<f64> {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&i, &j| rewards[j].total_cmp(&rewards[i])); // stable
    order.truncate(c.tail_size);
    let k = order.len() as f64;
    let mut out = vec![0.0; rewards.len()];
    let q = rewards[order[order.len() - 1]] - top;
    if q == 0.0 {
        return out;
    }
    let mu = order.iter().map(|&i| rewards[i] - top).sum::<f64>() / k;
    let variance = order
        .iter()
        .map(|&i| (rewards[i] - top - mu) * (rewards[i] - top - mu))
        .sum::<f64>()
        / k;
    let scale = libm::sqrt(variance).max(c.min_scale);
    for &i in &order {
        let r = rewards[i] - top;
        let quadratic = (r - mu) * (r - mu) - (q - mu) * (q - mu);
        out[i] = (c.inv_alpha * ((r - q) + c.kappa / (2.0 * scale) * quadratic)).max(0.0);
    }
    out
}

/// Advantages (m,) of one group of finite rewards (m,), and the tail they came from.
///
/// # Errors
/// As [`TeaParams::coefficients`].
pub fn advantages(rewards: &[f64], params: &TeaParams) -> Result<(Vec<f64>, Tail, f64)> {
    let c = params.coefficients(rewards.len())?;
    let mut u = scores(rewards, &c);
    super::centre(&mut u);
    Ok((u, Tail::fit(rewards, params.alpha), c.kappa))
}
