//! `diagnose alignment`: cosine of every rule's update with the oracle's.

use std::cell::Cell;
use std::path::PathBuf;

use serde::Serialize;

use crate::advantage::{OracleParams, Rule, RuleOptions};
use crate::cli::Globals;
use crate::cli::common::Lines;
use crate::cli::models::ModelFlags;
use crate::config::TINY;
use crate::demo::{self, Split};
use crate::diagnose::Report;
use crate::diagnose::alignment::{
    Alignment, AlignmentRun, AlignmentSettings, align, differences, measure, plot, table, table_with_zeros,
};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::run::{Dir, kinds};
use crate::text::PromptContent;
use crate::train::memory;
use crate::train::prompts::{self, Purpose};

/// Cosine of every rule's update from m samples with the oracle's update from a whole pool
///
/// For every prompt --samples responses are drawn and judged, and the Gram matrix of their gradients ∇ log π over the last
/// block's weights is taken once; every rule, m and seed is then a quadratic form. OUTPUT gets settings.json, samples.jsonl and
/// gram/, which --resume uses again (other --rules, --group-sizes or --seeds cost seconds), and alignment.json, .svg and .png.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu diagnose alignment --output diag/alignment
  tea-wgpu diagnose alignment --model smollm2-135m --reward-model DIR --prompts prompts.jsonl --samples 128 \\
      --group-sizes 16,64 --rules tea,grpo --max-completion-length 64 --output diag/smollm2
  tea-wgpu diagnose alignment --output diag/alignment --resume --rules tea --alpha 0.1 --bon 64")]
pub(crate) struct Args {
    #[command(flatten)]
    models: ModelFlags,
    /// Prompts used, from the first
    #[arg(long, value_name = "N", default_value_t = 32)]
    num_prompts: usize,
    /// Responses sampled for each prompt: the pool
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Group sizes m
    #[arg(long, value_name = "M,…", value_delimiter = ',', default_values_t = [16, 32, 64, 128, 256, 512])]
    group_sizes: Vec<usize>,
    /// Rules compared (default: all; `oracle` takes the group for its pool)
    #[arg(long, value_name = "RULE,…", value_delimiter = ',')]
    rules: Vec<Rule>,
    /// Random groups a prompt and size
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: usize,
    /// Rule that the others are compared with, paired by prompt
    #[arg(long, value_name = "RULE", default_value = "grpo")]
    baseline: Rule,
    /// Settings of the rules that know them; --bon is also the oracle's (default 128).
    #[command(flatten)]
    rule: RuleOptions,
    /// Seed of samples and groups
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Most tokens in a response (default: 24 for the embedded model, else 256)
    #[arg(long, value_name = "TOKENS")]
    max_completion_length: Option<usize>,
    /// MiB for the gradients of one prompt's responses; with less than samples × the block's parameters × 4 bytes they are
    /// computed several times
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    gram_memory: u64,
    /// Directory of samples, Gram matrices and results
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Use the samples and Gram matrices in --output
    #[arg(long)]
    resume: bool,
    /// Replace what is in --output
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Print alignment.json instead of the tables
    #[arg(long)]
    json: bool,
}

/// alignment.json.
#[derive(Serialize)]
struct Found<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a PathBuf>,
    reward_model: &'a str,
    samples: usize,
    #[serde(flatten)]
    alignment: &'a Alignment,
}

impl Args {
    pub(crate) fn run(&self, globals: &Globals) -> Result<()> {
        let _held = Dir::hold(&self.output, &kinds::ALIGNMENT)?;
        let settings = self.settings()?;
        let run = self.alignment_run()?;
        // What is free before the policy is there.
        let free = Cell::new(None);
        let mut gpu = || {
            let gpu = self.models.precision.open_gpu(globals)?;
            free.set(memory::free(&gpu)?);
            Ok(gpu)
        };
        let mut judge = |gpu: &Gpu| self.models.judge(gpu, &run.reward_model, free.get());
        let measured = measure(&mut gpu, &run, &mut judge)?;
        let found = align(&measured.pools, &settings)?;
        let value = Found {
            model: &self.models.model,
            adapter: self.models.adapter.as_ref(),
            reward_model: &run.reward_model,
            samples: self.samples,
            alignment: &found,
        };
        let report = Report {
            name: "alignment",
            value: &value,
            plots: vec![("alignment".to_string(), plot(&found))],
        };
        report.write(&self.output)?;
        let mut out = Lines::new();
        match self.json {
            true => out.push(&value)?,
            false => self.text(&found, measured.parameters, &mut out),
        }
        out.tell();
        Ok(())
    }

