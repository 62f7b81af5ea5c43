#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::run::kinds;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.0.path().join(name)).is_ok()
    }

    fn hold(&self, kind: &'static Kind) -> Result<Dir> {
        Dir::hold(self.0.path(), kind)
    }

    /// A run of three steps, as `train` leaves it.
    fn run(&self) -> Dir {
        let dir = self.hold(&kinds::TRAIN).unwrap();
        dir.begin().unwrap();
        self.write("config.toml", "x").write("metrics.jsonl", "{}\n");
        for step in ["step_1", "step_3", "best", ".tmp-step_4", ".old-best"] {
            self.write(&format!("checkpoints/{step}/trainer_state.json"), "{}");
        }
        dir
    }
}

#[track_caller]
fn refused(result: Result<()>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} not in {error}");
    }
}

#[test]
fn what_this_program_wrote_is_replaced_and_nothing_else() {
    let place = Place::new();
    let dir = place.run();
    place.write("notes.txt", "mine");
    dir.clear().unwrap();
    for gone in ["config.toml", "metrics.jsonl", "checkpoints"] {
        assert!(!place.has(gone), "{gone}");
    }
    assert!(place.has("notes.txt") && place.has(MARKER));
}

#[test]
fn what_somebody_else_put_into_a_run_is_named_and_nothing_is_removed() {
    for name in [
        "checkpoints/my-base-model/model.safetensors",
        "checkpoints/step_3-merged/model.safetensors",
        "checkpoints/step_1/merged.gguf",
        "checkpoints/notes.txt",
    ] {
        let place = Place::new();
        let dir = place.run();
        place.write(name, "mine");
        let named = name.strip_suffix("/model.safetensors").unwrap_or(name);
        refused(dir.clear(), &[named, "--overwrite would remove", "--output"]);
        assert!(
            place.has("metrics.jsonl") && place.has("checkpoints/step_3"),
            "{name}"
        );
        // A run that continues does not mind.
        dir.begin().unwrap();
    }
}

#[test]
fn a_directory_of_somebody_else_is_not_written_to() {
    for (name, named) in [
        (
            "checkpoints/my-base-model/model.safetensors",
            "checkpoints/my-base-model",
        ),
        ("config.toml", "config.toml"),
        ("metrics.jsonl", "metrics.jsonl"),
    ] {
        for overwrite in [false, true] {
            let place = Place::new();
            place.write(name, "title = \"a site\"");
            let dir = place.hold(&kinds::TRAIN).unwrap();
            refused(dir.renew(overwrite), &[named, "not written by this program"]);
            assert!(place.has(name) && !place.has(MARKER));
        }
    }
    // Other names, and what is empty, are in nobody's way.
    let place = Place::new();
    place.write("README.md", "mine").write("metrics.jsonl", "");
    fs::create_dir(place.0.path().join("checkpoints")).unwrap();
    place.hold(&kinds::TRAIN).unwrap().begin().unwrap();
}

#[test]
fn a_directory_belongs_to_one_command() {
    let place = Place::new();
    drop(place.run());
    let other = place.hold(&kinds::EVAL).map(drop);
    refused(other, &["`tea-wgpu train`", "`tea-wgpu eval`", "--output"]);
    // The demo's run is a run.
    place.hold(&kinds::DEMO).unwrap().begin().unwrap();
    place.hold(&kinds::DEMO).unwrap().continues().unwrap();
    let other = place.hold(&kinds::SFT).unwrap().continues();
    refused(other, &["`train` and of `sft`", "`tea-wgpu train --resume`"]);
    let marked = |text: &str| {
        place.write(MARKER, text);
        place.hold(&kinds::TRAIN).map(drop)
    };
    refused(
        marked("{\"program\":\"another\",\"command\":\"train\"}"),
        &[MARKER, "another program's"],
    );
    refused(
        marked("{\"program\":\"tea-wgpu\",\"command\":\"paint\"}"),
        &["`tea-wgpu paint`"],
    );
    refused(marked("{\"program\":"), &[MARKER, "damaged"]);
}

#[test]
fn a_directory_of_an_older_version_is_known_by_its_files() {
    let place = Place::new();
    drop(place.run());
    fs::remove_file(place.0.path().join(MARKER)).unwrap();
    let config = "model = \"m\"\nseed = 1\nsave_steps = 5\nlearning_rate = 1e-4\n";
    place.write("config.toml", config);
    refused(place.hold(&kinds::SEARCH).map(drop), &["`tea-wgpu train`"]);
    let dir = place.hold(&kinds::TRAIN).unwrap();
    assert_eq!(dir.checkpoint().unwrap(), None);
    dir.begin().unwrap();
    dir.keep_checkpoint(3).unwrap();
    assert_eq!(dir.checkpoint().unwrap(), Some(3));
    dir.clear().unwrap();
    assert_eq!(dir.checkpoint().unwrap(), None);
    assert!(!place.has("checkpoints"));
}

