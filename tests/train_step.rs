//! The on-policy step on a tiny model: metrics, repeatability, PyTorch's numbers, and what a step without signal does to
//! the weights.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "train_step/torch.rs"]
mod torch;

use common::{Golden, open_gpu, workspace};
use serde_json::{Map, Value};
use tea_wgpu::advantage::{ChowParams, GroupContext, Rewards, Rule, RuleOptions, TailInfo, scale};
use tea_wgpu::config::{
    GradientSum, Optim, Residency, ScaleAdvantages, TEMPLATE_DATE, TrainConfig, TrainFlags,
};
use tea_wgpu::demo;
use tea_wgpu::error::{Error, Result};
use tea_wgpu::gpu::{Buffer, Gpu};
use tea_wgpu::model::params::{LoraShape, Model};
use tea_wgpu::model::pieces::Summand;
use tea_wgpu::model::spec::Proj;
use tea_wgpu::optim::{Optimizer, Settings};
use tea_wgpu::reward::{Item, Reward, RewardModel, RewardOptions, Scoring};
use tea_wgpu::rollout::{Sampler, SamplerShape};
use tea_wgpu::text::{HfFiles, PromptContent, Tokenizer};
use tea_wgpu::train::device_step::DeviceStep;
use tea_wgpu::train::rl::{Prompt, Trainer};
use tea_wgpu::train::setup;

/// Judges by the characters' codes alone.
struct Toy {
    f: fn(&str) -> f64,
    seen: usize,
}

impl Reward for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        self.seen += items.len();
        Ok(items.iter().map(|i| (self.f)(i.response)).collect())
    }
}

/// Characters with an even code minus those with an odd one.
fn parity(text: &str) -> f64 {
    text.chars()
        .map(|c| 1.0 - 2.0 * f64::from(u32::from(c) % 2))
        .sum()
}

fn constant(_: &str) -> f64 {
    0.25
}

/// A judge of rewards that the rule takes.
fn judge_of(rule: &Rule) -> fn(&str) -> f64 {
    match rule.rewards() {
        Rewards::Any => parity,
        Rewards::NotNegative => |text| parity(text).abs(),
        Rewards::ZeroOne => |text| f64::from(u8::from(parity(text) > 0.0)),
    }
}

fn flags() -> TrainFlags {
    TrainFlags {
        model: Some("tiny".into()),
        reward_model: Some("toy".into()),
        num_generations: Some(10),
        prompts_per_step: Some(3),
        max_completion_length: Some(12),
        learning_rate: Some(1e-2),
        warmup_steps: Some(1),
        lora_rank: Some(5),
        lora_alpha: Some(10.0),
        seed: Some(11),
        ..Default::default()
    }
}

/// Where the adapter starts.
#[derive(Clone, Copy)]
enum Start {
    /// A random, B zero: the policy is the reference.
    Fresh,
    /// The stored adapter, which changes the policy.
    Stored,
    /// No adapter: every weight is trained.
    Full,
}

/// How the step's samples meet the device: micro-batches of up to `rows` tokens, pieces of up to `piece_tokens`.
#[derive(Clone, Copy)]
struct Packing {
    rows: usize,
    piece_tokens: usize,
}

/// Small enough that every group is split over micro-batches.
const SPLIT: Packing = Packing {
    rows: 40,
    piece_tokens: 40,
};

struct Run {
    metrics: Vec<Map<String, Value>>,
    /// Waits of each step beside those for its sampling windows.
    waits: Vec<u64>,
    /// What ended the run early.
    failed: Option<Error>,
    /// Whether AdamW's moments are all zero at the end.
    unmoved: bool,
    before: Vec<Vec<f32>>,
    after: Vec<Vec<f32>>,
    moments: Vec<Vec<u8>>,
}

impl Run {
    /// The largest change of any parameter.
    fn moved(&self) -> f32 {
        let pairs = self.before.iter().flatten().zip(self.after.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// The metrics without the clocks.
    fn timeless(&self) -> Vec<Map<String, Value>> {
        let mut out = self.metrics.clone();
        for m in &mut out {
            m.retain(|k, _| !k.starts_with("time/") && k != "step_time" && !k.starts_with("host_waits"));
        }
        out
    }

    fn get(&self, step: usize, name: &str) -> f64 {
        let value = self.metrics[step].get(name);
        value
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.metrics[step]))
    }
}

