//! Linear layers with what meets their outputs, and several of one input, in a dispatch: a dispatch costs as much as a small product.
//!
//! Bits do not depend on whether a step was fused: each is rounded once, in the order of [`Epilogue`], and a second product is the
//! chain that it is on its own (under `high` too: R is too short to be split).

use super::linear::{self, ForwardParams, Write, lanes, product};
use super::linear_variants::{self as variants, Tile};
use super::weight::{Weight, section_words};
use super::{Entry, MAX_GROUPS, pad4};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Recorder, params};
use crate::tensor::DType;

/// Rows up to which products of one x share a dispatch; with more, a kernel for many rows is worth its own.
const FEW: usize = 16;

/// Rows of W that are few: an adapter's rank.
const NARROW: usize = 64;

params! {
    struct SlicesParams {
        m: u32,
        k4: u32,
        x_stride: u32,
        n0: u32,
        n1: u32,
        n2: u32,
        first1: u32,
        first2: u32,
        row_words: u32,
        bias0: u32,
        bias1: u32,
        bias2: u32,
    }
}

/// What meets a product besides x and W, in this order; each step is rounded once, in every variant alike.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added: (rows).
    pub bias: Option<&'a Buffer>,
    /// Added, instead of what y holds: laid out as y.
    pub residual: Option<&'a Buffer>,
    /// An adapter's second product, added.
    pub lora: Option<Second<'a>>,
    /// SwiGLU's gate, laid out as y: the output is silu(gate) · the rest. Excludes `residual`.
    pub gate: Option<&'a Buffer>,
}

/// `factor · h (m, R) · Bᵀ`; h has a row stride of [`pad4`]`(R)`, its padding columns are 0.
#[derive(Clone, Copy)]
pub struct Second<'a> {
    /// h: x Aᵀ.
    pub h: &'a Buffer,
    /// B (rows of W, R), f32.
    pub b: &'a Weight,
    /// alpha / R.
    pub factor: f32,
}

/// `y (m, rows) = x (m, cols) · Wᵀ` and what `with` says, in one dispatch where the kernel has room for a second product, else
/// in two with the same bits. Strides and padding as in [`linear::forward`].
///
/// # Errors
/// A GPU error; a residual and a gate at once (a bug).
pub fn forward_with(
    rec: &mut Recorder,
    x: &Buffer,
    w: &Weight,
    with: &Epilogue<'_>,
    y: &Buffer,
    m: usize,
) -> Result<()> {
    if with.residual.is_some() && with.gate.is_some() {
        return Err(Error::internal("a product with a residual and a gate"));
    }
    let tile = variants::forward(rec, w.dtype, [m, w.rows, w.cols]);
    let all = (x, w, 0..w.rows);
    let Some(second) = with.lora.filter(|s| !tile.variant.adds_lora || !is_plain(s.b)) else {
        return product(rec, &tile, all, with, y, m, Write::SET);
    };
    let first = Epilogue {
        lora: None,
        gate: None,
        ..*with
    };
    product(rec, &tile, all, &first, y, m, Write::SET)?;
    let tile = variants::forward(rec, second.b.dtype, [m, second.b.rows, second.b.cols]);
    let rest = Epilogue {
        gate: with.gate,
        ..Epilogue::default()
    };
    let all = (second.h, second.b, 0..second.b.rows);
    product(rec, &tile, all, &rest, y, m, Write::ADD.scaled(second.factor))
}

/// One of several products of an input.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// W (rows, cols).
    pub weight: &'a Weight,
    /// Added.
    pub bias: Option<Bias<'a>>,
    /// y (m, rows).
    pub y: &'a Buffer,
}

/// A bias (rows), and where it is once more, together with those of the products beside it: a dispatch has room for one buffer of them.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    /// Alone.
    pub own: &'a Buffer,
    /// The same buffer for every product, and the bias's first value in it.
    pub joined: Option<(&'a Buffer, usize)>,
}

impl<'a> Product<'a> {
    /// `y = x Wᵀ`.
    pub fn plain(weight: &'a Weight, y: &'a Buffer) -> Self {
        Self {
            weight,
            bias: None,
            y,
        }
    }

    /// Whether the two may share a dispatch: whole weights of one shape along K and one element type, both with joined biases or without.
    fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (self.weight, other.weight);
        // Two blocks' biases lie in two buffers.
        let joined = |p: &Self| p.bias.map(|b| b.joined.map(|(all, _)| std::ptr::from_ref(all)));
        is_whole(a)
            && is_whole(b)
            && (a.dtype, a.cols) == (b.dtype, b.cols)
            && joined(self) != Some(None)
            && joined(self) == joined(other)
    }
}

