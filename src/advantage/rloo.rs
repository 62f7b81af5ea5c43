//! RLOO: each reward less the mean of the others, `A_i = m/(m − 1)·(r_i − mean(r))` (arXiv 2402.14740).
//!
//! Degenerate: equal rewards give A = 0.

use super::grpo;
use super::pass::Pass;

/// m/(m − 1).
fn factor(m: usize) -> f64 {
    m as f64 / (m - 1) as f64
}

/// Advantages (m,) of one group of finite rewards (m,), m ≥ 2.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let factor = factor(rewards.len());
    let mut out = grpo::advantages(rewards);
    out.iter_mut().for_each(|a| *a *= factor);
    out
}

/// The reduction over groups of `m`.
pub(super) fn pass(m: usize) -> Pass {
    Pass::Centre {
        factor: factor(m),
        eps: None,
    }
}
