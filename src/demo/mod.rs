//! The procedural instruction set of the embedded demo: short prompts with a true, continuous score for any response.
//!
//! Six kinds of task ([`Kind`]), prompts of at most [`MAX_PROMPT_CHARS`] characters and answers of at most
//! [`MAX_ANSWER_CHARS`], so that a character-level transformer of a million parameters learns them in minutes and
//! best-of-64 still has room to climb: a right answer scores exactly 1, a wrong one at most 0.85, smoothly less the
//! further it is off. Everything is a pure function of a seed.

mod draw;
mod files;
mod grade;
mod tasks;
mod tokenizer;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
pub use files::{
    Preference, SampledGroup, Supervised, preferences, preferences_for_answers, preferences_from_samples,
    sft_examples, write_jsonl, write_preferences, write_prompts, write_sft,
};
pub use tasks::Kind;
pub use tokenizer::{
    ASSISTANT, CHAT_TEMPLATE, END, PAD, UNK, USER, tokenizer_config_json, tokenizer_json, vocabulary,
};

/// Longest prompt, in characters.
pub const MAX_PROMPT_CHARS: usize = 20;

/// Longest right answer, in characters; leaves room for the end token and for wrong, longer responses in 24 tokens.
pub const MAX_ANSWER_CHARS: usize = 14;

/// Most tokens in a sampled response: the longest answer and room for wrong ones, as in the demo's training.
pub const COMPLETION: usize = 24;

/// What sets the seed of a judgement apart from that of the training.
pub const EVAL_SEED: u64 = 0x4e1d;

/// The part of the instruction set a prompt belongs to, decided by a hash of its text: the parts never overlap,
/// whatever the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Nine tenths of all prompts.
    Train,
    /// One twentieth.
    Validation,
    /// One twentieth.
    HeldOut,
}

impl Split {
    /// The split of a prompt.
    pub fn of(prompt: &str) -> Self {
        let digest = Sha256::digest(prompt.as_bytes());
        match digest[0] % 20 {
            0 => Self::Validation,
            1 => Self::HeldOut,
            _ => Self::Train,
        }
    }

    /// The name in ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::HeldOut => "held-out",
        }
    }
}

/// One instruction with a right answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// `{split}-{number}`, unique in one call of [`generate`].
    pub id: String,
    /// The kind of task.
    pub kind: Kind,
    /// The instruction, at most [`MAX_PROMPT_CHARS`] characters.
    pub prompt: String,
    /// A right answer (some tasks have several), at most [`MAX_ANSWER_CHARS`] characters.
    pub answer: String,
}

/// `n` different examples of a split, the kinds in turn; the same seed gives the same examples, and a longer list
/// starts with the shorter one.
pub fn generate(seed: u64, n: usize, split: Split) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(split as u64 + 1);
    let mut seen = std::collections::HashSet::new();
    let mut examples = Vec::with_capacity(n);
    for turn in 0.. {
        if examples.len() == n {
            break;
        }
        let kind = Kind::ALL[turn % Kind::ALL.len()];
        // A kind whose prompts are used up gives its turn away; the letter tasks have more prompts than memory.
        for _ in 0..200 {
            let task = kind.draw(&mut rng);
            let prompt = task.prompt();
            if Split::of(&prompt) != split || !seen.insert(prompt.clone()) {
                continue;
            }
            let id = format!("{}-{:05}", split.name(), examples.len());
            examples.push(Example {
                id,
                kind,
                prompt,
                answer: task.answer(),
            });
            break;
        }
    }
    examples
}

/// The held-out examples that a run of this seed is judged on, apart from those of its training.
pub fn held_out(seed: u64, n: usize) -> Vec<Example> {
    generate(seed ^ EVAL_SEED, n, Split::HeldOut)
}

/// The true score in [0, 1] of a response, from the prompt's text alone: 1 exactly for a right answer.
///
/// Whitespace around the response does not count.
///
/// # Errors
/// A user error when the prompt is not one of this instruction set.
pub fn score(prompt: &str, response: &str) -> Result<f64> {
    match Kind::parse(prompt) {
        Some(task) => Ok(task.score(response.trim())),
        None => Err(Error::user(format!(
            "\"{prompt}\" is not a prompt of the demo instruction set, so it has no true score; \
             write such prompts with `tea-wgpu demo-data`"
        ))),
    }
}

#[cfg(test)]
mod tests;
