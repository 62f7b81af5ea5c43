//! TEA-GPD against golden cases, finite differences of its surrogate, and TEA.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;

use super::*;
use crate::advantage::tail::{expected_max_normal, normal_isf};

fn params(shrinkage: f64) -> TeaGpdParams {
    TeaGpdParams {
        shrinkage,
        ..TeaGpdParams::DEFAULT
    }
}

/// `m` quantiles of a law at the middles of equal shares, from the largest down: the law without sampling noise.
fn grid(m: usize, upper_quantile: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..m)
        .map(|i| upper_quantile((i as f64 + 0.5) / m as f64))
        .collect()
}

fn surrogate(rewards: &[f64], c: &TeaGpdCoefficients) -> f64 {
    let fit = ParetoFit::new(&rewards[..c.gaussian.tail_size], c).unwrap();
    fit.best_of_n()
}

#[test]
fn golden_cases() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/tea_gpd.json")).unwrap();
    let numbers = |v: &Value| -> Vec<f64> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect()
    };
    let (mut fitted, mut fallen) = (0, 0);
    for (i, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
        let settings = &case["params"];
        let params = TeaGpdParams {
            alpha: Alpha::new(settings["alpha"].as_f64().unwrap()).unwrap(),
            bon: settings["n"].as_u64().unwrap(),
            shrinkage: settings["shrinkage"].as_f64().unwrap(),
            ..TeaGpdParams::DEFAULT
        };
        let rewards = numbers(&case["rewards"]);
        let got = advantages(&rewards, &params).unwrap();
        for (j, (g, w)) in got
            .advantages
            .iter()
            .zip(numbers(&case["advantages"]))
            .enumerate()
        {
            // Relative beyond 1; rewards near 1e4 are multiples of 2⁻²⁰, so counting from the maximum is exact.
            assert!(
                (g - w).abs() <= 1e-9 * w.abs().max(1.0),
                "case {i} sample {j}: {g} vs {w}"
            );
        }
        assert_eq!(got.fell_back(), case["fallback"], "case {i}");
        if let (Some(fit), Some(xi)) = (got.fit, case["xi"].as_f64()) {
            fitted += 1;
            assert!((fit.shape - xi).abs() < 1e-9, "case {i}: {} vs {xi}", fit.shape);
            let predicted = got.tail.predicted_best(got.kappa).unwrap();
            let want = case["predicted_bon"].as_f64().unwrap();
            assert!(
                (predicted - want).abs() < 1e-9 * want.abs().max(1.0),
                "case {i}: {predicted} vs {want}"
            );
        } else if case["fallback"] == true {
            fallen += 1;
        }
    }
    assert!(fitted >= 60 && fallen >= 5, "{fitted} fits, {fallen} fallbacks");
}

