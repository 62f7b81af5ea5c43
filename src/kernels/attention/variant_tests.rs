#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::harness::Gen;
use super::super::kv::stored;
use super::cases::{Group, args, decoded, pack};
use super::subgroup::{self, SUBGROUP};
use super::tiled::{Sizes, TILED};
use super::twin::Meta;
use super::*;
use crate::gpu::{DeviceKind, Gpu, GpuOptions};

#[test]
fn a_workgroup_takes_what_its_memory_holds() {
    let sizes = |d: usize| Sizes::of(d).map(|s| (s.left, s.right, s.shares, s.part));
    assert_eq!(sizes(64), Some((64, 32, 2, 16)));
    assert_eq!(sizes(128), Some((64, 32, 4, 8)));
    assert_eq!(sizes(256), Some((32, 64, 4, 4)));
    assert_eq!(sizes(260), None);
    for head_dim in (4..=256).step_by(4) {
        let s = Sizes::of(head_dim).unwrap();
        let d4 = head_dim / 4;
        assert!(s.left * s.right == 2048 && s.left + s.right == 96 && s.right.is_multiple_of(s.part));
        assert!(
            s.part.is_multiple_of(4) && s.part * d4 <= 384 && s.left / 4 * (s.right / 8) <= 64,
            "{head_dim}"
        );
        assert!(
            s.shares <= 4 && s.shares * 128 >= s.left / 4 * d4 && (s.shares - 1) * 128 < s.left / 4 * d4,
            "{head_dim}"
        );
    }
}

/// Whether the adapter has what `subgroup-8` needs, the width of heads aside.
fn has_subgroups(gpu: &Gpu) -> bool {
    gpu.report().runs(&subgroup::FORWARD)
}

/// A forced name must lead to its kernel: one that fell back would make the comparison of variants vain.
#[test]
fn the_kind_of_adapter_decides_unless_a_variant_is_forced() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut rec = Recorder::new(&gpu);
    for name in [PORTABLE, TILED, SUBGROUP] {
        rec.force_variant(Some(name));
        let narrow = if name == SUBGROUP && !has_subgroups(&gpu) {
            PORTABLE
        } else {
            name
        };
        assert_eq!(choose(&rec, 64), narrow);
        let wide = if name == SUBGROUP { PORTABLE } else { name };
        assert_eq!(choose(&rec, 68), wide);
    }
    rec.force_variant(Some("tile-64"));
    let caps = gpu.caps();
    let by_kind = match caps.kind {
        _ if caps.forced_lanes.is_some() => PORTABLE,
        DeviceKind::Cpu if has_subgroups(&gpu) => SUBGROUP,
        DeviceKind::Cpu => PORTABLE,
        _ => TILED,
    };
    assert_eq!(choose(&rec, 64), by_kind);
}

/// Sequences longer than a tile and of one token, prompts with one and several responses, ragged ends: prefixes that end within a tile and
/// within a block of eight, tiles whose rows are of several sequences.
pub(super) const GROUPS: [Group; 7] = [
    (5, &[]),
    (43, &[9, 1, 30]),
    (1, &[]),
    (70, &[]),
    (67, &[3, 3, 2, 18]),
    (8, &[1]),
    (2, &[37]),
];

/// Buffers in the order of `args`; outputs are NaN.
pub(super) fn buffers(gpu: &Gpu, (meta, ends): &(Vec<Meta>, Vec<u32>), s: Shape) -> Vec<Buffer> {
    let mut g = Gen::new((s.head_dim + s.heads) as u64);
    let (wide, narrow) = (s.m * s.heads * s.head_dim, s.m * s.kv_heads * s.head_dim);
    let upload = |x: &[f32]| gpu.upload("in", x).unwrap();
    let nan = |n: usize| upload(&vec![f32::NAN; n]);
    vec![
        upload(&g.uniform(wide, 4.0)),
        upload(&g.uniform(narrow, 2.0)),
        upload(&g.uniform(narrow, 1.0)),
        nan(wide),
        nan(s.m * s.heads),
        upload(&g.uniform(wide, 1.0)),
        gpu.upload("meta", meta).unwrap(),
        gpu.upload("ends", ends).unwrap(),
        nan(s.m * s.heads),
        nan(wide),
        nan(narrow),
        nan(narrow),
    ]
}

/// Bits of out, lse, dq, dk and dv by a variant.
fn pass(gpu: &Gpu, layout: &(Vec<Meta>, Vec<u32>), s: Shape, variant: &'static str) -> [Vec<u32>; 5] {
    let b = buffers(gpu, layout, s);
    let mut rec = Recorder::new(gpu);
    rec.force_variant(Some(variant));
    forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s).unwrap();
    backward(&mut rec, &args(&b), s).unwrap();
    rec.submit().unwrap();
    let (wide, narrow) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    [(3, wide), (4, s.heads), (9, wide), (10, narrow), (11, narrow)]
        .map(|(i, n)| gpu.read(&b[i], 0, s.m * n).unwrap())
}

