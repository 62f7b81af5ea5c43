//! Tests of the client against servers in this process, one behaviour each.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::file::limits::{HUB_FILE, HUB_TEXT};
use server::{Answer, Asked, serve_with, sha256};

#[path = "../../tests/common/hub.rs"]
pub(crate) mod server;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NAME: &str = "m.bin";

fn settings(cache: &Path, endpoint: &str) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        endpoint: Some(endpoint.into()),
        token: Some("secret".into()),
        ..HubSettings::default()
    }
}

fn hub(cache: &Path, endpoint: &str) -> Hub {
    connected(&settings(cache, endpoint))
}

fn connected(settings: &HubSettings) -> Hub {
    let mut hub = Hub::new(Kind::Model, "owner/model", settings).unwrap();
    hub.connect(settings).unwrap();
    hub
}

/// Fetches the one file of a hub.
fn fetch(cache: &Path, endpoint: &str) -> Result<Vec<u8>, Fault> {
    let found = hub(cache, endpoint).fetch("main", NAME, &HUB_FILE)?;
    Ok(std::fs::read(found.path).unwrap())
}

/// The words of a refusal by a hub that answers so; nothing of the file may be in the cache.
fn refusal(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> String {
    let dir = tempfile::tempdir().unwrap();
    match fetch(dir.path(), &serve_with(answer)) {
        Err(Fault::Failed(why)) => {
            let blobs = std::fs::read_dir(dir.path().join("models--owner--model/blobs"));
            for entry in blobs.into_iter().flatten() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(name.ends_with(".incomplete"), "{name}");
            }
            assert!(!dir.path().join("models--owner--model/snapshots").exists());
            why
        }
        other => panic!("{other:?}"),
    }
}

/// Counts requests.
fn counted(
    answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let address = serve_with(move |asked| {
        let n = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len()
        };
        answer(n, asked)
    });
    (address, seen)
}

#[test]
fn the_token_stays_on_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let (cdn, at_cdn) = counted(|_, asked| Answer::file(asked, b"weights", COMMIT));
    // Another port of the same host is another server.
    let to = format!("{cdn}/blob?key=1");
    let (address, at_hub) = counted(move |_, asked| {
        Answer::status(302)
            .with("location", &to)
            .with("x-repo-commit", COMMIT)
            .with("x-linked-etag", &sha256(b"weights"))
            .with("etag", &asked.path)
    });
    assert_eq!(fetch(dir.path(), &address).unwrap(), b"weights");
    assert!(at_hub.lock().unwrap().iter().all(|a| a.token == "secret"));
    let at_cdn = at_cdn.lock().unwrap();
    assert!(!at_cdn.is_empty() && at_cdn.iter().all(|a| a.token.is_empty()));
}

#[test]
fn the_token_does_not_come_back_after_a_detour() {
    let dir = tempfile::tempdir().unwrap();
    let home = Arc::new(Mutex::new(String::new()));
    let back = Arc::clone(&home);
    let cdn = serve_with(move |_| {
        let to = format!("{}/back", back.lock().unwrap());
        Answer::status(302).with("location", &to)
    });
    let (address, seen) = counted(move |_, asked| match asked.path.as_str() {
        "/back" => Answer::file(asked, b"x", COMMIT),
        _ if asked.method == "HEAD" => Answer::file(asked, b"x", COMMIT),
        _ => Answer::status(302).with("location", &cdn),
    });
    *home.lock().unwrap() = address.clone();
    assert_eq!(fetch(dir.path(), &address).unwrap(), b"x");
    let seen = seen.lock().unwrap();
    let back: Vec<_> = seen.iter().filter(|a| a.path == "/back").collect();
    assert!(back.len() == 1 && back[0].token.is_empty(), "{seen:?}");
}

