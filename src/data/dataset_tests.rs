//! Reading records, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::data::{parse_records as parse_jsonl, read_records as read_jsonl};

fn one<R: Record>(line: &str) -> R {
    let mut records = parse_jsonl::<R>("f.jsonl", line.as_bytes()).unwrap();
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn error<R: Record + std::fmt::Debug>(text: impl AsRef<[u8]>) -> String {
    let error = parse_jsonl::<R>("f.jsonl", text.as_ref()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

fn text(prompt: &str) -> PromptContent {
    PromptContent::Text(prompt.to_owned())
}

#[test]
fn lines_are_counted_from_one_and_blanks_skipped() {
    let file = "\u{feff}{\"prompt\": \"a\"}\r\n\n  \n{\"prompt\": \"b\", \"id\": 7, \"answer\": 3}";
    let records: Vec<PromptRecord> = parse_jsonl("f", file.as_bytes()).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!((&records[0].prompt, &records[0].id), (&text("a"), &Id::default()));
    assert_eq!(records[1].id, json!(7));
    assert_eq!(records[1].fields, *json!({"answer": 3}).as_object().unwrap());
    let e = error::<PromptRecord>("{\"prompt\": \"a\"}\n\n{\"prompt\": }\n");
    assert!(e.starts_with("f.jsonl:3: malformed JSON at column 12"), "{e}");
}

#[test]
fn bad_files_say_what_and_where() {
    for empty in ["", "\n \n"] {
        let e = error::<PromptRecord>(empty);
        assert!(
            e.starts_with("f.jsonl: no records") && e.contains("{\"prompt\""),
            "{e}"
        );
    }
    let e = error::<PromptRecord>("[\"a\"]");
    assert!(
        e.starts_with("f.jsonl:1: row 1: expected a JSON object, found a string"),
        "{e}"
    );
    let e = error::<PromptRecord>("{\"prompt\": \"a\"}\n{\"prompt\": \"b");
    assert!(e.starts_with("f.jsonl:2: malformed JSON"), "{e}");
    let e = error::<PromptRecord>(b"{\"prompt\": \"a\"}\n{\"prompt\": \"\xe9\"}");
    assert!(e.starts_with("f.jsonl:2: not UTF-8 (byte 13 of the line)"), "{e}");
    let e = error::<PromptRecord>("{\"text\": \"a\"}");
    assert!(
        e.starts_with("f.jsonl:1: missing field \"prompt\" (the line has \"text\")"),
        "{e}"
    );
    let e = error::<PromptRecord>("{\"prompt\": 5}");
    assert!(
        e.starts_with("f.jsonl:1: \"prompt\" must be a string or a list of messages, found a number"),
        "{e}"
    );
    let e = error::<PromptRecord>("{\"prompt\": \"a\", \"id\": [1]}");
    assert!(e.contains("\"id\" must be a string or a number"), "{e}");
    let missing = std::path::Path::new("nowhere/f.jsonl");
    let e = read_jsonl::<PromptRecord>(missing).unwrap_err();
    assert_eq!(e.exit_code(), 2);
    assert!(e.to_string().contains("f.jsonl"), "{e}");
}

#[test]
fn conversations_are_checked_turn_by_turn() {
    let record: PromptRecord = one(r#"{"messages": [{"role": "user", "content": "a", "name": "x"}]}"#);
    assert_eq!(record.prompt, PromptContent::Messages(vec![Message::user("a")]));
    let e = error::<PromptRecord>(r#"{"messages": []}"#);
    assert!(e.contains("\"messages\" is empty"), "{e}");
    let e =
        error::<PromptRecord>(r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}"#);
    assert!(
        e.starts_with("f.jsonl:1: \"messages\"[1]: missing field \"content\""),
        "{e}"
    );
    let e = error::<PromptRecord>(r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#);
    assert!(e.contains("\"content\" must be a string, found an array"), "{e}");
    let e =
        error::<PromptRecord>(r#"{"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}"#);
    assert!(e.contains("tool_calls"), "{e}");
}

#[test]
fn a_prompt_ends_before_the_answer() {
    let of = |line: &str| one::<PromptRecord>(line).prompt;
    let (user, answer) = (
        r#"{"role": "user", "content": "a"}"#,
        r#"{"role": "assistant", "content": "b"}"#,
    );
    // `prompt` wins over `messages`, unless it is null.
    let chat = format!("\"messages\": [{user}, {answer}]");
    assert_eq!(of(&format!("{{\"prompt\": \"p\", {chat}}}")), text("p"));
    assert_eq!(of(&format!("{{\"prompt\": null, {chat}}}")), text("a"));
    let turns = |line: &str| match of(line) {
        PromptContent::Messages(turns) => turns.into_iter().map(|m| m.content).collect::<String>(),
        PromptContent::Text(text) => panic!("{text}"),
    };
    assert_eq!(
        turns(&format!("{{\"messages\": [{user}, {answer}, {user}]}}")),
        "aba"
    );
    assert_eq!(
        turns(&format!(
            "{{\"messages\": [{user}, {answer}, {user}, {answer}, {answer}]}}"
        )),
        "aba"
    );
    assert_eq!(
        turns(&format!("{{\"prompt\": [{user}, {answer}, {user}, {answer}]}}")),
        "aba"
    );
    let e = error::<PromptRecord>(format!("{{\"messages\": [{answer}]}}"));
    assert!(e.contains("answers only"), "{e}");
    // ShareGPT's names.
    let line = r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    let want = vec![
        Message {
            role: "system".into(),
            content: "s".into(),
        },
        Message::user("a"),
    ];
    assert_eq!(of(line), PromptContent::Messages(want));
}

#[test]
fn empty_tool_calls_are_none() {
    let call = r#"{"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]}"#;
    let e = error::<PromptRecord>(call);
    assert!(e.contains("function_call"), "{e}");
    for none in ["null", "[]", "[null]", "\"\"", "{}"] {
        let line = format!(r#"{{"messages": [{{"role": "user", "content": "a", "tool_calls": {none}}}]}}"#);
        let record: PromptRecord = one(&line);
        assert_eq!(
            record.prompt,
            PromptContent::Messages(vec![Message::user("a")]),
            "{none}"
        );
    }
}

#[test]
fn sft_forms() {
    let want = SftRecord {
        id: Id::default(),
        prompt: text("a"),
        turns: vec![Message::assistant("b")],
        tools: None,
    };
    assert_eq!(one::<SftRecord>(r#"{"prompt": "a", "response": "b"}"#), want);
    assert_eq!(one::<SftRecord>(r#"{"prompt": "a", "completion": "b"}"#), want);
    let turns = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let prompt = PromptContent::Messages(vec![Message::user("a")]);
    assert_eq!(
        one::<SftRecord>(turns),
        SftRecord {
            prompt,
            ..want.clone()
        }
    );
    // From the first assistant turn on everything is kept; before it is the prompt.
    let long = one::<SftRecord>(
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "tool", "content": "t"},
            {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(long.prompt.to_messages().len(), 2);
    let roles: Vec<_> = long.turns.iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["assistant", "tool", "assistant", "user"]);
    for (tools, want) in [
        ("null", None),
        ("[]", None),
        (r#""[]""#, None),
        (r#"[{"name": "f"}]"#, Some(json!([{"name": "f"}]))),
        (r#""[{\"name\": \"f\"}]""#, Some(json!([{"name": "f"}]))),
    ] {
        let line = format!(r#"{{"prompt": "a", "response": "b", "tools": {tools}}}"#);
        assert_eq!(one::<SftRecord>(&line).tools, want, "{line}");
    }
    assert!(
        error::<SftRecord>(r#"{"prompt": "a", "response": "b", "tools": "f"}"#)
            .contains("\"tools\" must be a list")
    );
    let none = one::<SftRecord>(r#"{"messages": [{"role": "user", "content": "a"}]}"#);
    assert!(none.turns.is_empty());
    assert!(error::<SftRecord>(r#"{"prompt": "a"}"#).contains("missing field \"response\""));
    assert!(
        error::<SftRecord>(r#"{"prompt": "a", "response": null}"#).contains("missing field \"response\"")
    );
}

#[test]
fn preference_forms() {
    let want = |prompt| PreferenceRecord {
        id: Id::default(),
        prompt,
        chosen: "c".to_owned(),
        rejected: "r".to_owned(),
    };
    let turns = || PromptContent::Messages(vec![Message::user("a")]);
    let plain = r#"{"prompt": "a", "chosen": "c", "rejected": "r"}"#;
    assert_eq!(one::<PreferenceRecord>(plain), want(text("a")));
    let explicit = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]}"#;
    assert_eq!(one::<PreferenceRecord>(explicit), want(turns()));
    let whole = r#""chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "r"}]}"#;
    assert_eq!(one::<PreferenceRecord>(&format!("{{{whole}")), want(turns()));
    assert_eq!(
        one::<PreferenceRecord>(&format!("{{\"prompt\": \"a\", {whole}")),
        want(turns())
    );
    assert!(error::<PreferenceRecord>(format!("{{\"prompt\": \"z\", {whole}")).contains("contradicts"));
    let hh = r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: d\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: d\n\nAssistant: r"}"#;
    let three = vec![Message::user("a"), Message::assistant("b"), Message::user("d")];
    assert_eq!(one::<PreferenceRecord>(hh), want(PromptContent::Messages(three)));
}

#[test]
fn bad_preferences() {
    let e = error::<PreferenceRecord>(r#"{"chosen": "c", "rejected": "r"}"#);
    assert!(e.contains("missing field \"prompt\""), "{e}");
    let e = error::<PreferenceRecord>(r#"{"prompt": "a", "chosen": "c"}"#);
    assert!(e.contains("missing field \"rejected\""), "{e}");
    // Dialogues that part before their last turn, and cells that are null, are left out; a row that lacks a field is a mistake.
    let good = r#"{"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: r"}"#;
    let parted = r#"{"chosen": "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: r"}"#;
    let twice = r#"{"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nHuman: b\n\nAssistant: r"}"#;
    let null = r#"{"prompt": "q", "chosen": null, "rejected": null}"#;
    for bad in [parted, twice, null] {
        let text = format!("{bad}\n{good}\n");
        assert_eq!(
            parse_jsonl::<PreferenceRecord>("f", text.as_bytes())
                .unwrap()
                .len(),
            1,
            "{bad}"
        );
    }
    let text = format!("{good}\n{{\"text\": \"x\"}}\n");
    let e = error::<PreferenceRecord>(text);
    assert!(
        e.starts_with("f.jsonl:2: missing field \"chosen\" (the line has \"text\")"),
        "{e}"
    );
    let e = error::<PreferenceRecord>(
        r#"{"prompt": "a", "chosen": "c", "rejected": [{"role": "assistant", "content": "r"}]}"#,
    );
    assert!(e.contains("both be texts"), "{e}");
    let hh = r#"{"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: b\n\nAssistant: r"}"#;
    assert!(error::<PreferenceRecord>(hh).contains("same up to their last turn"));
    let answers = r#"{"chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]}"#;
    assert!(error::<PreferenceRecord>(answers).contains("missing field \"prompt\""));
}

#[test]
fn score_and_logprobs_forms() {
    let record: ScoreRecord = one(r#"{"id": "x", "tokens": [1, 4294967295]}"#);
    assert_eq!(
        (record.id, record.input),
        (json!("x").into(), ScoreInput::Tokens(vec![1, u32::MAX]))
    );
    let record: ScoreRecord = one(r#"{"id": 1.5, "prompt": "a", "response": "b"}"#);
    let pair = ScoreInput::Pair {
        prompt: text("a"),
        response: "b".to_owned(),
    };
    assert_eq!((record.id, record.input), (json!(1.5).into(), pair));
    let record: ScoreRecord = one(r#"{"messages": [{"role": "user", "content": "a"}]}"#);
    assert_eq!(record.input, ScoreInput::Messages(vec![Message::user("a")]));
    assert!(error::<ScoreRecord>(r#"{"id": 1}"#).contains("missing field \"prompt\""));
    let record: LogprobsRecord = one(r#"{"id": 2, "prompt": "a", "completion": "b"}"#);
    let pair = LogprobsInput::Pair {
        prompt: "a".to_owned(),
        completion: "b".to_owned(),
    };
    assert_eq!(record.input, pair);
    let record: LogprobsRecord = one(r#"{"id": 2, "tokens": [5]}"#);
    assert_eq!(record.input, LogprobsInput::Tokens(vec![5]));
    assert!(error::<LogprobsRecord>(r#"{"prompt": "a"}"#).contains("missing field \"completion\""));
    assert_eq!(one::<TokenRecord>(r#"{"tokens": [5]}"#).tokens, [5]);
}

#[test]
fn token_ids_are_whole_and_small() {
    for (bad, what) in [
        ("[]", "is empty"),
        ("\"1 2\"", "must be a list of token ids, found a string"),
        ("[1, -1]", "\"tokens\"[1] must be a token id"),
        ("[1.5]", "\"tokens\"[0]"),
        ("[4294967296]", "\"tokens\"[0]"),
        ("null", "missing field"),
    ] {
        let e = error::<TokenRecord>(format!("{{\"tokens\": {bad}}}"));
        assert!(e.starts_with("f.jsonl:1: ") && e.contains(what), "{bad}: {e}");
    }
}

#[test]
fn gradient_lines() {
    let record: GradientRecord = one(r#"{"tokens": [1, 2, 3], "prompt_len": 1, "weight": -0.5}"#);
    assert_eq!(
        (record.tokens.len(), record.prompt_len, record.weight),
        (3, 1, -0.5)
    );
    for (bad, what) in [
        (
            r#"{"tokens": [1, 2], "prompt_len": 0, "weight": 1}"#,
            "from 1 to the number of tokens, 2",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 3, "weight": 1}"#,
            "\"prompt_len\" is 3",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 1.5, "weight": 1}"#,
            "\"prompt_len\" must be a whole number",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 18446744073709551615, "weight": 1}"#,
            "\"prompt_len\" is 18446744073709551615",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 1, "weight": -1e308}"#,
            "\"weight\" is -1e308, but must be from -1e30 to 1e30",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 1, "weight": "1"}"#,
            "\"weight\" must be a finite number",
        ),
        (
            r#"{"tokens": [1, 2], "prompt_len": 1}"#,
            "missing field \"weight\"",
        ),
    ] {
        assert!(error::<GradientRecord>(bad).contains(what), "{bad}");
    }
}
