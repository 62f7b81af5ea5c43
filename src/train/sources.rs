//! Data by name: a file or pipe, a directory of data files, or a data set of the hub.

use crate::config::DataSet;
use crate::data::listing;
use crate::error::{Context, Error, Result};
use crate::model::hub::HubSettings;
use crate::model::hub_data::{self, Request};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Which split of a data set is meant where none is named and there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Prompts to train on.
    Training,
    /// Demonstrations to train on.
    Demonstrations,
    /// Preferences to train on.
    Preferences,
    /// Everything else: the user has to say.
    Other,
}

impl Purpose {
    fn preferred(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["train", "train_prefs", "train_sft"],
            Self::Demonstrations => &["train", "train_sft"],
            Self::Preferences => &["train", "train_prefs"],
            Self::Other => &[],
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// One file, or what can be read once: a pipe, or standard input.
    File(PathBuf),
    /// The files of a split.
    Set {
        /// In the order they are read.
        files: Vec<PathBuf>,
        /// What messages and stored results call them.
        source: String,
        /// The files of the hub, where they came from there.
        set: Option<DataSet>,
    },
}

impl Named {
    /// Finds data by name. What there is locally wins over the hub; what `recorded` says of the same name wins over both.
    ///
    /// # Errors
    /// There is nothing of that name; those of [`hub_data::fetch`] and [`hub_data::choose`].
    pub fn find(
        name: &Path,
        recorded: Option<&DataSet>,
        purpose: Purpose,
        hub: &HubSettings,
    ) -> Result<Self> {
        let text = name.to_string_lossy();
        if let Some(set) = recorded.filter(|set| set.name == text) {
            let files = hub_data::fetch_again(set, hub)?;
            return Ok(Self::of_set(set.clone(), files));
        }
        let found = std::fs::metadata(name);
        let (dir, split) = match &found {
            Ok(found) if found.is_dir() => (name.to_path_buf(), None),
            Ok(_) => return Ok(Self::File(name.to_path_buf())),
            Err(_) if text == "-" => return Ok(Self::File(name.to_path_buf())),
            Err(_) => match text.rsplit_once(':').filter(|(dir, _)| Path::new(dir).is_dir()) {
                Some((dir, split)) => (PathBuf::from(dir), Some(split)),
                None => return Self::on_hub(name, &text, found.err(), purpose, hub),
            },
        };
        let names = listing::names(&dir)?;
        let (split, files) = hub_data::choose(&names, split, purpose.preferred()).context(dir.display())?;
        Ok(Self::Set {
            files: files.iter().map(|f| dir.join(f)).collect(),
            source: format!("{}:{split}", dir.display()),
            set: None,
        })
    }

    /// As `find`, of what there is not locally, for the reason `why`.
    fn on_hub(
        name: &Path,
        text: &str,
        why: Option<std::io::Error>,
        purpose: Purpose,
        hub: &HubSettings,
    ) -> Result<Self> {
        let why = why.unwrap_or_else(|| ErrorKind::NotFound.into());
        let absent = matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        match Request::parse(text).filter(|_| absent) {
            Some(request) => {
                let (set, files) = hub_data::fetch(text, &request, purpose.preferred(), hub)
                    .context(format!("{text} (no file or directory of that name here)"))?;
                Ok(Self::of_set(set, files))
            }
            None => Err(Error::io(name)(why)),
        }
    }

    fn of_set(set: DataSet, files: Vec<PathBuf>) -> Self {
        Self::Set {
            files,
            source: format!("{}@{}:{}", set.id, set.revision, set.split),
            set: Some(set),
        }
    }

    /// What messages and stored results call it.
    #[must_use]
    pub fn source(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Set { source, .. } => source.clone(),
        }
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::File(path) => std::slice::from_ref(path),
            Self::Set { files, .. } => files,
        }
    }

    /// The files of the hub, where they came from there.
    #[must_use]
    pub fn set(&self) -> Option<&DataSet> {
        match self {
            Self::File(_) => None,
            Self::Set { set, .. } => set.as_ref(),
        }
    }
}
