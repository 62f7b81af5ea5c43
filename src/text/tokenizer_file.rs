//! `tokenizer.json`, read in one pass and bounded: what it holds is counted while it is read, before more memory is
//! taken.
//!
//! The vocabulary and the merges are read straight into the maps that the model keeps. The steps before and after the
//! model are cut out as text, checked, and built one by one; see [`super::pipeline`].

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

use super::pipeline::{Decode, Normalize, PostProcess, PreTokenize, watched};
use crate::error::{Context, Error, Result};
use crate::file::guard::guard;
use crate::file::limits::{self, Limit};

/// The text ↔ ids engine: the `tokenizers` crate's, with steps that are watched.
pub(super) type Engine = TokenizerImpl<ModelWrapper, Normalize, PreTokenize, PostProcess, Decode>;

/// The file's name in messages.
pub(super) const FILE: &str = "tokenizer.json";

/// The largest id a token may have: nothing that is counted from it overflows.
const MAX_ID: u32 = i32::MAX as u32;

/// The longest token of a Unigram vocabulary, in bytes. The model keeps a tree with a level per byte, and follows it
/// from every character of a text.
const UNIGRAM_TOKEN: usize = 512;

/// The most characters of a word that WordPiece may be told to cut: it tries every part of a word.
const WORD_PIECE_CHARS: u64 = 1000;

/// An engine and what its file says of it.
pub(super) struct Read {
    pub(super) engine: Engine,
    /// The bytes of the vocabulary's longest token.
    pub(super) longest: usize,
}

/// Builds the engine that a `tokenizer.json` describes.
///
/// # Errors
/// A user error that begins with the file's name: not a tokenizer, beyond a limit, or not to be built.
pub(super) fn read(bytes: &[u8]) -> Result<Read> {
    limits::TOKENIZER_FILE.check(FILE, bytes.len())?;
    guard(FILE, || build(bytes).context(FILE))
}

fn build(bytes: &[u8]) -> Result<Read> {
    let unreadable = |e: &dyn fmt::Display| {
        let said: String = e.to_string().chars().take(300).collect();
        Error::user(format!("not a tokenizer file this version can read: {said}"))
    };
    let fault = Fault::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parts = FileSeed(&fault)
        .deserialize(&mut json)
        .and_then(|parts| json.end().map(|()| parts));
    let parts = match (fault.0.into_inner(), parts) {
        (Some(fault), _) => return Err(fault),
        (None, Err(e)) => return Err(unreadable(&e)),
        (None, Ok(parts)) => parts,
    };
    let section = |raw: Option<&RawValue>, name: &str| -> Result<serde_json::Value> {
        let Some(raw) = raw else {
            return Ok(serde_json::Value::Null);
        };
        limits::TOKENIZER_STEPS_SIZE.check(name, raw.get().len())?;
        serde_json::from_str(raw.get()).map_err(|e| unreadable(&e))
    };
    let normalizer = Normalize::read(section(parts.normalizer, "normalizer")?)?;
    let pre_tokenizer = PreTokenize::read(section(parts.pre_tokenizer, "pre_tokenizer")?)?;
    let post_processor = PostProcess::read(section(parts.post_processor, "post_processor")?)?;
    let decoder = Decode::read(section(parts.decoder, "decoder")?)?;
    let model = parts
        .model
        .ok_or_else(|| unreadable(&"there is no \"model\" in it"))?;
    let longest = model.longest();
    let mut engine = TokenizerBuilder::new()
        .with_model(model.build().map_err(|e| unreadable(&e))?)
        .with_normalizer(normalizer)
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_post_processor(post_processor)
        .with_decoder(decoder)
        .build()
        .map_err(|e| unreadable(&e))?;
    add(&mut engine, parts.added).context("added_tokens")?;
    Ok(Read { engine, longest })
}

/// Adds the tokens of the file. Their ids follow from their texts; one that the file says otherwise is told of.
fn add(engine: &mut Engine, added: Vec<Declared>) -> Result<()> {
    let differs = |token: &&Declared| {
        let id = engine.token_to_id(&token.content);
        id.is_some_and(|id| id != token.id)
    };
    let mut other = added.iter().filter(differs);
    if let Some(first) = other.next() {
        log::warn!(
            "{FILE}: added_tokens gives {:?} the id {}, the vocabulary another, which counts{}",
            first.content,
            first.id,
            match other.count() {
                0 => String::new(),
                more => format!("; {more} more tokens are like it"),
            }
        );
    }
    add_all(engine, added.into_iter().map(Declared::token).collect())
}

