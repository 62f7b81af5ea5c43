//! Data order: a pure function of the seed, so that a resumed run sees the same examples.

use crate::rng::{Stream, seed_for};
use rand::seq::SliceRandom;

/// The random stream of data order.
const ORDER: u32 = 0x0dd5;

/// Indices of the examples at positions `from .. from + count` of an endless pass over `n` examples, reshuffled
/// every epoch.
pub fn draw(seed: u64, n: usize, from: u64, count: usize) -> Vec<usize> {
    let mut out = Vec::with_capacity(count);
    let (mut epoch, mut order) = (u64::MAX, Vec::new());
    for position in from..from + count as u64 {
        let now = position / n as u64;
        if now != epoch {
            epoch = now;
            order = (0..n).collect();
            order.shuffle(&mut Stream::new(seed_for(seed, now, 0, 0), ORDER));
        }
        out.push(order[(position % n as u64) as usize]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_and_resumes_in_the_middle() {
        let all = draw(3, 7, 0, 21);
        for epoch in all.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(all[..7], all[7..14]);
        assert_eq!(draw(3, 7, 5, 9), all[5..14]);
        assert_ne!(draw(4, 7, 0, 7), all[..7]);
    }
}
