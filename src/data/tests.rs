//! One reader for whatever a file is stored in.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

use super::record::read_placed;
use super::weight::Expansion;
use super::*;
use crate::error::Result;

fn read(bytes: impl AsRef<[u8]>) -> Result<Vec<(String, PromptRecord)>> {
    read_placed(Input::of_bytes("f", bytes.as_ref().to_vec())?)
}

fn prompts(bytes: impl AsRef<[u8]>) -> Vec<String> {
    let text = |r: PromptRecord| match r.prompt {
        PromptContent::Text(text) => text,
        PromptContent::Messages(turns) => turns.into_iter().map(|m| m.content).collect(),
    };
    let read = read(bytes).unwrap();
    read.into_iter().map(|(_, record)| text(record)).collect()
}

fn refused(bytes: impl AsRef<[u8]>) -> String {
    let e = read(bytes).unwrap_err();
    assert_eq!(e.exit_code(), 2, "{e}");
    e.to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

const LINES: &str = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n";

#[test]
fn json_in_every_arrangement() {
    let forms = [
        LINES,
        "\u{feff}{\"prompt\": \"a\"}\r\n\r\n{\"prompt\": \"b\"}\r\n\n",
        "[{\"prompt\": \"a\"}, {\"prompt\": \"b\"}]",
        "\u{feff}\n [\n  {\"prompt\": \"a\", \"x\": [1, {\"y\": \"]},\\\"\"}]},\n  {\"prompt\": \"b\"}\n]\n",
        "{\n  \"prompt\": \"a\"\n}\n{\n  \"prompt\": \"b\",\n \"x\": {}\n}\n",
    ];
    for form in forms {
        assert_eq!(prompts(form), ["a", "b"], "{form}");
    }
    // One object alone, over several lines or not.
    assert_eq!(prompts("{\"prompt\":\n\"a\"}"), ["a"]);
    assert_eq!(prompts("{\"prompt\": \"a\"}"), ["a"]);
}

#[test]
fn faults_in_arrays_have_line_and_column() {
    for (text, what) in [
        (
            "[\n{\"prompt\": \"a\"},\n{\"prompt\": }\n]",
            "f:3: row 2: malformed JSON at column 12",
        ),
        (
            "[{\"prompt\": \"a\"},\n  5]",
            "f:2: row 2: expected a JSON object, found a number",
        ),
        (
            "[{\"prompt\": \"a\"},\n{\"prompt\": \"b\"",
            "f:2: the JSON value that begins here has no end",
        ),
        (
            "[{\"prompt\": \"a\"},\n\n",
            "f:3: malformed JSON at column 1: the array has no end",
        ),
        (
            "[{\"prompt\": \"a\"},]",
            "f:1: malformed JSON at column 18: an object must stand here",
        ),
        (
            "[{\"prompt\": \"a\"}]\n{\"prompt\": \"b\"}",
            "f:2: malformed JSON at column 1: text after the end",
        ),
        (
            "[{\"prompt\": \"a\"} {\"prompt\": \"b\"}]",
            "f:1: malformed JSON at column 18: expected `,` or `]`",
        ),
        (
            "{\n\"prompt\": \"a\",\n\"x\": }",
            "f:3: row 1: malformed JSON at column 6",
        ),
        ("[]", "f: no records in this file"),
        (
            "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"} x\n",
            "f:2: malformed JSON at column 17: trailing characters",
        ),
        ("{\"prompt\": \"a\"}\n\0\0\0\0", "f:2: holds NUL bytes"),
        ("[{\"prompt\": 5}]", "f:1: row 1: \"prompt\" must be a string"),
    ] {
        let said = refused(text);
        assert!(said.starts_with(what), "{text:?}: {said}");
    }
}

