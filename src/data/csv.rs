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
        .from_reader(Quotes::new(Cursor::new(&start).chain(reader), delimiter));
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
    loop {
        let read_one = rows.read_byte_record(&mut record);
        if let Some(line) = rows.get_ref().unclosed() {
            return Err(Error::user(format!(
                "{name}:{}: the cell that begins here has no closing quote: the file is cut off, or a quote is missing",
                line + first
            )));
        }
        if !read_one.map_err(fault)? {
            return Ok(());
        }
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
}

/// What is read of a CSV file, and whether its last cell was closed: the csv crate takes a file that ends inside
/// quotes for one whose last cell is everything after them.
struct Quotes<R> {
    reader: R,
    delimiter: u8,
    at: At,
    /// Line ends before the next byte, and before the last cell in quotes.
    lines: usize,
    opened: usize,
    ended: bool,
}

/// Where in a row the next byte stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    CellStart,
    Cell,
    Quoted,
    /// After a quote in a quoted cell: its end, or the first half of a quote in it.
    Quote,
}

impl<R> Quotes<R> {
    fn new(reader: R, delimiter: u8) -> Self {
        Self {
            reader,
            delimiter,
            at: At::CellStart,
            lines: 0,
            opened: 0,
            ended: false,
        }
    }

    /// The line, from 0, on which a cell begins that the end of the file leaves open.
    fn unclosed(&self) -> Option<usize> {
        (self.ended && self.at == At::Quoted).then_some(self.opened)
    }

    fn step(&mut self, byte: u8) {
        let ends_cell = byte == self.delimiter || matches!(byte, b'\n' | b'\r');
        self.at = match (self.at, byte) {
            (At::CellStart, b'"') => {
                self.opened = self.lines;
                At::Quoted
            }
            (At::Quoted, b'"') => At::Quote,
            (At::Quote, b'"') | (At::Quoted, _) => At::Quoted,
            _ if ends_cell => At::CellStart,
            _ => At::Cell,
        };
        self.lines += usize::from(byte == b'\n');
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.ended |= n == 0 && !buffer.is_empty();
        for byte in &buffer[..n] {
            self.step(*byte);
        }
        Ok(n)
    }
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
