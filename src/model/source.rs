//! Where a model's files come from: a directory, a GGUF file, the hub's cache, or the binary itself.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::alias::aliases;
use super::config_json::Stated;
use super::embedded::{EMBEDDED, EmbeddedFile};
use super::gguf::Gguf;
use super::hub::{self, HubSettings};
use super::spec::ModelSpec;
use crate::error::{Context, Error, Result};
use crate::file::limits::{SETTINGS_FILE, TOKENIZER_FILE};
use crate::file::open;
use crate::run::checksums::check_model;
use crate::tensor::DType;
use crate::text::json::parse_object;
use serde_json::{Map, Value};

/// A model's files.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A Hugging Face directory.
    Dir(PathBuf),
    /// A single GGUF file.
    Gguf(PathBuf),
    /// A snapshot in the hub's cache.
    Hub {
        /// The hub id, "owner/name".
        id: String,
        /// The commit.
        revision: String,
        /// The snapshot's directory.
        dir: PathBuf,
    },
    /// Compiled into the binary.
    Embedded {
        /// Its name.
        name: &'static str,
        /// Its files.
        files: &'static [EmbeddedFile],
    },
}

impl ModelFiles {
    /// The directory, unless GGUF or embedded.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir(dir) | Self::Hub { dir, .. } => Some(dir),
            Self::Gguf(_) | Self::Embedded { .. } => None,
        }
    }

    /// What messages and PEFT's `base_model_name_or_path` call it: the path, the hub id or the embedded name.
    pub fn name(&self) -> String {
        match self {
            Self::Dir(path) | Self::Gguf(path) => path.display().to_string(),
            Self::Hub { id, .. } => id.clone(),
            Self::Embedded { name, .. } => (*name).to_string(),
        }
    }

    /// The commit, for a model from the hub.
    pub fn revision(&self) -> Option<&str> {
        match self {
            Self::Hub { revision, .. } => Some(revision),
            _ => None,
        }
    }

    /// The name of one of its files, for messages.
    pub fn file_name(&self, file: &str) -> String {
        match self.dir() {
            Some(dir) => dir.join(file).display().to_string(),
            None => format!("{}: {file}", self.name()),
        }
    }

    /// Reads a small file such as "tokenizer.json"; `None` if there is none of that name (a GGUF file has none at all).
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Dir(dir) | Self::Hub { dir, .. } => {
                let path = dir.join(name);
                let limit = if name == "tokenizer.json" {
                    &TOKENIZER_FILE
                } else {
                    &SETTINGS_FILE
                };
                match open::read(&path, limit) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e),
                }
            }
            Self::Gguf(_) => Ok(None),
            Self::Embedded { files, .. } => Ok(files
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, bytes)| bytes.to_vec())),
        }
    }

    /// Reads the model's specification from config.json (and generation_config.json) or GGUF metadata.
    ///
    /// # Errors
    /// As [`ModelSpec::from_config_json`]; a missing config.json.
    pub fn spec(&self) -> Result<ModelSpec> {
        if let Self::Gguf(path) = self {
            return Gguf::open(path)?.spec();
        }
        self.stated().map(|stated| stated.spec)
    }

    /// What config.json and generation_config.json say.
    ///
    /// # Errors
    /// As [`ModelFiles::spec`].
    pub(super) fn stated(&self) -> Result<Stated> {
        let file = self.file_name("config.json");
        let Some(config) = self.read("config.json")? else {
            return Err(Error::user(
                "missing; a model directory needs config.json, tokenizer.json and safetensors",
            ))
            .context(file);
        };
        Stated::read(&config, self.read("generation_config.json")?.as_deref(), &file)
    }

    /// The element type that config.json says weights are stored as (transformers: f32 where it says nothing).
    ///
    /// # Errors
    /// Another than f32, f16 and bf16.
    pub fn stored_dtype(&self) -> Result<DType> {
        let file = self.file_name("config.json");
        let config = match self.read("config.json")? {
            Some(bytes) => parse_object(&bytes, &file)?,
            None => Map::new(),
        };
        // transformers 5 writes "dtype", older ones "torch_dtype".
        let named = config.get("dtype").or_else(|| config.get("torch_dtype"));
        match named.and_then(Value::as_str) {
            None | Some("float32") => Ok(DType::F32),
            Some("float16") => Ok(DType::F16),
            Some("bfloat16") => Ok(DType::BF16),
            Some(other) => Err(Error::user(format!(
                "{file}: dtype {other:?}; float32, float16 and bfloat16 are read"
            ))),
        }
    }
}

/// Finds a model: short name of `models/aliases.toml`, then local directory or .gguf file, then hub id.
///
/// # Errors
/// A user error when the name is none of these (saying what was tried), when a local path is no model, or as
/// [`hub::fetch`].
pub fn resolve(name_or_path: &str) -> Result<ModelFiles> {
    resolve_with(name_or_path, &HubSettings::from_env())
}

/// As [`resolve`], with the hub's settings given.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(name: &str, settings: &HubSettings) -> Result<ModelFiles> {
    let all = aliases()?;
    if let Some((alias_name, alias)) = all.get_key_value(name) {
        return if alias.is_embedded() {
            embedded_files(alias_name)
        } else {
            hub::fetch(&alias.id, settings)
        };
    }
    let path = Path::new(name);
    if path.is_dir() {
        return local_dir(path);
    }
    if path.is_file() {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            return Ok(ModelFiles::Gguf(path.to_path_buf()));
        }
        return Err(Error::user(format!(
            "{name}: a model is a directory (config.json, tokenizer.json, safetensors) or a .gguf file; this is neither"
        )));
    }
    let looks_local = name.starts_with(['.', '/', '~']) || name.contains('\\') || name.ends_with(".gguf");
    if !looks_local && hub::is_hub_id(name) {
        return hub::fetch(name, settings);
    }
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    Err(Error::user(format!(
        "no model {name:?}: it is not one of the short names ({}), there is no such directory or .gguf file, and a hub id \
         has the form owner/name",
        names.join(", ")
    )))
}

fn embedded_files(name: &str) -> Result<ModelFiles> {
    match EMBEDDED.iter().find(|(n, _)| *n == name) {
        Some((name, files)) => Ok(ModelFiles::Embedded { name, files }),
        None => Err(Error::user(format!(
            "this build has no embedded model {name:?}; make it with `make models` and build again, or pass another model"
        ))),
    }
}

fn local_dir(path: &Path) -> Result<ModelFiles> {
    check_model(path)?;
    if path.join("config.json").is_file() {
        return Ok(ModelFiles::Dir(path.to_path_buf()));
    }
    let name = path.display();
    if path.join("model_index.json").is_file() {
        return Err(Error::user(format!(
            "{name}: this is a pipeline of diffusers (model_index.json), not a language model"
        )));
    }
    if path.join("adapter_config.json").is_file() {
        return Err(Error::user(format!(
            "{name}: this is a LoRA adapter; pass it as --adapter and its base as --model"
        )));
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    // Trainers leave their checkpoints in directories of their own; the last one is the newest most
    // often.
    if let Some(inner) = paths.iter().rev().find(|p| p.join("config.json").is_file()) {
        return Err(Error::user(format!(
            "{name}: no config.json there; did you mean {}?",
            inner.display()
        )));
    }
    let gguf = paths
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
        .min();
    match gguf {
        Some(file) => Err(Error::user(format!(
            "{name}: no config.json there; did you mean {}?",
            file.display()
        ))),
        None => Err(Error::user(format!(
            "{name}: no config.json there; a model directory has config.json, tokenizer.json and safetensors"
        ))),
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
