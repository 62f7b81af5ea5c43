//! The kernels of attention that every adapter runs: a lane a row, one of each op for heads of up to 64, 128 and 256 dimensions.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Value, shaders};

/// A kernel for each of [`HEADS`].
macro_rules! head_kernels {
    ($name:literal, $parts:tt $(, $set:literal = $value:expr)*) => {
        [
            head_kernels!(@one concat!($name, "_d64"), $parts, 16 $(, $set = $value)*),
            head_kernels!(@one concat!($name, "_d128"), $parts, 32 $(, $set = $value)*),
            head_kernels!(@one concat!($name, "_d256"), $parts, 64 $(, $set = $value)*),
        ]
    };
    (@one $name:expr, [$($part:literal),*], $d4:literal $(, $set:literal = $value:expr)*) => {
        Kernel::portable(
            $name,
            shaders![$($part,)* "shared/attention_params.wgsl", "shared/attention_math.wgsl"],
        )
        .with(&[$(($set, $value),)* ("MAX_D4", Value::Number($d4))])
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
        "attention_forward.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ]
);
pub(super) static FORWARD_PAGED: [Kernel; 3] = head_kernels!(
    "attention_forward_paged",
    [
        "attention_forward.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true)
);
pub(super) static FORWARD_PAGED_F16: [Kernel; 3] = head_kernels!(
    "attention_forward_paged_f16",
    [
        "attention_forward.wgsl",
        "shared/attention_kv.wgsl",
        "shared/attention_rows.wgsl"
    ],
    "PAGED" = Value::Flag(true),
    "HALF" = Value::Flag(true)
);
pub(super) static QUERY_GRADIENT: [Kernel; 3] = head_kernels!(
    "attention_query_gradient",
    ["attention_query_gradient.wgsl", "shared/attention_rows.wgsl"]
);
pub(super) static KEY_GRADIENT: [Kernel; 3] = head_kernels!(
    "attention_kv_gradient_keys",
    ["attention_kv_gradient.wgsl"],
    "VALUES" = Value::Flag(false)
);
pub(super) static VALUE_GRADIENT: [Kernel; 3] = head_kernels!(
    "attention_kv_gradient_values",
    ["attention_kv_gradient.wgsl"],
    "VALUES" = Value::Flag(true)
);
pub(super) static DELTA: Kernel = Kernel::portable(
    "attention_delta",
    shaders!["attention_delta.wgsl", "shared/attention_math.wgsl"],
);
