//! Parquet files of every writer and codec against what Arrow reads from them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use crate::data::row::shown;
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
