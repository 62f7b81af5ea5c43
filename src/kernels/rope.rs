//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-rotation layout of Hugging Face
//! models: element `d` of a head pairs with element `d + D/2`. Queries and keys are turned in one dispatch, which in
//! sampling puts keys and values into the cache as well.

use super::kv::Stored;
use super::rope_cases::{apply_cases, cache_cases, cache_f16_cases};
use super::{Entry, fold};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Binding, Buffer, Gpu, Kernel, Recorder, Value, params, shaders};
use std::ops::Range;

static APPLY: Kernel = Kernel::portable("rope_apply", shaders!["rope_apply.wgsl", "shared/rope.wgsl"]);
static CACHE: Kernel = Kernel::portable("rope_cache", shaders!["rope_cache.wgsl", "shared/rope.wgsl"]);
static CACHE_F16: Kernel = Kernel::portable(
    "rope_cache_f16",
    shaders!["rope_cache.wgsl", "shared/rope.wgsl", "shared/halves.wgsl"],
)
.with(&[("HALF", Value::Flag(true))]);

const LANES: usize = 64;

params! {
    struct Params {
        m: u32,
        heads: u32,
        kv_heads: u32,
        half2: u32,
        positions: u32,
        sign: f32,
    }
}

/// Positions whose turns are on the host at once.
const TOGETHER: usize = 1 << 16;

/// Cosines and sines of every position, computed in float64 (WGSL promises only 2⁻¹¹ for its own).
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Of `position · inv_freq`, (positions, D/4) of two cosines and their two sines, f32.
    pub turns: Buffer,
    /// Rows: positions 0 .. `positions`.
    pub positions: usize,
    /// Half the head dimension.
    pub half: usize,
}

/// (positions, D/4) of two cosines and their two sines.
pub(super) fn turns(inv_freq: &[f64], positions: Range<usize>) -> Vec<f32> {
    let pairs = positions.flat_map(|p| inv_freq.chunks(2).map(move |f| (p as f64, f)));
    // libm, not the platform's: the same bits everywhere.
    pairs
        .flat_map(|(p, f)| {
            [
                libm::cos(p * f[0]),
                libm::cos(p * f[1]),
                libm::sin(p * f[0]),
                libm::sin(p * f[1]),
            ]
        })
        .map(|v| v as f32)
        .collect()
}

impl RopeTable {
    /// The table for positions `0 .. positions` from the (already scaled) inverse frequencies, one a pair, an even
    /// number of them.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, inv_freq: &[f64], positions: usize) -> Result<Self> {
        // Four numbers for every two frequencies. A table that is too large is refused before it is computed.
        let row = 8 * inv_freq.len() as u64;
        let buffer = gpu.alloc("rope/turns", positions as u64 * row)?;
        let written = if gpu.counts() { 0 } else { positions };
        for from in (0..written).step_by(TOGETHER) {
            let part = turns(inv_freq, from..positions.min(from + TOGETHER));
            gpu.write(&buffer, from as u64 * row, &part);
        }
        Ok(Self {
            turns: buffer,
            positions,
            half: inv_freq.len(),
        })
    }
}

/// Sizes of a rotation.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows.
    pub m: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// D: a multiple of 4, twice the table's `half`.
    pub head_dim: usize,
}

/// Turns every head of `q (m, heads·head_dim)` and `k (m, kv_heads·head_dim)` in place by its row's position,
/// `meta (m) vec4<u32>`'s `.w`, which lies inside the table.
///
/// `inverse` turns by −θ, which is the gradient of the rotation.
///
/// # Errors
/// A GPU error.
pub fn apply(
    rec: &mut Recorder,
    (q, k): (&Buffer, &Buffer),
    meta: &Buffer,
    table: &RopeTable,
    shape: Shape,
    inverse: bool,
) -> Result<()> {
    let bindings = [q.into(), k.into(), meta.into(), (&table.turns).into()];
    let heads = shape.heads + shape.kv_heads;
    dispatch(rec, &APPLY, &bindings, table, shape, heads, inverse)
}

/// As [`apply`] for `q`; the turned `k` and `v (m, kv_heads·head_dim)` go to the rows `rows (m)` u32, distinct, of the cache `to
/// (…, kv_heads·head_dim)`, as its element type stores them. Other rows keep their values; an index past the end drops its row.
///
/// # Errors
/// A GPU error.
pub fn apply_cached(
    rec: &mut Recorder,
    [q, k, v]: [&Buffer; 3],
    meta: &Buffer,
    table: &RopeTable,
    rows: &Buffer,
    to: Stored<'_>,
    shape: Shape,
) -> Result<()> {
    let bindings = [q, k, meta, &table.turns, v, rows, to.k, to.v].map(Binding::from);
    let heads = shape.heads + 2 * shape.kv_heads;
    let kernel = match to.dtype {
        FloatDtype::Float32 => &CACHE,
        FloatDtype::Float16 => &CACHE_F16,
    };
    dispatch(rec, kernel, &bindings, table, shape, heads, false)
}

