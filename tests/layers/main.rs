//! The layers of the crate hold: a room of `src/` names only rooms below its own (see [`ROOMS`]), and `wgpu` is named
//! in `src/gpu` alone. Reads the sources as tokens, so comments, doc links and strings do not count; `#[cfg(test)]`
//! parts do.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lexer;
mod pages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lexer::{Token, tokens};

/// The one statement of the layers: every room (top-level module) with its height. A room may name rooms of lower
/// height; rooms of equal height may name one another, in one direction only.
///
/// `text`, `data`, `hub`, `report` and `demo` are side rooms without a GPU: they stand on `run`, `file`, `config`, `error` and `rng`, and
/// everything from `model` upwards may use them. `text` reads the records of `data`; `hub` shows its
/// progress through `report`.
const ROOMS: &[(&str, u32)] = &[
    ("cli", 80),
    ("sweep", 75),
    ("bench", 75),
    ("train", 70),
    ("eval", 70),
    ("diagnose", 70),
    ("search", 70),
    ("rollout", 60),
    ("reward", 60),
    ("model", 50),
    ("optim", 50),
    ("kernels", 40),
    ("advantage", 35),
    ("tensor", 30),
    ("gpu", 20),
    ("hub", 11),
    ("text", 10),
    ("report", 10),
    ("demo", 10),
    ("run", 5),
    ("data", 5),
    ("file", 1),
    ("config", 2),
    ("error", 0),
    ("rng", 2),
    ("web", 1),
    ("words", 0),
];

/// Why the edge `from` → `to` is wrong although `to` is lower, if it is.
fn forbidden(from: &str, to: &str) -> Option<&'static str> {
    let side = |room| matches!(room, "text" | "data" | "hub" | "report" | "demo");
    match (from, to) {
        ("kernels" | "tensor" | "gpu", _) if side(to) => Some("side rooms are used from `model` upwards"),
        ("rollout", "text" | "data" | "hub") => Some("sampling sees token ids only"),
        _ => None,
    }
}

/// The only room that names `wgpu`.
const WGPU_ROOM: &str = "gpu";

fn height(room: &str) -> Option<u32> {
    ROOMS
        .iter()
        .find(|(name, _)| *name == room)
        .map(|&(_, height)| height)
}

/// The rooms named by the path tree at `i` (just after `crate::` or its equal), with their lines.
fn first_segments(tokens: &[Token], i: usize) -> Vec<Token> {
    let text = |k: usize| tokens.get(k).map_or("", |t| t.text.as_str());
    if text(i) != "{" {
        return match tokens.get(i) {
            Some(token) if text(i + 1) != "!" => vec![token.clone()],
            _ => Vec::new(), // a macro of the crate: exported at the root whatever room it is written in
        };
    }
    let (mut found, mut depth, mut k) = (Vec::new(), 1, i + 1);
    while k < tokens.len() && depth > 0 {
        let first = depth == 1 && matches!(text(k - 1), "{" | ",");
        match text(k) {
            "{" => depth += 1,
            "}" => depth -= 1,
            "self" if first => {}
            _ if first => found.push(tokens[k].clone()),
            _ => {}
        }
        k += 1;
    }
    found
}

/// Every room that a file names through `crate::…` or enough `super::` to reach the crate's root. `module` is the
/// file's own module path (`["gpu", "device"]`).
fn named_rooms(module: &[String], tokens: &[Token]) -> Vec<Token> {
    let text = |k: usize| tokens.get(k).map_or("", |t| t.text.as_str());
    let (mut found, mut braces, mut inline) = (Vec::new(), 0, Vec::new());
    for k in 0..tokens.len() {
        match text(k) {
            "{" => {
                braces += 1;
                if k >= 2 && text(k - 2) == "mod" {
                    inline.push(braces);
                }
            }
            "}" => {
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
                braces -= 1;
            }
            "crate" if text(k + 1) == "::" => found.extend(first_segments(tokens, k + 2)),
            "super" if k == 0 || text(k - 1) != "::" || (k >= 2 && text(k - 2) == "self") => {
                let (mut depth, mut next) = (module.len() + inline.len(), k);
                while text(next) == "super" && text(next + 1) == "::" {
                    (depth, next) = (depth.saturating_sub(1), next + 2);
                }
                if depth == 0 {
                    found.extend(first_segments(tokens, next));
                }
            }
            _ => {}
        }
    }
    found
}

