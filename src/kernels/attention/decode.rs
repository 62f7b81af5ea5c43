//! Attention of decoded rows: each is the next token of a sequence of its own, and the rows of a group read the same prompt.
//!
//! `grouped` gives the portable kernel's bits, so that the choice may follow the adapter: a workgroup of 128 threads takes neighbouring
//! rows and one KV head, reads the keys and values that its rows share once for all of them, and has a thread a score and a thread
//! four elements of an output, where the portable kernel has a thread a row and head. On a CPU adapter, whose threads are loops with
//! barriers between them, it is the slower one.

use super::{Op, PAGE, Paged, Params, Shape, run_portable, subgroup, tiled};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Buffer, DeviceKind, Kernel, Recorder, Value, shaders};

/// The op's name among variants and benches.
pub const OP: &str = "attention_decode";
/// The variant every op has.
pub(super) const PORTABLE: &str = "portable";
/// The variant for GPUs.
pub(super) const GROUPED: &str = "grouped";
macro_rules! grouped_kernel {
    ($name:literal, $half:literal) => {
        Kernel::portable(
            $name,
            shaders![
                "attention_decode_grouped.wgsl",
                "shared/attention_kv.wgsl",
                "shared/attention_rows.wgsl",
                "shared/attention_params.wgsl",
                "shared/attention_math.wgsl",
            ],
        )
        .with(&[("PAGED", Value::Flag(true)), ("HALF", Value::Flag($half))])
    };
}
pub(super) static GROUPED_F32: Kernel = grouped_kernel!("attention_decode_grouped", false);
pub(super) static GROUPED_F16: Kernel = grouped_kernel!("attention_decode_grouped_f16", true);

/// Threads of a workgroup (`LANES` of the shader), and vec4s of sums each holds at most.
const LANES: usize = 128;
const ACCS: usize = 8;
/// vec4s of workgroup memory for a tile, and scores beside it.
const TILE: usize = 512;
const SCORES: usize = 1536;
/// Rows of a workgroup where its memory has room for them: a guess, made without a GPU at hand. More rows read a shared prompt
/// less often, fewer make more workgroups.
const ROWS: usize = 8;

/// Rows up to which a CPU adapter takes `subgroup-8`, which walks the keys of each row in turn, where the portable kernel walks those
/// of eight rows at once: half the portable kernel's time for one row and for two, up to three times as much for sixteen.
const FEW_ROWS: usize = 2;

/// What a workgroup takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) keys: usize,
    /// Of the queries (rows times query heads of a KV head), those that one lane adds up.
    pub(super) shares: usize,
}

impl Sizes {
    /// `None` where a KV head has so many query heads that not even one row's fit, or heads are too wide.
    pub(super) fn of(s: Shape, most_rows: usize) -> Option<Self> {
        if s.head_dim > 256 {
            return None;
        }
        let d4 = s.head_dim / 4;
        let keys = (TILE / d4 / 8 * 8).min(32);
        // A lane adds up a query's four elements of D.
        let apart = LANES / d4;
        let queries = (SCORES / keys).min(ACCS * apart).min(48);
        let heads = s.heads / s.kv_heads;
        let rows = (queries / heads).min(most_rows);
        (rows > 0).then(|| Self {
            rows,
            keys,
            shares: (rows * heads).div_ceil(apart),
        })
    }
}

/// The variant to run: the forced one, else by the kind of adapter; the portable one where the lanes are forced. In place of the portable one
/// [`decode_paged`] may still take what [`forward_paged`](super::forward_paged) would.
pub(super) fn choose(rec: &Recorder) -> &'static str {
    let caps = rec.gpu().caps();
    let own = super::forced(rec, OP).filter(|name| *name != subgroup::SUBGROUP);
    own.unwrap_or(match caps.kind {
        DeviceKind::Cpu => PORTABLE,
        _ if caps.forced_lanes.is_some() => PORTABLE,
        _ => GROUPED,
    })
}

/// As [`forward_paged`](super::forward_paged), to the bit, for rows that are decoded: as few as there are sequences, those of a group
/// next to each other.
///
/// # Errors
/// `head_dim` is above 256, or a GPU error.
pub fn decode_paged(
    rec: &mut Recorder,
    q: &Buffer,
    keys: Paged<'_>,
    meta: &Buffer,
    out: &Buffer,
    lse: &Buffer,
    shape: Shape,
) -> Result<()> {
    if let Some(sizes) = Sizes::of(shape, ROWS).filter(|_| choose(rec) == GROUPED) {
        return grouped(rec, q, keys, meta, (out, lse), shape, sizes);
    }
    let (op, bindings) = (Op::Paged(keys.kv.dtype), keys.bindings(q, [meta, out, lse]));
    if tiled::run(rec, op, &bindings, shape)? {
        return Ok(());
    }
    let few = shape.m <= FEW_ROWS || rec.forced_variant() == Some(subgroup::SUBGROUP);
    if few && subgroup::run(rec, op, &bindings, shape)? {
        return Ok(());
    }
    run_portable(rec, op, &bindings, shape)
}

/// The grouped variant with given sizes.
pub(super) fn grouped(
    rec: &mut Recorder,
    q: &Buffer,
    keys: Paged<'_>,
    meta: &Buffer,
    (out, lse): (&Buffer, &Buffer),
    s: Shape,
    sizes: Sizes,
) -> Result<()> {
    let bindings = keys.bindings(q, [meta, out, lse]);
    let kernel = match keys.kv.dtype {
        FloatDtype::Float32 => &GROUPED_F32,
        FloatDtype::Float16 => &GROUPED_F16,
    };
    let constants = [
        ("D4", (s.head_dim / 4) as f64),
        ("ROWS", sizes.rows as f64),
        ("KEYS", sizes.keys as f64),
        ("SHARES", sizes.shares as f64),
        ("PAGE", PAGE as f64),
    ];
    let groups = [s.m.div_ceil(sizes.rows) as u32, s.kv_heads as u32, 1];
    rec.dispatch(kernel, &constants, &Params::of(s), &bindings, groups)
}
