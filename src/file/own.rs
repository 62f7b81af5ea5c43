//! Directories that this process writes. No link inside them is followed: they may come from somebody else, who can lay one
//! to a file of the user.

use std::fs::Metadata;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

static PLACES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn places() -> MutexGuard<'static, Vec<PathBuf>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Places that this process writes, for as long as this lives: the directories of a run inside the one that the user named.
/// They need not be there yet.
#[derive(Debug)]
pub(crate) struct Own(Vec<PathBuf>);

impl Own {
    /// Declares them. Whoever writes names them by the same path, absolute or from the working directory.
    pub(crate) fn new(dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let all: Vec<PathBuf> = dirs.into_iter().map(|dir| absolute(&dir)).collect();
        places().extend(all.iter().cloned());
        Self(all)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut places = places();
        for own in &self.0 {
            if let Some(at) = places.iter().position(|place| place == own) {
                places.swap_remove(at);
            }
        }
    }
}

/// As is where the working directory is gone.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The outermost place that a path lies in.
fn place_of(path: &Path) -> Option<PathBuf> {
    let places = places();
    let around = places.iter().filter(|place| path.starts_with(place));
    around.min_by_key(|place| place.as_os_str().len()).cloned()
}

/// Refuses a path to which a link leads inside a place that this process writes. The path's own last name is not looked at.
///
/// Between this check and the use of the path somebody who can write to the place can still put a link there.
///
/// # Errors
/// A user error that names the link.
pub(crate) fn check(path: &Path) -> Result<()> {
    let path = absolute(path);
    let Some(place) = place_of(&path) else {
        return Ok(());
    };
    let inside = path.strip_prefix(&place).unwrap_or(Path::new(""));
    let names: Vec<Component<'_>> = inside.components().collect();
    let Some((_, parents)) = names.split_last() else {
        return Ok(());
    };
    let mut at = place;
    no_link(&at)?;
    for name in parents {
        at.push(name);
        no_link(&at)?;
    }
    Ok(())
}

/// As [`check`], for a directory that is itself written into.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_dir(dir: &Path) -> Result<()> {
    check(dir)?;
    match place_of(&absolute(dir)) {
        Some(_) => no_link(dir),
        None => Ok(()),
    }
}

/// What a path names, links not followed; `None` where there is nothing.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn entry(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// Refuses a link.
///
/// # Errors
/// A user error; the path cannot be looked at.
pub(crate) fn no_link(path: &Path) -> Result<()> {
    match entry(path)? {
        Some(found) if found.is_symlink() => Err(link(path)),
        _ => Ok(()),
    }
}

/// The error of a link where this program reads and writes what is its own.
pub(crate) fn link(path: &Path) -> Error {
    Error::user(format!(
        "{}: a link: nothing is read or written through a link inside a directory of this program. Put what it names in its \
         place, or remove it",
        path.display()
    ))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_link_on_the_way_is_refused_inside_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let (real, run) = (dir.path().join("real"), dir.path().join("run"));
        std::fs::create_dir_all(real.join("checkpoints/step_1")).unwrap();
        std::os::unix::fs::symlink(&real, &run).unwrap();
        let place = run.join("checkpoints");
        check(&place.join("step_1/a")).unwrap();
        let own = Own::new([place.clone()]);
        // The directory that the user named may be a link.
        check(&place.join("step_1/a")).unwrap();
        check(&place.join("step_2/a")).unwrap();
        std::fs::rename(real.join("checkpoints/step_1"), real.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(real.join("elsewhere"), place.join("step_1")).unwrap();
        check(&place.join("step_1")).unwrap();
        assert!(check_dir(&place.join("step_1")).is_err());
        let error = check(&place.join("step_1/a")).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("step_1: a link"),
            "{error}"
        );
        drop(own);
        check(&place.join("step_1/a")).unwrap();
    }
}
