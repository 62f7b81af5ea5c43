//! Rows of text files: JSON Lines, one JSON array, JSON objects over several lines, CSV.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::csv;
use super::input::unpack;
use super::json::{self, Malformed};
use super::place::Place;
use super::row::{Row, kind};
use super::weight;
use crate::error::{Context, Error, Result};
use crate::file::limits::{NESTING, ROW};
use crate::file::lines::{End, append_line};

/// Bytes of a read.
const PIECE: usize = 1 << 18;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Calls `f` with every row.
///
/// The first byte that is no white space tells: `{` begins JSON Lines, `[` an array, anything else a CSV file's header.
pub(super) fn each(
    name: &str,
    reader: impl Read,
    columns: &[&str],
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let mut source = Source {
        name,
        reader: BufReader::with_capacity(PIECE, reader),
        line: 1,
        column: 1,
    };
    if source.peek()?.starts_with(BOM) {
        source.reader.consume(BOM.len());
    }
    match source.skip_space()? {
        None => Ok(()),
        Some(b'{') => lines(&mut source, f),
        Some(b'[') => array(&mut source, f),
        Some(_) => csv::each(name, source.reader, source.line, columns, f),
    }
}

/// Text that is read once, and how far it was read.
struct Source<'a, R> {
    name: &'a str,
    reader: BufReader<R>,
    /// Of the next byte, from 1.
    line: usize,
    /// Of the next byte, from 1.
    column: usize,
}

