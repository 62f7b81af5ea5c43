//! The variants of attention, in a model's forward and backward pass: the same bits.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use tea_wgpu::config::MatmulPrecision;
use tea_wgpu::gpu::{Gpu, GpuOptions, Recorder};
use tea_wgpu::kernels::attention::{FORWARD_OP, variants};
use tea_wgpu::model::batch::Batch;
use tea_wgpu::model::forward::{Keys, Pass};
use tea_wgpu::model::params::Model;
use tea_wgpu::model::source::ModelFiles;
use tea_wgpu::model::spec::Head;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::model::workspace::{Shape, Workspace};
use tea_wgpu::tensor::DType;

/// Log-probabilities and every gradient of a model that is trained whole, on groups of several responses, as bits.
fn train(gpu: &Gpu, name: &str, variant: Option<&'static str>) -> (Vec<f32>, Vec<Vec<u32>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/models")
        .join(name);
    let spec = ModelFiles::Dir(dir.clone()).spec().unwrap();
    assert_eq!(spec.head, Head::CausalLm);
    let store = WeightStore::open(&ModelFiles::Dir(dir)).unwrap();
    let mut model = Model::load(gpu, &spec, &store, Some(DType::F32), 256).unwrap();
    model.train_base().unwrap();
    let shape = Shape {
        rows: 256,
        readouts: 256,
        rank: 0,
        backward: true,
        kept_blocks: 1,
        half: false,
        vocabulary_head: true,
    };
    let ws = Workspace::new(gpu, &spec, shape).unwrap();
    let tokens = |n: usize, from: usize| -> Vec<u32> {
        let token = |i: usize| ((i * 37 + from * 11 + i * i) % spec.vocab_size) as u32;
        (0..n).map(token).collect()
    };
    let mut batch = Batch::default();
    for (prompt, responses) in [(43, &[9, 1, 30][..]), (5, &[70]), (20, &[8, 8, 3])] {
        let suffixes: Vec<Vec<u32>> = responses.iter().map(|n| tokens(*n, prompt + n)).collect();
        batch
            .push_group(&tokens(prompt, 3), suffixes.iter().map(|s| &s[..]))
            .unwrap();
    }
    let mut rec = Recorder::new(gpu);
    rec.force_variant(variant);
    let loaded = ws.load(&mut rec, &model, &mut batch).unwrap();
    let pass = Pass {
        model: &model,
        ws: &ws,
        adapter: false,
    };
    pass.forward(&mut rec, &loaded, &Keys::Packed).unwrap();
    pass.log_probs(&mut rec, &loaded).unwrap();
    rec.submit().unwrap();
    let logp = pass.read_log_probs(&loaded).unwrap();
    let dlogp: Vec<f32> = (0..logp.len()).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
    pass.backward_log_probs(&mut rec, &loaded, &dlogp, &batch.tokens)
        .unwrap();
    rec.submit().unwrap();
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect();
    let gradients = model.trainable();
    let gradients = gradients.iter().map(|t| bits(t.grad.read_f32(gpu).unwrap()));
    (logp, gradients.collect())
}

/// The attention kernels that ran since the profile was cleared.
fn kernels(gpu: &Gpu) -> Vec<String> {
    let ran = gpu.profile().into_iter().map(|row| row.kernel);
    ran.filter(|n| n.starts_with("attention_")).collect()
}

fn profiling() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        profile: true,
        ..Default::default()
    })
    .unwrap()
}

/// A variant that is asked for must be reached, forward and backward, and must change nothing.
#[test]
fn every_variant_trains_with_the_portable_bits() {
    let gpu = profiling();
    let others = variants(&gpu, FORWARD_OP, 64).split_off(1);
    for name in ["llama_gqa", "qwen3_qknorm"] {
        let (logp, want) = train(&gpu, name, Some("portable"));
        assert!(logp.iter().all(|v| v.is_finite() && *v < 0.0), "{name}");
        assert!(want.iter().flatten().any(|v| *v != 0), "{name}: no gradient");
        for variant in &others {
            gpu.clear_profile();
            let (got_logp, got) = train(&gpu, name, Some(variant));
            assert_eq!(logp, got_logp, "{name} {variant}");
            assert!(want == got, "{name} {variant}: gradients");
            if !gpu.profiles() {
                println!(
                    "{}: no timestamps, and so no names of what ran",
                    gpu.report().name
                );
                continue;
            }
            let of_attention = kernels(&gpu);
            let suffix = variant.trim_end_matches("-8");
            for (op, part) in [
                ("forward", ""),
                ("query_gradient", ""),
                ("kv_gradient", "_keys"),
                ("kv_gradient", "_values"),
            ] {
                let kernel = format!("attention_{op}_{suffix}{part}");
                assert!(of_attention.contains(&kernel), "{name}: {of_attention:?}");
            }
            assert_eq!(of_attention.len(), 5, "{name}: {of_attention:?}");
        }
    }
}

/// Under `medium` the gradients of attention are products of cooperative matrices, its forward pass is not.
#[test]
fn training_under_medium_takes_cooperative_matrices_for_gradients_alone() {
    let gpu = profiling();
    let (_, want) = train(&gpu, "llama_gqa", Some("portable"));
    if let Err(why) = gpu.set_matmul_precision(MatmulPrecision::Medium) {
        println!("not tested here: {why}");
        assert!(gpu.report().coop_side().is_none());
        return;
    }
    gpu.clear_profile();
    let (_, got) = train(&gpu, "llama_gqa", None);
    if gpu.profiles() && gpu.forced_variant().is_none() {
        let ran = kernels(&gpu);
        let side = gpu.report().coop_side().unwrap();
        for part in [
            "query_gradient_tiled",
            "kv_gradient_tiled_keys",
            "kv_gradient_tiled_values",
        ] {
            let kernel = format!("attention_{part}_coop_{side}");
            assert!(ran.contains(&kernel), "{ran:?}");
        }
        assert!(
            !ran.iter().any(|n| n.contains("forward") && n.contains("coop")),
            "{ran:?}"
        );
    }
    let value = |bits: &u32| f64::from(f32::from_bits(*bits));
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        let off: f64 = want
            .iter()
            .zip(got)
            .map(|(a, b)| (value(a) - value(b)).powi(2))
            .sum();
        let size: f64 = want.iter().map(|a| value(a).powi(2)).sum();
        // An operand is off by 2⁻¹² at most (relative), here through two blocks and back: a few times 2⁻¹¹ of a gradient.
        assert!(
            off <= size * 1e-2 * 1e-2,
            "gradient {i}: {off:e} of {size:e}, squared"
        );
    }
}
