//! Which kernel a matrix product runs on.
//!
//! Every variant computes the chain of the portable one, so the choice may depend on the number of rows and changes no bit.
//! `subgroup-N` takes N rows a workgroup of eight threads that are one subgroup: on a CPU adapter a value that all lanes
//! read is a load and a bounds check each time, a broadcast between registers is neither.

use super::Entry;
use super::linear_cases::{self as cases, portable};
use super::weight::{ByType, of, weight_entries, weight_kernels};
use crate::gpu::{DeviceKind, Kernel, Recorder};
use crate::tensor::DType;

static FORWARD: ByType = weight_kernels!("linear_forward", "linear_forward.wgsl");
static FORWARD_1: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_1",
    ["linear_forward_subgroup.wgsl", "rows_forward_1.wgsl"]
);
static FORWARD_4: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_4",
    ["linear_forward_subgroup.wgsl", "rows_forward_4.wgsl"]
);
static FORWARD_16: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_16",
    ["linear_forward_subgroup.wgsl", "rows_forward_16.wgsl"]
);
static INPUT_GRADIENT: ByType = weight_kernels!("linear_input_gradient", "linear_input_gradient.wgsl");
static INPUT_GRADIENT_32: ByType = weight_kernels!(
    subgroup8,
    "linear_input_gradient_subgroup",
    ["linear_input_gradient_subgroup.wgsl"]
);
static WEIGHT_GRADIENT: Kernel = Kernel::portable(
    "linear_weight_gradient",
    &[include_str!("../../shaders/linear_weight_gradient.wgsl")],
);
static WEIGHT_GRADIENT_16: Kernel = Kernel::subgroup8(
    "linear_weight_gradient_subgroup",
    &[include_str!("../../shaders/linear_weight_gradient_subgroup.wgsl")],
);

/// Forward's variants, by name.
pub const FORWARD_VARIANTS: [&str; 4] = ["portable", "subgroup-1", "subgroup-4", "subgroup-16"];
/// The input gradient's variants, by name.
pub const INPUT_GRADIENT_VARIANTS: [&str; 2] = ["portable", "subgroup-32"];
/// The weight gradient's variants, by name.
pub const WEIGHT_GRADIENT_VARIANTS: [&str; 2] = ["portable", "subgroup-16"];

/// A kernel and the tile of the output that one of its workgroups computes.
pub(super) struct Tile {
    pub(super) kernel: &'static Kernel,
    /// Threads in a workgroup.
    pub(super) lanes: usize,
    /// Rows of the output.
    pub(super) rows: usize,
    /// Columns of the output.
    pub(super) cols: usize,
    /// Workgroups count rows along x and columns along y, not the other way round.
    pub(super) rows_first: bool,
}

/// Rows of a `subgroup` tile, or `None` for the portable kernel. `choices` are the op's, `best` its own choice.
fn rows(rec: &Recorder, kernel: &Kernel, choices: &[&str], best: usize) -> Option<usize> {
    if !rec.gpu().report().runs(kernel) {
        return None;
    }
    match rec.forced_variant().filter(|name| choices.contains(name)) {
        Some(name) => name.strip_prefix("subgroup-").and_then(|n| n.parse().ok()),
        None => {
            let caps = rec.gpu().caps();
            (caps.kind == DeviceKind::Cpu && caps.forced_lanes.is_none()).then_some(best)
        }
    }
}

/// `y (m, n)`: the tile for `m` rows.
pub(super) fn forward(rec: &Recorder, dtype: DType, m: usize) -> Tile {
    let best = match m {
        0..=2 => 1,
        3..=8 => 4,
        _ => 16,
    };
    let table = match rows(rec, of(&FORWARD_1, dtype), &FORWARD_VARIANTS, best) {
        Some(1) => (&FORWARD_1, 1),
        Some(4) => (&FORWARD_4, 4),
        Some(_) => (&FORWARD_16, 16),
        None => return of_portable(rec, of(&FORWARD, dtype), 2),
    };
    of_subgroup(of(table.0, dtype), table.1)
}

/// `dx (m, k)`.
pub(super) fn input_gradient(rec: &Recorder, dtype: DType) -> Tile {
    match rows(rec, of(&INPUT_GRADIENT_32, dtype), &INPUT_GRADIENT_VARIANTS, 32) {
        Some(rows) => Tile {
            rows_first: true,
            ..of_subgroup(of(&INPUT_GRADIENT_32, dtype), rows)
        },
        None => of_portable(rec, of(&INPUT_GRADIENT, dtype), 4),
    }
}

/// `dw (n, k)`.
pub(super) fn weight_gradient(rec: &Recorder) -> Tile {
    match rows(rec, &WEIGHT_GRADIENT_16, &WEIGHT_GRADIENT_VARIANTS, 16) {
        Some(rows) => of_subgroup(&WEIGHT_GRADIENT_16, rows),
        None => of_portable(rec, &WEIGHT_GRADIENT, 4),
    }
}

fn of_portable(rec: &Recorder, kernel: &'static Kernel, columns: usize) -> Tile {
    let lanes = super::weight::lanes(rec);
    Tile {
        kernel,
        lanes,
        rows: 8,
        cols: columns * lanes,
        rows_first: false,
    }
}

fn of_subgroup(kernel: &'static Kernel, rows: usize) -> Tile {
    Tile {
        kernel,
        lanes: 8,
        rows,
        cols: 32,
        rows_first: false,
    }
}

/// The kernels of all variants, each with the cases that force it.
pub(super) fn entries() -> Vec<Entry> {
    let entry = |kernel, cases| Entry { kernel, cases };
    use cases::{
        forward_1, forward_4, forward_16, forward_portable, input_gradient_32, input_gradient_portable,
    };
    weight_entries!(FORWARD, forward_portable)
        .chain(weight_entries!(FORWARD_1, forward_1))
        .chain(weight_entries!(FORWARD_4, forward_4))
        .chain(weight_entries!(FORWARD_16, forward_16))
        .chain(weight_entries!(INPUT_GRADIENT, input_gradient_portable))
        .chain(weight_entries!(INPUT_GRADIENT_32, input_gradient_32))
        .chain([
            entry(&WEIGHT_GRADIENT, || portable(cases::weight_gradient_cases())),
            entry(&WEIGHT_GRADIENT_16, cases::weight_gradient_16),
        ])
        .collect()
}

#[cfg(test)]
pub(super) fn kernels_of(op: &str) -> Vec<&'static Kernel> {
    let all = entries().into_iter().map(|e| e.kernel);
    all.filter(|k| k.name.starts_with(op)).collect()
}
