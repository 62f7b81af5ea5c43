//! Supervised data: from a file to tokenised examples, some of them held out.

use super::data::{self, Identity};
use super::sources::{Named, Purpose};
use crate::config::{DataSet, SupervisedConfig};
use crate::data::prepare::pairs::PairRecord;
use crate::data::record::collect;
use crate::data::{Input, Record, Tally, sha256_hex};
use crate::error::{Context, Error, Result};
use crate::model::hub::HubSettings;
use crate::model::load::Source;
use crate::text::{Formatter, SftRecord, TemplateDate};
use std::collections::BTreeMap;

/// What one record of a data file becomes.
pub trait Example: Sized {
    /// The record.
    type Record: Record;
    /// What examples that must stay on one side of the split have in common: their prompt.
    type Key: Ord;
    /// Which split of a data set they are.
    const PURPOSE: Purpose;

    /// Tokenises a record.
    ///
    /// # Errors
    /// A text the tokenizer or the chat template refuses, or nothing to learn from.
    fn new(record: Self::Record, formatter: &Formatter<'_>) -> Result<Self>;

    /// Its prompt.
    fn key(&self) -> Self::Key;

    /// Its token ids.
    fn tokens(&self) -> [&[u32]; 2];

    /// Tokens of its longest sequence.
    fn longest(&self) -> usize;

    /// Tokens that have to share a micro-batch.
    fn rows(&self) -> usize;
}

/// A prompt and the response that is learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Demonstration {
    /// What is given.
    pub prompt: Vec<u32>,
    /// What is learned.
    pub response: Vec<u32>,
}

impl Example for Demonstration {
    type Record = SftRecord;
    type Key = Vec<u32>;
    const PURPOSE: Purpose = Purpose::Demonstrations;

    fn new(r: SftRecord, formatter: &Formatter<'_>) -> Result<Self> {
        let (prompt, response) = formatter.target(&r.prompt, &r.response)?;
        Ok(Self { prompt, response })
    }

    fn key(&self) -> Vec<u32> {
        self.prompt.clone()
    }

    fn tokens(&self) -> [&[u32]; 2] {
        [&self.prompt, &self.response]
    }

    fn longest(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    fn rows(&self) -> usize {
        self.longest()
    }
}

/// Two answers to one prompt, each tokenised with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The prompt's own text.
    prompt: String,
    /// Chosen and rejected.
    answers: [Vec<u32>; 2],
}

impl Pair {
    /// Chosen, then rejected.
    pub fn sequences(&self) -> [&[u32]; 2] {
        [&self.answers[0], &self.answers[1]]
    }
}

impl Example for Pair {
    type Record = PairRecord;
    type Key = String;
    const PURPOSE: Purpose = Purpose::Preferences;

    fn new(PairRecord(r): PairRecord, formatter: &Formatter<'_>) -> Result<Self> {
        let ids = |answer: &str| formatter.scored(&r.prompt, answer);
        let answers = [ids(&r.chosen)?, ids(&r.rejected)?];
        if answers.iter().any(Vec::is_empty) {
            return Err(Error::user("prompt and answer are both empty"));
        }
        let prompt = format!("{:?}", r.prompt);
        Ok(Self { prompt, answers })
    }

    fn key(&self) -> String {
        self.prompt.clone()
    }

    fn tokens(&self) -> [&[u32]; 2] {
        self.sequences()
    }

    fn longest(&self) -> usize {
        self.answers[0].len().max(self.answers[1].len())
    }

    fn rows(&self) -> usize {
        self.answers[0].len() + self.answers[1].len()
    }
}

/// A run's examples.
#[derive(Debug)]
pub struct Examples<E> {
    /// What is trained on; at least one.
    pub train: Vec<E>,
    /// What is only evaluated.
    pub held_out: Vec<E>,
    /// The files of the hub that `--data` stood for, where it did.
    pub set: Option<DataSet>,
    /// SHA-256 of what `--data` named.
    file_sha256: String,
}

