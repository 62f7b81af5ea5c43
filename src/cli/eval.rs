//! `eval`: samples held-out prompts, scores the samples, and reports best-of-n.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Globals;
use super::common::{Lines, SampleFlags};
use super::demo_data::COMPLETION;
use crate::advantage::Alpha;
use crate::config::{TEMPLATE_DATE, TINY, TrainConfig};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::eval::Bootstrap;
use crate::eval::checkpoint::Trained;
use crate::eval::record::Writer;
use crate::eval::results::Results;
use crate::eval::run::{Policy, PolicyOptions, Sampling};
use crate::eval::store::{EvalMeta, StoredEval, StoredPrompt, VERSION};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::reward::{self, Reward, RewardOptions, TRUE_SCORE};
use crate::tensor::DType;
use crate::text::{PromptContent, PromptRecord, TemplateDate};
use crate::train::interrupt;
use crate::train::prompts::{self, Purpose};
use crate::train::setup::default_reward;

/// Sample a policy on held-out prompts, score every sample, and report best-of-n
///
/// OUTPUT gets eval.json, prompts.jsonl and completions.jsonl (every sample with its reward, appended prompt by prompt: an
/// interrupted evaluation goes on with --resume to the same bytes), then results.json, .md, .csv and plots. Best-of-n for n = 1,
/// 2, 4 … SAMPLES is the mean over consecutive groups of n of each group's maximum, beside the mean over all subsets of n;
/// beyond SAMPLES it is extrapolated by a Gaussian tail and marked so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu eval --output runs/eval-base
      the embedded policy on its held-out prompts, under its reward model and the true score
  tea-wgpu eval --run runs/tiny --output runs/eval-tea
      the best (else last) checkpoint of a training run, under the reward model it was trained with
  tea-wgpu eval --model llama-1b --adapter runs/llama/checkpoints/step_450 --reward-model skywork-llama-8b \\
      --prompts held-out.jsonl --samples 256 --output runs/eval-llama
  tea-wgpu compare runs/eval-base runs/eval-tea")]
pub(crate) struct Args {
    /// Directory of the evaluation
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Policy: an alias, a directory, a GGUF file, or a hub id; without it, the embedded policy
    #[arg(long)]
    model: Option<String>,
    /// LoRA adapter directory (PEFT), such as RUN/checkpoints/step_N
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Directory of a `train` run: its policy, adapter, reward model and settings
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "adapter"])]
    run: Option<PathBuf>,
    /// Checkpoint of --run: best, last, or step_N (default: best where the run selected one, else last)
    #[arg(long, value_name = "NAME", requires = "run")]
    checkpoint: Option<String>,
    /// Reward model, or true-score for the demo's tasks (default: --run's, or what models/aliases.toml names for the policy)
    #[arg(long)]
    reward_model: Option<String>,
    /// LoRA adapter directory of the reward model
    #[arg(long, value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// A second reward, which training never saw: shows reward hacking (true-score with the embedded prompts by default)
    #[arg(long, value_name = "MODEL")]
    also_reward: Option<String>,
    /// LoRA adapter directory of --also-reward
    #[arg(long, value_name = "DIR", requires = "also_reward")]
    also_reward_adapter: Option<PathBuf>,
    /// Held-out prompts: JSONL of {"prompt": text} or {"messages": […]}, a Parquet file, DIR[:SPLIT], or a data set of the hub,
    /// ID[@REVISION][:SPLIT]; without it, the embedded policy's
    #[arg(long, value_name = "FILE|ID")]
    prompts: Option<PathBuf>,
    /// Only the first N prompts (default: all of --prompts; 60 of the embedded ones)
    #[arg(long, value_name = "N")]
    num_prompts: Option<usize>,
    /// Responses sampled for each prompt: the largest measured n
    #[arg(long, value_name = "N", default_value_t = 256)]
    samples: usize,
    /// Continue the evaluation in --output
    #[arg(long)]
    resume: bool,
    /// Replace the evaluation in --output
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tail share of the extrapolation beyond --samples, in (0, 1/2]
    #[arg(long, default_value = "0.2")]
    alpha: String,
    /// Largest n to extrapolate to (default: 8 × SAMPLES)
    #[arg(long, value_name = "N")]
    extrapolate_to: Option<usize>,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
}

