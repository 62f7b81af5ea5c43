//! Tests of `spec` and `config_json`.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::config_json::Stated;
use super::spec::*;
use crate::error::Result;
use crate::tensor::DType;

/// A two-block Llama small enough for tests.
pub(crate) fn tiny_spec() -> ModelSpec {
    from(&tiny_json()).unwrap()
}

fn tiny_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": 33, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 128,
        "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false
    })
}

fn from(value: &Value) -> Result<ModelSpec> {
    ModelSpec::from_config_json(&serde_json::to_vec(value).unwrap(), None, "dir/config.json")
}

fn changed(changes: Value) -> Value {
    let mut value = tiny_json();
    for (k, v) in changes.as_object().unwrap() {
        value[k] = v.clone();
    }
    value
}

fn refusal(value: &Value) -> String {
    let error = from(value).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.starts_with("dir/config.json"), "{text}");
    text
}

#[test]
fn families_heads_and_defaults() {
    let spec = tiny_spec();
    assert_eq!(
        (spec.family, spec.head, spec.head_dim),
        (Family::Llama, Head::CausalLm, 6)
    );
    assert!(!spec.qkv_bias && !spec.qk_norm && !spec.tie_word_embeddings);
    assert_eq!(spec.eos_token_ids, [2]);

    let qwen2 = from(&changed(
        json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}),
    ))
    .unwrap();
    assert!(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm);
    let qwen3 = from(&changed(
        json!({"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3",
        "id2label": {"0": "LABEL_0"}, "pad_token_id": 7, "tie_word_embeddings": true}),
    ))
    .unwrap();
    assert_eq!(
        (qwen3.head, qwen3.head_dim, qwen3.pad_token_id),
        (Head::Score, 128, Some(7))
    );
    assert!(qwen3.qk_norm && !qwen3.qkv_bias);
    let mistral = from(&changed(
        json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "sliding_window": null}),
    ))
    .unwrap();
    assert_eq!(mistral.family, Family::Mistral);
    let llama = from(&changed(json!({"attention_bias": true}))).unwrap();
    assert!(llama.qkv_bias && llama.o_bias);
    let by_type = from(
        &json!({"model_type": "llama", "vocab_size": 3, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2}),
    )
    .unwrap();
    assert_eq!((by_type.num_kv_heads, by_type.max_position_embeddings), (2, 2048));
}

#[test]
fn end_tokens_come_from_generation_config_first() {
    let bytes = serde_json::to_vec(&changed(json!({"eos_token_id": [5, 6]}))).unwrap();
    let read = |generation| {
        ModelSpec::from_config_json(&bytes, generation, "c")
            .unwrap()
            .eos_token_ids
    };
    assert_eq!(read(None), [5, 6]);
    assert_eq!(
        read(Some(br#"{"eos_token_id": [7, 8, 9]}"#.as_slice())),
        [7, 8, 9]
    );
    assert_eq!(read(Some(br#"{"do_sample": true}"#.as_slice())), [5, 6]);
    let mut spec = tiny_spec();
    spec.add_eos([2, 4, 4]);
    assert_eq!(spec.eos_token_ids, [2, 4]);
    let bad = ModelSpec::from_config_json(&bytes, Some(b"{\"eos_token_id\": \"x\"}"), "c")
        .unwrap_err()
        .to_string();
    assert!(bad.contains("generation_config.json: eos_token_id"), "{bad}");
}

#[test]
fn rope_of_both_transformers_versions() {
    let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let old = from(&changed(json!({"rope_theta": 500000.0, "rope_scaling": scaling}))).unwrap();
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(500000.0);
    let new = from(&changed(
        json!({"rope_theta": null, "rope_parameters": parameters}),
    ))
    .unwrap();
    assert_eq!(old.rope, new.rope);
    assert_eq!(old.rope.theta, 500000.0);
    let plain = from(&changed(
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}),
    ))
    .unwrap();
    assert_eq!(
        plain.rope,
        Rope {
            theta: 7.0,
            scaling: RopeScaling::None
        }
    );
    let typed = from(&changed(
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ))
    .unwrap_err()
    .to_string();
    assert!(typed.contains("\"linear\" is not supported"), "{typed}");
}

/// Values of transformers 5.23's `_compute_llama3_parameters` in float64 for theta 5e5, head_dim 16, factor 32, low 1,
/// high 4, original 8192 (Llama 3.2's), and of its default rotary initialisation in float32 for theta 1e4, head_dim 6.
#[test]
fn inv_freq_equals_transformers() {
    let mut spec = tiny_spec();
    let want = [1.0, 0.046415888336127795, 0.0021544346900318843];
    for (got, want) in spec.inv_freq().iter().zip(want) {
        assert!((got / want - 1.0).abs() < 1e-15, "{got} {want}");
    }
    spec.head_dim = 16;
    spec.rope = Rope {
        theta: 5e5,
        scaling: RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        },
    };
    let want = LLAMA3_INV_FREQ;
    let got = spec.inv_freq();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got / want - 1.0).abs() < 1e-12, "{got} {want}");
    }
    // The same as divisors.
    let plain = ModelSpec {
        rope: Rope {
            theta: 5e5,
            scaling: RopeScaling::None,
        },
        ..spec.clone()
    }
    .inv_freq();
    let factors = plain.iter().zip(&got).map(|(p, g)| p / g).collect();
    spec.rope.scaling = RopeScaling::Factors(factors);
    for (a, b) in spec.inv_freq().iter().zip(&got) {
        assert!((a / b - 1.0).abs() < 1e-15);
    }
}

