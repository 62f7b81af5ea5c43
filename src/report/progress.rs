//! The progress line of a long job: a bar on a terminal, a plain line now and then elsewhere.
//!
//! A thread watches each job, so that one whose next step is long (shaders that are compiled, a model
//! that is loaded) is not silent: the bar's spinner turns, and plain lines say how long it has been.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::console::{self, Bar, Stream};
use crate::words;

/// Time between plain lines where stderr is not a terminal: short while somebody may be watching a job
/// begin, longer in the log of a long one.
const PLAIN_EVERY: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(20)];
/// How long a job counts as young.
const YOUNG: Duration = Duration::from_secs(300);
/// Time between plain lines of a step that lasts, in a young job and a later one. Longer than that of steps, so that
/// short steps speak for themselves.
const STILL_EVERY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// How often the watching thread looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Shows how far a job is, on stderr, through the console: whatever becomes of its reader.
#[derive(Debug)]
pub struct Progress {
    form: Form,
    unit: Unit,
    label: String,
    total: u64,
    begun: Instant,
    last_step: Instant,
    last_plain: Option<Instant>,
    /// Tells the watching thread of each step; its end ends the thread.
    watch: Option<Sender<Step>>,
}

/// A step's number, and whether it was shown.
type Step = (u64, bool);

/// What a job is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Steps,
    Bytes,
}

