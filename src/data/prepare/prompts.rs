//! Prompts of data files.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::Map;

use super::formats::{self, Format, ScoreField};
use super::{Opened, split};
use crate::data::dataset::PromptRecord;
use crate::data::message::PromptContent;
use crate::data::record::{Record, Tally};
use crate::data::weight::{Expansion, Held, Weight};
use crate::error::{Context, Error, Result};

/// The prompts of data files.
#[derive(Debug, Default)]
pub struct Prompts {
    /// In the order of files and rows. Of data that was [found](Prompts::found) every prompt once, where it occurs first; ids
    /// are the beginning of its canonical key.
    pub records: Vec<PromptRecord>,
    /// Rows read, and rows left out by reason.
    pub tally: Tally,
    /// Rows whose prompt had occurred before.
    pub duplicates: usize,
    /// From public data, of which nobody has made sure that every row fits; not from a file made for this program.
    pub found: bool,
}

/// Reads the prompts of files of any known shape, in the order of files and rows: a function of the files alone.
///
/// # Errors
/// A file that is missing, malformed (naming the row) or without rows; no usable row in all of them.
pub fn prompts(files: &[PathBuf]) -> Result<Prompts> {
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let expansion = Expansion::default();
    let files = files.iter().map(|path| Opened::open_with(path, &expansion));
    found(files, &names.join(", "))
}

/// Reads one file. Parquet, and files in the shape of a public set, are taken for found data, as [`prompts`] takes them; JSON
/// and CSV files of prompts or preferences for files made for this program: every row counts, with its id, and a malformed
/// one is refused.
///
/// # Errors
/// As [`prompts`]; a malformed row in a file made for this program.
pub fn of_file(input: Opened) -> Result<Prompts> {
    let name = input.name().to_owned();
    if input.is_parquet() {
        return found([Ok(input)].into_iter(), &name);
    }
    let (mut out, mut held) = (Prompts::default(), Held::default());
    input.each(formats::COLUMNS, &mut |place, row| {
        out.tally.rows += 1;
        let shape = Format::of(&row);
        let public = shape.as_ref().is_ok_and(|s| s.is_lenient());
        out.found |= public;
        let whole = public || (shape.is_ok() && row.get("prompt").or(row.get("messages")).is_none());
        let record = match shape {
            Ok(shape) if whole => shape
                .item(&row, ScoreField::FineGrained, 0)
                .map(|item| PromptRecord {
                    id: row.id().unwrap_or_default(),
                    prompt: item.prompt,
                    fields: row.others(formats::COLUMNS),
                }),
            // Of a row of no shape this error names the field that is missing.
            _ => PromptRecord::from_row(&row),
        };
        match record {
            Ok(record) => {
                held.add(place, record.prompt.weight() + record.fields.weight())?;
                out.records.push(record);
            }
            Err(e) if public || e.is_unusable() => out.tally.leave_out(place, e),
            Err(e) => return Err(e).context(place),
        }
        Ok(())
    })?;
    if out.records.is_empty() {
        return Err(out.tally.nothing(&name, PromptRecord::FORM));
    }
    if out.found {
        let mut seen = Seen::default();
        for record in std::mem::take(&mut out.records) {
            seen.add(record.prompt, &mut out);
        }
    }
    Ok(out)
}

fn found(files: impl Iterator<Item = Result<Opened>>, names: &str) -> Result<Prompts> {
    let mut out = Prompts {
        found: true,
        ..Prompts::default()
    };
    let (mut seen, mut tally, mut held) = (Seen::default(), Tally::default(), Held::default());
    for file in files {
        formats::read_prompts(file?, Some(&mut tally), &mut |place, prompt| {
            let weight = prompt.weight();
            match seen.add(prompt, &mut out) {
                true => held.add(place, KEY + weight),
                false => Ok(()),
            }
        })?;
    }
    out.tally = tally;
    if out.records.is_empty() {
        let reasons = out.tally.reasons();
        let reasons: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} × {why}")).collect();
        return Err(Error::user(format!(
            "no row of {names} holds a prompt: {}",
            reasons.join("; ")
        )));
    }
    Ok(out)
}

/// Bytes of a key in [`Seen`], and of the id made of it.
const KEY: u64 = 160;

/// The keys of the prompts so far.
#[derive(Default)]
struct Seen(HashSet<String>);

impl Seen {
    /// Adds a prompt that has not occurred yet; whether it had not.
    fn add(&mut self, prompt: PromptContent, out: &mut Prompts) -> bool {
        let key = split::canonical_key(&prompt);
        let id = key[..16].to_string().into();
        let is_new = self.0.insert(key);
        if is_new {
            out.records.push(PromptRecord {
                id,
                prompt,
                fields: Map::new(),
            });
        } else {
            out.duplicates += 1;
        }
        is_new
    }
}
