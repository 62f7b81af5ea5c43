//! What each command writes into its directory: the one list, for the marker, for `--overwrite`, and for telling directories
//! of versions that wrote no marker.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::file::limits::SETTINGS_FILE;
use crate::file::open::regular;

/// Names below a directory. In a name `*` stands for any letters and `#` for a number.
#[derive(Debug)]
pub struct Tree {
    /// Files.
    pub files: &'static [&'static str],
    /// Directories, by name.
    pub dirs: &'static [(&'static str, Inside)],
}

/// What a directory of a [`Tree`] holds.
#[derive(Debug)]
pub enum Inside {
    /// These names, and those that its checksums list.
    Named(&'static Tree),
    /// Whatever other commands write. It is never removed.
    Anything,
}

/// A command that writes a directory.
#[derive(Debug)]
pub struct Kind {
    /// The command, as the marker and messages name it.
    pub command: &'static str,
    /// Commands of one family may replace each other's directories.
    family: &'static str,
    /// What it writes, in the order in which it is removed: what makes the directory a run comes first.
    pub tree: &'static Tree,
    /// Files that only this command writes, each with keys that it holds: how a directory without a marker is known.
    signs: &'static [(&'static str, &'static [&'static str])],
}

/// What is being written or replaced when a process is killed.
const fn unfinished(dirs: &'static [(&'static str, Inside)]) -> Tree {
    Tree { files: &[], dirs }
}

pub(super) const CHECKPOINT: Tree = Tree {
    files: &[
        "trainer_state.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "config.toml",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "chat_template.jinja",
        super::checksums::FILE,
    ],
    dirs: &[],
};

const CHECKPOINTS: Tree = unfinished(&[
    ("step_#", Inside::Named(&CHECKPOINT)),
    ("best", Inside::Named(&CHECKPOINT)),
    (".tmp-step_#", Inside::Named(&CHECKPOINT)),
    (".tmp-best", Inside::Named(&CHECKPOINT)),
    (".old-step_#", Inside::Named(&CHECKPOINT)),
    (".old-best", Inside::Named(&CHECKPOINT)),
]);

const RUN: Tree = Tree {
    files: &["metrics.jsonl", "config.toml"],
    dirs: &[("checkpoints", Inside::Named(&CHECKPOINTS))],
};

/// Settings that only a training run's config.toml has together.
const RUN_SIGNS: &[(&str, &[&str])] = &[("config.toml", &["model", "seed", "save_steps", "learning_rate"])];

const fn run(command: &'static str, tree: &'static Tree) -> Kind {
    Kind {
        command,
        family: "run",
        tree,
        signs: RUN_SIGNS,
    }
}

/// `train`.
pub static TRAIN: Kind = run("train", &RUN);
/// `sft`.
pub static SFT: Kind = run("sft", &RUN);
/// `reward`.
pub static REWARD: Kind = run("reward", &RUN);
/// `demo`: a run of `train` and what it gained.
pub static DEMO: Kind = run(
    "demo",
    &Tree {
        files: &[
            "metrics.jsonl",
            "config.toml",
            "results.json",
            "results.md",
            "best_of_n-*.svg",
            "best_of_n-*.png",
            "reward.svg",
            "reward.png",
        ],
        dirs: RUN.dirs,
    },
);

const fn own(
    command: &'static str,
    tree: &'static Tree,
    signs: &'static [(&'static str, &'static [&'static str])],
) -> Kind {
    Kind {
        command,
        family: command,
        tree,
        signs,
    }
}

const fn files(files: &'static [&'static str]) -> Tree {
    Tree { files, dirs: &[] }
}

