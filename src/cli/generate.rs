//! `generate`: samples from a policy, plain or best-of-N under a reward model.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::Globals;
use super::common::{KvCacheFlag, Lines, PrecisionFlag, SampleFlags, TOKEN_BUDGET};
use crate::config::{Residency, TEMPLATE_DATE, range};
use crate::data::Id;
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
use crate::reward::{self, Item, RewardOptions};
use crate::rollout::{Completion, Finish, Job, SampleConfig, Sampler, SamplerShape};
use crate::tensor::DType;
use crate::text::{Formatter, PromptContent, PromptRecord, TemplateDate, Tokenizer};
use crate::train::prompts::{self, Purpose};

/// Sample completions, or the best of N under a reward model
///
/// A prompt is one user turn in the model's chat template unless --raw is given or the model has none.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["prompt", "prompts"]),
    after_help = "Examples:
  tea-wgpu generate --model smollm2-135m --prompt 'Why is the sky blue?' -n 4
  tea-wgpu generate --model llama-1b --adapter runs/llama/checkpoints/step_450 --prompts examples/prompts.jsonl \\
      --best-of 64 --reward-model skywork-llama-8b --json"
)]
pub(crate) struct Args {
    /// Language model: an alias, a directory, a GGUF file, or a hub id
    #[arg(long)]
    model: String,
    /// LoRA adapter directory (PEFT)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// One prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Rows of {"prompt": text} or {"messages": […]} as JSON Lines, JSON, CSV or Parquet, plain, gzip or zstd; DIR[:SPLIT]; or a
    /// data set of the hub, ID[@REVISION][:SPLIT]
    #[arg(long, value_name = "FILE|ID")]
    prompts: Option<PathBuf>,
    /// Completions of each prompt
    #[arg(short, value_name = "N", default_value_t = 1, conflicts_with = "best_of")]
    n: usize,
    /// Sample N completions of each prompt and print the one with the highest reward (--json: all, best first)
    #[arg(long, value_name = "N", requires = "reward_model")]
    best_of: Option<usize>,
    /// Reward model for --best-of, or for rewards beside the -n completions; true-score for the
    /// demo's prompts
    #[arg(long)]
    reward_model: Option<String>,
    /// LoRA adapter directory of the reward model
    #[arg(long, value_name = "DIR", requires = "reward_model")]
    reward_adapter: Option<PathBuf>,
    #[command(flatten)]
    draw: SampleFlags,
    /// Most tokens in a completion (default: 512, or what the context leaves)
    #[arg(long, value_name = "TOKENS")]
    max_completion_length: Option<usize>,
    /// Seed of the samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sequences decoded together
    #[arg(long, value_name = "N", default_value_t = 64)]
    rollout_batch: usize,
    #[command(flatten)]
    cache: KvCacheFlag,
    /// Do not wrap texts in the chat template
    #[arg(long)]
    raw: bool,
    /// Date that the chat template sees (YYYY-MM-DD)
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    template_date: TemplateDate,
    /// Element type of the model: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long)]
    base_dtype: Option<DType>,
    /// Element type of the reward model
    #[arg(long, requires = "reward_model")]
    reward_dtype: Option<DType>,
    #[command(flatten)]
    precision: PrecisionFlag,
    /// One JSON object a prompt: {"id", "prompt", "completions": [{"text", "tokens", "logprob", "reward", "finish_reason"}]}
    #[arg(long)]
    json: bool,
}

impl Args {
    fn samples(&self) -> usize {
        self.best_of.unwrap_or(self.n)
    }

    fn sample_params(&self) -> Result<SampleParams> {
        self.draw.params()
    }

    /// Refuses more completions than memory should hold: all are printed at the end.
    fn check_total(&self, records: &[PromptRecord]) -> Result<()> {
        let flag = if self.best_of.is_some() { "--best-of" } else { "-n" };
        let all = [("prompts", records.len() as u64), (flag, self.samples() as u64)];
        range::check_product(&all, range::RESPONSES, "completions")
    }

