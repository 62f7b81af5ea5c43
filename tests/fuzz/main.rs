//! Structured fuzzing of everything that reads somebody else's bytes, on stable Rust: `cargo test --test fuzz`.
//!
//! A case is a number: it seeds the bytes that a target's generator (on `arbitrary`) turns into a file, an answer or a
//! directory that is nearly right. Each target runs in a process of its own, so that also a stack overflow, an abort, a
//! hang or memory without bounds is seen, with the number of the case that made it. What a reader must do: end soon, take
//! little, and succeed or say in a bounded message what the user can mend (exit code 2).
//!
//! | environment | |
//! |---|---|
//! | `TEA_FUZZ_SECONDS` | seconds a target; 2 unless set |
//! | `TEA_FUZZ_JOBS` | targets at the same time; the number of processors unless set |
//! | `TEA_FUZZ_FROM` | the first case; 0 unless set |
//! | `TEA_FUZZ_PATIENCE` | seconds that a case may take; 20 unless set |
//!
//! `cargo test --release --test fuzz -- NAME…` runs the targets whose names hold one of the words;
//! `cargo test --test fuzz -- NAME=CASE` runs one case alone and lets its panic or overflow be seen.

#![allow(clippy::unwrap_used, reason = "tests")]

mod make;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use targets::{TARGETS, Target};

/// Longest that a case may take, in seconds; the machine may be slow and the build without optimisation.
const PATIENCE: u64 = 20;
/// Memory that a target may take, in bytes: the limits of files are lowered below it.
const MEMORY: u64 = 3 << 30;
/// Bytes of an error's message at the most.
const MESSAGE: usize = 64 << 10;
/// Random bytes behind a case: what a generator draws after them is its simplest choice.
const ENTROPY: usize = 16 << 10;
/// How often a child says how far it is, in cases. Before every case it writes down the case's number.
const REPORT: u64 = 64;

/// What became of the cases of one target.
#[derive(Default)]
struct Count {
    cases: u64,
    accepted: u64,
    slowest_ms: u64,
    slowest: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|a| !a.starts_with('-'))
        .collect();
    if let Some(target) = std::env::var("TEA_FUZZ_CHILD").ok().and_then(|name| named(&name)) {
        return child(target);
    }
    if let Some((name, case)) = words.first().and_then(|w| w.split_once('=')) {
        let (Some(target), Ok(case)) = (named(name), case.parse()) else {
            eprintln!("{name}={case}: no such target or case; targets: {}", list());
            return ExitCode::from(2);
        };
        return alone(target, case);
    }
    let wanted: Vec<&Target> = TARGETS
        .iter()
        .filter(|t| words.is_empty() || words.iter().any(|w| t.name.contains(w)))
        .collect();
    if arguments.iter().any(|a| a == "--list") {
        wanted.iter().for_each(|t| println!("{}: test", t.name));
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() {
        // `cargo test WORD` asks every test program for a word that most of them do not have.
        return ExitCode::SUCCESS;
    }
    parent(&wanted)
}

fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

fn list() -> String {
    TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| {
        v.parse().unwrap_or_else(|_| panic!("{name}={v} is no number"))
    })
}

