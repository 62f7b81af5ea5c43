//! The list of kernel cases.
//!
//! A new op is a function that returns cases and a line in [`all`]; a new variant of an op is a line in
//! [`variants`](super::variants).

mod attention;
mod data;
mod head;
mod linear;
mod optimizer;
mod pointwise;

use super::case::{BenchCase, Wanted};

/// Every case, op by op.
pub fn all(wanted: &Wanted<'_>) -> Vec<BenchCase> {
    let mut cases = linear::cases(wanted);
    cases.extend(attention::cases(wanted));
    cases.extend(pointwise::cases(wanted));
    cases.extend(head::cases(wanted));
    cases.extend(optimizer::cases(wanted));
    cases
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions, Recorder};
    use crate::model::shapes::NAMED;
    use std::collections::BTreeSet;

    fn gpu() -> Gpu {
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        };
        Gpu::open(&options).unwrap()
    }

    #[test]
    fn every_op_is_listed_once_for_every_phase_and_type() {
        let gpu = gpu();
        let list = |models, quick| {
            all(&Wanted {
                gpu: &gpu,
                models,
                quick,
            })
        };
        let (cases, quick) = (list(&NAMED[..], false), list(&NAMED[..1], true));
        let names: BTreeSet<String> = cases.iter().map(BenchCase::name).collect();
        assert_eq!(names.len(), cases.len(), "a name stands for two cases");
        assert!(quick.len() * 4 < cases.len());
        assert!(quick.iter().all(|c| names.contains(&c.name())));
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
            assert!(quick.iter().any(|c| c.op == op), "{op} is in no quick case");
        }
        for c in &cases {
            assert!(c.bytes > 0.0 && c.flops >= 0.0, "{}", c.name());
            assert!(
                c.memory >= c.bytes * 0.5,
                "{}: {} < {}",
                c.name(),
                c.memory,
                c.bytes
            );
        }
    }

    /// The cases compute the right thing: the cheapest of each op, on its real shape, against float64.
    #[test]
    fn the_cheapest_case_of_each_op_agrees_with_float64() {
        let gpu = gpu();
        let mut cases = all(&Wanted {
            gpu: &gpu,
            models: &NAMED[..1],
            quick: false,
        });
        cases.sort_by(|a, b| (a.flops + a.bytes).total_cmp(&(b.flops + b.bytes)));
        let mut seen = BTreeSet::new();
        for case in cases {
            if !seen.insert((case.op, case.dtype.map(|d| d.name()))) {
                continue;
            }
            let prepared = match (case.build)(&gpu) {
                Ok(prepared) => prepared,
                // Block formats of 256 do not divide every width; another shape of the type must.
                Err(e) if e.to_string().contains("blocks of") => {
                    seen.remove(&(case.op, case.dtype.map(|d| d.name())));
                    continue;
                }
                Err(e) => panic!("{}: {e}", case.name()),
            };
            let mut rec = Recorder::new(&gpu);
            (prepared.record)(&mut rec).unwrap();
            rec.submit().unwrap();
            let error = (prepared.check)(&gpu).unwrap();
            assert!(error < 2e-5, "{}: {error:e}", case.name());
            println!("{}: {error:.1e}", case.name());
        }
        assert!(seen.len() > 30, "{}", seen.len());
    }
}
