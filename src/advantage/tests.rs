//! Properties of every rule; golden cases and brute force in the files below.
#![allow(clippy::unwrap_used, reason = "tests")]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

mod brute;
pub(crate) mod golden;
mod settings;

/// A rule for which the place of a reward in the group does not matter.
fn symmetric(rule: &Rule) -> bool {
    !matches!(rule, Rule::PrefixTea(_) | Rule::Chow(_))
}

/// A rule with tail statistics.
fn tailed(rule: &Rule) -> bool {
    rule.name().contains("tea")
}

/// A rule that lifts one best response alone: ties go to the lowest index.
fn one_best(rule: &Rule) -> bool {
    matches!(rule, Rule::BonMaxMean | Rule::BonMaxSecond)
}

/// Rewards that the rule takes, made of these.
fn fit(rule: &Rule, rewards: Vec<f64>) -> Vec<f64> {
    rule.rewards().like(&rewards)
}

/// A rule whose advantages do not change by a shift of the rewards.
fn shifts(rule: &Rule) -> bool {
    rule.rewards() == Rewards::Any
}

fn flags(set: impl FnOnce(&mut RuleOptions)) -> RuleOptions {
    let mut options = RuleOptions::default();
    set(&mut options);
    options
}

/// Seeded rewards (m,): sums of uniforms, so near normal.
fn draw(seed: u64, m: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..m)
        .map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0)
        .collect()
}

/// The place that sample `slot` of a shuffled group comes from; 5 divides none of the sizes used.
fn shuffle(m: usize) -> Vec<usize> {
    (0..m).map(|i| (i * 5 + 3) % m).collect()
}

#[test]
fn permuting_the_rewards_permutes_the_advantages() {
    for rule in Rule::ALL.iter().filter(|r| symmetric(r)) {
        for (seed, m) in [(1, 2), (2, 7), (3, 64), (4, 257)] {
            if rule.validate(m).is_err() {
                continue; // entropic takes no groups of 2
            }
            let rewards = fit(rule, draw(seed, m));
            let base = rule.advantages(&rewards).unwrap();
            let order = shuffle(m);
            let shuffled: Vec<f64> = order.iter().map(|&i| rewards[i]).collect();
            let got = rule.advantages(&shuffled).unwrap();
            for (slot, &i) in order.iter().enumerate() {
                assert!((got[slot] - base[i]).abs() < 1e-12, "{rule} m {m}");
            }
        }
    }
}

#[test]
fn chow_moves_with_its_split_and_prefix_tea_within_its_prefixes() {
    let (m, rewards) = (64, draw(3, 64));
    let order = shuffle(m);
    let shuffled: Vec<f64> = order.iter().map(|&i| rewards[i]).collect();
    let chow = Rule::Chow(ChowParams::DEFAULT);
    let split: Vec<usize> = (0..m).filter(|i: &usize| i.is_multiple_of(3)).collect();
    let moved: Vec<usize> = (0..m).filter(|&slot| order[slot].is_multiple_of(3)).collect();
    let under = |rewards: &[f64], selection: &[usize]| {
        let context = GroupContext {
            selection: Some(selection),
            ..GroupContext::default()
        };
        chow.group_with(rewards, &context).unwrap().advantages
    };
    let (base, got) = (under(&rewards, &split), under(&shuffled, &moved));
    for (slot, &i) in order.iter().enumerate() {
        assert!(
            (got[slot] - base[i]).abs() < 1e-11,
            "{} vs {}",
            got[slot],
            base[i]
        );
    }

    // Prefixes of 34 and 64: reversing each part changes nothing else, reversing the whole does.
    let prefix = Rule::PrefixTea(PrefixTeaParams::DEFAULT);
    let base = prefix.advantages(&rewards).unwrap();
    let mut parts = rewards.clone();
    parts[..34].reverse();
    parts[34..].reverse();
    let mut got = prefix.advantages(&parts).unwrap();
    got[..34].reverse();
    got[34..].reverse();
    assert!(got.iter().zip(&base).all(|(a, b)| (a - b).abs() < 1e-11));
    let reversed: Vec<f64> = rewards.iter().rev().copied().collect();
    let got = prefix.advantages(&reversed).unwrap();
    assert!(got.iter().rev().zip(&base).any(|(a, b)| (a - b).abs() > 0.1));
}

