//! Safetensors files whose tensors are taken as bytes, whatever their element types.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::SafeTensors;

use super::bytes::FileBytes;
use crate::error::{Error, Result};

/// A mapped file's tensors.
#[derive(Debug)]
pub struct RawTensors {
    name: String,
    bytes: FileBytes,
    entries: BTreeMap<String, (String, Vec<usize>, Range<usize>)>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct RawTensor<'a> {
    /// The format's name of its element type.
    pub kind: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl RawTensors {
    /// Opens a file.
    ///
    /// # Errors
    /// It is missing, or not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let (name, bytes) = (path.display().to_string(), FileBytes::map(path)?);
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            Error::user(format!(
                "{name}: not a whole safetensors file ({e}), {} bytes",
                bytes.len()
            ))
        })?;
        let entries = metadata
            .tensors()
            .into_iter()
            .map(|(tensor, info)| {
                let (start, end) = info.data_offsets;
                // The header is 8 bytes of length and `header` bytes of JSON.
                let range = 8 + header + start..8 + header + end;
                (tensor, (format!("{:?}", info.dtype), info.shape.clone(), range))
            })
            .collect();
        Ok(Self { name, bytes, entries })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let Some((kind, shape, range)) = self.entries.get(name) else {
            return Err(Error::user(format!("{}: tensor {name} is missing", self.name)));
        };
        Ok(RawTensor {
            kind,
            shape,
            bytes: &self.bytes[range.clone()],
        })
    }
}
