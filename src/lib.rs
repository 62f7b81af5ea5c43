//! tea-wgpu: post-train language models for best-of-N on any GPU that speaks Vulkan, Metal or DX12.
//!
//! The modules in layer order; each may import only from those after it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | one file a subcommand: flags → typed config → one library call |
//! | [`sweep`], [`mod@bench`] | many training runs from one file, evaluated and compared; measurements |
//! | [`search`], [`diagnose`] | scaling-law guided search at test time, predicting best-of-N; diagnostics of estimators and rewards |
//! | [`train`], [`eval`] | the training loops and checkpoints; judging policies, best-of-N statistics |
//! | [`rollout`], [`reward`] | sampling from a policy; scoring what was sampled |
//! | [`model`], [`optim`] | transformer forward and backward; AdamW |
//! | [`kernels`] | one file an op: record functions, float64 twins, test cases |
//! | [`advantage`] | advantage rules in float64: the twins of the group reductions |
//! | [`tensor`] | shape + dtype + buffer handle |
//! | [`gpu`] | the only module that names `wgpu` |
//! | [`run`] | a directory that a command writes: lock, marker, checksums |
//! | [`mod@file`] | every file that is read or written goes through here: what may be opened, the limits, whole or not at all |
//! | [`config`], [`error`], [`rng`] | typed settings; the error type; counter-based random numbers |
//! | [`web`] | HTTP: one kind of agent, whose time limits hold |
//! | [`words`] | text of others within messages, tables and terminals; keys that nothing shows |
//!
//! [`data`], [`text`], [`hub`], [`report`] and [`demo`] are CPU-only side rooms (data files and their records; tokenizers and
//! chat templates; files of the Hugging Face hub; metrics, tables and plots; the procedural instruction set of the embedded
//! demo).

pub mod advantage;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod demo;
pub mod diagnose;
pub mod error;
pub mod eval;
pub mod file;
pub mod gpu;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod optim;
pub mod report;
pub mod reward;
pub mod rng;
pub mod rollout;
pub mod run;
pub mod search;
pub mod sweep;
pub mod tensor;
pub mod text;
pub mod train;
pub mod web;
pub mod words;
