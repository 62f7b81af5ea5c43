//! What is to be evaluated, from flags or a sweep's file to prompts, settings, models and judges.

use std::path::{Path, PathBuf};

use super::checkpoint::Trained;
use super::meta::EvalMeta;
use super::record::Writer;
use super::run::{Policy, PolicyOptions, Sampling};
use super::store::{StoredPrompt, VERSION};
use super::weights::Hashes;
use crate::config::{FloatDtype, MatmulPrecision, Residency, TEMPLATE_DATE, TINY, TrainConfig, range};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::alias::alias;
use crate::model::load::Source;
use crate::reward::{self, Reward, RewardOptions, TRUE_SCORE};
use crate::tensor::DType;
use crate::text::{PromptContent, PromptRecord, TemplateDate};

/// Held-out prompts of the embedded policy, unless a number is asked for.
const EMBEDDED_PROMPTS: usize = 60;
/// Seed of the embedded held-out prompts: the demo's, whatever the samples' seed, so that evaluations can be compared.
const EMBEDDED_SEED: u64 = 1;
/// What `eval.json` calls them.
const EMBEDDED: &str = "embedded held-out prompts";
/// Most tokens in a response of other policies than the embedded one, unless a run says otherwise.
const LONGEST: usize = 512;
/// Positions a reward model is set up for; a longer conversation is refused with a message.
const REWARD_POSITIONS: usize = 16_384;

/// Where settings were written, for messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asked {
    /// On the command line: `--also-reward`.
    #[default]
    Flags,
    /// In a file: `also_reward`.
    File,
}

impl Asked {
    fn name(self, flag: &str) -> String {
        match self {
            Self::Flags => flag.to_string(),
            Self::File => flag.trim_start_matches('-').replace('-', "_"),
        }
    }
}

/// What is asked for. What is left open is taken from the training run, where there is one, then from defaults.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where these were written.
    pub asked: Asked,
    /// The policy, or the base under `adapter`; open: the embedded one.
    pub model: Option<String>,
    /// LoRA adapter directory.
    pub adapter: Option<PathBuf>,
    /// The training checkpoint that `adapter` or `model` is, or that is evaluated in place of both.
    pub trained: Option<Trained>,
    /// The judge; open: the run's, or the policy's default one.
    pub reward_model: Option<String>,
    /// LoRA adapter directory of the judge.
    pub reward_adapter: Option<PathBuf>,
    /// The second judge.
    pub also_reward: Option<String>,
    /// Its LoRA adapter directory.
    pub also_reward_adapter: Option<PathBuf>,
    /// Whether the true score is the second judge of embedded prompts where none is named.
    pub also_true_score: bool,
    /// Held-out prompts; open: the embedded ones, for the embedded policy.
    pub prompts: Option<Given>,
    /// How many of them: the first ones.
    pub num_prompts: Option<usize>,
    /// Responses to each prompt.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// How tokens are drawn.
    pub params: SampleParams,
    /// What matrix products may round.
    pub matmul_precision: MatmulPrecision,
    /// How sampling stores keys and values.
    pub kv_cache_dtype: FloatDtype,
    /// Most tokens in a response.
    pub max_completion_length: Option<usize>,
    /// Do not use chat templates.
    pub raw: bool,
    /// The date that chat templates see.
    pub template_date: Option<String>,
    /// Element type of the policy.
    pub base_dtype: Option<String>,
    /// Element type of the judges.
    pub reward_dtype: Option<String>,
}

/// Prompts that were read.
#[derive(Debug, Clone)]
pub struct Given {
    /// In order.
    pub records: Vec<PromptRecord>,
    /// What `eval.json` calls their file or data set.
    pub source: String,
}

/// Everything an evaluation needs to know before anything is loaded.
#[derive(Debug, Clone)]
pub struct Job {
    /// The settings.
    pub meta: EvalMeta,
    /// The prompts.
    pub prompts: Vec<StoredPrompt>,
    date: TemplateDate,
    asked: Asked,
}

