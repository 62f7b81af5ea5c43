//! Which kernel a matrix product runs on.
//!
//! Every variant but `split-8` and `coop-N` computes the chain of the portable one, so the choice may depend on the number of rows
//! and on what was measured ([`tune`](super::tune)), and changes no bit.
//! * `subgroup-N` takes N rows a workgroup of eight threads that are one subgroup: on a CPU adapter a value that all lanes
//!   read is a load and a bounds check each time, a broadcast between registers is neither.
//! * `tile-64` takes 64 × 64 outputs a workgroup, 8 × 8 a thread, with both operands in workgroup memory: on a GPU a value
//!   from memory then meets 64 others.
//! * `gemv-8` takes up to 8 rows by 32 columns: a decode step reads and dequantises each weight once.
//! * `split-8` takes up to 8 rows by 4 columns and splits K over 64 lanes: on a GPU, few rows are too few chains to keep it busy.
//!   The order of its sums is a function of K alone, but not the chain's: it is taken where `high` permits it ([`MatmulPrecision`]).
//! * `coop-8` and `coop-16` take 64 × 64 outputs a workgroup on cooperative matrices of that side. They round their operands to
//!   f16 and add in the matrix unit's order, which is the same for every row: other bits than the chain's, so they are taken for
//!   all products or for none ([`MatmulPrecision`]).

use super::Entry;
use super::linear_cases as cases;
use super::linear_kernels::{
    FORWARD, FORWARD_1, FORWARD_4, FORWARD_16, FORWARD_COOP_8, FORWARD_COOP_16, FORWARD_GEMV, FORWARD_SPLIT,
    FORWARD_TILE, INPUT_GRADIENT, INPUT_GRADIENT_32, INPUT_GRADIENT_COOP_8, INPUT_GRADIENT_COOP_16,
    INPUT_GRADIENT_TILE, WEIGHT_GRADIENT, WEIGHT_GRADIENT_16, WEIGHT_GRADIENT_COOP_8,
    WEIGHT_GRADIENT_COOP_16, WEIGHT_GRADIENT_TILE,
};
use super::tune::Class;
use super::weight::{of, weight_entries};
use crate::config::MatmulPrecision;
use crate::gpu::{COOP_SUBGROUPS, DeviceKind, Gpu, Kernel, Recorder};
use crate::tensor::DType;

/// The variant every op has.
pub(super) const PORTABLE: &str = "portable";
/// The one whose sums are split.
const SPLIT: &str = "split-8";
/// The ops, by the names of their kernels.
pub const OPS: [&str; 3] = [FORWARD_OP, INPUT_GRADIENT_OP, WEIGHT_GRADIENT_OP];
pub(super) const FORWARD_OP: &str = "linear_forward";
pub(super) const INPUT_GRADIENT_OP: &str = "linear_input_gradient";
pub(super) const WEIGHT_GRADIENT_OP: &str = "linear_weight_gradient";
/// Forward's variants, by name.
const FORWARD_VARIANTS: [&str; 9] = [
    PORTABLE,
    "subgroup-1",
    "subgroup-4",
    "subgroup-16",
    "gemv-8",
    "split-8",
    "tile-64",
    "coop-8",
    "coop-16",
];
/// The input gradient's variants, by name.
const INPUT_GRADIENT_VARIANTS: [&str; 5] = [PORTABLE, "subgroup-32", "tile-64", "coop-8", "coop-16"];
/// The weight gradient's variants, by name.
const WEIGHT_GRADIENT_VARIANTS: [&str; 5] = [PORTABLE, "subgroup-16", "tile-64", "coop-8", "coop-16"];

/// Rows of y or dx from which a GPU takes `tile-64`. This and [`WEIGHT_TILE_FROM`] are guesses, made without a GPU at hand:
/// a tile's idle rows cost arithmetic, two passes of `gemv-8` cost a second read of W.
const TILE_FROM: usize = 16;
/// Rows of dw from which a GPU takes `tile-64`. The portable kernel loads three values for 32 products, so a rank-16 adapter,
/// which would leave three quarters of a tile idle, stays with it.
const WEIGHT_TILE_FROM: usize = 32;

/// Rows up to which `high` permits `split-8`: two passes over W. A guess as the others.
const SPLIT_TO: usize = 16;
/// Length of the sums from which it is permitted: half of its lanes have work. An adapter's second product stays one chain.
const SPLIT_FROM: usize = 128;
/// Columns up to which it runs: a workgroup has four, and there are at most 65,535 of them.
const SPLIT_COLS: usize = 4 * 65_535;

/// Whether the sums of this product may be added in another order than the chain's: in decode steps under `high`.
fn may_split(rec: &Recorder, class: &Class) -> bool {
    rec.sums_may_split() && rec.gpu().matmul_precision() == MatmulPrecision::High && is_splittable(class)
}

