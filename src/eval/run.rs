//! Sampling a policy on a list of prompts and judging what it wrote.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::config::FloatDtype;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
use crate::reward::{Item, Reward};
use crate::rollout::{Completion, Finish, Job, SampleConfig, Sampler, SamplerShape};
use crate::tensor::DType;
use crate::text::{Formatter, PromptContent, TemplateDate, Tokenizer};

/// Prompt tokens computed in one pass.
const PREFILL: usize = 1024;

/// How a policy is loaded and how it reads prompts.
#[derive(Debug, Clone, Copy)]
pub struct PolicyOptions<'a> {
    /// LoRA adapter directory.
    pub adapter: Option<&'a Path>,
    /// Element type of its matrices; see [`Source::dtype`].
    pub dtype: Option<DType>,
    /// Most tokens in a response.
    pub max_completion_length: usize,
    /// Do not use the chat template.
    pub raw: bool,
    /// The date its template sees.
    pub date: TemplateDate,
}

/// A policy on the device with the prompts it will answer.
pub struct Policy {
    model: Model,
    tokenizer: Tokenizer,
    stop: Vec<u32>,
    prompts: Vec<Vec<u32>>,
    max_completion_length: usize,
}

/// How to sample for an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// Temperature and filters.
    pub params: SampleParams,
    /// The seed; two policies with the same one draw with the same random numbers.
    pub seed: u64,
    /// Sequences sampled together, at most.
    pub batch: usize,
    /// How keys and values are stored.
    pub kv_cache_dtype: FloatDtype,
}

/// One response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// What was written, without special tokens.
    pub text: String,
    /// Its length in tokens, the stop token included.
    pub tokens: usize,
    /// Whether the length limit cut it off.
    pub truncated: bool,
}

/// What a policy wrote and what each judge made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `[prompt][sample]`.
    pub responses: Vec<Vec<Response>>,
    /// One entry a judge, in the order given.
    pub rewards: Vec<Judged>,
}

/// One judge's rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The judge's name.
    pub name: String,
    /// `[prompt][sample]`.
    pub values: Vec<Vec<f64>>,
}

impl Policy {
    /// Loads a policy, its adapter on it, for these prompts.
    ///
    /// # Errors
    /// As [`Source::open_causal`], [`Source::tokenizer`], [`Source::load`] and [`load_adapter`]; a prompt that does not
    /// fit in the context with a response, named by its number.
    pub fn load(
        gpu: &Gpu,
        name: &str,
        contents: &[PromptContent],
        options: &PolicyOptions<'_>,
    ) -> Result<Self> {
        let mut source = Source::open_causal(name)?;
        let tokenizer = source.tokenizer()?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: options.raw,
            date: options.date,
        };
        let mut positions = 1;
        let mut prompts = Vec::with_capacity(contents.len());
        for (i, content) in contents.iter().enumerate() {
            let place = || format!("prompt {}", i + 1);
            let tokens = formatter.prompt(content).context(place())?;
            let needed = source
                .positions(tokens.len() + options.max_completion_length)
                .context(place())?;
            positions = positions.max(needed);
            prompts.push(tokens);
        }
        let mut model = source.load(gpu, source.dtype(options.dtype)?, positions, None)?;
        if let Some(dir) = options.adapter {
            load_adapter(&mut model, dir, false)?;
        }
        model.tune()?;
        Ok(Self {
            model,
            tokenizer,
            stop: source.spec.eos_token_ids.iter().copied().take(8).collect(),
            prompts,
            max_completion_length: options.max_completion_length,
        })
    }

    /// Samples `n` responses to every prompt; `[prompt][sample]`.
    ///
    /// # Errors
    /// As [`Policy::draws`] and [`Draws::responses`].
    pub fn sample(&self, n: usize, sampling: &Sampling) -> Result<Vec<Vec<Response>>> {
        self.draws(n, sampling)?.responses(0..self.prompts.len())
    }

    /// Buffers for sampling `n` responses to every prompt, some prompts at a time.
    ///
    /// # Errors
    /// `n` or the batch is 0; out of memory.
    pub fn draws(&self, n: usize, sampling: &Sampling) -> Result<Draws<'_>> {
        if n == 0 || sampling.batch == 0 {
            return Err(Error::user(
                "an evaluation needs at least one sample a prompt and one sequence a batch",
            ));
        }
        let shape = self.sampler_shape(n, sampling);
        Ok(Draws {
            policy: self,
            sampler: Sampler::new(&self.model, shape)?,
            at_once: shape.sequences.div_ceil(n),
            samples: n,
            config: SampleConfig {
                params: sampling.params,
                max_completion_length: self.max_completion_length,
                stop: self.stop.clone(),
                seed: sampling.seed,
                step: 0,
            },
        })
    }

    /// The model, its adapter on it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens that end a response.
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }

    /// The prompts' token ids, in the order given.
    pub fn prompts(&self) -> &[Vec<u32>] {
        &self.prompts
    }

    /// Most tokens in a response.
    pub fn max_completion_length(&self) -> usize {
        self.max_completion_length
    }

    fn sampler_shape(&self, n: usize, sampling: &Sampling) -> SamplerShape {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(1);
        let shape = |sequences: usize| {
            // Samples of one prompt more may begin while the last of the others end.
            let prompts = (sequences.div_ceil(n) + 1).min(self.prompts.len());
            SamplerShape {
                sequences,
                cache_rows: SamplerShape::rows_for(prompts, longest, sequences, self.max_completion_length),
                prefill_rows: PREFILL.min(prompts * longest),
                rank: self.model.lora.as_ref().map_or(0, |l| l.rank),
                kv_cache_dtype: sampling.kv_cache_dtype,
            }
        };
        let most = sampling.batch.min(self.prompts.len() * n).max(1);
        SamplerShape::within(self.model.gpu.caps().max_binding, &self.model.spec, most, shape)
    }

    fn response(&self, completion: &Completion) -> Result<Response> {
        Ok(Response {
            text: self.tokenizer.decode(&completion.tokens, true)?,
            tokens: completion.tokens.len(),
            truncated: completion.finish == Finish::Length,
        })
    }
}

