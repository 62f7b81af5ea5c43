//! Stored evaluations against one another: what must agree, what may differ and is said, and what came out.

use serde::Serialize;

use super::agree::{aligned, check_judge, judge_name, notes, same_judge, sizes, trained_on};
use super::{Comparison, compare};
use crate::error::{Context, Error, Result};
use crate::eval::best_of_n::{BestOfN, Estimator, curve_of, grouped, picked, unbiased};
use crate::eval::bootstrap::{Bootstrap, Interval};
use crate::eval::store::{Judge, StoredEval};

/// An evaluation with what tables call it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The label.
    pub label: String,
    /// The evaluation.
    pub eval: StoredEval,
}

/// How to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The number of the entry that the others are measured against.
    pub baseline: usize,
    /// Whose rewards choose the best.
    pub judge: Judge,
    /// [`Estimator::Grouped`] or [`Estimator::Unbiased`].
    pub estimator: Estimator,
    /// The sizes n; without, the powers of two that divide every evaluation's number of samples.
    pub sizes: Option<Vec<usize>>,
    /// Resamples and their seed.
    pub bootstrap: Bootstrap,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            baseline: 0,
            judge: Judge::Main,
            estimator: Estimator::Grouped,
            sizes: None,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// What was compared and what came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Number of prompts.
    pub prompts: usize,
    /// Whose rewards choose the best.
    pub judge: Judge,
    /// Resamples of the intervals.
    pub resamples: usize,
    /// Their seed.
    pub bootstrap_seed: u64,
    /// What differs between the evaluations beside the policies.
    pub notes: Vec<String>,
    /// One entry a method, in the order given.
    pub methods: Vec<Summary>,
    /// Best-of-n of every method.
    pub comparison: Comparison,
    /// The held-out judge's view of what the main one picks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Checked>,
}

/// One method in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What tables call it.
    pub label: String,
    /// The policy.
    pub model: String,
    /// Its adapter.
    pub adapter: Option<String>,
    /// `best`, `last` or `step_N`, of a training run.
    pub checkpoint: Option<String>,
    /// Steps trained.
    pub step: Option<u64>,
    /// The advantage rule.
    pub advantage: Option<String>,
    /// Responses a prompt and step (m).
    pub num_generations: Option<usize>,
    /// The deployment budget N that the rule was told.
    pub bon: Option<u64>,
    /// Responses it was trained on in all.
    pub trained_on: Option<u64>,
    /// Responses a prompt in this evaluation.
    pub samples: usize,
    /// Mean reward of all responses.
    pub mean_reward: f64,
    /// Mean length of the responses in tokens.
    pub mean_length: f64,
    /// Share of responses that the length limit cut off.
    pub truncated: f64,
}

/// Best-of-n picked by the main judge, valued by the held-out one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// The held-out judge's values.
    pub comparison: Comparison,
    /// What both judges say of each method at the smallest and the largest n.
    pub verdicts: Vec<Verdict>,
}

/// Both judges on one method at one n.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The method.
    pub label: String,
    /// Responses the best is taken of.
    pub n: usize,
    /// Method − baseline under the main judge.
    pub main: Interval,
    /// Method − baseline under the held-out judge.
    pub held_out: Interval,
    /// In words.
    pub reading: &'static str,
}

/// Compares evaluations of the same prompts.
///
/// # Errors
/// A user error when the prompts differ (naming the first that does; their order may), the judges
/// differ, a size does not divide an evaluation's number of samples, or the second judge is asked
/// for and missing.
pub fn report(entries: &[Entry], options: &Options) -> Result<Report> {
    let Some(baseline) = entries.get(options.baseline) else {
        return Err(Error::user("there is no evaluation to compare with"));
    };
    let (own, moved) = aligned(entries, baseline)?.unzip();
    let entries = own.as_deref().unwrap_or(entries);
    for entry in entries {
        check_judge(baseline, entry, options.judge)?;
    }
    let sizes = sizes(entries, options)?;
    let judged = entries
        .iter()
        .map(|e| e.eval.judged(options.judge, &e.label))
        .collect::<Result<Vec<_>>>()?;
    let curve = |values: &Vec<Vec<f64>>| {
        curve_of(options.estimator, values.len(), &sizes, |p, n| {
            match options.estimator {
                Estimator::Unbiased => unbiased(&values[p], n),
                _ => grouped(&values[p], n),
            }
        })
    };
    let curves = judged
        .iter()
        .zip(entries)
        .map(|(values, e)| Ok((e.label.clone(), curve(values).context(&e.label)?)))
        .collect::<Result<Vec<_>>>()?;
    let name = judge_name(&baseline.eval.meta, options.judge);
    let comparison = compare(name, &curves, options.baseline, &options.bootstrap)?;
    let mut notes = notes(entries);
    notes.extend(moved.unwrap_or_default());
    let held_out = match options.judge {
        Judge::Main => held_out(entries, &comparison, &sizes, options, &mut notes)?,
        Judge::Also => None,
    };
    Ok(Report {
        prompts: baseline.eval.prompts.len(),
        judge: options.judge,
        resamples: options.bootstrap.resamples,
        bootstrap_seed: options.bootstrap.seed,
        notes,
        methods: entries.iter().zip(&judged).map(|(e, r)| summary(e, r)).collect(),
        comparison,
        held_out,
    })
}

