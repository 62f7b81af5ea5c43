//! The losses of supervised training on the device: what the forward pass left → one coefficient per readout, where the
//! backward pass starts, and the terms behind a step's metrics ([`policy_loss_sums`]).
//!
//! The fifth and sixth term name what is not finite: its value, and how many terms it is from the last. A coefficient is
//! not finite there either, so that the gradient's norm keeps the optimiser from moving.

use super::harness::{Case, Gen, Slot, Tol};
use super::policy_loss::{TERMS, of_sums, policy_loss_sums, sums_twin};
use super::reduce::lanes;
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};

static TOKEN_LOSS: Kernel = Kernel::portable(
    "token_loss",
    shaders!["token_loss.wgsl", "shared/not_finite.wgsl"],
);
static PAIR_LOSS: Kernel =
    Kernel::portable("pair_loss", shaders!["pair_loss.wgsl", "shared/not_finite.wgsl"]);

params! {
    struct Params {
        count: u32,
        scale: f32,
    }
}

/// The negative log-likelihood of the tokens of a micro-batch: L = scale · Σ −weight · logp. The terms hold −weight · logp.
///
/// `logp`, `weight` (P); `dlogp` (P) and `terms` (P, 8) are overwritten.
///
/// # Errors
/// A GPU error.
pub fn token_loss(
    rec: &mut Recorder,
    (logp, weight): (&Buffer, &Buffer),
    (dlogp, terms): (&Buffer, &Buffer),
    (count, scale): (usize, f32),
) -> Result<()> {
    let lanes = lanes(rec, 64);
    let params = Params {
        count: count as u32,
        scale,
    };
    let bindings = [logp.into(), weight.into(), dlogp.into(), terms.into()];
    let constants = [("LANES", lanes as f64)];
    rec.dispatch(&TOKEN_LOSS, &constants, &params, &bindings, fold(count, lanes))
}

/// The Bradley-Terry loss of the pairs of a micro-batch: L = scale · Σ −log σ(score(chosen) − score(rejected)). The terms
/// hold −log σ, 1 where the chosen answer's score is higher (a half in a tie), and the margin.
///
/// `pairs` (N, 2) u32 are the places of chosen and rejected in `scores` (S, 4), no place twice. The scores in the first
/// column become dL/dscore; `terms` (N, 8) is overwritten.
///
/// # Errors
/// A GPU error.
pub fn pair_loss(
    rec: &mut Recorder,
    (pairs, scores, terms): (&Buffer, &Buffer, &Buffer),
    (count, scale): (usize, f32),
) -> Result<()> {
    let lanes = lanes(rec, 64);
    let params = Params {
        count: count as u32,
        scale,
    };
    let bindings = [pairs.into(), scores.into(), terms.into()];
    let constants = [("LANES", lanes as f64)];
    rec.dispatch(&PAIR_LOSS, &constants, &params, &bindings, fold(count, lanes))
}

