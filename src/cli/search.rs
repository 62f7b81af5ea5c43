//! `search`: scaling-law guided search at test time.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Globals;
use super::common::{Lines, SampleFlags, TOKEN_BUDGET};
use super::demo_data::COMPLETION;
use super::search_predict;
use crate::advantage::Alpha;
use crate::config::{TEMPLATE_DATE, TINY};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::eval::Bootstrap;
use crate::eval::run::{Policy, PolicyOptions, Sampling};
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::save::write_atomic;
use crate::report::Progress;
use crate::reward::{RewardModel, RewardOptions};
use crate::search::outcome::{Line, Summary};
use crate::search::schedule::{Asked, Schedule};
use crate::search::session::Session;
use crate::search::{Predictor, Settings, TailLaw};
use crate::tensor::DType;
use crate::text::{Formatter, PromptContent, PromptRecord, TemplateDate};
use crate::train::prompts::{self, Purpose};
use crate::train::setup::default_reward;

/// Search for each prompt's best response within a budget of N, guided by the tails of its rewards
///
/// Samples m responses from the prompt, makes states of the beginnings of the best K, samples m from each, predicts from
/// the tails of their rewards where the best of N would be highest, and spends the rest of the budget there (SLG, arXiv
/// 2602.01485). Never more than N responses a prompt. Without --model it searches the embedded models' held-out prompts.
/// `search predict` predicts best-of-N from stored rewards.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  tea-wgpu search --budget 60 --compare-bon --output runs/search
      the embedded models and 100 held-out prompts, against best-of-60 with the same seeds
  tea-wgpu search --model llama-1b --adapter runs/tea/checkpoints/best --prompts prompts.jsonl --budget 500 --json
  tea-wgpu search predict --rewards runs/eval --first 32

Results: OUTPUT/search.jsonl (a line a prompt: schedule, nodes with predictions and rewards, best response), results.json,
results.md"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Predict(search_predict::Args),
}

#[derive(Debug, clap::Args)]
struct SearchArgs {
    /// Language model: an alias, a directory, a GGUF file, or a hub id
    #[arg(long, default_value = TINY)]
    model: String,
    /// LoRA adapter directory (PEFT)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Reward model (default: the one its alias names)
    #[arg(long)]
    reward_model: Option<String>,
    /// LoRA adapter directory of the reward model
    #[arg(long, value_name = "DIR")]
    reward_adapter: Option<PathBuf>,
    /// JSONL of {"prompt": text} or {"messages": […]} (default: held-out prompts of the embedded set)
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Take the first P prompts of the file, or this many of the embedded set (default: all; 100 embedded)
    #[arg(long, value_name = "P")]
    num_prompts: Option<usize>,
    /// Responses for each prompt, in all
    #[arg(long, value_name = "N", required = true)]
    budget: Option<usize>,
    /// States at most (default: max(2, min(N/2m, N/(m + 2))))
    #[arg(long, value_name = "K")]
    width: Option<usize>,
    /// Responses from which a tail is estimated (default: max(20, (ln N)³/5 to a multiple of 5))
    #[arg(long, value_name = "M")]
    samples: Option<usize>,
    /// Tokens of a state (default: half the median length of the first m responses, at most 100)
    #[arg(long, value_name = "T")]
    prefix_tokens: Option<usize>,
    /// Where one of the K best responses gives no state, because it ended early or begins like a better one, go on to the next
    #[arg(long)]
    fill_width: bool,
    /// Share of rewards that make the tail
    #[arg(long, default_value_t = Alpha::DEFAULT)]
    alpha: Alpha,
    /// What is predicted of a tail
    #[arg(long, value_enum, default_value_t = Predictor::Quantile)]
    predictor: Predictor,
    /// Run best-of-N beside it: same budget, prompts and seeds; the first m responses are the same
    #[arg(long)]
    compare_bon: bool,
    /// Seed of the samples (and of the embedded prompts)
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    draw: SampleFlags,
    /// Most tokens in a response, its prefix included (default: 512, or what the context leaves; 24 for the embedded model)
    #[arg(long, value_name = "TOKENS")]
    max_completion_length: Option<usize>,
    /// Sequences decoded together
    #[arg(long, value_name = "N", default_value_t = 256)]
    rollout_batch: usize,
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
    #[arg(long)]
    reward_dtype: Option<DType>,
    /// Directory for search.jsonl, results.json and results.md
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace the results in --output
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Print one JSON object a prompt, as in search.jsonl
    #[arg(long)]
    json: bool,
}

