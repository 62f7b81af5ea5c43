//! Sampling: the same tokens as PyTorch when greedy, the same bits as training's log-probabilities, and samples that
//! depend on their seed alone.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Golden, open_gpu, workspace};
use serde::Deserialize;
use tea_wgpu::config::{FloatDtype, MatmulPrecision};
use tea_wgpu::error::Error;
use tea_wgpu::gpu::{Gpu, Recorder};
use tea_wgpu::kernels::policy_loss::k3;
use tea_wgpu::kernels::sample::SampleParams;
use tea_wgpu::model::batch::Batch;
use tea_wgpu::model::forward::{Keys, Pass};
use tea_wgpu::model::kv_cache::KvCache;
use tea_wgpu::model::load::Source;
use tea_wgpu::model::params::{LoraShape, Model};
use tea_wgpu::model::run::{self, Group};
use tea_wgpu::model::spec::Proj;
use tea_wgpu::rollout::{Completion, Finish, Job, SampleConfig, Sampler, SamplerShape};
use tea_wgpu::tensor::DType;

const CAUSAL: [&str; 7] = [
    "llama_gqa",
    "llama_gqa_f16",
    "llama_gqa_bf16",
    "llama_tied",
    "qwen2_bias",
    "qwen3_qknorm",
    "mistral",
];

fn shape(sequences: usize, prefill_rows: usize) -> SamplerShape {
    SamplerShape {
        sequences,
        cache_rows: 80 + sequences * 24,
        prefill_rows,
        rank: 5,
        kv_cache_dtype: FloatDtype::Float32,
    }
}

fn config(length: usize, stop: &[u32]) -> SampleConfig {
    SampleConfig {
        params: SampleParams::PLAIN,
        max_completion_length: length,
        stop: stop.to_vec(),
        seed: 7,
        step: 3,
    }
}

fn job(tokens: &[u32], prompt: u64, samples: usize) -> Job {
    Job {
        tokens: tokens.to_vec(),
        prompt,
        samples,
        first: 0,
    }
}

/// Prompts of lengths around the key block (8) and several of it, every token of the vocabulary's range in use.
fn prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    const LENGTHS: [u32; 13] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 40, 75];
    let token = |i: u32, t: u32| (i * 7919 + t * 104_729 + t * t * 31) % vocabulary as u32;
    LENGTHS
        .iter()
        .map(|n| (0..*n).map(|t| token(*n, t)).collect())
        .collect()
}

/// Eight stop tokens spread over the vocabulary: about a third of the completions end before the limit.
fn stops(vocabulary: usize) -> Vec<u32> {
    (0..8).map(|i| (i * vocabulary / 8 + 5) as u32).collect()
}