pub(super) fn shape(m: usize, (heads, kv_heads, head_dim): (usize, usize, usize)) -> Shape {
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    Shape {
        m,
        heads,
        kv_heads,
        head_dim,
        scale,
    }
}

/// Heads of every class and of odd multiples of four, with one, three, five and eight query heads a KV head.
#[test]
fn packed_rows_have_the_portable_bits() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let layout = pack(&GROUPS);
    for heads in [
        (9, 3, 64),
        (8, 1, 128),
        (1, 1, 256),
        (10, 2, 20),
        (3, 1, 132),
        (2, 2, 100),
    ] {
        let s = shape(layout.0.len(), heads);
        let want = pass(&gpu, &layout, s, PORTABLE);
        for variant in [TILED, SUBGROUP]
            .into_iter()
            .filter(|v| runs(&gpu, v, s.head_dim))
        {
            let got = pass(&gpu, &layout, s, variant);
            for (i, name) in ["out", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
                let differ = want[i].iter().zip(&got[i]).filter(|(a, b)| a != b).count();
                assert_eq!(differ, 0, "{variant} {heads:?}: {name}, of {}", want[i].len());
                assert!(want[i].iter().all(|v| f32::from_bits(*v).is_finite()), "{name}");
            }
        }
    }
}

/// A group's outputs and gradients do not depend on what is packed beside it, and so not on where its tiles begin.
#[test]
fn variants_are_batch_invariant() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let heads = (6, 2, 40);
    let alone = pack(&[(9, &[3, 14, 1])]);
    let packed = pack(&[(9, &[3, 14, 1]), (50, &[2]), (12, &[])]);
    let n = alone.0.len();
    // The generator's values depend on the order they are drawn in: the first rows are copied.
    let (a, b) = (shape(n, heads), shape(packed.0.len(), heads));
    let (few, all) = (buffers(&gpu, &alone, a), buffers(&gpu, &packed, b));
    let mut rec = Recorder::new(&gpu);
    for (i, width) in [(0, 240), (1, 80), (2, 80), (5, 240)] {
        rec.copy(&all[i], 0, &few[i], 0, (n * width * 4) as u64);
    }
    for variant in [TILED, SUBGROUP].into_iter().filter(|v| runs(&gpu, v, 40)) {
        rec.force_variant(Some(variant));
        for (b, s) in [(&few, a), (&all, b)] {
            forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s).unwrap();
            backward(&mut rec, &args(b), s).unwrap();
        }
        rec.submit().unwrap();
        for (i, width) in [(3, 240), (4, 6), (9, 240), (10, 80), (11, 80)] {
            let read = |b: &[Buffer]| -> Vec<u32> { gpu.read(&b[i], 0, n * width).unwrap() };
            assert!(read(&few) == read(&all), "{variant}: buffer {i}");
        }
    }
}

/// Bits of out and lse over pages, as prefill or as a decode step, by a variant or by the one that is chosen.
fn paged_pass(
    gpu: &Gpu,
    (q, keys, meta): (&Buffer, Paged<'_>, &Buffer),
    s: Shape,
    variant: Option<&'static str>,
    decodes: bool,
) -> Vec<u32> {
    let width = s.heads * s.head_dim;
    let out = gpu.upload("out", &vec![f32::NAN; s.m * width]).unwrap();
    let lse = gpu.upload("lse", &vec![f32::NAN; s.m * s.heads]).unwrap();
    let mut rec = Recorder::new(gpu);
    rec.force_variant(variant);
    let run = if decodes {
        decode::decode_paged
    } else {
        forward_paged
    };
    run(&mut rec, q, keys, meta, &out, &lse, s).unwrap();
    rec.submit().unwrap();
    let bits: Vec<u32> = gpu.read(&out, 0, s.m * width).unwrap();
    assert!(bits.iter().all(|v| f32::from_bits(*v).is_finite()));
    [bits, gpu.read(&lse, 0, s.m * s.heads).unwrap()].concat()
}

/// Prompts over a cache in scattered pages, of f32 and of halves: the rows of a prompt in chunks, as prefill takes them, and rows that
/// go on after a prompt that they share.
#[test]
fn prompts_have_the_portable_bits() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    // Three prompts from position 0 and one that goes on after 40 cached positions, each in pages of its own.
    let mut meta: Vec<Meta> = Vec::new();
    for (start, first, end) in [(0, 0, 33), (40, 0, 5), (48, 40, 75), (128, 0, 64)] {
        meta.extend((first..end).map(|t| [start, 0, start, t]));
    }
    for (start, prefix, own, end) in [(48, 75, 192, 80), (48, 75, 208, 78), (0, 33, 224, 41)] {
        meta.extend((prefix..end).map(|t| [start, prefix, own, t]));
    }
    let pages = 32;
    let table: Vec<u32> = (0..pages as u32).map(|i| i * 7 % pages as u32).collect();
    let table = gpu.upload("table", &table).unwrap();
    let s = shape(meta.len(), (9, 3, 64));
    for dtype in [FloatDtype::Float32, FloatDtype::Float16] {
        let mut g = Gen::new(37);
        let q = gpu.upload("q", &g.uniform(s.m * 576, 4.0)).unwrap();
        let meta = gpu.upload("meta", &meta).unwrap();
        let [k, v] = [2.0, 1.0].map(|scale| {
            let words = stored(&g.uniform(pages * PAGE * s.kv_heads * s.head_dim, scale), dtype);
            gpu.upload("kv", &words).unwrap()
        });
        let kv = Stored { k: &k, v: &v, dtype };
        let operands = (&q, Paged { kv, pages: &table }, &meta);
        let want = paged_pass(&gpu, operands, s, Some(PORTABLE), false);
        for variant in [TILED, SUBGROUP]
            .into_iter()
            .filter(|v| runs(&gpu, v, s.head_dim))
        {
            let got = paged_pass(&gpu, operands, s, Some(variant), false);
            assert!(want == got, "{variant} {dtype}");
        }
    }
}

