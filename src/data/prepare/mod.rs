//! From public preference files to disjoint training, validation and held-out files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`formats`] | UltraFeedback, its binarised form, HH-RLHF, plain prompts and preferences → [`Item`] |
//! | [`pairs`] | preference pairs of any of these shapes |
//! | [`prompts`] | the prompts of data files, each once |
//! | [`split`] | deduplication, splits by hash, core subsets |
//!
//! Everything is a function of the files' contents and the seed: the same command writes the same bytes.

pub mod formats;
pub mod pairs;
pub mod prompts;
pub mod split;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::input::Input as Opened;
use super::key::sha256_hex;
use super::message::PromptContent;
use super::place::Place;
use super::record::Tally;
use super::weight::{Expansion, Held, Weight};
use crate::error::{Context, Error, Result};
pub use formats::{Format, Item, ScoreField};
pub use split::{Share, Splits};

/// The version of manifest.json.
pub const VERSION: u32 = 1;

/// What to prepare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files, read in order.
    pub inputs: Vec<PathBuf>,
    /// Their shape.
    pub format: Format,
    /// Which of UltraFeedback's scores ranks its completions.
    pub score: ScoreField,
    /// Prompts for validation.
    pub validation: Share,
    /// Prompts for evaluation.
    pub held_out: Share,
    /// Sizes of subsets of the held-out prompts, the smaller within the larger.
    pub core: Vec<usize>,
    /// Prompts in these files are left out.
    pub exclude: Vec<PathBuf>,
    /// Prompts in these files must not occur.
    pub disjoint_from: Vec<PathBuf>,
    /// Seed of the splits and of the choice of rejected answers.
    pub seed: u64,
}

/// Files to be written, and what to say of them.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Names and contents; manifest.json is the last.
    pub files: Vec<(String, Vec<u8>)>,
    /// The same as manifest.json.
    pub manifest: Manifest,
}

/// Where the files came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// Seed of the splits.
    pub seed: u64,
    /// Which of UltraFeedback's scores was used.
    pub score: ScoreField,
    /// Files read.
    pub inputs: Vec<Input>,
    /// Files whose prompts were left out.
    pub excluded: Vec<Source>,
    /// Files that share no prompt with these.
    pub disjoint_from: Vec<Source>,
    /// What became of the rows.
    pub counts: Counts,
    /// Files written.
    pub outputs: Vec<Output>,
}

/// A file by its contents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// As it was named.
    pub file: String,
    /// Of its bytes.
    pub sha256: String,
}

/// An input file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Input {
    /// The file.
    #[serde(flatten)]
    pub source: Source,
    /// Its shape.
    pub format: Format,
    /// Its rows.
    pub rows: usize,
    /// Rows that could not be used, by reason.
    pub skipped: BTreeMap<String, usize>,
}

/// Prompts and pairs, from first to last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows read.
    pub rows: usize,
    /// Rows that could not be used.
    pub skipped: usize,
    /// Rows whose prompt had occurred before: their pairs are kept with it.
    pub duplicate_prompts: usize,
    /// Prompts left out because an excluded file has them.
    pub excluded: usize,
    /// Prompts that are left: training, validation and held-out.
    pub prompts: usize,
    /// Preference pairs of these.
    pub preferences: usize,
    /// Pairs that had occurred before, with the same prompt.
    pub duplicate_preferences: usize,
}

/// An output file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// Its name in the directory.
    pub file: String,
    /// Of its bytes.
    pub sha256: String,
    /// Its lines.
    pub lines: usize,
}

