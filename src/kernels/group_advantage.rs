//! Group reductions of the advantage rules: m rewards of one prompt → m advantages, many groups in one dispatch.
//!
//! The rules' formulas and papers are in `advantage/`, which is a layer below: a rule there gives its [`Pass`], with the
//! numbers that depend on sizes alone computed once in float64, and its float64 function is the twin. [`reduce_groups`]
//! takes rewards from the CPU; [`GroupReducer`] records onto buffers that are on the GPU already.
//!
//! **Precision.** A reward counts from a reward of its own group (the maximum, the tail's threshold or its neighbour in
//! sorted order), and that difference is the first thing computed: one rounding of the exact difference of the f32
//! inputs, so rewards near 1e4 with a spread of 1e-2 lose nothing more. Rewards that f32 cannot hold are taken relative
//! to their group's maximum in float64 before they are rounded ([`reduce_groups`]).
//!
//! **Passes.** `tail` (TEA, CVaR), `mean` (GRPO, BoN-max, MaxRL), `tilt` (exponential weights), `table` (rewards of 0 and
//! 1), and `sort` followed by `curve` (the rules of ranks), `cat` (CAT-BoN) or `gpd` (TEA-GPD); which one a rule takes is in
//! its file. `scale` divides what came out by its root mean square. A group's order of summation depends on its size and
//! the kind of adapter alone.

use super::reduce::lanes;
use super::{Entry, fold};
use crate::advantage::Pass;
use crate::error::{Error, Result};
use crate::gpu::{Binding, Buffer, Gpu, Kernel, Recorder, shaders};

mod cases;
mod coefficients;
mod plan;
mod reduce;
#[cfg(test)]
mod tests;

pub(super) use cases::work;
pub use reduce::{Narrowed, Reduced, TailStatistics, far_apart, narrow, reduce_groups};

use plan::{
    CatParams, CurveParams, GpdParams, MeanParams, Plan, ScaleParams, SortParams, TableParams, TailParams,
    TiltParams, shapes, table,
};

static TAIL: Kernel = Kernel::portable(
    "group_advantage_tail",
    shaders![
        "group_advantage_tail.wgsl",
        "shared/row_reduce.wgsl",
        "shared/sortable.wgsl"
    ],
);

static MEAN: Kernel = Kernel::portable(
    "group_advantage_mean",
    shaders!["group_advantage_mean.wgsl", "shared/row_reduce.wgsl"],
);

static SORT: Kernel = Kernel::portable("group_advantage_sort", shaders!["group_advantage_sort.wgsl"]);

static CURVE: Kernel = Kernel::portable(
    "group_advantage_curve",
    shaders![
        "group_advantage_curve.wgsl",
        "shared/row_reduce.wgsl",
        "shared/ordered.wgsl"
    ],
);

static CAT: Kernel = Kernel::portable(
    "group_advantage_cat",
    shaders![
        "group_advantage_cat.wgsl",
        "shared/row_reduce.wgsl",
        "shared/ordered.wgsl"
    ],
);

static GPD: Kernel = Kernel::portable(
    "group_advantage_gpd",
    shaders![
        "group_advantage_gpd.wgsl",
        "shared/row_reduce.wgsl",
        "shared/ordered.wgsl"
    ],
);

static TILT: Kernel = Kernel::portable(
    "group_advantage_tilt",
    shaders!["group_advantage_tilt.wgsl", "shared/row_reduce.wgsl"],
);

static TABLE: Kernel = Kernel::portable(
    "group_advantage_table",
    shaders!["group_advantage_table.wgsl", "shared/row_reduce.wgsl"],
);

static SCALE: Kernel = Kernel::portable(
    "group_advantage_scale",
    shaders!["group_advantage_scale.wgsl", "shared/row_reduce.wgsl"],
);

/// Bit of a group's flags: no signal, every advantage is 0 (for rank rules: or the curve is no higher than 1e-30).
pub const NO_SIGNAL: u32 = 1;
/// Bit of a group's flags: TEA-GPD fell back to the Gaussian tail (not counted where the tail's rewards are all equal).
pub const GAUSSIAN_TAIL: u32 = 2;

