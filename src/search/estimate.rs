//! Rewards → Gaussian tail → predicted best of N (SLG, arXiv 2602.01485, Algorithm 1).
//!
//! With t and v the mean and sample variance (divisor k − 1) of the k = ⌈αm⌉ largest of m rewards, z = Φ⁻¹(1 − α) and
//! λ = φ(z)/α: `σ̂² = v/(1 + zλ − λ²)`, `μ̂ = t − σ̂λ`, and the best of N is predicted as `μ̂ + σ̂·Φ⁻¹(1 − 1/N)` or as
//! `μ̂ + σ̂·c_N` ([`Predictor`]). [`crate::advantage::tail`] has the same law with the population variance, for training.

use serde::{Deserialize, Serialize};

use crate::advantage::tail::{expected_max_normal, inverse_mills, normal_isf};
use crate::advantage::{Alpha, check_finite};
use crate::error::{Error, Result};

use super::schedule::LEAST_SAMPLES;

/// What stands for the best of N standard normal draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// Its 1 − 1/N quantile, Φ⁻¹(1 − 1/N)
    #[default]
    Quantile,
    /// The expected maximum, c_N
    ExpectedMax,
}

impl Predictor {
    /// Standard deviations above the mean where the best of `n` ≥ 1 draws is expected.
    pub fn deviations(self, n: u64) -> f64 {
        match self {
            Self::Quantile => normal_isf(1.0 / n.max(1) as f64),
            Self::ExpectedMax => expected_max_normal(n),
        }
    }

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantile => "quantile",
            Self::ExpectedMax => "expected-max",
        }
    }
}

/// The tail of a sample of a fixed size: how many rewards it has and the constants of its law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TailLaw {
    /// m: rewards of the sample.
    pub samples: usize,
    /// k: rewards in the tail.
    pub size: usize,
    /// The tail share used: the one asked for, or 2/m where that would leave fewer than two rewards.
    pub alpha: Alpha,
    /// Whether the share had to be widened.
    pub widened: bool,
    lambda: f64,
    /// `1 + zλ − λ²`: variance of a standard normal draw above z.
    variance: f64,
}

impl TailLaw {
    /// The law of the upper share `alpha` of `samples` rewards.
    ///
    /// # Errors
    /// A user error with fewer than [`LEAST_SAMPLES`] rewards.
    pub fn new(alpha: Alpha, samples: usize) -> Result<Self> {
        if samples < LEAST_SAMPLES {
            return Err(Error::user(format!(
                "{samples} rewards have no tail to fit: give at least {LEAST_SAMPLES}"
            )));
        }
        let share = |a: Alpha| {
            let (a, b) = (u128::from(a.numerator()), u128::from(a.denominator()));
            (a * samples as u128).div_ceil(b) as usize
        };
        let widened = share(alpha) < 2;
        let alpha = match u32::try_from(samples) {
            // A single tail reward means m ≤ 1/α ≤ 1000, so that 2/m is a share.
            Ok(m) if widened => Alpha::from_fraction(2, m)?,
            _ => alpha,
        };
        let (z, lambda) = inverse_mills(alpha);
        Ok(Self {
            samples,
            size: share(alpha),
            alpha,
            widened,
            lambda,
            variance: 1.0 + z * lambda - lambda * lambda,
        })
    }

    /// What a log says of a widened tail; `None` where the share is the one asked for.
    pub fn note(&self, asked: Alpha) -> Option<String> {
        self.widened.then(|| {
            format!(
                "alpha {asked} of {} rewards is fewer than 2: the tail is widened to 2 of them (alpha {})",
                self.samples, self.alpha
            )
        })
    }

    /// Whether the law says anything of a best that lies `deviations` above the mean: not below the tail's mean.
    pub fn reaches(&self, deviations: f64) -> bool {
        deviations > self.lambda
    }

