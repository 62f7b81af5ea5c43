//! Uncertainty over prompts: the paired bootstrap and win/tie/loss counts.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::error::{Error, Result};

/// Differences up to this count as ties.
pub const TIE: f64 = 1e-9;

/// An estimate with its percentile interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The estimate on the prompts themselves.
    pub mean: f64,
    /// Lower end; none where one prompt alone shows no spread over prompts.
    pub low: Option<f64>,
    /// Upper end, likewise.
    pub high: Option<f64>,
}

impl Interval {
    /// True when the whole interval is above `value`.
    pub fn above(&self, value: f64) -> bool {
        self.low.is_some_and(|low| low > value)
    }

    /// True when the whole interval is below `value`.
    pub fn below(&self, value: f64) -> bool {
        self.high.is_some_and(|high| high < value)
    }

    /// Both ends, where there are any.
    pub fn ends(&self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }
}

/// A prompt bootstrap: resamples prompts with replacement; the same seed and number of prompts draw the same resamples,
/// so that every method and every n of one evaluation sees the same ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Seed of the resamples.
    pub seed: u64,
    /// Number of resamples.
    pub resamples: usize,
    /// Coverage of the percentile interval, in (0, 1).
    pub level: f64,
}

impl Default for Bootstrap {
    /// 1,000 resamples, 95%.
    fn default() -> Self {
        Self {
            seed: 0,
            resamples: 1000,
            level: 0.95,
        }
    }
}

/// What reports say of their intervals: `what`, or why there are none.
pub(crate) fn told(prompts: usize, what: &str) -> String {
    match prompts {
        1 => "No intervals (n/a): they are over prompts, and there is one prompt.".to_string(),
        _ => format!("Intervals: 95%, {what}."),
    }
}

impl Bootstrap {
    /// The mean over prompts (P,) with its percentile interval, which one prompt has not.
    ///
    /// # Errors
    /// A user error when there are no values, one is not finite, or the settings are out of range.
    pub fn mean(&self, values: &[f64]) -> Result<Interval> {
        if values.is_empty() {
            return Err(Error::user("the bootstrap needs at least one prompt"));
        }
        if let Some(p) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::user(format!(
                "the value of prompt {p} is {}: it must be finite",
                values[p]
            )));
        }
        if self.resamples == 0 || !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::user(format!(
                "a bootstrap of {} resamples at level {} is empty: use 1000 and 0.95",
                self.resamples, self.level
            )));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        if n == 1 {
            // Every resample is the prompt itself: an interval of no width would claim certainty.
            let (low, high) = (None, None);
            return Ok(Interval { mean, low, high });
        }
        let resample = |rng: &mut ChaCha8Rng| {
            let sum: f64 = (0..n).map(|_| values[rng.random_range(0..n)]).sum();
            sum / n as f64
        };
        let mut means: Vec<f64> = (0..self.resamples).map(|_| resample(&mut rng)).collect();
        means.sort_by(f64::total_cmp);
        let tail = 0.5 * (1.0 - self.level);
        Ok(Interval {
            mean,
            low: Some(percentile(&means, tail)),
            high: Some(percentile(&means, 1.0 - tail)),
        })
    }

    /// The mean difference `a − b` over the same prompts (P,), with its paired percentile interval.
    ///
    /// # Errors
    /// As [`Bootstrap::mean`], and when the numbers of prompts differ.
    pub fn paired_difference(&self, a: &[f64], b: &[f64]) -> Result<Interval> {
        check_paired(a, b)?;
        let differences: Vec<f64> = a.iter().zip(b).map(|(x, y)| x - y).collect();
        self.mean(&differences)
    }
}

/// Linear interpolation between order statistics (the default of NumPy), of sorted values.
pub(crate) fn percentile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let at = position.floor() as usize;
    let next = (at + 1).min(sorted.len() - 1);
    sorted[at] + (position - at as f64) * (sorted[next] - sorted[at])
}

fn check_paired(a: &[f64], b: &[f64]) -> Result<()> {
    if a.len() == b.len() {
        return Ok(());
    }
    Err(Error::user(format!(
        "a paired comparison needs the same prompts on both sides: {} against {}",
        a.len(),
        b.len()
    )))
}

/// How often one method beats another, prompt by prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WinTieLoss {
    /// Prompts where the first is better by more than [`TIE`].
    pub wins: usize,
    /// Prompts within [`TIE`].
    pub ties: usize,
    /// Prompts where the second is better by more than [`TIE`].
    pub losses: usize,
}

impl WinTieLoss {
    /// Wins plus half the ties, over all prompts.
    pub fn win_rate(&self) -> f64 {
        let total = self.wins + self.ties + self.losses;
        (self.wins as f64 + 0.5 * self.ties as f64) / total as f64
    }
}