fn is_splittable(class: &Class) -> bool {
    class.op == FORWARD_OP && class.rows <= SPLIT_TO && class.sum >= SPLIT_FROM && class.cols <= SPLIT_COLS
}

/// An op's variants, by name; none for another op.
fn named(op: &str) -> &'static [&'static str] {
    match op {
        FORWARD_OP => &FORWARD_VARIANTS,
        INPUT_GRADIENT_OP => &INPUT_GRADIENT_VARIANTS,
        WEIGHT_GRADIENT_OP => &WEIGHT_GRADIENT_VARIANTS,
        _ => &[],
    }
}

/// The variants of a linear op ([`OPS`]) that this adapter runs, by name, the portable one first; empty for another op.
pub fn variants(gpu: &Gpu, op: &str) -> Vec<&'static str> {
    let all = named(op).iter().copied();
    all.filter(|name| runs(gpu, name)).collect()
}

/// Every variant's name, of all linear ops.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OPS.iter().flat_map(|op| named(op)).copied()
}

/// Those of [`variants`] that give the portable kernel's bits.
pub fn exact_variants(gpu: &Gpu, op: &str) -> Vec<&'static str> {
    let all = variants(gpu, op).into_iter();
    all.filter(|name| is_exact(name)).collect()
}

fn is_exact(variant: &str) -> bool {
    variant != SPLIT && !variant.starts_with("coop-")
}

/// All kernels of a variant ask the same of an adapter.
fn runs(gpu: &Gpu, variant: &str) -> bool {
    let kernel = match variant {
        "coop-8" => &WEIGHT_GRADIENT_COOP_8,
        "coop-16" => &WEIGHT_GRADIENT_COOP_16,
        _ if variant.starts_with("subgroup-") => &WEIGHT_GRADIENT_16,
        _ => return true,
    };
    gpu.report().runs(kernel)
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
        [PORTABLE, "gemv-8", SPLIT].contains(&self.variant) || self.variant.starts_with("subgroup-")
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

/// The variant to run: the one that is forced if it is among the op's; the cooperative one where the precision allows it; the
/// portable one where the lanes are forced, since the others fix them; on a GPU split sums where they are allowed, measured or not, so
/// that no bit depends on a clock; the one that measuring found best; else the best guess by the kind of adapter.
fn choose(rec: &Recorder, class: Class) -> &'static str {
    let gpu = rec.gpu();
    let forced = rec
        .forced_variant()
        .and_then(|name| named(class.op).iter().copied().find(|c| *c == name));
    let name = forced.or_else(|| of_precision(gpu)).unwrap_or_else(|| {
        if gpu.caps().forced_lanes.is_some() {
            return PORTABLE;
        }
        let split = may_split(rec, &class);
        if split && gpu.caps().kind != DeviceKind::Cpu {
            return SPLIT;
        }
        let chosen = gpu.choice(class.key());
        let tuned = chosen.filter(|name| is_exact(name) || (split && *name == SPLIT));
        tuned.unwrap_or_else(|| default_of(gpu.caps().kind, &class))
    });
    let fits = name != SPLIT || class.cols <= SPLIT_COLS;
    if fits && runs(gpu, name) { name } else { PORTABLE }
}

/// What `medium` takes for every product; a device that is set to it has one of the two.
fn of_precision(gpu: &Gpu) -> Option<&'static str> {
    match (gpu.matmul_precision(), gpu.report().coop_side()) {
        (MatmulPrecision::Medium, Some(16)) => Some("coop-16"),
        (MatmulPrecision::Medium, Some(_)) => Some("coop-8"),
        _ => None,
    }
}

/// The table of defaults, for an adapter on which nothing was measured.
pub(super) fn default_of(kind: DeviceKind, class: &Class) -> &'static str {
    let on_cpu = kind == DeviceKind::Cpu;
    match (class.op, class.rows) {
        (FORWARD_OP, 0..=2) if on_cpu => "subgroup-1",
        (FORWARD_OP, 3..=8) if on_cpu => "subgroup-4",
        (FORWARD_OP, _) if on_cpu => "subgroup-16",
        (FORWARD_OP, rows) if rows < TILE_FROM => "gemv-8",
        (INPUT_GRADIENT_OP, _) if on_cpu => "subgroup-32",
        (INPUT_GRADIENT_OP, rows) if rows < TILE_FROM => PORTABLE,
        (WEIGHT_GRADIENT_OP, _) if on_cpu => "subgroup-16",
        (WEIGHT_GRADIENT_OP, rows) if rows < WEIGHT_TILE_FROM => PORTABLE,
        _ => "tile-64",
    }
}

