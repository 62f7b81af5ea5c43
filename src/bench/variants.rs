//! Which variants of an op there are, and how one is forced.
//!
//! A case asks for "every variant of this op for this element type" here and nowhere else: an op that gains a variant
//! gains a line in [`variants`], and one in [`forced`].

use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use crate::tensor::DType;

/// A variant's name in reports; "portable" runs on every adapter.
pub type VariantName = &'static str;

/// The variant every op has.
pub const PORTABLE: VariantName = "portable";

/// The variants of `op` for weights of `dtype` (`None` where it has no weight) that this adapter runs, the portable one
/// first.
pub fn variants(_gpu: &Gpu, _op: &str, _dtype: Option<DType>) -> Vec<VariantName> {
    vec![PORTABLE]
}

/// Records `work` with the op's choice of variant forced to `variant`.
///
/// # Errors
/// What `work` returns.
pub fn forced(
    rec: &mut Recorder,
    _variant: VariantName,
    work: impl FnOnce(&mut Recorder) -> Result<()>,
) -> Result<()> {
    work(rec)
}