fn bits(groups: &[Vec<Completion>]) -> Vec<(Vec<u32>, Vec<u32>, Finish)> {
    groups
        .iter()
        .flatten()
        .map(|c| {
            let logprobs = c.logprobs.iter().map(|x| x.to_bits()).collect();
            (c.tokens.clone(), logprobs, c.finish)
        })
        .collect()
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

/// Both cases in one batch, so that a longer prompt and a shorter one are decoded side by side.
fn check_greedy(model: &Model, what: &str, cases: &serde_json::Value) {
    let cases: Vec<Greedy> = serde_json::from_value(cases.clone()).unwrap();
    let jobs: Vec<Job> = (0..).zip(&cases).map(|(i, c)| job(&c.prompt, i, 1)).collect();
    let config = SampleConfig {
        params: SampleParams::GREEDY,
        ..config(cases[0].tokens.len(), &[])
    };
    let mut sampler = Sampler::new(model, shape(2, 64)).unwrap();
    let groups = sampler.generate(model, &jobs, &config).unwrap();
    for (case, group) in cases.iter().zip(&groups) {
        let [got] = &group[..] else {
            panic!("{what}: {} completions", group.len());
        };
        assert_eq!(got.tokens, case.tokens, "{what}");
        assert_eq!(got.finish, Finish::Length, "{what}");
        assert_eq!(got.logprobs.len(), case.logprobs.len(), "{what}");
        for (a, b) in got.logprobs.iter().zip(&case.logprobs) {
            // The distance that log-probabilities of packed batches are held to as well.
            assert!((a - b).abs() < 1e-4, "{what}: log-probability {a}, not {b}");
        }
    }
}

#[test]
fn greedy_tokens_are_pytorchs() {
    let gpu = open_gpu();
    for name in CAUSAL {
        let g = Golden::open(&gpu, name);
        let mut model = g.model(None);
        check_greedy(&model, name, &g.json["greedy"]);
        g.add_adapter(&mut model, false);
        check_greedy(&model, &format!("{name} with adapter"), &g.json["greedy_lora"]);
    }
}

/// How far the trainer's log-probabilities are from the sampler's.
#[derive(Debug, Default)]
struct Mismatch {
    tokens: usize,
    differing: usize,
    kl: f64,
    max: f64,
    sent_back: usize,
}

/// 208 completions, scored again in micro-batches of 110 rows that split every group.
fn mismatch(model: &Model, shape: SamplerShape) -> Mismatch {
    const M: usize = 16;
    let v = model.spec.vocab_size;
    let prompts = prompts(v);
    let jobs: Vec<Job> = (0..).zip(&prompts).map(|(i, p)| job(p, i, M)).collect();
    let mut sampler = Sampler::new(model, shape).unwrap();
    let sampled = sampler.generate(model, &jobs, &config(24, &stops(v))).unwrap();
    let stopped = sampled
        .iter()
        .flatten()
        .filter(|c| c.finish == Finish::Stop)
        .count();
    assert!((10..198).contains(&stopped), "{stopped} of 208 stopped");
    let groups: Vec<Group<'_>> = prompts
        .iter()
        .zip(&sampled)
        .map(|(prefix, group)| Group {
            prefix,
            suffixes: group.iter().map(|c| &c.tokens[..]).collect(),
        })
        .collect();
    let ws = workspace(model, 110, false);
    let plans = run::pack(&groups, 110, 110).unwrap();
    assert!(plans.len() > jobs.len(), "{} micro-batches", plans.len());
    let trained = run::log_probs(model, &ws, &groups, true).unwrap();
    let mut out = Mismatch {
        sent_back: sampler.stats().sent_back,
        ..Mismatch::default()
    };
    for (group, again) in sampled.iter().zip(&trained) {
        for (c, again) in group.iter().zip(again) {
            assert_eq!(c.logprobs.len(), again.len());
            for (a, b) in c.logprobs.iter().zip(again) {
                assert!(a.is_finite() && *a <= 0.0);
                let d = f64::from(*b) - f64::from(*a);
                out.tokens += 1;
                out.differing += usize::from(a.to_bits() != b.to_bits());
                out.kl += k3(d);
                out.max = out.max.max(d.abs());
            }
        }
    }
    out.kl /= out.tokens as f64;
    out
}

fn check_mismatch(model: &Model, what: &str) {
    let m = mismatch(model, shape(64, 96));
    println!("{what}: {m:?}");
    assert!(m.tokens > 2000, "{what}: {m:?}");
    assert!(m.kl < 1e-6 && m.max < 1e-4, "{what}: {m:?}");
    // Same kernels, same order of every sum: not close but equal.
    assert_eq!(m.differing, 0, "{what}: {m:?}");
}

#[test]
fn sampler_and_trainer_agree_to_the_bit() {
    let gpu = open_gpu();
    for name in ["llama_gqa", "llama_tied", "qwen2_bias", "mistral"] {
        let g = Golden::open(&gpu, name);
        let mut model = g.model(None);
        g.add_adapter(&mut model, false);
        check_mismatch(&model, name);
    }
}

#[test]
fn sampler_and_trainer_agree_to_the_bit_on_small_weights() {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "qwen3_qknorm");
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        let mut model = g.model(Some(dtype));
        g.add_adapter(&mut model, false);
        assert_eq!(model.head_param().value.dtype, dtype);
        check_mismatch(&model, &format!("qwen3_qknorm {dtype}"));
    }
}

