//! The generalised Pareto tail: its best-of-N coefficient and its L-moments (docs/tea-gpd.md).
//!
//! Above the upper-α quantile q the excess x = r − q has survival function `(1 + ξx/σ)^(−1/ξ)` (`exp(−x/σ)` at ξ = 0).
//! With U the least of N uniform levels, best-of-N lies `σ·((U/α)^(−ξ) − 1)/ξ` above q, so its mean excess is σ·G(ξ):
//!
//! `G(ξ) = (e^f − 1)/ξ`, `f(ξ) = ξ ln α − Σ_{j=1..N} ln(1 − ξ/j) = ln[α^ξ Γ(N+1) Γ(1−ξ)/Γ(N+1−ξ)]`.
//!
//! With the tail's first two L-moments, λ₁ = q + σ/(1−ξ) and λ₂ = σ/((1−ξ)(2−ξ)), the threshold drops out:
//! `V_N = λ₁ + κ_L(ξ)·λ₂`, `κ_L(ξ) = (2−ξ)·((1−ξ)·G(ξ) − 1)`: κ_L does for λ₂ what κ does for the standard deviation.

use super::alpha::Alpha;
use super::last::Last;
use super::tail::{normal_isf, normal_pdf, normal_sf};

/// Factors of the product over j that are taken one by one; the others enter through power sums.
const DIRECT: u64 = 16;
/// Power sums kept: with |ξ| ≤ 2 the terms fall by 17/2 a step, and 20 of them reach rounding.
const POWERS: usize = 20;
/// Below this |ξ| power series are used, above it closed forms: both are exact to rounding here.
const SERIES: f64 = 0.1;

/// κ_L(ξ) and its derivative for one (α, N).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParetoCurve {
    log_alpha: f64,
    /// min(N, [`DIRECT`]).
    direct: u32,
    /// `Σ_{j > DIRECT} j^−k` up to N, at index k − 1.
    rest: [f64; POWERS],
    /// `Σ_{j ≥ 1} j^−k` up to N, at index k − 1.
    whole: [f64; POWERS],
}

impl ParetoCurve {
    /// The curve of best-of-`n` (at least 1) with a tail of share α. A thread remembers its last one.
    pub fn new(alpha: Alpha, n: u64) -> Self {
        thread_local! {
            static LAST: Last<(Alpha, u64), ParetoCurve> = const { Last::new() };
        }
        LAST.with(|last| last.get((alpha, n), || Self::compute(alpha, n)))
    }

    fn compute(alpha: Alpha, n: u64) -> Self {
        let direct = n.min(DIRECT);
        let power = |k: usize| k as i32 + 1;
        Self {
            log_alpha: libm::log(alpha.value()),
            direct: direct as u32,
            rest: std::array::from_fn(|k| power_sum(direct, n, power(k))),
            whole: std::array::from_fn(|k| power_sum(0, n, power(k))),
        }
    }

    /// G(ξ) and G′(ξ): the mean excess of best-of-N over the threshold in units of σ, for ξ in [−2, 1).
    pub fn excess(&self, shape: f64) -> (f64, f64) {
        if shape.abs() < SERIES {
            return self.excess_near_zero(shape);
        }
        let (mut f, mut slope) = (shape * self.log_alpha, self.log_alpha);
        for j in 1..=self.direct {
            let j = f64::from(j);
            f -= libm::log1p(-shape / j);
            slope += 1.0 / (j - shape);
        }
        let mut power = 1.0; // ξ^(k−1)
        for (i, sum) in self.rest.iter().enumerate() {
            slope += power * sum;
            power *= shape;
            f += power * sum / (i as f64 + 1.0);
        }
        let value = libm::expm1(f) / shape;
        (value, (slope * libm::exp(f) - value) / shape)
    }

    /// `G = s·E(ξs)` with `s = f/ξ` and `E(x) = (e^x − 1)/x`, both as power series.
    fn excess_near_zero(&self, shape: f64) -> (f64, f64) {
        let (mut s, mut ds, mut power) = (self.log_alpha + self.whole[0], 0.0, 1.0); // ξ^(k−2)
        for (i, sum) in self.whole.iter().enumerate().skip(1) {
            let k = i as f64 + 1.0;
            ds += (k - 1.0) / k * power * sum;
            power *= shape;
            s += power * sum / k;
        }
        let x = shape * s;
        let (mut e, mut de, mut term) = (1.0, 0.0, 1.0); // term = x^(n−1)/n!
        for n in 1..60 {
            let n = f64::from(n);
            term /= n + 1.0;
            de += n * term;
            term *= x;
            e += term;
        }
        (s * e, ds * e + s * de * (s + shape * ds))
    }

