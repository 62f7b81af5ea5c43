//! The bytes of a weight file: mapped or compiled in.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A read-only file's bytes.
#[derive(Debug)]
pub(crate) enum FileBytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl FileBytes {
    /// Maps a file into memory.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let meta = file.metadata().map_err(Error::io(path))?;
        if !meta.is_file() {
            return Err(Error::user(format!("{}: not a file", path.display())));
        }
        if meta.len() == 0 {
            return Err(Error::user(format!(
                "{}: the file is empty; download it again",
                path.display()
            )));
        }
        #[allow(
            unsafe_code,
            reason = "weights may exceed memory, so they are mapped; the bytes are only copied, never trusted as typed \
                      data, and a checkpoint is replaced by renaming, not by writing into it"
        )]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}
