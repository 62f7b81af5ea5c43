//! Where a model's files come from: a directory, a GGUF file, the hub's cache, or the binary itself.

use std::path::{Path, PathBuf};

use super::embedded::EmbeddedFile;
use super::spec::ModelSpec;
use crate::error::{Context, Error, Result};

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
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(Error::io(path)(e)),
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
            return Err(Error::user(format!("{}: GGUF is not read yet", path.display())));
        }
        let file = self.file_name("config.json");
        let Some(config) = self.read("config.json")? else {
            return Err(Error::user(
                "missing; a model directory needs config.json, tokenizer.json and safetensors",
            ))
            .context(file);
        };
        ModelSpec::from_config_json(&config, self.read("generation_config.json")?.as_deref(), &file)
    }
}
