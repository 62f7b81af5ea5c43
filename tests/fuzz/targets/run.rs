//! A run directory from somebody else, resumed as far as that goes without a model.

use std::fs;
use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::Value;
use tea_wgpu::config::{TrainFlags, read_toml};
use tea_wgpu::error::Result;
use tea_wgpu::report::metrics::{MetricsWriter, read_metrics};
use tea_wgpu::run::{Dir, kinds};
use tea_wgpu::train::checkpoint::{RunDir, read_state};

use crate::make::{damage, twist, written};

const FILES: &[(&str, &str)] = &[
    ("config.toml", include_str!("../run/config.toml")),
    ("tea-wgpu.json", include_str!("../run/tea-wgpu.json")),
    ("metrics.jsonl", include_str!("../run/metrics.jsonl")),
];
const CHECKPOINT: &[(&str, &str)] = &[
    ("config.toml", include_str!("../run/config.toml")),
    ("adapter_config.json", include_str!("../run/adapter_config.json")),
    ("checksums.json", include_str!("../run/checksums.json")),
    ("trainer_state.json", include_str!("../run/trainer_state.json")),
];
/// What a run must leave alone.
const MINE: &str = "the user's own\n";

fn contents(u: &mut Unstructured<'_>, name: &str, usual: &str) -> Drawn<Vec<u8>> {
    let mut bytes = usual.as_bytes().to_vec();
    if u.ratio(1, 3)? {
        if name.ends_with(".json") {
            let mut value: Value = serde_json::from_str(usual).unwrap();
            twist(u, &mut value)?;
            return written(u, &value);
        }
        damage(u, &mut bytes)?;
    }
    Ok(bytes)
}

/// Writes an entry: mostly the file, sometimes a directory or a link to the user's file.
fn entry(u: &mut Unstructured<'_>, at: &Path, victim: &Path, bytes: &[u8]) -> Drawn<()> {
    match u.int_in_range(0..=19)? {
        0 => drop(fs::create_dir(at)),
        #[cfg(unix)]
        1 => std::os::unix::fs::symlink(victim, at).unwrap(),
        #[cfg(unix)]
        2 => std::os::unix::fs::symlink(at, at).unwrap(),
        3 => {}
        _ => fs::write(at, bytes).unwrap(),
    }
    let _ = victim;
    Ok(())
}

pub(crate) fn directory(u: &mut Unstructured<'_>, dir: &Path) -> Drawn<Result<()>> {
    let (root, outside) = (dir.join("run"), dir.join("outside"));
    for old in [&root, &outside] {
        let _ = fs::remove_dir_all(old);
        fs::create_dir(old).unwrap();
    }
    let victim = outside.join("victim");
    fs::write(&victim, MINE).unwrap();
    for (name, usual) in FILES {
        let bytes = contents(u, name, usual)?;
        entry(u, &root.join(name), &victim, &bytes)?;
    }
    let checkpoints = root.join("checkpoints");
    #[cfg(unix)]
    if u.ratio(1, 20)? {
        std::os::unix::fs::symlink(&outside, &checkpoints).unwrap();
    }
    let _ = fs::create_dir(&checkpoints);
    let names = [
        "step_1",
        "step_2",
        "step_18446744073709551615",
        "step_-1",
        "step_",
        ".tmp-step_3",
        ".old-step_1",
        "best",
        "step_01",
        "\u{1b}[31m",
    ];
    if fs::symlink_metadata(&checkpoints).is_ok_and(|m| m.is_dir()) {
        for _ in 0..u.int_in_range(0..=3)? {
            let at = checkpoints.join(u.choose(&names)?);
            if fs::symlink_metadata(&at).is_ok() {
                continue;
            }
            if u.ratio(1, 12)? {
                entry(u, &at, &outside, b"")?;
                continue;
            }
            fs::create_dir(&at).unwrap();
            for (name, usual) in CHECKPOINT {
                let bytes = contents(u, name, usual)?;
                entry(u, &at.join(name), &victim, &bytes)?;
            }
        }
    }
    let resume = u.ratio(3, 4)?;
    let outcome = go_on(&root, resume);
    assert_eq!(
        fs::read_to_string(&victim).unwrap(),
        MINE,
        "written through a link"
    );
    let left = fs::read_dir(&outside).unwrap().count();
    assert_eq!(left, 1, "something was written beside the run");
    Ok(outcome)
}

/// What `train --resume` or `train --overwrite` does before it opens a model.
fn go_on(root: &Path, resume: bool) -> Result<()> {
    let held = Dir::hold(root, &kinds::TRAIN)?;
    let run = RunDir::check(&held, resume, !resume)?;
    let settings = read_toml::<TrainFlags>(&run.settings()?).and_then(|flags| flags.resolve(&|_| None));
    let run = RunDir::open(&held, resume, !resume)?;
    if let Some(checkpoint) = run.resume_point(&held)? {
        let state = read_state(&checkpoint)?;
        MetricsWriter::resume(run.metrics(), state.step)?;
    }
    let records = read_metrics(run.metrics())?;
    std::hint::black_box(records.len());
    let settings = settings?;
    settings.validate()?;
    run.write_config(&settings.to_toml()?)
}
