//! Pages of a column, read within limits: no page is believed about its sizes before they were checked.
//!
//! The parquet crate's own reader decompresses gzip and brotli pages to whatever they unpack to, and makes room for as many
//! values as a header claims. This one hands it pages that hold what they say.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type as Physical};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;
use parquet::schema::types::ColumnDescriptor;

use super::super::weight::Expansion;
use super::thrift::{Fault, Kind, Thrift};
use crate::error::Error;
use crate::file::limits::{PARQUET_ITEMS, PARQUET_PAGE_HEADER, PARQUET_PAGES, ROW};

type Result<T, E = ParquetError> = std::result::Result<T, E>;

/// Bytes that are read of a page's header at first; few have more.
const HEADER: u64 = 128;
/// Bytes of memory for a value of a dictionary.
const ENTRY: u64 = 40;
/// Bytes of memory for the length of a value, of its prefix and its rest.
const LENGTHS: u64 = 8;

fn general(what: impl Into<String>) -> ParquetError {
    ParquetError::General(what.into())
}

/// A limit that a file exceeds, as an error that the parquet crate carries through.
fn limit(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// What the pages take that are in memory: of one column, and of all columns of the file.
#[derive(Default)]
pub(super) struct Meter {
    all: Arc<AtomicU64>,
    /// Of the dictionary.
    dictionary: AtomicU64,
    /// Of the pages that were read since the last batch of rows began, and of the last of them.
    pages: AtomicU64,
    last: AtomicU64,
    /// Entries of the pages that were read since then.
    entries: AtomicU64,
}

impl Meter {
    pub(super) fn new(all: &Arc<AtomicU64>) -> Arc<Self> {
        let mut meter = Self::default();
        meter.all = all.clone();
        Arc::new(meter)
    }

    /// A batch of rows begins: of the pages before, only the last may still be in use.
    pub(super) fn begin(&self) {
        let last = self.last.load(Ordering::Relaxed);
        let pages = self.pages.swap(last, Ordering::Relaxed);
        self.all.fetch_sub(pages - last, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
    }

    fn add(&self, name: &str, bytes: u64) -> Result<()> {
        let all = self.all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PARQUET_PAGES.check(name, all).map_err(limit)
    }

    fn page(&self, bytes: u64) {
        self.pages.fetch_add(bytes, Ordering::Relaxed);
        self.last.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let taken = self.pages.load(Ordering::Relaxed) + self.dictionary.load(Ordering::Relaxed);
        self.all.fetch_sub(taken, Ordering::Relaxed);
    }
}

/// The pages of a column in one row group.
pub(super) struct Pages<R> {
    /// What messages call the file.
    name: Arc<str>,
    file: Arc<R>,
    /// Where the next page's header begins, and where the column ends.
    at: u64,
    end: u64,
    /// The header that begins at `at`, where it was looked at, and its length.
    next: Option<(Header, u64)>,
    codec: Codec,
    physical: Physical,
    width: i32,
    repeated: bool,
    /// Whether values have definition levels, and repetition levels, before them.
    levels: (bool, bool),
    meter: Arc<Meter>,
    /// What all pages unpack to: row groups may share a page.
    expansion: Expansion,
}

impl<R: ChunkReader> Pages<R> {
    /// The pages of a column whose place in the file is checked here.
    pub(super) fn new(
        name: &Arc<str>,
        file: &Arc<R>,
        chunk: &ColumnChunkMetaData,
        meter: &Arc<Meter>,
        expansion: &Expansion,
    ) -> Result<Self> {
        let descr: &ColumnDescriptor = chunk.column_descr();
        let dictionary = chunk.dictionary_page_offset().filter(|at| *at > 0);
        let first = dictionary.map_or(chunk.data_page_offset(), |at| at.min(chunk.data_page_offset()));
        let place = u64::try_from(first)
            .ok()
            .zip(u64::try_from(chunk.compressed_size()).ok());
        let end = place.and_then(|(at, size)| Some((at, at.checked_add(size)?)));
        let Some((at, end)) = end.filter(|(_, end)| *end <= file.len()) else {
            return Err(general(format!(
                "the column {} is said to lie at {first} with {} bytes, but the file has {}",
                descr.path(),
                chunk.compressed_size(),
                file.len()
            )));
        };
        Ok(Self {
            name: name.clone(),
            file: file.clone(),
            at,
            end,
            next: None,
            codec: Codec {
                kind: chunk.compression(),
                zstd: None,
            },
            physical: descr.physical_type(),
            width: descr.type_length(),
            repeated: descr.max_rep_level() > 0,
            levels: (descr.max_def_level() > 0, descr.max_rep_level() > 0),
            meter: meter.clone(),
            expansion: expansion.clone(),
        })
    }

    /// Looks at the next header.
    fn look(&mut self) -> Result<Option<&Header>> {
        while self.next.is_none() {
            let left = self.end - self.at;
            if left == 0 {
                return Ok(None);
            }
            let (header, length) = self.read_header(left)?;
            let room = left - length;
            if header.compressed > room {
                return Err(general(format!(
                    "a page is said to have {} bytes, where its column has {room} more",
                    header.compressed
                )));
            }
            match header.body {
                Body::Index => self.at += length + header.compressed,
                _ => self.next = Some((header, length)),
            }
        }
        Ok(self.next.as_ref().map(|(header, _)| header))
    }

    fn read_header(&self, left: u64) -> Result<(Header, u64)> {
        let mut window = HEADER;
        loop {
            let length = window.min(left);
            let bytes = self.file.get_bytes(self.at, length as usize)?;
            let mut thrift = Thrift::new(&bytes);
            match Header::read(&mut thrift) {
                Ok(header) => return Ok((header, thrift.at() as u64)),
                Err(Fault::Cut) if length < left => {
                    PARQUET_PAGE_HEADER.check(&self.name, window).map_err(limit)?;
                    window *= 16;
                }
                Err(Fault::Cut) => return Err(general("a page's header is cut off")),
                Err(Fault::Wrong(what)) => return Err(general(format!("a page's header has {what}"))),
            }
        }
    }

    fn read(&mut self) -> Result<Option<Page>> {
        self.look()?;
        let Some((header, length)) = self.next.take() else {
            return Ok(None);
        };
        let is_dictionary = matches!(header.body, Body::Dictionary);
        let unpacked = match self.codec.kind {
            Compression::UNCOMPRESSED => 0,
            _ => header.uncompressed,
        };
        let memory = header.compressed + unpacked + self.values(&header)?;
        self.meter.add(&self.name, memory)?;
        match is_dictionary {
            true => _ = self.meter.dictionary.fetch_add(memory, Ordering::Relaxed),
            false => self.meter.page(memory),
        }
        let bytes = self
            .file
            .get_bytes(self.at + length, header.compressed as usize)?;
        self.at += length + header.compressed;
        let bytes = self.unpack(&header, bytes)?;
        self.expansion
            .unpacked(&*self.name, bytes.len() as u64)
            .map_err(limit)?;
        self.check(&header, &bytes)?;
        Ok(Some(header.page(bytes)))
    }

    /// Memory that the decoder will take for each value of a page; refuses what cannot be.
    fn values(&self, header: &Header) -> Result<u64> {
        let n = header.values;
        if self.physical == Physical::BYTE_ARRAY && !self.repeated {
            // The longest value has no fewer bytes than they have in the mean.
            let mean = header.uncompressed / n.max(1);
            ROW.check(&self.name, mean.saturating_sub(4)).map_err(limit)?;
        }
        if matches!(header.body, Body::Dictionary) {
            // Its values are stored plainly.
            let bits = match self.physical {
                Physical::BOOLEAN => 1,
                Physical::INT32 | Physical::FLOAT | Physical::BYTE_ARRAY => 32,
                Physical::INT64 | Physical::DOUBLE => 64,
                Physical::INT96 => 96,
                Physical::FIXED_LEN_BYTE_ARRAY => 8 * u64::try_from(self.width).unwrap_or(0).max(1),
            };
            if n.checked_mul(bits)
                .is_none_or(|bits| bits / 8 > header.uncompressed)
            {
                return Err(general(format!(
                    "a dictionary is said to have {n} values in {} bytes",
                    header.uncompressed
                )));
            }
            return Ok(n * ENTRY);
        }
        if self.repeated {
            PARQUET_ITEMS.check(&self.name, n).map_err(limit)?;
            let entries = self.meter.entries.fetch_add(n, Ordering::Relaxed) + n;
            PARQUET_ITEMS.check(&self.name, entries / 2).map_err(limit)?;
        }
        match header.encoding {
            Encoding::DELTA_BYTE_ARRAY | Encoding::DELTA_LENGTH_BYTE_ARRAY => Ok(n * LENGTHS),
            _ => Ok(0),
        }
    }

    /// A page's bytes, unpacked to as many as its header says and not one more.
    fn unpack(&mut self, header: &Header, bytes: Bytes) -> Result<Bytes> {
        let (plain, packed) = match header.body {
            Body::V2 { packed, .. } => (header.level_bytes()?, packed),
            _ => (0, true),
        };
        if !packed || self.codec.kind == Compression::UNCOMPRESSED {
            return Ok(bytes);
        }
        let size = header.uncompressed as usize;
        if plain > bytes.len() || plain > size {
            return Err(general("a page's levels are longer than the page"));
        }
        let mut out = Vec::with_capacity(size);
        out.extend_from_slice(&bytes[..plain]);
        if size > plain {
            self.codec.unpack(&bytes[plain..], size - plain, &mut out)?;
        }
        if out.len() != size {
            return Err(general(format!(
                "a page unpacks to {} bytes, where its header says {size}",
                out.len()
            )));
        }
        Ok(out.into())
    }

    /// What only the page's own bytes tell: how many values they claim, and what those share.
    fn check(&mut self, header: &Header, bytes: &Bytes) -> Result<()> {
        let deltas = matches!(
            header.encoding,
            Encoding::DELTA_BYTE_ARRAY | Encoding::DELTA_LENGTH_BYTE_ARRAY
        );
        if !deltas || matches!(header.body, Body::Dictionary) {
            return Ok(());
        }
        let values = bytes
            .get(self.levels_end(header, bytes)?..)
            .ok_or_else(|| general("a page ends before its values"))?;
        let mut claimed = 0;
        let shared = prefixes(
            values,
            &mut |n| claimed = n,
            header.encoding == Encoding::DELTA_BYTE_ARRAY,
        )
        .ok_or_else(|| general("the lengths of a page's values are damaged"))?;
        if claimed > header.values {
            return Err(general(format!(
                "a page is said to have {} values and {claimed}",
                header.values
            )));
        }
        self.meter.add(&self.name, shared)?;
        self.meter.pages.fetch_add(shared, Ordering::Relaxed);
        self.meter.last.fetch_add(shared, Ordering::Relaxed);
        Ok(())
    }

    /// Where a page's levels end.
    fn levels_end(&self, header: &Header, bytes: &[u8]) -> Result<usize> {
        if let Body::V2 { .. } = header.body {
            return header.level_bytes();
        }
        let mut at = 0usize;
        for present in [self.levels.1, self.levels.0] {
            if present {
                let length = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
                let length = length.ok_or_else(|| general("a page ends before its levels"))?;
                at = at.saturating_add(4 + u32::from_le_bytes(*length) as usize);
            }
        }
        Ok(at)
    }
}

impl<R: ChunkReader> Iterator for Pages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl<R: ChunkReader> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.read()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.look()?.map(|header| PageMetadata {
            num_rows: match header.body {
                Body::V2 { rows, .. } => Some(rows as usize),
                _ => None,
            },
            num_levels: Some(header.values as usize),
            is_dict: matches!(header.body, Body::Dictionary),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.look()?;
        if let Some((header, length)) = self.next.take() {
            self.at += length + header.compressed;
        }
        Ok(())
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        // Pages of the second version begin with a row.
        Ok(self
            .look()?
            .is_none_or(|next| matches!(next.body, Body::V2 { .. })))
    }
}

/// A page's header.
struct Header {
    compressed: u64,
    uncompressed: u64,
    values: u64,
    encoding: Encoding,
    body: Body,
}

enum Body {
    V1 {
        def: Encoding,
        rep: Encoding,
    },
    V2 {
        nulls: u32,
        rows: u32,
        def: u32,
        rep: u32,
        packed: bool,
    },
    Dictionary,
    Index,
}

/// The numbers of the fields of a page's header that hold the header of its type.
const BODIES: [i16; 4] = [5, 6, 7, 8];

impl Header {
    fn read(thrift: &mut Thrift<'_>) -> Result<Self, Fault> {
        const MISSING: Fault = Fault::Wrong("a field too few");
        let (mut numbers, mut bodies) = ([None; 3], [const { None::<Numbers> }; 4]);
        let mut last = 0;
        while let Some((id, kind)) = thrift.field(&mut last)? {
            match (id, kind) {
                (1..=3, Kind::Int) => numbers[id as usize - 1] = Some(thrift.int()?),
                (5..=8, Kind::Struct) => bodies[id as usize - 5] = Some(Numbers::read(thrift)?),
                (1..=8, _) if id != 4 => return Err(Fault::Wrong("a field of another type than Parquet's")),
                _ => thrift.skip(kind)?,
            }
        }
        let [kind, uncompressed, compressed] = numbers;
        let size = |n: Option<i64>| {
            let n = i32::try_from(n.ok_or(MISSING)?).ok();
            let n = n.and_then(|n| u64::try_from(n).ok());
            n.ok_or(Fault::Wrong("a size that is none"))
        };
        let body = |id: i16| {
            let at = BODIES.iter().position(|known| *known == id);
            at.and_then(|at| bodies[at].as_ref()).ok_or(MISSING)
        };
        let (values, encoding, body) = match kind.ok_or(MISSING)? {
            0 => {
                let b = body(5)?;
                let (def, rep) = (b.encoding(3)?, b.encoding(4)?);
                (b.count(1)?, b.encoding(2)?, Body::V1 { def, rep })
            }
            2 => {
                let b = body(7)?;
                (b.count(1)?, b.encoding(2)?, Body::Dictionary)
            }
            3 => {
                let b = body(8)?;
                let v2 = Body::V2 {
                    nulls: b.count(2)?,
                    rows: b.count(3)?,
                    def: b.count(5)?,
                    rep: b.count(6)?,
                    packed: b.packed,
                };
                (b.count(1)?, b.encoding(4)?, v2)
            }
            _ => (0, Encoding::PLAIN, Body::Index),
        };
        Ok(Self {
            compressed: size(compressed)?,
            uncompressed: size(uncompressed)?,
            values: values.into(),
            encoding,
            body,
        })
    }

    /// Bytes of the levels before the values of a page of the second version.
    fn level_bytes(&self) -> Result<usize> {
        match self.body {
            Body::V2 { def, rep, .. } if u64::from(def) + u64::from(rep) <= self.uncompressed => {
                Ok(def as usize + rep as usize)
            }
            Body::V2 { .. } => Err(general("a page's levels are longer than the page")),
            _ => Ok(0),
        }
    }

    fn page(self, buf: Bytes) -> Page {
        // A count is at most 2³¹ − 1.
        let (num_values, encoding) = (self.values as u32, self.encoding);
        match self.body {
            Body::V1 { def, rep } => Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding: def,
                rep_level_encoding: rep,
                statistics: None,
            },
            Body::V2 {
                nulls,
                rows,
                def,
                rep,
                packed,
            } => Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls: nulls,
                num_rows: rows,
                def_levels_byte_len: def,
                rep_levels_byte_len: rep,
                is_compressed: packed,
                statistics: None,
            },
            Body::Dictionary | Body::Index => Page::DictionaryPage {
                buf,
                num_values,
                encoding,
                is_sorted: false,
            },
        }
    }
}

