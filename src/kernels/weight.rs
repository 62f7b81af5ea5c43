//! Weight matrices on the GPU: f32, f16, bf16 or GGUF blocks, split into shards that fit a binding.
//!
//! Device layout of one shard, in 32-bit words (`shared/weight.wgsl` reads it):
//! * f32, f16, bf16: rows padded to four elements.
//! * Block formats: first the quants of every block (word aligned), then a section with every block's scales
//!   (Q6_K: the 16 signed bytes of every block, then the f16 of every block).
//!   The same bytes as in the file, in another order, so nothing is unpacked in memory.

use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Kernel, Recorder};
use crate::kernels::pad4;
use crate::tensor::DType;
use std::borrow::Cow;
use std::ops::Range;

/// A kernel for every element type of the weight, in the order of [`DType::ALL`]: the shader, its shared parts with
/// `shared/weight.wgsl`, and what the variant sets; `SEVERAL` where it reads several weights.
macro_rules! weight_kernels {
    ($op:literal, $file:literal) => {
        weight_kernels!({ portable }, $op, [$file, "shared/weight.wgsl"], [])
    };
    ($make:tt, $op:expr, [$($file:literal),* $(,)?], $values:tt) => {
        weight_kernels!(@types $make ($op) [$($file),*] $values
            (F32, "f32", false),
            (F16, "f16", false),
            (BF16, "bf16", false),
            (Q8_0, "q8_0", true),
            (Q4_0, "q4_0", true),
            (Q4_1, "q4_1", true),
            (Q4K, "q4_k", true),
            (Q6K, "q6_k", true))
    };
    (@types $make:tt ($op:expr) $files:tt $values:tt $(($dtype:ident, $name:literal, $blocks:literal)),*) => {
        [$((
            crate::tensor::DType::$dtype,
            weight_kernels!(@one $make concat!($op, "_", $name), $files $values, $name, $blocks),
        )),*]
    };
    (@one { $make:ident $(($side:literal))? } $op:expr, [$($file:literal),*] [$($set:expr),*], $name:literal, $blocks:literal) => {
        &crate::gpu::Kernel::$make($op, crate::gpu::shaders![$($file),*] $(, $side)?).with(&[
            $($set,)*
            ("DTYPE", crate::gpu::Value::Word($name)),
            ("BLOCKS", crate::gpu::Value::Flag($blocks)),
        ])
    };
}
pub(crate) use weight_kernels;

