//! The steps around a tokenizer's model, watched: no step makes more of a text than its limit, and none panics on a file.
//!
//! A `tokenizer.json` names a list of steps that normalise a text, cut it, add special tokens and decode. A step may
//! make a long text of a short one, and the next step of that, so each is asked before it runs.

use std::cell::RefCell;
use std::sync::OnceLock;

use fancy_regex::{Regex, RegexBuilder, RuntimeError};
use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{
    Decoder, Encoding, NormalizedString, Normalizer, NormalizerWrapper, Offsets, PostProcessor,
    PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

use crate::error::{Context, Error, Result};
use crate::file::limits;

/// How deep lists of steps may lie inside each other.
const DEPTH: usize = 16;

/// The most cutting steps that also lengthen a text, each up to four times.
const LENGTHENING: usize = 4;

/// The longest text that a character map may put in place of a character, in bytes. Unicode's longest takes 33.
const CHARACTER: usize = 1024;

/// The most times that a template may repeat the text, and the most tokens it may add.
const REPEATS: usize = 16;
const TEMPLATE_TOKENS: usize = 1 << 16;

/// A text may become this many times longer without being counted: no real step makes more of it.
const ORDINARY: usize = 8;

/// The steps of backtracking that a search is given at first, and those of one that needs more (as the crate has it).
/// Patterns of real tokenizers hardly go back.
const EASY: usize = 10_000;
const HARD: usize = 1_000_000;

/// How many searches of one call may be hard ones, and one more for every so many bytes of text.
const HARD_SEARCHES: usize = 32;
const HARD_EVERY: usize = 1000;

type CrateResult<T> = tokenizers::Result<T>;

/// What the texts of one call have become so far.
#[derive(Default)]
struct Watch {
    /// The bytes that went in.
    read: usize,
    /// The bytes that came out.
    made: usize,
    /// Searches that went back often.
    hard: usize,
    /// The first step that would have made too much: the crate drops what a normaliser returns.
    fault: Option<String>,
}

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// Runs a call of the crate that normalises texts; what a step found is its error.
///
/// # Errors
/// What the call returns, or the step that would have made too much of a text.
pub(super) fn watched<T>(call: impl FnOnce() -> CrateResult<T>) -> Result<T> {
    WATCH.with_borrow_mut(|watch| *watch = Watch::default());
    let result = call();
    match WATCH.with_borrow_mut(|watch| watch.fault.take()) {
        Some(fault) => Err(Error::user(fault)),
        None => result.map_err(Error::user),
    }
}

/// Checks that a text of `read` bytes may become one of `made` bytes.
fn check_growth(place: &str, read: usize, made: usize) -> Result<()> {
    if made <= read.saturating_mul(ORDINARY) {
        return Ok(());
    }
    limits::GROWN_TEXT.check(place, made)
}

/// The steps of a section: lists in lists become one.
fn steps(section: &str, key: &str, value: Value) -> Result<Vec<Value>> {
    fn flatten(section: &str, key: &str, value: Value, depth: usize, steps: &mut Vec<Value>) -> Result<()> {
        let is_list = match value.get("type") {
            Some(kind) => kind == "Sequence",
            None => key == "normalizers" && value.get(key).is_some(),
        };
        if !is_list {
            steps.push(value);
            return limits::TOKENIZER_STEPS.check(section, steps.len());
        }
        if depth == DEPTH {
            return Err(Error::user(format!(
                "{section}: lists of steps lie in each other more than {DEPTH} deep; no real tokenizer's do"
            )));
        }
        let Value::Object(mut list) = value else {
            return Ok(());
        };
        match list.remove(key) {
            Some(Value::Array(inner)) => inner
                .into_iter()
                .try_for_each(|step| flatten(section, key, step, depth + 1, steps)),
            _ => Err(unreadable(section, &format!("missing field `{key}`"))),
        }
    }
    let mut all = Vec::new();
    if !value.is_null() {
        flatten(section, key, value, 0, &mut all)?;
    }
    Ok(all)
}

fn unreadable(section: &str, said: &str) -> Error {
    let said: String = said.chars().take(300).collect();
    Error::user(format!(
        "not a tokenizer file this version can read: {section}: {said}"
    ))
}

/// Builds a step as the crate does.
fn step<T: serde::de::DeserializeOwned>(section: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| unreadable(section, &e.to_string()))
}

