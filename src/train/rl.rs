//! The on-policy group step: sample, score, advantages, one or more clipped-ratio updates.
//!
//! Method: TEA (arXiv 2605.10716), §4 of its training interface: every rule shares this loop and only the map from a
//! group's rewards to its advantages differs. The trainer does not know the rules.

use super::data;
use super::device_step::{DeviceStep, Report, StepRewards, Totals, loss_config};
use super::judged::{Asked, Clock, Judged};
use crate::advantage::{GroupContext, Rule};
use crate::config::{GradientSum, MatmulPrecision, TrainConfig};
use crate::error::{Context, Error, Result};
use crate::gpu::Recorder;
use crate::kernels::group_advantage::{TailStatistics, far_apart};
use crate::kernels::group_rewards::{SCORE_WORDS, unfit};
use crate::model::params::Model;
use crate::model::pieces::{Order, Pieces};
use crate::model::run::{self, Group};
use crate::model::workspace::Workspace;
use crate::optim::Optimizer;
use crate::reward::{self, GroupScoring, Item, Reward};
use crate::rollout::{Completion, Finish, Sampler};
use crate::text::{PromptContent, Tokenizer};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// A training prompt.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// As the user wrote it (the reward model formats it itself).
    pub content: PromptContent,
    /// As the policy reads it.
    pub tokens: Vec<u32>,
}

/// Everything a step needs.
pub struct Trainer<'a> {
    /// Settings.
    pub config: &'a TrainConfig,
    /// The advantage rule.
    pub rule: Rule,
    /// The policy; its trainable tensors are the optimiser's.
    pub model: &'a Model,
    /// The reference where the adapter cannot simply be switched off (`--full` with β > 0).
    pub reference: Option<&'a Model>,
    /// The policy's tokenizer, for decoding responses.
    pub tokenizer: &'a Tokenizer,
    /// Prompts.
    pub prompts: &'a [Prompt],
    /// Buffers of the forward and backward passes.
    pub ws: &'a Workspace,
    /// Most tokens of a piece of a prompt ([`Pieces::cut`]); every piece fits in the buffers.
    pub piece_tokens: usize,
    /// Buffers of sampling.
    pub sampler: Sampler,
    /// Advantages, loss and sums on the device.
    pub device: DeviceStep,
    /// AdamW.
    pub optimizer: Optimizer,
    /// Tokens that end a response.
    pub stop: Vec<u32>,
}

/// The samples that a step learns from, with their rewards, `[group][sample]`.
#[derive(Debug)]
pub struct ScoredSamples {
    /// Each group's prompt, as its place in [`Trainer::prompts`].
    pub prompts: Vec<usize>,
    /// Responses, with their log-probabilities under the policy that sampled them.
    pub completions: Vec<Vec<Completion>>,
    /// Their rewards.
    pub rewards: StepRewards,
}

