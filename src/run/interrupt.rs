//! Requests to stop: Ctrl-C (SIGINT), SIGTERM and SIGHUP.
//!
//! The process ends at once, whatever it is at: loading, downloading, a template, compiling. Its exit code is 128 and the
//! signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP. Only a loop whose work would be lost [`hold`]s it: the step in progress is finished and saved then. A second Ctrl-C ends the process
//! also there; a second SIGTERM or SIGHUP does not, since `timeout`, job managers and closing terminals send theirs twice. A
//! signal that the parent process ignores stays ignored: SIGHUP under `nohup`, SIGINT in the background jobs of a script.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use super::lock;
use crate::error::{Error, Result};
use crate::file::write;

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signal {
    /// What the user is told.
    name: &'static str,
    number: u8,
}

impl Signal {
    /// The exit code of a process that it ends.
    fn code(self) -> u8 {
        128 + self.number
    }
}

/// Ctrl-C.
const INTERRUPTED: Signal = Signal {
    name: "interrupted",
    number: 2,
};
#[cfg(unix)]
const TERMINATED: Signal = Signal {
    name: "terminated",
    number: 15,
};
#[cfg(unix)]
const HUNG_UP: Signal = Signal {
    name: "hung up",
    number: 1,
};

/// Longest wait for standard output to take what was printed so far.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a training loop does when a signal comes.
pub const SAVING: &str = "finishing this step and writing a checkpoint";

/// How the user is told.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// Says a line.
    pub say: fn(&str),
    /// Waits until it is said, within reason.
    pub flush: fn(),
}

static VOICE: OnceLock<Voice> = OnceLock::new();

#[derive(Debug)]
struct State {
    /// The first signal that came.
    asked: Option<Signal>,
    /// What the loops that hold the process are going to do.
    loops: Vec<&'static str>,
    brief: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    asked: None,
    loops: Vec::new(),
    brief: 0,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts listening. Called once, by the command line, before anything is done.
///
/// # Errors
/// The handler cannot be installed.
pub fn install(voice: Voice) -> Result<()> {
    if VOICE.set(voice).is_err() {
        return Ok(());
    }
    listen().map_err(|e| Error::internal(format!("signal handlers: {e}")))
}

/// Whether the user asked to stop. Whoever [`hold`]s the process asks, saves, and returns [`Error::Interrupted`].
pub fn requested() -> bool {
    state().asked.is_some()
}

/// The exit code after [`Error::Interrupted`]: of the signal that was the first to come.
pub fn code() -> u8 {
    state().asked.unwrap_or(INTERRUPTED).code()
}

/// Keeps signals from ending the process while this lives.
#[derive(Debug)]
#[must_use = "the process is held for as long as this lives"]
pub struct Hold {
    brief: bool,
}

/// For a loop that has work to save and asks [`requested`] between its steps; `now` says what is done before the process ends.
pub fn hold(now: &'static str) -> Hold {
    state().loops.push(now);
    Hold { brief: false }
}

/// For what is over in a moment and must not be torn. A signal that came meanwhile ends the process afterwards.
pub fn brief() -> Hold {
    state().brief += 1;
    Hold { brief: true }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = state();
        if self.brief {
            state.brief -= 1;
        } else {
            state.loops.pop();
        }
        let over = self.brief && state.brief == 0 && state.loops.is_empty();
        if let Some(signal) = state.asked.filter(|_| over) {
            drop(state);
            end(signal);
        }
    }
}

/// What a signal does.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    /// Says what is being done, and goes on.
    Say(&'static str),
    /// Nothing.
    Wait,
    /// Ends the process, with a word.
    End,
    /// Ends the process without one: its first word was said.
    Stop,
}

impl State {
    /// `again` says whether the signal ends what is held when it is not the first.
    fn receive(&mut self, signal: Signal, again: bool) -> Act {
        let first = self.asked.is_none();
        self.asked.get_or_insert(signal);
        match self.loops.last() {
            Some(now) if first => Act::Say(now),
            None if self.brief == 0 => Act::End,
            None if first => Act::Wait,
            _ if again => Act::Stop,
            _ => Act::Wait,
        }
    }
}

