//! Storing a run and comparing another with it.

use super::output::{Form, Header, Row, number, render};
use crate::error::{Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use crate::report::{Align, Cell, Table};
use crate::words::markdown;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// A stored run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Baseline {
    /// Where and when.
    pub header: Header,
    /// What was measured.
    pub rows: Vec<Row>,
}

impl Baseline {
    /// Reads what [`Form::Json`] writes.
    ///
    /// # Errors
    /// The file cannot be read or is no such run.
    pub fn read(path: &Path) -> Result<Self> {
        let text = read_text(path, &SETTINGS_FILE)?;
        serde_json::from_str(&text).map_err(|e| {
            Error::user(format!(
                "{}: not a stored run ({e}); write one with --save-baseline",
                path.display()
            ))
        })
    }
}

/// A row beside its old self.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Index of the new row.
    pub row: usize,
    /// New value over old.
    pub ratio: f64,
    /// Whether that is for the better: 1, for the worse: −1, or within noise: 0.
    pub verdict: i8,
}

/// A difference this small is never called one.
const LEAST: f64 = 0.02;
/// Samples on each side below which nothing is called a difference.
const FEWEST: usize = 3;

/// Compares the rows that both runs have.
///
/// A difference counts when no sample of one run lies among the other's (for 5 and 5 samples of one distribution that
/// happens by chance once in 126 times) and the medians are 2% apart.
pub fn compare(old: &[Row], new: &[Row]) -> Vec<Change> {
    let pair = |(row, n): (usize, &Row)| {
        let o = old
            .iter()
            .find(|o| o.key() == n.key() && o.unit == n.unit && o.skipped.is_none())?;
        if n.skipped.is_some() || o.value == 0.0 {
            return None;
        }
        let ratio = n.value / o.value;
        let range = |r: &Row| {
            let fold = |f: fn(f64, f64) -> f64, from| r.samples.iter().copied().fold(from, f);
            (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
        };
        let ((low, high), (old_low, old_high)) = (range(n), range(o));
        let apart = low > old_high || high < old_low;
        let enough = n.samples.len().min(o.samples.len()) >= FEWEST;
        let verdict = match (ratio - 1.0).abs() >= LEAST && apart && enough {
            false => 0,
            true if (ratio > 1.0) == n.higher_is_better => 1,
            true => -1,
        };
        Some(Change { row, ratio, verdict })
    };
    new.iter().enumerate().filter_map(pair).collect()
}

/// The comparison as a Markdown table or as JSON (`csv` and `jsonl` give one row a line).
///
/// # Errors
/// A number that JSON cannot hold (a bug).
pub fn report(old: &Baseline, header: &Header, rows: &[Row], form: Form) -> Result<String> {
    let changes = compare(&old.rows, rows);
    if form != Form::Md {
        let rows: Vec<Row> = changes
            .iter()
            .map(|c| {
                rows[c.row]
                    .clone()
                    .with("ratio", c.ratio)
                    .with("verdict", json!(verdict(c.verdict)))
            })
            .collect();
        return render(header, &rows, form);
    }
    let mut table = Table::new([
        ("model", Align::Left),
        ("dtype", Align::Left),
        ("test", Align::Left),
        ("variant", Align::Left),
        ("old", Align::Right),
        ("new", Align::Right),
        ("unit", Align::Left),
        ("new/old", Align::Right),
        ("", Align::Left),
    ]);
    for c in &changes {
        let new = &rows[c.row];
        let before = new.value / c.ratio;
        let mut cells: Vec<Cell> = [&new.model, &new.dtype, &new.test, &new.variant]
            .map(|t| Cell::from(t.clone()))
            .into();
        cells.extend([number(before), number(new.value), new.unit.clone()].map(Cell::from));
        cells.push(format!("{:.3}", c.ratio).into());
        cells.push(verdict(c.verdict).into());
        table.push(cells);
    }
    // A header is read from a file.
    let of = |h: &Header| {
        markdown(&format!(
            "{}, {} ({}), {}",
            h.date, h.adapter, h.driver, h.version
        ))
    };
    let mut out = format!("old: {}\nnew: {}\n", of(&old.header), of(header));
    if (&old.header.adapter, &old.header.driver) != (&header.adapter, &header.driver) {
        out += "the two were measured on different adapters or drivers\n";
    }
    let missing = rows.iter().filter(|r| r.skipped.is_none()).count() - changes.len();
    if missing > 0 {
        out += &format!("{missing} rows have no counterpart in the old run\n");
    }
    Ok(out + "\n" + &table.markdown())
}

fn verdict(v: i8) -> &'static str {
    match v {
        1 => "better",
        -1 => "WORSE",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::output::example;
    use super::*;

    fn row(test: &str, samples: &[f64], higher: bool) -> Row {
        Row {
            test: test.into(),
            unit: "x".into(),
            ..Row::of(samples.to_vec(), higher)
        }
    }

    #[test]
    fn only_what_lies_outside_the_noise_is_called_a_difference() {
        let old = [
            row("time", &[1.0, 1.1, 1.2], false),
            row("rate", &[10.0, 10.1, 10.2], true),
            row("noisy", &[1.0, 2.0, 3.0], false),
            row("near", &[1.0, 1.001, 1.002], false),
            row("one", &[1.0], false),
            row("gone", &[1.0], false),
        ];
        let new = [
            row("time", &[0.5, 0.55, 0.6], false),
            row("rate", &[5.0, 5.1, 5.2], true),
            row("noisy", &[2.5, 3.5, 4.5], false),
            row("near", &[1.003, 1.004, 1.005], false),
            row("one", &[2.0], false),
            row("new", &[1.0], false),
        ];
        let changes = compare(&old, &new);
        let verdicts: Vec<i8> = changes.iter().map(|c| c.verdict).collect();
        assert_eq!(verdicts, [1, -1, 0, 0, 0]);
        assert_eq!(changes[0].ratio, 0.5);
        assert_eq!(changes[1].ratio, 5.1 / 10.1);
    }

    #[test]
    fn a_stored_run_compares_with_itself() {
        let (header, rows) = example();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.json");
        std::fs::write(&path, render(&header, &rows, Form::Json).unwrap()).unwrap();
        let old = Baseline::read(&path).unwrap();
        assert_eq!(old.rows, rows);
        let text = report(&old, &header, &rows, Form::Md).unwrap();
        assert!(
            text.contains(" 1.000 |") && !text.contains("counterpart"),
            "{text}"
        );
        let lines = report(&old, &header, &rows, Form::Jsonl).unwrap();
        assert!(lines.contains("\"ratio\":1.0") && lines.lines().count() == 1);
        std::fs::write(&path, "{}").unwrap();
        let e = Baseline::read(&path).unwrap_err().to_string();
        assert!(e.contains("base.json") && e.contains("--save-baseline"), "{e}");
    }
}
