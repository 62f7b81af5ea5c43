//! Model files from the Hugging Face hub, through its cache (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde_json::Value;

use super::source::ModelFiles;
use crate::error::{Error, Result};
use crate::text::json::parse_object;

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

/// How to reach the hub; [`HubSettings::from_env`] reads the usual variables.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The cache directory, `$HF_HOME/hub`.
    pub cache: PathBuf,
    /// The server's address; `None` for the public one.
    pub endpoint: Option<String>,
    /// The access token; `None` to use the one `hf auth login` stored.
    pub token: Option<String>,
    /// Whether only the cache may be used.
    pub offline: bool,
}

impl HubSettings {
    /// From HF_HUB_CACHE or HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        let cache = match var("HF_HUB_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => Cache::from_env().path().clone(),
        };
        Self {
            cache,
            endpoint: var("HF_ENDPOINT"),
            token: var("HF_TOKEN"),
            offline,
        }
    }
}

/// Whether a name has the form of a hub id, "owner/name".
pub fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['.', '-'])
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    name.split_once('/')
        .is_some_and(|(owner, rest)| part(owner) && part(rest))
}

/// Where the files of one repository come from.
struct Getter {
    id: String,
    cache: CacheRepo,
    /// `None` when only the cache may be used.
    remote: Option<ApiRepo>,
}

/// Finds or downloads a model's files. A model that is whole in the cache needs no network.
///
/// # Errors
/// A user error that tells how to get the files by hand when the repository is gated, unreachable or (offline) not in
/// the cache.
pub fn fetch(id: &str, settings: &HubSettings) -> Result<ModelFiles> {
    let repo = Repo::new(id.to_string(), RepoType::Model);
    let cache = Cache::new(settings.cache.clone());
    let mut getter = Getter {
        id: id.to_string(),
        cache: cache.repo(repo.clone()),
        remote: None,
    };
    match getter.all() {
        Err(e) if settings.offline => return Err(e),
        Ok(Some(files)) => return Ok(files),
        Ok(None) | Err(_) => {}
    }
    let api = api(settings, cache).map_err(|e| Error::user(by_hand(id, &e.to_string())))?;
    getter.remote = Some(api.repo(repo));
    // When the branch moved since a part was cached, the first pass ends with files of two commits and the second
    // completes the new one.
    for _ in 0..2 {
        if let Some(files) = getter.all()? {
            return Ok(files);
        }
    }
    Err(Error::user(format!(
        "{id}: the repository changed during the download; run the same command again"
    )))
}

/// The hub's client.
pub(super) fn api(settings: &HubSettings, cache: Cache) -> std::result::Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_cache(cache).with_progress(true).with_retries(2);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_string());
    }
    if let Some(token) = &settings.token {
        builder = builder.with_token(Some(token.clone()));
    }
    builder.build()
}

impl Getter {
    /// All files, weights last; `None` when they are of different commits.
    fn all(&self) -> Result<Option<ModelFiles>> {
        let mut paths = vec![self.need("config.json")?];
        for name in OPTIONAL {
            paths.extend(self.optional(name)?);
        }
        match self.optional(SINGLE)? {
            Some(single) => paths.push(single),
            None => {
                let Some(index) = self.optional(INDEX)? else {
                    let why = self.absent(&format!("neither {SINGLE} nor {INDEX}"));
                    let other = "a repository with pytorch_model.bin alone is converted with transformers' save_pretrained; \
                                 one with adapter_model.safetensors is an adapter, for --adapter";
                    return Err(Error::user(by_hand(&self.id, &format!("{why}; {other}"))));
                };
                for shard in shards(&index)? {
                    paths.push(self.need(&shard)?);
                }
            }
        }
        let dir = paths[0].parent().unwrap_or(Path::new(".")).to_path_buf();
        if paths.iter().any(|p| p.parent() != Some(&dir)) {
            return Ok(None);
        }
        let revision = dir
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Some(ModelFiles::Hub {
            id: self.id.clone(),
            revision,
            dir,
        }))
    }

    /// A file that must be there.
    fn need(&self, name: &str) -> Result<PathBuf> {
        match self.optional(name)? {
            Some(path) => Ok(path),
            None => Err(Error::user(by_hand(
                &self.id,
                &self.absent(&format!("no {name}")),
            ))),
        }
    }

    fn absent(&self, what: &str) -> String {
        match self.remote {
            None => format!("{what} was found in the cache and HF_HUB_OFFLINE is set"),
            Some(_) => format!("{what} was found (no such repository, or no such file in it)"),
        }
    }

    /// A file that may be missing.
    fn optional(&self, name: &str) -> Result<Option<PathBuf>> {
        if let Some(path) = self.cache.get(name) {
            return Ok(Some(path));
        }
        let Some(remote) = &self.remote else {
            return Ok(None);
        };
        match remote.download(name) {
            Ok(path) => Ok(Some(path)),
            Err(e) => match status(&e) {
                Some(404) => Ok(None),
                Some(401 | 403) => Err(Error::user(format!(
                    "{}: the hub refuses {name} (gated repository, or the id does not exist). Accept its licence on its \
                     page, then set HF_TOKEN; {}",
                    self.id,
                    without_network(&self.id)
                ))),
                _ => Err(Error::user(by_hand(
                    &self.id,
                    &format!("{name} could not be downloaded: {e}"),
                ))),
            },
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

/// The HTTP status behind an error. hf-hub does not re-export its HTTP client's error type, so it is read from the
/// message, "… http status: 404".
pub(super) fn status(error: &ApiError) -> Option<u16> {
    if let ApiError::TooManyRetries(inner) = error {
        return status(inner);
    }
    let ApiError::RequestError(inner) = error else {
        return None;
    };
    let text = inner.to_string();
    let at = text.find("http status: ")? + "http status: ".len();
    text.get(at..at + 3)?.parse().ok()
}

/// The shards an index names.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let bytes = std::fs::read(index).map_err(Error::io(index))?;
    let value = parse_object(&bytes, &index.display().to_string())?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let files = map.into_iter().flatten().filter_map(|(_, v)| v.as_str());
    Ok(files
        .filter(|f| !f.contains(['/', '\\']))
        .map(str::to_string)
        .collect())
}

#[cfg(test)]
#[path = "hub_tests.rs"]
pub(super) mod tests;
