//! Weights to start training from scratch, and the files of a new model.

use std::borrow::Cow;

use rand::RngExt;
use serde_json::{Value, json};

use super::params::{Model, upload};
use super::parts::{Proj, Role};
use super::save::AtomicDir;
use super::spec::ModelSpec;
use super::store::HostTensor;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::rng::{Stream, seed_for};
use crate::tensor::DType;

/// The random stream of initial weights.
const INIT: u32 = 0x1417;

/// Standard deviation of GPT-2's initial weights, whose residual stream is [`GPT2_WIDTH`] wide.
const GPT2_STD: f64 = 0.02;
const GPT2_WIDTH: f64 = 768.0;

/// Random weights for every tensor of a model, in f32: norms 1, biases 0, matrices normal with GPT-2's deviation carried
/// to this width (0.02·√(768/C)), and those that write into the residual stream divided by √(2·layers), so that it keeps
/// its size with depth (Radford et al. 2019, §2.3).
///
/// The same seed gives the same bits on every machine: a normal draw is the sum of twelve uniform ones, which needs no
/// function of a mathematics library.
pub fn random_tensors(spec: &ModelSpec, seed: u64) -> Vec<(String, HostTensor<'static>)> {
    (0u64..)
        .zip(spec.tensors())
        .map(|(number, tensor)| {
            let n: usize = tensor.shape.iter().product();
            let mut stream = Stream::new(seed_for(seed, number, 0, 0), INIT);
            let values = match start(spec, tensor.role) {
                Start::Constant(value) => vec![value; n],
                Start::Normal(std) => (0..n).map(|_| (std * draw(&mut stream)) as f32).collect(),
            };
            let host = HostTensor {
                dtype: DType::F32,
                shape: tensor.shape,
                bytes: Cow::Owned(bytemuck::pod_collect_to_vec(&values)),
            };
            (tensor.name, host)
        })
        .collect()
}

/// How a tensor starts.
enum Start {
    Constant(f32),
    /// With this standard deviation.
    Normal(f64),
}

fn start(spec: &ModelSpec, role: Role) -> Start {
    let std = GPT2_STD * (GPT2_WIDTH / spec.hidden_size as f64).sqrt();
    match role {
        Role::AttnNorm | Role::MlpNorm | Role::FinalNorm | Role::QNorm | Role::KNorm => Start::Constant(1.0),
        Role::Bias(_) => Start::Constant(0.0),
        Role::Weight(Proj::O | Proj::Down) => Start::Normal(std / (2.0 * spec.num_layers as f64).sqrt()),
        Role::Embedding | Role::Weight(_) | Role::LmHead | Role::Score => Start::Normal(std),
    }
}

/// Draws that [`random_model`] makes before it repeats them; a prime, so that no two rows of a matrix are equal.
const POOL: usize = 1_048_583;

/// A model with weights of the sizes and deviations of [`random_tensors`], on the device as `dtype`, for measuring: a few
/// draws are repeated, so that a model of billions of weights is made in seconds. Nothing can be learned from it.
///
/// # Errors
/// A type that weights are not converted to, or out of memory.
pub fn random_model(gpu: &Gpu, spec: &ModelSpec, dtype: DType, positions: usize, seed: u64) -> Result<Model> {
    let mut stream = Stream::new(seed_for(seed, 0, 0, 0), INIT);
    let pool: Vec<f32> = (0..POOL).map(|_| draw(&mut stream) as f32).collect();
    let mut from = 0;
    Model::build(gpu, spec, positions, &mut |t| {
        let n: usize = t.shape.iter().product();
        let values: Vec<f32> = match start(spec, t.role) {
            Start::Constant(value) => vec![value; n],
            Start::Normal(std) => {
                let draws = pool.iter().cycle().skip(from).take(n);
                draws.map(|d| std as f32 * d).collect()
            }
        };
        // The next tensor goes on where this one ended.
        from = (from + n) % POOL;
        let host = HostTensor {
            dtype: DType::F32,
            shape: t.shape.clone(),
            bytes: Cow::Owned(bytemuck::pod_collect_to_vec(&values)),
        };
        upload(gpu, t, &host, Some(dtype))
    })
}

/// A standard normal draw, to the third moment and nearly to the fourth: Σ of 12 uniforms − 6 (variance 1, |x| ≤ 6).
fn draw(stream: &mut Stream) -> f64 {
    (0..12).map(|_| stream.random::<f64>()).sum::<f64>() - 6.0
}

