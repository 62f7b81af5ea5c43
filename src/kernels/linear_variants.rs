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
use super::harness::Case;
use super::linear_cases::of_variant;
use super::linear_fused_cases::{each, gated};
pub(super) use super::linear_kernels::{FORWARD_OP, INPUT_GRADIENT_OP, PORTABLE, Tile, WEIGHT_GRADIENT_OP};
use super::linear_kernels::{Kernels, VARIANTS, Variant};
use super::tune::Class;
use crate::config::MatmulPrecision;
use crate::gpu::{DeviceKind, Gpu, Recorder};
use crate::tensor::DType;

/// The one whose sums are split.
const SPLIT: &str = "split-8";
/// The ops, by the names of their kernels.
pub const OPS: [&str; 3] = [FORWARD_OP, INPUT_GRADIENT_OP, WEIGHT_GRADIENT_OP];

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

/// An op's rows; none for another op.
fn rows(op: &str) -> impl Iterator<Item = &'static Variant> {
    VARIANTS.iter().filter(move |v| v.op == op)
}

fn row(op: &str, name: &str) -> Option<&'static Variant> {
    rows(op).find(|v| v.name == name)
}

/// The variants of a linear op ([`OPS`]) that this adapter runs, by name, the portable one first; empty for another op.
pub fn variants(gpu: &Gpu, op: &str) -> Vec<&'static str> {
    rows(op).filter(|v| runs(gpu, v)).map(|v| v.name).collect()
}

/// Every variant's name, of all linear ops or of one.
pub fn names(op: Option<&str>) -> impl Iterator<Item = &'static str> {
    let of_op = move |v: &&Variant| op.is_none_or(|op| v.op == op);
    VARIANTS.iter().filter(of_op).map(|v| v.name)
}

/// Those of [`variants`] that give the portable kernel's bits.
pub fn exact_variants(gpu: &Gpu, op: &str) -> Vec<&'static str> {
    let exact = rows(op).filter(|v| v.is_exact && runs(gpu, v));
    exact.map(|v| v.name).collect()
}

/// Whether a forward variant has a dispatch for several products of one x, and one for SwiGLU's gate and up.
pub fn shares(variant: &str) -> [bool; 2] {
    row(FORWARD_OP, variant).map_or([false; 2], |v| [!v.slices.is_empty(), !v.gated.is_empty()])
}

/// All kernels of a variant ask the same of an adapter.
fn runs(gpu: &Gpu, variant: &Variant) -> bool {
    variant
        .kernels
        .iter()
        .all(|(_, kernel)| gpu.report().runs(kernel))
}

/// The variant to run: the one that is forced if it is among the op's; the cooperative one where the precision allows it; the
/// portable one where the lanes are forced, since the others fix them; on a GPU split sums where they are allowed, measured or not, so
/// that no bit depends on a clock; the one that measuring found best; else the best guess by the kind of adapter.
fn choose(rec: &Recorder, class: Class) -> &'static Variant {
    let (gpu, op) = (rec.gpu(), class.op);
    let forced = rec.forced_variant().and_then(|name| row(op, name));
    let guess = || {
        if gpu.caps().forced_lanes.is_some() {
            return row(op, PORTABLE);
        }
        let split = may_split(rec, &class);
        if split && gpu.caps().kind != DeviceKind::Cpu {
            return row(op, SPLIT);
        }
        let chosen = gpu.choice(class.key()).and_then(|name| row(op, name));
        let tuned = chosen.filter(|v| v.is_exact || (split && v.name == SPLIT));
        tuned.or_else(|| row(op, default_of(gpu.caps().kind, &class)))
    };
    let wanted = forced
        .or_else(|| of_precision(gpu).and_then(|name| row(op, name)))
        .or_else(guess);
    let fits = |v: &&Variant| (v.name != SPLIT || class.cols <= SPLIT_COLS) && runs(gpu, v);
    // Every op's first row is its portable one.
    wanted
        .filter(fits)
        .or_else(|| rows(op).next())
        .unwrap_or(&VARIANTS[0])
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
    chosen(rec, Class::new(FORWARD_OP, dtype, [m, n, k]), dtype)
}

/// `dx (m, k)` with W (n, k) of `dtype`.
pub(super) fn input_gradient(rec: &Recorder, dtype: DType, [m, n, k]: [usize; 3]) -> Tile {
    chosen(rec, Class::new(INPUT_GRADIENT_OP, dtype, [m, k, n]), dtype)
}

/// `dw (n, k)` from `m` rows.
pub(super) fn weight_gradient(rec: &Recorder, [m, n, k]: [usize; 3]) -> Tile {
    let dtype = DType::F32;
    chosen(rec, Class::new(WEIGHT_GRADIENT_OP, dtype, [n, k, m]), dtype)
}

fn chosen(rec: &Recorder, class: Class, dtype: DType) -> Tile {
    let variant = choose(rec, class);
    variant.tile(rec, variant.kernels, dtype)
}

/// The variant of few rows beside one of many: with its kernels several products may share a dispatch.
pub(super) fn few_rows(variant: &'static Variant) -> Option<&'static Variant> {
    let few = row(FORWARD_OP, "subgroup-4");
    few.filter(|_| variant.name == "subgroup-16")
}

/// The kernels of all variants, each with the cases that force it.
pub(super) fn entries() -> Vec<Entry> {
    entries_of(|v| v.kernels, of_variant)
}

/// Those of products that share a dispatch.
pub(super) fn shared_entries() -> Vec<Entry> {
    let mut all = entries_of(|v| v.slices, each);
    all.extend(entries_of(|v| v.gated, gated));
    all
}

fn entries_of(
    kernels: fn(&'static Variant) -> Kernels,
    cases: fn(&Variant, DType) -> Vec<Case>,
) -> Vec<Entry> {
    let one = |v: &'static Variant| {
        let all = kernels(v).iter();
        all.map(move |(dtype, kernel)| Entry::new(kernel, move || cases(v, *dtype)))
    };
    VARIANTS.iter().flat_map(one).collect()
}

#[cfg(test)]
#[path = "linear_variants_tests.rs"]
mod tests;