#[test]
fn shifting_the_rewards_changes_nothing() {
    for rule in Rule::ALL.iter().filter(|r| shifts(r)) {
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
    let sd = |a: &[f64]| {
        let mean = a.iter().sum::<f64>() / a.len() as f64;
        (a.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / a.len() as f64).sqrt()
    };
    let compare = |rule: &Rule, factor: f64, tolerance: f64| {
        let (a, b) = (
            rule.advantages(&fit(rule, rewards.clone())).unwrap(),
            rule.advantages(&fit(rule, scaled.clone())).unwrap(),
        );
        let largest = b.iter().fold(0.0, |x: f64, y| x.max(y.abs()));
        let near = |(x, y): (&f64, &f64)| (factor * x - y).abs() <= tolerance * largest;
        assert!(a.iter().zip(&b).all(near), "{rule}");
        a
    };
    for rule in Rule::ALL {
        match rule.units() {
            Units::Reward => drop(compare(rule, 8.0, 1e-13)),
            // But for ε = 1e-4 beside a deviation that is larger by far.
            Units::None => drop(compare(rule, 1.0, 1e-2)),
            Units::Mixed => {}
        }
    }
    // With ε = 0 the z-scores ignore the scale.
    for rule in [
        Rule::GrpoZ(GrpoZParams { epsilon: 0.0 }),
        Rule::BonMean(BonMeanParams {
            epsilon: 0.0,
            ..BonMeanParams::DEFAULT
        }),
        Rule::CatBon(CatBonParams {
            epsilon: 0.0,
            ..CatBonParams::DEFAULT
        }),
    ] {
        let a = compare(&rule, 1.0, 1e-13);
        if !matches!(rule, Rule::CatBon(_)) {
            assert!((sd(&a) - 1.0).abs() < 1e-12, "{rule}");
        }
    }
}

#[test]
fn equal_rewards_and_flat_tails_give_no_signal() {
    for rule in Rule::ALL {
        let group = rule.group(&fit(rule, vec![0.1; 33])).unwrap();
        assert!(
            group.no_signal && group.zero_std && group.advantages.iter().all(|&a| a == 0.0),
            "{rule}"
        );
    }
    // More winners than a tail holds, two equal best: the rules that look at the top alone see nothing.
    let rewards: Vec<f64> = (0..32).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
    for rule in Rule::ALL {
        let group = rule.group(&rewards).unwrap();
        assert_eq!(
            group.no_signal,
            tailed(rule) || matches!(rule, Rule::BonMaxSecond | Rule::Cvar(_)),
            "{rule}"
        );
        assert!(!group.zero_std);
        assert_eq!(group.tail.is_some(), tailed(rule));
        assert!(group.tail.is_none_or(|info| info.tail.sigma == 0.0));
    }
    // 0/1 rewards: with more than m − K successes every K-subset around a response holds one.
    let wins = |count: usize| -> Vec<f64> { (0..32).map(|i| f64::from(u8::from(i < count))).collect() };
    for (k, most) in [(16, 16), (8, 24), (2, 30)] {
        let rule = Rule::BonMean(BonMeanParams::DEFAULT).with(&flags(|o| o.max_at_k = Some(k)));
        assert!(!rule.group(&wins(most)).unwrap().no_signal, "K {k}");
        assert!(rule.group(&wins(most + 1)).unwrap().no_signal, "K {k}");
    }
    let groups = [wins(0), wins(1), wins(20), wins(32)];
    for (name, count) in [
        ("tea", 3),
        ("grpo", 2),
        ("grpo-z", 2),
        ("bon-max-mean", 2),
        ("bon-max-second", 3),
        ("bon-mean", 3),
        ("cat-bon", 2),
        ("pkpo", 3),
        ("oracle", 2),
    ] {
        let rule = Rule::ALL.iter().find(|r| r.name() == name).unwrap();
        let silent = groups.iter().filter(|g| rule.group(g).unwrap().no_signal);
        assert_eq!(silent.count(), count, "{name}");
    }
}

#[test]
fn ties_share_an_advantage() {
    let rewards = [1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0];
    for rule in Rule::ALL.iter().filter(|r| symmetric(r) && !one_best(r)) {
        let a = rule.advantages(&fit(rule, rewards.to_vec())).unwrap();
        for (i, j) in [(1, 2), (3, 4), (4, 5), (6, 7), (8, 9), (0, 8)] {
            assert_eq!(a[i], a[j], "{rule} {i} {j}");
        }
    }
    let a = Rule::BonMaxMean.advantages(&rewards).unwrap();
    assert!(
        a[1] == 1.5 && a.iter().filter(|&&x| x == 0.0).count() == 9,
        "{a:?}"
    );
}

#[test]
fn the_best_response_is_lifted_by_its_lead() {
    let rewards = [1.0, 5.0, 3.0, 3.0];
    assert_eq!(
        Rule::BonMaxMean.advantages(&rewards).unwrap(),
        [0.0, 2.0, 0.0, 0.0]
    );
    assert_eq!(
        Rule::BonMaxSecond.advantages(&rewards).unwrap(),
        [0.0, 2.0, 0.0, 0.0]
    );
    assert_eq!(Rule::BonMaxSecond.advantages(&[2.0, 2.5]).unwrap(), [0.0, 0.5]);
    // The whole group as one subset: the same as the lead over the second.
    let whole = Rule::Pkpo(PkpoParams { max_at_k: Some(4) });
    assert_eq!(whole.advantages(&rewards).unwrap(), [0.0, 2.0, 0.0, 0.0]);
}

#[test]
fn chow_splits_by_seed_step_and_place() {
    let (m, size) = (16, 5);
    let params = ChowParams {
        selection_size: Some(size),
    };
    let at = |seed, step, place| params.selection(m, &GroupContext::at(seed, step, place)).unwrap();
    assert_eq!(at(1, 2, 3), at(1, 2, 3));
    for other in [at(2, 2, 3), at(1, 3, 3), at(1, 2, 4)] {
        assert_ne!(at(1, 2, 3), other);
    }
    let (mut chosen, splits) = (vec![0_u32; m], 4000);
    for place in 0..splits {
        let split = at(9, 0, place);
        assert!(split.len() == size && split.is_sorted_by(|a, b| a < b) && split[size - 1] < m);
        split.iter().for_each(|&i| chosen[i] += 1);
    }
    // Each index in 5/16 of the splits: 1250, with a standard deviation of 29.
    assert!(chosen.iter().all(|&n| (1110..1390).contains(&n)), "{chosen:?}");
    // The rule draws the same split.
    let (rewards, context) = (draw(8, m), GroupContext::at(1, 2, 3));
    let split = at(1, 2, 3);
    let given = GroupContext {
        selection: Some(&split),
        ..GroupContext::default()
    };
    let rule = Rule::Chow(params);
    assert_eq!(
        rule.group_with(&rewards, &context).unwrap(),
        rule.group_with(&rewards, &given).unwrap()
    );
    // The order in which a split is written does not matter.
    let backwards: Vec<usize> = split.iter().rev().copied().collect();
    let given = GroupContext {
        selection: Some(&backwards),
        ..GroupContext::default()
    };
    assert_eq!(params.selection(m, &given).unwrap(), split);
}

#[test]
fn groups_of_4096_stay_finite() {
    let rewards = draw(77, 4096);
    for rule in Rule::ALL {
        let group = rule.group(&fit(rule, rewards.clone())).unwrap();
        // Of 4096 samples that half the time succeed, all subsets of many hold a success.
        assert!(
            group.no_signal <= (rule.rewards() == Rewards::ZeroOne)
                && group.advantages.iter().all(|a| a.is_finite()),
            "{rule}"
        );
    }
    for k in [2, 3, 100, 4095, 4096] {
        let rule = Rule::Pkpo(PkpoParams { max_at_k: Some(k) });
        let a = rule.advantages(&rewards).unwrap();
        assert!(a.iter().all(|a| a.is_finite() && *a >= 0.0), "K {k}");
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
    // The upper fifth of 5 is one response: the rules train on a tail of two, and predict nothing from it.
    for name in ["tea", "tea-gpd"] {
        let rule = <Rule as clap::ValueEnum>::from_str(name, true).unwrap();
        let info = |m: usize| rule.group(&rewards[..m]).unwrap().tail.unwrap();
        assert_eq!((info(5).tail.size, info(5).predicted_bon), (2, None), "{name}");
        assert!(
            info(6).tail.size == 2 && info(6).predicted_bon.is_some(),
            "{name}"
        );
    }
}

/// Whoever adds a rule reads here which pages list the rules.
#[test]
fn every_rule_is_in_the_pages() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let (methods, guide) = (page("docs/methods.md"), page("docs/guide/training.md"));
    for rule in Rule::ALL {
        let name = rule.name();
        let listed = [format!("--advantage {name}"), format!("--rule {name}")];
        assert!(
            listed.iter().any(|text| methods.contains(text)),
            "docs/methods.md has no row of {name}"
        );
        assert!(
            guide.contains(&format!("`{name}`")),
            "docs/guide/training.md: {name}"
        );
    }
    let count = Rule::ALL.iter().filter(|rule| rule.trains()).count();
    assert!(
        page("README.md").contains(&format!("{count} advantage rules")),
        "README.md counts other than {count} advantage rules"
    );
}
