//! What a sampler allocates, added up before it does.

use super::sampler::SamplerShape;
use super::state::OUT_TOKENS;
use crate::kernels::head::HeadBuffers;
use crate::kernels::pad4;
use crate::model::plan::Plan;
use crate::model::spec::ModelSpec;
use crate::model::workspace::Shape;

impl SamplerShape {
    /// The shape for `most` sequences at once, or for half as many as often as it takes until no buffer is larger than
    /// `cap` bytes; `shape` sizes it for a number of sequences.
    pub fn within(cap: u64, spec: &ModelSpec, most: usize, shape: impl Fn(usize) -> Self) -> Self {
        let fits = |s: &Self| {
            let cache = s.cache_rows * spec.num_kv_heads * spec.head_dim;
            (cache.max(s.sequences * pad4(spec.vocab_size)) * 4) as u64 <= cap
        };
        let mut sequences = most;
        while sequences > 1 && !fits(&shape(sequences)) {
            sequences = sequences.div_ceil(2);
        }
        shape(sequences)
    }

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
        // A prefill pass: the cache row of each of its rows, the sequence of each of its readouts.
        plan.add("sampler", 4 * (s * row + 9 + self.prefill_rows + s) as u64);
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
    fn fewer_sequences_are_sampled_where_a_buffer_would_be_too_large() {
        let dir = format!("{}/tests/golden/models/qwen3_qknorm", env!("CARGO_MANIFEST_DIR"));
        let spec = Source::open(&dir).unwrap().spec;
        let shape = |sequences| SamplerShape {
            sequences,
            cache_rows: sequences * 100,
            prefill_rows: 8,
            rank: 0,
        };
        let row = (spec.num_kv_heads * spec.head_dim * 4) as u64;
        let sequences = |cap| SamplerShape::within(cap, &spec, 20, shape).sequences;
        assert_eq!(sequences(u64::MAX), 20);
        assert_eq!(sequences(row * 2000), 20);
        assert_eq!(sequences(row * 2000 - 1), 10);
        assert_eq!(sequences(row * 500), 5);
        assert_eq!(sequences(1), 1);
    }

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
