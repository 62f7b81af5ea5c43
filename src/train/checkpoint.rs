//! Run directories and checkpoints: `<output>/checkpoints/step_N/`, each whole or absent.
//!
//! A checkpoint holds the adapter (PEFT files) or the whole model (Hugging Face files), the optimiser's moments,
//! and the trainer's counters. Every random draw of a run is a function of (seed, step, …), so the counters are all
//! the state that random numbers and data order need.

use super::base::Base;
use super::data::Identity;
use super::moments;
use super::selection::Best;
use crate::config::{Given, read_toml, resume};
use crate::error::{Context, Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::{dirs, open};
use crate::model::params::{LoraShape, Model};
use crate::model::peft::{self, AdapterConfig, Targets};
use crate::model::raw::RawTensors;
use crate::model::save::{AtomicDir, recover, write_atomic};
use crate::model::source::ModelFiles;
use crate::model::store::{HostTensor, WeightStore};
use crate::optim::{Optimizer, write_f32};
use crate::run::checksums::{self, Depth, OPTIMIZER};
use crate::run::{Dir, foreign_to_checkpoint};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The trainer's counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// What kind of run: train, sft or reward.
    pub kind: String,
    /// Steps done.
    pub step: u64,
    /// Optimiser steps done.
    pub optimizer_steps: u64,
    /// Examples drawn from the data so far.
    pub data_position: u64,
    /// The adapter that wrote it: bit-exact resumption is promised on the same device only.
    pub device: String,
    /// Blocks whose activations backward passes read as f16.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub half_blocks: usize,
    /// The best checkpoint so far, where checkpoints are selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// What the examples are; checkpoints of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Identity>,
    /// What the run was started from; checkpoints of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
}

impl TrainerState {
    /// Refuses to go on with the activations of another number of blocks rounded (all but the last, or none): gradients would
    /// be others.
    ///
    /// # Errors
    /// `half_blocks` is not the run's.
    pub(super) fn same_halves(&self, half_blocks: usize) -> Result<()> {
        if self.half_blocks == half_blocks {
            return Ok(());
        }
        Err(Error::user(format!(
            "--resume: the run kept the activations of {} blocks as f16, and would keep those of {half_blocks}: resume with its own \
             --dtype, and with --no-checkpointing or --activation-memory if and only if it had one of them",
            self.half_blocks
        )))
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    /// `--output`.
    pub root: PathBuf,
}

impl RunDir {
    /// Whether a run may begin (or go on) in a directory; changes nothing.
    ///
    /// # Errors
    /// It is used and neither `resume` nor `overwrite` is given, both are, there is nothing to resume, or what is there is
    /// somebody else's.
    pub fn check(held: &Dir, resume: bool, overwrite: bool) -> Result<Self> {
        let root = held.root();
        let run = Self {
            root: root.to_path_buf(),
        };
        if resume && overwrite {
            return Err(Error::user("--resume and --overwrite exclude each other"));
        }
        held.check(overwrite)?;
        // A run that ended before its first step was recorded has left nothing to lose.
        let used = run.recorded() || run.best().exists() || !run.steps()?.is_empty();
        if used && !resume && !overwrite {
            return Err(Error::user(format!(
                "{} already holds a run; continue it with --resume, replace it with --overwrite, or choose another \
                 --output",
                root.display()
            )));
        }
        if resume && !used {
            return Err(Error::user(format!(
                "--resume: {} holds no run to continue",
                root.display()
            )));
        }
        if resume {
            held.continues()?;
        }
        Ok(run)
    }

    /// Opens a new run directory, or an existing one to resume or overwrite.
    ///
    /// # Errors
    /// As [`RunDir::check`], or it cannot be made.
    pub fn open(held: &Dir, resume: bool, overwrite: bool) -> Result<Self> {
        let run = Self::check(held, resume, overwrite)?;
        held.renew(overwrite)?;
        dirs::make(&run.checkpoints())?;
        recover(&run.best(), foreign_to_checkpoint)?;
        Ok(run)
    }

    /// Whether steps are recorded.
    fn recorded(&self) -> bool {
        std::fs::metadata(self.metrics()).is_ok_and(|m| m.len() > 0)
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// A copy of the checkpoint with the best validation score.
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best")
    }

    /// The checkpoint of a step.
    pub fn step(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step_{step}"))
    }

    /// One JSON object a step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The resolved settings.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The settings that a resumed run keeps: where the run's own file has gone, the newest checkpoint's copy.
    ///
    /// # Errors
    /// The checkpoints cannot be listed.
    pub fn settings(&self) -> Result<PathBuf> {
        let own = self.config();
        if own.exists() {
            return Ok(own);
        }
        let mut copies = self
            .steps()?
            .into_iter()
            .map(|step| self.step(step).join("config.toml"));
        Ok(copies.find(|copy| copy.exists()).unwrap_or(own))
    }

