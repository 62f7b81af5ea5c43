//! The estimators of the synthetic study, on rewards r ~ N(0, 1) with score f(r) = (tanh r, sin r).

use crate::advantage::prefix_tea::PrefixPlan;
use crate::advantage::tail::{inverse_mills, normal_pdf, training_kappa};
use crate::advantage::{Alpha, TeaParams, tea};
use crate::error::Result;

/// The score (∇ log π of a response with reward r) of the study; its mean is 0 under N(0, 1).
pub(super) fn score(r: f64) -> [f64; 2] {
    [libm::tanh(r), libm::sin(r)]
}

/// Threshold, mean and standard deviation of a tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eta {
    pub(super) q: f64,
    pub(super) mu: f64,
    pub(super) s: f64,
}

impl Eta {
    /// The tail of a sample, by partial sorting; its first k places then hold the tail.
    fn fit(sample: &mut [f64], k: usize) -> Self {
        sample.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let (n, q) = (k as f64, sample[k - 1]);
        let mu = sample[..k].iter().sum::<f64>() / n;
        let variance = sample[..k].iter().map(|r| (r - mu) * (r - mu)).sum::<f64>() / n;
        Self {
            q,
            mu,
            s: libm::sqrt(variance),
        }
    }
}

/// What the study needs of (α, N), with the truth by quadrature.
pub(super) struct Problem {
    pub(super) alpha: Alpha,
    kappa: f64,
    /// The true tail.
    eta: Eta,
    /// E[(1, r, r²); r above the true threshold].
    moments: [f64; 3],
    /// E[ψ_η(r)·f(r)] at the true tail.
    pub(super) truth: [f64; 2],
    table: Integrals,
}

impl Problem {
    /// # Errors
    /// A user error when N < 2 or κ(α, N) ≤ 0.
    pub(super) fn new(alpha: Alpha, bon: u64) -> Result<Self> {
        let kappa = training_kappa(alpha, bon)?;
        let (z, lambda) = inverse_mills(alpha);
        let eta = Eta {
            q: z,
            mu: lambda,
            s: libm::sqrt(1.0 + z * lambda - lambda * lambda),
        };
        let mut problem = Self {
            alpha,
            kappa,
            eta,
            moments: [alpha.value(), normal_pdf(z), alpha.value() + z * normal_pdf(z)],
            truth: [0.0; 2],
            table: Integrals::new(),
        };
        problem.truth = problem.expected(&eta);
        Ok(problem)
    }

    /// ψ at `r` for one tail; no positive part.
    fn psi(&self, eta: &Eta, r: f64) -> f64 {
        if r < eta.q {
            return 0.0;
        }
        let (d, e) = (r - eta.mu, eta.q - eta.mu);
        ((r - eta.q) + self.kappa / (2.0 * eta.s) * (d * d - e * e)) / self.alpha.value()
    }

    /// E[ψ_η̂(r)·f(r)] over r ~ N(0, 1) for one fitted tail: the Rao-Blackwellised evaluation half.
    fn expected(&self, eta: &Eta) -> [f64; 2] {
        let bend = self.kappa / (2.0 * eta.s);
        let constant = -eta.q + bend * (eta.mu * eta.mu - (eta.q - eta.mu).powi(2));
        let linear = 1.0 - 2.0 * bend * eta.mu;
        self.table
            .above(eta.q)
            .map(|[i0, i1, i2]| (constant * i0 + linear * i1 + bend * i2) / self.alpha.value())
    }

    fn average(&self, eta: &Eta, rewards: &[f64], count: usize) -> [f64; 2] {
        let mut sum = [0.0; 2];
        for &r in rewards.iter().filter(|r| **r >= eta.q) {
            let (psi, f) = (self.psi(eta, r), score(r));
            sum[0] += psi * f[0];
            sum[1] += psi * f[1];
        }
        sum.map(|s| s / count as f64)
    }

    /// Controls of a fitted tail: the sample's own means of (1, r, r²) above the true threshold, less their expectations. To
    /// first order η̂ is a function of them.
    pub(super) fn tail_controls(&self, sample: &[f64]) -> [f64; 3] {
        let mut sum = [0.0; 3];
        for &r in sample.iter().filter(|r| **r >= self.eta.q) {
            sum[0] += 1.0;
            sum[1] += r;
            sum[2] += r * r;
        }
        std::array::from_fn(|l| sum[l] / sample.len() as f64 - self.moments[l])
    }

    /// Controls of an estimate that averages over the sample that its tail comes from: those of the tail, and the average with
    /// the true tail, less the truth.
    pub(super) fn own_controls(&self, sample: &[f64]) -> [f64; 5] {
        let [a, b, c] = self.tail_controls(sample);
        let known = self.average(&self.eta, sample, sample.len());
        [a, b, c, known[0] - self.truth[0], known[1] - self.truth[1]]
    }

    /// The paper's plug-in estimator (Eq. 11): the sample's own tail, no positive part, no centring. Reorders `rewards`.
    pub(super) fn plug_in(&self, rewards: &mut [f64]) -> [f64; 2] {
        let k = self.alpha.tail_size(rewards.len());
        let eta = Eta::fit(rewards, k);
        self.average(&eta, &rewards[..k], rewards.len())
    }

    /// TEA as it trains: positive part and centring.
    pub(super) fn trained(&self, rewards: &[f64]) -> [f64; 2] {
        let c = tea::TeaCoefficients {
            tail_size: self.alpha.tail_size(rewards.len()),
            kappa: self.kappa,
            inv_alpha: 1.0 / self.alpha.value(),
            min_scale: TeaParams::DEFAULT.min_scale,
        };
        let mut u = tea::scores(rewards, &c);
        crate::advantage::centre(&mut u);
        let mut sum = [0.0; 2];
        for (a, &r) in u.iter().zip(rewards) {
            let f = score(r);
            sum[0] += a * f[0];
            sum[1] += a * f[1];
        }
        sum.map(|s| s / rewards.len() as f64)
    }

