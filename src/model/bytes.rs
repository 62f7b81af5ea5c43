//! The bytes of a weight file: in a file that is read at positions, or compiled in.
//!
//! Weights are not mapped into memory. A mapped file that becomes shorter ends the process by a signal; a read past its
//! end is an error with a message.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file::open::regular;

/// Something whose bytes can be read at any position.
pub trait ReadAt {
    /// How many bytes there are.
    fn size(&self) -> usize;

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// They are not there, or cannot be read.
    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()>;

    /// The bytes of a range.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`]; there is no memory for so many.
    fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.try_reserve_exact(range.len()).map_err(|_| {
            Error::user(format!(
                "{} bytes do not fit into this machine's memory",
                range.len()
            ))
        })?;
        out.resize(range.len(), 0);
        self.read_at(range.start, &mut out)?;
        Ok(out)
    }
}

impl ReadAt for &[u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()> {
        let found = at.checked_add(out.len()).and_then(|end| self.get(at..end));
        let Some(found) = found else {
            return Err(Error::user(format!(
                "{} bytes at {at} are outside of {} bytes",
                out.len(),
                self.len()
            )));
        };
        out.copy_from_slice(found);
        Ok(())
    }
}

/// A weight file.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Open { file: File, path: PathBuf, size: usize },
    Static(&'static [u8]),
}

impl FileBytes {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = regular(path)?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        if size == 0 {
            return Err(Error::user(format!(
                "{}: the file is empty; download it again",
                path.display()
            )));
        }
        let Ok(size) = usize::try_from(size) else {
            return Err(Error::user(format!(
                "{}: {size} bytes are more than this machine addresses",
                path.display()
            )));
        };
        Ok(Self::Open {
            file,
            path: path.to_path_buf(),
            size,
        })
    }

    /// The bytes of a range, borrowed where they are compiled in.
    pub(crate) fn range(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        if let Self::Static(bytes) = self
            && let Some(found) = bytes.get(range.clone())
        {
            return Ok(Cow::Borrowed(found));
        }
        self.read(range).map(Cow::Owned)
    }
}

impl ReadAt for FileBytes {
    fn size(&self) -> usize {
        match self {
            Self::Open { size, .. } => *size,
            Self::Static(bytes) => bytes.len(),
        }
    }

    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Static(bytes) => bytes.read_at(at, out),
            Self::Open { file, path, size } => read_exact_at(file, at as u64, out).map_err(|e| {
                if e.kind() == std::io::ErrorKind::UnexpectedEof {
                    return Error::user(format!(
                        "{}: the file became shorter while it was read: it had {size} bytes. Something else writes to it. \
                         Wait until that has ended, or download the file again",
                        path.display()
                    ));
                }
                Error::io(path)(e)
            }),
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    use std::io::ErrorKind;
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                at += n as u64;
                out = &mut out[n..];
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_file_that_becomes_shorter_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, [7; 100]).unwrap();
        let bytes = FileBytes::open(&path).unwrap();
        assert_eq!(*bytes.range(90..100).unwrap(), [7; 10]);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(95)
            .unwrap();
        assert_eq!(*bytes.range(85..95).unwrap(), [7; 10]);
        let error = bytes.range(90..100).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(
            said.contains("model.safetensors") && said.contains("became shorter"),
            "{said}"
        );
    }

    #[test]
    fn bytes_outside_of_a_slice_are_an_error() {
        let bytes = [1u8, 2, 3];
        let slice = &bytes[..];
        assert_eq!(slice.read(1..3).unwrap(), [2, 3]);
        assert!(slice.read(2..4).is_err());
        assert!(slice.read_at(usize::MAX, &mut [0; 2]).is_err());
        assert!(FileBytes::Static(b"abc").range(2..4).is_err());
    }
}
