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
use crate::gpu::{Binding, Kernel, Recorder, Value, shaders};

/// The variant's name.
pub(super) const SUBGROUP: &str = "subgroup-8";

/// Rows of a workgroup and of a block, and lanes.
const ROWS: usize = 8;
/// Widest heads whose sums a lane holds (`PARTS` of the shaders times eight).
pub(super) const WIDEST: usize = 64;

macro_rules! subgroup_kernel {
    ($name:literal, [$($part:literal),*] $(, $set:literal = $value:expr)*) => {
        Kernel::subgroup8(
            $name,
            shaders![
                $($part,)*
                "shared/attention_subgroup.wgsl",
                "shared/attention_params.wgsl",
                "shared/attention_math.wgsl",
            ],
        )
        .with(&[$(($set, $value),)* ("SUBGROUP", Value::Flag(true))])
    };
}
pub(super) static FORWARD: Kernel = subgroup_kernel!(
    "attention_forward_subgroup",
    [
        "attention_forward_subgroup.wgsl",
        "shared/attention_runs.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ]
);
pub(super) static FORWARD_PAGED: Kernel = subgroup_kernel!(
    "attention_forward_subgroup_paged",
    [
        "attention_forward_subgroup.wgsl",
        "shared/attention_runs.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true)
);
pub(super) static FORWARD_PAGED_F16: Kernel = subgroup_kernel!(
    "attention_forward_subgroup_paged_f16",
    [
        "attention_forward_subgroup.wgsl",
        "shared/attention_runs.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true),
    "HALF" = Value::Flag(true)
);
pub(super) static QUERY_GRADIENT: Kernel = subgroup_kernel!(
    "attention_query_gradient_subgroup",
    [
        "attention_query_gradient_subgroup.wgsl",
        "shared/attention_subgroup_gradient.wgsl",
        "shared/attention_runs.wgsl",
        "shared/attention_rows.wgsl"
    ]
);
pub(super) static KEY_GRADIENT: Kernel = subgroup_kernel!(
    "attention_kv_gradient_subgroup_keys",
    [
        "attention_kv_gradient_subgroup.wgsl",
        "shared/attention_subgroup_gradient.wgsl"
    ],
    "VALUES" = Value::Flag(false)
);
pub(super) static VALUE_GRADIENT: Kernel = subgroup_kernel!(
    "attention_kv_gradient_subgroup_values",
    ["attention_kv_gradient_subgroup.wgsl"],
    "VALUES" = Value::Flag(true)
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
