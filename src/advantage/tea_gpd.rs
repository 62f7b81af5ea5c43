//! TEA-GPD: tail-extrapolated advantages under a generalised Pareto tail (ours; derivation in docs/tea-gpd.md).
//!
//! TEA (arXiv 2605.10716, §3) extrapolates to best-of-N with the Gaussian tail's κ. Here the tail's shape ξ is fitted
//! too. Let T be the group's top `k = max(2, ⌈αm⌉)` rewards, q̂ = min T, and λ̂₁, λ̂₂, λ̂₃ the unbiased sample L-moments
//! (linear in probability-weighted moments) of the `n = k − 1` rewards of T above q̂. With τ̂₃ = λ̂₃/λ̂₂, shrunk by
//! `w = n/(n + n₀)` towards the Gaussian tail's value, `τ = w·τ̂₃ + (1−w)·τ_G`, `ξ = (3τ−1)/(1+τ)`:
//!
//! `V̂_N = λ̂₁ + κ_L(ξ)·λ̂₂` ([`mod@super::pareto`]), and with `c = κ_L′(ξ)·4/(1+τ)²`, by differentiating V̂ through λ̂₁, λ̂₂, λ̂₃,
//!
//! `ψ(r) = (1/α)·∫_q̂^r W(v(y)) dy`, `W(v) = 1 + (κ_L − w·c·τ̂₃)·(1 − 2v) + w·c·(6v² − 6v + 1)`,
//!
//! v(y) the share of the tail above y. On a sample the integral is a sum over spacings, in which v and v² leave out the
//! response whose score multiplies ψ, as in the unbiased moments. Then as in TEA: `u_i = max(ψ(r_i), 0)` in T and
//! 0 elsewhere, `A_i = u_i − mean(u)`. ψ is 0 at the threshold, so its motion adds no boundary term.
//!
//! Degenerate: a tail of equal rewards gives A = 0. Fewer than 3 rewards above q̂, no spread among them, ξ outside
//! `[LEAST_SHAPE, ½)` or κ_L ≤ 0: the Gaussian tail, that is plain TEA, which the group reports.

use serde::{Deserialize, Serialize};

use super::alpha::Alpha;
use super::pareto::{ParetoCurve, gaussian_skewness, l_moments, shape_of};
use super::pass::{Pass, pareto_shapes};
use super::rule::{Definition, Found};
use super::tail::Tail;
use super::tea::{self, TeaCoefficients, TeaParams};
use super::{GroupContext, RuleOptions};
use crate::error::{Error, Result};

/// A fitted ξ below this is no tail of rewards (at −1 the density is level up to an end point, below it rises).
pub const LEAST_SHAPE: f64 = -1.5;
/// A fitted ξ from here on has no variance.
pub const SHAPE_LIMIT: f64 = 0.5;
/// Fewest rewards above the threshold that have a third L-moment.
const LEAST_EXCESSES: usize = 3;

/// Settings of TEA-GPD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeaGpdParams {
    /// Tail share α in (0, ½].
    pub alpha: Alpha,
    /// Deployment budget N of best-of-N.
    pub bon: u64,
    /// Least spread that is taken for one, in reward units: λ̂₂ below it, and TEA's ŝ in a fallback.
    pub min_scale: f64,
    /// n₀: how many tail samples the Gaussian shape weighs in the estimate of ξ.
    pub shrinkage: f64,
}

impl TeaGpdParams {
    /// α = 0.2, N = 128, spread ≥ 1e-8, n₀ = 20.
    pub const DEFAULT: Self = Self {
        alpha: Alpha::DEFAULT,
        bon: 128,
        min_scale: 1e-8,
        shrinkage: 20.0,
    };

    /// These settings with the given ones in place of their own.
    pub fn with(self, options: &RuleOptions) -> Self {
        Self {
            alpha: options.alpha.unwrap_or(self.alpha),
            bon: options.bon.unwrap_or(self.bon),
            min_scale: options.min_scale.unwrap_or(self.min_scale),
            shrinkage: options.gpd_shrinkage.unwrap_or(self.shrinkage),
        }
    }

