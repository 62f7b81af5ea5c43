//! Loading Hugging Face files, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

/// A byte-level tokenizer of `a`–`h` (ids 0–7), space (8), `ab` (9), `!` (10), and the special `<s>` (11), `</s>` (12).
pub(in crate::text) const TINY: &str = r#"{"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": null, "added_tokens": [
    {"id": 11, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 12, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [11], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6, "h": 7, "Ġ": 8, "ab": 9, "!": 10}, "merges": ["a b"]}}"#;

pub(in crate::text) fn files(config: &'static str) -> HfFiles<'static> {
    HfFiles {
        tokenizer_json: TINY.as_bytes().into(),
        tokenizer_config: Some(config.as_bytes().into()),
        ..HfFiles::default()
    }
}

fn error(files: &HfFiles<'_>) -> String {
    let error = Tokenizer::from_hf(files).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn special_tokens_and_no_truncation() {
    let config = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "unk_token": "nowhere"}"#;
    let tokenizer = Tokenizer::from_hf(&files(config)).unwrap();
    assert_eq!(tokenizer.encode("abc abc", false).unwrap(), [9, 2, 8, 9, 2]);
    assert_eq!(tokenizer.encode("a</s>b", true).unwrap(), [11, 0, 12, 1]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [11]);
    assert_eq!(tokenizer.decode(&[11, 9, 8, 2, 12], true).unwrap(), "ab c");
    assert_eq!(tokenizer.decode(&[11, 9, 99, 12], false).unwrap(), "<s>ab</s>");
    assert_eq!((tokenizer.bos_id(), tokenizer.pad_id()), (Some(11), None));
    assert_eq!((tokenizer.eos_id(), tokenizer.eos_ids()), (Some(12), &[12][..]));
    assert_eq!(tokenizer.vocab_size(), 13);
    assert_eq!((tokenizer.id_of("ab"), tokenizer.id_of("abc")), (Some(9), None));
    assert_eq!(
        (tokenizer.token_of(8).as_deref(), tokenizer.token_of(13)),
        (Some("Ġ"), None)
    );
    assert!(tokenizer.chat_template().is_none());
    assert!(tokenizer.check_vocab(13).is_ok());
    let error = tokenizer.check_vocab(12).unwrap_err().to_string();
    assert!(error.contains("</s>") && error.contains("12 rows"), "{error}");
}

#[test]
fn end_tokens_by_source() {
    let ends = |generation: Option<&'static str>, model: Option<&'static str>| {
        let mut files = files(r#"{"eos_token": "</s>"}"#);
        files.generation_config = generation.map(|s| s.as_bytes().into());
        files.model_config = model.map(|s| s.as_bytes().into());
        Tokenizer::from_hf(&files).map(|t| t.eos_ids().to_vec())
    };
    assert_eq!(ends(None, None).unwrap(), [12]);
    assert_eq!(
        ends(Some(r#"{"eos_token_id": [10, 12, 11]}"#), None).unwrap(),
        [12, 10, 11]
    );
    assert_eq!(
        ends(Some(r#"{"eos_token_id": 10}"#), Some(r#"{"eos_token_id": 9}"#)).unwrap(),
        [12, 10]
    );
    assert_eq!(ends(None, Some(r#"{"eos_token_id": [9]}"#)).unwrap(), [12, 9]);
    assert_eq!(ends(Some("{}"), Some(r#"{"eos_token_id": null}"#)).unwrap(), [12]);
    let error = ends(Some(r#"{"eos_token_id": "x"}"#), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("generation_config.json: eos_token_id"),
        "{error}"
    );
}

#[test]
fn added_tokens_of_the_config() {
    let config =
        r#"{"added_tokens_decoder": {"13": {"content": "<x>", "special": true}, "12": {"content": "</s>"}}}"#;
    let tokenizer = Tokenizer::from_hf(&files(config)).unwrap();
    assert_eq!(tokenizer.encode("a<x>", false).unwrap(), [0, 13]);
    assert_eq!(tokenizer.decode(&[0, 13], true).unwrap(), "a");
    // Flags of the same token: those of the config count.
    let flags = r#"{"added_tokens_decoder": {"12": {"content": "</s>", "special": true, "lstrip": true}}}"#;
    let tokenizer = Tokenizer::from_hf(&files(flags)).unwrap();
    assert_eq!(tokenizer.encode("a </s>", false).unwrap(), [0, 12]);
    let error = error(&files(r#"{"added_tokens_decoder": {"20": {"content": "<x>"}}}"#));
    assert!(error.contains("<x>") && error.contains("20"), "{error}");
}

/// Where a special token may be declared, and what transformers 5.24 makes of `a<b>!` with the word
/// `<b>` (10 here) in the vocabulary: one id, or its letters.
#[test]
fn special_tokens_by_every_key() {
    let tiny = TINY.replace("\"!\": 10", "\"<b>\": 10, \"<\": 13, \">\": 14, \"!\": 15");
    let encode = |config: &'static str, map: Option<&'static str>, added: Option<&'static str>| {
        let mut files = files(config);
        files.tokenizer_json = tiny.clone().into_bytes().into();
        files.special_tokens_map = map.map(|s| s.as_bytes().into());
        files.added_tokens = added.map(|s| s.as_bytes().into());
        Tokenizer::from_hf(&files)
            .unwrap()
            .encode("a<b> !", false)
            .unwrap()
    };
    let (letters, one) = ([0, 13, 1, 14, 8, 15], [0, 10, 8, 15]);
    assert_eq!(encode("{}", None, None), letters);
    for config in [
        r#"{"unk_token": "<b>"}"#,
        r#"{"sep_token": "<b>"}"#,
        r#"{"cls_token": {"__type": "AddedToken", "content": "<b>"}}"#,
        r#"{"mask_token": "<b>"}"#,
        r#"{"image_token": "<b>"}"#,
        r#"{"additional_special_tokens": ["<b>"]}"#,
        r#"{"extra_special_tokens": ["<b>"]}"#,
        r#"{"extra_special_tokens": {"b_token": "<b>"}}"#,
        r#"{"extra_special_tokens": {}, "additional_special_tokens": ["<b>"]}"#,
        r#"{"added_tokens_decoder": {"10": {"content": "<b>", "special": true}}}"#,
    ] {
        assert_eq!(encode(config, None, None), one, "{config}");
    }
    for config in [
        r#"{"other_key": "<b>"}"#,
        r#"{"extra_special_tokens": ["!"], "additional_special_tokens": ["<b>"]}"#,
    ] {
        assert_eq!(encode(config, None, None), letters, "{config}");
    }
    for map in [
        r#"{"additional_special_tokens": ["<b>"]}"#,
        r#"{"extra_special_tokens": ["<b>"]}"#,
        r#"{"extra_special_tokens": {"b_token": "<b>"}}"#,
        r#"{"sep_token": "<b>", "pad_token": null}"#,
        r#"{"image_token": {"content": "<b>"}}"#,
    ] {
        assert_eq!(encode("{}", Some(map), None), one, "{map}");
        // Where the config lists its added tokens, the map is not read.
        let listed = r#"{"added_tokens_decoder": {"11": {"content": "<s>", "special": true}}}"#;
        assert_eq!(encode(listed, Some(map), None), letters, "{map}");
    }
    // The map beats the config.
    assert_eq!(
        encode(r#"{"sep_token": "!"}"#, Some(r#"{"sep_token": "<b>"}"#), None),
        one
    );
    assert_eq!(encode("{}", None, Some(r#"{"<b>": 10}"#)), one);
    // Flags of a declared token count: this one takes the space after it.
    let rstrip = r#"{"sep_token": {"content": "<b>", "rstrip": true}}"#;
    assert_eq!(encode("{}", Some(rstrip), None), [0, 10, 15]);
    let split = r#"{"sep_token": "<b>", "split_special_tokens": true}"#;
    assert_eq!(encode(split, None, None), letters);
}

/// A declared token that the vocabulary lacks gets the next id, named ones first, where the model
/// has rows for it.
#[test]
fn new_special_tokens_need_rows() {
    let ids = |rows: &'static str| {
        let mut files = files(r#"{"pad_token": "[P]", "additional_special_tokens": ["<n>"]}"#);
        files.model_config = Some(rows.as_bytes().into());
        let tokenizer = Tokenizer::from_hf(&files).unwrap();
        (tokenizer.id_of("[P]"), tokenizer.id_of("<n>"), tokenizer.pad_id())
    };
    assert_eq!(ids(r#"{"vocab_size": 16}"#), (Some(13), Some(14), Some(13)));
    assert_eq!(ids(r#"{"vocab_size": 14}"#), (Some(13), None, Some(13)));
    assert_eq!(ids(r#"{"vocab_size": 13}"#), (None, None, None));
    assert_eq!(ids("{}"), (None, None, None));
}

#[test]
fn the_template_by_source() {
    let named =
        r#"{"chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let source = |files: &HfFiles<'_>| {
        let tokenizer = Tokenizer::from_hf(files).unwrap();
        tokenizer.chat_template().map(|t| t.source().to_owned())
    };
    assert_eq!(source(&files(named)).as_deref(), Some("D"));
    assert_eq!(source(&files(r#"{"chat_template": "S"}"#)).as_deref(), Some("S"));
    let mut both = files(r#"{"chat_template": "S"}"#);
    both.chat_template = Some(b"J".as_slice().into());
    assert_eq!(source(&both).as_deref(), Some("J"));
    let error = error(&files(r#"{"chat_template": [{"name": "rag", "template": "T"}]}"#));
    assert!(
        error.contains("rag") && error.contains("chat_template.jinja"),
        "{error}"
    );
}

#[test]
fn bad_files_are_named() {
    let mut bad = files("{}");
    bad.tokenizer_json = b"{\"version\"".as_slice().into();
    assert!(error(&bad).starts_with("tokenizer.json: "));
    assert!(error(&files("[1]")).starts_with("tokenizer_config.json: "));
    assert!(error(&files(r#"{"chat_template": "{% if"}"#)).contains("does not parse"));
    assert!(error(&files(r#"{"chat_template": 1}"#)).starts_with("tokenizer_config.json: "));
    let mut bad = files("{}");
    bad.chat_template = Some(b"\xff".as_slice().into());
    assert!(error(&bad).starts_with("chat_template.jinja: not UTF-8"));
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json"), "{error}");
    std::fs::write(dir.path().join("vocab.json"), "{}").unwrap();
    std::fs::write(dir.path().join("merges.txt"), "").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("only vocab.json and merges.txt"), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), TINY).unwrap();
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().vocab_size(), 13);
}
