//! What this adapter does at best, measured with kernels that do nothing else.

use super::output::Row;
use super::timing::{Clock, Effort, Timing, measure, median};
use crate::error::Result;
use crate::gpu::{Buffer, DeviceKind, Gpu, Kernel, Recorder};
use crate::kernels::ceiling::{self as kernels, COOP, Chains, FMA, ReadShape, coop_flops, lanes};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Seconds that one sample of a rate should take: long against a submission, short against a watchdog.
const SAMPLE_SECONDS: f64 = 0.05;
/// Bytes of a buffer that is read or copied, where one binding takes as much: more than a cache holds.
const BUFFER_BYTES: u64 = 256 << 20;
/// Dispatches of one submission whose cost is divided among them (the recorder submits at 256).
const DISPATCHES: usize = 200;

/// The rate of a cooperative-matrix shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoopRate {
    /// "8×8×8 f16→f32".
    pub shape: String,
    /// Floating-point operations a second.
    pub flops: f64,
}

/// The best that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// f32 multiply-adds, floating-point operations a second.
    pub fma_f32: f64,
    /// f16 multiply-adds, where the adapter has them.
    pub fma_f16: Option<f64>,
    /// Cooperative matrices, one entry a shape that was run.
    pub coop: Vec<CoopRate>,
    /// Bytes a second that a kernel reads.
    pub read: f64,
    /// Bytes a second that a kernel reads and writes.
    pub copy: f64,
    /// Seconds a dispatch costs in a submission of many.
    pub dispatch: f64,
    /// Seconds to submit one dispatch and wait for it.
    pub submit: f64,
    /// Seconds to read four bytes back.
    pub readback: f64,
}

impl Ceiling {
    /// Bytes a second: the better of reading and copying.
    pub fn bandwidth(&self) -> f64 {
        self.read.max(self.copy)
    }

    /// The higher rates of two measurements.
    #[must_use]
    pub fn best(&self, other: &Self) -> Self {
        let mut coop = self.coop.clone();
        for rate in &mut coop {
            let again = other.coop.iter().find(|c| c.shape == rate.shape);
            rate.flops = again.map_or(rate.flops, |c| rate.flops.max(c.flops));
        }
        Self {
            fma_f32: self.fma_f32.max(other.fma_f32),
            fma_f16: self.fma_f16.zip(other.fma_f16).map(|(a, b)| a.max(b)),
            coop,
            read: self.read.max(other.read),
            copy: self.copy.max(other.copy),
            ..self.clone()
        }
    }

    /// The adapter's fastest cooperative matrices; f32 multiply-adds where it has none.
    pub fn coop_best(&self) -> f64 {
        self.coop.iter().map(|c| c.flops).fold(self.fma_f32, f64::max)
    }
}

/// A ceiling and the rows that report it.
pub struct Measured {
    /// The numbers.
    pub ceiling: Ceiling,
    /// One row a measurement.
    pub rows: Vec<Row>,
}

/// Measures everything, or (`brief`) only what the roofline needs: f32 multiply-adds and bandwidth.
///
/// `gpu` should be open without profiling: dispatches are then timed as they run in practice.
///
/// # Errors
/// A GPU error.
pub fn run(gpu: &Gpu, effort: Effort, brief: bool) -> Result<Measured> {
    let mut rows = Vec::new();
    let fma_f32 = fma(gpu, effort, "f32", &mut rows)?;
    let (read, copy) = bandwidth(gpu, effort, brief, &mut rows)?;
    let mut ceiling = Ceiling {
        fma_f32,
        fma_f16: None,
        coop: Vec::new(),
        read,
        copy,
        dispatch: 0.0,
        submit: 0.0,
        readback: 0.0,
    };
    if gpu.caps().f16 {
        ceiling.fma_f16 = Some(fma(gpu, effort, "f16", &mut rows)?);
    } else if !brief {
        rows.push(Row::skipped("fma", "f16", "the adapter has no 16-bit floats"));
    }
    ceiling.coop = coop(gpu, effort, brief, &mut rows)?;
    if !brief {
        costs(gpu, effort, &mut ceiling, &mut rows)?;
    }
    Ok(Measured { ceiling, rows })
}

/// A row of rates from a timing of work that has `amount` of something.
fn rate_row(
    test: &str,
    dtype: &str,
    variant: String,
    amount: f64,
    unit: &str,
    timing: &Timing,
) -> (Row, f64) {
    let samples: Vec<f64> = timing.samples.iter().map(|s| amount / s / 1e9).collect();
    let best = median(&samples) * 1e9;
    let row = Row {
        dtype: dtype.into(),
        test: test.into(),
        variant,
        unit: unit.into(),
        clock: Some(timing.clock),
        ..Row::of(samples, true)
    };
    (row, best)
}

