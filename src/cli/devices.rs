//! `devices`: what GPUs there are, what they can do, and whether a few kernels compute the right thing on them.

use serde::Serialize;

use super::Globals;
use super::common::Lines;
use crate::error::{Error, Result};
use crate::file::guard::guarded;
use crate::gpu::{AdapterReport, Gpu, GpuOptions, list_adapters};
use crate::kernels::harness::{Case, Slot};
use crate::kernels::tune::{self, Choice, Class};
use crate::kernels::weight::GPU_LANES;
use crate::kernels::{self, Entry};
use crate::report::Progress;
use crate::tensor::DType;

/// List GPU adapters: limits, features, kernel variants, and a self-test of every kernel
///
/// With -v every kernel is named. Ends with code 2 when no adapter can be used.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu devices
  tea-wgpu devices --no-self-test --tune
  tea-wgpu devices --json | jq '.adapters[].kind'
  tea-wgpu devices --device llvmpipe")]
pub(crate) struct Args {
    /// Print one JSON object {\"adapters\": […]}
    #[arg(long)]
    json: bool,
    /// Only list; run no kernels
    #[arg(long)]
    no_self_test: bool,
    /// Measure which variants of the matrix products are fastest here, whatever is known, print the times and keep the choice
    #[arg(long)]
    tune: bool,
}

#[derive(Serialize)]
struct Device {
    #[serde(flatten)]
    report: AdapterReport,
    usable: bool,
    /// Threads along a matrix row.
    lanes: usize,
    /// Kernel → variant.
    variants: Vec<Variant>,
    self_test: Vec<Check>,
    /// Which variants of the matrix products were found fastest, where that was measured.
    tuned: Vec<Choice>,
}

#[derive(Serialize)]
struct Variant {
    kernel: &'static str,
    variant: &'static str,
}

#[derive(Serialize)]
struct Check {
    kernel: &'static str,
    case: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct All<'a> {
    adapters: &'a [Device],
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let wanted = globals.gpu_options()?.device;
    let only = match &wanted {
        // The choice is made by the code that makes it for every command.
        Some(_) => Some(Globals::open(&globals.gpu_options()?)?.report().index),
        None => None,
    };
    let devices: Vec<Device> = list_adapters()
        .into_iter()
        .filter(|r| only.is_none_or(|i| i == r.index))
        .map(|report| inspect(report, !args.no_self_test, args.tune))
        .collect::<Result<_>>()?;
    let mut out = Lines::new();
    if args.json {
        out.push(&All { adapters: &devices })?;
    } else {
        devices
            .iter()
            .for_each(|d| describe(d, globals.verbose > 0, &mut out));
    }
    out.finish(None)?;
    if devices.iter().any(|d| d.usable) {
        return Ok(());
    }
    // The error that every other command would end with says what to install.
    Globals::open(&globals.gpu_options()?).map(drop)?;
    Err(Error::user(
        "no usable adapter: the self-test failed on every one; update the GPU's driver",
    ))
}

fn inspect(mut report: AdapterReport, test: bool, tune: bool) -> Result<Device> {
    let gpu = open(&mut report);
    gpu.as_ref().map_or(Ok(()), kernels::check_forced_name)?;
    let mut usable = report.unusable.is_none();
    let mut lanes = report.kind.lanes(GPU_LANES);
    let table: Vec<Entry> = kernels::table()
        .into_iter()
        .filter(|e| report.runs(e.kernel))
        .collect();
    let variant = |e: &Entry| Variant {
        kernel: e.kernel.name,
        variant: match (e.kernel.needs_f16, e.kernel.needs_subgroups) {
            _ if e.kernel.needs_coop.is_some() => "cooperative matrices",
            (false, false) => "portable",
            (true, false) => "f16",
            (false, true) => "subgroups",
            (true, true) => "f16 and subgroups",
        },
    };
    let variants = if usable {
        table.iter().map(variant).collect()
    } else {
        Vec::new()
    };
    let (mut self_test, mut tuned) = (Vec::new(), Vec::new());
    if let Some(gpu) = gpu {
        lanes = gpu.caps().lanes(GPU_LANES);
        if test {
            self_test = self_tests(&gpu, &table);
        }
        usable = self_test.iter().all(|c| c.ok);
        // Not on an adapter that computes wrongly: it may fail here as well, and the others have yet to be shown.
        if usable {
            tuned = choices(&gpu, tune)?;
        }
    }
    Ok(Device {
        report,
        usable,
        lanes,
        variants,
        self_test,
        tuned,
    })
}

/// Opens an adapter and brings its report up to date: what it had to be opened without, or why it cannot be used.
fn open(report: &mut AdapterReport) -> Option<Gpu> {
    if report.unusable.is_some() {
        return None;
    }
    let options = GpuOptions {
        device: Some(report.index.to_string()),
        ..GpuOptions::default()
    };
    match guarded(|| Gpu::open(&options)).unwrap_or_else(|panic| Err(Error::user(panic))) {
        Ok(gpu) => {
            *report = gpu.report().clone();
            Some(gpu)
        }
        Err(e) => {
            report.unusable = Some(e.to_string());
            None
        }
    }
}

