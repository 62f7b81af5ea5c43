//! Every metadata key that bears on a GGUF model's numbers, and what becomes of it.
//!
//! llama.cpp reads far more keys than the three supported architectures use. A key that changes
//! what is computed and is not implemented is refused by name. A key that is in neither table is
//! warned of.

use super::gguf::{Gguf, MetaValue};
use super::peft_config::some_of;
use crate::error::{Context, Error, Result, warn_once};

/// What a key means to this program.
enum Effect {
    /// It is read and obeyed.
    Read,
    /// No number depends on it, or none does unless another key of the table is refused.
    None,
    /// It changes the numbers and is not implemented: refused unless it has one of these values.
    /// The text says what it is; `{}` stands for the value.
    Only(&'static [f64], &'static str),
}

use Effect::{None as Unused, Only, Read};

/// Keys of the architecture, without its name before them.
const ARCHITECTURE: &[(&str, Effect)] = &[
    ("block_count", Read),
    ("context_length", Read),
    ("embedding_length", Read),
    ("feed_forward_length", Read),
    ("attention.head_count", Read),
    ("attention.head_count_kv", Read),
    ("attention.key_length", Read),
    ("attention.value_length", Read),
    ("attention.layer_norm_rms_epsilon", Read),
    ("attention.sliding_window", Read),
    ("rope.dimension_count", Read),
    ("rope.freq_base", Read),
    ("rope.scaling.type", Read),
    ("rope.scaling.factor", Read),
    // The name that `rope.scaling.factor` had before there was a type.
    ("rope.scale_linear", Read),
    // The head's rows are those of the embedding tensor.
    ("vocab_size", Unused),
    ("tensor_data_layout", Unused),
    ("embedding_length_out", Unused),
    ("classifier.output_labels", Unused),
    // These count with "yarn" and "longrope", which are refused.
    ("rope.scaling.original_context_length", Unused),
    ("rope.scaling.finetuned", Unused),
    ("rope.scaling.yarn_log_multiplier", Unused),
    ("rope.scaling.yarn_ext_factor", Only(&[0.0, -1.0], "YaRN")),
    (
        "rope.scaling.yarn_attn_factor",
        Only(&[1.0], "YaRN's attention factor"),
    ),
    ("rope.scaling.yarn_beta_fast", Unused),
    ("rope.scaling.yarn_beta_slow", Unused),
    (
        "rope.scaling.attn_factor",
        Only(&[1.0], "scaling of rotated queries and keys"),
    ),
    (
        "rope.scaling.alpha",
        Only(&[0.0], "another base of rotary frequencies"),
    ),
    ("rope.freq_base_swa", Unused),
    ("rope.dimension_count_swa", Unused),
    (
        "rope.dimension_sections",
        Only(&[], "rotary embedding in sections"),
    ),
    // The other norm's; these architectures have RMS norms.
    ("attention.layer_norm_epsilon", Unused),
    ("attention.group_norm_epsilon", Unused),
    ("attention.group_norm_groups", Unused),
    ("attention.causal", Only(&[1.0], "attention that is not causal")),
    (
        "attention.clamp_kqv",
        Only(&[0.0], "clamping of queries, keys and values"),
    ),
    ("attention.max_alibi_bias", Only(&[0.0], "ALiBi")),
    (
        "attention.scale",
        Only(&[0.0], "another scale of attention scores"),
    ),
    (
        "attention.output_scale",
        Only(&[0.0, 1.0], "scaling of attention's output"),
    ),
    (
        "attention.temperature_length",
        Only(&[0.0], "attention temperature by position"),
    ),
    (
        "attention.temperature_scale",
        Only(&[0.0], "attention temperature by position"),
    ),
    // Windows are refused, so their pattern and their heads say nothing.
    ("attention.sliding_window_pattern", Unused),
    ("attention.key_length_swa", Unused),
    ("attention.value_length_swa", Unused),
    (
        "attention.shared_kv_layers",
        Only(&[0.0], "keys and values shared between layers"),
    ),
    ("attention.q_lora_rank", Only(&[0.0], "low-rank attention")),
    ("attention.kv_lora_rank", Only(&[0.0], "low-rank attention")),
    ("attn_logit_softcapping", Only(&[0.0], "capped attention scores")),
    ("final_logit_softcapping", Only(&[0.0], "capped logits")),
    ("router_logit_softcapping", Unused),
    ("logit_scale", Only(&[0.0, 1.0], "scaled logits")),
    ("residual_scale", Only(&[0.0, 1.0], "scaled residuals")),
    ("embedding_scale", Only(&[0.0, 1.0], "scaled embeddings")),
    (
        "use_parallel_residual",
        Only(&[0.0], "attention and MLP side by side"),
    ),
    ("swin_norm", Only(&[0.0], "another order of norms")),
    (
        "pooling_type",
        Only(&[0.0, -1.0], "an embedding or reranking model (pooling {})"),
    ),
    (
        "nextn_predict_layers",
        Only(&[0.0], "layers that predict further tokens"),
    ),
    ("leading_dense_block_count", Unused),
    // A mixture of experts is refused by its count, which the other keys of experts go with.
    ("expert_count", Only(&[0.0], "a mixture of {} experts")),
    ("expert_used_count", Unused),
    ("expert_shared_count", Unused),
    ("expert_group_count", Unused),
    ("expert_group_used_count", Unused),
    ("expert_feed_forward_length", Unused),
    ("expert_shared_feed_forward_length", Unused),
    ("expert_weights_scale", Unused),
    ("expert_weights_norm", Unused),
    ("expert_gating_func", Unused),
    ("interleave_moe_layer_step", Unused),
];

