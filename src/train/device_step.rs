//! What a step keeps on the device: scores, rewards and advantages of its groups, the loss's operands,
//! and the sums that the host reads once, after the optimiser's step.

use crate::advantage::{GroupContext, Pass, Rule};
use crate::config::{ScaleAdvantages, TrainConfig};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Readback, Recorder};
use crate::kernels::group_advantage::{
    GAUSSIAN_TAIL, GroupBuffers, GroupReducer, NO_SIGNAL, TAIL_WORDS, TailStatistics, narrow,
    scale_advantages,
};
use crate::kernels::group_rewards::{GroupRewardsArgs, SCORE_WORDS, group_rewards};
use crate::kernels::policy_loss::{LossConfig, PolicyLossArgs, TERMS, policy_loss, policy_loss_sums};
use crate::model::run::Packed;
use crate::model::workspace::{Loaded, Workspace};

/// The loss of a run's iteration (from 0); the first is on-policy and clips nothing.
pub fn loss_config(c: &TrainConfig, iteration: usize) -> LossConfig {
    LossConfig {
        loss_type: c.loss_type,
        beta: c.beta,
        kl_estimator: c.kl_estimator,
        epsilon: (iteration > 0).then_some(c.epsilon),
        max_completion_length: c.max_completion_length,
        responses: c.prompts_per_step * c.num_generations,
    }
}

/// How many of each buffer's elements a run needs.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    groups: usize,
    m: usize,
    /// Tokens of a whole step, for the reference; 0 where β is 0.
    reference: usize,
    /// Rows of sums: one per piece of a prompt and iteration.
    rows: usize,
}

impl Sizes {
    fn of(c: &TrainConfig) -> Self {
        let responses = c.prompts_per_step * c.num_generations;
        Self {
            groups: c.prompts_per_step,
            m: c.num_generations,
            reference: if c.beta > 0.0 {
                responses * c.max_completion_length
            } else {
                0
            },
            // Where every response is a piece of its own.
            rows: responses * c.num_iterations,
        }
    }

    /// Numbers of the groups' tail statistics.
    fn tail_words(&self, pass: &Pass) -> usize {
        if pass.has_tail() {
            self.groups * TAIL_WORDS
        } else {
            0
        }
    }
}

/// The device's side of every step of a run.
pub struct DeviceStep {
    sizes: Sizes,
    reducer: GroupReducer,
    scores: Buffer,            // (G·m, 4), the first column, where the judge leaves them
    placed: Buffer,            // (G, m), the row of each response's score
    rewards: Buffer,           // (G, m)
    selection: Option<Buffer>, // (G, m), Chow's split
    bases: Option<Buffer>,     // (G), what rewards count from, where the rule reads rewards themselves
    scale: ScaleAdvantages,
    advantages: Buffer,    // (G, m)
    flags: Buffer,         // (G)
    tails: Option<Buffer>, // (G, 4), where the rule has a tail
    shifts: Vec<f64>,      // (G), what the host took off the rewards
    /// Whether this step's rewards came from `scores`.
    scored: bool,
    reference: Option<Buffer>, // log-probabilities of the step's tokens
    old: Buffer,               // (P)
    owner: Buffer,             // (P)
    weight: Buffer,            // (P)
    terms: Buffer,             // (P, 8)
    sums: Buffer,              // (pieces, 8)
    report: Readback,
    /// Pieces and reference tokens recorded so far in this step.
    rows: usize,
    referred: usize,
}

/// Where the rewards of a step's groups are, `[group][sample]`.
#[derive(Debug)]
pub enum StepRewards {
    /// On the host.
    Host(Vec<Vec<f64>>),
    /// On the device: the rows of their scores in [`DeviceStep::scores`].
    Device(Vec<Vec<u32>>),
}

/// Sums over a step's tokens.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Totals {
    pub(super) loss: f64,
    pub(super) kl: f64,
    pub(super) entropy: f64,
    pub(super) tokens: f64,
    pub(super) clipped: (f64, f64),
    pub(super) mismatch: f64,
    pub(super) mismatch_max: f64,
}

/// What [`DeviceStep::read`] finds.
#[derive(Debug, Clone)]
pub struct Held {
    /// Rewards (G, m), less what was taken off each group's.
    pub rewards: Vec<f32>,
    /// Advantages (G, m).
    pub advantages: Vec<f32>,
    /// Tail statistics of those rewards (G), where the rule has a tail.
    pub tails: Vec<TailStatistics>,
    /// The loss of each piece, iteration after iteration.
    pub losses: Vec<f32>,
}

