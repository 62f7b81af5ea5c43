//! The on-policy group step: sample, score, advantages, one or more clipped-ratio updates.
//!
//! Method: TEA (arXiv 2605.10716), §4 of its training interface: every rule shares this loop and only the map from a
//! group's rewards to its advantages differs. The trainer does not know the rules.

use super::data;
use super::judged::{Asked, Clock, Judged};
use super::loss::{LossConfig, Sequence, k3, sequence_loss};
use crate::advantage::{GroupAdvantages, GroupContext, Rule};
use crate::config::TrainConfig;
use crate::error::{Context, Error, Result};
use crate::gpu::Recorder;
use crate::model::params::Model;
use crate::model::run::{self, Group};
use crate::model::workspace::Workspace;
use crate::optim::Optimizer;
use crate::reward::Reward;
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
    /// Buffers of sampling.
    pub sampler: Sampler,
    /// AdamW.
    pub optimizer: Optimizer,
    /// Tokens that end a response.
    pub stop: Vec<u32>,
}

/// The samples of one step, scored.
struct Scored {
    prompts: Vec<usize>,
    completions: Vec<Vec<Completion>>,
    rewards: Vec<Vec<f64>>,
    groups: Vec<GroupAdvantages>,
}

/// Sums over one pass through the step's tokens.
#[derive(Default)]
struct Totals {
    loss: f64,
    kl: f64,
    entropy: f64,
    tokens: usize,
    clipped: (usize, usize),
    mismatch: f64,
    mismatch_max: f64,
}

