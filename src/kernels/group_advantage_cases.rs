//! Cases and tests of the group reductions.

use crate::kernels::group_advantage::{GroupRule, record, twin};
use crate::kernels::harness::{Case, Gen, Slot, Tol};

/// κ(0.2, 128).
const KAPPA: f64 = 2.555191260032;
const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "flags",
};

fn tea(k: usize) -> GroupRule {
    GroupRule::Tea {
        k,
        alpha: 0.2,
        kappa: KAPPA,
        min_scale: 1e-8,
    }
}

fn case(what: &str, rule: GroupRule, rewards: Vec<f32>, m: usize) -> Case {
    let groups = rewards.len() / m;
    let input = Slot::input(&rewards);
    Case {
        name: format!("group_advantage {what} G={groups} m={m} {rule:?}"),
        slots: vec![input, Slot::Out(groups * m), Slot::Out(groups)],
        record: Box::new(move |rec, b| record(rec, rule, &b[0], &b[1], &b[2], groups, m)),
        expect: Box::new(move || {
            let results: Vec<_> = rewards
                .chunks_exact(m)
                .map(|g| {
                    let wide: Vec<f64> = g.iter().map(|r| f64::from(*r)).collect();
                    twin(rule, &wide)
                })
                .collect();
            let advantages: Vec<f64> = results.iter().flat_map(|r| r.0.iter().copied()).collect();
            let largest = advantages.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let tol = Tol {
                atol: 2e-5 * largest,
                rtol: 0.0,
                why: "f32 sums of up to 4096 terms and a tail variance, relative to the largest advantage",
            };
            let flag = |r: &(Vec<f64>, bool)| f64::from(f32::from_bits(u32::from(r.1)));
            vec![
                (1, advantages, tol),
                (2, results.iter().map(flag).collect(), EXACT),
            ]
        }),
        flops: (groups * m * 40) as f64,
    }
}

/// Rewards near 1e4 with a spread of a few 1e-2 (f32 keeps steps of 1e-3 there), groups of equal rewards, ties.
fn awkward(groups: usize, m: usize) -> Vec<f32> {
    let mut g = Gen::new((groups * m) as u64);
    (0..groups)
        .flat_map(|i| -> Vec<f32> {
            match i % 5 {
                0 => g.uniform(m, 0.03).iter().map(|x| 1e4 + x).collect(),
                1 => vec![-7.25; m],
                2 => g.below(m, 3).iter().map(|x| *x as f32).collect(),
                3 => g.uniform(m, 1e-3).iter().map(|x| x - 1e4).collect(),
                _ => g.uniform(m, 0.02),
            }
        })
        .collect()
}

