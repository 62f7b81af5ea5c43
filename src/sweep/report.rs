//! What a sweep found: seeds averaged, methods compared, paired by prompt.
//!
//! A method's value for a prompt at n is the mean over its seeds of the grouped best-of-n (TEA, arXiv 2605.10716, §5); intervals
//! and wins are over prompts, on these means. The spread over seeds stands beside them: it is the part of the
//! uncertainty that a bootstrap over prompts cannot see.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::{BASE, Method, Sweep};
use super::run::{Outcome, SweepDir, eval_names};
use crate::error::{Context, Error, Result};
use crate::eval::best_of_n::picked;
use crate::eval::bootstrap::win_tie_loss;
use crate::eval::compare::{self, save_plot};
use crate::eval::{Bootstrap, Interval, StoredEval, WinTieLoss, powers_of_two};
use crate::file::dirs;
use crate::model::save::write_atomic;
use crate::report::read_metrics;

/// Everything that table.json holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The format's version.
    pub version: u32,
    /// Prompts evaluated.
    pub num_prompts: usize,
    /// Responses a prompt.
    pub samples: usize,
    /// The method that the others are compared with, beside the base policy.
    pub baseline: Option<String>,
    /// One entry a judge: the one trained with, then the held-out one.
    pub judges: Vec<Judged>,
    /// What differs between the evaluations beside the policies.
    pub notes: Vec<String>,
    /// What failed, and so is missing above.
    pub failed: Vec<String>,
}

/// All methods under one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The judge.
    pub reward: String,
    /// The base policy, then the methods in the file's order; the last checkpoint before the best.
    pub policies: Vec<Policy>,
}

/// A method's checkpoints of all its seeds, as one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// The method, or `base`.
    pub method: String,
    /// `last`, `best`, or nothing for the base policy.
    pub checkpoint: Option<&'static str>,
    /// The seeds that were evaluated.
    pub seeds: Vec<u64>,
    /// The seeds that failed, and so are not among them.
    pub missing_seeds: Vec<u64>,
    /// One row a size, ascending.
    pub rows: Vec<Row>,
    /// Mean length of a response in tokens.
    pub mean_length: f64,
    /// Share of responses that the length limit cut off.
    pub truncated: f64,
    /// Seconds of training a run, validation included.
    pub train_seconds: Option<f64>,
}

/// Best-of-n at one n.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Responses the best is taken of.
    pub n: usize,
    /// Mean over prompts and seeds, with its interval over prompts.
    pub mean: Interval,
    /// Mean over prompts of every seed.
    pub seed_means: Vec<f64>,
    /// Standard deviation of these (n − 1), where there are two or more.
    pub seed_sd: Option<f64>,
    /// Against the base policy.
    pub vs_base: Option<Versus>,
    /// Against the baseline's checkpoint of the same kind.
    pub vs_baseline: Option<Versus>,
}

/// A paired comparison over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Versus {
    /// This − the other.
    pub difference: Interval,
    /// Prompt by prompt.
    pub outcome: WinTieLoss,
}

/// A method's evaluations of one kind of checkpoint.
struct Group {
    method: String,
    checkpoint: Option<&'static str>,
    seeds: Vec<u64>,
    missing: Vec<u64>,
    evals: Vec<StoredEval>,
    seconds: Option<f64>,
}

/// Writes table.md, table.csv, table.json and the frontier plots.
///
/// # Errors
/// The base policy's evaluation is missing, evaluations of other prompts, or a file that cannot be written.
pub fn write(sweep: &Sweep, output: &SweepDir, outcome: &Outcome, bootstrap: &Bootstrap) -> Result<Report> {
    let groups = read(sweep, output, outcome)?;
    let notes = every_run(sweep, output, outcome, bootstrap)?;
    let failed = outcome.failed().into_iter().map(|j| {
        let error = j.error.as_deref().unwrap_or("");
        format!("{}: {error}", j.job)
    });
    let report = Report {
        notes,
        failed: failed.collect(),
        ..Report::of(&groups, sweep.baseline.as_deref(), bootstrap)?
    };
    let file = |name: &str| output.root.join(name);
    let json = serde_json::to_string_pretty(&report).map_err(Error::internal)? + "\n";
    write_atomic(&file("table.json"), json.as_bytes())?;
    write_atomic(&file("table.csv"), report.long().csv().as_bytes())?;
    write_atomic(&file("table.md"), report.markdown().as_bytes())?;
    for (i, judged) in report.judges.iter().enumerate() {
        for kind in ["last", "best"] {
            if let Some(plot) = judged.frontier(kind) {
                let judge = if i == 0 { "" } else { "-also" };
                let best = if kind == "best" { "-best" } else { "" };
                save_plot(&plot, &output.root, &format!("frontier{judge}{best}"))?;
            }
        }
    }
    Ok(report)
}

