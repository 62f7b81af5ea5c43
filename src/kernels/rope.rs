//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-rotation layout of Hugging Face
//! models: element `d` of a head pairs with element `d + D/2`.

use super::harness::{Case, Gen, Slot, Tol, wide};
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Kernel, Recorder};

static APPLY: Kernel = Kernel::portable("rope_apply", &[include_str!("../../shaders/rope_apply.wgsl")]);

const LANES: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    m: u32,
    heads: u32,
    half2: u32,
    positions: u32,
    sign: f32,
}

/// Cosines and sines of every position, computed in float64 (WGSL promises only 2⁻¹¹ for its own).
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `cos(position · inv_freq)`: (positions, D/2) f32.
    pub cos: Buffer,
    /// `sin(position · inv_freq)`: (positions, D/2) f32.
    pub sin: Buffer,
    /// Rows: positions 0 .. `positions`.
    pub positions: usize,
    /// Columns: half the head dimension.
    pub half: usize,
}

/// (positions, D/2) cosines and sines.
fn tables(inv_freq: &[f64], positions: usize) -> (Vec<f32>, Vec<f32>) {
    let angles = || (0..positions).flat_map(|p| inv_freq.iter().map(move |f| p as f64 * f));
    // libm, not the platform's: the same bits everywhere.
    (
        angles().map(|a| libm::cos(a) as f32).collect(),
        angles().map(|a| libm::sin(a) as f32).collect(),
    )
}

impl RopeTable {
    /// Tables for positions `0 .. positions` from the (already scaled) inverse frequencies, one a pair.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, inv_freq: &[f64], positions: usize) -> Result<Self> {
        let (cos, sin) = tables(inv_freq, positions);
        Ok(Self {
            cos: gpu.upload("rope/cos", &cos)?,
            sin: gpu.upload("rope/sin", &sin)?,
            positions,
            half: inv_freq.len(),
        })
    }
}

/// Rotates every head of `x (m, heads·head_dim)` in place by its row's position, `meta (m) vec4<u32>`'s `.w`.
///
/// `inverse` rotates by −θ, which is the gradient of the rotation. `head_dim` is a multiple of 4 and twice
/// `table.half`; positions lie inside the table.
///
/// # Errors
/// A GPU error.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and sizes of one op; a struct would only rename them"
)]
pub fn apply(
    rec: &mut Recorder,
    x: &Buffer,
    meta: &Buffer,
    table: &RopeTable,
    m: usize,
    heads: usize,
    head_dim: usize,
    inverse: bool,
) -> Result<()> {
    debug_assert!(head_dim.is_multiple_of(4) && head_dim == 2 * table.half);
    let params = Params {
        m: m as u32,
        heads: heads as u32,
        half2: (head_dim / 4) as u32,
        positions: table.positions as u32,
        sign: if inverse { -1.0 } else { 1.0 },
    };
    rec.dispatch(
        &APPLY,
        &[("LANES", LANES as f64)],
        &params,
        &[x.into(), meta.into(), (&table.cos).into(), (&table.sin).into()],
        fold(m * heads * head_dim / 4, LANES),
    )
}

/// The rotation in float64: x (m, heads·head_dim), one position a row.
pub fn twin(x: &[f64], positions: &[u32], inv_freq: &[f64], heads: usize, inverse: bool) -> Vec<f64> {
    let half = inv_freq.len();
    let mut y = x.to_vec();
    for (head, y) in y.chunks_exact_mut(2 * half).enumerate() {
        let position = f64::from(positions[head / heads]);
        for (d, f) in inv_freq.iter().enumerate() {
            let (s, c) = (position * f).sin_cos();
            let s = if inverse { -s } else { s };
            let (a, b) = (y[d], y[d + half]);
            y[d] = a * c - b * s;
            y[d + half] = b * c + a * s;
        }
    }
    y
}

/// The op's rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![Entry {
        kernel: &APPLY,
        cases,
    }]
}

