//! The loss of a preference pair.

/// Bradley-Terry loss −log σ(margin) and its slope in the margin.
pub fn bradley_terry(margin: f64) -> (f64, f64) {
    // softplus(−margin), stable on both sides.
    let loss = (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
    (loss, -1.0 / (1.0 + margin.exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bradley_terry_is_stable() {
        for m in [-800.0, -3.0, 0.0, 2.0, 800.0] {
            let (loss, slope) = bradley_terry(m);
            assert!(loss.is_finite() && slope.is_finite() && loss >= 0.0);
            let h = 1e-5;
            let numeric = (bradley_terry(m + h).0 - bradley_terry(m - h).0) / (2.0 * h);
            assert!((numeric - slope).abs() < 1e-6, "{m}");
        }
    }
}
