//! Prompts of public data files, each once.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde_json::{Map, json};

use super::{formats, split};
use crate::error::{Error, Result};
use crate::text::dataset::PromptRecord;

/// The prompts of data files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompts {
    /// Every prompt once, where it occurs first; ids are the beginning of its canonical key.
    pub records: Vec<PromptRecord>,
    /// Rows read.
    pub rows: usize,
    /// Rows whose prompt had occurred before.
    pub duplicates: usize,
    /// Rows that cannot be used, by reason.
    pub skipped: BTreeMap<String, usize>,
}

/// Reads the prompts of files of any known shape, in the order of files and rows: a function of the files alone.
///
/// # Errors
/// A file that is missing, malformed (naming the row), of an unknown shape or without rows; no usable row in all of them.
pub fn prompts(files: &[PathBuf]) -> Result<Prompts> {
    let (mut out, mut seen) = (Prompts::default(), HashSet::new());
    let mut skipped = BTreeMap::new();
    for path in files {
        let count = formats::read_prompts(path, Some(&mut skipped), &mut |prompt| {
            let key = split::canonical_key(&prompt);
            let id = json!(key[..16]);
            if seen.insert(key) {
                out.records.push(PromptRecord {
                    id,
                    prompt,
                    fields: Map::new(),
                });
            } else {
                out.duplicates += 1;
            }
        })?;
        out.rows += count;
    }
    out.skipped = skipped;
    if out.records.is_empty() {
        let reasons: Vec<String> = out
            .skipped
            .iter()
            .map(|(why, n)| format!("{n} × {why}"))
            .collect();
        let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        return Err(Error::user(format!(
            "no row of {} holds a prompt: {}",
            names.join(", "),
            reasons.join("; ")
        )));
    }
    Ok(out)
}
