//! Gaussian-tail statistics of a prompt's reward law, in float64.
//!
//! The test-time scaling law of TEA (arXiv 2605.10716, §3) and SLG (arXiv 2602.01485): when the upper 2α tail of
//! the rewards is Gaussian, the expected best of N is `V_N ≈ μ + κ(α, N)·s`, with μ and s the mean and standard
//! deviation of the rewards above the upper-α quantile.

use serde::Serialize;

use super::alpha::Alpha;
use super::last::Last;
use crate::error::{Error, Result};

/// Density of the standard normal law.
pub fn normal_pdf(x: f64) -> f64 {
    const INV_SQRT_2PI: f64 = 0.398_942_280_401_432_7;
    INV_SQRT_2PI * libm::exp(-0.5 * x * x)
}

/// Distribution function Φ of the standard normal law.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Upper tail 1 − Φ of the standard normal law, without cancellation for large `x`.
pub fn normal_sf(x: f64) -> f64 {
    normal_cdf(-x)
}

/// Quantile Φ⁻¹ of the standard normal law: −∞ at 0, ∞ at 1, NaN outside [0, 1].
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        normal_isf(1.0 - p)
    } else {
        -normal_isf(p)
    }
}

/// Inverse of the upper tail: the `x` with 1 − Φ(x) = `p`; exact in relative terms for tiny `p`.
pub fn normal_isf(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p > 0.5 {
        return -normal_isf(1.0 - p);
    }
    if p == 0.0 {
        return f64::INFINITY;
    }
    // A rational start (Abramowitz and Stegun 26.2.23, error below 4.5e-4), then Halley's cubic iteration.
    let t = libm::sqrt(-2.0 * libm::log(p));
    let num = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let den = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let mut x = (t - num / den).max(0.0);
    for _ in 0..3 {
        let density = normal_pdf(x);
        if density == 0.0 {
            break;
        }
        let step = (normal_sf(x) - p) / density;
        x += step / (1.0 - 0.5 * x * step);
    }
    x
}

/// `c_N`: the expected maximum of `n` independent standard normal draws (0 for `n` ≤ 1).
///
/// `∫ x·N·φ(x)·Φ(x)^{N−1} dx` by the trapezoidal rule, whose error falls exponentially for this integrand: at a
/// step of 1/64 it is below rounding for every N up to 2⁶³. A thread remembers its last N: thousands of groups in a row
/// share one.
pub fn expected_max_normal(n: u64) -> f64 {
    thread_local! {
        static LAST: Last<u64, f64> = const { Last::new() };
    }
    if n <= 1 {
        return 0.0;
    }
    LAST.with(|last| last.get(n, || integrate_max_normal(n)))
}

fn integrate_max_normal(n: u64) -> f64 {
    const STEPS_PER_UNIT: i32 = 64;
    let (mut sum, mut mass) = (0.0, 0.0);
    for i in -9 * STEPS_PER_UNIT..=14 * STEPS_PER_UNIT {
        let x = f64::from(i) / f64::from(STEPS_PER_UNIT);
        let log_cdf = if x > 0.0 {
            libm::log1p(-normal_sf(x))
        } else {
            libm::log(normal_cdf(x))
        };
        let density = n as f64 * normal_pdf(x) * libm::exp((n - 1) as f64 * log_cdf);
        sum += x * density;
        mass += density;
    }
    // The mass is 1 up to rounding; dividing by it cancels the common part of that rounding.
    sum / mass
}

/// `λ = φ(z)/α` with `z = Φ⁻¹(1 − α)`: the mean of a standard normal draw above its upper-α quantile; returns (z, λ).
pub fn inverse_mills(alpha: Alpha) -> (f64, f64) {
    let z = normal_isf(alpha.value());
    (z, normal_pdf(z) / alpha.value())
}

/// `κ(α, N) = (c_N − λ) / √(1 + zλ − λ²)`: how many tail standard deviations the expected best of `n` lies above the
/// tail mean (arXiv 2605.10716, §3). Negative where N is too small for α.
///
/// # Errors
/// A user error when `n` < 2.
pub fn kappa(alpha: Alpha, n: u64) -> Result<f64> {
    if n < 2 {
        return Err(Error::user(format!(
            "the deployment budget N is {n}: best-of-N needs N of at least 2 (--bon)"
        )));
    }
    let (z, lambda) = inverse_mills(alpha);
    Ok((expected_max_normal(n) - lambda) / libm::sqrt(1.0 + z * lambda - lambda * lambda))
}

/// [`kappa`], for training: a value that is not positive would push tail spread down.
///
/// # Errors
/// A user error when `n` < 2 or κ ≤ 0, naming N, α and the least N that works.
pub fn training_kappa(alpha: Alpha, n: u64) -> Result<f64> {
    let value = kappa(alpha, n)?;
    if value > 0.0 {
        return Ok(value);
    }
    Err(Error::user(format!(
        "N = {n} is too small for alpha = {alpha}: kappa = {value:.3} must be positive to train; use N of at least {} \
         (--bon) or a larger alpha (--alpha)",
        least_budget(alpha)
    )))
}

