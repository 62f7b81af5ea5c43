//! `diagnose tails`: are the upper quantiles of rewards Gaussian?

use std::path::PathBuf;

use super::Output;
use crate::diagnose::Report;
use crate::diagnose::input::Rewards;
use crate::diagnose::tails::{TailsConfig, tails};
use crate::error::Result;

/// How Gaussian the upper tails of rewards are: R² of upper rewards on normal quantiles, prompt by prompt
///
/// Under each evaluation stands what normal samples of the same sizes give.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose tails eval-base eval-tea --output diag
  tea-wgpu diagnose tails rewards.jsonl --from 0.75 --to 0.98
      {\"id\": \"p1\", \"rewards\": [0.5, 1.25, …]} a line

Writes tails.json and tails.svg/.png.")]
pub(super) struct Args {
    /// Evaluation directories, or files of {"id", "rewards"} (JSON Lines, JSON, CSV, Parquet)
    #[arg(required = true, value_name = "EVAL")]
    evals: Vec<PathBuf>,
    /// Least quantile p of the regression
    #[arg(long, value_name = "P", default_value_t = TailsConfig::DEFAULT.low)]
    from: f64,
    /// Greatest quantile p
    #[arg(long, value_name = "P", default_value_t = TailsConfig::DEFAULT.high)]
    to: f64,
    /// Seed of the normal samples
    #[arg(long, default_value_t = TailsConfig::DEFAULT.seed)]
    seed: u64,
    #[command(flatten)]
    output: Output,
}

impl Args {
    pub(super) fn run(&self) -> Result<()> {
        let config = TailsConfig {
            low: self.from,
            high: self.to,
            seed: self.seed,
        };
        let found = tails(&Rewards::read(&self.evals)?, &config)?;
        let report = Report {
            name: "tails",
            value: &found,
            plots: found
                .plot()
                .map(|p| ("tails".to_string(), p))
                .into_iter()
                .collect(),
        };
        self.output.finish(&report, &found.table(), &[])
    }
}
