//! Ops that are bound by memory: norms, rotation, SwiGLU, the residual add, embedding, sampling.

use super::data::{BenchWeight, Matrix, Worst, dot, one, output, places};
use crate::bench::case::{BenchCase, Phase, Prepared, Rate, Wanted};
use crate::bench::variants::{VariantName, forced, variants};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::harness::Gen;
use crate::kernels::head::{HeadBuffers, log_probs_twin, row_stats};
use crate::kernels::rope::{self, RopeTable};
use crate::kernels::sample::{SampleParams, draw_twin, sample};
use crate::kernels::weight::device_bytes;
use crate::kernels::{elementwise, embedding, rmsnorm};
use crate::model::shapes::Named;
use crate::tensor::DType;

const EPS: f32 = 1e-5;

/// What all of these ops know when they are built.
#[derive(Clone, Copy)]
struct At {
    model: Named,
    m: usize,
    variant: VariantName,
}

/// An op: name, columns of a row, operations and floats moved per element, and how it is built.
struct Op {
    name: &'static str,
    columns: fn(Named) -> usize,
    flops: f64,
    floats: f64,
    build: fn(&Gpu, At, usize) -> Result<Prepared>,
    /// Only in the training phase.
    backward: bool,
}

const OPS: [Op; 6] = [
    Op {
        name: "rmsnorm_forward",
        columns: |m| m.spec().hidden_size,
        flops: 4.0,
        floats: 2.0,
        build: norm,
        backward: false,
    },
    Op {
        name: "rmsnorm_backward",
        columns: |m| m.spec().hidden_size,
        flops: 8.0,
        floats: 3.0,
        build: norm_backward,
        backward: true,
    },
    Op {
        name: "rope",
        columns: |m| (m.spec().num_heads + m.spec().num_kv_heads) * m.spec().head_dim,
        flops: 3.0,
        floats: 2.0,
        build: rotation,
        backward: false,
    },
    Op {
        name: "swiglu_forward",
        columns: |m| m.spec().intermediate_size,
        flops: 5.0,
        floats: 3.0,
        build: swiglu,
        backward: false,
    },
    Op {
        name: "swiglu_backward",
        columns: |m| m.spec().intermediate_size,
        flops: 10.0,
        floats: 5.0,
        build: swiglu_backward,
        backward: true,
    },
    Op {
        name: "add",
        columns: |m| m.spec().hidden_size,
        flops: 1.0,
        floats: 3.0,
        build: add,
        backward: false,
    },
];

pub(super) fn cases(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut out = Vec::new();
    for model in wanted.models {
        for phase in wanted.phases() {
            for op in OPS.iter().filter(|o| !o.backward || phase == Phase::Training) {
                for variant in variants(wanted.gpu, op.name, None) {
                    out.push(case(op, *model, phase, variant));
                }
            }
            for dtype in wanted.dtypes() {
                for variant in variants(wanted.gpu, "embedding_forward", Some(dtype)) {
                    out.push(embed(*model, phase, dtype, variant));
                }
            }
            if matches!(phase, Phase::Decode(_)) {
                for variant in variants(wanted.gpu, "sampling", None) {
                    out.push(sampling(*model, phase, variant));
                }
            }
        }
    }
    out
}

fn case(op: &'static Op, model: Named, phase: Phase, variant: VariantName) -> BenchCase {
    let (m, c) = (phase.rows(), (op.columns)(model));
    let elements = (m * c) as f64;
    let bytes = 4.0 * op.floats * elements;
    BenchCase {
        op: op.name,
        variant,
        dtype: None,
        model: model.name.into(),
        phase,
        shape: format!("{m}×{c}"),
        flops: op.flops * elements,
        bytes,
        memory: bytes,
        rate: Rate::F32,
        build: Box::new(move |gpu| (op.build)(gpu, At { model, m, variant }, c)),
    }
}

/// A prepared op with its output and the float64 value of one element.
fn prepared(
    record: impl Fn(&mut Recorder) -> Result<()> + 'static,
    variant: VariantName,
    result: Buffer,
    (m, c): (usize, usize),
    want: impl Fn(usize, usize) -> f64 + 'static,
) -> Prepared {
    Prepared {
        record: Box::new(move |rec| forced(rec, variant, &record)),
        check: Box::new(move |gpu| {
            let mut worst = Worst::default();
            for (row, col) in places(m, c) {
                worst.add(one(gpu, &result, row * c + col)?, want(row, col));
            }
            Ok(worst.relative())
        }),
    }
}

fn matrices<const N: usize>(m: usize, c: usize) -> [Matrix; N] {
    let mut g = Gen::new((m + c) as u64);
    std::array::from_fn(|_| Matrix::new(&mut g, m, c, 1.0))
}

