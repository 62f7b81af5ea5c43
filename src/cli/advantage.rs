//! `advantage`: rewards in, advantages out, for any trainer.

use std::path::PathBuf;

use super::common::Lines;
use crate::advantage::records::{self, GroupRecord};
use crate::advantage::{Rule, RuleOptions};
use crate::config::ScaleAdvantages;
use crate::data::Input;
use crate::data::record::read_placed;
use crate::error::Result;

/// Print the advantages that a rule gives to groups of rewards
///
/// One line a group: the rewards of one prompt's responses, in the order they were sampled. Settings that the rule does
/// not have are left aside.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"id\": \"a\", \"rewards\": [0.1, 0.9, 0.4, 0.7]}' | tea-wgpu advantage --rule tea --input -
  tea-wgpu advantage --rule prefix-tea --alpha 1/4 --bon 256 --input rewards.jsonl --output advantages.jsonl
  tea-wgpu advantage --rule chow --seed 7 --input rewards.jsonl
      a random split a line; \"selection\": [0, 2] in a line fixes its split

Results: {\"id\", \"advantages\", \"tail\": {q, mu, sigma, kappa, predicted_bon}}; \"tail\" only for rules that have one")]
pub(crate) struct Args {
    /// Rule
    #[arg(long, value_enum)]
    rule: Rule,
    #[command(flatten)]
    options: RuleOptions,
    /// Divide advantages by the root mean square of their group, or of all groups of the input
    #[arg(long, value_enum, default_value_t = ScaleAdvantages::None)]
    scale_advantages: ScaleAdvantages,
    /// Seed of chow's random splits
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rows (JSON Lines, JSON, CSV, Parquet) of {"id", "rewards": […], "selection"?: […]}; - reads standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the lines go (default: standard output)
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rule = args.rule.with(&args.options);
    let groups = read_placed::<GroupRecord>(Input::open(&args.input)?)?;
    let lines = records::advantages(&rule, args.scale_advantages, args.seed, &groups)?;
    let silent = lines.iter().filter(|line| line.no_signal).count();
    if silent > 0 {
        log::warn!(
            "{silent} of {} groups give no signal under {rule}: every advantage is 0",
            lines.len()
        );
    }
    let fallen = lines
        .iter()
        .filter(|line| line.gaussian_tail == Some(true))
        .count();
    if fallen > 0 {
        log::warn!(
            "{fallen} of {} groups fell back to the Gaussian tail under {rule}: fewer than 3 rewards above the threshold, or no tail \
             shape that fits; their advantages are tea's",
            lines.len()
        );
    }
    let mut out = Lines::new();
    for line in &lines {
        out.push(line)?;
    }
    out.finish(args.output.as_deref())
}
