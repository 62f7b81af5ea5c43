//! Data order: a pure function of the seed, so that a resumed run sees the same examples; and what tells that they are the
//! same.

use crate::rng::{Stream, seed_for};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// What the examples of a run are: kept in its checkpoints, for positions in other examples mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// How many are trained on.
    pub examples: usize,
    /// SHA-256 of their token ids, in order; see [`hash`].
    pub sha256: String,
    /// SHA-256 of the file that they are from; of several files, of their hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<String>,
}

impl Identity {
    /// The identity of examples, each one or more sequences of token ids, from a file of this hash.
    pub fn new<'a, P: IntoIterator<Item = &'a [u32]>>(
        examples: impl ExactSizeIterator<Item = P>,
        file_sha256: Option<String>,
    ) -> Self {
        Self {
            examples: examples.len(),
            sha256: hash(examples.flatten()),
            file_sha256,
        }
    }
}

/// SHA-256 (hexadecimal) of sequences of token ids: of each its length (8 bytes, little-endian) and its ids (4 bytes each).
pub fn hash<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> String {
    let mut hasher = Sha256::new();
    for tokens in sequences {
        hasher.update((tokens.len() as u64).to_le_bytes());
        for id in tokens {
            hasher.update(id.to_le_bytes());
        }
    }
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::data::sha256_hex;

    #[test]
    fn other_examples_or_another_order_are_another_identity() {
        let of = |examples: &[[&[u32]; 2]]| {
            let each = examples.iter().map(|e| e.iter().copied());
            Identity::new(each, None)
        };
        let a = of(&[[&[1, 2], &[3]], [&[4], &[5]]]);
        assert_eq!((a.examples, &a.file_sha256), (2, &None));
        assert_eq!(a, of(&[[&[1, 2], &[3]], [&[4], &[5]]]));
        let others = [
            of(&[[&[4], &[5]], [&[1, 2], &[3]]]),
            of(&[[&[1], &[2, 3]], [&[4], &[5]]]),
            of(&[[&[1, 2], &[3]]]),
        ];
        assert!(others.iter().all(|other| other.sha256 != a.sha256));
        let mut bytes = 2u64.to_le_bytes().to_vec();
        bytes.extend([7, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(hash([&[7, 256][..]]), sha256_hex(&bytes));
    }

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
