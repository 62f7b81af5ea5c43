//! Prefix-TEA: TEA on nested prefixes of the group, combined so that the plug-in bias cancels to order p
//! (arXiv 2605.10716, §4).
//!
//! With α = a/b in lowest terms, the J prefix sizes `m_j = m − b·⌊(J − j)·m/(J·b)⌋`, j = 1 … J, share m's rounding offset of
//! ⌈αm⌉, and m_J = m. The weights w are the least-norm solution of `Σ_j w_j = 1`, `Σ_j w_j·(m/m_j)^l = 0` for l = 1 … p − 1. For
//! each j the tail statistics come from the first m_j rewards and `u_i^{(j)} = max(ψ(r_i), 0)` for i ≤ m_j, else 0; then
//!
//! `u_i = Σ_j w_j·(m/m_j)·u_i^{(j)}`,  `A_i = u_i − mean(u)`.
//!
//! A prefix is one of the sample **index**: short responses finish first, so the order of completion would bias it. The
//! rule is therefore not permutation-equivariant. Degenerate: where every prefix has a flat tail, no signal and A = 0.

use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::tail::Tail;
use super::{Alpha, GroupContext, RuleOptions, TeaParams, tea};
use crate::error::{Error, Result};

/// Settings of Prefix-TEA.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixTeaParams {
    /// Tail share α in (0, ½].
    pub alpha: Alpha,
    /// Deployment budget N of best-of-N.
    pub bon: u64,
    /// Lower bound of a tail's standard deviation, in reward units.
    pub min_scale: f64,
    /// Order p: the bias terms 1/m … 1/m^{p−1} cancel.
    pub prefix_order: usize,
    /// Number of prefixes J ≥ p.
    pub prefixes: usize,
}

impl PrefixTeaParams {
    /// TEA's defaults, p = 2, J = 2.
    pub const DEFAULT: Self = Self {
        alpha: TeaParams::DEFAULT.alpha,
        bon: TeaParams::DEFAULT.bon,
        min_scale: TeaParams::DEFAULT.min_scale,
        prefix_order: 2,
        prefixes: 2,
    };

    /// The settings of each prefix's TEA.
    pub fn tea(&self) -> TeaParams {
        TeaParams {
            alpha: self.alpha,
            bon: self.bon,
            min_scale: self.min_scale,
        }
    }

    /// Prefix sizes and weights for groups of `m`.
    ///
    /// # Errors
    /// As [`PrefixPlan::new`].
    pub fn plan(&self, m: usize) -> Result<PrefixPlan> {
        PrefixPlan::new(m, self.alpha, self.prefix_order, self.prefixes)
    }
}

impl Definition for PrefixTeaParams {
    fn summary(&self) -> &'static str {
        "TEA on nested prefixes, combined to cancel its bias (arXiv 2605.10716)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        let tea = self.tea().with(options);
        Self {
            alpha: tea.alpha,
            bon: tea.bon,
            min_scale: tea.min_scale,
            prefix_order: options.prefix_order.unwrap_or(self.prefix_order),
            prefixes: options.prefixes.unwrap_or(self.prefixes),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        self.tea().coefficients(m)?;
        self.plan(m).map(drop)
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        self.tea().tail_pass(m, self.plan(m)?.terms())
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        let (advantages, tail, kappa) = advantages(rewards, self)?;
        Ok(Found::of_tail(advantages, tail, kappa, self.alpha))
    }
}

impl Default for PrefixTeaParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The prefixes of a group and how they are combined.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixPlan {
    /// m_1 < … < m_J = m.
    pub sizes: Vec<usize>,
    /// w (J,): sum 1.
    pub weights: Vec<f64>,
}

