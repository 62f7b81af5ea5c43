//! Models: specification, weights, LoRA, forward, backward.

mod bytes;
mod config_json;
pub mod embedded;
pub mod source;
pub mod spec;
pub mod store;

#[cfg(test)]
mod spec_tests;
