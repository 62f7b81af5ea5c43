//! Text ↔ token ids, with the special tokens and the chat template a model ships.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;

use super::chat::ChatTemplate;
use super::fewest::{Encoded, Fewest};
use super::pipeline::{PostProcess, watched};
use super::tokenizer_file::{self, Engine, Read, add_all};
use crate::data::json::parse_object;
use crate::error::{Context, Error, Result};
use crate::file::guard::guard;
use crate::file::{limits, open};

/// The files of a Hugging Face model directory that define its tokenizer.
///
/// Only `tokenizer_json` is required. All are the raw bytes of the file named in the comment.
#[derive(Clone, Debug, Default)]
pub struct HfFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer_json: Cow<'a, [u8]>,
    /// `tokenizer_config.json`: names of special tokens, extra added tokens, chat template.
    pub tokenizer_config: Option<Cow<'a, [u8]>>,
    /// `special_tokens_map.json`: special tokens, which count where the tokenizer config has no
    /// `added_tokens_decoder`.
    pub special_tokens_map: Option<Cow<'a, [u8]>>,
    /// `added_tokens.json`: text → id of added tokens, of the time before `added_tokens_decoder`.
    pub added_tokens: Option<Cow<'a, [u8]>>,
    /// `generation_config.json`: the ids that end a completion.
    pub generation_config: Option<Cow<'a, [u8]>>,
    /// `config.json`: its `eos_token_id` counts where there is no `generation_config.json`.
    pub model_config: Option<Cow<'a, [u8]>>,
    /// `chat_template.jinja`: beats the template in `tokenizer_config.json`.
    pub chat_template: Option<Cow<'a, [u8]>>,
}

impl HfFiles<'static> {
    /// Reads the files from a model directory.
    ///
    /// # Errors
    /// A user error when `tokenizer.json` is missing, an I/O error when a file that exists cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let optional = |name: &str| -> Result<Option<Cow<'static, [u8]>>> {
            let path = dir.join(name);
            match std::fs::metadata(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(Error::io(&path)(e)),
                Ok(_) => {}
            }
            let limit = match name {
                tokenizer_file::FILE => &limits::TOKENIZER_FILE,
                _ => &limits::SETTINGS_FILE,
            };
            Ok(Some(open::read(&path, limit)?.into()))
        };
        let tokenizer_json = optional("tokenizer.json")?.ok_or_else(|| {
            let others = ["tokenizer.model", "tekken.json", "vocab.json", "merges.txt"];
            let found: Vec<&str> = others.into_iter().filter(|f| dir.join(f).is_file()).collect();
            let found = match found.as_slice() {
                [] => String::new(),
                files => format!(", only {}, which is not read", files.join(" and ")),
            };
            Error::user(format!(
                "{}: no tokenizer.json in this model directory{found}. Copy it from the model's repository (a slow tokenizer \
                 can be converted with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))",
                dir.display()
            ))
        })?;
        Ok(Self {
            tokenizer_json,
            tokenizer_config: optional("tokenizer_config.json")?,
            special_tokens_map: optional("special_tokens_map.json")?,
            added_tokens: optional("added_tokens.json")?,
            generation_config: optional("generation_config.json")?,
            model_config: optional("config.json")?,
            chat_template: optional("chat_template.jinja")?,
        })
    }
}

/// A model's tokenizer: text ↔ ids, special tokens, chat template.
///
/// Equal to transformers' tokenizer of the same files: special tokens written inside a text become their ids, and
/// truncation and padding stored in the file are ignored.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Engine,
    /// What messages call the file that defines it.
    file: &'static str,
    /// The bytes of its longest token.
    longest: usize,
    /// How few tokens a text may have.
    pub(super) fewest: Fewest,
    /// Put before every text encoded with `add_special` (GGUF; Hugging Face files say it in their post-processor).
    prepend: Option<u32>,
    /// As `prepend`, after it.
    append: Option<u32>,
    bos: Option<u32>,
    pad: Option<u32>,
    eos: Vec<u32>, // the tokenizer's own end token first, no id twice
    template: Option<ChatTemplate>,
}

