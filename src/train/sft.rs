//! Supervised fine-tuning: cross-entropy on the tokens of responses.

use super::examples::{Demonstration, Examples};
use super::losses::Losses;
use super::run::RunOptions;
use super::supervised::{self, About, Job, Outcome, Task};
use crate::config::SupervisedConfig;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::run::{self, Group};
use crate::model::workspace::Workspace;
use std::ops::Range;

struct Sft<'a> {
    model: &'a Model,
    ws: Workspace,
    examples: &'a Examples<Demonstration>,
}

/// Sequences as the model runs them, and what of each suffix is learned.
#[derive(Default)]
struct Work<'e> {
    groups: Vec<Group<'e>>,
    learned: Vec<Vec<Range<usize>>>,
    /// The example that each sequence is of.
    examples: Vec<usize>,
    targets: usize,
}

impl<'e> Work<'e> {
    fn push(&mut self, example: usize, demonstration: &'e Demonstration) {
        for sequence in &demonstration.sequences {
            let given = sequence.given();
            self.groups.push(Group {
                prefix: &sequence.tokens[..given],
                suffixes: vec![&sequence.tokens[given..]],
            });
            let shifted = |range: &Range<usize>| range.start - given..range.end - given;
            self.learned.push(sequence.ranges.iter().map(shifted).collect());
            self.examples.push(example);
            self.targets += sequence.targets();
        }
    }
}

impl Task for Sft<'_> {
    fn about(&self) -> &'static About {
        &About {
            kind: "sft",
            value: run::LOG_PROBABILITY,
            means: &["loss"],
            count: Some("num_tokens"),
        }
    }

    fn record(&mut self, losses: &mut Losses, examples: &[usize], backward: bool) -> Result<()> {
        let mut work = Work::default();
        for i in examples {
            work.push(*i, self.examples.get(*i));
        }
        // The loss is the mean over the tokens.
        let scale = 1.0 / work.targets as f32;
        let (model, ws) = (self.model, &self.ws);
        run::each_learned(model, ws, &work.groups, &work.learned, &mut |rec, packed| {
            let owners = packed.by_readout(|group, _| work.examples[group]);
            losses.load(rec, &vec![1.0f32; owners.len()], owners)?;
            packed.forward(rec, backward)?;
            losses.tokens(rec, ws, scale)?;
            if backward { packed.backward(rec) } else { Ok(()) }
        })
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
        examples: &job.data,
    };
    supervised::run(&job, options, &model, &mut task)
}
