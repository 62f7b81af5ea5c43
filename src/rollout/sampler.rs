//! The sampling loop.

use super::job::{Completion, Job, OnEnded, SampleConfig, SamplerShape};
use super::schedule::{Schedule, Turn, Work};
use super::state::{Rows, Samples};
use super::stats::RolloutStats;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::attention::PAGE;
use crate::kernels::head::{self, HeadBuffers};
use crate::kernels::{linear, pad4};
use crate::model::forward::{Keys, Pass};
use crate::model::kv_cache::KvCache;
use crate::model::params::Model;
use crate::model::workspace::{Loaded, Shape, Workspace, check_tokens};

/// Buffers for sampling from models of one shape.
pub struct Sampler {
    shape: SamplerShape,
    pub(super) prefill: Workspace,
    decode: Workspace,
    pub(super) cache: KvCache,
    head: HeadBuffers,
    threshold: Buffer,                // (S) lowest logit that the filters keep
    pub(super) prompt_states: Buffer, // (S, C) the states after cached prompts
    pub(super) states: Buffer,        // (S, C) hidden states that predict the next token
    logits: Buffer,                   // (S, pad4(V))
    lse: Buffer,                      // (S, 2)
    entropy: Buffer,
    pub(super) prefill_rows: Buffer, // (prefill rows) cache row of each row of a prefill pass
    pub(super) prefill_targets: Buffer, // (S) the prompt state that each of its readouts becomes
    pub(super) new_slots: Buffer,    // (S) the prompt state of each row that begins
    rows: Rows,
    stats: RolloutStats,
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
                kept_blocks: 1,
                half: false,
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
            cache: KvCache::new(model, shape.pages() * PAGE, shape.kv_cache_dtype)?,
            head: HeadBuffers::new(gpu, s)?,
            threshold: f32s("threshold", s)?,
            prompt_states: f32s("prompt states", s * spec.hidden_size)?,
            states: f32s("states", s * spec.hidden_size)?,
            logits: f32s("logits", s * pad4(spec.vocab_size))?,
            lse: f32s("lse", 2 * s)?,
            entropy: f32s("entropy", s)?,
            prefill_rows: f32s("prefill rows", shape.prefill_rows)?,
            prefill_targets: f32s("prefill targets", s)?,
            new_slots: f32s("new slots", s)?,
            rows: Rows::new(gpu, s, spec.vocab_size)?,
            stats: RolloutStats::default(),
        })
    }

    /// What it holds.
    pub fn shape(&self) -> SamplerShape {
        self.shape
    }

    /// What the last [`Sampler::generate`] did.
    pub fn stats(&self) -> RolloutStats {
        self.stats
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
        self.generate_each(model, jobs, limits, config, &mut |_, _| Ok(()))
    }

    /// As [`Sampler::generate_limited`], telling `on_ended` of jobs that have ended while others go on: once a job, between the
    /// submission of a window of tokens and its readback. Jobs that end with the last window are not told of: there is nothing left to
    /// do beside them, and they are in the result as all are. When and whether a job is told of changes no sample.
    ///
    /// # Errors
    /// As [`Sampler::generate`], and those of `on_ended`, which end the sampling.
    pub fn generate_each(
        &mut self,
        model: &Model,
        jobs: &[Job],
        limits: &[usize],
        config: &SampleConfig,
        on_ended: &mut OnEnded<'_>,
    ) -> Result<Vec<Vec<Completion>>> {
        if limits.len() != jobs.len() {
            return Err(Error::internal("a job without a length limit"));
        }
        let work = jobs
            .iter()
            .zip(limits)
            .map(|(job, limit)| self.work(model, job, *limit))
            .collect::<Result<Vec<_>>>()?;
        let gpu = model.gpu.clone();
        let mut samples = Samples::new(jobs, limits, config);
        let mut schedule = Schedule::new(&work, self.shape.sequences, self.cache.pages);
        let mut rec = Recorder::new(&gpu);
        self.rows.stop_at(&gpu, &config.stop, model.spec.vocab_size);
        while let Some(turn) = schedule.next() {
            self.window(&mut rec, model, (&schedule, &turn), &samples, config)?;
            let window = rec.submitted()?;
            // What this submits runs behind the window, whose readback does not wait for it.
            for job in samples.take_ended() {
                on_ended(job, samples.completions(job)?)?;
            }
            let results = self
                .rows
                .harvest(&window, schedule.seats(), &mut samples, &config.stop)?;
            schedule.drawn(&results);
        }
        self.stats = schedule.stats();
        samples.finish()
    }

    /// What a job asks of the schedule; refuses prompts that cannot be sampled from.
    fn work(&self, model: &Model, job: &Job, length: usize) -> Result<Work> {
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
        if prompt + length.max(1) > self.shape.cache_rows {
            return Err(Error::user(format!(
                "prompt {number} has {prompt} tokens; with one completion of {length} it needs {} cache rows, and this run \
                 has {}. Shorten the prompt or lower --max-completion-length",
                prompt + length,
                self.shape.cache_rows
            )));
        }
        Ok(Work {
            prompt,
            // Nothing is drawn of samples of no tokens.
            samples: if length == 0 { 0 } else { job.samples },
            limit: length.max(1),
        })
    }

    /// Records what a turn asks for: prefill, the first tokens of the rows that begin, and the window's steps.
    fn window(
        &self,
        rec: &mut Recorder,
        model: &Model,
        (schedule, turn): (&Schedule, &Turn),
        samples: &Samples<'_>,
        config: &SampleConfig,
    ) -> Result<()> {
        let (seats, table) = (schedule.seats(), schedule.table());
        self.cache.map(rec, &table.pages)?;
        self.rows.upload(rec, &self.decode, seats, samples)?;
        self.prefill(rec, model, (schedule, turn), samples, &table)?;
        if turn.new > 0 {
            self.first_states(rec, model, schedule, turn.new)?;
            self.draw(rec, model, turn.new, config)?;
        }
        self.rows.place(rec, &self.decode, seats, samples, &table)?;
        for _ in 0..turn.steps {
            self.step(rec, model, seats.len())?;
            self.draw(rec, model, seats.len(), config)?;
        }
        self.rows.collect(rec, seats.len());
        Ok(())
    }

    /// One decode step: the last sampled token of every row through the model.
    fn step(&self, rec: &mut Recorder, model: &Model, m: usize) -> Result<()> {
        let pass = Pass {
            model,
            ws: &self.decode,
            adapter: true,
        };
        let keys = Keys::Cached {
            cache: &self.cache,
            rows: self.rows.cache_rows(),
            decode: true,
        };
        pass.forward(rec, &Loaded::whole(m, m), &keys)?;
        rec.copy(
            self.decode.hidden(),
            0,
            &self.states,
            0,
            (m * model.spec.hidden_size * 4) as u64,
        );
        Ok(())
    }

    /// Logits from the states, a token for every active row of the first `m`, and the bookkeeping for the next step.
    fn draw(&self, rec: &mut Recorder, model: &Model, m: usize, config: &SampleConfig) -> Result<()> {
        let v = model.spec.vocab_size;
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
