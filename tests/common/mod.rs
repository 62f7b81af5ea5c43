//! What several test programs need: the adapter, the tiny models of tests/golden, their buffers.
#![allow(dead_code, reason = "every program compiles this file and uses a part of it")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tea_wgpu::gpu::{Gpu, GpuOptions};
use tea_wgpu::model::load;
use tea_wgpu::model::params::Model;
use tea_wgpu::model::source::ModelFiles;
use tea_wgpu::model::spec::ModelSpec;
use tea_wgpu::model::store::WeightStore;
use tea_wgpu::model::workspace::{Shape, Workspace};
use tea_wgpu::tensor::DType;

/// How tests open the adapter: `TEA_DEVICE` chooses it. `TEA_UNCHECKED=1` runs the shaders as a release does, without
/// wgpu's checks.
pub(crate) fn gpu_options() -> GpuOptions {
    let unchecked = std::env::var("TEA_UNCHECKED").is_ok_and(|v| v == "1");
    GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        shader_checks: unchecked.then_some(false),
        ..GpuOptions::default()
    }
}

/// The adapter, opened so.
pub(crate) fn open_gpu() -> Gpu {
    Gpu::open(&gpu_options()).unwrap()
}

/// A tiny random model with its PyTorch results (tests/golden/README.md).
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) json: Value,
    pub(crate) spec: ModelSpec,
    pub(crate) gpu: Gpu,
}

impl Golden {
    pub(crate) fn open(gpu: &Gpu, name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/models")
            .join(name);
        let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let spec = ModelFiles::Dir(dir.clone()).spec().unwrap();
        Self {
            dir,
            json,
            spec,
            gpu: gpu.clone(),
        }
    }

    /// The model with its matrices as `dtype` (as stored where `None`).
    pub(crate) fn model(&self, dtype: Option<DType>) -> Model {
        let store = WeightStore::open(&ModelFiles::Dir(self.dir.clone())).unwrap();
        Model::load(&self.gpu, &self.spec, &store, dtype, 128).unwrap()
    }

    /// Puts the stored adapter on, trainable or not.
    pub(crate) fn add_adapter(&self, model: &mut Model, train: bool) {
        let dir = self.dir.join(self.json["adapter"].as_str().unwrap());
        load::load_adapter(model, &dir, train).unwrap();
    }
}

/// Buffers for micro-batches of up to `rows` tokens; LoRA up to rank 5.
pub(crate) fn workspace(model: &Model, rows: usize, backward: bool) -> Workspace {
    let shape = Shape {
        rows,
        readouts: rows,
        rank: 5,
        backward,
        kept_blocks: 1,
        half: false,
        vocabulary_head: true,
    };
    Workspace::new(&model.gpu, &model.spec, shape).unwrap()
}

/// ‖got − want‖ / ‖want‖ in the Euclidean norm. Of a gradient, it takes each tensor by itself, so that one of small
/// gradients counts as much as the others, and elements that happen to be near 0 do not.
pub(crate) fn relative_norm(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f64| v * v;
    let off: f64 = got
        .iter()
        .zip(want)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    (off / want.iter().map(|b| square(f64::from(*b))).sum::<f64>().max(1e-30)).sqrt()
}
