//! `tea-wgpu prepare`.

use super::common::tell;
use crate::data::prepare::{Format, Options, Prepared, ScoreField, Share, prepare};
use crate::error::{Error, Result};
use crate::file::dirs::{AtomicDir, REPLACED, leftovers};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read;
use crate::file::write::prefixed;
use crate::report::console::{self, Stream};
use crate::run::{Lock, MARKER, kinds, marker};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Turn public preference files into disjoint training, validation and held-out files
///
/// Reads UltraFeedback, UltraFeedback Binarized, HH-RLHF, prompts or preferences, as JSON Lines, JSON, CSV or Parquet,
/// plain, gzip or zstd: the first bytes tell. Rows of no use are left out and counted. Prompts are deduplicated (white space
/// does not count) and split by a hash, so that no prompt is in two parts and the same command writes the same bytes.
/// UltraFeedback's best completion is paired with a random worse one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu prepare --input ultrafeedback/*.parquet --validation 0.02 --heldout 1000 --core 250,500 --output data/uf
  tea-wgpu prepare --input hh/train.jsonl --format hh-rlhf --validation 500 --heldout 500 --exclude hh/test.jsonl --output data/hh

OUTPUT gets prompts-{train,validation,held-out}.jsonl, preferences-{…}.jsonl and manifest.json, with
counts and the SHA-256 of every file read and written. With --core 250,500 also prompts-core250.jsonl and prompts-core500.jsonl, fixed
subsets to compare models on: their prompts are also in prompts-held-out.jsonl, so never train on them")]
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
    /// Sizes of fixed subsets of the held-out prompts, each within the larger: a file prompts-coreN.jsonl each
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

const MANIFEST: &str = "manifest.json";

/// Whether `prepare` writes a file of this name.
fn is_own(name: &str) -> bool {
    let data = name.starts_with("prompts-") || name.starts_with("preferences-");
    name == MANIFEST || name == MARKER || (data && name.ends_with(".jsonl"))
}

/// What a directory holds that `prepare` does not write. One that cannot be listed may hold anything.
fn foreign(dir: &Path) -> Vec<String> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .filter_map(|entry| match entry {
                Ok(e) => {
                    let name = e.file_name().to_string_lossy().into_owned();
                    let own = is_own(&name) && e.file_type().is_ok_and(|is| !is.is_dir());
                    (!own).then_some(name)
                }
                Err(e) => Some(e.to_string()),
            })
            .collect(),
        Err(e) => vec![e.to_string()],
    }
}

/// The files of an earlier `prepare` in a directory, its manifest among them; `None` without a manifest of `prepare`'s form.
fn written_before(dir: &Path) -> Option<Vec<String>> {
    let text = read(&dir.join(MANIFEST), &SETTINGS_FILE).ok()?;
    let manifest: Value = serde_json::from_slice(&text).ok()?;
    let outputs = manifest.get("outputs")?.as_array()?;
    let name = |output: &Value| Some(output.get("file")?.as_str()?.to_string());
    let mut names: Vec<String> = outputs.iter().map(name).collect::<Option<_>>()?;
    names.extend([MANIFEST.to_string(), MARKER.to_string()]);
    // Another program's manifest may name any file.
    names.iter().all(|name| is_own(name)).then_some(names)
}

/// Refuses to write where what an interrupted `prepare` leaves beside its output would be removed, and is somebody else's.
fn check_beside(output: &Path) -> Result<()> {
    let mut all = leftovers(output)?;
    all.push(prefixed(output, REPLACED)?);
    for beside in all {
        if std::fs::symlink_metadata(&beside).is_err() {
            continue;
        }
        let own = std::fs::symlink_metadata(&beside).is_ok_and(|m| m.is_dir());
        if !own || !foreign(&beside).is_empty() {
            return Err(Error::user(format!(
                "{}: not written by this program, and prepare would remove it. Move it away, or choose another --output",
                beside.display()
            )));
        }
    }
    Ok(())
}

impl Args {
    /// Refuses an output directory that holds anything but what an earlier `prepare` wrote by its manifest.
    fn check_output(&self) -> Result<()> {
        let dir = &self.output;
        let names: Vec<String> = match std::fs::read_dir(dir) {
            Ok(entries) => entries
                .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect::<std::io::Result<_>>()
                .map_err(Error::io(dir))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(dir)(e)),
        };
        if names.is_empty() {
            return Ok(());
        }
        let place = dir.display();
        if !self.overwrite {
            return Err(Error::user(format!(
                "{place} is not empty; choose another --output, or replace it with --overwrite"
            )));
        }
        let Some(written) = written_before(dir) else {
            return Err(Error::user(format!(
                "{place} is not empty; choose another --output (--overwrite replaces a directory that prepare wrote, and this has \
                 no manifest.json that it wrote)"
            )));
        };
        let others = foreign(dir);
        match names
            .iter()
            .find(|name| !written.contains(name) || others.contains(name))
        {
            Some(other) => Err(Error::user(format!(
                "{place} holds {other}, which prepare did not write and --overwrite would delete: move it away, or choose another \
                 --output"
            ))),
            None => Ok(()),
        }
    }

    pub(crate) fn run(mut self) -> Result<()> {
        // Without a slash at the end, which would follow a link.
        let named: PathBuf = self.output.components().collect();
        if std::fs::symlink_metadata(&named).is_ok_and(|m| m.is_symlink()) {
            // The link stays, and what it names is written.
            self.output = named.canonicalize().map_err(Error::io(&named))?;
        }
        let _lock = Lock::beside(&self.output, kinds::PREPARE.command)?;
        self.check_output()?;
        check_beside(&self.output)?;
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
        let Prepared { files, manifest } = prepare(&options)?;
        let out = AtomicDir::create(&self.output, foreign)?;
        for (name, bytes) in &files {
            out.write(name, bytes)?;
        }
        out.write(MARKER, marker(&kinds::PREPARE)?.as_bytes())?;
        out.commit()?;
        for input in &manifest.inputs {
            for (why, n) in &input.skipped {
                console::line(
                    Stream::Err,
                    format_args!("{}: {n} rows left out: {why}", input.source.file),
                );
            }
        }
        let c = manifest.counts;
        tell(format_args!(
            "{}: {} prompts and {} preference pairs from {} rows ({} with a prompt seen before, {} excluded, {} of no use)",
            named.display(),
            c.prompts,
            c.preferences,
            c.rows,
            c.duplicate_prompts,
            c.excluded,
            c.skipped
        ));
        for file in &manifest.outputs {
            tell(format_args!("  {:7} {}", file.lines, file.file));
        }
        Ok(())
    }
}