impl<R: Read> Source<'_, R> {
    fn peek(&mut self) -> Result<&[u8]> {
        let name = self.name;
        self.reader.fill_buf().map_err(|e| unpack(name, &e))
    }

    /// Takes `n` bytes of what was peeked at.
    fn take(&mut self, n: usize) {
        let taken = &self.reader.buffer()[..n];
        let breaks = taken.iter().filter(|b| **b == b'\n').count();
        match taken.iter().rposition(|b| *b == b'\n') {
            Some(last) => self.column = n - last,
            None => self.column += n,
        }
        self.line += breaks;
        self.reader.consume(n);
    }

    /// Takes white space; the byte after it stays.
    fn skip_space(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.peek()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let found = buffer.iter().position(|b| !b.is_ascii_whitespace());
            let (n, byte) = (found.unwrap_or(buffer.len()), found.map(|at| buffer[at]));
            self.take(n);
            if byte.is_some() {
                return Ok(byte);
            }
        }
    }

    /// Appends the rest of the line, its end among it.
    fn read_line(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (name, line) = (self.name, self.line);
        let end = append_line(&mut self.reader, out).map_err(|e| unpack(name, &e))?;
        if end == End::TooLong {
            return Err(too_long(name, line));
        }
        self.line += 1;
        self.column = 1;
        Ok(())
    }

    /// Appends one value: up to the `,` or `]` that ends an array's item, or to the end of a value that brackets enclose.
    fn read_value(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (name, line) = (self.name, self.line);
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        loop {
            let buffer = self.peek()?;
            if buffer.is_empty() {
                return Err(Error::user(format!(
                    "{name}:{line}: the JSON value that begins here has no end: the file is cut off"
                )));
            }
            let mut end = None;
            for (at, byte) in buffer.iter().enumerate() {
                if quoted {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => quoted = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => quoted = true,
                    b'{' | b'[' => depth += 1,
                    b',' | b']' | b'}' if depth == 0 => {
                        end = Some(at);
                        break;
                    }
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            end = Some(at + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let n = end.unwrap_or(buffer.len());
            if n > room(out) {
                return Err(too_long(name, line));
            }
            out.extend_from_slice(&buffer[..n]);
            self.take(n);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

/// Bytes that a row may still have. A file without line ends is no JSON Lines, and would fill the memory.
fn room(row: &[u8]) -> usize {
    usize::try_from(ROW.most())
        .unwrap_or(usize::MAX)
        .saturating_sub(row.len())
}

fn too_long(name: &str, line: usize) -> Error {
    ROW.exceeded(format!("{name}:{line}"))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        Error::user(format!(
            "not UTF-8 (byte {} of the line): convert the file to UTF-8",
            e.valid_up_to() + 1
        ))
    })
}

/// The row that a value is, whose text is `json`.
fn row(value: Value, json: &str) -> Result<Row> {
    match value {
        Value::Object(fields) => Ok(Row::of_json(fields, json)),
        other => Err(Error::user(format!(
            "expected a JSON object, found {}: each row must be one object",
            kind(&other)
        ))),
    }
}

fn malformed(e: &Malformed, column: usize) -> Error {
    Error::user(format!("malformed JSON at column {column}: {}", e.message))
}

/// JSON Lines; what has its first object over several lines is read as objects, one after another.
fn lines<R: Read>(source: &mut Source<'_, R>, f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>) -> Result<()> {
    let (mut buffer, mut rows, mut line) = (Vec::new(), 0, source.line);
    loop {
        buffer.clear();
        source.read_line(&mut buffer)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let place = Place {
            name: source.name,
            row: rows + 1,
            line: Some(line),
            by_line: true,
        };
        let text = utf8(&buffer).context(place)?.trim();
        if !text.is_empty() {
            weight::json(text).map_err(|over| over.at(place))?;
            let value = match json::parse_python_json(text) {
                Ok(value) => value,
                Err(e) if rows == 0 && e.is_cut() && goes_on(source, &mut buffer)? => {
                    return objects(source, buffer, line, f);
                }
                Err(e) if e.is_deep() => return Err(NESTING.exceeded(place)),
                Err(_) if buffer.contains(&0) => {
                    return Err(Error::user("holds NUL bytes: the file is damaged, or no text"))
                        .context(place);
                }
                Err(e) => {
                    return Err(malformed(&e, e.column))
                        .context(place)
                        .map_err(|e| Error::user(format!("{e}. Each line must be one whole object")));
                }
            };
            rows += 1;
            f(place, row(value, text).context(place)?)?;
        }
        line = source.line;
    }
}

/// Whether what follows an incomplete first line looks like its continuation, not like a row of its own. White space that is
/// skipped for that is added to the line, so that places stay right.
fn goes_on<R: Read>(source: &mut Source<'_, R>, begun: &mut Vec<u8>) -> Result<bool> {
    let before = source.line;
    let next = source.skip_space()?;
    let skipped = (source.line - before).saturating_add(source.column);
    if skipped > room(begun) {
        return Err(too_long(source.name, before));
    }
    begun.resize(begun.len() + source.line - before, b'\n');
    begun.resize(begun.len() + source.column - 1, b' ');
    Ok(next.is_some_and(|byte| byte != b'{'))
}

/// Objects over several lines, one after another; `begun` is what was read of the first, from `line` on.
fn objects<R: Read>(
    source: &mut Source<'_, R>,
    begun: Vec<u8>,
    line: usize,
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let mut both = Source {
        name: source.name,
        reader: BufReader::with_capacity(PIECE, std::io::Cursor::new(begun).chain(&mut source.reader)),
        line,
        column: 1,
    };
    let (mut buffer, mut rows) = (Vec::new(), 0);
    while let Some(byte) = both.skip_space()? {
        let (line, column) = (both.line, both.column);
        if byte != b'{' {
            return Err(Error::user(format!(
                "{}:{line}: malformed JSON at column {column}: an object must begin here",
                both.name
            )));
        }
        buffer.clear();
        both.read_value(&mut buffer)?;
        rows += 1;
        item(both.name, &buffer, (rows, line, column), f)?;
    }
    Ok(())
}

/// The items of one array.
fn array<R: Read>(source: &mut Source<'_, R>, f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>) -> Result<()> {
    let name = source.name;
    let bad = |line: usize, column: usize, what: &str| {
        Err(Error::user(format!(
            "{name}:{line}: malformed JSON at column {column}: {what}"
        )))
    };
    let (mut buffer, mut rows) = (Vec::new(), 0);
    source.take(1);
    loop {
        let byte = source.skip_space()?;
        let (line, column) = (source.line, source.column);
        match byte {
            Some(b']') if rows == 0 => source.take(1),
            Some(b',' | b']' | b'}') => return bad(line, column, "an object must stand here"),
            None => return bad(line, column, "the array has no end: the file is cut off"),
            Some(_) => {
                buffer.clear();
                source.read_value(&mut buffer)?;
                rows += 1;
                item(name, &buffer, (rows, line, column), f)?;
                match source.skip_space()? {
                    Some(b',') => {
                        source.take(1);
                        continue;
                    }
                    Some(b']') => source.take(1),
                    None => {
                        return bad(
                            source.line,
                            source.column,
                            "the array has no end: the file is cut off",
                        );
                    }
                    Some(_) => return bad(source.line, source.column, "expected `,` or `]`"),
                }
            }
        }
        return match source.skip_space()? {
            None => Ok(()),
            Some(_) => bad(
                source.line,
                source.column,
                "text after the end of the array. JSON Lines have one object per line",
            ),
        };
    }
}

/// Hands over one value of an array or of a sequence, which begins at (row, line, column).
fn item(
    name: &str,
    bytes: &[u8],
    (number, line, column): (usize, usize, usize),
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let place = Place {
        name,
        row: number,
        line: Some(line),
        by_line: false,
    };
    let text = utf8(bytes).context(place)?;
    weight::json(text).map_err(|over| over.at(place))?;
    let value = json::parse_python_json(text).map_err(|e| {
        if e.is_deep() {
            return NESTING.exceeded(place);
        }
        let column = if e.line == 1 {
            e.column + column - 1
        } else {
            e.column
        };
        let at = format!("{name}:{}: row {number}", line + e.line.saturating_sub(1));
        Error::user(format!("{at}: {}", malformed(&e, column)))
    })?;
    f(place, row(value, text).context(place)?)
}
