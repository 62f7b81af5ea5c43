//! Sampling and scoring side by side: a group is scored as soon as its samples have ended, while others go on.

use super::rl::{Prompt, Trainer};
use crate::config::TrainConfig;
use crate::error::Result;
use crate::kernels::sample::SampleParams;
use crate::reward::{GroupScoring, Item};
use crate::rollout::{Completion, Job, SampleConfig};
use crate::text::Tokenizer;
use std::time::{Duration, Instant};

/// What is to be sampled.
pub(super) struct Asked<'a> {
    /// Prompts; their places are part of the samples' seeds.
    pub(super) prompts: Vec<&'a Prompt>,
    /// Samples a prompt.
    pub(super) samples: usize,
    pub(super) seed: u64,
    /// Part of every sample's seed.
    pub(super) step: u64,
}

/// Samples with their rewards, or the rows of their scores on the device, `[prompt][sample]`.
pub(super) struct Judged<T> {
    pub(super) completions: Vec<Vec<Completion>>,
    pub(super) rewards: Vec<Vec<T>>,
    pub(super) clock: Clock,
}

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Until the last sample had ended, with what of the scoring was done meanwhile.
    pub(super) sample: f64,
    /// From there until the last reward was there: the part of the scoring that no sampling hid. Where
    /// the scores stay on the device, until the last pass was submitted: the update waits for it then.
    pub(super) reward: f64,
    /// The host's part of `sample` that went into scoring: texts, tokens, recording of the judge's passes, or its whole computation
    /// where it is the host's.
    pub(super) reward_overlapped: f64,
    /// Groups that were handed to the judge while others were being sampled.
    pub(super) overlapped: usize,
}

/// The judge's side of a step.
struct Judging<'a, T> {
    scoring: GroupScoring<'a, T>,
    prompts: &'a [&'a Prompt],
    tokenizer: &'a Tokenizer,
}

impl<T: Copy> Judging<'_, T> {
    /// Hands a group's texts, without special tokens, to the judge.
    fn take(&mut self, group: usize, completions: &[Completion]) -> Result<()> {
        let texts = completions.iter().map(|c| self.tokenizer.decode(&c.tokens, true));
        let texts = texts.collect::<Result<Vec<String>>>()?;
        let prompt = &self.prompts[group].content;
        let items: Vec<Item<'_>> = texts.iter().map(|response| Item { prompt, response }).collect();
        self.scoring.add(group, &items)
    }
}

impl Trainer<'_> {
    /// Samples, and has the judge score every group as soon as it has ended; the rewards are those of scoring all of them afterwards.
    /// `scoring` is of as many groups as there are prompts.
    ///
    /// # Errors
    /// A reward that is not finite, a text that the judge cannot read, or a GPU error.
    pub(super) fn sample_and_score<T: Copy>(
        &mut self,
        asked: &Asked<'_>,
        scoring: GroupScoring<'_, T>,
    ) -> Result<Judged<T>> {
        let begun = Instant::now();
        let c = self.config;
        let jobs: Vec<Job> = (0u64..)
            .zip(&asked.prompts)
            .map(|(prompt, p)| Job {
                tokens: p.tokens.clone(),
                prompt,
                samples: asked.samples,
                first: 0,
            })
            .collect();
        let config = SampleConfig {
            params: sample_params(c),
            max_completion_length: c.max_completion_length,
            stop: self.stop.clone(),
            seed: asked.seed,
            step: asked.step,
        };
        let mut judging = Judging {
            scoring,
            prompts: &asked.prompts,
            tokenizer: self.tokenizer,
        };
        let (mut spent, mut overlapped) = (Duration::ZERO, 0);
        let limits = vec![c.max_completion_length; jobs.len()];
        let mut on_ended = |group: usize, completions: &[Completion]| {
            let from = Instant::now();
            judging.take(group, completions)?;
            (spent, overlapped) = (spent + from.elapsed(), overlapped + 1);
            Ok(())
        };
        let sampler = &mut self.sampler;
        let completions = sampler.generate_each(self.model, &jobs, &limits, &config, &mut on_ended)?;
        let sampled = Instant::now();
        for (group, completions) in completions.iter().enumerate() {
            if !judging.scoring.has(group) {
                judging.take(group, completions)?;
            }
        }
        let rewards = judging.scoring.finish()?;
        Ok(Judged {
            completions,
            rewards,
            clock: Clock {
                sample: sampled.duration_since(begun).as_secs_f64(),
                reward: sampled.elapsed().as_secs_f64(),
                reward_overlapped: spent.as_secs_f64(),
                overlapped,
            },
        })
    }
}

/// The sampler's settings of a run.
fn sample_params(c: &TrainConfig) -> SampleParams {
    SampleParams {
        temperature: c.temperature as f32,
        top_k: c.top_k,
        top_p: c.top_p as f32,
        min_p: c.min_p as f32,
    }
}
