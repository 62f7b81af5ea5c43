//! The oracle's advantages: exact best-of-N under the law of a pool.

use crate::advantage::check_finite;
use crate::error::{Error, Result};

/// `O_i = E[max(r_i, M_{N−1})] − E[M_N]` (n,), where M_k is the best of k draws with replacement from the pool of
/// rewards (n,).
///
/// # Errors
/// A user error when N < 2, the pool is empty or a reward is not finite.
pub(super) fn advantages(rewards: &[f64], bon: u64) -> Result<Vec<f64>> {
    if bon < 2 {
        return Err(Error::user(format!("--bon is {bon}: best-of-N needs at least 2")));
    }
    if rewards.is_empty() {
        return Err(Error::user("a pool needs at least one reward"));
    }
    check_finite(rewards)?;
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sorted: Vec<f64> = rewards.iter().map(|r| r - top).collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    // P(M_k ≤ the j-th smallest), ties counted in full at their last place.
    let below = |j: usize, k: f64| libm::pow(j as f64 / n, k);
    let mass = |j: usize, k: f64| below(j + 1, k) - below(j, k);
    let (others, all) = (bon as f64 - 1.0, bon as f64);
    let best: f64 = sorted.iter().enumerate().map(|(j, r)| r * mass(j, all)).sum();
    // above[j] = Σ_{l ≥ j} r_(l) P(M_{N−1} = r_(l)).
    let mut above = vec![0.0; sorted.len() + 1];
    for j in (0..sorted.len()).rev() {
        above[j] = above[j + 1] + sorted[j] * mass(j, others);
    }
    let one = |r: &f64| {
        let r = r - top;
        let upto = sorted.partition_point(|s| *s <= r);
        r * below(upto, others) + above[upto] - best
    };
    Ok(rewards.iter().map(one).collect())
}
