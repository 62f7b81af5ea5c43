//! Packing sequences into one batch of rows: a group's shared prefix is stored, and computed, once.
//!
//! Rows are laid out group by group: the prefix, then each suffix. A row attends to its prefix and to its own
//! suffix up to itself, so the rows that attend to a key are always contiguous (architecture: shared-prefix range,
//! own range).

use crate::error::{Error, Result};
use std::ops::Range;

/// A row of hidden states that is read out: its log-probability of `target`, or its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readout {
    /// The row.
    pub row: u32,
    /// The token whose log-probability is wanted (0 for scores).
    pub target: u32,
}

/// Packed sequences, on the host.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Token of each row (M).
    pub tokens: Vec<u32>,
    /// Attention ranges of each row (M): prefix start, prefix length, own start, position.
    pub meta: Vec<[u32; 4]>,
    /// One past the last row that attends to row j (M).
    pub key_ends: Vec<u32>,
    /// Readouts in ascending order of rows (P).
    pub readouts: Vec<Readout>,
    /// For each sequence, in the order it was pushed, the readouts of its targets in order.
    pub sequences: Vec<Vec<usize>>,
}

impl Batch {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Rows that a group would take: the prefix once, each suffix without its last token (nothing is predicted
    /// after it).
    pub fn group_rows(prefix: usize, suffixes: impl IntoIterator<Item = usize>) -> usize {
        prefix + suffixes.into_iter().map(|n| n.saturating_sub(1)).sum::<usize>()
    }

    /// Adds a prompt and the responses to it; every response token is a target.
    ///
    /// # Errors
    /// An empty prompt (the first token of a sequence has no probability).
    pub fn push_group<'a>(
        &mut self,
        prefix: &[u32],
        suffixes: impl IntoIterator<Item = &'a [u32]>,
    ) -> Result<()> {
        self.push_targets(prefix, suffixes, |_| true)
    }

    /// Adds a prompt and one sequence that follows it. Only the tokens at indices of `learned` are
    /// targets; the rest (turns of others between two responses) is context.
    ///
    /// # Errors
    /// As [`Batch::push_group`].
    pub fn push_learned(&mut self, prefix: &[u32], suffix: &[u32], learned: &[Range<usize>]) -> Result<()> {
        let target = |i| learned.iter().any(|range| range.contains(&i));
        self.push_targets(prefix, [suffix], target)
    }