/// One kernel for each element type.
pub(crate) type ByType = [(DType, &'static Kernel); DType::ALL.len()];

/// The kernel of an element type.
pub(crate) fn of(table: &[(DType, &'static Kernel)], dtype: DType) -> &'static Kernel {
    table
        .iter()
        .find(|(d, _)| *d == dtype)
        .map_or(table[0].1, |(_, k)| k)
}

/// Table entries of a kernel for each element type; the case function takes the type's index in [`DType::ALL`].
macro_rules! weight_entries {
    ($table:expr, $cases:ident) => {
        $table
            .iter()
            .zip([
                $cases::<0> as fn() -> Vec<$crate::kernels::harness::Case>,
                $cases::<1>,
                $cases::<2>,
                $cases::<3>,
                $cases::<4>,
                $cases::<5>,
                $cases::<6>,
                $cases::<7>,
            ])
            .map(|((_, kernel), cases)| $crate::kernels::Entry::new(kernel, cases))
    };
}
pub(crate) use weight_entries;

/// Threads that [`linear`](super::linear) and its like use along the columns of a GPU: a few subgroups.
pub const GPU_LANES: usize = 64;

/// Threads along the columns: [`GPU_LANES`], or one SIMD register on a CPU adapter.
pub(crate) fn lanes(rec: &Recorder) -> usize {
    rec.gpu().caps().lanes(GPU_LANES)
}

/// Shard boundaries are multiples of this many rows, so that vocabulary chunks never straddle two shards.
pub const SHARD_ROWS: usize = 4096;

/// Bytes of a weight that are on their way to the device at once: few enough to stay in a CPU's cache.
pub const PIECE_BYTES: usize = 1 << 20;

/// Rows `first_row .. first_row + rows` of a weight.
#[derive(Debug, Clone)]
pub struct Shard {
    /// First row held.
    pub first_row: usize,
    /// Rows held.
    pub rows: usize,
    /// The words.
    pub buffer: Buffer,
}

/// A weight matrix `(rows, cols)` = (out, in), as Hugging Face stores linear layers and embeddings.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Element type on the device.
    pub dtype: DType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The pieces, in row order.
    pub shards: Vec<Shard>,
}

/// How a block's bytes are spread over the sections.
struct Block {
    /// Words of quants.
    quant_words: usize,
    /// Bytes of scales a block has in the section after the quants.
    scale_bytes: usize,
}

fn block(dtype: DType) -> Option<Block> {
    let (quant_words, scale_bytes) = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => return None,
        DType::Q8_0 => (8, 2),
        DType::Q4_0 => (4, 2),
        DType::Q4_1 => (4, 4),
        DType::Q4K => (32, 16),
        DType::Q6K => (48, 18),
    };
    Some(Block {
        quant_words,
        scale_bytes,
    })
}

/// Words of the section before the scales for `rows` rows (0 for plain types).
pub fn section_words(dtype: DType, rows: usize, cols: usize) -> usize {
    block(dtype).map_or(0, |b| rows * (cols / dtype.block_len()) * b.quant_words)
}

/// Bytes on the device for `rows` rows of `cols` columns, one shard.
pub fn device_bytes(dtype: DType, rows: usize, cols: usize) -> u64 {
    let bytes = match block(dtype) {
        None => rows * pad4(cols) * dtype.block_bytes(),
        Some(b) => {
            let blocks = rows * (cols / dtype.block_len());
            blocks * b.quant_words * 4 + (blocks * b.scale_bytes).next_multiple_of(4)
        }
    };
    bytes.next_multiple_of(4) as u64
}

/// The row ranges that `rows` rows are split into so that each fits `cap` bytes, or has [`SHARD_ROWS`] rows at most.
pub(super) fn shard_ranges(
    dtype: DType,
    rows: usize,
    cols: usize,
    cap: u64,
) -> impl Iterator<Item = Range<usize>> {
    let per = if device_bytes(dtype, rows, cols) <= cap {
        rows
    } else {
        (cap / device_bytes(dtype, SHARD_ROWS, cols).max(1)).max(1) as usize * SHARD_ROWS
    };
    (0..rows).step_by(per.max(1)).map(move |r| r..rows.min(r + per))
}

impl Weight {
    /// A weight of one shard on a buffer that holds [`pack`]ed words already.
    pub fn from_buffer(dtype: DType, rows: usize, cols: usize, buffer: Buffer) -> Self {
        let shard = Shard {
            first_row: 0,
            rows,
            buffer,
        };
        Self {
            dtype,
            rows,
            cols,
            shards: vec![shard],
        }
    }

    /// Uploads a row-major matrix in its file format.
    ///
    /// # Errors
    /// `bytes` has the wrong length, a block format does not divide the columns, or out of memory.
    pub fn upload(
        gpu: &Gpu,
        label: &str,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Self> {
        Self::upload_split(gpu, label, dtype, rows, cols, bytes, gpu.caps().max_binding)
    }

    /// As [`Weight::upload`] with an explicit cap on a shard's bytes.
    ///
    /// # Errors
    /// As [`Weight::upload`].
    pub fn upload_split(
        gpu: &Gpu,
        label: &str,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        cap: u64,
    ) -> Result<Self> {
        if !cols.is_multiple_of(dtype.block_len()) || bytes.len() != rows * dtype.bytes_for(cols) {
            return Err(Error::user(format!(
                "{label}: {} bytes do not make {rows} × {cols} of {}",
                bytes.len(),
                dtype.name()
            )));
        }
        let weight = Self::unwritten(gpu, label, dtype, rows, cols, cap)?;
        // An even number of rows.
        let piece = (PIECE_BYTES / dtype.bytes_for(cols).max(1)).max(2) & !1;
        for (i, bytes) in bytes.chunks(piece * dtype.bytes_for(cols).max(1)).enumerate() {
            weight.write_rows(gpu, i * piece, bytes);
        }
        Ok(weight)
    }

    /// A weight whose rows are still to be written, with a cap on a shard's bytes.
    ///
    /// # Errors
    /// Out of memory.
    pub fn unwritten(
        gpu: &Gpu,
        label: &str,
        dtype: DType,
        rows: usize,
        cols: usize,
        cap: u64,
    ) -> Result<Self> {
        let shard = |r: Range<usize>| {
            let bytes = device_bytes(dtype, r.len(), cols);
            if bytes > cap {
                let what = format!("{} rows of a {} matrix of {cols} columns", r.len(), dtype.name());
                gpu.must_bind(&what, bytes)?;
            }
            Ok(Shard {
                first_row: r.start,
                rows: r.len(),
                buffer: gpu.alloc(label, bytes)?,
            })
        };
        Ok(Self {
            dtype,
            rows,
            cols,
            shards: shard_ranges(dtype, rows, cols, cap)
                .map(shard)
                .collect::<Result<_>>()?,
        })
    }

    /// Writes whole rows in their file format, from row `first` on, before anything submitted later. `first` is even: two
    /// rows of blocks fill whole words.
    pub fn write_rows(&self, gpu: &Gpu, first: usize, bytes: &[u8]) {
        let row = self.dtype.bytes_for(self.cols).max(1);
        for (shard, at, rows, from) in self.parts(first..first + bytes.len() / row) {
            let bytes = &bytes[from * row..(from + rows) * row];
            for (offset, section) in sections(self.dtype, shard.rows, self.cols, at, bytes) {
                gpu.write(&shard.buffer, offset as u64, &section);
            }
        }
    }

    /// A zeroed f32 weight (a trainable tensor, a gradient, optimiser state).
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros(gpu: &Gpu, label: &str, rows: usize, cols: usize) -> Result<Self> {
        Self::unwritten(gpu, label, DType::F32, rows, cols, gpu.caps().max_binding)
    }

    /// Reads an f32 weight back, without the padding.
    ///
    /// # Errors
    /// The weight is not f32, or the device failed.
    pub fn read_f32(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        if self.dtype != DType::F32 {
            return Err(Error::internal("read_f32 of a weight that is not f32"));
        }
        let ld = pad4(self.cols);
        let mut out = Vec::with_capacity(self.rows * self.cols);
        for shard in &self.shards {
            let padded: Vec<f32> = gpu.read(&shard.buffer, 0, shard.rows * ld)?;
            out.extend(padded.chunks_exact(ld).flat_map(|row| &row[..self.cols]));
        }
        Ok(out)
    }

    /// The pieces of rows `range`: shard, first row within the shard, rows, first row within `range`.
    pub(crate) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (&Shard, usize, usize, usize)> {
        self.shards.iter().filter_map(move |s| {
            let (from, to) = (range.start.max(s.first_row), range.end.min(s.first_row + s.rows));
            (from < to).then(|| (s, from - s.first_row, to - from, from - range.start))
        })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.buffer.bytes()).sum()
    }
}

/// File bytes → device words.
pub fn pack(dtype: DType, rows: usize, cols: usize, bytes: &[u8]) -> Vec<u32> {
    let mut words = vec![0; device_bytes(dtype, rows, cols) as usize / 4];
    let out: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    for (offset, section) in sections(dtype, rows, cols, 0, bytes) {
        out[offset..offset + section.len()].copy_from_slice(&section);
    }
    words
}

/// Rows of a shard in file format → what is written for them: byte offsets in the shard, and bytes.
fn sections(
    dtype: DType,
    shard_rows: usize,
    cols: usize,
    first: usize,
    bytes: &[u8],
) -> Vec<(usize, Cow<'_, [u8]>)> {
    let Some(b) = block(dtype) else {
        let (from, to) = (dtype.bytes_for(cols), pad4(cols) * dtype.block_bytes());
        if from == to {
            return vec![(first * to, Cow::Borrowed(bytes))];
        }
        let mut out = vec![0; bytes.len() / from.max(1) * to];
        for (source, target) in bytes.chunks_exact(from).zip(out.chunks_exact_mut(to)) {
            target[..from].copy_from_slice(source);
        }
        return vec![(first * to, Cow::Owned(out))];
    };
    // The byte runs of a block, in the order of the sections.
    let runs = if dtype == DType::Q6K {
        vec![0..192, 192..208, 208..210]
    } else {
        vec![b.scale_bytes..dtype.block_bytes(), 0..b.scale_bytes]
    };
    let row_blocks = cols / dtype.block_len();
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    let mut start = 0;
    runs.into_iter()
        .map(|run| {
            let mut out = Vec::with_capacity(blocks.len() * run.len());
            for block in blocks.clone() {
                out.extend_from_slice(&block[run.clone()]);
            }
            let offset = start + first * row_blocks * run.len();
            start += shard_rows * row_blocks * run.len();
            (offset, Cow::Owned(out))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight that is written in pieces has the bytes of one that is packed whole.
    #[test]
    fn pieces_are_laid_out_as_the_whole() {
        for dtype in DType::ALL {
            // Columns that need padding where the type has no blocks.
            let (rows, cols) = (
                7,
                if dtype.block_len() == 1 {
                    6
                } else {
                    2 * dtype.block_len()
                },
            );
            let row = dtype.bytes_for(cols);
            let bytes: Vec<u8> = (0..rows * row).map(|i| (i * 7 + i / 256) as u8).collect();
            let whole = pack(dtype, rows, cols, &bytes);
            let mut out = vec![0u8; whole.len() * 4];
            for (i, piece) in bytes.chunks(2 * row).enumerate() {
                for (offset, section) in sections(dtype, rows, cols, 2 * i, piece) {
                    assert_eq!(offset % 4, 0, "{dtype}");
                    out[offset..offset + section.len()].copy_from_slice(&section);
                }
            }
            assert_eq!(out, bytemuck::cast_slice::<u32, u8>(&whole), "{dtype}");
        }
    }
}
