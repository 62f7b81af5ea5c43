//! config.json to [`ModelSpec`]; the way back is in `config_write`. Keys that other models have are
//! in `config_keys`.

use serde_json::{Map, Value};

use super::config_keys;
use super::spec::{Family, Head, ModelSpec, Rope, RopeScaling};
use crate::error::{Error, Result, warn_once};
use crate::file::limits::END_TOKENS;
use crate::text::json::{parse_object, python_constant, shown};

/// A JSON object with the file's name for messages.
pub(super) struct Json<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) file: &'a str,
}

impl Json<'_> {
    pub(super) fn fail<T>(&self, message: impl std::fmt::Display) -> Result<T> {
        Err(Error::user(format!("{}: {message}", self.file)))
    }

    /// The value unless absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(v) => Ok(Some(v)),
            None => self.fail(format!(
                "{key} is {}; a non-negative whole number is needed",
                shown(value)
            )),
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

    pub(super) fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(v) => Ok(Some(v)),
            None => self.fail(format!("{key} is {}; a number is needed", shown(value))),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(v)) => Ok(*v),
            Some(other) => self.fail(format!("{key} is {}; true or false is needed", shown(other))),
        }
    }

    pub(super) fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => self.fail(format!("{key} is {}; a string is needed", shown(other))),
        }
    }

    /// A token id, a list of them, or nothing; ids below zero mean "none" in old files.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let values = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        END_TOKENS.check(format!("{}: {key}", self.file), values.len())?;
        let mut ids = Vec::new();
        for value in values {
            match value.as_i64() {
                Some(v) if v < 0 => {}
                Some(v) if u32::try_from(v).is_ok() => ids.push(v as u32),
                _ => {
                    return self.fail(format!(
                        "{key} is {}; a token id or a list of token ids is needed",
                        shown(value)
                    ));
                }
            }
        }
        Ok(ids)
    }
}

/// What config.json and generation_config.json say of a model.
#[derive(Debug)]
pub(super) struct Stated {
    /// The specification, with a vocabulary head where none is stated.
    pub(super) spec: ModelSpec,
    /// The head of the class that `architectures` names; `None` where it names none, so that the
    /// weights decide.
    pub(super) head: Option<Head>,
    /// How many labels a sequence classifier has; `None` where the file does not say, so that the
    /// weights decide.
    pub(super) labels: Option<usize>,
}

impl ModelSpec {
    /// Reads config.json, with generation_config.json's end tokens where it gives some.
    /// `file` names config.json in messages.
    ///
    /// Accepts transformers 5's `rope_parameters` and the older `rope_theta` and `rope_scaling`.
    /// Where keys contradict one another, the one that transformers goes by counts, and a warning
    /// names both.
    ///
    /// # Errors
    /// A user error for malformed JSON, a missing size, an unsupported architecture, activation, rotary scaling, sliding
    /// window, quantised checkpoint or number of labels.
    pub fn from_config_json(config: &[u8], generation_config: Option<&[u8]>, file: &str) -> Result<Self> {
        Stated::read(config, generation_config, file).map(|stated| stated.spec)
    }
}

impl Stated {
    /// As [`ModelSpec::from_config_json`].
    pub(super) fn read(config: &[u8], generation_config: Option<&[u8]>, file: &str) -> Result<Self> {
        let value = parse_object(config, file)?;
        let json = Json { map: &value, file };
        let (family, head) = family_and_head(&json)?;
        config_keys::refuse(&json, family)?;
        let mut spec = sizes(&json, family, head.unwrap_or(Head::CausalLm))?;
        let labels = labels(&json)?;
        if let (Some(Head::Score), Some(n)) = (head, labels)
            && n != 1
        {
            return json.fail(format!(
                "a reward model must have exactly one label; this one has {n} ({})",
                if json.get("num_labels").is_none() {
                    "id2label"
                } else {
                    "num_labels"
                }
            ));
        }
        let own = std::mem::take(&mut spec.eos_token_ids);
        spec.eos_token_ids = match generation_config {
            None => own,
            Some(bytes) => {
                let file = "generation_config.json";
                // It lies beside config.json.
                let place = format!(
                    "{}{file}",
                    json.file.strip_suffix("config.json").unwrap_or_default()
                );
                let value = parse_object(bytes, &place)?;
                let inner = Json {
                    map: &value,
                    file: &place,
                };
                let ids = inner.ids("eos_token_id")?;
                // transformers generates by generation_config.json; config.json often lacks an end
                // token or two.
                if !ids.is_empty() && own.iter().any(|id| !ids.contains(id)) {
                    warn_once(format!(
                        "{}: eos_token_id is {} and {} in {file}; {file} counts, as in transformers",
                        json.file,
                        shown(&own.clone().into()),
                        shown(&ids.clone().into())
                    ));
                }
                if ids.is_empty() { own } else { ids }
            }
        };
        spec.validate(file)?;
        Ok(Self { spec, head, labels })
    }
}

