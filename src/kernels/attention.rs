//! Causal attention with grouped KV heads (Ainslie et al. 2023, arXiv 2305.13245), without a T × T matrix in
//! memory (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867; recomputing backward: Dao et al. 2022,
//! arXiv 2205.14135).
//!
//! Every query row says where its keys are: `meta (M) vec4<u32>` = (prefix_start, prefix_len, own_start, position).
//! It attends to the positions `0 ..= position`; position `p` lives at row `prefix_start + p` of k and v if
//! `p < prefix_len`, else at row `own_start + (p − prefix_len)`. One kernel thus serves packed training sequences
//! (k and v are the packed activations and a group's prompt is stored once), prefill, and decoding over a cache.
//!
//! Keys are taken in blocks of eight aligned to position 0, so a row's bits depend on its keys alone: not on
//! the batch, nor on where the rows are stored.

mod cases;
pub mod coop;
mod coop_cases;
#[cfg(test)]
mod coop_tests;
pub mod decode;
mod portable;
mod subgroup;
#[cfg(test)]
mod tests;
mod tiled;
pub mod twin;
mod variant_cases;
#[cfg(test)]
mod variant_tests;

use super::kv::Stored;
use super::weight::lanes;
use super::{Entry, fold};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Binding, Buffer, DeviceKind, Gpu, Kernel, Recorder, params};
pub(super) use cases::work;
use decode::PORTABLE;
use portable::{
    DELTA, FORWARD, FORWARD_PAGED, FORWARD_PAGED_F16, KEY_GRADIENT, QUERY_GRADIENT, VALUE_GRADIENT, class,
};
use subgroup::SUBGROUP;
use tiled::TILED;

/// Whether there are kernels for heads of this many dimensions, to be asked before a model is loaded.
///
/// # Errors
/// A user error where there are none: `head_dim` is no multiple of 4, or above 256.
pub fn check_head_dim(head_dim: usize) -> Result<()> {
    class(head_dim).map(drop)
}

/// Rows of a page of a KV cache: the key block. A page then never holds parts of two blocks of a prompt, and a response's
/// last page wastes at most seven rows.
pub const PAGE: usize = 8;

/// The op's name among variants and benches.
pub const FORWARD_OP: &str = "attention_forward";
/// The three gradients together.
pub const BACKWARD_OP: &str = "attention_backward";

/// The ops that have variants.
pub(super) const OPS: [&str; 3] = [FORWARD_OP, BACKWARD_OP, decode::OP];

/// A variant: chooser, tests and benches read these rows.
struct Variant {
    name: &'static str,
    ops: &'static [&'static str],
    /// One of its kernels: all ask the same of an adapter.
    kernel: &'static Kernel,
    /// Its widest heads.
    widest: usize,
}

static VARIANTS: [Variant; 6] = [
    Variant {
        name: PORTABLE,
        ops: &[FORWARD_OP, BACKWARD_OP, decode::OP],
        kernel: &DELTA,
        widest: 256,
    },
    Variant {
        name: TILED,
        ops: &[FORWARD_OP, BACKWARD_OP],
        kernel: &tiled::FORWARD,
        widest: 256,
    },
    Variant {
        name: decode::GROUPED,
        ops: &[decode::OP],
        kernel: &decode::GROUPED_F32,
        widest: 256,
    },
    Variant {
        name: SUBGROUP,
        ops: &[FORWARD_OP, BACKWARD_OP, decode::OP],
        kernel: &subgroup::FORWARD,
        widest: subgroup::WIDEST,
    },
    Variant {
        name: coop::COOP_8,
        ops: &[BACKWARD_OP],
        kernel: &coop::QUERY_GRADIENT[0],
        widest: coop::WIDEST,
    },
    Variant {
        name: coop::COOP_16,
        ops: &[BACKWARD_OP],
        kernel: &coop::QUERY_GRADIENT[1],
        widest: coop::WIDEST,
    },
];

/// The variants of an op ([`FORWARD_OP`], [`BACKWARD_OP`], [`decode::OP`]) that this adapter runs on heads of this many dimensions, by
/// name, the portable one first; empty for another op.
pub fn variants(gpu: &Gpu, op: &str, head_dim: usize) -> Vec<&'static str> {
    let all = VARIANTS.iter().filter(|v| v.ops.contains(&op));
    all.map(|v| v.name).filter(|v| runs(gpu, v, head_dim)).collect()
}