/// Adds tokens in one go: each call builds the tree of all added tokens anew.
///
/// # Errors
/// There are too many of them, or the engine refuses them.
pub(super) fn add_all(engine: &mut Engine, tokens: Vec<AddedToken>) -> Result<()> {
    let before = engine.get_added_vocabulary().get_vocab();
    let held: usize = before.keys().map(String::len).sum();
    limits::ADDED_TOKENS.check("added tokens", before.len() + tokens.len())?;
    let text: usize = tokens.iter().map(|t| t.content.len()).sum();
    limits::ADDED_TOKENS_TEXT.check("added tokens", held + text)?;
    let spaces = |t: &&AddedToken| t.rstrip && t.content.chars().all(char::is_whitespace);
    if let Some(token) = tokens.iter().find(spaces).filter(|t| !t.content.is_empty()) {
        return Err(Error::user(format!(
            "the token {:?} is white space that takes the white space after it (rstrip): every space of a run would \
             take the rest of the run again",
            token.content
        )));
    }
    watched(|| engine.add_tokens(tokens)).map(|_| ())
}

/// The first fault that has a message of its own. What a JSON reader returns is one line of text.
#[derive(Default)]
struct Fault(RefCell<Option<Error>>);

impl Fault {
    fn set<E: de::Error>(&self, error: Error) -> E {
        let text = error.to_string();
        self.0.borrow_mut().get_or_insert(error);
        E::custom(text)
    }

    /// Checks what is counted while it is read: how much more there is, is not known.
    fn check<E: de::Error>(&self, limit: &Limit, place: &str, found: usize) -> Result<(), E> {
        match found as u64 > limit.most() {
            true => Err(self.set(limit.exceeded(place))),
            false => Ok(()),
        }
    }
}

/// The parts of the file.
#[derive(Default)]
struct FileParts<'de> {
    added: Vec<Declared>,
    normalizer: Option<&'de RawValue>,
    pre_tokenizer: Option<&'de RawValue>,
    post_processor: Option<&'de RawValue>,
    decoder: Option<&'de RawValue>,
    model: Option<ModelParts<'de>>,
}

/// A token of `added_tokens`.
#[derive(Deserialize)]
struct Declared {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Declared {
    fn token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

struct FileSeed<'a>(&'a Fault);

impl<'de> DeserializeSeed<'de> for FileSeed<'_> {
    type Value = FileParts<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FileSeed<'_> {
    type Value = FileParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts = FileParts::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    let version: String = map.next_value()?;
                    if version != "1.0" {
                        let version: String = version.chars().take(40).collect();
                        return Err(de::Error::custom(format!(
                            "its version is {version:?}, this program reads \"1.0\""
                        )));
                    }
                }
                // Texts are neither cut nor padded here.
                "truncation" | "padding" => drop(map.next_value::<IgnoredAny>()?),
                "added_tokens" => parts.added = map.next_value_seed(AddedSeed(self.0))?,
                "normalizer" => parts.normalizer = Some(map.next_value()?),
                "pre_tokenizer" => parts.pre_tokenizer = Some(map.next_value()?),
                "post_processor" => parts.post_processor = Some(map.next_value()?),
                "decoder" => parts.decoder = Some(map.next_value()?),
                "model" => parts.model = Some(map.next_value_seed(ModelSeed(self.0))?),
                other => {
                    let other: String = other.chars().take(40).collect();
                    return Err(de::Error::custom(format!("the key {other:?} is not known")));
                }
            }
        }
        Ok(parts)
    }
}

struct AddedSeed<'a>(&'a Fault);

impl<'de> DeserializeSeed<'de> for AddedSeed<'_> {
    type Value = Vec<Declared>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedSeed<'_> {
    type Value = Vec<Declared>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut added: Vec<Declared> = Vec::new();
        while let Some(token) = seq.next_element()? {
            added.push(token);
            self.0.check(&limits::ADDED_TOKENS, "added_tokens", added.len())?;
        }
        Ok(added)
    }
}

/// A model's vocabulary: token → id, or a list of tokens with their scores.
enum Tokens {
    Ids(Vocab),
    Scores(Vec<(String, f64)>),
}

