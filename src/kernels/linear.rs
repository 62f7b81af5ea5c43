//! Linear layers: `y = x Wᵀ`, its gradient with respect to the input (`dx = dy W`) and to the weight (`dw = dyᵀ x`).
//!
//! LoRA's A and B are f32 weights that go through the same kernels. Every output element is one chain of fused
//! multiply-adds in ascending order of the reduced index, so a row's bits do not depend on the other rows.

use super::Entry;
use super::linear_fused::{self as fused, Epilogue};
use super::linear_variants as variants;
use super::pad4;
use super::weight::{Weight, section_words};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Params, Recorder, params};
use std::ops::Range;

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

params! {
    pub(super) struct ForwardParams {
        pub(super) m: u32,
        pub(super) n: u32,
        pub(super) k4: u32,
        pub(super) x_stride: u32,
        pub(super) y_stride: u32,
        pub(super) y_offset: u32,
        pub(super) w_section: u32,
        pub(super) w_row: u32,
        pub(super) flags: u32,
        pub(super) alpha: f32,
        pub(super) r4: u32,
        pub(super) beta: f32,
    }

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
        first: u32,
    }
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
    let tile = variants::forward(rec, w.dtype, [m, range.len(), w.cols]);
    let with = Epilogue {
        bias,
        ..Epilogue::default()
    };
    product(rec, &tile, (x, w, range), &with, y, m, write)
}

/// The product with rows `range` of W and what `with` says, on a kernel that has room for it: one dispatch a shard.
pub(super) fn product(
    rec: &mut Recorder,
    tile: &variants::Tile,
    (x, w, range): (&Buffer, &Weight, Range<usize>),
    with: &Epilogue<'_>,
    y: &Buffer,
    m: usize,
    write: Write,
) -> Result<()> {
    let width = range.len();
    let old = write.accumulate && with.residual.is_none();
    let (bias, residual) = (with.bias.is_some(), with.residual.is_some());
    let flags = u32::from(old) | u32::from(bias) << 1 | u32::from(residual) << 3;
    let mut constants = lanes(tile);
    constants.extend(with.lora.map(|_| ("LORA", 1.0)));
    constants.extend(with.gate.map(|_| ("SWIGLU", 1.0)));
    for (shard, row, rows, at) in w.parts(range) {
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
            flags: flags | u32::from(zero_pad) << 2,
            alpha: write.alpha,
            r4: with.lora.map_or(0, |s| pad4(s.b.cols) / 4) as u32,
            beta: with.lora.map_or(0.0, |s| s.factor),
        };
        let bindings = [
            x.into(),
            (&shard.buffer).into(),
            with.bias.into(),
            y.into(),
            with.residual.or(with.gate).into(),
            with.lora.map(|s| s.h).into(),
            with.lora.map(|s| &s.b.shards[0].buffer).into(),
        ];
        dispatch(rec, tile, &constants, &params, &bindings, [pad4(rows), m])?;
    }
    Ok(())
}

/// dy is read four columns at a time, so a row range that goes on in a second shard must start at a multiple of four
/// (shards do).
fn aligned(at: usize) -> Result<()> {
    if at.is_multiple_of(4) {
        return Ok(());
    }
    Err(Error::internal(
        "a range of weight rows spans two shards and does not start at a multiple of four",
    ))
}

/// `dx (m, cols) = alpha · dy (m, rows) · W [+ dx]`.
///
/// Without accumulation a sharded weight gives the bits of an unsplit one; with it, each shard's product is added in turn.
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
    for (shard, row, rows, at) in w.parts(range) {
        aligned(at)?;
        // One chain over all shards: its sum waits in dx, unscaled, until the last shard.
        let chain = !write.accumulate;
        let last = at + rows == width;
        let params = InputGradientParams {
            m: m as u32,
            n: rows as u32,
            k4: (pad4(w.cols) / 4) as u32,
            dy_stride: (pad4(width) / 4) as u32,
            dx_stride: (pad4(w.cols) / 4) as u32,
            dy_offset: at as u32,
            w_section: section_words(w.dtype, shard.rows, w.cols) as u32,
            w_row: row as u32,
            flags: u32::from(!chain) | u32::from(chain && at > 0) << 1,
            alpha: if chain && !last { 1.0 } else { write.alpha },
        };
        let tile = variants::input_gradient(rec, w.dtype, [m, rows, w.cols]);
        let bindings = [dy.into(), (&shard.buffer).into(), dx.into()];
        dispatch(rec, &tile, &lanes(&tile), &params, &bindings, [pad4(w.cols), m])?;
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
    weight_gradient_rows(rec, dy, x, dw, 0..dw.rows, 0..m, write)
}

/// As [`weight_gradient`] for only the rows `range` of dw, `dy (m, range)` with stride `pad4(range.len())`, summed over
/// only the rows `of` of dy and x. The bits are those of a call with these rows alone.
///
/// # Errors
/// A GPU error.
pub fn weight_gradient_rows(
    rec: &mut Recorder,
    dy: &Buffer,
    x: &Buffer,
    dw: &Weight,
    range: Range<usize>,
    of: Range<usize>,
    write: Write,
) -> Result<()> {
    let (width, m) = (range.len(), of.len());
    for (shard, row, rows, at) in dw.parts(range) {
        aligned(at)?;
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
            first: of.start as u32,
        };
        let tile = variants::weight_gradient(rec, [m, rows, dw.cols]);
        let bindings = [Binding::from(dy), x.into(), (&shard.buffer).into()];
        dispatch(
            rec,
            &tile,
            &lanes(&tile),
            &params,
            &bindings,
            [pad4(dw.cols), rows],
        )?;
    }
    Ok(())
}

/// The override constants of a kernel whose workgroup is open.
pub(super) fn lanes(tile: &variants::Tile) -> Vec<(&'static str, f64)> {
    let lanes = tile.lanes.map(|lanes| ("LANES", lanes as f64));
    lanes.into_iter().collect()
}

/// One workgroup a tile of the output, `[columns, rows]`.
fn dispatch<P: Params>(
    rec: &mut Recorder,
    tile: &variants::Tile,
    constants: &[(&'static str, f64)],
    params: &P,
    bindings: &[Binding<'_>],
    output: [usize; 2],
) -> Result<()> {
    rec.dispatch(tile.kernel, constants, params, bindings, tile.groups(output))
}

/// The kernels of this op's three directions.
pub fn entries() -> Vec<Entry> {
    let mut all = variants::entries();
    all.extend(fused::entries());
    all
}