/// Sets the device to products on cooperative matrices; says so where it has none.
fn on_cooperative_matrices(gpu: &Gpu) -> bool {
    let set = gpu.set_matmul_precision(MatmulPrecision::Medium);
    if let Err(why) = &set {
        println!("not tested here: {why}");
        assert!(gpu.report().coop_side().is_none());
    }
    set.is_ok()
}

/// `--matmul-precision medium` takes them for one row as for many, so that nothing of this changes.
#[test]
fn sampler_and_trainer_agree_to_the_bit_on_cooperative_matrices() {
    let gpu = open_gpu();
    if !on_cooperative_matrices(&gpu) {
        return;
    }
    for (name, dtype) in [("llama_gqa", None), ("qwen3_qknorm", Some(DType::Q8_0))] {
        let g = Golden::open(&gpu, name);
        let mut model = g.model(dtype);
        g.add_adapter(&mut model, false);
        check_mismatch(&model, name);
    }
}

/// How far `medium` is from `highest`, on the embedded policy: log-probabilities of 600 tokens.
#[test]
fn products_of_cooperative_matrices_are_close_to_those_of_f32() {
    let gpu = open_gpu();
    let source = Source::open_causal("tiny").unwrap();
    let model = source.load(&gpu, Some(DType::F32), 64, None).unwrap();
    let v = model.spec.vocab_size as u32;
    let suffixes: Vec<Vec<u32>> = (0..30)
        .map(|i| {
            (0..20)
                .map(|t| (i * 7919 + t * 104_729 + t * t * 31) % v)
                .collect()
        })
        .collect();
    let groups = [Group {
        prefix: &[1, 5, 9],
        suffixes: suffixes.iter().map(|s| &s[..]).collect(),
    }];
    let ws = workspace(&model, 110, false);
    let log_probs = || -> Vec<f64> {
        let all = run::log_probs(&model, &ws, &groups, true).unwrap();
        all.into_iter().flatten().flatten().map(f64::from).collect()
    };
    let exact = log_probs();
    if !on_cooperative_matrices(&gpu) {
        return;
    }
    let rounded = log_probs();
    assert_eq!(exact.len(), 600);
    let off: Vec<f64> = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).collect();
    let worst = off.iter().fold(0.0f64, |a, b| a.max(*b));
    let rms = (off.iter().map(|d| d * d).sum::<f64>() / off.len() as f64).sqrt();
    let size = exact.iter().map(|v| v.abs()).sum::<f64>() / exact.len() as f64;
    println!("medium against highest: rms {rms:.2e}, worst {worst:.2e}, of {size:.2} nats on average");
    // An operand is off by 2⁻¹² at most (relative), a product by 2⁻¹¹; the errors of a sum's terms are independent of each other, so
    // that a logit is off by about 2⁻¹² of its terms' root sum of squares, a few times that after all layers.
    assert!(
        worst > 0.0 && rms < 2e-3 && worst < 1e-2,
        "rms {rms}, worst {worst}"
    );
}

/// `--kv-cache-dtype float16`, on the embedded policy: the sampler attends to rounded keys and values, the trainer does not.
#[test]
fn a_cache_in_halves_keeps_the_sampler_near_the_trainer() {
    let gpu = open_gpu();
    let source = Source::open_causal("tiny").unwrap();
    let model = source.load(&gpu, Some(DType::F32), 128, None).unwrap();
    let exact = mismatch(&model, shape(64, 96));
    assert_eq!((exact.differing, exact.max), (0, 0.0));
    let halves = SamplerShape {
        kv_cache_dtype: FloatDtype::Float16,
        ..shape(64, 96)
    };
    let m = mismatch(&model, halves);
    println!("float16 cache: {m:?}");
    assert!(m.tokens > 2000, "{m:?}");
    assert!(m.differing * 2 > m.tokens, "nothing was rounded: {m:?}");
    // A key or value is off by 2⁻¹¹ at most (relative), 2⁻¹² and less on average; the errors of a score's D terms and of the values
    // that a softmax averages are independent of each other, so that attention's output is off by some 2⁻¹² of its size,
    // and a logit, after all layers, by a few times that of its own. The KL is half the square of that.
    assert!(m.max < 1e-2 && m.kl < 5e-7, "{m:?}");
}