/// Every variant's name.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    VARIANTS.iter().map(|v| v.name)
}

/// Whether this adapter runs a variant on heads of this many dimensions.
fn runs(gpu: &Gpu, variant: &str, head_dim: usize) -> bool {
    let row = VARIANTS.iter().find(|v| v.name == variant);
    row.is_some_and(|v| head_dim <= v.widest && gpu.report().runs(v.kernel))
}

/// The variant of an op that is forced, if it has one of that name.
fn forced(rec: &Recorder, op: &str) -> Option<&'static str> {
    let name = rec.forced_variant()?;
    let row = VARIANTS.iter().find(|v| v.name == name && v.ops.contains(&op));
    row.map(|v| v.name)
}

/// The variant of [`FORWARD_OP`] and of its gradients to run: the forced one, else by the kind of adapter; the portable one where the lanes are forced, and where
/// the adapter or the heads are not the variant's.
fn choose(rec: &Recorder, head_dim: usize) -> &'static str {
    let gpu = rec.gpu();
    let caps = gpu.caps();
    let name = forced(rec, FORWARD_OP).unwrap_or(match caps.kind {
        _ if caps.forced_lanes.is_some() => PORTABLE,
        DeviceKind::Cpu => SUBGROUP,
        _ => TILED,
    });
    if runs(gpu, name, head_dim) { name } else { PORTABLE }
}

/// Sizes of an attention call.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// M: query rows.
    pub m: usize,
    /// H: query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// KV: key and value heads.
    pub kv_heads: usize,
    /// D: a multiple of 4, at most 256.
    pub head_dim: usize,
    /// Factor on q · k, usually 1/√D.
    pub scale: f32,
}

params! {
    struct Params {
        m: u32,
        heads: u32,
        kv_heads: u32,
        scale: f32,
    }
}

impl Params {
    fn of(s: Shape) -> Self {
        Self {
            m: s.m as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            scale: s.scale,
        }
    }
}

params! {
    struct DeltaParams {
        count: u32,
    }
}

/// What is computed, on whichever variant; of pages, by the element type of keys and values.
#[derive(Clone, Copy)]
enum Op {
    Forward,
    Paged(FloatDtype),
    QueryGradient,
    KeyGradient,
    ValueGradient,
}

impl Op {
    /// Heads of the output.
    fn heads(self, s: Shape) -> usize {
        match self {
            Self::Forward | Self::Paged(_) | Self::QueryGradient => s.heads,
            Self::KeyGradient | Self::ValueGradient => s.kv_heads,
        }
    }

    /// Override constants that the op has on every variant.
    fn constants(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Paged(_) => &[("PAGE", PAGE as f64)],
            _ => &[],
        }
    }
}

/// Records an op on the variant that is to run it.
fn run(rec: &mut Recorder, op: Op, bindings: &[Binding<'_>], s: Shape) -> Result<()> {
    if coop::run(rec, op, bindings, s)?
        || tiled::run(rec, op, bindings, s)?
        || subgroup::run(rec, op, bindings, s)?
    {
        return Ok(());
    }
    run_portable(rec, op, bindings, s)
}

/// Records an op's portable kernel: a lane a row, heads in the second dimension.
fn run_portable(rec: &mut Recorder, op: Op, bindings: &[Binding<'_>], s: Shape) -> Result<()> {
    debug_assert!(s.heads.is_multiple_of(s.kv_heads));
    let kernels = match op {
        Op::Forward => &FORWARD,
        Op::Paged(FloatDtype::Float32) => &FORWARD_PAGED,
        Op::Paged(FloatDtype::Float16) => &FORWARD_PAGED_F16,
        Op::QueryGradient => &QUERY_GRADIENT,
        Op::KeyGradient => &KEY_GRADIENT,
        Op::ValueGradient => &VALUE_GRADIENT,
    };
    let kernel = &kernels[class(s.head_dim)?];
    let lanes = lanes(rec);
    let constants = [
        &[("LANES", lanes as f64), ("D4", (s.head_dim / 4) as f64)][..],
        op.constants(),
    ]
    .concat();
    let groups = [s.m.div_ceil(lanes) as u32, op.heads(s) as u32, 1];
    rec.dispatch(kernel, &constants, &Params::of(s), bindings, groups)
}

/// `out (M, H·D) = softmax(q · kᵀ · scale) · v` over each row's keys, and `lse (M, H)`, the natural log of the sum of
/// the exponentials of the scaled scores. `q (M, H·D)`; `k` and `v (rows, KV·D)`; `meta (M)` as the module says.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and sizes of one op; a struct would only rename them"
)]
pub fn forward(
    rec: &mut Recorder,
    q: &Buffer,
    k: &Buffer,
    v: &Buffer,
    meta: &Buffer,
    out: &Buffer,
    lse: &Buffer,
    shape: Shape,
) -> Result<()> {
    let bindings = [q, k, v, meta, out, lse].map(Binding::from);
    run(rec, Op::Forward, &bindings, shape)
}