/// The directories that a continued run removes hold what a killed process left, or what somebody put there.
#[test]
fn what_somebody_put_into_half_written_directories_is_kept() {
    for name in [
        "checkpoints/.tmp-step_4/other",
        "checkpoints/.tmp-0123456789abcdef-step_4/other",
        "checkpoints/.tmp-0123456789abcdef-best/config.toml/other",
        "checkpoints/.old-step_2/other",
        "checkpoints/.old-best/more/other",
        "checkpoints/.old-step_7",
    ] {
        let place = Place::new();
        let dir = place.run();
        place.write(name, "mine");
        let named = name.strip_suffix("/other").filter(|n| n.matches('/').count() > 1);
        let named = named.unwrap_or(name);
        refused(
            dir.check(false),
            &[named, "not written by this program", "remove"],
        );
        refused(dir.begin(), &[named]);
        refused(dir.clear(), &[named, "--overwrite would remove"]);
        assert!(place.has(name) && place.has("metrics.jsonl"), "{name}");
    }
    let place = Place::new();
    let dir = place.run();
    place.write(
        "checkpoints/.tmp-step_4/.tmp-0123456789abcdef-checksums.json",
        "half",
    );
    dir.begin().unwrap();
    assert!(!place.has("checkpoints/.tmp-step_4"));
    dir.clear().unwrap();
    assert!(!place.has("checkpoints"));
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let victim = Place::new();
    victim
        .write("step_9/trainer_state.json", "{}")
        .write(".tmp-best/x", "x");
    let place = Place::new();
    let dir = place.run();
    symlink(
        victim.0.path().join("step_9"),
        place.0.path().join("checkpoints/step_9"),
    )
    .unwrap();
    refused(dir.clear(), &["checkpoints/step_9 (a link)"]);
    fs::remove_file(place.0.path().join("checkpoints/step_9")).unwrap();
    symlink(victim.0.path(), place.0.path().join("checkpoints/.tmp-best")).unwrap();
    refused(dir.clear(), &["checkpoints/.tmp-best (a link)"]);
    fs::remove_file(place.0.path().join("checkpoints/.tmp-best")).unwrap();
    // A file's name is removed, not what a link in its place names.
    fs::remove_file(place.0.path().join("metrics.jsonl")).unwrap();
    symlink(
        victim.0.path().join("step_9/trainer_state.json"),
        place.0.path().join("metrics.jsonl"),
    )
    .unwrap();
    dir.clear().unwrap();
    assert!(!place.has("metrics.jsonl"));
    assert!(victim.has("step_9/trainer_state.json") && victim.has(".tmp-best/x"));
}

#[cfg(unix)]
#[test]
fn a_run_with_links_is_not_continued() {
    use std::os::unix::fs::symlink;
    let victim = Place::new();
    victim.write("file", "mine");
    for name in [
        "config.toml",
        "metrics.jsonl",
        "checkpoints/step_1",
        "checkpoints/step_3/trainer_state.json",
        "checkpoints/.old-best",
    ] {
        let place = Place::new();
        let dir = place.run();
        let path = place.0.path().join(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        symlink(victim.0.path().join("file"), &path).unwrap();
        refused(dir.check(false), &[name, "(a link)"]);
        refused(dir.begin(), &[name, "(a link)"]);
        assert!(place.has("checkpoints/.tmp-step_4"), "nothing was removed");
    }
    // Names of others are in nobody's way, and what is half-written is never read.
    let place = Place::new();
    let dir = place.run();
    for name in [
        "notes",
        "checkpoints/latest",
        ".tmp-config.toml",
        "checkpoints/.tmp-step_9",
    ] {
        symlink(victim.0.path(), place.0.path().join(name)).unwrap();
    }
    dir.begin().unwrap();
    assert!(place.has("checkpoints/latest") && place.has(".tmp-config.toml"));
    assert!(
        !place.has("checkpoints/.tmp-step_4"),
        "a leftover of a killed process"
    );
    assert!(victim.has("file"));
}

#[test]
fn leftovers_of_killed_processes_go_when_a_run_continues() {
    let place = Place::new();
    let dir = place.run();
    let left = [
        ".tmp-0123456789abcdef-config.toml",
        "checkpoints/.tmp-0123456789abcdef-step_4/config.toml",
    ];
    place.write(left[0], "half").write(left[1], "half");
    place.write(".tmp-0123456789abcdef-notes", "mine");
    dir.begin().unwrap();
    assert!(!place.has(left[0]) && !place.has("checkpoints/.tmp-0123456789abcdef-step_4"));
    assert!(place.has(".tmp-0123456789abcdef-notes"));
}
