//! From settings to loaded models, prompts and buffers.

use super::device_step::DeviceStep;
use super::dtype::parse_dtype;
use super::fit::Fit;
use super::prompts::{self, Limit};
use super::rl::{Prompt, Trainer};
use super::sizes::Sizes;
use crate::advantage::{Alpha, Rule, RuleOptions};
use crate::config::{Residency, TrainConfig, range};
use crate::error::{Context, Error, Result};
use crate::gpu::{BufferLimits, Gpu};
use crate::model::alias::alias;
use crate::model::load::Source;
use crate::model::params::Model;
use crate::model::pieces::PIECE_TOKENS;
use crate::model::plan::Plan;
use crate::model::workspace::{Shape, Workspace};
use crate::reward::{self, Reward, RewardOptions};
use crate::text::{Formatter, TemplateDate, Tokenizer};
use clap::ValueEnum;

/// The name of the default reward model of a policy, from `models/aliases.toml`.
pub fn default_reward(model: &str) -> Option<String> {
    alias(model).ok().flatten().and_then(|a| a.reward)
}

/// The rule that the settings name, with its parameters.
///
/// # Errors
/// An unknown rule, or a parameter out of range for groups of this size.
pub fn rule(c: &TrainConfig) -> Result<Rule> {
    let named = Rule::from_str(&c.advantage, true).ok().filter(Rule::trains);
    let named = named.ok_or_else(|| {
        let known: Vec<&str> = Rule::ALL.iter().filter(|r| r.trains()).map(Rule::name).collect();
        Error::user(format!(
            "--advantage {}: not a rule to train with; choose one of {}",
            c.advantage,
            known.join(", ")
        ))
    })?;
    let alpha: Alpha = c.alpha.parse::<Alpha>().context("--alpha")?;
    let rule = named.with(&RuleOptions {
        alpha: Some(alpha),
        bon: c.bon,
        min_scale: Some(c.min_scale),
        prefix_order: c.prefix_order,
        prefixes: c.prefixes,
        max_at_k: c.max_at_k,
        selection_size: c.selection_size,
        gpd_shrinkage: c.gpd_shrinkage,
        risk_beta: c.risk_beta,
        quantile: c.quantile,
        max_advantage: c.max_advantage,
    });
    rule.validate(c.num_generations)?;
    Ok(rule)
}

/// What a run needs on the host before anything is allocated on the device.
pub struct Job {
    /// The settings.
    pub config: TrainConfig,
    /// The advantage rule.
    pub rule: Rule,
    /// The policy's files.
    pub source: Source,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Prompts, tokenised.
    pub prompts: Vec<Prompt>,
    /// Prompts that checkpoints are selected by, tokenised; none where nothing is selected.
    pub validation: Vec<Prompt>,
    /// The longest prompt and response together, in tokens.
    pub positions: usize,
    date: TemplateDate,
    pub(super) fit: Fit,
}

impl Job {
    /// Reads and checks everything that can be checked without a device.
    ///
    /// # Errors
    /// Whatever is wrong with settings, files or prompts; nothing has been written.
    pub fn open(mut config: TrainConfig) -> Result<Self> {
        let rule = rule(&config)?;
        let date: TemplateDate = config
            .template_date
            .parse::<TemplateDate>()
            .context("--template-date")?;
        let training = prompts::training(&mut config)?;
        let validation = prompts::validation(&config)?;
        let mut source = Source::open_causal(&config.model)?;
        let tokenizer = source.tokenizer()?;
        let formatter = Formatter {
            tokenizer: &tokenizer,
            raw: config.raw,
            date,
            most: usize::MAX,
        };
        let length = config.max_completion_length;
        let room = source.spec.max_position_embeddings.saturating_sub(length);
        let asked = config.max_prompt_length;
        let training = prompts::tokenise(training, &formatter, Limit { asked, room })?;
        let mut positions = training.positions(&source, length)?;
        let mut judging = Vec::new();
        if let Some(validation) = validation {
            let validation = prompts::tokenise(validation, &formatter, Limit { asked: None, room })?;
            positions = positions.max(validation.positions(&source, length)?);
            judging = validation.prompts;
            judging.truncate(config.validation_size);
            let all = [
                ("validation prompts", judging.len() as u64),
                ("--validation-samples", config.validation_samples as u64),
            ];
            range::check_product(&all, range::RESPONSES, "responses of a validation")?;
        }
        let fit = Fit::of(&config);
        Ok(Self {
            config,
            rule,
            source,
            tokenizer,
            prompts: training.prompts,
            validation: judging,
            positions,
            date,
            fit,
        })
    }

