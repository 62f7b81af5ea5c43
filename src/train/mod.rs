//! Training loops and checkpoints. Every loss is a stream of coefficients into one backward pass.

pub mod activations;
pub mod base;
mod cgroup;
pub mod checkpoint;
pub mod data;
pub mod device_step;
pub mod dtype;
pub mod examples;
pub mod fit;
mod judged;
pub mod losses;
pub mod memory;
mod moments;
pub mod preference;
pub mod prompts;
pub mod rl;
pub mod run;
pub mod selection;
pub mod setup;
pub mod sft;
pub mod sizes;
pub mod sources;
pub mod supervised;
