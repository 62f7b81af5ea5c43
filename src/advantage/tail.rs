//! Gaussian-tail statistics of a prompt's reward law, in float64.
//!
//! The test-time scaling law of TEA (arXiv 2605.10716, §3) and SLG (arXiv 2602.01485): when the upper 2α tail of
//! the rewards is Gaussian, the expected best of N is `V_N ≈ μ + κ(α, N)·s`, with μ and s the mean and standard
//! deviation of the rewards above the upper-α quantile.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest denominator of a tail share: α is the nearest fraction up to it.
pub const MAX_DENOMINATOR: u32 = 1000;

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
/// step of 1/64 it is below rounding for every N up to 2⁶³.
pub fn expected_max_normal(n: u64) -> f64 {
    const STEPS_PER_UNIT: i32 = 64;
    if n <= 1 {
        return 0.0;
    }
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

/// The tail share α in (0, ½], kept as a fraction in lowest terms so that ⌈αm⌉ is exact (⌈0.2·65⌉ = 13, not 14).
///
/// Parses from `"0.2"` and `"1/3"`; a decimal becomes the nearest fraction whose denominator is at most
/// [`MAX_DENOMINATOR`]. In JSON and TOML it is a number or such a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawAlpha", into = "RawAlpha")]
pub struct Alpha {
    numerator: u32,
    denominator: u32,
}

impl Alpha {
    /// One fifth: the default tail share.
    pub const DEFAULT: Self = Self {
        numerator: 1,
        denominator: 5,
    };

    /// The nearest fraction to `value` with a denominator of at most [`MAX_DENOMINATOR`].
    ///
    /// # Errors
    /// A user error when `value`, or its nearest fraction, is outside (0, ½].
    pub fn new(value: f64) -> Result<Self> {
        if !(value > 0.0 && value <= 0.5) {
            return Err(out_of_range(value));
        }
        let (numerator, denominator) = nearest_fraction(value, MAX_DENOMINATOR);
        Self::from_fraction(numerator, denominator)
    }

    /// The fraction `numerator / denominator`, reduced.
    ///
    /// # Errors
    /// A user error when it is outside (0, ½] or its reduced denominator is above [`MAX_DENOMINATOR`].
    pub fn from_fraction(numerator: u32, denominator: u32) -> Result<Self> {
        if numerator == 0 || denominator == 0 || u64::from(numerator) * 2 > u64::from(denominator) {
            return Err(out_of_range(format!("{numerator}/{denominator}")));
        }
        let common = gcd(numerator, denominator);
        let (numerator, denominator) = (numerator / common, denominator / common);
        if denominator > MAX_DENOMINATOR {
            return Err(Error::user(format!(
                "alpha {numerator}/{denominator} has a denominator above {MAX_DENOMINATOR}: use a simpler fraction"
            )));
        }
        Ok(Self {
            numerator,
            denominator,
        })
    }

    /// α as a float.
    pub fn value(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// The numerator in lowest terms.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// The denominator in lowest terms.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// The number of tail samples of a group of `m`: `min(m, max(2, ⌈αm⌉))`.
    pub fn tail_size(self, m: usize) -> usize {
        let (a, b) = (u128::from(self.numerator), u128::from(self.denominator));
        let exact = (a * m as u128).div_ceil(b) as usize;
        exact.max(2).min(m)
    }
}

impl Default for Alpha {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Alpha {
    /// The decimal where it is exact to six places, else the fraction; parses back to the same α.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scaled = u64::from(self.numerator) * 1_000_000;
        if scaled.is_multiple_of(u64::from(self.denominator)) {
            write!(f, "{}", self.value())
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

impl FromStr for Alpha {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::user(format!(
                "cannot read alpha \"{text}\": give a number such as 0.2 or a fraction such as 1/3"
            ))
        };
        match text.split_once('/') {
            Some((a, b)) => Self::from_fraction(
                a.trim().parse().map_err(|_| bad())?,
                b.trim().parse().map_err(|_| bad())?,
            ),
            None => Self::new(text.trim().parse().map_err(|_| bad())?),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawAlpha {
    Number(f64),
    Text(String),
}

impl TryFrom<RawAlpha> for Alpha {
    type Error = Error;

    fn try_from(raw: RawAlpha) -> Result<Self> {
        match raw {
            RawAlpha::Number(value) => Self::new(value),
            RawAlpha::Text(text) => text.parse(),
        }
    }
}

impl From<Alpha> for RawAlpha {
    fn from(alpha: Alpha) -> Self {
        let text = alpha.to_string();
        if text.contains('/') {
            Self::Text(text)
        } else {
            Self::Number(alpha.value())
        }
    }
}

fn out_of_range(value: impl fmt::Display) -> Error {
    Error::user(format!(
        "alpha is {value}: it must be above 0 and at most 0.5 (the default is 0.2)"
    ))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The fraction nearest to `value` in (0, 1) among denominators up to `limit`; the smallest denominator on a tie.
fn nearest_fraction(value: f64, limit: u32) -> (u32, u32) {
    let mut best = (0, 1);
    let mut best_error = f64::INFINITY;
    for denominator in 1..=limit {
        let numerator = libm::round(value * f64::from(denominator));
        let error = (numerator / f64::from(denominator) - value).abs();
        if error < best_error {
            best_error = error;
            best = (numerator as u32, denominator);
        }
    }
    best
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
        (kappa > 0.0).then(|| self.mu + kappa * self.sigma)
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
    fn alpha_is_the_nearest_fraction() {
        let parse = |s: &str| s.parse::<Alpha>().unwrap();
        assert_eq!((parse("0.2").numerator(), parse("0.2").denominator()), (1, 5));
        assert_eq!(parse("1/3"), parse("0.3333333333333"));
        assert_eq!(parse("2/6").to_string(), "1/3");
        assert_eq!(parse("0.125").to_string(), "0.125");
        assert_eq!(parse("0.2").tail_size(65), 13);
        assert_eq!(parse("0.2").tail_size(64), 13);
        assert_eq!(parse("0.1").tail_size(8), 2);
        assert_eq!(parse("0.5").tail_size(1), 1);
        assert_eq!(parse("0.07").tail_size(100), 7);
        for text in [
            "0", "-0.1", "0.6", "2/3", "0/4", "1/0", "x", "nan", "1e-9", "1/1001",
        ] {
            let error = text.parse::<Alpha>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}: {error}");
            assert!(error.to_string().contains("alpha"), "{error}");
        }
    }

    #[test]
    fn alpha_round_trips_through_json() {
        for text in ["0.2", "1/3", "0.25", "7/999"] {
            let alpha: Alpha = text.parse().unwrap();
            let json = serde_json::to_string(&alpha).unwrap();
            assert_eq!(serde_json::from_str::<Alpha>(&json).unwrap(), alpha, "{json}");
        }
        assert_eq!(serde_json::to_string(&Alpha::DEFAULT).unwrap(), "0.2");
        assert!(serde_json::from_str::<Alpha>("0.7").is_err());
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
