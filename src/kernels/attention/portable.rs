//! The kernels of attention that every adapter runs: a lane a row, one of each op for heads of up to 64, 128 and 256 dimensions.

use crate::error::{Error, Result};
use crate::gpu::Kernel;

macro_rules! head_kernels {
    ($op:literal, $parts:tt) => { head_kernels!($op, $op, $parts) };
    ($name:literal, $op:literal, $parts:tt) => {
        head_kernels!($name, $op, $parts, [("d64", "head_64.wgsl"), ("d128", "head_128.wgsl"), ("d256", "head_256.wgsl")])
    };
    ($name:literal, $op:literal, $parts:tt, [$(($suffix:literal, $head:literal)),*]) => {
        [$(head_kernels!(@one $name, $op, $parts, $suffix, $head)),*]
    };
    (@one $name:literal, $op:literal, [$($part:literal),*], $suffix:literal, $head:literal) => {
        Kernel::portable(
            concat!($name, "_", $suffix),
            &[
                include_str!(concat!("../../../shaders/", $op, ".wgsl")),
                include_str!("../../../shaders/shared/attention_params.wgsl"),
                $(include_str!(concat!("../../../shaders/shared/", $part)),)*
                include_str!(concat!("../../../shaders/shared/", $head)),
            ],
        )
    };
}

/// Head dimensions of the variants: each serves those up to its own.
pub(super) const HEADS: [usize; 3] = [64, 128, 256];

/// Which of [`HEADS`] takes heads of this many dimensions.
pub(super) fn class(head_dim: usize) -> Result<usize> {
    let class = HEADS.iter().position(|d| head_dim <= *d);
    class.filter(|_| head_dim.is_multiple_of(4)).ok_or_else(|| {
        Error::user(format!(
            "attention heads of {head_dim} dimensions (head_dim): multiples of 4 up to 256 are supported"
        ))
    })
}

pub(super) static FORWARD: [Kernel; 3] = head_kernels!(
    "attention_forward",
    [
        "kv_f32.wgsl",
        "attention_dots.wgsl",
        "attention_rows.wgsl",
        "attention_contiguous.wgsl",
        "attention_math.wgsl"
    ]
);
pub(super) static FORWARD_PAGED: [Kernel; 3] = head_kernels!(
    "attention_forward_paged",
    "attention_forward",
    [
        "kv_f32.wgsl",
        "attention_dots.wgsl",
        "attention_rows.wgsl",
        "attention_paged.wgsl",
        "attention_math.wgsl"
    ]
);
pub(super) static FORWARD_PAGED_F16: [Kernel; 3] = head_kernels!(
    "attention_forward_paged_f16",
    "attention_forward",
    [
        "kv_f16.wgsl",
        "attention_dots.wgsl",
        "attention_rows.wgsl",
        "attention_paged.wgsl",
        "attention_math.wgsl"
    ]
);
pub(super) static QUERY_GRADIENT: [Kernel; 3] = head_kernels!(
    "attention_query_gradient",
    [
        "attention_rows.wgsl",
        "attention_contiguous.wgsl",
        "attention_math.wgsl"
    ]
);
pub(super) static KEY_GRADIENT: [Kernel; 3] =
    head_kernels!("attention_key_gradient", ["attention_math.wgsl"]);
pub(super) static VALUE_GRADIENT: [Kernel; 3] =
    head_kernels!("attention_value_gradient", ["attention_math.wgsl"]);
pub(super) static DELTA: Kernel = Kernel::portable(
    "attention_delta",
    &[
        include_str!("../../../shaders/attention_delta.wgsl"),
        include_str!("../../../shaders/shared/attention_math.wgsl"),
    ],
);
