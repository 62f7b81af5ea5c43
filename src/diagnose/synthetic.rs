//! The synthetic study: what TEA and Prefix-TEA estimate where the truth is known (arXiv 2605.10716, Table 15).
//!
//! Rewards r ~ N(0, 1), score f(r) = (tanh r, sin r); the truth E[ψ_η(r)·f(r)] by quadrature. Compared are
//!
//! - **tea-plug-in**, the paper's Eq. 11: ψ with the sample's own tail, neither positive part nor centring;
//! - **prefix-tea-2** and **-3**, the theoretical cross-fitted form of order p = 2 with J = 2 and 3 prefixes: tail statistics from prefixes of one half of the
//!   group, ψ averaged over the same prefixes of the other half, combined by weights built on n = ⌊m/2⌋. Its bias is
//!   Rao-Blackwellised: the evaluation half is replaced by its expectation;
//! - **tea-trained**, TEA as it trains, with positive part and centring.
//!
//! Biases are means with control variates (averages above the true threshold, of known expectation, to
//! which an estimate's error is linear but for terms of the order of the bias itself.
//!
//! The variance is each estimator's own, and `MSE(B) = |bias|² + variance/B` for a batch of B prompts. The squared norm of a
//! noisy mean exceeds that of its expectation by the mean's variance, which is taken off: `|bias|²` is estimated without
//! bias, and may come out below 0 where it cannot be told from it.

use serde::Serialize;

use super::controls::Controlled;
use super::estimators::Problem;
use super::simulate::{Draws, Moments, replicate};
use crate::advantage::Alpha;
use crate::advantage::prefix_tea::PrefixPlan;
use crate::error::{Error, Result};

/// Names of the estimators, in the order of every list here.
pub const ESTIMATORS: [&str; 4] = ["tea-plug-in", "prefix-tea-2", "prefix-tea-3", "tea-trained"];
/// Prefixes J of the cross-fitted forms.
const PREFIXES: [usize; 2] = [2, 3];
/// Their order p.
const ORDER: usize = 2;
/// A bias smaller than this many standard errors is not told from 0, and enters no slope.
pub const RESOLVED: f64 = 4.0;

/// Settings of the study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SyntheticConfig {
    /// Tail share α (the paper: 0.1).
    pub alpha: Alpha,
    /// Deployment budget N.
    pub bon: u64,
    /// Group sizes m.
    pub sizes: Vec<usize>,
    /// Groups simulated at each m.
    pub replicates: u64,
    /// Seed.
    pub seed: u64,
}

impl SyntheticConfig {
    /// The prompt batches at which the MSE is given.
    pub const BATCHES: [f64; 6] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5];
}

/// One estimator at one group size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// One of [`ESTIMATORS`].
    pub estimator: &'static str,
    /// Group size m.
    pub m: usize,
    /// Norm of the mean deviation from the truth; noise alone gives it about [`Measured::bias_error`].
    pub bias: f64,
    /// Its Monte Carlo standard error.
    pub bias_error: f64,
    /// |bias|², without the square of that error.
    pub squared_bias: f64,
    /// Its Monte Carlo standard error (an upper bound, reached where all noise lies along the bias), and so the MSE's.
    pub squared_bias_error: f64,
    /// Whether the bias is more than [`RESOLVED`] standard errors.
    pub resolved: bool,
    /// Trace of the covariance of one group's estimate.
    pub variance: f64,
    /// MSE at each of [`SyntheticConfig::BATCHES`].
    pub mse: Vec<f64>,
}

impl Measured {
    /// `|bias|² + variance/B`; a squared bias estimated below 0 counts as 0.
    pub fn mse_at(&self, batch: f64) -> f64 {
        self.squared_bias.max(0.0) + self.variance / batch
    }

    /// Fills in what follows from bias and variance. With a mean b + e, `Var |b + e|² ≤ 4|b|²·tr + 2·tr²` for normal e of
    /// covariance trace tr.
    fn complete(mut self) -> Self {
        let noise = self.bias_error * self.bias_error;
        self.squared_bias = self.bias * self.bias - noise;
        self.squared_bias_error = (4.0 * self.squared_bias.max(0.0) * noise + 2.0 * noise * noise).sqrt();
        self.resolved = self.bias > RESOLVED * self.bias_error;
        self.mse = SyntheticConfig::BATCHES.iter().map(|&b| self.mse_at(b)).collect();
        self
    }
}

/// How an estimator's bias falls with m: the least-squares slope of log bias on log m.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slope {
    /// One of [`ESTIMATORS`].
    pub estimator: &'static str,
    /// The slope (TEA's theory: −1); `None` with fewer than 2 resolved biases.
    pub slope: Option<f64>,
    /// Group sizes that entered.
    pub sizes: Vec<usize>,
}

/// From which prompt batch on Prefix-TEA's MSE is below TEA's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crossover {
    /// The Prefix-TEA form.
    pub estimator: &'static str,
    /// Group size m.
    pub m: usize,
    /// The batch size B; `None` where TEA's bias is the smaller one.
    pub batch: Option<f64>,
    /// Whether the difference of the squared biases is beyond 4 of its standard errors: else the batch is uncertain.
    pub resolved: bool,
}

/// What the study found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Synthetic {
    /// Settings.
    pub config: SyntheticConfig,
    /// The truth.
    pub truth: [f64; 2],
    /// By group size, then estimator.
    pub measured: Vec<Measured>,
    /// By estimator.
    pub slopes: Vec<Slope>,
    /// By Prefix-TEA form, then group size.
    pub crossovers: Vec<Crossover>,
}

