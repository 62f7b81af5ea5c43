//! The forward pass: packed sequences for training and scoring, and rows over a KV cache for sampling.
//!
//! Both go through `Pass::layer`, the same kernels in the same order, so a token's log-probability has the same
//! bits in sampling and in training; under [`MatmulPrecision::High`](crate::config::MatmulPrecision::High) up to rounding.

use super::kv_cache::KvCache;
use super::params::Model;
use super::spec::{Head, Proj};
use super::workspace::{Acts, Loaded, Workspace};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::attention::decode::decode_paged;
use crate::kernels::kv::Stored;
use crate::kernels::linear::{self, Write};
use crate::kernels::linear_fused::Epilogue;
use crate::kernels::{attention, embedding, head, rmsnorm, rope, rows};

/// Where keys and values live while a pass runs.
pub enum Keys<'a> {
    /// The batch's own rows.
    Packed,
    /// A cache; row i of the batch is written to row `rows[i]` of it before attention reads it.
    Cached {
        /// The cache.
        cache: &'a KvCache,
        /// Cache row of each batch row (M) u32, distinct: page · PAGE + row of the page.
        rows: &'a Buffer,
        /// Whether every row is the next token of a sequence of its own: a decode step. Attention is then computed in another way, to the
        /// same bits, and under the precision `high` products may be, to others ([`Recorder::let_sums_split`]).
        decode: bool,
    },
}

/// A model with the buffers to run it.
pub struct Pass<'a> {
    /// The model.
    pub model: &'a Model,
    /// The buffers.
    pub ws: &'a Workspace,
    /// Whether the adapter takes part (off: the reference policy).
    pub adapter: bool,
}

