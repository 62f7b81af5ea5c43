//! What a training run says of its checkpoints, so that an evaluation can be asked for by run.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::store::RunMeta;
use crate::config::{TrainConfig, TrainFlags, read_toml};
use crate::error::{Context, Error, Result};

/// A checkpoint of a `train` run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The checkpoint's directory.
    pub dir: PathBuf,
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
}

impl Trained {
    /// A checkpoint of a run's directory: `best`, `last`, `step_N` or N; without a name `best` where the run has one,
    /// else the last.
    ///
    /// # Errors
    /// A user error when the run has no such checkpoint (naming those it has), or it is not one of `train`.
    pub fn of_run(run: &Path, name: Option<&str>) -> Result<Self> {
        let dir = run.join("checkpoints");
        let steps = steps(&dir)?;
        let best = dir.join("best");
        let last = || steps.last().map(|n| dir.join(format!("step_{n}")));
        let found = match name {
            None => Some(best).filter(|d| d.is_dir()).or_else(last),
            Some("best") => Some(best).filter(|d| d.is_dir()),
            Some("last") => last(),
            Some(name) => {
                let number = name.strip_prefix("step_").unwrap_or(name);
                let known = number.parse().is_ok_and(|n: u64| steps.contains(&n));
                known.then(|| dir.join(format!("step_{number}")))
            }
        };
        let Some(found) = found else {
            let mut has: Vec<String> = steps.iter().map(|n| format!("step_{n}")).collect();
            if dir.join("best").is_dir() {
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
        Self::open(&found)?.ok_or_else(|| {
            Error::user(format!(
                "{} is not a checkpoint of `train`; give it as --adapter or --model",
                found.display()
            ))
        })
    }

    /// A checkpoint's own directory; `None` where it is not one that `train` wrote.
    ///
    /// # Errors
    /// Its files are damaged.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("trainer_state.json");
        let config = dir.join("config.toml");
        if !path.is_file() || !config.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let state: State = serde_json::from_str(&text)
            .map_err(Error::user)
            .context(path.display())?;
        if state.kind != "train" {
            return Ok(None);
        }
        // A run's settings are complete: no default is looked up.
        let config = read_toml::<TrainFlags>(&config)?.resolve(&|_| None)?;
        Ok(Some(Self {
            dir: dir.to_path_buf(),
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
        let name = self.dir.file_name().unwrap_or_default();
        RunMeta {
            dir: run.display().to_string(),
            checkpoint: name.to_string_lossy().into_owned(),
            advantage: c.advantage.clone(),
            num_generations: c.num_generations,
            prompts_per_step: c.prompts_per_step,
            bon: c.bon.into(),
            alpha: c.alpha.clone(),
            seed: c.seed,
        }
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
        let dir = run.join("checkpoints").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let state = format!("{{\"kind\":\"{kind}\",\"step\":{step},\"seed\":3}}");
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
}
