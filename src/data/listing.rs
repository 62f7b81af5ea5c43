//! The files below a directory of data.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file::limits::{DATA_FILES, DATA_NESTING};

/// The names of the regular files below a directory, relative to it, with `/` between the parts. Hidden ones are left out.
///
/// Links are followed, since the hub's caches are made of them. A directory that links lead to again is read once, so that
/// no link makes a directory endless.
///
/// # Errors
/// A directory that cannot be read, has more files than [`DATA_FILES`], or is nested deeper than [`DATA_NESTING`].
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let mut walk = Walk {
        root: dir,
        seen: HashSet::new(),
        found: BTreeSet::new(),
        entries: 0,
    };
    walk.read(dir, "", 0)?;
    Ok(walk.found.into_iter().collect())
}

struct Walk<'a> {
    root: &'a Path,
    /// Directories that were read, by where they really are.
    seen: HashSet<PathBuf>,
    found: BTreeSet<String>,
    entries: u64,
}

impl Walk<'_> {
    fn read(&mut self, dir: &Path, prefix: &str, depth: u64) -> Result<()> {
        DATA_NESTING.check(self.root.display(), depth)?;
        let place = dir.canonicalize().map_err(Error::io(dir))?;
        if !self.seen.insert(place) {
            return Ok(());
        }
        let mut below = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            self.entries += 1;
            DATA_FILES.check(self.root.display(), self.entries)?;
            let path = entry.map_err(Error::io(dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            // A link that leads nowhere, or in a circle, is no file.
            match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() => below.push((name, path)),
                Ok(found) if found.is_file() => _ = self.found.insert(name),
                _ => {}
            }
        }
        // In order, so that of several ways to a directory always the same is taken.
        below.sort();
        for (name, path) in below {
            self.read(&path, &format!("{name}/"), depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_directory_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("set");
        std::fs::create_dir_all(root.join("data/.hidden")).unwrap();
        let elsewhere = dir.path().join("blob");
        for file in [
            &root.join("data/train.jsonl"),
            &root.join("data/.hidden/a.jsonl"),
            &elsewhere,
        ] {
            std::fs::write(file, "").unwrap();
        }
        symlink(".", root.join("self")).unwrap();
        symlink("..", root.join("data/up")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("/dev/zero", root.join("zero.jsonl")).unwrap();
        symlink(&elsewhere, root.join("test.jsonl")).unwrap();
        assert_eq!(names(&root).unwrap(), ["data/train.jsonl", "test.jsonl"]);
    }

    #[test]
    fn directories_have_a_depth() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_path_buf();
        deep.extend(std::iter::repeat_n("d", 64));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("a.jsonl"), "").unwrap();
        assert_eq!(names(dir.path()).unwrap().len(), 1);
        std::fs::create_dir(deep.join("d")).unwrap();
        let said = names(dir.path()).unwrap_err().to_string();
        assert!(said.contains("nesting of a data directory: 65 levels"), "{said}");
    }
}
