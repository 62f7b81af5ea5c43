//! What numbers may be: those of settings stand in the list of settings, those of other flags here.
//!
//! The command line gives each numeric flag its range ([`of`]), and resolved settings are checked
//! against the same ranges ([`check_settings`]), whether flags or a file gave them.

use serde::Serialize;
use serde_json::Value;

use super::SETTINGS;
use crate::error::{Error, Result};

/// Numbers that a setting may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bounds {
    /// Whole numbers, both ends included.
    Whole(u64, u64),
    /// Finite numbers, both ends included.
    Real(f64, f64),
    /// Finite numbers above the first up to the second.
    Above(f64, f64),
    /// Finite numbers from the first up to, not including, the second.
    Below(f64, f64),
    /// 0, or finite numbers from the first to the second.
    ZeroOr(f64, f64),
}

/// A setting's range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The setting, as settings files write it. A command before it (`search.samples`) makes it that command's own.
    pub name: &'static str,
    pub(super) bounds: Bounds,
    /// Why, where numbers alone do not say it; may be empty.
    pub(super) why: &'static str,
}

/// Whole numbers that settings files can hold.
pub(super) const STORED: u64 = i64::MAX as u64;
/// Whole numbers that float64 tells apart.
pub(super) const EXACT: u64 = 1 << 53;
/// Tokens of one text: positions are 32-bit on the device, and a prompt comes before a response.
pub(super) const TOKENS: u64 = (1 << 31) - 1;
/// Rows that a pass can number.
pub(super) const ROWS: u64 = u32::MAX as u64;
/// Responses to one prompt, and prompts, that are in memory together.
pub(super) const HELD: u64 = 1 << 20;
/// Groups of a step, and samples of one prompt that are only scored.
pub(super) const GROUP: u64 = 1 << 16;
/// Members of a group: the largest that the advantage reductions sort in a workgroup's memory.
pub const MAX_GROUP: u64 = 4096;
/// The largest number that is multiplied in float32: some room is left below the largest float32.
pub const LARGE: f64 = 1e30;
/// Seconds in a day.
const DAY: f64 = 86_400.0;

pub(super) const STORED_WHY: &str = "settings files hold signed 64-bit integers";
pub(super) const TOKENS_WHY: &str = "positions are 32-bit on the device";
pub(super) const ROWS_WHY: &str = "rows are numbered by 32 bits on the device";
pub(super) const HELD_WHY: &str = "all are in memory together";
pub(super) const GROUP_WHY: &str = "a step's responses are in memory together";
pub(super) const EXACT_WHY: &str = "it is computed with in float64";
pub(super) const LARGE_WHY: &str = "it is computed with in float32";

const fn whole(name: &'static str, least: u64, most: u64, why: &'static str) -> Range {
    Range {
        name,
        bounds: Bounds::Whole(least, most),
        why,
    }
}

const fn real(name: &'static str, least: f64, most: f64, why: &'static str) -> Range {
    Range {
        name,
        bounds: Bounds::Real(least, most),
        why,
    }
}

const fn other(name: &'static str, bounds: Bounds, why: &'static str) -> Range {
    Range { name, bounds, why }
}

