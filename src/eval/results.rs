//! One evaluation in numbers: best-of-n curves under every judge, lengths, files.

use std::path::Path;

use serde::Serialize;

use super::best_of_n::{
    BestOfN, Estimator, curve_of, extrapolated, grouped, picked, powers_of_two, unbiased,
};
use super::bootstrap::{Bootstrap, Interval, told};
use super::compare::save_plot;
use super::compare::tables::{interval, points};
use super::store::{EvalMeta, Judge, StoredEval};
use crate::advantage::Alpha;
use crate::advantage::tail::kappa;
use crate::error::{Error, Result};
use crate::model::save::write_atomic;
use crate::report::{Align, Plot, Series, Table};
use crate::words::markdown;

/// Decimals of rewards.
const DIGITS: usize = 3;

/// Everything that `results.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    /// The settings.
    pub meta: EvalMeta,
    /// Tail share of the extrapolation.
    pub alpha: String,
    /// One entry a judge.
    pub judges: Vec<Curve>,
    /// Mean length of the responses in tokens.
    pub mean_length: f64,
    /// Share of responses that the length limit cut off.
    pub truncated: f64,
}

/// One judge's best-of-n curve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Which judge.
    pub judge: Judge,
    /// Its name.
    pub reward: String,
    /// Mean reward of all responses.
    pub mean: f64,
    /// Ascending in n.
    pub points: Vec<Point>,
}

/// Best-of-n at one n: means over prompts with their bootstrap intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Responses the best is taken of.
    pub n: usize,
    /// Mean over consecutive groups, where n divides the number of samples.
    pub grouped: Option<Interval>,
    /// Mean over all subsets, up to the number of samples.
    pub unbiased: Option<Interval>,
    /// The Gaussian tail's prediction, beyond the number of samples: not a measurement. None where κ(α, n) ≤ 0 or the share
    /// α of the samples is fewer than 2.
    pub extrapolated: Option<Interval>,
    /// For the second judge: its value of the responses that the first one picks.
    pub picked_by_main: Option<Interval>,
}

impl Results {
    /// Computes the curves up to the number of samples, and extrapolated ones beyond it up to `most`.
    ///
    /// # Errors
    /// As [`curve_of`] and [`Bootstrap::mean`].
    pub fn of(eval: &StoredEval, alpha: Alpha, most: usize, bootstrap: &Bootstrap) -> Result<Self> {
        let mut judges = Vec::new();
        let main = eval.rewards();
        for (judge, reward) in [
            (Judge::Main, Some(&eval.meta.reward_model)),
            (Judge::Also, eval.meta.also_reward.as_ref()),
        ] {
            let Some(reward) = reward else { continue };
            let values = eval.judged(judge, "this evaluation")?;
            let count = values.len() * eval.meta.samples;
            let sizes = sizes(eval.meta.samples, most);
            let point = |&n: &usize| match judge {
                Judge::Main => measure(&values, None, n, alpha, bootstrap),
                Judge::Also => measure(&values, Some(&main), n, alpha, bootstrap),
            };
            judges.push(Curve {
                judge,
                reward: reward.clone(),
                mean: values.iter().flatten().sum::<f64>() / count as f64,
                points: sizes.iter().map(point).collect::<Result<_>>()?,
            });
        }
        Ok(Self {
            meta: eval.meta.clone(),
            alpha: alpha.to_string(),
            judges,
            mean_length: eval.mean_length(),
            truncated: eval.truncated_ratio(),
        })
    }

    /// A judge's curve.
    pub fn judge(&self, judge: Judge) -> Option<&Curve> {
        self.judges.iter().find(|c| c.judge == judge)
    }

    /// The tables in Markdown.
    pub fn markdown(&self) -> String {
        let m = &self.meta;
        let mut text = format!(
            "# Best of n of {}{}\n\n{} samples of each of {} prompts ({}, seed {}). {}\n",
            markdown(&m.model),
            m.adapter
                .as_ref()
                .map_or(String::new(), |a| format!(" with {}", markdown(a))),
            m.samples,
            m.num_prompts,
            markdown(&m.prompts_file),
            m.seed,
            told(m.num_prompts, "bootstrap over prompts")
        );
        for curve in &self.judges {
            let what = match curve.judge {
                Judge::Main => "",
                Judge::Also => " (second judge)",
            };
            text += &format!(
                "\n## {}{what}\n\n{}",
                markdown(&curve.reward),
                curve.table().markdown()
            );
        }
        text += &format!(
            "\nMean length {:.1} tokens, cut off {:.1}%. {}\n",
            self.mean_length,
            100.0 * self.truncated,
            self.beyond()
        );
        text
    }

    /// What the tables say beyond the number of samples.
    fn beyond(&self) -> String {
        let (samples, alpha) = (self.meta.samples, &self.alpha);
        let mut points = self.judges.iter().flat_map(|c| &c.points);
        if points.any(|p| p.extrapolated.is_some()) {
            format!(
                "Values beyond {samples} are extrapolated by the Gaussian tail (alpha = {alpha}), not measured."
            )
        } else {
            format!(
                "Nothing is extrapolated beyond {samples}: no size asked for has a prediction from alpha = {alpha} of {samples} \
                 samples (at least 2 of them must be in the tail)."
            )
        }
    }

    /// Writes `results.md`, `results.csv`, `best_of_n.svg` and `.png` (`best_of_n-also` for a second judge), and last
    /// `results.json`, whose presence says that the evaluation is finished.
    ///
    /// # Errors
    /// An I/O error naming the file.
    pub fn write(&self, dir: &Path) -> Result<()> {
        for curve in &self.judges {
            let name = match curve.judge {
                Judge::Main => "best_of_n",
                Judge::Also => "best_of_n-also",
            };
            save_plot(&curve.plot(&self.alpha), dir, name)?;
        }
        write_atomic(&dir.join("results.md"), self.markdown().as_bytes())?;
        write_atomic(&dir.join("results.csv"), self.long_table().csv().as_bytes())?;
        write_atomic(&dir.join("results.json"), self.json()?.as_bytes())
    }

