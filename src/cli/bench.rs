//! `bench`: ceilings, kernels, sampling and training, measured.

mod growth;
mod runs;

use std::path::PathBuf;

use super::Globals;
use super::common::Lines;
use crate::bench::baseline::{self, Baseline};
use crate::bench::ceiling::{self, Measured};
use crate::bench::kernels;
use crate::bench::output::{Form, Header, Row, render};
use crate::bench::timing::Effort;
use crate::error::{Error, Result};
use crate::file::write::write_output;
use crate::gpu::GpuOptions;
use crate::kernels::work::{Sizes, Wanted};
use crate::model::shapes::Named;

/// Measure this adapter and the kernels, sampling and training on it
///
/// Numbers are medians with standard deviations; JSON holds every sample. The command ends with code 0 however slow
/// things are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench ceiling
  tea-wgpu bench kernels --quick
  tea-wgpu bench kernels linear_forward/q8_0 --models llama-3.2-1b -o csv
  tea-wgpu bench kernels --save-baseline before.json
  tea-wgpu bench kernels --compare before.json
  tea-wgpu bench rollout --model random:smollm2-135m
  tea-wgpu bench train --batch 8 --no-checkpointing
  tea-wgpu bench e2e --reward-model random:smollm2-135m -o json
  tea-wgpu bench growth")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Ceiling(CeilingArgs),
    Kernels(KernelArgs),
    Rollout(runs::RolloutArgs),
    Train(runs::TrainArgs),
    E2e(runs::E2eArgs),
    Growth(growth::GrowthArgs),
}

/// What every measurement takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// Output form on standard output
    #[arg(short, long, value_enum, default_value = "md", value_name = "FORM")]
    output: Form,
    /// Samples of each measurement; the median is reported
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    repetitions: u16,
    /// Write the run to this file, as JSON, for a later --compare
    #[arg(long, value_name = "FILE")]
    save_baseline: Option<PathBuf>,
    /// Compare with a stored run: prints new/old ratios and marks those outside the noise
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

/// This adapter's limits: multiply-adds (f32, f16, cooperative matrices), bandwidth, cost of dispatches and readbacks
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench ceiling
  tea-wgpu bench ceiling --device llvmpipe -o json")]
struct CeilingArgs {
    #[command(flatten)]
    common: Common,
    /// Seconds after which a measurement takes no further sample
    #[arg(
        long,
        default_value_t = 2.0,
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    max_seconds: f64,
}

/// Every variant of every kernel on the shapes of real models, against the roofline and against float64
///
/// A case is named op/type/model/phase/shape/variant; FILTERs keep the cases whose name contains all of them. Work is
/// timed by the GPU's timestamps where it has them (JSON says which clock). "% of roofline" is the least possible time
/// (arithmetic at the measured multiply-add rate, or every operand once at the measured bandwidth, whichever is
/// longer; the better of a ceiling taken before and one taken after the cases) over the time taken; operands that stay
/// in a cache can exceed 100. "error" is the largest difference from float64, relative to the largest value; of large
/// outputs some are compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench kernels --quick
  tea-wgpu bench kernels linear_forward decode16 --models smollm2-135m,llama-3.2-1b
  tea-wgpu bench kernels gemm
  tea-wgpu bench kernels attention -o jsonl --repetitions 9 --max-seconds 10
  tea-wgpu bench kernels --list")]
struct KernelArgs {
    /// Keep only cases whose name contains these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Shapes: smollm2-135m, smollm2-360m, llama-3.2-1b, llama-3.1-8b
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "smollm2-135m",
        value_name = "NAME,…"
    )]
    models: Vec<String>,
    /// Fewer shapes, element types and batch sizes
    #[arg(long)]
    quick: bool,
    /// Seconds after which a case takes no further sample; one that would take ten times as long is not begun
    #[arg(
        long,
        default_value_t = 2.0,
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    max_seconds: f64,
    /// Most bytes of a case's buffers
    #[arg(long, default_value_t = 4 << 30, value_name = "BYTES")]
    max_bytes: u64,
    /// Do not compare with float64
    #[arg(long)]
    no_check: bool,
    /// Print the names of the cases and measure nothing
    #[arg(long)]
    list: bool,
}