    /// Cross-fitted Prefix-TEA of one group (2n,) with a plan for halves of n: its value, and its value with the evaluation
    /// half replaced by the expectation. `scratch` holds at least n numbers.
    pub(super) fn cross_fitted(
        &self,
        rewards: &[f64],
        plan: &PrefixPlan,
        scratch: &mut [f64],
    ) -> ([f64; 2], [f64; 2]) {
        let n = rewards.len() / 2;
        let (first, second) = rewards.split_at(n);
        let (mut value, mut expected) = ([0.0; 2], [0.0; 2]);
        for (&size, &weight) in plan.sizes.iter().zip(&plan.weights) {
            let prefix = &mut scratch[..size];
            prefix.copy_from_slice(&first[..size]);
            let eta = Eta::fit(prefix, self.alpha.tail_size(size));
            let (own, whole) = (self.average(&eta, &second[..size], size), self.expected(&eta));
            for c in 0..2 {
                value[c] += weight * own[c];
                expected[c] += weight * whole[c];
            }
        }
        (value, expected)
    }
}

/// `∫_q^∞ r^l·f_c(r)·φ(r) dr` for l = 0, 1, 2 and both components, as functions of q: values and slopes on a grid, cubic
/// between (error below 1e-11).
struct Integrals {
    values: Vec<[[f64; 3]; 2]>,
}

impl Integrals {
    const LOW: f64 = -3.0;
    const HIGH: f64 = 10.0;
    const PER_UNIT: f64 = 200.0;

    fn integrand(r: f64) -> [[f64; 3]; 2] {
        score(r).map(|f| [f, r * f, r * r * f].map(|x| x * normal_pdf(r)))
    }

    fn new() -> Self {
        // Simpson's rule over each piece, summed from the upper end, where everything is 0.
        let pieces = ((Self::HIGH - Self::LOW) * Self::PER_UNIT) as usize;
        let step = 1.0 / Self::PER_UNIT;
        let mut values = vec![[[0.0; 3]; 2]; pieces + 1];
        for i in (0..pieces).rev() {
            let low = Self::LOW + i as f64 * step;
            let (a, b, c) = (
                Self::integrand(low),
                Self::integrand(low + 0.5 * step),
                Self::integrand(low + step),
            );
            for (f, row) in a.iter().enumerate() {
                for (l, a) in row.iter().enumerate() {
                    values[i][f][l] = values[i + 1][f][l] + step / 6.0 * (a + 4.0 * b[f][l] + c[f][l]);
                }
            }
        }
        Self { values }
    }

    /// Integrals from `q` upwards, by component and power; q is held within the grid.
    fn above(&self, q: f64) -> [[f64; 3]; 2] {
        let place = ((q - Self::LOW) * Self::PER_UNIT).clamp(0.0, (self.values.len() - 1) as f64);
        let i = (place as usize).min(self.values.len() - 2);
        let (t, step) = (place - i as f64, 1.0 / Self::PER_UNIT);
        let low = Self::LOW + i as f64 * step;
        let (da, db) = (Self::integrand(low), Self::integrand(low + step));
        // Hermite's cubic; the slopes are minus the integrand.
        let (h10, h01, h11) = (
            t * (1.0 - t) * (1.0 - t),
            t * t * (3.0 - 2.0 * t),
            t * t * (t - 1.0),
        );
        std::array::from_fn(|f| {
            std::array::from_fn(|l| {
                let (a, b) = (self.values[i][f][l], self.values[i + 1][f][l]);
                a * (1.0 - h01) + b * h01 - step * (da[f][l] * h10 + db[f][l] * h11)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn expectations_match_a_fine_sum() {
        let problem = Problem::new("0.1".parse().unwrap(), 128).unwrap();
        for eta in [
            Eta {
                q: 1.281_551_565_544_600_4,
                mu: 1.754_983_319_324_868,
                s: 0.411_149,
            },
            Eta {
                q: 1.0137,
                mu: 1.6,
                s: 0.35,
            },
            Eta {
                q: 0.4,
                mu: 0.9,
                s: 0.3,
            },
        ] {
            let steps = 400_000;
            let h = (12.0 - eta.q) / f64::from(steps);
            let mut sum = [0.0; 2];
            for i in 0..steps {
                let r = eta.q + (f64::from(i) + 0.5) * h;
                let (psi, f) = (problem.psi(&eta, r), score(r));
                (0..2).for_each(|c| sum[c] += psi * f[c] * normal_pdf(r) * h);
            }
            let got = problem.expected(&eta);
            assert!(
                (got[0] - sum[0]).abs() < 1e-8 && (got[1] - sum[1]).abs() < 1e-8,
                "{got:?} vs {sum:?}"
            );
        }
    }

    #[test]
    fn the_plug_in_is_tea_without_positive_part() {
        let problem = Problem::new("0.1".parse().unwrap(), 128).unwrap();
        let rewards: Vec<f64> = (0..200).map(|i| f64::from((i * 37) % 200) / 40.0 - 2.5).collect();
        let params = TeaParams {
            alpha: problem.alpha,
            ..TeaParams::DEFAULT
        };
        let u = tea::scores(&rewards, &params.coefficients(200).unwrap());
        let eta = Eta::fit(&mut rewards.clone(), 20);
        for (r, u) in rewards.iter().zip(u) {
            assert!((problem.psi(&eta, *r).max(0.0) - u).abs() < 1e-12, "{r}");
        }
    }
}
