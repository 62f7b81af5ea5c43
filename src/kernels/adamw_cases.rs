//! Cases and tests of AdamW and the global norm.

use crate::kernels::adamw::{
    AdamW, AdamWArgs, BLOCK, NormScratch, global_norm, step as adamw_step, step_twin,
};
use crate::kernels::harness::{Case, Gen, Slot, Tol, wide, with_scratch};
use crate::kernels::work::{Wanted, Work};

const SUM: Tol = Tol {
    atol: 1e-12,
    rtol: 4e-6,
    why: "chains of up to 512 f32 squares",
};
const MOMENT: Tol = Tol {
    atol: 1e-7,
    rtol: 2e-6,
    why: "ten f32 averages",
};
const PARAM: Tol = Tol {
    atol: 2e-7,
    rtol: 1e-6,
    why: "ten f32 updates of about lr = 1e-2",
};

fn norm_case(sizes: &'static [usize], scale: f32) -> Case {
    let data: Vec<Vec<f32>> = (sizes.iter().zip(1..))
        .map(|(n, seed)| Gen::new(seed).uniform(*n, scale))
        .collect();
    let mut slots: Vec<Slot> = data.iter().map(|d| Slot::input(d)).collect();
    slots.push(Slot::InOut(vec![0.0]));
    let last = sizes.len();
    Case {
        name: format!("global_norm {sizes:?} scale={scale}"),
        slots,
        record: with_scratch(
            move |gpu| NormScratch::new(gpu, sizes.iter().copied()),
            move |rec, b, scratch| {
                let grads: Vec<_> = b.iter().zip(sizes.iter().copied()).collect();
                global_norm(rec, &grads, scratch, &b[last])
            },
        ),
        expect: Box::new(move || {
            let sum: f64 = data.iter().flatten().map(|x| f64::from(*x) * f64::from(*x)).sum();
            vec![(last, vec![libm::sqrt(sum)], SUM)]
        }),
        flops: 2.0 * sizes.iter().sum::<usize>() as f64,
    }
}

pub(super) fn norm() -> Vec<Case> {
    vec![
        norm_case(&[1], 1.0),
        norm_case(&[7, 255, 257, 31], 1e4),
        norm_case(&[BLOCK, 1, BLOCK + 1], 1e-3),
        norm_case(&[3 * BLOCK - 1], 1.0),
        norm_case(&[], 1.0),
    ]
}

/// Several steps on one gradient. Its norm is given, or taken first.
fn step_case(n: usize, scale: f32, clip: f64, given: Option<f32>, steps: u32) -> Case {
    let mut g = Gen::new(n as u64);
    let (param, grad, m) = (g.uniform(n, 1.0), g.uniform(n, scale), g.uniform(n, scale));
    let v: Vec<f32> = g.uniform(n, scale).iter().map(|x| x * x).collect();
    let squares = || grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let norm = given.map_or_else(|| libm::sqrt(squares()), f64::from);
    let settings = move |t| AdamW {
        lr: 1e-2,
        weight_decay: 0.1,
        step: t,
        max_grad_norm: clip,
        ..AdamW::DEFAULT
    };
    let expect = {
        let (param, grad, m, v) = (wide(&param), wide(&grad), wide(&m), wide(&v));
        move || {
            let (mut p, mut m, mut v) = (param.clone(), m.clone(), v.clone());
            (1..=steps).for_each(|t| step_twin(&mut p, &grad, &mut m, &mut v, norm, settings(t)));
            let size = f64::from(scale);
            let scaled = |size: f64| Tol {
                atol: MOMENT.atol * size,
                ..MOMENT
            };
            vec![(0, p, PARAM), (2, m, scaled(size)), (3, v, scaled(size * size))]
        }
    };
    Case {
        name: format!("adamw_step n={n} scale={scale} clip={clip}"),
        slots: vec![
            Slot::InOut(param),
            Slot::input(&grad),
            Slot::InOut(m),
            Slot::InOut(v),
            Slot::input(&[given.unwrap_or_default()]),
        ],
        record: with_scratch(
            move |gpu| NormScratch::new(gpu, [n]),
            move |rec, b, scratch| {
                if given.is_none() {
                    global_norm(rec, &[(&b[1], n)], scratch, &b[4])?;
                }
                let args = AdamWArgs {
                    param: &b[0],
                    grad: &b[1],
                    m: &b[2],
                    v: &b[3],
                    norm: &b[4],
                };
                (1..=steps).try_for_each(|t| adamw_step(rec, &args, n, settings(t)))
            },
        ),
        expect: Box::new(expect),
        flops: f64::from(15 * steps) * n as f64,
    }
}

