//! The least memory of a training step: the shape formula of `docs/memory.md`, owner by owner under the names of
//! [`Plan`]. Nothing is padded, and no two phases of a step share memory except where a comment says so.
//!
//! No constructor allocates this: it is what one could do with. That is why it is written down, and not counted as
//! [`Plan`] is.
//!
//! What it takes as given: the element types, the rows of a batch and its readouts, the vocabulary head's chunk, f32
//! activations, and that nothing is computed twice but what checkpointing recomputes.

use super::params::LoraShape;
use super::plan::Plan;
use super::spec::{ModelSpec, TensorSpec};
use super::stream;
use super::workspace::Shape;
use crate::config::{FloatDtype, Optim};
use crate::error::Result;
use crate::kernels::adamw_8bit;
use crate::kernels::head;
use crate::tensor::DType;

/// Bytes of an f32.
const F32: usize = 4;

/// Weights: matrices in the type that `dtype` gives, vectors and score heads in f32.
///
/// # Errors
/// Those of `dtype`.
pub fn weights(spec: &ModelSpec, dtype: impl Fn(&TensorSpec) -> Result<DType>) -> Result<u64> {
    spec.tensors()
        .map(|t| {
            let elements: usize = t.shape.iter().product();
            let dtype = if t.role.is_matrix() {
                dtype(&t)?
            } else {
                DType::F32
            };
            // Blocks never cross rows, and rows are whole blocks.
            Ok(dtype.bytes_for(elements) as u64)
        })
        .sum()
}

/// As [`weights`] of a model whose blocks pass through a ring of [`stream::RING`] places: the smallest block counts for each.
///
/// # Errors
/// Those of `dtype`.
pub fn streamed_weights(spec: &ModelSpec, dtype: impl Fn(&TensorSpec) -> Result<DType>) -> Result<u64> {
    let mut resident = 0;
    let mut blocks = vec![0; spec.num_layers];
    for t in spec.tensors() {
        let elements: usize = t.shape.iter().product();
        let stored = if t.role.is_matrix() {
            dtype(&t)?
        } else {
            DType::F32
        };
        let bytes = stored.bytes_for(elements) as u64;
        match t.layer.filter(|_| stream::passes(&t)) {
            Some(layer) => blocks[layer] += bytes,
            None => resident += bytes,
        }
    }
    let block = blocks.iter().min().copied().unwrap_or(0);
    Ok(resident + block * stream::RING.min(spec.num_layers) as u64)
}

/// An adapter under training: A (R, in) and B (out, R) of every target, their gradients and AdamW's two moments.
pub fn adapter(spec: &ModelSpec, shape: &LoraShape, optim: Optim) -> Plan {
    let sides = |p| {
        let (out, inp) = spec.proj_dims(p);
        out + inp
    };
    let layer: usize = shape.targets.iter().map(|p| sides(*p)).sum();
    let values = shape.rank * layer * spec.num_layers;
    let mut plan = trained(values, optim);
    plan.add("adapter", (F32 * values) as u64);
    plan
}

/// Training every weight, beside the weights themselves.
pub fn full(spec: &ModelSpec, optim: Optim) -> Plan {
    trained(spec.num_parameters(), optim)
}

fn trained(values: usize, optim: Optim) -> Plan {
    let mut plan = Plan::default();
    plan.add("gradients", (F32 * values) as u64);
    let state = match optim {
        Optim::Adamw => 2 * F32 * values,
        // A byte a moment, and two f32 scales a block.
        Optim::Adamw8bit => 2 * values + 2 * F32 * values.div_ceil(adamw_8bit::BLOCK),
    };
    plan.add("optimizer", state as u64);
    plan
}

/// Keys and values of `rows` tokens in every layer.
pub fn kv_cache(spec: &ModelSpec, rows: usize, dtype: FloatDtype) -> u64 {
    (dtype.bytes() * rows * 2 * spec.num_kv_heads * spec.head_dim * spec.num_layers) as u64
}

