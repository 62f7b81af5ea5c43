//! Cases and tests of the vocabulary head.

use crate::gpu::Buffer;
use crate::kernels::harness::{Case, Expect, Gen, Slot, Tol, wide, with_scratch};
use crate::kernels::head::{self, CHUNK, HeadBuffers, ROW_BYTES};
use crate::kernels::linear::Write;
use crate::kernels::pad4;
use crate::kernels::weight::{Weight, device_bytes};
use crate::kernels::weight_cases::{Shards, TestWeight, on_buffers, shard_bytes, split};
use crate::kernels::work::{PORTABLE, Phase, Rate, Sizes, Wanted, Work};
use crate::tensor::DType;
use std::ops::Range;

const TOL: Tol = Tol {
    atol: 2e-5,
    rtol: 3e-6,
    why: "C-term f32 dot products, a V-term sum of f32 exponentials",
};
/// The sums of large logits are exact to an ulp of 1e4 (9.8e-4); so are differences of them.
const LARGE: Tol = Tol {
    atol: 4e-3,
    rtol: 3e-6,
    why: "an ulp of 1e4 is 9.8e-4, and a dot product of that size has a few",
};
const GRADIENT: Tol = Tol {
    atol: 2e-5,
    rtol: 3e-5,
    why: "softmax to 1e-6, then a V-term f32 sum of terms that cancel",
};

/// A shape: rows, hidden size, vocabulary, size of the logits, first row of a second shard.
#[derive(Clone, Copy)]
struct Shape {
    p: usize,
    c: usize,
    v: usize,
    scale: f32,
    split: Option<usize>,
}

const fn shape(p: usize, c: usize, v: usize, scale: f32, split: Option<usize>) -> Shape {
    Shape {
        p,
        c,
        v,
        scale,
        split,
    }
}

const SHAPES: [Shape; 7] = [
    shape(1, 8, 331, 1.0, None),
    shape(7, 40, 331, 3.0, None),
    shape(9, 16, 1, 1.0, None),
    shape(3, 8, 33, 2.0, None),
    shape(5, 12, CHUNK + 1, 1.0, None),
    shape(4, 8, 2 * CHUNK + 907, 2.0, Some(CHUNK)),
    shape(65, 4, 63, 1.0, None),
];

struct Data {
    s: Shape,
    hidden: Vec<f32>,
    weight: TestWeight,
    shards: Shards,
    targets: Vec<u32>,
    /// The rows that the twin computes.
    rows: Vec<usize>,
}

impl Data {
    fn new(s: Shape) -> Self {
        let cut = s.split.unwrap_or(s.v);
        let mut shards = vec![0..cut, cut..s.v];
        shards.retain(|rows| !rows.is_empty());
        Self::of(DType::F32, s, 1.0, shards, (0..s.p).collect())
    }

    fn of(dtype: DType, s: Shape, hidden: f32, shards: Shards, rows: Vec<usize>) -> Self {
        let mut g = Gen::new((s.p * 1000 + s.v) as u64);
        Self {
            s,
            hidden: g.uniform(s.p * s.c, hidden),
            weight: TestWeight::random(&mut g, dtype, s.v, s.c, s.scale),
            shards,
            targets: g.below(s.p, s.v as u32),
            rows,
        }
    }

    /// The logits of the rows.
    fn logits(&self) -> Vec<Vec<f64>> {
        let hidden = |r: &usize| wide(&self.hidden[r * self.s.c..][..self.s.c]);
        let hidden: Vec<Vec<f64>> = self.rows.iter().map(hidden).collect();
        let mut logits = vec![Vec::with_capacity(self.s.v); hidden.len()];
        for token in 0..self.s.v as u32 {
            let w = self.weight.rows_of(&[token]);
            for (logits, h) in logits.iter_mut().zip(&hidden) {
                logits.push(w.iter().zip(h).map(|(a, b)| a * b).sum());
            }
        }
        logits
    }

    /// Logits and target of each row.
    fn each(&self) -> impl Iterator<Item = (Vec<f64>, usize)> {
        let targets = self.rows.iter().map(|r| self.targets[*r] as usize);
        self.logits().into_iter().zip(targets)
    }

    /// On the device, from the slots of its shards.
    fn place(&self) -> impl Fn(&[Buffer]) -> Weight + use<> {
        let (dtype, s, shards) = (self.weight.dtype, self.s, self.shards.clone());
        move |buffers| on_buffers(dtype, s.v, s.c, &shards, buffers)
    }

    fn out(&self, width: usize) -> Slot {
        Slot::rows(self.s.p, width, &self.rows)
    }
}

