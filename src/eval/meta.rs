//! The settings of an evaluation: `eval.json`, and when two of them are of the same evaluation.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::StoredEval;
use super::weights;
use crate::config::resume::{Change, changes};
use crate::config::{FloatDtype, MatmulPrecision, range};
use crate::error::{Context, Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;

/// The version of the files that this program writes.
pub const VERSION: u32 = 1;

/// Which judge's rewards are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Judge {
    /// `--reward-model`.
    #[default]
    Main,
    /// `--also-reward`: held out, never trained on.
    Also,
}

/// The settings of an evaluation: the contents of `eval.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalMeta {
    /// [`VERSION`].
    pub version: u32,
    /// The policy.
    pub model: String,
    /// Its LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The judge.
    pub reward_model: String,
    /// The judge's LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_adapter: Option<String>,
    /// The second judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_reward: Option<String>,
    /// The second judge's LoRA adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_reward_adapter: Option<String>,
    /// Where the prompts came from.
    pub prompts_file: String,
    /// SHA-256 of `prompts.jsonl`.
    pub prompts_sha256: String,
    /// Number of prompts.
    pub num_prompts: usize,
    /// Responses sampled for each prompt.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Sampling temperature.
    pub temperature: f32,
    /// Nucleus filter; 1 is off.
    pub top_p: f32,
    /// Top-k filter; 0 is off.
    pub top_k: u32,
    /// Min-p filter; 0 is off.
    pub min_p: f32,
    /// Most tokens in a response.
    pub max_completion_length: usize,
    /// Whether chat templates were left aside.
    #[serde(default)]
    pub raw: bool,
    /// The date that chat templates saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_date: Option<String>,
    /// Element type of the policy's matrices; `None` where blocks are as the file stores them (and in evaluations of older
    /// versions where none was asked for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_dtype: Option<String>,
    /// What matrix products of the policy and its judges rounded.
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_highest")]
    pub matmul_precision: MatmulPrecision,
    /// How sampling stored keys and values.
    #[serde(default, skip_serializing_if = "FloatDtype::is_float32")]
    pub kv_cache_dtype: FloatDtype,
    /// Element type of the judge's matrices, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_dtype: Option<String>,
    /// Element type of the second judge's matrices, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also_reward_dtype: Option<String>,
    /// Training step of the checkpoint, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The training run that the checkpoint belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunMeta>,
    /// SHA-256 of the weights that were read from local files, by the field that names them (`model`, `adapter`,
    /// `reward_model` …): a run may be trained again under the same name. See [`Hashes`](super::weights::Hashes); evaluations of
    /// older versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights_sha256: BTreeMap<String, String>,
}

/// What tables say of the run that trained a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMeta {
    /// The run's directory.
    pub dir: String,
    /// Which checkpoint was taken: `best`, `last` or `step_N`.
    pub checkpoint: String,
    /// The advantage rule.
    pub advantage: String,
    /// Responses a prompt and step (m).
    pub num_generations: usize,
    /// Prompts a step.
    pub prompts_per_step: usize,
    /// The deployment budget N that the rule was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bon: Option<u64>,
    /// The tail share α that the rule was told.
    pub alpha: String,
    /// The run's seed.
    pub seed: u64,
}

/// How the settings of an evaluation differ from those asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// The weights that a field names are not those that were evaluated: they were changed in place.
    Weights {
        /// The field, such as `adapter`.
        field: &'static str,
        /// What it names.
        name: String,
    },
    /// Another setting.
    Setting(Change),
}

/// The fields that name weights.
pub(super) const NAMES: [&str; 6] = [
    "model",
    "adapter",
    "reward_model",
    "reward_adapter",
    "also_reward",
    "also_reward_adapter",
];
/// The fields that may be left open: what was settled at the beginning then holds.
const OPEN: [&str; 3] = ["base_dtype", "reward_dtype", "also_reward_dtype"];
/// The fields that say which policy it is.
const POLICY: [&str; 4] = ["model", "adapter", "step", "run"];

impl Difference {
    /// Whether it is another policy, or another state of the same, that was evaluated.
    pub fn is_of_the_policy(&self) -> bool {
        match self {
            Self::Weights { field, .. } => POLICY.contains(field),
            Self::Setting(change) => POLICY.contains(&change.name.as_str()),
        }
    }
}

