//! Sampling on the GPU: temperature, then top-k, top-p and min-p (the order of Hugging Face transformers), then one
//! draw by the Gumbel-max trick with counter-based random bits.
//!
//! A draw is a pure function of the row's logits, key and position: what else is in the batch does not matter.

use super::reduce::lanes;
use super::{Entry, fold, pad4};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Kernel, Recorder, params, shaders};
use crate::rng::philox4x32;

#[path = "sample_cases.rs"]
mod cases;
pub(super) use cases::work;

static SAMPLE_THRESHOLD: Kernel = Kernel::portable(
    "sample_threshold",
    shaders![
        "sample_threshold.wgsl",
        "shared/row_reduce.wgsl",
        "shared/sortable.wgsl"
    ],
);
static SAMPLE_DRAW: Kernel = Kernel::portable(
    "sample_draw",
    shaders!["sample_draw.wgsl", "shared/philox.wgsl", "shared/sortable.wgsl"],
);

/// The token of a row that is not active.
pub const NO_TOKEN: u32 = u32::MAX;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleParams {
    /// Temperature; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens (and those as likely as the k-th); 0 is off.
    pub top_k: u32,
    /// Keep the most likely tokens until they hold this much of the probability; 1 is off.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 is off.
    pub min_p: f32,
}

impl SampleParams {
    /// Temperature 1, no filter: the policy itself.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
    /// The most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        ..Self::PLAIN
    };

    /// Whether draws follow the policy itself (temperature 1, no filter).
    pub fn is_policy(&self) -> bool {
        self.temperature == 1.0 && !self.filters()
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// A user error that names the flag.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::user(format!(
                "--temperature is {}: it must be 0 (greedy) or a positive number",
                self.temperature
            )));
        }
        if self.temperature > 0.0 && self.temperature < 1e-4 {
            return Err(Error::user(format!(
                "--temperature is {}: below 1e-4 the division overflows; use 0 for greedy decoding",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::user(format!(
                "--top-p is {}: it must be above 0 and at most 1 (1 is off)",
                self.top_p
            )));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(Error::user(format!(
                "--min-p is {}: it must be from 0 (off) to 1",
                self.min_p
            )));
        }
        Ok(())
    }

    fn greedy(&self) -> bool {
        self.temperature == 0.0
    }

    fn filters(&self) -> bool {
        !self.greedy() && (self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0)
    }

    /// `T·ln(min_p)`: how far below the maximum a logit may be; 1 where min-p is off.
    fn min_p_drop(&self) -> f64 {
        match f64::from(self.min_p) {
            p if p > 0.0 => f64::from(self.temperature) * libm::log(p),
            _ => 1.0,
        }
    }

    fn inverse_temperature(&self) -> f32 {
        if self.greedy() {
            1.0
        } else {
            1.0 / self.temperature
        }
    }
}

impl Default for SampleParams {
    fn default() -> Self {
        Self::PLAIN
    }
}

params! {
    struct ThresholdParams {
        m: u32,
        v: u32,
        stride: u32,
        top_k: u32,
        inverse_temperature: f32,
        top_p: f32,
        min_p_drop: f32,
    }

    struct DrawParams {
        m: u32,
        v: u32,
        stride4: u32,
        flags: u32,
        inverse_temperature: f32,
    }
}