/// d/dθ of the surrogate of a family of laws equals the mean of ψ times the family's score.
#[test]
fn psi_is_the_gradient_of_the_surrogate() {
    let m = 40_000;
    let pareto = |u: f64| (u.powf(-0.2) - 1.0) / 0.2;
    // A law, and at the reward r the derivative in θ of the law's log density: scale families r → r·e^θ.
    type Law<'a> = (&'a str, &'a dyn Fn(f64) -> f64, &'a dyn Fn(f64) -> f64);
    let laws: [Law; 3] = [
        ("normal", &normal_isf, &|r| r * r - 1.0),
        ("exponential", &|u: f64| -u.ln(), &|r| r - 1.0),
        ("pareto", &pareto, &|r| 1.2 * r / (1.0 + 0.2 * r) - 1.0),
    ];
    // Shrinkage of half the tail, so that its part in the gradient is seen too.
    for prior in [0.0, 8000.0] {
        let c = params(prior).coefficients(m).unwrap();
        for (name, quantile, score) in &laws {
            let rewards = grid(m, quantile);
            let scaled = |t: f64| rewards.iter().map(|r| r * f64::exp(t)).collect::<Vec<_>>();
            let want = (surrogate(&scaled(1e-4), &c) - surrogate(&scaled(-1e-4), &c)) / 2e-4;
            let (k, c) = (c.gaussian.tail_size, &c);
            let psi = ParetoFit::new(&rewards[..k], c).unwrap().psi(&rewards[..k], 5.0);
            let got: f64 = psi.iter().zip(&rewards).map(|(p, r)| p * score(*r)).sum::<f64>() / m as f64;
            // The grid cuts the tail at its last point: 1/m of mass, weighed by a heavy score.
            assert!(
                (got / want - 1.0).abs() < 4e-3,
                "{name} prior {prior}: {got} vs {want}"
            );
        }
        // A mixture with a point at r: d/dε of the surrogate of (1 − ε)·law + ε·δ_r is ψ(r) − mean ψ. It moves the
        // shape, the spread and the threshold alike.
        let rewards = grid(m, normal_isf);
        let k = c.gaussian.tail_size;
        let fit = ParetoFit::new(&rewards[..k], &c).unwrap();
        let psi = fit.psi(&rewards[..k], 5.0);
        let mean = psi.iter().sum::<f64>() / m as f64;
        for place in [100, 1000, 4000, 7000] {
            let copies = 5;
            let mut more = rewards.clone();
            more.extend(std::iter::repeat_n(rewards[place], copies));
            more.sort_by(|a, b| b.total_cmp(a));
            let bigger = params(prior).coefficients(m + copies).unwrap();
            let change = surrogate(&more, &bigger) - surrogate(&rewards, &c);
            let (got, want) = (psi[place] - mean, change * (m + copies) as f64 / copies as f64);
            // Half a per cent; the grid and the second order leave 0.03 on a scale of 100.
            assert!(
                (got - want).abs() < 0.005 * want.abs() + 0.05,
                "place {place}: {got} vs {want}"
            );
        }
    }
}

#[test]
fn psi_is_zero_at_the_threshold_and_continuous_through_shape_zero() {
    // Three rewards above the threshold whose L-skewness crosses 1/3 (ξ = 0) as the middle one moves.
    let c = params(0.0).coefficients(20).unwrap();
    assert_eq!(c.gaussian.tail_size, 4);
    let at = |middle: f64| {
        let tail = [0.0, middle, -3.0, -3.5];
        let fit = ParetoFit::new(&tail, &c).unwrap();
        (fit.shape, fit.psi(&tail, 5.0))
    };
    let (low, high) = (at(-2.0 - 1e-10), at(-2.0 + 1e-10));
    assert!(
        low.0 > 0.0 && high.0 < 0.0 && low.0 < 1e-9 && high.0 > -1e-9,
        "{low:?} {high:?}"
    );
    for (a, b) in low.1.iter().zip(&high.1) {
        assert!((a - b).abs() < 1e-7, "{low:?} {high:?}");
    }
    assert_eq!(low.1[3], 0.0);
    assert!(low.1[2].abs() > 0.0);
}

#[test]
fn gaussian_rewards_agree_with_tea() {
    let rewards = grid(40_000, normal_isf);
    let got = advantages(&rewards, &params(20.0)).unwrap();
    let tea = tea::advantages(&rewards, &TeaParams::DEFAULT).unwrap();
    // docs/tea-gpd.md: the Pareto law with the Gaussian tail's L-moments predicts 2.5628 on this grid where c_128 is
    // 2.5946, and the advantages of the two rules have cosine 0.962.
    let predicted = got.tail.predicted_best(got.kappa).unwrap();
    assert!((predicted - 2.5628).abs() < 2e-4, "{predicted}");
    assert!((tea.1.predicted_best(tea.2).unwrap() - expected_max_normal(128)).abs() < 2e-3);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let (a, b) = (&got.advantages, &tea.0);
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    assert!((cosine - 0.9623).abs() < 1e-3, "{cosine}");
}

