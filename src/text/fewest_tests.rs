//! No text has fewer tokens than is said of it, and one that cannot fit is not tokenised.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, normalizers};

use super::*;
use crate::file::limits::TOKENIZED;
use crate::text::{GgufVocab, HfFiles, Tokenizer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

fn demo() -> Tokenizer {
    Tokenizer::from_hf(&HfFiles {
        tokenizer_json: crate::demo::tokenizer_json().into(),
        ..HfFiles::default()
    })
    .unwrap()
}

/// A byte-level tokenizer of the whole alphabet and a few longer tokens, with other sections.
fn of_bytes(sections: &Value) -> Tokenizer {
    without("", sections)
}

/// As [`of_bytes`] where the letters of some bytes are not in the vocabulary.
fn without(without: &str, sections: &Value) -> Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    assert!(letters().all(|(_, letter)| alphabet.contains(&letter)));
    alphabet.retain(|letter| !without.contains(*letter));
    let mut vocab: serde_json::Map<String, Value> = serde_json::Map::new();
    for (id, token) in alphabet.iter().map(char::to_string).enumerate() {
        vocab.insert(token, json!(id));
    }
    for token in ["aa", "aaaa", "ĠĠ", "ĠĠĠĠ"] {
        vocab.insert(token.to_owned(), json!(vocab.len()));
    }
    let mut merges = vec!["a a", "aa aa", "Ġ Ġ", "ĠĠ ĠĠ"];
    merges.retain(|merge| !merge.contains(|c| without.contains(c)));
    let model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
    of_model(model, sections)
}

fn of_model(model: Value, sections: &Value) -> Tokenizer {
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let mut file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": null, "model": model});
    for (key, value) in sections.as_object().unwrap() {
        file[key] = value.clone();
    }
    Tokenizer::from_hf(&HfFiles {
        tokenizer_json: file.to_string().into_bytes().into(),
        ..HfFiles::default()
    })
    .unwrap()
}

/// A SentencePiece vocabulary with all bytes.
fn sentence_piece() -> Tokenizer {
    let mut tokens = vec!["<unk>".to_owned()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "▁a"].map(str::to_owned));
    let types = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1..=256 => 6,
        _ => 1,
    });
    Tokenizer::from_gguf(&GgufVocab {
        model: "llama".into(),
        token_types: types.collect(),
        scores: vec![0.0; tokens.len()],
        tokens,
        ..GgufVocab::default()
    })
    .unwrap()
}

fn added(rstrip: bool) -> Value {
    json!([{"id": 260, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false,
        "special": true}])
}

#[test]
fn no_text_has_fewer_tokens_than_is_said() {
    let words = json!({"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"});
    let fused =
        json!({"type": "BPE", "vocab": {"?": 0, "a": 1}, "merges": [], "unk_token": "?", "fuse_unk": true});
    let no_unknown = json!({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []});
    let split = |behavior: &str| {
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "b+"}, "behavior": behavior, "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]}})
    };
    let replace = |content: &str| json!({"normalizer": {"type": "Replace", "pattern": {"String": "bb"}, "content": content}});
    // Whether a long text can be refused by its length, and how few tokens are said of 1000 a.
    let all = [
        (demo(), Some(20)),
        (sentence_piece(), Some(167)),
        (of_bytes(&json!({})), Some(125)),
        (of_bytes(&json!({"normalizer": {"type": "NFC"}})), Some(32)),
        (of_bytes(&json!({"normalizer": {"type": "Lowercase"}})), Some(32)),
        (of_bytes(&json!({"added_tokens": added(true)})), Some(125)),
        (
            of_bytes(&json!({"normalizer": {"type": "Strip", "strip_left": true, "strip_right": true}})),
            Some(125),
        ),
        (without("bĠÿ", &json!({})), Some(125)),
        (without("aÿ", &json!({})), None),
        (without("ÿ", &json!({"normalizer": {"type": "NFC"}})), Some(32)),
        (without("b", &json!({"normalizer": {"type": "NFC"}})), None),
        (of_bytes(&split("Isolated")), Some(125)),
        (of_bytes(&split("Removed")), None),
        (of_bytes(&replace("a")), Some(63)),
        (of_bytes(&replace("")), None),
        (of_bytes(&replace(" ")), None),
        (of_bytes(&json!({"normalizer": {"type": "StripAccents"}})), None),
        (of_bytes(&json!({"pre_tokenizer": {"type": "Whitespace"}})), None),
        (of_model(words, &json!({})), None),
        (of_model(fused, &json!({"pre_tokenizer": null})), None),
        (
            of_model(no_unknown.clone(), &json!({"pre_tokenizer": null})),
            None,
        ),
        (of_model(no_unknown, &json!({})), Some(1000)),
    ];
    let texts = [
        "a".repeat(1000),
        "b".repeat(1000),
        " ".repeat(1000),
        "<s>".to_owned() + &" ".repeat(1000),
        "e\u{301}".repeat(300),
        "\u{1100}\u{1161}\u{11a8}".repeat(100),
        "\u{212a}".repeat(300),
        "日本語 🦀".repeat(50),
        "<|assistant|>".repeat(80),
        " a".repeat(500),
    ];
    for (at, (tokenizer, of_a)) in all.iter().enumerate() {
        for text in &texts {
            let tokens = tokenizer.encode(text, false).map_or(0, |ids| ids.len());
            let said = tokenizer.fewest.more_than(0, text);
            let shown: String = text.chars().take(5).collect();
            assert!(
                said.unwrap_or(0) <= tokens,
                "{at}: {shown:?}: {said:?} of {tokens}"
            );
        }
        assert_eq!(tokenizer.fewest.more_than(0, &texts[0]), *of_a, "{at}");
    }
}