/// As if `split-8` had been chosen for all products where `high` permits it.
fn split_few_rows(model: &Model) {
    model.gpu.set_matmul_precision(MatmulPrecision::High).unwrap();
    let few = model.classes().into_iter().filter(|c| c.rows <= 16);
    let split = few.map(|c| (c.key(), "split-8"));
    model.gpu.set_choices(split.collect());
}

/// Under `high` a decode step of few rows splits its sums, which training does not, nor a prefill, be it of a sample that gave way: the same up to the rounding of f32, and the same again in a second run.
#[test]
fn under_high_sampler_and_trainer_agree_up_to_rounding() {
    let gpu = open_gpu();
    if gpu.forced_variant().is_some() || gpu.caps().forced_lanes.is_some() {
        println!("skipped: the environment forces a variant or lanes");
        return;
    }
    let source = Source::open_causal("tiny").unwrap();
    // The cache of the second is so small that samples give way.
    for (dtype, cache_rows) in [(DType::F32, 272), (DType::Q8_0, 112)] {
        let model = source.load(&gpu, Some(dtype), 128, None).unwrap();
        let shape = SamplerShape {
            cache_rows,
            ..shape(8, 96)
        };
        split_few_rows(&model);
        let m = mismatch(&model, shape);
        println!("{dtype}, high: {m:?}");
        assert!(m.differing > 0 && m.tokens > 2000, "{dtype}: {m:?}");
        assert_eq!(m.sent_back > 0, cache_rows == 112, "{dtype}: {m:?}");
        // Both sides are f32 sums of up to 384 terms in 3 layers: a relative 2⁻²⁴ a step, a few of them in logits of about 10.
        // Seen: 5.7e-6 and 3.7e-13.
        assert!(m.max < 2e-5 && m.kl < 1e-11, "{dtype}: {m:?}");
        let v = model.spec.vocab_size;
        let jobs = [job(&prompts(v)[4], 0, 20), job(&prompts(v)[9], 1, 3)];
        let sample = || {
            let mut sampler = Sampler::new(&model, shape).unwrap();
            let groups = sampler.generate(&model, &jobs, &config(24, &stops(v)));
            bits(&groups.unwrap())
        };
        assert!(sample() == sample(), "{dtype}");
    }
}

#[test]
fn a_sample_depends_on_its_seed_alone() {
    a_sample_depends_on_its_seed(FloatDtype::Float32);
}

#[test]
fn a_sample_depends_on_its_seed_alone_over_halves() {
    a_sample_depends_on_its_seed(FloatDtype::Float16);
}