impl Pass<'_> {
    /// Runs one block on `x_in`, leaving its activations in `acts` and its output in `x_out`; where `kept`, those that only its backward
    /// pass reads, too.
    pub(super) fn layer(
        &self,
        rec: &mut Recorder,
        (layer, kept): (usize, bool),
        (x_in, x_out): (&Buffer, Option<&Buffer>),
        acts: &Acts,
        m: usize,
        keys: &Keys<'_>,
    ) -> Result<()> {
        let (spec, block) = (&self.model.spec, &self.model.blocks[layer]);
        acts.holds.set(kept.then_some(layer));
        let (c, d, eps) = (spec.hidden_size, spec.head_dim, spec.rms_norm_eps as f32);
        let (heads, kv_heads) = (spec.num_heads, spec.num_kv_heads);
        rmsnorm::forward(
            rec,
            x_in,
            block.attn_norm.vector(),
            &acts.normed1,
            &acts.rstd1,
            m,
            c,
            eps,
        )?;
        let q_raw = acts.q_raw.as_ref().unwrap_or(&acts.q);
        let k_raw = acts.k_raw.as_ref().unwrap_or(&acts.k);
        let plain = Epilogue::default();
        self.queries_keys_values(rec, block, acts, [q_raw, k_raw, &acts.v], m)?;
        if let (Some((qn, kn)), Some(q_rstd), Some(k_rstd)) = (&block.qk_norm, &acts.q_rstd, &acts.k_rstd) {
            rmsnorm::forward(rec, q_raw, qn.vector(), &acts.q, q_rstd, m * heads, d, eps)?;
            rmsnorm::forward(rec, k_raw, kn.vector(), &acts.k, k_rstd, m * kv_heads, d, eps)?;
        }
        self.attend(rec, layer, acts, m, keys)?;
        let residual = Epilogue {
            residual: Some(x_in),
            ..plain
        };
        self.lora_down(rec, block, &[Proj::O], acts, (&acts.attn, m))?;
        self.linear(rec, block, Proj::O, acts, (&acts.attn, &acts.x_mid, m), residual)?;
        rmsnorm::forward(
            rec,
            &acts.x_mid,
            block.mlp_norm.vector(),
            &acts.normed2,
            &acts.rstd2,
            m,
            c,
            eps,
        )?;
        self.mlp_in(rec, block, acts, m, kept)?;
        self.lora_down(rec, block, &[Proj::Down], acts, (&acts.act, m))?;
        // A recomputed layer's output is not needed again, but the adapter's A x of `down` is.
        let Some(out) = x_out else {
            return Ok(());
        };
        let residual = Epilogue {
            residual: Some(&acts.x_mid),
            ..plain
        };
        self.linear(rec, block, Proj::Down, acts, (&acts.act, out, m), residual)
    }

    /// Attention over the batch's own rows, or over the cache once they are in it.
    fn attend(&self, rec: &mut Recorder, layer: usize, acts: &Acts, m: usize, keys: &Keys<'_>) -> Result<()> {
        let (shape, meta, table) = (self.attention(m), &self.ws.meta, &self.model.rope);
        match keys {
            Keys::Packed => {
                rope::apply(rec, (&acts.q, &acts.k), meta, table, self.heads(m), false)?;
                attention::forward(rec, &acts.q, &acts.k, &acts.v, meta, &acts.attn, &acts.lse, shape)
            }
            Keys::Cached { cache, rows, decode } => {
                let (k, v) = &cache.layers[layer];
                let kv = Stored {
                    k,
                    v,
                    dtype: cache.dtype,
                };
                let qkv = [&acts.q, &acts.k, &acts.v];
                rope::apply_cached(rec, qkv, meta, table, rows, kv, self.heads(m))?;
                let pages = &cache.table;
                let keys = attention::Paged { kv, pages };
                let forward = match decode {
                    true => decode_paged,
                    false => attention::forward_paged,
                };
                forward(rec, &acts.q, keys, meta, &acts.attn, &acts.lse, shape)
            }
        }
    }

    pub(super) fn heads(&self, m: usize) -> rope::Shape {
        let spec = &self.model.spec;
        rope::Shape {
            m,
            heads: spec.num_heads,
            kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim,
        }
    }

    pub(super) fn attention(&self, m: usize) -> attention::Shape {
        let spec = &self.model.spec;
        attention::Shape {
            m,
            heads: spec.num_heads,
            kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim,
            scale: (1.0 / (spec.head_dim as f64).sqrt()) as f32,
        }
    }

    /// Runs the loaded batch through every block and the final norm, and gathers the rows to be read out. Where the workspace has room
    /// for a backward pass, what it reads is kept.
    ///
    /// # Errors
    /// A GPU error.
    pub fn forward(&self, rec: &mut Recorder, batch: &Loaded, keys: &Keys<'_>) -> Result<()> {
        self.forward_for(rec, batch, keys, true)
    }

    /// As [`Pass::forward`], to the same bits; unless `backward`, nothing is kept for a backward pass, and one after it computes every
    /// block again.
    ///
    /// # Errors
    /// A GPU error.
    pub fn forward_for(
        &self,
        rec: &mut Recorder,
        batch: &Loaded,
        keys: &Keys<'_>,
        backward: bool,
    ) -> Result<()> {
        let backward = backward && self.ws.shape.backward;
        let (ws, model) = (self.ws, self.model);
        embedding::forward(rec, &model.embed.value, &ws.tokens, ws.input(0), batch.m)?;
        let layers = model.spec.num_layers;
        self.stream(rec, 0..layers.min(1))?;
        rec.let_sums_split(matches!(keys, Keys::Cached { decode: true, .. }));
        let recorded = self.blocks(rec, batch, keys, backward);
        rec.let_sums_split(false);
        recorded?;
        self.final_norm(rec, batch)
    }

    fn blocks(&self, rec: &mut Recorder, batch: &Loaded, keys: &Keys<'_>, backward: bool) -> Result<()> {
        let (ws, layers) = (self.ws, self.model.spec.num_layers);
        for layer in 0..layers {
            self.layer(
                rec,
                (layer, backward && ws.keeps(layer)),
                (ws.input(layer), Some(ws.input(layer + 1))),
                ws.acts(layer),
                batch.m,
                keys,
            )?;
            self.pack(rec, layer, ws.acts(layer), batch.m, backward)?;
            self.stream(rec, layer + 1..layers.min(layer + 2))?;
        }
        Ok(())
    }

    /// Where the model is streamed, has the device compute what is recorded, brings the weights of `next` (a block or none) while it
    /// does, and waits, so that no more than one block's weights are on their way.
    fn stream(&self, rec: &mut Recorder, next: std::ops::Range<usize>) -> Result<()> {
        let Some(streamed) = &self.model.streamed else {
            return Ok(());
        };
        rec.submit()?;
        for layer in next {
            streamed.fill(&self.model.gpu, layer, &self.model.blocks[layer])?;
        }
        self.model.gpu.wait()
    }

    fn final_norm(&self, rec: &mut Recorder, batch: &Loaded) -> Result<()> {
        let (ws, model, c) = (self.ws, self.model, self.model.spec.hidden_size);
        let x = ws.input(model.spec.num_layers);
        let eps = model.spec.rms_norm_eps as f32;
        rmsnorm::forward(
            rec,
            x,
            model.final_norm.vector(),
            &ws.normed,
            &ws.rstd,
            batch.m,
            c,
            eps,
        )?;
        rows::gather(rec, &ws.normed, &ws.readout_rows, &ws.hidden, batch.p, c)
    }

    /// Log-probability, log-sum-exp and entropy of every readout, left in the workspace.
    ///
    /// # Errors
    /// A GPU error; the model has no vocabulary head.
    pub fn log_probs(&self, rec: &mut Recorder, batch: &Loaded) -> Result<()> {
        let ws = self.ws;
        let Some(hb) = ws
            .head
            .as_ref()
            .filter(|_| self.model.spec.head == Head::CausalLm)
        else {
            return Err(Error::internal(
                "log-probabilities of a model without a vocabulary head",
            ));
        };
        let w = &self.model.head_param().value;
        head::log_probs(
            rec,
            hb,
            &ws.hidden,
            w,
            &ws.targets,
            &ws.logp,
            &ws.lse,
            &ws.entropy,
            batch.p,
        )
    }

    /// Scores of every readout, left in the workspace.
    ///
    /// # Errors
    /// A GPU error; the model has no classification head.
    pub fn scores(&self, rec: &mut Recorder, batch: &Loaded) -> Result<()> {
        if self.model.spec.head != Head::Score {
            return Err(Error::internal("scores of a model without a classification head"));
        }
        let w = &self.model.head_param().value;
        linear::forward(
            rec,
            &self.ws.hidden,
            w,
            None,
            &self.ws.scores,
            batch.p,
            Write::SET,
        )
    }

    /// Reads the log-probabilities (P), natural log.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read_log_probs(&self, batch: &Loaded) -> Result<Vec<f32>> {
        self.model.gpu.read(&self.ws.logp, 0, batch.p)
    }

    /// Reads the entropies (P), nats.
    ///
    /// # Errors
    /// A GPU error.
    pub fn read_entropy(&self, batch: &Loaded) -> Result<Vec<f32>> {
        self.model.gpu.read(&self.ws.entropy, 0, batch.p)
    }

    /// Reads the scores (P).
    ///
    /// # Errors
    /// A GPU error.
    pub fn read_scores(&self, batch: &Loaded) -> Result<Vec<f32>> {
        let padded: Vec<f32> = self.model.gpu.read(&self.ws.scores, 0, batch.p * 4)?;
        Ok(padded.into_iter().step_by(4).collect())
    }
}