/// The ranges of flags that are no settings of a run, by name.
const RANGES: &[Range] = &[
    whole("batch", 1, GROUP, GROUP_WHY),
    other("bandwidth", Bounds::Above(0.0, LARGE), ""),
    whole("best_of", 1, HELD, HELD_WHY),
    real("backoff", 0.0, DAY, "it is in seconds, and a day is long"),
    whole("budget", 1, HELD, HELD_WHY),
    whole("concurrency", 1, 1024, "each question in flight takes a thread"),
    whole(
        "context",
        1,
        1 << 28,
        "the tables of positions are made for all of it",
    ),
    whole("core", 1, ROWS, ""),
    whole("decode", 1, GROUP, HELD_WHY),
    whole("decode_length", 1, TOKENS, TOKENS_WHY),
    whole("draws", 1, EXACT, EXACT_WHY),
    whole("extrapolate_to", 1, EXACT, EXACT_WHY),
    whole("first", 1, ROWS, ""),
    real("from", 0.0, 1.0, "it is a probability"),
    whole("gram_memory", 0, STORED >> 20, "it is in MiB"),
    whole(
        "group_sizes",
        2,
        1 << 14,
        "the Gram matrix of a pool grows with its square",
    ),
    whole("head_dim", 1, 1024, ""),
    whole("heads", 1, 1024, ""),
    whole("held_out", 1, HELD, HELD_WHY),
    whole("hidden_size", 1, 1 << 16, ""),
    whole("intermediate_size", 1, 1 << 18, ""),
    whole("kv_heads", 1, 1024, ""),
    whole("layers", 1, 1024, ""),
    whole("bench.rollout.lora_rank", 0, 1 << 16, ""),
    whole("max_bytes", 0, STORED, ""),
    real("max_seconds", 0.0, 1e9, ""),
    whole("max_tokens", 1, TOKENS, ""),
    whole("n", 1, HELD, HELD_WHY),
    real("noise", 0.0, 1.0, "it is a share"),
    whole("ns", 1, EXACT, EXACT_WHY),
    whole(
        "bench.num_generations",
        1,
        MAX_GROUP,
        "training takes no larger group",
    ),
    whole("num_prompts", 1, HELD, HELD_WHY),
    whole("pairs", 1, 1024, HELD_WHY),
    whole(
        "points",
        2,
        1 << 16,
        "a grid has two ends, and every point is drawn",
    ),
    whole("prefill", 1, TOKENS, TOKENS_WHY),
    whole("prefix_tokens", 1, TOKENS, TOKENS_WHY),
    whole("prompt_length", 1, TOKENS, TOKENS_WHY),
    whole("prompts", 1, HELD, HELD_WHY),
    whole("repetitions", 1, u16::MAX as u64, ""),
    whole("replicates", 2, EXACT, "a variance needs at least 2"),
    whole("resamples", 1, 1_000_000, "the mean of each is in memory"),
    whole("retries", 0, 1000, ""),
    whole("samples", 1, HELD, HELD_WHY),
    whole(
        "diagnose.alignment.samples",
        2,
        1 << 14,
        "the Gram matrix of a pool grows with its square",
    ),
    whole(
        "search.samples",
        4,
        HELD,
        "a tail needs two rewards in the upper half",
    ),
    whole("seeds", 1, 1_000_000, "the cosine of each is in memory"),
    whole("sizes", 2, HELD, HELD_WHY),
    real("timeout", 0.0, DAY, "it is in seconds, and a day is long"),
    real("to", 0.0, 1.0, "it is a probability"),
    whole("train", 1, HELD, HELD_WHY),
    whole("validation", 1, HELD, HELD_WHY),
    whole("width", 1, HELD, HELD_WHY),
];

/// Responses that a step, or a command that prints them, holds at once.
pub const RESPONSES: u64 = 1 << 22;

/// Responses of an evaluation, whose texts go to disk and whose rewards are in memory.
pub const EVALUATED: u64 = 1 << 28;

/// Tokens that are in memory together.
pub const TOKENS_HELD: u64 = 1 << 28;

/// The range of a setting of a command. `path` is the command's words (`bench rollout`); its own range, or that of
/// the first of its words, goes before the one that all share.
pub fn of(path: &[&str], name: &str) -> Option<&'static Range> {
    let own = |words: usize| format!("{}.{name}", path[..words].join("."));
    let names = (1..=path.len()).rev().map(own).chain([name.to_string()]);
    let mut found = names.filter_map(|n| all().find(|r| r.name == n));
    found.next()
}

/// Every range.
pub fn all() -> impl Iterator<Item = &'static Range> {
    let of_settings = SETTINGS.iter().filter_map(|s| s.range.as_ref());
    of_settings.chain(RANGES)
}

/// A setting's name as a flag: `--num-generations`, `-n`.
pub fn flag(name: &str) -> String {
    match name.len() {
        1 => format!("-{name}"),
        _ => format!("--{}", name.replace('_', "-")),
    }
}

impl Range {
    /// Whether it is of whole numbers.
    pub fn is_whole(&self) -> bool {
        matches!(self.bounds, Bounds::Whole(..))
    }