/// Every run by itself against the base policy, as `compare` writes it, in `compare/`; returns what differs beside the
/// policies.
fn every_run(
    sweep: &Sweep,
    output: &SweepDir,
    outcome: &Outcome,
    bootstrap: &Bootstrap,
) -> Result<Vec<String>> {
    let names = sweep.runs().flat_map(eval_names).map(|(name, _)| name);
    let dirs: Vec<PathBuf> = std::iter::once(BASE.to_string())
        .chain(names.filter(|name| outcome.has_eval(name)))
        .map(|name| output.eval(&name))
        .collect();
    let options = compare::Options {
        bootstrap: *bootstrap,
        ..compare::Options::default()
    };
    let dir = output.root.join("compare");
    dirs::make(&dir)?;
    let entries = compare::read_entries(&dirs, &[])?;
    compare::report(&entries, &options)?.write(&dir)?;
    Ok(compare::differences(&entries))
}

/// The evaluations of this sweep: the base policy's first.
fn read(sweep: &Sweep, output: &SweepDir, outcome: &Outcome) -> Result<Vec<Group>> {
    let base = StoredEval::read(&output.eval(BASE)).context("the base policy's evaluation")?;
    let mut groups = vec![Group {
        method: BASE.into(),
        checkpoint: None,
        seeds: Vec::new(),
        missing: Vec::new(),
        evals: vec![base],
        seconds: None,
    }];
    for method in &sweep.methods {
        for kind in ["last", "best"] {
            let group = group(method, kind, output, outcome)?;
            if !group.evals.is_empty() {
                groups.push(group);
            }
        }
    }
    let keys = |e: &StoredEval| e.prompts.iter().map(|p| p.key.clone()).collect::<Vec<_>>();
    let want = keys(&groups[0].evals[0]);
    let samples = groups[0].evals[0].meta.samples;
    for group in &groups {
        for eval in &group.evals {
            if keys(eval) != want || eval.meta.samples != samples {
                return Err(Error::user(format!(
                    "an evaluation of {} has other prompts or another number of samples than the base policy's: remove the \
                     sweep's evals/ directory and run the sweep again",
                    group.method
                )));
            }
        }
    }
    Ok(groups)
}

