//! Times the variants of a class against each other.

use super::Class;
use super::file::Choice;
use crate::error::Result;
use crate::gpu::{Buffer, Gpu, Recorder};
use crate::kernels::linear::{self, Write};
use crate::kernels::linear_variants::{FORWARD_OP, INPUT_GRADIENT_OP, exact_variants};
use crate::kernels::pad4;
use crate::kernels::weight::{Weight, device_bytes};
use crate::tensor::DType;
use std::time::Instant;

/// Rounds over all variants; the least time of each counts.
const ROUNDS: usize = 5;
/// A sample is as many runs as make this many seconds, so that the submission does not show.
const SAMPLE: f64 = 1e-3;
/// Most runs in a sample.
const MOST_RUNS: f64 = 50.0;
/// Seconds of a run of the default above which a product with fewer columns is measured in its place.
const LONG: f64 = 0.01;
/// The fewest columns then, and what their number is a multiple of: the longest block of a quantised weight.
const LEAST_COLS: usize = 256;
/// A variant that takes this many times the best one's time when it is warmed up is not timed again.
const HOPELESS: f64 = 3.0;
/// Another variant than the default is taken where its time is at most this share of the default's: less is noise.
pub(super) const BETTER: f64 = 0.95;

/// The operands of one product, zeroed: their values do not change the work.
struct Product {
    class: Class,
    left: Buffer,
    right: Buffer,
    out: Buffer,
}

impl Product {
    fn new(gpu: &Gpu, class: Class) -> Result<Self> {
        let floats = |label, rows: usize, cols: usize| gpu.alloc(label, (rows * pad4(cols) * 4) as u64);
        let Class {
            rows,
            cols,
            sum,
            dtype,
            ..
        } = class;
        let (left, right) = match class.op {
            FORWARD_OP => ((rows, sum), device_bytes(dtype, cols, sum)),
            INPUT_GRADIENT_OP => ((rows, sum), device_bytes(dtype, sum, cols)),
            _ => ((sum, rows), (sum * pad4(cols) * 4) as u64),
        };
        Ok(Self {
            class,
            left: floats("tuning", left.0, left.1)?,
            right: gpu.alloc("tuning", right)?,
            out: floats("tuning", rows, cols)?,
        })
    }

    fn record(&self, rec: &mut Recorder) -> Result<()> {
        let Class {
            rows,
            cols,
            sum,
            dtype,
            ..
        } = self.class;
        let weight = |n, k| Weight::from_buffer(dtype, n, k, self.right.clone());
        match self.class.op {
            FORWARD_OP => {
                let w = weight(cols, sum);
                linear::forward(rec, &self.left, &w, None, &self.out, rows, Write::SET)
            }
            INPUT_GRADIENT_OP => {
                let w = weight(sum, cols);
                linear::input_gradient(rec, &self.left, &w, &self.out, rows, Write::SET)
            }
            _ => {
                let dw = Weight::from_buffer(DType::F32, rows, cols, self.out.clone());
                linear::weight_gradient(rec, &self.left, &self.right, &dw, sum, Write::SET)
            }
        }
    }

    /// Seconds of one of `runs` runs.
    fn seconds(&self, gpu: &Gpu, variant: &'static str, runs: usize) -> Result<f64> {
        let begun = Instant::now();
        let mut rec = Recorder::new(gpu);
        rec.force_variant(Some(variant));
        for _ in 0..runs {
            self.record(&mut rec)?;
        }
        rec.submit()?;
        gpu.wait()?;
        Ok(begun.elapsed().as_secs_f64() / runs as f64)
    }
}

/// Times every class, in order, until the time is up.
pub(super) fn all(gpu: &Gpu, classes: &[Class], until: Option<Instant>) -> Result<Vec<Choice>> {
    let in_time = || until.is_none_or(|end| Instant::now() < end);
    let mut out = Vec::new();
    for class in classes {
        match one(gpu, *class, &in_time)? {
            Some(choice) => out.push(choice),
            None => break,
        }
    }
    Ok(out)
}

/// Seconds of one run, after one that builds the pipeline.
fn warmed_up(gpu: &Gpu, product: &Product, variant: &'static str) -> Result<f64> {
    product.seconds(gpu, variant, 1)?;
    product.seconds(gpu, variant, 1)
}

/// The choice for one class; `None` where the time is up before every variant was tried.
fn one(gpu: &Gpu, mut class: Class, in_time: &dyn Fn() -> bool) -> Result<Option<Choice>> {
    if !in_time() {
        return Ok(None);
    }
    let default = class.default_variant(gpu);
    let mut product = Product::new(gpu, class)?;
    let mut usual = warmed_up(gpu, &product, default)?;
    if usual > LONG && class.cols > LEAST_COLS {
        let cols = (class.cols as f64 * LONG / usual) as usize / LEAST_COLS * LEAST_COLS;
        class.cols = cols.max(LEAST_COLS);
        product = Product::new(gpu, class)?;
        usual = product.seconds(gpu, default, 1)?;
    }
    let mut warm = vec![(default, usual)];
    for variant in exact_variants(gpu, class.op) {
        if !in_time() {
            return Ok(None);
        }
        if variant != default {
            warm.push((variant, warmed_up(gpu, &product, variant)?));
        }
    }
    let best = warm.iter().fold(f64::INFINITY, |least, (_, s)| least.min(*s));
    let mut times = warm.clone();
    times.retain(|(name, s)| *name == default || *s <= HOPELESS * best);
    let runs = |seconds: f64| (SAMPLE / seconds.max(1e-9)).ceil().clamp(1.0, MOST_RUNS) as usize;
    let runs: Vec<usize> = times.iter().map(|(_, s)| runs(*s)).collect();
    for _ in 0..ROUNDS {
        for ((variant, least), runs) in times.iter_mut().zip(&runs) {
            *least = least.min(product.seconds(gpu, variant, *runs)?);
        }
    }
    Ok(Some(Choice::new(&class, winner(default, &times), &times)))
}

/// The fastest, or the default where that is about as fast.
pub(super) fn winner(default: &'static str, times: &[(&'static str, f64)]) -> &'static str {
    let of = |name: &str| times.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    let Some((best, least)) = times.iter().min_by(|a, b| a.1.total_cmp(&b.1)) else {
        return default;
    };
    match of(default) {
        Some(seconds) if *least > BETTER * seconds => default,
        _ => best,
    }
}