const LLAMA3_INV_FREQ: [f64; 8] = [
    1.0,
    0.19392274474868576,
    0.03760603093086393,
    0.0072926647372171085,
    0.00042955679655936815,
    8.570255489881478e-06,
    1.661967467795309e-06,
    3.2229329303788936e-07,
];

#[test]
fn config_round_trips() {
    let llama3 = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    for changes in [
        json!({}),
        json!({"rope_parameters": llama3, "tie_word_embeddings": true, "eos_token_id": [2, 3]}),
        json!({"architectures": ["Qwen2ForSequenceClassification"], "model_type": "qwen2", "num_labels": 1, "pad_token_id": 0}),
        json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16, "eos_token_id": null}),
        json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096}),
        json!({"attention_bias": true}),
    ] {
        let spec = from(&changed(changes)).unwrap();
        assert_eq!(from(&spec.to_config_json(DType::F32)).unwrap(), spec);
    }
    let mut spec = tiny_spec();
    spec.rope.scaling = RopeScaling::Factors(vec![1.0, 1.5, 8.0]);
    assert_eq!(from(&spec.to_config_json(DType::BF16)).unwrap(), spec);
}

#[test]
fn unsupported_configurations_are_refused() {
    for (changes, why) in [
        (
            json!({"architectures": ["GemmaForCausalLM"], "model_type": null}),
            "GemmaForCausalLM",
        ),
        (
            json!({"model_type": "gemma"}),
            "model_type \"gemma\" (LlamaForCausalLM) is not supported",
        ),
        (
            json!({"architectures": null, "model_type": null}),
            "neither architectures",
        ),
        (
            json!({"architectures": ["LlamaForRewardModel"]}),
            "its head is another",
        ),
        (
            json!({"architectures": ["LlamaForTokenClassification"]}),
            "not supported",
        ),
        (json!({"architectures": 3}), "architectures is 3"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "quantization_config",
        ),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (
            json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64}),
            "sliding",
        ),
        (
            json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": true,
                "max_window_layers": 1, "sliding_window": 64}),
            "sliding",
        ),
        (
            json!({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}),
            "has 2 (id2label)",
        ),
        (
            json!({"architectures": ["LlamaForSequenceClassification"], "num_labels": 2,
                "id2label": {"0": "LABEL_0"}}),
            "has 2 (num_labels)",
        ),
        (
            json!({"architectures": ["LlamaForSequenceClassification"], "num_labels": 5}),
            "has 5",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "yarn",
        ),
        (
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}}),
            "rope_scaling: rotary scaling \"dynamic\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
            "\"linear\"",
        ),
        (
            json!({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}),
            "\"mrope\"",
        ),
        (
            json!({"rope_scaling": {"rope_type": "su", "factor": 2.0}}),
            "\"su\"",
        ),
        (
            json!({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}),
            "\"proportional\"",
        ),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1, 1, 1], "long_factor": [1, 2, 4]}}),
            "\"longrope\"",
        ),
        (
            json!({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "partial_rotary_factor",
        ),
        (json!({"rope_scaling": 4.0}), "rope_scaling is 4.0; an object"),
        (
            json!({"rope_scaling": {"rope_type": "llama3"}}),
            "factor is missing",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 0.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0}}),
            "rope scaling",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "different layers",
        ),
        (json!({"vocab_size": null}), "vocab_size is missing"),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"vocab_size": -5}), "vocab_size is -5"),
        (json!({"hidden_size": 1u64 << 40}), "hidden_size"),
        (json!({"num_key_value_heads": 3}), "not a multiple"),
        (json!({"head_dim": 7}), "odd"),
        (json!({"intermediate_size": 42}), "multiple of 4"),
        (json!({"num_attention_heads": 5}), "not a multiple"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": "x"}), "number"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
        (json!({"tie_word_embeddings": 1}), "true or false"),
    ] {
        let text = refusal(&changed(changes.clone()));
        assert!(text.contains(why), "{changes}: {text}");
    }
    let malformed = ModelSpec::from_config_json(b"{\"a\": ", None, "dir/config.json").unwrap_err();
    assert_eq!(malformed.exit_code(), 2);
}

