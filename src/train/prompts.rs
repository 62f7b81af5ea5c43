//! Prompts by name: a JSONL file, a Parquet file, a directory of data files, or a data set of the hub; and as the policy reads them.

use super::rl::Prompt;
use super::selection;
use crate::config::{DataSet, TINY, TrainConfig};
use crate::demo::{self, Split};
use crate::error::{Context, Error, Result};
use crate::model::alias::alias;
use crate::model::hub::HubSettings;
use crate::model::hub_data::{self, Request};
use crate::model::load::Source;
use crate::text::prepare::{prompts, rows};
use crate::text::{Formatter, PromptContent, PromptRecord, read_jsonl};
use std::path::{Path, PathBuf};

/// Training prompts of the embedded preset.
const TINY_PROMPTS: usize = 512;
/// Most tokens in a prompt of a data set that nobody has looked through (TRL's default).
const DATA_SET_LENGTH: usize = 512;

/// Which split of a data set is meant where none is named and there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The one to train on: train, train_prefs or train_sft.
    Training,
    /// Everything else: the user has to say.
    Other,
}

impl Purpose {
    fn preferred(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["train", "train_prefs", "train_sft"],
            Self::Other => &[],
        }
    }
}

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
/// JSONL of this program's own form is refused where it is malformed; of data files the rows that cannot be used are left out, and
/// prompts that differ by white space alone are one.
///
/// # Errors
/// The file is missing, empty or malformed; those of [`hub_data::fetch`] and [`hub_data::choose`].
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
    let text = name.to_string_lossy();
    if let Some(set) = recorded.filter(|set| set.name == text) {
        let files = hub_data::fetch_again(set, hub)?;
        return of_set(set.clone(), &files);
    }
    if name.is_file() {
        if rows::is_parquet(name)? {
            return found(text.into_owned(), None, &[name.to_path_buf()]);
        }
        return Ok(Prompts {
            records: read_jsonl(name)?,
            set: None,
            source: Some(text.into_owned()),
            found: false,
        });
    }
    if let Some((dir, split)) = directory(name, &text) {
        let names = hub_data::names(&dir)?;
        let (split, files) = hub_data::choose(&names, split, purpose.preferred()).context(dir.display())?;
        let files: Vec<PathBuf> = files.iter().map(|f| dir.join(f)).collect();
        return found(format!("{}:{split}", dir.display()), None, &files);
    }
    match Request::parse(&text) {
        Some(request) => {
            let (set, files) = hub_data::fetch(&text, &request, purpose.preferred(), hub)
                .context(format!("{text} (no file or directory of that name here)"))?;
            of_set(set, &files)
        }
        None => Err(Error::io(name)(std::io::ErrorKind::NotFound.into())),
    }
}

/// A local directory, with a split after a colon where there is one.
fn directory<'a>(name: &Path, text: &'a str) -> Option<(PathBuf, Option<&'a str>)> {
    if name.is_dir() {
        return Some((name.to_path_buf(), None));
    }
    let (dir, split) = text.rsplit_once(':')?;
    let dir = PathBuf::from(dir);
    dir.is_dir().then_some((dir, Some(split)))
}

fn of_set(set: DataSet, files: &[PathBuf]) -> Result<Prompts> {
    let source = format!("{}@{}:{}", set.id, set.revision, set.split);
    found(source, Some(set), files)
}

/// The prompts of data files.
fn found(source: String, set: Option<DataSet>, files: &[PathBuf]) -> Result<Prompts> {
    let read = prompts::prompts(files)?;
    for (why, n) in &read.skipped {
        log::warn!("{source}: {n} of {} rows are left out: {why}", read.rows);
    }
    log::info!(
        "{source}: {} prompts of {} rows ({} repeated)",
        read.records.len(),
        read.rows,
        read.duplicates
    );
    Ok(Prompts {
        records: read.records,
        set,
        source: Some(source),
        found: true,
    })
}

/// Prompts as the policy reads them.
pub(super) struct Tokenised {
    /// Those that are kept, in order.
    pub(super) prompts: Vec<Prompt>,
    /// Tokens of the longest, and what messages call it.
    longest: (usize, String),
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
        longest: (0, Prompts::place(source, 0)),
    };
    for (record, at) in all.records.into_iter().zip(1..) {
        let content = record.prompt;
        let tokens = formatter.prompt(&content).context(Prompts::place(source, at))?;
        if most.is_some_and(|most| tokens.len() > most) {
            continue;
        }
        if tokens.len() > out.longest.0 {
            out.longest = (tokens.len(), Prompts::place(source, at));
        }
        out.prompts.push(Prompt { content, tokens });
    }
    let (dropped, most) = (total - out.prompts.len(), most.unwrap_or(0));
    let source = source.unwrap_or("the prompts");
    if out.prompts.is_empty() {
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
        source.positions(longest + completion).context(format!(
            "{place} has {longest} tokens and --max-completion-length is {completion}"
        ))
    }
}
