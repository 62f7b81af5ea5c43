//! The kernels of matrix products, variant by variant; [`linear_variants`](super::linear_variants) chooses among them.

use super::weight::{ByType, weight_kernels};
use crate::gpu::{Kernel, Value, shaders};

pub(super) static FORWARD: ByType = weight_kernels!(
    portable,
    "linear_forward",
    [
        "linear_forward.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static FORWARD_1: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_1",
    [
        "linear_forward_subgroup.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    [("ROWS", Value::Number(1)), ("EIGHTS", Value::Number(1))]
);
pub(super) static FORWARD_4: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_4",
    [
        "linear_forward_subgroup.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    [("ROWS", Value::Number(4)), ("EIGHTS", Value::Number(1))]
);
pub(super) static FORWARD_16: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_16",
    [
        "linear_forward_subgroup.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    [("ROWS", Value::Number(16)), ("EIGHTS", Value::Number(2))]
);
pub(super) static FORWARD_GEMV: ByType = weight_kernels!(
    portable,
    "linear_forward_gemv",
    [
        "linear_forward_gemv.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static FORWARD_SPLIT: ByType = weight_kernels!(
    portable,
    "linear_forward_split",
    [
        "linear_forward_split.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static FORWARD_TILE: ByType = weight_kernels!(
    portable,
    "linear_forward_tile",
    [
        "linear_forward_tile.wgsl",
        "shared/tile_64.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static INPUT_GRADIENT: ByType = weight_kernels!(
    portable,
    "linear_input_gradient",
    [
        "linear_input_gradient.wgsl",
        "shared/linear_input_gradient_params.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static INPUT_GRADIENT_32: ByType = weight_kernels!(
    subgroup8,
    "linear_input_gradient_subgroup",
    [
        "linear_input_gradient_subgroup.wgsl",
        "shared/linear_input_gradient_params.wgsl",
        "shared/weight.wgsl"
    ],
    [("ROWS", Value::Number(32))]
);
pub(super) static INPUT_GRADIENT_TILE: ByType = weight_kernels!(
    portable,
    "linear_input_gradient_tile",
    [
        "linear_input_gradient_tile.wgsl",
        "shared/tile_64.wgsl",
        "shared/linear_input_gradient_params.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static WEIGHT_GRADIENT: Kernel = Kernel::portable(
    "linear_weight_gradient",
    shaders![
        "linear_weight_gradient.wgsl",
        "shared/linear_weight_gradient_params.wgsl"
    ],
);
pub(super) static WEIGHT_GRADIENT_16: Kernel = Kernel::subgroup8(
    "linear_weight_gradient_subgroup",
    shaders![
        "linear_weight_gradient_subgroup.wgsl",
        "shared/linear_weight_gradient_params.wgsl"
    ],
);

pub(super) static FORWARD_COOP_8: ByType = weight_kernels!(
    coop(8),
    "linear_forward_coop_8",
    [
        "linear_forward_coop.wgsl",
        "shared/coop_tile.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static FORWARD_COOP_16: ByType = weight_kernels!(
    coop(16),
    "linear_forward_coop_16",
    [
        "linear_forward_coop.wgsl",
        "shared/coop_tile.wgsl",
        "shared/linear_params.wgsl",
        "shared/linear_output.wgsl",
        "shared/linear_columns.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static INPUT_GRADIENT_COOP_8: ByType = weight_kernels!(
    coop(8),
    "linear_input_gradient_coop_8",
    [
        "linear_input_gradient_coop.wgsl",
        "shared/coop_tile.wgsl",
        "shared/linear_input_gradient_params.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static INPUT_GRADIENT_COOP_16: ByType = weight_kernels!(
    coop(16),
    "linear_input_gradient_coop_16",
    [
        "linear_input_gradient_coop.wgsl",
        "shared/coop_tile.wgsl",
        "shared/linear_input_gradient_params.wgsl",
        "shared/weight.wgsl"
    ],
    []
);
pub(super) static WEIGHT_GRADIENT_COOP_8: Kernel = Kernel::coop(
    "linear_weight_gradient_coop_8",
    shaders![
        "linear_weight_gradient_coop.wgsl",
        "shared/linear_weight_gradient_params.wgsl",
        "shared/coop_tile.wgsl"
    ],
    8,
);
pub(super) static WEIGHT_GRADIENT_COOP_16: Kernel = Kernel::coop(
    "linear_weight_gradient_coop_16",
    shaders![
        "linear_weight_gradient_coop.wgsl",
        "shared/linear_weight_gradient_params.wgsl",
        "shared/coop_tile.wgsl"
    ],
    16,
);
pub(super) static WEIGHT_GRADIENT_TILE: Kernel = Kernel::portable(
    "linear_weight_gradient_tile",
    shaders![
        "linear_weight_gradient_tile.wgsl",
        "shared/linear_weight_gradient_params.wgsl",
        "shared/tile_64.wgsl"
    ],
);

/// Several products of one x in a dispatch.
macro_rules! slices_kernels {
    ($make:ident, $op:literal, $file:literal, [$($value:expr),*]) => {
        weight_kernels!(
            $make,
            $op,
            [$file, "shared/linear_slices.wgsl", "shared/linear_columns.wgsl", "shared/weight.wgsl"],
            [$($value,)* ("SEVERAL", Value::Flag(true))]
        )
    };
}

/// SwiGLU's gate and up in a dispatch.
macro_rules! gated_kernels {
    ($make:ident, $op:literal, $file:literal, [$($value:expr),*]) => {
        weight_kernels!(
            $make,
            $op,
            [$file, "shared/linear_params.wgsl", "shared/linear_gated.wgsl", "shared/weight.wgsl"],
            [$($value,)* ("SEVERAL", Value::Flag(true))]
        )
    };
}

pub(super) static SLICES: ByType =
    slices_kernels!(portable, "linear_forward_slices", "linear_forward.wgsl", []);
pub(super) static SLICES_1: ByType = slices_kernels!(
    subgroup8,
    "linear_forward_subgroup_1_slices",
    "linear_forward_subgroup.wgsl",
    [("ROWS", Value::Number(1)), ("EIGHTS", Value::Number(1))]
);
pub(super) static SLICES_4: ByType = slices_kernels!(
    subgroup8,
    "linear_forward_subgroup_4_slices",
    "linear_forward_subgroup.wgsl",
    [("ROWS", Value::Number(4)), ("EIGHTS", Value::Number(1))]
);
pub(super) static SLICES_GEMV: ByType = slices_kernels!(
    portable,
    "linear_forward_gemv_slices",
    "linear_forward_gemv.wgsl",
    []
);
pub(super) static SLICES_SPLIT: ByType = slices_kernels!(
    portable,
    "linear_forward_split_slices",
    "linear_forward_split.wgsl",
    []
);
pub(super) static GATED: ByType = gated_kernels!(portable, "linear_forward_gated", "linear_forward.wgsl", []);
pub(super) static GATED_1: ByType = gated_kernels!(
    subgroup8,
    "linear_forward_subgroup_1_gated",
    "linear_forward_subgroup.wgsl",
    [("ROWS", Value::Number(1)), ("EIGHTS", Value::Number(1))]
);
pub(super) static GATED_4: ByType = gated_kernels!(
    subgroup8,
    "linear_forward_subgroup_4_gated",
    "linear_forward_subgroup.wgsl",
    [("ROWS", Value::Number(4)), ("EIGHTS", Value::Number(1))]
);
pub(super) static GATED_GEMV: ByType = gated_kernels!(
    portable,
    "linear_forward_gemv_gated",
    "linear_forward_gemv.wgsl",
    [("GEMV", Value::Flag(true))]
);
