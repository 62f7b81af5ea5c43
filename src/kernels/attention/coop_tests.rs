#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::harness::{Gen, wide};
use super::cases::{args, pack};
use super::twin::{self, Meta};
use super::variant_tests::{GROUPS, buffers, shape};
use super::*;
use crate::config::MatmulPrecision;
use crate::gpu::{Gpu, GpuOptions};

/// The adapter and its variants; where it has none, that is said, and is what it reports.
fn open() -> (Gpu, Vec<&'static str>) {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let coop = |v: &&str| v.starts_with("coop-");
    let variants: Vec<_> = variants(&gpu, BACKWARD_OP, 0).into_iter().filter(coop).collect();
    println!("{}: cooperative variants {variants:?}", gpu.report().name);
    assert_eq!(variants.is_empty(), gpu.report().coop_side().is_none());
    (gpu, variants)
}

#[test]
fn medium_chooses_them_for_heads_that_they_take() {
    let (gpu, variants) = open();
    let mut rec = Recorder::new(&gpu);
    for (kind, name) in [coop::COOP_8, coop::COOP_16].into_iter().enumerate() {
        rec.force_variant(Some(name));
        let runs = variants.contains(&name);
        assert_eq!(coop::choose(&rec, 128), runs.then_some(kind));
        assert_eq!(coop::choose(&rec, 132), None);
    }
    if variants.is_empty() {
        return;
    }
    rec.force_variant(Some("gemv-8"));
    assert_eq!(coop::choose(&rec, 64), None);
    gpu.set_matmul_precision(MatmulPrecision::Medium).unwrap();
    let of_side = gpu.report().coop_side().map(|side| usize::from(side == 16));
    assert_eq!(coop::choose(&rec, 64), of_side);
    rec.force_variant(Some("tiled"));
    assert_eq!(coop::choose(&rec, 64), None);
}

/// dq, dk and dv by a variant, after the forward pass by the usual one.
fn gradients(gpu: &Gpu, b: &[Buffer], s: Shape, variant: &'static str) -> [Vec<f32>; 3] {
    let mut rec = Recorder::new(gpu);
    forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s).unwrap();
    rec.force_variant(Some(variant));
    backward(&mut rec, &args(b), s).unwrap();
    rec.submit().unwrap();
    let (wide, narrow) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    [(9, wide), (10, narrow), (11, narrow)].map(|(i, n)| gpu.read(&b[i], 0, s.m * n).unwrap())
}

/// A query's gradient depends on its row alone, wherever the batch has it; those of keys and values, whose sums are over rows of
/// the batch, differ by the rounding of sums of a tile.
#[test]
fn a_querys_gradient_does_not_depend_on_the_batch() {
    let (gpu, variants) = open();
    let heads = (6, 2, 40);
    let alone = pack(&[(9, &[3, 14, 1]), (70, &[2])]);
    let packed = pack(&[(7, &[]), (9, &[3, 14, 1]), (70, &[2]), (12, &[])]);
    let n = alone.0.len();
    let (a, b) = (shape(n, heads), shape(packed.0.len(), heads));
    for variant in variants {
        let (few, all) = (buffers(&gpu, &alone, a), buffers(&gpu, &packed, b));
        let mut rec = Recorder::new(&gpu);
        for (i, width) in [(0, 240), (1, 80), (2, 80), (5, 240)] {
            rec.copy(&all[i], 7 * width * 4, &few[i], 0, n as u64 * width * 4);
        }
        rec.submit().unwrap();
        let [few, all] = [(&few, a), (&all, b)].map(|(b, s)| gradients(&gpu, b, s, variant));
        let bits = |v: &[f32]| -> Vec<u32> { v.iter().map(|x| x.to_bits()).collect() };
        assert!(
            bits(&few[0]) == bits(&all[0][7 * 240..(7 + n) * 240]),
            "{variant}"
        );
        for i in [1, 2] {
            let (x, y) = (&few[i], &all[i][7 * 80..(7 + n) * 80]);
            let peak = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            let off = x.iter().zip(y).fold(0.0f32, |a, (x, y)| a.max((x - y).abs()));
            // Another tile's largest weight may scale a weight: its rounding to f16 then differs, by 2⁻²⁵ of the largest.
            assert!(off <= 1e-6 * peak, "{variant}: {off:e} of {peak:e}");
        }
    }
}

