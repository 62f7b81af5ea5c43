//! Files that appear whole or not at all: a fresh name in the same directory, fsync, rename, fsync of the directory.
//!
//! Everything that the program writes to a disk is written here, or in [`dirs`](super::dirs) for directories. A file is made
//! under a name that nobody had before, so that no link is followed; its permissions are those of the user's mask. What
//! grows line by line is opened by `append`, which follows no link and writes to no file that has a second name.

use std::fs::{self, File, Metadata};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::own;
use crate::error::{Error, Result};

/// Prefix of what is still being written.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// Letters between the prefix and the name.
const FRESH: usize = 16;
/// Names that are tried; a second one is never needed unless somebody guesses.
const TRIES: usize = 16;

/// What this process is writing now.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what this process is writing, because it is about to end. Best effort.
pub(crate) fn abandon() {
    let all = match UNFINISHED.try_lock() {
        Ok(all) => all.clone(),
        Err(TryLockError::Poisoned(all)) => all.into_inner().clone(),
        Err(TryLockError::WouldBlock) => return,
    };
    for path in all {
        remove_entry(&path);
    }
}

/// Removes a file or a directory with all that is in it. No link is followed.
fn remove_entry(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// `path` with `prefix` before its last component.
pub(crate) fn prefixed(path: &Path, prefix: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::user(format!(
            "{}: not a name that can be written to",
            path.display()
        )));
    };
    let mut new = std::ffi::OsString::from(prefix);
    new.push(name);
    Ok(path.with_file_name(new))
}

/// The name that a temporary one stands for: `.tmp-0123456789abcdef-NAME`, or `.tmp-NAME` of older versions.
pub(crate) fn finished(temporary: &str) -> Option<&str> {
    let name = temporary.strip_prefix(TEMPORARY)?;
    let fresh = |letters: &str| letters.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match name.split_at_checked(FRESH) {
        Some((letters, rest)) if fresh(letters) && rest.len() > 1 => {
            Some(rest.strip_prefix('-').unwrap_or(name))
        }
        _ => Some(name),
    }
}

/// A name beside a target that nothing had before. What has it is removed when this is dropped, unless it got the target's.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Makes an entry by `make`, which must fail where there is one.
    pub(super) fn new<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> Result<(Self, T)> {
        own::check(target)?;
        let mut last = None;
        for _ in 0..TRIES {
            let letters = std::hash::RandomState::new().build_hasher().finish();
            let path = prefixed(target, &format!("{TEMPORARY}{letters:016x}-"))?;
            unfinished().push(path.clone());
            match make(&path) {
                Ok(made) => return Ok((Self(path), made)),
                Err(e) => {
                    // It is not this process's to remove.
                    unfinished().retain(|one| *one != path);
                    if e.kind() != io::ErrorKind::AlreadyExists {
                        return Err(Error::io(target)(e));
                    }
                    last = Some(e);
                }
            }
        }
        Err(Error::io(target)(
            last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into()),
        ))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it its name.
    pub(super) fn rename(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.0, target)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing of this name.
        remove_entry(&self.0);
        unfinished().retain(|one| *one != self.0);
    }
}

/// Makes a rename in `path`'s directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    // Windows cannot open directories; there the rename itself is journalled.
    if cfg!(unix) {
        let parent = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io(parent))?;
    }
    Ok(())
}

/// Writes a file whole or not at all.
///
/// # Errors
/// When it cannot be written; what was at `path` before is then untouched and the temporary file is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// As [`write_atomic`], with the contents written piece by piece.
///
/// # Errors
/// As [`write_atomic`]; an error of `contents` counts as one of writing.
pub fn write_atomic_with(path: &Path, contents: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let (temporary, file) = Temporary::new(path, create_new)?;
    fill(file, contents)
        .and_then(|()| temporary.rename(path))
        .map_err(Error::io(path))?;
    sync_parent(path)
}

/// Writes to what the user names as an output: a file, as [`write_atomic`] does, or a pipe or terminal (`/dev/stdout`), which
/// is written to as it is.
///
/// # Errors
/// As [`write_atomic`]; a directory, or another device.
pub fn write_output(path: &Path, bytes: &[u8]) -> Result<()> {
    match stream(path)? {
        Some(mut out) => out
            .write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(Error::io(path)),
        None => write_atomic(path, bytes),
    }
}

