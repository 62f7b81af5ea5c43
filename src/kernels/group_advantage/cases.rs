//! Cases of the group reductions; the rules in float64 are the twins.

use super::{GAUSSIAN_TAIL, GroupBuffers, GroupReducer, NO_SIGNAL, TAIL_WORDS};
use crate::advantage::scale;
use crate::advantage::{
    Alpha, BonMeanParams, CatBonParams, ChowParams, GroupContext, OracleParams, Pass, PkpoParams, Rule, Tail,
    TeaGpdParams,
};
use crate::config::ScaleAdvantages;
use crate::kernels::harness::{Case, Gen, Slot, Tol, with_scratch};
use crate::kernels::work::{PORTABLE, Phase, Rate, Wanted, Work};

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

/// Below this a curve counts as flat in f32, and its group as one without signal.
const FAINT: f64 = 1e-30;

/// Every rule whose reduction over groups of `m` is one of these, with its default settings.
fn rules(m: usize, of: fn(&Pass) -> bool) -> Vec<Rule> {
    let mut all = Rule::ALL.to_vec();
    all.retain(|rule| rule.pass(m).is_ok_and(|pass| of(&pass)));
    all
}

fn tails(m: usize) -> Vec<Rule> {
    rules(m, |pass| matches!(pass, Pass::Tail { .. }))
}

fn means(m: usize) -> Vec<Rule> {
    let mut all = rules(m, |pass| {
        matches!(
            pass,
            Pass::Centre { .. } | Pass::Ratio | Pass::Best { .. } | Pass::Split { .. }
        )
    });
    all.push(Rule::Chow(ChowParams {
        selection_size: Some(m.div_ceil(3)),
    }));
    all
}

fn curves(m: usize) -> Vec<Rule> {
    let bon_mean = |k| {
        Rule::BonMean(BonMeanParams {
            max_at_k: Some(k),
            ..BonMeanParams::DEFAULT
        })
    };
    let mut all = rules(m, |pass| matches!(pass, Pass::Curve { .. }));
    all.extend([
        bon_mean(1),
        bon_mean(m),
        Rule::Pkpo(PkpoParams { max_at_k: Some(2) }),
        Rule::Oracle(OracleParams { bon: 1 }),
    ]);
    all
}

fn cats(m: usize) -> Vec<Rule> {
    let cat = |bon| {
        Rule::CatBon(CatBonParams {
            bon: Some(bon),
            ..CatBonParams::DEFAULT
        })
    };
    let mut all = rules(m, |pass| matches!(pass, Pass::Cat { .. }));
    all.extend([1, 16].map(cat));
    all
}

fn tilts(m: usize) -> Vec<Rule> {
    rules(m, |pass| matches!(pass, Pass::Tilt(_)))
}

fn tables(m: usize) -> Vec<Rule> {
    rules(m, |pass| matches!(pass, Pass::Table(_)))
}

fn gpds(m: usize) -> Vec<Rule> {
    let mut all = rules(m, |pass| matches!(pass, Pass::Gpd { .. }));
    all.push(Rule::TeaGpd(TeaGpdParams {
        shrinkage: 0.0,
        ..TeaGpdParams::DEFAULT
    }));
    all
}

/// A seeded selection set of every group, as Chow's rule asks; empty for the others.
fn splits(rule: &Rule, groups: usize, m: usize) -> Vec<Vec<usize>> {
    let of = |g| rule.selection(m, &GroupContext::at(5, 1, g as u64));
    (0..groups).map(|g| of(g).unwrap_or_default()).collect()
}

fn expected(rule: &Rule, rewards: &[f32], splits: &[Vec<usize>], m: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut advantages, mut flags) = (Vec::new(), Vec::new());
    for (group, split) in rewards.chunks_exact(m).zip(splits) {
        let wide: Vec<f64> = group.iter().map(|r| f64::from(*r)).collect();
        let context = GroupContext {
            selection: (!split.is_empty()).then_some(split),
            ..GroupContext::default()
        };
        // A rule that does not fit gives NaN, which no kernel equals.
        let Ok(found) = rule.group_with(&wide, &context) else {
            advantages.extend(vec![f64::NAN; m]);
            flags.push(f64::NAN);
            continue;
        };
        let peak = found.advantages.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        let faint = peak <= FAINT;
        let mut bits = if faint { NO_SIGNAL } else { 0 };
        if found.gaussian_tail == Some(true) {
            bits |= GAUSSIAN_TAIL;
        }
        advantages.extend(found.advantages.into_iter().map(|a| if faint { 0.0 } else { a }));
        flags.push(f64::from(f32::from_bits(bits)));
    }
    (advantages, flags)
}

/// q, μ − q, σ and κ of every group; empty where the rule has no tail.
fn expected_tails(rule: &Rule, rewards: &[f32], m: usize) -> Vec<f64> {
    let tail = |group: &[f32]| {
        let wide: Vec<f64> = group.iter().map(|r| f64::from(*r)).collect();
        let alpha = match rule.pass(m).ok()? {
            Pass::Tail { alpha, .. } | Pass::Gpd { alpha, .. } => Alpha::new(alpha).ok()?,
            _ => return None,
        };
        // A rule that predicts nothing has no κ.
        let kappa = rule.group(&wide).ok()?.tail.map_or(0.0, |t| t.kappa);
        let tail = Tail::fit(&wide, alpha);
        Some([tail.q, tail.mu - tail.q, tail.sigma, kappa])
    };
    rewards.chunks_exact(m).filter_map(tail).flatten().collect()
}

