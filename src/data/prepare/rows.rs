//! JSONL and Parquet files, a row at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};
use crate::text::jsonl::{self, Row};

/// What begins (and ends) a Parquet file.
const PARQUET: &[u8; 4] = b"PAR1";

/// Calls `f` with every row and its number, from 1 (blank lines of JSONL do not count). A Parquet file is known by its first bytes,
/// whatever its name.
///
/// # Errors
/// An I/O error with the path; a user error naming file and row where it is malformed; those of `f`, as they are.
pub fn each(path: &Path, f: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let is_parquet = begins_parquet(&mut file).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    if is_parquet {
        parquet(path, file, f)
    } else {
        lines(path, file, f)
    }
}

/// Whether a file is Parquet by its first bytes.
///
/// # Errors
/// It cannot be read.
pub fn is_parquet(path: &Path) -> Result<bool> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    begins_parquet(&mut file).map_err(Error::io(path))
}

fn begins_parquet(file: &mut File) -> std::io::Result<bool> {
    let mut magic = Vec::new();
    file.take(PARQUET.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == PARQUET)
}

fn lines(path: &Path, file: File, f: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(file);
    let (mut line, mut number, mut rows) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            break;
        }
        number += 1;
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let row = jsonl::parse_row(text).context(format!("{}:{number}", path.display()))?;
        if let Some(row) = row {
            rows += 1;
            f(rows, row)?;
        }
    }
    Ok(())
}

fn parquet(path: &Path, file: File, f: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
    let bad = |e: parquet::errors::ParquetError| {
        Error::user(format!(
            "{}: not a Parquet file that can be read: {e}. Compression may be none, Snappy or Zstandard; download it again if it \
             is damaged",
            path.display()
        ))
    };
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    let rows = reader.get_row_iter(None).map_err(bad)?;
    for (i, row) in rows.enumerate() {
        match row.map_err(bad)?.to_json_value() {
            Value::Object(fields) => f(i + 1, Row::new(fields))?,
            _ => f(i + 1, Row::new(Map::new()))?,
        }
    }
    Ok(())
}
