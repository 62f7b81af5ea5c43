//! Cases of attention, and the layouts they are made of.

use super::super::harness::{Case, Gen, RecordFn, Slot, Tol, wide};
use super::super::kv::{Stored, read_back, stored};
use super::super::work::{Phase, Rate, Sizes, Wanted, Work};
use super::decode::{self, PORTABLE};
use super::portable::HEADS;
use super::twin::{self, Meta};
use super::{BackwardArgs, FORWARD_OP, PAGE, Paged, Shape};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Buffer, Recorder};
use crate::tensor::DType;

/// A prompt and its responses; without responses, a plain sequence.
pub(super) type Group = (u32, &'static [u32]);

/// Packs groups one after another: prompt once, then the responses. Returns meta and key_ends.
pub(super) fn pack(groups: &[Group]) -> (Vec<Meta>, Vec<u32>) {
    let (mut meta, mut ends) = (Vec::new(), Vec::new());
    for (prompt, responses) in groups {
        let start = meta.len() as u32;
        let end = start + prompt + responses.iter().sum::<u32>();
        meta.extend((0..*prompt).map(|t| [start, 0, start, t]));
        ends.extend((0..*prompt).map(|_| end));
        for length in *responses {
            let own = meta.len() as u32;
            meta.extend((0..*length).map(|t| [start, *prompt, own, prompt + t]));
            ends.extend((0..*length).map(|_| own + length));
        }
    }
    (meta, ends)
}

/// One decode row a response over a cache of `rows` rows: groups of three share a prefix, own ranges are scattered.
pub(super) fn decode(m: u32, rows: u32, g: &mut Gen) -> Vec<Meta> {
    let draws = g.below(3 * m as usize, rows / 2);
    let row = |i: u32| {
        let prefix = draws[i as usize / 3 * 3];
        let length = 3 + 7 * (i / 3 % 3);
        let generated = draws[(m + i) as usize] % 21;
        [
            prefix,
            length,
            draws[(2 * m + i) as usize] + rows / 4,
            length + generated,
        ]
    };
    (0..m).map(row).collect()
}

/// Groups of decoded rows: the tokens of a prompt, and how many each of its rows has written after it.
const GROUPS: [(u32, &[u32]); 6] = [
    (70, &[0, 1, 2, 25, 33, 7, 8, 9, 63, 0, 31]),
    (9, &[3, 14, 0]),
    (1, &[0]),
    (64, &[5]),
    (128, &[17, 17, 40, 2, 11]),
    (33, &[0, 90]),
];

/// Where the rows of [`GROUPS`] find their keys, each range in pages of its own, and how many pages that takes.
pub(super) fn decoded() -> (Vec<Meta>, usize) {
    let (mut meta, mut pages) = (Vec::new(), 0);
    let mut take = |tokens: u32| {
        let at = pages * PAGE as u32;
        pages += tokens.div_ceil(PAGE as u32);
        at
    };
    for (prompt, rows) in GROUPS {
        let start = take(prompt);
        for own in rows {
            meta.push([start, prompt, take(own + 1), prompt + own]);
        }
    }
    (meta, pages as usize)
}

pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) groups: &'static [Group],
    /// (H, KV, D)
    pub(super) heads: (usize, usize, usize),
    /// |q|
    pub(super) scale: f32,
}

const fn spec(
    name: &'static str,
    groups: &'static [Group],
    heads: (usize, usize, usize),
    scale: f32,
) -> Spec {
    Spec {
        name,
        groups,
        heads,
        scale,
    }
}

pub(super) const SPECS: &[Spec] = &[
    spec("one token", &[(1, &[])], (1, 1, 16), 1.0),
    spec("7", &[(7, &[])], (6, 2, 24), 1.0),
    spec("33", &[(33, &[])], (9, 3, 64), 3.0),
    spec("130", &[(130, &[])], (1, 1, 40), 1.0),
    spec(
        "packed",
        &[(5, &[]), (1, &[]), (17, &[]), (33, &[]), (8, &[])],
        (6, 2, 40),
        1.0,
    ),
    spec("shared prefix", &[(5, &[1, 4, 9])], (9, 3, 16), 1.0),
    spec(
        "two groups",
        &[(11, &[20, 3, 8]), (16, &[1, 9]), (3, &[])],
        (6, 2, 64),
        1.0,
    ),
    spec("large logits", &[(9, &[30, 7])], (2, 1, 64), 100.0),
    spec("wide heads", &[(13, &[5, 21])], (4, 2, 128), 1.0),
    spec("wide heads 100", &[(19, &[])], (2, 2, 100), 1.0),
    spec("widest heads", &[(10, &[3, 6])], (2, 1, 256), 1.0),
];

