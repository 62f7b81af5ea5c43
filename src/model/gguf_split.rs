//! GGUF models in several files, as llama.cpp's `llama-gguf-split` writes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::gguf::Gguf;
use crate::error::{Error, Result};
use crate::file::limits::{TENSORS, WEIGHT_FILES};

/// How many files the model has.
pub(super) const SPLIT_COUNT: &str = "split.count";
/// Which of them a file is, from 0.
const SPLIT_NO: &str = "split.no";
/// How many tensors all of them have together.
const SPLIT_TENSORS: &str = "split.tensors.count";

/// Opens the other parts of a model of which `found` is one.
///
/// # Errors
/// A user error that names the part that is missing or belongs to another model.
pub(super) fn join(found: Gguf, path: &Path, count: usize) -> Result<Gguf> {
    let fail = |path: &Path, what: String| Error::user(format!("{}: {what}", path.display()));
    WEIGHT_FILES.check(format!("{}: {SPLIT_COUNT}", path.display()), count)?;
    let Some(no) = found.meta_usize(SPLIT_NO).filter(|no| *no < count) else {
        return Err(fail(
            path,
            format!("one of {count} parts of a model, without its number ({SPLIT_NO})"),
        ));
    };
    let part_of = format!("part {} of {count} of a model", no + 1);
    let Some(paths) = part_paths(path, no, count) else {
        return Err(fail(
            path,
            format!(
                "this is {part_of}; the others are found by their names only if its name ends with {}",
                suffix(no, count)
            ),
        ));
    };
    let total = found.meta_usize(SPLIT_TENSORS);
    let name = found.name.clone();
    let mut found = Some(found);
    let mut whole: Option<Gguf> = None;
    // In which part each tensor is.
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, path) in paths.iter().enumerate() {
        let part = match found.take() {
            Some(part) if i == no => part,
            other => {
                found = other;
                if !path.is_file() {
                    return Err(Error::user(format!(
                        "{}: part {} of {count} is missing; {name} is {part_of}, and all parts must lie side by side. \
                         Download the missing one, or join them with `llama-gguf-split --merge`",
                        path.display(),
                        i + 1
                    )));
                }
                Gguf::open_one(path)?
            }
        };
        let same = part.meta_usize(SPLIT_COUNT) == Some(count)
            && part.meta_usize(SPLIT_NO) == Some(i)
            && part.meta_usize(SPLIT_TENSORS) == total;
        if !same {
            let said = |key: &str| part.meta_usize(key).map_or("none".to_owned(), |v| v.to_string());
            return Err(fail(
                path,
                format!(
                    "not the part {} of {count} that its name says ({SPLIT_NO} {}, {SPLIT_COUNT} {}, {SPLIT_TENSORS} {}); \
                     it belongs to another model than {name}",
                    i + 1,
                    said(SPLIT_NO),
                    said(SPLIT_COUNT),
                    said(SPLIT_TENSORS)
                ),
            ));
        }
        TENSORS.check(path.display(), seen.len() + part.tensors.len())?;
        let Some(whole) = &mut whole else {
            seen.extend(part.tensors.iter().map(|t| (t.name.clone(), 0)));
            whole = Some(part);
            continue;
        };
        // The first part has the metadata; another part that has some must agree with it.
        let key = "general.architecture";
        if part.meta(key).is_some() && part.meta(key) != whole.meta(key) {
            return Err(fail(
                path,
                format!("{key} is not that of the first part: the parts are of different models"),
            ));
        }
        let at = whole.parts.len();
        whole.parts.extend(part.parts);
        for mut tensor in part.tensors {
            if let Some(twin) = seen.insert(tensor.name.clone(), at) {
                return Err(fail(
                    path,
                    format!(
                        "tensor {} is also in {}: the parts are of different models",
                        tensor.name, whole.parts[twin].name
                    ),
                ));
            }
            tensor.part = at;
            whole.tensors.push(tensor);
        }
    }
    let mut whole = whole.ok_or_else(|| Error::internal("a model of no parts"))?;
    if let Some(total) = total.filter(|total| *total != whole.tensors.len()) {
        return Err(fail(
            path,
            format!(
                "the {count} parts have {} tensors together, {SPLIT_TENSORS} says {total}: they are of different models",
                whole.tensors.len()
            ),
        ));
    }
    whole.name = name;
    Ok(whole)
}

fn suffix(no: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// The files of a model of which `path` is part `no`; `None` where its name does not say so.
fn part_paths(path: &Path, no: usize, count: usize) -> Option<Vec<PathBuf>> {
    let stem = path.file_name()?.to_str()?.strip_suffix(&suffix(no, count))?;
    let part = |no| path.with_file_name(format!("{stem}{}", suffix(no, count)));
    Some((0..count).map(part).collect())
}

/// The files of the model that `path` is, or is a part of, as far as its name tells and they exist.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let numbers = || -> Option<(usize, usize)> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (_, no) = stem.rsplit_once('-')?;
        let number = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some((number(no)?, number(count)?))
    };
    let parts = numbers()
        .filter(|(no, count)| (1..=*count).contains(no))
        .and_then(|(no, count)| part_paths(path, no - 1, count));
    match parts {
        Some(parts) => parts.into_iter().filter(|p| p.is_file()).collect(),
        None => vec![path.to_path_buf()],
    }
}
