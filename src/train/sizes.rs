//! What a run allocates, from its settings and its models' sizes, and how much memory that is. The plan needs no weights,
//! tokenizer or device.

use super::activations::{self, Keeping};
use super::device_step::DeviceStep;
use super::dtype::{base_dtype, candidates, largest, parse_dtype, settle};
use super::fit::{Dtypes, Fit};
use super::setup::{self, Job};
use crate::config::{GradientSum, Residency, Schedule, TrainConfig};
use crate::error::{Context, Error, Result};
use crate::gpu::{BufferLimits, Gpu};
use crate::model::floor;
use crate::model::load::Source;
use crate::model::params::{LoraShape, Model};
use crate::model::pieces::{PIECE_TOKENS, Summand};
use crate::model::plan::{DryRun, Plan};
use crate::model::spec::{Head, Proj, TensorSpec};
use crate::model::workspace::{Shape, Workspace};
use crate::optim::{Optimizer, Settings};
use crate::reward::{self, RewardShape};
use crate::rollout::{Sampler, SamplerShape};
use crate::tensor::DType;

/// Bytes of buffers up to which `--gradient-sum auto` takes the tree where the free memory is not known.
const TREE_UNASKED: u64 = 1 << 30;

/// What decides how much memory a run takes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// The policy's sizes, and how its files store its matrices.
    pub source: &'a Source,
    /// The longest prompt and response together, in tokens.
    pub positions: usize,
    /// What follows from the free memory.
    pub fit: Fit,
}

/// A run as `plan` sees it: opened from its files where the policy's weights are there, else from sizes alone.
#[derive(Debug)]
pub struct Outline {
    /// The settings.
    pub config: TrainConfig,
    source: Source,
    reward: Option<Source>,
    positions: usize,
    fit: Fit,
}

impl Outline {
    /// Opens what the settings name. Without the policy's weights (see [`Source::open_sizes`]) no prompts are read: the
    /// longest is taken to have `max_prompt_length` tokens.
    ///
    /// # Errors
    /// As [`Job::open`] and [`Source::open_sizes`]; no length where no prompts are read.
    pub fn open(config: TrainConfig) -> Result<Self> {
        let source = Source::open_sizes(&config.model, Head::CausalLm).context("--model")?;
        let reward = if reward::is_true_score(&config.reward_model) {
            None
        } else {
            Some(Source::open_sizes(&config.reward_model, Head::Score).context("--reward-model")?)
        };
        if source.store.has_values() {
            let job = Job::open(config)?;
            return Ok(Self {
                config: job.config,
                source: job.source,
                reward,
                positions: job.positions,
                fit: job.fit,
            });
        }
        setup::rule(&config)?;
        let Some(prompt) = config.max_prompt_length else {
            return Err(Error::user(format!(
                "{}: only sizes are known, so that no prompt can be counted in tokens; give the longest as \
                 --max-prompt-length",
                config.model
            )));
        };
        let length = config.max_completion_length;
        let positions = source.positions(prompt + length).context(format!(
            "--max-prompt-length {prompt} and --max-completion-length {length}"
        ))?;
        Ok(Self {
            fit: Fit::of(&config),
            config,
            source,
            reward,
            positions,
        })
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes {
            config: &self.config,
            source: &self.source,
            positions: self.positions,
            fit: self.fit,
        }
    }

    /// As [`Job::choose_dtypes`].
    ///
    /// # Errors
    /// As [`Job::choose_dtypes`].
    pub fn choose_dtypes(&mut self, limits: &BufferLimits, have: Option<u64>) -> Result<()> {
        let (chosen, fit) = self.sizes().choose(limits, have, self.reward.as_ref())?;
        chosen.write(&mut self.config);
        self.fit = fit;
        Ok(())
    }

    /// Whether the reward model is streamed, as settled by [`Outline::choose_dtypes`].
    pub fn streams_reward(&self) -> bool {
        self.fit.stream_reward
    }

    /// What the run takes, and the least it can do with ([`Sizes::plan`], [`Sizes::floor`]).
    ///
    /// # Errors
    /// As [`Sizes::plan`].
    pub fn plan(&self, limits: &BufferLimits) -> Result<(Plan, Plan)> {
        let (sizes, reward) = (self.sizes(), self.reward.as_ref());
        Ok((sizes.plan(limits, reward)?, sizes.floor(limits.binding, reward)?))
    }
}

