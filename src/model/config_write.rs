//! [`ModelSpec`] to config.json.

use serde_json::{Value, json};

use super::spec::{Family, Head, ModelSpec, RopeScaling};
use crate::tensor::DType;

impl ModelSpec {
    /// A config.json that transformers 5 loads (and transformers 4, except for [`RopeScaling::Factors`]);
    /// `dtype` is the weights' type in the checkpoint.
    pub fn to_config_json(&self, dtype: DType) -> Value {
        let class = match self.head {
            Head::CausalLm => "ForCausalLM",
            Head::Score => "ForSequenceClassification",
        };
        let dtype = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        let rope = self.rope_parameters();
        let mut config = json!({
            "architectures": [format!("{}{class}", self.family.class_prefix())],
            "model_type": self.family.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope,
            "rope_theta": self.rope.theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
            "pad_token_id": self.pad_token_id,
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": true,
        });
        if !matches!(self.rope.scaling, RopeScaling::None) {
            config["rope_scaling"] = self.rope_parameters();
        }
        match self.family {
            Family::Llama => {
                config["attention_bias"] = json!(self.qkv_bias);
                config["mlp_bias"] = json!(false);
            }
            Family::Mistral => config["sliding_window"] = Value::Null,
            Family::Qwen2 => config["use_sliding_window"] = json!(false),
            Family::Qwen3 => {
                config["attention_bias"] = json!(self.qkv_bias);
                config["use_sliding_window"] = json!(false);
            }
        }
        if self.head == Head::Score {
            config["id2label"] = json!({"0": "LABEL_0"});
            config["label2id"] = json!({"LABEL_0": 0});
        }
        config
    }

    fn rope_parameters(&self) -> Value {
        let theta = self.rope.theta;
        match &self.rope.scaling {
            RopeScaling::None => json!({"rope_theta": theta, "rope_type": "default"}),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                json!({
                    "rope_theta": theta,
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
            // LongRoPE with equal short and long factors and no attention scaling is exactly one divisor a frequency.
            RopeScaling::Factors(factors) => json!({
                "rope_theta": theta,
                "rope_type": "longrope",
                "factor": 1.0,
                "attention_factor": 1.0,
                "short_factor": factors,
                "long_factor": factors,
                "original_max_position_embeddings": self.max_position_embeddings,
            }),
        }
    }
}
