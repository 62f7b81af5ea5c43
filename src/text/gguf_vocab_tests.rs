//! Tokenizers from GGUF metadata, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn gpt2() -> GgufVocab {
    let tokens = ["a", "b", "Ġ", "1", "2", "ab", "12", "<s>", "<|im_end|>", "<u>"];
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: "smollm".to_owned(),
        tokens: tokens.map(str::to_owned).to_vec(),
        token_types: vec![1, 1, 1, 1, 1, 1, 1, CONTROL, CONTROL, USER_DEFINED],
        merges: vec!["a b".to_owned(), "1 2".to_owned()],
        bos: Some(7),
        eos: Some(8),
        ..GgufVocab::default()
    }
}

fn llama() -> GgufVocab {
    let tokens = [
        "<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab",
    ];
    GgufVocab {
        model: "llama".to_owned(),
        tokens: tokens.map(str::to_owned).to_vec(),
        token_types: vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1],
        scores: vec![0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0],
        bos: Some(1),
        eos: Some(2),
        ..GgufVocab::default()
    }
}

fn error(vocab: &GgufVocab) -> String {
    let error = Tokenizer::from_gguf(vocab).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn byte_level_by_pre_tokenizer() {
    let encode = |pre: &str, text: &str| {
        let vocab = GgufVocab {
            pre: pre.to_owned(),
            ..gpt2()
        };
        Tokenizer::from_gguf(&vocab).unwrap().encode(text, true).unwrap()
    };
    assert_eq!(encode("smollm", "ab 12<u>"), [5, 2, 3, 4, 9]);
    assert_eq!(encode("gpt-2", "ab12"), [5, 6]);
    assert_eq!(encode("llama-bpe", "ab12"), [7, 5, 6]);
    assert_eq!(encode("qwen2", "12"), [3, 4]);
    for pre in PRE_NAMES
        .split(&[',', '(', ')', ' '])
        .filter(|name| !name.is_empty())
    {
        assert!(encode(pre, "a<s>").ends_with(&[0, 7]), "{pre}");
    }
}

#[test]
fn add_bos_overrides_the_default() {
    let vocab = GgufVocab {
        add_bos: Some(true),
        ..gpt2()
    };
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [7, 0]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [0]);
    let vocab = GgufVocab {
        add_bos: Some(false),
        ..llama()
    };
    assert_eq!(
        Tokenizer::from_gguf(&vocab).unwrap().encode("a", true).unwrap(),
        [8]
    );
}

#[test]
fn eos_follows_where_the_file_says_so() {
    let vocab = GgufVocab {
        add_bos: Some(true),
        add_eos: Some(true),
        ..gpt2()
    };
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [7, 0, 8]);
    assert_eq!(tokenizer.encode("a", false).unwrap(), [0]);
    let vocab = GgufVocab {
        eom: Some(5),
        ..gpt2()
    };
    assert_eq!(Tokenizer::from_gguf(&vocab).unwrap().eos_ids(), [8, 5]);
}

/// A vocabulary without a pre-tokenizer's name is recognised by its special tokens, else it is
/// llama.cpp's "default".
#[test]
fn a_missing_pre_tokenizer_is_recognised() {
    let with = |special: [&str; 2], pre: &str| {
        let mut vocab = GgufVocab {
            pre: pre.to_owned(),
            ..gpt2()
        };
        vocab.tokens[7] = special[0].to_owned();
        vocab.tokens[8] = special[1].to_owned();
        vocab
    };
    let llama = with(["<|begin_of_text|>", "<|eot_id|>"], "");
    assert_eq!(llama.pre_name(), "llama-bpe");
    // BOS is llama-bpe's default too.
    assert_eq!(
        Tokenizer::from_gguf(&llama)
            .unwrap()
            .encode("ab12", true)
            .unwrap(),
        [7, 5, 6]
    );
    assert_eq!(with(["[INST]", "[AVAILABLE_TOOLS]"], "").pre_name(), "tekken");
    assert_eq!(with(["<s>", "<|im_end|>"], "").pre_name(), "default");
    // What the file says counts.
    assert_eq!(
        with(["<|begin_of_text|>", "<|eot_id|>"], "default").pre_name(),
        "default"
    );
    assert_eq!(
        with(["<|begin_of_text|>", "<|eot_id|>"], "qwen2").pre_name(),
        "qwen2"
    );
    // A word of the same spelling is no special token.
    let mut plain = with(["<|begin_of_text|>", "<|eot_id|>"], "");
    plain.token_types[7] = 1;
    assert_eq!(plain.pre_name(), "default");

    let mut smollm = gpt2();
    smollm.pre = String::new();
    smollm.tokens[..4]
        .clone_from_slice(&["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"].map(str::to_owned));
    assert_eq!(smollm.pre_name(), "smollm");
    let mut qwen = gpt2();
    qwen.pre = String::new();
    qwen.tokens.resize(151_645, "x".to_owned());
    qwen.tokens[151_643] = "<|endoftext|>".to_owned();
    qwen.tokens[151_644] = "<|im_start|>".to_owned();
    assert_eq!(qwen.pre_name(), "qwen2");
}

