//! adapter_config.json of PEFT 0.21, key by key.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::peft::AdapterConfig;
use super::peft_targets::{MERGE, Names, Targets};
use super::spec::Head;
use crate::error::{Error, Result, warn_once};
use crate::file::limits::ADAPTER_NAMES;
use crate::text::json::{python_constant, shown};

/// What this program does with a key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key {
    /// Read and computed as PEFT computes it, or refused by its value.
    Read,
    /// Has no bearing on what a stored adapter computes.
    Inert,
    /// Changes what the adapter computes; refused where it is set, with what it means.
    Refused(&'static str),
    /// As [`Key::Refused`], and PEFT cannot merge such an adapter into its base either.
    Unmergeable(&'static str),
}

use Key::{Inert, Read, Refused, Unmergeable};

/// Every key of `PeftConfig` and `LoraConfig`.
const KEYS: &[(&str, Key)] = &[
    ("peft_type", Read),
    ("task_type", Read),
    ("auto_mapping", Inert),
    ("peft_version", Inert),
    ("base_model_name_or_path", Read),
    ("revision", Read),
    ("inference_mode", Inert),
    ("r", Read),
    ("lora_alpha", Read),
    ("target_modules", Read),
    ("exclude_modules", Read),
    ("modules_to_save", Read),
    ("bias", Read),
    ("use_rslora", Read),
    ("rank_pattern", Read),
    ("alpha_pattern", Read),
    ("layers_to_transform", Read),
    ("layers_pattern", Read),
    ("init_lora_weights", Read),
    // Dropout is for training alone.
    ("lora_dropout", Inert),
    // PEFT sets it to false for nn.Linear, the only kind of layer here.
    ("fan_in_fan_out", Inert),
    // Settings of an initialisation, which a stored adapter's tensors replace.
    ("loftq_config", Inert),
    ("eva_config", Inert),
    ("corda_config", Inert),
    ("lora_ga_config", Inert),
    ("megatron_core", Inert),
    ("runtime_config", Inert),
    ("qalora_group_size", Inert),
    // Bears on heads and embeddings, which are refused as targets.
    ("ensure_weight_tying", Inert),
    (
        "use_dora",
        Refused("DoRA rescales the columns of the base weights"),
    ),
    ("use_qalora", Refused("QA-LoRA pools the input of A")),
    ("use_bdlora", Refused("BD-LoRA has block-diagonal matrices")),
    ("lora_bias", Unmergeable("B has a bias")),
    (
        "layer_replication",
        Refused("blocks of the base model are repeated"),
    ),
    (
        "target_parameters",
        Refused("parameters that are no linear layer are adapted"),
    ),
    (
        "trainable_token_indices",
        Refused("rows of the embedding are replaced"),
    ),
    (
        "alora_invocation_tokens",
        Unmergeable("the adapter acts from these tokens on only"),
    ),
    (
        "arrow_config",
        Unmergeable("several adapters are mixed token by token"),
    ),
    ("kasa_config", Refused("the base weights are truncated")),
    ("velora_config", Refused("VeLoRA projects activations")),
    ("monteclora_config", Refused("A is sampled")),
    (
        "megatron_config",
        Refused("the adapter is for Megatron's parallel layers"),
    ),
];

/// Reads the configuration.
pub(super) fn read(map: &Map<String, Value>) -> Result<AdapterConfig> {
    refuse_other_kinds(map)?;
    refuse_options(map)?;
    let head = match map.get("task_type") {
        None | Some(Value::Null) => Head::CausalLm,
        Some(Value::String(task)) if task == "CAUSAL_LM" => Head::CausalLm,
        Some(Value::String(task)) if task == "SEQ_CLS" => Head::Score,
        Some(other) => {
            return fail(format!(
                "task_type {} is not supported; CAUSAL_LM and SEQ_CLS are",
                shown(other)
            ));
        }
    };
    initialisation(map.get("init_lora_weights"))?;
    let mut saved = strings(map, "modules_to_save")?;
    let mut seen = HashSet::new();
    saved.retain(|name| seen.insert(name.clone()));
    // PEFT adds "classifier" and "score" for every SEQ_CLS adapter; the classes here only have
    // "score".
    let is_score = |m: &String| m == "score" || (m == "classifier" && saved.len() > 1);
    if let Some(other) = saved.iter().find(|m| !is_score(m)) {
        return fail(format!(
            "modules_to_save names {:?}; only \"score\" is read from an adapter. {MERGE}",
            some_of(&[other])
        ));
    }
    let string = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_string);
    Ok(AdapterConfig {
        trains_biases: trains_biases(map)?,
        targets: targets(map, saved)?,
        base_model: string("base_model_name_or_path").unwrap_or_default(),
        revision: string("revision"),
        head,
    })
}

