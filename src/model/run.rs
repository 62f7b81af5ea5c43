//! Running many sequences through a model: packed micro-batches under a token budget.

use super::batch::Batch;
use super::forward::{Keys, Pass};
use super::params::Model;
use super::pieces::{Part, Piece, Pieces};
use super::spec::Head;
use super::workspace::{Loaded, Workspace};
use crate::error::{Error, Result};
use crate::gpu::Recorder;
use std::ops::Range;

/// A prefix and the sequences that continue it: a prompt and its responses.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Shared tokens; at least one.
    pub prefix: &'a [u32],
    /// What follows it, one a sequence.
    pub suffixes: Vec<&'a [u32]>,
}

/// The error of a forward pass whose numbers left the range of their types: the weights themselves are checked as they are
/// loaded.
pub fn overflow(what: &str, value: f32) -> Error {
    Error::user(format!(
        "{what} is {value}: weights that are finite but far too large, or a run that diverged, drive the model's numbers out \
         of range. Take another copy of the weights or an earlier checkpoint; if they are right, load them as f32"
    ))
}

/// Refuses values that are NaN or infinite.
///
/// # Errors
/// [`overflow`], with `what` for the value.
pub fn all_finite<'a>(values: impl IntoIterator<Item = &'a f32>, what: &str) -> Result<()> {
    match values.into_iter().find(|v| !v.is_finite()) {
        Some(value) => Err(overflow(what, *value)),
        None => Ok(()),
    }
}

/// What messages call a token's log-probability.
pub const LOG_PROBABILITY: &str = "the log-probability of a token";

/// One micro-batch: pieces of groups, as (group, suffixes).
pub type Plan = Vec<(usize, Range<usize>)>;