/// What the regular expressions of one file have cost so far.
#[derive(Default)]
struct Patterns(u64);

impl Patterns {
    /// Counts the regular expression of a step, where it has one.
    fn count(&mut self, section: &str, step: &Value) -> Result<()> {
        if let Some(Value::String(pattern)) = step.get("pattern").and_then(|p| p.get("Regex")) {
            self.0 = self.0.saturating_add(pattern_size(pattern));
            limits::TOKENIZER_PATTERNS.check(section, self.0)?;
        }
        Ok(())
    }
}

/// How large a regular expression becomes at most: its characters, times every number of its repetitions. Nested
/// repetitions multiply; those that stand beside each other are taken as if they did.
fn pattern_size(pattern: &str) -> u64 {
    let mut size = pattern.chars().count() as u64;
    let mut rest = pattern;
    while let Some(at) = rest.find(['\\', '{']) {
        let after = &rest[at..];
        if after.starts_with('\\') {
            // `\x{…}`, `\p{…}` and the like are names, not repetitions.
            let mut chars = after.chars();
            chars.next();
            let letter = chars.next();
            rest = chars.as_str();
            if let (Some('x' | 'u' | 'U' | 'p' | 'P' | 'k' | 'g' | 'N'), Some(inner)) =
                (letter, rest.strip_prefix('{'))
                && let Some(end) = inner.find('}')
                && inner[..end]
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_=^: -".contains(c))
            {
                rest = &inner[end + 1..];
            }
            continue;
        }
        let inner = &after[1..];
        let end = inner.find(|c: char| !c.is_ascii_digit() && c != ',' && c != ' ');
        let numbers = &inner[..end.unwrap_or(inner.len())];
        let largest = numbers.split(',').map(|n| n.trim().parse::<u64>());
        // More digits than a number has are as good as the largest.
        let largest = largest.map(|n| match n {
            Ok(n) => n,
            Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => u64::MAX,
            Err(_) => 1,
        });
        size = size.saturating_mul(largest.max().unwrap_or(1).max(1));
        rest = inner;
    }
    size
}

/// A regular expression of a step. One that goes back again and again is given up with an error; the crate's own ends
/// its search there and says nothing, up to a second later for every character.
#[derive(Debug)]
struct Search {
    pattern: String,
    easy: Regex,
    /// Made when it is first needed.
    hard: OnceLock<Regex>,
}

impl Search {
    fn new(section: &str, pattern: &str) -> Result<Self> {
        let easy = RegexBuilder::new(pattern).backtrack_limit(EASY).build();
        Ok(Self {
            pattern: pattern.to_owned(),
            easy: easy.map_err(|e| unreadable(section, &e.to_string()))?,
            hard: OnceLock::new(),
        })
    }

    /// The first match that begins at `at` or after it.
    fn find(&self, text: &str, at: usize) -> CrateResult<Option<(usize, usize)>> {
        let range = |found: Option<fancy_regex::Match<'_>>| found.map(|m| (m.start(), m.end()));
        if let Ok(found) = self.easy.find_from_pos(text, at) {
            return Ok(range(found));
        }
        let hard = WATCH.with_borrow_mut(|watch| {
            watch.hard += 1;
            watch.hard
        });
        if hard > HARD_SEARCHES + text.len() / HARD_EVERY {
            return Err("a regular expression of the file goes back too often on this text".into());
        }
        let regex = match self.hard.get() {
            Some(regex) => regex,
            None => {
                let regex = RegexBuilder::new(&self.pattern).backtrack_limit(HARD).build()?;
                self.hard.get_or_init(|| regex)
            }
        };
        match regex.find_from_pos(text, at) {
            Ok(found) => Ok(range(found)),
            // A run of a million spaces: the crate, too, takes the rest as it is.
            Err(fancy_regex::Error::RuntimeError(RuntimeError::StackOverflow)) => Ok(None),
            Err(_) => Err(
                "a regular expression of the file goes back more than a million times on this text".into(),
            ),
        }
    }
}

