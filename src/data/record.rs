//! From a file's rows to a command's records, with what was left out and why.

use std::collections::BTreeMap;
use std::path::Path;

use super::input::Input;
use super::place::Place;
use super::row::Row;
use super::weight::Held;
use crate::error::{Context, Error, Result};

/// Most reasons that are told one by one.
const REASONS: usize = 8;

/// A type that one row of an input file becomes.
pub trait Record: Sized {
    /// What a row must look like; ends the message of an empty file.
    const FORM: &'static str;
    /// The columns it is read from.
    const COLUMNS: &'static [&'static str];
    /// Whether rows that are of no use are left out and counted, or every row must be a record because the output has one
    /// line for each.
    const LEAVES_OUT: bool = false;

    /// Reads the record from a row's fields.
    ///
    /// # Errors
    /// A user error that names the field; [`Error::Unusable`] for a row that is well formed and holds no record. The reader
    /// adds the place.
    fn from_row(row: &Row) -> Result<Self>;

    /// About how many bytes of a row the record keeps.
    fn weight(row: &Row) -> u64 {
        row.weight(Some(Self::COLUMNS))
    }
}

impl Record for Row {
    const FORM: &'static str = "{\"field\": …}";
    const COLUMNS: &'static [&'static str] = &[];

    fn from_row(row: &Row) -> Result<Self> {
        Ok(row.clone())
    }

    fn weight(row: &Row) -> u64 {
        row.weight(None)
    }
}

/// Row outcomes.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rows read.
    pub rows: usize,
    /// Rows left out, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// The first of these, with its place.
    first: Option<Error>,
}

impl Tally {
    /// Counts a row that is left out.
    pub(crate) fn leave_out(&mut self, place: Place<'_>, why: Error) {
        log::debug!("{place}: {why}");
        *self.left_out.entry(why.to_string()).or_insert(0) += 1;
        if self.first.is_none() {
            let at: Result<()> = Err(why).context(place);
            self.first = at.err();
        }
    }

    /// How many rows were left out.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.left_out.values().sum()
    }

    /// The reasons with their counts, the most frequent first; the rarest of many are told together.
    #[must_use]
    pub fn reasons(&self) -> Vec<(String, usize)> {
        let mut all: Vec<(String, usize)> = self.left_out.iter().map(|(why, n)| (why.clone(), *n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        if all.len() > REASONS {
            let rest = all.split_off(REASONS - 1);
            let rows = rest.iter().map(|(_, n)| n).sum();
            all.push((format!("{} other reasons", rest.len()), rows));
        }
        all
    }

    /// Warns of the rows left out of `source`.
    pub(crate) fn warn(&self, source: &str) {
        for (why, n) in self.reasons() {
            log::warn!("{source}: {n} of {} rows are left out: {why}", self.rows);
        }
    }

    /// What a file or set says that has no record.
    pub(crate) fn nothing(self, source: &str, form: &str) -> Error {
        match self.first {
            None => Error::user(format!(
                "{source}: no records in this file. Give one a line: {form}"
            )),
            Some(first) if self.rows == 1 => first,
            Some(first) => Error::user(format!("{first} (all {} rows are of no use)", self.rows)),
        }
    }
}

/// Reads a file's records. JSON Lines, a JSON array, CSV with a header and Parquet are told by the first bytes, as are gzip
/// and zstd around them; pipes and `-`, standard input, are read as files are. Rows that are left out are warned of.
///
/// # Errors
/// An I/O error with the path, or a user error that begins with the row's place (`FILE:LINE`, or the row's number) for text
/// that is not UTF-8, malformed JSON, a missing field, a wrong type; a file without records is an error too.
pub fn read_records<R: Record>(path: &Path) -> Result<Vec<R>> {
    let records = read_placed(Input::open(path)?)?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// As [`read_records`], from memory; `name` stands for the path in messages.
///
/// # Errors
/// As [`read_records`], without the I/O.
pub fn parse_records<R: Record>(name: &str, bytes: &[u8]) -> Result<Vec<R>> {
    let records = read_placed(Input::of_bytes(name, bytes.to_vec())?)?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// As [`read_records`], each record with its place for messages about what it says.
///
/// # Errors
/// As [`read_records`].
pub fn read_placed<R: Record>(input: Input) -> Result<Vec<(String, R)>> {
    let name = input.name().to_owned();
    let (mut tally, mut held, mut records) = (Tally::default(), Held::default(), Vec::new());
    collect(
        input,
        false,
        &mut tally,
        &mut held,
        &mut |place, record, weight| {
            records.push((place.to_string(), record));
            Ok(weight)
        },
    )?;
    if records.is_empty() {
        return Err(tally.nothing(&name, R::FORM));
    }
    tally.warn(&name);
    Ok(records)
}

/// Hands over the records of a file, each with its weight, and is told how many bytes are held of it. Rows of no use are counted, whether the record's type says so or `f`; with `found`, for
/// data that was not made for this program, so are those that are malformed.
///
/// # Errors
/// As [`Input::each`]; a row that must not be left out, with its place.
pub(crate) fn collect<R: Record>(
    input: Input,
    found: bool,
    tally: &mut Tally,
    held: &mut Held,
    f: &mut dyn FnMut(Place<'_>, R, u64) -> Result<u64>,
) -> Result<()> {
    input.each(R::COLUMNS, &mut |place, row| {
        tally.rows += 1;
        match R::from_row(&row).and_then(|record| f(place, record, R::weight(&row))) {
            Ok(0) => Ok(()),
            Ok(kept) => held.add(place, kept),
            Err(e) if R::LEAVES_OUT && (found || e.is_unusable()) => {
                tally.leave_out(place, e);
                Ok(())
            }
            Err(e) => Err(e).context(place),
        }
    })
}