/// What the host learns of a step.
pub struct Report {
    /// Sums of each piece, in order.
    pub(super) pieces: Vec<Totals>,
    /// The gradient's norm in the last iteration.
    pub norm: f32,
    /// Per group: every advantage is 0; TEA-GPD fell back to the Gaussian tail.
    pub(super) no_signal: Vec<bool>,
    pub(super) gaussian_tail: Vec<bool>,
    /// Advantages (G, m), for whoever wants to compare them.
    pub(super) advantages: Vec<f32>,
    /// Per group, where the rule has a tail.
    pub(super) tails: Vec<TailStatistics>,
    /// The rows of scores, where the rewards came from there.
    pub(super) scores: Vec<f32>,
}

impl DeviceStep {
    /// Buffers for every step of a run whose micro-batches have up to `readouts` tokens.
    ///
    /// # Errors
    /// The rule does not fit the group's size; out of memory.
    pub fn new(gpu: &Gpu, rule: &Rule, c: &TrainConfig, readouts: usize) -> Result<Self> {
        let sizes = Sizes::of(c);
        let Sizes { groups, m, .. } = sizes;
        let pass = rule.pass(m)?;
        let alloc = |what: &str, elements: usize| gpu.alloc(&format!("step/{what}"), 4 * elements as u64);
        let split = pass.selects();
        Ok(Self {
            scores: alloc("scores", groups * m * SCORE_WORDS)?,
            placed: alloc("placed", groups * m)?,
            rewards: alloc("rewards", groups * m)?,
            selection: split.then(|| alloc("selection", groups * m)).transpose()?,
            bases: pass.absolute().then(|| alloc("bases", groups)).transpose()?,
            scale: c.scale_advantages,
            advantages: alloc("advantages", groups * m)?,
            flags: alloc("flags", groups)?,
            tails: (pass.has_tail())
                .then(|| alloc("tails", sizes.tail_words(&pass)))
                .transpose()?,
            shifts: Vec::new(),
            scored: false,
            reference: (sizes.reference > 0)
                .then(|| alloc("reference", sizes.reference))
                .transpose()?,
            old: alloc("old", readouts)?,
            owner: alloc("owner", readouts)?,
            weight: alloc("weight", readouts)?,
            terms: alloc("terms", readouts * TERMS)?,
            sums: alloc("sums", sizes.rows * TERMS)?,
            reducer: GroupReducer::new(gpu, &pass, groups, m)?,
            report: Readback::new(gpu, "step/report", sizes.report_bytes(&pass))?,
            sizes,
            rows: 0,
            referred: 0,
        })
    }

    /// Where a judge leaves a step's scores: a row for each response.
    pub fn scores(&self) -> &Buffer {
        &self.scores
    }

