//! Counter-based random numbers: Philox4x32-10, the same bits on the CPU and on the GPU.
//!
//! A draw is a pure function of a key and a counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011), so it depends neither on the order of draws nor on what else runs beside it. Counters are laid out as
//! `(index, position, purpose, domain)`: domain 0 belongs to the GPU sampler (`shaders/sample_draw.wgsl`), domain 1
//! to [`Stream`], domain 2 to the rounding of 8-bit optimiser state (`shaders/adamw_8bit_step.wgsl`).

use rand::TryRng;
use std::convert::Infallible;

/// Multipliers and key increments of Philox4x32.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Philox4x32-10: 128 random bits for a counter under a key. Twin of `shaders/shared/philox.wgsl`.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [
            (b >> 32) as u32 ^ c[1] ^ k[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ k[1],
            a as u32,
        ];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// A bijection of 64-bit words that spreads every input bit (the finaliser of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The Philox key of one response: a hash of the run's seed, the step, the prompt and the sample.
///
/// Each word is absorbed as `h ← mix((h ⊕ word) + odd constant)`, so with the other three fixed different words
/// never give the same key, and swapping two words does not either. The token's position is the counter's business.
pub fn seed_for(run_seed: u64, step: u64, prompt: u64, sample: u64) -> [u32; 2] {
    let h = [run_seed, step, prompt, sample]
        .into_iter()
        .fold(0, |h: u64, word| {
            mix((h ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15))
        });
    [h as u32, (h >> 32) as u32]
}

/// A seeded stream for draws on the CPU (data order, splits, initial weights), keyed like the GPU's.
///
/// Any [`rand::Rng`] method works on it. [`Stream::position`] and [`Stream::at`] store and restore it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    /// Words drawn so far.
    drawn: u64,
}

impl Stream {
    /// The stream of `key` for one purpose; different purposes never share a draw.
    pub fn new(key: [u32; 2], purpose: u32) -> Self {
        Self::at(key, purpose, 0)
    }

    /// The stream after `drawn` 32-bit words.
    pub fn at(key: [u32; 2], purpose: u32, drawn: u64) -> Self {
        Self { key, purpose, drawn }
    }

    /// 32-bit words drawn so far.
    pub fn position(&self) -> u64 {
        self.drawn
    }

    fn word(&mut self) -> u32 {
        let block = self.drawn / 4;
        let counter = [block as u32, (block >> 32) as u32, self.purpose, 1];
        let word = philox4x32(counter, self.key)[(self.drawn % 4) as usize];
        self.drawn += 1;
        word
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = self.word();
        Ok(u64::from(low) | u64::from(self.word()) << 32)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(4) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rand::{Rng, RngExt};
    use std::collections::HashSet;

    #[test]
    fn known_answers_of_random123() {
        let ones = u32::MAX;
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([ones; 4], [ones; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_argument_changes_the_key() {
        let mut seen = HashSet::new();
        for run in 0..6 {
            for step in 0..6 {
                for prompt in 0..6 {
                    for sample in 0..64 {
                        assert!(seen.insert(seed_for(run, step, prompt, sample)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_resumes_where_it_was() {
        let key = seed_for(7, 0, 0, 0);
        let mut whole = Stream::new(key, 3);
        let first: Vec<u32> = (0..5).map(|_| whole.next_u32()).collect();
        let rest: Vec<u64> = (0..5).map(|_| whole.next_u64()).collect();
        let mut again = Stream::at(key, 3, 5);
        assert_eq!(rest, (0..5).map(|_| again.next_u64()).collect::<Vec<_>>());
        let mut other = Stream::new(key, 4);
        assert_ne!(first, (0..5).map(|_| other.next_u32()).collect::<Vec<_>>());
        let mean = (0..4000).map(|_| other.random_range(0.0..1.0)).sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mut bytes = [0; 7];
        Stream::new(key, 3).fill_bytes(&mut bytes);
        assert_eq!(bytes[..4], first[0].to_le_bytes());
        assert_eq!(bytes[4..], first[1].to_le_bytes()[..3]);
    }
}
