//! A method's table as runs: every combination of its lists, every seed.

use super::plan::{MOST_RUNS, Method, Run};
use crate::config::{Setting, TrainFlags, overlay, range};
use crate::error::{Context, Error, Result};
use crate::train::setup::{self, default_reward};

/// Settings of `train` from a table; what is not one is named.
pub(super) fn flags(table: &toml::Table) -> Result<TrainFlags> {
    if table.contains_key("seed") {
        return Err(Error::user(
            "seed: give the seeds of every method at the top of the file, as in seeds = [1, 2, 3]",
        ));
    }
    let own = |(key, value): (&String, &toml::Value)| (Setting::key(key).to_string(), value.clone());
    let table: toml::Table = table.iter().map(own).collect();
    table
        .try_into()
        .map_err(|e: toml::de::Error| Error::user(e.message()))
}

/// A method's table without lists: one for every combination of their values, with its name.
pub(super) fn expand(table: &toml::Table) -> Result<Vec<(String, toml::Table)>> {
    let mut table = table.clone();
    let own = match table.remove("name") {
        Some(toml::Value::String(name)) => Some(name),
        Some(other) => return Err(Error::user(format!("name = {other} must be a text"))),
        None => None,
    };
    let mut all = vec![(String::new(), toml::Table::new())];
    for (key, value) in table {
        let toml::Value::Array(values) = value else {
            for (_, t) in &mut all {
                t.insert(key.clone(), value.clone());
            }
            continue;
        };
        if values.is_empty() {
            return Err(Error::user(format!(
                "{key} = []: a grid needs at least one value"
            )));
        }
        let combinations = [
            ("the lists before", all.len() as u64),
            (key.as_str(), values.len() as u64),
        ];
        range::check_product(&combinations, MOST_RUNS, "combinations")?;
        let with = |(suffix, t): &(String, toml::Table), v: &toml::Value| {
            let mut t = t.clone();
            t.insert(key.clone(), v.clone());
            // The rule is the name already.
            match (key == "advantage" && own.is_none(), v) {
                (true, _) => (suffix.clone(), t),
                (false, toml::Value::String(text)) => (format!("{suffix}-{key}={text}"), t),
                (false, other) => (format!("{suffix}-{key}={other}"), t),
            }
        };
        all = all
            .iter()
            .flat_map(|one| values.iter().map(|v| with(one, v)).collect::<Vec<_>>())
            .collect();
    }
    Ok(all
        .into_iter()
        .map(|(suffix, t)| {
            let rule = t.get("advantage").and_then(toml::Value::as_str).unwrap_or("tea");
            let name = format!("{}{suffix}", own.as_deref().unwrap_or(rule));
            (file_name(&name), t)
        })
        .collect())
}

/// A name that is a directory's on every system.
fn file_name(name: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '=' | '+') {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(keep).collect();
    name.trim_matches('.').to_string()
}

/// One run a seed of the settings `shared` and `table`.
pub(super) fn method(
    name: String,
    table: &toml::Table,
    shared: &TrainFlags,
    seeds: &[u64],
) -> Result<Method> {
    if name.is_empty() {
        return Err(Error::user("name is empty"));
    }
    let merged = overlay(shared, &flags(table)?)?;
    let run = |seed: u64| {
        let flags = TrainFlags {
            seed: Some(seed),
            ..merged.clone()
        };
        let config = flags.resolve(&default_reward)?;
        setup::rule(&config)?;
        Ok(Run {
            name: format!("{name}-seed{seed}"),
            seed,
            config,
        })
    };
    let runs = seeds
        .iter()
        .map(|s| run(*s))
        .collect::<Result<_>>()
        .context(&name)?;
    Ok(Method { name, runs })
}