impl Pattern for &Search {
    /// Every match and what lies between, as the crate has it: no empty match directly after another.
    fn find_matches(&self, text: &str) -> CrateResult<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut pieces = Vec::with_capacity(text.len());
        let (mut at, mut done, mut last) = (0, 0, None);
        while at <= text.len() {
            let Some((start, end)) = self.find(text, at)? else {
                break;
            };
            at = end;
            if start == end {
                at += text[end..].chars().next().map_or(1, char::len_utf8);
                if last == Some(end) {
                    continue;
                }
            }
            last = Some(end);
            if done != start {
                pieces.push(((done, start), false));
            }
            pieces.push(((start, end), true));
            done = end;
        }
        if done != text.len() {
            pieces.push(((done, text.len()), false));
        }
        Ok(pieces)
    }
}

/// The regular expression of a step of the kind `kind`.
fn regex_of(section: &str, kind: &str, step: &Value) -> Result<Option<Search>> {
    let named = step.get("type").and_then(Value::as_str) == Some(kind);
    match step
        .get("pattern")
        .and_then(|p| p.get("Regex"))
        .and_then(Value::as_str)
    {
        Some(pattern) if named => Search::new(section, pattern).map(Some),
        _ => Ok(None),
    }
}

/// A replacement by regular expression, of a normalizer or a decoder.
#[derive(Debug)]
struct Substitute {
    search: Search,
    content: String,
}

impl Substitute {
    fn read(section: &str, step: &Value) -> Result<Option<Self>> {
        let Some(search) = regex_of(section, "Replace", step)? else {
            return Ok(None);
        };
        let content = step.get("content").and_then(Value::as_str);
        let content = content.ok_or_else(|| unreadable(section, "missing field `content`"))?;
        Ok(Some(Self {
            search,
            content: content.to_owned(),
        }))
    }

    /// The length of a text after it, without making it.
    fn length(&self, text: &str) -> CrateResult<usize> {
        let pieces = (&self.search).find_matches(text)?;
        let length = |(at, matched): &(Offsets, bool)| match matched {
            true => self.content.len(),
            false => at.1 - at.0,
        };
        Ok(pieces.iter().map(length).sum())
    }

    fn apply(&self, text: &str) -> CrateResult<String> {
        let mut new = String::new();
        for ((start, end), matched) in (&self.search).find_matches(text)? {
            new.push_str(if matched { &self.content } else { &text[start..end] });
        }
        Ok(new)
    }
}

/// What steps may take away of a text before it becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    /// How many bytes may become one; `None` where any number may vanish.
    times: Option<usize>,
    /// Whether any white space may vanish, beside that.
    spaces: bool,
}

impl Loss {
    /// Nothing.
    pub(super) const NONE: Self = Self::shrunk(1);
    /// White space.
    pub(super) const SPACES: Self = Self {
        times: Some(1),
        spaces: true,
    };
    /// Anything.
    const ANY: Self = Self {
        times: None,
        spaces: true,
    };

    const fn shrunk(times: usize) -> Self {
        Self {
            times: Some(times),
            spaces: false,
        }
    }

    /// This, and then another.
    pub(super) fn then(self, next: Self) -> Self {
        let times = self.times.zip(next.times);
        Self {
            times: times.and_then(|(a, b)| a.checked_mul(b)),
            spaces: self.spaces || next.spaces,
        }
    }

