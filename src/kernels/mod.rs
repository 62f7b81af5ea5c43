//! One file an op: parameters, record functions, float64 CPU twin, test cases. This file is the table of them.
//!
//! Layout conventions: activations are row-major f32 with a row stride padded to a multiple of four ([`pad4`]);
//! a kernel that produces odd rows writes zeros into the padding. Letters: B batch, M rows (tokens), T time,
//! C channels, H heads, V vocabulary, R rank, G group.
//!
//! **Batch invariance.** The order in which a reduction adds its terms depends on the op and on the position
//! along the reduced axis alone, never on how many rows share the dispatch. The same row therefore gives the
//! same bits in sampling, scoring and training.

pub mod adamw;
pub mod adamw_8bit;
pub mod advance;
pub mod attention;
pub mod ceiling;
pub mod dequantize;
pub mod elementwise;
pub mod embedding;
pub mod group_advantage;
pub mod group_rewards;
pub mod half_words;
pub mod harness;
pub mod head;
pub mod kv;
pub mod linear;
mod linear_cases;
pub mod linear_fused;
mod linear_fused_cases;
mod linear_half;
mod linear_kernels;
pub mod linear_variants;
pub mod philox;
pub mod policy_loss;
pub mod quant;
pub(crate) mod reduce;
pub mod rmsnorm;
pub mod rope;
mod rope_cases;
pub mod rows;
pub mod sample;
pub mod supervised_loss;
pub mod tune;
pub mod weight;
pub mod weight_cases;
pub mod work;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel};
use harness::Case;
use work::{Wanted, Work};

/// Refuses a `TEA_VARIANT` that is no variant's name, or that of one this adapter does not run: a
/// measurement would carry the name of what did not run. An op without the variant chooses its own.
///
/// # Errors
/// A user error with the names that this adapter runs.
pub fn check_forced(gpu: &Gpu) -> Result<()> {
    let Some(forced) = gpu.forced_variant() else {
        return Ok(());
    };
    let runs = variants(gpu);
    if runs.contains(&forced) {
        return Ok(());
    }
    let why = match all_variants().contains(&forced) {
        true => format!("which {} does not run", gpu.report().name),
        false => "and no kernel has a variant of this name".to_string(),
    };
    Err(Error::user(format!(
        "TEA_VARIANT is {forced:?}, {why}; use one of {}, or unset it",
        runs.join(", ")
    )))
}

/// As [`check_forced`], of names that no kernel has, on any adapter.
///
/// # Errors
/// As [`check_forced`].
pub fn check_forced_name(gpu: &Gpu) -> Result<()> {
    match gpu.forced_variant() {
        Some(forced) if !all_variants().contains(&forced) => check_forced(gpu),
        _ => Ok(()),
    }
}

/// The names of all variants of all ops, once each.
fn all_variants() -> Vec<&'static str> {
    once(linear_variants::names(None).chain(attention::names()))
}

/// Those of [`all_variants`] that this adapter runs for some op.
fn variants(gpu: &Gpu) -> Vec<&'static str> {
    let linear = linear_variants::OPS
        .iter()
        .flat_map(|op| linear_variants::variants(gpu, op));
    let attention = attention::OPS
        .iter()
        .flat_map(|op| attention::variants(gpu, op, 0));
    once(linear.chain(attention))
}

fn once(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut all = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// A kernel's row in the table.
pub struct Entry {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Its test and bench cases; every case runs the kernel through its public record function.
    pub cases: Cases,
}

/// What makes an entry's cases.
pub type Cases = Box<dyn Fn() -> Vec<Case> + Send + Sync>;

impl Entry {
    /// A row.
    pub fn new(kernel: &'static Kernel, cases: impl Fn() -> Vec<Case> + Send + Sync + 'static) -> Self {
        let cases = Box::new(cases);
        Self { kernel, cases }
    }
}

/// The kernels of a file, and the work that its ops are measured by, where they are a part of sampling or of a step that takes time.
type Op = (fn() -> Vec<Entry>, Option<fn(&Wanted<'_>) -> Vec<Work>>);

const OPS: &[Op] = &[
    (adamw::entries, Some(adamw::work)),
    (adamw_8bit::entries, Some(adamw_8bit::work)),
    (advance::entries, None),
    (attention::entries, Some(attention::work)),
    (ceiling::entries, None),
    (dequantize::entries, None),
    (elementwise::entries, Some(elementwise::work)),
    (embedding::entries, Some(embedding::work)),
    (group_advantage::entries, Some(group_advantage::work)),
    (group_rewards::entries, None),
    (half_words::entries, None),
    (head::entries, Some(head::work)),
    (linear::entries, Some(linear_cases::work)),
    (philox::entries, None),
    (policy_loss::entries, None),
    (rmsnorm::entries, Some(rmsnorm::work)),
    (rope::entries, Some(rope_cases::work)),
    (rows::entries, None),
    (sample::entries, Some(sample::work)),
    (supervised_loss::entries, None),
];

/// Every kernel variant with its cases; validation, twin tests and translation walk this.
pub fn table() -> Vec<Entry> {
    OPS.iter().flat_map(|(entries, _)| entries()).collect()
}

/// What `bench kernels` measures: every op in the sizes of the wanted models.
pub fn workload(wanted: &Wanted<'_>) -> Vec<Work> {
    OPS.iter()
        .filter_map(|(_, work)| *work)
        .flat_map(|work| work(wanted))
        .collect()
}

/// `n` rounded up to a multiple of four: the row stride of an activation with `n` columns.
pub const fn pad4(n: usize) -> usize {
    n.next_multiple_of(4)
}

/// Splits `count` work items into workgroups of `per_group`, folded over two dimensions so that neither
/// exceeds 65,535; the shader recovers the index as `id.y * 65535 * per_group + id.x` and guards its end.
pub fn fold(count: usize, per_group: usize) -> [u32; 3] {
    let groups = count.div_ceil(per_group);
    if groups <= MAX_GROUPS {
        [groups as u32, 1, 1]
    } else {
        [MAX_GROUPS as u32, groups.div_ceil(MAX_GROUPS) as u32, 1]
    }
}

/// Workgroups every adapter takes in one dimension.
pub const MAX_GROUPS: usize = 65_535;
