//! Names the advantage rules in the help of `--advantage`: the list is the registry, [`Rule::ALL`].

use clap::Command;
use clap::builder::PossibleValuesParser;

use crate::advantage::Rule;

/// The command, whose subcommands with `--advantage` take and explain the rules of training.
pub(super) fn listed(mut command: Command) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_string())
        .collect();
    for name in names {
        command = command.mut_subcommand(&name, listed);
    }
    if command.get_arguments().all(|arg| arg.get_id() != "advantage") {
        return command;
    }
    let rules = || Rule::ALL.iter().filter(|rule| rule.trains());
    let names: Vec<&str> = rules().map(Rule::name).collect();
    let explained: String = rules()
        .map(|rule| format!("\n  - {rule}: {}", rule.summary()))
        .collect();
    let examples = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    command
        .after_help(format!("{examples}\n\nRules of --advantage:{explained}"))
        .mut_arg("advantage", |arg| {
            arg.value_name("RULE")
                .ignore_case(true)
                .value_parser(PossibleValuesParser::new(names))
                .hide_possible_values(true)
        })
}