fn a_sample_depends_on_its_seed(kv_cache_dtype: FloatDtype) {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "llama_gqa");
    let mut model = g.model(None);
    g.add_adapter(&mut model, false);
    let v = model.spec.vocab_size;
    let prompts = [0, 3, 8, 12].map(|i| prompts(v)[i].clone());
    let jobs: Vec<Job> = (0..).zip(&prompts).map(|(i, p)| job(p, i, 16)).collect();
    let settings = config(24, &stops(v));
    let sampler = |sequences, prefill_rows| {
        let shape = SamplerShape {
            kv_cache_dtype,
            ..shape(sequences, prefill_rows)
        };
        Sampler::new(&model, shape).unwrap()
    };
    let want = sampler(64, 512).generate(&model, &jobs, &settings).unwrap();
    let flat = bits(&want);
    let different: std::collections::BTreeSet<_> = flat.iter().map(|c| &c.0).collect();
    assert!(different.len() > 60, "only {} of 64 differ", different.len());
    for (sequences, prefill_rows) in [(64, 512), (64, 7), (16, 100), (3, 7), (3, 1), (1, 512)] {
        let got = sampler(sequences, prefill_rows)
            .generate(&model, &jobs, &settings)
            .unwrap();
        assert!(
            bits(&got) == flat,
            "{sequences} sequences, {prefill_rows} prefill rows"
        );
    }
    // One sampler, used again, for parts of the jobs in another order.
    let mut again = sampler(16, 20);
    let parts = [
        (2, 5..16),
        (0, 0..1),
        (3, 9..16),
        (0, 1..16),
        (2, 0..5),
        (1, 0..16),
        (3, 0..9),
    ];
    let split: Vec<Job> = parts
        .iter()
        .map(|(j, r)| Job {
            first: r.start,
            samples: (r.end - r.start) as usize,
            ..jobs[*j].clone()
        })
        .collect();
    for _ in 0..2 {
        let got = again.generate(&model, &split, &settings).unwrap();
        for ((j, r), group) in parts.iter().zip(got) {
            let part = want[*j][r.start as usize..r.end as usize].to_vec();
            assert!(bits(&[group]) == bits(&[part]), "job {j} {r:?}");
        }
    }
    // What is part of the seed: another run, step, prompt number or sample number gives other tokens.
    let one = |config: &SampleConfig, job: &Job, again: &mut Sampler| {
        let group = again.generate(&model, std::slice::from_ref(job), config).unwrap();
        bits(&group)
    };
    let base = one(&settings, &jobs[1], &mut again);
    let (mut run, mut step) = (settings.clone(), settings.clone());
    (run.seed, step.step) = (8, 4);
    let other_prompt = Job {
        prompt: 9,
        ..jobs[1].clone()
    };
    let other_samples = Job {
        first: 16,
        ..jobs[1].clone()
    };
    for (config, job) in [
        (&run, &jobs[1]),
        (&step, &jobs[1]),
        (&settings, &other_prompt),
        (&settings, &other_samples),
    ] {
        let other = one(config, job, &mut again);
        let same = other.iter().zip(&base).filter(|(a, b)| a == b).count();
        assert!(same <= 2, "{same} of 16 samples are the same");
    }
}

/// Everything a sampler needs is made with it: later rounds, of other jobs too, allocate no buffer and make no pipeline.
#[test]
fn nothing_is_allocated_after_the_first_round() {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "llama_gqa");
    let mut model = g.model(None);
    g.add_adapter(&mut model, false);
    let v = model.spec.vocab_size;
    let all: Vec<Job> = (0..).zip(&prompts(v)).map(|(i, p)| job(p, i, 3)).collect();
    let mut sampler = Sampler::new(&model, shape(5, 30)).unwrap();
    let settings = config(17, &stops(v));
    sampler.generate(&model, &all, &settings).unwrap();
    let made = |gpu: &Gpu| (gpu.memory().allocations, gpu.pipelines_made());
    let before = made(&gpu);
    for jobs in [&all[..], &all[..4], &all[9..]] {
        sampler.generate(&model, jobs, &settings).unwrap();
    }
    assert_eq!(made(&gpu), before);
}

/// More samples than sequences, limits of all kinds, and caches from the least that serves the longest sample: samples
/// wait, give way and go on from their tokens, and none of it changes a bit.
#[test]
fn waiting_and_giving_way_change_no_bit() {
    waiting_and_giving_way(FloatDtype::Float32);
}

/// A row that goes on has its keys computed by a prefill; they are rounded as decoding rounded them.
#[test]
fn waiting_and_giving_way_change_no_bit_over_halves() {
    waiting_and_giving_way(FloatDtype::Float16);
}

