//! The folder of one repository in the cache that Python's client shares: `refs`, `blobs`, `snapshots`, `.no_exist`.
//!
//! Names that a hub gave are checked before they come here ([`super::names`]). Nothing is written through a link that lies
//! inside a repository's folder; the cache itself, and that folder, may be links.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::hash::mismatch;
use super::names::{Etag, is_commit, is_plain, is_revision};
use crate::error::{Error, Result, warn_once};
use crate::file::limits::HUB_TOKEN;
use crate::file::open::{read_text, regular};
use crate::file::write::{sync_parent, write_atomic};

/// Largest header of a safetensors file that is looked into.
const HEADER: u64 = 100 << 20;
/// Bytes at either end of a JSON file among which its braces are looked for.
const MARGIN: u64 = 4096;

/// Where a file's contents and its name in a snapshot are, below the repository's folder.
pub(super) fn paths(commit: &str, name: &str, etag: &Etag) -> [PathBuf; 2] {
    [Path::new("blobs").join(etag.as_str()), pointer(commit, name)]
}

/// Where a file's name in a snapshot is, below the repository's folder.
pub(super) fn pointer(commit: &str, name: &str) -> PathBuf {
    let snapshot = Path::new("snapshots").join(commit);
    name.split('/').fold(snapshot, |path, part| path.join(part))
}

/// The folder of one repository.
pub(super) struct Folder {
    /// The cache.
    cache: PathBuf,
    /// The folder's name: `models--owner--name`.
    name: String,
}

/// What a cached file is good for.
pub(super) enum Cached {
    /// Nothing: there is none.
    Absent,
    /// It is there.
    Whole(PathBuf),
    /// It is cut or no such file: why.
    Damaged(String),
}

impl Folder {
    pub(super) fn new(cache: &Path, name: String) -> Self {
        let cache = cache.to_path_buf();
        Self { cache, name }
    }

    fn path(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The directory of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.path().join("snapshots").join(commit)
    }

