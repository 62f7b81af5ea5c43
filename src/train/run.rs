//! The `train` run: its directory, its loop, its checkpoints.

use super::base::Base;
use super::checkpoint::{self, Origin, RunDir, TrainerState};
use super::data::Identity;
use super::memory;
use super::rl::Trainer;
use super::selection::{self, Selection};
use super::setup::Job;
use crate::config::{TrainConfig, TrainFlags, read_toml};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::workspace::Workspace;
use crate::report::{MetricsWriter, Progress};
use crate::run::{Dir, interrupt, kinds};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What kind of checkpoint this loop writes.
const KIND: &str = "train";
/// What makes a run smaller.
pub const LOWER: &str = "--token-budget, --num-generations, --prompts-per-step, --num-iterations, \
                     --max-completion-length, --rollout-batch, --lora-rank or --activation-memory, choose a smaller --base-dtype or --reward-dtype, or --reward-residency stream";

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The run's directory.
    pub output: PathBuf,
    /// Continue the run in it.
    pub resume: bool,
    /// Replace the run in it.
    pub overwrite: bool,
}

/// Trains, and returns the last checkpoint.
///
/// # Errors
/// Bad settings or input (nothing is written then), a run that does not fit in memory, a device or disk that fails
/// (the last checkpoint stays whole), or [`Error::Interrupted`] after Ctrl-C.
pub fn train(gpu: &Gpu, config: TrainConfig, options: &RunOptions) -> Result<PathBuf> {
    let held = Dir::hold(&options.output, &kinds::TRAIN)?;
    let run = RunDir::check(&held, options.resume, options.overwrite)?;
    let mut config = recorded(config, options)?;
    config.directory = std::env::current_dir().ok();
    let mut job = Job::open(config)?;
    let base = Base::of(&job.source, None)?;
    let latest = match options.resume {
        true => run.resume_point(&held)?,
        false => None,
    };
    if let Some(dir) = &latest {
        base.continues(dir)?;
    }
    let (limits, have) = (gpu.buffer_limits(), memory::free(gpu)?);
    job.choose_dtypes(&limits, have)?;
    if let Some(dir) = &latest {
        checkpoint::continues::<TrainFlags>(dir, &job.config)?;
    }
    let plan = job.plan(&limits)?;
    memory::binds(&plan, LOWER)?;
    memory::fits(&plan, have, LOWER)?;
    let toml = job.config.to_toml()?;
    gpu.set_matmul_precision(job.config.matmul_precision)?;
    let (model, reference) = job.policy(gpu)?;
    let mut reward = job.reward(gpu)?;
    let ws = Workspace::new(gpu, &model.spec, job.shape()?)?;
    let mut trainer = job.trainer(&model, reference.as_ref(), &ws)?;
    // Everything that can fail for a wrong setting has passed: only now may an older run be removed.
    let run = RunDir::open(&held, options.resume, options.overwrite)?;
    let data = Identity::new(job.prompts.iter().map(|p| [&p.tokens[..]]), None);
    let state = restore(latest.as_deref(), &job.config, &data, &mut trainer)?;
    let mut selection = Selection::new(&job.config, &job.validation, state.as_ref())?;
    if let (Some(_), Some(state)) = (&selection, &state) {
        selection::mend(&run, state)?;
    }
    let mut done = state.map_or(0, |s| s.step);
    let _held = interrupt::hold(interrupt::SAVING);
    if done > 0 {
        held.keep_checkpoint(done)?;
    }
    run.write_config(&toml)?;
    let mut metrics = if options.resume {
        MetricsWriter::resume(run.metrics(), done)?
    } else {
        MetricsWriter::create(run.metrics())?
    };
    let steps = job.config.steps;
    let mut progress = Progress::new("train", done, steps);
    let origin = Origin {
        files: &job.source.files,
        config: &toml,
    };
    let mut last = latest;
    while done < steps {
        let mut report = trainer.step(done, reward.as_mut())?;
        done += 1;
        let better = match &mut selection {
            Some(selection) => selection.validate(done, &mut trainer, reward.as_mut(), &mut report)?,
            None => false,
        };
        metrics.write(done, &report)?;
        show(&mut progress, done, &report, better);
        let interrupted = interrupt::requested();
        if done.is_multiple_of(job.config.save_steps) || done == steps || interrupted || better {
            let state = TrainerState {
                kind: KIND.into(),
                step: done,
                optimizer_steps: trainer.optimizer.steps,
                data_position: done * job.config.prompts_per_step as u64,
                device: gpu.report().name.clone(),
                half_blocks: ws.shape.half_blocks(&model.spec),
                best: selection.as_ref().and_then(Selection::best),
                data: Some(data.clone()),
                base: Some(base.clone()),
            };
            let dir = checkpoint::save(&run, &model, &trainer.optimizer, &state, &origin)?;
            held.keep_checkpoint(done)?;
            if better {
                selection::keep(&run, &dir)?;
            }
            last = Some(dir);
        }
        if interrupted && done < steps {
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

/// The settings, with the data set of the run that is resumed.
fn recorded(mut config: TrainConfig, options: &RunOptions) -> Result<TrainConfig> {
    let root = options.output.clone();
    let of_run = RunDir { root }.settings()?;
    if options.resume && of_run.exists() {
        let stored = read_toml::<TrainFlags>(&of_run)?;
        config.prompt_set = config.prompt_set.or(stored.prompt_set);
    }
    Ok(config)
}

/// Puts the weights and moments of the last checkpoint back, where the run goes on, and returns its counters.
fn restore(
    latest: Option<&Path>,
    c: &TrainConfig,
    data: &Identity,
    trainer: &mut Trainer<'_>,
) -> Result<Option<TrainerState>> {
    let Some(dir) = latest else { return Ok(None) };
    let state = checkpoint::load(dir, trainer.model, &mut trainer.optimizer, KIND)?;
    state.same_halves(trainer.ws.shape.half_blocks(&trainer.model.spec))?;
    continues(&state, data, c)?;
    Ok(Some(state))
}

/// Refuses to go on where the position in the data would jump, and says where the prompts are others.
fn continues(state: &TrainerState, data: &Identity, c: &TrainConfig) -> Result<()> {
    let per = c.prompts_per_step as u64;
    if state.step.checked_mul(per) != Some(state.data_position) {
        return Err(Error::user(format!(
            "--resume: the run was started with --prompts-per-step {}, not {per}: which prompts a step draws follows from it; \
             resume with the settings the run was started with",
            state.data_position / state.step.max(1)
        )));
    }
    if let Some(was) = state.data.as_ref().filter(|was| was.sha256 != data.sha256) {
        log::warn!(
            "the run was trained on {} prompts so far, and from here on it is on {} others",
            was.examples,
            data.examples
        );
    }
    Ok(())
}

/// The progress line of a step, and a line of its own for a validation.
fn show(progress: &mut Progress, step: u64, report: &Map<String, Value>, better: bool) {
    let number = |name: &str| report.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
    if report.contains_key("validation_score") {
        progress.note(&format!(
            "step {step}: validation score {:.4}{}",
            number("validation_score"),
            if better { ", the best so far" } else { "" }
        ));
    }
    let values = [
        ("reward", number("reward")),
        ("max", number("reward_max")),
        ("kl", number("kl")),
        ("s/step", number("step_time")),
    ];
    progress.step(step, &values);
}
