//! `compare`: evaluations of the same prompts against one another.

use std::path::PathBuf;

use super::common::Lines;
use crate::error::{Error, Result};
use crate::eval::compare::{Options, read_entries, report};
use crate::eval::{Bootstrap, Estimator, Judge};
use crate::report::Format;
use crate::run::{Dir, kinds};

/// Compare evaluations: best-of-n, paired differences, win/tie/loss, and the frontier plot
///
/// All must be of the same prompts, which are paired by what they say, in any order. Intervals are
/// 95% percentiles of a bootstrap over prompts (none for a single prompt), every method on the same
/// resamples. Where evaluations have a second reward, its value of what the first one picks is
/// shown too: the first up and the second down is reward hacking.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu compare runs/eval-base runs/eval-grpo runs/eval-tea --output runs/compare
  tea-wgpu compare runs/eval-base runs/eval-tea --baseline runs/eval-base --label eval-tea=TEA --format csv
  tea-wgpu compare runs/eval-step-50 runs/eval-step-100 runs/eval-best
      checkpoints of one run, fixed and selected
  tea-wgpu compare runs/eval-tea-m16 runs/eval-grpo-m64 --n 1,64,256
      a baseline trained with more compute: the responses each was trained on are said")]
pub(crate) struct Args {
    /// Evaluation directories, as `eval --output` makes them
    #[arg(value_name = "EVAL", num_args = 2.., required = true)]
    evals: Vec<PathBuf>,
    /// The one that the others are measured against, by directory or label (default: the first)
    #[arg(long, value_name = "EVAL")]
    baseline: Option<String>,
    /// Whose rewards choose and value the best: --reward-model's or --also-reward's
    #[arg(long, value_enum, default_value_t = Judge::Main)]
    reward: Judge,
    /// Sizes n, separated by commas (default: the powers of two that divide every evaluation's samples)
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    n: Option<Vec<usize>>,
    /// grouped: mean over consecutive groups of n; unbiased: mean over all subsets of n
    #[arg(long, value_parser = ["grouped", "unbiased"], default_value = "grouped")]
    estimator: String,
    /// Resamples of prompts
    #[arg(long, default_value_t = 1000)]
    resamples: usize,
    /// Seed of the resamples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
    /// Directory for compare.md, .csv, .json and frontier.svg, .png
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// A name for an evaluation in tables and plots: EVAL=NAME (may be repeated)
    #[arg(long, value_name = "EVAL=NAME")]
    label: Vec<String>,
}

/// Splits `EVAL=NAME` at the first `=` that has one of the evaluations before it: both sides may hold more of them.
fn label(text: &str, evals: &[PathBuf]) -> Result<(String, String)> {
    let is_eval = |of: &str| !of.is_empty() && evals.iter().any(|dir| dir.ends_with(of));
    let mut splits = text
        .match_indices('=')
        .map(|(at, _)| (&text[..at], &text[at + 1..]));
    let found = splits
        .clone()
        .find(|(of, _)| is_eval(of))
        .or_else(|| splits.next());
    match found {
        Some((of, name)) if !name.is_empty() => Ok((of.to_string(), name.to_string())),
        _ => Err(Error::user(format!(
            "--label {text}: write it as EVAL=NAME, with a directory that is compared"
        ))),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let labels = args
        .label
        .iter()
        .map(|text| label(text, &args.evals))
        .collect::<Result<Vec<_>>>()?;
    let entries = read_entries(&args.evals, &labels)?;
    let baseline = match &args.baseline {
        None => 0,
        Some(name) => {
            let trimmed = PathBuf::from(name);
            let is_it = |i: usize| entries[i].label == *name || args.evals[i] == trimmed;
            (0..entries.len()).find(|&i| is_it(i)).ok_or_else(|| {
                let labels: Vec<&str> = entries.iter().map(|e| e.label.as_str()).collect();
                Error::user(format!(
                    "--baseline {name} is none of the evaluations; choose one of {}",
                    labels.join(", ")
                ))
            })?
        }
    };
    let options = Options {
        baseline,
        judge: args.reward,
        estimator: match args.estimator.as_str() {
            "unbiased" => Estimator::Unbiased,
            _ => Estimator::Grouped,
        },
        sizes: args.n.clone(),
        bootstrap: Bootstrap {
            seed: args.seed,
            resamples: args.resamples,
            ..Bootstrap::default()
        },
    };
    let report = report(&entries, &options)?;
    if let Some(dir) = &args.output {
        let held = Dir::hold(dir, &kinds::COMPARE)?;
        held.begin()?;
        report.write(dir)?;
    }
    let mut out = Lines::new();
    out.text(report.render(args.format)?.trim_end());
    out.finish_beside(args.output.as_deref())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_label_may_hold_equal_signs() {
        let evals = ["runs/base", "runs/lr=1/eval"].map(PathBuf::from);
        let split = |text: &str| label(text, &evals).unwrap();
        let pair = |of: &str, name: &str| (of.to_string(), name.to_string());
        assert_eq!(split("base=m = 16"), pair("base", "m = 16"));
        assert_eq!(split("runs/lr=1/eval=N=2"), pair("runs/lr=1/eval", "N=2"));
        // No evaluation: the message of the reader names it.
        assert_eq!(split("x=y"), pair("x", "y"));
        assert!(label("base", &evals).is_err() && label("base=", &evals).is_err());
    }
}
