//! `search predict`: best-of-N from stored rewards, with its back-test.

use std::path::{Path, PathBuf};

use super::common::Lines;
use crate::advantage::Alpha;
use crate::error::{Context, Error, Result};
use crate::eval::{Bootstrap, read_rewards};
use crate::model::save::write_atomic;
use crate::run::{Dir, kinds};
use crate::search::Predictor;
use crate::search::predict::{Prediction, Settings, predict};

/// Predict best-of-N for any N from the first m rewards of each prompt, and test it against all of them
///
/// Fits a Gaussian tail to m rewards of each prompt (SLG, arXiv 2602.01485). For N up to the number of rewards the unbiased
/// estimate from all of them stands beside the prediction, with error and coverage over prompts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu search predict --rewards runs/eval
  tea-wgpu search predict --rewards rewards.jsonl --first 32 --ns 16,64,256,1024 --output runs/predict

Input: {\"id\", \"rewards\": […]} a line, or a directory written by `tea-wgpu eval`.
Results: OUTPUT/results.json, results.md, predicted.svg, predicted.png")]
pub(crate) struct Args {
    /// Rows (JSON Lines, JSON, CSV, Parquet) of {"id", "rewards": […]}, or an evaluation directory
    #[arg(long, value_name = "FILE|DIR")]
    rewards: PathBuf,
    /// Rewards of each prompt that the prediction sees (default: what `search` would sample at a budget of all of them)
    #[arg(long, value_name = "M")]
    first: Option<usize>,
    /// The N to predict (default: powers of two, up to four times the number of rewards)
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    ns: Vec<usize>,
    /// Share of rewards that make the tail
    #[arg(long, default_value_t = Alpha::DEFAULT)]
    alpha: Alpha,
    /// What is predicted of a tail; what is observed is an expected maximum
    #[arg(long, value_enum, default_value_t = Predictor::ExpectedMax)]
    predictor: Predictor,
    /// Bootstrap resamples of each prompt's rewards
    #[arg(long, value_name = "B", default_value_t = 1000)]
    resamples: usize,
    /// Seed of the resamples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory for results.json, results.md and the plot
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace the results in --output
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let held = args.output.as_deref().map(|dir| Dir::hold(dir, &kinds::PREDICT));
    let held = held.transpose()?;
    if let Some(held) = &held {
        held.check(args.overwrite)?;
    }
    if let Some(dir) = &args.output {
        let results = dir.join("results.json");
        if results.exists() && !args.overwrite {
            return Err(Error::user(format!(
                "{} exists; give another --output, or --overwrite to replace it",
                results.display()
            )));
        }
    }
    let settings = Settings {
        first: args.first,
        sizes: args.ns.clone(),
        alpha: args.alpha,
        predictor: args.predictor,
        bootstrap: Bootstrap {
            seed: args.seed,
            resamples: args.resamples,
            ..Bootstrap::default()
        },
    };
    let groups = read_rewards(&args.rewards)?;
    let prediction = predict(&groups, &settings).context(args.rewards.display())?;
    for words in prediction.note.iter().chain(&prediction.warning()) {
        log::warn!("{words}");
    }
    let json = serde_json::to_string_pretty(&prediction).map_err(Error::internal)? + "\n";
    if let Some(held) = &held {
        held.renew(args.overwrite)?;
        write(held.root(), &prediction, &json)?;
    }
    let mut out = Lines::new();
    match args.json {
        true => out.text(json.trim_end()),
        false => out.text(prediction.markdown().trim_end()),
    }
    out.finish_beside(args.output.as_deref())
}

fn write(dir: &Path, prediction: &Prediction, json: &str) -> Result<()> {
    let plot = prediction.plot();
    plot.save(dir.join("predicted.svg"))?;
    plot.save(dir.join("predicted.png"))?;
    write_atomic(&dir.join("results.md"), prediction.markdown().as_bytes())?;
    write_atomic(&dir.join("results.json"), json.as_bytes())
}
