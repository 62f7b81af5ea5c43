//! Best-of-n of stored rewards: grouped, unbiased, and extrapolated beyond the sample.
//!
//! Grouped best-of-n is the protocol of TEA (arXiv 2605.10716, §5); the order-statistic estimator averages the maximum
//! over every subset of size n; the Gaussian-tail prediction is [`crate::advantage::tail`].

use serde::Serialize;

use crate::advantage::tail::{Tail, kappa};
use crate::advantage::{Alpha, check_finite};
use crate::error::{Context, Error, Result};

/// How a best-of-n value was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// Mean over consecutive groups of n of the group's maximum.
    Grouped,
    /// Mean over all subsets of size n of the subset's maximum.
    Unbiased,
    /// `μ̂ + κ(α, n)·ŝ` of the sample's upper tail: a prediction, not a measurement.
    Extrapolated,
}

impl Estimator {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grouped => "grouped",
            Self::Unbiased => "unbiased",
            Self::Extrapolated => "extrapolated",
        }
    }
}

/// One point of a best-of-n curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestOfN {
    /// Responses the best is taken of.
    pub n: usize,
    /// How the values were obtained.
    pub estimator: Estimator,
    /// One value a prompt (P,), in the order of the prompts.
    pub per_prompt: Vec<f64>,
}

impl BestOfN {
    /// Mean over prompts.
    pub fn mean(&self) -> f64 {
        self.per_prompt.iter().sum::<f64>() / self.per_prompt.len() as f64
    }
}

/// Mean over consecutive groups of `n` of each group's maximum, of one prompt's rewards (n_total,).
///
/// # Errors
/// A user error when `n` is 0 or does not divide n_total, or a reward is not finite (naming the sample).
pub fn grouped(rewards: &[f64], n: usize) -> Result<f64> {
    check_rewards(rewards)?;
    if n == 0 || !rewards.len().is_multiple_of(n) {
        return Err(Error::user(format!(
            "best-of-{n} needs groups of {n} from {} responses a prompt, which it does not divide; choose n among the \
             divisors of the number of responses",
            rewards.len()
        )));
    }
    let total: f64 = rewards.chunks_exact(n).map(maximum).sum();
    Ok(total / (rewards.len() / n) as f64)
}

/// As [`grouped`], for the `values` of one judge where the best of each group is picked by the `rewards` of another (the
/// first of equals): what best-of-`n` brings under a judge that did not choose.
///
/// # Errors
/// As [`grouped`], for both; a user error when the judges saw different numbers of responses.
pub fn picked(rewards: &[f64], values: &[f64], n: usize) -> Result<f64> {
    grouped(rewards, n)?;
    check_rewards(values)?;
    if rewards.len() != values.len() {
        return Err(Error::user(format!(
            "{} rewards against {} values: every response needs both",
            rewards.len(),
            values.len()
        )));
    }
    let pick = |(group, values): (&[f64], &[f64])| {
        let best = (1..n).fold(0, |best, i| if group[i] > group[best] { i } else { best });
        values[best]
    };
    let total: f64 = rewards
        .chunks_exact(n)
        .zip(values.chunks_exact(n))
        .map(pick)
        .sum();
    Ok(total / (rewards.len() / n) as f64)
}

/// Mean over all subsets of size `n` of the subset's maximum: the unbiased estimate of the expected best of `n` from
/// one prompt's rewards (n_total,).
///
/// With rewards ascending, `Σ_{i ≥ n} C(i−1, n−1)/C(n_total, n)·r_(i)`; the coefficients come from a product of ratios
/// below 1, so none overflows and each is exact to a few roundings.
///
/// # Errors
/// A user error when `n` is 0 or above n_total, or a reward is not finite (naming the sample).
pub fn unbiased(rewards: &[f64], n: usize) -> Result<f64> {
    check_rewards(rewards)?;
    if n == 0 || n > rewards.len() {
        return Err(Error::user(format!(
            "best-of-{n} cannot be estimated from {} responses a prompt: n must be between 1 and that number",
            rewards.len()
        )));
    }
    let mut sorted = rewards.to_vec();
    sorted.sort_by(f64::total_cmp);
    let total = sorted.len();
    let top = sorted[total - 1];
    let mut weight = n as f64 / total as f64;
    let mut below = 0.0;
    for i in (n..=total).rev() {
        below += weight * (sorted[i - 1] - top);
        weight *= (i - n) as f64 / (i - 1).max(1) as f64;
    }
    Ok(top + below)
}

