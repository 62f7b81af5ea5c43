//! What the row reductions share: one workgroup a row, lanes over its columns, a fixed tree at the end.

use crate::gpu::Recorder;

/// WGSL part with `reduce_add`, `reduce_max` and `reduce_count`.
pub(crate) const ROW_REDUCE: &str = include_str!("../../shaders/shared/row_reduce.wgsl");
/// WGSL part with `sortable` and `from_sortable`.
pub(crate) const SORTABLE: &str = include_str!("../../shaders/shared/sortable.wgsl");

/// Lanes of a workgroup that reduces a row: `gpu` (a power of two up to 256), or a SIMD register on a CPU adapter.
/// The order of summation depends on it, and so on the kind of adapter; never on the batch.
pub(crate) fn lanes(rec: &Recorder, gpu: usize) -> usize {
    rec.gpu().caps().lanes(gpu)
}
