//! Reach a target: `reach 31: 4 7 3 9` → `4*7+3`, an expression of the given numbers, each used at most once.

use rand::RngExt;

use super::Task;
use crate::demo::draw::{Draw, pick, slip};
use crate::demo::grade::{closeness, grade};

pub(crate) struct Reach {
    target: i64,
    numbers: Vec<i64>,
    /// A right answer: known when drawn, searched for when parsed.
    answer: String,
}

impl Reach {
    pub(crate) fn draw(rng: &mut Draw) -> Self {
        loop {
            let count = rng.random_range(3..=4);
            let numbers: Vec<i64> = (0..count).map(|_| rng.random_range(1..=9)).collect();
            let used = rng.random_range(2..=count);
            let answer = expression(rng, &numbers, used);
            let target = match evaluate(&answer) {
                Some((value, _)) if (10..=99).contains(&value) => value,
                _ => continue,
            };
            return Self {
                target,
                numbers,
                answer,
            };
        }
    }

    pub(crate) fn parse(prompt: &str) -> Option<Self> {
        let (target, rest) = prompt.strip_prefix("reach ")?.split_once(": ")?;
        let plain = |t: &str, longest: usize| {
            let fits = (1..=longest).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
            fits.then(|| t.parse::<i64>().ok()).flatten()
        };
        let target = plain(target, 3)?;
        let numbers: Option<Vec<i64>> = rest.split(' ').map(|t| plain(t, 2)).collect();
        let numbers = numbers.filter(|n| (2..=4).contains(&n.len()))?;
        let answer = search(target, &numbers);
        Some(Self {
            target,
            numbers,
            answer,
        })
    }
}

/// A random expression that uses `used` of the numbers.
fn expression(rng: &mut Draw, numbers: &[i64], used: usize) -> String {
    let mut left = numbers.to_vec();
    let mut text = String::new();
    for i in 0..used {
        if i > 0 {
            text.push(pick(rng, &['+', '-', '*', '*']));
        }
        text += &left.swap_remove(rng.random_range(0..left.len())).to_string();
    }
    text
}

/// Value and numbers of an expression of unsigned numbers with + − * and the usual precedence; `None` when it is not one.
fn evaluate(text: &str) -> Option<(i64, Vec<i64>)> {
    let mut numbers = Vec::new();
    let (mut sum, mut product, mut sign) = (0_i64, 1_i64, 1_i64);
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if !(1..=3).contains(&end) {
            return None;
        }
        let value: i64 = rest[..end].parse().ok()?;
        numbers.push(value);
        product = product.checked_mul(value)?;
        rest = &rest[end..];
        match rest.chars().next() {
            Some('*') => {}
            Some(c @ ('+' | '-')) => {
                sum = sum.checked_add(sign.checked_mul(product)?)?;
                (product, sign) = (1, if c == '+' { 1 } else { -1 });
            }
            Some(_) => return None,
            None => return Some((sum.checked_add(sign.checked_mul(product)?)?, numbers)),
        }
        rest = &rest[1..];
    }
}

/// The expression nearest to the target, by trying every order of every subset with every operator.
fn search(target: i64, numbers: &[i64]) -> String {
    fn extend(target: i64, left: &[i64], text: &str, best: &mut (i64, String)) {
        for (i, n) in left.iter().enumerate() {
            let mut others = left.to_vec();
            others.remove(i);
            for op in if text.is_empty() {
                &[""][..]
            } else {
                &["+", "-", "*"][..]
            } {
                let longer = format!("{text}{op}{n}");
                if let Some((value, _)) = evaluate(&longer) {
                    let error = (value - target).abs();
                    if error < best.0 {
                        *best = (error, longer.clone());
                    }
                }
                extend(target, &others, &longer, best);
            }
        }
    }
    let mut best = (i64::MAX, String::new());
    extend(target, numbers, "", &mut best);
    best.1
}

/// True when `used` is part of the multiset `given`.
fn within(used: &[i64], given: &[i64]) -> bool {
    let mut left = given.to_vec();
    used.iter().all(|n| {
        left.iter()
            .position(|x| x == n)
            .map(|at| left.swap_remove(at))
            .is_some()
    })
}

impl Task for Reach {
    fn prompt(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(i64::to_string).collect();
        format!("reach {}: {}", self.target, numbers.join(" "))
    }

    fn answer(&self) -> String {
        self.answer.clone()
    }

    /// Closeness of the value (½ at an error of half the target); two fifths of it where other numbers than
    /// the given ones are used; what is not an expression scores by its share of digits and operators, at most 0.2².
    fn score(&self, response: &str) -> f64 {
        let Some((value, used)) = evaluate(response) else {
            let fit = response
                .chars()
                .filter(|c| c.is_ascii_digit() || "+-*".contains(*c))
                .count();
            return grade(false, 0.2 * fit as f64 / response.chars().count().max(1) as f64);
        };
        let fair = within(&used, &self.numbers);
        let near = closeness(value as f64, self.target as f64, 1.0 + self.target as f64 / 2.0);
        grade(
            fair && value == self.target,
            if fair { 0.1 + 0.9 * near } else { 0.4 * near },
        )
    }

    fn subject(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(i64::to_string).collect();
        numbers.join(if self.target % 2 == 0 { " " } else { "+" })
    }

    /// The best of several random expressions of the given numbers, fewer with severity; a slip or an echo at the end.
    fn wrong(&self, rng: &mut Draw, severity: usize) -> String {
        let tries = match severity {
            1 => 4,
            2 => 2,
            3 => 1,
            _ => return slip(rng, &self.answer, &self.subject(), 4),
        };
        let mut best = (-1.0, String::new());
        for _ in 0..tries {
            let used = rng.random_range(2..=self.numbers.len());
            let text = expression(rng, &self.numbers, used);
            let score = self.score(&text);
            if text != self.answer && score > best.0 {
                best = (score, text);
            }
        }
        if best.0 < 0.0 {
            slip(rng, &self.answer, &self.subject(), 1)
        } else {
            best.1
        }
    }
}
