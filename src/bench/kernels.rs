//! `bench kernels`: every case against the roofline and against float64.

use super::case::{BenchCase, Prepared, Rate};
use super::ceiling::Ceiling;
use super::output::Row;
use super::timing::{Effort, measure, median};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recorder};
use serde_json::json;

/// The column of the share of the roofline, in percent.
const SHARE: &str = "% of roofline";

/// Limits of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Samples and seconds a case.
    pub effort: Effort,
    /// Most bytes a case's buffers may take.
    pub max_bytes: f64,
    /// Compare with float64.
    pub check: bool,
}

/// A case is not begun when it is expected to take this many times its time limit...
const PATIENCE: f64 = 10.0;
/// ...at this share of the ceiling.
const EXPECTED_SHARE: f64 = 0.1;

/// Measures one case; what cannot be measured here becomes a row that says why.
///
/// # Errors
/// A lost device or a bug.
pub fn run(gpu: &Gpu, case: &BenchCase, ceiling: &Ceiling, limits: &Limits) -> Result<Row> {
    let named = |row: Row| Row {
        model: case.model.clone(),
        dtype: case.dtype.map_or("f32", |d| d.name()).into(),
        test: format!("{} {} {}", case.op, case.phase.name(), case.shape),
        variant: case.variant.into(),
        ..row
    };
    let skip = |why: &str| Ok(named(Row::skipped("", "", why)));
    if case.memory > limits.max_bytes {
        return skip(&format!(
            "needs {:.0} MiB; --max-bytes allows {:.0}",
            case.memory / f64::from(1 << 20),
            limits.max_bytes / f64::from(1 << 20)
        ));
    }
    let least = roofline(case, ceiling);
    let expected = least / EXPECTED_SHARE;
    if expected > PATIENCE * limits.effort.max_seconds {
        return skip(&format!(
            "a run is expected to take {expected:.0} s; raise --max-seconds ({})",
            limits.effort.max_seconds
        ));
    }
    let prepared = match (case.build)(gpu) {
        Ok(prepared) => prepared,
        Err(e @ (Error::OutOfMemory(_) | Error::User(_))) => return skip(&e.to_string()),
        Err(e) => return Err(e),
    };
    let error = match limits.check {
        true => Some(checked(gpu, &prepared)?),
        false => None,
    };
    let timing = measure(gpu, limits.effort, &|rec| (prepared.record)(rec))?;
    let seconds = median(&timing.samples);
    let mut row = named(Row {
        unit: "ms".into(),
        clock: Some(timing.clock),
        ..Row::of(timing.samples.iter().map(|s| s * 1e3).collect(), false)
    })
    .with("GFLOP/s", case.flops / seconds / 1e9)
    .with("GB/s", case.bytes / seconds / 1e9)
    .with(SHARE, 100.0 * least / seconds);
    if let Some(error) = error {
        // JSON has no infinity.
        row = row.with(
            "error",
            if error.is_finite() {
                json!(error)
            } else {
                json!("not finite")
            },
        );
    }
    row = row.with("work", json!({"flops": case.flops, "bytes": case.bytes}));
    if timing.kernels.len() > 1 {
        row = row.with("kernels", json!(timing.kernels));
    }
    Ok(row)
}

/// Draws the rows' shares anew against a ceiling measured after them, where that is higher: on a machine that others
/// use, the first may have been taken in a bad moment. `rows` are those of `cases`, in order. Returns the ceiling that holds.
pub fn redraw(cases: &[BenchCase], rows: &mut [Row], before: &Ceiling, after: &Ceiling) -> Ceiling {
    let best = before.best(after);
    for (case, row) in cases.iter().zip(rows.iter_mut()) {
        if row.skipped.is_none() {
            let share = 100.0 * roofline(case, &best) / (row.value * 1e-3);
            row.extra.insert(SHARE.into(), share.into());
        }
    }
    best
}

/// Runs once on fresh buffers and compares.
fn checked(gpu: &Gpu, prepared: &Prepared) -> Result<f64> {
    let mut rec = Recorder::new(gpu);
    (prepared.record)(&mut rec)?;
    rec.submit()?;
    (prepared.check)(gpu)
}

