//! Tail linearity: are the upper quantiles of a prompt's rewards those of a Gaussian (arXiv 2605.10716, assumption 1)?
//!
//! For each prompt the upper rewards r_(i) are regressed on Φ⁻¹(p_i), p_i = (i − ½)/n, for p_i in a range (default 0.8 to
//! 0.99). R² = 1 is a Gaussian tail. Samples of a Gaussian do not reach 1 either, so the R² of normal draws with the same
//! numbers of samples stands beside it.

use serde::Serialize;

use super::input::Rewards;
use super::simulate::{Draws, replicate};
use crate::advantage::tail::normal_quantile;
use crate::error::{Error, Result};
use crate::report::{Align, Cell, Plot, Series, Table};

/// Fewest quantiles for a regression.
const LEAST_POINTS: usize = 5;
/// Normal samples behind the reference, for each number of samples.
const REFERENCE: u64 = 2_000;

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TailsConfig {
    /// Least p.
    pub low: f64,
    /// Greatest p.
    pub high: f64,
    /// Seed of the reference.
    pub seed: u64,
}

impl TailsConfig {
    /// p from 0.8 to 0.99.
    pub const DEFAULT: Self = Self {
        low: 0.8,
        high: 0.99,
        seed: 1,
    };

    /// The indices (from 0, ascending rewards) of `n` rewards whose p is in the range.
    fn range(&self, n: usize) -> std::ops::Range<usize> {
        // p_i = (i + ½)/n; a hair of slack keeps an end that is a position up to rounding.
        let first = (self.low * n as f64 - 0.5 - 1e-9).ceil().max(0.0) as usize;
        let last = (self.high * n as f64 - 0.5 + 1e-9).floor();
        let end = if last < 0.0 { 0 } else { (last as usize + 1).min(n) };
        first..end.max(first)
    }

    fn check(&self) -> Result<()> {
        if self.low > 0.0 && self.low < self.high && self.high < 1.0 {
            return Ok(());
        }
        Err(Error::user(format!(
            "--from {} --to {}: the range of p must satisfy 0 < from < to < 1, such as 0.8 to 0.99",
            self.low, self.high
        )))
    }
}

/// Order statistics of R² over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Median.
    pub median: f64,
    /// Mean.
    pub mean: f64,
    /// 10th percentile.
    pub p10: f64,
    /// Share of at least 0.95.
    pub share_at_least_95: f64,
}

/// One evaluation's tails.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalTails {
    /// The evaluation.
    pub label: String,
    /// Prompts.
    pub prompts: usize,
    /// Prompts whose upper rewards are all equal: they have no R² and are left out.
    pub flat: usize,
    /// R² over the other prompts; `None` when all are flat.
    pub r2: Option<Summary>,
    /// R² of normal samples of the same sizes.
    pub gaussian: Summary,
    /// R² by prompt, in the evaluation's order; `None` for a flat one.
    pub by_prompt: Vec<Option<f64>>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tails {
    /// Settings.
    pub config: TailsConfig,
    /// By evaluation.
    pub evals: Vec<EvalTails>,
}

/// Measures the tails of several evaluations.
///
/// # Errors
/// A user error: a range that is none, or a prompt with too few rewards in it (naming the least number that works).
pub fn tails(evals: &[Rewards], config: &TailsConfig) -> Result<Tails> {
    config.check()?;
    let evals = evals.iter().map(|e| one(e, config)).collect::<Result<_>>()?;
    Ok(Tails {
        config: *config,
        evals,
    })
}

