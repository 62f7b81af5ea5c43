//! Cases that serve tests and benches alike: a case says what buffers an op takes, how to record it, and what
//! its float64 twin expects.

use super::kv;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Kernel, Recorder, reflect};
use rand::{RngExt, SeedableRng};

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
    /// Read and written: initial values.
    InOut(Vec<f32>),
    /// Bytes in words, read and written: initial words, and what a byte stands for when it is compared.
    Bytes(Vec<u32>, fn(u8) -> f32),
    /// Halves in words, two each, read and written: initial words.
    Halves(Vec<u32>),
}

impl Slot {
    /// An input of any plain type.
    pub fn input<T: bytemuck::Pod>(data: &[T]) -> Self {
        Self::In(bytemuck::cast_slice(data).to_vec())
    }
}

/// What the twin expects in a buffer: slot index, values, tolerance.
pub type Expect = (usize, Vec<f64>, Tol);
/// Records the op on the case's buffers.
pub type RecordFn = Box<dyn Fn(&mut Recorder, &[Buffer]) -> Result<()>>;

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
        let buffers = self.upload(gpu)?;
        let mut rec = Recorder::new(gpu);
        (self.record)(&mut rec, &buffers)?;
        rec.submit()?;
        self.slots
            .iter()
            .zip(&buffers)
            .map(|(slot, buffer)| self.read(gpu, slot, buffer))
            .collect()
    }

    /// Allocates and fills the case's buffers.
    ///
    /// # Errors
    /// Out of memory.
    pub fn upload(&self, gpu: &Gpu) -> Result<Vec<Buffer>> {
        let guarded = |mut words: Vec<u32>| {
            words.extend([CANARY; GUARD]);
            gpu.upload("case", &words)
        };
        self.slots
            .iter()
            .map(|slot| match slot {
                Slot::In(bytes) => {
                    let mut words = bytes.clone();
                    words.resize(bytes.len().next_multiple_of(4), 0);
                    guarded(bytemuck::pod_collect_to_vec(&words))
                }
                Slot::Out(n) => guarded(vec![CANARY; *n]),
                Slot::InOut(values) => guarded(values.iter().map(|v| v.to_bits()).collect()),
                Slot::Bytes(words, _) | Slot::Halves(words) => guarded(words.clone()),
            })
            .collect()
    }

    fn read(&self, gpu: &Gpu, slot: &Slot, buffer: &Buffer) -> Result<Option<Vec<f32>>> {
        let n = match slot {
            Slot::In(_) => return Ok(None),
            Slot::Out(n) => *n,
            Slot::InOut(values) => values.len(),
            Slot::Bytes(words, _) | Slot::Halves(words) => words.len(),
        };
        let words: Vec<u32> = gpu.read(buffer, 0, n + GUARD)?;
        if words[n..].iter().any(|w| *w != CANARY) {
            return Err(Error::internal(format!(
                "{}: wrote past the end of an output",
                self.name
            )));
        }
        let words = &words[..n];
        Ok(Some(match slot {
            Slot::Bytes(_, value) => words.iter().flat_map(|w| w.to_le_bytes()).map(value).collect(),
            Slot::Halves(_) => words.iter().flat_map(|w| kv::halves(*w)).collect(),
            _ => words.iter().map(|w| f32::from_bits(*w)).collect(),
        }))
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

/// The element furthest outside its tolerance; anything not finite comes first.
fn worst(got: &[f32], want: &[f64], tol: Tol) -> Option<(usize, String)> {
    // Compared by bits: fast-math drivers may fold `is_nan` away in shaders, the host must not be fooled either.
    let finite = |v: f32| v.to_bits() & 0x7f80_0000 != 0x7f80_0000;
    if let Some(i) = (0..got.len()).find(|i| want[*i].is_finite() && !finite(got[*i])) {
        return Some((i, "not finite".into()));
    }
    let excess = |i: &usize| (f64::from(got[*i]) - want[*i]).abs() - (tol.atol + tol.rtol * want[*i].abs());
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

/// Compares a parameter struct with the shader's immediate struct: the same members at the same offsets, nothing more.
///
/// # Panics
/// They differ, or the shader does not parse. For tests.
pub fn assert_layout<P>(kernel: &Kernel, members: &[(&str, usize)]) {
    let shader = match reflect(kernel) {
        Ok(reflection) => reflection,
        Err(e) => panic!("{e}"),
    };
    let found: Vec<(&str, usize)> = shader
        .immediate_members
        .iter()
        .map(|(name, at)| (name.as_str(), *at as usize))
        .collect();
    assert_eq!(found, members, "{}: members and offsets", kernel.name);
    assert_eq!(
        shader.immediate_bytes as usize,
        size_of::<P>(),
        "{}: size",
        kernel.name
    );
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

/// Runs every case of `entries` on the default adapter and fails with all failures at once.
#[cfg(test)]
pub(crate) fn check_entries(entries: &[super::Entry]) {
    let gpu = Gpu::open(&Default::default()).expect("a Vulkan, Metal or DX12 adapter");
    let failures: Vec<String> = entries
        .iter()
        .filter(|e| gpu.report().runs(e.kernel))
        .flat_map(|e| (e.cases)())
        .filter_map(|c| c.check(&gpu).err().map(|e| e.to_string()))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
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
