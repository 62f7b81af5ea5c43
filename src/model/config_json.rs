//! config.json to [`ModelSpec`]; the way back is in `config_write`.

use serde_json::{Map, Value};

use super::spec::{Family, Head, ModelSpec, Rope, RopeScaling};
use crate::error::{Context, Error, Result};

/// A JSON object with the file's name for messages.
struct Json<'a> {
    map: &'a Map<String, Value>,
    file: &'a str,
}

impl Json<'_> {
    fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::user(format!("{}: {message}", self.file)))
    }

    /// The value unless absent or null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(v) => Ok(Some(v)),
            None => self.fail(format!("{key} is {value}; a non-negative whole number is needed")),
        }
    }

    fn usize(&self, key: &str) -> Result<usize> {
        match self.opt_usize(key)? {
            Some(v) => Ok(v),
            None => self.fail(format!(
                "{key} is missing; take config.json from the model's own repository"
            )),
        }
    }

    fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(v) => Ok(Some(v)),
            None => self.fail(format!("{key} is {value}; a number is needed")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(v)) => Ok(*v),
            Some(other) => self.fail(format!("{key} is {other}; true or false is needed")),
        }
    }

    fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => self.fail(format!("{key} is {other}; a string is needed")),
        }
    }

    /// A token id, a list of them, or nothing; ids below zero mean "none" in old files.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let values = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut ids = Vec::new();
        for value in values {
            match value.as_i64() {
                Some(v) if v < 0 => {}
                Some(v) if u32::try_from(v).is_ok() => ids.push(v as u32),
                _ => {
                    return self.fail(format!(
                        "{key} is {value}; a token id or a list of token ids is needed"
                    ));
                }
            }
        }
        Ok(ids)
    }
}

impl ModelSpec {
    /// Reads config.json, with generation_config.json's end tokens where it gives some.
    /// `file` names config.json in messages.
    ///
    /// Accepts transformers 5's `rope_parameters` and the older `rope_theta` and `rope_scaling`.
    ///
    /// # Errors
    /// A user error for malformed JSON, a missing size, an unsupported architecture, activation, rotary scaling, sliding
    /// window, quantised checkpoint or number of labels.
    pub fn from_config_json(config: &[u8], generation_config: Option<&[u8]>, file: &str) -> Result<Self> {
        let value = parse(config, file)?;
        let json = Json { map: &value, file };
        let (family, head) = family_and_head(&json)?;
        refuse_unsupported(&json, family)?;
        let mut spec = sizes(&json, family, head)?;
        if head == Head::Score {
            check_labels(&json)?;
        }
        if let Some(bytes) = generation_config {
            let value = parse(bytes, "generation_config.json")?;
            let ids = Json {
                map: &value,
                file: "generation_config.json",
            }
            .ids("eos_token_id")?;
            if !ids.is_empty() {
                spec.eos_token_ids = ids;
            }
        }
        spec.validate(file)?;
        Ok(spec)
    }
}

fn parse(bytes: &[u8], file: &str) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::user("not a JSON object")).context(file),
        Err(e) => Err(Error::user(format!("not valid JSON: {e}"))).context(file),
    }
}

fn family_and_head(json: &Json) -> Result<(Family, Head)> {
    let known = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM and their \
                 …ForSequenceClassification with one label";
    let model_type = json.opt_str("model_type")?;
    let class = match json.get("architectures") {
        None => None,
        Some(Value::Array(list)) => list.first().and_then(Value::as_str),
        Some(other) => {
            return json.fail(format!(
                "architectures is {other}; a list with a class name is needed"
            ));
        }
    };
    let by_type = Family::ALL
        .into_iter()
        .find(|f| Some(f.model_type()) == model_type);
    let Some(class) = class else {
        return match (by_type, model_type) {
            (Some(family), _) => Ok((family, Head::CausalLm)),
            (None, Some(t)) => json.fail(format!("model_type {t:?} is not supported; supported: {known}")),
            (None, None) => {
                json.fail("neither architectures nor model_type is given; is this a model's config.json?")
            }
        };
    };
    let found = Family::ALL.into_iter().find_map(|family| {
        let head = match class.strip_prefix(family.class_prefix())? {
            "ForCausalLM" => Head::CausalLm,
            "ForSequenceClassification" => Head::Score,
            _ => return None,
        };
        Some((family, head))
    });
    match (found, model_type) {
        (None, _) => json.fail(format!(
            "architecture {class:?} is not supported; supported: {known}"
        )),
        (Some((family, _)), Some(t)) if t != family.model_type() => {
            json.fail(format!("architecture {class:?} contradicts model_type {t:?}"))
        }
        (Some(found), _) => Ok(found),
    }
}

