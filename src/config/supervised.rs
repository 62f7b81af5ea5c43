//! Settings of `sft` and `reward`.

use super::memory::one_of;
use super::{ActivationMemory, DataSet, FloatDtype, MatmulPrecision, Optim, TEMPLATE_DATE, range};
use crate::error::{Context, Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the learning rate does after warm-up (transformers' `lr_scheduler_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// Which assistant turns of a conversation `sft` learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// Every one (TRL's `assistant_only_loss`).
    #[default]
    All,
    /// The last one; the turns before it are context.
    Last,
}

/// Reads rank and alpha of the adapter in a directory.
pub type AdapterShape<'a> = dyn Fn(&Path) -> Result<(usize, f64)> + 'a;

/// Settings that may be left open: one struct for the TOML file and the flags of `sft` and `reward`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisedFlags {
    /// Model to start from: an alias, a directory, a GGUF file, or a hub id
    #[arg(long)]
    pub model: Option<String>,
    /// LoRA adapter to start from instead of a fresh one
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Training data: a file (JSON Lines, JSON, CSV or Parquet), a directory, or a data set of the hub, OWNER/NAME or
    /// OWNER/NAME@REVISION; :SPLIT after a directory or data set chooses one of several
    #[arg(long, value_name = "FILE|DIR|ID")]
    pub data: Option<PathBuf>,
    /// Held-out data, as --data; without it a share of --data is held out
    #[arg(long, value_name = "FILE|DIR|ID")]
    pub eval_data: Option<PathBuf>,
    /// Share of --data that is held out where there is no --eval-data
    #[arg(long)]
    pub eval_fraction: Option<f64>,
    /// Optimiser steps (default: one pass over the data)
    #[arg(long)]
    pub steps: Option<u64>,
    /// Examples in an optimiser step
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Optimiser: AdamW with f32 moments, or with moments of 8 bits, which take a quarter of the memory (default adamw)
    #[arg(long, value_enum)]
    pub optim: Option<Optim>,
    /// Learning rate (default 1e-4 for LoRA, 1e-5 with --full)
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Steps of linear warm-up
    #[arg(long)]
    pub warmup_steps: Option<u64>,
    /// What the learning rate does after warm-up
    #[arg(long, value_enum)]
    pub lr_scheduler_type: Option<Schedule>,
    /// AdamW's decoupled weight decay
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Global gradient-norm clip; 0 turns it off
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// Train every weight instead of a LoRA adapter
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub full: Option<bool>,
    /// Train only the score head (reward): the backbone runs once over the data
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub head_only: Option<bool>,
    /// Assistant turns that sft learns: all, or the last alone (default all)
    #[arg(long, value_name = "TURNS", value_enum)]
    pub train_on: Option<TrainOn>,
    /// LoRA rank r (default 16; with --adapter, the adapter's)
    #[arg(long)]
    pub lora_rank: Option<usize>,
    /// LoRA alpha; the adapter is scaled by alpha / r (default 2 r; with --adapter, the adapter's)
    #[arg(long)]
    pub lora_alpha: Option<f64>,
    /// Seed of everything random in the run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps between checkpoints
    #[arg(long)]
    pub save_steps: Option<u64>,
    /// Steps between evaluations on the held-out data
    #[arg(long)]
    pub eval_steps: Option<u64>,
    /// Most tokens in one forward and backward pass
    #[arg(long, value_name = "TOKENS")]
    pub token_budget: Option<usize>,
    /// Longest example in tokens; longer ones are left out and counted
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Keep every layer's activations instead of recomputing them: faster, more memory
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_checkpointing: Option<bool>,
    /// What the activations that backward passes read may take: as many of the last blocks' as fit are kept, the others
    /// recomputed. A size (512MiB, 2GiB, bytes), or auto: what is left of the free memory, where that is known (default: one
    /// block's)
    #[arg(long, value_name = "SIZE|auto", conflicts_with = "no_checkpointing")]
    pub activation_memory: Option<ActivationMemory>,
    /// Matrix products in f32, every sum in one order (highest; high is the same here: it is about sampling); or with operands rounded
    /// to f16 and sums in f32 on cooperative matrices (medium): faster on GPUs that have them, refused by adapters that have none
    #[arg(long, value_enum)]
    pub matmul_precision: Option<MatmulPrecision>,
    /// Element type of the activations that are kept for backward passes (--no-checkpointing, --activation-memory): float32, or
    /// float16, which takes a third of the memory and rounds what gradients are computed from, of recomputed blocks as well (default
    /// float32)
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
    /// Element type of the frozen weights: f32, f16, bf16, q8_0, q4_0 (default: the largest of f32, the stored type and q8_0
    /// that fits, where the free memory is known; a GGUF file's blocks stay as they are)
    #[arg(long)]
    pub base_dtype: Option<String>,
    /// Do not wrap prompts in the model's chat template
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub raw: Option<bool>,
    /// Date that chat templates see (YYYY-MM-DD)
    #[arg(long, value_name = "DATE")]
    pub template_date: Option<String>,
    /// Where the run that wrote these settings was started: relative paths in them are meant from there.
    #[arg(skip)]
    pub directory: Option<PathBuf>,
    /// What `--data` stood for in the run that wrote this; holds as long as `--data` says the same.
    #[arg(skip)]
    pub data_set: Option<DataSet>,
}

