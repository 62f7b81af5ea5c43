//! `diagnose`: one file a diagnostic, below `src/cli/diagnose/`.

mod alignment;

use clap::Subcommand;

use super::Globals;
use crate::error::Result;

/// Look at the estimators and at reward laws: a table, a JSON file and a plot each
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose synthetic --output diag
  tea-wgpu diagnose tails eval-base --output diag
  tea-wgpu diagnose distribution eval-base eval-tea --output diag
  tea-wgpu diagnose alignment --output diag/alignment")]
pub(crate) struct Args {
    #[command(subcommand)]
    which: Diagnostic,
}

#[derive(Debug, Subcommand)]
enum Diagnostic {
    Alignment(alignment::Args),
}

impl Args {
    pub(crate) fn run(&self, globals: &Globals) -> Result<()> {
        match &self.which {
            Diagnostic::Alignment(args) => args.run(globals),
        }
    }
}
