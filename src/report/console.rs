//! Lines for people, on standard error and standard output, which can neither end a run nor hold it
//! up.
//!
//! One thread writes them, from a queue of bounded size. A reader that is gone, a full disk and a
//! pipe that nobody reads are therefore that thread's alone: a line that does not fit in the queue
//! is left out, the number of lines left out is written where they are missing, and a failed write
//! is forgotten. What a command was asked to print as its result does not come here: losing it is
//! an error (`cli::common`).
//!
//! It is also the one place where lines are made safe to show ([`plain`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Result, Write, stderr, stdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;

use crate::words::{self, secret};

/// Bytes of lines that wait at most.
const CAPACITY: usize = 1 << 20;
/// Longest wait for a reader that takes nothing, where everything should be written before going
/// on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before another try on a stream that another program made non-blocking.
const RETRY: Duration = Duration::from_millis(10);
/// What a state of a progress bar counts in the queue.
const BAR_BYTES: usize = 256;
const THREAD: &str = "console";

/// Where a line goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What becomes of a progress bar.
pub(super) enum Bar {
    /// It appears.
    Show(Box<ProgressBar>),
    /// It moves to a position, with a message beside it.
    Move(u64, String),
    /// Its spinner turns.
    Tick,
    /// It ends, and stays on the screen or not.
    End { stays: bool },
}

enum Message {
    Text(Stream, String),
    Bar(u64, Bar),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Message>,
    bytes: usize,
    /// Lines left out since the last one that was taken.
    lost: usize,
    /// Messages written so far, and whether one is being written.
    written: u64,
    busy: bool,
    /// What `written` was when a reader was last given up.
    stalled: Option<u64>,
    /// There is no thread to write.
    mute: bool,
}

#[derive(Default)]
struct Console {
    state: Mutex<State>,
    changed: Condvar,
}

/// Where a console's thread writes.
trait Sinks {
    fn text(&mut self, stream: Stream, text: &str);
    fn bar(&mut self, id: u64, bar: Bar);
}

impl Console {
    /// A console whose thread runs.
    fn start(mut sinks: impl Sinks + Send + 'static) -> Arc<Self> {
        let console = Arc::new(Self::default());
        let own = Arc::clone(&console);
        let thread = std::thread::Builder::new().name(THREAD.into());
        console.lock().mute = thread.spawn(move || own.work(&mut sinks)).is_err();
        console
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, sinks: &mut impl Sinks) {
        loop {
            let mut state = self.lock();
            state.busy = false;
            self.changed.notify_all();
            let message = loop {
                match state.waiting.pop_front() {
                    Some(message) => break message,
                    None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            state.bytes -= message.bytes();
            state.busy = true;
            drop(state);
            match message {
                Message::Text(stream, text) => sinks.text(stream, &text),
                Message::Bar(id, bar) => sinks.bar(id, bar),
            }
            self.lock().written += 1;
        }
    }

    fn push(&self, message: Message) {
        let mut state = self.lock();
        let size = message.bytes();
        let fits = state.waiting.is_empty() || state.bytes + size <= CAPACITY;
        match message {
            _ if state.mute => return,
            Message::Text(stream, _) if fits && state.lost > 0 => {
                let note = format!("({} lines left out: nobody read them)\n", state.lost);
                state.lost = 0;
                state.bytes += note.len();
                state.waiting.push_back(Message::Text(stream, note));
            }
            Message::Text(..) if !fits => {
                state.lost += 1;
                return;
            }
            Message::Bar(_, Bar::Move(..) | Bar::Tick) if !fits => return,
            _ => {}
        }
        state.bytes += size;
        state.waiting.push_back(message);
        self.changed.notify_all();
    }

    /// Waits until everything is written, unless a reader takes nothing for `patience`.
    fn flush(&self, patience: Duration) {
        let mut state = self.lock();
        while !state.mute && (state.busy || !state.waiting.is_empty()) {
            let before = state.written;
            if state.stalled == Some(before) {
                return;
            }
            let stands = |s: &mut State| s.written == before && (s.busy || !s.waiting.is_empty());
            let (after, waited) = self
                .changed
                .wait_timeout_while(state, patience, stands)
                .unwrap_or_else(PoisonError::into_inner);
            state = after;
            if waited.timed_out() {
                state.stalled = Some(before);
            }
        }
    }
}

impl Message {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(_, text) => text.len(),
            Self::Bar(..) => BAR_BYTES,
        }
    }
}

