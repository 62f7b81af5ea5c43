//! `diagnose synthetic`: bias, variance and MSE of TEA and Prefix-TEA where the truth is known.

use super::Output;
use crate::advantage::Alpha;
use crate::diagnose::Report;
use crate::diagnose::synthetic::{SyntheticConfig, synthetic};
use crate::error::Result;

/// Bias, variance and mean squared error of TEA and Prefix-TEA on N(0, 1) rewards, against the truth
///
/// Compared: the plug-in estimator of the TEA paper (Eq. 11), cross-fitted Prefix-TEA of order 2 with 2 and 3 prefixes (its bias
/// Rao-Blackwellised), and TEA as it trains (positive part, centred). One or two minutes on two cores.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose synthetic --output diag
  tea-wgpu diagnose synthetic --quick --sizes 256,1024
  tea-wgpu diagnose synthetic --replicates 400000 --seed 2 --output diag-long

Writes synthetic.json, synthetic_bias.svg/.png and synthetic_mse.svg/.png.")]
pub(super) struct Args {
    /// Tail share α, also as a fraction
    #[arg(long, default_value = "0.1")]
    alpha: Alpha,
    /// Deployment budget N
    #[arg(long, value_name = "N", default_value_t = 128)]
    bon: u64,
    /// Group sizes m
    #[arg(
        long,
        value_name = "M,…",
        value_delimiter = ',',
        default_value = "256,512,1024,2048,4096"
    )]
    sizes: Vec<usize>,
    /// Groups simulated at each size (default 40000)
    #[arg(long, value_name = "GROUPS")]
    replicates: Option<u64>,
    /// 2000 groups at each size: seconds, and coarse
    #[arg(long, conflicts_with = "replicates")]
    quick: bool,
    /// Seed: the same one gives the same numbers on any number of cores
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

impl Args {
    pub(super) fn run(&self) -> Result<()> {
        let found = synthetic(&SyntheticConfig {
            alpha: self.alpha,
            bon: self.bon,
            sizes: self.sizes.clone(),
            replicates: self.replicates.unwrap_or(if self.quick { 2_000 } else { 40_000 }),
            seed: self.seed,
        })?;
        let report = Report {
            name: "synthetic",
            value: &found,
            plots: found.plots(),
        };
        self.output.finish(&report, &found.table(), &found.notes())
    }
}
