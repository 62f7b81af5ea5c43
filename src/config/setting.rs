//! What the list of settings says of one, and what follows from it: flags, keys of files, resolved
//! settings, checks.

use super::SETTINGS;
use super::range::{Bounds, Range};
use super::resume::Resume;
use crate::error::{Error, Result};
use clap::builder::{PossibleValue, ValueParser};
use clap::{Arg, ArgAction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::TypeId;
use std::sync::LazyLock;

/// A setting, as the list says it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key in settings files. The flag has hyphens.
    pub name: &'static str,
    /// The heading of its flag. In lower case it is the table of its key.
    pub heading: &'static str,
    /// What it is, in a line.
    pub help: &'static str,
    /// What the page says beside that; may be empty.
    pub details: &'static str,
    /// The values of a number.
    pub range: Option<Range>,
    /// What a resumed run may do with it.
    pub resume: Resume,
    /// Whether a run's memory depends on it.
    pub sizes: bool,
    /// Whether it names a file, where it names no model or data set.
    pub is_path: bool,
    /// Its default in `train` and `plan`, as printed. `None` where they do not take it.
    pub train: Option<&'static str>,
    /// Its default in `sft` and `reward`, as printed. `None` where they do not take it.
    pub supervised: Option<&'static str>,
    value: &'static str,
    alias: Option<&'static str>,
    excludes: Option<&'static str>,
}

/// A setting of any value.
pub(super) const fn any() -> Setting {
    Setting {
        name: "",
        heading: "",
        help: "",
        details: "",
        range: None,
        resume: Resume::Free,
        sizes: true,
        is_path: false,
        train: None,
        supervised: None,
        value: "NAME",
        alias: None,
        excludes: None,
    }
}

const fn bounded(bounds: Bounds, why: &'static str) -> Setting {
    let name = "";
    Setting {
        range: Some(Range { name, bounds, why }),
        ..any()
    }
}

/// Whole numbers, both ends included.
pub(super) const fn whole(least: u64, most: u64, why: &'static str) -> Setting {
    bounded(Bounds::Whole(least, most), why)
}

/// Numbers, both ends included.
pub(super) const fn real(least: f64, most: f64, why: &'static str) -> Setting {
    bounded(Bounds::Real(least, most), why)
}

/// Numbers above the first up to the second.
pub(super) const fn above(least: f64, most: f64, why: &'static str) -> Setting {
    bounded(Bounds::Above(least, most), why)
}

/// Numbers from the first up to, not including, the second.
pub(super) const fn below(least: f64, most: f64, why: &'static str) -> Setting {
    bounded(Bounds::Below(least, most), why)
}

/// 0, or numbers from the first to the second.
pub(super) const fn zero_or(least: f64, most: f64, why: &'static str) -> Setting {
    bounded(Bounds::ZeroOr(least, most), why)
}

impl Setting {
    /// Names the value in help.
    pub(super) const fn value(self, value: &'static str) -> Self {
        Self { value, ..self }
    }

    /// What the page says beside the help.
    pub(super) const fn more(self, details: &'static str) -> Self {
        Self { details, ..self }
    }

    /// Another name, as a flag and as a key.
    pub(super) const fn alias(self, alias: &'static str) -> Self {
        let alias = Some(alias);
        Self { alias, ..self }
    }

    /// The flag that cannot stand beside this one.
    pub(super) const fn excludes(self, other: &'static str) -> Self {
        let excludes = Some(other);
        Self { excludes, ..self }
    }

    /// It may name a file: a run's own settings are read from any directory.
    pub(super) const fn path(self) -> Self {
        let is_path = true;
        Self { is_path, ..self }
    }

    /// A resumed run keeps it, and why.
    pub(super) const fn same(self, why: &'static str) -> Self {
        let resume = Resume::Same(why);
        Self { resume, ..self }
    }

    /// A resumed run that selects checkpoints keeps it: scores depend on it.
    pub(super) const fn scored(self) -> Self {
        let resume = Resume::Scored;
        Self { resume, ..self }
    }

    /// No memory depends on it.
    pub(super) const fn no_memory(self) -> Self {
        let sizes = false;
        Self { sizes, ..self }
    }

    /// The setting, with what an entry of the list says beside the rules.
    pub(super) const fn entry(
        self,
        (heading, name, help): (&'static str, &'static str, &'static str),
        train: Option<&'static str>,
        supervised: Option<&'static str>,
    ) -> Self {
        let range = match self.range {
            Some(range) => Some(Range { name, ..range }),
            None => None,
        };
        Self {
            name,
            heading,
            help,
            range,
            train,
            supervised,
            ..self
        }
    }

    /// The setting of this name.
    pub fn of(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|s| s.name == name)
    }