fn one(eval: &Rewards, config: &TailsConfig) -> Result<EvalTails> {
    let mut by_prompt = Vec::with_capacity(eval.prompts.len());
    let mut sizes: Vec<usize> = Vec::new();
    for (name, rewards) in &eval.prompts {
        if config.range(rewards.len()).len() < LEAST_POINTS {
            let least = (1..=1_000_000).find(|&n| config.range(n).len() >= LEAST_POINTS);
            return Err(Error::user(format!(
                "{}: prompt {name} has {} rewards, which put fewer than {LEAST_POINTS} between the quantiles {} and {}: {}",
                eval.path.display(),
                rewards.len(),
                config.low,
                config.high,
                least.map_or("widen --from and --to".into(), |n| format!(
                    "evaluate with at least {n} samples a prompt, or widen --from and --to"
                ))
            )));
        }
        let mut sorted = rewards.clone();
        sorted.sort_by(f64::total_cmp);
        by_prompt.push(linearity(&sorted, config));
        sizes.push(rewards.len());
    }
    let mut found: Vec<f64> = by_prompt.iter().flatten().copied().collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut normal = Vec::new();
    for n in sizes {
        replicate(
            config.seed,
            n as u64,
            REFERENCE,
            |draws, count| reference(draws, n, count, config),
            |part| normal.extend(part),
        );
    }
    let gaussian = summary(&mut normal).ok_or_else(|| Error::internal("normal samples with flat tails"))?;
    Ok(EvalTails {
        label: eval.label.clone(),
        prompts: by_prompt.len(),
        flat: by_prompt.len() - found.len(),
        r2: summary(&mut found),
        gaussian,
        by_prompt,
    })
}

/// R² of ascending rewards on normal quantiles over the range; `None` where they are all equal.
fn linearity(ascending: &[f64], config: &TailsConfig) -> Option<f64> {
    let (n, range) = (ascending.len() as f64, config.range(ascending.len()));
    let base = ascending[range.start];
    let points: Vec<(f64, f64)> = range
        .map(|i| (normal_quantile((i as f64 + 0.5) / n), ascending[i] - base))
        .collect();
    let count = points.len() as f64;
    let (mx, my) = points
        .iter()
        .fold((0.0, 0.0), |(a, b), (x, y)| (a + x / count, b + y / count));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in &points {
        xx += (x - mx) * (x - mx);
        xy += (x - mx) * (y - my);
        yy += (y - my) * (y - my);
    }
    (points.last().is_some_and(|p| p.1 > 0.0) && yy > 0.0).then(|| xy * xy / (xx * yy))
}

fn reference(draws: &mut Draws, n: usize, count: u64, config: &TailsConfig) -> Vec<f64> {
    let mut sample = vec![0.0; n];
    let one = |_| {
        draws.normals(&mut sample);
        sample.sort_by(f64::total_cmp);
        linearity(&sample, config)
    };
    (0..count).filter_map(one).collect()
}

fn summary(values: &mut [f64]) -> Option<Summary> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    Some(Summary {
        median: quantile(values, 0.5),
        mean: values.iter().sum::<f64>() / n,
        p10: quantile(values, 0.1),
        share_at_least_95: values.iter().filter(|v| **v >= 0.95).count() as f64 / n,
    })
}

/// The p-quantile of ascending values, linear between neighbours (as NumPy's default).
pub(super) fn quantile(ascending: &[f64], p: f64) -> f64 {
    let place = p * (ascending.len() - 1) as f64;
    let (i, t) = (place as usize, place.fract());
    let next = ascending[(i + 1).min(ascending.len() - 1)];
    ascending[i] + t * (next - ascending[i])
}

