//! A directory that a command writes: one run at a time, known by a marker, whole or said to be damaged.
//!
//! [`Dir`] is the way in. It takes the directory's [`Lock`], refuses what another command or program made, writes the
//! marker, and removes for `--overwrite` what this program wrote and nothing else. [`kinds`] is the one list of what
//! each command writes. [`checksums`] says whether the files of a checkpoint are those that were written.

pub mod checksums;
mod dir;
pub mod interrupt;
pub mod kinds;
mod lock;

pub use dir::{Dir, MARKER, foreign_to_checkpoint, marker, unlinked};
pub use kinds::Kind;
pub use lock::Lock;
