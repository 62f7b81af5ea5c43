//! Cases and tests of AdamW with 8-bit moments.

use super::{AdamW8bitArgs, BLOCK, State, step as step_8bit, step_twin};
use crate::kernels::adamw::AdamW;
use crate::kernels::harness::{Case, Gen, Slot, Tol, wide};
use crate::kernels::work::{Wanted, Work};

const PARAM: Tol = Tol {
    atol: 2e-7,
    rtol: 2e-6,
    why: "one f32 update; WGSL's square root and two divisions of 2.5 ulp each",
};
const CODE: Tol = Tol {
    atol: 1.0,
    rtol: 0.0,
    why: "an f32 moment within an ulp of where chance turns may go to the neighbouring code",
};
const SCALE: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "powers of two",
};

/// Place of a code of the first moment along the line of its values.
fn signed(code: u8) -> f32 {
    let magnitude = f32::from(code & 0x7f);
    if code < 128 { magnitude } else { -magnitude }
}

fn unsigned(code: u8) -> f32 {
    f32::from(code)
}

/// A case's data.
struct Data {
    param: Vec<f32>,
    grad: Vec<f32>,
    m: Vec<u8>,
    v: Vec<u8>,
    scales: Vec<[f32; 2]>,
}

impl Data {
    /// Moments and gradients of like sizes, as training has them.
    fn random(n: usize, scale: f32) -> Self {
        let mut g = Gen::new(n as u64);
        let codes = |x: Vec<u32>| x.into_iter().map(|c| c as u8).collect();
        // 2^k of the gradients' size, and its square.
        let power = f32::from_bits(scale.to_bits() & 0x7f80_0000);
        Self {
            param: g.uniform(n, 1.0),
            grad: g.uniform(n, scale),
            m: codes(g.below(n, 256)),
            v: codes(g.below(n, 56)).into_iter().map(|c: u8| 200 + c).collect(),
            scales: (0..n.div_ceil(BLOCK)).map(|_| [power, power * power]).collect(),
        }
    }

    /// Before the first step.
    fn fresh(n: usize, scale: f32) -> Self {
        Self {
            m: vec![0; n],
            v: vec![0; n],
            scales: vec![[0.0; 2]; n.div_ceil(BLOCK)],
            ..Self::random(n, scale)
        }
    }

    /// Every code of both moments; no gradient and no parameter hides what they decode to.
    fn every_code() -> Self {
        let codes: Vec<u8> = (0..=255).collect();
        Self {
            param: vec![0.0; BLOCK],
            grad: vec![0.0; BLOCK],
            m: codes.clone(),
            v: codes.into_iter().rev().collect(),
            scales: vec![[0.25, 0.5]],
        }
    }

