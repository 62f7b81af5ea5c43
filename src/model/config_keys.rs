//! Keys of config.json that change what a model computes and of which one value alone is
//! implemented.

use serde_json::{Value, json};

use super::config_json::{Json, default_context};
use super::spec::Family;
use crate::error::{Result, warn_once};
use crate::text::json::shown;

/// A key and the values that mean what is computed here; absent and null always do.
struct Only {
    key: &'static str,
    plain: fn(&Value) -> bool,
    /// What another value would change.
    means: &'static str,
}

fn off(value: &Value) -> bool {
    *value == json!(false) || value.as_f64() == Some(0.0) || matches!(value, Value::Array(a) if a.is_empty())
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn silu(value: &Value) -> bool {
    matches!(value.as_str(), Some("silu" | "swish"))
}

fn only_full(value: &Value) -> bool {
    matches!(value, Value::Array(list) if list.iter().all(|kind| kind == "full_attention"))
}

fn all_rotated(value: &Value) -> bool {
    matches!(value, Value::Array(list) if list.iter().all(one))
}

fn not_mixed(value: &Value) -> bool {
    off(value) || one(value)
}

fn empty(value: &Value) -> bool {
    matches!(value, Value::Object(map) if map.is_empty())
}

/// First the keys that transformers' classes of these families read, then those of relatives
/// (Gemma, Granite, MiniCPM, SmolLM3, OLMo, Cohere, Llama 4, mixtures of experts): a file that sets
/// one means another model than its `model_type` says.
const ONLY: &[Only] = &[
    only(
        "hidden_act",
        silu,
        "the activation of the MLP; \"silu\" is supported",
    ),
    only("mlp_bias", off, "biases in the MLP"),
    only("partial_rotary_factor", one, "a rotation of a part of each head"),
    only(
        "layer_types",
        only_full,
        "attention of another kind than \"full_attention\" in some layers",
    ),
    only("per_layer_config", empty, "settings of single layers"),
    only(
        "transformers_weights",
        |_| false,
        "weights in another file than model.safetensors",
    ),
    only("is_causal", |v| *v == json!(true), "attention to later tokens"),
    only("use_bidirectional_attention", off, "attention to later tokens"),
    only("hidden_activation", silu, "the activation of the MLP"),
    only("attn_logit_softcapping", off, "capped attention scores"),
    only("final_logit_softcapping", off, "capped logits"),
    only("logit_scale", one, "scaled logits"),
    only("logits_scaling", one, "scaled logits"),
    only("embedding_multiplier", one, "scaled embeddings"),
    only("residual_multiplier", one, "scaled residuals"),
    only(
        "attention_multiplier",
        |_| false,
        "another scale of the attention scores",
    ),
    only(
        "query_pre_attn_scalar",
        |_| false,
        "another scale of the attention scores",
    ),
    only("scale_emb", one, "scaled embeddings"),
    only("scale_depth", |_| false, "scaled residuals"),
    only("no_rope_layers", all_rotated, "layers without rotary embedding"),
    only("no_rope_layer_interval", off, "layers without rotary embedding"),
    only("attention_chunk_size", off, "attention in chunks"),
    only("use_qk_norm", off, "normalised queries and keys"),
    only("clip_qkv", off, "clipped queries, keys and values"),
    only("alibi", off, "position biases in place of rotary embedding"),
    only("use_alibi", off, "position biases in place of rotary embedding"),
    only("parallel_attn", off, "attention and MLP beside each other"),
    only(
        "use_parallel_residual",
        off,
        "attention and MLP beside each other",
    ),
    only("rope_interleaved", off, "another order of the rotated elements"),
    only("num_experts", not_mixed, "a mixture of experts"),
    only("num_local_experts", not_mixed, "a mixture of experts"),
    only("n_routed_experts", not_mixed, "a mixture of experts"),
];

const fn only(key: &'static str, plain: fn(&Value) -> bool, means: &'static str) -> Only {
    Only { key, plain, means }
}

/// Refuses what is not implemented, by name.
pub(super) fn refuse(json: &Json, family: Family) -> Result<()> {
    for row in ONLY {
        if let Some(value) = json.get(row.key).filter(|v| !(row.plain)(v)) {
            return json.fail(format!(
                "{} is {}, which is not supported: it means {}",
                row.key,
                shown(value),
                row.means
            ));
        }
    }
    for key in ["quantization_config", "compression_config"] {
        if let Some(config) = json.get(key) {
            return json.fail(format!(
                "{key}: this checkpoint is quantised in a format that is not read here ({}); take the original f16/bf16 \
                 checkpoint or a GGUF file (Q8_0, Q4_0, Q4_1, Q4_K, Q6_K). If its tensors are f32, f16 or bf16, take the \
                 key out of config.json",
                method(config)
            ));
        }
    }
    if json.opt_f64("attention_dropout")?.is_some_and(|p| p != 0.0) {
        warn_once(format!(
            "{}: attention_dropout is not applied in training",
            json.file
        ));
    }
    sliding_window(json, family)
}

/// The method of a quantised checkpoint.
fn method(config: &Value) -> String {
    let flag = |key: &str| config.get(key) == Some(&json!(true));
    match config.get("quant_method").and_then(Value::as_str) {
        _ if flag("load_in_4bit") => "bitsandbytes, 4 bits".into(),
        _ if flag("load_in_8bit") => "bitsandbytes, 8 bits".into(),
        Some(method) => method.to_string(),
        None => "method not named".into(),
    }
}

/// Refuses a sliding window that a sequence of the model's context would not fit into.
fn sliding_window(json: &Json, family: Family) -> Result<()> {
    // An absent key means 4096 in transformers; only an explicit null switches the window off.
    let window = match json.map.contains_key("sliding_window") {
        true => json.opt_usize("sliding_window")?,
        false => Some(4096),
    };
    let windowed = match family {
        Family::Llama => None,
        Family::Mistral => window,
        Family::Qwen2 | Family::Qwen3 => {
            let first = json.opt_usize("max_window_layers")?.unwrap_or(28);
            let layers = json.opt_usize("num_hidden_layers")?.unwrap_or(32);
            // layer_types, where it is given, was found to name full attention alone.
            let some = first < layers && json.get("layer_types").is_none();
            window.filter(|_| some && json.flag("use_sliding_window", false).unwrap_or(true))
        }
    };
    json.flag("use_sliding_window", false)?;
    let context = json
        .opt_usize("max_position_embeddings")?
        .unwrap_or(default_context(family));
    match windowed {
        Some(window) if window < context => json.fail(
            "sliding-window attention is not supported; if no sequence will be longer than the window, set \
             \"sliding_window\": null (Mistral) or \"use_sliding_window\": false (Qwen) in config.json",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "config_keys_tests.rs"]
mod tests;
