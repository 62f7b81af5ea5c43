//! Shapes of well-known models: sizes alone, no weights.

use super::spec::{Family, Head, ModelSpec, Rope, RopeScaling};
use crate::error::{Error, Result};

/// Before a shape's name where a model is expected: no files, and where weights are needed random ones.
pub const RANDOM: &str = "random:";

/// A shape and its names.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// The name in reports.
    pub name: &'static str,
    /// Other names that flags take.
    pub aliases: &'static [&'static str],
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    tied: bool,
    theta: f64,
    context: usize,
}

/// The shapes, smallest first: SmolLM2 (arXiv 2502.02737), Llama 3.1 and 3.2 (arXiv 2407.21783), as their config.json
/// files give them.
pub const NAMED: [Named; 4] = [
    Named {
        name: "smollm2-135m",
        aliases: &["135m"],
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
        tied: true,
        theta: 1e5,
        context: 8192,
    },
    Named {
        name: "smollm2-360m",
        aliases: &["360m"],
        hidden: 960,
        intermediate: 2560,
        layers: 32,
        heads: 15,
        kv_heads: 5,
        head_dim: 64,
        vocab: 49152,
        tied: true,
        theta: 1e5,
        context: 8192,
    },
    Named {
        name: "llama-3.2-1b",
        aliases: &["llama-1b", "1b"],
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocab: 128_256,
        tied: true,
        theta: 5e5,
        context: 131_072,
    },
    Named {
        name: "llama-3.1-8b",
        aliases: &["llama-8b", "8b"],
        hidden: 4096,
        intermediate: 14336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: false,
        theta: 5e5,
        context: 131_072,
    },
];

impl Named {
    /// The shape of that name.
    ///
    /// # Errors
    /// A user error that lists the names.
    pub fn find(name: &str) -> Result<Self> {
        let hit = |n: &&Self| n.name == name || n.aliases.contains(&name);
        NAMED.iter().find(hit).copied().ok_or_else(|| {
            let known: Vec<&str> = NAMED.iter().map(|n| n.name).collect();
            Error::user(format!(
                "{name}: no shape of that name; choose of {}",
                known.join(", ")
            ))
        })
    }

    /// The specification; no token ends a response, so that random weights run to the length that was asked for.
    pub fn spec(&self) -> ModelSpec {
        ModelSpec {
            family: Family::Llama,
            head: Head::CausalLm,
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_layers: self.layers,
            num_heads: self.heads,
            num_kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: self.theta,
                scaling: RopeScaling::None,
            },
            qkv_bias: false,
            o_bias: false,
            qk_norm: false,
            tie_word_embeddings: self.tied,
            max_position_embeddings: self.context,
            pad_token_id: None,
            eos_token_ids: Vec::new(),
            bos_token_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Parameter counts as published: a wrong size would not give them.
    #[test]
    fn shapes_have_the_models_parameter_counts() {
        let published = [134_515_008, 361_821_120, 1_235_814_400, 8_030_261_248];
        for (named, parameters) in NAMED.iter().zip(published) {
            let spec = named.spec();
            spec.validate(named.name).unwrap();
            assert_eq!(spec.num_parameters(), parameters, "{}", named.name);
            assert_eq!(Named::find(named.aliases[0]).unwrap().name, named.name);
        }
        assert!(
            Named::find("gpt-9")
                .unwrap_err()
                .to_string()
                .contains("smollm2-135m")
        );
    }
}
