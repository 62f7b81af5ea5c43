//! Rows of Parquet files, from the columns that are wanted: what nobody asks for is not decoded.
//!
//! The columns' values come with Parquet's levels, from which [`Node`] puts lists and structures together. Arrow's types are
//! not needed for that: large and view types, dictionaries and the like are the same columns in the file.

mod footer;
mod pages;
mod thrift;

use std::fmt::Display;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::schema::types::{BasicTypeInfo, Type, TypePtr};
use serde_json::{Map, Number, Value};

use self::pages::{Meter, Pages};
use super::place::Place;
use super::row::{Row, opaque};
use super::weight::{self, Expansion, Over, Room};
use crate::error::{Error, Result};
use crate::file::guard::guarded;

/// Rows that are decoded at once, where they are not large.
const BATCH: i64 = 256;
/// Bytes of pages, and items of lists, from which on fewer rows are decoded at once.
const BATCH_BYTES: i64 = 64 << 20;
const BATCH_ITEMS: i64 = 1 << 18;
/// How deep lists and structures may lie in each other.
const DEPTH: usize = 32;
/// Most columns that a message names.
const NAMED: usize = 40;

/// A Parquet file's bytes, which can be read from anywhere.
pub(super) enum Chunks {
    File(File),
    Bytes(Bytes),
}

/// Calls `f` with every row; only `columns` are read.
pub(super) fn each(
    name: &str,
    chunks: Chunks,
    columns: &[&str],
    expansion: &Expansion,
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    match chunks {
        Chunks::File(file) => each_of(name, &Arc::new(file), columns, expansion, f),
        Chunks::Bytes(bytes) => each_of(name, &Arc::new(bytes), columns, expansion, f),
    }
}

fn each_of<R: ChunkReader + 'static>(
    name: &str,
    file: &Arc<R>,
    columns: &[&str],
    expansion: &Expansion,
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let bad = |e: &dyn Display| {
        Error::user(format!(
            "{name}: not a Parquet file that can be read: {e}; download it again if it is damaged"
        ))
    };
    let caught = |e: ParquetError| match e {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(limit) => *limit,
            Err(other) => bad(&other),
        },
        other => bad(&other),
    };
    footer::check(name, &**file, &bad)?;
    let metadata = run(|| ParquetMetaDataReader::new().parse_and_finish(&**file)).map_err(caught)?;
    let schema = metadata.file_metadata().schema_descr().root_schema();
    let mut table = Table::default();
    for field in schema.get_fields() {
        let wanted = columns.contains(&field.name());
        table.add(field, wanted).map_err(caught)?;
    }
    let names: Arc<[String]> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
    if metadata.file_metadata().num_rows() == 0 {
        return Ok(());
    }
    if table.roots.is_empty() {
        let mut have: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
        if have.is_empty() {
            have.push("no columns");
        }
        return Err(Error::user(format!(
            "{name}: none of the columns {} is in this file; it has {}",
            columns.join(", "),
            have.join(", ")
        )));
    }
    let (label, held) = (Arc::from(name), Arc::new(AtomicU64::new(0)));
    let mut number = 0;
    for group in metadata.row_groups() {
        let mut leaves = Vec::with_capacity(table.leaves.len());
        for leaf in &table.leaves {
            let batch = run(|| Batch::open(leaf, &label, file, group, &held, expansion)).map_err(caught)?;
            leaves.push(batch);
        }
        let most = batch(&table, group);
        loop {
            let mut counts = Vec::with_capacity(leaves.len());
            for leaf in &mut leaves {
                counts.push(run(|| leaf.read(most)).map_err(caught)?);
                expansion.values(name, leaf.entries as u64)?;
            }
            let rows = counts.first().copied().unwrap_or(0);
            if counts.iter().any(|n| *n != rows) {
                return Err(bad(&"its columns have different numbers of rows"));
            }
            if rows == 0 {
                break;
            }
            for _ in 0..rows {
                number += 1;
                let place = Place {
                    name,
                    row: number,
                    line: None,
                    by_line: false,
                };
                let (mut fields, mut room) = (Map::new(), Room::default());
                for (column, node) in &table.roots {
                    let value = match node.read(&mut leaves, &mut room) {
                        Ok(value) => value,
                        Err(Stop::Torn) => return Err(bad(&TORN)),
                        Err(Stop::Limit(over)) => return Err(over.at(place)),
                    };
                    fields.insert(column.clone(), value);
                }
                expansion.data(place, room.data())?;
                f(place, Row::of_table(fields, &names, false))?;
            }
            if leaves.iter().any(|leaf| !leaf.is_done()) {
                return Err(bad(&TORN));
            }
        }
    }
    Ok(())
}

