//! The alignment table and plot.

use super::cosine::{Alignment, Cell, Difference};
use crate::report::{Align, Cell as TableCell, Plot, PlotPoint, Series, Table, XScale};

/// One row a rule and a column an m: mean cosine ± standard error; below each rule its difference to the baseline with the
/// 95% interval is in [`differences`](fn@differences).
pub fn table(a: &Alignment) -> Table {
    let columns = std::iter::once(("rule".to_string(), Align::Left))
        .chain(
            a.settings
                .sizes
                .iter()
                .map(|m| (format!("m = {m}"), Align::Right)),
        )
        .chain([("no signal".to_string(), Align::Right)]);
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
    TableCell::Text(match (c.cosine, c.standard_error) {
        (Some(mean), Some(error)) => format!("{mean:.3} ± {error:.3}"),
        (Some(mean), None) => format!("{mean:.3}"),
        _ => "–".to_string(),
    })
}

/// One row a rule, one column an m: difference of the cosine to the baseline's with its 95% interval, paired by prompt.
pub fn differences(a: &Alignment) -> Option<Table> {
    let baseline = a.settings.baseline.as_deref()?;
    let first = a.differences.first()?;
    let columns = std::iter::once((format!("rule − {baseline}"), Align::Left)).chain(
        a.settings
            .sizes
            .iter()
            .map(|m| (format!("m = {m}"), Align::Right)),
    );
    let mut table = Table::new(columns);
    let mut rules = vec![first.rule.as_str()];
    for d in &a.differences {
        if !rules.contains(&d.rule.as_str()) {
            rules.push(&d.rule);
        }
    }
    for rule in rules {
        let of = |m: &usize| a.differences.iter().find(|d| d.rule == rule && d.m == *m);
        let mut row = vec![TableCell::from(rule)];
        row.extend(
            a.settings
                .sizes
                .iter()
                .map(|m| of(m).map_or(TableCell::Empty, interval)),
        );
        table.push(row);
    }
    Some(table)
}

fn interval(d: &Difference) -> TableCell {
    TableCell::Interval {
        mean: d.interval.mean,
        low: d.interval.low,
        high: d.interval.high,
        digits: 3,
    }
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