/// The least N with κ(α, N) > 0.
pub fn least_budget(alpha: Alpha) -> u64 {
    let (_, lambda) = inverse_mills(alpha);
    let (mut low, mut high) = (1_u64, 2_u64);
    while expected_max_normal(high) <= lambda {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if expected_max_normal(middle) > lambda {
            high = middle
        } else {
            low = middle
        }
    }
    high
}

/// Upper-tail statistics of one group of rewards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tail {
    /// Number of tail samples k.
    pub size: usize,
    /// q̂: the smallest reward of the tail.
    pub q: f64,
    /// μ̂: the tail's mean.
    pub mu: f64,
    /// ŝ: the tail's population standard deviation (0 when all tail rewards are equal).
    pub sigma: f64,
}

impl Tail {
    /// The tail of `rewards` (at least one, all finite): the largest [`Alpha::tail_size`] of them.
    pub fn fit(rewards: &[f64], alpha: Alpha) -> Self {
        let mut sorted = rewards.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.truncate(alpha.tail_size(rewards.len()));
        let top = sorted[0];
        let k = sorted.len() as f64;
        let mean = sorted.iter().map(|r| r - top).sum::<f64>() / k;
        let variance = sorted
            .iter()
            .map(|r| (r - top - mean) * (r - top - mean))
            .sum::<f64>()
            / k;
        let q = sorted[sorted.len() - 1];
        let equal = q == top;
        Self {
            size: sorted.len(),
            q,
            mu: top + mean,
            sigma: if equal { 0.0 } else { libm::sqrt(variance) },
        }
    }

    /// The predicted expected best of N, `μ̂ + κ·ŝ`; `None` where κ ≤ 0 (the law says nothing there).
    pub fn predicted_best(&self, kappa: f64) -> Option<f64> {
        (kappa > 0.0).then_some(self.mu + kappa * self.sigma)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn quantile_inverts_the_distribution_function() {
        for &p in &[1e-300, 1e-20, 1e-9, 0.001, 0.1, 0.2, 0.25, 0.5] {
            let x = normal_isf(p);
            assert!((normal_sf(x) / p - 1.0).abs() < 1e-12, "p {p} gave {x}");
            assert!((normal_quantile(p) + x).abs() < 1e-13);
        }
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-13);
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
        assert!(normal_quantile(1.5).is_nan());
    }

    #[test]
    fn expected_maxima_match_closed_forms_and_recurrence_bounds() {
        let pi = std::f64::consts::PI;
        assert!((expected_max_normal(2) - 1.0 / pi.sqrt()).abs() < 1e-14);
        assert!((expected_max_normal(3) - 1.5 / pi.sqrt()).abs() < 1e-14);
        // n = 5: 5/(4√π)·(1 + (6/π)·asin(1/3)).
        let five = 1.25 / pi.sqrt() * (1.0 + 6.0 / pi * (1.0_f64 / 3.0).asin());
        assert!((expected_max_normal(5) - five).abs() < 1e-14);
        assert!((expected_max_normal(128) - 2.594_597_368_599).abs() < 1e-12);
        let mut last = 0.0;
        for n in [10, 1_000, 1_000_000, 1 << 40, u64::MAX >> 1] {
            let c = expected_max_normal(n);
            let bound = (2.0 * (n as f64).ln()).sqrt();
            assert!(c > last && c < bound, "c_{n} = {c}");
            last = c;
        }
    }

    #[test]
    fn kappa_errors_name_the_budget_that_works() {
        let fifth = Alpha::DEFAULT;
        assert!((kappa(fifth, 4).unwrap() + 0.79).abs() < 5e-3);
        let least = least_budget(fifth);
        assert!(kappa(fifth, least).unwrap() > 0.0 && kappa(fifth, least - 1).unwrap() <= 0.0);
        let message = training_kappa(fifth, 4).unwrap_err().to_string();
        assert!(
            message.contains("N = 4") && message.contains("alpha = 0.2"),
            "{message}"
        );
        assert!(message.contains(&format!("at least {least}")), "{message}");
        assert!(kappa(fifth, 1).unwrap_err().to_string().contains("at least 2"));
    }

    #[test]
    fn tail_of_a_shifted_group_moves_with_it() {
        let rewards = [1.0, 5.0, 3.0, 4.0, 2.0];
        let tail = Tail::fit(&rewards, "0.5".parse().unwrap());
        assert_eq!((tail.size, tail.q, tail.mu), (3, 3.0, 4.0));
        assert!((tail.sigma - (2.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(tail.predicted_best(-0.1), None);
        let flat = Tail::fit(&[0.1; 7], Alpha::DEFAULT);
        assert_eq!(flat.sigma, 0.0);
    }
}
