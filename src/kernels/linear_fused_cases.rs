//! Float64 twins and cases of [`linear_fused`](super::linear_fused).

use super::elementwise::swiglu_twin;
use super::harness::{Case, Gen, Slot, Tol};
use super::linear::Write;
use super::linear_cases::{forward_twin, repadded, unpadded};
use super::linear_fused::{Epilogue, Second, forward_each, forward_with};
use super::weight::Weight;
use super::weight_cases::{TestWeight, test_cols};
use crate::tensor::DType;

/// Twin of what [`forward_with`] adds to a product and its bias: `[+ residual] [+ factor · h (m, r) · Bᵀ (n, r)]`, then
/// `[silu(gate) ·]`.
fn epilogue_twin(
    y: &mut [f64],
    residual: Option<&[f64]>,
    lora: Option<(&[f64], &[f64], usize, f64)>,
    gate: Option<&[f64]>,
) {
    if let Some((h, b, r, factor)) = lora {
        let n = b.len() / r;
        for (i, y) in y.iter_mut().enumerate() {
            let (h, b) = (&h[i / n * r..][..r], &b[i % n * r..][..r]);
            *y += factor * h.iter().zip(b).map(|(h, b)| h * b).sum::<f64>();
        }
    }
    for (i, y) in y.iter_mut().enumerate() {
        *y += residual.map_or(0.0, |v| v[i]);
        *y = gate.map_or(*y, |g| swiglu_twin(g[i], *y));
    }
}

/// What one case of [`forward_with`] computes.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    bias: bool,
    residual: bool,
    rank: Option<usize>,
    gate: bool,
}

/// The adapter's scale; not a power of two, so that its rounding shows.
const FACTOR: f32 = 0.7;

/// What it does is the same text for every element type: all meet the residual, which is a flag; one type meets what makes other
/// pipelines, since software adapters take long to compile them (`tests/linear.rs` compares the bits of a block type).
fn shapes(dtype: DType) -> Vec<Shape> {
    let [_, b, c, _] = test_cols(dtype);
    let of = |m, n, k| Shape {
        m,
        n,
        k,
        ..Shape::default()
    };
    let mut all = vec![Shape {
        residual: true,
        bias: true,
        ..of(9, 67, b)
    }];
    if dtype == DType::F32 {
        all.extend([
            Shape {
                rank: Some(16),
                ..of(1, 41, b)
            },
            Shape {
                rank: Some(5),
                residual: true,
                bias: true,
                ..of(18, 67, c)
            },
            Shape {
                gate: true,
                ..of(5, 36, b)
            },
            Shape {
                gate: true,
                rank: Some(3),
                ..of(17, 33, b)
            },
        ]);
    }
    all
}

/// The cases of forward's epilogue.
pub(super) fn epilogue_cases(dtype: DType) -> Vec<Case> {
    let mut g = Gen::new(40);
    let case = |shape| epilogue_case(&mut g, dtype, shape);
    shapes(dtype).into_iter().map(case).collect()
}

