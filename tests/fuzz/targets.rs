//! What is fuzzed: a name and a function that makes a case and reads it.

use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use tea_wgpu::error::Result;

mod answers;
mod data;
mod model;
mod run;
mod template;
mod text;

/// One reader of somebody else's bytes.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Makes a case, whose files go into the directory, and has it read.
    pub(crate) run: fn(&mut Unstructured<'_>, &Path) -> Drawn<Result<()>>,
}

/// Every target.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "safetensors",
        run: model::safetensors,
    },
    Target {
        name: "gguf",
        run: model::gguf,
    },
    Target {
        name: "config",
        run: model::config,
    },
    Target {
        name: "adapter",
        run: model::adapter,
    },
    Target {
        name: "tokenizer",
        run: text::tokenizer,
    },
    Target {
        name: "template",
        run: template::template,
    },
    Target {
        name: "rows",
        run: data::rows,
    },
    Target {
        name: "parquet",
        run: data::parquet,
    },
    Target {
        name: "run",
        run: run::directory,
    },
    Target {
        name: "judge",
        run: answers::judge,
    },
    Target {
        name: "hub",
        run: answers::hub,
    },
];