    fn settings(&self) -> Result<AlignmentSettings> {
        let named = if self.rules.is_empty() {
            Rule::ALL.to_vec()
        } else {
            self.rules.clone()
        };
        if let Some(m) = self.group_sizes.iter().find(|m| **m < 2 || **m > self.samples) {
            return Err(Error::user(format!(
                "--group-sizes {m}: a group is drawn from the pool, so it must be from 2 to --samples ({})",
                self.samples
            )));
        }
        Ok(AlignmentSettings {
            rules: named.into_iter().map(|r| r.with(&self.rule)).collect(),
            sizes: self.group_sizes.clone(),
            seeds: self.seeds,
            seed: self.seed,
            bon: self.rule.bon.unwrap_or(OracleParams::DEFAULT.bon),
            baseline: Some(self.baseline.name().to_string()),
        })
    }

    fn contents(&self) -> Result<Vec<PromptContent>> {
        let all: Vec<PromptContent> = match &self.models.prompts {
            Some(file) => prompts::read(file, None, Purpose::Other)?
                .records
                .into_iter()
                .map(|r| r.prompt)
                .collect(),
            None if self.models.model == TINY => demo::generate(self.seed, self.num_prompts, Split::HeldOut)
                .into_iter()
                .map(|e| PromptContent::Text(e.prompt))
                .collect(),
            None => return Err(Error::user("no prompts: give --prompts FILE")),
        };
        if all.len() < self.num_prompts {
            return Err(Error::user(format!(
                "--num-prompts {}: the file has {} prompts; lower it or give a longer file",
                self.num_prompts,
                all.len()
            )));
        }
        Ok(all.into_iter().take(self.num_prompts).collect())
    }

    fn alignment_run(&self) -> Result<AlignmentRun> {
        let models = &self.models;
        let tiny = if models.model == TINY { 24 } else { 256 };
        Ok(AlignmentRun {
            model: models.model.clone(),
            adapter: models.adapter.clone(),
            dtype: models.base_dtype,
            matmul_precision: models.precision.matmul_precision,
            reward_model: models.reward_name()?,
            reward_adapter: models.reward_adapter.clone(),
            reward_dtype: models.reward_dtype,
            prompts: self.contents()?,
            samples: self.samples,
            seed: self.seed,
            max_completion_length: self.max_completion_length.unwrap_or(tiny),
            rollout_batch: models.rollout_batch,
            memory: self.gram_memory.saturating_mul(1 << 20),
            raw: models.raw,
            date: models.template_date,
            output: self.output.clone(),
            resume: self.resume,
            overwrite: self.overwrite,
        })
    }

    fn text(&self, a: &Alignment, parameters: Option<usize>, out: &mut Lines) {
        out.text(&format!(
            "Cosine with the oracle's update (N = {}): {} prompts, {} responses each ({:.0} distinct), {} groups a prompt and \
             size{}\n\n{}",
            a.settings.bon,
            a.prompts - a.no_oracle.len(),
            self.samples,
            a.distinct_responses,
            a.settings.seeds,
            parameters.map_or(String::new(), |p| format!(", over {p} parameters")),
            table(a).markdown()
        ));
        out.text(
            "Mean over prompts ± standard error. Groups whose update is zero are left out; \"no signal\" is their share, over \
             the sizes.",
        );
        out.text(&format!(
            "\nThe same with 0 for those groups, so that every rule is seen on the same ones; in brackets the share of groups with \
             a signal:\n\n{}",
            table_with_zeros(a).markdown()
        ));
        for (with_zeros, which) in [
            (false, "over groups with a signal"),
            (true, "with 0 for groups without a signal"),
        ] {
            if let Some(table) = differences(a, with_zeros) {
                out.text(&format!(
                    "Difference of the cosine, paired by prompt, {which}, 95% bootstrap interval:\n\n{}",
                    table.markdown()
                ));
            }
        }
        if a.differences
            .iter()
            .filter_map(|d| d.interval)
            .any(|i| i.ends().is_none())
        {
            out.text("n/a: one prompt has no spread over prompts, and so no interval.\n");
        }
        if !a.no_oracle.is_empty() {
            out.text(&format!(
                "Left out, because all rewards of the pool are equal: prompts {:?}.",
                a.no_oracle
            ));
        }
        let failed = a.cells.iter().filter(|cell| cell.error.is_some());
        let failed: Vec<_> = failed.collect();
        for same in failed.chunk_by(|x, y| x.rule == y.rule && x.error == y.error) {
            let sizes: Vec<String> = same.iter().map(|cell| cell.m.to_string()).collect();
            let error = same[0].error.as_deref().unwrap_or_default();
            out.text(&format!("{} at m = {}: {error}", same[0].rule, sizes.join(", ")));
        }
        out.text(&format!("Written to {}", self.output.display()));
    }
}
