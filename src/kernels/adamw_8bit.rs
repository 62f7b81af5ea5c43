//! AdamW with moments of 8 bits an element.
//!
//! **Code.** A block of [`BLOCK`] elements (along the row-major buffer, padding included) has a power of two for each moment, the
//! one that brings its largest magnitude below 1.875. An element is a small floating-point number relative to it:
//!
//! | | sign | exponent | mantissa | largest | smallest normal | step below that |
//! |---|---|---|---|---|---|---|
//! | first moment | 1 | 4 | 3 | 1.875 | 2⁻¹⁴ | 2⁻¹⁷ |
//! | second moment | – | 5 | 3 | 1.875 | 2⁻³⁰ | 2⁻³³ |
//!
//! The scale being a power of two, decoding and scaling are exact: what a moment loses it loses to the code alone.
//!
//! **Rounding** is stochastic: up with the probability that makes the mean of the code the value (to 2⁻¹⁶ of a step). To the nearest
//! would not do: β₂ = 0.999 moves a second moment by 0.1% a step, and a code's step is 6 to 12.5%, so that it would stand still until
//! a squared gradient were some 30 times as large, and never decay. The random bits are Philox's for (step, tensor, element): the same
//! run twice, resumed or not, gives the same bits.
//!
//! **Error bound.** Between the block's largest magnitude s·1.875 and s·2⁻¹⁴ (first) or s·2⁻³⁰ (second), a code is within 1/8 of
//! its value and on average exact; below, within s·2⁻¹⁷ or s·2⁻³³. A second moment that is not 0 is never stored as 0, so that what
//! lies below s·2⁻³³ (its root: 2⁻¹⁶·⁵ of the block's largest) is stored too large and the step of that element too small, never too
//! large. For a steady second moment the errors of its past steps add up to a relative standard deviation of about √(δ/2), δ ≤ 1/8 the
//! code's relative step: 18 to 25%, so 9 to 12.5% of the denominator √v; and √(δ²p(1−p) / (1 − β₁²)) ≤ 14% for the first moment, averaged
//! over the steps that follow.
//!
//! The idea of block-wise 8-bit states is Dettmers et al.'s (arXiv 2110.02861), who round to the nearest in a dynamic code.

use super::adamw::AdamW;
use super::reduce::lanes;
use super::{Entry, fold};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};
use crate::rng::{philox4x32, seed_for};

#[path = "adamw_8bit_cases.rs"]
mod cases;
pub(super) use cases::work;

static ADAMW_8BIT_STEP: Kernel = Kernel::portable(
    "adamw_8bit_step",
    shaders![
        "adamw_8bit_step.wgsl",
        "shared/row_reduce.wgsl",
        "shared/philox.wgsl"
    ],
);

/// Elements that share their scales. Shards of a weight begin at multiples of it, so that a tensor's blocks do not depend on how the
/// adapter splits it.
pub const BLOCK: usize = 256;
/// Exponents of f32 for exponent 0 of the codes.
const FIRST_BIAS: i32 = 112;
const SECOND_BIAS: i32 = 96;
/// What the keys of the rounding bits begin with.
const KEY: u64 = 0x8b17;
/// The domain of the Philox counters.
const DOMAIN: u32 = 2;

params! {
    struct StepParams {
        words: u32,
        first_word: u32,
        key0: u32,
        key1: u32,
        decay: f32,
        one_minus_beta1: f32,
        beta2: f32,
        one_minus_beta2: f32,
        step_size: f32,
        second_correction: f32,
        eps: f32,
        max_norm: f32,
    }
}

/// The buffers of a step.
#[derive(Debug, Clone, Copy)]
pub struct AdamW8bitArgs<'a> {
    /// The parameters (n) f32, updated.
    pub param: &'a Buffer,
    /// Their gradient (n) f32, only read.
    pub grad: &'a Buffer,
    /// Codes of the first moment (n) u8, updated; zero before the first step.
    pub m: &'a Buffer,
    /// Codes of the second moment (n) u8, updated; zero before the first step.
    pub v: &'a Buffer,
    /// Scales of both moments (⌈n / [`BLOCK`]⌉, 2) f32, updated; zero before the first step.
    pub scales: &'a Buffer,
    /// `(1)` f32: the global norm of all gradients.
    pub norm: &'a Buffer,
    /// The tensor's number among those that are trained, which its rounding bits depend on.
    pub tensor: u64,
    /// The number of the buffers' first element in the tensor, a multiple of four.
    pub first: usize,
}

