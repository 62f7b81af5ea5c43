//! Prefill: prompts, and samples that go on after they had been sent back, computed into the cache.

use super::sampler::Sampler;
use super::schedule::{Schedule, Table, Turn, row_in};
use super::state::Samples;
use crate::error::{Error, Result};
use crate::gpu::Recorder;
use crate::kernels::attention::PAGE;
use crate::kernels::rows;
use crate::model::batch::Batch;
use crate::model::forward::{Keys, Pass};
use crate::model::params::Model;

/// Tokens to be computed into consecutive rows of a range.
struct Piece<'a> {
    tokens: &'a [u32],
    /// `prefix_start`, `prefix_len`, `own_start`.
    keys: [u32; 3],
    /// Position of the first token.
    position: u32,
    /// The pages the rows are in.
    pages: &'a [u32],
    /// The prompt state that the state after the last token becomes.
    target: Option<u32>,
}

/// Rows of one pass.
#[derive(Default)]
struct Rows {
    batch: Batch,
    cache_rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Sampler {
    /// Computes a turn's prompts and resumed samples, as many rows as fit in one pass at a time. The state after each
    /// prompt's last token is left in `prompt_states`.
    pub(super) fn prefill(
        &self,
        rec: &mut Recorder,
        model: &Model,
        (schedule, turn): (&Schedule, &Turn),
        samples: &Samples<'_>,
        table: &Table,
    ) -> Result<()> {
        let mut rows = Rows::default();
        for piece in pieces(schedule, turn, samples, table)? {
            let mut from = 0;
            while from < piece.tokens.len() {
                let room = self.shape().prefill_rows - rows.batch.rows();
                if room == 0 {
                    self.prefill_pass(rec, model, std::mem::take(&mut rows))?;
                    continue;
                }
                let to = piece.tokens.len().min(from + room);
                let target = piece.target.filter(|_| to == piece.tokens.len());
                let position = piece.position + from as u32;
                rows.batch
                    .push_cached(&piece.tokens[from..to], piece.keys, position, target.iter().len());
                rows.cache_rows
                    .extend((from..to).map(|at| row_in(piece.pages, at)));
                rows.targets.extend(target);
                from = to;
            }
        }
        if rows.batch.rows() > 0 {
            self.prefill_pass(rec, model, rows)?;
        }
        Ok(())
    }

    fn prefill_pass(&self, rec: &mut Recorder, model: &Model, mut rows: Rows) -> Result<()> {
        let pass = Pass {
            model,
            ws: &self.prefill,
            adapter: true,
        };
        let loaded = self.prefill.load(rec, model, &mut rows.batch)?;
        rec.write(&self.prefill_rows, 0, &rows.cache_rows)?;
        rec.write(&self.prefill_targets, 0, &rows.targets)?;
        let keys = Keys::Cached {
            cache: &self.cache,
            rows: &self.prefill_rows,
            decode: false,
        };
        pass.forward(rec, &loaded, &keys)?;
        rows::scatter(
            rec,
            self.prefill.hidden(),
            &self.prefill_targets,
            &self.prompt_states,
            rows.targets.len(),
            model.spec.hidden_size,
        )
    }

    /// Puts the prompts' states in front of the first draw of the seats that this turn started.
    pub(super) fn first_states(
        &self,
        rec: &mut Recorder,
        model: &Model,
        schedule: &Schedule,
        new: usize,
    ) -> Result<()> {
        let slot = |group| schedule.prompt(group).map(|(_, slot)| slot as u32);
        let seats = schedule.seats()[..new].iter();
        let slots: Option<Vec<u32>> = seats.map(|s| slot(s.group)).collect();
        let slots = slots.ok_or_else(|| Error::internal("a sample without its prompt"))?;
        rec.write(&self.new_slots, 0, &slots)?;
        rows::gather(
            rec,
            &self.prompt_states,
            &self.new_slots,
            &self.states,
            new,
            model.spec.hidden_size,
        )
    }
}

/// The prompts, then the samples that read them.
fn pieces<'a>(
    schedule: &'a Schedule,
    turn: &Turn,
    samples: &'a Samples<'_>,
    table: &Table,
) -> Result<Vec<Piece<'a>>> {
    let start = |group: usize| table.prompts[group] * PAGE as u32;
    let mut pieces = Vec::new();
    for group in &turn.prompts {
        let Some((pages, slot)) = schedule.prompt(*group) else {
            return Err(Error::internal("a prompt without pages"));
        };
        pieces.push(Piece {
            tokens: samples.prompt(*group),
            keys: [start(*group), 0, start(*group)],
            position: 0,
            pages,
            target: Some(slot as u32),
        });
    }
    for i in &turn.resumed {
        let seat = &schedule.seats()[*i];
        let prompt = samples.prompt(seat.group).len() as u32;
        pieces.push(Piece {
            tokens: samples.fed(seat)?,
            keys: [start(seat.group), prompt, table.own[*i] * PAGE as u32],
            position: prompt,
            pages: &seat.pages,
            target: None,
        });
    }
    Ok(pieces)
}
