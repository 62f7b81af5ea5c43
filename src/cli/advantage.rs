//! `advantage`: rewards in, advantages out, for any trainer.

use std::path::PathBuf;

use super::common::Lines;
use crate::advantage::records::{self, GroupRecord};
use crate::advantage::{Alpha, Rule, RuleOptions};
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
    /// Tail share α in (0, 1/2], also as a fraction such as 1/5 (default 0.2; tea, prefix-tea, tea-gpd)
    #[arg(long)]
    alpha: Option<Alpha>,
    /// Deployment budget N (default 128; for cat-bon the group size)
    #[arg(long, value_name = "N")]
    bon: Option<u64>,
    /// Lower bound of the tail's standard deviation (default 1e-8; tea, prefix-tea, tea-gpd)
    #[arg(long)]
    min_scale: Option<f64>,
    /// Order p of prefix-tea (default 2)
    #[arg(long, value_name = "P")]
    prefix_order: Option<usize>,
    /// Number of prefixes J of prefix-tea, at least the order (default 2)
    #[arg(long, value_name = "J")]
    prefixes: Option<usize>,
    /// Subset size K of bon-mean, pkpo and max-at-k (default: half the group)
    #[arg(long, value_name = "K")]
    max_at_k: Option<usize>,
    /// Size of chow's selection set (default: half the group)
    #[arg(long, value_name = "SIZE")]
    selection_size: Option<usize>,
    /// How many tail samples the Gaussian shape weighs in tea-gpd's fit (default 20; 0 trusts the fit)
    #[arg(long, value_name = "SAMPLES")]
    gpd_shrinkage: Option<f64>,
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
    let rule = args.rule.with(&RuleOptions {
        alpha: args.alpha,
        bon: args.bon,
        min_scale: args.min_scale,
        prefix_order: args.prefix_order,
        prefixes: args.prefixes,
        max_at_k: args.max_at_k,
        selection_size: args.selection_size,
        gpd_shrinkage: args.gpd_shrinkage,
    });
    let groups = read_placed::<GroupRecord>(Input::open(&args.input)?)?;
    let lines = records::advantages(&rule, args.seed, &groups)?;
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