/// Samples of a policy's prompts.
pub struct Draws<'a> {
    policy: &'a Policy,
    sampler: Sampler,
    config: SampleConfig,
    samples: usize,
    at_once: usize,
}

impl Draws<'_> {
    /// How many prompts' samples fill a batch.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// The responses to some of the prompts, `[prompt][sample]`: each a function of (seed, prompt, sample) alone, whatever
    /// is sampled with it.
    ///
    /// # Errors
    /// As [`Sampler::generate`].
    pub fn responses(&mut self, prompts: Range<usize>) -> Result<Vec<Vec<Response>>> {
        let jobs: Vec<Job> = prompts
            .map(|at| Job {
                tokens: self.policy.prompts[at].clone(),
                prompt: at as u64,
                samples: self.samples,
                first: 0,
            })
            .collect();
        let completions = self.sampler.generate(&self.policy.model, &jobs, &self.config)?;
        completions
            .iter()
            .map(|group| group.iter().map(|c| self.policy.response(c)).collect())
            .collect()
    }
}

/// Rewards of responses, `[prompt][sample]`. Equal responses to a prompt are judged once.
///
/// # Errors
/// As [`Reward::score`].
pub fn judge(
    contents: &[PromptContent],
    responses: &[Vec<Response>],
    reward: &mut dyn Reward,
) -> Result<Judged> {
    let (mut items, mut places) = (Vec::new(), Vec::with_capacity(responses.len()));
    for (prompt, group) in contents.iter().zip(responses) {
        let mut known = HashMap::new();
        let at: Vec<usize> = group
            .iter()
            .map(|r| {
                *known.entry(r.text.as_str()).or_insert_with(|| {
                    items.push(Item {
                        prompt,
                        response: &r.text,
                    });
                    items.len() - 1
                })
            })
            .collect();
        places.push(at);
    }
    let rewards = reward.score(&items)?;
    Ok(Judged {
        name: reward.name().to_string(),
        values: places
            .into_iter()
            .map(|group| group.into_iter().map(|at| rewards[at]).collect())
            .collect(),
    })
}

/// Samples responses to some prompts and has every judge score them. `contents` are those of all prompts.
///
/// # Errors
/// As [`Draws::responses`] and [`judge`].
pub fn evaluate(
    draws: &mut Draws<'_>,
    contents: &[PromptContent],
    prompts: Range<usize>,
    rewards: &mut [&mut dyn Reward],
) -> Result<Evaluation> {
    let responses = draws.responses(prompts.clone())?;
    let rewards = rewards
        .iter_mut()
        .map(|reward| judge(&contents[prompts.clone()], &responses, *reward))
        .collect::<Result<_>>()?;
    Ok(Evaluation { responses, rewards })
}

impl Evaluation {
    /// Mean length of the responses in tokens.
    pub fn mean_length(&self) -> f64 {
        self.mean(|r| r.tokens as f64)
    }

    /// Share of responses that the length limit cut off.
    pub fn truncated_ratio(&self) -> f64 {
        self.mean(|r| f64::from(u8::from(r.truncated)))
    }

    fn mean(&self, value: impl Fn(&Response) -> f64) -> f64 {
        let all: Vec<f64> = self.responses.iter().flatten().map(value).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}

impl Judged {
    /// Mean over prompts and samples.
    pub fn mean(&self) -> f64 {
        let all = || self.values.iter().flatten();
        all().sum::<f64>() / all().count().max(1) as f64
    }

    /// Share of samples with at least this reward.
    pub fn share_at_least(&self, least: f64) -> f64 {
        let all = || self.values.iter().flatten();
        all().filter(|r| **r >= least).count() as f64 / all().count().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Scores by length and counts what it is asked.
    struct Length(usize);

    impl Reward for Length {
        fn name(&self) -> &str {
            "length"
        }

        fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
            self.0 += items.len();
            Ok(items.iter().map(|i| i.response.len() as f64).collect())
        }
    }

    #[test]
    fn equal_responses_are_judged_once_and_every_place_gets_its_reward() {
        let contents = [PromptContent::Text("p".into()), PromptContent::Text("q".into())];
        let group = |texts: [&str; 3]| {
            texts.map(|t| Response {
                text: t.into(),
                tokens: t.len() + 1,
                truncated: t.len() > 2,
            })
        };
        let responses = vec![
            group(["a", "bb", "a"]).to_vec(),
            group(["ccc", "a", "ccc"]).to_vec(),
        ];
        let mut reward = Length(0);
        let judged = judge(&contents, &responses, &mut reward).unwrap();
        assert_eq!(judged.values, [[1.0, 2.0, 1.0], [3.0, 1.0, 3.0]]);
        // "a" answers two prompts, so it is judged for each.
        assert_eq!(reward.0, 4);
        assert_eq!(judged.share_at_least(2.0), 0.5);
        let evaluation = Evaluation {
            responses,
            rewards: vec![judged],
        };
        assert_eq!(evaluation.rewards[0].mean(), 11.0 / 6.0);
        assert_eq!(evaluation.mean_length(), 17.0 / 6.0);
        assert_eq!(evaluation.truncated_ratio(), 1.0 / 3.0);
    }
}