const TORN: &str = "the levels of its columns contradict each other";

/// Why a row has no value.
enum Stop {
    /// The columns contradict each other.
    Torn,
    Limit(Over),
}

/// Runs a piece of the decoder. What it does not check in a damaged file makes it panic; here that is a fault of the file.
fn run<T>(f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let caught = |said| Err(ParquetError::General(format!("the decoder failed ({said})")));
    guarded(f).unwrap_or_else(caught)
}

/// How many rows of a group are decoded at once, by what they take in the mean.
fn batch(table: &Table, group: &RowGroupMetaData) -> usize {
    let rows = group.num_rows().max(1);
    let mut most = BATCH;
    for column in table
        .leaves
        .iter()
        .filter_map(|leaf| group.columns().get(leaf.column))
    {
        let bytes = column.uncompressed_size().max(column.compressed_size()) / rows;
        most = most.min(BATCH_BYTES / bytes.max(1));
        most = most.min(BATCH_ITEMS / (column.num_values() / rows).max(1));
    }
    most.max(1) as usize
}

/// The columns that are read.
#[derive(Default)]
struct Table {
    roots: Vec<(String, Node)>,
    leaves: Vec<Leaf>,
    /// Columns of the file so far, wanted or not.
    seen: usize,
}

/// A column of values.
#[derive(Clone)]
struct Leaf {
    /// Its number in the file.
    column: usize,
    /// The definition level of a value.
    def: i16,
    form: Form,
}

/// What a column's values are.
#[derive(Clone)]
enum Form {
    Plain,
    Unsigned,
    /// Digits after the point.
    Decimal(i32),
    Half,
    Uuid,
    /// A type that no row needs, by its name.
    Other(String),
}

/// How values become a field: the levels are those of Dremel's paper.
enum Node {
    /// Which leaf.
    Leaf(usize),
    Struct {
        fields: Vec<(String, Node)>,
        /// The definition level from which it is not null.
        def: i16,
        /// Any leaf in it.
        leaf: usize,
    },
    List {
        item: Box<Node>,
        /// The definition level from which it is not null.
        def: i16,
        /// The definition level from which it has an item.
        filled: i16,
        /// The repetition level of a further item.
        rep: i16,
        /// Any leaf in it.
        leaf: usize,
    },
}

/// The levels above a field.
#[derive(Clone, Copy, Default)]
struct Levels {
    def: i16,
    rep: i16,
}

impl Levels {
    /// The levels within a field.
    fn of(self, info: &BasicTypeInfo) -> Self {
        match (
            info.has_repetition(),
            info.has_repetition().then(|| info.repetition()),
        ) {
            (true, Some(Repetition::OPTIONAL)) => Self {
                def: self.def + 1,
                ..self
            },
            (true, Some(Repetition::REPEATED)) => Self {
                def: self.def + 1,
                rep: self.rep + 1,
            },
            _ => self,
        }
    }
}

impl Table {
    fn add(&mut self, field: &TypePtr, wanted: bool) -> Result<(), ParquetError> {
        if wanted {
            let node = self.node(field, Levels::default(), 0)?;
            self.roots
                .extend(node.map(|node| (field.name().to_owned(), node)));
        } else {
            self.seen += leaves(field, 0)?;
        }
        Ok(())
    }

    /// `None` for a structure without fields.
    fn node(&mut self, field: &Type, above: Levels, depth: usize) -> Result<Option<Node>, ParquetError> {
        check_depth(depth)?;
        let info = field.get_basic_info();
        let levels = above.of(info);
        let repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
        let node = match field {
            Type::PrimitiveType { .. } => {
                let column = self.seen;
                self.seen += 1;
                self.leaves.push(Leaf {
                    column,
                    def: levels.def,
                    form: form(field),
                });
                Some(Node::Leaf(self.leaves.len() - 1))
            }
            Type::GroupType { fields, .. } => match (is_list(info), &fields[..]) {
                (true, [inner]) if is_repeated(inner) => self.list(field.name(), inner, levels, depth)?,
                _ => {
                    let mut nodes = Vec::with_capacity(fields.len());
                    for inner in fields {
                        let node = self.node(inner, levels, depth + 1)?;
                        nodes.extend(node.map(|node| (inner.name().to_owned(), node)));
                    }
                    nodes
                        .first()
                        .map(|(_, node)| node.leaf())
                        .map(|leaf| Node::Struct {
                            fields: nodes,
                            def: levels.def,
                            leaf,
                        })
                }
            },
        };
        // A repeated field outside of a list is a list that is never null.
        Ok(match node {
            Some(node) if repeated => Some(Node::list(node, above.def, levels)),
            node => node,
        })
    }

