//! Tests of `peft`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::kernels::quant;
use crate::model::save::write_safetensors;
use crate::model::spec_tests::tiny_spec;
use crate::tensor::DType;
use std::borrow::Cow;
use std::fs;

fn config() -> AdapterConfig {
    AdapterConfig {
        targets: Targets::plain(&[Proj::Q, Proj::V, Proj::Down], 5, 10.0),
        base_model: "owner/base".into(),
        revision: Some("abc".into()),
        head: Head::CausalLm,
        trains_biases: false,
    }
}

fn tensors(config: &AdapterConfig, spec: &ModelSpec) -> Vec<(String, HostTensor<'static>)> {
    let fill = |(name, shape): (String, Vec<usize>)| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| i as f32 + name.len() as f32)
            .collect();
        let bytes = Cow::Owned(quant::quantize(DType::F32, &values).unwrap());
        (
            name,
            HostTensor {
                dtype: DType::F32,
                shape,
                bytes,
            },
        )
    };
    config.tensors(spec).unwrap().into_iter().map(fill).collect()
}

fn message(error: Error) -> String {
    assert_eq!(error.exit_code(), 2);
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(&source.to_string());
    }
    text
}

#[test]
fn adapters_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("adapter");
    let spec = tiny_spec();
    let config = config();
    let list = tensors(&config, &spec);
    assert_eq!(list.len(), 2 * 3 * 2);
    assert_eq!(
        list[0].0,
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    );
    assert_eq!(
        (list[0].1.shape.as_slice(), list[1].1.shape.as_slice()),
        (&[5, 24][..], &[24, 5][..])
    );
    write_adapter(&target, &config, &list).unwrap();
    let read = read_adapter(&target, &spec).unwrap();
    assert_eq!(read.config, config);
    assert_eq!(read.tensors, list);
    assert!(read.modules.iter().all(|m| m.rank == 5 && m.scale == 2.0));

    let mut reward = AdapterConfig {
        head: Head::Score,
        revision: None,
        ..config
    };
    reward.targets.alpha = 2.5;
    reward.targets.saved = vec!["score".into()];
    let spec = spec.with_head(Head::Score);
    let list = tensors(&reward, &spec);
    assert_eq!(list.last().unwrap().0, "base_model.model.score.weight");
    write_adapter(&target, &reward, &list).unwrap();
    let read = read_adapter(&target, &spec).unwrap();
    assert_eq!((read.config, read.tensors), (reward, list));
    assert!(message(read_adapter(&target, &tiny_spec()).unwrap_err()).contains("score head"));
}

#[test]
fn values_that_cannot_be_computed_with_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    let (config, spec) = (config(), tiny_spec());
    for bad in [f32::NAN, f32::INFINITY, 3e38] {
        for which in [0, 1] {
            let mut list = tensors(&config, &spec);
            list[which].1.bytes.to_mut()[8..12].copy_from_slice(&bad.to_le_bytes());
            write_adapter(&target, &config, &list).unwrap();
            let said = message(read_adapter(&target, &spec).unwrap_err());
            assert!(
                said.contains(&format!("tensor {} holds {bad:?}", list[which].0)),
                "{said}"
            );
            assert!(said.contains(WEIGHTS) && said.contains("element 2"), "{said}");
        }
    }
    // Alpha is a float64 in the file; the kernels multiply by an f32.
    let mut huge = config;
    huge.targets.alpha = 1e300;
    let said = message(huge.tensors(&spec).unwrap_err());
    assert!(
        said.contains("lora_alpha 1e300 with rank 5") && said.contains("more than f32 holds"),
        "{said}"
    );
}

