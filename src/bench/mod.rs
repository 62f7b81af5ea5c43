//! Measuring: what the adapter can do, what every kernel reaches of it, and how long sampling and training take.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ceiling`] | multiply-add rate, bandwidth, cost of a dispatch |
//! | [`kernels`] | runs the kernels' [`work`](crate::kernels::work) against the roofline and against float64 |
//! | [`rollout`], [`train`], [`block`], [`policy`] | tokens a second, seconds a step by phase, peak memory |
//! | [`advantage`] | the rules' cost beside a step |
//! | [`growth`] | steps of growing sizes beside the laws of their cost |
//! | [`timing`] | repetitions, clocks, medians |
//! | [`output`], [`baseline`] | rows as Markdown, CSV, JSON; comparison with a stored run |
//!
//! A measurement never fails for being slow: commands end with code 0 unless something is wrong.

pub mod advantage;
pub mod baseline;
pub mod block;
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
