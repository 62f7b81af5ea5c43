//! `diagnose`: one file a diagnostic, below `src/cli/diagnose/`.

mod alignment;
mod distribution;
mod laws;
mod synthetic;
mod tails;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::Globals;
use super::common::Lines;
use crate::diagnose::Report;
use crate::error::Result;
use crate::report::{Format, Table};
use crate::run::{Dir, kinds};

/// Look at the estimators and at reward laws: a table, a JSON file and a plot each
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose synthetic --output diag
  tea-wgpu diagnose laws --output diag
  tea-wgpu diagnose tails eval-base --output diag
  tea-wgpu diagnose distribution eval-base eval-tea --output diag
  tea-wgpu diagnose alignment --output diag/alignment")]
pub(crate) struct Args {
    #[command(subcommand)]
    which: Diagnostic,
}

#[derive(Debug, Subcommand)]
enum Diagnostic {
    Alignment(Box<alignment::Args>),
    Synthetic(synthetic::Args),
    Laws(laws::Args),
    Tails(tails::Args),
    Distribution(distribution::Args),
}

impl Args {
    pub(crate) fn run(&self, globals: &Globals) -> Result<()> {
        match &self.which {
            Diagnostic::Alignment(args) => args.run(globals),
            Diagnostic::Synthetic(args) => args.run(),
            Diagnostic::Laws(args) => args.run(),
            Diagnostic::Tails(args) => args.run(),
            Diagnostic::Distribution(args) => args.run(),
        }
    }
}

/// Where a diagnostic's results go and how its table is printed.
#[derive(Debug, clap::Args)]
struct Output {
    /// Directory for the JSON file and the plots (SVG and PNG)
    #[arg(long, value_name = "DIR", default_value = "diagnose")]
    output: PathBuf,
    /// Form of the printed table
    #[arg(long, value_enum, default_value_t = Format::Md)]
    format: Format,
}

impl Output {
    /// Writes the report, then prints the table; the notes follow it in Markdown, else go to the log.
    fn finish<T: Serialize>(&self, report: &Report<'_, T>, table: &Table, notes: &[String]) -> Result<()> {
        // Held until everything is written.
        let held = Dir::hold(&self.output, &kinds::DIAGNOSE)?;
        held.begin()?;
        report.write(&self.output)?;
        let mut out = Lines::new();
        out.text(table.render(self.format).trim_end());
        let place = self.output.join(format!("{}.json", report.name));
        let written = format!("Written: {}", written(&place, report.plots.len()));
        if self.format == Format::Md {
            out.text("");
            notes.iter().for_each(|note| out.text(note));
            out.text(&written);
        } else {
            notes.iter().for_each(|note| log::info!("{note}"));
            log::info!("{written}");
        }
        out.tell();
        Ok(())
    }
}

fn written(json: &Path, plots: usize) -> String {
    match plots {
        0 => json.display().to_string(),
        1 => format!("{} and a plot beside it", json.display()),
        n => format!("{} and {n} plots beside it", json.display()),
    }
}
