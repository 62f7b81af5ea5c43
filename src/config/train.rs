//! Settings of `train` and `plan`, resolved and checked.

use super::memory::one_of;
use super::train_flags::{KlEstimator, LossType, ScaleAdvantages, TrainFlags};
use super::{
    ActivationMemory, DataSet, FloatDtype, GradientSum, MatmulPrecision, Optim, Residency, TEMPLATE_DATE,
    TINY, range,
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Resolved settings of a `train` run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the fields are documented on TrainFlags, whose names they share"
)]
pub struct TrainConfig {
    pub model: String,
    pub reward_model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_adapter: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_length: Option<usize>,
    pub advantage: String,
    pub alpha: String,
    /// What was asked for; without it each rule has its own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bon: Option<u64>,
    pub min_scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_order: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_at_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpd_shrinkage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk_beta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_advantage: Option<f64>,
    #[serde(default)]
    pub scale_advantages: ScaleAdvantages,
    pub num_generations: usize,
    pub prompts_per_step: usize,
    pub steps: u64,
    pub max_completion_length: usize,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: u32,
    pub min_p: f64,
    pub allow_biased_sampling: bool,
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_highest")]
    pub matmul_precision: MatmulPrecision,
    #[serde(default)]
    pub kv_cache_dtype: FloatDtype,
    pub loss_type: LossType,
    pub beta: f64,
    pub kl_estimator: KlEstimator,
    pub num_iterations: usize,
    pub epsilon: f64,
    #[serde(default)]
    pub optim: Optim,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub full: bool,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub seed: u64,
    pub save_steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_prompts: Option<PathBuf>,
    pub validation_size: usize,
    pub validation_samples: usize,
    pub validation_top: usize,
    pub validation_steps: u64,
    pub token_budget: usize,
    pub rollout_batch: usize,
    pub no_checkpointing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_memory: Option<ActivationMemory>,
    #[serde(default)]
    pub gradient_sum: GradientSum,
    #[serde(default, skip_serializing_if = "FloatDtype::is_float32")]
    pub dtype: FloatDtype,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_dtype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_dtype: Option<String>,
    #[serde(default)]
    pub reward_residency: Residency,
    pub raw: bool,
    pub template_date: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_set: Option<DataSet>,
}

impl TrainFlags {
    /// Fills what is open with defaults: the small preset for the embedded model, the paper's scale otherwise.
    ///
    /// `default_reward` is what the aliases name for the policy.
    ///
    /// # Errors
    /// A value out of range, or no reward model.
    pub fn resolve(self, default_reward: &dyn Fn(&str) -> Option<String>) -> Result<TrainConfig> {
        let model = self.model.unwrap_or_else(|| TINY.to_string());
        let tiny = model == TINY;
        let full = self.full.unwrap_or(false);
        let reward_model = self
            .reward_model
            .or_else(|| default_reward(&model))
            .ok_or_else(|| {
                Error::user(format!(
                    "no reward model: {model} has no default one in models/aliases.toml; give --reward-model"
                ))
            })?;
        let config = TrainConfig {
            model,
            reward_model,
            reward_adapter: self.reward_adapter,
            prompts: self.prompts,
            max_prompt_length: self.max_prompt_length,
            advantage: self.advantage.unwrap_or_else(|| "tea".into()),
            alpha: self.alpha.unwrap_or_else(|| "0.2".into()),
            bon: self.bon,
            min_scale: self.min_scale.unwrap_or(1e-8),
            prefix_order: self.prefix_order,
            prefixes: self.prefixes,
            max_at_k: self.max_at_k,
            selection_size: self.selection_size,
            gpd_shrinkage: self.gpd_shrinkage,
            risk_beta: self.risk_beta,
            quantile: self.quantile,
            max_advantage: self.max_advantage,
            scale_advantages: self.scale_advantages.unwrap_or_default(),
            num_generations: self.num_generations.unwrap_or(if tiny { 16 } else { 64 }),
            prompts_per_step: self.prompts_per_step.unwrap_or(if tiny { 16 } else { 8 }),
            steps: self.steps.unwrap_or(if tiny { 60 } else { 450 }),
            max_completion_length: self.max_completion_length.unwrap_or(if tiny { 24 } else { 512 }),
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            min_p: self.min_p.unwrap_or(0.0),
            allow_biased_sampling: self.allow_biased_sampling.unwrap_or(false),
            matmul_precision: self.matmul_precision.unwrap_or_default(),
            kv_cache_dtype: self.kv_cache_dtype.or(self.dtype).unwrap_or_default(),
            loss_type: self.loss_type.unwrap_or(LossType::DrGrpo),
            beta: self.beta.unwrap_or(0.02),
            kl_estimator: self.kl_estimator.unwrap_or(KlEstimator::K3),
            num_iterations: self.num_iterations.unwrap_or(1),
            epsilon: self.epsilon.unwrap_or(0.2),
            optim: self.optim.unwrap_or_default(),
            learning_rate: self.learning_rate.unwrap_or(default_rate(full, tiny)),
            warmup_steps: self.warmup_steps.unwrap_or(if tiny { 2 } else { 10 }),
            weight_decay: self.weight_decay.unwrap_or(0.0),
            max_grad_norm: self.max_grad_norm.unwrap_or(1.0),
            full,
            lora_rank: self.lora_rank.unwrap_or(16),
            lora_alpha: self.lora_alpha.unwrap_or(32.0),
            seed: self.seed.unwrap_or(1),
            save_steps: self.save_steps.unwrap_or(25),
            validation_prompts: self.validation_prompts,
            validation_size: self.validation_size.unwrap_or(128),
            validation_samples: self.validation_samples.unwrap_or(32),
            validation_top: self.validation_top.unwrap_or(10),
            validation_steps: self.validation_steps.unwrap_or(25),
            token_budget: self.token_budget.unwrap_or(2048),
            rollout_batch: self.rollout_batch.unwrap_or(256),
            no_checkpointing: self.no_checkpointing.unwrap_or(false),
            activation_memory: self.activation_memory,
            gradient_sum: self.gradient_sum.unwrap_or_default(),
            dtype: self.dtype.unwrap_or_default(),
            base_dtype: self.base_dtype,
            reward_dtype: self.reward_dtype,
            reward_residency: self.reward_residency.unwrap_or_default(),
            raw: self.raw.unwrap_or(false),
            template_date: self.template_date.unwrap_or_else(|| TEMPLATE_DATE.into()),
            prompt_set: self.prompt_set,
            directory: self.directory,
        };
        config.validate()?;
        Ok(config)
    }
}

