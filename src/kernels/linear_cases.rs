//! Float64 twins and cases of [`linear`](super::linear).

use super::harness::{Case, Gen, Slot, Tol};
use super::linear::{self, Write};
use super::linear_fused_cases as fused;
use super::linear_half::{half, half_columns, half_rows};
use super::linear_kernels::{FORWARD_OP, INPUT_GRADIENT_OP, Variant};
use super::pad4;
use super::weight::Weight;
use super::weight_cases::{TestWeight, test_cols};
use crate::tensor::DType;
use std::ops::Range;

/// Twin of [`linear::forward`]: `y (m, n) = alpha · x (m, k) · Wᵀ (n, k) [+ bias] [+ y]`, nothing padded.
pub(super) fn forward_twin(
    x: &[f64],
    w: &[f64],
    bias: Option<&[f64]>,
    y: &mut [f64],
    k: usize,
    write: Write,
) {
    let n = w.len() / k;
    for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (j, (w, y)) in w.chunks_exact(k).zip(y).enumerate() {
            let dot: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            let old = if write.accumulate { *y } else { 0.0 };
            *y = f64::from(write.alpha) * dot + bias.map_or(0.0, |b| b[j]) + old;
        }
    }
}

/// Twin of [`linear::input_gradient`]: `dx (m, k) = alpha · dy (m, n) · W (n, k) [+ dx]`, nothing padded.
pub(super) fn input_gradient_twin(dy: &[f64], w: &[f64], dx: &mut [f64], k: usize, write: Write) {
    let n = w.len() / k;
    for (dy, dx) in dy.chunks_exact(n).zip(dx.chunks_exact_mut(k)) {
        for (c, dx) in dx.iter_mut().enumerate() {
            let dot: f64 = dy.iter().enumerate().map(|(j, d)| d * w[j * k + c]).sum();
            let old = if write.accumulate { *dx } else { 0.0 };
            *dx = f64::from(write.alpha) * dot + old;
        }
    }
}

/// Twin of [`linear::weight_gradient`]: `dw (n, k) = alpha · dyᵀ (n, m) · x (m, k) [+ dw]`, nothing padded.
pub(super) fn weight_gradient_twin(dy: &[f64], x: &[f64], dw: &mut [f64], k: usize, write: Write) {
    let n = dw.len() / k;
    for (j, dw) in dw.chunks_exact_mut(k).enumerate() {
        for (c, dw) in dw.iter_mut().enumerate() {
            let columns = dy.chunks_exact(n).zip(x.chunks_exact(k));
            let dot: f64 = columns.map(|(dy, x)| dy[j] * x[c]).sum();
            let old = if write.accumulate { *dw } else { 0.0 };
            *dw = f64::from(write.alpha) * dot + old;
        }
    }
}

/// What one case multiplies.
pub(super) struct Shape {
    m: usize,
    n: usize,
    k: usize,
    /// The rows of W that take part.
    range: Range<usize>,
    bias: bool,
    write: Write,
    /// Size of the activations.
    scale: f32,
    /// The operands are rounded to f16.
    half: bool,
}

impl Shape {
    fn new(m: usize, n: usize, k: usize) -> Self {
        Self {
            m,
            n,
            k,
            range: 0..n,
            bias: false,
            write: Write::SET,
            scale: 1.0,
            half: false,
        }
    }

    fn name(&self) -> String {
        let Self { m, n, k, range, .. } = self;
        let mut name = format!("M {m}, N {n}, K {k}");
        if range.len() != *n {
            name += &format!(", rows {range:?}");
        }
        if self.bias {
            name += ", bias";
        }
        if self.write != Write::SET {
            name += &format!(", {:?}", self.write);
        }
        if self.scale != 1.0 {
            name += &format!(", |x| = {:e}", self.scale);
        }
        name
    }

