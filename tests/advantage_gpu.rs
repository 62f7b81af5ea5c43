//! The GPU reductions of every advantage rule: the golden cases, the float64 rules of `advantage`, many groups, refusals.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use clap::ValueEnum;
use common::open_gpu;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use tea_wgpu::advantage::pass::MAX_GROUP;
use tea_wgpu::advantage::{
    Alpha, ChowParams, GroupContext, OracleParams, Rule, RuleOptions, TailInfo, TeaGpdParams, tea_gpd,
};
use tea_wgpu::kernels::group_advantage::{TailStatistics, reduce_groups};

/// Of the advantage itself: the accuracy asked for.
const OWN: f64 = 1e-4;
/// Of the group's largest advantage: where an advantage is a small difference of large rewards (a reward near the
/// group's mean), f32 sums of up to 4096 rewards leave this much.
const PEAK: f64 = 1e-6;
/// Below this an advantage may be 0 in f32: rank rules take a curve up to 1e-30 for flat, and BoN mean divides by 1e-4.
const TINY: f64 = 1e-26;

/// The worst error in units of what is allowed; at most 1 is right.
fn worst(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let peak = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let error = |(g, w): (&f32, &f64)| {
        assert!(g.is_finite(), "{g}");
        match (f64::from(*g) - w).abs() {
            0.0 => 0.0,
            off => off / (OWN * w.abs() + PEAK * peak + TINY),
        }
    };
    got.iter().zip(want).map(error).fold(0.0, f64::max)
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|x| x.as_f64().unwrap()).collect()
}

/// Seeded near-normal rewards (n,), as f32 holds them.
fn draw(seed: u64, n: usize, centre: f64, spread: f64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..n)
        .map(|_| {
            let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
            f64::from((centre + spread * normal) as f32)
        })
        .collect()
}

fn context(g: usize) -> GroupContext<'static> {
    GroupContext::at(7, 0, g as u64)
}

fn rule_of(case: &Value) -> Rule {
    let rule = Rule::from_str(case["rule"].as_str().unwrap(), false).unwrap();
    let params = &case["params"];
    let size = |key: &str| params[key].as_u64().map(|v| v as usize);
    rule.with(&RuleOptions {
        alpha: params["alpha"].as_f64().map(|a| Alpha::new(a).unwrap()),
        bon: params["n"].as_u64(),
        prefix_order: size("order"),
        prefixes: size("prefixes"),
        max_at_k: size("k"),
        risk_beta: params["beta"].as_f64(),
        quantile: params["quantile"].as_f64(),
        max_advantage: params["max_advantage"].as_f64(),
        ..RuleOptions::default()
    })
}

