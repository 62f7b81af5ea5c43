//! `bench kernels`: every case against the roofline and against float64.

use super::ceiling::Ceiling;
use super::output::Row;
use super::timing::{Effort, measure, median};
use crate::config::Optim;
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu};
use crate::kernels::harness::Case;
use crate::kernels::work::{Rate, Sizes, Work};
use crate::model::floor;
use crate::model::params::LoraShape;
use crate::model::shapes::Named;
use crate::model::spec::Proj;
use serde_json::json;

/// A model as its kernels see it.
pub fn sizes(model: &Named) -> Sizes {
    let spec = model.spec();
    let lora = LoraShape {
        rank: 16,
        alpha: 32.0,
        targets: Proj::ALL.to_vec(),
    };
    Sizes {
        name: model.name,
        hidden: spec.hidden_size,
        intermediate: spec.intermediate_size,
        heads: spec.num_heads,
        kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        vocab: spec.vocab_size,
        adapter: floor::adapter(&spec, &lora, Optim::Adamw).bytes("adapter") as usize / 4,
    }
}

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
pub fn run(gpu: &Gpu, work: &Work, ceiling: &Ceiling, limits: &Limits) -> Result<Row> {
    let named = |row: Row| Row {
        model: work.model.into(),
        dtype: work.dtype.map_or("f32", |d| d.name()).into(),
        test: format!("{} {} {}", work.op, work.phase.name(), work.shape),
        variant: work.variant.into(),
        ..row
    };
    let skip = |why: &str| Ok(named(Row::skipped("", "", why)));
    if work.memory > limits.max_bytes {
        return skip(&format!(
            "needs {:.0} MiB; --max-bytes allows {:.0}",
            work.memory / f64::from(1 << 20),
            limits.max_bytes / f64::from(1 << 20)
        ));
    }
    let least = roofline(work, ceiling);
    let expected = least / EXPECTED_SHARE;
    if expected > PATIENCE * limits.effort.max_seconds {
        return skip(&format!(
            "a run is expected to take {expected:.0} s; raise --max-seconds ({})",
            limits.effort.max_seconds
        ));
    }
    let made = (work.build)().and_then(|case| Ok((case.upload(gpu)?, case)));
    let (buffers, case) = match made {
        Ok(made) => made,
        Err(e @ (Error::OutOfMemory(_) | Error::User(_))) => return skip(&e.to_string()),
        Err(e) => return Err(e),
    };
    let error = match limits.check {
        true => Some(checked(gpu, &case, &buffers)?),
        false => None,
    };
    let timing = measure(gpu, limits.effort, &|rec| (case.record)(rec, &buffers))?;
    let seconds = median(&timing.samples);
    let mut row = named(Row {
        unit: "ms".into(),
        clock: Some(timing.clock),
        ..Row::of(timing.samples.iter().map(|s| s * 1e3).collect(), false)
    })
    .with("GFLOP/s", work.flops / seconds / 1e9)
    .with("GB/s", work.bytes / seconds / 1e9)
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
    row = row.with("work", json!({"flops": work.flops, "bytes": work.bytes}));
    if timing.kernels.len() > 1 {
        row = row.with("kernels", json!(timing.kernels));
    }
    Ok(row)
}

/// Draws the rows' shares anew against a ceiling measured after them, where that is higher: on a machine that others
/// use, the first may have been taken in a bad moment. `rows` are those of `all`, in order. Returns the ceiling that holds.
pub fn redraw(all: &[Work], rows: &mut [Row], before: &Ceiling, after: &Ceiling) -> Ceiling {
    let best = before.best(after);
    for (work, row) in all.iter().zip(rows.iter_mut()) {
        if row.skipped.is_none() {
            let share = 100.0 * roofline(work, &best) / (row.value * 1e-3);
            row.extra.insert(SHARE.into(), share.into());
        }
    }
    best
}

