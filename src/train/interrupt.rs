//! Requests to stop: Ctrl-C (SIGINT), SIGTERM and SIGHUP.
//!
//! The step in progress is finished and a checkpoint written. A second Ctrl-C ends the process at
//! once; a second SIGTERM or SIGHUP does not, since `timeout`, job managers and closing terminals
//! send theirs twice. A signal that the parent process ignores stays ignored: SIGHUP under `nohup`,
//! SIGINT in the background jobs of a script.

use crate::error::{Error, Result};
use crate::report::console::{self, Stream};
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a process that a second Ctrl-C ends, as of [`Error::Interrupted`].
const STOPPED: i32 = 130;

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
    listen(now).map_err(|e| Error::internal(format!("signal handlers: {e}")))
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// A signal came; `again` says whether it ends the process when it is not the first.
fn received(name: &str, now: &str, again: bool) {
    if !REQUESTED.swap(true, Ordering::SeqCst) {
        let line = format!("{name}: {now} (press Ctrl-C again to stop at once)");
        console::line(Stream::Err, line);
    } else if again {
        std::process::exit(STOPPED);
    }
}

/// Lets a file that reaches the shell's limit (`ulimit -f`) be an error of that write and not the
/// process's end: the file may be the one that standard error goes to.
pub fn outlive_limits() {
    #[cfg(unix)]
    {
        static REACHED: AtomicBool = AtomicBool::new(false);
        // Where the signal cannot be caught, everything is as it was.
        drop(signal_hook::flag::register(
            signal_hook::consts::SIGXFSZ,
            &REACHED,
        ));
    }
}

#[cfg(unix)]
fn listen(now: &'static str) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| !ignored(*s));
    let mut signals = Signals::new(heard)?;
    let listener = move || {
        for signal in signals.forever() {
            match signal {
                SIGINT => received("interrupted", now, true),
                SIGTERM => received("terminated", now, false),
                _ => received("hung up", now, false),
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map(drop)
}

#[cfg(not(unix))]
fn listen(now: &'static str) -> std::io::Result<()> {
    ctrlc::set_handler(move || received("interrupted", now, true)).map_err(std::io::Error::other)
}

/// Whether the parent process set a signal to be ignored.
#[cfg(unix)]
fn ignored(signal: i32) -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => in_mask(&status, signal),
        Err(_) => survived(signal),
    }
}

/// Linux: the process's own mask of ignored signals.
#[cfg(unix)]
fn in_mask(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Other systems: what is ignored here is ignored in a child, which then outlives its own signal.
#[cfg(unix)]
fn survived(signal: i32) -> bool {
    use std::process::{Command, Stdio};

    Command::new("sh")
        .args(["-c", &format!("kill -{signal} $$")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n\
                      SigCgt:\t0000000000000002\n";
        assert!(in_mask(status, SIGHUP));
        assert!(!in_mask(status, SIGINT) && !in_mask(status, SIGTERM));
        assert!(!in_mask("", SIGHUP) && !in_mask("SigIgn:\tno number", SIGHUP));
    }

    #[test]
    fn a_child_tells_the_same() {
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            assert_eq!(survived(signal), ignored(signal), "{signal}");
        }
    }
}