/// Splits groups into micro-batches of at most `rows` rows and `readouts` targets. A group that does not fit in one
/// is split, its prefix computed in each part.
///
/// # Errors
/// A single sequence is longer than the budget.
pub fn pack(groups: &[Group<'_>], rows: usize, readouts: usize) -> Result<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::new();
    let (mut used, mut targets) = (rows, readouts);
    for (g, group) in groups.iter().enumerate() {
        let mut open = false;
        for (s, suffix) in group.suffixes.iter().enumerate() {
            let own = suffix.len().saturating_sub(1);
            let alone = group.prefix.len() + own;
            if alone > rows || suffix.len() > readouts {
                return Err(Error::user(format!(
                    "a sequence of {} tokens does not fit the token budget of {rows}; raise --token-budget or shorten it",
                    group.prefix.len() + suffix.len()
                )));
            }
            let cost = if open { own } else { alone };
            if used + cost > rows || targets + suffix.len() > readouts {
                plans.push(vec![(g, s..s + 1)]);
                (used, targets, open) = (alone, suffix.len(), true);
                continue;
            }
            let Some(plan) = plans.last_mut() else { continue };
            match plan.last_mut() {
                Some((last, range)) if *last == g => range.end = s + 1,
                _ => plan.push((g, s..s + 1)),
            }
            (used, targets, open) = (used + cost, targets + suffix.len(), true);
        }
    }
    Ok(plans)
}

/// A micro-batch on the device, not run yet.
pub struct Packed<'a, 'p> {
    /// The pass, for the backward call.
    pub pass: &'a Pass<'p>,
    /// The batch on the device.
    pub loaded: &'a Loaded,
    /// The batch on the host.
    pub batch: &'a Batch,
    /// (group, suffix) of each of the batch's sequences.
    pub owners: &'a [(usize, usize)],
}

impl Packed<'_, '_> {
    /// Records the forward pass and what the model's head says of the readouts; `backward` says whether a backward pass
    /// follows.
    ///
    /// # Errors
    /// A GPU error.
    pub fn forward(&self, rec: &mut Recorder, backward: bool) -> Result<()> {
        self.pass.forward_for(rec, self.loaded, &Keys::Packed, backward)?;
        match self.pass.model.spec.head {
            Head::CausalLm => self.pass.log_probs(rec, self.loaded),
            Head::Score => self.pass.scores(rec, self.loaded),
        }
    }

    /// Records the backward pass from the coefficients that are in the workspace.
    ///
    /// # Errors
    /// A GPU error.
    pub fn backward(&self, rec: &mut Recorder) -> Result<()> {
        match self.pass.model.spec.head {
            Head::CausalLm => self
                .pass
                .backward_coefficients(rec, self.loaded, &self.batch.tokens),
            Head::Score => self.pass.backward_scores(rec, self.loaded, &self.batch.tokens),
        }
    }

    /// For each readout (P), what `of` says of its sequence (group, suffix).
    pub fn by_readout<T: Copy + Default>(&self, of: impl Fn(usize, usize) -> T) -> Vec<T> {
        let mut out = vec![T::default(); self.loaded.p];
        for ((g, s), readouts) in self.owners.iter().zip(&self.batch.sequences) {
            let value = of(*g, *s);
            readouts.iter().for_each(|r| out[*r] = value);
        }
        out
    }
}

/// Hands each micro-batch of the groups to `f`, which runs it. The host does not wait for the device: what `f` records
/// and writes is done in order.
///
/// # Errors
/// A sequence that does not fit, a GPU error, or what `f` returns.
pub fn each_packed(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    adapter: bool,
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    packed(model, ws, groups, None, adapter, f)
}

/// As [`each_packed`] with the adapter, for groups of one suffix each: only the tokens at indices of `learned[group]` are
/// read out.
///
/// # Errors
/// As [`each_packed`].
pub fn each_learned(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    learned: &[Vec<Range<usize>>],
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    packed(model, ws, groups, Some(learned), true, f)
}

/// As [`each_packed`], for groups cut into pieces: each micro-batch holds whole pieces, and its parts say where their
/// gradients go.
///
/// # Errors
/// As [`each_packed`].
pub fn each_piece(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    pieces: &Pieces,
    adapter: bool,
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    let pass = Pass { model, ws, adapter };
    let mut rec = Recorder::new(&model.gpu);
    for held in pieces.pack(groups, ws.shape.rows, ws.shape.readouts)? {
        let (mut batch, mut owners, mut parts) = (Batch::default(), Vec::new(), Vec::new());
        for Piece { group, samples, sum } in &pieces.all[held] {
            let from = (batch.rows(), batch.readouts.len());
            let suffixes = groups[*group].suffixes[samples.clone()].iter().copied();
            batch.push_group(groups[*group].prefix, suffixes)?;
            owners.extend(samples.clone().map(|s| (*group, s)));
            parts.push(Part {
                rows: from.0..batch.rows(),
                readouts: from.1..batch.readouts.len(),
                sum: *sum,
            });
        }
        hand(&mut rec, &pass, batch, &owners, Some(parts), f)?;
    }
    rec.submit()
}

/// Loads a micro-batch and hands it to `f`. Its gradient is one sum where no `parts` are given.
fn hand(
    rec: &mut Recorder,
    pass: &Pass<'_>,
    mut batch: Batch,
    owners: &[(usize, usize)],
    parts: Option<Vec<Part>>,
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    let mut loaded = pass.ws.load(rec, pass.model, &mut batch)?;
    if let Some(parts) = parts {
        loaded.parts = parts;
    }
    let packed = Packed {
        pass,
        loaded: &loaded,
        batch: &batch,
        owners,
    };
    f(rec, &packed)
}

/// As [`each_packed`], or as [`each_learned`] where `learned` is given.
fn packed(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    learned: Option<&[Vec<Range<usize>>]>,
    adapter: bool,
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    let pass = Pass { model, ws, adapter };
    let mut rec = Recorder::new(&model.gpu);
    for plan in pack(groups, ws.shape.rows, ws.shape.readouts)? {
        let (mut batch, mut owners) = (Batch::default(), Vec::new());
        for (g, range) in plan {
            let (prefix, suffixes) = (groups[g].prefix, &groups[g].suffixes[range.clone()]);
            match learned {
                None => batch.push_group(prefix, suffixes.iter().copied())?,
                Some(learned) => {
                    for suffix in suffixes {
                        batch.push_learned(prefix, suffix, &learned[g])?;
                    }
                }
            }
            owners.extend(range.map(|s| (g, s)));
        }
        hand(&mut rec, &pass, batch, &owners, None, f)?;
    }
    rec.submit()
}

/// Log-probability of every suffix token: result `[group][suffix][token]`, natural log. They may be NaN or infinite; whoever
/// knows what the groups are says so.
///
/// # Errors
/// A sequence that does not fit, or a GPU error.
pub fn log_probs(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    adapter: bool,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut out: Vec<Vec<Vec<f32>>> = groups
        .iter()
        .map(|g| vec![Vec::new(); g.suffixes.len()])
        .collect();
    each_packed(model, ws, groups, adapter, &mut |rec, packed| {
        packed.forward(rec, false)?;
        rec.submit()?;
        let all = packed.pass.read_log_probs(packed.loaded)?;
        for ((g, s), readouts) in packed.owners.iter().zip(&packed.batch.sequences) {
            out[*g][*s] = readouts.iter().map(|r| all[*r]).collect();
        }
        Ok(())
    })?;
    Ok(out)
}

/// Index at which transformers reads a sequence's score: the last token whose id is not the padding token (0 if all
/// are; the last token if the model has none).
pub fn score_index(tokens: &[u32], pad: Option<u32>) -> usize {
    match pad {
        None => tokens.len().saturating_sub(1),
        Some(pad) => tokens.iter().rposition(|t| *t != pad).unwrap_or(0),
    }
}

/// Score of every sequence. Neighbouring sequences share what prefix they have in common.
///
/// # Errors
/// An empty or too long sequence, or a GPU error.
pub fn scores(model: &Model, ws: &Workspace, sequences: &[&[u32]]) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(sequences.len());
    each_scored(model, ws, sequences, &mut |rec, packed| {
        packed.forward(rec, false)?;
        rec.submit()?;
        let all = packed.pass.read_scores(packed.loaded)?;
        out.extend(packed.batch.sequences.iter().map(|s| all[s[0]]));
        Ok(())
    })?;
    Ok(out)
}

