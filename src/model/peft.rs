//! LoRA adapters in PEFT's files: adapter_config.json and adapter_model.safetensors (LoRA: arXiv 2106.09685).

use std::path::Path;

use serde_json::{Map, Value, json};

use super::save::AtomicDir;
use super::spec::{Head, ModelSpec, Proj};
use super::store::{HostTensor, WeightStore};
use crate::error::{Context, Error, Result};
use crate::run::checksums::check_model;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the base model's names.
const PREFIX: &str = "base_model.model.";

/// What adapter_config.json says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank r.
    pub rank: usize,
    /// α: the update is (α/r)·B·A.
    pub alpha: f64,
    /// The linear layers that are adapted, in every block.
    pub target_modules: Vec<Proj>,
    /// The base model: path, hub id or embedded name.
    pub base_model: String,
    /// The base model's commit.
    pub revision: Option<String>,
    /// The base model's head: PEFT's task type CAUSAL_LM or SEQ_CLS.
    pub head: Head,
    /// Whether the adapter carries a trained `score.weight` (`modules_to_save: ["score"]`).
    pub saves_score: bool,
}

impl AdapterConfig {
    /// α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// The tensors the adapter must have, by PEFT's names, with their shapes: A (r, in) and B (out, r) of every target
    /// in every block, then `score.weight` (1, C) where it is saved.
    pub fn tensors(&self, spec: &ModelSpec) -> Vec<(String, Vec<usize>)> {
        let mut out = Vec::new();
        for layer in 0..spec.num_layers {
            for proj in Proj::ALL.into_iter().filter(|p| self.target_modules.contains(p)) {
                let (rows, cols) = spec.proj_dims(proj);
                out.push((lora_name(layer, proj, 'A'), vec![self.rank, cols]));
                out.push((lora_name(layer, proj, 'B'), vec![rows, self.rank]));
            }
        }
        if self.saves_score {
            out.push((score_name(), vec![1, spec.hidden_size]));
        }
        out
    }

    fn to_json(&self) -> Value {
        let modules: Vec<_> = self.target_modules.iter().map(|p| p.name()).collect();
        json!({
            "peft_type": "LORA",
            "task_type": match self.head { Head::CausalLm => "CAUSAL_LM", Head::Score => "SEQ_CLS" },
            "base_model_name_or_path": self.base_model,
            "revision": self.revision,
            "inference_mode": true,
            "r": self.rank,
            "lora_alpha": if self.alpha.fract() == 0.0 { json!(self.alpha as i64) } else { json!(self.alpha) },
            "lora_dropout": 0.0,
            "target_modules": modules,
            "modules_to_save": if self.saves_score { json!(["score"]) } else { Value::Null },
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "use_rslora": false,
            "use_dora": false,
            "layers_to_transform": null,
            "layers_pattern": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        })
    }

    /// Reads adapter_config.json; `file` begins messages.
    ///
    /// # Errors
    /// A user error for malformed JSON, another method than LoRA, or an option this program does not implement.
    pub fn from_json(bytes: &[u8], file: &str) -> Result<Self> {
        parse(bytes).context(file)
    }
}

/// PEFT's name of an A or B matrix: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn lora_name(layer: usize, proj: Proj, matrix: char) -> String {
    format!("{PREFIX}{}.lora_{matrix}.weight", proj.path(layer))
}

/// PEFT's name of a trained score head.
pub fn score_name() -> String {
    format!("{PREFIX}score.weight")
}

/// A loaded adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What its configuration says.
    pub config: AdapterConfig,
    /// Its tensors by PEFT's names, in the order of [`AdapterConfig::tensors`].
    pub tensors: Vec<(String, HostTensor<'static>)>,
}

/// Writes an adapter directory whole or not at all; an older one at `dir` is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn write_adapter(dir: &Path, config: &AdapterConfig, tensors: &[(String, HostTensor)]) -> Result<()> {
    let out = AtomicDir::create(dir)?;
    write_adapter_into(&out, config, tensors)?;
    out.commit()
}

/// Writes an adapter's two files into a checkpoint that is being written.
///
/// # Errors
/// When they cannot be written.
pub fn write_adapter_into(
    out: &AtomicDir,
    config: &AdapterConfig,
    tensors: &[(String, HostTensor)],
) -> Result<()> {
    let text = serde_json::to_string_pretty(&config.to_json()).map_err(Error::internal)?;
    out.write_safetensors(WEIGHTS, tensors)?;
    out.write(CONFIG, text.as_bytes())
}

/// Reads an adapter's configuration alone.
///
/// # Errors
/// A user error when the file is missing, malformed, or asks for what this program does not implement.
pub fn read_config(dir: &Path) -> Result<AdapterConfig> {
    check_model(dir)?;
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Err(Error::user(format!(
            "{}: no {CONFIG} there; --adapter takes a PEFT adapter directory (a checkpoint's, for example)",
            dir.display()
        )));
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    AdapterConfig::from_json(&bytes, &path.display().to_string())
}

