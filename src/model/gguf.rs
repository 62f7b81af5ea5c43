//! GGUF files, versions 2 and 3: metadata and tensor directory, bounds-checked at every step.
//!
//! Layout: magic, version, tensor count, metadata count, metadata, tensor directory, padding to the alignment, data.
//! What a llama.cpp model means by it is in `gguf_model`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::bytes::{FileBytes, ReadAt};
use super::gguf_keys;
use super::gguf_reader::Reader;
use super::gguf_split::{self, SPLIT_COUNT};
use super::store::Part;
use crate::error::{Context, Error, Result};
use crate::file::limits::{
    GGUF_ARRAY, GGUF_ELEMENTS, GGUF_ENTRIES, GGUF_KEY, GGUF_TAIL, TENSOR_NAME, TENSORS,
};
use crate::tensor::DType;

/// A metadata value; all whole numbers are widened.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// An unsigned integer of any width.
    Uint(u64),
    /// A signed integer of any width.
    Int(i64),
    /// A float; f32 values are the shortest decimal that names them (1e-5, not 0.00000999…).
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Str(String),
    /// Strings.
    StrArray(Vec<String>),
    /// Numbers or truth values (token types, scores, …).
    NumArray(Vec<f64>),
}

/// A tensor's place in the file.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// The file it is in, of [`Gguf::parts`].
    pub(crate) part: usize,
    /// Row-major: GGUF's order reversed.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
    pub(crate) range: Range<usize>,
}

/// An opened GGUF file, or all files of a model in parts.
#[derive(Debug)]
pub struct Gguf {
    /// The file that was asked for.
    pub(crate) name: String,
    /// The files, of which the first has the metadata.
    pub(crate) parts: Vec<Part>,
    pub(crate) meta: BTreeMap<String, MetaValue>,
    pub(crate) tensors: Vec<GgufTensor>,
}

impl Gguf {
    /// Opens a file and reads its metadata and tensor directory. Of a model in parts
    /// (`NAME-00001-of-00003.gguf`), any part stands for all.
    ///
    /// # Errors
    /// A user error, with the offset, when the file is not GGUF 2 or 3, is truncated or is corrupt,
    /// and one that names tensor and type when a tensor's type is not supported; a part that is
    /// missing or of another model.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Self::open_one(path)?;
        match file.meta_usize(SPLIT_COUNT) {
            Some(count) if count > 1 => gguf_split::join(file, path, count),
            _ => Ok(file),
        }
    }

    /// The files of the model that `path` is, or is a part of, as far as its name tells and they
    /// exist.
    #[must_use]
    pub fn files(path: &Path) -> Vec<PathBuf> {
        gguf_split::files(path)
    }

    /// One file alone.
    pub(super) fn open_one(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = FileBytes::open(path)?;
        let (meta, tensors) = parse(&bytes).context(&name)?;
        Ok(Self {
            parts: vec![Part {
                name: name.clone(),
                bytes,
            }],
            name,
            meta,
            tensors,
        })
    }

    /// A tensor's bytes.
    pub(crate) fn tensor_bytes(&self, t: &GgufTensor) -> Result<Cow<'_, [u8]>> {
        self.parts[t.part].bytes.range(t.range.clone())
    }

    /// A metadata value.
    pub fn meta(&self, key: &str) -> Option<&MetaValue> {
        self.meta.get(key)
    }

    /// A string from the metadata; `None` if absent or of another type.
    pub fn meta_str(&self, key: &str) -> Option<&str> {
        match self.meta.get(key) {
            Some(MetaValue::Str(s)) => Some(s),
            _ => None,
        }
    }

    /// A non-negative whole number from the metadata.
    pub fn meta_usize(&self, key: &str) -> Option<usize> {
        match self.meta.get(key) {
            Some(MetaValue::Uint(v)) => usize::try_from(*v).ok(),
            Some(MetaValue::Int(v)) => usize::try_from(*v).ok(),
            _ => None,
        }
    }

    /// A number from the metadata.
    pub fn meta_f64(&self, key: &str) -> Option<f64> {
        match self.meta.get(key) {
            Some(MetaValue::Float(v)) => Some(*v),
            Some(MetaValue::Uint(v)) => Some(*v as f64),
            Some(MetaValue::Int(v)) => Some(*v as f64),
            _ => None,
        }
    }

    /// A truth value from the metadata.
    pub fn meta_bool(&self, key: &str) -> Option<bool> {
        match self.meta.get(key) {
            Some(MetaValue::Bool(v)) => Some(*v),
            _ => None,
        }
    }

    /// An array of strings from the metadata.
    pub fn meta_str_array(&self, key: &str) -> Option<&[String]> {
        match self.meta.get(key) {
            Some(MetaValue::StrArray(v)) => Some(v),
            _ => None,
        }
    }

    /// An array of numbers from the metadata.
    pub fn meta_num_array(&self, key: &str) -> Option<&[f64]> {
        match self.meta.get(key) {
            Some(MetaValue::NumArray(v)) => Some(v),
            _ => None,
        }
    }

    /// Names, types and shapes of the tensors as the file has them.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        self.tensors
            .iter()
            .map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice()))
    }
}