    /// The list whose only child is `inner`, by the format's rules for lists of older writers.
    fn list(
        &mut self,
        name: &str,
        inner: &Type,
        levels: Levels,
        depth: usize,
    ) -> Result<Option<Node>, ParquetError> {
        check_depth(depth)?;
        let within = levels.of(inner.get_basic_info());
        let is_item = |fields: &[TypePtr]| {
            fields.len() != 1 || inner.name() == "array" || inner.name() == format!("{name}_tuple")
        };
        let item = match inner {
            Type::GroupType { fields, .. } if !is_item(fields) => self.node(&fields[0], within, depth + 1)?,
            // The item is the repeated field itself, whose node is a list already.
            _ => match self.node(inner, levels, depth + 1)? {
                Some(Node::List { item, .. }) => Some(*item),
                other => other,
            },
        };
        Ok(item.map(|item| Node::list(item, levels.def, within)))
    }
}

fn check_depth(depth: usize) -> Result<(), ParquetError> {
    if depth > DEPTH {
        return Err(ParquetError::General(format!(
            "columns nested more than {DEPTH} deep"
        )));
    }
    Ok(())
}

/// The columns of a field that is not read.
fn leaves(field: &Type, depth: usize) -> Result<usize, ParquetError> {
    check_depth(depth)?;
    match field {
        Type::PrimitiveType { .. } => Ok(1),
        Type::GroupType { fields, .. } => fields.iter().map(|f| leaves(f, depth + 1)).sum(),
    }
}

fn is_repeated(field: &Type) -> bool {
    let info = field.get_basic_info();
    info.has_repetition() && info.repetition() == Repetition::REPEATED
}

fn is_list(info: &BasicTypeInfo) -> bool {
    info.logical_type_ref() == Some(&LogicalType::List) || info.converted_type() == ConvertedType::LIST
}

