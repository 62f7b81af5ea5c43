//! Models: specification, weights, LoRA, forward, backward.
