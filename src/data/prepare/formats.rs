//! What a row of a public file says: a prompt, and pairs of answers to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Opened, Options, at, source, split, unusable};
use crate::data::dataset::{PreferenceRecord, PromptRecord, asked};
use crate::data::key::sha256_hex;
use crate::data::message::{Message, PromptContent};
use crate::data::place::Place;
use crate::data::record::{Record, Tally};
use crate::data::row::Row;
use crate::data::weight::{FIELD, Weight};
use crate::error::{Error, Result};

/// The columns that any shape is read from.
pub(super) const COLUMNS: &[&str] = &[
    "id",
    "prompt",
    "messages",
    "conversations",
    "instruction",
    "completions",
    "chosen",
    "rejected",
    "score_chosen",
    "score_rejected",
];

/// A file's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// What each row looks like.
    Auto,
    /// UltraFeedback (arXiv 2310.01377): `instruction`, `completions` with scores; the best answer against a random worse one.
    Ultrafeedback,
    /// Anthropic HH-RLHF (arXiv 2204.05862): `chosen` and `rejected`, whole dialogues as text.
    HhRlhf,
    /// `prompt` or `messages`.
    Prompts,
    /// `prompt`, `chosen`, `rejected`, as texts or lists of messages; UltraFeedback Binarized among them.
    Preferences,
}

/// Which score ranks UltraFeedback's completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreField {
    /// The mean of the ratings by aspect (`fine-grained_score`, or of `annotations`); `overall_score` where there are none.
    FineGrained,
    /// The critique's `overall_score`.
    Overall,
}

/// A row: a prompt, and `(chosen, rejected)` answers to it, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What was asked.
    pub prompt: PromptContent,
    /// Better and worse answers.
    pub pairs: Vec<(String, String)>,
}

impl Weight for Item {
    fn weight(&self) -> u64 {
        let pairs = self.pairs.iter().map(|(a, b)| FIELD + (a.len() + b.len()) as u64);
        self.prompt.weight() + pairs.sum::<u64>()
    }
}

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "row",
            Self::Ultrafeedback => "ultrafeedback row",
            Self::HhRlhf => "hh-rlhf row",
            Self::Prompts => "prompts row",
            Self::Preferences => "preferences row",
        }
    }

    /// The shape that a row has.
    ///
    /// # Errors
    /// It has none of those known.
    pub fn of(row: &Row) -> Result<Self> {
        let has = |name: &str| row.get(name).is_some();
        let text = |name: &str| matches!(row.get(name), Some(Value::String(_)));
        match () {
            () if has("instruction") && (has("completions") || row.is_null("completions")) => {
                Ok(Self::Ultrafeedback)
            }
            () if text("chosen") && text("rejected") && !has("prompt") => Ok(Self::HhRlhf),
            () if has("chosen") || has("rejected") => Ok(Self::Preferences),
            () if has("prompt") || has("messages") || has("conversations") => Ok(Self::Prompts),
            () => match COLUMNS.iter().filter(|n| **n != "id").find(|n| row.is_null(n)) {
                Some(null) => Err(Error::unusable(format!("missing field \"{null}\": it is null"))),
                None => Err(Error::user(format!(
                    "a row of no known shape ({}): UltraFeedback has \"instruction\" and \"completions\", HH-RLHF \"chosen\" and \
                     \"rejected\", others \"prompt\" or \"messages\", with \"chosen\" and \"rejected\" for preferences",
                    row.names()
                ))),
            },
        }
    }

    /// Whether malformed rows are left out as those of no use are (public files have some), or refused (a file made for this
    /// program has none).
    pub(super) fn is_lenient(self) -> bool {
        matches!(self, Self::Ultrafeedback | Self::HhRlhf)
    }

    /// This shape, or with [`Format::Auto`] that of the row.
    pub(super) fn or_of(self, row: &Row) -> Result<Self> {
        match self {
            Self::Auto => Self::of(row),
            given => Ok(given),
        }
    }

    pub(super) fn item(self, row: &Row, score: ScoreField, seed: u64) -> Result<Item> {
        match self {
            Self::Ultrafeedback => ultrafeedback(row, score, seed),
            Self::HhRlhf | Self::Preferences => preference(row),
            Self::Prompts | Self::Auto => prompt(row),
        }
    }
}

