#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::harness::{Gen, assert_gradient, numeric_gradient, wide};
use super::super::kv::stored;
use super::cases::{Group, args, decoded, pack};
use super::twin::{self, Meta};
use super::*;
use crate::gpu::{Gpu, GpuOptions};

#[test]
fn twin_gradients_match_finite_differences() {
    let (meta, ends) = pack(&[(3, &[2, 1]), (2, &[])]);
    assert_eq!(ends, [6, 6, 6, 5, 5, 6, 8, 8]);
    let s = Shape {
        m: meta.len(),
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        scale: 0.5,
    };
    let mut g = Gen::new(17);
    let (q, dout) = (wide(&g.uniform(s.m * 16, 1.0)), wide(&g.uniform(s.m * 16, 1.0)));
    let (k, v) = (wide(&g.uniform(s.m * 8, 1.0)), wide(&g.uniform(s.m * 8, 1.0)));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| {
        let out = twin::forward(q, k, v, &meta, s).0;
        out.iter().zip(&dout).map(|(a, b)| a * b).sum::<f64>()
    };
    let r = twin::backward(&q, &k, &v, &dout, &meta, s);
    assert_gradient("dq", &r.dq, &numeric_gradient(&q, |x| loss(x, &k, &v)));
    assert_gradient("dk", &r.dk, &numeric_gradient(&k, |x| loss(&q, x, &v)));
    assert_gradient("dv", &r.dv, &numeric_gradient(&v, |x| loss(&q, &k, x)));
}

const SHAPE: Shape = Shape {
    m: 0,
    heads: 6,
    kv_heads: 2,
    head_dim: 40,
    scale: 0.158,
};
const Q: usize = 240;
const KV: usize = 80;

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

/// Bits of out followed by lse, of each row.
fn run_forward(gpu: &Gpu, q: &[f32], k: &Buffer, v: &Buffer, meta: &[Meta]) -> Vec<Vec<u32>> {
    run(gpu, q, meta, |rec, q, meta, out, lse, s| {
        forward(rec, q, k, v, meta, out, lse, s)
    })
}

fn run(
    gpu: &Gpu,
    q: &[f32],
    meta: &[Meta],
    record: impl Fn(&mut Recorder, &Buffer, &Buffer, &Buffer, &Buffer, Shape) -> Result<()>,
) -> Vec<Vec<u32>> {
    let s = Shape {
        m: meta.len(),
        ..SHAPE
    };
    let q = gpu.upload("q", q).unwrap();
    let meta = gpu.upload("meta", meta).unwrap();
    let out = gpu.alloc("out", (s.m * Q * 4) as u64).unwrap();
    let lse = gpu.alloc("lse", (s.m * 6 * 4) as u64).unwrap();
    let mut rec = Recorder::new(gpu);
    record(&mut rec, &q, &meta, &out, &lse, s).unwrap();
    rec.submit().unwrap();
    let out: Vec<f32> = gpu.read(&out, 0, s.m * Q).unwrap();
    let lse: Vec<f32> = gpu.read(&lse, 0, s.m * 6).unwrap();
    let row = |i: usize| [bits(&out[i * Q..(i + 1) * Q]), bits(&lse[i * 6..(i + 1) * 6])].concat();
    (0..s.m).map(row).collect()
}