/// Runs every target in a process of its own, some at a time.
fn parent(wanted: &[&Target]) -> ExitCode {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = number("TEA_FUZZ_JOBS", processors as u64).max(1);
    let queue = Mutex::new(wanted.iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(target) = queue.lock().unwrap().next() else {
                        break;
                    };
                    if let Err(why) = watch(target) {
                        println!("{:<12} FAILED: {why}", target.name);
                        failed.lock().unwrap().push(target.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = wanted.len() - failed.len();
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out",
        failed.len(),
        TARGETS.len() - wanted.len()
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// Starts a target's process and watches its time and memory.
fn watch(target: &Target) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let log = dir.path().join("log");
    let out = fs::File::create(&log).map_err(|e| e.to_string())?;
    let mut process = Command::new(std::env::current_exe().map_err(|e| e.to_string())?)
        .env("TEA_FUZZ_CHILD", target.name)
        .env("TEA_FUZZ_DIR", dir.path())
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(out)
        .spawn()
        .map_err(|e| e.to_string())?;
    let patience = Duration::from_secs(number("TEA_FUZZ_PATIENCE", PATIENCE));
    let (mut last, mut since) = (None, Instant::now());
    let status = loop {
        if let Some(status) = process.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        let now = at(dir.path());
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let memory = resident(&process);
        let why = if since.elapsed() > patience {
            Some(format!("a case took more than {} s", patience.as_secs()))
        } else if memory > MEMORY {
            Some(format!("{} MiB taken", memory >> 20))
        } else {
            None
        };
        if let Some(why) = why {
            let _ = process.kill();
            let _ = process.wait();
            return Err(told(target, dir.path(), &why));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        // What a panic says, or the last words of an abort.
        let lines: Vec<&str> = said.lines().collect();
        let panicked = lines.iter().rposition(|l| l.contains(" panicked at "));
        let tail = &lines[panicked.unwrap_or(lines.len().saturating_sub(4))..];
        let tail = &tail[..tail.len().min(4)];
        return Err(format!(
            "{}\n{}",
            told(target, dir.path(), &status.to_string()),
            tail.join("\n")
        ));
    }
    let summary = fs::read_to_string(dir.path().join("summary")).unwrap_or_default();
    println!("{:<12} {summary}", target.name);
    Ok(())
}

fn told(target: &Target, dir: &Path, why: &str) -> String {
    let case = at(dir).map_or("?".to_owned(), |n| n.to_string());
    format!(
        "{why}; again with `cargo test --test fuzz -- {}={case}`",
        target.name
    )
}

/// The case that a child is at.
fn at(dir: &Path) -> Option<u64> {
    let bytes = fs::read(dir.join("case")).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A process's resident memory, in bytes; 0 where the system does not tell.
fn resident(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    kib(&status, "VmRSS:") << 10
}

fn kib(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// One target until its time is over.
fn child(target: &Target) -> ExitCode {
    let dir = PathBuf::from(std::env::var_os("TEA_FUZZ_DIR").expect("set by the parent"));
    let scratch = dir.join("files");
    fs::create_dir(&scratch).unwrap();
    let mut mark = fs::File::create(dir.join("case")).unwrap();
    let seconds = Duration::from_secs(number("TEA_FUZZ_SECONDS", 2));
    let begin = Instant::now();
    let mut count = Count::default();
    let mut case = number("TEA_FUZZ_FROM", 0);
    while begin.elapsed() < seconds || count.cases == 0 {
        write_mark(&mut mark, case);
        let started = Instant::now();
        if run(target, case, &scratch) {
            count.accepted += 1;
        }
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if took > count.slowest_ms {
            (count.slowest_ms, count.slowest) = (took, case);
        }
        count.cases += 1;
        case += 1;
        if count.cases % REPORT == 0 {
            summarise(&dir, &count, begin.elapsed());
        }
    }
    summarise(&dir, &count, begin.elapsed());
    ExitCode::SUCCESS
}

fn write_mark(mark: &mut fs::File, case: u64) {
    use std::io::{Seek, SeekFrom, Write};
    mark.seek(SeekFrom::Start(0)).unwrap();
    mark.write_all(&case.to_le_bytes()).unwrap();
}

fn summarise(dir: &Path, count: &Count, elapsed: Duration) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let text = format!(
        "{} cases in {:.0} s, {} of them accepted; the slowest {} ms (case {}); at most {} MiB",
        count.cases,
        elapsed.as_secs_f64(),
        count.accepted,
        count.slowest_ms,
        count.slowest,
        kib(&status, "VmHWM:") >> 10,
    );
    fs::write(dir.join("summary"), text).unwrap();
}

fn alone(target: &Target, case: u64) -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let accepted = run(target, case, dir.path());
    println!(
        "{}={case}: accepted: {accepted}, {:?}",
        target.name,
        begin.elapsed()
    );
    ExitCode::SUCCESS
}

/// Runs a case and says whether it was accepted. What a reader must not do ends the process.
fn run(target: &Target, case: u64, scratch: &Path) -> bool {
    let mut entropy = vec![0; ENTROPY];
    ChaCha8Rng::seed_from_u64(case).fill_bytes(&mut entropy);
    let mut u = Unstructured::new(&entropy);
    let outcome = (target.run)(&mut u, scratch).expect("generators draw no errors");
    if let Err(e) = &outcome {
        let said = e.to_string();
        assert_eq!(e.exit_code(), 2, "not an error of the input: {said}");
        assert!(
            !said.trim().is_empty() && said.len() <= MESSAGE,
            "a message of {} bytes",
            said.len()
        );
    }
    outcome.is_ok()
}