#[test]
fn compressed_files_are_told_by_their_first_bytes() {
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    assert_eq!(prompts(gzip(LINES.as_bytes())), ["a", "b"]);
    assert_eq!(prompts(zstd(LINES.as_bytes())), ["a", "b"]);
    // Several members, as `cat a.gz b.gz` makes them, and several frames.
    let (a, b) = LINES.split_at(16);
    assert_eq!(
        prompts([gzip(a.as_bytes()), gzip(b.as_bytes())].concat()),
        ["a", "b"]
    );
    assert_eq!(
        prompts([zstd(a.as_bytes()), zstd(b.as_bytes())].concat()),
        ["a", "b"]
    );
    assert_eq!(prompts(gzip(b"[{\"prompt\": \"a\"}]")), ["a"]);
    assert_eq!(prompts(gzip(b"id,prompt\n1,a\n")), ["a"]);
    let parquet = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/types.parquet")).unwrap();
    assert_eq!(prompts(gzip(&parquet)), prompts(&parquet));
    // Damage and other archives are named.
    let cut = gzip(&LINES.repeat(9).into_bytes());
    for bytes in [&cut[..cut.len() - 12], &zstd(LINES.as_bytes())[..14]] {
        let said = refused(bytes);
        assert!(said.contains("damaged or cut off"), "{said}");
    }
    for (bytes, what) in [
        (&b"PK\x03\x04...."[..], "zip archive"),
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"ARROW1\0\0", "Arrow"),
        (b"\xff\xfe{\0\"\0", "UTF-16"),
        (b"{\0\"\0p\0", "UTF-16"),
        (b"\0\0\0\0\0\0", "NUL bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    ] {
        let said = refused(bytes);
        assert!(said.contains(what), "{bytes:?}: {said}");
    }
}

#[test]
fn a_csv_cell_without_its_closing_quote_is_named_by_its_line() {
    for (file, line) in [
        ("prompt\na\n\"never closed\nb\nc\n", 3),
        ("id,prompt\n1,a\n2,\"b \"\"c\"\" \nd,e\n", 3),
        ("prompt\n\"a\nb\"\n\"c", 4),
    ] {
        let error = read(file).unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                ":{line}: the cell that begins here has no closing quote"
            )),
            "{error}"
        );
    }
    // A quote inside a cell, or doubled at its end, opens nothing.
    assert_eq!(prompts("prompt\na 5\" disk\n\"b\"\"\"\n"), ["a 5\" disk", "b\""]);
}

#[test]
fn csv_has_a_header_and_empty_cells_are_null() {
    let file = "id,prompt,x\n7,\"one\nline, and \"\"two\"\"\",1\n8,,2\n9,b,\n";
    assert_eq!(prompts(file), ["one\nline, and \"two\"", "b"]);
    assert_eq!(read(file).unwrap()[0].1.id, serde_json::json!("7"));
    assert_eq!(prompts("\u{feff}prompt\r\na\r\n\r\nb\r\n"), ["a", "b"]);
    assert_eq!(prompts("x\tprompt\n1\ta, b\n"), ["a, b"]);
    assert_eq!(prompts("x;prompt\n1;a, b\n"), ["a, b"]);
    // Cells of other columns may be anything.
    assert_eq!(prompts(b"prompt,x\na,\xe9\n"), ["a"]);
    for (bytes, what) in [
        (
            &b"prompt,x\na\n"[..],
            "f:2: a CSV row of 1 cells, where the header has 2",
        ),
        (
            b"prompt,x\n\xe9,1\n",
            "f:2: row 1: \"prompt\" must be a string or a list of messages, found text that is not UTF-8",
        ),
        (b"a,b\n1,2\n", "f:1: neither JSON"),
        (
            b"prompt,prompt\n1,2\n",
            "f:1: the CSV header names the column \"prompt\" twice",
        ),
        (b"hello world\n", "f:1: neither JSON"),
        (b"prompt,x\n", "f: no records"),
    ] {
        let said = refused(bytes);
        assert!(said.starts_with(what), "{said}");
    }
    // A file of texts says by its cells what is no text.
    let scores = "tokens,id\n\"[1, 2]\",a\n";
    let records: Vec<ScoreRecord> = parse_records("f", scores.as_bytes()).unwrap();
    assert_eq!(records[0].input, ScoreInput::Tokens(vec![1, 2]));
    let chats = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}]\"\n";
    assert_eq!(prompts(chats), ["a"]);
    // A prompt stays a text whatever it looks like.
    assert_eq!(prompts("prompt\n[1]\n"), ["[1]"]);
}

#[test]
fn numbers_that_are_not_finite_harm_only_who_reads_them() {
    assert_eq!(
        prompts("{\"prompt\": \"a\", \"score\": NaN}\n{\"x\": [-Infinity], \"prompt\": \"b\"}"),
        ["a", "b"]
    );
    let said = refused("{\"prompt\": \"a\"}\n{\"prompt\": NaN}");
    assert!(
        said.starts_with("f:2: \"prompt\" must be a string or a list of messages, found NaN"),
        "{said}"
    );
    let line = r#"{"tokens": [1, 2], "prompt_len": 1, "weight": -Infinity}"#;
    let e = parse_records::<GradientRecord>("f", line.as_bytes()).unwrap_err();
    assert_eq!(
        e.to_string(),
        "f:1: \"weight\" must be a finite number, found -Infinity"
    );
    let table = "tokens,prompt_len,weight\n\"[1, 2]\",1,NaN\n";
    let e = parse_records::<GradientRecord>("f", table.as_bytes()).unwrap_err();
    assert_eq!(
        e.to_string(),
        "f:2: row 1: \"weight\" must be a finite number, found NaN"
    );
}

