//! Parquet files of every writer and codec against what Arrow reads from them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use crate::data::row::shown;
use crate::data::weight::Expansion;
use crate::data::{Input, Row};
use crate::error::Result;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn rows(path: &Path, columns: &[&str]) -> Result<Vec<Row>> {
    let mut out = Vec::new();
    Input::open(path)?.each(columns, &mut |place, row| {
        assert_eq!(place.row, out.len() + 1);
        out.push(row);
        Ok(())
    })?;
    Ok(out)
}

#[test]
fn nested_columns_are_what_arrow_reads() {
    let text = std::fs::read(fixture("nested.json")).unwrap();
    let want: Vec<Value> = serde_json::from_slice(&text).unwrap();
    for name in [
        "snappy",
        "v2-zstd",
        "large-gzip",
        "brotli",
        "lz4",
        "delta",
        "item",
        "duckdb",
    ] {
        let rows = rows(
            &fixture(&format!("nested-{name}.parquet")),
            &["x", "id", "messages"],
        )
        .unwrap();
        assert_eq!(rows.len(), 360, "{name}");
        for (i, row) in rows.iter().enumerate() {
            // Null cells are there as null.
            let fields = row.others(&[]);
            let want = &want[i % want.len()];
            for column in ["id", "messages", "x"] {
                assert_eq!(fields[column], want[column], "{name}: row {}: {column}", i + 1);
            }
        }
    }
}

#[test]
fn columns_that_nobody_reads_are_not_decoded() {
    let read = rows(&fixture("unread.parquet"), &["prompt", "absent"]).unwrap();
    let prompts: Vec<String> = read.iter().map(|r| r.text("prompt").unwrap()).collect();
    assert_eq!(prompts, ["Name a colour.", "Name a fruit."]);
    assert_eq!(read[0].others(&[]).len(), 1);
    // The file's columns are told where one is missing.
    let e = read[0].text("absent").unwrap_err().to_string();
    assert!(e.contains("the file has \"prompt\", \"i\", \"t\""), "{e}");
    // Types that no row needs are named, and harm nobody.
    let read = rows(&fixture("unread.parquet"), &["i", "t", "d", "l"]).unwrap();
    for (column, kind) in [("i", "an INTERVAL"), ("t", "a TIMESTAMP"), ("d", "a DATE")] {
        let e = read[1].text(column).unwrap_err().to_string();
        assert_eq!(e, format!("\"{column}\" must be a string, found {kind}"));
    }
    let e = rows(&fixture("unread.parquet"), &["messages"])
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("unread.parquet") && e.contains("it has prompt, i, t"),
        "{e}"
    );
}

/// Three rows of nothing: the schema has a root and no fields.
#[test]
fn a_file_without_columns_is_said_to_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.parquet");
    let metadata = b"\x15\x02\x19\x1c\x48\x06schema\x15\x00\x00\x16\x06\x19\x0c\x00";
    let length = (metadata.len() as u32).to_le_bytes();
    std::fs::write(&path, [&b"PAR1"[..], metadata, &length, b"PAR1"].concat()).unwrap();
    let e = rows(&path, &["prompt"]).unwrap_err().to_string();
    assert!(
        e.ends_with("none of the columns prompt is in this file; it has no columns"),
        "{e}"
    );
}

