//! BoN-max second: only the group's best response learns, by its lead, `A_{i*} = r_{i*} − r_second`, others 0 (a
//! baseline of TEA, arXiv 2605.10716).
//!
//! `i* = argmax r`, the lowest index on a tie. Degenerate: two best rewards that are equal, and so equal rewards,
//! give A = 0.

use super::{argmax, below_maximum};

/// Advantages (m,) of one group of finite rewards (m,).
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let below = below_maximum(rewards);
    let mut out = vec![0.0; below.len()];
    if let Some(best) = argmax(&below, 0..below.len()) {
        let others = (0..below.len()).filter(|&i| i != best);
        if let Some(second) = argmax(&below, others) {
            out[best] = 0.0 - below[second];
        }
    }
    out
}