/// Everything that breaks the layers in a set of `(path below src, source)` files, as `src/file:line: what`.
fn violations(files: &[(PathBuf, String)]) -> Vec<String> {
    let mut bad = Vec::new();
    let mut peers: BTreeMap<(String, String), String> = BTreeMap::new();
    for (path, source) in files {
        let mut module: Vec<String> = path
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        module.pop_if(|last| last == "mod");
        let room = module[0].as_str();
        let tokens = tokens(source);
        let place = |line: usize| format!("src/{}:{line}", path.display());
        if room != WGPU_ROOM {
            let naming = tokens
                .iter()
                .filter(|t| t.text == "wgpu" || t.text.starts_with("wgpu_"));
            bad.extend(naming.map(|t| format!("{}: `wgpu` is named outside src/{WGPU_ROOM}", place(t.line))));
        }
        if matches!(room, "lib" | "main") {
            continue; // the crate's roots stand above every room
        }
        let Some(own) = height(room) else {
            bad.push(format!(
                "{}: room `{room}` is not in the table of tests/layers/main.rs",
                place(1)
            ));
            continue;
        };
        for Token { text: to, line } in named_rooms(&module, &tokens) {
            let place = place(line);
            match (height(&to), forbidden(room, &to)) {
                (None, _) => bad.push(format!(
                    "{place}: `{to}` is not a room: name the room it comes from"
                )),
                (Some(_), Some(why)) => bad.push(format!("{place}: {room} names {to}: {why}")),
                (Some(other), _) if other > own => {
                    bad.push(format!("{place}: {room} names {to}, which is above it"))
                }
                (Some(other), _) if other == own && to != room => {
                    if let Some(back) = peers.get(&(to.clone(), room.to_owned())) {
                        bad.push(format!("{place}: {room} and {to} name each other (see {back})"));
                    }
                    peers.insert((room.to_owned(), to), place);
                }
                _ => {}
            }
        }
    }
    bad
}

/// Every Rust file below `directory`, sorted, with its path relative to `root`.
fn rust_files(root: &Path, directory: &Path) -> Vec<(PathBuf, String)> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(rust_files(root, &path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            files.push((path.strip_prefix(root).unwrap().to_path_buf(), source));
        }
    }
    files
}

#[test]
fn imports_go_down_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src, &src);
    assert!(
        files.len() >= ROOMS.len() - 1,
        "only {} files found in {}",
        files.len(),
        src.display()
    );
    let bad = violations(&files);
    assert!(
        bad.is_empty(),
        "{} broken layer rules:\n{}",
        bad.len(),
        bad.join("\n")
    );
}

/// The room that opens files and writes them, and the hub's client, whose cache has a form of its own.
const FILE_ROOMS: [&str; 2] = ["file", "hub"];
/// Functions of `std::fs` that write.
const WRITERS: [&str; 11] = [
    "copy",
    "create_dir",
    "create_dir_all",
    "hard_link",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "rename",
    "set_permissions",
    "symlink",
    "write",
];
/// Functions that open a file of any kind: a pipe or a device may be in its place.
const OPENERS: [&str; 3] = ["open", "read", "read_to_string"];
/// Rooms whose files are opened by rules of their own.
const OPENING_ROOMS: [&str; 3] = ["data", "model", "text"];
/// Files that read what the kernel says (`/proc`, `/sys`).
const OF_THE_KERNEL: [&str; 5] = [
    "bench/policy.rs",
    "run/interrupt.rs",
    "run/lock.rs",
    "train/cgroup.rs",
    "train/memory.rs",
];

/// Whether a file holds tests alone.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let inside = path.iter().any(|part| part == "tests");
    inside || name == "tests" || name.ends_with("_tests") || path == Path::new("sweep/fake.rs")
}

/// The tokens before a file's tests, which stand at its end.
fn without_tests(tokens: &[Token]) -> &[Token] {
    let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t| t.text == text);
    let tests = (0..tokens.len()).find(|&i| {
        is(i, "cfg") && is(i + 1, "(") && (is(i + 2, "test") || (is(i + 2, "all") && is(i + 4, "test")))
    });
    &tokens[..tests.unwrap_or(tokens.len())]
}

/// Everything that writes or opens a file otherwise than through `src/file`.
fn loose_files(files: &[(PathBuf, String)]) -> Vec<String> {
    let mut bad = Vec::new();
    for (path, source) in files {
        let room = path.iter().next().unwrap().to_str().unwrap();
        if FILE_ROOMS.contains(&room) || is_test(path) {
            continue;
        }
        let opens = OPENING_ROOMS.contains(&room) || OF_THE_KERNEL.iter().any(|file| path == Path::new(file));
        let all = tokens(source);
        let all = without_tests(&all);
        for (i, token) in all.iter().enumerate() {
            let of = |name: &str| i >= 2 && all[i - 1].text == "::" && all[i - 2].text == name;
            let name = token.text.as_str();
            let writes = (of("fs") && WRITERS.contains(&name))
                || (of("File") && ["create", "create_new", "options"].contains(&name))
                || name == "OpenOptions";
            let opened = (of("fs") || of("File")) && OPENERS.contains(&name);
            if writes || (opened && !opens) {
                bad.push(format!(
                    "src/{}:{}: `{name}` of std outside src/file",
                    path.display(),
                    token.line
                ));
            }
        }
    }
    bad
}

