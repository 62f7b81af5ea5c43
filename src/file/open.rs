//! Opening files that somebody else may have made: regular files, and pipes where data are read; nothing else.
//!
//! A device, a socket or a directory is refused before it is opened: opening some of them already waits or acts.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::limits::Limit;
use crate::error::{Error, Result};

/// How long a pipe may be without a writer.
const WRITER: Duration = Duration::from_secs(5);

/// Opens a regular file for reading, also through a link.
///
/// # Errors
/// It is missing, unreadable, or no regular file.
pub fn regular(path: &Path) -> Result<File> {
    open(path, false)
}

/// Opens a regular file that this program wrote: never through a link in its own place.
///
/// # Errors
/// As [`regular`]; it is a link.
pub(crate) fn own(path: &Path) -> Result<File> {
    super::own::no_link(path)?;
    let file = regular(path)?;
    match super::write::names(path, &file) {
        true => Ok(file),
        false => Err(super::own::link(path)),
    }
}

/// As [`regular`], and a pipe may stand in its place (`/dev/stdin`, `<(…)`).
///
/// # Errors
/// As [`regular`].
pub fn regular_or_pipe(path: &Path) -> Result<File> {
    open(path, true)
}

/// The bytes of a small regular file, read whole.
///
/// # Errors
/// As [`regular`]; it is larger than `limit`.
pub fn read(path: &Path, limit: &Limit) -> Result<Vec<u8>> {
    whole(path, regular(path)?, limit)
}

/// As [`read`], for a file that this program wrote: never through a link. `None` where there is no file.
///
/// # Errors
/// As [`read`]; it is a link.
pub(crate) fn read_own(path: &Path, limit: &Limit) -> Result<Option<Vec<u8>>> {
    let file = own_if_any(path)?;
    file.map(|file| whole(path, file, limit)).transpose()
}

/// A regular file that this program wrote, open to be read: never through a link. `None` where there is no file.
///
/// # Errors
/// As [`regular`]; it is a link.
pub(crate) fn own_if_any(path: &Path) -> Result<Option<File>> {
    match super::own::entry(path)? {
        Some(_) => own(path).map(Some),
        None => Ok(None),
    }
}

fn whole(path: &Path, file: File, limit: &Limit) -> Result<Vec<u8>> {
    let size = file.metadata().map_err(Error::io(path))?.len();
    limit.check(path.display(), size)?;
    // The file may grow while it is read, and some (`/proc`) say that they are empty.
    let most = limit.most();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    limit.check(path.display(), bytes.len())?;
    Ok(bytes)
}

/// The text of a small regular file, read whole.
///
/// # Errors
/// As [`read`]; it is not UTF-8.
pub fn read_text(path: &Path, limit: &Limit) -> Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::user(format!(
            "{}: not UTF-8 text (byte {at}): save the file as UTF-8",
            path.display()
        ))
    })
}

fn open(path: &Path, pipes: bool) -> Result<File> {
    // Asked before opening, since to open a pipe waits for a writer; asked again, since the path may name another file by then.
    let found = std::fs::metadata(path).map_err(Error::io(path))?;
    allowed(path, &found, pipes)?;
    let opened = if is_pipe(&found) {
        opened_soon(path)?
    } else {
        File::open(path)
    };
    let file = opened.map_err(Error::io(path))?;
    allowed(path, &file.metadata().map_err(Error::io(path))?, pipes)?;
    Ok(file)
}

fn is_pipe(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        found.file_type().is_fifo()
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        false
    }
}

/// Opens a pipe, which waits for its writer: not for ever.
fn opened_soon(path: &Path) -> Result<std::io::Result<File>> {
    let (done, opened) = std::sync::mpsc::channel();
    let name = path.to_path_buf();
    // The thread goes on waiting where nobody comes; it ends with the process.
    std::thread::spawn(move || drop(done.send(File::open(name))));
    opened.recv_timeout(WRITER).map_err(|_| {
        Error::user(format!(
            "{}: a pipe that nobody has opened for writing within {} s: start its writer first",
            path.display(),
            WRITER.as_secs()
        ))
    })
}

fn allowed(path: &Path, found: &Metadata, pipes: bool) -> Result<()> {
    let kind = found.file_type();
    let refuse = |what: &str| {
        let wanted = if pipes {
            "a regular file or a pipe"
        } else {
            "a regular file"
        };
        Err(Error::user(format!(
            "{}: {what}, where {wanted} is needed",
            path.display()
        )))
    };
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return refuse("a directory");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return if pipes { Ok(()) } else { refuse("a pipe") };
        }
        if kind.is_char_device() || kind.is_block_device() {
            return refuse("a device");
        }
        if kind.is_socket() {
            return refuse("a socket");
        }
    }
    refuse("not a regular file")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SMALL: Limit = Limit::bytes("size of a test file", 4);

    #[test]
    fn only_regular_files_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abcd").unwrap();
        assert_eq!(read_text(&path, &SMALL).unwrap(), "abcd");
        std::fs::write(&path, "abcde").unwrap();
        let said = read(&path, &SMALL).unwrap_err().to_string();
        assert!(said.contains("5 B, where the limit is 4 B"), "{said}");
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        let said = read_text(&path, &SMALL).unwrap_err().to_string();
        assert!(said.contains("byte 1"), "{said}");
        let said = read(dir.path(), &SMALL).unwrap_err().to_string();
        assert!(said.contains("a directory"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_pipes_are_not_opened() {
        let said = regular(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(said.contains("a device"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let said = regular(&path).unwrap_err().to_string();
        assert!(said.contains("a pipe"), "{said}");
        let said = regular_or_pipe(&path).unwrap_err().to_string();
        assert!(said.contains("nobody has opened for writing"), "{said}");
        // Another pipe: who waited for this one's writer still does.
        let path = dir.path().join("written");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let writer = path.clone();
        let writes = std::thread::spawn(move || std::fs::write(writer, "rows"));
        let mut text = String::new();
        regular_or_pipe(&path).unwrap().read_to_string(&mut text).unwrap();
        writes.join().unwrap().unwrap();
        assert_eq!(text, "rows");
    }
}