/// Floats a row that a block's backward pass reads, its input aside: what autograd saves.
pub fn block_floats(spec: &ModelSpec, rank: usize) -> usize {
    let (c, f) = (spec.hidden_size, spec.intermediate_size);
    let (h, kv, d) = (spec.num_heads, spec.num_kv_heads, spec.head_dim);
    let norms = 2 * (c + 1); // both norms' outputs (inputs of linear layers) and statistics
    let attention = 2 * h * d + 2 * kv * d + h; // q, output; k, v; log-sum-exp
    let mlp = c + 3 * f; // the residual between the halves; gate, up, their product
    let qk_norm = if spec.qk_norm { (h + kv) * (d + 1) } else { 0 };
    norms + attention + mlp + qk_norm + 7 * rank // A x of seven layers
}

/// Bytes a row of what a block's backward pass reads and does not restore elementwise, in f16, statistics in f32.
pub fn half_block_bytes(spec: &ModelSpec, rank: usize) -> usize {
    let (c, f) = (spec.hidden_size, spec.intermediate_size);
    let (h, kv, d) = (spec.num_heads, spec.num_kv_heads, spec.head_dim);
    let qk_norm = if spec.qk_norm { h + kv } else { 0 };
    // q, attention's output; k, v; the residual between the halves; gate, up; before QK-norm; A x of seven layers.
    let halves = 2 * h * d + 2 * kv * d + c + 2 * f + qk_norm * d + 7 * rank;
    F32 / 2 * halves + F32 * (h + qk_norm)
}

/// Forward and backward passes over a batch of `shape.rows` rows and `shape.readouts` readouts.
pub fn training(spec: &ModelSpec, shape: Shape) -> Plan {
    let (m, p, c) = (shape.rows, shape.readouts, spec.hidden_size);
    let [sets, half_sets] = shape.sets(spec);
    // The input of every block and of the final norm, with that norm's statistic.
    let inputs = (spec.num_layers + 1) * c + 1;
    // Token, attention ranges (4), last row that attends, first readout.
    let meta = 7;
    let a_row = inputs + sets * block_floats(spec, shape.rank) + meta;
    // States; row, target, log-probability, log-sum-exp, dL/dlogp.
    let a_readout = c + 5;
    // dx, before it the gradient of the readouts' states. The gradients within a block fit where activations of that
    // block lie that have been used.
    let dx = m.max(p) * c;
    let mut plan = Plan::default();
    let halves = m * half_sets * half_block_bytes(spec, shape.rank);
    plan.add(
        "activations",
        (F32 * (m * a_row + p * a_readout + dx) + halves) as u64,
    );
    if shape.vocabulary_head {
        plan.add("head", (p * head::ROW_BYTES) as u64);
    }
    plan
}

