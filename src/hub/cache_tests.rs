//! Tests of the cache's folder.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn etag() -> Etag {
    Etag::parse(&"ab".repeat(32)).unwrap()
}

fn folder(cache: &Path) -> Folder {
    Folder::new(cache, "models--a--b".into())
}

fn install(folder: &Folder, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.incomplete(&etag())?;
    fs::write(&path, bytes).unwrap();
    folder.install(&path, &etag())?;
    folder.link(COMMIT, name, &etag())
}

#[test]
fn the_layout_is_that_of_pythons_client() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let path = install(&folder, "a/b/c.txt", b"x").unwrap();
    let root = dir.path().join("models--a--b");
    assert_eq!(path, root.join("snapshots").join(COMMIT).join("a/b/c.txt"));
    assert_eq!(fs::read(&path).unwrap(), b"x");
    if cfg!(unix) {
        let target = Path::new("../../../../blobs").join(etag().as_str());
        assert_eq!(fs::read_link(&path).unwrap(), target);
    }
    folder.remember("refs/convert/parquet", COMMIT);
    assert_eq!(
        fs::read_to_string(root.join("refs/refs/convert/parquet")).unwrap(),
        COMMIT
    );
    assert_eq!(folder.commit("refs/convert/parquet").unwrap(), COMMIT);
    folder.know_absent(COMMIT, "d/e.txt");
    assert!(root.join(".no_exist").join(COMMIT).join("d/e.txt").is_file());
    assert!(folder.is_known_absent(COMMIT, "d/e.txt") && !folder.is_known_absent(COMMIT, "d/f.txt"));
    let lock = folder.lock(&etag()).unwrap().unwrap();
    let name = format!("{}.lock", etag().as_str());
    assert!(dir.path().join(".locks/models--a--b").join(name).is_file());
    drop(lock);
}

#[test]
fn a_reference_that_names_no_commit_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    folder.remember("main", COMMIT);
    let path = dir.path().join("models--a--b/refs/main");
    for bad in ["", "../../../x", "/etc", &COMMIT[1..]] {
        fs::write(&path, bad).unwrap();
        assert_eq!(folder.commit("main"), None, "{bad}");
    }
    assert_eq!(folder.commit("../main"), None);
    assert!(matches!(folder.find("../..", "x"), Cached::Absent));
    assert!(matches!(folder.find(COMMIT, "../x"), Cached::Absent));
}

#[cfg(unix)]
#[test]
fn nothing_is_written_through_a_link_inside_the_folder() {
    use std::os::unix::fs::symlink;
    for inside in [
        "blobs",
        "snapshots",
        &format!("snapshots/{COMMIT}"),
        "refs",
        ".no_exist",
    ] {
        let (dir, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = folder(dir.path());
        let link = dir.path().join("models--a--b").join(inside);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(victim.path(), &link).unwrap();
        let installed = install(&folder, "x", b"x");
        folder.remember("main", COMMIT);
        folder.know_absent(COMMIT, "y");
        assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0, "{inside}");
        if inside.starts_with(['b', 's']) {
            let said = installed.unwrap_err().to_string();
            assert!(said.contains("HF_HUB_CACHE"), "{said}");
        }
    }
    // The cache itself and the repository's folder may be links.
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(other.path(), dir.path().join("models--a--b")).unwrap();
    install(&folder(dir.path()), "x", b"x").unwrap();
    assert!(other.path().join("blobs").is_dir());
}

#[cfg(unix)]
#[test]
fn files_in_the_place_of_the_caches_own_are_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    for lay in [
        (|victim: &Path, at: &Path| std::os::unix::fs::symlink(victim, at))
            as fn(&Path, &Path) -> io::Result<()>,
        |victim, at| fs::hard_link(victim, at),
    ] {
        let at = dir.path().join("x.incomplete");
        lay(&victim, &at).unwrap();
        io::Write::write_all(&mut own_file(&at).unwrap(), b"evil").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        // What is the cache's own is gone on with.
        io::Write::write_all(&mut own_file(&at).unwrap(), b" more").unwrap();
        assert_eq!(fs::read_to_string(&at).unwrap(), "evil more");
        fs::remove_file(&at).unwrap();
    }
    // A name in a snapshot that leads elsewhere is replaced, not written through.
    let folder = folder(dir.path());
    let path = install(&folder, "x", b"good").unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    folder.link(COMMIT, "x", &etag()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "good");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
}

#[test]
fn half_a_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend_from_slice(header);
    weights.extend_from_slice(&[0; 8]);
    let folder = folder(dir.path());
    let damaged = |name: &str, bytes: &[u8]| {
        install(&folder, name, bytes).unwrap();
        let found = folder.find(COMMIT, name);
        folder.forget(COMMIT, name);
        assert!(matches!(folder.find(COMMIT, name), Cached::Absent));
        assert_eq!(folder.blob(&etag()), None);
        matches!(found, Cached::Damaged(_))
    };
    assert!(!damaged("m.safetensors", &weights));
    for cut in [0, 7, 8, 20, weights.len() - 1] {
        assert!(damaged("m.safetensors", &weights[..cut]), "{cut}");
    }
    assert!(damaged("m.safetensors", b"<html>captive portal</html>"));
    for good in [
        "{}",
        " {\"a\": [1]}\n",
        "[1]",
        "\u{feff}{}",
        &format!("{{{}}}", " ".repeat(9000)),
    ] {
        assert!(!damaged("config.json", good.as_bytes()), "{good}");
    }
    for bad in ["", "<html>", "{\"a\":", "{\"a\": [1]", "version https://git-lfs"] {
        assert!(damaged("config.json", bad.as_bytes()), "{bad}");
    }
    assert!(!damaged("a.parquet", b"PAR1....PAR1") && damaged("a.parquet", b"PAR1...."));
    assert!(!damaged("template.jinja", b"{% if"));
}
