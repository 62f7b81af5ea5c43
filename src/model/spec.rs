//! What a model is: its family, its sizes, and the name and shape of every weight it must have.

use std::f64::consts::TAU;

pub use super::parts::{Proj, Role, TensorSpec};
use crate::error::{Error, Result};

/// The architectures one transformer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    /// Mistral without sliding-window attention.
    Mistral,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: RMS norms on the heads of q and k.
    Qwen3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// `model_type` in config.json.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class-name prefix in config.json's `architectures`.
    pub const fn class_prefix(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
        }
    }
}

/// What sits on top of the transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// Next-token logits (`lm_head.weight`, or the embedding when tied).
    CausalLm,
    /// One scalar a sequence (`score.weight`, no bias), read at the last token whose id is not the pad id.
    Score,
}

/// How the rotary frequencies are stretched beyond the pre-training context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Llama 3.1's wavelength-dependent interpolation.
    Llama3 {
        /// Division of the low frequencies.
        factor: f64,
        /// Wavelengths above original/low_freq_factor are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below original/high_freq_factor are kept.
        high_freq_factor: f64,
        /// The pre-training context length.
        original_max_position_embeddings: usize,
    },
    /// One divisor a frequency (head_dim/2 of them), as GGUF files carry in `rope_freqs.weight`.
    Factors(Vec<f64>),
}

/// Rotary position embedding (half-rotation order: element i pairs with i + head_dim/2).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the geometric frequency series.
    pub theta: f64,
    /// The long-context stretching.
    pub scaling: RopeScaling,
}

/// Everything the engine must know about a model beside its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The architecture.
    pub family: Family,
    /// What sits on top.
    pub head: Head,
    /// Rows of the embedding, V.
    pub vocab_size: usize,
    /// Width of the residual stream, C.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Query heads, H.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head; even. `num_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias (Llama and Qwen3 with `attention_bias`).
    pub o_bias: bool,
    /// Whether q and k heads are RMS-normalised before the rotation.
    pub qk_norm: bool,
    /// Whether the vocabulary head is the embedding.
    pub tie_word_embeddings: bool,
    /// The longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The padding token, which the reward is never read at.
    pub pad_token_id: Option<u32>,
    /// Tokens that end a response: generation_config.json's, or config.json's where that gives none.
    pub eos_token_ids: Vec<u32>,
    /// The token that starts a sequence.
    pub bos_token_id: Option<u32>,
}

impl ModelSpec {
    /// Output and input width of a linear layer.
    pub fn proj_dims(&self, proj: Proj) -> (usize, usize) {
        let (c, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        match proj {
            Proj::Q => (q, c),
            Proj::K | Proj::V => (kv, c),
            Proj::O => (c, q),
            Proj::Gate | Proj::Up => (f, c),
            Proj::Down => (c, f),
        }
    }

    /// Whether a linear layer has a bias.
    pub fn has_bias(&self, proj: Proj) -> bool {
        match proj {
            Proj::Q | Proj::K | Proj::V => self.qkv_bias,
            Proj::O => self.o_bias,
            Proj::Gate | Proj::Up | Proj::Down => false,
        }
    }

    /// The same transformer with a one-label head in place of its own, for training a reward model from a policy.
    pub fn with_head(&self, head: Head) -> Self {
        Self { head, ..self.clone() }
    }

    /// Adds end tokens (a tokenizer's) that are not yet known.
    pub fn add_eos(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }

    /// Every weight the model must have, in forward order. Tied models have no `lm_head.weight`.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSpec> + '_ {
        let c = self.hidden_size;
        let global = |name: &str, shape: Vec<usize>, role| TensorSpec {
            name: name.to_string(),
            shape,
            role,
            layer: None,
        };
        let first = global(
            "model.embed_tokens.weight",
            vec![self.vocab_size, c],
            Role::Embedding,
        );
        let mut last = vec![global("model.norm.weight", vec![c], Role::FinalNorm)];
        match self.head {
            Head::CausalLm if self.tie_word_embeddings => {}
            Head::CausalLm => last.push(global("lm_head.weight", vec![self.vocab_size, c], Role::LmHead)),
            Head::Score => last.push(global("score.weight", vec![1, c], Role::Score)),
        }
        std::iter::once(first)
            .chain((0..self.num_layers).flat_map(|l| self.layer_tensors(l)))
            .chain(last)
    }