    /// A whole number that a user wrote.
    ///
    /// # Errors
    /// What it must be.
    pub fn read_whole(&self, text: &str) -> Result<u64, String> {
        let Bounds::Whole(least, most) = self.bounds else {
            return Err(self.must());
        };
        let number = text.trim().parse::<u64>().ok();
        number
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| self.must())
    }

    /// A number that a user wrote.
    ///
    /// # Errors
    /// What it must be.
    pub fn read_real(&self, text: &str) -> Result<f64, String> {
        let number = text.trim().parse::<f64>().ok();
        number.filter(|n| self.holds(*n)).ok_or_else(|| self.must())
    }

    /// Whether a number is in the range.
    fn holds(&self, n: f64) -> bool {
        match self.bounds {
            Bounds::Whole(least, most) => n.fract() == 0.0 && n >= least as f64 && n <= most as f64,
            Bounds::Real(least, most) => (least..=most).contains(&n),
            Bounds::Above(least, most) => n > least && n <= most,
            Bounds::Below(least, most) => (least..most).contains(&n),
            Bounds::ZeroOr(least, most) => n == 0.0 || (least..=most).contains(&n),
        }
    }

    /// The range in words.
    pub fn words(&self) -> String {
        match self.bounds {
            Bounds::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Bounds::Real(least, most) => format!("a number from {least} to {}", plain(most)),
            Bounds::Above(least, most) => format!("a number above {least}, up to {}", plain(most)),
            Bounds::Below(least, most) => format!("a number from {least}, below {}", plain(most)),
            Bounds::ZeroOr(least, most) => {
                format!("0, or a number from {} to {}", plain(least), plain(most))
            }
        }
    }

    /// What a value must be.
    fn must(&self) -> String {
        let range = self.words();
        match self.why {
            "" => format!("it must be {range}"),
            why => format!("it must be {range}: {why}"),
        }
    }

    /// Refuses a value outside the range, by its flag.
    fn refuse(&self, name: &str, value: &str) -> Error {
        Error::user(format!("{} is {value}; {}", flag(name), self.must()))
    }
}

/// A number without a row of zeros.
fn plain(n: f64) -> String {
    if n == 0.0 || (1e-3..1e7).contains(&n) {
        format!("{n}")
    } else {
        format!("{n:e}")
    }
}

/// Checks a whole number by the list.
///
/// # Errors
/// It is out of its range.
pub fn check(name: &str, value: u64) -> Result<()> {
    match of(&[], name).map(|range| (range, range.bounds)) {
        Some((range, Bounds::Whole(least, most))) if !(least..=most).contains(&value) => {
            Err(range.refuse(name, &value.to_string()))
        }
        _ => Ok(()),
    }
}