fn held_out(
    entries: &[Entry],
    main: &Comparison,
    sizes: &[usize],
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<Option<Checked>> {
    let Some(first) = entries.first().map(|e| &e.eval.meta) else {
        return Ok(None);
    };
    if entries.iter().all(|e| e.eval.meta.also_reward.is_none()) {
        return Ok(None);
    }
    if entries
        .iter()
        .any(|e| !same_judge(first, &e.eval.meta, Judge::Also))
    {
        notes.push("not every evaluation has the same second judge, so there is no held-out table".into());
        return Ok(None);
    }
    // What the main judge picks is picked by groups; sizes that do not divide every sample are left out.
    let whole = |n: &usize| entries.iter().all(|e| e.eval.meta.samples.is_multiple_of(*n));
    let sizes: Vec<usize> = sizes.iter().copied().filter(whole).collect();
    let curve = |e: &Entry| -> Result<(String, Vec<BestOfN>)> {
        let (rewards, also) = (e.eval.rewards(), e.eval.judged(Judge::Also, &e.label)?);
        let one = |p: usize, n: usize| picked(&rewards[p], &also[p], n);
        let curve = curve_of(Estimator::Grouped, rewards.len(), &sizes, one);
        Ok((e.label.clone(), curve.context(&e.label)?))
    };
    let curves = entries.iter().map(curve).collect::<Result<Vec<_>>>()?;
    let comparison = compare(
        judge_name(first, Judge::Also),
        &curves,
        options.baseline,
        &options.bootstrap,
    )?;
    let mut verdicts = Vec::new();
    for method in main.others() {
        let (first, last) = (sizes.first(), sizes.last().filter(|_| sizes.len() > 1));
        for &n in first.into_iter().chain(last) {
            let difference = |c: &Comparison| c.at(&method.label, n).and_then(|row| row.difference);
            if let (Some(main), Some(held_out)) = (difference(main), difference(&comparison)) {
                verdicts.push(Verdict {
                    label: method.label.clone(),
                    n,
                    main,
                    held_out,
                    reading: reading(main, held_out),
                });
            }
        }
    }
    Ok(Some(Checked { comparison, verdicts }))
}

/// What two intervals of differences say together.
fn reading(main: Interval, held_out: Interval) -> &'static str {
    match (main.above(0.0), held_out.above(0.0), held_out.below(0.0)) {
        (true, true, _) => "both rise",
        (true, _, true) => "reward hacking: the held-out reward falls",
        (true, ..) => "the held-out reward does not clearly follow",
        _ if main.below(0.0) => "the main reward falls",
        _ => "no clear difference in the main reward",
    }
}

fn summary(entry: &Entry, rewards: &[Vec<f64>]) -> Summary {
    let meta = &entry.eval.meta;
    let run = meta.run.as_ref();
    let count = rewards.iter().map(Vec::len).sum::<usize>().max(1);
    Summary {
        label: entry.label.clone(),
        model: meta.model.clone(),
        adapter: meta.adapter.clone(),
        checkpoint: run.map(|r| r.checkpoint.clone()),
        step: meta.step,
        advantage: run.map(|r| r.advantage.clone()),
        num_generations: run.map(|r| r.num_generations),
        bon: run.and_then(|r| r.bon),
        trained_on: trained_on(meta),
        samples: meta.samples,
        mean_reward: rewards.iter().flatten().sum::<f64>() / count as f64,
        mean_length: entry.eval.mean_length(),
        truncated: entry.eval.truncated_ratio(),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
