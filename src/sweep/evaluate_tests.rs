#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::config::TrainFlags;
use crate::eval::store::StoredCompletion;
use crate::rollout::Finish;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const ADAPTER: &str = "adapter_model.safetensors";

/// A sweep's directory with one trained run.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.train(|_| ());
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A checkpoint of the embedded policy; its weights are a function of the settings.
    fn train(&self, set: impl FnOnce(&mut TrainFlags)) {
        let mut flags = TrainFlags::default();
        set(&mut flags);
        let config = flags.resolve(&|_| Some("tiny-reward".into())).unwrap();
        let dir = self.at("runs/tea-seed1/checkpoints/step_60");
        std::fs::create_dir_all(&dir).unwrap();
        let weights = format!("learning rate {}", config.learning_rate);
        std::fs::write(dir.join(ADAPTER), weights).unwrap();
        std::fs::write(dir.join("adapter_config.json"), "{}").unwrap();
        std::fs::write(dir.join("config.toml"), config.to_toml().unwrap()).unwrap();
        std::fs::write(dir.join("trainer_state.json"), "{\"kind\":\"train\",\"step\":60}").unwrap();
    }

    /// What a sweep of now wants of the run, with `samples` responses.
    fn job(&self, samples: usize) -> Job {
        let dir = self.at("runs/tea-seed1/checkpoints/step_60");
        let request = Request {
            asked: Asked::File,
            model: Some(TINY.into()),
            trained: Trained::open(&dir).unwrap(),
            reward_model: Some("tiny-reward".into()),
            num_prompts: Some(3),
            samples,
            base_dtype: Some("f32".into()),
            reward_dtype: Some("f32".into()),
            ..Request::default()
        };
        request.resolve(&mut Hashes::default()).unwrap()
    }

    /// Evaluates all prompts but the last `missing`; `edit` changes what eval.json holds.
    fn evaluate(&self, missing: usize, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let dir = self.at("evals/tea-seed1");
        let mut job = self.job(2);
        drop(job.writer(&dir, (false, dir.exists())).unwrap());
        let mut meta = serde_json::to_value(&job.meta).unwrap();
        edit(meta.as_object_mut().unwrap());
        std::fs::write(StoredEval::meta_path(&dir), meta.to_string()).unwrap();
        let lines: String = (0..2 * (3 - missing))
            .map(|i| {
                let line = StoredCompletion {
                    prompt_index: i / 2,
                    sample: i % 2,
                    text: "x".into(),
                    tokens: 1,
                    finish_reason: Finish::Stop,
                    reward: i as f64,
                    also_reward: None,
                };
                serde_json::to_string(&line).unwrap() + "\n"
            })
            .collect();
        std::fs::write(StoredEval::completions_path(&dir), lines).unwrap();
    }

    fn standing(&self, samples: usize) -> Result<Standing> {
        standing(&self.at("evals/tea-seed1"), &mut self.job(samples))
    }

    #[track_caller]
    fn is_stale(&self, why: &str) {
        match self.standing(2).unwrap() {
            Standing::Stale(said) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }

    /// Sets the time of the run's weights to seconds from now.
    fn touch(&self, seconds: i64) {
        let path = self.at("runs/tea-seed1/checkpoints/step_60").join(ADAPTER);
        let by = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        let time = if seconds < 0 { now - by } else { now + by };
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
}

#[test]
fn an_evaluation_of_other_weights_is_stale() {
    let place = Place::new();
    assert_eq!(place.standing(2).unwrap(), Standing::New);
    place.evaluate(0, |_| ());
    assert_eq!(place.standing(2).unwrap(), Standing::Whole);
    place.evaluate(1, |_| ());
    assert_eq!(place.standing(2).unwrap(), Standing::Begun);
    // A setting that tables do not show, and that eval.json does not hold: the weights tell.
    place.evaluate(0, |_| ());
    place.train(|f| f.learning_rate = Some(3e-3));
    place.is_stale("trained again");
    place.evaluate(0, |_| ());
    assert_eq!(place.standing(2).unwrap(), Standing::Whole);
    // Where the weights are older than the evaluation, too: hashes are not times.
    place.train(|f| f.learning_rate = Some(4e-3));
    place.touch(-1000);
    place.is_stale("trained again");
    // Another training by what is known of it.
    place.evaluate(0, |_| ());
    place.train(|f| (f.learning_rate, f.alpha) = (Some(4e-3), Some("0.3".into())));
    place.is_stale("another training");
    // Another evaluation is none to replace without being asked.
    let e = place.standing(4).unwrap_err();
    assert!(
        e.exit_code() == 2 && e.to_string().contains("samples = 2, the sweep now says 4"),
        "{e}"
    );
}

#[test]
fn a_moved_sweep_keeps_its_evaluations() {
    let place = Place::new();
    place.evaluate(0, |meta| {
        meta["adapter"] = "elsewhere/runs/tea-seed1/checkpoints/step_60".into();
        meta["run"]["dir"] = "elsewhere/runs/tea-seed1".into();
    });
    assert_eq!(place.standing(2).unwrap(), Standing::Whole);
}

#[test]
fn an_evaluation_without_hashes_is_kept_unless_its_weights_are_newer() {
    let place = Place::new();
    let old = |meta: &mut serde_json::Map<String, serde_json::Value>| {
        for field in ["weights_sha256", "base_dtype", "reward_dtype"] {
            meta.remove(field).unwrap();
        }
        meta["adapter"] = "elsewhere/runs/tea-seed1/checkpoints/step_60".into();
        meta["run"]["dir"] = "elsewhere/runs/tea-seed1".into();
    };
    place.touch(-1000);
    place.evaluate(0, old);
    assert_eq!(place.standing(2).unwrap(), Standing::Whole);
    place.touch(1000);
    place.is_stale("written after it");
    // Its rest is done as it was begun: in the types that a default gives.
    place.touch(-1000);
    place.evaluate(1, old);
    let mut job = place.job(2);
    assert_eq!(
        standing(&place.at("evals/tea-seed1"), &mut job).unwrap(),
        Standing::Begun
    );
    assert_eq!((job.meta.base_dtype, job.meta.reward_dtype), (None, None));
}

#[test]
fn fewer_prompts_than_asked_for_are_refused() {
    let place = Place::new();
    let path = place.at("held-out.jsonl");
    std::fs::write(&path, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n").unwrap();
    let read = |n: usize| {
        let toml = format!(
            "[[method]]\nadvantage = \"tea\"\n[eval]\nprompts = {:?}\nnum_prompts = {n}\n",
            path.display().to_string()
        );
        std::fs::write(place.at("sweep.toml"), toml).unwrap();
        let sweep = Sweep::read(&place.at("sweep.toml")).unwrap();
        Device::new(&sweep, &|| Err(Error::internal("no device"))).map(|_| ())
    };
    read(2).unwrap();
    let e = read(3).unwrap_err();
    assert!(
        e.exit_code() == 2
            && e.to_string().contains("[eval]: num_prompts 3")
            && e.to_string().contains("2 prompts"),
        "{e}"
    );
}