    /// `terms` products of a value within ±`a` and one within ±`b`: each partial sum is rounded once.
    fn tol(&self, terms: usize, a: f32, b: f32) -> Tol {
        let product = f64::from(a) * f64::from(b) * f64::from(self.write.alpha.abs().max(1.0));
        if self.half {
            return Tol {
                atol: 4.0 * terms as f64 * product / (1 << 24) as f64,
                rtol: 4.0 / (1 << 24) as f64,
                why: "products of f16 are exact in f32; matrix units may cut, not round, each sum, and add several at once",
            };
        }
        Tol {
            atol: terms as f64 * product / (1 << 24) as f64,
            rtol: 4.0 / (1 << 24) as f64,
            why: "one f32 rounding per term of a chain (split: per lane and step, fewer), and those of alpha, bias and the old value",
        }
    }

    fn flops(&self) -> f64 {
        2.0 * (self.m * self.range.len() * self.k) as f64
    }
}

/// The shapes every direction and element type is tested with.
pub(super) fn shapes(dtype: DType) -> Vec<Shape> {
    let [a, b, c, d] = test_cols(dtype);
    let half = Write::ADD.scaled(-0.5);
    vec![
        Shape::new(1, 1, a),
        Shape::new(7, 5, b),
        Shape {
            bias: true,
            ..Shape::new(8, 17, c)
        },
        Shape {
            scale: 1e4,
            ..Shape::new(9, 64, d)
        },
        Shape {
            bias: true,
            write: Write::SET.scaled(2.5),
            ..Shape::new(37, 331, b)
        },
        Shape {
            write: half,
            ..Shape::new(8, 331, a)
        },
        Shape {
            write: half,
            bias: true,
            range: 16..53,
            ..Shape::new(9, 67, c)
        },
        Shape {
            range: 3..130,
            ..Shape::new(1, 131, d)
        },
    ]
}

/// Fewer for the kernels of GPUs, with every edge of their tiles (64 × 64 outputs by 16 steps, 8 × 32 by 64): software
/// adapters take long to compile and run them.
pub(super) fn few_shapes(dtype: DType) -> Vec<Shape> {
    let [a, b, c, _] = test_cols(dtype);
    vec![
        Shape::new(1, 1, a),
        Shape {
            bias: true,
            write: Write::SET.scaled(2.5),
            ..Shape::new(69, 70, b)
        },
        Shape {
            bias: true,
            write: Write::ADD.scaled(-0.5),
            range: 16..53,
            ..Shape::new(6, 67, c)
        },
    ]
}

/// For the kernel that splits the sums: every number of rows of a pass, two passes, and sums of more and of fewer vec4s than lanes.
pub(super) fn split_shapes(dtype: DType) -> Vec<Shape> {
    let block = dtype.block_len();
    // Not a multiple of its 256 steps, nor (where rows may be padded) of 4.
    let long = if block == 1 { 777 } else { block * (800 / block) };
    let mut all = few_shapes(dtype);
    all.extend((1..=8).map(|m| Shape::new(m, 9 + m, long)));
    all.push(Shape {
        scale: 1e4,
        ..Shape::new(13, 6, long)
    });
    all
}

/// For the kernels that round to f16: the tile's edges, values that overflow f16, and gradients that underflow it.
pub(super) fn half_shapes(dtype: DType) -> Vec<Shape> {
    let [_, _, c, _] = test_cols(dtype);
    let mut all = few_shapes(dtype);
    all.extend([1e6, 1e-9].map(|scale| Shape {
        scale,
        ..Shape::new(5, 37, c)
    }));
    for shape in &mut all {
        shape.half = true;
    }
    all
}

/// A `rows × cols` activation without its padding, in f64.
pub(super) fn unpadded(values: &[f32], cols: usize) -> Vec<f64> {
    let rows = values.chunks_exact(pad4(cols));
    rows.flat_map(|r| r[..cols].iter().map(|v| f64::from(*v)))
        .collect()
}

/// The inverse of [`unpadded`].
pub(super) fn repadded(values: &[f64], cols: usize) -> Vec<f64> {
    let mut out = vec![0.0; values.len() / cols * pad4(cols)];
    for (from, to) in values.chunks_exact(cols).zip(out.chunks_exact_mut(pad4(cols))) {
        to[..cols].copy_from_slice(from);
    }
    out
}