/// Values and deviations from the truth of every estimator.
struct Tally {
    values: [Moments<2>; 4],
    biases: [Controlled; 4],
}

impl Tally {
    fn new(plans: &[PrefixPlan]) -> Self {
        let own = || Controlled::new(5);
        let [two, three] = [0, 1].map(|e: usize| Controlled::new(3 * plans[e].sizes.len()));
        Self {
            values: [Moments::EMPTY; 4],
            biases: [own(), two, three, own()],
        }
    }
}

/// Runs the study.
///
/// # Errors
/// A user error: α, N or κ out of range, no or too small sizes for three prefixes of half a group, or fewer than 2
/// replicates.
pub fn synthetic(config: &SyntheticConfig) -> Result<Synthetic> {
    let problem = Problem::new(config.alpha, config.bon)?;
    if config.replicates < 2 {
        return Err(Error::user(format!(
            "--replicates is {}: a variance needs at least 2",
            config.replicates
        )));
    }
    if config.sizes.is_empty() {
        return Err(Error::user(
            "--sizes is empty: give group sizes such as 256,512,1024",
        ));
    }
    let mut measured = Vec::new();
    for &m in &config.sizes {
        measured.extend(at_size(&problem, config, m)?);
    }
    Ok(Synthetic {
        truth: problem.truth,
        slopes: ESTIMATORS.iter().map(|e| slope(e, &measured)).collect(),
        crossovers: crossovers(&measured, &config.sizes),
        config: config.clone(),
        measured,
    })
}

fn at_size(problem: &Problem, config: &SyntheticConfig, m: usize) -> Result<Vec<Measured>> {
    let half = m / 2;
    let plan = |&j: &usize| PrefixPlan::new(half, config.alpha, ORDER, j);
    let plans = PREFIXES.iter().map(plan).collect::<Result<Vec<_>>>().map_err(|e| {
        Error::user(format!(
            "--sizes holds {m}, which is too small: the study cuts half of each group, {half} responses, into up to 3 prefixes ({e})"
        ))
    })?;
    let mut all = Tally::new(&plans);
    replicate(
        config.seed,
        m as u64,
        config.replicates,
        |draws, n| chunk(problem, &plans, m, draws, n),
        |part| {
            for e in 0..4 {
                all.values[e].merge(&part.values[e]);
                all.biases[e].merge(&part.biases[e]);
            }
        },
    );
    let one = |e: usize| {
        let (mean, bias_error) = all.biases[e].mean();
        let found = Measured {
            estimator: ESTIMATORS[e],
            m,
            bias: mean[0].hypot(mean[1]),
            bias_error,
            squared_bias: 0.0,
            squared_bias_error: 0.0,
            resolved: false,
            variance: all.values[e].variance(),
            mse: Vec::new(),
        };
        found.complete()
    };
    Ok((0..4).map(one).collect())
}

fn chunk(problem: &Problem, plans: &[PrefixPlan], m: usize, draws: &mut Draws, n: u64) -> Tally {
    let Tally {
        mut values,
        mut biases,
    } = Tally::new(plans);
    let mut controls = Vec::new();
    let (mut rewards, mut scratch) = (vec![0.0; m], vec![0.0; m]);
    let minus = |a: [f64; 2], b: [f64; 2]| [a[0] - b[0], a[1] - b[1]];
    for _ in 0..n {
        draws.normals(&mut rewards);
        for (e, plan) in plans.iter().enumerate() {
            let (value, expected) = problem.cross_fitted(&rewards, plan, &mut scratch);
            values[e + 1].add(value);
            let first = &rewards[..m / 2];
            controls.clear();
            for size in &plan.sizes {
                controls.extend(problem.tail_controls(&first[..*size]));
            }
            biases[e + 1].add(minus(expected, problem.truth), &controls);
        }
        let own = problem.own_controls(&rewards);
        let trained = problem.trained(&rewards);
        values[3].add(trained);
        biases[3].add(minus(trained, problem.truth), &own);
        let plug_in = problem.plug_in(&mut rewards); // reorders
        values[0].add(plug_in);
        biases[0].add(minus(plug_in, problem.truth), &own);
    }
    Tally { values, biases }
}

fn slope(estimator: &'static str, measured: &[Measured]) -> Slope {
    let used: Vec<&Measured> = measured
        .iter()
        .filter(|x| x.estimator == estimator && x.resolved)
        .collect();
    let points: Vec<(f64, f64)> = used.iter().map(|x| ((x.m as f64).ln(), x.bias.ln())).collect();
    let n = points.len() as f64;
    let (mx, my) = points
        .iter()
        .fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let spread: f64 = points.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    Slope {
        estimator,
        slope: (spread > 0.0).then(|| points.iter().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / spread),
        sizes: used.iter().map(|x| x.m).collect(),
    }
}

fn crossovers(measured: &[Measured], sizes: &[usize]) -> Vec<Crossover> {
    let find = |e: &str, m: usize| measured.iter().find(|x| x.estimator == e && x.m == m);
    let mut out = Vec::new();
    for estimator in &ESTIMATORS[1..3] {
        for &m in sizes {
            let (Some(tea), Some(prefix)) = (find(ESTIMATORS[0], m), find(estimator, m)) else {
                continue;
            };
            let gain = tea.squared_bias - prefix.squared_bias;
            let error = tea.squared_bias_error.hypot(prefix.squared_bias_error);
            out.push(Crossover {
                estimator,
                m,
                batch: (gain > 0.0).then(|| ((prefix.variance - tea.variance) / gain).max(1.0)),
                resolved: gain.abs() > RESOLVED * error,
            });
        }
    }
    out
}

#[cfg(test)]
#[path = "synthetic_tests.rs"]
mod tests;
