//! Measuring: what the adapter can do, what every kernel reaches of it, and how long sampling and training take.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ceiling`] | multiply-add rate, bandwidth, cost of a dispatch |
//! | [`cases`], [`case`] | the list of kernel cases: op, variant, shape, operations, bytes, how to record, how to check |
//! | [`kernels`] | runs that list against the roofline |
//! | [`rollout`], [`train`], [`block`], [`policy`] | tokens a second, seconds a step by phase, peak memory |
//! | [`advantage`] | the rules' cost beside a step |
//! | [`growth`] | steps of growing sizes beside the laws of their cost |
//! | [`timing`] | repetitions, clocks, medians |
//! | [`output`], [`baseline`] | rows as Markdown, CSV, JSON; comparison with a stored run |
//! | [`variants`] | which variants an op has |
//!
//! A measurement never fails for being slow: commands end with code 0 unless something is wrong.

pub mod advantage;
pub mod baseline;
pub mod block;
pub mod case;
pub mod cases;
pub mod ceiling;
pub mod growth;
mod judged;
pub mod kernels;
mod memory;
pub mod output;
pub mod policy;
pub mod rollout;
pub mod timing;
pub mod train;
pub mod variants;
