//! The backward pass: from one coefficient a readout to the gradient of every trainable tensor.
//!
//! Blocks whose activations the workspace no longer holds (with checkpointing, all but the last) are recomputed from their saved
//! inputs by the same kernels in the same order, so that gradients have the same bits whatever is kept; where activations are kept as
//! f16 (`packed.rs`), gradients are those of the rounded activations, of blocks that are recomputed as well.

use super::forward::{Keys, Pass};
use super::params::{Block, Param};
use super::pieces::{Part, Summand};
use super::spec::{Head, Proj};
use super::workspace::{Acts, Grads, Loaded};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::linear::{self, Write};
use crate::kernels::{attention, elementwise, embedding, head, pad4, rmsnorm, rope, rows};

impl Pass<'_> {
    /// Adds the gradients of `Σᵢ dlogp[i] · log π(readout i)` to every trainable tensor, after [`Pass::forward`] and
    /// [`Pass::log_probs`] of the same batch.
    ///
    /// `dlogp` (P) is dL/dlogp; `tokens` (M) are the batch's tokens.
    ///
    /// # Errors
    /// A GPU error.
    pub fn backward_log_probs(
        &self,
        rec: &mut Recorder,
        batch: &Loaded,
        dlogp: &[f32],
        tokens: &[u32],
    ) -> Result<()> {
        rec.write(&self.ws.dlogp, 0, dlogp)?;
        self.backward_coefficients(rec, batch, tokens)
    }

    /// As [`Pass::backward_log_probs`] with the coefficients that are in [`Workspace::coefficients`](super::workspace::Workspace::coefficients)
    /// already: nothing is written from the host.
    ///
    /// # Errors
    /// A GPU error.
    pub fn backward_coefficients(&self, rec: &mut Recorder, batch: &Loaded, tokens: &[u32]) -> Result<()> {
        self.backward_from(rec, batch, 0)?;
        self.backward_embedding(rec, self.ws.grads()?, batch, tokens)
    }

    /// As [`Pass::backward_log_probs`] down to block `first` and no further: blocks below it and the embedding are left out.
    ///
    /// # Errors
    /// A GPU error.
    pub fn backward_log_probs_from(
        &self,
        rec: &mut Recorder,
        batch: &Loaded,
        dlogp: &[f32],
        first: usize,
    ) -> Result<()> {
        rec.write(&self.ws.dlogp, 0, dlogp)?;
        self.backward_from(rec, batch, first)
    }

    /// The backward pass from the coefficients in the workspace.
    fn backward_from(&self, rec: &mut Recorder, batch: &Loaded, first: usize) -> Result<()> {
        let ws = self.ws;
        let (Some(hb), Some(dhidden), Head::CausalLm) = (&ws.head, &ws.dhidden, self.model.spec.head) else {
            return Err(Error::internal("no room for the vocabulary head's backward pass"));
        };
        let param = self.model.head_param();
        let part = match param.grad {
            Some(_) => Some(single(batch)?),
            None => None,
        };
        let dw = match part {
            Some(part) => Some((param.gradient(part.sum.slot)?, write_of(part.sum))),
            None => None,
        };
        head::gradient(
            rec,
            hb,
            &ws.hidden,
            &param.value,
            &ws.targets,
            &ws.lse,
            &ws.dlogp,
            dhidden,
            dw,
            batch.p,
        )?;
        // A head that is the embedding as well gets the rest of its gradient at the end.
        if let Some(part) = part.filter(|_| self.model.head.is_some()) {
            merge(rec, param, part.sum)?;
        }
        self.backward_hidden(rec, batch, first)
    }

    /// As [`Pass::backward_coefficients`] for dL/dscore, which is where the scores were
    /// ([`Workspace::scores`](super::workspace::Workspace::scores)).
    ///
    /// # Errors
    /// A GPU error.
    pub fn backward_scores(&self, rec: &mut Recorder, batch: &Loaded, tokens: &[u32]) -> Result<()> {
        let ws = self.ws;
        let (Some(dhidden), Head::Score) = (&ws.dhidden, self.model.spec.head) else {
            return Err(Error::internal(
                "no room for the classification head's backward pass",
            ));
        };
        let param = self.model.head_param();
        linear::input_gradient(rec, &ws.scores, &param.value, dhidden, batch.p, Write::SET)?;
        if param.grad.is_some() {
            for part in &batch.parts {
                let (dw, of) = (param.gradient(part.sum.slot)?, part.readouts.clone());
                let rows = 0..dw.rows;
                linear::weight_gradient_rows(rec, &ws.scores, &ws.hidden, dw, rows, of, write_of(part.sum))?;
                merge(rec, param, part.sum)?;
            }
        }
        self.backward_hidden(rec, batch, 0)?;
        self.backward_embedding(rec, self.ws.grads()?, batch, tokens)
    }

    /// From the gradient of the readout states down to the input of block `first`.
    fn backward_hidden(&self, rec: &mut Recorder, batch: &Loaded, first: usize) -> Result<()> {
        let (ws, model, m) = (self.ws, self.model, batch.m);
        let (c, layers) = (model.spec.hidden_size, model.spec.num_layers);
        if model.streamed.is_some() {
            return Err(Error::internal(
                "a backward pass through a model that is streamed",
            ));
        }
        let g = ws.grads()?;
        let Some(dhidden) = &ws.dhidden else {
            return Err(Error::internal("no room for a backward pass"));
        };
        rows::segment_sum(rec, dhidden, &ws.starts, &g.dnormed, m, c)?;
        let x = ws.input(layers);
        norm_backward(
            rec,
            (&g.dnormed, x, &ws.rstd),
            &model.final_norm,
            &g.dx,
            NormShape::rows(batch, c),
            false,
        )?;
        for layer in (first..layers).rev() {
            let acts = ws.acts(layer);
            // What backward reads it also overwrites, so that a second backward pass recomputes.
            if acts.holds.take() != Some(layer) {
                match ws.packed(layer).filter(|packed| packed.held.get()) {
                    Some(packed) => self.restore(rec, layer, packed, acts, m)?,
                    None => {
                        self.layer(
                            rec,
                            (layer, true),
                            (ws.input(layer), None),
                            acts,
                            m,
                            &Keys::Packed,
                        )?;
                        self.round(rec, layer, acts, m)?;
                    }
                }
            }
            acts.holds.set(None);
            self.backward_layer(rec, layer, acts, g, batch)?;
        }
        Ok(())
    }

    fn backward_layer(
        &self,
        rec: &mut Recorder,
        layer: usize,
        acts: &Acts,
        g: &Grads,
        batch: &Loaded,
    ) -> Result<()> {
        let (spec, block) = (&self.model.spec, &self.model.blocks[layer]);
        let (m, c) = (batch.m, spec.hidden_size);
        // MLP: dx is the gradient of the block's output and, through the residual, of its middle.
        self.linear_backward(
            rec,
            block,
            Proj::Down,
            acts,
            (&g.dx, &acts.act, &g.dact),
            g,
            batch,
            Write::SET,
        )?;
        elementwise::swiglu_backward(rec, &g.dact, &acts.gate, &acts.up, m * spec.intermediate_size)?;
        self.linear_backward(
            rec,
            block,
            Proj::Gate,
            acts,
            (&acts.gate, &acts.normed2, &g.dnormed),
            g,
            batch,
            Write::SET,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::Up,
            acts,
            (&acts.up, &acts.normed2, &g.dnormed),
            g,
            batch,
            Write::ADD,
        )?;
        norm_backward(
            rec,
            (&g.dnormed, &acts.x_mid, &acts.rstd2),
            &block.mlp_norm,
            &g.dx,
            NormShape::rows(batch, c),
            true,
        )?;
        // Attention.
        self.linear_backward(
            rec,
            block,
            Proj::O,
            acts,
            (&g.dx, &acts.attn, &g.dattn),
            g,
            batch,
            Write::SET,
        )?;
        let args = attention::BackwardArgs {
            q: &acts.q,
            k: &acts.k,
            v: &acts.v,
            out: &acts.attn,
            lse: &acts.lse,
            dout: &g.dattn,
            meta: &self.ws.meta,
            key_ends: &self.ws.key_ends,
            delta: &g.delta,
            dq: &g.dq,
            dk: &g.dk,
            dv: &g.dv,
        };
        attention::backward(rec, &args, self.attention(m))?;
        let (meta, table) = (&self.ws.meta, &self.model.rope);
        rope::apply(rec, (&g.dq, &g.dk), meta, table, self.heads(m), true)?;
        let (dq, dk) = self.qk_norm_backward(rec, block, acts, g, batch)?;
        self.linear_backward(
            rec,
            block,
            Proj::Q,
            acts,
            (dq, &acts.normed1, &g.dnormed),
            g,
            batch,
            Write::SET,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::K,
            acts,
            (dk, &acts.normed1, &g.dnormed),
            g,
            batch,
            Write::ADD,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::V,
            acts,
            (&g.dv, &acts.normed1, &g.dnormed),
            g,
            batch,
            Write::ADD,
        )?;
        let x_in = self.ws.input(layer);
        norm_backward(
            rec,
            (&g.dnormed, x_in, &acts.rstd1),
            &block.attn_norm,
            &g.dx,
            NormShape::rows(batch, c),
            true,
        )
    }

    /// Through the per-head norms, where the family has them; returns the gradients of the projections' outputs.
    fn qk_norm_backward<'g>(
        &self,
        rec: &mut Recorder,
        block: &Block,
        acts: &Acts,
        g: &'g Grads,
        batch: &Loaded,
    ) -> Result<(&'g Buffer, &'g Buffer)> {
        let spec = &self.model.spec;
        let (Some((qn, kn)), Some(dq_raw), Some(dk_raw)) = (&block.qk_norm, &g.dq_raw, &g.dk_raw) else {
            return Ok((&g.dq, &g.dk));
        };
        let (Some(q_raw), Some(k_raw), Some(q_rstd), Some(k_rstd)) =
            (&acts.q_raw, &acts.k_raw, &acts.q_rstd, &acts.k_rstd)
        else {
            return Err(Error::internal("no room for QK-norm"));
        };
        let d = spec.head_dim;
        let heads = |n: usize| NormShape {
            batch,
            per_row: n,
            c: d,
        };
        let (q, k) = (heads(spec.num_heads), heads(spec.num_kv_heads));
        norm_backward(rec, (&g.dq, q_raw, q_rstd), qn, dq_raw, q, false)?;
        norm_backward(rec, (&g.dk, k_raw, k_rstd), kn, dk_raw, k, false)?;
        Ok((dq_raw, dk_raw))
    }

    /// Gradients of one linear layer: dx set or added; those of trainable W, bias, A and B where the batch's parts say.
    #[allow(clippy::too_many_arguments, reason = "one linear layer's operands")]
    fn linear_backward(
        &self,
        rec: &mut Recorder,
        block: &Block,
        proj: Proj,
        acts: &Acts,
        (dy, x, dx): (&Buffer, &Buffer, &Buffer),
        g: &Grads,
        batch: &Loaded,
        write: Write,
    ) -> Result<()> {
        let (l, m) = (block.linear(proj), batch.m);
        linear::input_gradient(rec, dy, &l.weight.value, dx, m, write)?;
        weight_gradient(rec, (dy, x), &l.weight, batch, 1.0)?;
        if let Some(bias) = &l.bias {
            weight_gradient(rec, (&g.ones, dy), bias, batch, 1.0)?;
        }
        let Some(pair) = self.lora(l) else {
            return Ok(());
        };
        let (Some(t), Some(dt)) = (&acts.lora[proj as usize], &g.dlora) else {
            return Err(Error::internal("no room for the adapter"));
        };
        linear::input_gradient(rec, dy, &pair.b.value, dt, m, Write::SET.scaled(pair.factor()))?;
        linear::input_gradient(rec, dt, &pair.a.value, dx, m, Write::ADD)?;
        weight_gradient(rec, (dy, t), &pair.b, batch, pair.factor())?;
        weight_gradient(rec, (dt, x), &pair.a, batch, 1.0)
    }

    fn backward_embedding(
        &self,
        rec: &mut Recorder,
        g: &Grads,
        batch: &Loaded,
        tokens: &[u32],
    ) -> Result<()> {
        let embed = &self.model.embed;
        if embed.grad.is_none() {
            return Ok(());
        }
        let part = single(batch)?;
        let dw = embed.gradient(part.sum.slot)?;
        // An embedding that is the head as well holds the head's part of this gradient already.
        if self.model.head.is_some() {
            begin(rec, embed, part)?;
        }
        let groups = embedding::group_tokens(tokens);
        let gpu = &self.model.gpu;
        let upload = |data: &[u32]| gpu.upload("activations/embedding rows", data);
        let (unique, starts, rows) = (
            upload(&groups.unique)?,
            upload(&groups.starts)?,
            upload(&groups.rows)?,
        );
        embedding::backward(rec, &g.dx, &unique, &starts, &rows, dw, groups.unique.len())?;
        merge(rec, embed, part.sum)
    }
}

