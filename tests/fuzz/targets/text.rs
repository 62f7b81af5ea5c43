//! Tokenizers.

use std::borrow::Cow;
use std::path::Path;

use arbitrary::{Result as Drawn, Unstructured};
use serde_json::{Value, json};
use tea_wgpu::error::Result;
use tea_wgpu::text::{HfFiles, Tokenizer};

use crate::make::{odd, put, text, twist, written};

const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");
const CONFIG: &str = include_str!("../../../models/tiny/tokenizer_config.json");

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A component, most of them as files have them.
fn component(u: &mut Unstructured<'_>, of: &str) -> Drawn<Value> {
    let pattern = if u.ratio(1, 2)? {
        json!({"String": text(u)?})
    } else {
        let known = [
            "\\s+",
            "(?i:'s|'t)|\\p{L}+|\\p{N}{1,3}",
            "(a|a)*$",
            "",
            "(?=(a+)+$)(a+)+b",
            "^",
            "[^\\r\\n]*",
        ];
        json!({"Regex": *u.choose(&known)?})
    };
    let n = u.int_in_range(0..=3)?;
    let some =
        |u: &mut Unstructured<'_>, of: &str| (0..n).map(|_| component(u, of)).collect::<Drawn<Vec<_>>>();
    Ok(match of {
        "normalizer" => match u.int_in_range(0..=9)? {
            0 => json!({"type": "Lowercase"}),
            1 => json!({"type": "NFKC"}),
            2 => json!({"type": "Replace", "pattern": pattern, "content": text(u)?}),
            3 => json!({"type": "Prepend", "prepend": text(u)?}),
            4 => json!({"type": "Strip", "strip_left": true, "strip_right": u.arbitrary::<bool>()?}),
            5 => {
                json!({"type": "Precompiled", "precompiled_charsmap": *u.choose(&["", "AAAAAAAA", "/////w==", "BAAAAP////8="])?})
            }
            6 => {
                json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": true})
            }
            7 => json!({"type": "ByteLevel"}),
            8 => json!({"type": "Sequence", "normalizers": some(u, of)?}),
            _ => odd(u, 0)?,
        },
        "pre_tokenizer" => match u.int_in_range(0..=8)? {
            0 => {
                json!({"type": "ByteLevel", "add_prefix_space": u.arbitrary::<bool>()?, "trim_offsets": true, "use_regex": true})
            }
            1 => json!({"type": "Split", "pattern": pattern, "behavior": *u.choose(&["Removed", "Isolated",
                "MergedWithPrevious", "MergedWithNext", "Contiguous"])?, "invert": u.arbitrary::<bool>()?}),
            2 => {
                json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true})
            }
            3 => json!({"type": "Digits", "individual_digits": true}),
            4 => json!({"type": "WhitespaceSplit"}),
            5 => json!({"type": "FixedLength", "length": u.int_in_range(0..=3)?}),
            6 => json!({"type": "Punctuation", "behavior": "Isolated"}),
            7 => json!({"type": "Sequence", "pretokenizers": some(u, of)?}),
            _ => odd(u, 0)?,
        },
        "decoder" => match u.int_in_range(0..=7)? {
            0 => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
            1 => json!({"type": "Replace", "pattern": pattern, "content": text(u)?}),
            2 => {
                json!({"type": "Strip", "content": " ", "start": u.int_in_range(0..=3u64)?, "stop": u.choose(&[0, 1, u64::MAX])?})
            }
            3 => json!({"type": "ByteFallback"}),
            4 => json!({"type": "Fuse"}),
            5 => json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            6 => json!({"type": "Sequence", "decoders": some(u, of)?}),
            _ => odd(u, 0)?,
        },
        _ => match u.int_in_range(0..=3)? {
            0 => {
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": text(u)?, "type_id": 0}},
                {"Sequence": {"id": *u.choose(&["A", "B"])?, "type_id": 0}}], "pair": [], "special_tokens": {}})
            }
            1 => {
                json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 4_294_967_295u64], "trim_offsets": true,
                "add_prefix_space": false})
            }
            2 => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
            _ => odd(u, 0)?,
        },
    })
}

fn model(u: &mut Unstructured<'_>) -> Drawn<Value> {
    let words: Vec<String> = (0..u.int_in_range(1..=8)?)
        .map(|_| text(u))
        .collect::<Drawn<_>>()?;
    let vocab: Value = words
        .iter()
        .enumerate()
        .map(|(i, w)| (w.clone(), json!(i)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    Ok(match u.int_in_range(0..=3)? {
        0 => {
            json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": u.arbitrary::<bool>()?, "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3, "abaab": 4},
            "merges": [["a", "b"], ["ab", "a"], ["aba", "ab"]]})
        }
        1 => {
            json!({"type": "Unigram", "unk_id": u.choose(&[Value::Null, json!(0), json!(99)])?, "byte_fallback": false,
            "vocab": words.iter().map(|w| json!([w, -1.5])).collect::<Vec<_>>()})
        }
        2 => {
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": *u.choose(&["", "##"])?,
            "max_input_chars_per_word": 100, "vocab": vocab})
        }
        _ => json!({"type": "WordLevel", "unk_token": text(u)?, "vocab": vocab}),
    })
}

/// `tokenizer.json` with other components, and what lies beside it; then a text there and back.
pub(crate) fn tokenizer(u: &mut Unstructured<'_>, _: &Path) -> Drawn<Result<()>> {
    let (mut tokenizer, mut config) = (value(TINY), value(CONFIG));
    for part in ["normalizer", "pre_tokenizer", "decoder", "post_processor"] {
        if u.ratio(1, 3)? {
            tokenizer[part] = component(u, part)?;
        }
    }
    if u.ratio(1, 3)? {
        tokenizer["model"] = model(u)?;
    }
    if u.ratio(1, 2)? {
        twist(u, &mut tokenizer)?;
    }
    if u.ratio(1, 3)? {
        twist(u, &mut config)?;
    }
    if u.ratio(1, 6)? {
        put(&mut config, "added_tokens_decoder", odd(u, 0)?);
    }
    let files = HfFiles {
        tokenizer_json: Cow::Owned(written(u, &tokenizer)?),
        tokenizer_config: Some(Cow::Owned(written(u, &config)?)),
        special_tokens_map: extra(u)?,
        added_tokens: extra(u)?,
        generation_config: extra(u)?,
        model_config: extra(u)?,
        chat_template: None,
    };
    let typed: String = (0..u.int_in_range(0..=4)?)
        .map(|_| text(u))
        .collect::<Drawn<_>>()?;
    let ids: Vec<u32> = (0..u.int_in_range(0..=6)?)
        .map(|_| u.arbitrary())
        .collect::<Drawn<_>>()?;
    Ok(Tokenizer::from_hf(&files).and_then(|t| {
        let encoded = t.encode(&typed, true)?;
        t.decode(&encoded, true)?;
        t.decode(&ids, false).map(drop)
    }))
}

/// A file that is mostly not there.
fn extra(u: &mut Unstructured<'_>) -> Drawn<Option<Cow<'static, [u8]>>> {
    if !u.ratio(1, 6)? {
        return Ok(None);
    }
    let mut value = json!({"eos_token": "</s>", "bos_token_id": 1, "eos_token_id": [1, 2], "<new>": 200});
    twist(u, &mut value)?;
    Ok(Some(Cow::Owned(written(u, &value)?)))
}
