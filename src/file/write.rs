//! Files that appear whole or not at all: temporary name in the same directory, fsync, rename, fsync of the directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Prefix of what is still being written.
pub(crate) const TEMPORARY: &str = ".tmp-";

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
    let temporary = prefixed(path, TEMPORARY)?;
    let written = write_synced(&temporary, contents).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(path)(e));
    }
    sync_parent(path)
}

/// Writes a file and waits until the disk has it.
pub(crate) fn write_synced(
    path: &Path,
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(create(path)?);
    contents(&mut out)?;
    out.into_inner().map_err(|e| e.into_error())?.sync_all()
}

/// Makes a file anew. What was in its place goes, also a link, which is not followed.
fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => (),
    }
    File::create_new(path)
}

/// As [`write_atomic`], for a writer that wants a path: it is given one beside `path` with the same extension.
///
/// # Errors
/// As [`write_atomic`]; those of `write`.
pub(crate) fn replace_atomic(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = prefixed(path, TEMPORARY)?;
    let written = create(&temporary)
        .map_err(Error::io(path))
        .and_then(|_| write(&temporary))
        .and_then(|()| {
            // Windows syncs only what is open for writing.
            let file = File::options().write(true).open(&temporary);
            file.and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&temporary, path))
                .map_err(Error::io(path))
        });
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    sync_parent(path)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("config.toml"));
        fs::write(&victim, "mine").unwrap();
        for write in [
            |path: &Path| write_atomic(path, b"new"),
            |path: &Path| replace_atomic(path, |at| fs::write(at, "new").map_err(Error::io(at))),
        ] {
            std::os::unix::fs::symlink(&victim, dir.path().join(".tmp-config.toml")).unwrap();
            write(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        }
    }
}
