//! Parity with PyTorch: logits, log-probabilities, every gradient and ten optimiser steps of tiny random models
//! (tests/golden/README.md says how the goldens were made).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::relative_norm;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tea_wgpu::gpu::{Gpu, GpuOptions, Recorder};
use tea_wgpu::kernels::linear::{self, Write};
use tea_wgpu::kernels::pad4;
use tea_wgpu::kernels::policy_loss::{LossConfig, PolicyLossArgs, TERMS, policy_loss};
use tea_wgpu::model::batch::Batch;
use tea_wgpu::model::forward::{Keys, Pass};
use tea_wgpu::model::params::{Model, Trainable};
use tea_wgpu::model::peft;
use tea_wgpu::model::run::{self, Group};
use tea_wgpu::model::source::ModelFiles;
use tea_wgpu::model::spec::{Head, ModelSpec};
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::model::workspace::{Shape, Workspace};
use tea_wgpu::optim::{Optimizer, Settings};
use tea_wgpu::train::losses::Losses;

const CAUSAL: [&str; 7] = [
    "llama_gqa",
    "llama_gqa_f16",
    "llama_gqa_bf16",
    "llama_tied",
    "qwen2_bias",
    "qwen3_qknorm",
    "mistral",
];
const SCORED: [&str; 2] = ["llama_score", "qwen3_score"];
const LR: f64 = 1e-3;

struct Golden {
    dir: PathBuf,
    json: Value,
    values: WeightStore,
    spec: ModelSpec,
    gpu: Gpu,
}

impl Golden {
    fn open(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/models")
            .join(name);
        let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let values = WeightStore::open_safetensors(&dir.join("golden.safetensors")).unwrap();
        let spec = ModelFiles::Dir(dir.clone()).spec().unwrap();
        let gpu = Gpu::open(&GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        })
        .unwrap();
        Self {
            dir,
            json,
            values,
            spec,
            gpu,
        }
    }

    fn model(&self, f32_base: bool) -> Model {
        let store = WeightStore::open(&ModelFiles::Dir(self.dir.clone())).unwrap();
        store.check(&self.spec).unwrap();
        let dtype = f32_base.then_some(tea_wgpu::tensor::DType::F32);
        Model::load(&self.gpu, &self.spec, &store, dtype, 128).unwrap()
    }

    fn add_adapter(&self, model: &mut Model) {
        let dir = self.dir.join(self.json["adapter"].as_str().unwrap());
        let adapter = peft::read_adapter(&dir, &self.spec).unwrap();
        let shape = adapter.config.shape(&self.spec).unwrap();
        let find = |name: &str| adapter.tensors.iter().find(|t| t.0 == name).unwrap().1.to_f32();
        model
            .set_adapter(&shape, true, &mut |name, _, _| Ok(find(name)))
            .unwrap();
        if self.spec.head == Head::Score {
            model.train_score().unwrap();
            let score = find(&peft::score_name());
            tea_wgpu::optim::write_f32(&self.gpu, &model.head_param().value, &score).unwrap();
        }
    }

    fn workspace(&self, backward: bool, kept_blocks: usize) -> Workspace {
        let vocabulary_head = self.spec.head == Head::CausalLm;
        let shape = Shape {
            rows: 160,
            readouts: 160,
            rank: 5,
            backward,
            kept_blocks,
            half: false,
            vocabulary_head,
        };
        Workspace::new(&self.gpu, &self.spec, shape).unwrap()
    }

    fn ids(&self, key: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.json[key].clone()).unwrap()
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.values.get(name).unwrap().to_f32()
    }
}

fn max_abs(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0.0, f64::max)
}

/// The sequences as groups: `prompt_len` tokens of prefix, the rest as the only suffix.
fn groups<'a>(sequences: &'a [Vec<u32>], prompt_lens: &[usize]) -> Vec<Group<'a>> {
    let split = |(s, n): (&'a Vec<u32>, &usize)| Group {
        prefix: &s[..*n],
        suffixes: vec![&s[*n..]],
    };
    sequences.iter().zip(prompt_lens).map(split).collect()
}

