//! Every kernel of the table agrees with its float64 twin, run twice to the same bits, on the adapter at hand.
//!
//! `TEA_KERNEL=linear` runs only the kernels whose name starts so (it fails if there is none), `TEA_DEVICE` chooses
//! the adapter, `TEA_UNCHECKED=1` runs the shaders as a release does, without wgpu's checks, and `TEA_SMALL=1` leaves out
//! large cases.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{gpu_options, open_gpu};
use std::collections::BTreeSet;
use std::path::Path;

use tea_wgpu::gpu::{Gpu, GpuOptions, Kernel, Source, list_adapters};
use tea_wgpu::kernels::harness::{Case, Slot};
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
    let gpu = open_gpu();
    let report = gpu.report();
    let checks = if gpu.trusts_shaders() {
        "unchecked"
    } else {
        "checked"
    };
    println!("{} ({}), {checks} shaders", report.name, report.backend);
    let small = std::env::var("TEA_SMALL").is_ok_and(|v| v == "1");
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in entries(&gpu) {
        let mut cases = (entry.cases)();
        if small {
            keep_small(&mut cases);
        }
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

/// Floating-point operations of a small case: all of them take seconds.
const SMALL: f64 = 3e5;

/// Leaves the small cases, or the smallest.
fn keep_small(cases: &mut Vec<Case>) {
    cases.sort_by(|a, b| a.flops.total_cmp(&b.flops));
    cases.truncate(cases.iter().filter(|c| c.flops <= SMALL).count().max(1));
}

/// On a CPU adapter the kernels run in workgroups of 8; here in those that a GPU gets (64, and 256 where a row of the vocabulary is
/// reduced), on their smaller cases; kernels of a fixed workgroup ran above. `TEA_LANES=64` with the test above runs all.
#[test]
fn wide_workgroups_agree_with_their_twins() {
    for (lanes, prefixes) in [(64, &[""][..]), (256, &["head_", "sample_"])] {
        let options = GpuOptions {
            lanes: Some(lanes),
            ..gpu_options()
        };
        let gpu = Gpu::open(&options).unwrap();
        assert_eq!(gpu.caps().lanes(8), lanes as usize);
        let (mut count, mut failures) = (0, Vec::new());
        let open = |e: &Entry| e.kernel.subgroups.is_none() && e.kernel.wgsl().contains("override LANES");
        let wanted = |e: &Entry| open(e) && prefixes.iter().any(|p| e.kernel.name.starts_with(p));
        for entry in entries(&gpu).into_iter().filter(wanted) {
            let mut cases = (entry.cases)();
            keep_small(&mut cases);
            for case in &cases {
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

/// A shader with the mistake that checks hide: it writes one element past a tile of workgroup memory, over the index of
/// its output. With checks the last element of the tile is written instead, and nothing comes of it.
static OVERRUN: Kernel = Kernel::portable(
    "overrun",
    &[Source {
        file: "overrun",
        text: "
struct Shared { tile: array<u32, 4>, at: array<u32, 4> }
struct Params { tile: u32, value: u32 }
var<immediate> p: Params;
var<workgroup> shared_: Shared;
@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(1)
fn main() {
    shared_.at[0] = 0u;
    workgroupBarrier();
    for (var i = 0u; i <= p.tile; i++) { shared_.tile[i] = p.value; }
    workgroupBarrier();
    out[shared_.at[0]] = 1u;
}
",
    }],
);

tea_wgpu::gpu::params! {
    struct Overrun {
        tile: u32,
        value: u32,
    }
}

/// The canaries tell what only unchecked shaders do. On lavapipe, which the gate runs unchecked: elsewhere what such a
/// shader does is anybody's guess.
#[test]
fn a_write_that_only_unchecked_shaders_do_is_caught() {
    const VALUES: usize = 16;
    let case = Case {
        name: "one past the tile".to_owned(),
        slots: vec![Slot::InOut(vec![0.0; VALUES])],
        record: Box::new(|rec, b| {
            let params = Overrun {
                tile: 4,
                value: VALUES as u32 + 3,
            };
            rec.dispatch(&OVERRUN, &[], &params, &[(&b[0]).into()], [1, 1, 1])
        }),
        expect: Box::new(Vec::new),
        flops: 0.0,
    };
    let run = |checks| {
        let gpu = Gpu::open(&GpuOptions {
            shader_checks: Some(checks),
            ..gpu_options()
        })
        .unwrap();
        let report = gpu.report();
        if (report.backend.as_str(), report.driver.as_str()) == ("Vulkan", "llvmpipe") {
            Some(case.run(&gpu))
        } else {
            println!("not tested here: {} is not lavapipe", report.name);
            None
        }
    };
    if let (Some(checked), Some(unchecked)) = (run(true), run(false)) {
        assert_eq!(checked.unwrap()[0].as_ref().unwrap()[0].to_bits(), 1);
        let caught = unchecked.unwrap_err().to_string();
        assert!(caught.contains("wrote past the end of an output"), "{caught}");
    }
}

/// Every usable adapter opens, and computes without what it was opened without. `TEA_EXPECT_REFUSED=1` says that one of
/// them refuses a feature that it lists.
#[test]
fn an_adapter_is_used_without_what_it_refuses() {
    let mut refused = 0;
    for listed in list_adapters().into_iter().filter(|a| a.unusable.is_none()) {
        let gpu = Gpu::open(&GpuOptions {
            device: Some(listed.index.to_string()),
            ..gpu_options()
        })
        .unwrap();
        let report = gpu.report();
        println!("{}: without {:?}", report.name, report.left_out);
        let without = |feature| report.left_out.iter().any(|l| l.feature == feature);
        assert_eq!(report.subgroups, listed.subgroups && !without("subgroups"));
        assert_eq!(report.f16, listed.f16 && !without("f16"));
        assert_eq!(report.timestamps, listed.timestamps && !without("timestamps"));
        assert!(report.coop.is_empty() || !without("cooperative matrices"));
        assert_eq!(
            (gpu.caps().subgroups, gpu.caps().f16),
            (report.subgroups, report.f16)
        );
        assert!(report.left_out.iter().all(|l| !l.why.is_empty()));
        let new = report.left_out.iter().filter(|l| !listed.left_out.contains(l));
        refused += new.count();
        let mut runs = table()
            .into_iter()
            .filter(|e| e.kernel.name.starts_with("rmsnorm_forward"));
        let case = runs.find_map(|e| (e.cases)().into_iter().next()).unwrap();
        case.check(&gpu).unwrap();
    }
    let expected = std::env::var("TEA_EXPECT_REFUSED").is_ok_and(|v| v == "1");
    assert!(!expected || refused > 0, "nothing was refused");
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
        let file = files
            .iter()
            .find(|(stem, _)| format!("{stem}.wgsl") == kernel.parts[0].file);
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
            table().iter().any(|e| e.kernel.parts[0].text == text),
            "{stem}.wgsl is in no entry of the kernel table"
        );
    }
}
