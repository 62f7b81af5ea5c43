//! Which variants of an op there are, and how one is forced.
//!
//! A case asks for "every variant of this op for this element type" here and nowhere else: an op that gains a variant
//! gains a line in [`variants`], and one in [`forced`].

use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use crate::kernels::attention::{self, coop, decode};
use crate::kernels::linear_variants;
use crate::tensor::DType;

/// A variant's name in reports; "portable" runs on every adapter.
pub type VariantName = &'static str;

/// The variant every op has.
pub const PORTABLE: VariantName = "portable";

/// The variants of `op` for weights of `dtype` (`None` where it has no weight) that this adapter runs, the portable one
/// first.
pub fn variants(gpu: &Gpu, op: &str, _dtype: Option<DType>) -> Vec<VariantName> {
    if op == decode::OP {
        return decode::variants(gpu);
    }
    if attention::OPS.contains(&op) {
        let mut all = attention::VARIANTS.to_vec();
        if op == attention::BACKWARD_OP {
            all.extend(coop::variants(gpu));
        }
        // The case leaves out those that are not for its model's heads.
        all.retain(|v| attention::runs(gpu, v, 0));
        return all;
    }
    let linear = linear_variants::variants(gpu, op);
    if linear.is_empty() { vec![PORTABLE] } else { linear }
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
