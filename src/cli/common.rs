//! What several subcommands share: where lines go, how sequences are sized.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Globals;
use crate::config::range::check_settings;
use crate::config::{FloatDtype, Given, MatmulPrecision, anchored, overlay, read_settings};
use crate::error::{Context, Error, Result};
use crate::file::write::write_output;
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::alias::is_alias;
use crate::model::load::Source;
use crate::report::console::{self, Stream};
use crate::text::Count;
use crate::train::checkpoint::RunDir;

/// Most tokens in one pass unless a flag says otherwise.
pub(crate) const TOKEN_BUDGET: usize = 2048;

/// How exact matrix products are, for commands without a settings file.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PrecisionFlag {
    /// Matrix products in f32, every sum in one order (highest); in f32, those of small decode steps in another order that keeps a GPU
    /// busier (high); or with operands rounded to f16 and sums in f32 on cooperative matrices (medium)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) matmul_precision: MatmulPrecision,
}

impl PrecisionFlag {
    /// Opens the chosen device with it, as [`Globals::open_gpu`].
    ///
    /// # Errors
    /// No device, or one that has not what the precision needs.
    pub(crate) fn open_gpu(self, globals: &Globals) -> Result<Gpu> {
        let gpu = globals.open_gpu()?;
        gpu.set_matmul_precision(self.matmul_precision)?;
        Ok(gpu)
    }
}

/// How sampling stores keys and values, for commands without a settings file.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct KvCacheFlag {
    /// Keys and values that sampling keeps: as computed (float32), or rounded to f16 (float16), which take half the memory
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    pub(crate) kv_cache_dtype: FloatDtype,
}

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct SampleFlags {
    /// Sampling temperature; 0 takes the likeliest token
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Keep only the k likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Keep the likeliest tokens that hold this much probability together
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
}

impl SampleFlags {
    /// The settings, checked.
    pub(crate) fn params(&self) -> Result<SampleParams> {
        let params = SampleParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        };
        params.validate()?;
        Ok(params)
    }
}

/// JSON lines for a file or standard output.
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one object.
    pub(crate) fn push(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.0, value).map_err(Error::internal)?;
        self.0.push(b'\n');
        Ok(())
    }

    /// Adds plain text.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'\n');
    }

    /// Writes everything: to `path` whole or not at all, or to standard output.
    pub(crate) fn finish(self, path: Option<&Path>) -> Result<()> {
        match path {
            Some(path) => write_output(path, &self.0),
            None => to_stdout(&self.for_reader()),
        }
    }

    /// Prints everything: as [`Lines::tell`] where the files of a directory hold it too.
    pub(crate) fn finish_beside(self, directory: Option<&Path>) -> Result<()> {
        match directory {
            Some(_) => self.tell(),
            None => to_stdout(&self.for_reader())?,
        }
        Ok(())
    }

    /// Prints everything, which is in files too: it neither fails nor waits, whatever becomes of
    /// standard output.
    pub(crate) fn tell(self) {
        let bytes = self.for_reader();
        let text = String::from_utf8_lossy(&bytes);
        console::styled(Stream::Out, text.strip_suffix('\n').unwrap_or(&text));
    }

    /// What a terminal would act on is escaped where standard output is one, as models and data files can hold it. Other
    /// readers get the bytes as they are.
    fn for_reader(&self) -> Cow<'_, [u8]> {
        match std::io::stdout().is_terminal() {
            true => Cow::Owned(console::shown(&String::from_utf8_lossy(&self.0)).into_bytes()),
            false => Cow::Borrowed(&self.0),
        }
    }
}

/// Prints a line that the command was asked for on standard output: to lose it is an error.
pub(crate) fn say(words: impl std::fmt::Display) -> Result<()> {
    to_stdout(format!("{}\n", console::shown(&words.to_string())).as_bytes())
}

/// Prints a line about what is in files: it neither fails nor waits, whatever becomes of standard
/// output.
pub(crate) fn tell(words: impl std::fmt::Display) {
    console::styled(Stream::Out, console::shown(&words.to_string()));
}

/// Prints help or the version.
pub(crate) fn help(text: &clap::Error) -> Result<()> {
    read_or_gone(text.print())
}