#[test]
fn tensors_of_each_family() {
    let names = |spec: &ModelSpec| spec.tensors().map(|t| t.name).collect::<Vec<_>>();
    let spec = tiny_spec();
    let all = names(&spec);
    assert_eq!(all.len(), 1 + 2 * 9 + 2);
    assert_eq!(all[0], "model.embed_tokens.weight");
    assert_eq!(all.last().unwrap(), "lm_head.weight");
    let k = spec
        .tensors()
        .find(|t| t.name == "model.layers.1.self_attn.k_proj.weight")
        .unwrap();
    assert_eq!(
        (k.shape.as_slice(), k.role, k.layer),
        (&[12, 24][..], Role::Weight(Proj::K), Some(1))
    );
    assert_eq!(
        spec.num_parameters(),
        33 * 24 * 2 + 24 + 2 * (2 * 24 + 24 * 24 * 2 + 12 * 24 * 2 + 3 * 24 * 40)
    );
    let reward = spec.with_head(Head::Score);
    assert_eq!(names(&reward).last().unwrap(), "score.weight");
    let qwen2 = from(&changed(
        json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}),
    ))
    .unwrap();
    assert_eq!(
        names(&qwen2).iter().filter(|n| n.ends_with("_proj.bias")).count(),
        6
    );
    let qwen3 = from(&changed(
        json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "head_dim": 16, "tie_word_embeddings": true}),
    ))
    .unwrap();
    let all = names(&qwen3);
    assert!(all.contains(&"model.layers.0.self_attn.q_norm.weight".to_string()));
    assert!(!all.contains(&"lm_head.weight".to_string()));
    assert_eq!(qwen3.proj_dims(Proj::O), (24, 64));
    for proj in Proj::ALL {
        assert_eq!(Proj::from_name(proj.name()), Some(proj));
    }
}