#[test]
fn special_and_user_defined_tokens_decode() {
    let tokenizer = Tokenizer::from_gguf(&gpt2()).unwrap();
    assert_eq!(tokenizer.decode(&[7, 5, 9, 8], true).unwrap(), "ab<u>");
    assert_eq!(
        tokenizer.decode(&[7, 5, 9, 8], false).unwrap(),
        "<s>ab<u><|im_end|>"
    );
    assert_eq!(tokenizer.eos_ids(), [8]);
    let vocab = GgufVocab {
        eos: Some(7),
        eot: Some(5),
        ..gpt2()
    };
    assert_eq!(Tokenizer::from_gguf(&vocab).unwrap().eos_ids(), [7, 5, 8]);
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = Tokenizer::from_gguf(&llama()).unwrap();
    // "ab" scores above "▁a", so "▁ab" is reached through it
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 10]);
    assert_eq!(tokenizer.encode("a é", false).unwrap(), [8, 5, 3, 4]);
    assert_eq!(tokenizer.decode(&[1, 8, 5, 3, 4], true).unwrap(), "a é");
    let vocab = GgufVocab {
        add_space_prefix: Some(false),
        ..llama()
    };
    assert_eq!(
        Tokenizer::from_gguf(&vocab).unwrap().encode("ab", false).unwrap(),
        [9]
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let e = error(&GgufVocab {
        pre: "gpt-17".to_owned(),
        ..gpt2()
    });
    assert!(e.contains("\"gpt-17\"") && e.contains("smollm"), "{e}");
    let e = error(&GgufVocab {
        model: "t5".to_owned(),
        ..gpt2()
    });
    assert!(e.contains("\"t5\""), "{e}");
    assert!(
        error(&GgufVocab {
            model: "gpt2".to_owned(),
            ..GgufVocab::default()
        })
        .contains("no tokens")
    );
    assert!(
        error(&GgufVocab {
            token_types: vec![1],
            ..gpt2()
        })
        .contains("10 tokens but 1 token types")
    );
    assert!(
        error(&GgufVocab {
            eos: Some(10),
            ..gpt2()
        })
        .contains("eos token has id 10")
    );
    assert!(
        error(&GgufVocab {
            merges: vec![],
            ..gpt2()
        })
        .contains("without merges")
    );
    assert!(
        error(&GgufVocab {
            merges: vec!["ab".to_owned()],
            ..gpt2()
        })
        .contains("merge 0")
    );
    assert!(
        error(&GgufVocab {
            merges: vec!["a z".to_owned()],
            ..gpt2()
        })
        .contains('z')
    );
    assert!(
        error(&GgufVocab {
            scores: vec![0.0],
            ..llama()
        })
        .contains("1 scores")
    );
    let e = error(&GgufVocab {
        chat_template: Some("{{".to_owned()),
        ..gpt2()
    });
    assert!(e.starts_with("GGUF chat template"), "{e}");
}

#[test]
fn splits_of_long_tokens_are_bounded() {
    let of = |tokens: Vec<String>| GgufVocab {
        token_types: vec![1; tokens.len()],
        scores: vec![0.0; tokens.len()],
        tokens,
        model: "llama".to_owned(),
        add_space_prefix: Some(false),
        ..GgufVocab::default()
    };
    // Every cut of every token is a merge.
    let nested: Vec<String> = (1..=100).map(|n| "a".repeat(n)).collect();
    let tokenizer = Tokenizer::from_gguf(&of(nested)).unwrap();
    assert_eq!(tokenizer.encode(&"a".repeat(50), false).unwrap().len(), 1);
    let e = error(&of(vec!["a".repeat(60_000)]));
    assert!(
        e.starts_with("GGUF tokenizer: ") && e.contains("splits of a vocabulary's tokens: 3.4 GiB"),
        "{e}"
    );
}
