//! Prompts by name, and as the policy reads them.

use super::rl::Prompt;
use super::selection;
use super::sources::Named;
pub use super::sources::Purpose;
use crate::config::{DataSet, TINY, TrainConfig};
use crate::data::prepare::prompts;
use crate::data::{Input, PromptContent, PromptRecord};
use crate::demo::{self, Split};
use crate::error::{Context, Error, Result};
use crate::model::alias::alias;
use crate::model::hub::HubSettings;
use crate::model::load::Source;
use crate::text::{Count, Encoded, Formatter};
use std::path::{Path, PathBuf};

/// Training prompts of the embedded preset.
const TINY_PROMPTS: usize = 512;
/// Most tokens in a prompt of a data set that nobody has looked through (TRL's default).
const DATA_SET_LENGTH: usize = 512;

/// Prompts and where they came from.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// In the order of the files.
    pub records: Vec<PromptRecord>,
    /// The files of the hub, where they came from there.
    pub set: Option<DataSet>,
    /// What messages and stored results call them; `None` for prompts from no file.
    pub source: Option<String>,
    /// From data files, of which nobody has made sure that every row fits; not from a JSONL file made for this program.
    pub found: bool,
}

impl Prompts {
    fn embedded(contents: impl Iterator<Item = demo::Example>) -> Self {
        let record = |e: demo::Example| PromptRecord {
            id: e.id.into(),
            prompt: PromptContent::Text(e.prompt),
            fields: serde_json::Map::new(),
        };
        Self {
            records: contents.map(record).collect(),
            set: None,
            source: None,
            found: false,
        }
    }

    /// What messages call prompt number `at` (from 1).
    fn place(source: Option<&str>, at: usize) -> String {
        match source {
            Some(source) => format!("{source}: prompt {at}"),
            None => format!("prompt {at}"),
        }
    }
}

/// The default prompts of a policy, from `models/aliases.toml`.
fn default_prompts(model: &str) -> Result<Option<PathBuf>> {
    let found = alias(model)?.filter(|a| !a.is_embedded()).and_then(|a| a.prompts);
    Ok(found.map(PathBuf::from))
}

/// The training prompts that the settings name, or their policy's default ones; notes in the settings what that was.
///
/// # Errors
/// As [`read`]; nothing is named and the policy has no default.
pub fn training(c: &mut TrainConfig) -> Result<Prompts> {
    let named = match c.prompts.take() {
        None if c.model == TINY => {
            let examples = demo::generate(c.seed, TINY_PROMPTS, Split::Train);
            return Ok(Prompts::embedded(examples.into_iter()));
        }
        None => default_prompts(&c.model)?,
        given => given,
    };
    let name = named.ok_or_else(|| {
        Error::user(format!(
            "no training prompts: {} has no default ones in models/aliases.toml; give --prompts FILE, or a data set of the hub",
            c.model
        ))
    })?;
    let prompts = read(&name, c.prompt_set.as_ref(), Purpose::Training)?;
    c.prompts = Some(name);
    c.prompt_set.clone_from(&prompts.set);
    if prompts.found {
        c.max_prompt_length.get_or_insert(DATA_SET_LENGTH);
    }
    Ok(prompts)
}

/// The validation prompts that the settings name; none where nothing is selected.
///
/// # Errors
/// As [`read`]; `embedded` for another policy than the embedded one.
pub fn validation(c: &TrainConfig) -> Result<Option<Prompts>> {
    let Some(name) = &c.validation_prompts else {
        return Ok(None);
    };
    if name.as_os_str() == selection::EMBEDDED {
        return selection::embedded(c).map(|e| Some(Prompts::embedded(e.into_iter())));
    }
    let mut prompts = read(name, None, Purpose::Other).context("--validation-prompts")?;
    if !prompts.found {
        prompts.records.truncate(c.validation_size);
    }
    Ok(Some(prompts))
}

/// Reads prompts by name. A local path wins over the hub; what `recorded` says of the same name wins over both.
///
/// A file of this program's own form is refused where it is malformed; of data files the rows that cannot be used are left out, and
/// prompts that differ by white space alone are one. Rows left out are counted.
///
/// # Errors
/// The file is missing, empty or malformed; those of [`Named::find`].
pub fn read(name: &Path, recorded: Option<&DataSet>, purpose: Purpose) -> Result<Prompts> {
    read_with(name, recorded, purpose, &HubSettings::from_env())
}

/// As [`read`], with the hub's settings given.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    name: &Path,
    recorded: Option<&DataSet>,
    purpose: Purpose,
    hub: &HubSettings,
) -> Result<Prompts> {
    let named = Named::find(name, recorded, purpose, hub)?;
    let read = match &named {
        Named::File(path) => prompts::of_file(Input::open(path)?)?,
        Named::Set { files, .. } => prompts::prompts(files)?,
    };
    let source = named.source();
    read.tally.warn(&source);
    if read.found {
        log::info!(
            "{source}: {} prompts of {} rows ({} repeated)",
            read.records.len(),
            read.tally.rows,
            read.duplicates
        );
    }
    Ok(Prompts {
        records: read.records,
        set: named.set().cloned(),
        source: Some(source),
        found: read.found,
    })
}

