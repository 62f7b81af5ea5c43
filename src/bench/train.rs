//! `bench train` and `bench e2e`: seconds of a training step by phase and as a whole, the host's
//! waits, and memory.

use super::judged::{Judge, Rounds, When};
use super::memory::{self, Held};
use super::output::Row;
use super::policy::{Policy, at_least_one, check_tokens};
use super::timing::{Clock, median};
use crate::advantage::{GroupContext, Rule};
use crate::config::{ActivationMemory, FloatDtype, Optim, Schedule, TrainFlags};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recorder};
use crate::kernels::policy_loss::LossConfig;
use crate::model::pieces::{Order, PIECE_TOKENS, Pieces};
use crate::model::plan::Plan;
use crate::model::run::{self, Group};
use crate::model::spec::ModelSpec;
use crate::model::workspace::{Shape, Workspace};
use crate::optim::{Optimizer, Settings as OptimizerSettings};
use crate::rollout::{Sampler, SamplerShape};
use crate::train::activations::Keeping;
use crate::train::device_step::{DeviceStep, StepRewards, loss_config};
use std::time::Instant;

/// Sizes of a step.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prompts, B.
    pub batch: usize,
    /// Responses a prompt, m.
    pub num_generations: usize,
    /// Prompt tokens.
    pub prompt_length: usize,
    /// Tokens a response, T.
    pub max_completion_length: usize,
    /// Samples.
    pub repetitions: usize,
    /// Most rows in a pass.
    pub token_budget: usize,
    /// Keep every layer's activations.
    pub no_checkpointing: bool,
    /// What activations may take, in place of one block's.
    pub activation_memory: Option<ActivationMemory>,
    /// Element type of the activations that are kept.
    pub dtype: FloatDtype,
    /// The optimiser.
    pub optim: Optim,
    /// How sampling stores keys and values.
    pub kv_cache_dtype: FloatDtype,
    /// Score the reference policy, as a run with β > 0 does.
    pub reference: bool,
}

impl Settings {
    /// Positions that a sequence takes; a response's last token is predicted, not read, except by a reward model.
    pub fn positions(&self, scored: bool) -> usize {
        self.prompt_length + self.max_completion_length - usize::from(!scored)
    }

    /// # Errors
    /// A size of zero.
    pub fn validate(&self) -> Result<()> {
        at_least_one(&[
            ("--batch", self.batch),
            ("--num-generations", self.num_generations),
            ("--prompt-length", self.prompt_length),
            ("--max-completion-length", self.max_completion_length),
            ("--repetitions", self.repetitions),
            ("--token-budget", self.token_budget),
        ])?;
        check_tokens(
            &[
                ("--batch", self.batch),
                ("--num-generations", self.num_generations),
            ],
            (
                "--prompt-length + --max-completion-length",
                self.prompt_length + self.max_completion_length,
            ),
        )
    }

    /// Rows that the step's sequences take when a group's prompt is computed once.
    pub fn rows(&self) -> usize {
        self.batch * (self.prompt_length + self.num_generations * (self.max_completion_length - 1))
    }

    fn targets(&self) -> usize {
        self.batch * self.num_generations * self.max_completion_length
    }

    fn workspace(&self, spec: &ModelSpec, rank: usize) -> Result<Shape> {
        let longest = self.prompt_length + self.max_completion_length;
        let rows = self.rows().min(self.token_budget.max(longest));
        let shape = Shape {
            rows,
            readouts: (rows + self.num_generations).min(self.targets()),
            rank,
            backward: true,
            kept_blocks: 1,
            half: self.dtype.is_half(),
            vocabulary_head: true,
        };
        let keeping = Keeping {
            all: self.no_checkpointing,
            memory: self.activation_memory,
            auto: None,
        };
        keeping.apply(spec, shape)
    }

    fn name(&self) -> String {
        format!(
            "{}×{}×({}+{})",
            self.batch, self.num_generations, self.prompt_length, self.max_completion_length
        )
    }
}

