//! Methods on the same prompts: best-of-n of each and differences to a baseline, with paired intervals over prompts.
//!
//! The protocol of TEA (arXiv 2605.10716, §5): grouped best-of-n, 1,000 paired resamples of prompts, 95% percentile
//! intervals, win/tie/loss by prompt.

mod agree;
mod report;
pub(crate) mod tables;
mod written;

pub use agree::{differences, read_entries};
pub use report::{Checked, Entry, Options, Report, Summary, Verdict, report};
pub use written::save_plot;

use serde::Serialize;

use super::best_of_n::{BestOfN, Estimator};
use super::bootstrap::{Bootstrap, Interval, WinTieLoss, win_tie_loss};
use crate::error::{Error, Result};

/// Methods under one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The judge.
    pub reward: String,
    /// The label of the method that the others are measured against.
    pub baseline: String,
    /// Every method, the baseline among them.
    pub methods: Vec<Method>,
}

/// One method's best-of-n.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Method {
    /// What tables call it.
    pub label: String,
    /// One row a size, ascending.
    pub rows: Vec<Row>,
}

/// Best-of-n at one n: means over prompts with their bootstrap intervals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Responses the best is taken of.
    pub n: usize,
    /// How the values were obtained.
    pub estimator: Estimator,
    /// The method's own value.
    pub value: Interval,
    /// Method − baseline, paired by prompt; none for the baseline.
    pub difference: Option<Interval>,
    /// Method against baseline, prompt by prompt; none for the baseline.
    pub outcome: Option<WinTieLoss>,
}

/// Compares methods by their best-of-n curves, which must be of the same prompts and sizes.
///
/// # Errors
/// A user error when there is no method number `baseline`, or the curves differ in prompts or sizes; as
/// [`Bootstrap::mean`].
pub fn compare(
    reward: &str,
    curves: &[(String, Vec<BestOfN>)],
    baseline: usize,
    bootstrap: &Bootstrap,
) -> Result<Comparison> {
    let Some((base_label, base)) = curves.get(baseline) else {
        return Err(Error::user(format!(
            "there is no method number {baseline} to compare with"
        )));
    };
    let row = |own: &BestOfN, base: &BestOfN, is_base: bool| -> Result<Row> {
        if own.n != base.n {
            return Err(Error::user(format!(
                "best-of-{} cannot be compared with best-of-{}",
                own.n, base.n
            )));
        }
        let (a, b) = (&own.per_prompt, &base.per_prompt);
        let other = !is_base;
        Ok(Row {
            n: own.n,
            estimator: own.estimator,
            value: bootstrap.mean(a)?,
            difference: other.then(|| bootstrap.paired_difference(a, b)).transpose()?,
            outcome: other.then(|| win_tie_loss(a, b)).transpose()?,
        })
    };
    let method = |(i, (label, curve)): (usize, &(String, Vec<BestOfN>))| {
        let rows = curve
            .iter()
            .zip(base)
            .map(|(own, base)| row(own, base, i == baseline))
            .collect::<Result<_>>()?;
        Ok(Method {
            label: label.clone(),
            rows,
        })
    };
    Ok(Comparison {
        reward: reward.to_string(),
        baseline: base_label.clone(),
        methods: curves.iter().enumerate().map(method).collect::<Result<_>>()?,
    })
}

impl Comparison {
    /// A method's row at one n.
    pub fn at(&self, label: &str, n: usize) -> Option<&Row> {
        let method = self.methods.iter().find(|m| m.label == label)?;
        method.rows.iter().find(|row| row.n == n)
    }

    /// The sizes, ascending.
    pub fn sizes(&self) -> Vec<usize> {
        self.methods
            .first()
            .map_or_else(Vec::new, |m| m.rows.iter().map(|row| row.n).collect())
    }

    /// The methods other than the baseline.
    pub fn others(&self) -> impl Iterator<Item = &Method> {
        self.methods.iter().filter(|m| m.label != self.baseline)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::Alpha;
    use crate::eval::curve;

    #[test]
    fn a_constant_gain_shows_at_every_n_with_no_uncertainty() {
        let base: Vec<Vec<f64>> = (0..6)
            .map(|p| (0..4).map(|s| f64::from((p * 7 + s * 5) % 11)).collect())
            .collect();
        let trained: Vec<Vec<f64>> = base.iter().map(|g| g.iter().map(|r| r + 0.5).collect()).collect();
        let of = |rewards: &[Vec<f64>]| curve(rewards, &[1, 2, 4], Alpha::default()).unwrap();
        let curves = [
            ("base".to_string(), of(&base)),
            ("trained".to_string(), of(&trained)),
        ];
        let c = compare("judge", &curves, 0, &Bootstrap::default()).unwrap();
        assert_eq!((c.baseline.as_str(), c.sizes()), ("base", vec![1, 2, 4]));
        for (row, own) in c.methods[1].rows.iter().zip(&c.methods[0].rows) {
            let (d, o) = (row.difference.unwrap(), row.outcome.unwrap());
            assert!((d.mean - 0.5).abs() < 1e-12);
            let (low, high) = d.ends().unwrap();
            assert!((high - low).abs() < 1e-12);
            assert!((row.value.mean - own.value.mean - 0.5).abs() < 1e-12);
            assert_eq!((o.wins, o.losses), (6, 0));
            assert_eq!((own.difference, own.outcome), (None, None));
        }
        let best: f64 = base
            .iter()
            .map(|g| g.iter().copied().fold(f64::MIN, f64::max))
            .sum::<f64>()
            / 6.0;
        assert!((c.at("base", 4).unwrap().value.mean - best).abs() < 1e-12);
        let text = c.pair_table(&c.methods[1], 2).markdown();
        assert!(
            text.contains("0.50 [0.50, 0.50]") && text.contains("6/0/0"),
            "{text}"
        );
        assert!(c.plot("t").svg().unwrap().contains("trained"));
        // The same curves the other way round.
        let c = compare("judge", &curves, 1, &Bootstrap::default()).unwrap();
        assert_eq!(c.at("base", 2).unwrap().outcome.unwrap().losses, 6);
        assert!(compare("judge", &curves, 2, &Bootstrap::default()).is_err());
    }
}
