//! `bench rollout`, `bench train` and `bench e2e`.

use super::Common;
use crate::bench::output::{Header, Row, by_kernel};
use crate::bench::policy::{Policy, PolicySettings};
use crate::bench::rollout;
use crate::bench::train::{self, Settings};
use crate::bench::{advantage, block};
use crate::cli::Globals;
use crate::cli::common::{KvCacheFlag, PrecisionFlag};
use crate::config::{ActivationMemory, FloatDtype, Optim, parse_bytes};
use crate::error::{Context, Result};
use crate::gpu::{Gpu, GpuOptions};
use crate::tensor::DType;

/// The model that is measured.
#[derive(Debug, clap::Args)]
struct PolicyFlags {
    /// Policy: an alias, a directory, a GGUF file, a hub id, or random weights: random:smollm2-135m, random:360m,
    /// random:llama-1b, random:llama-8b
    #[arg(long, default_value = "random:smollm2-135m")]
    model: String,
    /// Element type of the frozen policy: f32, f16, bf16, q8_0, q4_0 (default: as in training; random weights f32)
    #[arg(long)]
    base_dtype: Option<DType>,
    /// Seed of weights, prompts and samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most tokens in one forward and backward pass
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    token_budget: usize,
    #[command(flatten)]
    precision: PrecisionFlag,
    /// Time every dispatch and add a row a kernel: its share of the whole run, warm-up included (slower)
    #[arg(long)]
    profile: bool,
}

impl PolicyFlags {
    fn settings(&self, lora_rank: usize) -> PolicySettings {
        PolicySettings {
            model: self.model.clone(),
            dtype: self.base_dtype,
            lora_rank,
            seed: self.seed,
        }
    }
}

/// Tokens a second of prefill, of decoding, and of sampling groups
///
/// pp512 is a prompt of 512 tokens with the logits after it; tg32 decodes 32 tokens for each sequence of a batch;
/// "sample B×m×T" draws m responses of T tokens to each of B prompts, prefill included. Prompts are made-up tokens and
/// no token ends a response.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench rollout
  tea-wgpu bench rollout --model smollm2.gguf --prefill 64,512 --decode 1 --decode-length 64
  tea-wgpu bench rollout --model random:llama-1b --base-dtype q8_0 -o jsonl")]
pub(super) struct RolloutArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    policy: PolicyFlags,
    /// LoRA rank of a fresh adapter; 0 for none
    #[arg(long, default_value_t = 0)]
    lora_rank: usize,
    /// Prompt lengths of the prefill tests
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,512",
        value_name = "TOKENS,…"
    )]
    prefill: Vec<usize>,
    /// Batch sizes of the decode tests
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_name = "N,…")]
    decode: Vec<usize>,
    /// Tokens that a decode test generates for each sequence
    #[arg(long, default_value_t = 32, value_name = "TOKENS")]
    decode_length: usize,
    /// Prompts of the sampling test, B
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Responses a prompt, m
    #[arg(long, default_value_t = 16, value_name = "M")]
    num_generations: usize,
    /// Tokens of a prompt in the sampling test
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    prompt_length: usize,
    /// Tokens of a response in the sampling test
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    max_completion_length: usize,
    #[command(flatten)]
    cache: KvCacheFlag,
}

/// What a step keeps on the device between its phases.
#[derive(Debug, clap::Args)]
struct KeptFlags {
    /// Keep every layer's activations instead of recomputing them
    #[arg(long)]
    no_checkpointing: bool,
    /// What the activations that the backward pass reads may take (512MiB, 2GiB): as many of the last blocks' as fit are kept
    #[arg(long, value_name = "SIZE", conflicts_with = "no_checkpointing", value_parser = parse_bytes)]
    activation_memory: Option<u64>,
    /// Element type of the activations that are kept for the backward pass
    #[arg(long, value_enum, default_value = "float32")]
    dtype: FloatDtype,
    /// Optimiser: f32 moments, or moments of 8 bits
    #[arg(long, value_enum, default_value = "adamw")]
    optim: Optim,
}