/// Float64 twin of [`pair_loss`] for one margin: the loss −log σ(margin) and its slope.
pub fn bradley_terry(margin: f64) -> (f64, f64) {
    // softplus(−margin), stable on both sides.
    let loss = (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
    (loss, -1.0 / (1.0 + margin.exp()))
}

/// Coefficients and terms are a few roundings from the twin's.
const ROUNDED: Tol = Tol {
    atol: 1e-37,
    rtol: 2e-6,
    why: "exp in f32 (3 ulp and 2 of its argument), a few roundings after it",
};

fn token_case(count: usize, scale: f32) -> Case {
    let mut g = Gen::new(count as u64);
    let logp: Vec<f32> = g.uniform(count, 6.0).iter().map(|x| -x.abs()).collect();
    let weight = g.uniform(count, 2.0);
    let slots = vec![
        Slot::input(&logp),
        Slot::input(&weight),
        Slot::Out(count),
        Slot::Out(count * TERMS),
        Slot::InOut(vec![7.0; TERMS]),
        Slot::input(&vec![0.5f32; count]),
    ];
    Case {
        name: format!("token_loss P={count} scale={scale}"),
        slots,
        record: Box::new(move |rec, b| {
            token_loss(rec, (&b[0], &b[1]), (&b[2], &b[3]), (count, scale))?;
            policy_loss_sums(rec, &b[3], &b[5], &b[4], 0, 0..count)
        }),
        expect: Box::new(move || {
            let of = |i: usize| (f64::from(weight[i]), f64::from(logp[i]));
            let dlogp = (0..count).map(|i| -of(i).0 * f64::from(scale)).collect();
            let terms: Vec<f64> = (0..count)
                .flat_map(|i| [-of(i).0 * of(i).1, 0., 0., 0., 0., 0., 0., 0.])
                .collect();
            let sums = sums_twin(&terms, &vec![0.5; count]);
            let tolerance = of_sums(&terms);
            vec![(2, dlogp, ROUNDED), (3, terms, ROUNDED), (4, sums, tolerance)]
        }),
        flops: 0.0,
    }
}

/// `count` pairs with margins up to `reach`; every fifth is a tie. Their places are mixed, and one score is of no pair.
fn pair_case(count: usize, reach: f32, scale: f32) -> Case {
    let mut g = Gen::new(count as u64);
    let mut places: Vec<u32> = (0..2 * count as u32).map(|i| i + 1).collect();
    for i in 1..places.len() {
        places.swap(i, g.below(1, i as u32 + 1)[0] as usize);
    }
    let mut scores = vec![5.0, 6.0, 7.0, 8.0];
    scores.extend(g.uniform(8 * count, reach));
    for pair in places.chunks(2).step_by(5) {
        scores[4 * pair[0] as usize] = scores[4 * pair[1] as usize];
    }
    let slots = vec![
        Slot::input(&places),
        Slot::InOut(scores.clone()),
        Slot::Out(count * TERMS),
        Slot::InOut(vec![7.0; TERMS]),
        Slot::input(&vec![0.5f32; count]),
    ];
    Case {
        name: format!("pair_loss N={count} reach={reach} scale={scale}"),
        slots,
        record: Box::new(move |rec, b| {
            pair_loss(rec, (&b[0], &b[1], &b[2]), (count, scale))?;
            policy_loss_sums(rec, &b[2], &b[4], &b[3], 0, 0..count)
        }),
        expect: Box::new(move || {
            let mut left = vec![0.0; scores.len()];
            left[..4].copy_from_slice(&[5.0, 6.0, 7.0, 8.0]);
            let mut terms = Vec::new();
            for pair in places.chunks(2) {
                let at = |i: usize| 4 * pair[i] as usize;
                // The difference of two f32, rounded as the kernel's is: where it cancels, the rest follows from it.
                let margin = f64::from(scores[at(0)] - scores[at(1)]);
                let (loss, slope) = bradley_terry(margin);
                let right = if margin == 0.0 {
                    0.5
                } else {
                    f64::from(u8::from(margin > 0.0))
                };
                terms.extend([loss, right, margin, 0., 0., 0., 0., 0.]);
                left[at(0)] = slope * f64::from(scale);
                left[at(1)] = -left[at(0)];
            }
            let sums = sums_twin(&terms, &vec![0.5; count]);
            let tolerance = of_sums(&terms);
            // exp's error grows with its argument.
            let rounded = Tol {
                rtol: 2e-6 * f64::from(reach.max(1.0)),
                ..ROUNDED
            };
            vec![(1, left, rounded), (2, terms, rounded), (3, sums, tolerance)]
        }),
        flops: 0.0,
    }
}

fn token_cases() -> Vec<Case> {
    vec![token_case(1, 1.0), token_case(65, 0.125), token_case(1031, 1e-3)]
}

fn pair_cases() -> Vec<Case> {
    vec![
        pair_case(1, 1.0, 1.0),
        pair_case(6, 1e-3, 0.25),
        pair_case(67, 4.0, 0.1),
        // Far beyond where exp(−margin) or 1 + exp(−margin) would say anything.
        pair_case(130, 120.0, 0.01),
    ]
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&TOKEN_LOSS, token_cases),
        Entry::new(&PAIR_LOSS, pair_cases),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions};

    #[test]
    fn bradley_terry_is_stable_and_its_slope_is_the_derivative() {
        for m in [-800.0, -3.0, 0.0, 2.0, 800.0] {
            let (loss, slope) = bradley_terry(m);
            assert!(loss.is_finite() && slope.is_finite() && loss >= 0.0);
            let h = 1e-5;
            let numeric = (bradley_terry(m + h).0 - bradley_terry(m - h).0) / (2.0 * h);
            assert!((numeric - slope).abs() < 1e-6, "{m}");
        }
    }

    fn open() -> Gpu {
        Gpu::open(&GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        })
        .unwrap()
    }

    /// What a row of sums says of values that are not finite: the first one's place, and what they are.
    fn found(gpu: &Gpu, sums: &Buffer, count: usize) -> (usize, f32) {
        let row: Vec<f32> = gpu.read(sums, 0, TERMS).unwrap();
        (count - row[5] as usize, row[4])
    }

    #[test]
    fn a_log_probability_that_is_not_finite_has_no_finite_coefficient() {
        let gpu = open();
        for (bad, at) in [(f32::NEG_INFINITY, 70), (f32::NAN, 0), (f32::INFINITY, 99)] {
            let mut logp = vec![-1.0f32; 100];
            logp[at] = bad;
            logp[99] = bad;
            let logp = gpu.upload("test", &logp).unwrap();
            let weight = gpu.upload("test", &[1.0f32; 100]).unwrap();
            let out = |n: u64| gpu.alloc("test", 4 * n).unwrap();
            let (dlogp, terms, sums) = (out(100), out(800), out(8));
            let mut rec = Recorder::new(&gpu);
            token_loss(&mut rec, (&logp, &weight), (&dlogp, &terms), (100, 0.01)).unwrap();
            policy_loss_sums(&mut rec, &terms, &terms, &sums, 0, 0..100).unwrap();
            rec.submit().unwrap();
            let coefficients: Vec<f32> = gpu.read(&dlogp, 0, 100).unwrap();
            for (i, c) in coefficients.iter().enumerate() {
                assert_eq!(c.is_finite(), i != at && i != 99, "{bad} {i}: {c}");
            }
            let (place, value) = found(&gpu, &sums, 100);
            assert_eq!((place, value.to_string()), (at, bad.to_string()));
        }
    }

    #[test]
    fn a_score_that_is_not_finite_has_no_finite_coefficient() {
        let gpu = open();
        let max = f32::MAX;
        // Where the difference of finite scores is not finite, it is that which is named.
        for (chosen, rejected, value) in [
            (f32::INFINITY, 1.0, "inf"),
            (1.0, f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, f32::INFINITY, "-inf"),
            (0.0, f32::NAN, "NaN"),
            (max, -max, "inf"),
        ] {
            let mut scores = vec![0.0f32; 4 * 6];
            (scores[4 * 2], scores[4 * 3]) = (chosen, rejected);
            let scores = gpu.upload("test", &scores).unwrap();
            let pairs = gpu.upload("test", &[0u32, 1, 2, 3, 4, 5]).unwrap();
            let (terms, sums) = (gpu.alloc("test", 96).unwrap(), gpu.alloc("test", 32).unwrap());
            let mut rec = Recorder::new(&gpu);
            pair_loss(&mut rec, (&pairs, &scores, &terms), (3, 1.0)).unwrap();
            policy_loss_sums(&mut rec, &terms, &terms, &sums, 0, 0..3).unwrap();
            rec.submit().unwrap();
            let left: Vec<f32> = gpu.read(&scores, 0, 24).unwrap();
            let finite: Vec<bool> = left.chunks(4).map(|row| row[0].is_finite()).collect();
            assert_eq!(
                finite,
                [true, true, false, false, true, true],
                "{chosen} {rejected}"
            );
            let (place, said) = found(&gpu, &sums, 3);
            assert_eq!((place, said.to_string().as_str()), (1, value));
        }
    }
}
