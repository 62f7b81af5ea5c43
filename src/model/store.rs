//! A model's weights: safetensors (single, sharded or compiled in) and GGUF behind one door.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::bytes::{FileBytes, ReadAt};
use super::gguf_model::open_weights;
use super::safetensors::read_header;
use super::source::ModelFiles;
use super::spec::{ModelSpec, Role, TensorSpec};
use crate::error::{Context, Error, Result};
use crate::file::limits::{TENSORS, WEIGHT_FILES};
use crate::kernels::quant;
use crate::kernels::weight::PIECE_BYTES;
use crate::tensor::DType;
use crate::text::json::{LFS_POINTER, is_lfs_pointer, parse_object, shown};

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
        if quant::first_unusable(dtype, &bytes).is_some() {
            return Err(Error::user(format!(
                "a value is too large for {dtype}; load the weights as bf16 or f32"
            )));
        }
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

/// The weights of one model; nothing is read but the headers until it is asked for.
#[derive(Debug)]
pub struct WeightStore {
    pub(crate) parts: Vec<Part>,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) origin: String,
    /// Where pieces are read to, kept so that its memory is taken once.
    pub(crate) scratch: Mutex<Vec<u8>>,
}

/// Bytes of a file up to which a fingerprint takes all of it.
const WHOLE: usize = 64 << 20;
/// Bytes that are taken from the beginning of a larger one.
const BEGINNING: usize = 16 << 20;
/// Pieces that are taken from the rest.
const SAMPLES: usize = 1024;
/// Bytes of a piece: a page.
const PIECE: usize = 4096;

