//! Every kernel of the table agrees with its float64 twin, run twice to the same bits, on the adapter at hand.
//!
//! `TEA_KERNEL=linear` runs only the kernels whose name starts so (it fails if there is none), and `TEA_DEVICE` chooses
//! the adapter.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use tea_wgpu::gpu::{Gpu, GpuOptions};
use tea_wgpu::kernels::{Entry, table};

/// The entries this adapter can run; what it cannot run is printed, never passed over in silence.
fn entries(gpu: &Gpu) -> Vec<Entry> {
    let prefix = std::env::var("TEA_KERNEL").unwrap_or_default();
    let chosen: Vec<Entry> = table()
        .into_iter()
        .filter(|e| e.kernel.name.starts_with(&prefix))
        .collect();
    assert!(!chosen.is_empty(), "no kernel's name starts with {prefix:?}");
    let (can, cannot): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|e| gpu.report().runs(e.kernel));
    for e in cannot {
        println!("{}: this adapter lacks what the kernel needs", e.kernel.name);
    }
    can
}

#[test]
fn kernels_agree_with_their_twins() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let report = gpu.report();
    println!("{} ({})", report.name, report.backend);
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in entries(&gpu) {
        let cases = (entry.cases)();
        if cases.is_empty() {
            failures.push(format!("{}: no cases", entry.kernel.name));
        }
        for case in cases {
            count += 1;
            let result = case.check(&gpu);
            let verdict = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{} · {} … {verdict}", entry.kernel.name, case.name);
            failures.extend(result.err().map(|e| format!("{}: {e:?}", entry.kernel.name)));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {count} cases:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Floating-point operations of the cases that `wide_workgroups` runs: small enough that all of them take seconds.
const SMALL: f64 = 3e5;

/// On a CPU adapter the kernels run in workgroups of 8; here in those that a GPU gets (64, and 256 where a row of the vocabulary is
/// reduced), on their smaller cases; kernels of a fixed workgroup ran above. `TEA_LANES=64` with the test above runs all.
#[test]
fn wide_workgroups_agree_with_their_twins() {
    for (lanes, prefixes) in [(64, &[""][..]), (256, &["head_", "sample_"])] {
        let options = GpuOptions {
            lanes: Some(lanes),
            ..GpuOptions::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        assert_eq!(gpu.caps().lanes(8), lanes as usize);
        let (mut count, mut failures) = (0, Vec::new());
        let open = |e: &Entry| e.kernel.subgroups.is_none() && e.kernel.wgsl().contains("override LANES");
        let wanted = |e: &Entry| open(e) && prefixes.iter().any(|p| e.kernel.name.starts_with(p));
        for entry in entries(&gpu).into_iter().filter(wanted) {
            let mut cases = (entry.cases)();
            cases.sort_by(|a, b| a.flops.total_cmp(&b.flops));
            let small = cases.iter().filter(|c| c.flops <= SMALL).count().max(1);
            for case in &cases[..small] {
                count += 1;
                if let Err(e) = case.check(&gpu) {
                    failures.push(format!("{} · {}: {e:?}", entry.kernel.name, case.name));
                }
            }
        }
        println!("{count} cases at {lanes} lanes");
        assert!(
            failures.is_empty(),
            "{} of {count} cases at {lanes} lanes:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
}

#[test]
fn kernels_are_named_after_their_shader_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files: Vec<(String, String)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (stem, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    let mut names = BTreeSet::new();
    for entry in table() {
        let kernel = entry.kernel;
        assert!(names.insert(kernel.name), "{} is in the table twice", kernel.name);
        let file = files.iter().find(|(_, text)| text == kernel.parts[0]);
        let (stem, _) =
            file.unwrap_or_else(|| panic!("{}: its first part is no file of shaders/", kernel.name));
        assert!(
            kernel.name.starts_with(stem.as_str()),
            "{} comes from {stem}.wgsl",
            kernel.name
        );
    }
    for (stem, text) in &files {
        assert!(
            table().iter().any(|e| e.kernel.parts[0] == text),
            "{stem}.wgsl is in no entry of the kernel table"
        );
    }
}