/// Draws one token a row.
///
/// * `logits (M, V)` with stride `pad4(V)`, at temperature 1; `lse (M, 2)` their maximum and
///   `log Σ e^(x−max)` ([`head::row_stats`](super::head::row_stats));
/// * `keys (M)` vec4 of u32: Philox key (2), position, active;
/// * `token (M)` u32 and `logp (M)` f32 are overwritten: the drawn token and its natural-log probability at
///   temperature 1 over the whole vocabulary, `(logit − max) − log Σ e^(x−max)` (the bits of
///   [`head::log_probs`](super::head::log_probs)); [`NO_TOKEN`] and 0 where the row is not active;
/// * `threshold (M)` u32 is scratch, used by the filters.
///
/// Filters keep or drop equal logits together: ties at a threshold are kept. min-p of 1 keeps the maximum alone.
///
/// # Errors
/// A GPU error.
#[allow(clippy::too_many_arguments, reason = "inputs, outputs and scratch of one op")]
pub fn sample(
    rec: &mut Recorder,
    logits: &Buffer,
    lse: &Buffer,
    keys: &Buffer,
    token: &Buffer,
    logp: &Buffer,
    threshold: &Buffer,
    m: usize,
    v: usize,
    params: &SampleParams,
) -> Result<()> {
    let lanes = lanes(rec, 256);
    let constants = [("LANES", lanes as f64)];
    if params.filters() {
        let p = ThresholdParams {
            m: m as u32,
            v: v as u32,
            stride: pad4(v) as u32,
            top_k: params.top_k,
            inverse_temperature: params.inverse_temperature(),
            top_p: params.top_p,
            min_p_drop: match params.min_p {
                1.0.. => -f32::MIN_POSITIVE,
                _ => params.min_p_drop() as f32,
            },
        };
        let bindings = [Binding::from(logits), keys.into(), threshold.into()];
        rec.dispatch(&SAMPLE_THRESHOLD, &constants, &p, &bindings, fold(m, 1))?;
    }
    let p = DrawParams {
        m: m as u32,
        v: v as u32,
        stride4: (pad4(v) / 4) as u32,
        flags: u32::from(params.greedy()) | u32::from(params.filters()) << 1,
        inverse_temperature: params.inverse_temperature(),
    };
    let bindings = [
        Binding::from(logits),
        lse.into(),
        keys.into(),
        params.filters().then_some(threshold).into(),
        token.into(),
        logp.into(),
    ];
    rec.dispatch(&SAMPLE_DRAW, &constants, &p, &bindings, fold(m, 1))
}

/// Float64 twin of the filters: which tokens stay.
pub fn kept_twin(logits: &[f32], params: &SampleParams) -> Vec<bool> {
    let v = logits.len();
    let mut kept = vec![true; v];
    if !params.filters() {
        return kept;
    }
    let mut order: Vec<usize> = (0..v).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let top = f64::from(logits[order[0]]);
    let mass = |i: usize| libm::exp((f64::from(logits[i]) - top) / f64::from(params.temperature));
    if params.top_k > 0 && (params.top_k as usize) < v {
        let bound = logits[order[params.top_k as usize - 1]];
        (0..v).for_each(|i| kept[i] &= logits[i] >= bound);
    }
    if params.top_p < 1.0 {
        let inside: Vec<usize> = order.iter().copied().filter(|i| kept[*i]).collect();
        let total: f64 = inside.iter().map(|i| mass(*i)).sum();
        for &i in &inside {
            let above: f64 = (inside.iter().filter(|j| logits[**j] > logits[i]))
                .map(|j| mass(*j))
                .sum();
            kept[i] = above < f64::from(params.top_p) * total;
        }
    }
    if params.min_p > 0.0 {
        let bound = top + params.min_p_drop();
        (0..v).for_each(|i| kept[i] &= f64::from(logits[i]) >= bound);
    }
    kept
}

/// Float64 twin of a draw from one row: the token, and by how much its score beats the next one.
pub fn draw_twin(logits: &[f32], key: [u32; 2], position: u32, params: &SampleParams) -> (usize, f64) {
    let kept = kept_twin(logits, params);
    let (mut best, mut second) = ((0, f64::NEG_INFINITY), f64::NEG_INFINITY);
    for (v, x) in logits.iter().enumerate().filter(|(v, _)| kept[*v]) {
        let score = if params.greedy() {
            f64::from(*x)
        } else {
            let bits = philox4x32([v as u32 / 4, position, 0, 0], key)[v % 4];
            let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
            f64::from(*x) / f64::from(params.temperature) - libm::log(-libm::log1p(-u))
        };
        if score > best.1 {
            second = best.1;
            best = (v, score);
        } else {
            second = second.max(score);
        }
    }
    (best.0, best.1 - second)
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&SAMPLE_THRESHOLD, cases::filtered),
        Entry::new(&SAMPLE_DRAW, cases::plain),
    ]
}