    /// Writes the resolved settings.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        write_atomic(&self.config(), toml.as_bytes())
    }

    /// The steps that have a checkpoint, whole or damaged, the newest first.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let dir = self.checkpoints();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(dir)(e)),
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut steps: Vec<u64> = names.filter_map(|name| step_of(&name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The newest checkpoint that is whole, as far as sizes tell.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        let mut dirs = self.steps()?.into_iter().map(|step| self.step(step));
        Ok(dirs.find(|dir| damage(dir, Depth::Sizes).is_none()))
    }

    /// The checkpoint that a resumed run continues from: the newest whose files are what was written, with a warning that
    /// names every newer one. `None` where the run ended before its first checkpoint: it begins again.
    ///
    /// # Errors
    /// A user error where checkpoints were written and none that is whole is left, or where somebody else's files lie in
    /// a directory that the run would replace; the directory cannot be listed.
    pub fn resume_point(&self, held: &Dir) -> Result<Option<PathBuf>> {
        let mut damaged = Vec::new();
        let mut foreign = dirs::foreign_at(&self.best(), foreign_to_checkpoint)?;
        for step in self.steps()? {
            let dir = self.step(step);
            let Some(what) = damage(&dir, Depth::Contents) else {
                if let Some(first) = foreign.first() {
                    return Err(Error::user(format!(
                        "{}/{first}{}: not written by this program, and this run would replace the directory. Move it away",
                        self.checkpoints().display(),
                        match foreign.len() {
                            1 => String::new(),
                            n => format!(" and {} more", n - 1),
                        }
                    )));
                }
                for what in &damaged {
                    log::warn!(
                        "{}: {what}: the run continues from step {step}, the newest whole checkpoint",
                        self.checkpoints().display()
                    );
                }
                return Ok(Some(dir));
            };
            damaged.push(format!("step_{step} is damaged ({what})"));
            foreign.extend(dirs::foreign_at(&dir, foreign_to_checkpoint)?);
        }
        let marked = held.command()?.is_some();
        if damaged.is_empty() && marked && held.checkpoint()?.is_none() {
            log::warn!(
                "{} holds no checkpoint yet: the run begins again at step 1",
                self.root.display()
            );
            return Ok(None);
        }
        let found = match damaged.is_empty() {
            true => "its checkpoints are gone".to_string(),
            false => format!("no checkpoint is whole: {}", damaged.join("; ")),
        };
        let best = match damage(&self.best(), Depth::Contents) {
            None => format!(
                "{} is whole: copy it to step_N of its own step, ",
                self.best().display()
            ),
            Some(_) => "Put one back from a copy, ".to_string(),
        };
        Err(Error::user(format!(
            "--resume: {} records steps, and {found}. {best}or begin again with --overwrite or another --output",
            self.root.display()
        )))
    }
}

/// The step that a checkpoint's name says.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step_")?.parse::<u64>().ok()?;
    (format!("step_{step}") == name).then_some(step)
}

/// What is wrong with a checkpoint, in words; `None` where nothing is. One of an older version has no checksums: to be taken
/// for whole by its contents, it must open.
pub(super) fn damage(dir: &Path, depth: Depth) -> Option<String> {
    if let Some(what) = checksums::damage(dir, depth) {
        return Some(what);
    }
    let state = match read_state(dir) {
        Ok(state) => state,
        Err(e) => return Some(short(&e, dir)),
    };
    let named = dir.file_name().and_then(|name| step_of(name.to_str()?));
    if let Some(step) = named.filter(|step| *step != state.step) {
        return Some(format!("its {STATE} is of step {}, not {step}", state.step));
    }
    if depth == Depth::Sizes {
        return None;
    }
    if !dir.join(ADAPTER).exists() && !dir.join(MODEL).exists() {
        return Some(format!("it has neither {ADAPTER} nor {MODEL}"));
    }
    if checksums::present(dir) {
        return None;
    }
    let opens = || {
        if dir.join(ADAPTER).exists() {
            peft::read_config(dir)?;
            WeightStore::open_safetensors(&dir.join(ADAPTER))?;
        } else {
            WeightStore::open_safetensors(&dir.join(MODEL))?;
        }
        RawTensors::open(&dir.join(OPTIMIZER))
    };
    opens().err().map(|e| short(&e, dir))
}

