//! The pools on disk: what was sampled, as token ids, and what it was worth.
//!
//! | file | what it holds |
//! |---|---|
//! | `settings.json` | [`SamplesMeta`]; a resumed run must have the same |
//! | `samples.jsonl` | one [`PromptSamples`] a line, in the order of the prompts; appended prompt by prompt |
//! | `gram/prompt_N.safetensors` | the Gram matrix of prompt N, tensor `gram` (distinct, distinct) f32 |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gram::Gram;
use crate::config::MatmulPrecision;
use crate::error::{Context, Error, Result};
use crate::eval::weights;
use crate::file::limits::SETTINGS_FILE;
use crate::file::{dirs, open};
use crate::model::params::Model;
use crate::model::save::{write_atomic, write_safetensors};
use crate::model::store::{HostTensor, WeightStore};
use crate::rollout::{Job, SampleConfig, Sampler};
use crate::run::{Dir, kinds};
use crate::tensor::DType;
use crate::text::journal;

/// What decides the samples and their gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplesMeta {
    /// The policy.
    pub model: String,
    /// Its LoRA adapter.
    pub adapter: Option<String>,
    /// The judge.
    pub reward_model: String,
    /// The judge's LoRA adapter.
    pub reward_adapter: Option<String>,
    /// Hash of the prompts' keys in order (hexadecimal SHA-256).
    pub prompts: String,
    /// Number of prompts.
    pub num_prompts: usize,
    /// Responses a prompt, n.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
    /// Most tokens in a response.
    pub max_completion_length: usize,
    /// Whether chat templates were left aside.
    pub raw: bool,
    /// The date that chat templates saw.
    pub template_date: String,
    /// How exact matrix products are.
    #[serde(default, skip_serializing_if = "MatmulPrecision::is_highest")]
    pub matmul_precision: MatmulPrecision,
    /// Element type asked for the policy.
    pub base_dtype: Option<String>,
    /// Element type asked for the judge.
    pub reward_dtype: Option<String>,
    /// SHA-256 of the weights that were read from local files, by field; see [`Hashes`](crate::eval::weights::Hashes). Samples
    /// of older versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights_sha256: BTreeMap<String, String>,
}

impl SamplesMeta {
    /// What the fields that name weights say.
    pub fn named(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("model", Some(&self.model)),
            ("adapter", self.adapter.as_deref()),
            ("reward_model", Some(&self.reward_model)),
            ("reward_adapter", self.reward_adapter.as_deref()),
        ]
    }
}

/// The responses to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptSamples {
    /// The prompt's number, from 0.
    pub prompt_index: usize,
    /// The prompt as the policy read it.
    pub prompt: Vec<u32>,
    /// The responses' token ids, stop tokens included (n,).
    pub responses: Vec<Vec<u32>>,
    /// Their rewards (n,).
    pub rewards: Vec<f64>,
}

/// A directory of samples and Gram matrices.
#[derive(Debug, Clone)]
pub struct Store {
    held: Dir,
    dir: PathBuf,
    /// The settings.
    pub meta: SamplesMeta,
    /// What is there so far, in order.
    pub pools: Vec<PromptSamples>,
}

impl Store {
    /// Starts or resumes in `dir`. With `resume`, what is there must have been made with the same settings; a torn last
    /// line is cut off. With `overwrite`, it is removed first.
    ///
    /// # Errors
    /// A user error when there is something and neither was asked for, or the settings differ (naming the first one); an
    /// I/O error.
    pub fn open(dir: &Path, meta: SamplesMeta, resume: bool, overwrite: bool) -> Result<Self> {
        let held = Dir::hold(dir, &kinds::ALIGNMENT)?;
        held.check(overwrite)?;
        let settings = dir.join("settings.json");
        let mut store = Self {
            held,
            dir: dir.to_path_buf(),
            meta,
            pools: Vec::new(),
        };
        if overwrite || !settings.exists() {
            // Samples are what took the time, also where their settings have gone.
            if !overwrite && fs::metadata(store.samples()).is_ok_and(|m| m.len() > 0) {
                return Err(Error::user(format!(
                    "{}: samples without their settings.json; put it back, give --overwrite to replace them, or another --output",
                    store.samples().display()
                )));
            }
            store.held.clear()?;
            let json = serde_json::to_vec_pretty(&store.meta).map_err(Error::internal)?;
            write_atomic(&settings, &json)?;
            return Ok(store);
        }
        if !resume {
            return Err(Error::user(format!(
                "--output {} holds samples already: give --resume to use them, --overwrite to replace them, or another \
                 directory",
                dir.display()
            )));
        }
        let text = open::read(&settings, &SETTINGS_FILE)?;
        let found: SamplesMeta = serde_json::from_slice(&text)
            .map_err(Error::user)
            .context(settings.display())?;
        let both = [&found, &store.meta].map(|m| (m, &m.weights_sha256));
        weights::continues("these samples were", both, &[]).context(settings.display())?;
        store.held.begin()?;
        store.read()?;
        Ok(store)
    }