/// Decode rows: (M, cache rows, heads).
pub(super) const DECODES: &[(u32, u32, (usize, usize, usize))] = &[
    (1, 97, (9, 3, 64)),
    (9, 211, (6, 2, 40)),
    (37, 211, (9, 3, 64)),
    (5, 97, (4, 1, 128)),
];

fn in_class(class: usize, dim: usize) -> bool {
    HEADS.iter().position(|d| dim <= *d) == Some(class)
}

pub(super) fn shape(m: usize, (heads, kv_heads, head_dim): (usize, usize, usize)) -> Shape {
    Shape {
        m,
        heads,
        kv_heads,
        head_dim,
        scale: (1.0 / (head_dim as f64).sqrt()) as f32,
    }
}

/// Errors of a score shift its probability by as much: they grow with the scores.
fn tol(want: &[f64], scale: f32) -> Tol {
    let fraction = 4e-6 * f64::from(scale.max(1.0)).max(1.0);
    Tol::of_peak(
        want,
        fraction,
        "f32 sums over D and keys; a score's rounding becomes its probability's",
    )
}

pub(super) fn forward<const CLASS: usize>() -> Vec<Case> {
    let packed = SPECS.iter().map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        forward_case(s.name.into(), meta, rows, s.heads, s.scale)
    });
    let decoded = DECODES.iter().map(|(m, rows, heads)| {
        let meta = decode(*m, *rows, &mut Gen::new((m + rows).into()));
        forward_case(format!("decode {m} rows"), meta, *rows as usize, *heads, 1.0)
    });
    // One row of each case would do for the class; the name says the head dimension.
    let all = packed.chain(decoded);
    all.filter(|(dim, _)| in_class(CLASS, *dim))
        .map(|(_, c)| c.forced(PORTABLE))
        .collect()
}

pub(super) fn forward_case(
    name: String,
    meta: Vec<Meta>,
    rows: usize,
    heads: (usize, usize, usize),
    scale: f32,
) -> (usize, Case) {
    let s = shape(meta.len(), heads);
    let mut g = Gen::new((s.m * 7 + s.head_dim) as u64);
    let q = g.uniform(s.m * s.heads * s.head_dim, scale);
    let kv = rows * s.kv_heads * s.head_dim;
    let (k, v) = (g.uniform(kv, 2.0), g.uniform(kv, 1.0));
    let keys: f64 = meta.iter().map(|t| f64::from(t[3] + 1)).sum();
    let case = Case {
        name: format!(
            "attention_forward {name} h{} kv{} d{}",
            s.heads, s.kv_heads, s.head_dim
        ),
        slots: vec![
            Slot::input(&q),
            Slot::input(&k),
            Slot::input(&v),
            Slot::input(&meta),
            Slot::Out(q.len()),
            Slot::Out(s.m * s.heads),
        ],
        record: Box::new(move |rec, b| super::forward(rec, &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], s)),
        expect: Box::new(move || {
            let (out, lse) = twin::forward(&wide(&q), &wide(&k), &wide(&v), &meta, s);
            let (a, b) = (tol(&out, scale), tol(&lse, scale));
            vec![(4, out, a), (5, lse, b)]
        }),
        flops: 4.0 * keys * (s.heads * s.head_dim) as f64,
    };
    (s.head_dim, case)
}

/// A page table of `pages` pages of a cache of as many: a permutation.
fn scattered(pages: usize, g: &mut Gen) -> Vec<u32> {
    let mut table: Vec<u32> = (0..pages as u32).collect();
    let draws = g.below(pages, u32::MAX);
    table.sort_by_key(|p| draws[*p as usize]);
    table
}

pub(super) fn forward_paged<const CLASS: usize>() -> Vec<Case> {
    portable_cases(CLASS, FloatDtype::Float32)
}

