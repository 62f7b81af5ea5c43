//! Add numbers: `add: 47+385` → `432`.

use rand::RngExt;

use super::Task;
use crate::demo::draw::{Draw, slip};
use crate::demo::grade::{closeness, edit_similarity, grade};

const HEAD: &str = "add: ";

pub(crate) struct Add {
    terms: Vec<u32>,
}

impl Add {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        let terms = if rng.random_bool(0.25) {
            (0..3).map(|_| rng.random_range(10..100)).collect()
        } else {
            let limit = |rng: &mut Draw| if rng.random_bool(0.5) { 100 } else { 1000 };
            let (a, b) = (limit(rng), limit(rng));
            vec![rng.random_range(a / 10..a), rng.random_range(b / 10..b)]
        };
        Self { terms }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        let terms: Option<Vec<u32>> = prompt
            .strip_prefix(HEAD)?
            .split('+')
            .map(|term| {
                let plain = (1..=4).contains(&term.len()) && term.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| term.parse().ok()).flatten()
            })
            .collect();
        let terms = terms?;
        (2..=4).contains(&terms.len()).then_some(Self { terms })
    }

    fn sum(&self) -> u32 {
        self.terms.iter().sum()
    }
}

impl Task for Add {
    fn prompt(&self) -> String {
        let terms: Vec<String> = self.terms.iter().map(u32::to_string).collect();
        format!("{HEAD}{}", terms.join("+"))
    }

    fn answer(&self) -> String {
        self.sum().to_string()
    }

    /// Half the digits, half the closeness in value (½ at an error of about a tenth of the sum); no number, no closeness.
    fn score(&self, response: &str) -> f64 {
        let answer = self.answer();
        let digits = response.bytes().all(|b| b.is_ascii_digit());
        let value = if digits {
            response.parse::<u64>().ok()
        } else {
            None
        };
        let target = f64::from(self.sum());
        let near = value.map_or(0.0, |v| closeness(v as f64, target, 2.0 + target / 10.0));
        grade(
            response == answer,
            0.5 * edit_similarity(response, &answer) + 0.5 * near,
        )
    }

    fn subject(&self) -> String {
        self.terms[0].to_string()
    }

    /// A forgotten carry or a slip of a digit, larger with severity.
    fn wrong(&self, rng: &mut Draw, severity: usize) -> String {
        if severity >= 4 || rng.random_bool(0.4) {
            return slip(rng, &self.answer(), &self.subject(), severity);
        }
        let unit = 10_i64.pow(severity as u32 - 1);
        let off = rng.random_range(1..=3) * unit * if rng.random_bool(0.5) { -1 } else { 1 };
        (i64::from(self.sum()) + off).max(0).to_string()
    }
}
