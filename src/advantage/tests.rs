//! Golden cases and properties of every rule.
#![allow(clippy::unwrap_used, reason = "tests")]

use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/advantages.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn rule_of(case: &Value) -> Rule {
    let name = case["rule"].as_str().unwrap();
    let rule = Rule::from_str(name, false).unwrap();
    let params = &case["params"];
    rule.with(&RuleOptions {
        alpha: params["alpha"].as_f64().map(|a| Alpha::new(a).unwrap()),
        bon: params["n"].as_u64(),
        ..RuleOptions::default()
    })
}

/// Seeded rewards (m,): sums of uniforms, so near normal.
fn draw(seed: u64, m: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..m)
        .map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0)
        .collect()
}

#[test]
fn golden_tables_of_kappa_and_expected_maxima() {
    let golden = golden();
    for (key, value) in golden["kappa"].as_object().unwrap() {
        let (alpha, n) = key.split_once(',').unwrap();
        let got = tail::kappa(alpha.parse().unwrap(), n.parse().unwrap()).unwrap();
        let want = value.as_f64().unwrap();
        assert!(
            (got - want).abs() < 1e-11,
            "kappa({key}) = {got}, expected {want}"
        );
    }
    for (n, value) in golden["expected_max"].as_object().unwrap() {
        let got = tail::expected_max_normal(n.parse().unwrap());
        assert!((got - value.as_f64().unwrap()).abs() < 1e-12, "c_{n} = {got}");
    }
}

#[test]
fn golden_advantages_of_every_rule() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for case in golden()["cases"].as_array().unwrap() {
        let rule = rule_of(case);
        let (rewards, want) = (numbers(&case["rewards"]), numbers(&case["advantages"]));
        let got = rule.advantages(&rewards).unwrap();
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            // Relative to the advantage's own size beyond 1: the longest sums have 512 terms near 1e2.
            assert!(
                (g - w).abs() <= 1e-9 * w.abs().max(1.0),
                "{rule} {} sample {i}: {g} vs {w}",
                case["params"]
            );
        }
        assert_eq!(got.len(), want.len());
        *seen.entry(rule.name().to_string()).or_default() += 1;
    }
    for rule in Rule::ALL.iter().filter(|r| !matches!(r, Rule::TeaGpd(_))) {
        // TEA-GPD's are in tests/golden/tea_gpd.json.
        assert!(
            seen.get(rule.name()).copied().unwrap_or(0) >= 20,
            "{rule} has too few golden cases"
        );
    }
}

#[test]
fn permuting_the_rewards_permutes_the_advantages() {
    for rule in Rule::ALL {
        for (seed, m) in [(1, 2), (2, 7), (3, 64), (4, 257)] {
            let rewards = draw(seed, m);
            let base = rule.advantages(&rewards).unwrap();
            // 5 divides none of the sizes, so this is a permutation.
            let order: Vec<usize> = (0..m).map(|i| (i * 5 + 3) % m).collect();
            let shuffled: Vec<f64> = order.iter().map(|&i| rewards[i]).collect();
            let got = rule.advantages(&shuffled).unwrap();
            for (slot, &i) in order.iter().enumerate() {
                assert!((got[slot] - base[i]).abs() < 1e-12, "{rule} m {m}");
            }
        }
    }
}

#[test]
fn shifting_the_rewards_changes_nothing() {
    for rule in Rule::ALL {
        // Rewards with 1e-2 of spread, exact multiples of 2⁻²⁰ so that adding 1e4 rounds nothing away.
        let grid = 1_048_576.0;
        let rewards: Vec<f64> = draw(9, 64)
            .iter()
            .map(|r| (r * 0.01 * grid).round() / grid)
            .collect();
        let shifted: Vec<f64> = rewards.iter().map(|r| r + 1e4).collect();
        let (a, b) = (
            rule.advantages(&rewards).unwrap(),
            rule.advantages(&shifted).unwrap(),
        );
        assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-12), "{rule}");
    }
}

