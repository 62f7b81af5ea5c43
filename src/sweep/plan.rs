//! The sweep file: shared settings, methods, seeds, evaluation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::grid::{expand, flags, method};
use crate::config::{TINY, TrainConfig, range, read_toml};
use crate::error::{Context, Error, Result};

/// The name of the base policy's evaluation; no method may have it.
pub const BASE: &str = "base";

/// A sweep file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    baseline: Option<String>,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    #[serde(default)]
    train: toml::Table,
    #[serde(default)]
    method: Vec<toml::Table>,
    #[serde(default)]
    eval: EvalSettings,
}

/// Runs of a sweep: far more than are ever finished, and few enough to be listed.
pub(super) const MOST_RUNS: u64 = 1 << 16;

fn one_seed() -> Vec<u64> {
    vec![1]
}

/// How every checkpoint of a sweep is evaluated; the keys are `eval`'s flags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Held-out prompts; the embedded policy has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    /// How many of them: the first ones. The file must hold as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_prompts: Option<usize>,
    /// Responses sampled for each prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Seed of the samples, the same for every policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// A second judge, which no run is trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also_reward: Option<String>,
    /// Sequences sampled together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_batch: Option<usize>,
}

/// One training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// `METHOD-seedS`: its directory's name.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Its settings.
    pub config: TrainConfig,
}

/// The runs that differ in their seeds alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    /// Its `name` (or its rule's), and the values of its grid.
    pub name: String,
    /// One run a seed.
    pub runs: Vec<Run>,
}

/// A whole sweep, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The method that the others are compared with, beside the base policy.
    pub baseline: Option<String>,
    /// In the file's order; those of a grid by their values.
    pub methods: Vec<Method>,
    /// How checkpoints are evaluated.
    pub eval: EvalSettings,
}

impl Sweep {
    /// Reads a sweep file and resolves the settings of every run.
    ///
    /// # Errors
    /// A user error naming the file and the method: malformed TOML, an unknown or ill-typed setting, a rule's parameter out
    /// of range, two methods of one name, an unknown baseline, or methods that cannot be compared because they differ in what
    /// is evaluated.
    pub fn read(path: &Path) -> Result<Self> {
        let file: File = read_toml(path)?;
        Self::from_file(file).context(path.display())
    }

    fn from_file(file: File) -> Result<Self> {
        if file.method.is_empty() {
            return Err(Error::user(
                "no [[method]]: give at least one, for example\n[[method]]\nadvantage = \"tea\"",
            ));
        }
        if file.seeds.is_empty() {
            return Err(Error::user(
                "seeds is empty: give at least one, as in seeds = [1, 2, 3]",
            ));
        }
        file.seeds
            .iter()
            .try_for_each(|s| range::check("seed", *s))
            .context("seeds")?;
        let distinct: BTreeSet<u64> = file.seeds.iter().copied().collect();
        if distinct.len() < file.seeds.len() {
            return Err(Error::user("seeds: each may be given once"));
        }
        let shared = flags(&file.train).context("[train]")?;
        let mut methods = Vec::new();
        for (i, table) in file.method.iter().enumerate() {
            let place = format!("[[method]] {}", i + 1);
            let table = expand(table).context(&place)?;
            let runs = [
                ("the methods so far", (methods.len() + table.len()) as u64),
                ("seeds", file.seeds.len() as u64),
            ];
            range::check_product(&runs, MOST_RUNS, "runs").context(&place)?;
            for (name, table) in table {
                methods.push(method(name, &table, &shared, &file.seeds).context(&place)?);
            }
        }
        let sweep = Self {
            baseline: file.baseline,
            methods,
            eval: file.eval,
        };
        sweep.check()?;
        Ok(sweep)
    }

