//! `metrics.jsonl`: one JSON object a step, appended and flushed line by line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::file::limits::WHOLE_FILE;
use crate::file::open::{read_own, read_text};
use crate::file::write;

/// One line: names to values, in the order they were put in. Holds `"step"`.
pub type Record = Map<String, Value>;

/// Appends records to a metrics file.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Starts an empty file.
    ///
    /// # Errors
    /// An I/O error naming the file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = write::begin(&path)?;
        Ok(Self { path, file })
    }

    /// Opens the file of a run resumed after `step`: lines of later steps, and what a crash left after the first
    /// unreadable line, are cut off. A missing file is started.
    ///
    /// # Errors
    /// An I/O error naming the file.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let text = read_own(&path, &WHOLE_FILE)?.unwrap_or_default();
        let mut kept = 0;
        for line in text.split_inclusive(|&b| b == b'\n') {
            let whole = line.ends_with(b"\n");
            let at = serde_json::from_slice::<Record>(line)
                .ok()
                .and_then(|r| r.get("step").and_then(Value::as_u64));
            if !whole || at.is_none_or(|at| at > step) {
                break;
            }
            kept += line.len() as u64;
        }
        let file = write::append(&path)?;
        file.set_len(kept).map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// Appends one line: `"step"` first, then the fields of `values` (a struct or map). A number that is not finite
    /// becomes `null`, as JSON has none.
    ///
    /// # Errors
    /// An I/O error naming the file (a full disk, say); an internal error when `values` is not an object.
    pub fn write(&mut self, step: u64, values: &impl Serialize) -> Result<()> {
        let mut record = Record::new();
        record.insert("step".to_string(), step.into());
        match serde_json::to_value(values).map_err(Error::internal)? {
            Value::Object(fields) => record.extend(fields.into_iter().filter(|(name, _)| name != "step")),
            other => return Err(Error::internal(format!("metrics must be an object, not {other}"))),
        }
        let mut line = Value::Object(record).to_string();
        line.push('\n');
        // One write a line: a crash leaves at most one torn line, at the end.
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush())
            .map_err(Error::io(&self.path))
    }
}

/// Reads a metrics file; a last line torn by a crash is left out.
///
/// # Errors
/// An I/O error naming the file, or a user error naming the line that is not a JSON object.
pub fn read_metrics(path: impl AsRef<Path>) -> Result<Vec<Record>> {
    let path = path.as_ref();
    let text = read_text(path, &WHOLE_FILE)?;
    let mut records = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(_) if !line.ends_with('\n') => {
                log::warn!("{}: line {} is incomplete: left out", path.display(), i + 1)
            }
            Err(e) => return Err(Error::user(format!("{}: line {}: {e}", path.display(), i + 1))),
        }
    }
    Ok(records)
}

/// The steps and values of one metric, where it is a number.
pub fn column(records: &[Record], name: &str) -> Vec<(f64, f64)> {
    let pair = |r: &Record| Some((r.get("step")?.as_f64()?, r.get(name)?.as_f64()?));
    records.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_appended_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for step in 1..=3_u64 {
            writer
                .write(
                    step,
                    &json!({"reward": step as f64 * 0.1, "bon/4/mean": f64::NAN}),
                )
                .unwrap();
            assert_eq!(
                read_metrics(&path).unwrap().len() as u64,
                step,
                "each line is on disk at once"
            );
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("{\"step\":1,\"reward\":0.1,\"bon/4/mean\":null}\n"),
            "{text}"
        );
        let points = column(&read_metrics(&path).unwrap(), "reward");
        assert_eq!(points, [(1.0, 0.1), (2.0, 0.2), (3.0, 0.1 * 3.0)]);
        assert!(column(&read_metrics(&path).unwrap(), "bon/4/mean").is_empty());
        assert!(writer.write(4, &1.0).is_err());
    }

    #[test]
    fn resuming_cuts_later_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::resume(&path, 0).unwrap();
        for step in 1..=5_u64 {
            writer.write(step, &json!({"reward": 0.5})).unwrap();
        }
        drop(writer);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\":6,\"rew");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), 5);

        let mut writer = MetricsWriter::resume(&path, 3).unwrap();
        writer.write(4, &json!({"reward": 0.7})).unwrap();
        let records = read_metrics(&path).unwrap();
        let rewards = column(&records, "reward");
        assert_eq!(rewards, [(1.0, 0.5), (2.0, 0.5), (3.0, 0.5), (4.0, 0.7)]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":2}\n").unwrap();
        let error = read_metrics(&path).unwrap_err();
        assert!(
            error.to_string().contains("line 2") && error.exit_code() == 2,
            "{error}"
        );
        assert!(
            read_metrics(dir.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }
}
