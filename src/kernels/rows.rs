//! Moving whole rows: gather, scatter (KV-cache writes), and sums over runs of rows.
//!
//! Widths are row strides in floats, multiples of 4. An index past the end of the indexed buffer is defined:
//! gather gives zeros for it, scatter drops its row.

use super::harness::{Case, GUARD, Gen, Slot, Tol, wide};
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};

static GATHER: Kernel = Kernel::portable("rows_gather", shaders!["rows_gather.wgsl"]);
static SCATTER: Kernel = Kernel::portable("rows_scatter", shaders!["rows_scatter.wgsl"]);
static SEGMENT_SUM: Kernel = Kernel::portable("rows_segment_sum", shaders!["rows_segment_sum.wgsl"]);

const LANES: usize = 64;

params! {
    struct Params {
        m: u32,
        w4: u32,
    }
}

fn dispatch(
    rec: &mut Recorder,
    kernel: &'static Kernel,
    [src, index, dst]: [&Buffer; 3],
    m: usize,
    w: usize,
) -> Result<()> {
    debug_assert!(w.is_multiple_of(4));
    let params = Params {
        m: m as u32,
        w4: (w / 4) as u32,
    };
    rec.dispatch(
        kernel,
        &[("LANES", LANES as f64)],
        &params,
        &[src.into(), index.into(), dst.into()],
        fold(m * w / 4, LANES),
    )
}

/// `dst (p, w)[i] = src (rows, w)[index[i]]`; `index (p)` u32.
///
/// # Errors
/// A GPU error.
pub fn gather(
    rec: &mut Recorder,
    src: &Buffer,
    index: &Buffer,
    dst: &Buffer,
    p: usize,
    w: usize,
) -> Result<()> {
    dispatch(rec, &GATHER, [src, index, dst], p, w)
}

/// `dst (rows, w)[index[i]] = src (m, w)[i]`; `index (m)` u32, distinct. Other rows of dst keep their values.
///
/// # Errors
/// A GPU error.
pub fn scatter(
    rec: &mut Recorder,
    src: &Buffer,
    index: &Buffer,
    dst: &Buffer,
    m: usize,
    w: usize,
) -> Result<()> {
    dispatch(rec, &SCATTER, [src, index, dst], m, w)
}

/// `dst (m, w)[i] = Σ src (p, w)[j]` over `j` in `starts[i] .. starts[i + 1]`, in ascending order; zeros for an
/// empty range. `starts (m + 1)` u32.
///
/// # Errors
/// A GPU error.
pub fn segment_sum(
    rec: &mut Recorder,
    src: &Buffer,
    starts: &Buffer,
    dst: &Buffer,
    m: usize,
    w: usize,
) -> Result<()> {
    dispatch(rec, &SEGMENT_SUM, [src, starts, dst], m, w)
}

/// [`gather`] in float64.
pub fn gather_twin(src: &[f64], index: &[u32], w: usize) -> Vec<f64> {
    let row = |i: &u32| {
        let from = *i as usize * w;
        src.get(from..from + w).map_or(vec![0.0; w], <[f64]>::to_vec)
    };
    index.iter().flat_map(row).collect()
}

/// [`scatter`] in float64.
pub fn scatter_twin(src: &[f64], index: &[u32], dst: &mut [f64], w: usize) {
    for (row, i) in src.chunks_exact(w).zip(index) {
        let to = *i as usize * w;
        if let Some(d) = dst.get_mut(to..to + w) {
            d.copy_from_slice(row);
        }
    }
}

/// [`segment_sum`] in float64.
pub fn segment_sum_twin(src: &[f64], starts: &[u32], w: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for s in starts.windows(2) {
        out.extend((0..w).map(|c| (s[0]..s[1]).map(|j| src[j as usize * w + c]).sum::<f64>()));
    }
    out
}

/// The ops' rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&GATHER, || SHAPES.iter().map(|s| gather_case(*s)).collect()),
        Entry::new(&SCATTER, || SHAPES.iter().map(|s| scatter_case(*s)).collect()),
        Entry::new(&SEGMENT_SUM, || {
            SHAPES.iter().map(|s| segment_sum_case(*s)).collect()
        }),
    ]
}

/// (rows moved, rows of the other side, width)
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 4),
    (1, 5, 332),
    (7, 13, 40),
    (16, 16, 16),
    (17, 67, 12),
    (131, 257, 192),
];
const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "values are copied",
};

fn gather_case((p, rows, w): (usize, usize, usize)) -> Case {
    let mut g = Gen::new((p + rows + w) as u64);
    let src = g.uniform(rows * w, 1e4);
    let mut index = g.below(p, rows as u32);
    if p > 2 {
        // The first row that does not lie whole in the buffer, which ends with the guard, and the last index.
        (index[0], index[1]) = ((rows + GUARD / w) as u32, u32::MAX);
    }
    Case {
        name: format!("rows_gather p{p} rows{rows} w{w}"),
        slots: vec![Slot::input(&src), Slot::input(&index), Slot::Out(p * w)],
        record: Box::new(move |rec, b| gather(rec, &b[0], &b[1], &b[2], p, w)),
        expect: Box::new(move || vec![(2, gather_twin(&wide(&src), &index, w), EXACT)]),
        flops: 0.0,
    }
}

fn scatter_case((m, rows, w): (usize, usize, usize)) -> Case {
    let mut g = Gen::new((m * 3 + rows + w) as u64);
    let (src, dst) = (g.uniform(m * w, 1.0), g.uniform(rows * w, 1e4));
    // Distinct, out of order (7 and 11 divide none of the row counts above one).
    let step = if rows.is_multiple_of(7) { 11 } else { 7 };
    let mut index: Vec<u32> = (0..m).map(|i| ((i * step + 1) % rows) as u32).collect();
    if m > 2 {
        index[0] = u32::MAX;
    }
    Case {
        name: format!("rows_scatter m{m} rows{rows} w{w}"),
        slots: vec![Slot::input(&src), Slot::input(&index), Slot::InOut(dst.clone())],
        record: Box::new(move |rec, b| scatter(rec, &b[0], &b[1], &b[2], m, w)),
        expect: Box::new(move || {
            let mut want = wide(&dst);
            scatter_twin(&wide(&src), &index, &mut want, w);
            vec![(2, want, EXACT)]
        }),
        flops: 0.0,
    }
}

fn segment_sum_case((m, rows, w): (usize, usize, usize)) -> Case {
    let mut g = Gen::new((m * 5 + rows + w) as u64);
    let src = g.uniform(rows * w, 1.0);
    // Sorted random boundaries: some ranges are empty.
    let mut starts = g.below(m + 1, rows as u32 + 1);
    starts.sort_unstable();
    (starts[0], starts[m]) = (0, rows as u32);
    Case {
        name: format!("rows_segment_sum m{m} p{rows} w{w}"),
        slots: vec![Slot::input(&src), Slot::input(&starts), Slot::Out(m * w)],
        record: Box::new(move |rec, b| segment_sum(rec, &b[0], &b[1], &b[2], m, w)),
        expect: Box::new(move || {
            let tol = Tol {
                atol: 2e-6,
                rtol: 1e-6,
                why: "f32 sum of up to a few dozen values of order 1",
            };
            vec![(2, segment_sum_twin(&wide(&src), &starts, w), tol)]
        }),
        flops: (rows * w) as f64,
    }
}
