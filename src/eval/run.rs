//! Sampling a policy on a list of prompts and judging what it wrote.

use std::ops::Range;
use std::path::Path;

use crate::config::FloatDtype;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
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
    /// The file of the prompts, which messages about a prompt begin with.
    pub prompts_file: Option<&'a str>,
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
        let context = source.spec.max_position_embeddings;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: options.raw,
            date: options.date,
            most: context.saturating_sub(options.max_completion_length),
        };
        let mut positions = 1;
        let mut prompts = Vec::with_capacity(contents.len());
        for (i, content) in contents.iter().enumerate() {
            let place = || match options.prompts_file {
                Some(file) => format!("{file}: prompt {}", i + 1),
                None => format!("prompt {}", i + 1),
            };
            let tokens = formatter.prompt(content).context(place())?;
            let needed = source
                .fits(tokens.count().plus(options.max_completion_length))
                .context(place())?;
            positions = positions.max(needed);
            prompts.push(tokens.ids()?);
        }
        let mut model = source.load(gpu, source.dtype(options.dtype)?, positions, None)?;
        if let Some(dir) = options.adapter {
            load_adapter(&mut model, dir, false)?;
        }
        model.tune()?;
        Ok(Self {
            model,
            tokenizer,
            stop: source.spec.eos_token_ids.clone(),
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
        self.responses_each(prompts, &mut |_, _| Ok(()))
    }

    /// As [`Draws::responses`], telling `on_ended` of the prompts, by their places among `prompts`, whose responses have all ended
    /// while others go on (see [`Sampler::generate_each`]).
    ///
    /// # Errors
    /// As [`Sampler::generate_each`].
    pub fn responses_each(
        &mut self,
        prompts: Range<usize>,
        on_ended: &mut dyn FnMut(usize, &[Response]) -> Result<()>,
    ) -> Result<Vec<Vec<Response>>> {
        let policy = self.policy;
        let jobs: Vec<Job> = prompts
            .map(|at| Job {
                tokens: policy.prompts[at].clone(),
                prompt: at as u64,
                samples: self.samples,
                first: 0,
            })
            .collect();
        let texts = |group: &[Completion]| -> Result<Vec<Response>> {
            group.iter().map(|c| policy.response(c)).collect()
        };
        let mut known: Vec<Option<Vec<Response>>> = vec![None; jobs.len()];
        let limits = vec![self.config.max_completion_length; jobs.len()];
        let mut ended =
            |place: usize, group: &[Completion]| on_ended(place, known[place].insert(texts(group)?));
        let sampler = &mut self.sampler;
        let all = sampler.generate_each(&policy.model, &jobs, &limits, &self.config, &mut ended)?;
        let group = |(known, group): (Option<Vec<Response>>, &Vec<Completion>)| {
            known.map_or_else(|| texts(group), Ok)
        };
        known.into_iter().zip(&all).map(group).collect()
    }
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