/// The Gaussian-tail prediction `μ̂ + κ(α, n)·ŝ` of the expected best of `n`, from one prompt's rewards (n_total,);
/// `None` where the law says nothing: κ ≤ 0, or fewer than 2 rewards in the upper share α ([`Alpha::has_tail`]).
///
/// # Errors
/// A user error when `n` < 2, or a reward is not finite (naming the sample).
pub fn extrapolated(rewards: &[f64], n: usize, alpha: Alpha) -> Result<Option<f64>> {
    check_rewards(rewards)?;
    let kappa = kappa(alpha, n as u64)?;
    let tail = alpha.has_tail(rewards.len()).then(|| Tail::fit(rewards, alpha));
    Ok(tail.and_then(|tail| tail.predicted_best(kappa)))
}

/// The best-of-n curve of many prompts' rewards (P, n_total): grouped where `n` divides n_total, unbiased where it does
/// not, extrapolated (and so marked) beyond n_total.
///
/// # Errors
/// A user error when there are no prompts, the numbers of responses differ, `n` is 0, a reward is not finite (naming
/// prompt and sample), or an extrapolation where the law says nothing.
pub fn curve(rewards: &[Vec<f64>], sizes: &[usize], alpha: Alpha) -> Result<Vec<BestOfN>> {
    let Some(first) = rewards.first() else {
        return Err(Error::user("there are no prompts to evaluate"));
    };
    let total = first.len();
    if let Some((p, row)) = rewards.iter().enumerate().find(|(_, row)| row.len() != total) {
        return Err(Error::user(format!(
            "prompt {p} has {} responses where prompt 0 has {total}: best-of-n needs the same number for every prompt",
            row.len()
        )));
    }
    let point = |&n: &usize| {
        let estimator = match n {
            n if n > total => Estimator::Extrapolated,
            n if n > 0 && !total.is_multiple_of(n) => Estimator::Unbiased,
            _ => Estimator::Grouped,
        };
        let one = |p: usize, n: usize| {
            match estimator {
            Estimator::Grouped => grouped(&rewards[p], n),
            Estimator::Unbiased => unbiased(&rewards[p], n),
            Estimator::Extrapolated => extrapolated(&rewards[p], n, alpha)?.ok_or_else(|| {
                Error::user(if alpha.has_tail(total) {
                    format!("best-of-{n} cannot be extrapolated at alpha = {alpha}: kappa is not positive")
                } else {
                    format!(
                        "best-of-{n} cannot be extrapolated at alpha = {alpha}: its share of {total} responses is fewer than 2"
                    )
                })
            }),
        }
        };
        curve_of(estimator, rewards.len(), &[n], one)
    };
    let points: Result<Vec<_>> = sizes.iter().map(point).collect();
    Ok(points?.into_iter().flatten().collect())
}

/// A curve of one estimator at given sizes, of many prompts' rewards (P, n_total).
///
/// # Errors
/// A user error naming the prompt for which `one` fails, or when there are no prompts.
pub fn curve_of(
    estimator: Estimator,
    prompts: usize,
    sizes: &[usize],
    one: impl Fn(usize, usize) -> Result<f64>,
) -> Result<Vec<BestOfN>> {
    if prompts == 0 {
        return Err(Error::user("there are no prompts to evaluate"));
    }
    let point = |&n: &usize| {
        let values: Result<Vec<f64>> = (0..prompts)
            .map(|p| one(p, n).context(format!("prompt {p}")))
            .collect();
        Ok(BestOfN {
            n,
            estimator,
            per_prompt: values?,
        })
    };
    sizes.iter().map(point).collect()
}