    /// The table of its key in settings files.
    pub fn table(&self) -> String {
        self.heading.to_lowercase()
    }

    /// The name of its flag.
    fn long(&self) -> &'static str {
        static NAMES: LazyLock<Vec<String>> =
            LazyLock::new(|| SETTINGS.iter().map(|s| s.name.replace('_', "-")).collect());
        let at = SETTINGS.iter().position(|s| s.name == self.name);
        at.map_or("", |at| &NAMES[at])
    }

    /// Its flag on the command line. A switch takes no value; of a few values all are named.
    pub(super) fn arg(&self, parser: ValueParser, default: Option<&str>) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.long())
            .action(ArgAction::Set)
            .help_heading(self.heading);
        let is_switch = parser.type_id() == TypeId::of::<bool>();
        let arg = match is_switch {
            true => arg.num_args(0).default_missing_value("true"),
            false => arg.value_name(self.value).hide_possible_values(true),
        };
        let arg = arg.value_parser(parser);
        let values = match is_switch {
            true => Vec::new(),
            false => arg.get_possible_values(),
        };
        let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
        let help = match (values.join(", "), default.unwrap_or_default()) {
            (values, "") if values.is_empty() => self.help.to_string(),
            (values, default) if values.is_empty() => format!("{} [default: {default}]", self.help),
            (values, "") => format!("{}: {values}", self.help),
            (values, default) => format!("{}: {values} [default: {default}]", self.help),
        };
        let arg = match self.alias {
            Some(alias) => arg.visible_alias(alias),
            None => arg,
        };
        match self.excludes {
            Some(other) => arg.conflicts_with(other),
            None => arg,
        }
        .help(help)
    }

    /// The key that a settings file may use for a setting: its own, or the other name.
    pub fn key(name: &str) -> &str {
        let aliased = SETTINGS.iter().find(|s| s.alias == Some(name));
        aliased.map_or(name, |s| s.name)
    }
}

/// The settings of a command that are given, by flags or a file; others are open.
pub trait Given: Serialize + DeserializeOwned + Default + Clone {
    /// The resolved settings.
    type Config: Serialize;

    /// The settings with the list's defaults for what is open. They are not checked.
    fn filled(self) -> Self::Config;
}

/// Resolved settings as a settings file: the list's tables, in the list's order.
///
/// # Errors
/// Never for a valid configuration.
pub(super) fn to_toml(settings: &impl Serialize) -> Result<String> {
    let mut rest = toml::Table::try_from(settings).map_err(Error::internal)?;
    let line = |key: &str, value: toml::Value| {
        let table = toml::Table::from_iter([(key.to_string(), value)]);
        toml::to_string(&table).map_err(Error::internal)
    };
    let (mut tables, mut heading) = (String::new(), "");
    for setting in SETTINGS {
        let Some(value) = rest.remove(setting.name) else {
            continue;
        };
        if heading != setting.heading {
            heading = setting.heading;
            tables += &format!("\n[{}]\n", setting.table());
        }
        tables += &line(setting.name, value)?;
    }
    // Keys outside tables come first, other tables last.
    let (last, first): (toml::Table, toml::Table) = rest.into_iter().partition(|(_, value)| value.is_table());
    let [first, last] = [first, last].map(|t| toml::to_string(&t).map_err(Error::internal));
    Ok(format!("{}{tables}\n{}", first?, last?).trim().to_string() + "\n")
}

/// The default of a setting, as printed: the text, or else the expression.
macro_rules! printed {
    ($value:expr, $text:literal) => {
        $text
    };
    ($value:expr) => {
        stringify!($value)
    };
}

