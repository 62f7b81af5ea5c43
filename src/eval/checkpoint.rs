//! What a training run says of its checkpoints, so that an evaluation can be asked for by run.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::store::RunMeta;
use crate::config::{TrainConfig, TrainFlags, anchored, read_toml};
use crate::error::{Error, Result};
use crate::file::limits::SETTINGS_FILE;
use crate::file::open::read_text;
use crate::model::alias::is_alias;
use crate::run::checksums::{check_model, damaged};

/// A checkpoint of a `train` run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The checkpoint's directory.
    pub dir: PathBuf,
    /// What it is called: `best`, or `step_N`.
    pub name: String,
    /// The settings of the run.
    pub config: TrainConfig,
    /// Steps done.
    pub step: u64,
}

/// The part of a trainer's state that matters here.
#[derive(Deserialize)]
struct State {
    kind: String,
    step: u64,
    #[serde(default)]
    best: Option<Named>,
}

/// The best step so far.
#[derive(Deserialize)]
struct Named {
    step: u64,
}

impl State {
    /// The state in a checkpoint's directory, where it has one.
    fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("trainer_state.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path, &SETTINGS_FILE)?;
        let state = serde_json::from_str(&text);
        state
            .map(Some)
            .map_err(|e| damaged(dir, &format!("trainer_state.json is cut or altered ({e})")))
    }
}

impl Trained {
    /// A checkpoint of a run's directory: `best`, `last`, `step_N` or N; without a name `best` where the run has one,
    /// else the last.
    ///
    /// Nothing is written, for the run may be going on: where it was killed before `best` was copied, the best is the step's own
    /// checkpoint.
    ///
    /// # Errors
    /// A user error when the run has no such checkpoint (naming those it has), or it is not one of `train`.
    pub fn of_run(run: &Path, name: Option<&str>) -> Result<Self> {
        let dir = run.join("checkpoints");
        let steps = steps(&dir)?;
        let best = best(&dir, &steps)?;
        let is_best = name.is_none_or(|n| n == "best") && best.is_some();
        let last = || steps.last().map(|n| dir.join(format!("step_{n}")));
        let found = match name {
            None => best.clone().or_else(last),
            Some("best") => best.clone(),
            Some("last") => last(),
            Some(name) => {
                let number = name.strip_prefix("step_").unwrap_or(name);
                let known = number.parse().is_ok_and(|n: u64| steps.contains(&n));
                known.then(|| dir.join(format!("step_{number}")))
            }
        };
        let Some(found) = found else {
            let mut has: Vec<String> = steps.iter().map(|n| format!("step_{n}")).collect();
            if best.is_some() {
                has.push("best".into());
            }
            let has = if has.is_empty() {
                "none".into()
            } else {
                has.join(", ")
            };
            return Err(Error::user(format!(
                "{}: no checkpoint {} in this run; it has: {has}",
                run.display(),
                name.unwrap_or("at all")
            )));
        };
        let mut trained = Self::open(&found)?.ok_or_else(|| {
            let missing = |name: &&&str| !found.join(name).is_file();
            match ["trainer_state.json", "config.toml"].iter().find(missing) {
                Some(name) => damaged(&found, &format!("{name} is missing")),
                None => Error::user(format!(
                    "{} is not a checkpoint of `train`; give it as --adapter or --model",
                    found.display()
                )),
            }
        })?;
        if is_best {
            trained.name = "best".into();
        }
        Ok(trained)
    }

    /// A checkpoint's own directory; `None` where it is not one that `train` wrote.
    ///
    /// # Errors
    /// Its files are damaged.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        check_model(dir)?;
        let config = dir.join("config.toml");
        let state = State::read(dir)?.filter(|s| s.kind == "train" && config.is_file());
        let Some(state) = state else {
            return Ok(None);
        };
        // A run's settings are complete: no default is looked up.
        let flags = anchored(read_toml::<TrainFlags>(&config)?, &is_alias)?;
        let config = flags.resolve(&|_| None)?;
        Ok(Some(Self {
            dir: dir.to_path_buf(),
            name: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            config,
            step: state.step,
        }))
    }

    /// Whether it is a LoRA adapter and not a whole model.
    pub fn is_adapter(&self) -> bool {
        self.dir.join("adapter_config.json").is_file()
    }

    /// What an evaluation keeps of the run.
    pub fn meta(&self) -> RunMeta {
        let c = &self.config;
        let run = self.dir.parent().and_then(Path::parent).unwrap_or(&self.dir);
        RunMeta {
            dir: run.display().to_string(),
            checkpoint: self.name.clone(),
            advantage: c.advantage.clone(),
            num_generations: c.num_generations,
            prompts_per_step: c.prompts_per_step,
            bon: c.bon,
            alpha: c.alpha.to_string(),
            seed: c.seed,
        }
    }
}

