//! `tea-wgpu sweep`.

use super::Globals;
use super::common::{say, tell};
use crate::error::{Error, Result};
use crate::eval::Bootstrap;
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use crate::report::{Align, Table};
use crate::run::{Dir, kinds};
use crate::sweep::evaluate::Device;
use crate::sweep::run::{self, State, SweepDir, eval_names};
use crate::sweep::{Outcome, Sweep};
use std::path::PathBuf;

/// Train and evaluate many methods on the same prompts and seeds, and compare them
///
/// The file names settings shared by all ([train], the keys of `train --config`), methods ([[method]], changes to them; a list of
/// values is a grid), seeds, and how checkpoints are evaluated ([eval]). What is finished is skipped and what is half done
/// goes on, so that the same command can be given again at any time; an evaluation of weights that were trained again since is
/// made again. Element types that the file leaves open are settled once for all. A run that fails is recorded and left out of
/// the table, and the rest goes on; the exit code is then 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu sweep --config examples/sweep.toml --output runs/sweep --dry-run
      what would be run, and what is finished already
  tea-wgpu sweep --config examples/sweep.toml --output runs/sweep

Results: OUTPUT/table.md, table.csv, table.json, frontier.svg and .png (frontier-best with selected checkpoints, frontier-also under
the second judge), compare/ (every run by itself), runs/NAME (as train), evals/NAME (as eval), sweep.json (what was done, skipped or failed, and the
element types)")]
pub(crate) struct Args {
    /// The sweep file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory of the sweep
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Say what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Resamples of prompts behind every interval
    #[arg(long, value_name = "N", default_value_t = 1000)]
    resamples: u32,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let sweep = Sweep::read(&self.config)?;
        let output = SweepDir { root: self.output };
        if self.dry_run {
            return dry_run(&sweep, &output);
        }
        let held = Dir::hold(&output.root, &kinds::SWEEP)?;
        held.check(false)?;
        let open = || globals.open_gpu_for_long();
        let mut device = Device::new(&sweep, &open)?;
        let bootstrap = Bootstrap {
            resamples: self.resamples as usize,
            ..Bootstrap::default()
        };
        let outcome = run::sweep(&sweep, &output, &mut device, &bootstrap)?;
        let table = output.root.join("table.md");
        tell(read_text(&table, &SETTINGS_FILE)?);
        tell(format_args!("Written to {}", output.root.display()));
        failures(&outcome, &output)
    }
}

/// What would be run.
fn dry_run(sweep: &Sweep, output: &SweepDir) -> Result<()> {
    let mut table = Table::new([
        ("run", Align::Left),
        ("rule", Align::Left),
        ("m", Align::Right),
        ("steps", Align::Right),
        ("state", Align::Left),
        ("evaluations", Align::Left),
    ]);
    let mut left = 0;
    for run in sweep.runs() {
        let state = run::state(&output.run(&run.name), run)?;
        left += usize::from(state != State::Finished);
        table.push(vec![
            run.name.as_str().into(),
            run.config.advantage.as_str().into(),
            run.config.num_generations.into(),
            (run.config.steps as usize).into(),
            match state {
                State::New => "new".into(),
                State::Partial(step) => format!("continues from step {step}").into(),
                State::Finished => "finished".into(),
            },
            eval_names(run)
                .iter()
                .map(|(_, which)| *which)
                .collect::<Vec<_>>()
                .join(", ")
                .into(),
        ]);
    }
    say(table.markdown().trim_end())?;
    say(format_args!(
        "{left} of {} runs to train; evaluations of the base policy and of every run; baseline: {}",
        sweep.runs().count(),
        sweep.baseline.as_deref().unwrap_or("the base policy alone")
    ))?;
    Ok(())
}

/// The sweep's end where something failed.
fn failures(outcome: &Outcome, output: &SweepDir) -> Result<()> {
    let failed = outcome.failed();
    if failed.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = failed
        .iter()
        .map(|j| format!("\n  {}: {}", j.job, j.error.as_deref().unwrap_or("")))
        .collect();
    Err(Error::Failed(format!(
        "{} of {} jobs failed (the same command tries them again; {} has the list):{}",
        failed.len(),
        outcome.jobs.len(),
        output.root.join("sweep.json").display(),
        lines.concat()
    )))
}