fn parameters(model: &Model) -> Vec<Vec<f32>> {
    let read = |p: tea_wgpu::model::params::Trainable| p.value.read_f32(&model.gpu).unwrap();
    model.trainable().into_iter().map(read).collect()
}

/// The device's advantages and tail statistics of the last step against the rule in float64.
fn groups_are_the_rule_s(gpu: &Gpu, trainer: &Trainer<'_>, step: u64) {
    let held = trainer.device.read(gpu).unwrap();
    let m = trainer.config.num_generations;
    let mut groups = Vec::new();
    for (place, rewards) in held.rewards.chunks(m).enumerate() {
        let rewards: Vec<f64> = rewards.iter().map(|r| f64::from(*r)).collect();
        let context = GroupContext::at(trainer.config.seed, step + 1, place as u64);
        let group = trainer.rule.group_with(&rewards, &context).unwrap();
        if let Some(want) = group.tail {
            let got = held.tails[place];
            assert_eq!(got.q, want.tail.q, "{}", trainer.rule);
            for (got, want) in [
                (got.mu - got.q, want.tail.mu - want.tail.q),
                (got.sigma, want.tail.sigma),
                (got.kappa, want.kappa),
            ] {
                assert!(
                    (got - want).abs() <= 1e-4 * want.abs(),
                    "{}: {got} {want}",
                    trainer.rule
                );
            }
        }
        groups.push(group.advantages);
    }
    scale::apply(trainer.config.scale_advantages, &mut groups);
    for (want, got) in groups.iter().zip(held.advantages.chunks(m)) {
        advantages_agree(got, want, &trainer.rule.to_string());
    }
}

/// Within 1e-4 of each advantage, and 1e-6 of the group's largest where it is a small difference of large rewards.
fn advantages_agree(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    let peak = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    for (got, want) in got.iter().zip(want) {
        let off = (f64::from(*got) - want).abs();
        assert!(off <= 1e-4 * want.abs() + 1e-6 * peak, "{what}: {got} {want}");
    }
}

/// Two steps judged by `f`.
fn run(gpu: &Gpu, flags: TrainFlags, rule: Rule, start: Start, f: fn(&str) -> f64) -> Run {
    let responses = 2 * flags.prompts_per_step.unwrap() * flags.num_generations.unwrap();
    let mut reward = Toy { f, seen: 0 };
    let run = run_with(gpu, flags, rule, start, &mut reward);
    assert_eq!(reward.seen, responses);
    assert_eq!(run.waits, [1; 2], "the sampling windows and one readback");
    run
}

/// Two steps on llama_gqa that succeed.
fn run_with(gpu: &Gpu, flags: TrainFlags, rule: Rule, start: Start, reward: &mut dyn Reward) -> Run {
    run_packed(gpu, flags, (rule, start), reward, ("llama_gqa", SPLIT))
}

/// As [`run_with`], on a model and packing of one's own.
fn run_packed(
    gpu: &Gpu,
    flags: TrainFlags,
    rule: (Rule, Start),
    reward: &mut dyn Reward,
    on: (&str, Packing),
) -> Run {
    let run = attempt(gpu, flags, rule, reward, on);
    assert!(run.failed.is_none(), "{:?}", run.failed);
    run
}

/// Two steps, or those until one fails.
fn attempt(
    gpu: &Gpu,
    flags: TrainFlags,
    rule: (Rule, Start),
    reward: &mut dyn Reward,
    on: (&str, Packing),
) -> Run {
    let texts = ["sort: 3 1 2", "a", "reverse: tail", "what next?"];
    let prompts = |tokenizer: &Tokenizer| {
        let prompt = |text: &str| Prompt {
            content: PromptContent::Text(text.into()),
            tokens: tokenizer.encode(text, false).unwrap(),
        };
        texts.map(prompt).into()
    };
    with_trainer(gpu, flags, rule, on, prompts, |trainer| {
        two_steps(gpu, trainer, reward)
    })
}