fn case(what: &str, rule: Rule, rewards: Vec<f32>, m: usize) -> Case {
    let all: Vec<usize> = (0..rewards.len() / m).collect();
    picked_case(what, rule, rewards, m, &all)
}

/// A case whose twin computes the `picked` groups.
fn picked_case(what: &str, rule: Rule, rewards: Vec<f32>, m: usize, picked: &[usize]) -> Case {
    let groups = rewards.len() / m;
    let wide: Vec<f64> = rewards.iter().map(|r| f64::from(*r)).collect();
    let rewards = rule.rewards().like(&wide);
    let rewards: Vec<f32> = rewards.iter().map(|r| *r as f32).collect();
    let chosen = splits(&rule, groups, m);
    let tailed = rule.pass(m).is_ok_and(|pass| pass.has_tail());
    let mut words = vec![0u32; groups * m];
    for (g, split) in chosen.iter().enumerate() {
        split.iter().for_each(|i| words[g * m + i] = 1);
    }
    let compared: Vec<f32> = picked
        .iter()
        .flat_map(|g| &rewards[g * m..(g + 1) * m])
        .copied()
        .collect();
    let chosen: Vec<Vec<usize>> = picked.iter().map(|g| chosen[*g].clone()).collect();
    Case {
        name: format!("{what} G={groups} m={m} {rule:?}"),
        slots: vec![
            Slot::input(&rewards),
            Slot::input(&words),
            Slot::rows(groups, m, picked),
            Slot::rows(groups, 1, picked),
            Slot::rows(groups, if tailed { TAIL_WORDS } else { 0 }, picked),
            Slot::input(&vec![0f32; groups]),
        ],
        record: with_scratch(
            move |gpu| GroupReducer::new(gpu, &rule.pass(m)?, groups, m),
            move |rec, b, reducer| {
                let buffers = GroupBuffers {
                    groups,
                    rewards: &b[0],
                    selection: Some(&b[1]),
                    bases: Some(&b[5]),
                    advantages: &b[2],
                    flags: &b[3],
                    tails: Some(&b[4]),
                };
                reducer.record(rec, &buffers)
            },
        ),
        expect: Box::new(move || {
            let (advantages, flags) = expected(&rule, &compared, &chosen, m);
            let why =
                "f32 sums of up to 4096 terms, a variance and a power, relative to the largest advantage";
            let tol = Tol::of_peak(&advantages, 2e-5, why);
            let tails = Tol {
                atol: 0.0,
                rtol: 2e-5,
                why: "f32 sums of up to 4096 squares; TEA-GPD's κ also a cubic of a ratio of sums",
            };
            vec![
                (2, advantages, tol),
                (3, flags, EXACT),
                (4, expected_tails(&rule, &compared, m), tails),
            ]
        }),
        flops: (groups * m * 40) as f64,
    }
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

fn cases(rules: fn(usize) -> Vec<Rule>) -> Vec<Case> {
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

/// Groups of the work, and rewards a group.
const GROUPS: usize = 10_000;
const M: usize = 64;

/// Every rule of training over many groups.
pub(in crate::kernels) fn work(_: &Wanted<'_>) -> Vec<Work> {
    let bytes = 8.0 * (GROUPS * M) as f64;
    let one = |rule: Rule| Work {
        op: format!("advantage_{}", rule.name()).into(),
        variant: PORTABLE,
        dtype: None,
        model: "groups",
        phase: Phase::Training,
        shape: format!("{GROUPS} groups of {M}"),
        flops: 0.0,
        bytes,
        memory: 2.0 * bytes,
        rate: Rate::F32,
        build: Box::new(move || {
            let rewards = Gen::new(64).uniform(GROUPS * M, 3.0);
            let picked = [0, GROUPS / 2, GROUPS - 1];
            Ok(picked_case("work", rule, rewards, M, &picked).forced(PORTABLE))
        }),
    };
    let rules = Rule::ALL.iter().copied();
    rules.filter(Rule::trains).map(one).collect()
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

pub(super) fn tilt() -> Vec<Case> {
    cases(tilts)
}

pub(super) fn table() -> Vec<Case> {
    cases(tables)
}

/// Rows of all sizes, of zeros, and of numbers whose squares f32 does not hold.
pub(super) fn scale() -> Vec<Case> {
    let drawn = |rows: usize, n: usize, width: f32| (rows, n, Gen::new(n as u64).uniform(rows * n, width));
    let mut all: Vec<(usize, usize, Vec<f32>)> = SIZES.iter().map(|(g, m)| drawn(*g, *m, 4.0)).collect();
    all.extend([
        drawn(1, 70_001, 1.0),
        drawn(2, 65, 1e30),
        drawn(2, 65, 1e-25),
        (2, 9, vec![0.0; 18]),
    ]);
    let case = |(rows, n, values): (usize, usize, Vec<f32>)| Case {
        name: format!("scale rows={rows} n={n} largest={:e}", values[0]),
        slots: vec![Slot::InOut(values.clone())],
        record: Box::new(move |rec, b| super::scale_advantages(rec, &b[0], rows, n)),
        flops: (6 * rows * n) as f64,
        expect: Box::new(move || {
            let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
            let mut groups: Vec<Vec<f64>> = wide.chunks_exact(n).map(<[f64]>::to_vec).collect();
            scale::apply(ScaleAdvantages::Group, &mut groups);
            let want = groups.concat();
            let tol = Tol::of_peak(&want, 1e-5, "an f32 sum of squares of up to 70,001 terms");
            vec![(0, want, tol)]
        }),
    };
    all.into_iter().map(case).collect()
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