/// How judges are loaded; none of it changes what they say.
#[derive(Debug, Clone, Copy)]
pub struct Judging {
    /// Most tokens in one pass.
    pub token_budget: usize,
    /// Where their weights are kept.
    pub residency: Residency,
    /// Bytes that the device had free before anything was put on it, where that is known.
    pub free: Option<u64>,
}

/// A policy with its judges on the device.
pub struct Loaded {
    policy: Policy,
    judges: Vec<Box<dyn Reward>>,
}

impl Request {
    /// Settles what is open and hashes local weights.
    ///
    /// # Errors
    /// No judge or prompts, fewer prompts than asked for, a bad date, or weights that cannot be read.
    pub fn resolve(self, hashes: &mut Hashes) -> Result<Job> {
        let run = self.trained.as_ref().map(|t| &t.config);
        let (model, adapter) = self.policy();
        let base = run.map_or_else(|| model.clone(), |c| c.model.clone());
        let (reward_model, reward_adapter) = self.judge(run, &base)?;
        let (prompts, prompts_file) = self.prompts(&base)?;
        let all = [
            ("prompts", prompts.len() as u64),
            (&self.asked.name("--samples"), self.samples as u64),
        ];
        range::check_product(&all, range::EVALUATED, "responses")?;
        let scored = self.also_true_score && self.prompts.is_none() && reward_model != TRUE_SCORE;
        let also_reward = self.also_reward.as_deref().map(canonical);
        let also_reward = also_reward.or_else(|| scored.then(|| TRUE_SCORE.to_string()));
        let template_date = self.template_date.clone();
        let template_date = template_date
            .or_else(|| run.map(|c| c.template_date.clone()))
            .unwrap_or_else(|| TEMPLATE_DATE.to_string());
        let date = template_date.parse::<TemplateDate>();
        let date = date.context(self.asked.name("--template-date"))?;
        let longest = if base == TINY { demo::COMPLETION } else { LONGEST };
        let text = |path: PathBuf| path.display().to_string();
        let reward_dtype = self.reward_dtype.clone();
        let reward_dtype = reward_dtype.or_else(|| run.and_then(|c| c.reward_dtype.clone()));
        let mut meta = EvalMeta {
            version: VERSION,
            model,
            adapter: adapter.map(text),
            reward_model,
            reward_adapter: reward_adapter.map(text),
            also_reward_dtype: reward_dtype.clone().filter(|_| is_model(also_reward.as_deref())),
            also_reward,
            also_reward_adapter: self.also_reward_adapter.clone().map(text),
            prompts_file,
            prompts_sha256: String::new(),
            num_prompts: prompts.len(),
            samples: self.samples,
            seed: self.seed,
            temperature: self.params.temperature,
            top_p: self.params.top_p,
            top_k: self.params.top_k,
            min_p: self.params.min_p,
            max_completion_length: self
                .max_completion_length
                .unwrap_or_else(|| run.map_or(longest, |c| c.max_completion_length)),
            raw: self.raw || run.is_some_and(|c| c.raw),
            template_date: Some(template_date),
            base_dtype: self
                .base_dtype
                .clone()
                .or_else(|| run.and_then(|c| c.base_dtype.clone())),
            matmul_precision: self.matmul_precision,
            kv_cache_dtype: self.kv_cache_dtype,
            reward_dtype,
            step: self.trained.as_ref().map(|t| t.step),
            run: self.trained.as_ref().map(Trained::meta),
            weights_sha256: Default::default(),
        };
        meta.reward_dtype = meta.reward_dtype.filter(|_| is_model(Some(&meta.reward_model)));
        meta.weights_sha256 = hashes.of(&meta)?;
        Ok(Job {
            meta,
            prompts,
            date,
            asked: self.asked,
        })
    }

