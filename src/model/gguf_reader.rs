//! The cursor that GGUF files are read with.

use crate::error::{Error, Result};

/// A cursor that never reads past the end.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::user(format!(
            "corrupt or truncated GGUF at byte {}: {message}; download the file again",
            self.at
        )))
    }

    pub(crate) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(n) {
            Ok(n) if n <= left => {
                let out = &self.bytes[self.at..self.at + n];
                self.at += n;
                Ok(out)
            }
            _ => self.fail(format!("{what} needs {n} bytes and {left} are left")),
        }
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
        let left = (self.bytes.len() - self.at) / least;
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