impl Tails {
    /// A row an evaluation, and under each its Gaussian reference.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("rewards", Align::Left),
            ("prompts", Align::Right),
            ("flat", Align::Right),
            ("R² median", Align::Right),
            ("mean", Align::Right),
            ("p10", Align::Right),
            ("share ≥ 0.95", Align::Right),
        ]);
        let number = |value: f64| Cell::Number { value, digits: 3 };
        for e in &self.evals {
            let cells = |s: Option<Summary>| match s {
                Some(s) => [s.median, s.mean, s.p10, s.share_at_least_95]
                    .map(number)
                    .to_vec(),
                None => vec![Cell::Empty; 4],
            };
            let mut row = vec![e.label.clone().into(), e.prompts.into(), e.flat.into()];
            row.extend(cells(e.r2));
            table.push(row);
            let mut row = vec![
                format!("normal samples of {}'s sizes", e.label).into(),
                Cell::Empty,
                Cell::Empty,
            ];
            row.extend(cells(Some(e.gaussian)));
            table.push(row);
        }
        table
    }

    /// R² from the worst prompt to the best; `None` where every prompt of every evaluation is flat.
    pub fn plot(&self) -> Option<Plot> {
        let series = |e: &EvalTails| {
            let mut values: Vec<f64> = e.by_prompt.iter().flatten().copied().collect();
            values.sort_by(f64::total_cmp);
            let n = values.len() as f64;
            Series::line(
                e.label.clone(),
                values
                    .into_iter()
                    .enumerate()
                    .map(move |(i, r2)| ((i as f64 + 0.5) / n, r2)),
            )
        };
        let series: Vec<Series> = self
            .evals
            .iter()
            .map(series)
            .filter(|s| !s.points.is_empty())
            .collect();
        (!series.is_empty()).then(|| Plot {
            title: format!(
                "Gaussian tails: quantiles {} to {}",
                self.config.low, self.config.high
            ),
            x_label: "share of prompts with a smaller R²".into(),
            y_label: "R² of upper rewards on normal quantiles".into(),
            x_scale: crate::report::XScale::Linear,
            series,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn eval(prompts: Vec<Vec<f64>>) -> Rewards {
        Rewards {
            label: "e".into(),
            path: "e.jsonl".into(),
            prompts: prompts
                .into_iter()
                .enumerate()
                .map(|(i, r)| (i.to_string(), r))
                .collect(),
        }
    }

    fn grid(n: usize, f: impl Fn(f64) -> f64) -> Vec<f64> {
        (0..n).map(|i| f((i as f64 + 0.5) / n as f64)).collect()
    }

    #[test]
    fn a_normal_grid_is_linear_and_a_curved_one_is_not() {
        let normal = grid(256, |p| 1e4 + 0.01 * normal_quantile(p));
        let steps = grid(256, |p| f64::from(u8::from(p > 0.9)));
        let heavy = grid(256, |p| (1.0 - p).powf(-0.8));
        let flat = grid(256, |p| f64::from(u8::from(p > 0.5)));
        let found = tails(&[eval(vec![normal, steps, heavy, flat])], &TailsConfig::DEFAULT).unwrap();
        let e = &found.evals[0];
        let r2: Vec<f64> = e.by_prompt.iter().flatten().copied().collect();
        assert!(r2.len() == 3 && e.flat == 1 && e.by_prompt[3].is_none());
        assert!((r2[0] - 1.0).abs() < 1e-9, "{r2:?}");
        // The step at the middle of the range: a square wave against a line.
        assert!(r2[1] < 0.9 && r2[2] < 0.95 && r2[2] > 0.5, "{r2:?}");
        let s = e.r2.unwrap();
        assert_eq!(s.share_at_least_95, 1.0 / 3.0);
        assert!((s.median - r2[1].max(r2[2]).min(r2[0])).abs() < 1e-12);
        // 256 normal draws: the reference's median is near 0.97 (seen: 0.966).
        assert!(
            e.gaussian.median > 0.94 && e.gaussian.median < 0.99,
            "{:?}",
            e.gaussian
        );
        assert!(found.plot().is_some() && found.table().rows().len() == 2);
    }

    #[test]
    fn ranges_and_small_evaluations_are_refused_by_name() {
        let small = eval(vec![grid(8, |p| p)]);
        let error = tails(std::slice::from_ref(&small), &TailsConfig::DEFAULT).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("at least"),
            "{error}"
        );
        let least: usize = {
            let text = error.to_string();
            let tail = text.split("at least ").nth(1).unwrap();
            tail.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(tails(&[eval(vec![grid(least, |p| p)])], &TailsConfig::DEFAULT).is_ok());
        assert!(tails(&[eval(vec![grid(least - 1, |p| p)])], &TailsConfig::DEFAULT).is_err());
        for (low, high) in [(0.9, 0.8), (0.0, 0.9), (0.5, 1.0), (f64::NAN, 0.9)] {
            let config = TailsConfig { low, high, seed: 1 };
            assert!(
                tails(std::slice::from_ref(&small), &config)
                    .unwrap_err()
                    .to_string()
                    .contains("--from")
            );
        }
        let flat = tails(&[eval(vec![vec![1.0; 64]])], &TailsConfig::DEFAULT).unwrap();
        assert!(flat.evals[0].r2.is_none() && flat.plot().is_none());
    }
}
