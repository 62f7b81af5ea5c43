//! What a sampler allocates, added up before it does.

use super::sampler::SamplerShape;
use super::state::OUT_TOKENS;
use crate::kernels::head::HeadBuffers;
use crate::kernels::pad4;
use crate::model::plan::Plan;
use crate::model::spec::ModelSpec;
use crate::model::workspace::Shape;

impl SamplerShape {
    /// The memory that [`Sampler::new`](super::Sampler::new) takes for a model.
    pub fn plan(&self, spec: &ModelSpec) -> Plan {
        let s = self.sequences;
        let pass = |rows: usize| Shape {
            rows,
            readouts: s,
            rank: self.rank,
            backward: false,
            keep_all: false,
            vocabulary_head: false,
        };
        let mut plan = Plan::default();
        plan.extend("", &Plan::workspace(spec, pass(self.prefill_rows)));
        plan.extend("", &Plan::workspace(spec, pass(s)));
        plan.extend("", &Plan::kv_cache(spec, self.cache_rows));
        plan.add("head", HeadBuffers::bytes(s));
        // A row: state, logits, threshold, log-sum-exp, entropy; token, logp, keys (4), cache row, length, limit; its output.
        let row = spec.hidden_size + pad4(spec.vocab_size) + 3 + 9 + 2 * OUT_TOKENS;
        plan.add("sampler", 4 * (s * row + 9) as u64);
        plan
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::gpu::{Gpu, GpuOptions};
    use crate::model::load::Source;
    use crate::rollout::Sampler;

    #[test]
    fn a_sampler_takes_what_the_plan_says() {
        let dir = format!("{}/tests/golden/models/qwen3_qknorm", env!("CARGO_MANIFEST_DIR"));
        let source = Source::open(&dir).unwrap();
        let options = GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        let model = source.load(&gpu, None, 64, None).unwrap();
        let before = gpu.memory().current;
        let shape = SamplerShape {
            sequences: 12,
            cache_rows: 300,
            prefill_rows: 40,
            rank: 5,
        };
        let _sampler = Sampler::new(&model, shape).unwrap();
        assert_eq!(shape.plan(&source.spec).total(), gpu.memory().current - before);
    }
}
