//! A data file opened: whatever it is stored in, a regular file or a pipe, plain or compressed. Its first bytes say what it
//! is; its name says nothing.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::parquet::Chunks;
use super::place::Place;
use super::row::Row;
use super::{parquet, text};
use crate::error::{Error, Result};
use crate::run::checksums::sha256_of;

/// Bytes of a read.
const PIECE: usize = 1 << 18;
/// Most bytes of a Parquet file that is no regular file and has to be held in memory.
const HELD: u64 = 8 << 30;
/// The name that means standard input.
const STDIN: &str = "-";

/// A data file whose rows are still to be read.
pub struct Input {
    name: String,
    body: Body,
    sha256: Option<String>,
}

enum Body {
    /// JSON or CSV, decompressed.
    Text(Box<dyn Read>),
    Parquet(Chunks),
}

/// What the first bytes say.
enum Kind {
    Gzip,
    Zstd,
    Parquet,
    Other,
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which parallel compressors begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'P', b'A', b'R', b'1', ..] => Self::Parquet,
            _ => Self::Other,
        }
    }
}

/// Refuses what begins as another kind of file than those that hold rows.
fn known(name: &str, head: &[u8]) -> Result<()> {
    let refuse = |what: &str| Err(Error::user(format!("{name}: {what}")));
    match head {
        [b'P', b'A', b'R', b'E', ..] => {
            refuse("an encrypted Parquet file, which is not supported: decrypt it first")
        }
        [b'P', b'K', 3 | 5, ..] => refuse("a zip archive: unpack it first"),
        [b'B', b'Z', b'h', ..] => refuse("compressed with bzip2: unpack it first, or use gzip or zstd"),
        [0xfd, b'7', b'z', b'X', ..] => refuse("compressed with xz: unpack it first, or use gzip or zstd"),
        [b'A', b'R', b'R', b'O', ..] => refuse("an Arrow (Feather) file: write it as Parquet or JSON Lines"),
        [0xff, 0xff, 0xff, 0xff, ..] => refuse("an Arrow stream: write it as Parquet or JSON Lines"),
        [b'O', b'b', b'j', 1] => refuse("an Avro file: write it as Parquet or JSON Lines"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, _, 0, ..] | [0, _, 0, _, ..] if head[..2] != [0, 0] => {
            refuse("UTF-16 text: convert the file to UTF-8")
        }
        [0, ..] => refuse("begins with NUL bytes: this is no text, or the file is damaged"),
        _ if head.starts_with(b"version https://git-lfs") => refuse(
            "a Git LFS pointer in place of the file: fetch it with `git lfs pull`, or download it again",
        ),
        _ => Ok(()),
    }
}

/// Reads what there is of the first `N` bytes.
fn head<const N: usize>(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(N);
    reader.take(N as u64).read_to_end(&mut head)?;
    Ok(head)
}

impl Input {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read, or begins as a kind of file that holds no rows.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == STDIN {
            return Self::sniff("standard input".to_owned(), None, std::io::stdin().lock());
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(Error::io(path))?;
        let kind = file.metadata().map_err(Error::io(path))?.file_type();
        if kind.is_dir() {
            return Err(Error::user(format!("{name} is a directory: name a file in it")));
        }
        let again = kind
            .is_file()
            .then(|| file.try_clone())
            .transpose()
            .map_err(Error::io(path))?;
        Self::sniff(name, again, file)
    }

