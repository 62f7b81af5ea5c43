//! What a step keeps on the device: rewards and advantages of its groups, the loss's operands, and the sums that the host
//! reads once, after the optimiser's step.

use crate::advantage::{GroupContext, Pass, Rule};
use crate::config::{ScaleAdvantages, TrainConfig};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Readback, Recorder};
use crate::kernels::group_advantage::{
    GAUSSIAN_TAIL, GroupBuffers, GroupReducer, NO_SIGNAL, bases, narrow, scale_advantages,
};
use crate::kernels::policy_loss::{LossConfig, PolicyLossArgs, TERMS, policy_loss, policy_loss_sums};
use crate::model::plan::Plan;
use crate::model::run::Packed;
use crate::model::workspace::Workspace;

/// How many of each buffer's elements a run needs.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    groups: usize,
    m: usize,
    /// Tokens of one micro-batch.
    readouts: usize,
    /// Tokens of a whole step, for the reference; 0 where β is 0.
    reference: usize,
    /// Rows of sums: one per micro-batch and iteration.
    rows: usize,
}

impl Sizes {
    fn of(c: &TrainConfig, readouts: usize) -> Self {
        let responses = c.prompts_per_step * c.num_generations;
        Self {
            groups: c.prompts_per_step,
            m: c.num_generations,
            readouts,
            reference: if c.beta > 0.0 {
                responses * c.max_completion_length
            } else {
                0
            },
            // Where every response is a micro-batch of its own.
            rows: responses * c.num_iterations,
        }
    }

    /// Bytes of the buffers, but for the rule's own.
    fn bytes(&self, pass: &Pass) -> u64 {
        let responses = self.groups * self.m;
        let step =
            responses * (2 + usize::from(pass.selects())) + self.groups * (1 + usize::from(pass.absolute()));
        let batch = self.readouts * (3 + TERMS);
        (4 * (step + batch + self.reference + self.rows * TERMS)) as u64
    }
}

/// The device's side of every step of a run.
pub struct DeviceStep {
    sizes: Sizes,
    reducer: GroupReducer,
    rewards: Buffer,           // (G, m)
    selection: Option<Buffer>, // (G, m), Chow's split
    bases: Option<Buffer>,     // (G), what rewards count from, where the rule reads rewards themselves
    scale: ScaleAdvantages,
    advantages: Buffer,        // (G, m)
    flags: Buffer,             // (G)
    reference: Option<Buffer>, // log-probabilities of the step's tokens
    old: Buffer,               // (P)
    owner: Buffer,             // (P)
    weight: Buffer,            // (P)
    terms: Buffer,             // (P, 8)
    sums: Buffer,              // (micro-batches, 8)
    report: Readback,
    /// Micro-batches and reference tokens recorded so far in this step.
    rows: usize,
    referred: usize,
}

/// Sums over a step's tokens.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Totals {
    pub(super) loss: f64,
    pub(super) kl: f64,
    pub(super) entropy: f64,
    pub(super) tokens: f64,
    pub(super) clipped: (f64, f64),
    pub(super) mismatch: f64,
    pub(super) mismatch_max: f64,
}

/// What the host learns of a step.
pub(super) struct Report {
    /// Sums of each micro-batch, in order.
    pub(super) batches: Vec<Totals>,
    /// The gradient's norm in the last iteration.
    pub(super) norm: f32,
    /// Per group: every advantage is 0; TEA-GPD fell back to the Gaussian tail.
    pub(super) no_signal: Vec<bool>,
    pub(super) gaussian_tail: Vec<bool>,
    /// Advantages (G, m), for whoever wants to compare them.
    pub(super) advantages: Vec<f32>,
}

