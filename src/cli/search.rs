//! `search`: scaling-law guided search at test time.

use std::path::PathBuf;

use serde::Serialize;

use super::Globals;
use super::common::{KvCacheFlag, Lines, SampleFlags};
use super::demo_data::COMPLETION;
use super::models::ModelFlags;
use super::search_predict;
use crate::advantage::Alpha;
use crate::config::{TINY, range};
use crate::demo;
use crate::error::{Context, Error, Result};
use crate::eval::Bootstrap;
use crate::eval::run::{Policy, PolicyOptions, Sampling};
use crate::eval::weights::Hashes;
use crate::gpu::Gpu;
use crate::model::load::Source;
use crate::model::save::write_atomic;
use crate::run::{Dir, interrupt, kinds};
use crate::search::line::Line;
use crate::search::outcome::Summary;
use crate::search::schedule::{Asked, Schedule};
use crate::search::session::{Session, prompt_value};
use crate::search::store::{SearchMeta, Store};
use crate::search::{Predictor, Settings, TailLaw};
use crate::tensor::DType;
use crate::text::{Formatter, PromptContent, PromptRecord, sha256_hex};
use crate::train::memory;
use crate::train::prompts::{self, Purpose};
use crate::words;

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
  tea-wgpu search --budget 60 --compare-bon --output runs/search --resume
      goes on after an interruption, prompt by prompt
  tea-wgpu search predict --rewards runs/eval --first 32

Results: OUTPUT/search.json (settings), search.jsonl (a line a prompt: schedule, nodes with predictions and rewards, best response), results.json,
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
    #[command(flatten)]
    models: ModelFlags,
    #[command(flatten)]
    cache: KvCacheFlag,
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
    /// Directory for search.jsonl, results.json and results.md
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the search in --output: prompts that are done are not searched again
    #[arg(long, requires = "output")]
    resume: bool,
    /// Replace the search in --output
    #[arg(long, requires = "output", conflicts_with = "resume")]
    overwrite: bool,
    /// Print one JSON object a prompt, as in search.jsonl
    #[arg(long)]
    json: bool,
}

/// Embedded prompts unless a number is asked for.
const EMBEDDED_PROMPTS: usize = 100;

/// Everything that results.json holds.
#[derive(Serialize)]
struct Results<'a> {
    #[serde(flatten)]
    meta: &'a SearchMeta,
    device: String,
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
            batch: self.models.rollout_batch,
            kv_cache_dtype: self.cache.kv_cache_dtype,
        };
        Ok((settings, sampling))
    }

    fn records(&self) -> Result<Vec<PromptRecord>> {
        if let Some(file) = &self.models.prompts {
            let mut records = prompts::read(file, None, Purpose::Other)?.records;
            records.truncate(self.num_prompts.unwrap_or(records.len()));
            return Ok(records);
        }
        if self.models.model != TINY {
            return Err(Error::user(format!(
                "--model {}: give --prompts FILE (only the embedded model has embedded prompts)",
                self.models.model
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
        if self.models.model == TINY {
            return Ok(COMPLETION);
        }
        let mut source = Source::open_causal(&self.models.model)?;
        let tokenizer = source.tokenizer()?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: self.models.raw,
            date: self.models.template_date,
            // More leaves no room for a response, however much more.
            most: source.spec.max_position_embeddings,
        };
        let mut longest = 0;
        for (i, record) in records.iter().enumerate() {
            let tokens = formatter
                .prompt(&record.prompt)
                .context(format!("prompt {}", i + 1))?;
            longest = longest.max(tokens.count().tokens);
        }
        let context = source.spec.max_position_embeddings;
        Ok(512.min(context.saturating_sub(longest)).max(1))
    }

    /// What search.json holds.
    fn meta(
        &self,
        settings: &Settings,
        sampling: &Sampling,
        records: &[PromptRecord],
        length: usize,
    ) -> Result<SearchMeta> {
        let (m, params) = (&self.models, &sampling.params);
        let prompt = |r: &PromptRecord| Ok((r.id.clone(), prompt_value(&r.prompt)?));
        let prompts = records.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        let dtype = |d: Option<DType>| d.map(|d| d.to_string());
        let mut meta = SearchMeta {
            model: m.model.clone(),
            adapter: m.adapter.clone(),
            reward_model: m.reward_name()?,
            reward_adapter: m.reward_adapter.clone(),
            prompts_file: m.prompts.clone(),
            prompts_sha256: sha256_hex(&serde_json::to_vec(&prompts).map_err(Error::internal)?),
            num_prompts: records.len(),
            budget: settings.schedule.budget,
            samples: settings.schedule.samples,
            width: settings.schedule.width,
            alpha: self.alpha,
            predictor: self.predictor,
            prefix_tokens: self.prefix_tokens,
            fill_width: self.fill_width,
            compare_bon: self.compare_bon,
            seed: self.seed,
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            max_completion_length: length,
            raw: m.raw,
            template_date: m.template_date.to_string(),
            matmul_precision: m.precision.matmul_precision,
            kv_cache_dtype: self.cache.kv_cache_dtype,
            base_dtype: dtype(m.base_dtype),
            reward_dtype: dtype(m.reward_dtype),
            weights_sha256: Default::default(),
        };
        if self.output.is_some() {
            let named = meta.named();
            let named = named.iter().map(|(field, name)| (*field, name.as_deref()));
            meta.weights_sha256 = Hashes::default().of_named(named)?;
        }
        Ok(meta)
    }

    fn policy(&self, gpu: &Gpu, records: &[PromptRecord], length: usize) -> Result<Policy> {
        let prompts = self
            .models
            .prompts
            .as_ref()
            .map(|file| file.display().to_string());
        let options = PolicyOptions {
            adapter: self.models.adapter.as_deref(),
            dtype: self.models.base_dtype,
            max_completion_length: length,
            raw: self.models.raw,
            date: self.models.template_date,
            prompts_file: prompts.as_deref(),
        };
        let contents: Vec<PromptContent> = records.iter().map(|r| r.prompt.clone()).collect();
        Policy::load(gpu, &self.models.model, &contents, &options)
    }
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Predict(args)) => search_predict::run(args),
        None => search(globals, &args.search),
    }
}

