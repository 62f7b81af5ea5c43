//! Test weights of every element type: bytes in the file format, and what they mean in float64.

use super::harness::{GUARD, Gen, Slot};
use super::quant;
use super::weight::{Shard, Weight, pack, shard_ranges};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::tensor::DType;
use half::f16;
use std::iter::once;
use std::ops::Range;

/// A weight for a case.
pub struct TestWeight {
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Row-major file bytes.
    pub bytes: Vec<u8>,
}

/// Half-precision bit patterns at the edges: zeros, smallest and largest subnormals, smallest normals, one, the largest.
const EDGES: [u16; 12] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x0200, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x3c00, 0x7bff, 0xfbff,
];

/// Byte offsets of a block's f16 fields and how large they may be for elements within ±1.
fn halves(dtype: DType) -> &'static [(usize, f32)] {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => &[],
        DType::Q8_0 => &[(0, 1.0 / 127.0)],
        DType::Q4_0 => &[(0, 1.0 / 8.0)],
        DType::Q4_1 => &[(0, 1.0 / 15.0), (2, 1.0)],
        DType::Q4K => &[(0, 1.0 / (15.0 * 63.0)), (2, 1.0 / 63.0)],
        DType::Q6K => &[(208, 1.0 / (32.0 * 128.0))],
    }
}

/// The rows of each shard of a weight.
pub(super) type Shards = Vec<Range<usize>>;

/// One shard of all rows.
pub(super) fn whole(rows: usize) -> Shards {
    once(0..rows).collect()
}

/// Bytes of a shard that still fits a binding with the guard of a case after it.
pub(super) fn shard_bytes(gpu: &Gpu) -> u64 {
    gpu.caps().max_binding - 4 * GUARD as u64
}

/// The shards of a model's weight, of at most `cap` bytes each.
///
/// # Errors
/// The element type's blocks do not divide the rows, or a shard would have too few of them.
pub(super) fn split(dtype: DType, rows: usize, cols: usize, cap: u64) -> Result<Shards> {
    if !cols.is_multiple_of(dtype.block_len()) {
        return Err(Error::user(format!(
            "rows of {cols} are no whole number of {dtype}'s blocks of {}",
            dtype.block_len()
        )));
    }
    Ok(shard_ranges(dtype, rows, cols, cap).collect())
}

/// The weight whose shards are `buffers`, as [`TestWeight::slots`] filled them.
pub(super) fn on_buffers(
    dtype: DType,
    rows: usize,
    cols: usize,
    shards: &[Range<usize>],
    buffers: &[Buffer],
) -> Weight {
    let shard = |(range, buffer): (&Range<usize>, &Buffer)| Shard {
        first_row: range.start,
        rows: range.len(),
        buffer: buffer.clone(),
    };
    Weight {
        dtype,
        rows,
        cols,
        shards: shards.iter().zip(buffers).map(shard).collect(),
    }
}

/// Elements that are drawn before they repeat: more would take longer to make than to compute with.
const DISTINCT: usize = 1 << 22;

