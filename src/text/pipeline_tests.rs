//! Tokenizer files that would do harm, and that all others are read as the crate reads them.
#![allow(clippy::unwrap_used, reason = "tests")]
use serde_json::json;

use super::*;
use crate::file::guard::guarded;
use crate::text::tokenizer::tests::TINY;
use crate::text::{HfFiles, Tokenizer};

/// The small tokenizer with some of its sections exchanged.
fn with(sections: &Value) -> Vec<u8> {
    let mut file: Value = serde_json::from_str(TINY).unwrap();
    for (key, value) in sections.as_object().unwrap() {
        file[key] = value.clone();
    }
    file.to_string().into_bytes()
}

fn read(sections: &Value) -> Result<Tokenizer> {
    Tokenizer::from_hf(&HfFiles {
        tokenizer_json: with(sections).into(),
        ..HfFiles::default()
    })
}

/// What is said of a file that is refused when it is read.
fn refused(sections: &Value) -> String {
    said(read(sections).unwrap_err())
}

fn said(error: Error) -> String {
    assert_eq!(error.exit_code(), 2, "{error}");
    let said = error.to_string();
    assert!(
        said.starts_with("tokenizer.json: ") && said.len() < 1000,
        "{said}"
    );
    said
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

#[test]
fn files_are_read_as_the_crate_reads_them() {
    let bpe = |merges: Value| {
        json!({"type": "BPE", "unk_token": "?", "continuing_subword_prefix": "#", "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": false, "ignore_merges": false, "dropout": null, "extra": [1],
            "vocab": {"?": 0, "a": 1, "b": 2, "#a": 3, "#b": 4, "ab": 5, "aba": 6, "é": 7}, "merges": merges})
    };
    let pieces = json!([
        ["?", 0.0],
        ["a", -1.5],
        ["b", -2.0],
        ["ab", -0.25],
        ["é", -3.0],
        [" ", -1.0]
    ]);
    let mut files = vec![
        json!({"model": bpe(json!(["#version: 0.2", "a #b", "ab #a"]))}),
        json!({"model": bpe(json!([["a", "#b"], ["ab", "#a"]]))}),
        json!({"model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 5, "vocab": {"?": 0, "a": 1, "##b": 2, "##a": 3}},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}}),
        json!({"model": {"unk_token": "?", "vocab": {"?": 0, "aba": 1, "b": 2}}}),
        json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false},
            "pre_tokenizer": null, "decoder": null}),
        json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "b"}, replace(json!({"String": "é"}), "e")]}]}}),
        json!({"decoder": {"type": "Sequence", "decoders": [replace(json!({"Regex": "b*"}), "-"), {"type": "Fuse"},
            {"type": "Strip", "content": "-", "start": 1, "stop": 0}]}}),
    ];
    for pattern in ["", "b*", r"\s+(?!\S)|\s+", "a(?=b)", "(a|b)+", r"\b", "é|$"] {
        files.push(json!({"normalizer": replace(json!({"Regex": pattern}), "c")}));
        for behavior in [
            "Removed",
            "Isolated",
            "MergedWithPrevious",
            "MergedWithNext",
            "Contiguous",
        ] {
            for invert in [false, true] {
                let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior,
                    "invert": invert});
                files.push(json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split,
                    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]}}));
            }
        }
    }
    for file in files {
        let bytes = with(&file);
        let ours = read(&file).unwrap();
        let mut crates = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        crates.with_truncation(None).unwrap();
        for text in [
            "",
            "a",
            "abab a",
            "  ab b  é ",
            "bbbb",
            "aba\n\nab<s>abba ",
            "éé a é",
        ] {
            // Where the crate panics (empty matches put its offsets out of step), ours is an error.
            let want = guarded(|| crates.encode_fast(text, true));
            let ours_of = ours.encode(text, true);
            let Ok(Ok(want)) = want else {
                assert!(ours_of.is_err(), "{file} {text:?}");
                continue;
            };
            let ids = ours_of.unwrap();
            assert_eq!(ids, want.get_ids(), "{file} {text:?}");
            if let Ok(Ok(want)) = guarded(|| crates.decode(&ids, false)) {
                assert_eq!(ours.decode(&ids, false).unwrap(), want, "{file} {text:?}");
            }
        }
    }
}

