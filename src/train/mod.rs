//! Training loops and checkpoints. Every loss is a stream of coefficients into one backward pass.

pub mod checkpoint;
pub mod data;
pub mod loss;
pub mod rl;