/// The process's own streams.
#[derive(Default)]
struct Terminal {
    bars: BTreeMap<u64, ProgressBar>,
}

impl Sinks for Terminal {
    fn text(&mut self, stream: Stream, text: &str) {
        let write = || match stream {
            Stream::Out => write_whole(&mut stdout().lock(), text.as_bytes()),
            Stream::Err => write_whole(&mut stderr().lock(), text.as_bytes()),
        };
        // There is nobody to tell that a line could not be written.
        drop(match self.bars.values().next_back() {
            Some(bar) => bar.suspend(write),
            None => write(),
        });
    }

    fn bar(&mut self, id: u64, bar: Bar) {
        match (bar, self.bars.get(&id)) {
            (Bar::Show(bar), _) => {
                bar.reset_eta();
                bar.tick();
                self.bars.insert(id, *bar);
            }
            (Bar::Move(position, message), Some(bar)) => {
                bar.set_message(message);
                bar.set_position(position);
            }
            (Bar::Tick, Some(bar)) => bar.tick(),
            (Bar::End { stays }, Some(bar)) => {
                if stays {
                    bar.abandon();
                }
                self.bars.remove(&id);
            }
            (_, None) => {}
        }
    }
}

/// Writes everything, waiting where the stream is non-blocking and full.
///
/// # Errors
/// The reader is gone, or there is no room.
pub(crate) fn write_whole(to: &mut impl Write, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(e) => return Err(e),
        }
    }
    loop {
        match to.flush() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            other => return other,
        }
    }
}

fn console() -> &'static Console {
    static CONSOLE: OnceLock<Arc<Console>> = OnceLock::new();
    CONSOLE.get_or_init(|| Console::start(Terminal::default()))
}

/// Writes a line, some time soon; never waits and never fails. It is written [`plain`].
pub fn line(stream: Stream, line: impl std::fmt::Display) {
    styled(stream, plain(line));
}

/// As [`line()`], for text that holds our own colours: what others have said in it is plain already.
pub fn styled(stream: Stream, line: impl std::fmt::Display) {
    console().push(Message::Text(stream, format!("{line}\n")));
}

/// A message as people may be shown it: of bounded size, without keys, and with everything escaped that a terminal would
/// act on.
pub fn plain(message: impl std::fmt::Display) -> String {
    shown(&words::joined(secret::masked(message.to_string())))
}

/// A text of any size as people may be shown it, on a terminal: as [`plain`], whole.
pub fn shown(text: &str) -> String {
    words::visible(text).into_owned()
}

/// Changes a progress bar, some time soon.
pub(super) fn bar(id: u64, bar: Bar) {
    console().push(Message::Bar(id, bar));
}

/// Waits until every line so far is written, but not for a reader that takes nothing.
///
/// For the end of the process, and before something else writes to the same streams.
pub fn flush() {
    console().flush(PATIENCE);
}

/// A panic's message through the console: the standard hook would wait for a reader that does not
/// read.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => trace.to_string(),
            _ => "note: run with `RUST_BACKTRACE=1` to display a backtrace".to_string(),
        };
        line(
            Stream::Err,
            format_args!("\nthread '{name}' {info}\n{}", trace.trim_end()),
        );
        if name != THREAD {
            flush();
        }
    }));
}

