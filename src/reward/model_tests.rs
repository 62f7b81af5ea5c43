//! A streamed reward model against a resident one.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::TEMPLATE_DATE;
use crate::gpu::{BufferLimits, GpuOptions};
use crate::kernels::weight::device_bytes;
use crate::model::init::{random_tensors, write_model};
use crate::model::save::AtomicDir;
use crate::model::shapes::Named;
use crate::model::spec::{Head, ModelSpec};

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
        let out = AtomicDir::create(&dir, |_| Vec::new()).unwrap();
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
    let [streamed, resident] = [true, false].map(|streamed| {
        let shape = RewardShape {
            dtype: Some(DType::Q8_0),
            positions: 64,
            token_budget: 48,
            streamed,
        };
        Plan::of(&BufferLimits::least(), |gpu| shape.allocate(gpu, &source, None)).unwrap()
    });
    let (small, large) = (total(Residency::Stream, None), total(Residency::Resident, None));
    assert_eq!(small, (streamed.total(), streamed.bytes("weights")));
    assert_eq!(large, (resident.total(), resident.bytes("weights")));
    // Three of five equal blocks are not there.
    let first = source
        .spec
        .tensors()
        .filter(|t| t.layer == Some(0) && t.role.is_matrix());
    let block: u64 = first
        .map(|t| device_bytes(DType::Q8_0, t.shape[0], t.shape[1]))
        .sum();
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

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|s| s.to_bits()).collect()
}

/// Sequences in portions, in two orders: the bits of scoring them all at once. A resident model begins before the last are there, a
/// streamed one does not; neither waits to be made room for a second time.
#[test]
fn scores_of_what_comes_in_portions_have_the_same_bits() {
    let (gpu, place) = (open(), tempfile::tempdir().unwrap());
    let all = sequences();
    for residency in [Residency::Resident, Residency::Stream] {
        let source = source(place.path(), 4);
        let mut judge =
            RewardModel::from_source(&gpu, source, None, &options(DType::F16, residency, None)).unwrap();
        let want = scores(&mut judge);
        let mut made = None;
        for portion in [1, 4, 5, 13] {
            let RewardModel { model, ws, queue, .. } = &mut judge;
            // What an abandoned scoring left is not in the way.
            queue.add(model, ws, all[..7].to_vec()).unwrap();
            queue.clear();
            let begun = gpu.commands_recorded();
            for some in all.chunks(portion) {
                queue.add(model, ws, some.to_vec()).unwrap();
            }
            assert_eq!(queue.len(), all.len());
            let early = gpu.commands_recorded() > begun;
            assert_eq!(early, residency == Residency::Resident, "portions of {portion}");
            assert_eq!(
                bits(&queue.finish(model, ws).unwrap()),
                want,
                "portions of {portion}"
            );
            assert!(queue.is_empty());
            let now = (gpu.memory().allocations, gpu.pipelines_made());
            assert_eq!(*made.get_or_insert(now), now);
        }
        let RewardModel { model, ws, queue, .. } = &mut judge;
        let backwards: Vec<Vec<u32>> = all.iter().rev().cloned().collect();
        for some in backwards.chunks(3) {
            queue.add(model, ws, some.to_vec()).unwrap();
        }
        let mut got = bits(&queue.finish(model, ws).unwrap());
        got.reverse();
        assert_eq!(got, want);
    }
}

