//! The element types models are loaded as: what a flag asks for, or the largest that fits.

use crate::error::{Context, Error, Result};
use crate::model::load::Source;
use crate::tensor::DType;

/// An element type by its flag.
///
/// # Errors
/// An unknown name.
pub fn parse_dtype(flag: &str, name: Option<&str>) -> Result<Option<DType>> {
    name.map(|n| n.parse::<DType>().context(flag)).transpose()
}

/// The element type a model is loaded as for training: f32 where every weight is trained, [`Source::dtype`] otherwise.
///
/// # Errors
/// An unknown type, or another than f32 with `--full`.
pub fn base_dtype(source: &Source, asked: Option<&str>, full: bool) -> Result<Option<DType>> {
    let asked = parse_dtype("--base-dtype", asked)?;
    if !full {
        return source.dtype(asked);
    }
    match asked {
        None | Some(DType::F32) => Ok(Some(DType::F32)),
        Some(other) => Err(Error::user(format!(
            "--full trains f32 weights; --base-dtype {other} is for LoRA"
        ))),
    }
}

/// What a frozen model may be loaded as: `asked` alone; else, where the free memory is known, f32, the stored type and
/// q8_0, largest first; else what [`Source::dtype`] takes. A GGUF file's blocks stay as they are stored (`None`).
///
/// # Errors
/// A type that weights are not converted to.
pub fn candidates(source: &Source, asked: Option<DType>, memory_known: bool) -> Result<Vec<Option<DType>>> {
    let default = source.dtype(asked)?;
    if asked.is_some() {
        return Ok(vec![default]);
    }
    let matrices: Vec<(DType, usize)> = source
        .spec
        .tensors()
        .filter(|t| t.role.is_matrix())
        .map(|t| Ok((source.store.info(&t.name)?.0, t.shape[1])))
        .collect::<Result<_>>()?;
    if matrices.iter().any(|(d, _)| d.is_quantized()) {
        return Ok(vec![None]);
    }
    // One stored type can be written into the run's settings; a mixture cannot, and so is no candidate.
    let stored = matrices.first().map(|(d, _)| *d);
    let stored = stored.filter(|first| matrices.iter().all(|(d, _)| d == first));
    if !memory_known {
        return Ok(vec![default.or(stored)]);
    }
    let blocks = matrices
        .iter()
        .all(|(_, cols)| cols % DType::Q8_0.block_len() == 0);
    let mut out = vec![Some(DType::F32)];
    out.extend(stored.filter(|d| *d != DType::F32).map(Some));
    out.extend(blocks.then_some(Some(DType::Q8_0)));
    Ok(out)
}

/// The option of most bytes that fits in `have`, the earlier of equals; the smallest where none fits, the first where
/// `have` is not known. `None` for no options.
pub fn largest<T>(options: impl IntoIterator<Item = (T, u64)>, have: Option<u64>) -> Option<T> {
    let mut best: Option<(T, u64)> = None;
    for (option, bytes) in options {
        let better = match (&best, have) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((_, old)), Some(have)) if *old > have => bytes < *old,
            (Some((_, old)), Some(have)) => bytes <= have && bytes > *old,
        };
        if better {
            best = Some((option, bytes));
        }
    }
    best.map(|(option, _)| option)
}

/// Tells the user where a default rounds weights, and returns the type as settings write it.
pub fn settle(flag: &str, model: &str, asked: bool, chosen: Option<DType>) -> Option<String> {
    if let Some(dtype) = chosen.filter(|d| !asked && d.is_quantized()) {
        log::warn!(
            "{model} does not fit in the free memory as it is stored: its weights are rounded to {dtype} ({flag} chooses \
             another type)"
        );
    }
    chosen.map(|d| d.name().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_largest_that_fits_is_taken() {
        let options = [("f32", 40), ("bf16", 20), ("q8_0", 11)];
        let pick = |have| largest(options, have).unwrap();
        assert_eq!(
            [40, 39, 20, 19, 11, 3].map(|have| pick(Some(have))),
            ["f32", "bf16", "bf16", "q8_0", "q8_0", "q8_0"]
        );
        assert_eq!(pick(None), "f32");
        assert_eq!(
            largest([("a", 5), ("b", 9), ("c", 9), ("d", 12)], Some(10)),
            Some("b")
        );
        assert_eq!(largest([("a", 30), ("b", 20), ("c", 5)], Some(10)), Some("c"));
        assert_eq!(largest::<u8>([], Some(10)), None);
    }

    #[test]
    fn what_is_stored_decides_the_candidates() {
        let dir = |name: &str| {
            Source::open(&format!(
                "{}/tests/golden/models/{name}",
                env!("CARGO_MANIFEST_DIR")
            ))
            .unwrap()
        };
        let half = dir("llama_gqa_f16");
        let whole = dir("llama_tied");
        let all = |source: &Source| candidates(source, None, true).unwrap();
        // Rows of these models are too short for blocks of 32.
        assert_eq!(all(&half), [Some(DType::F32), Some(DType::F16)]);
        assert_eq!(all(&whole), [Some(DType::F32)]);
        assert_eq!(
            candidates(&half, Some(DType::BF16), true).unwrap(),
            [Some(DType::BF16)]
        );
        assert_eq!(candidates(&half, None, false).unwrap(), [Some(DType::F32)]);
        assert!(candidates(&half, Some(DType::Q6K), true).is_err());
    }
}