    fn state(&self) -> State {
        State {
            m: self.m.clone(),
            v: self.v.clone(),
            scales: self.scales.iter().map(|s| s.map(f64::from)).collect(),
        }
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// One step: a second would go on from codes that chance may have turned the other way.
fn case(name: &str, data: Data, (clip, norm): (f64, f32), (tensor, first): (u64, usize), t: u32) -> Case {
    let n = data.param.len();
    let settings = AdamW {
        lr: 1e-2,
        weight_decay: 0.1,
        step: t,
        max_grad_norm: clip,
        ..AdamW::DEFAULT
    };
    let slots = vec![
        Slot::InOut(data.param.clone()),
        Slot::input(&data.grad),
        Slot::Bytes(words(&data.m), signed),
        Slot::Bytes(words(&data.v), unsigned),
        Slot::InOut(data.scales.iter().flatten().copied().collect()),
        Slot::input(&[norm]),
    ];
    Case {
        name: format!("adamw_8bit_step {name} n={n} clip={clip} t={t}"),
        slots,
        record: Box::new(move |rec, b| {
            let args = AdamW8bitArgs {
                param: &b[0],
                grad: &b[1],
                m: &b[2],
                v: &b[3],
                scales: &b[4],
                norm: &b[5],
                tensor,
                first,
            };
            step_8bit(rec, &args, n, settings)
        }),
        expect: Box::new(move || {
            let (mut param, mut state) = (wide(&data.param), data.state());
            let place = (tensor, first);
            step_twin(
                &mut param,
                &wide(&data.grad),
                &mut state,
                f64::from(norm),
                place,
                settings,
            );
            let place = |codes: &[u8], f: fn(u8) -> f32| codes.iter().map(|c| f64::from(f(*c))).collect();
            vec![
                (0, param, PARAM),
                (2, place(&state.m, signed), CODE),
                (3, place(&state.v, unsigned), CODE),
                (4, state.scales.concat(), SCALE),
            ]
        }),
        flops: 200.0 * n as f64,
    }
}

/// What a model asks of the op: a first step over one tensor of an adapter's size.
pub(in crate::kernels) fn work(wanted: &Wanted<'_>) -> Vec<Work> {
    // Parameter read and written, gradient read, two codes read and written.
    wanted.adapters("adamw_8bit", (40.0, 16.0, 10.0), |n| {
        case("first step", Data::fresh(n, 0.01), (1.0, 1.0), (0, 0), 1)
    })
}

pub(super) fn step() -> Vec<Case> {
    vec![
        case("first step", Data::fresh(520, 0.03), (1.0, 3.0), (0, 0), 1),
        case("every code", Data::every_code(), (1.0, 0.5), (3, 0), 4),
        case("", Data::random(4, 1.0), (1.0, 0.5), (1, 4096), 2),
        case("", Data::random(BLOCK - 4, 1.0), (1.0, 5.0), (1, 0), 10),
        case("", Data::random(BLOCK + 4, 1e3), (0.0, 1e5), (7, 16384), 100),
        case("", Data::random(16 * BLOCK + 60, 1e-3), (1.0, 3.0), (2, 0), 3),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{
        ADAMW_8BIT_STEP, FIRST_BIAS, SECOND_BIAS, decode, encode, first_value, scale_of, second_value,
    };
    use super::*;
    use crate::gpu::{Gpu, Recorder};

    #[test]
    fn the_shader_has_the_constants_of_a_block() {
        let text = ADAMW_8BIT_STEP.wgsl();
        for line in [
            format!("WORDS: u32 = {}u", BLOCK / 4),
            format!("FIRST_BIAS: u32 = {FIRST_BIAS}u"),
            format!("SECOND_BIAS: u32 = {SECOND_BIAS}u"),
        ] {
            assert!(text.contains(&line), "{line}");
        }
    }

    #[test]
    fn codes_grow_and_span_what_the_table_says() {
        for (bias, most, smallest, normal) in [
            (FIRST_BIAS, 127u8, 1.0 / 131_072.0, 1.0 / 16_384.0),
            (SECOND_BIAS, 255, 1.0 / 8_589_934_592.0, 1.0 / 1_073_741_824.0),
        ] {
            let values: Vec<f64> = (0..=most).map(|c| decode(c, bias)).collect();
            assert_eq!((values[0], values[1], values[8]), (0.0, smallest, normal));
            assert_eq!(*values.last().unwrap(), 1.875);
            for pair in values[8..].windows(2) {
                let step = (pair[1] - pair[0]) / pair[0];
                assert!(step > 0.06 && step <= 0.125, "{pair:?}");
            }
            assert!(values[..9].windows(2).all(|p| p[1] - p[0] == smallest));
        }
        assert_eq!(
            (first_value(0x87), second_value(7)),
            (-7.0 / 131_072.0, 7.0 / 8_589_934_592.0)
        );
        for (most, scale) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (1.874, 1.0),
            (1.875, 2.0),
            (3.0, 2.0),
            (0.3, 0.25),
        ] {
            assert_eq!(scale_of(most), scale);
        }
    }

    /// Over all random bits the mean of the codes is the value, and each is a neighbour of it.
    #[test]
    fn rounding_has_no_bias() {
        for x in [0.0, 1e-7, 3.3e-6, 6.1e-5, 0.01, 0.36, 0.99, 1.0, 1.8749, 1.875] {
            for (bias, most) in [(FIRST_BIAS, 127), (SECOND_BIAS, 255)] {
                let values: Vec<f64> = (0..1 << 16)
                    .map(|chance| decode(encode(x, chance << 4, bias, most), bias))
                    .collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let step = (x / 8.0).max(decode(1, bias));
                assert!((mean - x).abs() <= step / 65_536.0, "{x}: mean {mean}");
                assert!(values.iter().all(|v| (v - x).abs() <= step), "{x}");
            }
        }
    }

    /// The cases allow a neighbour for every code; here hardly any may differ.
    #[test]
    fn the_gpu_rounds_as_the_twin_does() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let data = Data::random(64 * BLOCK, 0.01);
        let upload = |bytes: &[u8]| gpu.upload("codes", &words(bytes)).unwrap();
        let (m, v) = (upload(&data.m), upload(&data.v));
        let args = AdamW8bitArgs {
            param: &gpu.upload("param", &data.param).unwrap(),
            grad: &gpu.upload("grad", &data.grad).unwrap(),
            m: &m,
            v: &v,
            scales: &gpu.upload("scales", &data.scales.concat()).unwrap(),
            norm: &gpu.upload("norm", &[1.0f32]).unwrap(),
            tensor: 9,
            first: 0,
        };
        let mut rec = Recorder::new(&gpu);
        step_8bit(&mut rec, &args, data.param.len(), AdamW::DEFAULT).unwrap();
        rec.submit().unwrap();
        let mut state = data.state();
        step_twin(
            &mut wide(&data.param),
            &wide(&data.grad),
            &mut state,
            1.0,
            (9, 0),
            AdamW::DEFAULT,
        );
        for (buffer, want) in [(&m, &state.m), (&v, &state.v)] {
            let got: Vec<u8> = gpu.read(buffer, 0, want.len()).unwrap();
            let off = got.iter().zip(want).filter(|(a, b)| a != b).count();
            assert!(off <= 16, "{off} of {} codes", want.len());
        }
    }

    #[test]
    fn a_norm_that_is_not_finite_changes_nothing_and_odd_lengths_are_refused() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let data = Data::random(BLOCK, 1.0);
        let buffers = [words(&data.m), words(&data.v)].map(|w| gpu.upload("codes", &w).unwrap());
        let param = gpu.upload("param", &data.param).unwrap();
        let scales = gpu.upload("scales", &data.scales.concat()).unwrap();
        let mut rec = Recorder::new(&gpu);
        for norm in [f32::NAN, f32::INFINITY] {
            let args = AdamW8bitArgs {
                param: &param,
                grad: &gpu.upload("grad", &data.grad).unwrap(),
                m: &buffers[0],
                v: &buffers[1],
                scales: &scales,
                norm: &gpu.upload("norm", &[norm]).unwrap(),
                tensor: 0,
                first: 0,
            };
            step_8bit(&mut rec, &args, BLOCK, AdamW::DEFAULT).unwrap();
            rec.submit().unwrap();
            assert!(step_8bit(&mut rec, &args, 6, AdamW::DEFAULT).is_err());
        }
        assert_eq!(gpu.read::<f32>(&param, 0, BLOCK).unwrap(), data.param);
        assert_eq!(gpu.read::<f32>(&scales, 0, 2).unwrap(), data.scales.concat());
        assert_eq!(gpu.read::<u8>(&buffers[0], 0, BLOCK).unwrap(), data.m);
        assert_eq!(gpu.read::<u8>(&buffers[1], 0, BLOCK).unwrap(), data.v);
    }

