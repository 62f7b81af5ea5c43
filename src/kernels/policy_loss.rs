//! The policy-gradient loss on the device: log-probabilities and advantages → dL/dlogp, one number per token, and the
//! sums behind a step's metrics.
//!
//! L = −(1/(B·m)) Σᵢ Aᵢ · ℓᵢ · cᵢ + β · KL, ℓᵢ the response's log-probability (TEA, arXiv 2605.10716; the training
//! interface that all rules share). Above one iteration per batch, PPO's clipped ratio replaces ℓᵢ (arXiv 1707.06347).

use super::harness::{Case, Gen, Slot, Tol, wide};
use super::reduce::lanes;
use super::{Entry, fold};
use crate::config::{KlEstimator, LossType};
use crate::error::Result;
use crate::gpu::{Binding, Buffer, Kernel, Recorder, params, shaders};
use std::ops::Range;

static POLICY_LOSS: Kernel = Kernel::portable(
    "policy_loss",
    shaders!["policy_loss.wgsl", "shared/not_finite.wgsl"],
);
static POLICY_LOSS_SUMS: Kernel = Kernel::portable(
    "policy_loss_sums",
    shaders!["policy_loss_sums.wgsl", "shared/row_reduce.wgsl"],
);

/// Numbers per token in `terms`, and per batch in `sums`.
pub const TERMS: usize = 8;

/// The settings that the loss depends on.
#[derive(Debug, Clone, Copy)]
pub struct LossConfig {
    /// Token weighting.
    pub loss_type: LossType,
    /// KL weight; 0 takes no reference.
    pub beta: f64,
    /// KL estimator.
    pub kl_estimator: KlEstimator,
    /// PPO's clipping range; `None` on the first, on-policy iteration, where the ratio is 1 by definition.
    pub epsilon: Option<f64>,
    /// Most tokens in a response (for `dr_grpo`).
    pub max_completion_length: usize,
    /// Responses in the whole step, B·m.
    pub responses: usize,
}

impl LossConfig {
    /// The weight of each token of a response of `t` tokens.
    pub fn weight(&self, t: usize) -> f64 {
        let of_response = match self.loss_type {
            LossType::Sum => 1.0,
            LossType::Grpo => 1.0 / t.max(1) as f64,
            LossType::DrGrpo => 1.0 / self.max_completion_length as f64,
        };
        of_response / self.responses as f64
    }
}

params! {
    struct Params {
        tokens: u32,
        first_reference: u32,
        estimator: u32,
        beta: f32,
        clips: u32,
        low: f32,
        high: f32,
    }

    struct SumsParams {
        tokens: u32,
        row: u32,
        first: u32,
    }
}

/// The buffers of [`policy_loss`]; P tokens of one micro-batch, in any order.
#[derive(Debug, Clone, Copy)]
pub struct PolicyLossArgs<'a> {
    /// Log-probabilities under the policy being trained `(P)`, natural log.
    pub logp: &'a Buffer,
    /// Under the policy that sampled them `(P)`.
    pub logp_old: &'a Buffer,
    /// Under the reference, of the whole step, and this batch's first token there; unless β is 0.
    pub logp_ref: Option<(&'a Buffer, usize)>,
    /// The response that each token belongs to, in the whole step `(P)` u32.
    pub owner: &'a Buffer,
    /// The weight of each token `(P)` ([`LossConfig::weight`]).
    pub weight: &'a Buffer,
    /// The advantage of each response of the step (B·m).
    pub advantages: &'a Buffer,
    /// dL/dlogp `(P)`, overwritten.
    pub dlogp: &'a Buffer,
    /// What each token adds to the metrics `(P, 8)`, overwritten.
    pub terms: &'a Buffer,
}