    /// The commit that a branch, tag or commit stands for, as far as the cache knows.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_ascii_lowercase());
        }
        if !is_revision(revision) {
            return None;
        }
        let path = self.path().join("refs").join(revision);
        let text = path
            .exists()
            .then(|| read_text(&path, &HUB_TOKEN).ok())
            .flatten()?;
        Some(text.trim().to_ascii_lowercase()).filter(|c| is_commit(c))
    }

    /// A file of a commit, as it is in the cache.
    pub(super) fn find(&self, commit: &str, name: &str) -> Cached {
        if !is_commit(commit) || !is_plain(name) {
            return Cached::Absent;
        }
        let path = self.path().join(pointer(commit, name));
        match fs::metadata(&path) {
            Err(_) => Cached::Absent,
            Ok(found) if !found.is_file() => Cached::Damaged("no regular file".into()),
            Ok(found) => match damage(&path, name).filter(|_| !self.is_as_named(&path, found.len())) {
                None => Cached::Whole(path),
                Some(why) => Cached::Damaged(why),
            },
        }
    }

    /// Whether a file of a snapshot holds what its contents are named by: odd as it looks, the hub has it so.
    fn is_as_named(&self, path: &Path, size: u64) -> bool {
        let Some(etag) = linked_etag(path) else {
            return false;
        };
        regular(path).is_ok_and(|file| matches!(mismatch(file, size, &etag), Ok(None)))
    }

    /// Whether the hub once said that there is no such file in this commit.
    pub(super) fn is_known_absent(&self, commit: &str, name: &str) -> bool {
        self.path().join(".no_exist").join(commit).join(name).is_file()
    }

    /// Keeps that there is no such file in this commit. It spares a question, no more: failures do not count.
    pub(super) fn know_absent(&self, commit: &str, name: &str) {
        let below = Path::new(".no_exist").join(commit).join(name);
        let made = self.make(&below).and_then(|path| match File::create_new(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(path)(e)),
            _ => Ok(()),
        });
        if let Err(e) = made {
            log::debug!("hub: {e}");
        }
    }

    /// Keeps what commit a branch or tag stands for: what Python's client and an offline run look it up by. It is no
    /// failure where it cannot be written.
    pub(super) fn remember(&self, revision: &str, commit: &str) {
        if is_commit(revision) || !is_revision(revision) || self.commit(revision).as_deref() == Some(commit) {
            return;
        }
        let below = Path::new("refs").join(revision);
        let written = self
            .make(&below)
            .and_then(|path| write_atomic(&path, commit.as_bytes()));
        // Another process may have written the same meanwhile.
        if let Err(e) = written
            && self.commit(revision).as_deref() != Some(commit)
        {
            warn_once(format!("the cache does not keep which commit {revision} is: {e}"));
        }
    }

    /// Bytes of a file's contents, where the cache has them.
    pub(super) fn blob(&self, etag: &Etag) -> Option<u64> {
        let found = fs::metadata(self.path().join("blobs").join(etag.as_str())).ok()?;
        found.is_file().then_some(found.len())
    }

    /// What is wrong with contents in the cache, which are hashed; `None` where nothing is.
    pub(super) fn mismatch(&self, etag: &Etag) -> Result<Option<String>> {
        let path = self.path().join("blobs").join(etag.as_str());
        let file = regular(&path)?;
        let size = file.metadata().map_err(Error::io(&path))?.len();
        mismatch(file, size, etag).map_err(Error::io(&path))
    }

    /// Where a file's contents are put together.
    pub(super) fn incomplete(&self, etag: &Etag) -> Result<PathBuf> {
        self.make(
            Path::new("blobs")
                .join(format!("{}.incomplete", etag.as_str()))
                .as_path(),
        )
    }

    /// Makes a whole and checked file one of the cache.
    pub(super) fn install(&self, incomplete: &Path, etag: &Etag) -> Result<()> {
        let blob = incomplete.with_file_name(etag.as_str());
        fs::rename(incomplete, &blob).map_err(Error::io(&blob))?;
        sync_parent(&blob)
    }

    /// Gives contents their name in a snapshot, and returns its path. What bore the name before goes.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &Etag) -> Result<PathBuf> {
        let [blob, below] = paths(commit, name, etag);
        let path = self.make(&below)?;
        let mut target = PathBuf::new();
        below.iter().skip(1).for_each(|_| target.push(".."));
        target.push(&blob);
        if fs::read_link(&path).is_ok_and(|t| t == target) {
            return Ok(path);
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(&path)(e)),
            _ => {}
        }
        match symlink(&target, &path) {
            Ok(()) => Ok(path),
            // Another process was faster.
            Err(_) if fs::read_link(&path).is_ok_and(|t| t == target) => Ok(path),
            // As Python's client where links cannot be made: the file itself takes the place.
            Err(e) => match fs::rename(self.path().join(&blob), &path) {
                Ok(()) => Ok(path),
                Err(_) => Err(Error::io(&path)(e)),
            },
        }
    }

    /// Takes a damaged file out of the cache: its name, and the contents that it stood for.
    pub(super) fn forget(&self, commit: &str, name: &str) {
        let Ok(path) = self.make(&pointer(commit, name)) else {
            return;
        };
        let etag = linked_etag(&path);
        let gone = fs::remove_file(&path).and_then(|()| match etag {
            Some(etag) => fs::remove_file(self.path().join("blobs").join(etag.as_str())),
            None => Ok(()),
        });
        if let Err(e) = gone {
            log::debug!("hub: {}: {e}", path.display());
        }
    }

    /// Waits until no other process downloads these contents. Where the file system has no locks, nobody waits: two
    /// processes then fetch the same.
    pub(super) fn lock(&self, etag: &Etag) -> Result<Option<File>> {
        let below = Path::new(".locks")
            .join(&self.name)
            .join(format!("{}.lock", etag.as_str()));
        make_below(&self.cache, &below)?;
        let path = self.cache.join(below);
        let file = own_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => {
                log::warn!(
                    "another process downloads the same file; waiting for it ({})",
                    path.display()
                );
                file.lock().map_err(Error::io(&path))?;
                Ok(Some(file))
            }
            Err(fs::TryLockError::Error(e)) => {
                log::debug!("hub: {}: {e}", path.display());
                Ok(None)
            }
        }
    }

    /// Makes the directories that `below` needs in the folder, and returns its path.
    fn make(&self, below: &Path) -> Result<PathBuf> {
        let folder = self.path();
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        make_below(&folder, below)?;
        Ok(folder.join(below))
    }
}

/// The name of the contents that a file of a snapshot is a link to.
fn linked_etag(path: &Path) -> Option<Etag> {
    Etag::parse(fs::read_link(path).ok()?.file_name()?.to_str()?)
}

