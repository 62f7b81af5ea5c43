//! Which variants of an op there are, and how one is forced.
//!
//! A case asks for "every variant of this op for this element type" here and nowhere else: an op that gains a variant
//! gains a line in [`variants`], and one in [`forced`].

use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use crate::kernels::linear_variants::{FORWARD_VARIANTS, INPUT_GRADIENT_VARIANTS, WEIGHT_GRADIENT_VARIANTS};
use crate::tensor::DType;

/// A variant's name in reports; "portable" runs on every adapter.
pub type VariantName = &'static str;

/// The variant every op has.
pub const PORTABLE: VariantName = "portable";

/// The variants of `op` for weights of `dtype` (`None` where it has no weight) that this adapter runs, the portable one
/// first.
pub fn variants(gpu: &Gpu, op: &str, _dtype: Option<DType>) -> Vec<VariantName> {
    let subgroup8 = gpu.report().subgroups && gpu.report().subgroup_size == (8, 8);
    let all: &[VariantName] = match op {
        "linear_forward" if subgroup8 => &FORWARD_VARIANTS,
        "linear_input_gradient" if subgroup8 => &INPUT_GRADIENT_VARIANTS,
        "linear_weight_gradient" if subgroup8 => &WEIGHT_GRADIENT_VARIANTS,
        _ => &[PORTABLE],
    };
    all.to_vec()
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
