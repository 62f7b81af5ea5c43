//! Training loops and checkpoints.