/// A method's evaluations that this sweep made or found finished. A directory alone says nothing: it may be left from before
/// a run that failed now.
fn group(method: &Method, kind: &'static str, output: &SweepDir, outcome: &Outcome) -> Result<Group> {
    let (mut seeds, mut evals, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    let mut missing = Vec::new();
    for run in &method.runs {
        let Some((name, _)) = eval_names(run).into_iter().find(|(_, k)| *k == kind) else {
            continue;
        };
        if !outcome.has_eval(&name) {
            missing.push(run.seed);
            continue;
        }
        evals.push(StoredEval::read(&output.eval(&name))?);
        seeds.push(run.seed);
        seconds.extend(train_seconds(&output.run(&run.name))?);
    }
    Ok(Group {
        method: method.name.clone(),
        checkpoint: Some(kind),
        seeds,
        missing,
        evals,
        seconds: (!seconds.is_empty()).then(|| mean(&seconds)),
    })
}

/// Seconds that the steps and validations of a run took.
fn train_seconds(dir: &Path) -> Result<Option<f64>> {
    let path = dir.join("metrics.jsonl");
    if !path.exists() {
        return Ok(None);
    }
    let number = |r: &crate::report::Record, name: &str| r.get(name).and_then(serde_json::Value::as_f64);
    let records = read_metrics(&path)?;
    let each = records
        .iter()
        .map(|r| number(r, "step_time").unwrap_or(0.0) + number(r, "time/validation").unwrap_or(0.0));
    Ok(Some(each.sum()))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation with n − 1.
fn sample_sd(values: &[f64]) -> Option<f64> {
    let m = mean(values);
    let squares: f64 = values.iter().map(|v| (v - m).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Best-of-n of every seed: `[seed][size][prompt]`.
type Values = Vec<Vec<Vec<f64>>>;

/// Mean over seeds, at one size: (P,).
fn over_seeds(values: &Values, size: usize) -> Vec<f64> {
    let prompts = values.first().map_or(0, |v| v[size].len());
    (0..prompts)
        .map(|p| values.iter().map(|v| v[size][p]).sum::<f64>() / values.len() as f64)
        .collect()
}

impl Report {
    fn of(groups: &[Group], baseline: Option<&str>, bootstrap: &Bootstrap) -> Result<Self> {
        let meta = &groups[0].evals[0].meta;
        let sizes: Vec<usize> = powers_of_two(meta.samples)
            .into_iter()
            .filter(|n| meta.samples.is_multiple_of(*n))
            .collect();
        let main = |e: &StoredEval| per_prompt(&e.rewards(), &e.rewards(), &sizes);
        let mut judges = vec![judge(
            groups,
            baseline,
            &meta.reward_model,
            &sizes,
            bootstrap,
            &main,
        )?];
        if let Some(also) = &meta.also_reward {
            let picked = |e: &StoredEval| {
                let values = e.also_rewards().ok_or_else(|| {
                    Error::user(format!(
                        "an evaluation has no rewards of {also}: remove the sweep's evals/ directory"
                    ))
                })?;
                per_prompt(&e.rewards(), &values, &sizes)
            };
            judges.push(judge(groups, baseline, also, &sizes, bootstrap, &picked)?);
        }
        Ok(Self {
            version: 1,
            num_prompts: meta.num_prompts,
            samples: meta.samples,
            baseline: baseline.map(str::to_string),
            judges,
            notes: Vec::new(),
            failed: Vec::new(),
        })
    }
}

/// `[size][prompt]`: the `values` of what best-of-n picks by `rewards`, both `[prompt][sample]`.
fn per_prompt(rewards: &[Vec<f64>], values: &[Vec<f64>], sizes: &[usize]) -> Result<Vec<Vec<f64>>> {
    let at = |n: &usize| {
        let prompts = rewards.iter().zip(values);
        prompts.map(|(r, v)| picked(r, v, *n)).collect()
    };
    sizes.iter().map(at).collect()
}

/// All groups under one judge; `values` gives an evaluation's best of n, `[size][prompt]`.
fn judge(
    groups: &[Group],
    baseline: Option<&str>,
    reward: &str,
    sizes: &[usize],
    bootstrap: &Bootstrap,
    values: &dyn Fn(&StoredEval) -> Result<Vec<Vec<f64>>>,
) -> Result<Judged> {
    let values = |g: &Group| -> Result<Values> { g.evals.iter().map(values).collect() };
    let all: Vec<Values> = groups.iter().map(values).collect::<Result<_>>()?;
    let find = |method: &str, checkpoint: Option<&str>| {
        groups
            .iter()
            .position(|g| g.method == method && g.checkpoint == checkpoint)
    };
    let policy = |(g, own): (&Group, &Values)| -> Result<Policy> {
        // A baseline without selection is its last checkpoint beside every kind.
        let other = baseline.and_then(|b| find(b, g.checkpoint).or_else(|| find(b, Some("last"))));
        let other = other.map(|i| &all[i]).filter(|_| g.checkpoint.is_some());
        let base = g.checkpoint.map(|_| &all[0]);
        let row = |(at, n): (usize, &usize)| {
            let mine = over_seeds(own, at);
            let versus = |them: Option<&Values>| {
                them.map(|v| {
                    let theirs = over_seeds(v, at);
                    Ok(Versus {
                        difference: bootstrap.paired_difference(&mine, &theirs)?,
                        outcome: win_tie_loss(&mine, &theirs)?,
                    })
                })
                .transpose()
            };
            let seed_means: Vec<f64> = own.iter().map(|v| mean(&v[at])).collect();
            Ok(Row {
                n: *n,
                mean: bootstrap.mean(&mine)?,
                seed_sd: sample_sd(&seed_means),
                seed_means,
                vs_base: versus(base)?,
                vs_baseline: versus(other.filter(|v| !std::ptr::eq(*v, own)))?,
            })
        };
        let average = |f: fn(&StoredEval) -> f64| mean(&g.evals.iter().map(f).collect::<Vec<_>>());
        Ok(Policy {
            method: g.method.clone(),
            checkpoint: g.checkpoint,
            seeds: g.seeds.clone(),
            missing_seeds: g.missing.clone(),
            rows: sizes.iter().enumerate().map(row).collect::<Result<_>>()?,
            mean_length: average(StoredEval::mean_length),
            truncated: average(StoredEval::truncated_ratio),
            train_seconds: g.seconds,
        })
    };
    Ok(Judged {
        reward: reward.to_string(),
        policies: groups.iter().zip(&all).map(policy).collect::<Result<_>>()?,
    })
}
