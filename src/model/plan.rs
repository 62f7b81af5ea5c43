//! The memory plan: what a run will allocate on the device, added up before anything is allocated.
//!
//! Rows are named as the device's own accounting names them (`gpu.memory().by_owner`), and a test allocates the real
//! thing and compares.

use std::fmt;

use super::kv_cache::KvCache;
use super::load::Source;
use super::packed::Widths;
use super::params::LoraShape;
use super::spec::{ModelSpec, Proj, Role, TensorSpec};
use super::stream;
use super::workspace::{Shape, Workspace};
use crate::config::{FloatDtype, Optim};
use crate::error::Result;
use crate::kernels::adamw_8bit;
use crate::kernels::head::HeadBuffers;
use crate::kernels::pad4;
use crate::kernels::weight::device_bytes;
use crate::tensor::DType;

/// Who takes how many bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// (owner, bytes), in the order they were added; no owner twice.
    pub rows: Vec<(String, u64)>,
}

impl Plan {
    /// Adds `bytes` to an owner's row.
    pub fn add(&mut self, owner: &str, bytes: u64) {
        match self.rows.iter_mut().find(|(name, _)| name == owner) {
            Some((_, sum)) => *sum += bytes,
            None => self.rows.push((owner.to_string(), bytes)),
        }
    }

    /// Adds another plan's rows, each under `prefix` where that is not empty ("reward model weights").
    pub fn extend(&mut self, prefix: &str, other: &Self) {
        for (owner, bytes) in &other.rows {
            let name = if prefix.is_empty() {
                owner.clone()
            } else {
                format!("{prefix} {owner}")
            };
            self.add(&name, *bytes);
        }
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The bytes of one owner; 0 if it has no row.
    pub fn bytes(&self, owner: &str) -> u64 {
        self.rows
            .iter()
            .find(|(name, _)| name == owner)
            .map_or(0, |(_, bytes)| *bytes)
    }

    /// A model without adapter: weights (matrices as `dtype`, `None` as stored) and rotary tables.
    ///
    /// # Errors
    /// As [`WeightStore::info`](super::store::WeightStore::info).
    pub fn model(source: &Source, dtype: Option<DType>, positions: usize) -> Result<Self> {
        Self::weights(&source.spec, |t| source.stored(t, dtype), positions)
    }

    /// As [`Plan::model`], with the element type of each matrix given.
    ///
    /// # Errors
    /// Those of `dtype`.
    pub fn weights(
        spec: &ModelSpec,
        dtype: impl Fn(&TensorSpec) -> Result<DType>,
        positions: usize,
    ) -> Result<Self> {
        let mut plan = Self::default();
        for t in spec.tensors() {
            plan.add("weights", tensor_bytes(&t, dtype(&t)?));
        }
        plan.add("weights", joined_bias_bytes(spec));
        plan.add("rope", 2 * (positions * spec.head_dim / 2 * 4) as u64);
        Ok(plan)
    }

    /// As [`Plan::model`] of a model whose blocks' matrices pass through a ring of two places ([`stream`]).
    ///
    /// # Errors
    /// As [`Plan::model`].
    pub fn streamed(source: &Source, dtype: Option<DType>, positions: usize) -> Result<Self> {
        let mut plan = Self::default();
        for t in source.spec.tensors().filter(|t| !stream::passes(t)) {
            plan.add("weights", tensor_bytes(&t, source.stored(&t, dtype)?));
        }
        plan.add("weights", joined_bias_bytes(&source.spec));
        plan.add(
            "weights",
            stream::ring_bytes(&source.spec, |t| source.stored(t, dtype))?,
        );
        plan.add("rope", 2 * (positions * source.spec.head_dim / 2 * 4) as u64);
        Ok(plan)
    }

    /// A trainable adapter: its tensors, their gradients and AdamW's two moments.
    pub fn adapter(spec: &ModelSpec, shape: &LoraShape, optim: Optim) -> Self {
        let mut plan = Self::trained(adapter_tensors(spec, shape), optim);
        plan.add("adapter", adapter_bytes(spec, shape));
        plan
    }

    /// Training every weight: what [`Plan::model`] counts as f32 weights once more as gradients, and their moments.
    pub fn full(spec: &ModelSpec, optim: Optim) -> Self {
        Self::trained(spec.tensors().map(|t| tensor_bytes(&t, DType::F32)), optim)
    }

    /// Counts the gradients `sets` times more: where a tree of sums waits
    /// ([`Summand::extra_slots`](super::pieces::Summand::extra_slots)).
    pub fn with_gradient_sets(mut self, sets: usize) -> Self {
        let more = self.bytes("gradients") * sets as u64;
        self.add("gradients", more);
        self
    }

    /// Gradients and moments of f32 tensors of these many bytes each.
    pub fn trained(tensors: impl IntoIterator<Item = u64>, optim: Optim) -> Self {
        let mut plan = Self::default();
        for bytes in tensors {
            plan.add("gradients", bytes);
            let state = match optim {
                Optim::Adamw => 2 * bytes,
                Optim::Adamw8bit => adamw_8bit::state_bytes(bytes as usize / 4),
            };
            plan.add("optimizer", state);
        }
        plan
    }

    /// The buffers of forward (and backward) passes.
    pub fn workspace(spec: &ModelSpec, shape: Shape) -> Self {
        let mut plan = Self::default();
        plan.add("activations", Workspace::activation_bytes(spec, shape));
        if shape.vocabulary_head {
            plan.add("head", HeadBuffers::bytes(shape.readouts));
        }
        plan
    }

    /// A KV cache of `rows` rows.
    pub fn kv_cache(spec: &ModelSpec, rows: usize, dtype: FloatDtype) -> Self {
        let mut plan = Self::default();
        plan.add("kv cache", KvCache::bytes(spec, rows, dtype));
        plan
    }
}

impl fmt::Display for Plan {
    /// One owner a line, largest first, and the total.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<&(String, u64)> = self.rows.iter().collect();
        rows.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (owner, bytes) in rows {
            writeln!(f, "{:>12.1} MiB  {owner}", mib(*bytes))?;
        }
        write!(f, "{:>12.1} MiB  total", mib(self.total()))
    }
}