fn epilogue_case(g: &mut Gen, dtype: DType, shape: Shape) -> Case {
    let Shape { m, n, k, gate, .. } = shape;
    let rank = shape.rank.unwrap_or(4);
    let weight = TestWeight::random(g, dtype, n, k, 1.0);
    let (x, bias, beside) = (g.rows(m, k, 1.0), g.uniform(n, 1.0), g.rows(m, n, 2.0));
    let (h, b) = (g.rows(m, rank, 1.0), g.rows(n, rank, 1.0));
    let slots = vec![
        Slot::input(&x),
        Slot::input(&weight.words()),
        Slot::input(&bias),
        Slot::Out(beside.len()),
        Slot::input(&beside),
        Slot::input(&h),
        Slot::input(&b),
    ];
    Case {
        name: format!("{shape:?}"),
        slots,
        flops: 2.0 * (m * n * (k + shape.rank.unwrap_or(0))) as f64,
        record: Box::new(move |rec, buffers| {
            let w = Weight::from_buffer(dtype, n, k, buffers[1].clone());
            let b = Weight::from_buffer(DType::F32, n, rank, buffers[6].clone());
            let second = Second {
                h: &buffers[5],
                b: &b,
                factor: FACTOR,
            };
            let with = Epilogue {
                bias: shape.bias.then_some(&buffers[2]),
                residual: shape.residual.then_some(&buffers[4]),
                lora: shape.rank.map(|_| second),
                gate: gate.then_some(&buffers[4]),
            };
            forward_with(rec, &buffers[0], &w, &with, &buffers[3], m)
        }),
        expect: Box::new(move || {
            let f64s = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (w, bias, beside) = (f64s(&weight.values()), f64s(&bias), unpadded(&beside, n));
            let (h, b) = (unpadded(&h, rank), unpadded(&b, rank));
            let mut y = vec![0.0; m * n];
            let bias = shape.bias.then_some(&bias[..]);
            forward_twin(&unpadded(&x, k), &w, bias, &mut y, k, Write::SET);
            let lora = shape.rank.map(|r| (&h[..], &b[..], r, f64::from(FACTOR)));
            let residual = shape.residual.then_some(&beside[..]);
            epilogue_twin(&mut y, residual, lora, gate.then_some(&beside));
            vec![(3, repadded(&y, n), tol(k + rank, gate))]
        }),
    }
}

/// Products of values within ±1 and ±2, as many as `terms`.
fn tol(terms: usize, gate: bool) -> Tol {
    let atol = 2.0 * terms as f64 / (1 << 24) as f64;
    if gate {
        // |silu(gate)| < 2.
        return Tol {
            atol: 2.0 * atol,
            rtol: 3e-6,
            why: "one f32 rounding per term of a chain, and exp within 3 + 2|x| ulp",
        };
    }
    Tol {
        atol,
        rtol: 4.0 / (1 << 24) as f64,
        why: "one f32 rounding per term of a chain, and those of the epilogue's steps",
    }
}

/// (rows, outputs, inputs, products)
const EACH: [(usize, usize, usize, usize); 3] = [(1, 16, 36, 3), (13, 5, 41, 2), (6, 70, 131, 3)];

fn each_case(g: &mut Gen, (m, n, k, count): (usize, usize, usize, usize)) -> Case {
    let x = g.rows(m, k, 1.0);
    let w: Vec<Vec<f32>> = (0..count).map(|_| g.rows(n, k, 2.0)).collect();
    let mut slots = vec![Slot::input(&x)];
    slots.extend(w.iter().map(|w| Slot::input(w)));
    slots.extend(w.iter().map(|_| Slot::Out(m * super::pad4(n))));
    Case {
        name: format!("{count} products, M {m}, N {n}, K {k}"),
        slots,
        flops: 2.0 * (m * n * k * count) as f64,
        record: Box::new(move |rec, b| {
            let weights: Vec<Weight> = b[1..=count]
                .iter()
                .map(|b| Weight::from_buffer(DType::F32, n, k, b.clone()))
                .collect();
            let pairs: Vec<_> = weights.iter().zip(&b[1 + count..]).collect();
            forward_each(rec, &b[0], &pairs, m)
        }),
        expect: Box::new(move || {
            let one = |(i, w): (usize, &Vec<f32>)| {
                let mut y = vec![0.0; m * n];
                forward_twin(&unpadded(&x, k), &unpadded(w, k), None, &mut y, k, Write::SET);
                (1 + count + i, repadded(&y, n), tol(k, false))
            };
            w.iter().enumerate().map(one).collect()
        }),
    }
}

fn each(variant: &'static str) -> Vec<Case> {
    let mut g = Gen::new(41);
    EACH.map(|sizes| each_case(&mut g, sizes).forced(variant)).into()
}

pub(super) fn each_portable() -> Vec<Case> {
    each("portable")
}

pub(super) fn each_1() -> Vec<Case> {
    each("subgroup-1")
}

pub(super) fn each_4() -> Vec<Case> {
    each("subgroup-4")
}

pub(super) fn each_gemv() -> Vec<Case> {
    each("gemv-8")
}

pub(super) fn each_split() -> Vec<Case> {
    each("split-8")
}