/// The metadata by key, and the tensors.
type Header = (BTreeMap<String, MetaValue>, Vec<GgufTensor>);

/// The metadata of a GGUF file that is in memory: what reads a file, for tests and fuzzing.
///
/// # Errors
/// As [`Gguf::open`].
pub fn read_metadata(bytes: &[u8]) -> Result<BTreeMap<String, MetaValue>> {
    parse(&bytes).map(|(meta, _)| meta)
}

fn parse(bytes: &dyn ReadAt) -> Result<Header> {
    let mut r = Reader::new(bytes);
    if r.size() < 4 || r.array("the magic number")? != *b"GGUF" {
        return Err(Error::user("not a GGUF file (it does not begin with \"GGUF\")"));
    }
    match r.u32("version")? {
        2 | 3 => {}
        v if (1..=3).contains(&v.swap_bytes()) => {
            return Err(Error::user(
                "a big-endian GGUF file, which is not read; convert it to little endian",
            ));
        }
        v => {
            return Err(Error::user(format!(
                "GGUF version {v} is not read; versions 2 and 3 are"
            )));
        }
    }
    // The least tensor entry is name length, dimension count, type and offset; the least metadata pair is 13 bytes.
    let tensor_count = r.count(24, "the number of tensors")?;
    let meta_count = r.count(13, "the number of metadata entries")?;
    TENSORS.check("GGUF", tensor_count)?;
    GGUF_ENTRIES.check("GGUF", meta_count)?;
    let mut meta = BTreeMap::new();
    for _ in 0..meta_count {
        let key = r.string("a metadata key")?;
        GGUF_KEY.check("GGUF", key.len())?;
        let kind = r.u32("a metadata type")?;
        if let Some(value) = value(&mut r, kind, &key)? {
            meta.insert(key, value);
        }
    }
    let alignment = match meta.get("general.alignment") {
        None => 32,
        Some(MetaValue::Uint(a)) if a.is_power_of_two() && *a <= 1 << 20 => *a as usize,
        Some(other) => {
            return Err(Error::user(format!(
                "general.alignment is {}; a power of two up to 2^20 is needed",
                gguf_keys::shown(other)
            )));
        }
    };
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut r)?);
    }
    let data = r.at.next_multiple_of(alignment);
    place(&mut tensors, data, alignment, r.size())?;
    let end = tensors.iter().map(|t| t.range.end).max().unwrap_or(data);
    GGUF_TAIL.check("GGUF", r.size().saturating_sub(end))?;
    Ok((meta, tensors))
}

/// A value of a scalar type, or `None` for a type that is no scalar.
fn scalar(r: &mut Reader, kind: u32, what: &str) -> Result<Option<MetaValue>> {
    Ok(Some(match kind {
        0 => MetaValue::Uint(u64::from(u8::from_le_bytes(r.array(what)?))),
        1 => MetaValue::Int(i64::from(i8::from_le_bytes(r.array(what)?))),
        2 => MetaValue::Uint(u64::from(u16::from_le_bytes(r.array(what)?))),
        3 => MetaValue::Int(i64::from(i16::from_le_bytes(r.array(what)?))),
        4 => MetaValue::Uint(u64::from(u32::from_le_bytes(r.array(what)?))),
        5 => MetaValue::Int(i64::from(i32::from_le_bytes(r.array(what)?))),
        6 => MetaValue::Float(shortest(f32::from_le_bytes(r.array(what)?))),
        7 => MetaValue::Bool(r.array::<1>(what)?[0] != 0),
        10 => MetaValue::Uint(r.u64(what)?),
        11 => MetaValue::Int(i64::from_le_bytes(r.array(what)?)),
        12 => MetaValue::Float(f64::from_le_bytes(r.array(what)?)),
        _ => return Ok(None),
    }))
}

/// The shortest decimal that rounds to the same f32, so that 1e-5 stays 1e-5 in float64 and in config.json.
fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

/// A value; `None` for nested arrays, which no model needs and which are skipped.
fn value(r: &mut Reader, kind: u32, key: &str) -> Result<Option<MetaValue>> {
    let what = format!("metadata {key:?}");
    match kind {
        8 => Ok(Some(MetaValue::Str(r.string(&what)?))),
        9 => array(r, &what, 0),
        _ => match scalar(r, kind, &what)? {
            Some(value) => Ok(Some(value)),
            None => r.fail(format!("{what} has unknown type {kind}")),
        },
    }
}