#[test]
fn golden_cases_of_every_rule() {
    let gpu = open_gpu();
    let golden: Value = serde_json::from_str(include_str!("golden/advantages.json")).unwrap();
    let more: Value = serde_json::from_str(include_str!("golden/more_rules.json")).unwrap();
    let cases = |of: &Value| of["cases"].as_array().unwrap().clone();
    let mut seen = BTreeMap::<String, (usize, f64)>::new();
    for case in &[cases(&golden), cases(&more)].concat() {
        let rule = rule_of(case);
        let rewards = numbers(&case["rewards"]);
        let params = &case["params"];
        if params["error"].is_string() {
            let error = rule.pass(rewards.len()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{rule} {params}: {error}");
            continue;
        }
        let selection: Option<Vec<usize>> = params["selection"]
            .as_array()
            .map(|s| s.iter().map(|i| i.as_u64().unwrap() as usize).collect());
        let of_case = |_| GroupContext {
            key: [0, 0],
            selection: selection.as_deref(),
        };
        let got = reduce_groups(&gpu, &rule, &rewards, rewards.len(), of_case).unwrap();
        let want = numbers(&case["advantages"]);
        let error = worst(&got.advantages, &want);
        assert!(
            error <= 1.0,
            "{rule} {params} of {} rewards from {}: {error:.2} of the allowed error",
            rewards.len(),
            rewards[0]
        );
        let peak = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        if peak == 0.0 || peak > TINY {
            assert_eq!(got.no_signal, [peak == 0.0], "{rule} {params}");
        }
        let (count, most) = seen.entry(rule.name().to_string()).or_default();
        (*count, *most) = (*count + 1, most.max(error));
    }
    for (rule, (count, most)) in &seen {
        println!("{rule}: {count} cases, worst error {most:.3} of what is allowed");
    }
    for rule in Rule::ALL.iter().filter(|r| !matches!(r, Rule::TeaGpd(_))) {
        assert!(
            seen.get(rule.name()).is_some_and(|s| s.0 >= 20),
            "{rule}: {seen:?}"
        );
    }
}

/// The statistics that a tail pass left, against float64: within 1e-4, positions relative to the tail's own extent.
fn tail_is(got: &TailStatistics, want: &TailInfo, of: &str) {
    let extent = want.tail.mu - want.tail.q;
    for (name, got, want, scale) in [
        ("q", got.q, want.tail.q, extent),
        ("mu", got.mu, want.tail.mu, extent),
        ("sigma", got.sigma, want.tail.sigma, want.tail.sigma),
        ("kappa", got.kappa, want.kappa, want.kappa),
    ] {
        // float64 itself rounds rewards near 1e6.
        let allowed = OWN * scale.abs() + 1e-12 * want.abs();
        assert!((got - want).abs() <= allowed, "{of}: {name} {got} {want}");
    }
}

/// Groups of every kind in one call, at sizes around the lanes of a workgroup, prime, and the largest.
#[test]
fn every_rule_agrees_with_float64() {
    let gpu = open_gpu();
    let (mut refused, mut most) = (0, BTreeMap::<&str, f64>::new());
    for m in [2, 3, 7, 8, 9, 11, 63, 64, 65, 331, MAX_GROUP] {
        let mut rewards = draw(m as u64, m, 2.0, 3.0);
        rewards.extend(draw(1, m, 1e4, 1e-2));
        rewards.extend(draw(2, m, 0.0, 1.0).iter().map(|r| r.round()));
        rewards.extend(draw(3, m, 0.0, 1.0).iter().map(|r| f64::from(*r > 0.0)));
        rewards.extend(vec![-1.5; m]);
        rewards.extend(draw(4, m, -3e4, 1e4));
        // Not representable in f32: differences come from float64.
        rewards.extend(draw(5, m, 0.0, 1.0).iter().map(|r| 1e6 + r / 3.0));
        for rule in Rule::ALL {
            if rule.validate(m).is_err() {
                refused += 1;
                assert!(rule.pass(m).is_err(), "{rule} m={m}");
                continue;
            }
            let rewards = rule.rewards().like(&rewards);
            let got = reduce_groups(&gpu, rule, &rewards, m, context).unwrap();
            for (g, group) in rewards.chunks_exact(m).enumerate() {
                let want = rule.group_with(group, &context(g)).unwrap();
                let error = worst(&got.advantages[g * m..(g + 1) * m], &want.advantages);
                assert!(
                    error <= 1.0,
                    "{rule} m={m} group {g}: {error:.2} of the allowed error"
                );
                let most = most.entry(rule.name()).or_default();
                *most = most.max(error);
                if let Some(want) = &want.tail {
                    tail_is(&got.tails[g], want, &format!("{rule} m={m} group {g}"));
                }
                let peak = want.advantages.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
                // Advantages below f32's range come out as 0.
                assert!(
                    got.no_signal[g] == want.no_signal || peak < TINY,
                    "{rule} m={m} group {g}: {peak}"
                );
            }
        }
    }
    println!("worst errors of what is allowed: {most:.3?}");
    assert_eq!(
        refused, 6,
        "prefix-tea at m below 11, entropic at 2, and nothing else"
    );
}

/// 1e5 groups need two dimensions of workgroups; every group must come out as it does alone, to the bit.
#[test]
fn a_hundred_thousand_groups() {
    let gpu = open_gpu();
    let (groups, m) = (100_000, 11);
    let rewards = draw(9, groups * m, 0.0, 1.0);
    for rule in Rule::ALL {
        let rewards = rule.rewards().like(&rewards);
        let all = reduce_groups(&gpu, rule, &rewards, m, context).unwrap();
        assert_eq!(all.advantages.len(), groups * m);
        assert_eq!(all.no_signal.len(), groups);
        for g in [0, 1, 65_534, 65_535, 99_999] {
            let at = g * m..(g + 1) * m;
            let own = &rewards[at.clone()];
            let alone = reduce_groups(&gpu, rule, own, m, |_| context(g)).unwrap();
            assert_eq!(all.advantages[at], alone.advantages, "{rule} group {g}");
            assert_eq!(all.no_signal[g], alone.no_signal[0], "{rule} group {g}");
            let want = rule.group_with(own, &context(g)).unwrap();
            let error = worst(&alone.advantages, &want.advantages);
            assert!(error <= 1.0, "{rule} group {g}: {error:.2} of the allowed error");
        }
    }
}

/// More rewards than one dispatch takes: the seams between the batches do not show.
#[test]
fn large_calls_are_cut_into_dispatches() {
    let gpu = open_gpu();
    let (groups, m) = (1030, MAX_GROUP);
    let mut rewards = vec![1.0; groups * m];
    for g in 0..groups {
        rewards[g * m + g] = 2.0 + g as f64;
    }
    let all = reduce_groups(&gpu, &Rule::BonMaxSecond, &rewards, m, context).unwrap();
    assert_eq!(all.no_signal, vec![false; groups]);
    for g in 0..groups {
        let row = &all.advantages[g * m..(g + 1) * m];
        assert_eq!(row[g], 1.0 + g as f32, "group {g}");
        assert_eq!(row.iter().filter(|a| **a != 0.0).count(), 1, "group {g}");
    }
}

#[test]
fn bad_rewards_and_splits_are_refused() {
    let gpu = open_gpu();
    let refuse = |rule: &Rule, rewards: &[f64], m: usize, words: &str| {
        let error = reduce_groups(&gpu, rule, rewards, m, context).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refuse(&Rule::Grpo, &[0.0, 1.0, 2.0, f64::NAN], 2, "group 1, sample 1");
    refuse(&Rule::Grpo, &[0.0, f64::INFINITY], 2, "group 0, sample");
    refuse(&Rule::Grpo, &[0.0, 1e30], 2, "rescale");
    refuse(&Rule::Grpo, &[0.0, 1.0, 2.0], 2, "whole");
    refuse(&Rule::Grpo, &[0.0], 1, "at least 2");
    refuse(&Rule::Grpo, &vec![0.0; 2 * MAX_GROUP], 2 * MAX_GROUP, "4096");
    refuse(
        &Rule::MaxRl,
        &[0.0, 1.0, 2.0, -0.5],
        2,
        "group 1: the reward of sample 1 is -0.5",
    );
    refuse(&Rule::Oracle(OracleParams { bon: 0 }), &[0.0, 1.0], 2, "--bon");

    // Given splits of unequal sizes need two calls.
    let (one, two) = ([0], [0, 1]);
    let uneven = |g: usize| GroupContext {
        key: [0, 0],
        selection: Some(if g == 0 { &one[..] } else { &two[..] }),
    };
    let rewards = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let chow = Rule::Chow(ChowParams::DEFAULT);
    let error = reduce_groups(&gpu, &chow, &rewards, 3, uneven).unwrap_err();
    assert!(error.to_string().contains("group 1"), "{error}");

    let none = reduce_groups(&gpu, &Rule::Grpo, &[], 2, context).unwrap();
    assert!(none.advantages.is_empty() && none.no_signal.is_empty());
}

/// TEA-GPD, fitted and fallen back, on its own golden cases: advantages and which tail stood.
#[test]
fn golden_cases_of_tea_gpd() {
    let gpu = open_gpu();
    let golden: Value = serde_json::from_str(include_str!("golden/tea_gpd.json")).unwrap();
    let (mut fitted, mut fallen, mut most) = (0, 0, 0.0_f64);
    for case in golden["cases"].as_array().unwrap() {
        let params = &case["params"];
        let settings = TeaGpdParams {
            alpha: Alpha::new(params["alpha"].as_f64().unwrap()).unwrap(),
            bon: params["n"].as_u64().unwrap(),
            shrinkage: params["shrinkage"].as_f64().unwrap(),
            ..TeaGpdParams::DEFAULT
        };
        let (rewards, want) = (numbers(&case["rewards"]), numbers(&case["advantages"]));
        let rule = Rule::TeaGpd(settings);
        let got = reduce_groups(&gpu, &rule, &rewards, rewards.len(), context).unwrap();
        let error = worst(&got.advantages, &want);
        assert!(error <= 1.0, "{params} of {}: {error:.2}", rewards.len());
        let fallback = case["fallback"].as_bool().unwrap();
        assert_eq!(got.gaussian_tail, [fallback], "{params} of {}", rewards.len());
        assert_eq!(got.no_signal, [want.iter().all(|a| *a == 0.0)], "{params}");
        most = most.max(error);
        *(if fallback { &mut fallen } else { &mut fitted }) += 1;
    }
    println!("tea-gpd: {fitted} fitted, {fallen} fallen back, worst error {most:.3} of what is allowed");
    assert!(
        fitted >= 20 && fallen >= 5,
        "{fitted} fitted, {fallen} fallen back"
    );
}

/// TEA-GPD at every size, near-normal groups of two scales, against the float64 rule.
#[test]
fn tea_gpd_agrees_with_float64() {
    let gpu = open_gpu();
    for m in [2, 3, 16, 64, 65, 331, MAX_GROUP] {
        let mut rewards = draw(m as u64, 3 * m, 2.0, 3.0);
        rewards.extend(draw(1, m, 1e4, 1e-2));
        rewards.extend(vec![4.0; m]);
        for bon in [16, 128, 4096] {
            let settings = TeaGpdParams {
                bon,
                ..TeaGpdParams::DEFAULT
            };
            let rule = Rule::TeaGpd(settings);
            let got = reduce_groups(&gpu, &rule, &rewards, m, context).unwrap();
            for (g, group) in rewards.chunks_exact(m).enumerate() {
                let want = tea_gpd::advantages(group, &settings).unwrap();
                let error = worst(&got.advantages[g * m..(g + 1) * m], &want.advantages);
                assert!(error <= 1.0, "N={bon} m={m} group {g}: {error:.2}");
                assert_eq!(
                    got.gaussian_tail[g],
                    want.fit.is_none() && want.tail.sigma > 0.0,
                    "N={bon} m={m} group {g}"
                );
            }
        }
    }
}