#[test]
fn files_are_written_and_opened_in_one_room() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let bad = loose_files(&rust_files(&src, &src));
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let found = |path: &str, source: &str| loose_files(&[(PathBuf::from(path), source.to_string())]).len();
    for source in [
        "fn f() { std::fs::write(p, b) }",
        "use std::fs; fn f() { fs::remove_dir_all(p) }",
        "fn f() { File::create(p) }",
        "fn f() { std::fs::File::options() }",
        "use std::fs::OpenOptions;",
        "fn f() { std::fs::read(p) }",
    ] {
        assert_eq!(found("run/x.rs", source), 1, "{source}");
        assert_eq!(found("file/x.rs", source) + found("run/x_tests.rs", source), 0);
        assert_eq!(
            found("run/x.rs", &format!("#[cfg(test)] mod tests {{ {source} }}")),
            0
        );
    }
    assert_eq!(
        found("data/x.rs", "fn f() { File::open(p); fs::metadata(p); write(p) }"),
        0
    );
}

fn check(path: &str, source: &str) -> Vec<String> {
    violations(&[(PathBuf::from(path), source.to_owned())])
}

#[test]
fn the_scanner_catches_upward_edges() {
    let at = |path, source, place: &str| {
        let bad = check(path, source);
        assert!(bad.len() == 1 && bad[0].starts_with(place), "{source}: {bad:?}");
    };
    at(
        "gpu/device.rs",
        "use crate::error::Error;\nuse crate::train::Loop;",
        "src/gpu/device.rs:2: gpu names train",
    );
    at(
        "tensor.rs",
        "use crate::{error::{Error, Result},\n  gpu, model::{self, Spec}};",
        "src/tensor.rs:2: tensor names model",
    );
    at(
        "rng.rs",
        "fn f() { let x = crate::config::Seed; }\n#[cfg(test)] mod tests { use super::super::cli; }",
        "src/rng.rs:2: rng names cli",
    );
    at(
        "tensor.rs",
        "use super::kernels::add;",
        "src/tensor.rs:1: tensor names kernels",
    );
    at(
        "kernels/mod.rs",
        "pub use self::super::eval::bo;",
        "src/kernels/mod.rs:1: kernels names eval",
    );
    at(
        "model/a.rs",
        "/* /* a */ \n */ const S: &str = r#\"\n\"#; crate::rollout::go('\\'', \"\\\"\");",
        "src/model/a.rs:3",
    );
    at(
        "text/mod.rs",
        "use crate::model::Spec;",
        "src/text/mod.rs:1: text names model",
    );
    at(
        "rollout/mod.rs",
        "use crate::text::Tokenizer;",
        "src/rollout/mod.rs:1: rollout names text",
    );
    at(
        "optim/mod.rs",
        "use crate::*;",
        "src/optim/mod.rs:1: `*` is not a room",
    );
    at(
        "attic/mod.rs",
        "",
        "src/attic/mod.rs:1: room `attic` is not in the table",
    );
    at(
        "train/mod.rs",
        "fn f(d: &wgpu::Device) {}",
        "src/train/mod.rs:1: `wgpu` is named outside src/gpu",
    );
    at(
        "lib.rs",
        "pub use wgpu_types::Limits;",
        "src/lib.rs:1: `wgpu` is named outside src/gpu",
    );
    let both = [
        ("train/a.rs", "use crate::eval::x;"),
        ("eval/b.rs", "use crate::train::y;"),
    ];
    let both = both.map(|(path, source)| (PathBuf::from(path), source.to_owned()));
    assert_eq!(
        violations(&both),
        ["src/eval/b.rs:1: eval and train name each other (see src/train/a.rs:1)"]
    );
}

#[test]
fn the_scanner_accepts_what_is_allowed() {
    let ok = |path, source: &str| assert_eq!(check(path, source), Vec::<String>::new(), "{source}");
    ok(
        "gpu/device.rs",
        "use wgpu::Device;\nuse crate::{config, error::Result};\nuse super::super::rng;",
    );
    ok(
        "gpu/device.rs",
        "use super::buffer::{Buffer, Usage}; pub(crate) mod inner { use super::super::limits; }",
    );
    ok(
        "cli/train.rs",
        "use crate::{model::{train, eval}, text, report, train::run, gpu};",
    );
    ok(
        "kernels/x.rs",
        "//! see [`crate::train`]\n/// `wgpu`\nfn f<'a>(s: &'a str) -> char { \"crate::train wgpu\"; '\"' }",
    );
    ok(
        "gpu/x.rs",
        "#[cfg(test)] mod tests { use super::*; use crate::gpu::device; } crate::helper!(1);",
    );
    ok(
        "model/x.rs",
        "let train = model.train; train::step(); b\"crate::cli\"; r\"crate::cli\"; b'\"'; crate::text::t();",
    );
    ok("main.rs", "fn main() { tea_wgpu::cli::run() }");
}
