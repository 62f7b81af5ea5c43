//! Entropic advantages (TTT-Discover, arXiv 2601.16175): exponential weights whose concentration the group itself sets.
//!
//! β > 0 is such that `q_i ∝ e^{βr_i}` has the divergence `KL(q ‖ uniform) = ln 2`, whatever the scale of the rewards. Then
//! `w_i = e^{βr_i} / mean of the others' e^{βr_j}` and `A_i = w_i − 1`.
//!
//! Where half of the group or more ties at the top, no β reaches ln 2, and the limit β → ∞ is taken: the top shares all
//! weight. **Unbounded** where one sample holds all weight. That happens in groups of 2 alone, which therefore need
//! `--max-advantage`, an upper bound of A; in larger groups A stays below 6m, and the bound is optional.
//! Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;

use super::pass::{Pass, Tilt};
use super::rule::{Definition, Found};
use super::{GroupContext, RuleOptions, Units, below_maximum};
use crate::error::{Error, Result};

/// Settings of the entropic rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntropicParams {
    /// Largest advantage; none where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_advantage: Option<f64>,
}

impl EntropicParams {
    /// No bound.
    pub const DEFAULT: Self = Self { max_advantage: None };
}

impl Definition for EntropicParams {
    fn summary(&self) -> &'static str {
        "exponential weights of divergence ln 2, over those of the others, minus 1 (arXiv 2601.16175)"
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            max_advantage: options.max_advantage.or(self.max_advantage),
        }
    }

    fn validate(&self, m: usize) -> Result<()> {
        match self.max_advantage {
            Some(most) if most > 0.0 && most.is_finite() => Ok(()),
            Some(most) => Err(Error::user(format!(
                "--max-advantage is {most}: it must be a positive number such as 10"
            ))),
            None if m > 2 => Ok(()),
            None => Err(Error::user(
                "entropic gives the better of 2 responses an infinite advantage: give --max-advantage, or groups of at \
                 least 3 (--num-generations)",
            )),
        }
    }

    fn pass(&self, _: usize) -> Result<Pass> {
        Ok(Pass::Tilt(Tilt::Balanced {
            cap: self.max_advantage,
        }))
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

/// Weights e^{βx} (m,).
fn weights(below: &[f64], beta: f64) -> Vec<f64> {
    below.iter().map(|x| libm::exp(beta * x)).collect()
}

/// The divergence of the weights e^{βx} from the uniform law, and its derivative by β, which is β times x's variance.
fn divergence(below: &[f64], beta: f64) -> (f64, f64) {
    let weights = weights(below, beta);
    let all: f64 = weights.iter().sum();
    let mean = weights.iter().zip(below).map(|(w, x)| w * x).sum::<f64>() / all;
    let square = |(w, x): (&f64, &f64)| w * (x - mean) * (x - mean);
    let variance = weights.iter().zip(below).map(square).sum::<f64>() / all;
    let divergence = beta * mean - libm::log(all / below.len() as f64);
    (divergence, beta * variance)
}

/// The β of divergence ln 2, for x in −1 … 0 of which less than half are 0: Newton's steps inside a bracket.
fn balance(below: &[f64]) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while high < 1e300 && divergence(below, high).0 < LN_2 {
        (low, high) = (high, 2.0 * high);
    }
    let mut beta = high;
    for _ in 0..200 {
        let (found, slope) = divergence(below, beta);
        if found < LN_2 {
            low = beta;
        } else {
            high = beta;
        }
        let newton = beta - (found - LN_2) / slope;
        if (newton - beta).abs() <= 2.0 * f64::EPSILON * beta || high - low <= f64::EPSILON * high {
            break;
        }
        beta = if newton > low && newton < high {
            newton
        } else {
            0.5 * (low + high)
        };
    }
    beta
}

/// Advantages (m,) of one group of finite rewards (m,); the settings fit its size.
pub fn advantages(rewards: &[f64], params: &EntropicParams) -> Vec<f64> {
    let mut below = below_maximum(rewards);
    let m = below.len();
    let range = below.iter().fold(0.0, |a: f64, b| a.max(-b));
    if range == 0.0 {
        return vec![0.0; m];
    }
    below.iter_mut().for_each(|x| *x /= range);
    let top = |x: &f64| f64::from(u8::from(*x == 0.0));
    let weights: Vec<f64> = match below.iter().filter(|x| **x == 0.0).count() {
        best if 2 * best >= m => below.iter().map(top).collect(),
        _ => weights(&below, balance(&below)),
    };
    let all: f64 = weights.iter().sum();
    let most = params.max_advantage.unwrap_or(f64::INFINITY);
    let one = |w: &f64| ((m - 1) as f64 * w / (all - w) - 1.0).min(most);
    weights.iter().map(one).collect()
}
