//! Supervised data: from a file to tokenised examples, some of them held out.

use super::data::{self, Identity};
use super::sources::{Named, Purpose};
use crate::config::{DataSet, SupervisedConfig, TrainOn};
use crate::data::prepare::pairs::PairRecord;
use crate::data::record::collect;
use crate::data::weight::{Expansion, Held};
use crate::data::{ASSISTANT, Input, Place, PromptContent, Record, Tally, sha256_hex};
use crate::error::{Context, Error, Result};
use crate::model::hub::HubSettings;
use crate::model::load::Source;
use crate::run::{Kind, kinds};
use crate::text::{Encoded, Formatter, SftRecord, TemplateDate};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

/// How records become examples.
#[derive(Debug, Clone)]
pub struct Making<'a> {
    /// Records → token ids.
    pub formatter: Formatter<'a>,
    /// Which assistant turns are learned.
    pub train_on: TrainOn,
    /// Most tokens of a sequence. An example with a longer one is left out, however much longer.
    pub limit: usize,
    /// How many conversations began with an assistant turn that the template gives no prompt for.
    pub openings: Cell<usize>,
}

/// What a record becomes.
#[derive(Debug)]
pub enum Made<E> {
    /// An example, which may be too long.
    Example(E),
    /// It holds nothing to learn.
    Nothing,
    /// A sequence of it is longer than [`Making::limit`] and was not tokenised.
    TooLong,
}

/// What one record of a data file becomes.
pub trait Example: Sized {
    /// The runs that learn from it.
    const KIND: &'static Kind;
    /// The record.
    type Record: Record;
    /// What examples that must stay on one side of the split have in common: their prompt.
    type Key: Ord;
    /// Which split of a data set they are.
    const PURPOSE: Purpose;

    /// Tokenises a record.
    ///
    /// # Errors
    /// A text the tokenizer or the chat template refuses.
    fn new(record: Self::Record, making: &Making<'_>) -> Result<Made<Self>>;

    /// Its prompt.
    fn key(&self) -> Self::Key;

    /// Its token ids.
    fn tokens(&self) -> Vec<&[u32]>;

    /// Tokens of its longest sequence.
    fn longest(&self) -> usize;

    /// Tokens that have to share a micro-batch.
    fn rows(&self) -> usize;
}

/// A token sequence of which some ranges are learned and the others are given.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// All of it; the last token is learned.
    pub tokens: Vec<u32>,
    /// What is learned, in order, at least one range. None begins at the first token.
    pub ranges: Vec<Range<usize>>,
}

impl Learned {
    /// Tokens before the first that is learned.
    pub fn given(&self) -> usize {
        self.ranges.first().map_or(self.tokens.len(), |range| range.start)
    }

    /// How many tokens are learned.
    pub fn targets(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// What is given and what is learned, in turn.
    fn pieces(&self) -> impl Iterator<Item = &[u32]> {
        let mut at = 0;
        self.ranges.iter().flat_map(move |range| {
            let given = &self.tokens[at..range.start];
            at = range.end;
            [given, &self.tokens[range.clone()]]
        })
    }
}

/// A conversation whose assistant turns are learned, each after the prompt that a policy would have
/// seen when it wrote it.
///
/// The prompt of a turn is the chat template's rendering of the turns before it. Where that begins
/// with the turns learned so far, token by token, the turn continues their sequence. Where it does
/// not (a template that strips the reasoning of earlier turns), a sequence of its own is begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Demonstration {
    /// At least one.
    pub sequences: Vec<Learned>,
}

impl Demonstration {
    /// Adds a response and the prompt before it.
    fn push(&mut self, prompt: Vec<u32>, response: &[u32]) {
        let continued = |s: &Learned| prompt.starts_with(&s.tokens);
        let mut sequence = match self.sequences.pop() {
            Some(last) if continued(&last) => last,
            other => {
                self.sequences.extend(other);
                Learned {
                    tokens: Vec::new(),
                    ranges: Vec::new(),
                }
            }
        };
        sequence.tokens = prompt;
        let start = sequence.tokens.len();
        sequence.tokens.extend_from_slice(response);
        sequence.ranges.push(start..sequence.tokens.len());
        self.sequences.push(sequence);
    }
}