/// A trainer on a model's random weights, with the embedded models' character tokenizer, for the time of `work`.
fn with_trainer<T>(
    gpu: &Gpu,
    flags: TrainFlags,
    (rule, start): (Rule, Start),
    (name, packing): (&str, Packing),
    prompts: impl FnOnce(&Tokenizer) -> Vec<Prompt>,
    work: impl FnOnce(&mut Trainer<'_>) -> T,
) -> T {
    let config: TrainConfig = flags.resolve(&|_| None).unwrap();
    let golden = Golden::open(gpu, name);
    let mut model = golden.model(None);
    let mut reference = None;
    match start {
        Start::Fresh => {
            let shape = LoraShape {
                rank: config.lora_rank,
                alpha: config.lora_alpha,
                targets: Proj::ALL.to_vec(),
            };
            model.new_adapter(&shape, config.seed, true).unwrap();
        }
        Start::Stored => golden.add_adapter(&mut model, true),
        Start::Full => {
            model.train_base().unwrap();
            reference = Some(golden.model(None));
        }
    }
    if config.gradient_sum != GradientSum::Ascending {
        let slots = Summand::extra_slots(config.prompts_per_step);
        model.add_gradient_slots(slots).unwrap();
    }
    let json = demo::tokenizer_json();
    let tokenizer = Tokenizer::from_hf(&HfFiles {
        tokenizer_json: json.into(),
        tokenizer_config: Some(demo::tokenizer_config_json(128).into()),
        special_tokens_map: None,
        added_tokens: None,
        generation_config: None,
        model_config: None,
        chat_template: None,
    })
    .unwrap();
    let prompts = prompts(&tokenizer);
    let ws = workspace(&model, packing.rows, true);
    let settings = Settings {
        optim: config.optim,
        learning_rate: config.learning_rate,
        warmup_steps: config.warmup_steps,
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
        schedule: tea_wgpu::config::Schedule::Constant,
        total_steps: config.steps,
    };
    let shape = SamplerShape {
        sequences: 16,
        cache_rows: 256,
        prefill_rows: 32,
        rank: config.lora_rank,
        kv_cache_dtype: config.kv_cache_dtype,
    };
    work(&mut Trainer {
        config: &config,
        rule,
        model: &model,
        reference: reference.as_ref(),
        tokenizer: &tokenizer,
        prompts: &prompts,
        ws: &ws,
        piece_tokens: packing.piece_tokens,
        sampler: Sampler::new(&model, shape).unwrap(),
        device: DeviceStep::new(gpu, &rule, &config, ws.shape.readouts).unwrap(),
        optimizer: Optimizer::new(gpu, model.trainable(), settings).unwrap(),
        stop: vec![4, 200, 300],
    })
}

fn two_steps(gpu: &Gpu, trainer: &mut Trainer<'_>, reward: &mut dyn Reward) -> Run {
    let before = parameters(trainer.model);
    let (mut made, mut waits, mut metrics, mut failed) = (None, Vec::new(), Vec::new(), None);
    for step in 0..2 {
        let found = match trainer.step(step, reward) {
            Ok(found) => found,
            Err(e) => {
                failed = Some(e);
                break;
            }
        };
        groups_are_the_rule_s(gpu, trainer, step);
        assert_eq!(
            found["host_waits/update"], 1,
            "one readback after the optimiser's step"
        );
        let now = gpu.memory().allocations;
        // An embedding's gradient takes its tokens in buffers made for each piece.
        if !trainer.config.full {
            assert_eq!(*made.get_or_insert(now), now, "allocated in step {step}");
        }
        let windows = trainer.sampler.stats().windows as u64;
        waits.push(found["host_waits"].as_u64().unwrap() - windows);
        metrics.push(found);
    }
    let after = parameters(trainer.model);
    let moments = trainer.optimizer.read(gpu).unwrap();
    Run {
        metrics,
        waits,
        failed,
        unmoved: moments.iter().flat_map(|(_, bytes)| bytes).all(|b| *b == 0),
        before,
        after,
        moments: moments.into_iter().map(|(_, bytes)| bytes).collect(),
    }
}

const NAMES: [&str; 27] = [
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "frac_groups_no_signal",
    "rewards/toy/mean",
    "rewards/toy/std",
    "kl",
    "entropy",
    "loss",
    "grad_norm",
    "learning_rate",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/clipped_ratio",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "clip_ratio/region_mean",
    "mismatch_kl",
    "mismatch_logp_max",
    "num_tokens",
    "tail/mu",
    "tail/sigma",
    "tail/kappa",
    "frac_groups_overlapped",
    "time/sample",
    "step_time",
];

#[test]
fn two_steps_report_finite_metrics_and_move_the_adapter() {
    let gpu = open_gpu();
    let r = run(&gpu, flags(), Rule::default(), Start::Fresh, parity);
    for step in 0..2 {
        for name in NAMES {
            assert!(r.get(step, name).is_finite(), "{name} in step {step}");
        }
        // The sampler's probabilities are the trainer's, also after the weights have moved.
        assert_eq!(r.get(step, "mismatch_kl"), 0.0);
        assert_eq!(r.get(step, "mismatch_logp_max"), 0.0);
        assert!(r.get(step, "reward_std") > 0.0 && r.get(step, "grad_norm") > 0.0);
        assert!(r.get(step, "frac_groups_no_signal") < 1.0);
        let entropy = r.get(step, "entropy");
        assert!(entropy > 0.0 && entropy <= 331f64.ln(), "{entropy}");
        let (low, mean, high) = (
            r.get(step, "completions/min_length"),
            r.get(step, "completions/mean_length"),
            r.get(step, "completions/max_length"),
        );
        assert!(1.0 <= low && low <= mean && mean <= high && high <= 12.0);
        assert_eq!(r.get(step, "num_tokens"), (mean * 30.0).round());
    }
    // B starts at zero, so the first policy is the reference; the second is not.
    assert_eq!(r.get(0, "kl"), 0.0);
    assert!(r.get(1, "kl") > 0.0, "{}", r.get(1, "kl"));
    // Adam's first steps are as long as the learning rate.
    assert!((0.005..0.025).contains(&r.moved()), "{}", r.moved());
}

/// Notes how many commands had been recorded when it was asked, and what.
struct Watch {
    gpu: Gpu,
    asked: Vec<(u64, usize)>,
}

impl Reward for Watch {
    fn name(&self) -> &str {
        "toy"
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        assert!(items.iter().all(|i| i.prompt == items[0].prompt));
        self.asked.push((self.gpu.commands_recorded(), items.len()));
        Ok(items.iter().map(|i| parity(i.response)).collect())
    }
}

/// The first group ends before the last sample does, with fewer places than samples: it is scored there and then.
#[test]
fn groups_are_scored_while_others_are_sampled() {
    let gpu = open_gpu();
    let mut watch = Watch {
        gpu: gpu.clone(),
        asked: Vec::new(),
    };
    let got = run_with(&gpu, flags(), Rule::default(), Start::Fresh, &mut watch);
    for (step, asked) in watch.asked.chunks(3).enumerate() {
        assert_eq!(asked.iter().map(|a| a.1).collect::<Vec<_>>(), [10; 3]);
        // Windows were recorded, and sampled, between the first group's scoring and the last's.
        assert!(asked[0].0 < asked[2].0, "step {step}: {asked:?}");
        let share = got.get(step, "frac_groups_overlapped");
        assert!((1.0 / 3.0..1.0).contains(&share), "step {step}: {share}");
        let clock = |name: &str| got.get(step, name);
        assert!(clock("time/reward_overlapped") > 0.0);
        assert!(clock("time/reward_overlapped") <= clock("time/sample"));
        let parts = clock("time/sample") + clock("time/reward") + clock("time/update");
        assert!((parts - clock("step_time")).abs() < 1e-9);
    }
    let after = run(&gpu, flags(), Rule::default(), Start::Fresh, parity);
    assert_eq!(got.timeless(), after.timeless());
}

/// A reward model that is shown nothing before all has been sampled.
struct Afterwards(RewardModel);

struct Kept<'r> {
    judge: &'r mut RewardModel,
    items: Vec<(PromptContent, String)>,
}