/// Whether a tensor is loaded in the model's element type; everything else is f32.
pub(super) fn is_matrix(t: &TensorSpec) -> bool {
    matches!(t.role, Role::Weight(_) | Role::Embedding | Role::LmHead)
}

/// The biases of q, k and v, which a block holds together as well.
fn joined_bias_bytes(spec: &ModelSpec) -> u64 {
    let rows = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim;
    u64::from(spec.qkv_bias) * (spec.num_layers * rows * 4) as u64
}

/// Bytes of one tensor on the device: matrices as `dtype`, everything else as f32.
fn tensor_bytes(t: &TensorSpec, dtype: DType) -> u64 {
    let (rows, cols) = match t.shape[..] {
        [rows, cols] => (rows, cols),
        _ => (1, t.shape.iter().product()),
    };
    device_bytes(if is_matrix(t) { dtype } else { DType::F32 }, rows, cols)
}

/// Bytes of an adapter's A and B matrices on the device.
pub fn adapter_bytes(spec: &ModelSpec, shape: &LoraShape) -> u64 {
    adapter_tensors(spec, shape).sum()
}

/// The bytes of each of them.
fn adapter_tensors(spec: &ModelSpec, shape: &LoraShape) -> impl Iterator<Item = u64> {
    let pair = |proj: &Proj| {
        let (out, inp) = spec.proj_dims(*proj);
        [(shape.rank, inp), (out, shape.rank)].map(|(rows, cols)| device_bytes(DType::F32, rows, cols))
    };
    let layer: Vec<u64> = shape.targets.iter().flat_map(pair).collect();
    std::iter::repeat_n(layer, spec.num_layers).flatten()
}

impl Workspace {
    /// The most blocks whose activations fit where [`Workspace::activation_bytes`] may be at most `budget`; `None` where not even one
    /// block's do.
    pub fn kept_within(spec: &ModelSpec, shape: Shape, budget: u64) -> Option<usize> {
        let bytes = |kept_blocks| Self::activation_bytes(spec, Shape { kept_blocks, ..shape });
        if budget >= bytes(usize::MAX) {
            return Some(
                Shape {
                    kept_blocks: usize::MAX,
                    ..shape
                }
                .kept(spec),
            );
        }
        let room = budget.checked_sub(bytes(1))?;
        // Two sets are never made for a model of one block, or without a backward pass.
        let set = bytes(2) - bytes(1);
        let more = room.checked_div(set).unwrap_or(0) as usize;
        Some(
            Shape {
                kept_blocks: 1 + more,
                ..shape
            }
            .kept(spec),
        )
    }

    /// Bytes that [`Workspace::new`] allocates, the vocabulary head's chunks ([`HeadBuffers::bytes`]) aside.
    pub fn activation_bytes(spec: &ModelSpec, shape: Shape) -> u64 {
        let (m, p, c, f) = (
            shape.rows,
            shape.readouts,
            spec.hidden_size,
            spec.intermediate_size,
        );
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let rank = pad4(shape.rank);
        let heads = spec.num_heads + spec.num_kv_heads;
        let qk = if spec.qk_norm { q + kv } else { 0 };
        // Acts: two norms, q, k, v, attention, middle, gate, up, act; their statistics; A x of the seven layers.
        let acts = 3 * c
            + 2 * q
            + 2 * kv
            + 3 * f
            + 2
            + spec.num_heads
            + 7 * rank
            + qk
            + if spec.qk_norm { heads } else { 0 };
        // Grads: dx, dnormed, dq, dk, dv, dattn, delta, dact, the adapter's, and the column of ones.
        let grads = 2 * c + 2 * q + 2 * kv + qk + spec.num_heads + f + rank + 4;
        let inputs = if shape.backward { spec.num_layers + 1 } else { 1 };
        let [sets, half_sets] = shape.sets(spec);
        let half_sets = half_sets + usize::from(shape.rounds(spec));
        let packed = half_sets * Widths::of(spec, shape.rank).bytes();
        // tokens, meta (4), key ends, row starts, rstd; final norm.
        let a_row = 1 + 4 + 1 + 1 + 1 + c + inputs * c + sets * acts + if shape.backward { grads } else { 0 };
        // readout rows, targets, logp, lse, entropy, dlogp, scores (4); states and their gradients.
        let a_readout = 6 + 4 + c + if shape.backward { c } else { 0 };
        (m * (4 * a_row + packed) + 4 * (1 + p * a_readout)) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rows_add_up_and_print() {
        let mut plan = Plan::default();
        plan.add("weights", 3 << 20);
        plan.add("weights", 1 << 20);
        let mut all = Plan::default();
        all.extend("reward model", &plan);
        all.add("adapter", 1 << 19);
        assert_eq!(
            (all.total(), all.bytes("reward model weights")),
            ((4 << 20) + (1 << 19), 4 << 20)
        );
        let text = all.to_string();
        assert!(
            text.lines()
                .next()
                .unwrap()
                .ends_with("4.0 MiB  reward model weights"),
            "{text}"
        );
        assert!(text.ends_with("4.5 MiB  total"), "{text}");
    }
}