/// What [`Tokenizer::from_parts`] needs beside the text ↔ ids engine.
pub(super) struct Parts {
    pub(super) file: &'static str,
    pub(super) longest: usize,
    pub(super) prepend: Option<u32>,
    pub(super) append: Option<u32>,
    pub(super) bos: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) eos: Vec<u32>,
    pub(super) template: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Builds the tokenizer from the files of a Hugging Face model directory.
    ///
    /// End tokens are the tokenizer's `eos_token` and every id of `generation_config.json`'s `eos_token_id` (of
    /// `config.json`'s where there is no generation config).
    ///
    /// # Errors
    /// A user error that names the file which is not what it should be.
    pub fn from_hf(files: &HfFiles<'_>) -> Result<Self> {
        let Read {
            engine: mut inner,
            longest,
        } = tokenizer_file::read(&files.tokenizer_json)?;
        let config = object(files.tokenizer_config.as_deref(), "tokenizer_config.json")?;
        let map = object(files.special_tokens_map.as_deref(), "special_tokens_map.json")?;
        let generation = object(files.generation_config.as_deref(), "generation_config.json")?;
        let model = object(files.model_config.as_deref(), "config.json")?;

        let added = object(files.added_tokens.as_deref(), "added_tokens.json")?;
        let split = config.get("split_special_tokens").and_then(Value::as_bool);
        inner.set_encode_special_tokens(split.unwrap_or(false));

        let specials = SpecialTokens::read(&config, &map);
        let rows = model.get("vocab_size").and_then(Value::as_u64);
        if config.contains_key("added_tokens_decoder") {
            add_declared_tokens(&mut inner, &config, &specials).context("tokenizer_config.json")?;
        } else {
            add_legacy_tokens(&mut inner, &added, &specials, rows)?;
        }
        add_tokens(&mut inner, specials.tokens().cloned(), rows).context("tokenizer_config.json")?;
        let name = |key: &str| {
            let named = specials.named.iter().find(|(k, _)| k == key);
            named
                .map(|(_, token)| token.content.clone())
                .or_else(|| token_name(&map, key))
        };
        let id = |key: &str| -> Option<u32> {
            let token = name(key)?;
            let id = inner.token_to_id(&token);
            if id.is_none() {
                log::warn!("tokenizer_config.json: {key} {token:?} is not in the vocabulary; ignored");
            }
            id
        };
        let (bos, pad) = (id("bos_token"), id("pad_token"));
        let mut eos: Vec<u32> = id("eos_token").into_iter().collect();
        let declared = match generation.get("eos_token_id") {
            Some(ids) => end_ids(ids).context("generation_config.json")?,
            None if files.generation_config.is_none() => {
                end_ids(model.get("eos_token_id").unwrap_or(&Value::Null)).context("config.json")?
            }
            None => Vec::new(),
        };
        eos.extend(declared);

        let mut vars: Vec<(String, String)> = Vec::new();
        for key in SPECIAL_KEYS {
            vars.extend(name(key).map(|token| (key.to_owned(), token)));
        }
        for (key, token) in &specials.named {
            if !SPECIAL_KEYS.contains(&key.as_str()) {
                vars.push((key.clone(), token.content.clone()));
            }
        }
        let template = template_source(files, &config)?
            .map(|(source, file)| ChatTemplate::named(file, &source, vars))
            .transpose()?;
        Ok(Self::from_parts(
            inner,
            Parts {
                file: tokenizer_file::FILE,
                longest,
                prepend: None,
                append: None,
                bos,
                pad,
                eos,
                template,
            },
        ))
    }

    /// Builds the tokenizer of the model directory `dir`; see [`HfFiles::read`] and [`Tokenizer::from_hf`].
    ///
    /// # Errors
    /// As those two, with the directory put before the message.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::from_hf(&HfFiles::read(dir)?).context(dir.display())
    }

    pub(super) fn from_parts(inner: Engine, parts: Parts) -> Self {
        let mut seen = HashSet::new();
        let eos = parts.eos.into_iter().filter(|id| seen.insert(*id)).collect();
        // An added token stands in a text as the normalizer makes it.
        let added = inner.get_added_vocabulary();
        let added = added.get_added_tokens_decoder().keys();
        let longest = added
            .filter_map(|id| inner.get_added_vocabulary().simple_id_to_token(*id))
            .map(|token| token.len())
            .fold(parts.longest, usize::max);
        Self {
            fewest: Fewest::new(&inner, longest),
            inner,
            file: parts.file,
            longest,
            prepend: parts.prepend,
            append: parts.append,
            bos: parts.bos,
            pad: parts.pad,
            eos,
            template: parts.template,
        }
    }

    /// The token ids of `text`; `add_special` adds what the model puts around a bare text (usually BOS before it).
    ///
    /// Text that a chat template rendered already holds its special tokens: encode it with `add_special = false`.
    ///
    /// # Errors
    /// A user error when the vocabulary cannot spell the text (only tokenizers without byte fallback), when the file's
    /// steps make too much of it, or when it is longer than [`limits::TOKENIZED`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.encode_within(text, add_special, usize::MAX)?.ids()
    }

    /// As [`Tokenizer::encode`] for a reader that cannot use more than `most` tokens: a text that has more by its bytes
    /// alone is not tokenised.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_within(&self, text: &str, add_special: bool, most: usize) -> Result<Encoded> {
        if let Some(tokens) = self.fewest.more_than(most, text) {
            return Ok(Encoded::TooLong(tokens));
        }
        limits::TOKENIZED.check(self.file, text.len())?;
        let encode = || watched(|| self.inner.encode_fast(text, add_special));
        let encoding = guard(self.file, || {
            encode().map_err(|e| Error::user(format!("{}: this text cannot be tokenised: {e}", self.file)))
        })?;
        let around = |id: Option<u32>| id.filter(|_| add_special);
        let ids = around(self.prepend)
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .chain(around(self.append));
        Ok(Encoded::Ids(ids.collect()))
    }

    /// The text of `ids`; `skip_special` leaves out special tokens. Bytes that are not UTF-8 become U+FFFD; ids past
    /// the vocabulary (padding rows of an embedding) have no text.
    ///
    /// # Errors
    /// A user error when the file's decoder fails, or makes too much of the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let said = |e: &dyn std::fmt::Display| {
            Error::user(format!("{}: decoding {} tokens: {e}", self.file, ids.len()))
        };
        // Most vocabularies have no token that is long enough to look further.
        if ids.len().saturating_mul(self.longest.max(64)) as u64 > limits::GROWN_TEXT.most() {
            let mut length = 0;
            for id in ids {
                length += self.inner.id_to_token(*id).map_or(0, |token| token.len());
                if length > ids.len().saturating_mul(64) {
                    limits::GROWN_TEXT
                        .check("its tokens", length)
                        .map_err(|e| said(&e))?;
                }
            }
        }
        guard(self.file, || {
            watched(|| self.inner.decode(ids, skip_special)).map_err(|e| said(&e))
        })
    }

    /// How many tokens there are, added ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that a model with `rows` embedding rows has one for every token. More rows than tokens are fine: models
    /// pad their embedding.
    ///
    /// # Errors
    /// A user error with both numbers.
    pub fn check_vocab(&self, rows: usize) -> Result<()> {
        let vocab = self.inner.get_vocab(true).into_iter();
        let added = self.inner.get_post_processor().and_then(PostProcess::largest);
        match vocab.chain(added.cloned()).max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= rows => Err(Error::user(format!(
                "tokenizer and model do not belong together: the tokenizer has token {token:?} with id {id}, the model's \
                 vocabulary has {rows} rows. Use the tokenizer files of this model"
            ))),
            _ => Ok(()),
        }
    }

    /// The id of the begin-of-text token, where the model has one.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The id of the padding token, where the tokenizer names one.
    #[must_use]
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// The token that ends a turn or a text as the tokenizer itself writes it (`eos_ids()`'s first).
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos.first().copied()
    }

    /// Every id that ends a completion, the tokenizer's own first; empty when the files name none.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The id of `token`, spelled as in the vocabulary.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, spelled as in the vocabulary.
    #[must_use]
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The chat template, where the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}