/// As [`each_packed`] with the adapter, for whole sequences that are read out where their score is. A micro-batch's owners
/// are their indices, each with 0; neighbours share a micro-batch in order.
///
/// # Errors
/// As [`scores`], or what `f` returns.
pub fn each_scored(
    model: &Model,
    ws: &Workspace,
    sequences: &[&[u32]],
    f: &mut dyn FnMut(&mut Recorder, &Packed<'_, '_>) -> Result<()>,
) -> Result<()> {
    let pass = Pass {
        model,
        ws,
        adapter: true,
    };
    let mut rec = Recorder::new(&model.gpu);
    let mut from = 0;
    while from < sequences.len() {
        let (mut batch, to) = next_judged(model, ws, sequences, from)?;
        let loaded = ws.load(&mut rec, model, &mut batch)?;
        let owners: Vec<(usize, usize)> = (from..to).map(|i| (i, 0)).collect();
        let packed = Packed {
            pass: &pass,
            loaded: &loaded,
            batch: &batch,
            owners: &owners,
        };
        f(&mut rec, &packed)?;
        from = to;
    }
    rec.submit()
}

/// Rows that [`each_scored`] takes for these sequences, if a micro-batch of `most` holds them all.
pub fn scored_rows(sequences: &[&[u32]], most: usize) -> usize {
    let (mut at, mut rows) = (0, 0);
    while at < sequences.len() {
        let run = prefix_run(&sequences[at..], most);
        rows += run.prefix + run.suffix_rows;
        at += run.count;
    }
    rows
}

