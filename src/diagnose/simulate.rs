//! Seeded simulation over threads: the same numbers for any number of threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::rng::seed_for;

/// Replicates that share a generator: the unit of work of a thread.
const CHUNK: u64 = 64;

/// Mean and covariance trace of a vector of `D` numbers over replicates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moments<const D: usize> {
    count: u64,
    sum: [f64; D],
    squares: [f64; D],
}

impl<const D: usize> Moments<D> {
    pub(super) const EMPTY: Self = Self {
        count: 0,
        sum: [0.0; D],
        squares: [0.0; D],
    };

    pub(super) fn add(&mut self, x: [f64; D]) {
        self.count += 1;
        for (i, x) in x.into_iter().enumerate() {
            self.sum[i] += x;
            self.squares[i] += x * x;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        for i in 0..D {
            self.sum[i] += other.sum[i];
            self.squares[i] += other.squares[i];
        }
    }

    pub(super) fn mean(&self) -> [f64; D] {
        self.sum.map(|s| s / self.count as f64)
    }

    /// Trace of the covariance (unbiased).
    pub(super) fn variance(&self) -> f64 {
        let n = self.count as f64;
        let one = |i: usize| (self.squares[i] - self.sum[i] * self.sum[i] / n) / (n - 1.0);
        (0..D).map(one).sum()
    }

    /// Root mean square error of [`Moments::mean`].
    pub(super) fn standard_error(&self) -> f64 {
        (self.variance() / self.count as f64).sqrt()
    }
}

/// Draws of one chunk of replicates.
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    fn new(seed: u64, study: u64, chunk: u64) -> Self {
        let [low, high] = seed_for(seed, study, chunk, 0);
        Self(ChaCha8Rng::seed_from_u64(u64::from(low) | u64::from(high) << 32))
    }

    /// Uniform in (0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        loop {
            let u: f64 = self.0.random();
            if u > 0.0 {
                return u;
            }
        }
    }

    /// Fills `out` with standard normal draws (the polar method of Marsaglia and Bray).
    pub(super) fn normals(&mut self, out: &mut [f64]) {
        for pair in out.chunks_mut(2) {
            let (x, y, s) = loop {
                let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
                let s = x * x + y * y;
                if s < 1.0 && s > 0.0 {
                    break (x, y, s);
                }
            };
            let scale = libm::sqrt(-2.0 * libm::log(s) / s);
            pair[0] = x * scale;
            if let Some(second) = pair.get_mut(1) {
                *second = y * scale;
            }
        }
    }
}

/// Runs `replicates` of a study over the machine's threads and merges what each chunk gathered, in the order of the chunks.
///
/// `work(draws, n)` runs n replicates. The result is a function of (seed, study, replicates) alone.
pub(super) fn replicate<T: Send>(
    seed: u64,
    study: u64,
    replicates: u64,
    work: impl Fn(&mut Draws, u64) -> T + Sync,
    mut merge: impl FnMut(T),
) {
    let chunks = replicates.div_ceil(CHUNK);
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(chunks as usize) {
            scope.spawn(|| {
                loop {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks {
                        break;
                    }
                    let size = CHUNK.min(replicates - chunk * CHUNK);
                    let found = work(&mut Draws::new(seed, study, chunk), size);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((chunk, found));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(chunk, _)| *chunk);
    done.into_iter().for_each(|(_, found)| merge(found));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_normals_are_right_and_repeat() {
        let run = || {
            let mut all = Moments::<2>::EMPTY;
            let work = |draws: &mut Draws, n: u64| {
                let mut part = Moments::EMPTY;
                for _ in 0..n {
                    let mut x = [0.0; 3];
                    draws.normals(&mut x);
                    part.add([x[0], 2.0 * x[2]]);
                }
                part
            };
            replicate(5, 1, 20_000, work, |part| all.merge(&part));
            all
        };
        let all = run();
        assert_eq!(all, run(), "the same for any order of the threads");
        assert_eq!(all.count, 20_000);
        let error = all.standard_error();
        // Var = 1 + 4; the sample variance of 20,000 draws is within 5 standard errors (√(2·17/20000) each).
        assert!(
            (all.variance() - 5.0).abs() < 5.0 * (34.0_f64 / 20_000.0).sqrt(),
            "{}",
            all.variance()
        );
        let mean = all.mean();
        assert!(mean[0].hypot(mean[1]) < 4.0 * error, "{mean:?}");
    }
}
