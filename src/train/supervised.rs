//! The loop that `sft` and `reward` share: batches in a seeded order, evaluation, checkpoints.

use super::activations::{self, Keeping};
use super::base::Base;
use super::checkpoint::{self, Origin, RunDir, TrainerState};
use super::data::{self, Identity};
use super::dtype::{base_dtype, candidates, largest, parse_dtype, settle};
use super::examples::{Example, Examples};
use super::losses::{Losses, Report};
use super::memory;
use super::run::RunOptions;
use crate::config::{SupervisedConfig, SupervisedFlags};
use crate::error::{Context, Error, Result};
use crate::gpu::{BufferLimits, Gpu, Recorder};
use crate::model::load::{Source, load_adapter};
use crate::model::params::{LoraShape, Model};
use crate::model::peft;
use crate::model::plan::Plan;
use crate::model::run;
use crate::model::spec::{Head, Proj};
use crate::model::workspace::{Shape, Workspace};
use crate::optim::{Optimizer, Settings};
use crate::report::{MetricsWriter, Progress};
use crate::run::{Dir, interrupt};
use crate::tensor::DType;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What makes a run smaller.
const LOWER: &str =
    "--token-budget, --max-length, --lora-rank or --activation-memory, or choose a smaller --base-dtype";

/// What distinguishes the kinds of supervised training in messages and metrics.
#[derive(Debug)]
pub struct About {
    /// "sft" or "reward": what its checkpoints are marked with.
    pub kind: &'static str,
    /// What messages call the numbers that its loss is of.
    pub value: &'static str,
    /// Metrics that are means over tokens or pairs: the names of [`Report::sums`], the loss first.
    pub means: &'static [&'static str],
    /// The metric that counts these, where there is one.
    pub count: Option<&'static str>,
}

/// One kind of supervised training.
pub trait Task {
    /// What it is.
    fn about(&self) -> &'static About;
    /// Records the passes of these examples ([`Examples::get`]) and leaves their losses in `losses`; with `backward` the
    /// gradient of the mean loss is added. The host waits for nothing.
    ///
    /// # Errors
    /// A GPU error.
    fn record(&mut self, losses: &mut Losses, examples: &[usize], backward: bool) -> Result<()>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Its metrics on the held-out examples; empty where nothing is held out.
    pub eval: Map<String, Value>,
    /// Held-out examples.
    pub held_out: usize,
}

/// Rank and alpha of a stored adapter, for [`SupervisedFlags::resolve`](crate::config::SupervisedFlags::resolve).
///
/// # Errors
/// There is no adapter, or one of another kind.
pub fn adapter_shape(dir: &Path) -> Result<(usize, f64)> {
    let config = peft::read_config(dir)?;
    Ok((config.rank(), config.alpha()))
}

/// What a run needs on the host before anything is allocated on the device.
pub struct Job<E> {
    /// The settings.
    pub config: SupervisedConfig,
    /// The model's files.
    pub source: Source,
    /// The examples, tokenised.
    pub data: Examples<E>,
    /// The run's directory, locked.
    held: Dir,
    /// The checkpoint that is resumed.
    latest: Option<PathBuf>,
    /// What the run was started from.
    base: Base,
    /// The adapter to start from: the settings', or the one of the checkpoint that is resumed.
    start: Option<PathBuf>,
    /// The adapter's shape, unless every weight is trained.
    lora: Option<LoraShape>,
    /// Bytes that activations may take under `--activation-memory auto`.
    auto: Option<u64>,
}

