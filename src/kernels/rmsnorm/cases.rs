//! Test and bench cases of RMSNorm: rows of a hidden state, and one row per head (c = 32, 40, 128).

use super::super::harness::{Case, Gen, Slot, Tol, wide};
use super::super::work::{Phase, Wanted, Work};
use super::twin;

/// (rows, columns, |x|)
const SHAPES: &[(usize, usize, f32)] = &[
    (1, 4, 1.0),
    (1, 576, 2.0),
    (7, 40, 1.0),
    (8, 64, 1e4),
    (9, 32, 1e-3),
    (63, 128, 1.0),
    (65, 40, 3.0),
    (131, 576, 1e4),
    (257, 96, 1.0),
];
const EPS: f32 = 1e-5;
const SUM: &str = "f32 sum over the columns in four chains, 1/sqrt within 3 ulp";

fn rstd_of(x: &[f32], m: usize, c: usize) -> Vec<f32> {
    let (_, rstd) = twin::forward(&wide(x), &vec![1.0; c], m, c, EPS.into());
    rstd.iter().map(|v| *v as f32).collect()
}

pub(super) fn forward() -> Vec<Case> {
    SHAPES.iter().map(|s| forward_case(*s)).collect()
}

fn forward_case((m, c, scale): (usize, usize, f32)) -> Case {
    let mut g = Gen::new((m * 1000 + c) as u64);
    let (x, gamma) = (g.uniform(m * c, scale), g.uniform(c, 2.0));
    Case {
        name: format!("rmsnorm_forward m{m} c{c} |x|{scale:e}"),
        slots: vec![
            Slot::input(&x),
            Slot::input(&gamma),
            Slot::Out(m * c),
            Slot::Out(m),
        ],
        record: Box::new(move |rec, b| super::forward(rec, &b[0], &b[1], &b[2], &b[3], m, c, EPS)),
        expect: Box::new(move || {
            let (y, rstd) = twin::forward(&wide(&x), &wide(&gamma), m, c, EPS.into());
            let tol = Tol {
                atol: 1e-30,
                rtol: 3e-6,
                why: SUM,
            };
            vec![(2, y, tol), (3, rstd, tol)]
        }),
        flops: 4.0 * (m * c) as f64,
    }
}

pub(super) fn backward() -> Vec<Case> {
    let both = SHAPES.iter().flat_map(|s| [(*s, false), (*s, true)]);
    both.map(|(s, accumulate)| backward_case(s, accumulate)).collect()
}

fn backward_case((m, c, scale): (usize, usize, f32), accumulate: bool) -> Case {
    let mut g = Gen::new((m * 1000 + c + 7) as u64);
    let (dy, x) = (g.uniform(m * c, 1.0), g.uniform(m * c, scale));
    let (gamma, rstd) = (g.uniform(c, 2.0), rstd_of(&x, m, c));
    // Of the same size as what is added, so that neither hides the other.
    let old = g.uniform(m * c, 1.0 / scale);
    Case {
        name: format!("rmsnorm_backward m{m} c{c} |x|{scale:e} accumulate {accumulate}"),
        slots: vec![
            Slot::input(&dy),
            Slot::input(&x),
            Slot::input(&gamma),
            Slot::input(&rstd),
            if accumulate {
                Slot::InOut(old.clone())
            } else {
                Slot::Out(m * c)
            },
        ],
        record: Box::new(move |rec, b| {
            super::backward(rec, &b[0], &b[1], &b[2], &b[3], &b[4], m, c, accumulate)
        }),
        expect: Box::new(move || {
            let mut dx = twin::backward(&wide(&dy), &wide(&x), &wide(&gamma), &wide(&rstd), m, c);
            if accumulate {
                dx.iter_mut().zip(&old).for_each(|(d, o)| *d += f64::from(*o));
            }
            let tol = Tol::of_peak(&dx, 2e-6, "difference of two products, f32 sum over the columns");
            vec![(4, dx, tol)]
        }),
        flops: 8.0 * (m * c) as f64,
    }
}

/// What a model asks of the op.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    let mut all = Vec::new();
    for (sizes, phase) in wanted.rows() {
        let (c, forward) = (sizes.hidden, ("rmsnorm_forward", sizes, phase));
        all.push(Work::elements(forward, c, (4.0, 2.0), |m, c| {
            forward_case((m, c, 1.0))
        }));
        if phase == Phase::Training {
            let backward = ("rmsnorm_backward", sizes, phase);
            all.push(Work::elements(backward, c, (8.0, 3.0), |m, c| {
                backward_case((m, c, 1.0), false)
            }));
        }
    }
    all
}

pub(super) fn gamma_gradient() -> Vec<Case> {
    SHAPES.iter().map(|s| gamma_gradient_case(*s)).collect()
}

fn gamma_gradient_case((m, c, scale): (usize, usize, f32)) -> Case {
    let mut g = Gen::new((m * 1000 + c + 13) as u64);
    let (dy, x) = (g.uniform(m * c, 1.0), g.uniform(m * c, scale));
    let (rstd, old) = (rstd_of(&x, m, c), g.uniform(c, 1.0));
    let first = m / 5;
    Case {
        name: format!("rmsnorm_gamma_gradient m{m} c{c} |x|{scale:e}"),
        slots: vec![
            Slot::input(&dy),
            Slot::input(&x),
            Slot::input(&rstd),
            Slot::InOut(old.clone()),
        ],
        record: Box::new(move |rec, b| super::gamma_gradient(rec, &b[0], &b[1], &b[2], &b[3], first..m, c)),
        expect: Box::new(move || {
            let (dy, x, rstd) = (&dy[first * c..], &x[first * c..], &rstd[first..]);
            let mut dgamma = twin::gamma_gradient(&wide(dy), &wide(x), &wide(rstd), m - first, c);
            dgamma.iter_mut().zip(&old).for_each(|(d, o)| *d += f64::from(*o));
            let tol = Tol::of_peak(&dgamma, 2e-6, "f32 sum over the rows");
            vec![(3, dgamma, tol)]
        }),
        flops: 3.0 * (m * c) as f64,
    }
}
