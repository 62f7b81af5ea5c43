//! The crate's error type: every message says what went wrong, where, and what to do about it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::words;

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, sorted by who can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input, a flag or a file is wrong: the user can mend it (exit code 2).
    #[error("{0}")]
    User(String),
    /// A row of a data file is well formed and of no use (exit code 2). Readers of data files leave such rows out and count
    /// them; it ends a command where a row must not be left out, or where a file holds no other rows.
    #[error("{0}")]
    Unusable(String),
    /// A file or directory could not be read or written (exit code 2).
    #[error("{}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The GPU stopped answering (driver reset, timeout, unplugged); exit code 1.
    #[error(
        "GPU device lost: {0}. The last checkpoint is intact: run the same command with --resume; if it happens again, lower --token-budget"
    )]
    DeviceLost(String),
    /// An allocation failed on the GPU (exit code 2: smaller settings mend it).
    #[error(
        "out of GPU memory: {0}. Run `tea-wgpu plan` with the same flags to see what takes it, then lower --token-budget or --num-generations, or choose a smaller --base-dtype"
    )]
    OutOfMemory(String),
    /// The GPU layer refused something this program did: a bug (exit code 1).
    #[error("GPU error: {0}")]
    Gpu(String),
    /// A broken promise inside the program: a bug (exit code 1).
    #[error("internal error: {0}")]
    Internal(String),
    /// Ctrl-C, SIGTERM or SIGHUP came and the work was left in a resumable state (exit code 130; the
    /// program's own is that of the signal).
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// Some of a list of jobs failed and the rest is done (exit code 1).
    #[error("{0}")]
    Failed(String),
    /// An error with the place it happened put before it.
    #[error("{context}: {source}")]
    Context {
        /// Where: a file, a line, a flag.
        context: String,
        /// What.
        source: Box<Error>,
    },
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::FileTooLarge
        | std::io::ErrorKind::QuotaExceeded => " (free some space; files written before this one are whole)",
        std::io::ErrorKind::NotFound => " (check the path)",
        std::io::ErrorKind::PermissionDenied => " (check its permissions)",
        _ => "",
    }
}

/// Warns of something once in a process: models are opened more than once, and the second time it is no news.
pub fn warn_once(message: impl Display) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let message = message.to_string();
    // A thread that panicked while it held the set has left it whole.
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(message.clone()) {
        log::warn!("{message}");
    }
}

impl Error {
    /// An error the user can mend. Of a message that quotes a text without end the middle is left out.
    pub fn user(message: impl Display) -> Self {
        Self::User(words::bounded(message.to_string()))
    }

    /// A row of a data file that is of no use.
    pub fn unusable(message: impl Display) -> Self {
        Self::Unusable(words::bounded(message.to_string()))
    }

    /// Whether it is about a row that may be left out.
    pub fn is_unusable(&self) -> bool {
        match self {
            Self::Unusable(_) => true,
            Self::Context { source, .. } => source.is_unusable(),
            _ => false,
        }
    }

    /// Whether a signal ended the work.
    pub fn is_interrupted(&self) -> bool {
        match self {
            Self::Interrupted(_) => true,
            Self::Context { source, .. } => source.is_interrupted(),
            _ => false,
        }
    }

    /// A bug.
    pub fn internal(message: impl Display) -> Self {
        Self::Internal(words::bounded(message.to_string()))
    }

    /// A failed file operation on `path`; use as `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The process's exit code: 2 for what the user can mend, 1 for bugs, lost devices and failed
    /// jobs, 130 for an interruption: `run::interrupt` knows by which signal.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::User(_) | Self::Unusable(_) | Self::Io { .. } | Self::OutOfMemory(_) => 2,
            Self::DeviceLost(_) | Self::Gpu(_) | Self::Internal(_) | Self::Failed(_) => 1,
            Self::Interrupted(_) => 130,
            Self::Context { source, .. } => source.exit_code(),
        }
    }
}

/// Puts a place before an error's message.
pub trait Context<T> {
    /// Prefixes the error with `context` (a file, a line, a flag), unless it begins with that place already: a file in a
    /// directory is told by its path alone.
    fn context(self, context: impl Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|source| {
            let context = context.to_string();
            let said = source.to_string();
            let rest = said.strip_prefix(&context);
            if !context.is_empty() && rest.is_some_and(|rest| rest.starts_with(['/', '\\', ':'])) {
                return source;
            }
            Error::Context {
                context: words::bounded(context),
                source: Box::new(source),
            }
        })
    }
}
