//! Tests of what answers lead to: no server, no files.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const HUB: &str = "https://hub.example/base";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const ETAG: &str = "\"89abcdef0123456789abcdef0123456789abcdef\"";

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        let name = HeaderName::try_from(*name).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn ask(status: u16, list: &[(&str, &str)]) -> Result<Next, Trouble> {
    let at = Address::parse(HUB).unwrap();
    metadata(Asked::Head, status, &headers(list), &at)
}

/// The words of a refusal.
fn refused<T: std::fmt::Debug>(answer: Result<T, Trouble>) -> String {
    match answer {
        Err(Trouble::Final(Fault::Failed(why))) => why,
        other => panic!("{other:?}"),
    }
}

fn file(status: u16, list: &[(&str, &str)]) -> Metadata {
    match ask(status, list) {
        Ok(Next::File(m)) => m,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_told_by_commit_hash_and_size() {
    let usual = [
        ("x-repo-commit", COMMIT),
        ("etag", ETAG),
        ("content-length", "12"),
    ];
    let m = file(200, &usual);
    assert_eq!((m.commit.as_str(), m.size), (COMMIT, Some(12)));
    assert_eq!(m.etag.as_str(), ETAG.trim_matches('"'));
    // What a large file's redirect says goes before what the redirect itself is.
    let sha256 = "ab".repeat(32);
    let linked = [
        ("x-repo-commit", COMMIT),
        ("etag", "\"of-the-redirect\""),
        ("content-length", "1300"),
        ("x-linked-etag", sha256.as_str()),
        ("x-linked-size", "5000000000"),
        ("location", "https://cdn.example/blob?key=secret"),
    ];
    let m = file(302, &linked);
    assert_eq!((m.etag.as_str(), m.size), (sha256.as_str(), Some(5_000_000_000)));
    assert_eq!(m.location.full(), "https://cdn.example/blob?key=secret");
    // Without it, the size is what the file's own answer will say.
    assert_eq!(
        file(302, &[linked[0], linked[3], linked[5], linked[2]]).size,
        None
    );
}

#[test]
fn redirects_on_the_hub_itself_are_asked_and_others_answer() {
    let follow = |location: &str| ask(307, &[("location", location)]);
    let next = |location: &str| match follow(location) {
        Ok(Next::Follow(to)) => to.full(),
        other => panic!("{other:?}"),
    };
    assert_eq!(next("/api/cache/x"), "https://hub.example/api/cache/x");
    assert_eq!(next("https://HUB.example:443/x"), "https://hub.example/x");
    let said = refused(follow("https://other.example/x"));
    assert!(
        said.contains("redirects to https://other.example") && said.contains("X-Repo-Commit"),
        "{said}"
    );
    for bad in [
        "file:///etc/passwd",
        "ftp://h/x",
        "http://hub.example/x",
        "https://u:p@h/",
        "x y",
        "",
    ] {
        refused(follow(bad));
    }
    refused(ask(302, &[("etag", ETAG), ("x-repo-commit", COMMIT)]));
}

#[test]
fn what_could_be_a_path_is_refused() {
    for commit in [
        "",
        "main",
        "/tmp/x",
        "../../../../x",
        &COMMIT[1..],
        &format!("{COMMIT}0"),
        "\u{1b}[31m",
    ] {
        if HeaderValue::from_str(commit).is_ok() {
            let said = refused(ask(200, &[("x-repo-commit", commit), ("etag", ETAG)]));
            assert!(said.contains("commit"), "{said}");
        }
    }
    for etag in [
        "",
        "\"\"",
        "\"e1\"",
        "\"..\"",
        "\"/\"",
        "\"/etc/passwd\"",
        "\"../../x\"",
        "W/\"1\"",
    ] {
        let said = refused(ask(200, &[("x-repo-commit", COMMIT), ("etag", etag)]));
        assert!(said.contains("ETag"), "{said}");
    }
    // A good hash beside a bad one for the same file, and two of either.
    refused(ask(
        200,
        &[
            ("x-repo-commit", COMMIT),
            ("etag", ETAG),
            ("x-linked-etag", "../x"),
        ],
    ));
    refused(ask(
        200,
        &[("x-repo-commit", COMMIT), ("etag", ETAG), ("etag", "\"x\"")],
    ));
    refused(ask(200, &[("x-repo-commit", COMMIT)]));
    refused(ask(200, &[("etag", ETAG)]));
}

#[test]
fn sizes_are_numbers() {
    for size in ["18446744073709551616", "-1", "+1", "1.5", "1e3", "0x10", ""] {
        let list = [
            ("x-repo-commit", COMMIT),
            ("etag", ETAG),
            ("content-length", size),
        ];
        let said = refused(ask(200, &list));
        assert!(said.contains("no size"), "{said}");
    }
    let list = [
        ("x-repo-commit", COMMIT),
        ("etag", ETAG),
        ("content-length", "18446744073709551615"),
    ];
    assert_eq!(file(200, &list).size, Some(u64::MAX));
}

#[test]
fn statuses_are_sorted() {
    assert_eq!(ask(501, &[]).unwrap(), Next::NoHead);
    assert_eq!(
        ask(404, &[("x-repo-commit", COMMIT)]).unwrap(),
        Next::Absent(None)
    );
    let entry = [("x-repo-commit", COMMIT), ("x-error-code", "EntryNotFound")];
    assert_eq!(ask(404, &entry).unwrap(), Next::Absent(Some(COMMIT.into())));
    for gated in [401, 403] {
        assert!(matches!(ask(gated, &[]), Err(Trouble::Final(Fault::Refused))));
    }
    for passing in [408, 429, 500, 502, 503, 504] {
        match ask(passing, &[("retry-after", "100000")]) {
            Err(Trouble::Again { wait, .. }) => assert_eq!(wait, Some(LONGEST_WAIT)),
            other => panic!("{other:?}"),
        }
    }
    for odd in [304, 204, 300, 400, 418, 451, 600] {
        refused(ask(odd, &[("x-repo-commit", COMMIT), ("etag", ETAG)]));
    }
}

#[test]
fn bytes_are_taken_where_they_belong() {
    let at = Address::parse(HUB).unwrap();
    let take =
        |size, from, status, list: &[(&str, &str)]| part("a.json", size, from, status, &headers(list), &at);
    let ok = |size, from, status, list: &[(&str, &str)]| {
        take(size, from, status, list)
            .unwrap()
            .map(|p| (p.begin, p.total))
    };
    let range = |text: &'static str| ("content-range", text);
    assert_eq!(ok(Some(9), 0, 200, &[]), Some((0, 9)));
    assert_eq!(ok(None, 0, 200, &[("content-length", "9")]), Some((0, 9)));
    assert_eq!(ok(Some(9), 4, 206, &[range("bytes 4-8/9")]), Some((4, 9)));
    // The range was ignored; it is another one; it is not said.
    assert_eq!(ok(Some(9), 4, 200, &[("content-length", "9")]), Some((0, 9)));
    assert_eq!(ok(Some(9), 4, 206, &[range("bytes 0-8/9")]), Some((0, 9)));
    assert_eq!(ok(Some(9), 4, 206, &[range("bytes 5-8/9")]), None);
    assert_eq!(ok(Some(9), 4, 206, &[]), None);
    assert_eq!(ok(Some(9), 4, 416, &[]), None);
    for (size, list) in [
        (Some(9), &[("content-length", "10")][..]),
        (Some(9), &[("content-type", "Text/HTML; charset=utf-8")]),
        (Some(9), &[("content-encoding", "gzip")]),
        (None, &[]),
    ] {
        refused(take(size, 0, 200, list));
    }
    for text in [
        "bytes 4-8/10",
        "bytes 4",
        "4-8/9",
        "bytes a-b/9",
        "bytes 4-8/-9",
        "bytes 4-/9",
    ] {
        refused(take(Some(9), 4, 206, &[range(text)]));
    }
    refused(take(
        None,
        1,
        206,
        &[range("bytes 1-2/*"), ("content-length", "18446744073709551615")],
    ));
}

#[test]
fn a_list_of_files_has_plain_names_and_a_commit() {
    let body = |sha: &str, name: &str| {
        serde_json::json!({ "x": [1], "sha": sha, "siblings": [{ "rfilename": name, "size": 1 }] })
            .to_string()
    };
    let list = listing(body(COMMIT, ".gitattributes").as_bytes()).unwrap();
    assert_eq!(
        (list.commit.as_str(), list.names),
        (COMMIT, vec![".gitattributes".to_string()])
    );
    for (sha, name) in [
        ("/tmp/x", "a"),
        ("main", "a"),
        (COMMIT, "../../x.jsonl"),
        (COMMIT, "/tmp/x.jsonl"),
        (COMMIT, "a/../../b.jsonl"),
        (COMMIT, "a\\b.jsonl"),
        (COMMIT, "x.jsonl\u{1b}[31m"),
        (COMMIT, ""),
    ] {
        let said = listing(body(sha, name).as_bytes()).unwrap_err();
        assert_eq!(said.exit_code(), 2);
        assert!(!said.to_string().contains('\u{1b}'), "{said}");
    }
    let deep = "[".repeat(100_000);
    for bad in ["", "<html>", "[]", "{}", "{\"sha\":1}", &deep, "\u{feff}{}"] {
        listing(bad.as_bytes()).unwrap_err();
    }
}

#[test]
fn nothing_that_is_done_leaves_the_folder_or_shows_the_token() {
    let evil = [
        "../../../../x",
        "/etc/passwd",
        COMMIT,
        ETAG,
        "https://evil.example/",
        "//evil.example",
        "/a",
    ];
    for commit in evil {
        for etag in evil {
            for location in evil {
                let list = [
                    ("x-repo-commit", commit.as_bytes()),
                    ("x-linked-etag", etag.as_bytes()),
                    ("location", location.as_bytes()),
                ];
                let body = format!("{{\"sha\":{commit:?},\"siblings\":[{{\"rfilename\":{location:?}}}]}}");
                for deed in deeds(HUB, 302, &list, body.as_bytes()).into_iter().flatten() {
                    let plain = |p: &PathBuf| p.iter().all(|part| part != ".." && part != "/");
                    assert!(deed.written.iter().all(plain), "{deed:?}");
                    if let Some((to, true)) = deed.asked {
                        assert!(to.starts_with("https://hub.example/"), "{to}");
                    }
                }
            }
        }
    }
}
