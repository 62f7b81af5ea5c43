//! LoRA adapters in PEFT's files: adapter_config.json and adapter_model.safetensors (LoRA: arXiv 2106.09685).

use std::collections::HashSet;
use std::path::Path;

use super::params::LoraShape;
use super::peft_config;
use super::peft_files;
use super::peft_targets::MERGE;
pub use super::peft_targets::{Module, Names, Targets};
use super::save::AtomicDir;
use super::spec::{Head, ModelSpec, Proj};
use super::store::{HostTensor, WeightStore};
use crate::error::{Context, Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open;
use crate::run::checksums::check_model;
use crate::run::foreign_to_checkpoint;
use crate::text::json::parse_object;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the base model's names.
const PREFIX: &str = "base_model.model.";

/// What adapter_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Which linear layers are adapted, with which ranks and scales.
    pub targets: Targets,
    /// The base model: path, hub id or embedded name.
    pub base_model: String,
    /// The base model's commit.
    pub revision: Option<String>,
    /// The base model's head: PEFT's task type CAUSAL_LM or SEQ_CLS.
    pub head: Head,
    /// Whether the base model's biases were trained too (`bias`), where it has any.
    pub trains_biases: bool,
}

impl AdapterConfig {
    /// The largest rank of a linear layer.
    pub fn rank(&self) -> usize {
        self.targets.largest_rank()
    }

    /// α: the update is (α/r)·B·A where no pattern says otherwise.
    pub fn alpha(&self) -> f64 {
        self.targets.plain_alpha()
    }

    /// Whether the adapter carries a trained `score.weight` (`modules_to_save: ["score"]`).
    pub fn saves_score(&self) -> bool {
        !self.targets.saved.is_empty()
    }

    /// The shape that a model of `spec` takes the adapter in.
    ///
    /// # Errors
    /// As [`Targets::modules`].
    pub fn shape(&self, spec: &ModelSpec) -> Result<LoraShape> {
        let modules = self.targets.modules(spec)?;
        let taken = |p: &Proj| modules.iter().any(|m| m.proj == *p);
        Ok(LoraShape {
            rank: self.rank(),
            alpha: self.alpha(),
            targets: Proj::ALL.into_iter().filter(taken).collect(),
        })
    }

    /// The tensors the adapter must have, by PEFT's names, with their shapes: A (r, in) and B (out,
    /// r) of every linear layer it changes, block by block, then `score.weight` (1, C) where it is
    /// saved.
    ///
    /// # Errors
    /// As [`Targets::modules`].
    pub fn tensors(&self, spec: &ModelSpec) -> Result<Vec<(String, Vec<usize>)>> {
        let mut out = Vec::new();
        for m in self.targets.modules(spec)? {
            let (rows, cols) = spec.proj_dims(m.proj);
            out.push((lora_name(m.layer, m.proj, 'A'), vec![m.rank, cols]));
            out.push((lora_name(m.layer, m.proj, 'B'), vec![rows, m.rank]));
        }
        if self.saves_score() {
            out.push((score_name(), vec![1, spec.hidden_size]));
        }
        Ok(out)
    }

    /// Reads adapter_config.json; `file` begins messages.
    ///
    /// # Errors
    /// A user error for malformed JSON, another method than LoRA, or an option this program does not implement.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        let map = parse_object(bytes, file)?;
        peft_config::read(&map).context(file)
    }
}

/// PEFT's name of an A or B matrix: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn lora_name(layer: usize, proj: Proj, matrix: char) -> String {
    format!("{PREFIX}{}.lora_{matrix}.weight", proj.path(layer))
}

/// PEFT's name of a trained score head.
pub fn score_name() -> String {
    format!("{PREFIX}score.weight")
}

/// A loaded adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What its configuration says.
    pub config: AdapterConfig,
    /// The linear layers that it changes.
    pub modules: Vec<Module>,
    /// Its tensors by PEFT's names, in the order of [`AdapterConfig::tensors`].
    pub tensors: Vec<(String, HostTensor<'static>)>,
}

/// Writes an adapter directory whole or not at all; an older one at `dir` is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn write_adapter(dir: &Path, config: &AdapterConfig, tensors: &[(String, HostTensor)]) -> Result<()> {
    let out = AtomicDir::create(dir, foreign_to_checkpoint)?;
    write_adapter_into(&out, config, tensors)?;
    out.commit()
}

/// Writes an adapter's two files into a checkpoint that is being written.
///
/// # Errors
/// When they cannot be written.
pub fn write_adapter_into(
    out: &AtomicDir,
    config: &AdapterConfig,
    tensors: &[(String, HostTensor)],
) -> Result<()> {
    let text = serde_json::to_string_pretty(&peft_config::write(config)).map_err(Error::internal)?;
    out.write_safetensors(WEIGHTS, tensors)?;
    out.write(CONFIG, text.as_bytes())
}

/// Reads an adapter's configuration alone.
///
/// # Errors
/// A user error when the file is missing, malformed, or asks for what this program does not implement.
pub fn read_config(dir: &Path) -> Result<AdapterConfig> {
    check_model(dir)?;
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(peft_files::no_config(dir));
    }
    let bytes = open::read(&path, &SETTINGS_FILE)?;
    AdapterConfig::from_json(&bytes, &path.display().to_string())
}

/// Reads and checks an adapter for a base model.
///
/// # Errors
/// A user error when files are missing, options are not supported, or tensors are missing, superfluous or of other
/// shapes than the base model's.
pub fn read_adapter(dir: &Path, spec: &ModelSpec) -> Result<Adapter> {
    let config = read_config(dir)?;
    if config.saves_score() && spec.head != Head::Score {
        return Err(Error::user(
            "the adapter carries a score head and the base model is used as a language model",
        ))
        .context(dir.display());
    }
    let modules = config.targets.modules(spec).context(dir.join(CONFIG).display())?;
    if config.trains_biases && (spec.qkv_bias || spec.o_bias) {
        return Err(Error::user(format!(
            "bias other than \"none\" is not supported on a base model that has biases: the adapter replaces them. {MERGE}"
        )))
        .context(dir.join(CONFIG).display());
    }
    let weights = dir.join(WEIGHTS);
    if !weights.is_file() {
        return Err(peft_files::no_weights(dir));
    }
    let store = WeightStore::open_safetensors(&weights)?;
    let mut tensors = Vec::new();
    for (name, want) in config.tensors(spec)? {
        if !store.contains(&name) {
            peft_files::other_names(&store).context(dir.display())?;
        }
        let tensor = store.get(&name)?;
        if tensor.elements() == 0 {
            return Err(peft_files::empty_tensor(&name, &tensor.shape)).context(dir.display());
        }
        if tensor.shape != want {
            return Err(Error::user(format!(
                "tensor {name} has shape {:?}, {CONFIG} on this base model needs {want:?}; the adapter is for another model",
                tensor.shape
            )))
            .context(dir.display());
        }
        tensors.push((name, tensor.into_owned()));
    }
    let known: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(extra) = store.names().find(|n| !known.contains(n)) {
        return Err(Error::user(format!(
            "tensor {extra} does not belong to {CONFIG}'s targets on this base model{}",
            peft_files::about(extra)
        )))
        .context(dir.display());
    }
    Ok(Adapter {
        config,
        modules,
        tensors,
    })
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