/// Numbers of a group's tail statistics.
pub const TAIL_WORDS: usize = 4;

/// The buffers of one call: `groups` groups of m, rows tight.
pub struct GroupBuffers<'a> {
    /// Groups in this call, G.
    pub groups: usize,
    /// Finite rewards (G, m), f32.
    pub rewards: &'a Buffer,
    /// Chow's split (G, m), u32: 1 in the selection set, 0 in the correction set. Other rules ignore it.
    pub selection: Option<&'a Buffer>,
    /// What rewards count from (G), f32, for passes that read rewards themselves ([`Pass::absolute`]).
    pub bases: Option<&'a Buffer>,
    /// Advantages (G, m), f32, overwritten.
    pub advantages: &'a Buffer,
    /// Flags (G), u32, overwritten: [`NO_SIGNAL`], [`GAUSSIAN_TAIL`].
    pub flags: &'a Buffer,
    /// Tail statistics (G, [`TAIL_WORDS`]), f32, overwritten, as [`TailStatistics`] reads them. Passes without a tail
    /// ([`Pass::has_tail`]) ignore it.
    pub tails: Option<&'a Buffer>,
}

/// A rule made ready for groups of one size: coefficients uploaded, scratch allocated.
pub struct GroupReducer {
    plan: Plan,
    selects: bool,
    has_tail: bool,
    absolute: bool,
    capacity: usize,
    m: usize,
    /// What the last pass reads besides rewards ([`GroupRule`] makes them).
    table: Option<Buffer>,
    shapes: Option<Buffer>,
    /// Sorted rewards and the curve over them, each (capacity, m).
    ordered: Option<Buffer>,
    curve: Option<Buffer>,
}

impl GroupReducer {
    /// For up to `capacity` groups of `m` in one call.
    ///
    /// # Errors
    /// The rule does not fit groups of `m` or `m` is outside 2 to [`MAX_GROUP`](crate::advantage::pass::MAX_GROUP) (bugs), or out of memory.
    pub fn new(gpu: &Gpu, pass: &Pass, capacity: usize, m: usize) -> Result<Self> {
        pass.check(m)?;
        let plan = Plan::new(pass, m);
        let bytes = (4 * capacity * m) as u64;
        let scratch = |label: &str, needed: bool| needed.then(|| gpu.alloc(label, bytes)).transpose();
        let (sorts, curves) = (
            matches!(plan, Plan::Curve(_) | Plan::Cat(_) | Plan::Gpd(_)),
            matches!(plan, Plan::Curve(_) | Plan::Gpd(_)),
        );
        let upload = |label: &str, values: Vec<f32>| {
            (!values.is_empty())
                .then(|| gpu.upload(label, &values))
                .transpose()
        };
        Ok(Self {
            plan,
            selects: pass.selects(),
            has_tail: pass.has_tail(),
            absolute: pass.absolute(),
            capacity,
            m,
            table: upload("group_advantage/table", table(pass, m))?,
            shapes: upload("group_advantage/shapes", shapes(pass))?,
            ordered: scratch("group_advantage/ordered", sorts)?,
            curve: scratch("group_advantage/curve", curves)?,
        })
    }