impl Example for Demonstration {
    const KIND: &'static Kind = &kinds::SFT;
    type Record = SftRecord;
    type Key = Vec<u32>;
    const PURPOSE: Purpose = Purpose::Demonstrations;

    fn new(r: SftRecord, making: &Making<'_>) -> Result<Made<Self>> {
        let mut learned: Vec<usize> = (0..r.turns.len())
            .filter(|i| r.turns[*i].role == ASSISTANT)
            .collect();
        if making.train_on == TrainOn::Last {
            learned.drain(..learned.len().saturating_sub(1));
        }
        let several = learned.len() > 1;
        let mut out = Self {
            sequences: Vec::new(),
        };
        for at in learned {
            let before = match at {
                0 => r.prompt.clone(),
                _ => PromptContent::Messages([&r.prompt.to_messages()[..], &r.turns[..at]].concat()),
            };
            let opening = matches!(&before, PromptContent::Messages(turns) if turns.is_empty());
            match making
                .formatter
                .target(&before, &r.turns[at].content, r.tools.as_ref())
            {
                Ok((Encoded::Ids(prompt), Encoded::Ids(response))) => out.push(prompt, &response),
                Ok(_) => return Ok(Made::TooLong),
                // Nothing to answer, and the template opens no turn for it. The turns after it can
                // be learned.
                Err(_) if opening && several => making.openings.set(making.openings.get() + 1),
                Err(error) => return Err(error),
            }
            // What follows only makes the example longer.
            if out.longest() > making.limit {
                break;
            }
        }
        Ok(match out.sequences.is_empty() {
            true => Made::Nothing,
            false => Made::Example(out),
        })
    }

    fn key(&self) -> Vec<u32> {
        let first = self.sequences.first();
        first.map_or_else(Vec::new, |s| s.tokens[..s.given()].to_vec())
    }

    fn tokens(&self) -> Vec<&[u32]> {
        self.sequences.iter().flat_map(Learned::pieces).collect()
    }

    fn longest(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).max().unwrap_or(0)
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
    type Record = PairRecord;
    type Key = String;
    const PURPOSE: Purpose = Purpose::Preferences;

    fn new(PairRecord(r): PairRecord, making: &Making<'_>) -> Result<Made<Self>> {
        let ids = |answer: &str| making.formatter.scored(&r.prompt, answer);
        let answers = [ids(&r.chosen)?, ids(&r.rejected)?];
        if answers.iter().any(|ids| ids.count().tokens == 0) {
            return Err(Error::user("prompt and answer are both empty"));
        }
        let [Encoded::Ids(chosen), Encoded::Ids(rejected)] = answers else {
            return Ok(Made::TooLong);
        };
        let prompt = format!("{:?}", r.prompt);
        let answers = [chosen, rejected];
        Ok(Made::Example(Self { prompt, answers }))
    }

    fn key(&self) -> String {
        self.prompt.clone()
    }

    fn tokens(&self) -> Vec<&[u32]> {
        self.sequences().to_vec()
    }

    fn longest(&self) -> usize {
        self.answers[0].len().max(self.answers[1].len())
    }

    fn rows(&self) -> usize {
        self.answers[0].len() + self.answers[1].len()
    }
}

