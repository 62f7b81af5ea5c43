//! Rows of CSV files with a header. Every cell is a text; an empty one is null.

use std::cell::Cell;
use std::io::{BufRead, Cursor, Read};
use std::sync::Arc;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::input::unpack;
use super::place::Place;
use super::row::{Row, opaque};
use crate::error::{Error, Result};
use crate::file::limits::{CSV_CELLS, CSV_HEADER, Limit, ROW};

/// Cells are parted by the first of these that gives the header a column that is wanted.
const DELIMITERS: [u8; 3] = [b',', b'\t', b';'];
/// Most characters of the header in a message.
const SHOWN: usize = 80;

/// Calls `f` with every row; only `columns` are read. The header is on line `first`.
pub(super) fn each(
    name: &str,
    reader: impl BufRead,
    first: usize,
    columns: &[&str],
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let (mut start, mut head) = (Vec::new(), reader.take(CSV_HEADER.most()));
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
    if start.len() as u64 >= CSV_HEADER.most() && !start.ends_with(b"\n") {
        return Err(CSV_HEADER.exceeded(format!("{name}:{first}")));
    }
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
    let header = rows.byte_headers().map(|cells| cells.iter().map(title).collect());
    if let (Some(limit), line) = rows.get_ref().over() {
        return Err(limit.exceeded(format!("{name}:{}", line + first)));
    }
    let names: Arc<[String]> = header.map_err(fault)?;
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
        rows.get_ref().begin();
        let read_one = rows.read_byte_record(&mut record);
        if let (Some(limit), line) = rows.get_ref().over() {
            return Err(limit.exceeded(format!("{name}:{}", line + first)));
        }
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
    /// Bytes since the last row was asked for, and the cells and lines before it.
    bytes: Cell<u64>,
    before: Cell<u64>,
    /// Ends of cells, of all rows.
    cells: u64,
    began: Cell<usize>,
    over: Option<&'static Limit>,
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
            bytes: Cell::new(0),
            before: Cell::new(0),
            cells: 0,
            began: Cell::new(0),
            over: None,
        }
    }

    /// A row is asked for.
    fn begin(&self) {
        self.bytes.set(0);
        self.before.set(self.cells);
        self.began.set(self.lines);
    }

    /// The limit that a row exceeds, and about on which line, from 0.
    fn over(&self) -> (Option<&'static Limit>, usize) {
        (self.over, self.began.get())
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
            _ if ends_cell => {
                self.cells += 1;
                At::CellStart
            }
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
        self.bytes.set(self.bytes.get() + n as u64);
        let limits = [
            (&ROW, self.bytes.get()),
            (&CSV_CELLS, self.cells - self.before.get()),
        ];
        self.over = limits
            .iter()
            .find(|(limit, count)| *count > limit.most())
            .map(|(limit, _)| *limit);
        match self.over {
            Some(limit) => Err(std::io::Error::other(limit.what)),
            None => Ok(n),
        }
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