/// The same row gives the same bits alone and among 37, in any order, over packed activations and over a cache.
#[test]
fn forward_is_batch_invariant() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let (meta, _) = pack(&[(9, &[3, 14, 1]), (10, &[])]);
    let m = meta.len();
    assert_eq!(m, 37);
    let mut g = Gen::new(23);
    let (q, k, v) = (
        g.uniform(m * Q, 4.0),
        g.uniform(m * KV, 2.0),
        g.uniform(m * KV, 1.0),
    );
    let upload = |name: &str, x: &[f32]| gpu.upload(name, x).unwrap();
    let (kb, vb) = (upload("k", &k), upload("v", &v));
    let packed = run_forward(&gpu, &q, &kb, &vb, &meta);
    for i in 0..m {
        let alone = run_forward(&gpu, &q[i * Q..(i + 1) * Q], &kb, &vb, &meta[i..=i]);
        assert_eq!(alone[0], packed[i], "row {i} alone");
    }
    // Neighbouring lanes now belong to different sequences.
    let order: Vec<usize> = (0..m).map(|i| i * 11 % m).collect();
    let shuffled_q: Vec<f32> = order
        .iter()
        .flat_map(|i| q[i * Q..(i + 1) * Q].to_vec())
        .collect();
    let shuffled_meta: Vec<Meta> = order.iter().map(|i| meta[*i]).collect();
    let shuffled = run_forward(&gpu, &shuffled_q, &kb, &vb, &shuffled_meta);
    for (at, i) in order.iter().enumerate() {
        assert_eq!(shuffled[at], packed[*i], "row {i} shuffled");
    }
    // A cache that holds every sequence whole, at the end of a larger buffer.
    let mut cache = (g.uniform(1000 * KV, 9.0), g.uniform(1000 * KV, 9.0));
    let mut cached_meta = Vec::new();
    for (i, t) in meta.iter().enumerate() {
        let base = 1000 - 27 * (i + 1);
        for p in 0..=t[3] {
            let from = if p < t[1] { t[0] + p } else { t[2] + p - t[1] } as usize;
            let to = (base + p as usize) * KV;
            cache.0[to..to + KV].copy_from_slice(&k[from * KV..(from + 1) * KV]);
            cache.1[to..to + KV].copy_from_slice(&v[from * KV..(from + 1) * KV]);
        }
        cached_meta.push([7, 0, base as u32, t[3]]);
    }
    let (kb, vb) = (upload("k cache", &cache.0), upload("v cache", &cache.1));
    let cached = run_forward(&gpu, &q, &kb, &vb, &cached_meta);
    assert_eq!(cached, packed);
    // The same cache in pages, their order turned round.
    let pages = 1000 / PAGE;
    let backwards = |x: &[f32]| -> Vec<f32> { x.chunks(PAGE * KV).rev().flatten().copied().collect() };
    let (kb, vb) = (
        upload("k pages", &backwards(&cache.0)),
        upload("v pages", &backwards(&cache.1)),
    );
    let table: Vec<u32> = (0..pages as u32).rev().collect();
    let table = gpu.upload("table", &table).unwrap();
    let paged = run(&gpu, &q, &cached_meta, |rec, q, meta, out, lse, s| {
        let kv = Stored {
            k: &kb,
            v: &vb,
            dtype: FloatDtype::Float32,
        };
        let keys = Paged { kv, pages: &table };
        forward_paged(rec, q, keys, meta, out, lse, s)
    });
    assert_eq!(paged, packed);
}

/// Bits of dq, dk, dv of the given rows.
fn run_backward(gpu: &Gpu, groups: &[Group], data: [&[f32]; 4]) -> [Vec<u32>; 3] {
    let (meta, ends) = pack(groups);
    let s = Shape {
        m: meta.len(),
        ..SHAPE
    };
    let floats = |n: usize| gpu.alloc("out", (s.m * n * 4) as u64).unwrap();
    let upload = |x: &[f32]| gpu.upload("in", x).unwrap();
    let b = [
        upload(data[0]),
        upload(data[1]),
        upload(data[2]),
        floats(Q),
        floats(6),
        upload(data[3]),
        gpu.upload("meta", &meta).unwrap(),
        gpu.upload("ends", &ends).unwrap(),
        floats(6),
        floats(Q),
        floats(KV),
        floats(KV),
    ];
    let mut rec = Recorder::new(gpu);
    forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s).unwrap();
    backward(&mut rec, &args(&b), s).unwrap();
    rec.submit().unwrap();
    let read = |i: usize, n: usize| bits(&gpu.read::<f32>(&b[i], 0, s.m * n).unwrap());
    [read(9, Q), read(10, KV), read(11, KV)]
}