/// The row that an example is from.
#[derive(Debug, Clone, Copy)]
struct Spot {
    /// Which of the files.
    file: usize,
    row: usize,
    line: Option<usize>,
    by_line: bool,
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
    /// The files that were read, and where in them each example is, as [`Examples::get`] counts.
    files: Vec<String>,
    spots: Vec<Spot>,
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
        let limit = c.max_length.min(source.spec.max_position_embeddings);
        let making = Making {
            formatter: Formatter {
                tokenizer: &tokenizer,
                raw: c.raw,
                date,
                most: limit,
            },
            train_on: c.train_on.unwrap_or_default(),
            limit,
            openings: Cell::default(),
        };
        let hub = HubSettings::from_env();
        let named = Named::find(&c.data, c.data_set.as_ref(), E::PURPOSE, &hub)?;
        let mut files = Vec::new();
        let (all, file_sha256) = read::<E>(&named, &making, &mut files)?;
        let (train, held_out) = match &c.eval_data {
            Some(path) => {
                let other = Named::find(path, None, Purpose::Other, &hub).context("--eval-data")?;
                (all, read(&other, &making, &mut files)?.0)
            }
            None => split(all, |(e, _)| e.key(), c.eval_fraction, c.seed),
        };
        let (train, mut spots): (Vec<E>, Vec<Spot>) = train.into_iter().unzip();
        let (held_out, others): (Vec<E>, Vec<Spot>) = held_out.into_iter().unzip();
        spots.extend(others);
        Ok(Self {
            train,
            held_out,
            set: named.set().cloned(),
            file_sha256,
            files,
            spots,
        })
    }

    /// Example number `i`: those that are trained on come first, then those that are held out.
    pub fn get(&self, i: usize) -> &E {
        match i.checked_sub(self.train.len()) {
            None => &self.train[i],
            Some(i) => &self.held_out[i],
        }
    }

    /// The row that example number `i` is from.
    pub fn place(&self, i: usize) -> Place<'_> {
        let Spot {
            file,
            row,
            line,
            by_line,
        } = self.spots[i];
        Place {
            name: &self.files[file],
            row,
            line,
            by_line,
        }
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

