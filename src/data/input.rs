//! A data file opened: whatever it is stored in, a regular file or a pipe, plain or compressed. Its first bytes say what it
//! is; its name says nothing.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::parquet::Chunks;
use super::place::Place;
use super::row::Row;
use super::weight::Expansion;
use super::{parquet, text};
use crate::error::{Error, Result};
use crate::file::limits::{HELD, SKIPPED, ZSTD_WINDOW};
use crate::file::open;
use crate::run::checksums::sha256_of;

/// Bytes of a read.
const PIECE: usize = 1 << 18;
/// The name that means standard input.
const STDIN: &str = "-";

/// A data file whose rows are still to be read.
pub struct Input {
    name: String,
    body: Body,
    sha256: Option<String>,
    expansion: Expansion,
}

enum Body {
    /// JSON or CSV.
    Text(Box<dyn Read>),
    /// JSON or CSV, decompressed.
    Unpacked(Box<dyn Read>),
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
fn head<const N: usize>(reader: &mut impl Read) -> io::Result<Vec<u8>> {
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
        Self::open_with(path, &Expansion::default())
    }

    /// As [`Input::open`], counted together with the other files of a directory.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn open_with(path: &Path, expansion: &Expansion) -> Result<Self> {
        if path.as_os_str() == STDIN {
            return Self::sniff("standard input".to_owned(), None, io::stdin().lock(), expansion);
        }
        let name = path.display().to_string();
        if path.is_dir() {
            return Err(Error::user(format!("{name} is a directory: name a file in it")));
        }
        let file = open::regular_or_pipe(path)?;
        let again = file
            .metadata()
            .map_err(Error::io(path))?
            .is_file()
            .then(|| file.try_clone())
            .transpose()
            .map_err(Error::io(path))?;
        Self::sniff(name, again, file, expansion)
    }

    /// As [`Input::open_with`], and hashes the file's bytes. What can be read only once is held in memory.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn open_hashed(path: &Path, expansion: &Expansion) -> Result<Self> {
        let found = std::fs::metadata(path).map(|m| m.file_type());
        if found.is_ok_and(|kind| kind.is_file() || kind.is_dir()) && path.as_os_str() != STDIN {
            let opened = Self::open_with(path, expansion)?;
            let file = open::regular(path)?;
            let sha256 = sha256_of(file).map_err(Error::io(path))?;
            return Ok(Self {
                sha256: Some(sha256),
                ..opened
            });
        }
        let (name, bytes) = match path.as_os_str() == STDIN {
            true => (
                "standard input".to_owned(),
                held("standard input", io::stdin().lock())?,
            ),
            false => {
                let name = path.display().to_string();
                let bytes = held(&name, open::regular_or_pipe(path)?)?;
                (name, bytes)
            }
        };
        let sha256 = sha256_of(&bytes[..]).map_err(Error::io(path))?;
        Ok(Self {
            sha256: Some(sha256),
            ..Self::sniff(name, None, Cursor::new(bytes), expansion)?
        })
    }

    /// A file's bytes; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::sniff(name.to_owned(), None, Cursor::new(bytes), &Expansion::default())
    }

    /// Tells what a reader holds; `file` is the same in a form that can be read anywhere, where there is one.
    fn sniff(
        name: String,
        file: Option<File>,
        mut raw: impl Read + 'static,
        expansion: &Expansion,
    ) -> Result<Self> {
        let failed = |e| Error::io(&name)(e);
        let first = head::<32>(&mut raw).map_err(failed)?;
        let kind = Kind::of(&first);
        known(&name, &first)?;
        let of = |name: String, body: Body| Self {
            name,
            body,
            sha256: None,
            expansion: expansion.clone(),
        };
        if let (Kind::Parquet, Some(file)) = (&kind, file) {
            expansion.read(file.metadata().map_err(Error::io(&name))?.len());
            return Ok(of(name, Body::Parquet(Chunks::File(file))));
        }
        let raw = BufReader::with_capacity(PIECE, Cursor::new(first).chain(raw));
        let packed = Packed {
            empty: Rc::default(),
            expansion: expansion.clone(),
        };
        let mut reader: Box<dyn Read> = match kind {
            Kind::Gzip => Box::new(packed.unpacked(&name, MultiGzDecoder::new(packed.counted(&name, raw)))),
            Kind::Zstd => {
                let raw = packed.counted(&name, raw);
                let mut decoder = zstd::Decoder::with_buffer(raw).map_err(failed)?;
                // What the format has at most: 2 GiB.
                let log = ZSTD_WINDOW.most().max(1).ilog2().min(31);
                decoder.window_log_max(log).map_err(failed)?;
                Box::new(packed.unpacked(&name, decoder))
            }
            Kind::Parquet => {
                let bytes = Bytes::from(held(&name, raw)?);
                expansion.read(bytes.len() as u64);
                return Ok(of(name, Body::Parquet(Chunks::Bytes(bytes))));
            }
            Kind::Other => return Ok(of(name, Body::Text(Box::new(raw)))),
        };
        let first = head::<32>(&mut reader).map_err(|e| unpack(&name, &e))?;
        known(&name, &first)?;
        let is_parquet = matches!(Kind::of(&first), Kind::Parquet);
        let reader = Cursor::new(first).chain(reader);
        let body = match is_parquet {
            // A Parquet file must be read from anywhere: it is read into memory.
            true => Body::Parquet(Chunks::Bytes(Bytes::from(held(&name, reader)?))),
            false => Body::Unpacked(Box::new(reader)),
        };
        Ok(of(name, body))
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
            Body::Unpacked(reader) => text::each(&self.name, reader, columns, &mut |place, row| {
                self.expansion.rows(place, 1)?;
                f(place, row)
            }),
            Body::Parquet(chunks) => parquet::each(&self.name, chunks, columns, &self.expansion, f),
        }
    }
}