#[test]
fn a_text_grows_so_far_and_no_further() {
    let grow = |pattern: Value| {
        let step = replace(pattern, &"h".repeat(100));
        json!({"normalizer": {"type": "Sequence", "normalizers": vec![step; 6]}})
    };
    for pattern in [
        json!({"String": "h"}),
        json!({"Regex": "h"}),
        json!({"Regex": "h(?!x)"}),
    ] {
        let tokenizer = read(&grow(pattern)).unwrap();
        assert_eq!(tokenizer.encode("abc", false).unwrap(), [9, 2]);
        let e = said(tokenizer.encode("h", false).unwrap_err());
        assert!(
            e.contains("normalizer, step 4") && e.contains("95.4 MiB, where the limit is 16 MiB"),
            "{e}"
        );
    }
    // An empty match at every place, and a text in pieces.
    let empty = read(&json!({"normalizer": replace(json!({"Regex": ""}), &"b".repeat(1 << 20))})).unwrap();
    let e = said(empty.encode(&"a".repeat(64), false).unwrap_err());
    assert!(e.contains("normalizer, step 1"), "{e}");
    let prepend = read(&json!({"normalizer": {"type": "Prepend", "prepend": "b".repeat(1 << 20)}})).unwrap();
    let e = said(prepend.encode(&"<s>a".repeat(20), false).unwrap_err());
    assert!(e.contains("normalizer, step 1"), "{e}");
    // What lengthens a text little by little.
    let bytes = json!({"type": "Sequence", "normalizers": vec![json!({"type": "ByteLevel"}); 100]});
    let e = said(
        read(&json!({"normalizer": bytes}))
            .unwrap()
            .encode("éé", false)
            .unwrap_err(),
    );
    assert!(e.contains("text that a tokenizer makes"), "{e}");
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let e = refused(&json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![level; 5]}}));
    assert!(e.contains("5 of its steps"), "{e}");
    // A long text of which little becomes much is no harm.
    let rare = read(&json!({"normalizer": replace(json!({"String": "g"}), &"h".repeat(1000))})).unwrap();
    assert_eq!(rare.encode(&"a".repeat(100_000), false).unwrap().len(), 100_000);
}

#[test]
fn decoders_grow_so_far_and_no_further() {
    for pattern in [json!({"Regex": ""}), json!({"Regex": "(?=.)|$"})] {
        let steps = vec![replace(pattern, &"x".repeat(100_000)); 3];
        let tokenizer = read(&json!({"decoder": {"type": "Sequence", "decoders": steps}})).unwrap();
        let e = said(tokenizer.decode(&[0], false).unwrap_err());
        assert!(e.contains("decoder, step 2"), "{e}");
    }
    let steps = vec![json!({"type": "BPEDecoder", "suffix": ""}); 100];
    let tokenizer = read(&json!({"decoder": {"type": "Sequence", "decoders": steps}})).unwrap();
    let e = said(tokenizer.decode(&[0, 1, 2], false).unwrap_err());
    assert!(e.contains("text that a tokenizer makes"), "{e}");
    // A token of a megabyte, said often.
    let long = "a".repeat(1 << 20);
    let model = json!({"type": "BPE", "vocab": {"a": 0, long: 1}, "merges": []});
    let tokenizer = read(&json!({"model": model, "post_processor": null})).unwrap();
    assert_eq!(tokenizer.decode(&[1], false).unwrap().len(), 1 << 20);
    let e = said(tokenizer.decode(&[1; 1000], false).unwrap_err());
    assert!(e.contains("decoding 1000 tokens: its tokens"), "{e}");
}

