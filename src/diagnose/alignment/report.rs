//! The alignment table and plot.

use super::cosine::{Alignment, Cell, Difference};
use crate::eval::Interval;
use crate::eval::compare::tables;
use crate::report::{Align, Cell as TableCell, Plot, PlotPoint, Series, Table, XScale};

/// One row a rule and a column an m: mean cosine ± standard error; below each rule its difference to the baseline with the
/// 95% interval is in [`differences`](fn@differences).
pub fn table(a: &Alignment) -> Table {
    let columns = columns("rule".to_string(), a).chain([("no signal".to_string(), Align::Right)]);
    let mut table = Table::new(columns);
    for cells in a.cells.chunks(a.settings.sizes.len().max(1)) {
        let mut row = vec![TableCell::from(cells[0].rule.as_str())];
        row.extend(cells.iter().map(shown));
        let (low, high) = cells
            .iter()
            .filter(|c| c.error.is_none())
            .fold((f64::INFINITY, 0.0f64), |(l, h), c| {
                (l.min(c.no_signal), h.max(c.no_signal))
            });
        row.push(TableCell::Text(match (low, high) {
            (l, _) if l.is_infinite() => String::new(),
            (_, 0.0) => "0%".to_string(),
            (l, h) => format!("{:.0}–{:.0}%", 100.0 * l, 100.0 * h),
        }));
        table.push(row);
    }
    table
}

fn shown(c: &Cell) -> TableCell {
    TableCell::Text(with_error(c.cosine, c.standard_error))
}

fn with_error(mean: Option<f64>, error: Option<f64>) -> String {
    match (mean, error) {
        (Some(mean), Some(error)) => format!("{mean:.3} ± {error:.3}"),
        (Some(mean), None) => format!("{mean:.3}"),
        _ => "–".to_string(),
    }
}

/// One row a rule and a column an m: mean cosine ± standard error with 0 for groups without a signal, and in brackets the
/// share of groups that have one.
pub fn table_with_zeros(a: &Alignment) -> Table {
    let mut table = Table::new(columns("rule".to_string(), a));
    for cells in a.cells.chunks(a.settings.sizes.len().max(1)) {
        let mut row = vec![TableCell::from(cells[0].rule.as_str())];
        row.extend(cells.iter().map(|c| {
            let mean = with_error(c.cosine_with_zeros, c.standard_error_with_zeros);
            TableCell::Text(match c.error {
                None => format!("{mean} ({:.0}%)", 100.0 * (1.0 - c.no_signal)),
                Some(_) => mean,
            })
        }));
        table.push(row);
    }
    table
}

/// A first column and one for every m.
fn columns(first: String, a: &Alignment) -> impl Iterator<Item = (String, Align)> + '_ {
    let sizes = a.settings.sizes.iter();
    std::iter::once((first, Align::Left)).chain(sizes.map(|m| (format!("m = {m}"), Align::Right)))
}

/// One row a rule, one column an m: difference of the cosine to the baseline's with its 95% interval, paired by prompt; over
/// groups with a signal, or `with_zeros` for the others.
pub fn differences(a: &Alignment, with_zeros: bool) -> Option<Table> {
    let baseline = a.settings.baseline.as_deref()?;
    let first = a.differences.first()?;
    let mut table = Table::new(columns(format!("rule − {baseline}"), a));
    let mut rules = vec![first.rule.as_str()];
    for d in &a.differences {
        if !rules.contains(&d.rule.as_str()) {
            rules.push(&d.rule);
        }
    }
    for rule in rules {
        let of = |m: &usize| a.differences.iter().find(|d| d.rule == rule && d.m == *m);
        let mut row = vec![TableCell::from(rule)];
        let shown = |d: &Difference| match with_zeros {
            true => Some(d.with_zeros),
            false => d.interval,
        };
        let cell = |m| of(m).and_then(shown).map_or(TableCell::Empty, interval);
        row.extend(a.settings.sizes.iter().map(cell));
        table.push(row);
    }
    Some(table)
}

fn interval(i: Interval) -> TableCell {
    tables::interval(Some(i), 3)
}

/// Mean cosine over m, one line a rule, with bands of one standard error.
pub fn plot(a: &Alignment) -> Plot {
    let series = a
        .cells
        .chunks(a.settings.sizes.len().max(1))
        .filter(|cells| cells.iter().any(|c| c.cosine.is_some()))
        .map(|cells| Series {
            label: cells[0].rule.clone(),
            points: cells.iter().filter_map(point).collect(),
        })
        .collect();
    Plot {
        title: format!(
            "Alignment with the oracle's update (N = {}, {} prompts × {} seeds)",
            a.settings.bon,
            a.prompts - a.no_oracle.len(),
            a.settings.seeds
        ),
        x_label: "m (responses in a group)".into(),
        y_label: "cosine (± one standard error)".into(),
        x_scale: XScale::Log2,
        series,
    }
}

fn point(c: &Cell) -> Option<PlotPoint> {
    c.cosine.map(|y| PlotPoint {
        x: c.m as f64,
        y,
        interval: c.standard_error.map(|e| (y - e, y + e)),
    })
}