#[test]
fn scaling_the_rewards_scales_the_advantages() {
    let rewards = draw(11, 40);
    let scaled: Vec<f64> = rewards.iter().map(|r| r * 8.0).collect();
    for rule in [Rule::default(), Rule::Grpo] {
        let (a, b) = (
            rule.advantages(&rewards).unwrap(),
            rule.advantages(&scaled).unwrap(),
        );
        assert!(
            a.iter().zip(&b).all(|(x, y)| (8.0 * x - y).abs() < 1e-11),
            "{rule} is of degree one"
        );
    }
    let z = Rule::GrpoZ(GrpoZParams { epsilon: 0.0 });
    let (a, b) = (z.advantages(&rewards).unwrap(), z.advantages(&scaled).unwrap());
    assert!(
        a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-12),
        "z-scores ignore the scale"
    );
    let sd = (a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64).sqrt();
    assert!((sd - 1.0).abs() < 1e-12);
}

#[test]
fn equal_rewards_and_flat_tails_give_no_signal() {
    for rule in Rule::ALL {
        let group = rule.group(&[0.1; 33]).unwrap();
        assert!(
            group.no_signal && group.zero_std && group.advantages.iter().all(|&a| a == 0.0),
            "{rule}"
        );
    }
    // More winners than the tail holds: TEA sees a flat tail, the others still compare.
    let rewards: Vec<f64> = (0..32).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
    let tea = Rule::default().group(&rewards).unwrap();
    assert!(tea.no_signal && !tea.zero_std);
    assert_eq!(tea.tail.unwrap().tail.sigma, 0.0);
    assert!(!Rule::Grpo.group(&rewards).unwrap().no_signal);
}

#[test]
fn ties_share_an_advantage() {
    let rewards = [1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0];
    for rule in Rule::ALL {
        let a = rule.advantages(&rewards).unwrap();
        for (i, j) in [(1, 2), (3, 4), (4, 5), (6, 7), (8, 9), (0, 8)] {
            assert_eq!(a[i], a[j], "{rule} {i} {j}");
        }
    }
}

#[test]
fn tea_reports_its_tail_and_prediction() {
    let rewards = draw(3, 100);
    let info = Rule::default().group(&rewards).unwrap().tail.unwrap();
    assert_eq!(info.tail.size, 20);
    assert!((info.kappa - 2.555_191_260_032).abs() < 1e-9);
    assert_eq!(
        info.predicted_bon,
        Some(info.tail.mu + info.kappa * info.tail.sigma)
    );
    let a = Rule::default().advantages(&rewards).unwrap();
    assert!(a.iter().sum::<f64>().abs() < 1e-10);
}

#[test]
fn bad_input_is_a_user_error_that_says_where() {
    for rule in Rule::ALL {
        for rewards in [&[][..], &[1.0][..]] {
            let error = rule.advantages(rewards).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("at least 2"), "{error}");
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = rule.advantages(&[0.0, 1.0, bad, 2.0]).unwrap_err();
            assert!(error.to_string().contains("sample 2"), "{error}");
        }
        assert!(
            rule.advantages(&[1e308, -1e308])
                .unwrap_err()
                .to_string()
                .contains("overflows")
        );
    }
    let small = Rule::Tea(TeaParams {
        bon: 4,
        ..TeaParams::DEFAULT
    });
    assert!(small.validate(64).unwrap_err().to_string().contains("N = 4"));
    assert!(
        Rule::Tea(TeaParams {
            min_scale: 0.0,
            ..TeaParams::DEFAULT
        })
        .validate(64)
        .is_err()
    );
    assert!(Rule::GrpoZ(GrpoZParams { epsilon: -1.0 }).validate(64).is_err());
}

#[test]
fn names_round_trip_through_clap_and_serde() {
    let mut names = std::collections::BTreeSet::new();
    for rule in Rule::ALL {
        assert!(names.insert(rule.name()));
        assert_eq!(Rule::from_str(rule.name(), false).unwrap(), *rule);
        let json = serde_json::to_value(rule).unwrap();
        assert_eq!(json["rule"], rule.name());
        assert_eq!(serde_json::from_value::<Rule>(json).unwrap(), *rule);
    }
    let rule: Rule = toml::from_str("rule = \"tea\"\nalpha = \"1/3\"\nbon = 256").unwrap();
    assert_eq!(
        rule,
        Rule::Tea(TeaParams {
            alpha: "1/3".parse().unwrap(),
            bon: 256,
            min_scale: 1e-8
        })
    );
}