    /// As [`Input::open`], and hashes the file's bytes. What can be read only once is held in memory.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn open_hashed(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map(|m| m.file_type());
        if found.is_ok_and(|kind| kind.is_file() || kind.is_dir()) && path.as_os_str() != STDIN {
            let opened = Self::open(path)?;
            let file = File::open(path).map_err(Error::io(path))?;
            let sha256 = sha256_of(file).map_err(Error::io(path))?;
            return Ok(Self {
                sha256: Some(sha256),
                ..opened
            });
        }
        let (name, mut bytes) = match path.as_os_str() == STDIN {
            true => ("standard input".to_owned(), Vec::new()),
            false => (path.display().to_string(), Vec::new()),
        };
        let read = match path.as_os_str() == STDIN {
            true => std::io::stdin().lock().take(HELD).read_to_end(&mut bytes),
            false => File::open(path)
                .map_err(Error::io(path))?
                .take(HELD)
                .read_to_end(&mut bytes),
        };
        read.map_err(Error::io(path))?;
        let sha256 = sha256_of(&bytes[..]).map_err(Error::io(path))?;
        Ok(Self {
            sha256: Some(sha256),
            ..Self::of_bytes(&name, bytes)?
        })
    }

    /// A file's bytes; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::sniff(name.to_owned(), None, Cursor::new(bytes))
    }

    /// Tells what a reader holds; `file` is the same in a form that can be read anywhere, where there is one.
    fn sniff(name: String, file: Option<File>, mut raw: impl Read + 'static) -> Result<Self> {
        let failed = |e| Error::io(&name)(e);
        let first = head::<32>(&mut raw).map_err(failed)?;
        let kind = Kind::of(&first);
        known(&name, &first)?;
        if let (Kind::Parquet, Some(file)) = (&kind, file) {
            let body = Body::Parquet(Chunks::File(file));
            return Ok(Self {
                name,
                body,
                sha256: None,
            });
        }
        let raw = BufReader::with_capacity(PIECE, Cursor::new(first).chain(raw));
        let mut reader: Box<dyn Read> = match kind {
            Kind::Gzip => Box::new(MultiGzDecoder::new(raw)),
            Kind::Zstd => Box::new(zstd::Decoder::with_buffer(raw).map_err(failed)?),
            Kind::Parquet => return Self::held(name, raw),
            Kind::Other => {
                let body = Body::Text(Box::new(raw));
                return Ok(Self {
                    name,
                    body,
                    sha256: None,
                });
            }
        };
        let first = head::<32>(&mut reader).map_err(|e| unpack(&name, &e))?;
        known(&name, &first)?;
        let is_parquet = matches!(Kind::of(&first), Kind::Parquet);
        let reader = Cursor::new(first).chain(reader);
        if is_parquet {
            return Self::held(name, reader);
        }
        let body = Body::Text(Box::new(reader));
        Ok(Self {
            name,
            body,
            sha256: None,
        })
    }

    /// A Parquet file that cannot be read from anywhere: it is read into memory.
    fn held(name: String, reader: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        reader
            .take(HELD + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| unpack(&name, &e))?;
        if bytes.len() as u64 > HELD {
            return Err(Error::user(format!(
                "{name}: more than {} GiB of Parquet from a pipe or a compressed file: write it to a plain file first",
                HELD >> 30
            )));
        }
        let body = Body::Parquet(Chunks::Bytes(Bytes::from(bytes)));
        Ok(Self {
            name,
            body,
            sha256: None,
        })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a Parquet file.
    #[must_use]
    pub fn is_parquet(&self) -> bool {
        matches!(self.body, Body::Parquet(_))
    }

    /// SHA-256 of its bytes, where it was asked for.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// Calls `f` with every row and its place. Of tables only `columns` are read; rows of JSON have all their fields.
    ///
    /// # Errors
    /// A user error that names the place where the file is malformed, or cut; a table without any of the columns; the errors
    /// of `f`, as they are.
    pub fn each(self, columns: &[&str], f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>) -> Result<()> {
        match self.body {
            Body::Text(reader) => text::each(&self.name, reader, columns, f),
            Body::Parquet(chunks) => parquet::each(&self.name, chunks, columns, f),
        }
    }
}

/// A fault of reading; decompressors say in it what is wrong with their data.
pub(super) fn unpack(name: &str, e: &std::io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match e.kind() {
        InvalidData | InvalidInput | UnexpectedEof | Other => Error::user(format!(
            "{name}: cannot be read to its end: {e}. The file is damaged or cut off: download or compress it again"
        )),
        kind => Error::io(name)(std::io::Error::new(kind, e.to_string())),
    }
}