/// The class is a wrapper's, or contradicts `model_type`, which decides; only the head is read from
/// its name.
#[test]
fn model_type_decides() {
    let read = |architectures: Value, model_type: &str| {
        let value =
            changed(json!({"architectures": architectures, "model_type": model_type, "num_labels": 1}));
        let stated = Stated::read(&serde_json::to_vec(&value).unwrap(), None, "c").unwrap();
        (stated.spec.family, stated.head)
    };
    use Family::{Llama, Qwen2, Qwen3};
    for (class, model_type, want) in [
        (
            json!(["FSDPLlamaForCausalLM"]),
            "llama",
            (Llama, Some(Head::CausalLm)),
        ),
        (
            json!(["FSDPQwen3ForSequenceClassification"]),
            "qwen3",
            (Qwen3, Some(Head::Score)),
        ),
        (
            json!(["PeftModelForCausalLM"]),
            "llama",
            (Llama, Some(Head::CausalLm)),
        ),
        (
            json!(["LlamaForCausalLM"]),
            "qwen2",
            (Qwen2, Some(Head::CausalLm)),
        ),
        (
            json!(["GemmaForCausalLM"]),
            "llama",
            (Llama, Some(Head::CausalLm)),
        ),
        (json!(["OptimizedModule"]), "llama", (Llama, None)),
        (json!(["LlamaModel"]), "llama", (Llama, None)),
        (json!([]), "llama", (Llama, None)),
        (json!(null), "llama", (Llama, None)),
    ] {
        assert_eq!(read(class.clone(), model_type), want, "{class}");
    }
    let by_class = changed(json!({"architectures": ["Qwen2ForCausalLM"], "model_type": null}));
    assert_eq!(from(&by_class).unwrap().family, Qwen2);
}

/// Rotary settings that transformers 5.24 takes from the same keys (`config.rope_parameters` after
/// loading).
#[test]
fn rope_keys_by_transformers_precedence() {
    let llama3 = |theta: f64, original: usize| Rope {
        theta,
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: original,
        },
    };
    let plain = |theta: f64| Rope {
        theta,
        scaling: RopeScaling::None,
    };
    let l = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let with = |key: &str, value: Value| {
        let mut l = l.clone();
        l[key] = value;
        l
    };
    let typed = |kind: &str| {
        let mut l = with("type", json!(kind));
        l.as_object_mut().unwrap().shift_remove("rope_type");
        l
    };
    let own = json!({"rope_type": "default", "rope_theta": 500.0});
    for (changes, want) in [
        // The base of the key that does not count is not taken.
        (
            json!({"rope_scaling": l, "rope_parameters": own, "rope_theta": null}),
            llama3(10000.0, 128),
        ),
        (
            json!({"rope_scaling": l, "rope_parameters": own, "rope_theta": 77.0}),
            llama3(77.0, 128),
        ),
        (
            json!({"rope_scaling": with("rope_theta", json!(5.0)), "rope_parameters": own}),
            llama3(5.0, 128),
        ),
        (json!({"rope_scaling": {}, "rope_parameters": own}), plain(500.0)),
        (
            json!({"rope_scaling": null, "rope_parameters": own}),
            plain(500.0),
        ),
        (
            json!({"rope_parameters": with("original_max_position_embeddings", json!(64))}),
            llama3(10000.0, 64),
        ),
        (
            json!({"rope_parameters": with("original_max_position_embeddings", json!(64)),
            "original_max_position_embeddings": 16}),
            llama3(10000.0, 16),
        ),
        (json!({"rope_scaling": typed("llama3")}), llama3(10000.0, 128)),
        (
            json!({"rope_scaling": with("type", json!("linear"))}),
            llama3(10000.0, 128),
        ),
        (
            json!({"rope_scaling": {"rope_type": "default", "type": "llama3", "factor": 8.0}}),
            plain(10000.0),
        ),
        (json!({"rope_scaling": {"factor": 2.0}}), plain(10000.0)),
        (
            json!({"rope_scaling": {"type": "default", "factor": 4.0}}),
            plain(10000.0),
        ),
    ] {
        assert_eq!(from(&changed(changes.clone())).unwrap().rope, want, "{changes}");
    }
}

