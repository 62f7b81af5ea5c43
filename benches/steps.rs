//! Criterion over the work of `tea-wgpu bench rollout` and `bench train`, each repetition a sample:
//! `cargo bench --bench steps -- prefill`.
//!
//! `TEA_DEVICE` chooses the adapter, `TEA_BENCH_MODEL` the model (default the embedded one, so that this ends soon; for
//! numbers to keep: random:smollm2-135m or a model's path, in a release build).
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench: what fails ends it")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tea_wgpu::bench::output::Row;
use tea_wgpu::bench::policy::{Policy, PolicySettings};
use tea_wgpu::bench::{rollout, train};
use tea_wgpu::gpu::{Gpu, GpuOptions};

fn open(lora_rank: usize) -> Policy {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..GpuOptions::default()
    };
    let gpu = Gpu::open(&options).unwrap();
    tea_wgpu::kernels::check_forced(&gpu).unwrap();
    let settings = PolicySettings {
        model: std::env::var("TEA_BENCH_MODEL").unwrap_or_else(|_| tea_wgpu::config::TINY.into()),
        dtype: None,
        lora_rank,
        seed: 0,
    };
    Policy::open(&gpu, &settings, 128, false).unwrap()
}

/// Seconds that `row`'s samples, `tokens` a second each, stand for.
fn from_rate(row: &Row, tokens: f64) -> Duration {
    Duration::from_secs_f64(row.samples.iter().map(|rate| tokens / rate).sum())
}

fn steps(c: &mut Criterion) {
    let policy = open(0);
    let sampling = |repetitions: u64, prefill: Vec<usize>, decode: Vec<usize>| rollout::Settings {
        prefill,
        decode,
        decode_length: 16,
        batch: 1,
        num_generations: 1,
        prompt_length: 1,
        max_completion_length: 1,
        repetitions: repetitions as usize,
        token_budget: 2048,
        kv_cache_dtype: Default::default(),
    };
    c.bench_function("prefill 64", |b| {
        b.iter_custom(|n| {
            let rows = rollout::run(&policy, &sampling(n, vec![64], vec![])).unwrap();
            from_rate(&rows[0], 64.0)
        });
    });
    c.bench_function("decode 16 × 16 tokens", |b| {
        b.iter_custom(|n| {
            let rows = rollout::run(&policy, &sampling(n, vec![], vec![16])).unwrap();
            from_rate(&rows[0], 16.0 * 16.0)
        });
    });
    let adapted = open(16);
    let settings = |repetitions: u64| train::Settings {
        batch: 8,
        num_generations: 1,
        prompt_length: 1,
        max_completion_length: 128,
        repetitions: repetitions as usize,
        token_budget: 2048,
        no_checkpointing: true,
        activation_memory: None,
        dtype: Default::default(),
        optim: Default::default(),
        kv_cache_dtype: Default::default(),
        reference: false,
    };
    c.bench_function("LoRA forward+backward 8×128", |b| {
        b.iter_custom(|n| {
            let rows = train::run(&adapted, &settings(n), None, false).unwrap();
            let row = rows
                .iter()
                .find(|r| r.test.starts_with("forward+backward"))
                .unwrap();
            Duration::from_secs_f64(row.samples.iter().sum())
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200));
    targets = steps
}
criterion_main!(benches);
