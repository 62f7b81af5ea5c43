//! The `train` run: its directory, its loop, its checkpoints.

use super::checkpoint::{self, Origin, RunDir, TrainerState};
use super::interrupt;
use super::setup::Job;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::workspace::Workspace;
use crate::report::{MetricsWriter, Progress};
use std::path::{Path, PathBuf};

/// What kind of checkpoint this loop writes.
const KIND: &str = "train";

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
    let job = Job::open(config)?;
    fits(gpu, &job)?;
    RunDir::check(&options.output, options.resume, options.overwrite)?;
    let toml = job.config.to_toml()?;
    let (model, reference) = job.policy(gpu)?;
    let mut reward = job.reward(gpu)?;
    let ws = Workspace::new(gpu, &model.spec, job.shape())?;
    let mut trainer = job.trainer(&model, reference.as_ref(), &ws)?;
    // Everything that can fail for a wrong setting has passed: only now may an older run be removed.
    let run = RunDir::open(&options.output, options.resume, options.overwrite)?;
    let latest = if options.resume { run.latest()? } else { None };
    let mut done = match &latest {
        Some(dir) => {
            let state = checkpoint::load(dir, gpu, &mut trainer.optimizer, KIND)?;
            continues(&state, &job.config, gpu)?;
            state.step
        }
        None => 0,
    };
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
        let report = trainer.step(done, reward.as_mut())?;
        done += 1;
        metrics.write(done, &report)?;
        let number = |name: &str| {
            report
                .get(name)
                .and_then(serde_json::Value::as_f64)
                .unwrap_or(f64::NAN)
        };
        progress.step(
            done,
            &[
                ("reward", number("reward")),
                ("max", number("reward_max")),
                ("kl", number("kl")),
                ("s/step", number("step_time")),
            ],
        );
        let interrupted = interrupt::requested();
        if done.is_multiple_of(job.config.save_steps) || done == steps || interrupted {
            let state = TrainerState {
                kind: KIND.into(),
                step: done,
                optimizer_steps: trainer.optimizer.steps,
                data_position: done * job.config.prompts_per_step as u64,
                seed: job.config.seed,
                device: gpu.report().name.clone(),
            };
            last = Some(checkpoint::save(
                &run,
                &model,
                &trainer.optimizer,
                &state,
                &origin,
            )?);
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

/// Refuses to go on from a checkpoint of another seed, and says where bits may differ.
fn continues(state: &TrainerState, config: &TrainConfig, gpu: &Gpu) -> Result<()> {
    if state.seed != config.seed {
        return Err(Error::user(format!(
            "--resume: the run was started with --seed {}, not {}",
            state.seed, config.seed
        )));
    }
    let device = &gpu.report().name;
    if state.device != *device {
        log::warn!(
            "the checkpoint was written on {}, this is {device}: the run goes on, but not with the same bits",
            state.device
        );
    }
    Ok(())
}

/// Refuses a run that needs more memory than the device is known to have.
fn fits(gpu: &Gpu, job: &Job) -> Result<()> {
    let plan = job.plan(gpu.caps().max_binding)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Some(have) = device_memory(gpu)? else {
        return Ok(());
    };
    if plan.total() > have {
        return Err(Error::user(format!(
            "this run needs {:.1} MiB of memory and the device has {:.1} MiB free:\n{}\nLower --token-budget, --num-generations, \
             --max-completion-length or --rollout-batch, or choose a smaller --base-dtype or --reward-dtype",
            mib(plan.total()),
            mib(have),
            plan
        )));
    }
    Ok(())
}

/// Memory of the device in bytes, where it can be known: a CPU adapter uses the machine's. `TEA_MEMORY_LIMIT` (bytes)
/// stands in for either.
fn device_memory(gpu: &Gpu) -> Result<Option<u64>> {
    if let Ok(limit) = std::env::var("TEA_MEMORY_LIMIT") {
        return match limit.parse() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(Error::user(format!(
                "TEA_MEMORY_LIMIT is {limit:?}; it must be a number of bytes"
            ))),
        };
    }
    if gpu.caps().kind != crate::gpu::DeviceKind::Cpu {
        return Ok(None);
    }
    Ok(std::fs::read_to_string(Path::new("/proc/meminfo"))
        .ok()
        .and_then(|text| available(&text)))
}

/// `MemAvailable` of Linux's meminfo, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim()
        .split(' ')
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}
