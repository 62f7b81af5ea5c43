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
mod ranges;
mod rules;
mod score;
mod search;
mod search_predict;
mod supervised;
mod sweep;
mod train;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ContextValue;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{parse_bytes, variable};
use crate::error::{Context, Error, Result};
use crate::file::limits::set_file_memory;
use crate::gpu::{Gpu, GpuOptions, Tune};
use crate::kernels::{self, tune};
use crate::report::console::{self, Stream};
use crate::report::logger;
use crate::run::interrupt::{self, Voice};
use crate::words::{self, secret};

/// Post-train language models for best-of-N on any Vulkan, Metal or DX12 GPU
#[derive(Debug, Parser)]
#[command(name = "tea-wgpu", version, propagate_version = true, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// The command line, with every number in its range.
    fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = rules::listed(ranges::bounded(Self::command()));
        let matches = command.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
    }
}
/// What --max-file-memory is without the flag.
const FILE_MEMORY: &str = "TEA_MAX_FILE_MEMORY";

/// Flags that every subcommand takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Globals {
    /// GPU to run on: an index or part of a name from `tea-wgpu devices` [env: TEA_DEVICE]
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    device: Option<String>,
    /// Take kernel variants from the table of defaults, not from what was measured on this adapter [env: TEA_TUNE=0]
    #[arg(long, global = true)]
    no_tune: bool,
    /// Memory that one file may take; the other limits of files grow with it [env: TEA_MAX_FILE_MEMORY] [default: 8GiB]
    #[arg(long, global = true, value_name = "SIZE")]
    max_file_memory: Option<String>,
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

    /// Sets what a file may take of memory.
    ///
    /// # Errors
    /// --max-file-memory or TEA_MAX_FILE_MEMORY is no size.
    fn limit_files(&self) -> Result<()> {
        let flag = self
            .max_file_memory
            .clone()
            .map(|text| ("--max-file-memory", text));
        let variable = || variable(FILE_MEMORY).map(|text| (FILE_MEMORY, text));
        if let Some((name, text)) = flag.or_else(variable) {
            set_file_memory(parse_bytes(&text).context(name)?);
        }
        Ok(())
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
        logger::start(asked.as_deref().unwrap_or(filter), log_style());
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Plan(train::PlanArgs),
    Sft(supervised::SftArgs),
    Reward(supervised::RewardArgs),
    Sweep(sweep::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Judge(judge::Args),
    Search(search::Args),
    Generate(generate::Args),
    Score(score::Args),
    Logprobs(logprobs::Args),
    Gradient(gradient::Args),
    Advantage(advantage::Args),
    Diagnose(diagnose::Args),
    Prepare(prepare::Args),
    Devices(devices::Args),
    Bench(bench::Args),
    Demo(demo::Args),
    DemoData(demo_data::Args),
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
    secret::keep_environment();
    interrupt::outlive_limits();
    let ended = match Cli::read(std::env::args_os()) {
        Ok(cli) => run(cli),
        Err(usage) if usage.use_stderr() => {
            wrong_usage(usage);
            console::flush();
            return ExitCode::from(2);
        }
        Err(text) => common::help(&text),
    };
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A line of a file's name or a server's answer does not pass for one of ours.
            let text = error.to_string().replace('\n', "\n    ");
            console::line(Stream::Err, format_args!("error: {text}"));
            ExitCode::from(match error.is_interrupted() {
                true => interrupt::code(),
                false => error.exit_code(),
            })
        }
    };
    console::flush();
    code
}

/// Says what is wrong with the command line. Arguments that clap repeats are escaped, and colours are left out where one
/// holds what is escaped, since they could not be told from its own.
fn wrong_usage(mut usage: clap::Error) {
    let held: Vec<_> = usage
        .context()
        .map(|(kind, value)| (kind, value.clone()))
        .collect();
    for (kind, value) in held {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(words::piece(&text)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| words::piece(text)).collect())
            }
            _ => continue,
        };
        usage.insert(kind, value);
    }
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let odd: Vec<&str> = args
        .iter()
        .flat_map(|arg| [Some(arg.as_str()), arg.split_once('=').map(|(_, value)| value)])
        .flatten()
        .filter(|arg| words::piece(arg) != *arg)
        .collect();
    let text = usage.render();
    if coloured() && odd.is_empty() {
        console::styled(Stream::Err, text.ansi().to_string().trim_end());
    } else {
        // The parser of a value may repeat it too.
        let text = odd.iter().fold(text.to_string(), |text, arg| {
            text.replace(arg, &words::piece(arg))
        });
        console::line(Stream::Err, text.trim_end());
    }
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever it meets.
fn run(cli: Cli) -> Result<()> {
    cli.globals.start_log();
    cli.globals.limit_files()?;
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

    #[test]
    fn every_command_is_in_the_pages() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for page in ["README.md", "docs/reference/commands.md"] {
            let text = std::fs::read_to_string(root.join(page)).unwrap();
            for sub in Cli::command().get_subcommands() {
                let name = sub.get_name();
                assert!(
                    text.contains(&format!("`{name}`")),
                    "{page} does not name `{name}`"
                );
            }
        }
    }
}
