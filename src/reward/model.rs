//! A sequence-classification model as the judge.

use std::path::Path;

use super::{Item, Reward, Scoring, not_finite, place, sample_of};
use crate::config::Residency;
use crate::error::{Context, Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::plan::Plan;
use crate::model::run;
use crate::model::score_queue::ScoreQueue;
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;
use crate::text::{Count, Formatter, PromptContent, TemplateDate, Tokenizer};

/// How a reward model is loaded and reads conversations.
#[derive(Debug, Clone, Copy)]
pub struct RewardOptions<'a> {
    /// LoRA adapter directory.
    pub adapter: Option<&'a Path>,
    /// Element type of its matrices; see [`Source::dtype`].
    pub dtype: Option<DType>,
    /// Most tokens in one forward pass.
    pub token_budget: usize,
    /// Longest sequence that will be scored, in tokens (at most the model's context).
    pub positions: usize,
    /// Where its weights are kept.
    pub residency: Residency,
    /// Bytes that the device had free before anything was put on it, where that is known: what `auto` goes by.
    pub free: Option<u64>,
    /// Do not use the chat template.
    pub raw: bool,
    /// The date its template sees.
    pub date: TemplateDate,
}

/// What decides the memory of a reward model.
#[derive(Debug, Clone, Copy)]
pub struct RewardShape {
    /// Element type of its matrices; `None` keeps what is stored.
    pub dtype: Option<DType>,
    /// Longest sequence.
    pub positions: usize,
    /// Most tokens in one forward pass.
    pub token_budget: usize,
    /// Its blocks are streamed from the host.
    pub streamed: bool,
}

impl RewardShape {
    /// The model, and the buffers of its passes.
    ///
    /// # Errors
    /// As [`Source::load_reward`].
    pub fn allocate(&self, gpu: &Gpu, source: &Source, adapter: Option<&Path>) -> Result<(Model, Workspace)> {
        let model = source.load_reward(gpu, self.dtype, self.positions, adapter, self.streamed)?;
        model.tune()?;
        let ws = Workspace::new(gpu, &model.spec, shape(self.token_budget, rank(&model)))?;
        Ok((model, ws))
    }
}

/// A reward model on the device, with its own tokenizer and chat template.
pub struct RewardModel {
    name: String,
    model: Model,
    ws: Workspace,
    queue: ScoreQueue,
    tokenizer: Option<Tokenizer>,
    raw: bool,
    date: TemplateDate,
}

impl RewardModel {
    /// Loads a reward model with its tokenizer.
    ///
    /// # Errors
    /// As [`Source::open_with_score`], [`Source::tokenizer`] and [`Source::load_reward`].
    pub fn load(gpu: &Gpu, name: &str, options: &RewardOptions<'_>) -> Result<Self> {
        let mut source = Source::open_with_score(name)?;
        let tokenizer = source.tokenizer()?;
        Self::from_source(gpu, source, Some(tokenizer), options)
    }

    /// As [`RewardModel::load`] from opened files; without a tokenizer only [`RewardModel::score_tokens`] works.
    ///
    /// # Errors
    /// As [`Source::load_reward`].
    pub fn from_source(
        gpu: &Gpu,
        source: Source,
        tokenizer: Option<Tokenizer>,
        options: &RewardOptions<'_>,
    ) -> Result<Self> {
        let mut shape = RewardShape {
            dtype: source.dtype(options.dtype)?,
            positions: options.positions.clamp(1, source.spec.max_position_embeddings),
            token_budget: options.token_budget,
            streamed: options.residency == Residency::Stream,
        };
        if let (Residency::Auto, Some(free)) = (options.residency, options.free) {
            let plan = Plan::of(&gpu.buffer_limits(), |gpu| shape.allocate(gpu, &source, None))?;
            shape.streamed = gpu.memory().current + plan.total() > free;
        }
        if shape.streamed && options.residency == Residency::Auto {
            log::warn!(
                "{} does not fit in the free memory beside what is there: its blocks are streamed from the host \
                 (--reward-residency resident keeps them on the device)",
                source.name
            );
        }
        let (model, ws) = shape.allocate(gpu, &source, options.adapter)?;
        Ok(Self {
            name: source.name,
            model,
            ws,
            queue: ScoreQueue::default(),
            tokenizer,
            raw: options.raw,
            date: options.date,
        })
    }

