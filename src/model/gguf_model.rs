//! What a llama.cpp model's GGUF means: specification, weights under Hugging Face's names, vocabulary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use super::gguf::{Gguf, GgufTensor, MetaValue};
use super::spec::{Family, Head, ModelSpec, Proj, Rope, RopeScaling, llama3};
use super::store::{Entry, WeightStore};
use crate::error::{Context, Error, Result};
use crate::kernels::quant;

/// The tokenizer a GGUF file carries, as stored; nothing is interpreted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawVocab {
    /// `tokenizer.ggml.model`: "gpt2" for byte-level BPE, "llama" for SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer ("llama-bpe", "qwen2", "smollm", …).
    pub pre: Option<String>,
    /// The pieces, by id.
    pub tokens: Vec<String>,
    /// GGML's token types by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. May be empty.
    pub token_types: Vec<i32>,
    /// Scores by id (SentencePiece). May be empty.
    pub scores: Vec<f32>,
    /// Merges in order of rank, "left right". May be empty.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`, `eot_token_id` and `eom_token_id`, those that are given.
    pub eos: Vec<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl Gguf {
    fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::user(message)).context(&self.name)
    }

    fn id(&self, key: &str) -> Option<u32> {
        self.meta_usize(&format!("tokenizer.ggml.{key}"))
            .and_then(|v| u32::try_from(v).ok())
    }

    /// `{architecture}.{key}` as a size.
    fn size(&self, arch: &str, key: &str) -> Result<usize> {
        match self.optional_size(arch, key)? {
            Some(v) => Ok(v),
            None => self.fail(format!("metadata {arch}.{key} is missing or no whole number")),
        }
    }

    /// As [`Self::size`] for a key that may be missing. An array has a size per layer, which must
    /// all be equal.
    fn optional_size(&self, arch: &str, key: &str) -> Result<Option<usize>> {
        let key = format!("{arch}.{key}");
        match self.meta(&key) {
            Some(MetaValue::NumArray(sizes)) => match sizes.as_slice() {
                [first, rest @ ..] if *first >= 0.0 && rest.iter().all(|s| s == first) => {
                    Ok(Some(*first as usize))
                }
                _ => self.fail(format!(
                    "metadata {key} differs from layer to layer, which is not supported"
                )),
            },
            Some(_) => match self.meta_usize(&key) {
                Some(size) => Ok(Some(size)),
                None => self.fail(format!("metadata {key} is missing or no whole number")),
            },
            None => Ok(None),
        }
    }

    /// `{architecture}.{key}` as a number.
    fn optional_number(&self, arch: &str, key: &str) -> Result<Option<f64>> {
        let key = format!("{arch}.{key}");
        match (self.meta(&key), self.meta_f64(&key)) {
            (Some(_), None) => self.fail(format!("metadata {key} is no number")),
            (_, number) => Ok(number),
        }
    }

    fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The vocabulary.
    ///
    /// # Errors
    /// A user error when the file has none.
    pub fn vocab(&self) -> Result<RawVocab> {
        self.check_tokenizer_keys()?;
        let strings = |key: &str| {
            self.meta_str_array(key)
                .map(<[String]>::to_vec)
                .unwrap_or_default()
        };
        let numbers = |key: &str| self.meta_num_array(key).unwrap_or_default();
        let tokens = strings("tokenizer.ggml.tokens");
        if tokens.is_empty() {
            return self
                .fail("no tokenizer.ggml.tokens in the metadata: this GGUF file carries no tokenizer");
        }
        let mut eos = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            eos.extend(self.id(key).filter(|id| !eos.contains(id)));
        }
        let string = |key: &str| self.meta_str(key).map(str::to_string);
        let token_types: Vec<i32> = numbers("tokenizer.ggml.token_type")
            .iter()
            .map(|v| *v as i32)
            .collect();
        let scores: Vec<f32> = numbers("tokenizer.ggml.scores")
            .iter()
            .map(|v| *v as f32)
            .collect();
        for (key, len) in [("token_type", token_types.len()), ("scores", scores.len())] {
            if len != 0 && len != tokens.len() {
                return self.fail(format!(
                    "tokenizer.ggml.{key} has {len} entries for {} tokens",
                    tokens.len()
                ));
            }
        }
        Ok(RawVocab {
            model: string("tokenizer.ggml.model").unwrap_or_default(),
            pre: string("tokenizer.ggml.pre"),
            tokens,
            token_types,
            scores,
            merges: strings("tokenizer.ggml.merges"),
            bos: self.id("bos_token_id"),
            eos,
            unknown: self.id("unknown_token_id"),
            padding: self.id("padding_token_id"),
            add_bos: self.meta_bool("tokenizer.ggml.add_bos_token"),
            add_eos: self.meta_bool("tokenizer.ggml.add_eos_token"),
            add_space_prefix: self.meta_bool("tokenizer.ggml.add_space_prefix"),
            chat_template: string("tokenizer.chat_template"),
        })
    }

    /// The model's specification.
    ///
    /// # Errors
    /// A user error for an architecture or setting that is not supported, or missing metadata.
    pub fn spec(&self) -> Result<ModelSpec> {
        match self.meta_str("general.type") {
            None | Some("model") => {}
            Some("adapter") => {
                return self.fail(
                    "a LoRA adapter in GGUF, which is not read: pass its base as --model and PEFT's adapter directory as \
                     --adapter",
                );
            }
            Some(other) => return self.fail(format!("general.type is {other:?}: not a model's weights")),
        }
        let arch = self.meta_str("general.architecture").unwrap_or("(none)");
        let family = match arch {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                return self.fail(format!(
                    "architecture {other:?} is not supported; supported: llama, qwen2, qwen3"
                ));
            }
        };
        self.refuse_unsupported(arch)?;
        let hidden_size = self.size(arch, "embedding_length")?;
        let num_heads = self.size(arch, "attention.head_count")?;
        let head_dim = match self.optional_size(arch, "attention.key_length")? {
            Some(d) => d,
            None if num_heads > 0 => hidden_size / num_heads,
            None => return self.fail(format!("metadata {arch}.attention.head_count is 0")),
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(v) = self.optional_size(arch, key)?.filter(|v| *v != head_dim) {
                return self.fail(format!(
                    "{arch}.{key} is {v} and the heads are {head_dim} wide: not supported"
                ));
            }
        }
        let Some(embedding) = self.tensor("token_embd.weight").filter(|t| t.shape.len() == 2) else {
            return self.fail("tensor token_embd.weight is missing");
        };
        let theta = self.optional_number(arch, "rope.freq_base")?.unwrap_or(10_000.0);
        let head_count_kv = self.optional_size(arch, "attention.head_count_kv")?;
        let Some(rms_norm_eps) = self.optional_number(arch, "attention.layer_norm_rms_epsilon")? else {
            return self.fail(format!(
                "metadata {arch}.attention.layer_norm_rms_epsilon is missing"
            ));
        };
        let mut spec = ModelSpec {
            family,
            head: Head::CausalLm,
            vocab_size: embedding.shape[0],
            hidden_size,
            intermediate_size: self.size(arch, "feed_forward_length")?,
            num_layers: self.size(arch, "block_count")?,
            num_heads,
            num_kv_heads: head_count_kv.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps,
            rope: Rope {
                theta,
                scaling: RopeScaling::None,
            },
            qkv_bias: self.tensor("blk.0.attn_q.bias").is_some(),
            o_bias: self.tensor("blk.0.attn_output.bias").is_some(),
            qk_norm: family == Family::Qwen3,
            tie_word_embeddings: self.tensor("output.weight").is_none(),
            max_position_embeddings: self.size(arch, "context_length")?,
            pad_token_id: self.id("padding_token_id"),
            eos_token_ids: Vec::new(),
            bos_token_id: self.id("bos_token_id"),
        };
        spec.add_eos(
            ["eos_token_id", "eot_token_id", "eom_token_id"]
                .into_iter()
                .filter_map(|k| self.id(k)),
        );
        spec.validate(&self.name)?;
        spec.rope.scaling = self.rope_factors(&spec)?;
        spec.validate(&self.name)?;
        Ok(spec)
    }

    fn refuse_unsupported(&self, arch: &str) -> Result<()> {
        self.check_architecture_keys(arch)?;
        // As llama.cpp: without a type a factor is linear's, its older name counts where the newer
        // is missing, and 0 is 1.
        let key = format!("{arch}.rope.scaling.type");
        let kind = match self.meta(&key) {
            None => "linear",
            Some(MetaValue::Str(kind)) => kind,
            Some(_) => return self.fail(format!("metadata {key} is no string")),
        };
        let factor = match self.optional_number(arch, "rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.optional_number(arch, "rope.scale_linear")?,
        };
        match (kind, factor) {
            ("none", _) | ("linear", None | Some(0.0 | 1.0)) => {}
            (kind, Some(factor)) => {
                return self.fail(format!(
                    "rotary scaling {kind:?} with factor {factor} ({arch}.rope.scaling) is not supported"
                ));
            }
            (kind, None) => {
                return self.fail(format!("rotary scaling {kind:?} ({key}) is not supported"));
            }
        }
        let window = self.optional_size(arch, "attention.sliding_window")?;
        let context = self
            .meta_usize(&format!("{arch}.context_length"))
            .unwrap_or(usize::MAX);
        if window.is_some_and(|w| w > 0 && w < context) {
            return self.fail("sliding-window attention is not supported");
        }
        Ok(())
    }

    /// Refuses a tensor that the model computes with and this program does not.
    fn check_tensors(&self, spec: &ModelSpec) -> Result<()> {
        let wanted: BTreeSet<String> = spec.tensors().map(|t| t.name).collect();
        for t in &self.tensors {
            // Frequencies are read apart, or follow from the metadata.
            let unused = t.name == "rope_freqs.weight" || t.name.contains(".attn_rot_embd");
            let known = hf_name(&t.name).is_some_and(|(name, _)| wanted.contains(&name));
            if unused || known {
                continue;
            }
            return self.fail(match t.name.starts_with("cls.") {
                true => format!(
                    "tensor {}: this is a classification or reward model; of GGUF only language models are read, so use the \
                     model's Hugging Face directory",
                    t.name
                ),
                false => format!(
                    "tensor {} has no place in the architecture {}: the model computes something that is not supported",
                    t.name,
                    self.meta_str("general.architecture").unwrap_or("(none)")
                ),
            });
        }
        Ok(())
    }

    /// Llama 3 files ship their scaling as one divisor a frequency; Meta's parameters are recovered where they fit, so
    /// that an exported config.json says "llama3".
    fn rope_factors(&self, spec: &ModelSpec) -> Result<RopeScaling> {
        let Some(t) = self.tensor("rope_freqs.weight") else {
            return Ok(RopeScaling::None);
        };
        let elements: usize = t.shape.iter().product();
        if elements != spec.head_dim / 2 {
            return self.fail(format!(
                "rope_freqs.weight has {elements} factors, {} are needed",
                spec.head_dim / 2
            ));
        }
        let mut factors = vec![0.0f32; elements];
        quant::dequantize(t.dtype, &self.tensor_bytes(t)?, &mut factors);
        let factor = factors.iter().fold(1.0f32, |a, b| a.max(*b));
        let (low, high, original) = (1.0, 4.0, 8192);
        let plain = spec.inv_freq();
        let fits = plain.iter().zip(&factors).all(|(freq, f)| {
            let want = freq / llama3(*freq, f64::from(factor), low, high, original as f64);
            (f64::from(*f) / want - 1.0).abs() < 1e-5
        });
        if factors.iter().all(|f| *f == 1.0) {
            Ok(RopeScaling::None)
        } else if fits {
            Ok(RopeScaling::Llama3 {
                factor: f64::from(factor),
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            })
        } else {
            Ok(RopeScaling::Factors(factors.into_iter().map(f64::from).collect()))
        }
    }

    /// The weights under Hugging Face's names.
    pub(crate) fn into_store(self) -> Result<WeightStore> {
        let spec = self.spec()?;
        self.check_tensors(&spec)?;
        let permuted = spec.family == Family::Llama;
        let mut entries = BTreeMap::new();
        for t in &self.tensors {
            let Some((name, proj)) = hf_name(&t.name) else {
                continue;
            };
            let heads = match proj {
                Some(Proj::Q) if permuted => Some(spec.num_heads),
                Some(Proj::K) if permuted => Some(spec.num_kv_heads),
                _ => None,
            };
            if let Some(heads) = heads.filter(|h| t.shape[0] != h * spec.head_dim) {
                return self.fail(format!(
                    "tensor {} has {} rows; {heads} heads of {} are expected",
                    t.name, t.shape[0], spec.head_dim
                ));
            }
            let entry = Entry {
                part: t.part,
                dtype: Ok(t.dtype),
                shape: t.shape.clone(),
                range: t.range.clone(),
                interleaved_heads: heads,
            };
            if entries.insert(name, entry).is_some() {
                return self.fail(format!("tensor {} is there twice", t.name));
            }
        }
        let origin = self.name.clone();
        Ok(WeightStore {
            parts: self.parts,
            entries,
            origin,
            scratch: Mutex::default(),
        })
    }
}