#[test]
fn a_pattern_that_goes_back_again_and_again_is_given_up() {
    let pattern = format!("(?={}~|).", "(?:(?=.).)?".repeat(15));
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let tokenizer = read(&json!({"pre_tokenizer": split})).unwrap();
    assert_eq!(tokenizer.encode("ab ab", false).unwrap().len(), 4);
    let e = said(tokenizer.encode(&"ab ".repeat(100), false).unwrap_err());
    assert!(e.contains("goes back too often"), "{e}");
    let normalizer = replace(json!({"Regex": "(?=(?:(?:a|(?=.)a)+)+~)a"}), "b");
    let e = said(
        read(&json!({"normalizer": normalizer}))
            .unwrap()
            .encode(&"a".repeat(60), false)
            .unwrap_err(),
    );
    assert!(e.contains("more than a million times"), "{e}");
}

#[test]
fn sizes_of_patterns_count_repetitions() {
    for (pattern, size) in [
        ("abc", 3),
        (r"\p{L}{1,3}", 30),
        (r"a{2}{3}", 42),
        (r"\x{1000}\{5}", 12),
        (r"\\x{1000}", 9000),
        ("# \\p{\na{1000}", 13_000),
        ("a{99999999999999999999}", u64::MAX),
        ("{a}{,}", 6),
    ] {
        assert_eq!(pattern_size(pattern), size, "{pattern}");
    }
    let regex = |pattern: &str| json!({"normalizer": replace(json!({"Regex": pattern}), "b")});
    assert!(refused(&regex("(?:a{1000}){1000}{1000}")).contains("regular expressions"));
    assert!(refused(&regex(&"(?=a)".repeat(7000))).contains("regular expressions"));
    let nested = format!("{}a{}", "(".repeat(15_000), ")".repeat(15_000));
    assert!(refused(&regex(&nested)).contains("nested"));
}

#[test]
fn lists_in_lists_are_bounded() {
    let mut step = json!({"type": "Lowercase"});
    for _ in 0..DEPTH {
        step = json!({"type": "Sequence", "normalizers": [step]});
    }
    assert!(read(&json!({"normalizer": step})).is_ok());
    let e = refused(&json!({"normalizer": {"type": "Sequence", "normalizers": [step]}}));
    assert!(e.contains("more than 16 deep"), "{e}");
    let mut steps = json!({"type": "Fuse"});
    for _ in 0..4 {
        steps = json!({"type": "Sequence", "decoders": vec![steps; 8]});
    }
    assert!(refused(&json!({"decoder": steps})).contains("513 steps, where the limit is 512"));
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let file = TINY.replace("\"normalizer\": null", &format!("\"normalizer\": {deep}"));
    let error = Tokenizer::from_hf(&HfFiles {
        tokenizer_json: file.into_bytes().into(),
        ..HfFiles::default()
    });
    assert!(said(error.unwrap_err()).contains("recursion limit"));
}

