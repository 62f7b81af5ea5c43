//! The max@K transform: means of maxima over the K-subsets of a group, in closed form by sorting.
//!
//! With rewards sorted ascending, r₍₁₎ … r₍ₘ₎, the mean over the K-subsets that contain i of the subset's maximum is
//!
//! `t₍ᵢ₎ = [ C(i−1, K−1)·r₍ᵢ₎ + Σ_{j>i} C(j−2, K−2)·r₍ⱼ₎ ] / C(m−1, K−1)`   (arXiv 2510.23393).
//!
//! Neighbours in that order differ by `t₍ᵢ₊₁₎ − t₍ᵢ₎ = c_i·(r₍ᵢ₊₁₎ − r₍ᵢ₎)` with `c_i = C(i−1, K−1)/C(m−1, K−1)`, since
//! `C(i, K−1) − C(i−1, K−2) = C(i−1, K−1)`. Everything here sums such terms: they depend on differences of rewards alone,
//! all have one sign, and equal rewards get equal values.

use crate::error::{Error, Result};

/// `C(i−1, K−1)/C(m−1, K−1)` for i = 1 … m: the share of the K-subsets containing the i-th smallest whose largest it is.
///
/// A product of ratios from the top down, so nothing overflows; the relative error is below 2m roundings (1e-12 at
/// m = 4096). Needs 1 ≤ K ≤ m.
pub fn largest_shares(m: usize, k: usize) -> Vec<f64> {
    let mut out = vec![0.0; m];
    let mut share = 1.0;
    for i in (k..=m).rev() {
        out[i - 1] = share;
        if i > 1 {
            // C(i−2, K−1) = C(i−1, K−1)·(i − K)/(i − 1)
            share = share * (i - k) as f64 / (i - 1) as f64;
        }
    }
    out
}

/// Indices of the rewards from the smallest to the largest; equal rewards in order of the index.
pub(crate) fn ascending(rewards: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&i, &j| rewards[i].total_cmp(&rewards[j])); // stable
    order
}

/// t (m,) less the group's maximum: 0 for the best reward, never positive. Needs 1 ≤ K ≤ m.
pub fn max_at_k(rewards: &[f64], k: usize) -> Vec<f64> {
    let (m, order) = (rewards.len(), ascending(rewards));
    let shares = largest_shares(m, k);
    let (mut out, mut value) = (vec![0.0; m], 0.0);
    for i in (1..m).rev() {
        value -= shares[i - 1] * (rewards[order[i]] - rewards[order[i - 1]]);
        out[order[i - 1]] = value;
    }
    out
}

/// Steps (m) of t over the ascending rewards: with l rewards below a gap, the share of the K-subsets around one of them
/// that lie below it whole. Needs 1 ≤ K ≤ m.
pub(crate) fn steps_of_max_at_k(m: usize, k: usize) -> impl Iterator<Item = f64> {
    let shares = largest_shares(m, k).into_iter().take(m - 1);
    std::iter::once(0.0).chain(shares)
}

/// Refuses a subset size that a rule does not take in a group of `m`.
pub(crate) fn check_size(k: usize, sizes: std::ops::RangeInclusive<usize>, m: usize) -> Result<()> {
    if sizes.contains(&k) {
        return Ok(());
    }
    Err(Error::user(format!(
        "--max-at-k is {k}: subsets of a group of {m} rewards have {} to {} members here (the default is half the group)",
        sizes.start(),
        sizes.end()
    )))
}
