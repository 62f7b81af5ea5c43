//! What a file may make this program take: one list of named limits, told before memory is taken.
//!
//! The limits are far above what real files need. [`set_file_memory`] (`--max-file-memory`) raises all of them in
//! proportion, except those of depth, which protect the stack.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes that one file may take of memory, unless `--max-file-memory` says otherwise.
pub const FILE_MEMORY: u64 = 8 << 30;

static MEMORY: AtomicU64 = AtomicU64::new(FILE_MEMORY);

/// Sets what one file may take of memory, in bytes. The other limits grow in proportion; none falls below its default.
///
/// Called once, by the command line, before any file is read.
pub fn set_file_memory(bytes: u64) {
    MEMORY.store(bytes, Ordering::Relaxed);
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things, whose name in the plural this is.
    Count(&'static str),
    /// Levels of nesting: `--max-file-memory` does not raise these.
    Levels,
}

/// A named limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, as in "a row of a data file".
    pub what: &'static str,
    /// The most, unless `--max-file-memory` raises it.
    pub default: u64,
    /// What is counted.
    pub unit: Unit,
}

impl Limit {
    /// A limit in bytes.
    pub const fn bytes(what: &'static str, default: u64) -> Self {
        Self {
            what,
            default,
            unit: Unit::Bytes,
        }
    }

    /// A limit of how many `things`, a noun in the plural.
    pub const fn count(what: &'static str, default: u64, things: &'static str) -> Self {
        Self {
            what,
            default,
            unit: Unit::Count(things),
        }
    }

    /// A limit of nesting.
    pub const fn levels(what: &'static str, default: u64) -> Self {
        Self {
            what,
            default,
            unit: Unit::Levels,
        }
    }

    /// The most that is taken.
    pub fn most(&self) -> u64 {
        let memory = MEMORY.load(Ordering::Relaxed);
        if self.unit == Unit::Levels || memory <= FILE_MEMORY {
            return self.default;
        }
        let raised = u128::from(self.default) * u128::from(memory) / u128::from(FILE_MEMORY);
        u64::try_from(raised).unwrap_or(u64::MAX)
    }

    /// Checks that `found` is within the limit; `place` is the file, and where in it.
    ///
    /// # Errors
    /// `found` is more: the place, both numbers and what raises the limit.
    pub fn check(&self, place: impl Display, found: impl TryInto<u64>) -> Result<()> {
        match found.try_into() {
            Ok(found) if found <= self.most() => Ok(()),
            Ok(found) => Err(self.error(place, &self.amount(found))),
            Err(_) => Err(self.error(place, "more than can be counted")),
        }
    }

    /// As [`Limit::check`] where it is only known that there is more than the limit.
    pub fn exceeded(&self, place: impl Display) -> Error {
        self.error(place, "more")
    }

    fn error(&self, place: impl Display, found: &str) -> Error {
        let way = match self.unit {
            Unit::Levels => "no real file nests this deep; get it from another source",
            _ => "if the file is meant to be so large, raise the limits with --max-file-memory",
        };
        let (what, most) = (self.what, self.amount(self.most()));
        Error::user(format!(
            "{place}: {what}: {found}, where the limit is {most} ({way})"
        ))
    }

    /// A number of what is counted, in words.
    pub fn amount(&self, n: u64) -> String {
        match self.unit {
            Unit::Bytes => bytes(n),
            Unit::Count(things) => format!("{n} {things}"),
            Unit::Levels => format!("{n} levels"),
        }
    }
}

/// Bytes in words: `512 B`, `64 MiB`, `1.5 GiB`.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1 << 10 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// A file of settings or JSON that is read whole: `config.json`, `config.toml`, `adapter_config.json`, ….
pub const SETTINGS_FILE: Limit = Limit::bytes("size of a settings file", 64 << 20);
/// A file that is read whole and grows with the work done: metrics, journals, completions.
pub const WHOLE_FILE: Limit = Limit::bytes("size of a file that is read whole", FILE_MEMORY);
/// Nesting of JSON and TOML.
pub const NESTING: Limit = Limit::levels("nesting", 128);