#[test]
fn what_the_crate_breaks_at_is_named() {
    for (file, what) in [
        (
            json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}),
            "length 0",
        ),
        (
            json!({"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}],
                "pair": [], "special_tokens": {}}}),
            "Sequence B",
        ),
        (
            json!({"post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "q", "type_id": 0}}], "pair": [], "special_tokens": {}}}),
            "\"q\"",
        ),
        (
            json!({"post_processor": {"type": "TemplateProcessing",
                "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 17], "pair": [], "special_tokens": {}}}),
            "17 times",
        ),
        (json!({"decoder": {"type": "Strip"}}), "decoder"),
        (json!({"decoder": 3}), "decoder"),
        (
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}),
            "cut",
        ),
        (
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "a"}}),
            "not base64",
        ),
        (
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}),
            "4294967295 bytes",
        ),
        (
            json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}}),
            "tree is empty",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 4294967295u32}, "merges": []}}),
            "4294967295",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}),
            "-1",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0, "é": 1, "aé": 2},
            "merges": [["a", "é"]], "continuing_subword_prefix": "#"}}),
            "merge 0",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]],
            "continuing_subword_prefix": "##"}}),
            "merge 0",
        ),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a a"]}}),
            "two tokens",
        ),
        (
            json!({"model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]}}),
            "unk_id",
        ),
        (
            json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a".repeat(513), 0.0]]}}),
            "513 bytes",
        ),
        (
            json!({"model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "",
            "max_input_chars_per_word": 1u64 << 63, "vocab": {"?": 0}}}),
            "max_input_chars_per_word",
        ),
        (json!({"model": {"type": "Other", "vocab": {}}}), "\"Other\""),
        (json!({"surprise": 1}), "\"surprise\""),
        (
            json!({"added_tokens": [{"id": 0, "content": " ", "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": false, "special": true}]}),
            "rstrip",
        ),
    ] {
        let e = refused(&file);
        assert!(e.contains(what), "{what}: {e}");
    }
    // Word by word: the crate takes the place after the last one.
    let strip =
        read(&json!({"decoder": {"type": "Strip", "content": "a", "start": 1u64 << 63, "stop": 1u64 << 63}}));
    assert_eq!(strip.unwrap().decode(&[0, 9, 2], false).unwrap(), "bc");
    let bpe = read(&json!({"decoder": {"type": "BPEDecoder", "suffix": "</w>"}})).unwrap();
    assert_eq!(bpe.decode(&[], false).unwrap(), "");
    // A character map that points out of itself is found when it is used.
    let map = json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}});
    assert!(said(read(&map).unwrap().encode("a", false).unwrap_err()).contains("damaged"));
    let twice = json!({"type": "TemplateProcessing", "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 3],
        "pair": [], "special_tokens": {}});
    let twice = json!({"post_processor": {"type": "Sequence", "processors": [twice, twice]}});
    assert!(said(read(&twice).unwrap().encode("a", true).unwrap_err()).contains("follows another"));
    // An id that the model has no row for.
    let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 4294967295u32], "cls": ["<s>", 11],
        "trim_offsets": true, "add_prefix_space": true});
    let error = read(&json!({"post_processor": roberta}))
        .unwrap()
        .check_vocab(13)
        .unwrap_err();
    assert!(error.to_string().contains("4294967295"), "{error}");
}

#[test]
fn base64_is_read_whole_or_not() {
    for (text, bytes) in [
        ("", Some(&b""[..])),
        ("YQ==", Some(b"a")),
        ("YWI=", Some(b"ab")),
        ("+/Aa", Some(b"\xfb\xf0\x1a")),
    ] {
        assert_eq!(decode_base64(text).as_deref(), bytes, "{text}");
    }
    for text in ["Y", "YQ=", "====", "Y===", "YQ==YQ==", "Y Q="] {
        assert!(decode_base64(text).is_none_or(|b| b.is_empty()), "{text}");
    }
}

#[test]
fn added_tokens_cost_what_they_are() {
    let n = 30_000;
    let declared: serde_json::Map<String, Value> = (0..n)
        .map(|i| {
            (
                (13 + i).to_string(),
                json!({"content": format!("<{i}>"), "special": i % 2 == 0}),
            )
        })
        .collect();
    let names: Vec<String> = (0..n).map(|i| format!("<{i}>")).collect();
    let config = json!({"added_tokens_decoder": declared, "extra_special_tokens": names}).to_string();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_hf(&HfFiles {
        tokenizer_json: TINY.as_bytes().into(),
        tokenizer_config: Some(config.into_bytes().into()),
        special_tokens_map: Some(
            json!({"additional_special_tokens": names})
                .to_string()
                .into_bytes()
                .into(),
        ),
        generation_config: Some(
            json!({"eos_token_id": (0..n).collect::<Vec<_>>()})
                .to_string()
                .into_bytes()
                .into(),
        ),
        ..HfFiles::default()
    })
    .unwrap();
    assert_eq!(
        tokenizer.encode("a<0><29999>", false).unwrap(),
        [0, 13, 13 + 29_999]
    );
    assert_eq!(tokenizer.eos_ids().len(), n);
    // Each of them once more than all before took minutes.
    assert!(start.elapsed().as_secs() < 30);
    let many: Vec<Value> = (0..9)
        .map(|i| {
            json!({"id": i, "content": format!("{i}{}", "x".repeat(1 << 20)), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    assert!(refused(&json!({"added_tokens": many})).contains("text of the added tokens"));
}