impl Reward for Afterwards {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        self.0.score(items)
    }

    fn scoring(&mut self) -> Box<dyn Scoring + '_> {
        Box::new(Kept {
            judge: &mut self.0,
            items: Vec::new(),
        })
    }
}

impl Scoring for Kept<'_> {
    fn add(&mut self, items: &[Item<'_>]) -> Result<()> {
        let own = |i: &Item<'_>| (i.prompt.clone(), i.response.to_string());
        self.items.extend(items.iter().map(own));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        let mut items = Vec::with_capacity(self.items.len());
        for (prompt, response) in &self.items {
            items.push(Item { prompt, response });
        }
        self.judge.score(&items)
    }
}

/// The embedded reward model beside the sampling and after it: every metric and every weight to the bit.
#[test]
fn scoring_beside_sampling_changes_no_bit() {
    let gpu = open_gpu();
    let judge = || {
        let options = RewardOptions {
            adapter: None,
            dtype: None,
            // Passes of 32 rows and more begin early.
            token_budget: 64,
            positions: 128,
            residency: Residency::Resident,
            free: None,
            raw: true,
            date: TEMPLATE_DATE.parse().unwrap(),
        };
        RewardModel::load(&gpu, "tiny-reward", &options).unwrap()
    };
    let beside = run_with(&gpu, flags(), Rule::default(), Start::Fresh, &mut judge());
    let mut later = Afterwards(judge());
    let after = run_with(&gpu, flags(), Rule::default(), Start::Fresh, &mut later);
    for step in 0..2 {
        assert!(beside.get(step, "frac_groups_overlapped") > 0.0);
        assert!(beside.get(step, "reward_std") > 0.0);
    }
    // Scores that stay on the device are not waited for, however many passes they take. The host's are.
    assert_eq!(beside.waits, [1; 2]);
    assert!(after.waits.iter().all(|n| *n > 1), "{:?}", after.waits);
    assert_eq!(beside.timeless(), after.timeless());
    assert!(beside.after == after.after && beside.moved() > 0.0);
}

