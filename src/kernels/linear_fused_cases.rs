//! Float64 twins and cases of [`linear_fused`](super::linear_fused).

use super::elementwise::swiglu_twin;
use super::harness::{Case, Gen, Slot, Tol, wide};
use super::linear::Write;
use super::linear_cases::{forward_twin, repadded, unpadded};
use super::linear_fused::{Bias, Epilogue, Product, Second, Side, forward_each, forward_gated, forward_with};
use super::linear_kernels::Variant;
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

/// A case of [`forward_each`]: rows, inputs, outputs of each product, whether they have biases.
type Each = (usize, usize, &'static [usize], bool);

/// Widths apart and below a tile; three products and two; K that fills no vector of eight. One case for the types whose loop is the same
/// text: what differs is how words of the second and third weight are found.
fn each_sizes(dtype: DType) -> Vec<Each> {
    let [_, b, ..] = test_cols(dtype);
    match dtype {
        DType::F32 => vec![
            (1, 36, &[16, 16, 16], false),
            (13, 41, &[5, 5], true),
            (6, 131, &[70, 33, 37], true),
        ],
        _ => vec![(3, b, &[37, 8, 9], false)],
    }
}

fn each_case(g: &mut Gen, dtype: DType, (m, k, widths, biased): Each) -> Case {
    let count = widths.len();
    let x = g.rows(m, k, 1.0);
    let weights: Vec<TestWeight> = widths
        .iter()
        .map(|n| TestWeight::random(g, dtype, *n, k, 1.0))
        .collect();
    let mut slots = vec![Slot::input(&x)];
    slots.extend(weights.iter().map(|w| Slot::input(&w.words())));
    slots.extend(widths.iter().map(|n| Slot::Out(m * super::pad4(*n))));
    // All biases, then each.
    let ends = |i: usize| widths[..i].iter().sum::<usize>()..widths[..=i].iter().sum();
    let bias = g.uniform(widths.iter().sum(), 1.0);
    slots.push(Slot::input(&bias));
    slots.extend((0..count).map(|i| Slot::input(&bias[ends(i)])));
    Case {
        name: format!("M {m}, N {widths:?}, K {k}, biases {biased}"),
        slots,
        flops: 2.0 * (m * k * widths.iter().sum::<usize>()) as f64,
        record: Box::new(move |rec, b| {
            let weights: Vec<Weight> = widths
                .iter()
                .zip(&b[1..])
                .map(|(n, b)| Weight::from_buffer(dtype, *n, k, b.clone()))
                .collect();
            let (y, bias) = b[1 + count..].split_at(count);
            let product = |i: usize| Product {
                weight: &weights[i],
                bias: biased.then_some(Bias {
                    own: &bias[1 + i],
                    joined: Some((&bias[0], ends(i).start)),
                }),
                y: &y[i],
            };
            let products: Vec<_> = (0..count).map(product).collect();
            forward_each(rec, &b[0], &products, m)
        }),
        expect: Box::new(move || {
            let one = |(i, w): (usize, &TestWeight)| {
                let mut y = vec![0.0; m * w.rows];
                let own = wide(&bias[ends(i)]);
                let own = biased.then_some(&own[..]);
                forward_twin(&unpadded(&x, k), &wide(&w.values()), own, &mut y, k, Write::SET);
                (1 + count + i, repadded(&y, w.rows), tol(k, false))
            };
            weights.iter().enumerate().map(one).collect()
        }),
    }
}

/// The cases of several products in a dispatch, forced to a variant.
pub(super) fn each(variant: &Variant, dtype: DType) -> Vec<Case> {
    let mut g = Gen::new(41);
    let case = |sizes| each_case(&mut g, dtype, sizes).forced(variant.name);
    each_sizes(dtype).into_iter().map(case).collect()
}

/// A case of [`forward_gated`]: rows, outputs, inputs, the adapter's rank.
type Gated = (usize, usize, usize, Option<usize>);

/// As for [`each_sizes`]; one type meets the adapter, which makes another pipeline.
fn gated_sizes(dtype: DType) -> Vec<Gated> {
    let [_, b, ..] = test_cols(dtype);
    match dtype {
        DType::F32 => vec![(1, 36, b, None), (13, 131, 41, None), (6, 35, b, Some(5))],
        _ => vec![(3, 21, b, None)],
    }
}

fn gated_case(g: &mut Gen, dtype: DType, (m, n, k, rank): Gated) -> Case {
    let r = rank.unwrap_or(4);
    let mut weight = || TestWeight::random(g, dtype, n, k, 1.0);
    let weights = [weight(), weight()];
    let x = g.rows(m, k, 1.0);
    let (h, b) = (
        [(); 2].map(|()| g.rows(m, r, 1.0)),
        [(); 2].map(|()| g.rows(n, r, 1.0)),
    );
    let mut slots = vec![Slot::input(&x)];
    slots.extend(weights.iter().map(|w| Slot::input(&w.words())));
    slots.extend(h.iter().chain(&b).map(|v| Slot::input(v)));
    slots.extend([Slot::Out(m * super::pad4(n)), Slot::Out(m * super::pad4(n))]);
    Case {
        name: format!("M {m}, N {n}, K {k}, R {rank:?}"),
        slots,
        flops: 4.0 * (m * n * (k + rank.unwrap_or(0))) as f64,
        record: Box::new(move |rec, buffers| {
            let w = [1, 2].map(|i| Weight::from_buffer(dtype, n, k, buffers[i].clone()));
            let b = [5, 6].map(|i| Weight::from_buffer(DType::F32, n, r, buffers[i].clone()));
            let side = |i: usize| Side {
                weight: &w[i],
                bias: None,
                lora: rank.map(|_| Second {
                    h: &buffers[3 + i],
                    b: &b[i],
                    factor: FACTOR,
                }),
            };
            forward_gated(rec, &buffers[0], [side(0), side(1)], &buffers[8], &buffers[7], m)
        }),
        expect: Box::new(move || {
            let product = |i: usize| {
                let mut y = vec![0.0; m * n];
                forward_twin(
                    &unpadded(&x, k),
                    &wide(&weights[i].values()),
                    None,
                    &mut y,
                    k,
                    Write::SET,
                );
                let (h, b) = (unpadded(&h[i], r), unpadded(&b[i], r));
                let lora = rank.map(|r| (&h[..], &b[..], r, f64::from(FACTOR)));
                epilogue_twin(&mut y, None, lora, None);
                y
            };
            let (gate, mut y) = (product(0), product(1));
            let tol = gated_tol(k + r, &gate, &y);
            epilogue_twin(&mut y, None, None, Some(&gate));
            vec![(7, repadded(&y, n), tol)]
        }),
    }
}

/// What an error of either product becomes in silu(gate) · up: |silu'| < 1.1, |silu(gate)| ≤ |gate|.
fn gated_tol(terms: usize, gate: &[f64], up: &[f64]) -> Tol {
    let peak = |v: &[f64]| v.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    Tol {
        atol: tol(terms, false).atol * (peak(gate) + 1.1 * peak(up)),
        rtol: 3e-6,
        why: "one f32 rounding per term of two chains, each multiplied by the other, and exp within 3 + 2|x| ulp",
    }
}

/// The cases of gate and up in a dispatch, forced to a variant.
pub(super) fn gated(variant: &Variant, dtype: DType) -> Vec<Case> {
    let mut g = Gen::new(42);
    let case = |sizes| gated_case(&mut g, dtype, sizes).forced(variant.name);
    gated_sizes(dtype).into_iter().map(case).collect()
}
