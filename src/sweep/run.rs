//! Running a sweep: every run is trained and evaluated once, whatever happens to the others.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::plan::{BASE, Run, Sweep};
use super::report;
use super::types::{self, Types};
use crate::config::resume::{Change, changes};
use crate::config::{TrainConfig, TrainFlags, read_toml};
use crate::error::{Context, Error, Result};
use crate::eval::Bootstrap;
use crate::file::dirs;
use crate::model::save::write_atomic;
use crate::run::{Dir, interrupt, kinds, unlinked};
use crate::train::checkpoint::{self, RunDir};
use crate::train::selection;
use crate::train::setup::default_reward;

/// How far a run's training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is there.
    New,
    /// Begun; this many steps are saved.
    Partial(u64),
    /// All steps are done.
    Finished,
}

/// A policy to be evaluated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target {
    /// Its evaluation's directory in `evals/`.
    pub name: String,
    /// The checkpoint; `None` is the base policy.
    pub checkpoint: Option<PathBuf>,
    /// The element types it is evaluated in.
    pub types: Types,
}

/// Whether there was anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It was done now.
    Done,
    /// It had been done before.
    Skipped,
}

/// What does the work; a sweep only decides what is to be done.
pub trait Worker {
    /// Element types that fit for every one of the runs, which leave them open.
    ///
    /// # Errors
    /// There is no device.
    fn settle(&mut self, runs: &[&Run]) -> Result<Types>;

    /// Trains a run in its directory, from its last checkpoint where `resume`.
    ///
    /// # Errors
    /// As [`crate::train::run::train`].
    fn train(&mut self, run: &Run, dir: &Path, resume: bool) -> Result<()>;

    /// Evaluates a policy into a directory. What is finished is skipped and what is half done is continued, if it is of
    /// these very weights; an evaluation of weights that are no longer there is replaced.
    ///
    /// # Errors
    /// The checkpoint cannot be loaded, the directory holds an evaluation of other settings, or the device fails.
    fn evaluate(&mut self, target: &Target, dir: &Path) -> Result<Work>;
}

/// One piece of work in `sweep.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// `train NAME` or `eval NAME`.
    pub job: String,
    /// `done`, `skipped` (finished before) or `failed`.
    pub status: &'static str,
    /// Seconds it took this time.
    pub seconds: f64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a sweep ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The element types of every run and evaluation that names none, settled once.
    pub types: Types,
    /// Everything that was done or tried, in order.
    pub jobs: Vec<Job>,
}

impl Outcome {
    /// What failed.
    pub fn failed(&self) -> Vec<&Job> {
        self.jobs.iter().filter(|j| j.error.is_some()).collect()
    }

    /// Whether an evaluation is there and of this sweep: done, or found finished. What an earlier state of a run that failed
    /// now has left is not.
    pub fn has_eval(&self, name: &str) -> bool {
        let job = format!("eval {name}");
        self.jobs.iter().any(|j| j.job == job && j.error.is_none())
    }
}

/// A sweep's directory: `runs/NAME`, `evals/NAME`, `sweep.json`, `table.*`, `frontier*`.
#[derive(Debug, Clone)]
pub struct SweepDir {
    /// `--output`.
    pub root: PathBuf,
}

impl SweepDir {
    /// A run's directory.
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.join("runs").join(name)
    }

    /// An evaluation's directory.
    pub fn eval(&self, name: &str) -> PathBuf {
        self.root.join("evals").join(name)
    }
}

/// The evaluations of a run: its last checkpoint, and the best where checkpoints are selected.
pub fn eval_names(run: &Run) -> Vec<(String, &'static str)> {
    let mut names = vec![(run.name.clone(), "last")];
    if run.config.validation_prompts.is_some() {
        names.push((format!("{}-best", run.name), "best"));
    }
    names
}

/// How far a run is.
///
/// # Errors
/// Its directory holds a run of other settings, or cannot be read.
pub fn state(dir: &Path, run: &Run) -> Result<State> {
    let at = RunDir {
        root: dir.to_path_buf(),
    };
    unlinked(dir, &kinds::TRAIN)?;
    let recorded = std::fs::metadata(at.metrics()).is_ok_and(|m| m.len() > 0);
    let latest = at.latest()?;
    if !recorded && latest.is_none() {
        return Ok(State::New);
    }
    if at.config().exists() {
        let was: TrainConfig = read_toml::<TrainFlags>(&at.config())?.resolve(&default_reward)?;
        if let Some(Change { name, was, now }) = difference(&was, &run.config)? {
            return Err(Error::user(format!(
                "{} was trained with {name} = {was}, the sweep now says {now}: give the method another name, remove that \
                 directory, or choose another --output",
                dir.display()
            )));
        }
    }
    let step = match latest {
        Some(dir) => checkpoint::read_state(&dir)?.step,
        None => 0,
    };
    Ok(if step >= run.config.steps {
        State::Finished
    } else {
        State::Partial(step)
    })
}

