//! The memory plan against what is really allocated.
#![allow(clippy::unwrap_used, reason = "tests")]

use tea_wgpu::gpu::{Gpu, GpuOptions};
use tea_wgpu::model::forward::KvCache;
use tea_wgpu::model::load::Source;
use tea_wgpu::model::params::LoraShape;
use tea_wgpu::model::plan::Plan;
use tea_wgpu::model::spec::Proj;
use tea_wgpu::model::workspace::{Shape, Workspace};
use tea_wgpu::optim::{Optimizer, Settings};
use tea_wgpu::tensor::DType;

const SETTINGS: Settings = Settings {
    learning_rate: 1e-3,
    warmup_steps: 0,
    weight_decay: 0.0,
    max_grad_norm: 1.0,
    schedule: tea_wgpu::config::Schedule::Constant,
    total_steps: 1,
};

fn golden(name: &str) -> Source {
    let dir = format!("{}/tests/golden/models/{name}", env!("CARGO_MANIFEST_DIR"));
    Source::open(&dir).unwrap()
}

/// A device of its own, so that nothing else is counted.
fn device() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

/// Compares every row and the total; 5% allows for the readbacks' and norms' scratch, which no plan lists.
fn compare(gpu: &Gpu, plan: &Plan) {
    let real = gpu.memory();
    for (owner, bytes) in &plan.rows {
        let got = real.by_owner.get(owner).copied().unwrap_or(0);
        assert!(
            got.abs_diff(*bytes) * 20 <= got,
            "{owner}: planned {bytes}, allocated {got}"
        );
    }
    assert!(
        plan.total().abs_diff(real.current) * 20 <= real.current,
        "{plan}\n{real:?}"
    );
}

fn shape(rank: usize, backward: bool, keep_all: bool) -> Shape {
    Shape {
        rows: 96,
        readouts: 64,
        rank,
        backward,
        keep_all,
        vocabulary_head: true,
    }
}

#[test]
fn training_an_adapter_takes_what_the_plan_says() {
    for (name, keep_all) in [
        ("llama_gqa", false),
        ("llama_gqa_f16", true),
        ("qwen2_bias", false),
        ("qwen3_qknorm", true),
    ] {
        let (source, gpu) = (golden(name), device());
        let lora = LoraShape {
            rank: 5,
            alpha: 10.0,
            targets: vec![Proj::Q, Proj::O, Proj::Down],
        };
        let mut model = source.load(&gpu, None, 64, None).unwrap();
        model.new_adapter(&lora, 1, true).unwrap();
        let _optimizer = Optimizer::new(&gpu, model.trainable(), SETTINGS).unwrap();
        let _ws = Workspace::new(&gpu, &model.spec, shape(5, true, keep_all)).unwrap();
        let _cache = KvCache::new(&model, 200).unwrap();

        let mut plan = Plan::model(&source, None, 64).unwrap();
        plan.extend("", &Plan::adapter(&source.spec, &lora));
        plan.extend("", &Plan::workspace(&source.spec, shape(5, true, keep_all)));
        plan.extend("", &Plan::kv_cache(&source.spec, 200));
        compare(&gpu, &plan);
        // Exact where no scratch is shared.
        let real = gpu.memory().by_owner;
        for owner in [
            "weights",
            "adapter",
            "activations",
            "head",
            "kv cache",
            "rope",
            "gradients",
        ] {
            assert_eq!(real[owner], plan.bytes(owner), "{name}: {owner}");
        }
    }
}

#[test]
fn training_everything_takes_what_the_plan_says() {
    let (source, gpu) = (golden("llama_tied"), device());
    let mut model = source.load(&gpu, Some(DType::F32), 64, None).unwrap();
    model.train_base().unwrap();
    let _optimizer = Optimizer::new(&gpu, model.trainable(), SETTINGS).unwrap();
    let mut plan = Plan::model(&source, Some(DType::F32), 64).unwrap();
    plan.extend("", &Plan::full(&source.spec));
    compare(&gpu, &plan);
}

#[test]
fn scoring_takes_what_the_plan_says() {
    let (source, gpu) = (golden("qwen3_score"), device());
    let model = source.load(&gpu, Some(DType::BF16), 64, None).unwrap();
    let shape = Shape {
        vocabulary_head: false,
        ..shape(0, false, false)
    };
    let _ws = Workspace::new(&gpu, &model.spec, shape).unwrap();
    let mut plan = Plan::model(&source, Some(DType::BF16), 64).unwrap();
    plan.extend("", &Plan::workspace(&source.spec, shape));
    compare(&gpu, &plan);
    assert_eq!(plan.total(), gpu.memory().current);
}
