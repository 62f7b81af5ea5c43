//! Win rates of judgements.

use serde::Serialize;

use super::store::{JudgeMeta, Judgement, Winner};
use crate::error::{Error, Result};
use crate::eval::bootstrap::{Bootstrap, Interval};
use crate::eval::compare::tables::interval;
use crate::report::{Align, Cell, Table};

/// What the judge made of two evaluations; wins are the first one's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeResult {
    /// The settings.
    pub settings: JudgeMeta,
    /// Prompts in all.
    pub prompts: usize,
    /// Prompts where the first evaluation's response won.
    pub wins: usize,
    /// Prompts where neither did.
    pub ties: usize,
    /// Of these, prompts whose two responses are equal, which are not shown to the judge.
    pub equal: usize,
    /// Prompts where the second evaluation's response won.
    pub losses: usize,
    /// Prompts without a valid answer, left out of the rate.
    pub invalid: usize,
    /// Prompts whose question the server refused, left out too; resuming asks again.
    pub refused: usize,
    /// (wins + ties / 2) / valid, with its bootstrap interval over prompts.
    pub win_rate: Interval,
    /// Share of decided prompts where the response shown first won: 0.5 for a judge without position bias. `None` where
    /// nothing was decided.
    pub first_shown_rate: Option<f64>,
    /// Mean confidence of decided prompts.
    pub confidence: Option<f64>,
    /// Every judgement, by prompt.
    #[serde(skip)]
    pub judgements: Vec<Judgement>,
}

/// Counts wins, ties and losses.
///
/// # Errors
/// A user error when no judgement is valid, quoting the first one's reason.
pub fn summarise(settings: JudgeMeta, judgements: Vec<Judgement>) -> Result<JudgeResult> {
    let count = |w: Winner| judgements.iter().filter(|j| j.winner == w).count();
    let value = |j: &Judgement| match j.winner {
        Winner::First => Some(1.0),
        Winner::Tie => Some(0.5),
        Winner::Second => Some(0.0),
        Winner::Invalid | Winner::Refused => None,
    };
    let values: Vec<f64> = judgements.iter().filter_map(value).collect();
    if values.is_empty() {
        let why = judgements.first().map_or("there is none", |j| j.reason.as_str());
        return Err(Error::user(format!(
            "no judgement is valid. The first one: {why}. Use a judge that can answer with JSON, or check its answers in \
             judgements.jsonl"
        )));
    }
    let decided = || {
        judgements
            .iter()
            .filter(|j| matches!(j.winner, Winner::First | Winner::Second))
    };
    let shown_first = decided()
        .filter(|j| j.first_is_a == Some(j.winner == Winner::First))
        .count();
    let sure: Vec<f64> = decided().filter_map(|j| j.confidence).collect();
    let share = |sum: f64, n: usize| (n > 0).then(|| sum / n as f64);
    Ok(JudgeResult {
        prompts: judgements.len(),
        wins: count(Winner::First),
        ties: count(Winner::Tie),
        equal: judgements.iter().filter(|j| j.first_is_a.is_none()).count(),
        losses: count(Winner::Second),
        invalid: count(Winner::Invalid),
        refused: count(Winner::Refused),
        win_rate: Bootstrap::default().mean(&values)?,
        first_shown_rate: share(shown_first as f64, decided().count()),
        confidence: share(sure.iter().sum(), sure.len()),
        settings,
        judgements,
    })
}

/// One row: wins, ties, losses, invalid, refused, win rate with its interval.
pub fn table(r: &JudgeResult) -> Table {
    let columns = [
        ("first against second", Align::Left),
        ("wins", Align::Right),
        ("ties", Align::Right),
        ("losses", Align::Right),
        ("invalid", Align::Right),
        ("refused", Align::Right),
        ("win rate [95%]", Align::Right),
        ("shown first won", Align::Right),
    ];
    let mut table = Table::new(columns);
    table.push(vec![
        format!("{} against {}", r.settings.first, r.settings.second).into(),
        r.wins.into(),
        r.ties.into(),
        r.losses.into(),
        r.invalid.into(),
        r.refused.into(),
        interval(Some(r.win_rate), 3),
        r.first_shown_rate
            .map_or(Cell::Empty, |value| Cell::Number { value, digits: 3 }),
    ]);
    table
}
