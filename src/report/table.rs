//! One table, written as Markdown, CSV or JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::words::{csv_cell, markdown};

/// A column's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table's output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A Markdown table with aligned columns, readable as it is.
    #[value(alias = "markdown")]
    Md,
    /// Comma-separated; an interval takes three columns.
    Csv,
    /// An array of objects.
    Json,
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Empty,
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number, shown with `digits` decimals; JSON and CSV hold all of them.
    Number {
        /// The value.
        value: f64,
        /// Decimals shown.
        digits: usize,
    },
    /// A mean with its interval, shown as `mean [low, high]`, or `mean [n/a]`.
    Interval {
        /// The estimate.
        mean: f64,
        /// Lower and upper end.
        ends: Option<(f64, f64)>,
        /// Decimals shown.
        digits: usize,
    },
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Text(text) => text.clone(),
            Self::Integer(n) => n.to_string(),
            Self::Number { value, digits } => fixed(*value, *digits),
            Self::Interval { mean, ends, digits } => {
                let ends = ends.map_or("n/a".to_string(), |(low, high)| {
                    format!("{}, {}", fixed(low, *digits), fixed(high, *digits))
                });
                format!("{} [{ends}]", fixed(*mean, *digits))
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Empty => Value::Null,
            Self::Text(text) => json!(text),
            Self::Integer(n) => json!(n),
            Self::Number { value, .. } => json!(value),
            Self::Interval { mean, ends, .. } => {
                let (low, high) = ends.unzip();
                json!({"mean": mean, "low": low, "high": high})
            }
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(n: i64) -> Self {
        Self::Integer(n)
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::Integer(n as i64)
    }
}

/// Fixed decimals, without a minus before zero.
fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let zero = text.bytes().all(|b| matches!(b, b'-' | b'0' | b'.'));
    if zero {
        text.trim_start_matches('-').to_string()
    } else {
        text
    }
}

