//! Directories from somebody else, with links laid in them to files of the user: nothing is read, written or removed through
//! one. And signals: they end what has nothing to save at once.
#![cfg(unix)]

use super::*;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A home with files of the user, and a directory that came from elsewhere.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put("home/bashrc", "seed = 1\n");
        place.put("home/dir/thesis.txt", "mine");
        place.put("home/dir/.tmp-step_3/x", "mine");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), text).unwrap();
    }

    fn mark(&self, command: &str) {
        let marker = json!({"program": "tea-wgpu", "command": command});
        self.put("theirs/tea-wgpu.json", &marker.to_string());
    }

    fn link(&self, to: &str, name: &str) {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        symlink(self.at(to), self.at(name)).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tea-wgpu"));
        command
            .current_dir(self.0.path())
            .env("HF_HUB_OFFLINE", "1")
            .args(line.split_whitespace());
        command
    }

    #[track_caller]
    fn untouched(&self, what: &str) {
        let read = |path: &str| std::fs::read_to_string(self.at(path)).unwrap();
        assert_eq!(read("home/bashrc"), "seed = 1\n", "{what}");
        assert_eq!(read("home/dir/thesis.txt"), "mine", "{what}");
        assert_eq!(read("home/dir/.tmp-step_3/x"), "mine", "{what}");
        let count = |path: &str| std::fs::read_dir(self.at(path)).unwrap().count();
        assert_eq!((count("home"), count("home/dir")), (2, 2), "{what}");
    }
}

/// Every command whose directory can be continued, and where it reads or writes in it.
#[test]
fn links_in_a_directory_that_is_continued_are_refused() {
    let run = [
        "config.toml",
        "metrics.jsonl",
        "checkpoints/",
        "checkpoints/step_3/",
        "checkpoints/best/",
        "checkpoints/.old-best/",
        "checkpoints/step_3/trainer_state.json",
        "checkpoints/step_3/adapter_model.safetensors",
        "checkpoints/step_3/anything",
        "checkpoints/.old-step_3/config.toml",
    ];
    let line = "--output theirs --resume";
    let all: [(&str, String, &[&str]); 11] = [
        ("train", format!("train {line}"), &run),
        ("sft", format!("sft --data home/bashrc {line}"), &run),
        ("reward", format!("reward --data home/bashrc {line}"), &run),
        ("demo", format!("demo {line}"), &run),
        (
            "eval",
            format!("eval {line}"),
            &["eval.json", "prompts.jsonl", "completions.jsonl", "results.json"],
        ),
        (
            "search",
            format!("search --budget 8 {line}"),
            &["search.json", "search.jsonl", "results.md"],
        ),
        (
            "judge",
            format!("judge home home --model m --endpoint http://127.0.0.1:1/v1 {line}"),
            &["judge.json", "judgements.jsonl", "results.json"],
        ),
        (
            "search predict",
            "search predict --rewards home --output theirs".to_string(),
            &["results.json", "predicted.svg"],
        ),
        (
            "demo-data",
            "demo-data --output theirs".to_string(),
            &[
                "init/",
                "samples.jsonl",
                "prompts-train.jsonl",
                ".old-init/",
                "init/config.json",
            ],
        ),
        (
            "diagnose alignment",
            format!("diagnose alignment {line}"),
            &["settings.json", "samples.jsonl", "gram/"],
        ),
        (
            "diagnose",
            "diagnose synthetic --replicates 64 --sizes 256 --output theirs".to_string(),
            &["synthetic.json", "synthetic-a.png"],
        ),
    ];
    for (command, line, names) in all {
        for name in names.iter().chain(&["tea-wgpu.json"]) {
            let place = Place::new();
            place.mark(command);
            let path = format!("theirs/{}", name.trim_end_matches('/'));
            let to = if name.ends_with('/') {
                "home/dir"
            } else {
                "home/bashrc"
            };
            let _ = std::fs::remove_file(place.at(&path));
            place.link(to, &path);
            let what = format!("{line}: {name}");
            let run = finish(&mut place.command(&line));
            assert_eq!(run.code, 2, "{what}: {}", run.err);
            assert!(
                run.err.contains(name.trim_end_matches('/')),
                "{what}: {}",
                run.err
            );
            assert!(run.err.contains("a link"), "{what}: {}", run.err);
            assert!(!run.err.contains("seed"), "{what}: {}", run.err);
            place.untouched(&what);
            assert!(
                std::fs::symlink_metadata(place.at(&path)).unwrap().is_symlink(),
                "{what}"
            );
        }
    }
}