fn logits(model: &Model, ws: &Workspace, sequence: &[u32], adapter: bool) -> Vec<f32> {
    let mut rec = Recorder::new(&model.gpu);
    let mut batch = Batch::default();
    // One readout a position: the targets do not matter for logits.
    let mut extended = sequence[1..].to_vec();
    extended.push(0);
    batch.push_group(&sequence[..1], [&extended[..]]).unwrap();
    let loaded = ws.load(&mut rec, model, &mut batch).unwrap();
    Pass { model, ws, adapter }
        .forward(&mut rec, &loaded, &Keys::Packed)
        .unwrap();
    let (v, ld) = (model.spec.vocab_size, pad4(model.spec.vocab_size));
    let out = model.gpu.alloc("logits", (loaded.p * ld * 4) as u64).unwrap();
    linear::forward(
        &mut rec,
        ws.hidden(),
        &model.head_param().value,
        None,
        &out,
        loaded.p,
        Write::SET,
    )
    .unwrap();
    rec.submit().unwrap();
    let padded: Vec<f32> = model.gpu.read(&out, 0, loaded.p * ld).unwrap();
    padded.chunks_exact(ld).flat_map(|r| &r[..v]).copied().collect()
}

#[test]
fn logits_and_log_probabilities_match() {
    for name in CAUSAL {
        let g = Golden::open(name);
        let mut model = g.model(false);
        let ws = g.workspace(false, 1);
        let sequences = g.ids("sequences");
        let ones = vec![1; sequences.len()];
        for (which, adapter) in [("base", false), ("lora", true)] {
            if adapter {
                if !g.values.contains("lora/logits") {
                    continue;
                }
                g.add_adapter(&mut model);
            }
            let got: Vec<f32> = sequences
                .iter()
                .flat_map(|s| logits(&model, &ws, s, adapter))
                .collect();
            let off = max_abs(&got, &g.get(&format!("{which}/logits")));
            assert!(off < 1e-4, "{name} {which} logits: off by {off:.2e}");
            let logp = run::log_probs(&model, &ws, &groups(&sequences, &ones), adapter).unwrap();
            let flat: Vec<f32> = logp.into_iter().flatten().flatten().collect();
            let off = max_abs(&flat, &g.get(&format!("{which}/logprobs")));
            assert!(off < 1e-4, "{name} {which} log-probabilities: off by {off:.2e}");
        }
    }
}

/// Adds the gradient of −Σ wᵢ Σ log π, as the goldens have it; returns the loss.
fn add_gradient(g: &Golden, model: &Model, ws: &Workspace) -> f64 {
    let sequences = g.ids("sequences");
    let lens: Vec<usize> = serde_json::from_value(g.json["prompt_lens"].clone()).unwrap();
    let weights: Vec<f64> = serde_json::from_value(g.json["weights"].clone()).unwrap();
    let mut losses = Losses::new(&model.gpu, ws.shape.readouts).unwrap();
    run::each_packed(model, ws, &groups(&sequences, &lens), true, &mut |rec, packed| {
        let weights = packed.by_readout(|group, _| weights[group] as f32);
        losses.load(rec, &weights, vec![0; weights.len()])?;
        packed.forward(rec, true)?;
        losses.tokens(rec, ws, 1.0)?;
        packed.backward(rec)
    })
    .unwrap();
    losses.read(None).unwrap().sums[0]
}

/// Bradley-Terry over the golden's pairs; returns the mean loss.
fn add_pair_gradient(g: &Golden, model: &Model, ws: &Workspace) -> f64 {
    let sequences = g.ids("sequences");
    let pairs: Vec<[usize; 2]> = serde_json::from_value(g.json["pairs"].clone()).unwrap();
    let order: Vec<&[u32]> = pairs.iter().flatten().map(|i| &sequences[*i][..]).collect();
    let mut losses = Losses::new(&model.gpu, ws.shape.readouts).unwrap();
    run::each_scored(model, ws, &order, &mut |rec, packed| {
        assert_eq!(packed.owners.len(), order.len());
        let of = packed.batch.sequences.chunks(2);
        let places: Vec<[u32; 2]> = of.map(|pair| [pair[0][0] as u32, pair[1][0] as u32]).collect();
        losses.load(rec, &places, vec![0; places.len()])?;
        packed.forward(rec, true)?;
        losses.pairs(rec, ws, 1.0 / pairs.len() as f32)?;
        packed.backward(rec)
    })
    .unwrap();
    let report = losses.read(None).unwrap();
    report.sums[0] / report.count
}