impl<E: Example> Examples<E> {
    /// Reads `--data` and `--eval-data`, or holds a share of the former out.
    ///
    /// # Errors
    /// A file is missing, malformed, or has only examples that are too long.
    pub fn open(c: &SupervisedConfig, source: &mut Source) -> Result<Self> {
        let tokenizer = source.tokenizer()?;
        let date: TemplateDate = c
            .template_date
            .parse::<TemplateDate>()
            .context("--template-date")?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: c.raw,
            date,
        };
        let limit = c.max_length.min(source.spec.max_position_embeddings);
        let hub = HubSettings::from_env();
        let named = Named::find(&c.data, c.data_set.as_ref(), E::PURPOSE, &hub)?;
        let (all, file_sha256) = read::<E>(&named, &formatter, limit)?;
        let (train, held_out) = match &c.eval_data {
            Some(path) => {
                let other = Named::find(path, None, Purpose::Other, &hub).context("--eval-data")?;
                (all, read(&other, &formatter, limit)?.0)
            }
            None => split(all, E::key, c.eval_fraction, c.seed),
        };
        Ok(Self {
            train,
            held_out,
            set: named.set().cloned(),
            file_sha256,
        })
    }

    /// What tells these training examples from others, with the hash of what they are from.
    pub fn identity(&self) -> Identity {
        Identity::new(self.train.iter().map(E::tokens), Some(self.file_sha256.clone()))
    }

    /// The largest of a number over all examples; at least 1.
    pub fn most(&self, number: impl Fn(&E) -> usize) -> usize {
        let all = self.train.iter().chain(&self.held_out);
        all.map(number).max().unwrap_or(1).max(1)
    }
}

/// The examples of files, and the hash of these.
fn read<E: Example>(named: &Named, formatter: &Formatter<'_>, limit: usize) -> Result<(Vec<E>, String)> {
    let source = named.source();
    let (mut out, mut total, mut tally, mut hashes) = (Vec::new(), 0, Tally::default(), Vec::new());
    for path in named.files() {
        let input = Input::open_hashed(path)?;
        hashes.extend(input.sha256().map(str::to_owned));
        // Public data, of which nobody has made sure that every row fits.
        let found = input.is_parquet() || matches!(named, Named::Set { .. });
        collect(input, found, &mut tally, &mut |_, record| {
            let example = E::new(record, formatter)?;
            total += 1;
            out.extend((example.longest() <= limit).then_some(example));
            Ok(())
        })?;
    }
    if total == 0 {
        return Err(tally.nothing(&source, E::Record::FORM));
    }
    tally.warn(&source);
    let dropped = total - out.len();
    if out.is_empty() {
        return Err(Error::user(format!(
            "{source}: all {total} examples are longer than {limit} tokens; raise --max-length or shorten them"
        )));
    }
    if dropped > 0 {
        log::warn!(
            "{source}: {dropped} of {total} examples are longer than {limit} tokens and were left out"
        );
    }
    let hash = match &hashes[..] {
        [only] => only.clone(),
        several => sha256_hex(several.concat().as_bytes()),
    };
    Ok((out, hash))
}

/// Splits examples into training and held-out ones. Examples with the same key (their prompt) stay on one side, so
/// that nothing held out was trained on; prompts are drawn in a seeded order until `fraction` is reached.
pub fn split<T, K: Ord>(
    examples: Vec<T>,
    key: impl Fn(&T) -> K,
    fraction: f64,
    seed: u64,
) -> (Vec<T>, Vec<T>) {
    let wanted = (examples.len() as f64 * fraction).round() as usize;
    let mut by_key: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (i, example) in examples.iter().enumerate() {
        by_key.entry(key(example)).or_default().push(i);
    }
    let groups: Vec<Vec<usize>> = by_key.into_values().collect();
    let mut held = vec![false; examples.len()];
    let mut count = 0;
    for g in data::draw(seed ^ 0x5eed, groups.len(), 0, groups.len()) {
        // One prompt at least stays for training.
        if count >= wanted || count + groups[g].len() >= examples.len() {
            break;
        }
        count += groups[g].len();
        groups[g].iter().for_each(|i| held[*i] = true);
    }
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (example, held) in examples.into_iter().zip(held) {
        if held { &mut held_out } else { &mut train }.push(example);
    }
    (train, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_keeps_every_example_once_and_prompts_whole() {
        let (train, held) = split((0..40).collect(), |i| i / 4, 0.1, 3);
        assert_eq!((train.len(), held.len()), (36, 4));
        assert!(held.iter().all(|i| i / 4 == held[0] / 4));
        let mut all: Vec<i32> = train.iter().chain(&held).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        assert_eq!(split(vec![1], |i| *i, 0.9, 0).0, [1]);
        assert!(split(vec![1, 2, 3], |i| *i, 0.0, 0).1.is_empty());
    }
}