impl Args {
    pub(crate) fn run(&self, globals: &Globals) -> Result<()> {
        match &self.what {
            What::Ceiling(args) => args.run(globals),
            What::Kernels(args) => args.run(globals),
            What::Rollout(args) => args.run(globals),
            What::Train(args) => args.run(globals),
            What::E2e(args) => args.run(globals),
            What::Growth(args) => args.run(globals),
        }
    }
}

impl Common {
    fn effort(&self, max_seconds: f64) -> Result<Effort> {
        if !(max_seconds >= 0.0 && max_seconds.is_finite()) {
            return Err(Error::user(format!(
                "--max-seconds is {max_seconds}: it must be 0 or more"
            )));
        }
        Ok(Effort {
            repetitions: self.repetitions.into(),
            max_seconds,
        })
    }

    /// The stored run to compare with, read before anything is measured.
    fn old(&self) -> Result<Option<Baseline>> {
        self.compare.as_deref().map(Baseline::read).transpose()
    }

    fn finish(&self, header: &Header, rows: &[Row], old: Option<&Baseline>) -> Result<()> {
        if let Some(path) = &self.save_baseline {
            write_output(path, render(header, rows, Form::Json)?.as_bytes())?;
        }
        let text = match old {
            Some(old) => baseline::report(old, header, rows, self.output)?,
            None => render(header, rows, self.output)?,
        };
        let mut out = Lines::new();
        out.text(text.trim_end());
        out.finish(None)
    }
}

impl CeilingArgs {
    fn run(&self, globals: &Globals) -> Result<()> {
        let (effort, old) = (self.common.effort(self.max_seconds)?, self.common.old()?);
        let gpu = globals.open_gpu()?;
        let Measured { ceiling, rows } = ceiling::run(&gpu, effort, false)?;
        let mut header = Header::new(gpu.report(), "ceiling");
        header.ceiling = Some(ceiling);
        self.common.finish(&header, &rows, old.as_ref())
    }
}

impl KernelArgs {
    fn run(&self, globals: &Globals) -> Result<()> {
        let models = self
            .models
            .iter()
            .map(|n| Ok(kernels::sizes(&Named::find(n.trim())?)))
            .collect::<Result<Vec<Sizes>>>()?;
        let (effort, old) = (self.common.effort(self.max_seconds)?, self.common.old()?);
        let options = GpuOptions {
            profile: true,
            ..globals.gpu_options()?
        };
        let gpu = Globals::open(&options)?;
        let wanted = Wanted {
            gpu: &gpu,
            models: &models,
            quick: self.quick,
        };
        let mut chosen = crate::kernels::workload(&wanted);
        chosen.retain(|c| {
            let name = c.name();
            self.filters.iter().all(|f| name.contains(f.as_str()))
        });
        if chosen.is_empty() {
            return Err(Error::user(format!(
                "no case's name contains {}; `tea-wgpu bench kernels --list` prints the names",
                self.filters.join(" and ")
            )));
        }
        if self.list {
            let mut out = Lines::new();
            chosen.iter().for_each(|c| out.text(&c.name()));
            return out.finish(None);
        }
        let brief = Effort {
            repetitions: 5,
            max_seconds: 1.0,
        };
        let plain = globals.open_gpu()?;
        let before = ceiling::run(&plain, brief, true)?.ceiling;
        let limits = kernels::Limits {
            effort,
            max_bytes: self.max_bytes as f64,
            check: !self.no_check,
        };
        let mut rows = Vec::new();
        for case in &chosen {
            log::info!("{}", case.name());
            rows.push(kernels::run(&gpu, case, &before, &limits)?);
        }
        let after = ceiling::run(&plain, brief, true)?.ceiling;
        let mut header = Header::new(gpu.report(), "kernels");
        header.ceiling = Some(kernels::redraw(&chosen, &mut rows, &before, &after));
        self.common.finish(&header, &rows, old.as_ref())
    }
}
