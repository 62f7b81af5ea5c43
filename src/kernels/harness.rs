//! Cases that serve tests and benches alike: a case says what buffers an op takes, how to record it, and what
//! its float64 twin expects. [`work`](super::work) makes them in the sizes of models.

use super::kv;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Recorder};
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;

/// How far a kernel may be from its twin, and why.
#[derive(Debug, Clone, Copy)]
pub struct Tol {
    /// Absolute part.
    pub atol: f64,
    /// Part relative to the expected value.
    pub rtol: f64,
    /// The cause: which rounding it allows for.
    pub why: &'static str,
}

/// One buffer of a case.
pub enum Slot {
    /// An input, as bytes.
    In(Vec<u8>),
    /// An output of this many f32, filled with NaN before the run.
    Out(usize),
    /// As [`Slot::Out`], of which the twin computes only these elements: all would take it too long.
    Picked(usize, Vec<usize>),
    /// Read and written: initial values.
    InOut(Vec<f32>),
    /// Bytes in words, read and written: initial words, and what a byte stands for when it is compared.
    Bytes(Vec<u32>, fn(u8) -> f32),
    /// Halves in words, two each, read and written: initial words.
    Halves(Vec<u32>),
}

impl Slot {
    /// An output of `rows` rows of `width`, of which the twin computes `picked`, in ascending order.
    pub fn rows(rows: usize, width: usize, picked: &[usize]) -> Self {
        if picked.len() == rows {
            return Self::Out(rows * width);
        }
        let places = picked.iter().flat_map(|r| r * width..(r + 1) * width);
        Self::Picked(rows * width, places.collect())
    }

    /// An input of any plain type.
    pub fn input<T: bytemuck::Pod>(data: &[T]) -> Self {
        Self::In(bytemuck::cast_slice(data).to_vec())
    }
}

/// What the twin expects in a buffer: slot index, values, tolerance.
pub type Expect = (usize, Vec<f64>, Tol);
/// Records the op on the case's buffers.
pub type RecordFn = Box<dyn Fn(&mut Recorder, &[Buffer]) -> Result<()>>;

/// Records with scratch that is made once for each device, as a training step has it.
pub(super) fn with_scratch<S: 'static>(
    make: impl Fn(&Gpu) -> Result<S> + 'static,
    record: impl Fn(&mut Recorder, &[Buffer], &S) -> Result<()> + 'static,
) -> RecordFn {
    let kept: RefCell<Option<(Gpu, S)>> = RefCell::new(None);
    Box::new(move |rec, buffers| {
        let mut kept = kept.borrow_mut();
        let scratch = match kept.take() {
            Some((gpu, scratch)) if gpu.is(rec.gpu()) => scratch,
            _ => make(rec.gpu())?,
        };
        let (_, scratch) = kept.insert((rec.gpu().clone(), scratch));
        record(rec, buffers, scratch)
    })
}

/// A test and bench case of one op.
pub struct Case {
    /// Shape and what is special about it.
    pub name: String,
    /// The buffers, in the order `record` takes them.
    pub slots: Vec<Slot>,
    /// Records the op.
    pub record: RecordFn,
    /// The float64 twin.
    pub expect: Box<dyn Fn() -> Vec<Expect>>,
    /// Floating-point operations of one run (for the benches).
    pub flops: f64,
}

/// Words after each buffer: after an output they must stay untouched, and after an input what reads them goes wrong.
pub(super) const GUARD: usize = 64;
/// A quiet NaN with a recognisable payload.
const CANARY: u32 = 0x7fc0_dead;

impl Case {
    /// The same case with the op's choice of variant forced.
    pub fn forced(mut self, variant: &'static str) -> Self {
        let record = self.record;
        self.record = Box::new(move |rec, buffers| {
            rec.force_variant(Some(variant));
            let result = record(rec, buffers);
            rec.force_variant(None);
            result
        });
        self
    }

    /// Runs the case once and returns the contents of every output, guards checked.
    ///
    /// # Errors
    /// The op failed, or it wrote past the end of an output.
    pub fn run(&self, gpu: &Gpu) -> Result<Vec<Option<Vec<f32>>>> {
        self.run_on(gpu, &self.upload(gpu)?)
    }

    /// As [`Case::run`], on buffers of [`Case::upload`].
    ///
    /// # Errors
    /// As [`Case::run`].
    pub fn run_on(&self, gpu: &Gpu, buffers: &[Buffer]) -> Result<Vec<Option<Vec<f32>>>> {
        let mut rec = Recorder::new(gpu);
        (self.record)(&mut rec, buffers)?;
        rec.submit()?;
        self.slots
            .iter()
            .zip(buffers)
            .map(|(slot, buffer)| self.read(gpu, slot, buffer))
            .collect()
    }

