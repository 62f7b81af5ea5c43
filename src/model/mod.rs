//! Models: specification, weights, LoRA, forward, backward.

pub mod alias;
mod bytes;
mod config_json;
mod config_write;
pub mod embedded;
pub mod gguf;
pub mod gguf_model;
mod gguf_reader;
pub mod hub;
mod parts;
pub mod peft;
pub mod save;
pub mod source;
pub mod spec;
pub mod store;

#[cfg(test)]
mod spec_tests;
