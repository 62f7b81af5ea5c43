//! Cases of the group reductions.

use super::twin::twin;
use super::{GroupBuffers, GroupReducer, GroupRule, Prefix};
use crate::kernels::harness::{Case, Gen, Slot, Tol};

/// κ(0.2, 128).
const KAPPA: f64 = 2.555191260032;
const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "flags and sorted rewards are exact",
};

/// Groups and group size: two, around 8 and 64 lanes, a prime above both, the largest.
const SIZES: [(usize, usize); 9] = [
    (1, 2),
    (3, 7),
    (3, 8),
    (3, 9),
    (2, 63),
    (2, 64),
    (2, 65),
    (2, 331),
    (1, 4096),
];

/// ⌈m/5⌉, at least 2.
fn fifth(m: usize) -> usize {
    m.div_ceil(5).clamp(2, m)
}

fn tea(m: usize) -> GroupRule {
    GroupRule::tea(m, fifth(m), 0.2, KAPPA, 1e-8)
}

/// Prefix-TEA of order 2 over the first `size` samples and the whole group: w₁ + w₂ = 1, w₁·m/size + w₂ = 0.
fn prefix_tea(m: usize, size: usize) -> GroupRule {
    let x = m as f64 / size as f64;
    let prefix = |size: usize, weight: f64| Prefix {
        size,
        k: fifth(size),
        weight,
    };
    GroupRule::Tea {
        alpha: 0.2,
        kappa: KAPPA,
        min_scale: 1e-8,
        prefixes: vec![prefix(size, -x / (x - 1.0)), prefix(m, x / (x - 1.0))],
    }
}

fn tails(m: usize) -> Vec<GroupRule> {
    let mut rules = vec![tea(m)];
    if m > 3 {
        rules.push(prefix_tea(m, m / 2 + 1));
    }
    rules
}

fn means(m: usize) -> Vec<GroupRule> {
    vec![
        GroupRule::Grpo,
        GroupRule::GrpoZ { eps: 1e-4 },
        GroupRule::BonMaxMean,
        GroupRule::BonMaxSecond,
        GroupRule::Chow {
            selected: m.div_ceil(3),
            tilt: 7.25,
        },
    ]
}

fn curves(m: usize) -> Vec<GroupRule> {
    let bon_mean = |subset| GroupRule::BonMean { subset, eps: 1e-4 };
    vec![
        bon_mean(1),
        bon_mean(m / 2),
        bon_mean(m),
        GroupRule::Pkpo { subset: 2 },
        GroupRule::Pkpo {
            subset: (m / 2).max(2),
        },
        GroupRule::Oracle { bon: 1 },
        GroupRule::Oracle { bon: 128 },
    ]
}

fn cats(m: usize) -> Vec<GroupRule> {
    [1, 16, m as u64]
        .map(|bon| GroupRule::CatBon { bon, eps: 1e-4 })
        .to_vec()
}

fn gpds(m: usize) -> Vec<GroupRule> {
    // A smooth stand-in for κ_L of the right size; the true one is in the layer above.
    let node = |xi: f64| (2.5 * libm::exp(1.3 * xi), 3.25 * libm::exp(1.3 * xi));
    let rule = |k: usize, weight: f64| GroupRule::TeaGpd {
        k,
        alpha: 0.2,
        kappa: KAPPA,
        min_scale: 1e-8,
        weight,
        gaussian_skewness: 0.248,
        curve: super::pareto_shapes().map(node).collect(),
    };
    let k = fifth(m);
    vec![rule(k, k as f64 / (k as f64 + 20.0)), rule(k, 1.0)]
}

/// A seeded split of every group, as Chow's rule asks; empty for the others.
fn split(rule: &GroupRule, groups: usize, m: usize) -> Vec<bool> {
    let GroupRule::Chow { selected, .. } = rule else {
        return Vec::new();
    };
    let mut g = Gen::new(m as u64 + 1);
    let group = |_| {
        let mut chosen: Vec<bool> = (0..m).map(|i| i < *selected).collect();
        for i in (1..m).rev() {
            chosen.swap(i, g.below(1, i as u32 + 1)[0] as usize);
        }
        chosen
    };
    (0..groups).flat_map(group).collect()
}

fn expected(rule: &GroupRule, rewards: &[f32], chosen: &[bool], m: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut advantages, mut flags) = (Vec::new(), Vec::new());
    for (g, group) in rewards.chunks_exact(m).enumerate() {
        let wide: Vec<f64> = group.iter().map(|r| f64::from(*r)).collect();
        let of_group = if chosen.is_empty() {
            &[]
        } else {
            &chosen[g * m..(g + 1) * m]
        };
        let (a, bits) = twin(rule, &wide, of_group);
        advantages.extend(a);
        flags.push(f64::from(f32::from_bits(bits)));
    }
    (advantages, flags)
}