fn refuse_unsupported(json: &Json, family: Family) -> Result<()> {
    match json.opt_str("hidden_act")? {
        None | Some("silu") => {}
        Some(other) => return json.fail(format!("hidden_act {other:?} is not supported; only \"silu\" is")),
    }
    if json.get("quantization_config").is_some() {
        return json.fail(
            "quantization_config: this checkpoint is quantised in a format that is not read here; take the original \
             f16/bf16 checkpoint or a GGUF file (Q8_0, Q4_0, Q4_1, Q4_K, Q6_K)",
        );
    }
    if json.flag("mlp_bias", false)? {
        return json.fail("mlp_bias true is not supported");
    }
    if json.opt_f64("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return json.fail("partial_rotary_factor other than 1 is not supported");
    }
    let windowed = match family {
        // An absent key means 4096 in transformers; only an explicit null switches the window off.
        Family::Mistral if !json.map.contains_key("sliding_window") => Some(4096),
        Family::Mistral => json.opt_usize("sliding_window")?,
        Family::Qwen2 | Family::Qwen3 if json.flag("use_sliding_window", false)? => Some(0),
        _ => None,
    };
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

fn default_context(family: Family) -> usize {
    match family {
        Family::Llama => 2048,
        Family::Mistral => 131_072,
        Family::Qwen2 | Family::Qwen3 => 32_768,
    }
}

fn sizes(json: &Json, family: Family, head: Head) -> Result<ModelSpec> {
    let hidden_size = json.usize("hidden_size")?;
    let num_heads = json.usize("num_attention_heads")?;
    let head_dim = match (json.opt_usize("head_dim")?, family) {
        (Some(d), _) => d,
        (None, Family::Qwen3) => 128,
        (None, _) if num_heads == 0 || hidden_size % num_heads != 0 => {
            return json.fail(format!(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads} and head_dim is not given"
            ));
        }
        (None, _) => hidden_size / num_heads,
    };
    let kv = match (json.opt_usize("num_key_value_heads")?, family) {
        (Some(kv), _) => kv,
        (None, Family::Mistral) if !json.map.contains_key("num_key_value_heads") => 8,
        (None, _) => num_heads,
    };
    let max_position_embeddings = json
        .opt_usize("max_position_embeddings")?
        .unwrap_or(default_context(family));
    let attention_bias = json.flag("attention_bias", false)?;
    Ok(ModelSpec {
        family,
        head,
        vocab_size: json.usize("vocab_size")?,
        hidden_size,
        intermediate_size: json.usize("intermediate_size")?,
        num_layers: json.usize("num_hidden_layers")?,
        num_heads,
        num_kv_heads: kv,
        head_dim,
        rms_norm_eps: json.opt_f64("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(json, max_position_embeddings)?,
        qkv_bias: match family {
            Family::Llama | Family::Qwen3 => attention_bias,
            Family::Mistral => false,
            Family::Qwen2 => true,
        },
        o_bias: matches!(family, Family::Llama | Family::Qwen3) && attention_bias,
        qk_norm: family == Family::Qwen3,
        // False is the default of all four families' configuration classes.
        tie_word_embeddings: json.flag("tie_word_embeddings", false)?,
        max_position_embeddings,
        pad_token_id: json.ids("pad_token_id")?.first().copied(),
        eos_token_ids: json.ids("eos_token_id")?,
        bos_token_id: json.ids("bos_token_id")?.first().copied(),
    })
}

fn rope(json: &Json, max_position_embeddings: usize) -> Result<Rope> {
    let key = if json.get("rope_parameters").is_some() {
        "rope_parameters"
    } else {
        "rope_scaling"
    };
    let empty = Map::new();
    let map = match json.get(key) {
        None => &empty,
        Some(Value::Object(map)) => map,
        Some(other) => return json.fail(format!("{key} is {other}; an object is needed")),
    };
    let file = format!("{}: {key}", json.file);
    let inner = Json { map, file: &file };
    if map.values().any(Value::is_object) {
        return inner.fail("different rotary settings for different layers are not supported");
    }
    if inner.opt_f64("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return inner.fail("partial_rotary_factor other than 1 is not supported");
    }
    let theta = match inner.opt_f64("rope_theta")? {
        Some(theta) => theta,
        None => json.opt_f64("rope_theta")?.unwrap_or(10_000.0),
    };
    let kind = match inner.opt_str("rope_type")? {
        Some(kind) => Some(kind),
        None => inner.opt_str("type")?,
    };
    let scaling = match kind.unwrap_or("default") {
        "default" => RopeScaling::None,
        "llama3" => {
            let need = |name: &str| match inner.opt_f64(name)? {
                Some(v) => Ok(v),
                None => inner.fail(format!("{name} is missing")),
            };
            RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: inner
                    .opt_usize("original_max_position_embeddings")?
                    .unwrap_or(max_position_embeddings),
            }
        }
        other => own_factors(&inner, other)?,
    };
    Ok(Rope { theta, scaling })
}

/// Reads back the form that [`ModelSpec::to_config_json`] writes for [`RopeScaling::Factors`].
fn own_factors(inner: &Json, kind: &str) -> Result<RopeScaling> {
    let long = inner.get("long_factor");
    if kind == "longrope"
        && long == inner.get("short_factor")
        && inner.opt_f64("attention_factor")? == Some(1.0)
    {
        let factors: Option<Vec<f64>> = long
            .and_then(Value::as_array)
            .and_then(|list| list.iter().map(Value::as_f64).collect());
        if let Some(factors) = factors {
            return Ok(RopeScaling::Factors(factors));
        }
    }
    inner.fail(format!(
        "rotary scaling {kind:?} is not supported; supported: default, llama3"
    ))
}

fn check_labels(json: &Json) -> Result<()> {
    // transformers means two labels when config.json gives neither key.
    let labels = match (
        json.opt_usize("num_labels")?,
        json.get("id2label").and_then(Value::as_object),
    ) {
        (Some(n), _) => n,
        (None, Some(map)) => map.len(),
        (None, None) => 2,
    };
    if labels == 1 {
        return Ok(());
    }
    json.fail(format!(
        "a reward model must have exactly one label; this one has {labels} (id2label / num_labels)"
    ))
}
