//! Best-of-N from m rewards, for any N, and how well it would have predicted what was observed (SLG, arXiv 2602.01485, §3).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::advantage::Alpha;
use crate::error::{Context, Error, Result};
use crate::eval::bootstrap::percentile;
use crate::eval::compare::tables;
use crate::eval::{Bootstrap, Interval, powers_of_two, unbiased};
use crate::report::{Align, Cell, Plot, PlotPoint, Series, Table};

use super::estimate::{Predictor, TailEstimate, TailLaw};
use super::schedule::{LEAST_SAMPLES, default_samples};

/// How to predict.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// m: rewards of each prompt that the prediction sees; `None` is what a search would take at N = n_total.
    pub first: Option<usize>,
    /// The N; empty is powers of two up to four times n_total.
    pub sizes: Vec<usize>,
    /// The tail share.
    pub alpha: Alpha,
    /// What is predicted of a tail.
    pub predictor: Predictor,
    /// Resamples of each prompt's m rewards, and of prompts.
    pub bootstrap: Bootstrap,
}

/// One N over all prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// N.
    pub n: usize,
    /// Mean over prompts of the predicted best of N, with its interval over resampled rewards; null where the best of N
    /// lies below the tail's mean, of which the law says nothing.
    pub predicted: Option<Interval>,
    /// Mean over prompts of the unbiased estimate from all rewards; null beyond them.
    pub observed: Option<f64>,
    /// Predicted minus observed, with its interval over prompts.
    pub error: Option<Interval>,
    /// Mean over prompts of the absolute error.
    pub absolute_error: Option<f64>,
    /// Share of prompts whose own interval holds what was observed.
    pub coverage: Option<f64>,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptPrediction {
    /// Its name in the file.
    pub id: String,
    /// The tail of its first m rewards.
    pub tail: TailEstimate,
    /// The predicted best of each N, in the order of the points.
    pub predicted: Vec<Option<Interval>>,
    /// The observed best of each N.
    pub observed: Vec<Option<f64>>,
}

/// A prediction with its back-test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// m.
    pub first: usize,
    /// n_total: rewards that every prompt has.
    pub total: usize,
    /// The tail share used.
    pub alpha: Alpha,
    /// The predictor.
    pub predictor: Predictor,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// What a log says of the tail, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The N whose coverage lies below the nominal level by more than chance: intervals too narrow there.
    pub too_narrow: Vec<usize>,
    /// Nominal coverage of the intervals.
    pub level: f64,
    /// One entry an N, ascending.
    pub points: Vec<Point>,
    /// One entry a prompt.
    pub prompts: Vec<PromptPrediction>,
}

/// Predicts the best of every N from each prompt's first m rewards and compares it with all of them.
///
/// The interval of a prompt's prediction comes from resampling its m rewards; that of the mean from doing so for all prompts
/// at once. What is observed is itself an estimate, surest for n far below n_total, so that coverage below the nominal
/// level near n_total is not the prediction's fault alone.
///
/// # Errors
/// A user error when there are no prompts, one has fewer rewards than m (naming it), m is below [`LEAST_SAMPLES`], an N is
/// 0, or a reward is not finite.
pub fn predict(groups: &[(String, Vec<f64>)], settings: &Settings) -> Result<Prediction> {
    let Some(total) = groups.iter().map(|(_, r)| r.len()).min() else {
        return Err(Error::user("there are no prompts to predict for"));
    };
    let first = settings
        .first
        .unwrap_or_else(|| default_samples(total).min(total));
    check(groups, first)?;
    let sizes = sizes(settings, total)?;
    let law = TailLaw::new(settings.alpha, first)?;
    let deviations: Vec<Option<f64>> = sizes
        .iter()
        .map(|n| Some(settings.predictor.deviations(*n as u64)).filter(|d| law.reaches(*d)))
        .collect();
    let mut means = vec![vec![0.0; settings.bootstrap.resamples]; sizes.len()];
    let mut prompts = Vec::with_capacity(groups.len());
    for (at, (id, rewards)) in groups.iter().enumerate() {
        let tail = law.fit(&rewards[..first]).context(format!("prompt {id}"))?;
        let resampled = resample(&law, &rewards[..first], &settings.bootstrap, at as u64);
        let mut predicted = Vec::with_capacity(sizes.len());
        for (deviations, means) in deviations.iter().zip(&mut means) {
            predicted.push(deviations.map(|d| {
                let values: Vec<f64> = resampled.iter().map(|t| t.predict(d)).collect();
                for (mean, value) in means.iter_mut().zip(&values) {
                    *mean += value / groups.len() as f64;
                }
                interval(tail.predict(d), values, &settings.bootstrap)
            }));
        }
        let observed = sizes
            .iter()
            .map(|n| (*n <= total).then(|| unbiased(&rewards[..total], *n)).transpose())
            .collect::<Result<_>>()
            .context(format!("prompt {id}"))?;
        prompts.push(PromptPrediction {
            id: id.clone(),
            tail,
            predicted,
            observed,
        });
    }
    let points = means
        .into_iter()
        .enumerate()
        .map(|(i, means)| point(sizes[i], i, means, &prompts, &settings.bootstrap))
        .collect::<Result<Vec<Point>>>()?;
    let level = settings.bootstrap.level;
    let narrow = |p: &&Point| {
        let held = p.coverage.map(|c| libm::round(c * prompts.len() as f64) as usize);
        held.is_some_and(|held| short(held, prompts.len(), level))
    };
    Ok(Prediction {
        first,
        total,
        alpha: law.alpha,
        predictor: settings.predictor,
        resamples: settings.bootstrap.resamples,
        note: law.note(settings.alpha),
        too_narrow: points.iter().filter(narrow).map(|p| p.n).collect(),
        level,
        points,
        prompts,
    })
}

