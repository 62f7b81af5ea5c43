//! Continue a pattern: repeated letters, steps through the alphabet, or steps between numbers.
//!
//! `next: abcabcab` → `cabcab`, `next: bdfh` → `jlnprt`, `next: 3 7 11 15` → `19 23 27`.

use rand::RngExt;

use super::{Task, letters_after};
use crate::demo::draw::{Draw, letters};
use crate::demo::grade::{closeness, edit_similarity, grade, position_match};

const HEAD: &str = "next: ";
const MORE_LETTERS: usize = 6;
const MORE_NUMBERS: usize = 3;

pub(crate) struct Pattern {
    shown: String,
    rule: Rule,
}

enum Rule {
    /// The last letters shown, repeated with this period.
    Repeat { period: usize },
    /// Every letter this many places after the one before, wrapping from z to a.
    Alphabet { step: u8 },
    /// The last number shown and the step to the next.
    Numbers { last: i64, step: i64 },
}

impl Pattern {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        loop {
            let shown = match rng.random_range(0..5_u8) {
                0..2 => {
                    let period = rng.random_range(2..=5);
                    let unit = letters(rng, period, 26);
                    let n = rng.random_range(2 * period..=2 * period + 3);
                    unit.chars().cycle().take(n).collect()
                }
                2 => {
                    let (first, step) = (rng.random_range(0..26_u8), rng.random_range(1..=5_u8));
                    let n = rng.random_range(4..=6);
                    (0..n)
                        .map(|i| char::from(b'a' + (first + i * step) % 26))
                        .collect::<String>()
                }
                _ => {
                    let (first, step) = (rng.random_range(1..=40_i64), rng.random_range(2..=15_i64));
                    let terms: Vec<String> = (0..4).map(|i| (first + i * step).to_string()).collect();
                    terms.join(" ")
                }
            };
            if let Some(pattern) = Self::parse(&format!("{HEAD}{shown}")) {
                return pattern;
            }
        }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        if let Some(shown) = letters_after(prompt, HEAD, 14) {
            let rule = letter_rule(shown.as_bytes())?;
            return Some(Self {
                shown: shown.to_string(),
                rule,
            });
        }
        let shown = prompt.strip_prefix(HEAD)?;
        let terms: Option<Vec<i64>> = shown
            .split(' ')
            .map(|t| {
                let plain = (1..=3).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| t.parse().ok()).flatten()
            })
            .collect();
        let terms = terms?;
        let step = terms.get(1)? - terms[0];
        let steady = (3..=5).contains(&terms.len()) && terms.windows(2).all(|w| w[1] - w[0] == step);
        let last = terms[terms.len() - 1];
        let rule = Rule::Numbers { last, step };
        (steady && step != 0 && last + 3 * step >= 0).then(|| Self {
            shown: shown.to_string(),
            rule,
        })
    }
}

/// A steady step through the alphabet if there is one, else the smallest period seen at least twice.
fn letter_rule(shown: &[u8]) -> Option<Rule> {
    let step = |w: &[u8]| (w[1] + 26 - w[0]) % 26;
    let first = step(shown.get(..2)?);
    if shown.len() >= 4 && first != 0 && shown.windows(2).all(|w| step(w) == first) {
        return Some(Rule::Alphabet { step: first });
    }
    let period = (1..=shown.len() / 2).find(|&p| shown.iter().zip(&shown[p..]).all(|(a, b)| a == b))?;
    (period >= 2).then_some(Rule::Repeat { period })
}

impl Task for Pattern {
    fn prompt(&self) -> String {
        format!("{HEAD}{}", self.shown)
    }

    fn answer(&self) -> String {
        let bytes = self.shown.as_bytes();
        match self.rule {
            Rule::Repeat { period } => {
                let unit = bytes[bytes.len() - period..].iter().cycle();
                unit.take(MORE_LETTERS).map(|&b| char::from(b)).collect()
            }
            Rule::Alphabet { step } => {
                let last = bytes[bytes.len() - 1] - b'a';
                let next =
                    |i: usize| char::from(b'a' + (u32::from(last) + i as u32 * u32::from(step)) as u8 % 26);
                (1..=MORE_LETTERS).map(next).collect()
            }
            Rule::Numbers { last, step } => {
                let terms: Vec<String> = (1..=MORE_NUMBERS as i64)
                    .map(|i| (last + i * step).to_string())
                    .collect();
                terms.join(" ")
            }
        }
    }

    /// Half edit similarity; half matching positions, or for numbers the mean closeness of the terms.
    fn score(&self, response: &str) -> f64 {
        let answer = self.answer();
        let places = match self.rule {
            Rule::Numbers { step, .. } => term_closeness(response, &answer, step),
            Rule::Repeat { .. } | Rule::Alphabet { .. } => position_match(response, &answer),
        };
        grade(
            response == answer,
            0.5 * edit_similarity(response, &answer) + 0.5 * places,
        )
    }

    fn subject(&self) -> String {
        self.shown
            .chars()
            .take(11)
            .collect::<String>()
            .trim_end()
            .to_string()
    }
}

fn term_closeness(response: &str, answer: &str, step: i64) -> f64 {
    let got: Vec<&str> = response.split(' ').collect();
    let want: Vec<&str> = answer.split(' ').collect();
    let near = |(g, w): (&&str, &&str)| match (g.parse::<u32>(), w.parse::<u32>()) {
        (Ok(g), Ok(w)) => closeness(f64::from(g), f64::from(w), step.abs() as f64 / 2.0),
        _ => 0.0,
    };
    got.iter().zip(&want).map(near).sum::<f64>() / got.len().max(want.len()) as f64
}
