//! The command line: one file a subcommand; flags → typed settings → one library call.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic on a closed pipe and wait for one that nobody reads: common::say and tell do not"
)]

mod advantage;
mod bench;
mod common;
mod compare;
mod demo;
mod demo_data;
mod devices;
mod diagnose;
mod eval;
mod generate;
mod gradient;
mod judge;
mod logprobs;
mod models;
mod prepare;
mod score;
mod search;
mod search_predict;
mod supervised;
mod sweep;
mod train;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::variable;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions, Tune};
use crate::kernels::{self, tune};
use crate::report::console::{self, Stream};
use crate::run::interrupt::{self, Voice};

/// Post-train language models for best-of-N on any Vulkan, Metal or DX12 GPU
#[derive(Debug, Parser)]
#[command(name = "tea-wgpu", version, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every subcommand takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// GPU to run on: an index or part of a name from `tea-wgpu devices` [env: TEA_DEVICE]
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    device: Option<String>,
    /// Take kernel variants from the table of defaults, not from what was measured on this adapter [env: TEA_TUNE=0]
    #[arg(long, global = true)]
    no_tune: bool,
    /// Say more on standard error: -v what is done, -vv details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Globals {
    /// The options that choose the device.
    ///
    /// # Errors
    /// TEA_TUNE is neither 0 nor 1.
    pub(crate) fn gpu_options(&self) -> Result<GpuOptions> {
        Ok(GpuOptions {
            device: self.device.clone().or_else(|| variable("TEA_DEVICE")),
            tune: self.tune(Tune::Stored)?,
            ..GpuOptions::default()
        })
    }

    /// `wanted`, unless --no-tune or TEA_TUNE=0 forbid it. A debug build does not tune unless TEA_TUNE=1 asks for it: what tests run
    /// must depend on no clock and write nothing to the user's cache.
    fn tune(&self, wanted: Tune) -> Result<Tune> {
        let asked = match variable("TEA_TUNE").as_deref() {
            None => !cfg!(debug_assertions),
            Some("0") => false,
            Some("1") => true,
            Some(other) => {
                return Err(Error::user(format!(
                    "TEA_TUNE is {other:?}; it must be 0 (kernel variants by the table of defaults) or 1 (by what is measured)"
                )));
            }
        };
        Ok(if asked && !self.no_tune { wanted } else { Tune::Off })
    }

    /// Opens a device. Every command does so here, so that a `TEA_VARIANT` which no kernel runs is
    /// never passed over.
    ///
    /// # Errors
    /// As [`Gpu::open`] and [`kernels::check_forced`].
    pub(crate) fn open(options: &GpuOptions) -> Result<Gpu> {
        let gpu = Gpu::open(options)?;
        kernels::check_forced(&gpu)?;
        Ok(gpu)
    }

    /// Opens the chosen device, for a command that is over too soon for measuring to pay.
    pub(crate) fn open_gpu(&self) -> Result<Gpu> {
        let gpu = Self::open(&self.gpu_options()?)?;
        tune::load(&gpu);
        Ok(gpu)
    }

    /// Opens the chosen device, for a command that runs long: variants that were never measured here will be.
    pub(crate) fn open_gpu_for_long(&self) -> Result<Gpu> {
        let options = GpuOptions {
            tune: self.tune(Tune::Measure)?,
            ..self.gpu_options()?
        };
        let gpu = Self::open(&options)?;
        tune::load(&gpu);
        Ok(gpu)
    }

    fn start_log(&self) {
        // wgpu's own warnings speak to graphics programmers; -vv shows them.
        let filter = match self.verbose {
            0 => "warn,wgpu_core=error,wgpu_hal=error,naga=error",
            1 => "info,wgpu_core=error,wgpu_hal=error,naga=error",
            _ => "debug,wgpu_core=warn,wgpu_hal=warn,naga=warn",
        };
        let asked = variable("RUST_LOG");
        let asked = asked.filter(|asked| match env_filter::Builder::new().try_parse(asked) {
            Ok(_) => true,
            // The logger would say so by itself with eprintln!.
            Err(e) => {
                console::line(Stream::Err, format_args!("warning: RUST_LOG is ignored: {e}"));
                false
            }
        });
        // A second call in one process (tests) keeps the first logger.
        drop(
            env_logger::Builder::new()
                .parse_filters(asked.as_deref().unwrap_or(filter))
                .format_timestamp(None)
                .format_target(false)
                .target(env_logger::Target::Pipe(Box::new(console::Log)))
                .write_style(log_style())
                .try_init(),
        );
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Args),
    Logprobs(logprobs::Args),
    Gradient(gradient::Args),
    Score(score::Args),
    Advantage(advantage::Args),
    Search(search::Args),
    Devices(devices::Args),
    Bench(bench::Args),
    Train(train::Args),
    Plan(train::PlanArgs),
    Sweep(sweep::Args),
    Prepare(prepare::Args),
    Sft(supervised::SftArgs),
    Reward(supervised::RewardArgs),
    Eval(eval::Args),
    Compare(compare::Args),
    Demo(demo::Args),
    DemoData(demo_data::Args),
    Diagnose(diagnose::Args),
    Judge(judge::Args),
}