    fn samples(&self) -> PathBuf {
        self.dir.join("samples.jsonl")
    }

    fn gram_path(&self, prompt: usize) -> PathBuf {
        self.dir.join("gram").join(format!("prompt_{prompt}.safetensors"))
    }

    fn read(&mut self) -> Result<()> {
        let path = self.samples();
        let n = self.meta.samples;
        for (at, pool) in journal::recover::<PromptSamples>(&path)?.into_iter().enumerate() {
            if (pool.prompt_index, pool.responses.len(), pool.rewards.len()) != (at, n, n) {
                return Err(Error::user(format!(
                    "{}:{}: expected prompt {at} with {n} responses and rewards; run again with --overwrite",
                    path.display(),
                    at + 1
                )));
            }
            self.pools.push(pool);
        }
        Ok(())
    }

    /// Appends the next prompt's pool and syncs it to the disk.
    ///
    /// # Errors
    /// It is not the next one, or an I/O error.
    pub fn push(&mut self, pool: PromptSamples) -> Result<()> {
        if pool.prompt_index != self.pools.len() {
            return Err(Error::internal("pools are stored in order"));
        }
        journal::append(&self.samples(), &pool)?;
        self.pools.push(pool);
        Ok(())
    }

    /// The Gram matrix of a prompt, if it is there.
    ///
    /// # Errors
    /// The file is damaged or of another pool.
    pub fn gram(&self, prompt: usize) -> Result<Option<Gram>> {
        let path = self.gram_path(prompt);
        if !path.exists() {
            return Ok(None);
        }
        let values = WeightStore::open_safetensors(&path)?.get("gram")?.to_f32();
        Gram::new(&self.pools[prompt].responses, values)
            .context(path.display())
            .map(Some)
    }

    /// Keeps the Gram matrix of a prompt.
    ///
    /// # Errors
    /// An I/O error.
    pub fn keep(&self, prompt: usize, gram: &Gram) -> Result<()> {
        let path = self.gram_path(prompt);
        dirs::make(&self.dir.join("gram"))?;
        let tensor = HostTensor {
            dtype: DType::F32,
            shape: vec![gram.distinct, gram.distinct],
            bytes: Cow::Borrowed(bytemuck::cast_slice(&gram.values)),
        };
        write_safetensors(&path, &[("gram".to_string(), tensor)])
    }
}

/// A policy that draws pools.
pub struct Draw<'a> {
    /// The policy.
    pub model: &'a Model,
    /// Its sampler.
    pub sampler: Sampler,
    /// Temperature 1, the stop tokens, the seed.
    pub config: SampleConfig,
}

impl Draw<'_> {
    /// Token ids of `n` responses to one prompt; sample i of prompt p has the same random numbers in every run.
    ///
    /// # Errors
    /// As [`Sampler::generate`].
    pub fn responses(&mut self, prompt: &[u32], prompt_index: usize, n: usize) -> Result<Vec<Vec<u32>>> {
        let job = Job {
            tokens: prompt.to_vec(),
            prompt: prompt_index as u64,
            samples: n,
            first: 0,
        };
        let drawn = self
            .sampler
            .generate(self.model, std::slice::from_ref(&job), &self.config)?;
        Ok(drawn.into_iter().flatten().map(|c| c.tokens).collect())
    }
}
