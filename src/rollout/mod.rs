//! Sampling from a policy: prefill, decode, scheduling. Token ids only.
//!
//! A prompt is computed once; all its samples attend to the same pages of the cache. Many tokens are decoded between two
//! readbacks; at each, finished rows leave the batch and waiting samples take their places and pages. A sample is a pure
//! function of (run seed, step, prompt, sample): neither the batch it runs in nor the order of the work changes it.

mod job;
mod prefill;
mod sampler;
mod schedule;
#[cfg(test)]
mod schedule_tests;
mod shape;
mod state;
mod stats;

pub use job::{Completion, Finish, Job, OnEnded, SampleConfig, SamplerShape};
pub use sampler::Sampler;
pub use stats::RolloutStats;