/// An error about a checkpoint's file, without the way to it.
fn short(error: &Error, dir: &Path) -> String {
    if let Error::Io { path, source } = error {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return match source.kind() {
            std::io::ErrorKind::NotFound => format!("{name} is missing"),
            _ => format!("{name}: {source}"),
        };
    }
    let (text, place) = (error.to_string(), dir.display().to_string());
    // It was written here.
    text.replace(&place, "")
        .replace("; download it again", "")
        .trim_start_matches(['/', '\\'])
        .to_string()
}

/// What a checkpoint needs to know about the model's origin.
pub struct Origin<'a> {
    /// The base model's files.
    pub files: &'a ModelFiles,
    /// The resolved settings as TOML.
    pub config: &'a str,
}

const STATE: &str = "trainer_state.json";
/// Counters beyond this are no run's, and sums of those within it do not overflow.
const MOST: u64 = 1 << 53;
const MODEL: &str = "model.safetensors";
const ADAPTER: &str = "adapter_model.safetensors";
/// Files that make a directory a usable model beside config and weights.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
];

/// Writes a checkpoint: all of it, or nothing.
///
/// # Errors
/// A file cannot be written (a full disk leaves earlier checkpoints as they were), or a GPU error.
pub fn save(
    run: &RunDir,
    model: &Model,
    optimizer: &Optimizer,
    state: &TrainerState,
    origin: &Origin<'_>,
) -> Result<PathBuf> {
    let target = run.step(state.step);
    write(&target, model, optimizer, state, origin).context(format!(
        "the checkpoint of step {} was not written (earlier ones are whole; continue with --resume)",
        state.step
    ))?;
    Ok(target)
}

fn write(
    target: &Path,
    model: &Model,
    optimizer: &Optimizer,
    state: &TrainerState,
    origin: &Origin<'_>,
) -> Result<()> {
    let out = AtomicDir::create(target, foreign_to_checkpoint)?;
    match &model.lora {
        Some(shape) => save_adapter(&out, model, optimizer, shape, origin)?,
        None => save_model(&out, model, origin)?,
    }
    moments::save(&out, &model.gpu, optimizer)?;
    out.write("config.toml", origin.config.as_bytes())?;
    let text = serde_json::to_string_pretty(state).map_err(Error::internal)?;
    out.write(STATE, text.as_bytes())?;
    checksums::write(out.path())?;
    out.commit()
}

/// A tensor for a checkpoint, which would be of no use where a value is NaN or infinite.
fn host(name: &str, shape: &[usize], values: &[f32]) -> Result<HostTensor<'static>> {
    if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(Error::user(format!(
            "tensor {name} holds {value:?} after this step (element {at}): the run diverged. Start from an earlier checkpoint \
             with a lower --learning-rate"
        )));
    }
    Ok(HostTensor {
        dtype: DType::F32,
        shape: shape.to_vec(),
        bytes: Cow::Owned(bytemuck::pod_collect_to_vec(values)),
    })
}

fn save_adapter(
    out: &AtomicDir,
    model: &Model,
    optimizer: &Optimizer,
    shape: &LoraShape,
    origin: &Origin<'_>,
) -> Result<()> {
    let trained: Vec<_> = optimizer.tensors().collect();
    let mut targets = Targets::of(
        &model.adapter_modules(),
        model.blocks.len(),
        shape.rank,
        shape.alpha,
    );
    if trained.iter().any(|t| t.name == peft::score_name()) {
        targets.saved.push("score".into());
    }
    let config = AdapterConfig {
        targets,
        base_model: origin.files.name(),
        revision: origin.files.revision().map(str::to_string),
        head: model.spec.head,
        trains_biases: false,
    };
    let mut tensors: Vec<_> = model
        .read_adapter()?
        .into_iter()
        .map(|(name, shape, values)| {
            let tensor = host(&name, &shape, &values)?;
            Ok((name, tensor))
        })
        .collect::<Result<_>>()?;
    for t in trained.iter().filter(|t| t.name == peft::score_name()) {
        let values = t.value.read_f32(&model.gpu)?;
        tensors.push((t.name.clone(), host(&t.name, &t.shape, &values)?));
    }
    peft::write_adapter_into(out, &config, &tensors)
}

/// Writes a whole model in Hugging Face form: config, weights in f32, tokenizer files.
///
/// # Errors
/// A file cannot be written, the base is not f32, or a GPU error.
pub fn save_model(out: &AtomicDir, model: &Model, origin: &Origin<'_>) -> Result<()> {
    let config =
        serde_json::to_string_pretty(&model.spec.to_config_json(DType::F32)).map_err(Error::internal)?;
    out.write("config.json", config.as_bytes())?;
    let tensors = model
        .base_tensors()
        .into_iter()
        .map(|(t, w)| {
            let tensor = host(&t.name, &t.shape, &w.read_f32(&model.gpu)?)?;
            Ok((t.name, tensor))
        })
        .collect::<Result<Vec<_>>>()?;
    out.write_safetensors(MODEL, &tensors)?;
    for name in COMPANIONS {
        if let Some(bytes) = origin.files.read(name)? {
            out.write(name, &bytes)?;
        }
    }
    Ok(())
}

