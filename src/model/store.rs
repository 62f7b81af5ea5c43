//! A model's weights: safetensors (single, sharded or compiled in) and GGUF behind one door.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bytes::FileBytes;
use super::gguf_model::open_weights;
use super::source::ModelFiles;
use super::spec::ModelSpec;
use crate::error::{Context, Error, Result};
use crate::kernels::quant;
use crate::tensor::DType;

/// A weight on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor<'a> {
    /// How the elements are stored.
    pub dtype: DType,
    /// `[n]` or `[rows, cols]`, row-major, in elements.
    pub shape: Vec<usize>,
    /// The elements; blocks never cross rows.
    pub bytes: Cow<'a, [u8]>,
}

impl HostTensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        quant::dequantize(self.dtype, &self.bytes, &mut out);
        out
    }

    /// The same values stored as `dtype`.
    ///
    /// # Errors
    /// When rows are not whole blocks of `dtype`, or it is a type that is only read.
    pub fn convert(&self, dtype: DType) -> Result<HostTensor<'static>> {
        let row = self.shape.last().copied().unwrap_or(0);
        if row % dtype.block_len() != 0 {
            return Err(Error::user(format!(
                "rows of {row} elements cannot be stored as {dtype}, which needs a multiple of {}; choose f16, bf16 or f32",
                dtype.block_len()
            )));
        }
        let bytes = quant::convert(self.dtype, &self.bytes, self.elements(), dtype)?;
        Ok(HostTensor {
            dtype,
            shape: self.shape.clone(),
            bytes: Cow::Owned(bytes),
        })
    }

    /// The same with its bytes owned.
    pub fn into_owned(self) -> HostTensor<'static> {
        HostTensor {
            dtype: self.dtype,
            shape: self.shape,
            bytes: Cow::Owned(self.bytes.into_owned()),
        }
    }
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) part: usize,
    /// The element type, or the name of one that is not supported.
    pub(crate) dtype: Result<DType, String>,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
    /// Heads whose rows GGUF stores interleaved (2i + j for i + j·half) and must be put back.
    pub(crate) interleaved_heads: Option<usize>,
}

/// A file and what messages call it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) bytes: FileBytes,
}

/// The weights of one model, mapped; nothing is copied until asked for.
#[derive(Debug)]
pub struct WeightStore {
    pub(crate) parts: Vec<Part>,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) origin: String,
}