impl Trainer<'_> {
    /// Runs step number `step` (from 0) and returns its metrics.
    ///
    /// # Errors
    /// A non-finite reward or gradient, or a GPU error; nothing is updated then.
    pub fn step(&mut self, step: u64, reward: &mut dyn Reward) -> Result<Map<String, Value>> {
        let begun = Instant::now();
        let waits = self.model.gpu.host_waits();
        let (scored, clock) = self.scored(step, reward)?;
        let sampled = self.model.gpu.host_waits();
        let mut metrics = self.learn(step, &scored, reward.name())?;
        let updated = self.model.gpu.host_waits();
        let whole = begun.elapsed().as_secs_f64();
        metrics.extend(object(json!({
            "host_waits": updated - waits,
            "host_waits/update": updated - sampled,
            "frac_groups_overlapped": clock.overlapped as f64 / scored.prompts.len().max(1) as f64,
            "time/sample": clock.sample,
            "time/reward": clock.reward,
            "time/reward_overlapped": clock.reward_overlapped,
            "time/update": whole - clock.sample - clock.reward,
            "step_time": whole,
        })));
        Ok(metrics)
    }

    /// The part of step number `step` (from 0) after sampling: advantages, gradients and AdamW. Returns
    /// the metrics of samples that `judge` has scored, and of what they changed.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn learn(&mut self, step: u64, scored: &ScoredSamples, judge: &str) -> Result<Map<String, Value>> {
        let (report, rate) = self.update(step, scored)?;
        let iterations = self.config.num_iterations;
        let norm = self.optimizer.finish(report.norm, iterations as u64);
        // What went wrong first is what is told.
        let rewards = self.rewards(scored, &report, judge)?;
        finite(&report)?;
        let norm = norm?;
        dump(step + 1, &rewards, &report.advantages);
        let mut metrics = describe(&scored.completions, &rewards, &report, &self.rule, judge);
        let per_iteration = report.pieces.len() / iterations.max(1);
        let (mut totals, mut passed) = (Totals::default(), Totals::default());
        for (i, piece) in report.pieces.iter().enumerate() {
            passed.add(piece);
            // What is not a share of all iterations' tokens is that of the first, on-policy one.
            if i < per_iteration {
                totals.add(piece);
            }
        }
        let n = totals.tokens.max(1.0);
        let share = |clipped: f64| clipped / passed.tokens.max(1.0);
        metrics.extend(object(json!({
            "loss": totals.loss,
            "kl": totals.kl / n,
            "entropy": totals.entropy / n,
            "grad_norm": norm,
            "learning_rate": rate,
            "clip_ratio/low_mean": share(passed.clipped.0),
            "clip_ratio/high_mean": share(passed.clipped.1),
            "clip_ratio/region_mean": share(passed.clipped.0 + passed.clipped.1),
            "mismatch_kl": totals.mismatch / n,
            "mismatch_logp_max": totals.mismatch_max,
            "num_tokens": totals.tokens as u64,
        })));
        Ok(metrics)
    }

    fn draw(&self, step: u64) -> Vec<usize> {
        let per = self.config.prompts_per_step;
        data::draw(self.config.seed, self.prompts.len(), step * per as u64, per)
    }

    /// Samples the step's groups, has them scored, and gives them their advantages.
    fn scored(&mut self, step: u64, reward: &mut dyn Reward) -> Result<(ScoredSamples, Clock)> {
        let prompts = self.draw(step);
        // The place in the step, not the prompt's number, seeds a group: a prompt drawn twice gets fresh samples.
        let asked = Asked {
            prompts: prompts.iter().map(|i| &self.prompts[*i]).collect(),
            samples: self.config.num_generations,
            seed: self.config.seed,
            step: step + 1,
        };
        let (completions, rewards, clock) = match self.scored_on_device(&asked, reward)? {
            Some(judged) => (
                judged.completions,
                StepRewards::Device(judged.rewards),
                judged.clock,
            ),
            None => {
                let scoring = GroupScoring::new(reward, asked.prompts.len());
                let judged = self.sample_and_score(&asked, scoring)?;
                (
                    judged.completions,
                    StepRewards::Host(judged.rewards),
                    judged.clock,
                )
            }
        };
        let scored = ScoredSamples {
            prompts,
            completions,
            rewards,
        };
        Ok((scored, clock))
    }

    /// Samples, and leaves the scores on the device. Where the judge computes on the host nothing is
    /// done: `None`.
    fn scored_on_device(
        &mut self,
        asked: &Asked<'_>,
        reward: &mut dyn Reward,
    ) -> Result<Option<Judged<u32>>> {
        let scores = self.device.scores().clone();
        match GroupScoring::on_device(reward, &scores, asked.prompts.len()) {
            Some(scoring) => self.sample_and_score(asked, scoring).map(Some),
            None => Ok(None),
        }
    }

    /// The rewards of a step that has run, `[group][sample]`.
    ///
    /// # Errors
    /// Scores that cannot be compared: the device has left weights and moments alone then.
    fn rewards(&self, scored: &ScoredSamples, report: &Report, judge: &str) -> Result<Vec<Vec<f64>>> {
        let rows = match &scored.rewards {
            StepRewards::Host(rewards) => return Ok(rewards.clone()),
            StepRewards::Device(rows) => rows,
        };
        // As the device has it, a row that is none holds no score.
        let score = |row: &u32| {
            report
                .scores
                .get(*row as usize * SCORE_WORDS)
                .copied()
                .unwrap_or(f32::NAN)
        };
        let mut all = Vec::with_capacity(rows.len());
        for (group, rows) in rows.iter().enumerate() {
            let scores: Vec<f32> = rows.iter().map(score).collect();
            let rewards: Vec<f64> = scores.iter().map(|s| f64::from(*s)).collect();
            if let Some(sample) = unfit(&scores, self.rule.rewards()) {
                let prompt = &self.prompts[scored.prompts[group]].content;
                let items = vec![Item { prompt, response: "" }; rewards.len()];
                reward::check_finite(judge, &items, &rewards)?;
                let number = scored.prompts[group] + 1;
                let taken = self.rule.check(&rewards);
                return taken
                    .and_then(|()| Err(far_apart(group, sample, &rewards)))
                    .context(format!("prompt {number}"));
            }
            all.push(rewards);
        }
        Ok(all)
    }

    /// `num_iterations` optimiser steps on the scored samples, all recorded before the host waits for any of them.
    fn update(&mut self, step: u64, scored: &ScoredSamples) -> Result<(Report, f64)> {
        let groups: Vec<Group<'_>> = scored
            .prompts
            .iter()
            .zip(&scored.completions)
            .map(|(p, group)| Group {
                prefix: &self.prompts[*p].tokens,
                suffixes: group.iter().map(|c| &c.tokens[..]).collect(),
            })
            .collect();
        let mut rec = Recorder::new(&self.model.gpu);
        // As in sampling, the place in the step seeds a group, not the prompt's number.
        let context = |place| GroupContext::at(self.config.seed, step + 1, place);
        if let StepRewards::Host(rewards) = &scored.rewards {
            for (rewards, prompt) in rewards.iter().zip(&scored.prompts) {
                self.rule
                    .check(rewards)
                    .context(format!("prompt {}", prompt + 1))?;
            }
        }
        self.optimizer.begin(&mut rec);
        let rewards = (&scored.rewards, self.optimizer.norm());
        self.device.advantages(&mut rec, &self.rule, rewards, context)?;
        rec.submit()?;
        let pieces = self.pieces(&groups);
        if self.config.beta > 0.0 {
            self.refer(&groups, &pieces)?;
        }
        let mut rate = 0.0;
        for iteration in 0..self.config.num_iterations {
            self.gradients(scored, (&groups, &pieces), iteration)?;
            rate = self.optimizer.next_rate();
            self.optimizer.record(&mut rec)?;
            rec.submit()?;
        }
        let report = self.device.report(&mut rec, self.optimizer.norm())?;
        Ok((report, rate))
    }

    /// The step's groups, cut by their lengths alone.
    fn pieces(&self, groups: &[Group<'_>]) -> Pieces {
        let order = match self.config.gradient_sum {
            GradientSum::Ascending => Order::Ascending,
            GradientSum::Auto | GradientSum::Tree => Order::Tree,
        };
        // The gradients of an embedding and a head are written at the two ends of the backward pass. Cooperative matrices
        // take rows in tiles that begin with the micro-batch.
        let alone = self.config.full || self.model.gpu.matmul_precision() == MatmulPrecision::Medium;
        Pieces::cut(groups, self.piece_tokens, order, alone)
    }

    /// The reference's log-probabilities of the step's tokens, which stay on the device, in the order of the pieces.
    fn refer(&mut self, groups: &[Group<'_>], pieces: &Pieces) -> Result<()> {
        let model = match (self.reference, &self.model.lora) {
            (Some(reference), _) => reference,
            (None, Some(_)) => self.model,
            (None, None) => {
                return Err(Error::internal(
                    "full training with β > 0 needs a reference model",
                ));
            }
        };
        run::each_piece(model, self.ws, groups, pieces, false, &mut |rec, packed| {
            packed.forward(rec, false)?;
            self.device.refer(rec, self.ws, packed.loaded.p)
        })
    }

    /// Adds the gradient of the step's loss to every trainable tensor: forward, loss and backward of each micro-batch.
    fn gradients(
        &mut self,
        scored: &ScoredSamples,
        (groups, pieces): (&[Group<'_>], &Pieces),
        iteration: usize,
    ) -> Result<()> {
        let c = self.config;
        let config = loss_config(c, iteration);
        let mut first = 0;
        run::each_piece(self.model, self.ws, groups, pieces, true, &mut |rec, packed| {
            let old = |g: usize, s: usize| &scored.completions[g][s].logprobs[..];
            self.device.load(rec, packed, &config, old)?;
            packed.forward(rec, true)?;
            self.device.loss(rec, self.ws, &config, (packed.loaded, first))?;
            first += packed.loaded.p;
            packed.backward(rec)
        })
    }
}

/// Refuses a step whose forward passes gave numbers that are none: the device has left the weights alone then.
fn finite(report: &Report) -> Result<()> {
    for piece in &report.pieces {
        let found = [
            (piece.mismatch, run::LOG_PROBABILITY),
            (piece.entropy, "the entropy of a token's distribution"),
            (piece.kl, "the reference's log-probability of a token"),
            (piece.loss, "the loss"),
        ];
        for (value, what) in found {
            run::all_finite(&[value as f32], what)?;
        }
    }
    Ok(())
}

/// Rewards and advantages of every group, for whoever asks for them with `RUST_LOG=tea_wgpu::train::rl=trace`.
fn dump(step: u64, rewards: &[Vec<f64>], advantages: &[f32]) {
    let m = rewards.first().map_or(1, Vec::len);
    for (group, (rewards, advantages)) in rewards.iter().zip(advantages.chunks(m)).enumerate() {
        let line = json!({"step": step, "group": group, "rewards": rewards, "advantages": advantages});
        log::trace!("{line}");
    }
}

pub(super) fn object(v: Value) -> Map<String, Value> {
    match v {
        Value::Object(m) => m,
        _ => Map::new(),
    }
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for v in values {
        sum += v;
        n += 1;
    }
    sum / n.max(1) as f64
}

fn sd(values: &[f64]) -> f64 {
    let m = mean(values.iter().copied());
    mean(values.iter().map(|v| (v - m).powi(2))).sqrt()
}

/// What the samples, their rewards and their advantages look like, under TRL's names.
fn describe(
    completions: &[Vec<Completion>],
    groups: &[Vec<f64>],
    report: &Report,
    rule: &Rule,
    reward: &str,
) -> Map<String, Value> {
    let rewards: Vec<f64> = groups.iter().flatten().copied().collect();
    let completions: Vec<&Completion> = completions.iter().flatten().collect();
    let lengths: Vec<f64> = completions.iter().map(|c| c.tokens.len() as f64).collect();
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    let clipped = completions.iter().filter(|c| c.finish == Finish::Length).count();
    let mut out = object(json!({
        "reward": mean(rewards.iter().copied()),
        "reward_std": mean(groups.iter().map(|g| sd(g))),
        "reward_max": mean(groups.iter().map(|g| g.iter().copied().fold(f64::MIN, f64::max))),
        "frac_reward_zero_std": share(groups.iter().filter(|g| g.iter().all(|r| *r == g[0])).count(), groups.len()),
        "frac_groups_no_signal": share(report.no_signal.iter().filter(|f| **f).count(), groups.len()),
        "completions/mean_length": mean(lengths.iter().copied()),
        "completions/min_length": lengths.iter().copied().fold(f64::MAX, f64::min),
        "completions/max_length": lengths.iter().copied().fold(0.0, f64::max),
        "completions/clipped_ratio": share(clipped, completions.len()),
    }));
    if matches!(rule, Rule::TeaGpd(_)) {
        let fell = report.gaussian_tail.iter().filter(|f| **f).count();
        out.insert(
            "frac_groups_gaussian_tail".into(),
            json!(share(fell, groups.len())),
        );
    }
    // As TRL: the last part of a path or hub id.
    let reward = reward
        .trim_end_matches(['/', '\\'])
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(reward);
    out.insert(
        format!("rewards/{reward}/mean"),
        json!(mean(rewards.iter().copied())),
    );
    out.insert(format!("rewards/{reward}/std"), json!(sd(&rewards)));
    if !report.tails.is_empty() {
        let of = |f: fn(&TailStatistics) -> f64| json!(mean(report.tails.iter().map(f)));
        out.insert("tail/mu".into(), of(|t| t.mu));
        out.insert("tail/sigma".into(), of(|t| t.sigma));
        out.insert("tail/kappa".into(), of(|t| t.kappa));
    }
    out
}