/// Positions a reward model is set up for; a longer conversation is refused with a message.
const MAX_REWARD_POSITIONS: usize = 16_384;
/// Embedded prompts unless a number is asked for.
const EMBEDDED_PROMPTS: usize = 100;

/// Everything that results.json holds.
#[derive(Serialize)]
struct Results<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a Path>,
    reward_model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward_adapter: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts_file: Option<&'a Path>,
    alpha: Alpha,
    predictor: Predictor,
    prefix_tokens: Option<usize>,
    fill_width: bool,
    seed: u64,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    max_completion_length: usize,
    device: String,
    /// Tokens of prompts and prefixes computed, each request's once.
    prefill_tokens: usize,
    #[serde(flatten)]
    summary: Summary,
}

impl SearchArgs {
    fn settings(&self) -> Result<(Settings, Sampling)> {
        let asked = Asked {
            samples: self.samples,
            width: self.width,
        };
        let params = self.draw.params()?;
        if params.temperature == 0.0 {
            return Err(Error::user(
                "--temperature 0 gives one response again and again; a search needs a positive temperature",
            ));
        }
        let counts = [
            ("--rollout-batch", Some(self.rollout_batch)),
            ("--max-completion-length", self.max_completion_length),
            ("--num-prompts", self.num_prompts),
            ("--prefix-tokens", self.prefix_tokens),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, n)| *n == Some(0)) {
            return Err(Error::user(format!("{flag} must be at least 1")));
        }
        let settings = Settings {
            schedule: Schedule::new(self.budget.unwrap_or(0), asked)?,
            prefix_tokens: self.prefix_tokens,
            fill_width: self.fill_width,
            alpha: self.alpha,
            predictor: self.predictor,
            compare_bon: self.compare_bon,
        };
        if let Some(note) = TailLaw::new(self.alpha, settings.schedule.samples)?.note(self.alpha) {
            log::warn!("{note}");
        }
        let sampling = Sampling {
            params,
            seed: self.seed,
            batch: self.rollout_batch,
        };
        Ok((settings, sampling))
    }

    fn reward_name(&self) -> Result<String> {
        let default = || default_reward(&self.model);
        self.reward_model.clone().or_else(default).ok_or_else(|| {
            Error::user(format!(
                "--model {}: no default reward model; give --reward-model",
                self.model
            ))
        })
    }

    fn records(&self) -> Result<Vec<PromptRecord>> {
        if let Some(file) = &self.prompts {
            let mut records = prompts::read(file, None, Purpose::Other)?.records;
            records.truncate(self.num_prompts.unwrap_or(records.len()));
            return Ok(records);
        }
        if self.model != TINY {
            return Err(Error::user(format!(
                "--model {}: give --prompts FILE (only the embedded model has embedded prompts)",
                self.model
            )));
        }
        let n = self.num_prompts.unwrap_or(EMBEDDED_PROMPTS);
        let record = |e: demo::Example| PromptRecord {
            id: e.id.into(),
            prompt: PromptContent::Text(e.prompt),
            fields: serde_json::Map::new(),
        };
        let examples = demo::held_out(self.seed, n);
        Ok(examples.into_iter().map(record).collect())
    }

    /// The most tokens of a response: what was asked for, or what fits of 512.
    fn length(&self, records: &[PromptRecord]) -> Result<usize> {
        if let Some(length) = self.max_completion_length {
            return Ok(length);
        }
        if self.model == TINY {
            return Ok(COMPLETION);
        }
        let mut source = Source::open_causal(&self.model)?;
        let tokenizer = source.tokenizer()?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: self.raw,
            date: self.template_date,
        };
        let mut longest = 0;
        for (i, record) in records.iter().enumerate() {
            let tokens = formatter
                .prompt(&record.prompt)
                .context(format!("prompt {}", i + 1))?;
            longest = longest.max(tokens.len());
        }
        let context = source.spec.max_position_embeddings;
        Ok(512.min(context.saturating_sub(longest)).max(1))
    }

    /// Refuses to overwrite, and finds out before the work whether the directory can be written.
    fn prepare_output(&self) -> Result<()> {
        let Some(dir) = &self.output else {
            return Ok(());
        };
        let results = dir.join("results.json");
        if results.exists() && !self.overwrite {
            return Err(Error::user(format!(
                "{} exists; give another --output, or --overwrite to replace it",
                results.display()
            )));
        }
        std::fs::create_dir_all(dir).map_err(Error::io(dir))
    }

    fn policy(&self, gpu: &Gpu, records: &[PromptRecord], length: usize) -> Result<Policy> {
        let options = PolicyOptions {
            adapter: self.adapter.as_deref(),
            dtype: self.base_dtype,
            max_completion_length: length,
            raw: self.raw,
            date: self.template_date,
        };
        let contents: Vec<PromptContent> = records.iter().map(|r| r.prompt.clone()).collect();
        let policy = Policy::load(gpu, &self.model, &contents, &options);
        match &self.prompts {
            Some(file) => policy.context(file.display()),
            None => policy,
        }
    }

    fn judge(&self, gpu: &Gpu, name: &str) -> Result<RewardModel> {
        let options = RewardOptions {
            adapter: self.reward_adapter.as_deref(),
            dtype: self.reward_dtype,
            token_budget: TOKEN_BUDGET,
            positions: MAX_REWARD_POSITIONS,
            raw: self.raw,
            date: self.template_date,
        };
        RewardModel::load(gpu, name, &options).context("--reward-model")
    }
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Predict(args)) => search_predict::run(args),
        None => search(globals, &args.search),
    }
}