/// The configuration as PEFT reads it.
pub(super) fn write(config: &AdapterConfig) -> Value {
    let t = &config.targets;
    let names = |names: &Names| match names {
        Names::List(list) => json!(list),
        Names::Regex(text) => json!(text),
        Names::AllLinear => json!(ALL_LINEAR),
    };
    let number = |x: f64| {
        if x.fract() == 0.0 {
            json!(x as i64)
        } else {
            json!(x)
        }
    };
    let some = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    json!({
        "peft_type": "LORA",
        "task_type": match config.head { Head::CausalLm => "CAUSAL_LM", Head::Score => "SEQ_CLS" },
        "base_model_name_or_path": config.base_model,
        "revision": config.revision,
        "inference_mode": true,
        "r": t.rank,
        "lora_alpha": number(t.alpha),
        "lora_dropout": 0.0,
        "target_modules": names(&t.names),
        "exclude_modules": t.exclude.as_ref().map_or(Value::Null, names),
        "modules_to_save": some(&t.saved),
        "bias": if config.trains_biases { "all" } else { "none" },
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": t.rslora,
        "use_dora": false,
        "layers_to_transform": if t.layers.is_empty() { Value::Null } else { json!(t.layers) },
        "layers_pattern": some(&t.layers_pattern),
        "rank_pattern": t.ranks.iter().map(|(k, r)| (k.clone(), json!(r))).collect::<Map<_, _>>(),
        "alpha_pattern": t.alphas.iter().map(|(k, a)| (k.clone(), number(*a))).collect::<Map<_, _>>(),
    })
}

const ALL_LINEAR: &str = "all-linear";

fn fail<T>(message: impl std::fmt::Display) -> Result<T> {
    Err(Error::user(message))
}

/// Other methods than LoRA, and other programs' adapters.
fn refuse_other_kinds(map: &Map<String, Value>) -> Result<()> {
    match map.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => Ok(()),
        Some(Value::String(kind)) => {
            let prompts = [
                "PROMPT_TUNING",
                "MULTITASK_PROMPT_TUNING",
                "P_TUNING",
                "PREFIX_TUNING",
                "ADAPTION_PROMPT",
                "CPT",
            ];
            let way = if prompts.contains(&kind.as_str()) {
                "It cannot be merged into a model either; train a LoRA adapter"
            } else {
                MERGE
            };
            fail(format!("peft_type is {kind:?}; only \"LORA\" is read. {way}"))
        }
        None | Some(Value::Null)
            if map.contains_key("lora_parameters") || map.contains_key("fine_tune_type") =>
        {
            fail(
                "this is an adapter of MLX (mlx-lm), not of PEFT. Merge it there (mlx_lm.fuse --model BASE --adapter-path \
             DIR) and pass the result as the model",
            )
        }
        other => fail(format!(
            "peft_type is {}; a PEFT adapter of type \"LORA\" is needed",
            other.map_or_else(|| "missing".to_string(), shown)
        )),
    }
}

/// Whether a value means "not set".
fn unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(m) => m.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}

