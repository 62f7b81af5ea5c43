//! Activations that a block's backward pass reads, kept in half the bytes or less (`--dtype float16`).
//!
//! Of a block are kept, as f16: q, k, v (before QK-norm too, where the family has it), attention's output, the residual between the
//! halves, gate, up and A x of the adapter's layers; as f32 what enters an exponential or is one number a head: attention's
//! log-sum-exp and QK-norm's statistics. Both norms and gate·up's product are computed again from these ([`Pass::restore`]).

use super::forward::Pass;
use super::spec::ModelSpec;
use super::workspace::{Acts, Shape};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::{elementwise, half_words, pad4, rmsnorm};
use std::cell::Cell;

/// One block's activations as they are kept.
pub(super) struct Packed {
    /// Whether they are the last forward pass's.
    pub(super) held: Cell<bool>,
    /// (M · width / 2) words each, in the order of [`halves`].
    pub(super) halves: Vec<Buffer>,
    /// (M · width) f32 each, in the order of [`exact`].
    exact: Vec<Buffer>,
}

/// Values a row of each tensor that is kept as f16 and as f32.
pub(super) struct Widths {
    /// In the order of [`halves`].
    pub(super) halves: Vec<usize>,
    /// In the order of [`exact`].
    pub(super) exact: Vec<usize>,
}

impl Widths {
    /// Those of a block of `spec` with room for an adapter of this rank (0: none).
    pub(super) fn of(spec: &ModelSpec, rank: usize) -> Self {
        let (c, f) = (spec.hidden_size, spec.intermediate_size);
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        let mut halves = vec![q, kv, kv, q, c, f, f];
        let mut exact = vec![spec.num_heads];
        if spec.qk_norm {
            halves.extend([q, kv]);
            exact.extend([spec.num_heads, spec.num_kv_heads]);
        }
        if rank > 0 {
            halves.extend([pad4(rank); 7]);
        }
        Self { halves, exact }
    }
}

/// The tensors that are kept as f16.
fn halves(acts: &Acts) -> Vec<&Buffer> {
    let mut all = vec![
        &acts.q,
        &acts.k,
        &acts.v,
        &acts.attn,
        &acts.x_mid,
        &acts.gate,
        &acts.up,
    ];
    all.extend(acts.q_raw.iter().chain(&acts.k_raw));
    all.extend(acts.lora.iter().flatten());
    all
}

/// Those that are kept as they are.
fn exact(acts: &Acts) -> Vec<&Buffer> {
    let mut all = vec![&acts.lse];
    all.extend(acts.q_rstd.iter().chain(&acts.k_rstd));
    all
}

impl Packed {
    /// Room for one block's activations.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn new(gpu: &Gpu, spec: &ModelSpec, shape: Shape) -> Result<Self> {
        let widths = Widths::of(spec, shape.rank);
        let alloc = |bytes: usize| gpu.alloc("activations/kept", (shape.rows * bytes) as u64);
        Ok(Self {
            held: Cell::new(false),
            halves: widths
                .halves
                .iter()
                .map(|w| alloc(2 * w))
                .collect::<Result<_>>()?,
            exact: widths.exact.iter().map(|w| alloc(4 * w)).collect::<Result<_>>()?,
        })
    }
}

impl Pass<'_> {
    /// Keeps what the backward pass reads of `acts`' block, where one follows and the workspace has room for it.
    pub(super) fn pack(
        &self,
        rec: &mut Recorder,
        layer: usize,
        acts: &Acts,
        m: usize,
        backward: bool,
    ) -> Result<()> {
        let Some(packed) = self.ws.packed(layer) else {
            return Ok(());
        };
        packed.held.set(backward);
        if !backward {
            return Ok(());
        }
        self.fill(rec, packed, acts, m)
    }

    /// Rounds the activations of block `layer`, just computed again, as those are that are kept.
    pub(super) fn round(&self, rec: &mut Recorder, layer: usize, acts: &Acts, m: usize) -> Result<()> {
        let Some(packed) = self.ws.rounding(layer) else {
            return Ok(());
        };
        self.fill(rec, packed, acts, m)?;
        self.restore(rec, layer, packed, acts, m)
    }

    fn fill(&self, rec: &mut Recorder, packed: &Packed, acts: &Acts, m: usize) -> Result<()> {
        let widths = Widths::of(&self.model.spec, self.ws.shape.rank);
        for ((from, to), width) in halves(acts).into_iter().zip(&packed.halves).zip(widths.halves) {
            half_words::pack(rec, from, to, m * width)?;
        }
        for ((from, to), width) in exact(acts).into_iter().zip(&packed.exact).zip(widths.exact) {
            rec.copy(from, 0, to, 0, (4 * m * width) as u64);
        }
        Ok(())
    }

    /// Puts back into `acts` what [`pack`](Self::pack) kept of block `layer`, and computes the rest from it.
    pub(super) fn restore(
        &self,
        rec: &mut Recorder,
        layer: usize,
        packed: &Packed,
        acts: &Acts,
        m: usize,
    ) -> Result<()> {
        let (spec, block) = (&self.model.spec, &self.model.blocks[layer]);
        let widths = Widths::of(spec, self.ws.shape.rank);
        for ((to, from), width) in halves(acts).into_iter().zip(&packed.halves).zip(widths.halves) {
            half_words::unpack(rec, from, to, m * width)?;
        }
        for ((to, from), width) in exact(acts).into_iter().zip(&packed.exact).zip(widths.exact) {
            rec.copy(from, 0, to, 0, (4 * m * width) as u64);
        }
        let (c, eps) = (spec.hidden_size, spec.rms_norm_eps as f32);
        let norms = [
            (self.ws.input(layer), &block.attn_norm, &acts.normed1, &acts.rstd1),
            (&acts.x_mid, &block.mlp_norm, &acts.normed2, &acts.rstd2),
        ];
        for (x, gamma, normed, rstd) in norms {
            rmsnorm::forward(rec, x, gamma.vector(), normed, rstd, m, c, eps)?;
        }
        let n = m * spec.intermediate_size;
        elementwise::swiglu_forward(rec, &acts.gate, &acts.up, &acts.act, n)
    }
}
