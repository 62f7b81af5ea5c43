//! What the files of a checkpoint were when they were written: sizes and SHA-256, in a file beside them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::{read, regular};
use crate::file::write::write_atomic;

/// The file's name. Checkpoints of older versions have none.
pub const FILE: &str = "checksums.json";

/// The optimiser's state in a checkpoint.
pub const OPTIMIZER: &str = "optimizer.safetensors";

/// Names to what the files hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Checksums {
    files: BTreeMap<String, Sum>,
}

/// One file's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    sha256: String,
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// They are there and of their sizes.
    Sizes,
    /// They hold what was written.
    Contents,
}

/// SHA-256 (hexadecimal) of a file, read piece by piece.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn sha256_file(path: &Path) -> Result<String> {
    sha256_of(regular(path)?).map_err(Error::io(path))
}

/// SHA-256 of what a reader gives, as lower-case hexadecimal, a piece at a time.
pub(crate) fn sha256_of(mut reader: impl Read) -> io::Result<String> {
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hasher.update(&piece[..n]),
        }
    }
}

/// Writes the checksums of everything that is in a directory. Call it last, before the directory gets its name.
///
/// # Errors
/// An I/O error.
pub fn write(dir: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = fs::metadata(&path).map_err(Error::io(&path))?.len();
        let sha256 = sha256_file(&path)?;
        files.insert(name, Sum { bytes, sha256 });
    }
    let text = serde_json::to_string_pretty(&Checksums { files }).map_err(Error::internal)? + "\n";
    write_atomic(&dir.join(FILE), text.as_bytes())
}

/// The names that a directory's checksums list; none where it has no (readable) checksums.
pub(super) fn listed(dir: &Path) -> Vec<String> {
    let sums = stored(dir).and_then(|text| parsed(&text.ok()?));
    sums.map_or(Vec::new(), |sums| sums.files.into_keys().collect())
}

/// The text of a directory's checksums; `None` where it has none.
fn stored(dir: &Path) -> Option<Result<Vec<u8>>> {
    let path = dir.join(FILE);
    path.exists().then(|| read(&path, &SETTINGS_FILE))
}

