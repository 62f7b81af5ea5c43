//! Data sets: which files of a repository or directory are a split, and how they are fetched from the hub.
//!
//! Splits are told by file names, as the hub's own viewer tells them where a repository's card does not: `train_prefs` in
//! `data/train_prefs-00000-of-00001.parquet`, `test` in `test.jsonl` or `default/test/0000.parquet`; files whose names say
//! nothing are the split `train`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::hub::HubSettings;
use crate::config::DataSet;
use crate::error::{Context, Error, Result};
use crate::file::limits::HUB_FILE;
use crate::hub::answer::Fault;
use crate::hub::names::{is_commit, is_hidden, is_hub_id, is_revision};
use crate::hub::{self, Kind};

/// The branch a data set is taken from.
const MAIN: &str = "main";
/// Where the hub keeps its own Parquet form of data sets in other formats.
const CONVERTED: &str = "refs/convert/parquet";
/// The split of files whose names name none.
const TRAIN: &str = "train";

/// A data set as a user names it: `ID[@REVISION][:SPLIT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Hub id, "owner/name".
    pub id: String,
    /// Branch, tag or commit.
    pub revision: Option<String>,
    /// Split.
    pub split: Option<String>,
}

impl Request {
    /// Reads a name; `None` where it has another form, or the ending of a file.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, split) = match name.rsplit_once(':') {
            Some((rest, split)) => (rest, Some(split)),
            None => (name, None),
        };
        let (id, revision) = match rest.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (rest, None),
        };
        let is_file = kind(id).is_some() || id.ends_with(".txt");
        let whole = |part: Option<&str>| part.is_none_or(|p| !p.is_empty() && !p.contains(".."));
        let named = revision.is_none_or(is_revision);
        (is_hub_id(id) && !is_file && named && whole(split)).then(|| Self {
            id: id.into(),
            revision: revision.map(Into::into),
            split: split.map(Into::into),
        })
    }
}

/// What files of data end with, the kinds that are read first before those that are read where there are none of them.
const KINDS: [&[&str]; 4] = [
    &[".parquet"],
    &[".jsonl", ".ndjson"],
    &[".json"],
    &[".csv", ".tsv"],
];
/// What compressed files end with.
const COMPRESSED: [&str; 3] = [".gz", ".zst", ".zstd"];
/// JSON files that describe a data set or a model and hold no rows.
const DESCRIPTIONS: [&str; 8] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
    "manifest.json",
    "package.json",
    "metadata.json",
];

/// A file's name without the ending of a compressed one.
fn plain(file: &str) -> &str {
    let ending = COMPRESSED.iter().find(|e| ends_with(file, e));
    ending.map_or(file, |e| &file[..file.len() - e.len()])
}

