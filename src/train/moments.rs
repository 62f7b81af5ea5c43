//! The optimiser's state in a checkpoint.

use crate::error::{Context, Error, Result};
use crate::gpu::Gpu;
use crate::model::raw::RawTensors;
use crate::model::save::{AtomicDir, RawHeader, write_raw};
use crate::optim::{Element, Optimizer, Part};
use crate::run::checksums::OPTIMIZER;
use std::borrow::Cow;
use std::path::Path;

/// Writes the state of every tensor that is trained.
///
/// # Errors
/// The file cannot be written, or a GPU error.
pub(super) fn save(out: &AtomicDir, gpu: &Gpu, optimizer: &Optimizer) -> Result<()> {
    let parts = optimizer.read(gpu)?;
    let header = |part: &Part| RawHeader {
        name: part.name.clone(),
        kind: part.element.name(),
        shape: part.shape.clone(),
        bytes: part.bytes(),
    };
    let headers: Vec<RawHeader> = parts.iter().map(|(part, _)| header(part)).collect();
    write_raw(&out.path().join(OPTIMIZER), &headers, &mut |i| {
        Ok(Cow::Borrowed(&parts[i].1[..]))
    })
}

/// Puts the state of a checkpoint back.
///
/// # Errors
/// It is that of other tensors or shapes, or damaged.
pub(super) fn load(dir: &Path, gpu: &Gpu, optimizer: &mut Optimizer, steps: u64) -> Result<()> {
    let stored = RawTensors::open(&dir.join(OPTIMIZER))?;
    let of = |suffix: &str| stored.names().filter(|n| n.ends_with(suffix)).count();
    let (had, has) = (of(".m"), optimizer.tensors().count());
    if had != has {
        return Err(Error::user(format!(
            "--resume: the run was training {had} tensors, with these settings it would train {has}; resume with the settings \
             the run was started with (--full, --head-only)"
        )));
    }
    optimizer.restore(gpu, steps, &mut |part| {
        let tensor = stored.get(&part.name)?;
        if (tensor.kind, tensor.bytes.len()) != (part.element.name(), part.bytes()) {
            return Err(Error::user(format!(
                "{}: {} is {} {:?} where this run has {} {:?}; resume with the settings the run was started with",
                dir.display(),
                part.name,
                tensor.kind,
                tensor.shape,
                part.element.name(),
                part.shape
            )));
        }
        if part.element == Element::F32 {
            sound(part, &tensor.bytes).context(dir.join(OPTIMIZER).display())?;
        }
        Ok(tensor.bytes.into_owned())
    })
}

/// Refuses moments and scales that no training leaves: the next step would spread them over the weights.
fn sound(part: &Part, bytes: &[u8]) -> Result<()> {
    let signed = part.name.ends_with(".m");
    let values = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let bad = |v: &f32| !v.is_finite() || (!signed && *v < 0.0);
    match values.into_iter().enumerate().find(|(_, v)| bad(v)) {
        None => Ok(()),
        Some((at, value)) => Err(Error::user(format!(
            "tensor {} holds {value:?} (element {at}): the file is damaged, or the run diverged. Resume from an earlier \
             checkpoint",
            part.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn moments_of_no_training_are_refused() {
        let part = |name: &str| Part {
            name: name.into(),
            element: Element::F32,
            shape: vec![2],
        };
        let check = |name: &str, value: f32| sound(&part(name), &bytemuck::pod_collect_to_vec(&[0.5, value]));
        for (name, value) in [("w.m", -1.0), ("w.v", 0.0), ("w.scales", 1.0)] {
            check(name, value).unwrap();
        }
        for name in ["w.m", "w.v", "w.scales"] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = check(name, value).unwrap_err();
                assert_eq!(error.exit_code(), 2);
                assert!(
                    error.to_string().contains(&format!("tensor {name} holds")),
                    "{error}"
                );
            }
        }
        assert!(check("w.v", -1e-9).is_err() && check("w.scales", -1.0).is_err());
    }
}
