//! Which kernel a matrix product runs on.
//!
//! Every variant computes the chain of the portable one, so the choice may depend on the number of rows and changes no bit.
//! * `subgroup-N` takes N rows a workgroup of eight threads that are one subgroup: on a CPU adapter a value that all lanes
//!   read is a load and a bounds check each time, a broadcast between registers is neither.
//! * `tile-64` takes 64 × 64 outputs a workgroup, 8 × 8 a thread, with both operands in workgroup memory: on a GPU a value
//!   from memory then meets 64 others.
//! * `gemv-8` takes up to 8 rows by 32 columns: a decode step reads and dequantises each weight once.

use super::Entry;
use super::linear_cases as cases;
use super::weight::{ByType, of, weight_entries, weight_kernels};
use crate::gpu::{DeviceKind, Gpu, Kernel, Recorder};
use crate::tensor::DType;

static FORWARD: ByType = weight_kernels!(
    portable,
    "linear_forward",
    ["linear_forward.wgsl", "linear_params.wgsl", "linear_output.wgsl"]
);
static FORWARD_1: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_1",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_1.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl"
    ]
);
static FORWARD_4: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_4",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_4.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl"
    ]
);
static FORWARD_16: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_16",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_16.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl"
    ]
);
static FORWARD_GEMV: ByType = weight_kernels!(
    portable,
    "linear_forward_gemv",
    [
        "linear_forward_gemv.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl"
    ]
);
static FORWARD_TILE: ByType = weight_kernels!(
    portable,
    "linear_forward_tile",
    [
        "linear_forward_tile.wgsl",
        "tile_64.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl"
    ]
);
static INPUT_GRADIENT: ByType = weight_kernels!("linear_input_gradient", "linear_input_gradient.wgsl");
static INPUT_GRADIENT_32: ByType = weight_kernels!(
    subgroup8,
    "linear_input_gradient_subgroup",
    ["linear_input_gradient_subgroup.wgsl"]
);
static INPUT_GRADIENT_TILE: ByType = weight_kernels!(
    portable,
    "linear_input_gradient_tile",
    ["linear_input_gradient_tile.wgsl", "tile_64.wgsl"]
);
static WEIGHT_GRADIENT: Kernel = Kernel::portable(
    "linear_weight_gradient",
    &[include_str!("../../shaders/linear_weight_gradient.wgsl")],
);
static WEIGHT_GRADIENT_16: Kernel = Kernel::subgroup8(
    "linear_weight_gradient_subgroup",
    &[include_str!("../../shaders/linear_weight_gradient_subgroup.wgsl")],
);

static WEIGHT_GRADIENT_TILE: Kernel = Kernel::portable(
    "linear_weight_gradient_tile",
    &[
        include_str!("../../shaders/linear_weight_gradient_tile.wgsl"),
        include_str!("../../shaders/shared/tile_64.wgsl"),
    ],
);

/// The variant every op has.
pub(super) const PORTABLE: &str = "portable";
/// Forward's variants, by name.
const FORWARD_VARIANTS: [&str; 6] = [
    PORTABLE,
    "subgroup-1",
    "subgroup-4",
    "subgroup-16",
    "gemv-8",
    "tile-64",
];
/// The input gradient's variants, by name.
const INPUT_GRADIENT_VARIANTS: [&str; 3] = [PORTABLE, "subgroup-32", "tile-64"];
/// The weight gradient's variants, by name.
const WEIGHT_GRADIENT_VARIANTS: [&str; 3] = [PORTABLE, "subgroup-16", "tile-64"];

/// Rows of y or dx from which a GPU takes `tile-64`. This and [`WEIGHT_TILE_FROM`] are guesses, made without a GPU at hand:
/// a tile's idle rows cost arithmetic, two passes of `gemv-8` cost a second read of W.
const TILE_FROM: usize = 16;
/// Rows of dw from which a GPU takes `tile-64`. The portable kernel loads three values for 32 products, so a rank-16 adapter,
/// which would leave three quarters of a tile idle, stays with it.
const WEIGHT_TILE_FROM: usize = 32;

/// The variants of a linear op (`linear_forward`, `linear_input_gradient`, `linear_weight_gradient`) that this adapter runs,
/// by name, the portable one first; empty for another op.
pub fn variants(gpu: &Gpu, op: &str) -> Vec<&'static str> {
    let all: &[&'static str] = match op {
        "linear_forward" => &FORWARD_VARIANTS,
        "linear_input_gradient" => &INPUT_GRADIENT_VARIANTS,
        "linear_weight_gradient" => &WEIGHT_GRADIENT_VARIANTS,
        _ => &[],
    };
    all.iter().copied().filter(|name| runs(gpu, name)).collect()
}

