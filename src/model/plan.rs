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
use crate::gpu::BufferLimits;
use crate::kernels::adamw_8bit;
use crate::kernels::head::HeadBuffers;
use crate::kernels::pad4;
use crate::kernels::weight::{SHARD_ROWS, device_bytes, shard_ranges};
use crate::tensor::DType;

/// Who takes how many bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// (owner, bytes), in the order they were added; no owner twice.
    pub rows: Vec<(String, u64)>,
    /// What has to lie in one buffer, each kind once.
    pieces: Vec<Piece>,
}

/// What an adapter may not be able to hold, however much memory it has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// A buffer that kernels bind whole: its label, and the most bytes of one with it.
    Bound(String, u64),
    /// A buffer for results on their way to the host.
    Host(String, u64),
    /// A matrix, which is split between rows: its type, rows and columns.
    Matrix(DType, usize, usize),
}

impl Plan {
    /// Adds `bytes` to an owner's row.
    pub fn add(&mut self, owner: &str, bytes: u64) {
        match self.rows.iter_mut().find(|(name, _)| name == owner) {
            Some((_, sum)) => *sum += bytes,
            None => self.rows.push((owner.to_string(), bytes)),
        }
    }

    /// Adds a buffer as [`Gpu::alloc`](crate::gpu::Gpu::alloc) makes it, to the row of its label's first part.
    pub fn alloc(&mut self, label: &str, bytes: u64) {
        let owner = label.split('/').next().unwrap_or(label);
        self.add(owner, bytes.max(4).next_multiple_of(4));
        self.bind(label, bytes);
    }

    /// Notes that a buffer of `bytes` is bound whole, without counting its bytes.
    pub fn bind(&mut self, label: &str, bytes: u64) {
        self.note(Piece::Bound(label.to_string(), bytes));
    }

    /// Notes a buffer on the host ([`Readback`](crate::gpu::Readback)), which takes nothing of the device's memory.
    pub fn read_back(&mut self, label: &str, bytes: u64) {
        self.note(Piece::Host(label.to_string(), bytes));
    }

    /// Notes a matrix that is allocated in shards.
    pub fn matrix(&mut self, dtype: DType, rows: usize, cols: usize) {
        self.note(Piece::Matrix(dtype, rows, cols));
    }

    fn note(&mut self, piece: Piece) {
        for known in &mut self.pieces {
            match (known, &piece) {
                (Piece::Bound(a, most), Piece::Bound(b, bytes))
                | (Piece::Host(a, most), Piece::Host(b, bytes))
                    if a == b =>
                {
                    *most = (*most).max(*bytes);
                    return;
                }
                (known, piece) if known == piece => return,
                _ => {}
            }
        }
        self.pieces.push(piece);
    }