/// Whatever a decode step takes for its number of rows and heads: the portable kernel's bits. 64 query heads on one KV head are more than
/// `grouped` takes.
#[test]
fn decode_steps_have_the_portable_bits() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let (meta, pages) = decoded();
    let table: Vec<u32> = (0..pages as u32).rev().collect();
    let table = gpu.upload("table", &table).unwrap();
    for (heads, rows) in [((9, 3, 64), &[1, 2, 3, 17][..]), ((64, 1, 64), &[5])] {
        let mut g = Gen::new(41);
        let full = shape(meta.len(), heads);
        let q = g.uniform(full.m * full.heads * full.head_dim, 4.0);
        let kv = pages * PAGE * full.kv_heads * full.head_dim;
        let [k, v] = [2.0, 1.0].map(|scale| gpu.upload("kv", &g.uniform(kv, scale)).unwrap());
        for m in rows {
            let s = shape(*m, heads);
            let q = gpu.upload("q", &q[..m * s.heads * s.head_dim]).unwrap();
            let meta = gpu.upload("meta", &meta[..*m]).unwrap();
            let dtype = FloatDtype::Float32;
            let kv = Stored { k: &k, v: &v, dtype };
            let operands = (&q, Paged { kv, pages: &table }, &meta);
            let want = paged_pass(&gpu, operands, s, Some(PORTABLE), true);
            for variant in variants(&gpu, decode::OP, s.head_dim)
                .into_iter()
                .map(Some)
                .chain([None])
            {
                let got = paged_pass(&gpu, operands, s, variant, true);
                assert!(want == got, "{heads:?}, {m} rows, {variant:?}");
            }
        }
    }
}

/// A sequence whose values are not finite spoils no other: not the rows of its workgroup, nor those that share its prompt.
#[test]
fn what_is_not_finite_stays_in_its_sequence() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let layout = pack(&[(5, &[3, 2]), (9, &[]), (4, &[])]);
    let s = shape(layout.0.len(), (3, 1, 64));
    // The second response: rows 8 and 9.
    let spoilt = 8..10;
    for variant in variants(&gpu, FORWARD_OP, s.head_dim) {
        let [clean, spoilt_too] = [false, true].map(|spoil| {
            let b = buffers(&gpu, &layout, s);
            let mut rec = Recorder::new(&gpu);
            if spoil {
                for row in spoilt.clone() {
                    rec.write(&b[2], (row * s.head_dim * 4) as u64, &vec![f32::NAN; s.head_dim])
                        .unwrap();
                }
            }
            rec.force_variant(Some(variant));
            forward(&mut rec, &b[0], &b[1], &b[2], &b[6], &b[3], &b[4], s).unwrap();
            delta(&mut rec, &args(&b), s).unwrap();
            query_gradient(&mut rec, &args(&b), s).unwrap();
            rec.submit().unwrap();
            let width = s.heads * s.head_dim;
            [3, 9].map(|i| gpu.read::<u32>(&b[i], 0, s.m * width).unwrap())
        });
        let width = s.heads * s.head_dim;
        for (name, (a, b)) in ["out", "dq"].into_iter().zip(clean.iter().zip(&spoilt_too)) {
            for row in 0..s.m {
                let at = row * width..(row + 1) * width;
                let same = a[at.clone()] == b[at];
                assert_eq!(same, !spoilt.contains(&row), "{variant}: {name}, row {row}");
            }
        }
    }
}