/// The whole numbers of the header of a page's type, by the number of their field.
struct Numbers {
    fields: [Option<i64>; 7],
    packed: bool,
}

impl Numbers {
    fn read(thrift: &mut Thrift<'_>) -> Result<Self, Fault> {
        let mut numbers = Self {
            fields: [None; 7],
            packed: true,
        };
        let mut last = 0;
        while let Some((id, kind)) = thrift.field(&mut last)? {
            match (usize::try_from(id), kind) {
                (Ok(id @ 1..=6), Kind::Int) => numbers.fields[id] = Some(thrift.int()?),
                (Ok(7), Kind::Bool(packed)) => numbers.packed = packed,
                _ => thrift.skip(kind)?,
            }
        }
        Ok(numbers)
    }

    fn count(&self, id: usize) -> Result<u32, Fault> {
        let n = self.fields[id].and_then(|n| i32::try_from(n).ok());
        let n = n.and_then(|n| u32::try_from(n).ok());
        n.ok_or(Fault::Wrong("a number of values that is none"))
    }

    fn encoding(&self, id: usize) -> Result<Encoding, Fault> {
        #[expect(deprecated, reason = "old files have levels of it")]
        let bits = Encoding::BIT_PACKED;
        Ok(match self.fields[id] {
            Some(0) => Encoding::PLAIN,
            Some(2) => Encoding::PLAIN_DICTIONARY,
            Some(3) => Encoding::RLE,
            Some(4) => bits,
            Some(5) => Encoding::DELTA_BINARY_PACKED,
            Some(6) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            Some(7) => Encoding::DELTA_BYTE_ARRAY,
            Some(8) => Encoding::RLE_DICTIONARY,
            Some(9) => Encoding::BYTE_STREAM_SPLIT,
            _ => return Err(Fault::Wrong("an encoding that is not supported")),
        })
    }
}