/// How responses are drawn and read.
#[derive(Debug, clap::Args)]
struct SamplingArgs {
    /// Seed of the samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    draw: SampleFlags,
    /// Most tokens in a response (default: --run's; 24 for the embedded policy, else 512)
    #[arg(long, value_name = "TOKENS")]
    max_completion_length: Option<usize>,
    /// Sequences decoded together
    #[arg(long, value_name = "N", default_value_t = 256)]
    rollout_batch: usize,
    /// Most tokens in one pass of a reward model
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    token_budget: usize,
    /// Do not wrap texts in chat templates
    #[arg(long)]
    raw: bool,
    /// Date that chat templates see (YYYY-MM-DD)
    #[arg(long, value_name = "DATE")]
    template_date: Option<String>,
    /// Element type of the policy: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long, visible_alias = "dtype")]
    base_dtype: Option<DType>,
    /// Element type of the reward models
    #[arg(long)]
    reward_dtype: Option<DType>,
}

/// Held-out prompts of the embedded policy, unless a number is asked for.
const EMBEDDED_PROMPTS: usize = 60;
/// Seed of the embedded held-out prompts: the demo's, whatever the samples' seed, so that evaluations can be compared.
const EMBEDDED_SEED: u64 = 1;
/// What `eval.json` calls them.
const EMBEDDED: &str = "embedded held-out prompts";
/// Positions a reward model is set up for; a longer conversation is refused with a message.
const REWARD_POSITIONS: usize = 16_384;

/// Everything an evaluation needs to know before anything is loaded.
struct Job {
    meta: EvalMeta,
    prompts: Vec<StoredPrompt>,
    date: TemplateDate,
    alpha: Alpha,
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    Writer::check(&args.output, args.resume, args.overwrite)?;
    let job = args.job()?;
    let open = || {
        let how = (args.resume, args.overwrite);
        Writer::open(&args.output, job.meta.clone(), job.prompts.clone(), how)
    };
    let begun = if args.resume { Some(open()?) } else { None };
    if let Some(writer) = begun.as_ref().filter(|w| w.done() == job.prompts.len()) {
        return finish(args, writer.eval(), job.alpha);
    }
    interrupt::install_for("finishing the prompts in progress, which are then stored")?;
    let gpu = globals.open_gpu()?;
    let (policy, mut judges) = args.load(&gpu, &job)?;
    // Nothing is written or replaced before the models are known to load.
    let mut writer = begun.map_or_else(open, Ok)?;
    args.fill(&mut writer, &policy, &mut judges)?;
    finish(args, writer.eval(), job.alpha)
}

/// Results from what is stored.
fn finish(args: &Args, eval: &StoredEval, alpha: Alpha) -> Result<()> {
    let most = args
        .extrapolate_to
        .unwrap_or_else(|| args.samples.saturating_mul(8));
    let results = Results::of(eval, alpha, most, &Bootstrap::default())?;
    results.write(&args.output)?;
    let mut out = Lines::new();
    if args.json {
        out.text(results.json()?.trim_end());
    } else {
        out.text(&results.markdown());
        out.text(&format!("Written to {}", args.output.display()));
    }
    out.finish(None)
}

