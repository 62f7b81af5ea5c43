//! Chow's BoN-RL (arXiv 2412.15287, Lemma 2, with the group's mean as baseline).
//!
//! The group is split at random into a selection set S of n_s and a correction set C of n_c, n_s + n_c = m. With
//! `i* = argmax over S` (the lowest index on a tie) and `b = mean(r)` over the whole group,
//!
//! `A_{i*} = m·(r_{i*} − b)`;  `A_j = (m/n_c)·λ_{n_s}·1{r_j ≤ r_{i*}}·(r_{i*} − b)` for j in C;  others 0.
//!
//! λ_n is the exponential tilt of the uniform law on [0, 1] with best-of-n's KL divergence ([`tilt`]). The split uses the
//! sample index, never the order of completion. Degenerate: equal rewards give A = 0; so does `r_{i*} = b`.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::pass::Pass;
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, argmax, below_maximum};
use crate::error::{Error, Result};
use crate::rng::Stream;

/// The random stream of splits.
const SPLIT: u32 = 0x5711;

/// Settings of Chow's rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChowParams {
    /// n_s in 1 … m − 1: how many of the group the best is chosen from; half the group where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_size: Option<usize>,
}

impl ChowParams {
    /// n_s = m/2.
    pub const DEFAULT: Self = Self { selection_size: None };

    /// n_s for a group of `m`.
    pub fn size(&self, m: usize) -> usize {
        self.selection_size.unwrap_or(m / 2)
    }

    /// The reduction over groups of `m` whose selection set has `selected` samples.
    pub fn split_pass(m: usize, selected: usize) -> Pass {
        let all = m as f64;
        Pass::Split {
            selected,
            star: all,
            others: all / (m - selected) as f64 * tilt(selected),
        }
    }

    /// The selection set of a group of `m`, ascending: the context's own, or one drawn from its seed.
    ///
    /// # Errors
    /// A user error when the given set has an index twice or outside the group, is empty, leaves nothing, or has another
    /// size than the settings ask for.
    pub fn selection(&self, m: usize, context: &GroupContext<'_>) -> Result<Vec<usize>> {
        let Some(given) = context.selection else {
            return Ok(draw(m, self.size(m), context.key));
        };
        let mut chosen = given.to_vec();
        chosen.sort_unstable();
        if let Some(i) = chosen.iter().find(|&&i| i >= m) {
            return Err(Error::user(format!(
                "the selection holds index {i}, but the group has {m} rewards (indices 0 to {})",
                m - 1
            )));
        }
        if let Some(pair) = chosen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::user(format!(
                "the selection holds index {} twice",
                pair[0]
            )));
        }
        if chosen.is_empty() || chosen.len() == m {
            return Err(Error::user(format!(
                "the selection holds {} of {m} rewards: chow needs at least one inside it and one outside",
                chosen.len()
            )));
        }
        match self.selection_size {
            Some(size) if size != chosen.len() => Err(Error::user(format!(
                "the selection holds {} rewards, but --selection-size is {size}: leave out one of the two",
                chosen.len()
            ))),
            _ => Ok(chosen),
        }
    }
}

impl Definition for ChowParams {
    fn summary(&self) -> &'static str {
        "best of a random half, corrected on the other half (arXiv 2412.15287)"
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            selection_size: options.selection_size.or(self.selection_size),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        let size = self.size(m);
        if (1..m).contains(&size) {
            return Ok(());
        }
        Err(Error::user(format!(
            "--selection-size is {size}: chow splits a group of {m} into two parts that are not empty, so it must be 1 to {} \
             (the default is half the group)",
            m.saturating_sub(1)
        )))
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        Ok(Self::split_pass(m, self.size(m)))
    }

    fn selection(&self, m: usize, context: &GroupContext<'_>) -> Result<Vec<usize>> {
        Self::selection(self, m, context)
    }

    fn group(&self, rewards: &[f64], context: &GroupContext<'_>) -> Result<Found> {
        let selection = Self::selection(self, rewards.len(), context)?;
        Ok(advantages(rewards, &selection).into())
    }
}

/// `size` of `m` indices, each set equally likely, ascending.
fn draw(m: usize, size: usize, key: [u32; 2]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..m).collect();
    order.shuffle(&mut Stream::new(key, SPLIT));
    order.truncate(size);
    order.sort_unstable();
    order
}

/// λ_n: the root of `λe^λ/(e^λ − 1) − 1 − log((e^λ − 1)/λ) = log n − (n − 1)/n`; λ_1 = 0.
///
/// The left side is `λ·mean − log Z` of the density ∝ e^{λu} on [0, 1], its KL divergence from the uniform law; the right
/// side is best-of-n's. Found by bisection down to neighbouring floats.
pub fn tilt(n: usize) -> f64 {
    if n < 2 {
        return 0.0;
    }
    let n = n as f64;
    let target = libm::log(n) - (n - 1.0) / n;
    // The same left side without the cancellation of λ against log e^λ.
    let divergence = |x: f64| x / libm::expm1(x) - 1.0 + libm::log(x) - libm::log(-libm::expm1(-x));
    // Increasing in λ: near 0 at the lower end, above log 4n − 1 at the upper.
    let (mut low, mut high) = (1e-3, 4.0 * n);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if divergence(middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// Advantages (m,) of one group of finite rewards (m,) under a selection set of 1 … m − 1 indices, ascending.
pub fn advantages(rewards: &[f64], selection: &[usize]) -> Vec<f64> {
    let below = below_maximum(rewards);
    let m = below.len() as f64;
    let mut out = vec![0.0; below.len()];
    let Some(best) = argmax(&below, selection.iter().copied()) else {
        return out;
    };
    let lead = below[best] - below.iter().sum::<f64>() / m;
    let mut selected = vec![false; below.len()];
    selection.iter().for_each(|&i| selected[i] = true);
    let corrections = below.len() - selection.len();
    let correction = m / corrections as f64 * tilt(selection.len()) * lead;
    for (j, a) in out.iter_mut().enumerate() {
        if !selected[j] && below[j] <= below[best] {
            *a = correction;
        }
    }
    out[best] = m * lead;
    out
}
