//! What rules refuse, their defaults, and their names in files and flags.

use clap::ValueEnum;

use super::super::*;
use super::{draw, fit, flags};

#[test]
fn bad_input_is_a_user_error_that_says_where() {
    for rule in Rule::ALL {
        for rewards in [&[][..], &[1.0][..]] {
            let error = rule.advantages(rewards).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("at least 2"), "{error}");
        }
        let mut rewards = fit(rule, draw(1, 12));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            rewards[2] = bad;
            let error = rule.advantages(&rewards).unwrap_err();
            assert!(error.to_string().contains("sample 2"), "{error}");
        }
        (rewards[2], rewards[3]) = (1e308, -1e308);
        let error = rule.advantages(&rewards).unwrap_err().to_string();
        assert!(error.contains("overflows"), "{error}");
    }
}

#[test]
fn settings_that_do_not_fit_name_their_flag() {
    type Set = fn(&mut RuleOptions);
    let cases: [(&str, Set, &[&str]); 14] = [
        ("tea", |o| o.bon = Some(4), &["N = 4", "--bon"]),
        ("tea", |o| o.min_scale = Some(0.0), &["--min-scale"]),
        ("prefix-tea", |o| o.bon = Some(4), &["N = 4", "--bon"]),
        (
            "prefix-tea",
            |o| o.prefix_order = Some(0),
            &["--prefix-order is 0"],
        ),
        (
            "prefix-tea",
            |o| o.prefix_order = Some(3),
            &["--prefixes is 2", "--prefix-order 3"],
        ),
        (
            "prefix-tea",
            |o| o.prefixes = Some(13),
            &["group of 64", "at least 66 "],
        ),
        (
            "prefix-tea",
            |o| o.prefixes = Some(usize::MAX),
            &["group of 64", "at least "],
        ),
        (
            "bon-mean",
            |o| o.max_at_k = Some(0),
            &["--max-at-k is 0", "1 to 64"],
        ),
        (
            "bon-mean",
            |o| o.max_at_k = Some(65),
            &["--max-at-k is 65", "1 to 64"],
        ),
        ("pkpo", |o| o.max_at_k = Some(1), &["--max-at-k is 1", "2 to 64"]),
        (
            "chow",
            |o| o.selection_size = Some(0),
            &["--selection-size is 0", "1 to 63"],
        ),
        (
            "chow",
            |o| o.selection_size = Some(64),
            &["--selection-size is 64", "1 to 63"],
        ),
        ("cat-bon", |o| o.bon = Some(0), &["--bon is 0"]),
        ("oracle", |o| o.bon = Some(0), &["--bon is 0"]),
    ];
    for (name, set, parts) in cases {
        let rule = Rule::from_str(name, false).unwrap();
        rule.validate(64).unwrap();
        let error = rule.with(&flags(set)).validate(64).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in parts {
            assert!(
                error.to_string().contains(part),
                "{name}: {part:?} is not in: {error}"
            );
        }
    }
    for rule in [
        Rule::GrpoZ(GrpoZParams { epsilon: -1.0 }),
        Rule::BonMean(BonMeanParams {
            epsilon: f64::NAN,
            ..BonMeanParams::DEFAULT
        }),
        Rule::CatBon(CatBonParams {
            epsilon: f64::INFINITY,
            ..CatBonParams::DEFAULT
        }),
    ] {
        assert!(rule.validate(64).unwrap_err().to_string().contains("epsilon"));
    }
    let chow = |selection: &[usize], size| {
        let context = GroupContext {
            selection: Some(selection),
            ..GroupContext::default()
        };
        let rule = Rule::Chow(ChowParams { selection_size: size });
        rule.group_with(&[1.0, 2.0, 3.0], &context)
            .unwrap_err()
            .to_string()
    };
    for (selection, size, part) in [
        (&[0, 3][..], None, "index 3"),
        (&[1, 1][..], None, "index 1 twice"),
        (&[][..], None, "0 of 3"),
        (&[2, 0, 1][..], None, "3 of 3"),
        (&[2, 0][..], Some(1), "--selection-size is 1"),
    ] {
        let message = chow(selection, size);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn small_groups_have_defaults_that_fit() {
    for rule in Rule::ALL.iter().filter(|r| !matches!(r, Rule::PrefixTea(_))) {
        let least = if matches!(rule, Rule::Entropic(_)) { 3 } else { 2 };
        for m in least..6 {
            let group = rule.group(&fit(rule, draw(m as u64, m))).unwrap();
            assert_eq!(group.advantages.len(), m, "{rule}");
        }
    }
    assert!(Rule::PrefixTea(PrefixTeaParams::DEFAULT).validate(10).is_err());
    Rule::PrefixTea(PrefixTeaParams::DEFAULT).validate(11).unwrap();
}

#[test]
fn the_table_of_methods_has_every_rule() {
    let methods = include_str!("../../../docs/methods.md");
    for rule in Rule::ALL {
        let flag = if rule.trains() {
            "train --advantage"
        } else {
            "advantage --rule"
        };
        let command = format!("`{flag} {rule}");
        let rows = methods.lines().filter(|line| {
            let rest = line.split(&command).nth(1);
            line.starts_with('|') && rest.is_some_and(|rest| rest.starts_with(['`', ' ']))
        });
        assert_eq!(rows.count(), 1, "{command} is not one row of docs/methods.md");
    }
}

#[test]
fn names_round_trip_through_clap_and_serde() {
    let mut names = std::collections::BTreeSet::new();
    for rule in Rule::ALL {
        assert!(names.insert(rule.name()));
        assert_eq!(Rule::from_str(rule.name(), false).unwrap(), *rule);
        let json = serde_json::to_value(rule).unwrap();
        assert_eq!(json["rule"], rule.name());
        assert_eq!(serde_json::from_value::<Rule>(json).unwrap(), *rule);
    }
    let rule: Rule = toml::from_str("rule = \"tea\"\nalpha = \"1/3\"\nbon = 256").unwrap();
    assert_eq!(
        rule,
        Rule::Tea(TeaParams {
            alpha: "1/3".parse().unwrap(),
            bon: 256,
            min_scale: 1e-8
        })
    );
    let rule: Rule = toml::from_str("rule = \"prefix-tea\"\nprefixes = 3").unwrap();
    assert_eq!(
        rule,
        Rule::PrefixTea(PrefixTeaParams {
            prefixes: 3,
            ..PrefixTeaParams::DEFAULT
        })
    );
    assert_eq!(
        serde_json::to_string(&Rule::Pkpo(PkpoParams::DEFAULT)).unwrap(),
        r#"{"rule":"pkpo"}"#
    );
    assert!(toml::from_str::<Rule>("rule = \"cat-bon\"\nmax_at_k = 3").is_err());
    let untrainable: Vec<&str> = Rule::ALL.iter().filter(|r| !r.trains()).map(Rule::name).collect();
    assert_eq!(untrainable, ["oracle"]);
}