/// The only part of a batch. What goes on for all readouts at once, or is written in two places of the backward pass,
/// has no room for the sums of several.
fn single(batch: &Loaded) -> Result<&Part> {
    match &batch.parts[..] {
        [part] => Ok(part),
        _ => Err(Error::internal(
            "the gradient of an embedding or a head from several prompts at once",
        )),
    }
}

/// How a summand meets its slot.
fn write_of(sum: Summand) -> Write {
    if sum.begins { Write::SET } else { Write::ADD }
}

/// Empties a part's slot where the part begins it, for kernels that only add.
fn begin(rec: &mut Recorder, param: &Param, part: &Part) -> Result<()> {
    if part.sum.begins {
        let shards = &param.gradient(part.sum.slot)?.shards;
        shards.iter().for_each(|s| rec.zero(&s.buffer));
    }
    Ok(())
}

/// Adds up the slots that are complete with a summand.
pub(super) fn merge(rec: &mut Recorder, param: &Param, sum: Summand) -> Result<()> {
    for slot in (0..sum.slot).rev().take(sum.merges) {
        let (from, to) = (param.gradient(slot + 1)?, param.gradient(slot)?);
        for (x, y) in from.shards.iter().zip(&to.shards) {
            elementwise::add(rec, &x.buffer, &y.buffer, x.rows * pad4(from.cols))?;
        }
    }
    Ok(())
}

