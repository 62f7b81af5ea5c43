//! The variants of matrix products, a row each: chooser, tuner, tests and benches read them here.
//! [`linear_variants`](super::linear_variants) says what they are for.

use super::linear_cases::{Shape, few_shapes, half_shapes, shapes, split_shapes};
use super::weight::{lanes, of, weight_kernels};
use crate::gpu::{COOP_SUBGROUPS, Kernel, Recorder, Value, shaders};
use crate::tensor::DType;

pub(super) const FORWARD_OP: &str = "linear_forward";
pub(super) const INPUT_GRADIENT_OP: &str = "linear_input_gradient";
pub(super) const WEIGHT_GRADIENT_OP: &str = "linear_weight_gradient";
/// The variant every op has.
pub(super) const PORTABLE: &str = "portable";

/// Kernels by the element type of the weight; one alone where there is no weight, none where a variant has no such kernel.
pub(super) type Kernels = &'static [(DType, &'static Kernel)];

/// Threads of a workgroup.
#[derive(Clone, Copy)]
pub(super) enum Lanes {
    /// [`GPU_LANES`](super::weight::GPU_LANES) on a GPU, a SIMD register on a CPU adapter.
    Adapter,
    /// As many.
    Exactly(usize),
    /// The shader says.
    Shader,
    /// [`COOP_SUBGROUPS`] of the adapter's largest.
    Subgroups,
}

/// A variant of an op.
pub(super) struct Variant {
    pub(super) op: &'static str,
    pub(super) name: &'static str,
    /// It gives the portable kernel's bits.
    pub(super) is_exact: bool,
    /// Rows of the output that a workgroup computes.
    pub(super) rows: usize,
    /// Columns of the output; those of a lane with [`Lanes::Adapter`].
    pub(super) cols: usize,
    pub(super) lanes: Lanes,
    /// Workgroups count rows along x and columns along y, not the other way round.
    pub(super) rows_first: bool,
    /// A forward kernel computes an adapter's second product as well (`LORA`). With many rows a dispatch is cheap, and the tile does
    /// without the registers.
    pub(super) adds_lora: bool,
    pub(super) kernels: Kernels,
    /// Several products of one x in a dispatch.
    pub(super) slices: Kernels,
    /// SwiGLU's gate and up in a dispatch.
    pub(super) gated: Kernels,
    /// Columns of either that stand together there; the lanes with [`Lanes::Adapter`].
    pub(super) span: usize,
    /// What its cases multiply.
    pub(super) shapes: fn(DType) -> Vec<Shape>,
}

const FORWARD: Variant = Variant {
    op: FORWARD_OP,
    name: PORTABLE,
    is_exact: true,
    rows: 8,
    cols: 2,
    lanes: Lanes::Adapter,
    rows_first: false,
    adds_lora: false,
    kernels: &[],
    slices: &[],
    gated: &[],
    span: 0,
    shapes,
};
const GRADIENT: Variant = Variant { cols: 4, ..FORWARD };
const SUBGROUP: Variant = Variant {
    cols: 32,
    lanes: Lanes::Exactly(8),
    adds_lora: true,
    span: 2,
    ..FORWARD
};
const TILE: Variant = Variant {
    name: "tile-64",
    rows: 64,
    cols: 64,
    lanes: Lanes::Shader,
    shapes: few_shapes,
    ..FORWARD
};
const COOP: Variant = Variant {
    is_exact: false,
    lanes: Lanes::Subgroups,
    shapes: half_shapes,
    ..TILE
};

/// A forward row's kernels: of a product, of `slices`, and `gated`.
macro_rules! body {
    (kernels $make:tt $name:literal [$($file:literal),*] $values:tt) => {
        &weight_kernels!($make, $name, [
            $($file,)*
            "shared/linear_params.wgsl",
            "shared/linear_output.wgsl",
            "shared/linear_columns.wgsl",
            "shared/weight.wgsl"
        ], $values)
    };
    (slices $make:tt $name:literal [$($file:literal),*] [$($value:expr),*]) => {
        &weight_kernels!($make, concat!($name, "_slices"), [
            $($file,)*
            "shared/linear_slices.wgsl",
            "shared/linear_columns.wgsl",
            "shared/weight.wgsl"
        ], [$($value,)* ("SEVERAL", Value::Flag(true))])
    };
    (gated $make:tt $name:literal [$($file:literal),*] [$($value:expr),*]) => {
        &weight_kernels!($make, concat!($name, "_gated"), [
            $($file,)*
            "shared/linear_params.wgsl",
            "shared/linear_gated.wgsl",
            "shared/weight.wgsl"
        ], [$($value,)* ("SEVERAL", Value::Flag(true))])
    };
}

