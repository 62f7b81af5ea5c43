//! `tea-wgpu prepare`.

use crate::error::{Error, Result};
use crate::model::save::AtomicDir;
use crate::text::prepare::{Format, Options, Prepared, ScoreField, Share, prepare};
use std::path::PathBuf;

/// Turn public preference files into disjoint training, validation and held-out files
///
/// Reads UltraFeedback, UltraFeedback Binarized, HH-RLHF, prompts or preferences, as JSONL or Parquet. Prompts are deduplicated
/// (white space does not count) and split by a hash, so that no prompt is in two parts and the same command writes the same bytes.
/// UltraFeedback's best completion is paired with a random worse one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu prepare --input ultrafeedback/*.parquet --validation 0.02 --heldout 1000 --core 250,500 --output data/uf
  tea-wgpu prepare --input hh/train.jsonl --format hh-rlhf --validation 500 --heldout 500 --exclude hh/test.jsonl --output data/hh

OUTPUT gets prompts-{train,validation,held-out}.jsonl, preferences-{…}.jsonl, prompts-core250.jsonl, prompts-core500.jsonl and
manifest.json, with counts and the SHA-256 of every file read and written")]
pub(crate) struct Args {
    /// Files to read, in order
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// The files' shape
    #[arg(long, value_enum, default_value = "auto")]
    format: Format,
    /// Which score ranks UltraFeedback's completions
    #[arg(long, value_enum, default_value = "fine-grained")]
    score: ScoreField,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Validation prompts: a number, or a share of all
    #[arg(long, value_name = "N|SHARE", default_value = "0.05")]
    validation: String,
    /// Held-out prompts: a number, or a share of all
    #[arg(
        long,
        value_name = "N|SHARE",
        default_value = "0.05",
        visible_alias = "held-out"
    )]
    heldout: String,
    /// Sizes of fixed subsets of the held-out prompts, each within the larger
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    core: Vec<usize>,
    /// Leave out prompts that occur in these files
    #[arg(long, value_name = "FILE", num_args = 1..)]
    exclude: Vec<PathBuf>,
    /// Refuse to go on if a prompt occurs in these files
    #[arg(long, value_name = "FILE", num_args = 1..)]
    disjoint_from: Vec<PathBuf>,
    /// Seed of the split and of the choice of rejected completions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replace --output
    #[arg(long)]
    overwrite: bool,
}

fn share(flag: &str, text: &str) -> Result<Share> {
    use crate::error::Context;
    text.parse().context(flag)
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let options = Options {
            validation: share("--validation", &self.validation)?,
            held_out: share("--heldout", &self.heldout)?,
            inputs: self.input,
            format: self.format,
            score: self.score,
            core: self.core,
            exclude: self.exclude,
            disjoint_from: self.disjoint_from,
            seed: self.seed,
        };
        let used = std::fs::read_dir(&self.output).is_ok_and(|mut entries| entries.next().is_some());
        // Only what this command wrote is replaced.
        if used && !(self.overwrite && self.output.join("manifest.json").is_file()) {
            return Err(Error::user(format!(
                "{} is not empty; choose another --output{}",
                self.output.display(),
                if self.overwrite {
                    " (--overwrite replaces a directory that prepare wrote, and this has no manifest.json)"
                } else {
                    ", or replace it with --overwrite"
                }
            )));
        }
        let Prepared { files, manifest } = prepare(&options)?;
        let out = AtomicDir::create(&self.output)?;
        for (name, bytes) in &files {
            out.write(name, bytes)?;
        }
        out.commit()?;
        for input in &manifest.inputs {
            for (why, n) in &input.skipped {
                eprintln!("{}: {n} rows left out: {why}", input.source.file);
            }
        }
        let c = manifest.counts;
        println!(
            "{}: {} prompts and {} preference pairs from {} rows ({} with a prompt seen before, {} excluded, {} of no use)",
            self.output.display(),
            c.prompts,
            c.preferences,
            c.rows,
            c.duplicate_prompts,
            c.excluded,
            c.skipped
        );
        for file in &manifest.outputs {
            println!("  {:7} {}", file.lines, file.file);
        }
        Ok(())
    }
}