/// What a reader holds, which cannot be read twice.
fn held(name: &str, reader: impl Read) -> Result<Vec<u8>> {
    let (mut bytes, most) = (Vec::new(), HELD.most());
    reader
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| unpack(name, &e))?;
    match bytes.len() as u64 > most {
        true => Err(HELD.exceeded(format!("{name} (or write the data to a plain file)"))),
        false => Ok(bytes),
    }
}

/// What is counted of a compressed file.
struct Packed {
    /// Bytes that were read since it last gave data.
    empty: Rc<Cell<u64>>,
    expansion: Expansion,
}

impl Packed {
    /// Counts what a decompressor takes of `raw`.
    fn counted<R: BufRead>(&self, name: &str, raw: R) -> Counted<R> {
        Counted {
            name: name.to_owned(),
            empty: self.empty.clone(),
            expansion: self.expansion.clone(),
            raw,
        }
    }

    /// Counts what a decompressor gives.
    fn unpacked<R: Read>(&self, name: &str, reader: R) -> Unpacked<R> {
        Unpacked {
            name: name.to_owned(),
            empty: self.empty.clone(),
            expansion: self.expansion.clone(),
            reader,
        }
    }
}

/// Compressed bytes. Frames to be skipped and empty members may follow each other without end.
struct Counted<R> {
    name: String,
    empty: Rc<Cell<u64>>,
    expansion: Expansion,
    raw: R,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.empty.get() > SKIPPED.most() {
            return Err(io::Error::other(SKIPPED.exceeded(&self.name)));
        }
        self.raw.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.expansion.read(n as u64);
        self.empty.set(self.empty.get() + n as u64);
        self.raw.consume(n);
    }
}

/// What compressed bytes unpack to.
struct Unpacked<R> {
    name: String,
    empty: Rc<Cell<u64>>,
    expansion: Expansion,
    reader: R,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.empty.set(0);
        let unpacked = self.expansion.unpacked(&self.name, n as u64);
        unpacked.map_err(io::Error::other)?;
        Ok(n)
    }
}

/// A fault of reading; decompressors say in it what is wrong with their data.
pub(super) fn unpack(name: &str, e: &io::Error) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    if let Some(limit) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return Error::user(limit);
    }
    // As libzstd says it.
    if e.to_string().contains("requires too much memory") {
        return ZSTD_WINDOW.exceeded(name);
    }
    match e.kind() {
        InvalidData | InvalidInput | UnexpectedEof | Other => Error::user(format!(
            "{name}: cannot be read to its end: {e}. The file is damaged or cut off: download or compress it again"
        )),
        kind => Error::io(name)(io::Error::new(kind, e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The same bytes again and again.
    struct Endless(Vec<u8>, usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = (&self.0[self.1..]).read(buffer)?;
            self.1 = (self.1 + n) % self.0.len();
            Ok(n)
        }
    }

    fn refused(raw: impl Read + 'static) -> String {
        let read = Input::sniff("f".into(), None, raw, &Expansion::default());
        let error = read.and_then(|input| input.each(&["prompt"], &mut |_, _| Ok(())));
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn what_is_compressed_is_bounded() {
        // Frames to be skipped, a mebibyte each.
        let mut skip = vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0x10, 0];
        skip.resize(8 + (1 << 20), 0);
        let said = refused(Endless(skip, 0));
        assert!(said.starts_with("f: compressed bytes without data"), "{said}");
        // A frame whose window has 256 MiB, then an empty block.
        let said = refused(Cursor::new([0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1, 0, 0]));
        assert!(
            said.starts_with("f: window of a zstd frame") && said.contains("128 MiB"),
            "{said}"
        );
        // Much from little, which would have to be held.
        let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
        io::copy(&mut b"PAR1".chain(io::repeat(0).take(300 << 20)), &mut packed).unwrap();
        let said = refused(Cursor::new(packed.finish().unwrap()));
        assert!(
            said.starts_with("f: data that unpack to more than 1000 times"),
            "{said}"
        );
    }

    #[test]
    fn what_is_many_and_not_packed_tight_is_read() {
        let of = |size, unpacked| {
            let expansion = Expansion::default();
            expansion.read(size);
            expansion.unpacked("f", unpacked)
        };
        assert!(of(1, 256 << 20).is_ok());
        assert!(of(2 << 20, 1 << 30).is_ok());
        assert!(of(1 << 18, 1 << 30).is_err());
    }
}
