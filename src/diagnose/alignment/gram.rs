//! Inner products of per-sample gradients: the Gram matrix of one prompt's responses.
//!
//! The gradient of `log π(y) = Σ_t log π(y_t)` with respect to every base tensor of the last block is computed one
//! response at a time on the GPU (forward, head, and the backward pass of that block alone), copied into row i of a
//! matrix G (n, parameters) that is held in column chunks, and `G Gᵀ` is taken chunk by chunk with the linear
//! kernel. Equal responses have equal gradients and are computed once.
//!
//! Cost a prompt, with u distinct responses of T tokens (prompt included), P parameters in the block and W in the
//! model: u·T·(W + 2P) multiply-adds for the gradients, P·u²/2 for the products, and 4·u·P bytes. Where that is more
//! than the memory allowed, the columns are done in several sweeps, and the gradients are computed once a sweep.
//! (The other exact form, Σ_{t,s} (δ_t·δ_s)(x_t·x_s), needs no P but (u·T)²·(in + out) multiply-adds a layer: more, as soon
//! as u·T exceeds the layer's width.)

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Recorder};
use crate::kernels::linear::{self, Write};
use crate::kernels::pad4;
use crate::kernels::weight::Weight;
use crate::model::batch::Batch;
use crate::model::forward::{Keys, Pass};
use crate::model::params::Model;
use crate::model::workspace::{Shape, Workspace};
use crate::tensor::DType;

/// Columns of a chunk, at most: short enough that one f32 chain over it stays exact to about 1e-6.
const CHUNK: usize = 8192;
/// Columns of the Gram matrix computed by one dispatch.
const TILE: usize = 64;

/// Inner products of the gradients of one prompt's responses.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    /// The distinct response that response i is (n,).
    pub of: Vec<usize>,
    /// Distinct responses, u.
    pub distinct: usize,
    /// ⟨∇ log π(y_a), ∇ log π(y_b)⟩ of distinct responses (u, u), symmetric.
    pub values: Vec<f32>,
}

/// Which distinct response each response is (n,), and the first response of each (u,).
pub fn distinct(responses: &[Vec<u32>]) -> (Vec<usize>, Vec<usize>) {
    let (mut known, mut first) = (HashMap::new(), Vec::new());
    let of = responses
        .iter()
        .enumerate()
        .map(|(i, tokens)| {
            *known.entry(tokens.as_slice()).or_insert_with(|| {
                first.push(i);
                first.len() - 1
            })
        })
        .collect();
    (of, first)
}

impl Gram {
    /// From the inner products of the distinct ones of these responses.
    ///
    /// # Errors
    /// The matrix is of another size.
    pub fn new(responses: &[Vec<u32>], values: Vec<f32>) -> Result<Self> {
        let (of, first) = distinct(responses);
        if values.len() != first.len() * first.len() {
            return Err(Error::user(format!(
                "a Gram matrix of {} values does not belong to {} distinct responses; run again with --overwrite",
                values.len(),
                first.len()
            )));
        }
        Ok(Self {
            of,
            distinct: first.len(),
            values,
        })
    }

    /// Weights of the responses (n,) summed over equal ones (u,).
    pub fn collect(&self, weights: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.distinct];
        for (&at, w) in self.of.iter().zip(weights) {
            out[at] += w;
        }
        out
    }

    /// The Gram matrix times collected weights (u,).
    pub fn times(&self, weights: &[f64]) -> Vec<f64> {
        let row = |r: &[f32]| r.iter().zip(weights).map(|(k, w)| f64::from(*k) * w).sum();
        self.values.chunks_exact(self.distinct.max(1)).map(row).collect()
    }
}

/// A run of a gradient's elements that becomes one chunk of columns.
struct Piece {
    gradient: Buffer,
    /// First element.
    from: usize,
    /// Elements, a multiple of four.
    len: usize,
}

/// Computes Gram matrices over the last block of one model.
pub struct GramBuilder<'a> {
    model: &'a Model,
    ws: Workspace,
    gradients: Vec<Buffer>,
    pieces: Vec<Piece>,
    slots: Vec<Buffer>, // (n, CHUNK) each
    tiles: Vec<Buffer>, // (n, TILE) each
}

