//! Rules against their definitions: enumerated subsets and draws, quadrature, identities.

use super::super::prefix_tea::PrefixPlan;
use super::super::*;
use super::draw;

/// All subsets of `0..m` of size `k`.
fn subsets_of(m: usize, k: usize) -> Vec<Vec<usize>> {
    (0_u32..1 << m)
        .filter(|bits| bits.count_ones() as usize == k)
        .map(|bits| (0..m).filter(|i| bits >> i & 1 == 1).collect())
        .collect()
}

fn highest(rewards: &[f64], of: impl IntoIterator<Item = usize>) -> f64 {
    of.into_iter()
        .map(|i| rewards[i])
        .fold(f64::NEG_INFINITY, f64::max)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{what} sample {i}: {g} vs {w}"
        );
    }
}

/// Groups with and without ties.
fn groups() -> Vec<Vec<f64>> {
    vec![
        draw(21, 8),
        vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
        vec![2.0, -1.0, 2.0, 0.5, 0.5, 0.5, -3.0, 7.0],
        vec![0.25, -4.0],
        vec![3.0, 3.0, 1.0],
    ]
}

#[test]
fn max_at_k_rules_equal_enumerated_subsets() {
    for rewards in groups() {
        let m = rewards.len();
        for k in 1..=m {
            let with = |i: usize| subsets_of(m, k).into_iter().filter(move |s| s.contains(&i));
            let t: Vec<f64> = (0..m)
                .map(|i| mean(&with(i).map(|s| highest(&rewards, s)).collect::<Vec<_>>()))
                .collect();
            let centre = mean(&t);
            let sd = mean(&t.iter().map(|x| (x - centre).powi(2)).collect::<Vec<_>>()).sqrt();
            let want: Vec<f64> = t.iter().map(|x| (x - centre) / (sd + 1e-4)).collect();
            let options = RuleOptions {
                max_at_k: Some(k),
                ..RuleOptions::default()
            };
            let bon_mean = Rule::BonMean(BonMeanParams::DEFAULT).with(&options);
            // The reference divides differences of rounded means by a deviation that may be as small as ε.
            close(&bon_mean.advantages(&rewards).unwrap(), &want, 1e-10, "bon-mean");
            if k < m {
                let without = |i: usize| {
                    let sets = subsets_of(m, k).into_iter().filter(move |s| !s.contains(&i));
                    mean(&sets.map(|s| highest(&rewards, s)).collect::<Vec<_>>())
                };
                let want: Vec<f64> = (0..m).map(|i| t[i] - without(i)).collect();
                let centred = Rule::MaxAtK(MaxAtKParams::DEFAULT).with(&options);
                close(&centred.advantages(&rewards).unwrap(), &want, 1e-12, "max-at-k");
            }
            if k == 1 {
                continue;
            }
            let marginal = |i: usize| {
                let gain = |s: Vec<usize>| {
                    highest(&rewards, s.clone()) - highest(&rewards, s.into_iter().filter(|&j| j != i))
                };
                mean(&with(i).map(gain).collect::<Vec<_>>())
            };
            let want: Vec<f64> = (0..m).map(marginal).collect();
            let pkpo = Rule::Pkpo(PkpoParams::DEFAULT).with(&options);
            close(&pkpo.advantages(&rewards).unwrap(), &want, 1e-13, "pkpo");
        }
    }
}

#[test]
fn tail_rl_is_the_sum_of_max_at_k_over_every_k() {
    for rewards in groups() {
        let m = rewards.len();
        let mut want = vec![0.0; m];
        for k in 1..m {
            let rule = Rule::MaxAtK(MaxAtKParams { max_at_k: Some(k) });
            let of_k = rule.advantages(&rewards).unwrap();
            want.iter_mut().zip(of_k).for_each(|(sum, a)| *sum += a);
        }
        close(
            &Rule::TailRl.advantages(&rewards).unwrap(),
            &want,
            1e-11,
            "tail-rl",
        );
        let one = Rule::MaxAtK(MaxAtKParams { max_at_k: Some(1) });
        let rloo = Rule::Rloo.advantages(&rewards).unwrap();
        close(&one.advantages(&rewards).unwrap(), &rloo, 1e-13, "K = 1 is RLOO");
    }
    // On 0/1 rewards: (r − mean) / mean.
    let wins = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    let want: Vec<f64> = wins.iter().map(|r| (r - 0.375) / 0.375).collect();
    close(&Rule::TailRl.advantages(&wins).unwrap(), &want, 1e-13, "tail-rl");
}