fn waiting_and_giving_way(kv_cache_dtype: FloatDtype) {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "llama_gqa");
    let mut model = g.model(None);
    g.add_adapter(&mut model, false);
    let v = model.spec.vocab_size;
    let jobs: Vec<Job> = (0..)
        .zip([2, 8, 4, 11, 0])
        .map(|(i, p)| job(&prompts(v)[p], i, 9))
        .collect();
    let limits = [24, 9, 0, 40, 17];
    // One stop token, so that most samples reach their limits.
    let settings = config(40, &[5]);
    let sample = |sequences: usize, cache_rows: usize| {
        let shape = SamplerShape {
            sequences,
            cache_rows,
            prefill_rows: 13,
            rank: 5,
            kv_cache_dtype,
        };
        let mut sampler = Sampler::new(&model, shape).unwrap();
        let groups = sampler
            .generate_limited(&model, &jobs, &limits, &settings)
            .unwrap();
        (bits(&groups), sampler.stats())
    };
    let (want, stats) = sample(45, 2048);
    let prompt_tokens: usize = jobs.iter().map(|j| j.tokens.len()).sum();
    let empty = jobs[2].tokens.len();
    assert_eq!(
        (stats.sent_back, stats.prefill_tokens),
        (0, prompt_tokens - empty)
    );
    assert!(
        want[18..27]
            .iter()
            .all(|c| c.0.is_empty() && c.2 == Finish::Length)
    );
    let mut sent_back = 0;
    for (sequences, cache_rows) in [(1, 80), (7, 80), (20, 80), (20, 136), (45, 200), (7, 2048)] {
        let (got, stats) = sample(sequences, cache_rows);
        assert!(got == want, "{sequences} sequences, {cache_rows} cache rows");
        assert!(
            stats.peak_pages <= cache_rows.div_ceil(8) + 1,
            "{cache_rows} cache rows: {stats:?}"
        );
        assert!(stats.occupancy() > 0.0 && stats.occupancy() <= 1.0, "{stats:?}");
        sent_back += stats.sent_back;
    }
    assert!(sent_back > 0);
}

#[test]
fn completions_end_at_a_stop_token_or_at_the_limit() {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "mistral");
    let model = g.model(None);
    let v = model.spec.vocab_size;
    let jobs = [
        job(&prompts(v)[4], 0, 40),
        job(&prompts(v)[0], 1, 0),
        job(&prompts(v)[5], 2, 3),
    ];
    let stop = stops(v);
    let mut sampler = Sampler::new(&model, shape(40, 16)).unwrap();
    // Lengths around the tokens decoded between two readbacks.
    for length in [1, 2, 8, 9, 10, 17, 24] {
        let (mut ended, mut cut) = (0, 0);
        let groups = sampler.generate(&model, &jobs, &config(length, &stop)).unwrap();
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [40, 0, 3]);
        for c in groups.iter().flatten() {
            let at = c.tokens.iter().position(|t| stop.contains(t));
            let (finish, n) = match at {
                Some(i) => (Finish::Stop, i + 1),
                None => (Finish::Length, length),
            };
            assert_eq!((c.finish, c.tokens.len(), c.logprobs.len()), (finish, n, n));
            assert!(n <= length && c.tokens.iter().all(|t| (*t as usize) < v));
            ended += usize::from(finish == Finish::Stop);
            cut += usize::from(finish == Finish::Length);
        }
        assert!(
            cut > 0 && (length < 8 || ended > 0),
            "limit {length}: {ended} stopped, {cut} cut"
        );
    }
    // A stop token only ends a completion: what comes before it is the same without stop tokens.
    let stopped = sampler.generate(&model, &jobs, &config(24, &stop)).unwrap();
    let free = sampler.generate(&model, &jobs, &config(24, &[])).unwrap();
    for (a, b) in stopped.iter().flatten().zip(free.iter().flatten()) {
        assert_eq!((b.tokens.len(), b.finish), (24, Finish::Length));
        assert_eq!(a.tokens, b.tokens[..a.tokens.len()]);
    }
}

