//! `gradient`: the gradient of a weighted log-likelihood, for checks against other implementations.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Globals;
use super::common::{Lines, PrecisionFlag, budget, check_ids, positions};
use crate::data::read_records;
use crate::error::{Context, Error, Result};
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
use crate::model::run::{Group, LOG_PROBABILITY, each_packed, overflow};
use crate::model::save::write_safetensors;
use crate::model::store::HostTensor;
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;
use crate::text::{Count, GradientRecord};
use crate::train::losses::Losses;

/// Write the gradient of −Σᵢ weightᵢ Σ_{t ≥ prompt_len} log π(y_t) for every trainable tensor
///
/// Tensors have PEFT's names with --adapter and the checkpoint's with --full. Prints {"loss": …}. Needs no tokenizer file.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("trained").required(true).args(["adapter", "full"]),
    after_help = "Example:
  echo '{\"tokens\": [5, 17, 3, 9], \"prompt_len\": 2, \"weight\": 1.0}' > in.jsonl
  tea-wgpu gradient --model path/to/model --adapter runs/sft/checkpoints/step_100 --input in.jsonl --output gradient.safetensors"
)]
pub(crate) struct Args {
    /// Language model: an alias, a directory, a GGUF file, or a hub id
    #[arg(long)]
    model: String,
    /// Gradient of this LoRA adapter's tensors (PEFT directory)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Gradient of every weight of the model, which is loaded in f32
    #[arg(long)]
    full: bool,
    /// Rows (JSON Lines, JSON, CSV, Parquet) of {"tokens": [ids], "prompt_len": n, "weight": w}
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Safetensors file for the gradients
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Element type of the frozen base: f32, f16, bf16, q8_0, q4_0 (default: f32 where small, else as stored)
    #[arg(long, conflicts_with = "full")]
    base_dtype: Option<DType>,
    /// Most tokens in one forward and backward pass
    #[arg(long, value_name = "TOKENS")]
    token_budget: Option<usize>,
    #[command(flatten)]
    precision: PrecisionFlag,
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    let records: Vec<GradientRecord> = read_records(&args.input)?;
    let source = Source::open_causal(&args.model)?;
    let lengths = || records.iter().map(|r| r.tokens.len());
    let positions = positions(&source, &args.input, lengths().map(Count::of))?;
    check_ids(&source, &args.input, records.iter().map(|r| r.tokens.as_slice()))?;
    let rows = budget(args.token_budget, lengths())?;
    let dtype = if args.full {
        Some(DType::F32)
    } else {
        source.dtype(args.base_dtype)?
    };

    let gpu = args.precision.open_gpu(globals)?;
    let mut model = source.load(&gpu, dtype, positions, None)?;
    let mut rank = 0;
    match &args.adapter {
        Some(dir) => rank = load_adapter(&mut model, dir, true)?.rank(),
        None => model.train_base()?,
    }
    let shape = Shape {
        rows,
        readouts: rows,
        rank,
        backward: true,
        kept_blocks: 1,
        half: false,
        vocabulary_head: true,
    };
    let ws = Workspace::new(&gpu, &model.spec, shape)?;
    let loss = accumulate(&model, &ws, &args.input, &records)?;
    let tensors = model
        .trainable()
        .into_iter()
        .map(|t| {
            let values = t.grad.read_f32(&gpu)?;
            let bytes = Cow::Owned(bytemuck::cast_slice(&values).to_vec());
            Ok((
                t.name,
                HostTensor {
                    dtype: DType::F32,
                    shape: t.shape,
                    bytes,
                },
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    write_safetensors(&args.output, &tensors)?;
    let mut out = Lines::new();
    out.push(&json!({ "loss": loss }))?;
    out.finish(None)
}

/// Adds every record's gradient to the model's; returns the loss. The host waits once.
fn accumulate(model: &Model, ws: &Workspace, file: &Path, records: &[GradientRecord]) -> Result<f64> {
    // Neighbours with the same prompt share its rows, as a group of samples does in training.
    let (mut groups, mut of): (Vec<Group<'_>>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    for (i, r) in records
        .iter()
        .enumerate()
        .filter(|(_, r)| r.tokens.len() > r.prompt_len)
    {
        let (prefix, suffix) = r.tokens.split_at(r.prompt_len);
        match (groups.last_mut(), of.last_mut()) {
            (Some(group), Some(of)) if group.prefix == prefix => {
                group.suffixes.push(suffix);
                of.push(i);
            }
            _ => {
                groups.push(Group {
                    prefix,
                    suffixes: vec![suffix],
                });
                of.push(vec![i]);
            }
        }
    }
    let mut losses = Losses::new(&model.gpu, ws.shape.readouts)?;
    each_packed(model, ws, &groups, true, &mut |rec, packed| {
        let owners = packed.by_readout(|group, suffix| of[group][suffix]);
        let weights: Vec<f32> = owners.iter().map(|i| records[*i].weight as f32).collect();
        losses.load(rec, &weights, owners)?;
        packed.forward(rec, true)?;
        losses.tokens(rec, ws, 1.0)?;
        packed.backward(rec)
    })?;
    let report = losses.read(None)?;
    if let Some((i, value)) = report.bad {
        let place = format!("{}: record {}", file.display(), i + 1);
        return Err(overflow(LOG_PROBABILITY, value)).context(place);
    }
    let loss = report.sums[0];
    if !loss.is_finite() {
        return Err(Error::user(format!(
            "the loss is {loss}: the weights hold values that are not finite, or too large for their element type"
        )));
    }
    Ok(loss)
}
