//! AdamW over an adapter's size, and the advantage rules over many groups.

use super::data::{Matrix, Worst, one, output};
use crate::advantage::{GroupContext, Rule};
use crate::bench::case::{BenchCase, Phase, Prepared, Rate, Wanted};
use crate::bench::variants::{VariantName, forced, variants};
use crate::config::Optim;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::adamw::{self, AdamW, AdamWArgs, NormScratch};
use crate::kernels::adamw_8bit::{self, AdamW8bitArgs};
use crate::kernels::group_advantage::{GroupBuffers, GroupReducer, TAIL_WORDS};
use crate::kernels::harness::Gen;
use crate::model::floor;
use crate::model::params::LoraShape;
use crate::model::spec::Proj;

/// Groups and rewards a group of the advantage cases.
const GROUPS: usize = 10_000;
const M: usize = 64;

pub(super) fn cases(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut out = Vec::new();
    for model in wanted.models {
        let lora = LoraShape {
            rank: 16,
            alpha: 32.0,
            targets: Proj::ALL.to_vec(),
        };
        let n = floor::adapter(&model.spec(), &lora, Optim::Adamw).bytes("adapter") as usize / 4;
        for variant in variants(wanted.gpu, "adamw", None) {
            out.push(adamw_case(model.name, n, variant));
        }
        for variant in variants(wanted.gpu, "adamw_8bit", None) {
            out.push(adamw_8bit_case(model.name, n, variant));
        }
    }
    for rule in Rule::ALL.iter().filter(|r| r.trains()) {
        let op = rule.op();
        for variant in variants(wanted.gpu, op, None) {
            out.push(advantage(*rule, op, variant));
        }
    }
    out
}

/// Global norm and step over one tensor of an adapter's size, which is what all of its tensors together are.
fn adamw_case(model: &str, n: usize, variant: VariantName) -> BenchCase {
    let bytes = 4.0 * 8.0 * n as f64; // the norm reads the gradient; the step reads four and writes three
    BenchCase {
        op: "adamw",
        variant,
        dtype: None,
        model: model.into(),
        phase: Phase::Training,
        shape: format!("{n} weights of a rank-16 adapter"),
        flops: 16.0 * n as f64,
        bytes,
        memory: 4.0 * 4.0 * n as f64,
        rate: Rate::F32,
        build: Box::new(move |gpu| {
            let mut g = Gen::new(n as u64);
            let cols = 4096.min(n);
            let rows = n.div_ceil(cols);
            let [p, d] = [
                Matrix::new(&mut g, rows, cols, 1.0),
                Matrix::new(&mut g, rows, cols, 0.01),
            ];
            let host = |x: &Matrix| -> Vec<f32> { x.values(rows)[..n].to_vec() };
            let (param, grad) = (host(&p), host(&d));
            let b = [
                gpu.upload("bench", &param)?,
                gpu.upload("bench", &grad)?,
                output(gpu, n)?,
                output(gpu, n)?,
                output(gpu, 1)?,
            ];
            let (result, scratch) = (b[0].clone(), NormScratch::new(gpu, [n])?);
            Ok(Prepared {
                record: Box::new(move |rec| {
                    forced(rec, variant, |rec| {
                        adamw::global_norm(rec, &[(&b[1], n)], &scratch, &b[4])?;
                        let args = AdamWArgs {
                            param: &b[0],
                            grad: &b[1],
                            m: &b[2],
                            v: &b[3],
                            norm: &b[4],
                        };
                        adamw::step(rec, &args, n, AdamW::DEFAULT)
                    })
                }),
                check: Box::new(move |gpu| {
                    let squares: f64 = grad.iter().map(|g| f64::from(*g).powi(2)).sum();
                    let mut worst = Worst::default();
                    for i in [0, n / 3, n / 2, n - 1] {
                        let (mut p, mut m, mut v) = ([f64::from(param[i])], [0.0], [0.0]);
                        let g = [f64::from(grad[i])];
                        adamw::step_twin(&mut p, &g, &mut m, &mut v, squares.sqrt(), AdamW::DEFAULT);
                        worst.add(one(gpu, &result, i)?, p[0]);
                    }
                    Ok(worst.relative())
                }),
            })
        }),
    }
}