impl Trainer<'_> {
    /// Runs step number `step` (from 0) and returns its metrics.
    ///
    /// # Errors
    /// A non-finite reward or gradient, or a GPU error; nothing is updated then.
    pub fn step(&mut self, step: u64, reward: &mut dyn Reward) -> Result<Map<String, Value>> {
        let begun = Instant::now();
        let (scored, clock) = self.scored(step, reward)?;
        let mut metrics = describe(&scored, reward.name());
        let (totals, norm, rate) = self.update(&scored)?;
        let whole = begun.elapsed().as_secs_f64();
        let n = totals.tokens.max(1) as f64;
        // Shares of all the tokens that all iterations went through.
        let passed = n * self.config.num_iterations as f64;
        metrics.extend(object(json!({
            "loss": totals.loss,
            "kl": totals.kl / n,
            "entropy": totals.entropy / n,
            "grad_norm": norm,
            "learning_rate": rate,
            "clip_ratio/low_mean": totals.clipped.0 as f64 / passed,
            "clip_ratio/high_mean": totals.clipped.1 as f64 / passed,
            "clip_ratio/region_mean": (totals.clipped.0 + totals.clipped.1) as f64 / passed,
            "mismatch_kl": totals.mismatch / n,
            "mismatch_logp_max": totals.mismatch_max,
            "num_tokens": totals.tokens,
            "frac_groups_overlapped": clock.overlapped as f64 / scored.prompts.len().max(1) as f64,
            "time/sample": clock.sample,
            "time/reward": clock.reward,
            "time/reward_overlapped": clock.reward_overlapped,
            "time/update": whole - clock.sample - clock.reward,
            "step_time": whole,
        })));
        Ok(metrics)
    }

    fn draw(&self, step: u64) -> Vec<usize> {
        let per = self.config.prompts_per_step;
        data::draw(self.config.seed, self.prompts.len(), step * per as u64, per)
    }

    /// Samples the step's groups, has them scored, and gives them their advantages.
    fn scored(&mut self, step: u64, reward: &mut dyn Reward) -> Result<(Scored, Clock)> {
        let prompts = self.draw(step);
        // The place in the step, not the prompt's number, seeds a group: a prompt drawn twice gets fresh samples.
        let asked = Asked {
            prompts: prompts.iter().map(|i| &self.prompts[*i]).collect(),
            samples: self.config.num_generations,
            seed: self.config.seed,
            step: step + 1,
        };
        let Judged {
            completions,
            rewards,
            clock,
        } = self.sample_and_score(&asked, reward)?;
        // As in sampling, the place in the step seeds a group, not the prompt's number.
        let groups = (0u64..)
            .zip(rewards.iter().zip(&prompts))
            .map(|(place, (rewards, prompt))| {
                let context = GroupContext::at(self.config.seed, step + 1, place);
                self.rule
                    .group_with(rewards, &context)
                    .context(format!("prompt {}", prompt + 1))
            })
            .collect::<Result<_>>()?;
        let scored = Scored {
            prompts,
            completions,
            rewards,
            groups,
        };
        Ok((scored, clock))
    }

    /// `num_iterations` optimiser steps on the scored samples.
    fn update(&mut self, scored: &Scored) -> Result<(Totals, f64, f64)> {
        let groups: Vec<Group<'_>> = scored
            .prompts
            .iter()
            .zip(&scored.completions)
            .map(|(p, group)| Group {
                prefix: &self.prompts[*p].tokens,
                suffixes: group.iter().map(|c| &c.tokens[..]).collect(),
            })
            .collect();
        let reference = self.reference_log_probs(&groups)?;
        let mut first = None;
        let (mut norm, mut rate) = (0.0, 0.0);
        for iteration in 0..self.config.num_iterations {
            let totals = self.gradients(scored, &groups, reference.as_deref(), iteration)?;
            rate = self.optimizer.next_rate();
            norm = self.optimizer.step(&mut Recorder::new(&self.model.gpu))?;
            let first = first.get_or_insert_with(Totals::default);
            if iteration == 0 {
                *first = totals;
            } else {
                first.clipped.0 += totals.clipped.0;
                first.clipped.1 += totals.clipped.1;
            }
        }
        Ok((first.unwrap_or_default(), norm, rate))
    }

    fn reference_log_probs(&self, groups: &[Group<'_>]) -> Result<Option<Vec<Vec<Vec<f32>>>>> {
        if self.config.beta == 0.0 {
            return Ok(None);
        }
        let model = match (self.reference, &self.model.lora) {
            (Some(reference), _) => reference,
            (None, Some(_)) => self.model,
            (None, None) => {
                return Err(Error::internal(
                    "full training with β > 0 needs a reference model",
                ));
            }
        };
        let all = run::log_probs(model, self.ws, groups, false)?;
        run::all_finite(
            all.iter().flatten().flatten(),
            "the reference's log-probability of a token",
        )?;
        Ok(Some(all))
    }

    /// Adds the gradient of the step's loss to every trainable tensor.
    fn gradients(
        &self,
        scored: &Scored,
        groups: &[Group<'_>],
        reference: Option<&[Vec<Vec<f32>>]>,
        iteration: usize,
    ) -> Result<Totals> {
        let c = self.config;
        let config = LossConfig {
            loss_type: c.loss_type,
            beta: c.beta,
            kl_estimator: c.kl_estimator,
            epsilon: (iteration > 0).then_some(c.epsilon),
            max_completion_length: c.max_completion_length,
            responses: scored.rewards.iter().map(Vec::len).sum(),
        };
        let mut totals = Totals::default();
        run::each_batch(self.model, self.ws, groups, true, &mut |rec, ran| {
            let mut dlogp = vec![0.0f32; ran.logp.len()];
            for (i, (g, s)) in ran.owners.iter().enumerate() {
                let logp = ran.sequence(i);
                let old = &scored.completions[*g][*s].logprobs;
                let one = sequence_loss(
                    Sequence {
                        logp: &logp,
                        logp_old: old,
                        logp_ref: reference.map(|r| &r[*g][*s][..]),
                        advantage: scored.groups[*g].advantages[*s],
                    },
                    &config,
                );
                for (readout, d) in ran.batch.sequences[i].iter().zip(&one.dlogp) {
                    dlogp[*readout] = *d;
                }
                totals.add(&one, &logp, old);
            }
            totals.entropy += ran
                .pass
                .read_entropy(ran.loaded)?
                .iter()
                .map(|e| f64::from(*e))
                .sum::<f64>();
            ran.pass
                .backward_log_probs(rec, ran.loaded, &dlogp, &ran.batch.tokens)
        })?;
        Ok(totals)
    }
}

impl Totals {
    fn add(&mut self, one: &super::loss::SequenceLoss, logp: &[f32], old: &[f32]) {
        self.loss += one.loss;
        self.kl += one.kl_sum;
        self.tokens += logp.len();
        self.clipped.0 += one.clipped.0;
        self.clipped.1 += one.clipped.1;
        for (a, b) in logp.iter().zip(old) {
            let d = f64::from(*a) - f64::from(*b);
            self.mismatch += k3(d);
            self.mismatch_max = self.mismatch_max.max(d.abs());
        }
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

/// What the samples and their rewards look like, under TRL's names.
fn describe(s: &Scored, reward: &str) -> Map<String, Value> {
    let rewards: Vec<f64> = s.rewards.iter().flatten().copied().collect();
    let completions: Vec<&Completion> = s.completions.iter().flatten().collect();
    let lengths: Vec<f64> = completions.iter().map(|c| c.tokens.len() as f64).collect();
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    let clipped = completions.iter().filter(|c| c.finish == Finish::Length).count();
    let mut out = object(json!({
        "reward": mean(rewards.iter().copied()),
        "reward_std": mean(s.rewards.iter().map(|g| sd(g))),
        "reward_max": mean(s.rewards.iter().map(|g| g.iter().copied().fold(f64::MIN, f64::max))),
        "frac_reward_zero_std": share(s.groups.iter().filter(|g| g.zero_std).count(), s.groups.len()),
        "frac_groups_no_signal": share(s.groups.iter().filter(|g| g.no_signal).count(), s.groups.len()),
        "completions/mean_length": mean(lengths.iter().copied()),
        "completions/min_length": lengths.iter().copied().fold(f64::MAX, f64::min),
        "completions/max_length": lengths.iter().copied().fold(0.0, f64::max),
        "completions/clipped_ratio": share(clipped, completions.len()),
    }));
    let fitted: Vec<bool> = s.groups.iter().filter_map(|g| g.gaussian_tail).collect();
    if !fitted.is_empty() {
        let fell = fitted.iter().filter(|f| **f).count();
        out.insert(
            "frac_groups_gaussian_tail".into(),
            json!(share(fell, fitted.len())),
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
    let tails: Vec<_> = s.groups.iter().filter_map(|g| g.tail.as_ref()).collect();
    if !tails.is_empty() {
        out.insert("tail/mu".into(), json!(mean(tails.iter().map(|t| t.tail.mu))));
        out.insert(
            "tail/sigma".into(),
            json!(mean(tails.iter().map(|t| t.tail.sigma))),
        );
        out.insert("tail/kappa".into(), json!(tails[0].kappa));
    }
    out
}