#[test]
fn pass_at_k_equals_enumerated_subsets() {
    let m = 8;
    for successes in 0..=m {
        let rewards: Vec<f64> = (0..m).map(|i| f64::from(u8::from(i < successes))).collect();
        for k in 1..m {
            let successful = |sets: Vec<Vec<usize>>| {
                mean(&sets.into_iter().map(|s| highest(&rewards, s)).collect::<Vec<_>>())
            };
            let rho = successful(subsets_of(m, k));
            let sigma = (rho * (1.0 - rho)).sqrt();
            let with = |i: usize| {
                let mut sets = subsets_of(m, k);
                sets.retain(|s| s.contains(&i));
                successful(sets)
            };
            let one = |i: usize| {
                if sigma == 0.0 {
                    0.0
                } else {
                    (with(i) - rho) / sigma
                }
            };
            let want: Vec<f64> = (0..m).map(one).collect();
            let rule = Rule::PassAtK(PassAtKParams { max_at_k: Some(k) });
            let got = rule.group(&rewards).unwrap();
            close(&got.advantages, &want, 1e-12, "pass-at-k");
            assert!(mean(&got.advantages).abs() < 1e-12);
            let alike = successes == 0 || successes > m - k;
            assert_eq!(got.no_signal, alike, "{successes} of {m}, k {k}");
        }
    }
    // The most samples: every number of successes, without overflow.
    let table = Rule::PassAtK(PassAtKParams::DEFAULT).pass(4096).unwrap();
    let Pass::Table(rows) = table else {
        panic!("{table:?}")
    };
    assert!(rows.iter().all(|(a, b)| a.is_finite() && b.is_finite()));
}

#[test]
fn max_rl_is_tail_rl_on_successes_and_failures() {
    for successes in 0..=9 {
        let wins: Vec<f64> = (0..9).map(|i| f64::from(u8::from(i < successes))).collect();
        let want = Rule::TailRl.advantages(&wins).unwrap();
        close(&Rule::MaxRl.advantages(&wins).unwrap(), &want, 1e-13, "max-rl");
    }
    let a = Rule::MaxRl.advantages(&[0.0, 2.0, 3.0, 3.0]).unwrap();
    close(&a, &[-1.0, 0.0, 0.5, 0.5], 1e-15, "max-rl");
    let error = Rule::MaxRl.advantages(&[0.0, 2.0, -1e-9]).unwrap_err();
    assert!(error.to_string().contains("sample 2") && error.to_string().contains("max-rl"));
    assert_eq!(error.exit_code(), 2);
    let error = Rule::PassAtK(PassAtKParams::DEFAULT).advantages(&[0.0, 1.0, 0.5, 1.0]);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the reward of sample 2 is 0.5")
    );
}

#[test]
fn entropic_weights_have_a_divergence_of_ln_2() {
    let rule = Rule::Entropic(EntropicParams::DEFAULT);
    for (seed, m) in [(1, 3), (2, 4), (3, 16), (4, 64), (5, 1000)] {
        for unit in [1.0, 1e-6, 1e9] {
            let rewards: Vec<f64> = draw(seed, m).iter().map(|r| r * unit).collect();
            let advantages = rule.advantages(&rewards).unwrap();
            // w = (m − 1)·q/(1 − q) gives q back.
            let q: Vec<f64> = advantages.iter().map(|a| (a + 1.0) / (m as f64 + a)).collect();
            assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-12, "m {m}");
            let kl: f64 = q.iter().map(|q| q * (q * m as f64).ln()).sum();
            assert!((kl - std::f64::consts::LN_2).abs() < 1e-12, "m {m}: {kl}");
            // log q is linear in the reward, with one slope β.
            let slope = |i: usize| (q[i] / q[0]).ln() / (rewards[i] - rewards[0]) * unit;
            assert!((2..m).all(|i| (slope(i) / slope(1) - 1.0).abs() < 1e-6), "m {m}");
        }
    }
    // Half at the top: they share all weight.
    let a = rule.advantages(&[1.0, 0.0, 1.0, 0.5]).unwrap();
    close(&a, &[2.0, -1.0, 2.0, -1.0], 1e-15, "entropic");
    // One of two holds all weight: refused without a bound.
    let error = rule.advantages(&[1.0, 0.0]).unwrap_err().to_string();
    assert!(error.contains("--max-advantage"), "{error}");
    let most = |most| {
        Rule::Entropic(EntropicParams {
            max_advantage: Some(most),
        })
    };
    assert_eq!(most(5.0).advantages(&[1.0, 0.0]).unwrap(), [5.0, -1.0]);
    let bounded = most(1.0).advantages(&draw(3, 16)).unwrap();
    let free = rule.advantages(&draw(3, 16)).unwrap();
    let want: Vec<f64> = free.iter().map(|a| a.min(1.0)).collect();
    assert_eq!(bounded, want);
    assert!(most(0.0).validate(8).is_err() && most(f64::NAN).validate(8).is_err());
}

