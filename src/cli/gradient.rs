//! `gradient`: the gradient of a weighted log-likelihood, for checks against other implementations.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::json;

use super::Globals;
use super::common::{Lines, PrecisionFlag, budget, check_ids, positions};
use crate::data::read_records;
use crate::error::{Error, Result};
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
use crate::model::run::{Group, each_batch};
use crate::model::save::write_safetensors;
use crate::model::store::HostTensor;
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;
use crate::text::{Count, GradientRecord};

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
    let loss = accumulate(&model, &ws, &records)?;
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

/// Adds every record's gradient to the model's; returns the loss.
fn accumulate(model: &Model, ws: &Workspace, records: &[GradientRecord]) -> Result<f64> {
    // Neighbours with the same prompt share its rows, as a group of samples does in training.
    let (mut groups, mut weights): (Vec<Group<'_>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    for r in records.iter().filter(|r| r.tokens.len() > r.prompt_len) {
        let (prefix, suffix) = r.tokens.split_at(r.prompt_len);
        match (groups.last_mut(), weights.last_mut()) {
            (Some(group), Some(w)) if group.prefix == prefix => {
                group.suffixes.push(suffix);
                w.push(r.weight);
            }
            _ => {
                groups.push(Group {
                    prefix,
                    suffixes: vec![suffix],
                });
                weights.push(vec![r.weight]);
            }
        }
    }
    let mut loss = 0.0;
    each_batch(model, ws, &groups, true, &mut |rec, ran| {
        let mut dlogp = vec![0.0f32; ran.logp.len()];
        for ((g, s), readouts) in ran.owners.iter().zip(&ran.batch.sequences) {
            let weight = weights[*g][*s];
            for &readout in readouts {
                dlogp[readout] = -weight as f32;
                loss -= weight * f64::from(ran.logp[readout]);
            }
        }
        ran.pass
            .backward_log_probs(rec, ran.loaded, &dlogp, &ran.batch.tokens)
    })?;
    if !loss.is_finite() {
        return Err(Error::user(format!(
            "the loss is {loss}: the weights hold values that are not finite, or too large for their element type"
        )));
    }
    Ok(loss)
}