    /// Brings the step's rewards to their place, from the host or from the judge's scores, records the
    /// rule over its groups, and scales what comes out. A group's place in the step gives its context. Where scores cannot be
    /// compared, `norm` becomes infinite, so that the optimiser's steps after it leave everything as it
    /// is. The report's scores tell which.
    ///
    /// # Errors
    /// A reward on the host that is not finite or too far from its group's best; GPU errors.
    pub fn advantages<'a>(
        &mut self,
        rec: &mut Recorder,
        rule: &Rule,
        (rewards, norm): (&StepRewards, &Buffer),
        context: impl Fn(u64) -> GroupContext<'a>,
    ) -> Result<()> {
        (self.rows, self.referred) = (0, 0);
        let Sizes { groups, m, .. } = self.sizes;
        let lengths: Vec<usize> = match rewards {
            StepRewards::Host(values) => values.iter().map(Vec::len).collect(),
            StepRewards::Device(rows) => rows.iter().map(Vec::len).collect(),
        };
        if lengths != vec![m; groups] {
            return Err(Error::internal(format!(
                "groups of {lengths:?} rewards, where {groups} of {m} are wanted"
            )));
        }
        self.scored = matches!(rewards, StepRewards::Device(_));
        match rewards {
            StepRewards::Host(values) => {
                let narrowed = narrow(&values.concat(), m, 0, self.bases.is_some())?;
                rec.write(&self.rewards, 0, &narrowed.rewards)?;
                if let Some(bases) = &self.bases {
                    rec.write(bases, 0, &narrowed.bases())?;
                }
                self.shifts = narrowed.shifts;
            }
            StepRewards::Device(rows) => {
                rec.write(&self.placed, 0, &rows.concat())?;
                let args = GroupRewardsArgs {
                    scores: &self.scores,
                    rows: &self.placed,
                    rewards: &self.rewards,
                    norm,
                    takes: rule.rewards(),
                };
                group_rewards(rec, &args, groups, m)?;
                // Scores are f32: nothing had to be taken off.
                self.shifts = vec![0.0; groups];
                if let Some(bases) = &self.bases {
                    rec.write(bases, 0, &vec![0f32; groups])?;
                }
            }
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
            tails: self.tails.as_ref(),
        };
        self.reducer.record(rec, &buffers)?;
        match self.scale {
            ScaleAdvantages::None => Ok(()),
            ScaleAdvantages::Group => scale_advantages(rec, &self.advantages, groups, m),
            ScaleAdvantages::Batch => scale_advantages(rec, &self.advantages, 1, groups * m),
        }
    }

    /// What the device holds of the last step.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read(&self, gpu: &Gpu) -> Result<Held> {
        let n = self.sizes.groups * self.sizes.m;
        let tails: Vec<f32> = match &self.tails {
            Some(tails) => gpu.read(tails, 0, self.sizes.groups * TAIL_WORDS)?,
            None => Vec::new(),
        };
        let sums: Vec<f32> = gpu.read(&self.sums, 0, self.rows * TERMS)?;
        Ok(Held {
            rewards: gpu.read(&self.rewards, 0, n)?,
            advantages: gpu.read(&self.advantages, 0, n)?,
            tails: TailStatistics::all(&tails, &vec![0.0; self.sizes.groups]),
            losses: sums.into_iter().step_by(TERMS).collect(),
        })
    }

    /// Keeps the log-probabilities of a micro-batch, after its forward pass, as the reference's.
    ///
    /// # Errors
    /// There is no room for them (a bug).
    pub fn refer(&mut self, rec: &mut Recorder, ws: &Workspace, tokens: usize) -> Result<()> {
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
    pub fn load<'a>(
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
    pub fn loss(
        &mut self,
        rec: &mut Recorder,
        ws: &Workspace,
        config: &LossConfig,
        (loaded, first_reference): (&Loaded, usize),
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
        policy_loss(rec, &args, config, loaded.p)?;
        for part in &loaded.parts {
            let tokens = part.readouts.clone();
            policy_loss_sums(rec, &self.terms, ws.entropy(), &self.sums, self.rows, tokens)?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Waits for the step and reads what came of it. The only wait of an update.
    ///
    /// # Errors
    /// A GPU error.
    pub fn report(&self, rec: &mut Recorder, norm: &Buffer) -> Result<Report> {
        let Sizes { groups, m, .. } = self.sizes;
        let tails = self.tails.as_ref().map(|tails| (tails, groups * TAIL_WORDS));
        let scores = (self.scored).then_some((&self.scores, groups * m * SCORE_WORDS));
        let parts = [
            (&self.sums, self.rows * TERMS),
            (norm, 1),
            (&self.flags, groups),
            (&self.advantages, groups * m),
        ];
        let mut at = 0;
        for (buffer, words) in parts.into_iter().chain(tails).chain(scores) {
            rec.read_back(buffer, 0, &self.report, 4 * at as u64, 4 * words as u64);
            at += words;
        }
        let point = rec.submitted()?;
        let words: Vec<u32> = self.report.read(&point, at)?;
        let float = |w: &u32| f32::from_bits(*w);
        let (sums, rest) = words.split_at(self.rows * TERMS);
        let (norm, rest) = rest.split_at(1);
        let (flags, rest) = rest.split_at(groups);
        let (advantages, rest) = rest.split_at(groups * m);
        let (tails, scores) = rest.split_at(tails.map_or(0, |(_, words)| words));
        let tails: Vec<f32> = tails.iter().map(float).collect();
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
            pieces: sums.chunks_exact(TERMS).map(totals).collect(),
            norm: float(&norm[0]),
            no_signal: flags.iter().map(|f| f & NO_SIGNAL != 0).collect(),
            gaussian_tail: flags.iter().map(|f| f & GAUSSIAN_TAIL != 0).collect(),
            advantages: advantages.iter().map(float).collect(),
            tails: TailStatistics::all(&tails, &self.shifts),
            scores: scores.iter().map(float).collect(),
        })
    }
}

impl Sizes {
    fn report_bytes(&self, pass: &Pass) -> u64 {
        let of_group = 1 + self.m * (1 + SCORE_WORDS);
        (4 * (self.rows * TERMS + 1 + self.groups * of_group + self.tail_words(pass))) as u64
    }
}

impl Totals {
    /// Adds another piece.
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
