//! The loop that `sft` and `reward` share: batches in a seeded order, evaluation, checkpoints.

use super::checkpoint::{self, Origin, RunDir, TrainerState};
use super::data;
use super::interrupt;
use super::run::RunOptions;
use crate::config::SupervisedConfig;
use crate::error::{Error, Result};
use crate::gpu::Recorder;
use crate::model::load::{Source, load_adapter};
use crate::model::params::{LoraShape, Model};
use crate::model::spec::{Head, Proj};
use crate::model::workspace::Shape;
use crate::optim::{Optimizer, Settings};
use crate::report::{MetricsWriter, Progress};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// One kind of supervised training.
pub trait Task {
    /// "sft" or "reward": what its checkpoints are marked with.
    fn kind(&self) -> &'static str;
    /// Training examples.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Adds the gradient of the mean loss of these examples and returns metrics, "loss" among them.
    ///
    /// # Errors
    /// A GPU error.
    fn gradients(&mut self, examples: &[usize]) -> Result<Map<String, Value>>;
    /// Metrics on the held-out examples; empty if there are none.
    ///
    /// # Errors
    /// A GPU error.
    fn evaluate(&mut self) -> Result<Map<String, Value>>;
}

/// Uploads the model of a run with what it trains: every weight, or an adapter (and the score head).
///
/// # Errors
/// Another element type than f32 with `--full`, a bad adapter, or out of memory.
pub fn load_model(
    gpu: &crate::gpu::Gpu,
    source: &Source,
    c: &SupervisedConfig,
    positions: usize,
) -> Result<Model> {
    let dtype = super::setup::base_dtype(source, c.base_dtype.as_deref(), c.full)?;
    let scored = source.spec.head == Head::Score;
    // A language model that becomes a reward model starts from a head of zeros.
    let zeros = vec![0.0; source.spec.hidden_size];
    let score = (scored && !source.has_score()).then_some(&zeros[..]);
    let mut model = source.load(gpu, dtype, positions, score)?;
    if c.full {
        model.train_base()?;
        return Ok(model);
    }
    match &c.adapter {
        Some(dir) => drop(load_adapter(&mut model, dir, !c.head_only)?),
        None => {
            let shape = LoraShape {
                rank: c.lora_rank,
                alpha: c.lora_alpha,
                targets: Proj::ALL.to_vec(),
            };
            model.new_adapter(&shape, c.seed, !c.head_only)?;
        }
    }
    if scored {
        model.train_score()?;
    }
    Ok(model)
}

/// The buffers of a run whose longest example has `longest` tokens.
pub fn shape(c: &SupervisedConfig, model: &Model, longest: usize) -> Shape {
    let rows = c.token_budget.max(longest);
    Shape {
        rows,
        readouts: rows,
        rank: model.lora.as_ref().map_or(0, |l| l.rank),
        backward: !c.head_only,
        keep_all: c.no_checkpointing,
        vocabulary_head: model.spec.head == Head::CausalLm,
    }
}

/// Optimiser steps of a run over `examples` examples.
pub fn total_steps(c: &SupervisedConfig, examples: usize) -> u64 {
    c.steps.unwrap_or(examples.div_ceil(c.batch_size) as u64)
}

/// The optimiser of a run.
///
/// # Errors
/// Out of memory.
pub fn optimizer(c: &SupervisedConfig, model: &Model, total: u64) -> Result<Optimizer> {
    let settings = Settings {
        learning_rate: c.learning_rate,
        warmup_steps: c.warmup_steps,
        weight_decay: c.weight_decay,
        max_grad_norm: c.max_grad_norm,
        schedule: c.lr_scheduler_type,
        total_steps: total,
    };
    Optimizer::new(&model.gpu, model.trainable(), settings)
}

