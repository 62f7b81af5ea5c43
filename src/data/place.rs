//! Where a row is.

use std::fmt;

/// A row's place in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The file.
    pub name: &'a str,
    /// The row, from 1; blank lines do not count.
    pub row: usize,
    /// The line that the row begins on, from 1, where the file has lines.
    pub line: Option<usize>,
    /// Whether the file has one row per line, so that the line says it all.
    pub by_line: bool,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, row, .. } = self;
        match self.line {
            Some(line) if self.by_line => write!(f, "{name}:{line}"),
            Some(line) => write!(f, "{name}:{line}: row {row}"),
            None => write!(f, "{name}: row {row}"),
        }
    }
}

impl Place<'_> {
    /// The place with the row's number, for commands whose other messages count rows.
    #[must_use]
    pub fn with_row(&self) -> String {
        let Self { name, row, .. } = self;
        match self.line {
            Some(line) if line != *row => format!("{name}: row {row} (line {line})"),
            _ => format!("{name}: row {row}"),
        }
    }
}
