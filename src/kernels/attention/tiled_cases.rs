//! Cases of the tiled kernels: those of the portable ones where a tile, an edge or a class of heads differs. Few pipelines, which take
//! software drivers long to make.

use super::super::harness::{Case, Gen};
use super::cases::{DECODES, Part, SPECS, Spec, backward_case, decode, forward_case, pack, paged_case};
use super::tiled::TILED;
use crate::config::FloatDtype;

const NAMES: [&str; 7] = [
    "one token",
    "packed",
    "two groups",
    "large logits",
    "wide heads",
    "wide heads 100",
    "widest heads",
];

fn specs() -> impl Iterator<Item = &'static Spec> {
    SPECS.iter().filter(|s| NAMES.contains(&s.name))
}

/// By the tiled kernel, with its name.
fn tiled(case: Case, op: &str, name: &str) -> Case {
    let named = case.name.replace(op, name);
    Case { name: named, ..case }.forced(TILED)
}

pub(super) fn forward() -> Vec<Case> {
    let packed = specs().map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        forward_case(s.name.into(), meta, rows, s.heads, s.scale).1
    });
    let all = packed.chain(DECODES.iter().map(|(m, rows, heads)| {
        let meta = decode(*m, *rows, &mut Gen::new((m + rows).into()));
        forward_case(format!("decode {m} rows"), meta, *rows as usize, *heads, 1.0).1
    }));
    all.map(|case| tiled(case, "attention_forward", "attention_forward_tiled"))
        .collect()
}

pub(super) fn forward_paged() -> Vec<Case> {
    paged(FloatDtype::Float32)
}

pub(super) fn forward_paged_f16() -> Vec<Case> {
    paged(FloatDtype::Float16)
}

fn paged(dtype: FloatDtype) -> Vec<Case> {
    let few = specs().filter(|s| s.name.starts_with("wide") || s.name == "two groups");
    let cases = few.map(|s| {
        let meta = pack(s.groups).0;
        let rows = meta.len();
        let case = paged_case(s.name, (meta, rows), s.heads, s.scale, dtype);
        tiled(case, "attention_forward_paged", "attention_forward_tiled_paged")
    });
    cases.collect()
}

pub(super) fn query_gradient() -> Vec<Case> {
    gradients("query_gradient_tiled", 9, 6.0, super::query_gradient)
}

pub(super) fn key_gradient() -> Vec<Case> {
    gradients("key_gradient_tiled", 10, 6.0, super::key_gradient)
}

pub(super) fn value_gradient() -> Vec<Case> {
    gradients("value_gradient_tiled", 11, 4.0, super::value_gradient)
}

fn gradients(name: &str, slot: usize, flops: f64, part: Part) -> Vec<Case> {
    let cases = specs().map(|s| backward_case(s, name, slot, flops, part));
    cases.map(|case| case.forced(TILED)).collect()
}