/// The parts of `model`.
#[derive(Default)]
struct ModelParts<'de> {
    kind: Option<String>,
    tokens: Option<Tokens>,
    merges: Option<Merges>,
    /// The small settings, as they are written.
    settings: Vec<(String, &'de RawValue)>,
}

struct ModelSeed<'a>(&'a Fault);

impl<'de> DeserializeSeed<'de> for ModelSeed<'_> {
    type Value = ModelParts<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ModelSeed<'_> {
    type Value = ModelParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut model = ModelParts::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => model.kind = map.next_value()?,
                "vocab" => model.tokens = Some(map.next_value_seed(VocabSeed(self.0))?),
                "merges" => model.merges = Some(map.next_value_seed(MergesSeed(self.0))?),
                "dropout"
                | "unk_token"
                | "unk_id"
                | "continuing_subword_prefix"
                | "end_of_word_suffix"
                | "fuse_unk"
                | "byte_fallback"
                | "ignore_merges"
                | "max_input_chars_per_word" => {
                    let value = map.next_value()?;
                    model.settings.retain(|(k, _)| *k != key);
                    model.settings.push((key, value));
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(model)
    }
}

struct VocabSeed<'a>(&'a Fault);

impl<'de> DeserializeSeed<'de> for VocabSeed<'_> {
    type Value = Tokens;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for VocabSeed<'_> {
    type Value = Tokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut vocab = Vocab::default();
        while let Some((token, id)) = map.next_entry::<String, u32>()? {
            if id > MAX_ID {
                let token: String = token.chars().take(40).collect();
                return Err(self.0.set(Error::user(format!(
                    "model: the token {token:?} has the id {id}; ids go up to {MAX_ID}"
                ))));
            }
            vocab.insert(token, id);
            self.0.check(&limits::VOCABULARY, "model", vocab.len())?;
        }
        Ok(Tokens::Ids(vocab))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut vocab, mut text) = (Vec::new(), 0);
        while let Some((token, score)) = seq.next_element::<(String, f64)>()? {
            if token.len() > UNIGRAM_TOKEN {
                return Err(self.0.set(Error::user(format!(
                    "model: token {} of the Unigram vocabulary has {} bytes; {UNIGRAM_TOKEN} are the most",
                    vocab.len(),
                    token.len()
                ))));
            }
            text += token.len();
            vocab.push((token, score));
            self.0.check(&limits::VOCABULARY, "model", vocab.len())?;
            self.0.check(&limits::UNIGRAM_TEXT, "model", text)?;
        }
        Ok(Tokens::Scores(vocab))
    }
}

struct MergesSeed<'a>(&'a Fault);

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut merges = Merges::new();
        while let Some(merge) = seq.next_element::<Merge>()? {
            merges.extend(merge.0);
            self.0.check(&limits::MERGES, "model", merges.len())?;
        }
        Ok(merges)
    }
}

/// A merge: `["left", "right"]`, or `"left right"` in older files, whose first line may be a comment.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Merge, E> {
                if line.starts_with("#version") {
                    return Ok(Merge(None));
                }
                match line.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(Merge(Some((left.to_owned(), right.to_owned()))))
                    }
                    _ => Err(E::custom("a merge is not two tokens with a space between them")),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let two = || de::Error::custom("a merge is not a list of two tokens");
                let left = seq.next_element()?.ok_or_else(two)?;
                let right = seq.next_element()?.ok_or_else(two)?;
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(Some((left, right)))),
                    Some(_) => Err(two()),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