/// Keys of the tokenizer, without `tokenizer.ggml.` before them.
const TOKENIZER: &[(&str, Effect)] = &[
    ("model", Read),
    ("pre", Read),
    ("tokens", Read),
    ("token_type", Read),
    ("scores", Read),
    ("merges", Read),
    ("bos_token_id", Read),
    ("eos_token_id", Read),
    ("eot_token_id", Read),
    ("eom_token_id", Read),
    ("unknown_token_id", Read),
    ("padding_token_id", Read),
    ("add_bos_token", Read),
    ("add_eos_token", Read),
    ("add_space_prefix", Read),
    ("add_sep_token", Only(&[0.0], "a separator after every text")),
    ("normalizer.lowercase", Only(&[0.0], "text in lower case")),
    ("normalizer.strip_accents", Only(&[0.0], "text without accents")),
    ("seperator_token_id", Unused),
    ("separator_token_id", Unused),
    ("cls_token_id", Unused),
    ("mask_token_id", Unused),
    ("token_type_count", Unused),
    // Unigram's alone, which is refused by tokenizer.ggml.model.
    ("precompiled_charsmap", Unused),
    ("remove_extra_whitespaces", Unused),
    ("hf_json", Unused),
    ("prefix_token_id", Unused),
    ("suffix_token_id", Unused),
    ("middle_token_id", Unused),
    ("fim_pre_token_id", Unused),
    ("fim_suf_token_id", Unused),
    ("fim_mid_token_id", Unused),
    ("fim_pad_token_id", Unused),
    ("fim_rep_token_id", Unused),
    ("fim_sep_token_id", Unused),
];

impl Gguf {
    /// Refuses what the architecture's keys ask for and this program does not do.
    pub(super) fn check_architecture_keys(&self, arch: &str) -> Result<()> {
        self.check_keys(&format!("{arch}."), ARCHITECTURE)
    }

    /// Refuses what the tokenizer's keys ask for and this program does not do.
    pub(super) fn check_tokenizer_keys(&self) -> Result<()> {
        self.check_keys("tokenizer.ggml.", TOKENIZER)
    }

    fn check_keys(&self, prefix: &str, table: &[(&str, Effect)]) -> Result<()> {
        let mut unknown = Vec::new();
        for (key, value) in self.meta.range(prefix.to_owned()..) {
            let Some(short) = key.strip_prefix(prefix) else {
                break;
            };
            match table.iter().find(|(name, _)| *name == short) {
                Some((_, Only(neutral, what))) if !is_one_of(value, neutral) => {
                    let shown = shown(value);
                    return Err(Error::user(format!(
                        "{key} is {shown}: {} is not supported",
                        what.replace("{}", &shown)
                    )))
                    .context(&self.name);
                }
                Some(_) => {}
                None => unknown.push(key),
            }
        }
        let what = match unknown.len() {
            0 => return Ok(()),
            1 => format!("key {} is", some_of(&unknown)),
            _ => format!("keys {} are", some_of(&unknown)),
        };
        warn_once(format!(
            "{}: the metadata {what} not known here and ignored; if the model computes something by it, the results differ \
             from llama.cpp's",
            self.name
        ));
        Ok(())
    }
}

/// Whether a value, or every element of an array, is one of these numbers; false is 0 and true is
/// 1.
fn is_one_of(value: &MetaValue, neutral: &[f64]) -> bool {
    let is = |v: f64| neutral.contains(&v);
    match value {
        MetaValue::Uint(v) => is(*v as f64),
        MetaValue::Int(v) => is(*v as f64),
        MetaValue::Float(v) => is(*v),
        MetaValue::Bool(v) => is(f64::from(u8::from(*v))),
        MetaValue::NumArray(v) => v.iter().all(|v| is(*v)),
        MetaValue::Str(_) | MetaValue::StrArray(_) => false,
    }
}

/// A value as messages show it.
pub(super) fn shown(value: &MetaValue) -> String {
    match value {
        MetaValue::Uint(v) => v.to_string(),
        MetaValue::Int(v) => v.to_string(),
        MetaValue::Float(v) => v.to_string(),
        MetaValue::Bool(v) => v.to_string(),
        MetaValue::Str(v) => format!("{:?}", some_of(&[v])),
        MetaValue::StrArray(v) => format!("a list of {} strings", v.len()),
        MetaValue::NumArray(v) => format!("a list of {} numbers", v.len()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The keys that are refused, with a value that is and, where there is one, a value that is
    /// not.
    pub(in crate::model) fn refused() -> Vec<(&'static str, f64, Option<f64>)> {
        let rows = ARCHITECTURE.iter().filter_map(|(key, effect)| match effect {
            Only(neutral, _) => Some((*key, 3.5, neutral.first().copied())),
            _ => None,
        });
        rows.collect()
    }

    #[test]
    fn no_key_stands_twice() {
        for table in [ARCHITECTURE, TOKENIZER] {
            for (i, (key, _)) in table.iter().enumerate() {
                assert!(table[..i].iter().all(|(other, _)| other != key), "{key}");
            }
        }
    }
}