fn form(field: &Type) -> Form {
    let Type::PrimitiveType {
        basic_info,
        physical_type,
        type_length,
        scale,
        ..
    } = field
    else {
        return Form::Plain;
    };
    let physical = || match physical_type {
        Physical::FIXED_LEN_BYTE_ARRAY => format!("FIXED_LEN_BYTE_ARRAY({type_length})"),
        other => format!("{other}"),
    };
    let logical = basic_info.logical_type_ref();
    match (logical, basic_info.converted_type()) {
        (Some(LogicalType::Integer(t)), _) if !t.is_signed => Form::Unsigned,
        (Some(LogicalType::Decimal(t)), _) => Form::Decimal(t.scale),
        (Some(LogicalType::Float16), _) => Form::Half,
        (Some(LogicalType::Uuid), _) => Form::Uuid,
        (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => Form::Other("a DATE".into()),
        (Some(LogicalType::Time(_)), _) | (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => {
            Form::Other("a TIME".into())
        }
        (Some(LogicalType::Timestamp(_)), _)
        | (_, ConvertedType::TIMESTAMP_MILLIS | ConvertedType::TIMESTAMP_MICROS) => {
            Form::Other("a TIMESTAMP".into())
        }
        (Some(LogicalType::Bson), _) | (_, ConvertedType::BSON) => Form::Other("BSON".into()),
        (_, ConvertedType::INTERVAL) => Form::Other("an INTERVAL".into()),
        (_, ConvertedType::DECIMAL) => Form::Decimal(*scale),
        (
            _,
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64,
        ) => Form::Unsigned,
        (Some(LogicalType::Geometry(_) | LogicalType::Geography(_) | LogicalType::Variant(_)), _) => {
            Form::Other(format!("binary data ({})", physical()))
        }
        _ if *physical_type == Physical::INT96 => Form::Other("an INT96 timestamp".into()),
        _ => Form::Plain,
    }
}

impl Node {
    fn list(item: Node, def: i16, within: Levels) -> Self {
        Self::List {
            leaf: item.leaf(),
            item: Box::new(item),
            def,
            filled: within.def,
            rep: within.rep,
        }
    }

    fn leaf(&self) -> usize {
        match self {
            Self::Leaf(leaf) | Self::Struct { leaf, .. } | Self::List { leaf, .. } => *leaf,
        }
    }

    /// Takes the value that the columns stand at.
    fn read(&self, columns: &mut [Batch], room: &mut Room) -> Result<Value, Stop> {
        let at = |columns: &[Batch], leaf: usize| columns.get(leaf).and_then(Batch::levels).ok_or(Stop::Torn);
        match self {
            Self::Leaf(leaf) => columns.get_mut(*leaf).ok_or(Stop::Torn)?.next(room),
            Self::Struct { fields, def, leaf } => {
                let is_null = at(columns, *leaf)?.def < *def;
                let mut values = Map::new();
                room.take(weight::OBJECT)?;
                for (name, node) in fields {
                    let value = node.read(columns, room)?;
                    if !is_null {
                        room.take(weight::FIELD + name.len() as u64)?;
                        values.insert(name.clone(), value);
                    }
                }
                Ok(if is_null {
                    Value::Null
                } else {
                    Value::Object(values)
                })
            }
            Self::List {
                item,
                def,
                filled,
                rep,
                leaf,
            } => {
                let first = at(columns, *leaf)?.def;
                if first < *filled {
                    item.read(columns, room)?;
                    return Ok(if first < *def {
                        Value::Null
                    } else {
                        Value::Array(Vec::new())
                    });
                }
                let mut items = vec![item.read(columns, room)?];
                while at(columns, *leaf).is_ok_and(|l| l.rep == *rep) {
                    items.push(item.read(columns, room)?);
                }
                Ok(Value::Array(items))
            }
        }
    }
}

/// Some rows of a column: their levels and their values.
struct Batch {
    leaf: Leaf,
    source: Box<dyn Column>,
    meter: Arc<Meter>,
    defs: Vec<i16>,
    reps: Vec<i16>,
    /// How many entries there are, and how many were taken.
    entries: usize,
    at: usize,
}

/// A column's values, whatever their type.
trait Column {
    /// Reads rows and the levels of their entries; how many of both.
    fn read(
        &mut self,
        rows: usize,
        defs: &mut Vec<i16>,
        reps: &mut Vec<i16>,
    ) -> Result<(usize, usize), ParquetError>;

    /// Takes the next value. It is made only now, since a dictionary makes large ones out of little.
    fn next(&mut self, form: &Form, room: &mut Room) -> Result<Value, Stop>;

    /// Whether every value was taken.
    fn is_done(&self) -> bool;
}

/// A reader of one physical type, and how its values are taken.
struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    at: usize,
    value: fn(&Form, &T::T) -> Value,
    /// Bytes of a value that has any number of them.
    length: fn(&T::T) -> usize,
}

impl<T: DataType> Typed<T> {
    fn new(reader: ColumnReaderImpl<T>, value: fn(&Form, &T::T) -> Value) -> Self {
        Self {
            reader,
            values: Vec::new(),
            at: 0,
            value,
            length: |_| 0,
        }
    }
}

impl<T: DataType> Column for Typed<T> {
    fn read(
        &mut self,
        rows: usize,
        defs: &mut Vec<i16>,
        reps: &mut Vec<i16>,
    ) -> Result<(usize, usize), ParquetError> {
        self.values.clear();
        self.at = 0;
        let (rows, _, entries) = self
            .reader
            .read_records(rows, Some(defs), Some(reps), &mut self.values)?;
        Ok((rows, entries))
    }

    fn next(&mut self, form: &Form, room: &mut Room) -> Result<Value, Stop> {
        let value = self.values.get(self.at).ok_or(Stop::Torn)?;
        room.text((self.length)(value))?;
        self.at += 1;
        Ok((self.value)(form, value))
    }

    fn is_done(&self) -> bool {
        self.at == self.values.len()
    }
}

impl From<Over> for Stop {
    fn from(limit: Over) -> Self {
        Self::Limit(limit)
    }
}

impl Batch {
    /// The column of a row group.
    fn open<R: ChunkReader + 'static>(
        leaf: &Leaf,
        name: &Arc<str>,
        file: &Arc<R>,
        group: &RowGroupMetaData,
        held: &Arc<AtomicU64>,
        expansion: &Expansion,
    ) -> Result<Self, ParquetError> {
        let missing = || ParquetError::General(format!("a row group has no column {}", leaf.column));
        let chunk = group.columns().get(leaf.column).ok_or_else(missing)?;
        let meter = Meter::new(held);
        let pages = Pages::new(name, file, chunk, &meter, expansion)?;
        let reader = get_column_reader(chunk.column_descr_ptr(), Box::new(pages));
        Ok(Self {
            leaf: leaf.clone(),
            source: column(reader),
            meter,
            defs: Vec::new(),
            reps: Vec::new(),
            entries: 0,
            at: 0,
        })
    }

    /// Reads the next rows, at most so many; how many they are.
    fn read(&mut self, rows: usize) -> Result<usize, ParquetError> {
        self.defs.clear();
        self.reps.clear();
        self.meter.begin();
        let (rows, entries) = self.source.read(rows, &mut self.defs, &mut self.reps)?;
        (self.entries, self.at) = (entries, 0);
        Ok(rows)
    }

    /// The levels of the next entry; a column without levels has the highest.
    fn levels(&self) -> Option<Levels> {
        (self.at < self.entries).then(|| Levels {
            def: self.defs.get(self.at).copied().unwrap_or(self.leaf.def),
            rep: self.reps.get(self.at).copied().unwrap_or(0),
        })
    }

    fn next(&mut self, room: &mut Room) -> Result<Value, Stop> {
        let levels = self.levels().ok_or(Stop::Torn)?;
        self.at += 1;
        room.take(weight::ITEM)?;
        match levels.def < self.leaf.def {
            true => Ok(Value::Null),
            false => self.source.next(&self.leaf.form, room),
        }
    }

    fn is_done(&self) -> bool {
        self.at == self.entries && self.source.is_done()
    }
}