/// As `gaussian_rewards_agree_with_tea`, at the group size that training uses: 2,000 groups of 64 normal rewards.
#[test]
fn gaussian_groups_of_64_agree_with_tea() {
    use rand::RngExt;
    let mut rng = crate::rng::Stream::new(crate::rng::seed_for(64, 0, 0, 0), 0);
    let (groups, m) = (2_000, 64);
    let (mut cosines, mut predicted, mut fallen) = (0.0, [0.0; 2], 0);
    let mut updates = [[0.0; 3]; 2];
    for _ in 0..groups {
        let rewards: Vec<f64> = (0..m).map(|_| normal_isf(rng.random_range(1e-12..1.0))).collect();
        let got = advantages(&rewards, &params(20.0)).unwrap();
        let tea = tea::advantages(&rewards, &TeaParams::DEFAULT).unwrap();
        fallen += usize::from(got.fell_back());
        let n = f64::from(groups);
        predicted[0] += got.tail.predicted_best(got.kappa).unwrap() / n;
        predicted[1] += tea.1.predicted_best(tea.2).unwrap() / n;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let (a, b) = (&got.advantages, &tea.0);
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        cosines += if lengths > 0.0 {
            dot(a, b) / lengths / n
        } else {
            0.0
        };
        for (update, weights) in updates.iter_mut().zip([a, b]) {
            for (w, r) in weights.iter().zip(&rewards) {
                // Scores of the law's location and scale, and a bounded one.
                for (u, f) in update.iter_mut().zip([*r, r * r - 1.0, libm::tanh(*r)]) {
                    *u += w * f;
                }
            }
        }
    }
    // An independent NumPy implementation (docs/tea-gpd.md): mean cosine 0.974 at m = 64; mean predictions 2.574 and 2.488 with
    // standard deviations 0.471 and 0.408, so 0.011 and 0.009 for 2,000 groups. Four of these, and 0.005 for cosines whose
    // deviation is near 0.06.
    let cosine = cosines;
    assert!((cosine - 0.974).abs() < 0.007, "{cosine}");
    assert!(
        (predicted[0] - 2.574).abs() < 0.045 && (predicted[1] - 2.488).abs() < 0.04,
        "{predicted:?}"
    );
    // What training follows, the mean update, points the same way.
    let [gpd, tea] = updates;
    let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let direction = dot(&gpd, &tea) / (dot(&gpd, &gpd) * dot(&tea, &tea)).sqrt();
    assert!(direction > 0.998, "{direction}");
    assert!(fallen <= groups as usize / 100, "{fallen} of {groups} fell back");
}

#[test]
fn what_cannot_be_fitted_falls_back_to_tea() {
    let mut rng = crate::rng::Stream::new(crate::rng::seed_for(1, 2, 3, 4), 0);
    let mut draw = |m: usize| -> Vec<f64> {
        use rand::RngExt;
        (0..m).map(|_| rng.random_range(0.0..1.0)).collect()
    };
    let tea = |rewards: &[f64]| tea::advantages(rewards, &TeaParams::DEFAULT).unwrap();
    // Too few above the threshold: m = 15 has k = 3.
    let few = draw(15);
    // One response far above all others: L-skewness 1, ξ = 1.
    let mut outlier = draw(64);
    outlier[7] = 1e6;
    // All rewards above the threshold equal: no spread to fit.
    let mut flat = draw(64);
    (0..12).for_each(|i| flat[5 * i] = 2.0);
    for (rewards, prior) in [(few, 20.0), (outlier, 0.0), (flat, 20.0)] {
        let got = advantages(&rewards, &params(prior)).unwrap();
        let (want, tail, kappa) = tea(&rewards);
        assert!(got.fit.is_none());
        assert_eq!((got.advantages, got.tail, got.kappa), (want, tail, kappa));
    }
    let equal = advantages(&[0.1; 33], &TeaGpdParams::DEFAULT).unwrap();
    assert!(equal.fit.is_none() && equal.tail.sigma == 0.0);
    assert!(equal.advantages.iter().all(|&a| a == 0.0));
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        let error = advantages(&draw(64), &params(bad)).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("shrinkage"),
            "{error}"
        );
    }
}