/// dL/dlogp of every token of a micro-batch, and what each adds to the step's metrics.
///
/// # Errors
/// A GPU error.
pub fn policy_loss(
    rec: &mut Recorder,
    args: &PolicyLossArgs<'_>,
    config: &LossConfig,
    tokens: usize,
) -> Result<()> {
    let estimator = match (args.logp_ref, config.kl_estimator) {
        (None, _) => 0,
        (_, KlEstimator::K1) => 1,
        (_, KlEstimator::K2) => 2,
        (_, KlEstimator::K3) => 3,
    };
    let epsilon = config.epsilon.unwrap_or(0.0);
    let params = Params {
        tokens: tokens as u32,
        first_reference: args.logp_ref.map_or(0, |(_, first)| first as u32),
        estimator,
        beta: config.beta as f32,
        clips: u32::from(config.epsilon.is_some()),
        low: (1.0 - epsilon) as f32,
        high: (1.0 + epsilon) as f32,
    };
    let bindings = [
        args.logp.into(),
        args.logp_old.into(),
        Binding::from(args.logp_ref.map(|(buffer, _)| buffer)),
        args.owner.into(),
        args.weight.into(),
        args.advantages.into(),
        args.dlogp.into(),
        args.terms.into(),
    ];
    let lanes = lanes(rec, 64);
    let constants = [("LANES", lanes as f64)];
    rec.dispatch(&POLICY_LOSS, &constants, &params, &bindings, fold(tokens, lanes))
}

/// Adds up what [`policy_loss`] left for each of some tokens, with their entropies, into row `row` of `sums (rows, 8)`:
/// loss, k3, clipped from below and above, k3 of the mismatch, its largest absolute value, entropy, tokens.
///
/// # Errors
/// A GPU error.
pub fn policy_loss_sums(
    rec: &mut Recorder,
    terms: &Buffer,
    entropy: &Buffer,
    sums: &Buffer,
    row: usize,
    tokens: Range<usize>,
) -> Result<()> {
    let constants = [("LANES", lanes(rec, 256) as f64)];
    let params = SumsParams {
        tokens: tokens.len() as u32,
        row: row as u32,
        first: tokens.start as u32,
    };
    let bindings = [terms.into(), entropy.into(), sums.into()];
    rec.dispatch(&POLICY_LOSS_SUMS, &constants, &params, &bindings, [1, 1, 1])
}

/// One token as the twin takes it: log-probabilities under the policy, the sampling policy and the reference, the
/// advantage of its response, its weight.
#[derive(Debug, Clone, Copy)]
pub struct Token {
    /// Under the policy being trained.
    pub logp: f64,
    /// Under the policy that sampled it.
    pub logp_old: f64,
    /// Under the reference.
    pub logp_ref: Option<f64>,
    /// Its response's advantage.
    pub advantage: f64,
    /// Its weight.
    pub weight: f64,
}

/// Schulman's k3 with d = log(reference) − log(policy): exp(d) − d − 1 ≥ 0.
pub fn k3(d: f64) -> f64 {
    // exp_m1 keeps small d exact: the difference is of second order.
    d.exp_m1() - d
}

/// Float64 twin of [`policy_loss`] for one token: dL/dlogp and the terms.
pub fn twin(token: Token, c: &LossConfig) -> (f64, [f64; TERMS]) {
    let Token {
        logp,
        logp_old,
        logp_ref,
        advantage: a,
        weight,
    } = token;
    let moved = logp - logp_old;
    let (mut slope, mut loss, mut low, mut high) = (-a, -a * logp, 0.0, 0.0);
    if let Some(epsilon) = c.epsilon {
        let ratio = moved.exp();
        let bounded = ratio.clamp(1.0 - epsilon, 1.0 + epsilon);
        (slope, loss) = (-ratio * a, -ratio * a);
        if bounded * a < ratio * a {
            (slope, loss) = (0.0, -bounded * a);
            if ratio < bounded { low = 1.0 } else { high = 1.0 }
        }
    }
    let mut kl = 0.0;
    if let Some(reference) = logp_ref {
        let d = reference - logp;
        kl = k3(d);
        let (value, step) = match c.kl_estimator {
            KlEstimator::K3 => (kl, -d.exp_m1()),
            KlEstimator::K2 => (d * d / 2.0, -d),
            // A stop-gradient penalty in the reward: the value −d, and the coefficient that it puts on ∇logp.
            KlEstimator::K1 => (-d, -d),
        };
        loss += c.beta * value;
        slope += c.beta * step;
    }
    let terms = [weight * loss, kl, low, high, k3(moved), moved.abs(), 0.0, 0.0];
    (weight * slope, terms)
}