/// The special tokens that transformers has names for, in its order.
const SPECIAL_KEYS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

type Object = serde_json::Map<String, Value>;

/// Parses an optional JSON object; an absent file is an empty one.
fn object(bytes: Option<&[u8]>, file: &str) -> Result<Object> {
    let Some(bytes) = bytes else {
        return Ok(Object::new());
    };
    parse_object(bytes, file)
}

/// A special token's text: a string, or an object with `content`.
fn token_name(object: &Object, key: &str) -> Option<String> {
    let value = object.get(key)?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// A token of a config: its text, or an object with `content` and flags. `special` counts where the
/// object does not say.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return (!text.is_empty()).then(|| AddedToken::from(text, true).normalized(false));
    }
    let content = value.get("content")?.as_str().filter(|c| !c.is_empty())?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}

/// The special tokens that `tokenizer_config.json` and `special_tokens_map.json` declare, put
/// together as transformers 5 does.
struct SpecialTokens {
    /// By key: [`SPECIAL_KEYS`] in their order, then the model's own (`image_token`,
    /// `extra_special_tokens` by name).
    named: Vec<(String, AddedToken)>,
    /// Those without a name.
    extra: Vec<AddedToken>,
}

impl SpecialTokens {
    fn read(config: &Object, map: &Object) -> Self {
        let mut config = config.clone();
        let filled = |value: Option<&Value>| match value {
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(names)) => !names.is_empty(),
            _ => false,
        };
        // The older name of a list counts where the newer is empty.
        let renamed = |object: &mut Object| {
            if let Some(older) = object.remove("additional_special_tokens")
                && !filled(object.get("extra_special_tokens"))
            {
                object.insert("extra_special_tokens".to_owned(), older);
            }
        };
        renamed(&mut config);
        let mut extra = Vec::new();
        let mut from_map = Vec::new();
        if !config.contains_key("added_tokens_decoder") {
            let mut map = map.clone();
            if config.contains_key("extra_special_tokens") {
                map.remove("additional_special_tokens");
            }
            renamed(&mut map);
            for (key, value) in map {
                if let (Some(before), Some(now)) = (token_name(&config, &key), added_token(&value, true))
                    && before != now.content
                {
                    log::warn!(
                        "{key} is {before:?} in tokenizer_config.json and {:?} in special_tokens_map.json; the second counts, \
                         as in transformers",
                        now.content
                    );
                }
                match (value, config.get_mut("extra_special_tokens")) {
                    (Value::Array(more), Some(Value::Array(list))) if key == "extra_special_tokens" => {
                        let list: HashSet<&Value> = list.iter().collect();
                        from_map.extend(more.iter().filter(|token| !list.contains(token)).cloned());
                    }
                    (value, _) => {
                        config.insert(key, value);
                    }
                }
            }
        }
        let mut named = Vec::new();
        let mut push = |key: &str, value: &Value| {
            if let Some(mut token) = added_token(value, true) {
                token.special = true;
                named.push((key.to_owned(), token));
            }
        };
        for key in SPECIAL_KEYS {
            push(key, config.get(key).unwrap_or(&Value::Null));
        }
        for (key, value) in &config {
            if key.ends_with("_token") && !SPECIAL_KEYS.contains(&key.as_str()) {
                push(key, value);
            }
        }
        match config.get("extra_special_tokens") {
            Some(Value::Object(names)) => names.iter().for_each(|(key, value)| push(key, value)),
            Some(Value::Array(list)) => {
                extra.extend(list.iter().filter_map(|value| added_token(value, false)));
            }
            _ => {}
        }
        extra.extend(from_map.iter().filter_map(|value| added_token(value, true)));
        Self { named, extra }
    }

    fn tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.named.iter().map(|(_, token)| token).chain(&self.extra)
    }
}