    /// The policy's name and adapter: a LoRA checkpoint is an adapter on the policy it was trained from.
    fn policy(&self) -> (String, Option<PathBuf>) {
        let own = || self.model.clone().unwrap_or_else(|| TINY.to_string());
        match &self.trained {
            None => (own(), self.adapter.clone()),
            Some(t) if t.is_adapter() => {
                // The model is the base, unless it is the checkpoint itself.
                let base = self.model.clone().filter(|_| self.adapter.is_some());
                (
                    base.unwrap_or_else(|| t.config.model.clone()),
                    Some(t.dir.clone()),
                )
            }
            Some(t) => (t.dir.display().to_string(), self.adapter.clone()),
        }
    }

    /// The judge and its adapter: asked for, the run's, or the policy's default.
    fn judge(&self, run: Option<&TrainConfig>, base: &str) -> Result<(String, Option<PathBuf>)> {
        let asked = self.reward_model.clone();
        let asked = asked.or_else(|| run.map(|c| c.reward_model.clone()));
        let name = match asked {
            Some(name) => name,
            None => alias(base)?.and_then(|a| a.reward).ok_or_else(|| {
                Error::user(format!(
                    "no reward model: {base} has no default one in models/aliases.toml; give {}",
                    self.asked.name("--reward-model")
                ))
            })?,
        };
        // The run's adapter belongs to the run's reward model.
        let of_run = || run.filter(|c| c.reward_model == name)?.reward_adapter.clone();
        let adapter = self.reward_adapter.clone().or_else(of_run);
        Ok((canonical(&name), adapter))
    }

    /// The prompts, and what `eval.json` calls their file.
    fn prompts(&self, base: &str) -> Result<(Vec<StoredPrompt>, String)> {
        let Some(given) = &self.prompts else {
            if base != TINY {
                return Err(Error::user(format!(
                    "no prompts: give {} FILE (JSONL of {{\"prompt\": text}} or {{\"messages\": […]}})",
                    self.asked.name("--prompts")
                )));
            }
            let examples = demo::held_out(EMBEDDED_SEED, self.num_prompts.unwrap_or(EMBEDDED_PROMPTS));
            let prompt =
                |(i, e): (usize, demo::Example)| StoredPrompt::new(i, e.id, &PromptContent::Text(e.prompt));
            let prompts = examples.into_iter().enumerate().map(prompt).collect();
            return Ok((prompts, EMBEDDED.to_string()));
        };
        let most = self.num_prompts.unwrap_or(given.records.len());
        if most > given.records.len() {
            return Err(Error::user(format!(
                "{} {most}: {} holds {} prompts",
                self.asked.name("--num-prompts"),
                given.source,
                given.records.len()
            )));
        }
        let prompt = |(i, r): (usize, &PromptRecord)| StoredPrompt::new(i, r.id.clone(), &r.prompt);
        let prompts = given.records.iter().take(most).enumerate().map(prompt).collect();
        Ok((prompts, given.source.clone()))
    }
}

