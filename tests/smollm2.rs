//! A real model from a real GGUF file: SmolLM2-135M-Instruct in Q4_1 against transformers, and its embedding at full size.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::open_gpu;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tea_wgpu::gpu::{Gpu, Recorder};
use tea_wgpu::kernels::linear::{self, Write};
use tea_wgpu::kernels::sample::SampleParams;
use tea_wgpu::kernels::weight::{SHARD_ROWS, Weight, device_bytes};
use tea_wgpu::kernels::{embedding, pad4};
use tea_wgpu::model::params::Model;
use tea_wgpu::model::source::ModelFiles;
use tea_wgpu::model::spec::Proj;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::rollout::{Finish, Job, SampleConfig, Sampler, SamplerShape};
use tea_wgpu::tensor::DType;

#[derive(Deserialize)]
struct Greedy {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gguf() -> PathBuf {
    let path = root().join("target/test-data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        path.exists(),
        "{} is missing; run `sh tests/fetch-data.sh`",
        path.display()
    );
    path
}

#[test]
fn greedy_tokens_of_the_q4_1_file_are_transformers() {
    let golden = std::fs::read(root().join("tests/golden/smollm2_greedy.json")).unwrap();
    let cases = serde_json::from_slice::<Greedy>(&golden).unwrap().cases;
    assert_eq!(cases.len(), 5);
    let gpu = open_gpu();
    let files = ModelFiles::Gguf(gguf());
    let (spec, store) = (files.spec().unwrap(), WeightStore::open(&files).unwrap());
    store.check(&spec).unwrap();
    let model = Model::load(&gpu, &spec, &store, None, 128).unwrap();
    // The blocks stay blocks: nothing is unpacked in memory.
    assert_eq!(
        model.blocks[29].linear(Proj::Down).weight.value.dtype,
        DType::Q4_1
    );
    assert_eq!(model.head_param().value.dtype, DType::Q8_0);
    let length = cases[0].tokens.len();
    let prompts: usize = cases.iter().map(|c| c.prompt_tokens.len()).sum();
    let shape = SamplerShape {
        sequences: cases.len(),
        cache_rows: prompts + cases.len() * length,
        prefill_rows: prompts,
        rank: 0,
        kv_cache_dtype: Default::default(),
    };
    let mut sampler = Sampler::new(&model, shape).unwrap();
    let job = |(i, c): (u64, &Case)| Job {
        tokens: c.prompt_tokens.clone(),
        prompt: i,
        samples: 1,
        first: 0,
    };
    let jobs: Vec<Job> = (0..).zip(&cases).map(job).collect();
    let config = SampleConfig {
        params: SampleParams::GREEDY,
        max_completion_length: length,
        stop: Vec::new(),
        seed: 0,
        step: 0,
    };
    let begun = Instant::now();
    let out = sampler.generate(&model, &jobs, &config).unwrap();
    println!("{prompts} + 5 · {length} tokens in {:.1?}", begun.elapsed());
    let mut off = 0.0f32;
    for (case, group) in cases.iter().zip(&out) {
        assert_eq!(group[0].tokens, case.tokens, "{}", case.prompt);
        assert_eq!(group[0].finish, Finish::Length);
        assert_eq!(group[0].logprobs.len(), length);
        for (a, b) in group[0].logprobs.iter().zip(&case.logprobs) {
            off = off.max((a - b).abs());
        }
    }
    println!("log-probabilities are off by at most {off:.2e}");
    // 30 layers of f32 sums in another order than PyTorch's, on weights the kernels unpack themselves.
    assert!(off < 1e-3, "log-probabilities are off by {off:.2e}");
}

/// Embeds `tokens` and multiplies `x` (2, C) by the table: the bits of both, the second without padding.
fn through(gpu: &Gpu, table: &Weight, tokens: &[u32], x: &[f32]) -> [Vec<u32>; 2] {
    let (rows, cols) = (table.rows, table.cols);
    let nan = |n: usize| gpu.upload("out", &vec![f32::NAN; n]).unwrap();
    let (embedded, y) = (nan(tokens.len() * cols), nan(2 * pad4(rows)));
    let (ids, x) = (gpu.upload("tokens", tokens).unwrap(), gpu.upload("x", x).unwrap());
    let mut rec = Recorder::new(gpu);
    embedding::forward(&mut rec, table, &ids, &embedded, tokens.len()).unwrap();
    linear::forward(&mut rec, &x, table, None, &y, 2, Write::SET).unwrap();
    rec.submit().unwrap();
    let y: Vec<u32> = gpu.read(&y, 0, 2 * pad4(rows)).unwrap();
    let y = y.chunks(pad4(rows)).flat_map(|r| r[..rows].to_vec()).collect();
    [gpu.read(&embedded, 0, tokens.len() * cols).unwrap(), y]
}

#[test]
fn the_embedding_in_f32_fits_a_binding_and_splits_to_the_same_bits() {
    let gpu = open_gpu();
    let store = WeightStore::open(&ModelFiles::Gguf(gguf())).unwrap();
    let table = store
        .get("model.embed_tokens.weight")
        .unwrap()
        .convert(DType::F32)
        .unwrap();
    let (rows, cols) = (table.shape[0], table.shape[1]);
    assert_eq!((rows, cols), (49152, 576));
    let bytes = device_bytes(DType::F32, rows, cols);
    // 113 MB, below the 128 MiB that every adapter must bind.
    assert!(((108 << 20)..=(128 << 20)).contains(&bytes), "{bytes}");
    let upload =
        |cap| Weight::upload_split(&gpu, "table", DType::F32, rows, cols, &table.bytes, cap).unwrap();
    let whole = upload(128 << 20);
    assert_eq!(whole.shards.len(), 1);
    let values = table.to_f32();
    let row = |t: usize| &values[t * cols..(t + 1) * cols];
    let last = rows as u32 - 1;
    let tokens = [0, 1, 4095, 4096, 16_383, 16_384, 32_768, 49_000, last];
    let x: Vec<f32> = [row(17), row(40_000)].concat();
    let want = through(&gpu, &whole, &tokens, &x);
    for (i, t) in tokens.iter().enumerate() {
        let got = &want[0][i * cols..(i + 1) * cols];
        assert!(
            got.iter().zip(row(*t as usize)).all(|(a, b)| *a == b.to_bits()),
            "row {t}"
        );
    }
    for (i, x) in x.chunks(cols).enumerate() {
        for t in 0..rows {
            let products = x.iter().zip(row(t)).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, scale) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
            let got = f64::from(f32::from_bits(want[1][i * rows + t]));
            // What an f32 dot product of 576 terms can be off by in any order (Higham 2002, §3.1): 2⁻²⁴ of the terms'
            // sizes a term. Measured: 1.4e-6 of them at token 4059.
            assert!(
                (got - sum).abs() <= cols as f64 * 2f64.powi(-24) * scale,
                "token {t}: {got}, not {sum}"
            );
        }
    }
    // As a table larger than a binding is split: four shards, then twelve.
    for (shards, groups) in [(4, 3), (12, 1)] {
        let split = upload(groups * device_bytes(DType::F32, SHARD_ROWS, cols) + 100);
        assert_eq!(split.shards.len(), shards);
        assert!(through(&gpu, &split, &tokens, &x) == want, "{shards} shards");
    }
}
