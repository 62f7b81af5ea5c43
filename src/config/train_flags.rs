//! The flags of `train` and `plan`, which are also the keys of a settings file.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::{ActivationMemory, DataSet, FloatDtype, GradientSum, MatmulPrecision, Optim, Residency};

/// How a sequence's log-probability is weighted in the loss (TRL's `loss_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LossType {
    /// The sum over the response's tokens: the policy-gradient estimator itself.
    Sum,
    /// Divided by the response's own length.
    Grpo,
    /// Divided by `max_completion_length` (arXiv 2503.20783).
    DrGrpo,
}

/// What advantages are divided by (as TRL's `scale_rewards`, but by the root mean square and for every rule).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ScaleAdvantages {
    /// Nothing: each rule's own units.
    #[default]
    None,
    /// The root mean square of their group.
    Group,
    /// The root mean square of all groups together.
    Batch,
}

/// Estimator of the KL term, per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// exp(d) − d − 1 with d = log π_ref − log π: TRL's; differentiated on-policy it gives ∇KL(π_ref‖π).
    K3,
    /// d²/2: its gradient is the per-token form of ∇KL(π‖π_ref).
    K2,
    /// log π − log π_ref as a stop-gradient penalty on the coefficient.
    K1,
}

/// Settings that may be left open: one struct for the TOML file and the flags of `train`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct TrainFlags {
    /// Policy: an alias, a directory, a GGUF file, or a hub id; without it, the embedded models and a small preset
    #[arg(long)]
    pub model: Option<String>,
    /// Reward model (default: what models/aliases.toml names for the policy)
    #[arg(long)]
    pub reward_model: Option<String>,
    /// LoRA adapter directory of the reward model
    #[arg(long, value_name = "DIR")]
    pub reward_adapter: Option<PathBuf>,
    /// Training prompts: rows of {"prompt": text} or {"messages": […]} as JSON Lines, JSON, CSV or Parquet, plain, gzip or zstd; a
    /// directory of such files, or a data set of the hub, ID or ID@REVISION; :SPLIT after either chooses one of several (default: what models/aliases.toml names for the policy)
    #[arg(long, value_name = "FILE|ID")]
    pub prompts: Option<PathBuf>,
    /// Leave out training prompts of more tokens (default: 512 for a data set, no limit for a JSON or CSV file)
    #[arg(long, value_name = "TOKENS")]
    pub max_prompt_length: Option<usize>,
    /// Rule that turns a group's rewards into advantages (default tea)
    #[arg(long)]
    pub advantage: Option<String>,
    /// Tail share α of the TEA rules and cvar, in (0, 1/2]; a fraction such as 1/5 is taken exactly
    #[arg(long)]
    #[serde(deserialize_with = "text_or_number")]
    pub alpha: Option<String>,
    /// Deployment budget N of best-of-N that the rule aims at (default 128; for cat-bon the group size)
    #[arg(long, value_name = "N")]
    pub bon: Option<u64>,
    /// Lower bound of the tail's standard deviation (TEA and Prefix-TEA)
    #[arg(long)]
    pub min_scale: Option<f64>,
    /// Prefix-TEA's order p: bias terms up to 1/m^(p-1) cancel (default 2)
    #[arg(long, value_name = "P")]
    pub prefix_order: Option<usize>,
    /// Prefix-TEA's number of prefixes J, at least the order (default 2)
    #[arg(long, value_name = "J")]
    pub prefixes: Option<usize>,
    /// Subset size K of bon-mean, pkpo, max-at-k and pass-at-k (default: half the group)
    #[arg(long, value_name = "K")]
    pub max_at_k: Option<usize>,
    /// How many of the group chow chooses its best from (default: half the group)
    #[arg(long, value_name = "SIZE")]
    pub selection_size: Option<usize>,
    /// How many tail samples the Gaussian shape weighs in tea-gpd's fit (default 20; 0 trusts the fit)
    #[arg(long, value_name = "SAMPLES")]
    pub gpd_shrinkage: Option<f64>,
    /// How much rs-grpo seeks risk, β in 1/reward (default 2)
    #[arg(long, value_name = "BETA")]
    pub risk_beta: Option<f64>,
    /// Quantile of the group that qae counts rewards from (default 0.5: the median)
    #[arg(long, value_name = "SHARE")]
    pub quantile: Option<f64>,
    /// Largest advantage that entropic gives (default: no limit)
    #[arg(long, value_name = "MOST")]
    pub max_advantage: Option<f64>,
    /// Divide advantages by the root mean square of their group or of the step, so that rules of different units are
    /// comparable (default none)
    #[arg(long, value_enum)]
    pub scale_advantages: Option<ScaleAdvantages>,
    /// Responses sampled for each prompt in a step, m
    #[arg(long, value_name = "M")]
    pub num_generations: Option<usize>,
    /// Prompts in a step, B
    #[arg(long, value_name = "B")]
    pub prompts_per_step: Option<usize>,
    /// Training steps
    #[arg(long)]
    pub steps: Option<u64>,
    /// Most tokens in a response
    #[arg(long, value_name = "TOKENS")]
    pub max_completion_length: Option<usize>,
    /// Sampling temperature; anything but 1 needs --allow-biased-sampling
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Nucleus sampling; anything but 1 needs --allow-biased-sampling
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Keep only the k likeliest tokens; anything but 0 needs --allow-biased-sampling
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Drop tokens below this share of the likeliest; anything but 0 needs --allow-biased-sampling
    #[arg(long)]
    pub min_p: Option<f64>,
    /// Train on samples that are not the policy's own distribution
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub allow_biased_sampling: Option<bool>,
    /// How a response's tokens are weighted
    #[arg(long, value_enum)]
    pub loss_type: Option<LossType>,
    /// Matrix products in f32, sampling and training in one order of every sum (highest); in f32, those of small decode steps in another
    /// order that keeps a GPU busier (high); or with operands rounded to f16 and sums in f32 on cooperative matrices (medium): faster
    /// on GPUs that have them, refused by adapters that have none
    #[arg(long, value_enum)]
    pub matmul_precision: Option<MatmulPrecision>,
    /// Keys and values that sampling keeps: as computed (float32), or rounded to f16 (float16), which take half the memory and move the
    /// sampler's log-probabilities a little from the trainer's (`mismatch_kl`) (default: what --dtype says)
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache_dtype: Option<FloatDtype>,
    /// Weight of the KL term
    #[arg(long)]
    pub beta: Option<f64>,
    /// Estimator of the KL term
    #[arg(long, value_enum)]
    pub kl_estimator: Option<KlEstimator>,
    /// Optimiser steps on each batch of samples; above 1 the PPO-clipped ratio is used
    #[arg(long)]
    pub num_iterations: Option<usize>,
    /// PPO's clipping range
    #[arg(long)]
    pub epsilon: Option<f64>,
    /// Optimiser: AdamW with f32 moments, or with moments of 8 bits, which take a quarter of the memory (default adamw)
    #[arg(long, value_enum)]
    pub optim: Option<Optim>,
    /// Learning rate (default 1e-4 for LoRA, 1e-5 with --full)
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Steps of linear warm-up, constant afterwards
    #[arg(long)]
    pub warmup_steps: Option<u64>,
    /// AdamW's decoupled weight decay
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Global gradient-norm clip; 0 turns it off
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// Train every weight instead of a LoRA adapter
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub full: Option<bool>,
    /// LoRA rank r
    #[arg(long)]
    pub lora_rank: Option<usize>,
    /// LoRA alpha; the adapter is scaled by alpha / r
    #[arg(long)]
    pub lora_alpha: Option<f64>,
    /// Seed of everything random in the run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps between checkpoints
    #[arg(long)]
    pub save_steps: Option<u64>,
    /// Keep the best checkpoint by these prompts: as --prompts, or `embedded` for the demo's validation set
    #[arg(long, value_name = "FILE")]
    pub validation_prompts: Option<PathBuf>,
    /// Most validation prompts: the file's first ones (default 128)
    #[arg(long, value_name = "N")]
    pub validation_size: Option<usize>,
    /// Responses sampled for each validation prompt (default 32)
    #[arg(long, value_name = "N")]
    pub validation_samples: Option<usize>,
    /// A checkpoint's score is the mean of a validation prompt's best K rewards (default 10)
    #[arg(long, value_name = "K", visible_alias = "top")]
    #[serde(alias = "top")]
    pub validation_top: Option<usize>,
    /// Steps between validations; the last step is always validated (default 25)
    #[arg(long, value_name = "STEPS")]
    pub validation_steps: Option<u64>,
    /// Most tokens in one forward and backward pass; results do not depend on it. At least one piece of a prompt fits: 1024 tokens, or
    /// the longest prompt and response
    #[arg(long, value_name = "TOKENS")]
    pub token_budget: Option<usize>,
    /// Sequences sampled together
    #[arg(long)]
    pub rollout_batch: Option<usize>,
    /// Keep every layer's activations instead of recomputing them: faster, more memory
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_checkpointing: Option<bool>,
    /// What the activations that backward passes read may take: as many of the last blocks' as fit are kept, the others
    /// recomputed. A size (512MiB, 2GiB, bytes), or auto: what is left of the free memory, where that is known (default: one
    /// block's)
    #[arg(long, value_name = "SIZE|auto", conflicts_with = "no_checkpointing")]
    pub activation_memory: Option<ActivationMemory>,
    /// How the gradients of a step's prompts are added up: in a binary tree, which needs a set of gradient buffers more for each
    /// doubling of --prompts-per-step, or ascending in one set. Neither depends on --token-budget. auto takes the tree where its buffers
    /// fit in the free memory; where that is not known, where they take at most 1 GiB (default auto)
    #[arg(long, value_enum)]
    pub gradient_sum: Option<GradientSum>,
    /// Element type of the activations that are kept for backward passes (--no-checkpointing, --activation-memory): float32, or
    /// float16, which takes a third of the memory and rounds what gradients are computed from, of recomputed blocks as well; and of
    /// the KV cache, unless --kv-cache-dtype is given (default float32)
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
    /// Element type of the frozen policy: f32, f16, bf16, q8_0, q4_0 (default: the largest of f32, the stored type and q8_0
    /// that fits, where the free memory is known; a GGUF file's blocks stay as they are)
    #[arg(long)]
    pub base_dtype: Option<String>,
    /// Element type of the reward model (default: as for --base-dtype)
    #[arg(long)]
    pub reward_dtype: Option<String>,
    /// Reward model on the device, or streamed block by block from the host's files: auto streams where the run does not fit in the
    /// free memory otherwise, as far as that is known (default auto)
    #[arg(long, value_enum)]
    pub reward_residency: Option<Residency>,
    /// Do not wrap prompts in the model's chat template
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub raw: Option<bool>,
    /// Date that chat templates see (YYYY-MM-DD); fixed so that runs can be repeated
    #[arg(long, value_name = "DATE")]
    pub template_date: Option<String>,
    /// What `--prompts` stood for in the run that wrote this; holds as long as `--prompts` says the same.
    #[arg(skip)]
    pub prompt_set: Option<DataSet>,
    /// Where the run that wrote these settings was started: relative paths in them are meant from there.
    #[arg(skip)]
    pub directory: Option<PathBuf>,
}

/// A text, or a number as its text: `alpha = 0.2` as well as `alpha = "1/5"`.
fn text_or_number<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a number, or a fraction as a string")]
    enum Value {
        Text(String),
        Number(f64),
    }
    Ok(Option::<Value>::deserialize(from)?.map(|v| match v {
        Value::Text(text) => text,
        Value::Number(number) => number.to_string(),
    }))
}