fn log_probs_case(d: Data) -> Case {
    let (s, weight) = (d.s, d.place());
    let tol = if s.scale > 100.0 { LARGE } else { TOL };
    let mut slots = vec![
        Slot::input(&d.hidden),
        Slot::input(&d.targets),
        d.out(1),
        d.out(2),
        d.out(1),
    ];
    slots.extend(d.weight.slots(&d.shards));
    Case {
        name: format!("head log_probs P={} C={} V={} scale={}", s.p, s.c, s.v, s.scale),
        slots,
        record: with_scratch(
            move |gpu| HeadBuffers::new(gpu, s.p),
            move |rec, b, hb| {
                let w = weight(&b[5..]);
                head::log_probs(rec, hb, &b[0], &w, &b[1], &b[2], &b[3], &b[4], s.p)
            },
        ),
        expect: Box::new(move || {
            let rows = d
                .each()
                .map(|(logits, target)| head::log_probs_twin(&logits, target));
            let rows: Vec<_> = rows.collect();
            vec![
                (2, rows.iter().map(|r| r.0).collect(), tol),
                (3, rows.iter().flat_map(|r| r.1).collect(), tol),
                (4, rows.iter().map(|r| r.2).collect(), tol),
            ]
        }),
        flops: 2.0 * (s.p * s.c * s.v) as f64,
    }
}

pub(super) fn log_probs() -> Vec<Case> {
    let large = shape(3, 4, 331, 5e3, None);
    let shapes = SHAPES.into_iter().chain([large]);
    shapes.map(|s| log_probs_case(Data::new(s))).collect()
}

fn row_stats_case(m: usize, v: usize, scale: f32) -> Case {
    let logits = Gen::new(v as u64).rows(m, v, scale);
    let expect = {
        let logits = logits.clone();
        move || -> Vec<Expect> {
            let rows: Vec<_> = logits
                .chunks_exact(pad4(v))
                .map(|r| {
                    let row: Vec<f64> = r[..v].iter().map(|x| f64::from(*x)).collect();
                    head::log_probs_twin(&row, 0)
                })
                .collect();
            vec![
                (1, rows.iter().flat_map(|r| r.1).collect(), TOL),
                (2, rows.iter().map(|r| r.2).collect(), TOL),
            ]
        }
    };
    Case {
        name: format!("head row_stats M={m} V={v} scale={scale}"),
        slots: vec![Slot::input(&logits), Slot::Out(2 * m), Slot::Out(m)],
        record: with_scratch(
            move |gpu| HeadBuffers::new(gpu, m),
            move |rec, b, hb| head::row_stats(rec, hb, &b[0], &b[1], &b[2], m, v),
        ),
        expect: Box::new(expect),
        flops: 4.0 * (m * v) as f64,
    }
}

pub(super) fn row_stats() -> Vec<Case> {
    vec![
        row_stats_case(1, 1, 1.0),
        row_stats_case(3, 331, 8.0),
        row_stats_case(2, 3 * CHUNK + 5, 8.0),
        row_stats_case(2, CHUNK, 1.0),
        row_stats_case(9, 257, 1e4),
    ]
}

/// dhidden, and dw (added to `dw`) where it is asked for, in float64.
fn gradient_twin(d: &Data, lse: &[[f32; 2]], dlogp: &[f32], dw: &mut [f64]) -> Vec<f64> {
    let c = d.s.c;
    let mut dhidden = vec![0.0; d.rows.len() * c];
    for ((row, dhidden), (logits, target)) in d.rows.iter().zip(dhidden.chunks_exact_mut(c)).zip(d.each()) {
        let hidden = &d.hidden[row * c..][..c];
        let dlogits = head::dlogits_twin(&logits, lse[*row].map(f64::from), target, dlogp[*row].into());
        for (n, g) in dlogits.iter().enumerate() {
            let w = d.weight.rows_of(&[n as u32]);
            dhidden.iter_mut().zip(&w).for_each(|(sum, w)| *sum += g * w);
            let dw = dw.iter_mut().skip(n * c).zip(hidden);
            dw.for_each(|(sum, h)| *sum += g * f64::from(*h));
        }
    }
    dhidden
}