    fn records(&self) -> Result<Vec<PromptRecord>> {
        match (&self.prompt, &self.prompts) {
            (_, Some(name)) => Ok(prompts::read(name, None, Purpose::Other)?.records),
            (prompt, None) => {
                let prompt = PromptContent::Text(prompt.clone().unwrap_or_default());
                Ok(vec![PromptRecord {
                    id: Id::default(),
                    prompt,
                    fields: serde_json::Map::new(),
                }])
            }
        }
    }
}

/// One completion, as `--json` prints it.
#[derive(Serialize)]
struct Sample {
    text: String,
    tokens: Vec<u32>,
    logprob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<f64>,
    finish_reason: Finish,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Id::is_null")]
    id: &'a Id,
    prompt: Value,
    completions: &'a [Sample],
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let params = args.sample_params()?;
    let records = args.records()?;
    args.check_total(&records)?;
    let mut source = Source::open_causal(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let jobs = jobs(args, &records, &tokenizer, &source)?;
    let longest = jobs.iter().map(|j| j.tokens.len()).max().unwrap_or(0);
    let length = completion_length(args, &source, longest);
    let dtype = source.dtype(args.base_dtype)?;

    let gpu = args.precision.open_gpu(globals)?;
    let mut model = source.load(
        &gpu,
        dtype,
        source.positions((longest + length).min(source.spec.max_position_embeddings))?,
        None,
    )?;
    let adapter = args
        .adapter
        .as_deref()
        .map(|dir| load_adapter(&mut model, dir, false))
        .transpose()?;
    let shape = sampler_shape(args, &gpu, &model, &jobs, length, adapter.map_or(0, |a| a.rank()));
    let mut sampler = Sampler::new(&model, shape)?;
    let config = SampleConfig {
        params,
        max_completion_length: length,
        stop: source.spec.eos_token_ids.clone(),
        seed: args.seed,
        step: 0,
    };
    let completions = sampler.generate(&model, &jobs, &config)?;
    // The policy makes room for the reward model.
    drop((sampler, model));
    let mut samples = completions
        .into_iter()
        .map(|group| {
            group
                .into_iter()
                .map(|c| sample(&tokenizer, &config.stop, c))
                .collect()
        })
        .collect::<Result<Vec<Vec<Sample>>>>()?;
    if let Some(name) = &args.reward_model {
        reward(args, &gpu, name, &records, &mut samples)?;
    }
    print(args, &records, &samples)
}

/// The prompts' tokens; one that leaves no room in the context for a completion is refused.
fn jobs(args: &Args, records: &[PromptRecord], tokenizer: &Tokenizer, source: &Source) -> Result<Vec<Job>> {
    let context = source.spec.max_position_embeddings;
    // The last token is never fed back, so it needs no position.
    let least = args.max_completion_length.unwrap_or(1);
    let most = (context + 1).saturating_sub(least);
    let formatter = Formatter {
        tokenizer,
        raw: args.raw,
        date: args.template_date,
        most,
    };
    let job = |(i, record): (usize, &PromptRecord)| {
        let tokens = formatter.prompt(&record.prompt).context(place(args, i))?;
        if tokens.count().tokens > most {
            return Err(Error::user(format!(
                "{}: the prompt has {}; with completions of {least} that is more than the context of {}, {context} tokens. \
                 Shorten the prompt or lower --max-completion-length",
                place(args, i),
                tokens.count(),
                source.name
            )));
        }
        Ok(Job {
            tokens: tokens.ids()?,
            prompt: i as u64,
            samples: args.samples(),
            first: 0,
        })
    };
    records.iter().enumerate().map(job).collect()
}

/// Where prompt `i` came from.
fn place(args: &Args, i: usize) -> String {
    match &args.prompts {
        Some(file) => format!("{}: prompt {}", file.display(), i + 1),
        None => "--prompt".to_string(),
    }
}

/// The most tokens of a completion: what was asked for, or what fits of 512.
fn completion_length(args: &Args, source: &Source, longest: usize) -> usize {
    let room = source.spec.max_position_embeddings + 1 - longest;
    args.max_completion_length.unwrap_or_else(|| 512.min(room))
}

/// Buffers for as many sequences at once as were asked for and one binding allows.
fn sampler_shape(
    args: &Args,
    gpu: &Gpu,
    model: &Model,
    jobs: &[Job],
    length: usize,
    rank: usize,
) -> SamplerShape {
    let longest = jobs.iter().map(|j| j.tokens.len()).max().unwrap_or(1);
    let all: usize = jobs.iter().map(|j| j.tokens.len()).sum();
    let shape = |sequences: usize| {
        let prompts = (sequences.div_ceil(args.samples()) + 1).min(jobs.len());
        SamplerShape {
            sequences,
            cache_rows: SamplerShape::rows_for(prompts, longest, sequences, length),
            prefill_rows: all.min(512),
            rank,
            kv_cache_dtype: args.cache.kv_cache_dtype,
        }
    };
    let most = args.rollout_batch.min(jobs.len() * args.samples());
    SamplerShape::within(gpu.caps().max_binding, &model.spec, most, shape)
}

fn sample(tokenizer: &Tokenizer, stop: &[u32], completion: Completion) -> Result<Sample> {
    let Completion {
        tokens,
        logprobs,
        finish,
    } = completion;
    let text = match tokens.split_last() {
        Some((last, before)) if finish == Finish::Stop && stop.contains(last) => before,
        _ => &tokens,
    };
    Ok(Sample {
        text: tokenizer.decode(text, true)?,
        logprob: logprobs.iter().map(|l| f64::from(*l)).sum(),
        tokens,
        reward: None,
        finish_reason: finish,
    })
}

/// Scores every sample; with `--best-of` puts each prompt's best first.
fn reward(
    args: &Args,
    gpu: &Gpu,
    name: &str,
    records: &[PromptRecord],
    samples: &mut [Vec<Sample>],
) -> Result<()> {
    let options = RewardOptions {
        adapter: args.reward_adapter.as_deref(),
        dtype: args.reward_dtype,
        token_budget: TOKEN_BUDGET,
        positions: MAX_REWARD_POSITIONS,
        residency: Residency::Resident,
        free: None,
        raw: args.raw,
        date: args.template_date,
    };
    let mut judge = reward::open(gpu, name, &options).context("--reward-model")?;
    let items: Vec<Item<'_>> = records
        .iter()
        .zip(samples.iter())
        .flat_map(|(record, group)| {
            group.iter().map(|s| Item {
                prompt: &record.prompt,
                response: &s.text,
            })
        })
        .collect();
    let rewards = judge.score(&items)?;
    for (sample, reward) in samples.iter_mut().flatten().zip(rewards) {
        sample.reward = Some(reward);
    }
    if args.best_of.is_some() {
        for group in samples {
            // Stable, so equal rewards keep the order they were drawn in.
            group.sort_by(|a, b| {
                b.reward
                    .unwrap_or(f64::MIN)
                    .total_cmp(&a.reward.unwrap_or(f64::MIN))
            });
        }
    }
    Ok(())
}

/// Positions a reward model is set up for; a longer conversation is refused with a message.
const MAX_REWARD_POSITIONS: usize = 16_384;

fn print(args: &Args, records: &[PromptRecord], samples: &[Vec<Sample>]) -> Result<()> {
    let mut out = Lines::new();
    for (i, (record, group)) in records.iter().zip(samples).enumerate() {
        if args.json {
            let prompt = match &record.prompt {
                PromptContent::Text(text) => Value::String(text.clone()),
                PromptContent::Messages(turns) => serde_json::to_value(turns).map_err(Error::internal)?,
            };
            out.push(&Line {
                id: &record.id,
                prompt,
                completions: group,
            })?;
            continue;
        }
        let shown = if args.best_of.is_some() {
            &group[..group.len().min(1)]
        } else {
            group
        };
        for (k, sample) in shown.iter().enumerate() {
            if records.len() > 1 || shown.len() > 1 {
                out.text(&format!("--- prompt {}, completion {}", i + 1, k + 1));
            }
            out.text(&sample.text);
        }
    }
    out.finish(None)
}
