//! Cases of the gradients on cooperative matrices: the twin takes what the kernels round their operands to.

use super::super::harness::{Case, Gen, Slot, Tol, wide};
use super::super::linear_half::{half, half_rows};
use super::cases::{Part, SPECS, Spec, args, pack, shape};
use super::coop::{COOP_8, COOP_16};
use super::twin;

const NAMES: [&str; 6] = [
    "one token",
    "130",
    "packed",
    "two groups",
    "wide heads",
    "wide heads 100",
];

pub(super) fn query_gradient<const KIND: usize>() -> Vec<Case> {
    gradients(KIND, "query_gradient", 9, 6.0, super::query_gradient)
}

pub(super) fn key_gradient<const KIND: usize>() -> Vec<Case> {
    gradients(KIND, "key_gradient", 10, 6.0, super::key_gradient)
}

pub(super) fn value_gradient<const KIND: usize>() -> Vec<Case> {
    gradients(KIND, "value_gradient", 11, 4.0, super::value_gradient)
}

fn gradients(kind: usize, name: &str, slot: usize, flops: f64, part: Part) -> Vec<Case> {
    let specs = SPECS.iter().filter(|s| NAMES.contains(&s.name));
    let variant = [COOP_8, COOP_16][kind];
    let name = format!("{name}_{}", variant.replace('-', "_"));
    let cases = specs.map(|s| gradient(s, &name, slot, flops, part));
    cases.map(|case| case.forced(variant)).collect()
}

/// What a row's gradient is multiplied by: as small as gradients get, and far from its neighbours'.
fn size(row: usize) -> f32 {
    [1e-6, 3e-9, 2e-4][row % 3]
}

fn gradient(spec: &'static Spec, name: &str, slot: usize, flops: f64, part: Part) -> Case {
    let (meta, ends) = pack(spec.groups);
    let s = shape(meta.len(), spec.heads);
    let mut g = Gen::new((s.m * 17 + s.head_dim) as u64);
    let (nq, nkv) = (s.m * s.heads * s.head_dim, s.m * s.kv_heads * s.head_dim);
    let (q, k, v) = (
        g.uniform(nq, spec.scale),
        g.uniform(nkv, 2.0),
        g.uniform(nkv, 1.0),
    );
    let dout: Vec<f32> = g.uniform(nq, 1.0);
    let dout: Vec<f32> = (0..nq).map(|i| dout[i] * size(i / s.head_dim)).collect();
    let [qr, kr, vr] = [&q, &k, &v].map(|x| half(wide(x), true));
    let doutr = half_rows(wide(&dout), s.head_dim, true);
    let (_, lse) = twin::forward(&qr, &kr, &vr, &meta, s);
    let r = twin::backward(&qr, &kr, &vr, &doutr, &meta, s);
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let slots = vec![
        Slot::input(&q),
        Slot::input(&k),
        Slot::input(&v),
        Slot::input(&[0f32; 4]), // out: not read by these parts
        Slot::input(&narrow(&lse)),
        Slot::input(&dout),
        Slot::input(&meta),
        Slot::input(&ends),
        Slot::input(&narrow(&r.delta)),
        Slot::Out(nq),
        Slot::Out(nkv),
        Slot::Out(nkv),
    ];
    let keys: f64 = meta.iter().map(|t| f64::from(t[3] + 1)).sum();
    let want = match slot {
        9 => r.dq,
        10 => r.dk,
        _ => r.dv,
    };
    Case {
        name: format!(
            "attention_{name} {} h{} kv{} d{}",
            spec.name, s.heads, s.kv_heads, s.head_dim
        ),
        slots,
        record: Box::new(move |rec, b| part(rec, &args(b), s)),
        expect: Box::new(move || {
            let tol = Tol::of_peak(
                &want,
                1e-3,
                "a probability's, or its gradient's, rounding to f16: 2⁻¹¹ of it at most, half that on average",
            );
            vec![(slot, want.clone(), tol)]
        }),
        flops: flops * keys * (s.heads * s.head_dim) as f64,
    }
}
