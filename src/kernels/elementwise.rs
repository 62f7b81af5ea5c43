//! Ops without a reduction: SwiGLU (Shazeer 2020, arXiv 2002.05202) and the residual add.

use super::harness::{Case, Gen, Slot, Tol, wide};
use super::work::{Phase, Wanted, Work};
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Binding, Buffer, Kernel, Recorder, params, shaders};

static SWIGLU_FORWARD: Kernel = Kernel::portable("swiglu_forward", shaders!["swiglu_forward.wgsl"]);
static SWIGLU_BACKWARD: Kernel = Kernel::portable("swiglu_backward", shaders!["swiglu_backward.wgsl"]);
static ADD: Kernel = Kernel::portable("add", shaders!["add.wgsl"]);

const LANES: usize = 64;

params! {
    pub(super) struct Params {
        pub(super) n4: u32,
    }
}

/// Runs a kernel with a lane for every four of `n` values.
pub(super) fn dispatch(
    rec: &mut Recorder,
    kernel: &'static Kernel,
    bindings: &[Binding<'_>],
    n: usize,
) -> Result<()> {
    debug_assert!(n.is_multiple_of(4));
    let params = Params { n4: (n / 4) as u32 };
    rec.dispatch(
        kernel,
        &[("LANES", LANES as f64)],
        &params,
        bindings,
        fold(n / 4, LANES),
    )
}

/// `act = silu(gate) · up` for `n` floats (a multiple of 4).
///
/// # Errors
/// A GPU error.
pub fn swiglu_forward(rec: &mut Recorder, gate: &Buffer, up: &Buffer, act: &Buffer, n: usize) -> Result<()> {
    dispatch(rec, &SWIGLU_FORWARD, &[gate.into(), up.into(), act.into()], n)
}

/// The gradient of [`swiglu_forward`] in place: `gate` becomes dgate and `up` becomes dup (`n` floats).
///
/// # Errors
/// A GPU error.
pub fn swiglu_backward(
    rec: &mut Recorder,
    dact: &Buffer,
    gate: &Buffer,
    up: &Buffer,
    n: usize,
) -> Result<()> {
    dispatch(rec, &SWIGLU_BACKWARD, &[dact.into(), gate.into(), up.into()], n)
}

/// `y += x` for `n` floats (a multiple of 4).
///
/// # Errors
/// A GPU error.
pub fn add(rec: &mut Recorder, x: &Buffer, y: &Buffer, n: usize) -> Result<()> {
    dispatch(rec, &ADD, &[x.into(), y.into()], n)
}

fn sigma(g: f64) -> f64 {
    1.0 / (1.0 + (-g).exp())
}

/// SwiGLU of one element in float64.
pub fn swiglu_twin(gate: f64, up: f64) -> f64 {
    gate * sigma(gate) * up
}

/// (dgate, dup) of one element in float64.
pub fn swiglu_backward_twin(dact: f64, gate: f64, up: f64) -> (f64, f64) {
    let s = sigma(gate);
    (dact * up * s * (1.0 + gate * sigma(-gate)), dact * gate * s)
}

/// The ops' rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&SWIGLU_FORWARD, || {
            SHAPES.iter().map(|s| forward_case(*s)).collect()
        }),
        Entry::new(&SWIGLU_BACKWARD, || {
            SHAPES.iter().map(|s| backward_case(*s)).collect()
        }),
        Entry::new(&ADD, || SHAPES.iter().map(|s| add_case(*s)).collect()),
    ]
}

/// What a model asks of these ops.
pub(super) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for (sizes, phase) in wanted.rows() {
        let (c, f) = (sizes.hidden, sizes.intermediate);
        let forward = ("swiglu_forward", sizes, phase);
        all.push(Work::elements(forward, f, (5.0, 3.0), |m, c| {
            forward_case((m * c, 1.0))
        }));
        if phase == Phase::Training {
            let backward = ("swiglu_backward", sizes, phase);
            all.push(Work::elements(backward, f, (10.0, 5.0), |m, c| {
                backward_case((m * c, 1.0))
            }));
        }
        all.push(Work::elements(("add", sizes, phase), c, (1.0, 3.0), |m, c| {
            add_case((m * c, 1.0))
        }));
    }
    all
}