    /// The numbers of a group of `m` that depend on sizes alone.
    ///
    /// # Errors
    /// A user error as [`TeaParams::coefficients`], or when `shrinkage` is negative or not finite.
    pub fn coefficients(&self, m: usize) -> Result<TeaGpdCoefficients> {
        if !(self.shrinkage >= 0.0 && self.shrinkage.is_finite()) {
            return Err(Error::user(format!(
                "--gpd-shrinkage is {}: it must be 0 (trust the fitted shape) or more, such as 20",
                self.shrinkage
            )));
        }
        let gaussian = TeaParams {
            alpha: self.alpha,
            bon: self.bon,
            min_scale: self.min_scale,
        }
        .coefficients(m)?;
        let n = (gaussian.tail_size - 1) as f64;
        Ok(TeaGpdCoefficients {
            gaussian,
            weight: n / (n + self.shrinkage),
            gaussian_skewness: gaussian_skewness(self.alpha),
            curve: ParetoCurve::new(self.alpha, self.bon),
        })
    }
}

impl Definition for TeaGpdParams {
    fn summary(&self) -> &'static str {
        "TEA with a generalised Pareto tail in place of the Gaussian (docs/tea-gpd.md)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self::with(self, options)
    }

    fn validate(&self, m: usize) -> Result<()> {
        self.coefficients(m).map(drop)
    }

    /// κ_L is tabulated, 128 values a unit of ξ with their slopes.
    fn pass(&self, m: usize) -> Result<Pass> {
        let c = self.coefficients(m)?;
        Ok(Pass::Gpd {
            k: c.gaussian.tail_size,
            alpha: self.alpha.value(),
            kappa: c.gaussian.kappa,
            min_scale: self.min_scale,
            weight: c.weight,
            gaussian_skewness: c.gaussian_skewness,
            curve: pareto_shapes().map(|xi| c.curve.coefficient(xi)).collect(),
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        let group = advantages(rewards, self)?;
        let fell = group.fell_back();
        Ok(Found::of_tail(group.advantages, group.tail, group.kappa, self.alpha).fell_back(fell))
    }
}

impl Default for TeaGpdParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the reduction over a group needs besides the rewards, computed once in float64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TeaGpdCoefficients {
    /// TEA's, for k, 1/α and the fallback.
    pub gaussian: TeaCoefficients,
    /// w, the weight of the sample's L-skewness.
    pub weight: f64,
    /// τ_G, the Gaussian tail's L-skewness.
    pub gaussian_skewness: f64,
    /// κ_L(ξ).
    pub curve: ParetoCurve,
}

/// The generalised Pareto law fitted to a group's tail.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ParetoFit {
    /// ξ.
    pub shape: f64,
    /// λ̂₁: mean of the rewards above the threshold, counted from the group's maximum.
    pub mean: f64,
    /// λ̂₂: half their mean absolute difference.
    pub l_scale: f64,
    /// κ_L(ξ).
    pub kappa: f64,
    /// Factor of `1 − 2v` in W.
    pub linear: f64,
    /// Factor of `6v² − 6v + 1` in W.
    pub quadratic: f64,
}

impl ParetoFit {
    /// Fits the tail (k,), sorted from the largest down; `None` where the Gaussian tail stands in.
    pub fn new(tail: &[f64], c: &TeaGpdCoefficients) -> Option<Self> {
        let above = &tail[..tail.len() - 1];
        if above.len() < LEAST_EXCESSES {
            return None;
        }
        let [mean, l_scale, third] = l_moments(above);
        if l_scale <= c.gaussian.min_scale {
            return None;
        }
        let raw = third / l_scale;
        let skewness = c.weight * raw + (1.0 - c.weight) * c.gaussian_skewness;
        let shape = shape_of(skewness);
        if !(LEAST_SHAPE..SHAPE_LIMIT).contains(&shape) {
            return None;
        }
        let (kappa, slope) = c.curve.coefficient(shape);
        let quadratic = c.weight * slope * 4.0 / ((1.0 + skewness) * (1.0 + skewness));
        (kappa > 0.0).then_some(Self {
            shape,
            mean,
            l_scale,
            kappa,
            linear: kappa - quadratic * raw,
            quadratic,
        })
    }

