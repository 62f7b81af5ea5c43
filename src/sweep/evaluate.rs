//! The worker that trains and evaluates on a device.

use std::path::Path;

use super::plan::{EvalSettings, Run, Sweep};
use super::run::{Target, Work, Worker};
use super::types::Types;
use crate::advantage::Alpha;
use crate::config::resume::Change;
use crate::config::{Setting, TINY, TrainConfig};
use crate::error::{Context, Error, Result};
use crate::eval::checkpoint::Trained;
use crate::eval::meta::{Difference, EvalMeta};
use crate::eval::request::{Asked, Given, Job, Judging, Request};
use crate::eval::results::Results;
use crate::eval::weights::{self, Hashes};
use crate::eval::{Bootstrap, StoredEval, StoredPrompt};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::run::{interrupt, kinds, unlinked};
use crate::train::prompts::{self, Purpose};
use crate::train::run::{RunOptions, train};
use crate::train::{memory, setup};

/// Most tokens in one pass of a judge.
const JUDGE_BUDGET: usize = 4096;

/// Trains and evaluates on a device, which is opened when it is first needed and again after it failed.
pub struct Device<'a> {
    open: &'a dyn Fn() -> Result<Gpu>,
    gpu: Option<Gpu>,
    shared: &'a TrainConfig,
    eval: &'a EvalSettings,
    prompts: Option<Given>,
    hashes: Hashes,
}

/// What an evaluation's directory holds.
#[derive(Debug, PartialEq)]
enum Standing {
    /// Nothing.
    New,
    /// A part of what is wanted.
    Begun,
    /// All of it.
    Whole,
    /// An evaluation of what is no longer there, and why.
    Stale(String),
}

impl<'a> Device<'a> {
    /// Reads the prompts of the evaluations and checks their settings.
    ///
    /// # Errors
    /// As [`prompts::read`] and [`Request::resolve`].
    pub fn new(sweep: &'a Sweep, open: &'a dyn Fn() -> Result<Gpu>) -> Result<Self> {
        let given = |name: &Path| -> Result<Given> {
            let read = prompts::read(name, None, Purpose::Other).context("[eval] prompts")?;
            Ok(Given {
                records: read.records,
                source: read.source.unwrap_or_default(),
            })
        };
        let mut device = Self {
            open,
            gpu: None,
            shared: sweep.shared()?,
            eval: &sweep.eval,
            prompts: sweep.eval.prompts.as_deref().map(given).transpose()?,
            hashes: Hashes::default(),
        };
        device.job(&Target::default()).context("[eval]")?;
        Ok(device)
    }

    fn gpu(&mut self) -> Result<Gpu> {
        if let Some(gpu) = &self.gpu {
            return Ok(gpu.clone());
        }
        let gpu = (self.open)()?;
        self.gpu = Some(gpu.clone());
        Ok(gpu)
    }

    /// After a failure the next job gets a new device: the old one may be lost, or hold the error of what was submitted late.
    fn done<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.gpu = None;
        }
        result
    }

    /// The evaluation of a policy.
    fn job(&mut self, target: &Target) -> Result<Job> {
        let (c, e) = (self.shared, self.eval);
        let trained =
            match &target.checkpoint {
                Some(dir) => Some(Trained::open(dir)?.ok_or_else(|| {
                    Error::user(format!("{} is not a checkpoint of `train`", dir.display()))
                })?),
                None => None,
            };
        let request = Request {
            asked: Asked::File,
            model: Some(c.model.clone()),
            adapter: None,
            trained,
            reward_model: Some(c.reward_model.clone()),
            reward_adapter: c.reward_adapter.clone(),
            also_reward: e.also_reward.clone(),
            also_reward_adapter: None,
            also_true_score: false,
            prompts: self.prompts.clone(),
            num_prompts: e.num_prompts,
            samples: e.samples.unwrap_or(if c.model == TINY { 64 } else { 256 }),
            seed: e.seed.unwrap_or(1),
            params: SampleParams::PLAIN,
            matmul_precision: c.matmul_precision,
            kv_cache_dtype: c.kv_cache_dtype,
            max_completion_length: Some(c.max_completion_length),
            raw: c.raw,
            template_date: Some(c.template_date.clone()),
            base_dtype: target.types.base_dtype.clone(),
            reward_dtype: target.types.reward_dtype.clone(),
        };
        request.resolve(&mut self.hashes)
    }

    /// Samples and judges what is missing.
    fn fill(&mut self, mut job: Job, dir: &Path, (resume, overwrite): (bool, bool)) -> Result<()> {
        let mut begun = None;
        if resume {
            begun = Some(job.writer(dir, (true, false))?);
        }
        let writer = match begun {
            // Only the results are missing.
            Some(writer) if writer.done() == job.prompts.len() => writer,
            begun => {
                let gpu = self.gpu()?;
                let judging = Judging {
                    token_budget: JUDGE_BUDGET,
                    residency: self.shared.reward_residency,
                    free: memory::free(&gpu)?,
                };
                let mut loaded = job.load(&gpu, judging)?;
                let mut writer = begun.map_or_else(|| job.writer(dir, (false, overwrite)), Ok)?;
                let batch = self.eval.rollout_batch.unwrap_or(self.shared.rollout_batch);
                job.fill(&mut writer, &mut loaded, batch, &interrupt::requested)?;
                writer
            }
        };
        let samples = writer.eval().meta.samples;
        Results::of(writer.eval(), Alpha::default(), samples, &Bootstrap::default())?.write(dir)
    }
}