/// A group's gradients do not depend on what is packed before and after it; forward and backward run together.
#[test]
fn backward_is_batch_invariant() {
    const GROUP: Group = (9, &[3, 14, 1]);
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let rows = 5 + 27 + 12;
    let mut g = Gen::new(29);
    let (q, dout) = (g.uniform(rows * Q, 4.0), g.uniform(rows * Q, 1.0));
    let (k, v) = (g.uniform(rows * KV, 2.0), g.uniform(rows * KV, 1.0));
    let packed = run_backward(&gpu, &[(5, &[]), GROUP, (12, &[])], [&q, &k, &v, &dout]);
    let alone = run_backward(
        &gpu,
        &[GROUP],
        [
            &q[5 * Q..32 * Q],
            &k[5 * KV..32 * KV],
            &v[5 * KV..32 * KV],
            &dout[5 * Q..32 * Q],
        ],
    );
    for (i, n) in [Q, KV, KV].into_iter().enumerate() {
        assert_eq!(alone[i], packed[i][5 * n..32 * n], "{}", ["dq", "dk", "dv"][i]);
    }
    // End to end against the twin, with the kernel's own out, lse and delta.
    let (meta, _) = pack(&[(5, &[]), GROUP, (12, &[])]);
    let s = Shape { m: rows, ..SHAPE };
    let want = twin::backward(&wide(&q), &wide(&k), &wide(&v), &wide(&dout), &meta, s);
    for (got, want) in packed.iter().zip([want.dq, want.dk, want.dv]) {
        let peak = want.iter().fold(0f64, |a, b| a.max(b.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(f32::from_bits(*g)) - w).abs() < 2e-5 * peak);
        }
    }
}

/// Bits of out and lse of the rows `which` by the portable kernel, or by the grouped one with so many rows a workgroup.
fn decode_bits(
    gpu: &Gpu,
    (q, keys, meta): (&[f32], Paged<'_>, &[Meta]),
    s: Shape,
    which: &[usize],
    rows: Option<usize>,
) -> Vec<Vec<u32>> {
    let width = s.heads * s.head_dim;
    let s = Shape { m: which.len(), ..s };
    let q: Vec<f32> = which
        .iter()
        .flat_map(|i| &q[i * width..(i + 1) * width])
        .copied()
        .collect();
    let meta: Vec<Meta> = which.iter().map(|i| meta[*i]).collect();
    let (qb, mb) = (gpu.upload("q", &q).unwrap(), gpu.upload("meta", &meta).unwrap());
    let out = gpu.upload("out", &vec![f32::NAN; s.m * width]).unwrap();
    let lse = gpu.upload("lse", &vec![f32::NAN; s.m * s.heads]).unwrap();
    let mut rec = Recorder::new(gpu);
    match rows.map(|rows| decode::Sizes::of(s, rows).unwrap()) {
        Some(sizes) => decode::grouped(&mut rec, &qb, keys, &mb, (&out, &lse), s, sizes).unwrap(),
        None => forward_paged(&mut rec, &qb, keys, &mb, &out, &lse, s).unwrap(),
    }
    rec.submit().unwrap();
    let out: Vec<u32> = gpu.read(&out, 0, s.m * width).unwrap();
    let lse: Vec<u32> = gpu.read(&lse, 0, s.m * s.heads).unwrap();
    let row = |i: usize| {
        [
            &out[i * width..(i + 1) * width],
            &lse[i * s.heads..(i + 1) * s.heads],
        ]
        .concat()
    };
    (0..s.m).map(row).collect()
}

/// Whatever rows share a workgroup: those of a group, of several, in any order, or one alone.
#[test]
fn decoding_by_grouped_kernels_has_the_portable_bits() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let (meta, pages) = decoded();
    let m = meta.len();
    let mut g = Gen::new(31);
    let draws = g.below(pages, u32::MAX);
    let mut table: Vec<u32> = (0..pages as u32).collect();
    table.sort_by_key(|p| draws[*p as usize]);
    let table = gpu.upload("table", &table).unwrap();
    let in_order: Vec<usize> = (0..m).collect();
    let shuffled: Vec<usize> = (0..m).map(|i| i * 7 % m).collect();
    use FloatDtype::{Float16, Float32};
    // Few pipelines: each takes a software driver a second or more to make.
    for ((heads, kv_heads, head_dim), dtype, sizes) in [
        ((9, 3, 64), Float32, &[8, 3][..]),
        ((9, 3, 64), Float16, &[8]),
        ((6, 2, 40), Float32, &[1]),
        ((8, 2, 128), Float16, &[8]),
        ((4, 1, 256), Float32, &[8]),
    ] {
        let s = Shape {
            m,
            heads,
            kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        };
        let q = g.uniform(m * heads * head_dim, 4.0);
        let n = pages * PAGE * kv_heads * head_dim;
        let [kb, vb] = [2.0, 1.0].map(|scale| {
            let words = stored(&g.uniform(n, scale), dtype);
            gpu.upload("kv", &words).unwrap()
        });
        let (k, v) = (&kb, &vb);
        let keys = Paged {
            kv: Stored { k, v, dtype },
            pages: &table,
        };
        let bits = |which: &[usize], rows| decode_bits(&gpu, (&q, keys, &meta), s, which, rows);
        let want = bits(&in_order, None);
        for rows in sizes {
            let what = format!("{heads}/{kv_heads}×{head_dim} {dtype}, {rows} rows");
            assert!(bits(&in_order, Some(*rows)) == want, "{what}");
            let other = bits(&shuffled, Some(*rows));
            assert!(
                (0..m).all(|at| other[at] == want[shuffled[at]]),
                "{what}, shuffled"
            );
            for i in [0, 4, m - 1] {
                assert!(bits(&[i], Some(*rows))[0] == want[i], "{what}, row {i} alone");
            }
        }
    }
}