/// Seconds of one step by phase; a phase that was not run is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Phases {
    sample: f64,
    score: f64,
    reference: f64,
    forward: f64,
    backward: f64,
    optimizer: f64,
}

impl Phases {
    fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("sample", self.sample),
            ("score", self.score),
            ("reference", self.reference),
            ("forward", self.forward),
            ("backward", self.backward),
            ("optimizer", self.optimizer),
        ]
    }

    fn total(&self) -> f64 {
        self.named().iter().map(|(_, s)| s).sum()
    }
}

/// A step as `train` takes it: all of it recorded, and one readback at its end.
#[derive(Debug, Clone, Copy)]
struct Whole {
    seconds: f64,
    /// Times the host waited for the device.
    waits: f64,
    /// Those for windows of sampled tokens.
    windows: f64,
}

/// Rewards, advantages and loss of a step on the device.
struct Device {
    step: DeviceStep,
    loss: LossConfig,
}

impl Device {
    /// For TEA with its default settings.
    fn new(policy: &Policy, s: &Settings, readouts: usize) -> Result<Self> {
        // A reference is taken where the KL term has a weight.
        let beta = if s.reference { 0.02 } else { 0.0 };
        let flags = TrainFlags {
            reward_model: Some("bench".into()),
            num_generations: Some(s.num_generations),
            prompts_per_step: Some(s.batch),
            max_completion_length: Some(s.max_completion_length),
            beta: Some(beta),
            ..TrainFlags::default()
        };
        let (config, rule) = (flags.resolve(&|_| None)?, Rule::default());
        Ok(Self {
            step: DeviceStep::new(&policy.model.gpu, &rule, &config, readouts)?,
            loss: loss_config(&config, 0),
        })
    }
}

/// Everything that is allocated once.
struct Stage<'a> {
    policy: &'a Policy,
    settings: &'a Settings,
    ws: Workspace,
    optimizer: Optimizer,
    /// Where a step samples; `None` takes made-up responses.
    sampler: Option<Sampler>,
    reward: Option<Judge<'a>>,
    prompts: Vec<Vec<u32>>,
    /// Of steps as a whole; `None` where they are not measured.
    device: Option<Device>,
}

impl<'a> Stage<'a> {
    /// Of steps that `sample` or not, and that are measured as a `whole` or not.
    fn new(
        policy: &'a Policy,
        s: &'a Settings,
        reward: Option<&'a Policy>,
        [sample, whole]: [bool; 2],
    ) -> Result<Self> {
        s.validate()?;
        if policy.rank() == 0 {
            return Err(Error::user(
                "--lora-rank must be at least 1: an adapter is trained",
            ));
        }
        let (gpu, spec) = (&policy.model.gpu, &policy.model.spec);
        let settings = OptimizerSettings {
            optim: s.optim,
            learning_rate: 1e-6,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            schedule: Schedule::Constant,
            total_steps: 1_000_000,
        };
        let sampler = sample.then(|| {
            let shape = |sequences: usize| SamplerShape {
                sequences,
                cache_rows: SamplerShape::rows_for(
                    (sequences.div_ceil(s.num_generations) + 1).min(s.batch),
                    s.prompt_length,
                    sequences,
                    s.max_completion_length,
                ),
                prefill_rows: s.token_budget.min(s.batch * s.prompt_length),
                rank: policy.rank(),
                kv_cache_dtype: s.kv_cache_dtype,
            };
            let cap = gpu.caps().max_binding;
            Sampler::new(
                &policy.model,
                SamplerShape::within(cap, spec, s.batch * s.num_generations, shape),
            )
        });
        let ws = Workspace::new(gpu, spec, s.workspace(spec, policy.rank())?)?;
        let device = whole.then(|| Device::new(policy, s, ws.shape.readouts));
        Ok(Self {
            device: device.transpose()?,
            ws,
            optimizer: Optimizer::new(gpu, policy.model.trainable(), settings)?,
            sampler: sampler.transpose()?,
            reward: reward.map(|r| Judge::new(r, s)).transpose()?,
            prompts: policy.tokens(s.batch, s.prompt_length),
            policy,
            settings: s,
        })
    }

