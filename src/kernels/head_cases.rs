//! Cases and tests of the vocabulary head.

use crate::gpu::Buffer;
use crate::kernels::harness::{Case, Expect, Gen, Slot, Tol};
use crate::kernels::head::{self, CHUNK, HeadBuffers};
use crate::kernels::linear::Write;
use crate::kernels::pad4;
use crate::kernels::weight::{Shard, Weight};
use crate::tensor::DType;

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
    w: Vec<f32>,
    targets: Vec<u32>,
}

impl Data {
    fn new(s: Shape) -> Self {
        let mut g = Gen::new((s.p * 1000 + s.v) as u64);
        Self {
            s,
            hidden: g.uniform(s.p * s.c, 1.0),
            w: g.uniform(s.v * s.c, s.scale),
            targets: g.below(s.p, s.v as u32),
        }
    }

    fn logits(&self, row: usize) -> Vec<f64> {
        let h = &self.hidden[row * self.s.c..][..self.s.c];
        self.w
            .chunks_exact(self.s.c)
            .map(|w| w.iter().zip(h).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
            .collect()
    }

    /// W in one or two slots (the second may be one unused float).
    fn weight_slots(&self, values: &[f32], inout: bool) -> [Slot; 2] {
        let at = self.s.split.map_or(values.len(), |r| r * self.s.c);
        let (a, b) = values.split_at(at);
        let b = if b.is_empty() { &[0.0][..] } else { b };
        [a, b].map(|x| {
            if inout {
                Slot::InOut(x.to_vec())
            } else {
                Slot::input(x)
            }
        })
    }
}

fn weight(s: Shape, parts: &[Buffer]) -> Weight {
    let cut = s.split.unwrap_or(s.v);
    let mut shards = vec![Shard {
        first_row: 0,
        rows: cut,
        buffer: parts[0].clone(),
    }];
    if cut < s.v {
        shards.push(Shard {
            first_row: cut,
            rows: s.v - cut,
            buffer: parts[1].clone(),
        });
    }
    Weight {
        dtype: DType::F32,
        rows: s.v,
        cols: s.c,
        shards,
    }
}

fn log_probs_case(s: Shape) -> Case {
    let d = Data::new(s);
    let [w0, w1] = d.weight_slots(&d.w, false);
    let tol = if s.scale > 100.0 { LARGE } else { TOL };
    Case {
        name: format!("head log_probs P={} C={} V={} scale={}", s.p, s.c, s.v, s.scale),
        slots: vec![
            Slot::input(&d.hidden),
            w0,
            w1,
            Slot::input(&d.targets),
            Slot::Out(s.p),
            Slot::Out(2 * s.p),
            Slot::Out(s.p),
        ],
        record: Box::new(move |rec, b| {
            let hb = HeadBuffers::new(rec.gpu(), s.p)?;
            let w = weight(s, &b[1..3]);
            head::log_probs(rec, &hb, &b[0], &w, &b[3], &b[4], &b[5], &b[6], s.p)
        }),
        expect: Box::new(move || {
            let rows: Vec<_> = (0..s.p)
                .map(|r| head::log_probs_twin(&d.logits(r), d.targets[r] as usize))
                .collect();
            vec![
                (4, rows.iter().map(|r| r.0).collect(), tol),
                (5, rows.iter().flat_map(|r| r.1).collect(), tol),
                (6, rows.iter().map(|r| r.2).collect(), tol),
            ]
        }),
        flops: 2.0 * (s.p * s.c * s.v) as f64,
    }
}

pub(super) fn log_probs() -> Vec<Case> {
    let large = shape(3, 4, 331, 5e3, None);
    SHAPES.into_iter().chain([large]).map(log_probs_case).collect()
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
        record: Box::new(move |rec, b| {
            let hb = HeadBuffers::new(rec.gpu(), m)?;
            head::row_stats(rec, &hb, &b[0], &b[1], &b[2], m, v)
        }),
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

/// dhidden and dw (added to `dw0`) in float64.
fn gradient_twin(d: &Data, dlogp: &[f32], dw0: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let c = d.s.c;
    let mut dhidden = vec![0.0; d.s.p * c];
    let mut dw: Vec<f64> = dw0.iter().map(|x| f64::from(*x)).collect();
    for r in 0..d.s.p {
        let dlogits = head::dlogits_twin(&d.logits(r), d.targets[r] as usize, f64::from(dlogp[r]));
        for (n, g) in dlogits.iter().enumerate() {
            for k in 0..c {
                dhidden[r * c + k] += g * f64::from(d.w[n * c + k]);
                dw[n * c + k] += g * f64::from(d.hidden[r * c + k]);
            }
        }
    }
    (dhidden, dw)
}

fn gradient_case(s: Shape) -> Case {
    let d = Data::new(s);
    let mut g = Gen::new(s.v as u64 + 5);
    let (dlogp, dw0) = (g.uniform(s.p, 1.0), g.uniform(s.v * s.c, 1.0));
    // The forward's lse, to f32.
    let lse: Vec<f32> = (0..s.p)
        .flat_map(|r| head::log_probs_twin(&d.logits(r), 0).1)
        .map(|x| x as f32)
        .collect();
    let [w0, w1] = d.weight_slots(&d.w, false);
    let [dw_a, dw_b] = d.weight_slots(&dw0, true);
    Case {
        name: format!("head gradient P={} C={} V={}", s.p, s.c, s.v),
        slots: vec![
            Slot::input(&d.hidden),
            w0,
            w1,
            Slot::input(&d.targets),
            Slot::input(&lse),
            Slot::input(&dlogp),
            Slot::Out(s.p * s.c),
            dw_a,
            dw_b,
        ],
        record: Box::new(move |rec, b| {
            let hb = HeadBuffers::new(rec.gpu(), s.p)?;
            let (w, dw) = (weight(s, &b[1..3]), weight(s, &b[7..9]));
            head::gradient(
                rec,
                &hb,
                &b[0],
                &w,
                &b[3],
                &b[4],
                &b[5],
                &b[6],
                Some((&dw, Write::ADD)),
                s.p,
            )
        }),
        expect: Box::new(move || {
            let (dhidden, dw) = gradient_twin(&d, &dlogp, &dw0);
            let cut = s.split.unwrap_or(s.v) * s.c;
            let mut all = vec![(6, dhidden, GRADIENT), (7, dw[..cut].to_vec(), GRADIENT)];
            if cut < dw.len() {
                all.push((8, dw[cut..].to_vec(), GRADIENT));
            }
            all
        }),
        flops: 6.0 * (s.p * s.c * s.v) as f64,
    }
}

pub(super) fn gradient() -> Vec<Case> {
    SHAPES.into_iter().map(gradient_case).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, Recorder};
    use crate::kernels::harness::{assert_layout, check_entries};
    use crate::kernels::head::{
        FinishParams, GradientParams, HEAD_FINISH, HEAD_GRADIENT, HEAD_REDUCE, ReduceParams,
    };
    use crate::kernels::linear::{self, Write};
    use std::mem::offset_of;

    #[test]
    fn layouts() {
        use ReduceParams as R;
        assert_layout::<R>(
            &HEAD_REDUCE,
            &[
                ("m", offset_of!(R, m)),
                ("width", offset_of!(R, width)),
                ("stride4", offset_of!(R, stride4)),
                ("first_column", offset_of!(R, first_column)),
                ("flags", offset_of!(R, flags)),
            ],
        );
        use FinishParams as F;
        assert_layout::<F>(
            &HEAD_FINISH,
            &[("m", offset_of!(F, m)), ("mode", offset_of!(F, mode))],
        );
        use GradientParams as G;
        assert_layout::<G>(
            &HEAD_GRADIENT,
            &[
                ("m", offset_of!(G, m)),
                ("width", offset_of!(G, width)),
                ("stride4", offset_of!(G, stride4)),
                ("first_column", offset_of!(G, first_column)),
            ],
        );
        assert!(
            HEAD_REDUCE
                .wgsl()
                .contains(&format!("CHUNK4: u32 = {}u", CHUNK / 4))
        );
    }

    #[test]
    fn equals_the_twins() {
        check_entries(&head::entries());
    }

    #[test]
    fn the_twin_gradient_is_the_twins_slope() {
        let logits: Vec<f64> = Gen::new(3)
            .uniform(37, 4.0)
            .iter()
            .map(|x| f64::from(*x))
            .collect();
        let gradient = head::dlogits_twin(&logits, 5, 1.7);
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
        let bytes: &[u8] = bytemuck::cast_slice(&d.w);
        let w = Weight::upload(&gpu, "w", DType::F32, s.v, s.c, bytes).unwrap();
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
