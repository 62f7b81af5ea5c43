//! Supervised fine-tuning: cross-entropy on the response's tokens.

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

struct Sft<'a> {
    model: &'a Model,
    ws: Workspace,
    train: &'a [Demonstration],
    held_out: &'a [Demonstration],
}

fn groups<'e>(examples: impl IntoIterator<Item = &'e Demonstration>) -> Vec<Group<'e>> {
    examples
        .into_iter()
        .map(|e| Group {
            prefix: &e.prompt,
            suffixes: vec![&e.response],
        })
        .collect()
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
        let batch = groups(examples.iter().map(|i| &self.train[*i]));
        let targets: usize = batch.iter().map(|g| g.suffixes[0].len()).sum();
        let mut loss = 0.0;
        run::each_batch(self.model, &self.ws, &batch, true, &mut |rec, ran| {
            loss -= ran.logp.iter().map(|l| f64::from(*l)).sum::<f64>();
            let dlogp = vec![-1.0 / targets as f32; ran.logp.len()];
            ran.pass
                .backward_log_probs(rec, ran.loaded, &dlogp, &ran.batch.tokens)
        })?;
        Ok(super::rl::object(
            json!({ "loss": loss / targets as f64, "num_tokens": targets }),
        ))
    }

    fn evaluate(&mut self) -> Result<Map<String, Value>> {
        let all = run::log_probs(self.model, &self.ws, &groups(self.held_out), true)?;
        let flat: Vec<f64> = all.into_iter().flatten().flatten().map(f64::from).collect();
        Ok(super::rl::object(
            json!({ "eval_loss": -flat.iter().sum::<f64>() / flat.len().max(1) as f64 }),
        ))
    }
}

/// Trains on prompt/response or chat JSONL.
///
/// # Errors
/// Bad data or settings, a run that does not fit in memory, a failing device or disk.
pub fn train(gpu: &Gpu, config: SupervisedConfig, options: &RunOptions) -> Result<Outcome> {
    if config.head_only {
        return Err(Error::user(
            "--head-only trains a score head, which `reward` does; `sft` has none",
        ));
    }
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
