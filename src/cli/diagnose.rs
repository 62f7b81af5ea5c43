//! `diagnose`: one file a diagnostic, below `src/cli/diagnose/`.

use clap::Subcommand;

use super::Globals;
use crate::error::Result;

/// Look at the estimators and at reward laws: a table, a JSON file and a plot each
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose synthetic --output diag
  tea-wgpu diagnose tails eval-base --output diag
  tea-wgpu diagnose distribution eval-base eval-tea --output diag")]
pub(crate) struct Args {
    #[command(subcommand)]
    which: Diagnostic,
}

#[derive(Debug, Subcommand)]
enum Diagnostic {}

impl Args {
    pub(crate) fn run(&self, _globals: &Globals) -> Result<()> {
        match self.which {}
    }
}
