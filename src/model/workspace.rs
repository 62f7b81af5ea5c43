//! Activation buffers: allocated once for a token budget, reused by every batch.

use super::batch::Batch;
use super::packed::Packed;
use super::params::Model;
use super::pieces::{Part, Summand};
use super::plan::Plan;
use super::spec::{ModelSpec, Proj};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, BufferLimits, Gpu, Recorder};
use crate::kernels::head::HeadBuffers;
use crate::kernels::pad4;
use std::cell::Cell;

/// What a workspace must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Most rows in one batch.
    pub rows: usize,
    /// Most readouts in one batch.
    pub readouts: usize,
    /// Largest LoRA rank that runs (0: no adapter).
    pub rank: usize,
    /// Room for the backward pass.
    pub backward: bool,
    /// Sets of activations, each of one block: the backward pass finds those of the last blocks and computes the others again.
    /// At least 1 is made (`--checkpointing`), at most one a block (`--no-checkpointing`).
    pub kept_blocks: usize,
    /// Of the sets that are kept, all but the last block's hold f16 (`packed.rs`). Activations that are computed again
    /// are rounded the same way, so that gradients do not depend on how many blocks are kept.
    pub half: bool,
    /// Room for the vocabulary head's chunks.
    pub vocabulary_head: bool,
}

impl Shape {
    /// Blocks whose activations are kept.
    pub fn kept(&self, spec: &ModelSpec) -> usize {
        let most = if self.backward { spec.num_layers.max(1) } else { 1 };
        self.kept_blocks.clamp(1, most)
    }

    /// Blocks whose activations the backward pass reads rounded to f16.
    pub fn half_blocks(&self, spec: &ModelSpec) -> usize {
        if self.half && self.backward {
            spec.num_layers.saturating_sub(1)
        } else {
            0
        }
    }

    /// Whether activations that are computed again need a place to be rounded in.
    pub(super) fn rounds(&self, spec: &ModelSpec) -> bool {
        self.half_blocks(spec) > self.sets(spec)[1]
    }

    /// Sets of f32 activations that are made, and of f16 ones.
    pub(super) fn sets(&self, spec: &ModelSpec) -> [usize; 2] {
        match (self.kept(spec), self.half) {
            (kept, true) => [1, kept - 1],
            (kept, false) => [kept, 0],
        }
    }
}

/// One layer's activations; M rows.
pub(super) struct Acts {
    /// The layer whose activations these are, until its backward pass has used them up.
    pub(super) holds: Cell<Option<usize>>,
    pub(super) normed1: Buffer,       // (M, C)
    pub(super) rstd1: Buffer,         // (M)
    pub(super) q_raw: Option<Buffer>, // (M, H·D), before QK-norm
    pub(super) k_raw: Option<Buffer>, // (M, KV·D)
    pub(super) q_rstd: Option<Buffer>,
    pub(super) k_rstd: Option<Buffer>,
    pub(super) q: Buffer,                 // (M, H·D)
    pub(super) k: Buffer,                 // (M, KV·D)
    pub(super) v: Buffer,                 // (M, KV·D)
    pub(super) attn: Buffer,              // (M, H·D)
    pub(super) lse: Buffer,               // (M, H)
    pub(super) x_mid: Buffer,             // (M, C)
    pub(super) normed2: Buffer,           // (M, C)
    pub(super) rstd2: Buffer,             // (M)
    pub(super) gate: Buffer,              // (M, F); the backward pass turns it into its gradient
    pub(super) up: Buffer,                // (M, F); likewise
    pub(super) act: Buffer,               // (M, F)
    pub(super) lora: Vec<Option<Buffer>>, // A x of each linear layer (M, R)
}

/// Gradients of activations that live for one layer.
pub(super) struct Grads {
    pub(super) dx: Buffer,      // (M, C)
    pub(super) dnormed: Buffer, // (M, C)
    pub(super) dq: Buffer,
    pub(super) dk: Buffer,
    pub(super) dv: Buffer,
    pub(super) dq_raw: Option<Buffer>,
    pub(super) dk_raw: Option<Buffer>,
    pub(super) dattn: Buffer,
    pub(super) delta: Buffer,         // (M, H)
    pub(super) dact: Buffer,          // (M, F)
    pub(super) dlora: Option<Buffer>, // (M, R)
    pub(super) ones: Buffer,          // (M, 4), first column 1: a bias gradient is onesᵀ dy
}

