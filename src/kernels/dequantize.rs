//! Weight rows in f32, whatever the element type: what every other kernel reads through `weight4`, made visible.

use super::harness::{Case, Gen, Slot, Tol};
use super::weight::{ByType, Weight, lanes, of, section_words, weight_entries, weight_kernels};
use super::weight_cases::{TestWeight, test_cols};
use super::{Entry, fold, pad4};
use crate::error::Result;
use crate::gpu::{Buffer, Recorder, params};
use crate::tensor::DType;
use std::ops::Range;

static DEQUANTIZE: ByType = weight_kernels!("dequantize", "dequantize.wgsl");

params! {
    struct Params {
        rows: u32,
        k4: u32,
        w_section: u32,
        w_row: u32,
        y_row: u32,
    }
}

/// `y (range, cols)` = the rows `range` of W in f32, row stride [`pad4`] with zeros in the padding.
///
/// # Errors
/// A GPU error.
pub fn rows(rec: &mut Recorder, w: &Weight, range: Range<usize>, y: &Buffer) -> Result<()> {
    let k4 = pad4(w.cols) / 4;
    for (shard, row, rows, at) in w.parts(range) {
        let params = Params {
            rows: rows as u32,
            k4: k4 as u32,
            w_section: section_words(w.dtype, shard.rows, w.cols) as u32,
            w_row: row as u32,
            y_row: at as u32,
        };
        let lanes = lanes(rec);
        rec.dispatch(
            of(&DEQUANTIZE, w.dtype),
            &[("LANES", lanes as f64)],
            &params,
            &[y.into(), (&shard.buffer).into()],
            fold(rows * k4, lanes),
        )?;
    }
    Ok(())
}

/// Exact: no element of any format needs more than the 24 bits of an f32 product before its one rounding, so the
/// result does not depend on whether the driver fuses. Half a unit in the last place allows nothing but equality.
pub(super) const EXACT: Tol = Tol {
    atol: 0.0,
    rtol: 1.0 / (1 << 24) as f64,
    why: "dequantisation equals the CPU's to the bit",
};

/// `values` with rows padded to [`pad4`] columns.
pub(super) fn padded(values: &[f32], cols: usize) -> Vec<f64> {
    let mut out = vec![0.0; values.len() / cols * pad4(cols)];
    for (from, to) in values.chunks_exact(cols).zip(out.chunks_exact_mut(pad4(cols))) {
        to.iter_mut().zip(from).for_each(|(t, f)| *t = f64::from(*f));
    }
    out
}

fn case(weight: TestWeight, range: Range<usize>, what: &str) -> Case {
    let (dtype, n, cols) = (weight.dtype, weight.rows, weight.cols);
    let slots = vec![Slot::input(&weight.words()), Slot::Out(range.len() * pad4(cols))];
    let part = range.clone();
    Case {
        name: format!("{what}, rows {range:?} of {n} × {cols}"),
        slots,
        record: Box::new(move |rec, b| {
            let w = Weight::from_buffer(dtype, n, cols, b[0].clone());
            rows(rec, &w, range.clone(), &b[1])
        }),
        expect: Box::new(move || {
            let values = weight.values();
            let part = &values[part.start * cols..part.end * cols];
            vec![(1, padded(part, cols), EXACT)]
        }),
        flops: 0.0,
    }
}

fn cases<const TYPE: usize>() -> Vec<Case> {
    let dtype = DType::ALL[TYPE];
    let mut g = Gen::new(40 + TYPE as u64);
    let [a, b, c, d] = test_cols(dtype);
    vec![
        case(TestWeight::random(&mut g, dtype, 1, a, 1.0), 0..1, "one row"),
        case(TestWeight::random(&mut g, dtype, 7, b, 1e4), 0..7, "large"),
        case(TestWeight::random(&mut g, dtype, 37, c, 1.0), 5..31, "a slice"),
        case(TestWeight::random(&mut g, dtype, 9, d, 1e-3), 0..9, "small"),
        case(TestWeight::extreme(&mut g, dtype, 67, b), 0..67, "extreme scales"),
        case(TestWeight::extreme(&mut g, dtype, 61, a), 0..61, "extreme scales"),
    ]
}

/// The kernels of this file.
pub fn entries() -> Vec<Entry> {
    weight_entries!(DEQUANTIZE, cases).collect()
}
