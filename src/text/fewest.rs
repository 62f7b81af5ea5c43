//! The fewest tokens that a text may have, told by its bytes: a text that cannot fit is not tokenised.
//!
//! The engine takes about 130 bytes of memory for each byte of a text, so a text of 100 MB would take 13 GB only to be
//! found too long.

use std::fmt;

use tokenizers::Model;
use tokenizers::models::ModelWrapper;

use super::pipeline::Loss;
use super::tokenizer_file::Engine;
use crate::error::{Error, Result};

/// A number of tokens, which may only be known to be no smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub tokens: usize,
    /// Whether it is not more.
    pub exact: bool,
}

impl Count {
    /// Exactly so many.
    #[must_use]
    pub fn of(tokens: usize) -> Self {
        Self { tokens, exact: true }
    }

    /// So many more.
    #[must_use]
    pub fn plus(self, tokens: usize) -> Self {
        Self {
            tokens: self.tokens.saturating_add(tokens),
            ..self
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.exact { "" } else { "at least " };
        write!(f, "{least}{} tokens", self.tokens)
    }
}

/// The token ids of a text, or that there are more than its reader can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// All of them; they may be too many nevertheless.
    Ids(Vec<u32>),
    /// More than were asked for, at least this many. The text was not tokenised.
    TooLong(usize),
}

impl Encoded {
    /// How many tokens there are.
    #[must_use]
    pub fn count(&self) -> Count {
        match self {
            Self::Ids(ids) => Count::of(ids.len()),
            Self::TooLong(tokens) => Count {
                tokens: *tokens,
                exact: false,
            },
        }
    }

    /// The ids.
    ///
    /// # Errors
    /// There are too many. Callers that have a better message compare [`Encoded::count`] first.
    pub fn ids(self) -> Result<Vec<u32>> {
        match self {
            Self::Ids(ids) => Ok(ids),
            Self::TooLong(_) => Err(Error::user(format!(
                "the text has {}, which is too long; shorten it",
                self.count()
            ))),
        }
    }

    /// The tokens of one text and then of another.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ids(mut ids), Self::Ids(more)) => {
                ids.extend(more);
                Self::Ids(ids)
            }
            (a, b) => Self::TooLong(a.count().tokens.saturating_add(b.count().tokens)),
        }
    }
}

/// How few tokens an engine may make of a text.
#[derive(Debug)]
pub(super) struct Fewest {
    /// The most bytes of a text that one token stands for; `None` where a token may stand for any number.
    per_token: Option<usize>,
    /// Whether white space may vanish.
    spaces: bool,
    /// The bytes that the vocabulary lacks: they vanish.
    lost: Vec<u8>,
}

impl Fewest {
    /// Of an engine whose longest token has so many bytes.
    pub(super) fn new(engine: &Engine, longest: usize) -> Self {
        let mut loss = engine.get_normalizer().map_or(Loss::NONE, |steps| steps.loss());
        if let Some(steps) = engine.get_pre_tokenizer() {
            loss = loss.then(steps.loss());
        }
        let added = engine.get_added_tokens_decoder();
        if added.values().any(|token| token.lstrip || token.rstrip) {
            loss = loss.then(Loss::SPACES);
        }
        let (unknown, lost) = unknown(engine);
        let per_token = loss.times().zip(unknown).map(|(times, unknown)| {
            let bytes = longest.max(1).saturating_mul(unknown);
            bytes.saturating_mul(times)
        });
        Self {
            per_token,
            spaces: loss.spaces(),
            lost,
        }
    }

    /// Whether a text has more than `most` tokens for certain, and if so at least how many.
    pub(super) fn more_than(&self, most: usize, text: &str) -> Option<usize> {
        let per_token = self.per_token?;
        if text.len().div_ceil(per_token) <= most {
            return None;
        }
        let kept = |text: &str| match self.lost.is_empty() {
            true => text.len(),
            false => text.bytes().filter(|byte| !self.lost.contains(byte)).count(),
        };
        let bytes = match self.spaces {
            true => text.split(char::is_whitespace).map(kept).sum(),
            false => kept(text),
        };
        Some(bytes.div_ceil(per_token)).filter(|fewest| *fewest > most)
    }
}

/// How many bytes of a text may stand behind each byte of a token because the vocabulary cannot spell them; `None` where
/// any number may, as where unknown characters become one token together, or none at all. Bytes that a vocabulary of bytes
/// lacks are told apart.
fn unknown(engine: &Engine) -> (Option<usize>, Vec<u8>) {
    let model = engine.get_model();
    let has = |token: &str| model.token_to_id(token).is_some();
    let bytes = || {
        (0..=255)
            .filter(|byte| is_utf8(*byte))
            .all(|byte: u8| has(&format!("<{byte:#04X}>")))
    };
    let times = match model {
        ModelWrapper::BPE(bpe) => {
            let byte_level = engine.get_pre_tokenizer().is_some_and(|s| s.spells_bytes())
                || engine.get_normalizer().is_some_and(|s| s.spells_bytes());
            if bpe.continuing_subword_prefix.is_some() || bpe.end_of_word_suffix.is_some() {
                None
            } else if byte_level {
                let lost: Vec<u8> = letters()
                    .filter(|(_, letter)| !has(letter.encode_utf8(&mut [0; 4])))
                    .map(|(byte, _)| byte)
                    .collect();
                // A normal form may make lost bytes of others.
                let known = lost.is_empty() || engine.get_normalizer().is_none();
                return (known.then_some(1), lost);
            } else if bpe.byte_fallback && bytes() {
                Some(1)
            } else {
                // Each unknown character is a token, which merges may join with others.
                (bpe.unk_token.is_some() && !bpe.fuse_unk).then_some(4)
            }
        }
        ModelWrapper::Unigram(unigram) => (unigram.byte_fallback() && bytes()).then_some(1),
        // A word of any length may be one unknown token.
        ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => None,
    };
    (times, Vec::new())
}

/// Whether UTF-8 has a byte.
fn is_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..)
}

/// The bytes of UTF-8 and the letters that a byte-level vocabulary spells them with, as GPT-2's.
fn letters() -> impl Iterator<Item = (u8, char)> {
    let plain = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..=255u8).filter(move |byte| !plain(byte));
    let shifted = others.zip('\u{100}'..);
    let all = (0..=255u8)
        .filter(plain)
        .map(|byte| (byte, char::from(byte)))
        .chain(shifted);
    all.filter(|(byte, _)| is_utf8(*byte))
}

#[cfg(test)]
#[path = "fewest_tests.rs"]
mod tests;