#[test]
fn every_type_is_a_value_or_named() {
    let columns = [
        "prompt",
        "messages",
        "fixed",
        "when",
        "half",
        "not_finite",
        "unsigned",
        "decimal",
        "view",
        "category",
    ];
    let rows = rows(&fixture("types.parquet"), &columns).unwrap();
    let (a, b) = (&rows[0], &rows[1]);
    // Bytes that are UTF-8 are text, others are refused by name and type.
    assert_eq!(a.text("prompt").unwrap(), "Name a colour.");
    assert_eq!(a.text("fixed").unwrap(), "abcd");
    let e = a.text("messages").unwrap_err().to_string();
    assert_eq!(
        e,
        "\"messages\" must be a string, found binary data that is no UTF-8 text (BYTE_ARRAY)"
    );
    assert!(
        b.text("fixed")
            .unwrap_err()
            .to_string()
            .contains("FIXED_LEN_BYTE_ARRAY")
    );
    assert_eq!(b.text("category").unwrap(), "Name a fruit.");
    assert_eq!(b.text("view").unwrap(), "Name a fruit.");
    assert_eq!((a.number("half").unwrap(), b.get("half")), (1.5, None));
    assert_eq!(
        (a.number("decimal").unwrap(), b.number("decimal").unwrap()),
        (-1.25, 3.0)
    );
    assert_eq!(a.get("unsigned").unwrap().as_u64(), Some(u64::MAX));
    assert_eq!(shown(b.get("not_finite").unwrap()), "-Infinity");
    let e = a.number("not_finite").unwrap_err().to_string();
    assert_eq!(e, "\"not_finite\" must be a finite number, found NaN");
    assert!(a.text("when").unwrap_err().to_string().contains("a TIMESTAMP"));
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("torn.parquet");
    for name in [
        "nested-snappy.parquet",
        "nested-delta.parquet",
        "nested-brotli.parquet",
        "types.parquet",
    ] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for cut in [4, 8, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let e = rows(&path, &["prompt", "messages"]).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            let said = e.to_string();
            assert!(
                said.contains("torn.parquet") && said.contains("download it again"),
                "{said}"
            );
        }
        // One byte in many places: whatever comes out, the program goes on.
        for at in (0..whole.len()).step_by(whole.len() / 150) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let input = Input::of_bytes("f", bytes);
            let read = input.and_then(|i| i.each(&["id", "prompt", "messages", "x"], &mut |_, _| Ok(())));
            assert!(read.is_ok() || read.unwrap_err().exit_code() == 2);
        }
    }
}

/// Writes Thrift's compact protocol.
#[derive(Clone, Default)]
struct Thrift(Vec<u8>, u8);

