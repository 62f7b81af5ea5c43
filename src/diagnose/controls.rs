//! Means by simulation with control variates: numbers of known expectation that vary with what is estimated.
//!
//! With y the quantity and x controls of expectation 0, the mean is estimated as `ȳ − βᵀx̄`, β the least-squares slope of y on
//! x: what of y's noise the controls explain is taken off. β is estimated from the same replicates, which adds a bias of order
//! 1/R to a standard error of order 1/√R (Glasserman, "Monte Carlo Methods in Financial Engineering", 2003, §4.1).

/// Replicates for each control, at least; with fewer the plain mean is more trustworthy.
const LEAST: usize = 40;

/// The mean of a pair of numbers over replicates, with controls.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Controlled {
    count: u64,
    y: [f64; 2],
    yy: [f64; 2],
    /// Sums of the controls (p,), their products (p × p) and their products with y (p × 2).
    x: Vec<f64>,
    xx: Vec<f64>,
    xy: Vec<[f64; 2]>,
}

impl Controlled {
    /// Nothing yet, for `controls` controls.
    pub(super) fn new(controls: usize) -> Self {
        Self {
            count: 0,
            y: [0.0; 2],
            yy: [0.0; 2],
            x: vec![0.0; controls],
            xx: vec![0.0; controls * controls],
            xy: vec![[0.0; 2]; controls],
        }
    }

