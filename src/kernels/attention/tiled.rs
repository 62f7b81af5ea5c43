//! Attention of packed rows, forward and backward, and of prompts over a cache, for GPUs.
//!
//! `tiled` gives the portable kernels' bits, so that the choice may follow the adapter. A workgroup of 128 threads keeps a tile of rows of
//! one KV head ("left": queries, or keys in their gradients) and walks the rows that meet them ("right") a tile at a time, both in
//! workgroup memory: a thread computes four by four products, each one chain along D, then adds four rows' sums to a vec4 of D, each
//! one chain over ascending rows. The portable kernel has a thread a row, which reads every value that it multiplies from memory. On a
//! CPU adapter, whose threads are loops with barriers between them, it is the slower one.

use super::{Op, Params, Shape};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Binding, Kernel, Recorder, Value, shaders};

/// The variant for GPUs.
pub(super) const TILED: &str = "tiled";

macro_rules! tiled_kernel {
    ($name:literal, [$($part:literal),*] $(, $set:literal = $value:expr)*) => {
        Kernel::portable(
            $name,
            shaders![
                $($part,)*
                "shared/attention_tiled.wgsl",
                "shared/attention_params.wgsl",
                "shared/attention_math.wgsl",
            ],
        )
        .with(&[$(($set, $value)),*])
    };
}
pub(super) static FORWARD: Kernel = tiled_kernel!(
    "attention_forward_tiled",
    [
        "attention_forward_tiled.wgsl",
        "shared/attention_spans.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ]
);
pub(super) static FORWARD_PAGED: Kernel = tiled_kernel!(
    "attention_forward_tiled_paged",
    [
        "attention_forward_tiled.wgsl",
        "shared/attention_spans.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true)
);
pub(super) static FORWARD_PAGED_F16: Kernel = tiled_kernel!(
    "attention_forward_tiled_paged_f16",
    [
        "attention_forward_tiled.wgsl",
        "shared/attention_spans.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true),
    "HALF" = Value::Flag(true)
);
pub(super) static QUERY_GRADIENT: Kernel = tiled_kernel!(
    "attention_query_gradient_tiled",
    [
        "attention_query_gradient_tiled.wgsl",
        "shared/attention_spans.wgsl",
        "shared/attention_rows.wgsl"
    ]
);
pub(super) static KEY_GRADIENT: Kernel = tiled_kernel!(
    "attention_kv_gradient_tiled_keys",
    ["attention_kv_gradient_tiled.wgsl"],
    "VALUES" = Value::Flag(false)
);
pub(super) static VALUE_GRADIENT: Kernel = tiled_kernel!(
    "attention_kv_gradient_tiled_values",
    ["attention_kv_gradient_tiled.wgsl"],
    "VALUES" = Value::Flag(true)
);

/// Threads of a workgroup (`LANES` of the shaders), vec4s of workgroup memory for what is staged, and shares of sums a thread holds.
const LANES: usize = 128;
const STAGED: usize = 384;
const SHARES: usize = 4;

/// What a workgroup takes at once: `LEFT`, `RIGHT`, `SHARES` and `PART` of the shaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) shares: usize,
    pub(super) part: usize,
}

impl Sizes {
    /// `None` where heads are too wide.
    pub(super) fn of(head_dim: usize) -> Option<Self> {
        let d4 = head_dim / 4;
        // Either way 2048 products, 16 a thread, and as many vec4s of D to stage for them.
        let [left, right] = if d4 <= 32 { [64, 32] } else { [32, 64] };
        let shares = (left / 4 * d4).div_ceil(LANES);
        let part = [32, 16, 8, 4].into_iter().find(|n| n * d4 <= STAGED);
        part.filter(|_| shares <= SHARES).map(|part| Self {
            left,
            right,
            shares,
            part,
        })
    }
}

/// Workgroups of `rows` left rows a KV head; `None` where the portable kernel is to run: chosen, or heads too wide, or more tiles
/// than a dispatch has.
fn tiles(rec: &Recorder, rows: usize, s: Shape) -> Option<(Sizes, [u32; 3])> {
    let sizes = Sizes::of(s.head_dim).filter(|_| super::choose(rec, s.head_dim) == TILED)?;
    let tiles = rows.div_ceil(sizes.left);
    let fits = tiles <= rec.gpu().caps().max_workgroups as usize;
    fits.then_some((sizes, [tiles as u32, s.kv_heads as u32, 1]))
}

/// Records the op if `tiled` is to run; whether it was.
pub(super) fn run(rec: &mut Recorder, op: Op, bindings: &[Binding<'_>], s: Shape) -> Result<bool> {
    let (kernel, rows) = match op {
        Op::Forward => (&FORWARD, queries(s)),
        Op::Paged(FloatDtype::Float32) => (&FORWARD_PAGED, queries(s)),
        Op::Paged(FloatDtype::Float16) => (&FORWARD_PAGED_F16, queries(s)),
        Op::QueryGradient => (&QUERY_GRADIENT, queries(s)),
        Op::KeyGradient => (&KEY_GRADIENT, s.m),
        Op::ValueGradient => (&VALUE_GRADIENT, s.m),
    };
    let Some((sizes, groups)) = tiles(rec, rows, s) else {
        return Ok(false);
    };
    let constants = [
        &[
            ("D4", (s.head_dim / 4) as f64),
            ("LEFT", sizes.left as f64),
            ("RIGHT", sizes.right as f64),
            ("SHARES", sizes.shares as f64),
            ("PART", sizes.part as f64),
            ("HEADS", (s.heads / s.kv_heads) as f64),
        ][..],
        op.constants(),
    ]
    .concat();
    rec.dispatch(kernel, &constants, &Params::of(s), bindings, groups)?;
    Ok(true)
}

/// Rows of queries: each row of the batch has those of the query heads of a KV head.
pub(super) fn queries(s: Shape) -> usize {
    s.m * (s.heads / s.kv_heads)
}