/// Splits examples into training and held-out ones. Examples with the same key (their prompt) stay on one side, so
/// that nothing held out was trained on; prompts are drawn in a seeded order until `fraction` is reached.
pub fn split<T, K: Ord>(
    examples: Vec<T>,
    key: impl Fn(&T) -> K,
    fraction: f64,
    seed: u64,
) -> (Vec<T>, Vec<T>) {
    let wanted = (examples.len() as f64 * fraction).round() as usize;
    let mut by_key: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (i, example) in examples.iter().enumerate() {
        by_key.entry(key(example)).or_default().push(i);
    }
    let groups: Vec<Vec<usize>> = by_key.into_values().collect();
    let mut held = vec![false; examples.len()];
    let mut count = 0;
    for g in data::draw(seed ^ 0x5eed, groups.len(), 0, groups.len()) {
        // One prompt at least stays for training.
        if count >= wanted || count + groups[g].len() >= examples.len() {
            break;
        }
        count += groups[g].len();
        groups[g].iter().for_each(|i| held[*i] = true);
    }
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (example, held) in examples.into_iter().zip(held) {
        if held { &mut held_out } else { &mut train }.push(example);
    }
    (train, held_out)
}

/// Runs the loop and returns the last checkpoint.
///
/// # Errors
/// A used output directory, a device or disk that fails, or [`Error::Interrupted`] after Ctrl-C.
pub fn run(
    c: &SupervisedConfig,
    options: &RunOptions,
    source: &Source,
    model: &Model,
    task: &mut dyn Task,
) -> Result<PathBuf> {
    let total = total_steps(c, task.len());
    let mut optimizer = optimizer(c, model, total)?;
    let run = RunDir::open(&options.output, options.resume, options.overwrite)?;
    let latest = if options.resume { run.latest()? } else { None };
    let mut done = match &latest {
        Some(dir) => checkpoint::load(dir, &model.gpu, &mut optimizer, task.kind())?.step,
        None => 0,
    };
    let toml = c.to_toml()?;
    run.write_config(&toml)?;
    let mut metrics = if options.resume {
        MetricsWriter::resume(run.metrics(), done)?
    } else {
        MetricsWriter::create(run.metrics())?
    };
    let origin = Origin {
        files: &source.files,
        config: &toml,
    };
    let mut progress = Progress::new(task.kind(), done, total);
    let mut last = latest;
    while done < total {
        let begun = Instant::now();
        let from = done * c.batch_size as u64;
        let batch = data::draw(c.seed, task.len(), from, c.batch_size);
        let mut report = task.gradients(&batch)?;
        let rate = optimizer.next_rate();
        let norm = optimizer.step(&mut Recorder::new(&model.gpu))?;
        done += 1;
        report.insert("grad_norm".into(), json!(norm));
        report.insert("learning_rate".into(), json!(rate));
        report.insert(
            "epoch".into(),
            json!((from + c.batch_size as u64) as f64 / task.len() as f64),
        );
        if done.is_multiple_of(c.eval_steps) || done == total {
            report.extend(task.evaluate()?);
        }
        report.insert("step_time".into(), json!(begun.elapsed().as_secs_f64()));
        metrics.write(done, &report)?;
        let shown: Vec<(&str, f64)> = ["loss", "accuracy", "eval_loss", "eval_accuracy", "step_time"]
            .into_iter()
            .filter_map(|name| Some((name, report.get(name)?.as_f64()?)))
            .collect();
        progress.step(done, &shown);
        let interrupted = interrupt::requested();
        if done.is_multiple_of(c.save_steps) || done == total || interrupted {
            let state = TrainerState {
                kind: task.kind().into(),
                step: done,
                optimizer_steps: optimizer.steps,
                data_position: done * c.batch_size as u64,
                seed: c.seed,
                device: model.gpu.report().name.clone(),
            };
            last = Some(checkpoint::save(&run, model, &optimizer, &state, &origin)?);
        }
        if interrupted && done < total {
            progress.finish();
            return Err(Error::Interrupted(format!(
                "step {done} is finished and saved in {}; continue with --resume",
                run.checkpoints().display()
            )));
        }
    }
    progress.finish();
    last.ok_or_else(|| Error::internal("the run wrote no checkpoint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_keeps_every_example_once_and_prompts_whole() {
        let (train, held) = split((0..40).collect(), |i| i / 4, 0.1, 3);
        assert_eq!((train.len(), held.len()), (36, 4));
        assert!(held.iter().all(|i| i / 4 == held[0] / 4));
        let mut all: Vec<i32> = train.iter().chain(&held).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
        assert_eq!(split(vec![1], |i| *i, 0.9, 0).0, [1]);
        assert!(split(vec![1, 2, 3], |i| *i, 0.0, 0).1.is_empty());
    }
}