pub(super) fn step() -> Vec<Case> {
    vec![
        step_case(1, 1.0, 1.0, Some(0.5), 10),
        step_case(63, 1.0, 1.0, Some(5.0), 10),
        step_case(65, 1e4, 0.0, Some(1e5), 10),
        step_case(4099, 1e-3, 1.0, Some(3.0), 10),
    ]
}

/// What a model asks of the ops: norm and step over one tensor of an adapter's size, which is what all of its tensors together are.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    // The norm reads the gradient; the step reads four and writes three.
    wanted.adapters("adamw", (16.0, 32.0, 16.0), |n| step_case(n, 0.01, 1.0, None, 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Buffer, Gpu, GpuOptions, Recorder};
    use crate::kernels::adamw::GLOBAL_NORM_PARTIAL;

    #[test]
    fn the_shader_has_the_block_size() {
        let block = format!("BLOCK: u32 = {BLOCK}u");
        assert!(GLOBAL_NORM_PARTIAL.wgsl().contains(&block));
    }

    fn run_steps(grads: impl Fn(u32) -> Vec<f32>, steps: u32) -> [Vec<f32>; 4] {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let start = [0.5f32, -1.25, 2.0, 0.0, -0.0625];
        let param = gpu.upload("param", &start).unwrap();
        let zeros = || gpu.upload("moment", &[0.0f32; 5]).unwrap();
        let (m, v, norm) = (zeros(), zeros(), gpu.alloc("norm", 4).unwrap());
        let scratch = NormScratch::new(&gpu, [5]).unwrap();
        let mut rec = Recorder::new(&gpu);
        for t in 1..=steps {
            let grad = gpu.upload("grad", &grads(t)).unwrap();
            global_norm(&mut rec, &[(&grad, 5)], &scratch, &norm).unwrap();
            let args = AdamWArgs {
                param: &param,
                grad: &grad,
                m: &m,
                v: &v,
                norm: &norm,
            };
            let settings = AdamW {
                lr: 1e-2,
                weight_decay: 0.1,
                step: t,
                ..AdamW::DEFAULT
            };
            adamw_step(&mut rec, &args, 5, settings).unwrap();
        }
        rec.submit().unwrap();
        let read = |b: &Buffer, n| gpu.read::<f32>(b, 0, n).unwrap();
        [read(&param, 5), read(&m, 5), read(&v, 5), read(&norm, 1)]
    }

    /// Ten steps of torch.optim.AdamW 2.15 (f32, lr 1e-2, decay 0.1, clip_grad_norm_ at 1) on gradients that are exact
    /// in f32: ((7i + 3t) mod 11 − 5) / 4.
    #[test]
    fn ten_steps_agree_with_torch() {
        let grads = |t| {
            (0..5)
                .map(|i| (((7 * i + 3 * t) % 11) as f32 - 5.0) / 4.0)
                .collect()
        };
        let got = run_steps(grads, 10);
        let want: [&[f64]; 4] = [
            &[
                0.4941457509994507,
                -1.2477165460586548,
                1.9512425661087036,
                0.030517812818288803,
                -0.07304555177688599,
            ],
            &[
                0.07179931551218033,
                -0.04038887098431587,
                -0.008557721972465515,
                -0.021821603178977966,
                -0.04944705590605736,
            ],
            &[
                0.0017503408016636968,
                0.002015546662732959,
                0.0023724613711237907,
                0.0016621614340692759,
                0.0021546001080423594,
            ],
            &[1.6393595933914185],
        ];
        for (got, want) in got.iter().zip(want) {
            for (g, w) in got.iter().zip(want) {
                let off = (f64::from(*g) - w).abs();
                assert!(off <= 1e-6 * w.abs() + 3e-8, "{g} vs {w}");
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        for bad in [f32::NAN, f32::INFINITY] {
            let [param, m, v, norm] = run_steps(|_| vec![1.0, bad, 0.0, 0.0, 0.0], 1);
            assert_eq!(param, [0.5, -1.25, 2.0, 0.0, -0.0625]);
            assert_eq!((m, v), (vec![0.0; 5], vec![0.0; 5]));
            assert!(!norm[0].is_finite());
        }
    }

    #[test]
    fn a_scratch_for_fewer_gradients_is_refused() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let scratch = NormScratch::new(&gpu, [BLOCK]).unwrap();
        let (x, norm) = (gpu.alloc("x", 64).unwrap(), gpu.alloc("n", 4).unwrap());
        let grads = [(&x, BLOCK), (&x, 1)];
        assert!(global_norm(&mut Recorder::new(&gpu), &grads, &scratch, &norm).is_err());
    }
}