/// Element types of policy and reward model; `None` keeps what is stored.
type Types = (Option<DType>, Option<DType>);

impl Sizes<'_> {
    /// Rank of the adapter (0: every weight is trained).
    pub fn rank(&self) -> usize {
        if self.config.full {
            0
        } else {
            self.config.lora_rank
        }
    }

    /// The adapter's shape, unless every weight is trained.
    pub fn lora(&self) -> Option<LoraShape> {
        let c = self.config;
        (!c.full).then(|| LoraShape {
            rank: c.lora_rank,
            alpha: c.lora_alpha,
            targets: Proj::ALL.to_vec(),
        })
    }

    /// The forward and backward buffers a run takes.
    ///
    /// # Errors
    /// `--activation-memory` is too little for them.
    pub fn shape(&self) -> Result<Shape> {
        let c = self.config;
        let longest = self.positions;
        let step: usize =
            c.prompts_per_step * (self.positions + (c.num_generations - 1) * c.max_completion_length);
        // Every piece of a prompt fits, whatever the budget: it is what the gradient is added up from.
        let rows = c
            .token_budget
            .max(longest)
            .max(PIECE_TOKENS)
            .min(step.max(longest));
        let keeping = Keeping {
            all: c.no_checkpointing,
            memory: c.activation_memory,
            auto: self.fit.activations,
        };
        let shape = Shape {
            rows,
            readouts: rows + c.num_generations.min(rows),
            rank: self.rank(),
            backward: true,
            kept_blocks: 1,
            half: c.dtype.is_half(),
            vocabulary_head: true,
        };
        keeping.apply(&self.source.spec, shape)
    }

    /// Sets of gradient buffers beside the one that the optimiser reads.
    pub(super) fn gradient_sets(&self, ascending: bool) -> usize {
        if ascending {
            0
        } else {
            Summand::extra_slots(self.config.prompts_per_step)
        }
    }

    /// The sampling buffers a run takes, where no buffer may be larger than `cap` bytes: the cache is then smaller, or fewer
    /// sequences are sampled at once ([`SamplerShape::within`]).
    pub fn sampler_shape(&self, cap: u64) -> SamplerShape {
        let (c, spec) = (self.config, &self.source.spec);
        let longest_prompt = self.longest_prompt();
        let shape = |sequences: usize| {
            let prompts = sequences.div_ceil(c.num_generations).max(1);
            // Samples of one prompt more may begin while the last of the others end.
            let cached = (prompts + 1).min(c.prompts_per_step.max(prompts));
            SamplerShape {
                sequences,
                cache_rows: SamplerShape::rows_for(
                    cached,
                    longest_prompt,
                    sequences,
                    c.max_completion_length,
                ),
                prefill_rows: c.token_budget.min(prompts * longest_prompt).max(1),
                rank: self.rank(),
                kv_cache_dtype: c.kv_cache_dtype,
            }
        };
        let most = c.rollout_batch.min(c.prompts_per_step * c.num_generations);
        SamplerShape::within(cap, spec, most, shape)
    }

    fn longest_prompt(&self) -> usize {
        self.positions - self.config.max_completion_length
    }

    /// The element type of the frozen policy; training every weight needs f32.
    ///
    /// # Errors
    /// An unknown type, or another than f32 with `--full`.
    pub fn base_dtype(&self) -> Result<Option<DType>> {
        base_dtype(self.source, self.config.base_dtype.as_deref(), self.config.full)
    }

    /// The element types of policy and `reward` where the settings leave them open: those whose plan is the largest that
    /// fits in `have` bytes, where that is known. A reward model whose residency is `auto` is streamed where nothing fits otherwise.
    /// What is left then goes to activations, where they are `auto`.
    ///
    /// # Errors
    /// As [`Sizes::plan`].
    pub fn choose(
        &self,
        limits: &BufferLimits,
        have: Option<u64>,
        reward: Option<&Source>,
    ) -> Result<(Dtypes, Fit)> {
        let c = self.config;
        let mut sized = Sizes {
            fit: Fit::of(c),
            ..*self
        };
        // The tree has what is left: types and residency are those of a run without it.
        let auto = c.gradient_sum == GradientSum::Auto;
        sized.fit.ascending |= auto;
        let asked = parse_dtype("--reward-dtype", c.reward_dtype.as_deref())?;
        let base = if c.full {
            vec![self.base_dtype()?]
        } else {
            let asked = parse_dtype("--base-dtype", c.base_dtype.as_deref())?;
            candidates(self.source, asked, have.is_some())?
        };
        let judge = match reward {
            Some(source) => candidates(source, asked, have.is_some()).context("--reward-model")?,
            None => vec![None],
        };
        let (mut types, mut plan) = sized.largest(limits, have, &base, reward, &judge)?;
        let fits = |plan: &Plan| have.is_none_or(|have| plan.total() <= have);
        if !fits(&plan) && reward.is_some() && c.reward_residency == Residency::Auto {
            let mut ring = sized;
            ring.fit.stream_reward = true;
            let streamed = ring.largest(limits, have, &base, reward, &judge)?;
            // A model of no more blocks than the ring has places is resident either way.
            if streamed.1.total() < plan.total() {
                sized = ring;
                (types, plan) = streamed;
            }
            if sized.fit.stream_reward && fits(&plan) {
                log::warn!(
                    "{} does not fit in the free memory beside the rest: its blocks are streamed from the host (--reward-residency \
                     resident keeps them on the device)",
                    c.reward_model
                );
            }
        }
        let (base, judge) = types;
        if auto {
            sized.fit.ascending = false;
            let with_tree = sized.plan_as(limits, base, reward.map(|s| (s, judge)))?;
            let tree = with_tree.total() - plan.total();
            let room = have.map_or(TREE_UNASKED, |have| have.saturating_sub(plan.total()));
            if tree > room {
                sized.fit.ascending = true;
                log::info!(
                    "{} MiB for a tree of gradients do not fit: they are added in ascending order",
                    tree >> 20
                );
            } else {
                plan = with_tree;
            }
        }
        let rest = plan.total() - plan.bytes("training activations");
        let dtypes = Dtypes {
            base: settle("--base-dtype", &c.model, c.base_dtype.is_some(), base),
            reward: reward.map(|_| settle("--reward-dtype", &c.reward_model, asked.is_some(), judge)),
            gradient_sum: if sized.fit.ascending {
                GradientSum::Ascending
            } else {
                GradientSum::Tree
            },
        };
        let fit = Fit {
            activations: activations::budget(have, rest),
            ..sized.fit
        };
        Ok((dtypes, fit))
    }

    /// The types among `base` and `judge` whose plan is the largest that fits, with that plan.
    fn largest(
        &self,
        limits: &BufferLimits,
        have: Option<u64>,
        base: &[Option<DType>],
        reward: Option<&Source>,
        judge: &[Option<DType>],
    ) -> Result<(Types, Plan)> {
        let mut options = Vec::new();
        for base in base {
            for judge in judge {
                let plan = self.plan_as(limits, *base, reward.map(|s| (s, *judge)))?;
                let total = plan.total();
                options.push((((*base, *judge), plan), total));
            }
        }
        largest(options, have).ok_or_else(|| Error::internal("no element type to choose from"))
    }

    fn reward_dtype(&self, source: &Source) -> Result<Option<DType>> {
        source.dtype(parse_dtype(
            "--reward-dtype",
            self.config.reward_dtype.as_deref(),
        )?)
    }

    /// Bytes each part of the run takes on an adapter with these limits.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn plan(&self, limits: &BufferLimits, reward: Option<&Source>) -> Result<Plan> {
        let reward = reward.map(|s| Ok((s, self.reward_dtype(s)?))).transpose()?;
        self.plan_as(limits, self.base_dtype()?, reward)
    }

    /// A dry run: the constructors that a run calls, on a device that only counts.
    fn plan_as(
        &self,
        limits: &BufferLimits,
        dtype: Option<DType>,
        reward: Option<(&Source, Option<DType>)>,
    ) -> Result<Plan> {
        let mut dry = DryRun::new(limits)?;
        let mut model = dry.part("policy", |gpu| self.weights(gpu, dtype))?;
        let _reference = match self.needs_reference() {
            true => Some(dry.part("reference", |gpu| self.weights(gpu, dtype))?),
            false => None,
        };
        dry.part("", |_| self.make_trainable(&mut model))?;
        let _optimizer = dry.part("", |_| self.optimizer(&model))?;
        let ws = dry.part("training", |gpu| Workspace::new(gpu, &model.spec, self.shape()?))?;
        let rule = setup::rule(self.config)?;
        let _step = dry.part("", |gpu| {
            DeviceStep::new(gpu, &rule, self.config, ws.shape.readouts)
        })?;
        let _sampler = dry.part("sampling", |_| self.sampler(&model))?;
        if let Some((source, dtype)) = reward {
            let shape = RewardShape {
                dtype,
                positions: self.reward_positions(source.spec.max_position_embeddings),
                token_budget: self.reward_budget(),
                streamed: self.fit.stream_reward,
            };
            dry.part("reward model", |gpu| shape.allocate(gpu, source, None))?;
        }
        Ok(dry.plan())
    }

    /// The policy's weights, or the reference's.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub(super) fn weights(&self, gpu: &Gpu, dtype: Option<DType>) -> Result<Model> {
        self.source.load(gpu, dtype, self.positions, None)
    }

    /// Whether the reference is a model of its own: the policy with its adapter off is one otherwise.
    pub(super) fn needs_reference(&self) -> bool {
        self.config.full && self.config.beta > 0.0
    }

    /// Gives the policy a fresh adapter, or makes every weight trainable, with the gradients.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn make_trainable(&self, model: &mut Model) -> Result<()> {
        match self.lora() {
            Some(shape) => model.new_adapter(&shape, self.config.seed, true)?,
            None => model.train_base()?,
        }
        model.add_gradient_slots(self.gradient_sets(self.fit.ascending))
    }

    /// The optimiser of what is trainable.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn optimizer(&self, model: &Model) -> Result<Optimizer> {
        let c = self.config;
        let settings = Settings {
            optim: c.optim,
            learning_rate: c.learning_rate,
            warmup_steps: c.warmup_steps,
            weight_decay: c.weight_decay,
            max_grad_norm: c.max_grad_norm,
            schedule: Schedule::Constant,
            total_steps: c.steps * c.num_iterations as u64,
        };
        Optimizer::new(&model.gpu, model.trainable(), settings)
    }

    /// What samples from the policy.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn sampler(&self, model: &Model) -> Result<Sampler> {
        Sampler::new(model, self.sampler_shape(model.gpu.caps().max_binding))
    }

    /// The part of [`Sizes::plan`] that no implementation of this step, in these batches and types, can do without
    /// (`docs/memory.md`).
    ///
    /// # Errors
    /// As [`Sizes::plan`].
    pub fn floor(&self, cap: u64, reward: Option<&Source>) -> Result<Plan> {
        let (c, spec) = (self.config, &self.source.spec);
        let mut plan = Plan::default();
        let policy = floor::weights(spec, |t| self.source.stored(t, self.base_dtype()?))?;
        plan.add("policy weights", policy);
        match self.lora() {
            Some(shape) => plan.extend("", &floor::adapter(spec, &shape, c.optim)),
            None => {
                plan.extend("", &floor::full(spec, c.optim));
                if c.beta > 0.0 {
                    plan.add("reference weights", policy);
                }
            }
        }
        plan.extend("training", &floor::training(spec, self.shape()?));
        let s = self.sampler_shape(cap);
        let prompts = s.sequences.div_ceil(c.num_generations).max(1);
        let rows = prompts * self.longest_prompt() + s.sequences * (c.max_completion_length - 1);
        plan.add("sampling kv cache", floor::kv_cache(spec, rows, c.kv_cache_dtype));
        if let Some(source) = reward {
            let dtype = self.reward_dtype(source)?;
            let stored = |t: &TensorSpec| source.stored(t, dtype);
            let weights = if self.fit.stream_reward {
                floor::streamed_weights(&source.spec, stored)?
            } else {
                floor::weights(&source.spec, stored)?
            };
            plan.add("reward model weights", weights);
            let activations = floor::forward(&source.spec, self.reward_budget());
            plan.add("reward model activations", activations);
        }
        Ok(plan)
    }

    /// Positions of the reward model: its own tokenizer and template may need more tokens than the policy's.
    pub fn reward_positions(&self, context: usize) -> usize {
        (self.positions * 2 + 256).min(context)
    }

    /// Most tokens that the reward model reads in one pass.
    pub fn reward_budget(&self) -> usize {
        self.config
            .token_budget
            .min(self.positions * self.config.num_generations * 2)
            .max(self.positions * 2)
    }
}
