//! Supervised data: from a file to tokenised examples, some of them held out.

use super::data::{self, Identity};
use crate::config::SupervisedConfig;
use crate::error::{Context, Error, Result};
use crate::model::load::Source;
use crate::run::{Kind, kinds};
use crate::text::jsonl::Record;
use crate::text::{Formatter, PreferenceRecord, SftRecord, TemplateDate, read_jsonl};
use std::collections::BTreeMap;
use std::path::Path;

/// What one record of a data file becomes.
pub trait Example: Sized {
    /// The runs that learn from it.
    const KIND: &'static Kind;
    /// The record.
    type Record: Record;
    /// What examples that must stay on one side of the split have in common: their prompt.
    type Key: Ord;

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
    const KIND: &'static Kind = &kinds::SFT;
    type Record = SftRecord;
    type Key = Vec<u32>;

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
    const KIND: &'static Kind = &kinds::REWARD;
    type Record = PreferenceRecord;
    type Key = String;

    fn new(r: PreferenceRecord, formatter: &Formatter<'_>) -> Result<Self> {
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
        let all = read::<E>(&c.data, &formatter, limit)?;
        let (train, held_out) = match &c.eval_data {
            Some(path) => (all, read(path, &formatter, limit)?),
            None => split(all, E::key, c.eval_fraction, c.seed),
        };
        Ok(Self { train, held_out })
    }

    /// What tells these training examples from others, with the hash of `file`, which they are from.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn identity(&self, file: &Path) -> Result<Identity> {
        Identity::new(self.train.iter().map(E::tokens), Some(file))
    }

    /// The largest of a number over all examples; at least 1.
    pub fn most(&self, number: impl Fn(&E) -> usize) -> usize {
        let all = self.train.iter().chain(&self.held_out);
        all.map(number).max().unwrap_or(1).max(1)
    }
}

fn read<E: Example>(path: &Path, formatter: &Formatter<'_>, limit: usize) -> Result<Vec<E>> {
    let records = read_jsonl::<E::Record>(path)?;
    let total = records.len();
    let mut out = Vec::with_capacity(total);
    for (i, record) in records.into_iter().enumerate() {
        let example = E::new(record, formatter).context(format!("{}: record {}", path.display(), i + 1))?;
        if example.longest() <= limit {
            out.push(example);
        }
    }
    let dropped = total - out.len();
    if out.is_empty() {
        return Err(Error::user(format!(
            "{}: all {total} examples are longer than {limit} tokens; raise --max-length or shorten them",
            path.display()
        )));
    }
    if dropped > 0 {
        log::warn!(
            "{}: {dropped} of {total} examples are longer than {limit} tokens and were left out",
            path.display()
        );
    }
    Ok(out)
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
