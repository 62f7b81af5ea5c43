//! How a step's gradient is added up, whatever the micro-batches are.
//!
//! A prompt's samples are cut into pieces by their lengths alone. A piece is one summand: every trained tensor gets one
//! kernel's sum over exactly the piece's rows. Pieces of a prompt are added in ascending order, and the prompts'
//! gradients in one fixed binary tree over their place in the step: ((g0 + g1) + (g2 + g3)) + g4 for five. An aligned
//! block of 2ᵏ places is a subtree, so that whoever holds the block can add it up alone.
//!
//! The tree is walked as a binary counter. Slot 0 is the tensor's gradient, which the optimiser reads; each further slot
//! waits for its neighbour. Five prompts need three slots, as many as a number below five has binary ones, and one more.

use super::run::Group;
use crate::error::{Error, Result};
use std::ops::Range;

/// Tokens of a prompt and its samples that a piece holds at most, where one sample alone is not longer. Part of what a
/// run's bits depend on: another number is another order of sums.
pub const PIECE_TOKENS: usize = 1024;

/// Where a summand goes, and what is added up after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summand {
    /// Which of a tensor's gradient buffers ([`Param::gradient`](super::params::Param::gradient)).
    pub slot: usize,
    /// Overwrite the slot instead of adding to it.
    pub begins: bool,
    /// How often the last slot is then added to the one before it.
    pub merges: usize,
}

impl Summand {
    /// Added to the one buffer, after whatever it holds.
    pub const ADD: Self = Self {
        slot: 0,
        begins: false,
        merges: 0,
    };

    /// Piece `piece` of `pieces` of the prompt at `place` among `places`.
    pub fn of((place, places): (usize, usize), (piece, pieces): (usize, usize)) -> Self {
        let slot = place.count_ones() as usize;
        let merges = match (piece + 1 == pieces, place + 1 == places) {
            (false, _) => 0,
            (true, false) => place.trailing_ones() as usize,
            // What the counter still holds, smallest block first.
            (true, true) => slot,
        };
        Self {
            slot,
            begins: piece == 0,
            merges,
        }
    }

    /// The same sum where a kernel's result may be added to the slot that it would be merged into: one addition less.
    pub fn at_once(self) -> Self {
        if !self.begins || self.merges == 0 {
            return self;
        }
        Self {
            slot: self.slot - 1,
            begins: false,
            merges: self.merges - 1,
        }
    }

    /// Slots beside the first that the tree of `places` prompts needs.
    pub fn extra_slots(places: usize) -> usize {
        places.checked_ilog2().unwrap_or(0) as usize
    }
}

/// Consecutive samples of one prompt whose gradient is one summand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The group.
    pub group: usize,
    /// Its suffixes.
    pub samples: Range<usize>,
    /// Where its gradient goes.
    pub sum: Summand,
}

/// The order in which a step's gradients are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In a binary tree over the prompts ([`Summand::of`]).
    Tree,
    /// Piece after piece, in one buffer.
    Ascending,
}

/// A step's groups, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// In ascending order.
    pub all: Vec<Piece>,
    /// Whether each is a micro-batch of its own.
    pub alone: bool,
}

impl Pieces {
    /// Cuts groups into pieces of at most `most` tokens, a prompt counted once in each; never less than one sample.
    pub fn cut(groups: &[Group<'_>], most: usize, order: Order, alone: bool) -> Self {
        let mut all = Vec::new();
        for (group, g) in groups.iter().enumerate() {
            let ranges = ranges(g, most);
            let pieces = ranges.len();
            for (piece, samples) in ranges.into_iter().enumerate() {
                let sum = match order {
                    Order::Tree => Summand::of((group, groups.len()), (piece, pieces)),
                    Order::Ascending => Summand::ADD,
                };
                all.push(Piece { group, samples, sum });
            }
        }
        Self { all, alone }
    }

    /// Which pieces each micro-batch of at most `rows` rows and `readouts` targets holds.
    ///
    /// # Errors
    /// There is no room for a piece (a bug: [`PIECE_TOKENS`] and the longest sequence fit in every workspace).
    pub(super) fn pack(
        &self,
        groups: &[Group<'_>],
        rows: usize,
        readouts: usize,
    ) -> Result<Vec<Range<usize>>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let (mut used, mut targets) = (0, 0);
        for (i, piece) in self.all.iter().enumerate() {
            let [own, read] = piece.size(groups);
            if own > rows || read > readouts {
                return Err(Error::internal(format!(
                    "a piece of {own} tokens and {read} targets where a micro-batch holds {rows} and {readouts}"
                )));
            }
            match batches.last_mut() {
                Some(last) if !self.alone && used + own <= rows && targets + read <= readouts => {
                    last.end = i + 1;
                    (used, targets) = (used + own, targets + read);
                }
                _ => {
                    batches.push(i..i + 1);
                    (used, targets) = (own, read);
                }
            }
        }
        Ok(batches)
    }
}

impl Piece {
    /// Rows and readouts of a micro-batch that it takes.
    fn size(&self, groups: &[Group<'_>]) -> [usize; 2] {
        let g = &groups[self.group];
        let lengths = || g.suffixes[self.samples.clone()].iter().map(|s| s.len());
        let own = lengths().map(|n| n.saturating_sub(1)).sum::<usize>();
        [g.prefix.len() + own, lengths().sum()]
    }
}

/// A group's samples in pieces.
fn ranges(group: &Group<'_>, most: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (s, suffix) in group.suffixes.iter().enumerate() {
        match out.last_mut() {
            Some(last) if used + suffix.len() <= most => {
                last.end = s + 1;
                used += suffix.len();
            }
            _ => {
                out.push(s..s + 1);
                used = group.prefix.len() + suffix.len();
            }
        }
    }
    out
}

/// A run of rows of a loaded micro-batch whose gradient is one summand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its rows.
    pub rows: Range<usize>,
    /// Their readouts.
    pub readouts: Range<usize>,
    /// Where its gradient goes.
    pub sum: Summand,
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
