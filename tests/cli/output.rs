//! Output is not the run: what becomes of a command when its output has no reader, a full one, or
//! one that does not read.
#![cfg(unix)]

use super::*;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

const TRAIN: &str = "train --model policy --reward-model reward --prompts prompts.jsonl --num-generations 4 \
                     --prompts-per-step 2 --max-completion-length 8 --lora-rank 4 --token-budget 256";

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reader {
    /// It has gone.
    Gone,
    /// A device without room.
    Full,
    /// It is there and takes nothing; the pipe holds all it can.
    Idle,
}

/// The writing end; an idle reader's other end must be kept.
fn stream(reader: Reader) -> (Stdio, Option<std::io::PipeReader>) {
    if reader == Reader::Full {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        return (full.into(), None);
    }
    let (end, mut writer) = std::io::pipe().unwrap();
    if reader == Reader::Gone {
        return (writer.into(), None);
    }
    // A pipe that is full would keep this test waiting too: a thread fills it and stays behind.
    let filler = writer.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut filler = filler;
        while filler.write_all(&[b'x'; 4096]).is_ok() {}
    });
    std::thread::sleep(Duration::from_millis(200));
    writer.flush().unwrap();
    (writer.into(), Some(end))
}

fn readers() -> Vec<Reader> {
    let mut all = vec![Reader::Gone, Reader::Idle];
    if Path::new("/dev/full").exists() {
        all.push(Reader::Full);
    }
    all
}

/// Runs a command in `place` with both streams at such a reader.
fn unread(place: &Path, words: &str, reader: Reader) -> (Option<i32>, Duration) {
    let ((out, a), (err, b)) = (stream(reader), stream(reader));
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
        .current_dir(place)
        .env("HF_HUB_OFFLINE", "1")
        .env("RUST_LOG", "debug")
        // Without it Mesa writes a line to standard error itself, and waits for an idle reader.
        .env("XDG_RUNTIME_DIR", place)
        .args(words.split_whitespace())
        .stdout(out)
        .stderr(err)
        .status()
        .unwrap();
    drop((a, b));
    (status.code(), begun.elapsed())
}

#[test]
fn a_run_ends_well_whoever_reads() {
    let place = tiny::workplace();
    let prompts = tea_wgpu::demo::held_out(1, 5);
    tea_wgpu::demo::write_prompts(&place.path().join("prompts.jsonl"), &prompts).unwrap();
    let at = |path: String| place.path().join(path);
    for reader in readers() {
        let name = format!("{reader:?}");
        let (code, took) = unread(
            place.path(),
            &format!("{TRAIN} --steps 3 --output {name}"),
            reader,
        );
        assert_eq!(code, Some(0), "train, {reader:?}");
        let metrics = std::fs::read_to_string(at(format!("{name}/metrics.jsonl"))).unwrap();
        assert_eq!(metrics.lines().count(), 3, "{reader:?}");
        assert!(at(format!("{name}/checkpoints/step_3/adapter_config.json")).exists());
        let eval = format!(
            "eval --run {name} --reward-model reward --prompts prompts.jsonl --max-completion-length 6 --samples 4 \
             --output {name}-eval --json"
        );
        let (code, evaluated) = unread(place.path(), &eval, reader);
        assert_eq!(code, Some(0), "eval, {reader:?}");
        assert!(at(format!("{name}-eval/results.json")).exists(), "{reader:?}");
        // Three seconds are the most that a reader who reads nothing may cost each, at the end.
        println!("{reader:?}: {took:?}, {evaluated:?}");
    }
}

/// An idle reader costs a run no more than the wait at its end, and what it then reads is in order.
#[test]
fn an_idle_reader_does_not_hold_up_steps() {
    let place = tiny::workplace();
    let words = format!("{TRAIN} --steps 6 --output");
    let step_times = |run: &str| -> f64 {
        let text = std::fs::read_to_string(place.path().join(run).join("metrics.jsonl")).unwrap();
        let time = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["step_time"]
                .as_f64()
                .unwrap()
        };
        text.lines().map(time).sum()
    };
    let run = |reader, name: &str| {
        let (code, took) = unread(place.path(), &format!("{words} {name}"), reader);
        assert_eq!(code, Some(0));
        took.as_secs_f64() - step_times(name)
    };
    let (gone, idle) = (run(Reader::Gone, "gone"), run(Reader::Idle, "idle"));
    // Everything but the steps: opening, saving, and the two seconds that lines get at the end.
    assert!(idle < gone + 2.0 + 0.5 * gone + 3.0, "{idle} s against {gone} s");
}

/// What a command was asked to print: a reader that has gone has seen enough, a full one has lost
/// something.
#[test]
fn results_that_cannot_be_printed_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("in.jsonl"),
        "{\"rewards\": [1.0, 2.0, 4.0, 0.0]}\n",
    )
    .unwrap();
    let with = |words: &str, reader: Reader| {
        let (out, _end) = stream(reader);
        let done = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"))
            .current_dir(dir.path())
            .args(words.split_whitespace())
            .stdout(out)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    for words in [
        "advantage --input in.jsonl --rule grpo",
        "train --help",
        "--version",
    ] {
        assert_eq!(with(words, Reader::Gone), (Some(0), String::new()), "{words}");
        if Path::new("/dev/full").exists() {
            let (code, err) = with(words, Reader::Full);
            assert_eq!(code, Some(2), "{words}: {err}");
            assert!(err.contains("standard output"), "{words}: {err}");
        }
    }
}

/// The logger's own complaint about its settings is output too.
#[test]
fn a_bad_log_filter_is_said_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.jsonl"), "{\"rewards\": [1.0, 2.0]}\n").unwrap();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command
            .current_dir(dir.path())
            .args(["advantage", "--rule", "grpo", "--input", "in.jsonl"])
            .env("RUST_LOG", "a=b=c");
        command
    };
    for reader in readers() {
        let (err, _end) = stream(reader);
        let status = command().stdout(Stdio::null()).stderr(err).status();
        assert_eq!(status.unwrap().code(), Some(0), "{reader:?}");
    }
    let run = finish(&mut command());
    assert!(run.err.contains("RUST_LOG is ignored"), "{}", run.err);
}

/// Wrong usage ends with 2 although nobody can be told.
#[test]
fn exit_codes_do_not_depend_on_readers() {
    let dir = tempfile::tempdir().unwrap();
    for reader in readers() {
        for words in [
            "train --no-such-flag",
            "advantage --input missing.jsonl --rule grpo",
        ] {
            let (code, _) = unread(dir.path(), words, reader);
            assert_eq!(code, Some(2), "{words}, {reader:?}");
        }
    }
}
