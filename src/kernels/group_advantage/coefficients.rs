//! Numbers that depend on sizes alone, in float64: L-moment factors, κ_L's cubics.

use crate::advantage::pass::{SHAPE_INTERVALS, SHAPES};

/// For each gap s_t − s_{t−1} of the ascending rewards (m), where i = m − t of the n = k − 1 rewards above the threshold
/// lie above the gap: its factors in λ₂ and λ₃, and the two polynomials of the score's slope,
///
/// `[i(n−i)/(n(n−1)), i(n−i)(n−2i)/(n(n−1)(n−2)), 1 − 2v, 6v₂ − 6v + 1]`, `v = (i−1)/(n−1)`, `v₂ = v·(i−2)/(n−2)`.
///
/// The L-moments are the sample's unbiased ones (means over pairs and triples), written as sums over gaps. All 0 outside
/// the tail, and where fewer than 3 rewards lie above the threshold: λ₂ is then 0 and the Gaussian tail stands in.
pub(super) fn spacing_factors(m: usize, k: usize) -> Vec<[f64; 4]> {
    let mut out = vec![[0.0; 4]; m];
    if k < 4 {
        return out;
    }
    let n = (k - 1) as f64;
    for (t, row) in out.iter_mut().enumerate().skip(m - k + 1) {
        let i = (m - t) as f64;
        let (v, second) = ((i - 1.0) / (n - 1.0), (i - 2.0) / (n - 2.0));
        let pairs = i * (n - i) / (n * (n - 1.0));
        *row = [
            pairs,
            pairs * (n - 2.0 * i) / (n - 2.0),
            1.0 - 2.0 * v,
            6.0 * v * second - 6.0 * v + 1.0,
        ];
    }
    out
}

/// Cubics c₀ + c₁t + c₂t² + c₃t³, t in 0 … 1 over each interval of ξ, through the values and slopes at its ends
/// (Hermite): within 1e-7 of κ_L and 1e-4 of its slope for N up to 2⁴⁰, far less at N ≤ 4096.
pub(super) fn shape_cubics(nodes: &[(f64, f64)]) -> Vec<[f64; 4]> {
    let step = (SHAPES.end - SHAPES.start) / SHAPE_INTERVALS as f64;
    let cubic = |w: &[(f64, f64)]| {
        let (value, slope) = (w[0].0, w[0].1 * step);
        let (rise, end) = (w[1].0 - value, w[1].1 * step);
        [
            value,
            slope,
            3.0 * rise - 2.0 * slope - end,
            slope + end - 2.0 * rise,
        ]
    };
    nodes.windows(2).map(cubic).collect()
}