fn compare_gradients(g: &Golden, which: &str, tensors: &[Trainable]) {
    assert!(!tensors.is_empty());
    for t in tensors {
        let want = g.get(&format!("{which}/grad/{}", t.name));
        let off = relative_norm(&t.grad.read_f32(&g.gpu).unwrap(), &want);
        assert!(
            off < 1e-3,
            "{:?} {which} gradient of {}: relative norm {off:.2e}",
            g.dir.file_name(),
            t.name
        );
    }
}

#[test]
fn every_gradient_matches_with_and_without_checkpointing() {
    for name in CAUSAL.into_iter().chain(SCORED) {
        let g = Golden::open(name);
        for (which, kept) in [("full", 1), ("lora", 1), ("lora", 2), ("full", usize::MAX)] {
            if !g.values.names().any(|n| n.starts_with(&format!("{which}/grad"))) {
                continue;
            }
            let mut model = g.model(which == "full");
            if which == "full" {
                model.train_base().unwrap();
            } else {
                g.add_adapter(&mut model);
            }
            let ws = g.workspace(true, kept);
            let loss = match g.spec.head {
                Head::CausalLm => add_gradient(&g, &model, &ws),
                Head::Score => add_pair_gradient(&g, &model, &ws),
            };
            let want = g.json["losses"][which].as_f64().unwrap();
            assert!(
                (loss - want).abs() < 1e-4 * want.abs().max(1.0),
                "{name} {which}: loss {loss}, not {want}"
            );
            compare_gradients(&g, which, &model.trainable());
        }
    }
}

#[test]
fn scores_are_read_where_transformers_reads_them() {
    for name in SCORED {
        let g = Golden::open(name);
        let mut model = g.model(false);
        let ws = g.workspace(false, 1);
        let mut sequences = g.ids("sequences");
        sequences.extend(g.ids("extra_sequences"));
        let refs: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
        let base = run::scores(&model, &ws, &refs).unwrap();
        let off = max_abs(&base, &g.get("base/scores"));
        assert!(off < 1e-4, "{name}: scores off by {off:.2e}");
        g.add_adapter(&mut model);
        let off = max_abs(&run::scores(&model, &ws, &refs).unwrap(), &g.get("lora/scores"));
        assert!(off < 1e-4, "{name}: scores with adapter off by {off:.2e}");
    }
}

#[test]
fn ten_adamw_steps_match() {
    for name in CAUSAL.into_iter().chain(SCORED) {
        let g = Golden::open(name);
        let runs = g.json["adamw"].as_object().cloned().unwrap_or_default();
        for (run_name, settings) in runs {
            let which = run_name.split('/').next().unwrap();
            let mut model = g.model(which == "full");
            if which == "full" {
                model.train_base().unwrap();
            } else {
                g.add_adapter(&mut model);
                if g.spec.head == Head::Score {}
            }
            let ws = g.workspace(true, 1);
            let start: Vec<Vec<f32>> = model
                .trainable()
                .iter()
                .map(|t| t.value.read_f32(&g.gpu).unwrap())
                .collect();
            let mut optimizer = Optimizer::new(
                &g.gpu,
                model.trainable(),
                Settings {
                    optim: tea_wgpu::config::Optim::Adamw,
                    learning_rate: LR,
                    warmup_steps: 0,
                    weight_decay: settings["weight_decay"].as_f64().unwrap(),
                    max_grad_norm: 1.0,
                    schedule: tea_wgpu::config::Schedule::Constant,
                    total_steps: 10,
                },
            )
            .unwrap();
            for step in 0..10 {
                let loss = match g.spec.head {
                    Head::CausalLm => add_gradient(&g, &model, &ws),
                    Head::Score => add_pair_gradient(&g, &model, &ws),
                };
                let mut rec = Recorder::new(&g.gpu);
                optimizer.begin(&mut rec);
                optimizer.record(&mut rec).unwrap();
                rec.submit().unwrap();
                let norm = f64::from(g.gpu.read::<f32>(optimizer.norm(), 0, 1).unwrap()[0]);
                let close = |got: f64, want: &Value| {
                    let want = want.as_f64().unwrap();
                    assert!(
                        (got - want).abs() < 1e-3 * want.abs().max(1e-2),
                        "{name} {run_name} step {step}: {got}, not {want}"
                    );
                };
                close(loss, &settings["losses"][step]);
                close(norm, &settings["grad_norms"][step]);
            }
            for (t, start) in model.trainable().iter().zip(&start) {
                let moved: Vec<f32> = t
                    .value
                    .read_f32(&g.gpu)
                    .unwrap()
                    .iter()
                    .zip(start)
                    .map(|(a, b)| a - b)
                    .collect();
                let off = relative_norm(&moved, &g.get(&format!("{run_name}/step10/{}", t.name)));
                assert!(
                    off < 1e-3,
                    "{name} {run_name} {}: relative error of ten steps {off:.2e}",
                    t.name
                );
            }
        }
    }
}