/// 1, 2, 4, … up to `most`: the sizes of a best-of-n table.
pub fn powers_of_two(most: usize) -> Vec<usize> {
    std::iter::successors(Some(1_usize), |n| n.checked_mul(2))
        .take_while(|&n| n <= most)
        .collect()
}

fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn check_rewards(rewards: &[f64]) -> Result<()> {
    if rewards.is_empty() {
        return Err(Error::user("best-of-n needs at least one response a prompt"));
    }
    check_finite(rewards)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Mean of the maximum over all subsets of size n, by enumeration of bit masks.
    fn brute(rewards: &[f64], n: usize) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for mask in 0_u32..1 << rewards.len() {
            if mask.count_ones() as usize == n {
                let inside = |i: &usize| mask >> i & 1 == 1;
                let best = (0..rewards.len())
                    .filter(inside)
                    .map(|i| rewards[i])
                    .fold(f64::MIN, f64::max);
                sum += best;
                count += 1.0;
            }
        }
        sum / count
    }

    #[test]
    fn unbiased_equals_the_mean_over_all_subsets() {
        let groups = [
            vec![0.3, -1.0, 2.5, 2.5, 0.0, 7.0, -3.0, 0.3, 1.1],
            vec![1e4 + 0.01, 1e4, 1e4 + 0.02, 1e4 + 0.005],
            vec![5.0],
            vec![1.0; 6],
        ];
        for rewards in &groups {
            for n in 1..=rewards.len() {
                let (got, want) = (unbiased(rewards, n).unwrap(), brute(rewards, n));
                assert!((got - want).abs() < 1e-11, "n {n}: {got} vs {want}");
            }
        }
    }

    #[test]
    fn unbiased_coefficients_are_stable_for_large_samples() {
        let rewards: Vec<f64> = (1..=4096).map(f64::from).collect();
        for n in [1, 2, 64, 1000, 2048, 4095, 4096] {
            // The maximum of n out of 1..=M has mean n(M + 1)/(n + 1).
            let want = n as f64 * 4097.0 / (n as f64 + 1.0);
            let got = unbiased(&rewards, n).unwrap();
            assert!((got / want - 1.0).abs() < 1e-12, "n {n}: {got} vs {want}");
        }
    }

    #[test]
    fn grouped_takes_consecutive_groups() {
        let rewards = [1.0, 4.0, 2.0, 3.0, 0.0, -1.0, 5.0, 5.0];
        assert_eq!(grouped(&rewards, 1).unwrap(), 19.0 / 8.0);
        assert_eq!(grouped(&rewards, 2).unwrap(), (4.0 + 3.0 + 0.0 + 5.0) / 4.0);
        assert_eq!(grouped(&rewards, 4).unwrap(), 4.5);
        assert_eq!(grouped(&rewards, 8).unwrap(), 5.0);
        for n in [0, 3, 16] {
            let error = grouped(&rewards, n).unwrap_err();
            assert!(
                error.to_string().contains("divide") && error.exit_code() == 2,
                "{error}"
            );
        }
        assert!(
            grouped(&[1.0, f64::NAN], 1)
                .unwrap_err()
                .to_string()
                .contains("sample 1")
        );
        assert!(grouped(&[], 1).is_err() && unbiased(&[], 1).is_err());
        assert!(unbiased(&rewards, 9).is_err() && unbiased(&rewards, 0).is_err());
    }

    #[test]
    fn a_second_judge_values_what_the_first_picks() {
        let rewards = [1.0, 4.0, 2.0, 2.0, 0.0, -1.0];
        let values = [9.0, 3.0, 5.0, 7.0, -1.0, 8.0];
        assert_eq!(picked(&rewards, &values, 1).unwrap(), 31.0 / 6.0);
        assert_eq!(picked(&rewards, &values, 2).unwrap(), (3.0 + 5.0 - 1.0) / 3.0);
        assert_eq!(picked(&rewards, &values, 6).unwrap(), 3.0);
        for n in [1, 2, 3, 6] {
            let (own, judged) = (
                grouped(&rewards, n).unwrap(),
                picked(&rewards, &rewards, n).unwrap(),
            );
            assert_eq!(own, judged, "a judge values what it picks as best-of-{n}");
        }
        assert!(picked(&rewards, &values[..5], 1).is_err());
        assert!(picked(&rewards, &values, 4).is_err());
    }

    #[test]
    fn gaussian_rewards_extrapolate_to_the_expected_maximum() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let rewards: Vec<Vec<f64>> = (0..100)
            .map(|_| {
                let normal = |u: f64| 10.0 + 2.0 * crate::advantage::tail::normal_quantile(u);
                (0..512).map(|_| normal(rng.random_range(1e-9..1.0))).collect()
            })
            .collect();
        let points = curve(&rewards, &[64, 96, 1024], Alpha::DEFAULT).unwrap();
        let kinds: Vec<Estimator> = points.iter().map(|p| p.estimator).collect();
        assert_eq!(
            kinds,
            [Estimator::Grouped, Estimator::Unbiased, Estimator::Extrapolated]
        );
        for point in &points {
            let truth = 10.0 + 2.0 * crate::advantage::tail::expected_max_normal(point.n as u64);
            // Standard error over 100 prompts is below 0.02; the tail fit's bias at 103 samples about as much.
            assert!(
                (point.mean() - truth).abs() < 0.1,
                "bo{}: {} vs {truth}",
                point.n,
                point.mean()
            );
        }
    }

    #[test]
    fn less_than_two_rewards_are_no_tail() {
        let rewards = [3.0, 1.0, 2.0, 0.0, 5.0, 4.0];
        let fifth = |m: usize| extrapolated(&rewards[..m], 64, Alpha::DEFAULT).unwrap();
        assert_eq!([1, 2, 5].map(fifth), [None; 3]);
        assert!(fifth(6).unwrap() > 5.0);
        // A third of 4 is two again, and at n = 4 κ(0.2) is negative.
        assert!(
            extrapolated(&rewards[..4], 64, "1/3".parse().unwrap())
                .unwrap()
                .is_some()
        );
        assert_eq!(extrapolated(&rewards, 4, Alpha::DEFAULT).unwrap(), None);
    }

    #[test]
    fn a_curve_says_which_prompt_is_wrong() {
        let error = curve(&[vec![1.0, 2.0], vec![1.0]], &[1], Alpha::DEFAULT).unwrap_err();
        assert!(error.to_string().contains("prompt 1"), "{error}");
        let error = curve(&[vec![1.0, 2.0], vec![1.0, f64::INFINITY]], &[1], Alpha::DEFAULT).unwrap_err();
        assert!(
            error.to_string().contains("prompt 1") && error.to_string().contains("sample 1"),
            "{error}"
        );
        assert!(curve(&[], &[1], Alpha::DEFAULT).is_err());
        let beyond = |total: usize, n: usize| {
            let rewards: Vec<f64> = (0..total).map(|i| i as f64).collect();
            curve(&[rewards], &[n], Alpha::DEFAULT).unwrap_err().to_string()
        };
        assert!(beyond(6, 7).contains("kappa"), "{}", beyond(6, 7));
        assert!(
            beyond(5, 64).contains("of 5 responses is fewer than 2"),
            "{}",
            beyond(5, 64)
        );
        assert_eq!(powers_of_two(100), [1, 2, 4, 8, 16, 32, 64]);
    }
}