/// Every buffer a forward and backward pass needs beside weights and KV cache.
pub struct Workspace {
    /// What it was made for.
    pub shape: Shape,
    pub(super) tokens: Buffer,
    pub(super) meta: Buffer,
    pub(super) key_ends: Buffer,
    pub(super) readout_rows: Buffer,
    pub(super) targets: Buffer,
    pub(super) starts: Buffer,
    pub(super) inputs: Vec<Buffer>, // x before each layer and after the last (M, C)
    /// The first layer whose activations are kept; those before it share the first set.
    first_kept: usize,
    pub(super) acts: Vec<Acts>,
    /// Where activations are kept as f16: those of the layers from `first_kept` to the last but one.
    packed: Vec<Packed>,
    /// What rounds the activations of the other blocks, where those are rounded.
    rounding: Option<Packed>,
    pub(super) normed: Buffer, // (M, C) after the final norm
    pub(super) rstd: Buffer,
    pub(super) hidden: Buffer, // (P, C)
    pub(super) dhidden: Option<Buffer>,
    pub(super) grads: Option<Grads>,
    pub(super) head: Option<HeadBuffers>,
    pub(super) logp: Buffer,    // (P)
    pub(super) lse: Buffer,     // (P, 2)
    pub(super) entropy: Buffer, // (P)
    pub(super) dlogp: Buffer,   // (P)
    pub(super) scores: Buffer,  // (P, 4)
}

/// A batch on the device, ready to run.
pub struct Loaded {
    /// Rows.
    pub m: usize,
    /// Readouts.
    pub p: usize,
    /// Its rows by where their gradient goes, in ascending order; together they are all of them.
    pub parts: Vec<Part>,
}

impl Loaded {
    /// `m` rows and `p` readouts whose gradient is one sum.
    pub fn whole(m: usize, p: usize) -> Self {
        let part = Part {
            rows: 0..m,
            readouts: 0..p,
            sum: Summand::ADD,
        };
        Self {
            m,
            p,
            parts: vec![part],
        }
    }
}

impl Workspace {
    /// Allocates the buffers.
    ///
    /// # Errors
    /// Out of memory, or a buffer larger than a binding: lower the token budget.
    pub fn new(gpu: &Gpu, spec: &ModelSpec, shape: Shape) -> Result<Self> {
        let Shape {
            rows: m,
            readouts: p,
            backward,
            ..
        } = shape;
        let c = spec.hidden_size;
        let f32s = |name: &str, n: usize| gpu.alloc(&format!("activations/{name}"), n as u64 * 4);
        let layers = if backward { spec.num_layers + 1 } else { 1 };
        let [sets, half_sets] = shape.sets(spec);
        Ok(Self {
            shape,
            tokens: f32s("tokens", m)?,
            meta: f32s("meta", m * 4)?,
            key_ends: f32s("key ends", m)?,
            readout_rows: f32s("readout rows", p)?,
            targets: f32s("targets", p)?,
            starts: f32s("starts", m + 1)?,
            inputs: (0..layers)
                .map(|_| f32s("layer inputs", m * c))
                .collect::<Result<_>>()?,
            first_kept: spec.num_layers - shape.kept(spec).min(spec.num_layers),
            acts: (0..sets)
                .map(|_| Acts::new(gpu, spec, shape))
                .collect::<Result<_>>()?,
            packed: (0..half_sets)
                .map(|_| Packed::new(gpu, spec, shape))
                .collect::<Result<_>>()?,
            rounding: shape
                .rounds(spec)
                .then(|| Packed::new(gpu, spec, shape))
                .transpose()?,
            normed: f32s("final norm", m * c)?,
            rstd: f32s("rstd", m)?,
            hidden: f32s("readout states", p * c)?,
            dhidden: if backward {
                Some(f32s("readout gradients", p * c)?)
            } else {
                None
            },
            grads: if backward {
                Some(Grads::new(gpu, spec, shape)?)
            } else {
                None
            },
            head: if shape.vocabulary_head {
                Some(HeadBuffers::new(gpu, p)?)
            } else {
                None
            },
            logp: f32s("logp", p)?,
            lse: f32s("lse", 2 * p)?,
            entropy: f32s("entropy", p)?,
            dlogp: f32s("dlogp", p)?,
            scores: f32s("scores", p * 4)?,
        })
    }

    /// Bytes that [`Workspace::new`] allocates, the vocabulary head's chunks aside.
    ///
    /// # Errors
    /// As [`Gpu::counting`].
    pub fn activation_bytes(spec: &ModelSpec, shape: Shape) -> Result<u64> {
        let plan = Plan::of(&BufferLimits::least(), |gpu| Self::new(gpu, spec, shape))?;
        Ok(plan.bytes("activations"))
    }