/// How much longer or shorter a name may be that is suggested in place of another.
const FAR: usize = 64;
/// Names that are compared at most to suggest one.
const MOST_COMPARED: usize = 20_000;

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
            scratch: Mutex::default(),
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
            scratch: Mutex::default(),
        }
    }

    /// What tells these weights from others, cheaply: SHA-256 (hexadecimal) over the parts in the order of their files' names,
    /// of each its size and its bytes. Of a part beyond 64 Mi bytes only its beginning is taken, which holds the header,
    /// and 1,024 pieces at even distances: some 20 MB a file, whatever its size.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        parts.sort_by_key(|part| part.name.rsplit(['/', '\\']).next());
        let mut hasher = Sha256::new();
        for bytes in parts.iter().map(|part| &part.bytes) {
            let size = bytes.size();
            hasher.update((size as u64).to_le_bytes());
            let beginning = if size <= WHOLE { size } else { BEGINNING };
            for at in (0..beginning).step_by(PIECE_BYTES) {
                hasher.update(bytes.range(at..beginning.min(at + PIECE_BYTES))?);
            }
            if size > WHOLE {
                for i in 1..=SAMPLES {
                    let at = (size - PIECE) / SAMPLES * i;
                    hasher.update(bytes.range(at..at + PIECE)?);
                }
            }
        }
        Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
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
            scratch: Mutex::default(),
        };
        store.add(path.display().to_string(), FileBytes::open(path)?)?;
        Ok(store)
    }

    fn add_dir(&mut self, dir: &Path, files: &ModelFiles) -> Result<()> {
        let single = dir.join(SINGLE);
        if single.is_file() {
            return self.add(single.display().to_string(), FileBytes::open(&single)?);
        }
        let index_path = dir.join(INDEX);
        let Some(index) = files.read(INDEX)? else {
            return Err(Error::user(format!(
                "{}: neither {SINGLE} nor {INDEX} is there; {}",
                dir.display(),
                other_weights(dir)
            )));
        };
        let index_name = index_path.display().to_string();
        let map = shard_map(&index, &index_name)?;
        let shards: BTreeSet<&String> = map.values().collect();
        WEIGHT_FILES.check(&index_name, shards.len())?;
        for shard in shards {
            let path = dir.join(shard);
            if !path.is_file() {
                return Err(Error::user(format!(
                    "{index_name}: shard {shard} is not there; download it into {}",
                    dir.display()
                )));
            }
            self.add(path.display().to_string(), FileBytes::open(&path)?)?;
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
        let header = match read_header(&bytes, &name) {
            Ok(header) => header,
            Err(e) => {
                let first = bytes.range(0..bytes.size().min(PIECE))?;
                return Err(stand_in(&first).map_or(e, |found| Error::user(format!("{name}: {found}"))));
            }
        };
        TENSORS.check(&self.origin, self.entries.len() + header.len())?;
        let part = self.parts.len();
        for (tensor, found) in header {
            let dtype = match found.kind.as_str() {
                "F32" => Ok(DType::F32),
                "F16" => Ok(DType::F16),
                "BF16" => Ok(DType::BF16),
                _ => Err(found.kind),
            };
            let entry = Entry {
                part,
                dtype,
                shape: found.shape,
                range: found.range,
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

    /// A tensor's shape, whatever its element type.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
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

    /// A tensor; GGUF's query and key rows are put into Hugging Face's order.
    ///
    /// # Errors
    /// A user error when it is missing (naming the closest name), its element type is not supported, a value is NaN,
    /// infinite or too large, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<HostTensor<'_>> {
        let (dtype, shape) = self.info(name)?;
        let (entry, part) = self.stored(name)?;
        let bytes = part.bytes.range(entry.range.clone())?;
        let bytes = match entry.interleaved_heads {
            None => bytes,
            Some(heads) => Cow::Owned(deinterleave(&bytes, shape[0], heads)),
        };
        let tensor = HostTensor {
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        usable(&tensor, name, 0).context(&part.name)?;
        Ok(tensor)
    }

    /// Hands the rows of a matrix to `f` in order, a piece at a time, each with the number of its first row, which is even.
    /// Only a piece is in memory.
    ///
    /// # Errors
    /// As [`WeightStore::get`]; those of `f`.
    pub(crate) fn each_piece(
        &self,
        name: &str,
        f: &mut dyn FnMut(usize, &HostTensor<'_>) -> Result<()>,
    ) -> Result<()> {
        let (dtype, shape) = self.info(name)?;
        let (entry, part) = self.stored(name)?;
        let &[rows, cols] = shape else {
            return Err(Error::internal(format!("{name}: not a matrix")));
        };
        let row = dtype.bytes_for(cols);
        // Interleaved rows move within their head.
        let unit = entry.interleaved_heads.map_or(2, |heads| rows / heads);
        let per = (PIECE_BYTES / (unit * row).max(1)).max(1) * unit;
        // A thread that panicked while it held the buffer left it whole.
        let scratch = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = std::mem::take(&mut *scratch());
        for first in (0..rows).step_by(per) {
            let n = per.min(rows - first);
            let range = entry.range.start + first * row..entry.range.start + (first + n) * row;
            let bytes = match &part.bytes {
                FileBytes::Static(_) => part.bytes.range(range)?,
                FileBytes::Open { .. } => {
                    if read.len() < range.len() {
                        read.resize(range.len(), 0);
                    }
                    let read = &mut read[..range.len()];
                    part.bytes.read_at(range.start, read)?;
                    Cow::Borrowed(&*read)
                }
            };
            let bytes = match entry.interleaved_heads {
                None => bytes,
                Some(_) => Cow::Owned(deinterleave(&bytes, n, n / unit)),
            };
            let piece = HostTensor {
                dtype,
                shape: vec![n, cols],
                bytes,
            };
            usable(&piece, name, first * cols).context(&part.name)?;
            f(first, &piece)?;
        }
        *scratch() = read;
        Ok(())
    }

    /// Whether two tensors are the same matrix.
    ///
    /// # Errors
    /// As [`WeightStore::get`].
    pub(super) fn same(&self, a: &str, b: &str) -> Result<bool> {
        let ((kind, shape), (other, other_shape)) = (self.info(a)?, self.info(b)?);
        if shape != other_shape || shape.len() != 2 {
            return Ok(false);
        }
        let (entry, part) = self.stored(b)?;
        let row = other.bytes_for(shape[1]);
        let mut same = true;
        self.each_piece(a, &mut |first, piece| {
            if !same {
                return Ok(());
            }
            let from = entry.range.start + first * row;
            let bytes = part.bytes.range(from..from + piece.shape[0] * row)?;
            same = if kind == other {
                piece.bytes == bytes
            } else {
                let twin = HostTensor {
                    dtype: other,
                    shape: piece.shape.clone(),
                    bytes,
                };
                piece.to_f32() == twin.to_f32()
            };
            Ok(())
        })?;
        Ok(same)
    }

    /// Where a tensor is stored.
    fn stored(&self, name: &str) -> Result<(&Entry, &Part)> {
        let entry = self.entry(name)?;
        match self.parts.get(entry.part) {
            Some(part) => Ok((entry, part)),
            None => Err(Error::user(format!(
                "{}: sizes alone are known, not the values of {name}; pass a model with its weights",
                self.origin
            ))),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| self.missing(name, self.names()))
    }

    /// The error for a missing tensor, suggesting the closest of `candidates`.
    fn missing<'a>(&self, name: &str, candidates: impl Iterator<Item = &'a str>) -> Error {
        let closest = candidates
            .filter(|other| other.len().abs_diff(name.len()) <= FAR)
            .take(MOST_COMPARED)
            .min_by_key(|other| distance(name, other));
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
                self.wrapped()?;
                if want.role == Role::LmHead {
                    return Err(self.headless());
                }
                if let Some(other) = self.other_score(&want, &wanted) {
                    return Err(other);
                }
                return Err(self.missing(&want.name, self.names().filter(|n| !wanted.contains(*n))));
            }
            let (dtype, shape) = self.info(&want.name)?;
            if shape != want.shape {
                let file = &self.parts[self.entry(&want.name)?.part].name;
                if shape.contains(&0) {
                    return Err(Error::user(format!(
                        "{file}: tensor {} has shape {shape:?}: it is empty. DeepSpeed ZeRO-3 keeps parameters apart while \
                         it trains; save the model with stage3_gather_16bit_weights_on_model_save, or make it from the \
                         checkpoint with zero_to_fp32.py",
                        want.name
                    )));
                }
                if let (Role::Score, [labels, _]) = (want.role, shape)
                    && *labels != 1
                {
                    return Err(Error::user(format!(
                        "{file}: {} has {labels} rows: a reward model must have exactly one label; this one has {labels}",
                        want.name
                    )));
                }
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

    /// The error for a model whose vocabulary head is not there.
    fn headless(&self) -> Error {
        let hint = if self.contains("score.weight") {
            "there is a score.weight: a reward model's config.json has the architecture …ForSequenceClassification"
        } else {
            "if the model shares its embedding with the head, as many small ones do, set \"tie_word_embeddings\": true in \
             config.json; else take whole weights"
        };
        Error::user(format!(
            "{}: tensor lm_head.weight is missing and config.json does not tie it to the embedding \
             (tie_word_embeddings); {hint}",
            self.origin
        ))
    }

    /// The error for a reward model whose head has another name.
    fn other_score(&self, want: &TensorSpec, wanted: &BTreeSet<String>) -> Option<Error> {
        if want.role != Role::Score {
            return None;
        }
        let width = want.shape.last()?;
        let fits = |shape: &[usize]| shape == [1, *width] || shape == [*width];
        let (name, _) = self
            .entries
            .iter()
            .find(|(name, e)| fits(&e.shape) && !wanted.contains(*name) && name.ends_with(".weight"))?;
        let bias = name.replace(".weight", ".bias");
        let way = if self.contains(&bias) {
            format!("if that is the head: it has a bias ({bias}), which a …ForSequenceClassification has not")
        } else {
            "if that is the head, rename it to score.weight and save again".into()
        };
        Some(Error::user(format!(
            "{}: tensor score.weight is missing; {name} has the shape of a head with one score: {way}",
            self.origin
        )))
    }

    /// Refuses names that a training wrapper has put something before.
    fn wrapped(&self) -> Result<()> {
        const WRAPPERS: [(&str, &str); 5] = [
            (
                "_orig_mod.",
                "torch.compile's wrapper. Save the model inside it (model._orig_mod.save_pretrained)",
            ),
            (
                "_fsdp_wrapped_module.",
                "FSDP's wrapper. Save the whole state (FULL_STATE_DICT)",
            ),
            (
                "base_model.model.",
                "PEFT's model. Merge the adapter (merge_and_unload) before save_pretrained",
            ),
            (
                "module.",
                "a parallel wrapper. Save the model inside it (model.module.save_pretrained)",
            ),
            (
                "pretrained_model.",
                "TRL's value-head wrapper. Save the model inside it (model.pretrained_model.save_pretrained)",
            ),
        ];
        for (part, of) in WRAPPERS {
            let within = |n: &&str| n.starts_with(part) || n.contains(&format!(".{part}"));
            if let Some(name) = self.names().find(within) {
                return Err(Error::user(format!(
                    "{}: tensors have names like {name}: \"{part}\" is of {of}, or take it out of the names",
                    self.origin
                )));
            }
        }
        Ok(())
    }

    /// Makes the tensor `name` also known as `alias`.
    pub(super) fn alias(&mut self, name: &str, alias: &str) {
        if let Some(entry) = self.entries.get(name).cloned() {
            self.entries.insert(alias.to_string(), entry);
        }
    }

    /// Puts `prefix` before every name but those in `but`.
    pub(super) fn prefix(&mut self, prefix: &str, but: &[&str]) {
        let entries = std::mem::take(&mut self.entries);
        let renamed = entries.into_iter().map(|(name, entry)| {
            let whole = if but.contains(&name.as_str()) {
                name
            } else {
                format!("{prefix}{name}")
            };
            (whole, entry)
        });
        self.entries = renamed.collect();
    }
}

/// Refuses NaN, infinite values and those too large to compute with. `from` is the index of the first element within the
/// tensor `name`.
fn usable(tensor: &HostTensor<'_>, name: &str, from: usize) -> Result<()> {
    let Some(at) = quant::first_unusable(tensor.dtype, &tensor.bytes) else {
        return Ok(());
    };
    let (length, size) = (tensor.dtype.block_len(), tensor.dtype.block_bytes());
    let mut block = vec![0.0; length];
    quant::dequantize(
        tensor.dtype,
        &tensor.bytes[at / length * size..][..size],
        &mut block,
    );
    let value = block.into_iter().find(|v| !quant::usable(*v)).unwrap_or(f32::NAN);
    let why = if value.is_finite() {
        ", which is too large to compute with"
    } else {
        ""
    };
    Err(Error::user(format!(
        "tensor {name} holds {value:?}{why} (element {}): the file is damaged, or what trained it diverged. Take another copy \
         or an earlier checkpoint",
        from + at
    )))
}

/// What a file that should be safetensors is by its first bytes, and the way on.
fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    if is_lfs_pointer(bytes) {
        return Some(LFS_POINTER);
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 2]) {
        return Some(
            "this is a file of torch.save (a pickle) under another name; convert it with transformers' save_pretrained",
        );
    }
    if bytes.starts_with(b"GGUF") {
        return Some("this is a GGUF file under another name; rename it to .gguf and pass it itself");
    }
    bytes.first().is_some_and(|b| *b == b'<').then_some(
        "this is a web page, not weights: the download was answered by something else. Download it again",
    )
}

/// What stands in a directory in place of safetensors weights, and the way on.
fn other_weights(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let find = |test: &dyn Fn(&str) -> bool| names.iter().find(|n| test(n.as_str()));
    let convert = "transformers reads it; convert it with AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT) \
                   (a reward model with AutoModelForSequenceClassification)";
    if let Some(name) =
        find(&|n| n.starts_with("pytorch_model") && (n.ends_with(".bin") || n.ends_with(".bin.index.json")))
    {
        return format!("{name} is a pickle, which is not read. {convert}");
    }
    if let Some(name) = find(&|n| n.starts_with("consolidated") || n == "params.json") {
        return format!(
            "{name} is the original format of Meta or Mistral; take the Hugging Face files of the same model"
        );
    }
    if let Some(name) = find(&|n| n.starts_with("model.") && n.ends_with(".safetensors")) {
        return format!("{name} is a variant; rename it to {SINGLE} to load it");
    }
    if let Some(name) = find(&|n| n.starts_with("model-") && n.ends_with(".safetensors")) {
        return format!(
            "{name} is a part of a model; {INDEX}, which says how the parts belong together, is needed beside it"
        );
    }
    if find(&|n| n == "adapter_config.json").is_some() {
        return "this is an adapter; pass it as --adapter and its base as the model".into();
    }
    if let Some(name) = find(&|n| n.to_ascii_lowercase().ends_with(".gguf")) {
        return format!("pass {} itself", dir.join(name).display());
    }
    if let Some(name) = find(&|n| n == "tf_model.h5" || n == "flax_model.msgpack") {
        return format!(
            "{name} is of another framework. Convert it with an older transformers (from_tf, from_flax)"
        );
    }
    if let Some(name) = find(&|n| n.starts_with("global_step") || n == "zero_to_fp32.py") {
        return format!("{name} is DeepSpeed's; make whole weights with zero_to_fp32.py");
    }
    if let Some(name) = find(&|n| n.starts_with("pytorch_model_fsdp") || n.ends_with(".distcp")) {
        return format!("{name} is a sharded state of FSDP; merge it with `accelerate merge-weights`");
    }
    let inner = names.iter().rev().map(|n| dir.join(n));
    if let Some(inner) = inner.into_iter().find(|p| WeightStore::has_files(p)) {
        return format!("did you mean {}?", inner.display());
    }
    "pass a directory with safetensors weights or a .gguf file".into()
}

/// `weight_map` of an index: tensor → shard file.
fn shard_map(index: &[u8], file: &str) -> Result<BTreeMap<String, String>> {
    let value = parse_object(index, file)?;
    shards(&value).context(file)
}

fn shards(value: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
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
            Some(file) if is_plain(file) => Ok((tensor.clone(), file.to_string())),
            _ => Err(Error::user(format!(
                "weight_map gives {} for {tensor}; the name of a file in the same directory is needed",
                shown(shard)
            ))),
        })
        .collect()
}

/// Whether a name is a file's in the same directory, and not hidden.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains(['/', '\\', ':'])
        && !name.contains(char::is_control)
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