/// Inverse frequencies θ^(−2d/D).
fn inv_freq(head_dim: usize) -> Vec<f64> {
    let exponent = |d: usize| -2.0 * d as f64 / head_dim as f64;
    (0..head_dim / 2).map(|d| 1e4f64.powf(exponent(d))).collect()
}

fn cases() -> Vec<Case> {
    // (rows, heads, head_dim, |x|, inverse)
    let shapes = [
        (1, 1, 4, 1.0, false),
        (1, 9, 64, 1.0, false),
        (3, 5, 20, 1.0, false),
        (7, 2, 40, 1e4, false),
        (64, 3, 64, 1.0, true),
        (131, 4, 24, 3.0, true),
        (65, 2, 128, 1.0, false),
    ];
    shapes.map(case).into()
}

fn case((m, heads, dim, scale, inverse): (usize, usize, usize, f32, bool)) -> Case {
    const POSITIONS: usize = 3001;
    let mut g = Gen::new((m * 100 + dim) as u64);
    let x = g.uniform(m * heads * dim, scale);
    let mut positions = g.below(m, POSITIONS as u32);
    positions[m - 1] = POSITIONS as u32 - 1;
    let meta: Vec<u32> = positions.iter().flat_map(|p| [7, 8, 9, *p]).collect();
    let (cos, sin) = tables(&inv_freq(dim), POSITIONS);
    Case {
        name: format!("rope_apply m{m} h{heads} d{dim} |x|{scale:e} inverse {inverse}"),
        slots: vec![
            Slot::InOut(x.clone()),
            Slot::input(&meta),
            Slot::input(&cos),
            Slot::input(&sin),
        ],
        record: Box::new(move |rec, b| {
            let table = RopeTable {
                cos: b[2].clone(),
                sin: b[3].clone(),
                positions: POSITIONS,
                half: dim / 2,
            };
            apply(rec, &b[0], &b[1], &table, m, heads, dim, inverse)
        }),
        expect: Box::new(move || {
            let y = twin(&wide(&x), &positions, &inv_freq(dim), heads, inverse);
            let tol = Tol {
                atol: 3e-7 * f64::from(scale),
                rtol: 0.0,
                why: "f32 cosine and sine, difference of two products",
            };
            vec![(0, y, tol)]
        }),
        flops: 6.0 * (m * heads * dim / 2) as f64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::harness::{assert_gradient, assert_layout, check_entries, numeric_gradient};
    use super::*;
    use crate::gpu::GpuOptions;
    use std::mem::offset_of;

    #[test]
    fn layout() {
        assert_layout::<Params>(
            &APPLY,
            &[
                ("m", offset_of!(Params, m)),
                ("heads", offset_of!(Params, heads)),
                ("half2", offset_of!(Params, half2)),
                ("positions", offset_of!(Params, positions)),
                ("sign", offset_of!(Params, sign)),
            ],
        );
    }

    #[test]
    fn matches_twin() {
        check_entries(&entries());
    }

    #[test]
    fn table_holds_float64_values() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let table = RopeTable::new(&gpu, &[1.0, 1e-3], 1000).unwrap();
        let sin: Vec<f32> = gpu.read(&table.sin, 0, 2000).unwrap();
        let cos: Vec<f32> = gpu.read(&table.cos, 0, 2000).unwrap();
        assert!((f64::from(sin[999 * 2]) - 999f64.sin()).abs() < 6e-8);
        assert!((f64::from(cos[999 * 2 + 1]) - 0.999f64.cos()).abs() < 6e-8);
    }

    #[test]
    fn inverse_is_the_gradient() {
        let mut g = Gen::new(3);
        let (m, heads, dim) = (3, 2, 8);
        let (x, dy) = (
            wide(&g.uniform(m * heads * dim, 1.0)),
            wide(&g.uniform(m * heads * dim, 1.0)),
        );
        let (positions, freq) = ([0, 5, 77], inv_freq(dim));
        let loss = |x: &[f64]| {
            let y = twin(x, &positions, &freq, heads, false);
            y.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>()
        };
        let dx = twin(&dy, &positions, &freq, heads, true);
        assert_gradient("dx", &dx, &numeric_gradient(&x, loss));
    }
}
