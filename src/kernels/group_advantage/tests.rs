//! Layouts, and the twin against definitions. Golden cases, many groups and refusals are in `tests/advantage_gpu.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::offset_of;

use super::coefficients::spacing_factors;
use super::*;
use crate::kernels::harness::{assert_layout, check_entries};

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
    assert_layout::<GpdParams>(
        &GPD,
        members!(GpdParams: groups, m, k, inverse_alpha, half_kappa, min_scale, weight, prior, inverse_m, inverse_k),
    );
}

#[test]
fn equals_the_twin() {
    check_entries(&entries());
}

/// Every subset of size `k` of `0..m` as a bit set.
fn subsets(m: usize, k: usize) -> impl Iterator<Item = u32> {
    (0..1u32 << m).filter(move |s| s.count_ones() as usize == k)
}

fn best(rewards: &[f64], set: u32) -> f64 {
    let members = (0..rewards.len()).filter(|i| set >> i & 1 == 1);
    members.map(|i| rewards[i]).fold(f64::MIN, f64::max)
}

fn assert_near(got: &[f64], want: &[f64], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        // Standardised values of subsets that are all equal are rounding over eps.
        assert!((g - w).abs() < 1e-10, "{what} sample {i}: {g} vs {w}");
    }
}

/// The twin's curves against the definitions: enumeration of the subsets, and of the draws with replacement.
#[test]
fn curves_are_means_over_subsets_and_draws() {
    let m = 7;
    for rewards in [
        vec![0.31, -1.7, 1.25, 0.8, -0.44, 1.9, 0.05],
        vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5],
    ] {
        for k in 1..=m {
            let over = |i: usize, value: &dyn Fn(u32) -> f64| {
                let values: Vec<f64> = subsets(m, k).filter(|s| s >> i & 1 == 1).map(value).collect();
                values.iter().sum::<f64>() / values.len() as f64
            };
            let means: Vec<f64> = (0..m).map(|i| over(i, &|s| best(&rewards, s))).collect();
            let (want, _) = twin(&GroupRule::GrpoZ { eps: 1e-4 }, &means, &[]);
            let rule = GroupRule::BonMean { subset: k, eps: 1e-4 };
            assert_near(&twin(&rule, &rewards, &[]).0, &want, &format!("bon-mean K={k}"));
            if k >= 2 {
                let added = |i: usize, s: u32| best(&rewards, s) - best(&rewards, s & !(1 << i));
                let want: Vec<f64> = (0..m).map(|i| over(i, &|s| added(i, s))).collect();
                let (got, _) = twin(&GroupRule::Pkpo { subset: k }, &rewards, &[]);
                assert_near(&got, &want, &format!("pkpo K={k}"));
            }
        }
        // Oracle, N = 3: the reward with all pairs of further draws, less the mean over all triples.
        let with = |i: usize| {
            let pairs = (0..m * m).map(|p| rewards[i].max(rewards[p % m]).max(rewards[p / m]));
            pairs.sum::<f64>() / (m * m) as f64
        };
        let mean = (0..m).map(with).sum::<f64>() / m as f64;
        let want: Vec<f64> = (0..m).map(|i| with(i) - mean).collect();
        assert_near(
            &twin(&GroupRule::Oracle { bon: 3 }, &rewards, &[]).0,
            &want,
            "oracle",
        );
    }
}

/// λ₂ and λ₃ as sums over gaps against means over pairs and triples.
#[test]
fn spacing_factors_give_l_moments() {
    let ascending = [-3.0, -1.0, 0.5, 1.0, 4.0, 7.5, 7.5, 9.0]; // the tail's threshold is 0.5
    let (m, k) = (ascending.len(), 6);
    let above = &ascending[m - k + 1..];
    let (mut l2, mut l3, mut pairs, mut triples) = (0.0, 0.0, 0.0, 0.0);
    for (i, a) in above.iter().enumerate() {
        for (j, b) in above.iter().enumerate().skip(i + 1) {
            (l2, pairs) = (l2 + (b - a) / 2.0, pairs + 1.0);
            for c in &above[j + 1..] {
                (l3, triples) = (l3 + (c - 2.0 * b + a) / 3.0, triples + 1.0);
            }
        }
    }
    let factors = spacing_factors(m, k);
    let sum = |column: usize| {
        let gaps = (1..m).map(|t| factors[t][column] * (ascending[t] - ascending[t - 1]));
        gaps.sum::<f64>()
    };
    assert!((sum(0) - l2 / pairs).abs() < 1e-14, "{} {}", sum(0), l2 / pairs);
    assert!(
        (sum(1) - l3 / triples).abs() < 1e-14,
        "{} {}",
        sum(1),
        l3 / triples
    );
}

/// Settings a reduction cannot take are refused before anything is allocated.
#[test]
fn rules_that_do_not_fit_are_refused() {
    let bon_mean = GroupRule::BonMean { subset: 5, eps: 1e-4 };
    let chow = GroupRule::Chow {
        selected: 4,
        tilt: 1.0,
    };
    for (rule, m) in [
        (GroupRule::Grpo, 0),
        (GroupRule::Grpo, 1),
        (GroupRule::Grpo, MAX_GROUP + 1),
        (GroupRule::tea(6, 2, 0.2, 1.0, 1e-8), 4),
        (GroupRule::tea(4, 5, 0.2, 1.0, 1e-8), 4),
        (GroupRule::tea(4, 0, 0.2, 1.0, 1e-8), 4),
        (bon_mean, 4),
        (GroupRule::Pkpo { subset: 1 }, 4),
        (chow, 4),
        (GroupRule::Oracle { bon: 0 }, 4),
        (GroupRule::CatBon { bon: 0, eps: 1e-4 }, 4),
    ] {
        assert!(rule.plan(m).is_err(), "{rule:?} m={m}");
    }
    assert!(GroupRule::Grpo.plan(2).is_ok() && GroupRule::Grpo.plan(MAX_GROUP).is_ok());
}