    /// What is wrong with the first buffer that the adapter cannot hold; `None` where it holds all.
    pub fn unbound(&self, limits: &BufferLimits) -> Option<String> {
        self.pieces.iter().find_map(|piece| match piece {
            Piece::Bound(label, bytes) => limits.binds(label, *bytes),
            Piece::Host(label, bytes) => limits.holds(label, *bytes),
            Piece::Matrix(dtype, rows, cols) => {
                let cut = shard_ranges(*dtype, *rows, *cols, limits.binding);
                cut.err().map(|_| {
                    let rows = SHARD_ROWS.min(*rows);
                    let what = format!("{rows} rows of a {} matrix of {cols} columns", dtype.name());
                    limits.binds(&what, device_bytes(*dtype, rows, *cols))
                })?
            }
        })
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
        other.pieces.iter().for_each(|piece| self.note(piece.clone()));
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
            let dtype = dtype(&t)?;
            plan.add("weights", tensor_bytes(&t, dtype));
            plan.tensor(&t, dtype);
        }
        plan.add("weights", joined_bias_bytes(spec));
        plan.alloc("rope/turns", rope_bytes(spec, positions));
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
        for t in source.spec.tensors() {
            plan.tensor(&t, source.stored(&t, dtype)?);
        }
        plan.add("weights", joined_bias_bytes(&source.spec));
        plan.add(
            "weights",
            stream::ring_bytes(&source.spec, |t| source.stored(t, dtype))?,
        );
        plan.alloc("rope/turns", rope_bytes(&source.spec, positions));
        Ok(plan)
    }

    /// A trainable adapter: its tensors, their gradients and AdamW's two moments.
    pub fn adapter(spec: &ModelSpec, shape: &LoraShape, optim: Optim) -> Self {
        let mut plan = Self::trained(adapter_tensors(spec, shape), optim);
        plan.add("adapter", adapter_bytes(spec, shape));
        for (rows, cols) in shape
            .targets
            .iter()
            .flat_map(|proj| adapter_sizes(spec, shape, *proj))
        {
            plan.matrix(DType::F32, rows, cols);
        }
        plan
    }

    /// Training every weight: what [`Plan::model`] counts as f32 weights once more as gradients, and their moments.
    pub fn full(spec: &ModelSpec, optim: Optim) -> Self {
        let mut plan = Self::trained(spec.tensors().map(|t| tensor_bytes(&t, DType::F32)), optim);
        spec.tensors().for_each(|t| plan.tensor(&t, DType::F32));
        plan
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
        for (name, bytes) in Workspace::largest(spec, shape) {
            plan.bind(&format!("activations/{name}"), bytes);
        }
        if shape.vocabulary_head {
            plan.head(shape.readouts);
        }
        plan
    }

    /// Scratch of the vocabulary head for this many rows.
    pub fn head(&mut self, rows: usize) {
        for (label, bytes) in HeadBuffers::sizes(rows) {
            self.alloc(label, bytes);
        }
    }

    fn tensor(&mut self, t: &TensorSpec, dtype: DType) {
        let (dtype, rows, cols) = on_device(t, dtype);
        self.matrix(dtype, rows, cols);
    }

    /// A KV cache of `rows` rows.
    pub fn kv_cache(spec: &ModelSpec, rows: usize, dtype: FloatDtype) -> Self {
        let mut plan = Self::default();
        plan.add("kv cache", KvCache::bytes(spec, rows, dtype));
        plan.bind("kv cache", KvCache::layer_bytes(spec, rows, dtype));
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
    let (dtype, rows, cols) = on_device(t, dtype);
    device_bytes(dtype, rows, cols)
}

/// A tensor's type, rows and columns there.
fn on_device(t: &TensorSpec, dtype: DType) -> (DType, usize, usize) {
    let (rows, cols) = match t.shape[..] {
        [rows, cols] => (rows, cols),
        _ => (1, t.shape.iter().product()),
    };
    (if is_matrix(t) { dtype } else { DType::F32 }, rows, cols)
}

/// Bytes of the rotary table.
fn rope_bytes(spec: &ModelSpec, positions: usize) -> u64 {
    2 * (positions * spec.head_dim / 2 * 4) as u64
}

/// Bytes of an adapter's A and B matrices on the device.
pub fn adapter_bytes(spec: &ModelSpec, shape: &LoraShape) -> u64 {
    adapter_tensors(spec, shape).sum()
}

/// The bytes of each of them.
fn adapter_tensors(spec: &ModelSpec, shape: &LoraShape) -> impl Iterator<Item = u64> {
    let pair = |proj: &Proj| {
        adapter_sizes(spec, shape, *proj).map(|(rows, cols)| device_bytes(DType::F32, rows, cols))
    };
    let layer: Vec<u64> = shape.targets.iter().flat_map(pair).collect();
    std::iter::repeat_n(layer, spec.num_layers).flatten()
}

/// Rows and columns of an adapter's A and B at one linear layer.
fn adapter_sizes(spec: &ModelSpec, shape: &LoraShape, proj: Proj) -> [(usize, usize); 2] {
    let (out, inp) = spec.proj_dims(proj);
    [(shape.rank, inp), (out, shape.rank)]
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

    /// The largest buffers that [`Workspace::new`] makes, in its order: one of each width.
    fn largest(spec: &ModelSpec, shape: Shape) -> [(&'static str, u64); 9] {
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let f32s = |rows: usize, width: usize| 4 * (rows * width) as u64;
        let [m, p] = [shape.rows, shape.readouts].map(|n| move |width| f32s(n, width));
        [
            ("meta", m(4)),
            ("layer inputs", m(spec.hidden_size)),
            ("q", m(q)),
            ("k", m(kv)),
            ("lse", m(spec.num_heads)),
            ("mlp", m(spec.intermediate_size)),
            ("lora", m(pad4(shape.rank))),
            ("readout states", p(spec.hidden_size)),
            ("scores", p(4)),
        ]
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
        // readout rows, targets, logp, lse (2), entropy, dlogp, scores (4); states and their gradients.
        let a_readout = 7 + 4 + c + if shape.backward { c } else { 0 };
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