/// What is at `path`, opened for writing, where it is not a file that can be replaced.
fn stream(path: &Path) -> Result<Option<File>> {
    // To add is to write, where there is no file.
    let open = || File::options().append(true).open(path).map_err(Error::io(path));
    // Names of open files, such as /dev/stdout: to replace the name would not reach the file.
    let parent = path.parent().and_then(|dir| dir.canonicalize().ok());
    let of_the_system = parent.is_some_and(|dir| dir == Path::new("/dev") || dir.starts_with("/proc"));
    if of_the_system && path.is_symlink() {
        return open().map(Some);
    }
    let Ok(found) = fs::metadata(path) else {
        return Ok(None);
    };
    if found.is_file() {
        return Ok(None);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.file_type().is_fifo() || found.file_type().is_char_device() {
            return open().map(Some);
        }
    }
    let what = if found.is_dir() { "a directory" } else { "a device" };
    Err(Error::user(format!(
        "{}: {what}, where a file is to be written: choose another name",
        path.display()
    )))
}

/// Writes a file and waits until the disk has it. What has its name goes, also a link, which is not followed.
pub(crate) fn write_synced(
    path: &Path,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    fill(create(path)?, contents)
}

fn fill(file: File, contents: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    contents(&mut out)?;
    out.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// Makes a file that was not there; a link in its place is not followed.
fn create_new(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

/// Makes a file anew. What was in its place goes, also a link, which is not followed.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => (),
    }
    create_new(path)
}

/// As [`write_atomic`], for a writer that wants a path: it is given one beside `path` with the same extension.
///
/// # Errors
/// As [`write_atomic`]; those of `write`.
pub(crate) fn replace_atomic(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (temporary, _) = Temporary::new(path, create_new)?;
    write(temporary.path())?;
    // Windows syncs only what is open for writing.
    let file = File::options().write(true).open(temporary.path());
    file.and_then(|file| file.sync_all())
        .and_then(|()| temporary.rename(path))
        .map_err(Error::io(path))?;
    sync_parent(path)
}

/// Begins an empty file that grows. What had its name goes, also a link, which is not followed.
///
/// # Errors
/// It cannot be made.
pub(crate) fn begin(path: &Path) -> Result<File> {
    own::check(path)?;
    create(path).map_err(Error::io(path))
}

/// Opens a file to add to it; it is made where it is missing. A link is refused. A file with a second name is copied first, so
/// that what the other name shows does not change.
///
/// # Errors
/// As [`open_own`].
pub(crate) fn append(path: &Path) -> Result<File> {
    own::check(path)?;
    if own::entry(path)?.is_some_and(|found| found.is_file() && has_other_names(&found)) {
        let mut from = super::open::regular(path)?;
        write_atomic_with(path, |out| io::copy(&mut from, out).map(drop))?;
    }
    own_file(path, File::options().append(true))
}

/// Opens a regular file that this program wrote for reading and writing, or makes it: never through a link, and none that has
/// a second name.
///
/// # Errors
/// A user error that names what is there instead; an I/O error.
pub(crate) fn open_own(path: &Path) -> Result<File> {
    own_file(path, File::options().read(true).write(true))
}

fn own_file(path: &Path, how: &mut fs::OpenOptions) -> Result<File> {
    match how.clone().create_new(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (),
        made => return made.map_err(Error::io(path)),
    }
    // `NotFound` stays an error of its kind: whoever removed it may have been its last user.
    let found = fs::symlink_metadata(path).map_err(Error::io(path))?;
    if found.is_symlink() {
        return Err(own::link(path));
    }
    if !found.is_file() || has_other_names(&found) {
        let what = if found.is_file() {
            "a file with a second name (a hard link)"
        } else {
            "not a regular file"
        };
        return Err(Error::user(format!(
            "{}: {what}: this program did not make it so. Remove it, or choose another --output",
            path.display()
        )));
    }
    let file = how.open(path).map_err(Error::io(path))?;
    if !names(path, &file) {
        return Err(Error::user(format!(
            "{}: replaced by another file while it was opened",
            path.display()
        )));
    }
    Ok(file)
}

/// Whether a path itself, not what a link there leads to, is the name of an open file.
#[cfg(unix)]
pub(crate) fn names(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: &Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(opened), Ok(named)) => id(&opened) == id(&named),
        _ => false,
    }
}

