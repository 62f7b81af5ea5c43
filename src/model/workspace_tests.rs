//! Whatever is kept for the backward pass, gradients have the same bits.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::gpu::GpuOptions;
use crate::model::init::random_model;
use crate::model::params::LoraShape;
use crate::model::run::{Group, each_packed, log_probs};
use crate::model::shapes::Named;
use crate::tensor::DType;

const LAYERS: usize = 5;

fn spec(qk_norm: bool) -> ModelSpec {
    ModelSpec {
        num_layers: LAYERS,
        hidden_size: 24,
        intermediate_size: 40,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        vocab_size: 61,
        qk_norm,
        ..Named::find("smollm2-135m").unwrap().spec()
    }
}

/// Bits of every gradient after `passes` backward passes over three micro-batches, the first of a prompt's whole group.
fn gradients(model: &Model, kept_blocks: usize, passes: usize) -> Vec<Vec<u32>> {
    let values = gradient_values(model, (kept_blocks, false), passes);
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect();
    values.into_iter().map(bits).collect()
}

/// As [`gradients`], their values; of the blocks that are kept all but the last as f16 where `half`.
fn gradient_values(model: &Model, (kept_blocks, half): (usize, bool), passes: usize) -> Vec<Vec<f32>> {
    let shape = Shape {
        rows: 16,
        readouts: 24,
        rank: model.lora.as_ref().map_or(0, |l| l.rank),
        backward: true,
        kept_blocks,
        half,
        vocabulary_head: true,
    };
    let ws = Workspace::new(&model.gpu, &model.spec, shape).unwrap();
    held_out_pass_leaves_no_trace(model, &ws);
    let kept = kept_blocks.clamp(1, LAYERS);
    assert_eq!(ws.acts.len(), if half { 1 } else { kept });
    assert_eq!(ws.acts.len() + ws.packed.len(), kept);
    let mut rec = Recorder::new(&model.gpu);
    for t in model.trainable() {
        t.grad.shards.iter().for_each(|s| rec.zero(&s.buffer));
    }
    rec.submit().unwrap();
    let tokens: Vec<Vec<u32>> = (0..5u32)
        .map(|i| (0..5 + i).map(|j| (7 * i + 11 * j) % 61).collect())
        .collect();
    let groups: Vec<Group<'_>> = [(0, 1), (2, 3), (4, 0)]
        .map(|(a, b)| Group {
            prefix: &tokens[a][..4],
            suffixes: vec![&tokens[b], &tokens[a][1..]],
        })
        .into();
    let mut batches = 0;
    each_packed(model, &ws, &groups, true, &mut |rec, packed| {
        batches += 1;
        packed.forward(rec, true)?;
        let dlogp: Vec<f32> = (0..packed.loaded.p).map(|i| [0.5, -0.25, 1.0][i % 3]).collect();
        rec.write(ws.coefficients(), 0, &dlogp)?;
        (0..passes).try_for_each(|_| packed.backward(rec))
    })
    .unwrap();
    assert!(batches > 1);
    let read = |t: crate::model::params::Trainable| -> Vec<f32> {
        let values = t.grad.read_f32(&model.gpu).unwrap();
        assert!(values.iter().any(|v| *v != 0.0), "{}", t.name);
        values
    };
    model.trainable().into_iter().map(read).collect()
}

/// Log-probabilities that no backward pass follows are those of the pass before one to the bit, and nothing is packed for them.
fn held_out_pass_leaves_no_trace(model: &Model, ws: &Workspace) {
    let tokens: Vec<u32> = (0..9).map(|j| (5 + 13 * j) % 61).collect();
    let groups = [Group {
        prefix: &tokens[..3],
        suffixes: vec![&tokens[3..], &tokens[4..]],
    }];
    let packed = || -> Vec<bool> { ws.packed.iter().map(|p| p.held.get()).collect() };
    let kept = |p: &Packed| -> Vec<u32> {
        let read = |b| model.gpu.read::<u32>(b, 0, 8).unwrap();
        p.halves.iter().flat_map(read).collect()
    };
    let alone = log_probs(model, ws, &groups, true).unwrap();
    assert!(packed().iter().all(|held| !held));
    assert!(ws.packed.iter().all(|p| kept(p).iter().all(|word| *word == 0)));
    let mut before_backward = Vec::new();
    each_packed(model, ws, &groups, true, &mut |rec, packed| {
        packed.forward(rec, true)?;
        rec.submit()?;
        let all = packed.pass.read_log_probs(packed.loaded)?;
        let readouts = packed.batch.sequences.iter().flatten();
        before_backward.extend(readouts.map(|r| all[*r].to_bits()));
        Ok(())
    })
    .unwrap();
    let bits: Vec<u32> = alone.iter().flatten().flatten().map(|l| l.to_bits()).collect();
    assert_eq!(bits, before_backward);
    assert!(packed().iter().all(|held| *held));
    assert!(ws.packed.iter().all(|p| kept(p).iter().any(|word| *word != 0)));
}

