//! The worker that trains and evaluates on a device.

use std::path::Path;

use super::plan::{EvalSettings, Run, Sweep};
use super::run::{Target, Worker};
use crate::advantage::Alpha;
use crate::config::{TINY, TrainConfig};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::eval::checkpoint::Trained;
use crate::eval::record::Writer;
use crate::eval::results::Results;
use crate::eval::run::{Policy, PolicyOptions, Sampling};
use crate::eval::store::VERSION;
use crate::eval::{Bootstrap, EvalMeta, StoredEval, StoredPrompt};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::reward::{self, Reward, RewardOptions};
use crate::text::{PromptContent, TemplateDate};
use crate::train::dtype::parse_dtype;
use crate::train::interrupt;
use crate::train::prompts::{self, Purpose};
use crate::train::run::{RunOptions, train};

/// Seed of the embedded held-out prompts: `eval`'s and the demo's.
const EMBEDDED_SEED: u64 = 1;
/// Held-out prompts of the embedded policy, unless the sweep says otherwise.
const EMBEDDED_PROMPTS: usize = 60;
/// Most tokens in one pass of a judge.
const JUDGE_BUDGET: usize = 4096;

/// Trains and evaluates on a device, which is opened when it is first needed and again after it failed.
pub struct Device<'a> {
    open: &'a dyn Fn() -> Result<Gpu>,
    gpu: Option<Gpu>,
    shared: &'a TrainConfig,
    eval: &'a EvalSettings,
    prompts: Vec<StoredPrompt>,
    date: TemplateDate,
}

impl<'a> Device<'a> {
    /// Reads the prompts of the evaluations.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(sweep: &'a Sweep, open: &'a dyn Fn() -> Result<Gpu>) -> Result<Self> {
        let shared = sweep.shared()?;
        Ok(Self {
            open,
            gpu: None,
            shared,
            eval: &sweep.eval,
            prompts: prompts(&sweep.eval).context("[eval] prompts")?,
            date: shared.template_date.parse()?,
        })
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

    fn meta(&self, target: &Target) -> Result<EvalMeta> {
        let (c, e) = (self.shared, self.eval);
        let trained =
            match &target.checkpoint {
                Some(dir) => Some(Trained::open(dir)?.ok_or_else(|| {
                    Error::user(format!("{} is not a checkpoint of `train`", dir.display()))
                })?),
                None => None,
            };
        let own = |t: &Trained| t.dir.display().to_string();
        let adapter = trained.as_ref().filter(|t| t.is_adapter()).map(own);
        let whole = trained.as_ref().filter(|t| !t.is_adapter()).map(own);
        Ok(EvalMeta {
            version: VERSION,
            model: whole.unwrap_or_else(|| c.model.clone()),
            adapter,
            reward_model: c.reward_model.clone(),
            reward_adapter: c.reward_adapter.as_ref().map(|p| p.display().to_string()),
            also_reward: e.also_reward.clone(),
            also_reward_adapter: None,
            prompts_file: match &e.prompts {
                Some(path) => path.display().to_string(),
                None => "embedded held-out prompts".into(),
            },
            prompts_sha256: String::new(),
            num_prompts: self.prompts.len(),
            samples: e.samples.unwrap_or(if c.model == TINY { 64 } else { 256 }),
            seed: e.seed.unwrap_or(1),
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_completion_length: c.max_completion_length,
            raw: c.raw,
            template_date: Some(c.template_date.clone()),
            base_dtype: c.base_dtype.clone(),
            reward_dtype: c.reward_dtype.clone(),
            step: trained.as_ref().map(|t| t.step),
            run: trained.as_ref().map(Trained::meta),
        })
    }

