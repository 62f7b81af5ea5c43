//! `bench growth`.

use super::Common;
use crate::bench::growth::{self, Series};
use crate::bench::output::Header;
use crate::bench::train::Settings;
use crate::cli::Globals;
use crate::error::Result;
use crate::tensor::DType;

/// How a step's time and memory grow with responses, their length, prompts and model, beside the laws they should follow
///
/// A step samples, computes forward and backward passes and updates an adapter of random weights. Each series varies one size of the step that --batch,
/// --num-generations and --max-completion-length begin with. "law ×" is the step's operations (linear layers, head, attention) over those of the series'
/// first row, "time ×" its seconds likewise: where every part scales, time/law stays 1 or falls as the device fills.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu bench growth
  tea-wgpu bench growth --num-generations 16,64,256 --models random:llama-1b --base-dtype q4_0")]
pub(super) struct GrowthArgs {
    #[command(flatten)]
    common: Common,
    /// Models, as --model takes them elsewhere; the other series run the first
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "random:smollm2-135m,random:smollm2-360m,random:llama-1b",
        value_name = "MODEL,…"
    )]
    models: Vec<String>,
    /// Element type of the frozen weights
    #[arg(long)]
    base_dtype: Option<DType>,
    /// LoRA rank r
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// Prompts, B
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "B,…")]
    batch: Vec<usize>,
    /// Responses a prompt, m
    #[arg(long, value_delimiter = ',', default_value = "8,16,32", value_name = "M,…")]
    num_generations: Vec<usize>,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 32, value_name = "TOKENS")]
    prompt_length: usize,
    /// Tokens of a response
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "16,32,64,128",
        value_name = "TOKENS,…"
    )]
    max_completion_length: Vec<usize>,
    /// Most tokens in one forward and backward pass
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    token_budget: usize,
    /// Keep every layer's activations instead of recomputing them
    #[arg(long)]
    no_checkpointing: bool,
}

impl GrowthArgs {
    pub(super) fn run(&self, globals: &Globals) -> Result<()> {
        let first = |values: &[usize]| values.first().copied().unwrap_or(0);
        let base = Settings {
            batch: first(&self.batch),
            num_generations: first(&self.num_generations),
            prompt_length: self.prompt_length,
            max_completion_length: first(&self.max_completion_length),
            repetitions: self.common.repetitions.into(),
            token_budget: self.token_budget,
            no_checkpointing: self.no_checkpointing,
            activation_memory: None,
            dtype: Default::default(),
            optim: Default::default(),
            kv_cache_dtype: Default::default(),
            reference: false,
        };
        let model = self.models.first().map_or("", String::as_str);
        let series = [
            Series::of(
                "--num-generations",
                model,
                &base,
                &self.num_generations,
                |s, m| {
                    s.num_generations = m;
                },
            ),
            Series::of(
                "--max-completion-length",
                model,
                &base,
                &self.max_completion_length,
                |s, t| s.max_completion_length = t,
            ),
            Series::of("--batch", model, &base, &self.batch, |s, b| s.batch = b),
            Series::of_models(&self.models, &base),
        ];
        for (_, settings) in series.iter().flat_map(|s| &s.rows) {
            settings.validate()?;
        }
        let old = self.common.old()?;
        let open = || globals.open_gpu();
        let rows = growth::run(&series, self.base_dtype, self.lora_rank, &open)?;
        self.common
            .finish(&Header::new(open()?.report(), "growth"), &rows, old.as_ref())
    }
}