/// Makes each of the tokens one id that no merge cuts. A token that is not in the vocabulary gets the next id, as in
/// transformers, where the model's embedding has a row for it (`rows`, of `config.json`); else it stays text.
fn add_tokens(inner: &mut Engine, tokens: impl Iterator<Item = AddedToken>, rows: Option<u64>) -> Result<()> {
    let added = inner.get_added_vocabulary().get_vocab();
    let after = added.values().max().map_or(0, |id| u64::from(*id) + 1);
    let mut next = (inner.get_vocab_size(false) as u64).max(after);
    let (mut seen, mut chosen) = (HashSet::new(), Vec::new());
    let (mut first_left, mut left) = (None, 0);
    for token in tokens {
        if added.contains_key(&token.content) || !seen.insert(token.content.clone()) {
            continue;
        }
        if inner.token_to_id(&token.content).is_none() {
            if rows.is_none_or(|rows| next >= rows) {
                first_left.get_or_insert(token.content);
                left += 1;
                continue;
            }
            next += 1;
        }
        chosen.push(token);
    }
    if let Some(first) = first_left {
        log::warn!(
            "the special token {first:?} is not in the vocabulary, and the model has no row for another token; it is read as \
             text{}",
            match left {
                1 => String::new(),
                _ => format!(", and so are {} more", left - 1),
            }
        );
    }
    match chosen.is_empty() {
        true => Ok(()),
        false => add_all(inner, chosen),
    }
}

