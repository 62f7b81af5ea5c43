//! The sampling loop.

use super::state::Rows;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::head::{self, HeadBuffers};
use crate::kernels::sample::SampleParams;
use crate::kernels::{linear, pad4, rows};
use crate::model::batch::Batch;
use crate::model::forward::{Keys, KvCache, Pass};
use crate::model::params::Model;
use crate::model::workspace::{Loaded, Shape, Workspace, check_tokens};
use crate::rng::seed_for;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A prompt and how many samples of it are wanted.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt's token ids.
    pub tokens: Vec<u32>,
    /// The prompt's number in its data set: part of every sample's seed.
    pub prompt: u64,
    /// Samples wanted: numbers `first .. first + samples` are part of their seeds.
    pub samples: usize,
    /// The first sample's number.
    pub first: u64,
}

/// How to sample.
#[derive(Debug, Clone)]
pub struct SampleConfig {
    /// Temperature and filters.
    pub params: SampleParams,
    /// Most tokens in a completion, the stop token included.
    pub max_completion_length: usize,
    /// Tokens that end a completion (at most 8).
    pub stop: Vec<u32>,
    /// The run's seed.
    pub seed: u64,
    /// The training step (0 elsewhere): part of every sample's seed.
    pub step: u64,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop token was sampled (it is the last token).
    Stop,
    /// The length limit was reached.
    Length,
}

/// One sampled response.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Token ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token at temperature 1, given all before it.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// What a sampler must hold at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerShape {
    /// Sequences decoded together.
    pub sequences: usize,
    /// Rows of the KV cache: prompts once, plus `max_completion_length` a sequence.
    pub cache_rows: usize,
    /// Prompt tokens computed in one pass.
    pub prefill_rows: usize,
    /// Largest LoRA rank.
    pub rank: usize,
}

/// What is sampled together: samples of jobs, as (job, samples).
type Wave = Vec<(usize, Range<usize>)>;

/// Tokens decoded between two readbacks.
pub(super) const STEPS_PER_READ: usize = 8;

/// Buffers for sampling from models of one shape.
pub struct Sampler {
    shape: SamplerShape,
    prefill: Workspace,
    decode: Workspace,
    cache: KvCache,
    head: HeadBuffers,
    threshold: Buffer, // (S) lowest logit that the filters keep
    states: Buffer,    // (S, C) hidden states that predict the next token
    logits: Buffer,    // (S, pad4(V))
    lse: Buffer,       // (S)
    entropy: Buffer,
    prefill_rows: Buffer,    // (prefill rows) cache row of each row of a prefill pass
    prefill_targets: Buffer, // (S) the row of `states` that each readout goes to
    rows: Rows,
}