/// Runs once on fresh buffers and compares.
fn checked(gpu: &Gpu, case: &Case, buffers: &[Buffer]) -> Result<f64> {
    Ok(case.error(&case.run_on(gpu, buffers)?))
}

/// Seconds that a run takes at the least: the longer of its arithmetic and its traffic at the ceiling's rates.
pub fn roofline(work: &Work, ceiling: &Ceiling) -> f64 {
    let rate = match work.rate {
        Rate::F32 => ceiling.fma_f32,
        Rate::F16 => ceiling.fma_f16.unwrap_or(ceiling.fma_f32),
        Rate::Coop => ceiling.coop_best(),
    };
    (work.flops / rate).max(work.bytes / ceiling.bandwidth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::kernels;
    use crate::kernels::work::Wanted;
    use crate::model::shapes::NAMED;
    use std::collections::BTreeSet;

    fn open() -> Gpu {
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            profile: true,
            ..Default::default()
        };
        Gpu::open(&options).unwrap()
    }

    fn list(gpu: &Gpu, models: &[Named], quick: bool) -> Vec<Work> {
        let models: Vec<Sizes> = models.iter().map(sizes).collect();
        let models = &models[..];
        kernels::workload(&Wanted { gpu, models, quick })
    }

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
        let gpu = open();
        let all = list(&gpu, &NAMED[..1], true);
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

    fn a_higher_ceiling_lowers_the_share(case: &Work, row: &Row) {
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

    fn skips_say_why(gpu: &Gpu, case: &Work, limits: &Limits) {
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
        let full = list(gpu, &NAMED[..1], false);
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

    #[test]
    fn every_op_is_listed_once_for_every_phase_and_type() {
        let gpu = open();
        let (all, quick) = (list(&gpu, &NAMED, false), list(&gpu, &NAMED[..1], true));
        let names: BTreeSet<String> = all.iter().map(Work::name).collect();
        assert_eq!(names.len(), all.len(), "a name stands for two cases");
        assert!(quick.len() * 4 < all.len());
        assert!(quick.iter().all(|w| names.contains(&w.name())));
        for op in [
            "linear_forward",
            "linear_input_gradient",
            "linear_weight_gradient",
            "attention_forward",
            "attention_backward",
            "attention_decode",
            "rmsnorm_forward",
            "rmsnorm_backward",
            "rope",
            "swiglu_forward",
            "swiglu_backward",
            "head_log_probs",
            "head_gradient",
            "embedding_forward",
            "sampling",
            "adamw",
            "advantage_tea",
        ] {
            assert!(quick.iter().any(|w| w.op == op), "{op} is in no quick list");
        }
        for w in &all {
            let (name, memory, bytes) = (w.name(), w.memory, w.bytes);
            assert!(bytes > 0.0 && w.flops >= 0.0, "{name}");
            assert!(memory >= bytes * 0.5, "{name}: {memory} < {bytes}");
        }
    }

    /// The work is the right one: the cheapest of each op, on its real shape, against float64.
    #[test]
    fn the_cheapest_work_of_each_op_agrees_with_float64() {
        let gpu = open();
        let mut all = list(&gpu, &NAMED[..1], false);
        all.sort_by(|a, b| (a.flops + a.bytes).total_cmp(&(b.flops + b.bytes)));
        let mut seen = BTreeSet::new();
        for work in all {
            let key = (work.op.clone(), work.dtype.map(|d| d.name()));
            if seen.contains(&key) {
                continue;
            }
            let case = match (work.build)() {
                Ok(case) => case,
                // Block formats of 256 do not divide every width; another shape of the type must.
                Err(e) if e.to_string().contains("blocks of") => continue,
                Err(e) => panic!("{}: {e}", work.name()),
            };
            let error = checked(&gpu, &case, &case.upload(&gpu).unwrap()).unwrap();
            assert!(error < 2e-5, "{}: {error:e}", work.name());
            println!("{}: {error:.1e}", work.name());
            seen.insert(key);
        }
        assert!(seen.len() > 30, "{}", seen.len());
    }
}
