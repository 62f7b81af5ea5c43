//! A report as Markdown, CSV, JSON and plots.

use std::path::Path;

use super::report::{Checked, Report, Summary};
use super::tables::{interval, number};
use super::{Comparison, Method, Row};
use crate::error::{Error, Result};
use crate::eval::bootstrap::told;
use crate::eval::store::Judge;
use crate::file::dirs;
use crate::model::save::write_atomic;
use crate::report::{Align, Cell, Format, Plot, Table};
use crate::words::markdown;

/// Decimals of rewards.
const DIGITS: usize = 3;

impl Report {
    /// The report in a format: Markdown with every table; CSV with one line a judge, method and n; JSON with all of it.
    ///
    /// # Errors
    /// Never for a report made by [`report`](super::report()).
    pub fn render(&self, format: Format) -> Result<String> {
        match format {
            Format::Md => Ok(self.markdown()),
            Format::Csv => Ok(self.long_table().csv()),
            Format::Json => Ok(serde_json::to_string_pretty(self).map_err(Error::internal)? + "\n"),
        }
    }

    /// Writes `compare.md`, `compare.csv`, `compare.json`, `frontier.svg`, `frontier.png`, and `frontier-held-out` where
    /// there is a second judge.
    ///
    /// # Errors
    /// An I/O error naming the file.
    pub fn write(&self, dir: &Path) -> Result<()> {
        dirs::make(dir)?;
        save_plot(&self.frontier(), dir, "frontier")?;
        if let Some(checked) = &self.held_out {
            let title = format!(
                "{} of the response that {} picks",
                checked.comparison.reward, self.comparison.reward
            );
            save_plot(&checked.comparison.plot(&title), dir, "frontier-held-out")?;
        }
        for (name, format) in [
            ("compare.md", Format::Md),
            ("compare.csv", Format::Csv),
            ("compare.json", Format::Json),
        ] {
            write_atomic(&dir.join(name), self.render(format)?.as_bytes())?;
        }
        Ok(())
    }

    /// Best-of-n against n, every method with its interval.
    pub fn frontier(&self) -> Plot {
        self.comparison
            .plot(&format!("Best of n on {} prompts", self.prompts))
    }

    fn markdown(&self) -> String {
        let c = &self.comparison;
        let mut text = format!(
            "# Best of n on {} prompts under {}\n\n{} Baseline: {}.\n",
            self.prompts,
            markdown(&c.reward),
            told(
                self.prompts,
                &format!(
                    "paired bootstrap over prompts ({} resamples, seed {})",
                    self.resamples, self.bootstrap_seed
                )
            ),
            markdown(&c.baseline)
        );
        for note in &self.notes {
            text += &format!("\nNote: {}.\n", markdown(note));
        }
        let mut section =
            |title: &str, table: &Table| text += &format!("\n## {}\n\n{}", markdown(title), table.markdown());
        section("Best of n", &c.values(DIGITS));
        section(
            &format!("Difference to {} [95%]", c.baseline),
            &c.differences(DIGITS),
        );
        section(
            &format!("Win/tie/loss against {}, by prompt", c.baseline),
            &c.outcomes(),
        );
        section("Responses", &self.responses());
        if let Some(table) = self.budgets() {
            section("Training budget m and deployment budget n", &table);
        }
        if let Some(checked) = &self.held_out {
            let held = &checked.comparison;
            let title = format!(
                "Held-out reward {} of the response that {} picks",
                held.reward, c.reward
            );
            section(&title, &held.values(DIGITS));
            section(
                &format!("Its difference to {} [95%]", held.baseline),
                &held.differences(DIGITS),
            );
            section("Both rewards together", &checked.verdicts());
        }
        text
    }

    fn responses(&self) -> Table {
        let columns = ["method", "policy", "checkpoint"].map(|c| (c, Align::Left));
        let numbers = ["step", "samples", "mean reward", "mean length", "cut off"].map(|c| (c, Align::Right));
        let mut table = Table::new(columns.into_iter().chain(numbers));
        for m in &self.methods {
            table.push(vec![
                m.label.as_str().into(),
                m.model.as_str().into(),
                text(m.checkpoint.as_deref().or(m.adapter.as_deref())),
                integer(m.step),
                m.samples.into(),
                number(m.mean_reward, DIGITS),
                number(m.mean_length, 1),
                format!("{:.1}%", 100.0 * m.truncated).into(),
            ]);
        }
        table
    }