    /// Allocates and fills the case's buffers.
    ///
    /// # Errors
    /// Out of memory.
    pub fn upload(&self, gpu: &Gpu) -> Result<Vec<Buffer>> {
        let guarded = |bytes: &[u8]| {
            let end = bytes.len().next_multiple_of(4) as u64;
            let buffer = gpu.alloc("case", end + 4 * GUARD as u64)?;
            gpu.write(&buffer, 0, bytes);
            gpu.write(&buffer, end, &[CANARY; GUARD]);
            Ok(buffer)
        };
        self.slots
            .iter()
            .map(|slot| match slot {
                Slot::In(bytes) => guarded(bytes),
                Slot::Out(n) | Slot::Picked(n, _) => guarded(bytemuck::cast_slice(&vec![CANARY; *n])),
                Slot::InOut(values) => guarded(bytemuck::cast_slice(values)),
                Slot::Bytes(words, _) | Slot::Halves(words) => guarded(bytemuck::cast_slice(words)),
            })
            .collect()
    }

    fn read(&self, gpu: &Gpu, slot: &Slot, buffer: &Buffer) -> Result<Option<Vec<f32>>> {
        let n = match slot {
            Slot::In(_) => return Ok(None),
            Slot::Out(n) | Slot::Picked(n, _) => *n,
            Slot::InOut(values) => values.len(),
            Slot::Bytes(words, _) | Slot::Halves(words) => words.len(),
        };
        let from = if matches!(slot, Slot::Picked(..)) { n } else { 0 };
        let words: Vec<u32> = gpu.read(buffer, 4 * from as u64, n - from + GUARD)?;
        let (words, guard) = words.split_at(n - from);
        if guard.iter().any(|w| *w != CANARY) {
            return Err(Error::internal(format!(
                "{}: wrote past the end of an output",
                self.name
            )));
        }
        let one = |at: &usize| Ok(gpu.read::<f32>(buffer, 4 * *at as u64, 1)?[0]);
        Ok(Some(match slot {
            Slot::Bytes(_, value) => words.iter().flat_map(|w| w.to_le_bytes()).map(value).collect(),
            Slot::Halves(_) => words.iter().flat_map(|w| kv::halves(*w)).collect(),
            Slot::Picked(_, places) => places.iter().map(one).collect::<Result<_>>()?,
            _ => words.iter().map(|w| f32::from_bits(*w)).collect(),
        }))
    }

    /// The largest error of what [`Case::run_on`] returned, relative to the largest value of the same output; of what is exact or
    /// coded, infinite outside its tolerance and nothing within.
    pub fn error(&self, outputs: &[Option<Vec<f32>>]) -> f64 {
        let one = |(slot, want, tol): Expect| {
            let got = outputs[slot].as_deref().unwrap_or_default();
            let coded = matches!(self.slots[slot], Slot::Bytes(..) | Slot::Halves(_));
            if got.len() != want.len() || coded || (tol.atol, tol.rtol) == (0.0, 0.0) {
                let holds = got.len() == want.len() && worst(got, &want, tol).is_none();
                return if holds { 0.0 } else { f64::INFINITY };
            }
            relative(got, &want)
        };
        (self.expect)().into_iter().map(one).fold(0.0, f64::max)
    }

    /// Runs the case twice, compares the bits of the two runs, and compares with the twin.
    ///
    /// # Errors
    /// A difference, with the worst element named.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let (first, second) = (self.run(gpu)?, self.run(gpu)?);
        for (slot, want, tol) in (self.expect)() {
            let fail = |what: String| Err(Error::internal(format!("{} slot {slot}: {what}", self.name)));
            let (Some(got), Some(again)) = (&first[slot], &second[slot]) else {
                return fail("is not an output".into());
            };
            if got.iter().zip(again).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return fail("two runs differ in their bits".into());
            }
            if got.len() != want.len() {
                return fail(format!("{} values, the twin has {}", got.len(), want.len()));
            }
            if let Some((i, error)) = worst(got, &want, tol) {
                return fail(format!(
                    "element {i} is {}, the twin says {} ({error})",
                    got[i], want[i]
                ));
            }
        }
        Ok(())
    }
}