impl Args {
    /// Flags over the run's settings over defaults.
    fn job(&self) -> Result<Job> {
        let params = self.params()?;
        let trained = self.trained()?;
        let run = trained.as_ref().map(|t| &t.config);
        let (model, adapter) = self.policy(trained.as_ref());
        let base = run.map_or_else(|| model.clone(), |c| c.model.clone());
        let (reward_model, reward_adapter) = self.judge(run, &base)?;
        let (prompts, prompts_file) = self.prompts(&base)?;
        // The embedded prompts have a true score: without being asked, it is the second judge.
        let scored = self.prompts.is_none() && reward_model != TRUE_SCORE;
        let also_reward = self.also_reward.as_deref().map(canonical);
        let s = &self.sampling;
        let template_date = s
            .template_date
            .clone()
            .or_else(|| run.map(|c| c.template_date.clone()))
            .unwrap_or_else(|| TEMPLATE_DATE.to_string());
        let date = template_date.parse::<TemplateDate>().context("--template-date")?;
        let longest = if base == TINY { COMPLETION } else { 512 };
        let text = |path: PathBuf| path.display().to_string();
        let meta = EvalMeta {
            version: VERSION,
            model,
            adapter: adapter.map(text),
            reward_model,
            reward_adapter: reward_adapter.map(text),
            also_reward: also_reward.or_else(|| scored.then(|| TRUE_SCORE.to_string())),
            also_reward_adapter: self.also_reward_adapter.clone().map(text),
            prompts_file,
            prompts_sha256: String::new(),
            num_prompts: prompts.len(),
            samples: self.samples,
            seed: s.seed,
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            max_completion_length: s
                .max_completion_length
                .unwrap_or_else(|| run.map_or(longest, |c| c.max_completion_length)),
            raw: s.raw || run.is_some_and(|c| c.raw),
            template_date: Some(template_date),
            base_dtype: dtype_name(s.base_dtype, run.and_then(|c| c.base_dtype.as_ref())),
            reward_dtype: dtype_name(s.reward_dtype, run.and_then(|c| c.reward_dtype.as_ref())),
            step: trained.as_ref().map(|t| t.step),
            run: trained.as_ref().map(Trained::meta),
        };
        let alpha = self.alpha.parse::<Alpha>().context("--alpha")?;
        Ok(Job {
            meta,
            prompts,
            date,
            alpha,
        })
    }

    /// The judge and its adapter: asked for, the run's, or the policy's default.
    fn judge(&self, run: Option<&TrainConfig>, base: &str) -> Result<(String, Option<PathBuf>)> {
        let name = self
            .reward_model
            .clone()
            .or_else(|| run.map(|c| c.reward_model.clone()))
            .or_else(|| default_reward(base))
            .ok_or_else(|| {
                Error::user(format!(
                    "no reward model: {base} has no default one in models/aliases.toml; give --reward-model"
                ))
            })?;
        // The run's adapter belongs to the run's reward model.
        let of_run = || run.filter(|c| c.reward_model == name)?.reward_adapter.clone();
        let adapter = self.reward_adapter.clone().or_else(of_run);
        Ok((canonical(&name), adapter))
    }

    fn params(&self) -> Result<SampleParams> {
        let s = &self.sampling;
        let counts = [
            ("--samples", self.samples),
            ("--num-prompts", self.num_prompts.unwrap_or(1)),
            ("--max-completion-length", s.max_completion_length.unwrap_or(1)),
            ("--rollout-batch", s.rollout_batch),
            ("--token-budget", s.token_budget),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return Err(Error::user(format!("{flag} must be at least 1")));
        }
        s.draw.params()
    }

    /// The training checkpoint that is meant, by --run, or where --adapter or --model is one.
    fn trained(&self) -> Result<Option<Trained>> {
        if let Some(run) = &self.run {
            return Trained::of_run(run, self.checkpoint.as_deref()).map(Some);
        }
        match (&self.adapter, &self.model) {
            (Some(dir), _) => Trained::open(dir),
            (None, Some(model)) => Trained::open(Path::new(model)),
            (None, None) => Ok(None),
        }
    }

    /// The policy's name and adapter: a LoRA checkpoint is an adapter on the policy it was trained from.
    fn policy(&self, trained: Option<&Trained>) -> (String, Option<PathBuf>) {
        let own = || self.model.clone().unwrap_or_else(|| TINY.to_string());
        match trained {
            None => (own(), self.adapter.clone()),
            Some(t) if t.is_adapter() => {
                // --model names the base, unless it is the checkpoint itself.
                let base = self.model.clone().filter(|_| self.adapter.is_some());
                (
                    base.unwrap_or_else(|| t.config.model.clone()),
                    Some(t.dir.clone()),
                )
            }
            Some(t) => (t.dir.display().to_string(), self.adapter.clone()),
        }
    }

