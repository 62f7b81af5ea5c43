//! What a Parquet footer claims, weighed before the parquet crate believes it.

use std::fmt::Display;

use parquet::file::reader::ChunkReader;

use super::thrift::{Fault, Kind, Thrift};
use crate::error::{Error, Result};
use crate::file::limits::{PARQUET_FOOTER, PARQUET_FOOTER_MEMORY, PARQUET_NESTING};

/// The length of the footer and the magic number, at the end of the file.
const TAIL: u64 = 8;
/// Bytes of memory for an item of a list of structures, a generous guess.
const ITEM: u64 = 512;

/// What a field must be.
enum Shape {
    Int,
    Binary,
    Bool,
    /// A structure of which nothing is known.
    Any,
    Struct(&'static [(i16, Shape)]),
    /// A list; of structures that are counted where they are columns of the schema.
    List(&'static Shape),
    Schema,
}
use Shape as S;

const FILE: &[(i16, Shape)] = &[
    (1, S::Int),
    (2, S::List(&S::Schema)),
    (3, S::Int),
    (4, S::List(&S::Struct(GROUP))),
    (5, S::List(&S::Struct(PAIR))),
    (6, S::Binary),
    (7, S::List(&S::Any)),
    (8, S::Any),
    (9, S::Binary),
];
const GROUP: &[(i16, Shape)] = &[
    (1, S::List(&S::Struct(CHUNK))),
    (2, S::Int),
    (3, S::Int),
    (4, S::List(&S::Any)),
    (5, S::Int),
    (6, S::Int),
    (7, S::Int),
];
const CHUNK: &[(i16, Shape)] = &[
    (1, S::Binary),
    (2, S::Int),
    (3, S::Struct(COLUMN)),
    (4, S::Int),
    (5, S::Int),
    (6, S::Int),
    (7, S::Int),
    (8, S::Any),
    (9, S::Binary),
];
const COLUMN: &[(i16, Shape)] = &[
    (1, S::Int),
    (2, S::List(&S::Int)),
    (3, S::List(&S::Binary)),
    (4, S::Int),
    (5, S::Int),
    (6, S::Int),
    (7, S::Int),
    (8, S::List(&S::Struct(PAIR))),
    (9, S::Int),
    (10, S::Int),
    (11, S::Int),
    (12, S::Struct(STATISTICS)),
    (13, S::List(&S::Any)),
    (14, S::Int),
    (15, S::Int),
    (16, S::Struct(SIZES)),
    (17, S::Any),
];
const STATISTICS: &[(i16, Shape)] = &[
    (1, S::Binary),
    (2, S::Binary),
    (3, S::Int),
    (4, S::Int),
    (5, S::Binary),
    (6, S::Binary),
    (7, S::Bool),
    (8, S::Bool),
];
const SIZES: &[(i16, Shape)] = &[(1, S::Int), (2, S::List(&S::Int)), (3, S::List(&S::Int))];
const PAIR: &[(i16, Shape)] = &[(1, S::Binary), (2, S::Binary)];

/// Checks a file's footer: that its lists are there, its columns are a tree of bounded depth, and what both take of memory.
///
/// # Errors
/// A limit, or what is wrong with the footer.
pub(super) fn check<R: ChunkReader>(name: &str, file: &R, bad: &dyn Fn(&dyn Display) -> Error) -> Result<()> {
    let Some(start) = file.len().checked_sub(TAIL) else {
        return Err(bad(&"it is too short"));
    };
    let tail = file.get_bytes(start, 8).map_err(|e| bad(&e))?;
    let (length, magic) = tail.split_at(4);
    if magic != b"PAR1" {
        return Err(bad(&"it does not end as a Parquet file ends"));
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
    let Some(start) = start.checked_sub(length.into()) else {
        return Err(bad(&format!(
            "its footer is said to have {length} bytes, which the file has not"
        )));
    };
    PARQUET_FOOTER.check(name, length)?;
    let bytes = file.get_bytes(start, length as usize).map_err(|e| bad(&e))?;
    weigh(name, &bytes, bad)
}

/// As [`check`], of a footer's bytes.
fn weigh(name: &str, bytes: &[u8], bad: &dyn Fn(&dyn Display) -> Error) -> Result<()> {
    let mut walk = Walk {
        thrift: Thrift::new(bytes),
        memory: 0,
        most: PARQUET_FOOTER_MEMORY.most(),
        schema: Vec::new(),
    };
    match walk.structure(FILE) {
        Ok(()) => {}
        Err(Stop::Memory) => return Err(PARQUET_FOOTER_MEMORY.exceeded(name)),
        Err(Stop::Fault(Fault::Cut)) => return Err(bad(&"its footer is cut off")),
        Err(Stop::Fault(Fault::Wrong(what))) => return Err(bad(&format!("its footer has {what}"))),
    }
    tree(name, &walk.schema, walk.memory, bad)
}

enum Stop {
    Memory,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A field of the schema, or a group of them.
#[derive(Clone, Copy)]
struct Element {
    /// Bytes of its name.
    name: usize,
    children: i64,
}

struct Walk<'a> {
    thrift: Thrift<'a>,
    memory: u64,
    most: u64,
    schema: Vec<Element>,
}

impl Walk<'_> {
    fn take(&mut self, bytes: u64) -> Result<(), Stop> {
        self.memory += bytes;
        match self.memory > self.most {
            true => Err(Stop::Memory),
            false => Ok(()),
        }
    }

    fn structure(&mut self, shape: &'static [(i16, Shape)]) -> Result<(), Stop> {
        let mut last = 0;
        while let Some((id, kind)) = self.thrift.field(&mut last)? {
            match shape.iter().find(|(known, _)| *known == id) {
                Some((_, shape)) => self.value(shape, kind)?,
                None => self.thrift.skip(kind)?,
            }
        }
        Ok(())
    }

    fn value(&mut self, shape: &'static Shape, kind: Kind) -> Result<(), Stop> {
        match (shape, kind) {
            (S::Int, Kind::Int) | (S::Any, Kind::Struct) => Ok(self.thrift.skip(kind)?),
            (S::Bool, Kind::Bool(_)) => Ok(()),
            (S::Binary, Kind::Binary) => {
                let n = self.thrift.binary()?;
                self.take(n as u64)
            }
            (S::Struct(fields), Kind::Struct) => self.structure(fields),
            (S::Schema, Kind::Struct) => self.element(),
            (S::List(item), Kind::List) => {
                let (kind, n) = self.thrift.list()?;
                let each = match item {
                    S::Int => 8,
                    S::Binary => 32,
                    _ => ITEM,
                };
                for _ in 0..n {
                    self.take(each)?;
                    self.value(item, kind)?;
                }
                Ok(())
            }
            _ => Err(Fault::Wrong("a field of another type than Parquet's").into()),
        }
    }

    /// An element of the schema.
    fn element(&mut self) -> Result<(), Stop> {
        let mut element = Element { name: 0, children: 0 };
        let mut last = 0;
        while let Some((id, kind)) = self.thrift.field(&mut last)? {
            match (id, kind) {
                (4, Kind::Binary) => {
                    element.name = self.thrift.binary()?;
                    self.take(element.name as u64)?;
                }
                (5, Kind::Int) => element.children = self.thrift.int()?,
                (1..=3 | 6..=9, Kind::Int) | (10, Kind::Struct) => self.thrift.skip(kind)?,
                (1..=10, _) => return Err(Fault::Wrong("a field of another type than Parquet's").into()),
                _ => self.thrift.skip(kind)?,
            }
        }
        self.schema.push(element);
        Ok(())
    }
}

/// Checks that the elements, each group before its children, are one tree; every column of it will hold the names of all
/// groups above it.
fn tree(name: &str, schema: &[Element], taken: u64, bad: &dyn Fn(&dyn Display) -> Error) -> Result<()> {
    let wrong = || bad(&"the columns of its schema are no tree");
    // Of every open group the children that are still to come, and the bytes of its path.
    let mut open: Vec<(i64, u64)> = Vec::new();
    let mut memory = taken;
    for (i, element) in schema.iter().enumerate() {
        let above = match open.last_mut() {
            Some((left, path)) => {
                *left -= 1;
                *path
            }
            None if i == 0 => 0,
            None => return Err(wrong()),
        };
        let path = above + element.name as u64 + 32;
        // The root counts for none.
        PARQUET_NESTING.check(name, open.len().saturating_sub(1))?;
        match usize::try_from(element.children) {
            Ok(0) => {
                memory += path;
                PARQUET_FOOTER_MEMORY.check(name, memory)?;
            }
            Ok(n) if n < schema.len() - i => open.push((element.children, path)),
            _ => return Err(wrong()),
        }
        while open.last().is_some_and(|(left, _)| *left == 0) {
            open.pop();
        }
    }
    match open.is_empty() && !schema.is_empty() {
        true => Ok(()),
        false => Err(wrong()),
    }
}