/// The largest error relative to the largest expected value; infinite where a value is NaN.
fn relative(got: &[f32], want: &[f64]) -> f64 {
    let (mut error, mut peak) = (0.0f64, 1e-30f64);
    for (got, want) in got.iter().zip(want) {
        let off = (f64::from(*got) - want).abs();
        error = error.max(if off.is_nan() { f64::INFINITY } else { off });
        peak = peak.max(want.abs());
    }
    error / peak
}

/// The element furthest outside its tolerance; anything not finite comes first.
fn worst(got: &[f32], want: &[f64], tol: Tol) -> Option<(usize, String)> {
    // Compared by bits: fast-math drivers may fold `is_nan` away in shaders, the host must not be fooled either.
    let finite = |v: f32| v.to_bits() & 0x7f80_0000 != 0x7f80_0000;
    if let Some(i) = (0..got.len()).find(|i| want[*i].is_finite() && !finite(got[*i])) {
        return Some((i, "not finite".into()));
    }
    let excess = |i: &usize| {
        let (got, want) = (f64::from(got[*i]), want[*i]);
        if got == want || got.is_nan() && want.is_nan() {
            return -f64::INFINITY;
        }
        let excess = (got - want).abs() - (tol.atol + tol.rtol * want.abs());
        if excess.is_nan() { f64::INFINITY } else { excess }
    };
    let i = (0..got.len()).max_by(|a, b| excess(a).total_cmp(&excess(b)))?;
    let off = (f64::from(got[i]) - want[i]).abs();
    (excess(&i) > 0.0).then(|| {
        (
            i,
            format!(
                "off by {off:.3e}, allowed {:.1e} + {:.1e}·|x|: {}",
                tol.atol, tol.rtol, tol.why
            ),
        )
    })
}

/// Seeded test data.
pub struct Gen(rand::rngs::StdRng);

impl Gen {
    /// A generator with its own stream.
    pub fn new(seed: u64) -> Self {
        Self(rand::rngs::StdRng::seed_from_u64(seed))
    }

    /// `n` values uniform in ±`scale`.
    pub fn uniform(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.0.random_range(-scale..=scale)).collect()
    }

    /// `n` integers below `end`.
    pub fn below(&mut self, n: usize, end: u32) -> Vec<u32> {
        (0..n).map(|_| self.0.random_range(0..end)).collect()
    }

    /// A `rows × cols` activation: stride [`pad4`](super::pad4)`(cols)`, padding zero.
    pub fn rows(&mut self, rows: usize, cols: usize, scale: f32) -> Vec<f32> {
        let ld = super::pad4(cols);
        let mut out = vec![0.0; rows * ld];
        for r in 0..rows {
            out[r * ld..r * ld + cols].copy_from_slice(&self.uniform(cols, scale));
        }
        out
    }
}

impl Tol {
    /// `fraction` of the largest expected magnitude: for sums whose terms cancel, where the rounding of the
    /// terms, not of the result, sets the error.
    pub fn of_peak(want: &[f64], fraction: f64, why: &'static str) -> Self {
        let peak = want.iter().fold(1e-30f64, |a, b| a.max(b.abs()));
        Self {
            atol: fraction * peak,
            rtol: 0.0,
            why,
        }
    }
}

/// The values in float64, as the twins take them.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Central differences of `loss` at `x`.
#[cfg(test)]
pub(crate) fn numeric_gradient(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            let h = 1e-5 * x[i].abs().max(1.0);
            at[i] = x[i] + h;
            let up = loss(&at);
            at[i] = x[i] - h;
            let down = loss(&at);
            at[i] = x[i];
            (up - down) / (2.0 * h)
        })
        .collect()
}

/// Fails unless `analytic` equals `numeric` to `1e-6` of the largest entry.
#[cfg(test)]
pub(crate) fn assert_gradient(what: &str, analytic: &[f64], numeric: &[f64]) {
    assert_eq!(analytic.len(), numeric.len(), "{what}");
    let peak = numeric.iter().fold(1e-9f64, |a, b| a.max(b.abs()));
    for (i, (a, n)) in analytic.iter().zip(numeric).enumerate() {
        assert!((a - n).abs() < 1e-6 * peak, "{what} element {i}: {a} against {n}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_peak_and_nan_is_the_worst() {
        assert_eq!(relative(&[1.0, -10.0], &[1.5, -10.0]), 0.05);
        assert_eq!(relative(&[1.0, f32::NAN, 0.0], &[1.0, 0.0, 0.0]), f64::INFINITY);
        assert_eq!(relative(&[], &[]), 0.0);
    }
}
