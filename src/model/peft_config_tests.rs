//! Tests of `peft_config` and `peft_targets`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::model::spec::{ModelSpec, Proj};
use crate::model::spec_tests::tiny_spec;

fn plain() -> Value {
    write(&AdapterConfig {
        targets: Targets::plain(&[Proj::Q, Proj::V], 4, 8.0),
        base_model: "owner/base".into(),
        revision: None,
        head: Head::CausalLm,
        trains_biases: false,
    })
}

fn with(changes: Value) -> Result<AdapterConfig> {
    let mut value = plain();
    for (key, v) in changes.as_object().unwrap() {
        value[key] = v.clone();
    }
    AdapterConfig::from_json(value.to_string().as_bytes(), "dir/adapter_config.json")
}

fn refusal(changes: Value) -> String {
    let error = with(changes).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.starts_with("dir/adapter_config.json: "), "{text}");
    text
}

/// "layer.projection" of what is adapted.
fn taken(spec: &ModelSpec, changes: Value) -> Result<Vec<String>> {
    let modules = with(changes)?.targets.modules(spec)?;
    Ok(modules
        .iter()
        .map(|m| format!("{}.{}", m.layer, m.proj.name()))
        .collect())
}

/// The keys of `dataclasses.fields(LoraConfig)` in PEFT 0.21.2.
const PEFT_KEYS: &str = "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r \
    target_modules exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights \
    layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_config megatron_core trainable_token_indices \
    loftq_config eva_config corda_config lora_ga_config use_dora velora_config alora_invocation_tokens use_qalora \
    qalora_group_size monteclora_config layer_replication runtime_config lora_bias target_parameters use_bdlora \
    arrow_config kasa_config ensure_weight_tying";

#[test]
fn every_key_of_peft_has_its_row() {
    let mut names: Vec<_> = KEYS.iter().map(|(name, _)| *name).collect();
    let mut want: Vec<_> = PEFT_KEYS.split_whitespace().collect();
    names.sort_unstable();
    want.sort_unstable();
    assert_eq!(names, want);
}

#[test]
fn a_key_is_read_without_bearing_or_refused_by_name() {
    for (key, what) in KEYS {
        for unset in [Value::Null, json!(false), json!({}), json!([])] {
            if !matches!(what, Read) {
                with(json!({*key: unset})).unwrap();
            }
        }
        for set in [json!(true), json!({"a": 1}), json!([3]), json!("x"), json!(7)] {
            match what {
                Inert => assert_eq!(with(json!({*key: set})).unwrap(), with(json!({})).unwrap()),
                Refused(why) | Unmergeable(why) => {
                    let text = refusal(json!({*key: set.clone()}));
                    assert!(
                        text.contains(&format!("{key} = {set} is not supported: {why}")),
                        "{text}"
                    );
                    let merges = matches!(what, Refused(_));
                    assert_eq!(text.contains("merge_and_unload"), merges, "{text}");
                }
                Read => {}
            }
        }
    }
    // PEFT warns of keys that it does not know and ignores them.
    with(json!({"enable_lora": null, "unsloth_fixed": true})).unwrap();
}