fn received(signal: Signal, again: bool) {
    let act = state().receive(signal, again);
    match act {
        Act::Say(now) => say(&format!(
            "{}: {now} (press Ctrl-C again to stop at once)",
            signal.name
        )),
        Act::Wait => (),
        Act::End => end(signal),
        Act::Stop => leave(signal),
    }
}

fn say(line: &str) {
    if let Some(voice) = VOICE.get() {
        (voice.say)(line);
    }
}

/// Ends the process: what was printed is written, what is half-written is removed.
fn end(signal: Signal) {
    say(signal.name);
    if let Some(voice) = VOICE.get() {
        (voice.flush)();
    }
    // Somebody may hold standard output, and wait for a reader that does not read.
    let (done, flushed) = mpsc::channel();
    let flush = move || {
        let _ = std::io::stdout().flush();
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(flush).is_ok() {
        let _ = flushed.recv_timeout(PATIENCE);
    }
    leave(signal);
}

fn leave(signal: Signal) {
    write::abandon();
    lock::leave_all();
    exit(signal.code().into());
}

/// Without what drivers do at the end of a process: other threads still use them.
#[cfg(unix)]
fn exit(code: i32) {
    signal_hook::low_level::exit(code);
}

#[cfg(not(unix))]
fn exit(code: i32) {
    std::process::exit(code);
}

/// Lets a file that reaches the shell's limit (`ulimit -f`) be an error of that write and not the
/// process's end: the file may be the one that standard error goes to.
pub fn outlive_limits() {
    #[cfg(unix)]
    {
        static REACHED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        // Where the signal cannot be caught, everything is as it was.
        drop(signal_hook::flag::register(
            signal_hook::consts::SIGXFSZ,
            &REACHED,
        ));
    }
}

#[cfg(unix)]
fn listen() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| !ignored(*s));
    let mut signals = Signals::new(heard)?;
    let listener = move || {
        for signal in signals.forever() {
            match signal {
                SIGINT => received(INTERRUPTED, true),
                SIGTERM => received(TERMINATED, false),
                _ => received(HUNG_UP, false),
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map(drop)
}

#[cfg(not(unix))]
fn listen() -> std::io::Result<()> {
    ctrlc::set_handler(move || received(INTERRUPTED, true)).map_err(std::io::Error::other)
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
    fn only_what_is_held_outlives_a_signal() {
        let new = |loops: &[&'static str], brief| State {
            asked: None,
            loops: loops.to_vec(),
            brief,
        };
        for again in [true, false] {
            assert_eq!(new(&[], 0).receive(INTERRUPTED, again), Act::End);
            let mut held = new(&["saving"], 1);
            assert_eq!(held.receive(INTERRUPTED, again), Act::Say("saving"));
            let second = if again { Act::Stop } else { Act::Wait };
            assert_eq!(held.receive(INTERRUPTED, again), second);
            // What comes after the loop is not held any more.
            held.loops.clear();
            held.brief = 0;
            assert_eq!(held.receive(INTERRUPTED, again), Act::End);
            let mut line = new(&[], 1);
            assert_eq!(line.receive(INTERRUPTED, again), Act::Wait);
            assert_eq!(line.receive(INTERRUPTED, true), Act::Stop);
        }
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        for (signal, number, code) in [
            (INTERRUPTED, SIGINT, 130),
            (TERMINATED, SIGTERM, 143),
            (HUNG_UP, SIGHUP, 129),
        ] {
            assert_eq!((i32::from(signal.number), signal.code()), (number, code));
        }
        let mut held = State {
            asked: None,
            loops: vec!["saving"],
            brief: 0,
        };
        held.receive(TERMINATED, false);
        held.receive(INTERRUPTED, true);
        assert_eq!(
            held.asked,
            Some(TERMINATED),
            "the first one is what stopped the run"
        );
        assert_eq!(code(), 130, "without a signal");
    }

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
