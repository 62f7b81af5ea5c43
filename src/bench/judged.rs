//! Sampling with a judge, whose work goes on beside the sampling or begins after it.

use super::output::Row;
use super::policy::Policy;
use super::timing::{Clock, median};
use super::train::Settings;
use crate::error::{Error, Result};
use crate::gpu::Buffer;
use crate::kernels::sample::SampleParams;
use crate::model::score_queue::ScoreQueue;
use crate::model::workspace::{Shape, Workspace};
use crate::rollout::{Completion, Job, SampleConfig, Sampler};
use std::time::{Duration, Instant};

/// A reward model with what its passes need.
pub(super) struct Judge<'a> {
    pub(super) policy: &'a Policy,
    pub(super) ws: Workspace,
    queue: ScoreQueue,
    /// Whether the scores of the round under way stay on the device.
    stays: bool,
    /// The rows there of those of the last such round.
    pub(super) rows: Vec<u32>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(policy: &'a Policy, s: &Settings) -> Result<Self> {
        let sequence = s.prompt_length + s.max_completion_length;
        let shape = Shape {
            rows: s
                .token_budget
                .max(sequence)
                .min(s.rows() + s.batch * s.num_generations),
            readouts: s.batch * s.num_generations,
            rank: 0,
            backward: false,
            kept_blocks: 1,
            half: false,
            vocabulary_head: false,
        };
        Ok(Self {
            policy,
            ws: Workspace::new(&policy.model.gpu, &policy.model.spec, shape)?,
            queue: ScoreQueue::default(),
            stays: false,
            rows: Vec::new(),
        })
    }

    /// Has a prompt's responses scored, as ids: another model's, wrapped into this one's vocabulary.
    pub(super) fn take<'t>(
        &mut self,
        prompt: &[u32],
        responses: impl Iterator<Item = &'t [u32]>,
    ) -> Result<()> {
        let model = &self.policy.model;
        let limit = model.spec.vocab_size as u32;
        let sequence = |r: &[u32]| prompt.iter().chain(r).map(|t| t % limit).collect();
        self.queue.add(model, &self.ws, responses.map(sequence).collect())
    }

    /// Has the next round's scores stay in `scores`, as a training step does.
    pub(super) fn stay(&mut self, scores: &Buffer) {
        self.queue.clear_for(scores);
        self.stays = true;
    }

    /// Waits for the scores, unless they stay on the device.
    pub(super) fn finish(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stays) {
            self.rows = self.queue.leave(&self.policy.model, &self.ws)?;
            return Ok(());
        }
        self.queue.finish(&self.policy.model, &self.ws).map(drop)
    }
}

/// When the judge is told of a group.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum When {
    /// As soon as its samples have ended.
    Beside,
    /// When all have.
    After,
}

/// What a round of sampling and scoring gave and took, in seconds.
pub(super) struct Round {
    /// `[prompt][sample]`.
    pub(super) responses: Vec<Vec<Vec<u32>>>,
    /// Until the last sample had ended.
    pub(super) sample: f64,
    /// From there until the last score was there.
    pub(super) score: f64,
    /// The host's part of `sample` that went into recording the judge's passes.
    host: f64,
    /// Groups the judge was told of before the last sample had ended.
    groups: usize,
}

/// The parts of a round that do not change.
pub(super) struct Rounds<'a> {
    pub(super) policy: &'a Policy,
    pub(super) prompts: &'a [Vec<u32>],
    /// Samples a prompt.
    pub(super) samples: usize,
}

impl Rounds<'_> {
    /// Samples under one length limit a prompt, and has the judge, if there is one, score the groups.
    pub(super) fn run(
        &self,
        sampler: &mut Sampler,
        mut judge: Option<&mut Judge<'_>>,
        (step, limits): (u64, &[usize]),
        when: When,
    ) -> Result<Round> {
        let jobs: Vec<Job> = (0u64..)
            .zip(self.prompts)
            .map(|(prompt, tokens)| Job {
                tokens: tokens.clone(),
                prompt,
                samples: self.samples,
                first: 0,
            })
            .collect();
        let config = SampleConfig {
            params: SampleParams::PLAIN,
            max_completion_length: limits.iter().copied().max().unwrap_or(0),
            stop: Vec::new(),
            seed: 1,
            step,
        };
        let begun = Instant::now();
        let (mut host, mut told) = (Duration::ZERO, vec![false; jobs.len()]);
        let mut on_ended = |job: usize, completions: &[Completion]| {
            let from = Instant::now();
            if let (Some(judge), When::Beside) = (&mut judge, when) {
                let ids = completions.iter().map(|c| &c.tokens[..]);
                judge.take(&self.prompts[job], ids)?;
                told[job] = true;
            }
            host += from.elapsed();
            Ok(())
        };
        let groups = sampler.generate_each(&self.policy.model, &jobs, limits, &config, &mut on_ended)?;
        let sampled = Instant::now();
        if let Some(judge) = judge {
            for (i, group) in groups.iter().enumerate().filter(|(i, _)| !told[*i]) {
                judge.take(&self.prompts[i], group.iter().map(|c| &c.tokens[..]))?;
            }
            judge.finish()?;
        }
        Ok(Round {
            sample: sampled.duration_since(begun).as_secs_f64(),
            score: sampled.elapsed().as_secs_f64(),
            host: host.as_secs_f64(),
            groups: told.iter().filter(|t| **t).count(),
            responses: groups
                .into_iter()
                .map(|g| g.into_iter().map(|c| c.tokens).collect())
                .collect(),
        })
    }

    /// Rounds of uneven lengths, T / B, 2 T / B, … T tokens, so that groups end one after another: seconds with the scoring beside the
    /// sampling and after it, in turns.
    pub(super) fn compare(
        &self,
        sampler: &mut Sampler,
        judge: &mut Judge<'_>,
        s: &Settings,
    ) -> Result<Vec<Row>> {
        let part = |i: usize| (s.max_completion_length * (i + 1)).div_ceil(self.prompts.len());
        let limits: Vec<usize> = (0..self.prompts.len()).map(part).collect();
        let tokens = self.samples * limits.iter().sum::<usize>();
        let mut taken: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
        for step in 0..=s.repetitions as u64 {
            for (when, rounds) in [When::Beside, When::After].into_iter().zip(&mut taken) {
                let round = self.run(sampler, Some(&mut *judge), (step, &limits), when)?;
                // The first is a warm-up.
                if step > 0 {
                    rounds.push(round);
                }
            }
        }
        if taken[0]
            .iter()
            .zip(&taken[1])
            .any(|(a, b)| a.responses != b.responses)
        {
            return Err(Error::internal("scoring beside the sampling changed the samples"));
        }
        let name = format!(
            "sample+score {}×{}×{}",
            s.batch, self.samples, s.max_completion_length
        );
        let row = |(rounds, what): (&Vec<Round>, &str)| {
            let of = |f: fn(&Round) -> f64| rounds.iter().map(f).collect::<Vec<f64>>();
            let whole = of(|r| r.sample + r.score);
            let rate = tokens as f64 / median(&whole);
            let row = Row {
                clock: Some(Clock::Wall),
                ..Row::of(whole, false)
            };
            self.policy
                .row(name.clone(), &format!("uneven lengths, scored {what}"), "s", row)
                .with("tok/s", rate)
                .with("score not hidden s", median(&of(|r| r.score)))
                .with("score recorded beside s", median(&of(|r| r.host)))
                .with("groups beside", median(&of(|r| r.groups as f64)))
        };
        Ok(taken
            .iter()
            .zip(["beside sampling", "afterwards"])
            .map(row)
            .collect())
    }
}
