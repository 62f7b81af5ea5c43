//! Writing so that nothing half-written is ever read: temporary name in the same directory, fsync, rename, fsync of the
//! directory.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::store::HostTensor;
use crate::error::{Error, Result};
use crate::file::write::{TEMPORARY, prefixed, sync_parent, write_synced};
use crate::tensor::DType;

pub use crate::file::write::{write_atomic, write_atomic_with};

/// Prefix of a directory that is being replaced.
pub(crate) const REPLACED: &str = ".old-";

/// A directory that appears whole or not at all. Files are written into a hidden sibling, `.tmp-NAME`, which
/// [`AtomicDir::commit`] renames; dropped without it, everything is removed. A leftover of a killed process is never
/// read and is removed by the next [`AtomicDir::create`] of the same name.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicDir {
    /// Begins writing `target`, whose parents are created. `target` itself may exist: it is replaced on commit.
    ///
    /// # Errors
    /// When the temporary directory cannot be made.
    pub fn create(target: &Path) -> Result<Self> {
        let temporary = prefixed(target, TEMPORARY)?;
        recover(target)?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
        Ok(Self {
            temporary,
            target: target.to_path_buf(),
            committed: false,
        })
    }

    /// The directory to write into until the commit.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes and syncs one file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.temporary.join(name);
        write_synced(&path, |out| out.write_all(bytes)).map_err(Error::io(self.target.join(name)))
    }

    /// Writes and syncs a safetensors file; see [`write_safetensors`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_safetensors(&self, name: &str, tensors: &[(String, HostTensor)]) -> Result<()> {
        write_safetensors(&self.temporary.join(name), tensors)
    }

    /// Renames the directory to its final name. If one was there it is moved aside first and removed after; a crash in
    /// between is mended by [`recover`].
    ///
    /// # Errors
    /// When renaming fails; the old directory is then back in place.
    pub fn commit(mut self) -> Result<()> {
        sync_parent(&self.temporary.join("x"))?;
        let old = prefixed(&self.target, REPLACED)?;
        let replaces = self.target.exists();
        if replaces {
            fs::rename(&self.target, &old).map_err(Error::io(&self.target))?;
        }
        if let Err(e) = fs::rename(&self.temporary, &self.target) {
            if replaces {
                let _ = fs::rename(&old, &self.target);
            }
            return Err(Error::io(&self.target)(e));
        }
        self.committed = true;
        sync_parent(&self.target)?;
        if replaces {
            remove(&old).map_err(Error::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Removes what a directory has replaced, also where that was a file.
fn remove(old: &Path) -> io::Result<()> {
    match fs::symlink_metadata(old)?.is_dir() {
        true => fs::remove_dir_all(old),
        false => fs::remove_file(old),
    }
}

/// Puts a directory back that a crash during its replacement left aside, or removes the aside copy when the new one is
/// in place. Call it before reading a directory that [`AtomicDir`] may replace.
///
/// # Errors
/// When renaming or removing fails.
pub fn recover(target: &Path) -> Result<()> {
    let old = prefixed(target, REPLACED)?;
    if !old.exists() {
        return Ok(());
    }
    if target.exists() {
        remove(&old).map_err(Error::io(&old))
    } else {
        fs::rename(&old, target).map_err(Error::io(target))
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