fn refuse_options(map: &Map<String, Value>) -> Result<()> {
    let mut unknown = Vec::new();
    for (key, value) in map.iter().filter(|(_, v)| !unset(v)) {
        match KEYS.iter().find(|(name, _)| name == key) {
            Some((_, Refused(why))) => {
                return fail(format!(
                    "{key} = {} is not supported: {why}. {MERGE}",
                    shown(value)
                ));
            }
            Some((_, Unmergeable(why))) => {
                return fail(format!(
                    "{key} = {} is not supported: {why}. PEFT cannot merge such an adapter either; train one without it",
                    shown(value)
                ));
            }
            Some((_, Read | Inert)) => {}
            None => unknown.push(key.as_str()),
        }
    }
    if !unknown.is_empty() {
        warn_once(format!(
            "the adapter's configuration has settings that PEFT 0.21 does not know; they are ignored, as PEFT ignores \
             them: {}",
            some_of(&unknown)
        ));
    }
    Ok(())
}

/// The first names of a list, and how many more there are.
pub(super) fn some_of(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    const LONG: usize = 100;
    let one = |name: &str| match name.char_indices().nth(LONG) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_string(),
    };
    let first: Vec<String> = names.iter().take(SHOWN).map(|n| one(n.as_ref())).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Refuses initialisations that change the base weights whenever PEFT loads the adapter.
fn initialisation(value: Option<&Value>) -> Result<()> {
    let kind = match value {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(()),
        Some(Value::String(kind)) => kind.to_ascii_lowercase(),
        Some(other) => {
            return fail(format!(
                "init_lora_weights is {}; true, false or a name is needed",
                shown(other)
            ));
        }
    };
    let shown = format!("init_lora_weights = {kind:?}");
    match kind.as_str() {
        "gaussian" | "eva" | "orthogonal" | "mica" => Ok(()),
        "lora_ga" => {
            warn_once(format!(
                "{shown}: LoRA-GA changed the base weights when training began. The adapter is applied to unchanged \
                 ones, as PEFT applies it; the numbers are those of training only if it was converted \
                 (path_initial_model_for_weight_conversion)"
            ));
            Ok(())
        }
        "olora" | "loftq" => changed_base(&shown),
        _ if kind.starts_with("pissa") || kind.starts_with("corda") => changed_base(&shown),
        _ => fail(format!("{shown}: PEFT 0.21 knows no such initialisation")),
    }
}

fn changed_base<T>(shown: &str) -> Result<T> {
    fail(format!(
        "{shown} is not supported: it changes the base weights before the adapter is applied. Convert the adapter to \
         plain LoRA in PEFT (save_pretrained with path_initial_model_for_weight_conversion, the adapter as it was \
         before training), or merge it (merge_and_unload, then save_pretrained) and pass the result as the model"
    ))
}

fn trains_biases(map: &Map<String, Value>) -> Result<bool> {
    match map.get("bias") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(kind)) if kind == "none" => Ok(false),
        Some(Value::String(kind)) if kind == "all" || kind == "lora_only" => Ok(true),
        Some(other) => fail(format!(
            "bias is {}; \"none\", \"all\" or \"lora_only\" is needed",
            shown(other)
        )),
    }
}