impl DeviceStep {
    /// Buffers for every step of a run whose micro-batches have up to `readouts` tokens.
    ///
    /// # Errors
    /// The rule does not fit the group's size; out of memory.
    pub fn new(gpu: &Gpu, rule: &Rule, c: &TrainConfig, readouts: usize) -> Result<Self> {
        let sizes = Sizes::of(c, readouts);
        let Sizes { groups, m, .. } = sizes;
        let pass = rule.pass(m)?;
        let alloc = |what: &str, elements: usize| gpu.alloc(&format!("step/{what}"), 4 * elements as u64);
        let split = pass.selects();
        Ok(Self {
            reducer: GroupReducer::new(gpu, &pass, groups, m)?,
            rewards: alloc("rewards", groups * m)?,
            selection: split.then(|| alloc("selection", groups * m)).transpose()?,
            bases: pass.absolute().then(|| alloc("bases", groups)).transpose()?,
            scale: c.scale_advantages,
            advantages: alloc("advantages", groups * m)?,
            flags: alloc("flags", groups)?,
            reference: (sizes.reference > 0)
                .then(|| alloc("reference", sizes.reference))
                .transpose()?,
            old: alloc("old", readouts)?,
            owner: alloc("owner", readouts)?,
            weight: alloc("weight", readouts)?,
            terms: alloc("terms", readouts * TERMS)?,
            sums: alloc("sums", sizes.rows * TERMS)?,
            report: Readback::new(gpu, "step/report", sizes.report_bytes())?,
            sizes,
            rows: 0,
            referred: 0,
        })
    }

    /// What [`DeviceStep::new`] will take.
    ///
    /// # Errors
    /// The rule does not fit the group's size.
    pub fn plan(rule: &Rule, c: &TrainConfig, readouts: usize) -> Result<Plan> {
        let sizes = Sizes::of(c, readouts);
        let pass = rule.pass(sizes.m)?;
        let mut plan = Plan::default();
        plan.add("step", sizes.bytes(&pass));
        plan.add(
            "group_advantage",
            GroupReducer::bytes(&pass, sizes.groups, sizes.m)?,
        );
        Ok(plan)
    }

