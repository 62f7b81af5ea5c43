//! `tea-wgpu train` and `tea-wgpu plan`.

use super::Globals;
use super::common::{kept, layered, say, tell};
use crate::config::{TrainConfig, TrainFlags};
use crate::error::{Error, Result};
use crate::gpu::BufferLimits;
use crate::model::plan::Plan;
use crate::run::{Dir, kinds};
use crate::train::checkpoint::RunDir;
use crate::train::memory;
use crate::train::run::{self, RunOptions};
use crate::train::setup::default_reward;
use crate::train::sizes::Outline;
use std::path::{Path, PathBuf};

/// Post-train a policy for best-of-N: sample groups of responses, score them, follow the tail
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu train --output runs/tiny
      the embedded policy, reward model and prompts: runs on any machine
  tea-wgpu train --model llama-1b --output runs/llama
      its default reward model and prompts (models/aliases.toml), fetched from the hub
  tea-wgpu train --model llama-1b --reward-model skywork-llama-8b --prompts prompts.jsonl --output runs/llama
  tea-wgpu train --model llama-1b --prompts HuggingFaceH4/ultrafeedback_binarized:train_sft --output runs/llama
      a data set of the hub, and its split
  tea-wgpu train --config examples/train.toml --advantage grpo-z --output runs/grpo
  tea-wgpu train --output runs/tiny --validation-prompts embedded --validation-size 32
      keeps the checkpoint with the best validation score in checkpoints/best
  tea-wgpu train --output runs/llama --resume
      continues from the last checkpoint with the run's own settings; flags given again win (--steps 900)

Results: OUTPUT/metrics.jsonl, OUTPUT/config.toml, OUTPUT/checkpoints/step_N (PEFT adapter, or the whole model with --full),
OUTPUT/checkpoints/best with --validation-prompts. docs/reference/settings.md says more of each setting")]
pub(crate) struct Args {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Continue the run in --output from its last checkpoint
    #[arg(long)]
    resume: bool,
    /// Replace the run in --output
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Show the memory each part of a training run takes, before anything is allocated
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu plan --model llama-1b --base-dtype q4_0 --reward-dtype q4_0 --prompts prompts.jsonl
  tea-wgpu plan --model random:llama-1b --reward-model random:llama-8b --base-dtype q4_0 --reward-dtype q4_0 \\
      --max-prompt-length 256 --rollout-batch 64

Weights need not be there: a directory with a config.json, or random: and a shape (smollm2-135m, smollm2-360m,
llama-3.2-1b, llama-3.1-8b), will do, with the longest prompt as --max-prompt-length.
docs/reference/settings.md says more of each setting")]
pub(crate) struct PlanArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Settings from a file, from flags, or both.
#[derive(Debug, clap::Args)]
struct Settings {
    /// TOML file of settings; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: TrainFlags,
}

impl Settings {
    /// Flags over the file over `stored` over defaults.
    fn resolve(self, stored: Option<&Path>) -> Result<TrainConfig> {
        layered(stored, self.config.as_deref(), &self.flags)?.resolve(&default_reward)
    }
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let held = Dir::hold(&self.output, &kinds::TRAIN)?;
        let run = RunDir::check(&held, self.resume, self.overwrite)?;
        // A resumed run keeps its own settings unless they are given anew.
        let stored = self.resume.then(|| kept(&run)).transpose()?;
        let config = self.settings.resolve(stored.as_deref())?;
        let gpu = globals.open_gpu_for_long()?;
        let options = RunOptions {
            output: self.output,
            resume: self.resume,
            overwrite: self.overwrite,
        };
        let last = run::train(&gpu, config, &options)?;
        tell(format_args!("trained: {}", last.display()));
        Ok(())
    }
}

impl PlanArgs {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let mut outline = Outline::open(self.settings.resolve(None)?)?;
        // Without an adapter the plan is that of the smallest one the program runs on.
        let (limits, have) = match globals.open_gpu() {
            Ok(gpu) => (gpu.buffer_limits(), memory::free(&gpu)?),
            Err(error) if globals.gpu_options()?.device.is_some() => return Err(error),
            Err(error) => {
                log::warn!("{error}. The plan is that of the smallest adapter");
                (BufferLimits::least(), None)
            }
        };
        outline.choose_dtypes(&limits, have)?;
        let (plan, least) = outline.plan(&limits)?;
        memory::binds(&plan, run::LOWER)?;
        let dtypes = [&outline.config.base_dtype, &outline.config.reward_dtype];
        let residency = if outline.streams_reward() {
            "stream"
        } else {
            "resident"
        };
        if let Some(short) = memory::short(&plan, have) {
            log::warn!("{short}: `train` would refuse it. Lower {}", run::LOWER);
        }
        let ratio = plan.total() as f64 / least.total() as f64;
        if self.json {
            let rows = |plan: &Plan| -> serde_json::Map<String, serde_json::Value> {
                let row = |(owner, bytes): &(String, u64)| (owner.clone(), (*bytes).into());
                plan.rows.iter().map(row).collect()
            };
            let text = serde_json::json!({
                "bytes": rows(&plan), "total": plan.total(), "base_dtype": dtypes[0], "reward_dtype": dtypes[1], "reward_residency": residency,
                "gradient_sum": outline.config.gradient_sum.name(),
                "free": have, "formula_bytes": rows(&least), "formula_total": least.total(), "plan_over_formula": ratio,
            });
            say(format_args!(
                "{}",
                serde_json::to_string_pretty(&text).map_err(Error::internal)?
            ))?;
        } else {
            let [base, reward] = dtypes.map(|d| d.as_deref().unwrap_or("as stored"));
            say(format_args!(
                "policy {base}, reward model {reward} ({residency}), gradients in {} order\n{plan}\n{:>12.1} MiB  is the least by the formula of \
                 docs/memory.md; the plan is {ratio:.3} times that",
                outline.config.gradient_sum.name(),
                least.total() as f64 / f64::from(1 << 20)
            ))?;
        }
        Ok(())
    }
}