impl EvalMeta {
    /// Reads `eval.json` of an evaluation.
    ///
    /// # Errors
    /// A user error when `dir` holds no evaluation, or it is malformed or of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = StoredEval::meta_path(dir);
        if !path.exists() {
            return Err(Error::user(format!(
                "{} holds no evaluation (there is no eval.json in it); make one with `tea-wgpu eval --output {}`",
                dir.display(),
                dir.display()
            )));
        }
        let text = read_text(&path, &SETTINGS_FILE)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(Error::user)
            .context(path.display())?;
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            return Err(Error::user(format!(
                "{}: version {} of an evaluation; this program reads version {VERSION}",
                path.display(),
                version.map_or("?".to_string(), |v| v.to_string())
            )));
        }
        let meta: EvalMeta = serde_json::from_value(value)
            .map_err(Error::user)
            .context(path.display())?;
        if meta.samples == 0 || meta.num_prompts == 0 {
            return Err(Error::user(format!(
                "{}: an evaluation needs at least one prompt and one sample",
                path.display()
            )));
        }
        // Evaluations of older versions have seeds of 64 bits, which nothing is allocated by.
        let sizes = Self {
            seed: 0,
            ..meta.clone()
        };
        range::check_settings(&sizes).context(path.display())?;
        Ok(meta)
    }

    /// What the fields of [`NAMES`] name, in their order.
    pub(super) fn named(&self) -> [Option<&str>; 6] {
        [
            Some(&self.model),
            self.adapter.as_deref(),
            Some(&self.reward_model),
            self.reward_adapter.as_deref(),
            self.also_reward.as_deref(),
            self.also_reward_adapter.as_deref(),
        ]
    }

    /// The hash of what a field names, where it is known.
    pub fn sha256(&self, field: &str) -> Option<&str> {
        self.weights_sha256.get(field).map(String::as_str)
    }

    /// The first difference between these settings of an evaluation and those asked for `now`; weights under the same
    /// name come first.
    ///
    /// Where files lie may change: prompts are compared by their hash, and so are weights where both hashes are known.
    /// Element types that are open now are as they were.
    ///
    /// # Errors
    /// Never.
    pub fn difference(&self, now: &Self) -> Result<Option<Difference>> {
        let same = |field: &str| self.sha256(field).zip(now.sha256(field)).map(|(a, b)| a == b);
        for ((field, was), is) in NAMES.into_iter().zip(self.named()).zip(now.named()) {
            if let (Some(name), true, Some(false)) = (is, was == is, same(field)) {
                let name = name.to_string();
                return Ok(Some(Difference::Weights { field, name }));
            }
        }
        let changed = weights::changed(&self.weights_sha256, &now.weights_sha256, &NAMES);
        // Other weights under another name are another setting.
        let beside = changed.filter(|field| same(field) != Some(false));
        if let Some(field) = beside {
            let mut named = NAMES.into_iter().zip(now.named());
            let name = named.find_map(|(f, name)| name.filter(|_| f == field));
            let name = name.unwrap_or_default().to_string();
            return Ok(Some(Difference::Weights { field, name }));
        }
        let policy = if now.adapter.is_some() { "adapter" } else { "model" };
        let placeless = |meta: &Self| {
            let mut meta = meta.clone();
            if let Some(run) = meta.run.as_mut().filter(|_| same(policy) == Some(true)) {
                run.dir.clear();
                run.checkpoint.clear();
            }
            meta
        };
        let mut aside = vec!["prompts_file", "weights_sha256"];
        let types = [&now.base_dtype, &now.reward_dtype, &now.also_reward_dtype];
        aside.extend(
            OPEN.into_iter()
                .zip(types)
                .filter_map(|(f, t)| t.is_none().then_some(f)),
        );
        let named = NAMES.into_iter().zip(self.named()).zip(now.named());
        let moved = |((f, was), is): ((&'static str, Option<&str>), Option<&str>)| {
            (was.is_some() && is.is_some() && same(f) == Some(true)).then_some(f)
        };
        aside.extend(named.filter_map(moved));
        let mut changes = changes(&placeless(self), &placeless(now))?.into_iter();
        let found = changes.find(|c| !aside.contains(&c.name.as_str()));
        Ok(found.map(Difference::Setting))
    }
}
