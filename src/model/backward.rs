//! The backward pass: from one coefficient a readout to the gradient of every trainable tensor.
//!
//! Blocks whose activations the workspace no longer holds (with checkpointing, all but the last) are recomputed from their saved
//! inputs by the same kernels in the same order, so that gradients have the same bits whatever is kept; where activations are kept as
//! f16 (`packed.rs`), gradients are those of the rounded activations.

use super::forward::{Keys, Pass};
use super::params::{Block, Param};
use super::spec::{Head, Proj};
use super::workspace::{Acts, Grads, Loaded};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::linear::{self, Write};
use crate::kernels::{attention, elementwise, embedding, head, rmsnorm, rope, rows};

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
        self.backward_embedding(rec, self.ws.grads()?, tokens)
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
        let dw = param.grad.as_ref();
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
        if let Some(dw) = &param.grad {
            linear::weight_gradient(rec, &ws.scores, &ws.hidden, dw, batch.p, Write::ADD)?;
        }
        self.backward_hidden(rec, batch, 0)?;
        self.backward_embedding(rec, self.ws.grads()?, tokens)
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
            (m, c),
            false,
        )?;
        for layer in (first..layers).rev() {
            let acts = ws.acts(layer);
            // What backward reads it also overwrites, so that a second backward pass recomputes.
            if acts.holds.take() != Some(layer) {
                match ws.packed(layer).filter(|packed| packed.held.get()) {
                    Some(packed) => self.restore(rec, layer, packed, acts, m)?,
                    None => self.layer(
                        rec,
                        (layer, true),
                        (ws.input(layer), None),
                        acts,
                        m,
                        &Keys::Packed,
                    )?,
                }
            }
            acts.holds.set(None);
            self.backward_layer(rec, layer, acts, g, m)?;
        }
        Ok(())
    }

    fn backward_layer(
        &self,
        rec: &mut Recorder,
        layer: usize,
        acts: &Acts,
        g: &Grads,
        m: usize,
    ) -> Result<()> {
        let (spec, block) = (&self.model.spec, &self.model.blocks[layer]);
        let c = spec.hidden_size;
        // MLP: dx is the gradient of the block's output and, through the residual, of its middle.
        self.linear_backward(
            rec,
            block,
            Proj::Down,
            acts,
            (&g.dx, &acts.act, &g.dact),
            g,
            m,
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
            m,
            Write::SET,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::Up,
            acts,
            (&acts.up, &acts.normed2, &g.dnormed),
            g,
            m,
            Write::ADD,
        )?;
        norm_backward(
            rec,
            (&g.dnormed, &acts.x_mid, &acts.rstd2),
            &block.mlp_norm,
            &g.dx,
            (m, c),
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
            m,
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
        let (dq, dk) = self.qk_norm_backward(rec, block, acts, g, m)?;
        self.linear_backward(
            rec,
            block,
            Proj::Q,
            acts,
            (dq, &acts.normed1, &g.dnormed),
            g,
            m,
            Write::SET,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::K,
            acts,
            (dk, &acts.normed1, &g.dnormed),
            g,
            m,
            Write::ADD,
        )?;
        self.linear_backward(
            rec,
            block,
            Proj::V,
            acts,
            (&g.dv, &acts.normed1, &g.dnormed),
            g,
            m,
            Write::ADD,
        )?;
        let x_in = self.ws.input(layer);
        norm_backward(
            rec,
            (&g.dnormed, x_in, &acts.rstd1),
            &block.attn_norm,
            &g.dx,
            (m, c),
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
        m: usize,
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
        norm_backward(
            rec,
            (&g.dq, q_raw, q_rstd),
            qn,
            dq_raw,
            (m * spec.num_heads, d),
            false,
        )?;
        norm_backward(
            rec,
            (&g.dk, k_raw, k_rstd),
            kn,
            dk_raw,
            (m * spec.num_kv_heads, d),
            false,
        )?;
        Ok((dq_raw, dk_raw))
    }

    /// Gradients of one linear layer: dx set or added, trainable W, bias, A and B added to.
    #[allow(clippy::too_many_arguments, reason = "one linear layer's operands")]
    fn linear_backward(
        &self,
        rec: &mut Recorder,
        block: &Block,
        proj: Proj,
        acts: &Acts,
        (dy, x, dx): (&Buffer, &Buffer, &Buffer),
        g: &Grads,
        m: usize,
        write: Write,
    ) -> Result<()> {
        let l = block.linear(proj);
        linear::input_gradient(rec, dy, &l.weight.value, dx, m, write)?;
        if let Some(dw) = &l.weight.grad {
            linear::weight_gradient(rec, dy, x, dw, m, Write::ADD)?;
        }
        if let Some(db) = l.bias.as_ref().and_then(|b| b.grad.as_ref()) {
            linear::weight_gradient(rec, &g.ones, dy, db, m, Write::ADD)?;
        }
        let Some(pair) = self.lora(l) else {
            return Ok(());
        };
        let (Some(t), Some(dt)) = (&acts.lora[proj as usize], &g.dlora) else {
            return Err(Error::internal("no room for the adapter"));
        };
        linear::input_gradient(rec, dy, &pair.b.value, dt, m, Write::SET.scaled(pair.factor()))?;
        linear::input_gradient(rec, dt, &pair.a.value, dx, m, Write::ADD)?;
        if let Some(db) = &pair.b.grad {
            linear::weight_gradient(rec, dy, t, db, m, Write::ADD.scaled(pair.factor()))?;
        }
        if let Some(da) = &pair.a.grad {
            linear::weight_gradient(rec, dt, x, da, m, Write::ADD)?;
        }
        Ok(())
    }

    fn backward_embedding(&self, rec: &mut Recorder, g: &Grads, tokens: &[u32]) -> Result<()> {
        let Some(dw) = &self.model.embed.grad else {
            return Ok(());
        };
        let groups = embedding::group_tokens(tokens);
        let gpu = &self.model.gpu;
        let upload = |data: &[u32]| gpu.upload("activations/embedding rows", data);
        let (unique, starts, rows) = (
            upload(&groups.unique)?,
            upload(&groups.starts)?,
            upload(&groups.rows)?,
        );
        embedding::backward(rec, &g.dx, &unique, &starts, &rows, dw, groups.unique.len())
    }
}

/// dx (set or added) and dgamma (added, where trained) of an RMS norm.
fn norm_backward(
    rec: &mut Recorder,
    (dy, x, rstd): (&Buffer, &Buffer, &Buffer),
    gamma: &Param,
    dx: &Buffer,
    (m, c): (usize, usize),
    accumulate: bool,
) -> Result<()> {
    if let Some(dgamma) = gamma.vector_grad() {
        rmsnorm::gamma_gradient(rec, dy, x, rstd, dgamma, m, c)?;
    }
    rmsnorm::backward(rec, dy, x, gamma.vector(), rstd, dx, m, c, accumulate)
}