    /// Samples and judges what is missing.
    fn fill(&mut self, meta: EvalMeta, dir: &Path) -> Result<()> {
        let gpu = self.gpu()?;
        let resume = StoredEval::meta_path(dir).exists();
        let contents: Vec<PromptContent> = self.prompts.iter().map(StoredPrompt::content).collect();
        let options = PolicyOptions {
            adapter: meta.adapter.as_deref().map(Path::new),
            dtype: parse_dtype("base_dtype", meta.base_dtype.as_deref())?,
            max_completion_length: meta.max_completion_length,
            raw: meta.raw,
            date: self.date,
        };
        let sampling = Sampling {
            params: SampleParams::PLAIN,
            seed: meta.seed,
            batch: self.eval.rollout_batch.unwrap_or(self.shared.rollout_batch),
        };
        let policy = Policy::load(&gpu, &meta.model, &contents, &options)?;
        let mut draws = policy.draws(meta.samples, &sampling)?;
        let mut judges = vec![self.judge(&gpu, &meta.reward_model, true)?];
        if let Some(name) = &meta.also_reward {
            judges.push(self.judge(&gpu, name, false).context("[eval] also_reward")?);
        }
        let mut judges: Vec<&mut dyn Reward> = judges.iter_mut().map(|j| &mut **j as _).collect();
        let mut writer = Writer::open(dir, meta, self.prompts.clone(), (resume, false))?;
        writer.fill(&mut draws, &mut judges, &interrupt::requested)?;
        let samples = writer.eval().meta.samples;
        Results::of(writer.eval(), Alpha::default(), samples, &Bootstrap::default())?.write(dir)
    }

    fn judge(&self, gpu: &Gpu, name: &str, main: bool) -> Result<Box<dyn Reward>> {
        let c = self.shared;
        let options = RewardOptions {
            adapter: c.reward_adapter.as_deref().filter(|_| main),
            dtype: parse_dtype("reward_dtype", c.reward_dtype.as_deref())?,
            token_budget: JUDGE_BUDGET,
            positions: usize::MAX,
            raw: c.raw,
            date: self.date,
        };
        reward::open(gpu, name, &options)
    }
}

/// The prompts of the evaluations: the file's, or the demo's held-out ones.
fn prompts(e: &EvalSettings) -> Result<Vec<StoredPrompt>> {
    let Some(path) = &e.prompts else {
        let count = e.num_prompts.unwrap_or(EMBEDDED_PROMPTS);
        let examples = demo::held_out(EMBEDDED_SEED, count).into_iter();
        let stored = examples
            .enumerate()
            .map(|(i, e)| StoredPrompt::new(i, e.id.into(), &PromptContent::Text(e.prompt)));
        return Ok(stored.collect());
    };
    let records = prompts::read(path, None, Purpose::Other)?.records.into_iter();
    let stored = records
        .take(e.num_prompts.unwrap_or(usize::MAX))
        .enumerate()
        .map(|(i, r)| StoredPrompt::new(i, r.id, &r.prompt));
    Ok(stored.collect())
}

/// Whether a directory holds the whole of the evaluation that is wanted; where the sweep's directory lies does not count.
fn is_whole(dir: &Path, want: &EvalMeta, prompts: &[StoredPrompt]) -> bool {
    let Ok(found) = StoredEval::read(dir) else {
        return false;
    };
    let keys = |all: &[StoredPrompt]| all.iter().map(|p| p.key.clone()).collect::<Vec<_>>();
    if keys(&found.prompts) != keys(prompts) {
        return false;
    }
    let plain = |meta: &EvalMeta| {
        let mut meta = meta.clone();
        meta.adapter = meta.adapter.map(|_| String::new());
        if let Some(run) = &mut meta.run {
            // A whole model lies in the run too.
            meta.model = meta.model.rsplit(['/', '\\']).next().unwrap_or_default().into();
            run.dir = String::new();
        }
        (meta.prompts_file, meta.prompts_sha256) = (String::new(), String::new());
        meta
    };
    plain(&found.meta) == plain(want)
}

impl Worker for Device<'_> {
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

    fn evaluate(&mut self, target: &Target, dir: &Path) -> Result<()> {
        let meta = self.meta(target)?;
        if is_whole(dir, &meta, &self.prompts) && dir.join("results.json").is_file() {
            return Ok(());
        }
        let result = self.fill(meta, dir);
        self.done(result)
    }
}
