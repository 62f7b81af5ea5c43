//! What the row reductions share: one workgroup a row, lanes over its columns, a fixed tree at the end.

use crate::gpu::Recorder;

/// Lanes of a workgroup that reduces a row: `gpu` (a power of two up to 256), or a SIMD register on a CPU adapter.
/// The order of summation depends on it, and so on the kind of adapter; never on the batch.
pub(crate) fn lanes(rec: &Recorder, gpu: usize) -> usize {
    rec.gpu().caps().lanes(gpu)
}
