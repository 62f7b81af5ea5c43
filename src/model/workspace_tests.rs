//! Whatever is kept for the backward pass, gradients have the same bits.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::gpu::GpuOptions;
use crate::model::init::random_model;
use crate::model::params::LoraShape;
use crate::model::run::{Group, each_batch};
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
    let shape = Shape {
        rows: 16,
        readouts: 24,
        rank: model.lora.as_ref().map_or(0, |l| l.rank),
        backward: true,
        kept_blocks,
        vocabulary_head: true,
    };
    let ws = Workspace::new(&model.gpu, &model.spec, shape).unwrap();
    assert_eq!(ws.acts.len(), kept_blocks.clamp(1, LAYERS));
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
    each_batch(model, &ws, &groups, true, &mut |rec, ran| {
        batches += 1;
        let dlogp: Vec<f32> = (0..ran.logp.len()).map(|i| [0.5, -0.25, 1.0][i % 3]).collect();
        for _ in 0..passes {
            ran.pass
                .backward_log_probs(rec, ran.loaded, &dlogp, &ran.batch.tokens)?;
        }
        Ok(())
    })
    .unwrap();
    assert!(batches > 1);
    let bits = |t: crate::model::params::Trainable| -> Vec<u32> {
        let values = t.grad.read_f32(&model.gpu).unwrap();
        assert!(values.iter().any(|v| *v != 0.0), "{}", t.name);
        values.iter().map(|v| v.to_bits()).collect()
    };
    model.trainable().into_iter().map(bits).collect()
}

#[test]
fn gradients_have_the_same_bits_whatever_is_kept() {
    let gpu = Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap();
    for lora in [false, true] {
        let mut model = random_model(&gpu, &spec(lora), DType::F32, 64, 3).unwrap();
        if lora {
            let shape = LoraShape {
                rank: 3,
                alpha: 6.0,
                targets: Proj::ALL.to_vec(),
            };
            // Nonzero B, so that A has gradients.
            model
                .set_adapter(&shape, true, &mut |name, rows, cols| {
                    Ok((0..rows * cols)
                        .map(|i| ((i * 37 + name.len() * 11) % 17) as f32 / 100.0 - 0.08)
                        .collect())
                })
                .unwrap();
        } else {
            model.train_base().unwrap();
        }
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