#[test]
fn rs_grpo_follows_its_formula_and_is_grpo_where_beta_is_small() {
    for rewards in groups() {
        for risk_beta in [1e-9, 0.1, 2.0, 50.0] {
            let rule = Rule::RsGrpo(RsGrpoParams { risk_beta });
            let powers: Vec<f64> = rewards.iter().map(|r| (risk_beta * r).exp()).collect();
            let want: Vec<f64> = powers
                .iter()
                .map(|e| (e / mean(&powers) - 1.0) / risk_beta)
                .collect();
            let got = rule.advantages(&rewards).unwrap();
            if risk_beta < 1e-6 {
                close(&got, &Rule::Grpo.advantages(&rewards).unwrap(), 1e-7, "grpo");
            } else {
                close(&got, &want, 1e-12, "rs-grpo");
            }
        }
    }
    for risk_beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = Rule::RsGrpo(RsGrpoParams { risk_beta }).validate(8).unwrap_err();
        assert!(error.to_string().contains("--risk-beta"), "{error}");
    }
}

#[test]
fn shares_of_subsets_are_exact_up_to_4096() {
    let log_choose =
        |n: f64, k: f64| libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    for m in [2, 3, 64, 1000, 4096] {
        for k in [1, 2, 3, m / 2, m - 1, m] {
            if !(1..=m).contains(&k) {
                continue;
            }
            let shares = subsets::largest_shares(m, k);
            assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)) && shares[m - 1] == 1.0);
            assert!(shares[..k - 1].iter().all(|&s| s == 0.0));
            // Hockey stick: Σ C(i−1, K−1) = C(m, K).
            let (sum, want) = (shares.iter().sum::<f64>(), m as f64 / k as f64);
            assert!((sum - want).abs() < 1e-12 * want, "m {m} K {k}: {sum}");
            for i in (k..=m).step_by(m.div_ceil(50)) {
                let log =
                    log_choose(i as f64 - 1.0, k as f64 - 1.0) - log_choose(m as f64 - 1.0, k as f64 - 1.0);
                // Logarithms of factorials near 3e4 have an error near 1e-11.
                if log > -690.0 {
                    let want = libm::exp(log);
                    assert!((shares[i - 1] - want).abs() < 1e-10 * want, "m {m} K {k} i {i}");
                } else {
                    assert!(shares[i - 1] < 1e-299);
                }
            }
            // The ranks 1 … m: their K-subsets' maxima have the mean K(m + 1)/(K + 1).
            let ranks: Vec<f64> = (1..=m).map(|i| i as f64).collect();
            let got = mean(&subsets::max_at_k(&ranks, k)) + m as f64;
            let want = (k * (m + 1)) as f64 / (k + 1) as f64;
            assert!((got - want).abs() < 1e-10 * want, "m {m} K {k}: {got} vs {want}");
        }
    }
}