/// The counters of a checkpoint.
///
/// # Errors
/// It has none, or they are damaged.
pub fn read_state(dir: &Path) -> Result<TrainerState> {
    let at = dir.join(STATE);
    let text = open::read_text(&at, &SETTINGS_FILE)?;
    let state: TrainerState = serde_json::from_str(&text)
        .map_err(Error::user)
        .context(at.display())?;
    let counters = [
        ("step", state.step),
        ("optimizer_steps", state.optimizer_steps),
        ("data_position", state.data_position),
    ];
    match counters.iter().find(|(_, n)| *n > MOST) {
        None => Ok(state),
        Some((name, n)) => Err(Error::user(format!(
            "{}: {name} is {n}; no run comes beyond {MOST}: this file was altered",
            at.display()
        ))),
    }
}

/// Puts a checkpoint's weights and moments back and returns its counters.
///
/// # Errors
/// The checkpoint is of another kind of run, another shape, or damaged. Nothing has been changed then but
/// values on the device.
pub fn load(dir: &Path, model: &Model, optimizer: &mut Optimizer, kind: &str) -> Result<TrainerState> {
    let state = read_state(dir)?;
    if state.kind != kind {
        return Err(Error::user(format!(
            "{} is a checkpoint of `{}`, not of `{kind}`",
            dir.display(),
            state.kind
        )));
    }
    let device = &model.gpu.report().name;
    if state.device != *device {
        log::warn!(
            "the checkpoint was written on device {}, this is {device}: the run goes on, but not with the same bits",
            state.device
        );
    }
    let weights = dir.join(match model.lora {
        Some(_) => ADAPTER,
        None => MODEL,
    });
    let values = WeightStore::open_safetensors(&weights)?;
    let fetch = |store: &WeightStore, name: &str, n: usize| -> Result<Vec<f32>> {
        let tensor = store.get(name)?;
        if tensor.elements() != n {
            return Err(Error::user(format!(
                "{}: {name} has {} values where this run has {n}; resume with the settings the run was started with",
                dir.display(),
                tensor.elements()
            )));
        }
        Ok(tensor.to_f32())
    };
    for t in optimizer.tensors() {
        write_f32(
            &model.gpu,
            &t.value,
            &fetch(&values, &t.name, t.value.rows * t.value.cols)?,
        )?;
    }
    moments::load(dir, &model.gpu, optimizer, state.optimizer_steps)?;
    Ok(state)
}

/// Refuses to go on from a checkpoint with settings that would make another run than its own.
///
/// # Errors
/// A user error that names the flag and both values; the checkpoint's settings cannot be read.
pub(super) fn continues<F: Given>(dir: &Path, now: &F::Config) -> Result<()> {
    resume::continues(read_toml::<F>(&dir.join("config.toml"))?, now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::fs;

    #[test]
    fn settings_are_the_runs_or_its_newest_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir {
            root: dir.path().to_path_buf(),
        };
        assert_eq!(run.settings().unwrap(), run.config());
        for step in [2, 10] {
            fs::create_dir_all(run.step(step)).unwrap();
            fs::write(run.step(step).join("config.toml"), "seed = 1").unwrap();
        }
        fs::create_dir(run.step(11)).unwrap();
        assert_eq!(run.settings().unwrap(), run.step(10).join("config.toml"));
        fs::write(run.config(), "seed = 1").unwrap();
        assert_eq!(run.settings().unwrap(), run.config());
    }

    #[test]
    fn counters_beyond_every_run_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir {
            root: dir.path().to_path_buf(),
        };
        let at = run.step(2);
        fs::create_dir_all(&at).unwrap();
        for name in ["step", "optimizer_steps", "data_position"] {
            let mut state = serde_json::json!({
                "kind": "train", "step": 2, "optimizer_steps": 2, "data_position": 4, "seed": 1, "device": "d"
            });
            state[name] = u64::MAX.into();
            fs::write(at.join(STATE), state.to_string()).unwrap();
            let error = read_state(&at).unwrap_err();
            let said = error.to_string();
            assert!(
                error.exit_code() == 2 && said.contains(name) && said.contains("altered"),
                "{said}"
            );
            assert_eq!(run.latest().unwrap(), None);
        }
    }
}