#[test]
fn a_list_of_files_is_asked_with_the_token_of_the_hub_alone() {
    let dir = tempfile::tempdir().unwrap();
    let body = server::listing(COMMIT, &["a.jsonl"]);
    let (cdn, seen) = counted(move |_, _| Answer::new(200, &[], &body));
    let address = serve_with(move |_| Answer::status(307).with("location", &cdn));
    let list = hub(dir.path(), &address).listing("main").unwrap();
    assert_eq!(list.names, ["a.jsonl"]);
    assert!(seen.lock().unwrap().iter().all(|a| a.token.is_empty()));
}

#[test]
fn redirects_in_a_circle_end() {
    let (address, seen) = counted(|_, _| Answer::status(302).with("location", "/loop"));
    let dir = tempfile::tempdir().unwrap();
    let said = format!("{:?}", fetch(dir.path(), &address).unwrap_err());
    assert!(said.contains("more than 10 redirects"), "{said}");
    assert_eq!(seen.lock().unwrap().len(), 11);
    // Also where only the bytes are redirected.
    let said = refusal(|asked| match asked.method.as_str() {
        "HEAD" => Answer::file(asked, b"x", COMMIT),
        _ => Answer::status(302).with("location", "/loop"),
    });
    assert!(said.contains("more than 10 redirects"), "{said}");
}

#[test]
fn a_server_without_head_is_asked_for_the_first_byte() {
    for status in [405, 501] {
        let dir = tempfile::tempdir().unwrap();
        let address = serve_with(move |asked| match asked.method.as_str() {
            "HEAD" => Answer::status(status),
            _ => Answer::file(asked, b"weights", COMMIT),
        });
        assert_eq!(fetch(dir.path(), &address).unwrap(), b"weights");
    }
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let body: Vec<u8> = (0..100u8).collect();
    let (address, seen) = counted(move |n, asked| {
        let mut answer = Answer::file(asked, &body, COMMIT);
        if n == 2 {
            answer.body.truncate(40);
        }
        answer
    });
    assert_eq!(fetch(dir.path(), &address).unwrap().len(), 100);
    let from: Vec<_> = seen.lock().unwrap().iter().map(|a| a.from).collect();
    assert_eq!(from, [None, None, Some(40)]);
}

#[test]
fn what_an_earlier_run_left_is_used_only_if_it_fits() {
    let body = b"0123456789";
    let etag = sha256(body);
    for (left, ranges, asked_from) in [
        (&b"0123"[..], true, Some(4)),
        (b"0123", false, Some(4)),
        (b"evil", true, Some(4)),
        (b"evilevilev", true, None),
        (b"far too long", true, None),
        (body, true, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("models--owner--model/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{etag}.incomplete")), left).unwrap();
        let (address, seen) = counted(move |_, asked| {
            let mut asked = asked.clone();
            asked.from = asked.from.filter(|_| ranges);
            Answer::file(&asked, body, COMMIT)
        });
        assert_eq!(fetch(dir.path(), &address).unwrap(), body, "{left:?}");
        let second = seen.lock().unwrap().get(1).and_then(|a| a.from);
        assert_eq!(second, asked_from, "{left:?}");
        assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    }
}

#[test]
fn files_of_another_length_or_hash_do_not_enter_the_cache() {
    let bytes = |body: &'static [u8], length: bool| {
        refusal(move |asked| {
            let mut answer = Answer::file(asked, b"0123456789", COMMIT);
            if asked.method == "GET" {
                answer = Answer::new(200, &[], body);
                if length {
                    answer.set("content-length", &body.len().to_string());
                }
            }
            answer
        })
    };
    assert!(bytes(b"01234", false).contains("after 5 of 10 bytes"));
    assert!(bytes(b"0123456789ab", false).contains("more than the 10 bytes"));
    assert!(bytes(b"0123456789ab", true).contains("12 bytes"));
    let said = bytes(b"evilevilev", true);
    assert!(
        said.contains("SHA-256") && said.contains(&sha256(b"0123456789")),
        "{said}"
    );
}

