//! Reward distributions of several evaluations: Gaussian kernel densities on one grid with one bandwidth.

use serde::Serialize;

use super::input::Rewards;
use super::tails::quantile;
use crate::error::{Error, Result};
use crate::report::{Align, Cell, Plot, Series, Table, XScale};

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DistributionConfig {
    /// Standard deviation of the kernel, in reward units; by default the largest of the evaluations' Silverman widths.
    pub bandwidth: Option<f64>,
    /// Points of the grid.
    pub points: usize,
}

/// One evaluation's rewards over all prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Density {
    /// The evaluation.
    pub label: String,
    /// Rewards in it.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (population).
    pub sd: f64,
    /// 10th, 50th, 90th and 99th percentile, and maximum.
    pub quantiles: [f64; 5],
    /// Density at each point of the grid, per reward unit.
    pub density: Vec<f64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// Standard deviation of the kernel.
    pub bandwidth: f64,
    /// Rewards at which the densities are given, evenly spaced.
    pub grid: Vec<f64>,
    /// By evaluation.
    pub evals: Vec<Density>,
}

/// Densities of several evaluations of the same prompts.
///
/// # Errors
/// A user error: fewer than 2 grid points, a bandwidth that is not positive, evaluations of different prompts.
pub fn distribution(evals: &[Rewards], config: &DistributionConfig) -> Result<Distribution> {
    if config.points < 2 {
        return Err(Error::user(format!(
            "--points is {}: a grid needs at least 2",
            config.points
        )));
    }
    same_prompts(evals)?;
    let pooled: Vec<Vec<f64>> = evals
        .iter()
        .map(|e| {
            let mut all: Vec<f64> = e.prompts.iter().flat_map(|(_, r)| r.iter().copied()).collect();
            all.sort_by(f64::total_cmp);
            all
        })
        .collect();
    let ends = pooled
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), all| {
            (low.min(all[0]), high.max(all[all.len() - 1]))
        });
    let bandwidth = match config.bandwidth {
        Some(h) if h > 0.0 && h.is_finite() => h,
        Some(h) => {
            return Err(Error::user(format!(
                "--bandwidth is {h}: it must be a positive number"
            )));
        }
        None => {
            let widest = pooled.iter().map(|all| silverman(all)).fold(0.0, f64::max);
            // Rewards that are all equal have no width of their own.
            if widest > 0.0 {
                widest
            } else {
                0.01 * ends.0.abs().max(1.0)
            }
        }
    };
    let (low, high) = (ends.0 - 3.0 * bandwidth, ends.1 + 3.0 * bandwidth);
    let step = (high - low) / (config.points - 1) as f64;
    let grid: Vec<f64> = (0..config.points).map(|i| low + step * i as f64).collect();
    let evals = evals
        .iter()
        .zip(&pooled)
        .map(|(e, all)| describe(&e.label, all, &grid, bandwidth))
        .collect();
    Ok(Distribution {
        bandwidth,
        grid,
        evals,
    })
}

fn same_prompts(evals: &[Rewards]) -> Result<()> {
    let Some((first, rest)) = evals.split_first() else {
        return Err(Error::user(
            "give at least one evaluation directory or rewards file",
        ));
    };
    // All rewards of an evaluation are pooled, so that the order of its prompts does not matter.
    let names = |of: &Rewards| {
        let mut names: Vec<String> = of.prompts.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    };
    let wanted = names(first);
    for other in rest {
        let (a, b) = (&first.prompts, &other.prompts);
        let differ = a.iter().zip(b).position(|(x, y)| x.0 != y.0);
        if names(other) != wanted {
            let place = differ.unwrap_or(a.len().min(b.len()));
            return Err(Error::user(format!(
                "{} and {} are not of the same prompts: they differ from prompt {} on ({} and {} prompts). Evaluate both on one \
                 prompt file",
                first.path.display(),
                other.path.display(),
                place + 1,
                a.len(),
                b.len()
            )));
        }
    }
    Ok(())
}

fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| v - values[0]).sum::<f64>() / n + values[0];
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Silverman's rule: 0.9·min(sd, IQR/1.34)·n^(−1/5); the sd alone where the IQR is 0.
fn silverman(ascending: &[f64]) -> f64 {
    let (_, sd) = mean_and_sd(ascending);
    let iqr = (quantile(ascending, 0.75) - quantile(ascending, 0.25)) / 1.34;
    let width = if iqr > 0.0 { sd.min(iqr) } else { sd };
    0.9 * width * (ascending.len() as f64).powf(-0.2)
}

