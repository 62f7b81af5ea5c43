//! What has changed since a run, an evaluation or a search was begun.

use super::setting::{Given, Setting};
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// What a resumed run may do with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Change it.
    Free,
    /// Keep it: another value would make another run, and this is why.
    Same(&'static str),
    /// Keep it where checkpoints are selected: their scores depend on it.
    Scored,
}

/// A setting that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What it was; null where it was not set.
    pub was: Value,
    /// What it is; null where it is not set.
    pub now: Value,
}

/// Every setting in which what was begun and what is asked for now differ, in the order of the settings.
///
/// # Errors
/// Settings that are no JSON object.
pub fn changes(begun: &impl Serialize, now: &impl Serialize) -> Result<Vec<Change>> {
    let (was, now) = (fields(begun)?, fields(now)?);
    let of = |map: &Map<String, Value>, name: &String| map.get(name).cloned().unwrap_or_default();
    let names = was.keys().chain(now.keys().filter(|n| !was.contains_key(*n)));
    let change = |name: &String| Change {
        name: name.clone(),
        was: of(&was, name),
        now: of(&now, name),
    };
    Ok(names.map(change).filter(|c| c.was != c.now).collect())
}

fn fields(settings: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Error::internal("settings are a JSON object")),
    }
}

/// Refuses to go on with other settings than `begun`; those in `aside` may differ. `what` was begun so, `cure` is the way out
/// beside the same settings.
///
/// # Errors
/// A user error that names the first setting that changed, with both values.
pub fn same(
    what: &str,
    begun: &impl Serialize,
    now: &impl Serialize,
    aside: &[&str],
    cure: &str,
) -> Result<()> {
    let changes = changes(begun, now)?;
    match changes.iter().find(|c| !aside.contains(&c.name.as_str())) {
        None => Ok(()),
        Some(change) => Err(change.refuse(what, cure)),
    }
}

/// Refuses to resume a run of `train`, `sft` or `reward` with settings that would make another run. What was left to be settled
/// when the run began (`auto`) may be anything.
///
/// # Errors
/// A user error that names the flag and both values.
pub fn continues<F: Given>(begun: F, now: &F::Config) -> Result<()> {
    for change in changes(&begun.filled(), now)? {
        let rule = Setting::of(&change.name).map(|s| s.resume);
        if let (Some(Resume::Same(why)), false) = (rule, change.was == "auto") {
            let flag = super::range::flag(&change.name);
            let said = match &change.was {
                Value::Bool(true) => format!("with {flag}, not without it"),
                Value::Bool(false) => format!("without {flag}, not with it"),
                was => format!("with {flag} {}, not {}", plain(was), plain(&change.now)),
            };
            return Err(Error::user(format!(
                "--resume: the run was started {said}, and {why}; resume with the settings the run was started with"
            )));
        }
    }
    Ok(())
}

/// The settings that scores of a run's checkpoints depend on, by flag; what is not set is empty.
///
/// # Errors
/// Settings that are no JSON object.
pub fn scored(settings: &impl Serialize) -> Result<impl Iterator<Item = (String, String)>> {
    let of_scores = |name: &str| Setting::of(name).is_some_and(|s| s.resume == Resume::Scored);
    let found = fields(settings)?.into_iter();
    Ok(found.filter_map(move |(name, value)| {
        of_scores(&name).then(|| (super::range::flag(&name), plain(&value)))
    }))
}

/// A value as a flag has it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => number.to_string(),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

impl Change {
    /// The error where what was begun has another setting.
    pub fn refuse(&self, what: &str, cure: &str) -> Error {
        Error::user(format!(
            "--resume: {what} begun with {} = {}, and now it is {}; give the settings it was begun with, or {cure}",
            self.name, self.was, self.now
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::TrainFlags;

    #[test]
    fn the_first_change_is_named() {
        #[derive(Serialize)]
        struct Settings {
            seed: u64,
            file: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            width: Option<u64>,
        }
        let of = |seed, file, width| Settings { seed, file, width };
        let differs = |a, b| {
            let changes = changes(&a, &b).unwrap();
            changes.into_iter().find(|c| c.name != "file")
        };
        assert_eq!(differs(of(1, "a", None), of(1, "b", None)), None);
        let one = |name: &str, was: Value, now: Value| {
            let name = name.to_string();
            Some(Change { name, was, now })
        };
        assert_eq!(
            differs(of(1, "a", None), of(2, "a", None)),
            one("seed", 1.into(), 2.into())
        );
        // A setting that only one of them has.
        assert_eq!(
            differs(of(1, "a", None), of(1, "a", Some(3))),
            one("width", Value::Null, 3.into())
        );
        assert_eq!(
            differs(of(1, "a", Some(3)), of(1, "a", None)),
            one("width", 3.into(), Value::Null)
        );
    }

    #[test]
    fn a_run_keeps_what_would_make_it_another() {
        let flags = |text: &str| toml::from_str::<TrainFlags>(text).unwrap();
        let resumed = |was: &str, now: &str| continues(flags(was), &flags(now).filled());
        // What an older run does not say it had by default; a choice it did not write down may be any.
        for (was, now) in [
            (
                "",
                "steps = 9\nlearning_rate = 1e-3\nmatmul_precision = \"highest\"",
            ),
            (
                "optim = \"adamw_8bit\"",
                "optim = \"adamw_8bit\"\ngradient_sum = \"tree\"",
            ),
        ] {
            resumed(was, now).unwrap();
        }
        for (was, now, said) in [
            ("seed = 3", "seed = 4", "with --seed 3, not 4"),
            (
                "",
                "matmul_precision = \"high\"",
                "with --matmul-precision highest, not high",
            ),
            ("lora_alpha = 6", "lora_alpha = 8", "with --lora-alpha 6, not 8"),
            ("", "full = true", "without --full, not with it"),
            (
                "gradient_sum = \"tree\"",
                "gradient_sum = \"ascending\"",
                "with --gradient-sum tree, not ascending",
            ),
        ] {
            let error = resumed(was, now).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains(said),
                "{error}"
            );
        }
    }
}
