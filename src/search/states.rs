//! Responses → states: the beginnings from which the search goes on (SLG, arXiv 2602.01485, §5).

use std::cmp::Ordering;

/// The longest default prefix, in tokens.
pub const LONGEST_PREFIX: usize = 100;

/// The default prefix length: `min(100, ⌊½·median response length⌋)` in tokens, at least 1. The median of an even number
/// of lengths is the mean of the middle two.
pub fn prefix_length(lengths: &[usize]) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let n = sorted.len();
    let twice = match n {
        0 => 0,
        n if n % 2 == 1 => 2 * sorted[n / 2],
        _ => sorted[n / 2 - 1] + sorted[n / 2],
    };
    (twice / 4).clamp(1, LONGEST_PREFIX)
}

/// A beginning of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its tokens.
    pub prefix: Vec<u32>,
    /// The response it was cut from, a sample number at the root: the best of those that begin so.
    pub from: usize,
}

/// The states of a search and what became of the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chosen {
    /// Different beginnings, best response first.
    pub states: Vec<State>,
    /// Responses that were considered and had ended by the cut.
    pub ended: usize,
    /// Responses that were considered and begin like a better one.
    pub merged: usize,
}

/// Cuts the `width` best responses (`(tokens, reward)`, the lowest sample number first among equal rewards) after `length`
/// tokens. A response of no more than `length` tokens has ended by then and gives no state; equal beginnings give one.
///
/// With `fill`, responses further down take the places of those that gave no state, as long as there are any.
pub fn choose_states(responses: &[(&[u32], f64)], length: usize, width: usize, fill: bool) -> Chosen {
    let mut ranked: Vec<usize> = (0..responses.len()).collect();
    let order = |a: &usize, b: &usize| -> Ordering { responses[*b].1.total_cmp(&responses[*a].1) };
    ranked.sort_by(order);
    let mut chosen = Chosen::default();
    for (rank, from) in ranked.into_iter().enumerate() {
        if chosen.states.len() == width || (rank >= width && !fill) {
            break;
        }
        let tokens = responses[from].0;
        if tokens.len() <= length {
            chosen.ended += 1;
            continue;
        }
        let prefix = &tokens[..length];
        if chosen.states.iter().any(|s| s.prefix == prefix) {
            chosen.merged += 1;
            continue;
        }
        chosen.states.push(State {
            prefix: prefix.to_vec(),
            from,
        });
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_median_up_to_a_hundred() {
        for (lengths, want) in [
            (vec![9], 4),
            (vec![8, 2, 30], 4),
            (vec![5, 6, 7, 100], 3), // ⌊½·6.5⌋
            (vec![7, 8], 3),         // ⌊½·7.5⌋
            (vec![7, 9], 4),
            (vec![1, 1, 1], 1),
            (vec![200, 200], 100),
            (vec![900, 1000, 1100], 100),
        ] {
            assert_eq!(prefix_length(&lengths), want, "{lengths:?}");
        }
    }

    const RESPONSES: [(&[u32], f64); 6] = [
        (&[1, 2, 3], 0.1),
        (&[4, 5, 6, 7], 0.9),
        (&[4, 5, 9], 0.8),
        (&[8, 8], 0.95), // ended at the cut
        (&[1, 3, 3], 0.9),
        (&[7, 7, 7], 0.2),
    ];

    fn cut(width: usize, fill: bool) -> (Vec<usize>, usize, usize) {
        let c = choose_states(&RESPONSES, 2, width, fill);
        assert!(c.states.iter().all(|s| s.prefix == RESPONSES[s.from].0[..2]));
        (c.states.iter().map(|s| s.from).collect(), c.ended, c.merged)
    }

    #[test]
    fn the_best_responses_give_states_once_and_ended_ones_none() {
        // By reward: 3 (ended), 1, 4 (as good, later), 2 (begins like 1), 5, 0.
        assert_eq!(cut(1, false), (vec![], 1, 0));
        assert_eq!(cut(2, false), (vec![1], 1, 0));
        assert_eq!(cut(4, false), (vec![1, 4], 1, 1));
        assert_eq!(cut(100, false), (vec![1, 4, 5, 0], 1, 1));
    }

    #[test]
    fn filling_goes_down_the_ranking_until_the_width_is_reached() {
        assert_eq!(cut(1, true), (vec![1], 1, 0));
        assert_eq!(cut(3, true), (vec![1, 4, 5], 1, 1));
        assert_eq!(cut(100, true), (vec![1, 4, 5, 0], 1, 1));
        assert_eq!(choose_states(&RESPONSES, 9, 3, true).ended, 6);
    }
}
