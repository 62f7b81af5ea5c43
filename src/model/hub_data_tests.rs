//! Tests of `hub_data` against a server in this process.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::hub::tests::server::{Files, Log, listing, serve};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NAMES: [&str; 5] = [
    "README.md",
    "data/train_prefs-00001-of-00002.parquet",
    "data/train_prefs-00000-of-00002.parquet",
    "data/test_prefs-00000-of-00001.parquet",
    "data/train_sft-00000-of-00001.parquet",
];

fn all(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A hub with the data set owner/set of the usual files, with changes.
fn hub(changes: &[(&str, Result<&[u8], u16>)]) -> (String, Log) {
    let mut files: Files = NAMES
        .iter()
        .map(|n| {
            (
                format!("datasets/owner/set/resolve/{COMMIT}/{n}"),
                Ok(n.as_bytes().to_vec()),
            )
        })
        .collect();
    let api = "api/datasets/owner/set/revision/main".to_string();
    files.insert(api, Ok(listing(COMMIT, &NAMES)));
    for (end, file) in changes {
        files.insert((*end).to_string(), (*file).map(<[u8]>::to_vec));
    }
    serve(files, COMMIT)
}

fn settings(cache: &Path, endpoint: &str, offline: bool) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        endpoint: Some(endpoint.into()),
        token: Some("secret".into()),
        offline,
        ..HubSettings::default()
    }
}

fn request(name: &str) -> Request {
    Request::parse(name).unwrap()
}

const PREFER: [&str; 2] = ["train", "train_prefs"];

#[test]
fn names_have_an_id_a_revision_and_a_split() {
    let parts = |name: &str| {
        let r = Request::parse(name)?;
        Some((r.id, r.revision, r.split))
    };
    let (id, some) = ("a/b".to_string(), |s: &str| Some(s.to_string()));
    assert_eq!(parts("a/b"), Some((id.clone(), None, None)));
    assert_eq!(parts("a/b:test"), Some((id.clone(), None, some("test"))));
    assert_eq!(
        parts("a/b@refs/convert/parquet:x"),
        Some((id, some("refs/convert/parquet"), some("x")))
    );
    for bad in [
        "prompts.jsonl",
        "data/prompts.jsonl",
        "hh/train.jsonl.gz",
        "hh/train.csv.zst",
        "data/x.parquet",
        "/a/b",
        "./a/b",
        "a/b/c",
        "a/b:",
        "a/b@",
        "a/b@../x",
        "a\\b",
    ] {
        assert_eq!(Request::parse(bad), None, "{bad}");
    }
}

#[test]
fn splits_are_told_by_file_names() {
    for (file, split) in [
        ("data/train_prefs-00000-of-00001-17309c76.parquet", "train_prefs"),
        ("en/test-00003-of-00012.parquet", "test"),
        ("test.jsonl", "test"),
        ("my-dev-file.jsonl", "validation"),
        ("default/train/0000.parquet", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("test/part.jsonl", "test"),
        ("evol_instruct.jsonl", "train"),
        ("contest.jsonl", "train"),
        ("x-of-y.jsonl", "train"),
        ("helpful-base/test.jsonl.gz", "test"),
        ("data/train_sft-00000-of-00002.JSONL.zst", "train_sft"),
    ] {
        assert_eq!(split_of(file), split, "{file}");
    }
}

#[test]
fn parquet_goes_before_jsonl_and_the_split_must_be_clear() {
    let names = all(&NAMES);
    let (split, files) = choose(&names, None, &PREFER).unwrap();
    assert_eq!(
        (split.as_str(), files),
        ("train_prefs", all(&[NAMES[2], NAMES[1]]))
    );
    assert_eq!(choose(&names, Some("test_prefs"), &[]).unwrap().1, [NAMES[3]]);
    let e = choose(&names, None, &[]).unwrap_err().to_string();
    assert!(
        e.contains("test_prefs, train_prefs, train_sft") && e.contains("NAME:SPLIT"),
        "{e}"
    );
    let e = choose(&names, Some("dev"), &PREFER).unwrap_err().to_string();
    assert!(e.contains("no split \"dev\"") && e.contains("train_sft"), "{e}");
    // The only split needs no name, and a file that leads elsewhere is none.
    let odd = all(&[
        "b.jsonl",
        "a.jsonl",
        "../c.jsonl",
        "/d.jsonl",
        ".cache/e.jsonl",
        "x\\..\\f.jsonl",
        "g.csv",
    ]);
    assert_eq!(
        choose(&odd, None, &[]).unwrap(),
        ("train".into(), all(&["a.jsonl", "b.jsonl"]))
    );
    let e = choose(&all(&["a.txt", "dataset_infos.json"]), None, &PREFER)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("no Parquet") && e.contains(".jsonl") && e.contains(".gz"),
        "{e}"
    );
    // HH-RLHF as it is published; a table where there is nothing else.
    let hh = all(&[
        "README.md",
        "helpful-base/train.jsonl.gz",
        "helpful-base/test.jsonl.gz",
        "x.csv",
    ]);
    assert_eq!(
        choose(&hh, Some("train"), &[]).unwrap().1,
        ["helpful-base/train.jsonl.gz"]
    );
    assert_eq!(choose(&all(&["a.CSV.gz"]), None, &[]).unwrap().1, ["a.CSV.gz"]);
}

