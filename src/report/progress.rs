//! The progress line of a long job: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::console::{self, Bar, Stream};

/// Seconds between plain lines where stderr is not a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(20);

/// Shows how far a job is, on stderr, through the console: whatever becomes of its reader.
#[derive(Debug)]
pub struct Progress {
    form: Form,
    label: String,
    total: u64,
    last_step: Instant,
    last_plain: Option<Instant>,
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
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let form = if std::io::stderr().is_terminal() {
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{prefix} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━━─"));
            }
            let bar = bar.with_prefix(label.to_string()).with_position(done);
            console::bar(id, Bar::Show(Box::new(bar)));
            Form::Bar(id)
        } else {
            Form::Plain
        };
        Self::of(form, label, total)
    }

    /// A progress that shows nothing: for `--quiet` and tests.
    pub fn hidden(total: u64) -> Self {
        Self::of(Form::Hidden, "", total)
    }

    fn of(form: Form, label: &str, total: u64) -> Self {
        Self {
            form,
            label: label.to_string(),
            total,
            last_step: Instant::now(),
            last_plain: None,
        }
    }

    /// Step `step` is done; `values` are shown after the count with three decimals, then the seconds since the last
    /// call. Without a terminal: a line for the first and last step, and otherwise at most every 20 seconds.
    pub fn step(&mut self, step: u64, values: &[(&str, f64)]) {
        let seconds = self.last_step.elapsed().as_secs_f64();
        self.last_step = Instant::now();
        let message = step_message(values, seconds);
        match self.form {
            Form::Bar(id) => console::bar(id, Bar::Move(step, message)),
            Form::Plain if self.plain_is_due(step) => {
                self.last_plain = Some(Instant::now());
                let line = plain_line(&self.label, step, self.total, &message);
                console::line(Stream::Err, line);
            }
            Form::Plain | Form::Hidden => {}
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
        step >= self.total || self.last_plain.is_none_or(|at| at.elapsed() >= PLAIN_EVERY)
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

fn plain_line(label: &str, step: u64, total: u64, message: &str) -> String {
    format!("{label} {step}/{total}  {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_well() {
        let message = step_message(&[("reward", 0.51234), ("kl", -0.0004)], 1.5);
        assert_eq!(message, "reward 0.512  kl -0.000  1.50 s/step");
        assert_eq!(plain_line("train", 3, 60, "x"), "train 3/60  x");
        assert_eq!(step_message(&[], 0.0021), "2.1 ms/step");
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
}
