//! Safetensors files whose tensors are taken as bytes, whatever their element types.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::bytes::FileBytes;
use super::safetensors::{Described, read_header};
use crate::error::{Error, Result};

/// A file's tensors.
#[derive(Debug)]
pub struct RawTensors {
    name: String,
    bytes: FileBytes,
    entries: BTreeMap<String, Described>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct RawTensor<'a> {
    /// The format's name of its element type.
    pub kind: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl RawTensors {
    /// Opens a file.
    ///
    /// # Errors
    /// It is missing, or not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let (name, bytes) = (path.display().to_string(), FileBytes::open(path)?);
        let entries = read_header(&bytes, &name)?;
        Ok(Self { name, bytes, entries })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let Some(found) = self.entries.get(name) else {
            return Err(Error::user(format!("{}: tensor {name} is missing", self.name)));
        };
        Ok(RawTensor {
            kind: &found.kind,
            shape: &found.shape,
            bytes: self.bytes.range(found.range.clone())?,
        })
    }
}