    /// Uploads the step's rewards, records the rule over its groups, and scales what comes out. A group's place in the step gives its context.
    ///
    /// # Errors
    /// A reward that is not finite or too far from its group's best; GPU errors.
    pub(super) fn advantages<'a>(
        &mut self,
        rec: &mut Recorder,
        rule: &Rule,
        rewards: &[Vec<f64>],
        context: impl Fn(u64) -> GroupContext<'a>,
    ) -> Result<()> {
        (self.rows, self.referred) = (0, 0);
        let Sizes { groups, m, .. } = self.sizes;
        let all: Vec<f64> = rewards.iter().flatten().copied().collect();
        if all.len() != groups * m {
            return Err(Error::internal(format!(
                "{} rewards for {groups} groups of {m}",
                all.len()
            )));
        }
        rec.write(&self.rewards, 0, &narrow(&all, m, 0, self.bases.is_some())?)?;
        if let Some(buffer) = &self.bases {
            rec.write(buffer, 0, &bases(&all, m))?;
        }
        if let Some(selection) = &self.selection {
            let mut split = vec![0u32; groups * m];
            for g in 0..groups {
                let chosen = rule.selection(m, &context(g as u64))?;
                chosen.iter().for_each(|i| split[g * m + i] = 1);
            }
            rec.write(selection, 0, &split)?;
        }
        let buffers = GroupBuffers {
            groups,
            rewards: &self.rewards,
            selection: self.selection.as_ref(),
            bases: self.bases.as_ref(),
            advantages: &self.advantages,
            flags: &self.flags,
        };
        self.reducer.record(rec, &buffers)?;
        match self.scale {
            ScaleAdvantages::None => Ok(()),
            ScaleAdvantages::Group => scale_advantages(rec, &self.advantages, groups, m),
            ScaleAdvantages::Batch => scale_advantages(rec, &self.advantages, 1, groups * m),
        }
    }

    /// Rewards as the device holds them, and advantages, of the last step: (G, m) each.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read(&self, gpu: &Gpu) -> Result<(Vec<f32>, Vec<f32>)> {
        let n = self.sizes.groups * self.sizes.m;
        Ok((gpu.read(&self.rewards, 0, n)?, gpu.read(&self.advantages, 0, n)?))
    }

    /// Keeps the log-probabilities of a micro-batch, after its forward pass, as the reference's.
    ///
    /// # Errors
    /// There is no room for them (a bug).
    pub(super) fn refer(&mut self, rec: &mut Recorder, ws: &Workspace, tokens: usize) -> Result<()> {
        let Some(reference) = &self.reference else {
            return Err(Error::internal("a reference where β is 0"));
        };
        if self.referred + tokens > self.sizes.reference {
            return Err(Error::internal("more tokens than a step has"));
        }
        let at = 4 * self.referred as u64;
        rec.copy(ws.log_probs(), 0, reference, at, 4 * tokens as u64);
        self.referred += tokens;
        Ok(())
    }

    /// Writes what the loss needs of a micro-batch from the host, before its passes are recorded: the sampling policy's
    /// log-probabilities `old(group, sample)`, the owners and the weights of its tokens.
    ///
    /// # Errors
    /// A GPU error.
    pub(super) fn load<'a>(
        &self,
        rec: &mut Recorder,
        packed: &Packed<'_, '_>,
        config: &LossConfig,
        old: impl Fn(usize, usize) -> &'a [f32],
    ) -> Result<()> {
        let p = packed.loaded.p;
        let (mut olds, mut owners, mut weights) = (vec![0f32; p], vec![0u32; p], vec![0f32; p]);
        for ((g, s), tokens) in packed.owners.iter().zip(&packed.batch.sequences) {
            let weight = config.weight(tokens.len()) as f32;
            for (at, logp) in tokens.iter().zip(old(*g, *s)) {
                olds[*at] = *logp;
                owners[*at] = (g * self.sizes.m + s) as u32;
                weights[*at] = weight;
            }
        }
        rec.write(&self.old, 0, &olds)?;
        rec.write(&self.owner, 0, &owners)?;
        rec.write(&self.weight, 0, &weights)
    }

    /// Records the loss of the micro-batch that was loaded and run forward. `first_reference` is its first token in the
    /// step. The coefficients are in the workspace then.
    ///
    /// # Errors
    /// A GPU error.
    pub(super) fn loss(
        &mut self,
        rec: &mut Recorder,
        ws: &Workspace,
        config: &LossConfig,
        (tokens, first_reference): (usize, usize),
    ) -> Result<()> {
        let args = PolicyLossArgs {
            logp: ws.log_probs(),
            logp_old: &self.old,
            logp_ref: self.reference.as_ref().map(|r| (r, first_reference)),
            owner: &self.owner,
            weight: &self.weight,
            advantages: &self.advantages,
            dlogp: ws.coefficients(),
            terms: &self.terms,
        };
        policy_loss(rec, &args, config, tokens)?;
        policy_loss_sums(rec, &self.terms, ws.entropy(), &self.sums, self.rows, tokens)?;
        self.rows += 1;
        Ok(())
    }

    /// Waits for the step and reads what came of it. The only wait of an update.
    ///
    /// # Errors
    /// A GPU error.
    pub(super) fn report(&self, rec: &mut Recorder, norm: &Buffer) -> Result<Report> {
        let Sizes { groups, m, .. } = self.sizes;
        let parts = [
            (&self.sums, self.rows * TERMS),
            (norm, 1),
            (&self.flags, groups),
            (&self.advantages, groups * m),
        ];
        let mut at = 0;
        for (buffer, words) in parts {
            rec.read_back(buffer, 0, &self.report, 4 * at as u64, 4 * words as u64);
            at += words;
        }
        let point = rec.submitted()?;
        let words: Vec<u32> = self.report.read(&point, at)?;
        let float = |w: &u32| f32::from_bits(*w);
        let (sums, rest) = words.split_at(self.rows * TERMS);
        let flags = &rest[1..=groups];
        let totals = |row: &[u32]| {
            let v = |i: usize| f64::from(float(&row[i]));
            Totals {
                loss: v(0),
                kl: v(1),
                clipped: (v(2), v(3)),
                mismatch: v(4),
                mismatch_max: v(5),
                entropy: v(6),
                tokens: v(7),
            }
        };
        Ok(Report {
            batches: sums.chunks_exact(TERMS).map(totals).collect(),
            norm: float(&rest[0]),
            no_signal: flags.iter().map(|f| f & NO_SIGNAL != 0).collect(),
            gaussian_tail: flags.iter().map(|f| f & GAUSSIAN_TAIL != 0).collect(),
            advantages: rest[1 + groups..].iter().map(float).collect(),
        })
    }
}

impl Sizes {
    fn report_bytes(&self) -> u64 {
        (4 * (self.rows * TERMS + 1 + self.groups * (1 + self.m))) as u64
    }
}

impl Totals {
    /// Adds another micro-batch.
    pub(super) fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.kl += other.kl;
        self.entropy += other.entropy;
        self.tokens += other.tokens;
        self.clipped.0 += other.clipped.0;
        self.clipped.1 += other.clipped.1;
        self.mismatch += other.mismatch;
        self.mismatch_max = self.mismatch_max.max(other.mismatch_max);
    }
}

#[cfg(test)]
#[path = "device_step_tests.rs"]
mod tests;