/// Reads a file and hands over what its rows say.
///
/// # Errors
/// As [`Opened::each`] and [`Format::of`]; a malformed row in a file of prompts or preferences; no usable row at all.
pub(super) fn read(
    input: Opened,
    o: &Options,
    f: &mut dyn FnMut(Place<'_>, Item) -> Result<()>,
) -> Result<Input> {
    let (mut tally, mut shapes) = (Tally::default(), BTreeMap::<Format, usize>::new());
    let source = source(&input);
    input.each(COLUMNS, &mut |place, row| {
        tally.rows += 1;
        let shape = o.format.or_of(&row);
        if let Ok(shape) = &shape {
            *shapes.entry(*shape).or_insert(0) += 1;
        }
        let lenient = shape.as_ref().is_ok_and(|s| s.is_lenient());
        match shape.and_then(|s| s.item(&row, o.score, o.seed)) {
            Ok(item) => f(place, item),
            Err(e) if lenient || e.is_unusable() => {
                tally.leave_out(place, e);
                Ok(())
            }
            Err(e) => at(Err(e), place),
        }
    })?;
    if tally.rows == 0 {
        return Err(Error::user(format!("{}: no rows in this file", source.file)));
    }
    // The shape that most rows have.
    let format = shapes
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map_or(o.format, |(shape, _)| shape);
    if tally.missing() == tally.rows {
        return Err(unusable(&source.file, format, &tally));
    }
    Ok(Input {
        source,
        format,
        rows: tally.rows,
        skipped: tally.left_out,
    })
}

/// Hands over the prompts of a file of any shape.
///
/// With `found`, for data that was not made for this program, every row that cannot be used is counted there; without it
/// malformed rows are refused where the shape is that of a file made for this program.
///
/// # Errors
/// As [`Opened::each`] and [`Format::of`]; no rows.
pub(super) fn read_prompts(
    input: Opened,
    found: Option<&mut Tally>,
    f: &mut dyn FnMut(Place<'_>, PromptContent) -> Result<()>,
) -> Result<()> {
    let (name, is_found) = (input.name().to_owned(), found.is_some());
    let mut own = Tally::default();
    let tally = found.unwrap_or(&mut own);
    let before = tally.rows;
    input.each(COLUMNS, &mut |place, row| {
        tally.rows += 1;
        let shape = Format::of(&row);
        let lenient = is_found || shape.as_ref().is_ok_and(|s| s.is_lenient());
        match shape.and_then(|s| s.item(&row, ScoreField::FineGrained, 0)) {
            Ok(item) => return f(place, item.prompt),
            Err(e) if lenient || e.is_unusable() => tally.leave_out(place, e),
            Err(e) => return at(Err(e), place),
        }
        Ok(())
    })?;
    if tally.rows == before {
        return Err(Error::user(format!("{name}: no rows in this file")));
    }
    Ok(())
}

/// A conversation of one user turn is a text; anything else must be something to answer.
pub(super) fn canonical(prompt: PromptContent) -> Result<PromptContent> {
    let turns = asked(prompt)?.to_messages();
    match turns.last() {
        Some(last) if last.role == "user" && !last.content.trim().is_empty() => {}
        Some(last) if last.role == "user" => return Err(Error::unusable("the prompt is empty")),
        _ => return Err(Error::unusable("the prompt does not end with the user's turn")),
    }
    Ok(match <[Message; 1]>::try_from(turns) {
        Ok([only]) => PromptContent::Text(only.content),
        Err(turns) => PromptContent::Messages(turns),
    })
}

fn prompt(row: &Row) -> Result<Item> {
    Ok(Item {
        prompt: canonical(PromptRecord::from_row(row)?.prompt)?,
        pairs: Vec::new(),
    })
}

/// Pairs that teach nothing, or nothing sure, give their prompt alone.
fn preference(row: &Row) -> Result<Item> {
    let record = PreferenceRecord::from_row(row)?;
    let score = |name: &str| row.get(name).and_then(number);
    let tied = matches!((score("score_chosen"), score("score_rejected")), (Some(a), Some(b)) if a <= b);
    let good = !tied && record.chosen != record.rejected && !record.chosen.trim().is_empty();
    Ok(Item {
        prompt: canonical(record.prompt)?,
        pairs: good
            .then_some((record.chosen, record.rejected))
            .into_iter()
            .collect(),
    })
}

fn ultrafeedback(row: &Row, score: ScoreField, seed: u64) -> Result<Item> {
    let prompt = canonical(PromptContent::Text(row.text("instruction")?))?;
    let none = Vec::new();
    let completions = match row.get("completions") {
        None => &none,
        Some(Value::Array(completions)) => completions,
        Some(_) => return Err(Error::user("\"completions\" must be a list")),
    };
    let mut scored: Vec<(f64, &str)> = completions
        .iter()
        .filter_map(|c| {
            let response = c.get("response")?.as_str()?;
            (!response.trim().is_empty()).then_some((score.of(c)?, response))
        })
        .collect();
    // Best first; of equals, the earlier.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worse: Vec<&str> = match scored.first() {
        Some(best) => scored.iter().filter(|s| s.0 < best.0).map(|s| s.1).collect(),
        None => Vec::new(),
    };
    let draw = sha256_hex(format!("rejected:{seed}:{}", split::canonical_key(&prompt)).as_bytes());
    let draw = usize::from_str_radix(&draw[..8], 16).unwrap_or(0);
    let pairs = match worse.len() {
        0 => Vec::new(),
        n => vec![(scored[0].1.to_string(), worse[draw % n].to_string())],
    };
    Ok(Item { prompt, pairs })
}

/// A finite number, or a text of one (ratings are texts in UltraFeedback).
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite())
}

impl ScoreField {
    fn of(self, completion: &Value) -> Option<f64> {
        let field = |name: &str| completion.get(name).and_then(number);
        match self {
            Self::Overall => field("overall_score"),
            Self::FineGrained => field("fine-grained_score")
                .or_else(|| field("fine_grained_score"))
                .or_else(|| ratings(completion))
                .or_else(|| field("overall_score")),
        }
    }
}

/// Mean of the aspects' ratings.
fn ratings(completion: &Value) -> Option<f64> {
    let aspects = completion.get("annotations")?.as_object()?;
    let rating = |a: &Value| match a {
        // Some aspects hold a list with one annotation.
        Value::Array(all) => all.first()?.get("Rating").and_then(number),
        other => other.get("Rating").and_then(number),
    };
    let all: Vec<f64> = aspects.values().filter_map(rating).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}
