//! Directories that appear whole or not at all, and the making and removing of directories.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::own;
use super::write::{Temporary, finished, prefixed, sync_parent, write_synced};
use crate::error::{Error, Result};

/// Prefix of a directory that is being replaced.
pub(crate) const REPLACED: &str = ".old-";

/// Lists what a directory of one kind holds that this program did not write, by names below it.
pub type Foreign = fn(&Path) -> Vec<String>;

/// A directory that appears whole or not at all. Files are written into a hidden sibling of a fresh name, which
/// [`AtomicDir::commit`] renames; dropped without it, everything is removed. A leftover of a killed process is never
/// read and is removed by the next [`AtomicDir::create`] of the same name.
///
/// Nothing of somebody else is removed: a directory that holds what [`Foreign`] lists is moved aside.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: Temporary,
    target: PathBuf,
    foreign: Foreign,
}

impl AtomicDir {
    /// Begins writing `target`, whose parents are created. `target` itself may exist: it is replaced on commit.
    ///
    /// # Errors
    /// When the temporary directory cannot be made; a link in place of `target` inside a directory of this program.
    pub fn create(target: &Path, foreign: Foreign) -> Result<Self> {
        own::check_dir(target)?;
        recover(target, foreign)?;
        if let Some(parent) = target.parent() {
            make(parent)?;
        }
        for leftover in leftovers(target)? {
            discard(&leftover, target, foreign)?;
        }
        let (temporary, ()) = Temporary::new(target, |path| fs::create_dir(path))?;
        Ok(Self {
            temporary,
            target: target.to_path_buf(),
            foreign,
        })
    }

    /// The directory to write into until the commit.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Writes and syncs one file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_with(name, |out| out.write_all(bytes))
    }

    /// As [`AtomicDir::write`], with the contents written piece by piece.
    ///
    /// # Errors
    /// As [`AtomicDir::write`]; an error of `contents` counts as one of writing.
    pub fn write_with(
        &self,
        name: &str,
        contents: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        write_synced(&self.path().join(name), contents).map_err(Error::io(self.target.join(name)))
    }

    /// Renames the directory to its final name. If one was there it is moved aside first and removed after, unless it
    /// holds anything of somebody else; a crash in between is mended by [`recover`].
    ///
    /// # Errors
    /// When renaming fails; the old directory is then back in place.
    pub fn commit(self) -> Result<()> {
        let Self {
            temporary,
            target,
            foreign,
        } = self;
        sync_parent(&temporary.path().join("x"))?;
        own::check_dir(&target)?;
        let old = prefixed(&target, REPLACED)?;
        let replaces = own::entry(&target)?.is_some();
        if replaces {
            fs::rename(&target, &old).map_err(Error::io(&target))?;
        }
        if let Err(e) = temporary.rename(&target) {
            if replaces {
                let _ = fs::rename(&old, &target);
            }
            return Err(Error::io(&target)(e));
        }
        sync_parent(&target)?;
        discard(&old, &target, foreign)
    }
}

/// Puts a directory back that a crash during its replacement left aside, or removes the aside copy when the new one is
/// in place. Call it before reading a directory that [`AtomicDir`] may replace.
///
/// # Errors
/// When renaming or removing fails; a link where the aside copy would be.
pub fn recover(target: &Path, foreign: Foreign) -> Result<()> {
    own::check(target)?;
    let old = prefixed(target, REPLACED)?;
    let Some(found) = own::entry(&old)? else {
        return Ok(());
    };
    if found.is_symlink() {
        return Err(own::link(&old));
    }
    if own::entry(target)?.is_some() {
        discard(&old, target, foreign)
    } else {
        fs::rename(&old, target).map_err(Error::io(target))
    }
}

/// What there is at a path that this program did not write: nothing where there is nothing. What is no directory, and
/// stands where this program makes one, is itself somebody else's.
///
/// # Errors
/// The path cannot be looked at.
pub(crate) fn foreign_at(path: &Path, foreign: Foreign) -> Result<Vec<String>> {
    let name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Ok(match own::entry(path)? {
        None => Vec::new(),
        Some(found) if found.is_dir() => foreign(path).iter().map(|n| format!("{}/{n}", name())).collect(),
        Some(_) => vec![name()],
    })
}

/// Removes a directory that this program wrote under the name `of`. One that holds anything else keeps all of it: it is
/// moved aside, and that is said.
///
/// # Errors
/// It cannot be removed or renamed.
pub(crate) fn discard(path: &Path, of: &Path, foreign: Foreign) -> Result<()> {
    let found = foreign_at(path, foreign)?;
    let Some(first) = found.first() else {
        return match own::entry(path)? {
            Some(_) => remove(path),
            None => Ok(()),
        };
    };
    own::check(path)?;
    let aside = aside(of)?;
    fs::rename(path, &aside).map_err(Error::io(path))?;
    sync_parent(&aside)?;
    log::warn!(
        "{}: {first}{}: not written by this program. Nothing of it was removed: it is now {}",
        path.display(),
        match found.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        },
        aside.display()
    );
    Ok(())
}