/// The text of a chat template.
pub const TEMPLATE_SIZE: Limit = Limit::bytes("size of a chat template", 1 << 20);
/// A chat template's expressions, each operator, filter, name or open bracket of which is a level; and `elif`s of an `if`.
pub const TEMPLATE_NESTING: Limit = Limit::levels("nesting of an expression", 1000);
/// Blocks and brackets of a chat template that lie in one another, a bracket being two levels: what minijinja's parser
/// takes.
pub const TEMPLATE_PARSER: Limit =
    Limit::levels("nesting of blocks (one level each) and brackets (two)", 150);
/// Macros, blocks and recursive loops of a chat template that run in one another: what minijinja runs.
pub const TEMPLATE_CALLS: Limit = Limit::levels("nesting of macros and loops that run", 500);
/// What one rendering of a chat template may do. Each byte of the conversation adds sixteen.
pub const TEMPLATE_STEPS: Limit = Limit::count("work of one rendering", 16 << 20, "steps");
/// A text that a chat template makes, the prompt among them.
pub const TEMPLATE_TEXT: Limit = Limit::bytes("length of a text", 32 << 20);
/// Lists and dicts that a chat template puts into one another.
pub const TEMPLATE_VALUES: Limit = Limit::levels("nesting of a value", 200);
/// `tokenizer.json`, read whole.
pub const TOKENIZER_FILE: Limit = Limit::bytes("size of a tokenizer", 256 << 20);
/// Tokens of a model's vocabulary.
pub const VOCABULARY: Limit = Limit::count("vocabulary", 4 << 20, "tokens");
/// Text of a Unigram vocabulary, which becomes a tree with a node per byte.
pub const UNIGRAM_TEXT: Limit = Limit::bytes("text of a Unigram vocabulary", 16 << 20);
/// Merges of a BPE model.
pub const MERGES: Limit = Limit::count("merges of a vocabulary", 16 << 20, "merges");
/// Text of the merges that are found for a SentencePiece vocabulary.
pub const MERGES_TEXT: Limit = Limit::bytes("text of the merges of a vocabulary", 512 << 20);
/// Text that is looked up while those merges are found: the squares of the tokens' lengths.
pub const SPLITS_TEXT: Limit = Limit::bytes("splits of a vocabulary's tokens", 2 << 30);
/// Added and special tokens of a tokenizer.
pub const ADDED_TOKENS: Limit = Limit::count("added tokens", 1 << 20, "tokens");
/// Text of the added and special tokens, which becomes a tree with a node per byte.
pub const ADDED_TOKENS_TEXT: Limit = Limit::bytes("text of the added tokens", 8 << 20);
/// Steps of a tokenizer's normalizer, pre-tokenizer, post-processor or decoder.
pub const TOKENIZER_STEPS: Limit = Limit::count("steps", 512, "steps");
/// The text of those steps.
pub const TOKENIZER_STEPS_SIZE: Limit = Limit::bytes("size of the steps", 16 << 20);
/// Regular expressions of a tokenizer's steps: characters times repetitions.
pub const TOKENIZER_PATTERNS: Limit =
    Limit::count("regular expressions", 32 << 10, "characters and repetitions");
