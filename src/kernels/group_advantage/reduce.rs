//! Rewards on the CPU in, advantages out.

use super::{GAUSSIAN_TAIL, GroupBuffers, GroupReducer, NO_SIGNAL};
use crate::advantage::chow::ChowParams;
use crate::advantage::{GroupContext, Rule};
use crate::error::{Context, Error, Result};
use crate::gpu::{Gpu, Recorder};

/// Rewards of one dispatch: 16 MiB a buffer, well below every adapter's binding limit, and little enough work that no
/// driver takes the queue for hung.
const REWARDS_PER_DISPATCH: usize = 1 << 22;

/// Widest group: 4096 squares of it still fit f32.
const MAX_SPREAD: f64 = 1e16;

/// Advantages of many groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduced {
    /// Advantages (G, m).
    pub advantages: Vec<f32>,
    /// Per group: every advantage is 0.
    pub no_signal: Vec<bool>,
    /// Per group: TEA-GPD fell back to the Gaussian tail.
    pub gaussian_tail: Vec<bool>,
}

/// Advantages of the groups of `m` in `rewards (G, m)` by `rule`, on the GPU: as many dispatches as the sizes need, the
/// same bits however the groups are batched. `context` gives each group's (only Chow's split uses it).
///
/// Against [`Rule::group_with`] in float64: within 1e-4 of each advantage, and 1e-6 of the group's largest where it is a
/// small difference of large rewards. A group whose rewards f32 holds exactly, as reward models give them, goes up as it
/// is; any other goes up as differences from its maximum, taken in float64: both keep every difference to 6e-8 of the
/// distance from the group's best. Rewards that become equal by that rounding count as ties.
///
/// # Errors
/// A user error as [`Rule::pass`]; a reward that is not finite, or 1e16 below its group's best (naming group and sample);
/// rewards that are no whole groups; splits of unequal sizes. Else GPU errors.
pub fn reduce_groups<'a>(
    gpu: &Gpu,
    rule: &Rule,
    rewards: &[f64],
    m: usize,
    context: impl Fn(usize) -> GroupContext<'a>,
) -> Result<Reduced> {
    let mut pass = rule.pass(m)?;
    if !rewards.len().is_multiple_of(m) {
        return Err(Error::user(format!(
            "{} rewards are no whole number of groups of {m}",
            rewards.len()
        )));
    }
    for (g, group) in rewards.chunks_exact(m).enumerate() {
        let takes = rule.rewards().check(rule.name(), group);
        takes.context(format!("group {g}"))?;
    }
    let mut selection = Vec::new();
    if pass.selects() {
        selection = vec![false; rewards.len()];
        let mut size = 0;
        for g in 0..rewards.len() / m {
            let chosen = rule.selection(m, &context(g))?;
            if g == 0 {
                size = chosen.len();
                pass = ChowParams::split_pass(m, size);
            } else if chosen.len() != size {
                return Err(Error::user(format!(
                    "group {g}: the selection set has {} samples where the first group's has {size}: they must be alike",
                    chosen.len()
                )));
            }
            chosen.iter().for_each(|i| selection[g * m + i] = true);
        }
    }
    let groups = rewards.len() / m;
    let mut out = Reduced {
        advantages: Vec::with_capacity(rewards.len()),
        no_signal: Vec::with_capacity(groups),
        gaussian_tail: Vec::with_capacity(groups),
    };
    if groups == 0 {
        return Ok(out);
    }
    let capacity = groups.min((REWARDS_PER_DISPATCH / m).max(1));
    let reducer = GroupReducer::new(gpu, &pass, capacity, m)?;
    let words = (4 * capacity * m) as u64;
    let input = gpu.alloc("group_advantage/rewards", words)?;
    let split = (!selection.is_empty())
        .then(|| gpu.alloc("group_advantage/selection", words))
        .transpose()?;
    let base = pass
        .absolute()
        .then(|| gpu.alloc("group_advantage/bases", 4 * capacity as u64))
        .transpose()?;
    let advantages = gpu.alloc("group_advantage/advantages", words)?;
    let flags = gpu.alloc("group_advantage/flags", 4 * capacity as u64)?;
    for (batch, values) in rewards.chunks(capacity * m).enumerate() {
        let first = batch * capacity;
        gpu.write(&input, 0, &narrow(values, m, first, pass.absolute())?);
        if let Some(base) = &base {
            gpu.write(base, 0, &bases(values, m));
        }
        if let Some(split) = &split {
            let at = first * m..first * m + values.len();
            let chosen: Vec<u32> = selection[at].iter().map(|s| u32::from(*s)).collect();
            gpu.write(split, 0, &chosen);
        }
        let buffers = GroupBuffers {
            groups: values.len() / m,
            rewards: &input,
            selection: split.as_ref(),
            bases: base.as_ref(),
            advantages: &advantages,
            flags: &flags,
        };
        let mut rec = Recorder::new(gpu);
        reducer.record(&mut rec, &buffers)?;
        rec.submit()?;
        out.take(gpu, &buffers, values.len())?;
    }
    Ok(out)
}

impl Reduced {
    /// Appends the results of one dispatch.
    fn take(&mut self, gpu: &Gpu, b: &GroupBuffers<'_>, rewards: usize) -> Result<()> {
        self.advantages.extend(gpu.read::<f32>(b.advantages, 0, rewards)?);
        let flags: Vec<u32> = gpu.read(b.flags, 0, b.groups)?;
        self.no_signal.extend(flags.iter().map(|f| f & NO_SIGNAL != 0));
        self.gaussian_tail
            .extend(flags.iter().map(|f| f & GAUSSIAN_TAIL != 0));
        Ok(())
    }
}

/// Rewards as f32, group by group: as they are where f32 holds them, else as differences, taken in float64, from the
/// group's maximum, or from its minimum for passes that read rewards themselves (`absolute`). `first` is the first group's
/// number for the message.
///
/// # Errors
/// A user error: a reward that is not finite, or 1e16 below its group's best.
pub fn narrow(values: &[f64], m: usize, first: usize, absolute: bool) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(values.len());
    for (g, group) in values.chunks_exact(m).enumerate() {
        let top = group.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let base = match (exact(group), absolute) {
            (true, _) => 0.0,
            (false, true) => lowest(group),
            (false, false) => top,
        };
        for (i, r) in group.iter().enumerate() {
            if !r.is_finite() || top - r > MAX_SPREAD {
                return Err(Error::user(format!(
                    "group {}, sample {i}: the reward is {r} where the group's best is {top}; single precision needs \
                     finite rewards within {MAX_SPREAD:e} of each other: rescale them",
                    first + g
                )));
            }
            out.push((r - base) as f32);
        }
    }
    Ok(out)
}

/// What the rewards of [`narrow`] count from, for passes that read rewards themselves: their terms are all of one sign
/// then, so nothing cancels.
pub fn bases(values: &[f64], m: usize) -> Vec<f32> {
    let base = |group: &[f64]| if exact(group) { 0.0 } else { lowest(group) };
    values.chunks_exact(m).map(|group| base(group) as f32).collect()
}

fn exact(group: &[f64]) -> bool {
    group.iter().all(|r| f64::from(*r as f32) == *r)
}

fn lowest(group: &[f64]) -> f64 {
    group.iter().copied().fold(f64::INFINITY, f64::min)
}
