//! Losses as coefficient streams: each surrogate turns log-probabilities into dL/dlogp, one number a token.
//!
//! L = −(1/(B·m)) Σᵢ Aᵢ · ℓᵢ · cᵢ + β · KL, ℓᵢ the response's log-probability (TEA, arXiv 2605.10716; the training
//! interface all rules share). Above one iteration a batch, PPO's clipped ratio replaces ℓᵢ (arXiv 1707.06347).

use crate::config::{KlEstimator, LossType};

/// The settings the loss depends on.
#[derive(Debug, Clone, Copy)]
pub struct LossConfig {
    /// Token weighting.
    pub loss_type: LossType,
    /// KL weight.
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

/// One response: natural-log probabilities of its tokens, the stop token included.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Under the policy being trained (T).
    pub logp: &'a [f32],
    /// Under the policy that sampled it (T).
    pub logp_old: &'a [f32],
    /// Under the reference (T); `None` when β is 0.
    pub logp_ref: Option<&'a [f32]>,
    /// Its advantage.
    pub advantage: f64,
}

/// What one response adds to the step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SequenceLoss {
    /// dL/dlogp (T).
    pub dlogp: Vec<f32>,
    /// Its part of L.
    pub loss: f64,
    /// Σ over tokens of the k3 estimate of KL(π‖π_ref), a metric whatever the estimator in the loss.
    pub kl_sum: f64,
    /// Tokens whose ratio was clipped from below and from above.
    pub clipped: (usize, usize),
}

/// Schulman's k3 with d = log(reference) − log(policy): exp(d) − d − 1 ≥ 0.
pub fn k3(d: f64) -> f64 {
    // exp_m1 keeps small d exact: the difference is of second order.
    d.exp_m1() - d
}

/// dL/dlogp of one response and its part of the loss.
pub fn sequence_loss(s: Sequence<'_>, c: &LossConfig) -> SequenceLoss {
    let t = s.logp.len();
    let weight = match c.loss_type {
        LossType::Sum => 1.0,
        LossType::Grpo => 1.0 / t.max(1) as f64,
        LossType::DrGrpo => 1.0 / c.max_completion_length as f64,
    } / c.responses as f64;
    let mut out = SequenceLoss {
        dlogp: Vec::with_capacity(t),
        ..Default::default()
    };
    for i in 0..t {
        let logp = f64::from(s.logp[i]);
        let (mut d, policy_loss) = policy_term(
            logp,
            f64::from(s.logp_old[i]),
            s.advantage,
            c.epsilon,
            &mut out.clipped,
        );
        out.loss += weight * policy_loss;
        if let Some(reference) = s.logp_ref {
            let gap = f64::from(reference[i]) - logp;
            out.kl_sum += k3(gap);
            let (value, slope) = match c.kl_estimator {
                KlEstimator::K3 => (k3(gap), -gap.exp_m1()),
                KlEstimator::K2 => (gap * gap / 2.0, -gap),
                // A stop-gradient penalty in the reward: the value −gap, and the coefficient it puts on ∇logp.
                KlEstimator::K1 => (-gap, -gap),
            };
            out.loss += weight * c.beta * value;
            d += c.beta * slope;
        }
        out.dlogp.push((weight * d) as f32);
    }
    out
}

/// d/dlogp and value of −A·logp, or of PPO's −min(ρA, clip(ρ)A).
fn policy_term(
    logp: f64,
    old: f64,
    a: f64,
    epsilon: Option<f64>,
    clipped: &mut (usize, usize),
) -> (f64, f64) {
    let Some(epsilon) = epsilon else {
        return (-a, -a * logp);
    };
    let ratio = (logp - old).exp();
    let bounded = ratio.clamp(1.0 - epsilon, 1.0 + epsilon);
    if bounded * a < ratio * a {
        if ratio < bounded {
            clipped.0 += 1;
        } else {
            clipped.1 += 1;
        }
        return (0.0, -bounded * a);
    }
    (-ratio * a, -ratio * a)
}

