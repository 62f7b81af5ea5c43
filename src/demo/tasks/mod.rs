//! The kinds of task: one file a kind.

mod add;
mod count;
mod pattern;
mod reach;
mod reverse;
mod sort;

use serde::{Deserialize, Serialize};

use super::draw::{Draw, slip};

/// One instruction with its true score.
pub(crate) trait Task {
    /// The instruction's text.
    fn prompt(&self) -> String;
    /// A right answer.
    fn answer(&self) -> String;
    /// The true score of a response without surrounding whitespace.
    fn score(&self, response: &str) -> f64;
    /// What the instruction is about: what a model that ignores the verb would echo.
    fn subject(&self) -> String;
    /// A plausible answer, worse with `severity` 1 to 4 (it may be right by chance).
    fn wrong(&self, rng: &mut Draw, severity: usize) -> String {
        slip(rng, &self.answer(), &self.subject(), severity)
    }
}

/// The kinds of task in the instruction set.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `sort: dbca` → `abcd`.
    Sort,
    /// `add: 47+385` → `432`.
    Add,
    /// `count a: banana` → `246=3`: where it stands, and how often.
    Count,
    /// `reverse: planet` → `tenalp`.
    Reverse,
    /// `reach 31: 4 7 3 9` → `4*7+3`: an expression of given numbers, each used at most once.
    Reach,
    /// `next: abcabcab` → `cabcab`, `next: 3 7 11 15` → `19 23 27`, `next: bdfh` → `jlnprt`.
    Pattern,
}

impl Kind {
    /// Every kind, in the order they take turns.
    pub const ALL: &'static [Self] = &[
        Self::Sort,
        Self::Add,
        Self::Count,
        Self::Reverse,
        Self::Reach,
        Self::Pattern,
    ];

    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sort => "sort",
            Self::Add => "add",
            Self::Count => "count",
            Self::Reverse => "reverse",
            Self::Reach => "reach",
            Self::Pattern => "pattern",
        }
    }

    /// The kind of a prompt; `None` when it is not one of the instruction set.
    pub fn of(prompt: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.parse_own(prompt).is_some())
    }

    pub(crate) fn draw(self, rng: &mut Draw) -> Box<dyn Task> {
        match self {
            Self::Sort => Box::new(sort::Sort::draw(rng)),
            Self::Add => Box::new(add::Add::draw(rng)),
            Self::Count => Box::new(count::Count::draw(rng)),
            Self::Reverse => Box::new(reverse::Reverse::draw(rng)),
            Self::Reach => Box::new(reach::Reach::draw(rng)),
            Self::Pattern => Box::new(pattern::Pattern::draw(rng)),
        }
    }

    /// The task a prompt of any kind states.
    pub(crate) fn parse(prompt: &str) -> Option<Box<dyn Task>> {
        Self::ALL.iter().find_map(|kind| kind.parse_own(prompt))
    }

    fn parse_own(self, prompt: &str) -> Option<Box<dyn Task>> {
        fn boxed<T: Task + 'static>(task: T) -> Box<dyn Task> {
            Box::new(task)
        }
        match self {
            Self::Sort => sort::Sort::parse(prompt).map(boxed),
            Self::Add => add::Add::parse(prompt).map(boxed),
            Self::Count => count::Count::parse(prompt).map(boxed),
            Self::Reverse => reverse::Reverse::parse(prompt).map(boxed),
            Self::Reach => reach::Reach::parse(prompt).map(boxed),
            Self::Pattern => pattern::Pattern::parse(prompt).map(boxed),
        }
    }
}

/// The text after `head`, if it is between 1 and `longest` lower-case letters.
fn letters_after<'a>(prompt: &'a str, head: &str, longest: usize) -> Option<&'a str> {
    let text = prompt.strip_prefix(head)?;
    let fits = (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase());
    fits.then_some(text)
}
