//! How a budget is divided (SLG, arXiv 2602.01485, §5): m responses from the prompt and from each of K states, the rest
//! where the prediction is highest.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The fewest responses a tail is estimated from unless the user says otherwise.
pub const DEFAULT_LEAST_SAMPLES: usize = 20;
/// The fewest states unless the user says otherwise.
pub const DEFAULT_LEAST_WIDTH: usize = 2;
/// Fewer responses than this have no tail of two within their upper half.
pub const LEAST_SAMPLES: usize = 4;
/// The largest budget, m or K: a response's number must fit in 32 bits of its seed.
pub const MOST: usize = u32::MAX as usize;

/// A budget and its division.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// N: responses a prompt, in all.
    pub budget: usize,
    /// m: responses from which a tail is estimated.
    pub samples: usize,
    /// K: states at most.
    pub width: usize,
}

/// `m(N) = max(20, (ln N)³/5 to the nearest multiple of 5)`.
pub fn default_samples(budget: usize) -> usize {
    let log = libm::log(budget.max(1) as f64);
    let fives = libm::round(log * log * log / 25.0) as usize;
    (5 * fives).max(DEFAULT_LEAST_SAMPLES)
}

/// `K(N) = max(2, min(round(N/2m), ⌊N/(m + 2)⌋))`, halves rounded away from zero.
pub fn default_width(budget: usize, samples: usize) -> usize {
    let half = (budget + samples) / (2 * samples);
    half.min(budget / (samples + 2)).max(DEFAULT_LEAST_WIDTH)
}

/// m and K that a user fixed; what is open follows from the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// m (`--samples`).
    pub samples: Option<usize>,
    /// K (`--width`).
    pub width: Option<usize>,
}

impl Asked {
    fn schedule(self, budget: usize) -> Schedule {
        let samples = self.samples.unwrap_or_else(|| default_samples(budget));
        Schedule {
            budget,
            samples,
            width: self.width.unwrap_or_else(|| default_width(budget, samples)),
        }
    }

    /// The least budget of at least `from` that pays for m responses from the prompt and from each of K states.
    ///
    /// m(N) never falls, and neither does K(N) at a fixed m: then stepping from N to what its schedule costs never
    /// passes a budget that works. With both open the cost can fall as m steps up, so that every budget is tried.
    pub fn least_budget(self, from: usize) -> usize {
        let mut budget = from.max(1);
        loop {
            let cost = self.schedule(budget).exploration();
            if cost <= budget {
                return budget;
            }
            budget = match self {
                Self {
                    samples: None,
                    width: None,
                } => budget + 1,
                _ => cost,
            };
        }
    }