fn case(what: &str, rule: GroupRule, rewards: Vec<f32>, m: usize) -> Case {
    let groups = rewards.len() / m;
    let chosen = split(&rule, groups, m);
    let words: Vec<u32> = chosen.iter().map(|s| u32::from(*s)).collect();
    let twin_rule = rule.clone();
    Case {
        name: format!("{what} G={groups} m={m} {}", short(&rule)),
        slots: vec![
            Slot::input(&rewards),
            Slot::input(if words.is_empty() { &[0] } else { &words }),
            Slot::Out(groups * m),
            Slot::Out(groups),
        ],
        record: Box::new(move |rec, b| {
            let reducer = GroupReducer::new(rec.gpu(), &rule, groups, m)?;
            let buffers = GroupBuffers {
                groups,
                rewards: &b[0],
                selection: Some(&b[1]),
                advantages: &b[2],
                flags: &b[3],
            };
            reducer.record(rec, &buffers)
        }),
        expect: Box::new(move || {
            let (advantages, flags) = expected(&twin_rule, &rewards, &chosen, m);
            let why =
                "f32 sums of up to 4096 terms, a variance and a power, relative to the largest advantage";
            let tol = Tol::of_peak(&advantages, 2e-5, why);
            vec![(2, advantages, tol), (3, flags, EXACT)]
        }),
        flops: (groups * m * 40) as f64,
    }
}

/// The rule without its tables.
fn short(rule: &GroupRule) -> String {
    let text = format!("{rule:?}");
    text.split("curve").next().unwrap_or(&text).to_owned()
}

/// Rewards near 1e4 with a spread of a few 1e-2 (f32 keeps steps of 1e-3 there), groups of equal rewards, ties, 0 and 1.
fn awkward(m: usize) -> Vec<Vec<f32>> {
    let mut g = Gen::new(m as u64);
    let near = |values: Vec<f32>, centre: f32| values.iter().map(|x| centre + x).collect::<Vec<f32>>();
    let whole = |values: Vec<u32>| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    vec![
        near(g.uniform(m, 0.03), 1e4),
        vec![-7.25; m],
        whole(g.below(m, 3)),
        whole(g.below(m, 2)),
        near(g.uniform(m, 1e-3), -1e4),
        g.uniform(m, 0.02),
        g.uniform(m, 1e4),
    ]
}

fn cases(rules: fn(usize) -> Vec<GroupRule>) -> Vec<Case> {
    let mut all = Vec::new();
    for (groups, m) in SIZES {
        for rule in rules(m) {
            let rewards = Gen::new(m as u64).uniform(groups * m, 4.0);
            all.push(case("uniform", rule, rewards, m));
        }
    }
    // One group a case: the tolerance is relative to the group's own largest advantage.
    for m in [16, 257] {
        for (i, group) in awkward(m).into_iter().enumerate() {
            for rule in rules(m) {
                all.push(case(&format!("awkward {i}"), rule, group.clone(), m));
            }
        }
    }
    all
}

pub(super) fn tail() -> Vec<Case> {
    cases(tails)
}

pub(super) fn mean() -> Vec<Case> {
    cases(means)
}

pub(super) fn curve() -> Vec<Case> {
    cases(curves)
}

pub(super) fn cat() -> Vec<Case> {
    cases(cats)
}

pub(super) fn gpd() -> Vec<Case> {
    cases(gpds)
}

/// The sorting pass alone.
pub(super) fn sort() -> Vec<Case> {
    let sized = SIZES
        .iter()
        .chain(&[(2, 255), (2, 256), (2, 257), (1, 4095), (1, 2049)])
        .map(|(groups, m)| (Gen::new(*m as u64).uniform(groups * m, 1e4), *m));
    let tied = awkward(97).into_iter().map(|group| (group, 97));
    sized
        .chain(tied)
        .map(|(rewards, m)| {
            let groups = rewards.len() / m;
            Case {
                name: format!("sort G={groups} m={m}"),
                slots: vec![Slot::input(&rewards), Slot::Out(rewards.len())],
                record: Box::new(move |rec, b| super::record_sort(rec, &b[0], &b[1], groups, m)),
                expect: Box::new(move || {
                    let mut sorted = rewards.clone();
                    sorted.chunks_exact_mut(m).for_each(|g| g.sort_by(f32::total_cmp));
                    vec![(1, sorted.iter().map(|x| f64::from(*x)).collect(), EXACT)]
                }),
                flops: (groups * m * 80) as f64,
            }
        })
        .collect()
}