#[test]
fn null_is_absent_and_rows_left_out_are_counted() {
    let file = "{\"prompt\": null, \"id\": 1}\n{\"prompt\": \"a\", \"messages\": null}\n{\"prompt\": null}\n";
    assert_eq!(prompts(file), ["a"]);
    let mut tally = Tally::default();
    let input = Input::of_bytes("f", file.into()).unwrap();
    let mut held = weight::Held::default();
    record::collect::<PromptRecord>(input, false, &mut tally, &mut held, &mut |_, _, _| Ok(0)).unwrap();
    assert_eq!((tally.rows, tally.missing()), (3, 2));
    assert_eq!(
        tally.reasons(),
        [("missing field \"prompt\": it is null".to_owned(), 2)]
    );
    let null = "{\"messages\": [null, {\"role\": \"user\", \"content\": \"x\"}]}\n{\"prompt\": \"a\"}\n";
    assert_eq!(prompts(null), ["a"]);
    // A file of nothing else says which row it saw first.
    let said = refused("\n{\"prompt\": null}\n{\"messages\": []}\n");
    assert_eq!(
        said,
        "f:2: missing field \"prompt\": it is null (all 2 rows are of no use)"
    );
    // A row of another kind is a mistake, not an empty one.
    let said = refused("{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
    assert!(
        said.starts_with("f:2: missing field \"prompt\" (the line has \"text\")"),
        "{said}"
    );
}

#[test]
fn many_reasons_are_told_in_few_lines() {
    let mut tally = Tally::default();
    for i in 0..50 {
        let place = Place {
            name: "f",
            row: i,
            line: None,
            by_line: false,
        };
        tally.leave_out(place, crate::error::Error::unusable(format!("reason {i}")));
        tally.leave_out(place, crate::error::Error::unusable("often"));
    }
    let reasons = tally.reasons();
    assert_eq!((reasons.len(), &reasons[0]), (8, &("often".to_owned(), 50)));
    assert_eq!(reasons[7], ("44 other reasons".to_owned(), 44));
}

#[test]
fn rows_have_a_size_a_depth_and_a_weight() {
    // What is deep is told as a limit, not as bad JSON.
    let deep = "[".repeat(1_000_000);
    for (text, place) in [
        (
            format!("{{\"prompt\": \"a\"}}\n{{\"prompt\": {deep}"),
            "f:2: nesting",
        ),
        (
            format!("[{{\"prompt\": {deep}{}}}]", "]".repeat(1_000_000)),
            "f:1: row 1: nesting",
        ),
    ] {
        let said = refused(text);
        assert!(said.starts_with(place) && said.contains("128 levels"), "{said}");
    }
    // A number is read whatever its length.
    let digits = "7".repeat(1_000_000);
    let long = format!("{{\"w\": {digits}, \"prompt\": \"a\", \"x\": 0.{digits}, \"y\": -{digits}e9}}");
    assert_eq!(prompts(long), ["a"]);
    // Short text that becomes much: ten million lists.
    let lists = format!("{{\"prompt\": \"a\", \"x\": [{}[]]}}", "[],".repeat(3_000_000));
    let said = refused(lists);
    assert!(
        said.starts_with("f:1: memory of a row: more") && said.contains("--max-file-memory"),
        "{said}"
    );
    // The same in a text is a text.
    let text = format!("{{\"prompt\": \"{}\"}}", "[],".repeat(400_000));
    assert_eq!(prompts(text)[0].len(), 1_200_000);
    let hidden = format!(
        "{{\"x\": {{\"$serde_json::private::RawValue\": \"[{}[]]\"}}}}",
        "[],".repeat(3_000_000)
    );
    assert!(refused(hidden).starts_with("f:1: memory of a row"));
    // Lines without an end.
    let endless = format!("{{\"prompt\": \"{}", "a".repeat(128 << 20));
    let said = refused(endless);
    assert!(
        said.starts_with("f:1: size of a row: more, where the limit is 128 MiB"),
        "{said}"
    );
}

#[test]
fn csv_rows_have_a_width() {
    let said = refused(format!("prompt{}\n1\n", ",x".repeat(1 << 20)));
    assert!(said.starts_with("f:1: size of a CSV header"), "{said}");
    let said = refused(format!("prompt,x\na,b\n{}\n", ",".repeat(3 << 20)));
    assert!(
        said.starts_with("f:3: width of a CSV row: more, where the limit is 1048576 cells"),
        "{said}"
    );
}

#[test]
fn records_that_are_held_are_counted() {
    let place = Place {
        name: "f",
        row: 3,
        line: None,
        by_line: false,
    };
    let mut held = weight::Held::default();
    held.add(place, (8 << 30) - 600).unwrap();
    held.add(place, 0).unwrap();
    let said = held.add(place, 0).unwrap_err();
    assert_eq!(said.exit_code(), 2);
    assert!(
        said.to_string().starts_with("f: row 3: memory of the rows"),
        "{said}"
    );
    // Fields that the record does not keep do not count.
    let row = Row::new(serde_json::from_str("{\"tokens\": [1, 2], \"x\": \"aaaaaaaaaa\"}").unwrap());
    assert_eq!(
        row.weight(None) - TokenRecord::weight(&row),
        row.weight(Some(&["x"]))
    );
    assert!(TokenRecord::weight(&row) > 100);
}

#[cfg(unix)]
#[test]
fn only_files_and_pipes_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, circle) = (dir.path().join("socket"), dir.path().join("circle"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    for (path, what) in [
        (std::path::Path::new("/dev/zero"), "a device"),
        (&socket, "a socket"),
        (&circle, "circle"),
        (dir.path(), "a directory"),
    ] {
        for opened in [Input::open(path), Input::open_hashed(path, &Expansion::default())] {
            let error = opened.err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_once_and_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/types.parquet")).unwrap();
    for bytes in [LINES.as_bytes().to_vec(), gzip(LINES.as_bytes()), file] {
        for hashed in [false, true] {
            let (to, sent) = (path.clone(), bytes.clone());
            let writer = std::thread::spawn(move || std::fs::write(to, sent));
            let input = match hashed {
                true => Input::open_hashed(&path, &Expansion::default()),
                false => Input::open(&path),
            };
            let input = input.unwrap();
            assert_eq!(input.sha256(), hashed.then(|| sha256_hex(&bytes)).as_deref());
            assert_eq!(read_placed::<PromptRecord>(input).unwrap().len(), 2);
            writer.join().unwrap().unwrap();
        }
    }
}

/// Files of a directory are counted together: here as many as nearly reach the limits were read before.
#[test]
fn what_little_holds_is_bounded_over_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv.gz");
    std::fs::write(
        &path,
        gzip(("prompt\n".to_owned() + &"a\n".repeat(100)).as_bytes()),
    )
    .unwrap();
    let read = |before: &Expansion| {
        let mut rows = 0;
        let input = Input::open_with(&path, before).unwrap();
        let read = input.each(&["prompt"], &mut |_, _| {
            rows += 1;
            Ok(())
        });
        (rows, read.map_err(|e| e.to_string()))
    };
    assert_eq!(read(&Expansion::default()), (100, Ok(())));
    let before = Expansion::default();
    before.rows("f", 9_999_950).unwrap();
    let (rows, said) = read(&before);
    let said = said.unwrap_err();
    assert!(
        rows == 50
            && said
                .contains("row 51: compressed text of more than 100 rows per byte: more, where the limit is"),
        "{rows}: {said}"
    );
    // Many rows are many bytes, in good faith.
    let before = Expansion::default();
    before.read(1 << 20);
    before.rows("f", 9_999_950).unwrap();
    assert_eq!(read(&before), (100, Ok(())));
    // The bytes of the second file are held against the first one's too.
    let before = Expansion::default();
    before.unpacked("f", 256 << 20).unwrap();
    let said = Input::open_with(&path, &before).err().unwrap().to_string();
    assert!(
        said.contains("rows.csv.gz: data that unpack to more than 1000 times"),
        "{said}"
    );
    // Text that is not packed is as long as its file.
    let plain = dir.path().join("rows.csv");
    std::fs::write(&plain, "prompt\na\n").unwrap();
    let input = Input::open_with(&plain, &before).unwrap();
    assert!(input.each(&["prompt"], &mut |_, _| Ok(())).is_ok());
}
