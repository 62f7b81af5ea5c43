//! Data files: rows of text in every wrapping, and tables.

use std::io::Write;
use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::{Value, json};
use tea_wgpu::data::{
    GradientRecord, LogprobsRecord, PreferenceRecord, PromptRecord, Record, ScoreRecord, SftRecord,
    parse_records,
};
use tea_wgpu::error::Result;

use crate::make::{damage, text, twist, written};

fn parse<R: Record>(bytes: &[u8]) -> Result<()> {
    parse_records::<R>("rows", bytes).map(drop)
}

/// Reads bytes as one of the records that commands take.
fn read(u: &mut Unstructured<'_>, bytes: &[u8]) -> Drawn<Result<()>> {
    let parsers = [
        parse::<PromptRecord>,
        parse::<SftRecord>,
        parse::<PreferenceRecord>,
        parse::<ScoreRecord>,
        parse::<LogprobsRecord>,
        parse::<GradientRecord>,
    ];
    Ok(u.choose(&parsers)?(bytes))
}

/// JSON Lines, a JSON array or CSV, plain or compressed.
pub(crate) fn rows(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let turns = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "tool_calls": null}]);
    let usual = json!({"id": 1, "prompt": "hi", "completion": " ho", "messages": turns, "chosen": "a", "rejected": turns,
        "tokens": [1, 2, 3], "text": "t", "weight": 0.5, "prompt_len": 1, "conversations": [{"from": "human", "value": "hi"}]});
    let rows: Vec<Value> = (0..u.int_in_range(1..=4)?)
        .map(|_| {
            let mut row = usual.clone();
            if u.ratio(2, 3)? {
                twist(u, &mut row)?;
            }
            Ok(row)
        })
        .collect::<Drawn<_>>()?;
    let mut bytes = Vec::new();
    match u.int_in_range(0..=3)? {
        0 => bytes = written(u, &Value::Array(rows))?,
        1 => {
            bytes.extend(b"prompt,id,chosen\r\n");
            for _ in 0..u.int_in_range(0..=4)? {
                let cell = text(u)?.replace('"', "\"\"");
                bytes.extend(format!("\"{cell}\",{},{}\r\n", text(u)?, text(u)?).into_bytes());
            }
        }
        _ => {
            for row in &rows {
                bytes.extend(written(u, row)?);
                bytes.push(b'\n');
            }
        }
    }
    if u.ratio(1, 3)? {
        damage(u, &mut bytes)?;
    }
    let mut bytes = match u.int_in_range(0..=5)? {
        0 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(&bytes).unwrap();
            out.finish().unwrap()
        }
        1 => zstd::encode_all(&bytes[..], 1).unwrap(),
        _ => bytes,
    };
    if u.ratio(1, 6)? {
        damage(u, &mut bytes)?;
    }
    read(u, &bytes)
}

const TABLES: &[&[u8]] = &[
    include_bytes!("../../data/nested-brotli.parquet"),
    include_bytes!("../../data/nested-delta.parquet"),
    include_bytes!("../../data/nested-duckdb.parquet"),
    include_bytes!("../../data/nested-item.parquet"),
    include_bytes!("../../data/nested-large-gzip.parquet"),
    include_bytes!("../../data/nested-lz4.parquet"),
    include_bytes!("../../data/nested-snappy.parquet"),
    include_bytes!("../../data/nested-v2-zstd.parquet"),
    include_bytes!("../../data/types.parquet"),
    include_bytes!("../../data/unread.parquet"),
    include_bytes!("../../prepare/gzip.parquet"),
];

/// A table, damaged where it is plain: in its footer, its page headers or its pages.
pub(crate) fn parquet(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let mut bytes = u.choose(TABLES)?.to_vec();
    let tail = bytes.len().saturating_sub(8);
    let footer = u32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap()) as usize;
    match u.int_in_range(0..=3)? {
        // The footer alone; its length is kept, so that its contents are what is wrong.
        0 | 1 => {
            let mut piece = bytes[tail - footer..tail].to_vec();
            damage(u, &mut piece)?;
            let length = u32::try_from(piece.len()).unwrap().to_le_bytes();
            bytes.truncate(tail - footer);
            bytes.extend(piece);
            bytes.extend(length);
            bytes.extend(b"PAR1");
        }
        2 => {
            let mut piece = bytes[4..tail - footer].to_vec();
            let size = piece.len();
            damage(u, &mut piece)?;
            piece.resize(size, 0);
            bytes.splice(4..tail - footer, piece);
        }
        _ => damage(u, &mut bytes)?,
    }
    read(u, &bytes)
}