/// Columns and rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(name, align)| (name.into(), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row, with one cell a column.
    pub fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len(), "a row needs one cell a column");
        self.rows.push(row);
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// The table in a format, ending in a newline.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Md => self.markdown(),
            Format::Csv => self.csv(),
            Format::Json => format!("{:#}\n", self.json()),
        }
    }

    /// Markdown with padded columns; names and texts in it are [`markdown`].
    pub fn markdown(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| markdown(name)).collect();
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|c| markdown(&c.shown())).collect())
            .collect();
        let width = |c: usize| {
            let longest = cells.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
            longest.max(names[c].chars().count()).max(3)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut out = String::new();
        let mut line = |texts: Vec<String>| {
            for (c, text) in texts.iter().enumerate() {
                let (w, n) = (widths[c], text.chars().count());
                let pad = " ".repeat(w - n);
                match self.columns[c].1 {
                    Align::Left => out += &format!("| {text}{pad} "),
                    Align::Right => out += &format!("| {pad}{text} "),
                }
            }
            out += "|\n";
        };
        line(names.clone());
        let rule = |c: usize| match self.columns[c].1 {
            Align::Left => "-".repeat(widths[c]),
            Align::Right => format!("{}:", "-".repeat(widths[c] - 1)),
        };
        line((0..self.columns.len()).map(rule).collect());
        cells.into_iter().for_each(line);
        out
    }

    /// CSV (RFC 4180 quoting, newline ends, no [formulas](csv_cell)); a column with an interval becomes `name`, `name_low`, `name_high`.
    pub fn csv(&self) -> String {
        let is_interval = |c: usize| {
            self.rows
                .iter()
                .any(|row| matches!(row[c], Cell::Interval { .. }))
        };
        let wide: Vec<bool> = (0..self.columns.len()).map(is_interval).collect();
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        let mut header = Vec::new();
        for ((name, _), wide) in self.columns.iter().zip(&wide) {
            header.push(csv_cell(name).into_owned());
            if *wide {
                let ends = ["low", "high"].map(|end| format!("{name}_{end}"));
                header.extend(ends.iter().map(|name| csv_cell(name).into_owned()));
            }
        }
        lines.push(header.join(","));
        for row in &self.rows {
            let mut fields = Vec::new();
            for (cell, wide) in row.iter().zip(&wide) {
                match cell {
                    Cell::Number { value, .. } => fields.push(value.to_string()),
                    Cell::Interval { mean, .. } => fields.push(mean.to_string()),
                    other => fields.push(csv_cell(&other.shown()).into_owned()),
                }
                match cell {
                    Cell::Interval {
                        ends: Some((low, high)),
                        ..
                    } => fields.extend([low.to_string(), high.to_string()]),
                    _ if *wide => fields.extend([String::new(), String::new()]),
                    _ => {}
                }
            }
            lines.push(fields.join(","));
        }
        lines.join("\n") + "\n"
    }

    /// An array with one object a row, keyed by column; an interval is `{"mean","low","high"}`.
    pub fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields: Map<String, Value> = self
                .columns
                .iter()
                .zip(row)
                .map(|((name, _), cell)| (name.clone(), cell.json()))
                .collect();
            Value::Object(fields)
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            ("n", Align::Right),
            ("method", Align::Left),
            ("reward", Align::Right),
        ]);
        table.push(vec![
            Cell::from(4_usize),
            "TEA, m | 16".into(),
            Cell::Interval {
                mean: 0.51234,
                ends: Some((-0.0001, 1.25)),
                digits: 3,
            },
        ]);
        table.push(vec![
            64_i64.into(),
            "base".into(),
            Cell::Number {
                value: 2.0 / 3.0,
                digits: 2,
            },
        ]);
        table.push(vec![
            Cell::Empty,
            Cell::from("say \"hi\"".to_string()),
            Cell::Empty,
        ]);
        table
    }

    #[test]
    fn markdown_is_aligned() {
        let want = "\
|   n | method       |               reward |
| --: | ------------ | -------------------: |
|   4 | TEA, m \\| 16 | 0.512 [0.000, 1.250] |
|  64 | base         |                 0.67 |
|     | say \"hi\"     |                      |
";
        assert_eq!(table().render(Format::Md), want);
    }

    #[test]
    fn an_interval_may_be_missing() {
        let mut table = Table::new([("reward", Align::Right)]);
        let cell = |ends| Cell::Interval {
            mean: 0.5,
            ends,
            digits: 1,
        };
        table.push(vec![cell(None)]);
        assert!(table.markdown().contains("| 0.5 [n/a] |"));
        assert_eq!(table.csv(), "reward,reward_low,reward_high\n0.5,,\n");
        let json = json!([{"reward": {"mean": 0.5, "low": null, "high": null}}]);
        assert_eq!(table.json(), json);
    }

    #[test]
    fn csv_widens_intervals_and_quotes() {
        let want = "n,method,reward,reward_low,reward_high\n4,\"TEA, m | 16\",0.51234,-0.0001,1.25\n\
                    64,base,0.6666666666666666,,\n,\"say \"\"hi\"\"\",,,\n";
        assert_eq!(table().render(Format::Csv), want);
    }

    #[test]
    fn json_keeps_every_digit() {
        let value: Value = serde_json::from_str(&table().render(Format::Json)).unwrap();
        assert_eq!(value[1], json!({"n": 64, "method": "base", "reward": 2.0 / 3.0}));
        assert_eq!(value[0]["reward"]["high"], 1.25);
        assert_eq!(value[2]["n"], Value::Null);
    }

    /// What file names and models can be called.
    const HOSTILE: &str = "=A|<b>\u{1b}[31m\n`x` [y](http://z)";

    #[test]
    fn a_name_is_text_in_every_format() {
        let mut table = Table::new([(HOSTILE, Align::Left), ("-x", Align::Right)]);
        table.push(vec![HOSTILE.into(), Cell::from("-0.5")]);
        let name = "=A\\|&lt;b&gt;\\u001b[31m \\`x\\` [y\\](http\\://z)";
        let text = table.markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[2], format!("| {name} | -0.5 |"));
        assert!(lines[0].starts_with(&format!("| {name} |")), "{text}");
        assert!(
            lines
                .iter()
                .all(|l| l.chars().count() == lines[0].chars().count()),
            "{text}"
        );
        let csv = table.csv();
        assert!(
            csv.starts_with("\"'=A|<b>") && csv.contains(",\"'-x\"\n"),
            "{csv}"
        );
        assert!(csv.ends_with(",-0.5\n"), "{csv}");
        assert_eq!(table.json()[0][HOSTILE], HOSTILE);
    }

    #[test]
    fn numbers_that_json_has_not_are_null() {
        let mut table = Table::new([("x", Align::Right)]);
        table.push(vec![Cell::Number {
            value: f64::NAN,
            digits: 2,
        }]);
        let value: Value = serde_json::from_str(&table.render(Format::Json)).unwrap();
        assert_eq!(value, json!([{"x": null}]));
    }
}
