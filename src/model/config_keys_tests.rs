//! Tests of `config_keys`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Error;
use serde_json::Map;

fn check(family: Family, changes: Value) -> Result<()> {
    let mut map = Map::new();
    for (key, value) in [
        ("num_hidden_layers", json!(4)),
        ("max_position_embeddings", json!(8192)),
    ] {
        map.insert(key.into(), value);
    }
    // What every Mistral that is read has.
    map.insert("sliding_window".into(), Value::Null);
    for (key, value) in changes.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    refuse(&Json { map: &map, file: "c" }, family)
}

fn message(error: Error) -> String {
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn every_key_is_refused_by_name_unless_it_means_what_is_computed() {
    for row in ONLY {
        for family in Family::ALL {
            check(family, json!({row.key: null})).unwrap();
            let text = message(check(family, json!({row.key: "x"})).unwrap_err());
            assert!(
                text.contains(&format!("{} is \"x\"", row.key)) && text.contains(row.means),
                "{text}"
            );
        }
    }
    for plain in [
        json!({"hidden_act": "silu"}),
        json!({"hidden_act": "swish"}),
        json!({"mlp_bias": false, "partial_rotary_factor": 1.0, "is_causal": true, "per_layer_config": {}}),
        json!({"layer_types": ["full_attention", "full_attention"], "no_rope_layers": [1, 1]}),
        json!({"attn_logit_softcapping": null, "clip_qkv": 0, "logit_scale": 1, "num_experts": 1, "n_routed_experts": 0}),
        // Keys that have no bearing on the numbers, as published files have them.
        json!({"pretraining_tp": 4, "attention_dropout": 0.1, "initializer_range": 0.3, "use_cache": false, "rope_interleaved": false,
            "torch_dtype": "bfloat16", "dtype": "float16", "is_llama_config": true, "_attn_implementation": "eager",
            "auto_map": {"AutoModel": "x.Y"}, "use_mrope": false, "quantization_config": null, "max_window_layers": 2}),
    ] {
        for family in Family::ALL {
            check(family, plain.clone()).unwrap();
        }
    }
    for changes in [
        json!({"hidden_act": "gelu"}),
        json!({"mlp_bias": true}),
        json!({"partial_rotary_factor": 0.5}),
        json!({"layer_types": ["full_attention", "sliding_attention"]}),
        json!({"per_layer_config": {"0": {"head_dim": 4}}}),
        json!({"transformers_weights": "other.safetensors"}),
        json!({"is_causal": false}),
        json!({"attn_logit_softcapping": 50.0}),
        json!({"no_rope_layers": [1, 1, 1, 0]}),
        json!({"num_local_experts": 8}),
        json!({"logit_scale": 0.0625}),
    ] {
        let (key, value) = changes.as_object().unwrap().iter().next().unwrap();
        let text = message(check(Family::Llama, changes.clone()).unwrap_err());
        assert!(
            text.contains(&format!("c: {key} is {value}, which is not supported")),
            "{text}"
        );
    }
}

#[test]
fn quantised_checkpoints_name_their_method() {
    for (config, name) in [
        (json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        (json!({"quant_method": "awq"}), "awq"),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "bitsandbytes, 4 bits",
        ),
        (json!({"load_in_8bit": true}), "bitsandbytes, 8 bits"),
        (json!({"quant_method": "fp8"}), "fp8"),
        (json!({}), "method not named"),
    ] {
        for key in ["quantization_config", "compression_config"] {
            let text = message(check(Family::Qwen2, json!({key: config})).unwrap_err());
            assert!(
                text.contains(&format!("{key}: ")) && text.contains(&format!("({name})")),
                "{text}"
            );
        }
    }
}

/// Where transformers 5.24 makes a layer look back over a window that is shorter than the context.
#[test]
fn sliding_windows() {
    let windowed = |family, changes| check(family, changes).is_err();
    for (family, changes, want) in [
        (Family::Llama, json!({"sliding_window": 64}), false),
        (Family::Mistral, json!({"sliding_window": 64}), true),
        (Family::Mistral, json!({"sliding_window": 8192}), false),
        (Family::Qwen2, json!({"sliding_window": 64}), false),
        (
            Family::Qwen2,
            json!({"sliding_window": 64, "use_sliding_window": true, "max_window_layers": 2}),
            true,
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": 64, "use_sliding_window": true, "max_window_layers": 4}),
            false,
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": 64, "use_sliding_window": true}),
            false,
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": null, "use_sliding_window": true, "max_window_layers": 0}),
            false,
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": 8192, "use_sliding_window": true, "max_window_layers": 0}),
            false,
        ),
        (
            Family::Qwen3,
            json!({"sliding_window": 64, "use_sliding_window": true, "max_window_layers": 0, "layer_types": ["full_attention"]}),
            false,
        ),
    ] {
        assert_eq!(windowed(family, changes.clone()), want, "{family:?} {changes}");
    }
    assert!(
        message(check(Family::Qwen2, json!({"use_sliding_window": 3})).unwrap_err())
            .contains("true or false")
    );
}