/// With the gradient of the weight, added to what it holds, or without.
fn gradient_case(d: Data, lse: Vec<[f32; 2]>, weights: bool) -> Case {
    let (s, weight) = (d.s, d.place());
    let mut g = Gen::new(s.v as u64 + 5);
    let dlogp = g.uniform(s.p, 1.0);
    let dw0 = g.uniform(if weights { s.v * s.c } else { 0 }, 1.0);
    let mut slots = vec![
        Slot::input(&d.hidden),
        Slot::input(&d.targets),
        Slot::input(lse.as_flattened()),
        Slot::input(&dlogp),
        d.out(s.c),
    ];
    slots.extend(d.weight.slots(&d.shards));
    let first = slots.len();
    let part = move |rows: &Range<usize>| rows.start * s.c..rows.end * s.c;
    if weights {
        slots.extend(d.shards.iter().map(|rows| Slot::InOut(dw0[part(rows)].to_vec())));
    }
    let products = if weights { 6.0 } else { 4.0 };
    Case {
        name: format!("head gradient P={} C={} V={}", s.p, s.c, s.v),
        slots,
        record: with_scratch(
            move |gpu| HeadBuffers::new(gpu, s.p),
            move |rec, b, hb| {
                let (w, dw) = (weight(&b[5..]), weights.then(|| weight(&b[first..])));
                let dw = dw.as_ref().map(|dw| (dw, Write::ADD));
                head::gradient(rec, hb, &b[0], &w, &b[1], &b[2], &b[3], &b[4], dw, s.p)
            },
        ),
        expect: Box::new(move || {
            let mut dw = wide(&dw0);
            let mut all = vec![(4, gradient_twin(&d, &lse, &dlogp, &mut dw), GRADIENT)];
            if weights {
                let shards = (first..).zip(&d.shards);
                all.extend(shards.map(|(slot, rows)| (slot, dw[part(rows)].to_vec(), GRADIENT)));
            }
            all
        }),
        flops: products * (s.p * s.c * s.v) as f64,
    }
}

pub(super) fn gradient() -> Vec<Case> {
    let case = |s| {
        let d = Data::new(s);
        // The forward's lse, to f32.
        let lse = d
            .each()
            .map(|(logits, _)| head::log_probs_twin(&logits, 0).1.map(|x| x as f32));
        let lse = lse.collect();
        gradient_case(d, lse, true)
    };
    SHAPES.into_iter().map(case).collect()
}

/// Readouts: those of a training batch, and few enough for a quick run.
const READOUTS: [usize; 2] = [1024, 64];

/// What a model asks of the ops.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for sizes in wanted.models {
        for dtype in wanted.dtypes() {
            for p in &READOUTS[usize::from(wanted.quick)..] {
                all.extend([false, true].map(|gradient| one_work(wanted, *sizes, *dtype, *p, gradient)));
            }
        }
    }
    all
}

