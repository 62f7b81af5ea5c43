//! JSON lines that grow record by record and survive a crash: each is on the disk before the next is begun.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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

/// The first setting in which what was begun and what is asked for now differ: its name and both values, null where there
/// is none. Fields named in `aside` may differ.
///
/// # Errors
/// Settings that are no JSON object.
pub fn first_difference<T: Serialize>(
    begun: &T,
    now: &T,
    aside: &[&str],
) -> Result<Option<(String, Value, Value)>> {
    let fields = |settings: &T| match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::internal("settings are a JSON object")),
    };
    let (old, new) = (fields(begun)?, fields(now)?);
    let of = |map: &Map<String, Value>, name: &String| map.get(name).cloned().unwrap_or_default();
    let mut names = old.keys().chain(new.keys());
    let name = names.find(|n| !aside.contains(&n.as_str()) && of(&old, n) != of(&new, n));
    Ok(name.map(|n| (n.clone(), of(&old, n), of(&new, n))))
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
    fn the_first_difference_is_named() {
        #[derive(Serialize)]
        struct Settings {
            seed: u64,
            file: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            width: Option<u64>,
        }
        let of = |seed, file, width| Settings { seed, file, width };
        let differs = |a, b| first_difference(&a, &b, &["file"]).unwrap();
        assert_eq!(differs(of(1, "a", None), of(1, "b", None)), None);
        let one = |name: &str, a: Value, b: Value| Some((name.to_string(), a, b));
        assert_eq!(
            differs(of(1, "a", None), of(2, "a", None)),
            one("seed", 1.into(), 2.into())
        );
        // A setting that only one of them has.
        assert_eq!(
            differs(of(1, "a", None), of(1, "a", Some(3))),
            one("width", Value::Null, 3.into())
        );
        assert_eq!(
            differs(of(1, "a", Some(3)), of(1, "a", None)),
            one("width", 3.into(), Value::Null)
        );
    }

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
