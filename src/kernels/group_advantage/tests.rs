//! Tests of the group reductions that the kernel table does not hold; golden cases are in `tests/advantage_gpu.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::offset_of;

use super::cases::{every_rule, split, tea};
use super::*;
use crate::gpu::GpuOptions;
use crate::kernels::harness::{Gen, assert_layout, check_entries};

/// `[(name, offset), …]` of a parameter struct.
macro_rules! members {
    ($params:ty: $($member:ident),+) => {
        &[$((stringify!($member), offset_of!($params, $member))),+]
    };
}

#[test]
fn layouts() {
    assert_layout::<TailParams>(
        &TAIL,
        members!(TailParams: groups, m, prefixes, inverse_alpha, half_kappa, min_scale, inverse_m),
    );
    assert_layout::<MeanParams>(
        &MEAN,
        members!(MeanParams: groups, m, rule, eps, inverse_m, star, others),
    );
    assert_layout::<SortParams>(&SORT, members!(SortParams: groups, m, half));
    assert_layout::<CurveParams>(
        &CURVE,
        members!(CurveParams: groups, m, centred, scaled, eps, inverse_m),
    );
    assert_layout::<CatParams>(&CAT, members!(CatParams: groups, m, exponent, eps, inverse_m));
}

#[test]
fn equals_the_twin() {
    check_entries(&entries());
}

fn open() -> Gpu {
    Gpu::open(&GpuOptions::default()).unwrap()
}

fn wide(rewards: &[f32]) -> Vec<f64> {
    rewards.iter().map(|r| f64::from(*r)).collect()
}

/// Every subset of size `k` of `0..m` as a bit set.
fn subsets(m: usize, k: usize) -> impl Iterator<Item = u32> {
    (0..1u32 << m).filter(move |s| s.count_ones() as usize == k)
}

fn best(rewards: &[f64], set: u32) -> f64 {
    let members = (0..rewards.len()).filter(|i| set >> i & 1 == 1);
    members.map(|i| rewards[i]).fold(f64::MIN, f64::max)
}

/// The twin's curves against the definitions: enumeration of the subsets, and of the draws with replacement.
#[test]
fn curves_are_means_over_subsets_and_draws() {
    let m = 7;
    for rewards in [
        wide(&Gen::new(3).uniform(m, 2.0)),
        vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5],
    ] {
        for k in 1..=m {
            let over = |i: usize, value: &dyn Fn(u32) -> f64| {
                let values: Vec<f64> = subsets(m, k).filter(|s| s >> i & 1 == 1).map(value).collect();
                values.iter().sum::<f64>() / values.len() as f64
            };
            let means: Vec<f64> = (0..m).map(|i| over(i, &|s| best(&rewards, s))).collect();
            let (want, _) = twin(&GroupRule::GrpoZ { eps: 1e-4 }, &means, &[]);
            let (got, _) = twin(&GroupRule::BonMean { subset: k, eps: 1e-4 }, &rewards, &[]);
            assert_near(&got, &want, &format!("bon-mean K={k}"));
            if k >= 2 {
                let added = |i: usize, s: u32| best(&rewards, s) - best(&rewards, s & !(1 << i));
                let want: Vec<f64> = (0..m).map(|i| over(i, &|s| added(i, s))).collect();
                let (got, _) = twin(&GroupRule::Pkpo { subset: k }, &rewards, &[]);
                assert_near(&got, &want, &format!("pkpo K={k}"));
            }
        }
        // Oracle, N = 3: all pairs of further draws, all triples.
        let with = |i: usize| {
            let pairs = (0..m * m).map(|p| rewards[i].max(rewards[p % m]).max(rewards[p / m]));
            pairs.sum::<f64>() / (m * m) as f64
        };
        let mean = (0..m).map(with).sum::<f64>() / m as f64;
        let want: Vec<f64> = (0..m).map(|i| with(i) - mean).collect();
        let (got, _) = twin(&GroupRule::Oracle { bon: 3 }, &rewards, &[]);
        assert_near(&got, &want, "oracle N=3");
    }
}

fn assert_near(got: &[f64], want: &[f64], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // Standardised values of subsets that are all equal are rounding over eps.
        assert!((g - w).abs() < 1e-10, "{what} sample {i}: {g} vs {w}");
    }
}