/// `yᵢ (m, rowsᵢ) = x (m, cols) · Wᵢᵀ [+ biasᵢ]` for every product: where there are few rows, up to three of one element type a dispatch.
/// Strides and padding as in [`linear::forward`], and the same bits.
///
/// # Errors
/// A GPU error.
pub fn forward_each(rec: &mut Recorder, x: &Buffer, products: &[Product<'_>], m: usize) -> Result<()> {
    let mut left = products.to_vec();
    while let Some(first) = left.first().copied() {
        let (mut set, rest): (Vec<_>, _) = left.into_iter().partition(|p| p.is_like(&first));
        left = rest;
        if set.is_empty() {
            set.push(left.remove(0));
        }
        for set in set.chunks(3) {
            together(rec, x, set, m)?;
        }
    }
    Ok(())
}

/// Up to three products that may share a dispatch.
fn together(rec: &mut Recorder, x: &Buffer, set: &[Product<'_>], m: usize) -> Result<()> {
    let tile = if set.len() > 1 {
        each_tile(rec, set, m)
    } else {
        None
    };
    let Some(tile) = tile else {
        for p in set {
            linear::forward(rec, x, p.weight, p.bias.map(|b| b.own), p.y, m, Write::SET)?;
        }
        return Ok(());
    };
    let at = |i: usize| set.get(i);
    let [n0, n1, n2] = [0, 1, 2].map(|i| at(i).map_or(0, |p| p.weight.rows));
    let [g0, g1, g2] = [n0, n1, n2].map(|n| tile.groups([pad4(n), m])[0]);
    let joined = |i: usize| at(i).and_then(|p| p.bias?.joined);
    let [bias0, bias1, bias2] = [0, 1, 2].map(|i| joined(i).map_or(0, |(_, first)| first as u32));
    let (dtype, cols) = (set[0].weight.dtype, set[0].weight.cols);
    let k4 = (pad4(cols) / 4) as u32;
    let params = SlicesParams {
        m: m as u32,
        k4,
        x_stride: k4,
        n0: n0 as u32,
        n1: n1 as u32,
        n2: n2 as u32,
        first1: g0,
        first2: g0 + g1,
        row_words: section_words(dtype, 1, cols) as u32,
        bias0,
        bias1,
        bias2,
    };
    let w = |i: usize| Binding::from(at(i).map(|p| &p.weight.shards[0].buffer));
    let y = |i: usize| Binding::from(at(i).map(|p| p.y));
    let bias = joined(0).map(|(buffer, _)| buffer);
    let bindings = [x.into(), w(0), w(1), w(2), y(0), y(1), y(2), bias.into()];
    let mut constants = lanes(&tile);
    constants.extend(bias.map(|_| ("BIASED", 1.0)));
    let groups = [g0 + g1 + g2, tile.groups([4, m])[1], 1];
    rec.dispatch(tile.kernel, &constants, &params, &bindings, groups)
}

/// The kernel for `m` rows of several products: that of the variant which the widest would take; none where a dispatch each is better.
fn each_tile(rec: &Recorder, set: &[Product<'_>], m: usize) -> Option<Tile> {
    let w = set.iter().map(|p| p.weight).max_by_key(|w| w.rows)?;
    if m > FEW {
        return None;
    }
    let variant = variants::forward(rec, w.dtype, [m, w.rows, w.cols]).variant;
    // Four times the reads of W: worth the dispatches for an adapter's rank, not for the base's weights.
    let variant = variants::few_rows(variant)
        .filter(|_| w.rows < NARROW)
        .unwrap_or(variant);
    if variant.slices.is_empty() {
        return None;
    }
    let tile = variant.tile(rec, variant.slices, w.dtype);
    let across: usize = set.iter().map(|p| pad4(p.weight.rows).div_ceil(tile.cols)).sum();
    (across <= MAX_GROUPS).then_some(tile)
}

/// One of the two products of SwiGLU's input.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// W (rows, cols).
    pub weight: &'a Weight,
    /// Added: (rows).
    pub bias: Option<&'a Buffer>,
    /// An adapter's second product, added.
    pub lora: Option<Second<'a>>,
}

/// `y (m, rows) = silu(gate's product) · up's product`, for few rows in one dispatch where both sides have whole weights of one element type,
/// no bias, and an adapter on both or on neither; else in two or more with the same bits, the first of which leaves gate's product in
/// `scratch`, laid out as y. Strides and padding as in [`linear::forward`].
///
/// # Errors
/// A GPU error; sides of different shapes (a bug).
pub fn forward_gated(
    rec: &mut Recorder,
    x: &Buffer,
    [gate, up]: [Side<'_>; 2],
    scratch: &Buffer,
    y: &Buffer,
    m: usize,
) -> Result<()> {
    let (w0, w1) = (gate.weight, up.weight);
    if (w0.rows, w0.cols) != (w1.rows, w1.cols) {
        return Err(Error::internal("gate and up of different shapes"));
    }
    if let Some(tile) = gated_tile(rec, &gate, &up, m) {
        return gate_and_up(rec, tile, x, [&gate, &up], y, m);
    }
    let first = Epilogue {
        bias: gate.bias,
        lora: gate.lora,
        ..Epilogue::default()
    };
    let then = Epilogue {
        bias: up.bias,
        lora: up.lora,
        gate: Some(scratch),
        ..Epilogue::default()
    };
    forward_with(rec, x, w0, &first, scratch, m)?;
    forward_with(rec, x, w1, &then, y, m)
}

/// Both sides in a dispatch of `tile`'s kernel.
fn gate_and_up(
    rec: &mut Recorder,
    tile: Tile,
    x: &Buffer,
    [gate, up]: [&Side<'_>; 2],
    y: &Buffer,
    m: usize,
) -> Result<()> {
    let (w0, w1) = (gate.weight, up.weight);
    let k4 = (pad4(w0.cols) / 4) as u32;
    let params = ForwardParams {
        m: m as u32,
        n: w0.rows as u32,
        k4,
        x_stride: k4,
        y_stride: pad4(w0.rows) as u32,
        y_offset: 0,
        w_section: section_words(w0.dtype, w0.rows, w0.cols) as u32,
        w_row: 0,
        flags: 0,
        alpha: 1.0,
        r4: gate.lora.map_or(0, |s| pad4(s.b.cols) / 4) as u32,
        beta: gate.lora.map_or(0.0, |s| s.factor),
    };
    let bindings = [
        x.into(),
        (&w0.shards[0].buffer).into(),
        (&w1.shards[0].buffer).into(),
        y.into(),
        gate.lora.map(|s| s.h).into(),
        up.lora.map(|s| s.h).into(),
        gate.lora.map(|s| &s.b.shards[0].buffer).into(),
        up.lora.map(|s| &s.b.shards[0].buffer).into(),
    ];
    let mut constants = lanes(&tile);
    constants.push(("SPAN", tile.span() as f64));
    constants.extend(gate.lora.map(|_| ("LORA", 1.0)));
    let groups = tile.groups([2 * pad4(w0.rows), m]);
    rec.dispatch(tile.kernel, &constants, &params, &bindings, groups)
}

/// The kernel of both sides: that of the variant which a side alone would take.
fn gated_tile(rec: &Recorder, gate: &Side<'_>, up: &Side<'_>, m: usize) -> Option<Tile> {
    let (w, dtype) = (gate.weight, gate.weight.dtype);
    let biased = gate.bias.or(up.bias).is_some();
    let adapters = match (&gate.lora, &up.lora) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            is_plain(a.b) && is_plain(b.b) && a.b.cols == b.b.cols && a.factor.to_bits() == b.factor.to_bits()
        }
        _ => false,
    };
    if m > FEW || biased || !adapters || !is_whole(w) || !is_whole(up.weight) || up.weight.dtype != dtype {
        return None;
    }
    let variant = variants::forward(rec, dtype, [m, w.rows, w.cols]).variant;
    if variant.gated.is_empty() {
        return None;
    }
    let tile = variant.tile(rec, variant.gated, dtype);
    let across = (2 * pad4(w.rows)).div_ceil(tile.cols);
    (across <= MAX_GROUPS).then_some(tile)
}

/// In one buffer.
fn is_whole(w: &Weight) -> bool {
    w.shards.len() == 1
}

/// f32 in one buffer.
fn is_plain(w: &Weight) -> bool {
    w.dtype == DType::F32 && is_whole(w)
}

/// The kernels of several products of one x.
pub(super) fn entries() -> Vec<Entry> {
    variants::shared_entries()
}