/// Adds the tokens of `added_tokens.json`, in the order of their ids.
fn add_legacy_tokens(
    inner: &mut Engine,
    added: &Object,
    specials: &SpecialTokens,
    rows: Option<u64>,
) -> Result<()> {
    let mut tokens: Vec<(u64, &String)> = Vec::new();
    for (content, id) in added {
        let Some(id) = id.as_u64() else {
            return Err(Error::user(format!(
                "added_tokens.json: the id of {content:?} must be a number, found {id}"
            )));
        };
        tokens.push((id, content));
    }
    tokens.sort_unstable();
    let special: HashSet<&str> = specials.tokens().map(|token| token.content.as_str()).collect();
    let all = tokens.iter().map(|(_, content)| {
        let special = special.contains(content.as_str());
        AddedToken::from(content.as_str(), special).normalized(!special)
    });
    add_tokens(inner, all, rows).context("added_tokens.json")?;
    let differs = |(id, content): &&(u64, &String)| {
        let got = inner.token_to_id(content).map(u64::from);
        got.is_some_and(|got| got != *id)
    };
    let mut other = tokens.iter().filter(differs);
    if let Some((id, content)) = other.next() {
        log::warn!(
            "added_tokens.json gives {content:?} the id {id}, tokenizer.json {}; the second counts, as in transformers{}",
            inner.token_to_id(content).unwrap_or_default(),
            match other.count() {
                0 => String::new(),
                more => format!(" ({more} more tokens are like it)"),
            }
        );
    }
    Ok(())
}

/// Whether two tokens are cut out of a text alike.
fn same_flags(a: &AddedToken, b: &AddedToken) -> bool {
    let flags = |t: &AddedToken| (t.special, t.single_word, t.lstrip, t.rstrip, t.normalized);
    flags(a) == flags(b)
}