/// Doubles `rounds` until one run takes long enough to be timed.
fn calibrate(gpu: &Gpu, run: &dyn Fn(&mut Recorder, u32) -> Result<()>) -> Result<u32> {
    let mut rounds = 4;
    let once = |rounds| -> Result<f64> {
        let mut rec = Recorder::new(gpu);
        let begun = Instant::now();
        run(&mut rec, rounds)?;
        rec.submit()?;
        gpu.wait()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    once(rounds)?;
    while once(rounds)? < SAMPLE_SECONDS && rounds < 1 << 20 {
        rounds *= 2;
    }
    Ok(rounds)
}

/// Invocations that fill the adapter.
fn invocations(kind: DeviceKind) -> usize {
    if kind == DeviceKind::Cpu { 1 << 13 } else { 1 << 20 }
}

fn fma(gpu: &Gpu, effort: Effort, dtype: &str, rows: &mut Vec<Row>) -> Result<f64> {
    let count = invocations(gpu.caps().kind);
    let x = gpu.upload("bench", &[0.5f32, 0.25, -0.5, 0.75, 1.0, 0.5, 2.0, -1.0])?;
    let out = gpu.alloc("bench", count as u64 * 4)?;
    let mut best = 0.0f64;
    let all: &'static [Chains] = &FMA;
    for chains in all.iter().filter(|c| c.dtype == dtype) {
        let record = |rec: &mut Recorder, rounds| kernels::fma(rec, chains, &x, &out, count, rounds);
        let rounds = calibrate(gpu, &record)?;
        let timing = measure(gpu, effort, &|rec| record(rec, rounds))?;
        let values = if chains.width == 1 { "" } else { " of 4" };
        let variant = format!("{} chains{values} × {}", chains.chains, chains.unroll);
        let (row, rate) = rate_row(
            "fma",
            dtype,
            variant,
            chains.flops(count, rounds),
            "GFLOP/s",
            &timing,
        );
        rows.push(row);
        best = best.max(rate);
    }
    Ok(best)
}

fn coop(gpu: &Gpu, effort: Effort, brief: bool, rows: &mut Vec<Row>) -> Result<Vec<CoopRate>> {
    let mut out = Vec::new();
    let all: &'static [Kernel] = &COOP;
    let groups = if gpu.caps().kind == DeviceKind::Cpu {
        64
    } else {
        1 << 13
    };
    for shape in &gpu.report().coop {
        let name = format!("{}×{}×{} {}→{}", shape.m, shape.n, shape.k, shape.ab, shape.c);
        let found = all
            .iter()
            .find_map(|k| k.needs_coop.filter(|wanted| shape.is(wanted)).map(|c| (k, c)));
        let Some((kernel, wanted)) = found else {
            if !brief {
                rows.push(Row::skipped("coop", &name, "no kernel is written for this shape"));
            }
            continue;
        };
        let tile = u64::from(shape.m) * u64::from(shape.n) * 4;
        let (x, y) = (gpu.alloc("bench", tile)?, gpu.alloc("bench", 4 * tile)?);
        let target = gpu.alloc("bench", groups as u64 * 4 * tile)?;
        let record = |rec: &mut Recorder, rounds| kernels::coop(rec, kernel, &x, &y, &target, groups, rounds);
        let rounds = calibrate(gpu, &record)?;
        let timing = measure(gpu, effort, &|rec| record(rec, rounds))?;
        let amount = coop_flops(&wanted, groups, rounds);
        let (row, flops) = rate_row("coop", &name, "4 chains × 4".into(), amount, "GFLOP/s", &timing);
        rows.push(row);
        out.push(CoopRate { shape: name, flops });
    }
    if gpu.report().coop.is_empty() && !brief {
        rows.push(Row::skipped(
            "coop",
            "",
            "the adapter has no cooperative matrices",
        ));
    }
    Ok(out)
}

/// Bytes a second of reading and of copying by a kernel; and by the driver's copy, which is only reported.
fn bandwidth(gpu: &Gpu, effort: Effort, brief: bool, rows: &mut Vec<Row>) -> Result<(f64, f64)> {
    let bytes = BUFFER_BYTES.min(gpu.caps().max_binding / 16 * 16);
    let n = bytes as usize / 4;
    let (src, dst) = (gpu.alloc("bench", bytes)?, gpu.alloc("bench", bytes)?);
    touch(gpu, &src, n)?;
    let kind = gpu.caps().kind;
    let groups = if kind == DeviceKind::Cpu { 256 } else { 4096 };
    let shape = ReadShape::new(lanes(kind), n, groups);
    let sums = gpu.alloc("bench", shape.outputs() as u64 * 4)?;
    let size = format!("{} MiB", bytes >> 20);
    let timing = measure(gpu, effort, &|rec| kernels::read(rec, &src, &sums, shape))?;
    let (row, read) = rate_row("read", "f32", size.clone(), 4.0 * shape.n as f64, "GB/s", &timing);
    rows.push(row);
    let timing = measure(gpu, effort, &|rec| kernels::copy(rec, &src, &dst, n))?;
    let (row, copy) = rate_row(
        "copy by a kernel",
        "f32",
        size.clone(),
        2.0 * bytes as f64,
        "GB/s",
        &timing,
    );
    rows.push(row);
    if !brief {
        let timing = measure(gpu, effort, &|rec| {
            rec.copy(&src, 0, &dst, 0, bytes);
            Ok(())
        })?;
        rows.push(
            rate_row(
                "copy by the driver",
                "f32",
                size,
                2.0 * bytes as f64,
                "GB/s",
                &timing,
            )
            .0,
        );
    }
    Ok((read, copy))
}

/// Writes the buffer once: pages that nothing was written to are not memory yet.
fn touch(gpu: &Gpu, buffer: &Buffer, n: usize) -> Result<()> {
    let ones = vec![1.0f32; (n).min(1 << 20)];
    for at in (0..n).step_by(ones.len()) {
        let part = ones.len().min(n - at);
        gpu.write(buffer, at as u64 * 4, &ones[..part]);
    }
    Ok(())
}

/// Cost of a dispatch among many, of a submission with one, and of a small readback.
fn costs(gpu: &Gpu, effort: Effort, ceiling: &mut Ceiling, rows: &mut Vec<Row>) -> Result<()> {
    let out = gpu.alloc("bench", 4096)?;
    let seconds = |runs: usize, f: &dyn Fn() -> Result<()>| -> Result<Vec<f64>> {
        f()?;
        (0..effort.repetitions.max(5))
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..runs {
                    f()?;
                }
                Ok(begun.elapsed().as_secs_f64() / runs as f64)
            })
            .collect()
    };
    let submit = |dispatches: usize| {
        let mut rec = Recorder::new(gpu);
        for i in 0..dispatches {
            kernels::mark(&mut rec, &out, i, i as f32)?;
        }
        rec.submit()?;
        gpu.wait()
    };
    let one = seconds(50, &|| submit(1))?;
    let many = seconds(3, &|| submit(DISPATCHES))?;
    let base = median(&one);
    let dispatch: Vec<f64> = many
        .iter()
        .map(|s| (s - base).max(0.0) / (DISPATCHES - 1) as f64)
        .collect();
    let readback = seconds(50, &|| gpu.read::<f32>(&out, 0, 1).map(drop))?;
    (ceiling.dispatch, ceiling.submit, ceiling.readback) = (median(&dispatch), base, median(&readback));
    for (test, variant, samples) in [
        (
            "dispatch",
            format!("one of {DISPATCHES} in a submission"),
            dispatch,
        ),
        ("submit and wait", "one dispatch".to_string(), one),
        ("readback", "4 bytes".to_string(), readback),
    ] {
        let samples: Vec<f64> = samples.iter().map(|s| s * 1e6).collect();
        rows.push(Row {
            test: test.into(),
            variant,
            unit: "µs".into(),
            clock: Some(Clock::Wall),
            ..Row::of(samples, false)
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::GpuOptions;

    #[test]
    fn a_ceiling_is_measured() {
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        let effort = Effort {
            repetitions: 1,
            max_seconds: 0.0,
        };
        let Measured { ceiling, rows } = run(&gpu, effort, false).unwrap();
        for rate in [ceiling.fma_f32, ceiling.read, ceiling.copy] {
            assert!(rate > 1e7 && rate < 1e17, "{ceiling:?}");
        }
        assert_eq!(ceiling.fma_f16.is_some(), gpu.caps().f16);
        let coop_rows = rows.iter().filter(|r| r.test == "coop").count();
        assert_eq!(coop_rows, gpu.report().coop.len().max(1), "every shape has a row");
        for cost in [ceiling.submit, ceiling.readback] {
            assert!(cost > 1e-7 && cost < 1.0, "{ceiling:?}");
        }
        assert!(ceiling.dispatch < ceiling.submit * 2.0, "{ceiling:?}");
    }
}
