//! A sweep's report as tables and plots.

use super::report::{Judged, Policy, Report, Row, Versus};
use crate::eval::Interval;
use crate::eval::bootstrap::told;
use crate::eval::compare::tables;
use crate::report::{Align, Cell, Plot, PlotPoint, Series, Table};
use crate::words::markdown;

/// Decimals shown.
const DIGITS: usize = 3;

impl Report {
    /// One line a judge, policy and n, with everything.
    pub fn long(&self) -> Table {
        let left = ["judge", "method", "checkpoint"];
        let right = [
            "seeds",
            "seeds missing",
            "n",
            "best of n [95%]",
            "sd over seeds",
            "− base [95%]",
            "wins over base",
            "ties with base",
            "losses to base",
            "− baseline [95%]",
            "wins over baseline",
            "ties with baseline",
            "losses to baseline",
            "mean length",
            "truncated",
            "train seconds",
        ];
        let columns = left.map(|c| (c, Align::Left)).into_iter();
        let mut table = Table::new(columns.chain(right.map(|c| (c, Align::Right))));
        for judged in &self.judges {
            for p in &judged.policies {
                for row in &p.rows {
                    let mut cells: Vec<Cell> = vec![
                        judged.reward.as_str().into(),
                        p.method.as_str().into(),
                        p.checkpoint.unwrap_or("").into(),
                        p.seeds.len().into(),
                        p.missing_seeds.len().into(),
                        row.n.into(),
                        interval(Some(row.mean)),
                        number(row.seed_sd, DIGITS + 1),
                    ];
                    for versus in [row.vs_base, row.vs_baseline] {
                        cells.push(interval(versus.map(|v| v.difference)));
                        let counts = versus.map(|v| [v.outcome.wins, v.outcome.ties, v.outcome.losses]);
                        cells.extend((0..3).map(|i| counts.map_or(Cell::Empty, |c| c[i].into())));
                    }
                    cells.extend([
                        number(Some(p.mean_length), 1),
                        number(Some(p.truncated), 3),
                        number(p.train_seconds, 0),
                    ]);
                    table.push(cells);
                }
            }
        }
        table
    }

    /// table.md.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Best of n, by method\n\n{} prompts × {} samples. Values are means over prompts and seeds. {} sd: over the seeds' means.\n",
            self.num_prompts,
            self.samples,
            told(
                self.num_prompts,
                "paired bootstrap over prompts of the seeds' means"
            )
        );
        for note in &self.notes {
            text += &format!("\nNote: {}.\n", markdown(note));
        }
        for (i, judged) in self.judges.iter().enumerate() {
            let role = if i == 0 {
                "the reward trained with"
            } else {
                "held out, never trained with: its rewards of what the first judge picks"
            };
            text += &format!(
                "\n## {} ({role})\n\n{}",
                markdown(&judged.reward),
                judged.summary(self.baseline.as_deref()).markdown()
            );
        }
        if !self.failed.is_empty() {
            text += "\n## Failed, and so missing above\n\n";
            for line in &self.failed {
                text += &format!("- {}\n", markdown(line));
            }
        }
        text
    }
}

/// `wins/ties/losses`, by prompt.
fn outcome(value: Option<Versus>) -> Cell {
    value.map_or(Cell::Empty, |v| {
        let o = v.outcome;
        format!("{}/{}/{}", o.wins, o.ties, o.losses).into()
    })
}

fn interval(value: Option<Interval>) -> Cell {
    tables::interval(value, DIGITS)
}

fn number(value: Option<f64>, digits: usize) -> Cell {
    value.map_or(Cell::Empty, |value| Cell::Number { value, digits })
}

impl Judged {
    /// One line a policy: means at every n, then the largest n compared.
    pub fn summary(&self, baseline: Option<&str>) -> Table {
        let sizes: Vec<usize> = self
            .policies
            .first()
            .map_or(Vec::new(), |p| p.rows.iter().map(|r| r.n).collect());
        let top = sizes.last().copied().unwrap_or(1);
        let mut columns = vec![
            ("method".to_string(), Align::Left),
            ("checkpoint".to_string(), Align::Left),
            ("seeds".to_string(), Align::Right),
        ];
        columns.extend(sizes.iter().map(|n| (format!("bo{n}"), Align::Right)));
        columns.push((format!("sd of bo{top}"), Align::Right));
        for name in std::iter::once("base").chain(baseline) {
            columns.push((format!("bo{top} − {name} [95%]"), Align::Right));
            columns.push((format!("win/tie/loss against {name}"), Align::Right));
        }
        columns.push(("length".to_string(), Align::Right));
        columns.push(("s a run".to_string(), Align::Right));
        let mut table = Table::new(columns);
        for p in &self.policies {
            let mut cells: Vec<Cell> = vec![p.method.as_str().into(), p.checkpoint.unwrap_or("").into()];
            cells.push(match (p.checkpoint, p.missing_seeds.len()) {
                (None, _) => Cell::Empty,
                (Some(_), 0) => p.seeds.len().into(),
                (Some(_), missing) => format!("{} of {}", p.seeds.len(), p.seeds.len() + missing).into(),
            });
            cells.extend(p.rows.iter().map(|r| number(Some(r.mean.mean), DIGITS)));
            let last = p.rows.last();
            cells.push(number(last.and_then(|r| r.seed_sd), DIGITS + 1));
            let base = last.and_then(|r| r.vs_base);
            cells.extend([interval(base.map(|v| v.difference)), outcome(base)]);
            if baseline.is_some() {
                let other = last.and_then(|r| r.vs_baseline);
                cells.extend([interval(other.map(|v| v.difference)), outcome(other)]);
            }
            cells.push(number(Some(p.mean_length), 1));
            cells.push(number(p.train_seconds, 0));
            table.push(cells);
        }
        table
    }

    /// Best of n over n, one line a method; `None` where no method has this kind of checkpoint.
    pub fn frontier(&self, kind: &str) -> Option<Plot> {
        let chosen: Vec<&Policy> = self
            .policies
            .iter()
            .filter(|p| p.checkpoint.is_none_or(|c| c == kind))
            .collect();
        let series = chosen.iter().map(|p| Series {
            label: p.method.clone(),
            points: p.rows.iter().map(point).collect(),
        });
        (chosen.len() > 1).then(|| {
            Plot::best_of_n(
                format!("Best of n by method ({kind} checkpoint)"),
                format!("best-of-n {}", self.reward),
                series.collect(),
            )
        })
    }
}

fn point(row: &Row) -> PlotPoint {
    PlotPoint {
        x: row.n as f64,
        y: row.mean.mean,
        interval: row.mean.ends(),
    }
}
