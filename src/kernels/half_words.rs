//! f32 values kept as f16, two in a word, rounded as [`kv`] says. The conversions are integer work and core WGSL: no
//! adapter needs f16 arithmetic.

use super::elementwise::dispatch;
use super::harness::{Case, Gen, Slot, Tol};
use super::{Entry, kv};
use crate::config::FloatDtype;
use crate::error::Result;
use crate::gpu::{Buffer, Kernel, Recorder, shaders};

static PACK: Kernel = Kernel::portable("half_pack", shaders!["half_pack.wgsl", "shared/halves.wgsl"]);
static UNPACK: Kernel = Kernel::portable("half_unpack", shaders!["half_unpack.wgsl"]);

/// `words (n / 2)` u32 = `values (n)` f32 rounded to f16; `n` is a multiple of 4.
///
/// # Errors
/// A GPU error.
pub fn pack(rec: &mut Recorder, values: &Buffer, words: &Buffer, n: usize) -> Result<()> {
    dispatch(rec, &PACK, &[values.into(), words.into()], n)
}

/// `values (n)` f32 = what [`pack`] left in `words (n / 2)`; `n` is a multiple of 4.
///
/// # Errors
/// A GPU error.
pub fn unpack(rec: &mut Recorder, words: &Buffer, values: &Buffer, n: usize) -> Result<()> {
    dispatch(rec, &UNPACK, &[words.into(), values.into()], n)
}

/// The ops' rows in the kernel table.
pub fn entries() -> Vec<Entry> {
    vec![
        Entry::new(&PACK, || SHAPES.iter().map(|s| pack_case(*s)).collect()),
        Entry::new(&UNPACK, || SHAPES.iter().map(|s| unpack_case(*s)).collect()),
    ]
}

/// (values, largest magnitude)
const SHAPES: &[(usize, f32)] = &[
    (4, 1.0),
    (4 * 63, 8.0),
    (4 * 65, 1e6),
    (4 * 1009, 1e-3),
    (4 * 64 * 65_536, 3.0),
];

fn data(seed: u64, (n, scale): (usize, f32)) -> Vec<f32> {
    // The folded shape repeats one row: its point is the indices, and random data of this size is slow to make.
    let row = Gen::new(seed + n as u64).uniform(n.min(8192), scale);
    row.into_iter().cycle().take(n).collect()
}

const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 0.0,
    why: "rounding is integer work, and every f16 that is not subnormal is an f32",
};

fn pack_case(shape: (usize, f32)) -> Case {
    let (n, values) = (shape.0, data(5, shape));
    Case {
        name: format!("half_pack n{n} |x|{:e}", shape.1),
        slots: vec![Slot::input(&values), Slot::Out(n / 2), Slot::Out(n)],
        record: Box::new(move |rec, b| {
            pack(rec, &b[0], &b[1], n)?;
            unpack(rec, &b[1], &b[2], n)
        }),
        expect: Box::new(move || vec![(2, kv::read_back(&values, FloatDtype::Float16), EXACT)]),
        flops: n as f64,
    }
}

fn unpack_case(shape: (usize, f32)) -> Case {
    let (n, values) = (shape.0, data(6, shape));
    let words = kv::stored(&values, FloatDtype::Float16);
    Case {
        name: format!("half_unpack n{n} |x|{:e}", shape.1),
        slots: vec![Slot::input(&words), Slot::Out(n)],
        record: Box::new(move |rec, b| unpack(rec, &b[0], &b[1], n)),
        expect: Box::new(move || vec![(1, kv::read_back(&values, FloatDtype::Float16), EXACT)]),
        flops: n as f64,
    }
}