pub(super) fn forward_paged_f16<const CLASS: usize>() -> Vec<Case> {
    portable_cases(CLASS, FloatDtype::Float16)
}

fn portable_cases(class: usize, dtype: FloatDtype) -> Vec<Case> {
    let all = paged_cases(class, dtype).into_iter();
    all.map(|case| case.forced(PORTABLE)).collect()
}

/// The cases of [`forward`], their keys and values in scattered pages.
fn paged_cases(class: usize, dtype: FloatDtype) -> Vec<Case> {
    // What depends on the element type is how a key is read: halves take one packed case of each class. A pipeline is slow to make on
    // some software drivers.
    let few = ["shared prefix", "wide heads", "widest heads"];
    let taken = |s: &&Spec| in_class(class, s.heads.2) && (!dtype.is_half() || few.contains(&s.name));
    let packed = SPECS.iter().filter(taken).map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        paged_case(s.name, (meta, rows), s.heads, s.scale, dtype)
    });
    let decodes = DECODES.iter().filter(|(_, _, heads)| in_class(class, heads.2));
    packed.chain(decodes.map(|d| decode_case(d, dtype))).collect()
}

fn decode_case((m, rows, heads): &(u32, u32, (usize, usize, usize)), dtype: FloatDtype) -> Case {
    let meta = decode(*m, *rows, &mut Gen::new((m + rows).into()));
    let name = format!("decode {m} rows");
    paged_case(&name, (meta, *rows as usize), *heads, 1.0, dtype)
}

/// Decoded rows by the grouped kernel, beside them groups whose prompts are longer than a tile.
fn grouped_cases(dtype: FloatDtype) -> Vec<Case> {
    let groups = [(9, 3, 64), (6, 2, 40)].map(|heads| {
        let (meta, pages) = decoded();
        paged_case("groups", (meta, pages * PAGE), heads, 1.0, dtype)
    });
    let all = DECODES.iter().map(|d| decode_case(d, dtype)).chain(groups);
    let named = all.map(|case| Case {
        name: case
            .name
            .replace("attention_forward_paged", "attention_decode_grouped"),
        ..case
    });
    named.map(|case| case.forced(decode::GROUPED)).collect()
}

pub(super) fn decode_grouped() -> Vec<Case> {
    grouped_cases(FloatDtype::Float32)
}

pub(super) fn decode_grouped_f16() -> Vec<Case> {
    grouped_cases(FloatDtype::Float16)
}

pub(super) fn paged_case(
    name: &str,
    (meta, rows): (Vec<Meta>, usize),
    heads: (usize, usize, usize),
    scale: f32,
    dtype: FloatDtype,
) -> Case {
    let s = shape(meta.len(), heads);
    let mut g = Gen::new((s.m * 13 + s.head_dim) as u64);
    let q = g.uniform(s.m * s.heads * s.head_dim, scale);
    let width = s.kv_heads * s.head_dim;
    let pages = scattered(rows.div_ceil(PAGE), &mut g);
    let kv = pages.len() * PAGE * width;
    let (k, v) = (g.uniform(kv, 2.0), g.uniform(kv, 1.0));
    let keys: f64 = meta.iter().map(|t| f64::from(t[3] + 1)).sum();
    Case {
        name: format!(
            "attention_forward_paged {dtype} {name} h{} kv{} d{}",
            s.heads, s.kv_heads, s.head_dim
        ),
        slots: vec![
            Slot::input(&q),
            Slot::input(&stored(&k, dtype)),
            Slot::input(&stored(&v, dtype)),
            Slot::input(&meta),
            Slot::input(&pages),
            Slot::Out(q.len()),
            Slot::Out(s.m * s.heads),
        ],
        record: Box::new(move |rec, b| {
            let (k, v) = (&b[1], &b[2]);
            let keys = Paged {
                kv: Stored { k, v, dtype },
                pages: &b[4],
            };
            decode::decode_paged(rec, &b[0], keys, &b[3], &b[5], &b[6], s)
        }),
        expect: Box::new(move || {
            let in_order = |kv: &[f32]| twin::unpaged(&read_back(kv, dtype), &pages, width);
            let (out, lse) = twin::forward(&wide(&q), &in_order(&k), &in_order(&v), &meta, s);
            let (a, b) = (tol(&out, scale), tol(&lse, scale));
            vec![(5, out, a), (6, lse, b)]
        }),
        flops: 4.0 * keys * (s.heads * s.head_dim) as f64,
    }
}