impl Job {
    /// Opens the evaluation in `dir`: a new one, or the one begun there, whose element types then hold.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn writer(&mut self, dir: &Path, (resume, overwrite): (bool, bool)) -> Result<Writer> {
        let writer = Writer::open(dir, self.meta.clone(), self.prompts.clone(), (resume, overwrite))?;
        let begun = writer.eval().meta.clone();
        let asked = std::mem::replace(&mut self.meta, begun);
        // The same weights may lie elsewhere now, or be named from another working directory.
        let m = &mut self.meta;
        (m.model, m.adapter) = (asked.model, asked.adapter);
        (m.reward_model, m.reward_adapter) = (asked.reward_model, asked.reward_adapter);
        (m.also_reward, m.also_reward_adapter) = (asked.also_reward, asked.also_reward_adapter);
        m.prompts_file = asked.prompts_file;
        Ok(writer)
    }

    /// Loads the policy and its judges, and settles the element types that are open: the settings then hold what was
    /// loaded.
    ///
    /// # Errors
    /// A model or adapter that cannot be loaded, or a prompt that does not fit in the context.
    pub fn load(&mut self, gpu: &Gpu, judging: Judging) -> Result<Loaded> {
        let flag = |name: &str| self.asked.name(name);
        let contents: Vec<PromptContent> = self.prompts.iter().map(StoredPrompt::content).collect();
        let m = &mut self.meta;
        gpu.set_matmul_precision(m.matmul_precision)?;
        let asked = parse(&flag("--base-dtype"), m.base_dtype.as_deref())?;
        m.base_dtype = name(Source::open_causal(&m.model)?.dtype(asked)?);
        let options = PolicyOptions {
            adapter: m.adapter.as_deref().map(Path::new),
            dtype: parse(&flag("--base-dtype"), m.base_dtype.as_deref())?,
            max_completion_length: m.max_completion_length,
            raw: m.raw,
            date: self.date,
            prompts_file: Some(&m.prompts_file),
        };
        let policy = Policy::load(gpu, &m.model, &contents, &options)?;
        let (raw, date) = (m.raw, self.date);
        let judge = |what: &str, of: &str, adapter: Option<&String>, dtype: &mut Option<String>| {
            let asked = parse(&flag("--reward-dtype"), dtype.as_deref())?;
            let options = RewardOptions {
                adapter: adapter.map(Path::new),
                dtype: asked,
                token_budget: judging.token_budget,
                residency: judging.residency,
                free: judging.free,
                positions: REWARD_POSITIONS,
                raw,
                date,
            };
            let loaded = reward::open(gpu, of, &options).context(flag(what))?;
            if is_model(Some(of)) {
                *dtype = name(Source::open_with_score(of)?.dtype(asked)?);
            }
            Ok::<_, Error>(loaded)
        };
        let mut judges = vec![judge(
            "--reward-model",
            &m.reward_model,
            m.reward_adapter.as_ref(),
            &mut m.reward_dtype,
        )?];
        if let Some(also) = &m.also_reward {
            let adapter = m.also_reward_adapter.as_ref();
            judges.push(judge("--also-reward", also, adapter, &mut m.also_reward_dtype)?);
        }
        Ok(Loaded { policy, judges })
    }

    /// Samples and judges every prompt that is not done, `batch` sequences at a time; `stop` is asked between batches.
    ///
    /// # Errors
    /// As [`Writer::fill`].
    pub fn fill(
        &self,
        writer: &mut Writer,
        loaded: &mut Loaded,
        batch: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        let m = &self.meta;
        let sampling = Sampling {
            params: SampleParams {
                temperature: m.temperature,
                top_k: m.top_k,
                top_p: m.top_p,
                min_p: m.min_p,
            },
            seed: m.seed,
            batch,
            kv_cache_dtype: m.kv_cache_dtype,
        };
        let mut draws = loaded.policy.draws(m.samples, &sampling)?;
        let judges = loaded.judges.iter_mut();
        let mut judges: Vec<&mut dyn Reward> = judges.map(|j| &mut **j as &mut dyn Reward).collect();
        writer.fill(&mut draws, &mut judges, stop)
    }
}

/// Whether a judge is a model, with weights of some type.
fn is_model(reward: Option<&str>) -> bool {
    reward.is_some_and(|name| !reward::is_true_score(name))
}

fn parse(flag: &str, name: Option<&str>) -> Result<Option<DType>> {
    name.map(|n| n.parse::<DType>().context(flag)).transpose()
}

fn name(dtype: Option<DType>) -> Option<String> {
    dtype.map(|d| d.name().to_string())
}

/// One name for a judge that has two.
fn canonical(reward: &str) -> String {
    if reward::is_true_score(reward) {
        TRUE_SCORE.to_string()
    } else {
        reward.to_string()
    }
}