    /// Records the rule over `b.groups` groups.
    ///
    /// # Errors
    /// More groups than the capacity, Chow without a selection, a tail without a place for its statistics (bugs), or a
    /// GPU error.
    pub fn record(&self, rec: &mut Recorder, b: &GroupBuffers<'_>) -> Result<()> {
        if b.groups > self.capacity {
            return Err(Error::internal(format!(
                "group_advantage: {} groups, room for {}",
                b.groups, self.capacity
            )));
        }
        if self.absolute && b.bases.is_none() {
            return Err(Error::internal(
                "group_advantage: rewards without what they count from",
            ));
        }
        if self.has_tail && b.tails.is_none() {
            return Err(Error::internal(
                "group_advantage: no place for the tail statistics",
            ));
        }
        if let Some(ordered) = &self.ordered {
            record_sort(rec, b.rewards, ordered, b.groups, self.m)?;
        }
        let (groups, grid) = (b.groups as u32, fold(b.groups, 1));
        let lanes = [("LANES", lanes(rec, 64) as f64)];
        let (rewards, advantages, flags) = (b.rewards.into(), b.advantages.into(), b.flags.into());
        let tails = Binding::from(b.tails);
        let ordered = Binding::from(self.ordered.as_ref());
        let [table, shapes, curve] =
            [&self.table, &self.shapes, &self.curve].map(|x| Binding::from(x.as_ref()));
        match self.plan {
            Plan::Tail(params) => {
                let bindings = [rewards, table, advantages, flags, tails];
                rec.dispatch(&TAIL, &lanes, &TailParams { groups, ..params }, &bindings, grid)
            }
            Plan::Mean(params) => {
                if self.selects && b.selection.is_none() {
                    return Err(Error::internal("group_advantage: Chow without a selection"));
                }
                let bindings = [rewards, b.selection.into(), b.bases.into(), advantages, flags];
                rec.dispatch(&MEAN, &lanes, &MeanParams { groups, ..params }, &bindings, grid)
            }
            Plan::Tilt(params) => {
                let bindings = [rewards, advantages, flags];
                rec.dispatch(&TILT, &lanes, &TiltParams { groups, ..params }, &bindings, grid)
            }
            Plan::Table(params) => {
                let bindings = [rewards, table, advantages, flags];
                rec.dispatch(&TABLE, &lanes, &TableParams { groups, ..params }, &bindings, grid)
            }
            Plan::Curve(params) => {
                let bindings = [rewards, ordered, table, curve, advantages, flags];
                rec.dispatch(&CURVE, &lanes, &CurveParams { groups, ..params }, &bindings, grid)
            }
            Plan::Cat(params) => {
                let bindings = [rewards, ordered, advantages, flags];
                rec.dispatch(&CAT, &lanes, &CatParams { groups, ..params }, &bindings, grid)
            }
            Plan::Gpd(params) => {
                let bindings = [rewards, ordered, table, shapes, curve, advantages, flags, tails];
                rec.dispatch(&GPD, &lanes, &GpdParams { groups, ..params }, &bindings, grid)
            }
        }
    }
}

/// Every group's rewards (G, m) ascending in `ordered` (G, m).
fn record_sort(
    rec: &mut Recorder,
    rewards: &Buffer,
    ordered: &Buffer,
    groups: usize,
    m: usize,
) -> Result<()> {
    let constants = [("LANES", lanes(rec, 64) as f64)];
    let params = SortParams::new(groups as u32, m);
    let bindings = [Binding::from(rewards), ordered.into()];
    rec.dispatch(&SORT, &constants, &params, &bindings, fold(groups, 1))
}

/// Divides `rows` rows of `n` advantages each by their root mean square, in place; rows of zeros stay.
///
/// # Errors
/// A GPU error.
pub fn scale_advantages(rec: &mut Recorder, advantages: &Buffer, rows: usize, n: usize) -> Result<()> {
    let constants = [("LANES", lanes(rec, 64) as f64)];
    let params = ScaleParams {
        rows: rows as u32,
        n: n as u32,
        inverse_n: (1.0 / n as f64) as f32,
    };
    rec.dispatch(
        &SCALE,
        &constants,
        &params,
        &[Binding::from(advantages)],
        fold(rows, 1),
    )
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&TAIL, cases::tail),
        Entry::new(&MEAN, cases::mean),
        Entry::new(&SORT, cases::sort),
        Entry::new(&CURVE, cases::curve),
        Entry::new(&CAT, cases::cat),
        Entry::new(&GPD, cases::gpd),
        Entry::new(&TILT, cases::tilt),
        Entry::new(&TABLE, cases::table),
        Entry::new(&SCALE, cases::scale),
    ]
}