/// A text longer than [`TOKENIZED`] would be an error if it came to be tokenised.
#[test]
fn what_cannot_fit_is_not_tokenised() {
    let tokenizer = of_bytes(&json!({}));
    let most = TOKENIZED.most() as usize;
    let long = "a".repeat(most + 1);
    let encoded = tokenizer.encode_within(&long, false, 128).unwrap();
    assert_eq!(encoded, Encoded::TooLong((most + 1).div_ceil(8)));
    assert_eq!(encoded.count().to_string(), "at least 4194305 tokens");
    assert_eq!(encoded.clone().ids().unwrap_err().exit_code(), 2);
    // One byte more than 128 of the longest token.
    let fits = |n: usize| {
        matches!(
            tokenizer.encode_within(&long[..n], false, 128),
            Ok(Encoded::Ids(_))
        )
    };
    assert!(fits(1024) && !fits(1025));
    // Where no length is known, and where a text may vanish, the limit holds.
    let removed = of_bytes(&json!({"normalizer": {"type": "StripAccents"}}));
    for said in [
        tokenizer.encode(&long, true).unwrap_err(),
        removed.encode_within(&long, false, 128).unwrap_err(),
    ] {
        assert_eq!(said.exit_code(), 2);
        let said = said.to_string();
        assert!(
            said.starts_with("tokenizer.json: length of a text that is tokenised: 32")
                && said.contains("the limit is 32 MiB")
                && said.contains("--max-file-memory"),
            "{said}"
        );
    }
    // White space that may vanish is not counted.
    let strips = of_bytes(&json!({"added_tokens": added(true)}));
    let spaces = "<s>".to_owned() + &" ".repeat(5000);
    assert_eq!(
        strips.encode_within(&spaces, false, 128).unwrap(),
        Encoded::Ids(vec![260])
    );
}

#[test]
fn lengths_add_up() {
    let (ids, long) = (Encoded::Ids(vec![1, 2]), Encoded::TooLong(5));
    assert_eq!(ids.clone().then(ids.clone()), Encoded::Ids(vec![1, 2, 1, 2]));
    assert_eq!(ids.clone().then(long.clone()), Encoded::TooLong(7));
    assert_eq!(long.clone().then(long.clone()), Encoded::TooLong(10));
    assert_eq!(ids.count().plus(3).to_string(), "5 tokens");
    assert_eq!(long.count().plus(3).to_string(), "at least 8 tokens");
}

/// Of every character: the longest way to write its parts against itself, in bytes.
#[test]
fn no_normal_form_makes_one_byte_of_more_than_four() {
    let of = |step: NormalizerWrapper, text: &str| {
        let mut text = NormalizedString::from(text);
        step.normalize(&mut text).unwrap();
        text.get().to_owned()
    };
    let chars = || {
        (0..0x2_0000)
            .chain(0x2_f800..0x2_fa20)
            .filter_map(char::from_u32)
            .filter(|c| !c.is_ascii())
    };
    // The most bytes that become one character, alone.
    let mut from: HashMap<char, usize> = HashMap::new();
    let mut decomposed = Vec::new();
    for c in chars() {
        let parts = of(normalizers::NFKD.into(), c.encode_utf8(&mut [0; 4]));
        let mut letters = parts.chars();
        match (letters.next(), letters.next()) {
            (Some(only), None) => {
                let most = from.entry(only).or_default();
                *most = c.len_utf8().max(*most);
            }
            _ => decomposed.push((c, parts)),
        }
        let lower = c.to_lowercase().map(char::len_utf8).sum::<usize>();
        assert!(c.len_utf8() <= 4 * lower);
    }
    assert!(from.iter().all(|(c, most)| *most <= 4 * c.len_utf8()));
    assert!(decomposed.len() > 10_000);
    for (c, parts) in decomposed {
        let written: usize = parts
            .chars()
            .map(|p| from.get(&p).copied().unwrap_or(1).max(p.len_utf8()))
            .sum();
        // What stays apart is longer than its parts' parts.
        let composed = of(normalizers::NFKC.into(), &parts).len();
        assert!(written <= 4 * composed, "{c:?} {written} {composed}");
    }
}