/// The gradient `factor · dyᵀ x` of a tensor, where it is trained: one sum a part of the batch.
fn weight_gradient(
    rec: &mut Recorder,
    (dy, x): (&Buffer, &Buffer),
    param: &Param,
    batch: &Loaded,
    factor: f32,
) -> Result<()> {
    if param.grad.is_none() {
        return Ok(());
    }
    for part in &batch.parts {
        let sum = if is_power_of_two(factor) {
            part.sum.at_once()
        } else {
            part.sum
        };
        let dw = param.gradient(sum.slot)?;
        let write = write_of(sum).scaled(factor);
        linear::weight_gradient_rows(rec, dy, x, dw, 0..dw.rows, part.rows.clone(), write)?;
        merge(rec, param, sum)?;
    }
    Ok(())
}

/// Whether a product with it is exact: adding the product then has the bits of storing and adding it, also where a
/// compiler makes one fused operation of the two.
fn is_power_of_two(factor: f32) -> bool {
    factor.is_normal() && factor.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1
}

/// What an RMS norm normalised: `per_row` vectors of `c` in each row of a batch.
#[derive(Clone, Copy)]
struct NormShape<'a> {
    batch: &'a Loaded,
    per_row: usize,
    c: usize,
}

impl<'a> NormShape<'a> {
    fn rows(batch: &'a Loaded, c: usize) -> Self {
        Self { batch, per_row: 1, c }
    }
}

/// dx (set or added) and dgamma (where trained) of an RMS norm.
fn norm_backward(
    rec: &mut Recorder,
    (dy, x, rstd): (&Buffer, &Buffer, &Buffer),
    gamma: &Param,
    dx: &Buffer,
    shape: NormShape<'_>,
    accumulate: bool,
) -> Result<()> {
    let NormShape { batch, per_row, c } = shape;
    if gamma.grad.is_some() {
        for part in &batch.parts {
            begin(rec, gamma, part)?;
            let dgamma = &gamma.gradient(part.sum.slot)?.shards[0].buffer;
            let vectors = part.rows.start * per_row..part.rows.end * per_row;
            rmsnorm::gamma_gradient(rec, dy, x, rstd, dgamma, vectors, c)?;
            merge(rec, gamma, part.sum)?;
        }
    }
    let m = batch.m * per_row;
    rmsnorm::backward(rec, dy, x, gamma.vector(), rstd, dx, m, c, accumulate)
}
