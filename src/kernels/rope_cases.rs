//! Cases of [`rope`](super::rope).

use super::harness::{Case, Gen, Slot, Tol, wide};
use super::kv::{Stored, read_back, rounded, stored};
use super::rope::{RopeTable, Shape, apply, apply_cached, turns, twin};
use super::rows::scatter_twin;
use super::work::{Phase, Sizes, Wanted, Work};
use crate::config::FloatDtype;
use crate::gpu::Buffer;

/// Inverse frequencies θ^(−2d/D).
pub(super) fn inv_freq(head_dim: usize) -> Vec<f64> {
    let exponent = |d: usize| -2.0 * d as f64 / head_dim as f64;
    (0..head_dim / 2).map(|d| 1e4f64.powf(exponent(d))).collect()
}

/// (rows, query heads, key heads, head_dim, |x|, inverse)
pub(super) type Turned = (usize, usize, usize, usize, f32, bool);

const SIZES: [Turned; 7] = [
    (1, 1, 1, 4, 1.0, false),
    (1, 9, 3, 64, 1.0, false),
    (3, 5, 5, 20, 1.0, false),
    (7, 2, 1, 40, 1e4, false),
    (64, 3, 1, 64, 1.0, true),
    (131, 4, 2, 24, 3.0, true),
    (65, 2, 2, 128, 1.0, false),
];

pub(super) const POSITIONS: usize = 3001;

pub(super) fn apply_cases() -> Vec<Case> {
    SIZES.map(apply_case).into()
}

/// What a model asks of the op.
pub(super) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let one = |(sizes, phase): (Sizes, Phase)| {
        let (h, kv, d) = (sizes.heads, sizes.kv_heads, sizes.head_dim);
        let build = move |m, _| apply_case((m, h, kv, d, 1.0, false));
        Work::elements(("rope", sizes, phase), (h + kv) * d, (3.0, 2.0), build)
    };
    wanted.rows().map(one).collect()
}

/// The cache is written forward only.
pub(super) fn cache_cases() -> Vec<Case> {
    SIZES
        .map(|(m, h, kv, d, scale, _)| cache_case((m, h, kv, d, scale, false), FloatDtype::Float32))
        .into()
}

/// Also with values of which most are beyond what halves hold.
pub(super) fn cache_f16_cases() -> Vec<Case> {
    let large = (5, 3, 1, 64, 1e6, false);
    SIZES
        .into_iter()
        .chain([large])
        .map(|(m, h, kv, d, scale, _)| cache_case((m, h, kv, d, scale, false), FloatDtype::Float16))
        .collect()
}

/// What both kernels' cases are made of.
pub(super) struct Data {
    pub(super) shape: Shape,
    scale: f32,
    inverse: bool,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) positions: Vec<u32>,
}

impl Data {
    pub(super) fn new((m, heads, kv_heads, head_dim, scale, inverse): Turned) -> Self {
        let mut g = Gen::new((m * 100 + head_dim) as u64);
        let q = g.uniform(m * heads * head_dim, scale);
        let mut positions = g.below(m, POSITIONS as u32);
        positions[m - 1] = POSITIONS as u32 - 1;
        let [k, v] = [(), ()].map(|()| g.uniform(m * kv_heads * head_dim, scale));
        let shape = Shape {
            m,
            heads,
            kv_heads,
            head_dim,
        };
        Self {
            shape,
            scale,
            inverse,
            q,
            k,
            v,
            positions,
        }
    }

    fn name(&self, op: &str) -> String {
        let Shape {
            m,
            heads,
            kv_heads,
            head_dim,
        } = self.shape;
        let (scale, inverse) = (self.scale, self.inverse);
        format!("{op} m{m} h{heads}+{kv_heads} d{head_dim} |x|{scale:e} inverse {inverse}")
    }

    /// Slots of positions and table.
    fn tables(&self) -> [Slot; 2] {
        let meta: Vec<u32> = self.positions.iter().flat_map(|p| [7, 8, 9, *p]).collect();
        [
            Slot::input(&meta),
            Slot::input(&turns(&inv_freq(self.shape.head_dim), 0..POSITIONS)),
        ]
    }

    fn flops(&self) -> f64 {
        let Shape { heads, kv_heads, .. } = self.shape;
        3.0 * (self.q.len() / heads * (heads + kv_heads)) as f64
    }