    /// The weights of block `layer`.
    pub fn layer_tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let mut out = Vec::with_capacity(14);
        let mut norm = |name: &str, n: usize, role| {
            out.push(TensorSpec {
                name: format!("model.layers.{layer}.{name}.weight"),
                shape: vec![n],
                role,
                layer: Some(layer),
            });
        };
        norm("input_layernorm", self.hidden_size, Role::AttnNorm);
        norm("post_attention_layernorm", self.hidden_size, Role::MlpNorm);
        if self.qk_norm {
            norm("self_attn.q_norm", self.head_dim, Role::QNorm);
            norm("self_attn.k_norm", self.head_dim, Role::KNorm);
        }
        for proj in Proj::ALL {
            let (rows, cols) = self.proj_dims(proj);
            let path = proj.path(layer);
            out.push(TensorSpec {
                name: format!("{path}.weight"),
                shape: vec![rows, cols],
                role: Role::Weight(proj),
                layer: Some(layer),
            });
            if self.has_bias(proj) {
                out.push(TensorSpec {
                    name: format!("{path}.bias"),
                    shape: vec![rows],
                    role: Role::Bias(proj),
                    layer: Some(layer),
                });
            }
        }
        out
    }

    /// Total number of weights.
    pub fn num_parameters(&self) -> usize {
        self.tensors().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// The head_dim/2 rotary frequencies in radians a position, θ^(−2i/head_dim) with the scaling applied, in float64
    /// (RoFormer, arXiv 2104.09864, §3.2; scaling as in Meta's Llama 3.1 reference). transformers evaluates the same
    /// formula in float32, so its values differ by a few units in the last place of f32.
    pub fn inv_freq(&self) -> Vec<f64> {
        let dim = self.head_dim as f64;
        (0..self.head_dim / 2)
            .map(|i| {
                let freq = self.rope.theta.powf(-((2 * i) as f64) / dim);
                match &self.rope.scaling {
                    RopeScaling::None => freq,
                    RopeScaling::Factors(factors) => freq / factors.get(i).copied().unwrap_or(1.0),
                    RopeScaling::Llama3 {
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        original_max_position_embeddings,
                    } => {
                        let original = *original_max_position_embeddings as f64;
                        llama3(freq, *factor, *low_freq_factor, *high_freq_factor, original)
                    }
                }
            })
            .collect()
    }

    /// Refuses sizes no model has, so that nothing later divides by zero or overflows. `file` begins the message.
    ///
    /// # Errors
    /// A user error naming the setting.
    pub fn validate(&self, file: &str) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_layers, 1 << 12),
            ("num_attention_heads", self.num_heads, 1 << 12),
            ("num_key_value_heads", self.num_kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 28),
        ];
        for (name, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(Error::user(format!(
                    "{file}: {name} is {value}; it must be between 1 and {limit}"
                )));
            }
        }
        let fail = |message: String| Err(Error::user(format!("{file}: {message}")));
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return fail(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.num_heads, self.num_kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return fail(format!(
                "head_dim {} is odd; rotary embeddings need an even one",
                self.head_dim
            ));
        }
        for (name, value) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
        ] {
            if !value.is_multiple_of(4) {
                return fail(format!(
                    "{name} {value} is not a multiple of 4; the kernels read four values at a time"
                ));
            }
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return fail(format!(
                "rms_norm_eps is {:?}; it must be between 0 and 1",
                self.rms_norm_eps
            ));
        }
        if !(self.rope.theta > 0.0 && self.rope.theta.is_finite()) {
            return fail(format!(
                "rope_theta is {:?}; it must be positive",
                self.rope.theta
            ));
        }
        self.validate_scaling(file)
    }

    fn validate_scaling(&self, file: &str) -> Result<()> {
        let ok = match &self.rope.scaling {
            RopeScaling::None => true,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                factor.is_finite()
                    && *factor >= 1.0
                    && *low_freq_factor > 0.0
                    && high_freq_factor > low_freq_factor
                    && high_freq_factor.is_finite()
                    && *original_max_position_embeddings > 0
            }
            RopeScaling::Factors(factors) => {
                factors.len() == self.head_dim / 2 && factors.iter().all(|f| f.is_finite() && *f > 0.0)
            }
        };
        if ok {
            return Ok(());
        }
        Err(Error::user(format!(
            "{file}: rope scaling {:?} is not usable with head_dim {}: factors must be finite and positive, \
             high_freq_factor above low_freq_factor, and one factor a frequency",
            self.rope.scaling, self.head_dim
        )))
    }
}

/// Llama 3.1's rule for one frequency: long wavelengths are divided by `factor`, short ones kept, linear in between.
pub(crate) fn llama3(freq: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = TAU / freq;
    if wavelength < original / high {
        freq
    } else if wavelength > original / low {
        freq / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * freq / factor + smooth * freq
    }
}
