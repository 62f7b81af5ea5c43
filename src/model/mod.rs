//! Models: specification, weights, LoRA, forward, backward.

pub mod alias;
mod backward;
pub mod batch;
pub mod bytes;
mod config_json;
mod config_keys;
mod config_write;
pub mod embedded;
pub mod floor;
pub mod forward;
pub mod gguf;
mod gguf_keys;
pub mod gguf_model;
mod gguf_reader;
mod gguf_split;
pub mod hub;
pub mod hub_data;
pub mod init;
pub mod kv_cache;
pub mod load;
pub mod lora;
mod packed;
pub mod params;
mod parts;
pub mod peft;
mod peft_config;
mod peft_files;
mod peft_targets;
pub mod plan;
mod products;
pub mod raw;
pub mod run;
pub mod safetensors;
pub mod save;
pub mod score_queue;
mod settle;
pub mod shapes;
pub mod source;
pub mod spec;
pub mod store;
pub mod stream;
mod tuning;
mod watch;
pub mod workspace;

#[cfg(test)]
mod spec_tests;
