//! Conversion between f32 and the stored element types: the CPU twin of the shaders' dequantisation.
//!
//! The block layouts are GGML's. Every operation is one f32 rounding in the order of the `gguf` Python package, so the
//! results equal it bit for bit; a GPU may fuse a multiply with an add and is within one unit in the last place.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::tensor::DType;

/// Sub-blocks of a Q4_K block.
const Q4K_SUBS: usize = 8;

/// Expands `bytes` into `out`.
///
/// # Panics
/// If `out` is not a whole number of blocks or `bytes` has not exactly their size.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        out.len() % dtype.block_len(),
        0,
        "{dtype}: {} elements are not whole blocks",
        out.len()
    );
    assert_eq!(
        bytes.len(),
        dtype.bytes_for(out.len()),
        "{dtype}: bytes for {} elements",
        out.len()
    );
    let blocks = bytes
        .chunks_exact(dtype.block_bytes())
        .zip(out.chunks_exact_mut(dtype.block_len()));
    match dtype {
        DType::F32 => blocks.for_each(|(b, y)| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F16 => blocks.for_each(|(b, y)| y[0] = half_at(b, 0)),
        DType::BF16 => blocks.for_each(|(b, y)| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        DType::Q8_0 => blocks.for_each(|(b, y)| {
            let d = half_at(b, 0);
            for (y, &q) in y.iter_mut().zip(&b[2..]) {
                *y = f32::from(q as i8) * d;
            }
        }),
        DType::Q4_0 => blocks.for_each(|(b, y)| {
            let d = half_at(b, 0);
            let (low, high) = y.split_at_mut(16);
            for (i, &q) in b[2..].iter().enumerate() {
                low[i] = d * (f32::from(q & 15) - 8.0);
                high[i] = d * (f32::from(q >> 4) - 8.0);
            }
        }),
        DType::Q4_1 => blocks.for_each(|(b, y)| {
            let (d, m) = (half_at(b, 0), half_at(b, 2));
            let (low, high) = y.split_at_mut(16);
            for (i, &q) in b[4..].iter().enumerate() {
                low[i] = d * f32::from(q & 15) + m;
                high[i] = d * f32::from(q >> 4) + m;
            }
        }),
        DType::Q4K => blocks.for_each(|(b, y)| q4k_block(b, y)),
        DType::Q6K => blocks.for_each(|(b, y)| q6k_block(b, y)),
    }
}

/// A weight from here on is refused: its square is more than f32 holds, so that norms and attention scores overflow.
pub const TOO_LARGE: f32 = 18_446_744_073_709_551_616.0;

/// Whether a weight can be computed with: it is finite and smaller than [`TOO_LARGE`].
pub fn usable(value: f32) -> bool {
    value.abs() < TOO_LARGE
}

/// The first element that is not [`usable`], or the first of the block that a NaN or infinite scale spoils.
///
/// A value is compared without its sign by adding what carries the bound into the sign's place. Eight bytes are looked at
/// together and without a branch, so that loading is no slower.
pub fn first_unusable(dtype: DType, bytes: &[u8]) -> Option<usize> {
    /// A stretch that is looked at without a branch.
    const STRETCH: usize = 4096;
    let (mask, step, sign): (u64, u64, u64) = match dtype {
        DType::F32 => (
            0x7fff_ffff_7fff_ffff,
            0x2080_0000_2080_0000,
            0x8000_0000_8000_0000,
        ),
        DType::F16 => (
            0x7fff_7fff_7fff_7fff,
            0x0400_0400_0400_0400,
            0x8000_8000_8000_8000,
        ),
        DType::BF16 => (
            0x7fff_7fff_7fff_7fff,
            0x2080_2080_2080_2080,
            0x8000_8000_8000_8000,
        ),
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 | DType::Q4K | DType::Q6K => {
            let scales: &[usize] = match dtype {
                DType::Q4_1 | DType::Q4K => &[0, 2],
                DType::Q6K => &[208],
                _ => &[0],
            };
            let bad = |block: &[u8]| scales.iter().any(|at| block[at + 1] & 0x7c == 0x7c);
            let block = bytes.chunks_exact(dtype.block_bytes()).position(bad)?;
            return Some(block * dtype.block_len());
        }
    };
    for (i, stretch) in bytes.chunks(STRETCH).enumerate() {
        let words = stretch.chunks_exact(8);
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        let carries = |word: u64| (word & mask).wrapping_add(step);
        let mut any = carries(u64::from_le_bytes(last));
        for word in words {
            let mut eight = [0; 8];
            eight.copy_from_slice(word);
            any |= carries(u64::from_le_bytes(eight));
        }
        if any & sign != 0 {
            let mut values = vec![0.0; stretch.len() / dtype.block_bytes()];
            dequantize(dtype, stretch, &mut values);
            let at = values.iter().position(|v| !usable(*v))?;
            return Some(i * STRETCH / dtype.block_bytes() + at);
        }
    }
    None
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of sub-block `j` from the 12 packed bytes: the first four lie whole in bytes 0..4 and
/// 4..8; the other four have their low nibbles in bytes 8..12 and their high bits atop bytes 0..8.
fn q4k_scale_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (
            (low & 15) | ((packed[j - 4] >> 2) & 0x30),
            (low >> 4) | ((packed[j] >> 2) & 0x30),
        )
    }
}