    /// κ_L(ξ) and κ_L′(ξ), for ξ in [−2, 1).
    pub fn coefficient(&self, shape: f64) -> (f64, f64) {
        let (g, dg) = self.excess(shape);
        let inner = (1.0 - shape) * g - 1.0;
        (
            (2.0 - shape) * inner,
            -inner + (2.0 - shape) * ((1.0 - shape) * dg - g),
        )
    }
}

/// `Σ_{after < j ≤ n} j^−k`: the first terms one by one, the rest by Euler and Maclaurin's formula.
fn power_sum(after: u64, n: u64, k: i32) -> f64 {
    const ONE_BY_ONE: u64 = 256;
    let near = n.min(ONE_BY_ONE).max(after);
    let inverse = |x: f64, k: i32| 1.0 / libm::pow(x, f64::from(k));
    let sum: f64 = (after + 1..=near).rev().map(|j| inverse(j as f64, k)).sum();
    if n <= near {
        return sum;
    }
    let (a, b, order) = (near as f64, n as f64, f64::from(k));
    let integral = if k == 1 {
        libm::log(b / a)
    } else {
        (inverse(a, k - 1) - inverse(b, k - 1)) / (order - 1.0)
    };
    let first = order * (inverse(a, k + 1) - inverse(b, k + 1)) / 12.0;
    let third = order * (order + 1.0) * (order + 2.0) * (inverse(a, k + 3) - inverse(b, k + 3)) / 720.0;
    sum + integral + 0.5 * (inverse(b, k) - inverse(a, k)) + first - third
}

/// The first three L-moments of a sample sorted from the largest down (at least three values), from its unbiased
/// probability-weighted moments `b_j = mean of r·v^j`, v the share of the others above r.
pub fn l_moments(descending: &[f64]) -> [f64; 3] {
    let n = descending.len() as f64;
    let mut b = [0.0; 3];
    for (i, r) in descending.iter().enumerate() {
        let i = i as f64;
        b[0] += r;
        b[1] += r * i / (n - 1.0);
        b[2] += r * i * (i - 1.0) / ((n - 1.0) * (n - 2.0));
    }
    let [b0, b1, b2] = b.map(|b| b / n);
    [b0, b0 - 2.0 * b1, b0 - 6.0 * b1 + 6.0 * b2]
}

/// ξ of the generalised Pareto law with L-skewness `τ = λ₃/λ₂ = (1+ξ)/(3−ξ)`; −∞ at τ = −1.
pub fn shape_of(skewness: f64) -> f64 {
    (3.0 * skewness - 1.0) / (1.0 + skewness)
}

/// L-skewness of the normal law's upper-α tail (0.248 at α = 0.2): the shape that Gaussian rewards have.
pub fn gaussian_skewness(alpha: Alpha) -> f64 {
    thread_local! {
        static LAST: Last<Alpha, f64> = const { Last::new() };
    }
    LAST.with(|last| last.get(alpha, || integrate_skewness(alpha)))
}

