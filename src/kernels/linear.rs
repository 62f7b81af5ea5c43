//! Linear layers: `y = x Wᵀ`, its gradient with respect to the input (`dx = dy W`) and to the weight (`dw = dyᵀ x`).
//!
//! LoRA's A and B are f32 weights that go through the same kernels. Every output element is one chain of fused
//! multiply-adds in ascending order of the reduced index, so a row's bits do not depend on the other rows.

use super::pad4;
use super::weight::{Shard, Weight, section_words};
use crate::error::Result;
use crate::gpu::{Binding, Buffer, DeviceKind, Kernel, Recorder};
use crate::tensor::DType;
use std::ops::Range;

macro_rules! weight_kernels {
    ($op:literal, $file:literal, [$(($dtype:ident, $suffix:literal, [$($part:literal),*])),* $(,)?]) => {
        [$((DType::$dtype, &Kernel::portable(
            concat!($op, "_", $suffix),
            &[include_str!(concat!("../../shaders/", $file)), $(include_str!(concat!("../../shaders/shared/", $part))),*],
        ))),*]
    };
    ($op:literal, $file:literal) => {
        weight_kernels!($op, $file, [
            (F32, "f32", ["weight_f32.wgsl"]),
            (F16, "f16", ["weight_f16.wgsl", "half.wgsl"]),
            (BF16, "bf16", ["weight_bf16.wgsl"]),
        ])
    };
}

static FORWARD: &[(DType, &Kernel)] = &weight_kernels!("linear_forward", "linear_forward.wgsl");
static INPUT_GRADIENT: &[(DType, &Kernel)] =
    &weight_kernels!("linear_input_gradient", "linear_input_gradient.wgsl");
static WEIGHT_GRADIENT: Kernel = Kernel::portable(
    "linear_weight_gradient",
    &[include_str!("../../shaders/linear_weight_gradient.wgsl")],
);

/// How an op's result meets what its output holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Write {
    /// Factor on the product.
    pub alpha: f32,
    /// Add to the output instead of replacing it.
    pub accumulate: bool,
}

impl Write {
    /// Replace the output by the product.
    pub const SET: Self = Self {
        alpha: 1.0,
        accumulate: false,
    };
    /// Add the product to the output.
    pub const ADD: Self = Self {
        alpha: 1.0,
        accumulate: true,
    };