    /// How many bytes may become one; `None` where any number may vanish.
    pub(super) fn times(self) -> Option<usize> {
        self.times
    }

    /// Whether white space may vanish.
    pub(super) fn spaces(self) -> bool {
        self.spaces
    }
}

/// The steps that make a text uniform before it is cut.
#[derive(Debug, Default)]
pub(super) struct Normalize(Vec<NormalizeStep>);

#[derive(Debug)]
enum NormalizeStep {
    Plain(NormalizerWrapper),
    /// A character map, and the longest text that it puts in place of a character.
    Map(Precompiled, usize),
    Substitute(Substitute),
}

impl NormalizeStep {
    /// The most bytes that it may make of a text, by its length alone. A normal form of Unicode counts when it is made.
    fn most(&self, length: usize) -> usize {
        match self {
            Self::Plain(NormalizerWrapper::Replace(step)) => (length + 1) * step.content.len().max(1),
            Self::Substitute(step) => (length + 1) * step.content.len().max(1),
            Self::Plain(NormalizerWrapper::Prepend(step)) => length + step.prepend.len(),
            Self::Map(_, longest) => length * longest.max(&1),
            Self::Plain(_) => length,
        }
    }

    /// The bytes that it makes of a text.
    fn exact(&self, text: &str) -> CrateResult<usize> {
        match self {
            Self::Plain(NormalizerWrapper::Replace(step)) => replaced_length(step, text),
            Self::Substitute(step) => step.length(text),
            Self::Map(map, _) => Ok(mapped_length(map, text)),
            Self::Plain(_) => Ok(self.most(text.len())),
        }
    }

    /// What it may take away. No normal form of Unicode makes one byte of more than four.
    fn loss(&self) -> Loss {
        use NormalizerWrapper as N;
        match self {
            Self::Plain(N::Prepend(_) | N::ByteLevel(_)) => Loss::NONE,
            Self::Plain(N::NFC(_) | N::NFD(_) | N::NFKC(_) | N::NFKD(_) | N::Lowercase(_)) => Loss::shrunk(4),
            Self::Plain(N::Replace(step)) => {
                let pattern = match pattern_of(step) {
                    Ok(ReplacePattern::String(pattern)) => pattern,
                    _ => return Loss::ANY,
                };
                match pattern.len().checked_div(step.content.len()) {
                    // What was no white space may have become some.
                    Some(_) if step.content.contains(char::is_whitespace) => Loss::ANY,
                    Some(_) => Loss::shrunk(pattern.len().div_ceil(step.content.len()).max(1)),
                    None => Loss::ANY,
                }
            }
            Self::Plain(N::StripNormalizer(_)) => Loss::SPACES,
            _ => Loss::ANY,
        }
    }

    fn run(&self, text: &mut NormalizedString) -> CrateResult<()> {
        match self {
            Self::Plain(step) => step.normalize(text),
            Self::Substitute(step) => text.replace(&step.search, &step.content),
            Self::Map(map, _) => map.normalize(text),
        }
    }
}

impl Normalize {
    /// Steps that this program made itself.
    pub(super) fn new(steps: Vec<NormalizerWrapper>) -> Self {
        Self(steps.into_iter().map(NormalizeStep::Plain).collect())
    }

    /// The steps of a file's `normalizer`.
    pub(super) fn read(section: Value) -> Result<Option<Self>> {
        let name = "normalizer";
        if section.is_null() {
            return Ok(None);
        }
        let mut patterns = Patterns::default();
        let mut all = Vec::new();
        for value in steps(name, "normalizers", section)? {
            patterns.count(name, &value)?;
            let map = value.get("precompiled_charsmap");
            all.push(match (value.get("type").and_then(Value::as_str), map) {
                (Some("Precompiled") | None, Some(map)) => {
                    let (map, longest) = character_map(map.as_str().unwrap_or("")).context(name)?;
                    NormalizeStep::Map(map, longest)
                }
                _ => match Substitute::read(name, &value)? {
                    Some(substitute) => NormalizeStep::Substitute(substitute),
                    None => NormalizeStep::Plain(step(name, value)?),
                },
            });
        }
        Ok(Some(Self(all)))
    }

