//! Data of the cases: random, but made quickly at any size, and checked in a few places.

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::kernels::harness::Gen;
use crate::kernels::weight::Weight;
use crate::kernels::weight_cases::TestWeight;
use crate::tensor::DType;

/// Values drawn before they repeat; more would take longer to make than to compute with.
const DISTINCT: usize = 1 << 21;

/// `rows × cols` values within ±`scale`; rows repeat after an odd number of them where there are many.
pub(super) struct Matrix {
    block: Vec<f32>,
    block_rows: usize,
    cols: usize,
}

/// Rows that are drawn before they repeat: all where they are few, else an odd number, so that no power-of-two mistake
/// of a row lands on an equal one.
fn distinct(rows: usize, cols: usize) -> usize {
    if rows * cols <= DISTINCT {
        rows
    } else {
        (DISTINCT / cols).max(1) | 1
    }
}

impl Matrix {
    pub(super) fn new(g: &mut Gen, rows: usize, cols: usize, scale: f32) -> Self {
        let block_rows = distinct(rows, cols);
        Self {
            block: g.uniform(block_rows * cols, scale),
            block_rows,
            cols,
        }
    }

    pub(super) fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.block[row % self.block_rows * self.cols + col])
    }

    pub(super) fn row(&self, row: usize) -> Vec<f64> {
        (0..self.cols).map(|c| self.at(row, c)).collect()
    }

    /// The first `rows` rows in full.
    pub(super) fn values(&self, rows: usize) -> Vec<f32> {
        self.block
            .iter()
            .copied()
            .cycle()
            .take(rows * self.cols)
            .collect()
    }

    /// All of it on the device.
    pub(super) fn upload(&self, gpu: &Gpu, rows: usize) -> Result<Buffer> {
        gpu.upload("bench", &self.values(rows))
    }
}

/// A weight on the device and its values on the host.
pub(super) struct BenchWeight {
    pub(super) weight: Weight,
    values: Matrix,
}

impl BenchWeight {
    /// Elements of the order of 1/√cols, so that products stay of order one.
    pub(super) fn new(gpu: &Gpu, g: &mut Gen, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        if !cols.is_multiple_of(dtype.block_len()) {
            return Err(Error::user(format!(
                "rows of {cols} are no whole number of {dtype}'s blocks of {}",
                dtype.block_len()
            )));
        }
        let block_rows = distinct(rows, cols);
        let scale = 1.0 / (cols as f32).sqrt();
        let test = TestWeight::random(g, dtype, block_rows, cols, scale);
        let bytes: Vec<u8> = test
            .bytes
            .iter()
            .copied()
            .cycle()
            .take(rows * dtype.bytes_for(cols))
            .collect();
        Ok(Self {
            weight: Weight::upload(gpu, "bench", dtype, rows, cols, &bytes)?,
            values: Matrix {
                block: test.values(),
                block_rows,
                cols,
            },
        })
    }

    pub(super) fn at(&self, row: usize, col: usize) -> f64 {
        self.values.at(row, col)
    }

    pub(super) fn row(&self, row: usize) -> Vec<f64> {
        self.values.row(row)
    }
}

/// Places of a matrix that are checked: its corners, and others spread over it.
pub(super) fn places(rows: usize, cols: usize) -> Vec<(usize, usize)> {
    let mut out = vec![(0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1)];
    // Steps near the golden section cover both axes evenly.
    out.extend((1..=60).map(|i| (i * 40_503 % rows, i * 75_029 % cols)));
    out
}

/// The largest error relative to the largest expected value.
#[derive(Default)]
pub(super) struct Worst {
    error: f64,
    peak: f64,
}

impl Worst {
    pub(super) fn add(&mut self, got: f32, want: f64) {
        let error = (f64::from(got) - want).abs();
        // A NaN is the worst there is.
        self.error = self.error.max(if error.is_nan() { f64::INFINITY } else { error });
        self.peak = self.peak.max(want.abs());
    }

    pub(super) fn relative(&self) -> f64 {
        self.error / self.peak.max(1e-30)
    }
}

/// One f32 of a buffer.
pub(super) fn one(gpu: &Gpu, buffer: &Buffer, at: usize) -> Result<f32> {
    Ok(gpu.read::<f32>(buffer, at as u64 * 4, 1)?[0])
}

/// An uninitialised output of `n` f32.
pub(super) fn output(gpu: &Gpu, n: usize) -> Result<Buffer> {
    gpu.alloc("bench", n as u64 * 4)
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_peak_and_nan_is_the_worst() {
        let mut w = Worst::default();
        w.add(1.0, 1.5);
        w.add(-10.0, -10.0);
        assert_eq!(w.relative(), 0.05);
        w.add(f32::NAN, 0.0);
        assert_eq!(w.relative(), f64::INFINITY);
        w.add(0.0, 0.0);
        assert_eq!(w.relative(), f64::INFINITY);
    }

    #[test]
    fn places_are_inside_and_reach_the_corners() {
        for (rows, cols) in [(1, 1), (512, 1536), (3, 49152)] {
            let p = places(rows, cols);
            assert!(p.iter().all(|(r, c)| *r < rows && *c < cols));
            assert!(p.contains(&(rows - 1, cols - 1)) && p.len() == 64);
        }
    }
}
