//! From a name on the command line to a model on the device: files, specification, tokenizer, weights, adapter.

use std::path::Path;
use std::sync::Arc;

use super::gguf::Gguf;
use super::params::{Model, Param};
use super::peft::{self, Adapter, AdapterConfig};
use super::settle;
use super::shapes::{Named, RANDOM};
use super::source::{ModelFiles, resolve};
use super::spec::{Head, ModelSpec, Role, TensorSpec};
use super::store::WeightStore;
use super::stream::{Ring, Streamed};
use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::kernels::attention::check_head_dim;
use crate::kernels::weight::Weight;
use crate::report::Progress;
use crate::tensor::DType;
use crate::text::{Count, GgufVocab, HfFiles, Tokenizer};

/// A model's files with their weights opened and checked, nothing on the device yet.
#[derive(Debug)]
pub struct Source {
    /// What the user called it.
    pub name: String,
    /// Where its files are.
    pub files: ModelFiles,
    /// Sizes and options.
    pub spec: ModelSpec,
    /// Its weights.
    pub store: Arc<WeightStore>,
}

/// The element types `--base-dtype` and `--reward-dtype` take.
pub const LOAD_DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0];

/// Models whose weights take less than this in f32 are converted to f32 unless a type is asked for.
const SMALL: u64 = 2_000_000_000;

