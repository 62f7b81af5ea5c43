//! Which weights were evaluated: names stay when a run is trained again, hashes do not.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::meta::{EvalMeta, NAMES};
use crate::config::resume;
use crate::error::{Error, Result};
use crate::model::alias::aliases;
use crate::model::gguf::Gguf;
use crate::model::load::Source;
use crate::model::store::WeightStore;
use crate::run::checksums::sha256_file;
use crate::text::sha256_hex;

/// Files beside weights that decide what a model computes.
const TEXTS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// What the hash of these is called, after the field.
const BESIDE: &str = "_files";

/// SHA-256 of weights files. A file is read once, and again where its size or time changes.
#[derive(Debug, Default)]
pub struct Hashes {
    known: HashMap<PathBuf, (u64, Option<SystemTime>, String)>,
}

impl Hashes {
    /// Hashes of the weights that the settings name, by field; see [`Hashes::of_named`].
    ///
    /// # Errors
    /// As [`Hashes::of_named`].
    pub fn of(&mut self, meta: &EvalMeta) -> Result<BTreeMap<String, String>> {
        self.of_named(NAMES.into_iter().zip(meta.named()))
    }

    /// Hashes of weights by the fields that name them. Of an adapter or a single file it is the file's, as `sha256sum` says; of
    /// several shards that of the lines `HASH  NAME` in order of their names. `FIELD_files` is the same of the configuration,
    /// tokenizer and template beside them. The models of the hub and those inside the program have none: their names say what
    /// they are.
    ///
    /// # Errors
    /// A file cannot be read. One that is missing is left out: loading says it better.
    pub fn of_named<'a>(
        &mut self,
        named: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
    ) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for (field, name, files) in files(named)? {
            check_large(field, name, &files)?;
            let in_dir = |file: &&PathBuf| file.extension().is_some_and(|e| e == "safetensors");
            let beside = files.first().filter(in_dir).and_then(|file| file.parent());
            let beside = beside.map(|dir| TEXTS.map(|name| dir.join(name)));
            let texts: Vec<PathBuf> = beside.into_iter().flatten().filter(|p| p.is_file()).collect();
            if let Some(hash) = self.list(&files)? {
                all.insert(field.to_string(), hash);
            }
            if let Some(hash) = self.list(&texts)? {
                all.insert(format!("{field}{BESIDE}"), hash);
            }
        }
        Ok(all)
    }

    /// The hash of a file, or of a list of them.
    fn list(&mut self, files: &[PathBuf]) -> Result<Option<String>> {
        Ok(Some(match files {
            [] => return Ok(None),
            [one] => self.file(one)?,
            shards => {
                let mut lines = String::new();
                for shard in shards {
                    let name = shard.file_name().unwrap_or_default().to_string_lossy();
                    lines += &format!("{}  {name}\n", self.file(shard)?);
                }
                sha256_hex(lines.as_bytes())
            }
        }))
    }

    fn file(&mut self, path: &Path) -> Result<String> {
        let about = std::fs::metadata(path).map_err(Error::io(path))?;
        let state = (about.len(), about.modified().ok());
        if let Some((len, time, hash)) = self.known.get(path)
            && (*len, *time) == state
            && time.is_some()
        {
            return Ok(hash.clone());
        }
        let hash = sha256_file(path)?;
        self.known
            .insert(path.to_path_buf(), (state.0, state.1, hash.clone()));
        Ok(hash)
    }
}

/// The first field whose weights, or whose files beside them, are known to be others than they were.
pub fn changed(
    was: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    fields: &[&'static str],
) -> Option<&'static str> {
    let differs = |key: &str| was.get(key).zip(now.get(key)).is_some_and(|(a, b)| a != b);
    let mut fields = fields.iter().copied();
    fields.find(|field| differs(field) || differs(&format!("{field}{BESIDE}")))
}

/// The fields whose weights are known to be what they were: where they lie may change.
pub fn same(
    was: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    fields: &[&'static str],
) -> Vec<&'static str> {
    let same = |key: &&&'static str| was.get(**key).is_some_and(|hash| now.get(**key) == Some(hash));
    fields.iter().filter(same).copied().collect()
}

/// The fields that name weights where there is one judge.
const NAMED: [&str; 4] = ["model", "adapter", "reward_model", "reward_adapter"];

/// Refuses to go on with other settings than `begun`, or other weights than their hashes say. Where weights lie may change, and
/// so may the fields in `aside`. `what` was begun so.
///
/// # Errors
/// A user error that names the weights, or the setting with both values.
pub fn continues<T: Serialize>(
    what: &str,
    [begun, now]: [(&T, &BTreeMap<String, String>); 2],
    aside: &[&str],
) -> Result<()> {
    if let Some(field) = changed(begun.1, now.1, &NAMED) {
        let settings = serde_json::to_value(now.0).map_err(Error::internal)?;
        return Err(other(what, field, settings[field].as_str().unwrap_or_default()));
    }
    let mut aside = [aside, &["weights_sha256"]].concat();
    aside.extend(same(begun.1, now.1, &NAMED));
    resume::same(what, begun.0, now.0, &aside, "--overwrite")
}

/// The error where the weights that a field names are not those that something was begun with.
pub(super) fn other(what: &str, field: &str, name: &str) -> Error {
    Error::user(format!(
        "--resume: {what} begun with other weights of {name} ({field}), or another configuration, tokenizer or template: they \
         were changed or trained again since; give those it was begun with, choose another --output, or --overwrite"
    ))
}

