//! Rows of CSV files with a header. Every cell is a text; an empty one is null.

use std::io::{BufRead, Cursor, Read};
use std::sync::Arc;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::input::unpack;
use super::place::Place;
use super::row::{Row, opaque};
use crate::error::{Error, Result};

/// Cells are parted by the first of these that gives the header a column that is wanted.
const DELIMITERS: [u8; 3] = [b',', b'\t', b';'];
/// Most characters of the header in a message.
const SHOWN: usize = 80;
/// Most bytes that are looked through for the end of the header.
const HEADER: u64 = 1 << 20;

/// Calls `f` with every row; only `columns` are read. The header is on line `first`.
pub(super) fn each(
    name: &str,
    reader: impl BufRead,
    first: usize,
    columns: &[&str],
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let (mut start, mut head) = (Vec::new(), reader.take(HEADER));
    head.read_until(b'\n', &mut start).map_err(|e| unpack(name, &e))?;
    let reader = head.into_inner();
    let wanted = |header: &[String]| header.iter().any(|h| columns.contains(&h.as_str()));
    let fit = DELIMITERS.into_iter().find(|d| wanted(&header_of(&start, *d)));
    let Some(delimiter) = fit else {
        let line = start
            .split(|b| matches!(b, b'\n' | b'\r'))
            .next()
            .unwrap_or_default();
        let text: String = String::from_utf8_lossy(line).chars().take(SHOWN).collect();
        return Err(Error::user(format!(
            "{name}:{first}: neither JSON, which begins with {{ or [, nor Parquet, nor CSV whose header names one of the columns \
             {}: it begins with {text:?}",
            columns.join(", ")
        )));
    };
    let mut rows = ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(Cursor::new(&start).chain(reader));
    let fault = |e: csv::Error| {
        let line = e.position().map_or(first, |p| p.line() as usize + first - 1);
        match e.kind() {
            ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => Error::user(format!(
                "{name}:{line}: a CSV row of {len} cells, where the header has {expected_len}"
            )),
            ErrorKind::Io(e) => unpack(name, e),
            _ => Error::user(format!("{name}:{line}: malformed CSV: {e}")),
        }
    };
    let names: Arc<[String]> = rows.byte_headers().map_err(fault)?.iter().map(title).collect();
    let read: Vec<(usize, &String)> = names
        .iter()
        .enumerate()
        .filter(|(_, n)| columns.contains(&n.as_str()))
        .collect();
    if let Some((_, twice)) = read.iter().find(|(i, n)| names[..*i].contains(n)) {
        return Err(Error::user(format!(
            "{name}:{first}: the CSV header names the column {twice:?} twice"
        )));
    }
    let (mut record, mut number) = (ByteRecord::new(), 0);
    while rows.read_byte_record(&mut record).map_err(fault)? {
        number += 1;
        let place = Place {
            name,
            row: number,
            line: record.position().map(|p| p.line() as usize + first - 1),
            by_line: false,
        };
        let mut fields = Map::new();
        for (i, column) in &read {
            let cell = match record.get(*i) {
                None | Some([]) => Value::Null,
                Some(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => Value::from(text),
                    Err(_) => opaque("text that is not UTF-8"),
                },
            };
            fields.insert((*column).clone(), cell);
        }
        f(place, Row::of_table(fields, &names, true))?;
    }
    Ok(())
}

/// A column's name.
fn title(cell: &[u8]) -> String {
    String::from_utf8_lossy(cell).trim().to_owned()
}

/// The cells of the first line.
fn header_of(start: &[u8], delimiter: u8) -> Vec<String> {
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .from_reader(start);
    let mut record = ByteRecord::new();
    match reader.read_byte_record(&mut record) {
        Ok(true) => record.iter().map(title).collect(),
        _ => Vec::new(),
    }
}