/// All kernels of a variant ask the same of an adapter.
fn runs(gpu: &Gpu, variant: &str) -> bool {
    !variant.starts_with("subgroup-") || gpu.report().runs(&WEIGHT_GRADIENT_16)
}

/// A kernel and the tile of the output that one of its workgroups computes.
pub(super) struct Tile {
    pub(super) kernel: &'static Kernel,
    /// Threads in a workgroup, where the shader leaves them open.
    pub(super) lanes: Option<usize>,
    /// Rows of the output.
    pub(super) rows: usize,
    /// Columns of the output.
    pub(super) cols: usize,
    /// Workgroups count rows along x and columns along y, not the other way round.
    pub(super) rows_first: bool,
    /// The forward variant's name; the gradients leave it at [`PORTABLE`].
    pub(super) variant: &'static str,
}

impl Tile {
    /// Whether a forward kernel computes an adapter's second product as well (`LORA`). With many rows a dispatch is cheap, and the
    /// tile does without the registers.
    pub(super) fn adds_lora(&self) -> bool {
        self.variant == PORTABLE || self.variant.starts_with("subgroup-") || self.variant == "gemv-8"
    }

    /// One workgroup a tile of an output of `[columns, rows]`.
    pub(super) fn groups(&self, [columns, rows]: [usize; 2]) -> [u32; 3] {
        let (across, down) = (
            columns.div_ceil(self.cols) as u32,
            rows.div_ceil(self.rows) as u32,
        );
        if self.rows_first {
            [down, across, 1]
        } else {
            [across, down, 1]
        }
    }
}

/// The variant to run: the one that is forced if it is among the op's `choices`, else the best by the kind of adapter (the
/// portable one where the lanes are forced, since the others fix them).
fn choose(
    rec: &Recorder,
    choices: &[&'static str],
    on_cpu: &'static str,
    on_gpu: &'static str,
) -> &'static str {
    let caps = rec.gpu().caps();
    let forced = rec
        .forced_variant()
        .and_then(|name| choices.iter().copied().find(|c| *c == name));
    let best = match caps.kind {
        _ if caps.forced_lanes.is_some() => PORTABLE,
        DeviceKind::Cpu => on_cpu,
        _ => on_gpu,
    };
    let name = forced.unwrap_or(best);
    if runs(rec.gpu(), name) { name } else { PORTABLE }
}

/// `y (m, n)`: the tile for `m` rows.
pub(super) fn forward(rec: &Recorder, dtype: DType, m: usize) -> Tile {
    let on_cpu = match m {
        0..=2 => "subgroup-1",
        3..=8 => "subgroup-4",
        _ => "subgroup-16",
    };
    let on_gpu = if m < TILE_FROM { "gemv-8" } else { "tile-64" };
    let name = choose(rec, &FORWARD_VARIANTS, on_cpu, on_gpu);
    let tile = match name {
        "subgroup-1" => of_subgroup(of(&FORWARD_1, dtype), 1),
        "subgroup-4" => of_subgroup(of(&FORWARD_4, dtype), 4),
        "subgroup-16" => of_subgroup(of(&FORWARD_16, dtype), 16),
        "gemv-8" => of_tile(of(&FORWARD_GEMV, dtype), 8, 32),
        "tile-64" => of_tile(of(&FORWARD_TILE, dtype), 64, 64),
        _ => of_portable(rec, of(&FORWARD, dtype), 2),
    };
    Tile {
        variant: name,
        ..tile
    }
}

/// `dx (m, k)`: the tile for `m` rows.
pub(super) fn input_gradient(rec: &Recorder, dtype: DType, m: usize) -> Tile {
    let on_gpu = if m < TILE_FROM { PORTABLE } else { "tile-64" };
    match choose(rec, &INPUT_GRADIENT_VARIANTS, "subgroup-32", on_gpu) {
        "subgroup-32" => Tile {
            rows_first: true,
            ..of_subgroup(of(&INPUT_GRADIENT_32, dtype), 32)
        },
        "tile-64" => of_tile(of(&INPUT_GRADIENT_TILE, dtype), 64, 64),
        _ => of_portable(rec, of(&INPUT_GRADIENT, dtype), 4),
    }
}

/// `dw (n, k)`: the tile for `n` rows.
pub(super) fn weight_gradient(rec: &Recorder, n: usize) -> Tile {
    let on_gpu = if n < WEIGHT_TILE_FROM { PORTABLE } else { "tile-64" };
    match choose(rec, &WEIGHT_GRADIENT_VARIANTS, "subgroup-16", on_gpu) {
        "subgroup-16" => of_subgroup(&WEIGHT_GRADIENT_16, 16),
        "tile-64" => of_tile(&WEIGHT_GRADIENT_TILE, 64, 64),
        _ => of_portable(rec, &WEIGHT_GRADIENT, 4),
    }
}