/// Whether lines on standard error are coloured: env_logger and clap know it of that stream itself,
/// not of the console.
fn coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !dumb && !set("NO_COLOR")
}

fn log_style() -> env_logger::WriteStyle {
    use env_logger::WriteStyle;

    match std::env::var("RUST_LOG_STYLE").as_deref() {
        Ok("always") => WriteStyle::Always,
        Ok("never") => WriteStyle::Never,
        _ if coloured() => WriteStyle::Always,
        _ => WriteStyle::Never,
    }
}

/// The process: runs the command line, says what went wrong, and gives the exit code. Wrong usage
/// has code 2, `--help` and `--version` have 0.
pub fn main() -> ExitCode {
    console::catch_panics();
    interrupt::outlive_limits();
    let ended = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(usage) if usage.use_stderr() => {
            let text = usage.render();
            let text = if coloured() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            console::line(Stream::Err, text.trim_end());
            console::flush();
            return ExitCode::from(2);
        }
        Err(text) => common::help(&text),
    };
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::line(Stream::Err, format_args!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    };
    console::flush();
    code
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever it meets.
fn run(cli: Cli) -> Result<()> {
    cli.globals.start_log();
    interrupt::install(Voice {
        say: |line| console::line(Stream::Err, line),
        flush: console::flush,
    })?;
    match cli.command {
        Command::Generate(args) => generate::run(&cli.globals, &args),
        Command::Logprobs(args) => logprobs::run(&cli.globals, &args),
        Command::Gradient(args) => gradient::run(&cli.globals, &args),
        Command::Score(args) => score::run(&cli.globals, &args),
        Command::Advantage(args) => advantage::run(&args),
        Command::Search(args) => search::run(&cli.globals, &args),
        Command::Devices(args) => devices::run(&cli.globals, &args),
        Command::Bench(args) => args.run(&cli.globals),
        Command::Train(args) => args.run(&cli.globals),
        Command::Plan(args) => args.run(&cli.globals),
        Command::Sweep(args) => args.run(&cli.globals),
        Command::Prepare(args) => args.run(),
        Command::Sft(args) => args.run(&cli.globals),
        Command::Reward(args) => args.run(&cli.globals),
        Command::Eval(args) => eval::run(&cli.globals, &args),
        Command::Compare(args) => compare::run(&args),
        Command::Demo(args) => demo::run(&cli.globals, &args),
        Command::DemoData(args) => demo_data::run(&cli.globals, &args),
        Command::Diagnose(args) => args.run(&cli.globals),
        Command::Judge(args) => args.run(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_parses_and_shows_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.clone().render_long_help().to_string();
            assert!(
                help.contains("tea-wgpu "),
                "{} --help has no example",
                sub.get_name()
            );
        }
    }
}