/// What is known of the matrix products' variants, or is measured now: on square weights of 2048, and a rank of 16.
fn choices(gpu: &Gpu, measure: bool) -> Result<Vec<Choice>> {
    const SIDE: usize = 2048;
    const RANK: usize = 16;
    if !measure {
        return Ok(tune::file_of(gpu).map_or_else(Vec::new, |file| tune::stored(gpu, &file).choices));
    }
    let mut classes = Vec::new();
    for dtype in [
        DType::F32,
        DType::F16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q4K,
    ] {
        classes.extend(Class::forward(dtype, SIDE, SIDE));
        classes.push(Class::input_gradient(dtype, SIDE, SIDE));
    }
    for (n, k) in [(RANK, SIDE), (SIDE, RANK)] {
        classes.extend(Class::forward(DType::F32, n, k));
        classes.push(Class::input_gradient(DType::F32, n, k));
        classes.push(Class::weight_gradient(n, k));
    }
    classes.push(Class::weight_gradient(SIDE, SIDE));
    Ok(tune::retune(gpu, &classes)?.choices)
}

/// The choices as lines: what was taken, and what the others took.
fn describe_choices(choices: &[Choice], out: &mut Lines) {
    if choices.is_empty() {
        out.text("   matrix products: variants by the table of defaults (measured by train, eval and search, or by devices --tune)");
        return;
    }
    out.text("   matrix products, measured (ms):");
    for c in choices {
        let [rows, cols, sum] = c.shape;
        let times: Vec<String> = c.ms.iter().map(|(name, ms)| format!("{name} {ms:.3}")).collect();
        out.text(&format!(
            "     {} {} rows {}, {} ({rows}×{cols}×{sum}): {}; {}",
            c.op,
            c.dtype,
            c.rows,
            c.width,
            c.variant,
            times.join(", ")
        ));
    }
}

fn self_tests(gpu: &Gpu, table: &[Entry]) -> Vec<Check> {
    let mut progress = Progress::new("self-test", 0, table.len() as u64);
    let mut done = Vec::new();
    for (n, entry) in (1..).zip(table) {
        done.extend(check(gpu, entry));
        progress.step(n, &[]);
    }
    done
}

/// Runs a kernel's smallest case against its float64 twin.
fn check(gpu: &Gpu, entry: &Entry) -> Option<Check> {
    let case = (entry.cases)().into_iter().min_by_key(size)?;
    // wgpu's back ends panic on what they take for a driver's breach of contract.
    let result = guarded(|| case.check(gpu)).unwrap_or_else(|panic| Err(Error::Gpu(panic)));
    Some(Check {
        kernel: entry.kernel.name,
        case: case.name,
        ok: result.is_ok(),
        error: result.err().map(|e| e.to_string()),
    })
}

fn size(case: &Case) -> usize {
    let bytes = |slot: &Slot| match slot {
        Slot::In(bytes) => bytes.len(),
        Slot::Out(n) | Slot::Picked(n, _) => n * 4,
        Slot::InOut(values) => values.len() * 4,
        Slot::Bytes(words, _) | Slot::Halves(words) => words.len() * 4,
    };
    case.slots.iter().map(bytes).sum()
}

fn describe(device: &Device, verbose: bool, out: &mut Lines) {
    let r = &device.report;
    let kind = serde_json::to_value(r.kind)
        .ok()
        .and_then(|v| v.as_str().map(str::to_string))
        .unwrap_or_default();
    out.text(&format!(
        "{}: {} ({}, {kind}; {} {})",
        r.index, r.name, r.backend, r.driver, r.driver_info
    ));
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    out.text(&format!(
        "   binding {}, buffer {}, {} storage buffers, {} invocations, {} KiB workgroup memory, {} B immediates, {} workgroups",
        mib(r.max_binding_bytes),
        mib(r.max_buffer_bytes),
        r.max_storage_buffers,
        r.max_invocations,
        r.max_workgroup_bytes >> 10,
        r.max_immediate_bytes,
        r.max_workgroups
    ));
    let mut features = Vec::new();
    for (has, name) in [
        (r.f16, "f16"),
        (r.subgroups, "subgroups"),
        (r.timestamps, "timestamps"),
    ] {
        features.push(if has {
            name.to_string()
        } else {
            format!("no {name}")
        });
    }
    if r.subgroups {
        features.push(format!(
            "subgroup size {}–{}",
            r.subgroup_size.0, r.subgroup_size.1
        ));
    }
    out.text(&format!("   {}", features.join(", ")));
    let coop: Vec<String> = r
        .coop
        .iter()
        .map(|c| format!("{}×{}×{} {}→{}", c.m, c.n, c.k, c.ab, c.c))
        .collect();
    out.text(&format!(
        "   cooperative matrices: {}",
        if coop.is_empty() {
            "none".into()
        } else {
            coop.join(", ")
        }
    ));
    for left_out in &r.left_out {
        out.text(&format!("   not used: {left_out}"));
    }
    if let Some(why) = &r.unusable {
        out.text(&format!("   cannot be used: {why}"));
        return;
    }
    let mut names: Vec<&str> = device.variants.iter().map(|v| v.variant).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of: Vec<&str> = device
            .variants
            .iter()
            .filter(|v| v.variant == name)
            .map(|v| v.kernel)
            .collect();
        let list = if verbose {
            format!(": {}", of.join(", "))
        } else {
            String::new()
        };
        out.text(&format!(
            "   {} {name} kernels, {} lanes along a matrix row{list}",
            of.len(),
            device.lanes
        ));
    }
    let failed = device.self_test.iter().filter(|c| !c.ok).count();
    for c in device.self_test.iter().filter(|c| verbose || !c.ok) {
        let result = c
            .error
            .as_ref()
            .map_or("ok".to_string(), |e| format!("FAILED: {e}"));
        out.text(&format!("   {} [{}]: {result}", c.kernel, c.case));
    }
    if !device.self_test.is_empty() {
        let all = device.self_test.len();
        out.text(&format!("   self-test: {} of {all} kernels ok", all - failed));
    }
    describe_choices(&device.tuned, out);
}