/// Every stop token ends a completion, however many there are, in whatever order; ids outside the vocabulary end none.
#[test]
fn any_number_of_stop_tokens_ends_completions() {
    let gpu = open_gpu();
    let model = Golden::open(&gpu, "mistral").model(None);
    let v = model.spec.vocab_size;
    let jobs = [job(&prompts(v)[4], 0, 40)];
    let mut sampler = Sampler::new(&model, shape(40, 16)).unwrap();
    let free = sampler.generate(&model, &jobs, &config(24, &[])).unwrap();
    for count in [0, 1, 8, 9, 100, v] {
        // From the last token down, so that those beyond the eighth are others than the first ones.
        let mut stop: Vec<u32> = (0..count).map(|i| ((v - 1) - i * v / count) as u32).collect();
        stop.extend([v as u32, u32::MAX]);
        let got = sampler.generate(&model, &jobs, &config(24, &stop)).unwrap();
        let mut reasons = Vec::new();
        for (got, free) in got[0].iter().zip(&free[0]) {
            let at = free.tokens.iter().position(|t| stop.contains(t));
            let kept = at.map_or(24, |i| i + 1);
            assert_eq!(got.tokens, free.tokens[..kept], "{count} stop tokens");
            assert_eq!(got.finish == Finish::Stop, at.is_some(), "{count} stop tokens");
            reasons.extend(at.and_then(|_| stop.iter().position(|t| got.tokens.last() == Some(t))));
        }
        // The test would say little if only the first eight were met.
        assert!(
            count <= 9 || reasons.iter().any(|i| *i >= 8),
            "{count}: {reasons:?}"
        );
    }
}

/// What a sampler told of, and when: job, completions, and the commands recorded so far.
type Told = Vec<(usize, Vec<Completion>, u64)>;

/// Jobs of unequal lengths over fewer places than samples: those that end before the others are told of once each, complete, while
/// windows are still to be recorded; the samples are those of a sampler that tells nobody.
#[test]
fn jobs_that_have_ended_are_told_of_while_others_go_on() {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "llama_gqa");
    let mut model = g.model(None);
    g.add_adapter(&mut model, false);
    let v = model.spec.vocab_size;
    let jobs: Vec<Job> = (0..)
        .zip([(2, 6), (8, 6), (4, 3), (11, 6), (0, 0), (5, 4)])
        .map(|(i, (p, n))| job(&prompts(v)[p], i, n))
        .collect();
    let limits = [24, 9, 0, 70, 17, 1];
    let settings = config(70, &[5]);
    let shape = SamplerShape {
        sequences: 7,
        cache_rows: 600,
        prefill_rows: 13,
        rank: 5,
        kv_cache_dtype: FloatDtype::Float32,
    };
    let mut sampler = Sampler::new(&model, shape).unwrap();
    let want = sampler
        .generate_limited(&model, &jobs, &limits, &settings)
        .unwrap();
    let made = (gpu.memory().allocations, gpu.pipelines_made());
    let mut told: Told = Vec::new();
    let got = sampler
        .generate_each(&model, &jobs, &limits, &settings, &mut |job, completions| {
            told.push((job, completions.to_vec(), gpu.commands_recorded()));
            Ok(())
        })
        .unwrap();
    assert!(bits(&got) == bits(&want));
    assert_eq!((gpu.memory().allocations, gpu.pipelines_made()), made);
    let mut known: Vec<usize> = told.iter().map(|t| t.0).collect();
    // Nothing is drawn of jobs of no samples or of no tokens: they are told of first.
    assert_eq!(known[..2], [2, 4]);
    known.sort_unstable();
    known.dedup();
    // All but the one that ends with the last window.
    assert_eq!((known.len(), told.len()), (5, 5));
    for (job, completions, _) in &told {
        assert!(*completions == want[*job], "job {job}");
    }
    // Windows were recorded between one and the next, and after the first.
    assert!(told.windows(2).all(|w| w[0].2 <= w[1].2) && told[0].2 < told[4].2);
    assert!(told[2].2 < gpu.commands_recorded());

    // What is told may end the sampling; the sampler is still good then.
    let error = sampler
        .generate_each(&model, &jobs, &limits, &settings, &mut |job, _| match job {
            1 => Err(Error::user("enough")),
            _ => Ok(()),
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "enough");
    let again = sampler
        .generate_limited(&model, &jobs, &limits, &settings)
        .unwrap();
    assert!(bits(&again) == bits(&want));
}