impl<E: Example> Job<E> {
    /// Reads and checks everything that can be checked without a device.
    ///
    /// # Errors
    /// A used output directory, bad data or settings; nothing has been written.
    pub fn open(mut config: SupervisedConfig, mut source: Source, options: &RunOptions) -> Result<Self> {
        let held = Dir::hold(&options.output, E::KIND)?;
        let run = RunDir::check(&held, options.resume, options.overwrite)?;
        config.directory = std::env::current_dir().ok();
        let data = Examples::open(&config, &mut source)?;
        config.data_set.clone_from(&data.set);
        let base = Base::of(&source, config.adapter.as_deref())?;
        let latest = match options.resume {
            true => run.resume_point(&held)?,
            false => None,
        };
        if let Some(dir) = &latest {
            base.continues(dir)?;
            checkpoint::continues::<SupervisedFlags>(dir, &config)?;
        }
        let start = config
            .adapter
            .as_ref()
            .map(|given| latest.as_ref().unwrap_or(given));
        let targets = match start {
            Some(dir) => peft::read_config(dir)?.shape(&source.spec)?.targets,
            None => Proj::ALL.to_vec(),
        };
        let lora = (!config.full).then_some(LoraShape {
            rank: config.lora_rank,
            alpha: config.lora_alpha,
            targets,
        });
        Ok(Self {
            start: start.cloned(),
            held,
            latest,
            base,
            config,
            source,
            data,
            lora,
            auto: None,
        })
    }

    /// The forward and backward buffers a run takes.
    ///
    /// # Errors
    /// `--activation-memory` is too little for them.
    pub fn shape(&self) -> Result<Shape> {
        let c = &self.config;
        let rows = c.token_budget.max(self.data.most(E::rows));
        let keeping = Keeping {
            all: c.no_checkpointing,
            memory: c.activation_memory,
            auto: self.auto,
        };
        let shape = Shape {
            rows,
            readouts: rows,
            rank: self.lora.as_ref().map_or(0, |l| l.rank),
            backward: !c.head_only,
            kept_blocks: 1,
            half: c.dtype.is_half(),
            vocabulary_head: self.source.spec.head == Head::CausalLm,
        };
        keeping.apply(&self.source.spec, shape)
    }

    /// Bytes each part of the run takes on an adapter with these limits, its weights loaded as `dtype`.
    ///
    /// # Errors
    /// As [`Job::shape`].
    pub fn plan(&self, limits: &BufferLimits, dtype: Option<DType>) -> Result<Plan> {
        Plan::of(limits, |gpu| {
            let model = self.load_as(gpu, dtype)?;
            let optimizer = optimizer(&self.config, &model, 1)?;
            let ws = Workspace::new(gpu, &model.spec, self.shape()?)?;
            Ok((model, optimizer, ws, self.losses(gpu)?))
        })
    }

    /// The losses of a run.
    ///
    /// # Errors
    /// Out of memory.
    pub fn losses(&self, gpu: &Gpu) -> Result<Losses> {
        Losses::new(gpu, self.shape()?.readouts)
    }

    /// Settles the element type where it was left open, the largest that fits, gives what it leaves to activations where that is
    /// asked for, and refuses a run that does not fit.
    ///
    /// # Errors
    /// An unknown or unfit type, or the plan of a run that needs more than the device is known to have.
    pub fn fit(&mut self, gpu: &Gpu) -> Result<()> {
        let (limits, have) = (gpu.buffer_limits(), memory::free(gpu)?);
        self.auto = None;
        let c = &self.config;
        let options = if c.full {
            vec![base_dtype(&self.source, c.base_dtype.as_deref(), true)?]
        } else {
            let asked = parse_dtype("--base-dtype", c.base_dtype.as_deref())?;
            candidates(&self.source, asked, have.is_some())?
        };
        let sized = options
            .into_iter()
            .map(|dtype| Ok((dtype, self.plan(&limits, dtype)?.total())))
            .collect::<Result<Vec<_>>>()?;
        let chosen = largest(sized, have).flatten();
        let plan = self.plan(&limits, chosen)?;
        self.auto = activations::budget(have, plan.total() - plan.bytes("activations"));
        let plan = self.plan(&limits, chosen)?;
        memory::binds(&plan, LOWER)?;
        memory::fits(&plan, have, LOWER)?;
        self.config.base_dtype = settle("--base-dtype", &c.model, c.base_dtype.is_some(), chosen);
        Ok(())
    }