fn search(globals: &Globals, args: &SearchArgs) -> Result<()> {
    let (settings, sampling) = args.settings()?;
    let reward_name = args.reward_name()?;
    let records = args.records()?;
    let length = args.length(&records)?;
    args.prepare_output()?;
    let gpu = globals.open_gpu()?;
    let policy = args.policy(&gpu, &records, length)?;
    let mut judge = args.judge(&gpu, &reward_name)?;
    let session = Session {
        policy: &policy,
        records: &records,
        sampling,
        settings,
        true_score: args.prompts.is_none(),
    };
    let mut progress = Progress::new("search", 0, records.len() as u64);
    let (lines, prefill_tokens) = session.run(&mut judge, &mut progress)?;
    let results = Results {
        model: &args.model,
        adapter: args.adapter.as_deref(),
        reward_model: &reward_name,
        reward_adapter: args.reward_adapter.as_deref(),
        prompts_file: args.prompts.as_deref(),
        alpha: args.alpha,
        predictor: args.predictor,
        prefix_tokens: args.prefix_tokens,
        fill_width: args.fill_width,
        seed: args.seed,
        temperature: session.sampling.params.temperature,
        top_k: session.sampling.params.top_k,
        top_p: session.sampling.params.top_p,
        min_p: session.sampling.params.min_p,
        max_completion_length: length,
        device: gpu.report().name.clone(),
        prefill_tokens,
        summary: Summary::new(&lines, &Bootstrap::default())?,
    };
    write(args, &lines, &results)?;
    print(args, &lines, &results)
}

fn markdown(results: &Results<'_>) -> String {
    let what = format!(
        "Policy {}{}, judged by {}; tail share {}, predictor {}, seed {}, up to {} tokens a response, on {}.",
        results.model,
        results
            .adapter
            .map_or(String::new(), |a| format!(" with {}", a.display())),
        results.reward_model,
        results.alpha,
        results.predictor.name(),
        results.seed,
        results.max_completion_length,
        results.device
    );
    results.summary.markdown(&what)
}

fn write(args: &SearchArgs, lines: &[Line], results: &Results<'_>) -> Result<()> {
    let Some(dir) = &args.output else {
        return Ok(());
    };
    let mut all = Lines::new();
    lines.iter().try_for_each(|l| all.push(l))?;
    all.finish(Some(&dir.join("search.jsonl")))?;
    write_atomic(&dir.join("results.md"), markdown(results).as_bytes())?;
    let json = serde_json::to_string_pretty(results).map_err(Error::internal)? + "\n";
    write_atomic(&dir.join("results.json"), json.as_bytes())
}

/// Responses where they are not written to a file, then the table; with --json the lines alone.
fn print(args: &SearchArgs, lines: &[Line], results: &Results<'_>) -> Result<()> {
    let mut out = Lines::new();
    if args.json {
        lines.iter().try_for_each(|l| out.push(l))?;
        return out.finish(None);
    }
    if args.output.is_none() {
        for line in lines {
            let place = match line.best.node {
                0 => "the prompt".to_string(),
                state => format!("state {state}"),
            };
            out.text(&format!(
                "--- prompt {}: reward {:.3}, from {place}",
                line.prompt_index + 1,
                line.best.reward
            ));
            out.text(&line.best.text);
        }
        out.text("");
    }
    out.text(&markdown(results));
    if let Some(dir) = &args.output {
        out.text(&format!("Written to {}", dir.display()));
    }
    out.finish(None)
}