/// The output's slot: read as well where the op accumulates.
fn output(write: Write, old: &[f32]) -> Slot {
    if write.accumulate {
        Slot::InOut(old.to_vec())
    } else {
        Slot::Out(old.len())
    }
}

/// The rows `range` of W in f64.
fn rows_of(weight: &TestWeight, range: &Range<usize>) -> Vec<f64> {
    let all = weight.values();
    let part = &all[range.start * weight.cols..range.end * weight.cols];
    part.iter().map(|v| f64::from(*v)).collect()
}

fn forward_case(g: &mut Gen, dtype: DType, shape: Shape) -> Case {
    let (m, n, k, width) = (shape.m, shape.n, shape.k, shape.range.len());
    let weight = TestWeight::random(g, dtype, n, k, 1.0);
    let x = g.rows(m, k, shape.scale);
    let bias = g.uniform(width, 1.0);
    let old = g.rows(m, width, 1.0);
    let slots = vec![
        Slot::input(&x),
        Slot::input(&weight.words()),
        Slot::input(&bias),
        output(shape.write, &old),
    ];
    let (range, write, has_bias) = (shape.range.clone(), shape.write, shape.bias);
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let w = Weight::from_buffer(dtype, n, k, b[1].clone());
            let bias = has_bias.then_some(&b[2]);
            linear::forward_rows(rec, &b[0], &w, range.clone(), bias, &b[3], m, write)
        }),
        expect: Box::new(move || {
            let w = half(rows_of(&weight, &shape.range), shape.half);
            let x = half(unpadded(&x, k), shape.half);
            let bias: Vec<f64> = bias.iter().map(|b| f64::from(*b)).collect();
            let mut y = unpadded(&old, width);
            forward_twin(&x, &w, has_bias.then_some(&bias), &mut y, k, write);
            vec![(3, repadded(&y, width), shape.tol(k, shape.scale, 2.0))]
        }),
    }
}

fn input_gradient_case(g: &mut Gen, dtype: DType, shape: Shape) -> Case {
    let (m, n, k, width) = (shape.m, shape.n, shape.k, shape.range.len());
    let weight = TestWeight::random(g, dtype, n, k, 1.0);
    let dy = g.rows(m, width, shape.scale);
    let old = g.rows(m, k, 1.0);
    let slots = vec![
        Slot::input(&dy),
        Slot::input(&weight.words()),
        output(shape.write, &old),
    ];
    let (range, write) = (shape.range.clone(), shape.write);
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let w = Weight::from_buffer(dtype, n, k, b[1].clone());
            linear::input_gradient_rows(rec, &b[0], &w, range.clone(), &b[2], m, write)
        }),
        expect: Box::new(move || {
            let mut dx = unpadded(&old, k);
            let w = half(rows_of(&weight, &shape.range), shape.half);
            let dy = half_rows(unpadded(&dy, width), width, shape.half);
            input_gradient_twin(&dy, &w, &mut dx, k, write);
            vec![(2, repadded(&dx, k), shape.tol(width, shape.scale, 2.0))]
        }),
    }
}

