//! `eval`: samples held-out prompts, scores the samples, and reports best-of-n.

use std::path::{Path, PathBuf};

use super::Globals;
use super::common::{KvCacheFlag, Lines, PrecisionFlag, SampleFlags};
use crate::advantage::Alpha;
use crate::config::Residency;
use crate::error::{Context, Result};
use crate::eval::Bootstrap;
use crate::eval::checkpoint::Trained;
use crate::eval::record::Writer;
use crate::eval::request::{Asked, Given, Judging, Request};
use crate::eval::results::Results;
use crate::eval::store::StoredEval;
use crate::eval::weights::Hashes;
use crate::run::{Dir, interrupt, kinds};
use crate::tensor::DType;
use crate::train::memory;
use crate::train::prompts::{self, Purpose};

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
    /// Held-out prompts: rows of {"prompt": text} or {"messages": […]} as JSON Lines, JSON, CSV or Parquet, plain, gzip or zstd;
    /// DIR[:SPLIT]; or a data set of the hub, ID[@REVISION][:SPLIT]. Without it, the embedded policy's
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
    /// Tail share of the extrapolation beyond --samples, in (0, 1/2]; where it is fewer than 2 samples, nothing is
    /// extrapolated
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
    #[command(flatten)]
    precision: PrecisionFlag,
    #[command(flatten)]
    cache: KvCacheFlag,
    /// Element type of the policy: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long)]
    base_dtype: Option<DType>,
    /// Element type of the reward models
    #[arg(long)]
    reward_dtype: Option<DType>,
    /// Reward models on the device, or streamed block by block from the host: auto streams one that does not fit in what is left of
    /// the free memory, as far as that is known
    #[arg(long, value_enum, default_value = "auto")]
    reward_residency: Residency,
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let held = Dir::hold(&args.output, &kinds::EVAL)?;
    Writer::check(&held, args.resume, args.overwrite)?;
    let mut job = args.request()?.resolve(&mut Hashes::default())?;
    let alpha = args.alpha.parse::<Alpha>().context("--alpha")?;
    let how = (args.resume, args.overwrite);
    let begun = if args.resume {
        Some(job.writer(&args.output, how)?)
    } else {
        None
    };
    if let Some(writer) = begun.as_ref().filter(|w| w.done() == job.prompts.len()) {
        return finish(args, writer.eval(), alpha);
    }
    let gpu = globals.open_gpu_for_long()?;
    let judging = Judging {
        token_budget: args.sampling.token_budget,
        residency: args.sampling.reward_residency,
        free: memory::free(&gpu)?,
    };
    let mut loaded = job.load(&gpu, judging)?;
    // Nothing is written or replaced before the models are known to load.
    let mut writer = match begun {
        Some(writer) => writer,
        None => job.writer(&args.output, how)?,
    };
    job.fill(
        &mut writer,
        &mut loaded,
        args.sampling.rollout_batch,
        &interrupt::requested,
    )?;
    finish(args, writer.eval(), alpha)
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
    out.tell();
    Ok(())
}

impl Args {
    /// The flags, checked.
    fn request(&self) -> Result<Request> {
        let s = &self.sampling;
        let dtype = |asked: Option<DType>| asked.map(|d| d.to_string());
        Ok(Request {
            asked: Asked::Flags,
            params: s.draw.params()?,
            matmul_precision: s.precision.matmul_precision,
            kv_cache_dtype: s.cache.kv_cache_dtype,
            trained: self.trained()?,
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            reward_model: self.reward_model.clone(),
            reward_adapter: self.reward_adapter.clone(),
            also_reward: self.also_reward.clone(),
            also_reward_adapter: self.also_reward_adapter.clone(),
            also_true_score: true,
            prompts: self.prompts.as_deref().map(given).transpose()?,
            num_prompts: self.num_prompts,
            samples: self.samples,
            seed: s.seed,
            max_completion_length: s.max_completion_length,
            raw: s.raw,
            template_date: s.template_date.clone(),
            base_dtype: dtype(s.base_dtype),
            reward_dtype: dtype(s.reward_dtype),
        })
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
}

/// Prompts by name.
fn given(name: &Path) -> Result<Given> {
    let read = prompts::read(name, None, Purpose::Other).context("--prompts")?;
    Ok(Given {
        records: read.records,
        source: read.source.unwrap_or_default(),
    })
}