    /// One replicate: `y`, and controls `x` (p,) of expectation 0.
    pub(super) fn add(&mut self, y: [f64; 2], x: &[f64]) {
        let p = self.x.len();
        self.count += 1;
        for c in [0, 1] {
            self.y[c] += y[c];
            self.yy[c] += y[c] * y[c];
        }
        for i in 0..p {
            self.x[i] += x[i];
            for c in [0, 1] {
                self.xy[i][c] += x[i] * y[c];
            }
            for j in 0..p {
                self.xx[i * p + j] += x[i] * x[j];
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        let sum = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        sum(&mut self.y, &other.y);
        sum(&mut self.yy, &other.yy);
        sum(&mut self.x, &other.x);
        sum(&mut self.xx, &other.xx);
        sum(self.xy.as_flattened_mut(), other.xy.as_flattened());
    }

    /// The mean, and its standard error: the root of the trace of its covariance.
    pub(super) fn mean(&self) -> ([f64; 2], f64) {
        let (n, p) = (self.count as f64, self.x.len());
        let plain = self.y.map(|y| y / n);
        let spread: [f64; 2] = std::array::from_fn(|c| self.yy[c] - self.y[c] * self.y[c] / n);
        let about = |i: usize, j: usize| self.xx[i * p + j] - self.x[i] * self.x[j] / n;
        let with: Vec<[f64; 2]> = (0..p)
            .map(|i| std::array::from_fn(|c| self.xy[i][c] - self.x[i] * self.y[c] / n))
            .collect();
        let square: Vec<f64> = (0..p * p).map(|k| about(k / p, k % p)).collect();
        let slopes = match self.count as usize >= LEAST * p.max(1) {
            true => solve(square, with.clone()),
            false => None,
        };
        let Some(slopes) = slopes else {
            return (plain, ((spread[0] + spread[1]) / (n - 1.0) / n).sqrt());
        };
        let mut left = 0.0;
        let mean = std::array::from_fn(|c| {
            let dot = |of: &dyn Fn(usize) -> f64| (0..p).map(|i| slopes[i][c] * of(i)).sum::<f64>();
            left += (spread[c] - dot(&|i| with[i][c])).max(0.0);
            plain[c] - dot(&|i| self.x[i] / n)
        });
        (mean, (left / (n - 1.0 - p as f64) / n).sqrt())
    }
}

/// Solves the symmetric positive definite system (p × p) for two right-hand sides (p × 2) by Cholesky's factorisation; `None`
/// where it is singular.
fn solve(mut a: Vec<f64>, mut b: Vec<[f64; 2]>) -> Option<Vec<[f64; 2]>> {
    let p = b.len();
    // To a unit diagonal first: controls of different sizes.
    let scale: Vec<f64> = (0..p).map(|i| 1.0 / a[i * p + i].sqrt()).collect();
    for i in 0..p {
        for j in 0..p {
            a[i * p + j] *= scale[i] * scale[j];
        }
        b[i] = b[i].map(|x| x * scale[i]);
    }
    for j in 0..p {
        for i in j..p {
            let sum: f64 = (0..j).map(|k| a[i * p + k] * a[j * p + k]).sum();
            let left = a[i * p + j] - sum;
            if i > j {
                a[i * p + j] = left / a[j * p + j];
            } else if left > 1e-10 {
                a[j * p + j] = left.sqrt();
            } else {
                return None;
            }
        }
    }
    for c in [0, 1] {
        for i in 0..p {
            let sum: f64 = (0..i).map(|k| a[i * p + k] * b[k][c]).sum();
            b[i][c] = (b[i][c] - sum) / a[i * p + i];
        }
        for i in (0..p).rev() {
            let sum: f64 = (i + 1..p).map(|k| a[k * p + i] * b[k][c]).sum();
            b[i][c] = (b[i][c] - sum) / a[i * p + i];
        }
    }
    b.iter_mut().zip(scale).for_each(|(b, s)| *b = b.map(|x| x * s));
    Some(b)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::diagnose::simulate::{Draws, replicate};

    /// y = (3, −1) + slopes·x + noise of deviation `noise`, x two correlated controls of very different size.
    fn run(replicates: u64, noise: f64, seed: u64) -> Controlled {
        let mut all = Controlled::new(2);
        let work = |draws: &mut Draws, n: u64| {
            let mut part = Controlled::new(2);
            for _ in 0..n {
                let mut z = [0.0; 4];
                draws.normals(&mut z);
                let x = [z[0], 1e-3 * (z[0] + z[1])];
                let y = [
                    3.0 + 2.0 * x[0] + 500.0 * x[1] + noise * z[2],
                    -1.0 - 4.0 * x[0] + noise * z[3],
                ];
                part.add(y, &x);
            }
            part
        };
        replicate(seed, 3, replicates, work, |part| all.merge(&part));
        all
    }

    #[test]
    fn what_controls_explain_is_taken_off() {
        let (mean, error) = run(4_000, 0.1, 1).mean();
        // Without controls the trace is 2.5² + 0.5² + 4² + 2·0.1² = 22.5; with them 0.02.
        let want = (0.02_f64 / 4_000.0).sqrt();
        assert!((error / want - 1.0).abs() < 0.05, "{error} against {want}");
        assert!((mean[0] - 3.0).hypot(mean[1] + 1.0) < 4.0 * want, "{mean:?}");
        // Too few replicates for a slope: the plain mean and its error.
        let few = run(64, 0.1, 2).mean();
        assert!((few.1 / (22.5_f64 / 64.0).sqrt() - 1.0).abs() < 0.3, "{few:?}");
        // The error is the spread of the means over runs.
        let runs: Vec<[f64; 2]> = (0..200).map(|seed| run(256, 1.0, seed).mean().0).collect();
        let square: f64 = runs
            .iter()
            .map(|m| (m[0] - 3.0).powi(2) + (m[1] + 1.0).powi(2))
            .sum();
        let spread = (square / 200.0).sqrt();
        let said = run(256, 1.0, 7).mean().1;
        // The spread of 200 pairs is known to 5%, a run's own to 4.4%.
        assert!((spread / said - 1.0).abs() < 0.25, "{spread} against {said}");
    }

    #[test]
    fn a_control_that_says_nothing_new_is_survived() {
        let mut same = Controlled::new(2);
        for i in 0..400 {
            let x = f64::from(i % 7) - 3.0;
            same.add([x, 1.0], &[x, 2.0 * x]);
        }
        let (mean, error) = same.mean();
        assert!(
            mean[1] == 1.0 && error.is_finite() && error > 0.0,
            "{mean:?} {error}"
        );
    }
}
