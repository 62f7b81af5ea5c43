//! Two policies on the same prompts: best-of-n of each and the difference, with paired intervals over prompts.

use serde::Serialize;

use super::best_of_n::{Estimator, curve};
use super::bootstrap::{Bootstrap, Interval, WinTieLoss, win_tie_loss};
use crate::advantage::Alpha;
use crate::error::Result;
use crate::report::{Align, Cell, Plot, PlotPoint, Series, Table};

/// Two policies under one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The judge.
    pub reward: String,
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
    /// The policy before training.
    pub base: Interval,
    /// The policy after.
    pub trained: Interval,
    /// Trained − base, paired by prompt.
    pub difference: Interval,
    /// Trained against base, prompt by prompt.
    pub outcome: WinTieLoss,
}

/// Compares two policies' rewards `[prompt][sample]` on the same prompts at several n.
///
/// # Errors
/// As [`curve`] and [`Bootstrap::paired_difference`].
pub fn compare(
    reward: &str,
    base: &[Vec<f64>],
    trained: &[Vec<f64>],
    sizes: &[usize],
    alpha: Alpha,
    bootstrap: &Bootstrap,
) -> Result<Comparison> {
    let rows = curve(base, sizes, alpha)?
        .into_iter()
        .zip(curve(trained, sizes, alpha)?)
        .map(|(b, t)| {
            Ok(Row {
                n: b.n,
                estimator: b.estimator,
                base: bootstrap.mean(&b.per_prompt)?,
                trained: bootstrap.mean(&t.per_prompt)?,
                difference: bootstrap.paired_difference(&t.per_prompt, &b.per_prompt)?,
                outcome: win_tie_loss(&t.per_prompt, &b.per_prompt)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Comparison {
        reward: reward.to_string(),
        rows,
    })
}

impl Comparison {
    /// The row of one n.
    pub fn at(&self, n: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.n == n)
    }

    /// A table: n, base, trained, their difference with its interval, and wins, ties, losses of trained over base.
    pub fn table(&self, digits: usize) -> Table {
        let columns = [
            "best of",
            "base",
            "trained",
            "trained − base [95%]",
            "win/tie/loss",
        ];
        let mut table = Table::new(columns.map(|c| (c, Align::Right)));
        for row in &self.rows {
            let number = |i: Interval| Cell::Number {
                value: i.mean,
                digits,
            };
            let o = row.outcome;
            table.push(vec![
                row.n.into(),
                number(row.base),
                number(row.trained),
                Cell::Interval {
                    mean: row.difference.mean,
                    low: row.difference.low,
                    high: row.difference.high,
                    digits,
                },
                format!("{}/{}/{}", o.wins, o.ties, o.losses).into(),
            ]);
        }
        table
    }

    /// Both curves with their intervals over prompts.
    pub fn plot(&self, title: &str) -> Plot {
        let series = |label: &str, value: fn(&Row) -> Interval| Series {
            label: label.to_string(),
            points: self
                .rows
                .iter()
                .map(|row| {
                    let i = value(row);
                    PlotPoint {
                        x: row.n as f64,
                        y: i.mean,
                        interval: Some((i.low, i.high)),
                    }
                })
                .collect(),
        };
        Plot::best_of_n(
            title,
            format!("best-of-n {}", self.reward),
            vec![series("base", |r| r.base), series("trained", |r| r.trained)],
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_constant_gain_shows_at_every_n_with_no_uncertainty() {
        let base: Vec<Vec<f64>> = (0..6)
            .map(|p| (0..4).map(|s| f64::from((p * 7 + s * 5) % 11)).collect())
            .collect();
        let trained: Vec<Vec<f64>> = base.iter().map(|g| g.iter().map(|r| r + 0.5).collect()).collect();
        let c = compare(
            "judge",
            &base,
            &trained,
            &[1, 2, 4],
            Alpha::default(),
            &Bootstrap::default(),
        )
        .unwrap();
        for row in &c.rows {
            assert!((row.difference.mean - 0.5).abs() < 1e-12);
            assert!((row.difference.high - row.difference.low).abs() < 1e-12);
            assert!((row.trained.mean - row.base.mean - 0.5).abs() < 1e-12);
            assert_eq!((row.outcome.wins, row.outcome.losses), (6, 0));
        }
        let best: f64 = base
            .iter()
            .map(|g| g.iter().copied().fold(f64::MIN, f64::max))
            .sum::<f64>()
            / 6.0;
        assert!((c.at(4).unwrap().base.mean - best).abs() < 1e-12);
        let text = c.table(2).markdown();
        assert!(
            text.contains("0.50 [0.50, 0.50]") && text.contains("6/0/0"),
            "{text}"
        );
        assert!(c.plot("t").svg().unwrap().contains("trained"));
    }
}