    /// The most blocks whose activations fit where [`Workspace::activation_bytes`] may be at most `budget`; `None` where not
    /// even one block's do.
    ///
    /// # Errors
    /// As [`Workspace::activation_bytes`].
    pub fn kept_within(spec: &ModelSpec, shape: Shape, budget: u64) -> Result<Option<usize>> {
        let keeping = |kept_blocks| Shape { kept_blocks, ..shape };
        let bytes = |kept_blocks| Self::activation_bytes(spec, keeping(kept_blocks));
        let one = bytes(1)?;
        let Some(room) = budget.checked_sub(one) else {
            return Ok(None);
        };
        // Two sets are never made for a model of one block, or without a backward pass. The last block's may cost less
        // than another's.
        let more = room.checked_div(bytes(2)? - one).unwrap_or(0) as usize;
        let all = keeping(usize::MAX).kept(spec);
        let some = keeping(more.saturating_add(1)).kept(spec);
        Ok(Some(if some < all && budget >= bytes(all)? {
            all
        } else {
            some
        }))
    }

    /// Writes a packed batch to the device.
    ///
    /// # Errors
    /// It is larger than the workspace, a token is outside the vocabulary, or a position outside the tables.
    pub fn load(&self, rec: &mut Recorder, model: &Model, batch: &mut Batch) -> Result<Loaded> {
        let starts = batch.finish();
        let (m, p) = (batch.rows(), batch.readouts.len());
        if m > self.shape.rows || p > self.shape.readouts {
            return Err(Error::user(format!(
                "a batch of {m} tokens and {p} targets does not fit the token budget of {}; raise --token-budget or \
                 shorten the sequences",
                self.shape.rows
            )));
        }
        check_tokens(&model.spec, &batch.tokens)?;
        let targets: Vec<u32> = batch.readouts.iter().map(|r| r.target).collect();
        check_tokens(&model.spec, &targets)?;
        if let Some(over) = batch
            .meta
            .iter()
            .map(|x| x[3] as usize)
            .max()
            .filter(|x| *x >= model.rope.positions)
        {
            return Err(Error::user(format!(
                "a sequence of {} tokens is longer than the {} positions this run was set up for (the model's context \
                 is {})",
                over + 1,
                model.rope.positions,
                model.spec.max_position_embeddings
            )));
        }
        rec.write(&self.tokens, 0, &batch.tokens)?;
        rec.write(&self.meta, 0, &batch.meta)?;
        rec.write(&self.key_ends, 0, &batch.key_ends)?;
        rec.write(&self.starts, 0, &starts)?;
        let rows: Vec<u32> = batch.readouts.iter().map(|r| r.row).collect();
        rec.write(&self.readout_rows, 0, &rows)?;
        rec.write(&self.targets, 0, &targets)?;
        Ok(Loaded::whole(m, p))
    }

    /// Token of each row (M) u32; a decode loop on the GPU writes it.
    pub fn tokens(&self) -> &Buffer {
        &self.tokens
    }

    /// Attention ranges of each row (M) `vec4<u32>`; a decode loop on the GPU advances it.
    pub fn meta(&self) -> &Buffer {
        &self.meta
    }

    /// Rows to be read out (P) u32.
    pub fn readout_rows(&self) -> &Buffer {
        &self.readout_rows
    }

    /// Log-probabilities of the readouts (P) after a forward pass and its head.
    pub fn log_probs(&self) -> &Buffer {
        &self.logp
    }

    /// Entropies of the readouts (P), nats.
    pub fn entropy(&self) -> &Buffer {
        &self.entropy
    }

    /// dL/dlogp of the readouts (P), which the backward pass starts from.
    pub fn coefficients(&self) -> &Buffer {
        &self.dlogp
    }

    /// Scores of the readouts (P, 4) after a forward pass and its head, in the first column. dL/dscore takes their place
    /// before the backward pass, the other columns zero.
    pub fn scores(&self) -> &Buffer {
        &self.scores
    }

    /// Hidden states of the readouts (P, C) after a forward pass.
    pub fn hidden(&self) -> &Buffer {
        &self.hidden
    }

    /// Whether the backward pass finds block `layer`'s activations as the forward pass left them.
    pub(super) fn keeps(&self, layer: usize) -> bool {
        layer >= self.first_kept
    }

    /// Where a layer's activations go. The last layers have sets of their own. Those before them share the first set, which is free
    /// again when the backward pass comes to them: that is why the last are kept and not the first, and nothing else is needed
    /// for what is computed again. All blocks cost the same to recompute, so that no choice of as many saves more.
    /// Where activations are kept as f16, all layers pass through the one set.
    pub(super) fn acts(&self, layer: usize) -> &Acts {
        &self.acts[layer.saturating_sub(self.first_kept).min(self.acts.len() - 1)]
    }