/// The micro-batch of the sequences from `from` on, and the first that it has no room for.
pub(super) fn next_judged(
    model: &Model,
    ws: &Workspace,
    sequences: &[&[u32]],
    from: usize,
) -> Result<(Batch, usize)> {
    let pad = model.spec.pad_token_id;
    let (mut batch, mut to) = (Batch::default(), from);
    while to < sequences.len() {
        let run = prefix_run(&sequences[to..], ws.shape.rows);
        let rows = run.prefix + run.suffix_rows;
        if rows > ws.shape.rows {
            return Err(Error::user(format!(
                "a sequence of {} tokens does not fit the token budget of {}; raise --token-budget or shorten it",
                sequences[to].len(),
                ws.shape.rows
            )));
        }
        if to > from && (batch.rows() + rows > ws.shape.rows || to + run.count - from > ws.shape.readouts) {
            break;
        }
        let group = &sequences[to..to + run.count];
        batch.push_scored(run.prefix, group.iter().map(|s| (*s, score_index(s, pad))))?;
        to += run.count;
    }
    Ok((batch, to))
}

struct PrefixRun {
    count: usize,
    prefix: usize,
    suffix_rows: usize,
}

/// The leading sequences that are best packed as one group: they share at least half of the first one's tokens.
fn prefix_run(sequences: &[&[u32]], rows: usize) -> PrefixRun {
    let first = sequences[0];
    let common = |a: &[u32], n: usize| first[..n].iter().zip(a).take_while(|(x, y)| x == y).count();
    let mut run = PrefixRun {
        count: 1,
        prefix: first.len(),
        suffix_rows: 0,
    };
    let mut total = first.len();
    for s in &sequences[1..] {
        let prefix = common(s, run.prefix);
        if prefix * 2 < first.len() {
            break;
        }
        let count = run.count + 1;
        let suffix_rows = total + s.len() - count * prefix;
        if prefix + suffix_rows > rows {
            break;
        }
        run = PrefixRun {
            count,
            prefix,
            suffix_rows,
        };
        total += s.len();
    }
    run
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn packing_splits_groups_that_do_not_fit() {
        let (p, s) = ([1u32; 4], [2u32; 5]);
        let groups: Vec<Group<'_>> = (0..2)
            .map(|_| Group {
                prefix: &p,
                suffixes: vec![&s, &s, &s],
            })
            .collect();
        // A group is 4 + 3·4 = 16 rows; 12 rows hold a prefix and two suffixes.
        assert_eq!(
            pack(&groups, 12, 100).unwrap(),
            vec![vec![(0, 0..2)], vec![(0, 2..3)], vec![(1, 0..2)], vec![(1, 2..3)]]
        );
        assert_eq!(pack(&groups, 32, 100).unwrap(), vec![vec![(0, 0..3), (1, 0..3)]]);
        assert_eq!(
            pack(&groups, 32, 15).unwrap(),
            vec![vec![(0, 0..3)], vec![(1, 0..3)]]
        );
        assert!(pack(&groups, 7, 100).is_err());
    }

    #[test]
    fn neighbours_share_their_prefix() {
        let (a, b, c) = ([1, 2, 3, 4u32], [1, 2, 3, 5, 6u32], [9u32]);
        let run = prefix_run(&[&a, &b, &c], 100);
        assert_eq!((run.count, run.prefix, run.suffix_rows), (2, 3, 3));
        assert_eq!(prefix_run(&[&a, &b], 5).count, 1);
        assert_eq!(scored_rows(&[&a, &b, &c], 100), 3 + 3 + 1);
        assert_eq!(score_index(&[5, 3, 0, 0], Some(0)), 1);
        assert_eq!(score_index(&[0, 0], Some(0)), 0);
        assert_eq!(score_index(&[5, 0], None), 1);
    }
}
