//! One writer a directory: an advisory lock of the operating system, which ends with the process however that ends.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::{dirs, open::regular, write};

/// The lock's file. Its name and words are for people; what counts is the lock on it.
pub(super) const FILE: &str = ".tea-wgpu.lock";
/// How often a lock is tried before its holder is believed: one that is just being released is free a moment later.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// The locks of this process. A command takes its directory's lock first; what it calls takes the same one again.
static HELD: Mutex<Vec<(PathBuf, Weak<Held>)>> = Mutex::new(Vec::new());

/// The right to write a directory. It is given back when the last copy is dropped, or by the system when the process ends.
#[derive(Debug, Clone)]
pub struct Lock {
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    file: File,
    path: PathBuf,
    /// Directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

/// What a lock's file says of the process that holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    command: String,
    started: String,
    host: String,
}

impl Lock {
    /// Takes the lock of a directory, which is made where it is missing (and removed again where nothing came into it).
    ///
    /// # Errors
    /// A user error that says who holds it; an I/O error.
    pub fn take(dir: &Path, command: &str) -> Result<Self> {
        if dir.is_file() {
            return Err(Error::user(format!(
                "{}: this is a file; --output takes a directory",
                dir.display()
            )));
        }
        Self::acquire(dir, FILE, &dir.display().to_string(), command)
    }

    /// Takes the lock of a directory that is going to appear as a whole, by a file beside it.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn beside(target: &Path, command: &str) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Self::take(target, command);
        };
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let file = format!(".{}{FILE}", name.to_string_lossy());
        Self::acquire(
            parent.unwrap_or(Path::new(".")),
            &file,
            &target.display().to_string(),
            command,
        )
    }

    fn acquire(dir: &Path, file: &str, what: &str, command: &str) -> Result<Self> {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, lock)| lock.strong_count() > 0);
        let mut made = Vec::new();
        for _ in 0..TRIES {
            made.extend(make(dir)?);
            let path = match dir.canonicalize() {
                Ok(dir) => dir.join(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(dir)(e)),
            };
            let own = held.iter().find(|(of, _)| *of == path);
            if let Some(lock) = own.and_then(|(_, lock)| lock.upgrade()) {
                return Ok(Self { _held: lock });
            }
            let mut opened = match open(&path) {
                Ok(opened) => opened,
                // Whoever held it has just removed the directory that was made for it.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            match opened.try_lock() {
                // The file that was locked may be one that its last holder has removed since.
                Ok(()) if !write::names(&path, &opened) => continue,
                Ok(()) => drop(Holder::of(command).write(&mut opened)),
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(TryLockError::Error(e)) => without_locks(dir, &e),
            }
            let lock = Arc::new(Held {
                file: opened,
                path: path.clone(),
                made,
            });
            held.push((path, Arc::downgrade(&lock)));
            return Ok(Self { _held: lock });
        }
        remove_empty(&made);
        Err(Error::user(format!(
            "{what} is in use: {} writes to it. Wait until that ends, or choose another --output",
            Holder::read(&dir.join(file))
        )))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
        let _ = self.file.unlock();
    }
}

impl Held {
    fn leave(&self) {
        if cfg!(unix) {
            // While it is still locked: who opens it before this finds it locked, who locks it after sees it is gone.
            let _ = write::remove_file(&self.path);
        } else {
            let _ = self.file.set_len(0);
        }
        remove_empty(&self.made);
    }
}

/// Removes the files of every lock, and directories that were made for nothing, because the process is about to end.
pub(super) fn leave_all() {
    if let Ok(held) = HELD.try_lock() {
        let locks = held.iter().filter_map(|(_, lock)| lock.upgrade());
        locks.for_each(|lock| lock.leave());
    }
}

/// Makes a directory and returns what was missing of it, the innermost first.
fn make(dir: &Path) -> Result<Vec<PathBuf>> {
    let missing = |p: &&Path| !p.as_os_str().is_empty() && !p.exists();
    let made = dir
        .ancestors()
        .take_while(missing)
        .map(Path::to_path_buf)
        .collect();
    dirs::make(dir)?;
    Ok(made)
}

