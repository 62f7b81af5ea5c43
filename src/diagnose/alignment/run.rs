//! From a policy, a judge and prompts to pools with their Gram matrices.

use std::collections::HashMap;
use std::path::PathBuf;

use super::cosine::Pool;
use super::gram::GramBuilder;
use super::samples::{Draw, PromptSamples, SamplesMeta, Store};
use crate::config::MatmulPrecision;
use crate::error::{Context, Error, Result};
use crate::eval::weights::Hashes;
use crate::gpu::Gpu;
use crate::kernels::sample::SampleParams;
use crate::model::load::{Source, load_adapter};
use crate::model::params::Model;
use crate::report::Progress;
use crate::reward::{Item, Reward};
use crate::rollout::{SampleConfig, Sampler, SamplerShape};
use crate::tensor::DType;
use crate::text::{Formatter, PromptContent, TemplateDate, Tokenizer, sha256_hex};

/// Prompt tokens computed in one pass.
const PREFILL: usize = 512;

/// What to sample and where to keep it.
#[derive(Debug, Clone)]
pub struct AlignmentRun {
    /// The policy.
    pub model: String,
    /// Its LoRA adapter; `None` for the base policy.
    pub adapter: Option<PathBuf>,
    /// Element type of its matrices; see [`Source::dtype`].
    pub dtype: Option<DType>,
    /// What the device was set to, for the record.
    pub matmul_precision: MatmulPrecision,
    /// The judge's name, for the record.
    pub reward_model: String,
    /// The judge's adapter, for the record.
    pub reward_adapter: Option<PathBuf>,
    /// Element type of the judge, for the record.
    pub reward_dtype: Option<DType>,
    /// The prompts.
    pub prompts: Vec<PromptContent>,
    /// Responses a prompt, n.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Most tokens in a response.
    pub max_completion_length: usize,
    /// Sequences sampled together.
    pub rollout_batch: usize,
    /// Bytes that the gradients of one prompt's responses may take.
    pub memory: u64,
    /// Do not use the chat template.
    pub raw: bool,
    /// The date that templates see.
    pub date: TemplateDate,
    /// Directory of the samples and Gram matrices.
    pub output: PathBuf,
    /// Use what is there.
    pub resume: bool,
    /// Replace what is there.
    pub overwrite: bool,
}

/// Pools with what it took to get them.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// One a prompt, in order.
    pub pools: Vec<Pool>,
    /// Parameters of the last block: the dimension of the updates. `None` where no gradient was computed in this run.
    pub parameters: Option<usize>,
}

/// The policy's files and its view of the prompts.
struct Policy {
    source: Source,
    tokenizer: Tokenizer,
    prompts: Vec<Vec<u32>>,
}

/// Makes the judge where rewards are missing.
pub type Judge<'a> = dyn FnMut(&Gpu) -> Result<Box<dyn Reward>> + 'a;