/// The most that rounding operands to f16 moves a query's gradient: (M, H). A product of two is off by 2⁻¹⁰ of its terms' sizes, a
/// probability by as much of its score's, and what is rounded itself by 2⁻¹¹.
fn bound([q, k, v, dout]: [&[f64]; 4], meta: &[Meta], s: Shape) -> Vec<f64> {
    let d = s.head_dim;
    let (out, lse) = twin::forward(q, k, v, meta, s);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let sizes = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x * y).abs()).sum::<f64>();
    let row = |i: usize| {
        let (token, head) = (i / s.heads, i % s.heads);
        let at = i * d..(i + 1) * d;
        let (q, dout, out) = (&q[at.clone()], &dout[at.clone()], &out[at]);
        let [start, prefix, own, last] = meta[token];
        let keys = (0..=last).map(|p| if p < prefix { start + p } else { own + p - prefix });
        let terms = keys.map(|key| {
            let at = (key as usize * s.kv_heads + head / (s.heads / s.kv_heads)) * d;
            let (k, v) = (&k[at..at + d], &v[at..at + d]);
            let scale = f64::from(s.scale);
            let p = (dot(q, k) * scale - lse[i]).exp();
            let peak = k.iter().fold(0.0f64, |a, x| a.max(x.abs()));
            p * (sizes(dout, v) + dot(dout, out).abs()) * (1.0 + sizes(q, k) * scale) * scale * peak
        });
        terms.sum::<f64>() / 512.0
    };
    (0..s.m * s.heads).map(row).collect()
}

/// Neighbouring rows' gradients are of sizes that f16 does not hold together, and some that it does not hold at all.
#[test]
fn rows_of_any_size_keep_their_precision() {
    let (gpu, variants) = open();
    let layout = pack(&GROUPS[..4]);
    let s = shape(layout.0.len(), (6, 2, 40));
    let mut g = Gen::new(41);
    let [q, k, v] = [(240, 2.0), (80, 2.0), (80, 1.0)].map(|(n, scale)| g.uniform(s.m * n, scale));
    let size = |row: usize| [1e-6, 3e-9, 2e-4, 1.0][row % 4];
    let dout: Vec<f32> = g.uniform(s.m * 240, 1.0);
    let dout: Vec<f32> = (0..dout.len()).map(|i| dout[i] * size(i / 40)).collect();
    let b = buffers(&gpu, &layout, s);
    for (i, data) in [(0, &q), (1, &k), (2, &v), (5, &dout)] {
        gpu.write(&b[i], 0, data);
    }
    let [qw, kw, vw, doutw] = [&q, &k, &v, &dout].map(|x| wide(x));
    let want = twin::backward(&qw, &kw, &vw, &doutw, &layout.0, s);
    let bound = bound([&qw, &kw, &vw, &doutw], &layout.0, s);
    for variant in variants {
        let [dq, ..] = gradients(&gpu, &b, s, variant);
        let mut any = false;
        for (i, (got, want)) in dq.iter().zip(&want.dq).enumerate() {
            let off = (f64::from(*got) - want).abs();
            any |= off > 1e-6 * want.abs();
            assert!(
                off <= bound[i / 40],
                "{variant}, element {i}: {got} against {want}, {:e}",
                bound[i / 40]
            );
        }
        assert!(any, "{variant}: nothing was rounded");
        let peak = |row: usize| {
            dq[row * 40..(row + 1) * 40]
                .iter()
                .fold(0.0f32, |a, v| a.max(v.abs()))
        };
        // The bound is worth something: most rows of the smallest size would exceed it were they nothing.
        let smallest = (0..s.m * 6).filter(|row| row % 4 == 1);
        let (clear, rest): (Vec<_>, Vec<_>) =
            smallest.partition(|row| f64::from(peak(*row)) > 2.0 * bound[*row]);
        println!("{} of {}", clear.len(), clear.len() + rest.len());
        assert!(clear.len() > 3 * rest.len(), "{variant}");
    }
}