#[test]
fn settings_of_an_adapter_are_bounded() {
    let read = |key: &str, value: serde_json::Value| {
        let mut all = serde_json::json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]});
        all[key] = value;
        let config = AdapterConfig::from_json(all.to_string().as_bytes(), "dir/adapter_config.json");
        message(config.and_then(|c| c.tensors(&tiny_spec())).unwrap_err())
    };
    let names: Vec<String> = (0..70_000).map(|i| format!("m{i}")).collect();
    for key in [
        "target_modules",
        "exclude_modules",
        "layers_pattern",
        "modules_to_save",
    ] {
        let said = read(key, names.clone().into());
        assert!(
            said.contains(key) && said.contains("the limit is 65536 entries"),
            "{said}"
        );
    }
    let blocks: Vec<i64> = (0..70_000).collect();
    assert!(read("layers_to_transform", blocks.into()).contains("the limit is 65536 entries"));
    for key in ["rank_pattern", "alpha_pattern"] {
        let map: serde_json::Map<String, serde_json::Value> =
            names.iter().take(5000).map(|n| (n.clone(), 4.into())).collect();
        assert!(read(key, map.into()).contains("5000 patterns, where the limit is 4096 patterns"));
    }
    assert!(read("target_modules", "(".repeat(1 << 20).into()).contains("the limit is 64 KiB"));
    // A compiled expression is bounded, and so is what a message shows of one.
    let said = read("target_modules", "(?:a{1000}){1000}".repeat(100).into());
    assert!(
        said.contains("not a regular expression") && said.len() < 500,
        "{said}"
    );
    assert!(read("r", (1u64 << 40).into()).contains("a rank from 1 to 65536 is needed"));
    // Adapters of the largest models name each layer.
    let each: Vec<String> = (0..1000).map(|l| Proj::Q.path(l)).collect();
    let all = serde_json::json!({"peft_type": "LORA", "r": 4, "target_modules": each});
    let config = AdapterConfig::from_json(all.to_string().as_bytes(), "c").unwrap();
    assert_eq!(
        config.tensors(&tiny_spec()).unwrap().len(),
        2 * tiny_spec().num_layers
    );
}

#[test]
fn missing_superfluous_and_misshapen_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    let spec = tiny_spec();
    assert!(message(read_adapter(dir.path(), &spec).unwrap_err()).contains("no adapter_config.json there"));
    let config = config();
    let list = tensors(&config, &spec);
    write_adapter(&target, &config, &list).unwrap();
    let weights = target.join(WEIGHTS);
    let refusal = |tensors: &[(String, HostTensor)]| {
        write_safetensors(&weights, tensors).unwrap();
        message(read_adapter(&target, &spec).unwrap_err())
    };
    assert!(refusal(&list[1..]).contains("layers.0.self_attn.q_proj.lora_A.weight is missing"));
    let mut extra = list.clone();
    extra.push(("base_model.model.lm_head.lora_A.weight".into(), list[0].1.clone()));
    assert!(refusal(&extra).contains("lm_head.lora_A.weight does not belong"));
    let mut shaped = list.clone();
    shaped[0].1.shape = vec![24, 5];
    assert!(refusal(&shaped).contains("for another model"));
    fs::write(&weights, b"short").unwrap();
    assert!(message(read_adapter(&target, &spec).unwrap_err()).contains("download it again"));
    fs::remove_file(&weights).unwrap();
    assert!(message(read_adapter(&target, &spec).unwrap_err()).contains("is missing; copy it"));
}

/// Ranks and scales by module, as PEFT 0.21 gives them to the same configuration on the same tiny
/// Llama (two blocks); made with `LoraConfig`, `get_peft_model` and each layer's `r` and `scaling`.
#[test]
fn uneven_adapters_round_trip_and_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let spec = tiny_spec();
    let mut uneven = config();
    uneven.targets = Targets {
        exclude: Some(Names::List(vec!["layers.1.mlp.down_proj".into()])),
        ranks: vec![
            ("layers.0.self_attn.q_proj".into(), 3),
            (r".*\.down_proj".into(), 8),
        ],
        alphas: vec![("v_proj".into(), 16.0)],
        rslora: true,
        ..Targets::plain(&[Proj::Q, Proj::V, Proj::Down], 4, 8.0)
    };
    let want = [
        (0, Proj::Q, 3, 8.0 / 3f64.sqrt()),
        (0, Proj::V, 4, 8.0),
        (0, Proj::Down, 8, 8.0 / 8f64.sqrt()),
        (1, Proj::Q, 4, 4.0),
        (1, Proj::V, 4, 8.0),
    ];
    let list = tensors(&uneven, &spec);
    let target = dir.path().join("uneven");
    write_adapter(&target, &uneven, &list).unwrap();
    let read = read_adapter(&target, &spec).unwrap();
    assert_eq!((&read.config, &read.tensors), (&uneven, &list));
    let got: Vec<_> = read
        .modules
        .iter()
        .map(|m| (m.layer, m.proj, m.rank, m.scale))
        .collect();
    assert_eq!(got, want);
    let shape = uneven.shape(&spec).unwrap();
    assert_eq!(
        (shape.rank, shape.targets.as_slice()),
        (8, &[Proj::Q, Proj::V, Proj::Down][..])
    );

    // What a checkpoint says of these modules gives them back, although its rules are others.
    let written = Targets::of(&read.modules, spec.num_layers, shape.rank, shape.alpha);
    assert_eq!(
        (written.largest_rank(), written.plain_alpha()),
        (8, uneven.alpha())
    );
    let again = AdapterConfig {
        targets: written,
        ..config()
    };
    write_adapter(&target, &again, &list).unwrap();
    let again = read_adapter(&target, &spec).unwrap();
    assert_eq!(again.modules.len(), want.len());
    for (a, b) in again.modules.iter().zip(&read.modules) {
        assert_eq!((a.layer, a.proj, a.rank), (b.layer, b.proj, b.rank));
        assert_eq!(a.scale as f32, b.scale as f32);
    }
    let plain = Targets::plain(&[Proj::Q, Proj::Up], 4, 8.0);
    assert_eq!(Targets::of(&plain.modules(&spec).unwrap(), 2, 4, 8.0), plain);
}