    /// What they may take away of a text.
    pub(super) fn loss(&self) -> Loss {
        self.0
            .iter()
            .fold(Loss::NONE, |loss, step| loss.then(step.loss()))
    }

    /// Whether they make letters of bytes, which stand for every text.
    pub(super) fn spells_bytes(&self) -> bool {
        let step =
            |step: &NormalizeStep| matches!(step, NormalizeStep::Plain(NormalizerWrapper::ByteLevel(_)));
        self.0.last().is_some_and(step)
    }

    fn run(&self, text: &mut NormalizedString) -> CrateResult<()> {
        let (read, made) = WATCH.with_borrow_mut(|watch| {
            watch.read += text.get().len();
            (watch.read, watch.made)
        });
        for (at, step) in self.0.iter().enumerate() {
            let place = || format!("normalizer, step {}", at + 1);
            // Only where it may be too much is it counted.
            if check_growth("", read, made + step.most(text.get().len())).is_err() {
                check_growth(&place(), read, made + step.exact(text.get())?)?;
            }
            step.run(text)?;
            check_growth(&place(), read, made + text.get().len())?;
        }
        WATCH.with_borrow_mut(|watch| watch.made += text.get().len());
        Ok(())
    }
}

impl Normalizer for Normalize {
    fn normalize(&self, text: &mut NormalizedString) -> CrateResult<()> {
        if WATCH.with_borrow(|watch| watch.fault.is_some()) {
            text.clear();
            return Ok(());
        }
        self.run(text).inspect_err(|fault| {
            WATCH.with_borrow_mut(|watch| watch.fault = Some(fault.to_string()));
            text.clear();
        })
    }
}

/// What a replacement looks for, which the crate does not show.
fn pattern_of(replace: &Replace) -> serde_json::Result<ReplacePattern> {
    let pattern = serde_json::to_value(replace).map(|mut v| v["pattern"].take());
    pattern.and_then(serde_json::from_value)
}

/// The length of a text after a replacement, without making it.
fn replaced_length(replace: &Replace, text: &str) -> CrateResult<usize> {
    let pattern = pattern_of(replace)?;
    let with = |content: &str| -> CrateResult<usize> {
        let texts = Replace::new(pattern.clone(), content)?.decode_chain(vec![text.to_owned()])?;
        Ok(texts.iter().map(String::len).sum())
    };
    let kept = with("")?;
    Ok(kept.saturating_add((with("x")? - kept).saturating_mul(replace.content.len())))
}

/// About the length of a text after a character map: pieces of it are mapped and counted.
fn mapped_length(map: &Precompiled, text: &str) -> usize {
    let (mut rest, mut length) = (text, 0);
    while !rest.is_empty() {
        let mut end = rest.len().min(1 << 16);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        length += map.normalize_string(piece).len();
        rest = after;
    }
    length
}