fn search(globals: &Globals, args: &SearchArgs) -> Result<()> {
    let dir = args.output.as_deref();
    let held = dir.map(|dir| Dir::hold(dir, &kinds::SEARCH)).transpose()?;
    if let Some(held) = &held {
        Store::check(held, args.resume, args.overwrite)?;
    }
    let (settings, sampling) = args.settings()?;
    let records = args.records()?;
    let all = [
        ("prompts", records.len() as u64),
        ("--budget", settings.schedule.budget as u64),
    ];
    range::check_product(&all, range::EVALUATED, "responses")?;
    let length = args.length(&records)?;
    let meta = args.meta(&settings, &sampling, &records, length)?;
    let open = || Store::open(dir, &meta, args.resume);
    let begun = if args.resume { Some(open()?) } else { None };
    let gpu = globals.open_gpu_for_long()?;
    gpu.set_matmul_precision(meta.matmul_precision)?;
    let free = memory::free(&gpu)?;
    let policy = args.policy(&gpu, &records, length)?;
    let mut judge = args.models.judge(&gpu, &meta.reward_model, free)?;
    let session = Session {
        policy: &policy,
        records: &records,
        sampling,
        settings,
        true_score: args.models.prompts.is_none(),
    };
    // Nothing is written or replaced before the models are known to load.
    let mut store = begun.map_or_else(open, Ok)?;
    session.run(&mut *judge, &mut store, &interrupt::requested)?;
    let results = Results {
        meta: &meta,
        device: gpu.report().name.clone(),
        summary: Summary::new(store.lines(), &Bootstrap::default())?,
    };
    write(args, &results)?;
    print(args, store.lines(), &results)
}

fn markdown(results: &Results<'_>) -> String {
    let m = results.meta;
    let adapter = m.adapter.as_ref();
    let what = format!(
        "Policy {}{}, judged by {}; tail share {}, predictor {}, seed {}, up to {} tokens a response, on {}.",
        words::markdown(&m.model),
        adapter.map_or(String::new(), |a| format!(
            " with {}",
            words::markdown(&a.display().to_string())
        )),
        words::markdown(&m.reward_model),
        m.alpha,
        m.predictor.name(),
        m.seed,
        m.max_completion_length,
        words::markdown(&results.device)
    );
    results.summary.markdown(&what)
}

fn write(args: &SearchArgs, results: &Results<'_>) -> Result<()> {
    let Some(dir) = &args.output else {
        return Ok(());
    };
    write_atomic(&dir.join("results.md"), markdown(results).as_bytes())?;
    let json = serde_json::to_string_pretty(results).map_err(Error::internal)? + "\n";
    write_atomic(&dir.join("results.json"), json.as_bytes())
}

/// Responses where they are not written to a file, then the table; with --json the lines alone.
fn print(args: &SearchArgs, lines: &[Line], results: &Results<'_>) -> Result<()> {
    let mut out = Lines::new();
    if args.json {
        lines.iter().try_for_each(|l| out.push(l))?;
        return out.finish_beside(args.output.as_deref());
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
    out.finish_beside(args.output.as_deref())
}
