//! Oracle alignment: how close a rule's update from m samples is to the one that knows the whole pool.
//!
//! For every prompt a pool of n responses is sampled and scored once. A rule's group is a random subset of m of
//! them; its update direction is `Σ_i A_i ∇ log π(y_i)`. The oracle's is `Σ_i O_i ∇ log π(y_i)` over all n, with O
//! the exact best-of-N advantage under the pool's empirical law. The cosine of the two, on the last block's base tensors,
//! is averaged over seeds and then over prompts (TEA, arXiv 2605.10716, oracle alignment). With the Gram matrix K of
//! the per-sample gradients every cosine is `aᵀK o / √(aᵀK a · oᵀK o)`.

mod cosine;
mod gram;
mod report;
mod run;
mod samples;

pub use cosine::{Alignment, AlignmentSettings, Cell, Difference, Pool, align};
pub use gram::{Gram, GramBuilder, distinct};
pub use report::{differences, plot, table, table_with_zeros};
pub use run::{AlignmentRun, Judge, Measured, measure};
pub use samples::{Draw, PromptSamples, SamplesMeta, Store};

#[cfg(test)]
mod tests;
