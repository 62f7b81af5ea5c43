//! Shape, element type and buffer handle; no maths.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How a weight's elements are stored, in memory and in files.
///
/// The block formats are GGML's: a block of [`DType::block_len`] consecutive elements of a row shares its scales and
/// takes [`DType::block_bytes`] bytes, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// 32 signed bytes and an f16 scale.
    Q8_0,
    /// 32 four-bit values offset by 8 and an f16 scale.
    Q4_0,
    /// 32 four-bit values, an f16 scale and an f16 minimum.
    Q4_1,
    /// 256 four-bit values in 8 sub-blocks with 6-bit scales and minima.
    Q4K,
    /// 256 six-bit values in 16 sub-blocks with 8-bit scales.
    Q6K,
}

impl DType {
    /// Every element type, in the order of declaration.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q4K,
        Self::Q6K,
    ];

    /// Elements in a block (1 for the plain types).
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Whether several elements share a block.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes that `elements` elements take; a partial last block counts whole.
    pub const fn bytes_for(self, elements: usize) -> usize {
        elements.div_ceil(self.block_len()) * self.block_bytes()
    }

    /// The name used in flags, logs and reports ("f32", "q4_k", …).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q4K => "q4_k",
            Self::Q6K => "q6_k",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|d| d.name() == lower).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|d| d.name()).collect();
            Error::user(format!(
                "unknown element type {text:?}; known: {}",
                known.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn dtype_sizes_and_names() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
            assert_eq!(dtype.bytes_for(0), 0);
            assert_eq!(
                dtype.bytes_for(512),
                512 / dtype.block_len() * dtype.block_bytes()
            );
            assert_eq!(dtype.bytes_for(dtype.block_len() + 1), 2 * dtype.block_bytes());
        }
        assert_eq!("Q4_K".parse::<DType>().unwrap(), DType::Q4K);
        assert!("i8".parse::<DType>().unwrap_err().to_string().contains("q4_0"));
    }
}