#[test]
fn labels_and_pythons_numbers() {
    let score = |changes: Value| {
        let mut value = changed(json!({"architectures": ["LlamaForSequenceClassification"]}));
        for (k, v) in changes.as_object().unwrap() {
            value[k] = v.clone();
        }
        Stated::read(&serde_json::to_vec(&value).unwrap(), None, "c")
            .unwrap()
            .labels
    };
    assert_eq!(score(json!({})), None);
    assert_eq!(score(json!({"num_labels": 1})), Some(1));
    assert_eq!(score(json!({"id2label": {"0": "LABEL_0"}})), Some(1));
    assert_eq!(
        score(json!({"id2label": {"0": "a", "1": "b"}, "num_labels": 1})),
        Some(1)
    );

    let text = tiny_json().to_string();
    let unused = text.replacen(
        '{',
        "{\"time_step_limit\": [0.0, Infinity], \"x\": NaN, \"vocab_size\": 1e999,",
        1,
    );
    let generation: &[u8] = b"\xef\xbb\xbf{\"eos_token_id\": 7, \"temperature\": -Infinity}";
    let spec = ModelSpec::from_config_json(unused.as_bytes(), Some(generation), "c").unwrap();
    assert_eq!((spec.vocab_size, spec.eos_token_ids.as_slice()), (33, &[7][..]));
    for (from, to, why) in [
        (
            "\"vocab_size\":33",
            "\"vocab_size\":Infinity",
            "vocab_size is Infinity; a non-negative whole number",
        ),
        (
            "\"rms_norm_eps\":0.00001",
            "\"rms_norm_eps\":NaN",
            "rms_norm_eps is NaN; a number",
        ),
        (
            "\"hidden_act\":\"silu\"",
            "\"hidden_act\":NaN",
            "hidden_act is NaN",
        ),
        (
            "\"tie_word_embeddings\":false",
            "\"tie_word_embeddings\":NaN",
            "tie_word_embeddings is NaN",
        ),
        (
            "\"eos_token_id\":2",
            "\"eos_token_id\":NaN",
            "eos_token_id is NaN",
        ),
        (
            "\"rope_theta\":10000.0",
            "\"rope_scaling\":NaN",
            "rope_scaling is NaN; an object",
        ),
    ] {
        let changed = text.replace("1e-5", "0.00001").replace(from, to);
        assert_ne!(changed, text, "{from}");
        let error = ModelSpec::from_config_json(changed.as_bytes(), None, "c")
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
    let kv = json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_attention_heads": 64,
        "hidden_size": 256, "num_key_value_heads": 0});
    let mut value = changed(kv);
    value.as_object_mut().unwrap().shift_remove("num_key_value_heads");
    assert_eq!(from(&value).unwrap().num_kv_heads, 32);
    value["num_key_value_heads"] = Value::Null;
    assert_eq!(from(&value).unwrap().num_kv_heads, 64);
}

#[test]
fn nesting_and_end_tokens_are_bounded() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let said = |config: &[u8], generation: Option<&[u8]>| {
        let error = ModelSpec::from_config_json(config, generation, "dir/config.json").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let text = said(deep.as_bytes(), None);
    assert!(
        text.starts_with("dir/config.json: nesting: more, where the limit is 128 levels"),
        "{text}"
    );
    let fine = tiny_spec().to_config_json(DType::F32).to_string();
    let text = said(fine.as_bytes(), Some(deep.as_bytes()));
    assert!(text.starts_with("dir/generation_config.json: nesting"), "{text}");
    let ids: Vec<u32> = (0..300_000).collect();
    let many = json!({ "eos_token_id": ids }).to_string();
    let text = said(fine.as_bytes(), Some(many.as_bytes()));
    assert!(
        text.starts_with("dir/generation_config.json: eos_token_id: number of end tokens: 300000"),
        "{text}"
    );
}

#[test]
fn sizes_no_model_has_are_refused_by_name() {
    for (key, value) in [
        ("num_hidden_layers", json!(1u64 << 40)),
        ("vocab_size", json!(u64::MAX)),
        ("intermediate_size", json!(1u64 << 62)),
        ("max_position_embeddings", json!(1u64 << 62)),
        ("head_dim", json!(0)),
        ("num_attention_heads", json!(1u64 << 32)),
        ("num_key_value_heads", json!(0)),
        ("rms_norm_eps", json!(1e308)),
    ] {
        let mut config = tiny_spec().to_config_json(DType::F32);
        config[key] = value;
        let error = ModelSpec::from_config_json(config.to_string().as_bytes(), None, "c").unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains(key),
            "{error}"
        );
        assert!(error.to_string().len() < 200, "{error}");
    }
}