    /// How this model reads texts.
    ///
    /// # Errors
    /// It has no tokenizer.
    pub fn formatter(&self) -> Result<Formatter<'_>> {
        let Some(tokenizer) = &self.tokenizer else {
            return Err(Error::internal(format!(
                "{}: opened without a tokenizer, so texts cannot be scored",
                self.name
            )));
        };
        Ok(Formatter {
            tokenizer,
            raw: self.raw,
            date: self.date,
            most: self.model.rope.positions,
        })
    }

    /// Scores token sequences, in order.
    ///
    /// # Errors
    /// An empty or too long sequence, ids outside the vocabulary, or a GPU error.
    pub fn score_tokens(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        for sequence in sequences {
            self.check_length(Count::of(sequence.len()))?;
        }
        self.make_room(sequences.iter().map(|s| s.len()).max())?;
        run::scores(&self.model, &self.ws, sequences)
    }

    fn check_length(&self, length: Count) -> Result<()> {
        if length.tokens <= self.model.rope.positions {
            return Ok(());
        }
        Err(Error::user(format!(
            "a sequence of {length} is longer than the {} positions that {} was set up for (its context is {}); \
             shorten prompts or responses",
            self.model.rope.positions, self.name, self.model.spec.max_position_embeddings
        )))
    }

    /// One sequence longer than the budget is scored alone.
    fn make_room(&mut self, longest: Option<usize>) -> Result<()> {
        if let Some(rows) = longest.filter(|n| *n > self.ws.shape.rows) {
            let shape = shape(rows, rank(&self.model));
            self.ws = Workspace::new(&self.model.gpu, &self.model.spec, shape)?;
        }
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

fn rank(model: &Model) -> usize {
    model.lora.as_ref().map_or(0, |l| l.rank)
}

fn shape(rows: usize, rank: usize) -> Shape {
    Shape {
        rows,
        readouts: rows.min(1024),
        rank,
        backward: false,
        kept_blocks: 1,
        half: false,
        vocabulary_head: false,
    }
}

impl Reward for RewardModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        let mut scoring = self.scoring();
        scoring.add(items)?;
        scoring.finish()
    }

    fn scoring(&mut self) -> Box<dyn Scoring + '_> {
        self.queue.clear();
        Box::new(Queued {
            judge: self,
            runs: Vec::new(),
        })
    }

    fn scoring_on_device(&mut self, scores: &Buffer) -> Option<Box<dyn Scoring<u32> + '_>> {
        self.queue.clear_for(scores);
        Some(Box::new(Queued {
            judge: self,
            runs: Vec::new(),
        }))
    }
}

/// Responses whose passes are on their way.
struct Queued<'r> {
    judge: &'r mut RewardModel,
    /// What messages call them by, in the order added: neighbours of one prompt, with the number of the first among the prompt's
    /// samples that were added together, and how many they are.
    runs: Vec<(PromptContent, usize, usize)>,
}

impl Queued<'_> {
    fn remember(&mut self, items: &[Item<'_>]) {
        let from = self.runs.len();
        for item in items {
            match self.runs[from..].last_mut() {
                Some((prompt, _, n)) if prompt == item.prompt => *n += 1,
                _ => {
                    let earlier = self.runs[from..].iter().filter(|r| r.0 == *item.prompt);
                    let first = earlier.map(|r| r.2).sum();
                    self.runs.push((item.prompt.clone(), first, 1));
                }
            }
        }
    }

    /// What messages call response number `at`.
    fn place(&self, mut at: usize) -> String {
        for (prompt, first, n) in &self.runs {
            if at < *n {
                return sample_of(first + at, prompt);
            }
            at -= n;
        }
        format!("response {at}")
    }
}

impl Queued<'_> {
    fn take(&mut self, items: &[Item<'_>]) -> Result<()> {
        let judge = &*self.judge;
        let formatter = judge.formatter()?;
        let read = |item: &Item<'_>| {
            let tokens = formatter.scored(item.prompt, item.response)?;
            judge.check_length(tokens.count())?;
            tokens.ids()
        };
        let mut sequences = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match read(item) {
                Ok(tokens) => sequences.push(tokens),
                Err(e) => return Err(e).context(place(items, at)),
            }
        }
        self.judge.make_room(sequences.iter().map(Vec::len).max())?;
        self.remember(items);
        let RewardModel { model, ws, queue, .. } = &mut *self.judge;
        queue.add(model, ws, sequences)
    }
}

impl Scoring for Queued<'_> {
    fn add(&mut self, items: &[Item<'_>]) -> Result<()> {
        self.take(items)
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        let RewardModel { model, ws, queue, .. } = &mut *self.judge;
        let rewards: Vec<f64> = queue.finish(model, ws)?.into_iter().map(f64::from).collect();
        match rewards.iter().position(|r| !r.is_finite()) {
            None => Ok(rewards),
            Some(at) => Err(not_finite(&self.judge.name, rewards[at], &self.place(at))),
        }
    }
}

impl Scoring<u32> for Queued<'_> {
    fn add(&mut self, items: &[Item<'_>]) -> Result<()> {
        self.take(items)
    }

    fn finish(self: Box<Self>) -> Result<Vec<u32>> {
        let RewardModel { model, ws, queue, .. } = &mut *self.judge;
        queue.leave(model, ws)
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
