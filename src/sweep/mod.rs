//! Many training runs from one file, evaluated on the same prompts and compared: the papers' tables from one command.
//!
//! A sweep file names shared settings, methods (each a set of changes to them, lists being grids) and seeds
//! ([`plan`]). [`run`] trains, evaluates and keeps account of every run in a directory that can be returned to; [`report`]
//! averages seeds and compares the methods with the base policy and a baseline, paired by prompt.

pub mod evaluate;
mod grid;
pub mod plan;
pub mod report;
pub mod run;
mod table;
mod types;

pub use plan::{EvalSettings, Method, Run, Sweep};
pub use run::{Outcome, State, sweep};
pub use types::Types;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