/// Bytes of a file up to which a fingerprint takes all of it.
const WHOLE: usize = 64 << 20;
/// Bytes that are taken from the beginning of a larger one.
const BEGINNING: usize = 16 << 20;
/// Pieces that are taken from the rest.
const SAMPLES: usize = 1024;
/// Bytes of a piece: a page.
const PIECE: usize = 4096;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl WeightStore {
    /// Opens a model's weights and reads their headers.
    ///
    /// # Errors
    /// A user error when no weights are found, a shard is missing, or a file is truncated or malformed.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let mut store = Self {
            parts: Vec::new(),
            entries: BTreeMap::new(),
            origin: files.name(),
        };
        match files {
            ModelFiles::Gguf(path) => return open_weights(path),
            ModelFiles::Embedded { files: list, .. } => {
                let Some((_, bytes)) = list.iter().find(|(n, _)| *n == SINGLE) else {
                    return Err(Error::internal(format!(
                        "{} is not among the embedded files",
                        files.file_name(SINGLE)
                    )));
                };
                store.add(files.file_name(SINGLE), FileBytes::Static(bytes))?;
            }
            ModelFiles::Dir(dir) | ModelFiles::Hub { dir, .. } => store.add_dir(dir, files)?,
        }
        Ok(store)
    }

    /// Whether a directory has safetensors weights.
    pub fn has_files(dir: &Path) -> bool {
        dir.join(SINGLE).is_file() || dir.join(INDEX).is_file()
    }

    /// The weights a model would have, all stored as `dtype`: their types and shapes are known, their values are not.
    pub(super) fn described(spec: &ModelSpec, origin: &str, dtype: DType) -> Self {
        let entry = |shape: Vec<usize>| Entry {
            part: 0,
            dtype: Ok(dtype),
            shape,
            range: 0..0,
            interleaved_heads: None,
        };
        Self {
            parts: Vec::new(),
            entries: spec.tensors().map(|t| (t.name, entry(t.shape))).collect(),
            origin: origin.to_string(),
        }
    }

    /// What tells these weights from others, cheaply: SHA-256 (hexadecimal) over the parts in the order of their files' names,
    /// of each its size and its bytes. Of a part beyond [`WHOLE`] bytes only its beginning is taken, which holds the header,
    /// and [`SAMPLES`] pieces at even distances: some 20 MB a file, whatever its size.
    pub fn fingerprint(&self) -> String {
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        parts.sort_by_key(|part| part.name.rsplit(['/', '\\']).next());
        let mut hasher = Sha256::new();
        for bytes in parts.iter().map(|part| &*part.bytes) {
            hasher.update((bytes.len() as u64).to_le_bytes());
            if bytes.len() <= WHOLE {
                hasher.update(bytes);
                continue;
            }
            hasher.update(&bytes[..BEGINNING]);
            for i in 1..=SAMPLES {
                let at = (bytes.len() - PIECE) / SAMPLES * i;
                hasher.update(&bytes[at..at + PIECE]);
            }
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether there are values, not sizes alone.
    pub fn has_values(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// As [`WeightStore::open`].
    pub fn open_safetensors(path: &Path) -> Result<Self> {
        let mut store = Self {
            parts: Vec::new(),
            entries: BTreeMap::new(),
            origin: path.display().to_string(),
        };
        store.add(path.display().to_string(), FileBytes::map(path)?)?;
        Ok(store)
    }

    fn add_dir(&mut self, dir: &Path, files: &ModelFiles) -> Result<()> {
        let single = dir.join(SINGLE);
        if single.is_file() {
            return self.add(single.display().to_string(), FileBytes::map(&single)?);
        }
        let index_path = dir.join(INDEX);
        let Some(index) = files.read(INDEX)? else {
            let old =
                dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
            let hint = if old {
                "; pytorch_model.bin is not read: convert it with transformers' save_pretrained(safe_serialization=True)"
            } else {
                "; pass a directory with safetensors weights or a .gguf file"
            };
            return Err(Error::user(format!(
                "{}: neither {SINGLE} nor {INDEX} is there{hint}",
                dir.display()
            )));
        };
        let index_name = index_path.display().to_string();
        let map = shard_map(&index).context(&index_name)?;
        let shards: BTreeSet<&String> = map.values().collect();
        for shard in shards {
            let path = dir.join(shard);
            if !path.is_file() {
                return Err(Error::user(format!(
                    "{index_name}: shard {shard} is not there; download it into {}",
                    dir.display()
                )));
            }
            self.add(path.display().to_string(), FileBytes::map(&path)?)?;
        }
        for (tensor, shard) in &map {
            let found = self.entries.get(tensor).map(|e| &self.parts[e.part].name);
            if found.is_none_or(|name| !name.ends_with(shard.as_str())) {
                return Err(Error::user(format!(
                    "{index_name}: {tensor} is not in {shard}, as the index says"
                )));
            }
        }
        Ok(())
    }

    /// Adds a safetensors file's tensors.
    pub(crate) fn add(&mut self, name: String, bytes: FileBytes) -> Result<()> {
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            Error::user(format!(
                "{name}: not a whole safetensors file ({e}), {} bytes; download it again",
                bytes.len()
            ))
        })?;
        let part = self.parts.len();
        for (tensor, info) in metadata.tensors() {
            let dtype = match info.dtype {
                Dtype::F32 => Ok(DType::F32),
                Dtype::F16 => Ok(DType::F16),
                Dtype::BF16 => Ok(DType::BF16),
                other => Err(format!("{other:?}")),
            };
            let (start, end) = info.data_offsets;
            // The header is 8 bytes of length and `header` bytes of JSON.
            let entry = Entry {
                part,
                dtype,
                shape: info.shape.clone(),
                range: 8 + header + start..8 + header + end,
                interleaved_heads: None,
            };
            if let Some(before) = self.entries.insert(tensor.clone(), entry) {
                let other = &self.parts[before.part].name;
                return Err(Error::user(format!("{name}: tensor {tensor} is also in {other}")));
            }
        }
        self.parts.push(Part { name, bytes });
        Ok(())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor's element type and shape, without touching its data.
    ///
    /// # Errors
    /// As [`WeightStore::get`].
    pub fn info(&self, name: &str) -> Result<(DType, &[usize])> {
        let entry = self.entry(name)?;
        match &entry.dtype {
            Ok(dtype) => Ok((*dtype, &entry.shape)),
            Err(other) => Err(Error::user(format!(
                "{}: tensor {name} has element type {other}; f32, f16, bf16 and GGUF's Q8_0, Q4_0, Q4_1, Q4_K, Q6_K are read",
                self.parts[entry.part].name
            ))),
        }
    }

    /// A tensor; borrowed from the file, except for GGUF's query and key rows, which are put into Hugging Face's order.
    ///
    /// # Errors
    /// A user error when it is missing (naming the closest name) or its element type is not supported.
    pub fn get(&self, name: &str) -> Result<HostTensor<'_>> {
        let (dtype, shape) = self.info(name)?;
        let entry = self.entry(name)?;
        let Some(part) = self.parts.get(entry.part) else {
            return Err(Error::user(format!(
                "{}: sizes alone are known, not the values of {name}; pass a model with its weights",
                self.origin
            )));
        };
        let bytes = &part.bytes[entry.range.clone()];
        let bytes = match entry.interleaved_heads {
            None => Cow::Borrowed(bytes),
            Some(heads) => Cow::Owned(deinterleave(bytes, shape[0], heads)),
        };
        Ok(HostTensor {
            dtype,
            shape: shape.to_vec(),
            bytes,
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| self.missing(name, self.names()))
    }

    /// The error for a missing tensor, suggesting the closest of `candidates`.
    fn missing<'a>(&self, name: &str, candidates: impl Iterator<Item = &'a str>) -> Error {
        let closest = candidates.min_by_key(|other| distance(name, other));
        let hint = closest
            .map(|c| format!("; the closest name there is {c}"))
            .unwrap_or_default();
        Error::user(format!("{}: tensor {name} is missing{hint}", self.origin))
    }

    /// Verifies that every weight the model needs is there with its shape and a supported element type.
    /// Tensors that the model does not need are ignored.
    ///
    /// # Errors
    /// A user error naming the first tensor that is wrong.
    pub fn check(&self, spec: &ModelSpec) -> Result<()> {
        let wanted: BTreeSet<String> = spec.tensors().map(|t| t.name).collect();
        for want in spec.tensors() {
            if !self.contains(&want.name) {
                return Err(self.missing(&want.name, self.names().filter(|n| !wanted.contains(*n))));
            }
            let (dtype, shape) = self.info(&want.name)?;
            if shape != want.shape {
                let file = &self.parts[self.entry(&want.name)?.part].name;
                return Err(Error::user(format!(
                    "{file}: tensor {} has shape {shape:?}, config.json asks for {:?}; weights and configuration \
                     are of different models",
                    want.name, want.shape
                )));
            }
            let row = shape.last().copied().unwrap_or(0);
            if row % dtype.block_len() != 0 {
                return Err(Error::user(format!(
                    "{}: tensor {} has rows of {row} elements, not whole blocks of {dtype}",
                    self.origin, want.name
                )));
            }
        }
        Ok(())
    }
}