/// A backward pass after a forward pass that kept nothing computes every block again: the gradients of a workspace that keeps one.
#[test]
fn a_backward_pass_after_one_that_kept_nothing_recomputes() {
    let gpu = gpu();
    let model = model(&gpu, true);
    let tokens: Vec<u32> = (0..9).map(|j| (5 + 13 * j) % 61).collect();
    let groups = [Group {
        prefix: &tokens[..3],
        suffixes: vec![&tokens[3..]],
    }];
    let gradients = |half: bool, keep: bool| -> Vec<Vec<f32>> {
        let shape = Shape {
            rows: 16,
            readouts: 8,
            rank: 3,
            backward: true,
            kept_blocks: LAYERS,
            half,
            vocabulary_head: true,
        };
        let ws = Workspace::new(&gpu, &model.spec, shape).unwrap();
        let mut rec = Recorder::new(&gpu);
        for t in model.trainable() {
            t.grad.shards.iter().for_each(|s| rec.zero(&s.buffer));
        }
        rec.submit().unwrap();
        each_packed(&model, &ws, &groups, true, &mut |rec, packed| {
            packed.forward(rec, keep)?;
            rec.write(ws.coefficients(), 0, &vec![1.0f32; packed.loaded.p])?;
            packed.backward(rec)
        })
        .unwrap();
        let read = |t: crate::model::params::Trainable| t.grad.read_f32(&gpu).unwrap();
        model.trainable().into_iter().map(read).collect()
    };
    let exact = gradients(false, true);
    assert!(gradients(true, true) != exact);
    assert!(gradients(false, false) == exact);
    // Rounded as what is kept is.
    assert!(gradients(true, false) == gradients(true, true));
}

/// A model with every weight trained, or with an adapter whose B is not zero, so that A has gradients.
fn model(gpu: &Gpu, lora: bool) -> Model {
    let mut model = random_model(gpu, &spec(lora), DType::F32, 64, 3).unwrap();
    if !lora {
        model.train_base().unwrap();
        return model;
    }
    let shape = LoraShape {
        rank: 3,
        alpha: 6.0,
        targets: Proj::ALL.to_vec(),
    };
    model
        .set_adapter(&shape, true, &mut |name, rows, cols| {
            Ok((0..rows * cols)
                .map(|i| ((i * 37 + name.len() * 11) % 17) as f32 / 100.0 - 0.08)
                .collect())
        })
        .unwrap();
    model
}

fn gpu() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

/// Rounding a block's activations to 11 bits moves each tensor's gradient by about 2⁻¹¹ of its size: a few roundings enter each product and
/// their errors, of both signs, partly cancel. Blocks that are computed again are rounded as those that are kept.
#[test]
fn activations_kept_as_f16_move_gradients_by_their_rounding() {
    let gpu = gpu();
    for lora in [false, true] {
        let model = model(&gpu, lora);
        let exact = gradient_values(&model, (1, false), 1);
        let all = gradient_values(&model, (LAYERS, true), 1);
        for kept in [1, 2, 4, LAYERS] {
            let rounded = gradient_values(&model, (kept, true), 1);
            assert!(rounded == all, "{kept} blocks kept, adapter {lora}");
            let square =
                |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
            let far = exact.iter().zip(&rounded).map(|(a, b)| {
                let error = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
                (error / square(&mut a.iter().copied())).sqrt()
            });
            let worst = far.fold(0.0, f64::max);
            println!("{kept} blocks, adapter {lora}: at most {worst:.2e} of a tensor's gradient");
            assert!(
                worst > 0.0 && worst < 2e-3,
                "{kept} blocks, adapter {lora}: {worst:.2e}"
            );
        }
        // What is kept is not used up: a second pass over the same batch adds the same again.
        let (once, twice) = (
            gradient_values(&model, (LAYERS, true), 1),
            gradient_values(&model, (LAYERS, true), 2),
        );
        for (a, b) in once.iter().zip(&twice) {
            let peak = a.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert!(a.iter().zip(b).all(|(a, b)| (2.0 * a - b).abs() < 1e-5 * peak));
        }
    }
}

#[test]
fn gradients_have_the_same_bits_whatever_is_kept() {
    let gpu = gpu();
    for lora in [false, true] {
        let model = model(&gpu, lora);
        let all = gradients(&model, usize::MAX, 1);
        for kept in [1, 2, 3, LAYERS - 1] {
            assert!(
                gradients(&model, kept, 1) == all,
                "{kept} blocks kept, adapter {lora}"
            );
        }
        // A second pass over the same batch recomputes what the first one used up.
        assert!(gradients(&model, usize::MAX, 2) == gradients(&model, 1, 2));
        assert!(gradients(&model, usize::MAX, 2) != all);
    }
}
