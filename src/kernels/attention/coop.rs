//! Gradients of attention on cooperative matrices, for `--matmul-precision medium`: operands rounded to f16, sums in f32.
//!
//! `coop-8` and `coop-16` walk the tiles of `tiled`. A tile's products are added by the matrix unit, tiles in ascending
//! order: dq's bits depend on the row alone, those of dk and dv on where the tiles of the batch begin. There is no such forward pass:
//! its bits are the sampler's and the trainer's, and stay the chain's.

use super::{BACKWARD_OP, Op, Params, Shape, tiled};
use crate::config::MatmulPrecision;
use crate::error::Result;
use crate::gpu::{Binding, COOP_SUBGROUPS, Kernel, Recorder, Value, shaders};

/// By the side of the matrices.
pub(super) const COOP_8: &str = "coop-8";
/// By the side of the matrices.
pub(super) const COOP_16: &str = "coop-16";
/// Widest heads: a thread holds a quarter of its left rows' sums in registers.
pub(super) const WIDEST: usize = 128;
/// `LEFT` of the shader.
const LEFT: usize = 64;

/// The kernels by the side of the matrices.
macro_rules! coop_kernels {
    ($name:literal, $parts:tt, $values:tt) => {
        [
            coop_kernels!(@one concat!($name, "_coop_8"), $parts, 8, [2, 4], $values),
            coop_kernels!(@one concat!($name, "_coop_16"), $parts, 16, [1, 2], $values),
        ]
    };
    (@one $name:expr, [$($part:literal),*], $side:literal, [$down:literal, $across:literal], [$($value:expr),*]) => {
        Kernel::coop(
            $name,
            shaders![
                $($part,)*
                "shared/attention_coop.wgsl",
                "shared/attention_params.wgsl",
                "shared/attention_math.wgsl",
            ],
            $side,
        )
        .with(&[
            ("DOWN", Value::Number($down)),
            ("ACROSS", Value::Number($across)),
            $($value),*
        ])
    };
}
pub(super) static QUERY_GRADIENT: [Kernel; 2] = coop_kernels!(
    "attention_query_gradient_tiled",
    [
        "attention_query_gradient_tiled.wgsl",
        "shared/attention_spans.wgsl",
        "shared/attention_rows.wgsl"
    ],
    []
);
pub(super) static KEY_GRADIENT: [Kernel; 2] = coop_kernels!(
    "attention_kv_gradient_tiled_keys",
    ["attention_kv_gradient_tiled.wgsl"],
    [("VALUES", Value::Flag(false))]
);
pub(super) static VALUE_GRADIENT: [Kernel; 2] = coop_kernels!(
    "attention_kv_gradient_tiled_values",
    ["attention_kv_gradient_tiled.wgsl"],
    [("VALUES", Value::Flag(true))]
);

/// Which of a gradient's two kernels to run, if any: the forced one, else under `medium` that of the adapter's matrices.
pub(super) fn choose(rec: &Recorder, head_dim: usize) -> Option<usize> {
    let gpu = rec.gpu();
    let of_precision = || match (gpu.matmul_precision(), gpu.report().coop_side()) {
        (MatmulPrecision::Medium, Some(16)) => Some(1),
        (MatmulPrecision::Medium, Some(_)) => Some(0),
        _ => None,
    };
    let kind = match super::forced(rec, BACKWARD_OP) {
        Some(COOP_8) => Some(0),
        Some(COOP_16) => Some(1),
        Some(_) => None,
        None => of_precision(),
    };
    kind.filter(|kind| head_dim <= WIDEST && gpu.report().runs(&QUERY_GRADIENT[*kind]))
}

/// Records the op if cooperative matrices are to be used, which only gradients are; whether it was.
pub(super) fn run(rec: &mut Recorder, op: Op, bindings: &[Binding<'_>], s: Shape) -> Result<bool> {
    let (kernels, rows) = match op {
        Op::Forward | Op::Paged(_) => return Ok(false),
        Op::QueryGradient => (&QUERY_GRADIENT, tiled::queries(s)),
        Op::KeyGradient => (&KEY_GRADIENT, s.m),
        Op::ValueGradient => (&VALUE_GRADIENT, s.m),
    };
    let tiles = rows.div_ceil(LEFT);
    let fits = tiles <= rec.gpu().caps().max_workgroups as usize;
    let Some(kind) = choose(rec, s.head_dim).filter(|_| fits) else {
        return Ok(false);
    };
    // Each of 128 threads has 16 products of a tile.
    let lanes = (COOP_SUBGROUPS * rec.gpu().report().subgroup_size.1).max(128);
    let constants = [
        ("LANES", f64::from(lanes)),
        ("D4", (s.head_dim / 4) as f64),
        ("HEADS", (s.heads / s.kv_heads) as f64),
    ];
    let groups = [tiles as u32, s.kv_heads as u32, 1];
    rec.dispatch(&kernels[kind], &constants, &Params::of(s), bindings, groups)?;
    Ok(true)
}