impl Thrift {
    fn number(&mut self, mut n: u64) {
        while n > 127 {
            self.0.push(n as u8 | 128);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn field(mut self, id: u8, kind: u8) -> Self {
        self.0.push((id - self.1) << 4 | kind);
        self.1 = id;
        self
    }

    fn int(self, id: u8, n: i64) -> Self {
        let mut field = self.field(id, 6);
        field.number((n << 1 ^ n >> 63) as u64);
        field
    }

    fn text(self, id: u8, text: &str) -> Self {
        let mut field = self.field(id, 8);
        field.number(text.len() as u64);
        field.0.extend(text.as_bytes());
        field
    }

    fn list(self, id: u8, claimed: usize, kind: u8, items: &[Vec<u8>]) -> Self {
        let mut field = self.field(id, 9);
        field.0.push(0xf0 | kind);
        field.number(claimed as u64);
        field.0.extend(items.concat());
        field
    }

    fn structure(self, id: u8, inner: Vec<u8>) -> Self {
        let mut field = self.field(id, 12);
        field.0.extend(inner);
        field
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(0);
        self.0
    }
}

fn group(name: &str, children: i64) -> Vec<u8> {
    Thrift::default().int(3, 1).text(4, name).int(5, children).end()
}

fn leaf(name: &str) -> Vec<u8> {
    Thrift::default().int(1, 6).int(3, 0).text(4, name).end()
}

fn file(pages: &[u8], footer: &[u8]) -> Vec<u8> {
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", pages, footer, &length, b"PAR1"].concat()
}

fn of_schema(schema: &[Vec<u8>]) -> Vec<u8> {
    let footer = Thrift::default()
        .int(1, 1)
        .list(2, schema.len(), 12, schema)
        .int(3, 1)
        .list(4, 0, 12, &[]);
    file(&[], &footer.end())
}

/// A file of one text column whose only page has this header, at `at`, compressed by `codec`.
fn of_page(header: Vec<u8>, codec: i64, at: i64, size: i64) -> Vec<u8> {
    let pages = [header, vec![0; 64]].concat();
    let column = Thrift::default()
        .int(1, 6)
        .list(2, 0, 5, &[])
        .list(3, 1, 8, &[b"\x06prompt".to_vec()])
        .int(4, codec)
        .int(5, 1)
        .int(6, size)
        .int(7, size)
        .int(9, at);
    let chunk = Thrift::default().int(2, 4).structure(3, column.end()).end();
    let rows = Thrift::default()
        .list(1, 1, 12, &[chunk])
        .int(2, 64)
        .int(3, 1)
        .end();
    let footer = Thrift::default()
        .int(1, 1)
        .list(2, 2, 12, &[group("root", 1), leaf("prompt")])
        .int(3, 1)
        .list(4, 1, 12, &[rows]);
    file(&pages, &footer.end())
}

fn page(kind: i64, unpacked: i64, packed: i64, values: i64) -> Vec<u8> {
    let header = Thrift::default().int(1, kind).int(2, unpacked).int(3, packed);
    let of_kind = Thrift::default().int(1, values).int(2, 0);
    match kind {
        0 => header.structure(5, of_kind.int(3, 3).int(4, 3).end()),
        _ => header.structure(7, of_kind.end()),
    }
    .end()
}

fn refused(bytes: Vec<u8>) -> String {
    let read = Input::of_bytes("f", bytes).and_then(|input| input.each(&["prompt"], &mut |_, _| Ok(())));
    let error = read.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn a_footer_is_weighed_before_it_is_believed() {
    let most = i64::from(i32::MAX);
    let deep = |n| {
        let groups = std::iter::repeat_n(group("g", 1), n);
        [vec![group("root", 1)], groups.collect(), vec![leaf("prompt")]].concat()
    };
    // So deep is read (and holds no rows), one more is not.
    let none = Input::of_bytes("f", of_schema(&deep(32))).unwrap();
    assert!(none.each(&["g"], &mut |_, _| Ok(())).is_ok());
    let said = refused(of_schema(&deep(33)));
    assert!(said.contains("nesting of Parquet columns"), "{said}");
    assert!(refused(of_schema(&deep(100_000))).contains("nesting of Parquet columns"));
    for schema in [
        vec![group("root", most), leaf("prompt")],
        vec![group("root", -1), leaf("prompt")],
        vec![group("root", 2), leaf("prompt")],
        vec![group("root", 1), leaf("prompt"), leaf("more")],
        vec![],
    ] {
        assert!(refused(of_schema(&schema)).contains("no tree"));
    }
    // A name above many columns is copied into the path of each.
    let mut wide = vec![group("root", 1), group(&"n".repeat(1 << 16), 10_000)];
    wide.extend(std::iter::repeat_n(leaf("x"), 10_000));
    assert!(refused(of_schema(&wide)).contains("memory of a Parquet footer"));
    let claims = Thrift::default()
        .int(1, 1)
        .list(2, 1 << 31, 12, &[group("root", 1)])
        .end();
    assert!(refused(file(&[], &claims)).contains("cut off"));
    // Lists of nothing, again and again: the parquet crate would count each to its end.
    let mut idle = Thrift::default();
    for id in 10..15 {
        idle = idle.list(id, 50, 1, &[vec![1; 50]]);
    }
    assert!(refused(file(&[], &idle.end())).contains("a list of booleans"));
    let mut long = file(&[0; 64], b"");
    let at = long.len() - 8;
    long[at..at + 4].fill(0xff);
    assert!(refused(long).contains("4294967295 bytes, which the file has not"));
}

#[test]
fn a_page_is_weighed_before_it_is_unpacked() {
    let most = i64::from(i32::MAX);
    for codec in [0, 1, 2, 6] {
        let said = refused(of_page(page(0, most, 8, 1), codec, 4, 90));
        assert!(said.starts_with("f: size of a row: 2 GiB"), "{said}");
        let said = refused(of_page(page(0, most, 8, 100), codec, 4, 90));
        let limit = "f: memory of the Parquet pages that are read at a time";
        assert!(codec == 0 || said.starts_with(limit), "{said}");
        let said = refused(of_page(page(2, 64, 64, most), codec, 4, 90));
        assert!(said.contains("2147483647 values in 64 bytes"), "{said}");
        let said = refused(of_page(page(0, 64, most, 1), codec, 4, 90));
        assert!(said.contains("a page is said to have 2147483647 bytes"), "{said}");
        for (kind, unpacked, packed, values) in [
            (0, -1, 8, 1),
            (0, 8, -1, 1),
            (0, 8, 8, -1),
            (2, 8, 8, 1 << 40),
            (0, 8, 8, most),
            (7, 8, 8, 1),
        ] {
            refused(of_page(page(kind, unpacked, packed, values), codec, 4, 90));
        }
    }
    for (at, size) in [
        (1 << 62, 10),
        (4, 1 << 62),
        (-1, 10),
        (4, -1),
        (i64::MIN, i64::MAX),
    ] {
        let said = refused(of_page(page(0, 8, 8, 1), 0, at, size));
        assert!(said.contains("is said to lie at"), "{said}");
    }
}

#[test]
fn a_dictionary_makes_no_more_of_a_file_than_it_may() {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type(
        "message m { required binary prompt (UTF8); required binary x (UTF8); }",
    );
    let properties = WriterProperties::builder().set_dictionary_enabled(true).build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema.unwrap().into(), properties.into()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let text = ByteArray::from(&*"a".repeat(100_000));
    for values in [vec![ByteArray::from("a"); 4000], vec![text; 4000]] {
        let mut column = rows.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
    }
    rows.close().unwrap();
    let bytes = writer.into_inner().unwrap();
    let count = |column: &str| {
        let mut n = 0;
        let input = Input::of_bytes("f", bytes.clone()).unwrap();
        let read = input.each(&[column], &mut |_, _| {
            n += 1;
            Ok(())
        });
        (n, read)
    };
    // Nobody pays for a column that is not read.
    assert!(matches!(count("prompt"), (4000, Ok(()))));
    let (rows, read) = count("x");
    let said = read.unwrap_err().to_string();
    assert!(
        (2000..3000).contains(&rows) && said.contains("data that unpack to more than 1000 times"),
        "{rows}: {said}"
    );
}

/// A file with one column in `schema`, the first of whose values is "hi"; each of `levels` is a definition and a repetition level.
fn of_levels(schema: &str, levels: &[(i16, i16)], values: usize) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(true).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    let mut rows = writer.next_row_group().unwrap();
    let (defs, reps): (Vec<i16>, Vec<i16>) = levels.iter().copied().unzip();
    while let Some(mut column) = rows.next_column().unwrap() {
        let values = vec![ByteArray::from("hi"); values];
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&values, Some(&defs), Some(&reps)).unwrap();
        column.close().unwrap();
    }
    rows.close().unwrap();
    writer.into_inner().unwrap()
}

/// The rows that are read of a file after others, and what is said of the rest.
fn after(before: &Expansion, bytes: &[u8], column: &str) -> (usize, Result<(), String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.parquet");
    std::fs::write(&path, bytes).unwrap();
    let mut rows = 0;
    let input = Input::open_with(&path, before).unwrap();
    let read = input.each(&[column], &mut |_, _| {
        rows += 1;
        Ok(())
    });
    (rows, read.map_err(|e| e.to_string()))
}

#[test]
fn run_lengths_make_no_more_of_files_than_they_may() {
    let flat = "message m { optional binary prompt (UTF8); }";
    let list = "message m { optional group prompt (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    // 4000 values, 4000 nulls, 40 lists of 100 structures of two texts, and of structures that are null.
    let lists = |def| {
        let items = (0..4000).map(|i| (def, i16::from(i % 100 != 0)));
        items.collect::<Vec<(i16, i16)>>()
    };
    for (bytes, rows, values) in [
        (of_levels(flat, &[(1, 0); 4000], 4000), 4000, 4000),
        (of_levels(flat, &[(0, 0); 4000], 0), 4000, 4000),
        (of_levels(list, &lists(4), 4000), 40, 8000),
        (of_levels(list, &lists(2), 0), 40, 8000),
        (of_levels(list, &[(0, 0); 4000], 0), 4000, 8000),
    ] {
        assert!(bytes.len() < 2000, "{}", bytes.len());
        assert_eq!(after(&Expansion::default(), &bytes, "prompt"), (rows, Ok(())));
        // So many are the most, and one more is refused.
        let before = Expansion::default();
        before.values("f", 10_000_000 - values).unwrap();
        assert_eq!(after(&before, &bytes, "prompt"), (rows, Ok(())));
        let before = Expansion::default();
        before.values("f", 10_000_001 - values).unwrap();
        let (read, said) = after(&before, &bytes, "prompt");
        let said = said.unwrap_err();
        assert!(
            read < rows
                && said.contains("f.parquet: Parquet data of more than 1000 values per byte: more, where the limit is 10000000")
                && said.contains("--max-file-memory"),
            "{read}: {said}"
        );
        // A hundred times as many, of files that have the bytes for them.
        let before = Expansion::default();
        before.read(1 << 20);
        before.values("f", 1_000_000_000).unwrap();
        assert_eq!(after(&before, &bytes, "prompt"), (rows, Ok(())));
    }
    // Pages count too: row groups may share one.
    let before = Expansion::default();
    before.unpacked("f", 256 << 20).unwrap();
    let (read, said) = after(&before, &of_levels(flat, &[(1, 0); 4000], 4000), "prompt");
    let said = said.unwrap_err();
    assert!(
        read == 0 && said.contains("f.parquet: data that unpack to more than 1000 times"),
        "{said}"
    );
}