#[test]
fn a_split_is_downloaded_once_and_then_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let (address, log) = hub(&[]);
    let online = settings(dir.path(), &address, false);
    let (set, paths) = fetch("owner/set", &request("owner/set"), &PREFER, &online).unwrap();
    assert_eq!(
        set,
        DataSet {
            name: "owner/set".into(),
            id: "owner/set".into(),
            revision: COMMIT.into(),
            split: "train_prefs".into(),
            files: all(&[NAMES[2], NAMES[1]]),
        }
    );
    let read = |paths: &[PathBuf]| -> Vec<String> {
        paths
            .iter()
            .map(|p| std::fs::read_to_string(p).unwrap())
            .collect()
    };
    assert_eq!(read(&paths), set.files);
    let asked = || log.lock().unwrap().len();
    let before = asked();
    assert!(log.lock().unwrap().iter().all(|(_, token)| token == "secret"));
    assert!(
        log.lock()
            .unwrap()
            .iter()
            .all(|(path, _)| !path.contains("train_sft"))
    );
    // A resumed run, and an offline one, find the same in the cache.
    assert_eq!(read(&fetch_again(&set, &online).unwrap()), set.files);
    let offline = settings(dir.path(), &address, true);
    let name = "owner/set:train_prefs";
    let (again, paths) = fetch(name, &request(name), &[], &offline).unwrap();
    assert_eq!(
        (again.files, again.revision),
        (set.files.clone(), COMMIT.to_string())
    );
    assert_eq!(read(&paths), set.files);
    let by_commit = format!("owner/set@{COMMIT}:train_prefs");
    fetch(&by_commit, &request(&by_commit), &[], &offline).unwrap();
    assert_eq!(asked(), before);
    // An online run asks what the branch is now, and downloads nothing.
    fetch("owner/set", &request("owner/set"), &PREFER, &online).unwrap();
    assert_eq!(asked(), before + 1);
    // Half a split is not one.
    std::fs::remove_file(&paths[1]).unwrap();
    let e = fetch(name, &request(name), &[], &offline)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("only 1 of the 2 files data/train_prefs") && e.contains("HF_HUB_OFFLINE"),
        "{e}"
    );
    let e = fetch_again(&set, &offline).unwrap_err().to_string();
    assert!(e.contains(NAMES[1]) && e.contains(COMMIT), "{e}");
    // Online it is mended.
    assert_eq!(read(&fetch_again(&set, &online).unwrap()), set.files);
}

