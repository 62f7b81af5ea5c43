//! `demo-data`: the procedural instruction set and the starting point of the embedded models.

use super::common::tell;
use std::path::{Path, PathBuf};

use super::Globals;
use crate::config::{TEMPLATE_DATE, range};
use crate::demo::{self, Example, Preference, SampledGroup, Split};
use crate::error::Result;
use crate::eval::run::{Policy, PolicyOptions, Response, Sampling};
use crate::kernels::sample::SampleParams;
use crate::model::init::{random_tensors, write_model};
use crate::model::save::AtomicDir;
use crate::model::spec::{Family, Head, ModelSpec, Rope, RopeScaling};
use crate::run::{Dir, foreign_to_checkpoint, kinds};
use crate::text::PromptContent;

/// Write the demo's procedural instruction set, and a random model to train on it
///
/// OUTPUT gets prompts-{train,validation,held-out}.jsonl, sft.jsonl, preferences.jsonl, preferences-validation.jsonl and
/// init/, a Hugging Face directory of a randomly initialised Llama. With --samples-from it gets preference files alone,
/// made of that policy's own responses beside corrupted ones, ranked by the true score. The same flags write the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tea-wgpu demo-data --output build/demo
  tea-wgpu demo-data --output build/reward --samples-from runs/full/checkpoints/step_400 --train 4000")]
pub(crate) struct Args {
    /// Directory to write into
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Seed of prompts, corruptions, weights and samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Training prompts
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    train: usize,
    /// Validation prompts
    #[arg(long, value_name = "N", default_value_t = 256)]
    validation: usize,
    /// Held-out prompts
    #[arg(long, value_name = "N", default_value_t = 256)]
    held_out: usize,
    /// Share of supervised responses that are wrong, so that a policy trained on them keeps its variety
    #[arg(long, default_value_t = 0.25)]
    noise: f64,
    /// Preference pairs a prompt
    #[arg(long, value_name = "N", default_value_t = 2)]
    pairs: usize,
    #[command(flatten)]
    model: ModelArgs,
    /// Write preferences from this policy's responses instead
    #[arg(long, value_name = "MODEL")]
    samples_from: Option<String>,
    /// LoRA adapter directory of --samples-from
    #[arg(long, value_name = "DIR", requires = "samples_from")]
    adapter: Option<PathBuf>,
    /// Responses sampled for each prompt
    #[arg(long, value_name = "N", default_value_t = 12)]
    samples: usize,
    /// Sequences sampled together
    #[arg(long, value_name = "N", default_value_t = 512)]
    rollout_batch: usize,
}

/// Parameters of the random model, which is made in memory as float32: 4 GiB of them.
const MOST_PARAMETERS: u64 = 1 << 30;

/// Sizes of the random model.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Size of the random model")]
struct ModelArgs {
    /// Width of the residual stream
    #[arg(long, default_value_t = 128)]
    hidden_size: usize,
    /// Width of the MLP
    #[arg(long, default_value_t = 384)]
    intermediate_size: usize,
    /// Transformer blocks
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// Query heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Key/value heads
    #[arg(long, default_value_t = 2)]
    kv_heads: usize,
    /// Width of a head
    #[arg(long, default_value_t = 32)]
    head_dim: usize,
    /// Context in tokens
    #[arg(long, default_value_t = 128)]
    context: usize,
}

pub(crate) use crate::demo::COMPLETION;

impl Args {
    fn validate(&self) -> Result<()> {
        for (flag, prompts) in [("--train", self.train), ("--validation", self.validation)] {
            let pairs = [(flag, prompts as u64), ("--pairs", self.pairs as u64)];
            range::check_product(&pairs, range::RESPONSES, "pairs")?;
            if self.samples_from.is_some() {
                let all = [(flag, prompts as u64), ("--samples", self.samples as u64)];
                range::check_product(&all, range::RESPONSES, "responses")?;
            }
        }
        Ok(())
    }
}

impl ModelArgs {
    fn spec(&self) -> Result<ModelSpec> {
        let vocabulary = demo::vocabulary();
        let id = |token: &str| vocabulary.iter().position(|t| t == token).map(|i| i as u32);
        let spec = ModelSpec {
            family: Family::Llama,
            head: Head::CausalLm,
            vocab_size: vocabulary.len(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: self.layers,
            num_heads: self.heads,
            num_kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: 1e4,
                scaling: RopeScaling::None,
            },
            qkv_bias: false,
            o_bias: false,
            qk_norm: false,
            tie_word_embeddings: true,
            max_position_embeddings: self.context,
            pad_token_id: id(demo::PAD),
            eos_token_ids: id(demo::END).into_iter().collect(),
            bos_token_id: None,
        };
        spec.validate("the random model")?;
        let parameters = spec.num_parameters() as u64;
        range::check_product(&[("the sizes", parameters)], MOST_PARAMETERS, "parameters")?;
        Ok(spec)
    }
}