/// When the newest of the local weights that the settings name was written, where there are any.
pub fn written(meta: &EvalMeta) -> Result<Option<SystemTime>> {
    let all = files(NAMES.into_iter().zip(meta.named()))?
        .into_iter()
        .flat_map(|(_, _, files)| files);
    let times = all.filter_map(|path| std::fs::metadata(path).ok()?.modified().ok());
    Ok(times.max())
}

/// Refuses large files that are no weights of a model before hours go into hashing them: a sparse file may claim any size.
fn check_large(field: &str, name: &str, files: &[PathBuf]) -> Result<()> {
    const LARGE: u64 = 1 << 30;
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
    if files.iter().map(size).sum::<u64>() < LARGE {
        return Ok(());
    }
    match files.first().filter(|_| field.ends_with("adapter")) {
        Some(adapter) => WeightStore::open_safetensors(adapter).map(drop),
        None => Source::open(name).map(drop),
    }
}

/// The local files of the weights that the settings name, by field and name.
fn files<'a>(
    named: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
) -> Result<Vec<(&'static str, &'a str, Vec<PathBuf>)>> {
    let inside = aliases()?;
    let mut all = Vec::new();
    for (field, name) in named {
        let Some(name) = name.filter(|n| !inside.contains_key(*n)) else {
            continue;
        };
        let path = Path::new(name);
        let found = if field.ends_with("adapter") {
            Some(path.join("adapter_model.safetensors"))
                .filter(|p| p.is_file())
                .into_iter()
                .collect()
        } else if path.is_file() {
            // One file, or all parts of a GGUF model.
            Gguf::files(path)
        } else {
            shards(path)
        };
        all.push((field, name, found));
    }
    Ok(all)
}

/// A model directory's weights: model.safetensors, else its shards by name.
fn shards(dir: &Path) -> Vec<PathBuf> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return vec![single];
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_shard = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model-") && name.ends_with(".safetensors")
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(is_shard)
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn meta(fields: &[(&str, String)]) -> EvalMeta {
        let mut json = serde_json::json!({
            "version": 1, "model": "tiny", "reward_model": "true-score", "prompts_file": "p", "prompts_sha256": "",
            "num_prompts": 1, "samples": 1, "seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
            "max_completion_length": 4
        });
        for (field, value) in fields {
            json[field] = value.as_str().into();
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_sparse_file_is_refused_before_it_is_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter_model.safetensors");
        std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(10 << 40).unwrap();
        let adapter = dir.path().display().to_string();
        let said = Hashes::default().of(&meta(&[("adapter", adapter)])).unwrap_err();
        assert!(said.to_string().contains("tensors end at byte 10"), "{said}");
    }

    #[test]
    fn local_weights_are_hashed_as_they_are_now() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let text = |name: &str| at(name).display().to_string();
        for name in ["lora", "one", "two"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("lora/adapter_model.safetensors"), "abc").unwrap();
        std::fs::write(at("lora/optimizer.safetensors"), "moments").unwrap();
        std::fs::write(at("one/model.safetensors"), "whole").unwrap();
        std::fs::write(at("two/model-00002-of-00002.safetensors"), "b").unwrap();
        std::fs::write(at("two/model-00001-of-00002.safetensors"), "a").unwrap();
        let mut hashes = Hashes::default();
        let lora = meta(&[
            ("adapter", text("lora")),
            ("reward_model", text("one")),
            ("also_reward", text("two")),
        ]);
        let first = hashes.of(&lora).unwrap();
        let shards = format!(
            "{}  model-00001-of-00002.safetensors\n{}  model-00002-of-00002.safetensors\n",
            sha256_hex(b"a"),
            sha256_hex(b"b")
        );
        let want = [
            ("adapter", sha256_hex(b"abc")),
            ("also_reward", sha256_hex(shards.as_bytes())),
            ("reward_model", sha256_hex(b"whole")),
        ];
        assert_eq!(first, want.map(|(k, v)| (k.to_string(), v)).into());
        // What stands beside them has a hash of its own, and where they lie does not count.
        std::fs::write(at("one/tokenizer.json"), "tokens").unwrap();
        let beside = hashes.of(&lora).unwrap();
        assert_eq!(beside["reward_model_files"], sha256_hex(b"tokens"));
        let fields = ["adapter", "reward_model"];
        assert_eq!(changed(&first, &beside, &fields), None, "it was not known then");
        assert_eq!(same(&first, &beside, &fields), fields);
        let mut other = beside.clone();
        other.insert("reward_model_files".into(), "x".into());
        assert_eq!(changed(&beside, &other, &fields), Some("reward_model"));
        std::fs::remove_file(at("one/tokenizer.json")).unwrap();
        // Neither the program's own models nor what is not there.
        assert!(hashes.of(&meta(&[])).unwrap().is_empty());
        assert!(
            hashes
                .of(&meta(&[("model", text("none")), ("adapter", text("two"))]))
                .unwrap()
                .is_empty()
        );
        // Trained again in the same place: another file of the same size.
        std::fs::write(at("lora/adapter_model.safetensors"), "abd").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let file = std::fs::File::options()
            .write(true)
            .open(at("lora/adapter_model.safetensors"))
            .unwrap();
        file.set_modified(later).unwrap();
        assert_eq!(hashes.of(&lora).unwrap()["adapter"], sha256_hex(b"abd"));
        assert_eq!(written(&lora).unwrap(), Some(later));
    }
}