/// A judge whose scores are on the device: `f` of each response and of how many came before it.
struct Placed {
    gpu: Gpu,
    f: fn(&str, usize) -> f32,
    seen: usize,
}

struct Placing<'r> {
    judge: &'r mut Placed,
    scores: Buffer,
    given: Vec<f32>,
}

impl Reward for Placed {
    fn name(&self) -> &str {
        "toy"
    }

    fn score(&mut self, _: &[Item<'_>]) -> Result<Vec<f64>> {
        Err(Error::user("asked on the host"))
    }

    fn scoring_on_device(&mut self, scores: &Buffer) -> Option<Box<dyn Scoring<u32> + '_>> {
        Some(Box::new(Placing {
            judge: self,
            scores: scores.clone(),
            given: Vec::new(),
        }))
    }
}

impl Scoring<u32> for Placing<'_> {
    fn add(&mut self, items: &[Item<'_>]) -> Result<()> {
        for item in items {
            self.given.push((self.judge.f)(item.response, self.judge.seen));
            self.judge.seen += 1;
        }
        Ok(())
    }

    /// The last response first, with something else beside each score.
    fn finish(self: Box<Self>) -> Result<Vec<u32>> {
        let rows: Vec<f32> = self
            .given
            .iter()
            .rev()
            .flat_map(|s| [*s, 7.0, f32::NAN, 9.0])
            .collect();
        self.judge.gpu.write(&self.scores, 0, &rows);
        Ok((0..self.given.len() as u32).rev().collect())
    }
}

#[test]
fn scores_on_the_device_are_the_rewards_of_a_judge_on_the_host() {
    let gpu = open_gpu();
    for rule in [Rule::default(), Rule::Chow(ChowParams::DEFAULT)] {
        let f = |text: &str, _: usize| parity(text) as f32;
        let mut placed = Placed {
            gpu: gpu.clone(),
            f,
            seen: 0,
        };
        let got = run_with(&gpu, flags(), rule, Start::Fresh, &mut placed);
        let want = run(&gpu, flags(), rule, Start::Fresh, parity);
        assert_eq!(got.waits, [1; 2]);
        assert_eq!(got.timeless(), want.timeless());
        assert!(got.after == want.after && got.moved() > 0.0);
    }
}

