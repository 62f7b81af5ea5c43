//! Criterion over the cases of `tea-wgpu bench kernels --quick`: `cargo bench --bench kernels -- linear_forward`.
//!
//! `TEA_DEVICE` chooses the adapter, `TEA_BENCH_MODELS` the shapes (default smollm2-135m). A case's buffers are made when
//! its turn comes, so a filter costs nothing for what it leaves out; one that does not fit the adapter ends the run.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench: what fails ends it")]

use std::cell::OnceCell;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tea_wgpu::bench::case::{Prepared, Wanted};
use tea_wgpu::bench::{cases, timing};
use tea_wgpu::gpu::{Gpu, GpuOptions};
use tea_wgpu::model::shapes::Named;

fn kernels(c: &mut Criterion) {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        profile: true,
        ..GpuOptions::default()
    };
    let gpu = Gpu::open(&options).unwrap();
    tea_wgpu::kernels::check_forced(&gpu).unwrap();
    let names = std::env::var("TEA_BENCH_MODELS").unwrap_or_else(|_| "smollm2-135m".into());
    let models: Vec<Named> = names.split(',').map(|n| Named::find(n).unwrap()).collect();
    let wanted = Wanted {
        gpu: &gpu,
        models: &models,
        quick: true,
    };
    for case in cases::all(&wanted) {
        let made: OnceCell<Prepared> = OnceCell::new();
        c.bench_function(&case.name(), |b| {
            let prepared = made.get_or_init(|| (case.build)(&gpu).unwrap());
            b.iter_custom(|runs| {
                // Few enough runs a submission for any driver's watchdog.
                let chunks = (0..runs).step_by(64).map(|from| (runs - from).min(64) as usize);
                let all = chunks.map(|n| timing::seconds(&gpu, &|rec| (prepared.record)(rec), n).unwrap());
                Duration::from_secs_f64(all.sum())
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