#[test]
fn compressed_files_are_read_where_the_hub_converted_none() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["helpful-base/test.jsonl.gz", "helpful-base/train.jsonl.gz"];
    let (address, _) = hub(&[
        (
            "api/datasets/owner/set/revision/main",
            Ok(&listing(COMMIT, &files)),
        ),
        (files[1], Ok(b"rows")),
    ]);
    let online = settings(dir.path(), &address, false);
    let (set, paths) = fetch("owner/set", &request("owner/set"), &PREFER, &online).unwrap();
    assert_eq!((set.revision.as_str(), set.files), (COMMIT, all(&files[1..])));
    assert_eq!(std::fs::read(&paths[0]).unwrap(), b"rows");
}

#[test]
fn other_formats_are_read_as_the_hub_converted_them() {
    let dir = tempfile::tempdir().unwrap();
    let converted = ["default/train/0000.parquet", "default/test/0000.parquet"];
    let (address, _) = hub(&[
        (
            "api/datasets/owner/set/revision/main",
            Ok(&listing(COMMIT, &["train.csv"])),
        ),
        (
            "api/datasets/owner/set/revision/refs%2Fconvert%2Fparquet",
            Ok(&listing(&COMMIT.replace('0', "f"), &converted)),
        ),
        ("default/train/0000.parquet", Ok(b"rows")),
    ]);
    let online = settings(dir.path(), &address, false);
    let (set, _) = fetch("owner/set", &request("owner/set"), &PREFER, &online).unwrap();
    assert_eq!((set.split.as_str(), set.files), ("train", all(&converted[..1])));
    assert_eq!(set.revision, COMMIT.replace('0', "f"));
}

#[test]
fn refusals_tell_the_way_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |changes: &[(&str, Result<&[u8], u16>)]| {
        let (address, _) = hub(changes);
        let cache = tempfile::tempdir().unwrap();
        let online = settings(cache.path(), &address, false);
        let e = fetch("owner/set", &request("owner/set"), &PREFER, &online).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        e.to_string()
    };
    let by_hand = "hf download owner/set --repo-type dataset --local-dir set";
    let api = "api/datasets/owner/set/revision/main";
    for (changes, parts) in [
        (vec![(api, Err(401))], ["refuses its list of files", "HF_TOKEN"]),
        (
            vec![(NAMES[2], Err(403)), (NAMES[1], Err(403))],
            ["refuses data/train_prefs-00000", "HF_TOKEN"],
        ),
        (vec![(api, Err(404))], ["not found on the hub", "Check the id"]),
        (vec![(api, Err(500))], ["could not be downloaded", "HF_ENDPOINT"]),
    ] {
        // The long names of the usual files would win.
        let long: Vec<(String, Result<&[u8], u16>)> = changes
            .iter()
            .map(|(name, file)| match name.strip_prefix("data/") {
                Some(_) => (format!("datasets/owner/set/resolve/{COMMIT}/{name}"), *file),
                None => (name.to_string(), *file),
            })
            .collect();
        let long: Vec<(&str, Result<&[u8], u16>)> = long.iter().map(|(n, f)| (n.as_str(), *f)).collect();
        let e = refusal(&long);
        assert!(parts.iter().all(|p| e.contains(p)) && e.contains(by_hand), "{e}");
    }
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for (offline, part) in [
        (false, "could not be downloaded"),
        (true, "HF_HUB_OFFLINE is set"),
    ] {
        let e = fetch(
            "owner/set",
            &request("owner/set"),
            &PREFER,
            &settings(dir.path(), &closed, offline),
        );
        let e = e.unwrap_err().to_string();
        assert!(e.contains(part) && e.contains(by_hand), "{e}");
    }
    let bad = DataSet {
        name: "owner/set".into(),
        id: "owner/set".into(),
        revision: COMMIT.into(),
        split: "train".into(),
        files: vec!["../../secret.jsonl".into()],
    };
    let e = fetch_again(&bad, &settings(dir.path(), &closed, true)).unwrap_err();
    assert!(e.to_string().contains("no data files"), "{e}");
}