/// Standard error as a [`Write`] for a logger that writes whole records.
#[derive(Debug)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, record: &[u8]) -> Result<usize> {
        // The logger has made it plain and put colours before it.
        let text = String::from_utf8_lossy(record).into_owned();
        console().push(Message::Text(Stream::Err, text));
        Ok(record.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::Instant;

    /// Keeps lines, as soon as the gate is open.
    #[derive(Clone, Default)]
    struct Reader {
        gate: Arc<Mutex<()>>,
        read: Arc<Mutex<Vec<String>>>,
    }

    impl Sinks for Reader {
        fn text(&mut self, stream: Stream, text: &str) {
            drop(self.gate.lock().unwrap());
            self.read.lock().unwrap().push(format!("{stream:?} {text}"));
        }

        fn bar(&mut self, _: u64, _: Bar) {}
    }

    fn text(text: impl Into<String>) -> Message {
        Message::Text(Stream::Err, text.into())
    }

    #[test]
    fn lines_keep_their_order() {
        let reader = Reader::default();
        let console = Console::start(reader.clone());
        for i in 0..100 {
            console.push(Message::Text(Stream::Out, format!("{i}")));
            console.push(text(format!("{i}")));
        }
        console.flush(Duration::from_secs(60));
        let want: Vec<String> = (0..100)
            .flat_map(|i| [format!("Out {i}"), format!("Err {i}")])
            .collect();
        assert_eq!(*reader.read.lock().unwrap(), want);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let reader = Reader::default();
        let shut = reader.gate.lock().unwrap();
        let console = Console::start(reader.clone());
        console.push(text("first"));
        // From here on the thread waits for the reader, and the queue is as this test fills it.
        while !console.lock().busy {
            std::thread::sleep(Duration::from_millis(1));
        }
        let begun = Instant::now();
        let long = "x".repeat(CAPACITY / 8);
        for _ in 0..1000 {
            console.push(text(long.clone()));
        }
        // The second call knows that nobody reads.
        for _ in 0..100 {
            console.flush(Duration::from_millis(50));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let lost = console.lock().lost;
        assert_eq!(lost, 1000 - 8);
        drop(shut);
        // As soon as it reads, it is waited for again.
        while console.lock().written == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        console.flush(Duration::from_secs(60));
        console.push(text("after"));
        console.flush(Duration::from_secs(60));
        let read = reader.read.lock().unwrap();
        assert_eq!(read.len(), 1 + 8 + 2);
        let note = format!("Err ({lost} lines left out: nobody read them)\n");
        assert_eq!(read[read.len() - 2..], [note, "Err after".to_string()]);
    }

    #[test]
    fn a_message_is_plain_short_and_without_keys() {
        secret::keep("sk-console-12345678");
        let said = plain(format_args!(
            "\u{1b}[31m{} sk-console-12345678",
            "y".repeat(1 << 20)
        ));
        assert!(
            said.starts_with("\\u001b[31myy") && said.ends_with("yy [key]"),
            "{said}"
        );
        assert!(
            said.len() < words::MESSAGE && said.contains("more bytes"),
            "{said}"
        );
        // What is asked for is shown whole.
        assert_eq!(shown(&"\u{7}".repeat(10_000)).len(), 60_000);
    }

    /// A stream that another program made non-blocking, as terminals and pipes of job runners are.
    #[test]
    fn a_busy_stream_is_asked_again() {
        struct Busy(Vec<u8>, u32);
        impl Write for Busy {
            fn write(&mut self, bytes: &[u8]) -> Result<usize> {
                self.1 += 1;
                match self.1 % 3 {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    1 => Err(ErrorKind::Interrupted.into()),
                    _ => {
                        self.0.extend(&bytes[..1]);
                        Ok(1)
                    }
                }
            }

            fn flush(&mut self) -> Result<()> {
                Ok(())
            }
        }
        let mut busy = Busy(Vec::new(), 0);
        write_whole(&mut busy, b"whole").unwrap();
        assert_eq!(busy.0, b"whole");
    }
}