/// Every command's way to standard output for what it was asked to print: `println!` panics where
/// nobody reads it.
fn to_stdout(bytes: &[u8]) -> Result<()> {
    // What was said before stands before.
    console::flush();
    read_or_gone(console::write_whole(&mut std::io::stdout().lock(), bytes))
}

/// A reader that has gone (head, less) has seen enough; anything else that keeps results from being
/// printed is an error.
fn read_or_gone(printed: std::io::Result<()>) -> Result<()> {
    match printed {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io(PathBuf::from("standard output"))),
    }
}

/// The settings file of a run that is resumed.
///
/// # Errors
/// As [`RunDir::settings`].
pub(crate) fn kept(run: &RunDir) -> Result<PathBuf> {
    let (own, found) = (run.config(), run.settings()?);
    if found != own {
        log::warn!(
            "{} is missing: the run keeps the settings of {}",
            own.display(),
            found.display()
        );
    }
    Ok(found)
}

/// Settings layer by layer: flags over the settings file over the stored settings of the run that is resumed. Paths that a
/// run stored are meant from where it was started.
///
/// # Errors
/// A file is missing (that of an older run may be) or holds what is not a setting.
pub(crate) fn layered<T: Given>(stored: Option<&Path>, file: Option<&Path>, flags: &T) -> Result<T> {
    let read = |path: Option<&Path>, is_own: bool| -> Result<T> {
        let Some(path) = path else { return Ok(T::default()) };
        let (settings, outside) = read_settings::<T>(path)?;
        if let Some(setting) = outside.filter(|_| !is_own) {
            log::warn!(
                "{}: {} stands outside its table [{}]; both are read (docs/reference/settings.md)",
                path.display(),
                setting.name,
                setting.table()
            );
        }
        check_settings(&settings).context(path.display())?;
        anchored(settings, &is_alias)
    };
    let stored = read(stored.filter(|p| p.exists()), true)?;
    overlay(&overlay(&stored, &read(file, false)?)?, flags)
}

/// Rows of a workspace for sequences of these lengths: no more than are there, no fewer than the longest unless a budget
/// was asked for.
pub(crate) fn budget(asked: Option<usize>, lengths: impl Iterator<Item = usize> + Clone) -> Result<usize> {
    let (longest, total) = (lengths.clone().max().unwrap_or(1), lengths.sum::<usize>());
    match asked {
        Some(0) => Err(Error::user("--token-budget must be at least 1")),
        Some(n) => Ok(n.min(total.max(1))),
        None => Ok(TOKEN_BUDGET.max(longest).min(total.max(1))),
    }
}

/// Positions for sequences read from a file; an error names the first line that does not fit.
///
/// Record numbers count non-blank lines from 1.
pub(crate) fn positions(source: &Source, file: &Path, counts: impl Iterator<Item = Count>) -> Result<usize> {
    let context = source.spec.max_position_embeddings;
    let mut longest = 1;
    for (i, count) in counts.enumerate() {
        if count.tokens > context {
            return Err(Error::user(format!(
                "{}: record {} has {count}; the context of {} is {context} tokens. Shorten it",
                file.display(),
                i + 1,
                source.name
            )));
        }
        longest = longest.max(count.tokens);
    }
    Ok(longest)
}

/// Refuses ids outside the vocabulary before anything is computed, naming the record.
pub(crate) fn check_ids<'a>(
    source: &Source,
    file: &Path,
    records: impl Iterator<Item = &'a [u32]>,
) -> Result<()> {
    for (i, tokens) in records.enumerate() {
        crate::model::workspace::check_tokens(&source.spec, tokens).context(format!(
            "{}: record {}",
            file.display(),
            i + 1
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_workspace_holds_what_is_there() {
        let lengths = [3, 9, 4];
        assert_eq!(budget(None, lengths.into_iter()).unwrap(), 16);
        assert_eq!(budget(Some(10), lengths.into_iter()).unwrap(), 10);
        assert_eq!(budget(None, [5000, 5000].into_iter()).unwrap(), 5000);
        assert_eq!(budget(None, [2000, 2000].into_iter()).unwrap(), TOKEN_BUDGET);
        assert!(budget(Some(0), lengths.into_iter()).is_err());
    }
}
