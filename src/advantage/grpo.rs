//! GRPO without scaling: `A_i = r_i − mean(r)` (arXiv 2402.03300; unscaled as in Dr. GRPO, arXiv 2503.20783).
//!
//! Degenerate: equal rewards give A = 0.

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let mut out = super::below_maximum(rewards);
    super::centre(&mut out);
    out
}
