//! Attention of packed rows, forward and backward, and of prompts over a cache, for CPU adapters whose subgroup is a SIMD register of
//! eight.
//!
//! `subgroup-8` gives the portable kernels' bits, so that the choice may follow the adapter. A workgroup is one subgroup with eight rows of
//! a head ("left": queries, or keys in their gradients); it walks the rows that meet them ("right") in blocks of eight. For scores a lane
//! is a row of the block and keeps its row's values for all eight left rows; for sums it is an eighth of D, and a row of the block is loaded
//! once for all of them. What all lanes need is broadcast between registers, where the portable kernels load it from an address that
//! they share: a bounds check, a load and a broadcast for each product. Rows that do not share their keys are walked run by run;
//! what a row is left out of adds exact zeros to it.

use super::{Op, Params, Shape};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Binding, Kernel, Recorder};

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

/// Records the op if this variant is to run; whether it was.
pub(super) fn run(rec: &mut Recorder, op: Op, bindings: &[Binding<'_>], s: Shape) -> Result<bool> {
    if super::choose(rec, s.head_dim) != SUBGROUP {
        return Ok(false);
    }
    let kernel = match op {
        Op::Forward => &FORWARD,
        Op::Paged(FloatDtype::Float32) => &FORWARD_PAGED,
        Op::Paged(FloatDtype::Float16) => &FORWARD_PAGED_F16,
        Op::QueryGradient => &QUERY_GRADIENT,
        Op::KeyGradient => &KEY_GRADIENT,
        Op::ValueGradient => &VALUE_GRADIENT,
    };
    let constants = [
        &[("LANES", ROWS as f64), ("D4", (s.head_dim / 4) as f64)][..],
        op.constants(),
    ]
    .concat();
    let groups = [s.m.div_ceil(ROWS) as u32, op.heads(s) as u32, 1];
    rec.dispatch(kernel, &constants, &Params::of(s), bindings, groups)?;
    Ok(true)
}
