//! What the advantage rules cost beside a training step.

use super::output::Row;
use super::timing::{Clock, median};
use crate::advantage::{GroupContext, Rule};
use crate::error::Result;
use crate::kernels::harness::Gen;
use std::time::Instant;

/// Groups of the measurement.
pub const GROUPS: usize = 10_000;
/// Rewards a group.
const M: usize = 64;

/// Seconds of every rule of training over `groups` groups of 64 rewards on the CPU in float64, and their
/// share of a step of `step` seconds. Medians of `repetitions` samples.
///
/// # Errors
/// A rule that does not fit groups of 64 (a bug).
pub fn rows(groups: usize, repetitions: usize, step: f64) -> Result<Vec<Row>> {
    // Sums of three uniform numbers: nearly normal.
    let uniform = Gen::new(64).uniform(3 * groups * M, 1.0);
    let rewards: Vec<f64> = uniform
        .chunks(3)
        .map(|u| u.iter().map(|v| f64::from(*v)).sum())
        .collect();
    Rule::ALL
        .iter()
        .filter(|rule| rule.trains())
        .map(|rule| row(rule, &rewards, repetitions, step))
        .collect()
}

fn row(rule: &Rule, rewards: &[f64], repetitions: usize, step: f64) -> Result<Row> {
    let rewards = rule.rewards().like(rewards);
    let once = || -> Result<f64> {
        let begun = Instant::now();
        for (place, group) in (0u64..).zip(rewards.chunks(M)) {
            let context = GroupContext::at(0, 1, place);
            std::hint::black_box(rule.group_with(group, &context)?);
        }
        Ok(begun.elapsed().as_secs_f64())
    };
    let samples = (0..repetitions).map(|_| once()).collect::<Result<Vec<f64>>>()?;
    let seconds = median(&samples);
    let row = Row {
        test: format!("advantages of {} groups of {M}", rewards.len() / M),
        variant: rule.name().into(),
        dtype: "f64".into(),
        unit: "s".into(),
        clock: Some(Clock::Wall),
        ..Row::of(samples, false)
    };
    Ok(row.with("% of step", 100.0 * seconds / step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_rule_of_training_has_a_row() {
        let rows = rows(50, 3, 2.0).unwrap();
        assert_eq!(rows.len(), Rule::ALL.iter().filter(|r| r.trains()).count());
        for row in &rows {
            let share = row.extra["% of step"].as_f64().unwrap();
            assert!(
                row.value > 0.0 && (share - 50.0 * row.value).abs() < 1e-9,
                "{row:?}"
            );
        }
    }
}