/// Seconds of forward, backward and optimiser of a LoRA step on made-up sequences, and its peak memory
///
/// The default is 8 sequences of 128 tokens, every token but the first a target.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench train --no-checkpointing
  tea-wgpu bench train --block
  tea-wgpu bench train --model random:llama-1b --base-dtype q4_0 --batch 2 --max-completion-length 512")]
pub(super) struct TrainArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    policy: PolicyFlags,
    /// LoRA rank r
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// Prompts, B
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Responses a prompt, m
    #[arg(long, default_value_t = 1, value_name = "M")]
    num_generations: usize,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 1, value_name = "TOKENS")]
    prompt_length: usize,
    /// Tokens of a response; the last is predicted, not read
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    max_completion_length: usize,
    #[command(flatten)]
    kept: KeptFlags,
    /// One block with every weight's gradient, in place of a model with an adapter: --batch sequences of
    /// --max-completion-length tokens
    #[arg(long)]
    block: bool,
}

/// Seconds of a whole training step by phase (sample, score, reference, forward, backward, optimizer), and its peak memory
///
/// Each phase ends with a wait for the device. A "whole step" is taken as `train` takes it, with TEA:
/// its host waits are the sampling windows and one readback at the end. Also every advantage rule over
/// 10,000 groups of 64 rewards on the CPU, and its share of the step.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench e2e
  tea-wgpu bench e2e --model random:360m --reward-model random:llama-1b --reward-dtype q8_0 --batch 4 --num-generations 32
  tea-wgpu bench e2e --save-baseline before.json")]
pub(super) struct E2eArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    policy: PolicyFlags,
    /// Reward model: as --model; without it nothing is scored
    #[arg(long)]
    reward_model: Option<String>,
    /// Element type of the reward model
    #[arg(long)]
    reward_dtype: Option<DType>,
    /// LoRA rank r
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// Prompts in a step, B
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Responses a prompt, m
    #[arg(long, default_value_t = 16, value_name = "M")]
    num_generations: usize,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    prompt_length: usize,
    /// Tokens of a response
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    max_completion_length: usize,
    #[command(flatten)]
    kept: KeptFlags,
    /// Keys and values that sampling keeps: as computed (float32), or rounded to f16 (float16), which take half the memory (default:
    /// what --dtype says)
    #[arg(long, value_enum, value_name = "TYPE")]
    kv_cache_dtype: Option<FloatDtype>,
    /// Leave out the reference policy's log-probabilities, as a run with --beta 0 does
    #[arg(long)]
    no_reference: bool,
}

/// Reads the run to compare with, measures, reports.
fn measured(
    globals: &Globals,
    common: &Common,
    command: &str,
    policy: &PolicyFlags,
    work: impl FnOnce(&Gpu) -> Result<Vec<Row>>,
) -> Result<()> {
    let old = common.old()?;
    let gpu = Globals::open(&GpuOptions {
        profile: policy.profile,
        ..globals.gpu_options()?
    })?;
    gpu.set_matmul_precision(policy.precision.matmul_precision)?;
    let mut rows = work(&gpu)?;
    rows.extend(by_kernel(&gpu.profile()));
    common.finish(&Header::new(gpu.report(), command), &rows, old.as_ref())
}

impl RolloutArgs {
    pub(super) fn run(&self, globals: &Globals) -> Result<()> {
        let settings = rollout::Settings {
            prefill: self.prefill.clone(),
            decode: self.decode.clone(),
            decode_length: self.decode_length,
            batch: self.batch,
            num_generations: self.num_generations,
            prompt_length: self.prompt_length,
            max_completion_length: self.max_completion_length,
            repetitions: self.common.repetitions.into(),
            token_budget: self.policy.token_budget,
            kv_cache_dtype: self.cache.kv_cache_dtype,
        };
        settings.validate()?;
        measured(globals, &self.common, "rollout", &self.policy, |gpu| {
            let s = self.policy.settings(self.lora_rank);
            let policy = Policy::open(gpu, &s, settings.positions(), false)?;
            rollout::run(&policy, &settings)
        })
    }
}