    fn push_targets<'a>(
        &mut self,
        prefix: &[u32],
        suffixes: impl IntoIterator<Item = &'a [u32]>,
        target: impl Fn(usize) -> bool,
    ) -> Result<()> {
        if prefix.is_empty() {
            return Err(Error::user(
                "a prompt is empty: the first token of a sequence has no probability; give at least one token",
            ));
        }
        let start = self.push_prefix(prefix);
        let last = (self.rows() - 1) as u32;
        for suffix in suffixes {
            let rows = self.push_suffix(start, prefix.len(), &suffix[..suffix.len().saturating_sub(1)]);
            // Target t is predicted by the row before it: the prompt's last row, then the suffix's own rows.
            let from = std::iter::once(last).chain(rows.start as u32..rows.end as u32);
            self.push_readouts(
                suffix
                    .iter()
                    .zip(from)
                    .enumerate()
                    .filter(|(i, _)| target(*i))
                    .map(|(_, (&target, row))| Readout { row, target }),
            );
        }
        self.end_prefix(start, prefix.len());
        Ok(())
    }

    /// Adds whole sequences that share their first `prefix` tokens; each is read out at index `at` (for scores).
    ///
    /// # Errors
    /// An empty sequence or an index past its end.
    pub fn push_scored<'a>(
        &mut self,
        prefix: usize,
        sequences: impl IntoIterator<Item = (&'a [u32], usize)>,
    ) -> Result<()> {
        let mut start = None;
        for (tokens, at) in sequences {
            if at >= tokens.len() || prefix > tokens.len() {
                return Err(Error::user("an empty sequence cannot be scored"));
            }
            let start = *start.get_or_insert_with(|| self.push_prefix(&tokens[..prefix]));
            let rows = self.push_suffix(start, prefix, &tokens[prefix..]);
            let row = if at < prefix {
                start + at
            } else {
                rows.start + at - prefix
            };
            self.push_readouts([Readout {
                row: row as u32,
                target: 0,
            }]);
        }
        if let Some(start) = start {
            self.end_prefix(start, prefix);
        }
        Ok(())
    }

    /// Adds tokens at positions `from ..` of a sequence whose keys are where `[prefix_start, prefix_len, own_start]` says,
    /// with the last row read out `readouts` times.
    pub fn push_cached(&mut self, tokens: &[u32], keys: [u32; 3], from: u32, readouts: usize) {
        let [start, prefix, own] = keys;
        self.tokens.extend_from_slice(tokens);
        self.meta
            .extend((from..).take(tokens.len()).map(|p| [start, prefix, own, p]));
        self.key_ends.resize(self.rows(), 0);
        let row = self.rows().saturating_sub(1) as u32;
        self.readouts
            .extend(std::iter::repeat_n(Readout { row, target: 0 }, readouts));
    }

    fn push_prefix(&mut self, prefix: &[u32]) -> usize {
        let start = self.rows();
        self.tokens.extend_from_slice(prefix);
        self.meta
            .extend((0..prefix.len() as u32).map(|p| [start as u32, 0, start as u32, p]));
        start
    }

    fn push_suffix(&mut self, start: usize, prefix: usize, suffix: &[u32]) -> Range<usize> {
        let own = self.rows();
        self.tokens.extend_from_slice(suffix);
        self.meta.extend(
            (0..suffix.len()).map(|i| [start as u32, prefix as u32, own as u32, (prefix + i) as u32]),
        );
        let end = self.rows();
        self.key_ends.resize(own, 0);
        self.key_ends.resize(end, end as u32);
        own..end
    }

    fn push_readouts(&mut self, readouts: impl IntoIterator<Item = Readout>) {
        let from = self.readouts.len();
        self.readouts.extend(readouts);
        self.sequences.push((from..self.readouts.len()).collect());
    }

    /// Every later row of the group attends to the prefix.
    fn end_prefix(&mut self, start: usize, prefix: usize) {
        let end = self.rows();
        self.key_ends.resize(end, end as u32);
        self.key_ends[start..start + prefix].fill(end as u32);
    }

    /// Sorts the readouts by row and returns the row starts (M + 1): the readouts of row i are
    /// `starts[i] .. starts[i + 1]`.
    pub fn finish(&mut self) -> Vec<u32> {
        let mut order: Vec<usize> = (0..self.readouts.len()).collect();
        order.sort_by_key(|i| self.readouts[*i].row);
        let mut place = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old] = new;
        }
        self.readouts = order.iter().map(|i| self.readouts[*i]).collect();
        for index in self.sequences.iter_mut().flatten() {
            *index = place[*index];
        }
        let mut starts = vec![0u32; self.rows() + 1];
        for r in &self.readouts {
            starts[r.row as usize + 1] += 1;
        }
        for i in 0..self.rows() {
            starts[i + 1] += starts[i];
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_group_shares_its_prefix() {
        let mut b = Batch::default();
        b.push_group(&[9, 8], [&[1, 2, 3][..], &[4][..]]).unwrap();
        b.push_group(&[7], [&[5, 6][..]]).unwrap();
        assert_eq!(b.tokens, [9, 8, 1, 2, 7, 5]);
        assert_eq!(b.meta[3], [0, 2, 2, 3]);
        assert_eq!(b.key_ends, [4, 4, 4, 4, 6, 6]);
        let starts = b.finish();
        // The prompt's last row predicts both first tokens.
        assert_eq!(starts, [0, 0, 2, 3, 4, 5, 6]);
        let targets = |s: usize| {
            b.sequences[s]
                .iter()
                .map(|i| b.readouts[*i].target)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (targets(0), targets(1), targets(2)),
            (vec![1, 2, 3], vec![4], vec![5, 6])
        );
    }

    #[test]
    fn only_what_is_learned_is_read_out() {
        let (mut all, mut some) = (Batch::default(), Batch::default());
        let (prefix, suffix) = ([9, 8], [1, 2, 3, 4, 5]);
        all.push_group(&prefix, [&suffix[..]]).unwrap();
        some.push_learned(&prefix, &suffix, &[0..2, 4..5]).unwrap();
        let mut same = Batch::default();
        same.push_learned(&prefix, &suffix, &[0..3, 3..5]).unwrap();
        assert_eq!((&same.meta, &same.readouts), (&all.meta, &all.readouts));
        // The rows are the same: what is not learned is context.
        assert_eq!((&some.tokens, &some.meta), (&all.tokens, &all.meta));
        let read: Vec<_> = some.readouts.iter().map(|r| (r.row, r.target)).collect();
        assert_eq!(read, [(1, 1), (2, 2), (5, 5)]);
        assert_eq!(some.finish(), [0, 0, 1, 2, 2, 2, 3]);
        assert_eq!(some.sequences, [[0, 1, 2]]);
    }

    #[test]
    fn scores_are_read_where_asked() {
        let mut b = Batch::default();
        b.push_scored(2, [(&[1, 2, 3][..], 2), (&[1, 2, 4, 5][..], 2), (&[1, 2][..], 1)])
            .unwrap();
        assert_eq!(b.rows(), 5);
        b.finish();
        let rows: Vec<_> = b.sequences.iter().map(|s| b.readouts[s[0]].row).collect();
        assert_eq!(rows, [2, 3, 1]);
        assert!(b.push_scored(0, [(&[][..], 0)]).is_err());
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        assert!(Batch::default().push_group(&[], [&[1][..]]).is_err());
    }
}
