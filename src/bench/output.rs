//! Rows of measurements and their forms, after llama-bench's: `-o md|csv|json|jsonl`, raw samples in JSON.

use super::ceiling::Ceiling;
use super::timing::{Clock, deviation, mean, median};
use crate::error::{Error, Result};
use crate::gpu::{AdapterReport, ProfileRow};
use crate::report::{Align, Cell, Table};
use crate::words::{csv_cell, markdown};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// An output form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A Markdown table.
    Md,
    /// Comma-separated values with a header line.
    Csv,
    /// One object: {"header": …, "rows": […]}; what --compare reads.
    Json,
    /// One object a row.
    Jsonl,
}

/// Where and when rows were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The adapter's name.
    pub adapter: String,
    /// Vulkan, Metal, Dx12 or Gl.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// This program's version.
    pub version: String,
    /// UTC, RFC 3339.
    pub date: String,
    /// Whether wgpu's bounds and loop checks were compiled into the shaders (debug builds).
    pub checked: bool,
    /// The subcommand's name.
    pub command: String,
    /// What the roofline was drawn against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
}

impl Header {
    /// The header of a run that begins now.
    pub fn new(report: &AdapterReport, command: &str) -> Self {
        Self {
            adapter: report.name.clone(),
            backend: report.backend.clone(),
            driver: format!("{} {}", report.driver, report.driver_info)
                .trim()
                .to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            date: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            checked: cfg!(debug_assertions),
            command: command.into(),
            ceiling: None,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Model or shape.
    pub model: String,
    /// Element type of the weights.
    pub dtype: String,
    /// What was measured.
    pub test: String,
    /// Which kernel variant, or other setting.
    pub variant: String,
    /// Median of the samples.
    pub value: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Unit of value, deviation and samples.
    pub unit: String,
    /// Whether a larger value is better.
    pub higher_is_better: bool,
    /// Every sample.
    pub samples: Vec<f64>,
    /// What they were taken with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Why it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Further numbers, by column.
    #[serde(default, flatten)]
    pub extra: Map<String, Value>,
}

impl Row {
    /// A row of these samples, to be given its names.
    pub fn of(samples: Vec<f64>, higher_is_better: bool) -> Self {
        Self {
            model: String::new(),
            dtype: String::new(),
            test: String::new(),
            variant: String::new(),
            value: median(&samples),
            deviation: deviation(&samples),
            unit: String::new(),
            higher_is_better,
            samples,
            clock: None,
            skipped: None,
            extra: Map::new(),
        }
    }

    /// A row that says why there is no number.
    pub fn skipped(test: &str, dtype: &str, why: &str) -> Self {
        Self {
            test: test.into(),
            dtype: dtype.into(),
            value: 0.0,
            skipped: Some(why.into()),
            ..Self::of(Vec::new(), true)
        }
    }

    /// Adds a column.
    #[must_use]
    pub fn with(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(column.into(), value.into());
        self
    }

    /// What identifies the row in another run.
    pub fn key(&self) -> (&str, &str, &str, &str) {
        (&self.model, &self.dtype, &self.test, &self.variant)
    }
}

/// A row a kernel of the seconds that a profiled GPU spent in it, with its dispatches and its share.
pub fn by_kernel(profile: &[ProfileRow]) -> Vec<Row> {
    let total: f64 = profile.iter().map(|k| k.seconds).sum();
    let row = |k: &ProfileRow| {
        let mut row = Row::of(vec![k.seconds], false)
            .with("dispatches", k.count)
            .with("% of kernels", 100.0 * k.seconds / total);
        row.test = format!("kernel {}", k.kernel);
        row.unit = "s".into();
        row
    };
    profile.iter().map(row).collect()
}

/// Four significant digits, without an exponent where that is readable.
pub(super) fn number(x: f64) -> String {
    let digits = match x.abs() {
        0.0 => 0,
        a if a >= 1000.0 => 0,
        a if a >= 100.0 => 1,
        a if a >= 10.0 => 2,
        a if a >= 1.0 => 3,
        a if a >= 1e-3 => 5,
        _ => return format!("{x:.2e}"),
    };
    format!("{x:.digits$}")
}

/// Columns of `extra` that tables show: numbers and texts, in order of first appearance.
fn columns(rows: &[Row]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, value) in rows.iter().flat_map(|r| &r.extra) {
        if !value.is_object() && !value.is_array() && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) if n.is_f64() => number(n.as_f64().unwrap_or(f64::NAN)),
        Some(other) => other.to_string(),
    }
}

