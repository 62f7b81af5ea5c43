//! Float64 twins and cases of [`ceiling`](super).

use super::{COOP, FMA, ReadShape};
use crate::kernels::harness::{Case, Gen, Slot, Tol};
use half::f16;

/// Sum of an invocation's chains of as many numbers as `f` has: chain j starts at `i % 16 + j` in all of them.
fn fma_twin(i: usize, chains: usize, links: u32, f: &[f64], g: &[f64]) -> f64 {
    let mut sum = 0.0;
    for j in 0..chains {
        for (f, g) in f.iter().zip(g) {
            let mut a = (i % 16 + j) as f64;
            for _ in 0..links {
                a = a * f + g;
            }
            sum += a;
        }
    }
    sum
}

pub(super) fn fma<const KIND: usize>() -> Vec<Case> {
    [(1, 1), (100, 2), (513, 3)]
        .map(|(count, rounds)| fma_case(KIND, count, rounds))
        .into()
}

fn fma_case(kind: usize, count: usize, rounds: u32) -> Case {
    let chains = &FMA[kind];
    // Powers of two: exact in f16 too, and the chains end near g / (1 − f) whatever they start from.
    let (f, g) = ([0.5, 0.25, -0.5, 0.75], [1.0, 0.5, 2.0, -1.0]);
    let x: Vec<f32> = f.iter().chain(&g).map(|v| *v as f32).collect();
    Case {
        name: format!("{count} invocations, {rounds} rounds"),
        slots: vec![Slot::input(&x), Slot::Out(count)],
        record: Box::new(move |rec, b| super::fma(rec, &FMA[kind], &b[0], &b[1], count, rounds)),
        expect: Box::new(move || {
            let links = rounds * chains.unroll as u32;
            let want: Vec<f64> = (0..count)
                .map(|i| fma_twin(i, chains.chains, links, &f[..chains.width], &g[..chains.width]))
                .collect();
            // The last rounding of a converged chain dominates; a sum adds 4·chains of them.
            let (eps, why) = if chains.dtype == "f16" {
                (
                    1.0 / 1024.0,
                    "f16 rounding of a chain's last links, and of the sum in f16",
                )
            } else {
                (
                    1.0 / f64::from(1 << 22),
                    "f32 rounding of a chain's last links, and of their sum",
                )
            };
            let peak = (chains.width * chains.chains) as f64 * 4.0;
            let tol = Tol {
                atol: eps * peak,
                rtol: 4.0 * eps,
                why,
            };
            vec![(1, want, tol)]
        }),
        flops: chains.flops(count, rounds),
    }
}

pub(super) fn coop<const KIND: usize>() -> Vec<Case> {
    vec![coop_case(KIND, 1, 1), coop_case(KIND, 3, 2)]
}

/// Bytes of small integers in an element type.
fn elements(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "f16" => values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect(),
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

fn coop_case(kind: usize, groups: usize, rounds: u32) -> Case {
    let kernel = &COOP[kind];
    let (side, ab, c) = kernel
        .needs_coop
        .map_or((8, "f32", "f32"), |s| (s.m as usize, s.ab, s.c));
    let mut g = Gen::new(kind as u64);
    // Integers within ±2: 8 rounds of products over 16 terms stay below 2048, the last integer that f16 holds exactly.
    let small =
        |n: usize, g: &mut Gen| -> Vec<f32> { g.below(n, 5).into_iter().map(|v| v as f32 - 2.0).collect() };
    let (x, y) = (small(side * side, &mut g), small(4 * side * side, &mut g));
    let outputs = groups * 4 * side * side;
    let words = if c == "f16" { outputs / 2 } else { outputs };
    Case {
        name: format!("{groups} subgroups, {rounds} rounds"),
        slots: vec![
            Slot::In(elements(ab, &x)),
            Slot::In(elements(ab, &y)),
            Slot::Out(words),
        ],
        record: Box::new(move |rec, b| super::coop(rec, kernel, &b[0], &b[1], &b[2], groups, rounds)),
        expect: Box::new(move || {
            let mut one = Vec::with_capacity(4 * side * side);
            for y in y.chunks_exact(side * side) {
                for row in x.chunks_exact(side) {
                    one.extend((0..side).map(|col| {
                        let dot: f32 = row.iter().enumerate().map(|(k, a)| a * y[k * side + col]).sum();
                        // + 0.0: no negative zero, as on the device, whose sums start at 0.
                        4.0 * rounds as f32 * dot + 0.0
                    }));
                }
            }
            let all: Vec<f32> = one.iter().copied().cycle().take(outputs).collect();
            // Two halves are compared by the bits of their word.
            let bits: Vec<f32> = bytemuck::pod_collect_to_vec(&elements(c, &all));
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "small integers, exact in every type",
            };
            vec![(2, bits.iter().map(|v| f64::from(*v)).collect(), exact)]
        }),
        flops: 0.0,
    }
}

pub(super) fn copy() -> Vec<Case> {
    [4, 4 * 63, 4 * 64 * 9, 4 * 8 * 256 * 3 + 4]
        .map(|n| {
            let src = Gen::new(n as u64).uniform(n, 1e4);
            Case {
                name: format!("{n} floats"),
                slots: vec![Slot::input(&src), Slot::Out(n)],
                record: Box::new(move |rec, b| super::copy(rec, &b[0], &b[1], n)),
                expect: Box::new(move || {
                    let exact = Tol {
                        atol: 0.0,
                        rtol: 0.0,
                        why: "values are copied",
                    };
                    vec![(1, src.iter().map(|v| f64::from(*v)).collect(), exact)]
                }),
                flops: 0.0,
            }
        })
        .into()
}

pub(super) fn read() -> Vec<Case> {
    [
        (8, 8192, 1),
        (8, 256 * 33, 2),
        (64, 2048 * 5, 100),
        (256, 8192 * 3, 2),
    ]
    .map(|(lanes, n, groups)| read_case(ReadShape::new(lanes, n, groups)))
    .into()
}

fn read_case(shape: ReadShape) -> Case {
    let src = Gen::new(shape.n as u64).uniform(shape.n, 1.0);
    let outputs = shape.outputs();
    Case {
        name: format!("{shape:?}"),
        slots: vec![Slot::input(&src), Slot::Out(outputs)],
        record: Box::new(move |rec, b| super::read(rec, &b[0], &b[1], shape)),
        expect: Box::new(move || {
            let mut want = vec![0.0; outputs];
            for (i, v) in src.iter().enumerate() {
                let (round, within) = (i / (shape.lanes * 32), i / 4);
                let lane = within % shape.lanes;
                want[round / shape.chunk * shape.lanes + lane] += f64::from(*v);
            }
            let tol = Tol {
                atol: 1e-4,
                rtol: 1e-6,
                why: "f32 sums of up to a few thousand values within ±1",
            };
            vec![(1, want, tol)]
        }),
        flops: shape.n as f64,
    }
}

pub(super) fn mark() -> Vec<Case> {
    vec![Case {
        name: "one number of three".into(),
        slots: vec![Slot::InOut(vec![1.0, 2.0, 3.0])],
        record: Box::new(|rec, b| super::mark(rec, &b[0], 1, -7.5)),
        expect: Box::new(|| {
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "one number is written",
            };
            vec![(0, vec![1.0, -7.5, 3.0], exact)]
        }),
        flops: 0.0,
    }]
}