impl Source {
    /// Finds a model, reads its specification, and checks that every weight it needs is there.
    ///
    /// # Errors
    /// As [`resolve`], [`ModelFiles::spec`], [`check_head_dim`], [`WeightStore::open`] and
    /// [`WeightStore::check`]; the configuration and the weights contradict each other.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_as(name, None)
    }

    /// As [`Source::open`] for a model that must have a vocabulary head.
    ///
    /// # Errors
    /// As [`Source::open`]; the model is a reward model.
    pub fn open_causal(name: &str) -> Result<Self> {
        let source = Self::open(name)?;
        match source.spec.head {
            Head::CausalLm => Ok(source),
            Head::Score => Err(Error::user(format!(
                "{name}: this is a reward model (one score a sequence); it has no vocabulary head to sample or score tokens with. \
                 Pass a language model as --model"
            ))),
        }
    }

    /// As [`Source::open`] for a model that is given a classification head: its own, or one that an adapter brings or
    /// training starts.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open_with_score(name: &str) -> Result<Self> {
        Self::open_as(name, Some(Head::Score))
    }

    /// As [`Source::open_causal`] or [`Source::open_with_score`], for a plan alone: weights need not be there. "random:" and a shape
    /// ([`Named`]) stands for a model stored as bf16; a directory with nothing but config.json, for the model it describes.
    ///
    /// # Errors
    /// As these; an unknown shape.
    pub fn open_sizes(name: &str, head: Head) -> Result<Self> {
        if let Some(shape) = name.strip_prefix(RANDOM) {
            let named = Named::find(shape)?;
            let files = ModelFiles::Embedded {
                name: named.name,
                files: &[],
            };
            return Ok(Self::described(name, files, named.spec(), head, DType::BF16));
        }
        let files = resolve(name)?;
        if files.dir().is_some_and(|dir| !WeightStore::has_files(dir)) {
            let (spec, dtype) = (files.spec()?, files.stored_dtype()?);
            check_head_dim(spec.head_dim).context(name)?;
            return Ok(Self::described(name, files, spec, head, dtype));
        }
        match head {
            Head::CausalLm => Self::open_causal(name),
            Head::Score => Self::open_with_score(name),
        }
    }

    fn described(name: &str, files: ModelFiles, spec: ModelSpec, head: Head, dtype: DType) -> Self {
        let spec = spec.with_head(head);
        Self {
            name: name.to_string(),
            store: Arc::new(WeightStore::described(&spec, name, dtype)),
            files,
            spec,
        }
    }

    /// The element type of a tensor loaded as `dtype` (`None`: as it is stored), a matrix's.
    ///
    /// # Errors
    /// As [`WeightStore::info`].
    pub fn stored(&self, t: &TensorSpec, dtype: Option<DType>) -> Result<DType> {
        match (dtype, t.role) {
            (Some(dtype), _) => Ok(dtype),
            // A head that an adapter brings or training starts is not in the files.
            (None, Role::Score) => Ok(DType::F32),
            (None, _) => Ok(self.store.info(&t.name)?.0),
        }
    }

    fn open_as(name: &str, head: Option<Head>) -> Result<Self> {
        let files = resolve(name)?;
        let (mut spec, store) = settle::open(&files)?;
        store.check(&spec)?;
        if let Some(head) = head {
            spec = spec.with_head(head);
        }
        settle::warn_of_unused(&files, &spec, &store);
        Ok(Self {
            name: name.to_string(),
            files,
            spec,
            store: Arc::new(store),
        })
    }

    /// Whether the files hold a score head.
    pub fn has_score(&self) -> bool {
        self.store.contains("score.weight")
    }

    /// The model's tokenizer; its end tokens are added to the specification's.
    ///
    /// # Errors
    /// The model has no tokenizer files, they are malformed, or they have more tokens than the model has rows.
    pub fn tokenizer(&mut self) -> Result<Tokenizer> {
        let tokenizer = read_tokenizer(&self.files)?;
        tokenizer.check_vocab(self.spec.vocab_size).context(&self.name)?;
        self.spec.add_eos(tokenizer.eos_ids().iter().copied());
        Ok(tokenizer)
    }

    /// Positions to set a run up for, where the longest sequence has `longest` tokens.
    ///
    /// # Errors
    /// It is longer than the model's context.
    pub fn positions(&self, longest: usize) -> Result<usize> {
        self.fits(Count::of(longest))
    }

    /// As [`Source::positions`] for a sequence that may not have been counted to its end.
    ///
    /// # Errors
    /// As [`Source::positions`].
    pub fn fits(&self, sequence: Count) -> Result<usize> {
        let (context, longest) = (self.spec.max_position_embeddings, sequence.tokens);
        if longest > context {
            return Err(Error::user(format!(
                "a sequence of {sequence} is longer than the context of {}, {context} tokens; shorten it (a prompt, or \
                 --max-completion-length)",
                self.name
            )));
        }
        Ok(longest.max(1))
    }

    /// The element type matrices are loaded as: what was asked for; else blocks stay as they are stored, and plain types
    /// become f32 where that is small, and stay as they are where it is not. `None` keeps what is stored.
    ///
    /// # Errors
    /// A type that weights are not converted to.
    pub fn dtype(&self, asked: Option<DType>) -> Result<Option<DType>> {
        if let Some(dtype) = asked {
            if LOAD_DTYPES.contains(&dtype) {
                return Ok(Some(dtype));
            }
            let known: Vec<&str> = LOAD_DTYPES.iter().map(|d| d.name()).collect();
            return Err(Error::user(format!(
                "weights are not converted to {dtype}; choose one of {}, or leave the flag out to keep what is stored",
                known.join(", ")
            )));
        }
        let quantized = self
            .spec
            .tensors()
            .any(|t| self.store.info(&t.name).is_ok_and(|(d, _)| d.is_quantized()));
        let f32_bytes = self.spec.num_parameters() as u64 * 4;
        Ok((!quantized && f32_bytes < SMALL).then_some(DType::F32))
    }

    /// Uploads the model as `dtype` (see [`Source::dtype`]) for sequences of up to `positions` tokens. `score` stands in
    /// for the classification head's weights (C) where the files have none, or an adapter brings its own.
    ///
    /// # Errors
    /// As [`Model::load`]; a classification head is wanted and there is none.
    pub fn load(
        &self,
        gpu: &Gpu,
        dtype: Option<DType>,
        positions: usize,
        score: Option<&[f32]>,
    ) -> Result<Model> {
        let _waiting = self.waiting(gpu);
        if self.spec.head == Head::CausalLm {
            return Model::load(gpu, &self.spec, &self.store, dtype, positions).context(&self.name);
        }
        self.scored(gpu, dtype, positions, score, None)
            .context(&self.name)
    }

    fn waiting(&self, gpu: &Gpu) -> Option<Progress> {
        (!gpu.counts()).then(|| Progress::waiting(&format!("loading {}", self.name)))
    }

    /// A reward model on the device; with a ring, its blocks' matrices are the ring's.
    fn scored(
        &self,
        gpu: &Gpu,
        dtype: Option<DType>,
        positions: usize,
        score: Option<&[f32]>,
        ring: Option<(&Ring, &Streamed)>,
    ) -> Result<Model> {
        Model::build(gpu, &self.spec, positions, &mut |t| {
            if let (Role::Weight(proj), Some(layer), Some((ring, streamed))) = (t.role, t.layer, ring) {
                return Ok(ring.weight(streamed, layer, proj));
            }
            if let (Role::Score, Some(values)) = (t.role, score) {
                return Weight::upload(
                    gpu,
                    "weights",
                    DType::F32,
                    1,
                    values.len(),
                    bytemuck::cast_slice(values),
                );
            }
            if t.role == Role::Score && gpu.counts() {
                return super::params::unwritten(gpu, t, DType::F32);
            }
            if t.role == Role::Score && !self.has_score() {
                return Err(Error::user(
                    "this is a language model: it has no score head. Pass a reward model \
                     (…ForSequenceClassification with one label), or an adapter that brings a score head",
                ));
            }
            super::params::upload_stored(gpu, t, &self.store, dtype)
        })
    }

    /// As [`Source::load`] of a reward model whose blocks' matrices stay in the files until they are needed ([`super::stream`]).
    fn load_streamed(
        &self,
        gpu: &Gpu,
        dtype: Option<DType>,
        positions: usize,
        score: Option<&[f32]>,
    ) -> Result<Model> {
        let _waiting = self.waiting(gpu);
        let streamed = Streamed::new(&self.spec, &self.store, |t| self.stored(t, dtype))?;
        let ring = Ring::new(gpu, &streamed)?;
        let mut model = self.scored(gpu, dtype, positions, score, Some((&ring, &streamed)))?;
        model.streamed = Some(Arc::new(streamed));
        Ok(model)
    }

    /// Loads a reward model, its adapter (if any) put on it; with `streamed`, only two blocks at a time are on the device.
    ///
    /// # Errors
    /// As [`Source::load`] and [`peft::read_adapter`].
    pub fn load_reward(
        &self,
        gpu: &Gpu,
        dtype: Option<DType>,
        positions: usize,
        adapter: Option<&Path>,
        streamed: bool,
    ) -> Result<Model> {
        let adapter = adapter
            .map(|dir| peft::read_adapter(dir, &self.spec))
            .transpose()?;
        let score = adapter.as_ref().and_then(score_values);
        let score = score.as_deref();
        let mut model = if streamed {
            self.load_streamed(gpu, dtype, positions, score)
                .context(&self.name)?
        } else {
            self.load(gpu, dtype, positions, score)?
        };
        if let Some(adapter) = &adapter {
            put_adapter(&mut model, adapter, false)?;
        }
        Ok(model)
    }
}

