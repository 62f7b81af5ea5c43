//! Paths in stored settings: a run is continued and evaluated from any working directory.

use super::{Given, SETTINGS};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Takes the directory that relative paths are meant from out of settings, and makes paths whole that are found there. In that
/// directory itself, and for what is not found there, names stay as they are. `is_name` tells names that are no paths.
///
/// # Errors
/// As [`overlay`](super::overlay).
pub fn anchored<T: Given>(settings: T, is_name: &dyn Fn(&str) -> bool) -> Result<T> {
    let mut table = toml::Table::try_from(&settings).map_err(Error::internal)?;
    let from = table.remove("directory");
    let from = from.as_ref().and_then(toml::Value::as_str).map(Path::new);
    let is_here = |dir: &Path| std::env::current_dir().is_ok_and(|here| here == dir);
    if let Some(from) = from.filter(|dir| !is_here(dir)) {
        for setting in SETTINGS.iter().filter(|s| s.is_path) {
            let name = table.get(setting.name).and_then(toml::Value::as_str);
            if let Some(path) = name.and_then(|name| whole(name, from, is_name)) {
                table.insert(setting.name.into(), path.display().to_string().into());
            }
        }
    }
    table.try_into().map_err(Error::internal)
}

/// The path that a name is, seen from a directory, where there is such a file; a split may follow a directory after a colon.
fn whole(name: &str, from: &Path, is_name: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    if name.is_empty() || is_name(name) {
        return None;
    }
    let path = from.join(name);
    let split = || {
        name.rsplit_once(':')
            .is_some_and(|(dir, _)| from.join(dir).is_dir())
    };
    (path.exists() || split()).then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::TrainFlags;

    #[test]
    fn paths_are_meant_from_where_the_run_was_started() {
        let from = tempfile::tempdir().unwrap();
        for dir in ["policy", "data", "tiny"] {
            std::fs::create_dir(from.path().join(dir)).unwrap();
        }
        let flags = |directory: &Path| TrainFlags {
            model: Some("policy".into()),
            reward_model: Some("tiny".into()),
            prompts: Some("data:train".into()),
            validation_prompts: Some("owner/set".into()),
            directory: Some(directory.to_path_buf()),
            ..TrainFlags::default()
        };
        let anchored = |directory: &Path| {
            let flags = anchored(flags(directory), &|name| name == "tiny").unwrap();
            assert_eq!(flags.directory, None);
            flags
        };
        let found = anchored(from.path());
        assert_eq!(
            found.model,
            Some(from.path().join("policy").display().to_string())
        );
        assert_eq!(
            found.reward_model.as_deref(),
            Some("tiny"),
            "a name of the program's own"
        );
        assert_eq!(found.prompts, Some(from.path().join("data:train")));
        assert_eq!(
            found.validation_prompts,
            Some("owner/set".into()),
            "a name of the hub"
        );
        for unchanged in [&std::env::current_dir().unwrap(), &from.path().join("gone")] {
            let stays = anchored(unchanged);
            assert_eq!(stays.model.as_deref(), Some("policy"));
        }
    }
}
