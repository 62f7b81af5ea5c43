//! Linear layers with what meets their outputs, and several of one input, in a dispatch: a dispatch costs as much as a small product.
//!
//! Bits do not depend on whether a step was fused: each is rounded once, in the order of [`Epilogue`], and a second product is the
//! chain that it is on its own (under `high` too: R is too short to be split).

use super::linear::{self, ForwardParams, Write, lanes, product};
use super::linear_fused_cases as cases;
use super::linear_variants::{self as variants, PORTABLE, Tile, of_portable, of_subgroup, of_tile};
use super::weight::Weight;
use super::{Entry, pad4};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Kernel, Recorder};
use crate::tensor::DType;

/// A body of the forward product with the parts that make it several products of one x.
macro_rules! slices_kernel {
    ($make:ident, $name:literal, $($file:literal),*) => {
        Kernel::$make($name, &[
            $(include_str!(concat!("../../shaders/", $file)),)*
            include_str!("../../shaders/shared/linear_params.wgsl"),
            include_str!("../../shaders/shared/linear_slices.wgsl"),
        ])
    };
}

static SLICES: Kernel = slices_kernel!(portable, "linear_forward_slices", "linear_forward.wgsl");
static SLICES_1: Kernel = slices_kernel!(
    subgroup8,
    "linear_forward_subgroup_1_slices",
    "linear_forward_subgroup.wgsl",
    "shared/rows_forward_1.wgsl"
);
static SLICES_4: Kernel = slices_kernel!(
    subgroup8,
    "linear_forward_subgroup_4_slices",
    "linear_forward_subgroup.wgsl",
    "shared/rows_forward_4.wgsl"
);
static SLICES_GEMV: Kernel =
    slices_kernel!(portable, "linear_forward_gemv_slices", "linear_forward_gemv.wgsl");
static SLICES_SPLIT: Kernel = slices_kernel!(
    portable,
    "linear_forward_split_slices",
    "linear_forward_split.wgsl"
);

/// Rows up to which products of one x share a dispatch; with more, a kernel for many rows is worth its own.
const EACH_TO: usize = 16;

/// Rows of W that are few: an adapter's rank.
const NARROW: usize = 64;

/// What meets a product besides x and W, in this order; each step is rounded once, in every variant alike.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added: (rows).
    pub bias: Option<&'a Buffer>,
    /// Added, instead of what y holds: laid out as y.
    pub residual: Option<&'a Buffer>,
    /// An adapter's second product, added.
    pub lora: Option<Second<'a>>,
    /// SwiGLU's gate, laid out as y: the output is silu(gate) · the rest. Excludes `residual`.
    pub gate: Option<&'a Buffer>,
}

/// `factor · h (m, R) · Bᵀ`; h has a row stride of [`pad4`]`(R)`, its padding columns are 0.
#[derive(Clone, Copy)]
pub struct Second<'a> {
    /// h: x Aᵀ.
    pub h: &'a Buffer,
    /// B (rows of W, R), f32.
    pub b: &'a Weight,
    /// alpha / R.
    pub factor: f32,
}

/// `y (m, rows) = x (m, cols) · Wᵀ` and what `with` says, in one dispatch where the kernel has room for a second product, else
/// in two with the same bits. Strides and padding as in [`linear::forward`].
///
/// # Errors
/// A GPU error; a residual and a gate at once (a bug).
pub fn forward_with(
    rec: &mut Recorder,
    x: &Buffer,
    w: &Weight,
    with: &Epilogue<'_>,
    y: &Buffer,
    m: usize,
) -> Result<()> {
    if with.residual.is_some() && with.gate.is_some() {
        return Err(Error::internal("a product with a residual and a gate"));
    }
    let tile = variants::forward(rec, w.dtype, [m, w.rows, w.cols]);
    let all = (x, w, 0..w.rows);
    let Some(second) = with.lora.filter(|s| !tile.adds_lora() || !is_plain(s.b)) else {
        return product(rec, &tile, all, with, y, m, Write::SET);
    };
    let first = Epilogue {
        lora: None,
        gate: None,
        ..*with
    };
    product(rec, &tile, all, &first, y, m, Write::SET)?;
    let tile = variants::forward(rec, second.b.dtype, [m, second.b.rows, second.b.cols]);
    let rest = Epilogue {
        gate: with.gate,
        ..Epilogue::default()
    };
    let all = (second.h, second.b, 0..second.b.rows);
    product(rec, &tile, all, &rest, y, m, Write::ADD.scaled(second.factor))
}