/// Reads and checks an adapter for a base model.
///
/// # Errors
/// A user error when files are missing, options are not supported, or tensors are missing, superfluous or of other
/// shapes than the base model's.
pub fn read_adapter(dir: &Path, spec: &ModelSpec) -> Result<Adapter> {
    let config = read_config(dir)?;
    if config.saves_score && spec.head != Head::Score {
        return Err(Error::user(
            "the adapter carries a score head and the base model is used as a language model",
        ))
        .context(dir.display());
    }
    let store = WeightStore::open_safetensors(&dir.join(WEIGHTS))?;
    let mut tensors = Vec::new();
    for (name, want) in config.tensors(spec) {
        let tensor = store.get(&name)?;
        if tensor.shape != want {
            return Err(Error::user(format!(
                "tensor {name} has shape {:?}, rank {} on this base model needs {want:?}; the adapter is for another model",
                tensor.shape, config.rank
            )))
            .context(dir.display());
        }
        tensors.push((name, tensor.into_owned()));
    }
    if let Some(extra) = store
        .names()
        .find(|n| !tensors.iter().any(|(known, _)| known == n))
    {
        return Err(Error::user(format!(
            "tensor {extra} does not belong to {CONFIG}'s targets on this base model"
        )))
        .context(dir.display());
    }
    Ok(Adapter { config, tensors })
}

/// Options whose presence changes the computation, and the only values implemented.
fn refuse_options(map: &Map<String, Value>) -> Result<()> {
    let inert = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Object(m) => m.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    let options = [
        "use_rslora",
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layers_pattern",
        "layer_replication",
        "exclude_modules",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "velora_config",
        "monteclora_config",
    ];
    for option in options {
        if let Some(value) = map.get(option).filter(|v| !inert(v)) {
            return Err(Error::user(format!(
                "{option} = {value} is not supported; plain LoRA adapters are"
            )));
        }
    }
    match map.get("bias").and_then(Value::as_str) {
        None | Some("none") => Ok(()),
        Some(other) => Err(Error::user(format!(
            "bias = {other:?} is not supported; only \"none\" is"
        ))),
    }
}

fn parse(bytes: &[u8]) -> Result<AdapterConfig> {
    let map: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|e| Error::user(format!("not a valid JSON object: {e}")))?;
    match map.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        other => {
            return Err(Error::user(format!(
                "peft_type is {other:?}; only \"LORA\" is supported"
            )));
        }
    }
    refuse_options(&map)?;
    let Some(rank) = map
        .get("r")
        .and_then(Value::as_u64)
        .filter(|r| (1..=1 << 16).contains(r))
    else {
        return Err(Error::user(format!(
            "r is {:?}; a rank of at least 1 is needed",
            map.get("r")
        )));
    };
    let Some(alpha) = map
        .get("lora_alpha")
        .and_then(Value::as_f64)
        .filter(|a| a.is_finite())
    else {
        return Err(Error::user("lora_alpha is missing or not a number"));
    };
    let head = match map.get("task_type").and_then(Value::as_str) {
        None | Some("CAUSAL_LM") => Head::CausalLm,
        Some("SEQ_CLS") => Head::Score,
        Some(other) => {
            return Err(Error::user(format!(
                "task_type {other:?} is not supported; CAUSAL_LM and SEQ_CLS are"
            )));
        }
    };
    let saves_score = match map.get("modules_to_save") {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) if list.is_empty() => false,
        // PEFT adds "classifier" and "score" for every SEQ_CLS adapter; the classes here only have "score".
        Some(Value::Array(list))
            if list
                .iter()
                .all(|m| m == "score" || (m == "classifier" && list.len() > 1)) =>
        {
            true
        }
        Some(other) => {
            return Err(Error::user(format!(
                "modules_to_save = {other} is not supported; null and [\"score\"] are"
            )));
        }
    };
    let string = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_string);
    Ok(AdapterConfig {
        rank: rank as usize,
        alpha,
        target_modules: targets(map.get("target_modules"))?,
        base_model: string("base_model_name_or_path").unwrap_or_default(),
        revision: string("revision"),
        head,
        saves_score,
    })
}

fn targets(value: Option<&Value>) -> Result<Vec<Proj>> {
    let all: Vec<_> = Proj::ALL.iter().map(|p| p.name()).collect();
    let Some(Value::Array(list)) = value else {
        return Err(Error::user(format!(
            "target_modules is {}; a list from {} is needed",
            value.unwrap_or(&Value::Null),
            all.join(", ")
        )));
    };
    let mut found = Vec::new();
    for item in list {
        match item.as_str().and_then(Proj::from_name) {
            Some(proj) => found.push(proj),
            None => {
                return Err(Error::user(format!(
                    "target_modules names {item}; supported: {}",
                    all.join(", ")
                )));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(Error::user(
            "target_modules is empty: the adapter changes nothing",
        ));
    }
    Ok(found)
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