/// 1e5 groups need two dimensions of workgroups; every group must come out as it does alone.
#[test]
fn a_hundred_thousand_groups() {
    let gpu = open();
    let (groups, m) = (100_000, 5);
    let rewards = wide(&Gen::new(2).uniform(groups * m, 1.0));
    for rule in every_rule(m) {
        let chosen = split(&rule, groups, m);
        let all = reduce_groups(&gpu, &rule, &rewards, m, &chosen).unwrap();
        assert_eq!((all.advantages.len(), all.no_signal.len()), (groups * m, groups));
        for g in [0, 1, 65_534, 65_535, 99_999] {
            let at = g * m..(g + 1) * m;
            let own = if chosen.is_empty() {
                &[]
            } else {
                &chosen[at.clone()]
            };
            let alone = reduce_groups(&gpu, &rule, &rewards[at.clone()], m, own).unwrap();
            assert_eq!(all.advantages[at.clone()], alone.advantages, "{rule:?} group {g}");
            assert_eq!(all.no_signal[g], alone.no_signal[0], "{rule:?} group {g}");
            let (want, no_signal) = twin(&rule, &rewards[at], own);
            assert_eq!(all.no_signal[g], no_signal, "{rule:?} group {g}");
            let peak = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            for (a, w) in alone.advantages.iter().zip(&want) {
                assert!((f64::from(*a) - w).abs() <= 2e-5 * peak, "{rule:?}: {a} vs {w}");
            }
        }
    }
}

/// More rewards than one dispatch takes: the batches' seams do not show.
#[test]
fn large_calls_are_cut_into_dispatches() {
    let gpu = open();
    let (groups, m) = (1030, 4096);
    let mut rewards = vec![1.0; groups * m];
    for g in 0..groups {
        rewards[g * m + g] = 2.0 + g as f64;
    }
    let all = reduce_groups(&gpu, &GroupRule::BonMaxSecond, &rewards, m, &[]).unwrap();
    assert_eq!(all.no_signal, vec![false; groups]);
    for g in 0..groups {
        let row = &all.advantages[g * m..(g + 1) * m];
        assert_eq!(row[g], 1.0 + g as f32, "group {g}");
        assert_eq!(row.iter().filter(|a| **a != 0.0).count(), 1, "group {g}");
    }
}

/// Rewards f32 cannot hold: near 1e4 with a spread of 1e-5, and a shift of any rule's rewards by 1e9.
#[test]
fn float64_rewards_keep_their_differences() {
    let gpu = open();
    let m = 33;
    let fine = Gen::new(9).uniform(m, 1.0);
    for (offset, scale) in [(1e4, 1e-5), (1e9, 1.0), (-3e5, 1e-3)] {
        let rewards: Vec<f64> = fine.iter().map(|x| offset + scale * f64::from(*x)).collect();
        for rule in every_rule(m) {
            let chosen = split(&rule, 1, m);
            let got = reduce_groups(&gpu, &rule, &rewards, m, &chosen).unwrap();
            let (want, _) = twin(&rule, &rewards, &chosen);
            let peak = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            for (a, w) in got.advantages.iter().zip(&want) {
                assert!(
                    (f64::from(*a) - w).abs() <= 2e-5 * peak,
                    "{rule:?} near {offset}: {a} vs {w}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = open();
    for (rule, m) in [
        (GroupRule::Grpo, 0),
        (GroupRule::Grpo, 1),
        (GroupRule::Grpo, MAX_GROUP + 1),
        (tea(6), 4),
        (GroupRule::tea(4, 5, 0.2, 1.0, 1e-8), 4),
        (GroupRule::BonMean { subset: 5, eps: 1e-4 }, 4),
        (GroupRule::Pkpo { subset: 1 }, 4),
        (
            GroupRule::Chow {
                selected: 4,
                tilt: 1.0,
            },
            4,
        ),
        (GroupRule::Oracle { bon: 0 }, 4),
    ] {
        assert!(GroupReducer::new(&gpu, &rule, 1, m).is_err(), "{rule:?} m={m}");
    }
    let user = |rule: &GroupRule, rewards: &[f64], split: &[bool], words: &str| {
        let error = reduce_groups(&gpu, rule, rewards, 2, split).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let nan = [0.0, 1.0, 2.0, f64::NAN];
    user(&GroupRule::Grpo, &nan, &[], "group 1, sample 1");
    user(&GroupRule::Grpo, &[0.0, f64::INFINITY], &[], "group 0, sample");
    user(&GroupRule::Grpo, &[0.0, 1e30], &[], "rescale");
    let chow = GroupRule::Chow {
        selected: 1,
        tilt: 0.0,
    };
    let both = [true, false, true, true];
    user(&chow, &[0.0, 1.0, 2.0, 3.0], &both, "group 1");
    assert!(reduce_groups(&gpu, &chow, &[0.0, 1.0], 2, &[]).is_err());
    let none = reduce_groups(&gpu, &GroupRule::Grpo, &[], 2, &[]).unwrap();
    assert!(none.advantages.is_empty() && none.no_signal.is_empty());
}
