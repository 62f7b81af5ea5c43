//! Count a letter: `count a: banana` → `246=3`, the places where it stands and how many there are.

use rand::RngExt;

use super::{Task, letters_after};
use crate::demo::draw::{Draw, letters, pick};
use crate::demo::grade::{closeness, edit_similarity, grade};

/// Places are single digits.
const LONGEST: usize = 9;

pub(crate) struct Count {
    letter: char,
    text: String,
}

impl Count {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        let n = rng.random_range(5..=LONGEST);
        let text = letters(rng, n, 4);
        let letter = pick(rng, b"abcd").into();
        // Rename the letters so that all of the alphabet is asked about.
        let shift = rng.random_range(0..23);
        let renamed = |c: char| char::from(c as u8 + shift);
        Self {
            letter: renamed(letter),
            text: text.chars().map(renamed).collect(),
        }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        let rest = prompt.strip_prefix("count ")?;
        let letter = rest.chars().next().filter(char::is_ascii_lowercase)?;
        let text = letters_after(&rest[1..], ": ", LONGEST)?;
        Some(Self {
            letter,
            text: text.to_string(),
        })
    }

    fn places(&self) -> String {
        let hits = self.text.chars().enumerate().filter(|(_, c)| *c == self.letter);
        hits.map(|(i, _)| char::from(b'1' + i as u8)).collect()
    }
}

impl Task for Count {
    fn prompt(&self) -> String {
        format!("count {}: {}", self.letter, self.text)
    }

    fn answer(&self) -> String {
        let places = self.places();
        format!("{places}={}", places.len())
    }

    /// Half the places, three tenths the number, two tenths a number that agrees with the places; a response without
    /// `=` is judged as places alone.
    fn score(&self, response: &str) -> f64 {
        let answer = self.answer();
        let (places, number) = response.split_once('=').unwrap_or((response, ""));
        let truth = self.places();
        let digits = (1..=2).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        let number: Option<u32> = if digits { number.parse().ok() } else { None };
        let near = number.map_or(0.0, |n| closeness(f64::from(n), truth.len() as f64, 1.0));
        let agrees = number.map_or(0.0, |n| {
            closeness(f64::from(n), places.chars().count() as f64, 0.5)
        });
        grade(
            response == answer,
            0.5 * edit_similarity(places, &truth) + 0.3 * near + 0.2 * agrees,
        )
    }

    fn subject(&self) -> String {
        self.text.clone()
    }
}
