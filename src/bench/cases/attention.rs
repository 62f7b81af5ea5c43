//! Attention: a prompt, packed training sequences forward and backward, and decoding over a cache that a group shares.

use super::data::{Matrix, Worst, one, output};
use crate::bench::case::{BenchCase, Phase, Prepared, Rate, Wanted};
use crate::bench::variants::{VariantName, forced};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Buffer, Gpu};
use crate::kernels::attention::twin::{self, Meta};
use crate::kernels::attention::{self, BackwardArgs, PAGE, Paged, Shape, decode};
use crate::kernels::harness::Gen;
use crate::kernels::kv::{Stored, read_back, stored};
use crate::model::shapes::Named;
use crate::tensor::DType;

/// Tokens of a training sequence: 8 × 128 rows.
const SEQUENCE: usize = 128;
/// Cached tokens that a decoded group shares, and that each of its rows has of its own.
const SHARED: usize = 448;
const OWN: usize = 64;
/// Rows of a group in decoding.
const GROUP: usize = 16;

/// One attention call: its sizes, where each row's keys are, and the rows of k and v.
#[derive(Clone)]
struct Call {
    shape: Shape,
    meta: Vec<Meta>,
    key_rows: usize,
    /// In decoding, as in sampling, the page table of keys and values.
    pages: Option<Vec<u32>>,
    variant: VariantName,
    /// Of keys and values.
    kv: FloatDtype,
}

impl Call {
    fn new(model: Named, phase: Phase, variant: VariantName, kv: FloatDtype) -> Self {
        let spec = model.spec();
        let m = phase.rows();
        let (meta, key_rows): (Vec<Meta>, usize) = match phase {
            Phase::Decode(_) => {
                let groups = m.div_ceil(GROUP);
                let row = |i: usize| {
                    let own = groups * SHARED + i * OWN;
                    [
                        (i / GROUP * SHARED) as u32,
                        SHARED as u32,
                        own as u32,
                        (SHARED + OWN - 1) as u32,
                    ]
                };
                ((0..m).map(row).collect(), groups * SHARED + m * OWN)
            }
            _ => {
                let length = if phase == Phase::Prefill { m } else { SEQUENCE };
                let row = |i: usize| {
                    let start = (i / length * length) as u32;
                    [start, 0, start, (i % length) as u32]
                };
                ((0..m).map(row).collect(), m)
            }
        };
        // A permutation: the prime divides no count of pages below it.
        let table = |pages: usize| (0..pages).map(|i| (i * 7919 % pages) as u32).collect();
        let paged = matches!(phase, Phase::Decode(_));
        Self {
            pages: paged.then(|| table(key_rows / PAGE)),
            shape: Shape {
                m,
                heads: spec.num_heads,
                kv_heads: spec.num_kv_heads,
                head_dim: spec.head_dim,
                scale: (1.0 / (spec.head_dim as f64).sqrt()) as f32,
            },
            meta,
            key_rows,
            variant,
            kv,
        }
    }

    /// Products of a query with a key, over all rows and heads.
    fn pairs(&self) -> f64 {
        let keys: usize = self.meta.iter().map(|m| m[3] as usize + 1).sum();
        (keys * self.shape.heads) as f64
    }

    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn kv_width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    /// q, k, v on the host.
    fn data(&self) -> [Matrix; 3] {
        let mut g = Gen::new(self.shape.m as u64);
        let kv = |g: &mut Gen| Matrix::new(g, self.key_rows, self.kv_width(), 1.0);
        [
            Matrix::new(&mut g, self.shape.m, self.width(), 1.0),
            kv(&mut g),
            kv(&mut g),
        ]
    }
}

pub(super) fn cases(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut out = Vec::new();
    for model in wanted.models {
        for phase in wanted.phases() {
            let (op, types) = match phase {
                Phase::Decode(_) => (decode::OP, &[FloatDtype::Float32, FloatDtype::Float16][..]),
                _ => ("attention_forward", &[FloatDtype::Float32][..]),
            };
            let mut ops = vec![op];
            if phase == Phase::Training {
                ops.push("attention_backward");
            }
            for op in ops {
                for kv in types {
                    for variant in attention::variants(wanted.gpu, op, model.spec().head_dim) {
                        out.push(case(op, *model, phase, Call::new(*model, phase, variant, *kv)));
                    }
                }
            }
        }
    }
    out
}

fn case(op: &'static str, model: Named, phase: Phase, call: Call) -> BenchCase {
    let (s, backward) = (call.shape, op == "attention_backward");
    // q and out, k and v; backward reads out, dout and lse besides and writes three gradients.
    let (rows, keys) = (
        (s.m * call.width()) as f64,
        (call.key_rows * call.kv_width()) as f64,
    );
    let bytes = 4.0
        * if backward {
            4.0 * rows + 4.0 * keys
        } else {
            2.0 * rows + 2.0 * keys * call.kv.bytes() as f64 / 4.0
        };
    // Scores and the sum over values: 2 products; backward recomputes the scores and has 4 more.
    let products = if backward { 5.0 } else { 2.0 };
    let (m, heads, kv) = (s.m, s.heads, s.kv_heads);
    let context = match phase {
        Phase::Decode(_) => format!("context {SHARED} shared + {OWN}"),
        Phase::Prefill => "one prompt".into(),
        Phase::Training => format!("sequences of {SEQUENCE}"),
    };
    BenchCase {
        op,
        variant: call.variant,
        dtype: call.kv.is_half().then_some(DType::F16),
        model: model.name.into(),
        phase,
        shape: format!("{m} rows, {heads}/{kv}×{} heads, {context}", s.head_dim),
        flops: products * 2.0 * s.head_dim as f64 * call.pairs(),
        bytes,
        memory: bytes,
        rate: Rate::F32,
        build: Box::new(move |gpu| {
            if backward {
                self::backward(gpu, &call)
            } else {
                forward(gpu, &call)
            }
        }),
    }
}