/// The examples of files with their rows, and the hash of the files, whose names are added to `names`.
fn read<E: Example>(
    named: &Named,
    making: &Making<'_>,
    names: &mut Vec<String>,
) -> Result<(Vec<(E, Spot)>, String)> {
    let (source, limit) = (named.source(), making.limit);
    let (mut out, mut total, mut tally, mut hashes) = (Vec::new(), 0, Tally::default(), Vec::new());
    let (mut nothing, mut held, expansion) = (0, Held::default(), Expansion::default());
    for path in named.files() {
        let input = Input::open_hashed(path, &expansion)?;
        hashes.extend(input.sha256().map(str::to_owned));
        // Public data, of which nobody has made sure that every row fits.
        let found = input.is_parquet() || matches!(named, Named::Set { .. });
        let file = names.len();
        names.push(input.name().to_owned());
        collect(input, found, &mut tally, &mut held, &mut |place, record, _| {
            let example = E::new(record, making)?;
            total += 1;
            match example {
                Made::Nothing => nothing += 1,
                Made::Example(example) if example.longest() <= limit => {
                    let tokens: usize = example.tokens().iter().map(|part| size_of_val(*part)).sum();
                    let Place {
                        row, line, by_line, ..
                    } = place;
                    let spot = Spot {
                        file,
                        row,
                        line,
                        by_line,
                    };
                    out.push((example, spot));
                    return Ok(tokens as u64);
                }
                Made::Example(_) | Made::TooLong => {}
            }
            Ok(0)
        })?;
    }
    if total == 0 {
        return Err(tally.nothing(&source, E::Record::FORM));
    }
    tally.warn(&source);
    let long = total - out.len() - nothing;
    if out.is_empty() {
        return Err(Error::user(match nothing {
            0 => format!(
                "{source}: all {total} examples are longer than {limit} tokens; raise --max-length or shorten them"
            ),
            _ if long == 0 => format!(
                "{source}: none of {total} conversations has a message of the role \"assistant\": there is nothing to learn"
            ),
            _ => format!(
                "{source}: no example is left of {total}: {nothing} have no message of the role \"assistant\", {long} are longer \
                 than {limit} tokens. Raise --max-length or shorten them"
            ),
        }));
    }
    if nothing > 0 {
        log::warn!(
            "{source}: {nothing} of {total} conversations have no message of the role \"assistant\" and were left out"
        );
    }
    match making.openings.take() {
        0 => {}
        n => log::warn!(
            "{source}: {n} conversations begin with a message of the role \"assistant\". The chat template has no prompt for it, so it \
             is context and is not learned"
        ),
    }
    if long > 0 {
        log::warn!("{source}: {long} of {total} examples are longer than {limit} tokens and were left out");
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
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::text::{HfFiles, Message, Tokenizer};

    /// The demo's characters under another chat template.
    fn tokenizer(template: &str) -> Tokenizer {
        let mut config: serde_json::Value =
            serde_json::from_slice(&crate::demo::tokenizer_config_json(64)).unwrap();
        config["chat_template"] = template.into();
        Tokenizer::from_hf(&HfFiles {
            tokenizer_json: crate::demo::tokenizer_json().into(),
            tokenizer_config: Some(config.to_string().into_bytes().into()),
            ..HfFiles::default()
        })
        .unwrap()
    }

    /// Of each sequence its text, with what is learned in brackets.
    fn made(template: &str, turns: &[(&str, &str)], train_on: TrainOn, limit: usize) -> Result<Vec<String>> {
        let tokenizer = tokenizer(template);
        let making = Making {
            formatter: Formatter {
                tokenizer: &tokenizer,
                raw: false,
                date: "2026-07-05".parse().unwrap(),
                most: limit,
            },
            train_on,
            limit,
            openings: Cell::default(),
        };
        let mut messages: Vec<Message> = turns
            .iter()
            .map(|(role, content)| Message {
                role: (*role).into(),
                content: (*content).into(),
            })
            .collect();
        let first = messages.iter().position(|m| m.role == ASSISTANT);
        let record = SftRecord {
            id: serde_json::Value::Null.into(),
            turns: messages.split_off(first.unwrap_or(messages.len())),
            prompt: PromptContent::Messages(messages),
            tools: None,
        };
        let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
        let shown = |s: &Learned| {
            let pieces: Vec<String> = s.pieces().map(text).collect();
            pieces.chunks(2).map(|p| format!("{}[{}]", p[0], p[1])).collect()
        };
        Ok(match Demonstration::new(record, &making)? {
            Made::Example(e) => e.sequences.iter().map(shown).collect(),
            Made::Nothing => Vec::new(),
            Made::TooLong => vec!["too long".to_owned()],
        })
    }

    const TURNS: [(&str, &str); 6] = [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "t#b"),
        ("user", "c"),
        ("assistant", "t#d"),
        ("user", "e"),
    ];

    #[test]
    fn every_assistant_turn_is_learned_with_its_end_or_the_last_alone() {
        let plain = crate::demo::CHAT_TEMPLATE;
        let all = made(plain, &TURNS, TrainOn::All, 64).unwrap();
        let first = "<|user|>s<|user|>a<|assistant|>";
        assert_eq!(
            all,
            [format!("{first}[t#b<|end|>]<|user|>c<|assistant|>[t#d<|end|>]")]
        );
        let last = made(plain, &TURNS, TrainOn::Last, 64).unwrap();
        assert_eq!(
            last,
            [format!("{first}t#b<|end|><|user|>c<|assistant|>[t#d<|end|>]")]
        );
        // A tool's turn, or none between two of the assistant's, is context as any other.
        let turns = [
            ("user", "a"),
            ("assistant", "b"),
            ("tool", "c"),
            ("assistant", "d"),
            ("assistant", "e"),
        ];
        assert_eq!(
            made(plain, &turns, TrainOn::All, 64).unwrap(),
            ["<|user|>a<|assistant|>[b<|end|>]<|user|>c<|assistant|>[d<|end|>]<|assistant|>[e<|end|>]"]
        );
        // Nothing to learn.
        assert!(made(plain, &TURNS[..2], TrainOn::All, 64).unwrap().is_empty());
        assert!(made(plain, &TURNS[..2], TrainOn::Last, 64).unwrap().is_empty());
    }

    #[test]
    fn a_turn_whose_context_was_rendered_otherwise_is_a_sequence_of_its_own() {
        // Reasoning before # stands in the last turn alone, as in Qwen3's template.
        let strips = "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\
            {{ m.content if loop.last else m.content.split('#')[-1] }}<|end|>\
            {% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
        assert_eq!(
            made(strips, &TURNS[1..], TrainOn::All, 64).unwrap(),
            [
                "<|user|>a<|assistant|>[t#b<|end|>]",
                "<|user|>a<|assistant|>b<|end|><|user|>c<|assistant|>[t#d<|end|>]"
            ]
        );
        // Without reasoning nothing is stripped: one sequence.
        let plain = [
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
        ];
        assert_eq!(made(strips, &plain, TrainOn::All, 64).unwrap().len(), 1);
        // No end of turn in the template: the tokenizer's own is learned, and is not part of later
        // context.
        let open = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
        assert_eq!(
            made(open, &plain, TrainOn::All, 64).unwrap(),
            ["u:a\na:[b<|end|>]", "u:a\na:b\nu:c\na:[d<|end|>]"]
        );
    }

    #[test]
    fn openings_without_a_prompt_are_context_and_long_examples_end_early() {
        let first_is_user =
            "{% if messages[0]['role'] == 'system' %}!{% endif %}".to_owned() + crate::demo::CHAT_TEMPLATE;
        let turns = [("assistant", "hi"), ("user", "a"), ("assistant", "b")];
        assert_eq!(
            made(&first_is_user, &turns, TrainOn::All, 64).unwrap(),
            ["<|assistant|>hi<|end|><|user|>a<|assistant|>[b<|end|>]"]
        );
        assert!(made(&first_is_user, &turns[..1], TrainOn::All, 64).is_err());
        // The demo's template opens the turn for nobody.
        assert_eq!(
            made(crate::demo::CHAT_TEMPLATE, &turns, TrainOn::All, 64).unwrap(),
            ["<|assistant|>[hi<|end|>]<|user|>a<|assistant|>[b<|end|>]"]
        );
        let long = made(crate::demo::CHAT_TEMPLATE, &TURNS, TrainOn::All, 8).unwrap();
        assert_eq!(
            long,
            ["<|user|>s<|user|>a<|assistant|>[t#b<|end|>]"],
            "9 tokens are over 8 already"
        );
    }

    /// The pair's text would be an error if it were tokenised.
    #[test]
    fn what_cannot_fit_is_left_out_without_being_tokenised() {
        let long = "a".repeat(crate::file::limits::TOKENIZED.most() as usize + 1);
        let plain = crate::demo::CHAT_TEMPLATE;
        for turns in [
            [("user", "a"), ("assistant", &long[..5000])],
            [("user", &long[..5000]), ("assistant", "b")],
        ] {
            assert_eq!(made(plain, &turns, TrainOn::All, 64).unwrap(), ["too long"]);
            // What may fit is counted.
            let made = made(plain, &turns, TrainOn::All, 5000).unwrap();
            assert_eq!(
                made[0].len(),
                "<|user|>".len() + "<|assistant|>[<|end|>]".len() + 5001
            );
        }
        let tokenizer = tokenizer(plain);
        let making = Making {
            formatter: Formatter {
                tokenizer: &tokenizer,
                raw: true,
                date: "2026-07-05".parse().unwrap(),
                most: 64,
            },
            train_on: TrainOn::All,
            limit: 64,
            openings: Cell::default(),
        };
        let pair = |chosen: &str| {
            let prompt = PromptContent::Text("a".into());
            Pair::new(
                PairRecord(crate::text::PreferenceRecord {
                    id: serde_json::Value::Null.into(),
                    prompt,
                    chosen: chosen.into(),
                    rejected: "b".into(),
                }),
                &making,
            )
        };
        assert!(matches!(pair(&long).unwrap(), Made::TooLong));
        assert!(matches!(pair("c").unwrap(), Made::Example(_)));
    }

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
