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
        rank: 5,
        alpha: 10.0,
        target_modules: vec![Proj::Q, Proj::V, Proj::Down],
        base_model: "owner/base".into(),
        revision: Some("abc".into()),
        head: Head::CausalLm,
        saves_score: false,
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
    config.tensors(spec).into_iter().map(fill).collect()
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
    assert_eq!(config.scale(), 2.0);

    let reward = AdapterConfig {
        head: Head::Score,
        saves_score: true,
        alpha: 2.5,
        revision: None,
        ..config
    };
    let spec = spec.with_head(Head::Score);
    let list = tensors(&reward, &spec);
    assert_eq!(list.last().unwrap().0, "base_model.model.score.weight");
    write_adapter(&target, &reward, &list).unwrap();
    let read = read_adapter(&target, &spec).unwrap();
    assert_eq!((read.config, read.tensors), (reward, list));
    assert!(message(read_adapter(&target, &tiny_spec()).unwrap_err()).contains("score head"));
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
    assert!(message(read_adapter(&target, &spec).unwrap_err()).contains("check the path"));
}

#[test]
fn unsupported_options_are_refused() {
    let base = config().to_json();
    for (key, value, why) in [
        ("peft_type", json!("IA3"), "IA3"),
        ("peft_type", Value::Null, "LORA"),
        ("use_dora", json!(true), "use_dora"),
        ("use_rslora", json!(true), "use_rslora"),
        ("bias", json!("all"), "bias"),
        ("rank_pattern", json!({"q_proj": 4}), "rank_pattern"),
        ("alpha_pattern", json!({"q_proj": 4}), "alpha_pattern"),
        ("layers_to_transform", json!([0]), "layers_to_transform"),
        ("lora_bias", json!(true), "lora_bias"),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out"),
        ("r", json!(0), "rank"),
        ("r", json!("8"), "rank"),
        ("lora_alpha", Value::Null, "lora_alpha"),
        ("task_type", json!("SEQ_2_SEQ_LM"), "SEQ_2_SEQ_LM"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("target_modules", json!("all-linear"), "target_modules"),
        ("target_modules", json!([]), "empty"),
        ("target_modules", json!(["q_proj", "lm_head"]), "lm_head"),
    ] {
        let mut changed = base.clone();
        changed[key] = value;
        let error = AdapterConfig::from_json(changed.to_string().as_bytes(), "f").unwrap_err();
        let text = message(error);
        assert!(text.contains(why), "{key}: {text}");
    }
    assert!(message(AdapterConfig::from_json(b"[", "f").unwrap_err()).contains("JSON"));
    let mut classifier = base;
    classifier["task_type"] = json!("SEQ_CLS");
    classifier["modules_to_save"] = json!(["classifier", "score"]);
    assert!(
        AdapterConfig::from_json(classifier.to_string().as_bytes(), "f")
            .unwrap()
            .saves_score
    );
}
