//! Running many sequences through a model: packed micro-batches under a token budget.

use super::batch::Batch;
use super::forward::{Keys, Pass};
use super::params::Model;
use super::pieces::{Part, Piece, Pieces};
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

/// A micro-batch after its forward pass and head.
pub struct Ran<'a, 'p> {
    /// The pass, for the backward call.
    pub pass: &'a Pass<'p>,
    /// The batch on the device.
    pub loaded: &'a Loaded,
    /// The batch on the host.
    pub batch: &'a Batch,
    /// (group, suffix) of each of the batch's sequences.
    pub owners: &'a [(usize, usize)],
    /// Log-probability of each readout (P).
    pub logp: &'a [f32],
}

impl Ran<'_, '_> {
    /// The log-probabilities of sequence `i` of this batch, in token order.
    pub fn sequence(&self, i: usize) -> Vec<f32> {
        self.batch.sequences[i].iter().map(|r| self.logp[*r]).collect()
    }
}

/// Runs every group forward and hands each micro-batch to `f`, which may run it backward.
///
/// # Errors
/// A sequence that does not fit, a log-probability that is not finite, a GPU error, or what `f` returns.
pub fn each_batch(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    adapter: bool,
    f: &mut dyn FnMut(&mut Recorder, &Ran<'_, '_>) -> Result<()>,
) -> Result<()> {
    each(model, ws, groups, None, (adapter, true), &mut |rec, ran| {
        all_finite(ran.logp, LOG_PROBABILITY)?;
        f(rec, ran)
    })
}

/// As [`each_batch`] with the adapter, for groups of one suffix each: only the tokens at indices of
/// `learned[group]` are read out. `backward` says whether `f` runs a backward pass.
///
/// # Errors
/// As [`each_batch`].
pub fn each_learned(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    learned: &[Vec<Range<usize>>],
    backward: bool,
    f: &mut dyn FnMut(&mut Recorder, &Ran<'_, '_>) -> Result<()>,
) -> Result<()> {
    each(
        model,
        ws,
        groups,
        Some(learned),
        (true, backward),
        &mut |rec, ran| {
            all_finite(ran.logp, LOG_PROBABILITY)?;
            f(rec, ran)
        },
    )
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
    /// Records the forward pass and the log-probabilities of the readouts; `backward` says whether a backward pass follows.
    ///
    /// # Errors
    /// A GPU error.
    pub fn forward(&self, rec: &mut Recorder, backward: bool) -> Result<()> {
        self.pass.forward_for(rec, self.loaded, &Keys::Packed, backward)?;
        self.pass.log_probs(rec, self.loaded)
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
        let loaded = Loaded {
            parts,
            ..ws.load(&mut rec, model, &mut batch)?
        };
        let packed = Packed {
            pass: &pass,
            loaded: &loaded,
            batch: &batch,
            owners: &owners,
        };
        f(&mut rec, &packed)?;
    }
    rec.submit()
}

/// As [`each_packed`]; where `learned` is given, only those tokens are read out ([`each_learned`]).
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
        let loaded = ws.load(&mut rec, model, &mut batch)?;
        let packed = Packed {
            pass: &pass,
            loaded: &loaded,
            batch: &batch,
            owners: &owners,
        };
        f(&mut rec, &packed)?;
    }
    rec.submit()
}

/// As [`each_batch`], or as [`each_learned`] where `learned` is given.
fn each(
    model: &Model,
    ws: &Workspace,
    groups: &[Group<'_>],
    learned: Option<&[Vec<Range<usize>>]>,
    (adapter, backward): (bool, bool),
    f: &mut dyn FnMut(&mut Recorder, &Ran<'_, '_>) -> Result<()>,
) -> Result<()> {
    packed(model, ws, groups, learned, adapter, &mut |rec, packed| {
        packed.forward(rec, backward)?;
        rec.submit()?;
        let logp = packed.pass.read_log_probs(packed.loaded)?;
        let ran = Ran {
            pass: packed.pass,
            loaded: packed.loaded,
            batch: packed.batch,
            owners: packed.owners,
            logp: &logp,
        };
        f(rec, &ran)
    })
}

/// Log-probability of every suffix token: result `[group][suffix][token]`, natural log. They may be NaN or infinite; whoever
/// knows what the groups are says so.
///
/// # Errors
/// As [`each_batch`].
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
    each(model, ws, groups, None, (adapter, false), &mut |_, ran| {
        for (i, (g, s)) in ran.owners.iter().enumerate() {
            out[*g][*s] = ran.sequence(i);
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
    each_judged(model, ws, sequences, false, &mut |_, ran| {
        let all = ran.pass.read_scores(ran.loaded)?;
        out.extend(ran.batch.sequences.iter().map(|s| all[s[0]]));
        Ok(())
    })?;
    Ok(out)
}

/// A micro-batch of scored sequences after its forward pass.
pub struct Scored<'a, 'p> {
    /// The pass, for the backward call.
    pub pass: &'a Pass<'p>,
    /// The batch on the device.
    pub loaded: &'a Loaded,
    /// The batch on the host.
    pub batch: &'a Batch,
    /// Which of the sequences it holds.
    pub range: Range<usize>,
}

/// Scores micro-batches of sequences in order and hands each to `f`, which may run it backward.
///
/// # Errors
/// As [`scores`], or what `f` returns.
pub fn each_scored(
    model: &Model,
    ws: &Workspace,
    sequences: &[&[u32]],
    f: &mut dyn FnMut(&mut Recorder, &Scored<'_, '_>) -> Result<()>,
) -> Result<()> {
    each_judged(model, ws, sequences, true, f)
}

/// As [`each_scored`]; `backward` says whether `f` runs a backward pass.
///
/// # Errors
/// As [`each_scored`].
pub fn each_judged(
    model: &Model,
    ws: &Workspace,
    sequences: &[&[u32]],
    backward: bool,
    f: &mut dyn FnMut(&mut Recorder, &Scored<'_, '_>) -> Result<()>,
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
        pass.forward_for(&mut rec, &loaded, &Keys::Packed, backward)?;
        pass.scores(&mut rec, &loaded)?;
        rec.submit()?;
        f(
            &mut rec,
            &Scored {
                pass: &pass,
                loaded: &loaded,
                batch: &batch,
                range: from..to,
            },
        )?;
        from = to;
    }
    rec.submit()
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
        assert_eq!(score_index(&[5, 3, 0, 0], Some(0)), 1);
        assert_eq!(score_index(&[0, 0], Some(0)), 0);
        assert_eq!(score_index(&[5, 0], None), 1);
    }
}
