//! The tail share α as an exact fraction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest denominator of a tail share: α is the nearest fraction up to it.
pub const MAX_DENOMINATOR: u32 = 1000;

/// The tail share α in (0, ½], kept as a fraction in lowest terms so that ⌈αm⌉ is exact (⌈0.2·65⌉ = 13, not 14).
///
/// Parses from `"0.2"` and `"1/3"`; a decimal becomes the nearest fraction whose denominator is at most
/// [`MAX_DENOMINATOR`]. In JSON and TOML it is a number or such a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawAlpha", into = "RawAlpha")]
pub struct Alpha {
    numerator: u32,
    denominator: u32,
}

impl Alpha {
    /// One fifth: the default tail share.
    pub const DEFAULT: Self = Self {
        numerator: 1,
        denominator: 5,
    };

    /// The nearest fraction to `value` with a denominator of at most [`MAX_DENOMINATOR`].
    ///
    /// # Errors
    /// A user error when `value`, or its nearest fraction, is outside (0, ½].
    pub fn new(value: f64) -> Result<Self> {
        if !(value > 0.0 && value <= 0.5) {
            return Err(out_of_range(value));
        }
        let (numerator, denominator) = nearest_fraction(value, MAX_DENOMINATOR);
        Self::from_fraction(numerator, denominator)
    }

    /// The fraction `numerator / denominator`, reduced.
    ///
    /// # Errors
    /// A user error when it is outside (0, ½] or its reduced denominator is above [`MAX_DENOMINATOR`].
    pub fn from_fraction(numerator: u32, denominator: u32) -> Result<Self> {
        if numerator == 0 || denominator == 0 || u64::from(numerator) * 2 > u64::from(denominator) {
            return Err(out_of_range(format!("{numerator}/{denominator}")));
        }
        let common = gcd(numerator, denominator);
        let (numerator, denominator) = (numerator / common, denominator / common);
        if denominator > MAX_DENOMINATOR {
            return Err(Error::user(format!(
                "alpha {numerator}/{denominator} has a denominator above {MAX_DENOMINATOR}: use a simpler fraction"
            )));
        }
        Ok(Self {
            numerator,
            denominator,
        })
    }

    /// α as a float.
    pub fn value(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// The numerator in lowest terms.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// The denominator in lowest terms.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// The number of tail samples of a group of `m`: `min(m, max(2, ⌈αm⌉))`.
    pub fn tail_size(self, m: usize) -> usize {
        self.share_of(m).max(2).min(m)
    }

    /// Whether the upper share α of `m` rewards is a tail to predict from: ⌈αm⌉ ≥ 2. With fewer, [`Alpha::tail_size`] takes 2
    /// all the same, for training needs a tail; they stand for a larger share than α, for which κ(α, N) does not hold.
    pub fn has_tail(self, m: usize) -> bool {
        self.share_of(m) >= 2
    }

    /// ⌈αm⌉.
    fn share_of(self, m: usize) -> usize {
        let (a, b) = (u128::from(self.numerator), u128::from(self.denominator));
        (a * m as u128).div_ceil(b) as usize
    }
}

impl Default for Alpha {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Alpha {
    /// The decimal where it is exact to six places, else the fraction; parses back to the same α.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scaled = u64::from(self.numerator) * 1_000_000;
        if scaled.is_multiple_of(u64::from(self.denominator)) {
            write!(f, "{}", self.value())
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

impl FromStr for Alpha {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::user(format!(
                "cannot read alpha \"{text}\": give a number such as 0.2 or a fraction such as 1/3"
            ))
        };
        match text.split_once('/') {
            Some((a, b)) => Self::from_fraction(
                a.trim().parse().map_err(|_| bad())?,
                b.trim().parse().map_err(|_| bad())?,
            ),
            None => Self::new(text.trim().parse().map_err(|_| bad())?),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawAlpha {
    Number(f64),
    Text(String),
}

impl TryFrom<RawAlpha> for Alpha {
    type Error = Error;

    fn try_from(raw: RawAlpha) -> Result<Self> {
        match raw {
            RawAlpha::Number(value) => Self::new(value),
            RawAlpha::Text(text) => text.parse(),
        }
    }
}

impl From<Alpha> for RawAlpha {
    fn from(alpha: Alpha) -> Self {
        let text = alpha.to_string();
        if text.contains('/') {
            Self::Text(text)
        } else {
            Self::Number(alpha.value())
        }
    }
}

fn out_of_range(value: impl fmt::Display) -> Error {
    Error::user(format!(
        "alpha is {value}: it must be above 0 and at most 0.5 (the default is 0.2)"
    ))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The fraction nearest to `value` in (0, 1) among denominators up to `limit`; the smallest denominator on a tie.
fn nearest_fraction(value: f64, limit: u32) -> (u32, u32) {
    let mut best = (0, 1);
    let mut best_error = f64::INFINITY;
    for denominator in 1..=limit {
        let numerator = libm::round(value * f64::from(denominator));
        let error = (numerator / f64::from(denominator) - value).abs();
        if error < best_error {
            best_error = error;
            best = (numerator as u32, denominator);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn alpha_is_the_nearest_fraction() {
        let parse = |s: &str| s.parse::<Alpha>().unwrap();
        assert_eq!((parse("0.2").numerator(), parse("0.2").denominator()), (1, 5));
        assert_eq!(parse("1/3"), parse("0.3333333333333"));
        assert_eq!(parse("2/6").to_string(), "1/3");
        assert_eq!(parse("0.125").to_string(), "0.125");
        assert_eq!(parse("0.2").tail_size(65), 13);
        assert_eq!(parse("0.2").tail_size(64), 13);
        assert_eq!(parse("0.1").tail_size(8), 2);
        assert_eq!(parse("0.5").tail_size(1), 1);
        assert_eq!(parse("0.07").tail_size(100), 7);
        // ⌈αm⌉ is 1 up to m = 1/α, and 2 from the next on.
        let tails = |s: &str, m: usize| [m - 1, m, m + 1].map(|m| parse(s).has_tail(m));
        assert_eq!(tails("0.2", 5), [false, false, true]);
        assert_eq!(tails("1/3", 3), [false, false, true]);
        assert_eq!((parse("0.2").tail_size(5), parse("0.2").tail_size(6)), (2, 2));
        for text in [
            "0", "-0.1", "0.6", "2/3", "0/4", "1/0", "x", "nan", "1e-9", "1/1001",
        ] {
            let error = text.parse::<Alpha>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}: {error}");
            assert!(error.to_string().contains("alpha"), "{error}");
        }
    }

    #[test]
    fn alpha_round_trips_through_json() {
        for text in ["0.2", "1/3", "0.25", "7/999"] {
            let alpha: Alpha = text.parse().unwrap();
            let json = serde_json::to_string(&alpha).unwrap();
            assert_eq!(serde_json::from_str::<Alpha>(&json).unwrap(), alpha, "{json}");
        }
        assert_eq!(serde_json::to_string(&Alpha::DEFAULT).unwrap(), "0.2");
        assert!(serde_json::from_str::<Alpha>("0.7").is_err());
    }
}
