//! A command's directory: locked, marked, and emptied of nothing but what this program wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checksums;
use super::kinds::{CHECKPOINT, Inside, Kind, Tree, matches};
use super::lock::Lock;
use crate::error::{Context, Error, Result};
use crate::file::dirs;
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_own;
use crate::file::own::Own;
use crate::file::write::{TEMPORARY, finished, remove_file, write_atomic};

/// The file that says which command made a directory.
pub const MARKER: &str = "tea-wgpu.json";
/// What the marker calls this program.
const PROGRAM: &str = "tea-wgpu";
/// Names that a message lists before it counts the others.
const NAMED: usize = 5;

/// The marker. It holds no time and no path: the same command writes the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Marker {
    program: String,
    command: String,
    /// The last step whose checkpoint was written. Where checkpoints are gone, it tells a run that lost them from one that
    /// ended before its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<u64>,
}

/// Who made a directory.
enum Owner {
    /// Nobody that is known.
    Nobody,
    /// A command of the same family, with its marker where it wrote one.
    Own(Option<Marker>),
}

/// A directory that this process holds the lock of.
#[derive(Debug, Clone)]
pub struct Dir {
    root: PathBuf,
    kind: &'static Kind,
    _lock: Lock,
    /// No link is followed in the directories that the command makes here.
    _own: Arc<Own>,
}

impl Dir {
    /// Takes a directory's lock. Nothing in it changes.
    ///
    /// # Errors
    /// A user error where another process holds it, or another command made the directory; an I/O error.
    pub fn hold(root: &Path, kind: &'static Kind) -> Result<Self> {
        let dir = Self {
            root: root.to_path_buf(),
            kind,
            _lock: Lock::take(root, kind.command)?,
            _own: Arc::new(Own::new(kind.places(root))),
        };
        dir.owner()?;
        Ok(dir)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn marker(&self) -> Result<Option<Marker>> {
        let path = self.root.join(MARKER);
        let Some(text) = read_own(&path, &SETTINGS_FILE)? else {
            return Ok(None);
        };
        match serde_json::from_slice::<Marker>(&text) {
            Ok(marker) if marker.program == PROGRAM => Ok(Some(marker)),
            _ => Err(Error::user(format!(
                "{}: this file says which command made a directory, and it is damaged or another program's: choose another \
                 --output, or remove that file if the directory is yours",
                path.display()
            ))),
        }
    }

    fn owner(&self) -> Result<Owner> {
        let marker = self.marker()?;
        let made_by = match &marker {
            Some(marker) => Kind::named(&marker.command),
            None if self.kind.knows(&self.root) => Some(self.kind),
            None => match Kind::of(&self.root) {
                None => return Ok(Owner::Nobody),
                found => found,
            },
        };
        if made_by.is_some_and(|kind| self.kind.shares(kind)) {
            return Ok(Owner::Own(marker));
        }
        let command = marker.map(|m| m.command);
        let command = command.or_else(|| made_by.map(|kind| kind.command.to_string()));
        Err(Error::user(format!(
            "{} holds what `tea-wgpu {}` wrote; choose another --output for `tea-wgpu {}`",
            self.root.display(),
            command.unwrap_or_default().escape_debug(),
            self.kind.command
        )))
    }

    /// Whether a run may be written here; changes nothing. `overwrite` also asks whether what is here may be removed.
    ///
    /// # Errors
    /// A user error that names what is in the way.
    pub fn check(&self, overwrite: bool) -> Result<()> {
        let (in_the_way, why) = match self.owner()? {
            Owner::Nobody => (occupied(&self.root, self.kind.tree), "this run would write there"),
            Owner::Own(marker) if overwrite => {
                let mut found = Vec::new();
                strangers(
                    &self.root,
                    made(self.kind, marker.as_ref()).tree,
                    true,
                    "",
                    &mut found,
                );
                (found, "--overwrite would remove it")
            }
            Owner::Own(marker) => {
                let kind = made(self.kind, marker.as_ref());
                unlinked(&self.root, kind)?;
                let mut found = Vec::new();
                half_written(&self.root, kind.tree, "", &mut found);
                (found, "this run would remove the directory that holds it")
            }
        };
        if in_the_way.is_empty() {
            return Ok(());
        }
        Err(Error::user(format!(
            "{}: {}: not written by this program, and {why}. Move it away, or choose another --output",
            self.root.display(),
            some(in_the_way)
        )))
    }

    /// Marks the directory as this command's. Call it before anything else is written.
    ///
    /// # Errors
    /// As [`Dir::check`]; an I/O error.
    pub fn begin(&self) -> Result<()> {
        self.check(false)?;
        self.tidy()?;
        match self.marker()? {
            // A run that is continued keeps the name of the command that began it.
            Some(_) => Ok(()),
            None => self.write(&Marker::new(self.kind)),
        }
    }

    /// Removes what this program wrote here, without following links, and marks the directory as this command's.
    ///
    /// # Errors
    /// As [`Dir::check`], before anything is removed; an I/O error.
    pub fn clear(&self) -> Result<()> {
        self.check(true)?;
        remove(&self.root, made(self.kind, self.marker()?.as_ref()).tree).context("--overwrite")?;
        self.write(&Marker::new(self.kind))
    }

    /// Begins a run, in place of the one here where `overwrite`.
    ///
    /// # Errors
    /// As [`Dir::begin`] and [`Dir::clear`].
    pub fn renew(&self, overwrite: bool) -> Result<()> {
        if overwrite { self.clear() } else { self.begin() }
    }

    /// Makes a directory that another command of the family began this one's: it writes more than the other.
    ///
    /// # Errors
    /// An I/O error.
    pub fn claim(&self) -> Result<()> {
        match self.marker()? {
            Some(mut marker) => {
                marker.command = self.kind.command.to_string();
                self.write(&marker)
            }
            None => self.write(&Marker::new(self.kind)),
        }
    }

    /// Refuses to continue what another command of the family began.
    ///
    /// # Errors
    /// A user error that names the command.
    pub fn continues(&self) -> Result<()> {
        let began = self.marker()?.and_then(|m| Kind::named(&m.command));
        match began.filter(|kind| !self.kind.continues(kind)) {
            None => Ok(()),
            Some(kind) => Err(Error::user(format!(
                "--resume: {} would hold a checkpoint of `{began}` and of `{}`: continue this run with `tea-wgpu {began} --resume`",
                self.root.display(),
                self.kind.command,
                began = kind.command
            ))),
        }
    }

    /// Removes what killed processes left half-written in the directories here. Nothing reads it; it only takes space.
    ///
    /// # Errors
    /// An I/O error.
    fn tidy(&self) -> Result<()> {
        tidy(&self.root, self.kind.tree)
    }

    fn write(&self, marker: &Marker) -> Result<()> {
        write_atomic(&self.root.join(MARKER), marker.text()?.as_bytes())
    }

    /// The command that began what is here, where the directory has a marker.
    ///
    /// # Errors
    /// The marker cannot be read.
    pub fn command(&self) -> Result<Option<String>> {
        Ok(self.marker()?.map(|marker| marker.command))
    }

    /// The last step whose checkpoint was written; `None` also where the directory has no marker.
    ///
    /// # Errors
    /// The marker cannot be read.
    pub fn checkpoint(&self) -> Result<Option<u64>> {
        Ok(self.marker()?.and_then(|marker| marker.checkpoint))
    }

    /// Keeps the number of the step whose checkpoint has just been written.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep_checkpoint(&self, step: u64) -> Result<()> {
        let Some(mut marker) = self.marker()? else {
            return Ok(());
        };
        marker.checkpoint = Some(step);
        self.write(&marker)
    }
}

