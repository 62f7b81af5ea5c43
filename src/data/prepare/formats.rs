//! What a row of a public file says: a prompt, and pairs of answers to it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Options, at, rows, source, split, unusable};
use crate::error::{Error, Result};
use crate::text::chat::Message;
use crate::text::dataset::{PreferenceRecord, PromptContent, PromptRecord};
use crate::text::jsonl::{Record, Row};
use crate::text::key::sha256_hex;

/// A file's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// What the first row looks like.
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
            () if has("instruction") && has("completions") => Ok(Self::Ultrafeedback),
            () if text("chosen") && text("rejected") && !has("prompt") => Ok(Self::HhRlhf),
            () if has("chosen") && has("rejected") => Ok(Self::Preferences),
            () if has("prompt") || has("messages") => Ok(Self::Prompts),
            () => Err(Error::user(format!(
                "a row of no known shape (it has {}): UltraFeedback has \"instruction\" and \"completions\", HH-RLHF \"chosen\" and \
                 \"rejected\", others \"prompt\" or \"messages\", with \"chosen\" and \"rejected\" for preferences",
                row.names()
            ))),
        }
    }

    /// Whether rows that cannot be used are left out (public files have some) or refused (a file made for this program has none).
    fn is_lenient(self) -> bool {
        matches!(self, Self::Ultrafeedback | Self::HhRlhf)
    }

    fn item(self, row: &Row, score: ScoreField, seed: u64) -> Result<Item> {
        match self {
            Self::Ultrafeedback => ultrafeedback(row, score, seed),
            Self::HhRlhf => hh_rlhf(row),
            Self::Preferences => preference(row),
            Self::Prompts | Self::Auto => prompt(row),
        }
    }
}

/// Reads a file and hands over what its rows say.
///
/// # Errors
/// As [`rows::each`] and [`Format::of`]; a row that cannot be used in a file of prompts or preferences; no usable row at all.
pub(super) fn read(path: &Path, o: &Options, f: &mut dyn FnMut(Item) -> Result<()>) -> Result<Input> {
    let mut format = o.format;
    let (mut count, mut skipped) = (0, BTreeMap::new());
    rows::each(path, &mut |number, row| {
        count = number;
        if format == Format::Auto {
            format = at(Format::of(&row), path, number)?;
        }
        match format.item(&row, o.score, o.seed) {
            Ok(item) => at(f(item), path, number),
            Err(e) if format.is_lenient() => {
                log::debug!("{}: row {number}: {e}", path.display());
                *skipped.entry(e.to_string()).or_insert(0) += 1;
                Ok(())
            }
            Err(e) => at(Err(e), path, number),
        }
    })?;
    if count == 0 {
        return Err(Error::user(format!("{}: no rows in this file", path.display())));
    }
    if skipped.values().sum::<usize>() == count {
        return Err(unusable(path, format, &skipped));
    }
    Ok(Input {
        source: source(path)?,
        format,
        rows: count,
        skipped,
    })
}

/// Hands over the prompts of a file of any shape; returns its number of rows.
///
/// Rows that cannot be used are counted in `skipped` by their reason; without it they are refused where the shape is that of a file
/// made for this program.
///
/// # Errors
/// As [`rows::each`] and [`Format::of`]; no rows.
pub(super) fn read_prompts(
    path: &Path,
    mut skipped: Option<&mut BTreeMap<String, usize>>,
    f: &mut dyn FnMut(PromptContent),
) -> Result<usize> {
    let mut format = Format::Auto;
    let mut count = 0;
    rows::each(path, &mut |number, row| {
        count = number;
        if format == Format::Auto {
            format = at(Format::of(&row), path, number)?;
        }
        match (format.item(&row, ScoreField::FineGrained, 0), &mut skipped) {
            (Ok(item), _) => f(item.prompt),
            (Err(e), None) if !format.is_lenient() => return at(Err(e), path, number),
            (Err(e), skipped) => {
                log::debug!("{}: row {number}: {e}", path.display());
                if let Some(skipped) = skipped {
                    *skipped.entry(e.to_string()).or_insert(0) += 1;
                }
            }
        }
        Ok(())
    })?;
    if count == 0 {
        return Err(Error::user(format!("{}: no rows in this file", path.display())));
    }
    Ok(count)
}

/// A conversation of one user turn is a text; anything else must be something to answer.
fn canonical(prompt: PromptContent) -> Result<PromptContent> {
    let mut turns = prompt.to_messages();
    // A conversation that ends with an answer is asked without it.
    if turns.len() > 1 && turns.last().is_some_and(|m| m.role == "assistant") {
        turns.pop();
    }
    match turns.last() {
        Some(last) if last.role == "user" && !last.content.trim().is_empty() => {}
        Some(last) if last.role == "user" => return Err(Error::user("the prompt is empty")),
        _ => return Err(Error::user("the prompt does not end with the user's turn")),
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

fn hh_rlhf(row: &Row) -> Result<Item> {
    let item = preference(row)?;
    if let PromptContent::Messages(turns) = &item.prompt {
        let expected = ["user", "assistant"].iter().cycle();
        if turns.iter().zip(expected).any(|(t, role)| t.role != *role) {
            return Err(Error::user(
                "the turns do not alternate between user and assistant",
            ));
        }
    }
    Ok(item)
}

fn ultrafeedback(row: &Row, score: ScoreField, seed: u64) -> Result<Item> {
    let prompt = canonical(PromptContent::Text(row.text("instruction")?))?;
    let completions = row.require("completions")?;
    let Value::Array(completions) = completions else {
        return Err(Error::user("\"completions\" must be a list"));
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
