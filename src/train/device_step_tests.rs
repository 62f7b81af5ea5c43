//! The step's own path from rewards to advantages, on the golden cases of every rule.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::advantage::scale;
use crate::advantage::tests::golden::{cases, numbers, rule_of, selection_of};
use crate::config::TrainFlags;

/// A golden group.
struct Group {
    rewards: Vec<f64>,
    want: Vec<f64>,
    selection: Option<Vec<usize>>,
}

/// Steps: groups that share rule, settings and size, and what Chow's split of them has.
fn steps() -> Vec<(Rule, Vec<Group>)> {
    let mut steps = BTreeMap::<String, (Rule, Vec<Group>)>::new();
    for case in cases()
        .iter()
        .filter(|case| case["params"].get("error").is_none())
    {
        let group = Group {
            rewards: numbers(&case["rewards"]),
            want: numbers(&case["advantages"]),
            selection: selection_of(case),
        };
        let split = group.selection.as_ref().map(Vec::len);
        let rule = match (rule_of(case), split) {
            (Rule::Chow(_), Some(size)) => Rule::Chow(crate::advantage::ChowParams {
                selection_size: Some(size),
            }),
            (rule, _) => rule,
        };
        let key = format!("{rule:?} {}", group.rewards.len());
        let step = steps.entry(key).or_insert((rule, Vec::new()));
        step.1.push(group);
    }
    steps.into_values().collect()
}

/// The step's advantages of these groups.
fn of_step(gpu: &Gpu, rule: &Rule, groups: &[Group], scale: ScaleAdvantages) -> Vec<f32> {
    let m = groups[0].rewards.len();
    let flags = TrainFlags {
        reward_model: Some("toy".into()),
        num_generations: Some(m),
        prompts_per_step: Some(groups.len()),
        max_completion_length: Some(1),
        scale_advantages: Some(scale),
        ..TrainFlags::default()
    };
    let config = flags.resolve(&|_| None).unwrap();
    let mut step = DeviceStep::new(gpu, rule, &config, 8).unwrap();
    let rewards = StepRewards::Host(groups.iter().map(|g| g.rewards.clone()).collect());
    let norm = gpu.alloc("norm", 4).unwrap();
    let context = |place: u64| GroupContext {
        selection: groups[place as usize].selection.as_deref(),
        ..GroupContext::default()
    };
    let mut rec = Recorder::new(gpu);
    step.advantages(&mut rec, rule, (&rewards, &norm), context)
        .unwrap();
    rec.submit().unwrap();
    step.read(gpu).unwrap().advantages
}

/// Within 1e-4 of each advantage, and 1e-6 of the group's largest where it is a small difference of large rewards.
fn assert_near(what: &str, got: &[f32], want: &[f64]) {
    let peak = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    for (got, want) in got.iter().zip(want) {
        let off = (f64::from(*got) - want).abs();
        assert!(
            off <= 1e-4 * want.abs() + 1e-6 * peak + 1e-26,
            "{what}: {got} {want}"
        );
    }
}

#[test]
fn golden_cases_inside_the_step() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let mut seen = 0;
    for (rule, groups) in steps() {
        let m = groups[0].rewards.len();
        let got = of_step(&gpu, &rule, &groups, ScaleAdvantages::None);
        for (got, group) in got.chunks_exact(m).zip(&groups) {
            assert_near(&format!("{rule:?} of {m}"), got, &group.want);
            seen += 1;
        }
    }
    assert!(seen > 900, "{seen}");
}

#[test]
fn advantages_of_groups_and_of_the_step_are_scaled() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let wanted = |rule: &Rule, m: usize| m == 31 && matches!(rule, Rule::Tea(_) | Rule::GrpoZ(_));
    for (rule, groups) in steps() {
        let m = groups[0].rewards.len();
        if !wanted(&rule, m) {
            continue;
        }
        for how in [ScaleAdvantages::Group, ScaleAdvantages::Batch] {
            let got = of_step(&gpu, &rule, &groups, how);
            let mut want: Vec<Vec<f64>> = groups.iter().map(|g| g.want.clone()).collect();
            scale::apply(how, &mut want);
            for (got, want) in got.chunks_exact(m).zip(&want) {
                assert_near(&format!("{rule:?} {how:?}"), got, want);
            }
        }
    }
}
