//! A streamed reward model against a resident one.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::TEMPLATE_DATE;
use crate::gpu::GpuOptions;
use crate::model::init::{random_tensors, write_model};
use crate::model::save::AtomicDir;
use crate::model::shapes::Named;
use crate::model::spec::Head;
use crate::model::stream::ring_bytes;

fn spec(num_layers: usize) -> ModelSpec {
    ModelSpec {
        num_layers,
        head: Head::Score,
        hidden_size: 32,
        intermediate_size: 96,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        vocab_size: 61,
        qkv_bias: true,
        o_bias: true,
        max_position_embeddings: 64,
        ..Named::find("smollm2-135m").unwrap().spec()
    }
}

fn source(place: &Path, num_layers: usize) -> Source {
    let (dir, spec) = (place.join(num_layers.to_string()), spec(num_layers));
    if !dir.exists() {
        let out = AtomicDir::create(&dir).unwrap();
        write_model(&out, &spec, &random_tensors(&spec, 7), &[]).unwrap();
        out.commit().unwrap();
    }
    Source::open_with_score(dir.to_str().unwrap()).unwrap()
}

fn open() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

fn options(dtype: DType, residency: Residency, free: Option<u64>) -> RewardOptions<'static> {
    RewardOptions {
        adapter: None,
        dtype: Some(dtype),
        token_budget: 48,
        positions: 64,
        residency,
        free,
        raw: true,
        date: TEMPLATE_DATE.parse().unwrap(),
    }
}

/// Sequences of several micro-batches, some with a shared prefix.
fn sequences() -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = (0..9u32)
        .map(|i| (0..9 + 3 * i).map(|j| (j * j + i * 17) % 61).collect())
        .collect();
    all.extend((0..4u32).map(|i| {
        (0..20)
            .map(|j| if j < 15 { j } else { j * 3 % (i + 40) })
            .collect()
    }));
    all
}

fn scores(model: &mut RewardModel) -> Vec<u32> {
    let all = sequences();
    let slices: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
    let scores = model.score_tokens(&slices).unwrap();
    assert!(scores.windows(2).any(|w| w[0] != w[1]));
    scores.iter().map(|s| s.to_bits()).collect()
}

#[test]
fn scores_have_the_bits_of_a_resident_model() {
    let (gpu, place) = (open(), tempfile::tempdir().unwrap());
    for (layers, dtype) in [
        (1, DType::F32),
        (2, DType::F16),
        (4, DType::Q4_0),
        (5, DType::F32),
        (5, DType::Q8_0),
    ] {
        let load = |residency| {
            let source = source(place.path(), layers);
            RewardModel::from_source(&gpu, source, None, &options(dtype, residency, None)).unwrap()
        };
        let want = scores(&mut load(Residency::Resident));
        let mut streamed = load(Residency::Stream);
        assert_eq!(scores(&mut streamed), want, "{layers} blocks of {dtype}");
        // The ring is left at other blocks than it began with.
        assert_eq!(scores(&mut streamed), want);
    }
}

#[test]
fn a_streamed_model_takes_what_the_plan_says_and_auto_goes_by_it() {
    let place = tempfile::tempdir().unwrap();
    let total = |residency: Residency, free: Option<u64>| {
        let gpu = open();
        let options = options(DType::Q8_0, residency, free);
        let _model = RewardModel::from_source(&gpu, source(place.path(), 5), None, &options).unwrap();
        (gpu.memory().current, gpu.memory().by_owner["weights"])
    };
    let source = source(place.path(), 5);
    let streamed = Plan::streamed(&source, Some(DType::Q8_0), 64).unwrap();
    let resident = Plan::model(&source, Some(DType::Q8_0), 64).unwrap();
    let (small, large) = (total(Residency::Stream, None), total(Residency::Resident, None));
    assert_eq!(small.1, streamed.bytes("weights"));
    assert_eq!(large.1, resident.bytes("weights"));
    // Three of five equal blocks are not there.
    let block = ring_bytes(&source.spec, |_| Ok(DType::Q8_0)).unwrap() / 2;
    assert_eq!(resident.total() - streamed.total(), 3 * block);
    for (free, want) in [
        (None, large),
        (Some(large.0), large),
        (Some(large.0 - 1), small),
        (Some(1), small),
    ] {
        assert_eq!(total(Residency::Auto, free), want, "{free:?}");
    }
}
