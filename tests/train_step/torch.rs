//! One step against PyTorch (`tests/golden/train_step.py`): advantages, losses, metrics and every gradient of TEA, GRPO
//! and PPO's clipped ratio.

use super::{SPLIT, Start, advantages_agree, parameters, with_trainer};
use crate::common::{open_gpu, relative_norm};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tea_wgpu::config::{GradientSum, TrainFlags};
use tea_wgpu::gpu::Gpu;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::rollout::{Completion, Finish};
use tea_wgpu::text::PromptContent;
use tea_wgpu::train::device_step::{Held, StepRewards};
use tea_wgpu::train::rl::{Prompt, ScoredSamples};
use tea_wgpu::train::setup;

/// Random samples, and what PyTorch makes of them.
#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Vec<u32>>,
    completions: Vec<Vec<Vec<u32>>>,
    logp_old: Vec<Vec<Vec<f32>>>,
    rewards: Vec<Vec<f64>>,
    max_completion_length: usize,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: TrainFlags,
    advantages: Vec<Vec<f64>>,
    /// Of each iteration.
    losses: Vec<f64>,
    metrics: BTreeMap<String, f64>,
}

impl Golden {
    fn samples(&self) -> ScoredSamples {
        let completion = |(tokens, logprobs): (&Vec<u32>, &Vec<f32>)| Completion {
            tokens: tokens.clone(),
            logprobs: logprobs.clone(),
            finish: Finish::Stop,
        };
        let groups = self.completions.iter().zip(&self.logp_old);
        ScoredSamples {
            prompts: (0..self.prompts.len()).collect(),
            completions: groups
                .map(|(tokens, old)| tokens.iter().zip(old).map(completion).collect())
                .collect(),
            rewards: StepRewards::Host(self.rewards.clone()),
        }
    }

    /// A case's settings, with weights that stay where they are and gradients that are not clipped.
    fn flags(&self, case: &Case, gradient_sum: GradientSum) -> TrainFlags {
        TrainFlags {
            model: Some("tiny".into()),
            reward_model: Some("toy".into()),
            num_generations: Some(self.rewards[0].len()),
            prompts_per_step: Some(self.prompts.len()),
            max_completion_length: Some(self.max_completion_length),
            learning_rate: Some(0.0),
            max_grad_norm: Some(0.0),
            gradient_sum: Some(gradient_sum),
            ..case.settings.clone()
        }
    }

    fn step(&self, gpu: &Gpu, flags: TrainFlags) -> Step {
        let rule = setup::rule(&flags.clone().resolve(&|_| None).unwrap()).unwrap();
        let prompt = |tokens: &Vec<u32>| Prompt {
            content: PromptContent::Text(String::new()),
            tokens: tokens.clone(),
        };
        let prompts = |_: &_| self.prompts.iter().map(prompt).collect();
        let on = ("llama_gqa", SPLIT);
        with_trainer(gpu, flags, (rule, Start::Stored), on, prompts, |trainer| {
            let before = parameters(trainer.model);
            let metrics = trainer.learn(0, &self.samples(), "toy").unwrap();
            assert!(before == parameters(trainer.model), "a weight has moved");
            let state = trainer.optimizer.read(gpu).unwrap();
            let moments = state.into_iter().filter_map(|(part, bytes)| {
                let name = part.name.strip_suffix(".m")?.to_string();
                Some((name, bytemuck::pod_collect_to_vec(&bytes)))
            });
            Step {
                metrics,
                held: trainer.device.read(gpu).unwrap(),
                moments: moments.collect(),
            }
        })
    }
}

struct Step {
    metrics: Map<String, Value>,
    held: Held,
    /// AdamW's first moments after the last iteration.
    moments: BTreeMap<String, Vec<f32>>,
}