#[test]
fn oracle_equals_enumerated_draws() {
    for (rewards, bon) in [
        (vec![0.3, 0.3, -1.0], 4_u32),
        (vec![2.0, -1.0, 0.5, 4.0], 5),
        (vec![1.0, 2.0, 3.0, 5.0], 1),
        (vec![7.0, -2.0], 9),
    ] {
        let m = rewards.len();
        // E[max(floor, maximum of n draws)], over all mⁿ draws.
        let expected = |n: u32, floor: f64| {
            let all: Vec<f64> = (0..m.pow(n))
                .map(|code| highest(&rewards, (0..n).map(|d| code / m.pow(d) % m)).max(floor))
                .collect();
            mean(&all)
        };
        let best = expected(bon, f64::NEG_INFINITY);
        let want: Vec<f64> = rewards.iter().map(|&r| expected(bon - 1, r) - best).collect();
        let rule = Rule::Oracle(OracleParams { bon: bon.into() });
        let got = rule.advantages(&rewards).unwrap();
        close(&got, &want, 1e-13, "oracle");
        assert!(mean(&got).abs() < 1e-13, "the oracle is centred: {got:?}");
    }
}

#[test]
fn cat_bon_equals_its_definition_and_outlasts_a_large_budget() {
    for rewards in groups() {
        let m = rewards.len();
        let z = Rule::GrpoZ(GrpoZParams::DEFAULT).advantages(&rewards).unwrap();
        for bon in [1, 2, m as u64, 40] {
            let below = |r: f64| rewards.iter().filter(|x| **x < r).count() as f64 / m as f64;
            let omega: Vec<f64> = rewards
                .iter()
                .map(|&r| bon as f64 * below(r).powi(bon as i32 - 1))
                .collect();
            let want: Vec<f64> = omega.iter().zip(&z).map(|(w, z)| w / mean(&omega) * z).collect();
            let rule = Rule::CatBon(CatBonParams {
                bon: Some(bon),
                ..CatBonParams::DEFAULT
            });
            close(&rule.advantages(&rewards).unwrap(), &want, 1e-12, "cat-bon");
        }
    }
    // p^(N − 1) underflows here; the best response still carries all the weight.
    let rule = Rule::CatBon(CatBonParams {
        bon: Some(1 << 20),
        ..CatBonParams::DEFAULT
    });
    let a = rule.advantages(&[0.0, 1.0, 2.0, 3.0]).unwrap();
    assert!(a[..3].iter().all(|&x| x == 0.0) && (a[3] - 4.0 * 1.5 / (1.25_f64.sqrt() + 1e-4)).abs() < 1e-12);
}

#[test]
fn the_tilt_has_the_divergence_of_best_of_n() {
    assert_eq!((chow::tilt(0), chow::tilt(1)), (0.0, 0.0));
    for n in [2, 3, 5, 16, 100, 2048] {
        let lambda = chow::tilt(n);
        // λ·mean − log Z of the density ∝ e^{λ(u − 1)} on [0, 1], by Simpson's rule.
        let (steps, mut z, mut first) = (200_000, 0.0, 0.0);
        for i in 0..=steps {
            let u = f64::from(i) / f64::from(steps);
            let weight = match i {
                0 => 1.0,
                _ if i == steps => 1.0,
                _ if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            let density = weight * (lambda * (u - 1.0)).exp() / (3.0 * f64::from(steps));
            z += density;
            first += (u - 1.0) * density;
        }
        let got = lambda * first / z - z.ln();
        let n = n as f64;
        let want = n.ln() - (n - 1.0) / n;
        assert!((got - want).abs() < 1e-8, "n {n}: {got} vs {want}");
    }
}

#[test]
fn chow_follows_its_formula() {
    let rewards = [4.0, 1.0, 3.0, 3.0, -1.0];
    let mean = 2.0;
    // Selected: 1, 2, 4; the best of them is 2. Of 0 and 3 only 3 is no better.
    let a = chow::advantages(&rewards, &[1, 2, 4]);
    let lead = 3.0 - mean;
    close(
        &a,
        &[0.0, 0.0, 5.0 * lead, 2.5 * chow::tilt(3) * lead, 0.0],
        1e-14,
        "chow",
    );
    // One selected response: λ_1 = 0, so it alone learns.
    assert_eq!(chow::advantages(&rewards, &[4]), [0.0, 0.0, 0.0, 0.0, -15.0]);
}

#[test]
fn prefix_plans_are_the_papers_examples() {
    let plan = |m, alpha: &str, order, prefixes| {
        PrefixPlan::new(m, alpha.parse().unwrap(), order, prefixes).unwrap()
    };
    let fifth = plan(64, "0.2", 2, 2);
    assert_eq!(fifth.sizes, [34, 64]);
    close(&fifth.weights, &[-17.0 / 15.0, 32.0 / 15.0], 1e-14, "weights");
    let terms: Vec<_> = fifth.terms().collect();
    assert_eq!(terms[0].0, 34);
    assert!((terms[0].1 - -17.0 / 15.0 * 32.0 / 17.0).abs() < 1e-14);
    let quarter = plan(64, "1/4", 2, 2);
    assert_eq!(quarter.sizes, [32, 64]);
    close(&quarter.weights, &[-1.0, 2.0], 1e-14, "weights");
    // More prefixes than the order: the constraints hold, and w has no part along the one free direction.
    let free = plan(257, "0.1", 2, 3);
    let x: Vec<f64> = free.sizes.iter().map(|&s| 257.0 / s as f64).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(&free.weights, &[1.0; 3]) - 1.0).abs() < 1e-14 && dot(&free.weights, &x).abs() < 1e-13);
    assert!(dot(&free.weights, &[x[2] - x[1], x[0] - x[2], x[1] - x[0]]).abs() < 1e-13);
    // Order 1 asks for the sum alone.
    close(&plan(64, "0.2", 1, 4).weights, &[0.25; 4], 1e-15, "weights");
    // Orders as high as are of use keep their constraints.
    let high = plan(4096, "0.2", 5, 8);
    for power in 0..5 {
        let moment: f64 = high
            .sizes
            .iter()
            .zip(&high.weights)
            .map(|(&s, w)| w * (4096.0 / s as f64).powi(power))
            .sum();
        let scale: f64 = high.weights.iter().map(|w| w.abs()).sum::<f64>() * 8_f64.powi(power);
        assert!((moment - f64::from(u8::from(power == 0))).abs() < 1e-12 * scale);
    }
    let error = PrefixPlan::new(4096, Alpha::DEFAULT, 40, 60)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--prefix-order 40"), "{error}");
}

