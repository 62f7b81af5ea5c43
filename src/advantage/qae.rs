//! QAE: rewards count from a quantile of the group in place of its mean, `A_i = (r_i − Q_K(r)) / (sd_pop(r) + ε)`
//! (arXiv 2509.22611).
//!
//! `Q_K` lies at the place K·(m − 1) among the ascending rewards 0 … m − 1, between two of them in proportion (numpy's
//! default). On rewards of 0 and 1 with K at the median, a group with few successes teaches by its successes alone and one
//! with few failures by its failures alone. Not centred. Degenerate: equal rewards give A = 0.

use serde::{Deserialize, Serialize};

use super::pass::{Baseline, Pass};
use super::rule::{Definition, Found};
use super::{GroupContext, GrpoZParams, RuleOptions, Units, below_maximum, centre, deviation};
use crate::error::{Error, Result};

/// Settings of QAE.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QaeParams {
    /// K in 0 … 1: the share of the group below the baseline.
    pub quantile: f64,
    /// ε added to the standard deviation, in reward units.
    pub epsilon: f64,
}

impl QaeParams {
    /// K = ½, ε = 1e-4.
    pub const DEFAULT: Self = Self {
        quantile: 0.5,
        epsilon: GrpoZParams::DEFAULT.epsilon,
    };

    /// The baseline's place among m ascending rewards.
    fn place(&self, m: usize) -> f64 {
        self.quantile * (m - 1) as f64
    }
}

impl Definition for QaeParams {
    fn summary(&self) -> &'static str {
        "reward minus the group's --quantile, over standard deviation + 1e-4 (arXiv 2509.22611)"
    }

    fn units(&self) -> Units {
        Units::None
    }

    fn with(self, options: &RuleOptions) -> Self {
        Self {
            quantile: options.quantile.unwrap_or(self.quantile),
            ..self
        }
    }

    fn validate(&self, _: usize) -> Result<()> {
        if !(0.0..=1.0).contains(&self.quantile) {
            return Err(Error::user(format!(
                "--quantile is {}: it must be a share of the group from 0 to 1, such as 0.5",
                self.quantile
            )));
        }
        let epsilon = self.epsilon;
        GrpoZParams { epsilon }.check()
    }

    fn pass(&self, m: usize) -> Result<Pass> {
        let mut steps = vec![1.0; m];
        steps[0] = 0.0;
        Ok(Pass::Curve {
            steps,
            from: Baseline::Place(self.place(m)),
            eps: Some(self.epsilon),
        })
    }

    fn group(&self, rewards: &[f64], _: &GroupContext<'_>) -> Result<Found> {
        Ok(advantages(rewards, self).into())
    }
}

impl Default for QaeParams {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Advantages (m,) of one group of finite rewards (m,), K in 0 … 1.
pub fn advantages(rewards: &[f64], params: &QaeParams) -> Vec<f64> {
    let mut out = below_maximum(rewards);
    let mut ascending = out.clone();
    ascending.sort_by(f64::total_cmp);
    let place = params.place(ascending.len());
    let (low, high) = (
        ascending[place.floor() as usize],
        ascending[place.ceil() as usize],
    );
    let baseline = low + place.fract() * (high - low);
    let mut centred = out.clone();
    centre(&mut centred);
    let scale = deviation(&centred) + params.epsilon;
    out.iter_mut().for_each(|r| *r = (*r - baseline) / scale);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::Rule;
    use super::*;

    fn rule(quantile: f64) -> Rule {
        let epsilon = 0.0;
        Rule::Qae(QaeParams { quantile, epsilon })
    }

    #[test]
    fn rewards_count_from_the_quantile() {
        // Ascending 1 2 4 8, deviation √(mean of squares − square of mean).
        let rewards = [4.0, 1.0, 8.0, 2.0];
        let sd = (85.0f64 / 4.0 - 3.75 * 3.75).sqrt();
        for (quantile, baseline) in [(0.0, 1.0), (0.5, 3.0), (0.75, 5.0), (1.0, 8.0)] {
            let got = rule(quantile).advantages(&rewards).unwrap();
            let want = rewards.map(|r| (r - baseline) / sd);
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-14));
        }
        // Few successes: they alone teach. Few failures: those.
        let rare = rule(0.5).advantages(&[0.0, 0.0, 1.0, 0.0]).unwrap();
        assert!(rare[2] > 0.0 && rare.iter().filter(|a| **a != 0.0).count() == 1);
        let common = rule(0.5).advantages(&[1.0, 1.0, 0.0, 1.0]).unwrap();
        assert!(common[2] < 0.0 && common.iter().filter(|a| **a != 0.0).count() == 1);
    }

    #[test]
    fn a_quantile_is_a_share() {
        for quantile in [-0.1, 1.1, f64::NAN] {
            let error = rule(quantile).validate(8).unwrap_err();
            assert!(error.to_string().contains("--quantile"), "{error}");
        }
    }
}