/// Float64 twin of [`policy_loss_sums`].
pub(super) fn sums_twin(terms: &[f64], entropy: &[f64]) -> Vec<f64> {
    let column = |k: usize| terms.iter().skip(k).step_by(TERMS).copied();
    let sum = |k: usize| column(k).sum::<f64>();
    let largest = column(5).fold(0.0, f64::max);
    let n = entropy.len() as f64;
    vec![
        sum(0),
        sum(1),
        sum(2),
        sum(3),
        sum(4),
        largest,
        entropy.iter().sum(),
        n,
    ]
}

/// How far the sums of such terms may be from the twin's.
pub(super) fn of_sums(terms: &[f64]) -> Tol {
    Tol {
        atol: 1e-6 * terms.iter().step_by(TERMS).map(|t| t.abs()).sum::<f64>(),
        rtol: 1e-5,
        why: "a tree over as many tokens; the loss's terms cancel",
    }
}

/// `tokens` tokens of `responses` responses; log-probabilities move by up to `moves`, so that ratios are clipped, or by
/// rounding alone.
fn case(tokens: usize, responses: usize, moves: f32, config: LossConfig, reference: bool) -> Case {
    let mut g = Gen::new(tokens as u64 + responses as u64);
    let logp: Vec<f32> = g.uniform(tokens, 4.0).iter().map(|x| -x.abs()).collect();
    let shifted = |g: &mut Gen| -> Vec<f32> {
        let by = g.uniform(tokens, moves);
        logp.iter().zip(by).map(|(l, d)| l + d).collect()
    };
    let (old, own_ref) = (shifted(&mut g), shifted(&mut g));
    let first = 3;
    let mut whole_ref = vec![f32::NAN; first];
    whole_ref.extend(&own_ref);
    let owner = g.below(tokens, responses as u32);
    let advantages = g.uniform(responses, 2.0);
    let weight: Vec<f32> = (0..tokens).map(|i| config.weight(i % 7 + 1) as f32).collect();
    let entropy: Vec<f32> = g.uniform(tokens, 3.0).iter().map(|x| x.abs()).collect();
    let slots = vec![
        Slot::input(&logp),
        Slot::input(&old),
        Slot::input(&whole_ref),
        Slot::input(&owner),
        Slot::input(&weight),
        Slot::input(&advantages),
        Slot::Out(tokens),
        Slot::Out(tokens * TERMS),
        Slot::input(&entropy),
        Slot::InOut(vec![7.0; 2 * TERMS]),
    ];
    let from = tokens / 3;
    let what = (config.kl_estimator, config.epsilon, reference);
    Case {
        name: format!("policy_loss P={tokens} responses={responses} moves={moves} {what:?}"),
        slots,
        record: Box::new(move |rec, b| {
            let args = PolicyLossArgs {
                logp: &b[0],
                logp_old: &b[1],
                logp_ref: reference.then_some((&b[2], first)),
                owner: &b[3],
                weight: &b[4],
                advantages: &b[5],
                dlogp: &b[6],
                terms: &b[7],
            };
            policy_loss(rec, &args, &config, tokens)?;
            policy_loss_sums(rec, &b[7], &b[8], &b[9], 1, from..tokens)
        }),
        expect: Box::new(move || {
            let (mut dlogp, mut terms) = (Vec::new(), Vec::new());
            for i in 0..tokens {
                let token = Token {
                    logp: logp[i].into(),
                    logp_old: old[i].into(),
                    logp_ref: reference.then(|| own_ref[i].into()),
                    advantage: advantages[owner[i] as usize].into(),
                    weight: weight[i].into(),
                };
                let (d, t) = twin(token, &config);
                dlogp.push(d);
                terms.extend(t);
            }
            let mut sums = vec![7.0; TERMS];
            sums.extend(sums_twin(&terms[from * TERMS..], &wide(&entropy[from..])));
            let why = "exp in f32 (3 ulp and 2 of its argument), a few roundings after it";
            let slope = Tol::of_peak(&dlogp, 4e-6, why);
            let of_terms = Tol {
                atol: 1e-9,
                rtol: 1e-5,
                why,
            };
            let of_sums = of_sums(&terms);
            vec![(6, dlogp, slope), (7, terms, of_terms), (9, sums, of_sums)]
        }),
        flops: 0.0,
    }
}

