//! Models: specification, weights, LoRA, forward, backward.

pub mod alias;
mod bytes;
mod config_json;
pub mod embedded;
pub mod gguf;
pub mod gguf_model;
pub mod hub;
pub mod peft;
pub mod save;
pub mod source;
pub mod spec;
pub mod store;

#[cfg(test)]
mod spec_tests;