/// Keys and values in pages of [`PAGE`] rows: row r of the ranges in `meta` is row `r % PAGE` of page `pages[r / PAGE]`.
#[derive(Debug, Clone, Copy)]
pub struct Paged<'a> {
    /// (pages · PAGE, KV·D) each.
    pub kv: Stored<'a>,
    /// (≥ 1) u32: every entry is a page of keys and values.
    pub pages: &'a Buffer,
}

impl<'a> Paged<'a> {
    fn bindings(&self, q: &'a Buffer, [meta, out, lse]: [&'a Buffer; 3]) -> [Binding<'a>; 7] {
        [q, self.kv.k, self.kv.v, meta, out, lse, self.pages].map(Binding::from)
    }
}

/// As [`forward`], over keys and values in pages: the same bits, wherever the pages are, and in halves those of keys and values that
/// were rounded to them.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn forward_paged(
    rec: &mut Recorder,
    q: &Buffer,
    keys: Paged<'_>,
    meta: &Buffer,
    out: &Buffer,
    lse: &Buffer,
    shape: Shape,
) -> Result<()> {
    let bindings = keys.bindings(q, [meta, out, lse]);
    run(rec, Op::Paged(keys.kv.dtype), &bindings, shape)
}

/// Operands of [`backward`] over the packed layout (query row i and key row i are the same token).
#[derive(Debug, Clone, Copy)]
pub struct BackwardArgs<'a> {
    /// (M, H·D)
    pub q: &'a Buffer,
    /// (M, KV·D)
    pub k: &'a Buffer,
    /// (M, KV·D)
    pub v: &'a Buffer,
    /// (M, H·D), from [`forward`].
    pub out: &'a Buffer,
    /// (M, H), from [`forward`].
    pub lse: &'a Buffer,
    /// (M, H·D): gradient of `out`.
    pub dout: &'a Buffer,
    /// (M) `vec4<u32>`, as in [`forward`].
    pub meta: &'a Buffer,
    /// (M) u32: key row j is attended by exactly the query rows `j .. key_ends[j]`.
    pub key_ends: &'a Buffer,
    /// (M, H) scratch: Σ over D of dout · out.
    pub delta: &'a Buffer,
    /// (M, H·D), set.
    pub dq: &'a Buffer,
    /// (M, KV·D), set.
    pub dk: &'a Buffer,
    /// (M, KV·D), set.
    pub dv: &'a Buffer,
}

/// Sets dq, dk and dv; probabilities are recomputed from `lse`.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn backward(rec: &mut Recorder, args: &BackwardArgs<'_>, shape: Shape) -> Result<()> {
    delta(rec, args, shape)?;
    query_gradient(rec, args, shape)?;
    key_gradient(rec, args, shape)?;
    value_gradient(rec, args, shape)
}

/// The part of [`backward`] that sets `delta`.
///
/// # Errors
/// A GPU error.
pub fn delta(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<()> {
    let count = s.m * s.heads;
    let params = DeltaParams { count: count as u32 };
    let lanes = lanes(rec);
    rec.dispatch(
        &DELTA,
        &[("LANES", lanes as f64), ("D4", (s.head_dim / 4) as f64)],
        &params,
        &[a.dout, a.out, a.delta].map(Binding::from),
        fold(count, lanes),
    )
}

/// The part of [`backward`] that sets `dq`; needs `delta`. Does not use `key_ends`.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn query_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<()> {
    let bindings = [a.q, a.k, a.v, a.meta, a.dout, a.lse, a.delta, a.dq].map(Binding::from);
    run(rec, Op::QueryGradient, &bindings, s)
}

