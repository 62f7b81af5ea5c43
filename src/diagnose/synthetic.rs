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
//! The variance is each estimator's own, and `MSE(B) = |bias|² + variance/B` for a batch of B prompts. The squared norm of a
//! noisy mean exceeds that of its expectation by the mean's variance, which is taken off: `|bias|²` is estimated without
//! bias, and may come out below 0 where it cannot be told from it.

use serde::Serialize;

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

/// Values and bias samples of every estimator.
type Tally = ([Moments<2>; 4], [Moments<2>; 4]);

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
    let mut all: Tally = ([Moments::EMPTY; 4], [Moments::EMPTY; 4]);
    replicate(
        config.seed,
        m as u64,
        config.replicates,
        |draws, n| chunk(problem, &plans, m, draws, n),
        |part| {
            for e in 0..4 {
                all.0[e].merge(&part.0[e]);
                all.1[e].merge(&part.1[e]);
            }
        },
    );
    let one = |e: usize| {
        let (value, bias) = (&all.0[e], &all.1[e]);
        let mean = bias.mean();
        let found = Measured {
            estimator: ESTIMATORS[e],
            m,
            bias: mean[0].hypot(mean[1]),
            bias_error: bias.standard_error(),
            squared_bias: 0.0,
            squared_bias_error: 0.0,
            resolved: false,
            variance: value.variance(),
            mse: Vec::new(),
        };
        found.complete()
    };
    Ok((0..4).map(one).collect())
}