/// The learning rate where none is given; the embedded model is so small that it takes larger steps.
fn default_rate(full: bool, tiny: bool) -> f64 {
    match (full, tiny) {
        (false, true) => 5e-4,
        (false, false) => 1e-4,
        (true, true) => 1e-4,
        (true, false) => 1e-5,
    }
}

impl TrainConfig {
    /// Checks every value that a user may set.
    ///
    /// # Errors
    /// The first one out of range, by the flag's name.
    pub fn validate(&self) -> Result<()> {
        range::check_settings(self)?;
        one_of(self.activation_memory, self.no_checkpointing)?;
        let step = [
            ("--prompts-per-step", self.prompts_per_step as u64),
            ("--num-generations", self.num_generations as u64),
        ];
        range::check_product(&step, range::RESPONSES, "responses of a step")?;
        if self.validation_top > self.validation_samples {
            return Err(Error::user(format!(
                "--validation-top {} of --validation-samples {} responses: it must not be more",
                self.validation_top, self.validation_samples
            )));
        }
        let own = self.temperature == 1.0 && self.top_p == 1.0 && self.top_k == 0 && self.min_p == 0.0;
        if !own && !self.allow_biased_sampling {
            return Err(Error::user(
                "training samples must come from the policy itself: --temperature 1, --top-p 1, no --top-k and no \
                 --min-p. Anything else biases the gradient; pass --allow-biased-sampling if that is what you want",
            ));
        }
        if self.rollout_batch < self.num_generations.min(8) {
            return Err(Error::user(format!(
                "--rollout-batch {} is too small",
                self.rollout_batch
            )));
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
    use super::super::overlay;
    use super::*;

    fn reward(model: &str) -> Option<String> {
        (model == TINY).then(|| "tiny-reward".to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file: TrainFlags = toml::from_str("beta = 0.5\nsteps = 7\nloss_type = \"sum\"").unwrap();
        let flags = TrainFlags {
            steps: Some(9),
            ..Default::default()
        };
        let c = overlay(&file, &flags).unwrap().resolve(&reward).unwrap();
        assert_eq!(
            (c.beta, c.steps, c.loss_type, c.num_generations),
            (0.5, 9, LossType::Sum, 16)
        );
        let again: TrainConfig = toml::from_str(&c.to_toml().unwrap()).unwrap();
        assert_eq!(again, c);
        // A budget that nobody gave stays open, through the run's own file too.
        assert_eq!(again.bon, None);
        let not_a_number = TrainFlags {
            beta: Some(f64::NAN),
            ..Default::default()
        };
        let merged = overlay(&file, &not_a_number).unwrap();
        assert!(
            merged.resolve(&reward).is_err(),
            "a NaN is refused, not left aside"
        );
    }

    #[test]
    fn the_cache_is_of_the_type_of_the_activations_unless_it_is_given() {
        let cache = |text: &str| {
            let flags: TrainFlags = toml::from_str(text).unwrap();
            flags.resolve(&reward).unwrap().kv_cache_dtype
        };
        assert_eq!(cache(""), FloatDtype::Float32);
        assert_eq!(cache("dtype = \"float16\""), FloatDtype::Float16);
        let both = "dtype = \"float16\"\nkv_cache_dtype = \"float32\"";
        assert_eq!(cache(both), FloatDtype::Float32);
        assert_eq!(cache("kv_cache_dtype = \"float16\""), FloatDtype::Float16);
    }

    #[test]
    fn a_model_without_a_default_reward_is_refused() {
        let e = TrainFlags {
            model: Some("x/y".into()),
            ..Default::default()
        }
        .resolve(&reward)
        .unwrap_err();
        assert!(e.to_string().contains("--reward-model"), "{e}");
    }

    #[test]
    fn values_out_of_range_name_their_flag() {
        type Set = fn(&mut TrainFlags);
        let cases: [(Set, &str); 9] = [
            (|f| f.num_generations = Some(1), "--num-generations"),
            (|f| f.beta = Some(f64::NAN), "--beta"),
            (|f| f.top_p = Some(0.0), "--top-p"),
            (|f| f.temperature = Some(0.7), "--allow-biased-sampling"),
            (|f| f.steps = Some(0), "--steps"),
            (|f| f.min_p = Some(1.0), "--min-p"),
            (|f| f.lora_rank = Some(0), "--lora-rank"),
            (|f| f.validation_steps = Some(0), "--validation-steps"),
            (|f| f.validation_samples = Some(8), "--validation-top 10"),
        ];
        for (set, flag) in cases {
            let mut flags = TrainFlags::default();
            set(&mut flags);
            let e = flags.resolve(&reward).unwrap_err();
            assert!(e.to_string().contains(flag), "{e}");
            assert_eq!(e.exit_code(), 2);
        }
    }
}
