//! Writing safetensors files so that nothing half-written is ever read.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::store::HostTensor;
use crate::error::{Error, Result};
use crate::tensor::DType;

pub use crate::file::dirs::{AtomicDir, recover};
pub use crate::file::write::{write_atomic, write_atomic_with};

impl AtomicDir {
    /// Writes and syncs a safetensors file; see [`write_safetensors`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_safetensors(&self, name: &str, tensors: &[(String, HostTensor)]) -> Result<()> {
        write_safetensors(&self.path().join(name), tensors)
    }
}

/// A tensor's name, element type (f32, f16 or bf16) and shape.
pub type TensorHeader = (String, DType, Vec<usize>);

/// Writes tensors to a safetensors file, atomically. Tensors keep their order, except that f32 ones come first so that
/// all data is aligned.
///
/// # Errors
/// When the file cannot be written; an internal error for an element type that safetensors does not have.
pub fn write_safetensors(path: &Path, tensors: &[(String, HostTensor)]) -> Result<()> {
    let headers: Vec<TensorHeader> = tensors
        .iter()
        .map(|(name, t)| (name.clone(), t.dtype, t.shape.clone()))
        .collect();
    write_safetensors_with(path, &headers, |i| Ok(Cow::Borrowed(&*tensors[i].1.bytes)))
}

/// As [`write_safetensors`], asking `data` for one tensor's bytes at a time, so that a checkpoint larger than memory can
/// be written; `data` is called once an index, not in the order of `headers`.
///
/// # Errors
/// As [`write_safetensors`], and those of `data`.
pub fn write_safetensors_with<'a>(
    path: &Path,
    headers: &[TensorHeader],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let headers = headers
        .iter()
        .map(|(name, dtype, shape)| {
            let kind = match dtype {
                DType::F32 => "F32",
                DType::F16 => "F16",
                DType::BF16 => "BF16",
                other => {
                    return Err(Error::internal(format!(
                        "tensor {name}: safetensors has no type {other}"
                    )));
                }
            };
            Ok(RawHeader {
                name: name.clone(),
                kind,
                shape: shape.clone(),
                bytes: dtype.bytes_for(shape.iter().product()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    write_raw(path, &headers, &mut data)
}

/// A tensor as a safetensors file describes it.
#[derive(Debug, Clone)]
pub struct RawHeader {
    /// Its name.
    pub name: String,
    /// The format's name of its element type.
    pub kind: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: usize,
}

/// As [`write_safetensors_with`], for any element type of the format.
///
/// # Errors
/// As [`write_safetensors_with`].
pub fn write_raw<'a>(
    path: &Path,
    headers: &[RawHeader],
    data: &mut dyn FnMut(usize) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..headers.len()).collect();
    order.sort_by_key(|&i| headers[i].kind != "F32");
    let json = safetensors_header(headers, &order)?;
    let mut failed = None;
    let written = write_atomic_with(path, |out| {
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(&json)?;
        for &i in &order {
            let bytes = match data(i) {
                Ok(bytes) => bytes,
                Err(e) => {
                    failed = Some(e);
                    return Err(io::Error::other("no data"));
                }
            };
            assert_eq!(
                bytes.len(),
                headers[i].bytes,
                "bytes of tensor {}",
                headers[i].name
            );
            out.write_all(&bytes)?;
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

fn safetensors_header(headers: &[RawHeader], order: &[usize]) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for &i in order {
        let RawHeader {
            name,
            kind,
            shape,
            bytes,
        } = &headers[i];
        let end = at + bytes;
        let entry = json!({"dtype": kind, "shape": shape, "data_offsets": [at, end]});
        if map.insert(name.clone(), entry).is_some() {
            return Err(Error::internal(format!("tensor {name} written twice")));
        }
        at = end;
    }
    let mut bytes = Value::Object(map).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
