//! The optimiser's state in a checkpoint.

use crate::config::Optim;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::raw::RawTensors;
use crate::model::save::{AtomicDir, RawHeader, write_raw};
use crate::optim::Optimizer;
use crate::run::checksums::OPTIMIZER;
use std::borrow::Cow;
use std::path::Path;

/// Writes the state of every tensor that is trained.
///
/// # Errors
/// The file cannot be written, or a GPU error.
pub(super) fn save(out: &AtomicDir, gpu: &Gpu, optimizer: &Optimizer) -> Result<()> {
    let parts = optimizer.read(gpu)?;
    let header = |part: &crate::optim::Part| RawHeader {
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
/// It is that of another optimiser, of other tensors or shapes, or damaged.
pub(super) fn load(dir: &Path, gpu: &Gpu, optimizer: &mut Optimizer, steps: u64) -> Result<()> {
    let stored = RawTensors::open(&dir.join(OPTIMIZER))?;
    let of = |suffix: &str| stored.names().filter(|n| n.ends_with(suffix)).count();
    let was = if of(".scales") > 0 {
        Optim::Adamw8bit
    } else {
        Optim::Adamw
    };
    if was != optimizer.optim() {
        return Err(Error::user(format!(
            "--resume: the run was started with --optim {}, not {}, and its moments are stored so; resume with the settings the \
             run was started with",
            was.name(),
            optimizer.optim().name()
        )));
    }
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
        Ok(tensor.bytes.into_owned())
    })
}
