//! Float64 twins and cases of [`linear`](super::linear).

use super::harness::{Case, Gen, Slot, Tol};
use super::linear::{self, Write};
use super::linear_fused_cases as fused;
use super::linear_half::{half, half_columns, half_rows};
use super::linear_kernels::{FORWARD_OP, INPUT_GRADIENT_OP, Variant};
use super::linear_variants::{WEIGHT_GRADIENT_OP, variants};
use super::pad4;
use super::weight::device_bytes;
use super::weight_cases::{Shards, TestWeight, on_buffers, shard_bytes, split, test_cols, whole};
use super::work::{Phase, Rate, Wanted, Work};
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

/// Rows and columns that are picked of a large output, beside the last.
const PICKED: usize = 8;

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
    /// The rows of each shard of W.
    shards: Shards,
    /// The twin computes some of the outputs, not all.
    picked: bool,
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
            shards: whole(n),
            picked: false,
        }
    }

    /// Outputs of a real layer stay of order one.
    fn weight_scale(&self) -> f32 {
        if self.picked {
            1.0 / (self.k as f32).sqrt()
        } else {
            1.0
        }
    }

    /// The rows of the output that the twin computes, and their columns.
    fn places(&self, rows: usize, cols: usize) -> [Vec<u32>; 2] {
        let of = |n: usize, step: usize| match self.picked && n > PICKED {
            true => (0..PICKED)
                .map(|i| (i * step % n) as u32)
                .chain([n as u32 - 1])
                .collect(),
            false => (0..n as u32).collect(),
        };
        // Steps near the golden section of large sizes cover them evenly.
        [of(rows, 40_503), of(cols, 75_029)]
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

/// Some rows of a matrix.
fn rows_of(values: &[f64], cols: usize, rows: &[u32]) -> Vec<f64> {
    let row = |r: &u32| &values[*r as usize * cols..][..cols];
    rows.iter().flat_map(row).copied().collect()
}

/// Some columns of a matrix.
fn columns_of(values: &[f64], cols: usize, columns: &[u32]) -> Vec<f64> {
    let rows = values.chunks_exact(cols);
    rows.flat_map(|row| columns.iter().map(|c| row[*c as usize]))
        .collect()
}

/// The output's slot: read as well where the op accumulates.
fn output(shape: &Shape, old: &[f32], cols: usize, [rows, columns]: &[Vec<u32>; 2]) -> Slot {
    if shape.write.accumulate {
        Slot::InOut(old.to_vec())
    } else if shape.picked {
        let place = |r: usize| columns.iter().map(move |c| r * pad4(cols) + *c as usize);
        let places = rows.iter().flat_map(|r| place(*r as usize));
        Slot::Picked(old.len(), places.collect())
    } else {
        Slot::Out(old.len())
    }
}

/// What the twin expects in the output's slot.
fn expected(shape: &Shape, values: &[f64], cols: usize) -> Vec<f64> {
    match shape.picked {
        true => values.to_vec(),
        false => repadded(values, cols),
    }
}

fn forward_case(g: &mut Gen, dtype: DType, shape: Shape) -> Case {
    let (m, n, k, width) = (shape.m, shape.n, shape.k, shape.range.len());
    let weight = TestWeight::random(g, dtype, n, k, shape.weight_scale());
    let x = g.rows(m, k, shape.scale);
    let bias = g.uniform(width, 1.0);
    let old = g.rows(m, width, 1.0);
    let places = shape.places(m, width);
    let mut slots = vec![
        Slot::input(&x),
        Slot::input(&bias),
        output(&shape, &old, width, &places),
    ];
    slots.extend(weight.slots(&shape.shards));
    let [rows, columns] = places;
    let taken: Vec<u32> = columns.iter().map(|c| c + shape.range.start as u32).collect();
    let w = half(weight.rows_of(&taken), shape.half);
    let (range, write, has_bias) = (shape.range.clone(), shape.write, shape.bias);
    let shards = shape.shards.clone();
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let w = on_buffers(dtype, n, k, &shards, &b[3..]);
            let bias = has_bias.then_some(&b[1]);
            linear::forward_rows(rec, &b[0], &w, range.clone(), bias, &b[2], m, write)
        }),
        expect: Box::new(move || {
            let x = half(rows_of(&unpadded(&x, k), k, &rows), shape.half);
            let bias: Vec<f64> = columns.iter().map(|c| f64::from(bias[*c as usize])).collect();
            let old = rows_of(&unpadded(&old, width), width, &rows);
            let mut y = columns_of(&old, width, &columns);
            forward_twin(&x, &w, has_bias.then_some(&bias), &mut y, k, write);
            vec![(2, expected(&shape, &y, width), shape.tol(k, shape.scale, 2.0))]
        }),
    }
}