    /// Fits the tail of `rewards` (m,).
    ///
    /// # Errors
    /// A user error when a reward is not finite (naming the sample); an internal one for another number of rewards.
    pub fn fit(&self, rewards: &[f64]) -> Result<TailEstimate> {
        if rewards.len() != self.samples {
            return Err(Error::internal(format!(
                "a tail of {} rewards was given {}",
                self.samples,
                rewards.len()
            )));
        }
        check_finite(rewards)?;
        let mut sorted = rewards.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        Ok(self.fit_sorted(&sorted))
    }

    /// As [`TailLaw::fit`] of finite rewards in descending order.
    pub(super) fn fit_sorted(&self, descending: &[f64]) -> TailEstimate {
        let (top, k) = (descending[0], self.size as f64);
        // Relative to the largest, so that rewards near 1e4 with a spread of 1e-2 keep their digits.
        let tail = || descending[..self.size].iter().map(|r| r - top);
        let mean = tail().sum::<f64>() / k;
        let variance = tail().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (k - 1.0);
        let sigma = libm::sqrt(variance / self.variance);
        TailEstimate {
            size: self.size,
            alpha: self.alpha,
            mean: top + mean,
            variance,
            mu: top + (mean - sigma * self.lambda),
            sigma,
        }
    }
}

/// The Gaussian whose upper tail fits a sample's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TailEstimate {
    /// k: rewards in the tail.
    pub size: usize,
    /// The tail share.
    pub alpha: Alpha,
    /// t: the tail's mean.
    pub mean: f64,
    /// v: the tail's sample variance.
    pub variance: f64,
    /// μ̂.
    pub mu: f64,
    /// σ̂ (0 where all tail rewards are equal: then every prediction is their value).
    pub sigma: f64,
}

