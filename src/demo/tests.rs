//! Tests of the instruction set, its scores, files and tokenizer.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use super::draw::slip;
use super::*;

#[test]
fn generation_is_deterministic_and_splits_are_disjoint() {
    let sets = [Split::Train, Split::Validation, Split::HeldOut].map(|split| generate(7, 600, split));
    let again = generate(7, 300, Split::Train);
    assert_eq!(
        sets[0][..300],
        again[..],
        "a longer list starts with the shorter one"
    );
    assert_ne!(generate(8, 10, Split::Train)[..], again[..10]);
    let mut prompts = BTreeSet::new();
    for set in &sets {
        let mut kinds = BTreeMap::<Kind, usize>::new();
        for example in set {
            assert!(
                prompts.insert(example.prompt.clone()),
                "{} appears twice",
                example.prompt
            );
            *kinds.entry(example.kind).or_default() += 1;
        }
        assert_eq!(kinds.len(), Kind::ALL.len());
        assert!(kinds.values().all(|&n| n >= 90), "{kinds:?}");
    }
}

#[test]
fn prompts_are_short_parse_back_and_the_answer_scores_one() {
    for split in [Split::Train, Split::HeldOut] {
        for example in generate(1, 3000, split) {
            let Example {
                kind, prompt, answer, ..
            } = &example;
            assert!(prompt.chars().count() <= MAX_PROMPT_CHARS, "{prompt}");
            assert!(
                !answer.is_empty() && answer.chars().count() <= MAX_ANSWER_CHARS,
                "{prompt} {answer}"
            );
            assert_eq!(Kind::of(prompt), Some(*kind), "{prompt}");
            assert_eq!(score(prompt, answer).unwrap(), 1.0, "{prompt} {answer}");
            let parsed = Kind::parse(prompt).unwrap();
            assert_eq!(&parsed.prompt(), prompt);
            assert_eq!(
                score(prompt, &parsed.answer()).unwrap(),
                1.0,
                "{prompt} {}",
                parsed.answer()
            );
            assert_eq!(Split::of(prompt), split);
        }
    }
}

#[test]
fn known_answers() {
    for (prompt, answer) in [
        ("sort: dbca", "abcd"),
        ("add: 47+385", "432"),
        ("add: 10+20+30", "60"),
        ("count a: banana", "246=3"),
        ("count z: banana", "=0"),
        ("reverse: planet", "tenalp"),
        ("reach 31: 4 7 3 9", "4*7+3"),
        ("reach 31: 4 7 3 9", "3+7*4"),
        ("reach 14: 9 5", "5+9"),
        ("next: abcabcab", "cabcab"),
        ("next: 3 7 11 15", "19 23 27"),
        ("next: bdfh", "jlnprt"),
        ("next: vwxy", "zabcde"),
    ] {
        assert_eq!(score(prompt, answer).unwrap(), 1.0, "{prompt}");
        assert_eq!(score(prompt, &format!(" {answer}\n")).unwrap(), 1.0, "{prompt}");
        let off = score(prompt, &format!("{answer}{answer}")).unwrap();
        assert!(off < 0.85, "{prompt}: {off}");
    }
    // 7 may be used once only.
    assert!(score("reach 14: 7 3", "7+7").unwrap() < 0.2);
    for prompt in [
        "hello",
        "sort: ",
        "sort: A",
        "add: 1",
        "next: aaaa",
        "reach x: 1 2",
        "count ab: ab",
        "next: 1 2 4",
    ] {
        let error = score(prompt, "x").unwrap_err();
        assert_eq!(error.exit_code(), 2, "{prompt}");
    }
}

#[test]
fn scores_stay_in_range_for_any_text() {
    let odd = [
        "",
        " ",
        "=",
        "==",
        "1=2=3",
        "é",
        "日本語",
        "99999999999999999999999",
        "999*999*999*999*999*999*999*999",
        "+",
        "-5",
        "1-",
        "0",
        "a b c",
        "\n\n",
        "((((",
        "1 2 3 4 5 6 7 8 9",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    ];
    for example in generate(3, 120, Split::Validation) {
        for response in odd {
            let s = score(&example.prompt, response).unwrap();
            assert!((0.0..=1.0).contains(&s), "{} {response}: {s}", example.prompt);
            assert_eq!(
                s == 1.0,
                response.trim() == example.answer,
                "{} {response}",
                example.prompt
            );
        }
        assert!(score(&example.prompt, "").unwrap() < 0.35, "{}", example.prompt);
    }
}

#[test]
fn wrong_answers_have_many_levels_and_fall_with_severity() {
    let examples = generate(5, 1200, Split::Train);
    for &kind in Kind::ALL {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut means = Vec::new();
        let mut levels = BTreeSet::new();
        for severity in 1..=4 {
            let mut sum = 0.0;
            let mut n = 0;
            for example in examples.iter().filter(|e| e.kind == kind) {
                let response = Kind::parse(&example.prompt).unwrap().wrong(&mut rng, severity);
                let s = score(&example.prompt, &response).unwrap();
                assert!(s == 1.0 || s <= 0.85);
                assert!(!response.is_empty() && response.len() <= 24, "{response}");
                levels.insert((s * 1000.0).round() as u32);
                sum += s;
                n += 1;
            }
            means.push(sum / f64::from(n));
        }
        assert!(means[0] > means[2] && means[2] > means[3], "{kind:?}: {means:?}");
        assert!(levels.len() >= 40, "{kind:?}: only {} levels", levels.len());
    }
}