/// Checksums of names in the directory itself: those of an altered file may lead elsewhere.
fn parsed(text: &[u8]) -> Option<Checksums> {
    let sums: Checksums = serde_json::from_slice(text).ok()?;
    let plain = |name: &String| {
        let mut parts = Path::new(name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    sums.files.keys().all(plain).then_some(sums)
}

/// Bytes of weights that are hashed each time they are opened: an adapter's. Larger files are told by their sizes.
pub const HASHED: u64 = 256 << 20;

/// Whether a directory has checksums.
pub fn present(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// What is wrong with the files of a directory that has checksums, in words: the first that is missing or is not what was
/// written. `None` where nothing is, or the directory has no checksums.
pub fn damage(dir: &Path, depth: Depth) -> Option<String> {
    let text = match stored(dir)? {
        Ok(text) => text,
        Err(e) => return Some(format!("{FILE} cannot be read: {e}")),
    };
    let Some(sums) = parsed(&text) else {
        return Some(format!("{FILE} is cut or altered"));
    };
    sums.files.iter().find_map(|(name, sum)| {
        sum.damage(&dir.join(name), depth)
            .map(|what| format!("{name} {what}"))
    })
}

/// Refuses a checkpoint that cannot be read as a model or adapter; a directory without checksums passes.
///
/// Its weights must be of the sizes they were written with and, up to [`HASHED`] bytes, what was written. Texts must be there: they may have been edited since. What only
/// a resumed run reads may have been removed.
///
/// # Errors
/// A user error that names the file.
pub fn check_model(dir: &Path) -> Result<()> {
    let Some(Ok(sums)) = stored(dir) else {
        return Ok(());
    };
    let wrong = match parsed(&sums) {
        None => Some(format!("{FILE} is cut or altered")),
        Some(sums) => sums.files.iter().find_map(|(name, sum)| {
            let about = fs::metadata(dir.join(name)).ok().filter(|m| m.len() > 0);
            let text = !name.ends_with(".safetensors");
            let fine = name == OPTIMIZER || (text && about.is_some());
            let depth = match sum.bytes <= HASHED {
                true => Depth::Contents,
                false => Depth::Sizes,
            };
            let what = || sum.damage(&dir.join(name), depth);
            if fine {
                None
            } else {
                what().map(|what| format!("{name} {what}"))
            }
        }),
    };
    wrong.map_or(Ok(()), |what| Err(damaged(dir, &what)))
}

/// The error of a checkpoint that cannot be used.
pub fn damaged(dir: &Path, what: &str) -> Error {
    Error::user(format!(
        "{}: this checkpoint is damaged: {what}. Put the file back from a copy, or take another checkpoint of the run",
        dir.display()
    ))
}

impl Sum {
    fn damage(&self, path: &Path, depth: Depth) -> Option<String> {
        let about = match fs::metadata(path) {
            Ok(about) => about,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Some("is missing".to_string()),
            Err(e) => return Some(format!("cannot be read: {e}")),
        };
        match about.len() {
            n if n == self.bytes => (),
            0 => return Some("is empty".to_string()),
            n => return Some(format!("has {n} bytes, not the {} that were written", self.bytes)),
        }
        if depth == Depth::Sizes {
            return None;
        }
        match sha256_file(path) {
            Ok(now) if now == self.sha256 => None,
            Ok(_) => Some("is not what was written (its SHA-256 differs)".to_string()),
            Err(e) => Some(format!("cannot be read: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(damage(dir.path(), Depth::Contents), None, "an older checkpoint");
        fs::write(at("a"), "aaa").unwrap();
        fs::write(at("b"), "bbb").unwrap();
        write(dir.path()).unwrap();
        assert_eq!(listed(dir.path()), ["a", "b"]);
        let said = |depth| damage(dir.path(), depth).unwrap_or_default();
        assert_eq!(said(Depth::Contents), "");
        fs::write(at("extra"), "x").unwrap();
        assert_eq!(said(Depth::Contents), "", "what else is there does not matter");
        fs::write(at("b"), "bxb").unwrap();
        assert_eq!(said(Depth::Sizes), "");
        assert!(said(Depth::Contents).starts_with("b is not what was written"));
        fs::write(at("b"), "bb").unwrap();
        assert!(said(Depth::Sizes).starts_with("b has 2 bytes, not the 3"));
        fs::write(at("a"), "").unwrap();
        assert_eq!(said(Depth::Sizes), "a is empty");
        fs::remove_file(at("a")).unwrap();
        assert_eq!(said(Depth::Sizes), "a is missing");
        let text = fs::read(at(FILE)).unwrap();
        fs::write(at(FILE), &text[..text.len() / 2]).unwrap();
        assert!(said(Depth::Sizes).contains("cut or altered"));
        for name in ["../a", "/etc/passwd", "..", "sub/a", ""] {
            let sums = serde_json::json!({"files": {name: {"bytes": 3, "sha256": ""}}});
            fs::write(at(FILE), sums.to_string()).unwrap();
            assert!(said(Depth::Sizes).contains("cut or altered"), "{name}");
            assert!(check_model(dir.path()).is_err() && listed(dir.path()).is_empty());
        }
    }

    #[test]
    fn a_model_is_read_without_what_only_a_resumed_run_needs() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        check_model(dir.path()).unwrap();
        for name in ["model.safetensors", OPTIMIZER, "config.json"] {
            fs::write(at(name), "abc").unwrap();
        }
        write(dir.path()).unwrap();
        fs::remove_file(at(OPTIMIZER)).unwrap();
        fs::write(at("config.json"), "edited").unwrap();
        check_model(dir.path()).unwrap();
        for (name, text, what) in [
            ("config.json", "", "config.json is empty"),
            ("model.safetensors", "ab", "model.safetensors has 2 bytes"),
            (
                "model.safetensors",
                "abd",
                "model.safetensors is not what was written",
            ),
        ] {
            let before = fs::read(at(name)).unwrap();
            fs::write(at(name), text).unwrap();
            let error = check_model(dir.path()).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(what),
                "{error}"
            );
            fs::write(at(name), before).unwrap();
        }
    }
}
