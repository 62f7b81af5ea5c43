//! Diagnostics: what the estimators do where the truth is known, and what reward laws look like.
//!
//! Every diagnostic is a function from typed settings to a report that serialises; [`Report::write`] leaves
//! it in a directory as JSON with its plots beside it.

pub mod alignment;
mod controls;
pub mod distribution;
mod estimators;
pub mod input;
pub mod laws;
mod laws_report;
mod report;
mod simulate;
pub mod synthetic;
mod synthetic_report;
pub mod tails;

pub use report::Report;
