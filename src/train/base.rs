//! What a run was started from: kept in its checkpoints, so that it is continued on the same and nothing else.

use super::checkpoint::read_state;
use crate::error::{Error, Result};
use crate::model::load::Source;
use crate::run::checksums::sha256_file;
use crate::tensor::DType;
use crate::text::sha256_hex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The base model and the adapter of a run, by what they hold. Where they lie may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// What the user called the model.
    pub model: String,
    /// Its configuration.
    pub architecture: Map<String, Value>,
    /// Its weights; see [`WeightStore::fingerprint`](crate::model::store::WeightStore::fingerprint).
    pub weights: String,
    /// SHA-256 of its tokenizer and chat template; a GGUF file's are among its weights.
    pub tokenizer: String,
    /// The adapter that training started from; without one it was a fresh one, or every weight was trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Start>,
}

/// An adapter that training started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// What the user called it.
    pub name: String,
    /// SHA-256 of its weights, unless they were gone when a later checkpoint was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Keys of a configuration that say nothing about the computation.
const ASIDE: [&str; 2] = ["dtype", "torch_dtype"];

impl Base {
    /// The base of a run.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(source: &Source, adapter: Option<&Path>) -> Result<Self> {
        let architecture = match source.spec.to_config_json(DType::F32) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Ok(Self {
            model: source.name.clone(),
            architecture,
            weights: source.store.fingerprint()?,
            tokenizer: tokenizer(source)?,
            adapter: adapter.map(|dir| Start {
                name: dir.display().to_string(),
                sha256: sha256_file(&dir.join("adapter_model.safetensors")).ok(),
            }),
        })
    }

    /// Refuses to continue from a checkpoint of a run on another base. One of an older version, which does not say, passes.
    ///
    /// # Errors
    /// A user error that names both.
    pub fn continues(&self, checkpoint: &Path) -> Result<()> {
        match read_state(checkpoint)?.base.and_then(|was| was.difference(self)) {
            None => Ok(()),
            Some(what) => Err(Error::user(format!(
                "--resume: {what}. Resume with what the run was started from, or start a run with another --output"
            ))),
        }
    }

    /// The first difference between this base of a run and the one it would be continued on, in words.
    fn difference(&self, now: &Self) -> Option<String> {
        let other = |key: &&String| {
            let value = now.architecture.get(*key);
            !ASIDE.contains(&key.as_str()) && value.is_some_and(|value| self.architecture[*key] != *value)
        };
        if let Some(key) = self.architecture.keys().find(other) {
            return Some(format!(
                "the run was started from {}, whose {key} is {}, and {} has {}",
                self.model, self.architecture[key], now.model, now.architecture[key]
            ));
        }
        for (what, was, is) in [
            ("weights", &self.weights, &now.weights),
            ("tokenizer or chat template", &self.tokenizer, &now.tokenizer),
        ] {
            if was != is {
                let [was, is] = [was, is].map(|hash| hash.get(..12).unwrap_or(hash).to_string());
                return Some(format!(
                    "the run was started from {} ({what} {was}…), and {} has other {what} ({is}…)",
                    self.model, now.model
                ));
            }
        }
        let named = |start: &Option<Start>| match start {
            Some(start) => format!("the adapter {}", start.name),
            None => "no adapter".to_string(),
        };
        let same = match (&self.adapter, &now.adapter) {
            (None, None) => true,
            (Some(was), Some(is)) => match (&was.sha256, &is.sha256) {
                (Some(was), Some(is)) => was == is,
                // One of them is gone; the checkpoint has what became of it.
                _ => was.name == is.name,
            },
            _ => false,
        };
        (!same).then(|| {
            format!(
                "the run was started from {}, and now --adapter says {}",
                named(&self.adapter),
                named(&now.adapter)
            )
        })
    }
}

/// What texts become tokens by.
fn tokenizer(source: &Source) -> Result<String> {
    let mut all = Vec::new();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let bytes = source.files.read(name)?.unwrap_or_default();
        all.extend((bytes.len() as u64).to_le_bytes());
        all.extend(bytes);
    }
    Ok(sha256_hex(&all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn base() -> Base {
        serde_json::from_value(json!({
            "model": "a", "architecture": {"hidden_size": 64, "dtype": "float32"}, "weights": "w1", "tokenizer": "t1"
        }))
        .unwrap()
    }

    #[test]
    fn a_run_continues_on_what_it_was_started_from() {
        let started = |name: &str, hash: Option<&str>| {
            Some(Start {
                name: name.into(),
                sha256: hash.map(str::to_string),
            })
        };
        let with = |edit: &dyn Fn(&mut Base)| {
            let mut base = base();
            edit(&mut base);
            base
        };
        let said = |was: &Base, is: &Base| was.difference(is).unwrap_or_default();
        assert_eq!(said(&base(), &base()), "");
        let moved = with(&|b| b.model = "elsewhere/a".into());
        assert_eq!(said(&base(), &moved), "", "the same files in another place");
        let stored = with(&|b| drop(b.architecture.insert("dtype".into(), "bfloat16".into())));
        assert_eq!(said(&base(), &stored), "");
        let wider = with(&|b| drop(b.architecture.insert("hidden_size".into(), 128.into())));
        assert!(said(&base(), &wider).contains("hidden_size is 64, and a has 128"));
        let trained = with(&|b| (b.model, b.weights) = ("b".into(), "w2".into()));
        for part in ["a (weights w1…)", "b has other weights (w2…)"] {
            assert!(
                said(&base(), &trained).contains(part),
                "{}",
                said(&base(), &trained)
            );
        }
        let worded = with(&|b| b.tokenizer = "t2".into());
        assert!(said(&base(), &worded).contains("tokenizer or chat template"));
        let on = with(&|b| b.adapter = started("x", Some("1")));
        assert!(said(&base(), &on).contains("no adapter, and now --adapter says the adapter x"));
        let other = with(&|b| b.adapter = started("y", Some("2")));
        assert!(said(&on, &other).contains("the adapter x, and now --adapter says the adapter y"));
        let moved = with(&|b| b.adapter = started("y", Some("1")));
        assert_eq!(said(&on, &moved), "");
        let gone = with(&|b| b.adapter = started("x", None));
        assert_eq!(said(&on, &gone), "");
    }
}
