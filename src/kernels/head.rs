//! The fused vocabulary head: log-probability of a target, log-sum-exp and entropy of `hidden · Wᵀ`, and their
//! gradient, in chunks of [`CHUNK`] vocabulary columns. Tokens × vocabulary never exists in memory.
//!
//! A row is reduced chunk after chunk in an order that depends on the vocabulary alone, so decoding (which has the
//! few active rows' logits whole, [`row_stats`]) and scoring ([`log_probs`]) give the same bits.

use super::linear::{self, Write};
use super::reduce::lanes;
use super::weight::Weight;
use super::{Entry, MAX_GROUPS, fold, pad4};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Gpu, Kernel, Recorder, params, shaders};
use std::ops::Range;

#[path = "head_cases.rs"]
mod cases;
pub(super) use cases::work;

/// Vocabulary columns per chunk; weights are split at multiples of it.
pub const CHUNK: usize = 4096;
const _: () = assert!(super::weight::SHARD_ROWS == CHUNK);

/// Bytes of [`HeadBuffers`] a row: a chunk of logits, and four floats of state.
pub const ROW_BYTES: usize = CHUNK * 4 + 16;

static HEAD_REDUCE: Kernel = Kernel::portable("head_reduce", shaders!["head_reduce.wgsl"]);
static HEAD_FINISH: Kernel = Kernel::portable("head_finish", shaders!["head_finish.wgsl"]);
static HEAD_GRADIENT: Kernel = Kernel::portable("head_gradient", shaders!["head_gradient.wgsl"]);

params! {
    struct ReduceParams {
        m: u32,
        width: u32,
        stride4: u32,
        first_column: u32,
        flags: u32,
    }

    struct FinishParams {
        m: u32,
        mode: u32,
    }

    struct GradientParams {
        m: u32,
        width: u32,
        stride4: u32,
        first_column: u32,
    }
}

/// Scratch of the head for up to `rows_cap` rows; its contents mean nothing between calls.
#[derive(Debug, Clone)]
pub struct HeadBuffers {
    /// One chunk of logits, `(rows_cap, CHUNK)` f32.
    pub logits: Buffer,
    /// Running `(max, Σ e^(x−max), Σ (x−max)·e^(x−max), target's logit)`, `(rows_cap)` vec4 of f32.
    pub state: Buffer,
    rows_cap: usize,
}

impl HeadBuffers {
    /// Scratch for up to `rows_cap` rows.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, rows_cap: usize) -> Result<Self> {
        let row = |label: &str, bytes: usize| gpu.alloc(label, (rows_cap * bytes) as u64);
        Ok(Self {
            logits: row("head/logits", CHUNK * 4)?,
            state: row("head/state", 16)?,
            rows_cap,
        })
    }

    /// Rows it holds.
    pub fn rows_cap(&self) -> usize {
        self.rows_cap
    }

    fn check(&self, rows: usize) -> Result<()> {
        if rows <= self.rows_cap {
            return Ok(());
        }
        Err(Error::internal(format!(
            "head: {rows} rows where the buffers hold {}",
            self.rows_cap
        )))
    }
}

/// The chunks of a vocabulary of `v`, in order.
fn chunks(v: usize) -> impl Iterator<Item = Range<usize>> {
    (0..v).step_by(CHUNK).map(move |c| c..v.min(c + CHUNK))
}

fn reduce(
    rec: &mut Recorder,
    logits: &Buffer,
    targets: Option<&Buffer>,
    state: &Buffer,
    m: usize,
    columns: Range<usize>,
) -> Result<()> {
    let params = ReduceParams {
        m: m as u32,
        width: columns.len() as u32,
        stride4: (pad4(columns.len()) / 4) as u32,
        first_column: columns.start as u32,
        flags: u32::from(columns.start > 0) | u32::from(targets.is_some()) << 1,
    };
    let lanes = lanes(rec, 256);
    let bindings = [logits.into(), targets.into(), state.into()];
    rec.dispatch(
        &HEAD_REDUCE,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        fold(m, 1),
    )
}

fn finish(
    rec: &mut Recorder,
    state: &Buffer,
    lse: &Buffer,
    other: &Buffer,
    m: usize,
    mode: u32,
) -> Result<()> {
    let lanes = lanes(rec, 64);
    let params = FinishParams { m: m as u32, mode };
    let bindings = [Binding::from(state), lse.into(), other.into()];
    rec.dispatch(
        &HEAD_FINISH,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        fold(m, lanes),
    )
}

