//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) and clipping by the global norm.

use super::reduce::lanes;
use super::{Entry, fold};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Gpu, Kernel, Recorder, params, shaders};

#[path = "adamw_cases.rs"]
mod cases;
pub(super) use cases::work;

static GLOBAL_NORM_PARTIAL: Kernel = Kernel::portable(
    "global_norm_partial",
    shaders!["global_norm_partial.wgsl", "shared/row_reduce.wgsl"],
);
static GLOBAL_NORM_FINISH: Kernel = Kernel::portable(
    "global_norm_finish",
    shaders!["global_norm_finish.wgsl", "shared/row_reduce.wgsl"],
);
static ADAMW_STEP: Kernel = Kernel::portable("adamw_step", shaders!["adamw_step.wgsl"]);

/// Elements whose squares make one partial sum of the norm.
const BLOCK: usize = 16384;

params! {
    struct PartialParams {
        n: u32,
        slot: u32,
        blocks: u32,
    }

    struct FinishParams {
        blocks: u32,
    }

    struct StepParams {
        n: u32,
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

/// Partial sums of [`global_norm`].
#[derive(Debug, Clone)]
pub struct NormScratch {
    partial: Buffer,
    blocks: usize,
}

impl NormScratch {
    /// Scratch for gradients of these many elements each.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Gpu, sizes: impl IntoIterator<Item = usize>) -> Result<Self> {
        let blocks = sizes.into_iter().map(|n| n.div_ceil(BLOCK)).sum();
        Ok(Self {
            partial: gpu.alloc("optimizer/norm", 4 * blocks as u64)?,
            blocks,
        })
    }
}

/// `norm (1) = √Σ x²` over every gradient `(buffer, elements)`, f32; 0 for no gradients. The order of summation depends
/// on the sizes alone.
///
/// # Errors
/// The scratch is too small (a bug), or a GPU error.
pub fn global_norm(
    rec: &mut Recorder,
    grads: &[(&Buffer, usize)],
    scratch: &NormScratch,
    norm: &Buffer,
) -> Result<()> {
    let lanes = lanes(rec, 256);
    let constants = [("LANES", lanes as f64)];
    let mut slot = 0;
    for (grad, n) in grads {
        let blocks = n.div_ceil(BLOCK);
        if slot + blocks > scratch.blocks {
            return Err(Error::internal(
                "global_norm: the scratch was made for fewer gradients",
            ));
        }
        let params = PartialParams {
            n: *n as u32,
            slot: slot as u32,
            blocks: blocks as u32,
        };
        let bindings = [Binding::from(*grad), (&scratch.partial).into()];
        rec.dispatch(
            &GLOBAL_NORM_PARTIAL,
            &constants,
            &params,
            &bindings,
            fold(blocks, 1),
        )?;
        slot += blocks;
    }
    let params = FinishParams { blocks: slot as u32 };
    let bindings = [Binding::from(&scratch.partial), norm.into()];
    rec.dispatch(&GLOBAL_NORM_FINISH, &constants, &params, &bindings, [1, 1, 1])
}

/// Settings of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step; the first is 1.
    pub step: u32,
    /// Clip the gradient to this global norm; 0 is off.
    pub max_grad_norm: f64,
}

impl AdamW {
    /// Learning rate 1e-4, β 0.9 and 0.999, ε 1e-8, no decay, clip at 1, first step.
    pub const DEFAULT: Self = Self {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        max_grad_norm: 1.0,
    };

    /// What the shaders take: 1 − lr·decay, 1 − β₁, β₂, 1 − β₂, lr / (1 − β₁ᵗ), √(1 − β₂ᵗ), ε, the norm to clip at.
    pub(super) fn coefficients(&self) -> [f32; 8] {
        let t = f64::from(self.step);
        [
            1.0 - self.lr * self.weight_decay,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            self.lr / (1.0 - libm::pow(self.beta1, t)),
            libm::sqrt(1.0 - libm::pow(self.beta2, t)),
            self.eps,
            self.max_grad_norm,
        ]
        .map(|x| x as f32)
    }
}

impl Default for AdamW {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The buffers of a step, f32 (n) each but `norm`.
#[derive(Debug, Clone, Copy)]
pub struct AdamWArgs<'a> {
    /// The parameters, updated.
    pub param: &'a Buffer,
    /// Their gradient, only read.
    pub grad: &'a Buffer,
    /// First moment, updated; zero before the first step.
    pub m: &'a Buffer,
    /// Second moment, updated; zero before the first step.
    pub v: &'a Buffer,
    /// `(1)`: the global norm of all gradients.
    pub norm: &'a Buffer,
}

/// One step of AdamW on `n` parameters, in torch.optim.AdamW's order of operations; the gradient is first scaled by
/// `min(1, max_grad_norm / (norm + 1e-6))`. Bias corrections come from float64.
///
/// A norm that is not finite leaves parameters and moments untouched (also without clipping): the caller reads the
/// norm and reports it.
///
/// # Errors
/// A GPU error.
pub fn step(rec: &mut Recorder, args: &AdamWArgs<'_>, n: usize, adamw: AdamW) -> Result<()> {
    let lanes = lanes(rec, 64);
    let c = adamw.coefficients();
    let params = StepParams {
        n: n as u32,
        decay: c[0],
        one_minus_beta1: c[1],
        beta2: c[2],
        one_minus_beta2: c[3],
        step_size: c[4],
        second_correction: c[5],
        eps: c[6],
        max_norm: c[7],
    };
    let bindings = [args.param, args.grad, args.m, args.v, args.norm].map(Into::into);
    rec.dispatch(
        &ADAMW_STEP,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        fold(n, lanes * 8),
    )
}

/// Float64 twin of [`step`].
pub fn step_twin(param: &mut [f64], grad: &[f64], m: &mut [f64], v: &mut [f64], norm: f64, a: AdamW) {
    let clip = if a.max_grad_norm > 0.0 {
        (a.max_grad_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    };
    let t = f64::from(a.step);
    for i in 0..param.len() {
        let g = grad[i] * clip;
        param[i] *= 1.0 - a.lr * a.weight_decay;
        m[i] = a.beta1 * m[i] + (1.0 - a.beta1) * g;
        v[i] = a.beta2 * v[i] + (1.0 - a.beta2) * g * g;
        let mean = m[i] / (1.0 - libm::pow(a.beta1, t));
        let root = libm::sqrt(v[i] / (1.0 - libm::pow(a.beta2, t)));
        param[i] -= a.lr * mean / (root + a.eps);
    }
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&ADAMW_STEP, cases::step),
        Entry::new(&GLOBAL_NORM_FINISH, cases::norm),
        Entry::new(&GLOBAL_NORM_PARTIAL, cases::norm),
    ]
}