/// The first setting in which a run differs from what the sweep says. Where the sweep was started from is none. Element types and
/// prompts that the sweep leaves open are the run's own choice, and so is the order of sums.
fn difference(was: &TrainConfig, now: &TrainConfig) -> Result<Option<Change>> {
    let open = [
        "base_dtype",
        "reward_dtype",
        "prompts",
        "max_prompt_length",
        "prompt_set",
    ];
    let is_own = |c: &Change| match c.name.as_str() {
        "directory" => true,
        "gradient_sum" => c.now == "auto",
        name => c.now.is_null() && open.contains(&name),
    };
    Ok(changes(was, now)?.into_iter().find(|c| !is_own(c)))
}

/// Trains and evaluates what is not finished, then compares everything; see [`report`].
///
/// A run or evaluation that fails is recorded in `sweep.json`, and the rest goes on.
///
/// # Errors
/// A directory of other settings (before anything runs), Ctrl-C, a base policy that cannot be evaluated, or files that cannot be written.
pub fn sweep(
    sweep: &Sweep,
    output: &SweepDir,
    worker: &mut dyn Worker,
    bootstrap: &Bootstrap,
) -> Result<Outcome> {
    let held = Dir::hold(&output.root, &kinds::SWEEP)?;
    held.check(false)?;
    for run in sweep.runs() {
        state(&output.run(&run.name), run)?;
    }
    held.begin()?;
    for dir in ["runs", "evals"] {
        dirs::make(&output.root.join(dir))?;
    }
    let types = types::settle(sweep, output, worker)?;
    let mut log = Log {
        path: output.root.join("sweep.json"),
        outcome: Outcome {
            types: types.clone(),
            jobs: Vec::new(),
        },
    };
    log.write()?;
    let base = Target {
        name: BASE.into(),
        checkpoint: None,
        types: types.of(sweep.shared()?),
    };
    worker
        .evaluate(&base, &output.eval(BASE))
        .context("the base policy")?;
    let total = sweep.runs().count();
    for (i, run) in sweep.runs().enumerate() {
        log::info!("run {} of {total}: {}", i + 1, run.name);
        one(run, output, worker, &mut log)?;
    }
    report::write(sweep, output, &log.outcome, bootstrap)?;
    Ok(log.outcome)
}

/// Trains and evaluates one run.
fn one(run: &Run, output: &SweepDir, worker: &mut dyn Worker, log: &mut Log) -> Result<()> {
    let dir = output.run(&run.name);
    let job = format!("train {}", run.name);
    let types = log.outcome.types.clone();
    // A run that was begun keeps its own types.
    let own = types::begun(&dir)?.unwrap_or_else(|| types.clone());
    if own.of(&run.config) != types.of(&run.config) {
        log::warn!(
            "{} was begun with other element types than the sweep's: {own:?}, not {types:?}",
            run.name
        );
    }
    let trained = log.record(job, &mut || match state(&dir, run)? {
        State::Finished => Ok(Work::Skipped),
        found => {
            worker.train(&own.put_into(run), &dir, found != State::New)?;
            Ok(Work::Done)
        }
    })?;
    if !trained {
        return Ok(());
    }
    let at = RunDir { root: dir };
    for (name, which) in eval_names(run) {
        let checkpoint = match which {
            "best" => Some(at.best()),
            _ => at.latest()?,
        };
        let target = Target {
            name: name.clone(),
            checkpoint,
            types: types.of(&run.config),
        };
        log.record(format!("eval {name}"), &mut || {
            if which == "best" {
                // A kill after the last step may have left an older copy.
                selection::mend_run(&at)?;
            }
            worker.evaluate(&target, &output.eval(&name))
        })?;
    }
    Ok(())
}

/// Keeps `sweep.json` up to date.
struct Log {
    path: PathBuf,
    outcome: Outcome,
}

impl Log {
    /// Does a piece of work; whether it succeeded. Ctrl-C alone ends the sweep.
    fn record(&mut self, job: String, work: &mut dyn FnMut() -> Result<Work>) -> Result<bool> {
        let begun = Instant::now();
        // A signal may have come during the last step of the job before.
        let done = match interrupt::requested() {
            true => Err(Error::Interrupted("not begun".to_string())),
            false => work(),
        };
        match done {
            Ok(Work::Done) => self.push(job, "done", begun.elapsed().as_secs_f64(), None),
            Ok(Work::Skipped) => self.push(job, "skipped", 0.0, None),
            Err(e) if e.is_interrupted() => Err(Error::Interrupted(format!(
                "{job}: {e}. The same sweep command goes on from here"
            ))),
            Err(e) => {
                log::error!("{job} failed: {e}");
                self.push(job, "failed", begun.elapsed().as_secs_f64(), Some(e.to_string()))
            }
        }
    }

    fn push(
        &mut self,
        job: String,
        status: &'static str,
        seconds: f64,
        error: Option<String>,
    ) -> Result<bool> {
        let good = error.is_none();
        self.outcome.jobs.push(Job {
            job,
            status,
            seconds,
            error,
        });
        self.write()?;
        Ok(good)
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.outcome).map_err(Error::internal)? + "\n";
        write_atomic(&self.path, text.as_bytes())
    }
}