/// A first step with 8-bit moments over one tensor of an adapter's size.
fn adamw_8bit_case(model: &str, n: usize, variant: VariantName) -> BenchCase {
    BenchCase {
        op: "adamw_8bit",
        variant,
        dtype: None,
        model: model.into(),
        phase: Phase::Training,
        shape: format!("{n} weights of a rank-16 adapter"),
        flops: 40.0 * n as f64,
        bytes: 16.0 * n as f64, // parameter read and written, gradient read, two codes read and written
        memory: 10.0 * n as f64,
        rate: Rate::F32,
        build: Box::new(move |gpu| {
            let mut g = Gen::new(n as u64);
            let (param, grad) = (g.uniform(n, 1.0), g.uniform(n, 0.01));
            let result = gpu.upload("bench", &param)?;
            let b = [
                result.clone(),
                gpu.upload("bench", &grad)?,
                output(gpu, n / 4)?,
                output(gpu, n / 4)?,
                output(gpu, 2 * n.div_ceil(adamw_8bit::BLOCK))?,
                gpu.upload("bench", &[1.0f32])?,
            ];
            Ok(Prepared {
                record: Box::new(move |rec| {
                    let args = AdamW8bitArgs {
                        param: &b[0],
                        grad: &b[1],
                        m: &b[2],
                        v: &b[3],
                        scales: &b[4],
                        norm: &b[5],
                        tensor: 0,
                        first: 0,
                    };
                    forced(rec, variant, |rec| {
                        adamw_8bit::step(rec, &args, n, AdamW::DEFAULT)
                    })
                }),
                check: Box::new(move |gpu| {
                    let mut worst = Worst::default();
                    for i in [0, n / 3, n / 2, n - 1] {
                        // From moments of 0 the first step is that of f32 ones.
                        let (mut p, mut m, mut v) = ([f64::from(param[i])], [0.0], [0.0]);
                        adamw::step_twin(&mut p, &[f64::from(grad[i])], &mut m, &mut v, 1.0, AdamW::DEFAULT);
                        worst.add(one(gpu, &result, i)?, p[0]);
                    }
                    Ok(worst.relative())
                }),
            })
        }),
    }
}

fn advantage(rule: Rule, op: &'static str, variant: VariantName) -> BenchCase {
    let n = GROUPS * M;
    let bytes = 4.0 * 2.0 * n as f64;
    BenchCase {
        op,
        variant,
        dtype: None,
        model: "groups".into(),
        phase: Phase::Training,
        shape: format!("{GROUPS} groups of {M}"),
        flops: 0.0,
        bytes,
        memory: 2.0 * bytes,
        rate: Rate::F32,
        build: Box::new(move |gpu| advantage_prepared(gpu, rule, variant)),
    }
}

fn advantage_prepared(gpu: &Gpu, rule: Rule, variant: VariantName) -> Result<Prepared> {
    let n = GROUPS * M;
    let pass = rule.pass(M)?;
    let drawn = Gen::new(64).uniform(n, 3.0);
    let drawn: Vec<f64> = drawn.iter().map(|r| f64::from(*r)).collect();
    let wide = rule.rewards().like(&drawn);
    let rewards: Vec<f32> = wide.iter().map(|r| *r as f32).collect();
    // Chow's split: the first half of each group selects.
    let split: Vec<u32> = (0..n).map(|i| u32::from(i % M < M / 2)).collect();
    let reducer = GroupReducer::new(gpu, &pass, GROUPS, M)?;
    let (rewards_buffer, selection) = (gpu.upload("bench", &rewards)?, gpu.upload("bench", &split)?);
    let bases = gpu.upload("bench", &vec![0f32; GROUPS])?;
    let (advantages, flags) = (output(gpu, n)?, output(gpu, GROUPS)?);
    let tails = output(gpu, TAIL_WORDS * GROUPS)?;
    let result = advantages.clone();
    let chosen: Vec<usize> = (0..M / 2).collect();
    let selects = pass.selects();
    Ok(Prepared {
        record: Box::new(move |rec| {
            let buffers = GroupBuffers {
                groups: GROUPS,
                rewards: &rewards_buffer,
                selection: Some(&selection),
                bases: Some(&bases),
                advantages: &advantages,
                flags: &flags,
                tails: Some(&tails),
            };
            forced(rec, variant, |rec| reducer.record(rec, &buffers))
        }),
        check: Box::new(move |gpu| {
            let got: Vec<f32> = gpu.read(&result, 0, n)?;
            let mut worst = Worst::default();
            for group in [0, GROUPS / 2, GROUPS - 1] {
                let range = group * M..(group + 1) * M;
                let context = GroupContext {
                    selection: selects.then_some(&chosen),
                    ..GroupContext::default()
                };
                let want = rule.group_with(&wide[range.clone()], &context)?.advantages;
                for (got, want) in got[range].iter().zip(want) {
                    worst.add(*got, want);
                }
            }
            Ok(worst.relative())
        }),
    })
}