#[test]
fn links_in_place_of_a_sweeps_directories_are_refused() {
    for name in [
        "sweep.json",
        "runs",
        "evals",
        "compare",
        "runs/grpo-seed1",
        "evals/base",
    ] {
        let place = Place::new();
        place.mark("sweep");
        place.put(
            "sweep.toml",
            "seeds = [1]\n[train]\nmodel = \"tiny\"\nsteps = 1\n[[method]]\nname = \"grpo\"\nadvantage = \"grpo\"\n",
        );
        let to = if name.contains('.') {
            "home/bashrc"
        } else {
            "home/dir"
        };
        place.link(to, &format!("theirs/{name}"));
        finish(&mut place.command("sweep --config sweep.toml --output theirs")).refused(&[name, "a link"]);
        place.untouched(name);
    }
}

/// Names that a command writes to first, and those that it replaces.
#[test]
fn links_beside_an_output_are_not_followed() {
    let place = Place::new();
    let hh = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prepare/hh-rlhf.jsonl");
    place.mark("diagnose");
    place.link("home/dir", ".tmp-data");
    place.link("home/bashrc", "theirs/.tmp-tea-wgpu.json");
    place.link("home/bashrc", "theirs/.tmp-0123456789abcdef-synthetic.json");
    let prepare = format!("prepare --input {} --output data", text(&hh));
    assert_eq!(finish(&mut place.command(&prepare)).code, 0);
    place.untouched("prepare");
    place.link("home/dir", ".old-data");
    let prepare = format!("{prepare} --overwrite");
    finish(&mut place.command(&prepare)).refused(&[".old-data"]);
    place.untouched("prepare");
    let line = "diagnose synthetic --replicates 64 --sizes 256 --output theirs";
    let run = finish(&mut place.command(line));
    assert_eq!(run.code, 0, "{}", run.err);
    place.untouched("diagnose");
    assert!(std::fs::symlink_metadata(place.at("theirs/.tmp-tea-wgpu.json")).is_ok());
}

#[test]
fn the_lock_of_a_directory_is_no_way_out_of_it() {
    for hard in [false, true] {
        let place = Place::new();
        place.mark("train");
        let path = place.at("theirs/.tea-wgpu.lock");
        match hard {
            true => std::fs::hard_link(place.at("home/bashrc"), &path).unwrap(),
            false => symlink(place.at("home/bashrc"), &path).unwrap(),
        }
        finish(&mut place.command("train --output theirs --resume")).refused(&[".tea-wgpu.lock", "emove it"]);
        place.untouched("lock");
    }
}

/// Whether this process, and so its children, began with SIGINT ignored.
fn interrupts_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|mask| mask & 2 != 0)
}

/// A process that waits for data: a pipe that nobody writes to.
#[test]
fn a_signal_ends_at_once_what_has_nothing_to_save() {
    let place = Place::new();
    let pipe = place.at("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (name, said, code) in [
        ("INT", "interrupted", 130),
        ("TERM", "terminated", 143),
        ("HUP", "hung up", 129),
    ] {
        for line in [
            "train --prompts pipe --output out",
            "prepare --input pipe --output data",
            "logprobs --model tiny --input pipe",
        ] {
            let mut command = place.command(line);
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // It listens before it opens its input; then it holds what it writes to.
            std::thread::sleep(Duration::from_millis(1500));
            assert!(child.try_wait().unwrap().is_none(), "{line}");
            let begun = Instant::now();
            let kill = format!("kill -{name} {}", child.id());
            assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            if name == "INT" && interrupts_are_ignored() {
                // As in a script's background job: it stays ignored.
                std::thread::sleep(Duration::from_millis(500));
                assert!(child.try_wait().unwrap().is_none(), "{line}");
                child.kill().unwrap();
                child.wait().unwrap();
                for made in ["out", "data"] {
                    let _ = std::fs::remove_dir_all(place.at(made));
                }
                continue;
            }
            let ended = child.wait_with_output().unwrap();
            assert_eq!(ended.status.code(), Some(code), "{line}, SIG{name}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
            assert_eq!(
                String::from_utf8(ended.stderr).unwrap(),
                format!("{said}\n"),
                "{line}"
            );
        }
    }
    // Neither locks nor directories that were made for nothing stay.
    let mut left: Vec<_> = std::fs::read_dir(place.0.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["home", "pipe"]);
}