/// The part of [`backward`] that sets `dk`; needs `delta`.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn key_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<()> {
    let bindings = [a.q, a.k, a.v, a.key_ends, a.dout, a.lse, a.delta, a.dk].map(Binding::from);
    run(rec, Op::KeyGradient, &bindings, s)
}

/// The part of [`backward`] that sets `dv`. Does not use `v` and `delta`.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn value_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<()> {
    let bindings = [a.q, a.k, a.v, a.key_ends, a.dout, a.lse, a.delta, a.dv].map(Binding::from);
    run(rec, Op::ValueGradient, &bindings, s)
}

/// The op's rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&FORWARD[0], cases::forward::<0>),
        Entry::new(&FORWARD[1], cases::forward::<1>),
        Entry::new(&FORWARD[2], cases::forward::<2>),
        Entry::new(&FORWARD_PAGED[0], cases::forward_paged::<0>),
        Entry::new(&FORWARD_PAGED[1], cases::forward_paged::<1>),
        Entry::new(&FORWARD_PAGED[2], cases::forward_paged::<2>),
        Entry::new(&FORWARD_PAGED_F16[0], cases::forward_paged_f16::<0>),
        Entry::new(&FORWARD_PAGED_F16[1], cases::forward_paged_f16::<1>),
        Entry::new(&FORWARD_PAGED_F16[2], cases::forward_paged_f16::<2>),
        Entry::new(&decode::GROUPED_F32, cases::decode_grouped),
        Entry::new(&decode::GROUPED_F16, cases::decode_grouped_f16),
        Entry::new(&DELTA, cases::delta),
        Entry::new(&QUERY_GRADIENT[0], cases::query_gradient::<0>),
        Entry::new(&QUERY_GRADIENT[1], cases::query_gradient::<1>),
        Entry::new(&QUERY_GRADIENT[2], cases::query_gradient::<2>),
        Entry::new(&KEY_GRADIENT[0], cases::key_gradient::<0>),
        Entry::new(&KEY_GRADIENT[1], cases::key_gradient::<1>),
        Entry::new(&KEY_GRADIENT[2], cases::key_gradient::<2>),
        Entry::new(&VALUE_GRADIENT[0], cases::value_gradient::<0>),
        Entry::new(&VALUE_GRADIENT[1], cases::value_gradient::<1>),
        Entry::new(&VALUE_GRADIENT[2], cases::value_gradient::<2>),
        Entry::new(&subgroup::FORWARD, variant_cases::forward::<1>),
        Entry::new(&subgroup::FORWARD_PAGED, variant_cases::forward_paged::<1>),
        Entry::new(
            &subgroup::FORWARD_PAGED_F16,
            variant_cases::forward_paged_f16::<1>,
        ),
        Entry::new(&subgroup::QUERY_GRADIENT, variant_cases::query_gradient::<1>),
        Entry::new(&subgroup::KEY_GRADIENT, variant_cases::key_gradient::<1>),
        Entry::new(&subgroup::VALUE_GRADIENT, variant_cases::value_gradient::<1>),
        Entry::new(&tiled::FORWARD, variant_cases::forward::<0>),
        Entry::new(&tiled::FORWARD_PAGED, variant_cases::forward_paged::<0>),
        Entry::new(&tiled::FORWARD_PAGED_F16, variant_cases::forward_paged_f16::<0>),
        Entry::new(&tiled::QUERY_GRADIENT, variant_cases::query_gradient::<0>),
        Entry::new(&tiled::KEY_GRADIENT, variant_cases::key_gradient::<0>),
        Entry::new(&tiled::VALUE_GRADIENT, variant_cases::value_gradient::<0>),
        Entry::new(&coop::QUERY_GRADIENT[0], coop_cases::query_gradient::<0>),
        Entry::new(&coop::QUERY_GRADIENT[1], coop_cases::query_gradient::<1>),
        Entry::new(&coop::KEY_GRADIENT[0], coop_cases::key_gradient::<0>),
        Entry::new(&coop::KEY_GRADIENT[1], coop_cases::key_gradient::<1>),
        Entry::new(&coop::VALUE_GRADIENT[0], coop_cases::value_gradient::<0>),
        Entry::new(&coop::VALUE_GRADIENT[1], coop_cases::value_gradient::<1>),
    ]
}