fn one_work(wanted: &Wanted<'_>, sizes: Sizes, dtype: DType, p: usize, gradient: bool) -> Work {
    let (v, c, cap) = (sizes.vocab, sizes.hidden, shard_bytes(wanted.gpu));
    let (weight, hidden) = (device_bytes(dtype, v, c) as f64, 4.0 * (p * c) as f64);
    // The gradient computes each chunk's logits again before it multiplies by W.
    let (op, products) = match gradient {
        true => ("head_gradient", 2.0),
        false => ("head_log_probs", 1.0),
    };
    Work {
        op: op.into(),
        variant: PORTABLE,
        dtype: Some(dtype),
        model: sizes.name,
        phase: Phase::Training,
        shape: format!("{p}×{v}×{c}"),
        flops: products * 2.0 * (p * c) as f64 * v as f64,
        bytes: weight + products * hidden,
        memory: weight + 2.0 * hidden + (p * ROW_BYTES) as f64,
        rate: Rate::F32,
        build: Box::new(move || {
            let shards = split(dtype, v, c, cap)?;
            let s = shape(p, c, v, 1.0 / (c as f32).sqrt(), None);
            let d = Data::of(dtype, s, 3.0, shards, vec![0, p - 1]);
            let case = match gradient {
                // Logits of variance 1 have about this one.
                true => gradient_case(d, vec![[0.0, libm::log(v as f64) as f32 + 0.5]; p], false),
                false => log_probs_case(d),
            };
            Ok(case.forced(PORTABLE))
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, Recorder};
    use crate::kernels::head::HEAD_REDUCE;
    use crate::kernels::linear;

    #[test]
    fn the_shader_has_the_chunk_size() {
        let chunk = format!("CHUNK4: u32 = {}u", CHUNK / 4);
        assert!(HEAD_REDUCE.wgsl().contains(&chunk));
    }

    #[test]
    fn the_twin_gradient_is_the_twins_slope() {
        let logits: Vec<f64> = Gen::new(3)
            .uniform(37, 4.0)
            .iter()
            .map(|x| f64::from(*x))
            .collect();
        let lse = head::log_probs_twin(&logits, 5).1;
        let gradient = head::dlogits_twin(&logits, lse, 5, 1.7);
        for (i, g) in gradient.iter().enumerate() {
            let at = |h: f64| {
                let mut x = logits.clone();
                x[i] += h;
                1.7 * head::log_probs_twin(&x, 5).0
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - g).abs() < 1e-8, "{i}: {slope} vs {g}");
        }
    }

    /// log_probs in one batch of 37, in one of 1, and from whole rows as decoding does: the same bits.
    #[test]
    fn batch_and_chunking_do_not_change_bits() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let s = shape(37, 24, 2 * CHUNK + 331, 1.0, None);
        let d = Data::new(s);
        let w = Weight::upload(&gpu, "w", DType::F32, s.v, s.c, &d.weight.bytes).unwrap();
        let hb = HeadBuffers::new(&gpu, s.p).unwrap();
        let run = |rows: std::ops::Range<usize>| {
            let n = rows.len();
            let hidden = gpu
                .upload("h", &d.hidden[rows.start * s.c..rows.end * s.c])
                .unwrap();
            let targets = gpu.upload("t", &d.targets[rows]).unwrap();
            let out: Vec<Buffer> = (0..3).map(|_| gpu.alloc("o", 8 * n as u64).unwrap()).collect();
            let mut rec = Recorder::new(&gpu);
            head::log_probs(&mut rec, &hb, &hidden, &w, &targets, &out[0], &out[1], &out[2], n).unwrap();
            let full = gpu.alloc("full", 4 * (n * pad4(s.v)) as u64).unwrap();
            linear::forward(&mut rec, &hidden, &w, None, &full, n, Write::SET).unwrap();
            let stats: Vec<Buffer> = (0..2).map(|_| gpu.alloc("o", 8 * n as u64).unwrap()).collect();
            head::row_stats(&mut rec, &hb, &full, &stats[0], &stats[1], n, s.v).unwrap();
            rec.submit().unwrap();
            let read = |b: &Buffer| gpu.read::<u32>(b, 0, n).unwrap();
            let pairs = |b: &Buffer| gpu.read::<[u32; 2]>(b, 0, n).unwrap();
            assert_eq!(pairs(&out[1]), pairs(&stats[0]), "lse of whole rows");
            assert_eq!(read(&out[2]), read(&stats[1]), "entropy of whole rows");
            let lse = pairs(&out[1]);
            let [top, log_sum] = [0, 1].map(|word| lse.iter().map(|x| x[word]).collect());
            [read(&out[0]), top, log_sum, read(&out[2])]
        };
        let all = run(0..37);
        for row in [0, 17, 36] {
            let one = run(row..row + 1);
            for (a, b) in all.iter().zip(&one) {
                assert_eq!(a[row], b[0], "row {row}");
            }
        }
    }

    /// Logits of 1e20, all equal: their level is nothing that a probability or a gradient depends on.
    #[test]
    fn the_level_of_large_logits_does_not_matter() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (p, c, v) = (3, 4, CHUNK + 331);
        let hb = HeadBuffers::new(&gpu, p).unwrap();
        let run = |hidden: f32| {
            let hidden = gpu.upload("h", &vec![hidden; p * c]).unwrap();
            let rows = vec![0.25f32; v * c];
            let w = Weight::upload(&gpu, "w", DType::F32, v, c, bytemuck::cast_slice(&rows)).unwrap();
            let dw = Weight::upload(&gpu, "dw", DType::F32, v, c, &vec![0; 4 * v * c]).unwrap();
            let targets = gpu.upload("t", &[0u32, 1, v as u32 - 1]).unwrap();
            let dlogp = gpu.upload("d", &[1.0f32, -1.0, 2.0]).unwrap();
            let [logp, entropy] = [(); 2].map(|()| gpu.alloc("o", 4 * p as u64).unwrap());
            let lse = gpu.alloc("o", 8 * p as u64).unwrap();
            let dhidden = gpu.alloc("o", (4 * p * c) as u64).unwrap();
            let mut rec = Recorder::new(&gpu);
            head::log_probs(&mut rec, &hb, &hidden, &w, &targets, &logp, &lse, &entropy, p).unwrap();
            let (d, dw) = (&dlogp, Some((&dw, Write::SET)));
            head::gradient(&mut rec, &hb, &hidden, &w, &targets, &lse, d, &dhidden, dw, p).unwrap();
            rec.submit().unwrap();
            let read = |b: &Buffer, n: usize| gpu.read::<f32>(b, 0, n).unwrap();
            [read(&logp, p), read(&entropy, p), read(&dhidden, p * c)]
        };
        let small = run(1.0);
        for x in &small[0] {
            assert!((f64::from(*x) + libm::log(v as f64)).abs() < 1e-5, "{x}");
        }
        for hidden in [1e20, -1e20, 3e37] {
            assert_eq!(run(hidden), small, "{hidden}");
        }
    }

    #[test]
    fn more_rows_than_the_buffers_hold_is_refused() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let hb = HeadBuffers::new(&gpu, 2).unwrap();
        assert_eq!(hb.logits.bytes() + hb.state.bytes(), 2 * head::ROW_BYTES as u64);
        let b = gpu.alloc("b", 64).unwrap();
        let c = gpu.alloc("c", 64).unwrap();
        assert!(head::row_stats(&mut Recorder::new(&gpu), &hb, &b, &b, &c, 3, 4).is_err());
    }
}