fn array(r: &mut Reader, what: &str, depth: usize) -> Result<Option<MetaValue>> {
    let kind = r.u32(what)?;
    let least = match kind {
        8 => 8,
        9 => 12,
        _ => 1,
    };
    let n = r.count(least, what)?;
    GGUF_ARRAY.check(what, n)?;
    r.elements += n;
    GGUF_ELEMENTS.check(what, r.elements)?;
    match kind {
        8 => {
            let mut out = Vec::new();
            for _ in 0..n {
                out.push(r.string(what)?);
            }
            Ok(Some(MetaValue::StrArray(out)))
        }
        9 if depth >= 4 => r.fail(format!("{what} is nested too deeply")),
        9 => {
            for _ in 0..n {
                array(r, what, depth + 1)?;
            }
            Ok(None)
        }
        _ => numbers(r, kind, n, what).map(Some),
    }
}

/// `n` numbers or truth values.
fn numbers(r: &mut Reader, kind: u32, n: usize, what: &str) -> Result<MetaValue> {
    fn each<const N: usize>(bytes: &[u8], read: fn([u8; N]) -> f64) -> Vec<f64> {
        let one = |b: &[u8]| {
            let mut value = [0; N];
            value.copy_from_slice(b);
            read(value)
        };
        bytes.chunks_exact(N).map(one).collect()
    }
    let size: usize = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return r.fail(format!("{what} is an array of unknown type {kind}")),
    };
    let bytes = r.take((n * size) as u64, what)?;
    Ok(MetaValue::NumArray(match kind {
        0 => each(bytes, |b| f64::from(u8::from_le_bytes(b))),
        1 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
        2 => each(bytes, |b| f64::from(u16::from_le_bytes(b))),
        3 => each(bytes, |b| f64::from(i16::from_le_bytes(b))),
        4 => each(bytes, |b| f64::from(u32::from_le_bytes(b))),
        5 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        6 => each(bytes, |b| shortest(f32::from_le_bytes(b))),
        7 => each(bytes, |b: [u8; 1]| f64::from(u8::from(b[0] != 0))),
        10 => each(bytes, |b| u64::from_le_bytes(b) as f64),
        11 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        _ => each(bytes, f64::from_le_bytes),
    }))
}

/// A directory entry; `range.start` is still relative to the data.
fn tensor(r: &mut Reader) -> Result<GgufTensor> {
    let name = r.string("a tensor's name")?;
    TENSOR_NAME.check("GGUF", name.len())?;
    let dims = r.u32("a tensor's dimension count")?;
    if dims == 0 || dims > 4 {
        return r.fail(format!("tensor {name:?} has {dims} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        match usize::try_from(r.u64("a tensor's shape")?) {
            Ok(n) if n > 0 => shape.insert(0, n),
            _ => return r.fail(format!("tensor {name:?} has an impossible shape")),
        }
    }
    let kind = r.u32("a tensor's type")?;
    let offset = r.u64("a tensor's offset")?;
    let Some(dtype) = dtype_of(kind) else {
        return Err(Error::user(format!(
            "tensor {name} has type {}, which is not supported; use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K or Q6_K",
            type_name(kind)
        )));
    };
    let row = shape.last().copied().unwrap_or(1);
    if row % dtype.block_len() != 0 {
        return r.fail(format!(
            "tensor {name:?} has rows of {row} elements, not whole blocks of {dtype}"
        ));
    }
    let elements = shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
    let bytes = elements.and_then(|n| (n / dtype.block_len()).checked_mul(dtype.block_bytes()));
    let end = usize::try_from(offset)
        .ok()
        .and_then(|start| Some(start..start.checked_add(bytes?)?));
    match end {
        Some(range) => Ok(GgufTensor {
            name,
            part: 0,
            shape,
            dtype,
            range,
        }),
        None => r.fail(format!("tensor {name:?} is impossibly large")),
    }
}

/// Makes the ranges absolute and checks that they lie in the file.
fn place(tensors: &mut [GgufTensor], data: usize, alignment: usize, len: usize) -> Result<()> {
    for t in tensors.iter_mut() {
        let (start, end) = (data.checked_add(t.range.start), data.checked_add(t.range.end));
        match (start, end) {
            (Some(start), Some(end)) if end <= len && t.range.start % alignment == 0 => t.range = start..end,
            _ => {
                return Err(Error::user(format!(
                    "corrupt or truncated GGUF: tensor {} lies at byte {} of the data (which begins at {data}) and takes \
                     {} bytes, but the file has {len}; download the file again",
                    t.name,
                    t.range.start,
                    t.range.len()
                )));
            }
        }
    }
    Ok(())
}

fn dtype_of(kind: u32) -> Option<DType> {
    Some(match kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        8 => DType::Q8_0,
        12 => DType::Q4K,
        14 => DType::Q6K,
        30 => DType::BF16,
        _ => return None,
    })
}

/// GGML's name of a type that is not supported.
fn type_name(kind: u32) -> String {
    let names = [
        (6, "Q5_0"),
        (7, "Q5_1"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (13, "Q5_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    let known = names.iter().find(|(k, _)| *k == kind);
    known.map_or_else(|| format!("number {kind}"), |(_, name)| (*name).to_string())
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
