//! What evaluations must have in common to be compared, what they are called, and what differs between them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::report::{Entry, Options};
use crate::error::{Error, Result};
use crate::eval::best_of_n::{Estimator, powers_of_two};
use crate::eval::pairing;
use crate::eval::store::{EvalMeta, Judge, StoredEval};

/// Reads evaluations. A label is the end of the path that tells it from the others, unless `labels` has another for the
/// path or that end.
///
/// # Errors
/// As [`StoredEval::read`]; the same directory twice, two equal labels, or a label for no evaluation.
pub fn read_entries(dirs: &[PathBuf], labels: &[(String, String)]) -> Result<Vec<Entry>> {
    let mut names = short_names(dirs)?;
    for (of, label) in labels {
        let is_meant = |(i, dir): (usize, &PathBuf)| dir == Path::new(of) || names[i] == *of;
        let Some(at) = dirs.iter().enumerate().position(is_meant) else {
            return Err(Error::user(format!(
                "--label {of}={label}: {of} is none of the evaluations; use one of {}",
                names.join(", ")
            )));
        };
        names[at] = label.clone();
    }
    if let Some((a, _)) = names
        .iter()
        .enumerate()
        .find(|(i, name)| names[..*i].contains(name))
    {
        return Err(Error::user(format!(
            "two evaluations are labelled {}; give them different labels",
            names[a]
        )));
    }
    let entry = |(dir, label): (&PathBuf, String)| {
        Ok(Entry {
            label,
            eval: StoredEval::read(dir)?,
        })
    };
    dirs.iter().zip(names).map(entry).collect()
}

/// The fewest last components of the paths that tell them apart.
pub(super) fn short_names(dirs: &[PathBuf]) -> Result<Vec<String>> {
    let parts: Vec<Vec<String>> = dirs
        .iter()
        .map(|dir| {
            let names = dir.components().filter_map(|c| match c {
                std::path::Component::CurDir | std::path::Component::RootDir => None,
                other => Some(other.as_os_str().to_string_lossy().into_owned()),
            });
            names.collect()
        })
        .collect();
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    for count in 1..=longest.max(1) {
        let names: Vec<String> = parts
            .iter()
            .map(|p| p[p.len().saturating_sub(count)..].join("/"))
            .collect();
        if names
            .iter()
            .enumerate()
            .all(|(i, name)| !names[..i].contains(name))
        {
            return Ok(names);
        }
    }
    Err(Error::user(
        "the same evaluation is given twice; compare different directories",
    ))
}

/// The entries with their prompts in the order of the baseline's, and what is said of those that
/// had another; `None` where none had.
pub(super) fn aligned(entries: &[Entry], baseline: &Entry) -> Result<Option<(Vec<Entry>, Vec<String>)>> {
    let base = (baseline.label.as_str(), &baseline.eval);
    let all = entries
        .iter()
        .map(|e| pairing::aligned(base, (&e.label, &e.eval)))
        .collect::<Result<Vec<_>>>()?;
    let moved: Vec<String> = entries
        .iter()
        .zip(&all)
        .filter(|(_, eval)| matches!(eval, Cow::Owned(_)))
        .map(|(e, _)| {
            format!(
                "{} has the prompts in another order than {}: they are paired by what they say, and were sampled with \
                 independent random numbers",
                e.label, baseline.label
            )
        })
        .collect();
    let entry = |(e, eval): (&Entry, Cow<'_, StoredEval>)| Entry {
        label: e.label.clone(),
        eval: eval.into_owned(),
    };
    Ok((!moved.is_empty()).then(|| (entries.iter().zip(all).map(entry).collect(), moved)))
}

/// A judge's name.
pub(super) fn judge_name(meta: &EvalMeta, judge: Judge) -> &str {
    match judge {
        Judge::Main => &meta.reward_model,
        Judge::Also => meta.also_reward.as_deref().unwrap_or("none"),
    }
}

/// The judge with its adapter, and the fields that name them.
pub(super) fn judge_of(meta: &EvalMeta, judge: Judge) -> [(&'static str, Option<&str>); 2] {
    let (fields, adapter) = match judge {
        Judge::Main => (["reward_model", "reward_adapter"], &meta.reward_adapter),
        Judge::Also => (["also_reward", "also_reward_adapter"], &meta.also_reward_adapter),
    };
    [
        (fields[0], Some(judge_name(meta, judge))),
        (fields[1], adapter.as_deref()),
    ]
}

/// Whether it is the same judge: of the same name and adapter, and of the same weights as far as is known.
pub(super) fn same_judge(a: &EvalMeta, b: &EvalMeta, judge: Judge) -> bool {
    judge_of(a, judge) == judge_of(b, judge) && changed_weights(a, b, judge).is_none()
}

/// What both name, with other weights under that name.
fn changed_weights<'a>(a: &'a EvalMeta, b: &EvalMeta, judge: Judge) -> Option<&'a str> {
    judge_of(a, judge).into_iter().find_map(|(field, name)| {
        let (a, b) = a.sha256(field).zip(b.sha256(field))?;
        name.filter(|_| a != b)
    })
}