/// The gradient of the last iteration of `after`, which took one more than `before`: AdamW keeps 0.9 of a moment and
/// adds 0.1 of the gradient. Both see the same weights, so that what they share has the same bits.
fn last_gradient(before: Option<&Step>, after: &Step, name: &str) -> Vec<f32> {
    let moments = &after.moments[name];
    let earlier = before.map_or_else(|| vec![0.0; moments.len()], |s| s.moments[name].clone());
    moments
        .iter()
        .zip(earlier)
        .map(|(m, e)| ((f64::from(*m) - 0.9 * f64::from(e)) / 0.1) as f32)
        .collect()
}

fn relative(got: f64, want: f64) -> f64 {
    (got - want).abs() / want.abs().max(f64::MIN_POSITIVE)
}

/// Bounds: 1e-4 of an advantage, and 1e-3 of a loss, of a metric and of each tensor's gradient ([`relative_norm`]).
#[test]
fn a_step_is_pytorch_s() {
    let gpu = open_gpu();
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let json = std::fs::read(at.join("train_step.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&json).unwrap();
    let values = WeightStore::open_safetensors(&at.join("train_step.safetensors")).unwrap();
    for (name, case) in &golden.cases {
        for sum in [GradientSum::Tree, GradientSum::Ascending] {
            let (mut steps, mut gradients, mut largest): (Vec<Step>, _, _) = (Vec::new(), 0, 0.0f64);
            for iteration in 0..case.losses.len() {
                let flags = TrainFlags {
                    num_iterations: Some(iteration + 1),
                    ..golden.flags(case, sum)
                };
                let step = golden.step(&gpu, flags);
                for tensor in step.moments.keys() {
                    let want = values.get(&format!("{name}/{iteration}/grad/{tensor}")).unwrap();
                    let got = last_gradient(steps.last(), &step, tensor);
                    let off = relative_norm(&got, &want.to_f32());
                    assert!(off < 1e-3, "{name}, iteration {iteration}, {tensor}: {off:.2e}");
                    (gradients, largest) = (gradients + 1, largest.max(off));
                }
                steps.push(step);
            }
            let prefix = format!("{name}/");
            assert_eq!(
                gradients,
                values.names().filter(|n| n.starts_with(&prefix)).count()
            );
            println!("{name}, {sum:?}: {gradients} gradients within {largest:.1e}");
            compare_numbers(name, case, steps.last().unwrap());
        }
    }
}

/// Advantages, losses and metrics of a case's whole step.
fn compare_numbers(name: &str, case: &Case, step: &Step) {
    let m = case.advantages[0].len();
    for (got, want) in step.held.advantages.chunks(m).zip(&case.advantages) {
        advantages_agree(got, want, name);
    }
    let losses = &step.held.losses;
    for (pieces, want) in losses.chunks(losses.len() / case.losses.len()).zip(&case.losses) {
        let got: f64 = pieces.iter().map(|l| f64::from(*l)).sum();
        let off = relative(got, *want);
        assert!(off < 1e-3, "{name}: loss {got}, not {want}");
        println!("{name}: loss {got:.6} within {off:.1e}");
    }
    let mut largest = ("", 0.0);
    for (metric, want) in &case.metrics {
        let got = step.metrics[metric].as_f64().unwrap();
        let off = relative(got, *want);
        assert!(off < 1e-3, "{name}: {metric} is {got}, not {want}");
        if off > largest.1 {
            largest = (metric.as_str(), off);
        }
    }
    println!(
        "{name}: {} metrics within {:.1e} ({})",
        case.metrics.len(),
        largest.1,
        largest.0
    );
    // Where a case clips, it does so on both sides.
    for side in ["clip_ratio/low_mean", "clip_ratio/high_mean"] {
        let clips = case.losses.len() > 1;
        assert_eq!(case.metrics[side] > 0.0, clips, "{name}: {side} of PyTorch");
        assert_eq!(
            step.metrics[side].as_f64().unwrap() > 0.0,
            clips,
            "{name}: {side}"
        );
    }
}
