//! How many sequences a sampler holds where buffers have a limit.

use super::job::SamplerShape;
use crate::kernels::attention::PAGE;
use crate::kernels::pad4;
use crate::model::kv_cache::KvCache;
use crate::model::spec::ModelSpec;

impl SamplerShape {
    /// Cache rows, in whole pages, that `prompts` prompts of up to `prompt` tokens and `sequences` responses of up to
    /// `length` take if all of them are in the cache at full length.
    pub fn rows_for(prompts: usize, prompt: usize, sequences: usize, length: usize) -> usize {
        prompts * prompt.next_multiple_of(PAGE) + sequences * length.next_multiple_of(PAGE)
    }

    /// The shape for `most` sequences at once where no buffer may be larger than `cap` bytes, or for half as many as often
    /// as it takes; `shape` sizes it for a number of sequences at full length. Responses take pages as they grow, so that
    /// a cache cut down to `cap` is kept as long as it holds three quarters of the sequences at full length.
    pub fn within(cap: u64, spec: &ModelSpec, most: usize, shape: impl Fn(usize) -> Self) -> Self {
        let page = (PAGE * KvCache::row_bytes(spec, shape(most).kv_cache_dtype)) as u64;
        let bound = ((cap / page) as usize).saturating_sub(1) * PAGE; // one page more is allocated
        let mut sequences = most;
        loop {
            let full = shape(sequences);
            let logits = (sequences * pad4(spec.vocab_size) * 4) as u64 <= cap;
            let least = shape((sequences * 3).div_ceil(4)).cache_rows;
            if sequences <= 1 || (logits && full.cache_rows <= bound) {
                return full;
            }
            if logits && least <= bound {
                return Self {
                    cache_rows: bound,
                    ..full
                };
            }
            sequences = sequences.div_ceil(2);
        }
    }

    /// Pages of the cache: those that hold `cache_rows` rows, and one more, because a prompt and a response that take
    /// them all may each leave a page unfilled.
    pub(super) fn pages(&self) -> usize {
        self.cache_rows.div_ceil(PAGE) + 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::FloatDtype;
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
            kv_cache_dtype: FloatDtype::Float32,
        };
        let row = (spec.num_kv_heads * spec.head_dim * 4) as u64;
        let sizes = |cap| {
            let s = SamplerShape::within(cap, &spec, 20, shape);
            assert!(s.sequences == 1 || (s.pages() * PAGE) as u64 * row <= cap);
            (s.sequences, s.cache_rows)
        };
        assert_eq!(sizes(u64::MAX), (20, 2000));
        // One page is allocated beside the rows.
        assert_eq!(sizes(row * 2008), (20, 2000));
        assert_eq!(sizes(row * 2008 - 1), (20, 1992));
        // Three quarters of the sequences at full length, and one row less.
        assert_eq!(sizes(row * 1512), (20, 1504));
        assert_eq!(sizes(row * 1504), (10, 1000));
        assert_eq!(sizes(row * 508), (5, 496));
        assert_eq!(sizes(1), (1, 100));
        // Halves: twice the rows.
        let halves = |sequences| SamplerShape {
            kv_cache_dtype: FloatDtype::Float16,
            ..shape(sequences)
        };
        let kept = |cap| SamplerShape::within(cap, &spec, 20, halves).cache_rows;
        assert_eq!((kept(row * 1004), kept(row * 1004 - 1)), (2000, 1992));
    }

    #[test]
    fn rows_come_in_whole_pages() {
        assert_eq!(SamplerShape::rows_for(2, 9, 3, 17), 2 * 16 + 3 * 24);
        assert_eq!(SamplerShape::rows_for(1, 8, 1, 16), 24);
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
        let counting = Gpu::counting(&gpu.buffer_limits()).unwrap();
        let counted = source.load(&counting, None, 64, None).unwrap();
        let caches = [FloatDtype::Float32, FloatDtype::Float16].map(|kv_cache_dtype| {
            let shape = SamplerShape {
                sequences: 12,
                cache_rows: 300,
                prefill_rows: 40,
                rank: 5,
                kv_cache_dtype,
            };
            let _samplers = [&model, &counted].map(|model| Sampler::new(model, shape).unwrap());
            let held = gpu.memory().by_owner;
            assert_eq!(counting.memory().by_owner, held, "{kv_cache_dtype}");
            held["kv cache"]
        });
        // All but the page table of 39 words.
        assert_eq!(caches[0] - 156, 2 * (caches[1] - 156));
    }
}