/// Text that a tokenizer's steps make of another that is more than eight times shorter.
pub const GROWN_TEXT: Limit = Limit::bytes("text that a tokenizer makes of a short one", 16 << 20);
/// A text that is tokenised at once. The tokenizer takes about 130 bytes of memory for each of its bytes.
pub const TOKENIZED: Limit = Limit::bytes("length of a text that is tokenised", 32 << 20);
/// The text of one row of a data file, and one value of a Parquet file.
pub const ROW: Limit = Limit::bytes("size of a row", 128 << 20);
/// One row of a data file as it stands in memory.
pub const ROW_MEMORY: Limit = Limit::bytes("memory of a row", 512 << 20);
/// The rows of data files that a command holds at a time.
pub const ROWS: Limit = Limit::bytes("memory of the rows that are held", FILE_MEMORY);
/// The header of a CSV file.
pub const CSV_HEADER: Limit = Limit::bytes("size of a CSV header", 1 << 20);
/// The cells of one row of a CSV file.
pub const CSV_CELLS: Limit = Limit::count("width of a CSV row", 1 << 20, "cells");
/// A data file that cannot be read where it lies: Parquet from a pipe, from gzip or zstd, and what is hashed from a pipe.
pub const HELD: Limit = Limit::bytes(
    "size of data from a pipe or a compressed file that must be held in memory",
    1 << 30,
);
/// The data of a file that makes more than [`UNPACKED_RATIO`] bytes of one.
pub const UNPACKED: Limit = Limit::bytes("data that unpack to more than 1000 times their size", 256 << 20);
/// How many bytes a byte of a file may become before [`UNPACKED`] counts.
pub const UNPACKED_RATIO: u64 = 1000;
/// The values of Parquet files that hold more than [`VALUES_RATIO`] for each of their bytes.
pub const VALUES: Limit = Limit::count(
    "Parquet data of more than 1000 values per byte",
    10_000_000,
    "values",
);
/// How many values a byte of a Parquet file may hold before [`VALUES`] counts. A column whose rows are all the same holds
/// about 400 as pyarrow writes it, and 650 as DuckDB does.
pub const VALUES_RATIO: u64 = 1000;
/// The rows of compressed text that holds more than [`TEXT_ROWS_RATIO`] for each byte.
pub const TEXT_ROWS: Limit = Limit::count(
    "compressed text of more than 100 rows per byte",
    10_000_000,
    "rows",
);
/// How many rows a byte of compressed text may hold before [`TEXT_ROWS`] counts.
pub const TEXT_ROWS_RATIO: u64 = 100;
/// Bytes of a compressed file in a row that hold no data (frames to be skipped, empty members).
pub const SKIPPED: Limit = Limit::bytes("compressed bytes without data", 256 << 20);
/// The window of a zstd frame.
pub const ZSTD_WINDOW: Limit = Limit::bytes("window of a zstd frame", 128 << 20);
/// The footer of a Parquet file.
pub const PARQUET_FOOTER: Limit = Limit::bytes("size of a Parquet footer", 32 << 20);
/// The footer of a Parquet file as it stands in memory: columns, row groups, and the paths of nested columns.
pub const PARQUET_FOOTER_MEMORY: Limit = Limit::bytes("memory of a Parquet footer", 512 << 20);
/// The nesting of a Parquet file's columns.
pub const PARQUET_NESTING: Limit = Limit::levels("nesting of Parquet columns", 32);
/// The header of a Parquet page.
pub const PARQUET_PAGE_HEADER: Limit = Limit::bytes("size of a Parquet page header", 16 << 20);
/// The pages that are read at a time, of all columns that are wanted.
pub const PARQUET_PAGES: Limit = Limit::bytes("memory of the Parquet pages that are read at a time", 1 << 30);
/// The items of lists that are read at a time from one column.
pub const PARQUET_ITEMS: Limit = Limit::count("lists of a Parquet page", 1 << 24, "items");
/// The files below a directory of data.
pub const DATA_FILES: Limit = Limit::count("size of a data directory", 1 << 20, "files and directories");
/// The nesting of a directory of data.
pub const DATA_NESTING: Limit = Limit::levels("nesting of a data directory", 64);
/// The JSON before the tensors of a safetensors file; the format's own limit.
pub const SAFETENSORS_HEADER: Limit = Limit::bytes("size of a safetensors header", 100_000_000);
/// Tensors of a model or an adapter, all of its files together.
pub const TENSORS: Limit = Limit::count("number of tensors", 1 << 20, "tensors");
/// The name of a tensor.
pub const TENSOR_NAME: Limit = Limit::bytes("length of a tensor's name", 4096);
/// What stands before the tensors of a GGUF file: metadata, vocabulary, directory of tensors.
pub const GGUF_HEADER: Limit = Limit::bytes("size of the metadata of a GGUF file", 256 << 20);
/// Entries of a GGUF file's metadata.
pub const GGUF_ENTRIES: Limit = Limit::count("number of metadata entries", 1 << 16, "entries");
/// The key of a GGUF file's metadata entry.
pub const GGUF_KEY: Limit = Limit::bytes("length of a metadata key", 1 << 16);
/// An array in a GGUF file's metadata, above all a vocabulary or its merges.
pub const GGUF_ARRAY: Limit = Limit::count("length of a metadata array", 1 << 22, "elements");
/// All arrays in a GGUF file's metadata together.
pub const GGUF_ELEMENTS: Limit = Limit::count("length of all metadata arrays", 1 << 24, "elements");
/// What follows the last tensor of a GGUF file.
pub const GGUF_TAIL: Limit = Limit::bytes("size of what follows the last tensor", 64 << 20);
/// Module names, blocks or patterns in one setting of an adapter; a setting for each layer of the largest models is far below.
pub const ADAPTER_NAMES: Limit = Limit::count("length of an adapter's setting", 1 << 16, "entries");
/// Regular expressions in one setting of an adapter.
pub const ADAPTER_PATTERNS: Limit = Limit::count("number of an adapter's patterns", 1 << 12, "patterns");
/// A regular expression of an adapter's setting.
pub const ADAPTER_PATTERN: Limit = Limit::bytes("length of an adapter's pattern", 1 << 16);
/// Tokens that end a response.
pub const END_TOKENS: Limit = Limit::count("number of end tokens", 1 << 12, "tokens");
/// Files that a model's weights are spread over.
pub const WEIGHT_FILES: Limit = Limit::count("number of weight files", 1 << 12, "files");