fn ends_with(file: &str, ending: &str) -> bool {
    let at = file.len().checked_sub(ending.len());
    at.and_then(|at| file.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// Which of [`KINDS`] a file is by its name.
fn kind(file: &str) -> Option<usize> {
    let name = plain(file);
    let is = |endings: &&[&str]| endings.iter().any(|e| ends_with(name, e));
    let kind = KINDS.iter().position(is)?;
    let last = name.rsplit('/').next().unwrap_or(name);
    (!DESCRIPTIONS.contains(&last)).then_some(kind)
}

/// Whether a file is Parquet or JSON Lines, and not compressed.
fn is_plain(file: &str) -> bool {
    KINDS[..2]
        .iter()
        .flat_map(|endings| endings.iter())
        .any(|e| ends_with(file, e))
}

/// The files of one split, in the order they are read: Parquet; where there is none JSON Lines, else JSON, else CSV, plain or
/// compressed.
///
/// Without `split` it is the only one, else the first of `preferred` that there is.
///
/// # Errors
/// A user error that lists the splits: there is none of that name, or nothing says which is meant; no data files.
pub fn choose(names: &[String], split: Option<&str>, preferred: &[&str]) -> Result<(String, Vec<String>)> {
    let files = data_files(names);
    let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        splits.entry(split_of(&file)).or_default().push(file);
    }
    let known = splits.keys().cloned().collect::<Vec<_>>().join(", ");
    let only = || {
        (splits.len() == 1)
            .then(|| splits.keys().next().cloned())
            .flatten()
    };
    let of_choice = || {
        let found = preferred.iter().find(|p| splits.contains_key(**p));
        found.map(ToString::to_string)
    };
    let chosen = match split {
        Some(split) => split.to_string(),
        None => only().or_else(of_choice).ok_or_else(|| {
            Error::user(if splits.is_empty() {
                "no Parquet (.parquet), JSON (.jsonl, .json) or CSV (.csv) files, nor any of them as .gz or .zst".to_string()
            } else {
                format!("it has the splits {known}: name one, as in NAME:SPLIT")
            })
        })?,
    };
    match splits.remove(&chosen) {
        Some(files) => Ok((chosen, files)),
        None => Err(Error::user(format!("no split {chosen:?}; it has {known}"))),
    }
}

/// The data files among a repository's files, sorted; one whose name could lead out of its directory is none.
fn data_files(names: &[String]) -> Vec<String> {
    let tame = |name: &str| hub::names::is_plain(name) && !is_hidden(name);
    let mut files: Vec<(usize, &String)> = names
        .iter()
        .filter(|n| tame(n))
        .filter_map(|n| Some((kind(n)?, n)))
        .collect();
    files.sort();
    let first = files.first().map(|(kind, _)| *kind);
    let of_kind = files.into_iter().filter(|(kind, _)| Some(*kind) == first);
    of_kind.map(|(_, name)| name.clone()).collect()
}

/// The parts of `data/train_prefs-00000-of-00002-abc.parquet` that matter: `train_prefs` and 2.
fn sharded(stem: &str) -> Option<(&str, usize)> {
    let number = |text: &str| text.len() >= 4 && text.bytes().all(|b| b.is_ascii_digit());
    let (head, tail) = stem.split_once("-of-")?;
    let (split, index) = head.rsplit_once('-')?;
    let total = tail.split('-').next()?;
    (number(index) && number(total)).then_some((split, total.parse().ok()?))
}

fn stem(file: &str) -> &str {
    let name = plain(file).rsplit('/').next().unwrap_or(file);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The split that a file's name says it belongs to.
fn split_of(file: &str) -> String {
    if let Some((split, _)) = sharded(stem(file)) {
        return split.to_string();
    }
    let directories = file.rsplit('/').skip(1);
    let known = |part: &str| {
        part.split(|c: char| !c.is_ascii_alphabetic()).find_map(|word| {
            match word.to_ascii_lowercase().as_str() {
                "train" | "training" => Some(TRAIN),
                "validation" | "valid" | "val" | "dev" => Some("validation"),
                "test" | "testing" | "eval" | "evaluation" => Some("test"),
                _ => None,
            }
        })
    };
    std::iter::once(stem(file))
        .chain(directories)
        .find_map(known)
        .unwrap_or(TRAIN)
        .to_string()
}

/// A shard that the names of the others promise and that is not among them.
fn absent(files: &[String]) -> Option<String> {
    let mut groups: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for file in files {
        let directory = file.rsplit_once('/').map_or("", |(d, _)| d);
        if let Some((split, total)) = sharded(stem(file)) {
            let group = groups.entry((directory, split)).or_insert((0, total));
            group.0 += 1;
        }
    }
    let torn = groups.iter().find(|(_, (have, total))| have < total)?;
    let ((directory, split), (have, total)) = torn;
    Some(format!("{have} of the {total} files {directory}/{split}-…"))
}

/// The names of the files below a directory, relative to it, with `/` between the parts; hidden ones are left out.
///
/// # Errors
/// A directory that cannot be read.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    fn walk(dir: &Path, prefix: &str, out: &mut BTreeSet<String>) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with('.') {
                continue;
            }
            // Follows links: the cache's snapshots are made of them.
            if path.is_dir() {
                walk(&path, &format!("{prefix}{name}/"), out)?;
            } else if path.is_file() {
                out.insert(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut out = BTreeSet::new();
    walk(dir, "", &mut out)?;
    Ok(out.into_iter().collect())
}

/// Finds a data set's split on the hub and its files in the cache, downloading what is not there. `name` is what the user called
/// it; `preferred` as in [`choose`].
///
/// # Errors
/// A user error that tells how to get the files by hand when the data set is gated, unreachable or (offline) not in the cache; those
/// of [`choose`].
pub fn fetch(
    name: &str,
    request: &Request,
    preferred: &[&str],
    settings: &HubSettings,
) -> Result<(DataSet, Vec<PathBuf>)> {
    let hub = Hub::new(&request.id, settings)?;
    let branch = request.revision.as_deref().unwrap_or(MAIN);
    let (mut commit, mut names) = hub.listing(branch)?;
    let mut taken = branch;
    // The hub's own Parquet form knows what belongs to a split where file names say less: tables and compressed files.
    let plain = |names: &[String]| data_files(names).iter().any(|f| is_plain(f));
    if request.revision.is_none()
        && !plain(&names)
        && let Ok(converted) = hub.listing(CONVERTED)
        && plain(&converted.1)
    {
        (commit, names) = converted;
        taken = CONVERTED;
    }
    let (split, files) = choose(&names, request.split.as_deref(), preferred).context(&request.id)?;
    if !hub.hub.is_connected()
        && let Some(what) = absent(&files)
    {
        return Err(hub.offline(&format!("only {what}")));
    }
    let set = DataSet {
        name: name.into(),
        id: request.id.clone(),
        revision: commit,
        split,
        files,
    };
    let paths = hub.files(&set)?;
    // What Python's client and an offline run look the files up by.
    if hub.hub.is_connected() {
        hub.hub.remember(branch, &set.revision);
        hub.hub.remember(taken, &set.revision);
    }
    Ok((set, paths))
}

/// The files of a data set that an earlier run read; what the cache has needs no network.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_again(set: &DataSet, settings: &HubSettings) -> Result<Vec<PathBuf>> {
    if !is_commit(&set.revision) {
        return Err(Error::user(format!(
            "{}: the recorded revision is no commit: {:?}",
            set.name, set.revision
        )));
    }
    if set.files.is_empty() || data_files(&set.files).len() != set.files.len() {
        return Err(Error::user(format!(
            "{}: the recorded files are no data files: {}",
            set.name,
            set.files.join(", ")
        )));
    }
    Hub::new(&set.id, settings)?.files(set)
}

/// One data set and the ways to it.
struct Hub {
    id: String,
    hub: hub::Hub,
}

impl Hub {
    fn new(id: &str, settings: &HubSettings) -> Result<Self> {
        let mut hub = hub::Hub::new(Kind::Dataset, id, settings)?;
        if !settings.offline {
            hub.connect(settings)?;
        }
        let id = id.to_string();
        Ok(Self { id, hub })
    }

    /// The commit of a branch, tag or commit, and the names of its files: the cached ones when offline.
    fn listing(&self, revision: &str) -> Result<(String, Vec<String>)> {
        if self.hub.is_connected() {
            let listing = self.hub.listing(revision);
            let listing = listing.map_err(|e| self.refused("its list of files", e))?;
            return Ok((listing.commit, listing.names));
        }
        let found = self
            .hub
            .commit(revision)
            .map(|commit| (self.hub.snapshot(&commit), commit));
        match found.filter(|(dir, _)| dir.is_dir()) {
            Some((dir, commit)) => Ok((commit, names(&dir)?)),
            None => Err(self.offline("nothing of it")),
        }
    }

    /// The files of a data set, in its order.
    fn files(&self, set: &DataSet) -> Result<Vec<PathBuf>> {
        let one = |name: &String| {
            if self.hub.is_connected() {
                let found = self.hub.fetch(&set.revision, name, &HUB_FILE);
                return found.map(|f| f.path).map_err(|e| self.refused(name, e));
            }
            let found = self.hub.cached(&set.revision, name);
            let found = found.map_err(|e| Error::user(by_hand(&self.id, &e.to_string())))?;
            found.ok_or_else(|| self.offline(&format!("no {name} of commit {}", set.revision)))
        };
        set.files.iter().map(one).collect()
    }

    fn offline(&self, what: &str) -> Error {
        let why = format!("{what} was found in the cache and HF_HUB_OFFLINE is set");
        Error::user(by_hand(&self.id, &why))
    }

    fn refused(&self, what: &str, fault: Fault) -> Error {
        let id = &self.id;
        Error::user(match fault {
            Fault::Refused => format!(
                "data set {id}: the hub refuses {what} (gated data set, or the id does not exist). Accept its terms on its page, \
                 then set HF_TOKEN; {}",
                without_network(id)
            ),
            Fault::Absent => by_hand(
                id,
                &format!("{what} was not found on the hub (no such data set, or no such revision)"),
            ),
            Fault::Failed(why) => by_hand(id, &format!("{what} could not be downloaded: {why}")),
            Fault::Other(source) => {
                let context = format!("data set {id}");
                return Error::Context {
                    context,
                    source: Box::new(source),
                };
            }
        })
    }
}

fn without_network(id: &str) -> String {
    let dir = id.rsplit('/').next().unwrap_or(id);
    format!(
        "or get the files by hand: run `hf download {id} --repo-type dataset --local-dir {dir}` on a machine that can reach the hub, \
         copy the directory here and pass its path in place of the name (--prompts {dir}, or {dir}:SPLIT)"
    )
}

fn by_hand(id: &str, why: &str) -> String {
    format!(
        "data set {id}: {why}. Check the id, the network, HF_ENDPOINT and HF_TOKEN, {}",
        without_network(id)
    )
}

#[cfg(test)]
#[path = "hub_data_tests.rs"]
mod tests;