fn cases() -> Vec<Case> {
    use KlEstimator::{K1, K2, K3};
    use LossType::{DrGrpo, Grpo, Sum};
    let config = |loss_type, kl_estimator, epsilon| LossConfig {
        loss_type,
        beta: 0.3,
        kl_estimator,
        epsilon,
        max_completion_length: 7,
        responses: 24,
    };
    vec![
        case(1, 1, 1.0, config(Sum, K3, None), true),
        case(63, 5, 1.0, config(DrGrpo, K3, Some(0.2)), true),
        case(65, 24, 2.0, config(Grpo, K2, Some(0.2)), true),
        case(257, 24, 1.0, config(DrGrpo, K1, None), true),
        // On-policy: all that moves is rounding, and k3 is of second order in it.
        case(300, 9, 1e-6, config(DrGrpo, K3, None), true),
        case(1031, 24, 0.1, config(Sum, K3, Some(0.01)), false),
    ]
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    [&POLICY_LOSS, &POLICY_LOSS_SUMS]
        .map(|kernel| Entry::new(kernel, cases))
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn config(loss_type: LossType, kl: KlEstimator, epsilon: Option<f64>) -> LossConfig {
        LossConfig {
            loss_type,
            beta: 0.3,
            kl_estimator: kl,
            epsilon,
            max_completion_length: 7,
            responses: 3,
        }
    }

    fn token(logp: f64, logp_old: f64, logp_ref: Option<f64>, advantage: f64) -> Token {
        Token {
            logp,
            logp_old,
            logp_ref,
            advantage,
            weight: 0.5,
        }
    }

    /// The coefficient is the derivative of the value, wherever the loss is differentiable in logp.
    #[test]
    fn coefficients_are_the_derivative_of_the_loss() {
        for kl in [KlEstimator::K3, KlEstimator::K2] {
            for (epsilon, advantage) in [(None, 1.5), (Some(0.2), 1.5), (Some(0.2), -0.5)] {
                let c = config(LossType::Sum, kl, epsilon);
                for (logp, old, reference) in
                    [(-0.875, -1.0, -1.25), (-2.75, -2.5, -2.0), (-0.625, -0.1, -0.5)]
                {
                    let at = |logp: f64| twin(token(logp, old, Some(reference), advantage), &c);
                    let h = 1e-6;
                    let numeric = (at(logp + h).1[0] - at(logp - h).1[0]) / (2.0 * h);
                    let exact = at(logp).0;
                    assert!((numeric - exact).abs() < 1e-7, "{kl:?} {logp}: {numeric} {exact}");
                }
            }
        }
    }

    #[test]
    fn token_weights_follow_the_loss_type() {
        let weight = |t| config(t, KlEstimator::K3, None).weight(4);
        assert_eq!(weight(LossType::Sum), 1.0 / 3.0);
        assert_eq!(weight(LossType::Grpo), 0.25 / 3.0);
        assert_eq!(weight(LossType::DrGrpo), 1.0 / 7.0 / 3.0);
    }

    #[test]
    fn k1_and_k2_put_the_same_coefficient_on_the_policy() {
        let d = |k| {
            twin(
                token(-1.0, -1.0, Some(-1.5), 0.0),
                &config(LossType::Sum, k, None),
            )
            .0
        };
        assert_eq!(d(KlEstimator::K1), d(KlEstimator::K2));
    }

    #[test]
    fn clipping_stops_only_moves_that_would_go_further() {
        let run = |logp: f64, a: f64| {
            let c = config(LossType::Sum, KlEstimator::K3, Some(0.2));
            let (d, terms) = twin(token(logp, 0.0, None, a), &c);
            (d, terms[2], terms[3])
        };
        assert_eq!(run(0.5, 1.0), (0.0, 0.0, 1.0));
        assert_eq!(run(-0.5, -1.0), (0.0, 1.0, 0.0));
        assert!(run(0.5, -1.0).0 > 0.0);
        assert!(run(-0.5, 1.0).0 < 0.0);
    }
}