    /// The surrogate V̂_N, counted from the group's maximum.
    pub fn best_of_n(&self) -> f64 {
        self.mean + self.kappa * self.l_scale
    }

    /// W at the spacing below the `rank`-th largest (from 1) of `n` rewards above the threshold; v leaves one out.
    fn slope(&self, rank: usize, n: usize) -> f64 {
        let (i, n) = (rank as f64, n as f64);
        let v = (i - 1.0) / (n - 1.0);
        let square = v * (i - 2.0) / (n - 2.0);
        1.0 + self.linear * (1.0 - 2.0 * v) + self.quadratic * (6.0 * square - 6.0 * v + 1.0)
    }

    /// ψ (k,) of a tail sorted from the largest down.
    pub fn psi(&self, tail: &[f64], inv_alpha: f64) -> Vec<f64> {
        let n = tail.len() - 1;
        let (mut out, mut sum) = (vec![0.0; tail.len()], 0.0);
        for i in (0..n).rev() {
            sum += (tail[i] - tail[i + 1]) * self.slope(i + 1, n);
            out[i] = inv_alpha * sum;
        }
        out
    }
}

/// Scores u (m,) of one group of rewards (m,) with the fit; `None` where TEA's Gaussian tail stood in.
///
/// Ties at the threshold enter the tail in order of the sample index.
pub fn scores(rewards: &[f64], c: &TeaGpdCoefficients) -> (Vec<f64>, Option<ParetoFit>) {
    let below = super::below_maximum(rewards);
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&i, &j| below[j].total_cmp(&below[i])); // stable
    order.truncate(c.gaussian.tail_size);
    let tail: Vec<f64> = order.iter().map(|&i| below[i]).collect();
    let Some(fit) = ParetoFit::new(&tail, c) else {
        return (tea::scores(rewards, &c.gaussian), None);
    };
    let mut out = vec![0.0; rewards.len()];
    for (&i, psi) in order.iter().zip(fit.psi(&tail, c.gaussian.inv_alpha)) {
        out[i] = psi.max(0.0);
    }
    (out, Some(fit))
}

/// One group's advantages under TEA-GPD.
#[derive(Debug, Clone, PartialEq)]
pub struct TeaGpdGroup {
    /// Advantages (m,).
    pub advantages: Vec<f64>,
    /// The tail's threshold, mean and standard deviation.
    pub tail: Tail,
    /// What κ would have to be for `μ̂ + κŝ` to be the prediction: TEA's own where the Gaussian tail stood in.
    pub kappa: f64,
    /// The fit; `None` where the Gaussian tail stood in.
    pub fit: Option<ParetoFit>,
}

impl TeaGpdGroup {
    /// Whether the Gaussian tail stood in for a fit; a tail of equal rewards needs none.
    pub fn fell_back(&self) -> bool {
        self.fit.is_none() && self.tail.sigma > 0.0
    }
}

/// Advantages (m,) of one group of finite rewards (m,), the tail they came from and the fitted law.
///
/// # Errors
/// As [`TeaGpdParams::coefficients`].
pub fn advantages(rewards: &[f64], params: &TeaGpdParams) -> Result<TeaGpdGroup> {
    let c = params.coefficients(rewards.len())?;
    let (mut u, fit) = scores(rewards, &c);
    super::centre(&mut u);
    let tail = Tail::fit(rewards, params.alpha);
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let kappa = match fit {
        Some(fit) if tail.sigma > 0.0 => (fit.best_of_n() - (tail.mu - top)) / tail.sigma,
        _ => c.gaussian.kappa,
    };
    Ok(TeaGpdGroup {
        advantages: u,
        tail,
        kappa,
        fit,
    })
}

#[cfg(test)]
#[path = "tea_gpd_tests.rs"]
mod tests;