fn chunk(problem: &Problem, plans: &[PrefixPlan], m: usize, draws: &mut Draws, n: u64) -> Tally {
    let (mut values, mut biases) = ([Moments::EMPTY; 4], [Moments::EMPTY; 4]);
    let (mut rewards, mut scratch) = (vec![0.0; m], vec![0.0; m]);
    let minus = |a: [f64; 2], b: [f64; 2]| [a[0] - b[0], a[1] - b[1]];
    for _ in 0..n {
        draws.normals(&mut rewards);
        for (e, plan) in plans.iter().enumerate() {
            let (value, expected) = problem.cross_fitted(&rewards, plan, &mut scratch);
            values[e + 1].add(value);
            biases[e + 1].add(minus(expected, problem.truth));
        }
        let trained = problem.trained(&rewards);
        values[3].add(trained);
        biases[3].add(minus(trained, problem.truth));
        let plug_in = problem.plug_in(&mut rewards); // reorders
        values[0].add(plug_in);
        biases[0].add(minus(plug_in, problem.truth));
    }
    (values, biases)
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
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn study(sizes: &[usize], replicates: u64) -> Synthetic {
        let config = SyntheticConfig {
            alpha: "0.1".parse().unwrap(),
            bon: 128,
            sizes: sizes.to_vec(),
            replicates,
            seed: 1,
        };
        synthetic(&config).unwrap()
    }

    fn at<'a>(study: &'a Synthetic, estimator: &str, m: usize) -> &'a Measured {
        study
            .measured
            .iter()
            .find(|x| x.estimator == estimator && x.m == m)
            .unwrap()
    }

    /// What method and theory expect, each within 4 standard errors of this run (relative error of a variance: √(2κ/R),
    /// with heavy tails taken as 10/√R).
    #[test]
    fn biases_and_variances_are_the_expected_ones() {
        let replicates = 6_000;
        let study = study(&[256, 1024], replicates);
        let near = |x: &Measured, want: f64, slack: f64| {
            assert!(
                (x.bias - want).abs() < RESOLVED * x.bias_error + slack,
                "{} m {}: bias {} ± {} where {want} is expected",
                x.estimator,
                x.m,
                x.bias,
                x.bias_error
            );
        };
        // The expectations are rounded to the third decimal.
        near(at(&study, "tea-plug-in", 256), 0.022, 5e-4);
        near(at(&study, "tea-plug-in", 1024), 0.006, 5e-4);
        near(at(&study, "prefix-tea-2", 256), 0.076, 5e-4);
        near(at(&study, "tea-trained", 1024), 0.11, 5e-3);
        for m in [256, 1024] {
            let tea = at(&study, "tea-plug-in", m);
            let scaled = tea.variance * m as f64;
            let slack = 10.0 / (replicates as f64).sqrt();
            assert!(
                scaled > 7.6 * (1.0 - slack) && scaled < 8.6 * (1.0 + slack),
                "m {m}: {scaled}"
            );
            for prefix in ["prefix-tea-2", "prefix-tea-3"] {
                let ratio = at(&study, prefix, m).variance / tea.variance;
                assert!(
                    ratio > 15.0 * (1.0 - 2.0 * slack) && ratio < 50.0 * (1.0 + 2.0 * slack),
                    "{prefix} {m}: {ratio}"
                );
            }
        }
        let (tea, prefix) = (at(&study, "tea-plug-in", 256), at(&study, "prefix-tea-2", 256));
        assert!(prefix.bias - tea.bias > RESOLVED * prefix.bias_error.hypot(tea.bias_error));
        assert_eq!(study.crossovers.iter().find(|c| c.m == 256).unwrap().batch, None);
        // With positive part and centring the bias does not fall with m.
        let trained = at(&study, "tea-trained", 1024);
        assert!(trained.bias > 10.0 * at(&study, "tea-plug-in", 1024).bias && trained.resolved);
    }

    /// From a few thousand prompts a batch on, Prefix-TEA's mean squared error is below TEA's at m = 2048: its bias has
    /// fallen below, beyond 4 standard errors of the difference, while its variance is 10 to 20 times TEA's.
    #[test]
    fn prefix_tea_wins_at_large_prompt_batches() {
        let study = study(&[2048], 40_000);
        let (tea, prefix) = (at(&study, "tea-plug-in", 2048), at(&study, "prefix-tea-2", 2048));
        let crossover = &study.crossovers[0];
        assert_eq!((crossover.estimator, crossover.m), ("prefix-tea-2", 2048));
        assert!(crossover.resolved, "{tea:?} {prefix:?}");
        // (143 − 8.7)/2048 over 0.0034² − 0: 5,800, give or take a quarter for the error of TEA's squared bias.
        let batch = crossover.batch.unwrap();
        assert!((3_000.0..12_000.0).contains(&batch), "{batch}");
        for (b, wins) in [
            (1.0, false),
            (100.0, false),
            (0.5 * batch, false),
            (2.0 * batch, true),
            (1e5, true),
        ] {
            assert_eq!(
                prefix.mse_at(b) < tea.mse_at(b),
                wins,
                "a batch of {b}: {tea:?} {prefix:?}"
            );
        }
        let gap = tea.mse_at(1e5) - prefix.mse_at(1e5);
        assert!(
            gap > RESOLVED * tea.squared_bias_error.hypot(prefix.squared_bias_error),
            "{gap}"
        );
    }

    /// Short simulations scatter about the long one's squared bias, instead of above it by their own noise.
    #[test]
    fn the_noise_of_the_bias_is_not_part_of_its_square() {
        let runs: Vec<f64> = (0..120)
            .map(|seed| {
                let config = SyntheticConfig {
                    seed: 1000 + seed,
                    ..study(&[256], 2).config
                };
                let few = synthetic(&SyntheticConfig {
                    replicates: 64,
                    ..config
                })
                .unwrap();
                at(&few, "prefix-tea-2", 256).squared_bias
            })
            .collect();
        let n = runs.len() as f64;
        let mean = runs.iter().sum::<f64>() / n;
        let error = (runs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        // 0.0791² in 40,000 replicates. With its noise it would be 0.0110 more: trace 0.69 (Rao-Blackwellised) over 64.
        assert!((mean - 0.0063).abs() < 4.0 * error, "{mean} ± {error}");
        assert!(4.0 * error < 0.0110, "{error}: too coarse to tell");
    }

    #[test]
    fn slopes_use_resolved_biases_only_and_bad_settings_are_named() {
        let row = |m: usize, bias: f64| Measured {
            estimator: "tea-plug-in",
            m,
            bias,
            bias_error: 1e-3,
            squared_bias: 0.0,
            squared_bias_error: 0.0,
            resolved: false,
            variance: 8.0 / m as f64,
            mse: Vec::new(),
        };
        let row = |m, bias| row(m, bias).complete();
        let rows = [row(256, 0.04), row(512, 0.02), row(1024, 0.01), row(2048, 0.003)];
        let fitted = slope("tea-plug-in", &rows);
        assert!((fitted.slope.unwrap() + 1.0).abs() < 1e-12 && fitted.sizes == [256, 512, 1024]);
        assert_eq!(slope("tea-plug-in", &rows[..1]).slope, None);

        let config = |sizes: &[usize], replicates| SyntheticConfig {
            alpha: "0.1".parse().unwrap(),
            bon: 128,
            sizes: sizes.to_vec(),
            replicates,
            seed: 1,
        };
        for (config, part) in [
            (config(&[40], 10), "--sizes holds 40"),
            (config(&[], 10), "--sizes is empty"),
            (config(&[256], 1), "--replicates is 1"),
            (
                SyntheticConfig {
                    bon: 4,
                    ..config(&[256], 10)
                },
                "N = 4",
            ),
        ] {
            let error = synthetic(&config).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(part),
                "{error}"
            );
        }
    }
}
