//! A judge's scores on the device → the rewards that the group reductions read, and a stop for the optimiser where a group
//! of them cannot be compared.

use super::harness::{Case, Gen, Slot, Tol, wide};
use super::reduce::lanes;
use super::{Entry, fold};
use crate::advantage::Rewards;
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};

static GROUP_REWARDS: Kernel = Kernel::portable(
    "group_rewards",
    shaders!["group_rewards.wgsl", "shared/row_reduce.wgsl"],
);

/// Numbers of a score's row: the score, then what pads it.
pub const SCORE_WORDS: usize = 4;

/// Widest group: 4096 squares of it still fit f32.
pub const FAR: f32 = 1e16;

params! {
    struct Params {
        groups: u32,
        m: u32,
        far: f32,
        takes: u32,
    }
}

/// The buffers of [`group_rewards`]; G groups of m.
#[derive(Debug, Clone, Copy)]
pub struct GroupRewardsArgs<'a> {
    /// Scores (N, [`SCORE_WORDS`]), the first column.
    pub scores: &'a Buffer,
    /// The row of each response's score (G, m), u32.
    pub rows: &'a Buffer,
    /// Rewards (G, m), overwritten; 0 where the score is not finite.
    pub rewards: &'a Buffer,
    /// The norm that the optimiser's steps go by (1): infinite afterwards where a group cannot be compared
    /// ([`unfit`]), else as it was.
    pub norm: &'a Buffer,
    /// The rewards that the rule takes.
    pub takes: Rewards,
}

/// The shader's number of what a rule takes.
fn number(takes: Rewards) -> u32 {
    match takes {
        Rewards::Any => 0,
        Rewards::NotNegative => 1,
        Rewards::ZeroOne => 2,
    }
}

/// Records the rewards of `groups` groups of `m`, with the scores' own bits.
///
/// # Errors
/// A GPU error.
pub fn group_rewards(rec: &mut Recorder, args: &GroupRewardsArgs<'_>, groups: usize, m: usize) -> Result<()> {
    let params = Params {
        groups: groups as u32,
        m: m as u32,
        far: FAR,
        takes: number(args.takes),
    };
    let bindings = [args.scores, args.rows, args.rewards, args.norm].map(Into::into);
    let constants = [("LANES", lanes(rec, 64) as f64)];
    rec.dispatch(&GROUP_REWARDS, &constants, &params, &bindings, fold(groups, 1))
}

/// The first response of a group that keeps it from being compared, as the device finds it: a score that is not finite,
/// else one that the rule does not take, else one more than [`FAR`] below the best.
pub fn unfit(scores: &[f32], takes: Rewards) -> Option<usize> {
    let best = scores.iter().copied().fold(f32::MIN, f32::max);
    let far = |score: &f32| best - score > FAR;
    (scores.iter().position(|s| !s.is_finite()))
        .or_else(|| scores.iter().position(|s| !takes.takes(f64::from(*s))))
        .or_else(|| scores.iter().position(far))
}

/// The op's row in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![Entry::new(&GROUP_REWARDS, cases)]
}

/// Scores in a shuffled order, with something between them in the other columns.
fn case(what: &str, (groups, m): (usize, usize), takes: Rewards, odd: Option<(usize, f32)>) -> Case {
    let n = groups * m;
    let mut scores = Gen::new(n as u64).uniform(n * SCORE_WORDS, 1e4);
    scores = takes.like(&wide(&scores)).iter().map(|s| *s as f32).collect();
    // 7 shares no factor with the sizes below.
    let rows: Vec<u32> = (0..n).map(|i| (i * 7 % n) as u32).collect();
    if let Some((at, value)) = odd {
        scores[rows[at] as usize * SCORE_WORDS] = value;
    }
    let rewards: Vec<f32> = rows
        .iter()
        .map(|row| scores[*row as usize * SCORE_WORDS])
        .collect();
    let stopped = rewards.chunks(m).any(|group| unfit(group, takes).is_some());
    Case {
        name: format!("{what} G={groups} m={m}"),
        slots: vec![
            Slot::input(&scores),
            Slot::input(&rows),
            Slot::Out(n),
            Slot::Bytes(vec![0.5f32.to_bits()], f32::from),
        ],
        record: Box::new(move |rec, b| {
            let args = GroupRewardsArgs {
                scores: &b[0],
                rows: &b[1],
                rewards: &b[2],
                norm: &b[3],
                takes,
            };
            group_rewards(rec, &args, groups, m)
        }),
        expect: Box::new(move || {
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "bits are copied",
            };
            let kept = wide(&rewards);
            let kept = kept.into_iter().map(|r| if r.is_finite() { r } else { 0.0 });
            // The exponent's bits are set, the others left.
            let norm = 0.5f32.to_bits() | if stopped { f32::INFINITY.to_bits() } else { 0 };
            let bytes = norm.to_le_bytes().map(f64::from).to_vec();
            vec![(2, kept.collect(), exact), (3, bytes, exact)]
        }),
        flops: (n * 2) as f64,
    }
}

fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = [(1, 2), (3, 8), (2, 9), (5, 64), (2, 65), (3, 331), (1, 4096)]
        .map(|sizes| case("finite", sizes, Rewards::Any, None))
        .into();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        all.push(case(
            &format!("{value}"),
            (3, 65),
            Rewards::Any,
            Some((64, value)),
        ));
    }
    for value in [2e16, -2e16, -f32::MAX, 9e15] {
        all.push(case(
            &format!("{value:e}"),
            (2, 10),
            Rewards::Any,
            Some((13, value)),
        ));
    }
    // As small as f32 goes: copied, not computed with.
    all.push(case(
        "subnormal",
        (1, 9),
        Rewards::Any,
        Some((3, f32::from_bits(1))),
    ));
    for (takes, odd) in [
        (Rewards::NotNegative, None),
        (Rewards::NotNegative, Some(-0.0)),
        (Rewards::NotNegative, Some(-1e-30)),
        (Rewards::ZeroOne, None),
        (Rewards::ZeroOne, Some(-0.0)),
        (Rewards::ZeroOne, Some(0.5)),
        (Rewards::ZeroOne, Some(f32::NAN)),
    ] {
        all.push(case(
            &format!("{takes:?} {odd:?}"),
            (2, 9),
            takes,
            odd.map(|value| (11, value)),
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_comes_first() {
        let any = |scores: &[f32]| unfit(scores, Rewards::Any);
        assert_eq!(any(&[0.0, -2e16, 1.0, f32::NAN]), Some(3));
        assert_eq!(any(&[0.0, -2e16, f32::INFINITY]), Some(2));
        assert_eq!(any(&[0.0, -2e16, 1.0]), Some(1));
        assert_eq!(any(&[f32::MAX, 0.0]), Some(1));
        assert_eq!(any(&[1.0, 0.0, -9e15]), None);
        assert_eq!(unfit(&[2e16, 0.0, -1.0], Rewards::NotNegative), Some(2));
        assert_eq!(unfit(&[1.0, 0.0, -0.0], Rewards::ZeroOne), None);
        assert_eq!(unfit(&[1.0, 0.0, 2.0], Rewards::ZeroOne), Some(2));
    }
}
