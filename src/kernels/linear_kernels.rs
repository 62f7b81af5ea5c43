//! The kernels of matrix products, variant by variant; [`linear_variants`](super::linear_variants) chooses among them.

use super::weight::{ByType, weight_kernels};
use crate::gpu::Kernel;

pub(super) static FORWARD: ByType = weight_kernels!(
    portable,
    "linear_forward",
    [
        "linear_forward.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_1: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_1",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_1.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_4: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_4",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_4.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_16: ByType = weight_kernels!(
    subgroup8,
    "linear_forward_subgroup_16",
    [
        "linear_forward_subgroup.wgsl",
        "rows_forward_16.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_GEMV: ByType = weight_kernels!(
    portable,
    "linear_forward_gemv",
    [
        "linear_forward_gemv.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_SPLIT: ByType = weight_kernels!(
    portable,
    "linear_forward_split",
    [
        "linear_forward_split.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_TILE: ByType = weight_kernels!(
    portable,
    "linear_forward_tile",
    [
        "linear_forward_tile.wgsl",
        "tile_64.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static INPUT_GRADIENT: ByType = weight_kernels!(
    portable,
    "linear_input_gradient",
    ["linear_input_gradient.wgsl", "linear_input_gradient_params.wgsl"]
);
pub(super) static INPUT_GRADIENT_32: ByType = weight_kernels!(
    subgroup8,
    "linear_input_gradient_subgroup",
    [
        "linear_input_gradient_subgroup.wgsl",
        "linear_input_gradient_params.wgsl"
    ]
);
pub(super) static INPUT_GRADIENT_TILE: ByType = weight_kernels!(
    portable,
    "linear_input_gradient_tile",
    [
        "linear_input_gradient_tile.wgsl",
        "tile_64.wgsl",
        "linear_input_gradient_params.wgsl"
    ]
);
pub(super) static WEIGHT_GRADIENT: Kernel = Kernel::portable(
    "linear_weight_gradient",
    &[
        include_str!("../../shaders/linear_weight_gradient.wgsl"),
        include_str!("../../shaders/shared/linear_weight_gradient_params.wgsl"),
    ],
);
pub(super) static WEIGHT_GRADIENT_16: Kernel = Kernel::subgroup8(
    "linear_weight_gradient_subgroup",
    &[
        include_str!("../../shaders/linear_weight_gradient_subgroup.wgsl"),
        include_str!("../../shaders/shared/linear_weight_gradient_params.wgsl"),
    ],
);

pub(super) static FORWARD_COOP_8: ByType = weight_kernels!(
    coop8,
    "linear_forward_coop_8",
    [
        "linear_forward_coop.wgsl",
        "coop_tile.wgsl",
        "coop_8.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static FORWARD_COOP_16: ByType = weight_kernels!(
    coop16,
    "linear_forward_coop_16",
    [
        "linear_forward_coop.wgsl",
        "coop_tile.wgsl",
        "coop_16.wgsl",
        "linear_params.wgsl",
        "linear_output.wgsl",
        "linear_columns.wgsl"
    ]
);
pub(super) static INPUT_GRADIENT_COOP_8: ByType = weight_kernels!(
    coop8,
    "linear_input_gradient_coop_8",
    [
        "linear_input_gradient_coop.wgsl",
        "coop_tile.wgsl",
        "coop_8.wgsl",
        "linear_input_gradient_params.wgsl"
    ]
);
pub(super) static INPUT_GRADIENT_COOP_16: ByType = weight_kernels!(
    coop16,
    "linear_input_gradient_coop_16",
    [
        "linear_input_gradient_coop.wgsl",
        "coop_tile.wgsl",
        "coop_16.wgsl",
        "linear_input_gradient_params.wgsl"
    ]
);
pub(super) static WEIGHT_GRADIENT_COOP_8: Kernel = Kernel::coop8(
    "linear_weight_gradient_coop_8",
    &[
        include_str!("../../shaders/linear_weight_gradient_coop.wgsl"),
        include_str!("../../shaders/shared/linear_weight_gradient_params.wgsl"),
        include_str!("../../shaders/shared/coop_tile.wgsl"),
        include_str!("../../shaders/shared/coop_8.wgsl"),
    ],
);
pub(super) static WEIGHT_GRADIENT_COOP_16: Kernel = Kernel::coop16(
    "linear_weight_gradient_coop_16",
    &[
        include_str!("../../shaders/linear_weight_gradient_coop.wgsl"),
        include_str!("../../shaders/shared/linear_weight_gradient_params.wgsl"),
        include_str!("../../shaders/shared/coop_tile.wgsl"),
        include_str!("../../shaders/shared/coop_16.wgsl"),
    ],
);
pub(super) static WEIGHT_GRADIENT_TILE: Kernel = Kernel::portable(
    "linear_weight_gradient_tile",
    &[
        include_str!("../../shaders/linear_weight_gradient_tile.wgsl"),
        include_str!("../../shaders/shared/linear_weight_gradient_params.wgsl"),
        include_str!("../../shaders/shared/tile_64.wgsl"),
    ],
);

/// Several products of one x in a dispatch.
macro_rules! slices_kernels {
    ($make:ident, $op:literal, $($text:literal),*) => {
        weight_kernels!($make, $op, [$($text,)* "linear_slices.wgsl", "linear_columns.wgsl"], several)
    };
}

/// SwiGLU's gate and up in a dispatch.
macro_rules! gated_kernels {
    ($make:ident, $op:literal, $($text:literal),*) => {
        weight_kernels!($make, $op, [$($text,)* "linear_params.wgsl", "linear_gated.wgsl"], several)
    };
}

pub(super) static SLICES: ByType = slices_kernels!(portable, "linear_forward_slices", "linear_forward.wgsl");
pub(super) static SLICES_1: ByType = slices_kernels!(
    subgroup8,
    "linear_forward_subgroup_1_slices",
    "linear_forward_subgroup.wgsl",
    "rows_forward_1.wgsl"
);
pub(super) static SLICES_4: ByType = slices_kernels!(
    subgroup8,
    "linear_forward_subgroup_4_slices",
    "linear_forward_subgroup.wgsl",
    "rows_forward_4.wgsl"
);
pub(super) static SLICES_GEMV: ByType =
    slices_kernels!(portable, "linear_forward_gemv_slices", "linear_forward_gemv.wgsl");
pub(super) static SLICES_SPLIT: ByType = slices_kernels!(
    portable,
    "linear_forward_split_slices",
    "linear_forward_split.wgsl"
);
pub(super) static GATED: ByType = gated_kernels!(portable, "linear_forward_gated", "linear_forward.wgsl");
pub(super) static GATED_1: ByType = gated_kernels!(
    subgroup8,
    "linear_forward_subgroup_1_gated",
    "linear_forward_subgroup.wgsl",
    "rows_forward_1.wgsl"
);
pub(super) static GATED_4: ByType = gated_kernels!(
    subgroup8,
    "linear_forward_subgroup_4_gated",
    "linear_forward_subgroup.wgsl",
    "rows_forward_4.wgsl"
);
pub(super) static GATED_GEMV: ByType = gated_kernels!(
    portable,
    "linear_forward_gemv_gated",
    "linear_forward_gemv.wgsl",
    "linear_gated_gemv.wgsl"
);
