//! What is asked of a sampler, and what it returns.

use crate::config::FloatDtype;
use crate::error::Result;
use crate::kernels::sample::SampleParams;
use serde::{Deserialize, Serialize};

/// A prompt and how many samples of it are wanted.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt's token ids.
    pub tokens: Vec<u32>,
    /// The prompt's number in its data set: part of every sample's seed.
    pub prompt: u64,
    /// Samples wanted: numbers `first .. first + samples` are part of their seeds.
    pub samples: usize,
    /// The first sample's number.
    pub first: u64,
}

/// How to sample.
#[derive(Debug, Clone)]
pub struct SampleConfig {
    /// Temperature and filters.
    pub params: SampleParams,
    /// Most tokens in a completion, the stop token included.
    pub max_completion_length: usize,
    /// Tokens that end a completion, any number of them.
    pub stop: Vec<u32>,
    /// The run's seed.
    pub seed: u64,
    /// The training step (0 elsewhere): part of every sample's seed.
    pub step: u64,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop token was sampled (it is the last token).
    Stop,
    /// The length limit was reached.
    Length,
}

/// One sampled response.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Token ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token at temperature 1, given all before it.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// What a sampler must hold at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerShape {
    /// Sequences decoded together.
    pub sequences: usize,
    /// Rows of the KV cache that prompts (each once) and responses share, in pages of 8; at least those of the longest
    /// prompt and response. A response takes pages as it grows, so that with fewer rows than all sequences could take some
    /// wait for room.
    pub cache_rows: usize,
    /// Prompt tokens computed in one pass.
    pub prefill_rows: usize,
    /// Largest LoRA rank.
    pub rank: usize,
    /// How the cache stores keys and values.
    pub kv_cache_dtype: FloatDtype,
}

/// Told of a job whose samples have all ended while others are still being decoded: its place among the jobs, and its
/// completions. The device decodes on while this runs, so that it is the place for work on the host and for work that is only
/// submitted; waiting for the device here waits for the others' tokens too.
pub type OnEnded<'a> = dyn FnMut(usize, &[Completion]) -> Result<()> + 'a;