/// Prompts as the policy reads them.
pub(super) struct Tokenised {
    /// Those that are kept, in order.
    pub(super) prompts: Vec<Prompt>,
    /// Tokens of the longest that is not left out, and what messages call it.
    longest: (Count, String),
}

/// How long a prompt may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// `--max-prompt-length`.
    pub(super) asked: Option<usize>,
    /// What the context leaves beside the response.
    pub(super) room: usize,
}

impl Limit {
    /// The most tokens a prompt may have before it is left out.
    fn of(self, found: bool) -> Option<usize> {
        match found {
            true => Some(self.asked.unwrap_or(DATA_SET_LENGTH).min(self.room)),
            false => self.asked,
        }
    }
}

/// Tokenises prompts, leaving out those over the limit.
///
/// # Errors
/// A template or tokenizer that refuses a prompt, naming it; no prompt within the limit.
pub(super) fn tokenise(all: Prompts, formatter: &Formatter<'_>, limit: Limit) -> Result<Tokenised> {
    let (total, most) = (all.records.len(), limit.of(all.found));
    let source = all.source.as_deref();
    let mut out = Tokenised {
        prompts: Vec::with_capacity(total),
        longest: (Count::of(0), Prompts::place(source, 0)),
    };
    let formatter = Formatter {
        most: most.unwrap_or(limit.room),
        ..*formatter
    };
    let mut dropped = 0;
    for (record, at) in all.records.into_iter().zip(1..) {
        let content = record.prompt;
        let tokens = formatter.prompt(&content).context(Prompts::place(source, at))?;
        if most.is_some_and(|most| tokens.count().tokens > most) {
            dropped += 1;
            continue;
        }
        if tokens.count().tokens > out.longest.0.tokens {
            out.longest = (tokens.count(), Prompts::place(source, at));
        }
        // One that is too long for the context is refused when the positions are asked for.
        if let Encoded::Ids(tokens) = tokens {
            out.prompts.push(Prompt { content, tokens });
        }
    }
    let most = most.unwrap_or(0);
    let source = source.unwrap_or("the prompts");
    if dropped == total {
        return Err(Error::user(format!(
            "{source}: all {total} prompts have more than {most} tokens; raise --max-prompt-length, or lower \
             --max-completion-length if the context is too short"
        )));
    }
    if dropped > 0 {
        log::warn!(
            "{source}: {dropped} of {total} prompts have more than {most} tokens and are left out (--max-prompt-length)"
        );
    }
    Ok(out)
}

impl Tokenised {
    /// Positions that the longest prompt takes with a response of `completion` tokens.
    ///
    /// # Errors
    /// More than the model's context.
    pub(super) fn positions(&self, source: &Source, completion: usize) -> Result<usize> {
        let (longest, place) = &self.longest;
        source.fits(longest.plus(completion)).context(format!(
            "{place} has {longest} and --max-completion-length is {completion}"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::text::{HfFiles, Tokenizer};

    fn of(texts: &[&str], asked: Option<usize>, found: bool) -> Result<Tokenised> {
        let tokenizer = Tokenizer::from_hf(&HfFiles {
            tokenizer_json: demo::tokenizer_json().into(),
            ..HfFiles::default()
        })?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: true,
            date: "2026-07-05".parse().unwrap(),
            most: usize::MAX,
        };
        let record = |text: &&str| PromptRecord {
            id: serde_json::Value::Null.into(),
            prompt: PromptContent::Text((*text).to_owned()),
            fields: serde_json::Map::new(),
        };
        let all = Prompts {
            records: texts.iter().map(record).collect(),
            set: None,
            source: Some("p.jsonl".into()),
            found,
        };
        tokenise(all, &formatter, Limit { asked, room: 100 })
    }

    /// A text of 100 kB has more than 100 tokens for certain, so it is not tokenised; one of 1000 letters is.
    #[test]
    fn prompts_that_cannot_fit_are_left_out_or_refused_as_those_that_do_not() {
        for long in ["a".repeat(1000), "a".repeat(100_000)] {
            let texts = ["b", &long, "cc"];
            for (asked, found) in [(Some(50), false), (Some(50), true), (None, true)] {
                let kept = of(&texts, asked, found).unwrap();
                assert_eq!(kept.prompts.len(), 2);
                assert_eq!(kept.longest, (Count::of(2), "p.jsonl: prompt 3".into()));
                let said = of(&[&long], asked, found).err().unwrap().to_string();
                let most = asked.unwrap_or(100);
                assert!(
                    said.contains(&format!("all 1 prompts have more than {most} tokens")),
                    "{said}"
                );
            }
            // Nothing is left out of a file made for this program unless a length was asked for.
            let source = Source::open_causal("tiny").unwrap();
            for texts in [&texts[..], &[&long]] {
                let said = of(texts, None, false).unwrap().positions(&source, 28);
                let said = said.unwrap_err().to_string();
                let place = format!("p.jsonl: prompt {} has ", if texts.len() == 1 { 1 } else { 2 });
                let count = if long.len() == 1000 {
                    "1000"
                } else {
                    "at least 1924"
                };
                assert!(
                    said.starts_with(&format!(
                        "{place}{count} tokens and --max-completion-length is 28"
                    )) && said.contains("longer than the context of tiny, 128 tokens"),
                    "{said}"
                );
            }
        }
    }
}
