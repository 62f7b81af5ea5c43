//! Scores of sequences that come a few at a time, while the device has other work to be read back: passes are submitted when they
//! are worth it, their scores stay on the device's side until the end, and nobody waits before that.
//! They may stay there for good, for what the device does next.

use super::forward::{Keys, Pass};
use super::params::Model;
use super::run::next_judged;
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Readback, Recorder, Submission};
use crate::kernels::group_rewards::SCORE_WORDS;
use std::collections::VecDeque;

/// Rows from which a pass is worth its reading of the weights: fewer wait for more sequences, or for the end.
const ROWS_WORTH_A_PASS: usize = 256;

/// Passes that may be submitted and not have run where their scores go to the host. The host waits
/// before it records another, because what is submitted takes its memory.
const PASSES_AHEAD: usize = 4;

/// Scores in one readback area.
const AREA: usize = 1024;

/// Bytes of a readout's row of scores on the device: (P, 4), first column.
const ROW: usize = 4 * SCORE_WORDS;

/// Scores under way, in the order in which their sequences were added.
#[derive(Default)]
pub struct ScoreQueue {
    /// Sequences that no pass has been recorded for.
    waiting: Vec<Vec<u32>>,
    /// Which of the scores kept is that of each sequence before those.
    places: Vec<usize>,
    /// Scores kept.
    kept: usize,
    /// Where they are kept, [`AREA`] each: made when first needed, and then reused.
    areas: Vec<Readback>,
    /// Where they stay on the device, in place of the areas: (rows, 4).
    device: Option<Buffer>,
    /// The last passes, oldest first.
    passes: VecDeque<Submission>,
}

impl ScoreQueue {
    /// Forgets what was added. Passes under way run out unread.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.places.clear();
        self.kept = 0;
        self.device = None;
    }

    /// As [`ScoreQueue::clear`]. The scores of what is added next stay in `scores` (rows, 4), which
    /// has a row for each sequence, until [`ScoreQueue::leave`]. The host waits for none of their passes.
    pub fn clear_for(&mut self, scores: &Buffer) {
        self.clear();
        self.device = Some(scores.clone());
    }

    /// Sequences added since the last [`ScoreQueue::clear`] or [`ScoreQueue::finish`].
    pub fn len(&self) -> usize {
        self.places.len() + self.waiting.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds sequences and submits the passes that are worth it. The workspace may be in use by earlier passes: all of its contents are
    /// written and read in the order of submission.
    ///
    /// # Errors
    /// An empty or too long sequence, ids outside the vocabulary, or a GPU error.
    pub fn add(&mut self, model: &Model, ws: &Workspace, sequences: Vec<Vec<u32>>) -> Result<()> {
        self.waiting.extend(sequences);
        // Every pass of a streamed model brings all its weights from the host, on which it waits; so few passes, and none beside sampling.
        if model.streamed.is_some() {
            return Ok(());
        }
        self.submit(model, ws, ROWS_WORTH_A_PASS.min(ws.shape.rows / 2))
    }

    /// The scores of all that was added, in that order.
    ///
    /// # Errors
    /// As [`ScoreQueue::add`].
    pub fn finish(&mut self, model: &Model, ws: &Workspace) -> Result<Vec<f32>> {
        self.submit(model, ws, 0)?;
        let last = self.passes.back().cloned();
        let mut scores: Vec<f32> = Vec::with_capacity(self.kept);
        if let Some(last) = last {
            for area in &self.areas {
                let here = (self.kept - scores.len()).min(AREA);
                let rows: Vec<[f32; 4]> = area.read(&last, here)?;
                scores.extend(rows.iter().map(|r| r[0]));
            }
        }
        let out = self.places.iter().map(|place| scores[*place]).collect();
        self.clear();
        Ok(out)
    }

    /// Submits what is left of the passes. Gives the row of each sequence's score in the buffer of
    /// [`ScoreQueue::clear_for`], in the order in which the sequences were added.
    ///
    /// # Errors
    /// As [`ScoreQueue::add`].
    pub fn leave(&mut self, model: &Model, ws: &Workspace) -> Result<Vec<u32>> {
        self.submit(model, ws, 0)?;
        let rows = self.places.iter().map(|place| *place as u32).collect();
        self.clear();
        self.passes.clear();
        Ok(rows)
    }

    /// Submits passes of the waiting sequences, the last of them only if it has at least `least` rows.
    fn submit(&mut self, model: &Model, ws: &Workspace, least: usize) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let slices: Vec<&[u32]> = waiting.iter().map(Vec::as_slice).collect();
        let pass = Pass {
            model,
            ws,
            adapter: true,
        };
        let mut from = 0;
        while from < slices.len() {
            let (mut batch, to) = next_judged(model, ws, &slices, from)?;
            if to == slices.len() && batch.rows() < least {
                break;
            }
            while self.device.is_none() && self.passes.len() >= PASSES_AHEAD {
                if let Some(oldest) = self.passes.pop_front() {
                    model.gpu.wait_for(&oldest)?;
                }
            }
            let mut rec = Recorder::new(&model.gpu);
            let loaded = ws.load(&mut rec, model, &mut batch)?;
            pass.forward_for(&mut rec, &loaded, &Keys::Packed, false)?;
            pass.scores(&mut rec, &loaded)?;
            self.places
                .extend(batch.sequences.iter().map(|s| self.kept + s[0]));
            self.keep(&mut rec, &ws.scores, loaded.p)?;
            self.passes.push_back(rec.submitted()?);
            from = to;
        }
        self.waiting = waiting.into_iter().skip(from).collect();
        Ok(())
    }

    /// Records the way of a pass's `p` scores to where they stay on the device, or to the host.
    /// There they go to as many areas as they touch: how many areas a number of sequences takes
    /// does not depend on their passes.
    fn keep(&mut self, rec: &mut Recorder, scores: &Buffer, p: usize) -> Result<()> {
        if let Some(kept) = &self.device {
            let at = |rows: usize| (rows * ROW) as u64;
            if at(self.kept + p) > kept.bytes() {
                return Err(Error::internal("more scores than there is room for"));
            }
            rec.copy(scores, 0, kept, at(self.kept), at(p));
            self.kept += p;
            return Ok(());
        }
        let (mut done, gpu) = (0, rec.gpu().clone());
        while done < p {
            let (area, at) = (self.kept / AREA, self.kept % AREA);
            if area == self.areas.len() {
                let made = Readback::new(&gpu, "scores", (AREA * ROW) as u64)?;
                self.areas.push(made);
            }
            let n = (p - done).min(AREA - at);
            let bytes = |rows: usize| (rows * ROW) as u64;
            rec.read_back(scores, bytes(done), &self.areas[area], bytes(at), bytes(n));
            (done, self.kept) = (done + n, self.kept + n);
        }
        Ok(())
    }
}