/// Writes a model in Hugging Face form: config.json, generation_config.json, model.safetensors, and `companions`
/// (tokenizer files, by name).
///
/// # Errors
/// A file cannot be written.
pub fn write_model(
    out: &AtomicDir,
    spec: &ModelSpec,
    tensors: &[(String, HostTensor<'_>)],
    companions: &[(&str, Vec<u8>)],
) -> Result<()> {
    let mut generation = json!({"do_sample": true, "temperature": 1.0});
    generation["eos_token_id"] = match spec.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    generation["pad_token_id"] = json!(spec.pad_token_id);
    generation["bos_token_id"] = json!(spec.bos_token_id);
    for (name, value) in [
        ("config.json", spec.to_config_json(DType::F32)),
        ("generation_config.json", generation),
    ] {
        let text = serde_json::to_string_pretty(&value).map_err(Error::internal)? + "\n";
        out.write(name, text.as_bytes())?;
    }
    for (name, bytes) in companions {
        out.write(name, bytes)?;
    }
    out.write_safetensors("model.safetensors", tensors)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::model::spec::{Family, Head, Rope, RopeScaling};

    fn spec() -> ModelSpec {
        ModelSpec {
            family: Family::Qwen2, // biases on q, k and v alone
            head: Head::CausalLm,
            vocab_size: 101,
            hidden_size: 48,
            intermediate_size: 80,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 12,
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: 1e4,
                scaling: RopeScaling::None,
            },
            qkv_bias: true,
            o_bias: false,
            qk_norm: false,
            tie_word_embeddings: true,
            max_position_embeddings: 64,
            pad_token_id: Some(0),
            eos_token_ids: vec![4],
            bos_token_id: None,
        }
    }

    #[test]
    fn weights_have_their_deviation_and_follow_the_seed() {
        let spec = spec();
        let a = random_tensors(&spec, 1);
        assert_eq!(a, random_tensors(&spec, 1));
        assert_ne!(a, random_tensors(&spec, 2));
        assert_eq!(a.len(), spec.tensors().count());
        let base = 0.02 * (768.0f64 / 48.0).sqrt();
        for (name, tensor) in &a {
            let values: Vec<f64> = tensor.to_f32().into_iter().map(f64::from).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let expected = match name {
                n if n.contains("norm") => {
                    assert!(values.iter().all(|v| *v == 1.0), "{n}");
                    continue;
                }
                n if n.ends_with("bias") => {
                    assert!(values.iter().all(|v| *v == 0.0), "{n}");
                    continue;
                }
                n if n.contains("o_proj") || n.contains("down_proj") => base / 2.0,
                _ => base,
            };
            // Four standard errors of a deviation and of a mean.
            assert!(
                (sd / expected - 1.0).abs() < 4.0 / (2.0 * n).sqrt(),
                "{name}: {sd}"
            );
            assert!(mean.abs() < 4.0 * expected / n.sqrt(), "{name}: {mean}");
        }
        // No two tensors of one shape share their draws.
        let bytes = |name: &str| {
            a.iter()
                .find(|(n, _)| n.contains(name))
                .map(|(_, t)| t.bytes.clone())
        };
        assert_ne!(bytes("layers.0.mlp.gate_proj"), bytes("layers.0.mlp.up_proj"));
    }

    #[test]
    fn a_model_for_measuring_has_the_deviations_and_no_equal_rows() {
        let options = crate::gpu::GpuOptions {
            device: std::env::var("TEA_DEVICE").ok(),
            ..Default::default()
        };
        let gpu = Gpu::open(&options).unwrap();
        let spec = ModelSpec {
            hidden_size: 256,
            ..spec()
        };
        let model = random_model(&gpu, &spec, DType::F32, 8, 1).unwrap();
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for (t, w) in model.base_tensors() {
            let values = w.read_f32(&gpu).unwrap();
            match start(&spec, t.role) {
                Start::Constant(c) => assert!(values.iter().all(|v| *v == c), "{}", t.name),
                Start::Normal(std) => {
                    let n = values.len() as f64;
                    let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
                    let ratio = (square / n).sqrt() / std;
                    assert!(
                        (ratio - 1.0).abs() < 5.0 / (2.0 * n).sqrt(),
                        "{}: {ratio}",
                        t.name
                    );
                    rows.extend(
                        values
                            .chunks_exact(w.cols)
                            .map(|r| r.iter().map(|v| v.to_bits()).collect()),
                    );
                }
            }
        }
        let count = rows.len();
        rows.sort();
        rows.dedup();
        assert_eq!(rows.len(), count);
        let small = random_model(
            &gpu,
            &ModelSpec {
                hidden_size: 64,
                head_dim: 16,
                intermediate_size: 96,
                ..spec
            },
            DType::Q8_0,
            8,
            1,
        )
        .unwrap();
        assert_eq!(small.embed.value.dtype, DType::Q8_0);
    }

    #[test]
    fn a_written_model_reads_back() {
        let spec = spec();
        let dir = tempfile::tempdir().unwrap();
        let out = AtomicDir::create(&dir.path().join("init"), |_| Vec::new()).unwrap();
        let tensors = random_tensors(&spec, 3);
        write_model(&out, &spec, &tensors, &[("tokenizer.json", b"{}".to_vec())]).unwrap();
        out.commit().unwrap();
        let path = dir.path().join("init");
        let source = crate::model::load::Source::open(path.to_str().unwrap()).unwrap();
        assert_eq!(source.spec, spec);
        for (name, tensor) in &tensors {
            assert_eq!(source.store.get(name).unwrap().bytes, tensor.bytes, "{name}");
        }
    }
}