/// A name beside a path that nothing has: `NAME-kept`, `NAME-kept-2`, ….
fn aside(of: &Path) -> Result<PathBuf> {
    let mut name = of.file_name().unwrap_or_default().to_os_string();
    name.push("-kept");
    let mut path = of.with_file_name(&name);
    let mut n = 1;
    while own::entry(&path)?.is_some() {
        n += 1;
        let mut next = name.clone();
        next.push(format!("-{n}"));
        path = of.with_file_name(next);
    }
    Ok(path)
}

/// Directories beside `target` that processes which were killed left half-written under its name. Links are none.
///
/// # Errors
/// The directory around it cannot be read.
pub(crate) fn leftovers(target: &Path) -> Result<Vec<PathBuf>> {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut found = Vec::new();
    let entries = match fs::read_dir(parent) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(Error::io(parent))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(parent))?;
        let name = entry.file_name();
        let of = name.to_str().and_then(finished).map(OsStr::new);
        if of.is_some() && of == target.file_name() && entry.file_type().is_ok_and(|is| is.is_dir()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a directory and those around it that are missing.
///
/// # Errors
/// It cannot be made, or a link leads to it inside a directory of this program.
pub(crate) fn make(dir: &Path) -> Result<()> {
    own::check_dir(dir)?;
    fs::create_dir_all(dir).map_err(Error::io(dir))
}

/// Removes a file, or a directory with all that is in it. Links are removed as what they are.
///
/// # Errors
/// It cannot be removed, or a link leads to it inside a directory of this program.
pub(crate) fn remove(path: &Path) -> Result<()> {
    own::check(path)?;
    let is_dir = own::entry(path)?.is_some_and(|found| found.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(Error::io(path))
}

/// Removes a directory that holds nothing.
///
/// # Errors
/// As [`remove`]; it holds something.
pub(crate) fn remove_empty(dir: &Path) -> Result<()> {
    own::check(dir)?;
    fs::remove_dir(dir).map_err(Error::io(dir))
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::symlink;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for dir in ["victim/.tmp-mine", "run/checkpoints"] {
                fs::create_dir_all(place.at(dir)).unwrap();
            }
            fs::write(place.at("victim/thesis"), "mine").unwrap();
            fs::write(place.at("victim/.tmp-mine/x"), "mine").unwrap();
            place
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn own(&self) -> own::Own {
            own::Own::new([self.at("run/checkpoints")])
        }

        #[track_caller]
        fn untouched(&self) {
            assert_eq!(fs::read_to_string(self.at("victim/thesis")).unwrap(), "mine");
            assert_eq!(fs::read_to_string(self.at("victim/.tmp-mine/x")).unwrap(), "mine");
            assert_eq!(fs::read_dir(self.at("victim")).unwrap().count(), 2);
        }
    }

    fn save(target: &Path) -> Result<()> {
        let out = AtomicDir::create(target, |_| Vec::new())?;
        out.write("a", b"1")?;
        out.commit()
    }

    #[test]
    fn links_beside_a_directory_are_left_alone() {
        let place = Place::new();
        let target = place.at("run/checkpoints/step_3");
        for name in [".tmp-step_3", ".tmp-0123456789abcdef-step_3"] {
            symlink(place.at("victim"), place.at("run/checkpoints").join(name)).unwrap();
        }
        save(&target).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
        place.untouched();
    }

    #[test]
    fn links_on_the_way_and_in_place_of_a_directory_are_refused() {
        for (link, target) in [
            ("run/checkpoints/step_3", "run/checkpoints/step_3"),
            ("run/checkpoints/.old-step_3", "run/checkpoints/step_3"),
            ("run/checkpoints", "run/checkpoints/step_3"),
        ] {
            let place = Place::new();
            let _own = place.own();
            let _ = fs::remove_dir(place.at(link));
            symlink(place.at("victim"), place.at(link)).unwrap();
            let error = save(&place.at(target)).unwrap_err();
            let named = format!("{}: a link", place.at(link).display());
            assert!(
                error.exit_code() == 2 && error.to_string().contains(&named),
                "{error}"
            );
            place.untouched();
            if target.starts_with(link) {
                assert!(make(&place.at(target).join("more")).is_err());
                assert!(remove(&place.at(target).join("thesis")).is_err());
                assert!(super::super::write::write_atomic(&place.at(target).join("a"), b"").is_err());
            }
            place.untouched();
        }
    }

    #[test]
    fn what_is_removed_is_the_link() {
        let place = Place::new();
        symlink(place.at("victim"), place.at("run/checkpoints/step_1")).unwrap();
        fs::create_dir(place.at("run/checkpoints/step_2")).unwrap();
        symlink(place.at("victim"), place.at("run/checkpoints/step_2/in")).unwrap();
        remove(&place.at("run/checkpoints/step_1")).unwrap();
        remove(&place.at("run/checkpoints/step_2")).unwrap();
        place.untouched();
    }
}