/// The best checkpoint: the copy `best`, or the step's own where the last state names another step than the copy's.
fn best(dir: &Path, steps: &[u64]) -> Result<Option<PathBuf>> {
    let copy = dir.join("best");
    let kept = State::read(&copy)?.map(|s| s.step);
    let last = steps.last().map(|n| State::read(&dir.join(format!("step_{n}"))));
    let named = last.transpose()?.flatten().and_then(|s| s.best).map(|b| b.step);
    match named.filter(|step| kept != Some(*step)) {
        Some(step) if steps.contains(&step) => Ok(Some(dir.join(format!("step_{step}")))),
        Some(step) => {
            log::warn!(
                "{}: the best checkpoint so far (step {step}) is gone{}",
                dir.display(),
                kept.map_or(String::new(), |kept| format!("; step {kept} stands in for it"))
            );
            Ok(kept.map(|_| copy))
        }
        None => Ok(Some(copy).filter(|d| d.is_dir())),
    }
}

/// The steps that have a checkpoint, ascending.
fn steps(dir: &Path) -> Result<Vec<u64>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io(dir))?;
    let step = |e: std::fs::DirEntry| e.file_name().to_str()?.strip_prefix("step_")?.parse().ok();
    let mut steps: Vec<u64> = entries.filter_map(|e| e.ok().and_then(step)).collect();
    steps.sort_unstable();
    Ok(steps)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn checkpoint(run: &Path, name: &str, kind: &str, step: u64) {
        checkpoint_with(run, name, kind, step, None);
    }

    fn checkpoint_with(run: &Path, name: &str, kind: &str, step: u64, best: Option<u64>) {
        let dir = run.join("checkpoints").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let best = best.map_or(String::new(), |b| {
            format!(",\"best\":{{\"step\":{b},\"score\":1.5}}")
        });
        let state = format!("{{\"kind\":\"{kind}\",\"step\":{step},\"seed\":3{best}}}");
        std::fs::write(dir.join("trainer_state.json"), state).unwrap();
        let config = TrainFlags {
            seed: Some(3),
            advantage: Some("grpo".into()),
            ..TrainFlags::default()
        };
        let config = config.resolve(&|_| Some("judge".into())).unwrap();
        std::fs::write(dir.join("config.toml"), config.to_toml().unwrap()).unwrap();
    }

    #[test]
    fn a_checkpoint_is_found_by_name() {
        let run = tempfile::tempdir().unwrap();
        for step in [5, 10, 100] {
            checkpoint(run.path(), &format!("step_{step}"), "train", step);
        }
        let of = |name| Trained::of_run(run.path(), name);
        assert_eq!(of(None).unwrap().step, 100, "by number, not by letters");
        assert_eq!(of(Some("last")).unwrap().step, 100);
        assert_eq!(of(Some("step_5")).unwrap().step, 5);
        assert_eq!(of(Some("10")).unwrap().step, 10);
        for name in ["best", "step_7", "x", "../step_5"] {
            let error = of(Some(name)).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("step_10"),
                "{error}"
            );
        }
        checkpoint(run.path(), "best", "train", 10);
        let best = of(None).unwrap();
        assert_eq!((best.step, best.meta().checkpoint.as_str()), (10, "best"));
        let meta = best.meta();
        assert_eq!((meta.advantage.as_str(), meta.seed), ("grpo", 3));
        assert_eq!(meta.dir, run.path().display().to_string());
        checkpoint(run.path(), "step_200", "sft", 200);
        assert!(
            of(Some("last"))
                .unwrap_err()
                .to_string()
                .contains("not a checkpoint of `train`")
        );
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Trained::of_run(empty.path(), None).unwrap_err().exit_code(), 2);
        assert_eq!(Trained::open(empty.path()).unwrap(), None);
    }

    #[test]
    fn a_best_checkpoint_that_was_not_copied_yet_is_the_steps_own() {
        let run = tempfile::tempdir().unwrap();
        let found = |name| {
            let t = Trained::of_run(run.path(), name).unwrap();
            let dir = t.dir.file_name().unwrap().to_string_lossy().into_owned();
            (dir, t.step, t.meta().checkpoint)
        };
        let is = |dir: &str, step, name: &str| (dir.to_string(), step, name.to_string());
        // Killed between the checkpoint of step 20 and its copy: the copy is that of step 10.
        checkpoint_with(run.path(), "step_10", "train", 10, Some(10));
        checkpoint_with(run.path(), "best", "train", 10, Some(10));
        assert_eq!(found(None), is("best", 10, "best"));
        checkpoint_with(run.path(), "step_20", "train", 20, Some(20));
        assert_eq!(found(None), is("step_20", 20, "best"));
        assert_eq!(found(Some("best")), is("step_20", 20, "best"));
        assert_eq!(found(Some("last")), is("step_20", 20, "step_20"));
        // Killed while the copy was put in place.
        std::fs::remove_dir_all(run.path().join("checkpoints/best")).unwrap();
        assert_eq!(found(Some("best")), is("step_20", 20, "best"));
        // Copied; later steps were worse, and the step's own checkpoint is gone.
        checkpoint_with(run.path(), "best", "train", 20, Some(20));
        checkpoint_with(run.path(), "step_30", "train", 30, Some(20));
        std::fs::remove_dir_all(run.path().join("checkpoints/step_20")).unwrap();
        assert_eq!(found(None), is("best", 20, "best"));
    }
}
