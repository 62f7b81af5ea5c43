//! Sampling from a policy.