fn check(groups: &[(String, Vec<f64>)], first: usize) -> Result<()> {
    if first < LEAST_SAMPLES {
        return Err(Error::user(format!(
            "a prediction from the first {first} rewards: a tail needs at least {LEAST_SAMPLES} (--first)"
        )));
    }
    match groups.iter().find(|(_, r)| r.len() < first) {
        Some((id, r)) => Err(Error::user(format!(
            "prompt {id} has {} rewards and the prediction is from the first {first}; lower --first",
            r.len()
        ))),
        None => Ok(()),
    }
}

/// The N asked for, ascending and once each, or powers of two up to four times n_total.
fn sizes(settings: &Settings, total: usize) -> Result<Vec<usize>> {
    let mut sizes = settings.sizes.clone();
    if sizes.is_empty() {
        sizes = powers_of_two(total.saturating_mul(4));
    }
    sizes.sort_unstable();
    sizes.dedup();
    match sizes.first() {
        Some(0) => Err(Error::user("--ns: best-of-0 is of nothing; give N of at least 1")),
        _ => Ok(sizes),
    }
}

/// Tails of resamples of a prompt's rewards (resamples,); a prompt's own stream, so that neither order nor number of the
/// other prompts matters.
fn resample(law: &TailLaw, rewards: &[f64], boot: &Bootstrap, prompt: u64) -> Vec<TailEstimate> {
    let mut rng = ChaCha8Rng::seed_from_u64(boot.seed);
    rng.set_stream(prompt + 1);
    let mut drawn = vec![0.0; rewards.len()];
    (0..boot.resamples)
        .map(|_| {
            for slot in &mut drawn {
                *slot = rewards[rng.random_range(0..rewards.len())];
            }
            drawn.sort_unstable_by(|a, b| b.total_cmp(a));
            law.fit_sorted(&drawn)
        })
        .collect()
}

/// The basic bootstrap interval (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, §5.2.1):
/// 2θ̂ − q(1 − a/2) to 2θ̂ − q(a/2), where q are the quantiles of the estimate on resampled rewards and a is 1 − level.
///
/// A resample of a few rewards repeats some and misses others, often the largest one, so that the predicted best of N from
/// it lies below the one from the rewards themselves. The percentile interval, q(a/2) to q(1 − a/2), takes over that bias
/// although θ̂ itself has it once more against the truth: it would sit low twice, and over a mean of many prompts, whose
/// spread shrinks while the bias stays, end below its own estimate. Reflecting the quantiles about θ̂ takes the bias off.
fn interval(mean: f64, mut values: Vec<f64>, boot: &Bootstrap) -> Interval {
    values.sort_unstable_by(f64::total_cmp);
    let tail = 0.5 * (1.0 - boot.level);
    Interval {
        mean,
        low: Some(2.0 * mean - percentile(&values, 1.0 - tail)),
        high: Some(2.0 * mean - percentile(&values, tail)),
    }
}

