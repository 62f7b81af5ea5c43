//! The short names of `models/aliases.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{Error, Result};

const ALIASES: &str = include_str!("../../models/aliases.toml");

/// What a short name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// A hub id, or "embedded".
    pub id: String,
    /// The default reward model of a policy (an alias).
    pub reward: Option<String>,
    /// The default prompts of a policy: a hub dataset id, or "embedded".
    pub prompts: Option<String>,
}

impl Alias {
    /// Whether the model is inside the binary.
    pub fn is_embedded(&self) -> bool {
        self.id == "embedded"
    }
}

/// All short names.
///
/// # Errors
/// An internal error when the compiled-in file is malformed.
pub fn aliases() -> Result<BTreeMap<String, Alias>> {
    toml::from_str(ALIASES).map_err(|e| Error::internal(format!("models/aliases.toml: {e}")))
}

/// Whether a name is one of the program's own, whatever files there are.
pub fn is_alias(name: &str) -> bool {
    aliases().is_ok_and(|all| all.contains_key(name))
}

/// The entry of a short name; also found by the hub id it stands for, so that `--model meta-llama/…` has the same
/// defaults as `--model llama-1b`.
///
/// # Errors
/// As [`aliases`].
pub fn alias(name: &str) -> Result<Option<Alias>> {
    let mut all = aliases()?;
    if let Some(found) = all.remove(name) {
        return Ok(Some(found));
    }
    Ok(all.into_values().find(|a| !a.is_embedded() && a.id == name))
}