macro_rules! forward {
    ($make:tt, $name:literal, $files:tt, $values:tt, [$($body:ident),*], $base:ident { $($set:ident: $value:expr),* $(,)? }) => {
        Variant { $($set: $value,)* $($body: body!($body $make $name $files $values),)* ..$base }
    };
}

macro_rules! input_gradient {
    ($make:tt, $name:literal, [$($file:literal),*], $values:tt, $base:ident { $($set:ident: $value:expr),* $(,)? }) => {
        Variant {
            op: INPUT_GRADIENT_OP,
            adds_lora: false,
            kernels: &weight_kernels!($make, $name, [
                $($file,)*
                "shared/linear_input_gradient_output.wgsl",
                "shared/weight.wgsl"
            ], $values),
            $($set: $value,)*
            ..$base
        }
    };
}

macro_rules! weight_gradient {
    ({ $make:ident $(($side:literal))? }, $name:literal, [$($file:literal),*], $values:tt, $base:ident { $($set:ident: $value:expr),* $(,)? }) => {
        Variant {
            op: WEIGHT_GRADIENT_OP,
            adds_lora: false,
            kernels: &[(
                DType::F32,
                &Kernel::$make(
                    $name,
                    shaders![$($file,)* "shared/linear_weight_gradient_output.wgsl"]
                    $(, $side)?
                )
                .with(&$values),
            )],
            $($set: $value,)*
            ..$base
        }
    };
}

