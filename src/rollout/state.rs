//! The rows of a decode batch: their state on the GPU between readbacks, and on the host at them.

use super::sampler::{Completion, Finish, STEPS_PER_READ};
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::advance::{AdvanceArgs, advance};
use crate::kernels::sample::{self, SampleParams};
use crate::model::workspace::Workspace;

/// Tokens the output buffers hold for a row: one more than is drawn between two readbacks, because the kernel ends a
/// row whose buffer is full.
pub(super) const OUT_TOKENS: usize = STEPS_PER_READ + 1;

/// One sequence being decoded.
struct Row {
    /// (job, sample) it belongs to.
    owner: (usize, usize),
    key: [u32; 2],
    /// Tokens it may still draw.
    left: usize,
    /// Position the next draw counts from (part of the random counter).
    position: u32,
    meta: [u32; 4],
    cache_row: u32,
    next_token: u32,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

/// The rows, dense: finished ones are removed at every readback.
pub(super) struct Rows {
    rows: Vec<Row>,
    token: Buffer,
    logp: Buffer,
    keys: Buffer,
    cache_row: Buffer,
    out_tokens: Buffer,
    out_logp: Buffer,
    length: Buffer,
    limit: Buffer,
    remaining: Buffer,
    stop: Buffer,
    stops: usize,
}

impl Rows {
    pub(super) fn new(gpu: &Gpu, sequences: usize) -> Result<Self> {
        let words = |name: &str, n: usize| gpu.alloc(&format!("sampler/{name}"), n as u64 * 4);
        Ok(Self {
            rows: Vec::new(),
            token: words("token", sequences)?,
            logp: words("logp", sequences)?,
            keys: words("keys", sequences * 4)?,
            cache_row: words("cache row", sequences)?,
            out_tokens: words("tokens out", sequences * OUT_TOKENS)?,
            out_logp: words("logp out", sequences * OUT_TOKENS)?,
            length: words("length", sequences)?,
            limit: words("limit", sequences)?,
            remaining: words("remaining", 1)?,
            stop: words("stop tokens", 8)?,
            stops: 0,
        })
    }

    pub(super) fn reset(&mut self, gpu: &Gpu, stop: &[u32]) {
        self.rows.clear();
        self.stops = stop.len();
        gpu.write(&self.stop, 0, stop);
    }

    /// Adds a sequence: its prompt is at cache rows `start .. start + prompt`, its own tokens go to `own ..`.
    pub(super) fn push(&mut self, owner: (usize, usize), key: [u32; 2], at: (u32, u32, u32), limit: usize) {
        let (start, prompt, own) = at;
        self.rows.push(Row {
            owner,
            key,
            left: limit,
            position: prompt,
            // The first draw advances these to the first own token.
            meta: [start, prompt, own, prompt - 1],
            cache_row: own - 1,
            next_token: 0,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        });
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The most tokens any row may still draw.
    pub(super) fn longest_left(&self) -> usize {
        self.rows.iter().map(|r| r.left).max().unwrap_or(0)
    }

    pub(super) fn cache_rows(&self) -> &Buffer {
        &self.cache_row
    }

    /// Writes the host's state to the device.
    pub(super) fn upload(&self, rec: &mut Recorder, ws: &Workspace) -> Result<()> {
        let of = |f: &dyn Fn(&Row) -> u32| self.rows.iter().map(f).collect::<Vec<u32>>();
        let keys: Vec<[u32; 4]> = self
            .rows
            .iter()
            .map(|r| [r.key[0], r.key[1], r.position, 1])
            .collect();
        let meta: Vec<[u32; 4]> = self.rows.iter().map(|r| r.meta).collect();
        rec.write(&self.keys, 0, &keys)?;
        rec.write(ws.meta(), 0, &meta)?;
        rec.write(ws.tokens(), 0, &of(&|r| r.next_token))?;
        rec.write(&self.cache_row, 0, &of(&|r| r.cache_row))?;
        rec.write(&self.length, 0, &vec![0u32; self.rows.len()])?;
        rec.write(&self.limit, 0, &of(&|r| r.left as u32))?;
        let identity: Vec<u32> = (0..self.rows.len() as u32).collect();
        rec.write(ws.readout_rows(), 0, &identity)
    }

    /// Draws a token for every active row and prepares the next step.
    pub(super) fn draw(
        &self,
        rec: &mut Recorder,
        ws: &Workspace,
        (logits, lse): (&Buffer, &Buffer),
        threshold: &Buffer,
        (m, v): (usize, usize),
        params: &SampleParams,
    ) -> Result<()> {
        sample::sample(
            rec,
            logits,
            lse,
            &self.keys,
            &self.token,
            &self.logp,
            threshold,
            m,
            v,
            params,
        )?;
        let args = AdvanceArgs {
            token: &self.token,
            logp: &self.logp,
            stop: &self.stop,
            stops: self.stops,
            keys: &self.keys,
            meta: ws.meta(),
            next_token: ws.tokens(),
            cache_row: &self.cache_row,
            out_tokens: &self.out_tokens,
            out_logp: &self.out_logp,
            length: &self.length,
            limit: &self.limit,
            remaining: &self.remaining,
        };
        advance(rec, &args, m, OUT_TOKENS)
    }

    /// Reads what was drawn since the last upload; finished rows move to `done`.
    pub(super) fn harvest(
        &mut self,
        gpu: &Gpu,
        ws: &Workspace,
        stop: &[u32],
        done: &mut Vec<(usize, usize, Completion)>,
    ) -> Result<()> {
        let m = self.rows.len();
        let keys: Vec<[u32; 4]> = gpu.read(&self.keys, 0, m)?;
        let meta: Vec<[u32; 4]> = gpu.read(ws.meta(), 0, m)?;
        let next: Vec<u32> = gpu.read(ws.tokens(), 0, m)?;
        let cache_row: Vec<u32> = gpu.read(&self.cache_row, 0, m)?;
        let length: Vec<u32> = gpu.read(&self.length, 0, m)?;
        let tokens: Vec<u32> = gpu.read(&self.out_tokens, 0, m * OUT_TOKENS)?;
        let logprobs: Vec<f32> = gpu.read(&self.out_logp, 0, m * OUT_TOKENS)?;
        let mut kept = Vec::with_capacity(m);
        for (i, mut row) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            let (n, from) = (length[i] as usize, i * OUT_TOKENS);
            row.tokens.extend_from_slice(&tokens[from..from + n]);
            row.logprobs.extend_from_slice(&logprobs[from..from + n]);
            row.left -= n.min(row.left);
            if keys[i][3] == 1 {
                (row.position, row.meta, row.cache_row, row.next_token) =
                    (keys[i][2], meta[i], cache_row[i], next[i]);
                kept.push(row);
                continue;
            }
            let ended = row.tokens.last().is_some_and(|t| stop.contains(t));
            let finish = if ended { Finish::Stop } else { Finish::Length };
            done.push((
                row.owner.0,
                row.owner.1,
                Completion {
                    tokens: row.tokens,
                    logprobs: row.logprobs,
                    finish,
                },
            ));
        }
        self.rows = kept;
        Ok(())
    }
}