fn weight_gradient_case(g: &mut Gen, shape: Shape) -> Case {
    let (m, n, k, width) = (shape.m, shape.n, shape.k, shape.range.len());
    // The one whose range is tested: f16 gradients are scaled into range, activations are cut to it.
    let (dy_scale, x_scale) = if shape.half {
        (shape.scale, 1.0)
    } else {
        (1.0, shape.scale)
    };
    // Rows before the first one do not count, whatever they hold.
    let first = if m > 4 { m / 3 } else { 0 };
    let (mut dy, mut x) = (g.rows(m, width, dy_scale), g.rows(m, k, x_scale));
    dy[..first * pad4(width)].fill(f32::NAN);
    x[..first * pad4(k)].fill(f32::NAN);
    let old = g.rows(n, k, 1.0);
    // Rows outside the range keep what they hold, so the output is always read.
    let slots = vec![Slot::input(&dy), Slot::input(&x), Slot::InOut(old.clone())];
    let (range, write) = (shape.range.clone(), shape.write);
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let dw = Weight::from_buffer(DType::F32, n, k, b[2].clone());
            linear::weight_gradient_rows(rec, &b[0], &b[1], &dw, range.clone(), first..m, write)
        }),
        expect: Box::new(move || {
            let mut dw = unpadded(&old, k);
            let part = &mut dw[shape.range.start * k..shape.range.end * k];
            let dy = half_columns(unpadded(&dy[first * pad4(width)..], width), width, shape.half);
            let x = half(unpadded(&x[first * pad4(k)..], k), shape.half);
            weight_gradient_twin(&dy, &x, part, k, write);
            vec![(2, repadded(&dw, k), shape.tol(m, shape.scale, 1.0))]
        }),
    }
}

/// The cases of a variant, forced to it.
pub(super) fn of_variant(variant: &Variant, dtype: DType) -> Vec<Case> {
    let shapes = (variant.shapes)(dtype);
    let seed = dtype as u64;
    let cases: Vec<Case> = match variant.op {
        FORWARD_OP => forward_cases(&mut Gen::new(10 + seed), dtype, shapes),
        INPUT_GRADIENT_OP => {
            let mut g = Gen::new(20 + seed);
            let case = |shape| input_gradient_case(&mut g, dtype, shape);
            shapes.into_iter().map(case).collect()
        }
        _ => {
            let mut g = Gen::new(30);
            let case = |shape| weight_gradient_case(&mut g, shape);
            shapes.into_iter().map(case).collect()
        }
    };
    cases.into_iter().map(|c| c.forced(variant.name)).collect()
}

fn forward_cases(g: &mut Gen, dtype: DType, shapes: Vec<Shape>) -> Vec<Case> {
    let case = |shape| forward_case(g, dtype, shape);
    // Only gradients are scaled out of f16's subnormal range, which adapters may flush.
    let all: Vec<Shape> = shapes.into_iter().filter(|s| !s.half || s.scale >= 1.0).collect();
    let exact = all.iter().all(|s| !s.half);
    let mut cases: Vec<Case> = all.into_iter().map(case).collect();
    // The twin of fused steps rounds nothing; on cooperative matrices tests/linear.rs compares them with separate steps.
    if exact {
        cases.extend(fused::epilogue_cases(dtype));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ c · y is linear in x and in w, so central differences are exact up to f64 rounding.
    #[test]
    fn gradient_twins_are_the_derivatives_of_the_forward_twin() {
        let (m, n, k) = (3, 5, 4);
        let write = Write::SET.scaled(-1.5);
        let mut g = Gen::new(31);
        let mut data = |len| -> Vec<f64> { g.uniform(len, 1.0).into_iter().map(f64::from).collect() };
        let (x, w, c) = (data(m * k), data(n * k), data(m * n));
        let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
        input_gradient_twin(&c, &w, &mut dx, k, write);
        weight_gradient_twin(&c, &x, &mut dw, k, write);
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            let mut y = vec![0.0; m * n];
            forward_twin(x, w, None, &mut y, k, write);
            y.iter().zip(&c).map(|(y, c)| y * c).sum()
        };
        let moved = |v: &[f64], i: usize, by: f64| {
            let mut v = v.to_vec();
            v[i] += by;
            v
        };
        for (i, d) in dx.iter().enumerate() {
            let slope = loss(&moved(&x, i, 0.5), &w) - loss(&moved(&x, i, -0.5), &w);
            assert!((slope - d).abs() < 1e-12, "dx {i}: {slope} {d}");
        }
        for (i, d) in dw.iter().enumerate() {
            let slope = loss(&x, &moved(&w, i, 0.5)) - loss(&x, &moved(&w, i, -0.5));
            assert!((slope - d).abs() < 1e-12, "dw {i}: {slope} {d}");
        }
    }
}
