//! Gives every numeric flag its range: the list is [`crate::config::range`].

use std::any::TypeId;

use clap::{Arg, Command};

use crate::config::range::{self, Range};

/// Flags of numbers with a form of their own (sizes in bytes), which their own parsers bound.
const OWN_FORM: [&str; 1] = ["activation_memory"];

/// The command, with the range of every numeric flag of it and of its subcommands.
pub(super) fn bounded(command: Command) -> Command {
    below(command, &[])
}

fn below(mut command: Command, path: &[&str]) -> Command {
    let flags: Vec<_> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().clone(), range_of(arg, path)?)))
        .collect();
    for (id, (number, range)) in flags {
        command = command.mut_arg(id, |arg| number.parser(arg, range).allow_negative_numbers(true));
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_string())
        .collect();
    for name in names {
        let path: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
        command = command.mut_subcommand(&name, |sub| below(sub, &path));
    }
    command
}

/// The type of a numeric flag, and its range.
fn range_of(arg: &Arg, path: &[&str]) -> Option<(Number, &'static Range)> {
    let number = Number::of(arg)?;
    Some((number, range::of(path, arg.get_id().as_str())?))
}

/// A numeric type of flags.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    U16,
    U32,
    U64,
    Usize,
    F32,
    F64,
}

impl Number {
    /// The type of a flag's values, where that is a number. A count of occurrences (`-vv`) takes no value.
    fn of(arg: &Arg) -> Option<Self> {
        let types = [
            (TypeId::of::<u16>(), Self::U16),
            (TypeId::of::<u32>(), Self::U32),
            (TypeId::of::<u64>(), Self::U64),
            (TypeId::of::<usize>(), Self::Usize),
            (TypeId::of::<f32>(), Self::F32),
            (TypeId::of::<f64>(), Self::F64),
        ];
        let own = OWN_FORM.contains(&arg.get_id().as_str());
        let found = types
            .into_iter()
            .find(|(id, _)| arg.get_value_parser().type_id() == *id);
        found
            .map(|(_, number)| number)
            .filter(|_| arg.get_action().takes_values() && !own)
    }