/// Opens a GGUF file's weights under Hugging Face's names.
pub(crate) fn open_weights(path: &Path) -> Result<WeightStore> {
    Gguf::open(path)?.into_store()
}

/// The Hugging Face name of a llama.cpp tensor, and the linear layer it belongs to.
fn hf_name(name: &str) -> Option<(String, Option<Proj>)> {
    let global = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(name) = global {
        return Some((name.to_string(), None));
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (module, kind) = rest.rsplit_once('.')?;
    if kind != "weight" && kind != "bias" {
        return None;
    }
    let norm = match module {
        "attn_norm" => Some("input_layernorm"),
        "ffn_norm" => Some("post_attention_layernorm"),
        "attn_q_norm" => Some("self_attn.q_norm"),
        "attn_k_norm" => Some("self_attn.k_norm"),
        _ => None,
    };
    if let Some(norm) = norm {
        return Some((format!("model.layers.{layer}.{norm}.{kind}"), None));
    }
    let proj = match module {
        "attn_q" => Proj::Q,
        "attn_k" => Proj::K,
        "attn_v" => Proj::V,
        "attn_output" => Proj::O,
        "ffn_gate" => Proj::Gate,
        "ffn_up" => Proj::Up,
        "ffn_down" => Proj::Down,
        _ => return None,
    };
    Some((format!("{}.{kind}", proj.path(layer)), Some(proj)))
}