    /// Multiplies the factor.
    pub const fn scaled(self, by: f32) -> Self {
        Self {
            alpha: self.alpha * by,
            ..self
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ForwardParams {
    m: u32,
    n: u32,
    k4: u32,
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,
    w_section: u32,
    w_row: u32,
    flags: u32,
    alpha: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct InputGradientParams {
    m: u32,
    n: u32,
    k4: u32,
    dy_stride: u32,
    dx_stride: u32,
    dy_offset: u32,
    w_section: u32,
    w_row: u32,
    flags: u32,
    alpha: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct WeightGradientParams {
    m: u32,
    n: u32,
    k4: u32,
    dy_stride: u32,
    x_stride: u32,
    dy_offset: u32,
    dw_row: u32,
    flags: u32,
    alpha: f32,
}

fn of(table: &'static [(DType, &'static Kernel)], dtype: DType) -> &'static Kernel {
    table
        .iter()
        .find(|(d, _)| *d == dtype)
        .map_or(table[0].1, |(_, k)| k)
}

/// Threads along the columns: one SIMD register on a CPU adapter, a few subgroups on a GPU.
pub(crate) fn lanes(rec: &Recorder) -> usize {
    if rec.gpu().caps().kind == DeviceKind::Cpu {
        8
    } else {
        64
    }
}

/// The parts of rows `range` of `w`: shard, first row within the shard, rows, first row within `range`.
fn parts(w: &Weight, range: Range<usize>) -> impl Iterator<Item = (&Shard, usize, usize, usize)> {
    w.shards.iter().filter_map(move |s| {
        let (from, to) = (range.start.max(s.first_row), range.end.min(s.first_row + s.rows));
        (from < to).then(|| (s, from - s.first_row, to - from, from - range.start))
    })
}

/// `y (m, rows) = alpha · x (m, cols) · Wᵀ [+ bias] [+ y]`; strides are [`pad4`] of the widths. The padding columns
/// of `y` become 0 unless it accumulates.
///
/// # Errors
/// A GPU error.
pub fn forward(
    rec: &mut Recorder,
    x: &Buffer,
    w: &Weight,
    bias: Option<&Buffer>,
    y: &Buffer,
    m: usize,
    write: Write,
) -> Result<()> {
    forward_rows(rec, x, w, 0..w.rows, bias, y, m, write)
}

/// As [`forward`] with only the rows `range` of W: `y (m, range)` has stride `pad4(range.len())`.
///
/// # Errors
/// A GPU error.
#[allow(clippy::too_many_arguments, reason = "the operands of one matrix product")]
pub fn forward_rows(
    rec: &mut Recorder,
    x: &Buffer,
    w: &Weight,
    range: Range<usize>,
    bias: Option<&Buffer>,
    y: &Buffer,
    m: usize,
    write: Write,
) -> Result<()> {
    let width = range.len();
    for (shard, row, rows, at) in parts(w, range) {
        let zero_pad = at + rows == width && !write.accumulate;
        let params = ForwardParams {
            m: m as u32,
            n: rows as u32,
            k4: (pad4(w.cols) / 4) as u32,
            x_stride: (pad4(w.cols) / 4) as u32,
            y_stride: pad4(width) as u32,
            y_offset: at as u32,
            w_section: section_words(w.dtype, shard.rows, w.cols) as u32,
            w_row: row as u32,
            flags: u32::from(write.accumulate) | u32::from(bias.is_some()) << 1 | u32::from(zero_pad) << 2,
            alpha: write.alpha,
        };
        let lanes = lanes(rec);
        let groups = [pad4(rows).div_ceil(2 * lanes) as u32, m.div_ceil(8) as u32, 1];
        let bindings = [x.into(), (&shard.buffer).into(), bias.into(), y.into()];
        rec.dispatch(
            of(FORWARD, w.dtype),
            &[("LANES", lanes as f64)],
            &params,
            &bindings,
            groups,
        )?;
    }
    Ok(())
}

/// `dx (m, cols) = alpha · dy (m, rows) · W [+ dx]`.
///
/// # Errors
/// A GPU error.
pub fn input_gradient(
    rec: &mut Recorder,
    dy: &Buffer,
    w: &Weight,
    dx: &Buffer,
    m: usize,
    write: Write,
) -> Result<()> {
    input_gradient_rows(rec, dy, w, 0..w.rows, dx, m, write)
}

/// As [`input_gradient`] with only the rows `range` of W: `dy (m, range)` has stride `pad4(range.len())`.
///
/// # Errors
/// A GPU error.
pub fn input_gradient_rows(
    rec: &mut Recorder,
    dy: &Buffer,
    w: &Weight,
    range: Range<usize>,
    dx: &Buffer,
    m: usize,
    write: Write,
) -> Result<()> {
    let width = range.len();
    for (shard, row, rows, at) in parts(w, range) {
        let params = InputGradientParams {
            m: m as u32,
            n: rows as u32,
            k4: (pad4(w.cols) / 4) as u32,
            dy_stride: (pad4(width) / 4) as u32,
            dx_stride: (pad4(w.cols) / 4) as u32,
            dy_offset: at as u32,
            w_section: section_words(w.dtype, shard.rows, w.cols) as u32,
            w_row: row as u32,
            flags: u32::from(write.accumulate || at > 0),
            alpha: write.alpha,
        };
        let lanes = lanes(rec);
        let groups = [(pad4(w.cols) / 4).div_ceil(lanes) as u32, m.div_ceil(8) as u32, 1];
        let bindings = [dy.into(), (&shard.buffer).into(), dx.into()];
        rec.dispatch(
            of(INPUT_GRADIENT, w.dtype),
            &[("LANES", lanes as f64)],
            &params,
            &bindings,
            groups,
        )?;
    }
    Ok(())
}

/// `dw (rows, cols) = alpha · dyᵀ (rows, m) · x (m, cols) [+ dw]` in f32.
///
/// # Errors
/// A GPU error.
pub fn weight_gradient(
    rec: &mut Recorder,
    dy: &Buffer,
    x: &Buffer,
    dw: &Weight,
    m: usize,
    write: Write,
) -> Result<()> {
    weight_gradient_rows(rec, dy, x, dw, 0..dw.rows, m, write)
}

/// As [`weight_gradient`] for only the rows `range` of dw: `dy (m, range)` has stride `pad4(range.len())`.
///
/// # Errors
/// A GPU error.
pub fn weight_gradient_rows(
    rec: &mut Recorder,
    dy: &Buffer,
    x: &Buffer,
    dw: &Weight,
    range: Range<usize>,
    m: usize,
    write: Write,
) -> Result<()> {
    let width = range.len();
    for (shard, row, rows, at) in parts(dw, range) {
        let params = WeightGradientParams {
            m: m as u32,
            n: rows as u32,
            k4: (pad4(dw.cols) / 4) as u32,
            dy_stride: (pad4(width) / 4) as u32,
            x_stride: (pad4(dw.cols) / 4) as u32,
            dy_offset: at as u32,
            dw_row: row as u32,
            flags: u32::from(write.accumulate),
            alpha: write.alpha,
        };
        let lanes = lanes(rec);
        let groups = [
            (pad4(dw.cols) / 4).div_ceil(lanes) as u32,
            rows.div_ceil(8) as u32,
            1,
        ];
        let bindings = [Binding::from(dy), x.into(), (&shard.buffer).into()];
        rec.dispatch(
            &WEIGHT_GRADIENT,
            &[("LANES", lanes as f64)],
            &params,
            &bindings,
            groups,
        )?;
    }
    Ok(())
}