/// The update is under way when such a score is read, so the device itself has to stop it.
#[test]
fn scores_that_cannot_be_compared_leave_weights_and_moments_alone() {
    let gpu = open_gpu();
    type Judge = fn(&str, usize) -> f32;
    let bad: [(Judge, &str); 3] = [
        (
            |text, n| if n == 17 { f32::NAN } else { parity(text) as f32 },
            "gave the reward NaN to sample 7 of the prompt",
        ),
        (
            |text, n| {
                if n == 0 {
                    f32::NEG_INFINITY
                } else {
                    parity(text) as f32
                }
            },
            "gave the reward -inf to sample 0 of the prompt",
        ),
        (
            |_, n| if n == 3 { -3e16 } else { 1.0 },
            "sample 3: the reward is -3000000",
        ),
    ];
    let twice = TrainFlags {
        num_iterations: Some(2),
        ..flags()
    };
    let fits = |rule: &&Rule| rule.validate(10).is_ok() && rule.trains();
    for (i, rule) in Rule::ALL.iter().filter(fits).enumerate() {
        // Every rule sees one, the first all.
        for (f, says) in &bad[..if i == 0 { 3 } else { 1 }] {
            let mut placed = Placed {
                gpu: gpu.clone(),
                f: *f,
                seen: 0,
            };
            let run = attempt(
                &gpu,
                twice.clone(),
                (*rule, Start::Stored),
                &mut placed,
                ("llama_gqa", SPLIT),
            );
            let error = run.failed.as_ref().unwrap();
            let text = error.to_string();
            // A rule that does not take every reward finds one earlier.
            let says = match rule.rewards() {
                Rewards::Any => says,
                _ => "takes rewards of",
            };
            assert!(text.contains(says), "{rule}: {text}");
            assert_eq!(error.exit_code(), 2);
            assert!(run.metrics.is_empty() && run.unmoved, "{rule}");
            assert_eq!(run.moved(), 0.0, "{rule}");
        }
    }
}

/// Rewards that f32 cannot hold go up as differences. Reported statistics are of the rewards.
#[test]
fn tail_statistics_are_those_of_the_rewards() {
    let gpu = open_gpu();
    let mut watch = Far(Vec::new());
    let rule = Rule::default();
    let got = run_with(&gpu, flags(), rule, Start::Fresh, &mut watch);
    for (step, groups) in watch.0.chunks(3).enumerate() {
        let tails = groups.iter().map(|g| rule.group(g).unwrap().tail.unwrap());
        let tails: Vec<TailInfo> = tails.collect();
        let mean = |f: fn(&TailInfo) -> f64| tails.iter().map(f).sum::<f64>() / 3.0;
        let (mu, sigma) = (mean(|t| t.tail.mu), mean(|t| t.tail.sigma));
        assert!(sigma > 0.0);
        assert!((got.get(step, "tail/mu") - mu).abs() <= 1e-4 * sigma);
        assert!((got.get(step, "tail/sigma") - sigma).abs() <= 1e-4 * sigma);
        assert!((got.get(step, "tail/kappa") - tails[0].kappa).abs() <= 1e-6);
    }
}

/// Rewards near 1e6 with a third between them, and what they were.
struct Far(Vec<Vec<f64>>);

impl Reward for Far {
    fn name(&self) -> &str {
        "toy"
    }