fn refusal(gpu: &Gpu, job: Job, config: &SampleConfig) -> String {
    let model = Golden::open(gpu, "mistral").model(None);
    let mut sampler = Sampler::new(&model, shape(2, 16)).unwrap();
    let good = self::job(&[1, 2], 0, 1);
    let error = sampler
        .generate(&model, &[good.clone(), job], config)
        .unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    // The sampler is still good afterwards.
    assert_eq!(
        sampler
            .generate(&model, &[good], &self::config(3, &[]))
            .unwrap()
            .len(),
        1
    );
    error.to_string()
}

#[test]
fn what_cannot_be_sampled_is_refused_with_its_reason() {
    let gpu = open_gpu();
    let plain = config(24, &[]);
    let empty = refusal(&gpu, job(&[], 4, 1), &plain);
    assert!(empty.contains("prompt 4") && empty.contains("empty"), "{empty}");
    let outside = refusal(&gpu, job(&[5, 193], 4, 1), &plain);
    assert!(
        outside.contains("193") && outside.contains("vocabulary"),
        "{outside}"
    );
    // 128 positions: 105 + 24 − 1 fit, one more does not; the cache of this sampler holds 80 + 2 · 24 rows.
    let long = refusal(&gpu, job(&[1; 106], 4, 1), &plain);
    assert!(
        long.contains("106 tokens") && long.contains("--max-completion-length"),
        "{long}"
    );
    let cache = refusal(&gpu, job(&[1; 105], 4, 1), &plain);
    assert!(cache.contains("129 cache rows, and this run has 128"), "{cache}");
}

/// Commands that a decode step of `m` rows records in `Pass::forward`.
fn step_commands(model: &Model, adapter: bool, m: usize) -> usize {
    let ws = workspace(model, m, false);
    let mut batch = Batch::default();
    for row in 0..m as u32 {
        batch.push_cached(&[1], [row, 1, row + 1], 0, 1);
    }
    let cache = KvCache::new(model, m, FloatDtype::Float32).unwrap();
    let mut rec = Recorder::new(&model.gpu);
    // What any adapter runs; the choice of a tile would add a dispatch for each second product.
    rec.force_variant(Some("portable"));
    let loaded = ws.load(&mut rec, model, &mut batch).unwrap();
    let rows: Vec<u32> = (0..m as u32).collect();
    let rows = model.gpu.upload("rows", &rows).unwrap();
    let keys = Keys::Cached {
        cache: &cache,
        rows: &rows,
        decode: true,
    };
    let before = model.gpu.commands_recorded();
    let ws = &ws;
    Pass { model, ws, adapter }
        .forward(&mut rec, &loaded, &keys)
        .unwrap();
    let commands = model.gpu.commands_recorded() - before;
    rec.submit().unwrap();
    commands as usize
}

/// On software adapters half of a small step is the cost of its dispatches. A block is two norms, q with k and v, rotation with the
/// cache's write, attention, o, gate with up, down; an adapter on every layer takes q, k and v apart and adds its A for q, k, v, for o,
/// for gate and up, for down.
#[test]
fn a_decode_step_records_few_commands() {
    let gpu = open_gpu();
    let g = Golden::open(&gpu, "llama_gqa");
    let mut model = g.model(None);
    let layers = g.spec.num_layers;
    // Embedding, last norm, readouts.
    let around = 3;
    assert_eq!(step_commands(&model, true, 1), around + 8 * layers);
    assert_eq!(
        step_commands(&g.model(Some(DType::F16)), true, 1),
        around + 8 * layers
    );
    let biased = Golden::open(&gpu, "qwen2_bias");
    let commands = step_commands(&biased.model(None), true, 1);
    assert_eq!(commands, around + 8 * biased.spec.num_layers);
    let shape = LoraShape {
        rank: 5,
        alpha: 10.0,
        targets: Proj::ALL.to_vec(),
    };
    model.new_adapter(&shape, 1, false).unwrap();
    for m in [1, 16] {
        assert_eq!(step_commands(&model, true, m), around + 14 * layers, "{m} rows");
        assert_eq!(
            step_commands(&model, false, m),
            around + 8 * layers,
            "{m} rows, adapter off"
        );
    }
}
