//! `tea-wgpu sft` and `tea-wgpu reward`.

use super::Globals;
use super::common::{kept, layered, tell};
use crate::config::{SupervisedConfig, SupervisedFlags};
use crate::error::Result;
use crate::run::{Dir, kinds};
use crate::train::checkpoint::RunDir;
use crate::train::run::RunOptions;
use crate::train::supervised::{Outcome, adapter_shape};
use crate::train::{preference, sft};
use std::path::PathBuf;

/// Fine-tune a language model on prompts and responses (masked cross-entropy)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu sft --model smollm2-135m --data chats.jsonl --output runs/sft
  tea-wgpu sft --model DIR --data pairs.jsonl --full --learning-rate 2e-3 --steps 2000 --output runs/full
  tea-wgpu sft --model DIR --data chats.jsonl --train-on last --output runs/last
  tea-wgpu sft --output runs/sft --resume --steps 3000
      continues from the last checkpoint with the run's own settings; flags given again win

Data: {\"prompt\": text, \"response\": text} or {\"messages\": [...]} per row, both with \"tools\" where there are
any. JSON Lines, a JSON array, CSV with a header or Parquet, plain, gzip or zstd, a file or a pipe; a directory of
such files, or a data set of the hub, with its split after a colon. Rows without an answer are left out and counted

Turns: every assistant turn of a conversation is learned, with the token that ends it (TRL's assistant_only_loss);
--train-on last learns the last one alone. Each turn is learned after the prompt that the chat template makes of the
turns before it. A template that leaves out the reasoning of earlier turns makes other prompts for later turns: these
become sequences of their own. docs/reference/settings.md says more of each setting")]
pub(crate) struct SftArgs {
    #[command(flatten)]
    common: Common,
}

/// Train a reward model on preferences (Bradley-Terry)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu reward --model smollm2-135m --data preferences.jsonl --head-only --output runs/head
  tea-wgpu reward --model smollm2-135m --adapter runs/head/checkpoints/step_200 --data preferences.jsonl --output runs/rm
  tea-wgpu reward --model DIR --data HuggingFaceH4/ultrafeedback_binarized --full --output runs/rm
  tea-wgpu reward --output runs/rm --resume

Data: {\"prompt\": text, \"chosen\": text, \"rejected\": text} per row, HH-RLHF's dialogues, UltraFeedback, or
UltraFeedback Binarized. JSON Lines, a JSON array, CSV with a header or Parquet, plain, gzip or zstd, a
file or a pipe; a directory of such files, or a data set of the hub, with its split after a colon. Rows
without two answers to one prompt are left out and counted")]
pub(crate) struct RewardArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Continue the run in --output from its last checkpoint
    #[arg(long)]
    resume: bool,
    /// Replace the run in --output
    #[arg(long)]
    overwrite: bool,
    /// TOML file of settings; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SupervisedFlags,
}

impl Common {
    fn resolve(self, held: &Dir) -> Result<(SupervisedConfig, RunOptions)> {
        let run = RunDir::check(held, self.resume, self.overwrite)?;
        // A resumed run keeps its own settings unless they are given anew, and its adapter is the checkpoint's.
        let stored = self.resume.then(|| kept(&run)).transpose()?;
        let latest = if self.resume { run.latest()? } else { None };
        let config = layered(stored.as_deref(), self.config.as_deref(), &self.flags)?
            .resolve(&|dir| adapter_shape(latest.as_deref().unwrap_or(dir)))?;
        Ok((
            config,
            RunOptions {
                output: self.output,
                resume: self.resume,
                overwrite: self.overwrite,
            },
        ))
    }
}

impl SftArgs {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let held = Dir::hold(&self.common.output, &kinds::SFT)?;
        let (config, options) = self.common.resolve(&held)?;
        let outcome = sft::train(&globals.open_gpu_for_long()?, config, &options)?;
        summary(&outcome, &["loss"], "examples");
        Ok(())
    }
}

impl RewardArgs {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        if self.common.flags.train_on.is_some() {
            return Err(preference::no_turns());
        }
        let held = Dir::hold(&self.common.output, &kinds::REWARD)?;
        let (config, options) = self.common.resolve(&held)?;
        let outcome = preference::train(&globals.open_gpu_for_long()?, config, &options)?;
        summary(&outcome, &["accuracy", "loss"], "pairs");
        Ok(())
    }
}

/// The last lines of a run: how it does on what it was not trained on, and where it is.
fn summary(outcome: &Outcome, names: &[&str], unit: &str) {
    let values: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let value = outcome.eval.get(&format!("eval_{name}"))?.as_f64()?;
            Some(format!("{name} {value:.4}"))
        })
        .collect();
    if !values.is_empty() {
        tell(format_args!(
            "held-out {} ({} {unit})",
            values.join(", "),
            outcome.held_out
        ));
    }
    tell(format_args!("trained: {}", outcome.checkpoint.display()));
}