/// `yᵢ (m, rowsᵢ) = x (m, cols) · Wᵢᵀ` for every pair: in one dispatch where there are two or three, of one shape, f32, and few
/// rows. Strides and padding as in [`linear::forward`], and the same bits.
///
/// # Errors
/// A GPU error.
pub fn forward_each(rec: &mut Recorder, x: &Buffer, pairs: &[(&Weight, &Buffer)], m: usize) -> Result<()> {
    if let [(w0, y0), (w1, y1), rest @ ..] = pairs
        && let Some(tile) = each_tile(rec, [m, w0.rows, w0.cols])
        && rest.len() <= 1
        && pairs
            .iter()
            .all(|(w, _)| is_plain(w) && (w.rows, w.cols) == (w0.rows, w0.cols))
    {
        let (rows, k4) = (w0.rows, (pad4(w0.cols) / 4) as u32);
        let params = ForwardParams {
            m: m as u32,
            n: rows as u32,
            k4,
            x_stride: k4,
            y_stride: pad4(rows) as u32,
            y_offset: 0,
            w_section: 0,
            w_row: 0,
            flags: 0,
            alpha: 1.0,
            r4: 0,
            beta: 0.0,
        };
        let shard = |w: &Weight| w.shards[0].buffer.clone();
        let (a, b, c) = (shard(w0), shard(w1), rest.first().map(|(w, _)| shard(w)));
        let bindings = [
            x.into(),
            (&a).into(),
            (&b).into(),
            c.as_ref().into(),
            (*y0).into(),
            (*y1).into(),
            rest.first().map_or(Binding::Unused, |(_, y)| (*y).into()),
        ];
        let [across, down, _] = tile.groups([pad4(rows), m]);
        let groups = [across, down, pairs.len() as u32];
        return rec.dispatch(tile.kernel, &lanes(&tile), &params, &bindings, groups);
    }
    for (w, y) in pairs {
        linear::forward(rec, x, w, None, y, m, Write::SET)?;
    }
    Ok(())
}

/// The kernel for `m` rows of products with W (n, k) each: that of the variant which one product would take; none where a dispatch each is better.
fn each_tile(rec: &Recorder, [m, n, k]: [usize; 3]) -> Option<Tile> {
    if m > EACH_TO {
        return None;
    }
    match variants::forward(rec, DType::F32, [m, n, k]).variant {
        PORTABLE => Some(of_portable(rec, &SLICES, 2)),
        "subgroup-1" => Some(of_subgroup(&SLICES_1, 1)),
        "subgroup-4" => Some(of_subgroup(&SLICES_4, 4)),
        // Four times the reads of W: worth the dispatches for an adapter's rank, not for the base's weights.
        "subgroup-16" if n < NARROW => Some(of_subgroup(&SLICES_4, 4)),
        "gemv-8" => Some(of_tile(&SLICES_GEMV, 8, 32)),
        "split-8" => Some(of_tile(&SLICES_SPLIT, 8, 4)),
        _ => None,
    }
}

/// f32 in one buffer.
fn is_plain(w: &Weight) -> bool {
    w.dtype == DType::F32 && w.shards.len() == 1
}

/// The kernels of several products of one x.
pub(super) fn entries() -> Vec<Entry> {
    let cases: [fn() -> Vec<super::harness::Case>; 5] = [
        cases::each_portable,
        cases::each_1,
        cases::each_4,
        cases::each_gemv,
        cases::each_split,
    ];
    let kernels = [&SLICES, &SLICES_1, &SLICES_4, &SLICES_GEMV, &SLICES_SPLIT].into_iter();
    kernels
        .zip(cases)
        .map(|(kernel, cases)| Entry { kernel, cases })
        .collect()
}