fn describe(label: &str, ascending: &[f64], grid: &[f64], bandwidth: f64) -> Density {
    let (mean, sd) = mean_and_sd(ascending);
    let scale = 1.0 / (ascending.len() as f64 * bandwidth * std::f64::consts::TAU.sqrt());
    // Beyond 8 bandwidths the kernel is below 1e-13.
    let reach = 8.0 * bandwidth;
    let at = |&x: &f64| {
        let from = ascending.partition_point(|r| *r < x - reach);
        let near = ascending[from..].iter().take_while(|r| **r <= x + reach);
        let kernel = |r: &f64| libm::exp(-0.5 * ((x - r) / bandwidth).powi(2));
        scale * near.map(kernel).sum::<f64>()
    };
    let q = |p: f64| quantile(ascending, p);
    Density {
        label: label.to_string(),
        count: ascending.len(),
        mean,
        sd,
        quantiles: [q(0.1), q(0.5), q(0.9), q(0.99), q(1.0)],
        density: grid.iter().map(at).collect(),
    }
}

impl Distribution {
    /// A row an evaluation.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            ("rewards", Align::Left),
            ("count", Align::Right),
            ("mean", Align::Right),
            ("sd", Align::Right),
            ("p10", Align::Right),
            ("p50", Align::Right),
            ("p90", Align::Right),
            ("p99", Align::Right),
            ("max", Align::Right),
        ]);
        let number = |value: f64| Cell::Number { value, digits: 3 };
        for e in &self.evals {
            let mut row: Vec<Cell> = vec![
                e.label.clone().into(),
                e.count.into(),
                number(e.mean),
                number(e.sd),
            ];
            row.extend(e.quantiles.map(number));
            table.push(row);
        }
        table
    }

    /// The densities over rewards.
    pub fn plot(&self) -> Plot {
        let series = |e: &Density| {
            Series::line(
                e.label.clone(),
                self.grid.iter().copied().zip(e.density.iter().copied()),
            )
        };
        Plot {
            title: "Rewards over all prompts and responses".into(),
            x_label: "reward".into(),
            y_label: format!("density (Gaussian kernel, width {:.3})", self.bandwidth),
            x_scale: XScale::Linear,
            series: self.evals.iter().map(series).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::advantage::tail::{normal_pdf, normal_quantile};

    fn eval(name: &str, prompts: &[(&str, Vec<f64>)]) -> Rewards {
        Rewards {
            label: name.into(),
            path: name.into(),
            prompts: prompts
                .iter()
                .map(|(n, r)| ((*n).to_string(), r.clone()))
                .collect(),
        }
    }

    const CONFIG: DistributionConfig = DistributionConfig {
        bandwidth: None,
        points: 401,
    };

    #[test]
    fn densities_have_mass_one_and_the_right_height() {
        let normal: Vec<f64> = (0..4000)
            .map(|i| normal_quantile((f64::from(i) + 0.5) / 4000.0))
            .collect();
        let shifted: Vec<f64> = normal.iter().map(|r| r + 2.0).collect();
        let found = distribution(
            &[eval("a", &[("0", normal)]), eval("b", &[("0", shifted)])],
            &CONFIG,
        )
        .unwrap();
        let step = found.grid[1] - found.grid[0];
        for (e, centre) in found.evals.iter().zip([0.0, 2.0]) {
            // A few parts in 10⁴ of the kernel lie beyond the grid's ends.
            assert!((e.density.iter().sum::<f64>() * step - 1.0).abs() < 2e-3);
            assert!(
                (e.mean - centre).abs() < 1e-9 && (e.sd - 1.0).abs() < 2e-3,
                "{e:?}"
            );
            let widened = (1.0 + found.bandwidth * found.bandwidth).sqrt();
            for (x, d) in found.grid.iter().zip(&e.density) {
                let want = normal_pdf((x - centre) / widened) / widened;
                assert!((d - want).abs() < 2e-3, "at {x}: {d} vs {want}");
            }
        }
        assert!((found.evals[0].quantiles[2] - 1.2816).abs() < 2e-3);
    }

    #[test]
    fn odd_evaluations_are_refused_or_drawn() {
        let a = eval("a", &[("x", vec![1.0, 2.0]), ("y", vec![1.0])]);
        for other in [
            eval("b", &[("x", vec![1.0])]),
            eval("b", &[("x", vec![1.0]), ("z", vec![1.0])]),
        ] {
            let error = distribution(&[a.clone(), other], &CONFIG).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("prompt 2"),
                "{error}"
            );
        }
        let bad = |bandwidth, points| DistributionConfig { bandwidth, points };
        assert!(distribution(std::slice::from_ref(&a), &bad(Some(0.0), 10)).is_err());
        assert!(distribution(std::slice::from_ref(&a), &bad(None, 1)).is_err());
        assert!(distribution(&[], &CONFIG).is_err());
        let equal = distribution(&[eval("c", &[("x", vec![1e4; 5])])], &CONFIG).unwrap();
        assert!(equal.bandwidth > 0.0 && equal.evals[0].density.iter().all(|d| d.is_finite()));
        assert_eq!(equal.evals[0].sd, 0.0);
    }
}