fn table(header: &Header, rows: &[Row]) -> String {
    let extra = columns(rows);
    let fixed = ["model", "backend", "driver", "dtype", "test", "variant"];
    let mut heads: Vec<(String, Align)> = fixed.iter().map(|n| ((*n).to_string(), Align::Left)).collect();
    heads.push(("value".into(), Align::Right));
    heads.push(("unit".into(), Align::Left));
    heads.extend(extra.iter().map(|n| ((*n).to_string(), Align::Right)));
    // The adapter's first word and the driver's version: the header has them in full.
    let word = |s: &str| s.split_whitespace().next().unwrap_or_default().to_string();
    let backend = format!("{}/{}", header.backend, word(&header.adapter));
    let version = header
        .driver
        .split_whitespace()
        .find(|w| w.contains('.') && w.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(&header.driver);
    let mut table = Table::new(heads);
    for r in rows.iter().filter(|r| r.skipped.is_none()) {
        let texts = [&r.model, &backend, version, &r.dtype, &r.test, &r.variant];
        let mut cells: Vec<Cell> = texts.iter().map(|t| Cell::from(t.to_string())).collect();
        cells.push(format!("{} ± {}", number(r.value), number(r.deviation)).into());
        cells.push(r.unit.clone().into());
        cells.extend(extra.iter().map(|name| Cell::from(shown(r.extra.get(*name)))));
        table.push(cells);
    }
    let mut out = preface(header);
    out += &table.markdown();
    let skipped: Vec<&Row> = rows.iter().filter(|r| r.skipped.is_some()).collect();
    if !skipped.is_empty() {
        out += "\nnot measured:\n";
    }
    for r in skipped {
        let names = [&r.model, &r.dtype, &r.test, &r.variant];
        let names: Vec<&str> = names
            .into_iter()
            .map(String::as_str)
            .filter(|n| !n.is_empty())
            .collect();
        out += &format!(
            "- {}: {}\n",
            markdown(&names.join(" ")),
            markdown(r.skipped.as_deref().unwrap_or_default())
        );
    }
    out
}

/// The lines before a Markdown table.
fn preface(h: &Header) -> String {
    let mut out = format!(
        "tea-wgpu {} bench {}, {}\nadapter: {} ({}); driver: {}\n",
        h.version,
        h.command,
        h.date,
        markdown(&h.adapter),
        h.backend,
        markdown(&h.driver)
    );
    if h.checked {
        out += "this is a debug build: shaders carry bounds and loop checks; numbers to keep come from a release build\n";
    }
    if let Some(c) = &h.ceiling {
        out += &format!(
            "ceiling: {} GFLOP/s f32, {} GB/s\n",
            number(c.fma_f32 / 1e9),
            number(c.bandwidth() / 1e9)
        );
    }
    out + "\n"
}

/// One flat object of a row, with the header's fields first, as llama-bench writes them.
fn object(header: &Header, row: &Row) -> Value {
    let mut all = json!({
        "build_version": header.version,
        "backend": header.backend,
        "adapter": header.adapter,
        "driver": header.driver,
        "test_time": header.date,
    });
    if let (Value::Object(all), Ok(Value::Object(own))) = (&mut all, serde_json::to_value(row)) {
        all.extend(own);
        all.insert("mean".into(), json!(mean(&row.samples)));
    }
    all
}

fn csv(header: &Header, rows: &[Row]) -> String {
    let extra = columns(rows);
    let fixed = [
        "build_version",
        "backend",
        "adapter",
        "driver",
        "test_time",
        "model",
        "dtype",
        "test",
        "variant",
        "value",
        "deviation",
        "unit",
        "clock",
        "skipped",
    ];
    let names: Vec<&str> = fixed.into_iter().chain(extra).collect();
    let plain = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    };
    let mut lines = vec![names.iter().map(|n| csv_cell(n)).collect::<Vec<_>>().join(",")];
    for row in rows {
        let value = object(header, row);
        let cells: Vec<String> = names
            .iter()
            .map(|n| csv_cell(&plain(value.get(*n))).into_owned())
            .collect();
        lines.push(cells.join(","));
    }
    lines.join("\n") + "\n"
}