    fn turned(&self, x: &[f32], heads: usize) -> Vec<f64> {
        let freq = inv_freq(self.shape.head_dim);
        twin(&wide(x), &self.positions, &freq, heads, self.inverse)
    }

    fn tol(&self) -> Tol {
        Tol {
            atol: 3e-7 * f64::from(self.scale),
            rtol: 0.0,
            why: "f32 cosine and sine, difference of two products",
        }
    }
}

impl Data {
    /// That of the keys in a cache.
    fn stored_tol(&self, dtype: FloatDtype) -> Tol {
        match dtype {
            FloatDtype::Float32 => self.tol(),
            FloatDtype::Float16 => Tol {
                // A step below 2⁻¹⁴ is as large as that.
                atol: self.tol().atol + 6.2e-5,
                rtol: 1.0 / 1024.0,
                why: "where f32 and float64 lie on two sides of a tie, they are rounded to neighbouring halves",
            },
        }
    }
}

fn table_on(turns: &Buffer, shape: Shape) -> RopeTable {
    RopeTable {
        turns: turns.clone(),
        positions: POSITIONS,
        half: shape.head_dim / 2,
    }
}

fn apply_case(sizes: Turned) -> Case {
    let data = Data::new(sizes);
    let (shape, inverse) = (data.shape, data.inverse);
    let [meta, table] = data.tables();
    Case {
        name: data.name("rope_apply"),
        slots: vec![
            Slot::InOut(data.q.clone()),
            Slot::InOut(data.k.clone()),
            meta,
            table,
        ],
        record: Box::new(move |rec, b| {
            apply(
                rec,
                (&b[0], &b[1]),
                &b[2],
                &table_on(&b[3], shape),
                shape,
                inverse,
            )
        }),
        flops: data.flops(),
        expect: Box::new(move || {
            vec![
                (0, data.turned(&data.q, shape.heads), data.tol()),
                (1, data.turned(&data.k, shape.kv_heads), data.tol()),
            ]
        }),
    }
}

fn cache_case(sizes: Turned, dtype: FloatDtype) -> Case {
    let data = Data::new(sizes);
    let shape = data.shape;
    let (m, width) = (shape.m, shape.kv_heads * shape.head_dim);
    let cache_rows = m + 6;
    // Distinct and out of order: the step has no factor in common with the number of rows.
    let step = if cache_rows.is_multiple_of(7) { 11 } else { 7 };
    let mut rows: Vec<u32> = (0..m).map(|i| ((i * step + 1) % cache_rows) as u32).collect();
    if m > 2 {
        rows[0] = u32::MAX;
    }
    let [meta, table] = data.tables();
    let mut g = Gen::new(99);
    let old = [(), ()].map(|()| g.uniform(cache_rows * width, 1e4));
    let cache = |values: &Vec<f32>| match dtype {
        FloatDtype::Float32 => Slot::InOut(values.clone()),
        FloatDtype::Float16 => Slot::Halves(stored(values, dtype)),
    };
    Case {
        name: data.name(&format!("rope_cache {dtype}")),
        slots: vec![
            Slot::InOut(data.q.clone()),
            Slot::input(&data.k),
            Slot::input(&data.v),
            meta,
            table,
            Slot::input(&rows),
            cache(&old[0]),
            cache(&old[1]),
        ],
        record: Box::new(move |rec, b| {
            let (k, v) = (&b[6], &b[7]);
            let to = Stored { k, v, dtype };
            let table = table_on(&b[4], shape);
            apply_cached(rec, [&b[0], &b[1], &b[2]], &b[3], &table, &b[5], to, shape)
        }),
        flops: data.flops(),
        expect: Box::new(move || {
            let [mut k, mut v] = [read_back(&old[0], dtype), read_back(&old[1], dtype)];
            let turned = data.turned(&data.k, shape.kv_heads);
            let turned: Vec<f64> = turned.into_iter().map(|x| rounded(x, dtype)).collect();
            scatter_twin(&turned, &rows, &mut k, width);
            scatter_twin(&read_back(&data.v, dtype), &rows, &mut v, width);
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "values are copied",
            };
            vec![
                (0, data.turned(&data.q, shape.heads), data.tol()),
                (6, k, data.stored_tol(dtype)),
                (7, v, exact),
            ]
        }),
    }
}