/// SentencePiece's character map: a tree of 32-bit words, its size before it, and the texts that it points to. Returns
/// it and its longest text.
fn character_map(base64: &str) -> Result<(Precompiled, usize)> {
    let broken = |why: &str| Error::user(format!("precompiled_charsmap: {why}: the file is damaged"));
    let bytes = decode_base64(base64).ok_or_else(|| broken("it is not base64"))?;
    let size = bytes.first_chunk::<4>().map(|size| u32::from_le_bytes(*size));
    let size = size.ok_or_else(|| broken("it is cut"))? as usize;
    let Some(texts) = bytes.get(4 + size / 4 * 4..) else {
        return Err(broken(&format!(
            "its tree has {size} bytes, but {} follow",
            bytes.len() - 4
        )));
    };
    if size < 4 {
        return Err(broken("its tree is empty"));
    }
    let longest = texts.split(|b| *b == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > CHARACTER {
        return Err(broken(&format!(
            "it puts {longest} bytes in place of a character; {CHARACTER} are the most"
        )));
    }
    let map = Precompiled::from(&bytes).map_err(|e| broken(&e.to_string()))?;
    Ok((map, longest))
}

/// The bytes of base64 with padding, as RFC 4648 has it.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| {
        Some(match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in digits.as_bytes().chunks(4) {
        let mut word = 0u32;
        for c in four {
            word = word << 6 | u32::from(digit(*c)?);
        }
        word <<= 6 * (4 - four.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

/// The steps that cut a text into words.
#[derive(Debug)]
pub(super) struct PreTokenize(Vec<PreTokenizeStep>);

#[derive(Debug)]
enum PreTokenizeStep {
    Plain(PreTokenizerWrapper),
    Split {
        search: Search,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
}

impl PreTokenize {
    /// Steps that this program made itself.
    pub(super) fn new(steps: Vec<PreTokenizerWrapper>) -> Self {
        Self(steps.into_iter().map(PreTokenizeStep::Plain).collect())
    }

    /// The steps of a file's `pre_tokenizer`: there is always such a list, since it also stops what a normalizer could
    /// not finish.
    pub(super) fn read(section: Value) -> Result<Self> {
        let name = "pre_tokenizer";
        let mut patterns = Patterns::default();
        let (mut all, mut lengthening) = (Vec::new(), 0);
        for mut value in steps(name, "pretokenizers", section)? {
            patterns.count(name, &value)?;
            if let Some(search) = regex_of(name, "Split", &value)? {
                let mut field = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
                all.push(PreTokenizeStep::Split {
                    search,
                    behavior: step(name, field("behavior"))?,
                    invert: step(name, field("invert"))?,
                });
                continue;
            }
            let step: PreTokenizerWrapper = step(name, value)?;
            match &step {
                PreTokenizerWrapper::FixedLength(fixed) if fixed.length == 0 => {
                    return Err(Error::user(format!(
                        "{name}: FixedLength cuts pieces of length 0; its length must be at least 1"
                    )));
                }
                PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Metaspace(_) => lengthening += 1,
                _ => {}
            }
            all.push(PreTokenizeStep::Plain(step));
        }
        if lengthening > LENGTHENING {
            return Err(Error::user(format!(
                "{name}: {lengthening} of its steps are ByteLevel or Metaspace, each of which lengthens a text; \
                 {LENGTHENING} are the most"
            )));
        }
        Ok(Self(all))
    }
}

impl PreTokenize {
    /// What they may take away of a text.
    pub(super) fn loss(&self) -> Loss {
        use PreTokenizerWrapper as P;
        let split = |behavior: SplitDelimiterBehavior| match behavior {
            SplitDelimiterBehavior::Removed => Loss::ANY,
            _ => Loss::NONE,
        };
        self.0.iter().fold(Loss::NONE, |loss, step| {
            loss.then(match step {
                PreTokenizeStep::Split { behavior, .. } => split(*behavior),
                PreTokenizeStep::Plain(P::Split(step)) => split(step.behavior),
                PreTokenizeStep::Plain(P::Punctuation(step)) => split(step.behavior),
                PreTokenizeStep::Plain(P::ByteLevel(_) | P::Metaspace(_) | P::Digits(_)) => Loss::NONE,
                PreTokenizeStep::Plain(P::UnicodeScripts(_) | P::FixedLength(_)) => Loss::NONE,
                PreTokenizeStep::Plain(P::Whitespace(_) | P::WhitespaceSplit(_) | P::BertPreTokenizer(_)) => {
                    Loss::SPACES
                }
                PreTokenizeStep::Plain(_) => Loss::ANY,
            })
        })
    }

    /// Whether they make letters of bytes, which stand for every text.
    pub(super) fn spells_bytes(&self) -> bool {
        let step = |step: &PreTokenizeStep| {
            matches!(step, PreTokenizeStep::Plain(PreTokenizerWrapper::ByteLevel(_)))
        };
        self.0.last().is_some_and(step)
    }
}

impl PreTokenizer for PreTokenize {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> CrateResult<()> {
        if let Some(fault) = WATCH.with_borrow(|watch| watch.fault.clone()) {
            return Err(fault.into());
        }
        self.0.iter().try_for_each(|step| match step {
            PreTokenizeStep::Plain(step) => step.pre_tokenize(text),
            PreTokenizeStep::Split {
                search,
                behavior,
                invert: false,
            } => text.split(|_, piece| piece.split(search, *behavior)),
            PreTokenizeStep::Split { search, behavior, .. } => {
                text.split(|_, piece| piece.split(Invert(search), *behavior))
            }
        })
    }
}

/// The steps that put special tokens around the tokens of a text.
#[derive(Debug)]
pub(super) struct PostProcess {
    steps: Vec<PostProcessorWrapper>,
    /// The tokens that they add, and their ids.
    added: Vec<(String, u32)>,
}

impl PostProcess {
    /// The steps of a file's `post_processor`.
    pub(super) fn read(section: Value) -> Result<Option<Self>> {
        let name = "post_processor";
        if section.is_null() {
            return Ok(None);
        }
        let mut all = Vec::new();
        let mut added = Vec::new();
        for value in steps(name, "processors", section)? {
            if value.get("single").is_some() {
                check_template(&value, &mut added).context(name)?;
            }
            let step = step(name, value)?;
            match &step {
                PostProcessorWrapper::Roberta(step) => added.extend([step.cls.clone(), step.sep.clone()]),
                PostProcessorWrapper::Bert(step) => added.extend([step.cls.clone(), step.sep.clone()]),
                _ => {}
            }
            all.push(step);
        }
        Ok(Some(Self { steps: all, added }))
    }

    /// The added token with the largest id.
    pub(super) fn largest(&self) -> Option<&(String, u32)> {
        self.added.iter().max_by_key(|(_, id)| *id)
    }
}

/// Checks the template of one text, and collects the tokens that it adds.
fn check_template(step: &Value, added: &mut Vec<(String, u32)>) -> Result<()> {
    let no_pieces = Vec::new();
    let pieces = step["single"].as_array().unwrap_or(&no_pieces);
    let (mut repeats, mut count) = (0, 0);
    for piece in pieces {
        let id = |kind: &str| piece.get(kind).and_then(|p| p.get("id")).and_then(Value::as_str);
        if let Some(sequence) = id("Sequence") {
            if sequence != "A" {
                return Err(Error::user(
                    "the template of one text (single) has the second text of a pair in it (Sequence B)",
                ));
            }
            repeats += 1;
        } else if let Some(token) = id("SpecialToken") {
            let known = step.get("special_tokens").and_then(|all| all.get(token));
            let list = |key: &str| known.and_then(|t| t.get(key)).and_then(Value::as_array);
            let shown: String = token.chars().take(40).collect();
            let Some(ids) = list("ids") else {
                return Err(Error::user(format!(
                    "the template has a token {shown:?} that its special_tokens do not have"
                )));
            };
            count += ids.len();
            let ids = ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            added.extend(ids.max().map(|id| (shown, id)));
        }
    }
    if repeats > REPEATS || count > TEMPLATE_TOKENS || pieces.len() > TEMPLATE_TOKENS {
        return Err(Error::user(format!(
            "the template repeats the text {repeats} times and adds {count} tokens; {REPEATS} times and \
             {TEMPLATE_TOKENS} tokens are the most"
        )));
    }
    Ok(())
}

impl PostProcessor for PostProcess {
    fn added_tokens(&self, is_pair: bool) -> usize {
        self.steps.iter().map(|step| step.added_tokens(is_pair)).sum()
    }

    fn process_encodings(&self, encodings: Vec<Encoding>, add_special: bool) -> CrateResult<Vec<Encoding>> {
        let mut templates = 0;
        self.steps.iter().try_fold(encodings, |encodings, step| {
            if matches!(step, PostProcessorWrapper::Template(_)) {
                templates += 1;
                if templates > 1 {
                    return Err("post_processor: a template follows another".into());
                }
            }
            step.process_encodings(encodings, add_special)
        })
    }
}

/// The steps that make a text of tokens again.
#[derive(Debug)]
pub(super) struct Decode(Vec<DecodeStep>);

#[derive(Debug)]
enum DecodeStep {
    Plain(DecoderWrapper),
    Substitute(Substitute),
}

impl Decode {
    /// Steps that this program made itself.
    pub(super) fn new(steps: Vec<DecoderWrapper>) -> Self {
        Self(steps.into_iter().map(DecodeStep::Plain).collect())
    }

    /// The steps of a file's `decoder`.
    pub(super) fn read(section: Value) -> Result<Option<Self>> {
        let name = "decoder";
        if section.is_null() {
            return Ok(None);
        }
        let mut patterns = Patterns::default();
        let mut all = Vec::new();
        for value in steps(name, "decoders", section)? {
            patterns.count(name, &value)?;
            all.push(match Substitute::read(name, &value)? {
                Some(substitute) => DecodeStep::Substitute(substitute),
                None => DecodeStep::Plain(step(name, value)?),
            });
        }
        Ok(Some(Self(all)))
    }
}

impl Decoder for Decode {
    fn decode_chain(&self, mut tokens: Vec<String>) -> CrateResult<Vec<String>> {
        // Some decoders of the crate count on a token.
        if tokens.is_empty() {
            return Ok(tokens);
        }
        let size = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
        let read = size(&tokens).max(64 * tokens.len());
        for (at, step) in self.0.iter().enumerate() {
            let place = || format!("decoder, step {}", at + 1);
            let content = match step {
                DecodeStep::Substitute(step) => step.content.len(),
                DecodeStep::Plain(DecoderWrapper::Replace(step)) => step.content.len(),
                DecodeStep::Plain(_) => 0,
            };
            let most = (size(&tokens) + tokens.len()).saturating_mul(content);
            if check_growth("", read, most).is_err() {
                let exact = tokens.iter().try_fold(0usize, |sum, token| {
                    let length = match step {
                        DecodeStep::Substitute(step) => step.length(token)?,
                        DecodeStep::Plain(DecoderWrapper::Replace(step)) => replaced_length(step, token)?,
                        DecodeStep::Plain(_) => token.len(),
                    };
                    CrateResult::Ok(sum.saturating_add(length))
                })?;
                check_growth(&place(), read, exact)?;
            }
            tokens = match step {
                DecodeStep::Plain(DecoderWrapper::Strip(strip)) => {
                    let strip = |token: String| stripped(&token, strip.content, strip.start, strip.stop);
                    tokens.into_iter().map(strip).collect()
                }
                DecodeStep::Plain(step) => step.decode_chain(tokens)?,
                DecodeStep::Substitute(step) => {
                    let new = tokens.iter().map(|token| step.apply(token));
                    new.collect::<CrateResult<_>>()?
                }
            };
            check_growth(&place(), read, size(&tokens))?;
        }
        Ok(tokens)
    }
}

/// A token without up to `start` of a character at its beginning and up to `stop` at its end.
fn stripped(token: &str, content: char, start: usize, stop: usize) -> String {
    let mut rest = token;
    for _ in 0..start {
        match rest.strip_prefix(content) {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    for _ in 0..stop {
        match rest.strip_suffix(content) {
            Some(shorter) => rest = shorter,
            None => break,
        }
    }
    rest.to_owned()
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