/// The family by `model_type`, as transformers chooses it, and the head by the name of the class.
fn family_and_head(json: &Json) -> Result<(Family, Option<Head>)> {
    let known = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM and their \
                 …ForSequenceClassification with one label";
    let model_type = json.opt_str("model_type")?;
    let class = match json.get("architectures") {
        None => None,
        Some(Value::Array(list)) => list.first().and_then(Value::as_str),
        Some(other) => {
            return json.fail(format!(
                "architectures is {}; a list with a class name is needed",
                shown(other)
            ));
        }
    };
    let by_type = Family::ALL
        .into_iter()
        .find(|f| Some(f.model_type()) == model_type);
    // Trainers write the class of a wrapper (FSDPLlamaForCausalLM, PeftModelForCausalLM), so that
    // only what follows "For" is looked at where there is a model_type.
    let by_class = |class: &str| {
        Family::ALL
            .into_iter()
            .find(|f| class.starts_with(f.class_prefix()) && head_of(class).is_some())
    };
    let family = match (by_type, model_type, class) {
        (Some(family), ..) => family,
        (None, Some(other), _) => {
            return json.fail(format!(
                "model_type {other:?}{} is not supported; supported: {known}",
                class.map(|c| format!(" ({c})")).unwrap_or_default()
            ));
        }
        (None, None, Some(class)) => match by_class(class) {
            Some(family) => family,
            None => {
                return json.fail(format!(
                    "architecture {class:?} is not supported; supported: {known}"
                ));
            }
        },
        (None, None, None) => {
            return json
                .fail("neither architectures nor model_type is given; is this a model's config.json?");
        }
    };
    let Some(class) = class else {
        return Ok((family, None));
    };
    let head = head_of(class);
    if head.is_none() && class.contains("For") {
        return json.fail(format!(
            "architecture {class:?} is not supported: its head is another. Supported: {known}"
        ));
    }
    // PEFT's and TRL's wrappers name no family.
    let is_wrapper = ["Peft", "AutoModel"].iter().any(|w| class.starts_with(w));
    if head.is_some() && !is_wrapper && !class.contains(family.class_prefix()) {
        warn_once(format!(
            "{}: architectures names {class} and model_type is {:?}; model_type decides, as in transformers",
            json.file,
            family.model_type()
        ));
    }
    Ok((family, head))
}

/// The head of a class by its name.
fn head_of(class: &str) -> Option<Head> {
    [
        ("ForCausalLM", Head::CausalLm),
        ("ForSequenceClassification", Head::Score),
    ]
    .into_iter()
    .find(|(end, _)| class.ends_with(end))
    .map(|(_, head)| head)
}

/// `max_position_embeddings` where config.json gives none.
pub(super) fn default_context(family: Family) -> usize {
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
        // The defaults of the configuration classes; null means as many as query heads.
        (None, Family::Mistral) if !json.map.contains_key("num_key_value_heads") => 8,
        (None, Family::Qwen2 | Family::Qwen3) if !json.map.contains_key("num_key_value_heads") => 32,
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

/// The rotary settings, from the keys that transformers goes by: `rope_scaling`, unless it is
/// empty, then `rope_parameters`; the base from inside of these, then from beside them.
fn rope(json: &Json, max_position_embeddings: usize) -> Result<Rope> {
    let object = |key: &str| match json.get(key) {
        None => Ok(None),
        Some(Value::Object(map)) if map.is_empty() => Ok(None),
        Some(value @ Value::Object(map)) if python_constant(value).is_none() => Ok(Some(map)),
        Some(other) => json.fail(format!("{key} is {}; an object is needed", shown(other))),
    };
    let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
    let empty = Map::new();
    let (key, map) = match (scaling, parameters) {
        (Some(map), _) => ("rope_scaling", map),
        (None, Some(map)) => ("rope_parameters", map),
        (None, None) => ("rope_parameters", &empty),
    };
    let file = format!("{}: {key}", json.file);
    let inner = Json { map, file: &file };
    if map
        .values()
        .any(|v| v.is_object() && python_constant(v).is_none())
    {
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
    if kind.is_none_or(|k| k == "default") && inner.get("factor").is_some() {
        warn_once(format!(
            "{file}: factor stands there without a rope_type that uses it; it is ignored, as transformers ignores it"
        ));
    }
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
                // The key beside the object comes first, as for Phi 3 in transformers.
                original_max_position_embeddings: match json.opt_usize("original_max_position_embeddings")? {
                    Some(original) => original,
                    None => inner
                        .opt_usize("original_max_position_embeddings")?
                        .unwrap_or(max_position_embeddings),
                },
            }
        }
        other => own_factors(&inner, other)?,
    };
    let rope = Rope { theta, scaling };
    if let (Some(a), Some(b)) = (
        scaling_of(json, "rope_scaling"),
        scaling_of(json, "rope_parameters"),
    ) {
        let same = |key: &str| a.get(key) == b.get(key);
        let names = [
            "rope_type",
            "type",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "rope_theta",
        ];
        if key == "rope_scaling" && !names.iter().all(|name| same(name)) {
            warn_once(format!(
                "{}: rope_scaling and rope_parameters say different things; rope_scaling counts, as in transformers",
                json.file
            ));
        }
    }
    Ok(rope)
}

fn scaling_of<'a>(json: &'a Json, key: &str) -> Option<&'a Map<String, Value>> {
    json.get(key)?.as_object().filter(|map| !map.is_empty())
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
        "rotary scaling {kind:?} is not supported; supported: default, llama3. It would change every number of the model"
    ))
}

/// The number of labels, as transformers counts them: `num_labels` before `id2label`.
fn labels(json: &Json) -> Result<Option<usize>> {
    let map = json.get("id2label").and_then(Value::as_object).map(Map::len);
    let number = json.opt_usize("num_labels")?;
    if let (Some(map), Some(number)) = (map, number)
        && map != number
    {
        warn_once(format!(
            "{}: num_labels is {number} and id2label has {map} labels; num_labels counts, as in transformers",
            json.file
        ));
    }
    Ok(number.or(map))
}