/// Counts wins of `a` over `b` on the same prompts (P,).
///
/// # Errors
/// A user error when the numbers of prompts differ or are 0, or a value is NaN.
pub fn win_tie_loss(a: &[f64], b: &[f64]) -> Result<WinTieLoss> {
    check_paired(a, b)?;
    if a.is_empty() {
        return Err(Error::user("there are no prompts to compare"));
    }
    let mut counts = WinTieLoss {
        wins: 0,
        ties: 0,
        losses: 0,
    };
    for (p, (x, y)) in a.iter().zip(b).enumerate() {
        match x - y {
            d if d.is_nan() => return Err(Error::user(format!("the value of prompt {p} is NaN"))),
            d if d > TIE => counts.wins += 1,
            d if d < -TIE => counts.losses += 1,
            _ => counts.ties += 1,
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::tail::normal_quantile;

    fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
        (0..n)
            .map(|_| normal_quantile(rng.random_range(1e-12..1.0)))
            .collect()
    }

    #[test]
    fn intervals_cover_the_truth_about_as_often_as_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let boot = Bootstrap {
            resamples: 400,
            ..Bootstrap::default()
        };
        let trials = 400;
        let covered = (0..trials)
            .filter(|_| {
                let shared = normals(&mut rng, 64);
                let noise = normals(&mut rng, 64);
                let b: Vec<f64> = shared.iter().map(|x| 10.0 * x).collect();
                let a: Vec<f64> = b.iter().zip(&noise).map(|(x, e)| x + 0.5 + e).collect();
                let interval = boot.paired_difference(&a, &b).unwrap();
                // Pairing removes the prompts' own spread of 10.
                let (low, high) = interval.ends().unwrap();
                assert!(high - low < 0.9);
                low <= 0.5 && 0.5 <= high
            })
            .count();
        // 95% of 400 is 380; the percentile interval on 64 prompts undercovers by about one point.
        assert!((360..=394).contains(&covered), "{covered} of {trials}");
    }

    #[test]
    fn the_interval_has_the_normal_width_and_is_seeded() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let values = normals(&mut rng, 400);
        let boot = Bootstrap {
            resamples: 4000,
            ..Bootstrap::default()
        };
        let interval = boot.mean(&values).unwrap();
        let m = interval.mean;
        let sd = (values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * sd / 20.0;
        let (low, high) = interval.ends().unwrap();
        assert!((high - m - half).abs() < 0.1 * half && (m - low - half).abs() < 0.1 * half);
        assert_eq!(interval, boot.mean(&values).unwrap());
        assert_ne!(interval, Bootstrap { seed: 1, ..boot }.mean(&values).unwrap());
        let flat = boot.mean(&[2.0; 9]).unwrap();
        assert_eq!((flat.mean, flat.ends()), (2.0, Some((2.0, 2.0))));
        assert!(flat.above(1.9) && flat.below(2.1) && !flat.above(2.0));
    }

    #[test]
    fn one_prompt_has_a_mean_and_no_interval() {
        let one = Bootstrap::default().paired_difference(&[3.0], &[1.0]).unwrap();
        assert_eq!((one.mean, one.ends()), (2.0, None));
        assert!(!one.above(0.0) && !one.below(4.0));
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, r#"{"mean":2.0,"low":null,"high":null}"#);
        assert!(told(1, "x").contains("one prompt") && told(2, "x").ends_with("95%, x."));
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[0.0, 1.0, 2.0, 3.0], 0.5), 1.5);
        assert_eq!(percentile(&[0.0, 1.0, 2.0, 3.0], 1.0), 3.0);
        assert_eq!(percentile(&[7.0], 0.3), 7.0);
    }

    #[test]
    fn wins_ties_and_losses() {
        let counts = win_tie_loss(&[1.0, 2.0, 3.0, 4.0], &[0.0, 2.0 + 5e-10, 4.0, 3.9]).unwrap();
        assert_eq!(
            counts,
            WinTieLoss {
                wins: 2,
                ties: 1,
                losses: 1
            }
        );
        assert_eq!(counts.win_rate(), 0.625);
        assert!(win_tie_loss(&[1.0], &[1.0, 2.0]).is_err());
        assert!(win_tie_loss(&[], &[]).is_err());
        assert!(win_tie_loss(&[f64::NAN], &[1.0]).is_err());
        let boot = Bootstrap::default();
        assert!(
            boot.mean(&[]).is_err()
                && boot
                    .mean(&[1.0, f64::NAN])
                    .unwrap_err()
                    .to_string()
                    .contains("prompt 1")
        );
        assert!(Bootstrap { level: 1.0, ..boot }.mean(&[1.0]).is_err());
    }
}