/// A forward pass over `rows` rows that keeps nothing: the residual stream and the widest set that lives beside it.
pub fn forward(spec: &ModelSpec, rows: usize) -> u64 {
    let (c, f) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    // The norm's output with q, k, v; these with the attention's output; the norm's output with gate and up.
    let widest = (c + q + 2 * kv).max(2 * q + 2 * kv).max(c + 2 * f);
    (F32 * rows * (c + widest)) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::BufferLimits;
    use crate::model::shapes::Named;
    use crate::model::spec::Proj;
    use crate::model::workspace::Workspace;

    fn smol() -> ModelSpec {
        Named::find("smollm2-135m").unwrap().spec()
    }

    fn shape(kept_blocks: usize) -> Shape {
        Shape {
            rows: 1024,
            readouts: 1024,
            rank: 16,
            backward: true,
            kept_blocks,
            half: false,
            vocabulary_head: true,
        }
    }

    /// SmolLM2-135M: C 576, F 1536, H 9, KV 3, D 64, V 49152, 30 layers.
    #[test]
    fn weights_and_adapter_by_hand() {
        let spec = smol();
        assert_eq!(weights(&spec, |_| Ok(DType::F32)).unwrap(), 4 * 134_515_008);
        // 61 norms of 576 stay f32; the rest in blocks of 32 elements and 18 bytes.
        let vectors = 61 * 576;
        assert_eq!(
            weights(&spec, |_| Ok(DType::Q4_0)).unwrap(),
            4 * vectors + (134_515_008 - vectors) / 32 * 18
        );
        let lora = LoraShape {
            rank: 16,
            alpha: 32.0,
            targets: Proj::ALL.to_vec(),
        };
        // q and o 576 + 576, k and v 576 + 192, gate, up and down 576 + 1536.
        let values = 16 * 30 * (2 * 1152 + 2 * 768 + 3 * 2112);
        let plan = adapter(&spec, &lora, Optim::Adamw);
        assert_eq!(
            ["adapter", "gradients", "optimizer"].map(|o| plan.bytes(o)),
            [4 * values, 4 * values, 8 * values]
        );
        let small = adapter(&spec, &lora, Optim::Adamw8bit);
        assert_eq!(small.bytes("optimizer"), 2 * values + values / 256 * 8);
        assert_eq!(full(&spec, Optim::Adamw).bytes("optimizer"), 8 * 134_515_008);
        assert_eq!(kv_cache(&spec, 100, FloatDtype::Float32), 4 * 100 * 2 * 192 * 30);
        assert_eq!(kv_cache(&spec, 100, FloatDtype::Float16), 2 * 100 * 2 * 192 * 30);
    }

    #[test]
    fn activations_by_hand() {
        let spec = smol();
        // 3·576 + 2·576 + 2·192 + 3·1536 + 9 + 2 + 7·16.
        assert_eq!(block_floats(&spec, 16), 7995);
        let (m, p) = (1024u64, 1024u64);
        let by_hand = |kept: u64| 4 * (m * (31 * 576 + 1 + kept * 7995 + 7) + p * (576 + 5) + 1024 * 576);
        assert_eq!(training(&spec, shape(99)).bytes("activations"), by_hand(30));
        assert_eq!(training(&spec, shape(7)).bytes("activations"), by_hand(7));
        assert_eq!(training(&spec, shape(1)).bytes("activations"), by_hand(1));
        let half = Shape {
            half: true,
            ..shape(7)
        };
        // 2·576 + 2·192 + 576 + 2·1536 + 7·16 halves and 9 floats a row of six blocks.
        assert_eq!(half_block_bytes(&spec, 16), 2 * 5296 + 4 * 9);
        let sets = (1024 * 6 * (2 * 5296 + 4 * 9)) as u64;
        assert_eq!(training(&spec, half).bytes("activations"), by_hand(1) + sets);
        assert_eq!(training(&spec, shape(1)).bytes("head"), p * (4096 * 4 + 16));
        // 576 of the residual stream, 576 of the norm, gate and up.
        assert_eq!(forward(&spec, 10), 4 * 10 * (576 + 576 + 2 * 1536));
        let qwen = ModelSpec {
            qk_norm: true,
            ..spec
        };
        assert_eq!(block_floats(&qwen, 0), 7995 - 112 + 12 * 65);
    }

    fn workspace(spec: &ModelSpec, shape: Shape) -> Plan {
        Plan::of(&BufferLimits::least(), |gpu| Workspace::new(gpu, spec, shape)).unwrap()
    }

    #[test]
    fn the_plan_is_never_below_the_formula() {
        for name in ["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b"] {
            for qk_norm in [false, true] {
                let spec = ModelSpec {
                    qk_norm,
                    ..Named::find(name).unwrap().spec()
                };
                for rank in [0, 5, 16] {
                    for (kept_blocks, half) in [
                        (1, false),
                        (5, false),
                        (5, true),
                        (usize::MAX, false),
                        (usize::MAX, true),
                    ] {
                        let shape = Shape {
                            rank,
                            half,
                            ..shape(kept_blocks)
                        };
                        let (plan, least) = (workspace(&spec, shape), training(&spec, shape));
                        for (owner, bytes) in &least.rows {
                            assert!(*bytes <= plan.bytes(owner), "{name} {owner} {shape:?}");
                        }
                        let read = Shape {
                            backward: false,
                            ..shape
                        };
                        assert!(forward(&spec, 1024) <= workspace(&spec, read).bytes("activations"));
                    }
                }
            }
        }
    }
}
