//! `diagnose laws`: TEA, TEA-GPD and GRPO against the true gradient of best-of-N on known reward laws.

use super::Output;
use crate::advantage::Alpha;
use crate::diagnose::Report;
use crate::diagnose::laws::{Law, LawsConfig, laws};
use crate::error::Result;

/// How well TEA, TEA-GPD and GRPO point along the true gradient of best-of-N on known reward laws
///
/// Cosines are those of the mean estimate of 1, 8 and 64 groups, in root mean square, and their limit.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose laws --output diag
  tea-wgpu diagnose laws --law student,uniform --sizes 64 --bon 1000 --draws 400000

Writes laws.json and laws_LAW.svg/.png for every law.")]
pub(super) struct Args {
    /// Laws (default: all)
    #[arg(long = "law", value_enum, value_name = "LAW,…", value_delimiter = ',')]
    laws: Vec<Law>,
    /// Group sizes m
    #[arg(
        long,
        value_name = "M,…",
        value_delimiter = ',',
        default_value = "16,64,256,1024"
    )]
    sizes: Vec<usize>,
    /// Tail share α, also as a fraction
    #[arg(long, default_value = "0.2")]
    alpha: Alpha,
    /// Deployment budget N
    #[arg(long, value_name = "N", default_value_t = 128)]
    bon: u64,
    /// Rewards drawn for each law and size (at most 40000 groups)
    #[arg(long, default_value_t = 4_000_000)]
    draws: u64,
    /// Seed: the same one gives the same numbers on any number of cores
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

impl Args {
    pub(super) fn run(&self) -> Result<()> {
        let found = laws(&LawsConfig {
            laws: if self.laws.is_empty() {
                Law::ALL.to_vec()
            } else {
                self.laws.clone()
            },
            sizes: self.sizes.clone(),
            alpha: self.alpha,
            bon: self.bon,
            draws: self.draws,
            seed: self.seed,
        })?;
        let report = Report {
            name: "laws",
            value: &found,
            plots: found.plots(),
        };
        self.output.finish(&report, &found.table(), &[])
    }
}