/// Reads the tokenizer of a model's files, whatever their kind.
///
/// # Errors
/// There is none, or it is malformed.
pub fn read_tokenizer(files: &ModelFiles) -> Result<Tokenizer> {
    if let ModelFiles::Gguf(path) = files {
        return Tokenizer::from_gguf(&gguf_vocab(&Gguf::open(path)?)?).context(files.name());
    }
    if let Some(dir) = files.dir() {
        return Tokenizer::from_dir(dir);
    }
    let file = |name: &str| files.read(name).map(|f| f.map(Into::into));
    let hf = HfFiles {
        tokenizer_json: file("tokenizer.json")?
            .ok_or_else(|| Error::internal(format!("{}: no embedded tokenizer.json", files.name())))?,
        tokenizer_config: file("tokenizer_config.json")?,
        special_tokens_map: file("special_tokens_map.json")?,
        added_tokens: file("added_tokens.json")?,
        generation_config: file("generation_config.json")?,
        model_config: file("config.json")?,
        chat_template: file("chat_template.jinja")?,
    };
    Tokenizer::from_hf(&hf).context(files.name())
}

/// The vocabulary of a GGUF file as the tokenizer takes it.
///
/// # Errors
/// The file carries no tokenizer.
pub fn gguf_vocab(gguf: &Gguf) -> Result<GgufVocab> {
    let raw = gguf.vocab()?;
    let id = |key: &str| {
        gguf.meta_usize(&format!("tokenizer.ggml.{key}"))
            .and_then(|v| u32::try_from(v).ok())
    };
    Ok(GgufVocab {
        model: raw.model,
        pre: raw.pre.unwrap_or_default(),
        tokens: raw.tokens,
        token_types: raw.token_types,
        merges: raw.merges,
        scores: raw.scores,
        bos: raw.bos,
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        eom: id("eom_token_id"),
        pad: raw.padding,
        add_bos: raw.add_bos,
        add_eos: raw.add_eos,
        add_space_prefix: raw.add_space_prefix,
        chat_template: raw.chat_template,
    })
}

/// Reads a PEFT adapter and puts it on a language model.
///
/// # Errors
/// As [`peft::read_adapter`], or out of memory.
pub fn load_adapter(model: &mut Model, dir: &Path, train: bool) -> Result<AdapterConfig> {
    let adapter = peft::read_adapter(dir, &model.spec)?;
    put_adapter(model, &adapter, train)?;
    Ok(adapter.config)
}

/// Puts an adapter on a model, replacing any; its score head, where it has one, replaces the model's.
///
/// # Errors
/// Out of memory.
pub fn put_adapter(model: &mut Model, adapter: &Adapter, train: bool) -> Result<()> {
    let shape = adapter.config.shape(&model.spec)?;
    let mut rest = adapter.tensors.iter();
    model.set_adapter_on(&shape, &adapter.modules, train, &mut |name, _, _| {
        // Both go block by block, layer by layer, A before B; the search is for a caller with another order.
        let next = rest.next().filter(|(n, _)| n == name);
        next.or_else(|| adapter.tensors.iter().find(|(n, _)| n == name))
            .map(|(_, t)| t.to_f32())
            .ok_or_else(|| Error::internal(format!("the adapter lost {name}")))
    })?;
    if let Some(values) = score_values(adapter) {
        let value = Weight::upload(
            &model.gpu,
            "adapter",
            DType::F32,
            1,
            values.len(),
            bytemuck::cast_slice(&values),
        )?;
        let mut head = Param::frozen(value);
        if train {
            head.train(&model.gpu)?;
        }
        model.head = Some(head);
    }
    Ok(())
}

fn score_values(adapter: &Adapter) -> Option<Vec<f32>> {
    let name = peft::score_name();
    adapter
        .tensors
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, t)| t.to_f32())
}
