//! The fused vocabulary head: log-probabilities of targets, and their gradient.

use super::data::{BenchWeight, Matrix, Worst, dot, one, output};
use crate::bench::case::{BenchCase, Phase, Prepared, Rate, Wanted};
use crate::bench::variants::{VariantName, forced, variants};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::harness::Gen;
use crate::kernels::head::{self, HeadBuffers, dlogits_twin, log_probs_twin};
use crate::kernels::weight::device_bytes;
use crate::model::shapes::Named;
use crate::tensor::DType;

/// Readouts: those of a training batch, and few enough for a quick run.
const READOUTS: [usize; 2] = [1024, 64];

#[derive(Clone, Copy)]
struct Call {
    model: Named,
    p: usize,
    dtype: DType,
    variant: VariantName,
}

pub(super) fn cases(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut out = Vec::new();
    let readouts = if wanted.quick {
        &READOUTS[1..]
    } else {
        &READOUTS[..]
    };
    for model in wanted.models {
        for dtype in wanted.dtypes() {
            for p in readouts {
                for op in ["head_log_probs", "head_gradient"] {
                    for variant in variants(wanted.gpu, op, Some(dtype)) {
                        let call = Call {
                            model: *model,
                            p: *p,
                            dtype,
                            variant,
                        };
                        out.push(case(op, call));
                    }
                }
            }
        }
    }
    out
}

fn case(op: &'static str, call: Call) -> BenchCase {
    let spec = call.model.spec();
    let (p, v, c) = (call.p, spec.vocab_size, spec.hidden_size);
    let (weight, hidden) = (device_bytes(call.dtype, v, c) as f64, 4.0 * (p * c) as f64);
    let gradient = op == "head_gradient";
    // The gradient computes each chunk's logits again before it multiplies by W.
    let products = if gradient { 2.0 } else { 1.0 };
    BenchCase {
        op,
        variant: call.variant,
        dtype: Some(call.dtype),
        model: call.model.name.into(),
        phase: Phase::Training,
        shape: format!("{p}×{v}×{c}"),
        flops: products * 2.0 * (p * c) as f64 * v as f64,
        bytes: weight + products * hidden,
        memory: weight + 2.0 * hidden + (p * head::ROW_BYTES) as f64,
        rate: Rate::F32,
        build: Box::new(move |gpu| build(gpu, call, gradient)),
    }
}

/// Operands that both ops share.
struct Operands {
    hb: HeadBuffers,
    hidden: Buffer,
    targets: Buffer,
    dlogp: Buffer,
    /// logp, lse, entropy.
    outputs: [Buffer; 3],
    dhidden: Buffer,
}

fn build(gpu: &Gpu, call: Call, gradient: bool) -> Result<Prepared> {
    let spec = call.model.spec();
    let (p, v, c, variant) = (call.p, spec.vocab_size, spec.hidden_size, call.variant);
    let mut g = Gen::new((v + p) as u64);
    let w = BenchWeight::new(gpu, &mut g, call.dtype, v, c)?;
    let (x, d) = (Matrix::new(&mut g, p, c, 3.0), g.uniform(p, 1.0));
    let targets = g.below(p, v as u32);
    let o = Operands {
        hb: HeadBuffers::new(gpu, p)?,
        hidden: x.upload(gpu, p)?,
        targets: gpu.upload("bench", &targets)?,
        dlogp: gpu.upload("bench", &d)?,
        outputs: [output(gpu, p)?, output(gpu, 2 * p)?, output(gpu, p)?],
        dhidden: output(gpu, p * c)?,
    };
    let weight = w.weight.clone();
    let run = move |rec: &mut Recorder, o: &Operands, gradient: bool| {
        let [logp, lse, entropy] = &o.outputs;
        if gradient {
            let dw = None;
            head::gradient(
                rec, &o.hb, &o.hidden, &weight, &o.targets, lse, &o.dlogp, &o.dhidden, dw, p,
            )
        } else {
            head::log_probs(rec, &o.hb, &o.hidden, &weight, &o.targets, logp, lse, entropy, p)
        }
    };
    if gradient {
        // It takes the forward pass's log-sum-exp.
        let mut rec = Recorder::new(gpu);
        run(&mut rec, &o, false)?;
        rec.submit()?;
    }
    let (logp, dhidden) = (o.outputs[0].clone(), o.dhidden.clone());
    Ok(Prepared {
        record: Box::new(move |rec| forced(rec, variant, |rec| run(rec, &o, gradient))),
        check: Box::new(move |gpu| {
            let mut worst = Worst::default();
            for row in [0, p - 1] {
                let hidden = x.row(row);
                let logits: Vec<f64> = (0..v).map(|t| dot(&hidden, &w.row(t))).collect();
                let target = targets[row] as usize;
                if !gradient {
                    worst.add(one(gpu, &logp, row)?, log_probs_twin(&logits, target).0);
                    continue;
                }
                let dlogits = dlogits_twin(&logits, target, f64::from(d[row]));
                for col in [0, c / 3, c - 1] {
                    let want = dlogits.iter().enumerate().map(|(t, d)| d * w.at(t, col)).sum();
                    worst.add(one(gpu, &dhidden, row * c + col)?, want);
                }
            }
            Ok(worst.relative())
        }),
    })
}
