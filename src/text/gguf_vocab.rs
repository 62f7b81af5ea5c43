//! The tokenizer stored in a GGUF file's metadata (`tokenizer.ggml.*`, specification: ggml's `docs/gguf.md`).

use std::collections::HashMap;

use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{self, NormalizerWrapper, Prepend, Replace as ReplaceNormalizer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, TokenizerBuilder, decoders};

use super::chat::ChatTemplate;
use super::pipeline::{Decode, Normalize, PreTokenize};
use super::tokenizer::{Parts, Tokenizer};
use super::tokenizer_file::{Engine, add_all, check_merges};
use crate::error::{Context, Error, Result, warn_once};
use crate::file::guard::guard;
use crate::file::limits;

/// What messages begin with.
const PLACE: &str = "GGUF tokenizer";

/// The tokenizer metadata of a GGUF file, as plain data; field by field the key `tokenizer.ggml.NAME`.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE with scores).
    pub model: String,
    /// `pre`: the name of the pre-tokenizer (`gpt2` only); empty when the file has none.
    pub pre: String,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty means all normal.
    pub token_types: Vec<i32>,
    /// `merges`: `"left right"`, best first (`gpt2` only).
    pub merges: Vec<String>,
    /// `scores`: the SentencePiece score of each id, higher merges first (`llama` only).
    pub scores: Vec<f32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: the end of a turn where it differs from `eos`.
    pub eot: Option<u32>,
    /// `eom_token_id`: the end of a message that a tool's answer follows.
    pub eom: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`; without it the default of the model and pre-tokenizer applies.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: EOS after a text, as BOS before it; default false.
    pub add_eos: Option<bool>,
    /// `add_space_prefix` (`llama` only); default true.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Control tokens that end a turn or a text in the supported families: a GGUF file has no `generation_config.json`, and
/// its `eos` and `eot` often name only one of the several that the original lists.
const END_TOKENS: [&str; 5] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a `gpt2` vocabulary cuts text before merging.
struct PreTokenizer {
    /// Each digit alone, before the patterns.
    digits: bool,
    /// Applied in turn to what the one before left whole; every match becomes a piece.
    patterns: &'static [&'static str],
    /// Unicode NFC first.
    nfc: bool,
    /// A piece that is a token needs no merges.
    ignore_merges: bool,
    /// BOS before a text unless the file says otherwise.
    add_bos: bool,
}

/// The names `tokenizer.ggml.pre` may have here.
const PRE_NAMES: &str = "default, gpt-2, phi-2, gigachat, a.x-4.0, mellum, exaone4, trillion, llama-bpe (llama3, llama-v3), falcon3, \
     falcon-h1, midm-2.0, pixtral, dbrx, smaug-bpe, qwen2, deepseek-r1-qwen, kormo, megrez, stablelm2, smollm, starcoder, refact, \
     command-r, codeshell, exaone, minerva-7b, tekken";

fn pre_tokenizer(name: &str) -> Result<PreTokenizer> {
    let plain = |patterns| PreTokenizer {
        digits: false,
        patterns,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    };
    Ok(match name {
        "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "exaone4" | "trillion" => plain(&[GPT2]),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "midm-2.0" | "pixtral" => {
            PreTokenizer {
                ignore_merges: true,
                add_bos: true,
                ..plain(&[LLAMA3])
            }
        }
        "dbrx" | "smaug-bpe" => plain(&[LLAMA3]),
        "qwen2" => PreTokenizer {
            nfc: true,
            ..plain(&[QWEN2])
        },
        "deepseek-r1-qwen" | "kormo" | "megrez" | "stablelm2" => plain(&[QWEN2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            PreTokenizer {
                digits: true,
                ..plain(&[GPT2])
            }
        }
        "tekken" => PreTokenizer {
            ignore_merges: true,
            add_bos: true,
            ..plain(&[TEKKEN])
        },
        other => {
            return Err(Error::user(format!(
                "the GGUF file's pre-tokenizer {other:?} (tokenizer.ggml.pre) is not supported; supported are {PRE_NAMES}. Use the \
                 model's Hugging Face directory with its tokenizer.json instead"
            )));
        }
    })
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// End tokens are `eos`, `eot` and every control token whose name ends a turn or a text in the supported families.
    ///
    /// # Errors
    /// A user error for an unknown tokenizer model or pre-tokenizer, or metadata that does not fit together.
    pub fn from_gguf(vocab: &GgufVocab) -> Result<Self> {
        guard(PLACE, || Self::of_gguf(vocab))
    }

    fn of_gguf(vocab: &GgufVocab) -> Result<Self> {
        vocab.check().context(PLACE)?;
        let (mut inner, add_bos) = match vocab.model.as_str() {
            "gpt2" => byte_level(vocab)?,
            "llama" => sentence_piece(vocab).context(PLACE)?,
            other => {
                return Err(Error::user(format!(
                    "the GGUF file's tokenizer model {other:?} (tokenizer.ggml.model) is not supported; supported are gpt2 and \
                     llama. Use the model's Hugging Face directory with its tokenizer.json instead"
                )));
            }
        };
        let added = (0..vocab.tokens.len()).filter_map(|id| {
            let kind = vocab.kind(id);
            matches!(kind, UNKNOWN | CONTROL | USER_DEFINED)
                .then(|| AddedToken::from(vocab.tokens[id].as_str(), kind != USER_DEFINED).normalized(false))
        });
        add_all(&mut inner, added.collect()).context(PLACE)?;
        let ends = (0..vocab.tokens.len())
            .filter(|&id| vocab.kind(id) == CONTROL)
            .filter(|&id| END_TOKENS.contains(&vocab.tokens[id].as_str()))
            .map(|id| id as u32);
        let eos = vocab
            .eos
            .into_iter()
            .chain(vocab.eot)
            .chain(vocab.eom)
            .chain(ends)
            .collect();
        let template = vocab
            .chat_template
            .as_deref()
            .map(|source| ChatTemplate::named("tokenizer.chat_template", source, vocab.template_vars()))
            .transpose()
            .context("GGUF chat template")?;
        Ok(Self::from_parts(
            inner,
            Parts {
                file: PLACE,
                longest: vocab.tokens.iter().map(String::len).max().unwrap_or(0),
                prepend: vocab.bos.filter(|_| vocab.add_bos.unwrap_or(add_bos)),
                append: vocab.eos.filter(|_| vocab.add_eos.unwrap_or(false)),
                bos: vocab.bos,
                pad: vocab.pad,
                eos,
                template,
            },
        ))
    }
}

impl GgufVocab {
    fn kind(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or(1)
    }

    fn check(&self) -> Result<()> {
        let n = self.tokens.len();
        if n == 0 {
            return Err(Error::user(
                "the file has no tokens (tokenizer.ggml.tokens): it is not a language model with its tokenizer",
            ));
        }
        limits::VOCABULARY.check("tokenizer.ggml.tokens", n)?;
        limits::MERGES.check("tokenizer.ggml.merges", self.merges.len())?;
        if !self.token_types.is_empty() && self.token_types.len() != n {
            return Err(Error::user(format!(
                "{n} tokens but {} token types: the file is damaged",
                self.token_types.len()
            )));
        }
        for (name, id) in [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("padding", self.pad),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= n) {
                return Err(Error::user(format!(
                    "the {name} token has id {id}, but there are {n} tokens: the file is damaged"
                )));
            }
        }
        Ok(())
    }

    /// The pre-tokenizer's name. Files from before May 2024 have none; vocabularies of the
    /// supported families are recognised by tokens that only they have, any other is llama.cpp's
    /// "default".
    fn pre_name(&self) -> &str {
        if !self.pre.is_empty() {
            if self.pre == "default"
                && let Some((name, owner)) = self.recognised()
            {
                warn_once(format!(
                    "GGUF tokenizer: tokenizer.ggml.pre is \"default\", but the vocabulary is that of {owner} ({name:?}); text \
                     is cut as the file says, which is probably not as the model has learned it. Convert the model again"
                ));
            }
            return &self.pre;
        }
        if let Some((name, owner)) = self.recognised() {
            warn_once(format!(
                "GGUF tokenizer: the file does not name its pre-tokenizer (tokenizer.ggml.pre); the vocabulary is that of \
                 {owner}, so {name:?} is taken"
            ));
            return name;
        }
        warn_once(
            "GGUF tokenizer: the file does not name its pre-tokenizer (tokenizer.ggml.pre), and the vocabulary is not one of \
             those that are recognised; \"default\" is taken, as in llama.cpp. The token ids may not be those that the model has \
             learned: convert the model again, or use its Hugging Face directory",
        );
        "default"
    }

    /// The pre-tokenizer of a vocabulary that is known by its special tokens, and whose it is.
    fn recognised(&self) -> Option<(&'static str, &'static str)> {
        let is_control = |token: &str| {
            let id = self.tokens.iter().position(|t| t == token);
            id.is_some_and(|id| {
                self.token_types.is_empty() || matches!(self.kind(id), CONTROL | USER_DEFINED)
            })
        };
        let at = |id: usize, token: &str| self.tokens.get(id).is_some_and(|t| t == token);
        if is_control("<|begin_of_text|>") && (is_control("<|eot_id|>") || is_control("<|end_of_text|>")) {
            Some(("llama-bpe", "Llama 3"))
        } else if at(151_643, "<|endoftext|>") && at(151_644, "<|im_start|>") {
            Some(("qwen2", "Qwen 2 and 3"))
        } else if at(0, "<|endoftext|>") && at(1, "<|im_start|>") && at(3, "<repo_name>") {
            Some(("smollm", "SmolLM 2"))
        } else if is_control("[AVAILABLE_TOOLS]") && is_control("[INST]") {
            Some(("tekken", "Mistral's Tekken"))
        } else {
            None
        }
    }

    /// Token text → id. Of a text that occurs twice the first id counts.
    fn vocab(&self) -> Vocab {
        let mut vocab = Vocab::default();
        let mut twice = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = vocab.get(token) {
                twice.push((*first, id));
            } else {
                vocab.insert(token.clone(), id as u32);
            }
        }
        if let Some((first, id)) = twice.first() {
            log::warn!(
                "{PLACE}: ids {first} and {id} are both {:?}{}",
                self.tokens[*id],
                match twice.len() {
                    1 => String::new(),
                    n => format!(", and {} more tokens are there twice", n - 1),
                }
            );
        }
        vocab
    }

    fn template_vars(&self) -> Vec<(String, String)> {
        [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("pad_token", self.pad),
        ]
        .into_iter()
        .filter_map(|(key, id)| Some((key.to_owned(), self.tokens.get(id? as usize)?.clone())))
        .collect()
    }
}

/// Model `gpt2`: byte-level BPE; the second value says whether BOS is added by default.
fn byte_level(vocab: &GgufVocab) -> Result<(Engine, bool)> {
    let pre = pre_tokenizer(vocab.pre_name())?;
    let merges = vocab
        .merges
        .iter()
        .enumerate()
        .map(|(i, merge)| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(Error::user(format!(
                "GGUF tokenizer: merge {i} is {merge:?}, which is not two tokens: the file is damaged"
            ))),
        })
        .collect::<Result<Merges>>()?;
    if merges.is_empty() {
        return Err(Error::user(
            "GGUF tokenizer: model gpt2 without merges (tokenizer.ggml.merges): the file is damaged",
        ));
    }
    let ids = vocab.vocab();
    check_merges(&ids, &merges, "").context(PLACE)?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(Error::user)
        .context(PLACE)?;
    let mut steps = Vec::new();
    if pre.digits {
        steps.push(Digits::new(true).into());
    }
    for pattern in pre.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(Error::internal)?.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    let inner = TokenizerBuilder::new()
        .with_model(ModelWrapper::from(bpe))
        .with_normalizer(pre.nfc.then(|| Normalize::new(vec![normalizers::NFC.into()])))
        .with_pre_tokenizer(Some(PreTokenize::new(steps)))
        .with_decoder(Some(Decode::new(vec![
            ByteLevel::new(false, false, false).into(),
        ])))
        .build()
        .map_err(Error::internal)?;
    Ok((inner, pre.add_bos))
}

/// Model `llama`: SentencePiece BPE (Kudo and Richardson, arXiv 1808.06226) with bytes as fallback; BOS by default.
fn sentence_piece(vocab: &GgufVocab) -> Result<(Engine, bool)> {
    if vocab.scores.len() != vocab.tokens.len() {
        return Err(Error::user(format!(
            "{} tokens but {} scores: the file is damaged",
            vocab.tokens.len(),
            vocab.scores.len()
        )));
    }
    let ids = vocab.vocab();
    let mut bpe = BPE::builder()
        .vocab_and_merges(ids, score_merges(vocab)?)
        .fuse_unk(true)
        .byte_fallback(true);
    if let Some(unknown) = (0..vocab.tokens.len()).find(|&id| vocab.kind(id) == UNKNOWN) {
        bpe = bpe.unk_token(vocab.tokens[unknown].clone());
    }
    let bpe = bpe.build().map_err(Error::user)?;
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        steps.push(Prepend::new("▁".to_owned()).into());
    }
    let spaces = ReplaceNormalizer::new(" ".to_owned(), "▁").map_err(Error::internal)?;
    steps.push(spaces.into());
    let normalizer = Normalize::new(steps);
    let spaces = ReplaceNormalizer::new("▁".to_owned(), " ").map_err(Error::internal)?;
    let mut steps: Vec<decoders::DecoderWrapper> = vec![
        spaces.into(),
        decoders::byte_fallback::ByteFallback::default().into(),
        decoders::fuse::Fuse::default().into(),
    ];
    if prefix {
        steps.push(decoders::strip::Strip::new(' ', 1, 0).into());
    }
    let inner = TokenizerBuilder::new()
        .with_model(ModelWrapper::from(bpe))
        .with_normalizer(Some(normalizer))
        .with_decoder(Some(Decode::new(steps)))
        .build()
        .map_err(Error::internal)?;
    Ok((inner, true))
}

/// SentencePiece merges the pair whose result scores highest. As ranked merges: every split of a token into two tokens,
/// by descending score of the whole, then by descending length of the left and of the right part, which is the order
/// transformers gives its converted tokenizers.
///
/// A vocabulary of a, aa, aaa, … has as many splits as the square of its length, so both the looking and what is found
/// are bounded.
fn score_merges(vocab: &GgufVocab) -> Result<Merges> {
    let normal: HashMap<&str, usize> = (0..vocab.tokens.len())
        .filter(|&id| vocab.kind(id) == 1)
        .map(|id| (vocab.tokens[id].as_str(), id))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    let (mut looked, mut text) = (0u64, 0);
    for (id, token) in vocab.tokens.iter().enumerate() {
        if vocab.kind(id) != 1 {
            continue;
        }
        looked = looked.saturating_add((token.len() as u64).saturating_pow(2));
        limits::SPLITS_TEXT.check("tokenizer.ggml.tokens", looked)?;
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if normal.contains_key(left) && normal.contains_key(right) {
                merges.push((vocab.scores[id], left, right));
                text += token.len();
                limits::MERGES.check("tokenizer.ggml.tokens", merges.len())?;
                limits::MERGES_TEXT.check("tokenizer.ggml.tokens", text)?;
            }
        }
    }
    let chars = |s: &str| s.chars().count();
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| chars(b.1).cmp(&chars(a.1)))
            .then_with(|| chars(b.2).cmp(&chars(a.2)))
    });
    let owned = |(_, left, right): (f32, &str, &str)| (left.to_owned(), right.to_owned());
    Ok(merges.into_iter().map(owned).collect())
}

#[cfg(test)]
#[path = "gguf_vocab_tests.rs"]
mod tests;