impl PrefixPlan {
    /// The plan for a group of `m` with `prefixes` prefixes J at order p.
    ///
    /// # Errors
    /// A user error: p < 1, J < p, sizes not distinct or a prefix with fewer than 2 tail samples (naming the least m
    /// that works), or an order whose weights floating point cannot resolve.
    pub fn new(m: usize, alpha: Alpha, order: usize, prefixes: usize) -> Result<Self> {
        if order == 0 {
            return Err(Error::user(
                "--prefix-order is 0: it must be at least 1 (the default is 2)",
            ));
        }
        if prefixes < order {
            return Err(Error::user(format!(
                "--prefixes is {prefixes}, which is too few for --prefix-order {order}: there must be at least as many prefixes as the order"
            )));
        }
        let least = least_group(alpha, prefixes);
        if (m as u128) < least {
            return Err(Error::user(format!(
                "a group of {m} is too small for {prefixes} prefixes at alpha = {alpha}: each prefix needs another size and 2 tail \
                 samples, so the group (--num-generations) must have at least {least} responses; or use a larger alpha or \
                 fewer --prefixes"
            )));
        }
        let b = alpha.denominator() as usize;
        // J·b ≤ m here, so nothing overflows.
        let size = |j: usize| m - b * ((prefixes - j) as u128 * m as u128 / (prefixes * b) as u128) as usize;
        let sizes: Vec<usize> = (1..=prefixes).map(size).collect();
        let ratios: Vec<f64> = sizes.iter().map(|&s| m as f64 / s as f64).collect();
        let weights = least_norm_weights(&ratios, order).ok_or_else(|| {
            Error::user(format!(
                "--prefix-order {order} is too high for {prefixes} prefixes of a group of {m}: the weights are lost in rounding; use a \
                 lower order"
            ))
        })?;
        Ok(Self { sizes, weights })
    }

    /// `(m_j, w_j·m/m_j)` for each prefix: how its scores enter the sum.
    pub fn terms(&self) -> impl Iterator<Item = (usize, f64)> {
        let m = self.sizes.last().copied().unwrap_or(0) as f64;
        self.sizes
            .iter()
            .zip(&self.weights)
            .map(move |(&size, w)| (size, w * m / size as f64))
    }
}

/// The least group that J prefixes fit in at this α; all larger ones fit too.
///
/// Sizes are distinct exactly when m ≥ J·b. Then m_1 ≥ m/J ≥ b, and its tail ⌈a·m_1/b⌉ has 2 samples unless a = 1 and
/// m_1 = b, that is m = J·b. One prefix alone needs a·m > b.
fn least_group(alpha: Alpha, prefixes: usize) -> u128 {
    let (a, b) = (u128::from(alpha.numerator()), u128::from(alpha.denominator()));
    match prefixes {
        1 => b / a + 1,
        _ => prefixes as u128 * b + u128::from(a == 1),
    }
}

/// The least-norm w with Σ w = 1 that is orthogonal to x, …, x^{p−1}; `None` where rounding leaves nothing of it.
///
/// The part v of the vector of ones outside the span of those powers, scaled: w = v/‖v‖². The span gets an orthonormal
/// basis from products with x (Arnoldi), which stays accurate where the powers themselves are nearly parallel.
fn least_norm_weights(x: &[f64], order: usize) -> Option<Vec<f64>> {
    const LOST: f64 = 1e-9;
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut next = vec![1.0; x.len()];
    for _ in 1..order {
        next.iter_mut().zip(x).for_each(|(v, x)| *v *= x);
        let before = norm(&next);
        subtract(&mut next, &basis);
        let after = norm(&next);
        if after <= LOST * before {
            return None;
        }
        next.iter_mut().for_each(|v| *v /= after);
        basis.push(next.clone());
    }
    let mut v = vec![1.0; x.len()];
    let before = norm(&v);
    subtract(&mut v, &basis);
    let after = norm(&v);
    if after <= LOST * before {
        return None;
    }
    v.iter_mut().for_each(|w| *w /= after * after);
    Some(v)
}

/// Takes the parts along an orthonormal basis out of `v`, twice: once leaves rounding behind.
fn subtract(v: &mut [f64], basis: &[Vec<f64>]) {
    for q in basis.iter().chain(basis) {
        let along: f64 = v.iter().zip(q).map(|(a, b)| a * b).sum();
        v.iter_mut().zip(q).for_each(|(a, b)| *a -= along * b);
    }
}

fn norm(v: &[f64]) -> f64 {
    libm::sqrt(v.iter().map(|x| x * x).sum())
}

/// Advantages (m,) of one group of finite rewards (m,), the whole group's tail, and κ.
///
/// # Errors
/// As [`Rule::validate`](super::Rule::validate).
pub fn advantages(rewards: &[f64], params: &PrefixTeaParams) -> Result<(Vec<f64>, Tail, f64)> {
    let whole = params.tea().coefficients(rewards.len())?;
    let mut u = vec![0.0; rewards.len()];
    for (size, weight) in params.plan(rewards.len())?.terms() {
        let prefix = tea::TeaCoefficients {
            tail_size: params.alpha.tail_size(size),
            ..whole
        };
        let scores = tea::scores(&rewards[..size], &prefix);
        u.iter_mut().zip(scores).for_each(|(u, s)| *u += weight * s);
    }
    super::centre(&mut u);
    Ok((u, Tail::fit(rewards, params.alpha), whole.kappa))
}