/// `heads` heads a row take part.
fn dispatch(
    rec: &mut Recorder,
    kernel: &'static Kernel,
    bindings: &[Binding<'_>],
    table: &RopeTable,
    shape: Shape,
    heads: usize,
    inverse: bool,
) -> Result<()> {
    let d = shape.head_dim;
    debug_assert!(d.is_multiple_of(4) && d == 2 * table.half);
    let params = Params {
        m: shape.m as u32,
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        half2: (d / 4) as u32,
        positions: table.positions as u32,
        sign: if inverse { -1.0 } else { 1.0 },
    };
    let groups = fold(shape.m * heads * d / 4, LANES);
    rec.dispatch(kernel, &[("LANES", LANES as f64)], &params, bindings, groups)
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
    vec![
        Entry::new(&APPLY, apply_cases),
        Entry::new(&CACHE, cache_cases),
        Entry::new(&CACHE_F16, cache_f16_cases),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::harness::{Gen, assert_gradient, numeric_gradient, wide};
    use super::super::rope_cases::{Data, POSITIONS, inv_freq};
    use super::*;
    use crate::gpu::GpuOptions;

    #[test]
    fn table_holds_float64_values() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let table = RopeTable::new(&gpu, &[1.0, 1e-3], 1000).unwrap();
        let turns: Vec<f32> = gpu.read(&table.turns, 0, 4000).unwrap();
        let last = &turns[999 * 4..];
        let want = [999f64.cos(), 0.999f64.cos(), 999f64.sin(), 0.999f64.sin()];
        for (got, want) in last.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 6e-8);
        }
    }

    /// A table is computed in parts, and one that is too large not at all.
    #[test]
    fn a_table_has_one_row_for_each_position_whatever_its_parts() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (freq, positions) = ([0.5, 1e-4], TOGETHER + 3);
        let table = RopeTable::new(&gpu, &freq, positions).unwrap();
        let read: Vec<f32> = gpu.read(&table.turns, 0, 4 * positions).unwrap();
        assert_eq!(read, turns(&freq, 0..positions));
        let error = RopeTable::new(&gpu, &freq, 1 << 40).unwrap_err();
        assert!(error.to_string().contains("rope/turns"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    /// Sampling puts the bits into the cache that training attends to.
    #[test]
    fn the_cache_gets_the_bits_of_the_rotation_in_place() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let data = Data::new((5, 3, 2, 20, 1.0, false));
        let shape = data.shape;
        let table = RopeTable::new(&gpu, &inv_freq(20), POSITIONS).unwrap();
        let up = |v: &[f32]| gpu.upload("test", v).unwrap();
        let meta: Vec<u32> = data.positions.iter().flat_map(|p| [0, 0, 0, *p]).collect();
        let meta = gpu.upload("test", &meta).unwrap();
        let (q, k, qc, kc) = (up(&data.q), up(&data.k), up(&data.q), up(&data.k));
        let rows = gpu.upload("test", &[0u32, 1, 2, 3, 4]).unwrap();
        let caches = [&data.k, &data.v].map(|like| up(&vec![f32::NAN; like.len()]));
        let mut rec = Recorder::new(&gpu);
        apply(&mut rec, (&q, &k), &meta, &table, shape, false).unwrap();
        let to = Stored {
            k: &caches[0],
            v: &caches[1],
            dtype: FloatDtype::Float32,
        };
        apply_cached(
            &mut rec,
            [&qc, &kc, &up(&data.v)],
            &meta,
            &table,
            &rows,
            to,
            shape,
        )
        .unwrap();
        rec.submit().unwrap();
        let bits = |b: &Buffer, n: usize| gpu.read::<u32>(b, 0, n).unwrap();
        assert_eq!(bits(&q, data.q.len()), bits(&qc, data.q.len()));
        assert_eq!(bits(&k, data.k.len()), bits(&caches[0], data.k.len()));
    }

    /// Values around every edge of the rounding, and what is not finite, to the bit.
    #[test]
    fn halves_are_those_of_the_twin() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (m, dim) = (64, 64);
        let least = 1.0 / 16_384.0f32;
        let edges = [
            0.0,
            1.0,
            65_503.0,
            65_504.0,
            65_519.9,
            65_520.0,
            1e6,
            3e38,
            least,
            0.7 * least,
            0.5 * least,
            0.499 * least,
            1e-40,
        ];
        let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let mut g = Gen::new(8);
        let mut v: Vec<f32> = edges.iter().flat_map(|x| [*x, -x]).chain(special).collect();
        // Ties between two halves and their neighbours in f32, at every exponent that halves have and some beyond.
        for exponent in 100..150u32 {
            for mantissa in [
                0x0fffu32, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7f_efff, 0x7f_f000, 0x7f_ffff,
            ] {
                v.push(f32::from_bits(exponent << 23 | mantissa));
            }
        }
        let rest = m * dim - v.len();
        v.extend(g.uniform(rest, 4.0));
        let up = |v: &[f32]| gpu.upload("test", v).unwrap();
        let table = RopeTable::new(&gpu, &inv_freq(dim), POSITIONS).unwrap();
        let meta = gpu.upload("test", &vec![0u32; 4 * m]).unwrap();
        let rows: Vec<u32> = (0..m as u32).collect();
        let rows = gpu.upload("test", &rows).unwrap();
        let (qb, kb, vb) = (up(&vec![0.0; m * dim]), up(&vec![0.0; m * dim]), up(&v));
        let caches = [(), ()].map(|()| gpu.upload("test", &vec![7u32; m * dim / 2]).unwrap());
        let to = Stored {
            k: &caches[0],
            v: &caches[1],
            dtype: FloatDtype::Float16,
        };
        let shape = Shape {
            m,
            heads: 1,
            kv_heads: 1,
            head_dim: dim,
        };
        let mut rec = Recorder::new(&gpu);
        apply_cached(&mut rec, [&qb, &kb, &vb], &meta, &table, &rows, to, shape).unwrap();
        rec.submit().unwrap();
        let got: Vec<u32> = gpu.read(&caches[1], 0, m * dim / 2).unwrap();
        let want = crate::kernels::kv::stored(&v, FloatDtype::Float16);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(
                got,
                want,
                "{:e} and {:e}: {got:x}, not {want:x}",
                v[2 * i],
                v[2 * i + 1]
            );
        }
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
