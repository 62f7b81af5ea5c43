//! Tests of `save`.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::file::write::finished;
use crate::model::store::WeightStore;
use std::fs;
use std::io::Write;

/// Nobody else's files.
fn none(_: &Path) -> Vec<String> {
    Vec::new()
}

fn names(dir: &Path) -> Vec<String> {
    let mut list: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    list.sort();
    list
}

#[test]
fn files_are_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(dir.path()), ["a.json"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_rubbish() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    write_atomic(&path, b"old").unwrap();
    let error = write_atomic_with(&path, |out| {
        out.write_all(b"half")?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a.json"]);
    assert_eq!(
        write_atomic(&dir.path().join("no/such/dir"), b"x")
            .unwrap_err()
            .exit_code(),
        2
    );
    assert_eq!(write_atomic(Path::new("/"), b"x").unwrap_err().exit_code(), 2);
}

/// The kernel's own "no space left on device" through the same code.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_user_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = AtomicDir::create(&dir.path().join("step_1"), none).unwrap();
    assert_eq!(out.write("no/model.bin", &[1; 100]).unwrap_err().exit_code(), 2);
    drop(out);
    assert!(names(dir.path()).is_empty());
    let full = |_: &mut dyn Write| {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")?
            .write_all(&[1])
    };
    let error = write_atomic_with(&dir.path().join("f"), full).unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_file_in_place_of_a_directory_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("step_1");
    let kept = [
        vec!["step_1", "step_1-kept"],
        vec!["step_1", "step_1-kept", "step_1-kept-2", "step_1-kept-3"],
    ];
    for kept in kept {
        fs::write(&target, "a file").unwrap();
        let out = AtomicDir::create(&target, none).unwrap();
        out.write("a", b"1").unwrap();
        out.commit().unwrap();
        assert_eq!(names(&target), ["a"]);
        assert_eq!(names(dir.path()), kept);
        // As a kill between two renames leaves it.
        fs::remove_dir_all(&target).unwrap();
        fs::write(dir.path().join(".old-step_1"), "a file").unwrap();
    }
}

#[test]
fn directories_appear_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("checkpoints/step_1");
    let out = AtomicDir::create(&target, none).unwrap();
    out.write("a", b"1").unwrap();
    assert!(!target.exists());
    let hidden = names(target.parent().unwrap());
    assert_eq!(hidden.len(), 1);
    assert_eq!(finished(&hidden[0]), Some("step_1"));
    drop(out);
    assert!(names(target.parent().unwrap()).is_empty());

    // What a killed process left is removed, not mixed in.
    for name in [".tmp-step_1", hidden[0].as_str()] {
        let left = dir.path().join("checkpoints").join(name);
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("stale"), b"x").unwrap();
    }
    let out = AtomicDir::create(&target, none).unwrap();
    out.write("a", b"1").unwrap();
    out.commit().unwrap();
    assert_eq!(names(&target), ["a"]);

    // Replaced as a whole.
    let out = AtomicDir::create(&target, none).unwrap();
    out.write("b", b"2").unwrap();
    assert_eq!(names(&target), ["a"]);
    out.commit().unwrap();
    assert_eq!(names(&target), ["b"]);
    assert_eq!(names(target.parent().unwrap()), ["step_1"]);
}

/// Wherever a directory lies that would be removed, what somebody put into it is kept.
#[test]
fn directories_of_others_are_moved_aside() {
    let own = |dir: &Path| names(dir).into_iter().filter(|name| name != "a").collect();
    for place in [
        "step_1",
        ".tmp-step_1",
        ".tmp-0123456789abcdef-step_1",
        ".old-step_1",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("step_1");
        if place == ".old-step_1" {
            fs::create_dir(&target).unwrap();
        }
        for name in ["a", "sub"] {
            let path = dir.path().join(place).join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("other"), "mine").unwrap();
        }
        let out = AtomicDir::create(&target, own).unwrap();
        out.write("a", b"1").unwrap();
        out.commit().unwrap();
        assert_eq!(names(&target), ["a"], "{place}");
        let kept = dir.path().join("step_1-kept");
        assert_eq!(names(dir.path()), ["step_1", "step_1-kept"], "{place}");
        assert_eq!(fs::read(kept.join("sub/other")).unwrap(), b"mine");
        assert_eq!(fs::read(kept.join("a/other")).unwrap(), b"mine", "all of it");
        // A second one does not take the first one's place.
        fs::write(target.join("other"), "mine too").unwrap();
        AtomicDir::create(&target, own).unwrap().commit().unwrap();
        assert_eq!(names(&dir.path().join("step_1-kept-2")), ["a", "other"]);
        assert!(names(&target).is_empty() && kept.join("sub/other").exists());
    }
}

#[test]
fn a_crash_between_the_renames_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("best");
    fs::create_dir(dir.path().join(".old-best")).unwrap();
    fs::write(dir.path().join(".old-best/a"), b"1").unwrap();
    recover(&target, none).unwrap();
    assert_eq!(names(&target), ["a"]);
    fs::create_dir(dir.path().join(".old-best")).unwrap();
    recover(&target, none).unwrap();
    assert_eq!(names(dir.path()), ["best"]);
    recover(&dir.path().join("other"), none).unwrap();
}

fn tensor(dtype: DType, shape: &[usize], fill: u8) -> HostTensor<'static> {
    let bytes = vec![fill; dtype.bytes_for(shape.iter().product())];
    HostTensor {
        dtype,
        shape: shape.to_vec(),
        bytes: Cow::Owned(bytes),
    }
}

#[test]
fn safetensors_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let tensors = [
        ("odd".to_string(), tensor(DType::BF16, &[3], 1)),
        ("b \"quoted\"".to_string(), tensor(DType::F32, &[2, 5], 2)),
        ("c".to_string(), tensor(DType::F16, &[1, 1], 3)),
    ];
    write_safetensors(&path, &tensors).unwrap();
    let store = WeightStore::open_safetensors(&path).unwrap();
    for (name, want) in &tensors {
        assert_eq!(&store.get(name).unwrap(), want);
    }
    let bytes = fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(metadata.info("b \"quoted\"").unwrap().data_offsets.0, 0);
    assert_eq!(names(dir.path()), ["m.safetensors"]);
}

#[test]
fn safetensors_failures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let error = write_safetensors(&path, &[("q".to_string(), tensor(DType::Q8_0, &[32], 0))]).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let twice = [
        ("a".to_string(), tensor(DType::F32, &[1], 0)),
        ("a".to_string(), tensor(DType::F32, &[1], 0)),
    ];
    assert_eq!(write_safetensors(&path, &twice).unwrap_err().exit_code(), 1);
    // An error of the data's source comes through, and leaves nothing.
    let headers = [("a".to_string(), DType::F32, vec![1])];
    let error =
        write_safetensors_with(&path, &headers, |_| Err(Error::DeviceLost("gone".into()))).unwrap_err();
    assert!(matches!(error, Error::DeviceLost(_)));
    assert!(names(dir.path()).is_empty());
}