pub(super) fn of_portable(rec: &Recorder, kernel: &'static Kernel, columns: usize) -> Tile {
    let lanes = super::weight::lanes(rec);
    Tile {
        kernel,
        lanes: Some(lanes),
        rows: 8,
        cols: columns * lanes,
        rows_first: false,
        variant: PORTABLE,
    }
}

pub(super) fn of_subgroup(kernel: &'static Kernel, rows: usize) -> Tile {
    Tile {
        kernel,
        lanes: Some(8),
        rows,
        cols: 32,
        rows_first: false,
        variant: PORTABLE,
    }
}

pub(super) fn of_tile(kernel: &'static Kernel, rows: usize, cols: usize) -> Tile {
    Tile {
        kernel,
        lanes: None,
        rows,
        cols,
        rows_first: false,
        variant: PORTABLE,
    }
}

/// The kernels of all variants, each with the cases that force it.
pub(super) fn entries() -> Vec<Entry> {
    let entry = |kernel, cases| Entry { kernel, cases };
    use cases::{
        forward_1, forward_4, forward_16, forward_gemv, forward_portable, forward_tile, input_gradient_32,
        input_gradient_portable, input_gradient_tile,
    };
    weight_entries!(FORWARD, forward_portable)
        .chain(weight_entries!(FORWARD_1, forward_1))
        .chain(weight_entries!(FORWARD_4, forward_4))
        .chain(weight_entries!(FORWARD_16, forward_16))
        .chain(weight_entries!(FORWARD_GEMV, forward_gemv))
        .chain(weight_entries!(FORWARD_TILE, forward_tile))
        .chain(weight_entries!(INPUT_GRADIENT, input_gradient_portable))
        .chain(weight_entries!(INPUT_GRADIENT_32, input_gradient_32))
        .chain(weight_entries!(INPUT_GRADIENT_TILE, input_gradient_tile))
        .chain([
            entry(&WEIGHT_GRADIENT, cases::weight_gradient_portable),
            entry(&WEIGHT_GRADIENT_16, cases::weight_gradient_16),
            entry(&WEIGHT_GRADIENT_TILE, cases::weight_gradient_tile),
        ])
        .collect()
}

#[cfg(test)]
pub(super) fn kernels_of(op: &str) -> Vec<&'static Kernel> {
    let all = entries().into_iter().map(|e| e.kernel);
    all.filter(|k| k.name.starts_with(op)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A forced name must lead to its kernel: one that fell back silently would make every comparison of variants vain.
    #[test]
    fn a_forced_variant_is_the_one_that_runs() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let mut rec = Recorder::new(&gpu);
        for op in [
            "linear_forward",
            "linear_input_gradient",
            "linear_weight_gradient",
        ] {
            for variant in variants(&gpu, op) {
                rec.force_variant(Some(variant));
                let tile = match op {
                    "linear_forward" => forward(&rec, DType::Q8_0, 100),
                    "linear_input_gradient" => input_gradient(&rec, DType::Q8_0, 100),
                    _ => weight_gradient(&rec, 100),
                };
                let rest = tile.kernel.name.strip_prefix(op).unwrap();
                let words: Vec<&str> = rest.split('_').collect();
                let word = variant.split('-').next().unwrap();
                assert_eq!(
                    words.contains(&word),
                    variant != PORTABLE,
                    "{op} {variant}: {rest}"
                );
                let special = ["subgroup", "tile", "gemv"].iter().any(|w| words.contains(w));
                assert_eq!(special, variant != PORTABLE, "{op} {variant}: {rest}");
                if let Some(rows) = variant.split('-').nth(1) {
                    assert_eq!(tile.rows.to_string(), rows, "{op} {variant}");
                }
            }
        }
    }

    /// Only GPUs choose tiles, only CPU adapters subgroups, and forced lanes neither.
    #[test]
    fn the_kind_of_adapter_decides() {
        let lanes = crate::gpu::GpuOptions {
            lanes: Some(16),
            ..Default::default()
        };
        for options in [Default::default(), lanes] {
            let gpu = Gpu::open(&options).unwrap();
            let rec = Recorder::new(&gpu);
            if rec.forced_variant().is_some() {
                continue;
            }
            let caps = gpu.caps();
            let name = match caps.kind {
                _ if caps.forced_lanes.is_some() => "linear_forward_f32",
                DeviceKind::Cpu if runs(&gpu, "subgroup-16") => "linear_forward_subgroup_16_f32",
                DeviceKind::Cpu => "linear_forward_f32",
                _ => "linear_forward_tile_f32",
            };
            let kernel = forward(&rec, DType::F32, 100).kernel.name;
            assert_eq!(kernel, name);
        }
    }
}