    /// Where training runs are known: what each was trained with, and its best-of-n. `None` where none is known.
    fn budgets(&self) -> Option<Table> {
        let rows = self.methods.iter().zip(&self.comparison.methods);
        let mut rows: Vec<(&Summary, &Method)> = rows.filter(|(s, _)| s.advantage.is_some()).collect();
        if rows.is_empty() {
            return None;
        }
        rows.sort_by_key(|(s, _)| (s.advantage.clone(), s.num_generations, s.bon));
        let columns = [("rule", Align::Left), ("method", Align::Left)];
        let numbers = ["m", "N", "responses trained on"].map(|c| (c, Align::Right));
        let columns = columns
            .into_iter()
            .chain(numbers)
            .map(|(c, a)| (c.to_string(), a));
        let sizes = self.comparison.sizes();
        let sizes = sizes.iter().map(|n| (format!("bo{n}"), Align::Right));
        let mut table = Table::new(columns.chain(sizes));
        for (summary, method) in rows {
            let about = [
                text(summary.advantage.as_deref()),
                summary.label.as_str().into(),
                integer(summary.num_generations.map(|m| m as u64)),
                integer(summary.bon),
                integer(summary.trained_on),
            ];
            let values = method.rows.iter().map(|row| number(row.value.mean, DIGITS));
            table.push(about.into_iter().chain(values).collect());
        }
        Some(table)
    }

    /// Everything in one table: a line a judge, method and n.
    fn long_table(&self) -> Table {
        let columns = [
            "reward",
            "method",
            "n",
            "estimator",
            "best_of_n",
            "difference",
            "wins",
            "ties",
            "losses",
            "mean_length",
            "truncated",
        ];
        let mut table = Table::new(columns.map(|c| (c, Align::Left)));
        let judge = match self.judge {
            Judge::Main => "main",
            Judge::Also => "also",
        };
        self.push_long(&mut table, judge, &self.comparison);
        if let Some(checked) = &self.held_out {
            self.push_long(&mut table, "held_out", &checked.comparison);
        }
        table
    }

    fn push_long(&self, table: &mut Table, judge: &str, comparison: &Comparison) {
        for (method, summary) in comparison.methods.iter().zip(&self.methods) {
            for row in &method.rows {
                table.push(long_row(judge, method, row, summary));
            }
        }
    }
}

fn long_row(judge: &str, method: &Method, row: &Row, summary: &Summary) -> Vec<Cell> {
    let count = |of: fn(&crate::eval::WinTieLoss) -> usize| row.outcome.as_ref().map(|o| of(o) as u64);
    vec![
        judge.into(),
        method.label.as_str().into(),
        row.n.into(),
        row.estimator.name().into(),
        interval(Some(row.value), DIGITS),
        interval(row.difference, DIGITS),
        integer(count(|o| o.wins)),
        integer(count(|o| o.ties)),
        integer(count(|o| o.losses)),
        number(summary.mean_length, 1),
        number(summary.truncated, DIGITS),
    ]
}

impl Checked {
    /// A line a method and n: both differences, and what they say together.
    fn verdicts(&self) -> Table {
        let columns = [
            ("method", Align::Left),
            ("best of", Align::Right),
            ("main [95%]", Align::Right),
            ("held-out [95%]", Align::Right),
            ("reading", Align::Left),
        ];
        let mut table = Table::new(columns);
        for v in &self.verdicts {
            table.push(vec![
                v.label.as_str().into(),
                v.n.into(),
                interval(Some(v.main), DIGITS),
                interval(Some(v.held_out), DIGITS),
                v.reading.into(),
            ]);
        }
        table
    }
}

fn text(value: Option<&str>) -> Cell {
    value.map_or(Cell::Empty, Into::into)
}

fn integer(value: Option<u64>) -> Cell {
    value.map_or(Cell::Empty, |n| Cell::Integer(n as i64))
}

/// Writes a plot as `NAME.svg` and `NAME.png`.
///
/// # Errors
/// An I/O error naming the file.
pub fn save_plot(plot: &Plot, dir: &Path, name: &str) -> Result<()> {
    for extension in ["svg", "png"] {
        plot.save(dir.join(format!("{name}.{extension}")))?;
    }
    Ok(())
}