    /// What the formula takes of this step.
    fn held(&self) -> Held<'_> {
        let s = self.settings;
        let lengths = [s.prompt_length, s.max_completion_length, s.num_generations];
        Held {
            training: self.ws.shape,
            optim: s.optim,
            sampling: self.sampler.as_ref().map(|sampler| (sampler.shape(), lengths)),
            reward: self.reward.as_ref().map(|judge| (judge.policy, judge.ws.shape)),
        }
    }

    /// Samples and scores, or has made-up responses scored, `[prompt][sample]`; the phases get their seconds.
    fn responses(&mut self, step: u64, phases: &mut Phases) -> Result<Vec<Vec<Vec<u32>>>> {
        let s = self.settings;
        let Some(sampler) = &mut self.sampler else {
            let all = self
                .policy
                .tokens(s.batch * s.num_generations, s.max_completion_length);
            if let Some(judge) = &mut self.reward {
                let begun = Instant::now();
                for (prompt, group) in self.prompts.iter().zip(all.chunks(s.num_generations)) {
                    judge.take(prompt, group.iter().map(Vec::as_slice))?;
                }
                judge.finish()?;
                phases.score = begun.elapsed().as_secs_f64();
            }
            return Ok(all.chunks(s.num_generations).map(<[Vec<u32>]>::to_vec).collect());
        };
        let rounds = Rounds {
            policy: self.policy,
            prompts: &self.prompts,
            samples: s.num_generations,
        };
        let limits = vec![s.max_completion_length; s.batch];
        let round = rounds.run(sampler, self.reward.as_mut(), (step, &limits), When::Beside)?;
        phases.sample = round.sample;
        phases.score = if self.reward.is_some() { round.score } else { 0.0 };
        Ok(round.responses)
    }

    /// Scoring beside sampling and after it, where there are groups that can end one after another.
    fn compare(&mut self) -> Result<Vec<Row>> {
        let (Some(sampler), Some(judge)) = (&mut self.sampler, &mut self.reward) else {
            return Ok(Vec::new());
        };
        if self.settings.batch < 2 {
            return Ok(Vec::new());
        }
        let rounds = Rounds {
            policy: self.policy,
            prompts: &self.prompts,
            samples: self.settings.num_generations,
        };
        rounds.compare(sampler, judge, self.settings)
    }

    /// One step as a whole; `None` where such are not measured.
    fn whole(&mut self, number: u64) -> Result<Option<Whole>> {
        let (s, model) = (self.settings, &self.policy.model);
        let Self {
            ws,
            prompts,
            optimizer,
            ..
        } = self;
        let (Some(device), Some(sampler)) = (&mut self.device, &mut self.sampler) else {
            return Ok(None);
        };
        let (begun, waits, step) = (Instant::now(), model.gpu.host_waits(), &mut device.step);
        if let Some(judge) = &mut self.reward {
            judge.stay(step.scores());
        }
        let rounds = Rounds {
            policy: self.policy,
            prompts,
            samples: s.num_generations,
        };
        let limits = vec![s.max_completion_length; s.batch];
        let round = rounds.run(sampler, self.reward.as_mut(), (number, &limits), When::Beside)?;
        // Whose score is whose does not change the work.
        let rewards = match &self.reward {
            Some(judge) => StepRewards::Device(judge.rows.chunks(s.num_generations).map(Vec::from).collect()),
            None => StepRewards::Host(vec![(0..s.num_generations).map(|i| i as f64).collect(); s.batch]),
        };
        let groups: Vec<Group<'_>> = prompts
            .iter()
            .zip(&round.responses)
            .map(|(prefix, suffixes)| Group {
                prefix,
                suffixes: suffixes.iter().map(Vec::as_slice).collect(),
            })
            .collect();
        let mut rec = Recorder::new(&model.gpu);
        optimizer.begin(&mut rec);
        let context = |place| GroupContext::at(0, number, place);
        step.advantages(&mut rec, &Rule::default(), (&rewards, optimizer.norm()), context)?;
        rec.submit()?;
        let most = PIECE_TOKENS.min(ws.shape.rows).min(ws.shape.readouts);
        let pieces = Pieces::cut(&groups, most, Order::Tree, false);
        if s.reference {
            run::each_piece(model, ws, &groups, &pieces, false, &mut |rec, packed| {
                packed.forward(rec, false)?;
                step.refer(rec, ws, packed.loaded.p)
            })?;
        }
        let mut first = 0;
        run::each_piece(model, ws, &groups, &pieces, true, &mut |rec, packed| {
            // The sampler's log-probabilities enter the metrics alone.
            step.load(rec, packed, &device.loss, |_, _| &[])?;
            packed.forward(rec, true)?;
            step.loss(rec, ws, &device.loss, (packed.loaded, first))?;
            first += packed.loaded.p;
            packed.backward(rec)
        })?;
        optimizer.record(&mut rec)?;
        rec.submit()?;
        let report = step.report(&mut rec, optimizer.norm())?;
        optimizer.finish(report.norm, 1)?;
        Ok(Some(Whole {
            seconds: begun.elapsed().as_secs_f64(),
            waits: (model.gpu.host_waits() - waits) as f64,
            windows: sampler.stats().windows as f64,
        }))
    }

    /// One step: its phases in order, each ended by a wait.
    fn step(&mut self, step: u64) -> Result<Phases> {
        let mut phases = Phases::default();
        let mut clock = Instant::now();
        let mut lap = move || {
            let seconds = clock.elapsed().as_secs_f64();
            clock = Instant::now();
            seconds
        };
        let responses = self.responses(step, &mut phases)?;
        lap();
        let groups: Vec<Group<'_>> = self
            .prompts
            .iter()
            .zip(&responses)
            .map(|(prefix, suffixes)| Group {
                prefix,
                suffixes: suffixes.iter().map(Vec::as_slice).collect(),
            })
            .collect();
        let model = &self.policy.model;
        if self.settings.reference {
            run::log_probs(model, &self.ws, &groups, false)?;
        }
        let referred = lap();
        phases.reference = if self.settings.reference { referred } else { 0.0 };
        run::each_packed(model, &self.ws, &groups, true, &mut |rec, packed| {
            packed.forward(rec, true)?;
            rec.submit()?;
            model.gpu.wait()?;
            phases.forward += lap();
            let p = packed.loaded.p;
            // Coefficients of both signs, as advantages are; their size does not change the work.
            let dlogp: Vec<f32> = (0..p)
                .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 } / p as f32)
                .collect();
            rec.write(self.ws.coefficients(), 0, &dlogp)?;
            packed.backward(rec)?;
            rec.submit()?;
            model.gpu.wait()?;
            phases.backward += lap();
            Ok(())
        })?;
        let mut rec = Recorder::new(&model.gpu);
        self.optimizer.record(&mut rec)?;
        rec.submit()?;
        model.gpu.wait()?;
        phases.optimizer = lap();
        Ok(phases)
    }
}