    /// Sets the device's precision and uploads the model with what it trains: every weight, or an adapter (and the score head).
    ///
    /// # Errors
    /// Another element type than f32 with `--full`, a precision that the device has not, a bad adapter, or out of memory.
    pub fn load(&self, gpu: &Gpu) -> Result<Model> {
        let c = &self.config;
        gpu.set_matmul_precision(c.matmul_precision)?;
        let model = self.load_as(gpu, base_dtype(&self.source, c.base_dtype.as_deref(), c.full)?)?;
        model.tune()?;
        Ok(model)
    }

    fn load_as(&self, gpu: &Gpu, dtype: Option<DType>) -> Result<Model> {
        let (c, source) = (&self.config, &self.source);
        let scored = source.spec.head == Head::Score;
        // A language model that becomes a reward model starts from a head of zeros.
        let zeros = vec![0.0; source.spec.hidden_size];
        let score = (scored && !source.has_score()).then_some(&zeros[..]);
        let mut model = source.load(gpu, dtype, self.data.most(E::longest), score)?;
        let Some(shape) = &self.lora else {
            model.train_base()?;
            return Ok(model);
        };
        match &self.start {
            Some(dir) if !gpu.counts() => {
                load_adapter(&mut model, dir, !c.head_only).context("--adapter")?;
            }
            _ => model.new_adapter(shape, c.seed, !c.head_only)?,
        }
        if scored {
            model.train_score()?;
        }
        Ok(model)
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
        optim: c.optim,
        learning_rate: c.learning_rate,
        warmup_steps: c.warmup_steps,
        weight_decay: c.weight_decay,
        max_grad_norm: c.max_grad_norm,
        schedule: c.lr_scheduler_type,
        total_steps: total,
    };
    Optimizer::new(&model.gpu, model.trainable(), settings)
}

