//! Lines of text files, one at a time, none longer than a row may be.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::limits::{ROW, WHOLE_FILE};
use crate::error::{Error, Result};

/// Bytes of a read.
const PIECE: usize = 1 << 18;

/// How far [`append_line`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A line break, which was taken too.
    Break,
    /// The end of the file.
    File,
    /// The line is longer than [`ROW`] allows.
    TooLong,
}

/// Appends the rest of a line. A file without line breaks would otherwise fill the memory.
///
/// # Errors
/// Those of the reader.
pub(crate) fn append_line(reader: &mut impl BufRead, out: &mut Vec<u8>) -> io::Result<End> {
    let most = usize::try_from(ROW.most()).unwrap_or(usize::MAX);
    loop {
        let buffer = reader.fill_buf()?;
        let (n, end) = match memchr(buffer) {
            Some(at) => (at + 1, Some(End::Break)),
            None => (buffer.len(), buffer.is_empty().then_some(End::File)),
        };
        if n > most.saturating_sub(out.len()) {
            return Ok(End::TooLong);
        }
        out.extend_from_slice(&buffer[..n]);
        reader.consume(n);
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Where a line ends.
fn memchr(buffer: &[u8]) -> Option<usize> {
    // A line end every few bytes is rare: whole words are looked through at once.
    let words = buffer.chunks_exact(32);
    let tail = words.remainder();
    for (i, word) in words.enumerate() {
        if word.iter().fold(false, |any, b| any | (*b == b'\n')) {
            return word.iter().position(|b| *b == b'\n').map(|at| i * 32 + at);
        }
    }
    let at = tail.iter().position(|b| *b == b'\n')?;
    Some(buffer.len() - tail.len() + at)
}

/// A file of this program's to which records were appended line by line.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    number: usize,
    bytes: u64,
    text: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// From the beginning of an open file.
    ///
    /// # Errors
    /// It is larger than all its records may be.
    pub(crate) fn new(path: &'a Path, file: File) -> Result<Self> {
        let size = file.metadata().map_err(Error::io(path))?.len();
        WHOLE_FILE.check(path.display(), size)?;
        Ok(Self {
            path,
            reader: BufReader::with_capacity(PIECE, file),
            number: 0,
            bytes: 0,
            text: Vec::new(),
        })
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// It is too long, with its number; an I/O error.
    pub(crate) fn next(&mut self) -> Result<Option<Line<'_>>> {
        self.text.clear();
        let end = append_line(&mut self.reader, &mut self.text).map_err(Error::io(self.path))?;
        self.number += 1;
        self.bytes += self.text.len() as u64;
        // The file may have grown meanwhile.
        WHOLE_FILE.check(self.path.display(), self.bytes)?;
        match end {
            End::TooLong => Err(ROW.exceeded(format!("{}:{}", self.path.display(), self.number))),
            End::File if self.text.is_empty() => Ok(None),
            _ => Ok(Some(Line {
                path: self.path,
                text: &self.text,
                number: self.number,
                upto: Upto {
                    bytes: self.bytes,
                    ended: end == End::Break,
                },
            })),
        }
    }
}

/// One line of a file.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    path: &'a Path,
    text: &'a [u8],
    /// From 1.
    pub(crate) number: usize,
    /// The file up to its end.
    pub(crate) upto: Upto,
}

impl Line<'_> {
    /// Whether there is nothing in it.
    pub(crate) fn is_blank(&self) -> bool {
        self.text.trim_ascii().is_empty()
    }

    /// The record in it. `None` for the last line of a file that a crash tore, which is said.
    ///
    /// # Errors
    /// A whole line that is no record.
    pub(crate) fn record<T: DeserializeOwned>(&self) -> serde_json::Result<Option<T>> {
        match serde_json::from_slice(self.text) {
            Ok(record) => Ok(Some(record)),
            Err(_) if !self.upto.ended => {
                let (path, number) = (self.path.display(), self.number);
                log::warn!("{path}: line {number} is incomplete: left out");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// A file up to the end of one of its lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Upto {
    /// Its length.
    pub(crate) bytes: u64,
    /// Whether the line has a line break.
    ended: bool,
}

impl Upto {
    /// Whether the line has a line break.
    pub(crate) fn ended(self) -> bool {
        self.ended
    }

    /// Cuts off what follows, and ends the line, so that the next record has its own.
    ///
    /// # Errors
    /// An I/O error; `file` must have been opened to append.
    pub(crate) fn keep(self, path: &Path, file: &mut File) -> Result<()> {
        let has = file.metadata().map_err(Error::io(path))?.len();
        let mut keep = || {
            if has != self.bytes {
                file.set_len(self.bytes)?;
            }
            match self.bytes > 0 && !self.ended {
                true => file.write_all(b"\n"),
                false => Ok(()),
            }
        };
        keep().map_err(Error::io(path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::file::open::regular;

    #[test]
    fn lines_are_read_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "[1]\n \n[2]").unwrap();
        let mut lines = Lines::new(&path, regular(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let record = match line.is_blank() {
                true => None,
                false => line.record::<[u32; 1]>().unwrap(),
            };
            found.push((line.number, record, line.upto.bytes, line.upto.ended));
        }
        let want = [
            (1, Some([1]), 4, true),
            (2, None, 6, true),
            (3, Some([2]), 9, false),
        ];
        assert_eq!(found, want);
    }

    /// A sparse file of a gigabyte costs no more than a row may.
    #[test]
    fn a_line_without_end_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        let mut lines = Lines::new(&path, regular(&path).unwrap()).unwrap();
        assert!(lines.next().unwrap().is_some());
        let error = lines.next().unwrap_err();
        let said = error.to_string();
        assert_eq!(error.exit_code(), 2, "{said}");
        assert!(said.contains("a.jsonl:2: size of a row: more"), "{said}");
        assert!(lines.text.len() as u64 <= ROW.most());
        file.set_len(WHOLE_FILE.most() + 1).unwrap();
        let said = Lines::new(&path, regular(&path).unwrap())
            .unwrap_err()
            .to_string();
        assert!(said.contains(WHOLE_FILE.what), "{said}");
    }
}