/// For each of the `p` rows of `hidden (P, C)` and its `targets (P) u32`: `logp (P) = (x_t − max) − log Σ e^(x−max)`,
/// `lse (P, 2) = (max, log Σ e^(x−max))` and `entropy (P) = −Σ softmax·log softmax` of the logits `x = hidden · wᵀ`,
/// `w (V, C)`; natural logarithms, temperature 1. Overwrites the outputs.
///
/// The two words of `lse` are never added: beside a large maximum the logarithm would be rounded away.
///
/// # Errors
/// More rows than `hb` holds (a bug), or a GPU error.
#[allow(clippy::too_many_arguments, reason = "inputs, outputs and scratch of one op")]
pub fn log_probs(
    rec: &mut Recorder,
    hb: &HeadBuffers,
    hidden: &Buffer,
    w: &Weight,
    targets: &Buffer,
    logp: &Buffer,
    lse: &Buffer,
    entropy: &Buffer,
    p: usize,
) -> Result<()> {
    hb.check(p)?;
    for range in chunks(w.rows) {
        linear::forward_rows(rec, hidden, w, range.clone(), None, &hb.logits, p, Write::SET)?;
        reduce(rec, &hb.logits, Some(targets), &hb.state, p, range)?;
    }
    finish(rec, &hb.state, lse, entropy, p, 0)?;
    finish(rec, &hb.state, lse, logp, p, 1)
}

/// The gradient of `Σ dlogp·logp` through [`log_probs`]: `dhidden (P, C)` is overwritten, `dw (V, C)` f32 is set or added to.
/// Recomputes each chunk's logits and turns them in place into `dlogp·(onehot − softmax)`; `lse` is the forward's.
///
/// # Errors
/// More rows than `hb` holds (a bug), or a GPU error.
#[allow(clippy::too_many_arguments, reason = "inputs, outputs and scratch of one op")]
pub fn gradient(
    rec: &mut Recorder,
    hb: &HeadBuffers,
    hidden: &Buffer,
    w: &Weight,
    targets: &Buffer,
    lse: &Buffer,
    dlogp: &Buffer,
    dhidden: &Buffer,
    dw: Option<(&Weight, Write)>,
    p: usize,
) -> Result<()> {
    hb.check(p)?;
    for range in chunks(w.rows) {
        linear::forward_rows(rec, hidden, w, range.clone(), None, &hb.logits, p, Write::SET)?;
        chunk_gradient(rec, hb, targets, lse, dlogp, p, &range)?;
        let write = if range.start == 0 { Write::SET } else { Write::ADD };
        linear::input_gradient_rows(rec, &hb.logits, w, range.clone(), dhidden, p, write)?;
        if let Some((dw, write)) = &dw {
            linear::weight_gradient_rows(rec, &hb.logits, hidden, dw, range, 0..p, *write)?;
        }
    }
    Ok(())
}

fn chunk_gradient(
    rec: &mut Recorder,
    hb: &HeadBuffers,
    targets: &Buffer,
    lse: &Buffer,
    dlogp: &Buffer,
    p: usize,
    range: &Range<usize>,
) -> Result<()> {
    let lanes = lanes(rec, 64);
    let stride4 = pad4(range.len()) / 4;
    let params = GradientParams {
        m: p as u32,
        width: range.len() as u32,
        stride4: stride4 as u32,
        first_column: range.start as u32,
    };
    let bindings = [targets.into(), lse.into(), dlogp.into(), (&hb.logits).into()];
    let groups = [
        stride4.div_ceil(lanes) as u32,
        p.min(MAX_GROUPS) as u32,
        p.div_ceil(MAX_GROUPS) as u32,
    ];
    rec.dispatch(
        &HEAD_GRADIENT,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        groups,
    )
}

/// `lse (M, 2)` and `entropy (M)` of whole rows of `logits (M, V)`, stride `pad4(V)`: the bits that [`log_probs`] gives
/// for the same logits. Uses only `hb`'s state.
///
/// # Errors
/// More rows than `hb` holds (a bug), or a GPU error.
pub fn row_stats(
    rec: &mut Recorder,
    hb: &HeadBuffers,
    logits: &Buffer,
    lse: &Buffer,
    entropy: &Buffer,
    m: usize,
    v: usize,
) -> Result<()> {
    hb.check(m)?;
    reduce(rec, logits, None, &hb.state, m, 0..v)?;
    finish(rec, &hb.state, lse, entropy, m, 0)
}

/// Float64 twin of [`log_probs`] for one row of logits: `(logp, lse, entropy)`, lse as its two words.
pub fn log_probs_twin(logits: &[f64], target: usize) -> (f64, [f64; 2], f64) {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| libm::exp(x - top)).sum();
    let weighted: f64 = logits.iter().map(|x| (x - top) * libm::exp(x - top)).sum();
    let log_sum = libm::log(sum);
    (
        logits[target] - top - log_sum,
        [top, log_sum],
        log_sum - weighted / sum,
    )
}

/// Float64 twin of [`gradient`]'s dlogits for one row: `dlogp·(onehot − softmax)`, by the row's lse.
pub fn dlogits_twin(logits: &[f64], [top, log_sum]: [f64; 2], target: usize, dlogp: f64) -> Vec<f64> {
    (logits.iter().enumerate())
        .map(|(i, x)| dlogp * (f64::from(u8::from(i == target)) - libm::exp(x - top - log_sum)))
        .collect()
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&HEAD_REDUCE, cases::log_probs),
        Entry::new(&HEAD_FINISH, cases::row_stats),
        Entry::new(&HEAD_GRADIENT, cases::gradient),
    ]
}
