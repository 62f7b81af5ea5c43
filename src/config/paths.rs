//! Paths in stored settings: a run is continued and evaluated from any working directory.

use super::{SupervisedFlags, TrainFlags};
use std::path::{Path, PathBuf};

/// Settings that name files and say from where.
pub trait Paths {
    /// Takes the directory that relative paths are meant from, and makes paths whole that are found there. In that directory
    /// itself, and for what is not found there, names stay as they are. `is_name` tells names that are no paths.
    fn anchor(&mut self, is_name: &dyn Fn(&str) -> bool);
}

impl Paths for TrainFlags {
    fn anchor(&mut self, is_name: &dyn Fn(&str) -> bool) {
        let Some(from) = self.directory.take().filter(|d| !is_here(d)) else {
            return;
        };
        for text in [&mut self.model, &mut self.reward_model].into_iter().flatten() {
            anchor_text(text, &from, is_name);
        }
        for path in [
            &mut self.reward_adapter,
            &mut self.prompts,
            &mut self.validation_prompts,
        ] {
            anchor_path(path, &from, is_name);
        }
    }
}

impl Paths for SupervisedFlags {
    fn anchor(&mut self, is_name: &dyn Fn(&str) -> bool) {
        let Some(from) = self.directory.take().filter(|d| !is_here(d)) else {
            return;
        };
        for text in self.model.iter_mut() {
            anchor_text(text, &from, is_name);
        }
        for path in [&mut self.adapter, &mut self.data, &mut self.eval_data] {
            anchor_path(path, &from, is_name);
        }
    }
}

fn is_here(dir: &Path) -> bool {
    std::env::current_dir().is_ok_and(|here| here == dir)
}

fn anchor_text(text: &mut String, from: &Path, is_name: &dyn Fn(&str) -> bool) {
    if let Some(whole) = whole(text, from, is_name) {
        *text = whole.display().to_string();
    }
}

fn anchor_path(path: &mut Option<PathBuf>, from: &Path, is_name: &dyn Fn(&str) -> bool) {
    let text = path.as_ref().map(|p| p.display().to_string());
    if let Some(whole) = text.and_then(|text| whole(&text, from, is_name)) {
        *path = Some(whole);
    }
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
            let mut flags = flags(directory);
            flags.anchor(&|name| name == "tiny");
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
