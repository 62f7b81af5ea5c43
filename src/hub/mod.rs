//! Files of the Hugging Face hub, through the cache that Python's client shares.
//!
//! A hub, and whoever answers in its place, is not trusted: [`answer`] says what an answer may lead to, [`names`] what may
//! become a path. The access token goes to the hub's own address alone (`client`), and a file enters the cache when its
//! length and hash are those that the hub said (`download`).

pub mod address;
pub mod answer;
mod cache;
mod client;
mod download;
mod hash;
pub mod names;
mod settings;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::file::limits::Limit;
use crate::report::progress::Progress;
use answer::{Fault, Listing, Metadata};
use cache::{Cached, Folder};
use client::Client;
use names::{Etag, escaped, is_commit, is_hub_id, is_plain, is_revision};

pub use settings::HubSettings;

/// What kind of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a model.
    Model,
    /// Of a data set.
    Dataset,
}

/// One repository: its folder in the cache and, once [`Hub::connect`] was called, the way to the hub.
pub struct Hub {
    kind: Kind,
    id: String,
    folder: Folder,
    client: Option<Client>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// The commit that it is of.
    pub commit: String,
}

impl Hub {
    /// A repository in the cache; nothing is asked of the hub.
    ///
    /// # Errors
    /// `id` is no hub id.
    pub fn new(kind: Kind, id: &str, settings: &HubSettings) -> Result<Self> {
        if !is_hub_id(id) {
            return Err(Error::user(format!(
                "{id:?} is no hub id: it has the form owner/name"
            )));
        }
        let prefix = match kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let folder = format!("{prefix}--{}", id.replace('/', "--"));
        Ok(Self {
            kind,
            id: id.to_string(),
            folder: Folder::new(&settings.cache, folder),
            client: None,
        })
    }

    /// Lets files be fetched from the hub from now on. Nothing is sent yet.
    ///
    /// # Errors
    /// A user error: the endpoint, token or time-outs of the settings are none.
    pub fn connect(&mut self, settings: &HubSettings) -> Result<()> {
        self.client = Some(Client::new(settings)?);
        Ok(())
    }

    /// Whether files are fetched from the hub.
    pub fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// The commit that the cache knows a branch, tag or commit by.
    pub fn commit(&self, revision: &str) -> Option<String> {
        self.folder.commit(revision)
    }

    /// The directory of a commit in the cache.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.snapshot(commit)
    }

    /// A file of a commit that is in the cache. One that is cut counts as missing where the hub can be asked for it.
    ///
    /// # Errors
    /// It is cut, and only the cache may be used.
    pub fn cached(&self, commit: &str, name: &str) -> Result<Option<PathBuf>> {
        match self.folder.find(commit, name) {
            Cached::Absent => Ok(None),
            Cached::Whole(path) => Ok(Some(path)),
            Cached::Damaged(why) if self.is_connected() => {
                log::warn!(
                    "{}: {name} in the cache is damaged ({why}); it is fetched again",
                    self.id
                );
                self.folder.forget(commit, name);
                Ok(None)
            }
            Cached::Damaged(why) => Err(Error::user(format!("{name} in the cache is damaged: {why}"))),
        }
    }

    /// A file of a branch, tag or commit: from the cache where it is there, else from the hub, up to `limit` bytes.
    ///
    /// # Errors
    /// See [`Fault`]. Nothing enters the cache that is not whole.
    pub fn fetch(&self, revision: &str, name: &str, limit: &Limit) -> Result<Found, Fault> {
        if !is_plain(name) {
            return Err(Fault::Failed(format!(
                "{} is no plain name of a file",
                answer::quoted(name)
            )));
        }
        let found = |path, commit: &str| Found {
            path,
            commit: commit.to_string(),
        };
        if is_commit(revision) {
            if let Some(path) = self.cached(revision, name)? {
                return Ok(found(path, revision));
            }
            if self.folder.is_known_absent(revision, name) {
                return Err(Fault::Absent);
            }
        }
        let metadata = self.metadata(revision, name)?;
        if let Some(size) = metadata.size {
            limit.check(name, size)?;
        }
        let commit = metadata.commit.as_str();
        if is_commit(revision) && !revision.eq_ignore_ascii_case(commit) {
            return Err(Fault::Failed(format!(
                "the hub answers with commit {commit} when it is asked for {revision}"
            )));
        }
        if let Some(path) = self.cached(commit, name)? {
            let here = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
            match metadata.size.filter(|size| *size != here) {
                None => return Ok(found(path, commit)),
                Some(size) => {
                    log::warn!(
                        "{}: {name} in the cache has {here} of {size} bytes; it is fetched again",
                        self.id
                    );
                    self.folder.forget(commit, name);
                }
            }
        }
        let _lock = self.folder.lock(&metadata.etag)?;
        // Another revision may have the same contents, or another process may have fetched them meanwhile.
        let there = self.folder.blob(&metadata.etag);
        let fits = there.is_some_and(|there| metadata.size.is_none_or(|size| there == size));
        if !fits || !self.is_good(&metadata.etag, name)? {
            let incomplete = self.folder.incomplete(&metadata.etag)?;
            download::download(self.client()?, &metadata, name, limit, &incomplete)?;
            self.folder.install(&incomplete, &metadata.etag)?;
        }
        Ok(found(self.folder.link(commit, name, &metadata.etag)?, commit))
    }

    /// Whether contents in the cache are those that they are named by. It is asked before they get their first name in a
    /// snapshot: other clients wrote them.
    fn is_good(&self, etag: &Etag, name: &str) -> Result<bool> {
        let _waiting = Progress::waiting("checking what is in the cache");
        let wrong = self.folder.mismatch(etag)?;
        if let Some(why) = &wrong {
            log::warn!(
                "{}: {name} in the cache is damaged ({why}); it is fetched again",
                self.id
            );
        }
        Ok(wrong.is_none())
    }

    /// What the hub says of a file.
    fn metadata(&self, revision: &str, name: &str) -> Result<Metadata, Fault> {
        let client = self.client()?;
        let prefix = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        let (revision, file) = (escaped(revision, false), escaped(name, true));
        let at = client.address(&format!("{prefix}{}/resolve/{revision}/{file}", self.id));
        client.metadata(&at)?.map_err(|commit| {
            if let Some(commit) = commit {
                self.folder.know_absent(&commit, name);
            }
            Fault::Absent
        })
    }

    /// The commit of a branch, tag or commit, and the names of its files.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn listing(&self, revision: &str) -> Result<Listing, Fault> {
        if !is_revision(revision) {
            return Err(Fault::Failed(format!(
                "{} is no revision",
                answer::quoted(revision)
            )));
        }
        let client = self.client()?;
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let revision = escaped(revision, false);
        client.listing(&client.address(&format!("api/{kind}/{}/revision/{revision}", self.id)))
    }

    /// Keeps in the cache which commit a branch or tag is: once all files that are wanted of it are there.
    pub fn remember(&self, revision: &str, commit: &str) {
        self.folder.remember(revision, commit);
    }

    fn client(&self) -> Result<&Client, Fault> {
        let missing = || {
            Fault::Other(Error::internal(
                "the hub is asked while only the cache may be used",
            ))
        };
        self.client.as_ref().ok_or_else(missing)
    }
}

#[cfg(test)]
pub(crate) mod tests;
