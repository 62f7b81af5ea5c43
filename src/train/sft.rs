//! Supervised fine-tuning: cross-entropy on the response's tokens.

use super::checkpoint::RunDir;
use super::run::RunOptions;
use super::supervised::{self, Task};
use crate::config::SupervisedConfig;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::run::{self, Group};
use crate::model::workspace::Workspace;
use crate::text::{Formatter, SftRecord, TemplateDate, read_jsonl};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A tokenised example: what is given, what is learned.
type Example = (Vec<u32>, Vec<u32>);

struct Sft<'a> {
    model: &'a Model,
    ws: Workspace,
    train: Vec<Example>,
    held_out: Vec<Example>,
}

fn groups<'e>(examples: impl IntoIterator<Item = &'e Example>) -> Vec<Group<'e>> {
    examples
        .into_iter()
        .map(|(prompt, response)| Group {
            prefix: prompt,
            suffixes: vec![response],
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
        if self.held_out.is_empty() {
            return Ok(Map::new());
        }
        let all = run::log_probs(self.model, &self.ws, &groups(&self.held_out), true)?;
        let flat: Vec<f64> = all.into_iter().flatten().flatten().map(f64::from).collect();
        Ok(super::rl::object(
            json!({ "eval_loss": -flat.iter().sum::<f64>() / flat.len().max(1) as f64 }),
        ))
    }
}

/// Trains on prompt/response or chat JSONL and returns the last checkpoint.
///
/// # Errors
/// Bad data or settings, out of memory, a failing device or disk.
pub fn train(gpu: &Gpu, c: &SupervisedConfig, options: &RunOptions) -> Result<PathBuf> {
    RunDir::check(&options.output, options.resume, options.overwrite)?;
    let mut source = Source::open_causal(&c.model)?;
    let tokenizer = source.tokenizer()?;
    let date: TemplateDate = c
        .template_date
        .parse::<TemplateDate>()
        .context("--template-date")?;
    let formatter = Formatter {
        tokenizer: &tokenizer,
        raw: c.raw,
        date,
    };
    let limit = c.max_length.min(source.spec.max_position_embeddings);
    let read = |path: &Path| read(path, &formatter, limit);
    let (train, held_out) = match &c.eval_data {
        Some(path) => (read(&c.data)?, read(path)?),
        None => supervised::split(read(&c.data)?, |e| e.0.clone(), c.eval_fraction, c.seed),
    };
    let longest = train
        .iter()
        .chain(&held_out)
        .map(|(p, r)| p.len() + r.len())
        .max()
        .unwrap_or(1);
    let model = supervised::load_model(gpu, &source, c, longest)?;
    let ws = Workspace::new(gpu, &model.spec, supervised::shape(c, &model, longest))?;
    let mut task = Sft {
        model: &model,
        ws,
        train,
        held_out,
    };
    supervised::run(c, options, &source, &model, &mut task)
}

fn read(path: &Path, formatter: &Formatter<'_>, limit: usize) -> Result<Vec<Example>> {
    let records = read_jsonl::<SftRecord>(path)?;
    let total = records.len();
    let mut out = Vec::with_capacity(total);
    for (i, r) in records.into_iter().enumerate() {
        let example = formatter.target(&r.prompt, &r.response).context(format!(
            "{}: record {}",
            path.display(),
            i + 1
        ))?;
        if example.0.len() + example.1.len() <= limit {
            out.push(example);
        }
    }
    note_dropped(path, total - out.len(), total, limit)?;
    Ok(out)
}

/// Says how many examples were too long; none left is an error.
pub(super) fn note_dropped(path: &Path, dropped: usize, total: usize, limit: usize) -> Result<()> {
    if dropped == total {
        return Err(Error::user(format!(
            "{}: all {total} examples are longer than {limit} tokens; raise --max-length or shorten them",
            path.display()
        )));
    }
    if dropped > 0 {
        log::warn!(
            "{}: {dropped} of {total} examples are longer than {limit} tokens and were left out",
            path.display()
        );
    }
    Ok(())
}