/// d f16, dmin f16, 12 bytes of scales and minima, 128 bytes of nibbles (sub-blocks 2i and 2i+1 share 32 bytes).
fn q4k_block(b: &[u8], y: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    let (packed, nibbles) = (&b[4..16], &b[16..]);
    for j in 0..Q4K_SUBS {
        let (sc, m) = q4k_scale_min(packed, j);
        let (scale, min) = (d * f32::from(sc), dmin * f32::from(m));
        let shift = 4 * (j % 2);
        for i in 0..32 {
            let q = (nibbles[32 * (j / 2) + i] >> shift) & 15;
            y[32 * j + i] = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, d f16. Each half of the block is four runs of
/// 32: nibbles of 64 bytes (low nibbles are runs 0 and 1, high ones 2 and 3), bit pairs of 32 bytes, two bits a run.
fn q6k_block(b: &[u8], y: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (e, y) in y.iter_mut().enumerate() {
        let (half, run, i) = (e / 128, (e % 128) / 32, e % 32);
        let nibble = (low[64 * half + 32 * (run % 2) + i] >> (4 * (run / 2))) & 15;
        let pair = (high[32 * half + i] >> (2 * run)) & 3;
        let q = f32::from(nibble | (pair << 4)) - 32.0;
        *y = (d * f32::from(scales[e / 16] as i8)) * q;
    }
}

/// Compresses f32 values; rounding to nearest even for f16 and bf16, the `gguf` package's rules for Q8_0 and Q4_0.
///
/// # Errors
/// A user error when `dtype` is a type this program reads but does not write, or when the length is not whole blocks.
pub fn quantize(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    if !values.len().is_multiple_of(dtype.block_len()) {
        return Err(Error::user(format!(
            "{} values cannot be stored as {dtype}, which needs a multiple of {}; choose f16, bf16 or f32",
            values.len(),
            dtype.block_len()
        )));
    }
    let mut out = Vec::with_capacity(dtype.bytes_for(values.len()));
    match dtype {
        DType::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
        DType::F16 => values
            .iter()
            .for_each(|v| out.extend(f16::from_f32(*v).to_le_bytes())),
        DType::BF16 => values
            .iter()
            .for_each(|v| out.extend(bf16::from_f32(*v).to_le_bytes())),
        DType::Q8_0 => values.chunks_exact(32).for_each(|x| q8_0_quantize(x, &mut out)),
        DType::Q4_0 => values.chunks_exact(32).for_each(|x| q4_0_quantize(x, &mut out)),
        DType::Q4_1 | DType::Q4K | DType::Q6K => {
            return Err(Error::user(format!(
                "weights cannot be converted to {dtype}; choose f32, f16, bf16, q8_0 or q4_0, or a GGUF file that is {dtype} already"
            )));
        }
    }
    Ok(out)
}

fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn q8_0_quantize(x: &[f32], out: &mut Vec<u8>) {
    let amax = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let d = amax / 127.0;
    let inverse = reciprocal(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(x.iter().map(|v| (v * inverse).round() as i8 as u8));
}

fn q4_0_quantize(x: &[f32], out: &mut Vec<u8>) {
    let mut extreme = x[0];
    for v in x {
        if v.abs() > extreme.abs() {
            extreme = *v;
        }
    }
    let d = extreme / -8.0;
    let inverse = reciprocal(d);
    out.extend(f16::from_f32(d).to_le_bytes());
    let nibble = |v: f32| ((v * inverse + 8.5).trunc() as u8).min(15);
    out.extend(
        x[..16]
            .iter()
            .zip(&x[16..])
            .map(|(a, b)| nibble(*a) | (nibble(*b) << 4)),
    );
}

/// Converts between element types by way of f32; the same type is copied.
///
/// # Errors
/// As [`quantize`].
pub fn convert(from: DType, bytes: &[u8], elements: usize, to: DType) -> Result<Vec<u8>> {
    if from == to {
        return Ok(bytes.to_vec());
    }
    let mut values = vec![0.0; elements];
    dequantize(from, bytes, &mut values);
    quantize(to, &values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use safetensors::SafeTensors;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/quant.safetensors");

    fn golden_f32(file: &SafeTensors, name: &str) -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn dequantize_equals_gguf_package_bit_for_bit() {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        for dtype in DType::ALL.into_iter().filter(|d| *d != DType::F32) {
            let bytes = file.tensor(&format!("{dtype}.bytes")).unwrap().data().to_vec();
            let want = golden_f32(&file, &format!("{dtype}.values"));
            let mut got = vec![f32::NAN; want.len()];
            dequantize(dtype, &bytes, &mut got);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert_eq!(g.to_bits(), w.to_bits(), "{dtype} element {i}: {g} is not {w}");
            }
        }
    }

    #[test]
    fn unusable_values_are_found_wherever_they_are() {
        let n = 5000;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // The largest usable values of either sign pass.
            let most = match dtype {
                DType::F32 => TOO_LARGE.next_down(),
                DType::F16 => f16::MAX.to_f32(),
                _ => TOO_LARGE * 0.99,
            };
            let fine: Vec<f32> = (0..n).map(|i| [most, -most, 0.0, -1e-8][i % 4]).collect();
            let bytes = quantize(dtype, &fine).unwrap();
            assert_eq!(first_unusable(dtype, &bytes), None, "{dtype}");
            for at in [0, 1, 2, 3, 1023, 1024, 2047, 2048, n - 1] {
                for bad in [
                    f32::NAN,
                    -f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    TOO_LARGE,
                    -3e38,
                ] {
                    let mut values = fine.clone();
                    values[at] = bad;
                    let bytes = quantize(dtype, &values).unwrap();
                    assert_eq!(first_unusable(dtype, &bytes), Some(at), "{dtype} {bad}");
                }
            }
        }
        for (dtype, scales) in [
            (DType::Q8_0, &[0][..]),
            (DType::Q4_0, &[0]),
            (DType::Q4_1, &[0, 2]),
            (DType::Q4K, &[0, 2]),
            (DType::Q6K, &[208]),
        ] {
            let size = dtype.block_bytes();
            // Quants may be anything.
            let mut bytes = vec![0xff; 3 * size];
            for block in bytes.chunks_exact_mut(size) {
                for at in scales {
                    block[*at..at + 2].copy_from_slice(&f16::MAX.to_le_bytes());
                }
            }
            assert_eq!(first_unusable(dtype, &bytes), None, "{dtype}");
            for at in scales {
                for bad in [f16::NAN, f16::NEG_INFINITY] {
                    let mut bytes = bytes.clone();
                    bytes[size + at..size + at + 2].copy_from_slice(&bad.to_le_bytes());
                    assert_eq!(first_unusable(dtype, &bytes), Some(dtype.block_len()), "{dtype}");
                }
            }
        }
    }

    #[test]
    fn quantize_equals_gguf_package_bit_for_bit() {
        let file = SafeTensors::deserialize(GOLDEN).unwrap();
        let input = golden_f32(&file, "input");
        for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let want = file
                .tensor(&format!("{dtype}.quantized"))
                .unwrap()
                .data()
                .to_vec();
            let got = quantize(dtype, &input).unwrap();
            assert_eq!(got.len(), want.len());
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert_eq!(g, w, "{dtype} byte {i}, block {}", i / dtype.block_bytes());
            }
        }
    }

    #[test]
    fn f32_round_trips_and_bad_targets_are_user_errors() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE / 4.0, 3e38];
        let bytes = quantize(DType::F32, &values).unwrap();
        let mut back = [0.0; 4];
        dequantize(DType::F32, &bytes, &mut back);
        assert_eq!(values.map(f32::to_bits), back.map(f32::to_bits));

        let partial = quantize(DType::Q8_0, &[0.0; 40]).unwrap_err();
        assert!(partial.to_string().contains("multiple of 32"), "{partial}");
        let unwritable = quantize(DType::Q6K, &[0.0; 256]).unwrap_err();
        assert!(unwritable.to_string().contains("q6_k"), "{unwritable}");
        assert_eq!(unwritable.exit_code(), 2);
        assert_eq!(
            convert(DType::Q4_1, &[7; 20], 32, DType::Q4_1).unwrap(),
            vec![7; 20]
        );
    }
}
