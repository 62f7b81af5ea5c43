//! Ctrl-C: the step in progress is finished and a checkpoint written; a second Ctrl-C ends the process at once.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts listening. Called once, by the command line.
///
/// # Errors
/// The handler cannot be installed.
pub fn install() -> Result<()> {
    install_for("finishing this step and writing a checkpoint")
}

/// As [`install`]; `now` says what is done before the process ends.
///
/// # Errors
/// The handler cannot be installed.
pub fn install_for(now: &'static str) -> Result<()> {
    ctrlc::set_handler(move || {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("interrupted: {now} (press Ctrl-C again to stop at once)");
    })
    .map_err(|e| Error::internal(format!("Ctrl-C handler: {e}")))
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