    fn score(&mut self, items: &[Item<'_>]) -> Result<Vec<f64>> {
        let rewards: Vec<f64> = items.iter().map(|i| 1e6 + parity(i.response) / 3.0).collect();
        self.0.push(rewards.clone());
        Ok(rewards)
    }
}

#[test]
fn the_seed_alone_decides_a_run() {
    let gpu = open_gpu();
    let twice = || run(&gpu, flags(), Rule::default(), Start::Fresh, parity);
    let (a, b) = (twice(), twice());
    assert_eq!(a.timeless(), b.timeless());
    assert!(a.after == b.after);
    let other = TrainFlags {
        seed: Some(12),
        ..flags()
    };
    let c = run(&gpu, other, Rule::default(), Start::Stored, parity);
    let d = run(&gpu, flags(), Rule::default(), Start::Stored, parity);
    // The same start, another seed: other samples.
    assert!(c.before == d.before);
    assert_ne!(c.timeless(), d.timeless());
}

#[test]
fn equal_rewards_move_nothing_but_what_the_kl_moves() {
    let gpu = open_gpu();
    let beta = |beta| TrainFlags {
        beta: Some(beta),
        ..flags()
    };
    // Ten responses hold two prefixes at α = 1/4 and up, not at 1/5.
    let wide = RuleOptions {
        alpha: Some("1/4".parse().unwrap()),
        ..RuleOptions::default()
    };
    for rule in Rule::ALL.iter().filter(|r| r.trains()).map(|r| r.with(&wide)) {
        let equal = match rule.rewards() {
            Rewards::ZeroOne => 1.0,
            _ => 0.25,
        };
        let judge: fn(&str) -> f64 = if equal == 1.0 { |_| 1.0 } else { constant };
        let still = run(&gpu, beta(0.0), rule, Start::Stored, judge);
        for step in 0..2 {
            assert_eq!(still.get(step, "frac_groups_no_signal"), 1.0, "{rule}");
            assert_eq!(still.get(step, "frac_reward_zero_std"), 1.0, "{rule}");
            assert_eq!(still.get(step, "reward"), equal, "{rule}");
            assert_eq!(still.get(step, "loss"), 0.0, "{rule}");
            assert_eq!(still.get(step, "grad_norm"), 0.0, "{rule}");
        }
        assert_eq!(still.moved(), 0.0, "{rule}");
    }
    let pulled = run(&gpu, beta(0.5), Rule::default(), Start::Stored, constant);
    assert_eq!(pulled.get(0, "frac_groups_no_signal"), 1.0);
    assert!(pulled.get(0, "kl") > 0.0 && pulled.get(0, "grad_norm") > 0.0);
    assert!(pulled.moved() > 0.0);
}

#[test]
fn a_random_split_is_part_of_what_the_seed_repeats() {
    let gpu = open_gpu();
    let chow = Rule::Chow(ChowParams::DEFAULT);
    let twice = || run(&gpu, flags(), chow, Start::Fresh, parity);
    let (a, b) = (twice(), twice());
    assert_eq!(a.timeless(), b.timeless());
    assert!(a.after == b.after && a.moved() > 0.0);
    assert!(a.get(0, "frac_groups_no_signal") < 1.0 && a.get(0, "grad_norm") > 0.0);
}

#[test]
fn flags_reach_the_rule_that_knows_them() {
    let rule = |name: &str, set: fn(&mut TrainFlags)| {
        let mut flags = TrainFlags {
            advantage: Some(name.into()),
            num_generations: Some(64),
            ..flags()
        };
        set(&mut flags);
        setup::rule(&flags.resolve(&|_| None).unwrap()).unwrap()
    };
    for known in Rule::ALL.iter().filter(|r| r.trains()) {
        // Nothing given: every rule's own defaults; cat-bon's N is the group size then.
        assert_eq!(rule(known.name(), |_| {}), *known);
    }
    let bon = |f: &mut TrainFlags| f.bon = Some(256);
    assert!(matches!(rule("tea", bon), Rule::Tea(p) if p.bon == 256));
    assert!(matches!(rule("cat-bon", bon), Rule::CatBon(p) if p.bon == Some(256)));
    let prefixes = |f: &mut TrainFlags| (f.prefix_order, f.prefixes) = (Some(3), Some(4));
    assert!(
        matches!(rule("prefix-tea", prefixes), Rule::PrefixTea(p) if (p.prefix_order, p.prefixes) == (3, 4))
    );
    let k = |f: &mut TrainFlags| f.max_at_k = Some(5);
    assert!(matches!(rule("bon-mean", k), Rule::BonMean(p) if p.max_at_k == Some(5)));
    assert!(matches!(rule("pkpo", k), Rule::Pkpo(p) if p.max_at_k == Some(5)));
    assert!(matches!(rule("pass-at-k", k), Rule::PassAtK(p) if p.max_at_k == Some(5)));
    let beta = |f: &mut TrainFlags| f.risk_beta = Some(0.5);
    assert!(matches!(rule("rs-grpo", beta), Rule::RsGrpo(p) if p.risk_beta == 0.5));
    let most = |f: &mut TrainFlags| f.max_advantage = Some(9.0);
    assert!(matches!(rule("entropic", most), Rule::Entropic(p) if p.max_advantage == Some(9.0)));
    let size = |f: &mut TrainFlags| f.selection_size = Some(7);
    assert!(matches!(rule("chow", size), Rule::Chow(p) if p.selection_size == Some(7)));
}

#[test]
fn later_iterations_clip_and_stay_finite() {
    let gpu = open_gpu();
    let more = TrainFlags {
        num_iterations: Some(3),
        learning_rate: Some(5e-2),
        epsilon: Some(0.05),
        ..flags()
    };
    let r = run(&gpu, more, Rule::Grpo, Start::Fresh, parity);
    for step in 0..2 {
        assert!(r.get(step, "clip_ratio/region_mean") > 0.0);
        assert_eq!(r.get(step, "mismatch_kl"), 0.0);
        assert!(r.get(step, "loss").is_finite());
    }
}

#[test]
fn every_rule_runs_on_the_device_inside_the_step() {
    let gpu = open_gpu();
    for rule in Rule::ALL.iter().filter(|rule| rule.trains()) {
        let flags = TrainFlags {
            num_generations: Some(12), // room for two prefixes
            ..flags()
        };
        let run = run(&gpu, flags, *rule, Start::Fresh, judge_of(rule));
        assert!(run.get(0, "loss").is_finite(), "{rule}");
    }
}

/// What the micro-batches hold is the token budget's business, and no bit of weights, moments or metrics depends on it.
#[test]
fn other_micro_batches_give_the_same_bits() {
    let gpu = open_gpu();
    let full = |f: &mut TrainFlags| {
        f.full = Some(true);
        f.learning_rate = Some(1e-3);
    };
    let lora = |_: &mut TrainFlags| ();
    let ascending = |f: &mut TrainFlags| f.gradient_sum = Some(GradientSum::Ascending);
    let eight = |f: &mut TrainFlags| f.optim = Some(Optim::Adamw8bit);
    type Set<'a> = &'a dyn Fn(&mut TrainFlags);
    let cases: [(&str, Start, &str, Set<'_>); 6] = [
        ("LoRA, tree", Start::Stored, "llama_gqa", &lora),
        ("LoRA, ascending", Start::Stored, "llama_gqa", &ascending),
        ("LoRA, 8-bit moments", Start::Stored, "qwen3_qknorm", &eight),
        ("full, tied", Start::Full, "llama_tied", &full),
        ("full, QK-norm", Start::Full, "qwen3_qknorm", &full),
        ("full, biases, ascending", Start::Full, "qwen2_bias", &|f| {
            full(f);
            ascending(f);
        }),
    ];
    for (what, start, name, set) in cases {
        let run = |rows: usize| {
            let mut flags = TrainFlags {
                beta: Some(0.1),
                num_iterations: Some(2),
                prompts_per_step: Some(5),
                num_generations: Some(6),
                epsilon: Some(0.05),
                ..flags()
            };
            set(&mut flags);
            let mut reward = Toy { f: parity, seen: 0 };
            let piece_tokens = 40;
            let packing = Packing { rows, piece_tokens };
            run_packed(&gpu, flags, (Rule::Grpo, start), &mut reward, (name, packing))
        };
        let one = run(40);
        assert!(one.moved() > 0.0, "{what}");
        for rows in [57, 90, 700] {
            let other = run(rows);
            assert_eq!(one.timeless(), other.timeless(), "{what}: {rows} rows");
            assert!(one.after == other.after, "{what}: weights at {rows} rows");
            assert!(one.moments == other.moments, "{what}: moments at {rows} rows");
        }
    }
}

/// What the device scales is compared with float64 in every step of [`run_with`].
#[test]
fn advantages_are_scaled_on_the_device() {
    let gpu = open_gpu();
    for scale in [ScaleAdvantages::Group, ScaleAdvantages::Batch] {
        let flags = TrainFlags {
            scale_advantages: Some(scale),
            ..flags()
        };
        let plain = run(&gpu, self::flags(), Rule::default(), Start::Fresh, parity);
        let run = run(&gpu, flags, Rule::default(), Start::Fresh, parity);
        assert!(run.get(0, "loss").is_finite() && run.moved() > 0.0, "{scale:?}");
        assert_ne!(run.get(0, "grad_norm"), plain.get(0, "grad_norm"), "{scale:?}");
    }
}