    /// Where a layer's activations are kept as f16, if they are.
    pub(super) fn packed(&self, layer: usize) -> Option<&Packed> {
        layer
            .checked_sub(self.first_kept)
            .and_then(|i| self.packed.get(i))
    }

    /// What a layer's activations pass through that are computed again: where they are rounded as those that are kept.
    pub(super) fn rounding(&self, layer: usize) -> Option<&Packed> {
        let last = self.first_kept + self.packed.len();
        let rounded = self.shape.half && layer < last;
        self.packed(layer).or(self.rounding.as_ref()).filter(|_| rounded)
    }

    pub(super) fn input(&self, layer: usize) -> &Buffer {
        &self.inputs[if self.inputs.len() > 1 { layer } else { 0 }]
    }

    pub(super) fn grads(&self) -> Result<&Grads> {
        self.grads
            .as_ref()
            .ok_or_else(|| Error::internal("this workspace has no room for a backward pass"))
    }
}

/// Refuses token ids outside the vocabulary.
///
/// # Errors
/// Names the first such id and its index.
pub fn check_tokens(spec: &ModelSpec, tokens: &[u32]) -> Result<()> {
    match tokens.iter().position(|t| *t as usize >= spec.vocab_size) {
        None => Ok(()),
        Some(i) => Err(Error::user(format!(
            "token id {} (index {i}) is outside the model's vocabulary of {}; was it made with another model's tokenizer?",
            tokens[i], spec.vocab_size
        ))),
    }
}

impl Acts {
    fn new(gpu: &Gpu, spec: &ModelSpec, shape: Shape) -> Result<Self> {
        let m = shape.rows;
        let f32s = |name: &str, n: usize| gpu.alloc(&format!("activations/{name}"), (m * n) as u64 * 4);
        let (c, f) = (spec.hidden_size, spec.intermediate_size);
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let norm = |name: &str, n: usize| {
            if spec.qk_norm {
                f32s(name, n).map(Some)
            } else {
                Ok(None)
            }
        };
        let lora = |_: Proj| {
            if shape.rank > 0 {
                f32s("lora", pad4(shape.rank)).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Self {
            holds: Cell::new(None),
            normed1: f32s("norm", c)?,
            rstd1: f32s("rstd", 1)?,
            q_raw: norm("q", q)?,
            k_raw: norm("k", kv)?,
            q_rstd: norm("rstd", spec.num_heads)?,
            k_rstd: norm("rstd", spec.num_kv_heads)?,
            q: f32s("q", q)?,
            k: f32s("k", kv)?,
            v: f32s("v", kv)?,
            attn: f32s("attention", q)?,
            lse: f32s("lse", spec.num_heads)?,
            x_mid: f32s("middle", c)?,
            normed2: f32s("norm", c)?,
            rstd2: f32s("rstd", 1)?,
            gate: f32s("mlp", f)?,
            up: f32s("mlp", f)?,
            act: f32s("mlp", f)?,
            lora: Proj::ALL.into_iter().map(lora).collect::<Result<_>>()?,
        })
    }
}

impl Grads {
    fn new(gpu: &Gpu, spec: &ModelSpec, shape: Shape) -> Result<Self> {
        let m = shape.rows;
        let f32s = |name: &str, n: usize| gpu.alloc(&format!("activations/d {name}"), (m * n) as u64 * 4);
        let (c, f) = (spec.hidden_size, spec.intermediate_size);
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let ones = gpu.alloc("activations/ones", (m * 4) as u64 * 4)?;
        if !gpu.counts() {
            let first: Vec<[f32; 4]> = vec![[1.0, 0.0, 0.0, 0.0]; m];
            gpu.write(&ones, 0, &first);
        }
        Ok(Self {
            dx: f32s("x", c)?,
            dnormed: f32s("norm", c)?,
            dq: f32s("q", q)?,
            dk: f32s("k", kv)?,
            dv: f32s("v", kv)?,
            dq_raw: if spec.qk_norm { Some(f32s("q", q)?) } else { None },
            dk_raw: if spec.qk_norm { Some(f32s("k", kv)?) } else { None },
            dattn: f32s("attention", q)?,
            delta: f32s("delta", spec.num_heads)?,
            dact: f32s("mlp", f)?,
            dlora: if shape.rank > 0 {
                Some(f32s("lora", pad4(shape.rank))?)
            } else {
                None
            },
            ones,
        })
    }
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
