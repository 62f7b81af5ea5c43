//! RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): `y = x · rstd · gamma`, `rstd = 1 / sqrt(mean(x²) + eps)`.
//!
//! The per-head norm of queries and keys (Qwen3) is the same op with a row per head: `m = M·H`, `c = head_dim`.

mod cases;
pub mod twin;
pub(super) use cases::work;

use super::weight::lanes;
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};
use std::ops::Range;

static FORWARD: Kernel = Kernel::portable("rmsnorm_forward", shaders!["rmsnorm_forward.wgsl"]);
static BACKWARD: Kernel = Kernel::portable("rmsnorm_backward", shaders!["rmsnorm_backward.wgsl"]);
static GAMMA_GRADIENT: Kernel =
    Kernel::portable("rmsnorm_gamma_gradient", shaders!["rmsnorm_gamma_gradient.wgsl"]);

params! {
    struct ForwardParams {
        m: u32,
        c4: u32,
        inverse_c: f32,
        eps: f32,
    }

    struct BackwardParams {
        m: u32,
        c4: u32,
        inverse_c: f32,
        accumulate: u32,
    }

    struct GammaGradientParams {
        end: u32,
        c4: u32,
        first: u32,
    }
}

/// `y (m, c) = x (m, c) · rstd · gamma (c)`; writes `rstd (m)` for the backward pass. `c` is a multiple of 4.
///
/// # Errors
/// A GPU error.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and sizes of one op; a struct would only rename them"
)]
pub fn forward(
    rec: &mut Recorder,
    x: &Buffer,
    gamma: &Buffer,
    y: &Buffer,
    rstd: &Buffer,
    m: usize,
    c: usize,
    eps: f32,
) -> Result<()> {
    debug_assert!(c.is_multiple_of(4));
    let params = ForwardParams {
        m: m as u32,
        c4: (c / 4) as u32,
        inverse_c: (1.0 / c as f64) as f32,
        eps,
    };
    let lanes = lanes(rec);
    rec.dispatch(
        &FORWARD,
        &[("LANES", lanes as f64)],
        &params,
        &[x.into(), gamma.into(), y.into(), rstd.into()],
        fold(m, lanes),
    )
}

/// `dx (m, c) = rstd · (dy · gamma) − x · rstd³ / c · Σ(dy · gamma · x)`, set or (with `accumulate`) added to dx.
/// `x (m, c)` and `rstd (m)` are the forward pass's.
///
/// # Errors
/// A GPU error.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and sizes of one op; a struct would only rename them"
)]
pub fn backward(
    rec: &mut Recorder,
    dy: &Buffer,
    x: &Buffer,
    gamma: &Buffer,
    rstd: &Buffer,
    dx: &Buffer,
    m: usize,
    c: usize,
    accumulate: bool,
) -> Result<()> {
    debug_assert!(c.is_multiple_of(4));
    let params = BackwardParams {
        m: m as u32,
        c4: (c / 4) as u32,
        inverse_c: (1.0 / c as f64) as f32,
        accumulate: accumulate.into(),
    };
    let lanes = lanes(rec);
    rec.dispatch(
        &BACKWARD,
        &[("LANES", lanes as f64)],
        &params,
        &[dy.into(), x.into(), gamma.into(), rstd.into(), dx.into()],
        fold(m, lanes),
    )
}

/// `dgamma (c) += Σ over the rows `of` dy · x · rstd`, rows in ascending order.
///
/// # Errors
/// A GPU error.
pub fn gamma_gradient(
    rec: &mut Recorder,
    dy: &Buffer,
    x: &Buffer,
    rstd: &Buffer,
    dgamma: &Buffer,
    of: Range<usize>,
    c: usize,
) -> Result<()> {
    debug_assert!(c.is_multiple_of(4));
    let params = GammaGradientParams {
        end: of.end as u32,
        c4: (c / 4) as u32,
        first: of.start as u32,
    };
    let lanes = lanes(rec);
    rec.dispatch(
        &GAMMA_GRADIENT,
        &[("LANES", lanes as f64)],
        &params,
        &[dy.into(), x.into(), rstd.into(), dgamma.into()],
        [(c / 4).div_ceil(lanes) as u32, 1, 1],
    )
}

/// The op's rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&FORWARD, cases::forward),
        Entry::new(&BACKWARD, cases::backward),
        Entry::new(&GAMMA_GRADIENT, cases::gamma_gradient),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::harness::{assert_gradient, numeric_gradient, wide};
    use super::*;

    #[test]
    fn twin_gradients_match_finite_differences() {
        let mut g = super::super::harness::Gen::new(5);
        let (m, c, eps) = (3, 8, 1e-3);
        let (x, gamma) = (wide(&g.uniform(m * c, 2.0)), wide(&g.uniform(c, 2.0)));
        let dy = wide(&g.uniform(m * c, 1.0));
        let loss = |x: &[f64], gamma: &[f64]| {
            let (y, _) = twin::forward(x, gamma, m, c, eps);
            y.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>()
        };
        let rstd = twin::forward(&x, &gamma, m, c, eps).1;
        let dx = twin::backward(&dy, &x, &gamma, &rstd, m, c);
        assert_gradient("dx", &dx, &numeric_gradient(&x, |x| loss(x, &gamma)));
        let dgamma = twin::gamma_gradient(&dy, &x, &rstd, m, c);
        assert_gradient("dgamma", &dgamma, &numeric_gradient(&gamma, |v| loss(&x, v)));
    }
}