#[test]
fn a_slip_changes_little() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mean: f64 = (0..500)
        .map(|_| grade::edit_similarity("abcdefgh", &slip(&mut rng, "abcdefgh", "hgfedcba", 1)))
        .sum::<f64>()
        / 500.0;
    assert!((0.8..0.9).contains(&mean), "{mean}");
    assert_eq!(grade::edit_similarity("kitten", "sitting"), 1.0 - 3.0 / 7.0);
}

#[test]
fn supervised_noise_is_the_share_of_other_responses() {
    let examples = generate(11, 2000, Split::Train);
    let clean = sft_examples(&examples, 0.0, 1);
    assert!(
        clean
            .iter()
            .zip(&examples)
            .all(|(s, e)| s.response == e.answer && s.prompt == e.prompt)
    );
    let noisy = sft_examples(&examples, 0.4, 1);
    let changed = noisy
        .iter()
        .zip(&examples)
        .filter(|(s, e)| s.response != e.answer)
        .count();
    assert!((680..=840).contains(&changed), "{changed} of 2000");
    assert_eq!(noisy, sft_examples(&examples, 0.4, 1));
}

#[test]
fn preference_pairs_are_ranked_by_the_true_score() {
    let examples = generate(13, 300, Split::Train);
    let pairs = preferences(&examples, 4, 2);
    assert!(pairs.len() >= 1100, "{}", pairs.len());
    let mut with_answer = 0;
    for pair in &pairs {
        let (high, low) = (
            score(&pair.prompt, &pair.chosen).unwrap(),
            score(&pair.prompt, &pair.rejected).unwrap(),
        );
        assert!(high > low, "{pair:?}");
        with_answer += usize::from(high == 1.0);
    }
    assert!(
        with_answer > pairs.len() / 5 && with_answer < pairs.len() * 4 / 5,
        "{with_answer}"
    );

    let group = |prompt: &str, responses: &[&str]| SampledGroup {
        prompt: prompt.to_string(),
        responses: responses.iter().map(|r| (*r).to_string()).collect(),
    };
    let groups = [
        group("sort: dbca", &["abcd", "abdc", "abdc", "dcba"]),
        group("sort: dbca", &["abcd", "abcd"]),
        group("not of this set", &["a", "b"]),
    ];
    let sampled = preferences_from_samples(&groups, 10, 3);
    assert_eq!(
        sampled.len(),
        3,
        "each pair of different responses once: {sampled:?}"
    );
    assert_eq!(preferences_from_samples(&groups, 2, 3).len(), 2);
}

#[test]
fn files_hold_one_object_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let examples = generate(1, 5, Split::HeldOut);
    write_prompts(&path, &examples).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(text.lines().count(), 5);
    assert_eq!(
        first,
        serde_json::json!({"id": "held-out-00000", "prompt": examples[0].prompt})
    );
    write_sft(&path, &examples, 0.0, 1).unwrap();
    let line: serde_json::Value =
        serde_json::from_str(std::fs::read_to_string(&path).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(line["response"], examples[4].answer);
    let error = write_prompts(&dir.path().join("no/such/file"), &examples).unwrap_err();
    assert!(error.to_string().contains("file") && error.exit_code() == 2);
}

#[test]
fn tokenizer_gives_one_token_a_character_and_joins_them_again() {
    let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer_json()).unwrap();
    let vocab = vocabulary();
    assert!(vocab.len() <= 128);
    assert_eq!(tokenizer.get_vocab_size(true), vocab.len());
    for (id, token) in vocab.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
    for text in [
        "sort: dbca",
        "reach 31: 4 7 3 9",
        " two  spaces ",
        "A~\nb",
        "don't , do n't .",
    ] {
        let ids = tokenizer.encode_fast(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids.len(), text.chars().count());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    let chat = tokenizer
        .encode_fast("<|user|>ab<|assistant|>b é日<|end|>", true)
        .unwrap();
    let tokens: Vec<&str> = chat
        .get_ids()
        .iter()
        .map(|&id| vocab[id as usize].as_str())
        .collect();
    assert_eq!(tokens, [USER, "a", "b", ASSISTANT, "b", " ", UNK, UNK, END]);
    assert_eq!(tokenizer.decode(chat.get_ids(), true).unwrap(), "abb ");
}

#[test]
fn chat_template_renders_the_turns() {
    let mut env = minijinja::Environment::new();
    env.add_template("chat", CHAT_TEMPLATE).unwrap();
    let template = env.get_template("chat").unwrap();
    let render = |roles: &[(&str, &str)], generate: bool| {
        let messages: Vec<_> = roles
            .iter()
            .map(|(role, content)| minijinja::context! {role => *role, content => *content})
            .collect();
        template
            .render(minijinja::context! {messages, add_generation_prompt => generate})
            .unwrap()
    };
    assert_eq!(
        render(&[("user", "sort: dbca")], true),
        "<|user|>sort: dbca<|assistant|>"
    );
    assert_eq!(
        render(&[("user", "sort: dbca"), ("assistant", "abcd")], false),
        "<|user|>sort: dbca<|assistant|>abcd<|end|>"
    );
    let config: serde_json::Value = serde_json::from_slice(&tokenizer_config_json(64)).unwrap();
    assert_eq!(
        (&config["eos_token"], &config["model_max_length"]),
        (&END.into(), &64.into())
    );
}
