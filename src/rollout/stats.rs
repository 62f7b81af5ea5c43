//! What a round of sampling did.

use serde::Serialize;

/// Counts of one call of [`Sampler::generate`](super::Sampler::generate).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RolloutStats {
    /// Tokens drawn.
    pub tokens: usize,
    /// Those of them that a decode step drew, rather than a prompt's last state.
    pub decoded: usize,
    /// Decode steps.
    pub steps: usize,
    /// Decode steps times the sequences that each could have decoded.
    pub places: usize,
    /// Readbacks.
    pub windows: usize,
    /// Tokens computed into the cache by prefill passes: prompts, and tokens of samples that had been sent back.
    pub prefill_tokens: usize,
    /// Times a sample gave its pages up and waited again.
    pub sent_back: usize,
    /// Most pages of the cache in use at once.
    pub peak_pages: usize,
}

impl RolloutStats {
    /// Share of the places of all decode steps that drew a token, in 0..=1; 1 where there was no step.
    pub fn occupancy(&self) -> f64 {
        if self.places == 0 {
            return 1.0;
        }
        self.decoded as f64 / self.places as f64
    }
}