fn input_gradient_case(g: &mut Gen, dtype: DType, shape: Shape) -> Case {
    let (m, n, k, width) = (shape.m, shape.n, shape.k, shape.range.len());
    let weight = TestWeight::random(g, dtype, n, k, shape.weight_scale());
    let dy = g.rows(m, width, shape.scale);
    let old = g.rows(m, k, 1.0);
    let places = shape.places(m, k);
    let mut slots = vec![Slot::input(&dy), output(&shape, &old, k, &places)];
    slots.extend(weight.slots(&shape.shards));
    let [rows, columns] = places;
    let taken: Vec<u32> = (shape.range.start as u32..shape.range.end as u32).collect();
    // A few rows at a time: in f64 a large weight is twice its size.
    let parts = taken.chunks(64).map(|rows| weight.rows_of(rows));
    let w = half(
        parts.flat_map(|part| columns_of(&part, k, &columns)).collect(),
        shape.half,
    );
    let (range, write, shards) = (shape.range.clone(), shape.write, shape.shards.clone());
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let w = on_buffers(dtype, n, k, &shards, &b[2..]);
            linear::input_gradient_rows(rec, &b[0], &w, range.clone(), &b[1], m, write)
        }),
        expect: Box::new(move || {
            let dy = half_rows(rows_of(&unpadded(&dy, width), width, &rows), width, shape.half);
            let old = rows_of(&unpadded(&old, k), k, &rows);
            let mut dx = columns_of(&old, k, &columns);
            input_gradient_twin(&dy, &w, &mut dx, columns.len(), write);
            vec![(1, expected(&shape, &dx, k), shape.tol(width, shape.scale, 2.0))]
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
    let first = if m > 4 && !shape.picked { m / 3 } else { 0 };
    let (mut dy, mut x) = (g.rows(m, width, dy_scale), g.rows(m, k, x_scale));
    dy[..first * pad4(width)].fill(f32::NAN);
    x[..first * pad4(k)].fill(f32::NAN);
    let mut slots = vec![Slot::input(&dy), Slot::input(&x)];
    let [rows, columns] = shape.places(n, k);
    let mut old = Vec::new();
    if shape.picked {
        // Rows of the output by shard.
        for shard in &shape.shards {
            let within = |r: &&u32| shard.contains(&(**r as usize));
            let local = rows
                .iter()
                .filter(within)
                .map(|r| r - shard.start as u32)
                .collect();
            let places = [local, columns.clone()];
            let len = shard.len() * pad4(k);
            slots.push(output(&shape, &vec![0.0; len], k, &places));
        }
    } else {
        // Rows outside the range keep what they hold, so the output is always read.
        old = g.rows(n, k, 1.0);
        slots.push(Slot::InOut(old.clone()));
    }
    let (range, write, shards) = (shape.range.clone(), shape.write, shape.shards.clone());
    Case {
        name: shape.name(),
        slots,
        flops: shape.flops(),
        record: Box::new(move |rec, b| {
            let dw = on_buffers(DType::F32, n, k, &shards, &b[2..]);
            linear::weight_gradient_rows(rec, &b[0], &b[1], &dw, range.clone(), first..m, write)
        }),
        expect: Box::new(move || {
            let tol = shape.tol(m, shape.scale, 1.0);
            let dy = unpadded(&dy[first * pad4(width)..], width);
            let x = unpadded(&x[first * pad4(k)..], k);
            if shape.picked {
                let shard = |(slot, shard): (usize, &Range<usize>)| {
                    let within = |r: &u32| shard.contains(&(*r as usize));
                    let rows: Vec<u32> = rows.iter().copied().filter(within).collect();
                    let (dy, x) = (columns_of(&dy, width, &rows), columns_of(&x, k, &columns));
                    let mut dw = vec![0.0; rows.len() * columns.len()];
                    weight_gradient_twin(&dy, &x, &mut dw, columns.len(), write);
                    (slot, dw, tol)
                };
                return (2..).zip(&shape.shards).map(shard).collect();
            }
            let mut dw = unpadded(&old, k);
            let part = &mut dw[shape.range.start * k..shape.range.end * k];
            let (dy, x) = (half_columns(dy, width, shape.half), half(x, shape.half));
            weight_gradient_twin(&dy, &x, part, k, write);
            vec![(2, repadded(&dw, k), tol)]
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

/// LoRA's rank in a model's work.
const RANK: usize = 16;

/// A product of a model: its weight of n × k.
#[derive(Clone, Copy)]
struct Product {
    model: &'static str,
    phase: Phase,
    layer: &'static str,
    n: usize,
    k: usize,
    dtype: DType,
}

impl Product {
    /// By every variant of an op.
    fn work(self, wanted: &Wanted<'_>, op: &'static str) -> impl Iterator<Item = Work> {
        let Self { n, k, dtype, .. } = self;
        let (m, cap) = (self.phase.rows(), shard_bytes(wanted.gpu));
        let bytes = device_bytes(dtype, n, k) as f64 + 4.0 * (m * n + m * k) as f64;
        let one = move |variant: &'static str| Work {
            op: op.into(),
            variant,
            dtype: Some(dtype),
            model: self.model,
            phase: self.phase,
            shape: format!("{m}×{n}×{k} {}", self.layer),
            flops: 2.0 * (m * n * k) as f64,
            bytes,
            memory: bytes,
            rate: if variant.starts_with("coop-") {
                Rate::Coop
            } else {
                Rate::F32
            },
            build: Box::new(move || {
                let shape = Shape {
                    shards: split(dtype, n, k, cap)?,
                    picked: true,
                    ..Shape::new(m, n, k)
                };
                let mut g = Gen::new((n + k) as u64);
                let case = match op {
                    FORWARD_OP => forward_case(&mut g, dtype, shape),
                    INPUT_GRADIENT_OP => input_gradient_case(&mut g, dtype, shape),
                    _ => weight_gradient_case(&mut g, shape),
                };
                Ok(case.forced(variant))
            }),
        };
        variants(wanted.gpu, op).into_iter().map(one)
    }
}

/// What a model asks of the ops, gradients in training only; and a square product.
pub(super) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for (sizes, phase) in wanted.rows() {
        let (c, f, d) = (sizes.hidden, sizes.intermediate, sizes.head_dim);
        let (of_model, of_adapter) = (wanted.dtypes(), &[DType::F32][..]);
        let mut layers = vec![
            ("gate/up", f, c, of_model),
            ("down", c, f, of_model),
            ("lora A", RANK, c, of_adapter),
            ("lora B", c, RANK, of_adapter),
        ];
        if !wanted.quick {
            layers.push(("q/o", sizes.heads * d, c, of_model));
            layers.push(("k/v", sizes.kv_heads * d, c, of_model));
        }
        if !wanted.quick && matches!(phase, Phase::Decode(_)) {
            layers.push(("logits", sizes.vocab, c, of_model));
        }
        for (layer, n, k, dtypes) in layers {
            for dtype in dtypes.iter().copied() {
                let model = sizes.name;
                let product = Product {
                    model,
                    phase,
                    layer,
                    n,
                    k,
                    dtype,
                };
                all.extend(product.work(wanted, FORWARD_OP));
                if phase == Phase::Training {
                    all.extend(product.work(wanted, INPUT_GRADIENT_OP));
                }
                if phase == Phase::Training && dtype == DType::F32 {
                    all.extend(product.work(wanted, WEIGHT_GRADIENT_OP));
                }
            }
        }
    }
    let square = Product {
        model: "gemm",
        phase: Phase::Training,
        layer: "square",
        n: 1024,
        k: 1024,
        dtype: DType::F32,
    };
    all.extend(square.work(wanted, FORWARD_OP));
    all
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