/// The rows in a form, ending in a newline.
///
/// # Errors
/// A number that JSON cannot hold (a bug).
pub fn render(header: &Header, rows: &[Row], form: Form) -> Result<String> {
    Ok(match form {
        Form::Md => table(header, rows),
        Form::Csv => csv(header, rows),
        Form::Json => {
            let all = json!({"header": header, "rows": rows});
            serde_json::to_string_pretty(&all).map_err(Error::internal)? + "\n"
        }
        Form::Jsonl => rows.iter().map(|r| format!("{}\n", object(header, r))).collect(),
    })
}

#[cfg(test)]
pub(super) fn example() -> (Header, Vec<Row>) {
    let header = Header {
        adapter: "llvmpipe (LLVM 19.1.7, 256 bits)".into(),
        backend: "Vulkan".into(),
        driver: "llvmpipe Mesa 26.1.6-1 (LLVM 19.1.7)".into(),
        version: "1.2.3".into(),
        date: "2026-01-02T03:04:05Z".into(),
        checked: false,
        command: "kernels".into(),
        ceiling: None,
    };
    let row = Row {
        model: "m".into(),
        dtype: "q8_0".into(),
        test: "gemm 2×3×4, \"gate\"".into(),
        variant: "portable".into(),
        unit: "ms".into(),
        clock: Some(Clock::Gpu),
        ..Row::of(vec![3.0, 1.0, 2.0], false)
    };
    let rows = vec![
        row.with("GFLOP/s", 12.345_678).with("kernels", json!({"a": 1.0})),
        Row::skipped("huge", "f32", "needs 9 GiB"),
    ];
    (header, rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn markdown_has_header_rows_and_reasons() {
        let (header, rows) = example();
        let text = render(&header, &rows, Form::Md).unwrap();
        assert!(
            text.starts_with("tea-wgpu 1.2.3 bench kernels, 2026-01-02T03:04:05Z\nadapter: llvmpipe (LLVM")
        );
        let line = text.lines().find(|l| l.contains("gate")).unwrap();
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(
            cells,
            [
                "m",
                "Vulkan/llvmpipe",
                "26.1.6-1",
                "q8_0",
                "gemm 2×3×4, \"gate\"",
                "portable",
                "2.000 ± 1.000",
                "ms",
                "12.35"
            ]
        );
        assert!(
            text.ends_with("not measured:\n- f32 huge: needs 9 GiB\n"),
            "{text}"
        );
        assert!(!text.contains("kernels |"), "objects are for JSON");
    }

    #[test]
    fn json_lines_are_flat_and_keep_the_samples() {
        let (header, rows) = example();
        let text = render(&header, &rows, Form::Jsonl).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first["backend"], "Vulkan");
        assert_eq!(first["samples"], json!([3.0, 1.0, 2.0]));
        assert_eq!(first["value"], 2.0);
        assert_eq!(first["mean"], 2.0);
        assert_eq!(first["GFLOP/s"], 12.345_678);
        assert_eq!(text.lines().count(), 2);
        let whole: Value = serde_json::from_str(&render(&header, &rows, Form::Json).unwrap()).unwrap();
        let back: Vec<Row> = serde_json::from_value(whole["rows"].clone()).unwrap();
        assert_eq!(back, rows);
    }

    #[test]
    fn csv_has_a_cell_a_column() {
        let (header, rows) = example();
        let text = render(&header, &rows, Form::Csv).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].starts_with("build_version,backend,adapter") && lines[0].ends_with(",skipped,GFLOP/s")
        );
        assert!(
            lines[1].contains("\"gemm 2×3×4, \"\"gate\"\"\",portable,2.0,1.0,ms,gpu,,12.345678"),
            "{text}"
        );
        assert!(lines[2].ends_with("needs 9 GiB,"), "{text}");
    }

    #[test]
    fn numbers_are_readable() {
        let shown: Vec<String> = [0.0, 12345.6, 123.456, 12.3456, 1.23456, 0.0123, 1e-6]
            .map(number)
            .into();
        assert_eq!(
            shown,
            ["0", "12346", "123.5", "12.35", "1.235", "0.01230", "1.00e-6"]
        );
    }
}