/// Elsewhere files are not told apart.
#[cfg(not(unix))]
pub(crate) fn names(_: &Path, _: &File) -> bool {
    true
}

#[cfg(unix)]
fn has_other_names(found: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(found) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &Metadata) -> bool {
    false
}

/// Removes a name; a link there is removed as what it is.
///
/// # Errors
/// It cannot be removed, or a link leads to it inside a directory of this program.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    own::check(path)?;
    fs::remove_file(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn temporary_names_are_known_by_their_form() {
        let dir = tempfile::tempdir().unwrap();
        let (temporary, _) = Temporary::new(&dir.path().join("a.png"), create_new).unwrap();
        let name = temporary
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_string();
        assert_eq!(finished(&name), Some("a.png"), "{name}");
        assert!(name.ends_with("a.png"), "the extension stays: {name}");
        drop(temporary);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(finished(".tmp-step_3"), Some("step_3"));
        assert_eq!(finished(".tmp-0123456789abcdeX-a"), Some("0123456789abcdeX-a"));
        assert_eq!(finished("step_3"), None);
    }

    #[test]
    fn what_is_unfinished_is_removed_when_the_process_ends() {
        let dir = tempfile::tempdir().unwrap();
        let held = Temporary::new(&dir.path().join("a"), create_new).unwrap();
        let tree = Temporary::new(&dir.path().join("b"), |p| fs::create_dir(p)).unwrap();
        fs::write(tree.0.path().join("c"), "x").unwrap();
        remove_entry(held.0.path());
        remove_entry(tree.0.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[cfg(all(test, unix))]
mod links {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::write(place.at("victim"), "mine").unwrap();
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        #[track_caller]
        fn untouched(&self) {
            assert_eq!(fs::read_to_string(self.at("victim")).unwrap(), "mine");
        }
    }

    /// In place of the target, and in place of the names that older versions wrote to first.
    #[test]
    fn no_link_is_followed_when_a_file_is_replaced() {
        for name in ["config.toml", ".tmp-config.toml"] {
            for write in [
                |path: &Path| write_atomic(path, b"new"),
                |path: &Path| replace_atomic(path, |at| fs::write(at, "new").map_err(Error::io(at))),
                |path: &Path| write_synced(path, |out| out.write_all(b"new")).map_err(Error::io(path)),
                |path: &Path| begin(path)?.write_all(b"new").map_err(Error::io(path)),
            ] {
                let place = Place::new();
                symlink(place.at("victim"), place.at(name)).unwrap();
                let path = place.at("config.toml");
                write(&path).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), "new");
                place.untouched();
            }
        }
    }

    #[test]
    fn nothing_is_added_through_a_link_or_to_a_second_name() {
        let place = Place::new();
        let path = place.at("metrics.jsonl");
        for to in [place.at("victim"), place.at("missing")] {
            symlink(to, &path).unwrap();
            let error = append(&path).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("a link"),
                "{error}"
            );
            fs::remove_file(&path).unwrap();
        }
        assert!(!place.at("missing").exists());
        fs::hard_link(place.at("victim"), &path).unwrap();
        assert!(open_own(&path).is_err());
        let mut file = append(&path).unwrap();
        file.write_all(b"+").unwrap();
        file.set_len(3).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "min");
        place.untouched();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(
            append(&path)
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }

    #[test]
    fn permissions_are_those_of_the_users_mask() {
        let place = Place::new();
        fs::write(place.at("plain"), "").unwrap();
        let mode = |name: &str| fs::metadata(place.at(name)).unwrap().permissions().mode() & 0o777;
        write_atomic(&place.at("a"), b"x").unwrap();
        replace_atomic(&place.at("b"), |at| fs::write(at, "x").map_err(Error::io(at))).unwrap();
        append(&place.at("c")).unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(mode(name), mode("plain"), "{name}");
        }
    }

    #[test]
    fn an_output_may_be_a_pipe_and_no_directory() {
        let place = Place::new();
        write_output(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let pipe = place.at("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let from = pipe.clone();
        let reader = std::thread::spawn(move || fs::read_to_string(from).unwrap());
        write_output(&pipe, b"lines").unwrap();
        let file = place.at("file");
        for text in ["a longer text", "short"] {
            write_output(&file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        assert_eq!(reader.join().unwrap(), "lines");
        let error = write_output(place.0.path(), b"x").unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
    }
}