impl<'a> GramBuilder<'a> {
    /// Allocates for up to `samples` responses whose prompt and tokens together are at most `rows`, with at most `memory`
    /// bytes for their gradients (but at least one chunk). The model's last block must be watched
    /// ([`Model::watch_block`]), and nothing else trained.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(model: &'a Model, samples: usize, rows: usize, memory: u64) -> Result<Self> {
        let gpu = &model.gpu;
        let shape = Shape {
            rows,
            readouts: rows,
            rank: model.lora.as_ref().map_or(0, |l| l.rank),
            backward: true,
            kept_blocks: 1,
            half: false,
            vocabulary_head: true,
        };
        let column = 4 * samples.max(1) as u64;
        let chunk = ((gpu.caps().max_binding / column) as usize / 4 * 4).min(CHUNK);
        if chunk == 0 {
            return Err(Error::user(format!(
                "{samples} responses a prompt are more than this adapter can hold side by side; lower --samples"
            )));
        }
        let (mut gradients, mut pieces) = (Vec::new(), Vec::new());
        for tensor in model.trainable() {
            for shard in &tensor.grad.shards {
                let len = shard.rows * pad4(tensor.grad.cols);
                pieces.extend((0..len).step_by(chunk).map(|from| Piece {
                    gradient: shard.buffer.clone(),
                    from,
                    len: chunk.min(len - from),
                }));
                gradients.push(shard.buffer.clone());
            }
        }
        // The widest first, so that a slot's width is that of the first piece it holds.
        pieces.sort_by_key(|p| std::cmp::Reverse(p.len));
        let mut left = memory;
        let mut slots = Vec::new();
        for piece in &pieces {
            let bytes = column * piece.len as u64;
            if !slots.is_empty() && bytes > left {
                break;
            }
            left = left.saturating_sub(bytes);
            slots.push(gpu.alloc("gradients of samples", bytes)?);
        }
        let tiles = (0..samples.div_ceil(TILE))
            .map(|_| gpu.alloc("gram", column * TILE as u64))
            .collect::<Result<_>>()?;
        Ok(Self {
            model,
            ws: Workspace::new(gpu, &model.spec, shape)?,
            gradients,
            pieces,
            slots,
            tiles,
        })
    }

    /// How often every gradient is computed: 1 where the memory holds all of the block's parameters.
    pub fn sweeps(&self) -> usize {
        self.pieces.len().div_ceil(self.slots.len().max(1))
    }

    /// The Gram matrix of the responses to one prompt; `tick` is called after each gradient with how many of this prompt's
    /// are done and how many there are.
    ///
    /// # Errors
    /// A sequence that does not fit, a GPU error, or inner products that are not finite.
    pub fn gram(
        &self,
        prompt: &[u32],
        responses: &[Vec<u32>],
        tick: &mut dyn FnMut(usize, usize),
    ) -> Result<Gram> {
        let (_, first) = distinct(responses);
        let u = first.len();
        if u > self.tiles.len() * TILE {
            return Err(Error::internal(
                "more responses than the Gram matrix was allocated for",
            ));
        }
        let mut rec = Recorder::new(&self.model.gpu);
        self.tiles.iter().for_each(|t| rec.zero(t));
        let total = u * self.sweeps();
        for (sweep, pieces) in self.pieces.chunks(self.slots.len().max(1)).enumerate() {
            for (row, &response) in first.iter().enumerate() {
                self.gradient(&mut rec, prompt, &responses[response])?;
                for (piece, slot) in pieces.iter().zip(&self.slots) {
                    let bytes = 4 * piece.len as u64;
                    rec.copy(
                        &piece.gradient,
                        4 * piece.from as u64,
                        slot,
                        row as u64 * bytes,
                        bytes,
                    );
                }
                tick(sweep * u + row + 1, total);
            }
            for (piece, slot) in pieces.iter().zip(&self.slots) {
                self.products(&mut rec, u, piece.len, slot)?;
            }
            rec.submit()?;
        }
        Gram::new(responses, self.read(u)?)
    }

    /// Leaves ∇ log π(response | prompt) in the watched gradients.
    fn gradient(&self, rec: &mut Recorder, prompt: &[u32], response: &[u32]) -> Result<()> {
        let pass = Pass {
            model: self.model,
            ws: &self.ws,
            adapter: true,
        };
        self.gradients.iter().for_each(|g| rec.zero(g));
        let mut batch = Batch::default();
        batch.push_group(prompt, [response])?;
        let loaded = self.ws.load(rec, self.model, &mut batch)?;
        pass.forward(rec, &loaded, &Keys::Packed)?;
        pass.log_probs(rec, &loaded)?;
        let last = self.model.spec.num_layers.saturating_sub(1);
        pass.backward_log_probs_from(rec, &loaded, &vec![1.0; loaded.p], last)
    }

    /// Adds a chunk's products to the tiles: tile J holds columns J of rows 0 .. J.end, the upper triangle.
    fn products(&self, rec: &mut Recorder, u: usize, len: usize, slot: &Buffer) -> Result<()> {
        let g = Weight::from_buffer(DType::F32, u, len, slot.clone());
        for (tile, from) in self.tiles.iter().zip((0..u).step_by(TILE)) {
            let to = (from + TILE).min(u);
            linear::forward_rows(rec, slot, &g, from..to, None, tile, to, Write::ADD)?;
        }
        Ok(())
    }

    fn read(&self, u: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0; u * u];
        for (tile, from) in self.tiles.iter().zip((0..u).step_by(TILE)) {
            let to = (from + TILE).min(u);
            let stride = pad4(to - from);
            let block: Vec<f32> = self.model.gpu.read(tile, 0, to * stride)?;
            for i in 0..to {
                for j in from.max(i)..to {
                    let value = block[i * stride + j - from];
                    values[i * u + j] = value;
                    values[j * u + i] = value;
                }
            }
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::user(
                "a product of gradients is not finite: the weights hold values that are not finite, or too large for their \
                 element type (try --base-dtype f32)",
            ));
        }
        Ok(values)
    }
}
