//! JSON lines that grow record by record and survive a crash: each is on the disk before the next is begun.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};

/// The records of a journal, in order; a last line torn by a crash is cut off the file. None where there is no file.
///
/// # Errors
/// An I/O error; a whole line that is not a record, with its number.
pub fn recover<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let mut records = Vec::new();
    let mut whole = 0;
    for line in bytes
        .split_inclusive(|b| *b == b'\n')
        .filter(|l| l.ends_with(b"\n"))
    {
        let place = || format!("{}:{}", path.display(), records.len() + 1);
        records.push(
            serde_json::from_slice(line)
                .map_err(Error::user)
                .context(place())?,
        );
        whole += line.len() as u64;
    }
    if whole < bytes.len() as u64 {
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Error::io(path))?;
        file.set_len(whole).map_err(Error::io(path))?;
    }
    Ok(records)
}

/// Appends a record and syncs it to the disk.
///
/// # Errors
/// An I/O error.
pub fn append(path: &Path, record: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(record).map_err(Error::internal)?;
    line.push(b'\n');
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::io(path))?;
    file.write_all(&line)
        .and_then(|()| file.sync_data())
        .map_err(Error::io(path))
}
