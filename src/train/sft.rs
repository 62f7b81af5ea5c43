//! Supervised fine-tuning: cross-entropy on the tokens of responses.

use super::examples::Demonstration;
use super::run::RunOptions;
use super::supervised::{self, Job, Outcome, Task};
use crate::config::SupervisedConfig;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::run::{self, Group};
use crate::model::workspace::Workspace;
use serde_json::{Map, Value, json};
use std::ops::Range;

struct Sft<'a> {
    model: &'a Model,
    ws: Workspace,
    train: &'a [Demonstration],
    held_out: &'a [Demonstration],
}

/// Sequences as the model runs them, and what of each suffix is learned.
#[derive(Default)]
struct Work<'e> {
    groups: Vec<Group<'e>>,
    learned: Vec<Vec<Range<usize>>>,
    targets: usize,
}

impl<'e> Work<'e> {
    fn new(examples: impl IntoIterator<Item = &'e Demonstration>) -> Self {
        let mut work = Self::default();
        for sequence in examples.into_iter().flat_map(|e| &e.sequences) {
            let given = sequence.given();
            work.groups.push(Group {
                prefix: &sequence.tokens[..given],
                suffixes: vec![&sequence.tokens[given..]],
            });
            let shifted = |range: &Range<usize>| range.start - given..range.end - given;
            work.learned.push(sequence.ranges.iter().map(shifted).collect());
            work.targets += sequence.targets();
        }
        work
    }
}

impl Sft<'_> {
    /// The sum of the learned tokens' −log-probabilities; with `backward` the gradient of their
    /// mean is added.
    fn run(&self, work: &Work<'_>, backward: bool) -> Result<f64> {
        let mut loss = 0.0;
        run::each_learned(
            self.model,
            &self.ws,
            &work.groups,
            &work.learned,
            backward,
            &mut |rec, ran| {
                loss -= ran.logp.iter().map(|l| f64::from(*l)).sum::<f64>();
                if !backward {
                    return Ok(());
                }
                let dlogp = vec![-1.0 / work.targets as f32; ran.logp.len()];
                ran.pass
                    .backward_log_probs(rec, ran.loaded, &dlogp, &ran.batch.tokens)
            },
        )?;
        Ok(loss)
    }
}

impl Task for Sft<'_> {
    fn kind(&self) -> &'static str {
        "sft"
    }

    fn len(&self) -> usize {
        self.train.len()
    }

    fn held_out(&self) -> usize {
        self.held_out.len()
    }

    fn gradients(&mut self, examples: &[usize]) -> Result<Map<String, Value>> {
        let work = Work::new(examples.iter().map(|i| &self.train[*i]));
        let loss = self.run(&work, true)? / work.targets as f64;
        Ok(super::rl::object(
            json!({ "loss": loss, "num_tokens": work.targets }),
        ))
    }

    fn evaluate(&mut self) -> Result<Map<String, Value>> {
        let work = Work::new(self.held_out);
        let loss = self.run(&work, false)? / work.targets.max(1) as f64;
        Ok(super::rl::object(json!({ "eval_loss": loss })))
    }
}

/// Trains on prompt/response or chat JSONL.
///
/// # Errors
/// Bad data or settings, a run that does not fit in memory, a failing device or disk.
pub fn train(gpu: &Gpu, mut config: SupervisedConfig, options: &RunOptions) -> Result<Outcome> {
    if config.head_only {
        return Err(Error::user(
            "--head-only trains a score head, which `reward` does; `sft` has none",
        ));
    }
    // Written down, so that a run says what it learned and a resumed one learns the same.
    config.train_on.get_or_insert_default();
    let source = Source::open_causal(&config.model)?;
    let mut job = Job::<Demonstration>::open(config, source, options)?;
    job.fit(gpu)?;
    let model = job.load(gpu)?;
    let mut task = Sft {
        ws: Workspace::new(gpu, &model.spec, job.shape()?)?,
        model: &model,
        train: &job.data.train,
        held_out: &job.data.held_out,
    };
    supervised::run(&job, options, &model, &mut task)
}