/// Adds the tokens of `added_tokens_decoder` (id → token) that `tokenizer.json` lacks, or has with
/// other flags: then those of `added_tokens_decoder` count, as in transformers.
fn add_declared_tokens(inner: &mut Engine, config: &Object, specials: &SpecialTokens) -> Result<()> {
    let Some(declared) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Ok(());
    };
    let own = inner.get_added_tokens_decoder();
    let own: HashMap<&str, &AddedToken> = own.values().map(|t| (t.content.as_str(), t)).collect();
    let named = specials.named.iter().map(|(_, token)| token.content.as_str());
    let named: HashSet<&str> = named.collect();
    let (mut tokens, mut first_other, mut others) = (Vec::new(), None, 0);
    for (id, token) in declared {
        let id: u32 = id
            .parse()
            .map_err(|_| Error::user(format!("added_tokens_decoder: the key {id:?} is not a token id")))?;
        let content = token.get("content").and_then(Value::as_str).unwrap_or("");
        if content.is_empty() {
            return Err(Error::user(format!(
                "added_tokens_decoder: token {id} has no content"
            )));
        }
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let flag = |name: &str, absent: bool| token.get(name).and_then(Value::as_bool).unwrap_or(absent);
        let added = AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special));
        // A token that a key names is special, whatever its flags say.
        let added = match named.contains(content) {
            true => AddedToken {
                special: true,
                ..added
            },
            false => added,
        };
        match own.get(content) {
            None => tokens.push((id, added)),
            Some(own) if !same_flags(own, &added) => {
                first_other.get_or_insert(content);
                others += 1;
                let at = inner.token_to_id(content).unwrap_or(id);
                tokens.push((at, added));
            }
            Some(_) => {}
        }
    }
    if let Some(content) = first_other {
        log::warn!(
            "added_tokens_decoder and tokenizer.json say different things of {content:?} (special, single_word, lstrip, \
             rstrip or normalized); added_tokens_decoder counts, as in transformers{}",
            match others {
                1 => String::new(),
                _ => format!(" ({} more tokens are like it)", others - 1),
            }
        );
    }
    if tokens.is_empty() {
        return Ok(());
    }
    tokens.sort_by_key(|(id, _)| *id);
    let wanted: Vec<(u32, String)> = tokens.iter().map(|(id, t)| (*id, t.content.clone())).collect();
    add_all(inner, tokens.into_iter().map(|(_, token)| token).collect())?;
    for (id, content) in wanted {
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            return Err(Error::user(format!(
                "added_tokens_decoder gives {content:?} the id {id}, tokenizer.json makes it {}: the two files do not belong \
                 together",
                got.map_or_else(|| "none".to_owned(), |got| got.to_string())
            )));
        }
    }
    Ok(())
}

/// `eos_token_id`: an id, a list of ids, or null.
fn end_ids(value: &Value) -> Result<Vec<u32>> {
    let one = |v: &Value| {
        v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Error::user(format!(
                "eos_token_id must be a token id or a list of them, found {v}"
            ))
        })
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(ids) => ids.iter().map(one).collect(),
        id => Ok(vec![one(id)?]),
    }
}

/// The chat template's source and the file it came from.
fn template_source(files: &HfFiles<'_>, config: &Object) -> Result<Option<(String, &'static str)>> {
    if let Some(bytes) = &files.chat_template {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Error::user(format!("chat_template.jinja: not UTF-8: {e}")))?;
        return Ok(Some((text.to_owned(), "chat_template.jinja")));
    }
    let file = "tokenizer_config.json";
    let named_file = "chat_template of tokenizer_config.json";
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some((source.clone(), named_file))),
        Some(Value::Array(named)) => {
            let field = |entry: &Value, key: &str| entry.get(key)?.as_str().map(str::to_owned);
            let names: Vec<String> = named.iter().filter_map(|e| field(e, "name")).collect();
            let default = named
                .iter()
                .find(|e| field(e, "name").as_deref() == Some("default"))
                .and_then(|e| field(e, "template"));
            match default {
                Some(source) => Ok(Some((source, named_file))),
                None => Err(Error::user(format!(
                    "{file}: chat_template is a list without a template named \"default\" (it has {names:?}): put the one to \
                     use into a file chat_template.jinja beside it"
                ))),
            }
        }
        Some(_) => Err(Error::user(format!(
            "{file}: chat_template must be a string or a list of named templates"
        ))),
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
pub(super) mod tests;