/// Checks every setting that has a range; settings that are left open pass.
///
/// # Errors
/// The first one out of its range, by the flag's name.
pub fn check_settings(settings: &impl Serialize) -> Result<()> {
    // JSON holds whole numbers of 64 bits, which TOML does not; TOML holds NaN and infinity, which JSON does not.
    if let Value::Object(settings) = serde_json::to_value(settings).map_err(Error::internal)? {
        let wholes = settings.iter().filter_map(|(name, v)| Some((name, v.as_u64()?)));
        wholes.into_iter().try_for_each(|(name, n)| check(name, n))?;
    }
    let settings = toml::Table::try_from(settings).map_err(|e| Error::user(format!("{e}: {STORED_WHY}")))?;
    for (name, value) in &settings {
        let number = match value {
            toml::Value::Integer(n) => *n as f64,
            toml::Value::Float(n) => *n,
            _ => continue,
        };
        match of(&[], name) {
            Some(range) if !range.holds(number) => return Err(range.refuse(name, &number.to_string())),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a product of counts that is more than `most`: `what` there would be of it.
///
/// # Errors
/// A user error with the flags, the numbers and the limit.
pub fn check_product(counts: &[(&str, u64)], most: u64, what: &str) -> Result<()> {
    let product = counts.iter().try_fold(1u64, |all, (_, n)| all.checked_mul(*n));
    if product.is_some_and(|all| all <= most) {
        return Ok(());
    }
    let named: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    Err(Error::user(format!(
        "{} make more than {most} {what}, which are in memory together; lower one of them",
        named.join(" × ")
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{SupervisedFlags, TrainFlags, overlay, read_toml};

    /// Settings from a file, checked.
    fn checked<T: serde::de::DeserializeOwned + Serialize>(text: &str) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        check_settings(&read_toml::<T>(&path)?)
    }

    #[test]
    fn settings_of_a_file_keep_to_the_ranges_of_flags() {
        for (text, part) in [
            (
                "num_generations = 1",
                "--num-generations is 1; it must be a whole number from 2 to 4096",
            ),
            ("steps = 0", "--steps is 0"),
            ("steps = -1", "steps = -1"),
            ("seed = 9223372036854775808", "--seed is 9223372036854775808"),
            ("lora_rank = 4294967296", "--lora-rank is 4294967296"),
            ("bon = 9223372036854775807", "--bon is 9223372036854775807"),
            ("beta = nan", "--beta is NaN"),
            ("beta = -inf", "--beta is -inf"),
            ("learning_rate = 1e31", "to 1e30"),
            ("temperature = 1e-5", "0, or a number from 1e-4 to 1000000"),
            ("top_p = 0", "above 0, up to 1"),
            ("min_p = 1.0", "from 0, below 1"),
        ] {
            let error = checked::<TrainFlags>(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert_eq!(error.exit_code(), 2, "{text}");
        }
        checked::<TrainFlags>(
            "seed = 9223372036854775807\ntemperature = 0\nsave_steps = 4611686018427387904",
        )
        .unwrap();
        let error = checked::<SupervisedFlags>("eval_fraction = 1.0")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--eval-fraction is 1; it must be a number from 0, below 1"),
            "{error}"
        );
    }

    #[test]
    fn every_number_of_a_settings_file_has_a_range() {
        fn numbers<T: clap::Args>() -> Vec<String> {
            let whole = |t: &clap::builder::ValueParser| {
                t.type_id() == std::any::TypeId::of::<usize>()
                    || t.type_id() == std::any::TypeId::of::<u64>()
                    || t.type_id() == std::any::TypeId::of::<u32>()
                    || t.type_id() == std::any::TypeId::of::<f64>()
            };
            let command = T::augment_args(clap::Command::new("settings"));
            let args = command.get_arguments();
            args.filter(|a| whole(a.get_value_parser()))
                .map(|a| a.get_id().to_string())
                .collect()
        }
        let all = [numbers::<TrainFlags>(), numbers::<SupervisedFlags>()].concat();
        assert!(all.len() > 40, "{all:?}");
        for name in all {
            assert!(of(&[], &name).is_some(), "{name} has no range");
        }
    }

    #[test]
    fn a_number_that_toml_cannot_hold_is_the_users() {
        let flags = TrainFlags {
            seed: Some(u64::MAX),
            ..TrainFlags::default()
        };
        for error in [
            overlay(&TrainFlags::default(), &flags).unwrap_err(),
            flags.resolve(&|_| Some("judge".into())).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("--seed is 18446744073709551615"),
                "{error}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_commands_own_range_goes_before_the_shared_one() {
        let least = |path: &[&str], name| match of(path, name).unwrap().bounds {
            Bounds::Whole(least, _) => least,
            _ => unreachable!("whole"),
        };
        assert_eq!(least(&["search"], "samples"), 4);
        assert_eq!(least(&["search", "predict"], "samples"), 4);
        assert_eq!(least(&["eval"], "samples"), 1);
        assert_eq!(least(&["bench", "rollout"], "lora_rank"), 0);
        assert_eq!(least(&["bench", "train"], "lora_rank"), 1);
        assert_eq!(least(&["bench", "train"], "num_generations"), 1);
        assert!(of(&["train"], "model").is_none());
    }

    #[test]
    fn products_are_refused_with_their_factors() {
        check_product(&[("--a", 1 << 20), ("--b", 4)], 1 << 22, "things").unwrap();
        for b in [5, u64::MAX] {
            let error = check_product(&[("--a", 1 << 20), ("--b", b)], 1 << 22, "things").unwrap_err();
            let said = format!("--a 1048576 × --b {b} make more than 4194304 things");
            assert!(error.to_string().starts_with(&said), "{error}");
        }
    }
}