impl Sampler {
    /// Allocates the buffers.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(model: &Model, shape: SamplerShape) -> Result<Self> {
        let (gpu, spec) = (&model.gpu, &model.spec);
        let pass = |rows: usize, readouts: usize| {
            let shape = Shape {
                rows,
                readouts,
                rank: shape.rank,
                backward: false,
                keep_all: false,
                vocabulary_head: false,
            };
            Workspace::new(gpu, spec, shape)
        };
        let s = shape.sequences;
        let f32s = |name: &str, n: usize| gpu.alloc(&format!("sampler/{name}"), n as u64 * 4);
        Ok(Self {
            shape,
            prefill: pass(shape.prefill_rows, s)?,
            decode: pass(s, s)?,
            cache: KvCache::new(model, shape.cache_rows)?,
            head: HeadBuffers::new(gpu, s)?,
            threshold: f32s("threshold", s)?,
            states: f32s("states", s * spec.hidden_size)?,
            logits: f32s("logits", s * pad4(spec.vocab_size))?,
            lse: f32s("lse", s)?,
            entropy: f32s("entropy", s)?,
            prefill_rows: f32s("prefill rows", shape.prefill_rows)?,
            prefill_targets: f32s("prefill targets", s)?,
            rows: Rows::new(gpu, s)?,
        })
    }

    /// What it holds.
    pub fn shape(&self) -> SamplerShape {
        self.shape
    }

    /// The most sequences that fit in one wave beside a prompt of `prompt` tokens.
    fn fits(&self, prompt: usize, length: usize) -> usize {
        (self.shape.cache_rows.saturating_sub(prompt) / length.max(1)).min(self.shape.sequences)
    }

    /// Samples every job; result `[job][sample]`, in the order asked for.
    ///
    /// # Errors
    /// A prompt that is empty, longer than the cache allows, or outside the vocabulary; a GPU error.
    pub fn generate(
        &mut self,
        model: &Model,
        jobs: &[Job],
        config: &SampleConfig,
    ) -> Result<Vec<Vec<Completion>>> {
        self.generate_limited(
            model,
            jobs,
            &vec![config.max_completion_length; jobs.len()],
            config,
        )
    }

    /// As [`Sampler::generate`], with a length limit a job (J,) in place of the one for all. Jobs that continue the
    /// beginnings of responses have used up some of theirs.
    ///
    /// # Errors
    /// As [`Sampler::generate`].
    pub fn generate_limited(
        &mut self,
        model: &Model,
        jobs: &[Job],
        limits: &[usize],
        config: &SampleConfig,
    ) -> Result<Vec<Vec<Completion>>> {
        if limits.len() != jobs.len() {
            return Err(Error::internal("a job without a length limit"));
        }
        if config.stop.len() > 8 {
            return Err(Error::user(format!(
                "{} stop tokens; at most 8 are supported",
                config.stop.len()
            )));
        }
        let mut out: Vec<Vec<Option<Completion>>> = jobs.iter().map(|j| vec![None; j.samples]).collect();
        for wave in self.waves(model, jobs, limits)? {
            for (job, sample, completion) in self.wave(model, jobs, limits, &wave, config)? {
                out[job][sample] = Some(completion);
            }
        }
        out.into_iter()
            .map(|group| {
                group
                    .into_iter()
                    .map(|c| c.ok_or_else(|| Error::internal("a sample was lost")))
                    .collect()
            })
            .collect()
    }

    /// Refuses prompts that cannot be sampled from.
    fn check_job(&self, model: &Model, job: &Job, length: usize) -> Result<()> {
        let (number, prompt) = (job.prompt, job.tokens.len());
        if prompt == 0 {
            return Err(Error::user(format!(
                "prompt {number} is empty: nothing predicts its first token; give at least one token"
            )));
        }
        check_tokens(&model.spec, &job.tokens).context(format!("prompt {number}"))?;
        let longest = (prompt + length).saturating_sub(1);
        if longest > model.rope.positions {
            return Err(Error::user(format!(
                "prompt {number} has {prompt} tokens; with completions of {length} it needs {longest} positions, and this \
                 run has {} (the model's context is {}). Shorten the prompt or lower --max-completion-length",
                model.rope.positions, model.spec.max_position_embeddings
            )));
        }
        if self.fits(prompt, length) == 0 {
            return Err(Error::user(format!(
                "prompt {number} has {prompt} tokens; with one completion of {length} it needs {} cache rows, and this run \
                 has {}. Shorten the prompt or lower --max-completion-length",
                prompt + length,
                self.shape.cache_rows
            )));
        }
        Ok(())
    }

    /// Splits the jobs' samples into waves that fit.
    fn waves(&self, model: &Model, jobs: &[Job], limits: &[usize]) -> Result<Vec<Wave>> {
        let mut waves: Vec<Wave> = Vec::new();
        let (mut free_rows, mut free_sequences) = (0, 0);
        for (i, (job, &length)) in jobs.iter().zip(limits).enumerate() {
            self.check_job(model, job, length)?;
            let prompt = job.tokens.len();
            let mut next = 0;
            while next < job.samples {
                let room = (free_rows.max(prompt) - prompt) / length.max(1);
                let take = room.min(free_sequences).min(job.samples - next);
                if take == 0 {
                    waves.push(Vec::new());
                    (free_rows, free_sequences) = (self.shape.cache_rows, self.shape.sequences);
                    continue;
                }
                if let Some(wave) = waves.last_mut() {
                    wave.push((i, next..next + take));
                }
                free_rows -= prompt + take * length;
                free_sequences -= take;
                next += take;
            }
        }
        Ok(waves)
    }

    /// Samples one wave: prefill its prompts, draw the first token of each sample, decode the rest.
    fn wave(
        &mut self,
        model: &Model,
        jobs: &[Job],
        limits: &[usize],
        wave: &[(usize, Range<usize>)],
        config: &SampleConfig,
    ) -> Result<Vec<(usize, usize, Completion)>> {
        let gpu = model.gpu.clone();
        let mut rec = Recorder::new(&gpu);
        self.rows.reset(&gpu, &config.stop);
        let mut prompts = Vec::new();
        let mut row = 0u32;
        for (job, samples) in wave {
            let tokens = &jobs[*job].tokens;
            let (start, first) = (row, self.rows.len());
            row += tokens.len() as u32;
            for sample in samples.clone() {
                let key = seed_for(
                    config.seed,
                    config.step,
                    jobs[*job].prompt,
                    jobs[*job].first + sample as u64,
                );
                self.rows.push(
                    (*job, sample),
                    key,
                    (start, tokens.len() as u32, row),
                    limits[*job],
                );
                row += limits[*job] as u32;
            }
            prompts.push(Prompt {
                tokens,
                start,
                sequences: first as u32..self.rows.len() as u32,
            });
        }
        self.prefill(&mut rec, model, &prompts)?;
        self.rows.upload(&mut rec, &self.decode)?;
        self.draw(&mut rec, model, config)?;
        let mut done = Vec::new();
        loop {
            rec.submit()?;
            self.rows.harvest(&gpu, &self.decode, &config.stop, &mut done)?;
            if self.rows.len() == 0 {
                return Ok(done);
            }
            self.rows.upload(&mut rec, &self.decode)?;
            for _ in 0..STEPS_PER_READ.min(self.rows.longest_left()) {
                self.step(&mut rec, model)?;
                self.draw(&mut rec, model, config)?;
            }
        }
    }

    /// Computes prompts into the cache, as many as fit in one pass at a time, and leaves the state after each
    /// prompt's last token in `states` for each of its sequences.
    fn prefill(&self, rec: &mut Recorder, model: &Model, prompts: &[Prompt<'_>]) -> Result<()> {
        let (mut batch, mut cache_rows, mut targets) = (Batch::default(), Vec::new(), Vec::new());
        for prompt in prompts {
            let mut from = 0;
            while from < prompt.tokens.len() {
                let room = self.shape.prefill_rows - batch.rows();
                if room == 0 {
                    self.prefill_pass(rec, model, &mut batch, &mut cache_rows, &mut targets)?;
                    continue;
                }
                let to = prompt.tokens.len().min(from + room);
                let readouts = if to == prompt.tokens.len() {
                    prompt.sequences.clone()
                } else {
                    0..0
                };
                batch.push_cached(
                    &prompt.tokens[from..to],
                    prompt.start,
                    from as u32,
                    readouts.len(),
                );
                cache_rows.extend(prompt.start + from as u32..prompt.start + to as u32);
                targets.extend(readouts);
                from = to;
            }
        }
        self.prefill_pass(rec, model, &mut batch, &mut cache_rows, &mut targets)
    }

    fn prefill_pass(
        &self,
        rec: &mut Recorder,
        model: &Model,
        batch: &mut Batch,
        cache_rows: &mut Vec<u32>,
        targets: &mut Vec<u32>,
    ) -> Result<()> {
        let pass = Pass {
            model,
            ws: &self.prefill,
            adapter: true,
        };
        let loaded = self.prefill.load(rec, model, batch)?;
        rec.write(&self.prefill_rows, 0, cache_rows)?;
        pass.forward(
            rec,
            &loaded,
            &Keys::Cached {
                cache: &self.cache,
                rows: &self.prefill_rows,
            },
        )?;
        if !targets.is_empty() {
            rec.write(&self.prefill_targets, 0, targets)?;
            rows::scatter(
                rec,
                self.prefill.hidden(),
                &self.prefill_targets,
                &self.states,
                targets.len(),
                model.spec.hidden_size,
            )?;
        }
        *batch = Batch::default();
        cache_rows.clear();
        targets.clear();
        Ok(())
    }

    /// One decode step: the last sampled token of every row through the model.
    fn step(&self, rec: &mut Recorder, model: &Model) -> Result<()> {
        let pass = Pass {
            model,
            ws: &self.decode,
            adapter: true,
        };
        let m = self.rows.len();
        let keys = Keys::Cached {
            cache: &self.cache,
            rows: self.rows.cache_rows(),
        };
        pass.forward(rec, &Loaded { m, p: m }, &keys)?;
        rec.copy(
            self.decode.hidden(),
            0,
            &self.states,
            0,
            (m * model.spec.hidden_size * 4) as u64,
        );
        Ok(())
    }

    /// Logits from the states, a token for every active row, and the bookkeeping for the next step.
    fn draw(&self, rec: &mut Recorder, model: &Model, config: &SampleConfig) -> Result<()> {
        let (m, v) = (self.rows.len(), model.spec.vocab_size);
        linear::forward(
            rec,
            &self.states,
            &model.head_param().value,
            None,
            &self.logits,
            m,
            linear::Write::SET,
        )?;
        head::row_stats(rec, &self.head, &self.logits, &self.lse, &self.entropy, m, v)?;
        self.rows.draw(
            rec,
            &self.decode,
            (&self.logits, &self.lse),
            &self.threshold,
            (m, v),
            &config.params,
        )
    }
}

/// A prompt of a wave: its tokens, its first cache row, and the sequences that continue it.
struct Prompt<'a> {
    tokens: &'a [u32],
    start: u32,
    sequences: Range<u32>,
}