/// What a driver kept of compiled pipelines; a larger file is left alone and written anew.
pub const PIPELINE_CACHE: Limit = Limit::bytes("size of a pipeline cache", 1 << 30);
/// The head of an answer of a hub.
pub const HUB_HEADERS: Limit = Limit::bytes("size of the head of an answer", 64 << 10);
/// A hub's list of a repository's files.
pub const HUB_LISTING: Limit = Limit::bytes("size of a list of files", 64 << 20);
/// Files in that list.
pub const HUB_FILES: Limit = Limit::count("files of a repository", 1_000_000, "files");
/// A file beside a model's weights that is downloaded: tokenizer, configuration, index.
pub const HUB_TEXT: Limit = Limit::bytes("size of a file beside the weights", 512 << 20);
/// A file of weights or data that is downloaded.
pub const HUB_FILE: Limit = Limit::bytes("size of a downloaded file", 4 << 40);
/// A stored access token, or what the cache keeps of a branch.
pub const HUB_TOKEN: Limit = Limit::bytes("size of a stored token or reference", 64 << 10);

/// Every limit, in the order of `docs/reference/limits.md`.
pub const ALL: &[&Limit] = &[
    &SETTINGS_FILE,
    &WHOLE_FILE,
    &NESTING,
    &TEMPLATE_SIZE,
    &TEMPLATE_NESTING,
    &TEMPLATE_PARSER,
    &TEMPLATE_CALLS,
    &TEMPLATE_STEPS,
    &TEMPLATE_TEXT,
    &TEMPLATE_VALUES,
    &TOKENIZER_FILE,
    &VOCABULARY,
    &UNIGRAM_TEXT,
    &MERGES,
    &MERGES_TEXT,
    &SPLITS_TEXT,
    &ADDED_TOKENS,
    &ADDED_TOKENS_TEXT,
    &TOKENIZER_STEPS,
    &TOKENIZER_STEPS_SIZE,
    &TOKENIZER_PATTERNS,
    &GROWN_TEXT,
    &TOKENIZED,
    &ROW,
    &ROW_MEMORY,
    &ROWS,
    &CSV_HEADER,
    &CSV_CELLS,
    &HELD,
    &UNPACKED,
    &VALUES,
    &TEXT_ROWS,
    &SKIPPED,
    &ZSTD_WINDOW,
    &PARQUET_FOOTER,
    &PARQUET_FOOTER_MEMORY,
    &PARQUET_NESTING,
    &PARQUET_PAGE_HEADER,
    &PARQUET_PAGES,
    &PARQUET_ITEMS,
    &DATA_FILES,
    &DATA_NESTING,
    &SAFETENSORS_HEADER,
    &TENSORS,
    &TENSOR_NAME,
    &GGUF_HEADER,
    &GGUF_ENTRIES,
    &GGUF_KEY,
    &GGUF_ARRAY,
    &GGUF_ELEMENTS,
    &GGUF_TAIL,
    &WEIGHT_FILES,
    &ADAPTER_NAMES,
    &ADAPTER_PATTERNS,
    &ADAPTER_PATTERN,
    &END_TOKENS,
    &PIPELINE_CACHE,
    &HUB_HEADERS,
    &HUB_LISTING,
    &HUB_FILES,
    &HUB_TEXT,
    &HUB_FILE,
    &HUB_TOKEN,
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// `docs/reference/limits.md` as this list makes it.
    fn page() -> String {
        let mut out = format!(
            "# Limits\n\n\
             Files, servers and templates may take no more than this. Each limit is checked before memory is\n\
             taken, and lies far above what real files need.\n\n\
             `--max-file-memory SIZE` (or `TEA_MAX_FILE_MEMORY`; default {}) raises all limits in proportion,\n\
             except those in levels, which protect the stack.\n\n\
             This page is made from `src/file/limits.rs`. `TEA_WRITE_DOCS=1 cargo test --lib file::limits`\n\
             writes it, and a test compares.\n\n\
             | what | at most | with `--max-file-memory` |\n|---|--:|---|\n",
            bytes(FILE_MEMORY)
        );
        for limit in ALL {
            let raised = if limit.unit == Unit::Levels {
                "the same"
            } else {
                "more in proportion"
            };
            out += &format!(
                "| {} | {} | {raised} |\n",
                limit.what,
                limit.amount(limit.default)
            );
        }
        out + "\n[Settings](settings.md) have ranges, and so have other flags (`src/config/range.rs`). An error names\nflag and range.\n"
    }

    #[test]
    fn the_page_of_limits_is_this_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/limits.md");
        if std::env::var_os("TEA_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == page(),
            "{path} is old: TEA_WRITE_DOCS=1 cargo test --lib file::limits"
        );
        let mut names: Vec<&str> = ALL.iter().map(|l| l.what).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "two limits of one name");
    }

    #[test]
    fn the_place_and_both_numbers_are_said() {
        let limit = Limit::bytes("size of a header", 1536);
        assert!(limit.check("a.bin", 1536u32).is_ok());
        let said = limit.check("a.bin", 5u64 << 30).unwrap_err().to_string();
        assert!(
            said.starts_with("a.bin: size of a header: 5 GiB, where the limit is 1.5 KiB"),
            "{said}"
        );
        assert!(said.contains("--max-file-memory"), "{said}");
        let said = limit.check("a.bin", u128::MAX).unwrap_err().to_string();
        assert!(said.contains("more than can be counted"), "{said}");
        let said = NESTING.exceeded("a.json").to_string();
        assert!(
            !said.contains("--max-file-memory") && said.contains("128 levels"),
            "{said}"
        );
    }
}