#[test]
fn a_directory_that_is_no_adapter_says_what_it_is() {
    let spec = tiny_spec();
    let list = tensors(&config(), &spec);
    let refused = |files: &[&str], why: &str| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = if file.ends_with(CONFIG) {
                serde_json::to_string(&peft_config::write(&config())).unwrap()
            } else {
                String::new()
            };
            fs::write(path, text).unwrap();
        }
        let text = message(read_adapter(dir.path(), &spec).unwrap_err());
        assert!(text.contains(why), "{files:?}: {text}");
    };
    refused(
        &[CONFIG, "adapter_model.bin"],
        "is a pickle, which is not read. Convert it: python",
    );
    refused(&[CONFIG, "adapters.safetensors"], "MLX's format");
    refused(&[CONFIG, "model.safetensors"], "holds a whole model beside");
    refused(&[CONFIG, "default/adapter_model.safetensors"], "did you mean");
    refused(&[WEIGHTS], "adapter_config.json is missing beside");
    refused(&["adapter_model.bin"], "adapter_config.json is missing beside");
    refused(&["adapters.safetensors"], "adapter of MLX");
    refused(&["pytorch_lora_weights.safetensors"], "diffusers");
    refused(&["inner/adapter_config.json"], "did you mean");
    refused(
        &["config.json", "model.safetensors"],
        "a whole model, not an adapter",
    );
    let missing = message(read_config(Path::new("/no/such/adapter")).unwrap_err());
    assert!(
        missing.contains("no such directory") && missing.contains("hf download"),
        "{missing}"
    );

    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    write_adapter(&target, &config(), &list).unwrap();
    let weights = target.join(WEIGHTS);
    assert!(message(read_config(&weights).unwrap_err()).contains("this is a file"));
    let renamed = |f: &dyn Fn(&str) -> String| {
        let list: Vec<_> = list.iter().map(|(n, t)| (f(n), t.clone())).collect();
        write_safetensors(&weights, &list).unwrap();
        message(read_adapter(&target, &spec).unwrap_err())
    };
    for (from, to, why) in [
        (".weight", ".default.weight", "its own name"),
        ("base_model.model.", "", "begin with \"base_model.model.\""),
        (
            "base_model.model.",
            "module.base_model.model.",
            "parallel wrapper",
        ),
        ("model.layers", "_orig_mod.model.layers", "torch.compile"),
        (
            "model.layers",
            "_fsdp_wrapped_module.model.layers",
            "FSDP's wrapper",
        ),
    ] {
        let text = renamed(&|n| {
            n.replacen(from, to, 1)
                .replace("base_model._orig", "base_model.model._orig")
        });
        let why = why.replace("its own name", "the adapter's own name");
        assert!(text.contains(&why), "{from} {to}: {text}");
    }
    let mlx = renamed(&|n| {
        n.replace("base_model.model.", "")
            .replace("lora_A.weight", "lora_a")
            .replace("lora_B.weight", "lora_b")
    });
    assert!(mlx.contains("MLX's names"), "{mlx}");
    let empty: Vec<_> = list
        .iter()
        .map(|(n, t)| {
            let t = HostTensor {
                shape: vec![0],
                bytes: Cow::Borrowed(&[][..]),
                dtype: t.dtype,
            };
            (n.clone(), t)
        })
        .collect();
    write_safetensors(&weights, &empty).unwrap();
    let zero = message(read_adapter(&target, &spec).unwrap_err());
    assert!(zero.contains("ZeRO-3") && zero.contains("zero_to_fp32"), "{zero}");
    for (extra, why) in [
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "DoRA's",
        ),
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "the embedding",
        ),
        ("base_model.model.lm_head.lora_A.weight", "the vocabulary head"),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
            "a bias of B",
        ),
        (
            "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight",
            "does not belong",
        ),
    ] {
        let mut more = list.clone();
        more.push((extra.into(), list[0].1.clone()));
        write_safetensors(&weights, &more).unwrap();
        let text = message(read_adapter(&target, &spec).unwrap_err());
        assert!(text.contains(extra) && text.contains(why), "{text}");
    }
}
