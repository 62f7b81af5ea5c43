//! `tea-wgpu sft` and `tea-wgpu reward`.

use super::Globals;
use crate::config::{SupervisedConfig, SupervisedFlags, overlay, read_toml};
use crate::error::Result;
use crate::train::run::RunOptions;
use crate::train::{interrupt, preference, sft};
use std::path::PathBuf;

/// Fine-tune a language model on prompts and responses (masked cross-entropy)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu sft --model smollm2-135m --data chats.jsonl --output runs/sft
  tea-wgpu sft --model DIR --data pairs.jsonl --full --learning-rate 2e-3 --steps 2000 --output runs/full

Data: {\"prompt\": text, \"response\": text} or {\"messages\": [..., assistant]} a line")]
pub(crate) struct SftArgs {
    #[command(flatten)]
    common: Common,
}

/// Train a reward model on preferences (Bradley-Terry)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu reward --model smollm2-135m --data preferences.jsonl --head-only --output runs/head
  tea-wgpu reward --model smollm2-135m --adapter runs/head/checkpoints/step_200 --data preferences.jsonl --output runs/rm
  tea-wgpu reward --model DIR --data preferences.jsonl --full --output runs/rm

Data: {\"prompt\": text, \"chosen\": text, \"rejected\": text} a line")]
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
    fn resolve(self) -> Result<(SupervisedConfig, RunOptions)> {
        let file = self
            .config
            .as_deref()
            .map(read_toml::<SupervisedFlags>)
            .transpose()?
            .unwrap_or_default();
        let config = overlay(&file, &self.flags)?.resolve()?;
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
        let (config, options) = self.common.resolve()?;
        interrupt::install()?;
        let last = sft::train(&globals.open_gpu()?, &config, &options)?;
        println!("trained: {}", last.display());
        Ok(())
    }
}

impl RewardArgs {
    pub(crate) fn run(self, globals: &Globals) -> Result<()> {
        let (config, options) = self.common.resolve()?;
        interrupt::install()?;
        let last = preference::train(&globals.open_gpu()?, &config, &options)?;
        println!("trained: {}", last.display());
        Ok(())
    }
}