impl TestWeight {
    /// Elements within ±`scale` (Q4_1 and Q4_K: ±2 · `scale`); block formats get random bits in every field. Rows of a large
    /// weight repeat after an odd number of them, so that no mistake of a power of two of rows finds an equal one.
    pub fn random(g: &mut Gen, dtype: DType, rows: usize, cols: usize, scale: f32) -> Self {
        if rows * cols > DISTINCT {
            let part = Self::random(g, dtype, (DISTINCT / cols).max(1) | 1, cols, scale);
            let bytes = part.bytes.iter().copied().cycle();
            return Self {
                rows,
                bytes: bytes.take(rows * dtype.bytes_for(cols)).collect(),
                ..part
            };
        }
        let bytes = if dtype.is_quantized() {
            let mut bytes = random_bytes(g, rows * dtype.bytes_for(cols));
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for (at, most) in halves(dtype) {
                    let value = f16::from_f32(g.uniform(1, scale * most)[0]);
                    block[*at..at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
            bytes
        } else {
            let values = g.uniform(rows * cols, scale);
            quant::quantize(dtype, &values).unwrap_or_default()
        };
        Self {
            dtype,
            rows,
            cols,
            bytes,
        }
    }

    /// Random finite bit patterns, among them every edge of the scales: zeros, subnormals, the largest.
    pub fn extreme(g: &mut Gen, dtype: DType, rows: usize, cols: usize) -> Self {
        let mut weight = Self::random(g, dtype, rows, cols, 1.0);
        let mut edges = EDGES.iter().cycle();
        let mut edge = || edges.next().copied().unwrap_or_default().to_le_bytes();
        match dtype {
            // The upper 16 bits of an f32 are a bf16: the half patterns are normal numbers here.
            DType::F32 => {
                for x in weight.bytes.chunks_exact_mut(12) {
                    x[2..4].copy_from_slice(&edge());
                }
            }
            DType::F16 | DType::BF16 => {
                for x in weight.bytes.chunks_exact_mut(6) {
                    x[..2].copy_from_slice(&edge());
                }
            }
            _ => {
                // Two of three blocks: a prime stride, so that both fields of a block meet every edge.
                for (i, block) in weight.bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
                    for (at, _) in halves(dtype) {
                        let value = edge();
                        if i % 3 != 0 {
                            block[*at..at + 2].copy_from_slice(&value);
                        }
                    }
                }
            }
        }
        weight
    }

    /// The device words of each shard.
    pub(super) fn slots(&self, shards: &[Range<usize>]) -> impl Iterator<Item = Slot> {
        let row = self.dtype.bytes_for(self.cols);
        let words = move |range: &Range<usize>| {
            let bytes = &self.bytes[range.start * row..range.end * row];
            Slot::input(&pack(self.dtype, range.len(), self.cols, bytes))
        };
        shards.iter().map(words)
    }

    /// Rows in f64, without padding.
    pub(super) fn rows_of(&self, rows: &[u32]) -> Vec<f64> {
        let bytes = self.dtype.bytes_for(self.cols);
        let mut out = vec![0.0; self.cols];
        let row = |row: &u32| {
            quant::dequantize(
                self.dtype,
                &self.bytes[*row as usize * bytes..][..bytes],
                &mut out,
            );
            out.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>()
        };
        rows.iter().flat_map(row).collect()
    }

    /// The device words.
    pub fn words(&self) -> Vec<u32> {
        pack(self.dtype, self.rows, self.cols, &self.bytes)
    }

    /// The elements, row-major without padding, by the CPU's bit-exact dequantisation.
    pub fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        quant::dequantize(self.dtype, &self.bytes, &mut out);
        out
    }
}

fn random_bytes(g: &mut Gen, n: usize) -> Vec<u8> {
    g.below(n, 256).into_iter().map(|b| b as u8).collect()
}

/// Columns to test an element type with: odd ones where it allows them, else one block and several.
pub fn test_cols(dtype: DType) -> [usize; 4] {
    match dtype.block_len() {
        1 => [5, 60, 64, 576],
        32 => [32, 64, 96, 576],
        _ => [256, 512, 768, 1024],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::weight::device_bytes;

    /// Nothing is lost and nothing is written twice: sorted bytes are the file's plus zero padding.
    #[test]
    fn pack_keeps_every_byte() {
        for dtype in DType::ALL {
            for rows in [1, 2, 7] {
                let weight = TestWeight::random(&mut Gen::new(3), dtype, rows, test_cols(dtype)[0], 1.0);
                let words = weight.words();
                assert_eq!(
                    words.len() as u64 * 4,
                    device_bytes(dtype, rows, weight.cols),
                    "{dtype}"
                );
                let mut packed: Vec<u8> = bytemuck::cast_slice(&words).to_vec();
                let mut bytes = weight.bytes.clone();
                bytes.resize(packed.len(), 0);
                packed.sort_unstable();
                bytes.sort_unstable();
                assert_eq!(packed, bytes, "{dtype} {rows} rows");
            }
        }
    }

    #[test]
    fn test_weights_are_finite_and_reach_subnormal_scales() {
        for dtype in DType::ALL {
            let weight = TestWeight::extreme(&mut Gen::new(4), dtype, 31, test_cols(dtype)[1]);
            let values = weight.values();
            assert!(values.iter().all(|v| v.is_finite()), "{dtype}");
            let smallest = values
                .iter()
                .filter(|v| **v != 0.0)
                .fold(f32::MAX, |a, v| a.min(v.abs()));
            assert!(smallest < 1e-3, "{dtype}: {smallest}");
        }
    }
}