/// (floats, largest magnitude)
const SHAPES: &[(usize, f32)] = &[
    (4, 1.0),
    (4 * 63, 8.0),
    (4 * 64, 1e4),
    (4 * 65, 30.0),
    (4 * 1009, 5.0),
    (4 * 64 * 65_536, 3.0),
];
const EXP: &str = "exp within 3 + 2|x| ulp, and e or σ below 1e-30 are flushed or clamped";

fn data(seed: u64, n: usize, scale: f32) -> [Vec<f32>; 3] {
    let mut g = Gen::new(seed + n as u64);
    [g.uniform(n, scale), g.uniform(n, 2.0), g.uniform(n, 1.0)]
}

fn forward_case((n, scale): (usize, f32)) -> Case {
    // The folded shape repeats one row: its point is the indices, and random data of this size is slow to make.
    let [gate, up, _] = data(1, n.min(8192), scale).map(|v| tile(&v, n));
    Case {
        name: format!("swiglu_forward n{n} |x|{scale:e}"),
        slots: vec![Slot::input(&gate), Slot::input(&up), Slot::Out(n)],
        record: Box::new(move |rec, b| swiglu_forward(rec, &b[0], &b[1], &b[2], n)),
        expect: Box::new(move || {
            let twin = wide(&gate).into_iter().zip(wide(&up));
            let y: Vec<f64> = twin.map(|(g, u)| swiglu_twin(g, u)).collect();
            vec![(2, y, tol())]
        }),
        flops: 5.0 * n as f64,
    }
}

fn backward_case((n, scale): (usize, f32)) -> Case {
    let [gate, up, dact] = data(2, n.min(8192), scale).map(|v| tile(&v, n));
    Case {
        name: format!("swiglu_backward n{n} |x|{scale:e}"),
        slots: vec![
            Slot::input(&dact),
            Slot::InOut(gate.clone()),
            Slot::InOut(up.clone()),
        ],
        record: Box::new(move |rec, b| swiglu_backward(rec, &b[0], &b[1], &b[2], n)),
        expect: Box::new(move || {
            let inputs = gate.iter().zip(&up).zip(&dact);
            let twin = inputs.map(|((g, u), d)| swiglu_backward_twin((*d).into(), (*g).into(), (*u).into()));
            let (dgate, dup) = twin.unzip();
            vec![(1, dgate, tol()), (2, dup, tol())]
        }),
        flops: 10.0 * n as f64,
    }
}

fn add_case((n, scale): (usize, f32)) -> Case {
    let [x, y, _] = data(3, n.min(8192), scale).map(|v| tile(&v, n));
    Case {
        name: format!("add n{n} |x|{scale:e}"),
        slots: vec![Slot::input(&x), Slot::InOut(y.clone())],
        record: Box::new(move |rec, b| add(rec, &b[0], &b[1], n)),
        expect: Box::new(move || {
            // One correctly rounded f32 addition: exact.
            let sum = x.iter().zip(&y).map(|(a, b)| f64::from(a + b)).collect();
            let exact = Tol {
                atol: 0.0,
                rtol: 0.0,
                why: "one rounded addition",
            };
            vec![(1, sum, exact)]
        }),
        flops: n as f64,
    }
}

fn tile(v: &[f32], n: usize) -> Vec<f32> {
    v.iter().copied().cycle().take(n).collect()
}

fn tol() -> Tol {
    Tol {
        atol: 1e-6,
        rtol: 2e-6,
        why: EXP,
    }
}

#[cfg(test)]
mod tests {
    use super::super::harness::{assert_gradient, numeric_gradient};
    use super::*;

    #[test]
    fn swiglu_gradient_matches_finite_differences() {
        for (g, u, d) in [
            (0.3, -1.2, 0.7),
            (-4.0, 2.0, 1.0),
            (9.0, 0.5, -2.0),
            (0.0, 1.0, 1.0),
        ] {
            let numeric = numeric_gradient(&[g, u], |v| d * swiglu_twin(v[0], v[1]));
            let (dg, du) = swiglu_backward_twin(d, g, u);
            assert_gradient("swiglu", &[dg, du], &numeric);
        }
    }
}