/// Times steps of a policy: forward and backward of made-up responses, or (`sample`) everything from sampling on, with
/// `reward` scoring where there is one.
///
/// # Errors
/// A size of zero, no adapter, out of memory, or a GPU error.
pub fn run(policy: &Policy, s: &Settings, reward: Option<&Policy>, sample: bool) -> Result<Vec<Row>> {
    let gpu = &policy.model.gpu;
    // A profile is of the phases alone, and advantages compare two responses or more.
    let parts = [sample, sample && s.num_generations > 1 && !gpu.profiles()];
    let mut stage = Stage::new(policy, s, reward, parts)?;
    stage.step(0)?;
    stage.whole(0)?;
    let before = (gpu.memory().allocations, gpu.pipelines_made());
    let steps = (1..=s.repetitions as u64)
        .map(|i| stage.step(i))
        .collect::<Result<Vec<Phases>>>()?;
    let wholes = (1..=s.repetitions as u64)
        .filter_map(|i| stage.whole(i).transpose())
        .collect::<Result<Vec<Whole>>>()?;
    let made = (
        gpu.memory().allocations - before.0,
        gpu.pipelines_made() - before.1,
    );
    let spec = &policy.model.spec;
    let checkpointing = match stage.ws.shape.kept(spec) {
        1 => "checkpointed".to_string(),
        n if n == spec.num_layers => "activations kept".to_string(),
        n => format!("activations of {n} of {} blocks kept", spec.num_layers),
    };
    let half = if s.dtype.is_half() { " as f16" } else { "" };
    let optim = match s.optim {
        Optim::Adamw => String::new(),
        other => format!(", {}", other.name()),
    };
    let variant = format!("r{}, {checkpointing}{half}{optim}", policy.rank());
    let whole = median(&steps.iter().map(Phases::total).collect::<Vec<f64>>());
    let mut rows = Vec::new();
    let mut push = |phase: &str, samples: Vec<f64>, tokens: usize| {
        if samples.iter().all(|s| *s == 0.0) {
            return;
        }
        let seconds = median(&samples);
        let row = Row {
            clock: Some(Clock::Wall),
            ..Row::of(samples, false)
        };
        let row = policy.row(format!("{phase} {}", s.name()), &variant, "s", row);
        rows.push(
            row.with("tok/s", tokens as f64 / seconds)
                .with("% of step", 100.0 * seconds / whole),
        );
    };
    for i in 0..steps[0].named().len() {
        let (phase, _) = steps[0].named()[i];
        let tokens = if phase == "sample" { s.targets() } else { s.rows() };
        push(phase, steps.iter().map(|p| p.named()[i].1).collect(), tokens);
    }
    push(
        "forward+backward",
        steps.iter().map(|p| p.forward + p.backward).collect(),
        s.rows(),
    );
    push("step", steps.iter().map(Phases::total).collect(), s.rows());
    if !wholes.is_empty() {
        push("whole step", wholes.iter().map(|w| w.seconds).collect(), s.rows());
        let row = Row::of(wholes.iter().map(|w| w.waits).collect(), false);
        let windows = median(&wholes.iter().map(|w| w.windows).collect::<Vec<f64>>());
        let row = policy.row("host waits of a whole step".into(), &variant, "", row);
        rows.push(row.with("sampling windows", windows));
    }
    for (what, n) in [("allocations", made.0 as f64), ("pipelines", made.1 as f64)] {
        let row = Row::of(vec![n / s.repetitions as f64], false);
        rows.push(policy.row(format!("{what} a step after the first"), &variant, "", row));
    }
    // A profile is of the steps alone.
    if !gpu.profiles() {
        rows.extend(stage.compare()?);
    }
    let plan = planned(policy, s, reward, parts)?;
    rows.extend(memory::rows(
        policy,
        &plan,
        &memory::least(policy, &stage.held())?,
    ));
    Ok(rows)
}

/// What the program plans for a step: a dry run of its stage.
fn planned(policy: &Policy, s: &Settings, reward: Option<&Policy>, parts: [bool; 2]) -> Result<Plan> {
    let gpu = Gpu::counting(&policy.model.gpu.buffer_limits())?;
    let counted = policy.counted(&gpu)?;
    let reward = reward.map(|judge| judge.counted(&gpu)).transpose()?;
    let _stage = Stage::new(&counted, s, reward.as_ref(), parts)?;
    Ok(Plan::held_by(&gpu))
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