/// Reads, deduplicates and splits.
///
/// # Errors
/// A user error: a file that is missing or malformed (naming the row), of an unknown shape, without a usable row; a prompt that a file
/// of `disjoint_from` has too; more validation and held-out prompts than there are; a core subset larger than the held-out set.
pub fn prepare(o: &Options) -> Result<Prepared> {
    if o.inputs.is_empty() {
        return Err(Error::user("--input: give at least one file"));
    }
    let (excluded, excluded_files) = keys(&o.exclude)?;
    let (foreign, foreign_files) = keys(&o.disjoint_from)?;
    let mut counts = Counts::default();
    let (mut inputs, mut pool, mut held) = (Vec::new(), split::Pool::default(), Held::default());
    let expansion = Expansion::default();
    for path in &o.inputs {
        let input = formats::read(Opened::open_hashed(path, &expansion)?, o, &mut |place, item| {
            let key = split::canonical_key(&item.prompt);
            if excluded.contains_key(&key) {
                counts.excluded += 1;
                return Ok(());
            }
            match foreign.get(&key) {
                Some(file) => at(
                    Err(Error::user(format!(
                        "the prompt \"{}\" occurs in {} too; leave such prompts out with --exclude {}",
                        start(&item.prompt),
                        file.display(),
                        file.display()
                    ))),
                    place,
                ),
                None => {
                    held.add(place, key.len() as u64 + item.weight())?;
                    pool.add(key, item, &mut counts);
                    Ok(())
                }
            }
        })?;
        counts.rows += input.rows;
        counts.skipped += input.skipped.values().sum::<usize>();
        inputs.push(input);
    }
    let splits = pool.split(o)?;
    counts.prompts = splits.all().map(|(_, e)| e.len()).sum();
    counts.preferences = splits.all().flat_map(|(_, e)| e).map(|e| e.pairs.len()).sum();
    let mut files = splits.files()?;
    let manifest = Manifest {
        version: VERSION,
        seed: o.seed,
        score: o.score,
        inputs,
        excluded: excluded_files,
        disjoint_from: foreign_files,
        counts,
        outputs: files
            .iter()
            .map(|(name, bytes)| Output {
                file: name.clone(),
                sha256: sha256_hex(bytes),
                lines: bytes.iter().filter(|b| **b == b'\n').count(),
            })
            .collect(),
    };
    let text = serde_json::to_string_pretty(&manifest).map_err(Error::internal)? + "\n";
    files.push(("manifest.json".into(), text.into_bytes()));
    Ok(Prepared { files, manifest })
}

/// The canonical keys of the prompts in files of any known shape, with the file; and the files by their contents.
fn keys(files: &[PathBuf]) -> Result<(BTreeMap<String, PathBuf>, Vec<Source>)> {
    let (mut found, mut sources, mut held) = (BTreeMap::new(), Vec::new(), Held::default());
    let expansion = Expansion::default();
    for path in files {
        let input = Opened::open_hashed(path, &expansion)?;
        sources.push(source(&input));
        formats::read_prompts(input, None, &mut |place, prompt| {
            let key = split::canonical_key(&prompt);
            let weight = key.len() as u64;
            if let Entry::Vacant(entry) = found.entry(key) {
                held.add(place, weight)?;
                entry.insert(path.clone());
            }
            Ok(())
        })?;
    }
    Ok((found, sources))
}

/// A file's name and hash.
fn source(input: &Opened) -> Source {
    Source {
        file: input.name().to_owned(),
        sha256: input.sha256().unwrap_or_default().to_owned(),
    }
}

/// The beginning of a prompt, for messages.
fn start(prompt: &PromptContent) -> String {
    let messages = prompt.to_messages();
    let text = messages.last().map_or("", |m| m.content.as_str());
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short + "…"
    } else {
        short
    }
}

/// A prompt's fields in a line: `prompt` or `messages`.
fn prompt_fields(prompt: &PromptContent) -> serde_json::Map<String, Value> {
    let mut out = serde_json::Map::new();
    match prompt {
        PromptContent::Text(text) => out.insert("prompt".into(), json!(text)),
        PromptContent::Messages(turns) => {
            let turns: Vec<Value> = turns
                .iter()
                .map(|t| json!({"role": t.role, "content": t.content}))
                .collect();
            out.insert("messages".into(), turns.into())
        }
    };
    out
}

/// What a file says when no row of it is of use.
fn unusable(name: &str, format: Format, tally: &Tally) -> Error {
    let reasons = tally.reasons();
    let reasons: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} × {why}")).collect();
    Error::user(format!(
        "{name}: no row of this file is a usable {}: {}",
        format.name(),
        reasons.join("; ")
    ))
}

/// Adds a row's place to an error.
fn at<T>(result: Result<T>, place: Place<'_>) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        error => error.context(place.with_row()),
    }
}

#[cfg(test)]
mod tests;