/// `eval`.
pub static EVAL: Kind = own(
    "eval",
    &files(&[
        "eval.json",
        "completions.jsonl",
        "prompts.jsonl",
        "results.json",
        "results.md",
        "results.csv",
        "best_of_n.svg",
        "best_of_n.png",
        "best_of_n-also.svg",
        "best_of_n-also.png",
    ]),
    &[(
        "eval.json",
        &["version", "model", "reward_model", "prompts_sha256"],
    )],
);
/// `search`.
pub static SEARCH: Kind = own(
    "search",
    &files(&["search.json", "search.jsonl", "results.json", "results.md"]),
    &[("search.json", &["model", "reward_model", "budget"])],
);
/// `search predict`.
pub static PREDICT: Kind = own(
    "search predict",
    &files(&["results.json", "results.md", "predicted.svg", "predicted.png"]),
    &[("results.json", &["first", "total", "predictor"])],
);
/// `judge`.
pub static JUDGE: Kind = own(
    "judge",
    &files(&["judge.json", "judgements.jsonl", "results.json", "results.md"]),
    &[("judge.json", &["first", "second", "endpoint"])],
);
/// `compare`.
pub static COMPARE: Kind = own(
    "compare",
    &files(&[
        "compare.json",
        "compare.md",
        "compare.csv",
        "frontier.svg",
        "frontier.png",
        "frontier-held-out.svg",
        "frontier-held-out.png",
    ]),
    &[("compare.json", &["comparison", "methods"])],
);
/// `sweep`. Its runs and evaluations are directories of `train` and `eval`.
pub static SWEEP: Kind = own(
    "sweep",
    &Tree {
        files: &[
            "sweep.json",
            "table.json",
            "table.csv",
            "table.md",
            "frontier*.svg",
            "frontier*.png",
        ],
        dirs: &[
            ("compare", Inside::Anything),
            ("runs", Inside::Anything),
            ("evals", Inside::Anything),
        ],
    },
    &[("sweep.json", &["jobs"])],
);
/// `prepare`.
pub static PREPARE: Kind = own(
    "prepare",
    &files(&["manifest.json", "prompts-*.jsonl", "preferences-*.jsonl"]),
    &[("manifest.json", &["inputs", "outputs"])],
);
/// `demo-data`.
pub static DEMO_DATA: Kind = own(
    "demo-data",
    &Tree {
        files: &[
            "prompts-train.jsonl",
            "prompts-validation.jsonl",
            "prompts-held-out.jsonl",
            "sft.jsonl",
            "preferences.jsonl",
            "preferences-validation.jsonl",
            "samples.jsonl",
        ],
        dirs: &[
            ("init", Inside::Named(&CHECKPOINT)),
            (".tmp-init", Inside::Named(&CHECKPOINT)),
            (".old-init", Inside::Named(&CHECKPOINT)),
        ],
    },
    &[("preferences-validation.jsonl", &["prompt", "chosen", "rejected"])],
);
/// `diagnose alignment`.
pub static ALIGNMENT: Kind = own(
    "diagnose alignment",
    &Tree {
        files: &[
            "settings.json",
            "samples.jsonl",
            "alignment.json",
            "alignment.svg",
            "alignment.png",
            ".alignment.part.png",
        ],
        dirs: &[("gram", Inside::Named(&files(&["prompt_#.safetensors"])))],
    },
    &[("settings.json", &["model", "reward_model", "num_prompts"])],
);
/// The other diagnostics, which share a directory.
pub static DIAGNOSE: Kind = own(
    "diagnose",
    &files(&[
        "synthetic.json",
        "laws.json",
        "tails.json",
        "distribution.json",
        "synthetic*.svg",
        "synthetic*.png",
        "laws*.svg",
        "laws*.png",
        "tails.svg",
        "tails.png",
        "distribution.svg",
        "distribution.png",
        ".*.part.png",
    ]),
    &[
        ("synthetic.json", &["config"]),
        ("laws.json", &["config"]),
        ("tails.json", &["config"]),
        ("distribution.json", &["evals", "grid"]),
    ],
);

/// Every one of them.
static ALL: [&Kind; 14] = [
    &TRAIN, &SFT, &REWARD, &DEMO, &EVAL, &SEARCH, &PREDICT, &JUDGE, &COMPARE, &SWEEP, &PREPARE, &DEMO_DATA,
    &ALIGNMENT, &DIAGNOSE,
];

