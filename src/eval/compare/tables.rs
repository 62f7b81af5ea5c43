//! A comparison as tables and plots.

use super::{Comparison, Method, Row};
use crate::eval::bootstrap::{Interval, WinTieLoss};
use crate::report::{Align, Cell, Plot, PlotPoint, Series, Table};

/// A mean without its interval.
pub(super) fn number(value: f64, digits: usize) -> Cell {
    Cell::Number { value, digits }
}

/// A mean with its interval, or nothing.
pub(crate) fn interval(value: Option<Interval>, digits: usize) -> Cell {
    value.map_or(Cell::Empty, |i| Cell::Interval {
        mean: i.mean,
        ends: i.ends(),
        digits,
    })
}

/// `wins/ties/losses`, or nothing.
fn outcome(value: Option<WinTieLoss>) -> Cell {
    value.map_or(Cell::Empty, |o| {
        format!("{}/{}/{}", o.wins, o.ties, o.losses).into()
    })
}

/// The points of a curve.
pub(crate) fn points(values: impl IntoIterator<Item = (usize, Interval)>) -> Vec<PlotPoint> {
    let point = |(n, i): (usize, Interval)| PlotPoint {
        x: n as f64,
        y: i.mean,
        interval: i.ends(),
    };
    values.into_iter().map(point).collect()
}

impl Comparison {
    /// One method beside the baseline: n, both values, their difference with its interval, wins, ties, losses.
    pub fn pair_table(&self, method: &Method, digits: usize) -> Table {
        let columns = [
            "best of".to_string(),
            self.baseline.clone(),
            method.label.clone(),
            format!("{} − {} [95%]", method.label, self.baseline),
            "win/tie/loss".to_string(),
        ];
        let mut table = Table::new(columns.map(|c| (c, Align::Right)));
        for row in &method.rows {
            let base = self.at(&self.baseline, row.n);
            table.push(vec![
                row.n.into(),
                base.map_or(Cell::Empty, |b| number(b.value.mean, digits)),
                number(row.value.mean, digits),
                interval(row.difference, digits),
                outcome(row.outcome),
            ]);
        }
        table
    }

    /// A table with a row a method and a column a size.
    fn by_size<'a>(
        &'a self,
        methods: impl Iterator<Item = &'a Method>,
        cell: impl Fn(&Row) -> Cell,
    ) -> Table {
        let sizes = self.sizes().into_iter().map(|n| (format!("bo{n}"), Align::Right));
        let columns = std::iter::once(("method".to_string(), Align::Left)).chain(sizes);
        let mut table = Table::new(columns);
        for method in methods {
            let cells = method.rows.iter().map(&cell);
            table.push(
                std::iter::once(method.label.as_str().into())
                    .chain(cells)
                    .collect(),
            );
        }
        table
    }

    /// Best-of-n of every method.
    pub fn values(&self, digits: usize) -> Table {
        self.by_size(self.methods.iter(), |row| number(row.value.mean, digits))
    }

    /// Differences to the baseline, with their intervals.
    pub fn differences(&self, digits: usize) -> Table {
        self.by_size(self.others(), |row| interval(row.difference, digits))
    }

    /// Wins, ties and losses against the baseline.
    pub fn outcomes(&self) -> Table {
        self.by_size(self.others(), |row| outcome(row.outcome))
    }

    /// Every method's curve with its intervals over prompts.
    pub fn plot(&self, title: &str) -> Plot {
        let series = |method: &Method| Series {
            label: method.label.clone(),
            points: points(method.rows.iter().map(|row| (row.n, row.value))),
        };
        let curves = self.methods.iter().map(series).collect();
        Plot::best_of_n(title, format!("best-of-n {}", self.reward), curves)
    }
}