pub(super) fn check_judge(base: &Entry, other: &Entry, judge: Judge) -> Result<()> {
    let shown = |meta| match judge_of(meta, judge).map(|(_, name)| name.unwrap_or_default()) {
        [name, ""] => name.to_string(),
        [name, adapter] => format!("{name} with {adapter}"),
    };
    let (a, b) = (&base.eval.meta, &other.eval.meta);
    if same_judge(a, b, judge) {
        return Ok(());
    }
    let differ = match changed_weights(a, b, judge).filter(|_| shown(a) == shown(b)) {
        Some(name) => format!(
            "{} and {} were judged by {name}, whose weights were changed in between",
            base.label, other.label
        ),
        None => format!(
            "{} was judged by {} and {} by {}",
            base.label,
            shown(a),
            other.label,
            shown(b)
        ),
    };
    Err(Error::user(format!(
        "{differ}: their rewards are not on one scale; evaluate both with the same judge"
    )))
}

pub(super) fn sizes(entries: &[Entry], options: &Options) -> Result<Vec<usize>> {
    let samples = || entries.iter().map(|e| (&e.label, e.eval.meta.samples));
    let Some(asked) = &options.sizes else {
        let least = samples().map(|(_, n)| n).min().unwrap_or(0);
        let mut sizes = powers_of_two(least);
        if options.estimator == Estimator::Grouped {
            sizes.retain(|n| samples().all(|(_, total)| total.is_multiple_of(*n)));
        }
        return Ok(sizes);
    };
    let mut sizes = asked.clone();
    sizes.sort_unstable();
    sizes.dedup();
    for (n, (label, total)) in sizes.iter().flat_map(|n| samples().map(move |s| (*n, s))) {
        let fits = n > 0
            && match options.estimator {
                Estimator::Unbiased => n <= total,
                _ => total.is_multiple_of(n),
            };
        if !fits {
            let why = match options.estimator {
                _ if n == 0 => "best of none is nothing; give n of at least 1".to_string(),
                Estimator::Unbiased => format!("choose n up to {total}, or evaluate with more --samples"),
                _ => format!(
                    "which {n} does not divide; choose divisors of every evaluation's number of samples, or --estimator unbiased \
                     for any n up to it"
                ),
            };
            return Err(Error::user(format!(
                "--n {n}: {label} has {total} samples a prompt; {why}"
            )));
        }
    }
    if sizes.is_empty() {
        return Err(Error::user("--n needs at least one size"));
    }
    Ok(sizes)
}

/// What differs beside the policies, in words: how they were sampled and judged, and how much they were trained.
pub(super) fn notes(entries: &[Entry]) -> Vec<String> {
    let mut notes = differences(entries);
    let known: Vec<(&str, u64)> = entries
        .iter()
        .filter_map(|e| Some((e.label.as_str(), trained_on(&e.eval.meta)?)))
        .collect();
    if known.iter().any(|(_, n)| *n != known[0].1) {
        let list: Vec<String> = known.iter().map(|(label, n)| format!("{label} {n}")).collect();
        notes.push(format!(
            "training compute is unmatched: responses trained on: {}",
            list.join(", ")
        ));
    }
    notes
}

/// What differs in how evaluations were sampled and judged, in words.
pub fn differences(entries: &[Entry]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut differs = |what: &str, value: &dyn Fn(&EvalMeta) -> String, comment: &str| {
        let values: Vec<String> = entries.iter().map(|e| value(&e.eval.meta)).collect();
        if values.iter().any(|v| *v != values[0]) {
            let list: Vec<String> = entries
                .iter()
                .zip(&values)
                .map(|(e, v)| format!("{} {v}", e.label))
                .collect();
            notes.push(format!("{what} differs ({}){comment}", list.join(", ")));
        }
    };
    differs(
        "the seed of the samples",
        &|m| m.seed.to_string(),
        ": the methods were sampled with independent random numbers",
    );
    differs(
        "the number of samples",
        &|m| m.samples.to_string(),
        ": values of fewer samples are noisier",
    );
    let unfair = ": the methods were not sampled alike";
    differs("the temperature", &|m| m.temperature.to_string(), unfair);
    differs("top-p", &|m| m.top_p.to_string(), unfair);
    differs("top-k", &|m| m.top_k.to_string(), unfair);
    differs("min-p", &|m| m.min_p.to_string(), unfair);
    differs(
        "the longest completion",
        &|m| m.max_completion_length.to_string(),
        unfair,
    );
    differs("--raw", &|m| m.raw.to_string(), unfair);
    differs(
        "the template's date",
        &|m| m.template_date.clone().unwrap_or_default(),
        unfair,
    );
    let dtype = |of: &Option<String>| of.clone().unwrap_or_else(|| "as stored or unknown".into());
    differs(
        "the policy's element type",
        &|m| dtype(&m.base_dtype),
        ": the methods' weights are not rounded alike",
    );
    differs(
        "--matmul-precision",
        &|m| m.matmul_precision.to_string(),
        ": the methods' products are not rounded alike, nor their judges'",
    );
    differs("--kv-cache-dtype", &|m| m.kv_cache_dtype.to_string(), unfair);
    let rounded = ": rewards of unequally rounded judges are not quite on one scale";
    differs("the judge's element type", &|m| dtype(&m.reward_dtype), rounded);
    differs(
        "the second judge's element type",
        &|m| dtype(&m.also_reward_dtype),
        rounded,
    );
    notes
}

/// Responses that a policy was trained on: steps × prompts × m.
pub(super) fn trained_on(meta: &EvalMeta) -> Option<u64> {
    let run = meta.run.as_ref()?;
    Some(meta.step? * (run.prompts_per_step * run.num_generations) as u64)
}
