//! Sampling from a policy: prefill, decode, scheduling. Token ids only.
//!
//! A prompt is computed once; all its samples attend to the same cache rows. Many tokens are decoded between two
//! readbacks, and finished rows are dropped from the batch at each. A sample is a pure function of
//! (run seed, step, prompt, sample): neither the batch it runs in nor the order of the work changes it.

mod plan;
mod sampler;
mod state;

pub use sampler::{Completion, Finish, Job, SampleConfig, Sampler, SamplerShape};