pub(super) fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for (groups, m, k) in [
        (1, 1, 1),
        (3, 2, 2),
        (5, 7, 2),
        (9, 64, 13),
        (2, 65, 13),
        (2, 331, 67),
        (1, 4096, 820),
    ] {
        for rule in [tea(k), GroupRule::Grpo, GroupRule::GrpoZ { eps: 1e-4 }] {
            let rewards = Gen::new(m as u64).uniform(groups * m, 4.0);
            all.push(case("uniform", rule, rewards, m));
        }
    }
    for rule in [tea(4), GroupRule::Grpo, GroupRule::GrpoZ { eps: 1e-4 }] {
        // One group a case: the tolerance is relative to the group's own largest advantage.
        let rewards = awkward(5, 16);
        for (i, group) in rewards.chunks_exact(16).enumerate() {
            all.push(case(&format!("awkward {i}"), rule, group.to_vec(), 16));
        }
        all.push(case("large", rule, Gen::new(4).uniform(2 * 33, 1e4), 33));
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, Recorder};
    use crate::kernels::group_advantage::{GROUP_ADVANTAGE, MAX_GROUP, Params, entries};
    use crate::kernels::harness::{assert_layout, check_entries};
    use serde_json::Value;
    use std::mem::offset_of;

    #[test]
    fn layout() {
        use Params as P;
        assert_layout::<P>(
            &GROUP_ADVANTAGE,
            &[
                ("groups", offset_of!(P, groups)),
                ("m", offset_of!(P, m)),
                ("rule", offset_of!(P, rule)),
                ("k", offset_of!(P, k)),
                ("inverse_alpha", offset_of!(P, inverse_alpha)),
                ("half_kappa", offset_of!(P, half_kappa)),
                ("min_scale", offset_of!(P, min_scale)),
                ("eps", offset_of!(P, eps)),
                ("inverse_m", offset_of!(P, inverse_m)),
                ("inverse_k", offset_of!(P, inverse_k)),
            ],
        );
    }

    #[test]
    fn equals_the_twin() {
        check_entries(&entries());
    }

    fn run(gpu: &Gpu, rule: GroupRule, rewards: &[f32], m: usize) -> (Vec<f32>, Vec<u32>) {
        let groups = rewards.len() / m;
        let r = gpu.upload("r", rewards).unwrap();
        let a = gpu.alloc("a", 4 * rewards.len() as u64).unwrap();
        let f = gpu.alloc("f", 4 * groups as u64).unwrap();
        let mut rec = Recorder::new(gpu);
        record(&mut rec, rule, &r, &a, &f, groups, m).unwrap();
        rec.submit().unwrap();
        (
            gpu.read(&a, 0, rewards.len()).unwrap(),
            gpu.read(&f, 0, groups).unwrap(),
        )
    }

    fn numbers(v: &Value) -> Vec<f64> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect()
    }

    /// The golden cases of these rules, on the GPU: within 1e-4 of the group's largest advantage.
    #[test]
    fn golden_cases() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/advantages.json")).unwrap();
        let mut seen = [0; 3];
        for case in golden["cases"].as_array().unwrap() {
            let (rewards, want) = (numbers(&case["rewards"]), numbers(&case["advantages"]));
            let (params, m) = (&case["params"], rewards.len());
            let rule = match case["rule"].as_str().unwrap() {
                "tea" => {
                    let alpha = params["alpha"].as_f64().unwrap();
                    let key = format!("{alpha},{}", params["n"]);
                    // α is a short decimal here: the small shift undoes its rounding before ⌈αm⌉.
                    let k = ((alpha * m as f64 - 1e-9).ceil() as usize).clamp(2, m);
                    let kappa = golden["kappa"][&key].as_f64().unwrap();
                    seen[0] += 1;
                    GroupRule::Tea {
                        k,
                        alpha,
                        kappa,
                        min_scale: 1e-8,
                    }
                }
                "grpo" => {
                    seen[1] += 1;
                    GroupRule::Grpo
                }
                "grpo-z" => {
                    seen[2] += 1;
                    GroupRule::GrpoZ { eps: 1e-4 }
                }
                _ => continue,
            };
            let narrow: Vec<f32> = rewards.iter().map(|r| *r as f32).collect();
            assert!(
                narrow.iter().zip(&rewards).all(|(n, r)| f64::from(*n) == *r),
                "the golden rewards are exact in f32"
            );
            let (got, flags) = run(&gpu, rule, &narrow, m);
            let largest = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            for (g, w) in got.iter().zip(&want) {
                assert!(
                    (f64::from(*g) - w).abs() <= 1e-4 * largest,
                    "{rule:?} {params}: {g} vs {w}"
                );
            }
            assert_eq!(flags, [u32::from(largest == 0.0)], "{rule:?} {params}");
        }
        assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    }

    /// 1e5 groups need two dimensions of workgroups; every group must come out as it does alone.
    #[test]
    fn a_hundred_thousand_groups() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (groups, m) = (100_000, 4);
        let rewards = Gen::new(2).uniform(groups * m, 1.0);
        let (all, flags) = run(&gpu, tea(2), &rewards, m);
        assert!(flags.iter().all(|f| *f == 0));
        for g in [0, 65_534, 65_535, 99_999] {
            let at = g * m..(g + 1) * m;
            assert_eq!(all[at.clone()], run(&gpu, tea(2), &rewards[at], m).0, "group {g}");
        }
    }

    #[test]
    fn groups_that_do_not_fit_are_refused() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let (a, b, c) = (gpu.alloc("a", 64), gpu.alloc("b", 64), gpu.alloc("c", 64));
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        for (rule, m) in [
            (GroupRule::Grpo, 0),
            (GroupRule::Grpo, MAX_GROUP + 1),
            (tea(5), 4),
        ] {
            assert!(record(&mut Recorder::new(&gpu), rule, &a, &b, &c, 1, m).is_err());
        }
    }
}