impl TrainArgs {
    pub(super) fn run(&self, globals: &Globals) -> Result<()> {
        let settings = Settings {
            batch: self.batch,
            num_generations: self.num_generations,
            prompt_length: self.prompt_length,
            max_completion_length: self.max_completion_length,
            repetitions: self.common.repetitions.into(),
            token_budget: self.policy.token_budget,
            no_checkpointing: self.kept.no_checkpointing,
            activation_memory: self.kept.activation_memory.map(ActivationMemory::Bytes),
            dtype: self.kept.dtype,
            optim: self.kept.optim,
            kv_cache_dtype: self.kept.dtype,
            reference: false,
        };
        settings.validate()?;
        measured(globals, &self.common, "train", &self.policy, |gpu| {
            let s = self.policy.settings(self.lora_rank);
            if self.block {
                let policy = Policy::block(gpu, &s, self.max_completion_length)?;
                return block::run(
                    &policy,
                    self.batch,
                    self.max_completion_length,
                    settings.repetitions,
                );
            }
            let policy = Policy::open(gpu, &s, settings.positions(false), false)?;
            train::run(&policy, &settings, None, false)
        })
    }
}

impl E2eArgs {
    fn settings(&self) -> Settings {
        Settings {
            batch: self.batch,
            num_generations: self.num_generations,
            prompt_length: self.prompt_length,
            max_completion_length: self.max_completion_length,
            repetitions: self.common.repetitions.into(),
            token_budget: self.policy.token_budget,
            no_checkpointing: self.kept.no_checkpointing,
            activation_memory: self.kept.activation_memory.map(ActivationMemory::Bytes),
            dtype: self.kept.dtype,
            optim: self.kept.optim,
            kv_cache_dtype: self.kv_cache_dtype.unwrap_or(self.kept.dtype),
            reference: !self.no_reference,
        }
    }

    pub(super) fn run(&self, globals: &Globals) -> Result<()> {
        let settings = self.settings();
        settings.validate()?;
        measured(globals, &self.common, "e2e", &self.policy, |gpu| {
            let s = self.policy.settings(self.lora_rank);
            let policy =
                Policy::open(gpu, &s, settings.positions(false), false)?.for_steps_of(settings.batch)?;
            let judge = self.reward_model.as_ref().map(|model| {
                let s = PolicySettings {
                    model: model.clone(),
                    dtype: self.reward_dtype,
                    lora_rank: 0,
                    seed: self.policy.seed + 1,
                };
                Policy::open(gpu, &s, settings.positions(true), true).context("--reward-model")
            });
            let mut rows = train::run(&policy, &settings, judge.transpose()?.as_ref(), true)?;
            let step = rows.iter().find(|r| r.test.starts_with("step "));
            let step = step.map_or(f64::NAN, |r| r.value);
            rows.extend(advantage::rows(advantage::GROUPS, settings.repetitions, step)?);
            Ok(rows)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct E2e {
        #[command(flatten)]
        args: E2eArgs,
    }

    #[test]
    fn the_cache_is_of_the_type_of_the_activations_unless_it_is_given() {
        let cache = |flags: &str| {
            let words = std::iter::once("e2e").chain(flags.split_whitespace());
            let settings = E2e::try_parse_from(words).unwrap().args.settings();
            (settings.dtype, settings.kv_cache_dtype)
        };
        let (single, half) = (FloatDtype::Float32, FloatDtype::Float16);
        assert_eq!(cache(""), (single, single));
        assert_eq!(cache("--dtype float16"), (half, half));
        assert_eq!(cache("--dtype float16 --kv-cache-dtype float32"), (half, single));
        assert_eq!(cache("--kv-cache-dtype float16"), (single, half));
    }
}
