//! The study against what theory and method expect of it.
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
