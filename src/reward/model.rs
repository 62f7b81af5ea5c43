//! A sequence-classification model as the judge.

use std::path::Path;

use super::{Item, Reward, check_finite};
use crate::config::Residency;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::plan::Plan;
use crate::model::run;
use crate::model::spec::ModelSpec;
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;
use crate::text::{Formatter, TemplateDate, Tokenizer};

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

/// A reward model on the device, with its own tokenizer and chat template.
pub struct RewardModel {
    name: String,
    model: Model,
    ws: Workspace,
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
        let positions = options.positions.clamp(1, source.spec.max_position_embeddings);
        let dtype = source.dtype(options.dtype)?;
        let streamed = match options.residency {
            Residency::Resident => false,
            Residency::Stream => true,
            Residency::Auto => {
                let mut plan = Plan::model(&source, dtype, positions)?;
                plan.extend("", &Self::plan(&source.spec, options.token_budget));
                let used = gpu.memory().current;
                options.free.is_some_and(|free| used + plan.total() > free)
            }
        };
        if streamed && options.residency == Residency::Auto {
            log::warn!(
                "{} does not fit in the free memory beside what is there: its blocks are streamed from the host \
                 (--reward-residency resident keeps them on the device)",
                source.name
            );
        }
        let model = source.load_reward(gpu, dtype, positions, options.adapter, streamed)?;
        model.tune()?;
        let ws = Workspace::new(gpu, &model.spec, shape(options.token_budget, rank(&model)))?;
        Ok(Self {
            name: source.name,
            model,
            ws,
            tokenizer,
            raw: options.raw,
            date: options.date,
        })
    }

    /// Memory of its passes at a token budget, the weights aside.
    pub fn plan(spec: &ModelSpec, token_budget: usize) -> Plan {
        Plan::workspace(spec, shape(token_budget, 0))
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
        })
    }

    /// Scores token sequences, in order.
    ///
    /// # Errors
    /// An empty or too long sequence, ids outside the vocabulary, or a GPU error.
    pub fn score_tokens(&mut self, sequences: &[&[u32]]) -> Result<Vec<f32>> {
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        if longest > self.model.rope.positions {
            return Err(Error::user(format!(
                "a sequence of {longest} tokens is longer than the {} positions that {} was set up for (its context is {}); \
                 shorten prompts or responses",
                self.model.rope.positions, self.name, self.model.spec.max_position_embeddings
            )));
        }
        // One sequence longer than the budget is scored alone.
        if longest > self.ws.shape.rows {
            self.ws = Workspace::new(
                &self.model.gpu,
                &self.model.spec,
                shape(longest, rank(&self.model)),
            )?;
        }
        run::scores(&self.model, &self.ws, sequences)
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
        let formatter = self.formatter()?;
        let sequences = items
            .iter()
            .map(|i| formatter.scored(i.prompt, i.response))
            .collect::<Result<Vec<Vec<u32>>>>()?;
        let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let rewards: Vec<f64> = self.score_tokens(&slices)?.into_iter().map(f64::from).collect();
        check_finite(&self.name, items, &rewards)?;
        Ok(rewards)
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