/// All rows, op by op, the portable one first.
pub(super) static VARIANTS: [Variant; 19] = [
    forward!(
        { portable },
        "linear_forward",
        ["linear_forward.wgsl"],
        [],
        [kernels, slices, gated],
        FORWARD { adds_lora: true }
    ),
    forward!(
        { subgroup8 },
        "linear_forward_subgroup_1",
        ["linear_forward_subgroup.wgsl"],
        [("ROWS", Value::Number(1)), ("EIGHTS", Value::Number(1))],
        [kernels, slices, gated],
        SUBGROUP {
            name: "subgroup-1",
            rows: 1,
        }
    ),
    forward!(
        { subgroup8 },
        "linear_forward_subgroup_4",
        ["linear_forward_subgroup.wgsl"],
        [("ROWS", Value::Number(4)), ("EIGHTS", Value::Number(1))],
        [kernels, slices, gated],
        SUBGROUP {
            name: "subgroup-4",
            rows: 4,
        }
    ),
    forward!(
        { subgroup8 },
        "linear_forward_subgroup_16",
        ["linear_forward_subgroup.wgsl"],
        [("ROWS", Value::Number(16)), ("EIGHTS", Value::Number(2))],
        [kernels],
        SUBGROUP {
            name: "subgroup-16",
            rows: 16,
        }
    ),
    forward!(
        { portable },
        "linear_forward_gemv",
        ["linear_forward_gemv.wgsl"],
        [("GEMV", Value::Flag(true))],
        [kernels, slices, gated],
        TILE {
            name: "gemv-8",
            rows: 8,
            cols: 32,
            adds_lora: true,
            span: 16,
        }
    ),
    forward!(
        { portable },
        "linear_forward_split",
        ["linear_forward_split.wgsl"],
        [],
        [kernels, slices],
        TILE {
            name: "split-8",
            is_exact: false,
            rows: 8,
            cols: 4,
            adds_lora: true,
            shapes: split_shapes,
        }
    ),
    forward!(
        { portable },
        "linear_forward_tile",
        ["linear_forward_tile.wgsl", "shared/tile_64.wgsl"],
        [],
        [kernels],
        TILE {}
    ),
    forward!(
        { coop(8) },
        "linear_forward_coop_8",
        ["linear_forward_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(4))],
        [kernels],
        COOP { name: "coop-8" }
    ),
    forward!(
        { coop(16) },
        "linear_forward_coop_16",
        ["linear_forward_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(2))],
        [kernels],
        COOP { name: "coop-16" }
    ),
    input_gradient!(
        { portable },
        "linear_input_gradient",
        ["linear_input_gradient.wgsl"],
        [],
        GRADIENT {}
    ),
    input_gradient!(
        { subgroup8 },
        "linear_input_gradient_subgroup",
        ["linear_input_gradient_subgroup.wgsl"],
        [("ROWS", Value::Number(32))],
        SUBGROUP {
            name: "subgroup-32",
            rows: 32,
            rows_first: true,
        }
    ),
    input_gradient!(
        { portable },
        "linear_input_gradient_tile",
        ["linear_input_gradient_tile.wgsl", "shared/tile_64.wgsl"],
        [],
        TILE {}
    ),
    input_gradient!(
        { coop(8) },
        "linear_input_gradient_coop_8",
        ["linear_input_gradient_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(4))],
        COOP { name: "coop-8" }
    ),
    input_gradient!(
        { coop(16) },
        "linear_input_gradient_coop_16",
        ["linear_input_gradient_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(2))],
        COOP { name: "coop-16" }
    ),
    weight_gradient!(
        { portable },
        "linear_weight_gradient",
        ["linear_weight_gradient.wgsl"],
        [],
        GRADIENT {}
    ),
    weight_gradient!(
        { subgroup8 },
        "linear_weight_gradient_subgroup",
        ["linear_weight_gradient_subgroup.wgsl"],
        [],
        SUBGROUP {
            name: "subgroup-16",
            rows: 16,
        }
    ),
    weight_gradient!(
        { portable },
        "linear_weight_gradient_tile",
        ["linear_weight_gradient_tile.wgsl", "shared/tile_64.wgsl"],
        [],
        TILE {}
    ),
    weight_gradient!(
        { coop(8) },
        "linear_weight_gradient_coop_8",
        ["linear_weight_gradient_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(4))],
        COOP { name: "coop-8" }
    ),
    weight_gradient!(
        { coop(16) },
        "linear_weight_gradient_coop_16",
        ["linear_weight_gradient_coop.wgsl", "shared/coop_tile.wgsl"],
        [("ACROSS", Value::Number(2))],
        COOP { name: "coop-16" }
    ),
];

/// A kernel and the tile of the output that one of its workgroups computes.
pub(super) struct Tile {
    pub(super) kernel: &'static Kernel,
    /// Threads in a workgroup, where the shader leaves them open.
    pub(super) lanes: Option<usize>,
    /// Columns of the output.
    pub(super) cols: usize,
    pub(super) variant: &'static Variant,
}

impl Variant {
    /// The variant's tile with its kernel for an element type, one of its [`Kernels`] that are not empty.
    pub(super) fn tile(&'static self, rec: &Recorder, kernels: Kernels, dtype: DType) -> Tile {
        let kernel = of(kernels, dtype);
        let (lanes, cols) = match self.lanes {
            Lanes::Adapter => (Some(lanes(rec)), self.cols * lanes(rec)),
            Lanes::Exactly(lanes) => (Some(lanes), self.cols),
            Lanes::Shader => (None, self.cols),
            Lanes::Subgroups => {
                let largest = rec.gpu().report().subgroup_size.1;
                (Some((COOP_SUBGROUPS * largest) as usize), self.cols)
            }
        };
        Tile {
            kernel,
            lanes,
            cols,
            variant: self,
        }
    }
}

impl Tile {
    /// One workgroup a tile of an output of `[columns, rows]`.
    pub(super) fn groups(&self, [columns, rows]: [usize; 2]) -> [u32; 3] {
        let (across, down) = (
            columns.div_ceil(self.cols) as u32,
            rows.div_ceil(self.variant.rows) as u32,
        );
        if self.variant.rows_first {
            [down, across, 1]
        } else {
            [across, down, 1]
        }
    }

    /// Columns of SwiGLU's gate, or up, that stand together.
    pub(super) fn span(&self) -> usize {
        match (self.variant.lanes, self.lanes) {
            (Lanes::Adapter, Some(lanes)) => lanes,
            _ => self.variant.span,
        }
    }
}