    /// Gradients a thousand times apart in one block: every element goes about as far as with exact moments.
    #[test]
    fn small_moments_live_beside_large_ones() {
        let (n, steps) = (BLOCK, 300);
        let mut state = State {
            m: vec![0; n],
            v: vec![0; n],
            scales: vec![[0.0; 2]; 1],
        };
        let (mut p8, mut p64) = (vec![0.0; n], vec![0.0; n]);
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let mut g = Gen::new(8);
        for t in 1..=steps {
            // Mean 0.3, deviation 0.58 of the element's size: 1 for the first sixteen, down to 1e-3.
            let size = |i: usize| [1.0, 0.1, 0.01, 1e-3][(i / 16).min(3)];
            let grad: Vec<f64> = g
                .uniform(n, 1.0)
                .iter()
                .enumerate()
                .map(|(i, x)| (f64::from(*x) + 0.3) * size(i))
                .collect();
            let a = AdamW {
                step: t,
                lr: 1e-3,
                max_grad_norm: 0.0,
                ..AdamW::DEFAULT
            };
            step_twin(&mut p8, &grad, &mut state, 1.0, (0, 0), a);
            crate::kernels::adamw::step_twin(&mut p64, &grad, &mut m, &mut v, 1.0, a);
            for (i, (a, b)) in state.v.iter().zip(&v).enumerate() {
                assert!(*a > 0 || *b == 0.0, "step {t} element {i}");
            }
        }
        // A second moment is off by some 20%, its root by 10%, and changes slowly: the mean of 16 elements is off by about 2%.
        for group in p8.chunks(16).zip(p64.chunks(16)) {
            let far = |p: &[f64]| p.iter().sum::<f64>() / p.len() as f64;
            let (a, b) = (far(group.0), far(group.1));
            assert!((a / b - 1.0).abs() < 0.05, "{a} against {b}");
        }
    }
}