/// Bradley-Terry loss −log σ(margin) and its slope in the margin.
pub fn bradley_terry(margin: f64) -> (f64, f64) {
    // softplus(−margin), stable on both sides.
    let loss = (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
    (loss, -1.0 / (1.0 + margin.exp()))
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

    /// The coefficient is the derivative of the value, wherever the loss is differentiable in logp.
    #[test]
    fn coefficients_are_the_derivative_of_the_loss() {
        let (old, reference) = ([-1.0f32, -2.5, -0.1], [-1.25f32, -2.0, -0.5]);
        for loss_type in [LossType::Sum, LossType::Grpo, LossType::DrGrpo] {
            for kl in [KlEstimator::K3, KlEstimator::K2] {
                for (epsilon, advantage) in [(None, 1.5), (Some(0.2), 1.5), (Some(0.2), -0.5)] {
                    let c = config(loss_type, kl, epsilon);
                    let logp = [-0.875f32, -2.75, -0.625];
                    let at = |logp: &[f32]| {
                        sequence_loss(
                            Sequence {
                                logp,
                                logp_old: &old,
                                logp_ref: Some(&reference),
                                advantage,
                            },
                            &c,
                        )
                    };
                    let exact = at(&logp).dlogp;
                    for i in 0..3 {
                        let h = 2f32.powi(-10);
                        let (mut up, mut down) = (logp, logp);
                        up[i] += h;
                        down[i] -= h;
                        let numeric = (at(&up).loss - at(&down).loss) / f64::from(2.0 * h);
                        assert!(
                            (numeric - f64::from(exact[i])).abs() < 1e-5,
                            "{loss_type:?} {kl:?} {i}: {numeric} {}",
                            exact[i]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn token_weights_follow_the_loss_type() {
        let logp = [-1.0f32; 4];
        let s = Sequence {
            logp: &logp,
            logp_old: &logp,
            logp_ref: None,
            advantage: 2.0,
        };
        let d = |t| f64::from(sequence_loss(s, &config(t, KlEstimator::K3, None)).dlogp[0]);
        assert!((d(LossType::Sum) + 2.0 / 3.0).abs() < 1e-7);
        assert!((d(LossType::Grpo) + 2.0 / 12.0).abs() < 1e-7);
        assert!((d(LossType::DrGrpo) + 2.0 / 21.0).abs() < 1e-7);
    }

    #[test]
    fn k1_and_k2_put_the_same_coefficient_on_the_policy() {
        let (logp, reference) = ([-1.0f32, -2.0], [-1.5f32, -1.0]);
        let s = Sequence {
            logp: &logp,
            logp_old: &logp,
            logp_ref: Some(&reference),
            advantage: 0.0,
        };
        let d = |k| sequence_loss(s, &config(LossType::Sum, k, None)).dlogp;
        assert_eq!(d(KlEstimator::K1), d(KlEstimator::K2));
    }

    #[test]
    fn clipping_stops_only_moves_that_would_go_further() {
        let run = |logp: f32, a: f64| {
            let (l, old) = ([logp], [0.0f32]);
            sequence_loss(
                Sequence {
                    logp: &l,
                    logp_old: &old,
                    logp_ref: None,
                    advantage: a,
                },
                &config(LossType::Sum, KlEstimator::K3, Some(0.2)),
            )
        };
        assert_eq!((run(0.5, 1.0).clipped, run(0.5, 1.0).dlogp[0]), ((0, 1), 0.0));
        assert_eq!((run(-0.5, -1.0).clipped, run(-0.5, -1.0).dlogp[0]), ((1, 0), 0.0));
        assert!(run(0.5, -1.0).dlogp[0] > 0.0);
        assert!(run(-0.5, 1.0).dlogp[0] < 0.0);
    }

    #[test]
    fn bradley_terry_is_stable() {
        for m in [-800.0, -3.0, 0.0, 2.0, 800.0] {
            let (loss, slope) = bradley_terry(m);
            assert!(loss.is_finite() && slope.is_finite() && loss >= 0.0);
            let h = 1e-5;
            let numeric = (bradley_terry(m + h).0 - bradley_terry(m - h).0) / (2.0 * h);
            assert!((numeric - slope).abs() < 1e-6, "{m}");
        }
    }
}
