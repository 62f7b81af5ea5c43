//! Where a reward model's weights are kept.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where the weights of a reward model's blocks are while it scores. Scores have the same bits either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// Streamed where all of it does not fit in the free memory beside the rest, as far as that is known; else resident.
    #[default]
    Auto,
    /// On the device, all of them.
    Resident,
    /// In the model's files; two blocks at a time are on the device.
    Stream,
}