    /// The flag with a parser of this type that keeps to the range.
    fn parser(self, arg: Arg, range: &'static Range) -> Arg {
        /// A whole number in a type that may be too small for it; no range is wider than its flag's type.
        fn narrow<T: TryFrom<u64>>(range: &Range, text: &str) -> Result<T, String> {
            let n = range.read_whole(text)?;
            T::try_from(n).map_err(|_| format!("{n} is too large"))
        }
        match self {
            Self::U16 => arg.value_parser(move |text: &str| narrow::<u16>(range, text)),
            Self::U32 => arg.value_parser(move |text: &str| narrow::<u32>(range, text)),
            Self::U64 => arg.value_parser(move |text: &str| narrow::<u64>(range, text)),
            Self::Usize => arg.value_parser(move |text: &str| narrow::<usize>(range, text)),
            Self::F32 => arg.value_parser(move |text: &str| range.read_real(text).map(|n| n as f32)),
            Self::F64 => arg.value_parser(move |text: &str| range.read_real(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    /// A numeric flag: the words of its command, and its own.
    struct Flag {
        path: Vec<String>,
        name: String,
        word: String,
        number: Number,
    }

    /// Every numeric flag of every subcommand.
    fn flags(command: &Command, path: &[String]) -> Vec<Flag> {
        let flag = |arg: &Arg| {
            let number = Number::of(arg)?;
            let word = match (arg.get_long(), arg.get_short()) {
                (Some(long), _) => format!("--{long}"),
                (None, short) => format!("-{}", short.unwrap()),
            };
            Some(Flag {
                path: path.to_vec(),
                name: arg.get_id().to_string(),
                word,
                number,
            })
        };
        let mut all: Vec<Flag> = command.get_arguments().filter_map(flag).collect();
        for sub in command.get_subcommands() {
            let path: Vec<String> = path.iter().cloned().chain([sub.get_name().to_string()]).collect();
            all.extend(flags(sub, &path));
        }
        all
    }

    impl Flag {
        fn range(&self) -> &'static Range {
            let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
            let found = range::of(&path, &self.name);
            found.unwrap_or_else(|| panic!("{} {}: no range in config::range", path.join(" "), self.word))
        }

        /// What the command line says to a value; `None` where it has nothing against it.
        fn refused(&self, program: &mut Command, value: &str) -> Option<String> {
            let mut words = vec!["tea-wgpu".to_string()];
            words.extend(self.path.iter().cloned());
            match self.word.starts_with("--") {
                true => words.push(format!("{}={value}", self.word)),
                false => words.extend([self.word.clone(), value.to_string()]),
            }
            let error = program.try_get_matches_from_mut(words).err()?;
            // A value is read before what is missing is told.
            let values = [ErrorKind::ValueValidation, ErrorKind::InvalidValue];
            values.contains(&error.kind()).then(|| {
                assert_eq!(error.exit_code(), 2);
                error.to_string()
            })
        }
    }

    const WHOLE: [&str; 13] = [
        "-1",
        "0",
        "1",
        "2147483648",
        "4294967295",
        "4294967296",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1.5",
        "",
    ];
    const REAL: [&str; 9] = [
        "-1", "0", "1e-300", "1e300", "1e308", "1e999", "nan", "inf", "-inf",
    ];

    #[test]
    fn every_number_of_the_command_line_has_a_range_that_is_kept() {
        let all = flags(&Cli::command(), &[]);
        let mut program = bounded(Cli::command());
        assert!(all.len() > 150, "{}", all.len());
        for flag in &all {
            let range = flag.range();
            let whole = !matches!(flag.number, Number::F32 | Number::F64);
            assert_eq!(range.is_whole(), whole, "{}", flag.word);
            for value in if whole { &WHOLE[..] } else { &REAL[..] } {
                let fits = match whole {
                    true => range.read_whole(value).is_ok(),
                    false => range.read_real(value).is_ok(),
                };
                let place = format!("{} {}={value}", flag.path.join(" "), flag.word);
                match flag.refused(&mut program, value) {
                    Some(said) => {
                        assert!(!fits, "{place}: {said}");
                        assert!(
                            said.contains(&flag.word) && said.contains("must be"),
                            "{place}: {said}"
                        );
                    }
                    None => assert!(fits, "{place}: nothing is said"),
                }
            }
            // No number is without an end, and no whole one reaches where TOML cannot follow.
            for value in ["9223372036854775808", "nan", "inf", "-1", "1e308"] {
                let may = !whole && value.starts_with('9');
                let refused = flag.refused(&mut program, value).is_some();
                assert!(refused || may, "{} takes {value}", flag.word);
            }
        }
    }

    #[test]
    fn every_range_is_some_flags() {
        let all = flags(&Cli::command(), &[]);
        let used: Vec<&str> = all.iter().map(|flag| flag.range().name).collect();
        for range in range::all() {
            assert!(used.contains(&range.name), "{} is no flag's", range.name);
        }
        let mut names: Vec<&str> = range::all().map(|range| range.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
    }

    #[test]
    fn a_value_is_named_with_its_flag_its_range_and_the_reason() {
        let read = |line: &str| {
            Cli::read(line.split(' ').map(Into::into))
                .unwrap_err()
                .to_string()
        };
        let said = read("tea-wgpu train --output x --num-generations 4294967296");
        for part in [
            "4294967296",
            "--num-generations <M>",
            "from 2 to 4096",
            "workgroup",
        ] {
            assert!(said.contains(part), "{said}");
        }
        // A negative number is a value, not another flag.
        let said = read("tea-wgpu generate --model tiny --prompt a -n -3");
        assert!(
            said.contains("'-3' for '-n <N>'") && said.contains("from 1 to"),
            "{said}"
        );
        let said = read("tea-wgpu judge a b --endpoint e --model m --timeout inf");
        assert!(
            said.contains("--timeout <SECONDS>") && said.contains("from 0 to 86400"),
            "{said}"
        );
        let said = read("tea-wgpu eval --output x --temperature 1e-300");
        assert!(said.contains("0, or a number from 1e-4"), "{said}");
    }
}