#[test]
fn small_files_are_checked_against_gits_hash() {
    // `git hash-object` of "hello\n", and the SHA-1 of its bytes alone.
    for (etag, good) in [
        ("ce013625030ba8dba906f756967f9e9ca394464a", true),
        ("f572d396fae9206628714fb2ce00f72e94f2258f", true),
        ("ce013625030ba8dba906f756967f9e9ca394464b", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let address = serve_with(move |asked| Answer::file(asked, b"hello\n", COMMIT).with("etag", etag));
        assert_eq!(fetch(dir.path(), &address).is_ok(), good, "{etag}");
    }
}

#[test]
fn the_page_of_a_captive_portal_is_no_file() {
    let page = |answer: Answer| answer.with("content-type", "text/html; charset=utf-8");
    let said = refusal(move |_| page(Answer::new(200, &[], b"<html>log in</html>")));
    assert!(said.contains("log-in page of a network"), "{said}");
    let said = refusal(move |asked| match asked.method.as_str() {
        "HEAD" => Answer::file(asked, b"0123456789", COMMIT),
        _ => page(Answer::new(200, &[], b"<html></ht")),
    });
    assert!(said.contains("web page"), "{said}");
}

#[test]
fn an_endless_body_stops_at_the_size_that_was_declared() {
    let begun = Instant::now();
    let said = refusal(|asked| {
        let mut answer = Answer::file(asked, &[b'x'; 700], COMMIT);
        if asked.method == "GET" {
            answer = Answer::new(200, &[], &vec![b' '; 64 << 20]);
        }
        answer
    });
    assert!(said.contains("more than the 700 bytes"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let dir = tempfile::tempdir().unwrap();
    for size in ["18446744073709551615", "9999999999999"] {
        let address = serve_with(move |asked| Answer::file(asked, b"x", COMMIT).with("content-length", size));
        match fetch(dir.path(), &address) {
            Err(Fault::Other(e)) => assert!(e.to_string().contains("--max-file-memory"), "{e}"),
            other => panic!("{other:?}"),
        }
    }
    let address = serve_with(|asked| Answer::file(asked, b"x", COMMIT).with("content-length", "600000000"));
    let found = hub(dir.path(), &address).fetch("main", "config.json", &HUB_TEXT);
    assert!(matches!(found, Err(Fault::Other(_))), "{found:?}");
}

#[test]
fn a_list_that_is_compressed_or_endless_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |answer: Answer| {
        let address = serve_with(move |_| answer.clone());
        format!("{:?}", hub(dir.path(), &address).listing("main").unwrap_err())
    };
    let said = refused(Answer::new(200, &[("content-encoding", "gzip")], b"\x1f\x8b"));
    assert!(said.contains("compressed"), "{said}");
    let said = refused(Answer::new(200, &[], &vec![b' '; (64 << 20) + 1]));
    assert!(said.contains("size of a list of files"), "{said}");
    let said = refused(Answer::new(200, &[("x-long", &"x".repeat(100_000))], b"{}"));
    assert!(said.contains("size of the head"), "{said}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let begun = Instant::now();
    let impatiently = |answer: fn(&Asked) -> Answer| {
        let dir = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            metadata_seconds: Some("1".into()),
            download_seconds: Some("1".into()),
            ..settings(dir.path(), &serve_with(answer))
        };
        format!(
            "{:?}",
            connected(&settings).fetch("main", NAME, &HUB_FILE).unwrap_err()
        )
    };
    let said = impatiently(|_| {
        let mut answer = Answer::status(200);
        answer.waits[0] = Duration::from_secs(30);
        answer
    });
    assert!(said.contains("time-out"), "{said}");
    // One that has every question asked elsewhere, and takes its time each time.
    let said = impatiently(|_| {
        let mut answer = Answer::status(302).with("location", "/loop");
        answer.waits[0] = Duration::from_millis(400);
        answer
    });
    assert!(
        said.contains("redirects and redirects") || said.contains("time-out"),
        "{said}"
    );
    // One that says what the file is, and then sends a byte now and then.
    let said = impatiently(|asked| {
        let mut answer = Answer::file(asked, &[b'x'; 1000], COMMIT);
        if asked.method == "GET" {
            answer.waits[1] = Duration::from_millis(200);
        }
        answer
    });
    assert!(said.contains("too slow") || said.contains("time-out"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(25));
}

#[test]
fn words_between_chunks_do_not_hold_a_download() {
    let chunked = |listing: bool, begin: &str, more: &str| {
        let body = format!("{begin}{}", more.repeat(1000)).into_bytes();
        let address = serve_with(move |asked| match asked.method.as_str() {
            "HEAD" => Answer::file(asked, b"weights", COMMIT),
            _ => {
                let mut answer = Answer::new(200, &[("transfer-encoding", "chunked")], &body);
                answer.waits[1] = Duration::from_millis(30);
                answer
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            download_seconds: Some("1".into()),
            metadata_seconds: Some("1".into()),
            ..settings(dir.path(), &address)
        };
        let hub = connected(&settings);
        match listing {
            true => hub.listing("main").map(|_| ()),
            false => hub.fetch("main", NAME, &HUB_FILE).map(|_| ()),
        }
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let all = [
            (false, "5;a=", "x", false),
            (false, "", "0", false),
            // After the whole file.
            (false, "7\r\nweights\r\n0\r\nX: ", "x", true),
            (true, "5;a=", "x", false),
        ];
        let all = all
            .map(|(listing, begin, more, good)| (scope.spawn(move || chunked(listing, begin, more)), good));
        for (fetched, good) in all {
            let fetched = fetched.join().unwrap();
            assert_eq!(fetched.is_ok(), good, "{fetched:?}");
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn bytes_that_come_again_are_no_headway() {
    const MIB: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let body = vec![b'q'; 20 * MIB];
    let (address, seen) = counted(move |n, asked| {
        // Without the range that is asked for.
        let mut answer = Answer::new(200, &[], b"");
        match asked.method.as_str() {
            "HEAD" => answer = Answer::file(asked, &body, COMMIT),
            _ => {
                answer.set("content-length", &body.len().to_string());
                answer.body = body[..if n % 2 == 0 { 17 } else { 1 } * MIB].to_vec();
            }
        }
        answer
    });
    let fetched = fetch(dir.path(), &address);
    assert!(matches!(fetched, Err(Fault::Failed(_))), "{fetched:?}");
    assert_eq!(seen.lock().unwrap().len(), 1 + 3);
}

#[test]
fn a_hub_that_repeats_the_token_does_not_get_it_into_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "hf_token_that_is_repeated_0123456789\n").unwrap();
    for (name, before) in [
        ("etag", 0),
        ("etag", 60),
        ("x-repo-commit", 70),
        ("x-linked-size", 75),
    ] {
        let address = serve_with(move |asked| {
            let text = format!("{}{}", "z".repeat(before), asked.token);
            Answer::file(asked, b"x", COMMIT).with(name, &text)
        });
        let settings = HubSettings {
            token: None,
            token_file: Some(token.clone()),
            ..settings(dir.path(), &address)
        };
        let said = format!(
            "{:?}",
            connected(&settings).fetch("main", NAME, &HUB_FILE).unwrap_err()
        );
        assert!(said.contains("[key]") && !said.contains("hf_t"), "{said}");
    }
}

#[test]
fn contents_in_the_cache_are_hashed_before_they_get_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("models--owner--model/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let body = b"0123456789";
    for (there, asked) in [(&b"evilevilev"[..], 2), (body, 1)] {
        let _ = std::fs::remove_dir_all(dir.path().join("models--owner--model/snapshots"));
        std::fs::write(blobs.join(sha256(body)), there).unwrap();
        let (address, seen) = counted(move |_, asked| Answer::file(asked, body, COMMIT));
        assert_eq!(fetch(dir.path(), &address).unwrap(), body);
        assert_eq!(seen.lock().unwrap().len(), asked);
    }
}

#[test]
fn passing_failures_are_tried_again_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = counted(|n, asked| match n {
        1 => Answer::status(503).with("retry-after", "0"),
        2 => Answer::status(429).with("retry-after", "0"),
        _ => Answer::file(asked, b"x", COMMIT),
    });
    assert_eq!(fetch(dir.path(), &address).unwrap(), b"x");
    assert_eq!(seen.lock().unwrap().len(), 4);
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = counted(|_, _| Answer::status(500).with("retry-after", "0"));
    assert!(matches!(fetch(dir.path(), &address), Err(Fault::Failed(_))));
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[test]
fn an_answer_for_another_commit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let address = serve_with(|asked| Answer::file(asked, b"x", &COMMIT.replace('0', "f")));
    let found = hub(dir.path(), &address).fetch(COMMIT, NAME, &HUB_FILE);
    assert!(matches!(found, Err(Fault::Failed(_))), "{found:?}");
}

#[test]
fn a_cut_file_in_the_cache_is_fetched_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = counted(|_, asked| Answer::file(asked, b"{\"a\": 1}", COMMIT));
    let fetch = || {
        hub(dir.path(), &address)
            .fetch(COMMIT, "config.json", &HUB_TEXT)
            .unwrap()
            .path
    };
    let path = fetch();
    fetch();
    assert_eq!(seen.lock().unwrap().len(), 2);
    std::fs::write(&path, "{\"a\":").unwrap();
    assert_eq!(std::fs::read_to_string(fetch()).unwrap(), "{\"a\": 1}");
    assert_eq!(seen.lock().unwrap().len(), 4);
    // Where nobody can be asked, it is said.
    std::fs::write(&path, "<html>").unwrap();
    let offline = Hub::new(Kind::Model, "owner/model", &settings(dir.path(), &address)).unwrap();
    let said = offline.cached(COMMIT, "config.json").unwrap_err().to_string();
    assert!(said.contains("damaged"), "{said}");
}

#[test]
fn a_file_of_another_size_than_the_hub_says_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let address = serve_with(|asked| Answer::file(asked, b"0123456789", COMMIT));
    let path = hub(dir.path(), &address)
        .fetch("main", NAME, &HUB_FILE)
        .unwrap()
        .path;
    std::fs::write(&path, "012").unwrap();
    assert_eq!(fetch(dir.path(), &address).unwrap(), b"0123456789");
    // Without its name, too.
    std::fs::write(&path, "012").unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fetch(dir.path(), &address).unwrap(), b"0123456789");
}

#[test]
fn what_the_hub_said_is_missing_is_not_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = counted(|_, _| {
        let missing = Answer::status(404).with("x-error-code", "EntryNotFound");
        missing.with("x-repo-commit", COMMIT)
    });
    for _ in 0..2 {
        let found = hub(dir.path(), &address).fetch(COMMIT, NAME, &HUB_FILE);
        assert!(matches!(found, Err(Fault::Absent)), "{found:?}");
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[test]
fn odd_names_are_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = counted(|_, _| Answer::status(404));
    let hub = hub(dir.path(), &address);
    for name in ["../x", "/etc/passwd", "a\\b", "", "a\nb"] {
        assert!(matches!(
            hub.fetch("main", name, &HUB_FILE),
            Err(Fault::Failed(_))
        ));
        assert!(matches!(hub.listing(name), Err(Fault::Failed(_))));
    }
    assert!(seen.lock().unwrap().is_empty());
    assert!(Hub::new(Kind::Model, "../x", &settings(dir.path(), &address)).is_err());
}
