//! Positions, answers and rates.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::fault_server::*;
use super::*;

#[test]
fn positions_are_random_seeded_and_mapped_back() {
    let server = Server::start(|_, seen| verdict(seen.side_with("good")));
    let (good, bad) = (eval("good", 40), eval("bad", 40));
    let r = run(&good, &bad, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!(counts(&r), (40, 0, 0, 0));
    assert_eq!(
        (r.win_rate.mean, r.win_rate.low, r.confidence),
        (1.0, Some(1.0), Some(0.75))
    );
    let shown = r.judgements.iter().filter(|j| j.first_is_a == Some(true)).count();
    assert!((10..=30).contains(&shown), "{shown} of 40 first");
    assert!(r.judgements.iter().all(|j| j.samples == [1, 1] && j.asked == 1));
    let swapped = run(&bad, &good, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!(counts(&swapped), (0, 0, 40, 0));
    let positions = |r: &JudgeResult| r.judgements.iter().map(|j| j.first_is_a).collect::<Vec<_>>();
    assert_eq!(
        positions(&r),
        positions(&swapped),
        "the seed decides, not the texts"
    );
    let other = JudgeSettings {
        seed: 8,
        ..settings(None, false)
    };
    let other = run(&good, &bad, server.endpoint(), &other).unwrap();
    assert_ne!(positions(&r), positions(&other));
}

#[test]
fn a_judge_that_always_says_a_shows_as_position_bias() {
    let server = Server::start(|_, _| verdict("A"));
    let r = run(
        &eval("good", 40),
        &eval("bad", 40),
        server.endpoint(),
        &settings(None, false),
    )
    .unwrap();
    assert_eq!(r.first_shown_rate, Some(1.0));
    let shown = r.judgements.iter().filter(|j| j.first_is_a == Some(true)).count();
    assert_eq!(counts(&r), (shown, 0, 40 - shown, 0));
    let (low, high) = r.win_rate.ends().unwrap();
    assert!(low < 0.5 && high > 0.5, "{:?}", r.win_rate);
}

#[test]
fn equal_responses_are_a_tie_without_a_question() {
    let server = Server::start(|_, _| verdict("tie"));
    let (one, mut two) = (eval("same", 3), eval("same", 3));
    two.completions[2][1].text = "different".into();
    let r = run(&one, &two, server.endpoint(), &settings(None, false)).unwrap();
    assert_eq!((counts(&r), r.equal, server.seen().len()), ((0, 3, 0, 0), 2, 1));
    assert_eq!((r.win_rate.mean, r.first_shown_rate), (0.5, None));
}

#[test]
fn bad_answers_are_asked_for_again_then_recorded_as_invalid() {
    let bad = [
        "I think A is better.",
        "{\"winner\": \"C\"}",
        "{\"winner\": \"A\", \"confidence\": 7}",
        "{\"winner\": [\"A\"]}",
        "{\"winner\": \"A\"",
        "",
    ];
    // The prompt's number picks the bad answer; prompt 6 mends its ways at the third question.
    let server = Server::start(move |_, seen| {
        let text = seen.messages()[1]["content"].as_str().unwrap();
        let prompt: usize = text
            .split("prompt ")
            .nth(1)
            .unwrap()
            .split('\n')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        match bad.get(prompt) {
            Some(text) => Act::Say((*text).to_string()),
            None if seen.messages().len() < 6 => Act::Say("Hm.".into()),
            None => verdict(seen.side_with("good")),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let r = run(
        &eval("good", 7),
        &eval("bad", 7),
        server.endpoint(),
        &settings(Some(dir.path()), false),
    )
    .unwrap();
    assert_eq!(counts(&r), (1, 0, 0, 6));
    assert_eq!(
        (r.win_rate.mean, server.seen().len()),
        (1.0, 7 * 3),
        "invalid ones are left out of the rate"
    );
    for (i, text) in bad.iter().enumerate() {
        let j = &r.judgements[i];
        assert_eq!(
            (j.winner, j.asked, j.raw.as_deref()),
            (Winner::Invalid, 3, Some(*text))
        );
        assert!(!j.reason.is_empty());
    }
    assert_eq!((r.judgements[6].asked, &r.judgements[6].raw), (3, &None));
    // All of them bad: an error rather than an empty table.
    let server = Server::start(|_, _| Act::Say("no".into()));
    let nothing = run(
        &eval("good", 2),
        &eval("bad", 2),
        server.endpoint(),
        &settings(None, false),
    );
    refused(nothing, &["no judgement is valid", "winner"]);
}

#[test]
fn answers_are_found_among_thoughts_and_fences() {
    let answer = |text: &str| parse(text).map(|a| (a.side, a.confidence));
    let fenced =
        "<think>{\"winner\": \"A\"} or {B}?</think>\n```json\n{\"winner\": \" b \", \"confidence\": 1}\n```";
    assert_eq!(answer(fenced), Ok((Side::B, Some(1.0))));
    assert_eq!(answer("{\"winner\": \"TIE\"}"), Ok((Side::Tie, None)));
    assert_eq!(
        answer("{\"winner\": \"A\", \"confidence\": null, \"reason\": null}"),
        Ok((Side::A, None))
    );
    for bad in [
        "{\"Winner\": \"A\"}",
        "{\"winner\": \"A and B\"}",
        "{\"winner\": \"A\", \"reason\": 3}",
        "{\"winner\": null}",
        "{\"winner\": \"B\", \"confidence\": \"high\"}",
    ] {
        assert!(answer(bad).is_err(), "{bad}");
    }
}

#[test]
fn evaluations_that_do_not_match_are_refused() {
    let endpoint = Server::start(|_, _| verdict("A")).endpoint();
    let ask = |first: &StoredEval, second: &StoredEval, n| {
        let s = JudgeSettings {
            n,
            ..settings(None, false)
        };
        run(first, second, endpoint.clone(), &s)
    };
    refused(ask(&eval("a", 2), &eval("b", 3), None), &["2 and 3 prompts"]);
    refused(ask(&eval("a", 2), &eval("b", 2), Some(4)), &["--n 4", "3"]);
    let mut other = eval("b", 2);
    other.prompts[1].key = "x".into();
    refused(ask(&eval("a", 2), &other, None), &["prompt 1", "same"]);
    let mut fewer = eval("b", 2);
    fewer.meta.samples = 2;
    refused(ask(&eval("a", 2), &fewer, None), &["3 and 2 samples", "--n"]);
    // The best of the first sample alone is another response.
    let r = ask(&eval("a", 2), &eval("b", 2), Some(1)).unwrap();
    assert_eq!((r.judgements[0].samples, r.equal), ([0, 0], 2));
}

#[test]
fn addresses_become_completions_pages() {
    for (address, want) in [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/api/v1/", "https://h/api/v1/chat/completions"),
        ("https://h/x/chat/completions", "https://h/x/chat/completions"),
    ] {
        assert_eq!(completions_url(address).unwrap(), want);
    }
    for bad in [
        "",
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://u:p@h/v1",
        "http://h/?key=1",
    ] {
        let error = completions_url(bad).unwrap_err();
        assert!(!error.to_string().contains("u:p"), "{error}");
    }
}

#[test]
fn a_body_is_a_verdict_or_says_what_it_is() {
    let body =
        |content: &str| serde_json::json!({"choices": [{"message": {"content": content}}]}).to_string();
    let whole = body("so: {\"winner\": \"tie\", \"confidence\": 0.5, \"reason\": \"é\"}");
    assert_eq!(read_answer(whole.as_bytes()).unwrap().side, Side::Tie);
    for (bytes, why) in [
        (&b"<html>"[..], "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (
            b"{\"error\": {\"code\": 429, \"message\": \"slow down\"}}",
            "HTTP 429: slow down",
        ),
        (b"{\"choices\": []}", "choices[0].message"),
        (b"{\"choices\": [{\"message\": {\"content\": 1}}]}", "not a text"),
    ] {
        let said = read_answer(bytes).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    let long = body(&format!("{{\"winner\": \"{}\"}}", "x".repeat(1 << 20)));
    assert!(read_answer(long.as_bytes()).unwrap_err().len() < 2000);
    // Every cut and every changed byte is an answer or an error.
    for at in 0..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        drop(read_answer(&bytes[..at]));
        for byte in [0, b'"', b'{', b'\\', 0xff] {
            bytes[at] = byte;
            drop(read_answer(&bytes));
        }
    }
}
