//! Random models small enough that a training step takes milliseconds, as Hugging Face directories.

use rand::RngExt;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use tea_wgpu::demo;
use tea_wgpu::model::save::write_safetensors;
use tea_wgpu::model::spec::{Family, Head, ModelSpec, Rope, RopeScaling};
use tea_wgpu::model::store::HostTensor;
use tea_wgpu::rng::{Stream, seed_for};
use tea_wgpu::tensor::DType;

/// Longest sequence of these models, in tokens.
pub(crate) const CONTEXT: usize = 64;

/// Two layers, width 16, the demo's 101 characters.
pub(crate) fn spec(head: Head) -> ModelSpec {
    ModelSpec {
        family: Family::Llama,
        head,
        vocab_size: demo::vocabulary().len(),
        hidden_size: 16,
        intermediate_size: 32,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 1e4,
            scaling: RopeScaling::None,
        },
        qkv_bias: false,
        o_bias: false,
        qk_norm: false,
        tie_word_embeddings: true,
        max_position_embeddings: CONTEXT,
        pad_token_id: Some(0),
        eos_token_ids: vec![4],
        bos_token_id: None,
    }
}

/// Writes a model of random weights; norms are 1 and every score weight is `score` where that is given.
pub(crate) fn write_model(dir: &Path, head: Head, seed: u64, score: Option<f32>) {
    let spec = spec(head);
    let mut stream = Stream::new(seed_for(seed, 0, 0, 0), 0x7e57);
    let tensors: Vec<_> = spec
        .tensors()
        .map(|t| {
            let n: usize = t.shape.iter().product();
            let values: Vec<f32> = (0..n)
                .map(|_| match (t.shape.len(), score) {
                    (1, _) => 1.0,
                    (_, Some(value)) if t.name == "score.weight" => value,
                    _ => (stream.random::<f32>() - 0.5) * 1.2,
                })
                .collect();
            let bytes = Cow::Owned(bytemuck::pod_collect_to_vec(&values));
            let tensor = HostTensor {
                dtype: DType::F32,
                shape: t.shape,
                bytes,
            };
            (t.name, tensor)
        })
        .collect();
    std::fs::create_dir_all(dir).unwrap();
    write_safetensors(&dir.join("model.safetensors"), &tensors).unwrap();
    let files = [
        (
            "config.json",
            spec.to_config_json(DType::F32).to_string().into_bytes(),
        ),
        ("tokenizer.json", demo::tokenizer_json()),
        ("tokenizer_config.json", demo::tokenizer_config_json(CONTEXT)),
    ];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// A directory that holds `policy`, `reward`, `reward-nan`, `reward-flat` and `prompts.jsonl`.
pub(crate) fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    write_model(&at("policy"), Head::CausalLm, 1, None);
    write_model(&at("reward"), Head::Score, 2, None);
    write_model(&at("reward-nan"), Head::Score, 2, Some(f32::NAN));
    write_model(&at("reward-flat"), Head::Score, 2, Some(0.0));
    let prompts = ["add 1 2", "reverse cat", "sort bca", "count a", "next 2 4 6"];
    let lines: String = prompts
        .iter()
        .map(|p| format!("{}\n", serde_json::json!({ "prompt": p })))
        .collect();
    std::fs::write(at("prompts.jsonl"), lines).unwrap();
    dir
}