impl TailEstimate {
    /// `μ̂ + σ̂·deviations`; see [`Predictor::deviations`].
    pub fn predict(&self, deviations: f64) -> f64 {
        self.mu + self.sigma * deviations
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::tail::{Tail, kappa, normal_pdf, normal_quantile};
    use crate::rng::{Stream, seed_for};
    use rand::RngExt;

    fn normals(seed: u64, n: usize) -> Vec<f64> {
        let mut stream = Stream::new(seed_for(seed, 0, 0, 0), 0x51);
        (0..n)
            .map(|_| normal_quantile(stream.random_range(1e-12..1.0)))
            .collect()
    }

    /// The estimator as the paper writes it, with nothing shared with the code above but φ and Φ⁻¹.
    fn reference(rewards: &[f64], alpha: f64, n: f64) -> (f64, f64, f64) {
        let m = rewards.len();
        let k = (alpha * m as f64 - 1e-9).ceil() as usize;
        let mut sorted = rewards.to_vec();
        sorted.sort_by(f64::total_cmp);
        let tail = &sorted[m - k..];
        let mean = tail.iter().sum::<f64>() / k as f64;
        let v = tail.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (k as f64 - 1.0);
        let z = normal_quantile(1.0 - alpha);
        let lambda = normal_pdf(z) / alpha;
        let sigma = (v / (1.0 + z * lambda - lambda.powi(2))).sqrt();
        let mu = mean - sigma * lambda;
        (mu, sigma, mu + sigma * normal_quantile(1.0 - 1.0 / n))
    }

    #[test]
    fn the_estimate_is_the_papers_formula() {
        for (seed, m, alpha) in [
            (1, 20, "0.2"),
            (2, 25, "0.2"),
            (3, 65, "0.2"),
            (4, 33, "0.5"),
            (5, 300, "0.05"),
        ] {
            let a: Alpha = alpha.parse().unwrap();
            let rewards = normals(seed, m);
            let got = TailLaw::new(a, m).unwrap().fit(&rewards).unwrap();
            let want = reference(&rewards, a.value(), 128.0);
            let predicted = got.predict(Predictor::Quantile.deviations(128));
            for (x, y) in [(got.mu, want.0), (got.sigma, want.1), (predicted, want.2)] {
                assert!((x - y).abs() < 1e-10, "m = {m}, alpha = {alpha}: {x} against {y}");
            }
            // The other predictor is TEA's surrogate with the sample deviation in place of the population's.
            let tea = Tail::fit(&rewards, a);
            let k = got.size as f64;
            let surrogate = tea.mu + kappa(a, 128).unwrap() * tea.sigma * (k / (k - 1.0)).sqrt();
            let expected = got.predict(Predictor::ExpectedMax.deviations(128));
            assert!((expected - surrogate).abs() < 1e-10);
        }
    }

    #[test]
    fn a_normal_law_is_recovered() {
        let law = TailLaw::new(Alpha::DEFAULT, 40_000).unwrap();
        let rewards: Vec<f64> = normals(7, 40_000).iter().map(|x| 3.0 + 2.0 * x).collect();
        let fit = law.fit(&rewards).unwrap();
        assert!(
            (fit.mu - 3.0).abs() < 0.1 && (fit.sigma - 2.0).abs() < 0.06,
            "{fit:?}"
        );
    }

    #[test]
    fn shift_and_scale_carry_over_even_at_1e4() {
        let law = TailLaw::new(Alpha::DEFAULT, 20).unwrap();
        let x = normals(3, 20);
        let base = law.fit(&x).unwrap();
        let moved: Vec<f64> = x.iter().map(|r| 1e4 + 1e-2 * r).collect();
        let far = law.fit(&moved).unwrap();
        assert!((far.sigma - 1e-2 * base.sigma).abs() < 1e-10);
        assert!((far.mu - (1e4 + 1e-2 * base.mu)).abs() < 1e-10);
    }

    #[test]
    fn equal_tails_predict_their_value() {
        let mut rewards = vec![0.0; 16];
        rewards.extend([1.5; 4]);
        let fit = TailLaw::new(Alpha::DEFAULT, 20).unwrap().fit(&rewards).unwrap();
        assert_eq!((fit.sigma, fit.predict(2.5)), (0.0, 1.5));
    }

    #[test]
    fn a_tail_of_one_is_widened_to_two() {
        let alpha: Alpha = "0.05".parse().unwrap();
        let law = TailLaw::new(alpha, 20).unwrap();
        assert!(law.widened && law.size == 2 && law.alpha == "0.1".parse().unwrap());
        assert!(law.note(alpha).unwrap().contains("widened to 2"));
        let rewards = normals(4, 20);
        let want = reference(&rewards, 0.1, 60.0);
        assert!((law.fit(&rewards).unwrap().mu - want.0).abs() < 1e-10);
        let wide = TailLaw::new(Alpha::DEFAULT, 20).unwrap();
        assert!(!wide.widened && wide.size == 4 && wide.note(Alpha::DEFAULT).is_none());
        // As many as the fewest rewards: half of them.
        let least = TailLaw::new(Alpha::DEFAULT, 4).unwrap();
        assert_eq!((least.size, least.alpha.value()), (2, 0.5));
        let thousand = TailLaw::new("0.001".parse().unwrap(), 1000).unwrap();
        assert_eq!((thousand.size, thousand.alpha.value()), (2, 0.002));
        assert_eq!(TailLaw::new(alpha, 3).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn rewards_that_are_not_finite_are_refused() {
        let law = TailLaw::new(Alpha::DEFAULT, 5).unwrap();
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let e = law.fit(&[1.0, 2.0, 3.0, bad, 0.0]).unwrap_err();
            assert!(e.to_string().contains("sample 3") && e.exit_code() == 2, "{e}");
        }
    }

    #[test]
    fn predictors_grow_with_n_and_reach_beyond_the_tail_only_then() {
        let law = TailLaw::new(Alpha::DEFAULT, 20).unwrap();
        assert_eq!(Predictor::Quantile.deviations(2), 0.0);
        assert!((Predictor::ExpectedMax.deviations(128) - 2.594_597_368_599).abs() < 1e-11);
        assert!((Predictor::Quantile.deviations(1000) - 3.090_232_306_167_8).abs() < 1e-11);
        for predictor in [Predictor::Quantile, Predictor::ExpectedMax] {
            assert!(!law.reaches(predictor.deviations(4)) && law.reaches(predictor.deviations(20)));
        }
    }
}
