//! Reverse a word: `reverse: planet` → `tenalp`.

use rand::RngExt;

use super::{Task, letters_after};
use crate::demo::draw::{Draw, word};
use crate::demo::grade::{edit_similarity, grade, position_match};

const HEAD: &str = "reverse: ";

pub(crate) struct Reverse {
    word: String,
}

impl Reverse {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        let n = rng.random_range(4..=10);
        Self { word: word(rng, n) }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        letters_after(prompt, HEAD, 11).map(|text| Self {
            word: text.to_string(),
        })
    }
}

impl Task for Reverse {
    fn prompt(&self) -> String {
        format!("{HEAD}{}", self.word)
    }

    fn answer(&self) -> String {
        self.word.chars().rev().collect()
    }

    /// Edit similarity and matching positions, half each.
    fn score(&self, response: &str) -> f64 {
        let answer = self.answer();
        let likeness = 0.5 * edit_similarity(response, &answer) + 0.5 * position_match(response, &answer);
        grade(response == answer, likeness)
    }

    fn subject(&self) -> String {
        self.word.clone()
    }
}
