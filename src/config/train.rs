//! Settings of `train` and `plan`: how they are resolved and checked.

use super::memory::one_of;
use super::setting::Given;
use super::{TINY, TrainConfig, TrainFlags, range};
use crate::error::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

impl TrainFlags {
    /// Whether the policy is the embedded one, which has a small preset.
    pub(super) fn is_tiny(&self) -> bool {
        self.model.as_deref().is_none_or(|model| model == TINY)
    }

    /// Fills what is open with defaults: the small preset for the embedded model, the paper's scale otherwise.
    ///
    /// `default_reward` is what the aliases name for the policy.
    ///
    /// # Errors
    /// A value out of range, or no reward model.
    pub fn resolve(mut self, default_reward: &dyn Fn(&str) -> Option<String>) -> Result<TrainConfig> {
        let model = self.model.as_deref().unwrap_or(TINY);
        let reward = self.reward_model.take().or_else(|| default_reward(model));
        if reward.is_none() {
            return Err(Error::user(format!(
                "no reward model: {model} has no default one in models/aliases.toml; give --reward-model"
            )));
        }
        self.reward_model = reward;
        let config = self.filled();
        config.validate()?;
        Ok(config)
    }
}

/// The learning rate where none is given; the embedded model is so small that it takes larger steps.
pub(super) fn default_rate(full: Option<bool>, tiny: bool) -> f64 {
    match (full.unwrap_or(false), tiny) {
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
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{FloatDtype, overlay, read_toml};
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
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, c.to_toml().unwrap()).unwrap();
        let again = read_toml::<TrainFlags>(&path).unwrap().resolve(&reward).unwrap();
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