pub(crate) fn run(globals: &Globals, args: &Args) -> Result<()> {
    args.validate()?;
    let spec = args.model.spec()?;
    let held = Dir::hold(&args.output, &kinds::DEMO_DATA)?;
    held.begin()?;
    let train = demo::generate(args.seed, args.train, Split::Train);
    let validation = demo::generate(args.seed, args.validation, Split::Validation);
    match &args.samples_from {
        Some(policy) => sampled(globals, args, policy, &train, &validation),
        None => fresh(args, &spec, &train, &validation),
    }
}

/// Everything that needs no policy.
fn fresh(args: &Args, spec: &ModelSpec, train: &[Example], validation: &[Example]) -> Result<()> {
    let file = |name: &str| args.output.join(name);
    let held_out = demo::generate(args.seed, args.held_out, Split::HeldOut);
    demo::write_prompts(&file("prompts-train.jsonl"), train)?;
    demo::write_prompts(&file("prompts-validation.jsonl"), validation)?;
    demo::write_prompts(&file("prompts-held-out.jsonl"), &held_out)?;
    demo::write_sft(&file("sft.jsonl"), train, args.noise, args.seed)?;
    write_pairs(
        &args.output,
        &demo::preferences(train, args.pairs, args.seed),
        &demo::preferences(validation, args.pairs, args.seed),
    )?;
    let out = AtomicDir::create(&file("init"), foreign_to_checkpoint)?;
    let companions = [
        ("tokenizer.json", demo::tokenizer_json()),
        (
            "tokenizer_config.json",
            demo::tokenizer_config_json(args.model.context),
        ),
    ];
    write_model(&out, spec, &random_tensors(spec, args.seed), &companions)?;
    out.commit()?;
    tell(format_args!(
        "{}: {} training, {} validation and {} held-out prompts; init/ is a random model of {} parameters",
        args.output.display(),
        train.len(),
        validation.len(),
        held_out.len(),
        spec.num_parameters()
    ));
    Ok(())
}

/// Preferences from a policy's own responses: half of them between two of its responses, half of the right answer over
/// one of them; and as many pairs of corruptions as make a fifth, which show better and worse responses than it writes yet.
fn sampled(
    globals: &Globals,
    args: &Args,
    policy: &str,
    train: &[Example],
    validation: &[Example],
) -> Result<()> {
    let examples = [train, validation].concat();
    let contents: Vec<PromptContent> = examples
        .iter()
        .map(|e| PromptContent::Text(e.prompt.clone()))
        .collect();
    let gpu = globals.open_gpu()?;
    let options = PolicyOptions {
        adapter: args.adapter.as_deref(),
        dtype: None,
        max_completion_length: COMPLETION,
        raw: false,
        date: TEMPLATE_DATE.parse()?,
        prompts_file: None,
    };
    let sampling = Sampling {
        params: SampleParams::PLAIN,
        seed: args.seed,
        batch: args.rollout_batch,
        kv_cache_dtype: Default::default(),
    };
    let responses = Policy::load(&gpu, policy, &contents, &options)?.sample(args.samples, &sampling)?;
    let groups: Vec<SampledGroup> = examples.iter().zip(responses).map(|(e, r)| group(e, r)).collect();
    demo::write_jsonl(&args.output.join("samples.jsonl"), &groups)?;
    let (train_groups, validation_groups) = groups.split_at(train.len());
    let (between, against) = (args.pairs.div_ceil(2), args.pairs / 2);
    let mut train_pairs = demo::preferences_from_samples(train_groups, between, args.seed);
    train_pairs.extend(demo::preferences_for_answers(
        train,
        train_groups,
        against,
        args.seed,
    ));
    let own = train_pairs.len();
    train_pairs.extend(demo::preferences(train, args.pairs.div_ceil(4), args.seed));
    // What is reported as held-out accuracy is about the policy's own responses alone.
    let validation_pairs = demo::preferences_from_samples(validation_groups, args.pairs, args.seed);
    write_pairs(&args.output, &train_pairs, &validation_pairs)?;
    tell(format_args!(
        "{}: {} pairs ({own} with the policy's own responses, {} of corruptions), {} validation pairs",
        args.output.display(),
        train_pairs.len(),
        train_pairs.len() - own,
        validation_pairs.len()
    ));
    Ok(())
}

/// What the policy answered.
fn group(example: &Example, responses: Vec<Response>) -> SampledGroup {
    SampledGroup {
        prompt: example.prompt.clone(),
        responses: responses.into_iter().map(|r| r.text).collect(),
    }
}

fn write_pairs(output: &Path, train: &[Preference], validation: &[Preference]) -> Result<()> {
    demo::write_preferences(&output.join("preferences.jsonl"), train)?;
    demo::write_preferences(&output.join("preferences-validation.jsonl"), validation)
}
