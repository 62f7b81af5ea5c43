//! Sort letters: `sort: dbca` → `abcd`.

use rand::RngExt;

use super::{Task, letters_after};
use crate::demo::draw::{Draw, letters};
use crate::demo::grade::{edit_similarity, grade, shared_characters};

const HEAD: &str = "sort: ";

pub(crate) struct Sort {
    letters: String,
}

impl Sort {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        let n = rng.random_range(4..=9);
        Self {
            letters: letters(rng, n, 26),
        }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        letters_after(prompt, HEAD, 14).map(|text| Self {
            letters: text.to_string(),
        })
    }
}

/// Share of neighbouring pairs in order; 0 for fewer than two characters.
fn orderedness(text: &str) -> f64 {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() < 2 {
        return 0.0;
    }
    chars.windows(2).filter(|pair| pair[0] <= pair[1]).count() as f64 / (chars.len() - 1) as f64
}

impl Task for Sort {
    fn prompt(&self) -> String {
        format!("{HEAD}{}", self.letters)
    }

    fn answer(&self) -> String {
        let mut chars: Vec<char> = self.letters.chars().collect();
        chars.sort_unstable();
        chars.into_iter().collect()
    }

    /// Half edit similarity, half the letters themselves, weighted by how far they are in order.
    fn score(&self, response: &str) -> f64 {
        let answer = self.answer();
        let kept = shared_characters(response, &answer) * (0.4 + 0.6 * orderedness(response));
        grade(
            response == answer,
            0.5 * edit_similarity(response, &answer) + 0.5 * kept,
        )
    }

    fn subject(&self) -> String {
        self.letters.clone()
    }
}
