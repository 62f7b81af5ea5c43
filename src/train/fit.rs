//! What a run settles on by the memory that the device has free.

use crate::config::{GradientSum, Residency, TrainConfig};

/// What a run settled on by the free memory, beside element types. It changes no result, but for the order of sums, which is written
/// into the settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fit {
    /// Bytes that training activations may take under `--activation-memory auto`; `None` where the free memory is not known.
    pub activations: Option<u64>,
    /// Whether the reward model is streamed.
    pub stream_reward: bool,
    /// Whether the prompts' gradients are added up in one buffer.
    pub ascending: bool,
}

impl Fit {
    /// What the settings say by themselves.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            activations: None,
            stream_reward: config.reward_residency == Residency::Stream,
            ascending: config.gradient_sum == GradientSum::Ascending,
        }
    }
}

/// What a run settled on, as settings write it: element types, and the order of sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dtypes {
    pub(super) base: Option<String>,
    /// `None` where no model judges.
    pub(super) reward: Option<Option<String>>,
    pub(super) gradient_sum: GradientSum,
}

impl Dtypes {
    /// Puts them into the settings.
    pub fn write(self, c: &mut TrainConfig) {
        c.base_dtype = self.base;
        c.gradient_sum = self.gradient_sum;
        if let Some(reward) = self.reward {
            c.reward_dtype = reward;
        }
    }
}