    /// What decides the run's memory.
    pub fn sizes(&self) -> Sizes<'_> {
        Sizes {
            config: &self.config,
            source: &self.source,
            positions: self.positions,
            fit: self.fit,
        }
    }

    /// The forward and backward buffers a run takes.
    ///
    /// # Errors
    /// As [`Sizes::shape`].
    pub fn shape(&self) -> Result<Shape> {
        self.sizes().shape()
    }

    /// Settles the element types that were left open, and writes them into the settings so that a resumed run keeps them:
    /// those whose plan is the largest that fits in `have` bytes, where that is known. What else depends on the free memory
    /// is settled too, but not written: it does not change results.
    ///
    /// # Errors
    /// As [`Job::plan`].
    pub fn choose_dtypes(&mut self, limits: &BufferLimits, have: Option<u64>) -> Result<()> {
        let reward = self.reward_source()?;
        let (chosen, fit) = self.sizes().choose(limits, have, reward.as_ref())?;
        chosen.write(&mut self.config);
        self.fit = fit;
        Ok(())
    }

    /// The reward model's files, where the reward is a model.
    fn reward_source(&self) -> Result<Option<Source>> {
        if reward::is_true_score(&self.config.reward_model) {
            return Ok(None);
        }
        Source::open_with_score(&self.config.reward_model)
            .map(Some)
            .context("--reward-model")
    }

    /// Bytes each part of the run takes on an adapter with these limits.
    ///
    /// # Errors
    /// Settings that do not go together; a reward model that cannot be opened.
    pub fn plan(&self, limits: &BufferLimits) -> Result<Plan> {
        self.sizes().plan(limits, self.reward_source()?.as_ref())
    }

    /// Loads the judge.
    ///
    /// # Errors
    /// The reward model cannot be opened or does not fit.
    pub fn reward(&self, gpu: &Gpu) -> Result<Box<dyn Reward>> {
        let (c, sizes) = (&self.config, self.sizes());
        let options = RewardOptions {
            adapter: c.reward_adapter.as_deref(),
            dtype: parse_dtype("--reward-dtype", c.reward_dtype.as_deref())?,
            token_budget: sizes.reward_budget(),
            residency: if self.fit.stream_reward {
                Residency::Stream
            } else {
                Residency::Resident
            },
            free: None,
            positions: sizes.reward_positions(usize::MAX),
            raw: c.raw,
            date: self.date,
        };
        reward::open(gpu, &c.reward_model, &options).context("--reward-model")
    }

    /// Uploads the policy, with a fresh adapter or every weight trainable; and the reference, where it is its own
    /// model.
    ///
    /// # Errors
    /// Out of memory.
    pub fn policy(&self, gpu: &Gpu) -> Result<(Model, Option<Model>)> {
        let sizes = self.sizes();
        let dtype = sizes.base_dtype()?;
        let mut model = sizes.weights(gpu, dtype)?;
        let reference = sizes.needs_reference().then(|| sizes.weights(gpu, dtype));
        let reference = reference.transpose()?;
        sizes.make_trainable(&mut model)?;
        model.tune()?;
        Ok((model, reference))
    }

    /// Makes the trainer from loaded parts.
    ///
    /// # Errors
    /// Out of memory.
    pub fn trainer<'a>(
        &'a self,
        model: &'a Model,
        reference: Option<&'a Model>,
        ws: &'a Workspace,
    ) -> Result<Trainer<'a>> {
        let (c, sizes) = (&self.config, self.sizes());
        Ok(Trainer {
            config: c,
            rule: self.rule,
            model,
            reference,
            tokenizer: &self.tokenizer,
            prompts: &self.prompts,
            ws,
            piece_tokens: PIECE_TOKENS,
            sampler: sizes.sampler(model)?,
            device: DeviceStep::new(&model.gpu, &self.rule, c, ws.shape.readouts)?,
            optimizer: sizes.optimizer(model)?,
            stop: self.stop(),
        })
    }

    /// Tokens that end a response.
    pub fn stop(&self) -> Vec<u32> {
        self.source.spec.eos_token_ids.clone()
    }
}
