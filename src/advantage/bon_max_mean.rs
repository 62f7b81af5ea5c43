//! BoN-max mean: only the group's best response learns, `A_{i*} = r_{i*} − mean(r)`, others 0 (a baseline of TEA,
//! arXiv 2605.10716).
//!
//! `i* = argmax r`, the lowest index on a tie. Degenerate: equal rewards give A = 0.

use super::{argmax, below_maximum};

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let below = below_maximum(rewards);
    let mean = below.iter().sum::<f64>() / below.len() as f64;
    let mut out = vec![0.0; below.len()];
    if let Some(best) = argmax(&below, 0..below.len()) {
        // Counted from the maximum, the best reward is 0.
        out[best] = 0.0 - mean;
    }
    out
}