/// How the pages of a column are compressed.
struct Codec {
    kind: Compression,
    /// Made for the first page, kept for the next.
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Codec {
    /// Appends what `packed` unpacks to, `size` bytes and not many more.
    fn unpack(&mut self, packed: &[u8], size: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        // One byte more shows that there is more.
        let mut read = |reader: &mut dyn Read| -> Result<()> {
            reader.take(size as u64 + 1).read_to_end(out)?;
            Ok(())
        };
        match self.kind {
            Compression::UNCOMPRESSED => out.extend_from_slice(packed),
            Compression::GZIP(_) => read(&mut flate2::read::MultiGzDecoder::new(packed))?,
            Compression::BROTLI(_) => read(&mut brotli::Decompressor::new(packed, size.clamp(1, 1 << 16)))?,
            Compression::ZSTD(_) => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    empty => empty.insert(zstd::bulk::Decompressor::new()?),
                };
                out.reserve_exact(size);
                let mut rest = std::io::Cursor::new(out);
                rest.set_position(start as u64);
                zstd.decompress_to_buffer(packed, &mut rest)?;
            }
            Compression::SNAPPY => {
                out.resize(start + size, 0);
                let n = snap::raw::Decoder::new().decompress(packed, &mut out[start..]);
                let n = n.map_err(|e| ParquetError::External(Box::new(e)))?;
                out.truncate(start + n);
            }
            Compression::LZ4_RAW => {
                out.resize(start + size, 0);
                lz4(packed, &mut out[start..])?;
            }
            Compression::LZ4 => {
                out.resize(start + size, 0);
                // Three writers mean three things by it: Hadoop's frames, LZ4's own, and none.
                if hadoop(packed, &mut out[start..]).is_none() {
                    out.truncate(start);
                    let frames = lz4_flex::frame::FrameDecoder::new(packed);
                    let whole = frames.take(size as u64 + 1).read_to_end(out);
                    if whole.is_err() {
                        out.truncate(start);
                        out.resize(start + size, 0);
                        lz4(packed, &mut out[start..])?;
                    }
                }
            }
            Compression::LZO => return Err(general("compressed with LZO, which is not supported")),
        }
        Ok(())
    }
}

