//! Model files from the Hugging Face hub, through its cache (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::source::ModelFiles;
use crate::error::{Context, Error, Result};
use crate::file::limits::{HUB_FILE, HUB_TEXT};
use crate::file::open::read;
use crate::hub::answer::{Fault, quoted};
use crate::hub::names::{is_hidden, is_plain};
use crate::hub::{Hub, Kind};
use crate::text::json::parse_object;

pub use crate::hub::HubSettings;
pub use crate::hub::names::is_hub_id;

/// The branch that models are taken from.
const MAIN: &str = "main";

/// Files a repository may lack.
const OPTIONAL: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where the files of one repository come from.
struct Getter<'a> {
    id: &'a str,
    hub: Hub,
    /// The commit that all files are of: the cache's, or that of the first answer.
    commit: RefCell<Option<String>>,
}

/// Finds or downloads a model's files. A model that is whole in the cache needs no network.
///
/// # Errors
/// A user error that tells how to get the files by hand when the repository is gated, unreachable or (offline) not in
/// the cache.
pub fn fetch(id: &str, settings: &HubSettings) -> Result<ModelFiles> {
    let hub = Hub::new(Kind::Model, id, settings)?;
    let commit = RefCell::new(hub.commit(MAIN));
    let mut getter = Getter { id, hub, commit };
    match getter.all() {
        Err(e) if settings.offline => return Err(e),
        Ok(files) => return Ok(files),
        Err(_) => {}
    }
    getter.hub.connect(settings)?;
    getter.commit.take();
    let files = getter.all()?;
    if let Some(commit) = files.revision() {
        getter.hub.remember(MAIN, commit);
    }
    Ok(files)
}

impl Getter<'_> {
    /// All files, weights last.
    fn all(&self) -> Result<ModelFiles> {
        self.need("config.json")?;
        for name in OPTIONAL {
            self.optional(name)?;
        }
        if self.optional(SINGLE)?.is_none() {
            let Some(index) = self.optional(INDEX)? else {
                let why = self.absent(&format!("neither {SINGLE} nor {INDEX}"));
                let other = "a repository with pytorch_model.bin alone is converted with transformers' save_pretrained; \
                             one with adapter_model.safetensors is an adapter, for --adapter";
                return Err(Error::user(by_hand(self.id, &format!("{why}; {other}"))));
            };
            for shard in shards(&index)? {
                self.need(&shard)?;
            }
        }
        let revision = self.commit.borrow().clone().unwrap_or_default();
        Ok(ModelFiles::Hub {
            id: self.id.to_string(),
            dir: self.hub.snapshot(&revision),
            revision,
        })
    }

    /// A file that must be there.
    fn need(&self, name: &str) -> Result<PathBuf> {
        match self.optional(name)? {
            Some(path) => Ok(path),
            None => Err(Error::user(by_hand(self.id, &self.absent(&format!("no {name}"))))),
        }
    }

    fn absent(&self, what: &str) -> String {
        match self.hub.is_connected() {
            false => format!("{what} was found in the cache and HF_HUB_OFFLINE is set"),
            true => format!("{what} was found (no such repository, or no such file in it)"),
        }
    }

    /// A file that may be missing.
    fn optional(&self, name: &str) -> Result<Option<PathBuf>> {
        let commit = self.commit.borrow().clone();
        if !self.hub.is_connected() {
            let found = commit.map(|commit| self.hub.cached(&commit, name));
            let found = found
                .transpose()
                .map_err(|e| Error::user(by_hand(self.id, &e.to_string())));
            return found.map(Option::flatten);
        }
        let limit = match name.ends_with(".safetensors") {
            true => &HUB_FILE,
            false => &HUB_TEXT,
        };
        let id = self.id;
        match self.hub.fetch(commit.as_deref().unwrap_or(MAIN), name, limit) {
            Ok(found) => {
                self.commit.replace(Some(found.commit));
                Ok(Some(found.path))
            }
            Err(Fault::Absent) => Ok(None),
            Err(Fault::Refused) => Err(Error::user(format!(
                "{id}: the hub refuses {name} (gated repository, or the id does not exist). Accept its licence on its \
                 page, then set HF_TOKEN; {}",
                without_network(id)
            ))),
            Err(Fault::Failed(why)) => Err(Error::user(by_hand(
                id,
                &format!("{name} could not be downloaded: {why}"),
            ))),
            Err(Fault::Other(e)) => Err(e).context(id),
        }
    }
}

fn without_network(id: &str) -> String {
    let dir = id.rsplit('/').next().unwrap_or(id);
    format!(
        "or get the files by hand: run `hf download {id} --local-dir {dir}` on a machine that can reach the hub, copy the \
         directory here and pass its path in place of the name"
    )
}

fn by_hand(id: &str, why: &str) -> String {
    format!(
        "{id}: {why}. Check the network, HF_ENDPOINT and HF_TOKEN, {}",
        without_network(id)
    )
}

/// The shards an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let place = index.display().to_string();
    let value = parse_object(&read(index, &HUB_TEXT)?, &place)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let files = map.into_iter().flatten().filter_map(|(_, v)| v.as_str());
    let shards: BTreeSet<String> = files.map(str::to_string).collect();
    match shards
        .iter()
        .find(|s| !is_plain(s) || is_hidden(s) || s.contains('/'))
    {
        None => Ok(shards),
        Some(bad) => Err(Error::user(format!(
            "{place}: the weights are said to be in {}, which is no plain name of a file beside the index",
            quoted(bad)
        ))),
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