/// `weight_map` of an index: tensor → shard file.
fn shard_map(index: &[u8]) -> Result<BTreeMap<String, String>> {
    let value: Value =
        serde_json::from_slice(index).map_err(|e| Error::user(format!("not valid JSON: {e}")))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::user(
            "weight_map is missing or not an object; download the file again",
        ));
    };
    if map.is_empty() {
        return Err(Error::user("weight_map is empty; download the file again"));
    }
    map.iter()
        .map(|(tensor, shard)| match shard.as_str() {
            Some(file) if !file.is_empty() && !file.contains(['/', '\\']) => {
                Ok((tensor.clone(), file.to_string()))
            }
            _ => Err(Error::user(format!(
                "weight_map gives {shard} for {tensor}; a file name in the same directory is needed"
            ))),
        })
        .collect()
}

/// Turns rows stored as (head, i, j) into (head, j, i), j = 0, 1 being the half of the head; whole rows move, so blocks
/// stay as they are.
fn deinterleave(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (head, j, i) = (row / (2 * half), row % (2 * half) / half, row % half);
        let from = head * 2 * half + 2 * i + j;
        out.extend_from_slice(&bytes[from * row_bytes..(from + 1) * row_bytes]);
    }
    out
}

/// Edit distance, for "did you mean".
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y {
                diagonal
            } else {
                1 + diagonal.min(row[j]).min(row[j + 1])
            };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
