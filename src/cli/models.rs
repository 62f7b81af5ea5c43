//! The flags of commands that sample from a policy and have a reward model judge the responses.

use std::path::PathBuf;

use super::common::{PrecisionFlag, TOKEN_BUDGET};
use crate::config::{Residency, TEMPLATE_DATE, TINY};
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::reward::{self, Reward, RewardOptions};
use crate::tensor::DType;
use crate::text::TemplateDate;
use crate::train::setup::default_reward;

/// Positions a reward model is set up for; a longer conversation is refused with a message.
const REWARD_POSITIONS: usize = 16_384;

/// Policy, judge, prompts, and how they are run.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelFlags {
    /// Language model: an alias, a directory, a GGUF file, or a hub id
    #[arg(long, default_value = TINY)]
    pub(crate) model: String,
    /// LoRA adapter directory (PEFT) on it (default: the base policy)
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Reward model, or true-score for the embedded tasks (default: the model's own, from the aliases)
    #[arg(long)]
    reward_model: Option<String>,
    /// LoRA adapter directory of the reward model
    #[arg(long, value_name = "DIR")]
    pub(crate) reward_adapter: Option<PathBuf>,
    /// Rows of {"prompt": text} or {"messages": […]} as JSON Lines, JSON, CSV or Parquet, plain, gzip or zstd; DIR[:SPLIT]; or a
    /// data set of the hub, ID[@REVISION][:SPLIT]
    /// (default: held-out prompts of the embedded tasks)
    #[arg(long, value_name = "FILE|ID")]
    pub(crate) prompts: Option<PathBuf>,
    /// Sequences sampled together
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) rollout_batch: usize,
    /// Most tokens in one pass of the reward model
    #[arg(long, value_name = "TOKENS", default_value_t = TOKEN_BUDGET)]
    token_budget: usize,
    /// Element type of the model: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long)]
    pub(crate) base_dtype: Option<DType>,
    /// Element type of the reward model
    #[arg(long)]
    pub(crate) reward_dtype: Option<DType>,
    /// Reward model on the device, or streamed block by block from the host: auto streams where it does not fit in what the policy
    /// leaves of the free memory, as far as that is known
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) reward_residency: Residency,
    #[command(flatten)]
    pub(crate) precision: PrecisionFlag,
    /// Do not wrap texts in the chat template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Date that the chat template sees (YYYY-MM-DD)
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    pub(crate) template_date: TemplateDate,
}

impl ModelFlags {
    /// The judge's name: asked for, or the policy's default.
    pub(crate) fn reward_name(&self) -> Result<String> {
        let default = || default_reward(&self.model);
        self.reward_model.clone().or_else(default).ok_or_else(|| {
            Error::user(format!(
                "--model {}: no default reward model; give --reward-model",
                self.model
            ))
        })
    }

    /// Loads the judge of this name; `free` bytes were free on the device before anything was put on it.
    pub(crate) fn judge(&self, gpu: &Gpu, name: &str, free: Option<u64>) -> Result<Box<dyn Reward>> {
        let options = RewardOptions {
            adapter: self.reward_adapter.as_deref(),
            dtype: self.reward_dtype,
            token_budget: self.token_budget,
            positions: REWARD_POSITIONS,
            residency: self.reward_residency,
            free,
            raw: self.raw,
            date: self.template_date,
        };
        reward::open(gpu, name, &options).context("--reward-model")
    }
}