/// Names the buffers of a backward case.
pub(super) fn args(b: &[Buffer]) -> BackwardArgs<'_> {
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

pub(super) type Part = fn(&mut Recorder, &BackwardArgs<'_>, Shape) -> Result<()>;

pub(super) fn delta() -> Vec<Case> {
    SPECS
        .iter()
        .map(|s| backward_case(s, "delta", &[8], 2.0, super::delta))
        .collect()
}

pub(super) fn query_gradient<const CLASS: usize>() -> Vec<Case> {
    class_cases(CLASS, "query_gradient", &[9], 6.0, super::query_gradient)
}

pub(super) fn key_gradient<const CLASS: usize>() -> Vec<Case> {
    class_cases(CLASS, "key_gradient", &[10], 6.0, super::key_gradient)
}

pub(super) fn value_gradient<const CLASS: usize>() -> Vec<Case> {
    class_cases(CLASS, "value_gradient", &[11], 4.0, super::value_gradient)
}

fn class_cases(class: usize, name: &str, outputs: &[usize], flops: f64, part: Part) -> Vec<Case> {
    let specs = SPECS.iter().filter(|s| in_class(class, s.heads.2));
    let cases = specs.map(|s| backward_case(s, name, outputs, flops, part));
    cases.map(|case| case.forced(PORTABLE)).collect()
}

/// A case of parts of the backward pass, which set `outputs`; what other parts produce is given.
pub(super) fn backward_case(spec: &Spec, name: &str, outputs: &[usize], flops: f64, part: Part) -> Case {
    let (meta, ends) = pack(spec.groups);
    let s = shape(meta.len(), spec.heads);
    let mut g = Gen::new((s.m * 11 + s.head_dim) as u64);
    let (nq, nkv) = (s.m * s.heads * s.head_dim, s.m * s.kv_heads * s.head_dim);
    let (q, k, v) = (
        g.uniform(nq, spec.scale),
        g.uniform(nkv, 2.0),
        g.uniform(nkv, 1.0),
    );
    let dout = g.uniform(nq, 1.0);
    let (out, lse) = twin::forward(&wide(&q), &wide(&k), &wide(&v), &meta, s);
    let r = twin::backward(&wide(&q), &wide(&k), &wide(&v), &wide(&dout), &meta, s);
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let mut slots = vec![
        Slot::input(&q),
        Slot::input(&k),
        Slot::input(&v),
        Slot::input(&narrow(&out)),
        Slot::input(&narrow(&lse)),
        Slot::input(&dout),
        Slot::input(&meta),
        Slot::input(&ends),
        Slot::input(&narrow(&r.delta)),
        Slot::Out(nq),
        Slot::Out(nkv),
        Slot::Out(nkv),
    ];
    if outputs.contains(&8) {
        slots[8] = Slot::Out(s.m * s.heads);
    }
    let keys: f64 = meta.iter().map(|t| f64::from(t[3] + 1)).sum();
    let all = [(8, r.delta), (9, r.dq), (10, r.dk), (11, r.dv)].into_iter();
    let want: Vec<(usize, Vec<f64>)> = all.filter(|(slot, _)| outputs.contains(slot)).collect();
    let scale = spec.scale;
    let record: RecordFn = Box::new(move |rec, b| part(rec, &args(b), s));
    Case {
        name: format!(
            "attention_{name} {} h{} kv{} d{}",
            spec.name, s.heads, s.kv_heads, s.head_dim
        ),
        slots,
        record,
        expect: Box::new(move || {
            let one = |(slot, want): &(usize, Vec<f64>)| (*slot, want.clone(), tol(want, scale));
            want.iter().map(one).collect()
        }),
        flops: flops * keys * (s.heads * s.head_dim) as f64,
    }
}

/// Tokens of a training sequence.
const SEQUENCE: u32 = 128;
/// The rows of a micro-batch.
const PACKED: &[Group] = &[(SEQUENCE, &[] as &[u32]); 8];
/// Cached tokens that a decoded group shares, and that each of its rows has of its own.
const SHARED: u32 = 448;
const OWN: u32 = 64;
/// Rows of a group in decoding.
const GROUP: u32 = 16;

/// Where the rows of a decoded batch find their keys, and how many keys there are.
fn decoded_batch(m: u32) -> (Vec<Meta>, usize) {
    let groups = m.div_ceil(GROUP);
    let row = |i| {
        [
            i / GROUP * SHARED,
            SHARED,
            groups * SHARED + i * OWN,
            SHARED + OWN - 1,
        ]
    };
    ((0..m).map(row).collect(), (groups * SHARED + m * OWN) as usize)
}

/// What a model asks of the ops: a prompt, packed training sequences forward and backward, and decoding over a cache that a
/// group shares.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for (sizes, phase) in wanted.rows() {
        let of = |op, call: Call| {
            let variants = super::variants(wanted.gpu, op, sizes.head_dim);
            let one = move |variant| call.work(op, variant, sizes, phase);
            variants.into_iter().map(one).collect::<Vec<_>>()
        };
        match phase {
            Phase::Prefill => all.extend(of(FORWARD_OP, Call::Forward(&[(512, &[])]))),
            Phase::Training => {
                all.extend(of(FORWARD_OP, Call::Forward(PACKED)));
                all.extend(of(super::BACKWARD_OP, Call::Backward(PACKED)));
            }
            Phase::Decode(_) => {
                for dtype in [FloatDtype::Float32, FloatDtype::Float16] {
                    all.extend(of(decode::OP, Call::Decode(dtype)));
                }
            }
        }
    }
    all
}