fn targets(map: &Map<String, Value>, saved: Vec<String>) -> Result<Targets> {
    let names = match names(map, "target_modules")? {
        Some(Names::List(list)) if list.is_empty() => {
            return fail("target_modules is empty: the adapter changes nothing");
        }
        Some(Names::Regex(text)) if text.eq_ignore_ascii_case(ALL_LINEAR) => Names::AllLinear,
        Some(names) => names,
        // PEFT's choice for Llama, Mistral, Qwen2 and Qwen3.
        None => Names::List(vec!["q_proj".into(), "v_proj".into()]),
    };
    let layers = match map.get("layers_to_transform") {
        None | Some(Value::Null) => Vec::new(),
        Some(one @ Value::Number(_)) => vec![layer(one)?],
        Some(Value::Array(list)) => {
            ADAPTER_NAMES.check("layers_to_transform", list.len())?;
            list.iter().map(layer).collect::<Result<_>>()?
        }
        Some(other) => {
            return fail(format!(
                "layers_to_transform is {}; block numbers are needed",
                shown(other)
            ));
        }
    };
    let layers_pattern = match map.get("layers_pattern") {
        Some(Value::String(one)) if one.is_empty() => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => strings(map, "layers_pattern")?,
    };
    let set = |key: &str| map.get(key).is_some_and(|v| !v.is_null());
    for key in ["layers_to_transform", "layers_pattern"] {
        if !matches!(names, Names::List(_)) && set(key) {
            return fail(format!(
                "{key} cannot stand beside a target_modules that is no list; PEFT refuses it too"
            ));
        }
    }
    if !layers_pattern.is_empty() && !set("layers_to_transform") {
        return fail("layers_pattern needs layers_to_transform; PEFT refuses it too");
    }
    Ok(Targets {
        names,
        exclude: names_or_none(map)?,
        layers,
        layers_pattern,
        saved,
        rank: rank("r", map.get("r").unwrap_or(&json!(DEFAULT)))?,
        alpha: alpha("lora_alpha", map.get("lora_alpha").unwrap_or(&json!(DEFAULT)))?,
        ranks: pattern(map, "rank_pattern", rank)?,
        alphas: pattern(map, "alpha_pattern", alpha)?,
        rslora: match map.get("use_rslora") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(on)) => *on,
            Some(other) => return fail(format!("use_rslora is {}; true or false is needed", shown(other))),
        },
    })
}

/// PEFT's r and lora_alpha where a file gives none.
const DEFAULT: u64 = 8;

fn names_or_none(map: &Map<String, Value>) -> Result<Option<Names>> {
    Ok(names(map, "exclude_modules")?.filter(|names| match names {
        Names::List(list) => !list.is_empty(),
        Names::Regex(text) => !text.is_empty(),
        Names::AllLinear => true,
    }))
}

fn names(map: &Map<String, Value>, key: &str) -> Result<Option<Names>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Names::Regex(text.clone()))),
        Some(_) => strings(map, key).map(|list| Some(Names::List(list))),
    }
}

/// A list of strings; absent and null are empty.
fn strings(map: &Map<String, Value>, key: &str) -> Result<Vec<String>> {
    let list = match map.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return fail(format!(
                "{key} is {}; a list of module names is needed",
                shown(other)
            ));
        }
    };
    ADAPTER_NAMES.check(key, list.len())?;
    let name = |v: &Value| match v.as_str() {
        Some(name) => Ok(name.to_string()),
        None => fail(format!("{key} holds {}; module names are needed", shown(v))),
    };
    list.iter().map(name).collect()
}

fn layer(value: &Value) -> Result<i64> {
    match value.as_i64() {
        Some(layer) => Ok(layer),
        None => fail(format!(
            "layers_to_transform holds {}; block numbers are needed",
            shown(value)
        )),
    }
}

fn rank(key: &str, value: &Value) -> Result<usize> {
    match value.as_u64().filter(|r| (1..=1 << 16).contains(r)) {
        Some(rank) => Ok(rank as usize),
        None => fail(format!(
            "{key} is {}; a rank from 1 to {} is needed",
            shown(value),
            1 << 16
        )),
    }
}

fn alpha(key: &str, value: &Value) -> Result<f64> {
    match value
        .as_f64()
        .filter(|a| a.is_finite() && python_constant(value).is_none())
    {
        Some(alpha) => Ok(alpha),
        None => fail(format!("{key} is {}; a number is needed", shown(value))),
    }
}

/// A map from patterns to values.
fn pattern<T>(
    map: &Map<String, Value>,
    key: &str,
    read: fn(&str, &Value) -> Result<T>,
) -> Result<Vec<(String, T)>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(entries)) => {
            let one = |(name, value): (&String, &Value)| {
                Ok((name.clone(), read(&format!("{key}: {name:?}"), value)?))
            };
            entries.iter().map(one).collect()
        }
        Some(other) => fail(format!("{key} is {}; an object is needed", shown(other))),
    }
}

#[cfg(test)]
#[path = "peft_config_tests.rs"]
mod tests;