/// Runs the loop.
///
/// # Errors
/// A used output directory, a device or disk that fails, or [`Error::Interrupted`] after Ctrl-C.
pub fn run<E: Example>(
    job: &Job<E>,
    options: &RunOptions,
    model: &Model,
    task: &mut dyn Task,
) -> Result<Outcome> {
    let c = &job.config;
    let about = task.about();
    let (train, held_out) = (job.data.train.len(), job.data.held_out.len());
    let total = total_steps(c, train);
    let half_blocks = job.shape()?.half_blocks(&model.spec);
    let mut optimizer = optimizer(c, model, total)?;
    let mut losses = job.losses(&model.gpu)?;
    let run = RunDir::open(&job.held, options.resume, options.overwrite)?;
    let data = job.data.identity();
    let mut last = job.latest.clone();
    let (mut done, mut position) = (0, 0);
    if let Some(dir) = &last {
        let state = checkpoint::load(dir, model, &mut optimizer, about.kind)?;
        state.same_halves(half_blocks)?;
        same_examples(state.data.as_ref(), &data, &c.data)?;
        (done, position) = (state.step, state.data_position);
    }
    let held = interrupt::hold(interrupt::SAVING);
    if done > 0 {
        job.held.keep_checkpoint(done)?;
    }
    let toml = c.to_toml()?;
    run.write_config(&toml)?;
    let mut metrics = if options.resume {
        MetricsWriter::resume(run.metrics(), done)?
    } else {
        MetricsWriter::create(run.metrics())?
    };
    let origin = Origin {
        files: &job.source.files,
        config: &toml,
    };
    let mut progress = Progress::new(about.kind, done, total);
    let mut eval = None;
    while done < total {
        let begun = Instant::now();
        let mut report = step(job, task, &mut losses, &mut optimizer, &mut position)?;
        done += 1;
        if (done.is_multiple_of(c.eval_steps) || done == total) && held_out > 0 {
            let values = evaluate(job, task, &mut losses)?;
            report.extend(values.clone());
            eval = (done == total).then_some(values);
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
                kind: about.kind.into(),
                step: done,
                optimizer_steps: optimizer.steps,
                data_position: position,
                device: model.gpu.report().name.clone(),
                half_blocks,
                best: None,
                data: Some(data.clone()),
                base: Some(job.base.clone()),
            };
            last = Some(checkpoint::save(&run, model, &optimizer, &state, &origin)?);
            job.held.keep_checkpoint(done)?;
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
    drop(held);
    // A run that was complete when it was resumed has taken no step.
    let eval = match eval {
        None if held_out > 0 => evaluate(job, task, &mut losses)?,
        other => other.unwrap_or_default(),
    };
    Ok(Outcome {
        checkpoint: last.ok_or_else(|| Error::internal("the run wrote no checkpoint"))?,
        eval,
        held_out,
    })
}

/// Refuses to go on with other training examples: what was held out would be trained on.
fn same_examples(was: Option<&Identity>, now: &Identity, file: &Path) -> Result<()> {
    let Some(was) = was.filter(|was| was.sha256 != now.sha256) else {
        return Ok(());
    };
    let file = file.display();
    let cause = if was.file_sha256 == now.file_sha256 {
        format!(
            "{file} now gives {} training examples, others than the {} the run was started with (--train-on, --max-length, \
             --eval-data, --eval-fraction, --raw and --template-date choose them)",
            now.examples, was.examples
        )
    } else {
        let short = |hash: &Option<String>| {
            hash.as_deref()
                .and_then(|h| h.get(..12))
                .unwrap_or("?")
                .to_string()
        };
        format!(
            "--data {file} (SHA-256 {}…) is not the data the run was started with ({}…)",
            short(&now.file_sha256),
            short(&was.file_sha256)
        )
    };
    Err(Error::user(format!(
        "--resume: {cause}: examples that were held out would be trained on. Resume with the run's own data and settings, or \
         start a run with another --output"
    )))
}

/// One optimiser step on the examples from `position` on, which it moves. All of it is recorded before the host waits.
fn step<E: Example>(
    job: &Job<E>,
    task: &mut dyn Task,
    losses: &mut Losses,
    optimizer: &mut Optimizer,
    position: &mut u64,
) -> Result<Map<String, Value>> {
    let (c, gpu) = (&job.config, losses.gpu().clone());
    let (waits, n) = (gpu.host_waits(), job.data.train.len());
    let batch = data::draw(c.seed, n, *position, c.batch_size);
    let mut rec = Recorder::new(&gpu);
    optimizer.begin(&mut rec);
    rec.submit()?;
    task.record(losses, &batch, true)?;
    let rate = optimizer.next_rate();
    optimizer.record(&mut rec)?;
    rec.submit()?;
    let report = losses.read(Some(optimizer.norm()))?;
    let (about, mut metrics) = (task.about(), means(job, task.about(), &report, "")?);
    let norm = optimizer.finish(report.norm, 1)?;
    *position += c.batch_size as u64;
    if let Some(name) = about.count {
        metrics.insert(name.into(), json!(report.count as u64));
    }
    metrics.insert("grad_norm".into(), json!(norm));
    metrics.insert("learning_rate".into(), json!(rate));
    metrics.insert("epoch".into(), json!(*position as f64 / n as f64));
    metrics.insert("host_waits".into(), json!(gpu.host_waits() - waits));
    Ok(metrics)
}

/// Metrics on the held-out examples, of which there is at least one.
fn evaluate<E: Example>(
    job: &Job<E>,
    task: &mut dyn Task,
    losses: &mut Losses,
) -> Result<Map<String, Value>> {
    let train = job.data.train.len();
    let held_out: Vec<usize> = (train..train + job.data.held_out.len()).collect();
    task.record(losses, &held_out, false)?;
    means(job, task.about(), &losses.read(None)?, "eval_")
}

/// A task's metrics that are means, or the error that names the example whose numbers are none: the device has left the
/// weights alone then.
fn means<E: Example>(
    job: &Job<E>,
    about: &About,
    report: &Report,
    prefix: &str,
) -> Result<Map<String, Value>> {
    if let Some((example, value)) = report.bad {
        return Err(run::overflow(about.value, value)).context(job.data.place(example));
    }
    let mean = |(name, sum): (&&str, f64)| (format!("{prefix}{name}"), json!(sum / report.count.max(1.0)));
    Ok(about.means.iter().zip(report.sums).map(mean).collect())
}
