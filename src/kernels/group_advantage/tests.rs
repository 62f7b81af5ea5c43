//! Factors against definitions. Golden cases, many groups and refusals are in `tests/advantage_gpu.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::coefficients::spacing_factors;

/// λ₂ and λ₃ as sums over gaps against means over pairs and triples.
#[test]
fn spacing_factors_give_l_moments() {
    let ascending = [-3.0, -1.0, 0.5, 1.0, 4.0, 7.5, 7.5, 9.0]; // the tail's threshold is 0.5
    let (m, k) = (ascending.len(), 6);
    let above = &ascending[m - k + 1..];
    let (mut l2, mut l3, mut pairs, mut triples) = (0.0, 0.0, 0.0, 0.0);
    for (i, a) in above.iter().enumerate() {
        for (j, b) in above.iter().enumerate().skip(i + 1) {
            (l2, pairs) = (l2 + (b - a) / 2.0, pairs + 1.0);
            for c in &above[j + 1..] {
                (l3, triples) = (l3 + (c - 2.0 * b + a) / 3.0, triples + 1.0);
            }
        }
    }
    let factors = spacing_factors(m, k);
    let sum = |column: usize| {
        let gaps = (1..m).map(|t| factors[t][column] * (ascending[t] - ascending[t - 1]));
        gaps.sum::<f64>()
    };
    assert!((sum(0) - l2 / pairs).abs() < 1e-14, "{} {}", sum(0), l2 / pairs);
    assert!(
        (sum(1) - l3 / triples).abs() < 1e-14,
        "{} {}",
        sum(1),
        l3 / triples
    );
}