fn lz4(packed: &[u8], out: &mut [u8]) -> Result<()> {
    match lz4_flex::block::decompress_into(packed, out) {
        Ok(n) if n == out.len() => Ok(()),
        Ok(n) => Err(general(format!("a page unpacks to {n} bytes of {}", out.len()))),
        Err(e) => Err(ParquetError::External(Box::new(e))),
    }
}

/// Unpacks Hadoop's frames, which are two lengths (big-endian) and a block; `None` where they are something else.
fn hadoop(mut packed: &[u8], mut out: &mut [u8]) -> Option<()> {
    while !packed.is_empty() {
        let (size, rest) = packed.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (size, length) = (u32::from_be_bytes(*size), u32::from_be_bytes(*length));
        let (block, rest) = rest.split_at_checked(length as usize)?;
        let (to, left) = out.split_at_mut_checked(size as usize)?;
        lz4(block, to).ok()?;
        (packed, out) = (rest, left);
    }
    out.is_empty().then_some(())
}

/// The bytes that the values of a page share with the value before, where they are stored as a prefix's length and a rest;
/// `claimed` is told how many values there are said to be. `None` where the lengths are damaged.
fn prefixes(bytes: &[u8], claimed: &mut dyn FnMut(u64), are_prefixes: bool) -> Option<u64> {
    let mut thrift = Thrift::new(bytes);
    let (block, minis, total) = (
        thrift.unsigned().ok()?,
        thrift.unsigned().ok()?,
        thrift.unsigned().ok()?,
    );
    claimed(total);
    let mut value = thrift.int().ok()?;
    if !are_prefixes || total == 0 {
        return Some(0);
    }
    let per_mini = block
        .checked_div(minis)
        .filter(|n| *n > 0 && n.is_multiple_of(8))?;
    let (mut sum, mut left) = (u64::try_from(value).ok()?, total - 1);
    while left > 0 {
        let least = thrift.int().ok()?;
        let widths = thrift.at();
        thrift.pass(minis).ok()?;
        for width in &bytes[widths..thrift.at()] {
            if left == 0 {
                break;
            }
            let (width, data) = (u64::from(*width), &bytes[thrift.at()..]);
            for i in 0..per_mini.min(left) {
                let delta = bits(data, i * width, width)?;
                // The decoder's lengths have 32 bits.
                value = i64::from(value.wrapping_add(least).wrapping_add(delta.cast_signed()) as i32);
                sum = sum.saturating_add(u64::try_from(value).ok()?);
            }
            left -= per_mini.min(left);
            let length = per_mini.checked_mul(width)? / 8;
            // The last one may be cut after its last value.
            thrift.pass(length.min((bytes.len() - thrift.at()) as u64)).ok()?;
        }
    }
    Some(sum)
}