/// `y (m, n)` with W (n, k) of `dtype`.
pub(super) fn forward(rec: &Recorder, dtype: DType, [m, n, k]: [usize; 3]) -> Tile {
    let name = choose(rec, Class::new(FORWARD_OP, dtype, [m, n, k]));
    let tile = match name {
        "subgroup-1" => of_subgroup(of(&FORWARD_1, dtype), 1),
        "subgroup-4" => of_subgroup(of(&FORWARD_4, dtype), 4),
        "subgroup-16" => of_subgroup(of(&FORWARD_16, dtype), 16),
        "gemv-8" => of_tile(of(&FORWARD_GEMV, dtype), 8, 32),
        SPLIT => of_tile(of(&FORWARD_SPLIT, dtype), 8, 4),
        "tile-64" => of_tile(of(&FORWARD_TILE, dtype), 64, 64),
        "coop-8" => of_coop(rec, of(&FORWARD_COOP_8, dtype)),
        "coop-16" => of_coop(rec, of(&FORWARD_COOP_16, dtype)),
        _ => of_portable(rec, of(&FORWARD, dtype), 2),
    };
    Tile {
        variant: name,
        ..tile
    }
}

/// `dx (m, k)` with W (n, k) of `dtype`.
pub(super) fn input_gradient(rec: &Recorder, dtype: DType, [m, n, k]: [usize; 3]) -> Tile {
    match choose(rec, Class::new(INPUT_GRADIENT_OP, dtype, [m, k, n])) {
        "subgroup-32" => Tile {
            rows_first: true,
            ..of_subgroup(of(&INPUT_GRADIENT_32, dtype), 32)
        },
        "tile-64" => of_tile(of(&INPUT_GRADIENT_TILE, dtype), 64, 64),
        "coop-8" => of_coop(rec, of(&INPUT_GRADIENT_COOP_8, dtype)),
        "coop-16" => of_coop(rec, of(&INPUT_GRADIENT_COOP_16, dtype)),
        _ => of_portable(rec, of(&INPUT_GRADIENT, dtype), 4),
    }
}

/// `dw (n, k)` from `m` rows.
pub(super) fn weight_gradient(rec: &Recorder, [m, n, k]: [usize; 3]) -> Tile {
    match choose(rec, Class::new(WEIGHT_GRADIENT_OP, DType::F32, [n, k, m])) {
        "subgroup-16" => of_subgroup(&WEIGHT_GRADIENT_16, 16),
        "tile-64" => of_tile(&WEIGHT_GRADIENT_TILE, 64, 64),
        "coop-8" => of_coop(rec, &WEIGHT_GRADIENT_COOP_8),
        "coop-16" => of_coop(rec, &WEIGHT_GRADIENT_COOP_16),
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

fn of_coop(rec: &Recorder, kernel: &'static Kernel) -> Tile {
    Tile {
        lanes: Some((COOP_SUBGROUPS * rec.gpu().report().subgroup_size.1) as usize),
        ..of_tile(kernel, 64, 64)
    }
}

/// The kernels of all variants, each with the cases that force it.
pub(super) fn entries() -> Vec<Entry> {
    let entry = |kernel, cases| Entry { kernel, cases };
    use cases::{
        forward_1, forward_4, forward_16, forward_coop_8, forward_coop_16, forward_gemv, forward_portable,
        forward_split, forward_tile, input_gradient_32, input_gradient_coop_8, input_gradient_coop_16,
        input_gradient_portable, input_gradient_tile,
    };
    weight_entries!(FORWARD, forward_portable)
        .chain(weight_entries!(FORWARD_1, forward_1))
        .chain(weight_entries!(FORWARD_4, forward_4))
        .chain(weight_entries!(FORWARD_16, forward_16))
        .chain(weight_entries!(FORWARD_GEMV, forward_gemv))
        .chain(weight_entries!(FORWARD_SPLIT, forward_split))
        .chain(weight_entries!(FORWARD_TILE, forward_tile))
        .chain(weight_entries!(FORWARD_COOP_8, forward_coop_8))
        .chain(weight_entries!(FORWARD_COOP_16, forward_coop_16))
        .chain(weight_entries!(INPUT_GRADIENT, input_gradient_portable))
        .chain(weight_entries!(INPUT_GRADIENT_32, input_gradient_32))
        .chain(weight_entries!(INPUT_GRADIENT_TILE, input_gradient_tile))
        .chain(weight_entries!(INPUT_GRADIENT_COOP_8, input_gradient_coop_8))
        .chain(weight_entries!(INPUT_GRADIENT_COOP_16, input_gradient_coop_16))
        .chain([
            entry(&WEIGHT_GRADIENT, cases::weight_gradient_portable),
            entry(&WEIGHT_GRADIENT_16, cases::weight_gradient_16),
            entry(&WEIGHT_GRADIENT_TILE, cases::weight_gradient_tile),
            entry(&WEIGHT_GRADIENT_COOP_8, cases::weight_gradient_coop_8),
            entry(&WEIGHT_GRADIENT_COOP_16, cases::weight_gradient_coop_16),
        ])
        .collect()
}

#[cfg(test)]
#[path = "linear_variants_tests.rs"]
mod tests;