/// One step on `n` parameters (a multiple of four, as padded rows are), otherwise as [`adamw::step`](super::adamw::step).
///
/// # Errors
/// A GPU error.
pub fn step(rec: &mut Recorder, args: &AdamW8bitArgs<'_>, n: usize, adamw: AdamW) -> Result<()> {
    if !n.is_multiple_of(4) || !args.first.is_multiple_of(4) {
        return Err(Error::internal("8-bit moments of rows that are not padded"));
    }
    let lanes = lanes(rec, 64);
    let (c, key) = (adamw.coefficients(), key(adamw.step, args.tensor));
    let params = StepParams {
        words: (n / 4) as u32,
        first_word: (args.first / 4) as u32,
        key0: key[0],
        key1: key[1],
        decay: c[0],
        one_minus_beta1: c[1],
        beta2: c[2],
        one_minus_beta2: c[3],
        step_size: c[4],
        second_correction: c[5],
        eps: c[6],
        max_norm: c[7],
    };
    let bindings = [args.param, args.grad, args.m, args.v, args.scales, args.norm].map(Into::into);
    rec.dispatch(
        &ADAMW_8BIT_STEP,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        fold(n, BLOCK),
    )
}

fn key(step: u32, tensor: u64) -> [u32; 2] {
    seed_for(KEY, u64::from(step), tensor, 0)
}

/// What a code's magnitude stands for, relative to the scale.
fn decode(code: u8, bias: i32) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3), f64::from(code & 7));
    if exponent == 0 {
        return libm::ldexp(mantissa, bias - 129);
    }
    libm::ldexp(1.0 + mantissa / 8.0, exponent + bias - 127)
}

/// What a code of the first moment stands for, relative to its block's scale.
pub fn first_value(code: u8) -> f64 {
    let magnitude = decode(code & 0x7f, FIRST_BIAS);
    if code < 128 { magnitude } else { -magnitude }
}

/// What a code of the second moment stands for, relative to its block's scale.
pub fn second_value(code: u8) -> f64 {
    decode(code, SECOND_BIAS)
}

/// The code of `x` in 0 … 1.875 for 20 random bits.
fn encode(x: f64, chance: u32, bias: i32, most: u8) -> u8 {
    let (mut below, mut above) = (0, most);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if decode(middle, bias) <= x {
            below = middle;
        } else {
            above = middle;
        }
    }
    let (from, to) = (decode(below, bias), decode(above, bias));
    let share = (x - from) / (to - from) * f64::from(1 << 20);
    below + u8::from(share + f64::from(chance) >= f64::from(1 << 20))
}

/// The scale for magnitudes of up to `most`.
fn scale_of(most: f64) -> f64 {
    if most == 0.0 {
        return 0.0;
    }
    let power = libm::ldexp(1.0, libm::ilogb(most));
    if most >= 1.875 * power { 2.0 * power } else { power }
}

/// 8-bit moments on the host: codes an element, scales a block.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Codes of the first moment.
    pub m: Vec<u8>,
    /// Codes of the second moment.
    pub v: Vec<u8>,
    /// Scales of both.
    pub scales: Vec<[f64; 2]>,
}

/// Float64 twin of [`step`]: the same code and random bits; `first` and `tensor` as in [`AdamW8bitArgs`].
pub fn step_twin(
    param: &mut [f64],
    grad: &[f64],
    state: &mut State,
    norm: f64,
    (tensor, first): (u64, usize),
    a: AdamW,
) {
    let key = key(a.step, tensor);
    for (block, scales) in state.scales.iter_mut().enumerate() {
        let range = block * BLOCK..param.len().min((block + 1) * BLOCK);
        let mut m: Vec<f64> = range
            .clone()
            .map(|i| first_value(state.m[i]) * scales[0])
            .collect();
        let mut v: Vec<f64> = range
            .clone()
            .map(|i| second_value(state.v[i]) * scales[1])
            .collect();
        let (p, g) = (&mut param[range.clone()], &grad[range.clone()]);
        super::adamw::step_twin(p, g, &mut m, &mut v, norm, a);
        let most = |x: &[f64]| x.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        *scales = [scale_of(most(&m)), scale_of(most(&v))];
        for (at, i) in range.enumerate() {
            let word = ((first + i) / 4) as u32;
            let bits = philox4x32([word, 0, 0, DOMAIN], key)[i % 4];
            let code = |x: f64, scale: f64, chance: u32, bias: i32, most: u8| {
                if scale == 0.0 {
                    return 0;
                }
                encode(x / scale, chance << 4, bias, most)
            };
            let magnitude = code(m[at].abs(), scales[0], bits & 0xffff, FIRST_BIAS, 127);
            state.m[i] = magnitude | if m[at] < 0.0 { 128 } else { 0 };
            state.v[i] = code(v[at], scales[1], bits >> 16, SECOND_BIAS, 255).max(u8::from(v[at] > 0.0));
        }
    }
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![Entry::new(&ADAMW_8BIT_STEP, cases::step)]
}