/// A forced name must lead to its kernel: one that fell back would make the comparison of variants vain.
#[test]
fn the_kind_of_adapter_decides_unless_a_variant_is_forced() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut rec = Recorder::new(&gpu);
    for name in [decode::PORTABLE, decode::GROUPED] {
        rec.force_variant(Some(name));
        assert_eq!(decode::choose(&rec), name);
    }
    rec.force_variant(Some("tile-64"));
    let caps = gpu.caps();
    let on_cpu = caps.kind == crate::gpu::DeviceKind::Cpu || caps.forced_lanes.is_some();
    let default = if on_cpu { decode::PORTABLE } else { decode::GROUPED };
    assert_eq!(decode::choose(&rec), default);
}

#[test]
fn a_workgroup_takes_what_its_memory_holds() {
    let sizes = |heads, kv_heads, head_dim| {
        let s = Shape {
            m: 1,
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
        };
        decode::Sizes::of(s, 8).map(|s| (s.rows, s.keys, s.shares))
    };
    assert_eq!(sizes(9, 3, 64), Some((8, 32, 3)));
    assert_eq!(sizes(32, 8, 64), Some((8, 32, 4)));
    assert_eq!(sizes(32, 8, 128), Some((8, 16, 8)));
    assert_eq!(sizes(16, 8, 256), Some((8, 8, 8)));
    assert_eq!(sizes(64, 1, 64), None);
    assert_eq!(sizes(8, 8, 260), None);
    for head_dim in (4..=256).step_by(4) {
        for heads in 1..=48 {
            let Some((rows, keys, shares)) = sizes(heads, 1, head_dim) else {
                continue;
            };
            let (queries, d4) = (rows * heads, head_dim / 4);
            assert!(keys >= 8 && keys % 8 == 0 && keys * d4 <= 512, "{head_dim}");
            assert!(queries <= 48 && queries * keys <= 1536 && rows * keys <= 4 * 512);
            assert!(
                shares <= 8 && shares * (128 / d4) >= queries,
                "{head_dim} {heads}"
            );
        }
    }
}