fn rstd(x: &[f64]) -> f64 {
    1.0 / (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt()
}

fn norm(gpu: &Gpu, at: At, c: usize) -> Result<Prepared> {
    let [x] = matrices::<1>(at.m, c);
    let [gamma] = matrices::<1>(1, c);
    let (xb, gb) = (x.upload(gpu, at.m)?, gamma.upload(gpu, 1)?);
    let (y, r, m) = (output(gpu, at.m * c)?, output(gpu, at.m)?, at.m);
    let result = y.clone();
    Ok(prepared(
        move |rec| rmsnorm::forward(rec, &xb, &gb, &y, &r, m, c, EPS),
        at.variant,
        result,
        (m, c),
        move |row, col| x.at(row, col) * rstd(&x.row(row)) * gamma.at(0, col),
    ))
}

fn norm_backward(gpu: &Gpu, at: At, c: usize) -> Result<Prepared> {
    let [x, dy] = matrices::<2>(at.m, c);
    let [gamma] = matrices::<1>(1, c);
    let scales: Vec<f32> = (0..at.m).map(|i| rstd(&x.row(i)) as f32).collect();
    let (xb, dyb, gb) = (x.upload(gpu, at.m)?, dy.upload(gpu, at.m)?, gamma.upload(gpu, 1)?);
    let (dx, r, m) = (output(gpu, at.m * c)?, gpu.upload("bench", &scales)?, at.m);
    let result = dx.clone();
    Ok(prepared(
        move |rec| rmsnorm::backward(rec, &dyb, &xb, &gb, &r, &dx, m, c, false),
        at.variant,
        result,
        (m, c),
        move |row, col| {
            let (x, dy, g) = (x.row(row), dy.row(row), gamma.row(0));
            let r = rstd(&x);
            let sum: f64 = (0..c).map(|i| dy[i] * g[i] * x[i]).sum();
            r * dy[col] * g[col] - x[col] * r.powi(3) / c as f64 * sum
        },
    ))
}

/// Rotation in place of queries, which are checked, and keys: the values differ after each run, the work does not. The first run
/// is the one that is checked.
fn rotation(gpu: &Gpu, at: At, _: usize) -> Result<Prepared> {
    let spec = at.model.spec();
    let (heads, d, m) = (spec.num_heads, spec.head_dim, at.m);
    let c = heads * d;
    let inv_freq = spec.inv_freq();
    let table = RopeTable::new(gpu, &inv_freq, m)?;
    let meta: Vec<[u32; 4]> = (0..m as u32).map(|i| [0, 0, 0, i]).collect();
    let [x] = matrices::<1>(m, c);
    let (xb, meta) = (x.upload(gpu, m)?, gpu.upload("bench", &meta)?);
    let shape = rope::Shape {
        m,
        heads,
        kv_heads: spec.num_kv_heads,
        head_dim: d,
    };
    let keys = output(gpu, m * spec.num_kv_heads * d)?;
    let result = xb.clone();
    Ok(prepared(
        move |rec| rope::apply(rec, (&xb, &keys), &meta, &table, shape, false),
        at.variant,
        result,
        (m, c),
        move |row, col| {
            let (half, within, first) = (d / 2, col % d, col / d * d);
            let (sin, cos) = (row as f64 * inv_freq[within % half]).sin_cos();
            let (a, b) = (
                x.at(row, first + within % half),
                x.at(row, first + half + within % half),
            );
            if within < half {
                a * cos - b * sin
            } else {
                b * cos + a * sin
            }
        },
    ))
}

fn swiglu(gpu: &Gpu, at: At, c: usize) -> Result<Prepared> {
    let [gate, up] = matrices::<2>(at.m, c);
    let (gb, ub, act) = (
        gate.upload(gpu, at.m)?,
        up.upload(gpu, at.m)?,
        output(gpu, at.m * c)?,
    );
    let (result, n) = (act.clone(), at.m * c);
    Ok(prepared(
        move |rec| elementwise::swiglu_forward(rec, &gb, &ub, &act, n),
        at.variant,
        result,
        (at.m, c),
        move |row, col| elementwise::swiglu_twin(gate.at(row, col), up.at(row, col)),
    ))
}

/// In place, as [`rotation`].
fn swiglu_backward(gpu: &Gpu, at: At, c: usize) -> Result<Prepared> {
    let [gate, up, dact] = matrices::<3>(at.m, c);
    let [gb, ub, db] = [
        gate.upload(gpu, at.m)?,
        up.upload(gpu, at.m)?,
        dact.upload(gpu, at.m)?,
    ];
    let (result, n) = (gb.clone(), at.m * c);
    Ok(prepared(
        move |rec| elementwise::swiglu_backward(rec, &db, &gb, &ub, n),
        at.variant,
        result,
        (at.m, c),
        move |row, col| {
            elementwise::swiglu_backward_twin(dact.at(row, col), gate.at(row, col), up.at(row, col)).0
        },
    ))
}

/// In place, as [`rotation`].
fn add(gpu: &Gpu, at: At, c: usize) -> Result<Prepared> {
    let [x, y] = matrices::<2>(at.m, c);
    let (xb, yb) = (x.upload(gpu, at.m)?, y.upload(gpu, at.m)?);
    let (result, n) = (yb.clone(), at.m * c);
    Ok(prepared(
        move |rec| elementwise::add(rec, &xb, &yb, n),
        at.variant,
        result,
        (at.m, c),
        move |row, col| x.at(row, col) + y.at(row, col),
    ))
}

fn embed(model: Named, phase: Phase, dtype: DType, variant: VariantName) -> BenchCase {
    let spec = model.spec();
    let (m, v, c) = (phase.rows(), spec.vocab_size, spec.hidden_size);
    let row = device_bytes(dtype, 1, c) as f64;
    BenchCase {
        op: "embedding_forward",
        variant,
        dtype: Some(dtype),
        model: model.name.into(),
        phase,
        shape: format!("{m} of {v}×{c}"),
        flops: 0.0,
        bytes: m as f64 * (row + 4.0 * c as f64),
        memory: device_bytes(dtype, v, c) as f64 + (4 * m * c) as f64,
        rate: Rate::F32,
        build: Box::new(move |gpu| {
            let mut g = Gen::new(m as u64);
            let w = BenchWeight::new(gpu, &mut g, dtype, v, c)?;
            let tokens = g.below(m, v as u32);
            let (ids, x, weight) = (
                gpu.upload("bench", &tokens)?,
                output(gpu, m * c)?,
                w.weight.clone(),
            );
            let result = x.clone();
            Ok(prepared(
                move |rec| embedding::forward(rec, &weight, &ids, &x, m),
                variant,
                result,
                (m, c),
                move |row, col| w.at(tokens[row] as usize, col),
            ))
        }),
    }
}

/// Log-sum-exp of whole rows of logits and a draw from each.
fn sampling(model: Named, phase: Phase, variant: VariantName) -> BenchCase {
    let (m, v) = (phase.rows(), model.spec().vocab_size);
    let logits = 4.0 * (m * v) as f64;
    BenchCase {
        op: "sampling",
        variant,
        dtype: None,
        model: model.name.into(),
        phase,
        shape: format!("{m}×{v}"),
        // An exponential and two multiply-adds for the statistics; ten rounds of Philox and a logarithm for the noise.
        flops: 10.0 * (m * v) as f64,
        bytes: logits,
        memory: logits,
        rate: Rate::F32,
        build: Box::new(move |gpu| {
            let [x] = matrices::<1>(m, v);
            let (logits, hb) = (x.upload(gpu, m)?, HeadBuffers::new(gpu, m)?);
            let keys: Vec<[u32; 4]> = (0..m as u32).map(|i| [i, 7, 3, 1]).collect();
            let keys = gpu.upload("bench", &keys)?;
            let lse = output(gpu, 2 * m)?;
            let [entropy, token, logp, threshold] = [(); 4].map(|()| output(gpu, m));
            let (entropy, token, logp, threshold) = (entropy?, token?, logp?, threshold?);
            let (tokens, logps) = (token.clone(), logp.clone());
            let plain = SampleParams::PLAIN;
            Ok(Prepared {
                record: Box::new(move |rec| {
                    forced(rec, variant, |rec| {
                        row_stats(rec, &hb, &logits, &lse, &entropy, m, v)?;
                        sample(rec, &logits, &lse, &keys, &token, &logp, &threshold, m, v, &plain)
                    })
                }),
                check: Box::new(move |gpu| {
                    let drawn: Vec<u32> = gpu.read(&tokens, 0, m)?;
                    let got: Vec<f32> = gpu.read(&logps, 0, m)?;
                    let mut worst = Worst::default();
                    for row in [0, m / 2, m - 1] {
                        let values: Vec<f32> = x.row(row).iter().map(|v| *v as f32).collect();
                        let (want, gap) = draw_twin(&values, [row as u32, 7], 3, &plain);
                        // Two candidates closer than rounding may change places.
                        if drawn[row] as usize != want && gap > 1e-4 {
                            return Ok(f64::INFINITY);
                        }
                        let logp = log_probs_twin(&x.row(row), drawn[row] as usize).0;
                        worst.add(got[row], logp);
                    }
                    Ok(worst.relative())
                }),
            })
        }),
    }
}