#[test]
fn ppo_and_kl_gradients_match() {
    use tea_wgpu::config::{KlEstimator, LossType};
    let g = Golden::open("llama_gqa");
    let sequences = g.ids("sequences");
    let lens: Vec<usize> = serde_json::from_value(g.json["prompt_lens"].clone()).unwrap();
    let advantages: Vec<f64> = serde_json::from_value(g.json["ppo"]["advantages"].clone()).unwrap();
    let beta = g.json["kl"]["beta"].as_f64().unwrap();
    let tokens: usize = sequences.iter().zip(&lens).map(|(s, n)| s.len() - n).sum();
    // Every position's log-probability, sequence after sequence (T − 1 each).
    let cut = |flat: &[f32]| -> Vec<Vec<f32>> {
        let mut at = 0;
        sequences
            .iter()
            .zip(&lens)
            .map(|(s, n)| {
                let own = flat[at + n - 1..at + s.len() - 1].to_vec();
                at += s.len() - 1;
                own
            })
            .collect()
    };
    let (reference, old) = (cut(&g.get("base/logprobs")), cut(&g.get("ppo/logp_old")));
    for (key, estimator, epsilon) in [
        ("kl/k3", Some(KlEstimator::K3), None),
        ("kl/k2", Some(KlEstimator::K2), None),
        ("ppo", None, g.json["ppo"]["epsilon"].as_f64()),
    ] {
        let mut model = g.model(true);
        g.add_adapter(&mut model);
        let ws = g.workspace(true, 1);
        let config = LossConfig {
            loss_type: LossType::Sum,
            beta: if estimator.is_some() { beta } else { 0.0 },
            kl_estimator: estimator.unwrap_or(KlEstimator::K3),
            epsilon,
            max_completion_length: 1,
            responses: if estimator.is_some() { 1 } else { tokens },
        };
        let zeros = vec![0.0; advantages.len()];
        let of = if estimator.is_some() { &zeros } else { &advantages };
        let of: Vec<f32> = of.iter().map(|a| *a as f32).collect();
        let of = g.gpu.upload("advantages", &of).unwrap();
        let mut on_device = |rec: &mut Recorder, packed: &run::Packed<'_, '_>| {
            let p = packed.loaded.p;
            let mut tokens = vec![(0.0f32, 0.0f32, 0u32, 0.0f32); p];
            for ((s, _), readouts) in packed.owners.iter().zip(&packed.batch.sequences) {
                let weight = config.weight(readouts.len()) as f32;
                for (i, r) in readouts.iter().enumerate() {
                    tokens[*r] = (old[*s][i], reference[*s][i], *s as u32, weight);
                }
            }
            let column = |f: fn(&(f32, f32, u32, f32)) -> f32| {
                let values: Vec<f32> = tokens.iter().map(f).collect();
                g.gpu.upload("loss", &values)
            };
            let owner: Vec<u32> = tokens.iter().map(|t| t.2).collect();
            let own_reference = column(|t| t.1)?;
            let args = PolicyLossArgs {
                logp: ws.log_probs(),
                logp_old: &column(|t| t.0)?,
                logp_ref: estimator.is_some().then_some((&own_reference, 0)),
                owner: &g.gpu.upload("loss", &owner)?,
                weight: &column(|t| t.3)?,
                advantages: &of,
                dlogp: ws.coefficients(),
                terms: &g.gpu.alloc("loss", (4 * TERMS * p) as u64)?,
            };
            packed.forward(rec, true)?;
            policy_loss(rec, &args, &config, p)?;
            packed
                .pass
                .backward_coefficients(rec, packed.loaded, &packed.batch.tokens)
        };
        run::each_packed(&model, &ws, &groups(&sequences, &lens), true, &mut on_device).unwrap();
        for t in model.trainable() {
            let off = relative_norm(
                &t.grad.read_f32(&g.gpu).unwrap(),
                &g.get(&format!("{key}/grad/{}", t.name)),
            );
            assert!(off < 1e-3, "{key} {}: {off:.2e}", t.name);
        }
    }
}