/// `width` bits from bit `start` on, the lowest first.
fn bits(bytes: &[u8], start: u64, width: u64) -> Option<u64> {
    if width > 32 {
        return None;
    }
    if width == 0 {
        return Some(0);
    }
    let first = usize::try_from(start / 8).ok()?;
    let (mut value, mut have) = (0u64, 0);
    for byte in bytes.get(first..)? {
        value |= u64::from(*byte) << have;
        have += 8;
        if have >= width + start % 8 {
            break;
        }
    }
    let value = value >> (start % 8);
    (have >= width + start % 8).then_some(value & ((1 << width) - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The lengths 0, 3, 5 as blocks of 128 in 4: the first value, then deltas from the least.
    #[test]
    fn shared_beginnings_are_counted() {
        // Block 128, 4 miniblocks, 3 values, the first 0; the least delta 2, widths 1 0 0 0; deltas 1, 0.
        let bytes = [0x80, 1, 4, 3, 0, 4, 1, 0, 0, 0, 0b01, 0, 0, 0];
        let mut claimed = 0;
        assert_eq!(prefixes(&bytes, &mut |n| claimed = n, true), Some(8));
        assert_eq!(claimed, 3);
        assert_eq!(prefixes(&bytes[..10], &mut |_| (), true), None);
        assert_eq!(bits(&[0b1010_0000, 0b0000_0011], 5, 5), Some(0b11101));
        assert_eq!(bits(&[1], 5, 5), None);
    }

    #[test]
    fn no_page_unpacks_to_more_than_it_says() {
        use std::io::Write;
        let data = vec![7u8; 1 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&data).unwrap();
        let mut brotli = Vec::new();
        brotli::CompressorWriter::new(&mut brotli, 4096, 1, 22)
            .write_all(&data)
            .unwrap();
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        frame.write_all(&data).unwrap();
        for (kind, packed) in [
            (Compression::GZIP(Default::default()), gzip.finish().unwrap()),
            (Compression::BROTLI(Default::default()), brotli),
            (
                Compression::ZSTD(Default::default()),
                zstd::encode_all(&data[..], 3).unwrap(),
            ),
            (
                Compression::SNAPPY,
                snap::raw::Encoder::new().compress_vec(&data).unwrap(),
            ),
            (Compression::LZ4_RAW, lz4_flex::block::compress(&data)),
            (Compression::LZ4, frame.finish().unwrap()),
        ] {
            let mut codec = Codec { kind, zstd: None };
            let mut out = vec![1, 2];
            codec.unpack(&packed, data.len(), &mut out).unwrap();
            assert!(out[..2] == [1, 2] && out[2..] == data, "{kind}");
            let mut out = Vec::new();
            let less = codec.unpack(&packed, 1000, &mut out);
            assert!(less.is_err() || out.len() != 1000, "{kind}");
            assert!(out.capacity() < data.len() / 2, "{kind}: {}", out.capacity());
        }
    }
}
