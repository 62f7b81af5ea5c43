//! Attention of packed rows, forward and backward, and of prompts over a cache, for CPU adapters whose subgroup is a SIMD register of
//! eight.
//!
//! `subgroup-8` gives the portable kernels' bits, so that the choice may follow the adapter. A workgroup is one subgroup with eight rows of
//! a head ("left": queries, or keys in their gradients); it walks the rows that meet them ("right") in blocks of eight. For scores a lane
//! is a row of the block and keeps its row's values for all eight left rows; for sums it is an eighth of D, and a row of the block is loaded
//! once for all of them. What all lanes need is broadcast between registers, where the portable kernels load it from an address that
//! they share: a bounds check, a load and a broadcast for each product. Rows that do not share their keys are walked run by run;
//! what a row is left out of adds exact zeros to it.

use super::{BackwardArgs, PAGE, Paged, Params, Shape};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Binding, Buffer, Kernel, Recorder};

/// The variant's name.
pub(super) const SUBGROUP: &str = "subgroup-8";

/// Rows of a workgroup and of a block, and lanes.
const ROWS: usize = 8;
/// Widest heads whose sums a lane holds (`PARTS` of the shaders times eight).
pub(super) const WIDEST: usize = 64;

macro_rules! subgroup_kernel {
    ($name:literal, $op:literal, [$($part:literal),*]) => {
        Kernel::subgroup8(
            $name,
            &[
                include_str!(concat!("../../../shaders/", $op, "_subgroup.wgsl")),
                include_str!("../../../shaders/shared/attention_subgroup.wgsl"),
                include_str!("../../../shaders/shared/attention_params.wgsl"),
                $(include_str!(concat!("../../../shaders/shared/", $part)),)*
                include_str!("../../../shaders/shared/attention_math.wgsl"),
            ],
        )
    };
}
pub(super) static FORWARD: Kernel = subgroup_kernel!(
    "attention_forward_subgroup",
    "attention_forward",
    [
        "attention_runs.wgsl",
        "kv_subgroup_f32.wgsl",
        "attention_rows.wgsl",
        "attention_contiguous.wgsl"
    ]
);
pub(super) static FORWARD_PAGED: Kernel = subgroup_kernel!(
    "attention_forward_subgroup_paged",
    "attention_forward",
    [
        "attention_runs.wgsl",
        "kv_subgroup_f32.wgsl",
        "attention_rows.wgsl",
        "attention_paged.wgsl"
    ]
);
pub(super) static FORWARD_PAGED_F16: Kernel = subgroup_kernel!(
    "attention_forward_subgroup_paged_f16",
    "attention_forward",
    [
        "attention_runs.wgsl",
        "kv_subgroup_f16.wgsl",
        "attention_rows.wgsl",
        "attention_paged.wgsl"
    ]
);
pub(super) static QUERY_GRADIENT: Kernel = subgroup_kernel!(
    "attention_query_gradient_subgroup",
    "attention_query_gradient",
    [
        "attention_subgroup_gradient.wgsl",
        "attention_runs.wgsl",
        "attention_rows.wgsl",
        "attention_contiguous.wgsl"
    ]
);
pub(super) static KEY_GRADIENT: Kernel = subgroup_kernel!(
    "attention_key_gradient_subgroup",
    "attention_key_gradient",
    ["attention_subgroup_gradient.wgsl", "attention_readers.wgsl"]
);
pub(super) static VALUE_GRADIENT: Kernel = subgroup_kernel!(
    "attention_value_gradient_subgroup",
    "attention_value_gradient",
    ["attention_readers.wgsl"]
);

/// Records the kernel if this variant is to run; whether it was.
fn dispatch(
    rec: &mut Recorder,
    kernel: &'static Kernel,
    own: &[(&'static str, f64)],
    bindings: &[Binding<'_>],
    heads: usize,
    s: Shape,
) -> Result<bool> {
    if super::choose(rec, s.head_dim) != SUBGROUP {
        return Ok(false);
    }
    let constants = [
        &[("LANES", ROWS as f64), ("D4", (s.head_dim / 4) as f64)][..],
        own,
    ]
    .concat();
    let groups = [s.m.div_ceil(ROWS) as u32, heads as u32, 1];
    rec.dispatch(kernel, &constants, &Params::of(s), bindings, groups)?;
    Ok(true)
}

/// As [`forward`](super::forward), if this variant is to run; whether it was recorded.
pub(super) fn forward(rec: &mut Recorder, buffers: [&Buffer; 6], s: Shape) -> Result<bool> {
    dispatch(rec, &FORWARD, &[], &buffers.map(Binding::from), s.heads, s)
}

/// As [`forward_paged`](super::forward_paged), if this variant is to run; whether it was recorded.
pub(super) fn forward_paged(
    rec: &mut Recorder,
    q: &Buffer,
    keys: Paged<'_>,
    [meta, out, lse]: [&Buffer; 3],
    s: Shape,
) -> Result<bool> {
    let bindings = [q, keys.kv.k, keys.kv.v, meta, out, lse, keys.pages].map(Binding::from);
    let kernel = match keys.kv.dtype {
        FloatDtype::Float32 => &FORWARD_PAGED,
        FloatDtype::Float16 => &FORWARD_PAGED_F16,
    };
    dispatch(rec, kernel, &[("PAGE", PAGE as f64)], &bindings, s.heads, s)
}

/// As [`query_gradient`](super::query_gradient), if this variant is to run; whether it was recorded.
pub(super) fn query_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<bool> {
    let bindings = [a.q, a.k, a.v, a.meta, a.dout, a.lse, a.delta, a.dq].map(Binding::from);
    dispatch(rec, &QUERY_GRADIENT, &[], &bindings, s.heads, s)
}

/// As [`key_gradient`](super::key_gradient), if this variant is to run; whether it was recorded.
pub(super) fn key_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<bool> {
    let bindings = [a.q, a.k, a.v, a.key_ends, a.dout, a.lse, a.delta, a.dk].map(Binding::from);
    dispatch(rec, &KEY_GRADIENT, &[], &bindings, s.kv_heads, s)
}

/// As [`value_gradient`](super::value_gradient), if this variant is to run; whether it was recorded.
pub(super) fn value_gradient(rec: &mut Recorder, a: &BackwardArgs<'_>, s: Shape) -> Result<bool> {
    let bindings = [a.q, a.k, a.key_ends, a.dout, a.lse, a.dv].map(Binding::from);
    dispatch(rec, &VALUE_GRADIENT, &[], &bindings, s.kv_heads, s)
}