/// More scores than a readback area holds, in more passes than may be under way.
#[test]
fn scores_fill_as_many_areas_as_they_need_and_these_are_kept() {
    let (gpu, place) = (open(), tempfile::tempdir().unwrap());
    let options = options(DType::F32, Residency::Resident, None);
    let mut judge = RewardModel::from_source(&gpu, source(place.path(), 1), None, &options).unwrap();
    let short: Vec<Vec<u32>> = (0..1100u32).map(|i| vec![i % 61, i / 61]).collect();
    let slices: Vec<&[u32]> = short.iter().map(Vec::as_slice).collect();
    let want = judge.score_tokens(&slices).unwrap();
    let mut made = None;
    for portion in [1100, 333, 37] {
        let RewardModel { model, ws, queue, .. } = &mut judge;
        for some in short.chunks(portion) {
            queue.add(model, ws, some.to_vec()).unwrap();
        }
        assert!(
            bits(&queue.finish(model, ws).unwrap()) == bits(&want),
            "portions of {portion}"
        );
        let now = gpu.memory().allocations;
        assert_eq!(*made.get_or_insert(now), now, "an area was made again");
    }
}

/// A judge whose reward is not finite where a response holds a '!'.
fn fragile(gpu: &Gpu, place: &Path) -> RewardModel {
    let json = crate::demo::tokenizer_json();
    let tokenizer = Tokenizer::from_hf(&crate::text::HfFiles {
        tokenizer_json: json.into(),
        tokenizer_config: Some(crate::demo::tokenizer_config_json(128).into()),
        special_tokens_map: None,
        added_tokens: None,
        generation_config: None,
        model_config: None,
        chat_template: None,
    })
    .unwrap();
    let spec = ModelSpec {
        vocab_size: 128,
        ..spec(2)
    };
    let bad = tokenizer.encode("!", false).unwrap()[0] as usize;
    let tensors = random_tensors(&spec, 7);
    let out = AtomicDir::create(place, |_| Vec::new()).unwrap();
    write_model(&out, &spec, &tensors, &[]).unwrap();
    out.commit().unwrap();
    let source = Source::open_with_score(place.to_str().unwrap()).unwrap();
    let options = options(DType::F32, Residency::Resident, None);
    let judge = RewardModel::from_source(gpu, source, Some(tokenizer), &options).unwrap();
    // A file with such a value is refused, so that it is put where the file's values are already.
    let embed = &judge.model.embed.value.shards[0].buffer;
    gpu.write(embed, (bad * spec.hidden_size * 4) as u64, &[f32::INFINITY]);
    judge
}

/// What cannot be scored names prompt and sample, at once or when rewards arrive, and leaves nothing of itself to the next scoring.
#[test]
fn what_cannot_be_scored_names_prompt_and_sample() {
    let (gpu, place) = (open(), tempfile::tempdir().unwrap());
    let mut judge = fragile(&gpu, &place.path().join("judge"));
    let prompts = ["first", "second"].map(|p| PromptContent::Text(p.into()));
    let long = "x".repeat(80);
    let items = |p: usize, responses: &[&'static str]| -> Vec<Item<'_>> {
        let item = |response: &&'static str| Item {
            prompt: &prompts[p],
            response,
        };
        responses.iter().map(item).collect()
    };
    let good = items(1, &["a", "bc", "a"]);
    let want = judge.score(&good).unwrap();
    assert!(want[0] == want[2] && want[0] != want[1]);
    let mut scoring = judge.scoring();
    scoring.add(&items(1, &["a", "b", "c"])).unwrap();
    scoring.add(&items(0, &["d", "e", "f!"])).unwrap();
    scoring.add(&items(1, &["g"])).unwrap();
    let error = scoring.finish().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("sample 2") && text.contains("\"first\""), "{text}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(judge.score(&good).unwrap(), want);
    let mut scoring = judge.scoring();
    scoring.add(&items(0, &["a"])).unwrap();
    let mut over = items(1, &["a", "b"]);
    over[1].response = &long;
    let error = scoring.add(&over).unwrap_err();
    drop(scoring);
    let text = error.to_string();
    assert!(text.contains("sample 1") && text.contains("\"second\""), "{text}");
    assert!(
        text.contains("86 tokens is longer than the 64 positions"),
        "{text}"
    );
    assert_eq!(error.exit_code(), 2);
    assert_eq!(judge.score(&good).unwrap(), want);
}
