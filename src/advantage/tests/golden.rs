//! Every rule against the float64 reference's cases.

use serde_json::Value;

use super::super::*;
use clap::ValueEnum;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/advantages.json")).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The rule of a case, with its settings.
pub(crate) fn rule_of(case: &Value) -> Rule {
    let name = case["rule"].as_str().unwrap();
    let params = &case["params"];
    let size = |key: &str| params[key].as_u64().map(|n| n as usize);
    Rule::from_str(name, false).unwrap().with(&RuleOptions {
        alpha: params["alpha"].as_f64().map(|a| Alpha::new(a).unwrap()),
        bon: params["n"].as_u64(),
        prefix_order: size("order"),
        prefixes: size("prefixes"),
        max_at_k: size("k"),
        risk_beta: params["beta"].as_f64(),
        quantile: params["quantile"].as_f64(),
        max_advantage: params["max_advantage"].as_f64(),
        ..RuleOptions::default()
    })
}

/// The cases of every rule but TEA-GPD, which has a file of its own.
pub(crate) fn cases() -> Vec<Value> {
    let more: Value = serde_json::from_str(include_str!("../../../tests/golden/more_rules.json")).unwrap();
    let of = |file: &Value| file["cases"].as_array().unwrap().clone();
    [of(&golden()), of(&more)].concat()
}

/// Chow's selection set of a case.
pub(crate) fn selection_of(case: &Value) -> Option<Vec<usize>> {
    let selection = case["params"].get("selection")?;
    serde_json::from_value(selection.clone()).ok()
}

#[test]
fn tables_of_kappa_expected_maxima_and_tilts() {
    let golden = golden();
    for (key, value) in golden["kappa"].as_object().unwrap() {
        let (alpha, n) = key.split_once(',').unwrap();
        let got = tail::kappa(alpha.parse().unwrap(), n.parse().unwrap()).unwrap();
        let want = value.as_f64().unwrap();
        assert!(
            (got - want).abs() < 1e-11,
            "kappa({key}) = {got}, expected {want}"
        );
    }
    for (n, value) in golden["expected_max"].as_object().unwrap() {
        let got = tail::expected_max_normal(n.parse().unwrap());
        assert!((got - value.as_f64().unwrap()).abs() < 1e-12, "c_{n} = {got}");
    }
    for (n, value) in golden["bon_tilt"].as_object().unwrap() {
        let got = chow::tilt(n.parse().unwrap());
        let want = value.as_f64().unwrap();
        assert!(
            (got - want).abs() < 1e-11 * want,
            "tilt({n}) = {got}, expected {want}"
        );
    }
}

#[test]
fn advantages_of_every_rule() {
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for case in &cases() {
        let rule = rule_of(case);
        let (rewards, want) = (numbers(&case["rewards"]), numbers(&case["advantages"]));
        if case["params"].get("error").is_some() {
            let error = rule.group(&rewards).unwrap_err();
            assert!(error.to_string().contains("too small for"), "{error}");
            continue;
        }
        let selection = selection_of(case);
        let context = GroupContext {
            selection: selection.as_deref(),
            ..GroupContext::default()
        };
        let got = rule.group_with(&rewards, &context).unwrap().advantages;
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            // Relative to the advantage's own size beyond 1: the longest sums have 512 terms near 1e2.
            assert!(
                (g - w).abs() <= 1e-9 * w.abs().max(1.0),
                "{rule} {} sample {i}: {g} vs {w}",
                case["params"]
            );
        }
        *seen.entry(rule.name()).or_default() += 1;
    }
    // TEA-GPD has a golden file of its own.
    for rule in Rule::ALL.iter().filter(|r| r.name() != "tea-gpd") {
        assert!(
            seen.get(rule.name()).copied().unwrap_or(0) >= 20,
            "{rule} has too few golden cases"
        );
    }
}
