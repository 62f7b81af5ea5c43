//! Group reductions of the advantage rules TEA, GRPO and GRPO-Z: m rewards of one prompt → m advantages, many groups
//! in one dispatch.
//!
//! The rules' formulas and papers are in `advantage/`, which is a layer above: a rule there gives its coefficients,
//! computed once in float64, as a [`GroupRule`].

use super::reduce::{ROW_REDUCE, SORTABLE, lanes};
use super::{Entry, fold};
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Kernel, Recorder};

#[path = "group_advantage_cases.rs"]
mod cases;

static GROUP_ADVANTAGE: Kernel = Kernel::portable(
    "group_advantage",
    &[
        include_str!("../../shaders/group_advantage.wgsl"),
        ROW_REDUCE,
        SORTABLE,
    ],
);

/// Largest group.
pub const MAX_GROUP: usize = 4096;

/// A rule with the coefficients that depend on sizes alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GroupRule {
    /// TEA (arXiv 2605.10716, §3): `A = u − mean(u)`, `u = max(ψ, 0)` on the top-k rewards, 0 elsewhere.
    Tea {
        /// Tail samples, k ≤ m.
        k: usize,
        /// Tail share α.
        alpha: f64,
        /// κ(α, N).
        kappa: f64,
        /// Lower bound of the tail's standard deviation.
        min_scale: f64,
    },
    /// `A = r − mean(r)` (arXiv 2402.03300, unscaled).
    Grpo,
    /// `A = (r − mean(r)) / (sd_pop(r) + eps)`; equal rewards give 0.
    GrpoZ {
        /// Added to the standard deviation.
        eps: f64,
    },
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    groups: u32,
    m: u32,
    rule: u32,
    k: u32,
    inverse_alpha: f32,
    half_kappa: f32,
    min_scale: f32,
    eps: f32,
    inverse_m: f32,
    inverse_k: f32,
}

/// `advantages (G, m)` and `flags (G)` u32 (1: no signal, every advantage 0) from finite `rewards (G, m)`, f32. Rows are
/// tight. Rewards count from their group's maximum, so a common offset costs no accuracy beyond its own rounding.
///
/// # Errors
/// A group of 0 or of more than [`MAX_GROUP`], a tail larger than the group (bugs), or a GPU error.
pub fn record(
    rec: &mut Recorder,
    rule: GroupRule,
    rewards: &Buffer,
    advantages: &Buffer,
    flags: &Buffer,
    groups: usize,
    m: usize,
) -> Result<()> {
    if m == 0 || m > MAX_GROUP {
        return Err(Error::internal(format!(
            "group_advantage: groups of {m}; 1 to {MAX_GROUP} can be reduced"
        )));
    }
    let mut params = Params {
        groups: groups as u32,
        m: m as u32,
        rule: 1,
        k: 1,
        inverse_alpha: 1.0,
        half_kappa: 0.0,
        min_scale: 1.0,
        eps: 0.0,
        inverse_m: (1.0 / m as f64) as f32,
        inverse_k: 1.0,
    };
    match rule {
        GroupRule::Tea { k, .. } if k == 0 || k > m => {
            return Err(Error::internal(format!("group_advantage: a tail of {k} of {m}")));
        }
        GroupRule::Tea {
            k,
            alpha,
            kappa,
            min_scale,
        } => {
            params.rule = 0;
            params.k = k as u32;
            params.inverse_alpha = (1.0 / alpha) as f32;
            params.half_kappa = (kappa / 2.0) as f32;
            params.min_scale = min_scale as f32;
            params.inverse_k = (1.0 / k as f64) as f32;
        }
        GroupRule::Grpo => {}
        GroupRule::GrpoZ { eps } => {
            params.rule = 2;
            params.eps = eps as f32;
        }
    }
    let lanes = lanes(rec, 64);
    let bindings = [Binding::from(rewards), advantages.into(), flags.into()];
    rec.dispatch(
        &GROUP_ADVANTAGE,
        &[("LANES", lanes as f64)],
        &params,
        &bindings,
        fold(groups, 1),
    )
}

/// Float64 twin of [`record`] for one group: advantages and whether it gives no signal.
pub fn twin(rule: GroupRule, rewards: &[f64]) -> (Vec<f64>, bool) {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut u: Vec<f64> = rewards.iter().map(|r| r - top).collect();
    if let GroupRule::Tea {
        k,
        alpha,
        kappa,
        min_scale,
    } = rule
    {
        let mut order: Vec<usize> = (0..u.len()).collect();
        order.sort_by(|a, b| u[*b].total_cmp(&u[*a])); // stable: ties by the lowest index
        let tail: Vec<f64> = order[..k].iter().map(|i| u[*i]).collect();
        let (q, mean) = (tail[k - 1], tail.iter().sum::<f64>() / k as f64);
        let variance = tail.iter().map(|d| (d - mean) * (d - mean)).sum::<f64>() / k as f64;
        let scale = libm::sqrt(variance).max(min_scale);
        let psi = |d: f64| {
            let quadratic = (d - mean) * (d - mean) - (q - mean) * (q - mean);
            ((d - q) + kappa / (2.0 * scale) * quadratic) / alpha
        };
        let mut scores = vec![0.0; u.len()];
        order[..k].iter().for_each(|i| scores[*i] = psi(u[*i]).max(0.0));
        u = scores;
    }
    if u.iter().all(|x| *x == 0.0) {
        return (vec![0.0; u.len()], true);
    }
    let m = u.len() as f64;
    let mean = u.iter().sum::<f64>() / m;
    u.iter_mut().for_each(|x| *x -= mean);
    if let GroupRule::GrpoZ { eps } = rule {
        let scale = libm::sqrt(u.iter().map(|a| a * a).sum::<f64>() / m) + eps;
        u.iter_mut().for_each(|x| *x /= scale);
    }
    (u, false)
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![Entry {
        kernel: &GROUP_ADVANTAGE,
        cases: cases::all,
    }]
}
