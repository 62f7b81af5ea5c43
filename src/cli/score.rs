//! `score`: rewards of given conversations or token sequences.

use std::path::PathBuf;

use serde::Serialize;

use super::Globals;
use super::common::{Lines, PrecisionFlag, budget, check_ids, positions};
use crate::config::{Residency, TEMPLATE_DATE};
use crate::data::{Id, read_records};
use crate::error::{Context, Error, Result};
use crate::model::load::{Source, read_tokenizer};
use crate::reward::{self, Item, RewardModel, RewardOptions};
use crate::tensor::DType;
use crate::text::{Encoded, Formatter, PromptContent, ScoreInput, ScoreRecord, TemplateDate};

/// Print a reward model's score of every line
///
/// Texts are put into the reward model's own chat template. Lines with token ids need no tokenizer file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  echo '{\"id\": 1, \"prompt\": \"Name a colour.\", \"response\": \"Blue.\"}' > in.jsonl
  tea-wgpu score --reward-model skywork-llama-8b --reward-dtype q8_0 --input in.jsonl")]
pub(crate) struct Args {
    /// Reward model: an alias, a directory, a GGUF file with an adapter, or a hub id; true-score
    /// for the demo's prompts
    #[arg(long)]
    reward_model: String,
    /// LoRA adapter directory (PEFT) of the reward model
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Rows (JSON Lines, JSON, CSV, Parquet) of {"id", "tokens"}, {"id", "prompt", "response"} or {"id", "messages"}
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the lines {"id", "score"} go (default: standard output)
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Element type of the reward model: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long)]
    reward_dtype: Option<DType>,
    /// Most tokens in one forward pass
    #[arg(long, value_name = "TOKENS")]
    token_budget: Option<usize>,
    #[command(flatten)]
    precision: PrecisionFlag,
    /// Do not wrap texts in the chat template
    #[arg(long)]
    raw: bool,
    /// Date that the chat template sees (YYYY-MM-DD)
    #[arg(long, value_name = "DATE", default_value = TEMPLATE_DATE)]
    template_date: TemplateDate,
}

#[derive(Serialize)]
struct Line<'a, S> {
    id: &'a Id,
    score: S,
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let records: Vec<ScoreRecord> = read_records(&args.input)?;
    match reward::on_host(&args.reward_model, args.adapter.as_deref())? {
        Some(mut judge) => {
            let texts = texts(args, &records)?;
            let items: Vec<Item<'_>> = texts
                .iter()
                .map(|(prompt, response)| Item { prompt, response })
                .collect();
            write(args, &records, judge.score(&items)?)
        }
        None => write(args, &records, of_model(globals, args, &records)?),
    }
}

fn write<S: Serialize>(args: &Args, records: &[ScoreRecord], scores: Vec<S>) -> Result<()> {
    let mut out = Lines::new();
    for (record, score) in records.iter().zip(scores) {
        let id = &record.id;
        out.push(&Line { id, score })?;
    }
    out.finish(args.output.as_deref())
}

/// The scores of a reward model on the device.
fn of_model(globals: &Globals, args: &Args, records: &[ScoreRecord]) -> Result<Vec<f32>> {
    let source = Source::open_with_score(&args.reward_model)?;
    let sequences = token_ids(args, records, &source)?;
    let positions = positions(&source, &args.input, sequences.iter().map(Encoded::count))?;
    let sequences = sequences
        .into_iter()
        .map(Encoded::ids)
        .collect::<Result<Vec<_>>>()?;
    let lengths = || sequences.iter().map(Vec::len);
    check_ids(&source, &args.input, sequences.iter().map(Vec::as_slice))?;
    let options = RewardOptions {
        adapter: args.adapter.as_deref(),
        dtype: args.reward_dtype,
        token_budget: budget(args.token_budget, lengths())?,
        positions,
        residency: Residency::Resident,
        free: None,
        raw: args.raw,
        date: args.template_date,
    };

    let gpu = args.precision.open_gpu(globals)?;
    let mut reward = RewardModel::from_source(&gpu, source, None, &options)?;
    let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let scores = reward.score_tokens(&slices)?;
    match scores.iter().position(|score| !score.is_finite()) {
        None => Ok(scores),
        Some(i) => Err(Error::user(format!(
            "{}: record {}: the score is {}; the weights of {} hold values that are not finite, or too large for \
             this element type (try --reward-dtype f32)",
            args.input.display(),
            i + 1,
            scores[i],
            args.reward_model
        ))),
    }
}

/// Prompts and answers, for a judge that reads texts.
fn texts(args: &Args, records: &[ScoreRecord]) -> Result<Vec<(PromptContent, String)>> {
    let item = |(i, record): (usize, &ScoreRecord)| {
        match &record.input {
            ScoreInput::Pair { prompt, response } => Ok((prompt.clone(), response.clone())),
            ScoreInput::Messages(turns) => match turns.split_last() {
                Some((answer, before)) if answer.role == "assistant" && !before.is_empty() => {
                    Ok((PromptContent::Messages(before.to_vec()), answer.content.clone()))
                }
                _ => Err(Error::user(
                    "the conversation must end with an answer of the assistant",
                )),
            },
            ScoreInput::Tokens(_) => Err(Error::user(format!(
                "{} judges texts: give {{\"prompt\", \"response\"}} or {{\"messages\"}}, not \"tokens\"",
                args.reward_model
            ))),
        }
        .context(format!("{}: record {}", args.input.display(), i + 1))
    };
    records.iter().enumerate().map(item).collect()
}

/// Every record's ids; the tokenizer is read only if some record is a text.
fn token_ids(args: &Args, records: &[ScoreRecord], source: &Source) -> Result<Vec<Encoded>> {
    let texts = records.iter().any(|r| !matches!(r.input, ScoreInput::Tokens(_)));
    let tokenizer = if texts {
        let tokenizer = read_tokenizer(&source.files)?;
        tokenizer
            .check_vocab(source.spec.vocab_size)
            .context(&source.name)?;
        Some(tokenizer)
    } else {
        None
    };
    let ids = |(i, record): (usize, &ScoreRecord)| match (&record.input, &tokenizer) {
        (ScoreInput::Tokens(ids), _) => Ok(Encoded::Ids(ids.clone())),
        (input, Some(tokenizer)) => Formatter {
            tokenizer,
            raw: args.raw,
            date: args.template_date,
            most: source.spec.max_position_embeddings,
        }
        .score_input(input)
        .context(format!("{}: record {}", args.input.display(), i + 1)),
        (_, None) => Err(Error::internal("a text without a tokenizer")),
    };
    records.iter().enumerate().map(ids).collect()
}