impl Unit {
    /// How far a job is, as `3/60` or `1.50 MiB/2.00 GiB`.
    fn of(self, done: u64, total: u64) -> String {
        match self {
            Self::Steps => format!("{done}/{total}"),
            Self::Bytes => format!("{}/{}", BinaryBytes(done), BinaryBytes(total)),
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Steps => "{prefix} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta} {spinner}",
            Self::Bytes => {
                "{prefix} {wide_bar:.cyan/dim} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {spinner}"
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Hidden,
    Plain,
    /// The bar of this number, which the console's thread draws; a terminal can be stopped
    /// (Ctrl-S).
    Bar(u64),
}

impl Progress {
    /// Starts at step `done` of `total`; `label` names the job.
    pub fn new(label: &str, done: u64, total: u64) -> Self {
        Self::begin(Unit::Steps, label, done, total)
    }

    /// Starts at byte `done` of `total`; the steps are bytes.
    pub fn bytes(label: &str, done: u64, total: u64) -> Self {
        Self::begin(Unit::Bytes, label, done, total)
    }

    fn begin(unit: Unit, label: &str, done: u64, total: u64) -> Self {
        // A bar and a line of progress are one line, whatever the job is named after.
        let label = &words::piece(label);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let form = if total > 0 && std::io::stderr().is_terminal() {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(unit.template()) {
                bar.set_style(style.progress_chars("━━─"));
            }
            let bar = bar.with_prefix(label.to_string()).with_position(done);
            console::bar(id, Bar::Show(Box::new(bar)));
            Form::Bar(id)
        } else {
            Form::Plain
        };
        let mut progress = Self::of(form, label, total);
        progress.unit = unit;
        progress.watch = watch(form, unit, label.to_string(), done, total);
        progress
    }

    /// A wait without steps: nothing is shown of a short one, and a line now and then of a longer one.
    pub fn waiting(label: &str) -> Self {
        Self::new(label, 0, 0)
    }

    /// A progress that shows nothing: for `--quiet` and tests.
    pub fn hidden(total: u64) -> Self {
        Self::of(Form::Hidden, "", total)
    }

    fn of(form: Form, label: &str, total: u64) -> Self {
        Self {
            form,
            unit: Unit::Steps,
            label: label.to_string(),
            total,
            begun: Instant::now(),
            last_step: Instant::now(),
            last_plain: None,
            watch: None,
        }
    }

    /// Step `step` is done; `values` are shown after the count with three decimals, then the seconds since the last
    /// call. Without a terminal: a line for the first and last step, and otherwise at most every 4 seconds in the
    /// first 5 minutes, then every 20 seconds.
    pub fn step(&mut self, step: u64, values: &[(&str, f64)]) {
        let seconds = self.last_step.elapsed().as_secs_f64();
        self.last_step = Instant::now();
        let message = match self.unit {
            Unit::Steps => step_message(values, seconds),
            Unit::Bytes => String::new(),
        };
        let shown = self.form != Form::Plain || self.plain_is_due(step);
        match self.form {
            Form::Bar(id) => console::bar(id, Bar::Move(step, message)),
            Form::Plain if shown => {
                self.last_plain = Some(Instant::now());
                let line = plain_line(&self.label, self.unit.of(step, self.total).as_str(), &message);
                console::line(Stream::Err, line);
            }
            Form::Plain | Form::Hidden => {}
        }
        if let Some(watch) = &self.watch {
            // The thread ends only after this end of the channel.
            let _ = watch.send((step, shown));
        }
    }

    /// Prints a line without tearing the bar.
    pub fn note(&self, line: &str) {
        if self.form != Form::Hidden {
            console::line(Stream::Err, line);
        }
    }

    /// Ends the bar, leaving its last state on the screen.
    pub fn finish(&self) {
        if let Form::Bar(id) = self.form {
            console::bar(id, Bar::End { stays: true });
        }
    }

    fn plain_is_due(&self, step: u64) -> bool {
        let every = PLAIN_EVERY[usize::from(self.begun.elapsed() >= YOUNG)];
        step >= self.total || self.last_plain.is_none_or(|at| at.elapsed() >= every)
    }
}

/// Starts the thread that shows a job to be alive.
fn watch(form: Form, unit: Unit, label: String, done: u64, total: u64) -> Option<Sender<Step>> {
    if form == Form::Hidden {
        return None;
    }
    let (told, steps) = channel();
    let thread = std::thread::Builder::new().name("progress".into());
    let show = move |step: u64, silent: Duration| match form {
        Form::Bar(id) => console::bar(id, Bar::Tick),
        _ => console::line(
            Stream::Err,
            still_line(&label, &unit.of(step, total), total, silent),
        ),
    };
    let every = move |young: bool| match form {
        Form::Bar(_) => WATCH_EVERY,
        _ => STILL_EVERY[usize::from(!young)],
    };
    thread.spawn(move || watching(&steps, done, every, show)).ok()?;
    Some(told)
}

/// Calls `show` with the last step and the time since, whenever `every` (of a young job or not) has passed with
/// nothing shown. Returns when the job has ended.
fn watching(
    steps: &Receiver<Step>,
    mut step: u64,
    every: impl Fn(bool) -> Duration,
    show: impl Fn(u64, Duration),
) {
    let begun = Instant::now();
    let (mut since, mut shown) = (begun, begun);
    loop {
        match steps.recv_timeout(WATCH_EVERY) {
            Ok((next, was_shown)) => {
                step = next;
                since = Instant::now();
                if was_shown {
                    shown = since;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout)
                if shown.elapsed() + WATCH_EVERY > every(begun.elapsed() < YOUNG) =>
            {
                shown = Instant::now();
                show(step, since.elapsed());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Drop for Progress {
    /// A bar that an error ended goes from the screen; a finished one is not there to go.
    fn drop(&mut self) {
        if let Form::Bar(id) = self.form {
            console::bar(id, Bar::End { stays: false });
        }
    }
}

fn step_message(values: &[(&str, f64)], seconds: f64) -> String {
    let mut parts: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name} {value:.3}"))
        .collect();
    parts.push(if seconds < 0.1 {
        format!("{:.1} ms/step", seconds * 1e3)
    } else {
        format!("{seconds:.2} s/step")
    });
    parts.join("  ")
}

fn still_line(label: &str, done: &str, total: u64, silent: Duration) -> String {
    let seconds = silent.as_secs_f64();
    match total {
        0 => format!("{label}  {seconds:.0} s"),
        _ => format!("{label} {done}  {seconds:.0} s since"),
    }
}

fn plain_line(label: &str, done: &str, message: &str) -> String {
    format!("{label} {done}  {message}").trim_end().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn messages_read_well() {
        let message = step_message(&[("reward", 0.51234), ("kl", -0.0004)], 1.5);
        assert_eq!(message, "reward 0.512  kl -0.000  1.50 s/step");
        assert_eq!(plain_line("train", &Unit::Steps.of(3, 60), "x"), "train 3/60  x");
        assert_eq!(step_message(&[], 0.0021), "2.1 ms/step");
        let bytes = Unit::Bytes.of(3 << 20, 5 << 30);
        assert_eq!(
            plain_line("downloading x", &bytes, ""),
            "downloading x 3.00 MiB/5.00 GiB"
        );
    }

    #[test]
    fn plain_lines_come_first_last_and_rarely_between() {
        let mut progress = Progress::hidden(10);
        assert!(progress.plain_is_due(1));
        progress.last_plain = Some(Instant::now());
        assert!(!progress.plain_is_due(2));
        assert!(progress.plain_is_due(10));
        progress.step(3, &[("reward", 1.0)]);
        progress.note("hidden");
        progress.finish();
    }

    #[test]
    fn a_step_that_lasts_is_shown_until_the_job_ends() {
        let (told, steps) = channel();
        let (saw, seen) = channel();
        let show = move |step, silent: Duration| {
            let _ = saw.send((step, silent));
        };
        let every = |_| Duration::from_millis(600);
        let thread = std::thread::spawn(move || watching(&steps, 3, every, show));
        let (step, silent) = seen.recv().unwrap();
        assert_eq!(step, 3);
        assert!(silent >= WATCH_EVERY);
        told.send((4, true)).unwrap();
        assert_eq!(seen.iter().find(|(step, _)| *step == 4).unwrap().0, 4);
        // A second line counts from the step, not from the first line.
        assert!(seen.recv().unwrap().1 >= 2 * WATCH_EVERY);
        drop(told);
        thread.join().unwrap();
    }

    #[test]
    fn a_wait_says_for_what_and_how_long() {
        let seven = Duration::from_secs(7);
        assert_eq!(still_line("train", "0/60", 60, seven), "train 0/60  7 s since");
        assert_eq!(still_line("loading tiny", "0/0", 0, seven), "loading tiny  7 s");
    }
}