impl AlignmentRun {
    fn meta(&self) -> Result<SamplesMeta> {
        let keys: String = self.prompts.iter().map(PromptContent::key).collect();
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string());
        let mut meta = SamplesMeta {
            model: self.model.clone(),
            adapter: path(&self.adapter),
            reward_model: self.reward_model.clone(),
            reward_adapter: path(&self.reward_adapter),
            prompts: sha256_hex(keys.as_bytes()),
            num_prompts: self.prompts.len(),
            samples: self.samples,
            seed: self.seed,
            max_completion_length: self.max_completion_length,
            raw: self.raw,
            template_date: self.date.to_string(),
            matmul_precision: self.matmul_precision,
            base_dtype: self.dtype.map(|d| d.to_string()),
            reward_dtype: self.reward_dtype.map(|d| d.to_string()),
            weights_sha256: Default::default(),
        };
        meta.weights_sha256 = Hashes::default().of_named(meta.named())?;
        Ok(meta)
    }

    fn check(&self) -> Result<()> {
        for (flag, n) in [
            ("--num-prompts", self.prompts.len()),
            ("--max-completion-length", self.max_completion_length),
            ("--rollout-batch", self.rollout_batch),
        ] {
            if n == 0 {
                return Err(Error::user(format!("{flag} must be at least 1")));
            }
        }
        if self.samples < 2 {
            return Err(Error::user(
                "--samples must be at least 2: a pool is compared within itself",
            ));
        }
        Ok(())
    }

    fn open(&self) -> Result<Policy> {
        let mut source = Source::open_causal(&self.model)?;
        let tokenizer = source.tokenizer()?;
        let context = source.spec.max_position_embeddings;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: self.raw,
            date: self.date,
            most: context.saturating_sub(self.max_completion_length),
        };
        let tokens = |(i, content): (usize, &PromptContent)| {
            let tokens = formatter.prompt(content)?;
            source.fits(tokens.count().plus(self.max_completion_length))?;
            tokens.ids().context(format!("prompt {}", i + 1))
        };
        let prompts = self
            .prompts
            .iter()
            .enumerate()
            .map(tokens)
            .collect::<Result<_>>()?;
        Ok(Policy {
            source,
            tokenizer,
            prompts,
        })
    }

    fn longest(policy: &Policy) -> usize {
        policy.prompts.iter().map(Vec::len).max().unwrap_or(1)
    }

    fn load(&self, gpu: &Gpu, policy: &Policy) -> Result<Model> {
        let dtype = policy.source.dtype(self.dtype)?;
        let positions = Self::longest(policy) + self.max_completion_length;
        let mut model = policy.source.load(gpu, dtype, positions, None)?;
        if let Some(dir) = &self.adapter {
            load_adapter(&mut model, dir, false)?;
        }
        Ok(model)
    }

    fn sampler(&self, policy: &Policy, model: &Model) -> Result<Sampler> {
        let sequences = self.rollout_batch.min(self.samples);
        let shape = SamplerShape {
            sequences,
            cache_rows: SamplerShape::rows_for(
                1,
                Self::longest(policy),
                sequences,
                self.max_completion_length,
            ),
            prefill_rows: PREFILL.min(Self::longest(policy)),
            rank: model.lora.as_ref().map_or(0, |l| l.rank),
            kv_cache_dtype: Default::default(),
        };
        Sampler::new(model, shape)
    }

    /// Samples and judges the prompts that `store` lacks.
    fn sample(
        &self,
        model: &Model,
        policy: &Policy,
        reward: &mut dyn Reward,
        store: &mut Store,
    ) -> Result<()> {
        let config = SampleConfig {
            params: SampleParams::PLAIN,
            max_completion_length: self.max_completion_length,
            stop: policy.source.spec.eos_token_ids.clone(),
            seed: self.seed,
            step: 0,
        };
        let sampler = self.sampler(policy, model)?;
        let mut draw = Draw {
            model,
            sampler,
            config,
        };
        let total = self.prompts.len();
        let mut progress = Progress::new("sampling", store.pools.len() as u64, total as u64);
        for p in store.pools.len()..total {
            let responses = draw.responses(&policy.prompts[p], p, self.samples)?;
            let rewards = judged(&self.prompts[p], &responses, &policy.tokenizer, reward)?;
            store.push(PromptSamples {
                prompt_index: p,
                prompt: policy.prompts[p].clone(),
                responses,
                rewards,
            })?;
            progress.step(p as u64 + 1, &[]);
        }
        progress.finish();
        Ok(())
    }

    /// Computes and keeps the Gram matrices that `store` lacks; the number of parameters they are over.
    fn products(&self, model: &mut Model, store: &Store, missing: &[usize]) -> Result<usize> {
        let Some(last) = model.spec.num_layers.checked_sub(1) else {
            return Err(Error::internal("a model without blocks"));
        };
        model.watch_block(last)?;
        let sizes = model.trainable();
        let parameters = sizes.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let rows = store
            .pools
            .iter()
            .flat_map(|p| p.responses.iter().map(|r| p.prompt.len() + r.len()))
            .max()
            .unwrap_or(1);
        let builder = GramBuilder::new(model, self.samples, rows, self.memory)?;
        if builder.sweeps() > 1 {
            log::warn!(
                "every gradient is computed {} times, because those of {} responses do not fit in --gram-memory at once",
                builder.sweeps(),
                self.samples
            );
        }
        let mut progress = Progress::new("gradients", 0, missing.len() as u64 * 1000);
        for (done, &p) in missing.iter().enumerate() {
            let pool = &store.pools[p];
            let gram = builder
                .gram(&pool.prompt, &pool.responses, &mut |at, of| {
                    progress.step((done * 1000 + at * 1000 / of.max(1)) as u64, &[]);
                })
                .context(format!("prompt {}", p + 1))?;
            store.keep(p, &gram)?;
        }
        progress.finish();
        Ok(parameters)
    }
}

/// Rewards of responses to one prompt; equal texts are judged once.
fn judged(
    prompt: &PromptContent,
    responses: &[Vec<u32>],
    tokenizer: &Tokenizer,
    reward: &mut dyn Reward,
) -> Result<Vec<f64>> {
    let texts = responses
        .iter()
        .map(|tokens| tokenizer.decode(tokens, true))
        .collect::<Result<Vec<String>>>()?;
    let (mut known, mut items) = (HashMap::new(), Vec::new());
    let at: Vec<usize> = texts
        .iter()
        .map(|text| {
            *known.entry(text.as_str()).or_insert_with(|| {
                items.push(Item {
                    prompt,
                    response: text,
                });
                items.len() - 1
            })
        })
        .collect();
    let rewards = reward.score(&items)?;
    Ok(at.into_iter().map(|i| rewards[i]).collect())
}

/// Samples, judges and takes the inner products of gradients, as far as `run.output` does not hold them already.
///
/// # Errors
/// As [`Source::open_causal`], [`Store::open`], [`Sampler::generate`], [`Reward::score`] and [`GramBuilder::gram`]; a prompt
/// that does not fit in the context with a response.
pub fn measure(
    gpu: &mut dyn FnMut() -> Result<Gpu>,
    run: &AlignmentRun,
    judge: &mut Judge<'_>,
) -> Result<Measured> {
    run.check()?;
    let policy = run.open()?;
    let mut store = Store::open(&run.output, run.meta()?, run.resume, run.overwrite)?;
    let missing = |store: &Store| -> Result<Vec<usize>> {
        let mut out = Vec::new();
        for p in 0..run.prompts.len() {
            if p >= store.pools.len() || store.gram(p)?.is_none() {
                out.push(p);
            }
        }
        Ok(out)
    };
    let wanted = missing(&store)?;
    let mut parameters = None;
    if !wanted.is_empty() {
        let gpu = gpu()?;
        let mut model = run.load(&gpu, &policy)?;
        if store.pools.len() < run.prompts.len() {
            let mut reward = judge(&gpu)?;
            run.sample(&model, &policy, reward.as_mut(), &mut store)?;
        }
        parameters = Some(run.products(&mut model, &store, &wanted)?);
    }
    let pool = |p: usize| {
        let gram = store.gram(p)?;
        Ok(Pool {
            rewards: store.pools[p].rewards.clone(),
            gram: gram.ok_or_else(|| Error::internal("a Gram matrix was lost"))?,
        })
    };
    let pools = (0..run.prompts.len()).map(pool).collect::<Result<_>>()?;
    Ok(Measured { pools, parameters })
}