    /// The prompts, and what `eval.json` calls their file.
    fn prompts(&self, base: &str) -> Result<(Vec<StoredPrompt>, String)> {
        let Some(path) = &self.prompts else {
            if base != TINY {
                return Err(Error::user(
                    "no prompts: give --prompts FILE (JSONL of {\"prompt\": text} or {\"messages\": […]})",
                ));
            }
            let examples = demo::held_out(EMBEDDED_SEED, self.num_prompts.unwrap_or(EMBEDDED_PROMPTS));
            let prompt = |(i, e): (usize, demo::Example)| {
                StoredPrompt::new(i, e.id.into(), &PromptContent::Text(e.prompt))
            };
            let prompts = examples.into_iter().enumerate().map(prompt).collect();
            return Ok((prompts, EMBEDDED.to_string()));
        };
        let read = prompts::read(path, None, Purpose::Other)?;
        let mut records = read.records;
        if let Some(n) = self.num_prompts {
            if n > records.len() {
                return Err(Error::user(format!(
                    "--num-prompts {n}: {} holds {} prompts",
                    path.display(),
                    records.len()
                )));
            }
            records.truncate(n);
        }
        let prompt = |(i, r): (usize, PromptRecord)| {
            let id: Value = r.id;
            StoredPrompt::new(i, id, &r.prompt)
        };
        let prompts = records.into_iter().enumerate().map(prompt).collect();
        Ok((prompts, read.source.unwrap_or_default()))
    }

    fn load(&self, gpu: &Gpu, job: &Job) -> Result<(Policy, Vec<Box<dyn Reward>>)> {
        let (s, m) = (&self.sampling, &job.meta);
        let contents: Vec<PromptContent> = job.prompts.iter().map(StoredPrompt::content).collect();
        let dtype = |flag: &str, name: Option<&String>| -> Result<Option<DType>> {
            name.map(|n| n.parse::<DType>().context(flag)).transpose()
        };
        let options = PolicyOptions {
            adapter: m.adapter.as_deref().map(Path::new),
            dtype: dtype("--base-dtype", m.base_dtype.as_ref())?,
            max_completion_length: m.max_completion_length,
            raw: m.raw,
            date: job.date,
        };
        let policy = Policy::load(gpu, &m.model, &contents, &options).context(&m.prompts_file)?;
        let judge = |flag: &str, name: &str, adapter: Option<&String>| {
            let options = RewardOptions {
                adapter: adapter.map(Path::new),
                dtype: dtype("--reward-dtype", m.reward_dtype.as_ref())?,
                token_budget: s.token_budget,
                positions: REWARD_POSITIONS,
                raw: m.raw,
                date: job.date,
            };
            reward::open(gpu, name, &options).context(flag)
        };
        let mut judges = vec![judge(
            "--reward-model",
            &m.reward_model,
            m.reward_adapter.as_ref(),
        )?];
        if let Some(name) = &m.also_reward {
            judges.push(judge("--also-reward", name, m.also_reward_adapter.as_ref())?);
        }
        Ok((policy, judges))
    }

    fn fill(&self, writer: &mut Writer, policy: &Policy, judges: &mut [Box<dyn Reward>]) -> Result<()> {
        let s = &self.sampling;
        let sampling = Sampling {
            params: self.params()?,
            seed: s.seed,
            batch: s.rollout_batch,
        };
        let mut draws = policy.draws(self.samples, &sampling)?;
        let mut rewards: Vec<&mut dyn Reward> =
            judges.iter_mut().map(|j| &mut **j as &mut dyn Reward).collect();
        writer.fill(&mut draws, &mut rewards, &interrupt::requested)
    }
}

/// An element type as `eval.json` has it: asked for, or the run's.
fn dtype_name(asked: Option<DType>, of_run: Option<&String>) -> Option<String> {
    asked.map(|d| d.to_string()).or_else(|| of_run.cloned())
}

/// One name for a judge that has two.
fn canonical(reward: &str) -> String {
    if reward::is_true_score(reward) {
        TRUE_SCORE.to_string()
    } else {
        reward.to_string()
    }
}