/// One N, the `at`-th, over all prompts; `means` are the resampled means over prompts.
fn point(
    n: usize,
    at: usize,
    means: Vec<f64>,
    prompts: &[PromptPrediction],
    boot: &Bootstrap,
) -> Result<Point> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let predicted: Option<Vec<Interval>> = prompts.iter().map(|p| p.predicted[at]).collect();
    let observed: Option<Vec<f64>> = prompts.iter().map(|p| p.observed[at]).collect();
    let centres: Option<Vec<f64>> = predicted.as_ref().map(|p| p.iter().map(|i| i.mean).collect());
    let (mut error, mut absolute_error, mut coverage) = (None, None, None);
    if let (Some(intervals), Some(centres), Some(observed)) = (&predicted, &centres, &observed) {
        let off: Vec<f64> = centres.iter().zip(observed).map(|(p, o)| (p - o).abs()).collect();
        let held = intervals
            .iter()
            .zip(observed)
            .filter(|(i, o)| i.ends().is_some_and(|(low, high)| (low..=high).contains(*o)));
        coverage = Some(held.count() as f64 / prompts.len() as f64);
        absolute_error = Some(mean(&off));
        error = Some(boot.paired_difference(centres, observed)?);
    }
    Ok(Point {
        n,
        predicted: centres.map(|c| interval(mean(&c), means, boot)),
        observed: observed.map(|o| mean(&o)),
        error,
        absolute_error,
        coverage,
    })
}

/// Whether `held` of `of` independent intervals of this level would be as few only once in forty times: the binomial law's
/// lower tail, `P(X ≤ held) < 0.025`.
fn short(held: usize, of: usize, level: f64) -> bool {
    let (n, log) = (of as f64, |k: f64| libm::lgamma(k + 1.0));
    let term = |k: usize| {
        let k = k as f64;
        libm::exp(log(n) - log(k) - log(n - k) + k * level.ln() + (n - k) * (1.0 - level).ln())
    };
    (0..=held).map(term).sum::<f64>() < 0.025
}

impl Prediction {
    /// What is wrong with the intervals by their back-test, if anything.
    pub fn warning(&self) -> Option<String> {
        let narrow = |p: &&Point| self.too_narrow.contains(&p.n);
        let shown = |p: &Point| format!("{:.0}% at n = {}", 100.0 * p.coverage.unwrap_or(0.0), p.n);
        let all: Vec<String> = self.points.iter().filter(narrow).map(shown).collect();
        (!all.is_empty()).then(|| {
            format!(
                "the prompts' intervals hold what was observed less often than their nominal {:.0}%, beyond chance over {} prompts: \
                 {}. Take them for too narrow, or give more rewards (--first); what is observed near n = {} is itself uncertain",
                100.0 * self.level,
                self.prompts.len(),
                all.join(", "),
                self.total
            )
        })
    }

    /// A row an N: predicted with its interval, observed, error, absolute error, coverage.
    pub fn table(&self) -> Table {
        let columns = [
            "n",
            "predicted [95%, rewards]",
            "observed",
            "error [95%, prompts]",
            "absolute error",
            "coverage",
        ];
        let mut table = Table::new(columns.map(|c| (c, Align::Right)));
        let number = |v: Option<f64>| v.map_or(Cell::Empty, |value| Cell::Number { value, digits: 3 });
        let interval = |i: Option<Interval>| tables::interval(i, 3);
        for p in &self.points {
            table.push(vec![
                p.n.into(),
                interval(p.predicted),
                number(p.observed),
                interval(p.error),
                number(p.absolute_error),
                number(p.coverage),
            ]);
        }
        table
    }

    /// The table under a heading that says what was done.
    pub fn markdown(&self) -> String {
        let note = self
            .note
            .as_ref()
            .map_or(String::new(), |n| format!(" Note: {n}."));
        let warning = self
            .warning()
            .map_or(String::new(), |w| format!("\nWarning: {w}.\n"));
        format!(
            "# Best-of-n predicted from {} rewards\n\n{} prompts{}; the tail is the upper {} of each one's first {} rewards, the \
             predictor {}. Predicted intervals: {} resamples of those rewards. Observed: the unbiased estimate from all {} \
             rewards; coverage is the share of prompts whose own interval holds it. No prediction where the best of n lies below \
             the tail's mean.{note}\n\n{}{warning}",
            self.first,
            self.prompts.len(),
            match self.prompts.len() {
                1 => " (one has no spread over prompts, and so its error no interval: n/a)",
                _ => "",
            },
            self.alpha,
            self.first,
            self.predictor.name(),
            self.resamples,
            self.total,
            self.table().markdown()
        )
    }

    /// Predicted with its interval, and observed, over n.
    pub fn plot(&self) -> Plot {
        let predicted = self.points.iter().filter_map(|p| {
            p.predicted.map(|i| PlotPoint {
                x: p.n as f64,
                y: i.mean,
                interval: i.ends(),
            })
        });
        let observed = self
            .points
            .iter()
            .filter_map(|p| p.observed.map(|y| (p.n as f64, y)));
        Plot::best_of_n(
            format!("Best-of-n predicted from the first {} rewards", self.first),
            "best-of-n reward",
            vec![
                Series::line(format!("observed (n ≤ {})", self.total), observed),
                Series {
                    label: format!("predicted from {} (95%)", self.first),
                    points: predicted.collect(),
                },
            ],
        )
    }
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
