//! Settings of `sft` and `reward`: how they are resolved and checked.

use super::memory::one_of;
use super::setting::Given;
use super::{SupervisedConfig, SupervisedFlags, range};
use crate::error::{Context, Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::Path;

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

impl SupervisedFlags {
    /// Fills what is open with defaults.
    ///
    /// `adapter_shape` reads rank and alpha of the adapter to start from, which no flag changes.
    ///
    /// # Errors
    /// No model or data, a value out of range, or another rank or alpha than the adapter's.
    pub fn resolve(mut self, adapter_shape: &AdapterShape<'_>) -> Result<SupervisedConfig> {
        if self.model.is_none() {
            return Err(Error::user("no model to start from: give --model"));
        }
        if self.data.is_none() {
            return Err(Error::user(
                "no training data: give --data FILE, or a data set of the hub",
            ));
        }
        let (rank, alpha) = self.lora(adapter_shape)?;
        (self.lora_rank, self.lora_alpha) = (Some(rank), Some(alpha));
        let config = self.filled();
        config.validate()?;
        Ok(config)
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