/// The marker of a kind, for a directory that appears as a whole.
///
/// # Errors
/// Never.
pub fn marker(kind: &Kind) -> Result<String> {
    Marker::new(kind).text()
}

impl Marker {
    fn new(kind: &Kind) -> Self {
        Self {
            program: PROGRAM.to_string(),
            command: kind.command.to_string(),
            checkpoint: None,
        }
    }

    fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).map_err(Error::internal)? + "\n")
    }
}

/// The kind whose names a directory has: the marker's.
fn made(own: &'static Kind, marker: Option<&Marker>) -> &'static Kind {
    marker.and_then(|m| Kind::named(&m.command)).unwrap_or(own)
}

/// The entries of a directory: names, and what they are themselves, links not followed. None where it is no directory.
fn entries(dir: &Path) -> Vec<(String, PathBuf, fs::FileType)> {
    let read = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = read
        .filter_map(|e| {
            Some((
                e.file_name().to_string_lossy().into_owned(),
                e.path(),
                e.file_type().ok()?,
            ))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

impl Tree {
    fn file(&self, name: &str) -> bool {
        let name = finished(name).unwrap_or(name);
        self.files.iter().any(|pattern| matches(pattern, name))
    }

    fn dir(&self, name: &str) -> Option<&'static Inside> {
        let plain = finished(name).map(|of| format!("{TEMPORARY}{of}"));
        let name = plain.as_deref().unwrap_or(name);
        self.dirs
            .iter()
            .find_map(|(pattern, inside)| matches(pattern, name).then_some(inside))
    }
}

/// What lies in the places that a run would write to, where nothing says that it is this program's. What is empty is
/// nothing.
fn occupied(root: &Path, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (name, path, is) in entries(root) {
        if tree.file(&name)
            && (is.is_symlink() || fs::metadata(&path).is_ok_and(|m| m.is_dir() || m.len() > 0))
        {
            found.push(name);
        } else if tree.dir(&name).is_some() {
            match entries(&path) {
                inside if is.is_dir() => {
                    found.extend(inside.into_iter().map(|(n, ..)| format!("{name}/{n}")))
                }
                _ => found.push(name),
            }
        }
    }
    found
}

/// Removes what killed processes left half-written. What is a link is not touched.
fn tidy(dir: &Path, tree: &Tree) -> Result<()> {
    for (name, path, is) in entries(dir) {
        match tree.dir(&name).filter(|_| is.is_dir()) {
            Some(Inside::Named(inside)) if name.starts_with(TEMPORARY) => {
                remove(&path, inside)?;
                dirs::remove_empty(&path)?;
            }
            Some(Inside::Named(inside)) => tidy(&path, inside)?,
            _ if is.is_file() && name.starts_with(TEMPORARY) && tree.file(&name) => remove_file(&path)?,
            _ => (),
        }
    }
    Ok(())
}

/// Refuses a directory of a kind in which there is a link where the kind reads or writes.
///
/// # Errors
/// A user error that names the links.
pub fn unlinked(root: &Path, kind: &Kind) -> Result<()> {
    let mut found = Vec::new();
    links(root, kind.tree, true, "", &mut found);
    match found.is_empty() {
        true => Ok(()),
        false => Err(Error::user(format!(
            "{}: {} (a link): nothing is read or written through links inside a directory of this program. Put what they name in \
             their place, or remove them",
            root.display(),
            some(found)
        ))),
    }
}

fn links(dir: &Path, tree: &Tree, top: bool, at: &str, found: &mut Vec<String>) {
    // A checkpoint is copied with all that is in it.
    let all = tree.dirs.is_empty() && !top;
    for (name, path, is) in entries(dir) {
        let inside = tree.dir(&name);
        let own = all || inside.is_some() || tree.file(&name) || (top && name == MARKER);
        match inside {
            // What is half-written is never read.
            _ if name.starts_with(TEMPORARY) => (),
            _ if own && is.is_symlink() => found.push(format!("{at}{name}")),
            Some(Inside::Named(inside)) if is.is_dir() => {
                links(&path, inside, false, &format!("{at}{name}/"), found);
            }
            Some(Inside::Anything) if is.is_dir() => {
                let inside = entries(&path).into_iter().filter(|(.., is)| is.is_symlink());
                found.extend(inside.map(|(n, ..)| format!("{at}{name}/{n}")));
            }
            _ => (),
        }
    }
}

/// Names in words: the first few, and how many more there are.
fn some(names: Vec<String>) -> String {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names: Vec<String> = names.into_iter().take(NAMED).collect();
    names.join(", ") + &more
}

/// What a tree's directories hold that is not of the tree; at the `top` other names do not matter.
fn strangers(dir: &Path, tree: &Tree, top: bool, at: &str, found: &mut Vec<String>) {
    let listed = if top { Vec::new() } else { checksums::listed(dir) };
    for (name, path, is) in entries(dir) {
        let place = format!("{at}{name}");
        match tree.dir(&name) {
            Some(_) if is.is_symlink() => found.push(format!("{place} (a link)")),
            Some(Inside::Named(inside)) if is.is_dir() => {
                strangers(&path, inside, false, &format!("{place}/"), found);
            }
            Some(Inside::Anything) if is.is_dir() => (),
            _ if !is.is_dir() && (tree.file(&name) || listed.contains(&name)) => (),
            None if top && !tree.file(&name) => (),
            _ => found.push(place),
        }
    }
}

/// What the directory of a checkpoint or a model holds that this program did not write.
pub fn foreign_to_checkpoint(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    strangers(dir, &CHECKPOINT, false, "", &mut found);
    found
}

/// As [`strangers`], of the directories alone that were being written or replaced when a process was killed: they go when
/// a run continues.
fn half_written(dir: &Path, tree: &Tree, at: &str, found: &mut Vec<String>) {
    for (name, path, is) in entries(dir).into_iter().filter(|(.., is)| !is.is_symlink()) {
        let Some(Inside::Named(inside)) = tree.dir(&name) else {
            continue;
        };
        let passing = name.starts_with(TEMPORARY) || name.starts_with(dirs::REPLACED);
        let place = format!("{at}{name}/");
        match (is.is_dir(), passing) {
            (true, true) => strangers(&path, inside, false, &place, found),
            (true, false) => half_written(&path, inside, &place, found),
            (false, true) => found.push(format!("{at}{name}")),
            (false, false) => (),
        }
    }
}

/// Removes what is of a tree. Links are removed as what they are.
fn remove(dir: &Path, tree: &Tree) -> Result<()> {
    let listed = checksums::listed(dir);
    let all = entries(dir);
    for (name, path, is) in &all {
        match tree.dir(name) {
            Some(Inside::Named(inside)) if is.is_dir() => {
                remove(path, inside)?;
                dirs::remove_empty(path)?;
            }
            _ => (),
        }
    }
    let mut files: Vec<&(String, PathBuf, fs::FileType)> = all
        .iter()
        .filter(|(name, _, is)| !is.is_dir() && (tree.file(name) || listed.contains(name)))
        .collect();
    // In the tree's order: what makes it a run goes first.
    files.sort_by_key(|(name, ..)| tree.files.iter().position(|pattern| matches(pattern, name)));
    files.iter().try_for_each(|(_, path, _)| remove_file(path))
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