/// Resolved settings of an `sft` or `reward` run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the fields are documented on SupervisedFlags, whose names they share"
)]
pub struct SupervisedConfig {
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    pub data: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<PathBuf>,
    pub eval_fraction: f64,
    /// `None`: one pass over the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    pub batch_size: usize,
    #[serde(default)]
    pub optim: Optim,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub lr_scheduler_type: Schedule,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub full: bool,
    pub head_only: bool,
    /// `None` in `reward` runs, which compare whole answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_on: Option<TrainOn>,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub seed: u64,
    pub save_steps: u64,
    pub eval_steps: u64,
    pub token_budget: usize,
    pub max_length: usize,
    pub no_checkpointing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_memory: Option<ActivationMemory>,
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_highest")]
    pub matmul_precision: MatmulPrecision,
    #[serde(default, skip_serializing_if = "FloatDtype::is_float32")]
    pub dtype: FloatDtype,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_dtype: Option<String>,
    pub raw: bool,
    pub template_date: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    pub data_set: Option<DataSet>,
}

impl SupervisedFlags {
    /// Fills what is open with defaults.
    ///
    /// `adapter_shape` reads rank and alpha of the adapter to start from, which no flag changes.
    ///
    /// # Errors
    /// No model or data, a value out of range, or another rank or alpha than the adapter's.
    pub fn resolve(self, adapter_shape: &AdapterShape<'_>) -> Result<SupervisedConfig> {
        let full = self.full.unwrap_or(false);
        let (lora_rank, lora_alpha) = self.lora(adapter_shape)?;
        let c = SupervisedConfig {
            model: self
                .model
                .ok_or_else(|| Error::user("no model to start from: give --model"))?,
            adapter: self.adapter,
            data: self
                .data
                .ok_or_else(|| Error::user("no training data: give --data FILE, or a data set of the hub"))?,
            eval_data: self.eval_data,
            eval_fraction: self.eval_fraction.unwrap_or(0.05),
            steps: self.steps,
            batch_size: self.batch_size.unwrap_or(32),
            optim: self.optim.unwrap_or_default(),
            learning_rate: self.learning_rate.unwrap_or(if full { 1e-5 } else { 1e-4 }),
            warmup_steps: self.warmup_steps.unwrap_or(10),
            lr_scheduler_type: self.lr_scheduler_type.unwrap_or(Schedule::Constant),
            weight_decay: self.weight_decay.unwrap_or(0.0),
            max_grad_norm: self.max_grad_norm.unwrap_or(1.0),
            full,
            head_only: self.head_only.unwrap_or(false),
            train_on: self.train_on,
            lora_rank,
            lora_alpha,
            seed: self.seed.unwrap_or(1),
            save_steps: self.save_steps.unwrap_or(100),
            eval_steps: self.eval_steps.unwrap_or(50),
            token_budget: self.token_budget.unwrap_or(2048),
            max_length: self.max_length.unwrap_or(1024),
            no_checkpointing: self.no_checkpointing.unwrap_or(false),
            activation_memory: self.activation_memory,
            matmul_precision: self.matmul_precision.unwrap_or_default(),
            dtype: self.dtype.unwrap_or_default(),
            base_dtype: self.base_dtype,
            raw: self.raw.unwrap_or(false),
            template_date: self.template_date.unwrap_or_else(|| TEMPLATE_DATE.into()),
            directory: self.directory,
            data_set: self.data_set,
        };
        c.validate()?;
        Ok(c)
    }

    /// Rank and alpha: the adapter's own where a run starts from one.
    fn lora(&self, adapter_shape: &AdapterShape<'_>) -> Result<(usize, f64)> {
        let Some(dir) = &self.adapter else {
            let rank = self.lora_rank.unwrap_or(16);
            return Ok((rank, self.lora_alpha.unwrap_or(2.0 * rank as f64)));
        };
        let (rank, alpha) = adapter_shape(dir).context("--adapter")?;
        let asked = [
            ("--lora-rank", self.lora_rank.map(|r| r as f64), rank as f64),
            ("--lora-alpha", self.lora_alpha, alpha),
        ];
        for (flag, asked, own) in asked {
            if let Some(asked) = asked.filter(|asked| *asked != own) {
                return Err(Error::user(format!(
                    "{flag} is {asked}, but the adapter in {} has {own}: leave {flag} out to train that adapter on, or \
                     --adapter to start a fresh one",
                    dir.display()
                )));
            }
        }
        Ok((rank, alpha))
    }
}

impl SupervisedConfig {
    /// Checks every value that a user may set.
    ///
    /// # Errors
    /// The first one out of range, by the flag's name.
    pub fn validate(&self) -> Result<()> {
        range::check_settings(self)?;
        one_of(self.activation_memory, self.no_checkpointing)?;
        if self.dtype.is_half() && self.activation_memory.is_none() && !self.no_checkpointing {
            return Err(Error::user(
                "--dtype float16 is the type of activations that are kept for backward passes, and none are: give --no-checkpointing or \
                 --activation-memory with it, or leave it out",
            ));
        }
        if self.full && (self.head_only || self.adapter.is_some()) {
            return Err(Error::user("--full excludes --head-only and --adapter"));
        }
        Ok(())
    }

    /// Writes the settings as TOML.
    ///
    /// # Errors
    /// Never for a valid configuration.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(Error::internal)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_type_of_activations_that_are_not_kept_is_refused() {
        let flags = |more: &str| {
            let text = format!("model = \"m\"\ndata = \"d.jsonl\"\n{more}");
            let flags: SupervisedFlags = toml::from_str(&text).unwrap();
            flags.resolve(&|_| Ok((1, 1.0)))
        };
        let error = flags("dtype = \"float16\"").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in ["--dtype float16", "--no-checkpointing", "--activation-memory"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        for more in [
            "dtype = \"float32\"",
            "dtype = \"float16\"\nno_checkpointing = true",
            "dtype = \"float16\"\nactivation_memory = \"1GiB\"",
        ] {
            flags(more).unwrap();
        }
    }
}