    fn validate(self, budget: usize) -> Result<()> {
        let bounds = [
            ("--budget", Some(budget), 1),
            ("--samples", self.samples, LEAST_SAMPLES),
            ("--width", self.width, 1),
        ];
        for (flag, value, least) in bounds {
            match value {
                Some(n) if n < least && flag == "--samples" => {
                    return Err(Error::user(format!(
                        "--samples is {n}: a tail needs two rewards in the upper half, so at least {least}"
                    )));
                }
                Some(n) if n < least => {
                    return Err(Error::user(format!("{flag} must be at least {least}")));
                }
                Some(n) if n > MOST => {
                    return Err(Error::user(format!("{flag} is {n}; the most is {MOST}")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Schedule {
    /// Divides a budget.
    ///
    /// # Errors
    /// A user error when a number is out of range, or the budget does not pay for `m·(K + 1)` responses (naming the
    /// least one that does).
    pub fn new(budget: usize, asked: Asked) -> Result<Self> {
        asked.validate(budget)?;
        let schedule = asked.schedule(budget);
        if schedule.exploration() <= budget {
            return Ok(schedule);
        }
        let (least, next) = (asked.least_budget(1), asked.least_budget(budget));
        let also = if next == least {
            String::new()
        } else {
            format!(" (m grows with N: the next one that works above yours is {next})")
        };
        Err(Error::user(format!(
            "--budget {budget} is too small: {m} responses from the prompt and {m} from each of {k} states take {}. The least \
             budget with these settings is {least}{also}; or lower --samples or --width",
            schedule.exploration(),
            m = schedule.samples,
            k = schedule.width,
        )))
    }

    /// Responses that estimating takes at most: `m·(K + 1)`.
    pub fn exploration(&self) -> usize {
        self.samples.saturating_mul(self.width.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_defaults_are_the_papers() {
        // (ln N)³/5 before rounding: 13.7 (N = 60), 19.5, 22.8, 34.1, 48.6, 65.9 (1000), 84.1 → 85 (1800), 156.3 (10⁴).
        let table = [
            (60, 20, 2),
            (100, 20, 3),
            (124, 20, 3),
            (125, 25, 3),
            (128, 25, 3),
            (256, 35, 4),
            (512, 50, 5),
            (1000, 65, 8),
            (10_000, 155, 32),
        ];
        for (n, m, k) in table {
            let s = Schedule::new(n, Asked::default()).unwrap();
            assert_eq!((s.samples, s.width), (m, k), "N = {n}");
        }
        // Halves round up: 50/(2·20) is 1.25, 100/40 is 2.5, and the floor of N/(m + 2) bounds it.
        assert_eq!((default_width(100, 20), default_width(99, 20)), (3, 2));
        assert_eq!(default_width(7, 1), 2);
    }

    #[test]
    fn every_budget_from_sixty_is_enough_and_none_below() {
        for n in 1..60 {
            let e = Schedule::new(n, Asked::default()).unwrap_err().to_string();
            assert!(e.contains("the least") || e.contains("The least"), "{e}");
            assert!(e.contains("least budget with these settings is 60"), "{e}");
        }
        for n in 60..30_000 {
            let s = Schedule::new(n, Asked::default()).unwrap();
            assert!(s.exploration() <= n && s.samples.is_multiple_of(5) && s.width >= 2);
        }
    }

    #[test]
    fn the_least_budget_is_the_least() {
        let mut cases: Vec<Asked> = (4..60).map(|m| asked(Some(m), None)).collect();
        cases.extend((1..40).map(|k| asked(None, Some(k))));
        cases.extend([(4, 1), (7, 3), (30, 30)].map(|(m, k)| asked(Some(m), Some(k))));
        cases.push(Asked::default());
        for asked in cases {
            let works = |n: usize| asked.schedule(n).exploration() <= n;
            let brute = |from: usize| (from..).find(|n| works(*n)).unwrap();
            for from in [1, 100, 126, 500] {
                assert_eq!(asked.least_budget(from), brute(from), "{asked:?} from {from}");
            }
        }
        // m steps from 20 to 25 at N = 125, so that K = 5 works at 120 and not at 130.
        assert!(Schedule::new(120, asked(None, Some(5))).is_ok());
        let e = Schedule::new(130, asked(None, Some(5))).unwrap_err();
        assert!(e.to_string().contains("is 120 (m grows with N"), "{e}");
        assert!(e.to_string().contains("above yours is 150"), "{e}");
        assert_eq!(e.exit_code(), 2);
    }

    fn asked(samples: Option<usize>, width: Option<usize>) -> Asked {
        Asked { samples, width }
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_their_flag() {
        let bad = [
            (0, asked(None, None), "--budget"),
            (usize::MAX, asked(None, None), "--budget"),
            (100, asked(Some(3), None), "--samples"),
            (100, asked(None, Some(0)), "--width"),
            (100, asked(Some(usize::MAX), Some(2)), "--samples"),
        ];
        for (budget, asked, flag) in bad {
            let e = Schedule::new(budget, asked).unwrap_err();
            assert!(e.to_string().contains(flag) && e.exit_code() == 2, "{e}");
        }
        let huge = Schedule::new(100, asked(Some(MOST), Some(MOST))).unwrap_err();
        assert!(huge.to_string().contains("too small"), "{huge}");
    }
}
