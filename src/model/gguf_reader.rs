//! The cursor that GGUF files are read with.

use super::bytes::ReadAt;
use crate::error::{Error, Result};
use crate::file::limits::GGUF_HEADER;

/// Bytes that are read ahead.
const AHEAD: usize = 1 << 18;

/// A cursor that never reads past the end, and never further than the metadata may go.
pub(crate) struct Reader<'a> {
    source: &'a dyn ReadAt,
    size: usize,
    /// Where `window` begins.
    start: usize,
    window: Vec<u8>,
    pub(crate) at: usize,
    /// Elements of the arrays read so far.
    pub(crate) elements: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            size: source.size(),
            start: 0,
            window: Vec::new(),
            at: 0,
            elements: 0,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::user(format!(
            "corrupt or truncated GGUF at byte {}: {message}; download the file again",
            self.at
        )))
    }

    pub(crate) fn take(&mut self, n: u64, what: &str) -> Result<&[u8]> {
        let left = self.size - self.at;
        let n = match usize::try_from(n) {
            Ok(n) if n <= left => n,
            _ => return self.fail(format!("{what} needs {n} bytes and {left} are left")),
        };
        let end = self.at + n;
        GGUF_HEADER.check(what, end)?;
        if self.at < self.start || end > self.start + self.window.len() {
            let most = (self.size - self.at).min(n.max(AHEAD));
            self.window.resize(most, 0);
            self.start = self.at;
            self.source.read_at(self.at, &mut self.window)?;
        }
        let from = self.at - self.start;
        self.at = end;
        Ok(&self.window[from..from + n])
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `least` bytes each.
    pub(crate) fn count(&mut self, least: usize, what: &str) -> Result<usize> {
        let n = self.u64(what)?;
        let left = (self.size - self.at) / least;
        match usize::try_from(n) {
            Ok(n) if n <= left => Ok(n),
            _ => self.fail(format!("{what} is {n}, more than the file can hold")),
        }
    }

    pub(crate) fn string(&mut self, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        // Token pieces of byte-level vocabularies are always valid UTF-8; broken ones are kept readable, not fatal.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}
