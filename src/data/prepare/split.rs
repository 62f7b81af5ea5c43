//! Deduplication, splits by hash, core subsets.

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::json;

use super::formats::Item;
use super::{Counts, Options, prompt_fields};
use crate::data::key::sha256_hex;
use crate::data::message::{Message, PromptContent};
use crate::error::{Error, Result};

/// What makes two prompts the same: [`PromptContent::key`] with every run of white space as one space and none at the ends.
pub fn canonical_key(prompt: &PromptContent) -> String {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    match prompt {
        PromptContent::Text(text) => PromptContent::Text(plain(text)),
        PromptContent::Messages(turns) => {
            let one = |m: &Message| Message {
                role: m.role.clone(),
                content: plain(&m.content),
            };
            PromptContent::Messages(turns.iter().map(one).collect())
        }
    }
    .key()
}

/// A number of prompts, or a share of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// So many.
    Count(usize),
    /// This part, rounded.
    Fraction(f64),
}

impl Share {
    fn of(self, total: usize) -> usize {
        match self {
            Self::Count(n) => n,
            Self::Fraction(part) => (part * total as f64).round() as usize,
        }
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fraction = |part: &f64| (0.0..1.0).contains(part);
        // Counts of all parts are added.
        let count = text.parse::<u32>().map(|n| n as usize);
        match (count, text.parse().ok().filter(fraction)) {
            (Ok(n), _) => Ok(Self::Count(n)),
            (_, Some(part)) => Ok(Self::Fraction(part)),
            _ => Err(Error::user(format!(
                "\"{text}\" is neither a number of prompts (500, at most {}) nor a share of all (0.05)",
                u32::MAX
            ))),
        }
    }
}

/// A prompt with its pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its canonical key.
    pub key: String,
    /// What is asked, as the first of its rows wrote it.
    pub prompt: PromptContent,
    /// Better and worse answers.
    pub pairs: Vec<(String, String)>,
}

/// Prompts, each once.
#[derive(Debug, Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    places: HashMap<String, usize>,
}

impl Pool {
    pub(super) fn add(&mut self, key: String, item: Item, counts: &mut Counts) {
        let Some(&place) = self.places.get(&key) else {
            self.places.insert(key.clone(), self.entries.len());
            self.entries.push(Entry {
                key,
                prompt: item.prompt,
                pairs: item.pairs,
            });
            return;
        };
        counts.duplicate_prompts += 1;
        let known = &mut self.entries[place].pairs;
        for pair in item.pairs {
            if known.contains(&pair) {
                counts.duplicate_preferences += 1;
            } else {
                known.push(pair);
            }
        }
    }

    /// Sorts the prompts by a hash of seed and key, and cuts: whatever the order of the files, the same prompts come out.
    pub(super) fn split(mut self, o: &Options) -> Result<Splits> {
        let total = self.entries.len();
        let (validation, held_out) = (o.validation.of(total), o.held_out.of(total));
        if validation + held_out > total {
            return Err(Error::user(format!(
                "--validation {validation} and --heldout {held_out} are more than the {total} different prompts there are; lower them"
            )));
        }
        let seed = o.seed;
        self.entries
            .sort_by_cached_key(|e| sha256_hex(format!("split:{seed}:{}", e.key).as_bytes()));
        let mut rest = self.entries.into_iter();
        let validation: Vec<Entry> = rest.by_ref().take(validation).collect();
        let held_out: Vec<Entry> = rest.by_ref().take(held_out).collect();
        let train: Vec<Entry> = rest.collect();
        let mut ranked: Vec<Entry> = held_out.clone();
        // Not of the seed: the same held-out prompts have the same core.
        ranked.sort_by_cached_key(|e| sha256_hex(format!("core:{}", e.key).as_bytes()));
        let mut core = Vec::new();
        for size in &o.core {
            if *size == 0 || *size > ranked.len() {
                return Err(Error::user(format!(
                    "--core {size}: there are {} held-out prompts; raise --heldout or lower --core",
                    ranked.len()
                )));
            }
            core.push((*size, ranked[..*size].to_vec()));
        }
        Ok(Splits {
            train,
            validation,
            held_out,
            core,
        })
    }
}

/// Prompts in three parts that share none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// For training.
    pub train: Vec<Entry>,
    /// For choosing checkpoints and settings.
    pub validation: Vec<Entry>,
    /// For the final evaluation.
    pub held_out: Vec<Entry>,
    /// Nested subsets of `held_out`, by size.
    pub core: Vec<(usize, Vec<Entry>)>,
}

impl Splits {
    /// The parts with their names.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &[Entry])> {
        [
            ("train", &self.train[..]),
            ("validation", &self.validation[..]),
            ("held-out", &self.held_out[..]),
        ]
        .into_iter()
    }

    /// JSONL files by name: prompts of every part and core, preferences where there are any.
    pub(super) fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        for (name, entries) in self.all().filter(|(_, e)| !e.is_empty()) {
            files.push((format!("prompts-{name}.jsonl"), prompts(entries)?));
            let pairs = preferences(entries)?;
            if !pairs.is_empty() {
                files.push((format!("preferences-{name}.jsonl"), pairs));
            }
        }
        for (size, entries) in &self.core {
            files.push((format!("prompts-core{size}.jsonl"), prompts(entries)?));
        }
        Ok(files)
    }
}

/// A prompt's id in every file: the beginning of its key.
fn id(entry: &Entry) -> &str {
    &entry.key[..16]
}

fn prompts(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for e in entries {
        let mut line = serde_json::Map::from_iter([("id".to_string(), json!(id(e)))]);
        line.extend(prompt_fields(&e.prompt));
        push(&mut out, line)?;
    }
    Ok(out)
}

/// Conversations stand under `prompt` here, where `reward` reads them.
fn preferences(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for e in entries {
        for (chosen, rejected) in &e.pairs {
            let mut line = serde_json::Map::from_iter([("id".to_string(), json!(id(e)))]);
            for (_, value) in prompt_fields(&e.prompt) {
                line.insert("prompt".into(), value);
            }
            line.insert("chosen".into(), json!(chosen));
            line.insert("rejected".into(), json!(rejected));
            push(&mut out, line)?;
        }
    }
    Ok(out)
}

fn push(out: &mut Vec<u8>, line: serde_json::Map<String, serde_json::Value>) -> Result<()> {
    serde_json::to_writer(&mut *out, &line).map_err(Error::internal)?;
    out.push(b'\n');
    Ok(())
}
