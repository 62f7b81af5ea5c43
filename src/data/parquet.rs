//! Rows of Parquet files, from the columns that are wanted: what nobody asks for is not decoded.
//!
//! The columns' values come with Parquet's levels, from which [`Node`] puts lists and structures together. Arrow's types are
//! not needed for that: large and view types, dictionaries and the like are the same columns in the file.

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{BasicTypeInfo, Type, TypePtr};
use serde_json::{Map, Number, Value};

use super::place::Place;
use super::row::{Row, opaque};
use crate::error::{Error, Result};

/// Rows that are decoded at once.
const BATCH: usize = 256;
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
    f: &mut dyn FnMut(Place<'_>, Row) -> Result<()>,
) -> Result<()> {
    let bad = |e: &dyn std::fmt::Display| {
        Error::user(format!(
            "{name}: not a Parquet file that can be read: {e}; download it again if it is damaged"
        ))
    };
    let reader: Box<dyn FileReader> = guarded(|| {
        Ok(match chunks {
            Chunks::File(file) => Box::new(SerializedFileReader::new(file)?) as Box<dyn FileReader>,
            Chunks::Bytes(bytes) => Box::new(SerializedFileReader::new(bytes)?),
        })
    })
    .map_err(|e| bad(&e))?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr().root_schema();
    let mut table = Table::default();
    for field in schema.get_fields() {
        let wanted = columns.contains(&field.name());
        table.add(field, wanted).map_err(|e| bad(&e))?;
    }
    let names: Arc<[String]> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
    if metadata.file_metadata().num_rows() == 0 {
        return Ok(());
    }
    if table.roots.is_empty() {
        let have: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
        return Err(Error::user(format!(
            "{name}: none of the columns {} is in this file; it has {}",
            columns.join(", "),
            have.join(", ")
        )));
    }
    let mut number = 0;
    for group in 0..reader.num_row_groups() {
        let group = guarded(|| reader.get_row_group(group)).map_err(|e| bad(&e))?;
        let mut leaves = Vec::with_capacity(table.leaves.len());
        for leaf in &table.leaves {
            let reader = guarded(|| group.get_column_reader(leaf.column)).map_err(|e| bad(&e))?;
            leaves.push(Batch::new(leaf.clone(), reader));
        }
        loop {
            let mut counts = Vec::with_capacity(leaves.len());
            for leaf in &mut leaves {
                counts.push(guarded(|| leaf.read()).map_err(|e| bad(&e))?);
            }
            let rows = counts.first().copied().unwrap_or(0);
            if counts.iter().any(|n| *n != rows) {
                return Err(bad(&"its columns have different numbers of rows"));
            }
            if rows == 0 {
                break;
            }
            for _ in 0..rows {
                let mut fields = Map::new();
                for (column, node) in &table.roots {
                    let value = node.read(&mut leaves).ok_or_else(|| bad(&TORN))?;
                    fields.insert(column.clone(), value);
                }
                number += 1;
                let place = Place {
                    name,
                    row: number,
                    line: None,
                    by_line: false,
                };
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

thread_local! {
    /// Whether a panic of this thread is caught and becomes an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a piece of the decoder. What it does not check in a damaged file makes it panic; here that is a fault of the file.
fn guarded<T>(f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(false);
    result.unwrap_or_else(|cause| {
        let said = match (cause.downcast_ref::<&str>(), cause.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "unknown".to_owned(),
        };
        Err(ParquetError::General(format!("the decoder failed ({said})")))
    })
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

    /// Takes the value that the columns stand at; `None` where they contradict each other.
    fn read(&self, columns: &mut [Batch]) -> Option<Value> {
        match self {
            Self::Leaf(leaf) => columns.get_mut(*leaf)?.next(),
            Self::Struct { fields, def, leaf } => {
                let is_null = columns.get(*leaf)?.levels()?.def < *def;
                let mut values = Map::new();
                for (name, node) in fields {
                    let value = node.read(columns)?;
                    if !is_null {
                        values.insert(name.clone(), value);
                    }
                }
                Some(if is_null {
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
                let at = columns.get(*leaf)?.levels()?.def;
                if at < *filled {
                    item.read(columns)?;
                    return Some(if at < *def {
                        Value::Null
                    } else {
                        Value::Array(Vec::new())
                    });
                }
                let mut items = vec![item.read(columns)?];
                while columns.get(*leaf)?.levels().is_some_and(|l| l.rep == *rep) {
                    items.push(item.read(columns)?);
                }
                Some(Value::Array(items))
            }
        }
    }
}

/// Some rows of a column: their levels and their values.
struct Batch {
    leaf: Leaf,
    source: Box<dyn ReadBatch>,
    defs: Vec<i16>,
    reps: Vec<i16>,
    values: std::vec::IntoIter<Value>,
    /// How many entries there are, and how many were taken.
    entries: usize,
    at: usize,
}

/// Reads rows of a column: levels into the first two, values as the third; how many rows and entries.
trait ReadBatch {
    fn read(&mut self, leaf: &Leaf, defs: &mut Vec<i16>, reps: &mut Vec<i16>) -> Result<Read, ParquetError>;
}

struct Read {
    rows: usize,
    entries: usize,
    values: Vec<Value>,
}

/// A reader of one physical type, and how its values are taken.
struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    value: fn(&Form, &T::T) -> Value,
}

impl<T: DataType> ReadBatch for Typed<T> {
    fn read(&mut self, leaf: &Leaf, defs: &mut Vec<i16>, reps: &mut Vec<i16>) -> Result<Read, ParquetError> {
        let mut values = Vec::new();
        let (rows, _, entries) = self
            .reader
            .read_records(BATCH, Some(defs), Some(reps), &mut values)?;
        Ok(Read {
            rows,
            entries,
            values: values.iter().map(|v| (self.value)(&leaf.form, v)).collect(),
        })
    }
}

impl Batch {
    fn new(leaf: Leaf, reader: ColumnReader) -> Self {
        use ColumnReader as C;
        let source: Box<dyn ReadBatch> = match reader {
            C::BoolColumnReader(reader) => Box::new(Typed {
                reader,
                value: |_, v| Value::Bool(*v),
            }),
            C::Int32ColumnReader(reader) => Box::new(Typed {
                reader,
                value: |form, v| integer(form, i64::from(*v), u64::from(v.cast_unsigned())),
            }),
            C::Int64ColumnReader(reader) => Box::new(Typed {
                reader,
                value: |form, v| integer(form, *v, v.cast_unsigned()),
            }),
            C::Int96ColumnReader(reader) => Box::new(Typed {
                reader,
                value: |form, _| match form {
                    Form::Other(what) => opaque(what.as_str()),
                    _ => opaque("an INT96 timestamp"),
                },
            }),
            C::FloatColumnReader(reader) => Box::new(Typed {
                reader,
                value: |_, v| float(f64::from(*v)),
            }),
            C::DoubleColumnReader(reader) => Box::new(Typed {
                reader,
                value: |_, v| float(*v),
            }),
            C::ByteArrayColumnReader(reader) => Box::new(Typed {
                reader,
                value: |form, v| bytes(form, v.data(), "BYTE_ARRAY"),
            }),
            C::FixedLenByteArrayColumnReader(reader) => Box::new(Typed {
                reader,
                value: |form, v| bytes(form, v.data(), "FIXED_LEN_BYTE_ARRAY"),
            }),
        };
        Self {
            leaf,
            source,
            defs: Vec::new(),
            reps: Vec::new(),
            values: Vec::new().into_iter(),
            entries: 0,
            at: 0,
        }
    }

    /// Reads the next rows; how many they are.
    fn read(&mut self) -> Result<usize, ParquetError> {
        self.defs.clear();
        self.reps.clear();
        let read = self.source.read(&self.leaf, &mut self.defs, &mut self.reps)?;
        (self.entries, self.at) = (read.entries, 0);
        self.values = read.values.into_iter();
        Ok(read.rows)
    }

    /// The levels of the next entry; a column without levels has the highest.
    fn levels(&self) -> Option<Levels> {
        (self.at < self.entries).then(|| Levels {
            def: self.defs.get(self.at).copied().unwrap_or(self.leaf.def),
            rep: self.reps.get(self.at).copied().unwrap_or(0),
        })
    }

    fn next(&mut self) -> Option<Value> {
        let levels = self.levels()?;
        self.at += 1;
        match levels.def < self.leaf.def {
            true => Some(Value::Null),
            false => self.values.next(),
        }
    }

    fn is_done(&self) -> bool {
        self.at == self.entries && self.values.len() == 0
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