fn remove_empty(made: &[PathBuf]) {
    // The first that holds something ends it.
    let _ = made.iter().try_for_each(|dir| dirs::remove_empty(dir));
}

/// Opens the lock's file for writing, making it where it is missing; never what a link in its place names.
fn open(path: &Path) -> Result<File> {
    write::open_own(path)
}

/// Some network file systems have no locks: the run goes on, and its user is told what is not watched.
fn without_locks(dir: &Path, error: &io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::warn!(
            "{}: this file system has no locks ({error}): nothing keeps a second run from writing there too",
            dir.display()
        );
    });
}

impl Holder {
    fn of(command: &str) -> Self {
        Self {
            pid: std::process::id(),
            command: command.to_string(),
            started: chrono::Local::now().format("%Y-%m-%d %H:%M:%S %:z").to_string(),
            host: host(),
        }
    }

    fn write(&self, file: &mut File) -> io::Result<()> {
        let line = serde_json::to_string(self)? + "\n";
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(line.as_bytes())
    }

    /// What the file at `path` says, in words.
    fn read(path: &Path) -> String {
        let mut text = String::new();
        let read = regular(path).map(|f| f.take(4096).read_to_string(&mut text));
        match read
            .ok()
            .and_then(|read| read.ok())
            .and_then(|_| serde_json::from_str::<Self>(&text).ok())
        {
            Some(h) => format!(
                "`tea-wgpu {}` (process {} on {}, since {})",
                h.command.escape_debug(),
                h.pid,
                h.host.escape_debug(),
                h.started.escape_debug()
            ),
            None => "another process".to_string(),
        }
    }
}

/// This machine's name.
fn host() -> String {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let named = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
    let named = named.or_else(|| std::env::var("COMPUTERNAME").ok());
    let named = named.or_else(|| std::env::var("HOSTNAME").ok());
    named.map_or("this machine".to_string(), |name| name.trim().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;

    #[test]
    fn a_lock_is_the_processs_own_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");
        let first = Lock::take(&dir, "train").unwrap();
        let again = Lock::take(&dir, "demo").unwrap();
        assert!(Holder::read(&dir.join(FILE)).starts_with("`tea-wgpu train` (process "));
        drop(first);
        assert!(dir.join(FILE).exists(), "one copy is left");
        drop(again);
        assert!(!place.path().join("a").exists(), "what was made for it is gone");
        let lock = Lock::take(&dir, "train").unwrap();
        fs::write(dir.join("metrics.jsonl"), "x").unwrap();
        drop(lock);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "the run alone is left");
    }

    /// Another open file stands for another process: the lock belongs to the open file.
    #[test]
    fn a_second_holder_is_told_of_the_first_and_a_stale_file_blocks_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        fs::write(&path, "left by a process that was killed").unwrap();
        drop(Lock::take(place.path(), "eval").unwrap());
        let mut other = open(&path).unwrap();
        other.try_lock().unwrap();
        Holder::of("sweep").write(&mut other).unwrap();
        let error = Lock::take(place.path(), "eval").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let pid = std::process::id().to_string();
        for part in ["in use", "`tea-wgpu sweep`", &pid, "--output"] {
            assert!(error.to_string().contains(part), "{part:?} not in {error}");
        }
        drop(other);
        Lock::take(place.path(), "eval").unwrap();
    }

    #[test]
    fn a_directory_that_is_to_appear_is_locked_from_beside() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("data");
        let lock = Lock::beside(&target, "prepare").unwrap();
        assert!(!target.exists() && place.path().join(".data.tea-wgpu.lock").exists());
        drop(lock);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let dir = place.path().join("run");
        fs::create_dir(&dir).unwrap();
        for link in [
            |a: &Path, b: &Path| std::os::unix::fs::symlink(a, b),
            |a: &Path, b: &Path| fs::hard_link(a, b),
        ] {
            link(&victim, &dir.join(FILE)).unwrap();
            assert_eq!(Lock::take(&dir, "train").unwrap_err().exit_code(), 2);
            assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
            fs::remove_file(dir.join(FILE)).unwrap();
        }
    }
}