impl Kind {
    /// The kind that a marker names.
    pub(super) fn named(command: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|kind| kind.command == command)
    }

    /// The kind of a directory without a marker, where its files tell it.
    pub(super) fn of(dir: &Path) -> Option<&'static Self> {
        ALL.into_iter().find(|kind| kind.knows(dir))
    }

    /// Whether a directory without a marker holds what only this command writes.
    pub(super) fn knows(&self, dir: &Path) -> bool {
        let mut signs = self.signs.iter();
        signs.any(|(file, keys)| has_keys(&dir.join(file), keys))
    }

    /// Whether this command can continue what the other began: `demo` trains as `train` does.
    pub(super) fn continues(&self, other: &Self) -> bool {
        let trains = |kind: &Self| [TRAIN.command, DEMO.command].contains(&kind.command);
        self.command == other.command || (trains(self) && trains(other))
    }

    /// The directories that it writes inside its own.
    pub(super) fn places(&self, root: &Path) -> Vec<PathBuf> {
        let names = self.tree.dirs.iter();
        names.map(|(name, _)| root.join(name)).collect()
    }

    /// Whether the other's directories are this one's too.
    pub(super) fn shares(&self, other: &Self) -> bool {
        self.family == other.family
    }
}

/// Whether a file is an object of TOML or JSON, or its first line is one, with these keys.
fn has_keys(path: &Path, keys: &[&str]) -> bool {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    let mut text = Vec::new();
    let most = SETTINGS_FILE.most();
    let read = regular(path).map(|file| file.take(most).read_to_end(&mut text));
    if is_link || !matches!(read, Ok(Ok(_))) {
        return false;
    }
    let text = String::from_utf8_lossy(&text);
    if path.extension().is_some_and(|e| e == "toml") {
        // Settings stand in tables, and did not always.
        let holds = |table: &toml::Table, key: &str| {
            let tables = table.values().filter_map(toml::Value::as_table);
            table.contains_key(key) || tables.into_iter().any(|inner| inner.contains_key(key))
        };
        let table = text.parse::<toml::Table>();
        return table.is_ok_and(|table| keys.iter().all(|key| holds(&table, key)));
    }
    let first = text.lines().next().unwrap_or_default();
    let object = serde_json::from_str::<Value>(&text).or_else(|_| serde_json::from_str(first));
    object.is_ok_and(|value| keys.iter().all(|key| value.get(key).is_some()))
}

/// Whether a name is one of a pattern, in which `*` stands for any letters and `#` for a number without leading zeros.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some(at) = pattern.find(['*', '#']) else {
        return pattern == name;
    };
    let (before, after) = (&pattern[..at], &pattern[at + 1..]);
    let middle = name
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    match (middle, &pattern[at..=at]) {
        (Some(middle), "#") => middle.parse::<u64>().is_ok_and(|n| n.to_string() == middle),
        (middle, _) => middle.is_some(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_told_from_others() {
        let is = [
            ("step_#", "step_12"),
            (".tmp-step_#", ".tmp-step_3"),
            ("best_of_n-*.svg", "best_of_n-true-score.svg"),
            ("frontier*.png", "frontier.png"),
            ("config.toml", "config.toml"),
        ];
        let is_not = [
            ("step_#", "step_012"),
            ("step_#", "step_+1"),
            ("step_#", "step_"),
            ("step_#", "step_4-merged"),
            ("best_of_n-*.svg", "best_of_n.svg"),
            ("config.toml", "config.toml.bak"),
        ];
        assert!(is.iter().all(|(pattern, name)| matches(pattern, name)));
        assert!(!is_not.iter().any(|(pattern, name)| matches(pattern, name)));
    }

    #[test]
    fn a_directory_without_a_marker_is_known_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let known = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            let kind = Kind::of(dir.path()).map(|k| k.command);
            std::fs::remove_file(dir.path().join(name)).unwrap();
            kind
        };
        assert_eq!(known("config.toml", "title = \"a site\""), None);
        assert_eq!(known("results.json", "{\"score\": 1}"), None);
        let run = "model = \"m\"\nseed = 1\nsave_steps = 5\nlearning_rate = 1e-4\n";
        assert_eq!(known("config.toml", run), Some("train"));
        assert_eq!(
            known("sweep.json", "{\"types\": {}, \"jobs\": []}"),
            Some("sweep")
        );
        let pair = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n";
        assert_eq!(
            known("preferences-validation.jsonl", &pair.repeat(2)),
            Some("demo-data")
        );
    }
}