impl ModelParts<'_> {
    fn longest(&self) -> usize {
        let longest = match &self.tokens {
            Some(Tokens::Ids(vocab)) => vocab.keys().map(String::len).max(),
            Some(Tokens::Scores(vocab)) => vocab.iter().map(|(token, _)| token.len()).max(),
            None => None,
        };
        longest.unwrap_or(0)
    }

    /// A setting that may be null; `None` where it is or is not there.
    fn setting<T: de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.settings.iter().find(|(k, _)| k == key);
        let Some((_, raw)) = value else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map_err(|e| Error::user(format!("model: {key}: {e}")))
    }

    fn needed<T: de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        let missing = || Error::user(format!("model: missing field `{key}`"));
        self.setting(key)?.ok_or_else(missing)
    }

    /// The kind of model; files of the first versions do not name it.
    fn kind(&self) -> &str {
        let has = |key: &str| self.settings.iter().any(|(k, _)| k == key);
        match (&self.kind, &self.tokens) {
            (Some(kind), _) => kind,
            (None, Some(Tokens::Scores(_))) => "Unigram",
            (None, _) if self.merges.is_some() => "BPE",
            (None, _) if has("max_input_chars_per_word") => "WordPiece",
            (None, _) => "WordLevel",
        }
    }

    fn build(mut self) -> Result<ModelWrapper> {
        let kind = self.kind().to_owned();
        let tokens = self
            .tokens
            .take()
            .ok_or_else(|| Error::user("model: it has no vocab"))?;
        match (kind.as_str(), tokens) {
            ("BPE", Tokens::Ids(vocab)) => self.bpe(vocab).map(ModelWrapper::BPE),
            ("WordPiece", Tokens::Ids(vocab)) => {
                let chars: u64 = self.needed("max_input_chars_per_word")?;
                if chars > WORD_PIECE_CHARS {
                    return Err(Error::user(format!(
                        "model: max_input_chars_per_word is {chars}; {WORD_PIECE_CHARS} are the most"
                    )));
                }
                WordPiece::builder()
                    .vocab(vocab)
                    .unk_token(self.needed("unk_token")?)
                    .continuing_subword_prefix(self.needed("continuing_subword_prefix")?)
                    .max_input_chars_per_word(chars as usize)
                    .build()
                    .map(ModelWrapper::WordPiece)
                    .map_err(Error::user)
            }
            ("WordLevel", Tokens::Ids(vocab)) => WordLevel::builder()
                .vocab(vocab)
                .unk_token(self.needed("unk_token")?)
                .build()
                .map(ModelWrapper::WordLevel)
                .map_err(Error::user),
            ("Unigram", Tokens::Scores(vocab)) => {
                let bytes = self.setting("byte_fallback")?.unwrap_or(false);
                Unigram::from(vocab, self.setting("unk_id")?, bytes)
                    .map(ModelWrapper::Unigram)
                    .map_err(|e| Error::user(format!("model: {e}")))
            }
            ("BPE" | "WordPiece" | "WordLevel" | "Unigram", _) => Err(Error::user(format!(
                "model: the vocab is not of the kind that {kind} has"
            ))),
            (other, _) => {
                let other: String = other.chars().take(40).collect();
                Err(Error::user(format!(
                    "model: the type {other:?} is not known; BPE, WordPiece, WordLevel and Unigram are"
                )))
            }
        }
    }

    fn bpe(&mut self, vocab: Vocab) -> Result<BPE> {
        let merges = self
            .merges
            .take()
            .ok_or_else(|| Error::user("model: it has no merges"))?;
        let prefix: Option<String> = self.setting("continuing_subword_prefix")?;
        check_merges(&vocab, &merges, prefix.as_deref().unwrap_or("")).context("model")?;
        let mut bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .fuse_unk(self.setting("fuse_unk")?.unwrap_or(false))
            .byte_fallback(self.setting("byte_fallback")?.unwrap_or(false))
            .ignore_merges(self.setting("ignore_merges")?.unwrap_or(false));
        if let Some(dropout) = self.setting("dropout")? {
            bpe = bpe.dropout(dropout);
        }
        if let Some(token) = self.setting("unk_token")? {
            bpe = bpe.unk_token(token);
        }
        if let Some(prefix) = prefix {
            bpe = bpe.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.setting("end_of_word_suffix")? {
            bpe = bpe.end_of_word_suffix(suffix);
        }
        bpe.build().map_err(|e| Error::user(format!("model: {e}")))
    }
}

/// Checks what the BPE builder takes for granted: that the right part of a merge begins with the prefix of continued
/// words, and that the result is no longer than the longest token.
pub(super) fn check_merges(vocab: &Vocab, merges: &Merges, prefix: &str) -> Result<()> {
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let bad = merges.iter().position(|(left, right)| {
        !right.is_char_boundary(prefix.len()) || left.len() + right.len() - prefix.len() > longest
    });
    match bad {
        None => Ok(()),
        Some(at) => Err(Error::user(format!(
            "the result of merge {at} is not in the vocabulary: the file is damaged"
        ))),
    }
}