/// Makes the directories of a file below `root`, none of which may be a link.
fn make_below(root: &Path, below: &Path) -> Result<()> {
    fs::create_dir_all(root).map_err(Error::io(root))?;
    let mut path = root.to_path_buf();
    for part in below.parent().into_iter().flatten() {
        path.push(part);
        match fs::create_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(&path)(e)),
            _ => {}
        }
        let found = fs::symlink_metadata(&path).map_err(Error::io(&path))?;
        if !found.is_dir() {
            return Err(Error::user(format!(
                "{}: a link or file where the cache has a directory of its own; remove it, or give another cache with HF_HUB_CACHE",
                path.display()
            )));
        }
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

/// Opens a file of the cache's own for reading and writing, at its end: one that was there, or a new one. A link in its
/// place goes, and so does a file that has another name as well.
pub(super) fn own_file(path: &Path) -> Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true);
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        found => Some(found.map_err(Error::io(path))?),
    };
    if let Some(found) = found.filter(fs::Metadata::is_file) {
        let mut file = open.open(path).map_err(Error::io(path))?;
        // Between the two looks somebody may have put a link in its place.
        let opened = file.metadata().map_err(Error::io(path))?;
        if is_same(&found, &opened) {
            file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
            return Ok(file);
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(path)(e)),
        _ => {}
    }
    open.create_new(true).open(path).map_err(Error::io(path))
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino()) && b.nlink() == 1
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// What is wrong with a cached file, as far as a look at its ends tells: in words.
///
/// Earlier clients kept half a file, or the page of a proxy, as if it were the file.
fn damage(path: &Path, name: &str) -> Option<String> {
    let look = || -> io::Result<Option<String>> {
        let mut file = regular(path).map_err(io::Error::other)?;
        let size = file.metadata()?.len();
        let ending = |e: &str| name.to_ascii_lowercase().ends_with(e);
        if ending(".safetensors") {
            return safetensors_damage(&mut file, size);
        }
        if ending(".json") {
            let [head, tail] = ends(&mut file, size, MARGIN)?;
            let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
            let braces = [(b'{', b'}'), (b'[', b']')];
            let (first, last) = (head.trim_ascii_start().first(), tail.trim_ascii_end().last());
            let whole = first.zip(last).is_some_and(|(f, l)| braces.contains(&(*f, *l)));
            // Spaces without end are some writer's taste.
            let blank = size > MARGIN && (first.is_none() || last.is_none());
            return Ok((!whole && !blank).then(|| "it is cut, or no JSON".into()));
        }
        if ending(".parquet") {
            let [head, tail] = ends(&mut file, size, 4)?;
            // PARE: with an encrypted footer, which the reader refuses in its own words.
            let whole = [b"PAR1", b"PARE"]
                .iter()
                .any(|mark| head == *mark && tail == *mark);
            return Ok((!whole).then(|| "it is cut, or no Parquet".into()));
        }
        Ok(None)
    };
    // What cannot be read is said by who reads it.
    look().unwrap_or(None)
}

/// The first and last bytes of a file, `most` of each.
fn ends(file: &mut File, size: u64, most: u64) -> io::Result<[Vec<u8>; 2]> {
    let mut read = |from: u64| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.take(most).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    Ok([read(0)?, read(size.saturating_sub(most))?])
}

/// What the header of weights says about the file's size.
fn safetensors_damage(file: &mut File, size: u64) -> io::Result<Option<String>> {
    let mut length = [0; 8];
    if size < 8 {
        return Ok(Some(format!("it is cut: {size} bytes")));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER {
        return Ok(Some("it does not begin as safetensors do".into()));
    }
    if length > size - 8 {
        return Ok(Some(format!("it is cut: {size} bytes")));
    }
    #[derive(Deserialize)]
    struct Entry {
        data_offsets: Option<[u64; 2]>,
    }
    // A header that cannot be read is said by the loader, in better words.
    let header = BufReader::new(file.take(length));
    let Ok(tensors) = serde_json::from_reader::<_, HashMap<String, Entry>>(header) else {
        return Ok(None);
    };
    let ends = tensors.values().filter_map(|t| t.data_offsets.map(|o| o[1]));
    let wanted = ends.max().unwrap_or(0).saturating_add(8 + length);
    Ok((size < wanted).then(|| format!("it is cut: {size} of {wanted} bytes")))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