    /// Every run, in order.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.methods.iter().flat_map(|m| &m.runs)
    }

    /// The settings that all runs share, by the first.
    ///
    /// # Errors
    /// There is no run (a bug).
    pub fn shared(&self) -> Result<&TrainConfig> {
        let first = self.runs().next();
        first
            .map(|r| &r.config)
            .ok_or_else(|| Error::internal("a sweep without runs"))
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::from([BASE]);
        for method in &self.methods {
            if !names.insert(&method.name) {
                return Err(Error::user(format!(
                    "two methods are called {} (or it is the base policy's name): tell them apart by `name = …`",
                    method.name
                )));
            }
        }
        if let Some(baseline) = self
            .baseline
            .as_ref()
            .filter(|b| !names.contains(b.as_str()) || *b == BASE)
        {
            let known: Vec<&str> = self.methods.iter().map(|m| m.name.as_str()).collect();
            return Err(Error::user(format!(
                "baseline = \"{baseline}\" is no method here; there are {} (the base policy is always compared with)",
                known.join(", ")
            )));
        }
        let shared = self.shared()?;
        let judged = |c: &TrainConfig| {
            [
                ("model", c.model.clone()),
                ("reward_model", c.reward_model.clone()),
                ("reward_adapter", format!("{:?}", c.reward_adapter)),
                ("reward_dtype", format!("{:?}", c.reward_dtype)),
                ("max_completion_length", c.max_completion_length.to_string()),
                ("raw", c.raw.to_string()),
                ("template_date", c.template_date.clone()),
                ("matmul_precision", c.matmul_precision.to_string()),
                ("kv_cache_dtype", c.kv_cache_dtype.to_string()),
            ]
        };
        for run in self.runs() {
            for ((key, a), (_, b)) in judged(shared).into_iter().zip(judged(&run.config)) {
                if a != b {
                    return Err(Error::user(format!(
                        "{}: {key} is {b}, elsewhere {a}: methods are compared on the same base, judge, length and rounding; set it \
                         under [train]",
                        run.name
                    )));
                }
            }
        }
        if self.eval.prompts.is_none() && shared.model != TINY {
            return Err(Error::user(
                "[eval]: no prompts; give held-out ones, as in prompts = \"held-out.jsonl\"",
            ));
        }
        range::check_settings(&self.eval).context("[eval]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(text: &str) -> Result<Sweep> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweep.toml");
        std::fs::write(&path, text).unwrap();
        Sweep::read(&path)
    }

    #[test]
    fn methods_seeds_and_grids_become_runs() {
        let sweep = read(
            "baseline = \"grpo\"\nseeds = [3, 1]\n[train]\nsteps = 7\nalpha = 0.25\n[[method]]\nadvantage = \"tea\"\n\
             bon = [64, 128]\nalpha = [\"1/5\", 0.1]\n[[method]]\nadvantage = \"grpo\"\n[[method]]\nname = \"grpo, m 32\"\n\
             advantage = \"grpo\"\nnum_generations = 32\n[eval]\nsamples = 8\nalso_reward = \"true-score\"\n",
        )
        .unwrap();
        let names: Vec<&str> = sweep.methods.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tea-alpha=1_5-bon=64",
                "tea-alpha=1_5-bon=128",
                "tea-alpha=0.1-bon=64",
                "tea-alpha=0.1-bon=128",
                "grpo",
                "grpo__m_32"
            ]
        );
        assert_eq!(sweep.runs().count(), 12);
        let second = &sweep.methods[1].runs;
        assert_eq!((second[0].seed, second[1].seed), (3, 1));
        assert_eq!(second[1].name, "tea-alpha=1_5-bon=128-seed1");
        let c = &second[1].config;
        assert_eq!((c.bon, &*c.alpha, c.steps, c.seed), (Some(128), "1/5", 7, 1));
        assert_eq!(sweep.methods[5].runs[0].config.num_generations, 32);
        assert_eq!(&*sweep.methods[4].runs[0].config.alpha, "0.25");
        assert_eq!(sweep.eval.samples, Some(8));
        // A list of rules is a grid as well, named by the rules alone.
        let rules = read("[[method]]\nadvantage = [\"tea\", \"grpo\"]\n").unwrap();
        assert_eq!(rules.methods[1].name, "grpo");
    }

    #[test]
    fn the_example_is_every_rule_with_three_seeds() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sweep.toml");
        let sweep = Sweep::read(&path).unwrap();
        let names: Vec<&str> = sweep.methods.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "tea",
                "prefix-tea",
                "grpo",
                "grpo-z",
                "bon-mean",
                "bon-max-second",
                "cat-bon",
                "chow"
            ]
        );
        assert_eq!(sweep.runs().count(), 24);
        assert!(
            sweep
                .runs()
                .all(|r| r.config.num_generations == 16 && r.config.model == TINY)
        );
    }

    #[test]
    fn a_wrong_file_says_what_and_where() {
        let tea = "[[method]]\nadvantage = \"tea\"\n";
        let cases = [
            ("", "no [[method]]"),
            ("seedz = [1]\n", "sweep.toml:1"),
            ("seeds = []\n", "seeds is empty"),
            ("seeds = [1, 1]\n", "each may be given once"),
            ("[train]\nstepz = 1\n", "stepz"),
            ("[train]\nseed = 1\n", "seeds = ["),
            ("[train]\nsteps = 0\n", "--steps"),
            ("[[method]]\nadvantage = \"best\"\n", "--advantage best"),
            ("[[method]]\nalpha = [0.2, 0.7]\n", "0.7"),
            ("[[method]]\nalpha = []\n", "alpha = []"),
            ("[[method]]\nname = \"base\"\n", "base"),
            ("[[method]]\nname = 3\n", "must be a text"),
            ("[[method]]\nadvantage = \"tea\"\n", "two methods are called tea"),
            ("baseline = \"ppo\"\n", "\"ppo\" is no method"),
            (
                "[[method]]\nname = \"long\"\nmax_completion_length = 5\n",
                "max_completion_length is 5",
            ),
            (
                "[[method]]\nname = \"rounded\"\nreward_dtype = \"q8_0\"\n",
                "reward_dtype is Some",
            ),
            (
                "[[method]]\nname = \"fast\"\nmatmul_precision = \"high\"\n",
                "matmul_precision is high, elsewhere highest",
            ),
            (
                "[[method]]\nname = \"half\"\nkv_cache_dtype = \"float16\"\n",
                "kv_cache_dtype is float16, elsewhere float32",
            ),
            (
                "[eval]\nsamples = 0\n",
                "--samples is 0; it must be a whole number",
            ),
            ("[eval]\nsample = 1\n", "sample"),
            ("[train]\nmodel = \"llama-1b\"\n", "[eval]: no prompts"),
        ];
        for (text, part) in cases {
            let whole = if part == "no [[method]]" {
                text.to_string()
            } else if text.starts_with('[') {
                format!("{tea}{text}")
            } else {
                format!("{text}{tea}")
            };
            let e = read(&whole).unwrap_err();
            let said = e.to_string();
            assert!(
                said.contains(part) && said.contains("sweep.toml"),
                "{text:?}: {said}"
            );
            assert_eq!(e.exit_code(), 2);
        }
    }
}