/// The values that a reader reads.
fn column(reader: ColumnReader) -> Box<dyn Column> {
    use ColumnReader as C;
    match reader {
        C::BoolColumnReader(reader) => Box::new(Typed::new(reader, |_, v| Value::Bool(*v))),
        C::Int32ColumnReader(reader) => Box::new(Typed::new(reader, |form, v| {
            integer(form, i64::from(*v), u64::from(v.cast_unsigned()))
        })),
        C::Int64ColumnReader(reader) => {
            Box::new(Typed::new(reader, |form, v| integer(form, *v, v.cast_unsigned())))
        }
        C::Int96ColumnReader(reader) => Box::new(Typed::new(reader, |form, _| match form {
            Form::Other(what) => opaque(what.as_str()),
            _ => opaque("an INT96 timestamp"),
        })),
        C::FloatColumnReader(reader) => Box::new(Typed::new(reader, |_, v| float(f64::from(*v)))),
        C::DoubleColumnReader(reader) => Box::new(Typed::new(reader, |_, v| float(*v))),
        C::ByteArrayColumnReader(reader) => Box::new(Typed {
            length: ByteArray::len,
            ..Typed::new(reader, |form, v| bytes(form, v.data(), "BYTE_ARRAY"))
        }),
        C::FixedLenByteArrayColumnReader(reader) => Box::new(Typed {
            length: |v: &FixedLenByteArray| v.len(),
            ..Typed::new(reader, |form, v| bytes(form, v.data(), "FIXED_LEN_BYTE_ARRAY"))
        }),
    }
}

fn integer(form: &Form, signed: i64, unsigned: u64) -> Value {
    match form {
        Form::Unsigned => unsigned.into(),
        Form::Decimal(scale) => float(signed as f64 / 10f64.powi(*scale)),
        Form::Other(what) => opaque(what.as_str()),
        _ => signed.into(),
    }
}

fn float(x: f64) -> Value {
    match Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => opaque("NaN"),
        None if x > 0.0 => opaque("Infinity"),
        None => opaque("-Infinity"),
    }
}

/// Bytes: a text where they are one.
fn bytes(form: &Form, data: &[u8], physical: &str) -> Value {
    match (form, data) {
        (Form::Other(what), _) => return opaque(what.as_str()),
        (Form::Half, &[a, b]) => return float(half::f16::from_le_bytes([a, b]).to_f64()),
        (Form::Decimal(scale), data) if (1..=16).contains(&data.len()) => {
            // Big-endian, in two's complement.
            let sign = if data[0] & 0x80 == 0 { 0 } else { -1 };
            let unscaled = data.iter().fold(sign, |x: i128, b| (x << 8) | i128::from(*b));
            return float(unscaled as f64 / 10f64.powi(*scale));
        }
        (Form::Uuid, data) if data.len() == 16 => {
            let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            return parts.join("-").into();
        }
        _ => {}
    }
    match std::str::from_utf8(data) {
        Ok(text) => text.into(),
        Err(_) => opaque(format!("binary data that is no UTF-8 text ({physical})")),
    }
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
