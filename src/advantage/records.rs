//! Groups of rewards from a data file, for people whose trainer is another one: `{"id", "rewards", "selection"?}` lines
//! in, `{"id", "advantages", "tail"?}` lines out.

use serde::Serialize;
use serde_json::Value;

use super::{GroupContext, Rule, TailInfo, scale};
use crate::config::ScaleAdvantages;
use crate::data::{Id, Record, Row, shown};
use crate::error::{Context, Error, Result};

/// One line of input: the rewards of one prompt's responses.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRecord {
    /// The line's `id` unchanged (text or number), or null.
    pub id: Id,
    /// Rewards (m,), in order of the sample index.
    pub rewards: Vec<f64>,
    /// Chow's selection set, where it is fixed.
    pub selection: Option<Vec<usize>>,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdvantageLine {
    /// The input line's `id`.
    pub id: Id,
    /// Advantages (m,), in the order of the rewards.
    pub advantages: Vec<f64>,
    /// Tail statistics, for rules that have a tail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<TailInfo>,
    /// Whether every advantage is 0.
    #[serde(skip)]
    pub no_signal: bool,
    /// Whether the Gaussian tail stood in for a fitted one (tea-gpd); `None` for rules that fit none.
    #[serde(skip)]
    pub gaussian_tail: Option<bool>,
}

impl Record for GroupRecord {
    const FORM: &'static str = r#"{"id": 1, "rewards": [0.5, 1.25, …]}"#;
    const COLUMNS: &'static [&'static str] = &["id", "rewards", "selection"];

    fn from_row(row: &Row) -> Result<Self> {
        let reward = |x: &Value| x.as_f64().filter(|x| x.is_finite());
        let index = |x: &Value| x.as_u64().and_then(|i| usize::try_from(i).ok());
        Ok(Self {
            id: row.id()?,
            rewards: list("rewards", &row.typed("rewards")?, "a finite number", reward)?,
            selection: row
                .get("selection")
                .map(|_| {
                    list(
                        "selection",
                        &row.typed("selection")?,
                        "a sample index (a whole number from 0)",
                        index,
                    )
                })
                .transpose()?,
        })
    }
}

/// The items of a list field.
fn list<T>(name: &str, value: &Value, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    let items = value
        .as_array()
        .ok_or_else(|| Error::user(format!("\"{name}\" must be a list, found {}", shown(value))))?;
    let one = |(i, item)| {
        read(item)
            .ok_or_else(|| Error::user(format!("\"{name}\"[{i}] must be {want}, found {}", shown(item))))
    };
    items.iter().enumerate().map(one).collect()
}

/// The advantages of records with their places (from [`crate::data::record::read_placed`]).
///
/// A rule's random numbers are a function of `seed` and the record's place among the records. The records together are the
/// batch that advantages may be scaled over.
///
/// # Errors
/// As [`Rule::group_with`], with file and line.
pub fn advantages(
    rule: &Rule,
    scale: ScaleAdvantages,
    seed: u64,
    records: &[(String, GroupRecord)],
) -> Result<Vec<AdvantageLine>> {
    let one = |(place, (at, record)): (u64, &(String, GroupRecord))| {
        let context = GroupContext {
            selection: record.selection.as_deref(),
            ..GroupContext::at(seed, 0, place)
        };
        let group = rule.group_with(&record.rewards, &context).context(at)?;
        Ok(AdvantageLine {
            id: record.id.clone(),
            advantages: group.advantages,
            tail: group.tail,
            no_signal: group.no_signal,
            gaussian_tail: group.gaussian_tail,
        })
    };
    let mut lines: Vec<AdvantageLine> = (0..).zip(records).map(one).collect::<Result<_>>()?;
    let take = |line: &mut AdvantageLine| std::mem::take(&mut line.advantages);
    let mut groups: Vec<Vec<f64>> = lines.iter_mut().map(take).collect();
    scale::apply(scale, &mut groups);
    for (line, group) in lines.iter_mut().zip(groups) {
        line.advantages = group;
    }
    Ok(lines)
}