/// One call of a model.
#[derive(Clone, Copy)]
enum Call {
    Forward(&'static [Group]),
    Backward(&'static [Group]),
    /// With keys and values of this type.
    Decode(FloatDtype),
}

impl Call {
    fn work(self, op: &'static str, variant: &'static str, sizes: Sizes, phase: Phase) -> Work {
        let (h, kv, d) = (sizes.heads, sizes.kv_heads, sizes.head_dim);
        let heads = (h, kv, d);
        let (meta, key_rows) = match self {
            Self::Decode(_) => decoded_batch(phase.rows() as u32),
            Self::Forward(groups) | Self::Backward(groups) => (pack(groups).0, phase.rows()),
        };
        let pairs = meta.iter().map(|m| f64::from(m[3] + 1)).sum::<f64>() * h as f64;
        let (rows, keys) = ((meta.len() * h * d) as f64, (key_rows * kv * d) as f64);
        // q and out, k and v; backward reads out, dout and lse besides and writes three gradients. Scores and the sum over values are
        // two products; backward has four more, and computes the scores again.
        let (products, bytes) = match self {
            Self::Forward(_) => (2.0, 8.0 * (rows + keys)),
            Self::Decode(dtype) => (2.0, 8.0 * rows + 2.0 * keys * dtype.bytes() as f64),
            Self::Backward(_) => (5.0, 16.0 * (rows + keys)),
        };
        let context = match phase {
            Phase::Decode(_) => format!("context {SHARED} shared + {OWN}"),
            Phase::Prefill => "one prompt".into(),
            Phase::Training => format!("sequences of {SEQUENCE}"),
        };
        let half = matches!(self, Self::Decode(dtype) if dtype.is_half());
        Work {
            op: op.into(),
            variant,
            dtype: half.then_some(DType::F16),
            model: sizes.name,
            phase,
            shape: format!("{} rows, {h}/{kv}×{d} heads, {context}", meta.len()),
            flops: products * 2.0 * d as f64 * pairs,
            bytes,
            memory: bytes,
            rate: Rate::F32,
            build: Box::new(move || {
                let case = match self {
                    Self::Forward(_) => forward_case(String::new(), meta.clone(), key_rows, heads, 1.0).1,
                    Self::Decode(dtype) => paged_case("", (meta.clone(), key_rows), heads, 1.0, dtype),
                    Self::Backward(groups) => backward_case(
                        &spec("", groups, heads, 1.0),
                        "backward",
                        &[9, 10, 11],
                        10.0,
                        super::backward,
                    ),
                };
                Ok(case.forced(variant))
            }),
        }
    }
}