    /// `results.json`.
    ///
    /// # Errors
    /// Never.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).map_err(Error::internal)? + "\n")
    }

    fn long_table(&self) -> Table {
        let columns = ["reward", "n", "estimator", "best_of_n"];
        let mut table = Table::new(columns.map(|c| (c, Align::Left)));
        for (curve, point) in self
            .judges
            .iter()
            .flat_map(|c| c.points.iter().map(move |p| (c, p)))
        {
            for (name, value) in point.named() {
                if value.is_some() {
                    table.push(vec![
                        curve.reward.as_str().into(),
                        point.n.into(),
                        name.into(),
                        interval(value, DIGITS),
                    ]);
                }
            }
        }
        table
    }
}

impl Point {
    /// Its values with their names.
    fn named(&self) -> [(&'static str, Option<Interval>); 4] {
        [
            (Estimator::Grouped.name(), self.grouped),
            (Estimator::Unbiased.name(), self.unbiased),
            (Estimator::Extrapolated.name(), self.extrapolated),
            ("picked by the first judge", self.picked_by_main),
        ]
    }
}

impl Curve {
    /// A row a size, a column an estimator.
    pub fn table(&self) -> Table {
        let columns = match self.judge {
            Judge::Main => 3,
            Judge::Also => 4,
        };
        let names = self.points.first().map_or_else(Vec::new, |p| p.named().to_vec());
        let names = names
            .iter()
            .take(columns)
            .map(|(name, _)| (format!("{name} [95%]"), Align::Right));
        let mut table = Table::new(std::iter::once(("best of".to_string(), Align::Right)).chain(names));
        for point in &self.points {
            let values = point.named().into_iter().take(columns);
            // A dash where the extrapolation would stand, and the law says nothing.
            let silent = point.grouped.or(point.unbiased).or(point.extrapolated).is_none();
            let cells = values.map(|(name, value)| match value {
                None if silent && name == Estimator::Extrapolated.name() => "–".into(),
                value => interval(value, DIGITS),
            });
            table.push(std::iter::once(point.n.into()).chain(cells).collect());
        }
        table
    }

    /// The measured curve, and the extrapolated one from its end.
    pub fn plot(&self, alpha: &str) -> Plot {
        let series = |label: &str, value: &dyn Fn(&Point) -> Option<Interval>| Series {
            label: label.to_string(),
            points: points(self.points.iter().filter_map(|p| Some((p.n, value(p)?)))),
        };
        let mut lines = vec![series("measured", &|p| p.grouped)];
        let last = self
            .points
            .iter()
            .rfind(|p| p.grouped.is_some())
            .map_or(0, |p| p.n);
        if self.points.iter().any(|p| p.extrapolated.is_some()) {
            let label = format!("extrapolated (Gaussian tail, alpha = {alpha})");
            let joined = |p: &Point| p.extrapolated.or(p.grouped.filter(|_| p.n == last));
            lines.push(series(&label, &joined));
        }
        if self.points.iter().any(|p| p.picked_by_main.is_some()) {
            lines.push(series("picked by the first judge", &|p| p.picked_by_main));
        }
        Plot::best_of_n("Best of n", format!("best-of-n {}", self.reward), lines)
    }
}

/// Powers of two up to the number of samples, that number, and on by doubling up to `most`.
fn sizes(samples: usize, most: usize) -> Vec<usize> {
    let mut sizes = powers_of_two(samples);
    if !samples.is_power_of_two() {
        sizes.push(samples);
    }
    let beyond = std::iter::successors(samples.checked_mul(2), |n| n.checked_mul(2));
    sizes.extend(beyond.take_while(|&n| n <= most));
    sizes
}

/// Every estimator at one n; `main` are the first judge's rewards where `values` are the second's.
fn measure(
    values: &[Vec<f64>],
    main: Option<&Vec<Vec<f64>>>,
    n: usize,
    alpha: Alpha,
    bootstrap: &Bootstrap,
) -> Result<Point> {
    let samples = values.first().map_or(0, Vec::len);
    let of = |when: bool, estimator, one: &dyn Fn(usize, usize) -> Result<f64>| -> Result<Option<Interval>> {
        if !when {
            return Ok(None);
        }
        let curve: Vec<BestOfN> = curve_of(estimator, values.len(), &[n], one)?;
        curve.first().map(|c| bootstrap.mean(&c.per_prompt)).transpose()
    };
    let whole = samples.is_multiple_of(n);
    // Without a tail, and where κ ≤ 0, nothing is predicted, whatever the rewards.
    let predicts = n > samples && alpha.has_tail(samples) && kappa(alpha, n as u64)? > 0.0;
    let predict = |p: usize, n: usize| {
        extrapolated(&values[p], n, alpha)?.ok_or_else(|| Error::internal("the tail predicts"))
    };
    let pick = |p: usize, n: usize| match main {
        Some(main) => picked(&main[p], &values[p], n),
        None => Err(Error::internal("one judge picks nothing for itself")),
    };
    Ok(Point {
        n,
        grouped: of(whole, Estimator::Grouped, &|p, n| grouped(&values[p], n))?,
        unbiased: of(n <= samples, Estimator::Unbiased, &|p, n| unbiased(&values[p], n))?,
        extrapolated: of(predicts, Estimator::Extrapolated, &predict)?,
        picked_by_main: of(whole && main.is_some(), Estimator::Grouped, &pick)?,
    })
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
