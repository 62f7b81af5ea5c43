//! How a cache stores keys and values: in f32, or in halves, two neighbouring elements a word (`shared/kv_*.wgsl`).
//!
//! A value is rounded once, when it is stored, to the nearest half, ties to even. Finite values beyond ±65504 are taken as ±65504,
//! what is not finite stays so. Subnormal halves are left out (below 2⁻¹⁵ a value becomes 0, from there to 2⁻¹⁴ that), because
//! `unpack2x16float` may flush them: what is read back is then the same on every driver.

use super::harness::wide;
use crate::config::FloatDtype;
use crate::gpu::Buffer;
use half::f16;

/// Keys and values of one layer in a cache.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// (rows, KV·D)
    pub k: &'a Buffer,
    /// (rows, KV·D)
    pub v: &'a Buffer,
    /// The elements of both.
    pub dtype: FloatDtype,
}

/// The smallest half that is not subnormal, 2⁻¹⁴.
const LEAST: f32 = 1.0 / 16_384.0;

/// The half that stands for `x`.
fn half_of(x: f32) -> f16 {
    let size = x.abs();
    let stored = if size < LEAST / 2.0 {
        0.0
    } else if size.is_finite() {
        size.clamp(LEAST, 65_504.0)
    } else {
        size
    };
    f16::from_f32(stored.copysign(x))
}

/// What is read back of `x`.
pub fn rounded(x: f64, dtype: FloatDtype) -> f64 {
    match dtype {
        FloatDtype::Float32 => x,
        FloatDtype::Float16 => f64::from(half_of(x as f32)),
    }
}

/// What is read back of `values`.
pub fn read_back(values: &[f32], dtype: FloatDtype) -> Vec<f64> {
    wide(values).into_iter().map(|x| rounded(x, dtype)).collect()
}

/// The words of a cache that holds `values`, an even number of them.
pub fn stored(values: &[f32], dtype: FloatDtype) -> Vec<u32> {
    let bits = |x: f32| u32::from(half_of(x).to_bits());
    match dtype {
        FloatDtype::Float32 => values.iter().map(|x| x.to_bits()).collect(),
        FloatDtype::Float16 => values.chunks(2).map(|x| bits(x[0]) | bits(x[1]) << 16).collect(),
    }
}

/// The two halves of a word, the first in the low bits.
pub(super) fn halves(word: u32) -> [f32; 2] {
    [word & 0xffff, word >> 16].map(|bits| f16::from_bits(bits as u16).to_f32())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_value_becomes_the_nearest_half_that_is_not_subnormal() {
        let half = |x: f64| rounded(x, FloatDtype::Float16);
        let ulp = 1.0 / 1024.0;
        for (x, want) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (1.0 + 0.4 * ulp, 1.0),
            // Ties to even.
            (1.0 + 0.5 * ulp, 1.0),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (65_504.0, 65_504.0),
            (65_519.0, 65_504.0),
            (1e30, 65_504.0),
            (f64::from(LEAST), f64::from(LEAST)),
            (f64::from(LEAST) * 0.7, f64::from(LEAST)),
            (f64::from(LEAST) * 0.5, f64::from(LEAST)),
            (f64::from(LEAST) * 0.499, 0.0),
            (f64::INFINITY, f64::INFINITY),
        ] {
            assert_eq!((half(x), half(-x)), (want, -want), "{x}");
        }
        assert!(half(f64::NAN).is_nan());
        assert_eq!(rounded(0.1, FloatDtype::Float32), 0.1);
    }

    #[test]
    fn words_hold_neighbours() {
        let values = [1.5f32, -2.25, 7e4, 1e-6];
        let words = stored(&values, FloatDtype::Float16);
        assert_eq!(words, [0xc080_3e00, 0x0000_7bff]);
        let back: Vec<f64> = words.iter().flat_map(|w| halves(*w)).map(f64::from).collect();
        assert_eq!(back, read_back(&values, FloatDtype::Float16));
        assert_eq!(stored(&values, FloatDtype::Float32), values.map(f32::to_bits));
    }
}
