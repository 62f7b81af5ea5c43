//! Repetitions of a piece of GPU work, and their statistics.

use crate::error::Result;
use crate::gpu::{Gpu, Recorder};
use std::collections::BTreeMap;
use std::time::Instant;

/// How much time a case may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Samples wanted.
    pub repetitions: usize,
    /// Seconds after which no further sample is taken (one is always taken).
    pub max_seconds: f64,
}

/// What the samples were taken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// GPU timestamps around every dispatch, added up.
    Gpu,
    /// The host's clock from recording to the end of the wait.
    Wall,
}

/// The samples of one case.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Seconds of one run each.
    pub samples: Vec<f64>,
    /// How they were taken.
    pub clock: Clock,
    /// Seconds of one run by kernel, where the GPU was asked.
    pub kernels: BTreeMap<String, f64>,
}

/// A sample shorter than this is made of several runs, so that the clock's resolution and the submission do not show.
const LEAST_SAMPLE: f64 = 0.01;
/// Most runs in a sample.
const MOST_RUNS: f64 = 200.0;

/// Runs `work` once to warm up (pipelines are built, caches filled), once to size the samples, then `effort.repetitions`
/// times or until the time is up.
///
/// # Errors
/// What `work` meets.
pub fn measure(gpu: &Gpu, effort: Effort, work: &dyn Fn(&mut Recorder) -> Result<()>) -> Result<Timing> {
    sample(gpu, work, 1)?;
    let begun = Instant::now();
    let (one, first) = sample(gpu, work, 1)?;
    let runs = (LEAST_SAMPLE / one.max(1e-9)).ceil().clamp(1.0, MOST_RUNS) as usize;
    // A run that is long enough is a sample already.
    let mut samples = if runs == 1 { vec![one] } else { Vec::new() };
    let mut kernels = first;
    while samples.len() < effort.repetitions {
        if !samples.is_empty() && begun.elapsed().as_secs_f64() > effort.max_seconds {
            break;
        }
        let (seconds, by_kernel) = sample(gpu, work, runs)?;
        samples.push(seconds);
        kernels = by_kernel;
    }
    let clock = if kernels.is_empty() {
        Clock::Wall
    } else {
        Clock::Gpu
    };
    Ok(Timing {
        samples,
        clock,
        kernels,
    })
}

/// Seconds of one of `runs` runs in one submission, and by kernel where the GPU is profiled.
fn sample(
    gpu: &Gpu,
    work: &dyn Fn(&mut Recorder) -> Result<()>,
    runs: usize,
) -> Result<(f64, BTreeMap<String, f64>)> {
    gpu.clear_profile();
    let begun = Instant::now();
    let mut rec = Recorder::new(gpu);
    for _ in 0..runs {
        work(&mut rec)?;
    }
    rec.submit()?;
    gpu.wait()?;
    let wall = begun.elapsed().as_secs_f64() / runs as f64;
    let kernels: BTreeMap<String, f64> = gpu
        .profile()
        .into_iter()
        .map(|row| (row.kernel, row.seconds / runs as f64))
        .collect();
    let on_gpu: f64 = kernels.values().sum();
    // A driver may offer timestamps and return zeros.
    if on_gpu > 0.0 {
        Ok((on_gpu, kernels))
    } else {
        Ok((wall, BTreeMap::new()))
    }
}

/// Median; NaN of nothing.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Mean; NaN of nothing.
pub fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

/// Sample standard deviation (n − 1); 0 of fewer than two.
pub fn deviation(samples: &[f64]) -> f64 {
    if samples.len() < 2 {
        return 0.0;
    }
    let m = mean(samples);
    let squares: f64 = samples.iter().map(|x| (x - m).powi(2)).sum();
    (squares / (samples.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::kernels::ceiling;
    use std::cell::Cell;

    #[test]
    fn statistics() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(deviation(&[1.0]), 0.0);
        assert!((deviation(&[1.0, 2.0, 3.0, 4.0]) - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn samples_are_counted_and_the_budget_holds() {
        for profile in [false, true] {
            let options = GpuOptions {
                device: std::env::var("TEA_DEVICE").ok(),
                profile,
                ..Default::default()
            };
            let gpu = Gpu::open(&options).unwrap();
            let out = gpu.alloc("out", 64).unwrap();
            let runs = Cell::new(0);
            let work = |rec: &mut Recorder| {
                runs.set(runs.get() + 1);
                ceiling::mark(rec, &out, 3, 2.5)
            };
            let effort = |repetitions, max_seconds| Effort {
                repetitions,
                max_seconds,
            };
            let t = measure(&gpu, effort(5, 60.0), &work).unwrap();
            assert_eq!(t.samples.len(), 5);
            assert!(t.samples.iter().all(|s| *s > 0.0 && s.is_finite()), "{t:?}");
            assert!(runs.get() >= 7);
            // The clock is the GPU's only where it was asked for, and then the kernel is named.
            assert!(profile || t.clock == Clock::Wall);
            assert_eq!(t.clock == Clock::Gpu, t.kernels.contains_key("bench_mark"));
            // No time: one sample all the same.
            assert_eq!(measure(&gpu, effort(5, 0.0), &work).unwrap().samples.len(), 1);
            assert_eq!(gpu.read::<f32>(&out, 12, 1).unwrap(), [2.5]);
        }
    }
}
