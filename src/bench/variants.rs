//! Which variants of an op there are, and how one is forced.
//!
//! A case asks for "every variant of this op for this element type" here and nowhere else;
//! those of attention are `attention::variants`, which asks for the width of heads.

use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use crate::kernels::linear_variants;
use crate::tensor::DType;

/// A variant's name in reports; "portable" runs on every adapter.
pub type VariantName = &'static str;

/// The variant every op has.
pub const PORTABLE: VariantName = "portable";

/// The variants of `op` for weights of `dtype` (`None` where it has no weight) that this adapter runs, the portable one
/// first.
pub fn variants(gpu: &Gpu, op: &str, _dtype: Option<DType>) -> Vec<VariantName> {
    let all = linear_variants::variants(gpu, op);
    if all.is_empty() { vec![PORTABLE] } else { all }
}

/// Records `work` with the op's choice of variant forced to `variant`.
///
/// # Errors
/// What `work` returns.
pub fn forced(
    rec: &mut Recorder,
    variant: VariantName,
    work: impl FnOnce(&mut Recorder) -> Result<()>,
) -> Result<()> {
    rec.force_variant(Some(variant));
    let result = work(rec);
    rec.force_variant(None);
    result
}