#[test]
fn the_least_group_of_prefixes_is_exact() {
    for alpha in ["0.5", "0.2", "1/3", "2/5", "3/7", "0.1", "9/20"] {
        let alpha: Alpha = alpha.parse().unwrap();
        let (a, b) = (alpha.numerator() as usize, alpha.denominator() as usize);
        for prefixes in 1..=5 {
            let fits = |m: usize| {
                let sizes: Vec<usize> = (1..=prefixes)
                    .map(|j| m - b * ((prefixes - j) * m / (prefixes * b)))
                    .collect();
                sizes.windows(2).all(|s| s[0] < s[1]) && sizes.iter().all(|s| a * s > b)
            };
            let least = (2..).find(|&m| (m..m + 3 * b * prefixes).all(fits)).unwrap();
            for m in 2..3 * b * prefixes {
                let plan = PrefixPlan::new(m, alpha, 1, prefixes);
                assert_eq!(plan.is_ok(), fits(m), "alpha {alpha} J {prefixes} m {m}");
                if let Err(error) = plan {
                    let message = error.to_string();
                    assert!(message.contains(&format!("at least {least} ")), "{message}");
                }
            }
        }
    }
}

#[test]
fn prefix_tea_combines_the_scores_of_its_prefixes() {
    let rewards = draw(5, 64);
    let one = RuleOptions {
        prefix_order: Some(1),
        prefixes: Some(1),
        ..RuleOptions::default()
    };
    let prefix = Rule::PrefixTea(PrefixTeaParams::DEFAULT);
    // One prefix is the whole group.
    let (a, b) = (
        prefix.with(&one).group(&rewards).unwrap(),
        Rule::default().group(&rewards).unwrap(),
    );
    assert_eq!(a, b);
    // Two: −17/15·(32/17)·u(first 34) + 32/15·u(all), centred.
    let scores = |n: usize| {
        let c = TeaParams::DEFAULT.coefficients(n).unwrap();
        tea::scores(&rewards[..n], &c)
    };
    let (first, all) = (scores(34), scores(64));
    let u: Vec<f64> = (0..64)
        .map(|i| -32.0 / 15.0 * first.get(i).copied().unwrap_or(0.0) + 32.0 / 15.0 * all[i])
        .collect();
    let want: Vec<f64> = u.iter().map(|x| x - mean(&u)).collect();
    close(&prefix.advantages(&rewards).unwrap(), &want, 1e-12, "prefix-tea");
}