fn forward(gpu: &Gpu, call: &Call) -> Result<Prepared> {
    let (s, call) = (call.shape, call.clone());
    let [q, k, v] = call.data();
    let qb = q.upload(gpu, s.m)?;
    let [kb, vb] = [&k, &v].map(|x| gpu.upload("bench", &stored(&x.values(call.key_rows), call.kv)));
    let (kb, vb) = (kb?, vb?);
    let meta = gpu.upload("bench", &call.meta)?;
    let (out, lse) = (output(gpu, s.m * call.width())?, output(gpu, s.m * s.heads)?);
    let (result, variant, dtype) = (out.clone(), call.variant, call.kv);
    let table = match &call.pages {
        Some(pages) => Some(gpu.upload("bench", pages)?),
        None => None,
    };
    Ok(Prepared {
        record: Box::new(move |rec| {
            forced(rec, variant, |rec| match &table {
                Some(pages) => {
                    let (k, v) = (&kb, &vb);
                    let kv = Stored { k, v, dtype };
                    let keys = Paged { kv, pages };
                    decode::decode_paged(rec, &qb, keys, &meta, &out, &lse, s)
                }
                None => attention::forward(rec, &qb, &kb, &vb, &meta, &out, &lse, s),
            })
        }),
        check: Box::new(move |gpu| {
            let wide = |x: &Matrix| -> Vec<f64> {
                let rows = read_back(&x.values(call.key_rows), call.kv);
                match &call.pages {
                    Some(pages) => twin::unpaged(&rows, pages, call.kv_width()),
                    None => rows,
                }
            };
            let (kw, vw) = (wide(&k), wide(&v));
            let mut worst = Worst::default();
            for row in [0, s.m / 3, s.m / 2, s.m - 1] {
                let (want, _) =
                    twin::forward(&q.row(row), &kw, &vw, &call.meta[row..=row], Shape { m: 1, ..s });
                compare(gpu, &result, row, &want, &mut worst)?;
            }
            Ok(worst.relative())
        }),
    })
}

/// Some columns of one row.
fn compare(gpu: &Gpu, buffer: &Buffer, row: usize, want: &[f64], worst: &mut Worst) -> Result<()> {
    for i in 0..16 {
        let c = (i * 40_503 + 7) % want.len();
        worst.add(one(gpu, buffer, row * want.len() + c)?, want[c]);
    }
    Ok(())
}

/// The buffers in the order [`backward`] makes them.
fn arguments(b: &[Buffer; 12]) -> BackwardArgs<'_> {
    BackwardArgs {
        q: &b[0],
        k: &b[1],
        v: &b[2],
        out: &b[3],
        lse: &b[4],
        dout: &b[5],
        meta: &b[6],
        key_ends: &b[7],
        delta: &b[8],
        dq: &b[9],
        dk: &b[10],
        dv: &b[11],
    }
}

fn backward(gpu: &Gpu, call: &Call) -> Result<Prepared> {
    let (s, call) = (call.shape, call.clone());
    let [q, k, v] = call.data();
    let dout = Matrix::new(&mut Gen::new(9), s.m, call.width(), 1.0);
    let ends: Vec<u32> = (0..s.m)
        .map(|i| ((i / SEQUENCE + 1) * SEQUENCE).min(s.m) as u32)
        .collect();
    let rows = |n: usize| output(gpu, n);
    let (wide, narrow) = (s.m * call.width(), s.m * call.kv_width());
    let b = [
        q.upload(gpu, s.m)?,
        k.upload(gpu, s.m)?,
        v.upload(gpu, s.m)?,
        rows(wide)?,
        rows(s.m * s.heads)?,
        dout.upload(gpu, s.m)?,
        gpu.upload("bench", &call.meta)?,
        gpu.upload("bench", &ends)?,
        rows(s.m * s.heads)?,
        rows(wide)?,
        rows(narrow)?,
        rows(narrow)?,
    ];
    // The forward pass's outputs are the backward pass's inputs.
    let mut rec = crate::gpu::Recorder::new(gpu);
    attention::forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s)?;
    rec.submit()?;
    let (results, variant) = ([b[9].clone(), b[10].clone(), b[11].clone()], call.variant);
    Ok(Prepared {
        record: Box::new(move |rec| forced(rec, variant, |rec| attention::backward(rec, &arguments(&b), s))),
        check: Box::new(move |gpu| {
            // Sequences are independent: the first one's gradients do not need the others.
            let n = SEQUENCE.min(s.m);
            let wide = |x: &Matrix| -> Vec<f64> { x.values(n).iter().map(|v| f64::from(*v)).collect() };
            let [q, k, v, dout] = [&q, &k, &v, &dout].map(wide);
            let g = twin::backward(&q, &k, &v, &dout, &call.meta[..n], Shape { m: n, ..s });
            let mut worst = Worst::default();
            for (buffer, want) in results.iter().zip([&g.dq, &g.dk, &g.dv]) {
                let width = want.len() / n;
                for row in [0, n / 2, n - 1] {
                    compare(
                        gpu,
                        buffer,
                        row,
                        &want[row * width..(row + 1) * width],
                        &mut worst,
                    )?;
                }
            }
            Ok(worst.relative())
        }),
    })
}