/// What a directory holds of the evaluation that is wanted; where the sweep's directory lies does not count.
///
/// # Errors
/// It holds an evaluation of other settings, or a damaged one.
fn standing(dir: &Path, job: &mut Job) -> Result<Standing> {
    unlinked(dir, &kinds::EVAL)?;
    let path = StoredEval::meta_path(dir);
    if !path.exists() {
        return Ok(Standing::New);
    }
    let found = StoredEval::read_partial(dir)?.eval;
    let keys = |all: &[StoredPrompt]| all.iter().map(|p| p.key.clone()).collect::<Vec<_>>();
    if keys(&found.prompts) != keys(&job.prompts) {
        return Err(other(dir, "other prompts"));
    }
    let begun = as_today(&found.meta, &job.meta);
    match begun.difference(&job.meta)? {
        Some(Difference::Weights { name, .. }) => {
            return Ok(Standing::Stale(format!("{name} was trained again or changed")));
        }
        Some(d @ Difference::Setting(_)) if d.is_of_the_policy() && job.meta.run.is_some() => {
            return Ok(Standing::Stale("it is of another training of this run".into()));
        }
        Some(Difference::Setting(Change { name, was, now })) => {
            return Err(other(dir, &format!("{name} = {was}, the sweep now says {now}")));
        }
        None => (),
    }
    // Without hashes the time must do: what was trained after the evaluation began is not what it is of.
    let begun_at = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
    if found.meta.weights_sha256.is_empty() && weights::written(&job.meta)? > begun_at {
        return Ok(Standing::Stale("its weights were written after it".into()));
    }
    if found.completions.len() < found.prompts.len() {
        // The rest is done as the beginning was.
        let m = &mut job.meta;
        m.base_dtype = found.meta.base_dtype;
        m.reward_dtype = found.meta.reward_dtype;
        m.also_reward_dtype = found.meta.also_reward_dtype;
        return Ok(Standing::Begun);
    }
    Ok(Standing::Whole)
}

fn other(dir: &Path, what: &str) -> Error {
    Error::user(format!(
        "{} was made with {what}: remove that directory to have it done again, or choose another --output",
        dir.display()
    ))
}

/// The settings of a found evaluation as they would be written now where that is not known: in a sweep's directory that was
/// moved since, paths are not those of then; evaluations of older versions have neither hashes nor settled types.
fn as_today(found: &EvalMeta, want: &EvalMeta) -> EvalMeta {
    let mut meta = found.clone();
    meta.prompts_sha256.clone_from(&want.prompts_sha256);
    if meta.weights_sha256.is_empty() {
        if meta.adapter.is_some() && want.adapter.is_some() {
            meta.adapter.clone_from(&want.adapter);
        }
        if let (Some(run), Some(now)) = (&mut meta.run, &want.run) {
            run.dir.clone_from(&now.dir);
            // A whole model lies in the run too.
            let last = |name: &str| name.rsplit(['/', '\\']).next().map(str::to_string);
            if last(&meta.model) == last(&want.model) {
                meta.model.clone_from(&want.model);
            }
        }
    }
    let open = |was: &mut Option<String>, now: &Option<String>| {
        if was.is_none() {
            was.clone_from(now);
        }
    };
    open(&mut meta.base_dtype, &want.base_dtype);
    open(&mut meta.reward_dtype, &want.reward_dtype);
    open(&mut meta.also_reward_dtype, &want.also_reward_dtype);
    meta
}

impl Worker for Device<'_> {
    fn settle(&mut self, runs: &[&Run]) -> Result<Types> {
        let gpu = self.gpu()?;
        let (limits, have) = (gpu.buffer_limits(), memory::free(&gpu)?);
        let (mut known, mut settled) = (Vec::new(), None::<Types>);
        for run in runs {
            let size = sizes(&run.config)?;
            if known.contains(&size) {
                continue;
            }
            known.push(size);
            // A run that cannot be opened fails by itself later, and says why.
            let Ok(mut job) = setup::Job::open(run.config.clone()) else {
                continue;
            };
            job.choose_dtypes(&limits, have)?;
            let own = Types {
                base_dtype: job.config.base_dtype,
                reward_dtype: job.config.reward_dtype,
            };
            settled = Some(match settled {
                Some(other) => other.smaller(own)?,
                None => own,
            });
        }
        Ok(settled.unwrap_or_default())
    }

    fn train(&mut self, run: &Run, dir: &Path, resume: bool) -> Result<()> {
        let gpu = self.gpu()?;
        let options = RunOptions {
            output: dir.to_path_buf(),
            resume,
            overwrite: false,
        };
        let result = train(&gpu, run.config.clone(), &options);
        self.done(result).map(|_| ())
    }

    fn evaluate(&mut self, target: &Target, dir: &Path) -> Result<Work> {
        let mut job = self.job(target)?;
        let how = match standing(dir, &mut job)? {
            Standing::New => (false, false),
            Standing::Begun => (true, false),
            Standing::Whole if dir.join("results.json").is_file() => return Ok(Work::Skipped),
            Standing::Whole => (true, false),
            Standing::Stale(why) => {
                log::warn!("{} is evaluated again: {why}", dir.display());
                (false, true)
            }
        };
        let result = self.fill(job, dir, how);
        self.done(result).map(|()| Work::Done)
    }
}

/// What the memory of a run depends on, for telling runs apart.
fn sizes(c: &TrainConfig) -> Result<toml::Table> {
    let mut table = toml::Table::try_from(c).map_err(Error::internal)?;
    table.retain(|name, _| Setting::of(name).is_none_or(|s| s.sizes));
    Ok(table)
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
