//! JSON lines that grow record by record and survive a crash: each is on the disk before the next is begun.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};
use crate::file::lines::{Lines, Upto};
use crate::file::open::own_if_any;
use crate::file::write;

/// The records of a journal, in order; a last line torn by a crash is cut off the file, which is said. None where there is no file.
///
/// # Errors
/// An I/O error; a whole line that is not a record, or too long for one, with its number.
pub fn recover<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let Some(file) = own_if_any(path)? else {
        return Ok(Vec::new());
    };
    let (mut records, mut kept) = (Vec::new(), Upto::default());
    let mut lines = Lines::new(path, file)?;
    while let Some(line) = lines.next()? {
        let record = line.record().map_err(Error::user);
        if let Some(record) = record.context(format_args!("{}:{}", path.display(), line.number))? {
            records.push(record);
            kept = line.upto;
        }
    }
    kept.keep(path, &mut write::append(path)?)?;
    Ok(records)
}

/// Appends a record and syncs it to the disk. What a failed write left of it is taken back, so that a later one does not
/// go on in the middle of a line.
///
/// # Errors
/// An I/O error.
pub fn append(path: &Path, record: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(record).map_err(Error::internal)?;
    line.push(b'\n');
    let mut file = write::append(path)?;
    let whole = file.metadata().map_err(Error::io(path))?.len();
    file.write_all(&line)
        .and_then(|()| file.sync_data())
        .map_err(|error| {
            // Where even that fails, `recover` cuts it.
            drop(file.set_len(whole));
            Error::io(path)(error)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;

    #[test]
    fn a_torn_line_is_cut_wherever_it_was_torn_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        assert_eq!(recover::<(u32, String)>(&path).unwrap(), []);
        let records = [
            (1, "one".to_string()),
            (2, "zwölf".to_string()),
            (3, String::new()),
        ];
        for record in &records {
            append(&path, record).unwrap();
        }
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let kept: Vec<(u32, String)> = recover(&path).unwrap();
            // A record that lacks only its line end is whole.
            let lines = (0..=cut).filter(|at| bytes.get(*at) == Some(&b'\n')).count();
            assert_eq!(kept, records[..lines], "cut at {cut}");
            for record in &records[lines..] {
                append(&path, record).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
        fs::write(&path, b"[1,\"one\"]\n[2,\"tw\n[3,\"\"]\n").unwrap();
        let error = recover::<(u32, String)>(&path).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("journal.jsonl:2"),
            "{error}"
        );
    }
}