/// Seconds that a run takes at the least: the longer of its arithmetic and its traffic at the ceiling's rates.
pub fn roofline(case: &BenchCase, ceiling: &Ceiling) -> f64 {
    let rate = match case.rate {
        Rate::F32 => ceiling.fma_f32,
        Rate::F16 => ceiling.fma_f16.unwrap_or(ceiling.fma_f32),
        Rate::Coop => ceiling.coop_best(),
    };
    (case.flops / rate).max(case.bytes / ceiling.bandwidth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::case::Wanted;
    use super::super::cases;
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::model::shapes::NAMED;

    fn ceiling() -> Ceiling {
        Ceiling {
            fma_f32: 1e10,
            fma_f16: None,
            coop: Vec::new(),
            read: 1e9,
            copy: 2e9,
            dispatch: 0.0,
            submit: 0.0,
            readback: 0.0,
        }
    }

    #[test]
    fn a_case_is_measured_checked_or_skipped_with_a_reason() {
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            profile: true,
            ..Default::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        let all = cases::all(&Wanted {
            gpu: &gpu,
            models: &NAMED[..1],
            quick: true,
        });
        let case = all
            .iter()
            .find(|c| c.name().contains("rmsnorm_forward/f32/smollm2-135m/decode16"))
            .unwrap();
        // 16 × 576 floats read and written, at 2 GB/s.
        assert!((roofline(case, &ceiling()) - 16.0 * 576.0 * 8.0 / 2e9).abs() < 1e-12);
        let limits = Limits {
            effort: Effort {
                repetitions: 2,
                max_seconds: 1.0,
            },
            max_bytes: 1e9,
            check: true,
        };
        let row = run(&gpu, case, &ceiling(), &limits).unwrap();
        assert_eq!((row.samples.len(), row.unit.as_str()), (2, "ms"));
        assert!(row.extra["error"].as_f64().unwrap() < 1e-5, "{row:?}");
        assert!(row.extra["% of roofline"].as_f64().unwrap() > 0.0);
        a_higher_ceiling_lowers_the_share(case, &row);
        skips_say_why(&gpu, case, &limits);
    }

    fn a_higher_ceiling_lowers_the_share(case: &BenchCase, row: &Row) {
        // A ceiling twice as high halves the share; a lower one changes nothing.
        let share = |r: &Row| r.extra[SHARE].as_f64().unwrap();
        let (mut again, high) = (
            vec![row.clone()],
            Ceiling {
                copy: 4e9,
                ..ceiling()
            },
        );
        let best = redraw(std::slice::from_ref(case), &mut again, &ceiling(), &high);
        assert_eq!(best.bandwidth(), 4e9);
        assert!((share(&again[0]) * 2.0 / share(row) - 1.0).abs() < 1e-9);
        redraw(std::slice::from_ref(case), &mut again, &ceiling(), &ceiling());
        assert!((share(&again[0]) / share(row) - 1.0).abs() < 1e-9);
    }

    fn skips_say_why(gpu: &Gpu, case: &BenchCase, limits: &Limits) {
        let tight = Limits {
            max_bytes: 1.0,
            ..*limits
        };
        let row = run(gpu, case, &ceiling(), &tight).unwrap();
        assert!(row.skipped.unwrap().contains("--max-bytes"));
        let slow = Ceiling {
            read: 1.0,
            copy: 1.0,
            ..ceiling()
        };
        let row = run(gpu, case, &slow, limits).unwrap();
        assert!(row.skipped.unwrap().contains("--max-seconds"));
        // 576 columns are no whole number of blocks of 256: said, not hidden.
        let full = cases::all(&Wanted {
            gpu,
            models: &NAMED[..1],
            quick: false,
        });
        let q4_k = full
            .iter()
            .find(|c| {
                c.name()
                    .contains("linear_forward/q4_k/smollm2-135m/decode1/1×1536×576")
            })
            .unwrap();
        let row = run(gpu, q4_k, &ceiling(), limits).unwrap();
        assert!(row.skipped.unwrap().contains("blocks of 256"));
    }
}
