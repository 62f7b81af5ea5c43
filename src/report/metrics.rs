//! `metrics.jsonl`: one JSON object a step, appended and flushed line by line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::file::lines::{Lines, Upto};
use crate::file::open::{own_if_any, regular};
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

    /// Opens the file of a run resumed after `step`: the lines from the first of a later step on are cut off, since those
    /// steps are taken again. So is a last line that a crash tore, which is said. A missing file is started.
    ///
    /// # Errors
    /// An I/O error naming the file; a user error naming a line that is none of metrics. Nothing is cut off then.
    pub fn resume(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut kept = Upto::default();
        if let Some(file) = own_if_any(&path)? {
            let mut lines = Lines::new(&path, file)?;
            while let Some(line) = lines.next()? {
                let damaged = |why: String| {
                    Error::user(format!(
                        "{}:{}: {why}: the file is damaged, and nothing of it was changed. Mend or remove this line, or move \
                         the file away, and --resume again: the checkpoints do not need it",
                        path.display(),
                        line.number
                    ))
                };
                if line.is_blank() && line.upto.ended() {
                    kept = line.upto;
                    continue;
                }
                let Some(record) = line.record::<Record>().map_err(|e| damaged(e.to_string()))? else {
                    break;
                };
                match record.get("step").and_then(Value::as_u64) {
                    None => return Err(damaged("no \"step\"".to_string())),
                    Some(at) if at > step => break,
                    Some(_) => kept = line.upto,
                }
            }
        }
        let mut file = write::append(&path)?;
        kept.keep(&path, &mut file)?;
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
    let mut lines = Lines::new(path, regular(path)?)?;
    let mut records = Vec::new();
    while let Some(line) = lines.next()? {
        if line.is_blank() {
            continue;
        }
        match line.record() {
            Ok(record) => records.extend(record),
            Err(e) => {
                return Err(Error::user(format!(
                    "{}: line {}: {e}",
                    path.display(),
                    line.number
                )));
            }
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
    fn resuming_loses_no_history() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let lines = ["{\"step\":1,\"a\":1}\n", "{\"step\":2}\n", "{\"step\":3}\n"];
        let resumed = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            let resumed = MetricsWriter::resume(&path, 2).map(drop);
            (resumed, std::fs::read(&path).unwrap())
        };
        let all = lines.concat();
        let two = lines[..2].concat();
        // A last line without its end, or torn, or what some file systems leave of it.
        for text in [all.as_bytes(), two.as_bytes(), two.trim_end().as_bytes()] {
            let (ended, kept) = resumed(text);
            ended.unwrap();
            assert_eq!(kept, two.as_bytes());
        }
        for torn in ["{\"step\":2", "\0\0\0\0", "  "] {
            let (ended, kept) = resumed((lines[0].to_string() + torn).as_bytes());
            ended.unwrap();
            assert_eq!(kept, lines[0].as_bytes(), "{torn:?}");
        }
        for (at, damaged) in [
            (1, "nonsense\n".to_string() + &all),
            (2, lines[0].to_string() + "\0\0\n" + lines[1]),
            (2, lines[0].to_string() + "{\"loss\":1}\n" + lines[1]),
            (3, lines[0].to_string() + "\n[1]\n"),
        ] {
            let (ended, kept) = resumed(damaged.as_bytes());
            let error = ended.unwrap_err();
            let named = format!("metrics.jsonl:{at}: ");
            assert!(
                error.exit_code() == 2 && error.to_string().contains(&named),
                "{error}"
            );
            assert_eq!(kept, damaged.as_bytes(), "nothing was cut off");
        }
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
