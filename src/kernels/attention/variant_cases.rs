//! Cases of the variants: those of the portable kernels where a tile, an edge or a class of heads differs. Few pipelines, which take
//! software drivers long to make.

use super::super::harness::{Case, Gen};
use super::cases::{DECODES, Part, SPECS, Spec, backward_case, decode, forward_case, pack, paged_case};
use super::subgroup::{self, SUBGROUP};
use super::tiled::TILED;
use crate::config::FloatDtype;

/// The variant that a function's constant stands for, what its kernels' names end in, and its widest heads.
const VARIANTS: [(&str, &str, usize); 2] = [(TILED, "tiled", 256), (SUBGROUP, "subgroup", subgroup::WIDEST)];

const NAMES: [&str; 7] = [
    "one token",
    "packed",
    "two groups",
    "large logits",
    "wide heads",
    "wide heads 100",
    "widest heads",
];

fn specs(variant: usize) -> impl Iterator<Item = &'static Spec> {
    let widest = VARIANTS[variant].2;
    SPECS
        .iter()
        .filter(move |s| NAMES.contains(&s.name) && s.heads.2 <= widest)
}

/// By the variant's kernel, with its name.
fn named(case: Case, op: &str, variant: usize) -> Case {
    let (forced, suffix, _) = VARIANTS[variant];
    let renamed = case.name.replace(op, &format!("{op}_{suffix}"));
    Case {
        name: renamed,
        ..case
    }
    .forced(forced)
}

pub(super) fn forward<const VARIANT: usize>() -> Vec<Case> {
    let packed = specs(VARIANT).map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        forward_case(s.name.into(), meta, rows, s.heads, s.scale).1
    });
    let decoded = DECODES
        .iter()
        .filter(|(_, _, heads)| heads.2 <= VARIANTS[VARIANT].2);
    let all = packed.chain(decoded.map(|(m, rows, heads)| {
        let meta = decode(*m, *rows, &mut Gen::new((m + rows).into()));
        forward_case(format!("decode {m} rows"), meta, *rows as usize, *heads, 1.0).1
    }));
    all.map(|case| named(case, "attention_forward", VARIANT))
        .collect()
}

pub(super) fn forward_paged<const VARIANT: usize>() -> Vec<Case> {
    paged(VARIANT, FloatDtype::Float32)
}

pub(super) fn forward_paged_f16<const VARIANT: usize>() -> Vec<Case> {
    paged(VARIANT, FloatDtype::Float16)
}

fn paged(variant: usize, dtype: FloatDtype) -> Vec<Case> {
    let few = specs(variant).filter(|s| s.name.starts_with("wide") || s.name == "two groups");
    let cases = few.map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        let case = paged_case(s.name, (meta, rows), s.heads, s.scale, dtype);
        named(case, "attention_forward_paged", variant)
    });
    cases.collect()
}

pub(super) fn query_gradient<const VARIANT: usize>() -> Vec<Case> {
    gradients(VARIANT, "query_gradient", &[9], 6.0, super::query_gradient)
}

pub(super) fn key_gradient<const VARIANT: usize>() -> Vec<Case> {
    gradients(VARIANT, "key_gradient", &[10], 6.0, super::key_gradient)
}

pub(super) fn value_gradient<const VARIANT: usize>() -> Vec<Case> {
    gradients(VARIANT, "value_gradient", &[11], 4.0, super::value_gradient)
}

fn gradients(variant: usize, name: &str, outputs: &[usize], flops: f64, part: Part) -> Vec<Case> {
    let (forced, suffix, _) = VARIANTS[variant];
    let name = format!("{name}_{suffix}");
    let cases = specs(variant).map(|s| backward_case(s, &name, outputs, flops, part));
    cases.map(|case| case.forced(forced)).collect()
}
