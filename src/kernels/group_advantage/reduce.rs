//! Rewards on the CPU in, advantages out.

use super::{GAUSSIAN_TAIL, GroupBuffers, GroupReducer, NO_SIGNAL, TAIL_WORDS};
use crate::advantage::chow::ChowParams;
use crate::advantage::{GroupContext, Rule};
use crate::error::{Context, Error, Result};
use crate::gpu::{Gpu, Recorder};
use crate::kernels::group_rewards::FAR;

/// Rewards of one dispatch: 16 MiB a buffer, well below every adapter's binding limit, and little enough work that no
/// driver takes the queue for hung.
const REWARDS_PER_DISPATCH: usize = 1 << 22;

/// Advantages of many groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduced {
    /// Advantages (G, m).
    pub advantages: Vec<f32>,
    /// Per group: every advantage is 0.
    pub no_signal: Vec<bool>,
    /// Per group: TEA-GPD fell back to the Gaussian tail.
    pub gaussian_tail: Vec<bool>,
    /// Per group, where the rule has a tail.
    pub tails: Vec<TailStatistics>,
}

/// What a tail pass leaves of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TailStatistics {
    /// The threshold: the k-th largest reward.
    pub q: f64,
    /// Mean of the k largest.
    pub mu: f64,
    /// Their population standard deviation.
    pub sigma: f64,
    /// With this κ, `μ + κ·σ` is the predicted best of N; 0 where the rule predicts nothing.
    pub kappa: f64,
}

impl TailStatistics {
    /// Of every group, from what the device holds (G, [`TAIL_WORDS`]: q, μ − q, σ, κ) and what was taken off each group's
    /// rewards ([`Narrowed::shifts`]).
    pub fn all(words: &[f32], shifts: &[f64]) -> Vec<Self> {
        let one = |(row, shift): (&[f32], &f64)| {
            let [q, excess, sigma, kappa] = [0, 1, 2, 3].map(|i| f64::from(row[i]));
            Self {
                q: shift + q,
                mu: shift + (q + excess),
                sigma,
                kappa,
            }
        };
        words.chunks_exact(TAIL_WORDS).zip(shifts).map(one).collect()
    }
}

/// Rewards as the device takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Narrowed {
    /// Rewards (G, m).
    pub rewards: Vec<f32>,
    /// What was taken off each group's rewards (G).
    pub shifts: Vec<f64>,
}

impl Narrowed {
    /// The shifts as the passes read them that take rewards themselves.
    pub fn bases(&self) -> Vec<f32> {
        self.shifts.iter().map(|shift| *shift as f32).collect()
    }
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
        tails: Vec::new(),
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
    let tails = (pass.has_tail())
        .then(|| gpu.alloc("group_advantage/tails", (4 * TAIL_WORDS * capacity) as u64))
        .transpose()?;
    for (batch, values) in rewards.chunks(capacity * m).enumerate() {
        let first = batch * capacity;
        let narrowed = narrow(values, m, first, pass.absolute())?;
        gpu.write(&input, 0, &narrowed.rewards);
        if let Some(base) = &base {
            gpu.write(base, 0, &narrowed.bases());
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
            tails: tails.as_ref(),
        };
        let mut rec = Recorder::new(gpu);
        reducer.record(&mut rec, &buffers)?;
        rec.submit()?;
        out.take(gpu, &buffers, &narrowed)?;
    }
    Ok(out)
}

impl Reduced {
    /// Appends the results of one dispatch.
    fn take(&mut self, gpu: &Gpu, b: &GroupBuffers<'_>, narrowed: &Narrowed) -> Result<()> {
        let n = narrowed.rewards.len();
        self.advantages.extend(gpu.read::<f32>(b.advantages, 0, n)?);
        let flags: Vec<u32> = gpu.read(b.flags, 0, b.groups)?;
        self.no_signal.extend(flags.iter().map(|f| f & NO_SIGNAL != 0));
        self.gaussian_tail
            .extend(flags.iter().map(|f| f & GAUSSIAN_TAIL != 0));
        if let Some(tails) = b.tails {
            let words: Vec<f32> = gpu.read(tails, 0, b.groups * TAIL_WORDS)?;
            self.tails.extend(TailStatistics::all(&words, &narrowed.shifts));
        }
        Ok(())
    }
}

/// The error of a group whose rewards cannot be compared because of that of one sample.
pub fn far_apart(group: usize, sample: usize, rewards: &[f64]) -> Error {
    let top = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Error::user(format!(
        "group {group}, sample {sample}: the reward is {} where the group's best is {top}; single precision needs \
         finite rewards within {FAR:e} of each other: rescale them",
        rewards[sample]
    ))
}

/// Rewards as f32, group by group: as they are where f32 holds them, else as differences, taken in float64, from the
/// group's maximum, or from its minimum for passes that read rewards themselves (`absolute`): their terms are all of one
/// sign then, so nothing cancels. `first` is the first group's number for the message.
///
/// # Errors
/// A user error: a reward that is not finite, or 1e16 below its group's best.
pub fn narrow(values: &[f64], m: usize, first: usize, absolute: bool) -> Result<Narrowed> {
    let mut out = Narrowed {
        rewards: Vec::with_capacity(values.len()),
        shifts: Vec::with_capacity(values.len() / m),
    };
    for (g, group) in values.chunks_exact(m).enumerate() {
        let top = group.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exact = group.iter().all(|r| f64::from(*r as f32) == *r);
        let shift = match (exact, absolute) {
            (true, _) => 0.0,
            (false, true) => group.iter().copied().fold(f64::INFINITY, f64::min),
            (false, false) => top,
        };
        out.shifts.push(shift);
        for (i, r) in group.iter().enumerate() {
            if !r.is_finite() || top - r > f64::from(FAR) {
                return Err(far_apart(first + g, i, group));
            }
            out.rewards.push((*r - shift) as f32);
        }
    }
    Ok(out)
}
