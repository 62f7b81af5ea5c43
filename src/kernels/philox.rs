//! Philox words from the GPU: the check that the sampler's random bits are the CPU's.

use super::harness::{Case, Gen, Slot, Tol};
use super::{Entry, fold};
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, params, shaders};
use crate::rng::philox4x32;

static PHILOX_WORDS: Kernel = Kernel::portable(
    "philox_words",
    shaders!["philox_words.wgsl", "shared/philox.wgsl"],
);

params! {
    struct Params {
        n: u32,
        key0: u32,
        key1: u32,
    }
}

/// `halves (n, 8)`: the four Philox words of each of `counters (n) vec4<u32>` under `key`, as high and low 16 bits
/// in f32 (exact).
///
/// # Errors
/// A GPU error.
pub fn words(rec: &mut Recorder, counters: &Buffer, halves: &Buffer, key: [u32; 2], n: usize) -> Result<()> {
    let lanes = super::reduce::lanes(rec, 64);
    let params = Params {
        n: n as u32,
        key0: key[0],
        key1: key[1],
    };
    rec.dispatch(
        &PHILOX_WORDS,
        &[("LANES", lanes as f64)],
        &params,
        &[counters.into(), halves.into()],
        fold(n, lanes),
    )
}

fn twin(counters: &[u32], key: [u32; 2]) -> Vec<f64> {
    counters
        .chunks_exact(4)
        .flat_map(|c| philox4x32([c[0], c[1], c[2], c[3]], key))
        .flat_map(|w| [f64::from(w >> 16), f64::from(w & 0xffff)])
        .collect()
}

fn case(n: usize, key: [u32; 2]) -> Case {
    let mut counters = Gen::new(n as u64).below(4 * n, u32::MAX);
    counters[..4].fill(u32::MAX);
    let expected = twin(&counters, key);
    let exact = Tol {
        atol: 0.0,
        rtol: 0.0,
        why: "integers",
    };
    Case {
        name: format!("philox_words n={n}"),
        slots: vec![Slot::input(&counters), Slot::Out(8 * n)],
        record: Box::new(move |rec, b| words(rec, &b[0], &b[1], key, n)),
        expect: Box::new(move || vec![(1, expected.clone(), exact)]),
        flops: n as f64 * 100.0,
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(1, [u32::MAX; 2]),
        case(63, [1, 2]),
        case(65, [0, 0]),
        case(257, [0xa409_3822, 0x299f_31d0]),
    ]
}

/// Table rows.
pub fn entries() -> Vec<Entry> {
    vec![Entry::new(&PHILOX_WORDS, cases)]
}
