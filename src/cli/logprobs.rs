//! `logprobs`: log-probabilities of given sequences.

use std::path::PathBuf;

use serde::Serialize;

use super::Globals;
use super::common::{Lines, PrecisionFlag, budget, check_ids, positions};
use crate::data::{Id, read_records};
use crate::error::{Context, Error, Result};
use crate::model::load::{Source, load_adapter};
use crate::model::run::{Group, log_probs};
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;
use crate::text::{Encoded, Formatter, LogprobsInput, LogprobsRecord, TemplateDate};

/// Print the natural-log probability of every token after the first, given all before it
///
/// Texts are never wrapped in a chat template. Lines with token ids need no tokenizer file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  echo '{\"id\": 1, \"tokens\": [5, 17, 3, 9]}' > in.jsonl
  tea-wgpu logprobs --model path/to/model --adapter runs/sft/checkpoints/step_100 --input in.jsonl")]
pub(crate) struct Args {
    /// Language model: an alias, a directory, a GGUF file, or a hub id
    #[arg(long)]
    model: String,
    /// LoRA adapter directory (PEFT)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Rows (JSON Lines, JSON, CSV, Parquet) of {"id", "tokens": [ids]} or {"id", "prompt", "completion"}
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the lines {"id", "tokens", "logprobs"} go (default: standard output)
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Element type of the base: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long)]
    base_dtype: Option<DType>,
    /// Most tokens in one forward pass
    #[arg(long, value_name = "TOKENS")]
    token_budget: Option<usize>,
    #[command(flatten)]
    precision: PrecisionFlag,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a Id,
    tokens: &'a [u32],
    logprobs: &'a [f32],
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let records: Vec<LogprobsRecord> = read_records(&args.input)?;
    let mut source = Source::open_causal(&args.model)?;
    let sequences = token_ids(&records, &mut source)?;
    let positions = positions(&source, &args.input, sequences.iter().map(Encoded::count))?;
    let sequences = sequences
        .into_iter()
        .map(Encoded::ids)
        .collect::<Result<Vec<_>>>()?;
    let lengths = || sequences.iter().map(Vec::len);
    check_ids(&source, &args.input, sequences.iter().map(Vec::as_slice))?;
    let rows = budget(args.token_budget, lengths())?;
    let dtype = source.dtype(args.base_dtype)?;

    let gpu = args.precision.open_gpu(globals)?;
    let mut model = source.load(&gpu, dtype, positions, None)?;
    let adapter = args
        .adapter
        .as_deref()
        .map(|dir| load_adapter(&mut model, dir, false))
        .transpose()?;
    let rank = adapter.map_or(0, |a| a.rank());
    let shape = Shape {
        rows,
        readouts: rows,
        rank,
        backward: false,
        kept_blocks: 1,
        half: false,
        vocabulary_head: true,
    };
    let ws = Workspace::new(&gpu, &model.spec, shape)?;
    let groups: Vec<Group<'_>> = sequences
        .iter()
        .filter(|s| s.len() > 1)
        .map(|s| Group {
            prefix: &s[..1],
            suffixes: vec![&s[1..]],
        })
        .collect();
    let mut results = log_probs(&model, &ws, &groups, true)?.into_iter();

    let mut out = Lines::new();
    for (i, (record, tokens)) in records.iter().zip(&sequences).enumerate() {
        let logprobs = if tokens.len() > 1 {
            results.next().and_then(|mut g| g.pop()).unwrap_or_default()
        } else {
            Vec::new()
        };
        if let Some(bad) = logprobs.iter().position(|l| !l.is_finite()) {
            return Err(Error::user(format!(
                "{}: record {}: the log-probability of token {} is {}; the weights of {} hold values that are not finite, or \
                 too large for this element type (try --base-dtype f32)",
                args.input.display(),
                i + 1,
                bad + 1,
                logprobs[bad],
                args.model
            )));
        }
        out.push(&Line {
            id: &record.id,
            tokens,
            logprobs: &logprobs,
        })?;
    }
    out.finish(args.output.as_deref())
}

/// Every record's ids; the tokenizer is read only if some record is a text.
fn token_ids(records: &[LogprobsRecord], source: &mut Source) -> Result<Vec<Encoded>> {
    let texts = records
        .iter()
        .any(|r| matches!(r.input, LogprobsInput::Pair { .. }));
    let context = source.spec.max_position_embeddings;
    let tokenizer = if texts { Some(source.tokenizer()?) } else { None };
    let ids = |(i, record): (usize, &LogprobsRecord)| match (&record.input, &tokenizer) {
        (LogprobsInput::Tokens(ids), _) => Ok(Encoded::Ids(ids.clone())),
        (input, Some(tokenizer)) => {
            // Never rendered, so the date does not matter.
            let ids = Formatter {
                tokenizer,
                raw: true,
                date: TemplateDate::today(),
                most: context,
            }
            .logprobs_input(input);
            ids.context(format!("record {}", i + 1)).and_then(|ids| {
                if ids.count().tokens == 0 {
                    return Err(Error::user(format!("record {}: both texts are empty", i + 1)));
                }
                Ok(ids)
            })
        }
        (_, None) => Err(Error::internal("a text without a tokenizer")),
    };
    records.iter().enumerate().map(ids).collect()
}
