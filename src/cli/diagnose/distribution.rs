//! `diagnose distribution`: reward densities of several evaluations on one grid.

use std::path::PathBuf;

use super::Output;
use crate::diagnose::Report;
use crate::diagnose::distribution::{DistributionConfig, distribution};
use crate::diagnose::input::Rewards;
use crate::error::Result;

/// Smoothed reward distributions of several evaluations of the same prompts, on one grid
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose distribution eval-base eval-grpo eval-tea --output diag
  tea-wgpu diagnose distribution a.jsonl b.jsonl --bandwidth 0.05

Writes distribution.json (grid and densities) and distribution.svg/.png.")]
pub(super) struct Args {
    /// Evaluation directories, or files of {"id", "rewards"} (JSON Lines, JSON, CSV, Parquet)
    #[arg(required = true, value_name = "EVAL")]
    evals: Vec<PathBuf>,
    /// Width of the Gaussian kernel in reward units (default: Silverman's rule, the widest of the evaluations)
    #[arg(long, value_name = "WIDTH")]
    bandwidth: Option<f64>,
    /// Points of the grid
    #[arg(long, default_value_t = 256)]
    points: usize,
    #[command(flatten)]
    output: Output,
}

impl Args {
    pub(super) fn run(&self) -> Result<()> {
        let config = DistributionConfig {
            bandwidth: self.bandwidth,
            points: self.points,
        };
        let found = distribution(&Rewards::read(&self.evals)?, &config)?;
        let report = Report {
            name: "distribution",
            value: &found,
            plots: vec![("distribution".into(), found.plot())],
        };
        self.output.finish(&report, &found.table(), &[])
    }
}