fn integrate_skewness(alpha: Alpha) -> f64 {
    // By parts, E[r·v^j | r ≥ z] is (φ(z) − j·∫φ² v^(j−1)/α dy)/α with v = S/α; Gauss and Legendre's five points on
    // each of 64 pieces of [z, z + 9], beyond which φ² is below 1e-35.
    const PIECES: u32 = 64;
    const POINTS: [(f64, f64); 5] = [
        (-0.906_179_845_938_664, 0.236_926_885_056_189_1),
        (-0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
        (0.0, 0.568_888_888_888_888_9),
        (0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
        (0.906_179_845_938_664, 0.236_926_885_056_189_1),
    ];
    let (share, z) = (alpha.value(), normal_isf(alpha.value()));
    let half = 4.5 / f64::from(PIECES);
    let (mut first, mut second) = (0.0, 0.0);
    for piece in 0..PIECES {
        let middle = z + half * (2.0 * f64::from(piece) + 1.0);
        for (place, weight) in POINTS {
            let y = middle + half * place;
            let square = weight * normal_pdf(y) * normal_pdf(y);
            first += square;
            second += square * normal_sf(y) / share;
        }
    }
    let scale = half / (share * share);
    let mean = normal_pdf(z) / share;
    let (b1, b2) = (mean - first * scale, mean - 2.0 * second * scale);
    (mean - 6.0 * b1 + 6.0 * b2) / (mean - 2.0 * b1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn curve(n: u64) -> ParetoCurve {
        ParetoCurve::new(Alpha::DEFAULT, n)
    }

    #[test]
    fn the_excess_is_the_integral_it_stands_for() {
        // ∫₀¹ N(1−u)^(N−1)·((u/α)^(−ξ) − 1)/ξ du; u = w⁴ tames the singularity at 0.
        for n in [2, 7, 128] {
            for shape in [-1.5, -1.0, -0.4, -0.1, -0.03, 0.02, 0.1, 0.25, 0.45] {
                let steps = 400_000;
                let h = 1.0 / f64::from(steps);
                let sum: f64 = (0..steps)
                    .map(|i| {
                        let w = (f64::from(i) + 0.5) * h;
                        let u = w.powi(4);
                        let density = n as f64 * (1.0 - u).powi(n as i32 - 1) * 4.0 * w.powi(3);
                        density * ((u / 0.2).powf(-shape) - 1.0) / shape
                    })
                    .sum();
                let got = curve(n).excess(shape).0;
                assert!(
                    (got - sum * h).abs() < 1e-8 * got.abs().max(1.0),
                    "N {n} xi {shape}: {got} vs {}",
                    sum * h
                );
            }
        }
        // ξ = 0 is the exponential law: ln α + H_N; ξ = −1 the uniform one: 1 − 1/(α(N+1)).
        let harmonic: f64 = (1..=128).map(|j| 1.0 / f64::from(j)).sum();
        assert!((curve(128).excess(0.0).0 - (0.2_f64.ln() + harmonic)).abs() < 1e-13);
        assert!((curve(128).excess(-1.0).0 - (1.0 - 1.0 / (0.2 * 129.0))).abs() < 1e-14);
    }

    #[test]
    fn series_and_closed_form_meet_and_the_slope_is_the_derivative() {
        for n in [2, 16, 128, 100_000, 1 << 40] {
            let c = curve(n);
            for edge in [-SERIES, SERIES] {
                let (inside, outside) = (c.excess(edge * (1.0 - 1e-15)), c.excess(edge));
                assert!(
                    (inside.0 / outside.0 - 1.0).abs() < 1e-12,
                    "N {n}: {inside:?} {outside:?}"
                );
                assert!(
                    (inside.1 / outside.1 - 1.0).abs() < 1e-11,
                    "N {n}: {inside:?} {outside:?}"
                );
            }
            for shape in [-1.5, -0.7, -0.2, -0.05, 0.0, 1e-9, 0.05, 0.3, 0.49] {
                let h = 1e-5;
                let slope = (c.coefficient(shape + h).0 - c.coefficient(shape - h).0) / (2.0 * h);
                let (value, got) = c.coefficient(shape);
                let size = value.abs() + slope.abs();
                assert!(
                    (got - slope).abs() < 1e-6 * size,
                    "N {n} xi {shape}: {got} vs {slope}"
                );
            }
        }
    }

    #[test]
    fn l_moments_are_means_over_pairs_and_triples() {
        let sorted = [9.0, 7.5, 7.5, 4.0, 1.0, 0.5];
        let (mut pairs, mut triples, mut l2, mut l3) = (0.0, 0.0, 0.0, 0.0);
        for i in 0..sorted.len() {
            for j in i + 1..sorted.len() {
                (pairs, l2) = (pairs + 1.0, l2 + (sorted[i] - sorted[j]) / 2.0);
                for k in j + 1..sorted.len() {
                    (triples, l3) = (
                        triples + 1.0,
                        l3 + (sorted[i] - 2.0 * sorted[j] + sorted[k]) / 3.0,
                    );
                }
            }
        }
        let got = l_moments(&sorted);
        assert!((got[0] - 29.5 / 6.0).abs() < 1e-14);
        assert!((got[1] - l2 / pairs).abs() < 1e-14, "{got:?}");
        assert!((got[2] - l3 / triples).abs() < 1e-14, "{got:?}");
    }

    #[test]
    fn the_gaussian_tail_is_nearly_pareto() {
        // A grid of 2·10⁵ normal quantiles above z.
        let n = 200_000;
        let grid: Vec<f64> = (0..n)
            .map(|i| normal_isf(0.2 * (f64::from(i) + 0.5) / f64::from(n)))
            .collect();
        let [_, l2, l3] = l_moments(&grid);
        let skewness = gaussian_skewness(Alpha::DEFAULT);
        // By 25-digit quadrature of F(1−F) and F(1−F)(2F−1) over the tail.
        assert!((skewness - 0.248_025_644_938_718_2).abs() < 1e-13, "{skewness}");
        assert!((skewness - l3 / l2).abs() < 1e-4, "{skewness} vs {}", l3 / l2);
        assert!(
            (shape_of(skewness) + 0.205_062).abs() < 1e-5,
            "{}",
            shape_of(skewness)
        );
        assert!((shape_of(1.0 / 3.0)).abs() < 1e-15 && (shape_of(0.0) + 1.0).abs() < 1e-15);
    }
}