#[test]
fn values_of_keys_that_are_read() {
    for (changes, why) in [
        (
            json!({"peft_type": "IA3"}),
            "peft_type is \"IA3\"; only \"LORA\" is read. Merge",
        ),
        (json!({"peft_type": "ADALORA"}), "merge_and_unload"),
        (json!({"peft_type": "PREFIX_TUNING"}), "cannot be merged"),
        (json!({"peft_type": null}), "peft_type is null"),
        (
            json!({"peft_type": null, "fine_tune_type": "lora"}),
            "mlx_lm.fuse",
        ),
        (json!({"task_type": "SEQ_2_SEQ_LM"}), "SEQ_2_SEQ_LM"),
        (json!({"r": 0}), "r is 0; a rank"),
        (json!({"r": "8"}), "rank"),
        (json!({"r": null}), "rank"),
        (json!({"lora_alpha": null}), "lora_alpha is null"),
        (json!({"use_rslora": "yes"}), "use_rslora"),
        (json!({"bias": "some"}), "bias is"),
        (
            json!({"modules_to_save": ["lm_head"]}),
            "modules_to_save names \"lm_head\"",
        ),
        (json!({"modules_to_save": ["classifier"]}), "modules_to_save"),
        (json!({"modules_to_save": "score"}), "a list"),
        (json!({"target_modules": []}), "target_modules is empty"),
        (json!({"target_modules": [3]}), "target_modules holds 3"),
        (json!({"target_modules": 3}), "target_modules is 3"),
        (
            json!({"rank_pattern": {"q_proj": 0}}),
            "rank_pattern: \"q_proj\" is 0",
        ),
        (json!({"rank_pattern": [1]}), "rank_pattern is [1]"),
        (
            json!({"alpha_pattern": {"q_proj": "x"}}),
            "alpha_pattern: \"q_proj\" is \"x\"",
        ),
        (json!({"layers_to_transform": ["0"]}), "layers_to_transform holds"),
        (json!({"layers_to_transform": "0"}), "layers_to_transform is"),
        (json!({"layers_pattern": "layers"}), "needs layers_to_transform"),
        (
            json!({"target_modules": "all-linear", "layers_to_transform": [0]}),
            "PEFT refuses it too",
        ),
        (
            json!({"target_modules": ".*q_proj", "layers_pattern": "layers"}),
            "PEFT refuses it too",
        ),
        (json!({"init_lora_weights": 3}), "init_lora_weights is 3"),
        (
            json!({"init_lora_weights": "lucky"}),
            "knows no such initialisation",
        ),
    ] {
        let text = refusal(changes.clone());
        assert!(text.contains(why), "{changes}: {text}");
    }
    for kind in ["pissa", "PISSA", "pissa_niter_16", "olora", "loftq", "corda"] {
        let text = refusal(json!({"init_lora_weights": kind}));
        assert!(
            text.contains("changes the base weights") && text.contains("path_initial_model"),
            "{text}"
        );
    }
    for kind in [
        json!(true),
        json!(false),
        json!(null),
        json!("gaussian"),
        json!("eva"),
        json!("orthogonal"),
        json!("mica"),
        json!("lora_ga"),
    ] {
        assert_eq!(
            with(json!({"init_lora_weights": kind})).unwrap(),
            with(json!({})).unwrap()
        );
    }
    let malformed = AdapterConfig::from_json(b"[", "f").unwrap_err().to_string();
    assert!(malformed.contains("not valid JSON"), "{malformed}");
    let mut defaults = plain();
    for key in [
        "r",
        "lora_alpha",
        "target_modules",
        "task_type",
        "modules_to_save",
        "bias",
    ] {
        defaults.as_object_mut().unwrap().shift_remove(key);
    }
    let read = AdapterConfig::from_json(defaults.to_string().as_bytes(), "f").unwrap();
    assert_eq!(read.targets, Targets::plain(&[Proj::Q, Proj::V], 8, 8.0));
    let score = with(json!({"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]})).unwrap();
    assert!(score.saves_score());
    assert_eq!(score.head, Head::Score);
    assert!(with(json!({"bias": "lora_only"})).unwrap().trains_biases);
    // Python writes them; here nobody uses the value.
    let text = plain()
        .to_string()
        .replacen('{', "{\"lora_dropout\": NaN, \"other\": Infinity, ", 1);
    AdapterConfig::from_json(text.as_bytes(), "f").unwrap();
    let text = plain()
        .to_string()
        .replace("\"lora_alpha\":8", "\"lora_alpha\":Infinity");
    let error = AdapterConfig::from_json(text.as_bytes(), "f")
        .unwrap_err()
        .to_string();
    assert!(error.contains("lora_alpha is Infinity"), "{error}");
}

/// Modules that PEFT 0.21 adapts on a Llama of two blocks (`get_peft_model`,
/// `targeted_module_names`).
#[test]
fn targets_are_those_of_peft() {
    let spec = tiny_spec();
    let both = |names: &[&str]| -> Vec<String> {
        (0..2)
            .flat_map(|l| names.iter().map(move |n| format!("{l}.{n}")))
            .collect()
    };
    let all = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    for (changes, want) in [
        (json!({}), both(&["q_proj", "v_proj"])),
        (json!({"target_modules": null}), both(&["q_proj", "v_proj"])),
        (
            json!({"target_modules": ["v_proj", "q_proj", "qkv_proj", "query_key_value"]}),
            both(&["q_proj", "v_proj"]),
        ),
        (
            json!({"target_modules": ["self_attn.q_proj", "layers.1.mlp.up_proj"]}),
            vec!["0.q_proj".into(), "1.q_proj".into(), "1.up_proj".into()],
        ),
        (
            json!({"target_modules": ["model.layers.0.self_attn.k_proj"]}),
            vec!["0.k_proj".into()],
        ),
        (
            json!({"target_modules": r".*\.(q_proj|v_proj)$"}),
            both(&["q_proj", "v_proj"]),
        ),
        (
            json!({"target_modules": r".*layers\.1\.(?!mlp).*_proj"}),
            vec![
                "1.q_proj".into(),
                "1.k_proj".into(),
                "1.v_proj".into(),
                "1.o_proj".into(),
            ],
        ),
        (json!({"target_modules": "all-linear"}), both(&all)),
        (
            json!({"target_modules": "ALL-Linear", "exclude_modules": ["mlp.up_proj"]}),
            both(&["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]),
        ),
        (
            json!({"exclude_modules": r"model\.layers\.0\..*"}),
            vec!["1.q_proj".into(), "1.v_proj".into()],
        ),
        (json!({"exclude_modules": []}), both(&["q_proj", "v_proj"])),
        (
            json!({"layers_to_transform": [1]}),
            vec!["1.q_proj".into(), "1.v_proj".into()],
        ),
        (
            json!({"layers_to_transform": 0}),
            vec!["0.q_proj".into(), "0.v_proj".into()],
        ),
        (json!({"layers_to_transform": []}), both(&["q_proj", "v_proj"])),
        (
            json!({"layers_to_transform": [0, 7], "layers_pattern": ["h", "layers"]}),
            vec!["0.q_proj".into(), "0.v_proj".into()],
        ),
        // A whole path is meant whatever the block.
        (
            json!({"layers_to_transform": [0], "target_modules": ["model.layers.1.mlp.up_proj", "q_proj"]}),
            vec!["0.q_proj".into(), "1.up_proj".into()],
        ),
    ] {
        assert_eq!(taken(&spec, changes.clone()).unwrap(), want, "{changes}");
    }
    for (changes, why) in [
        (json!({"target_modules": ["qkv_proj"]}), "takes no linear layer"),
        (json!({"target_modules": ["_proj"]}), "takes no linear layer"),
        (json!({"target_modules": r"q_proj"}), "takes no linear layer"),
        (json!({"target_modules": ["q_proj", "lm_head"]}), "takes lm_head"),
        (
            json!({"target_modules": ["q_proj", "embed_tokens"]}),
            "takes model.embed_tokens",
        ),
        (json!({"target_modules": ["q_proj", "norm"]}), "takes model.norm"),
        (json!({"target_modules": ["mlp"]}), "takes model.layers.0.mlp"),
        (json!({"target_modules": ".*"}), "takes model"),
        (
            json!({"target_modules": "("}),
            "target_modules: \"(\" is not a regular expression",
        ),
        (
            json!({"rank_pattern": {"[": 3}}),
            "rank_pattern: \"[\" is not a regular expression",
        ),
        (
            json!({"layers_to_transform": [0], "layers_pattern": "h"}),
            "takes no linear layer",
        ),
    ] {
        let text = taken(&spec, changes.clone()).unwrap_err().to_string();
        assert!(text.contains(why), "{changes}: {text}");
    }
    // The head of a reward model is saved, not adapted.
    let score = json!({"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"], "target_modules": ["q_proj", "score"]});
    assert_eq!(
        taken(&spec.with_head(Head::Score), score).unwrap(),
        ["0.q_proj", "1.q_proj"]
    );
}
