//! A data set of the hub, as a run's settings record it.

use serde::{Deserialize, Serialize};

/// The very files of the hub that a run read, so that a resumed run reads the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// What the user, or `models/aliases.toml`, called it.
    pub name: String,
    /// Hub id, "owner/name".
    pub id: String,
    /// The commit.
    pub revision: String,
    /// The split, such as "train".
    pub split: String,
    /// Names of the files in the repository, in the order they are read.
    pub files: Vec<String>,
}