/// The one default that an entry has for a command.
pub(super) const fn one(texts: &[&'static str]) -> Option<&'static str> {
    match texts {
        [text, ..] => Some(text),
        [] => None,
    }
}

/// Makes the list `SETTINGS`, and the settings of every command ([`command!`]).
macro_rules! settings {
    ($given:ident; $($heading:literal { $(
        $name:ident: $ty:ty, $help:literal, $rules:expr
            $(, train = $t:expr $(=> $tt:literal)?)? $(, train open $to:literal)?
            $(, supervised = $s:expr $(=> $st:literal)?)? $(, supervised open $so:literal)?
            $(, both = $b:expr $(=> $bt:literal)?)? $(, both open $bo:literal)?
    ;)* })*) => {
        /// Every setting, by heading.
        pub static SETTINGS: &[Setting] = &[$($(
            $rules.entry(
                ($heading, stringify!($name), $help),
                one(&[$(printed!($t $(, $tt)?),)? $($to,)? $(printed!($b $(, $bt)?),)? $($bo,)?]),
                one(&[$(printed!($s $(, $st)?),)? $($so,)? $(printed!($b $(, $bt)?),)? $($bo,)?]),
            ),
        )*)*];

        command! {
            /// Settings of `train` and `plan` that may be left open: flags, and keys of settings files.
            TrainFlags, $given
            /// Resolved settings of a `train` run.
            TrainConfig, train
            /// What `--prompts` stood for in the run that wrote this; holds as long as `--prompts` says the same.
            prompt_set: DataSet;
            $($(
                $($name: $ty => $ty = filled(&$given.$name, || $t), $help;)?
                $($name: $ty => Option<$ty> = $given.$name.clone(), $to;)?
                $($name: $ty => $ty = filled(&$given.$name, || $b), $help;)?
                $($name: $ty => Option<$ty> = $given.$name.clone(), $bo;)?
            )*)*
        }

        command! {
            /// Settings of `sft` and `reward` that may be left open: flags, and keys of settings files.
            SupervisedFlags, $given
            /// Resolved settings of an `sft` or `reward` run.
            SupervisedConfig, supervised
            /// What `--data` stood for in the run that wrote this; holds as long as `--data` says the same.
            data_set: DataSet;
            $($(
                $($name: $ty => $ty = filled(&$given.$name, || $s), $help;)?
                $($name: $ty => Option<$ty> = $given.$name.clone(), $so;)?
                $($name: $ty => $ty = filled(&$given.$name, || $b), $help;)?
                $($name: $ty => Option<$ty> = $given.$name.clone(), $bo;)?
            )*)*
        }
    };
}

/// A setting's value, or its default.
pub(super) fn filled<T: Clone>(given: &Option<T>, default: impl FnOnce() -> T) -> T {
    given.clone().unwrap_or_else(default)
}

/// Makes the settings of a command: those that are given, and the resolved ones.
macro_rules! command {
    (
        #[doc = $flags_doc:literal] $flags:ident, $given:ident
        #[doc = $config_doc:literal] $config:ident, $column:ident
        #[doc = $set_doc:literal] $set:ident: $set_ty:ty;
        $($name:ident: $ty:ty => $resolved:ty = $value:expr, $text:literal;)*
    ) => {
        #[doc = $flags_doc]
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[allow(missing_docs, reason = "SETTINGS says what each is")]
        pub struct $flags {
            $(pub $name: Option<$ty>,)*
            /// Where the run that wrote these settings was started: relative paths in them are meant from there.
            pub directory: Option<PathBuf>,
            #[doc = $set_doc]
            pub $set: Option<$set_ty>,
        }

        #[doc = $config_doc]
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        #[allow(missing_docs, reason = "SETTINGS says what each is")]
        pub struct $config {
            $(pub $name: $resolved,)*
            pub directory: Option<PathBuf>,
            pub $set: Option<$set_ty>,
        }

        impl super::Given for $flags {
            type Config = $config;

            fn filled(self) -> $config {
                let $given = &self;
                $config {
                    $($name: $value,)*
                    directory: self.directory.clone(),
                    $set: self.$set.clone(),
                }
            }
        }

        impl $config {
            /// Writes the settings as TOML.
            ///
            /// # Errors
            /// Never for a valid configuration.
            pub fn to_toml(&self) -> crate::error::Result<String> {
                super::setting::to_toml(self)
            }
        }

        impl clap::Args for $flags {
            fn augment_args(mut command: clap::Command) -> clap::Command {
                $(if let Some(setting) = Setting::of(stringify!($name)) {
                    command = command.arg(setting.arg(clap::value_parser!($ty).into(), setting.$column));
                })*
                command
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        impl clap::FromArgMatches for $flags {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self {
                    $($name: matches.get_one::<$ty>(stringify!($name)).cloned(),)*
                    ..Self::default()
                })
            }

            fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

pub(super) use {command, printed, settings};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{SupervisedFlags, TrainFlags};
    use serde_json::Value;

    /// What a setting may be: a range, or its words with what they mean.
    fn values(setting: &Setting) -> String {
        if let Some(range) = setting.range {
            return range.words();
        }
        let command = clap::Command::new("settings");
        let command = match setting.train {
            Some(_) => <TrainFlags as clap::Args>::augment_args(command),
            None => <SupervisedFlags as clap::Args>::augment_args(command),
        };
        let arg = command.get_arguments().find(|arg| arg.get_id() == setting.name);
        let arg = arg.unwrap_or_else(|| panic!("{} is no flag", setting.name));
        if arg.get_num_args().is_some_and(|n| n.max_values() == 0) {
            return "true or false".into();
        }
        let words = arg.get_possible_values();
        let words: Vec<String> = words
            .iter()
            .map(|v| match v.get_help() {
                Some(help) => format!("`{}`: {}", v.get_name(), help.to_string().trim_end_matches('.')),
                None => format!("`{}`", v.get_name()),
            })
            .collect();
        words.join("; ")
    }

    /// `docs/reference/settings.md` as the list makes it.
    fn page() -> String {
        let mut out = String::from(
            "# Settings\n\n\
             The settings of `train` and `plan` (T), and of `sft` and `reward` (S). A flag has hyphens:\n\
             `save_steps` is `--save-steps`. In a settings file (`--config`) a key stands in its table. Keys\n\
             outside tables are read too. Flags win over the file. *tiny* is the embedded policy.\n\n\
             A resumed run keeps its settings unless others are given. *kept* settings cannot change: the run\n\
             would be another. *scored* ones cannot change where a best checkpoint was selected.\n\n\
             This page is made from `src/config/list.rs`. `TEA_WRITE_DOCS=1 cargo test --lib config::setting`\n\
             writes it, and a test compares.\n",
        );
        let mut heading = "";
        for setting in SETTINGS {
            if heading != setting.heading {
                heading = setting.heading;
                out += &format!(
                    "\n## {heading}\n\nTable `[{}]`.\n\n| key | | default | values | at `--resume` | what it is |\n\
                     |---|---|---|---|---|---|\n",
                    setting.table()
                );
            }
            let (commands, default) = match (setting.train, setting.supervised) {
                (Some(train), None) => ("T", train.to_string()),
                (None, Some(supervised)) => ("S", supervised.to_string()),
                (Some(train), Some(supervised)) if train == supervised => ("T S", train.to_string()),
                (Some(train), Some(supervised)) => {
                    let or_none = |text: &str| {
                        if text.is_empty() {
                            "none".into()
                        } else {
                            text.to_string()
                        }
                    };
                    (
                        "T S",
                        format!("T: {}; S: {}", or_none(train), or_none(supervised)),
                    )
                }
                (None, None) => panic!("{}: no command has it", setting.name),
            };
            let resume = match setting.resume {
                Resume::Free => "",
                Resume::Same(_) => "kept",
                Resume::Scored => "scored",
            };
            let details = match setting.details {
                "" => String::new(),
                details => format!(". {details}"),
            };
            let row = format!(
                "| `{}` | {commands} | {default} | {} | {resume} | {}{details} |\n",
                setting.name,
                values(setting),
                setting.help,
            );
            out += &row;
        }
        out
    }

    #[test]
    fn the_page_of_settings_is_this_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/settings.md");
        if std::env::var_os("TEA_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == page(),
            "{path} is old: TEA_WRITE_DOCS=1 cargo test --lib config::setting"
        );
    }

    #[test]
    fn printed_defaults_are_those_that_are_taken() {
        let train = TrainFlags {
            model: Some("m".into()),
            ..Default::default()
        };
        let train = serde_json::to_value(train.filled()).unwrap();
        let supervised = serde_json::to_value(SupervisedFlags::default().filled()).unwrap();
        let mut compared = 0;
        for setting in SETTINGS {
            for (printed, value) in [
                (setting.train, &train[setting.name]),
                (setting.supervised, &supervised[setting.name]),
            ] {
                // A text of several words says what no value says.
                let first = printed
                    .unwrap_or_default()
                    .split([',', ';'])
                    .next()
                    .unwrap_or_default();
                if first.is_empty() || first.contains(' ') || value.is_null() {
                    continue;
                }
                compared += 1;
                let same = match value {
                    Value::Number(number) => first.parse().ok() == number.as_f64(),
                    Value::String(text) => first == text,
                    other => panic!("{}: {other}", setting.name),
                };
                assert!(same, "{}: {first} is printed, {value} is taken", setting.name);
            }
        }
        assert!(compared > 50, "{compared}");
    }

    #[test]
    fn help_fits_a_line_and_names_stand_once() {
        let mut names: Vec<&str> = SETTINGS
            .iter()
            .flat_map(|s| [Some(s.name), s.alias])
            .flatten()
            .collect();
        for setting in SETTINGS {
            let length = setting.help.chars().count();
            assert!(length <= 80, "{}: {length} columns", setting.name);
            assert!(
                !names.contains(&&*setting.table()),
                "[{}] is a setting too",
                setting.table()
            );
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
    }

    #[test]
    fn resolved_settings_are_written_in_tables() {
        let config = TrainFlags {
            directory: Some("/somewhere".into()),
            ..Default::default()
        };
        let text = config.filled().to_toml().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            ["directory = \"/somewhere\"", "", "[inputs]", "model = \"tiny\""]
        );
        let at = |line: &str| lines.iter().position(|l| *l == line);
        assert!(
            at("[training]") < at("steps = 60") && at("steps = 60") < at("[validation]"),
            "{text}"
        );
    }
}
